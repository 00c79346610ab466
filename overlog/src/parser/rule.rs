//! Rules, facts and the terms of bodies.

use super::{Parse, Parser, list};
use crate::ast::{Agg, Arg, ArgValue, Atom, Expr, ExprKind, Item, Modifier, Rule, Term};
use crate::diag::{Diagnostic, code};
use crate::ir::{AggOp, Span, UnaryOp};
use crate::lexer::Tok;

impl Parser {
    /// `[public] [name:] [delete|update|next] head [:- body];`
    pub(super) fn rule_or_fact(&mut self) -> Parse<Item> {
        let start = self.here();
        let mut name = None;
        let mut bare_name = false;
        let mut modifier = Modifier::None;
        let mut is_rule = false;
        if self.is_ident(0) && *self.peek_at(1) == Tok::Colon {
            name = Some(self.ident("a name")?);
            self.advance();
            is_rule = true;
        }
        // Each word before the head is followed by a further name.
        while self.is_ident(0) && self.is_ident(1) {
            let word = self.ident("a name")?;
            is_rule = true;
            match word.text.as_str() {
                "public" => {}
                "delete" | "update" | "next" if modifier == Modifier::None => {
                    modifier = match word.text.as_str() {
                        "delete" => Modifier::Delete,
                        "update" => Modifier::Update,
                        _ => Modifier::Next,
                    }
                }
                _ if name.is_none() && modifier == Modifier::None => {
                    name = Some(word);
                    bare_name = true;
                }
                _ => {
                    let message = format!("unexpected `{}` before the head of a rule", word.text);
                    let diag = Diagnostic::error(code::SYNTAX, &word.span, message);
                    return self.fail(
                        diag.hint(
                            "a head follows an optional name: and one of delete, update, next",
                        ),
                    );
                }
            }
        }
        let head = self.atom()?;
        let is_fact = *self.peek() == Tok::Semi;
        if is_fact && !is_rule {
            self.advance();
            return Ok(Item::Fact(head));
        }
        if !self.eat(&Tok::If) {
            return self.expected(if is_rule { "`:-`" } else { "`:-` or `;`" });
        }
        let body = self.body()?;
        self.end()?;
        let span = self.span_from(start);
        Ok(Item::Rule(Rule {
            name,
            bare_name,
            modifier,
            head,
            body,
            span,
        }))
    }

    /// `rel(args)`, `rel#insert(args)`.
    pub(super) fn atom(&mut self) -> Parse<Atom> {
        let start = self.here();
        let rel = self.relation_name()?;
        let mut edge = None;
        if self.eat(&Tok::Hash) {
            edge = Some(if self.eat_word("insert") {
                true
            } else if self.eat_word("delete") {
                false
            } else {
                return self.expected("`insert` or `delete`");
            });
        }
        if *self.peek() == Tok::Dot {
            return self.java_call(start);
        }
        self.expect(&Tok::LParen)?;
        let args = list(self, &Tok::RParen, Parser::arg)?;
        Ok(Atom {
            rel,
            edge,
            args,
            span: self.span_from(start),
        })
    }

    pub(super) fn java_call<T>(&mut self, start: usize) -> Parse<T> {
        while (*self.peek() == Tok::Dot || self.is_ident(0)) && *self.peek() != Tok::Eof {
            self.advance();
        }
        let span = self.span_from(start);
        let diag = Diagnostic::error(code::FOREIGN_CODE, &span, "Java code cannot run here");
        self.fail(diag.hint("use a built-in function or one that the host registers"))
    }

    /// An argument: `X`, `@X`, `Col: X`, `Col += X`, `count<X>`.
    pub(super) fn arg(&mut self) -> Parse<Arg> {
        let start = self.here();
        let mut at = self.eat_location();
        let mut name = None;
        let mut add = false;
        let mut negative = false;
        if self.is_ident(0) {
            match self.peek_at(1) {
                Tok::Colon => {}
                Tok::PlusEq => add = true,
                // `Col:-1`
                Tok::If => negative = true,
                _ => {}
            }
            if add || negative || *self.peek_at(1) == Tok::Colon {
                name = Some(self.ident("a column")?);
                self.advance();
                at = self.eat_location() || at;
            }
        }
        let value = if add {
            ArgValue::Add(self.expr()?)
        } else if negative {
            let from = self.here();
            let inner = self.unary()?;
            ArgValue::Expr(self.negate(inner, from)?)
        } else if let Some(op) = self.aggregate_ahead() {
            ArgValue::Agg(self.aggregate(op)?)
        } else {
            ArgValue::Expr(self.expr()?)
        };
        Ok(Arg {
            name,
            at,
            value,
            span: self.span_from(start),
        })
    }

    /// Takes an `@` that marks a location; `@"host:1"` is a literal.
    fn eat_location(&mut self) -> bool {
        *self.peek() == Tok::At && !matches!(self.peek_at(1), Tok::Str(_)) && self.eat(&Tok::At)
    }

    /// `count<` and the like.
    pub(super) fn aggregate_ahead(&self) -> Option<AggOp> {
        let Tok::Ident(name) = self.peek() else {
            return None;
        };
        let op = aggregate_named(name)?;
        (*self.peek_at(1) == Tok::Lt).then_some(op)
    }

