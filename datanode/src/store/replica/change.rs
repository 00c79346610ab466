//! What changes a replica's bytes, length or generation.

use super::{Meta, Pending, Replica, image};
use crate::errno::{EEXIST, EFBIG, EINVAL, ESTALE, Res, disk, fail};
use crate::metrics::{add, count};
use crate::store::journal::Image;
use crate::store::layout::{
    CHUNK64, HEADER_LEN, Header, chunk_len, chunk_start, chunks_of, encode_slots,
};
use crate::store::shared::lock;
use boomfs_io::File;
use boomfs_wire::{CHUNK, Generation};
use bytes::{Bytes, BytesMut};
use std::io;
use std::sync::atomic::Ordering;

/// Chunks that wait in memory for their place; beyond this many bytes a writer puts its own in
/// place before it goes on.
const MAX_PENDING: u64 = 64 << 20;

/// A chunk as it will be.
struct Piece {
    chunk: u32,
    data: Bytes,
    crc: u32,
}

/// Where the pieces of a packet end: where chunks of the block end.
pub(crate) fn piece_lengths(offset: u64, len: usize) -> Vec<usize> {
    let mut out = Vec::with_capacity(len / CHUNK + 2);
    let mut at = offset;
    let end = offset.saturating_add(len as u64);
    while at < end {
        let till = (at - at % CHUNK64 + CHUNK64).min(end);
        out.push(usize::try_from(till - at).unwrap_or(CHUNK));
        at = till;
    }
    out
}

/// Whether a packet's bytes match its checksums.
pub(crate) fn packet_matches(offset: u64, data: &[u8], crcs: &[u32]) -> bool {
    let lengths = piece_lengths(offset, data.len());
    let mut rest = data;
    lengths.len() == crcs.len()
        && lengths.iter().zip(crcs).all(|(len, crc)| {
            let Some((piece, behind)) = rest.split_at_checked(*len) else {
                return false;
            };
            rest = behind;
            crc32c::crc32c(piece) == *crc
        })
}

impl Replica {
    /// Fails for a writer whose pipeline was superseded.
    fn may_write(&self, m: &Meta, token: u64) -> Res<()> {
        if m.token != token && !m.deleted {
            count(&self.shared.metrics.fenced);
            if m.bad.is_none() {
                let why = format!(
                    "block {}: this pipeline was superseded, the replica is of generation {} now",
                    self.block, m.generation
                );
                return Err(fail(ESTALE, why));
            }
        }
        self.usable(m)
    }

    /// Writes bytes whose checksums were verified. They are as durable as [`Replica::sync`] makes
    /// them.
    pub async fn write(&self, token: u64, offset: u64, data: Bytes, crcs: &[u32]) -> Res<()> {
        self.shared.check()?;
        {
            let _alone = self.gate.write().await;
            self.write_alone(token, offset, &data, crcs).await?;
        }
        count(&self.shared.metrics.packets);
        add(&self.shared.metrics.bytes_written, data.len() as u64);
        if self.shared.pending.load(Ordering::Relaxed) > MAX_PENDING {
            self.sync().await?;
            self.settle().await?;
        }
        Ok(())
    }

    async fn write_alone(&self, token: u64, offset: u64, data: &Bytes, crcs: &[u32]) -> Res<()> {
        let before = {
            let m = lock(&self.meta);
            self.may_write(&m, token)?;
            m.length
        };
        let end = offset.saturating_add(data.len() as u64);
        if end > self.layout.block_size {
            let why = format!(
                "block {}: bytes up to {end} do not fit into a block of {}",
                self.block, self.layout.block_size
            );
            return Err(fail(EFBIG, why));
        }
        if data.is_empty() {
            return Ok(());
        }
        self.grow(before, end)?;
        let file = self.open_for_change().await?;
        if offset > before {
            self.extend(&file, offset).await?;
        }
        let length = lock(&self.meta).length;
        let pieces = self.pieces(offset, data, crcs, length).await?;
        self.put(&file, pieces, length.max(end)).await
    }

    async fn open_for_change(&self) -> Res<File> {
        let opened = self.file().await;
        opened.map_err(|e| disk("cannot open the replica", self.block, &e))
    }

    fn grow(&self, from: u64, to: u64) -> Res<()> {
        let more = u64::from(chunks_of(to).saturating_sub(chunks_of(from))) * CHUNK64;
        self.shared.room.take(more, self.block)
    }

