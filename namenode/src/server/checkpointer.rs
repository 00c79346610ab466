//! Checkpoints in the background: the engine hands over some rows between runs, a task writes them.

use super::boot::durable_tables;
use super::{Config, ServerError};
use crate::metrics::Metrics;
use crate::planted::{Mistake, makes};
use crate::store::checkpoint::{Part, Writer};
use crate::store::log::Log;
use crate::store::{Shared as Folder, Store, StoreError};
use overlog::ir::{Program, RelId};
use overlog::node::{Node, Snapshot};
use overlog::{Digest, Row};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Rows that are taken between two runs.
const SLICE: usize = 1_000;

/// Slices that wait to be written.
const WAITING: usize = 4;

/// Slots between two checkpoints, at least: others may be that far behind without needing the state as a whole.
const LEAST_SLOTS: u64 = 1_000;

/// With more rows than [`LEAST_SLOTS`] times this, checkpoints are further apart: each has to write them all.
const ROWS_OF_A_SLOT: u64 = 20;

/// After a failure the next try comes after this part of the usual distance.
const RETRY_PART: u64 = 4;

/// Makes checkpoints.
pub struct Checkpointer {
    every_slots: u64,
    every_bytes: u64,
    tables: Vec<RelId>,
    /// Names and numbers of columns.
    about: Vec<(String, u32)>,
    /// So many of the tables are replicated, and the others local.
    replicated: usize,
    running: Option<Running>,
    /// Slot and bytes of the log when the last one was begun.
    since: (u64, u64),
    /// Rows of the last one that was begun; 0 before the first.
    rows: u64,
    metrics: Arc<Metrics>,
}

struct Running {
    /// `None` once all rows were handed over.
    snapshot: Option<Snapshot>,
    pieces: Option<mpsc::Sender<(u32, Vec<Row>)>>,
    /// A slice that found no place.
    slice: Option<(u32, Vec<Row>)>,
    task: JoinHandle<Result<u64, Arc<StoreError>>>,
}

impl Checkpointer {
    /// For the durable tables of a program.
    pub fn new(config: &Config, program: &Program, store: &Store) -> Checkpointer {
        let (mut tables, local) = durable_tables(program);
        let replicated = tables.len();
        tables.extend(local);
        let about = |rel: &RelId| {
            let relation = program.relation(*rel);
            (
                relation.name.clone(),
                u32::try_from(relation.columns.len()).unwrap_or(u32::MAX),
            )
        };
        Checkpointer {
            every_slots: config.checkpoint_slots.max(1),
            every_bytes: config.checkpoint_bytes.max(1),
            about: tables.iter().map(about).collect(),
            tables,
            replicated,
            running: None,
            since: (store.last_checkpoint, 0),
            rows: 0,
            metrics: store.metrics().clone(),
        }
    }

    /// Rows are to be handed over, and there is room for them.
    pub fn has_work(&self) -> bool {
        self.running.as_ref().is_some_and(|r| {
            r.task.is_finished()
                || r.pieces.as_ref().is_some_and(|p| {
                    (r.snapshot.is_some() || r.slice.is_some()) && p.capacity() > 0
                })
        })
    }

    /// Slots between two: the smaller the state, the fewer, so that a start has little to apply again.
    fn distance(&self) -> u64 {
        (self.rows / ROWS_OF_A_SLOT)
            .max(LEAST_SLOTS)
            .min(self.every_slots)
    }

    fn log_bytes(&self) -> u64 {
        self.metrics.log_bytes.load(Ordering::Relaxed)
    }

    /// Begins one if it is time; hands over a slice. After one has ended: the slot up to which nothing of the log is
    /// needed any more.
    ///
    /// # Errors
    /// A sync failed, or its rows are not those of the state.
    pub async fn step(
        &mut self,
        node: &Node,
        store: &Store,
        slot: u64,
    ) -> Result<Option<u64>, ServerError> {
        if self.running.is_none() {
            let (since_slot, since_bytes) = self.since;
            let due = slot.saturating_sub(since_slot) >= self.distance()
                || self.log_bytes().saturating_sub(since_bytes) >= self.every_bytes;
            if slot > since_slot && due {
                self.begin(node, store, slot);
            }
        }
        if self.running.as_ref().is_some_and(|r| r.task.is_finished()) {
            return self.end().await;
        }
        self.hand_over();
        Ok(None)
    }

    fn begin(&mut self, node: &Node, store: &Store, slot: u64) {
        let entry = store.log.appended();
        let slot = slot + u64::from(makes(Mistake::CheckpointLacksLastSlot));
        let (sender, pieces) = mpsc::channel(WAITING);
        let (state, local) = self.about.split_at(self.replicated);
        let writers = [
            store.checkpoint(Part::State, slot, state.to_vec()),
            store.checkpoint(Part::Local, entry, local.to_vec()),
        ];
        let task = tokio::spawn(write(
            writers,
            self.replicated,
            store.log.clone(),
            store.shared(),
            pieces,
            node.digest(),
        ));
        let snapshot = Some(node.snapshot(&self.tables));
        self.since = (slot, self.log_bytes());
        self.rows = 0;
        self.running = Some(Running {
            snapshot,
            pieces: Some(sender),
            slice: None,
            task,
        });
    }

