//! Strata: strongly connected components of what depends on what, in an order in which each
//! comes after all that it reads.

use crate::ir::{Action, Program, RelId, Rule, Term};
use std::collections::{BTreeMap, BTreeSet};

/// The strata of some relations.
#[derive(Clone, Debug, Default)]
pub struct Strata {
    /// Each component's relations, sorted; components in dependency order.
    pub components: Vec<Vec<RelId>>,
    /// The component of a relation.
    pub of: BTreeMap<RelId, usize>,
    /// Components that read themselves.
    pub recursive: BTreeSet<usize>,
}

/// All relations that a body reads, those in `notin` and nested bodies included.
pub fn reads(body: &[Term], out: &mut BTreeSet<RelId>) {
    for term in body {
        match term {
            Term::Atom(a) | Term::Not(a) => {
                out.insert(a.rel);
            }
            Term::Agg { body, .. } => reads(body, out),
            Term::Test(_) | Term::Assign(..) | Term::Unnest { .. } => {}
        }
    }
}

/// The relations that a rule's body reads, through views too.
pub fn reads_through(program: &Program, body: &[Term]) -> BTreeSet<RelId> {
    let mut all = BTreeSet::new();
    let mut left = BTreeSet::new();
    reads(body, &mut left);
    while let Some(rel) = left.pop_first() {
        if !all.insert(rel) {
            continue;
        }
        for rule in program
            .rules
            .iter()
            .filter(|r| r.head.rel == rel && program.relation(rel).is_view())
        {
            reads(&rule.body, &mut left);
        }
    }
    all
}

/// The events whose rules depend on one another within a tick.
pub fn event_strata(program: &Program) -> Strata {
    strata(
        program,
        |rule| rule.head.action == Action::Emit,
        |rel| program.relation(rel).is_event(),
    )
}

/// The views.
pub fn view_strata(program: &Program) -> Strata {
    strata(
        program,
        |rule| rule.head.action == Action::Derive,
        |rel| program.relation(rel).is_view(),
    )
}

fn strata(
    program: &Program,
    derives: impl Fn(&Rule) -> bool,
    member: impl Fn(RelId) -> bool,
) -> Strata {
    let mut edges: BTreeMap<RelId, BTreeSet<RelId>> = BTreeMap::new();
    for i in 0..program.relations.len() {
        let rel = RelId(u32::try_from(i).unwrap_or(u32::MAX));
        if member(rel) {
            edges.entry(rel).or_default();
        }
    }
    for rule in program.rules.iter().filter(|r| derives(r)) {
        let mut read = BTreeSet::new();
        reads(&rule.body, &mut read);
        read.retain(|r| member(*r));
        edges.entry(rule.head.rel).or_default().extend(read);
    }
    components(&edges)
}

/// Tarjan's algorithm, without recursion: programs come from users.
fn components(edges: &BTreeMap<RelId, BTreeSet<RelId>>) -> Strata {
    #[derive(Clone, Copy)]
    struct Mark {
        index: usize,
        low: usize,
        on_stack: bool,
    }
    let mut marks: BTreeMap<RelId, Mark> = BTreeMap::new();
    let mut stack: Vec<RelId> = Vec::new();
    let mut strata = Strata::default();
    let next_of = |rel: RelId| {
        edges
            .get(&rel)
            .map(|s| s.iter().copied().collect::<Vec<_>>())
            .unwrap_or_default()
    };
    for root in edges.keys().copied() {
        if marks.contains_key(&root) {
            continue;
        }
        let mut calls = vec![(root, next_of(root), 0_usize)];
        let index = marks.len();
        marks.insert(
            root,
            Mark {
                index,
                low: index,
                on_stack: true,
            },
        );
        stack.push(root);
        while let Some((rel, targets, at)) = calls.last_mut() {
            let rel = *rel;
            if let Some(target) = targets.get(*at).copied() {
                *at += 1;
                match marks.get(&target).copied() {
                    None => {
                        let index = marks.len();
                        marks.insert(
                            target,
                            Mark {
                                index,
                                low: index,
                                on_stack: true,
                            },
                        );
                        stack.push(target);
                        calls.push((target, next_of(target), 0));
                    }
                    Some(seen) if seen.on_stack => {
                        if let Some(m) = marks.get_mut(&rel) {
                            m.low = m.low.min(seen.index);
                        }
                    }
                    Some(_) => {}
                }
                continue;
            }
            calls.pop();
            let Some(mark) = marks.get(&rel).copied() else {
                continue;
            };
            if let Some((parent, _, _)) = calls.last()
                && let Some(m) = marks.get_mut(parent)
            {
                m.low = m.low.min(mark.low);
            }
            if mark.low == mark.index {
                close(&mut strata, &mut stack, rel, edges, |r| {
                    if let Some(m) = marks.get_mut(&r) {
                        m.on_stack = false;
                    }
                });
            }
        }
    }
    strata
}

fn close(
    strata: &mut Strata,
    stack: &mut Vec<RelId>,
    root: RelId,
    edges: &BTreeMap<RelId, BTreeSet<RelId>>,
    mut leave: impl FnMut(RelId),
) {
    let mut members = Vec::new();
    while let Some(member) = stack.pop() {
        leave(member);
        members.push(member);
        if member == root {
            break;
        }
    }
    members.sort_unstable();
    let id = strata.components.len();
    let own: BTreeSet<RelId> = members.iter().copied().collect();
    let reads_itself = members
        .iter()
        .any(|m| edges.get(m).is_some_and(|t| !t.is_disjoint(&own)));
    if reads_itself {
        strata.recursive.insert(id);
    }
    strata.of.extend(members.iter().map(|m| (*m, id)));
    strata.components.push(members);
}
