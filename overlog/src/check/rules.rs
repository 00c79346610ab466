//! Rules, facts and invariants, one by one.

use super::Checker;
use super::heads::Found;
use super::scope::{Builder, RArg, RTerm};
use super::types::named;
use crate::ast::{self, ArgValue, Ident, Item};
use crate::diag::{Diagnostic, code};
use crate::ir::{
    Action, Aggregate, Arg, Atom, Expr, Fact, Head, HeadArg, Lattice, RelId, RelKind, Rule, Span,
    Term, Type, Var, VarId,
};
use crate::value::Value;
use std::collections::BTreeSet;

/// The place of `sys_violation` among the built-in relations.
pub(super) const VIOLATION: RelId = RelId(4);

impl Checker<'_> {
    /// Collects the names that rules give themselves, so that made-up names keep clear of them.
    pub(super) fn name_rules(&mut self, items: &[Item]) {
        for item in items {
            let Item::Rule(ast::Rule {
                name: Some(name),
                bare_name,
                ..
            }) = item
            else {
                continue;
            };
            if !self.rule_names.insert(name.text.clone()) && !bare_name {
                let message = format!("two rules are named {}", name.text);
                self.hinted(
                    code::DUPLICATE_RULE,
                    &name.span,
                    message,
                    "a rule's name is shown by why, in traces and in errors",
                );
            }
        }
    }

    /// The first of `head_1`, `head_2`, .. that is free.
    fn made_up_name(&mut self, head: &str) -> String {
        let free = (1..)
            .map(|n| format!("{head}_{n}"))
            .find(|name| !self.rule_names.contains(name));
        let name = free.unwrap_or_default();
        self.rule_names.insert(name.clone());
        name
    }

    pub(super) fn rule(&mut self, rule: &ast::Rule) {
        let name = match &rule.name {
            Some(name) if !rule.bare_name => name.text.clone(),
            // Original programs use a name more than once.
            Some(name) if self.program.rules.iter().any(|r| r.name == name.text) => {
                self.made_up_name(&name.text)
            }
            Some(name) => name.text.clone(),
            None => self.made_up_name(&rule.head.rel.text),
        };
        let rel = match rule.head.edge {
            None => self.resolve_name(&rule.head.rel),
            Some(_) => {
                self.error(
                    code::READ_ONLY,
                    &rule.head.span,
                    "an edge fires by itself and heads no rule",
                );
                None
            }
        };
        let before = self.diags.len();
        let mut b = Builder::new(self);
        let body = b.open_body(&rule.body);
        let found = b.found(&body);
        let head = rel.and_then(|rel| b.head(rel, rule, &found));
        b.types(&body);
        if let Some(head) = &head {
            b.head_types(head);
        }
        let lowered = b.lower_body(&body);
        b.check_bound(&lowered, &mut BTreeSet::new());
        let vars = b.ir_vars();
        if let (Some(head), true) = (head, self.diags.len() == before) {
            self.place(name, rule, head, lowered, vars, &found);
        }
    }

    pub(super) fn push(
        &mut self,
        name: String,
        head: Head,
        body: Vec<Term>,
        vars: Vec<Var>,
        span: &Span,
    ) {
        self.program.rules.push(Rule {
            name,
            head,
            body,
            vars,
            span: span.clone(),
        });
    }

    /// A value as a column of an original relation takes it.
    pub(super) fn coerce(&self, rel: RelId, at: usize, value: Value) -> Value {
        let addr = self
            .relation(rel)
            .columns
            .get(at)
            .is_some_and(|c| c.ty == Type::Addr);
        match &value {
            Value::Str(s) if addr && self.info(rel).original => Value::addr(s),
            _ => value,
        }
    }

    pub(super) fn fact(&mut self, atom: &ast::Atom) {
        let Some(rel) = self.resolve(atom) else {
            return;
        };
        let relation = self.relation(rel).clone();
        if self.info(rel).read_only || atom.edge.is_some() {
            let message = format!(
                "{} takes no facts: only the system or the host fills it",
                relation.name
            );
            return self.error(code::READ_ONLY, &atom.span, message);
        }
        let before = self.diags.len();
        let mut b = Builder::new(self);
        let Some(args) = b.columns(rel, atom) else {
            return;
        };
        let mut row = Vec::new();
        for (at, (arg, column)) in args.into_iter().zip(&relation.columns).enumerate() {
            let Some(arg) = arg else {
                let message = format!("a fact gives every column, and {} is missing", column.name);
                b.c.error(code::FACT_VARIABLE, &atom.span, message);
                continue;
            };
            let ArgValue::Expr(e) = &arg.value else {
                b.c.error(
                    code::FACT_VARIABLE,
                    &arg.span,
                    "a fact holds constants only",
                );
                continue;
            };
            if !is_ground(e) {
                let hint = "a rule has a body: head :- terms; strings are quoted";
                b.c.hinted(
                    code::FACT_VARIABLE,
                    &arg.span,
                    "a fact holds constants only",
                    hint,
                );
                continue;
            }
            let e = b.expr(e);
            // A call of an unknown function is reported and has no value.
            let Some(value) = e.is_constant().then(|| b.constant(&e)).flatten() else {
                continue;
            };
            let value = b.c.coerce(rel, at, value);
            if column.ty.admits(&value) {
                row.push(if column.lattice == Some(Lattice::Set) {
                    as_set(value)
                } else {
                    value
                });
            } else {
                let message = format!(
                    "column {} of {} is {}, not {}",
                    column.name,
                    relation.name,
                    column.ty.name(),
                    named(&value)
                );
                let mut diag = Diagnostic::error(code::TYPE_OF_ARGUMENT, &arg.span, message);
                diag.hint = super::types::conversion(super::types::of(&value), column.ty)
                    .map(str::to_owned);
                b.c.report(diag);
            }
        }
        if self.diags.len() == before {
            self.program.facts.push(Fact { rel, row });
        }
    }

    /// An invariant is a kept view, or with events an event whose rows are violations.
    pub(super) fn invariant(
        &mut self,
        name: &Ident,
        args: &[ast::Arg],
        terms: &[ast::Term],
        span: &Span,
    ) {
        let Some(rel) = self.names.get(&name.text).copied() else {
            return;
        };
        if self.relation(rel).span.range != name.span.range {
            return; // declared twice, and reported
        }
        let before = self.diags.len();
        let atom = ast::Atom {
            rel: name.clone(),
            edge: None,
            args: positional(args),
            span: span.clone(),
        };
        let modifier = ast::Modifier::None;
        let rule = ast::Rule {
            name: None,
            bare_name: false,
            modifier,
            head: atom,
            body: terms.to_vec(),
            span: span.clone(),
        };
        let mut b = Builder::new(self);
        let body = b.open_body(terms);
        let found = b.found(&body);
        let head = b.head_args(rel, &rule);
        b.types(&body);
        let types: Vec<Type> = head
            .iter()
            .flatten()
            .map(|arg| b.type_of_head(arg, true))
            .collect();
        let lowered = b.lower_body(&body);
        b.check_bound(&lowered, &mut BTreeSet::new());
        let vars = b.ir_vars();
        let (Some(head), true) = (head, self.diags.len() == before) else {
            return;
        };
        let event = self.relation(rel).is_event();
        if !event && (found.hidden_event || found.tick) {
            return self.no_event(rel, span, &found);
        }
        let args = head.iter().map(|arg| arg.lower(&vars)).collect();
        let action = if event { Action::Emit } else { Action::Derive };
        let rule_name = self.made_up_name(&name.text);
        self.push(rule_name, Head { rel, action, args }, lowered, vars, span);
        if let Some(relation) = self.relation_mut(rel) {
            relation
                .columns
                .iter_mut()
                .zip(types)
                .for_each(|(c, ty)| c.ty = ty);
        }
        if event {
            let (vars, atom) = self.whole_row(rel, span);
            let row = (0..vars.len())
                .filter_map(|v| u32::try_from(v).ok())
                .map(|v| Expr::Var(VarId(v)))
                .collect();
            let args = vec![
                HeadArg::Expr(Expr::Const(Value::str(&name.text).into())),
                HeadArg::Expr(Expr::List(row)),
            ];
            let rule_name = self.made_up_name(&name.text);
            let head = Head {
                rel: VIOLATION,
                action: Action::Next,
                args,
            };
            self.push(rule_name, head, vec![Term::Atom(atom)], vars, span);
        }
    }

    /// A variable for each column, and the atom that binds them.
    pub(super) fn whole_row(&self, rel: RelId, span: &Span) -> (Vec<Var>, Atom) {
        let relation = self.relation(rel);
        let vars: Vec<Var> = relation
            .columns
            .iter()
            .map(|c| Var {
                name: format!("_{}", c.name),
                ty: c.ty,
            })
            .collect();
        let ids = (0..vars.len()).filter_map(|v| u32::try_from(v).ok());
        (
            vars,
            Atom {
                rel,
                args: ids.map(|v| Arg::Var(VarId(v))).collect(),
                span: span.clone(),
            },
        )
    }

    /// Reports a rule without a positive event where one is needed.
    pub(super) fn no_event(&mut self, rel: RelId, span: &Span, found: &Found) {
        let name = self.relation(rel).name.clone();
        if found.hidden_event {
            let hint = "what must happen without an event is driven by a timer";
            self.hinted(
                code::NO_POSITIVE_EVENT,
                span,
                "the only events of this body are under notin or in an aggregate",
                hint,
            );
        } else if found.tick {
            let message = format!(
                "a rule for {name} without an event cannot read sys_tick, which changes in every tick"
            );
            self.hinted(
                code::VIEW_READS_TICK,
                span,
                message,
                "add an event, such as a timer",
            );
        } else {
            let message = format!("{name} is a table, and this rule has no event");
            let hint = format!(
                "a table changes by events; what always follows from other relations is a view: view {name}(..)"
            );
            self.hinted(code::TABLE_DERIVED, span, message, hint);
        }
    }
}