    fn hand_over(&mut self) {
        let Some(running) = &mut self.running else {
            return;
        };
        let Some(sender) = running.pieces.clone() else {
            return;
        };
        let Ok(place) = sender.try_reserve() else {
            return;
        };
        let slice = match running.slice.take() {
            Some(slice) => Some(slice),
            None => running
                .snapshot
                .as_mut()
                .and_then(|s| s.next(SLICE))
                .map(|(rel, rows)| (number(&self.tables, rel), rows)),
        };
        match slice {
            Some(mut slice) => {
                if makes(Mistake::CheckpointLacksRows) {
                    slice.1.pop();
                }
                self.rows += slice.1.len() as u64;
                place.send(slice);
            }
            None => {
                // The end: the task sees that nothing follows.
                running.snapshot = None;
                running.pieces = None;
            }
        }
    }

    async fn end(&mut self) -> Result<Option<u64>, ServerError> {
        let Some(running) = self.running.take() else {
            return Ok(None);
        };
        let outcome = match running.task.await {
            Ok(outcome) => outcome,
            Err(e) => return Err(ServerError::Thread(e.to_string())),
        };
        let e = match outcome {
            Ok(kept) if makes(Mistake::TruncatesTooFar) => return Ok(Some(kept + 120)),
            Ok(kept) => return Ok(Some(kept)),
            Err(e) => e,
        };
        Metrics::add(&self.metrics.checkpoints_failed, 1);
        if matches!(*e, StoreError::Sync { .. } | StoreError::Differs { .. }) {
            return Err(e.into());
        }
        tracing::warn!("checkpoint given up, the log stays as it is: {e}");
        let (slot, bytes) = self.since;
        let back = |now: u64, every: u64| now.saturating_sub(every - every / RETRY_PART);
        self.since = (back(slot, self.distance()), back(bytes, self.every_bytes));
        Ok(None)
    }

    /// Ends the one on its way; the next start removes what it wrote.
    pub async fn abandon(&mut self) {
        if let Some(running) = self.running.take() {
            running.task.abort();
            let _ = running.task.await;
        }
    }

    /// Writes one at once; for a clean end.
    ///
    /// # Errors
    /// It cannot be written.
    pub async fn at_end(
        &mut self,
        node: &Node,
        store: &Store,
        slot: u64,
    ) -> Result<(), ServerError> {
        // The newer one takes its place.
        self.abandon().await;
        self.begin(node, store, slot);
        let Some(Running {
            mut snapshot,
            pieces,
            task,
            ..
        }) = self.running.take()
        else {
            return Ok(());
        };
        if let Some(sender) = pieces {
            while let Some((rel, rows)) = snapshot.as_mut().and_then(|s| s.next(SLICE)) {
                if sender
                    .send((number(&self.tables, rel), rows))
                    .await
                    .is_err()
                {
                    break;
                }
            }
        }
        match task.await {
            Ok(outcome) => Ok(outcome.map(|_| ())?),
            Err(e) => Err(ServerError::Thread(e.to_string())),
        }
    }
}

fn number(tables: &[RelId], rel: RelId) -> u32 {
    tables
        .iter()
        .position(|t| *t == rel)
        .and_then(|i| u32::try_from(i).ok())
        .unwrap_or(u32::MAX)
}

/// Writes both parts, and gives the slot up to which nothing of the log is needed any more.
async fn write(
    writers: [Writer; 2],
    replicated: usize,
    log: Log,
    folder: Arc<Folder>,
    mut pieces: mpsc::Receiver<(u32, Vec<Row>)>,
    digest: Digest,
) -> Result<u64, Arc<StoreError>> {
    let [mut state, mut local] = writers;
    let first_local = u32::try_from(replicated).unwrap_or(u32::MAX);
    while let Some((table, rows)) = pieces.recv().await {
        let written = match table.checked_sub(first_local) {
            None => state.rows(table, &rows).await,
            Some(table) => local.rows(table, &rows).await,
        };
        if let Err(e) = written {
            state.abandon().await;
            local.abandon().await;
            return Err(e.into());
        }
    }
    let (slot, written) = (state.slot(), state.digest());
    if written != digest {
        state.abandon().await;
        local.abandon().await;
        return Err(StoreError::differs(slot, written, digest).into());
    }
    // Nothing may stand in a checkpoint that the log could still lose.
    log.wait_durable(local.slot()).await?;
    local.finish().await?;
    state.finish().await?;
    tracing::info!(
        "checkpoint of slot {slot}: {} rows, digest {:016x}",
        digest.rows,
        digest.sum
    );
    Ok(folder.prune().await?)
}
