//! What a writer knows about its file: bytes that wait, bytes that were acknowledged, what is committed. No I/O.

use crate::Error;
use crate::dirty::{Dirty, clip};
use crate::fetch::Written;
use boomfs_wire::{BlockId, Generation, LocatedBlock, NodeAddr};
use bytes::{Bytes, BytesMut};
use std::collections::BTreeMap;
use std::ops::Range;

/// A block this writer knows.
#[derive(Clone, Debug)]
pub struct Block {
    /// Its length here is what the members acknowledged; its nodes are the members that have not failed.
    pub at: LocatedBlock,
    /// The members of the committed generation.
    pub committed: Vec<NodeAddr>,
    /// The length that the NameNode knows.
    pub committed_length: u64,
}

impl Block {
    /// A block as the NameNode answered it.
    pub fn new(at: LocatedBlock) -> Block {
        Block {
            committed: at.nodes.clone(),
            committed_length: at.length,
            at,
        }
    }
}

/// See the module.
#[derive(Debug)]
pub struct State {
    pub dirty: Dirty,
    /// The packet that is on its way.
    pub sending: Option<(u64, Bytes)>,
    pub block_size: u64,
    /// Length of the file with all that was written, bytes.
    pub size: u64,
    /// Length of the file with what was acknowledged, bytes.
    pub acked_size: u64,
    pub committed_size: u64,
    /// Time of the last write that is not committed.
    pub mtime_ns: Option<i64>,
    pub failed: Option<Error>,
    pub blocks: BTreeMap<u64, Block>,
    /// `blocks` holds all that there are.
    pub complete: bool,
    /// Blocks with acknowledged bytes that may not be on disk, with the time of the last of them.
    pub unsynced: BTreeMap<u64, u64>,
    pub sender_runs: bool,
    /// Since when bytes wait.
    pub dirty_since_ns: Option<u64>,
}

/// What [`Op::Commit`](boomfs_wire::Op::Commit) is to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToCommit {
    pub size: u64,
    pub blocks: Vec<(BlockId, Generation, u64)>,
    pub mtime_ns: Option<i64>,
}

impl State {
    pub fn new(block_size: u64, size: u64, unsynced: BTreeMap<u64, u64>) -> State {
        let block_size = block_size.max(1);
        // Another client may have cut the file since.
        let unsynced = unsynced
            .into_iter()
            .filter(|(start, _)| *start < size)
            .collect();
        State {
            dirty: Dirty::new(block_size),
            sending: None,
            block_size,
            size,
            acked_size: size,
            committed_size: size,
            mtime_ns: None,
            failed: None,
            blocks: BTreeMap::new(),
            complete: size == 0,
            unsynced,
            sender_runs: false,
            dirty_since_ns: None,
        }
    }

    /// Where the block with this offset starts.
    pub fn block_start(&self, offset: u64) -> u64 {
        self.dirty.block_start(offset)
    }

    /// Takes bytes from the application.
    pub fn insert(&mut self, offset: u64, data: &[u8], now_ns: i64, mono_ns: u64) {
        self.dirty.write(offset, data);
        self.size = self.size.max(offset + data.len() as u64);
        self.mtime_ns = Some(now_ns);
        self.dirty_since_ns.get_or_insert(mono_ns);
    }

    /// Moves the next bytes onto their way.
    pub fn take(&mut self, cursor: u64, full_only: bool) -> Option<(u64, Bytes)> {
        let full = self.dirty.take_full();
        let taken = if full.is_some() || full_only {
            full
        } else {
            self.dirty.take_next(cursor)
        }?;
        if self.dirty.is_empty() {
            self.dirty_since_ns = None;
        }
        self.sending = Some(taken.clone());
        Some(taken)
    }

    /// All members have these bytes.
    pub fn acknowledged(&mut self, offset: u64, len: u64, synced: bool, mono_ns: u64) {
        let start = self.block_start(offset);
        if let Some(block) = self.blocks.get_mut(&start) {
            block.at.length = block.at.length.max(offset + len - start);
        }
        self.acked_size = self.acked_size.max(offset + len);
        self.sending = None;
        if synced {
            self.unsynced.remove(&start);
        } else {
            self.unsynced.insert(start, mono_ns);
        }
    }

