//! One tick: a fixpoint of the event rules over the tables as they stand, then the changes.

use super::body::Solver;
use super::change::{AllWanted, Conflicts, Wanted, apply};
use super::head::{Errors, heads, tuples};
use super::rel::{Tuple, World, put, rel};
use super::strata::Component;
use super::views::{ids, rule_of};
use super::{Node, State};
use crate::api::{Message, RunError, Time};
use crate::ir::{Action, RelId, RelKind, Rule};
use crate::packed::Row;
use crate::value::Value;
use std::collections::{BTreeMap, BTreeSet};

/// Rows of events.
pub(super) type Events = BTreeMap<RelId, BTreeSet<Tuple>>;

/// What a tick did, apart from the state.
#[derive(Default)]
pub(super) struct Done {
    /// Events of the next tick.
    pub(super) next: Events,
    pub(super) messages: BTreeSet<Message>,
    pub(super) observed: BTreeSet<(RelId, Tuple)>,
    pub(super) errors: Errors,
    pub(super) conflicts: Conflicts,
    pub(super) violations: BTreeSet<(String, Vec<Value>)>,
    /// Names of the rules that gave something.
    pub(super) fired: BTreeSet<String>,
    rows: u64,
}

impl Node {
    pub(super) fn tick(
        &self,
        state: &mut State,
        events: Events,
        time: Time,
    ) -> Result<Done, RunError> {
        let mut done = Done::default();
        state.ticks += 1;
        self.set_sys_tick(state, time)?;
        for (id, rows) in events {
            put(&mut state.world, id, rows);
        }
        for component in &self.events {
            self.fixpoint(component, &mut state.world, &mut done)?;
        }
        for id in &self.options.observe {
            done.observed.extend(
                rel(&state.world, *id)
                    .rows
                    .iter()
                    .map(|row| (*id, row.clone())),
            );
        }
        let wanted = self.effects(&state.world, &mut done)?;
        self.end(state, &wanted, &mut done)?;
        Ok(done)
    }

    /// Views that read the clock follow it at the start of the tick.
    fn set_sys_tick(&self, state: &mut State, time: Time) -> Result<(), RunError> {
        let clocks =
            ids(&self.program).filter(|id| self.program.relation(*id).kind == RelKind::Tick);
        let mut changed: BTreeSet<RelId> = clocks.collect();
        let tick = i64::try_from(state.ticks).unwrap_or(i64::MAX);
        let row = [tick, time.wall_ns, time.mono_ns].map(Value::Int);
        for id in &changed {
            put(
                &mut state.world,
                *id,
                BTreeSet::from([Tuple::from(row.as_slice())]),
            );
        }
        self.views.refresh(
            &self.program,
            &mut state.world,
            &mut changed,
            &mut state.view_errors,
            self.options.max_rows,
        )
    }

    fn fixpoint(
        &self,
        component: &Component,
        world: &mut World,
        done: &mut Done,
    ) -> Result<(), RunError> {
        loop {
            let mut moved = false;
            for rule in component
                .rules
                .iter()
                .filter_map(|id| rule_of(&self.program, *id))
            {
                let solver = Solver {
                    world,
                    functions: &self.program.functions,
                };
                let found = tuples(&self.program, rule, &solver, &mut done.errors);
                let mut rows = rel(world, rule.head.rel).rows.clone();
                let before = rows.len();
                rows.extend(found);
                if rows.len() > before {
                    self.count(rule, rows.len() - before, done)?;
                    put(world, rule.head.rel, rows);
                    moved = true;
                }
            }
            if !moved || !component.recursive() {
                return Ok(());
            }
        }
    }

    fn count(&self, rule: &Rule, rows: usize, done: &mut Done) -> Result<(), RunError> {
        if rows > 0 {
            done.fired.insert(rule.name.clone());
        }
        done.rows += rows as u64;
        if done.rows > self.options.max_rows {
            let limit = format!("{} rows in a tick", self.options.max_rows);
            let rules = done.fired.iter().cloned().collect::<Vec<_>>().join(", ");
            return Err(RunError::Limit { limit, rules });
        }
        Ok(())
    }

    /// Everything but events of this tick.
    fn effects(&self, world: &World, done: &mut Done) -> Result<AllWanted, RunError> {
        let mut wanted = AllWanted::new();
        let solver = Solver {
            world,
            functions: &self.program.functions,
        };
        for rule in &self.program.rules {
            let head = rule.head.rel;
            let rows = match rule.head.action {
                Action::Derive | Action::Emit => continue,
                Action::Delete | Action::Update => {
                    let cells = heads(&self.program, rule, &solver, &mut done.errors);
                    let n = cells.len();
                    let table = wanted.entry(head).or_default();
                    if rule.head.action == Action::Delete {
                        table.deletes.extend(cells);
                    } else {
                        table
                            .updates
                            .extend(cells.into_iter().map(|c| (rule.name.clone(), c)));
                    }
                    n
                }
                Action::Insert | Action::Next | Action::Send => {
                    let found = tuples(&self.program, rule, &solver, &mut done.errors);
                    let n = found.len();
                    match rule.head.action {
                        Action::Insert => wanted.entry(head).or_default().inserts.extend(found),
                        Action::Next if Some(head) == self.sys_violation => {
                            self.violations(found, done)
                        }
                        Action::Next => done.next.entry(head).or_default().extend(found),
                        _ => self.send(head, found, done),
                    }
                    n
                }
            };
            self.count(rule, rows, done)?;
        }
        Ok(wanted)
    }

