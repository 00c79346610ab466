//! Opening a data folder: everything is read and judged first, and only then is anything changed.
//!
//! A replica is as long as what was synced, and longer by what of the rest verifies: chunks that
//! no sync ever covered and that do not match their checksums count as never written. A chunk
//! below what was synced that does not match makes the replica bad.

use super::identity::{self, FORMAT, Identity};
use super::journal::{Contents, Journal, ParsedJournal, Record, parse};
use super::layout::{
    CHUNK64, HEADER_LEN, Header, Layout, Names, Parsed, REPLICA_VERSION, chunk_len, chunk_start,
    chunks_of, decode_slots, encode_slots,
};
use super::replica::{Place, Replica, footprint};
use super::shared::{Room, Shared};
use super::{Options, Store, parse_trash_name, trash_name};
use crate::error::Error;
use crate::link::Reporter;
use crate::metrics::{Metrics, count};
use boomfs_io::{File, Io, Open, watch};
use boomfs_wire::{BlockId, CHUNK, ClusterId, NodeId};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// What the journals say of a block.
#[derive(Default)]
struct Plan {
    /// Its state at the end.
    state: Record,
    /// In-place content from here on is of before a cut.
    cut: Option<u64>,
    /// Chunks as they should be.
    images: BTreeMap<u32, Bytes>,
}

impl Plan {
    fn add(&mut self, record: Record) {
        if record.applied || record.deleted {
            self.cut = None;
            self.images.clear();
        }
        if let Some(cut) = record.cut {
            self.cut = Some(self.cut.map_or(cut, |c| c.min(cut)));
            self.images.split_off(&chunks_of(cut));
        }
        for image in &record.images {
            self.images.insert(image.chunk, image.data.clone());
        }
        // Once bad, always bad, until the block's replica is another.
        let bad = record.bad || (self.state.bad && !self.state.deleted);
        self.state = Record {
            images: Vec::new(),
            bad,
            ..record
        };
    }

    /// The images alone make everything that was synced.
    fn is_whole(&self) -> bool {
        let synced = self.state.synced;
        synced > 0
            && (0..chunks_of(synced)).all(|c| {
                self.images
                    .get(&c)
                    .is_some_and(|i| i.len() >= chunk_len(c, synced))
            })
    }

    fn header(&self) -> Header {
        Header {
            block: self.state.block,
            generation: self.state.generation,
            block_size: self.state.block_size,
            synced: self.state.synced,
            bad: self.state.bad,
        }
    }
}

/// A file among the replicas.
struct Found {
    path: PathBuf,
    len: u64,
    parsed: Parsed,
}

struct Journals {
    numbers: Vec<u64>,
    next_lsn: u64,
    plans: BTreeMap<BlockId, Plan>,
}

/// Opens a data folder.
pub(super) async fn open(
    io: &Io,
    options: Options,
    metrics: &Arc<Metrics>,
    reporter: &Arc<Reporter>,
    failure: watch::Sender<Option<Arc<Error>>>,
) -> Result<Arc<Store>, Error> {
    let names = Names::new(&options.data);
    let made = io.create_dir_all(names.root()).await;
    made.map_err(Error::io("cannot make the data folder", names.root()))?;
    let guard = io.lock(&names.lock()).await.map_err(|e| match e.kind() {
        io::ErrorKind::WouldBlock => Error::InUse {
            path: options.data.clone(),
        },
        _ => Error::io("cannot lock the data folder", names.root())(e),
    })?;
    let known = identity::load(io, &names).await?;
    let ballot = identity::load_ballot(io, &names).await?;
    let journals = read_journals(io, &names).await?;
    let found = scan(io, &names).await?;
    // Nothing was changed up to here.
    let identity = start_identity(io, &names, known).await?;
    let number = journals.numbers.last().map_or(1, |n| n + 1);
    let journal = Journal::create(io, &names, metrics, number, journals.next_lsn).await?;
    let room = Room {
        limit: options.capacity,
        reserve: options.reserve,
        ..Room::default()
    };
    let (metrics, reporter) = (metrics.clone(), reporter.clone());
    let shared = Shared::new(
        io.clone(),
        names,
        journal,
        metrics,
        reporter,
        room,
        failure,
        guard,
    );
    let shared = Arc::new(shared);
    make_folders(&shared).await?;
    let replicas = recover(&shared, found, journals.plans).await?;
    for number in journals.numbers {
        let path = shared.names.journal(number);
        let removed = shared.journal.remove(number).await;
        removed.map_err(Error::io("cannot remove an old journal", &path))?;
    }
    let used: u64 = replicas.iter().map(Replica::footprint).sum();
    shared.room.used.fetch_add(used, Ordering::Relaxed);
    let store = Store::assemble(shared, replicas, identity, ballot);
    store.refresh_space().await;
    Ok(store)
}

