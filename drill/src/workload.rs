//! Clients that work without pause, and remember everything they did.

use crate::history::{Operation, Recorder};
use crate::model::{Answer, Op};
use anyhow::{Result, bail};
use boomfs_client::{At, Caller, Client, Config, CreateFile, Error, Ino, errno};
use boomfs_io::Io;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// Clients move on to new directories after this time, so that no history gets long.
const EPOCH: Duration = Duration::from_secs(5);
/// Directories of one epoch.
const DIRECTORIES: u64 = 4;
/// Names in a directory.
const NAMES: u64 = 4;
/// Names that a listing asks for.
const PAGE: u32 = 64;

/// An operation in one of the directories.
pub type InDirectory = Operation<(String, Op), Answer>;

/// What all clients share.
pub struct Shared {
    /// The clock.
    pub io: Io,
    /// When the drill began, monotonic clock, ns.
    pub began_ns: u64,
    /// What was done.
    pub recorder: Recorder<(String, Op), Answer>,
    /// Clients end.
    pub stop: AtomicBool,
    /// Operations that failed with an error that no directory gives.
    pub errors: AtomicU64,
    /// Files whose contents were written and read again.
    pub files: AtomicU64,
    /// Bytes in them.
    pub bytes: AtomicU64,
    /// Pause between two operations of one client.
    pub pause: Duration,
    /// DataNodes are there: write files.
    pub data: bool,
    /// The directory that all happens in.
    pub ground: Ino,
}

impl Shared {
    /// For clients that begin now.
    pub fn new(io: Io, pause: Duration, data: bool, ground: Ino) -> Shared {
        Shared {
            began_ns: io.mono_ns(),
            io,
            recorder: Recorder::default(),
            stop: AtomicBool::new(false),
            errors: AtomicU64::new(0),
            files: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            pause,
            data,
            ground,
        }
    }

    /// Time since the drill began, ns.
    pub fn now(&self) -> u64 {
        self.io.mono_ns().saturating_sub(self.began_ns)
    }
}

/// One client.
struct Worker {
    shared: Arc<Shared>,
    client: Client,
    number: u64,
    caller: Caller,
    /// Directories and their numbers.
    known: BTreeMap<String, Ino>,
    /// Files that it wrote, and the seeds of their contents.
    written: Vec<(Ino, u64, usize)>,
}

/// What a client does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Habit {
    /// It changes directories and reads them, and writes files.
    Changes,
    /// It only reads: nothing that it asks for would make it leave a NameNode that no longer leads.
    Reads,
}

/// Works until told to stop.
///
/// # Errors
/// It cannot connect; or contents differ from what was written, which is a loss.
pub async fn work(
    shared: Arc<Shared>,
    namenodes: Vec<String>,
    number: u64,
    habit: Habit,
) -> Result<()> {
    let config = Config::new(namenodes, format!("drill {number}"));
    let client = Client::connect(shared.io.clone(), config).await?;
    let mut worker = Worker {
        shared: shared.clone(),
        client,
        number,
        caller: Caller::default(),
        known: BTreeMap::new(),
        written: Vec::new(),
    };
    let mut turn = 0_u64;
    while !shared.stop.load(Ordering::Relaxed) {
        worker.operation(habit).await;
        turn += 1;
        if habit == Habit::Changes && shared.data && turn.is_multiple_of(50) {
            worker.file(turn).await?;
        }
        shared.io.sleep(shared.pause).await;
    }
    worker.read_all().await?;
    // The session would end by itself.
    let _ = worker.client.close().await;
    Ok(())
}

/// Lists every directory once more: what is in it is part of the history.
///
/// # Errors
/// The cluster cannot be reached.
pub async fn list_all(shared: &Arc<Shared>, namenodes: Vec<String>, all: &[String]) -> Result<()> {
    let client = Client::connect(shared.io.clone(), Config::new(namenodes, "drill end")).await?;
    let mut worker = Worker {
        shared: shared.clone(),
        client,
        number: u64::MAX,
        caller: Caller::default(),
        known: BTreeMap::new(),
        written: Vec::new(),
    };
    for directory in all {
        worker
            .record(Habit::Reads, directory.clone(), Op::List)
            .await;
    }
    let _ = worker.client.close().await;
    Ok(())
}

/// Bytes that differ everywhere, and from those of other seeds.
pub fn pattern(seed: u64, len: usize) -> Bytes {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let bytes = (0..len).map(|_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    });
    bytes.collect()
}

impl Worker {
    fn at(&self, path: &[&str]) -> At {
        At {
            base: self.shared.ground,
            path: path.iter().map(|name| name.as_bytes().to_vec()).collect(),
        }
    }

    fn draw(&self, below: u64) -> u64 {
        self.shared.io.random_u64() % below.max(1)
    }

    /// One operation in one of the directories of now.
    async fn operation(&mut self, habit: Habit) {
        let epoch = Duration::from_nanos(self.shared.now()).as_secs() / EPOCH.as_secs();
        let directory = format!("d{epoch}.{}", self.draw(DIRECTORIES));
        let name = |n: u64| format!("f{n}");
        let (one, other) = (name(self.draw(NAMES)), name(self.draw(NAMES)));
        let which = match habit {
            Habit::Changes => self.draw(10),
            Habit::Reads => 7 + self.draw(3),
        };
        let op = match which {
            0..4 => Op::Create(one),
            4 | 5 => Op::Unlink(one),
            6 if one != other => Op::Rename(one, other),
            6 | 7 => Op::Lookup(one),
            8 => Op::Lookup(other),
            _ => Op::List,
        };
        self.record(habit, directory, op).await;
    }

