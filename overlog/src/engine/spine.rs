//! Arrangements of packed rows: keys and values in byte slabs instead of vectors of objects.

use crate::packed::Row;
use differential_dataflow::batcher::merge::MergeBatcher;
use differential_dataflow::batcher::merge::vec::VecMerger;
use differential_dataflow::operators::arrange::{Arranged, TraceAgent};
use differential_dataflow::trace::implementations::ord_neu::{OrdValBatch, OrdValBuilder};
use differential_dataflow::trace::implementations::spine_fueled::Spine;
use differential_dataflow::trace::implementations::{BatchContainer, ContainerChunker, OffsetList};
use std::rc::Rc;
use timely::container::PushInto;

/// Rows in one slab of bytes, with the offset of each row's end.
pub struct RowSlab {
    bytes: Vec<u8>,
    ends: OffsetList,
}

impl RowSlab {
    fn bounds(&self, index: usize) -> (usize, usize) {
        let start = if index == 0 {
            0
        } else {
            self.ends.index(index - 1)
        };
        (start, self.ends.index(index))
    }

    fn push_bytes(&mut self, row: &[u8]) {
        self.bytes.extend_from_slice(row);
        self.ends.push(self.bytes.len());
    }
}

impl BatchContainer for RowSlab {
    type Owned = Row;
    type ReadItem<'a> = &'a [u8];

    fn into_owned(item: &[u8]) -> Row {
        Row::from_bytes(item.to_vec())
    }

    fn push_ref(&mut self, item: &[u8]) {
        self.push_bytes(item);
    }

    fn push_own(&mut self, item: &Row) {
        self.push_bytes(item.as_bytes());
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.ends = OffsetList::with_capacity(0);
    }

    fn with_capacity(size: usize) -> Self {
        RowSlab {
            bytes: Vec::new(),
            ends: OffsetList::with_capacity(size),
        }
    }

    fn merge_capacity(a: &Self, b: &Self) -> Self {
        // Room for the bytes grows as they come: merging often cancels much of both sides.
        let mut merged = Self::with_capacity(a.len() + b.len());
        merged.bytes.reserve(a.bytes.len().max(b.bytes.len()));
        merged
    }

    fn reborrow<'b, 'a: 'b>(item: &'a [u8]) -> &'b [u8] {
        item
    }

    #[inline]
    fn index(&self, index: usize) -> &[u8] {
        let (start, end) = self.bounds(index);
        <[u8]>::get(&self.bytes, start..end).unwrap_or_default()
    }

    fn len(&self) -> usize {
        self.ends.len()
    }
}

impl PushInto<Row> for RowSlab {
    fn push_into(&mut self, item: Row) {
        self.push_bytes(item.as_bytes());
    }
}

impl PartialEq<Row> for [u8] {
    fn eq(&self, other: &Row) -> bool {
        self == other.as_bytes()
    }
}

/// Times are the ticks' numbers.
pub type Tick = u64;
/// Multiplicities.
pub type Diff = isize;
/// An update of an arrangement: key and value are packed columns.
pub type Update<T, R = Diff> = ((Row, Row), T, R);
/// How a batch is laid out.
pub type Layout<T, R = Diff> = (RowSlab, RowSlab, Vec<T>, Vec<R>, OffsetList);
/// An immutable batch.
pub type Batch<T, R = Diff> = OrdValBatch<Layout<T, R>>;
/// A trace of batches.
pub type RowSpine<T, R = Diff> = Spine<Rc<Batch<T, R>>>;
/// Builds batches.
pub type RowBuilder<T, R = Diff> = OrdValBuilder<Layout<T, R>, Vec<Update<T, R>>>;
/// Sorts updates into batches.
pub type RowBatcher<T, R = Diff> = MergeBatcher<
    ContainerChunker<Vec<Update<T, R>>>,
    VecMerger<(Row, Row), T, R>,
    RowBuilder<T, R>,
>;
/// A shared reader of a trace.
pub type RowTrace<T, R = Diff> = TraceAgent<RowSpine<T, R>>;
/// An arrangement inside a dataflow.
pub type RowArranged<'scope, T, R = Diff> = Arranged<'scope, RowTrace<T, R>>;
