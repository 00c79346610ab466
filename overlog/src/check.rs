//! The checker: syntax to a checked [`Program`], or all that is wrong with it.
//!
//! Steps, each in a file of its own: declarations (`declare`), rules one by one (`rules`: names in
//! `scope`, types in `types`, heads in `heads`), and then what only the whole program shows: who keeps views (`kept`),
//! recursion (`strata`), replicated tables (`replicated`), warnings (`warn`).

mod declare;
mod heads;
mod kept;
mod load;
mod query;
mod replicated;
mod rules;
mod scope;
mod strata;
#[cfg(test)]
mod tests;
mod types;
mod warn;

use crate::ast::{self, Item};
use crate::diag::{Diagnostic, Diagnostics, Severity, code, sort};
use crate::functions::{Function, builtins};
use crate::ir::{FnId, Program, RelId, RelKind, Relation, Span, Type};
use std::collections::{BTreeMap, BTreeSet};

pub use load::Sources;
pub use query::{CompiledQuery, compile_query};

/// Which of the original languages `define` without keys is read as.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Dialect {
    /// A table keyed by all columns, as in C4.
    #[default]
    Overlog,
    /// An event, as in JOL.
    Jol,
}

/// How to compile.
#[derive(Clone, Copy, Debug, Default)]
pub struct CompileOptions {
    /// The dialect.
    pub dialect: Dialect,
}

/// Compiles a registered source and what it includes; `functions` are those that the host adds to the
/// built-in ones. Gives the program and warnings.
///
/// # Errors
/// All errors of all sources, warnings among them, sorted by place.
pub fn compile(
    main: &str,
    sources: &Sources,
    functions: &[Function],
    options: CompileOptions,
) -> Result<(Program, Vec<Diagnostic>), Diagnostics> {
    let loaded = load::load(main, sources);
    let mut checker = Checker::new(functions, options);
    checker.program.sources = loaded.sources;
    // All of them, so that queries can call what no rule calls.
    checker.program.functions = functions.to_vec();
    checker.diags = loaded.diags;
    checker.broken = loaded.broken;
    checker.items(&loaded.items);
    checker.finish()
}

/// What the checker knows of a relation beyond the program.
#[derive(Clone, Debug, Default)]
struct Info {
    /// Declared in one of the original forms.
    original: bool,
    /// Declared `kept`.
    kept: bool,
    /// Declared `lazy`.
    lazy: bool,
    /// `keys(...)` were given.
    keyed: bool,
    /// Only the system, the host or an invariant's own rule fills it.
    read_only: bool,
}

struct Checker<'a> {
    program: Program,
    names: BTreeMap<String, RelId>,
    /// One for each relation.
    infos: Vec<Info>,
    host: &'a [Function],
    options: CompileOptions,
    diags: Vec<Diagnostic>,
    broken: BTreeSet<String>,
    /// Names that rules gave themselves, and those made up so far.
    rule_names: BTreeSet<String>,
    /// No new edges: a query reads those that are there.
    query: bool,
}

