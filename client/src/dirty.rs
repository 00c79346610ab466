//! Bytes that were written and have not left yet. No I/O.
//!
//! The file is divided into cells: each block from its start into parts of at most
//! [`PACKET`](crate::limits::PACKET) bytes. No piece crosses a cell, so each becomes one packet on one block.

use crate::limits::{PACKET, PIECE_OVERHEAD};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Bound, Range};

/// See the module.
#[derive(Debug)]
pub struct Dirty {
    block_size: u64,
    /// Pieces by offset; they do not overlap.
    pieces: BTreeMap<u64, Vec<u8>>,
    /// Last pieces of cells that are written up to their end: they will not grow any more.
    full: BTreeSet<u64>,
    cost: usize,
}

impl Dirty {
    /// `block_size`: of the file, bytes; not 0.
    pub fn new(block_size: u64) -> Dirty {
        Dirty {
            block_size: block_size.max(1),
            pieces: BTreeMap::new(),
            full: BTreeSet::new(),
            cost: 0,
        }
    }

    /// Nothing waits.
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// What the pieces cost in memory, bytes.
    pub fn cost(&self) -> usize {
        self.cost
    }

    /// Whether [`Dirty::take_full`] has something to give.
    pub fn has_full(&self) -> bool {
        !self.full.is_empty()
    }

    /// Where the block with this offset starts.
    pub fn block_start(&self, offset: u64) -> u64 {
        offset - offset % self.block_size
    }

    /// Where the cell with this offset ends.
    fn cell_end(&self, offset: u64) -> u64 {
        let block = self.block_start(offset);
        let in_block = offset - block;
        let end = (in_block - in_block % PACKET + PACKET).min(self.block_size);
        block.saturating_add(end)
    }

    /// Takes bytes; they replace what was there.
    pub fn write(&mut self, mut offset: u64, mut data: &[u8]) {
        while !data.is_empty() {
            let room = usize::try_from(self.cell_end(offset) - offset).unwrap_or(usize::MAX);
            let (now, later) = data.split_at(data.len().min(room));
            self.write_in_cell(offset, now);
            offset += now.len() as u64;
            data = later;
        }
    }

    fn write_in_cell(&mut self, offset: u64, data: &[u8]) {
        let end = offset + data.len() as u64;
        let cell_end = self.cell_end(offset);
        self.trim_behind(offset, end);
        // Overlaps or touches the piece before, in the same cell: a sequential writer always lands here.
        let joins = |start: u64, piece: &[u8]| {
            start + piece.len() as u64 >= offset && self.cell_end(start) == cell_end
        };
        let before = self.pieces.range(..=offset).next_back();
        let before = before
            .filter(|(start, piece)| joins(**start, piece))
            .map(|(start, _)| *start);
        let start = before.unwrap_or(offset);
        if let Some(piece) = before.and_then(|start| self.pieces.get_mut(&start)) {
            let at = usize::try_from(offset - start).unwrap_or(usize::MAX);
            let overlap = (piece.len() - at).min(data.len());
            let (over, rest) = data.split_at(overlap);
            if let Some(place) = piece.get_mut(at..at + overlap) {
                place.copy_from_slice(over);
            }
            piece.extend_from_slice(rest);
            self.cost += rest.len();
        } else {
            self.pieces.insert(offset, data.to_vec());
            self.cost += data.len() + PIECE_OVERHEAD;
        }
        if end == cell_end {
            self.full.insert(start);
        }
    }

    /// Cuts what `offset..end` covers off the pieces that start inside of it, behind `offset`.
    fn trim_behind(&mut self, offset: u64, end: u64) {
        loop {
            let inside = (Bound::Excluded(offset), Bound::Excluded(end));
            let next = self.pieces.range(inside).next().map(|(start, _)| *start);
            let Some(start) = next else { return };
            let Some(mut piece) = self.pieces.remove(&start) else {
                return;
            };
            self.cost -= piece.len() + PIECE_OVERHEAD;
            let was_full = self.full.remove(&start);
            let covered = usize::try_from(end - start).unwrap_or(usize::MAX);
            if piece.len() > covered {
                let rest = piece.split_off(covered);
                self.cost += rest.len() + PIECE_OVERHEAD;
                self.pieces.insert(end, rest);
                if was_full {
                    self.full.insert(end);
                }
                return;
            }
        }
    }