    /// Cuts a packet into whole chunks, merged with the bytes that stay.
    async fn pieces(
        &self,
        offset: u64,
        data: &Bytes,
        crcs: &[u32],
        length: u64,
    ) -> Res<Vec<Piece>> {
        let mut out = Vec::with_capacity(crcs.len());
        let mut at = 0;
        for (len, crc) in piece_lengths(offset, data.len()).into_iter().zip(crcs) {
            let start = offset + at as u64;
            let chunk = u32::try_from(start / CHUNK64).unwrap_or(u32::MAX);
            let bytes = data.slice(at..at + len);
            at += len;
            let skip = usize::try_from(start % CHUNK64).unwrap_or(0);
            let there = chunk_len(chunk, length);
            if skip == 0 && len >= there {
                let crc = *crc;
                out.push(Piece {
                    chunk,
                    data: bytes,
                    crc,
                });
                continue;
            }
            let (old, _) = self.fetch_verified(chunk, chunk + 1, length).await?;
            let mut merged = BytesMut::from(old.as_slice());
            if merged.len() < skip + len {
                merged.resize(skip + len, 0);
            }
            if let Some(place) = merged.get_mut(skip..skip + len) {
                place.copy_from_slice(&bytes);
            }
            let crc = crc32c::crc32c(&merged);
            let data = merged.freeze();
            out.push(Piece { chunk, data, crc });
        }
        Ok(out)
    }

    /// Puts chunks where they belong: those below the floor into the journal, others in place.
    /// The pieces follow one another; the gate is held.
    async fn put(&self, file: &File, pieces: Vec<Piece>, length: u64) -> Res<()> {
        let (before, floor) = {
            let m = lock(&self.meta);
            (m.length, m.floor)
        };
        let split = pieces.partition_point(|p| p.chunk < floor);
        let (journaled, direct) = pieces.split_at(split);
        if !journaled.is_empty() {
            self.put_journaled(
                journaled,
                direct.first().map_or(length, |p| chunk_start(p.chunk)),
            )
            .await?;
        }
        let fresh = direct.partition_point(|p| p.chunk < chunks_of(before));
        let (existing, fresh) = direct.split_at(fresh);
        // What is new goes first: if the disk is full, nothing that was there has changed.
        if let Err(e) = self.put_run(file, fresh).await {
            let now = lock(&self.meta).length;
            self.shrink_back(file, now).await;
            return Err(disk("cannot write to the replica", self.block, &e));
        }
        if let Err(e) = self.put_run(file, existing).await {
            self.mark_bad(&format!("a chunk could not be written in place: {e}"))
                .await;
            return Err(disk("cannot write to the replica", self.block, &e));
        }
        let mut m = lock(&self.meta);
        m.length = m.length.max(length);
        m.unsynced |= !direct.is_empty();
        self.now_dirty(&mut m);
        Ok(())
    }

    async fn put_journaled(&self, pieces: &[Piece], length: u64) -> Res<()> {
        let mut record = self.record(&lock(&self.meta));
        record.images = pieces.iter().map(|p| image(p.chunk, &p.data)).collect();
        let lsn = self.shared.append(record).await?;
        let mut m = lock(&self.meta);
        for p in pieces {
            let pending = Pending {
                lsn,
                data: p.data.clone(),
                crc: p.crc,
            };
            self.shared
                .pending
                .fetch_add(p.data.len() as u64, Ordering::Relaxed);
            if let Some(old) = m.pending.insert(p.chunk, pending) {
                self.shared
                    .pending
                    .fetch_sub(old.data.len() as u64, Ordering::Relaxed);
            }
        }
        m.lsn = lsn;
        m.length = m.length.max(length);
        self.now_dirty(&mut m);
        Ok(())
    }

    /// Chunks that follow one another: data, then checksums.
    async fn put_run(&self, file: &File, run: &[Piece]) -> io::Result<()> {
        let Some(first) = run.first() else {
            return Ok(());
        };
        let mut data = Vec::with_capacity(run.iter().map(|p| p.data.len()).sum());
        run.iter().for_each(|p| data.extend_from_slice(&p.data));
        let crcs: Vec<u32> = run.iter().map(|p| p.crc).collect();
        file.write_runs(vec![
            (self.layout.chunk_at(first.chunk), data),
            (self.layout.slot_at(first.chunk), encode_slots(&crcs)),
        ])
        .await
    }

    /// After a write beyond the end failed: the file ends where the replica does again.
    async fn shrink_back(&self, file: &File, length: u64) {
        if let Err(e) = file.set_len(self.layout.data_at() + length).await {
            self.mark_bad(&format!(
                "a write failed half-way and could not be undone: {e}"
            ))
            .await;
        }
    }

