//! What the parser makes of a source: names as written, sugar still in it.

use crate::ir::{AggOp, BinaryOp, Lattice, Span, Type, UnaryOp};
use crate::value::Value;

/// A name and its place.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct Ident {
    pub text: String,
    pub span: Span,
}

/// A statement.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub enum Item {
    Include {
        path: Vec<u8>,
        span: Span,
    },
    Relation(Decl),
    Watch {
        rel: Ident,
        flags: Option<Ident>,
    },
    Rule(Rule),
    Invariant {
        name: Ident,
        args: Vec<Arg>,
        body: Vec<Term>,
        span: Span,
    },
    Fact(Atom),
}

/// What is declared.
#[derive(Clone, Debug, PartialEq)]
pub enum DeclKind {
    /// `table`.
    Table,
    /// `view`.
    View,
    /// `event`.
    Event,
    /// `timer`, with the period in ns.
    Timer(i64),
    /// The original `define(...)` and whether it has `keys(...)`: what it is depends on the rules and the dialect.
    Define,
}

/// A declaration.
#[derive(Clone, Debug)]
pub struct Decl {
    /// Of what.
    pub kind: DeclKind,
    /// Its name.
    pub name: Ident,
    /// Its columns.
    pub columns: Vec<ColumnDecl>,
    /// `keys(...)`.
    pub keys: Option<Vec<Key>>,
    /// `replicated by E`.
    pub replicated_by: Option<Ident>,
    /// `volatile`, `kept`, `lazy`, `eager`, each with its place.
    pub flags: Vec<Ident>,
    /// In one of the original forms: trailing arguments may be missing, strings are taken as addresses
    /// in the location column, `@` in atoms tells which column is the location.
    pub original: bool,
    /// The whole statement.
    pub span: Span,
}

/// A key column.
#[derive(Clone, Debug)]
pub enum Key {
    /// By name.
    Name(Ident),
    /// By position from 0.
    Position(u64, Span),
}

/// A column as declared.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct ColumnDecl {
    pub name: Ident,
    pub ty: Type,
    pub lattice: Option<Lattice>,
    pub location: bool,
}

/// The word before a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Modifier {
    None,
    Delete,
    Update,
    Next,
}

/// A rule.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct Rule {
    pub name: Option<Ident>,
    /// The name stands bare before the head, as in the original forms.
    pub bare_name: bool,
    pub modifier: Modifier,
    pub head: Atom,
    pub body: Vec<Term>,
    pub span: Span,
}

/// A relation with arguments.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct Atom {
    pub rel: Ident,
    /// `#insert` is `Some(true)`, `#delete` is `Some(false)`.
    pub edge: Option<bool>,
    pub args: Vec<Arg>,
    pub span: Span,
}

/// An argument.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct Arg {
    pub name: Option<Ident>,
    /// It was marked with `@`.
    pub at: bool,
    pub value: ArgValue,
    pub span: Span,
}

/// The value of an argument.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub enum ArgValue {
    Expr(Expr),
    Agg(Agg),
    /// `Col += e`.
    Add(Expr),
}

/// An aggregate.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct Agg {
    pub op: AggOp,
    pub args: Vec<Expr>,
    pub span: Span,
}

/// A term of a body.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub enum Term {
    Atom(Atom),
    Not(Atom),
    Test(Expr),
    Assign(Ident, Expr),
    Unnest {
        pos: Option<Ident>,
        item: Expr,
        list: Expr,
    },
    Agg {
        var: Ident,
        agg: Agg,
        body: Vec<Term>,
    },
}

/// An expression.
#[derive(Clone, Debug)]
pub struct Expr {
    /// What it is.
    pub kind: ExprKind,
    /// Where it stands.
    pub span: Span,
    /// How deep it is; the parser keeps it within its limit.
    pub depth: u32,
}

/// What an expression is.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub enum ExprKind {
    Const(Value),
    Var(String),
    /// `_`.
    Any,
    Unary(UnaryOp, Box<Expr>),
    Binary(BinaryOp, Box<Expr>, Box<Expr>),
    Cond(Box<Expr>, Box<Expr>, Box<Expr>),
    List(Vec<Expr>),
    Index(Box<Expr>, Box<Expr>),
    Call(Ident, Vec<Expr>),
}
