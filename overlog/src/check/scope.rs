//! Names of a rule: variables in the scopes of its bodies, columns, functions.
//!
//! A variable belongs to the outermost body that binds it, by a positive term or `:=`. One that no body
//! binds is existential under `notin` and unbound elsewhere.

use super::Checker;
use crate::ast::{self, ArgValue, ExprKind, Ident, Term};
use crate::diag::{Diagnostic, code};
use crate::expr::{NoVars, eval};
use crate::ir::{AggOp, BinaryOp, FnId, RelId, Span, Type, UnaryOp, VarId};
use crate::parser::is_variable;
use crate::value::Value;
use std::collections::{BTreeMap, BTreeSet};

/// An expression with its names resolved.
pub(super) struct RExpr {
    pub(super) kind: RKind,
    pub(super) span: Span,
}

pub(super) enum RKind {
    Const(Value),
    Var(VarId),
    Unary(UnaryOp, Box<RExpr>),
    Binary(BinaryOp, Box<RExpr>, Box<RExpr>),
    Cond(Box<RExpr>, Box<RExpr>, Box<RExpr>),
    List(Vec<RExpr>),
    Index(Box<RExpr>, Box<RExpr>),
    Call(FnId, Vec<RExpr>),
    /// Reported already.
    Bad,
}

#[derive(Clone, PartialEq, Eq)]
pub(super) enum RArg {
    Var(VarId),
    Const(Value),
    Any,
}

pub(super) struct RAtom {
    pub(super) rel: RelId,
    pub(super) args: Vec<(RArg, Span)>,
    pub(super) span: Span,
}

pub(super) struct RAgg {
    pub(super) op: AggOp,
    pub(super) args: Vec<RExpr>,
    pub(super) span: Span,
}

pub(super) enum RTerm {
    Atom(RAtom),
    Not(RAtom),
    Test(RExpr),
    Assign(VarId, RExpr),
    Unnest {
        pos: Option<VarId>,
        item: VarId,
        list: RExpr,
    },
    Agg {
        var: VarId,
        agg: RAgg,
        body: Vec<RTerm>,
    },
}

/// A variable under construction.
pub(super) struct RVar {
    pub(super) name: String,
    pub(super) ty: Type,
    /// The nesting of the body that it belongs to.
    pub(super) depth: usize,
    /// Its first use.
    pub(super) span: Span,
    /// A conflict of types was reported.
    pub(super) conflict: bool,
}

#[derive(Default)]
struct Scope {
    binders: BTreeSet<String>,
    vars: BTreeMap<String, VarId>,
}

/// A rule under construction.
pub(super) struct Builder<'c, 'a> {
    pub(super) c: &'c mut Checker<'a>,
    pub(super) vars: Vec<RVar>,
    scopes: Vec<Scope>,
    /// The one location of the body's located terms.
    pub(super) location: Option<RArg>,
    unbound: BTreeSet<String>,
    /// Names that only nested bodies bind, for a hint.
    inner: BTreeSet<String>,
}

impl<'c, 'a> Builder<'c, 'a> {
    pub(super) fn new(c: &'c mut Checker<'a>) -> Builder<'c, 'a> {
        let (unbound, inner) = (BTreeSet::new(), BTreeSet::new());
        Builder {
            c,
            vars: Vec::new(),
            scopes: Vec::new(),
            location: None,
            unbound,
            inner,
        }
    }

    /// Opens a body's scope and resolves its terms. The caller closes it.
    pub(super) fn open_body(&mut self, terms: &[Term]) -> Vec<RTerm> {
        let mut scope = Scope::default();
        for term in terms {
            self.binders(term, &mut scope.binders);
        }
        self.scopes.push(scope);
        let mut out = Vec::new();
        for term in terms {
            self.term(term, &mut out);
        }
        out
    }

    pub(super) fn close_body(&mut self) {
        if let Some(scope) = self.scopes.pop() {
            self.inner.extend(scope.binders);
        }
    }

