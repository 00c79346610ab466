//! Expressions, by precedence: `?:`, `||`, `&&`, equality, order, `+ -`, `* / %`, unary, indexing.

use super::{Parse, Parser, depth_above, list};
use crate::ast::{Expr, ExprKind};
use crate::diag::{Diagnostic, code};
use crate::ir::{BinaryOp, UnaryOp};
use crate::lexer::Tok;
use crate::value::Value;

/// The precedence of `+`: the least one inside the angle brackets of an aggregate.
const SUM: u8 = 5;

/// The magnitude of the least int.
const MIN_MAGNITUDE: u64 = 1 << 63;

impl Parser {
    /// Any expression.
    pub(super) fn expr(&mut self) -> Parse<Expr> {
        self.nested(|p| {
            let start = p.here();
            let cond = p.binary(1)?;
            if !p.eat(&Tok::Question) {
                return Ok(cond);
            }
            let yes = p.expr()?;
            // `c ? a :-1`
            let negative = *p.peek() == Tok::If;
            if !p.eat(&Tok::If) {
                p.expect(&Tok::Colon)?;
            }
            let from = p.here();
            let mut no = p.expr()?;
            if negative {
                no = p.negate(no, from)?;
            }
            let depth = depth_above([&cond, &yes, &no]);
            let kind = ExprKind::Cond(Box::new(cond), Box::new(yes), Box::new(no));
            let span = p.span_from(start);
            p.bounded(Expr { kind, span, depth })
        })
    }

    /// A sum: what an aggregate takes without parentheses.
    pub(super) fn sum(&mut self) -> Parse<Expr> {
        self.nested(|p| p.binary(SUM))
    }

    fn binary(&mut self, least: u8) -> Parse<Expr> {
        let start = self.here();
        let mut left = self.unary()?;
        while let Some((op, precedence)) = operator(self.peek()).filter(|(_, p)| *p >= least) {
            self.advance();
            let right = self.nested(|p| p.binary(precedence + 1))?;
            let depth = depth_above([&left, &right]);
            let kind = ExprKind::Binary(op, Box::new(left), Box::new(right));
            let span = self.span_from(start);
            left = self.bounded(Expr { kind, span, depth })?;
        }
        Ok(left)
    }

    pub(super) fn unary(&mut self) -> Parse<Expr> {
        let start = self.here();
        if let (Tok::Minus, Tok::Int(magnitude) | Tok::Duration(magnitude)) =
            (self.peek(), self.peek_at(1).clone())
        {
            self.advance();
            self.advance();
            let value = 0_i64.checked_sub_unsigned(magnitude).unwrap_or(i64::MIN);
            let literal = self.constant(Value::Int(value), start);
            return self.postfix(literal, start);
        }
        let op = match self.peek() {
            Tok::Minus => UnaryOp::Neg,
            Tok::Not => UnaryOp::Not,
            _ => {
                let inner = self.primary()?;
                return self.postfix(inner, start);
            }
        };
        self.advance();
        let inner = self.nested(Parser::unary)?;
        let depth = inner.depth + 1;
        let span = self.span_from(start);
        self.bounded(Expr {
            kind: ExprKind::Unary(op, Box::new(inner)),
            span,
            depth,
        })
    }

    fn postfix(&mut self, mut expr: Expr, start: usize) -> Parse<Expr> {
        loop {
            if self.eat(&Tok::LBracket) {
                let index = self.expr()?;
                self.expect(&Tok::RBracket)?;
                let depth = depth_above([&expr, &index]);
                let kind = ExprKind::Index(Box::new(expr), Box::new(index));
                let span = self.span_from(start);
                expr = self.bounded(Expr { kind, span, depth })?;
            } else if *self.peek() == Tok::Dot {
                return self.java_call(start);
            } else {
                return Ok(expr);
            }
        }
    }

    fn constant(&mut self, value: Value, start: usize) -> Expr {
        Expr {
            kind: ExprKind::Const(value),
            span: self.span_from(start),
            depth: 1,
        }
    }

