//! Which views are kept up to date, and the invariants that keys of views are.

use super::{Checker, Info};
use crate::diag::code;
use crate::ir::{
    Action, Arg, Atom, BinaryOp, Expr, Head, HeadArg, RelId, RelKind, Relation, Rule, Term, Var,
    VarId,
};
use std::collections::BTreeSet;

impl Checker<'_> {
    /// A view is kept if it is declared so, or if an event rule, an edge, an invariant or a kept view
    /// reads it; `lazy` forbids that where the reader needs it kept.
    pub(super) fn keep_views(&mut self) {
        let mut kept: BTreeSet<RelId> = BTreeSet::new();
        for id in self.ids() {
            if self.relation(id).is_view() && self.info(id).kept {
                kept.insert(id);
            }
            if let RelKind::Edge { of, .. } = self.relation(id).kind {
                let name = self.relation(id).name.clone();
                self.keep(of, &mut kept, &format!("the edge {name}"), None);
            }
        }
        let rules = self.program.rules.clone();
        for rule in rules.iter().filter(|r| r.head.action != Action::Derive) {
            for rel in reads(&rule.body) {
                if self.relation(rel).is_view() && !self.info(rel).lazy {
                    kept.insert(rel);
                }
            }
        }
        loop {
            let before = kept.len();
            for rule in &rules {
                if rule.head.action == Action::Derive && kept.contains(&rule.head.rel) {
                    for rel in reads(&rule.body) {
                        self.keep(
                            rel,
                            &mut kept,
                            &format!("the kept view of rule {}", rule.name),
                            Some(rule),
                        );
                    }
                }
            }
            if kept.len() == before {
                break;
            }
        }
        for id in kept {
            if let Some(RelKind::View { kept, .. }) = self.relation_mut(id).map(|r| &mut r.kind) {
                *kept = true;
            }
        }
    }

    fn keep(&mut self, rel: RelId, kept: &mut BTreeSet<RelId>, reader: &str, rule: Option<&Rule>) {
        if !self.relation(rel).is_view() || !kept.insert(rel) || !self.info(rel).lazy {
            return;
        }
        let relation = self.relation(rel);
        let message = format!(
            "{} is lazy, and {reader} needs it kept up to date",
            relation.name
        );
        let span = rule.map_or_else(|| relation.span.clone(), |r| r.span.clone());
        self.hinted(code::LAZY_READ, &span, message, "leave out lazy");
    }

    fn ids(&self) -> Vec<RelId> {
        (0..self.program.relations.len())
            .filter_map(|at| u32::try_from(at).ok())
            .map(RelId)
            .collect()
    }

    /// Two rows of a kept view with the same keys violate its keys.
    pub(super) fn key_invariants(&mut self) {
        for id in self.ids() {
            let relation = self.relation(id).clone();
            let kept = matches!(
                relation.kind,
                RelKind::View {
                    kept: true,
                    invariant: false
                }
            );
            let partial = relation.keys.len() < relation.columns.len();
            if kept && partial && self.info(id).keyed && !relation.has_lattice() {
                self.key_invariant(id, &relation);
            }
        }
    }

    fn key_invariant(&mut self, id: RelId, relation: &Relation) {
        let mut vars: Vec<Var> = Vec::new();
        let mut var = |name: String, ty| {
            vars.push(Var { name, ty });
            VarId(u32::try_from(vars.len() - 1).unwrap_or(u32::MAX))
        };
        let first: Vec<VarId> = relation
            .columns
            .iter()
            .map(|c| var(format!("_{}", c.name), c.ty))
            .collect();
        let mut second = Vec::new();
        for (at, (column, same)) in relation.columns.iter().zip(&first).enumerate() {
            let key = relation.keys.contains(&at);
            second.push(if key {
                *same
            } else {
                var(format!("_{}_2", column.name), column.ty)
            });
        }
        let atom = |ids: &[VarId]| {
            let args = ids.iter().map(|v| Arg::Var(*v)).collect();
            Term::Atom(Atom {
                rel: id,
                args,
                span: relation.span.clone(),
            })
        };
        let row = |ids: &[VarId]| Box::new(Expr::List(ids.iter().map(|v| Expr::Var(*v)).collect()));
        let body = vec![
            atom(&first),
            atom(&second),
            Term::Test(Expr::Binary(BinaryOp::Lt, row(&first), row(&second))),
        ];
        let name = format!("$keys_{}", relation.name);
        let kind = RelKind::View {
            kept: true,
            invariant: true,
        };
        let twice = relation.columns.iter().map(|c| crate::ir::Column {
            name: format!("{}_2", c.name),
            ..c.clone()
        });
        let columns: Vec<_> = relation.columns.iter().cloned().chain(twice).collect();
        let keys = (0..columns.len()).collect();
        let span = relation.span.clone();
        let invariant = Relation {
            name: name.clone(),
            kind,
            columns,
            keys,
            location: None,
            eager: false,
            span: span.clone(),
        };
        let rel = self.add_relation(
            invariant,
            Info {
                kept: true,
                read_only: true,
                ..Info::default()
            },
        );
        let args = first
            .iter()
            .chain(&second)
            .map(|v| HeadArg::Expr(Expr::Var(*v)))
            .collect();
        self.push(
            name,
            Head {
                rel,
                action: Action::Derive,
                args,
            },
            body,
            vars,
            &span,
        );
    }
}

/// All relations that a body reads, nested bodies included.
pub(super) fn reads(body: &[Term]) -> Vec<RelId> {
    let mut out = Vec::new();
    for term in body {
        match term {
            Term::Atom(atom) | Term::Not(atom) => out.push(atom.rel),
            Term::Agg { body, .. } => out.extend(reads(body)),
            _ => {}
        }
    }
    out
}
