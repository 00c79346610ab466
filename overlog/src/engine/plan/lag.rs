//! Which kept views may lag behind their tables until they are read.
//!
//! A view that nothing looks at by itself (no edge, invariant, subscription or `watch`) can take the
//! changes of many ticks at once: a dataflow costs mostly by how often it is stepped. It must not be
//! able to report an error, for that belongs to the tick of the change, and must come to rest.

use crate::engine::plan::graph::{Strata, reads, reads_through, view_strata};
use crate::ir::{
    Action, AggOp, Aggregate, BinaryOp, Expr, HeadArg, Program, RelId, RelKind, Rule, Term, Type,
    UnaryOp,
};
use std::collections::{BTreeMap, BTreeSet};

/// The views that may lag, those left out to which somebody has subscribed. Views on demand, which hold nothing,
/// may be among them.
pub fn may_lag(
    program: &Program,
    strata: &Strata,
    subscribed: &BTreeSet<RelId>,
) -> BTreeSet<RelId> {
    let mut looked_at = looked_at(program);
    looked_at.extend(subscribed);
    let mut lagging = BTreeSet::new();
    // What reads a view comes after it.
    for (at, members) in strata.components.iter().enumerate().rev() {
        let recursive = strata.recursive.contains(&at);
        let calm = |view: &RelId| {
            !looked_at.contains(view)
                && rules_of(program, *view).all(|rule| cannot_fail(program, rule))
                && kept_readers(program, *view)
                    .all(|r| members.contains(&r) || lagging.contains(&r))
        };
        if !recursive && members.iter().all(calm) {
            lagging.extend(members.iter().copied());
        }
    }
    lagging
}

/// The kept views that may lag, each with the tables that it is made of, through other views too.
pub type Late = BTreeMap<RelId, BTreeSet<RelId>>;

/// All kept views of a program that may lag.
pub fn late_views(program: &Program) -> Late {
    let lagging = may_lag(program, &view_strata(program), &BTreeSet::new());
    let tables_of = |view: RelId| {
        let read = rules_of(program, view).flat_map(|r| reads_through(program, &r.body));
        (
            view,
            read.filter(|r| program.relation(*r).is_table()).collect(),
        )
    };
    let kept = |r: &RelId| is_kept(program, *r);
    lagging.into_iter().filter(kept).map(tables_of).collect()
}

/// The tables whose changes the views that a body reads must have taken, in order.
pub fn must_be_seen(program: &Program, late: &Late, body: &[Term]) -> Vec<RelId> {
    if late.is_empty() {
        return Vec::new();
    }
    let read = reads_through(program, body);
    let tables: BTreeSet<RelId> = read
        .iter()
        .filter_map(|r| late.get(r))
        .flatten()
        .copied()
        .collect();
    tables.into_iter().collect()
}

/// Does the body read one of these?
fn reads_any(rule: &Rule, rels: &BTreeSet<RelId>) -> bool {
    let mut read = BTreeSet::new();
    reads(&rule.body, &mut read);
    !read.is_disjoint(rels)
}

fn relations(program: &Program) -> impl Iterator<Item = RelId> + use<> {
    (0..program.relations.len())
        .filter_map(|i| u32::try_from(i).ok())
        .map(RelId)
}

fn rules_of(program: &Program, view: RelId) -> impl Iterator<Item = &Rule> {
    program
        .rules
        .iter()
        .filter(move |r| r.head.action == Action::Derive && r.head.rel == view)
}

fn is_kept(program: &Program, view: RelId) -> bool {
    matches!(
        program.relation(view).kind,
        RelKind::View { kept: true, .. }
    )
}

/// Kept views with a rule that reads this one.
fn kept_readers(program: &Program, view: RelId) -> impl Iterator<Item = RelId> {
    program
        .rules
        .iter()
        .filter(move |r| r.head.action == Action::Derive && is_kept(program, r.head.rel))
        .filter(move |r| reads_any(r, &BTreeSet::from([view])))
        .map(|r| r.head.rel)
}

