//! Recursion: no relation may depend on its own absence or on an aggregate over itself within a tick.
//! Views depend on views at all times; events depend on events within a tick, where `next`, messages, changes
//! of tables and edges do not count, for they take effect in a later tick.

use super::Checker;
use super::rules::{expr_vars, term_vars};
use crate::diag::{Diagnostic, code};
use crate::functions::Function;
use crate::ir::{
    Action, Arg, BinaryOp, Expr, HeadArg, Lattice, RelId, RelKind, Rule, Term, UnaryOp, VarId,
};
use std::collections::{BTreeMap, BTreeSet};

/// A rule's head depends on a relation.
struct Edge {
    rule: usize,
    head: RelId,
    body: RelId,
    /// Through `notin` or an aggregate.
    strict: bool,
}

impl Checker<'_> {
    pub(super) fn check_strata(&mut self) {
        self.check_layer(Action::Derive, code::VIEW_CYCLE);
        self.check_layer(Action::Emit, code::EVENT_CYCLE);
    }

    fn check_layer(&mut self, action: Action, code: &'static str) {
        let rules = self.program.rules.clone();
        let mut edges = Vec::new();
        for (at, rule) in rules
            .iter()
            .enumerate()
            .filter(|(_, r)| r.head.action == action)
        {
            let aggregates = rule.head.args.iter().any(|a| matches!(a, HeadArg::Agg(_)));
            self.edges(at, rule, &rule.body, aggregates, &mut edges);
        }
        let components = components(&edges);
        let same = |e: &Edge| {
            components.contains_key(&e.head) && components.get(&e.head) == components.get(&e.body)
        };
        let mut reported = BTreeSet::new();
        for edge in edges.iter().filter(|e| e.strict && same(e)) {
            if !reported.insert(components.get(&edge.head)) {
                continue;
            }
            let Some(rule) = rules.get(edge.rule) else {
                continue;
            };
            let cycle = self.cycle(edge, &edges, &rules);
            let kind = if action == Action::Derive {
                "at the same time"
            } else {
                "in the same tick"
            };
            let name = &self.relation(edge.head).name;
            let message =
                format!("{name} depends on its own absence or on an aggregate over itself {kind}");
            let help = if action == Action::Derive {
                "use a max<..> or min<..> column for the best value, or break the cycle with an event"
            } else {
                "break the cycle with next"
            };
            self.report(
                Diagnostic::error(code, &rule.span, message)
                    .hint(format!("the cycle:\n{cycle}{help}")),
            );
        }
        let mut endless = BTreeSet::new();
        for edge in edges.iter().filter(|e| same(e)) {
            let Some(rule) = rules.get(edge.rule) else {
                continue;
            };
            let own = components.get(&edge.head);
            let recursive = |rel: RelId| components.get(&rel) == own;
            if self.relation(edge.body).has_lattice() && !edge.strict {
                self.monotone(rule, &recursive);
            }
            if endless.insert(edge.rule)
                && computes(rule, self.relation(edge.head).has_lattice(), &recursive)
            {
                let message = format!(
                    "rule {} is recursive and its head computes new values: it may not end",
                    rule.name
                );
                let hint = "bound the value by a test, or make its column max<..> or min<..>";
                self.report(Diagnostic::warning(code::ENDLESS, &rule.span, message).hint(hint));
            }
        }
    }

    fn edges(&self, at: usize, rule: &Rule, body: &[Term], strict: bool, out: &mut Vec<Edge>) {
        let head = rule.head.rel;
        let counts = |rel: RelId| match self.relation(rel).kind {
            RelKind::View { .. } => rule.head.action == Action::Derive,
            RelKind::Event { .. } => rule.head.action == Action::Emit,
            _ => false,
        };
        for term in body {
            match term {
                Term::Atom(atom) if counts(atom.rel) => out.push(Edge {
                    rule: at,
                    head,
                    body: atom.rel,
                    strict,
                }),
                Term::Not(atom) if counts(atom.rel) => out.push(Edge {
                    rule: at,
                    head,
                    body: atom.rel,
                    strict: true,
                }),
                Term::Agg { body, .. } => self.edges(at, rule, body, true, out),
                _ => {}
            }
        }
    }

    /// The cycle that a strict dependency closes, a line for each rule.
    fn cycle(&self, strict: &Edge, edges: &[Edge], rules: &[Rule]) -> String {
        // Breadth first from what the strict rule reads, along heads that it is read for.
        let mut from: BTreeMap<RelId, &Edge> = BTreeMap::new();
        let mut todo = std::collections::VecDeque::from([strict.body]);
        while let Some(rel) = todo.pop_front() {
            for edge in edges.iter().filter(|e| e.head == rel) {
                if edge.body != strict.body && !from.contains_key(&edge.body) {
                    from.insert(edge.body, edge);
                    todo.push_back(edge.body);
                }
            }
        }
        let mut path = Vec::new();
        let mut at = strict.head;
        while at != strict.body {
            let Some(edge) = from.get(&at) else { break };
            path.push(*edge);
            at = edge.head;
        }
        path.push(strict);
        path.reverse();
        let line = |edge: &&Edge| {
            let rule = rules.get(edge.rule).map_or("", |r| r.name.as_str());
            let word = if edge.strict { "needs all of" } else { "needs" };
            format!(
                "  {} {word} {} (rule {rule})\n",
                self.relation(edge.head).name,
                self.relation(edge.body).name
            )
        };
        path.iter().map(line).collect()
    }

    /// A rule that recurs through a lattice column must be monotone in it: a better value may only add rows
    /// and better values.
    fn monotone(&mut self, rule: &Rule, recursive: &dyn Fn(RelId) -> bool) {
        let mut grows: BTreeMap<VarId, Lattice> = BTreeMap::new();
        let mut fixed: BTreeSet<VarId> = BTreeSet::new();
        let mut clash = false;
        for term in &rule.body {
            let Term::Atom(atom) = term else { continue };
            let relation = self.relation(atom.rel);
            for (arg, column) in atom.args.iter().zip(&relation.columns) {
                match (arg, column.lattice.filter(|_| recursive(atom.rel))) {
                    (Arg::Var(v), Some(lattice)) => clash |= grows.insert(*v, lattice).is_some(),
                    (Arg::Var(v), None) => {
                        fixed.insert(*v);
                    }
                    (Arg::Const(_), Some(_)) => clash = true,
                    _ => {}
                }
            }
        }
        clash |= grows.keys().any(|v| fixed.contains(v));
        let functions = &self.program.functions;
        // Assignments carry growth on, in whatever order they stand.
        for _ in &rule.body {
            for term in &rule.body {
                if let Term::Assign(v, e) = term
                    && let Some(lattice) = growth(e, &grows, functions)
                {
                    match lattice {
                        Growth::Up(lattice) => {
                            clash |= fixed.contains(v);
                            grows.insert(*v, lattice);
                        }
                        Growth::Unknown => clash = true,
                        Growth::Fixed => {}
                    }
                }
            }
        }
        clash |= rule.body.iter().any(|term| self.breaks(term, &grows));
        let head = self.relation(rule.head.rel);
        for (arg, column) in rule.head.args.iter().zip(&head.columns) {
            let HeadArg::Expr(e) = arg else { continue };
            clash |= match growth(e, &grows, functions) {
                None | Some(Growth::Fixed) => false,
                Some(Growth::Up(lattice)) => column.lattice != Some(lattice),
                Some(Growth::Unknown) => true,
            };
        }
        if clash {
            let message = format!(
                "rule {} recurs through a lattice column and is not monotone in it",
                rule.name
            );
            let hint = "such a value may be compared so that a better one passes too, added to, and given to a column of the same kind";
            self.report(Diagnostic::error(code::NOT_MONOTONE, &rule.span, message).hint(hint));
        }
    }

    /// Does a term ask of a growing value what a better one may not fulfil?
    fn breaks(&self, term: &Term, grows: &BTreeMap<VarId, Lattice>) -> bool {
        let touches = |e: &Expr| {
            let mut used = BTreeSet::new();
            expr_vars(e, &mut used);
            used.iter().any(|v| grows.contains_key(v))
        };
        match term {
            Term::Test(Expr::Binary(op, x, y)) if touches(x) != touches(y) => {
                let (e, up) = match op {
                    BinaryOp::Lt | BinaryOp::Le => {
                        if touches(x) {
                            (x, Lattice::Min)
                        } else {
                            (y, Lattice::Max)
                        }
                    }
                    BinaryOp::Gt | BinaryOp::Ge => {
                        if touches(x) {
                            (x, Lattice::Max)
                        } else {
                            (y, Lattice::Min)
                        }
                    }
                    _ => return true,
                };
                !matches!(growth(e, grows, &self.program.functions), Some(Growth::Up(lattice)) if lattice == up)
            }
            Term::Test(Expr::Var(v)) => grows.get(v).is_some_and(|l| *l != Lattice::Or),
            Term::Test(Expr::Unary(UnaryOp::Not, x)) => {
                touches(x) && !matches!(&**x, Expr::Var(v) if grows.get(v) == Some(&Lattice::And))
            }
            Term::Test(e) => touches(e),
            Term::Assign(..) | Term::Atom(_) => false,
            Term::Unnest { item, list, .. } => {
                // Each element of a growing set stays in it.
                grows.contains_key(item)
                    || touches(list)
                        && !matches!(list, Expr::Var(v) if grows.get(v) == Some(&Lattice::Set))
            }
            term => {
                let mut used = BTreeSet::new();
                term_vars(term, &mut used);
                used.iter().any(|v| grows.contains_key(v))
            }
        }
    }
}

