//! Heads of rules: what each binding, or each group of bindings, asks for.

use super::agg::aggregate;
use super::body::{Binding, Solver};
use super::eval::eval;
use super::rel::Tuple;
use crate::functions::Function;
use crate::ir::{Aggregate, HeadArg, Program, Rule};
use crate::value::Value;
use std::collections::{BTreeMap, BTreeSet};

/// Rule and message.
pub(super) type Errors = BTreeSet<(String, String)>;

/// A column of an evaluated head.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Cell {
    Is(Value),
    /// Any value, or unchanged.
    Any,
    Add(Value),
}

/// The rows of a head that names every column.
pub(super) fn tuples(
    program: &Program,
    rule: &Rule,
    solver: &Solver<'_>,
    errors: &mut Errors,
) -> BTreeSet<Tuple> {
    let mut out = BTreeSet::new();
    for cells in heads(program, rule, solver, errors) {
        let values = cells.into_iter().filter_map(|cell| match cell {
            Cell::Is(v) => Some(v),
            Cell::Any | Cell::Add(_) => None,
        });
        out.insert(values.collect());
    }
    out
}

/// The head for each binding (as often as it is found), or for each group if it has aggregates.
pub(super) fn heads(
    program: &Program,
    rule: &Rule,
    solver: &Solver<'_>,
    errors: &mut Errors,
) -> Vec<Vec<Cell>> {
    let mut messages = BTreeSet::new();
    let mut report = |why: String| {
        messages.insert((rule.name.clone(), why));
    };
    let aggregates: Vec<&Aggregate> = rule.head.args.iter().filter_map(as_aggregate).collect();
    let mut plain: Vec<Vec<Cell>> = Vec::new();
    let mut groups: BTreeMap<Vec<Cell>, Vec<Vec<Vec<Value>>>> = BTreeMap::new();
    solver.solve(&rule.body, Binding::new(rule.vars.len()), &mut |b| {
        b.notes
            .iter()
            .chain(&b.errors)
            .for_each(|why| report(why.clone()));
        if !b.errors.is_empty() {
            return;
        }
        match contribution(rule, &aggregates, b, solver.functions) {
            Err(why) => report(why),
            Ok((group, _)) if aggregates.is_empty() => plain.push(group),
            Ok((group, args)) => {
                let columns = groups
                    .entry(group)
                    .or_insert_with(|| vec![Vec::new(); aggregates.len()]);
                columns
                    .iter_mut()
                    .zip(args)
                    .for_each(|(column, a)| column.push(a));
            }
        }
    });
    for (group, columns) in groups {
        let results = aggregates
            .iter()
            .zip(&columns)
            .map(|(agg, column)| aggregate(agg.op, column));
        match results.collect::<Result<Option<Vec<_>>, _>>() {
            Ok(Some(results)) => plain.push(fill(rule, group, results)),
            Ok(None) => {}
            Err(why) => report(why),
        }
    }
    plain.retain(|cells| match mismatch(program, rule, cells) {
        None => true,
        Some(why) => {
            report(why);
            false
        }
    });
    errors.extend(messages);
    plain
}

fn as_aggregate(arg: &HeadArg) -> Option<&Aggregate> {
    match arg {
        HeadArg::Agg(agg) => Some(agg),
        HeadArg::Expr(_) | HeadArg::Any | HeadArg::Add(_) => None,
    }
}

/// The cells that are no aggregates, and the arguments of each aggregate.
type Contribution = (Vec<Cell>, Vec<Vec<Value>>);

fn contribution(
    rule: &Rule,
    aggregates: &[&Aggregate],
    b: &Binding,
    functions: &[Function],
) -> Result<Contribution, String> {
    let value = |e| eval(e, &b.vars, functions);
    let mut group = Vec::new();
    for arg in &rule.head.args {
        match arg {
            HeadArg::Expr(e) => group.push(Cell::Is(value(e)?)),
            HeadArg::Add(e) => group.push(Cell::Add(value(e)?)),
            HeadArg::Any => group.push(Cell::Any),
            HeadArg::Agg(_) => {}
        }
    }
    let args = aggregates
        .iter()
        .map(|agg| agg.args.iter().map(value).collect::<Result<Vec<_>, _>>());
    Ok((group, args.collect::<Result<Vec<_>, _>>()?))
}

/// Puts the results back between the other columns.
fn fill(rule: &Rule, group: Vec<Cell>, results: Vec<Value>) -> Vec<Cell> {
    let (mut group, mut results) = (group.into_iter(), results.into_iter().map(Cell::Is));
    let next = |arg: &HeadArg| match arg {
        HeadArg::Agg(_) => results.next(),
        HeadArg::Expr(_) | HeadArg::Any | HeadArg::Add(_) => group.next(),
    };
    rule.head.args.iter().filter_map(next).collect()
}

/// Why the cells do not fit the head's relation. The head of a query has none.
fn mismatch(program: &Program, rule: &Rule, cells: &[Cell]) -> Option<String> {
    let relation = program.relations.get(rule.head.rel.0 as usize)?;
    for (cell, column) in cells.iter().zip(&relation.columns) {
        let (Cell::Is(v) | Cell::Add(v)) = cell else {
            continue;
        };
        if !column.ty.admits(v) {
            return Some(format!(
                "{}: column {} is {}, the value is {v}",
                relation.name,
                column.name,
                column.ty.name()
            ));
        }
    }
    None
}