async fn start_identity(
    io: &Io,
    names: &Names,
    known: Option<Identity>,
) -> Result<Identity, Error> {
    let mut identity = known.unwrap_or_else(|| Identity {
        format: FORMAT,
        cluster: ClusterId(0),
        node: NodeId(0),
        incarnation: 0,
        nonce: io.random_u64() >> 1,
    });
    identity.incarnation += 1;
    identity::save(io, names, &identity).await?;
    Ok(identity)
}

async fn make_folders(shared: &Shared) -> Result<(), Error> {
    let names = &shared.names;
    for folder in [
        names.blocks(),
        names.trash(),
        names.copies(),
        names.quarantine(),
    ] {
        let made = shared.io.create_dir_all(&folder).await;
        made.map_err(Error::io("cannot make a folder", &folder))?;
    }
    let copies = names.copies();
    let items = shared.io.read_dir(&copies).await;
    for item in items.map_err(Error::io("cannot list unfinished copies", &copies))? {
        let path = copies.join(item.name);
        let removed = shared.io.remove_file(&path).await;
        removed.map_err(Error::io("cannot remove an unfinished copy", &path))?;
    }
    let trash = names.trash();
    let items = shared.io.read_dir(&trash).await;
    for item in items.map_err(Error::io("cannot list the trash", &trash))? {
        let bytes = parse_trash_name(&item.name).map_or(0, |(_, bytes)| bytes);
        shared.room.used.fetch_add(bytes, Ordering::Relaxed);
    }
    let synced = shared.io.sync_dir(names.root()).await;
    synced.map_err(Error::io("cannot sync the data folder", names.root()))
}

fn corrupt(path: &Path, offset: u64, reason: impl Into<String>) -> Error {
    Error::Corrupt {
        path: path.to_path_buf(),
        offset,
        reason: reason.into(),
    }
}

/// Reads all journals and what they say of each block.
async fn read_journals(io: &Io, names: &Names) -> Result<Journals, Error> {
    let items = io.read_dir(names.root()).await;
    let items = items.map_err(Error::io("cannot list the data folder", names.root()))?;
    let mut numbers: Vec<u64> = items
        .iter()
        .filter_map(|i| i.name.strip_prefix("journal."))
        .filter_map(|n| u64::from_str_radix(n, 16).ok())
        .collect();
    numbers.sort_unstable();
    let mut out = Journals {
        numbers: numbers.clone(),
        next_lsn: 1,
        plans: BTreeMap::new(),
    };
    let mut previous: Option<u64> = None;
    for number in &numbers {
        let path = names.journal(*number);
        let bytes = io.read_file(&path).await;
        let bytes = Bytes::from(bytes.map_err(Error::io("cannot read the journal", &path))?);
        let Contents {
            before,
            next,
            records,
        } = match parse(&bytes) {
            ParsedJournal::Good(contents) => contents,
            ParsedJournal::Unborn => continue,
            ParsedJournal::Newer(found) => {
                return Err(Error::NewerFormat {
                    path,
                    found: u64::from(found),
                    known: u64::from(super::journal::JOURNAL_VERSION),
                });
            }
            ParsedJournal::Bad(at, why) => return Err(corrupt(&path, at, why)),
        };
        if let Some(end) = previous
            && end <= before
        {
            let why = format!(
                "the journal before it ends before record {end}, though all up to {before} was synced"
            );
            return Err(corrupt(&path, 0, why));
        }
        previous = Some(next);
        out.next_lsn = next;
        for record in records {
            check(&path, &record)?;
            out.plans.entry(record.block).or_default().add(record);
        }
    }
    Ok(out)
}

