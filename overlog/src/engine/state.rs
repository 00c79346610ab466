//! What a node holds: the dataflows of its tables and kept views, and the events of the tick.

use crate::api::RunError;
use crate::digest::{self, Digest};
use crate::engine::events::EventRows;
use crate::engine::index::{self, Batches, Places, Recent, Scan, Snapshot};
use crate::engine::lazy::{self, LazyViews};
use crate::engine::machine::{Stop, World};
use crate::engine::plan::{self, IndexDef, IndexId, Indexes};
use crate::engine::spine::{RowTrace, Tick};
use crate::engine::tables::{TableWriter, restore_order};
use crate::engine::views::{Sink, ViewFlow};
use crate::engine::watch;
use crate::functions::Function;
use crate::ir::{Program, RelId, RelKind, Rule, TableClass};
use crate::packed::Row;
use differential_dataflow::trace::TraceReader;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;
use timely::communication::allocator::{Allocator, thread::Thread};
use timely::progress::frontier::AntichainRef;
use timely::worker::Worker;

/// Steps of the worker after which a view is taken to run away.
const MAX_WORKER_STEPS: u64 = 1_000_000;

/// A batch of an arrangement is of at least so many ticks like the last, so that merging has less to do.
const FEW_TICKS: usize = 8;

/// So many recent changes become a batch whatever the last tick was like: they take several times the room.
const MANY: usize = 4_096;

/// For each table: the tables that must advance with it, and the views that must follow.
type Downstream = BTreeMap<RelId, (BTreeSet<RelId>, BTreeSet<usize>)>;

/// A changed row: relation, row, came or went.
pub type Delta = (RelId, Row, bool);

/// Tables, kept views and events.
pub struct State {
    /// The program.
    pub program: Arc<Program>,
    indexes: Arc<Indexes>,
    worker: Worker,
    tables: BTreeMap<RelId, TableWriter>,
    /// Of all replicated tables.
    digest: Digest,
    /// Of replicated tables: what their rows' hashes begin with.
    seeds: BTreeMap<RelId, u32>,
    views: Vec<ViewFlow>,
    downstream: Downstream,
    /// The same without the views that may lag.
    at_once: Downstream,
    /// Kept views that may lag behind their tables until they are read.
    lagging: BTreeSet<RelId>,
    /// Tables with recent changes, which no view has seen.
    behind: BTreeSet<RelId>,
    traces: BTreeMap<IndexId, RowTrace<Tick>>,
    /// For each arrangement: what its trace has, once asked for, and what it has not yet.
    batches: RefCell<Vec<Option<Batches>>>,
    recent: Vec<Rc<Recent>>,
    places: RefCell<Places>,
    /// So many recent changes of an arrangement become a batch.
    recent_rows: usize,
    sink: Sink,
    now: Tick,
    /// Views that ran away, with the reason.
    off: BTreeMap<RelId, String>,
    touched: BTreeSet<RelId>,
    events: Vec<EventRows>,
    filled: Vec<RelId>,
    tick_row: Vec<u8>,
    steps: Cell<u64>,
    limit: Cell<u64>,
    lazy: LazyViews,
    /// The views of each query that is kept.
    watched: BTreeMap<RelId, Vec<RelId>>,
}

