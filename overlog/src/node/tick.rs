//! One tick: the event rules, stratum by stratum, over the tables as they stood, then the changes.

use super::{Done, Node, Pending, Schedule, plan};
use crate::api::{Message, RunError, Time};
use crate::engine::agg::{Acc, Arguments};
use crate::engine::changes::{Changes, Set};
use crate::engine::eval::{Slots, eval_into};
use crate::engine::events::RowBuf;
use crate::engine::index::Scan;
use crate::engine::machine::{Machine, Stop};
use crate::engine::plan::{Body, Driven, EventRule, Guard};
use crate::engine::state::{Delta, State};
use crate::engine::tables::{check_column, columns_of};
use crate::ir::{Action, HeadArg, Program, RelId, Rule, RuleId};
use crate::packed::{self, Row};
use crate::value::Value;
use hashbrown::HashMap;
use std::collections::BTreeSet;

/// Rows of a head as they are found, and what went wrong.
#[derive(Default)]
pub(super) struct Found {
    rows: RowBuf,
    sets: Vec<(Row, Vec<Set>)>,
    groups: HashMap<Vec<u8>, Vec<Acc>>,
    /// Room for the key of a group and for what is aggregated.
    key: Vec<u8>,
    args: Arguments,
    /// Keys of rows to delete, in ascending order of the columns.
    keys: Vec<Row>,
    errors: BTreeSet<String>,
    count: u64,
}

/// Room for more rows than this is given back.
const MUCH: usize = 1 << 20;

impl Found {
    /// Empties it, keeping the room.
    fn clear(&mut self) {
        if self.rows.writer().capacity() > MUCH {
            self.rows = RowBuf::default();
        }
        self.rows.clear();
        self.sets.clear();
        self.groups.clear();
        self.keys.clear();
        self.errors.clear();
        self.count = 0;
    }
}

/// Strata that have something to do, and rules for the end of the tick.
#[derive(Default)]
struct Agenda {
    components: BTreeSet<usize>,
    last: BTreeSet<usize>,
}

impl Node {
    /// Runs one tick. `undo` gets what it changed.
    pub(super) fn tick(
        &mut self,
        events: Pending,
        time: Time,
        undo: &mut Vec<Delta>,
    ) -> Result<Done, RunError> {
        let mut done = Done::default();
        self.ticks += 1;
        let number = i64::try_from(self.ticks).unwrap_or(i64::MAX);
        self.state.set_tick(&Row::new(
            &[number, time.wall_ns, time.mono_ns].map(Value::Int),
        ));
        self.state.set_limit(self.options.max_rows);
        let mut agenda = Agenda::default();
        for (rel, rows) in events {
            for row in rows {
                self.watch(rel, 'r', row.as_bytes(), &mut done);
                self.add_event(rel, row.as_bytes(), &mut agenda);
            }
        }
        self.strata(&mut agenda, &mut done)?;
        for at in std::mem::take(&mut agenda.last) {
            self.effect(at, &mut done)?;
        }
        self.observe(&mut done);
        self.watch_derived(&mut done);
        self.state.clear_events();
        let changes = std::mem::take(&mut done.changes);
        self.change_tables(changes, &mut done, undo)?;
        Ok(done)
    }

    /// Adds an event; the first of its relation wakes the rules that now have all their events.
    fn add_event(&mut self, rel: RelId, row: &[u8], agenda: &mut Agenda) -> bool {
        let first = self.state.event(rel).is_some_and(|e| e.rows().is_empty());
        if !self.state.add_event(rel, row) {
            return false;
        }
        if first {
            for at in self
                .schedule
                .triggers
                .get(rel.0 as usize)
                .into_iter()
                .flatten()
            {
                let Some(plan) = plan(&self.schedule, *at) else {
                    continue;
                };
                if !plan
                    .events
                    .iter()
                    .all(|e| self.state.event(*e).is_some_and(|r| !r.rows().is_empty()))
                {
                    continue;
                }
                let rule = self.program.rules.get(plan.rule.0 as usize);
                match rule.filter(|r| r.head.action == Action::Emit) {
                    Some(rule) => agenda
                        .components
                        .extend(self.schedule.strata.of.get(&rule.head.rel)),
                    None => {
                        agenda.last.insert(*at);
                    }
                }
            }
        }
        true
    }

