//! Random terms, aggregates, heads and expressions of a rule.

use super::rules::{Readable, Rule};
use super::{Kind, RELS, Rel, Ty, constant};
use Ty::{Addr, Any, Bool, Float, Int, List, Str};

impl Rule<'_, '_> {
    pub(super) fn readable(&self, read: Readable, positive: bool) -> Vec<&'static Rel> {
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

    pub(super) fn body(&mut self, read: Readable, event: bool) -> String {
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

    pub(super) fn note(&mut self, rel: &'static Rel) {
        self.used.insert(rel.name);
        if rel.kind == Kind::Replicated {
            self.used.insert("log");
        }
    }

    pub(super) fn event_atom(&mut self, read: Readable) -> String {
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

    pub(super) fn atom(&mut self, rel: &'static Rel, positive: bool) -> String {
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

    pub(super) fn bind(&mut self, ty: Ty, var: &str) {
        let vars = self.bound.entry(ty).or_default();
        if vars.iter().all(|v| v != var) {
            vars.push(var.to_owned());
        }
    }

    pub(super) fn other_term(&mut self, read: Readable) -> Option<String> {
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
    pub(super) fn nested(&mut self, read: Readable) -> Option<String> {
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
    pub(super) fn aggregate(&mut self, ty: Ty) -> (String, Ty) {
        match ty {
            Int if self.bound.contains_key(&Any) && self.c.one_in(4) => {
                // Of anything: what is no number drops its group.
                let of = self.bound[&Any][0].clone();
                (
                    format!("{}<{of}>", self.c.pick(&["sum", "max", "any"])),
                    Int,
                )
            }
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
            List => match self.c.below(6) {
                0 => (format!("list<{}>", self.value(Int)), List),
                1 => (format!("set<{}>", self.value(Int)), List),
                2 => (format!("top<2, {}>", self.value(Int)), List),
                3 => (
                    format!("top<{}, {}>", self.simple(Int), self.value(Any)),
                    List,
                ),
                4 => (
                    format!("least<{}, {}>", self.simple(Int), self.value(Int)),
                    List,
                ),
                _ => (format!("least<2, {}>", self.value(Int)), List),
            },
            Float if self.c.one_in(2) => (format!("avg<{}>", self.value(Int)), Float),
            Float => (format!("sum<{}>", self.value(Float)), Float),
            _ => (format!("max<{}>", self.value(ty)), ty),
        }
    }

    pub(super) fn condition(&mut self) -> String {
        let op = *self.c.pick(&["==", "<", "!=", ">="]);
        format!("{} {op} {}", self.value(Int), self.value(Int))
    }

    pub(super) fn shuffle(&mut self, terms: &mut [String]) {
        let n = terms.len().max(1);
        let by = self.c.below(n);
        terms.rotate_left(by);
        if self.c.one_in(2) {
            terms.reverse();
        }
    }

    // Heads and values.

    pub(super) fn head(&mut self, rel: &'static Rel, aggregates: bool) -> String {
        let aggregated = aggregates && self.c.one_in(3);
        let args = rel.columns.iter().enumerate().map(|(i, (_, ty, _))| {
            if rel.located && i == 0 {
                return format!("@{}", self.location());
            }
            let last = i + 1 == rel.columns.len();
            if aggregated && last && matches!(ty, Int | List | Float | Str) {
                self.aggregate(*ty).0
            } else if self.bound.contains_key(&Any) && self.c.one_in(12) {
                // It may not fit the column, which is known only when the rule runs.
                self.bound[&Any][0].clone()
            } else {
                self.value(*ty)
            }
        });
        let args: Vec<String> = args.collect();
        format!("{}({})", rel.name, args.join(", "))
    }

    pub(super) fn location(&mut self) -> String {
        match self.bound.get(&Addr).and_then(|vars| vars.first()) {
            Some(var) if self.c.one_in(2) => var.clone(),
            _ => constant(&mut self.c, Addr),
        }
    }

    /// An expression over what is bound.
    pub(super) fn value(&mut self, ty: Ty) -> String {
        let vars = self.bound.get(&ty).cloned().unwrap_or_default();
        let var = |rule: &mut Self| match vars.as_slice() {
            [] => constant(&mut rule.c, ty),
            vars => rule.c.pick(vars).clone(),
        };
        match (ty, self.c.below(12)) {
            (_, 0..=7) => var(self),
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
    pub(super) fn simple(&mut self, ty: Ty) -> String {
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
