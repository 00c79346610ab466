//! Runs planned bodies against arrangements, the events of the tick and views on demand.
//!
//! A body is a nest of loops, kept as an explicit stack of frames, so that a long query can stop
//! between two rows and go on later.

use crate::engine::agg::{Acc, Arguments};
use crate::engine::eval::{Slots, eval_into, test, undefined};
use crate::engine::events::{Columns, EventRows};
use crate::engine::index::{Places, Scan, Snapshot};
use crate::engine::plan::{Body, Col, IndexId, Indexes, Operand, Source, Step};
use crate::engine::slots::Values;
use crate::functions::Function;
use crate::ir::{Aggregate, RelId};
use crate::packed;
use crate::packed::Row;
use std::cell::{Cell, RefCell};
use std::rc::Rc;

/// Why a body stopped before its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Too many rows.
    Limit,
    /// A view that cannot be read, and why.
    View(String),
}

/// What bodies read: fixed for the length of a tick.
pub trait World {
    /// The batches of an arrangement.
    fn snapshot(&self, index: IndexId) -> Snapshot;
    /// Where seeks led before, if they may lead there again.
    fn places(&self) -> Option<&RefCell<Places>> {
        None
    }
    /// The arrangements.
    fn indexes(&self) -> &Indexes;
    /// The events of this tick.
    fn events(&self, rel: RelId) -> Option<&EventRows>;
    /// The packed row of `sys_tick`.
    fn tick(&self) -> &[u8];
    /// The functions.
    fn functions(&self) -> &[Function];
    /// The rows of a view on demand, with these columns bound.
    fn lazy(&self, rel: RelId, bound: &[Option<Vec<u8>>]) -> Result<Rc<Vec<Row>>, Stop>;
    /// Counts rows looked at.
    fn steps(&self) -> &Cell<u64>;
    /// Most rows to look at.
    fn limit(&self) -> u64;
}

enum Iter {
    /// Boxed: frames are moved about, and scans are large.
    Scan(Box<Scan>),
    Event {
        rel: RelId,
        by: Option<usize>,
        next: Option<usize>,
    },
    List {
        bytes: Vec<u8>,
        at: usize,
        count: i64,
    },
    Rows {
        rows: Rc<Vec<Row>>,
        at: usize,
    },
}

struct Frame {
    step: usize,
    iter: Iter,
    /// Use all columns as checks: an operand of the prefix is undefined.
    loose: Option<usize>,
    /// Values were set up to here when it started.
    mark: usize,
}

/// An expression failed; the binding is dropped, and reported if the rest of the body holds.
struct Poison {
    frames: usize,
    message: String,
}

/// Slots and frames; reused from body to body.
#[derive(Default)]
pub struct Machine {
    slots: Values,
    frames: Vec<Frame>,
    #[expect(clippy::vec_box, reason = "they go into frames as they are")]
    spare: Vec<Box<Scan>>,
    poison: Option<Poison>,
    scratch: Vec<u8>,
    /// Errors of bindings for which the rest of the body held.
    pub errors: Vec<String>,
}

impl Machine {
    /// Makes room for the variables of a rule; their values are undefined.
    pub fn prepare(&mut self, slots: usize) {
        self.release(0);
        self.poison = None;
        self.slots.reset(slots);
    }

    /// The variables' values.
    pub fn slots(&self) -> &Values {
        &self.slots
    }

    /// Sets a variable.
    pub fn set(&mut self, slot: usize, bytes: &[u8]) {
        self.slots.set(slot, bytes);
    }

    /// Binds the event's row that drives a body, after that of the row before; false if it does not match.
    pub fn bind_row(&mut self, cols: &[Col], row: Columns<'_>) -> bool {
        self.slots.release(0);
        self.slots.bind(cols, row)
    }

    /// Runs a body to its end and calls `emit` for each binding.
    pub fn run<W: World>(
        &mut self,
        world: &W,
        body: &Body,
        emit: &mut dyn FnMut(&mut Machine) -> Result<bool, Stop>,
    ) -> Result<(), Stop> {
        let (base, mark) = (self.frames.len(), self.slots.mark());
        let outcome = self.go(world, body, base, Some(0), u64::MAX, emit);
        self.release(base);
        self.slots.release(mark);
        outcome.map(|_| ())
    }

    /// Runs or resumes a body for about `budget` rows; true when it is at its end.
    pub fn slice<W: World>(
        &mut self,
        world: &W,
        body: &Body,
        first: bool,
        budget: u64,
        emit: &mut dyn FnMut(&mut Machine) -> Result<bool, Stop>,
    ) -> Result<bool, Stop> {
        self.go(world, body, 0, first.then_some(0), budget, emit)
    }

