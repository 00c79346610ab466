//! Views on demand: only what a question's bindings ask for, top-down, with answers remembered.
//!
//! A goal is a view with values for some columns. A goal that is asked for while it is being worked
//! out gets the answers so far; the outermost goal of such a cycle repeats until nothing is new
//! (query-sub-query evaluation; what magic sets do bottom-up).

use crate::engine::agg::{Acc, Arguments};
use crate::engine::eval::eval_into;
use crate::engine::machine::{Machine, Stop, World};
use crate::engine::plan::{self, Body, Planner};
use crate::engine::tables::{check_row, columns_of};
use crate::engine::views::merge_rows;
use crate::ir::{Action, Aggregate, Expr, HeadArg, Program, RelId, Rule};
use crate::packed::Row;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::rc::Rc;

/// Goals within goals: a bound on the depth of recursion over data.
const MAX_DEPTH: usize = 100_000;
/// Stack that one goal may need; more is added where less is left.
const RED_ZONE: usize = 128 * 1024;
const MORE_STACK: usize = 4 * 1024 * 1024;

type Key = (RelId, Vec<Option<Vec<u8>>>);

enum Goal {
    Complete(Rc<Vec<Row>>),
    Active {
        depth: usize,
        rows: Rc<Vec<Row>>,
    },
    /// Worked out in this round from answers of an active goal at depth `low`, which may grow.
    Partial {
        round: u64,
        low: usize,
        rows: Rc<Vec<Row>>,
    },
}

#[derive(Default)]
struct Inner {
    goals: HashMap<Key, Goal>,
    plans: BTreeMap<(RelId, Vec<bool>), Rc<Vec<RulePlan>>>,
    machines: Vec<Machine>,
    depth: usize,
    round: u64,
    /// The least depth of an active goal that was asked for since this was last reset.
    low: usize,
}

/// Plans and answers of views on demand.
#[derive(Default)]
pub struct LazyViews {
    inner: RefCell<Inner>,
}

impl LazyViews {
    /// Forgets answers, not plans.
    pub fn clear(&mut self) {
        let inner = self.inner.get_mut();
        inner.goals.clear();
        inner.depth = 0;
    }
}

/// A rule planned for some bound columns.
struct RulePlan {
    body: Body,
    slots: usize,
    head: HeadPlan,
    /// Variables that the bound columns give: slot, column.
    given: Vec<(usize, usize)>,
}

/// A head without a relation's actions: values, or groups and aggregates.
pub struct HeadPlan {
    columns: Vec<HeadArg>,
    aggs: Vec<Aggregate>,
}

impl HeadPlan {
    /// The head of a rule.
    pub fn new(rule: &Rule) -> HeadPlan {
        let aggs = rule.head.args.iter().filter_map(|a| match a {
            HeadArg::Agg(agg) => Some(agg.clone()),
            _ => None,
        });
        HeadPlan {
            columns: rule.head.args.clone(),
            aggs: aggs.collect(),
        }
    }
}

/// Rows of a head as they are found.
#[derive(Default)]
pub struct HeadRows {
    /// Complete rows.
    pub rows: BTreeSet<Row>,
    groups: BTreeMap<Vec<u8>, Vec<Acc>>,
    args: Arguments,
}

impl HeadRows {
    /// Adds a binding.
    pub fn add(
        &mut self,
        head: &HeadPlan,
        machine: &Machine,
        functions: &[crate::functions::Function],
    ) -> Result<(), String> {
        let mut group = Vec::new();
        for arg in &head.columns {
            if let HeadArg::Expr(e) | HeadArg::Add(e) = arg {
                eval_into(e, machine.slots(), functions, &mut group).map_err(|e| e.0)?;
            }
        }
        if head.aggs.is_empty() {
            self.rows.insert(Row::from_bytes(group));
            return Ok(());
        }
        let args = &mut self.args;
        args.fill(head.aggs.iter(), machine.slots(), functions)
            .map_err(|e| e.0)?;
        let accs = self
            .groups
            .entry(group)
            .or_insert_with(|| head.aggs.iter().map(Acc::new).collect());
        accs.iter_mut()
            .zip(args.iter())
            .for_each(|(acc, (args, split))| acc.add(args, split));
        Ok(())
    }

