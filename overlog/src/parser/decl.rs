//! Declarations, in our forms and in the original ones.

use super::{Failed, Parse, Parser, list};
use crate::ast::{ColumnDecl, Decl, DeclKind, Ident, Item, Key};
use crate::diag::{Diagnostic, code};
use crate::ir::{Lattice, Span, Type};
use crate::lexer::Tok;

const MS: u64 = 1_000_000;

impl Parser {
    /// One statement; `None` for one that says nothing (`program p;`, a lone `;`).
    pub(super) fn item(&mut self) -> Parse<Option<Item>> {
        if self.eat(&Tok::Semi) {
            return Ok(None);
        }
        let start = self.here();
        let Tok::Ident(word) = self.peek().clone() else {
            return self.expected("a statement");
        };
        let parens = *self.peek_at(1) == Tok::LParen;
        let named = self.is_ident(1);
        let item = match word.as_str() {
            "program" if named => {
                self.advance();
                self.relation_name()?;
                None
            }
            "include" if matches!(self.peek_at(1), Tok::Str(_)) => Some(self.include(start)?),
            "import" if named => return self.import(),
            "table" | "view" | "event" if named => Some(Item::Relation(self.declaration(start)?)),
            "timer" if named => Some(Item::Relation(self.timer(start)?)),
            "event" | "define" if parens => Some(Item::Relation(self.original_declaration(start)?)),
            "timer" if parens => Some(Item::Relation(self.original_timer(start)?)),
            "watch" if parens => Some(self.watch()?),
            "invariant" if named => Some(self.invariant(start)?),
            "table" | "view" | "event" | "timer" | "define" | "watch" | "invariant" | "program"
            | "include"
                if !matches!(self.peek_at(1), Tok::Colon | Tok::Path) =>
            {
                self.advance();
                return self.expected(if word == "include" {
                    "a path in quotes"
                } else {
                    "a name"
                });
            }
            _ => return self.rule_or_fact().map(Some),
        };
        self.end()?;
        Ok(item)
    }

    pub(super) fn end(&mut self) -> Parse<()> {
        if self.eat(&Tok::Semi) {
            Ok(())
        } else {
            self.expected("`;`")
        }
    }

    fn include(&mut self, start: usize) -> Parse<Item> {
        self.advance();
        let Tok::Str(path) = self.peek().clone() else {
            return self.expected("a path in quotes");
        };
        self.advance();
        Ok(Item::Include {
            path,
            span: self.span_from(start),
        })
    }

    fn import(&mut self) -> Parse<Option<Item>> {
        let start = self.here();
        while !matches!(self.peek(), Tok::Semi | Tok::Eof) {
            self.advance();
        }
        let span = self.span_from(start);
        self.eat(&Tok::Semi);
        self.report(
            Diagnostic::error(
                code::FOREIGN_CODE,
                &span,
                "imports of Java code cannot run here",
            )
            .hint("remove it; use a built-in function or one that the host registers"),
        );
        Ok(None)
    }

    /// `table t(A: int, B: string) keys(A) volatile`, and the same for views and events.
    fn declaration(&mut self, start: usize) -> Parse<Decl> {
        let kind = match self.ident("a declaration")?.text.as_str() {
            "table" => DeclKind::Table,
            "view" => DeclKind::View,
            _ => DeclKind::Event,
        };
        let name = self.ident("a name")?;
        self.expect(&Tok::LParen)?;
        let columns = list(self, &Tok::RParen, Parser::column)?;
        let mut decl = Decl {
            kind,
            name,
            columns,
            keys: None,
            replicated_by: None,
            flags: Vec::new(),
            original: false,
            span: Span::default(),
        };
        loop {
            if self.is_word(0, "keys") && *self.peek_at(1) == Tok::LParen {
                decl.keys = Some(self.keys()?);
            } else if self.eat_word("replicated") {
                if !self.eat_word("by") {
                    return self.expected("`by` and the name of an event");
                }
                decl.replicated_by = Some(self.relation_name()?);
            } else if ["volatile", "kept", "lazy", "eager"]
                .iter()
                .any(|w| self.is_word(0, w))
            {
                let flag = self.ident("a modifier")?;
                decl.flags.push(flag);
            } else {
                break;
            }
        }
        decl.span = self.span_from(start);
        Ok(decl)
    }

