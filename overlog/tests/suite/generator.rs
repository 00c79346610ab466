//! Random programs, well-formed by construction, from lists of choices. A program is a list of rules, each made from
//! its own list of bytes; 0 is the simplest choice everywhere, so that what proptest shrinks stays a program.
//!
//! The relations are fixed, apart from their keys; only those that the rules use are declared. Domains are small, so
//! that joins hit. Within a tick no rule makes values without end: ints are taken modulo something, strings and lists
//! are cut.

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

/// Which relations a rule may read.
#[derive(Clone, Copy)]
struct Readable {
    /// Views of a lower stratum, freely.
    views: usize,
    /// Views of this stratum too, but only positively.
    same_views: bool,
    lazy: bool,
    /// Events of a lower stratum; `None`: no events.
    events: Option<usize>,
    same_events: bool,
    edges: bool,
    replicated_only: bool,
}

const STATE_ONLY: Readable = Readable {
    views: 9,
    same_views: false,
    lazy: false,
    events: None,
    same_events: false,
    edges: false,
    replicated_only: false,
};
const EVENTS_TOO: Readable = Readable {
    events: Some(9),
    edges: true,
    ..STATE_ONLY
};

struct Rule<'a, 'u> {
    c: Choices<'a>,
    /// Variables that positive terms bind, by type.
    bound: BTreeMap<Ty, Vec<String>>,
    used: &'u mut BTreeSet<&'static str>,
    fresh: usize,
    /// `Me` is bound.
    me: bool,
    /// In a nested body.
    inner: bool,
}

impl Rule<'_, '_> {
    fn statement(&mut self, number: usize) -> String {
        let name = format!("r{number}");
        match self.c.below(32) {
            0..=3 => self.change(&name),
            4 | 5 => self.delete(&name),
            6 | 7 => self.update(&name),
            8..=11 => self.reaction(&name),
            12 | 13 => self.next(&name),
            14 => self.located(&name),
            15 | 16 => self.message(&name),
            17..=20 => self.view(&name),
            21 | 22 => self.recursion(&name),
            23 => self.shortest(&name),
            24 | 25 => self.lazy(&name),
            26 | 27 => self.edge(&name),
            28 => self.invariant(number),
            29 => self.replicated(&name),
            30 => self.watch_errors(&name),
            _ => self.fact(),
        }
    }