    /// Ends the groups.
    pub fn finish(&mut self, head: &HeadPlan) {
        for (group, accs) in std::mem::take(&mut self.groups) {
            let results: Result<Option<Vec<Vec<u8>>>, _> =
                accs.into_iter().map(Acc::finish).collect();
            if let Ok(Some(results)) = results {
                let mut plain = columns_of(&group).into_iter();
                let mut aggregated = results.iter().map(Vec::as_slice);
                let mut out = Vec::new();
                for arg in &head.columns {
                    let value = if matches!(arg, HeadArg::Agg(_)) {
                        aggregated.next()
                    } else {
                        plain.next()
                    };
                    out.extend_from_slice(value.unwrap_or_default());
                }
                self.rows.insert(Row::from_bytes(out));
            }
        }
    }
}

/// The rows of a view with these columns bound.
///
/// # Errors
/// The budget is used up, or a rule cannot be planned.
pub fn evaluate<W: World>(
    world: &W,
    program: &Program,
    views: &LazyViews,
    rel: RelId,
    bound: &[Option<Vec<u8>>],
) -> Result<Rc<Vec<Row>>, Stop> {
    stacker::maybe_grow(RED_ZONE, MORE_STACK, || {
        goal(world, program, views, rel, bound)
    })
}

fn goal<W: World>(
    world: &W,
    program: &Program,
    views: &LazyViews,
    rel: RelId,
    bound: &[Option<Vec<u8>>],
) -> Result<Rc<Vec<Row>>, Stop> {
    let key = (rel, bound.to_vec());
    let mut start = Rc::default();
    let depth = {
        let mut inner = views.inner.borrow_mut();
        let round = inner.round;
        let mut seen = None;
        match inner.goals.get(&key) {
            Some(Goal::Complete(rows)) => return Ok(Rc::clone(rows)),
            Some(Goal::Active { depth, rows }) => seen = Some((*depth, Rc::clone(rows))),
            Some(Goal::Partial {
                round: then,
                low,
                rows,
            }) if *then == round => seen = Some((*low, Rc::clone(rows))),
            Some(Goal::Partial { rows, .. }) => start = Rc::clone(rows),
            None => {}
        }
        if let Some((low, rows)) = seen {
            inner.low = inner.low.min(low);
            return Ok(rows);
        }
        inner.depth += 1;
        inner.depth
    };
    if depth > MAX_DEPTH {
        return Err(Stop::View(format!(
            "{} recurs too deep",
            program.relation(rel).name
        )));
    }
    let outcome = fixpoint(world, program, views, &key, depth, start);
    let mut inner = views.inner.borrow_mut();
    inner.depth -= 1;
    if outcome.is_err() {
        inner.goals.remove(&key);
    }
    outcome
}

fn fixpoint<W: World>(
    world: &W,
    program: &Program,
    views: &LazyViews,
    key: &Key,
    depth: usize,
    start: Rc<Vec<Row>>,
) -> Result<Rc<Vec<Row>>, Stop> {
    let outer_low = std::mem::replace(&mut views.inner.borrow_mut().low, usize::MAX);
    let mut rows = start;
    loop {
        {
            let mut inner = views.inner.borrow_mut();
            inner.low = usize::MAX;
            inner.goals.insert(
                key.clone(),
                Goal::Active {
                    depth,
                    rows: Rc::clone(&rows),
                },
            );
        }
        let found = round(world, program, views, key)?;
        let mut inner = views.inner.borrow_mut();
        let low = inner.low;
        let grown = found != *rows;
        rows = Rc::new(found);
        if low < depth {
            // Part of a cycle that an outer goal closes.
            let round = inner.round;
            inner.goals.insert(
                key.clone(),
                Goal::Partial {
                    round,
                    low,
                    rows: Rc::clone(&rows),
                },
            );
            inner.low = outer_low.min(low);
            return Ok(rows);
        }
        if low == usize::MAX || !grown {
            inner
                .goals
                .insert(key.clone(), Goal::Complete(Rc::clone(&rows)));
            inner.low = outer_low;
            inner.round += 1;
            return Ok(rows);
        }
        inner.round += 1;
    }
}

