//! What brings a replica to the disk.

use super::{Replica, image};
use crate::errno::{Res, disk};
use crate::metrics::count;
use crate::store::layout::{chunk_start, chunks_of, encode_slots};
use crate::store::shared::lock;
use boomfs_io::File;
use bytes::Bytes;
use std::io;
use std::sync::atomic::Ordering;

/// Up to this many chunks that are not synced go into the journal at a sync, which serves many
/// replicas with one sync; beyond, the file is synced itself.
const MAX_JOURNALED: u32 = 16;

impl Replica {
    /// Returns when all that was written before is on disk, here or in the journal.
    pub async fn sync(&self) -> Res<()> {
        let _turn = self.syncing.lock().await;
        self.sync_in_turn().await
    }

    /// The same, where `syncing` is held.
    async fn sync_in_turn(&self) -> Res<()> {
        if self.is_copy() {
            // Nobody may rely on a copy before it is finished, and then all of it is synced.
            return Ok(());
        }
        let alone = self.gate.write().await;
        let (length, floor, last, done) = {
            let m = lock(&self.meta);
            self.usable(&m)?;
            (m.length, m.floor, m.lsn, m.logged == m.length)
        };
        let end = chunks_of(length);
        let fresh = end.saturating_sub(floor);
        let lsn = if fresh > MAX_JOURNALED {
            lock(&self.meta).floor = end;
            drop(alone);
            self.sync_to_disk().await?;
            let _alone = self.gate.write().await;
            self.log_synced(length, Vec::new()).await?
        } else if fresh > 0 {
            let (data, _) = self.fetch_verified(floor, end, length).await?;
            let data = Bytes::from(data);
            let lsn = self
                .log_synced(length, self.cut_up(floor, end, length, &data))
                .await?;
            lock(&self.meta).floor = end;
            drop(alone);
            lsn
        } else if done {
            drop(alone);
            last
        } else {
            let lsn = self.log_synced(length, Vec::new()).await?;
            drop(alone);
            lsn
        };
        self.shared.sync_journal(self.block, lsn).await?;
        let mut m = lock(&self.meta);
        m.synced = m.synced.max(length);
        if m.length == length && m.pending.is_empty() && m.lsn <= lsn {
            m.dirty_since = None;
        }
        Ok(())
    }

    fn cut_up(
        &self,
        first: u32,
        end: u32,
        length: u64,
        data: &Bytes,
    ) -> Vec<crate::store::journal::Image> {
        let base = chunk_start(first);
        (first..end)
            .map(|chunk| {
                let from = usize::try_from(chunk_start(chunk) - base).unwrap_or(0);
                let len = self
                    .expected_len(chunk, length)
                    .min(data.len().saturating_sub(from));
                image(chunk, &data.slice(from..from + len))
            })
            .collect()
    }

    /// Says in the journal that everything up to a length is on disk as soon as the record is.
    async fn log_synced(&self, length: u64, images: Vec<crate::store::journal::Image>) -> Res<u64> {
        let mut record = self.record(&lock(&self.meta));
        record.synced = length;
        record.images = images;
        let lsn = self.shared.append(record).await?;
        let mut m = lock(&self.meta);
        m.logged = length;
        m.lsn = lsn;
        Ok(lsn)
    }

    /// Syncs the file and its name.
    async fn sync_to_disk(&self) -> Res<()> {
        let synced = async {
            let file = self.file().await?;
            lock(&self.meta).unsynced = false;
            self.sync_file(&file).await
        };
        if let Err(e) = synced.await {
            // The kernel may have dropped what it could not write: what is there is not known.
            self.mark_bad(&format!("a sync of its file failed: {e}"))
                .await;
            return Err(disk("cannot sync the replica", self.block, &e));
        }
        Ok(())
    }

    pub(super) async fn sync_file(&self, file: &File) -> io::Result<()> {
        count(&self.shared.metrics.replica_syncs);
        file.sync_data().await?;
        if !lock(&self.meta).named {
            let path = self.path();
            if let Some(folder) = path.parent() {
                self.shared.io.sync_dir(folder).await?;
            }
            lock(&self.meta).named = true;
        }
        Ok(())
    }

    /// Puts in place what the journal has on disk.
    pub async fn settle(&self) -> Res<()> {
        if lock(&self.meta).pending.is_empty() {
            return Ok(());
        }
        let _alone = self.gate.write().await;
        let settled = async {
            let file = self.file().await?;
            self.settle_alone(&file).await
        };
        settled
            .await
            .map_err(|e| disk("cannot write in place", self.block, &e))
    }