    fn column(&mut self) -> Parse<ColumnDecl> {
        let location = self.eat(&Tok::At);
        let name = self.ident("the name of a column")?;
        if name.text == "_" {
            let diag = Diagnostic::error(code::RESERVED, &name.span, "`_` cannot name a column");
            return self.fail(diag);
        }
        if !self.eat(&Tok::Colon) {
            return self.expected("`:` and a type");
        }
        let location = self.eat(&Tok::At) || location;
        let (ty, lattice) = self.column_type()?;
        Ok(ColumnDecl {
            name,
            ty,
            lattice,
            location,
        })
    }

    fn column_type(&mut self) -> Parse<(Type, Option<Lattice>)> {
        let name = self.ident("a type")?;
        let lattice = match name.text.as_str() {
            "or" => return Ok((Type::Bool, Some(Lattice::Or))),
            "and" => return Ok((Type::Bool, Some(Lattice::And))),
            "max" => Lattice::Max,
            "min" => Lattice::Min,
            "set" => Lattice::Set,
            _ => return Ok((self.type_named(&name), None)),
        };
        let mut ty = if lattice == Lattice::Set {
            Type::List
        } else {
            Type::Any
        };
        if self.eat(&Tok::Lt) {
            let inner = self.element_type()?;
            if lattice != Lattice::Set {
                ty = inner;
            }
            self.expect(&Tok::Gt)?;
        }
        Ok((ty, Some(lattice)))
    }

    /// The type in `max<..>`: a name, or `[A, B]` for a list of what the names say.
    fn element_type(&mut self) -> Parse<Type> {
        if self.eat(&Tok::LBracket) {
            list(self, &Tok::RBracket, |p| p.ident("a name"))?;
            return Ok(Type::List);
        }
        let name = self.ident("a type")?;
        Ok(self.type_named(&name))
    }

    fn type_named(&mut self, name: &Ident) -> Type {
        let ty = match name.text.as_str() {
            "bool" | "Boolean" => Type::Bool,
            "int" | "int2" | "int4" | "int8" | "long" | "Integer" | "Long" | "Short" => Type::Int,
            "float" | "double" | "Float" | "Double" => Type::Float,
            "string" | "text" | "String" => Type::Str,
            "bytes" => Type::Bytes,
            "addr" => Type::Addr,
            "list" => Type::List,
            "any" | "Object" => Type::Any,
            other => {
                let message = format!("unknown type {other}");
                let diag = Diagnostic::error(code::UNKNOWN_TYPE, &name.span, message);
                self.report(
                    diag.hint("types are bool, int, float, string, bytes, addr, list and any"),
                );
                Type::Any
            }
        };
        // A qualified Java name, such as java.lang.Integer.
        while *self.peek() == Tok::Dot && self.is_ident(1) {
            self.advance();
            self.advance();
        }
        ty
    }

    fn keys(&mut self) -> Parse<Vec<Key>> {
        self.advance();
        self.expect(&Tok::LParen)?;
        list(self, &Tok::RParen, |p| match p.peek() {
            Tok::Int(i) => {
                let key = Key::Position(*i, p.token_span());
                p.advance();
                Ok(key)
            }
            _ => p.ident("the name of a column").map(Key::Name),
        })
    }

    /// `define(t, keys(0, 1), {int, string})` and `event(e, {int})`.
    fn original_declaration(&mut self, start: usize) -> Parse<Decl> {
        let event = self.is_word(0, "event");
        self.advance();
        self.expect(&Tok::LParen)?;
        let name = self.relation_name()?;
        self.expect(&Tok::Comma)?;
        let mut keys = None;
        if self.is_word(0, "keys") {
            keys = Some(self.keys()?);
            self.expect(&Tok::Comma)?;
        }
        self.expect(&Tok::LBrace)?;
        let mut position = 0;
        let columns = list(self, &Tok::RBrace, |p| {
            let column = p.original_column(position);
            position += 1;
            column
        })?;
        self.expect(&Tok::RParen)?;
        Ok(Decl {
            kind: if event {
                DeclKind::Event
            } else {
                DeclKind::Define
            },
            name,
            columns,
            keys,
            replicated_by: None,
            flags: Vec::new(),
            original: true,
            span: self.span_from(start),
        })
    }

    fn original_column(&mut self, position: usize) -> Parse<ColumnDecl> {
        let location = self.eat(&Tok::At);
        let mut name = Ident {
            text: format!("c{position}"),
            span: self.token_span(),
        };
        if self.is_ident(0) && *self.peek_at(1) == Tok::Colon {
            name = self.ident("a column")?;
            self.advance();
        }
        if self.is_word(0, "java") {
            while self.is_ident(0) && *self.peek_at(1) == Tok::Dot {
                self.advance();
                self.advance();
            }
        }
        let (ty, lattice) = self.column_type()?;
        Ok(ColumnDecl {
            name,
            ty,
            lattice,
            location,
        })
    }

