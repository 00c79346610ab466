//! Heads: what a rule does, and where.

use super::scope::{Builder, RAgg, RArg, RExpr, RKind};
use super::types::{conversion, named};
use super::{Checker, Info, join};
use crate::ast::{self, ArgValue, ExprKind, Modifier};
use crate::diag::{Diagnostic, code};
use crate::ir::{
    Action, Aggregate, Arg, Atom, Column, Expr, Head, HeadArg, RelId, RelKind, Relation, Span,
    Term, Type, Var, VarId,
};

/// The events that a body reads.
#[derive(Default)]
pub(super) struct Found {
    /// Positive ones, at the top.
    pub(super) positive: Vec<RelId>,
    /// There is one under `notin` or in an aggregate.
    pub(super) hidden_event: bool,
    /// `sys_tick` is read.
    pub(super) tick: bool,
}

/// An argument of a head.
pub(super) enum RHead {
    Expr(RExpr),
    Agg(RAgg),
    Add(RExpr),
    Any,
}

/// A head with its names resolved and its action decided.
pub(super) struct RuleHead {
    rel: RelId,
    action: Action,
    args: Vec<RHead>,
    /// The event by which a row of an original table travels.
    remote_row: bool,
}

impl RHead {
    pub(super) fn lower(&self, _vars: &[Var]) -> HeadArg {
        match self {
            RHead::Expr(e) => HeadArg::Expr(e.lower()),
            RHead::Agg(agg) => HeadArg::Agg(Aggregate {
                op: agg.op,
                args: agg.args.iter().map(|e| e.lower()).collect(),
            }),
            RHead::Add(e) => HeadArg::Add(e.lower()),
            RHead::Any => HeadArg::Any,
        }
    }
}

impl Builder<'_, '_> {
    /// Resolves a head and decides what the rule does. `None` if that is reported as impossible.
    pub(super) fn head(&mut self, rel: RelId, rule: &ast::Rule, found: &Found) -> Option<RuleHead> {
        let args = self.head_args(rel, rule);
        let relation = self.c.relation(rel).clone();
        let info = self.c.info(rel);
        let span = &rule.head.span;
        if info.read_only || matches!(relation.kind, RelKind::Tick | RelKind::Edge { .. }) {
            let message = format!(
                "{} heads no rule: only the system or the host fills it",
                relation.name
            );
            self.c.error(code::READ_ONLY, span, message);
            return None;
        }
        let args = args?;
        let remote = self.is_remote(&relation, &args);
        let action = self.action(rel, rule.modifier, remote, found, span)?;
        if rule.modifier == Modifier::Update && !self.update_fits(&relation, &args, span) {
            return None;
        }
        let remote_row = remote && relation.is_table();
        Some(RuleHead {
            rel,
            action,
            args,
            remote_row,
        })
    }

    fn action(
        &mut self,
        rel: RelId,
        modifier: Modifier,
        remote: bool,
        found: &Found,
        span: &Span,
    ) -> Option<Action> {
        let relation = self.c.relation(rel).clone();
        let name = &relation.name;
        let event_free = found.positive.is_empty();
        let c = &mut *self.c;
        match modifier {
            Modifier::Delete | Modifier::Update if !relation.is_table() => {
                let code = if relation.is_view() {
                    code::VIEW_CHANGED
                } else {
                    code::NOT_A_TABLE
                };
                let what = if relation.is_view() {
                    "a view: exactly what its rules say"
                } else {
                    "an event"
                };
                c.hinted(
                    code,
                    span,
                    format!("{name} is {what}; only tables have rows to change"),
                    format!("declare it: table {name}(..)"),
                );
                None
            }
            Modifier::Next if !relation.is_event() => {
                c.error(
                    code::BAD_NEXT,
                    span,
                    format!("next is for events, and {name} is none"),
                );
                None
            }
            Modifier::Next if remote => {
                c.hinted(
                    code::BAD_NEXT,
                    span,
                    format!("{name} goes to another node and arrives in a later tick anyway"),
                    "leave out next",
                );
                None
            }
            _ if event_free
                && (found.hidden_event
                    || found.tick
                    || relation.is_table() && !(remote && c.info(rel).original)) =>
            {
                c.no_event(rel, span, found);
                None
            }
            Modifier::Delete | Modifier::Update | Modifier::None
                if remote && !relation.is_event() =>
            {
                if modifier == Modifier::None && relation.is_table() && c.info(rel).original {
                    return Some(Action::Send);
                }
                let message =
                    format!("{name} is state of another node here, which a rule cannot change");
                let hint = "send an event there and change it by a rule; in a located head, use the body's location";
                c.hinted(code::REMOTE_STATE, span, message, hint);
                None
            }
            Modifier::Delete => Some(Action::Delete),
            Modifier::Update => Some(Action::Update),
            Modifier::Next => Some(Action::Next),
            Modifier::None if relation.is_view() => {
                if let Some(event) = found.positive.first() {
                    let event = c.relation(*event).name.clone();
                    let message =
                        format!("{name} is a view, and this rule reads the event {event}");
                    c.hinted(
                        code::VIEW_CHANGED,
                        span,
                        message,
                        format!("what an event leaves behind is a table: table {name}(..)"),
                    );
                    return None;
                }
                Some(Action::Derive)
            }
            Modifier::None if relation.is_table() => Some(Action::Insert),
            Modifier::None => Some(if remote { Action::Send } else { Action::Emit }),
        }
    }