    /// Names that a term binds in its own body.
    fn binders(&self, term: &Term, out: &mut BTreeSet<String>) {
        let mut add = |e: &ast::Expr| {
            if let ExprKind::Var(name) = &e.kind {
                out.insert(name.clone());
            }
        };
        match term {
            Term::Atom(atom) if self.as_test(atom).is_none() => {
                for arg in &atom.args {
                    if let ArgValue::Expr(e) = &arg.value {
                        add(e);
                    }
                }
            }
            Term::Assign(var, _) | Term::Agg { var, .. } => {
                out.insert(var.text.clone());
            }
            Term::Unnest { pos, item, .. } => {
                add(item);
                out.extend(pos.iter().map(|p| p.text.clone()));
            }
            Term::Atom(_) | Term::Not(_) | Term::Test(_) => {}
        }
    }

    /// `starts_with(P, "/a")` looks like a relation and is a test.
    fn as_test(&self, atom: &ast::Atom) -> Option<ast::Expr> {
        let name = &atom.rel.text;
        if atom.edge.is_some() || self.c.names.contains_key(name) || !self.c.is_function(name) {
            return None;
        }
        let args: Option<Vec<ast::Expr>> = atom
            .args
            .iter()
            .map(|arg| match &arg.value {
                ArgValue::Expr(e) if arg.name.is_none() && !arg.at => Some(e.clone()),
                _ => None,
            })
            .collect();
        Some(ast::Expr {
            kind: ExprKind::Call(atom.rel.clone(), args?),
            span: atom.span.clone(),
            depth: 1,
        })
    }

    fn new_var(&mut self, name: String, depth: usize, span: &Span) -> VarId {
        let id = VarId(u32::try_from(self.vars.len()).unwrap_or(u32::MAX));
        self.vars.push(RVar {
            name,
            ty: Type::Any,
            depth,
            span: span.clone(),
            conflict: false,
        });
        id
    }

    fn depth(&self) -> usize {
        self.scopes.len().saturating_sub(1)
    }

    /// A variable of the innermost body that the source does not name.
    fn fresh(&mut self, span: &Span) -> VarId {
        let name = format!("_{}", self.vars.len());
        self.new_var(name, self.depth(), span)
    }

    fn lookup(&mut self, name: &str, span: &Span) -> Option<VarId> {
        let depth = self.scopes.iter().position(|s| s.binders.contains(name))?;
        if let Some(id) = self.scopes.get(depth).and_then(|s| s.vars.get(name)) {
            return Some(*id);
        }
        let id = self.new_var(name.to_owned(), depth, span);
        if let Some(scope) = self.scopes.get_mut(depth) {
            scope.vars.insert(name.to_owned(), id);
        }
        Some(id)
    }

    fn report_unbound(&mut self, name: &str, span: &Span) {
        if !self.unbound.insert(name.to_owned()) {
            return;
        }
        let hint = if self.inner.contains(name) {
            format!("{name} is bound only inside {{ }} and is not seen outside")
        } else {
            format!("bind it in a term without notin, or with {name} := ..")
        };
        self.c
            .hinted(code::UNBOUND, span, format!("{name} is not bound"), hint);
    }

    /// The variable that a term assigns.
    fn target(&mut self, name: &Ident) -> VarId {
        if name.text == "_" {
            self.c
                .error(code::WILDCARD, &name.span, "`_` names no variable");
        } else if !is_variable(&name.text) {
            let message = format!("`{}` is no variable", name.text);
            self.c.hinted(
                code::BARE_NAME,
                &name.span,
                message,
                "variables begin with a capital letter or _",
            );
        }
        match self.lookup(&name.text, &name.span) {
            Some(id) => id,
            None => self.fresh(&name.span),
        }
    }

