//! Subscriptions: a query that stays, as a dataflow of its own beside those of the program.

use crate::engine::plan::graph::{self, reads_through};
use crate::functions::Function;
use crate::ir::{Action, Atom, Column, Program, RelId, RelKind, Relation, Rule, Term, Type};
use std::collections::BTreeMap;

/// Adds the query's rule to a copy of the program as a kept view. Views on demand that it reads are
/// added as kept views of its own. Gives the new relations in dependency order, the query's last.
pub fn extend(program: &Program, rule: &Rule, functions: &[Function]) -> (Program, Vec<RelId>) {
    let mut extended = program.clone();
    extended.functions = functions.to_vec();
    let lazy: Vec<RelId> = reads_through(program, &rule.body)
        .into_iter()
        .filter(|r| matches!(program.relation(*r).kind, RelKind::View { kept: false, .. }))
        .collect();
    let mut renamed = BTreeMap::new();
    let mut made = Vec::new();
    for rel in &lazy {
        let mut copy = program.relation(*rel).clone();
        copy.name = format!("${}_{}", copy.name, extended.relations.len());
        copy.kind = RelKind::View {
            kept: true,
            invariant: false,
        };
        let id = push(&mut extended, copy);
        renamed.insert(*rel, id);
        made.push(id);
    }
    for rule in &program.rules {
        if rule.head.action == Action::Derive && lazy.contains(&rule.head.rel) {
            extended.rules.push(rename(rule, &renamed));
        }
    }
    let facts: Vec<_> = program
        .facts
        .iter()
        .filter(|f| lazy.contains(&f.rel))
        .cloned()
        .collect();
    for mut fact in facts {
        if let Some(id) = renamed.get(&fact.rel) {
            fact.rel = *id;
            extended.facts.push(fact);
        }
    }
    let columns = (0..rule.head.args.len())
        .map(|i| Column {
            name: format!("c{i}"),
            ty: Type::Any,
            lattice: None,
        })
        .collect::<Vec<_>>();
    let answer = Relation {
        name: format!("$watch_{}", extended.relations.len()),
        kind: RelKind::View {
            kept: true,
            invariant: false,
        },
        keys: (0..columns.len()).collect(),
        columns,
        location: None,
        eager: false,
        span: rule.span.clone(),
    };
    let id = push(&mut extended, answer);
    let mut own = rename(rule, &renamed);
    own.head.rel = id;
    extended.rules.push(own);
    made.push(id);
    (extended, made)
}

/// The components of new views, each after what it reads, with whether it reads itself.
pub fn components(program: &Program, made: &[RelId]) -> Vec<(Vec<RelId>, bool)> {
    let strata = graph::view_strata(program);
    strata
        .components
        .iter()
        .enumerate()
        .filter(|(_, members)| members.iter().any(|m| made.contains(m)))
        .map(|(i, members)| (members.clone(), strata.recursive.contains(&i)))
        .collect()
}

fn push(program: &mut Program, relation: Relation) -> RelId {
    let id = RelId(u32::try_from(program.relations.len()).unwrap_or(u32::MAX));
    program.relations.push(relation);
    id
}

fn rename(rule: &Rule, renamed: &BTreeMap<RelId, RelId>) -> Rule {
    let mut rule = rule.clone();
    if let Some(id) = renamed.get(&rule.head.rel) {
        rule.head.rel = *id;
    }
    rename_body(&mut rule.body, renamed);
    rule
}

fn rename_body(body: &mut [Term], renamed: &BTreeMap<RelId, RelId>) {
    for term in body {
        match term {
            Term::Atom(Atom { rel, .. }) | Term::Not(Atom { rel, .. }) => {
                if let Some(id) = renamed.get(rel) {
                    *rel = *id;
                }
            }
            Term::Agg { body, .. } => rename_body(body, renamed),
            Term::Test(_) | Term::Assign(..) | Term::Unnest { .. } => {}
        }
    }
}
