//! The journal: what changes an existing chunk, a generation or a replica's place is here, synced,
//! before it is changed in place. One sync serves all who wait.
//!
//! There is one journal file, and two while the older one is being made superfluous: new records
//! go to the newer, what the older says is synced in place, then the older is removed.

mod record;

pub(crate) use record::{Contents, Image, JOURNAL_VERSION, ParsedJournal, Record, parse};

use super::layout::Names;
use crate::error::Error;
use crate::metrics::{Metrics, add, count};
use boomfs_io::{File, Io, Open};
use boomfs_wire::BlockId;
use std::collections::BTreeSet;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use tokio::sync::Mutex;

/// Space is taken in steps of this, ahead of the records, so that a full disk is noticed before a
/// record is half-written.
const STEP: u64 = 1 << 20;
/// Record numbers left out at each start.
const SKIPPED: u64 = 1 << 20;
const PAGE: u64 = 4096;

/// Where the next record goes.
struct Writer {
    file: File,
    number: u64,
    offset: u64,
    allocated: u64,
    next_lsn: u64,
    /// The last record that was written.
    last: u64,
    /// Blocks that records of this file speak of.
    touched: BTreeSet<BlockId>,
}

/// The journal, open for writing.
pub(crate) struct Journal {
    io: Io,
    names: Names,
    metrics: Arc<Metrics>,
    writer: Mutex<Writer>,
    syncing: Mutex<()>,
    durable: AtomicU64,
    bytes: AtomicU64,
    failed: OnceLock<String>,
}

async fn create(
    io: &Io,
    names: &Names,
    number: u64,
    first_lsn: u64,
    last: u64,
) -> io::Result<File> {
    let path = names.journal(number);
    let file = io.open(&path, Open::create_new()).await?;
    let made = async {
        file.write_at(0, record::file_header(number, first_lsn, last))
            .await?;
        file.sync_data().await?;
        io.sync_dir(names.root()).await
    };
    if let Err(e) = made.await {
        // Without its header synced it would be taken for an empty one; the name is free again.
        let _ = io.remove_file(&path).await;
        return Err(e);
    }
    Ok(file)
}

impl Journal {
    /// Makes journal file `number`; all records before `next_lsn` are in those before it.
    pub async fn create(
        io: &Io,
        names: &Names,
        metrics: &Arc<Metrics>,
        number: u64,
        next_lsn: u64,
    ) -> Result<Journal, Error> {
        // Numbers that a torn tail may have used are not used again.
        let first_lsn = next_lsn.saturating_add(SKIPPED);
        let file = create(io, names, number, first_lsn, next_lsn.saturating_sub(1))
            .await
            .map_err(Error::io("cannot make the journal", &names.journal(number)))?;
        let start = record::FILE_HEADER as u64;
        Ok(Journal {
            io: io.clone(),
            names: names.clone(),
            metrics: metrics.clone(),
            writer: Mutex::new(Writer {
                file,
                number,
                offset: start,
                allocated: start,
                next_lsn: first_lsn,
                last: first_lsn.saturating_sub(1),
                touched: BTreeSet::new(),
            }),
            syncing: Mutex::new(()),
            durable: AtomicU64::new(first_lsn.saturating_sub(1)),
            bytes: AtomicU64::new(0),
            failed: OnceLock::new(),
        })
    }

    /// Why nothing can be written any more, if so.
    pub fn failed(&self) -> Option<&str> {
        self.failed.get().map(String::as_str)
    }

    fn check(&self) -> io::Result<()> {
        match self.failed.get() {
            Some(reason) => Err(io::Error::other(reason.clone())),
            None => Ok(()),
        }
    }

    fn fail(&self, what: &str, error: io::Error) -> io::Error {
        let _ = self.failed.set(format!("{what}: {error}"));
        error
    }

    /// Bytes of records in the newest file.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Nothing was written to the newest file.
    pub fn is_idle(&self) -> bool {
        self.bytes() == 0
    }

