//! Random programs, well-formed by construction, from lists of choices. A program is a list of rules, each made from
//! its own list of bytes; 0 is the simplest choice everywhere, so that what proptest shrinks stays a program.
//!
//! The relations are fixed, apart from their keys; only those that the rules use are declared. Domains are small, so
//! that joins hit. Within a tick no rule makes values without end: ints are taken modulo something, strings and lists
//! are cut.

mod bodies;
mod rules;

use rules::Rule;
use std::collections::{BTreeMap, BTreeSet};

/// Choices, one after the other; 0 when they are used up.
pub struct Choices<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Choices<'a> {
    pub fn new(bytes: &'a [u8]) -> Choices<'a> {
        Choices { bytes, at: 0 }
    }

    /// Below `n`.
    pub fn below(&mut self, n: usize) -> usize {
        let byte = self.bytes.get(self.at).copied().unwrap_or(0);
        self.at += 1;
        usize::from(byte) % n.max(1)
    }

    /// True in one of `n` cases; false for 0.
    pub fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == n - 1
    }

    pub fn pick<'t, T>(&mut self, items: &'t [T]) -> &'t T {
        &items[self.below(items.len())]
    }
}

/// The type of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ty {
    Int,
    Str,
    List,
    Addr,
    Bool,
    Float,
    Any,
}

use Ty::{Addr, Any, Bool, Float, Int, List, Str};

/// What a relation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Table,
    Volatile,
    /// By the event `log`.
    Replicated,
    /// In this stratum: its rules read views of lower ones as they like, and those of its own only positively.
    View(usize),
    Kept(usize),
    Lazy(usize),
    Event(usize),
    /// Filled by the host only.
    Log,
    Timer,
}

/// A relation that programs may use.
pub struct Rel {
    pub name: &'static str,
    pub kind: Kind,
    pub columns: &'static [(&'static str, Ty, &'static str)],
    /// Sets of key columns to choose from; none: all columns.
    keys: &'static [&'static str],
    located: bool,
}

impl Rel {
    const fn new(
        name: &'static str,
        kind: Kind,
        columns: &'static [(&'static str, Ty, &'static str)],
    ) -> Rel {
        Rel {
            name,
            kind,
            columns,
            keys: &[],
            located: false,
        }
    }

    const fn keyed(self, keys: &'static [&'static str]) -> Rel {
        Rel { keys, ..self }
    }

    const fn located(self) -> Rel {
        Rel {
            located: true,
            ..self
        }
    }

    pub fn is_event(&self) -> bool {
        matches!(self.kind, Kind::Event(_) | Kind::Log | Kind::Timer)
    }

    fn is_table(&self) -> bool {
        matches!(self.kind, Kind::Table | Kind::Volatile | Kind::Replicated)
    }

    fn lattice(&self) -> bool {
        self.columns.iter().any(|c| !c.2.is_empty())
    }
}

const AB: &[(&str, Ty, &str)] = &[("A", Int, ""), ("B", Int, "")];
const ABC: &[(&str, Ty, &str)] = &[("A", Int, ""), ("B", Int, ""), ("C", Str, "")];
const KEYS: &[&str] = &["", "keys(A)", "keys(B)", "keys()"];

/// All relations.
pub const RELS: &[Rel] = &[
    Rel::new("t0", Kind::Table, AB).keyed(&["", "keys(A)", "keys()"]),
    Rel::new("t1", Kind::Table, ABC).keyed(&["", "keys(A)", "keys(A, B)", "keys(C)"]),
    Rel::new("t2", Kind::Volatile, &[("A", Str, ""), ("B", Int, "")]).keyed(KEYS),
    Rel::new("t3", Kind::Table, &[("A", Int, ""), ("L", List, "")]).keyed(&["", "keys(A)"]),
    Rel::new("t4", Kind::Table, &[("A", Int, ""), ("M", Int, "max<int>")]).keyed(&["keys(A)"]),
    Rel::new(
        "t5",
        Kind::Volatile,
        &[
            ("A", Int, ""),
            ("M", Int, "min<int>"),
            ("O", Bool, "or"),
            ("S", List, "set<int>"),
        ],
    )
    .keyed(&["keys(A)"]),
    Rel::new("t6", Kind::Table, &[("A", Int, ""), ("B", Any, "")]).keyed(&["", "keys(A)"]),
    Rel::new("t7", Kind::Table, &[("A", Int, ""), ("X", Float, "")]).keyed(&["", "keys(A)"]),
    Rel::new("t8", Kind::Table, &[("A", Int, ""), ("N", Addr, "")]).keyed(&["", "keys(A)"]),
    Rel::new(
        "u0",
        Kind::Table,
        &[("A", Int, ""), ("N", Int, ""), ("S", Str, "")],
    )
    .keyed(&["keys(A)"]),
    Rel::new("r0", Kind::Replicated, AB).keyed(&["", "keys(A)"]),
    Rel::new("v0", Kind::View(0), AB),
    Rel::new("v1", Kind::View(0), AB),
    Rel::new("v2", Kind::View(1), &[("A", Str, ""), ("B", Int, "")]),
    Rel::new("v3", Kind::Kept(1), AB),
    Rel::new("v4", Kind::Kept(2), ABC),
    Rel::new("v5", Kind::View(2), &[("A", Int, ""), ("L", List, "")]),
    Rel::new(
        "w0",
        Kind::Kept(1),
        &[("A", Int, ""), ("B", Int, ""), ("M", Int, "min<int>")],
    )
    .keyed(&["keys(A, B)"]),
    Rel::new(
        "w1",
        Kind::View(2),
        &[("A", Int, ""), ("M", Int, "max<int>")],
    )
    .keyed(&["keys(A)"]),
    Rel::new("z0", Kind::Lazy(3), AB),
    Rel::new("z1", Kind::Lazy(4), ABC),
    Rel::new("e0", Kind::Event(0), AB),
    Rel::new("e1", Kind::Event(0), &[("A", Int, "")]),
    Rel::new("e2", Kind::Event(0), &[("A", Str, ""), ("B", Int, "")]),
    Rel::new("e3", Kind::Event(1), AB),
    Rel::new("e4", Kind::Event(1), &[("L", List, "")]),
    Rel::new("e5", Kind::Event(2), ABC),
    Rel::new("e6", Kind::Event(2), &[("A", Any, "")]),
    Rel::new("m0", Kind::Event(0), &[("To", Addr, ""), ("A", Int, "")]).located(),
    Rel::new(
        "m1",
        Kind::Event(1),
        &[("To", Addr, ""), ("A", Int, ""), ("B", Int, "")],
    )
    .located(),
    Rel::new("log", Kind::Log, AB),
    Rel::new("tm", Kind::Timer, &[("Now", Int, "")]),
];

