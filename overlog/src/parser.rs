//! Tokens to syntax: recursive descent, one function for each construct. Never panics and never
//! gives up: a statement that does not parse is reported and skipped.
//!
//! Nesting is limited, so that neither this parser nor anything that walks its trees can run out of stack.

mod decl;
mod expr;
mod rule;

pub use expr::is_variable;

use crate::ast::{Atom, Expr, Ident, Item, Rule, Term};
use crate::diag::{Diagnostic, code};
use crate::ir::Span;
use crate::lexer::{Tok, Token, lex};
use std::collections::BTreeSet;
use std::ops::Range;

/// The deepest expression, and the deepest nesting of bodies.
const MAX_DEPTH: u32 = 100;

/// Words that begin a statement. A relation cannot have such a name.
pub const STATEMENTS: &[&str] = &[
    "program",
    "include",
    "import",
    "table",
    "view",
    "event",
    "timer",
    "watch",
    "invariant",
    "define",
];

/// Other words that cannot name a relation.
pub const WORDS: &[&str] = &[
    "delete", "update", "next", "public", "notin", "in", "keys", "true", "false",
];

/// A parsed source.
pub struct Parsed {
    /// What parsed.
    pub items: Vec<Item>,
    /// What did not.
    pub diags: Vec<Diagnostic>,
    /// Names in statements that did not parse: they may be declarations, so that the checker does
    /// not report them as unknown.
    pub broken: BTreeSet<String>,
}

/// A parsed query.
pub enum Query {
    /// `head(A, B) :- body`
    Rule(Box<Rule>),
    /// `rel(X, 3)`: all matching rows.
    Atom(Atom),
    /// Terms without a head.
    Body(Vec<Term>),
}

/// Parses a source.
pub fn parse(source: u32, text: &str) -> Parsed {
    let mut parser = Parser::new(source, text);
    let mut items = Vec::new();
    while *parser.peek() != Tok::Eof {
        let from = parser.at;
        match parser.item() {
            Ok(item) => items.extend(item),
            Err(Failed) => parser.recover(from),
        }
    }
    Parsed {
        items,
        diags: parser.diags,
        broken: parser.broken,
    }
}

/// Parses a query: the leading `?` and the trailing `;` are optional.
pub fn parse_query(source: u32, text: &str) -> (Option<Query>, Vec<Diagnostic>) {
    let mut parser = Parser::new(source, text);
    let query = parser.query().ok();
    (query.filter(|_| parser.diags.is_empty()), parser.diags)
}

/// The paths that a source includes, in its order, for hosts that load sources.
pub fn includes(text: &str) -> Vec<String> {
    let items = parse(0, text).items;
    let path = |item| match item {
        Item::Include { path, .. } => Some(String::from_utf8_lossy(&path).into_owned()),
        _ => None,
    };
    items.into_iter().filter_map(path).collect()
}

/// The statement does not parse; why is in the diagnostics.
struct Failed;

type Parse<T> = Result<T, Failed>;

struct Parser {
    source: u32,
    tokens: Vec<Token>,
    at: usize,
    depth: u32,
    diags: Vec<Diagnostic>,
    broken: BTreeSet<String>,
}

impl Parser {
    fn new(source: u32, text: &str) -> Parser {
        let (tokens, diags) = lex(source, text);
        Parser {
            source,
            tokens,
            at: 0,
            depth: 0,
            diags,
            broken: BTreeSet::new(),
        }
    }

    fn token(&self, ahead: usize) -> Option<&Token> {
        self.tokens.get(self.at + ahead).or(self.tokens.last())
    }

    fn peek(&self) -> &Tok {
        self.peek_at(0)
    }

    fn peek_at(&self, ahead: usize) -> &Tok {
        self.token(ahead).map_or(&Tok::Eof, |t| &t.tok)
    }

    fn advance(&mut self) {
        if self.at + 1 < self.tokens.len() {
            self.at += 1;
        }
    }

    /// Where the next token starts.
    fn here(&self) -> usize {
        self.token(0).map_or(0, |t| t.range.start)
    }

    fn token_span(&self) -> Span {
        self.span_of(self.token(0).map_or(0..0, |t| t.range.clone()))
    }

    fn span_of(&self, range: Range<usize>) -> Span {
        Span {
            source: self.source,
            range,
        }
    }

    /// From a start to the end of the last token taken.
    fn span_from(&self, start: usize) -> Span {
        let end = self
            .at
            .checked_sub(1)
            .and_then(|at| self.tokens.get(at))
            .map_or(start, |t| t.range.end);
        self.span_of(start..end.max(start))
    }

    fn report(&mut self, diag: Diagnostic) {
        self.diags.push(diag);
    }

    fn fail<T>(&mut self, diag: Diagnostic) -> Parse<T> {
        self.diags.push(diag);
        Err(Failed)
    }