    pub(super) fn primary(&mut self) -> Parse<Expr> {
        let start = self.here();
        let span = self.token_span();
        let value = match self.peek().clone() {
            Tok::Ident(name) => return self.name(&name),
            Tok::Int(magnitude) | Tok::Duration(magnitude) if magnitude >= MIN_MAGNITUDE => {
                self.report(Diagnostic::error(
                    code::BAD_NUMBER,
                    &span,
                    format!("`{magnitude}` does not fit 64 bits"),
                ));
                Value::Int(0)
            }
            Tok::Int(magnitude) | Tok::Duration(magnitude) => {
                Value::Int(i64::try_from(magnitude).unwrap_or(i64::MAX))
            }
            Tok::Float(x) => Value::float(x),
            Tok::Str(s) => Value::str(s),
            Tok::Bytes(b) => Value::bytes(b),
            Tok::At if matches!(self.peek_at(1), Tok::Str(_)) => {
                self.advance();
                let Tok::Str(s) = self.peek().clone() else {
                    return self.expected("an address");
                };
                Value::addr(s)
            }
            Tok::At => {
                let diag = Diagnostic::error(
                    code::BAD_LOCATION,
                    &span,
                    "`@` marks an argument of a relation as its location",
                );
                return self.fail(diag.hint("an address literal is @\"host:port\""));
            }
            Tok::LParen => {
                self.advance();
                let mut inner = self.expr()?;
                self.expect(&Tok::RParen)?;
                inner.span = self.span_from(start);
                return Ok(inner);
            }
            Tok::LBracket => {
                self.advance();
                let items = list(self, &Tok::RBracket, Parser::expr)?;
                let depth = depth_above(&items);
                let span = self.span_from(start);
                return self.bounded(Expr {
                    kind: ExprKind::List(items),
                    span,
                    depth,
                });
            }
            _ => return self.expected("a value"),
        };
        self.advance();
        Ok(self.constant(value, start))
    }

    fn name(&mut self, name: &str) -> Parse<Expr> {
        let start = self.here();
        let ident = self.ident("a value")?;
        let span = ident.span.clone();
        if self.eat(&Tok::LParen) {
            let args = list(self, &Tok::RParen, Parser::expr)?;
            let depth = depth_above(&args);
            let span = self.span_from(start);
            return self.bounded(Expr {
                kind: ExprKind::Call(ident, args),
                span,
                depth,
            });
        }
        if *self.peek() == Tok::Dot {
            return self.java_call(start);
        }
        let kind = match name {
            "_" => ExprKind::Any,
            "true" => ExprKind::Const(Value::Bool(true)),
            "false" => ExprKind::Const(Value::Bool(false)),
            "nan" => ExprKind::Const(Value::float(f64::NAN)),
            "inf" | "infinity" => ExprKind::Const(Value::float(f64::INFINITY)),
            "null" => {
                let diag = Diagnostic::error(code::BARE_NAME, &span, "there is no null");
                return self.fail(diag.hint("use a value of the column's type, or no row"));
            }
            _ if is_variable(name) => ExprKind::Var(name.to_owned()),
            _ if *self.peek() == Tok::Lt && super::rule::aggregate_named(name).is_some() => {
                let diag = Diagnostic::error(
                    code::MISPLACED_AGGREGATE,
                    &span,
                    "an aggregate cannot stand inside an expression",
                );
                return self.fail(
                    diag.hint("aggregates stand alone in a head, or in N := count<X> { terms }"),
                );
            }
            _ => {
                let diag =
                    Diagnostic::error(code::BARE_NAME, &span, format!("`{name}` is no value"));
                return self.fail(
                    diag.hint("variables begin with a capital letter or _; strings are quoted"),
                );
            }
        };
        Ok(Expr {
            kind,
            span,
            depth: 1,
        })
    }
}

/// Does a name denote a variable?
pub fn is_variable(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_uppercase() || c == '_')
}

fn operator(tok: &Tok) -> Option<(BinaryOp, u8)> {
    Some(match tok {
        Tok::Or => (BinaryOp::Or, 1),
        Tok::And => (BinaryOp::And, 2),
        Tok::EqEq => (BinaryOp::Eq, 3),
        Tok::Ne => (BinaryOp::Ne, 3),
        Tok::Lt => (BinaryOp::Lt, 4),
        Tok::Le => (BinaryOp::Le, 4),
        Tok::Gt => (BinaryOp::Gt, 4),
        Tok::Ge => (BinaryOp::Ge, 4),
        Tok::Plus => (BinaryOp::Add, SUM),
        Tok::Minus => (BinaryOp::Sub, SUM),
        Tok::Star => (BinaryOp::Mul, 6),
        Tok::Slash => (BinaryOp::Div, 6),
        Tok::Percent => (BinaryOp::Rem, 6),
        _ => return None,
    })
}