    /// Takes the bytes of a cell that is written up to its end, if there is one.
    pub fn take_full(&mut self) -> Option<(u64, Bytes)> {
        let last = *self.full.first()?;
        // Pieces of the cell that touch the last one leave with it.
        let mut start = last;
        while let Some((before, piece)) = self.pieces.range(..start).next_back()
            && *before + piece.len() as u64 == start
            && self.cell_end(*before) == self.cell_end(start)
        {
            start = *before;
        }
        self.take_run(start)
    }

    /// Takes the next bytes at or behind `cursor`, or from the front when there are none.
    pub fn take_next(&mut self, cursor: u64) -> Option<(u64, Bytes)> {
        let next = self
            .pieces
            .range(cursor..)
            .next()
            .or_else(|| self.pieces.iter().next());
        let start = *next?.0;
        self.take_run(start)
    }

    /// Takes the piece at `start` and those of its cell that follow without a gap.
    fn take_run(&mut self, start: u64) -> Option<(u64, Bytes)> {
        let cell_end = self.cell_end(start);
        let mut run = self.remove(start)?;
        loop {
            let next = start + run.len() as u64;
            if next >= cell_end {
                break;
            }
            let Some(piece) = self.remove(next) else {
                break;
            };
            run.extend_from_slice(&piece);
        }
        Some((start, Bytes::from(run)))
    }

    fn remove(&mut self, start: u64) -> Option<Vec<u8>> {
        let piece = self.pieces.remove(&start)?;
        self.full.remove(&start);
        self.cost -= piece.len() + PIECE_OVERHEAD;
        Some(piece)
    }

    /// Whether bytes of this block wait.
    pub fn has_block(&self, block_start: u64) -> bool {
        self.pieces
            .range(block_start..block_start.saturating_add(self.block_size))
            .next()
            .is_some()
    }

    /// Drops what lies at or behind `size`.
    pub fn cut(&mut self, size: u64) {
        if let Some((start, piece)) = self.pieces.range_mut(..size).next_back() {
            let keep = usize::try_from(size - *start).unwrap_or(usize::MAX);
            if piece.len() > keep {
                self.cost -= piece.len() - keep;
                piece.truncate(keep);
                self.full.remove(start);
            }
        }
        while let Some((start, _)) = self.pieces.range(size..).next() {
            let start = *start;
            self.remove(start);
        }
    }

    /// Drops everything.
    pub fn clear(&mut self) {
        self.pieces.clear();
        self.full.clear();
        self.cost = 0;
    }

    /// The bytes that lie in a range, by offset.
    pub fn in_range(&self, range: Range<u64>) -> Vec<(u64, Bytes)> {
        let mut found = Vec::new();
        let first = self.pieces.range(..range.start).next_back();
        for (start, piece) in first
            .into_iter()
            .chain(self.pieces.range(range.start..range.end.max(range.start)))
        {
            found.extend(
                clip(*start, piece, &range)
                    .map(|(start, part)| (start, Bytes::copy_from_slice(part))),
            );
        }
        found
    }
}

