//! Random rules, one function for each kind: what its head is, and what its body may read so that the checker takes it.

use super::{Choices, Kind, RELS, Rel, Ty, constant, rel};
use Ty::{Bool, Int};
use std::collections::{BTreeMap, BTreeSet};

/// Which relations a rule may read.
#[derive(Clone, Copy)]
pub(super) struct Readable {
    /// Views of a lower stratum, freely.
    pub(super) views: usize,
    /// Views of this stratum too, but only positively.
    pub(super) same_views: bool,
    pub(super) lazy: bool,
    /// Events of a lower stratum; `None`: no events.
    pub(super) events: Option<usize>,
    pub(super) same_events: bool,
    pub(super) edges: bool,
    pub(super) replicated_only: bool,
}

pub(super) const STATE_ONLY: Readable = Readable {
    views: 9,
    same_views: false,
    lazy: false,
    events: None,
    same_events: false,
    edges: false,
    replicated_only: false,
};
pub(super) const EVENTS_TOO: Readable = Readable {
    events: Some(9),
    edges: true,
    ..STATE_ONLY
};

pub(super) struct Rule<'a, 'u> {
    pub(super) c: Choices<'a>,
    /// Variables that positive terms bind, by type.
    pub(super) bound: BTreeMap<Ty, Vec<String>>,
    pub(super) used: &'u mut BTreeSet<&'static str>,
    pub(super) fresh: usize,
    /// `Me` is bound.
    pub(super) me: bool,
    /// In a nested body.
    pub(super) inner: bool,
}

impl Rule<'_, '_> {
    pub(super) fn statement(&mut self, number: usize) -> String {
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
            let value = if !add && *ty != Bool && self.c.one_in(6) {
                self.aggregate(*ty).0
            } else {
                self.value(*ty)
            };
            args.push(format!("{column}{} {value}", if add { " +=" } else { ":" }));
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
}