    /// Members of a block that are out.
    pub fn drop_members(&mut self, block_start: u64, out: impl Fn(&NodeAddr) -> bool) {
        if let Some(block) = self.blocks.get_mut(&block_start) {
            let before = block.at.nodes.len();
            block.at.nodes.retain(|node| !out(node));
            // Who names nobody we know has nobody to go on with either.
            if block.at.nodes.len() == before {
                block.at.nodes.clear();
            }
        }
    }

    /// Keeps the first failure; what waits is dropped, for it cannot be brought anywhere, and readers see what was
    /// acknowledged.
    pub fn fail(&mut self, error: &Error) {
        self.failed.get_or_insert_with(|| error.clone());
        self.dirty.clear();
        self.size = self.acked_size;
        self.sending = None;
        self.dirty_since_ns = None;
    }

    /// What differs from what the NameNode knows; `None`: nothing.
    pub fn to_commit(&self) -> Option<ToCommit> {
        let changed = self
            .blocks
            .values()
            .filter(|block| block.at.length != block.committed_length);
        let blocks: Vec<_> = changed
            .map(|block| (block.at.block, block.at.generation, block.at.length))
            .collect();
        // Times go with the bytes: those that still wait are committed with theirs.
        let mtime_ns = self
            .mtime_ns
            .filter(|_| self.dirty.is_empty() || !blocks.is_empty());
        if blocks.is_empty() && self.acked_size == self.committed_size && mtime_ns.is_none() {
            return None;
        }
        Some(ToCommit {
            size: self.acked_size,
            blocks,
            mtime_ns,
        })
    }

    /// The NameNode took a commit.
    pub fn committed(&mut self, done: &ToCommit) {
        self.committed_size = done.size;
        for (id, _, length) in &done.blocks {
            if let Some(block) = self.blocks.values_mut().find(|block| block.at.block == *id) {
                block.committed_length = *length;
            }
        }
        if self.mtime_ns == done.mtime_ns && self.dirty.is_empty() {
            self.mtime_ns = None;
        }
    }

    /// The NameNode cut or extended the file.
    pub fn resized(&mut self, size: u64) {
        let before = self.blocks.keys().filter(|start| **start < size).count();
        // Whose bytes were cut is asked for again, for its length and perhaps its block changed.
        self.blocks
            .retain(|start, block| start + block.at.length <= size);
        self.unsynced.retain(|start, _| *start < size);
        let forgotten = self.blocks.keys().filter(|start| **start < size).count() < before;
        self.complete = size == 0 || (self.complete && !forgotten);
        self.size = size;
        self.acked_size = size;
        self.committed_size = size;
    }

    /// Blocks and length for a reader.
    pub fn written(&self) -> Written {
        let blocks = self
            .blocks
            .iter()
            .map(|(start, block)| (*start, block.at.clone()))
            .collect();
        Written {
            size: self.size,
            block_size: self.block_size,
            complete: self.complete,
            blocks,
        }
    }

    /// The bytes of a range that have not reached their replicas, in the order in which they lie over one another.
    pub fn waiting(&self, range: &Range<u64>) -> Vec<(u64, Bytes)> {
        let sending = self.sending.iter().filter_map(|(start, bytes)| {
            clip(*start, bytes, range).map(|(start, part)| (start, bytes.slice_ref(part)))
        });
        sending.chain(self.dirty.in_range(range.clone())).collect()
    }
}

/// Whether pieces cover a range without a gap.
pub fn covers(pieces: &[(u64, Bytes)], range: &Range<u64>) -> bool {
    let mut pieces: Vec<_> = pieces
        .iter()
        .map(|(start, bytes)| (*start, start + bytes.len() as u64))
        .collect();
    pieces.sort_unstable();
    let mut at = range.start;
    for (start, end) in pieces {
        if start > at {
            return false;
        }
        at = at.max(end);
    }
    at >= range.end
}

/// Lays pieces over the bytes of a range; what `base` is short of is zeros.
pub fn overlay(base: Bytes, pieces: &[(u64, Bytes)], range: &Range<u64>) -> Bytes {
    let len = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
    if pieces.is_empty() && base.len() == len {
        return base;
    }
    let mut all = BytesMut::from(base);
    all.resize(len, 0);
    for (start, piece) in pieces {
        let at = usize::try_from(start - range.start).unwrap_or(usize::MAX);
        if let Some(place) = all.get_mut(at..at.saturating_add(piece.len())) {
            place.copy_from_slice(piece);
        }
    }
    all.freeze()
}
