//! Opening a data folder: everything is read and judged first, and only then is anything changed.
//!
//! A replica is as long as what was synced, and longer by what of the rest verifies: chunks that
//! no sync ever covered and that do not match their checksums count as never written. A chunk
//! below what was synced that does not match makes the replica bad.
//!
//! Only a replica that does not end where the journals say, or that has to be changed, is read and
//! synced before the start goes on. Others get what the journals hold of them and no sync: the
//! journals stay until the first cut has brought everything in place and synced it there.

mod tail;

use super::flush::Old;
use super::identity::{self, FORMAT, Identity};
use super::journal::{Contents, Journal, ParsedJournal, Record, parse};
use super::layout::{
    HEADER_LEN, Header, Layout, Names, Parsed, REPLICA_VERSION, chunk_len, chunks_of, encode_slots,
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
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tail::{Verified, check_tail, shorten};
use tokio::task::JoinSet;

/// Replicas looked at or synced at the same time.
const PARALLEL: usize = 16;

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
    tail: Option<JournalTail>,
}

/// Records of the newest journal that may have been read from memory and never have reached the disk.
struct JournalTail {
    path: PathBuf,
    at: u64,
    bytes: Bytes,
}

impl JournalTail {
    /// Brings them to the disk. A process that was killed leaves them to the system; one whose sync
    /// failed leaves them in memory as if they were stored, where a sync alone does not help.
    async fn secure(&self, io: &Io) -> io::Result<()> {
        let file = io.open(&self.path, Open::write_create()).await?;
        file.write_at(self.at, self.bytes.to_vec()).await?;
        file.sync_data().await
    }
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
    // Nothing was changed up to here. What was read has to be on disk before anything rests on it.
    if let Some(tail) = &journals.tail {
        let secured = tail.secure(io).await;
        secured.map_err(Error::io("cannot sync the journal", &tail.path))?;
    }
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
    let blocks: BTreeSet<BlockId> = journals.plans.keys().copied().collect();
    let recovered = recover(&shared, found, journals.plans).await?;
    let mut old = None;
    if recovered.carried {
        old = Some(Old {
            numbers: journals.numbers,
            blocks,
        });
    } else {
        for number in journals.numbers {
            let path = shared.names.journal(number);
            let removed = shared.journal.remove(number).await;
            removed.map_err(Error::io("cannot remove an old journal", &path))?;
        }
    }
    let replicas = recovered.replicas;
    let used: u64 = replicas.iter().map(Replica::footprint).sum();
    shared.room.used.fetch_add(used, Ordering::Relaxed);
    let store = Store::assemble(shared, replicas, identity, ballot, old);
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
        tail: None,
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
            unproven: (from, to),
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
        out.tail = Some(JournalTail {
            path: path.clone(),
            at: from as u64,
            bytes: bytes.slice(from..to),
        });
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
    let blocks = names.blocks();
    if !io.exists(&blocks).await {
        return Ok(BTreeMap::new());
    }
    let mut files = Vec::new();
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
            files.push((block, path, item.len));
        }
    }
    let looked = side_by_side(files, |(block, path, len)| {
        look(io.clone(), block, path, len)
    });
    Ok(looked.await?.into_iter().collect())
}

/// Reads the header of one file.
async fn look(io: Io, block: BlockId, path: PathBuf, len: u64) -> Result<(BlockId, Found), Error> {
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
        Parsed::Good(h) if h.block != block => Parsed::Bad("its header names another block"),
        parsed => parsed,
    };
    Ok((block, Found { path, len, parsed }))
}