    fn now_dirty(&self, m: &mut Meta) {
        if m.dirty_since.is_none() {
            m.dirty_since = Some(self.shared.io.mono_ns());
        }
        if !self.is_copy() {
            lock(&self.shared.dirty).insert(self.block);
        }
    }

    /// Fills up with zeros to a length. The gate is held.
    async fn extend(&self, file: &File, to: u64) -> Res<()> {
        let before = lock(&self.meta).length;
        let tail = chunk_len(chunks_of(before).saturating_sub(1), before);
        if before > 0 && tail < CHUNK {
            let chunk = chunks_of(before) - 1;
            let (old, _) = self.fetch_verified(chunk, chunk + 1, before).await?;
            let mut data = BytesMut::from(old.as_slice());
            data.resize(chunk_len(chunk, to), 0);
            let crc = crc32c::crc32c(&data);
            let data = data.freeze();
            let length = chunk_start(chunk) + data.len() as u64;
            self.put(file, vec![Piece { chunk, data, crc }], length)
                .await?;
        }
        let from = lock(&self.meta).length;
        if from >= to {
            return Ok(());
        }
        let zeros = [0; CHUNK];
        let whole = crc32c::crc32c(&zeros);
        let (first, end) = (chunks_of(from), chunks_of(to));
        let last = zeros
            .get(..chunk_len(end - 1, to))
            .map_or(whole, crc32c::crc32c);
        let mut crcs = vec![whole; (end - first) as usize];
        if let Some(slot) = crcs.last_mut() {
            *slot = last;
        }
        let grown = async {
            file.set_len(self.layout.data_at() + to).await?;
            file.write_at(self.layout.slot_at(first), encode_slots(&crcs))
                .await
        };
        if let Err(e) = grown.await {
            self.shrink_back(file, from).await;
            return Err(disk("cannot extend the replica", self.block, &e));
        }
        let mut m = lock(&self.meta);
        m.length = to;
        m.unsynced = true;
        self.now_dirty(&mut m);
        Ok(())
    }

    /// Takes a new pipeline: adopts its generation durably and cuts the replica to the length
    /// that it starts from. Answers the token to write with.
    pub async fn adopt(
        &self,
        generation: Generation,
        existing: Option<(Generation, u64)>,
        block_size: u64,
    ) -> Res<u64> {
        self.shared.check()?;
        let _turn = self.syncing.lock().await;
        let _alone = self.gate.write().await;
        let (wanted, length, token) = {
            let mut m = lock(&self.meta);
            let wanted = self.admits(&m, generation, existing, block_size)?;
            // From here on the pipeline of before is fenced, whatever becomes of this one.
            m.token = self.shared.token();
            (wanted, m.length, m.token)
        };
        if wanted < length {
            self.cut(generation, wanted).await?;
        } else {
            self.raise(generation).await?;
        }
        Ok(token)
    }

    /// The length that a new pipeline starts from, or why it must not.
    fn admits(
        &self,
        m: &Meta,
        generation: Generation,
        existing: Option<(Generation, u64)>,
        block_size: u64,
    ) -> Res<u64> {
        self.usable(m)?;
        let block = self.block;
        if block_size != self.layout.block_size {
            let why = format!(
                "block {block}: its replica has block size {}, the pipeline {block_size}",
                self.layout.block_size
            );
            return Err(fail(EINVAL, why));
        }
        if generation < m.generation {
            let why = format!(
                "block {block}: generation {generation} is below {}, the one adopted here",
                m.generation
            );
            return Err(fail(ESTALE, why));
        }
        match existing {
            None if generation > m.generation => Ok(0),
            None if m.length == 0 => Ok(0),
            None => {
                let why = format!(
                    "block {block}: exists already with generation {generation} and {} bytes",
                    m.length
                );
                Err(fail(EEXIST, why))
            }
            Some((least, _)) if m.generation < least => {
                let why = format!(
                    "block {block}: the replica here is stale: generation {}, needs {least}",
                    m.generation
                );
                Err(fail(ESTALE, why))
            }
            Some((_, length)) if length > block_size => Err(fail(
                EINVAL,
                format!("block {block}: {length} bytes do not fit into a block of {block_size}"),
            )),
            // What a crash took cannot be made up for: zeros in its place would pass for data.
            Some((_, length)) if length > m.length => {
                let why = format!(
                    "block {block}: the replica here lost bytes: it has {} of {length}",
                    m.length
                );
                Err(fail(ESTALE, why))
            }
            Some((_, length)) => Ok(length),
        }
    }