    /// All records up to this number are on disk.
    pub fn durable(&self) -> u64 {
        self.durable.load(Ordering::Acquire)
    }

    /// Writes records, in this order, and answers the number of the last. They are not on disk
    /// before [`Journal::sync`]. An error leaves nothing behind; with ENOSPC the journal goes on.
    pub async fn append(&self, records: &[Record]) -> io::Result<u64> {
        let mut w = self.writer.lock().await;
        self.check()?;
        let durable = self.durable();
        let mut bytes = Vec::new();
        let mut lsn = w.next_lsn;
        for record in records {
            record.encode(lsn, durable, &mut bytes);
            lsn += 1;
        }
        let end = w.offset + bytes.len() as u64;
        if end > w.allocated {
            let step = self
                .allocate(&w.file, w.allocated, end - w.allocated)
                .await?;
            w.allocated += step;
        }
        // Numbers are used once even when the write fails: what it left cannot be mistaken.
        w.next_lsn = lsn;
        let len = bytes.len() as u64;
        if let Err(e) = w.file.write_at(w.offset, bytes).await {
            if e.kind() == io::ErrorKind::StorageFull {
                return Err(e);
            }
            return Err(self.fail("a write to the journal failed", e));
        }
        w.offset = end;
        w.last = lsn - 1;
        w.touched.extend(records.iter().map(|r| r.block));
        self.bytes.fetch_add(len, Ordering::Relaxed);
        add(&self.metrics.journal_records, records.len() as u64);
        Ok(lsn - 1)
    }

    /// Takes space from `at` on: a whole step, or what is needed where the disk is that full.
    async fn allocate(&self, file: &File, at: u64, needed: u64) -> io::Result<u64> {
        let step = needed.next_multiple_of(STEP);
        match file.allocate(at, step).await {
            Err(e) if e.kind() == io::ErrorKind::StorageFull => {
                let least = needed.next_multiple_of(PAGE);
                file.allocate(at, least).await.map(|()| least)
            }
            taken => taken.map(|()| step),
        }
    }

    /// Waits until record `lsn` is on disk. Whoever comes first syncs for all.
    pub async fn sync(&self, lsn: u64) -> io::Result<()> {
        if self.durable() >= lsn {
            return Ok(());
        }
        let _turn = self.syncing.lock().await;
        if self.durable() >= lsn {
            return Ok(());
        }
        self.check()?;
        let (file, written) = {
            let w = self.writer.lock().await;
            (w.file.clone(), w.next_lsn - 1)
        };
        self.sync_file(&file, written).await
    }

    async fn sync_file(&self, file: &File, written: u64) -> io::Result<()> {
        count(&self.metrics.journal_syncs);
        if let Err(e) = file.sync_data().await {
            // What the kernel could not write it may have forgotten: never tried again.
            return Err(self.fail("a sync of the journal failed", e));
        }
        self.durable.store(written, Ordering::Release);
        Ok(())
    }

    /// Starts a new file. Answers the old one's number and the blocks it speaks of; all its
    /// records are on disk.
    pub async fn rotate(&self) -> io::Result<(u64, BTreeSet<BlockId>)> {
        let _turn = self.syncing.lock().await;
        let mut w = self.writer.lock().await;
        self.check()?;
        let written = w.next_lsn - 1;
        self.sync_file(&w.file, written).await?;
        let number = w.number + 1;
        let file = create(&self.io, &self.names, number, w.next_lsn, w.last).await?;
        let old = w.number;
        let start = record::FILE_HEADER as u64;
        w.file = file;
        w.number = number;
        w.offset = start;
        w.allocated = start;
        self.bytes.store(0, Ordering::Relaxed);
        Ok((old, std::mem::take(&mut w.touched)))
    }

    /// Removes a file that is not needed any more.
    pub async fn remove(&self, number: u64) -> io::Result<()> {
        self.io.remove_file(&self.names.journal(number)).await?;
        self.io.sync_dir(self.names.root()).await
    }
}
