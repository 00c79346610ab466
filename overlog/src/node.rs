//! A node: runs a checked program. Deterministic and without I/O: the same program, state and inputs
//! give the same outputs.

use crate::Digest;
use crate::api::{Change, Message, Options, Output, RunError, Time, check_input};
use crate::engine::changes::Changes;
use crate::engine::machine::Machine;
use crate::engine::plan::{EventRule, Indexes};
use crate::engine::state::State;
use crate::functions::Function;
use crate::ir::{Program, RelId, RelKind, Rule, RuleId, TableClass};
use crate::packed::Row;
use crate::value::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

mod schedule;
mod tick;

pub use crate::engine::query::{Budget, Progress, Query, Snapshot};
use schedule::Schedule;

/// A node that runs a program on differential dataflow. Not `Send`: it lives on one thread.
pub struct Node {
    program: Arc<Program>,
    options: Options,
    schedule: Arc<Schedule>,
    state: State,
    machine: Machine,
    /// Room for what a rule finds.
    found: tick::Found,
    runs: u64,
    ticks: u64,
    /// Rows of the invariants at the last rest.
    violated: BTreeMap<RelId, BTreeSet<Row>>,
    /// Changes of kept queries that nobody has taken yet.
    watched: BTreeMap<RelId, BTreeMap<Row, bool>>,
}

/// A program and the plans of its rules: made once, for all nodes that run it.
#[derive(Clone)]
pub struct Planned {
    program: Arc<Program>,
    schedule: Arc<Schedule>,
    indexes: Arc<Indexes>,
}

impl Planned {
    /// Plans the rules of a program.
    ///
    /// # Errors
    /// A rule cannot be planned.
    pub fn new(program: Arc<Program>) -> Result<Planned, RunError> {
        let (schedule, indexes) = Schedule::new(&program)?;
        Ok(Planned {
            program,
            schedule: Arc::new(schedule),
            indexes: Arc::new(indexes),
        })
    }

    /// The program.
    pub fn program(&self) -> &Arc<Program> {
        &self.program
    }
}

/// A query whose answer is kept up to date.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Subscription(RelId);

/// Rows that an event relation gets in the next tick.
type Pending = BTreeMap<RelId, BTreeSet<Row>>;

/// What a tick did, apart from the state.
#[derive(Default)]
struct Done {
    next: Pending,
    messages: BTreeSet<Message>,
    observed: Vec<(RelId, Row)>,
    errors: BTreeSet<(String, String)>,
    conflicts: BTreeSet<(String, Row, Row)>,
    violations: BTreeSet<(String, Row)>,
    watch: Vec<String>,
    fired: BTreeSet<RuleId>,
    changes: Changes,
    rows: u64,
}

impl Node {
    /// A node with empty tables, not started.
    ///
    /// # Errors
    /// A rule cannot be planned.
    pub fn new(program: Arc<Program>, options: Options) -> Result<Node, RunError> {
        Node::of(&Planned::new(program)?, options)
    }

    /// The same for a program that is planned already.
    ///
    /// # Errors
    /// A view cannot be built.
    pub fn of(planned: &Planned, options: Options) -> Result<Node, RunError> {
        let schedule = Arc::clone(&planned.schedule);
        let state = State::new(
            Arc::clone(&planned.program),
            Arc::clone(&planned.indexes),
            &schedule.event_indexes,
            &schedule.noted,
            options.recent_rows,
        )?;
        Ok(Node {
            program: Arc::clone(&planned.program),
            options,
            schedule,
            state,
            machine: Machine::default(),
            found: tick::Found::default(),
            runs: 0,
            ticks: 0,
            violated: BTreeMap::new(),
            watched: BTreeMap::new(),
        })
    }

    /// The digest of all replicated tables as they stand: nodes that ran the same have the same.
    pub fn digest(&self) -> Digest {
        self.state.digest()
    }

    /// The program that it runs.
    pub fn program(&self) -> &Arc<Program> {
        &self.program
    }

    /// Adds stored rows of a table, before the start. Give large tables in parts of some 100,000 rows.
    ///
    /// # Errors
    /// The relation is no table, or a row does not fit it.
    pub fn restore(&mut self, rel: RelId, rows: Vec<Row>) -> Result<(), RunError> {
        let relation = self.program.relation(rel);
        if !relation.is_table() {
            return Err(RunError::Input {
                event: relation.name.clone(),
                reason: "not a table".to_string(),
            });
        }
        for row in &rows {
            check_input(&self.program, rel, row)?;
        }
        let deltas: Vec<_> = rows.into_iter().map(|row| (rel, row, true)).collect();
        self.state.change(&deltas);
        // Nothing fires for restored state.
        self.state.take_view_changes();
        Ok(())
    }