    /// `count<X>`, from its name on.
    pub(super) fn aggregate(&mut self, op: AggOp) -> Parse<Agg> {
        let start = self.here();
        self.advance();
        self.expect(&Tok::Lt)?;
        if op == AggOp::Count && *self.peek() == Tok::Star {
            self.advance();
            self.expect(&Tok::Gt)?;
            return Ok(Agg {
                op: AggOp::CountAll,
                args: Vec::new(),
                span: self.span_from(start),
            });
        }
        // A comparison in here needs parentheses, for `>` closes the aggregate.
        let args = list(self, &Tok::Gt, Parser::sum)?;
        let span = self.span_from(start);
        let wanted = match op {
            AggOp::ArgMin | AggOp::ArgMax | AggOp::Top | AggOp::Least => 2,
            _ => 1,
        };
        if args.len() != wanted {
            let message = format!(
                "this aggregate takes {wanted} argument{}, not {}",
                plural(wanted),
                args.len()
            );
            return self.fail(Diagnostic::error(code::FUNCTION_ARITY, &span, message));
        }
        Ok(Agg { op, args, span })
    }

    /// Terms, up to what ends a body.
    pub(super) fn body(&mut self) -> Parse<Vec<Term>> {
        let mut terms = vec![self.term()?];
        while self.eat(&Tok::Comma) {
            terms.push(self.term()?);
        }
        match self.peek() {
            Tok::Semi | Tok::RBrace | Tok::Eof | Tok::If => Ok(terms),
            Tok::Eq => {
                let diag = Diagnostic::error(
                    code::SINGLE_EQUALS,
                    &self.token_span(),
                    "`=` is no operator",
                );
                self.fail(diag.hint("compare with ==, bind a variable with :="))
            }
            Tok::Dot => self.java_call(self.here()),
            _ => self.expected("`,` or the end of the body"),
        }
    }

    fn term(&mut self) -> Parse<Term> {
        if self.is_word(0, "notin") && self.is_ident(1) {
            self.advance();
            return self.atom().map(Term::Not);
        }
        if self.is_ident(0) && *self.peek_at(1) == Tok::Assign {
            return self.assignment();
        }
        if self.is_ident(0)
            && *self.peek_at(1) == Tok::Comma
            && self.is_ident(2)
            && self.is_word(3, "in")
        {
            let pos = self.ident("a variable")?;
            self.advance();
            let item = self.primary()?;
            self.advance();
            return Ok(Term::Unnest {
                pos: Some(pos),
                item,
                list: self.expr()?,
            });
        }
        if self.atom_ahead() {
            return self.atom().map(Term::Atom);
        }
        let expr = self.expr()?;
        if self.eat_word("in") {
            return Ok(Term::Unnest {
                pos: None,
                item: expr,
                list: self.expr()?,
            });
        }
        Ok(Term::Test(expr))
    }

    fn assignment(&mut self) -> Parse<Term> {
        let var = self.ident("a variable")?;
        self.advance();
        let Some(op) = self.aggregate_ahead() else {
            return Ok(Term::Assign(var, self.expr()?));
        };
        let agg = self.aggregate(op)?;
        if *self.peek() != Tok::LBrace {
            let diag = Diagnostic::error(
                code::MISPLACED_AGGREGATE,
                &agg.span,
                "an aggregate in a body needs a body of its own",
            );
            return self.fail(diag.hint("write N := count<X> { terms }"));
        }
        self.advance();
        let body = self.nested(Parser::body)?;
        self.expect(&Tok::RBrace)?;
        Ok(Term::Agg { var, agg, body })
    }

    /// Is this a relation with arguments, and not the start of an expression such as `size(L) > 3`?
    fn atom_ahead(&self) -> bool {
        if !self.is_ident(0) {
            return false;
        }
        let open = match self.peek_at(1) {
            Tok::LParen => self.at + 1,
            Tok::Path | Tok::Hash => return true,
            _ => return false,
        };
        let mut depth = 0_usize;
        for token in self.tokens.get(open..).unwrap_or_default() {
            match &token.tok {
                Tok::LParen => depth += 1,
                Tok::RParen => depth -= 1,
                Tok::Semi | Tok::Eof => return true,
                tok if depth == 0 => return !continues_expression(tok),
                _ => {}
            }
        }
        true
    }

    pub(super) fn negate(&mut self, inner: Expr, start: usize) -> Parse<Expr> {
        let span = self.span_from(start);
        let depth = inner.depth + 1;
        self.bounded(Expr {
            kind: ExprKind::Unary(UnaryOp::Neg, Box::new(inner)),
            span,
            depth,
        })
    }

    /// Refuses an expression that is too deep.
    pub(super) fn bounded(&mut self, expr: Expr) -> Parse<Expr> {
        if expr.depth > super::MAX_DEPTH {
            let span: Span = expr.span.clone();
            return self.too_deep(span);
        }
        Ok(expr)
    }
}

fn continues_expression(tok: &Tok) -> bool {
    match tok {
        Tok::Ident(word) => word == "in",
        Tok::Plus
        | Tok::Minus
        | Tok::Star
        | Tok::Slash
        | Tok::Percent
        | Tok::LBracket
        | Tok::Question => true,
        Tok::EqEq
        | Tok::Ne
        | Tok::Lt
        | Tok::Le
        | Tok::Gt
        | Tok::Ge
        | Tok::And
        | Tok::Or
        | Tok::Eq => true,
        _ => false,
    }
}

/// The aggregate of this name.
pub fn aggregate_named(name: &str) -> Option<AggOp> {
    Some(match name {
        "count" => AggOp::Count,
        "sum" => AggOp::Sum,
        "avg" => AggOp::Avg,
        "min" => AggOp::Min,
        "max" => AggOp::Max,
        "list" => AggOp::List,
        "set" => AggOp::Set,
        "any" => AggOp::Any,
        "argmin" => AggOp::ArgMin,
        "argmax" => AggOp::ArgMax,
        "top" => AggOp::Top,
        "least" => AggOp::Least,
        _ => return None,
    })
}

fn plural(n: usize) -> &'static str {
    if n == 1 { "" } else { "s" }
}
