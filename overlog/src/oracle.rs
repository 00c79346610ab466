//! The reference that the engine is tested against: the same programs, evaluated naively. Bodies are nested loops,
//! views are computed from scratch, nothing is planned and nothing is shared with the engine but the checked program.
//! Simple and slow; fit for small states.

mod agg;
mod body;
mod change;
mod eval;
pub(crate) mod exact;
mod head;
mod rel;
mod strata;
mod tick;
mod views;

use crate::api::{Change, Options, Output, RunError, Time, check_input};
use crate::check::CompiledQuery;
use crate::functions::Function;
use crate::ir::{Action, Program, RelId, RelKind, Rule, TableClass};
use crate::packed::Row;
use crate::value::Value;
use body::Solver;
use head::{Errors, tuples};
use rel::{Rel, Tuple, World, put, rel};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use strata::{Component, components, reads};
use tick::{Done, Events};
use views::{ViewErrors, Views, cycle, ids};

/// A node that runs a program naively. The same interface as the engine's.
pub struct Node {
    program: Arc<Program>,
    options: Options,
    views: Views,
    events: Vec<Component>,
    /// Relations that some rule reads.
    read: BTreeSet<RelId>,
    /// Edges that some rule reads: the edge, its table or view, and whether insertions.
    edges: Vec<(RelId, RelId, bool)>,
    sys_violation: Option<RelId>,
    state: State,
}

/// Everything that a run changes.
#[derive(Clone)]
struct State {
    world: World,
    /// The world at the end of the last tick.
    before: World,
    view_errors: ViewErrors,
    reported: ViewErrors,
    /// The rows of the invariants at the last rest.
    violated: BTreeMap<RelId, BTreeSet<Tuple>>,
    runs: u64,
    ticks: u64,
}

impl Node {
    /// A node with empty tables, not started.
    ///
    /// # Errors
    /// A rule is in a cycle through negation or aggregation.
    pub fn new(program: Arc<Program>, options: Options) -> Result<Node, RunError> {
        let views = Views::new(&program)?;
        let event_ids = ids(&program)
            .filter(|id| program.relation(*id).is_event())
            .collect();
        let events =
            components(&program, Action::Emit, &event_ids).map_err(|rule| cycle(&program, rule))?;
        let read: BTreeSet<RelId> = program
            .rules
            .iter()
            .flat_map(|r| reads(&r.body))
            .map(|(rel, _)| rel)
            .collect();
        let edges = ids(&program)
            .filter_map(|id| match program.relation(id).kind {
                RelKind::Edge { of, insert } if read.contains(&id) => Some((id, of, insert)),
                _ => None,
            })
            .collect();
        let world: World = program
            .relations
            .iter()
            .map(|_| Rel::new(BTreeSet::new()))
            .collect();
        let state = State {
            before: world.clone(),
            world,
            view_errors: ViewErrors::new(),
            reported: ViewErrors::new(),
            violated: BTreeMap::new(),
            runs: 0,
            ticks: 0,
        };
        let sys_violation = program.find("sys_violation");
        Ok(Node {
            program,
            options,
            views,
            events,
            read,
            edges,
            sys_violation,
            state,
        })
    }

    /// Adds stored rows of a durable table, before the start.
    ///
    /// # Errors
    /// The relation is no table, or a row does not fit it.
    pub fn restore(&mut self, id: RelId, rows: Vec<Row>) -> Result<(), RunError> {
        let relation = self.program.relation(id);
        if !relation.is_table() {
            return Err(RunError::Input {
                event: relation.name.clone(),
                reason: "not a table".to_owned(),
            });
        }
        let mut all = rel(&self.state.world, id).rows.clone();
        for row in rows {
            check_input(&self.program, id, &row)?;
            all.insert(Tuple::from(row.values()));
        }
        put(&mut self.state.world, id, all);
        Ok(())
    }

    /// The first run. `new`: the store is new, so durable facts are inserted.
    ///
    /// # Errors
    /// A limit was passed; the node stays as it was.
    pub fn start(&mut self, new: bool, time: Time) -> Result<Output, RunError> {
        // The views of what was restored hold even if the first run has no effect, and nothing fires for them.
        self.views.refresh_all(
            &self.program,
            &mut self.state.world,
            &mut self.state.view_errors,
            self.options.max_rows,
        )?;
        self.state.before = self.state.world.clone();
        let mut state = self.state.clone();
        let mut done = Done::default();
        self.change_tables(&mut state.world, &self.facts(new), &mut done);
        self.views.refresh_all(
            &self.program,
            &mut state.world,
            &mut state.view_errors,
            self.options.max_rows,
        )?;
        state.before = state.world.clone();
        let mut events = Events::new();
        for fact in &self.program.facts {
            if self.program.relation(fact.rel).is_event() {
                events
                    .entry(fact.rel)
                    .or_default()
                    .insert(fact.row.as_slice().into());
            }
        }
        if let Some(id) = self.program.find("sys_start") {
            let row = [Value::Int(time.wall_ns), Value::Bool(new)];
            events.entry(id).or_default().insert(Tuple::from(row));
        }
        self.settle(state, events, done, time)
    }