impl Builder<'_, '_> {
    pub(super) fn ir_vars(&self) -> Vec<Var> {
        self.vars
            .iter()
            .map(|v| Var {
                name: v.name.clone(),
                ty: v.ty,
            })
            .collect()
    }

    /// The events that a body reads.
    pub(super) fn found(&self, body: &[RTerm]) -> Found {
        let mut found = Found::default();
        for term in body {
            if let RTerm::Atom(atom) = term
                && self.c.relation(atom.rel).is_event()
            {
                found.positive.push(atom.rel);
            }
        }
        self.found_inside(body, true, &mut found);
        found
    }

    fn found_inside(&self, body: &[RTerm], top: bool, found: &mut Found) {
        for term in body {
            match term {
                RTerm::Atom(atom) | RTerm::Not(atom) => {
                    let relation = self.c.relation(atom.rel);
                    found.tick |= relation.kind == RelKind::Tick;
                    let positive = top && matches!(term, RTerm::Atom(_));
                    found.hidden_event |= relation.is_event() && !positive;
                }
                RTerm::Agg { body, .. } => self.found_inside(body, false, found),
                _ => {}
            }
        }
    }

    pub(super) fn lower_body(&self, body: &[RTerm]) -> Vec<Term> {
        self.lower_terms(body, 0)
    }