    /// The first run. `new`: the store is new, so the facts of durable tables are inserted.
    ///
    /// # Errors
    /// A limit was passed.
    pub fn start(&mut self, new: bool, time: Time) -> Result<Output, RunError> {
        let mut earlier = Done::default();
        let mut first = Pending::new();
        let program = Arc::clone(&self.program);
        for fact in &program.facts {
            let relation = program.relation(fact.rel);
            let row = Row::new(&fact.row);
            match relation.kind {
                RelKind::Table(class) if new || class == TableClass::Volatile => {
                    let def = self.state.primary(fact.rel);
                    earlier
                        .changes
                        .insert(fact.rel, row, &def.order, relation.keys.len());
                }
                RelKind::Event { .. } => {
                    first.entry(fact.rel).or_default().insert(row);
                }
                _ => {}
            }
        }
        let mut undo = Vec::new();
        let changes = std::mem::take(&mut earlier.changes);
        self.change_tables(changes, &mut earlier, &mut undo)?;
        if let Some(rel) = program.find("sys_start") {
            first
                .entry(rel)
                .or_default()
                .insert(Row::new(&[Value::Int(time.wall_ns), Value::Bool(new)]));
        }
        self.settle(first, earlier, undo, time)
    }

    /// A run: a tick with these rows of events, and what follows from it.
    ///
    /// # Errors
    /// A row does not fit its event, or a limit was passed: the run has no effect.
    pub fn run(&mut self, inputs: Vec<(RelId, Row)>, time: Time) -> Result<Output, RunError> {
        let mut first = Pending::new();
        for (rel, row) in inputs {
            let relation = self.program.relation(rel);
            if !matches!(relation.kind, RelKind::Event { .. }) {
                return Err(RunError::Input {
                    event: relation.name.clone(),
                    reason: "not an event".to_string(),
                });
            }
            check_input(&self.program, rel, &row)?;
            first.entry(rel).or_default().insert(row);
        }
        self.settle(first, Done::default(), Vec::new(), time)
    }

    /// Ticks until nothing is left to do. `earlier` is what happened before the first tick.
    fn settle(
        &mut self,
        first: Pending,
        earlier: Done,
        mut undo: Vec<(RelId, Row, bool)>,
        time: Time,
    ) -> Result<Output, RunError> {
        let ticks = self.ticks;
        let mut output = Output {
            run: self.runs + 1,
            ..Output::default()
        };
        let mut violated = BTreeMap::new();
        let outcome =
            self.tick_until_rest(first, earlier, &mut undo, &mut violated, time, &mut output);
        if let Err(error) = outcome {
            self.state.clear_events();
            self.violated.extend(violated);
            let back: Vec<_> = undo
                .into_iter()
                .rev()
                .map(|(rel, row, came)| (rel, row, !came))
                .collect();
            self.state.change(&back);
            self.take_watched();
            self.ticks = ticks;
            return Err(error);
        }
        self.runs += 1;
        output.changes = net(&self.program, undo, self.options.replicated_changes);
        Ok(output)
    }

    fn tick_until_rest(
        &mut self,
        first: Pending,
        earlier: Done,
        undo: &mut Vec<(RelId, Row, bool)>,
        violated: &mut BTreeMap<RelId, BTreeSet<Row>>,
        time: Time,
        output: &mut Output,
    ) -> Result<(), RunError> {
        let mut events = first;
        let mut earlier = Some(earlier);
        loop {
            output.ticks += 1;
            let mut done = self.tick(events, time, undo)?;
            if let Some(earlier) = earlier.take() {
                done.errors.extend(earlier.errors);
                done.conflicts.extend(earlier.conflicts);
            }
            self.report(&mut done);
            let fired = std::mem::take(&mut done.fired);
            events = collect(done, output);
            if events.is_empty() {
                let mut rest = self.at_rest(violated);
                self.report(&mut rest);
                events = collect(rest, output);
            }
            if events.is_empty() {
                return Ok(());
            }
            if output.ticks >= self.options.max_ticks {
                return Err(RunError::Limit {
                    limit: format!("{} ticks in a run", self.options.max_ticks),
                    rules: tick::rule_names(&self.program, &fired),
                });
            }
        }
    }

    /// Looks at the invariants that are views. `before` gets their rows as they were before the run.
    fn at_rest(&mut self, before: &mut BTreeMap<RelId, BTreeSet<Row>>) -> Done {
        let mut done = Done::default();
        for (rel, name) in &self.schedule.invariants {
            if !self.state.take_touched(*rel) {
                continue;
            }
            let now: BTreeSet<Row> = self.state.rows_of(*rel).into_iter().collect();
            let old = self.violated.insert(*rel, now.clone()).unwrap_or_default();
            done.violations
                .extend(now.difference(&old).map(|row| (name.clone(), row.clone())));
            before.entry(*rel).or_insert(old);
        }
        done
    }

