//! Types: a variable has the type of the columns that it binds and the values that it is assigned.

use super::join;
use super::scope::{Builder, RAgg, RArg, RAtom, RExpr, RKind, RTerm};
use crate::diag::{Diagnostic, code};
use crate::ir::{self, AggOp, BinaryOp, Expr, Span, Type, UnaryOp, VarId};
use crate::value::Value;

impl Builder<'_, '_> {
    /// Finds the types of all variables and reports what does not fit.
    pub(super) fn types(&mut self, body: &[RTerm]) {
        self.types_of_atoms(body);
        // Types only become more definite, so this ends; long chains of := against the order of the text are rare.
        for _ in 0..=self.vars.len() {
            let before: Vec<Type> = self.vars.iter().map(|v| v.ty).collect();
            self.types_of_values(body);
            if self.vars.iter().map(|v| v.ty).eq(before) {
                break;
            }
        }
        self.check_terms(body);
    }

    fn types_of_atoms(&mut self, body: &[RTerm]) {
        for term in body {
            match term {
                RTerm::Atom(atom) | RTerm::Not(atom) => self.types_of_atom(atom),
                RTerm::Agg { body, .. } => self.types_of_atoms(body),
                _ => {}
            }
        }
    }

    fn types_of_atom(&mut self, atom: &RAtom) {
        let relation = self.c.relation(atom.rel).clone();
        for ((arg, span), column) in atom.args.iter().zip(&relation.columns) {
            match arg {
                RArg::Var(var) => self.narrow(*var, column.ty, span),
                RArg::Const(value) if !column.ty.admits(value) => {
                    let message = format!(
                        "column {} of {} is {}, not {}",
                        column.name,
                        relation.name,
                        column.ty.name(),
                        named(value)
                    );
                    self.c.error(code::TYPE_OF_ARGUMENT, span, message);
                }
                _ => {}
            }
        }
    }

    fn types_of_values(&mut self, body: &[RTerm]) {
        for term in body {
            match term {
                RTerm::Assign(var, e) => {
                    let ty = self.type_of(e, false);
                    self.narrow(*var, ty, &e.span);
                }
                RTerm::Unnest {
                    pos: Some(pos),
                    list,
                    ..
                } => self.narrow(*pos, Type::Int, &list.span),
                RTerm::Agg { var, agg, body } => {
                    self.types_of_values(body);
                    let ty = self.type_of_agg(agg, false);
                    self.narrow(*var, ty, &agg.span);
                }
                _ => {}
            }
        }
    }

    fn check_terms(&mut self, body: &[RTerm]) {
        for term in body {
            match term {
                RTerm::Test(e) => self.demand(e, Type::Bool, "a condition"),
                RTerm::Assign(_, e) => {
                    self.type_of(e, true);
                }
                RTerm::Unnest { list, .. } => self.demand(list, Type::List, "what `in` looks into"),
                RTerm::Agg { agg, body, .. } => {
                    self.check_terms(body);
                    self.type_of_agg(agg, true);
                }
                RTerm::Atom(_) | RTerm::Not(_) => {}
            }
        }
    }

    fn demand(&mut self, e: &RExpr, wanted: Type, what: &str) {
        let ty = self.type_of(e, true);
        if join(ty, wanted).is_none() {
            let message = format!("{what} is {}, not {}", wanted.name(), ty.name());
            self.c.error(code::TYPE_OF_OPERANDS, &e.span, message);
        }
    }

    /// A variable also has this type.
    fn narrow(&mut self, var: VarId, ty: Type, span: &Span) {
        let Some(v) = self.vars.get_mut(var.0 as usize) else {
            return;
        };
        match join(v.ty, ty) {
            Some(joined) => v.ty = joined,
            None if v.conflict => {}
            None => {
                v.conflict = true;
                let name = if v.name.starts_with('_') {
                    "this value".to_owned()
                } else {
                    v.name.clone()
                };
                let message = format!(
                    "{name} is {} here, and {} elsewhere in the rule",
                    ty.name(),
                    v.ty.name()
                );
                let diag = Diagnostic::error(code::TYPE_OF_VARIABLE, span, message);
                self.c.report(match conversion(v.ty, ty) {
                    Some(hint) => diag.hint(hint),
                    None => diag,
                });
            }
        }
    }

    fn operands(
        &mut self,
        report: bool,
        span: &Span,
        message: impl FnOnce() -> String,
        hint: Option<&str>,
    ) -> Type {
        if report {
            let mut diag = Diagnostic::error(code::TYPE_OF_OPERANDS, span, message());
            diag.hint = hint.map(str::to_owned);
            self.c.report(diag);
        }
        Type::Any
    }

