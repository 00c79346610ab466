//! From checked rules to steps: the order of each body's terms, the arrangements they use, the
//! strata of events and views.

use crate::api::RunError;
use crate::ir::{
    Action, AggOp, Aggregate, Arg, Atom, Expr, HeadArg, Program, RelId, RelKind, Rule, RuleId,
    Term, Type, VarId,
};
use crate::packed;
use std::collections::{BTreeMap, BTreeSet};

pub mod graph;
pub mod guards;
pub mod indexes;
pub mod lag;
pub mod order;

pub use graph::Strata;
pub use guards::Guard;
pub use indexes::{IndexDef, IndexId, Indexes};

/// A value that is known when a step runs.
#[derive(Clone, Debug)]
pub enum Operand {
    /// A variable's slot.
    Slot(usize),
    /// A packed constant.
    Const(Vec<u8>),
}

/// What to do with a column of a row.
#[derive(Clone, Debug)]
pub enum Col {
    /// Nothing.
    Skip,
    /// Store it.
    Bind(usize),
    /// It must be equal.
    Check(Operand),
}

/// Bounds of the column behind a prefix: the bound and whether it is itself excluded.
#[derive(Clone, Debug, Default)]
pub struct Range {
    /// The least value.
    pub low: Option<(Operand, bool)>,
    /// The greatest value.
    pub high: Option<(Operand, bool)>,
}

/// Where the rows of an atom come from.
#[derive(Clone, Debug)]
pub enum Source {
    /// An arrangement: rows that start with `prefix`; `cols` are the columns after it, in its order.
    Index {
        /// Which.
        index: IndexId,
        /// The leading columns.
        prefix: Vec<Operand>,
        /// Bounds of the next.
        range: Range,
        /// All columns in the arrangement's order, for when an operand is undefined.
        all: Vec<Col>,
    },
    /// Events of this tick: those with `key` in the columns of the hash index, or all.
    Event {
        /// The relation.
        rel: RelId,
        /// The hash index in the tick's store and the key.
        by: Option<(usize, Vec<Operand>)>,
    },
    /// A view that is evaluated on demand, with the columns that are bound.
    Lazy {
        /// The view.
        rel: RelId,
        /// A value for each bound column.
        bound: Vec<Option<Operand>>,
    },
    /// `sys_tick`.
    Tick,
}

/// One step of a body.
#[derive(Clone, Debug)]
pub enum Step {
    /// For each row.
    Each {
        /// Where from.
        source: Source,
        /// What to do with its columns (after the prefix of an arrangement).
        cols: Vec<Col>,
    },
    /// There is no such row.
    None {
        /// Where from.
        source: Source,
        /// What must be equal.
        cols: Vec<Col>,
    },
    /// A condition.
    Test(Expr),
    /// A computed value, stored or compared.
    Assign {
        /// The variable.
        slot: usize,
        /// Its value.
        expr: Expr,
        /// It is bound already: compare.
        check: bool,
    },
    /// For each element of a list.
    Unnest {
        /// The list.
        list: Expr,
        /// The position.
        pos: Col,
        /// The element.
        item: Col,
    },
    /// An aggregate over a nested body.
    Agg {
        /// What to do with the result.
        result: Col,
        /// The aggregate.
        agg: Aggregate,
        /// The nested body.
        body: Body,
        /// Variables that it shares with what is outside.
        outer: Vec<usize>,
        /// The nested body's rows come in the order of this variable, which the aggregate's value starts with: enough
        /// is known when it has passed the value that the last one needed has.
        in_order: Option<usize>,
    },
}

/// Steps in the order in which they run.
#[derive(Clone, Debug, Default)]
pub struct Body {
    /// The steps.
    pub steps: Vec<Step>,
}

/// A body that starts from the rows of an event.
#[derive(Clone, Debug)]
pub struct Driven {
    /// The event.
    pub rel: RelId,
    /// What to do with its columns.
    pub cols: Vec<Col>,
    /// The rest.
    pub body: Body,
    /// Of a `delete`: finds the stored rows, with the head's values in the slots behind the variables'.
    pub target: Option<Body>,
}