    fn term(&mut self, term: &Term, out: &mut Vec<RTerm>) {
        match term {
            Term::Atom(atom) => match self.as_test(atom) {
                Some(test) => {
                    let test = self.expr(&test);
                    out.push(RTerm::Test(test));
                }
                None => {
                    if let Some(atom) = self.atom(atom, false, out) {
                        out.push(RTerm::Atom(atom));
                    }
                }
            },
            Term::Not(atom) if self.repeats_existential(atom) => self.not_as_count(atom, out),
            Term::Not(atom) => {
                if let Some(atom) = self.atom(atom, true, out) {
                    out.push(RTerm::Not(atom));
                }
            }
            Term::Test(e) => {
                let e = self.expr(e);
                out.push(RTerm::Test(e));
            }
            Term::Assign(var, e) => {
                let var = self.target(var);
                let e = self.expr(e);
                out.push(RTerm::Assign(var, e));
            }
            Term::Unnest { pos, item, list } => {
                let pos = pos
                    .as_ref()
                    .filter(|p| p.text != "_")
                    .map(|p| self.target(p));
                let item = self.item(item, out);
                let list = self.expr(list);
                out.push(RTerm::Unnest { pos, item, list });
            }
            Term::Agg { var, agg, body } => {
                let var = self.target(var);
                self.aggregate(var, agg, body, out);
            }
        }
    }

    fn aggregate(&mut self, var: VarId, agg: &ast::Agg, body: &[Term], out: &mut Vec<RTerm>) {
        let body = self.open_body(body);
        let agg = self.agg(agg);
        self.close_body();
        out.push(RTerm::Agg { var, agg, body });
    }

    /// The element of an unnested list: a variable, or an expression that it must equal.
    fn item(&mut self, item: &ast::Expr, out: &mut Vec<RTerm>) -> VarId {
        match &item.kind {
            ExprKind::Any => self.fresh(&item.span),
            ExprKind::Var(name) => match self.lookup(name, &item.span) {
                Some(id) => id,
                None => self.fresh(&item.span),
            },
            _ => {
                let e = self.expr(item);
                let var = self.fresh(&item.span);
                out.push(RTerm::Assign(var, e));
                var
            }
        }
    }

    /// `notin p(X, X)` with an existential X asks more than wildcards can say.
    fn repeats_existential(&mut self, atom: &ast::Atom) -> bool {
        let mut seen = BTreeSet::new();
        atom.args.iter().any(|arg| match &arg.value {
            ArgValue::Expr(ast::Expr {
                kind: ExprKind::Var(name),
                ..
            }) => {
                !self.scopes.iter().any(|s| s.binders.contains(name)) && !seen.insert(name.as_str())
            }
            _ => false,
        })
    }

    /// `notin p(X, X)` is `N := count<*> { p(X, X) }, N == 0`.
    fn not_as_count(&mut self, atom: &ast::Atom, out: &mut Vec<RTerm>) {
        let span = &atom.span;
        let var = self.fresh(span);
        let agg = ast::Agg {
            op: AggOp::CountAll,
            args: Vec::new(),
            span: span.clone(),
        };
        self.aggregate(var, &agg, &[Term::Atom(atom.clone())], out);
        let side = |kind| {
            Box::new(RExpr {
                kind,
                span: span.clone(),
            })
        };
        let kind = RKind::Binary(
            BinaryOp::Eq,
            side(RKind::Var(var)),
            side(RKind::Const(Value::Int(0))),
        );
        out.push(RTerm::Test(RExpr {
            kind,
            span: span.clone(),
        }));
    }

    fn atom(&mut self, atom: &ast::Atom, negated: bool, out: &mut Vec<RTerm>) -> Option<RAtom> {
        let Some(rel) = self.c.resolve(atom) else {
            // Look into the arguments all the same, for what else may be wrong there.
            for arg in &atom.args {
                if let (ArgValue::Expr(e), false) = (&arg.value, negated) {
                    self.argument(e, None, negated, out);
                }
            }
            return None;
        };
        let by_column = self.columns(rel, atom)?;
        let mut args = Vec::new();
        for (at, arg) in by_column.into_iter().enumerate() {
            let Some(arg) = arg else {
                args.push((RArg::Any, atom.span.clone()));
                continue;
            };
            let value = match &arg.value {
                ArgValue::Expr(e) => self.argument(e, Some((rel, at)), negated, out),
                ArgValue::Agg(agg) => {
                    let hint = "aggregates stand in a head, or in N := count<X> { terms }";
                    self.c.hinted(
                        code::MISPLACED_AGGREGATE,
                        &agg.span,
                        "an aggregate cannot be an argument here",
                        hint,
                    );
                    RArg::Any
                }
                ArgValue::Add(_) => {
                    self.c.error(
                        code::BAD_UPDATE,
                        &arg.span,
                        "`+=` belongs in the head of an update",
                    );
                    RArg::Any
                }
            };
            args.push((value, arg.span.clone()));
        }
        let resolved = RAtom {
            rel,
            args,
            span: atom.span.clone(),
        };
        self.locate(&resolved);
        Some(resolved)
    }