    /// The type of an expression, `Any` where it is not known.
    pub(super) fn type_of(&mut self, e: &RExpr, report: bool) -> Type {
        match &e.kind {
            RKind::Const(value) => of(value),
            RKind::Var(v) => self.vars.get(v.0 as usize).map_or(Type::Any, |v| v.ty),
            RKind::Bad => Type::Any,
            RKind::Unary(op, x) => {
                let ty = self.type_of(x, report);
                match (op, ty) {
                    (_, Type::Any) => {
                        if *op == UnaryOp::Not {
                            Type::Bool
                        } else {
                            Type::Any
                        }
                    }
                    (UnaryOp::Not, Type::Bool) | (UnaryOp::Neg, Type::Int | Type::Float) => ty,
                    (UnaryOp::Not, _) => {
                        self.operands(report, &e.span, || format!("`!` of {}", ty.name()), None)
                    }
                    (UnaryOp::Neg, _) => {
                        self.operands(report, &e.span, || format!("`-` of {}", ty.name()), None)
                    }
                }
            }
            RKind::Binary(op, x, y) => {
                let (a, b) = (self.type_of(x, report), self.type_of(y, report));
                self.type_of_binary(*op, a, b, &e.span, report)
            }
            RKind::Cond(c, x, y) => {
                let condition = self.type_of(c, report);
                if join(condition, Type::Bool).is_none() {
                    self.operands(
                        report,
                        &c.span,
                        || format!("a condition is bool, not {}", condition.name()),
                        None,
                    );
                }
                let (a, b) = (self.type_of(x, report), self.type_of(y, report));
                match join(a, b) {
                    // A branch of any type makes the whole any.
                    Some(_) if a == Type::Any || b == Type::Any => Type::Any,
                    Some(ty) => ty,
                    None => {
                        let message =
                            || format!("the branches of `?` are {} and {}", a.name(), b.name());
                        self.operands(report, &e.span, message, None)
                    }
                }
            }
            RKind::List(items) => {
                for item in items {
                    self.type_of(item, report);
                }
                Type::List
            }
            RKind::Index(list, at) => {
                let (list_ty, at_ty) = (self.type_of(list, report), self.type_of(at, report));
                if join(list_ty, Type::List).is_none() || join(at_ty, Type::Int).is_none() {
                    let message = || {
                        format!(
                            "`[]` takes a list and an int, not {} and {}",
                            list_ty.name(),
                            at_ty.name()
                        )
                    };
                    self.operands(report, &e.span, message, None);
                }
                Type::Any
            }
            RKind::Call(id, args) => self.type_of_call(*id, args, e, report),
        }
    }

    fn type_of_binary(
        &mut self,
        op: BinaryOp,
        a: Type,
        b: Type,
        span: &Span,
        report: bool,
    ) -> Type {
        let joined = join(a, b);
        let fits = match op {
            BinaryOp::Eq
            | BinaryOp::Ne
            | BinaryOp::Lt
            | BinaryOp::Le
            | BinaryOp::Gt
            | BinaryOp::Ge => joined.is_some(),
            BinaryOp::And | BinaryOp::Or => matches!(joined, Some(Type::Bool | Type::Any)),
            BinaryOp::Add => {
                matches!(
                    joined,
                    Some(
                        Type::Any | Type::Int | Type::Float | Type::Str | Type::Bytes | Type::List
                    )
                )
            }
            _ => matches!(joined, Some(Type::Any | Type::Int | Type::Float)),
        };
        if !fits {
            let hint = conversion(a, b);
            let message = || {
                format!(
                    "`{}` of {} and {}",
                    crate::expr::symbol(op),
                    a.name(),
                    b.name()
                )
            };
            self.operands(report, span, message, hint);
        }
        match op {
            BinaryOp::Add | BinaryOp::Sub | BinaryOp::Mul | BinaryOp::Div | BinaryOp::Rem => {
                // With one side any the result is what the other side is, or an error at run time.
                joined.unwrap_or(Type::Any)
            }
            _ => Type::Bool,
        }
    }