    fn lower_terms(&self, body: &[RTerm], depth: usize) -> Vec<Term> {
        let atom = |a: &super::scope::RAtom| Atom {
            rel: a.rel,
            args: a.args.iter().map(|(arg, _)| lower_arg(arg)).collect(),
            span: a.span.clone(),
        };
        let lower = |term: &RTerm| match term {
            RTerm::Atom(a) => Term::Atom(atom(a)),
            RTerm::Not(a) => Term::Not(atom(a)),
            RTerm::Test(e) => Term::Test(e.lower()),
            RTerm::Assign(v, e) => Term::Assign(*v, e.lower()),
            RTerm::Unnest { pos, item, list } => Term::Unnest {
                pos: *pos,
                item: *item,
                list: list.lower(),
            },
            RTerm::Agg { var, agg, body } => {
                let body = self.lower_terms(body, depth + 1);
                let agg = Aggregate {
                    op: agg.op,
                    args: agg.args.iter().map(|e| e.lower()).collect(),
                };
                let mut used = BTreeSet::new();
                all_vars(&body, &mut used);
                agg.args.iter().for_each(|e| expr_vars(e, &mut used));
                let outside = |v: &VarId| {
                    self.vars
                        .get(v.0 as usize)
                        .is_some_and(|v| v.depth <= depth)
                };
                let outer = used.into_iter().filter(outside).collect();
                Term::Agg {
                    var: *var,
                    agg,
                    body,
                    outer,
                }
            }
        };
        body.iter().map(lower).collect()
    }

    /// Reports variables that depend on themselves; all that bind nothing at all are reported already.
    pub(super) fn check_bound(&mut self, body: &[Term], bound: &mut BTreeSet<VarId>) {
        bind(body, bound);
        let mut used = BTreeSet::new();
        for term in body {
            match term {
                Term::Agg {
                    var,
                    body,
                    agg,
                    outer,
                } => {
                    used.insert(*var);
                    used.extend(outer);
                    let mut inside = bound.clone();
                    self.check_bound(body, &mut inside);
                    let mut in_agg = BTreeSet::new();
                    agg.args.iter().for_each(|e| expr_vars(e, &mut in_agg));
                    used.extend(in_agg.difference(&inside));
                }
                term => term_vars(term, &mut used),
            }
        }
        for var in used.difference(bound) {
            let Some(v) = self.vars.get_mut(var.0 as usize) else {
                continue;
            };
            if std::mem::replace(&mut v.conflict, true) {
                continue;
            }
            let name = if v.name.starts_with('_') {
                "this value".to_owned()
            } else {
                v.name.clone()
            };
            let span = v.span.clone();
            self.c.hinted(
                code::UNBOUND,
                &span,
                format!("{name} is never bound: it depends on itself"),
                "bind it in a term that needs nothing of it",
            );
        }
    }
}