    /// A run: a tick with these rows of events, and what follows from it.
    ///
    /// # Errors
    /// A row does not fit its event, or a limit was passed; the node stays as it was.
    pub fn run(&mut self, inputs: Vec<(RelId, Row)>, time: Time) -> Result<Output, RunError> {
        let mut events = Events::new();
        for (id, row) in inputs {
            let relation = self.program.relation(id);
            if !matches!(relation.kind, RelKind::Event { .. }) {
                return Err(RunError::Input {
                    event: relation.name.clone(),
                    reason: "not an event".to_owned(),
                });
            }
            check_input(&self.program, id, &row)?;
            events
                .entry(id)
                .or_default()
                .insert(Tuple::from(row.values()));
        }
        self.settle(self.state.clone(), events, Done::default(), time)
    }

    /// The rows of a table or view, sorted. A view that cannot be computed within the limits has none.
    pub fn rows(&self, id: RelId) -> Vec<Row> {
        let mut world = self.state.world.clone();
        match self.views.demand(
            &self.program,
            &mut world,
            BTreeSet::from([id]),
            self.options.max_rows,
        ) {
            Ok(()) => rel(&world, id)
                .rows
                .iter()
                .map(|row| Row::new(row))
                .collect(),
            Err(_) => Vec::new(),
        }
    }

    /// The program that it runs.
    pub fn program(&self) -> &Arc<Program> {
        &self.program
    }

    /// The answer to a query, sorted.
    ///
    /// # Errors
    /// A view that it reads is over the limit.
    pub fn query(&self, query: &CompiledQuery) -> Result<Vec<Row>, RunError> {
        self.query_rule(&query.rule, &query.functions)
    }

    /// The rows that a query's rule gives, sorted.
    ///
    /// # Errors
    /// A view that it reads is over the limit.
    pub fn query_rule(&self, rule: &Rule, functions: &[Function]) -> Result<Vec<Row>, RunError> {
        let mut world = self.state.world.clone();
        let needed = reads(&rule.body).into_iter().map(|(rel, _)| rel).collect();
        self.views
            .demand(&self.program, &mut world, needed, self.options.max_rows)?;
        let solver = Solver {
            world: &world,
            functions,
        };
        let found = tuples(&self.program, rule, &solver, &mut Errors::new());
        Ok(found.iter().map(|row| Row::new(row)).collect())
    }

    /// Ticks until nothing is left to do. `earlier` is what happened before the first tick, and is reported with it.
    fn settle(
        &mut self,
        mut state: State,
        first: Events,
        earlier: Done,
        time: Time,
    ) -> Result<Output, RunError> {
        state.runs += 1;
        let mut output = Output {
            run: state.runs,
            ..Output::default()
        };
        let mut events = first;
        let mut earlier = Some(earlier);
        loop {
            output.ticks += 1;
            let mut done = self.tick(&mut state, events, time)?;
            if let Some(earlier) = earlier.take() {
                done.errors.extend(earlier.errors);
                done.conflicts.extend(earlier.conflicts);
                self.report(&mut done);
            }
            let fired = done.fired.clone();
            events = collect(done, &mut output);
            if events.is_empty() {
                events = collect(self.at_rest(&mut state), &mut output);
            }
            if events.is_empty() {
                break;
            }
            if output.ticks >= self.options.max_ticks {
                let rules = fired.into_iter().collect::<Vec<_>>().join(", ");
                return Err(RunError::Limit {
                    limit: format!("{} ticks in a run", self.options.max_ticks),
                    rules,
                });
            }
        }
        output.changes = self.changes(&state);
        self.state = state;
        Ok(output)
    }

    /// Looks at the invariants that are views.
    fn at_rest(&self, state: &mut State) -> Done {
        let mut done = Done::default();
        for id in ids(&self.program) {
            let relation = self.program.relation(id);
            if !matches!(
                relation.kind,
                RelKind::View {
                    invariant: true,
                    ..
                }
            ) {
                continue;
            }
            let now = &rel(&state.world, id).rows;
            let old = state.violated.insert(id, now.clone()).unwrap_or_default();
            done.violations.extend(
                now.difference(&old)
                    .map(|row| (relation.name.clone(), row.to_vec())),
            );
        }
        self.report(&mut done);
        done
    }

    /// The net change of durable tables since the last run.
    fn changes(&self, state: &State) -> Vec<Change> {
        let mut out = Vec::new();
        for id in ids(&self.program) {
            let RelKind::Table(class) = &self.program.relation(id).kind else {
                continue;
            };
            if *class == TableClass::Volatile {
                continue;
            }
            let (old, new) = (
                &rel(&self.state.world, id).rows,
                &rel(&state.world, id).rows,
            );
            let change = |row: &Tuple, insert| Change {
                rel: id,
                row: Row::new(row),
                insert,
            };
            out.extend(old.difference(new).map(|row| change(row, false)));
            out.extend(new.difference(old).map(|row| change(row, true)));
        }
        out.sort();
        out
    }
}

/// Adds a tick to the output, and gives the events of the next.
fn collect(done: Done, output: &mut Output) -> Events {
    output.messages.extend(done.messages);
    output.observed.extend(
        done.observed
            .into_iter()
            .map(|(id, row)| (id, Row::new(&row))),
    );
    output.errors.extend(done.errors);
    output.conflicts.extend(
        done.conflicts
            .into_iter()
            .map(|(t, w, l)| (t, Row::new(&w), Row::new(&l))),
    );
    output.violations.extend(
        done.violations
            .into_iter()
            .map(|(name, row)| (name, Row::new(&row))),
    );
    done.next
}
