//! Checkpoints in the background: the engine hands over some rows between runs, a task writes them.

use super::{Config, ServerError};
use crate::metrics::Metrics;
use crate::store::checkpoint::Writer;
use crate::store::log::Log;
use crate::store::{Store, StoreError};
use overlog::Row;
use overlog::ir::{Program, RelId};
use overlog::node::{Node, Snapshot};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Rows that are taken between two runs.
const SLICE: usize = 1_000;

/// Slices that wait to be written.
const WAITING: usize = 4;

/// After a failure the next try comes after this part of the usual distance.
const RETRY_PART: u64 = 4;

/// Makes checkpoints.
pub struct Checkpointer {
    every_slots: u64,
    every_bytes: u64,
    tables: Vec<RelId>,
    /// Names and numbers of columns.
    about: Vec<(String, u32)>,
    running: Option<Running>,
    /// Slot and bytes of the log when the last one was begun.
    since: (u64, u64),
    metrics: Arc<Metrics>,
}

struct Running {
    /// `None` once all rows were handed over.
    snapshot: Option<Snapshot>,
    pieces: Option<mpsc::Sender<(u32, Vec<Row>)>>,
    /// A slice that found no place.
    slice: Option<(u32, Vec<Row>)>,
    task: JoinHandle<Result<(), Arc<StoreError>>>,
}

impl Checkpointer {
    /// For these tables.
    pub fn new(
        config: &Config,
        program: &Program,
        tables: Vec<RelId>,
        store: &Store,
    ) -> Checkpointer {
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
            running: None,
            since: (store.last_checkpoint, 0),
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

    fn log_bytes(&self) -> u64 {
        self.metrics.log_bytes.load(Ordering::Relaxed)
    }

    /// Begins one if it is time; hands over a slice.
    ///
    /// # Errors
    /// A sync failed.
    pub async fn step(&mut self, node: &Node, store: &Store) -> Result<(), ServerError> {
        if self.running.is_none() {
            let slot = store.log.appended();
            let (since_slot, since_bytes) = self.since;
            let due = slot.saturating_sub(since_slot) >= self.every_slots
                || self.log_bytes().saturating_sub(since_bytes) >= self.every_bytes;
            if slot > since_slot && due {
                self.begin(node, store);
            }
        }
        if self.running.as_ref().is_some_and(|r| r.task.is_finished()) {
            return self.end().await;
        }
        self.hand_over();
        Ok(())
    }

    fn begin(&mut self, node: &Node, store: &Store) {
        let slot = store.log.appended();
        let (sender, pieces) = mpsc::channel(WAITING);
        let writer = store.checkpoint(slot, self.about.clone());
        let task = tokio::spawn(write(writer, store.log.clone(), pieces));
        let snapshot = Some(node.snapshot(&self.tables));
        self.since = (slot, self.log_bytes());
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
            Some(slice) => place.send(slice),
            None => {
                // The end: the task sees that nothing follows.
                running.snapshot = None;
                running.pieces = None;
            }
        }
    }

    async fn end(&mut self) -> Result<(), ServerError> {
        let Some(running) = self.running.take() else {
            return Ok(());
        };
        let outcome = match running.task.await {
            Ok(outcome) => outcome,
            Err(e) => return Err(ServerError::Thread(e.to_string())),
        };
        let Err(e) = outcome else { return Ok(()) };
        Metrics::add(&self.metrics.checkpoints_failed, 1);
        if matches!(*e, StoreError::Sync { .. }) {
            return Err(e.into());
        }
        tracing::warn!("checkpoint given up, the log stays as it is: {e}");
        let (slot, bytes) = self.since;
        let back = |now: u64, every: u64| now.saturating_sub(every - every / RETRY_PART);
        self.since = (back(slot, self.every_slots), back(bytes, self.every_bytes));
        Ok(())
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
    pub async fn at_end(&mut self, node: &Node, store: &Store) -> Result<(), ServerError> {
        // The newer one takes its place.
        self.abandon().await;
        self.begin(node, store);
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
            Ok(outcome) => Ok(outcome?),
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

async fn write(
    mut writer: Writer,
    log: Log,
    mut pieces: mpsc::Receiver<(u32, Vec<Row>)>,
) -> Result<(), Arc<StoreError>> {
    let slot = writer.slot();
    while let Some((table, rows)) = pieces.recv().await {
        if let Err(e) = writer.rows(table, &rows).await {
            writer.abandon().await;
            return Err(e.into());
        }
    }
    // Nothing may stand in a checkpoint that the log could still lose.
    log.wait_durable(slot).await?;
    let digest = writer.finish().await?;
    tracing::info!(
        "checkpoint of slot {slot}: {} rows, digest {:016x}",
        digest.rows,
        digest.sum
    );
    Ok(())
}
