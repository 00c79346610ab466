//! The order in which the terms of a body run: cheap filters first, then what finds few rows.

use crate::engine::plan::{Indexes, Operand, Range, bound_columns, operand};
use crate::ir::{Arg, Atom, BinaryOp, Expr, Program, RelKind, Term, VarId};
use std::collections::BTreeSet;

/// The positive event atoms of a body, with their places. `sys_tick` is none: it triggers nothing.
pub fn positive_events<'a>(program: &Program, body: &'a [Term]) -> Vec<(usize, &'a Atom)> {
    body.iter()
        .enumerate()
        .filter_map(|(i, t)| match t {
            Term::Atom(a) if program.relation(a.rel).is_event() => Some((i, a)),
            _ => None,
        })
        .collect()
}

/// The variables of an expression.
pub fn expr_vars(e: &Expr, out: &mut BTreeSet<VarId>) {
    match e {
        Expr::Const(_) => {}
        Expr::Var(v) => {
            out.insert(*v);
        }
        Expr::Unary(_, a) => expr_vars(a, out),
        Expr::Binary(_, a, b) | Expr::Index(a, b) => {
            expr_vars(a, out);
            expr_vars(b, out);
        }
        Expr::Cond(a, b, c) => {
            expr_vars(a, out);
            expr_vars(b, out);
            expr_vars(c, out);
        }
        Expr::List(items) | Expr::Call(_, items) => items.iter().for_each(|x| expr_vars(x, out)),
    }
}

fn ready(e: &Expr, bound: &BTreeSet<VarId>) -> bool {
    let mut vars = BTreeSet::new();
    expr_vars(e, &mut vars);
    vars.is_subset(bound)
}

/// Orders terms. An error names what can never be evaluated.
pub fn order_terms<'a>(
    program: &Program,
    indexes: &Indexes,
    terms: &[&'a Term],
    bound: &BTreeSet<VarId>,
) -> Result<Vec<&'a Term>, String> {
    let mut bound = bound.clone();
    let mut left: Vec<&'a Term> = terms.to_vec();
    let mut ordered = Vec::new();
    while !left.is_empty() {
        let best = left
            .iter()
            .enumerate()
            .filter_map(|(i, t)| Some((cost(program, indexes, t, &bound)?, i)))
            .min();
        let Some((_, at)) = best else {
            return Err("its terms cannot be ordered: some variable is never bound".to_string());
        };
        let term = left.remove(at);
        binds(term, &mut bound);
        ordered.push(term);
    }
    Ok(ordered)
}

/// Adds the variables that a term binds.
pub fn binds(term: &Term, bound: &mut BTreeSet<VarId>) {
    match term {
        Term::Atom(a) => bound.extend(a.args.iter().filter_map(|x| match x {
            Arg::Var(v) => Some(*v),
            _ => None,
        })),
        Term::Assign(v, _) => {
            bound.insert(*v);
        }
        Term::Unnest { pos, item, .. } => {
            bound.extend(pos.iter());
            bound.insert(*item);
        }
        Term::Agg { var, .. } => {
            bound.insert(*var);
        }
        Term::Not(_) | Term::Test(_) => {}
    }
}

/// How late a term should run; `None`: it cannot run yet.
fn cost(program: &Program, indexes: &Indexes, term: &Term, bound: &BTreeSet<VarId>) -> Option<u32> {
    match term {
        Term::Test(e) => ready(e, bound).then_some(0),
        Term::Assign(_, e) => ready(e, bound).then_some(1),
        Term::Not(a) => a
            .args
            .iter()
            .all(|x| match x {
                Arg::Var(v) => bound.contains(v),
                _ => true,
            })
            .then(|| {
                if program.relation(a.rel).is_event() {
                    2
                } else {
                    6
                }
            }),
        Term::Unnest { list, .. } => ready(list, bound).then_some(40),
        Term::Agg { outer, .. } => outer.iter().all(|v| bound.contains(v)).then_some(60),
        Term::Atom(a) => Some(atom_cost(program, indexes, a, bound)),
    }
}

fn atom_cost(program: &Program, indexes: &Indexes, atom: &Atom, bound: &BTreeSet<VarId>) -> u32 {
    let relation = program.relation(atom.rel);
    let known = bound_columns(atom, bound);
    let free = u32::try_from(atom.args.len().saturating_sub(known.len()))
        .unwrap_or(u32::MAX)
        .min(15);
    match relation.kind {
        RelKind::Tick => 1,
        RelKind::Event { .. } | RelKind::Edge { .. } => {
            if known.is_empty() {
                45
            } else {
                3
            }
        }
        RelKind::View { kept: false, .. } => {
            if known.is_empty() {
                200
            } else {
                50 + free
            }
        }
        RelKind::Table(_) | RelKind::View { .. } => {
            let keyed = relation.keys.iter().all(|k| known.contains(k));
            if keyed {
                return 5;
            }
            let (_, width) = indexes.best(atom.rel, &known, None);
            if width == 0 && known.is_empty() {
                100 + free
            } else {
                // More known columns: fewer rows.
                10 + free
            }
        }
    }
}

/// A column of the atom that is not bound yet and that a comparison with something bound limits.
pub fn ranged_column(atom: &Atom, bound: &BTreeSet<VarId>, all: &[&Term]) -> Option<usize> {
    atom.args.iter().position(|a| {
        let range = range_of(a, bound, all);
        range.low.is_some() || range.high.is_some()
    })
}

/// The range that comparisons of the body put on an argument that is not bound yet.
pub fn range_of(arg: &Arg, bound: &BTreeSet<VarId>, all: &[&Term]) -> Range {
    let mut range = Range::default();
    let Arg::Var(var) = arg else { return range };
    if bound.contains(var) {
        return range;
    }
    for term in all {
        let Term::Test(Expr::Binary(op, a, b)) = term else {
            continue;
        };
        let (op, other) = match (a.as_ref(), b.as_ref()) {
            (Expr::Var(v), other) if v == var => (*op, other),
            (other, Expr::Var(v)) if v == var => (flip(*op), other),
            _ => continue,
        };
        let value = match other {
            Expr::Var(v) if bound.contains(v) => operand(&Arg::Var(*v)),
            Expr::Const(c) => Some(Operand::Const(c.packed().to_vec())),
            _ => None,
        };
        let Some(value) = value else { continue };
        match op {
            BinaryOp::Gt => range.low = Some((value, true)),
            BinaryOp::Ge => range.low = Some((value, false)),
            BinaryOp::Lt => range.high = Some((value, true)),
            BinaryOp::Le => range.high = Some((value, false)),
            _ => {}
        }
    }
    range
}

fn flip(op: BinaryOp) -> BinaryOp {
    match op {
        BinaryOp::Lt => BinaryOp::Gt,
        BinaryOp::Le => BinaryOp::Ge,
        BinaryOp::Gt => BinaryOp::Lt,
        BinaryOp::Ge => BinaryOp::Le,
        other => other,
    }
}
