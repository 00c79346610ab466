//! Which rules run when an event comes: planned once, for the life of a node.

use crate::api::RunError;
use crate::engine::plan::order::{self, order_terms};
use crate::engine::plan::{
    EventRule, Indexes, Planner, Strata, bound_columns, graph, indexes::Need, lag,
};
use crate::engine::views::join_needs;
use crate::ir::{Action, Atom, HeadArg, Program, RelId, RelKind, Rule, RuleId, Term, VarId};
use std::collections::{BTreeMap, BTreeSet};

/// The planned event rules of a program.
pub(super) struct Schedule {
    /// All event rules.
    pub(super) plans: Vec<EventRule>,
    /// For each relation: the plans that have it as a positive event.
    pub(super) triggers: Vec<Vec<usize>>,
    /// Strata of events.
    pub(super) strata: Strata,
    /// For each component: its plans.
    pub(super) of_component: Vec<Vec<usize>>,
    /// Columns of the events' hash indexes.
    pub(super) event_indexes: BTreeMap<RelId, Vec<Vec<usize>>>,
    /// Columns of events whose different values are noted.
    pub(super) noted: BTreeMap<RelId, Vec<usize>>,
    /// Edges that some rule reads: table or view, edge, whether insertions.
    pub(super) edges: BTreeMap<RelId, Vec<(RelId, bool)>>,
    /// Kept views that are invariants.
    pub(super) invariants: Vec<(RelId, String)>,
    pub(super) sys_error: Option<RelId>,
    pub(super) sys_conflict: Option<RelId>,
    pub(super) sys_violation: Option<RelId>,
    /// `sys_violation` itself, read or not.
    pub(super) violation_event: Option<RelId>,
}

impl Schedule {
    /// Plans all event rules and chooses the arrangements.
    pub(super) fn new(program: &Program) -> Result<(Schedule, Indexes), RunError> {
        let needs = needs(program)?;
        let indexes = Indexes::choose(program, &needs);
        let strata = graph::event_strata(program);
        let mut event_indexes = BTreeMap::new();
        let mut noted = BTreeMap::new();
        let mut planner = Planner {
            program,
            indexes: &indexes,
            event_indexes: &mut event_indexes,
            noted: &mut noted,
            late: &lag::late_views(program),
        };
        let mut plans: Vec<EventRule> = Vec::new();
        let mut triggers = vec![Vec::new(); program.relations.len()];
        let mut of_component = vec![Vec::new(); strata.components.len()];
        for (id, rule) in event_rules(program) {
            let plan = planner.event_rule(id, rule)?;
            if plan.events.is_empty() {
                let reason = "it has no event that triggers it".to_string();
                return Err(RunError::Plan {
                    rule: rule.name.clone(),
                    reason,
                });
            }
            let at = plans.len();
            for rel in plan.events.iter().collect::<BTreeSet<_>>() {
                if let Some(list) = triggers.get_mut(rel.0 as usize) {
                    list.push(at);
                }
            }
            if rule.head.action == Action::Emit
                && let Some(list) = strata
                    .of
                    .get(&rule.head.rel)
                    .and_then(|c| of_component.get_mut(*c))
            {
                list.push(at);
            }
            plans.push(plan);
        }
        let mut read = BTreeSet::new();
        program
            .rules
            .iter()
            .for_each(|r| graph::reads(&r.body, &mut read));
        let sys = |name: &str| program.find(name).filter(|r| read.contains(r));
        let schedule = Schedule {
            plans,
            triggers,
            strata,
            of_component,
            event_indexes,
            noted,
            edges: edges(program, &read),
            invariants: invariants(program),
            sys_error: sys("sys_error"),
            sys_conflict: sys("sys_conflict"),
            sys_violation: sys("sys_violation"),
            violation_event: program.find("sys_violation"),
        };
        Ok((schedule, indexes))
    }
}

fn event_rules(program: &Program) -> impl Iterator<Item = (RuleId, &Rule)> {
    program
        .rules
        .iter()
        .enumerate()
        .filter(|(_, r)| r.head.action != Action::Derive)
        .filter_map(|(i, r)| Some((RuleId(u32::try_from(i).ok()?), r)))
}