    /// A head at another location than the body's, or at one that the body does not name.
    fn is_remote(&self, relation: &Relation, args: &[RHead]) -> bool {
        let Some(arg) = relation.location.and_then(|at| args.get(at)) else {
            return false;
        };
        match (arg, &self.location) {
            (
                RHead::Expr(RExpr {
                    kind: RKind::Var(v),
                    ..
                }),
                Some(RArg::Var(here)),
            ) => v != here,
            (
                RHead::Expr(RExpr {
                    kind: RKind::Const(v),
                    ..
                }),
                Some(RArg::Const(here)),
            ) => v != here,
            _ => true,
        }
    }

    /// The arguments of a head, one for each column.
    pub(super) fn head_args(&mut self, rel: RelId, rule: &ast::Rule) -> Option<Vec<RHead>> {
        let columns = self.columns(rel, &rule.head)?;
        let names: Vec<String> = self
            .c
            .relation(rel)
            .columns
            .iter()
            .map(|c| c.name.clone())
            .collect();
        let open = matches!(rule.modifier, Modifier::Delete | Modifier::Update);
        let mut out = Vec::new();
        for (at, (arg, name)) in columns.into_iter().zip(names).enumerate() {
            let value = match arg.map(|a| &a.value) {
                None if open => RHead::Any,
                None => {
                    self.c.hinted(
                        code::WILDCARD,
                        &rule.head.span,
                        format!("the head gives no value for column {name}"),
                        format!("add {name}: .."),
                    );
                    RHead::Any
                }
                Some(ArgValue::Expr(ast::Expr {
                    kind: ExprKind::Any,
                    ..
                })) if open => RHead::Any,
                Some(ArgValue::Expr(e)) => {
                    let e = self.expr(e);
                    RHead::Expr(self.coerced(rel, at, e))
                }
                Some(ArgValue::Agg(agg)) if rule.modifier == Modifier::Delete => {
                    self.c.hinted(
                        code::DELETE_AGGREGATE,
                        &agg.span,
                        "an aggregate cannot say what to delete",
                        "compute it in an event first",
                    );
                    RHead::Any
                }
                Some(ArgValue::Agg(agg)) => RHead::Agg(self.agg(agg)),
                Some(ArgValue::Add(e)) if rule.modifier == Modifier::Update => {
                    RHead::Add(self.expr(e))
                }
                Some(ArgValue::Add(e)) => {
                    self.c.hinted(
                        code::BAD_UPDATE,
                        &e.span,
                        "`+=` belongs in the head of an update",
                        "update rel(Key: K, Col += 1) :- ..",
                    );
                    RHead::Any
                }
            };
            out.push(value);
        }
        Some(out)
    }

    fn coerced(&self, rel: RelId, at: usize, e: RExpr) -> RExpr {
        match e.kind {
            RKind::Const(value) => RExpr {
                kind: RKind::Const(self.c.coerce(rel, at, value)),
                span: e.span,
            },
            kind => RExpr { kind, span: e.span },
        }
    }

    /// The keys are given, and something is changed.
    fn update_fits(&mut self, relation: &Relation, args: &[RHead], span: &Span) -> bool {
        let mut changes = false;
        let before = self.c.diags.len();
        for (at, (arg, column)) in args.iter().zip(&relation.columns).enumerate() {
            let key = relation.keys.contains(&at);
            let (table, name) = (&relation.name, &column.name);
            match arg {
                RHead::Expr(_) if key => {}
                _ if key => {
                    let message = format!(
                        "an update gives the keys of its row, and {name} of {table} is a key"
                    );
                    let hint = "a key cannot change: delete the row and insert another";
                    self.c.hinted(code::BAD_UPDATE, span, message, hint);
                }
                RHead::Any => {}
                RHead::Add(e)
                    if column.lattice.is_some()
                        || !matches!(column.ty, Type::Int | Type::Float | Type::Any) =>
                {
                    let message = format!(
                        "`+=` adds to a number, and {name} of {table} is {}",
                        if column.lattice.is_some() {
                            "a lattice"
                        } else {
                            column.ty.name()
                        }
                    );
                    let at = e.span.clone();
                    self.c.error(code::BAD_UPDATE, &at, message);
                }
                _ => changes = true,
            }
        }
        if !changes && self.c.diags.len() == before {
            let hint = "give at least one column that is no key";
            self.c.hinted(
                code::BAD_UPDATE,
                span,
                format!("this update of {} changes nothing", relation.name),
                hint,
            );
        }
        self.c.diags.len() == before
    }