impl<'a> Checker<'a> {
    fn new(host: &'a [Function], options: CompileOptions) -> Checker<'a> {
        Checker {
            program: Program::default(),
            names: BTreeMap::new(),
            infos: Vec::new(),
            host,
            options,
            diags: Vec::new(),
            broken: BTreeSet::new(),
            rule_names: BTreeSet::new(),
            query: false,
        }
    }

    fn items(&mut self, items: &[Item]) {
        self.declare_system();
        self.declare_all(items);
        self.name_rules(items);
        for item in items {
            if let Item::Invariant {
                name,
                args,
                body,
                span,
            } = item
            {
                self.invariant(name, args, body, span);
            }
        }
        for item in items {
            match item {
                Item::Rule(rule) => self.rule(rule),
                Item::Fact(atom) => self.fact(atom),
                Item::Watch { rel, flags } => self.watch(rel, flags.as_ref()),
                Item::Include { .. } | Item::Relation(_) | Item::Invariant { .. } => {}
            }
        }
        self.keep_views();
        self.key_invariants();
        self.check_strata();
        self.check_replicated();
        // Rules that were refused are missing here and would make false warnings.
        if !self.failed() {
            self.warn();
        }
    }

    fn finish(mut self) -> Result<(Program, Vec<Diagnostic>), Diagnostics> {
        sort(&mut self.diags);
        if self.failed() {
            return Err(Diagnostics {
                list: self.diags,
                sources: self.program.sources,
            });
        }
        Ok((self.program, self.diags))
    }

    /// Is there an error so far?
    fn failed(&self) -> bool {
        self.diags.iter().any(|d| d.severity == Severity::Error)
    }

    fn report(&mut self, diag: Diagnostic) {
        self.diags.push(diag);
    }

    fn error(&mut self, code: &'static str, span: &Span, message: impl Into<String>) {
        self.report(Diagnostic::error(code, span, message));
    }

    fn hinted(
        &mut self,
        code: &'static str,
        span: &Span,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) {
        self.report(Diagnostic::error(code, span, message).hint(hint));
    }

    fn relation(&self, id: RelId) -> &Relation {
        self.program.relation(id)
    }

    fn info(&self, id: RelId) -> Info {
        self.infos.get(id.0 as usize).cloned().unwrap_or_default()
    }

    fn add_relation(&mut self, relation: Relation, info: Info) -> RelId {
        let id = RelId(u32::try_from(self.program.relations.len()).unwrap_or(u32::MAX));
        self.names.insert(relation.name.clone(), id);
        self.program.relations.push(relation);
        self.infos.push(info);
        id
    }

    fn relation_mut(&mut self, id: RelId) -> Option<&mut Relation> {
        self.program.relations.get_mut(id.0 as usize)
    }

    /// The relation that an atom names. Reports one that is not there.
    fn resolve(&mut self, atom: &ast::Atom) -> Option<RelId> {
        let base = self.resolve_name(&atom.rel)?;
        match atom.edge {
            None => Some(base),
            Some(insert) => self.edge(base, insert, &atom.span),
        }
    }

    fn resolve_name(&mut self, name: &ast::Ident) -> Option<RelId> {
        if let Some(id) = self.names.get(&name.text) {
            return Some(*id);
        }
        if !self.broken.contains(&name.text) {
            let mut diag = Diagnostic::error(
                code::UNKNOWN_RELATION,
                &name.span,
                format!("unknown relation {}", name.text),
            );
            let known = self
                .names
                .keys()
                .filter(|k| !k.starts_with('$') && !k.contains('#'));
            if let Some(near) = nearest(&name.text, known.map(String::as_str)) {
                diag = diag.hint(format!("did you mean {near}?"));
            }
            self.report(diag);
        }
        None
    }

    /// `t#insert` or `t#delete`, made when first read.
    fn edge(&mut self, of: RelId, insert: bool, span: &Span) -> Option<RelId> {
        let base = self.relation(of).clone();
        let name = format!("{}#{}", base.name, if insert { "insert" } else { "delete" });
        if let Some(id) = self.names.get(&name) {
            return Some(*id);
        }
        if !base.is_table() && !base.is_view() {
            let message = format!("{} is no table or view, so it has no edges", base.name);
            self.hinted(
                code::NO_EDGE,
                span,
                message,
                format!("read the event itself: {}(..)", base.name),
            );
            return None;
        }
        if self.query {
            self.error(
                code::NO_EDGE,
                span,
                format!("no rule reads {name}, so it is not kept for queries"),
            );
            return None;
        }
        let columns = base
            .columns
            .iter()
            .cloned()
            .map(|c| crate::ir::Column { lattice: None, ..c })
            .collect::<Vec<_>>();
        let keys = (0..columns.len()).collect();
        let (location, kind) = (base.location, RelKind::Edge { of, insert });
        let relation = Relation {
            name,
            kind,
            columns,
            keys,
            location,
            eager: base.eager,
            span: base.span,
        };
        let original = self.info(of).original;
        Some(self.add_relation(
            relation,
            Info {
                original,
                read_only: true,
                ..Info::default()
            },
        ))
    }

    /// The function of this name and number of arguments: the host's, or else a built-in one.
    fn function(&mut self, name: &ast::Ident, arity: usize, span: &Span) -> Option<FnId> {
        let known = |f: &&Function| f.name == name.text;
        let all: Vec<&Function> = self.host.iter().chain(builtins()).filter(known).collect();
        let Some(found) = all.iter().find(|f| f.args.len() == arity) else {
            match all.first() {
                Some(f) => {
                    let types: Vec<&str> = f.args.iter().map(|t| t.name()).collect();
                    let message = format!(
                        "{} takes {}, not {arity}",
                        name.text,
                        plural(f.args.len(), "argument")
                    );
                    self.hinted(
                        code::FUNCTION_ARITY,
                        span,
                        message,
                        format!("{}({})", name.text, types.join(", ")),
                    );
                }
                None => {
                    let mut diag = Diagnostic::error(
                        code::UNKNOWN_FUNCTION,
                        &name.span,
                        format!("unknown function {}", name.text),
                    );
                    let names = self.host.iter().chain(builtins()).map(|f| f.name.as_str());
                    if let Some(near) = nearest(&name.text, names) {
                        diag = diag.hint(format!("did you mean {near}?"));
                    }
                    self.report(diag);
                }
            }
            return None;
        };
        let used = &self.program.functions;
        let at = used
            .iter()
            .position(|f| f.name == found.name && f.args.len() == arity);
        let at = match at {
            Some(at) => at,
            None => {
                self.program.functions.push((*found).clone());
                self.program.functions.len() - 1
            }
        };
        u32::try_from(at).ok().map(FnId)
    }

    fn is_function(&self, name: &str) -> bool {
        self.host.iter().chain(builtins()).any(|f| f.name == name)
    }
}

/// The name that one edit (a change of case counts as none) or two make of this one.
fn nearest<'n>(name: &str, known: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    let most = if name.len() < 4 { 1 } else { 2 };
    known
        .map(|k| (edits(name, k), k))
        .filter(|(d, _)| *d <= most)
        .min()
        .map(|(_, k)| k)
}

/// The Levenshtein distance of two names, without regard to case.
fn edits(a: &str, b: &str) -> usize {
    let (a, b) = (a.to_ascii_lowercase(), b.to_ascii_lowercase());
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let above = row.get(j + 1).copied().unwrap_or(usize::MAX - 1);
            let best = (diagonal + usize::from(x != y))
                .min(left + 1)
                .min(above + 1);
            if let Some(cell) = row.get_mut(j) {
                *cell = left;
            }
            diagonal = above;
            left = best;
        }
        if let Some(cell) = row.get_mut(b.len()) {
            *cell = left;
        }
    }
    row.last().copied().unwrap_or(0)
}

fn plural(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

/// The type that two make together; `None` if they contradict one another.
fn join(a: Type, b: Type) -> Option<Type> {
    match (a, b) {
        (Type::Any, t) | (t, Type::Any) => Some(t),
        (a, b) if a == b => Some(a),
        _ => None,
    }
}