fn edges(program: &Program, read: &BTreeSet<RelId>) -> BTreeMap<RelId, Vec<(RelId, bool)>> {
    let mut edges: BTreeMap<RelId, Vec<(RelId, bool)>> = BTreeMap::new();
    for rel in read {
        if let RelKind::Edge { of, insert } = program.relation(*rel).kind {
            edges.entry(of).or_default().push((*rel, insert));
        }
    }
    edges
}

fn invariants(program: &Program) -> Vec<(RelId, String)> {
    program
        .relations
        .iter()
        .enumerate()
        .filter(|(_, r)| {
            matches!(
                r.kind,
                RelKind::View {
                    invariant: true,
                    ..
                }
            )
        })
        .filter_map(|(i, r)| Some((RelId(u32::try_from(i).ok()?), r.name.clone())))
        .collect()
}

type Needs = BTreeMap<RelId, BTreeSet<Need>>;

/// What all rules need of the arrangements.
fn needs(program: &Program) -> Result<Needs, RunError> {
    let mut needs = Needs::new();
    for (_, rule) in event_rules(program) {
        for (at, atom) in order::positive_events(program, &rule.body) {
            let mut bound = BTreeSet::new();
            let driver = Term::Atom(atom.clone());
            order::binds(&driver, &mut bound);
            let rest: Vec<&Term> = rule
                .body
                .iter()
                .enumerate()
                .filter(|(i, _)| *i != at)
                .map(|(_, t)| t)
                .collect();
            note(program, rule, &rest, &mut bound, &mut needs)?;
            note_delete(rule, &mut needs);
        }
    }
    for rule in program
        .rules
        .iter()
        .filter(|r| r.head.action == Action::Derive)
    {
        let lazy = matches!(
            program.relation(rule.head.rel).kind,
            RelKind::View { kept: false, .. }
        );
        if lazy {
            // With its first variable known: how views on demand are mostly asked.
            for arg in &rule.head.args {
                let HeadArg::Expr(crate::ir::Expr::Var(v)) = arg else {
                    continue;
                };
                let terms: Vec<&Term> = rule.body.iter().collect();
                note(program, rule, &terms, &mut BTreeSet::from([*v]), &mut needs)?;
            }
        }
    }
    let kept = |rel| matches!(program.relation(rel).kind, RelKind::View { kept: true, .. });
    join_needs(program, kept, &mut |rel, known| {
        needs.entry(rel).or_default().insert(Need {
            known,
            ranged: None,
            join: true,
        });
    });
    Ok(needs)
}

fn note(
    program: &Program,
    rule: &Rule,
    terms: &[&Term],
    bound: &mut BTreeSet<VarId>,
    needs: &mut Needs,
) -> Result<(), RunError> {
    let ordered = order_terms(program, &Indexes::default(), terms, bound).map_err(|reason| {
        RunError::Plan {
            rule: rule.name.clone(),
            reason,
        }
    })?;
    for term in ordered {
        match term {
            Term::Atom(a) | Term::Not(a) => note_atom(program, a, bound, terms, needs),
            Term::Agg { body, .. } => {
                let mut inner = bound.clone();
                note(
                    program,
                    rule,
                    &body.iter().collect::<Vec<_>>(),
                    &mut inner,
                    needs,
                )?;
            }
            _ => {}
        }
        order::binds(term, bound);
    }
    Ok(())
}

fn note_atom(
    program: &Program,
    atom: &Atom,
    bound: &BTreeSet<VarId>,
    all: &[&Term],
    needs: &mut Needs,
) {
    let stored = match program.relation(atom.rel).kind {
        RelKind::Table(_) => true,
        RelKind::View { kept, .. } => kept,
        _ => false,
    };
    let known = bound_columns(atom, bound);
    let ranged = order::ranged_column(atom, bound, all);
    if stored && (!known.is_empty() || ranged.is_some()) {
        needs.entry(atom.rel).or_default().insert(Need {
            known,
            ranged,
            join: false,
        });
    }
}

fn note_delete(rule: &Rule, needs: &mut Needs) {
    if rule.head.action != Action::Delete {
        return;
    }
    let known: BTreeSet<usize> = rule
        .head
        .args
        .iter()
        .enumerate()
        .filter(|(_, a)| matches!(a, HeadArg::Expr(_)))
        .map(|(c, _)| c)
        .collect();
    if !known.is_empty() {
        needs.entry(rule.head.rel).or_default().insert(Need {
            known,
            ranged: None,
            join: false,
        });
    }
}