/// A record whose checksum is right can be wrong only by a fault of a program: it is not obeyed.
fn check(path: &Path, record: &Record) -> Result<(), Error> {
    let fits = Layout::new(record.block_size).is_some_and(|layout| {
        record.synced <= layout.block_size
            && record.cut.is_none_or(|c| c <= layout.block_size)
            && record.images.iter().all(|i| i.chunk < layout.chunks())
    });
    if fits {
        return Ok(());
    }
    Err(corrupt(
        path,
        0,
        format!("a record of block {} is out of its bounds", record.block),
    ))
}

/// Finds all replicas and reads their headers.
async fn scan(io: &Io, names: &Names) -> Result<BTreeMap<BlockId, Found>, Error> {
    let mut out = BTreeMap::new();
    let blocks = names.blocks();
    if !io.exists(&blocks).await {
        return Ok(out);
    }
    let mut folders = vec![(blocks, 2)];
    while let Some((folder, depth)) = folders.pop() {
        let items = io.read_dir(&folder).await;
        for item in items.map_err(Error::io("cannot list replicas", &folder))? {
            let path = folder.join(&item.name);
            if item.is_dir && depth > 0 {
                folders.push((path, depth - 1));
                continue;
            }
            let block = u64::from_str_radix(&item.name, 16).ok().map(BlockId);
            let Some(block) = block.filter(|b| !item.is_dir && names.replica(*b) == path) else {
                tracing::warn!("{}: is no replica, left alone", path.display());
                continue;
            };
            let file = io.open(&path, Open::read()).await;
            let file = file.map_err(Error::io("cannot open a replica", &path))?;
            let head = file.read_at(0, HEADER_LEN).await;
            let head = head.map_err(Error::io("cannot read a replica's header", &path))?;
            let parsed = match Header::parse(&head) {
                Parsed::Newer(found) => {
                    return Err(Error::NewerFormat {
                        path,
                        found: u64::from(found),
                        known: u64::from(REPLICA_VERSION),
                    });
                }
                Parsed::Good(h) if h.block != block => {
                    Parsed::Bad("its header names another block")
                }
                parsed => parsed,
            };
            let len = item.len;
            out.insert(block, Found { path, len, parsed });
        }
    }
    Ok(out)
}

/// A replica that has to be written to before it can be used.
struct Repair {
    file: File,
    header: Header,
    verified: Verified,
}

/// Brings every replica in order.
async fn recover(
    shared: &Arc<Shared>,
    mut found: BTreeMap<BlockId, Found>,
    plans: BTreeMap<BlockId, Plan>,
) -> Result<Vec<Replica>, Error> {
    let mut out = Vec::new();
    let mut repairs = Vec::new();
    for (block, plan) in plans {
        let here = found.remove(&block);
        let path = shared.names.replica(block);
        let repair = replay(shared, &path, here, plan).await;
        repairs.extend(repair.map_err(Error::io("cannot replay the journal into", &path))?);
    }
    for (block, here) in found {
        match here.parsed {
            Parsed::Good(header) => {
                let length = layout_of(&header).map(|l| here.len.saturating_sub(l.data_at()));
                if length == Some(header.synced) || header.bad {
                    out.extend(Replica::new(
                        shared,
                        Place::Home,
                        header,
                        header.synced,
                        false,
                    ));
                } else {
                    let repair = check_tail(shared, &here.path, header, &BTreeMap::new()).await;
                    repairs.push(repair.map_err(Error::io("cannot check", &here.path))?);
                }
            }
            Parsed::Blank => {
                let record = Record {
                    block,
                    ..Record::default()
                };
                let moved = shared
                    .io
                    .rename(&here.path, &trash_name(shared, &record, 0))
                    .await;
                moved.map_err(Error::io("cannot move to the trash", &here.path))?;
            }
            Parsed::Bad(why) => {
                count(&shared.metrics.bad_replicas);
                tracing::error!("{}: left alone and not served: {why}", here.path.display());
            }
            Parsed::Newer(_) => {}
        }
    }
    mend(shared, &repairs).await?;
    out.extend(repairs.into_iter().filter_map(|r| {
        let length = r.verified.length;
        let header = Header {
            synced: length,
            ..r.header
        };
        Replica::new(shared, Place::Home, header, length, false)
    }));
    Ok(out)
}