/// A planned event rule.
#[derive(Clone, Debug)]
pub struct EventRule {
    /// Which rule.
    pub rule: RuleId,
    /// One for each positive event of the body that may drive it.
    pub drivers: Vec<Driven>,
    /// All positive events: the rule runs when none is empty.
    pub events: Vec<RelId>,
    /// Looked at before it runs.
    pub guards: Vec<Guard>,
    /// Tables whose changes the views that it reads must have taken.
    pub tables_behind_views: Vec<RelId>,
    /// Slots.
    pub slots: usize,
    /// The head has aggregates.
    pub grouped: bool,
    /// A `delete` that names the columns of the key and no others: what is stored need not be found first.
    pub by_key: bool,
    /// For each column of the head: what it gets is known to have its type.
    pub unchecked: Vec<bool>,
}

/// How a rule is planned.
pub struct Planner<'a> {
    /// The program.
    pub program: &'a Program,
    /// The arrangements so far.
    pub indexes: &'a Indexes,
    /// Hash indexes of events: the columns of each.
    pub event_indexes: &'a mut BTreeMap<RelId, Vec<Vec<usize>>>,
    /// Columns of events whose different values are noted.
    pub noted: &'a mut BTreeMap<RelId, Vec<usize>>,
    /// Views that may lag behind their tables.
    pub late: &'a lag::Late,
}