    async fn record(&mut self, habit: Habit, directory: String, op: Op) {
        if !self.known.contains_key(&directory) {
            match self.enter(&directory, habit).await {
                Ok(ino) => self.known.insert(directory.clone(), ino),
                // Nobody has made it yet.
                Err(e) if habit == Habit::Reads && e.errno() == errno::ENOENT => return,
                Err(e) => return self.failed(&directory, &e),
            };
        }
        let begun_ns = self.shared.now();
        let outcome = self.act(&directory, &op).await;
        let ended_ns = self.shared.now();
        let answer = match outcome {
            Ok(answer) => Some(answer),
            Err(e) => {
                self.failed(&directory, &e);
                None
            }
        };
        self.shared.recorder.add(Operation {
            process: self.number,
            op: (directory, op),
            begun_ns,
            ended: answer.map(|answer| (ended_ns, answer)),
        });
    }

    fn failed(&self, directory: &str, e: &Error) {
        self.shared.errors.fetch_add(1, Ordering::Relaxed);
        tracing::warn!("client {} in {directory}: {e}", self.number);
    }

    async fn enter(&self, directory: &str, habit: Habit) -> Result<Ino, Error> {
        let place = self.at(&[directory]);
        if habit == Habit::Reads {
            let found = self.client.lookup(&self.caller, &place, false).await?;
            return Ok(found.ino);
        }
        match self.client.mkdir(&self.caller, &place, 0o755).await {
            Ok(attr) => Ok(attr.ino),
            Err(e) if e.errno() == errno::EEXIST => {
                let found = self.client.lookup(&self.caller, &place, false).await?;
                Ok(found.ino)
            }
            Err(e) => Err(e),
        }
    }

    async fn act(&self, directory: &str, op: &Op) -> Result<Answer, Error> {
        let (client, caller) = (&self.client, &self.caller);
        let answer = match op {
            Op::Create(name) => {
                let file = CreateFile {
                    exclusive: true,
                    ..CreateFile::file(0o644)
                };
                let made = client
                    .create(caller, &self.at(&[directory, name]), file)
                    .await;
                made.map(|attr| Answer::File(attr.ino.0))
            }
            Op::Unlink(name) => {
                let gone = client.unlink(caller, &self.at(&[directory, name])).await;
                gone.map(|_| Answer::Done)
            }
            Op::Rename(from, to) => {
                let (from, to) = (self.at(&[directory, from]), self.at(&[directory, to]));
                let moved = client.rename(caller, &from, &to, false, false).await;
                moved.map(|attr| Answer::File(attr.ino.0))
            }
            Op::Lookup(name) => {
                let found = client
                    .lookup(caller, &self.at(&[directory, name]), false)
                    .await;
                found.map(|attr| Answer::File(attr.ino.0))
            }
            Op::List => {
                let ino = self.known.get(directory).copied().unwrap_or_default();
                let page = client.readdir(caller, ino, 0, PAGE).await;
                page.map(|(_, entries, _)| {
                    let names = entries.into_iter().map(|entry| {
                        let name = String::from_utf8_lossy(&entry.name).into_owned();
                        (name, entry.attr.ino.0)
                    });
                    Answer::Names(names.collect())
                })
            }
        };
        match answer {
            Err(e) if e.errno() == errno::EEXIST => Ok(Answer::Exists),
            Err(e) if e.errno() == errno::ENOENT => Ok(Answer::Missing),
            other => other,
        }
    }

    /// Writes a file of its own, and reads one that it wrote before.
    async fn file(&mut self, turn: u64) -> Result<()> {
        let seed = self.number << 32 | turn;
        let len = usize::try_from(1_000 + self.draw(200_000)).unwrap_or(1_000);
        let name = format!("data.{}.{turn}", self.number);
        let file = CreateFile {
            exclusive: true,
            ..CreateFile::file(0o644)
        };
        let written = async {
            let made = self
                .client
                .create(&self.caller, &self.at(&[&name]), file)
                .await?;
            let writer = self.client.open_write(&self.caller, made.ino).await?;
            writer.write_at(0, pattern(seed, len)).await?;
            writer.fsync().await?;
            writer.close().await?;
            Ok::<_, Error>(made.ino)
        };
        match written.await {
            Ok(ino) => {
                self.written.push((ino, seed, len));
                self.shared.files.fetch_add(1, Ordering::Relaxed);
                self.shared.bytes.fetch_add(len as u64, Ordering::Relaxed);
            }
            Err(e) => self.failed(&name, &e),
        }
        let which = self.draw(self.written.len() as u64);
        match usize::try_from(which)
            .ok()
            .and_then(|n| self.written.get(n))
        {
            Some((ino, seed, len)) => self.read(*ino, *seed, *len).await,
            None => Ok(()),
        }
    }

    async fn read_all(&mut self) -> Result<()> {
        for (ino, seed, len) in &self.written {
            self.read(*ino, *seed, *len).await?;
        }
        Ok(())
    }

    async fn read(&self, ino: Ino, seed: u64, len: usize) -> Result<()> {
        let read = async {
            let reader = self.client.open_read(ino).await?;
            let mut got = Vec::with_capacity(len);
            loop {
                let piece = reader.read_at(got.len() as u64, 1 << 20).await?;
                if piece.is_empty() {
                    return Ok::<_, Error>(got);
                }
                got.extend_from_slice(&piece);
            }
        };
        match read.await {
            Ok(got) if got == pattern(seed, len) => Ok(()),
            Ok(got) => bail!(
                "file {ino} has {} bytes that are not the {len} that were written and synced",
                got.len()
            ),
            Err(e) => {
                self.failed(&format!("file {ino}"), &e);
                Ok(())
            }
        }
    }
}
