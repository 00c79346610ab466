//! Replicated tables are a function of the log alone: they are changed only by the event that the log gives, by
//! events derived from it, and by what is itself replicated.

use super::Checker;
use super::kept::reads;
use crate::diag::{Diagnostic, code};
use crate::ir::{Action, RelId, RelKind, Rule, TableClass, Term};
use std::collections::{BTreeMap, BTreeSet};

/// Why a relation is not replicated by an event.
type Reasons = BTreeMap<RelId, String>;

impl Checker<'_> {
    pub(super) fn check_replicated(&mut self) {
        let mut by: BTreeSet<RelId> = BTreeSet::new();
        for relation in &self.program.relations {
            if let RelKind::Table(TableClass::Replicated { by: event }) = relation.kind {
                by.insert(event);
            }
        }
        let rules = self.program.rules.clone();
        for event in by {
            let impure = self.impure(event, &rules);
            for rule in &rules {
                let head = self.relation(rule.head.rel);
                let changes = matches!(
                    rule.head.action,
                    Action::Insert | Action::Delete | Action::Update
                );
                if changes
                    && head.kind == RelKind::Table(TableClass::Replicated { by: event })
                    && let Some(why) = self.why_impure(rule, &impure)
                {
                    let message = format!(
                        "{} is replicated by {}, and {why}",
                        head.name,
                        self.relation(event).name
                    );
                    let hint = "put into the event what the change needs, so that every replica does the same with it";
                    self.report(
                        Diagnostic::error(code::NOT_REPLICATED, &rule.span, message).hint(hint),
                    );
                }
            }
        }
    }

    /// The relations that are not a function of the log of this event, with the reason.
    fn impure(&self, event: RelId, rules: &[Rule]) -> Reasons {
        let mut impure = Reasons::new();
        for (at, relation) in self.program.relations.iter().enumerate() {
            let Ok(id) = u32::try_from(at).map(RelId) else {
                continue;
            };
            let fired = |r: &&Rule| {
                r.head.rel == id && matches!(r.head.action, Action::Emit | Action::Next)
            };
            let why = match relation.kind {
                RelKind::Table(TableClass::Replicated { by }) if by == event => continue,
                RelKind::Table(TableClass::Replicated { by }) => {
                    format!(
                        "{} is replicated by {}",
                        relation.name,
                        self.relation(by).name
                    )
                }
                RelKind::Table(_) => format!("{} is a table of this node alone", relation.name),
                RelKind::Tick => "sys_tick differs between replicas".to_owned(),
                RelKind::Event { timer_ns: Some(_) } => {
                    format!("{} is a timer of this node", relation.name)
                }
                RelKind::Event { .. } if id == event => continue,
                RelKind::Event { .. } if relation.name.starts_with("sys_") => {
                    format!("{} is an event of this node alone", relation.name)
                }
                RelKind::Event { .. } if self.program.facts.iter().any(|f| f.rel == id) => {
                    format!("{} is a fact of this node's start", relation.name)
                }
                RelKind::Event { .. }
                    if rules
                        .iter()
                        .any(|r| r.head.rel == id && r.head.action == Action::Send) =>
                {
                    format!("{} comes as a message", relation.name)
                }
                // If a rule was refused, it may be the one that derives the event.
                RelKind::Event { .. } if !rules.iter().any(|r| fired(&r)) && !self.failed() => {
                    format!("{} does not come from it", relation.name)
                }
                RelKind::Event { .. } | RelKind::View { .. } | RelKind::Edge { .. } => continue,
            };
            impure.insert(id, why);
        }
        loop {
            let before = impure.len();
            for (at, relation) in self.program.relations.iter().enumerate() {
                let (Ok(id), RelKind::Edge { of, .. }) =
                    (u32::try_from(at).map(RelId), &relation.kind)
                else {
                    continue;
                };
                if let Some(why) = impure.get(of).cloned() {
                    impure.entry(id).or_insert(why);
                }
            }
            for rule in rules {
                if rule.head.rel == event || impure.contains_key(&rule.head.rel) {
                    continue;
                }
                let derives = matches!(
                    rule.head.action,
                    Action::Emit | Action::Next | Action::Derive
                );
                if derives && let Some(why) = self.why_impure(rule, &impure) {
                    impure.insert(rule.head.rel, why);
                }
            }
            if impure.len() == before {
                return impure;
            }
        }
    }

    fn why_impure(&self, rule: &Rule, impure: &Reasons) -> Option<String> {
        let event = |term: &&Term| matches!(term, Term::Atom(a) if self.relation(a.rel).is_event());
        // The event first: it is the likelier mistake.
        let events = rule
            .body
            .iter()
            .filter(event)
            .flat_map(|t| reads(std::slice::from_ref(t)));
        let found = events
            .chain(reads(&rule.body))
            .find_map(|rel| impure.get(&rel).map(|why| (rel, why)))?;
        let name = &self.relation(found.0).name;
        let why = if found.1.contains(name.as_str()) {
            found.1.clone()
        } else {
            format!("{name} is not: {}", found.1)
        };
        Some(format!("rule {} reads {name}: {why}", rule.name))
    }
}