impl State {
    /// Installs the dataflows of a program.
    ///
    /// # Errors
    /// A kept view cannot be built.
    pub fn new(
        program: Arc<Program>,
        indexes: Arc<Indexes>,
        event_indexes: &BTreeMap<RelId, Vec<Vec<usize>>>,
        noted: &BTreeMap<RelId, Vec<usize>>,
        recent_rows: usize,
    ) -> Result<State, RunError> {
        let mut worker = Worker::new(
            timely::WorkerConfig::default(),
            Allocator::Thread(Thread::default()),
            None,
        );
        let mut tables = BTreeMap::new();
        let mut traces = BTreeMap::new();
        for rel in ids(&program).filter(|r| program.relation(*r).is_table()) {
            let (flow, made) = TableWriter::new(rel, &indexes);
            tables.insert(rel, flow);
            traces.extend(made);
        }
        let sink = Sink::default();
        let views = install_views(&mut worker, &program, &indexes, &mut traces, &sink)?;
        let lagging = plan::lag::may_lag(
            &program,
            &plan::graph::view_strata(&program),
            &BTreeSet::new(),
        );
        let ids_of = || tables.keys().copied();
        let at_once = downstream(&program, &views, |v| !lags(v, &lagging), ids_of());
        let downstream = downstream(&program, &views, |_| true, ids_of());
        let events = ids(&program)
            .map(|r| {
                EventRows::new(
                    program.relation(r).columns.len(),
                    event_indexes.get(&r).map_or(&[], Vec::as_slice),
                    noted.get(&r).map_or(&[], Vec::as_slice),
                )
            })
            .collect();
        let batches = RefCell::new(vec![None; indexes.len()]);
        let recent = vec![Rc::default(); indexes.len()];
        let mut state = State {
            indexes,
            worker,
            tables,
            digest: Digest::default(),
            seeds: seeds(&program),
            views,
            downstream,
            at_once,
            lagging,
            behind: BTreeSet::new(),
            traces,
            batches,
            recent,
            places: RefCell::default(),
            recent_rows,
            sink,
            now: 0,
            off: BTreeMap::new(),
            touched: ids(&program)
                .filter(|r| program.relation(*r).is_view())
                .collect(),
            events,
            filled: Vec::new(),
            tick_row: Vec::new(),
            steps: Cell::new(0),
            limit: Cell::new(u64::MAX),
            lazy: LazyViews::default(),
            watched: BTreeMap::new(),
            program,
        };
        // Views of nothing have rows too: facts, `notin`, sums of nothing.
        state.advance_all();
        state.take_view_changes();
        Ok(state)
    }

    /// The primary arrangement of a table or kept view.
    pub fn primary(&self, rel: RelId) -> &IndexDef {
        let id = self.indexes.of(rel).first().copied().unwrap_or(IndexId(0));
        self.indexes.get(id)
    }

    /// All arrangements.
    pub fn indexes_shared(&self) -> Arc<Indexes> {
        Arc::clone(&self.indexes)
    }

    fn advance_all(&mut self) {
        let all: BTreeSet<RelId> = self.tables.keys().copied().collect();
        let views = (0..self.views.len()).collect();
        self.step(&all, &views);
    }

    /// Changes tables, and brings the views up to date whose changes somebody looks at. A view that
    /// runs away is off from now on.
    pub fn change(&mut self, deltas: &[Delta]) {
        self.places.get_mut().clear();
        let mut tables = BTreeSet::new();
        let mut views = BTreeSet::new();
        let mut many = Vec::new();
        for changes in deltas.chunk_by(|a, b| a.0 == b.0) {
            let Some((rel, _, _)) = changes.first() else {
                continue;
            };
            self.touched.insert(*rel);
            self.behind.insert(*rel);
            if let Some(seed) = self.seeds.get(rel) {
                for (_, row, came) in changes {
                    match came {
                        true => self.digest.add(*seed, row.as_bytes()),
                        false => self.digest.remove(*seed, row.as_bytes()),
                    }
                }
            }
            if let Some(table) = self.tables.get(rel) {
                let rows = table.keep(changes, &mut self.recent);
                let enough = self.recent_rows.max(FEW_TICKS * changes.len());
                if rows >= enough.min(MANY) {
                    many.push(*rel);
                }
            }
            if let Some((with, follow)) = self.at_once.get(rel)
                && !follow.is_empty()
            {
                tables.extend(with);
                views.extend(follow);
            }
        }
        if !views.is_empty() {
            self.step(&tables, &views);
        }
        self.catch_up_with(&many);
    }

