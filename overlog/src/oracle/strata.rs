//! In which order relations can be computed.

use crate::ir::{Action, HeadArg, Program, RelId, Rule, RuleId, Term};
use std::collections::{BTreeMap, BTreeSet};

/// Relations that depend on one another, and the rules that make them.
#[derive(Clone, Debug, Default)]
pub(super) struct Component {
    pub(super) heads: BTreeSet<RelId>,
    pub(super) rules: Vec<RuleId>,
    pub(super) reads: BTreeSet<RelId>,
}

impl Component {
    pub(super) fn recursive(&self) -> bool {
        self.heads.iter().any(|h| self.reads.contains(h))
    }
}

/// Relations that a body reads; true: only positively, so that more rows there never mean fewer here.
pub(super) fn reads(body: &[Term]) -> Vec<(RelId, bool)> {
    let mut out = Vec::new();
    for term in body {
        match term {
            Term::Atom(atom) => out.push((atom.rel, true)),
            Term::Not(atom) => out.push((atom.rel, false)),
            Term::Agg { body, .. } => {
                out.extend(reads(body).into_iter().map(|(rel, _)| (rel, false)))
            }
            Term::Test(_) | Term::Assign(..) | Term::Unnest { .. } => {}
        }
    }
    out
}

/// What a rule reads, as [`reads`]; an aggregate in the head makes all of it not positive.
fn rule_reads(rule: &Rule) -> Vec<(RelId, bool)> {
    let aggregates = rule.head.args.iter().any(|a| matches!(a, HeadArg::Agg(_)));
    reads(&rule.body)
        .into_iter()
        .map(|(rel, positive)| (rel, positive && !aggregates))
        .collect()
}

/// Components of the heads that rules with this action make, each after those it reads. `Err`: a rule in a cycle
/// through negation or aggregation.
pub(super) fn components(
    program: &Program,
    action: Action,
    heads: &BTreeSet<RelId>,
) -> Result<Vec<Component>, RuleId> {
    let rules: Vec<(RuleId, &Rule)> = (0..)
        .map(RuleId)
        .zip(&program.rules)
        .filter(|(_, r)| r.head.action == action)
        .collect();
    let mut below: BTreeMap<RelId, BTreeSet<RelId>> =
        heads.iter().map(|h| (*h, BTreeSet::new())).collect();
    for (_, rule) in &rules {
        let read = rule_reads(rule)
            .into_iter()
            .map(|(rel, _)| rel)
            .filter(|rel| heads.contains(rel));
        below.entry(rule.head.rel).or_default().extend(read);
    }
    let reach = closure(&below);
    let reaches = |a: &RelId, b: &RelId| reach.get(a).is_some_and(|to| to.contains(b));
    let mut done: BTreeSet<RelId> = BTreeSet::new();
    let mut out: Vec<Component> = Vec::new();
    while done.len() < below.len() {
        let before = done.len();
        for head in below.keys() {
            let same =
                |other: &RelId| other == head || (reaches(head, other) && reaches(other, head));
            let Some(reached) = reach.get(head) else {
                continue;
            };
            if done.contains(head) || !reached.iter().all(|r| done.contains(r) || same(r)) {
                continue;
            }
            let mut component = Component {
                heads: below.keys().filter(|h| same(h)).copied().collect(),
                ..Component::default()
            };
            for (id, rule) in &rules {
                if !component.heads.contains(&rule.head.rel) {
                    continue;
                }
                component.rules.push(*id);
                for (rel, positive) in rule_reads(rule) {
                    if !positive && component.heads.contains(&rel) {
                        return Err(*id);
                    }
                    component.reads.insert(rel);
                }
            }
            done.extend(component.heads.iter().copied());
            out.push(component);
        }
        if done.len() == before {
            break;
        }
    }
    Ok(out)
}

/// Everything below each relation.
fn closure(below: &BTreeMap<RelId, BTreeSet<RelId>>) -> BTreeMap<RelId, BTreeSet<RelId>> {
    let mut out = BTreeMap::new();
    for start in below.keys() {
        let mut seen = BTreeSet::new();
        let mut todo = vec![*start];
        while let Some(rel) = todo.pop() {
            for next in below.get(&rel).into_iter().flatten() {
                if seen.insert(*next) {
                    todo.push(*next);
                }
            }
        }
        out.insert(*start, seen);
    }
    out
}