/// The part of a piece that lies in a range.
pub fn clip<'a>(start: u64, piece: &'a [u8], range: &Range<u64>) -> Option<(u64, &'a [u8])> {
    let end = start.saturating_add(piece.len() as u64);
    let from = start.max(range.start);
    let to = end.min(range.end);
    if from >= to {
        return None;
    }
    let part = piece.get(usize::try_from(from - start).ok()?..usize::try_from(to - start).ok()?)?;
    Some((from, part))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sequential_writes_become_one_packet_at_the_end_of_the_cell() {
        let mut dirty = Dirty::new(4 * PACKET);
        let half = vec![1; (PACKET / 2) as usize];
        dirty.write(0, &half);
        assert_eq!(dirty.take_full(), None);
        dirty.write(PACKET / 2, &half);
        dirty.write(PACKET, &[2]);
        let (start, packet) = dirty.take_full().unwrap();
        assert_eq!((start, packet.len() as u64), (0, PACKET));
        assert_eq!(dirty.take_full(), None);
        assert_eq!(dirty.take_next(0), Some((PACKET, Bytes::from_static(&[2]))));
        assert_eq!(dirty.cost(), 0);
    }

    #[test]
    fn no_packet_crosses_a_block() {
        let mut dirty = Dirty::new(4096);
        dirty.write(4000, &[7; 200]);
        assert_eq!(dirty.take_full(), Some((4000, Bytes::from(vec![7; 96]))));
        assert_eq!(dirty.take_next(0), Some((4096, Bytes::from(vec![7; 104]))));
    }

    #[derive(Clone, Debug)]
    enum Step {
        Write(u64, Vec<u8>),
        Cut(u64),
        TakeFull,
        TakeNext(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        let bytes = prop_oneof![
            4 => proptest::collection::vec(any::<u8>(), 1..300),
            1 => (1..20_000_usize, any::<u8>()).prop_map(|(n, byte)| vec![byte; n]),
        ];
        prop_oneof![
            8 => (0..40_000_u64, bytes).prop_map(|(at, bytes)| Step::Write(at, bytes)),
            1 => (0..40_000_u64).prop_map(Step::Cut),
            1 => Just(Step::TakeFull),
            2 => (0..40_000_u64).prop_map(Step::TakeNext),
        ]
    }

    /// Bytes as (written, value), the model of a buffer.
    fn check(dirty: &Dirty, model: &[Option<u8>]) {
        let mut got = vec![None; model.len()];
        for (start, piece) in dirty.in_range(0..model.len() as u64) {
            for (at, byte) in piece.iter().enumerate() {
                got[start as usize + at] = Some(*byte);
            }
        }
        assert!(got == model, "buffer and model differ");
        let cost: usize = dirty
            .pieces
            .values()
            .map(|piece| piece.len() + PIECE_OVERHEAD)
            .sum();
        assert_eq!(dirty.cost(), cost);
        assert!(
            dirty
                .full
                .iter()
                .all(|start| dirty.pieces.contains_key(start))
        );
    }

    proptest! {
        #[test]
        fn buffer_holds_what_was_written_last(block_size in prop_oneof![Just(4096_u64), Just(12_288)], steps in proptest::collection::vec(step(), 1..60)) {
            let mut dirty = Dirty::new(block_size);
            let mut model: Vec<Option<u8>> = vec![None; 64_000];
            for step in steps {
                match step {
                    Step::Write(at, bytes) => {
                        dirty.write(at, &bytes);
                        for (i, byte) in bytes.iter().enumerate() {
                            model[at as usize + i] = Some(*byte);
                        }
                    }
                    Step::Cut(size) => {
                        dirty.cut(size);
                        model[size as usize..].fill(None);
                    }
                    Step::TakeFull | Step::TakeNext(_) => {
                        let taken = if let Step::TakeNext(cursor) = step { dirty.take_next(cursor) } else { dirty.take_full() };
                        if let Some((start, bytes)) = taken {
                            prop_assert_eq!(start / block_size, (start + bytes.len() as u64 - 1) / block_size);
                            for (i, byte) in bytes.iter().enumerate() {
                                prop_assert_eq!(model[start as usize + i].take(), Some(*byte));
                            }
                        } else if matches!(step, Step::TakeNext(_)) {
                            prop_assert!(model.iter().all(Option::is_none));
                        }
                    }
                }
                check(&dirty, &model);
            }
        }
    }
}