/// Does the same to many, some at a time. Ends with the first failure, once what has begun ended.
async fn side_by_side<T, R, W>(items: Vec<T>, work: impl Fn(T) -> W) -> Result<Vec<R>, Error>
where
    R: Send + 'static,
    W: Future<Output = Result<R, Error>> + Send + 'static,
{
    let mut items = items.into_iter();
    let mut running = JoinSet::new();
    let mut out = Vec::new();
    let mut failed = None;
    loop {
        while failed.is_none() && running.len() < PARALLEL {
            let Some(item) = items.next() else { break };
            running.spawn(work(item));
        }
        match running.join_next().await {
            None => break,
            Some(Ok(Ok(done))) => out.push(done),
            Some(Ok(Err(e))) => failed = failed.or(Some(e)),
            Some(Err(e)) => {
                let ended = Error::io("cannot look through the replicas", Path::new("blocks"));
                failed = failed.or(Some(ended(io::Error::other(e))));
            }
        }
    }
    failed.map_or(Ok(out), Err)
}

/// A replica that has to be written to before it can be used.
struct Repair {
    file: File,
    header: Header,
    verified: Verified,
}

/// What became of a replica of which the journals speak.
enum Replayed {
    /// There is none.
    Gone,
    /// It was moved away.
    PutAway(BlockId),
    /// All of it was synced: it has what the journals say, as long as they are kept.
    Carried(Header),
    /// It has to be synced first.
    Repair(Repair),
}

/// All replicas, in order.
struct Recovered {
    replicas: Vec<Replica>,
    /// Some rely on the journals.
    carried: bool,
}

/// Brings every replica in order.
async fn recover(
    shared: &Arc<Shared>,
    mut found: BTreeMap<BlockId, Found>,
    plans: BTreeMap<BlockId, Plan>,
) -> Result<Recovered, Error> {
    let mut out = Vec::new();
    let mut repairs = Vec::new();
    let planned: Vec<_> = plans
        .into_iter()
        .map(|(block, plan)| (block, found.remove(&block), plan))
        .collect();
    let store = shared.clone();
    let replayed = side_by_side(planned, move |(block, here, plan)| {
        let shared = store.clone();
        async move {
            let path = shared.names.replica(block);
            let replayed = replay(&shared, &path, here, plan).await;
            replayed.map_err(Error::io("cannot replay the journal into", &path))
        }
    });
    let mut left = BTreeSet::new();
    for one in replayed.await? {
        match one {
            Replayed::Gone => {}
            Replayed::PutAway(block) => {
                left.insert(shared.names.folder(block));
            }
            Replayed::Carried(h) => {
                out.extend(Replica::new(shared, Place::Home, h, h.synced, true));
            }
            Replayed::Repair(repair) => repairs.push(repair),
        }
    }
    let carried = !out.is_empty();
    if !left.is_empty() {
        // A block may be made anew from now on: its file must not turn out to be the one of before.
        left.extend([shared.names.trash(), shared.names.quarantine()]);
        sync_folders(shared, left).await?;
    }
    let mut tails = Vec::new();
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
                    tails.push((here.path, header));
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
    let store = shared.clone();
    let checked = side_by_side(tails, move |(path, header)| {
        let shared = store.clone();
        async move {
            let how = Open {
                write: true,
                ..Open::read()
            };
            let checked = async {
                let file = shared.io.open(&path, how).await?;
                check_tail(&shared, file, header, &BTreeMap::new()).await
            };
            let checked = checked.await.map_err(Error::io("cannot check", &path));
            checked.map(|(repair, _)| repair)
        }
    });
    repairs.extend(checked.await?);
    mend(shared, &repairs).await?;
    out.extend(repairs.into_iter().filter_map(|r| {
        let length = r.verified.length;
        let header = Header {
            synced: length,
            ..r.header
        };
        Replica::new(shared, Place::Home, header, length, false)
    }));
    Ok(Recovered {
        replicas: out,
        carried,
    })
}

fn layout_of(header: &Header) -> Option<Layout> {
    Layout::new(header.block_size)
}

