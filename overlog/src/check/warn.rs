//! Warnings that need the whole program.

use super::Checker;
use super::kept::reads;
use super::rules::expr_vars;
use crate::diag::{Diagnostic, code};
use crate::ir::{Action, Arg, HeadArg, RelId, RelKind, Rule, TableClass, Term};
use std::collections::BTreeSet;

impl Checker<'_> {
    pub(super) fn warn(&mut self) {
        let rules = self.program.rules.clone();
        self.warn_never_read(&rules);
        for rule in rules.iter().filter(|r| r.head.action == Action::Send) {
            self.warn_promise(rule, &rules);
        }
    }

    fn warn_never_read(&mut self, rules: &[Rule]) {
        let mut read: BTreeSet<RelId> = rules.iter().flat_map(|r| reads(&r.body)).collect();
        read.extend(self.program.watches.iter().map(|w| w.rel));
        for relation in &self.program.relations {
            if let RelKind::Edge { of, .. } = relation.kind {
                read.insert(of);
            }
        }
        let mut unread = Vec::new();
        for (at, relation) in self.program.relations.iter().enumerate() {
            let id = u32::try_from(at).map(RelId);
            if relation.is_table() && id.is_ok_and(|id| !read.contains(&id)) {
                let message = format!("no rule reads the table {}", relation.name);
                unread.push(Diagnostic::warning(
                    code::NEVER_READ,
                    &relation.span,
                    message,
                ));
            }
        }
        self.diags.extend(unread);
    }

    /// What a message says of a volatile table that the same event changes is forgotten in a crash, while the
    /// receiver still counts on it.
    fn warn_promise(&mut self, rule: &Rule, rules: &[Rule]) {
        let events = |r: &Rule| -> BTreeSet<RelId> {
            let positive = r.body.iter().filter_map(|t| {
                if let Term::Atom(a) = t {
                    Some(a.rel)
                } else {
                    None
                }
            });
            positive
                .filter(|rel| self.relation(*rel).is_event())
                .collect()
        };
        let own = events(rule);
        let mut said = BTreeSet::new();
        for arg in &rule.head.args {
            if let HeadArg::Expr(e) = arg {
                expr_vars(e, &mut said);
            }
        }
        for term in &rule.body {
            let Term::Atom(atom) = term else { continue };
            let table = self.relation(atom.rel);
            let volatile = table.kind == RelKind::Table(TableClass::Volatile);
            let told = atom
                .args
                .iter()
                .any(|a| matches!(a, Arg::Var(v) if said.contains(v)));
            let changed = |r: &Rule| {
                r.head.rel == atom.rel
                    && matches!(r.head.action, Action::Insert | Action::Update)
                    && !events(r).is_disjoint(&own)
            };
            if volatile && told && rules.iter().any(changed) {
                let message = format!(
                    "rule {} promises in a message what the volatile table {} holds",
                    rule.name, table.name
                );
                let hint = "after a restart the table is empty, and the promise forgotten: make it a durable table";
                let diag =
                    Diagnostic::warning(code::VOLATILE_PROMISE, &rule.span, message).hint(hint);
                return self.report(diag);
            }
        }
    }
}