    /// The same, where the gate is held. After an error the chunks stay in the journal.
    pub(super) async fn settle_alone(&self, file: &File) -> io::Result<()> {
        let durable = self.shared.journal.durable();
        loop {
            let (first, crcs, data, lsns) = {
                let m = lock(&self.meta);
                let mut ready = m
                    .pending
                    .iter()
                    .filter(|(_, p)| p.lsn <= durable)
                    .peekable();
                let Some((first, _)) = ready.peek().copied() else {
                    return Ok(());
                };
                let mut crcs = Vec::new();
                let mut data = Vec::new();
                let mut lsns = Vec::new();
                for ((chunk, p), expected) in ready.zip(*first..).take(256) {
                    if *chunk != expected {
                        break;
                    }
                    crcs.push(p.crc);
                    data.extend_from_slice(&p.data);
                    lsns.push((*chunk, p.data.len()));
                }
                (*first, crcs, data, lsns)
            };
            lock(&self.meta).unsynced = true;
            file.write_runs(vec![
                (self.layout.chunk_at(first), data),
                (self.layout.slot_at(first), encode_slots(&crcs)),
            ])
            .await?;
            let mut m = lock(&self.meta);
            // A sync of the file that began before the write does not have it.
            m.unsynced = true;
            for (chunk, len) in lsns {
                m.pending.remove(&chunk);
                self.shared.pending.fetch_sub(len as u64, Ordering::Relaxed);
            }
        }
    }

    /// When the first thing that is not on disk was written; `None` if there is nothing to do.
    pub fn dirty_since(&self) -> Option<u64> {
        let m = lock(&self.meta);
        if m.deleted || m.bad.is_some() {
            return None;
        }
        m.dirty_since
    }

    /// First half of a checkpoint: writes a record into the newest journal file from which the
    /// header can be made again if its write is torn, and answers its number. `None` if all is in
    /// place already.
    pub async fn checkpoint_record(&self) -> Res<Option<u64>> {
        // Who has a record in an older journal has also noted it here when both are free; and
        // nobody can write a later state before this one, which would undo it at a start.
        let _turn = self.syncing.lock().await;
        let _alone = self.gate.write().await;
        let record = {
            let m = lock(&self.meta);
            let in_place = m.header == Some(self.header_of(&m)) && !m.unsynced && m.named;
            if m.deleted || (in_place && m.pending.is_empty()) {
                return Ok(None);
            }
            self.record(&m)
        };
        let lsn = self.shared.append(record).await?;
        let mut m = lock(&self.meta);
        m.lsn = lsn;
        Ok(Some(lsn))
    }

    /// Second half: everything that older journal files say is in place and synced afterwards. The
    /// name is left to whoever does this to many replicas of few folders.
    pub async fn checkpoint(&self) -> Res<()> {
        let _turn = self.syncing.lock().await;
        let bad = {
            let m = lock(&self.meta);
            if m.deleted {
                return Ok(());
            }
            m.bad.is_some()
        };
        let brought = async {
            let alone = self.gate.write().await;
            let file = self.file().await?;
            if !bad {
                self.settle_alone(&file).await?;
            }
            let header = {
                let mut m = lock(&self.meta);
                m.unsynced = false;
                self.header_of(&m)
            };
            file.write_at(0, header.encode()).await?;
            drop(alone);
            Ok::<_, io::Error>((file, header))
        };
        let (file, header) = brought
            .await
            .map_err(|e| disk("cannot write in place", self.block, &e))?;
        count(&self.shared.metrics.replica_syncs);
        if let Err(e) = file.sync_data().await {
            self.mark_bad(&format!("a sync of its file failed: {e}"))
                .await;
            return Ok(());
        }
        lock(&self.meta).header = Some(header);
        Ok(())
    }

    /// The folder was synced after the file was made.
    pub fn named(&self) {
        lock(&self.meta).named = true;
    }
}

impl Replica {
    /// Notes after a flush whether there is something to do again.
    pub fn settled(&self) {
        let durable = self.shared.journal.durable();
        let mut m = lock(&self.meta);
        let clean = m.pending.is_empty()
            && m.synced >= m.length
            && m.floor >= chunks_of(m.length)
            && m.lsn <= durable;
        m.dirty_since = (!clean).then(|| self.shared.io.mono_ns());
    }

    /// Ends a copy: everything is synced, the header last in the same sync, for a copy that a
    /// crash interrupts is thrown away. Answers the header.
    pub async fn finish(&self) -> Res<crate::store::layout::Header> {
        let _turn = self.syncing.lock().await;
        let _alone = self.gate.write().await;
        let header = {
            let mut m = lock(&self.meta);
            self.usable(&m)?;
            m.synced = m.length;
            m.token = self.shared.token();
            self.header_of(&m)
        };
        let synced = async {
            let file = self.file().await?;
            file.write_at(0, header.encode()).await?;
            file.sync_data().await
        };
        synced
            .await
            .map_err(|e| disk("cannot sync a copy", self.block, &e))?;
        Ok(header)
    }

    /// Where the file of an unfinished copy is.
    pub fn copy_path(&self) -> Option<std::path::PathBuf> {
        match &self.place {
            super::Place::Copy(path) => Some(path.clone()),
            super::Place::Home => None,
        }
    }

    /// The file has become another replica's.
    pub fn moved(&self) {
        let mut m = lock(&self.meta);
        m.deleted = true;
        m.token = self.shared.token();
    }
}