    fn strata(&mut self, agenda: &mut Agenda, done: &mut Done) -> Result<(), RunError> {
        while let Some(component) = agenda.components.pop_first() {
            if self.schedule.strata.recursive.contains(&component) {
                self.recursive(component, agenda, done)?;
                continue;
            }
            let plans = |s: &Schedule, i: usize| s.of_component.get(component)?.get(i).copied();
            let mut next = 0;
            while let Some(at) = plans(&self.schedule, next) {
                next += 1;
                if let Some((rel, found)) = self.fire(at, None, done)? {
                    self.emit(rel, found, agenda);
                }
            }
        }
        Ok(())
    }

    /// Semi-naive evaluation: each round reads only what the round before brought, once for each
    /// atom that reads the component.
    fn recursive(
        &mut self,
        component: usize,
        agenda: &mut Agenda,
        done: &mut Done,
    ) -> Result<(), RunError> {
        let members = self
            .schedule
            .strata
            .components
            .get(component)
            .cloned()
            .unwrap_or_default();
        let plans = self
            .schedule
            .of_component
            .get(component)
            .cloned()
            .unwrap_or_default();
        let size = |node: &Node, rel: RelId| node.state.event(rel).map_or(0, |e| e.rows().len());
        let mut seen: Vec<usize> = vec![0; members.len()];
        let mut first = true;
        loop {
            let sizes: Vec<usize> = members.iter().map(|m| size(self, *m)).collect();
            for at in &plans {
                let Some(rule) = plan(&self.schedule, *at) else {
                    continue;
                };
                let drivers: Vec<(usize, usize)> = rule
                    .drivers
                    .iter()
                    .enumerate()
                    .filter_map(|(d, driven)| {
                        Some((d, members.iter().position(|m| *m == driven.rel)?))
                    })
                    .collect();
                if drivers.is_empty() {
                    if first && let Some((rel, found)) = self.fire(*at, None, done)? {
                        self.emit(rel, found, agenda);
                    }
                    continue;
                }
                for (driver, member) in drivers {
                    let from = seen.get(member).copied().unwrap_or_default();
                    let to = sizes.get(member).copied().unwrap_or_default();
                    if from < to
                        && let Some((rel, found)) =
                            self.fire(*at, Some((driver, from, to)), done)?
                    {
                        self.emit(rel, found, agenda);
                    }
                }
            }
            first = false;
            seen = sizes;
            if members.iter().zip(&seen).all(|(m, s)| size(self, *m) == *s) {
                agenda.components.remove(&component);
                return Ok(());
            }
        }
    }

    fn emit(&mut self, rel: RelId, found: Found, agenda: &mut Agenda) {
        for row in found.rows.iter() {
            self.add_event(rel, row, agenda);
        }
        self.found = found;
    }

    /// Runs a rule on the rows of one of its events: the given one, or the one with the fewest rows.
    fn fire(
        &mut self,
        at: usize,
        part: Option<(usize, usize, usize)>,
        done: &mut Done,
    ) -> Result<Option<(RelId, Found)>, RunError> {
        let Some(plan) = self.schedule.plans.get(at) else {
            return Ok(None);
        };
        let Some(rule) = self.program.rules.get(plan.rule.0 as usize) else {
            return Ok(None);
        };
        let idle = |rel: &RelId| self.state.event(*rel).is_none_or(|r| r.rows().is_empty());
        let barred = |guard: &Guard| {
            !self
                .state
                .event(guard.rel)
                .is_some_and(|e| e.may_have(guard.at, |v| guard.admits(v, &self.program.functions)))
        };
        if plan.events.iter().any(idle) || plan.guards.iter().any(barred) {
            return Ok(None);
        }
        self.state.catch_up_with(&plan.tables_behind_views);
        let size = |d: &Driven| self.state.event(d.rel).map_or(0, |e| e.rows().len());
        let chosen = match part {
            Some((driver, from, to)) => plan.drivers.get(driver).map(|d| (d, from, to)),
            None => plan
                .drivers
                .iter()
                .min_by_key(|d| size(d))
                .map(|d| (d, 0, size(d))),
        };
        let Some((driven, from, to)) = chosen else {
            return Ok(None);
        };
        let mut found = std::mem::take(&mut self.found);
        found.clear();
        let outcome = drive(
            &self.state,
            &mut self.machine,
            &self.program,
            plan,
            rule,
            driven,
            (from, to),
            &mut found,
        );
        finish_groups(&self.program, plan, rule, &mut found);
        done.errors.extend(
            std::mem::take(&mut found.errors)
                .into_iter()
                .map(|m| (rule.name.clone(), m)),
        );
        if found.count > 0 {
            done.fired.insert(plan.rule);
        }
        done.rows += found.count;
        if outcome == Err(Stop::Limit) || done.rows > self.options.max_rows {
            done.fired.insert(plan.rule);
            return Err(RunError::Limit {
                limit: format!("{} rows in a tick", self.options.max_rows),
                rules: rule_names(&self.program, &done.fired),
            });
        }
        if let Err(Stop::View(why)) = outcome {
            done.errors.insert((rule.name.clone(), why));
        }
        Ok(Some((rule.head.rel, found)))
    }