    fn go<W: World>(
        &mut self,
        world: &W,
        body: &Body,
        base: usize,
        start: Option<usize>,
        budget: u64,
        emit: &mut dyn FnMut(&mut Machine) -> Result<bool, Stop>,
    ) -> Result<bool, Stop> {
        let until = world.steps().get().saturating_add(budget);
        let mut next = match start {
            Some(at) => Some(at),
            None => self.backtrack(world, body, base)?,
        };
        while let Some(at) = next {
            let forward = match body.steps.get(at) {
                Some(step) => self.enter(world, step, at)?,
                None => {
                    if let Some(p) = &self.poison {
                        self.errors.push(p.message.clone());
                    } else if !emit(self)? {
                        return Ok(true);
                    }
                    false
                }
            };
            if forward {
                next = Some(at + 1);
                continue;
            }
            if world.steps().get() >= until {
                return Ok(false);
            }
            next = self.backtrack(world, body, base)?;
        }
        Ok(true)
    }

    /// Starts a step; false if there is nothing for it.
    fn enter<W: World>(&mut self, world: &W, step: &Step, at: usize) -> Result<bool, Stop> {
        match step {
            Step::Test(e) => Ok(match test(e, &self.slots, world.functions()) {
                Ok(holds) => holds,
                Err(error) => self.poisoned(undefined(e, &self.slots), error.0),
            }),
            Step::Assign { slot, expr, check } => Ok(self.assign(world, *slot, expr, *check)),
            Step::Each { source, cols } => {
                if matches!(source, Source::Tick) {
                    return Ok(apply(cols, world.tick(), &[], &mut self.slots));
                }
                let frame = self.open(world, source, at)?;
                self.frames.push(frame);
                self.advance_or_pop(world, step)
            }
            Step::None { source, cols } => {
                let mut frame = self.open(world, source, at)?;
                let found = self.exists(world, &mut frame, source, cols)?;
                self.close(frame);
                Ok(!found)
            }
            Step::Unnest { list, pos, item } => {
                let mut bytes = Vec::new();
                match eval_into(list, &self.slots, world.functions(), &mut bytes) {
                    Ok(()) => {}
                    Err(error) => {
                        let known = undefined(list, &self.slots);
                        [pos, item].iter().for_each(|col| self.undefine(col));
                        return Ok(self.poisoned(known, error.0));
                    }
                }
                if !packed::is_list(&bytes) {
                    [pos, item].iter().for_each(|col| self.undefine(col));
                    return Ok(self.poisoned(false, "unnesting what is no list".to_string()));
                }
                self.frames.push(Frame {
                    step: at,
                    iter: Iter::List {
                        bytes,
                        at: 1,
                        count: 0,
                    },
                    loose: None,
                    mark: self.slots.mark(),
                });
                self.advance_or_pop(world, step)
            }
            Step::Agg {
                result,
                agg,
                body,
                outer,
                in_order,
            } => {
                // What depends on an undefined value is passed over.
                if self.poison.is_some() && outer.iter().any(|s| self.slots.slot(*s).is_empty()) {
                    self.undefine(result);
                    return Ok(true);
                }
                self.aggregate(world, result, agg, body, *in_order)
            }
        }
    }

    /// Notes an error of this binding, and goes on to see whether the rest of the body holds.
    fn poisoned(&mut self, known: bool, message: String) -> bool {
        if !known && self.poison.is_none() {
            self.poison = Some(Poison {
                frames: self.frames.len(),
                message,
            });
        }
        // What depends on an undefined value is passed over.
        self.poison.is_some()
    }

    /// What a failed term would have bound.
    fn undefine(&mut self, col: &Col) {
        if let Col::Bind(slot) = col {
            self.set(*slot, &[]);
        }
    }

    fn assign<W: World>(
        &mut self,
        world: &W,
        slot: usize,
        expr: &crate::ir::Expr,
        check: bool,
    ) -> bool {
        self.scratch.clear();
        let mut out = std::mem::take(&mut self.scratch);
        let outcome = eval_into(expr, &self.slots, world.functions(), &mut out);
        let holds = match outcome {
            Err(error) => {
                if !check {
                    self.slots.set(slot, &[]);
                }
                let known = undefined(expr, &self.slots);
                self.poisoned(known, error.0)
            }
            Ok(()) if check => {
                let known = self.slots.slot(slot);
                known.is_empty() || known == out
            }
            Ok(()) => {
                self.slots.set(slot, &out);
                true
            }
        };
        self.scratch = out;
        holds
    }