impl Planner<'_> {
    /// Plans an event rule: each positive event atom as driver.
    pub fn event_rule(&mut self, id: RuleId, rule: &Rule) -> Result<EventRule, RunError> {
        let events: Vec<(usize, &Atom)> = order::positive_events(self.program, &rule.body);
        let mut drivers = Vec::new();
        for (at, atom) in &events {
            let mut bound = BTreeSet::new();
            let cols = columns(&atom.args, &mut bound);
            let rest: Vec<&Term> = rule
                .body
                .iter()
                .enumerate()
                .filter(|(i, _)| i != at)
                .map(|(_, t)| t)
                .collect();
            let body = self.body(rule, &rest, &mut bound)?;
            drivers.push(Driven {
                rel: atom.rel,
                cols,
                body,
                target: self.delete_target(rule),
            });
        }
        Ok(EventRule {
            rule: id,
            drivers,
            events: events.iter().map(|(_, a)| a.rel).collect(),
            guards: guards::of(rule, &events, self.noted),
            by_key: by_key(self.program, rule),
            unchecked: unchecked(self.program, rule),
            tables_behind_views: lag::must_be_seen(self.program, self.late, &rule.body),
            slots: slots(rule),
            grouped: rule.head.args.iter().any(|a| matches!(a, HeadArg::Agg(_))),
        })
    }

    /// Plans a body without a driver, with these variables bound from the start.
    pub fn free_body(
        &mut self,
        rule: &Rule,
        bound: &mut BTreeSet<VarId>,
    ) -> Result<Body, RunError> {
        let terms: Vec<&Term> = rule.body.iter().collect();
        self.body(rule, &terms, bound)
    }

    /// A `delete` looks for the stored rows that match its head.
    fn delete_target(&mut self, rule: &Rule) -> Option<Body> {
        if rule.head.action != Action::Delete || by_key(self.program, rule) {
            return None;
        }
        let mut args = Vec::new();
        let mut bound = BTreeSet::new();
        for (i, arg) in rule.head.args.iter().enumerate() {
            let var = VarId(u32::try_from(rule.vars.len() + i).unwrap_or(u32::MAX));
            args.push(Arg::Var(var));
            if matches!(arg, HeadArg::Expr(_)) {
                bound.insert(var);
            }
        }
        let atom = Atom {
            rel: rule.head.rel,
            args,
            span: rule.span.clone(),
        };
        Some(Body {
            steps: vec![self.each(&atom, &mut bound, &[])],
        })
    }

    fn body(
        &mut self,
        rule: &Rule,
        terms: &[&Term],
        bound: &mut BTreeSet<VarId>,
    ) -> Result<Body, RunError> {
        let ordered =
            order::order_terms(self.program, self.indexes, terms, bound).map_err(|reason| {
                RunError::Plan {
                    rule: rule.name.clone(),
                    reason,
                }
            })?;
        let mut steps = Vec::new();
        for term in ordered {
            let step = self.step(rule, term, bound, terms)?;
            steps.push(step);
        }
        Ok(Body { steps })
    }

    fn step(
        &mut self,
        rule: &Rule,
        term: &Term,
        bound: &mut BTreeSet<VarId>,
        all: &[&Term],
    ) -> Result<Step, RunError> {
        Ok(match term {
            Term::Atom(atom) => self.each(atom, bound, all),
            Term::Not(atom) => {
                let mut inner = bound.clone();
                match self.each(atom, &mut inner, &[]) {
                    Step::Each { source, cols } => Step::None { source, cols },
                    other => other,
                }
            }
            Term::Test(e) => Step::Test(e.clone()),
            Term::Assign(v, e) => {
                let check = !bound.insert(*v);
                Step::Assign {
                    slot: v.0 as usize,
                    expr: e.clone(),
                    check,
                }
            }
            Term::Unnest { pos, item, list } => {
                let list = list.clone();
                let pos = pos.map_or(Col::Skip, |p| bind(p, bound));
                Step::Unnest {
                    list,
                    pos,
                    item: bind(*item, bound),
                }
            }
            Term::Agg {
                var,
                agg,
                body,
                outer,
            } => {
                let mut inner = bound.clone();
                let terms: Vec<&Term> = body.iter().collect();
                let body = self.body(rule, &terms, &mut inner)?;
                let in_order = least_in_order(agg, &body, &terms, bound);
                Step::Agg {
                    result: bind(*var, bound),
                    agg: agg.clone(),
                    body,
                    outer: outer.iter().map(|v| v.0 as usize).collect(),
                    in_order,
                }
            }
        })
    }

    fn each(&mut self, atom: &Atom, bound: &mut BTreeSet<VarId>, all: &[&Term]) -> Step {
        let rel = atom.rel;
        match self.program.relation(rel).kind {
            RelKind::Tick => Step::Each {
                source: Source::Tick,
                cols: columns(&atom.args, bound),
            },
            RelKind::Event { .. } | RelKind::Edge { .. } => {
                let known: Vec<usize> = bound_columns(atom, bound).into_iter().collect();
                let key = known
                    .iter()
                    .filter_map(|c| atom.args.get(*c).and_then(operand))
                    .collect();
                let by = (!known.is_empty()).then(|| (self.event_index(rel, &known), key));
                Step::Each {
                    source: Source::Event { rel, by },
                    cols: columns(&atom.args, bound),
                }
            }
            RelKind::View { kept: false, .. } => {
                let known = bound_columns(atom, bound);
                let bound_args = atom
                    .args
                    .iter()
                    .enumerate()
                    .map(|(c, a)| known.contains(&c).then(|| operand(a)).flatten())
                    .collect();
                let source = Source::Lazy {
                    rel,
                    bound: bound_args,
                };
                Step::Each {
                    source,
                    cols: columns(&atom.args, bound),
                }
            }
            RelKind::Table(_) | RelKind::View { .. } => self.lookup(atom, bound, all),
        }
    }

    fn lookup(&self, atom: &Atom, bound: &mut BTreeSet<VarId>, all: &[&Term]) -> Step {
        let known = bound_columns(atom, bound);
        let ranged = order::ranged_column(atom, bound, all);
        let (index, width) = self.indexes.best(atom.rel, &known, ranged);
        let def = self.indexes.get(index);
        let (head, tail) = def.order.split_at(width);
        let arg = |c: &usize| atom.args.get(*c).cloned().unwrap_or(Arg::Any);
        let prefix: Vec<Operand> = head.iter().filter_map(|c| operand(&arg(c))).collect();
        let range = match tail.first() {
            Some(c) if !known.contains(c) => order::range_of(&arg(c), bound, all),
            _ => Range::default(),
        };
        let ordered: Vec<Arg> = tail.iter().map(arg).collect();
        let mut everything: Vec<Col> = prefix.iter().cloned().map(Col::Check).collect();
        let mut cols = columns(&ordered, bound);
        everything.extend(cols.iter().cloned());
        while matches!(cols.last(), Some(Col::Skip)) {
            cols.pop();
        }
        Step::Each {
            source: Source::Index {
                index,
                prefix,
                range,
                all: everything,
            },
            cols,
        }
    }

    fn event_index(&mut self, rel: RelId, columns: &[usize]) -> usize {
        let list = self.event_indexes.entry(rel).or_default();
        match list.iter().position(|c| c == columns) {
            Some(at) => at,
            None => {
                list.push(columns.to_vec());
                list.len() - 1
            }
        }
    }
}

/// Slots that a rule needs: its variables, and one for each column of a `delete` head.
pub fn slots(rule: &Rule) -> usize {
    rule.vars.len()
        + if rule.head.action == Action::Delete {
            rule.head.args.len()
        } else {
            0
        }
}