    /// Errors, conflicts and violations are events of the next tick, if a rule reads them.
    fn report(&self, done: &mut Done) {
        let list = |row: &Row| Value::list(row.values());
        let mut add = |rel: Option<RelId>, row: Vec<Value>| {
            if let Some(rel) = rel {
                done.next.entry(rel).or_default().insert(Row::new(&row));
            }
        };
        for (rule, message) in &done.errors {
            add(
                self.schedule.sys_error,
                vec![Value::str(rule), Value::str(message)],
            );
        }
        for (table, winner, loser) in &done.conflicts {
            add(
                self.schedule.sys_conflict,
                vec![Value::str(table), list(winner), list(loser)],
            );
        }
        for (name, row) in &done.violations {
            add(
                self.schedule.sys_violation,
                vec![Value::str(name), list(row)],
            );
        }
    }

    /// The rows of a table or view, sorted. A view that cannot be computed within the limits has none.
    pub fn rows(&mut self, rel: RelId) -> Vec<Row> {
        self.state.clear_lazy();
        self.state.catch_up();
        self.state.rows_of(rel)
    }

    /// Plans a query on the state as it stands; [`Query::step`] works on it, between runs if it is long.
    ///
    /// # Errors
    /// It reads an event, or a view that is off, or cannot be planned.
    pub fn query(
        &mut self,
        rule: &Rule,
        functions: &[Function],
        budget: Budget,
    ) -> Result<Query, String> {
        self.state.catch_up();
        Query::new(&self.state, rule, functions, budget)
    }

    /// Keeps a query's answer up to date: [`Node::changes`] gives its rows, and then the net change of each run.
    ///
    /// # Errors
    /// It reads an event, or cannot be planned.
    pub fn subscribe(
        &mut self,
        rule: &Rule,
        functions: &[Function],
    ) -> Result<Subscription, String> {
        Query::new(&self.state, rule, functions, Budget::default())?;
        self.take_watched();
        let rel = self.state.watch(rule, functions)?;
        self.watched.insert(rel, BTreeMap::new());
        self.take_watched();
        Ok(Subscription(rel))
    }

    /// Ends a subscription.
    pub fn unsubscribe(&mut self, subscription: Subscription) {
        self.watched.remove(&subscription.0);
        self.state.unwatch(subscription.0);
    }

    /// Rows that came and rows that went since the last call; both sorted.
    pub fn changes(&mut self, subscription: Subscription) -> (Vec<Row>, Vec<Row>) {
        let Some(changed) = self.watched.get_mut(&subscription.0) else {
            return Default::default();
        };
        let (added, removed): (Vec<_>, Vec<_>) = std::mem::take(changed)
            .into_iter()
            .partition(|(_, came)| *came);
        let rows = |list: Vec<(Row, bool)>| list.into_iter().map(|(row, _)| row).collect();
        (rows(added), rows(removed))
    }

    fn take_watched(&mut self) {
        let (deltas, _) = self.state.take_view_changes();
        self.note_watched(&deltas);
    }

    /// Adds changes of kept queries to what waits for [`Node::changes`]; what comes and goes is nothing.
    fn note_watched(&mut self, deltas: &[(RelId, Row, bool)]) {
        if self.watched.is_empty() {
            return;
        }
        for (rel, row, came) in deltas {
            if let Some(waiting) = self.watched.get_mut(rel)
                && waiting
                    .insert(row.clone(), *came)
                    .is_some_and(|before| before != *came)
            {
                waiting.remove(row);
            }
        }
    }

    /// The rows of some tables as they stand, to be read in parts between runs.
    pub fn snapshot(&self, rels: &[RelId]) -> Snapshot {
        Snapshot::new(&self.state, rels)
    }
}

/// Adds a tick to the output, and gives the events of the next.
fn collect(done: Done, output: &mut Output) -> Pending {
    output.messages.extend(done.messages);
    output.observed.extend(done.observed);
    output.errors.extend(done.errors);
    output.conflicts.extend(done.conflicts);
    output.violations.extend(done.violations);
    output.watch.extend(done.watch);
    done.next
}

/// The net change of durable tables.
fn net(program: &Program, deltas: Vec<(RelId, Row, bool)>, replicated: bool) -> Vec<Change> {
    let mut sums: BTreeMap<(RelId, Row), i64> = BTreeMap::new();
    for (rel, row, came) in deltas {
        let wanted = match program.relation(rel).kind {
            RelKind::Table(TableClass::Local) => true,
            RelKind::Table(TableClass::Replicated { .. }) => replicated,
            _ => false,
        };
        if wanted {
            *sums.entry((rel, row)).or_default() += if came { 1 } else { -1 };
        }
    }
    sums.into_iter()
        .filter(|(_, n)| *n != 0)
        .map(|((rel, row), n)| Change {
            rel,
            row,
            insert: n > 0,
        })
        .collect()
}

/// The plan of an event rule by its place.
fn plan(schedule: &Schedule, at: usize) -> Option<&EventRule> {
    schedule.plans.get(at)
}