    /// A rule whose head is no event of this tick.
    fn effect(&mut self, at: usize, done: &mut Done) -> Result<(), RunError> {
        let Some((rel, mut found)) = self.fire(at, None, done)? else {
            return Ok(());
        };
        let Some(rule) =
            plan(&self.schedule, at).and_then(|p| self.program.rules.get(p.rule.0 as usize))
        else {
            return Ok(());
        };
        let relation = self.program.relation(rel);
        match rule.head.action {
            Action::Insert | Action::Delete => {
                let keys = relation.keys.len();
                let order = &self.state.primary(rel).order;
                for key in found.keys.drain(..) {
                    let key = in_order(key, &relation.keys, order);
                    done.changes.delete_key(rel, key);
                }
                for row in found.rows.iter() {
                    let row = Row::from_bytes(row.to_vec());
                    if rule.head.action == Action::Insert {
                        done.changes.insert(rel, row, order, keys);
                    } else {
                        done.changes.delete(rel, &row, order, keys);
                    }
                }
            }
            Action::Update => {
                let order = &self.state.primary(rel).order;
                for (key, sets) in found.sets.drain(..) {
                    done.changes
                        .update(rel, in_order(key, &relation.keys, order), sets);
                }
            }
            Action::Next if Some(rel) == self.schedule.violation_event => {
                for row in found.rows.iter() {
                    if let [name, columns] = columns_of(row).as_slice() {
                        let name = packed::unpack(name, 0).map(|(v, _)| v);
                        let name = name.as_ref().and_then(Value::as_bytes).unwrap_or_default();
                        let columns: Vec<&[u8]> = packed::list_items(columns).collect();
                        let row = Row::from_bytes(columns.concat());
                        done.violations
                            .insert((String::from_utf8_lossy(name).into_owned(), row));
                    }
                }
            }
            Action::Next if found.rows.is_empty() => {}
            Action::Next => {
                let next = done.next.entry(rel).or_default();
                next.extend(found.rows.iter().map(|r| Row::from_bytes(r.to_vec())));
            }
            Action::Send => {
                let location = relation.location;
                for row in found.rows.iter() {
                    let to = location
                        .and_then(|c| columns_of(row).get(c).copied())
                        .and_then(|b| packed::unpack(b, 0));
                    let row = Row::from_bytes(row.to_vec());
                    match to {
                        Some((to, _)) if to != self.options.me => {
                            done.messages.insert(Message { to, rel, row });
                        }
                        _ => {
                            done.next.entry(rel).or_default().insert(row);
                        }
                    }
                }
            }
            Action::Derive | Action::Emit => {}
        }
        self.found = found;
        Ok(())
    }

    /// A line for a watched relation: `tick letter relation(values)`.
    fn watch(&self, rel: RelId, what: char, row: &[u8], done: &mut Done) {
        for watch in self.program.watches.iter().filter(|w| w.rel == rel) {
            if watch.flags.is_empty() || watch.flags.contains(what) {
                let values: Vec<String> = packed::unpack_all(row)
                    .iter()
                    .map(Value::to_string)
                    .collect();
                let name = &self.program.relation(rel).name;
                done.watch.push(format!(
                    "{} {what} {name}({})",
                    self.ticks,
                    values.join(", ")
                ));
            }
        }
    }