    /// `timer t(500ms)`.
    fn timer(&mut self, start: usize) -> Parse<Decl> {
        self.advance();
        let name = self.ident("a name")?;
        self.expect(&Tok::LParen)?;
        let period = match self.peek().clone() {
            Tok::Duration(ns) | Tok::Int(ns) => ns,
            _ => return self.expected("a period such as 500ms"),
        };
        let at = self.token_span();
        self.advance();
        self.expect(&Tok::RParen)?;
        self.timer_decl(name, period, &at, false, start)
    }

    /// `timer(t, 1000)` and `timer(t, physical, 1000, infinity, 0)`; a plain number is in ms.
    fn original_timer(&mut self, start: usize) -> Parse<Decl> {
        self.advance();
        self.expect(&Tok::LParen)?;
        let name = self.relation_name()?;
        self.expect(&Tok::Comma)?;
        if self.is_ident(0) {
            let kind = self.ident("the kind of the timer")?;
            if kind.text != "physical" {
                let message = format!("a {} timer cannot run here", kind.text);
                let diag = Diagnostic::error(code::BAD_TIMER, &kind.span, message);
                return self.fail(diag.hint("timers are physical"));
            }
            self.expect(&Tok::Comma)?;
        }
        let at = self.token_span();
        let period = match self.peek().clone() {
            Tok::Duration(ns) => ns,
            Tok::Int(ms) => ms.saturating_mul(MS),
            _ => return self.expected("a period in ms"),
        };
        self.advance();
        if self.eat(&Tok::Comma) && !self.eat_word("infinity") {
            return self.timer_limit("a timer's lifetime can only be infinity");
        }
        if self.eat(&Tok::Comma) && !self.eat(&Tok::Int(0)) {
            return self.timer_limit("a timer's delay can only be 0");
        }
        self.expect(&Tok::RParen)?;
        self.timer_decl(name, period, &at, true, start)
    }

    fn timer_limit<T>(&mut self, message: &str) -> Parse<T> {
        let diag = Diagnostic::error(code::BAD_TIMER, &self.token_span(), message);
        self.fail(diag)
    }

    fn timer_decl(
        &mut self,
        name: Ident,
        period: u64,
        at: &Span,
        original: bool,
        start: usize,
    ) -> Parse<Decl> {
        let ns = match i64::try_from(period) {
            Ok(ns) if ns > 0 => ns,
            _ => {
                return self.fail(Diagnostic::error(
                    code::BAD_TIMER,
                    at,
                    "a timer's period is at least 1 ns and fits 64 bits",
                ));
            }
        };
        let now = Ident {
            text: "Now".to_owned(),
            span: name.span.clone(),
        };
        Ok(Decl {
            kind: DeclKind::Timer(ns),
            name,
            columns: vec![ColumnDecl {
                name: now,
                ty: Type::Int,
                lattice: None,
                location: false,
            }],
            keys: None,
            replicated_by: None,
            flags: Vec::new(),
            original,
            span: self.span_from(start),
        })
    }

    fn watch(&mut self) -> Parse<Item> {
        self.advance();
        self.expect(&Tok::LParen)?;
        let rel = self.relation_name()?;
        let rel = if self.eat(&Tok::Hash) {
            let edge = self.ident("insert or delete")?;
            let text = format!("{}#{}", rel.text, edge.text);
            Ident {
                text,
                span: self.span_of(rel.span.range.start..edge.span.range.end),
            }
        } else {
            rel
        };
        let flags = if self.eat(&Tok::Comma) {
            Some(self.ident("watch flags")?)
        } else {
            None
        };
        self.expect(&Tok::RParen)?;
        Ok(Item::Watch { rel, flags })
    }

    fn invariant(&mut self, start: usize) -> Parse<Item> {
        self.advance();
        let name = self.ident("a name")?;
        self.expect(&Tok::LParen)?;
        let args = list(self, &Tok::RParen, Parser::arg)?;
        if !self.eat(&Tok::If) {
            return self.expected("`:-`");
        }
        let body = self.body()?;
        if body.is_empty() {
            return Err(Failed);
        }
        Ok(Item::Invariant {
            name,
            args,
            body,
            span: self.span_from(start),
        })
    }
}