    /// The digest of all replicated tables, as they stand.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Brings traces, and the views that lag, up to date with all tables.
    pub fn catch_up(&mut self) {
        let all: Vec<RelId> = self.behind.iter().copied().collect();
        self.catch_up_with(&all);
    }

    /// Brings the views that lag up to date with these tables.
    pub fn catch_up_with(&mut self, tables: &[RelId]) {
        let mut with = BTreeSet::new();
        let mut follow = BTreeSet::new();
        for rel in tables {
            if self.behind.contains(rel)
                && let Some((tables, views)) = self.downstream.get(rel)
            {
                with.extend(tables);
                follow.extend(views);
            }
        }
        if with.is_empty() {
            return;
        }
        self.behind.retain(|rel| !with.contains(rel));
        self.step(&with, &follow);
        // Nobody looks at the changes of such views.
        let lagging = &self.lagging;
        let mut changes = self.sink.changes.borrow_mut();
        changes.retain(|(rel, _, _)| !lagging.contains(rel));
    }

    /// Advances these tables and views past the current time.
    fn step(&mut self, tables: &BTreeSet<RelId>, views: &BTreeSet<usize>) {
        self.places.get_mut().clear();
        self.now += 1;
        let now = self.now;
        for rel in tables {
            if let Some(table) = self.tables.get_mut(rel) {
                table.advance(now, &mut self.recent);
            }
        }
        let mut steps = 0;
        loop {
            let behind = views.iter().find(|v| {
                self.views
                    .get(**v)
                    .is_some_and(|f| !self.is_off(f) && !f.done(now))
            });
            let Some(at) = behind.copied() else {
                break;
            };
            self.worker.step();
            steps += 1;
            if steps > MAX_WORKER_STEPS {
                self.switch_off(at);
                steps = 0;
            }
        }
        self.compact(tables, views, now);
    }

    fn is_off(&self, flow: &ViewFlow) -> bool {
        flow.members.iter().any(|m| self.off.contains_key(m))
    }

    /// A view that does not come to rest: its dataflow goes, and so do those that read it.
    fn switch_off(&mut self, at: usize) {
        let Some(flow) = self.views.get(at) else {
            return;
        };
        let names: Vec<&str> = flow
            .members
            .iter()
            .map(|m| self.program.relation(*m).name.as_str())
            .collect();
        let reason = format!("the rules of {} never come to rest", names.join(", "));
        let mut gone: BTreeSet<RelId> = flow.members.iter().copied().collect();
        let mut dataflows = vec![flow.dataflow];
        for later in self.views.iter().skip(at + 1) {
            if !later.reads.is_disjoint(&gone) {
                gone.extend(&later.members);
                dataflows.push(later.dataflow);
            }
        }
        self.off
            .extend(gone.into_iter().map(|r| (r, reason.clone())));
        dataflows
            .into_iter()
            .for_each(|d| self.worker.drop_dataflow(d));
    }

    fn compact(&mut self, tables: &BTreeSet<RelId>, views: &BTreeSet<usize>, now: Tick) {
        let members = views
            .iter()
            .filter_map(|v| self.views.get(*v))
            .flat_map(|f| f.members.iter());
        let mut batches = self.batches.borrow_mut();
        for rel in tables.iter().chain(members) {
            for id in self.indexes.of(*rel) {
                if let Some(slot) = batches.get_mut(id.0) {
                    *slot = None;
                }
                if let Some(trace) = self.traces.get_mut(id) {
                    trace.set_logical_compaction(AntichainRef::new(&[now]));
                    trace.set_physical_compaction(AntichainRef::new(&[now]));
                }
            }
        }
    }