    /// What rules made: events of this tick, events of the next, messages.
    fn watch_derived(&self, done: &mut Done) {
        if self.program.watches.is_empty() {
            return;
        }
        for rel in self
            .program
            .watches
            .iter()
            .map(|w| w.rel)
            .collect::<BTreeSet<_>>()
        {
            let now = self
                .state
                .event(rel)
                .into_iter()
                .flat_map(|e| e.rows().iter());
            let mut rows: Vec<Row> = now.map(|r| Row::from_bytes(r.to_vec())).collect();
            rows.extend(done.next.get(&rel).into_iter().flatten().cloned());
            rows.sort_unstable();
            rows.iter()
                .for_each(|row| self.watch(rel, 'i', row.as_bytes(), done));
            let sent: Vec<Row> = done
                .messages
                .iter()
                .filter(|m| m.rel == rel)
                .map(|m| m.row.clone())
                .collect();
            sent.iter()
                .for_each(|row| self.watch(rel, 's', row.as_bytes(), done));
        }
    }

    fn observe(&self, done: &mut Done) {
        let mut wanted = self.options.observe.clone();
        wanted.sort_unstable();
        for rel in wanted {
            let Some(events) = self.state.event(rel) else {
                continue;
            };
            let mut rows: Vec<Row> = events
                .rows()
                .iter()
                .map(|r| Row::from_bytes(r.to_vec()))
                .collect();
            rows.sort_unstable();
            done.observed.extend(rows.into_iter().map(|row| (rel, row)));
        }
    }

    /// Applies what the rules of a tick ask of the tables, and finds the edges of the next.
    pub(super) fn change_tables(
        &mut self,
        changes: Changes,
        done: &mut Done,
        undo: &mut Vec<Delta>,
    ) -> Result<(), RunError> {
        if changes.is_empty() {
            return Ok(());
        }
        let mut scan = Scan::new();
        let applied = changes.apply(
            |rel| self.program.relation(rel),
            |rel, key| self.state.stored(rel, key, &mut scan),
        );
        let name = |rel: RelId| self.program.relation(rel).name.clone();
        done.conflicts.extend(
            applied
                .conflicts
                .into_iter()
                .map(|(rel, w, l)| (name(rel), w, l)),
        );
        let rule_name = |at: usize| {
            self.program
                .rules
                .get(at)
                .map(|r| r.name.clone())
                .unwrap_or_default()
        };
        done.errors.extend(
            applied
                .errors
                .into_iter()
                .map(|(rule, m)| (rule_name(rule), m)),
        );
        self.state.change(&applied.deltas);
        let (views, errors) = self.state.take_view_changes();
        done.errors.extend(errors);
        self.note_watched(&views);
        for (rel, row, came) in applied.deltas.iter().chain(&views) {
            self.watch(*rel, if *came { 'a' } else { 'd' }, row.as_bytes(), done);
            for (edge, insert) in self.schedule.edges.get(rel).into_iter().flatten() {
                if insert == came {
                    done.next.entry(*edge).or_default().insert(row.clone());
                }
            }
        }
        undo.extend(applied.deltas);
        Ok(())
    }
}

/// The names of rules, sorted, each once.
pub(super) fn rule_names(program: &Program, rules: &BTreeSet<RuleId>) -> String {
    let names: BTreeSet<&str> = rules
        .iter()
        .filter_map(|id| program.rules.get(id.0 as usize))
        .map(|rule| rule.name.as_str())
        .collect();
    names.into_iter().collect::<Vec<_>>().join(", ")
}

#[allow(clippy::too_many_arguments)] // the parts of a node, borrowed one by one
fn drive(
    state: &State,
    machine: &mut Machine,
    program: &Program,
    plan: &EventRule,
    rule: &Rule,
    driven: &Driven,
    (from, to): (usize, usize),
    found: &mut Found,
) -> Result<(), Stop> {
    let Some(events) = state.event(driven.rel) else {
        return Ok(());
    };
    machine.prepare(plan.slots);
    for at in from..to {
        if !machine.bind_row(&driven.cols, events.columns(at)) {
            continue;
        }
        let outcome = machine.run(state, &driven.body, &mut |m| {
            let outcome = match &driven.target {
                Some(target) => delete(state, program, rule, m, target, found)?,
                None if plan.by_key => key(program, rule, m, found),
                None => head(program, plan, rule, m, found),
            };
            if let Err(message) = outcome {
                found.rows.abandon();
                found.errors.insert(message);
            } else {
                found.count += 1;
            }
            Ok(true)
        });
        found.errors.extend(machine.errors.drain(..));
        outcome?;
    }
    Ok(())
}

