//! Disks that rot. The last good copy of what was acknowledged never does: of the NameNodes one at most, and no replica
//! but those of which another is good.

use super::Group;
use anyhow::{Context, Result, bail};
use boomfs_client::{Client, Config};
use boomfs_io::sim::Unsynced;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where a replica tells its generation, bytes (docs/FORMATS.md).
const GENERATION_AT: usize = 24;
/// Where its checksums begin.
const SUMS_AT: usize = 128;
/// Where its data begins, in blocks of the simulation's size.
const DATA_AT: usize = 4096;
/// Bytes that one checksum is for.
const CHUNK: usize = 4096;
/// How long a NameNode is left alone with what it has stored before it rots: meanwhile the log says that it was synced.
/// The end of a log of which nothing says so cannot be told from a write that never ended.
const AGE: Duration = Duration::from_millis(150);

/// A file on a disk, and what is in it.
type Stored = (PathBuf, Vec<u8>);

/// What rotted so far.
#[derive(Default)]
pub struct Rotten {
    /// The NameNode whose disk did.
    namenode: Option<usize>,
    /// Blocks of which a replica did.
    blocks: BTreeSet<u64>,
}

/// A block of a closed file: its number, its generation and its length.
type Closed = (u64, u64, usize);

/// Bytes before the zeros with which a file ends.
fn used(bytes: &[u8]) -> usize {
    let last = bytes.iter().rposition(|byte| *byte != 0);
    last.map_or(0, |last| last + 1)
}

/// One of so many, by a number that the next comes from (Knuth's MMIX generator).
fn one_of(which: &mut u64, many: usize) -> usize {
    *which = which
        .wrapping_mul(6_364_136_223_846_793_005)
        .wrapping_add(1_442_695_040_888_963_407);
    usize::try_from((*which >> 33) % many.max(1) as u64).unwrap_or(0)
}

/// One bit.
fn bit(which: &mut u64) -> u8 {
    1 << one_of(which, 8)
}

fn is_log(path: &Path) -> bool {
    path.extension().is_some_and(|end| end == "log")
}

/// Where a DataNode keeps a replica.
fn replica(block: u64) -> PathBuf {
    let (upper, lower) = (block >> 24, block >> 12 & 0xfff);
    PathBuf::from(format!(
        "/datanode/blocks/{upper:x}/{lower:03x}/{block:016x}"
    ))
}

/// Checksums and data of a replica that has all of a block.
fn contents<'a>(disk: &'a [Stored], closed: &Closed) -> Option<(&'a [u8], &'a [u8])> {
    let (block, generation, length) = closed;
    let path = replica(*block);
    let (_, bytes) = disk.iter().find(|(file, _)| *file == path)?;
    let told = bytes.get(GENERATION_AT..GENERATION_AT + 8)?;
    let sums = bytes.get(SUMS_AT..SUMS_AT + 4 * length.div_ceil(CHUNK))?;
    let data = bytes.get(DATA_AT..DATA_AT + length)?;
    (told == generation.to_le_bytes()).then_some((sums, data))
}

impl Group {
    /// It may refuse to start: its disk has rotted.
    pub(super) fn is_rotten(&self, at: usize) -> bool {
        self.rotten.borrow().namenode == Some(at)
    }

    /// The NameNode that has rotted gets another disk, once.
    pub(super) fn note_replaced(&self) {
        self.rotten.borrow_mut().namenode = None;
    }

    /// A bit flips in something that a NameNode has stored: while it runs, or it is started again on that.
    pub(super) async fn rot_namenode(&self, at: usize, which: u64) {
        let host = self.host(at);
        let mut which = which;
        let starts_again = one_of(&mut which, 2) == 0;
        let before = self.world.stored(&host);
        self.io.sleep(AGE).await;
        let now = self.world.stored(&host);
        let last_log = before.iter().rfind(|(path, _)| is_log(path));
        let grew = |(path, bytes): &Stored| {
            let same = now.iter().find(|(other, _)| other == path);
            same.is_some_and(|(_, later)| used(later) > used(bytes))
        };
        let settled: Vec<&Stored> = before
            .iter()
            .filter(|file| used(&file.1) > 0 && (last_log != Some(file) || grew(file)))
            .collect();
        let Some((path, bytes)) = settled.get(one_of(&mut which, settled.len())) else {
            return;
        };
        let offset = one_of(&mut which, used(bytes)) as u64;
        // It may be gone by now.
        if self
            .world
            .corrupt(&host, path, offset, bit(&mut which))
            .is_err()
        {
            return;
        }
        self.rotten.borrow_mut().namenode = Some(at);
        if starts_again && self.runs(at) {
            self.crash(at, Unsynced::Random);
            if let Err(why) = self.start_again(at).await {
                self.world.note(&format!("{host} does not start: {why:#}"));
            }
        }
    }

    /// A bit flips in one of two replicas of closed files, if another DataNode has them too.
    pub(super) async fn rot_replicas(&self, at: usize, which: u64) {
        let closed = match self.closed_blocks().await {
            Ok(closed) => closed,
            Err(why) => {
                self.world
                    .note(&format!("nobody knows what can rot: {why:#}"));
                return;
            }
        };
        let mut which = which;
        let mine = self.world.seen(&self.host(at));
        let others = (self.namenodes..self.count()).filter(|other| *other != at);
        let others: Vec<_> = others.map(|n| self.world.seen(&self.host(n))).collect();
        for closed in closed {
            let here = contents(&mine, &closed);
            let is_there = |disk: &Vec<Stored>| contents(disk, &closed) == here;
            if here.is_some() && others.iter().any(is_there) && one_of(&mut which, 2) == 0 {
                self.rot_replica(at, closed, &mut which);
            }
        }
    }

    fn rot_replica(&self, at: usize, (block, _, length): Closed, which: &mut u64) {
        let path = replica(block);
        // Headers and checksums are small: they are hit as often as the data.
        let offset = match one_of(which, 4) {
            0 => one_of(which, SUMS_AT),
            1 => SUMS_AT + one_of(which, 4 * length.div_ceil(CHUNK)),
            _ => DATA_AT + one_of(which, length),
        };
        // One replica of a block, and no second one.
        if self.rotten.borrow_mut().blocks.insert(block)
            && let Err(why) = self
                .world
                .corrupt(&self.host(at), &path, offset as u64, bit(which))
        {
            self.world.note(&format!("{}: {why}", path.display()));
        }
    }

    /// Blocks that nobody writes any more, as some NameNode knows.
    async fn closed_blocks(&self) -> Result<Vec<Closed>> {
        for at in 0..self.namenodes {
            if let Ok(rows) = self.ask_for_closed(at).await {
                let closed = rows
                    .iter()
                    .map(|row| serde_json::from_str(row).context("a row"));
                return closed.collect();
            }
        }
        bail!("no NameNode answers")
    }

    async fn ask_for_closed(&self, at: usize) -> Result<Vec<String>> {
        let config = Config {
            stale: true,
            deadline: Duration::from_millis(300),
            ..Config::new(vec![self.addr(at)], "look")
        };
        let client = Client::observer(self.world.node("look"), config).await?;
        let query = "? closed(B, G, L) :- block(Block: B, Ino: I, Generation: G, Length: L), L > 0, notin lease(I, _);";
        let rows = client.query(query, 1_000).await?.rows;
        client.close().await?;
        Ok(rows)
    }
}