/// A relation by name.
pub fn rel(name: &str) -> &'static Rel {
    RELS.iter().find(|r| r.name == name).unwrap()
}

/// The statements of a program, declarations first.
pub fn program(keys: &[u8], rules: &[Vec<u8>]) -> Vec<String> {
    let mut used = BTreeSet::new();
    let mut body = Vec::new();
    for (i, bytes) in rules.iter().enumerate() {
        let c = Choices::new(bytes);
        let mut rule = Rule {
            c,
            bound: BTreeMap::new(),
            used: &mut used,
            fresh: 0,
            me: false,
            inner: false,
        };
        body.push(rule.statement(i));
    }
    let declared = RELS
        .iter()
        .enumerate()
        .filter(|(_, r)| used.contains(r.name));
    let declared =
        declared.map(|(i, rel)| declaration(rel, usize::from(keys.get(i).copied().unwrap_or(0))));
    let mut statements: Vec<String> = declared.collect();
    for rel in RELS.iter().filter(|r| used.contains(r.name)) {
        statements.extend(feed(rel));
    }
    statements.extend(body);
    statements
}

/// Events with which the host fills and empties a table, so that there is something to work on.
fn feed(rel: &Rel) -> Vec<String> {
    let names: Vec<&str> = rel.columns.iter().map(|c| c.0).collect();
    let columns: Vec<String> = rel
        .columns
        .iter()
        .map(|c| format!("{}: {}", c.0, type_name(c.1)))
        .collect();
    let (name, names, columns) = (rel.name, names.join(", "), columns.join(", "));
    match rel.kind {
        Kind::Replicated => vec![format!("{name}({names}) :- log({names});")],
        Kind::Table | Kind::Volatile => vec![
            format!("event put_{name}({columns});"),
            format!("{name}({names}) :- put_{name}({names});"),
            format!("event del_{name}({columns});"),
            format!("delete {name}({names}) :- del_{name}({names});"),
        ],
        _ => Vec::new(),
    }
}

fn declaration(rel: &Rel, key: usize) -> String {
    let (word, after) = match rel.kind {
        Kind::Table => ("table", ""),
        Kind::Volatile => ("table", " volatile"),
        Kind::Replicated => ("table", " replicated by log"),
        Kind::View(_) => ("view", ""),
        Kind::Kept(_) => ("view", " kept"),
        Kind::Lazy(_) => ("view", " lazy"),
        Kind::Event(_) | Kind::Log => ("event", ""),
        Kind::Timer => return format!("timer {}(100ms);", rel.name),
    };
    let keys = rel.keys.get(key % rel.keys.len().max(1)).unwrap_or(&"");
    let space = if keys.is_empty() { "" } else { " " };
    let columns = rel
        .columns
        .iter()
        .enumerate()
        .map(|(i, (name, ty, lattice))| {
            let at = if rel.located && i == 0 { "@" } else { "" };
            format!(
                "{at}{name}: {}",
                if lattice.is_empty() {
                    type_name(*ty)
                } else {
                    lattice
                }
            )
        });
    let columns: Vec<String> = columns.collect();
    format!(
        "{word} {}({}){space}{keys}{after};",
        rel.name,
        columns.join(", ")
    )
}

fn type_name(ty: Ty) -> &'static str {
    match ty {
        Int => "int",
        Str => "string",
        List => "list",
        Addr => "addr",
        Bool => "bool",
        Float => "float",
        Any => "any",
    }
}

/// A literal.
pub fn constant(c: &mut Choices<'_>, ty: Ty) -> String {
    let all: &[&str] = match ty {
        Int if c.one_in(30) => &["9223372036854775807", "-1"],
        Int => &["0", "1", "2", "3"],
        Str => &["\"\"", "\"a\"", "\"b\"", "\"ab\""],
        List => &["[]", "[1]", "[0, 1, 1]", "[2, 1]"],
        Addr => &["@\"me\"", "@\"you\"", "@\"me\"", "@\"them\""],
        Bool => &["false", "true"],
        Float => &["0.0", "1.5", "-0.25", "1e300"],
        Any => &["0", "1", "\"a\"", "[1]", "1.5", "2", "true", "@\"me\""],
    };
    (*c.pick(all)).to_owned()
}