    /// Net changes of kept views since the last call, and errors of their rules.
    pub fn take_view_changes(&mut self) -> (Vec<Delta>, Vec<(String, String)>) {
        let changes = std::mem::take(&mut *self.sink.changes.borrow_mut());
        let errors = std::mem::take(&mut *self.sink.errors.borrow_mut());
        if changes.is_empty() {
            return (Vec::new(), errors);
        }
        let mut sums: BTreeMap<(RelId, Row), isize> = BTreeMap::new();
        for (rel, row, diff) in changes {
            *sums.entry((rel, row)).or_default() += diff;
        }
        let deltas: Vec<Delta> = sums
            .into_iter()
            .filter(|(_, n)| *n != 0)
            .map(|((rel, row), n)| (rel, row, n > 0))
            .collect();
        self.touched.extend(deltas.iter().map(|(rel, _, _)| *rel));
        (deltas, errors)
    }

    /// True if the relation may have changed since the last call.
    pub fn take_touched(&mut self, rel: RelId) -> bool {
        self.touched.remove(&rel)
    }

    /// The rows of the events of this tick.
    pub fn event(&self, rel: RelId) -> Option<&EventRows> {
        self.events.get(rel.0 as usize)
    }

    /// Adds an event of this tick; false if it was there.
    pub fn add_event(&mut self, rel: RelId, row: &[u8]) -> bool {
        let Some(rows) = self.events.get_mut(rel.0 as usize) else {
            return false;
        };
        if rows.rows().is_empty() {
            self.filled.push(rel);
        }
        rows.insert(row)
    }

    /// Forgets the events of the tick, and what views on demand were worked out to be.
    pub fn clear_events(&mut self) {
        for rel in self.filled.drain(..) {
            if let Some(rows) = self.events.get_mut(rel.0 as usize) {
                rows.clear();
            }
        }
        self.lazy.clear();
    }

    /// Forgets what views on demand were worked out to be.
    pub fn clear_lazy(&mut self) {
        self.lazy.clear();
    }

    /// Sets the row of `sys_tick`.
    pub fn set_tick(&mut self, row: &Row) {
        self.tick_row.clear();
        self.tick_row.extend_from_slice(row.as_bytes());
    }

    /// Allows this many rows to be looked at from now on.
    pub fn set_limit(&self, rows: u64) {
        self.steps.set(0);
        self.limit.set(rows);
    }

    /// The stored row of a table with this key, given in the primary arrangement's order.
    pub fn stored(&self, rel: RelId, key: &Row, scan: &mut Scan) -> Option<Row> {
        let id = *self.indexes.of(rel).first()?;
        let def = self.indexes.get(id);
        let seek = scan.seek_mut();
        seek.prefix.clear();
        seek.prefix.extend_from_slice(key.as_bytes());
        seek.columns = self.program.relation(rel).keys.len();
        seek.low = None;
        seek.high = None;
        scan.start_once(self.snapshot(id), def.key_columns, id, &self.places);
        let found = scan.advance().then(|| {
            let (k, v) = scan.row();
            restore_order(k, v, &def.order)
        });
        scan.finish();
        found
    }

    /// All rows of a table or view, sorted.
    pub fn rows_of(&self, rel: RelId) -> Vec<Row> {
        let mut rows = match self.indexes.of(rel).first() {
            Some(id) => all_rows(self.snapshot(*id), self.indexes.get(*id)),
            None if self.program.relation(rel).is_view() => {
                let width = self.program.relation(rel).columns.len();
                self.set_limit(u64::MAX);
                self.lazy(rel, &vec![None; width])
                    .map(|r| r.to_vec())
                    .unwrap_or_default()
            }
            None => Vec::new(),
        };
        rows.sort_unstable();
        rows
    }

    /// All arrangements as they stand.
    pub fn all_snapshots(&self) -> Vec<Snapshot> {
        self.indexes
            .iter()
            .map(|(id, _)| self.snapshot(id))
            .collect()
    }

