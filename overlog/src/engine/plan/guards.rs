//! What tells at a glance that an event rule has nothing to do: `command(Op: "mkdir")`, or
//! `command(Op: O), contains(["mkdir", "create"], O)`, when the tick has no such command. Conditions on one
//! column are tried on the column's different values, while these are few, instead of on each row.

use crate::engine::eval::{self, Slots};
use crate::engine::plan::order::expr_vars;
use crate::functions::Function;
use crate::ir::{Arg, Atom, Expr, RelId, Rule, Term, VarId};
use crate::packed;
use std::collections::{BTreeMap, BTreeSet};

/// What a column of some row of an event must be like, or the rule does nothing.
#[derive(Clone, Debug)]
pub struct Guard {
    /// The event.
    pub rel: RelId,
    /// Which of its noted columns.
    pub at: usize,
    wanted: Wanted,
}

#[derive(Clone, Debug)]
enum Wanted {
    /// This packed value.
    Value(Vec<u8>),
    /// These hold of the variable.
    Tests(VarId, Vec<Expr>),
}

/// One variable's value.
struct One<'a>(VarId, &'a [u8]);

impl Slots for One<'_> {
    fn slot(&self, at: usize) -> &[u8] {
        if at == self.0.0 as usize { self.1 } else { &[] }
    }
}

impl Guard {
    /// False if a row with this value is none for the rule. What fails is left to the rule.
    pub fn admits(&self, value: &[u8], functions: &[Function]) -> bool {
        match &self.wanted {
            Wanted::Value(wanted) => wanted == value,
            Wanted::Tests(var, tests) => tests
                .iter()
                .all(|t| eval::test(t, &One(*var, value), functions).unwrap_or(true)),
        }
    }
}

/// The guards of a rule's positive events. Notes the columns that they need.
pub fn of(
    rule: &Rule,
    events: &[(usize, &Atom)],
    noted: &mut BTreeMap<RelId, Vec<usize>>,
) -> Vec<Guard> {
    let mut guards = Vec::new();
    for (_, atom) in events {
        for (column, arg) in atom.args.iter().enumerate() {
            let Some(wanted) = wanted(rule, arg) else {
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
                wanted,
            });
        }
    }
    guards
}

fn wanted(rule: &Rule, arg: &Arg) -> Option<Wanted> {
    match arg {
        Arg::Any => None,
        Arg::Const(value) => {
            let mut bytes = Vec::new();
            packed::pack(value, &mut bytes);
            Some(Wanted::Value(bytes))
        }
        Arg::Var(var) => {
            let tests: Vec<Expr> = rule
                .body
                .iter()
                .filter_map(|term| match term {
                    Term::Test(test) if is_about(test, *var) => Some(test.clone()),
                    _ => None,
                })
                .collect();
            (!tests.is_empty()).then_some(Wanted::Tests(*var, tests))
        }
    }
}

fn is_about(test: &Expr, var: VarId) -> bool {
    let mut vars = BTreeSet::new();
    expr_vars(test, &mut vars);
    vars == BTreeSet::from([var])
}