/// Finds the stored rows that a `delete` head means.
fn delete(
    state: &State,
    program: &Program,
    rule: &Rule,
    m: &mut Machine,
    target: &Body,
    found: &mut Found,
) -> Result<Result<(), String>, Stop> {
    let first = rule.vars.len();
    for (column, arg) in rule.head.args.iter().enumerate() {
        let HeadArg::Expr(e) = arg else { continue };
        let mut value = Vec::new();
        if let Err(error) = eval_into(e, m.slots(), &program.functions, &mut value) {
            return Ok(Err(error.0));
        }
        if let Err(message) = check_type(program, rule, column, &value) {
            return Ok(Err(message));
        }
        m.set(first + column, &value);
    }
    m.run(state, target, &mut |m| {
        let row = found.rows.writer();
        for slot in first..first + rule.head.args.len() {
            row.extend_from_slice(m.slots().slot(slot));
        }
        found.rows.seal();
        Ok(true)
    })?;
    Ok(Ok(()))
}

/// Adds the key that a `delete` head names.
fn key(program: &Program, rule: &Rule, m: &Machine, found: &mut Found) -> Result<(), String> {
    let mut bytes = Vec::new();
    for column in &program.relation(rule.head.rel).keys {
        if let Some(HeadArg::Expr(e)) = rule.head.args.get(*column) {
            let start = bytes.len();
            eval_into(e, m.slots(), &program.functions, &mut bytes).map_err(|e| e.0)?;
            check_type(
                program,
                rule,
                *column,
                bytes.get(start..).unwrap_or_default(),
            )?;
        }
    }
    found.keys.push(Row::from_bytes(bytes));
    Ok(())
}

/// Adds one binding to the rows of the head.
fn head(
    program: &Program,
    plan: &EventRule,
    rule: &Rule,
    m: &Machine,
    found: &mut Found,
) -> Result<(), String> {
    if plan.grouped {
        return group(program, rule, m, found);
    }
    match rule.head.action {
        Action::Update => {
            let (key, sets) = update(program, plan, rule, m)?;
            found.sets.push((key, sets));
        }
        _ => {
            for (column, arg) in rule.head.args.iter().enumerate() {
                if let HeadArg::Expr(e) | HeadArg::Add(e) = arg {
                    let out = found.rows.writer();
                    let start = out.len();
                    eval_into(e, m.slots(), &program.functions, out).map_err(|e| e.0)?;
                    if plan.unchecked.get(column) != Some(&true) {
                        check_type(program, rule, column, out.get(start..).unwrap_or_default())?;
                    }
                }
            }
            found.rows.seal();
        }
    }
    Ok(())
}

fn update(
    program: &Program,
    plan: &EventRule,
    rule: &Rule,
    m: &Machine,
) -> Result<(Row, Vec<Set>), String> {
    let relation = program.relation(rule.head.rel);
    let mut columns: Vec<Vec<u8>> = vec![Vec::new(); rule.head.args.len()];
    let mut sets = Vec::new();
    for (column, arg) in rule.head.args.iter().enumerate() {
        let (e, add) = match arg {
            HeadArg::Expr(e) => (e, false),
            HeadArg::Add(e) => (e, true),
            HeadArg::Any | HeadArg::Agg(_) => continue,
        };
        let mut value = Vec::new();
        eval_into(e, m.slots(), &program.functions, &mut value).map_err(|e| e.0)?;
        check_type(program, rule, column, &value)?;
        if relation.keys.contains(&column) {
            if let Some(c) = columns.get_mut(column) {
                *c = value;
            }
        } else {
            sets.push(Set {
                column,
                add,
                value,
                rule: plan.rule.0 as usize,
            });
        }
    }
    Ok((key_row(relation.keys.as_slice(), &columns), sets))
}