    /// The located terms of a body share one location.
    fn locate(&mut self, atom: &RAtom) {
        let Some(at) = self.c.relation(atom.rel).location else {
            return;
        };
        let Some((arg, span)) = atom.args.get(at).filter(|(arg, _)| *arg != RArg::Any) else {
            return;
        };
        match &self.location {
            None => self.location = Some(arg.clone()),
            Some(first) if first == arg => {}
            Some(_) => {
                let hint = "a body is evaluated at one node; send a message to the other";
                self.c.hinted(
                    code::TWO_LOCATIONS,
                    span,
                    "this term is at another location than those before it",
                    hint,
                );
            }
        }
    }

    fn argument(
        &mut self,
        e: &ast::Expr,
        column: Option<(RelId, usize)>,
        negated: bool,
        out: &mut Vec<RTerm>,
    ) -> RArg {
        match &e.kind {
            ExprKind::Any => return RArg::Any,
            ExprKind::Var(name) => {
                return match self.lookup(name, &e.span) {
                    Some(id) => RArg::Var(id),
                    None if negated => RArg::Any,
                    None => {
                        self.report_unbound(name, &e.span);
                        RArg::Any
                    }
                };
            }
            _ => {}
        }
        let resolved = self.expr(e);
        if resolved.is_constant() {
            return match (self.constant(&resolved), column) {
                (Some(value), Some((rel, at))) => RArg::Const(self.c.coerce(rel, at, value)),
                (Some(value), None) => RArg::Const(value),
                (None, _) => RArg::Any,
            };
        }
        if matches!(resolved.kind, RKind::Bad) {
            return RArg::Any;
        }
        let var = self.fresh(&e.span);
        out.push(RTerm::Assign(var, resolved));
        RArg::Var(var)
    }

    /// The value of an expression without variables. One that has none is reported.
    pub(super) fn constant(&mut self, e: &RExpr) -> Option<Value> {
        if let RKind::Const(value) = &e.kind {
            return Some(value.clone());
        }
        match eval(&e.lower(), &NoVars, &self.c.program.functions) {
            Ok(value) => Some(value),
            Err(why) => {
                self.c.error(
                    code::CONSTANT_FAILS,
                    &e.span,
                    format!("this constant has no value: {why}"),
                );
                None
            }
        }
    }

    pub(super) fn agg(&mut self, agg: &ast::Agg) -> RAgg {
        let args = agg.args.iter().map(|e| self.expr(e)).collect();
        RAgg {
            op: agg.op,
            args,
            span: agg.span.clone(),
        }
    }