/// Adds what terms bind, in whatever order they can be evaluated.
fn bind(body: &[Term], bound: &mut BTreeSet<VarId>) {
    let mut pending: Vec<&Term> = body.iter().collect();
    loop {
        let before = pending.len();
        pending.retain(|term| {
            let ready = |e: &Expr| {
                let mut used = BTreeSet::new();
                expr_vars(e, &mut used);
                used.is_subset(bound)
            };
            match term {
                Term::Atom(atom) => bound.extend(atom.args.iter().filter_map(arg_var)),
                Term::Assign(var, e) if ready(e) => {
                    bound.insert(*var);
                }
                Term::Unnest { pos, item, list } if ready(list) => {
                    bound.insert(*item);
                    bound.extend(pos);
                }
                Term::Agg { var, outer, .. } if outer.iter().all(|v| bound.contains(v)) => {
                    bound.insert(*var);
                }
                Term::Not(_) | Term::Test(_) => {}
                _ => return true,
            }
            false
        });
        if pending.len() == before || pending.is_empty() {
            return;
        }
    }
}

fn arg_var(arg: &Arg) -> Option<VarId> {
    match arg {
        Arg::Var(v) => Some(*v),
        _ => None,
    }
}

fn lower_arg(arg: &RArg) -> Arg {
    match arg {
        RArg::Var(v) => Arg::Var(*v),
        RArg::Const(value) => Arg::Const(value.clone()),
        RArg::Any => Arg::Any,
    }
}

/// The variables of an expression.
pub(super) fn expr_vars(e: &Expr, out: &mut BTreeSet<VarId>) {
    match e {
        Expr::Const(_) => {}
        Expr::Var(v) => {
            out.insert(*v);
        }
        Expr::Unary(_, x) => expr_vars(x, out),
        Expr::Binary(_, x, y) | Expr::Index(x, y) => {
            expr_vars(x, out);
            expr_vars(y, out);
        }
        Expr::Cond(c, x, y) => {
            expr_vars(c, out);
            expr_vars(x, out);
            expr_vars(y, out);
        }
        Expr::List(items) | Expr::Call(_, items) => items.iter().for_each(|x| expr_vars(x, out)),
    }
}

/// The variables of a term; of an aggregate, its result and what it shares with the outside.
pub(super) fn term_vars(term: &Term, out: &mut BTreeSet<VarId>) {
    match term {
        Term::Atom(atom) | Term::Not(atom) => out.extend(atom.args.iter().filter_map(arg_var)),
        Term::Test(e) => expr_vars(e, out),
        Term::Assign(v, e) => {
            out.insert(*v);
            expr_vars(e, out);
        }
        Term::Unnest { pos, item, list } => {
            out.extend(pos);
            out.insert(*item);
            expr_vars(list, out);
        }
        Term::Agg { var, outer, .. } => {
            out.insert(*var);
            out.extend(outer);
        }
    }
}

/// All variables of a body, nested ones included.
fn all_vars(body: &[Term], out: &mut BTreeSet<VarId>) {
    for term in body {
        term_vars(term, out);
        if let Term::Agg { body, agg, .. } = term {
            all_vars(body, out);
            agg.args.iter().for_each(|e| expr_vars(e, out));
        }
    }
}

/// An invariant's arguments stand in the order of its columns, whatever names they have.
fn positional(args: &[ast::Arg]) -> Vec<ast::Arg> {
    args.iter()
        .map(|arg| ast::Arg {
            name: None,
            ..arg.clone()
        })
        .collect()
}

/// No variable in it?
fn is_ground(e: &ast::Expr) -> bool {
    use ast::ExprKind as K;
    match &e.kind {
        K::Const(_) => true,
        K::Var(_) | K::Any => false,
        K::Unary(_, x) => is_ground(x),
        K::Binary(_, x, y) | K::Index(x, y) => is_ground(x) && is_ground(y),
        K::Cond(c, x, y) => is_ground(c) && is_ground(x) && is_ground(y),
        K::List(items) | K::Call(_, items) => items.iter().all(is_ground),
    }
}

fn as_set(value: Value) -> Value {
    match &value {
        Value::List(items) => Value::list(
            items
                .iter()
                .cloned()
                .collect::<BTreeSet<_>>()
                .into_iter()
                .collect::<Vec<_>>(),
        ),
        _ => value,
    }
}
