//! One replica: a file of checksummed chunks, with chunks that wait in the journal above it.
//!
//! Two locks order what happens. `gate` orders reads and writes of chunks: readers share it.
//! `syncing`, taken before `gate`, lets one sync, checkpoint, cut or deletion happen at a time.
//!
//! **Invariant:** chunks below `floor` are on disk, on their way there by a sync that has begun, or
//! in the journal; they are never changed in place before the journal has the change on disk.
//! Chunks from `floor` on were never promised to anyone: after a crash they may be gone.

mod change;

mod sync;

pub(crate) use change::packet_matches;
#[cfg(test)]
pub(crate) use change::piece_lengths;

use super::journal::{Image, Record};
use super::layout::{CHUNK64, Header, Layout, chunk_len, chunk_start, chunks_of, decode_slots};
use super::shared::{MAX_HANDLES, Shared, lock};
use crate::errno::{EIO, ENOENT, ESTALE, Res, disk, fail};
use crate::metrics::{add, count};
use boomfs_io::{File, Open};
use boomfs_wire::{BlockId, CHUNK, Generation, ReplicaInfo};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use tokio::sync::RwLock;

/// A chunk that is in the journal and not yet in place.
#[derive(Clone)]
struct Pending {
    lsn: u64,
    data: Bytes,
    crc: u32,
}

/// Where a replica's file is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Among the others.
    Home,
    /// A copy on its way here; nobody but its pipeline knows it.
    Copy(PathBuf),
}

struct Meta {
    generation: Generation,
    /// Length as readers see it, bytes.
    length: u64,
    /// Every byte below is on disk, in place or in the journal.
    synced: u64,
    /// As the last record in the journal says; ahead of `synced` while that record is not on disk.
    logged: u64,
    /// See the module's invariant.
    floor: u32,
    pending: BTreeMap<u32, Pending>,
    /// Something was written in place since the last sync of the file.
    unsynced: bool,
    /// When the first thing that is not on disk was written, monotonic ns.
    dirty_since: Option<u64>,
    /// The last record of this replica in the journal.
    lsn: u64,
    /// The header that is on disk.
    header: Option<Header>,
    /// The file's name is on disk.
    named: bool,
    /// Why it is never served again.
    bad: Option<String>,
    deleted: bool,
    /// The pipeline that may write.
    token: u64,
    file: Option<File>,
    used_at: u64,
}

/// One replica.
pub(crate) struct Replica {
    pub block: BlockId,
    pub layout: Layout,
    place: Place,
    shared: Arc<Shared>,
    gate: RwLock<()>,
    syncing: tokio::sync::Mutex<()>,
    meta: Mutex<Meta>,
}

/// Whole chunks of a replica.
pub(crate) struct Chunks {
    /// Where they start in the block, bytes.
    pub start: u64,
    /// Their bytes.
    pub data: Vec<u8>,
    /// CRC-32C of each.
    pub crcs: Vec<u32>,
    /// Length of the replica, bytes.
    pub length: u64,
}

/// A chunk whose bytes do not match its checksum.
fn first_mismatch(first: u32, data: &[u8], crcs: &[u32]) -> Option<u32> {
    let wrong = data
        .chunks(CHUNK)
        .zip(crcs)
        .position(|(bytes, crc)| crc32c::crc32c(bytes) != *crc)?;
    Some(first + u32::try_from(wrong).unwrap_or(0))
}

impl Replica {
    /// A replica that was found on disk, all of it synced, or one that is new (`header` `None`).
    pub fn new(
        shared: &Arc<Shared>,
        place: Place,
        found: Header,
        length: u64,
        new: bool,
    ) -> Option<Replica> {
        let token = shared.token();
        Some(Replica {
            block: found.block,
            layout: Layout::new(found.block_size)?,
            place,
            shared: shared.clone(),
            gate: RwLock::new(()),
            syncing: tokio::sync::Mutex::new(()),
            meta: Mutex::new(Meta {
                generation: found.generation,
                length,
                synced: length,
                logged: length,
                floor: chunks_of(length),
                pending: BTreeMap::new(),
                unsynced: new,
                dirty_since: None,
                lsn: 0,
                header: (!new).then_some(found),
                named: !new,
                bad: found
                    .bad
                    .then(|| "marked when it was found corrupt".to_owned()),
                deleted: false,
                token,
                file: None,
                used_at: 0,
            }),
        })
    }