/// Views whose changes are looked at as they happen.
fn looked_at(program: &Program) -> BTreeSet<RelId> {
    let mut all: BTreeSet<RelId> = program.watches.iter().map(|w| w.rel).collect();
    for rel in relations(program) {
        match program.relation(rel).kind {
            RelKind::Edge { of, .. } => {
                all.insert(of);
            }
            RelKind::View {
                invariant: true, ..
            } => {
                all.insert(rel);
            }
            _ => {}
        }
    }
    all
}

/// True if no binding of a derived rule can fail.
fn cannot_fail(program: &Program, rule: &Rule) -> bool {
    let relation = program.relation(rule.head.rel);
    let fits = |arg: &HeadArg, ty: Type| match arg {
        HeadArg::Any => true,
        HeadArg::Add(_) => false,
        HeadArg::Expr(e) => sure(e) && (ty == Type::Any || type_of(rule, e) == Some(ty)),
        HeadArg::Agg(agg) => {
            sure_aggregate(agg)
                && (ty == Type::Any
                    || matches!(agg.op, AggOp::Count | AggOp::CountAll)
                    || agg.args.last().and_then(|e| type_of(rule, e)) == Some(ty))
        }
    };
    let mut columns = rule.head.args.iter().zip(&relation.columns);
    columns.all(|(arg, column)| fits(arg, column.ty))
        && rule.body.iter().all(|t| sure_term(rule, t))
}

fn type_of(rule: &Rule, e: &Expr) -> Option<Type> {
    match e {
        Expr::Var(v) => rule.vars.get(v.0 as usize).map(|v| v.ty),
        Expr::Const(c) => crate::packed::type_of(c.packed()),
        Expr::List(_) => Some(Type::List),
        _ => sure_bool(rule, e).then_some(Type::Bool),
    }
}

fn sure_term(rule: &Rule, term: &Term) -> bool {
    match term {
        Term::Atom(_) | Term::Not(_) => true,
        Term::Test(e) => sure_bool(rule, e),
        Term::Assign(_, e) => sure(e),
        Term::Unnest { .. } => false,
        Term::Agg { agg, body, .. } => {
            sure_aggregate(agg) && body.iter().all(|t| sure_term(rule, t))
        }
    }
}

fn sure_aggregate(agg: &Aggregate) -> bool {
    let whole = matches!(
        agg.op,
        AggOp::CountAll
            | AggOp::Count
            | AggOp::Min
            | AggOp::Max
            | AggOp::Any
            | AggOp::List
            | AggOp::Set
    );
    whole && agg.args.iter().all(sure)
}

/// True if an expression of variables that have values has one.
fn sure(e: &Expr) -> bool {
    match e {
        Expr::Const(_) | Expr::Var(_) => true,
        Expr::List(items) => items.iter().all(sure),
        Expr::Binary(op, a, b) => compares(*op) && sure(a) && sure(b),
        _ => false,
    }
}

/// A comparison: it has a result for any two values.
pub fn compares(op: BinaryOp) -> bool {
    matches!(
        op,
        BinaryOp::Eq | BinaryOp::Ne | BinaryOp::Lt | BinaryOp::Le | BinaryOp::Gt | BinaryOp::Ge
    )
}

fn sure_bool(rule: &Rule, e: &Expr) -> bool {
    match e {
        Expr::Binary(BinaryOp::And | BinaryOp::Or, a, b) => {
            sure_bool(rule, a) && sure_bool(rule, b)
        }
        Expr::Binary(op, a, b) => compares(*op) && sure(a) && sure(b),
        Expr::Unary(UnaryOp::Not, a) => sure_bool(rule, a),
        Expr::Const(_) | Expr::Var(_) => type_of(rule, e) == Some(Type::Bool),
        _ => false,
    }
}