    fn type_of_call(&mut self, id: ir::FnId, args: &[RExpr], e: &RExpr, report: bool) -> Type {
        let types: Vec<Type> = args.iter().map(|x| self.type_of(x, report)).collect();
        let Some(function) = self.c.program.functions.get(id.0 as usize).cloned() else {
            return Type::Any;
        };
        for ((wanted, found), arg) in function.args.iter().zip(&types).zip(args) {
            if join(*wanted, *found).is_none() {
                let message = || {
                    format!(
                        "{} takes {} here, not {}",
                        function.name,
                        wanted.name(),
                        found.name()
                    )
                };
                self.operands(report, &arg.span, message, None);
            }
        }
        match (function.name.as_str(), types.as_slice(), function.result) {
            ("min" | "max", [a, b], Type::Any) => match join(*a, *b) {
                Some(_) if *a == Type::Any || *b == Type::Any => Type::Any,
                Some(ty) => ty,
                None => {
                    let message = || format!("{} of {} and {}", function.name, a.name(), b.name());
                    self.operands(report, &e.span, message, None)
                }
            },
            ("abs", [a], Type::Any) => match a {
                Type::Any | Type::Int | Type::Float => *a,
                _ => self.operands(report, &e.span, || format!("abs of {}", a.name()), None),
            },
            ("size", [a], _) if matches!(a, Type::Bool | Type::Int | Type::Float | Type::Addr) => {
                self.operands(report, &e.span, || format!("size of {}", a.name()), None);
                Type::Int
            }
            (_, _, result) => result,
        }
    }

    pub(super) fn type_of_agg(&mut self, agg: &RAgg, report: bool) -> Type {
        let types: Vec<Type> = agg.args.iter().map(|x| self.type_of(x, report)).collect();
        let first = types.first().copied().unwrap_or(Type::Any);
        let number = matches!(first, Type::Any | Type::Int | Type::Float);
        match agg.op {
            AggOp::CountAll | AggOp::Count => Type::Int,
            AggOp::Sum | AggOp::Avg if !number => self.operands(
                report,
                &agg.span,
                || format!("a sum or mean of {}", first.name()),
                None,
            ),
            AggOp::Avg => Type::Float,
            AggOp::Sum | AggOp::Min | AggOp::Max | AggOp::Any => first,
            AggOp::ArgMin | AggOp::ArgMax => types.get(1).copied().unwrap_or(Type::Any),
            AggOp::Top | AggOp::Least if join(first, Type::Int).is_none() => {
                let message = || {
                    format!(
                        "the first argument says how many: an int, not {}",
                        first.name()
                    )
                };
                self.operands(report, &agg.span, message, None);
                Type::List
            }
            AggOp::List | AggOp::Set | AggOp::Top | AggOp::Least => Type::List,
        }
    }
}

impl RExpr {
    pub(super) fn lower(&self) -> Expr {
        let boxed = |e: &RExpr| Box::new(e.lower());
        match &self.kind {
            RKind::Const(value) => Expr::Const(value.clone().into()),
            RKind::Var(v) => Expr::Var(*v),
            RKind::Unary(op, x) => Expr::Unary(*op, boxed(x)),
            RKind::Binary(op, x, y) => Expr::Binary(*op, boxed(x), boxed(y)),
            RKind::Cond(c, x, y) => Expr::Cond(boxed(c), boxed(x), boxed(y)),
            RKind::List(items) => Expr::List(items.iter().map(RExpr::lower).collect()),
            RKind::Index(list, at) => Expr::Index(boxed(list), boxed(at)),
            RKind::Call(id, args) => Expr::Call(*id, args.iter().map(RExpr::lower).collect()),
            // An error was reported, so nothing ever evaluates this.
            RKind::Bad => Expr::Const(Value::Bool(false).into()),
        }
    }
}

pub(super) fn of(value: &Value) -> Type {
    let all = [
        Type::Bool,
        Type::Int,
        Type::Float,
        Type::Str,
        Type::Bytes,
        Type::Addr,
        Type::List,
    ];
    all.into_iter()
        .find(|t| t.admits(value))
        .unwrap_or(Type::Any)
}

/// A value with its type, for messages.
pub(super) fn named(value: &Value) -> String {
    format!("{} {}", of(value).name(), crate::expr::shown(value))
}

/// How to turn one type into the other.
pub(super) fn conversion(a: Type, b: Type) -> Option<&'static str> {
    match (a, b) {
        (Type::Int, Type::Float) | (Type::Float, Type::Int) => {
            Some("ints and floats do not mix: write 1.0, or use float(..) or int(..)")
        }
        (Type::Str, Type::Addr) | (Type::Addr, Type::Str) => {
            Some("an address is written @\"host:port\" or made with addr(..)")
        }
        (Type::Str, other) | (other, Type::Str) if other != Type::Str => {
            Some("str(..) makes a string of any value")
        }
        _ => None,
    }
}