enum Growth {
    /// No growing value in it.
    Fixed,
    /// Grows as its column does.
    Up(Lattice),
    /// No telling.
    Unknown,
}

/// How an expression changes as the values of lattice columns grow; `None` is as `Fixed`.
fn growth(e: &Expr, grows: &BTreeMap<VarId, Lattice>, functions: &[Function]) -> Option<Growth> {
    let mut used = BTreeSet::new();
    expr_vars(e, &mut used);
    if !used.iter().any(|v| grows.contains_key(v)) {
        return Some(Growth::Fixed);
    }
    let both =
        |x: &Expr, y: &Expr| match (growth(x, grows, functions), growth(y, grows, functions)) {
            (Some(Growth::Up(a)), Some(Growth::Up(b))) if a == b => Growth::Up(a),
            (Some(Growth::Up(a)), Some(Growth::Fixed))
            | (Some(Growth::Fixed), Some(Growth::Up(a))) => Growth::Up(a),
            _ => Growth::Unknown,
        };
    let ordered = |g: Growth| match g {
        Growth::Up(l @ (Lattice::Max | Lattice::Min)) => Growth::Up(l),
        _ => Growth::Unknown,
    };
    Some(match e {
        Expr::Var(v) => grows.get(v).map_or(Growth::Fixed, |l| Growth::Up(*l)),
        Expr::Binary(BinaryOp::Add, x, y) => ordered(both(x, y)),
        Expr::Binary(BinaryOp::Sub, x, y) => {
            match (growth(x, grows, functions), growth(y, grows, functions)) {
                (Some(g @ Growth::Up(_)), Some(Growth::Fixed)) => ordered(g),
                _ => Growth::Unknown,
            }
        }
        Expr::Binary(BinaryOp::And | BinaryOp::Or, x, y) => match both(x, y) {
            Growth::Up(l @ (Lattice::Or | Lattice::And)) => Growth::Up(l),
            _ => Growth::Unknown,
        },
        Expr::Call(id, args) => {
            let monotone = functions
                .get(id.0 as usize)
                .is_some_and(|f| f.name == "min" || f.name == "max");
            match args.as_slice() {
                [x, y] if monotone => ordered(both(x, y)),
                _ => Growth::Unknown,
            }
        }
        _ => Growth::Unknown,
    })
}

