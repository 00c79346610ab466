//! What all replicas of a store share.

use super::journal::{Journal, Record};
use super::layout::Names;
use crate::errno::{self, ENOSPC, Res, fail};
use crate::error::Error;
use crate::link::Reporter;
use crate::metrics::Metrics;
use boomfs_io::{Io, LockGuard, watch};
use boomfs_wire::BlockId;
use std::collections::BTreeSet;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Files kept open between operations.
pub(crate) const MAX_HANDLES: u64 = 512;

/// Locks a mutex; what it guards is whole after every statement, so a panic elsewhere is no harm.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Space: what the disk has, what the configuration allows.
#[derive(Debug, Default)]
pub(crate) struct Room {
    /// Most bytes that replicas may take; 0 is no limit.
    pub limit: u64,
    /// Bytes that must stay free on the disk for the journal and everyone else.
    pub reserve: u64,
    /// Bytes that replicas take, the trash included.
    pub used: AtomicU64,
    /// Capacity of the disk, bytes, when last asked.
    pub capacity: AtomicU64,
    /// Free bytes of the disk, when last asked, less what was taken since.
    pub free: AtomicU64,
}

impl Room {
    /// Capacity and free space to report, bytes.
    pub fn report(&self) -> (u64, u64) {
        let capacity = self.capacity.load(Ordering::Relaxed);
        let free = self
            .free
            .load(Ordering::Relaxed)
            .saturating_sub(self.reserve);
        if self.limit == 0 {
            return (capacity, free);
        }
        let left = self.limit.saturating_sub(self.used.load(Ordering::Relaxed));
        (capacity.min(self.limit), free.min(left))
    }

    /// Takes bytes, or fails with ENOSPC.
    pub fn take(&self, bytes: u64, block: BlockId) -> Res<()> {
        if bytes == 0 {
            return Ok(());
        }
        let (_, free) = self.report();
        if free < bytes {
            let why = format!(
                "block {block}: no space left on this DataNode: {free} bytes free, {bytes} needed"
            );
            return Err(fail(ENOSPC, why));
        }
        self.used.fetch_add(bytes, Ordering::Relaxed);
        let left = self.free.load(Ordering::Relaxed).saturating_sub(bytes);
        self.free.store(left, Ordering::Relaxed);
        Ok(())
    }

    /// Gives bytes back.
    pub fn give(&self, bytes: u64) {
        let left = self.used.load(Ordering::Relaxed).saturating_sub(bytes);
        self.used.store(left, Ordering::Relaxed);
    }
}

/// What all replicas of a store share.
pub(crate) struct Shared {
    pub io: Io,
    pub names: Names,
    pub journal: Journal,
    pub metrics: Arc<Metrics>,
    pub reporter: Arc<Reporter>,
    pub room: Room,
    /// Open handles that are kept.
    pub handles: AtomicU64,
    /// Bytes of chunks that are in the journal and not yet in place.
    pub pending: AtomicU64,
    /// Replicas with something that is not synced or not in place.
    pub dirty: Mutex<BTreeSet<BlockId>>,
    /// Set once: why the DataNode cannot go on.
    pub failure: watch::Sender<Option<Arc<Error>>>,
    tokens: AtomicU64,
    // Held until the last operation has ended, or the store was closed after all that writes had.
    folder: std::sync::Mutex<Option<LockGuard>>,
}

impl Shared {
    #[expect(clippy::too_many_arguments, reason = "called once")]
    pub fn new(
        io: Io,
        names: Names,
        journal: Journal,
        metrics: Arc<Metrics>,
        reporter: Arc<Reporter>,
        room: Room,
        failure: watch::Sender<Option<Arc<Error>>>,
        guard: LockGuard,
    ) -> Shared {
        Shared {
            io,
            names,
            journal,
            metrics,
            reporter,
            room,
            handles: AtomicU64::new(0),
            pending: AtomicU64::new(0),
            dirty: Mutex::new(BTreeSet::new()),
            failure,
            tokens: AtomicU64::new(1),
            folder: std::sync::Mutex::new(Some(guard)),
        }
    }

    /// Lets go of the data folder: another life of this DataNode may open it.
    pub fn release(&self) {
        let mut folder = self
            .folder
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        drop(folder.take());
    }

    /// A number for a pipeline that no other has had since the start.
    pub fn token(&self) -> u64 {
        self.tokens.fetch_add(1, Ordering::Relaxed)
    }

    /// Stops the DataNode, for the first reason given.
    pub fn fail(&self, error: Error) {
        self.failure.change(|now| {
            if now.is_some() {
                return false;
            }
            tracing::error!("{error}");
            *now = Some(Arc::new(error));
            true
        });
    }

    /// Turns an error of the journal into the writer's; one that spoiled it stops the DataNode.
    pub fn journal_failed(&self, block: BlockId, error: &io::Error) -> boomfs_wire::Failure {
        if let Some(reason) = self.journal.failed() {
            self.fail(Error::DiskFailed {
                path: self.names.root().to_path_buf(),
                reason: reason.to_owned(),
            });
        }
        errno::disk("cannot write to the journal", block, error)
    }

    /// Appends one record.
    pub async fn append(&self, record: Record) -> Res<u64> {
        let block = record.block;
        let written = self.journal.append(&[record]).await;
        written.map_err(|e| self.journal_failed(block, &e))
    }

    /// Waits until a record is on disk.
    pub async fn sync_journal(&self, block: BlockId, lsn: u64) -> Res<()> {
        let synced = self.journal.sync(lsn).await;
        synced.map_err(|e| self.journal_failed(block, &e))
    }

    /// Refuses writes on a disk that failed.
    pub fn check(&self) -> Res<()> {
        match self.journal.failed() {
            Some(reason) => Err(fail(
                errno::EIO,
                format!("this DataNode's disk is out of service: {reason}"),
            )),
            None => Ok(()),
        }
    }
}