fn layout_of(header: &Header) -> Option<Layout> {
    Layout::new(header.block_size)
}

/// Does what the journal says of one block. `None` where there is no replica afterwards.
async fn replay(
    shared: &Arc<Shared>,
    path: &Path,
    here: Option<Found>,
    plan: Plan,
) -> io::Result<Option<Repair>> {
    let header = plan.header();
    let Some(layout) = layout_of(&header) else {
        return Ok(None);
    };
    if plan.state.deleted {
        if here.is_some() {
            put_away(shared, path, &plan.state).await?;
        }
        return Ok(None);
    }
    if here.is_none() && !plan.is_whole() && plan.state.synced > 0 {
        // A copy that did not reach its place. What is synced otherwise has its name on disk.
        return Ok(None);
    }
    if let Some(folder) = path.parent() {
        shared.io.create_dir_all(folder).await?;
    }
    let file = shared.io.open(path, Open::write_create()).await?;
    if let Some(cut) = plan.cut {
        shorten(&file, layout, cut).await?;
    }
    for (chunk, data) in &plan.images {
        file.write_at(layout.chunk_at(*chunk), data.to_vec())
            .await?;
        let crc = crc32c::crc32c(data);
        file.write_at(layout.slot_at(*chunk), encode_slots(&[crc]))
            .await?;
    }
    check_tail(shared, path, header, &plan.images)
        .await
        .map(Some)
}

async fn put_away(shared: &Shared, path: &Path, state: &Record) -> io::Result<()> {
    let to = if state.bad {
        let name = format!(
            "{:016x}.{}.{}",
            state.block.0,
            state.generation.0,
            shared.io.now_ns()
        );
        shared.names.quarantine().join(name)
    } else {
        trash_name(shared, state, footprint(state.synced))
    };
    shared.io.rename(path, &to).await
}

/// How much of a replica is there.
struct Verified {
    length: u64,
    bad: Option<String>,
}

/// Finds out how long a replica is after a crash, and makes its file end there.
async fn check_tail(
    shared: &Arc<Shared>,
    path: &Path,
    mut header: Header,
    images: &BTreeMap<u32, Bytes>,
) -> io::Result<Repair> {
    let how = Open {
        read: true,
        write: true,
        ..Open::default()
    };
    let file = shared.io.open(path, how).await?;
    let layout = Layout {
        block_size: header.block_size,
    };
    let verified = if header.bad {
        Verified {
            length: header.synced,
            bad: None,
        }
    } else {
        verify_tail(&file, layout, header.synced, images).await?
    };
    if let Some(why) = &verified.bad {
        count(&shared.metrics.bad_replicas);
        tracing::error!("block {}: replica marked bad: {why}", header.block);
        header.bad = true;
    }
    if !header.bad {
        shorten(&file, layout, verified.length).await?;
    }
    Ok(Repair {
        file,
        header,
        verified,
    })
}