/// Does a recursive rule compute a value of its head from values that recursion gave it?
fn computes(rule: &Rule, lattice: bool, recursive: &dyn Fn(RelId) -> bool) -> bool {
    if lattice {
        return false;
    }
    let mut tainted: BTreeSet<VarId> = BTreeSet::new();
    for term in &rule.body {
        if let Term::Atom(atom) = term
            && recursive(atom.rel)
        {
            tainted.extend(
                atom.args
                    .iter()
                    .filter_map(|a| if let Arg::Var(v) = a { Some(*v) } else { None }),
            );
        }
    }
    let mut computed: BTreeSet<VarId> = BTreeSet::new();
    for _ in &rule.body {
        for term in &rule.body {
            let Term::Assign(v, e) = term else { continue };
            let mut used = BTreeSet::new();
            expr_vars(e, &mut used);
            let copy = matches!(e, Expr::Var(_));
            let from_recursion = used
                .iter()
                .any(|u| tainted.contains(u) && !copy || computed.contains(u));
            if from_recursion && !tainted.contains(v) {
                computed.insert(*v);
            }
        }
    }
    let bounds = |term: &Term| match term {
        Term::Test(e) => {
            let mut used = BTreeSet::new();
            expr_vars(e, &mut used);
            used.iter()
                .any(|v| tainted.contains(v) || computed.contains(v))
        }
        _ => false,
    };
    // A test on such a value is taken as its bound.
    if rule.body.iter().any(bounds) {
        return false;
    }
    rule.head.args.iter().any(|arg| match arg {
        HeadArg::Expr(Expr::Var(v)) => computed.contains(v),
        HeadArg::Expr(e) => {
            let mut used = BTreeSet::new();
            expr_vars(e, &mut used);
            used.iter()
                .any(|v| tainted.contains(v) || computed.contains(v))
        }
        _ => false,
    })
}

/// The strongly connected component of each relation that lies on a cycle.
fn components(edges: &[Edge]) -> BTreeMap<RelId, RelId> {
    let mut next: BTreeMap<RelId, BTreeSet<RelId>> = BTreeMap::new();
    for edge in edges {
        next.entry(edge.head).or_default().insert(edge.body);
    }
    // What each relation reaches; programs have hundreds of relations, so this need not be clever.
    let mut reach: BTreeMap<RelId, BTreeSet<RelId>> = BTreeMap::new();
    for start in next.keys() {
        let mut seen = BTreeSet::new();
        let mut todo = vec![*start];
        while let Some(rel) = todo.pop() {
            for to in next.get(&rel).into_iter().flatten() {
                if seen.insert(*to) {
                    todo.push(*to);
                }
            }
        }
        reach.insert(*start, seen);
    }
    let reaches = |a: &RelId, b: &RelId| reach.get(a).is_some_and(|r| r.contains(b));
    let cyclic = reach.keys().filter(|r| reaches(r, r));
    cyclic
        .map(|r| {
            let least = reach
                .keys()
                .find(|other| reaches(r, other) && reaches(other, r));
            (*r, least.copied().unwrap_or(*r))
        })
        .collect()
}
