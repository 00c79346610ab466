//! Queries: rules typed at a prompt, over a program that is there.

use super::scope::Builder;
use super::{Checker, CompileOptions, Info};
use crate::ast::{self, ArgValue, ExprKind, Ident, Modifier, Term};
use crate::diag::{Diagnostics, Severity, code, sort};
use crate::functions::Function;
use crate::ir::{self, Action, Head, Program, RelId, RelKind, Source, Span};
use crate::parser::{Query, parse_query};
use std::collections::{BTreeMap, BTreeSet};

/// A checked query.
#[derive(Clone, Debug)]
pub struct CompiledQuery {
    /// Names of its columns.
    pub columns: Vec<String>,
    /// Its rule. The head's relation is `RelId(u32::MAX)`.
    pub rule: ir::Rule,
    /// The program's functions and those that the query calls beyond them; the rule's calls mean these.
    pub functions: Vec<Function>,
    /// The program's sources and the query's text.
    pub sources: Vec<Source>,
}

/// The relation that a query's head has.
const ANSWER: RelId = RelId(u32::MAX);

/// Checks a query, `? head(A, B) :- body;`, `? rel(X, 3);` (all columns of the matching rows) or `? body;`
/// (its variables). The `?` and the `;` are optional.
///
/// # Errors
/// All that is wrong with it.
pub fn compile_query(program: &Program, text: &str) -> Result<CompiledQuery, Diagnostics> {
    // What the program calls is what the host registered, as far as a query can know.
    let mut checker = Checker::new(&program.functions, CompileOptions::default());
    checker.query = true;
    checker.program = Program {
        relations: program.relations.clone(),
        functions: program.functions.clone(),
        sources: program.sources.clone(),
        ..Program::default()
    };
    checker.infos = vec![Info::default(); program.relations.len()];
    let ids = (0..program.relations.len()).filter_map(|at| u32::try_from(at).ok());
    checker.names = program
        .relations
        .iter()
        .map(|r| r.name.clone())
        .zip(ids.map(RelId))
        .collect::<BTreeMap<_, _>>();
    let source = u32::try_from(program.sources.len()).unwrap_or(u32::MAX);
    checker.program.sources.push(Source {
        name: "query".to_owned(),
        text: text.to_owned(),
    });
    let (query, diags) = parse_query(source, text);
    checker.diags = diags;
    let compiled = query.and_then(|q| {
        checker.query(
            q,
            &Span {
                source,
                range: 0..text.len(),
            },
        )
    });
    sort(&mut checker.diags);
    let failed = checker.diags.iter().any(|d| d.severity == Severity::Error);
    match compiled {
        Some((columns, rule)) if !failed => {
            let Program {
                functions, sources, ..
            } = checker.program;
            Ok(CompiledQuery {
                columns,
                rule,
                functions,
                sources,
            })
        }
        _ => Err(Diagnostics {
            list: checker.diags,
            sources: checker.program.sources,
        }),
    }
}