    fn expected<T>(&mut self, what: &str) -> Parse<T> {
        let message = format!("expected {what}, found {}", self.peek().describe());
        let diag = Diagnostic::error(code::SYNTAX, &self.token_span(), message);
        self.fail(diag)
    }

    fn eat(&mut self, tok: &Tok) -> bool {
        let found = self.peek() == tok;
        if found {
            self.advance();
        }
        found
    }

    fn expect(&mut self, tok: &Tok) -> Parse<()> {
        if self.eat(tok) {
            Ok(())
        } else {
            self.expected(&tok.describe())
        }
    }

    fn is_word(&self, ahead: usize, word: &str) -> bool {
        matches!(self.peek_at(ahead), Tok::Ident(name) if name == word)
    }

    fn eat_word(&mut self, word: &str) -> bool {
        let found = self.is_word(0, word);
        if found {
            self.advance();
        }
        found
    }

    fn is_ident(&self, ahead: usize) -> bool {
        matches!(self.peek_at(ahead), Tok::Ident(_))
    }

    fn ident(&mut self, what: &str) -> Parse<Ident> {
        let Tok::Ident(text) = self.peek() else {
            return self.expected(what);
        };
        let ident = Ident {
            text: text.clone(),
            span: self.token_span(),
        };
        self.advance();
        Ok(ident)
    }

    /// A relation's name; `prog::` before it is dropped, for a program's name prefixes nothing.
    fn relation_name(&mut self) -> Parse<Ident> {
        let mut name = self.ident("the name of a relation")?;
        while self.eat(&Tok::Path) {
            name = self.ident("the name of a relation")?;
        }
        Ok(name)
    }

    /// Runs a nested construct, unless it is nested too deeply.
    fn nested<T>(&mut self, inner: impl FnOnce(&mut Parser) -> Parse<T>) -> Parse<T> {
        if self.depth >= MAX_DEPTH {
            return self.too_deep(self.token_span());
        }
        self.depth += 1;
        let result = inner(self);
        self.depth -= 1;
        result
    }

    fn too_deep<T>(&mut self, span: Span) -> Parse<T> {
        let message = format!("nested more than {MAX_DEPTH} deep");
        self.fail(Diagnostic::error(code::TOO_DEEP, &span, message).hint("split it with :="))
    }

    /// Skips to the next statement: past a `;`, or before a line that begins like a statement.
    fn recover(&mut self, from: usize) {
        self.depth = 0;
        let failed_at = self.at;
        self.at = from;
        loop {
            match self.peek().clone() {
                Tok::Eof => return,
                Tok::Semi if self.at >= failed_at => return self.advance(),
                Tok::Ident(name) => {
                    let new_line = self.token(0).is_some_and(|t| t.starts_line);
                    let statement = STATEMENTS.contains(&name.as_str())
                        && matches!(self.peek_at(1), Tok::Ident(_) | Tok::LParen);
                    if self.at > from && self.at >= failed_at && new_line && statement {
                        return;
                    }
                    self.broken.insert(name);
                }
                _ => {}
            }
            self.advance();
        }
    }

    fn query(&mut self) -> Parse<Query> {
        self.eat(&Tok::Question);
        let start = self.here();
        let mut body = self.body()?;
        let query = if *self.peek() == Tok::If {
            // What looked like a body was a head.
            self.at = self
                .tokens
                .iter()
                .position(|t| t.range.start == start)
                .unwrap_or(0);
            let head = self.atom()?;
            self.expect(&Tok::If)?;
            let body = self.body()?;
            let span = self.span_from(start);
            let modifier = crate::ast::Modifier::None;
            Query::Rule(Box::new(Rule {
                name: None,
                bare_name: false,
                modifier,
                head,
                body,
                span,
            }))
        } else if let [Term::Atom(_)] = body.as_slice() {
            match body.pop() {
                Some(Term::Atom(atom)) => Query::Atom(atom),
                _ => return Err(Failed),
            }
        } else {
            Query::Body(body)
        };
        self.eat(&Tok::Semi);
        if *self.peek() == Tok::Eof {
            Ok(query)
        } else {
            self.expected("the end of the query")
        }
    }
}

/// A comma between elements, or the closing token.
fn list<T>(
    parser: &mut Parser,
    close: &Tok,
    mut element: impl FnMut(&mut Parser) -> Parse<T>,
) -> Parse<Vec<T>> {
    let mut out = Vec::new();
    if parser.eat(close) {
        return Ok(out);
    }
    loop {
        out.push(element(parser)?);
        if parser.eat(close) {
            return Ok(out);
        }
        if !parser.eat(&Tok::Comma) {
            return parser.expected(&format!("`,` or {}", close.describe()));
        }
    }
}

/// The depth of a node above these.
fn depth_above<'a>(children: impl IntoIterator<Item = &'a Expr>) -> u32 {
    children.into_iter().map(|e| e.depth).max().unwrap_or(0) + 1
}