fn by_key(program: &Program, rule: &Rule) -> bool {
    let keys = &program.relation(rule.head.rel).keys;
    let mut args = rule.head.args.iter().enumerate();
    rule.head.action == Action::Delete
        && args.all(|(c, arg)| matches!(arg, HeadArg::Expr(_)) == keys.contains(&c))
}

/// Columns of the head that take a variable which some atom binds from a column of the same type.
fn unchecked(program: &Program, rule: &Rule) -> Vec<bool> {
    let bound_as = |var: &VarId, ty: Type| {
        rule.body.iter().any(|term| match term {
            Term::Atom(atom) => {
                let columns = &program.relation(atom.rel).columns;
                let mut pairs = atom.args.iter().zip(columns);
                pairs.any(|(arg, c)| matches!(arg, Arg::Var(v) if v == var) && c.ty == ty)
            }
            _ => false,
        })
    };
    let columns = &program.relation(rule.head.rel).columns;
    let pairs = rule.head.args.iter().zip(columns);
    pairs
        .map(|(arg, column)| match arg {
            HeadArg::Expr(Expr::Var(var)) => bound_as(var, column.ty),
            _ => false,
        })
        .collect()
}

/// `least<N, [X, ..]>` over an arrangement that is scanned in the order of X needs only its first rows. Gives the slot
/// of X. What could fail in the rows behind would have to be reported, so nothing may.
fn least_in_order(
    agg: &Aggregate,
    body: &Body,
    terms: &[&Term],
    bound: &BTreeSet<VarId>,
) -> Option<usize> {
    let fixed = match agg.args.first() {
        Some(Expr::Const(_)) => true,
        Some(Expr::Var(n)) => bound.contains(n),
        _ => false,
    };
    let leading = match agg.args.get(1) {
        Some(Expr::List(items)) if items.iter().all(is_plain) => items.first(),
        other => other,
    };
    let Some(Expr::Var(lead)) = leading else {
        return None;
    };
    if agg.op != AggOp::Least || !fixed || !terms.iter().all(|term| is_safe(term)) {
        return None;
    }
    // The outermost loop binds X first: all others are within one value of X.
    let slot = lead.0 as usize;
    let outermost = body.steps.iter().find_map(|s| match s {
        Step::Each { source, cols } => Some((source, cols)),
        _ => None,
    });
    match outermost {
        Some((Source::Index { .. }, cols)) => {
            matches!(cols.first(), Some(Col::Bind(s)) if *s == slot).then_some(slot)
        }
        _ => None,
    }
}

fn is_plain(e: &Expr) -> bool {
    matches!(e, Expr::Var(_) | Expr::Const(_))
}

/// A term that finds rows or compares what is known: it cannot fail.
fn is_safe(term: &Term) -> bool {
    match term {
        Term::Atom(_) | Term::Not(_) => true,
        Term::Test(Expr::Binary(op, a, b)) => lag::compares(*op) && is_plain(a) && is_plain(b),
        _ => false,
    }
}

fn bind(var: VarId, bound: &mut BTreeSet<VarId>) -> Col {
    let slot = var.0 as usize;
    if bound.insert(var) {
        Col::Bind(slot)
    } else {
        Col::Check(Operand::Slot(slot))
    }
}

/// Columns of an atom whose value is known.
pub fn bound_columns(atom: &Atom, bound: &BTreeSet<VarId>) -> BTreeSet<usize> {
    atom.args
        .iter()
        .enumerate()
        .filter(|(_, a)| match a {
            Arg::Var(v) => bound.contains(v),
            Arg::Const(_) => true,
            Arg::Any => false,
        })
        .map(|(c, _)| c)
        .collect()
}

/// What is known of an argument.
pub fn operand(arg: &Arg) -> Option<Operand> {
    match arg {
        Arg::Var(v) => Some(Operand::Slot(v.0 as usize)),
        Arg::Const(v) => {
            let mut bytes = Vec::new();
            packed::pack(v, &mut bytes);
            Some(Operand::Const(bytes))
        }
        Arg::Any => None,
    }
}

/// What to do with each column; binds what is not bound yet.
pub fn columns(args: &[Arg], bound: &mut BTreeSet<VarId>) -> Vec<Col> {
    args.iter()
        .map(|a| match a {
            Arg::Any => Col::Skip,
            Arg::Var(v) => bind(*v, bound),
            Arg::Const(_) => operand(a).map_or(Col::Skip, Col::Check),
        })
        .collect()
}