    pub(super) fn expr(&mut self, e: &ast::Expr) -> RExpr {
        let kind = match &e.kind {
            ExprKind::Const(value) => RKind::Const(value.clone()),
            ExprKind::Any => {
                self.c.hinted(
                    code::WILDCARD,
                    &e.span,
                    "`_` has no value",
                    "name the variable",
                );
                RKind::Bad
            }
            ExprKind::Var(name) => match self.lookup(name, &e.span) {
                Some(id) => RKind::Var(id),
                None => {
                    self.report_unbound(name, &e.span);
                    RKind::Bad
                }
            },
            ExprKind::Unary(op, x) => RKind::Unary(*op, Box::new(self.expr(x))),
            ExprKind::Binary(op, x, y) => {
                RKind::Binary(*op, Box::new(self.expr(x)), Box::new(self.expr(y)))
            }
            ExprKind::Cond(c, x, y) => RKind::Cond(
                Box::new(self.expr(c)),
                Box::new(self.expr(x)),
                Box::new(self.expr(y)),
            ),
            ExprKind::List(items) => RKind::List(items.iter().map(|x| self.expr(x)).collect()),
            ExprKind::Index(list, at) => {
                RKind::Index(Box::new(self.expr(list)), Box::new(self.expr(at)))
            }
            ExprKind::Call(name, args) => {
                let args: Vec<RExpr> = args.iter().map(|x| self.expr(x)).collect();
                match self.c.function(name, args.len(), &e.span) {
                    Some(id) => RKind::Call(id, args),
                    None => RKind::Bad,
                }
            }
        };
        RExpr {
            kind,
            span: e.span.clone(),
        }
    }

    /// One argument, or none, for each column.
    pub(super) fn columns<'t>(
        &mut self,
        rel: RelId,
        atom: &'t ast::Atom,
    ) -> Option<Vec<Option<&'t ast::Arg>>> {
        let relation = self.c.relation(rel).clone();
        let names: Vec<&str> = relation.columns.iter().map(|c| c.name.as_str()).collect();
        let mut out: Vec<Option<&ast::Arg>> = vec![None; names.len()];
        let positional = atom.args.iter().take_while(|a| a.name.is_none()).count();
        let by_name = positional < atom.args.len();
        let missing = positional < names.len() && !by_name && !self.c.info(rel).original;
        if positional > names.len() || missing {
            let message = format!(
                "{} has {}, not {positional}",
                relation.name,
                super::plural(names.len(), "column")
            );
            let mut diag = Diagnostic::error(code::ARITY, &atom.span, message);
            if missing {
                let first = names.first().copied().unwrap_or_default();
                diag = diag.hint(format!(
                    "name the columns you need: {}({first}: ..)",
                    relation.name
                ));
            }
            self.c.report(diag);
            return None;
        }
        let mut ok = true;
        for (i, arg) in atom.args.iter().enumerate() {
            let at = match &arg.name {
                None if i < positional => i,
                None => {
                    let hint = "arguments by position come first";
                    self.c.hinted(
                        code::ARGUMENT_ORDER,
                        &arg.span,
                        "this argument follows one by name",
                        hint,
                    );
                    ok = false;
                    continue;
                }
                Some(name) => match names.iter().position(|n| *n == name.text) {
                    Some(at) => at,
                    None => {
                        let message = format!("{} has no column {}", relation.name, name.text);
                        let hint = format!("its columns are {}", names.join(", "));
                        self.c
                            .hinted(code::UNKNOWN_COLUMN, &name.span, message, hint);
                        ok = false;
                        continue;
                    }
                },
            };
            if arg.at && relation.location != Some(at) {
                let message = format!(
                    "column {} of {} is no location",
                    names.get(at).unwrap_or(&""),
                    relation.name
                );
                self.c.hinted(
                    code::BAD_LOCATION,
                    &arg.span,
                    message,
                    "mark it with @ where the relation is declared",
                );
            }
            match out.get_mut(at) {
                Some(slot @ None) => *slot = Some(arg),
                _ => {
                    let message = format!("column {} is given twice", names.get(at).unwrap_or(&""));
                    self.c.error(code::ARGUMENT_TWICE, &arg.span, message);
                    ok = false;
                }
            }
        }
        ok.then_some(out)
    }
}

impl RExpr {
    pub(super) fn is_constant(&self) -> bool {
        match &self.kind {
            RKind::Const(_) => true,
            RKind::Var(_) | RKind::Bad => false,
            RKind::Unary(_, x) => x.is_constant(),
            RKind::Binary(_, x, y) | RKind::Index(x, y) => x.is_constant() && y.is_constant(),
            RKind::Cond(c, x, y) => c.is_constant() && x.is_constant() && y.is_constant(),
            RKind::List(items) | RKind::Call(_, items) => items.iter().all(RExpr::is_constant),
        }
    }
}
