//! Queries on the state as it stands, and snapshots of tables: read in parts between runs.

use crate::engine::events::EventRows;
use crate::engine::index::{Scan, Snapshot as Stored};
use crate::engine::lazy::{self, HeadPlan, HeadRows, LazyViews};
use crate::engine::machine::{Machine, Stop, World};
use crate::engine::plan::{self, Body, IndexId, Indexes, Planner};
use crate::engine::state::State;
use crate::engine::tables::restore_order;
use crate::functions::Function;
use crate::ir::{Program, RelId, Rule};
use crate::packed::Row;
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;

/// What a query may use.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    /// Most rows of its answer.
    pub rows: u64,
    /// Most rows looked at.
    pub steps: u64,
}

impl Default for Budget {
    /// A million rows of answer, a billion looked at.
    fn default() -> Budget {
        Budget {
            rows: 1_000_000,
            steps: 1_000_000_000,
        }
    }
}

/// How far a query is.
#[derive(Debug, PartialEq, Eq)]
pub enum Progress {
    /// Not at its end.
    Pending,
    /// Its answer, sorted.
    Done(Vec<Row>),
    /// It failed, and why.
    Failed(String),
}

/// The state at some moment.
struct Frozen {
    program: Arc<Program>,
    indexes: Arc<Indexes>,
    snapshots: Vec<Stored>,
    functions: Vec<Function>,
    views: LazyViews,
    steps: Cell<u64>,
    limit: u64,
}

impl World for Frozen {
    fn snapshot(&self, index: IndexId) -> Stored {
        self.snapshots.get(index.0).cloned().unwrap_or_default()
    }

    fn indexes(&self) -> &Indexes {
        &self.indexes
    }

    fn events(&self, _rel: RelId) -> Option<&EventRows> {
        None
    }

    fn tick(&self) -> &[u8] {
        &[]
    }

    fn functions(&self) -> &[Function] {
        &self.functions
    }

    fn lazy(&self, rel: RelId, bound: &[Option<Vec<u8>>]) -> Result<Rc<Vec<Row>>, Stop> {
        lazy::evaluate(self, &self.program, &self.views, rel, bound)
    }

    fn steps(&self) -> &Cell<u64> {
        &self.steps
    }

    fn limit(&self) -> u64 {
        self.limit
    }
}

/// A query on its way: it sees the state of the moment when it was made.
pub struct Query {
    world: Frozen,
    machine: Machine,
    body: Body,
    head: HeadPlan,
    rows: HeadRows,
    budget: Budget,
    started: bool,
}

impl Query {
    /// Plans a query.
    ///
    /// # Errors
    /// It reads an event, or a view that is off, or cannot be planned.
    pub fn new(
        state: &State,
        rule: &Rule,
        functions: &[Function],
        budget: Budget,
    ) -> Result<Query, String> {
        let program = Arc::clone(&state.program);
        let mut read = BTreeSet::new();
        plan::graph::reads(&rule.body, &mut read);
        for rel in &read {
            let relation = program.relation(*rel);
            if let Some(why) = state.off().get(rel) {
                return Err(format!("{} cannot be read: {why}", relation.name));
            }
            if !relation.is_table() && !relation.is_view() {
                return Err(format!(
                    "{} is an event: a query sees tables and views of a node at rest",
                    relation.name
                ));
            }
        }
        let indexes = state.indexes_shared();
        let body = Planner {
            program: &program,
            indexes: &indexes,
            event_indexes: &mut BTreeMap::new(),
            noted: &mut BTreeMap::new(),
            late: &plan::lag::Late::new(),
        }
        .free_body(rule, &mut BTreeSet::new())
        .map_err(|e| e.to_string())?;
        let mut machine = Machine::default();
        machine.prepare(plan::slots(rule));
        let world = Frozen {
            indexes,
            snapshots: state.all_snapshots(),
            functions: functions.to_vec(),
            views: LazyViews::default(),
            steps: Cell::new(0),
            limit: budget.steps,
            program,
        };
        Ok(Query {
            world,
            machine,
            body,
            head: HeadPlan::new(rule),
            rows: HeadRows::default(),
            budget,
            started: false,
        })
    }

    /// Works for about so many rows.
    pub fn step(&mut self, steps: u64) -> Progress {
        let Query {
            world,
            machine,
            body,
            head,
            rows,
            budget,
            started,
        } = self;
        let first = !std::mem::replace(started, true);
        let mut failed = None;
        let mut over = false;
        let outcome = machine.slice(&*world, body, first, steps, &mut |m| {
            if let Err(message) = rows.add(head, m, world.functions()) {
                failed = Some(message);
            }
            over = rows.rows.len() as u64 > budget.rows;
            Ok(!over)
        });
        if over {
            return Progress::Failed(format!(
                "the answer has more than {} rows: narrow the query, or raise its limit",
                budget.rows
            ));
        }
        if let Some(message) = failed.or_else(|| machine.errors.pop()) {
            return Progress::Failed(message);
        }
        match outcome {
            Ok(true) => {
                rows.finish(head);
                Progress::Done(std::mem::take(&mut rows.rows).into_iter().collect())
            }
            Ok(false) => Progress::Pending,
            Err(Stop::Limit) => Progress::Failed(format!(
                "the query looked at more than {} rows",
                budget.steps
            )),
            Err(Stop::View(why)) => Progress::Failed(why),
        }
    }
}

/// Rows of some tables at some moment, to be read in parts.
pub struct Snapshot {
    parts: Vec<(RelId, Stored, usize, Vec<usize>)>,
    scan: Scan,
    open: bool,
}

impl Snapshot {
    /// Takes the tables as they stand.
    pub fn new(state: &State, rels: &[RelId]) -> Snapshot {
        let indexes = state.indexes_shared();
        let parts = rels
            .iter()
            .rev()
            .filter_map(|rel| {
                let id = *indexes.of(*rel).first()?;
                let def = indexes.get(id);
                Some((*rel, state.snapshot(id), def.key_columns, def.order.clone()))
            })
            .collect();
        Snapshot {
            parts,
            scan: Scan::new(),
            open: false,
        }
    }

    /// The next rows, at most so many, of one table, in the order of its key; `None` at the end.
    pub fn next(&mut self, most: usize) -> Option<(RelId, Vec<Row>)> {
        loop {
            let (rel, batches, key_columns, order) = self.parts.last()?;
            if !self.open {
                self.scan.start(batches.clone(), *key_columns);
                self.open = true;
            }
            let mut rows = Vec::new();
            while rows.len() < most && self.scan.advance() {
                let (k, v) = self.scan.row();
                rows.push(restore_order(k, v, order));
            }
            let rel = *rel;
            if rows.len() < most {
                self.parts.pop();
                self.open = false;
                self.scan.finish();
            }
            if !rows.is_empty() {
                return Some((rel, rows));
            }
        }
    }
}