async fn verify_tail(
    file: &File,
    layout: Layout,
    synced: u64,
    images: &BTreeMap<u32, Bytes>,
) -> io::Result<Verified> {
    let there = file
        .len()
        .await?
        .saturating_sub(layout.data_at())
        .min(layout.block_size);
    let good = |length| Verified { length, bad: None };
    let mut chunk = u32::try_from(synced / CHUNK64).unwrap_or(u32::MAX);
    // What the journal brought back is looked at too: it may begin below what is synced.
    if let Some((first, _)) = images.first_key_value() {
        chunk = chunk.min(*first);
    }
    let mut length = chunk_start(chunk);
    while length < there {
        let data = file
            .read_at(layout.chunk_at(chunk), chunk_len(chunk, there))
            .await?;
        let slot = file.read_at(layout.slot_at(chunk), 4).await?;
        let crc = decode_slots(&slot, 1).first().copied().unwrap_or(0);
        // The chunk may have been shorter when its checksum was written.
        let lengths = [
            data.len(),
            images.get(&chunk).map_or(0, Bytes::len),
            chunk_len(chunk, synced),
        ];
        let fits =
            |len: &usize| *len > 0 && data.get(..*len).is_some_and(|d| crc32c::crc32c(d) == crc);
        let Some(len) = lengths.into_iter().find(fits) else {
            break;
        };
        length += len as u64;
        if len < CHUNK {
            break;
        }
        chunk += 1;
    }
    if length >= synced {
        return Ok(good(length));
    }
    let why = if there < synced {
        format!("its file holds {there} bytes, though {synced} had been synced")
    } else {
        format!(
            "the chunk at byte {} does not match its checksum, though it had been synced",
            chunk_start(chunk)
        )
    };
    Ok(Verified {
        length: synced,
        bad: Some(why),
    })
}

/// Makes a replica end at a length, and leaves no checksum behind the end: a chunk appended later
/// and lost in a crash must not be taken for one of before.
async fn shorten(file: &File, layout: Layout, length: u64) -> io::Result<()> {
    let keep = chunks_of(length);
    let count = layout.chunks().saturating_sub(keep);
    let slots = file
        .read_at(layout.slot_at(keep), 4 * count as usize)
        .await?;
    if let Some(last) = slots.iter().rposition(|b| *b != 0) {
        // Behind the data's start there are no slots: a short block has few.
        let bytes = (last / 4 + 1) * 4;
        file.write_at(layout.slot_at(keep), vec![0; bytes]).await?;
    }
    file.set_len(layout.data_at() + length).await
}

/// Writes headers and syncs what was repaired.
async fn mend(shared: &Arc<Shared>, repairs: &[Repair]) -> Result<(), Error> {
    if repairs.is_empty() {
        return Ok(());
    }
    let root = shared.names.root().to_path_buf();
    let state = |r: &Repair, synced: u64| Record {
        block: r.header.block,
        generation: r.header.generation,
        block_size: r.header.block_size,
        synced,
        bad: r.header.bad,
        ..Record::default()
    };
    // If a header is torn by the next crash, these make it again.
    let before: Vec<Record> = repairs.iter().map(|r| state(r, r.header.synced)).collect();
    log(shared, &before)
        .await
        .map_err(Error::io("cannot write to the journal", &root))?;
    for r in repairs {
        let path = shared.names.replica(r.header.block);
        let header = Header {
            synced: r.verified.length,
            ..r.header
        };
        let mended = async {
            r.file.write_at(0, header.encode()).await?;
            r.file.sync_data().await?;
            match path.parent() {
                Some(folder) => shared.io.sync_dir(folder).await,
                None => Ok(()),
            }
        };
        mended
            .await
            .map_err(Error::io("cannot bring a replica in order", &path))?;
    }
    for folder in [shared.names.blocks(), shared.names.trash(), root.clone()] {
        let synced = shared.io.sync_dir(&folder).await;
        synced.map_err(Error::io("cannot sync a folder", &folder))?;
    }
    let after: Vec<Record> = repairs
        .iter()
        .map(|r| state(r, r.verified.length))
        .collect();
    log(shared, &after)
        .await
        .map_err(Error::io("cannot write to the journal", &root))
}

async fn log(shared: &Shared, records: &[Record]) -> io::Result<()> {
    let mut lsn = 0;
    for some in records.chunks(1024) {
        lsn = shared.journal.append(some).await?;
    }
    shared.journal.sync(lsn).await
}