    /// Keeps the answer of a query up to date from now on. Its rows come with the view changes of
    /// the relation that is given; those that are there already come with the first.
    ///
    /// # Errors
    /// A rule cannot be planned.
    pub fn watch(&mut self, rule: &Rule, functions: &[Function]) -> Result<RelId, String> {
        self.catch_up();
        let (program, made) = watch::extend(&self.program, rule, functions);
        let mut indexes = (*self.indexes).clone();
        for rel in &made {
            indexes.add_primary(*rel, program.relation(*rel));
        }
        self.batches.borrow_mut().resize(indexes.len(), None);
        self.recent.resize(indexes.len(), Rc::default());
        let before = self.views.len();
        for (members, recursive) in watch::components(&program, &made) {
            let flow = ViewFlow::install(
                &mut self.worker,
                &program,
                &members,
                recursive,
                &indexes,
                &mut self.traces,
                &self.sink,
            )
            .map_err(|(rule, reason)| format!("{rule}: {reason}"))?;
            self.views.push(flow);
        }
        self.indexes = Arc::new(indexes);
        self.program = Arc::new(program);
        let rel = made.last().copied().unwrap_or(RelId(u32::MAX));
        let all = self.views.iter().skip(before);
        let all: Vec<RelId> = all.flat_map(|v| v.members.clone()).collect();
        self.watched.insert(rel, all);
        self.note_downstream();
        self.advance_all();
        Ok(rel)
    }

    /// Lets go of a query that was kept.
    pub fn unwatch(&mut self, rel: RelId) {
        let Some(members) = self.watched.remove(&rel) else {
            return;
        };
        let (gone, kept): (Vec<_>, Vec<_>) = std::mem::take(&mut self.views)
            .into_iter()
            .partition(|v| v.members.iter().any(|m| members.contains(m)));
        self.views = kept;
        for flow in gone {
            for id in flow.members.iter().flat_map(|m| self.indexes.of(*m)) {
                self.traces.remove(id);
            }
            self.worker.drop_dataflow(flow.dataflow);
        }
        let mut program = (*self.program).clone();
        program.rules.retain(|r| !members.contains(&r.head.rel));
        program.facts.retain(|f| !members.contains(&f.rel));
        self.program = Arc::new(program);
        self.note_downstream();
    }

    /// After a change of the views. What reads a view that lags makes it follow at once.
    fn note_downstream(&mut self) {
        let subscribed = self.watched.keys().copied().collect();
        let strata = plan::graph::view_strata(&self.program);
        self.lagging = plan::lag::may_lag(&self.program, &strata, &subscribed);
        let at_once = |v: &ViewFlow| !lags(v, &self.lagging);
        let ids = || self.tables.keys().copied();
        self.at_once = downstream(&self.program, &self.views, at_once, ids());
        self.downstream = downstream(&self.program, &self.views, |_| true, ids());
    }

    /// Why a view cannot be read.
    pub fn off(&self) -> &BTreeMap<RelId, String> {
        &self.off
    }
}

/// All rows of an arrangement, in its order.
pub fn all_rows(snapshot: Snapshot, def: &IndexDef) -> Vec<Row> {
    let mut scan = Scan::new();
    scan.start(snapshot, def.key_columns);
    let mut rows = Vec::new();
    while scan.advance() {
        let (k, v) = scan.row();
        rows.push(restore_order(k, v, &def.order));
    }
    rows
}

fn ids(program: &Program) -> impl Iterator<Item = RelId> + use<> {
    (0..program.relations.len())
        .filter_map(|i| u32::try_from(i).ok())
        .map(RelId)
}

fn seeds(program: &Program) -> BTreeMap<RelId, u32> {
    ids(program)
        .map(|rel| (rel, program.relation(rel)))
        .filter(|(_, r)| matches!(r.kind, RelKind::Table(TableClass::Replicated { .. })))
        .map(|(rel, r)| (rel, digest::seed(&r.name)))
        .collect()
}