    fn aggregate<W: World>(
        &mut self,
        world: &W,
        result: &Col,
        agg: &Aggregate,
        body: &Body,
        in_order: Option<usize>,
    ) -> Result<bool, Stop> {
        let (mut acc, mut args) = (Acc::new(agg), Arguments::default());
        let outer = self.poison.take();
        let mut last: Option<Vec<u8>> = None;
        self.run(world, body, &mut |m| {
            if let Some(slot) = in_order {
                let here = m.slots.slot(slot);
                if last.as_deref() != Some(here) {
                    if last.is_some() && acc.full() {
                        return Ok(false);
                    }
                    last = Some(here.to_vec());
                }
            }
            // Only the binding of the nested body is dropped.
            match args.fill(std::iter::once(agg), &m.slots, world.functions()) {
                Ok(()) => args.iter().for_each(|(args, split)| acc.add(args, split)),
                Err(error) => m.errors.push(error.0),
            }
            Ok(true)
        })?;
        self.poison = outer;
        match acc.finish().map_err(|e| e.0) {
            Ok(Some(bytes)) => Ok(self.slots.store(result, &bytes)),
            Ok(None) => Ok(false),
            Err(message) => {
                self.undefine(result);
                Ok(self.poisoned(false, message))
            }
        }
    }

    fn open<W: World>(&mut self, world: &W, source: &Source, step: usize) -> Result<Frame, Stop> {
        let mut loose = None;
        let iter = match source {
            Source::Index {
                index,
                prefix,
                range,
                ..
            } => {
                let mut scan = self.spare.pop().unwrap_or_default();
                let seek = scan.seek_mut();
                seek.prefix.clear();
                seek.columns = 0;
                for operand in prefix {
                    let bytes = self.slots.operand(operand);
                    if bytes.is_empty() {
                        loose = Some(seek.columns);
                        break;
                    }
                    seek.prefix.extend_from_slice(bytes);
                    seek.columns += 1;
                }
                let bound = |b: &Option<(Operand, bool)>| {
                    let (operand, excluded) = b.as_ref()?;
                    let bytes = self.slots.operand(operand);
                    (!bytes.is_empty() && loose.is_none()).then(|| (bytes.to_vec(), *excluded))
                };
                seek.low = bound(&range.low);
                seek.high = bound(&range.high);
                let key_columns = world.indexes().get(*index).key_columns;
                match world.places() {
                    Some(places) => {
                        scan.start_once(world.snapshot(*index), key_columns, *index, places);
                    }
                    None => scan.start(world.snapshot(*index), key_columns),
                }
                Iter::Scan(scan)
            }
            Source::Event { rel, by } => {
                let rows = world.events(*rel);
                let mut hash = None;
                let mut next = rows.is_some_and(|r| !r.rows().is_empty()).then_some(0);
                if let (Some((index, key)), Some(rows)) = (by, rows) {
                    self.scratch.clear();
                    let mut known = true;
                    for operand in key {
                        let bytes = self.slots.operand(operand);
                        known &= !bytes.is_empty();
                        self.scratch.extend_from_slice(bytes);
                    }
                    if known {
                        hash = Some(*index);
                        next = rows.first(*index, &self.scratch);
                    }
                }
                Iter::Event {
                    rel: *rel,
                    by: hash,
                    next,
                }
            }
            Source::Lazy { rel, bound } => {
                let values: Vec<Option<Vec<u8>>> = bound
                    .iter()
                    .map(|o| {
                        let bytes = self.slots.operand(o.as_ref()?);
                        (!bytes.is_empty()).then(|| bytes.to_vec())
                    })
                    .collect();
                Iter::Rows {
                    rows: world.lazy(*rel, &values)?,
                    at: 0,
                }
            }
            Source::Tick => Iter::Rows {
                rows: Rc::new(vec![Row::from_bytes(world.tick().to_vec())]),
                at: 0,
            },
        };
        Ok(Frame {
            step,
            iter,
            loose,
            mark: self.slots.mark(),
        })
    }

    fn close(&mut self, frame: Frame) {
        if let Iter::Scan(mut scan) = frame.iter {
            scan.finish();
            self.spare.push(scan);
        }
    }

    fn release(&mut self, base: usize) {
        while self.frames.len() > base {
            if let Some(frame) = self.frames.pop() {
                self.close(frame);
            }
        }
    }

    fn exists<W: World>(
        &mut self,
        world: &W,
        frame: &mut Frame,
        source: &Source,
        cols: &[Col],
    ) -> Result<bool, Stop> {
        // It only stops at rows that match.
        step_frame(
            world,
            frame,
            source_all(source, frame.loose),
            cols,
            &mut self.slots,
        )
    }

