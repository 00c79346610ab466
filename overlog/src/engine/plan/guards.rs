//! What tells at a glance that an event rule has nothing to do: `command(Op: "mkdir")`, or
//! `command(Op: O), contains(["mkdir", "create"], O)`, when the tick has no such command.

use crate::engine::plan::Guard;
use crate::ir::{Arg, Atom, BinaryOp, Expr, Program, RelId, Rule, Term, VarId};
use crate::packed;
use std::collections::BTreeMap;

/// The guards of a rule's positive events. Notes the columns that they need.
pub fn of(
    program: &Program,
    rule: &Rule,
    events: &[(usize, &Atom)],
    noted: &mut BTreeMap<RelId, Vec<usize>>,
) -> Vec<Guard> {
    let mut guards = Vec::new();
    for (_, atom) in events {
        for (column, arg) in atom.args.iter().enumerate() {
            let Some(values) = values(program, rule, arg) else {
                continue;
            };
            let list = noted.entry(atom.rel).or_default();
            let at = list.iter().position(|c| *c == column).unwrap_or(list.len());
            if at == list.len() {
                list.push(column);
            }
            guards.push(Guard {
                rel: atom.rel,
                at,
                values,
            });
        }
    }
    guards
}

fn values(program: &Program, rule: &Rule, arg: &Arg) -> Option<Vec<Vec<u8>>> {
    match arg {
        Arg::Any => None,
        Arg::Const(value) => {
            let mut bytes = Vec::new();
            packed::pack(value, &mut bytes);
            Some(vec![bytes])
        }
        Arg::Var(var) => rule.body.iter().find_map(|term| match term {
            Term::Test(test) => tested(program, test, *var),
            _ => None,
        }),
    }
}

/// The values that a condition leaves to a variable.
fn tested(program: &Program, test: &Expr, var: VarId) -> Option<Vec<Vec<u8>>> {
    let is_var = |e: &Expr| matches!(e, Expr::Var(v) if *v == var);
    match test {
        Expr::Binary(BinaryOp::Eq, a, b) => match (a.as_ref(), b.as_ref()) {
            (Expr::Const(c), e) | (e, Expr::Const(c)) if is_var(e) => {
                Some(vec![c.packed().to_vec()])
            }
            _ => None,
        },
        Expr::Call(id, args) => {
            let function = program.functions.get(id.0 as usize)?;
            match args.as_slice() {
                // The built-in one, which has a fast form.
                [Expr::Const(list), e]
                    if function.name == "contains" && function.fast.is_some() && is_var(e) =>
                {
                    packed::is_list(list.packed()).then(|| {
                        packed::list_items(list.packed())
                            .map(<[u8]>::to_vec)
                            .collect()
                    })
                }
                _ => None,
            }
        }
        _ => None,
    }
}