    /// As it is reported; `None` for one that is not served.
    pub fn info(&self) -> Option<ReplicaInfo> {
        let m = lock(&self.meta);
        (m.bad.is_none() && !m.deleted).then_some(ReplicaInfo {
            block: self.block,
            generation: m.generation,
            length: m.length,
        })
    }

    /// The generation adopted.
    pub fn generation(&self) -> Generation {
        lock(&self.meta).generation
    }

    /// Whether a copy of this generation and length has nothing that this replica lacks. One that
    /// lost bytes in a crash keeps its generation and is shorter.
    pub fn is_as_good(&self, generation: Generation, length: u64) -> bool {
        let m = lock(&self.meta);
        (m.generation, m.length) >= (generation, length)
    }

    /// Why it is not served, if so.
    pub fn bad(&self) -> Option<String> {
        lock(&self.meta).bad.clone()
    }

    /// Bytes that it takes on disk, about.
    pub fn footprint(&self) -> u64 {
        footprint(lock(&self.meta).length)
    }

    fn path(&self) -> PathBuf {
        match &self.place {
            Place::Home => self.shared.names.replica(self.block),
            Place::Copy(path) => path.clone(),
        }
    }

    fn is_copy(&self) -> bool {
        self.place != Place::Home
    }

    /// The open file; kept open for the next operation unless too many are.
    async fn file(&self) -> io::Result<File> {
        let now = self.shared.io.mono_ns();
        {
            let mut m = lock(&self.meta);
            m.used_at = now;
            if let Some(file) = &m.file {
                return Ok(file.clone());
            }
        }
        let how = Open {
            read: true,
            write: true,
            ..Open::default()
        };
        let file = self.shared.io.open(&self.path(), how).await?;
        self.keep(&file);
        Ok(file)
    }

    /// Keeps a handle for the next operation.
    pub fn keep(&self, file: &File) {
        let mut m = lock(&self.meta);
        if m.file.is_none() && self.shared.handles.load(Ordering::Relaxed) < MAX_HANDLES {
            self.shared.handles.fetch_add(1, Ordering::Relaxed);
            m.file = Some(file.clone());
        }
    }