    /// Moves the top frame to its next row, or removes it.
    fn advance_or_pop<W: World>(&mut self, world: &W, step: &Step) -> Result<bool, Stop> {
        let Some(frame) = self.frames.last_mut() else {
            return Ok(false);
        };
        let more = match step {
            Step::Each { source, cols } => step_frame(
                world,
                frame,
                source_all(source, frame.loose),
                cols,
                &mut self.slots,
            )?,
            Step::Unnest { pos, item, .. } => step_list(frame, pos, item, &mut self.slots),
            _ => false,
        };
        if !more && let Some(frame) = self.frames.pop() {
            self.close(frame);
        }
        Ok(more)
    }

    /// The step to go on with after the innermost loop that has another row.
    fn backtrack<W: World>(
        &mut self,
        world: &W,
        body: &Body,
        base: usize,
    ) -> Result<Option<usize>, Stop> {
        while self.frames.len() > base {
            if self
                .poison
                .as_ref()
                .is_some_and(|p| self.frames.len() <= p.frames)
            {
                self.poison = None;
            }
            let Some(at) = self.frames.last().map(|f| f.step) else {
                return Ok(None);
            };
            let Some(step) = body.steps.get(at) else {
                return Ok(None);
            };
            if self.advance_or_pop(world, step)? {
                return Ok(Some(at + 1));
            }
        }
        self.poison = None;
        Ok(None)
    }
}

fn source_all(source: &Source, loose: Option<usize>) -> Option<(&[Col], usize)> {
    match (source, loose) {
        (Source::Index { all, .. }, Some(skip)) => Some((all, skip)),
        _ => None,
    }
}

/// Steps to the next row that matches, and binds it; false at the end.
fn step_frame<W: World>(
    world: &W,
    frame: &mut Frame,
    loose: Option<(&[Col], usize)>,
    cols: &[Col],
    slots: &mut Values,
) -> Result<bool, Stop> {
    loop {
        let steps = world.steps();
        steps.set(steps.get() + 1);
        if steps.get() > world.limit() {
            return Err(Stop::Limit);
        }
        slots.release(frame.mark);
        let matched = match &mut frame.iter {
            Iter::Scan(scan) => {
                if !scan.advance() {
                    return Ok(false);
                }
                let prefix = scan.seek_mut().prefix.len();
                let (key, val) = scan.row();
                let (key, val) = match key.get(prefix..) {
                    Some(rest) => (rest, val),
                    None => (&[][..], val.get(prefix - key.len()..).unwrap_or_default()),
                };
                match loose {
                    None => apply(cols, key, val, slots),
                    Some((all, skip)) => {
                        apply(all.get(skip..).unwrap_or_default(), key, val, slots)
                    }
                }
            }
            Iter::Event { rel, by, next } => {
                let Some(at) = *next else { return Ok(false) };
                let Some(rows) = world.events(*rel) else {
                    return Ok(false);
                };
                *next = match by {
                    Some(index) => rows.next(*index, at),
                    None => (at + 1 < rows.rows().len()).then_some(at + 1),
                };
                slots.bind(cols, rows.columns(at))
            }
            Iter::Rows { rows, at } => {
                let Some(row) = rows.get(*at) else {
                    return Ok(false);
                };
                *at += 1;
                apply(cols, row.as_bytes(), &[], slots)
            }
            Iter::List { .. } => return Ok(false),
        };
        if matched {
            return Ok(true);
        }
    }
}

fn step_list(frame: &mut Frame, pos: &Col, item: &Col, slots: &mut Values) -> bool {
    let mark = frame.mark;
    let Iter::List { bytes, at, count } = &mut frame.iter else {
        return false;
    };
    loop {
        let rest = bytes.get(*at..).unwrap_or_default();
        let (element, _) = packed::split_first(rest);
        slots.release(mark);
        // The list's end is no value.
        if element.is_empty() {
            return false;
        }
        let here = *count;
        *at += element.len();
        *count += 1;
        let mut number = Vec::with_capacity(9);
        packed::pack_int(here, &mut number);
        if slots.store(pos, &number) && slots.store(item, element) {
            return true;
        }
    }
}

/// Binds and checks the columns of a row that is in two pieces.
#[inline]
fn apply(cols: &[Col], first: &[u8], second: &[u8], slots: &mut Values) -> bool {
    let mut rest = first;
    let mut after = second;
    for col in cols {
        if rest.is_empty() {
            rest = std::mem::take(&mut after);
        }
        let (value, tail) = packed::split_first(rest);
        if !slots.store(col, value) {
            return false;
        }
        rest = tail;
    }
    true
}