    fn pick_rel(&mut self, wanted: impl Fn(&Rel) -> bool) -> &'static Rel {
        let all: Vec<&'static Rel> = RELS.iter().filter(|r| wanted(r)).collect();
        let rel = *self.c.pick(&all);
        self.used.insert(rel.name);
        if rel.kind == Kind::Replicated {
            self.used.insert("log");
        }
        rel
    }

    // Rules, by kind.

    fn change(&mut self, name: &str) -> String {
        let head = self.pick_rel(|r| matches!(r.kind, Kind::Table | Kind::Volatile));
        let body = self.body(EVENTS_TOO, true);
        let head = self.head(head, !head.lattice());
        format!("{name}: {head} :- {body};")
    }

    fn delete(&mut self, name: &str) -> String {
        let head = self.pick_rel(|r| matches!(r.kind, Kind::Table | Kind::Volatile));
        let body = self.body(EVENTS_TOO, true);
        let args: Vec<String> = head
            .columns
            .iter()
            .map(|c| {
                if self.c.one_in(2) {
                    "_".to_owned()
                } else {
                    self.simple(c.1)
                }
            })
            .collect();
        format!(
            "{name}: delete {}({}) :- {body};",
            head.name,
            args.join(", ")
        )
    }

    fn update(&mut self, name: &str) -> String {
        let body = self.body(EVENTS_TOO, true);
        let table = *self.c.pick(&["u0", "u0", "u0", "t4", "t5"]);
        let head = rel(table);
        self.used.insert(head.name);
        let mut args = vec![format!("A: {}", self.value(Int))];
        let first = self.c.below(head.columns.len() - 1);
        let also = self.c.below(head.columns.len() - 1);
        for (i, (column, ty, lattice)) in head.columns[1..].iter().enumerate() {
            if i != first && i != also {
                continue;
            }
            let add = *ty == Int && lattice.is_empty() && self.c.one_in(2);
            args.push(format!(
                "{column}{} {}",
                if add { " +=" } else { ":" },
                self.value(*ty)
            ));
        }
        format!(
            "{name}: update {}({}) :- {body};",
            head.name,
            args.join(", ")
        )
    }

    fn reaction(&mut self, name: &str) -> String {
        let head = self.pick_rel(|r| matches!(r.kind, Kind::Event(_)) && !r.located);
        let Kind::Event(stratum) = head.kind else {
            unreachable!()
        };
        let aggregates = stratum > 0 && self.c.one_in(3);
        let read = Readable {
            events: Some(stratum),
            same_events: !aggregates,
            ..EVENTS_TOO
        };
        let body = self.body(read, true);
        let head = self.head(head, aggregates);
        format!("{name}: {head} :- {body};")
    }

    /// From one located event to another of this node.
    fn located(&mut self, name: &str) -> String {
        self.used.extend(["m0", "m1"]);
        self.bind(Int, "X0");
        self.me = true;
        let body = self.body(
            Readable {
                events: Some(1),
                ..EVENTS_TOO
            },
            false,
        );
        format!(
            "{name}: m1(@Me, X0, {}) :- m0(@Me, X0), {body};",
            self.value(Int)
        )
    }

    fn next(&mut self, name: &str) -> String {
        let body = self.body(EVENTS_TOO, true);
        let head = self.pick_rel(|r| matches!(r.kind, Kind::Event(1 | 2)) && !r.located);
        let head = self.head(head, true);
        format!("{name}: next {head} :- {body};")
    }

    fn message(&mut self, name: &str) -> String {
        let body = self.body(EVENTS_TOO, true);
        let head = self.pick_rel(|r| r.located);
        let head = self.head(head, false);
        format!("{name}: {head} :- {body};")
    }

    fn view(&mut self, name: &str) -> String {
        let head = self.pick_rel(|r| matches!(r.kind, Kind::View(_) | Kind::Kept(_)));
        let (Kind::View(stratum) | Kind::Kept(stratum)) = head.kind else {
            unreachable!()
        };
        let aggregates = self.c.one_in(3) && !head.lattice();
        let same = !aggregates && !head.lattice();
        let body = self.body(
            Readable {
                views: stratum,
                same_views: same,
                ..STATE_ONLY
            },
            false,
        );
        let head = self.head(head, aggregates);
        format!("{name}: {head} :- {body};")
    }

    fn lazy(&mut self, name: &str) -> String {
        let head = self.pick_rel(|r| matches!(r.kind, Kind::Lazy(_)));
        let Kind::Lazy(stratum) = head.kind else {
            unreachable!()
        };
        let aggregates = self.c.one_in(3);
        let read = Readable {
            views: stratum,
            same_views: !aggregates,
            lazy: true,
            ..STATE_ONLY
        };
        let body = self.body(read, false);
        let head = self.head(head, aggregates);
        format!("{name}: {head} :- {body};")
    }

    /// Paths, in one of a few shapes.
    fn recursion(&mut self, name: &str) -> String {
        let (view, edges) = *self.c.pick(&[
            ("v0", "t0"),
            ("v1", "r0"),
            ("v3", "v0"),
            ("z0", "t0"),
            ("e3", "e0"),
        ]);
        self.used.extend([view, edges, "log"]);
        let step = *self.c.pick(&[
            "E(X, Y)",
            "E(X, Z), V(Z, Y)",
            "V(X, Z), E(Z, Y)",
            "V(X, Z), V(Z, Y)",
            "V(Y, X)",
            "V(X, Z), E(Z, Y), Z != 2",
            "V(X, Z), E(Z, W), Y := (W + 1) % 4",
            "V(X, Z), E(Y, Z), notin t2(_, Y)",
        ]);
        if step.contains("t2") {
            self.used.insert("t2");
        }
        format!(
            "{name}: {view}(X, Y) :- {};",
            step.replace("V(", &format!("{view}("))
                .replace("E(", &format!("{edges}("))
        )
    }

    /// Least distances, monotone.
    fn shortest(&mut self, name: &str) -> String {
        self.used.extend(["w0", "t1", "v0", "t0"]);
        let body = *self.c.pick(&[
            "w0(X, Y, 1) :- t0(X, Y);",
            "w0(X, Z, M + 1) :- w0(X, Y, M), t0(Y, Z);",
            "w0(X, Y, D) :- v0(X, Y), t0(Y, D), D >= 0;",
            "w0(X, Y, 2) :- t1(X, Y, _);",
        ]);
        format!("{name}: {body}")
    }

    fn edge(&mut self, name: &str) -> String {
        let body = self.body(STATE_ONLY, false);
        let head = self.pick_rel(|r| matches!(r.kind, Kind::Event(_)) && !r.located);
        let head = self.head(head, true);
        format!("{name}: {head} :- {body};")
    }

    fn invariant(&mut self, number: usize) -> String {
        let event = self.c.one_in(3);
        let body = self.body(if event { EVENTS_TOO } else { STATE_ONLY }, event);
        let args: Vec<String> = (0..self.c.below(3)).map(|_| self.value(Int)).collect();
        format!("invariant inv{number}({}) :- {body};", args.join(", "))
    }

    fn replicated(&mut self, name: &str) -> String {
        self.used.extend(["r0", "log"]);
        let mut terms = vec!["log(X0, X1)".to_owned()];
        self.bind(Int, "X0");
        self.bind(Int, "X1");
        if self.c.one_in(2) {
            terms.push(self.atom(rel("r0"), true));
        }
        if self.c.one_in(3) {
            terms.push(format!("notin {}", self.atom(rel("r0"), false)));
        }
        self.shuffle(&mut terms);
        let (a, b) = (self.value(Int), self.value(Int));
        let head = if self.c.one_in(4) {
            format!("delete r0({a}, _)")
        } else {
            format!("r0({a}, {b})")
        };
        format!("{name}: {head} :- {};", terms.join(", "))
    }

    /// What the system reports.
    fn watch_errors(&mut self, name: &str) -> String {
        self.used.insert("e2");
        let body = *self.c.pick(&[
            "next e2(T, 2) :- sys_conflict(T, _, _);",
            "next e2(I, 3) :- sys_violation(I, _);",
            "next e2(\"s\", N ? 1 : 0) :- sys_start(_, N);",
            "next e2(\"t\", T % 3) :- sys_start(_, _), sys_tick(T, _, _);",
        ]);
        format!("{name}: {body}")
    }

    fn fact(&mut self) -> String {
        let head = self.pick_rel(|r| {
            !matches!(r.kind, Kind::Log | Kind::Timer | Kind::Replicated) && !r.located
        });
        // One a table, so that no two have one key.
        let args: Vec<String> = head
            .columns
            .iter()
            .map(|c| constant(&mut self.c, c.1))
            .collect();
        if head.is_table() {
            let zeros: Vec<String> = head
                .columns
                .iter()
                .map(|c| constant(&mut Choices::new(&[1]), c.1))
                .collect();
            return format!("{}({});", head.name, zeros.join(", "));
        }
        format!("{}({});", head.name, args.join(", "))
    }

    // Bodies.

    fn readable(&self, read: Readable, positive: bool) -> Vec<&'static Rel> {
        let fits = |r: &&Rel| match r.kind {
            Kind::Replicated => true,
            Kind::Table | Kind::Volatile => !read.replicated_only,
            Kind::View(s) | Kind::Kept(s) => {
                s < read.views || (s == read.views && positive && read.same_views && !r.lattice())
            }
            Kind::Lazy(s) => {
                read.lazy && (s < read.views || (s == read.views && positive && read.same_views))
            }
            Kind::Event(s) => read
                .events
                .is_some_and(|e| s < e || (s == e && positive && read.same_events)),
            Kind::Log | Kind::Timer => read.events.is_some(),
        };
        RELS.iter().filter(fits).collect()
    }

    fn body(&mut self, read: Readable, event: bool) -> String {
        let mut terms = Vec::new();
        if event {
            terms.push(self.event_atom(read));
        }
        let more = if event {
            self.c.below(3)
        } else {
            1 + self.c.below(3)
        };
        for _ in 0..more {
            let from = self.readable(read, true);
            let from: Vec<&Rel> = from
                .into_iter()
                .filter(|r| event || !r.is_event())
                .collect();
            let rel = *self.c.pick(&from);
            self.note(rel);
            terms.push(self.atom(rel, true));
        }
        for _ in 0..*self.c.pick(&[0, 0, 1, 1, 1, 2, 2, 3]) {
            let term = self.other_term(read);
            terms.extend(term);
        }
        self.shuffle(&mut terms);
        terms.join(", ")
    }

    fn note(&mut self, rel: &'static Rel) {
        self.used.insert(rel.name);
        if rel.kind == Kind::Replicated {
            self.used.insert("log");
        }
    }

    fn event_atom(&mut self, read: Readable) -> String {
        if read.edges && self.c.one_in(4) {
            let of: Vec<&Rel> = RELS
                .iter()
                .filter(|r| r.is_table() || matches!(r.kind, Kind::View(_) | Kind::Kept(_)))
                .collect();
            let of = *self.c.pick(&of);
            self.note(of);
            let edge = if self.c.one_in(3) {
                "#delete"
            } else {
                "#insert"
            };
            let atom = self.atom(of, true);
            return atom.replacen('(', &format!("{edge}("), 1);
        }
        let from: Vec<&Rel> = self
            .readable(read, true)
            .into_iter()
            .filter(|r| r.is_event())
            .collect();
        let rel = *self.c.pick(&from);
        self.note(rel);
        self.atom(rel, true)
    }

    fn atom(&mut self, rel: &'static Rel, positive: bool) -> String {
        let mut fresh = Vec::new();
        let mut args = Vec::new();
        for (i, (_, ty, _)) in rel.columns.iter().enumerate() {
            if rel.located && i == 0 {
                // One location in a body.
                self.me |= positive && !self.inner;
                args.push(if positive && self.me {
                    "@Me".to_owned()
                } else {
                    "_".to_owned()
                });
                continue;
            }
            let arg = match self.c.below(12) {
                0..=8 => {
                    let var = format!("{}{}", letter(*ty), self.c.below(4));
                    fresh.push((*ty, var.clone()));
                    var
                }
                9 => "_".to_owned(),
                10 => constant(&mut self.c, *ty),
                _ if *ty == Int => self.value(Int),
                _ => "_".to_owned(),
            };
            args.push(arg);
        }
        if positive {
            for (ty, var) in fresh {
                self.bind(ty, &var);
            }
        }
        format!("{}({})", rel.name, args.join(", "))
    }

    fn bind(&mut self, ty: Ty, var: &str) {
        let vars = self.bound.entry(ty).or_default();
        if vars.iter().all(|v| v != var) {
            vars.push(var.to_owned());
        }
    }

    fn other_term(&mut self, read: Readable) -> Option<String> {
        Some(match self.c.below(8) {
            0 | 1 => {
                let op = *self.c.pick(&["==", "!=", "<", "<=", ">", ">="]);
                let ty = *self.c.pick(&[Int, Int, Int, Str, List, Any, Float]);
                let (x, y) = (self.value(ty), self.value(ty));
                // Two constants of different types would be an error.
                if ty == Any && !self.bound.contains_key(&Any) {
                    return None;
                }
                let x = if ty == Any {
                    self.bound[&Any][0].clone()
                } else {
                    x
                };
                format!("{x} {op} {y}")
            }
            2 => {
                let (x, y) = (self.condition(), self.condition());
                let op = *self.c.pick(&["&&", "||"]);
                format!("({x} {op} !({y}))")
            }
            3 => {
                let ty = *self.c.pick(&[Int, Int, Str, List]);
                let value = self.value(ty);
                let var = format!("{}{}", letter(ty), 4 + self.fresh);
                self.fresh += 1;
                self.bind(ty, &var);
                format!("{var} := {value}")
            }
            4 | 5 => {
                let from = self.readable(read, false);
                let rel = *self.c.pick(&from);
                self.note(rel);
                format!("notin {}", self.atom(rel, false))
            }
            6 => {
                let list = self.value(List);
                let var = format!("Y{}", 4 + self.fresh);
                self.fresh += 1;
                self.bind(Any, &var);
                if self.c.one_in(2) {
                    let at = format!("X{}", 4 + self.fresh);
                    self.fresh += 1;
                    self.bind(Int, &at);
                    format!("{at}, {var} in {list}")
                } else {
                    format!("{var} in {list}")
                }
            }
            _ => return self.nested(read),
        })
    }

    /// `N := agg<..> { .. }`
    fn nested(&mut self, read: Readable) -> Option<String> {
        let from = self.readable(read, false);
        let outside = self.bound.clone();
        self.inner = true;
        let mut terms = Vec::new();
        for _ in 0..1 + self.c.below(2) {
            let rel = *self.c.pick(&from);
            self.note(rel);
            terms.push(self.atom(rel, true));
        }
        if self.c.one_in(3) {
            terms.push(self.condition());
        }
        if self.c.one_in(4) {
            let rel = *self.c.pick(&from);
            self.note(rel);
            terms.push(format!("notin {}", self.atom(rel, false)));
        }
        self.shuffle(&mut terms);
        let ty = *self.c.pick(&[Int, Int, Int, List, Float]);
        let (agg, ty) = self.aggregate(ty);
        self.bound = outside;
        self.inner = false;
        let var = format!("{}{}", letter(ty), 4 + self.fresh);
        self.fresh += 1;
        self.bind(ty, &var);
        Some(format!("{var} := {agg} {{ {} }}", terms.join(", ")))
    }

    /// An aggregate that gives this type, or the one that it says.
    fn aggregate(&mut self, ty: Ty) -> (String, Ty) {
        match ty {
            Int => match self.c.below(9) {
                0 => ("count<*>".to_owned(), Int),
                1 => (format!("count<{}>", self.value(Str)), Int),
                2 => (format!("sum<{}>", self.value(Int)), Int),
                3 => (format!("min<{}>", self.value(Int)), Int),
                4 => (format!("max<{}>", self.value(Int)), Int),
                5 => (
                    format!("argmin<{}, {}>", self.value(Str), self.value(Int)),
                    Int,
                ),
                6 => (
                    format!("argmax<{}, {}>", self.value(Int), self.value(Int)),
                    Int,
                ),
                7 => (format!("any<{}>", self.value(Int)), Int),
                _ => (format!("count<{}>", self.value(Int)), Int),
            },
            List => match self.c.below(4) {
                0 => (format!("list<{}>", self.value(Int)), List),
                1 => (format!("set<{}>", self.value(Int)), List),
                2 => (format!("top<2, {}>", self.value(Int)), List),
                _ => (format!("least<2, {}>", self.value(Int)), List),
            },
            Float if self.c.one_in(2) => (format!("avg<{}>", self.value(Int)), Float),
            Float => (format!("sum<{}>", self.value(Float)), Float),
            _ => (format!("max<{}>", self.value(ty)), ty),
        }
    }

    fn condition(&mut self) -> String {
        let op = *self.c.pick(&["==", "<", "!=", ">="]);
        format!("{} {op} {}", self.value(Int), self.value(Int))
    }

    fn shuffle(&mut self, terms: &mut [String]) {
        let n = terms.len().max(1);
        let by = self.c.below(n);
        terms.rotate_left(by);
        if self.c.one_in(2) {
            terms.reverse();
        }
    }

    // Heads and values.

    fn head(&mut self, rel: &'static Rel, aggregates: bool) -> String {
        let aggregated = aggregates && self.c.one_in(3);
        let args = rel.columns.iter().enumerate().map(|(i, (_, ty, _))| {
            if rel.located && i == 0 {
                return format!("@{}", self.location());
            }
            let last = i + 1 == rel.columns.len();
            if aggregated && last && matches!(ty, Int | List | Float | Str) {
                self.aggregate(*ty).0
            } else {
                self.value(*ty)
            }
        });
        let args: Vec<String> = args.collect();
        format!("{}({})", rel.name, args.join(", "))
    }

    fn location(&mut self) -> String {
        match self.bound.get(&Addr).and_then(|vars| vars.first()) {
            Some(var) if self.c.one_in(2) => var.clone(),
            _ => constant(&mut self.c, Addr),
        }
    }

    /// An expression over what is bound.
    fn value(&mut self, ty: Ty) -> String {
        let vars = self.bound.get(&ty).cloned().unwrap_or_default();
        let var = |rule: &mut Self| match vars.as_slice() {
            [] => constant(&mut rule.c, ty),
            vars => rule.c.pick(vars).clone(),
        };
        match (ty, self.c.below(12)) {
            (_, 0..=7) => var(self),
            // What an error in a nested body does has tests of its own.
            _ if self.inner => var(self),
            // An expression of constants that has no value would be refused.
            (Int, 9) if vars.is_empty() => var(self),
            (_, 8) => constant(&mut self.c, ty),
            (Int, 9) => {
                let op = *self.c.pick(&["+", "-", "*", "/", "/"]);
                format!("({} {op} {}) % 4", var(self), var(self))
            }
            (Int, 10) if self.bound.contains_key(&List) => {
                format!("int({}[1])", self.bound[&List][0])
            }
            (Int, 10) => format!("size({})", self.simple(List)),
            (Int, _) => format!("({} > 1 ? {} : {})", var(self), var(self), var(self)),
            (Str, 9) => format!("substr({} + {}, 0, 2)", var(self), var(self)),
            (Str, _) => format!("str({})", self.simple(Int)),
            (List, 9) => format!("slice({} + {}, 0, 3)", var(self), var(self)),
            (List, _) => format!("[{}, {}]", self.simple(Int), self.simple(Int)),
            (Any, 9 | 10) => self.simple(Int),
            (Float, 9) => format!("({} + {})", var(self), var(self)),
            _ => var(self),
        }
    }

    /// A variable or a constant.
    fn simple(&mut self, ty: Ty) -> String {
        let vars = self.bound.get(&ty).cloned().unwrap_or_default();
        if vars.is_empty() || self.c.one_in(5) {
            constant(&mut self.c, ty)
        } else {
            self.c.pick(&vars).clone()
        }
    }
}

fn letter(ty: Ty) -> char {
    match ty {
        Int => 'X',
        Str => 'S',
        List => 'L',
        Addr => 'N',
        Bool => 'B',
        Float => 'F',
        Any => 'Y',
    }
}