    /// Closes the kept handle if it was not used since `before` (monotonic ns).
    pub fn close_idle(&self, before: u64) {
        let mut m = lock(&self.meta);
        if m.used_at < before && m.file.take().is_some() {
            self.shared.handles.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// A record of the state as it stands.
    fn record(&self, m: &Meta) -> Record {
        Record {
            block: self.block,
            generation: m.generation,
            block_size: self.layout.block_size,
            synced: m.logged,
            bad: m.bad.is_some(),
            ..Record::default()
        }
    }

    /// Fails for a replica that must not be used.
    fn usable(&self, m: &Meta) -> Res<()> {
        if m.deleted {
            return Err(fail(
                ENOENT,
                format!("block {}: no replica here, it was deleted", self.block),
            ));
        }
        if let Some(reason) = &m.bad {
            return Err(fail(
                EIO,
                format!("block {}: the replica here is bad: {reason}", self.block),
            ));
        }
        Ok(())
    }

    /// Marks the replica: it is reported gone and never served again, but its file is kept.
    pub async fn mark_bad(&self, reason: &str) {
        let record = {
            let mut m = lock(&self.meta);
            if m.bad.is_some() || m.deleted {
                return;
            }
            m.bad = Some(reason.to_owned());
            m.token = self.shared.token();
            self.record(&m)
        };
        tracing::error!("block {}: replica marked bad: {reason}", self.block);
        count(&self.shared.metrics.bad_replicas);
        if self.is_copy() {
            return;
        }
        self.shared.reporter.gone(self.block);
        if let Ok(lsn) = self.shared.journal.append(&[record]).await {
            lock(&self.meta).lsn = lsn;
            lock(&self.shared.dirty).insert(self.block);
        }
    }

    /// Reads chunks `first..end` as they are, not verified. The gate is held.
    async fn fetch(
        &self,
        file: &File,
        first: u32,
        end: u32,
        length: u64,
    ) -> io::Result<(Vec<u8>, Vec<u32>)> {
        let wanted = chunk_start(end)
            .min(length)
            .saturating_sub(chunk_start(first));
        let wanted = usize::try_from(wanted).map_err(io::Error::other)?;
        let count = end.saturating_sub(first);
        let mut data = file.read_at(self.layout.chunk_at(first), wanted).await?;
        data.resize(wanted, 0);
        let slots = file
            .read_at(self.layout.slot_at(first), 4 * count as usize)
            .await?;
        let mut crcs = decode_slots(&slots, count);
        for (chunk, pending) in lock(&self.meta).pending.range(first..end) {
            let at = (chunk - first) as usize;
            if let Some(crc) = crcs.get_mut(at) {
                *crc = pending.crc;
            }
            let from = at * CHUNK;
            if let Some(place) = data.get_mut(from..from + pending.data.len()) {
                place.copy_from_slice(&pending.data);
            }
        }
        Ok((data, crcs))
    }

    /// Reads chunks and verifies them; a mismatch is looked at twice, then the replica is bad.
    /// The gate is held.
    async fn fetch_verified(&self, first: u32, end: u32, length: u64) -> Res<(Vec<u8>, Vec<u32>)> {
        let failed = |e: io::Error| disk("cannot read the replica", self.block, &e);
        let file = self.file().await.map_err(failed)?;
        let (data, crcs) = self
            .fetch(&file, first, end, length)
            .await
            .map_err(failed)?;
        if first_mismatch(first, &data, &crcs).is_none() {
            return Ok((data, crcs));
        }
        let (data, crcs) = self
            .fetch(&file, first, end, length)
            .await
            .map_err(failed)?;
        let Some(chunk) = first_mismatch(first, &data, &crcs) else {
            return Ok((data, crcs));
        };
        let reason = format!(
            "the chunk at byte {} does not match its checksum",
            chunk_start(chunk)
        );
        self.mark_bad(&reason).await;
        Err(fail(
            EIO,
            format!("block {}: the replica here is bad: {reason}", self.block),
        ))
    }

    /// Whole chunks that cover a range, verified.
    pub async fn read(&self, generation: Generation, offset: u64, length: u64) -> Res<Chunks> {
        let _shared = self.gate.read().await;
        let now = {
            let m = lock(&self.meta);
            self.usable(&m)?;
            if m.generation < generation {
                let why = format!(
                    "block {}: the replica here is stale: generation {}, asked for {generation}",
                    self.block, m.generation
                );
                return Err(fail(ESTALE, why));
            }
            m.length
        };
        let end = offset.saturating_add(length).min(now);
        let first = u32::try_from(offset / CHUNK64).unwrap_or(u32::MAX);
        if offset >= end {
            return Ok(Chunks {
                start: offset - offset % CHUNK64,
                data: Vec::new(),
                crcs: Vec::new(),
                length: now,
            });
        }
        let (data, crcs) = self.fetch_verified(first, chunks_of(end), now).await?;
        count(&self.shared.metrics.reads);
        add(&self.shared.metrics.bytes_read, data.len() as u64);
        Ok(Chunks {
            start: chunk_start(first),
            data,
            crcs,
            length: now,
        })
    }

    /// Reads everything; what does not match makes the replica bad.
    pub async fn verify(&self) -> Res<()> {
        const STEP: u32 = 256;
        let mut first = 0;
        loop {
            let _shared = self.gate.read().await;
            let length = {
                let m = lock(&self.meta);
                self.usable(&m)?;
                m.length
            };
            let end = chunks_of(length).min(first + STEP);
            if first >= end {
                return Ok(());
            }
            self.fetch_verified(first, end, length).await?;
            first = end;
        }
    }

    /// Takes the replica out of use, for its file is about to move away. Answers the record that
    /// says so.
    pub async fn retire(&self) -> Option<Record> {
        let _turn = self.syncing.lock().await;
        let _alone = self.gate.write().await;
        let mut m = lock(&self.meta);
        if m.deleted {
            return None;
        }
        m.deleted = true;
        m.token = self.shared.token();
        let bytes: usize = m.pending.values().map(|p| p.data.len()).sum();
        m.pending.clear();
        self.shared
            .pending
            .fetch_sub(bytes as u64, Ordering::Relaxed);
        if m.file.take().is_some() {
            self.shared.handles.fetch_sub(1, Ordering::Relaxed);
        }
        let mut record = self.record(&m);
        record.deleted = true;
        Some(record)
    }

    fn expected_len(&self, chunk: u32, length: u64) -> usize {
        chunk_len(chunk, length)
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        if lock(&self.meta).file.take().is_some() {
            self.shared.handles.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// Bytes that a replica of this length takes on disk, about: its chunks and a page of header.
pub(crate) fn footprint(length: u64) -> u64 {
    length.next_multiple_of(CHUNK64) + CHUNK64
}

fn image(chunk: u32, data: &Bytes) -> Image {
    Image {
        chunk,
        data: data.clone(),
    }
}
