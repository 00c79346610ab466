//! What the store does by itself: brings writes to the disk within seconds, cuts the journal,
//! empties the trash.

use super::{Store, parse_trash_name};
use crate::errno::Res;
use crate::store::replica::{Replica, footprint};
use crate::store::shared::lock;
use boomfs_wire::BlockId;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::task::JoinSet;

/// How long a write may stay unsynced before it is brought to the disk; with the second that a
/// round may take and the sync itself it is there within 5 s.
const MAX_UNSYNCED: Duration = Duration::from_secs(2);
/// A journal of more bytes, or older, is cut.
const MAX_JOURNAL: u64 = 64 << 20;
const MAX_JOURNAL_AGE: Duration = Duration::from_secs(60);
/// So is one to which nothing was added for so long: a start has nothing to replay then.
const QUIET: Duration = Duration::from_secs(5);
/// Handles that were not used for so long are closed.
const MAX_IDLE: Duration = Duration::from_secs(10);
/// What is deleted stays in the trash for so long.
pub(crate) const TRASH_MS: i64 = 600_000;
/// Replicas brought to the disk at the same time.
const PARALLEL: usize = 32;

/// Journal files to which nothing is added any more.
pub(crate) struct Old {
    /// Their numbers, ascending.
    pub numbers: Vec<u64>,
    /// The blocks that they speak of.
    pub blocks: BTreeSet<BlockId>,
}

/// A journal cut that has begun.
#[derive(Default)]
pub(crate) struct Pending {
    /// What is to be removed.
    old: Option<Old>,
    /// When the last cut ended, monotonic ns.
    cut_at: u64,
    /// Bytes of the newest file when last looked at, and since when it has had so many,
    /// monotonic ns.
    grown: (u64, u64),
}

impl Pending {
    /// A start has left journals that are to be removed.
    pub fn new(old: Option<Old>) -> Pending {
        Pending {
            old,
            ..Pending::default()
        }
    }

    /// Whether the journal is to be cut, which has so many bytes now.
    fn is_due(&mut self, bytes: u64, now: u64) -> bool {
        if self.grown.0 != bytes {
            self.grown = (bytes, now);
        }
        let quiet = now.saturating_sub(self.grown.1) > ns(QUIET);
        let old = now.saturating_sub(self.cut_at) > ns(MAX_JOURNAL_AGE);
        self.old.is_some() || bytes > MAX_JOURNAL || (bytes > 0 && (quiet || old))
    }
}

fn ns(d: Duration) -> u64 {
    u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)
}

impl Store {
    /// One round of everything but the trash; every second. A cut of the journal goes on behind it:
    /// meanwhile writes still have to reach the disk in time.
    pub async fn tick(self: &Arc<Store>) {
        self.refresh_space().await;
        let now = self.shared.io.mono_ns();
        self.flush_since(now.saturating_sub(ns(MAX_UNSYNCED))).await;
        let bytes = self.shared.journal.bytes();
        // Who holds it is cutting.
        let due = self.flushing.try_lock();
        if due.is_ok_and(|mut pending| pending.is_due(bytes, now)) {
            let store = self.clone();
            tokio::spawn(async move { store.checkpoint_or_warn().await });
        }
        let before = now.saturating_sub(ns(MAX_IDLE));
        if self.shared.handles.load(Ordering::Relaxed) > 0 {
            lock(&self.index)
                .values()
                .for_each(|r| r.close_idle(before));
        }
    }

    /// Asks the disk what is free.
    pub async fn refresh_space(&self) {
        match self.shared.io.space(self.shared.names.root()).await {
            Ok(space) => {
                self.shared
                    .room
                    .capacity
                    .store(space.capacity, Ordering::Relaxed);
                self.shared.room.free.store(space.free, Ordering::Relaxed);
            }
            Err(e) => tracing::warn!(
                "{}: cannot ask for free space: {e}",
                self.shared.names.root().display()
            ),
        }
    }

    /// Brings to the disk what was written before a moment (monotonic ns).
    pub async fn flush_since(&self, before: u64) {
        let blocks: Vec<BlockId> = lock(&self.shared.dirty).iter().copied().collect();
        let mut running = JoinSet::new();
        for block in blocks {
            let replica = self.get(block).ok();
            match replica.as_ref().map(|r| r.dirty_since()) {
                Some(Some(since)) if since > before => continue,
                Some(Some(_)) => {}
                Some(None) | None => {
                    lock(&self.shared.dirty).remove(&block);
                    // A writer may have come in between.
                    if replica.is_some_and(|r| r.dirty_since().is_some()) {
                        lock(&self.shared.dirty).insert(block);
                    }
                    continue;
                }
            }
            if let Some(replica) = replica {
                if running.len() >= PARALLEL {
                    running.join_next().await;
                }
                running.spawn(bring(replica));
            }
        }
        while running.join_next().await.is_some() {}
    }