/// Does what the journals say of one block.
async fn replay(
    shared: &Arc<Shared>,
    path: &Path,
    here: Option<Found>,
    plan: Plan,
) -> io::Result<Replayed> {
    let header = plan.header();
    let Some(layout) = layout_of(&header) else {
        return Ok(Replayed::Gone);
    };
    if plan.state.deleted {
        if here.is_none() {
            return Ok(Replayed::Gone);
        }
        put_away(shared, path, &plan.state).await?;
        return Ok(Replayed::PutAway(header.block));
    }
    if here.is_none() {
        if !plan.is_whole() && plan.state.synced > 0 {
            // A copy that did not reach its place. What is synced otherwise has its name on disk.
            return Ok(Replayed::Gone);
        }
        if let Some(folder) = path.parent() {
            shared.io.create_dir_all(folder).await?;
        }
    }
    let file = shared.io.open(path, Open::write_create()).await?;
    if let Some(cut) = plan.cut {
        shorten(&file, layout, cut).await?;
    }
    put_images(&file, layout, &plan.images).await?;
    let (repair, as_it_was) = check_tail(shared, file, header, &plan.images).await?;
    if as_it_was && plan.cut.is_none() {
        return Ok(Replayed::Carried(header));
    }
    Ok(Replayed::Repair(repair))
}

/// Writes chunks in place, those that follow one another at once.
async fn put_images(file: &File, layout: Layout, images: &BTreeMap<u32, Bytes>) -> io::Result<()> {
    let mut runs = Vec::new();
    let mut rest = images.iter().peekable();
    while let Some((first, image)) = rest.next() {
        let mut data = image.to_vec();
        let mut crcs = vec![crc32c::crc32c(image)];
        let mut next = first.saturating_add(1);
        // A chunk that is not full ends the run.
        while data.len().is_multiple_of(CHUNK)
            && let Some((_, image)) = rest.next_if(|(chunk, _)| **chunk == next)
        {
            data.extend_from_slice(image);
            crcs.push(crc32c::crc32c(image));
            next = next.saturating_add(1);
        }
        runs.push((layout.chunk_at(*first), data));
        runs.push((layout.slot_at(*first), encode_slots(&crcs)));
    }
    if runs.is_empty() {
        return Ok(());
    }
    file.write_runs(runs).await
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
    let headers = repairs.iter().map(|r| {
        let header = Header {
            synced: r.verified.length,
            ..r.header
        };
        (r.file.clone(), header)
    });
    let store = shared.clone();
    let synced = side_by_side(headers.collect(), move |(file, header)| {
        let shared = store.clone();
        async move {
            let path = shared.names.replica(header.block);
            count(&shared.metrics.replica_syncs);
            let mended = async {
                file.write_at(0, header.encode()).await?;
                file.sync_data().await
            };
            let mended = mended.await;
            mended.map_err(Error::io("cannot bring a replica in order", &path))
        }
    });
    synced.await?;
    let folders = repairs.iter().map(|r| shared.names.folder(r.header.block));
    let mut folders: BTreeSet<_> = folders.collect();
    folders.extend([shared.names.blocks(), shared.names.trash(), root.clone()]);
    sync_folders(shared, folders).await?;
    // The journals of before may stay for the sake of others, and are replayed by the next start.
    let after: Vec<Record> = repairs
        .iter()
        .map(|r| Record {
            applied: true,
            ..state(r, r.verified.length)
        })
        .collect();
    log(shared, &after)
        .await
        .map_err(Error::io("cannot write to the journal", &root))
}

async fn sync_folders(shared: &Shared, folders: BTreeSet<PathBuf>) -> Result<(), Error> {
    for folder in folders {
        let synced = shared.io.sync_dir(&folder).await;
        synced.map_err(Error::io("cannot sync a folder", &folder))?;
    }
    Ok(())
}

async fn log(shared: &Shared, records: &[Record]) -> io::Result<()> {
    let mut lsn = 0;
    for some in records.chunks(1024) {
        lsn = shared.journal.append(some).await?;
    }
    shared.journal.sync(lsn).await
}