    /// Adopts a generation: in the journal, on disk.
    async fn raise(&self, generation: Generation) -> Res<()> {
        let record = {
            let m = lock(&self.meta);
            if m.generation == generation {
                return Ok(());
            }
            let mut record = self.record(&m);
            record.generation = generation;
            record
        };
        let lsn = self.shared.append(record).await?;
        self.shared.sync_journal(self.block, lsn).await?;
        let mut m = lock(&self.meta);
        m.generation = generation;
        m.lsn = lsn;
        Ok(())
    }

    /// Ends the replica earlier, under a new generation. First in the journal, then in place and
    /// synced there: chunks appended behind the new end must find nothing of before.
    async fn cut(&self, generation: Generation, length: u64) -> Res<()> {
        let before = lock(&self.meta).length;
        let mut images = Vec::new();
        let last = chunks_of(length).saturating_sub(1);
        let left = chunk_len(last, length);
        if left > 0 && left < CHUNK {
            let (mut data, _) = self.fetch_verified(last, last + 1, before).await?;
            data.truncate(left);
            images.push(Image {
                chunk: last,
                data: data.into(),
            });
        }
        let file = self.open_for_change().await?;
        let mut record = self.record(&lock(&self.meta));
        record.generation = generation;
        record.synced = record.synced.min(length);
        record.cut = Some(length);
        record.images = images.clone();
        let lsn = self.shared.append(record).await?;
        self.shared.sync_journal(self.block, lsn).await?;
        let header = {
            let mut m = lock(&self.meta);
            m.generation = generation;
            m.lsn = lsn;
            m.length = length;
            m.logged = m.logged.min(length);
            m.synced = m.synced.min(length);
            let gone = m.pending.split_off(&chunks_of(length));
            for i in &images {
                let crc = crc32c::crc32c(&i.data);
                let data = i.data.clone();
                self.shared
                    .pending
                    .fetch_add(data.len() as u64, Ordering::Relaxed);
                if let Some(old) = m.pending.insert(i.chunk, Pending { lsn, data, crc }) {
                    self.shared
                        .pending
                        .fetch_sub(old.data.len() as u64, Ordering::Relaxed);
                }
            }
            let bytes: usize = gone.values().map(|p| p.data.len()).sum();
            self.shared
                .pending
                .fetch_sub(bytes as u64, Ordering::Relaxed);
            self.header_of(&m)
        };
        if let Err(e) = self.cut_in_place(&file, header, before, length).await {
            self.mark_bad(&format!("it could not be cut to {length} bytes: {e}"))
                .await;
            return Err(disk("cannot cut the replica", self.block, &e));
        }
        let freed = u64::from(chunks_of(before) - chunks_of(length)) * CHUNK64;
        self.shared.room.give(freed);
        let record = {
            let mut m = lock(&self.meta);
            m.synced = length;
            m.logged = length;
            m.floor = chunks_of(length);
            m.header = Some(header);
            m.unsynced = false;
            let mut record = self.record(&m);
            record.applied = true;
            record
        };
        // Before anything is appended in place, so that a start does not cut it off again.
        let lsn = self.shared.append(record).await?;
        lock(&self.meta).lsn = lsn;
        Ok(())
    }

    async fn cut_in_place(
        &self,
        file: &File,
        header: Header,
        before: u64,
        length: u64,
    ) -> io::Result<()> {
        self.settle_alone(file).await?;
        file.set_len(self.layout.data_at() + length).await?;
        let (first, end) = (chunks_of(length), chunks_of(before));
        if first < end {
            let zeros = vec![0; 4 * (end - first) as usize];
            file.write_at(self.layout.slot_at(first), zeros).await?;
        }
        file.write_at(0, header.encode()).await?;
        self.sync_file(file).await
    }

    /// The header that says what is on disk.
    pub(super) fn header_of(&self, m: &Meta) -> Header {
        Header {
            block: self.block,
            generation: m.generation,
            block_size: self.layout.block_size,
            synced: m.synced,
            bad: m.bad.is_some(),
        }
    }

    /// Writes the header of a file that was just made.
    pub async fn write_first_header(&self, file: &File) -> io::Result<()> {
        let header = self.header_of(&lock(&self.meta)).encode();
        debug_assert_eq!(header.len(), HEADER_LEN);
        file.write_at(0, header).await?;
        // The file is as long as the data's start: its length says how long the replica is.
        file.set_len(self.layout.data_at()).await
    }
}