/// All rules of the goal's view once.
fn round<W: World>(
    world: &W,
    program: &Program,
    views: &LazyViews,
    (rel, bound): &Key,
) -> Result<Vec<Row>, Stop> {
    let relation = program.relation(*rel);
    // What merges must be merged from all its values.
    let usable: Vec<bool> = bound
        .iter()
        .zip(&relation.columns)
        .map(|(b, c)| b.is_some() && c.lattice.is_none())
        .collect();
    let plans = plans(world, program, views, *rel, &usable)?;
    let mut all: BTreeSet<Row> = BTreeSet::new();
    for fact in program.facts.iter().filter(|f| f.rel == *rel) {
        all.insert(Row::new(&fact.row));
    }
    let mut machine = views.inner.borrow_mut().machines.pop().unwrap_or_default();
    let mut outcome = Ok(());
    for plan in plans.iter() {
        machine.prepare(plan.slots);
        for (slot, column) in &plan.given {
            if let Some(Some(value)) = bound.get(*column) {
                machine.set(*slot, value);
            }
        }
        let mut rows = HeadRows::default();
        outcome = machine.run(world, &plan.body, &mut |m| {
            // An error drops the binding; views on demand have nobody to report to.
            let _dropped = rows.add(&plan.head, m, world.functions());
            Ok(true)
        });
        if outcome.is_err() {
            break;
        }
        rows.finish(&plan.head);
        all.extend(
            rows.rows
                .into_iter()
                .filter(|r| check_row(relation, r.as_bytes()).is_ok()),
        );
    }
    machine.errors.clear();
    views.inner.borrow_mut().machines.push(machine);
    outcome?;
    if relation.has_lattice() {
        all = merged(all, relation);
    }
    let matches = |row: &Row| {
        columns_of(row.as_bytes())
            .iter()
            .zip(bound)
            .all(|(v, b)| b.as_ref().is_none_or(|b| b == v))
    };
    Ok(all.into_iter().filter(matches).collect())
}

fn merged(rows: BTreeSet<Row>, relation: &crate::ir::Relation) -> BTreeSet<Row> {
    let merges: Vec<_> = relation.columns.iter().map(|c| c.lattice).collect();
    let mut groups: BTreeMap<Vec<Vec<u8>>, Vec<Row>> = BTreeMap::new();
    for row in rows {
        let columns = columns_of(row.as_bytes());
        let key = relation
            .keys
            .iter()
            .filter_map(|k| columns.get(*k))
            .map(|c| c.to_vec())
            .collect();
        groups.entry(key).or_default().push(row);
    }
    groups
        .into_values()
        .map(|g| merge_rows(g.iter().map(Row::as_bytes), &merges))
        .collect()
}

fn plans<W: World>(
    world: &W,
    program: &Program,
    views: &LazyViews,
    rel: RelId,
    usable: &[bool],
) -> Result<Rc<Vec<RulePlan>>, Stop> {
    let key = (rel, usable.to_vec());
    if let Some(plans) = views.inner.borrow().plans.get(&key) {
        return Ok(Rc::clone(plans));
    }
    let mut made = Vec::new();
    for rule in program
        .rules
        .iter()
        .filter(|r| r.head.action == Action::Derive && r.head.rel == rel)
    {
        let mut given = Vec::new();
        let mut bound = BTreeSet::new();
        for (column, arg) in rule.head.args.iter().enumerate() {
            if let HeadArg::Expr(Expr::Var(v)) = arg
                && usable.get(column) == Some(&true)
                && bound.insert(*v)
            {
                given.push((v.0 as usize, column));
            }
        }
        let body = Planner {
            program,
            indexes: world.indexes(),
            event_indexes: &mut BTreeMap::new(),
            noted: &mut BTreeMap::new(),
            late: &plan::lag::Late::new(),
        }
        .free_body(rule, &mut bound)
        .map_err(|e| Stop::View(e.to_string()))?;
        made.push(RulePlan {
            body,
            slots: plan::slots(rule),
            head: HeadPlan::new(rule),
            given,
        });
    }
    let made = Rc::new(made);
    views.inner.borrow_mut().plans.insert(key, Rc::clone(&made));
    Ok(made)
}