/// Key columns given in ascending order, in the primary arrangement's.
fn in_order(key: Row, keys: &[usize], order: &[usize]) -> Row {
    if keys.iter().eq(order.iter().take(keys.len())) {
        return key;
    }
    let columns = columns_of(key.as_bytes());
    let place = |c: &usize| {
        keys.iter()
            .position(|k| k == c)
            .and_then(|at| columns.get(at))
            .copied()
    };
    Row::from_bytes(
        order
            .iter()
            .take(keys.len())
            .filter_map(place)
            .collect::<Vec<_>>()
            .concat(),
    )
}

/// Key columns, ascending.
fn key_row(keys: &[usize], columns: &[Vec<u8>]) -> Row {
    Row::from_bytes(
        keys.iter()
            .filter_map(|k| columns.get(*k))
            .flatten()
            .copied()
            .collect(),
    )
}

fn check_type(program: &Program, rule: &Rule, column: usize, value: &[u8]) -> Result<(), String> {
    check_column(program.relation(rule.head.rel), column, value)
}

fn group(program: &Program, rule: &Rule, m: &Machine, found: &mut Found) -> Result<(), String> {
    let key = &mut found.key;
    key.clear();
    for arg in &rule.head.args {
        if let HeadArg::Expr(e) | HeadArg::Add(e) = arg {
            eval_into(e, m.slots(), &program.functions, key).map_err(|e| e.0)?;
        }
    }
    let aggs = || {
        rule.head.args.iter().filter_map(|a| {
            if let HeadArg::Agg(agg) = a {
                Some(agg)
            } else {
                None
            }
        })
    };
    found
        .args
        .fill(aggs(), m.slots(), &program.functions)
        .map_err(|e| e.0)?;
    let accs = found
        .groups
        .entry_ref(key.as_slice())
        .or_insert_with(|| aggs().map(Acc::new).collect());
    accs.iter_mut()
        .zip(found.args.iter())
        .for_each(|(acc, (args, split))| acc.add(args, split));
    Ok(())
}

/// Ends the groups of a head with aggregates: each becomes a row or an update.
fn finish_groups(program: &Program, plan: &EventRule, rule: &Rule, found: &mut Found) {
    let mut groups = std::mem::take(&mut found.groups);
    for (key, accs) in groups.drain() {
        let results: Result<Option<Vec<Vec<u8>>>, _> = accs.into_iter().map(Acc::finish).collect();
        let results = match results {
            Ok(Some(results)) => results,
            Ok(None) => continue,
            Err(error) => {
                found.errors.insert(error.0);
                continue;
            }
        };
        let mut plain = columns_of(&key).into_iter();
        let mut aggregated = results.iter().map(Vec::as_slice);
        let columns: Vec<(&HeadArg, &[u8])> = rule
            .head
            .args
            .iter()
            .map(|arg| {
                let value = match arg {
                    HeadArg::Agg(_) => aggregated.next(),
                    HeadArg::Any => None,
                    HeadArg::Expr(_) | HeadArg::Add(_) => plain.next(),
                };
                (arg, value.unwrap_or_default())
            })
            .collect();
        let mismatch = columns
            .iter()
            .enumerate()
            .filter(|(_, (_, v))| !v.is_empty())
            .find_map(|(c, (_, v))| check_type(program, rule, c, v).err());
        if let Some(message) = mismatch {
            found.errors.insert(message);
            continue;
        }
        found.count += 1;
        finish_group(program, plan, rule, &columns, found);
    }
    found.groups = groups;
}

fn finish_group(
    program: &Program,
    plan: &EventRule,
    rule: &Rule,
    columns: &[(&HeadArg, &[u8])],
    found: &mut Found,
) {
    if rule.head.action != Action::Update {
        columns
            .iter()
            .for_each(|(_, v)| found.rows.writer().extend_from_slice(v));
        found.rows.seal();
        return;
    }
    let keys = &program.relation(rule.head.rel).keys;
    let values: Vec<Vec<u8>> = columns.iter().map(|(_, v)| v.to_vec()).collect();
    let sets = columns
        .iter()
        .enumerate()
        .filter(|(c, (_, v))| !keys.contains(c) && !v.is_empty())
        .map(|(column, (arg, v))| Set {
            column,
            add: matches!(arg, HeadArg::Add(_)),
            value: v.to_vec(),
            rule: plan.rule.0 as usize,
        })
        .collect();
    found.sets.push((key_row(keys, &values), sets));
}
