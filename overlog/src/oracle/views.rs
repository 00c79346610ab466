//! Views, computed from scratch whenever something that they read has changed.

use super::body::Solver;
use super::change::merge_rows;
use super::head::{Errors, tuples};
use super::rel::{Tuple, World, put, rel};
use super::strata::{Component, components, reads};
use crate::api::RunError;
use crate::ir::{Action, Program, RelId, RelKind, Rule, RuleId};
use std::collections::{BTreeMap, BTreeSet};

/// All views of a program, each component after those it reads.
pub(super) struct Views {
    components: Vec<Component>,
    /// Which components are computed in every tick; the others on demand.
    live: Vec<bool>,
}

/// Errors of the rules of each component.
pub(super) type ViewErrors = BTreeMap<usize, Errors>;

impl Views {
    pub(super) fn new(program: &Program) -> Result<Views, RunError> {
        let all: BTreeSet<RelId> = ids(program)
            .filter(|id| program.relation(*id).is_view())
            .collect();
        let components =
            components(program, Action::Derive, &all).map_err(|rule| cycle(program, rule))?;
        let mut needed: BTreeSet<RelId> = BTreeSet::new();
        for rule in program
            .rules
            .iter()
            .filter(|r| r.head.action != Action::Derive)
        {
            needed.extend(reads(&rule.body).into_iter().map(|(rel, _)| rel));
        }
        for id in &all {
            if matches!(program.relation(*id).kind, RelKind::View { kept: true, .. }) {
                needed.insert(*id);
            }
        }
        let live = reached(&components, &mut needed);
        Ok(Views { components, live })
    }

    /// Computes the live views that read, directly or through views, what has changed; adds to `changed` the views
    /// that did.
    pub(super) fn refresh(
        &self,
        program: &Program,
        world: &mut World,
        changed: &mut BTreeSet<RelId>,
        errors: &mut ViewErrors,
        max_rows: u64,
    ) -> Result<(), RunError> {
        for (i, component) in self.components.iter().enumerate() {
            if self.live.get(i) == Some(&true) && !component.reads.is_disjoint(changed) {
                errors.insert(i, compute(program, component, world, changed, max_rows)?);
            }
        }
        Ok(())
    }

    /// Computes all live views.
    pub(super) fn refresh_all(
        &self,
        program: &Program,
        world: &mut World,
        errors: &mut ViewErrors,
        max_rows: u64,
    ) -> Result<(), RunError> {
        for (i, component) in self.components.iter().enumerate() {
            if self.live.get(i) == Some(&true) {
                errors.insert(
                    i,
                    compute(program, component, world, &mut BTreeSet::new(), max_rows)?,
                );
            }
        }
        Ok(())
    }

    /// Computes those of the other views that are needed for these relations.
    pub(super) fn demand(
        &self,
        program: &Program,
        world: &mut World,
        mut needed: BTreeSet<RelId>,
        max_rows: u64,
    ) -> Result<(), RunError> {
        let wanted = reached(&self.components, &mut needed);
        for (i, component) in self.components.iter().enumerate() {
            if wanted.get(i) == Some(&true) && self.live.get(i) == Some(&false) {
                compute(program, component, world, &mut BTreeSet::new(), max_rows)?;
            }
        }
        Ok(())
    }
}

pub(super) fn ids(program: &Program) -> impl Iterator<Item = RelId> {
    (0..).map(RelId).zip(&program.relations).map(|(id, _)| id)
}

pub(super) fn cycle(program: &Program, rule: RuleId) -> RunError {
    let name = rule_of(program, rule).map_or_else(String::new, |r| r.name.clone());
    RunError::Plan {
        rule: name,
        reason: "it is in a cycle through notin or an aggregate".to_owned(),
    }
}

pub(super) fn rule_of(program: &Program, id: RuleId) -> Option<&Rule> {
    program.rules.get(id.0 as usize)
}

/// Which components are needed for these relations.
fn reached(components: &[Component], needed: &mut BTreeSet<RelId>) -> Vec<bool> {
    let mut out: Vec<bool> = components
        .iter()
        .rev()
        .map(|component| {
            let wanted = !component.heads.is_disjoint(needed);
            if wanted {
                needed.extend(component.reads.iter().copied());
            }
            wanted
        })
        .collect();
    out.reverse();
    out
}

/// The least fixpoint of one component.
fn compute(
    program: &Program,
    component: &Component,
    world: &mut World,
    changed: &mut BTreeSet<RelId>,
    max_rows: u64,
) -> Result<Errors, RunError> {
    let before: Vec<(RelId, BTreeSet<Tuple>)> = component
        .heads
        .iter()
        .map(|h| (*h, rel(world, *h).rows.clone()))
        .collect();
    component
        .heads
        .iter()
        .for_each(|h| put(world, *h, BTreeSet::new()));
    let mut rounds = 0_u64;
    let errors = loop {
        let mut errors = Errors::new();
        let derived = round(program, component, world, &mut errors);
        let mut moved = false;
        let mut rows = 0_u64;
        for (head, new) in derived {
            rows += new.len() as u64;
            if rel(world, head).rows != new {
                moved = true;
                put(world, head, new);
            }
        }
        rounds += 1;
        if !moved || !component.recursive() {
            break errors;
        }
        if rows > max_rows || rounds > max_rows {
            let names = component
                .rules
                .iter()
                .filter_map(|id| Some(rule_of(program, *id)?.name.as_str()));
            let rules = names.collect::<Vec<_>>().join(", ");
            return Err(RunError::Limit {
                limit: format!("{max_rows} rows of a view"),
                rules,
            });
        }
    };
    changed.extend(
        before
            .into_iter()
            .filter(|(h, old)| rel(world, *h).rows != *old)
            .map(|(h, _)| h),
    );
    Ok(errors)
}

/// What the rules and facts of a component give over the world as it is.
fn round(
    program: &Program,
    component: &Component,
    world: &World,
    errors: &mut Errors,
) -> BTreeMap<RelId, BTreeSet<Tuple>> {
    let mut out: BTreeMap<RelId, BTreeSet<Tuple>> = component
        .heads
        .iter()
        .map(|h| (*h, BTreeSet::new()))
        .collect();
    let solver = Solver {
        world,
        functions: &program.functions,
    };
    for fact in &program.facts {
        if let Some(rows) = out.get_mut(&fact.rel) {
            rows.insert(fact.row.as_slice().into());
        }
    }
    for rule in component
        .rules
        .iter()
        .filter_map(|id| rule_of(program, *id))
    {
        out.entry(rule.head.rel)
            .or_default()
            .extend(tuples(program, rule, &solver, errors));
    }
    for (head, rows) in &mut out {
        let relation = program.relation(*head);
        if relation.has_lattice() {
            let mut best = BTreeMap::new();
            merge_rows(relation, rows.iter(), &mut best);
            *rows = best.into_values().map(Tuple::from).collect();
        }
    }
    out
}