fn install_views(
    worker: &mut Worker,
    program: &Program,
    indexes: &Indexes,
    traces: &mut BTreeMap<IndexId, RowTrace<Tick>>,
    sink: &Sink,
) -> Result<Vec<ViewFlow>, RunError> {
    let strata = plan::graph::view_strata(program);
    let mut flows = Vec::new();
    for (i, members) in strata.components.iter().enumerate() {
        let kept =
            |r: &RelId| matches!(program.relation(*r).kind, RelKind::View { kept: true, .. });
        if !members.iter().any(kept) {
            continue;
        }
        let recursive = strata.recursive.contains(&i);
        let flow = ViewFlow::install(worker, program, members, recursive, indexes, traces, sink)
            .map_err(|(rule, reason)| RunError::Plan { rule, reason })?;
        flows.push(flow);
    }
    Ok(flows)
}

fn lags(flow: &ViewFlow, lagging: &BTreeSet<RelId>) -> bool {
    flow.members.iter().all(|m| lagging.contains(m))
}

/// What must advance together for the wanted views: an import whose frontier stays behind stalls every
/// join with it.
fn downstream(
    program: &Program,
    views: &[ViewFlow],
    wanted: impl Fn(&ViewFlow) -> bool,
    tables: impl Iterator<Item = RelId>,
) -> Downstream {
    // The tables that each view reads, through other views too.
    let mut sources: BTreeMap<RelId, BTreeSet<RelId>> = BTreeMap::new();
    let mut roots: Vec<BTreeSet<RelId>> = Vec::new();
    for flow in views {
        let mut all = BTreeSet::new();
        for rel in &flow.reads {
            match sources.get(rel) {
                Some(of_view) => all.extend(of_view),
                None if program.relation(*rel).is_table() => {
                    all.insert(*rel);
                }
                None => {}
            }
        }
        for member in &flow.members {
            sources.insert(*member, all.clone());
        }
        roots.push(if wanted(flow) { all } else { BTreeSet::new() });
    }
    tables
        .map(|table| {
            let mut with = BTreeSet::from([table]);
            // A table that must advance with this one takes its own views along.
            loop {
                let more: BTreeSet<RelId> = roots
                    .iter()
                    .filter(|r| !r.is_disjoint(&with))
                    .flatten()
                    .copied()
                    .collect();
                if more.is_subset(&with) {
                    break;
                }
                with.extend(more);
            }
            let follow = roots
                .iter()
                .enumerate()
                .filter(|(_, r)| !r.is_disjoint(&with))
                .map(|(i, _)| i)
                .collect();
            (table, (with, follow))
        })
        .collect()
}

impl World for State {
    fn snapshot(&self, id: IndexId) -> Snapshot {
        let mut taken = self.batches.borrow_mut();
        let batches = taken.get_mut(id.0).map(|slot| {
            let take = || self.traces.get(&id).map(index::batches);
            Rc::clone(slot.get_or_insert_with(|| take().unwrap_or_default()))
        });
        Snapshot {
            batches: batches.unwrap_or_default(),
            recent: self.recent.get(id.0).cloned().unwrap_or_default(),
        }
    }

    fn places(&self) -> Option<&RefCell<Places>> {
        Some(&self.places)
    }

    fn indexes(&self) -> &Indexes {
        &self.indexes
    }

    fn events(&self, rel: RelId) -> Option<&EventRows> {
        self.event(rel)
    }

    fn tick(&self) -> &[u8] {
        &self.tick_row
    }

    fn functions(&self) -> &[Function] {
        &self.program.functions
    }

    fn lazy(&self, rel: RelId, bound: &[Option<Vec<u8>>]) -> Result<Rc<Vec<Row>>, Stop> {
        lazy::evaluate(self, &self.program, &self.lazy, rel, bound)
    }

    fn steps(&self) -> &Cell<u64> {
        &self.steps
    }

    fn limit(&self) -> u64 {
        self.limit.get()
    }
}