    pub(super) fn type_of_head(&mut self, arg: &RHead, report: bool) -> Type {
        match arg {
            RHead::Expr(e) | RHead::Add(e) => self.type_of(e, report),
            RHead::Agg(agg) => self.type_of_agg(agg, report),
            RHead::Any => Type::Any,
        }
    }

    /// The values of a head fit their columns.
    pub(super) fn head_types(&mut self, head: &RuleHead) {
        let relation = self.c.relation(head.rel).clone();
        for (arg, column) in head.args.iter().zip(&relation.columns) {
            let ty = self.type_of_head(arg, true);
            if join(ty, column.ty).is_some() {
                continue;
            }
            let (span, what) = match arg {
                RHead::Expr(RExpr {
                    kind: RKind::Const(value),
                    span,
                }) => (span, named(value)),
                RHead::Expr(e) | RHead::Add(e) => (&e.span, ty.name().to_owned()),
                RHead::Agg(agg) => (&agg.span, ty.name().to_owned()),
                RHead::Any => continue,
            };
            let message = format!(
                "column {} of {} is {}, not {what}",
                column.name,
                relation.name,
                column.ty.name()
            );
            let mut diag = Diagnostic::error(code::TYPE_OF_ARGUMENT, span, message);
            diag.hint = conversion(ty, column.ty).map(str::to_owned);
            self.c.report(diag);
        }
    }
}

impl Checker<'_> {
    /// Adds a checked rule to the program, as one rule, or as an edge: a hidden view and a rule on its insertions.
    pub(super) fn place(
        &mut self,
        name: String,
        rule: &ast::Rule,
        head: RuleHead,
        body: Vec<Term>,
        vars: Vec<Var>,
        found: &Found,
    ) {
        let args: Vec<HeadArg> = head.args.iter().map(|arg| arg.lower(&vars)).collect();
        let rel = if head.remote_row {
            self.remote_row(head.rel, &rule.span)
        } else {
            head.rel
        };
        let edge = found.positive.is_empty()
            && matches!(head.action, Action::Emit | Action::Next | Action::Send);
        if !edge {
            return self.push(
                name,
                Head {
                    rel,
                    action: head.action,
                    args,
                },
                body,
                vars,
                &rule.span,
            );
        }
        let hidden = self.hidden_view(rel, &rule.span);
        let view_rule = Head {
            rel: hidden,
            action: Action::Derive,
            args,
        };
        self.push(name.clone(), view_rule, body, vars, &rule.span);
        let Some(fired) = self.edge(hidden, true, &rule.span) else {
            return;
        };
        let (vars, atom) = self.whole_row(fired, &rule.span);
        let args = atom.args.iter().filter_map(|arg| match arg {
            Arg::Var(v) => Some(HeadArg::Expr(Expr::Var(*v))),
            _ => None,
        });
        let head = Head {
            rel,
            action: head.action,
            args: args.collect(),
        };
        self.push(
            format!("{name}#insert"),
            head,
            vec![Term::Atom(atom)],
            vars,
            &rule.span,
        );
    }

    /// A kept view with the columns of an event.
    fn hidden_view(&mut self, rel: RelId, span: &Span) -> RelId {
        let number = self
            .names
            .keys()
            .filter(|n| n.starts_with("$edge_") && !n.contains('#'))
            .count()
            + 1;
        let columns: Vec<Column> = self.relation(rel).columns.clone();
        let keys = (0..columns.len()).collect();
        let kind = RelKind::View {
            kept: true,
            invariant: false,
        };
        let name = format!("$edge_{number}");
        let relation = Relation {
            name,
            kind,
            columns,
            keys,
            location: None,
            eager: false,
            span: span.clone(),
        };
        self.add_relation(
            relation,
            Info {
                kept: true,
                read_only: true,
                ..Info::default()
            },
        )
    }

    /// The event by which rows of an original table travel to other nodes, and the rule that inserts them there.
    fn remote_row(&mut self, table: RelId, span: &Span) -> RelId {
        let relation = self.relation(table).clone();
        let name = format!("$remote_{}", relation.name);
        if let Some(id) = self.names.get(&name) {
            return *id;
        }
        let keys = (0..relation.columns.len()).collect();
        let kind = RelKind::Event { timer_ns: None };
        let event = Relation {
            name: name.clone(),
            kind,
            keys,
            span: span.clone(),
            ..relation
        };
        let id = self.add_relation(
            event,
            Info {
                read_only: true,
                ..Info::default()
            },
        );
        let (vars, atom): (Vec<Var>, Atom) = self.whole_row(id, span);
        let ids = (0..vars.len()).filter_map(|v| u32::try_from(v).ok());
        let args = ids.map(|v| HeadArg::Expr(Expr::Var(VarId(v)))).collect();
        self.push(
            name,
            Head {
                rel: table,
                action: Action::Insert,
                args,
            },
            vec![Term::Atom(atom)],
            vars,
            span,
        );
        id
    }
}