    async fn checkpoint_or_warn(&self) {
        if let Err(e) = self.checkpoint().await {
            tracing::warn!(
                "{}: the journal could not be cut: {e}",
                self.shared.names.root().display()
            );
        }
    }

    /// Cuts the journal: what it says is brought in place and synced there, then it is removed.
    pub async fn checkpoint(&self) -> Res<()> {
        let mut pending = self.flushing.lock().await;
        if pending.old.is_none() {
            let rotated = self.shared.journal.rotate().await;
            let rotated = rotated.map_err(|e| self.shared.journal_failed(BlockId(0), &e))?;
            pending.old = Some(Old {
                numbers: vec![rotated.0],
                blocks: rotated.1,
            });
        }
        let Some(old) = &pending.old else {
            return Ok(());
        };
        let brought = self.bring_in_place(&old.blocks).await?;
        let folders: BTreeSet<_> = old
            .blocks
            .iter()
            .map(|b| self.shared.names.folder(*b))
            .collect();
        for folder in folders {
            // Names of new replicas, and those that went to the trash. A folder that is not there
            // has no names.
            if self.shared.io.exists(&folder).await {
                let synced = self.shared.io.sync_dir(&folder).await;
                synced.map_err(|e| crate::errno::disk("cannot sync a folder", 0, &e))?;
            }
        }
        brought.iter().for_each(|replica| replica.named());
        for number in &old.numbers {
            if let Err(e) = self.shared.journal.remove(*number).await {
                // It stays as a further journal of which everything is in place: harmless.
                tracing::warn!(
                    "{}: cannot remove: {e}",
                    self.shared.names.journal(*number).display()
                );
            }
        }
        pending.old = None;
        pending.cut_at = self.shared.io.mono_ns();
        Ok(())
    }

    /// Answers the replicas that were written to. Their names may not be on disk yet.
    async fn bring_in_place(&self, blocks: &BTreeSet<BlockId>) -> Res<Vec<Arc<Replica>>> {
        let mut replicas: Vec<Arc<Replica>> = Vec::new();
        let mut last = 0;
        for block in blocks {
            if let Ok(replica) = self.get(*block)
                && let Some(lsn) = replica.checkpoint_record().await?
            {
                replicas.push(replica);
                last = lsn;
            }
        }
        self.shared.sync_journal(BlockId(0), last).await?;
        let mut running = JoinSet::new();
        let mut result = Ok(());
        for replica in &replicas {
            if running.len() >= PARALLEL
                && let Some(Ok(Err(e))) = running.join_next().await
            {
                result = Err(e);
            }
            let replica = replica.clone();
            running.spawn(async move { replica.checkpoint().await });
        }
        while let Some(done) = running.join_next().await {
            match done {
                Ok(Ok(())) => {}
                Ok(Err(e)) => result = Err(e),
                Err(e) => result = Err(crate::errno::fail(crate::errno::EIO, e.to_string())),
            }
        }
        result.map(|()| replicas)
    }

    /// Removes what has been in the trash for long enough.
    pub async fn purge_trash(&self) {
        let folder = self.shared.names.trash();
        let Ok(items) = self.shared.io.read_dir(&folder).await else {
            return;
        };
        let now = self.shared.io.now_ns() / 1_000_000;
        for item in items {
            let Some((ms, bytes)) = parse_trash_name(&item.name) else {
                continue;
            };
            if now.saturating_sub(ms) < TRASH_MS {
                continue;
            }
            match self.shared.io.remove_file(&folder.join(&item.name)).await {
                Ok(()) => self.shared.room.give(bytes.max(footprint(0))),
                Err(e) => tracing::warn!("{}: cannot be removed from the trash: {e}", item.name),
            }
        }
    }

    /// Brings everything to the disk and cuts the journal; for a clean end.
    pub async fn close(&self) {
        self.flush_since(u64::MAX).await;
        let left = self.flushing.lock().await.old.is_some();
        for due in [left, !self.shared.journal.is_idle()] {
            if due && self.shared.journal.failed().is_none() {
                self.checkpoint_or_warn().await;
            }
        }
        self.shared.release();
    }
}

/// Brings one replica to the disk.
async fn bring(replica: Arc<Replica>) {
    let done = async {
        replica.sync().await?;
        replica.settle().await
    };
    if let Err(e) = done.await {
        tracing::warn!("cannot bring a replica to the disk: {e}");
    }
    replica.settled();
}