impl Checker<'_> {
    fn query(&mut self, query: Query, span: &Span) -> Option<(Vec<String>, ir::Rule)> {
        let rule = match query {
            Query::Rule(rule) => *rule,
            Query::Atom(atom) => self.all_columns(atom, span)?,
            Query::Body(body) => named_variables(body, span),
        };
        if rule.head.edge.is_some() {
            self.error(
                code::QUERY,
                &rule.head.span,
                "the head of a query names its answer, not an edge",
            );
            return None;
        }
        let columns = self.answer_columns(&rule.head.args);
        let mut b = Builder::new(self);
        let body = b.open_body(&rule.body);
        let found = b.found(&body);
        let args: Vec<_> = rule
            .head
            .args
            .iter()
            .filter_map(|arg| match &arg.value {
                ArgValue::Expr(e) => Some(super::heads::RHead::Expr(b.expr(e))),
                ArgValue::Agg(agg) => Some(super::heads::RHead::Agg(b.agg(agg))),
                ArgValue::Add(e) => {
                    b.c.error(code::QUERY, &e.span, "a query changes nothing");
                    None
                }
            })
            .collect();
        b.types(&body);
        for arg in &args {
            b.type_of_head(arg, true);
        }
        let lowered = b.lower_body(&body);
        b.check_bound(&lowered, &mut BTreeSet::new());
        let vars = b.ir_vars();
        let args = args.iter().map(|arg| arg.lower(&vars)).collect();
        if found.hidden_event && found.positive.is_empty() {
            let hint = "add a positive event, and subscribe to the query";
            self.hinted(
                code::NO_POSITIVE_EVENT,
                span,
                "the only events of this query are under notin or in an aggregate",
                hint,
            );
        }
        let head = Head {
            rel: ANSWER,
            action: Action::Derive,
            args,
        };
        Some((
            columns,
            ir::Rule {
                name: "query".to_owned(),
                head,
                body: lowered,
                vars,
                span: span.clone(),
            },
        ))
    }

    /// `rel(X, 3)` asks for whole rows.
    fn all_columns(&mut self, mut atom: ast::Atom, span: &Span) -> Option<ast::Rule> {
        let rel = self.resolve(&atom)?;
        let relation = self.relation(rel).clone();
        if relation.kind == RelKind::Tick {
            self.error(code::QUERY, &atom.span, "sys_tick has no row between ticks");
            return None;
        }
        let written = {
            let mut b = Builder::new(self);
            let columns = b.columns(rel, &atom)?;
            columns
                .into_iter()
                .map(|arg| arg.cloned())
                .collect::<Vec<_>>()
        };
        let plain = |name: String, span: &Span| ast::Arg {
            name: None,
            at: false,
            value: ArgValue::Expr(ast::Expr {
                kind: ExprKind::Var(name),
                span: span.clone(),
                depth: 1,
            }),
            span: span.clone(),
        };
        let mut head = Vec::new();
        let mut body = Vec::new();
        for (arg, column) in written.into_iter().zip(&relation.columns) {
            let given = match arg.as_ref().map(|a| &a.value) {
                None
                | Some(ArgValue::Expr(ast::Expr {
                    kind: ExprKind::Any,
                    ..
                })) => plain(format!("$_{}", column.name), span),
                _ => arg.map_or_else(
                    || plain(String::new(), span),
                    |a| ast::Arg { name: None, ..a },
                ),
            };
            let name = Ident {
                text: column.name.clone(),
                span: span.clone(),
            };
            head.push(ast::Arg {
                name: Some(name),
                ..given.clone()
            });
            body.push(given);
        }
        atom.args = body;
        let head = ast::Atom {
            rel: atom.rel.clone(),
            edge: None,
            args: head,
            span: span.clone(),
        };
        let modifier = Modifier::None;
        Some(ast::Rule {
            name: None,
            bare_name: false,
            modifier,
            head,
            body: vec![Term::Atom(atom)],
            span: span.clone(),
        })
    }

    fn answer_columns(&mut self, args: &[ast::Arg]) -> Vec<String> {
        let mut columns: Vec<String> = Vec::new();
        for (at, arg) in args.iter().enumerate() {
            let name = match (&arg.name, &arg.value) {
                (Some(name), _) => name.text.clone(),
                (
                    None,
                    ArgValue::Expr(ast::Expr {
                        kind: ExprKind::Var(name),
                        ..
                    }),
                ) => name.clone(),
                (None, value) => self.text_of(value).unwrap_or_else(|| format!("c{at}")),
            };
            columns.push(if columns.contains(&name) {
                format!("{name}_{at}")
            } else {
                name
            });
        }
        columns
    }

    /// An expression as it was typed.
    fn text_of(&self, value: &ArgValue) -> Option<String> {
        let span = match value {
            ArgValue::Expr(e) | ArgValue::Add(e) => &e.span,
            ArgValue::Agg(agg) => &agg.span,
        };
        let text = self
            .program
            .sources
            .get(span.source as usize)?
            .text
            .get(span.range.clone())?;
        Some(text.split_whitespace().collect::<Vec<_>>().join(" "))
    }
}

/// The answer to terms without a head: their variables, in the order in which they appear.
fn named_variables(body: Vec<Term>, span: &Span) -> ast::Rule {
    let mut names: Vec<(String, Span)> = Vec::new();
    let mut add = |name: &str, span: &Span| {
        if name != "_" && names.iter().all(|(n, _)| n != name) {
            names.push((name.to_owned(), span.clone()));
        }
    };
    for term in &body {
        match term {
            Term::Atom(atom) => {
                for arg in &atom.args {
                    if let ArgValue::Expr(ast::Expr {
                        kind: ExprKind::Var(name),
                        span,
                        ..
                    }) = &arg.value
                    {
                        add(name, span);
                    }
                }
            }
            Term::Assign(var, _) | Term::Agg { var, .. } => add(&var.text, &var.span),
            Term::Unnest { pos, item, .. } => {
                pos.iter().for_each(|p| add(&p.text, &p.span));
                if let ExprKind::Var(name) = &item.kind {
                    add(name, &item.span);
                }
            }
            Term::Not(_) | Term::Test(_) => {}
        }
    }
    let args = names.into_iter().map(|(name, span)| ast::Arg {
        name: None,
        at: false,
        value: ArgValue::Expr(ast::Expr {
            kind: ExprKind::Var(name),
            span: span.clone(),
            depth: 1,
        }),
        span,
    });
    let rel = Ident {
        text: "answer".to_owned(),
        span: span.clone(),
    };
    let head = ast::Atom {
        rel,
        edge: None,
        args: args.collect(),
        span: span.clone(),
    };
    ast::Rule {
        name: None,
        bare_name: false,
        modifier: Modifier::None,
        head,
        body,
        span: span.clone(),
    }
}
