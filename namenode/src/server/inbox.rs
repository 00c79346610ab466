//! What NameNodes say to this one, itself included, on its way to the rules.

use overlog::Row;
use overlog::ir::RelId;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// Rows that arrive together.
pub type Rows = Vec<(RelId, Row)>;

/// Over so many bytes that wait, nothing more is read from other NameNodes.
const SOFT_LIMIT: usize = 64 << 20;

/// Bytes of rows in one run, about.
const RUN_BYTES: usize = 4 << 20;

/// Filled by the readers of other NameNodes and by the log's writer, emptied by the engine.
#[derive(Debug, Default)]
pub struct Inbox {
    waiting: Mutex<Waiting>,
    /// There is something to take.
    work: Notify,
    /// Something was taken.
    freed: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    rows: VecDeque<(usize, Rows)>,
    bytes: usize,
}

/// Bytes that rows take.
pub fn size(rows: &Rows) -> usize {
    rows.iter().map(|(_, row)| row.as_bytes().len() + 32).sum()
}

impl Inbox {
    /// An empty one.
    pub fn new() -> Arc<Inbox> {
        Arc::default()
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds rows of one run of one NameNode; never waits.
    pub fn push(&self, rows: Rows) {
        let bytes = size(&rows);
        let mut waiting = self.lock();
        waiting.bytes += bytes;
        waiting.rows.push_back((bytes, rows));
        drop(waiting);
        self.work.notify_one();
    }

    /// Waits until there is room for more from other NameNodes.
    pub async fn room(&self) {
        loop {
            // Made before looking: it hears of what is taken from now on.
            let freed = self.freed.notified();
            if self.lock().bytes <= SOFT_LIMIT {
                return;
            }
            freed.await;
        }
    }

    /// Takes what one run can take.
    pub fn take(&self) -> Rows {
        let mut waiting = self.lock();
        let (mut all, mut taken) = (Rows::new(), 0);
        while taken < RUN_BYTES
            && let Some((bytes, rows)) = waiting.rows.pop_front()
        {
            taken += bytes;
            all.extend(rows);
        }
        waiting.bytes = waiting.bytes.saturating_sub(taken);
        drop(waiting);
        if taken > 0 {
            self.freed.notify_waiters();
        }
        all
    }

    /// There is something to take.
    pub fn has_work(&self) -> bool {
        !self.lock().rows.is_empty()
    }

    /// Waits until something may be there.
    pub async fn work(&self) {
        self.work.notified().await;
    }
}