    fn violations(&self, found: BTreeSet<Tuple>, done: &mut Done) {
        for row in found {
            if let [name, columns] = &row[..] {
                let name =
                    String::from_utf8_lossy(name.as_bytes().unwrap_or_default()).into_owned();
                done.violations
                    .insert((name, columns.as_list().unwrap_or_default().to_vec()));
            }
        }
    }

    fn send(&self, event: RelId, found: BTreeSet<Tuple>, done: &mut Done) {
        let location = self.program.relation(event).location;
        for row in found {
            match location.and_then(|c| row.get(c)) {
                Some(to) if *to != self.options.me => {
                    done.messages.insert(Message {
                        to: to.clone(),
                        rel: event,
                        row: Row::new(&row),
                    });
                }
                _ => {
                    done.next.entry(event).or_default().insert(row);
                }
            }
        }
    }

    /// Changes tables, forgets the events, refreshes views, and finds what the next tick is about.
    fn end(&self, state: &mut State, wanted: &AllWanted, done: &mut Done) -> Result<(), RunError> {
        let mut changed = self.change_tables(&mut state.world, wanted, done);
        for id in ids(&self.program).filter(|id| self.program.relation(*id).is_event()) {
            if !rel(&state.world, id).rows.is_empty() {
                put(&mut state.world, id, BTreeSet::new());
            }
        }
        self.views.refresh(
            &self.program,
            &mut state.world,
            &mut changed,
            &mut state.view_errors,
            self.options.max_rows,
        )?;
        for (component, errors) in &state.view_errors {
            let known = state.reported.get(component);
            done.errors.extend(
                errors
                    .iter()
                    .filter(|e| known.is_none_or(|k| !k.contains(*e)))
                    .cloned(),
            );
        }
        state.reported = state.view_errors.clone();
        for (id, of, insert) in &self.edges {
            let (old, new) = (&rel(&state.before, *of).rows, &rel(&state.world, *of).rows);
            let (from, without) = if *insert { (new, old) } else { (old, new) };
            let rows: BTreeSet<Tuple> = from.difference(without).cloned().collect();
            if !rows.is_empty() {
                done.next.insert(*id, rows);
            }
        }
        done.next.retain(|_, rows| !rows.is_empty());
        state.before = state.world.clone();
        self.report(done);
        Ok(())
    }

    pub(super) fn change_tables(
        &self,
        world: &mut World,
        wanted: &AllWanted,
        done: &mut Done,
    ) -> BTreeSet<RelId> {
        let mut changed = BTreeSet::new();
        for (id, wanted) in wanted {
            let relation = self.program.relation(*id);
            let stored = &rel(world, *id).rows;
            let rows = apply(
                relation,
                stored,
                wanted,
                &mut done.conflicts,
                &mut done.errors,
            );
            if rows != *stored {
                changed.insert(*id);
                put(world, *id, rows);
            }
        }
        changed
    }

    /// Errors, conflicts and violations are events of the next tick, if a rule reads them.
    pub(super) fn report(&self, done: &mut Done) {
        let text = |s: &String| Value::str(s);
        let errors = done
            .errors
            .iter()
            .map(|(rule, message)| Tuple::from([text(rule), text(message)]));
        let conflicts = done.conflicts.iter().map(|(table, winner, loser)| {
            Tuple::from([
                text(table),
                Value::list(winner.clone()),
                Value::list(loser.clone()),
            ])
        });
        let violations = done
            .violations
            .iter()
            .map(|(name, row)| Tuple::from([text(name), Value::list(row.clone())]));
        let (errors, conflicts): (Vec<_>, Vec<_>) = (errors.collect(), conflicts.collect());
        let violations: Vec<_> = violations.collect();
        for (name, rows) in [
            ("sys_error", errors),
            ("sys_conflict", conflicts),
            ("sys_violation", violations),
        ] {
            if let Some(id) = self.program.find(name)
                && self.read.contains(&id)
                && !rows.is_empty()
            {
                done.next.entry(id).or_default().extend(rows);
            }
        }
    }

    /// The facts of tables; durable ones only in a new store.
    pub(super) fn facts(&self, new: bool) -> AllWanted {
        let mut wanted = AllWanted::new();
        for fact in &self.program.facts {
            let RelKind::Table(class) = &self.program.relation(fact.rel).kind else {
                continue;
            };
            if new || *class == crate::ir::TableClass::Volatile {
                let table: &mut Wanted = wanted.entry(fact.rel).or_default();
                table.inserts.insert(fact.row.as_slice().into());
            }
        }
        wanted
    }
}
