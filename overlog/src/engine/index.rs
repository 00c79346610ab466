//! Reading arrangements outside of dataflows: rows by prefix, in order, as they stand.

use crate::engine::plan::IndexId;
use crate::engine::spine::{Batch, Diff, RowTrace, Tick};
use crate::packed::Row;
use differential_dataflow::consolidation::consolidate;
use differential_dataflow::trace::TraceReader;
use differential_dataflow::trace::implementations::BatchContainer;
use hashbrown::{DefaultHashBuilder, HashTable};
use std::cell::RefCell;
use std::cmp::Ordering;
use std::hash::BuildHasher;
use std::rc::Rc;

/// The batches of a trace.
pub type Batches = Rc<Vec<Rc<Batch<Tick>>>>;

/// Takes the batches of a trace. All updates in it must be final.
pub fn batches(trace: &RowTrace<Tick>) -> Batches {
    let mut batches = Vec::new();
    trace.map_spans(|span| batches.extend(span.inner.clone()));
    Rc::new(batches)
}

/// Changes of an arrangement that are in no batch yet: keys and values with what is added to their
/// multiplicities, sorted.
#[derive(Clone, Default)]
pub struct Recent(Vec<((Row, Row), Diff)>);

impl Recent {
    /// Adds changes.
    pub fn extend(&mut self, changes: impl ExactSizeIterator<Item = ((Row, Row), Diff)>) {
        if changes.len() > self.0.len() / 8 {
            self.0.extend(changes);
            consolidate(&mut self.0);
            return;
        }
        for (pair, diff) in changes {
            match self.0.binary_search_by(|(p, _)| p.cmp(&pair)) {
                Err(at) => self.0.insert(at, (pair, diff)),
                Ok(at) => {
                    let total = self.0.get_mut(at).map(|(_, d)| {
                        *d += diff;
                        *d
                    });
                    if total == Some(0) {
                        self.0.remove(at);
                    }
                }
            }
        }
    }

    /// How many rows changed.
    pub fn rows(&self) -> usize {
        self.0.len()
    }

    /// Takes all of them.
    pub fn take(&mut self) -> Vec<((Row, Row), Diff)> {
        std::mem::take(&mut self.0)
    }

    fn row(&self, at: usize) -> (&[u8], &[u8]) {
        match self.0.get(at) {
            Some(((key, val), _)) => (key.as_bytes(), val.as_bytes()),
            None => (&[], &[]),
        }
    }

    /// The rows that a seek is for, from the first on: where they start and end.
    fn position(&self, key_columns: usize, seek: &Seek) -> (usize, usize) {
        let (key, rest) = seek.split(key_columns);
        let order = |(k, v): (&[u8], &[u8])| match key {
            None => against(k, rest),
            Some(key) => k.cmp(key).then_with(|| against(v, rest)),
        };
        let before = |at: usize| {
            let (k, v) = self.row(at);
            match &seek.low {
                Some((low, excluded)) if key.is_none() => before_low(k, rest, low, *excluded),
                Some((low, excluded)) if key == Some(k) => before_low(v, rest, low, *excluded),
                _ => order((k, v)) == Ordering::Less,
            }
        };
        let start = partition(0, self.0.len(), before);
        let end = partition(start, self.0.len(), |at| {
            order(self.row(at)) == Ordering::Equal
        });
        (start, end)
    }
}

/// An arrangement as it stood at some moment.
#[derive(Clone, Default)]
pub struct Snapshot {
    /// What is in its trace.
    pub batches: Batches,
    /// What is not yet.
    pub recent: Rc<Recent>,
}

/// What to look for in an arrangement: rows whose bytes (key, then value) start with `prefix`,
/// optionally from `low` and up to `high` in what follows.
#[derive(Clone, Debug, Default)]
pub struct Seek {
    /// Packed leading columns.
    pub prefix: Vec<u8>,
    /// How many columns that is.
    pub columns: usize,
    /// The next column's least value, and whether it is itself excluded.
    pub low: Option<(Vec<u8>, bool)>,
    /// The next column's greatest value, and whether it is itself excluded.
    pub high: Option<(Vec<u8>, bool)>,
}

impl Seek {
    /// The part of the prefix that is a whole key, if it has one, and the rest.
    fn split(&self, key_columns: usize) -> (Option<&[u8]>, &[u8]) {
        let prefix = self.prefix.as_slice();
        if self.columns < key_columns {
            return (None, prefix);
        }
        let mut at = 0;
        for _ in 0..key_columns {
            at += crate::packed::skip(prefix.get(at..).unwrap_or_default());
        }
        let (key, rest) = prefix.split_at(at.min(prefix.len()));
        (Some(key), rest)
    }
}

/// The place of what is in no batch among the parts of a scan.
const RECENT: usize = usize::MAX;

/// A row: which batch, the place of its key, the place of its value.
type Place = (usize, usize, usize);

/// Where the seeks of a tick led: many rules look at the same rows.
#[derive(Default)]
pub struct Places {
    table: HashTable<u32>,
    known: Vec<Known>,
    prefixes: Vec<u8>,
    parts: Vec<Part>,
    hasher: DefaultHashBuilder,
}

/// Most seeks that are remembered in a tick: some 10 MiB of them.
const MOST_PLACES: usize = 65_536;

struct Known {
    hash: u64,
    index: IndexId,
    columns: usize,
    /// Where its prefix and its parts end; they start where those before end.
    prefix_end: usize,
    parts_end: usize,
}

impl Places {
    /// Forgets all: arrangements changed.
    pub fn clear(&mut self) {
        self.table.clear();
        self.known.clear();
        self.prefixes.clear();
        self.parts.clear();
    }

    fn ends_before(&self, at: usize) -> (usize, usize) {
        let before = at.checked_sub(1).and_then(|b| self.known.get(b));
        before.map_or((0, 0), |k| (k.prefix_end, k.parts_end))
    }

    fn is(&self, at: u32, index: IndexId, seek: &Seek) -> bool {
        let at = at as usize;
        let (start, _) = self.ends_before(at);
        self.known.get(at).is_some_and(|k| {
            k.index == index
                && k.columns == seek.columns
                && self.prefixes.as_slice().get(start..k.prefix_end) == Some(seek.prefix.as_slice())
        })
    }

    fn get(&self, hash: u64, index: IndexId, seek: &Seek) -> Option<&[Part]> {
        let at = *self.table.find(hash, |at| self.is(*at, index, seek))? as usize;
        let (_, start) = self.ends_before(at);
        self.parts
            .as_slice()
            .get(start..self.known.get(at)?.parts_end)
    }

    fn put(&mut self, hash: u64, index: IndexId, seek: &Seek, parts: &[Part]) {
        if self.known.len() >= MOST_PLACES {
            return;
        }
        let Ok(at) = u32::try_from(self.known.len()) else {
            return;
        };
        self.prefixes.extend_from_slice(&seek.prefix);
        self.parts.extend_from_slice(parts);
        self.known.push(Known {
            hash,
            index,
            columns: seek.columns,
            prefix_end: self.prefixes.len(),
            parts_end: self.parts.len(),
        });
        let known = &self.known;
        self.table
            .insert_unique(hash, at, |at| known.get(*at as usize).map_or(0, |k| k.hash));
    }

    fn hash(&self, index: IndexId, prefix: &[u8]) -> u64 {
        self.hasher.hash_one((index.0, prefix))
    }
}

/// One batch's part of a scan. Of what is in no batch, `key` and `key_end` count rows.
#[derive(Clone, Copy)]
struct Part {
    batch: usize,
    key: usize,
    key_end: usize,
    val: usize,
    val_end: usize,
}

/// Merges the rows of a snapshot: in order, each once, those that add up to nothing left out.
pub struct Scan {
    snapshot: Snapshot,
    parts: Vec<Part>,
    key_columns: usize,
    seek: Seek,
    /// The row last returned.
    at: Place,
}

impl Scan {
    /// An empty scan, to be reused by [`Scan::start`].
    pub fn new() -> Scan {
        Scan {
            snapshot: Snapshot::default(),
            parts: Vec::new(),
            key_columns: 0,
            seek: Seek::default(),
            at: (0, 0, 0),
        }
    }

    /// The seek to fill in before [`Scan::start`]; its buffers are reused.
    pub fn seek_mut(&mut self) -> &mut Seek {
        &mut self.seek
    }

    /// Starts over on an arrangement whose key has `key_columns` columns, with the seek set before.
    pub fn start(&mut self, snapshot: Snapshot, key_columns: usize) {
        self.parts.clear();
        self.key_columns = key_columns;
        for (at, batch) in snapshot.batches.iter().enumerate() {
            if let Some(part) = position(batch, at, key_columns, &self.seek) {
                self.parts.push(part);
            }
        }
        self.snapshot = snapshot;
        let (start, end) = self.snapshot.recent.position(key_columns, &self.seek);
        if start < end && self.within((RECENT, start, 0)) {
            self.parts.push(Part {
                batch: RECENT,
                key: start,
                key_end: end,
                val: 0,
                val_end: 0,
            });
        }
    }

    /// The same, if it is not known from before in this tick where the seek leads.
    pub fn start_once(
        &mut self,
        snapshot: Snapshot,
        key_columns: usize,
        index: IndexId,
        places: &RefCell<Places>,
    ) {
        if self.seek.low.is_some() || self.seek.high.is_some() {
            self.start(snapshot, key_columns);
            return;
        }
        let mut places = places.borrow_mut();
        let hash = places.hash(index, &self.seek.prefix);
        if let Some(parts) = places.get(hash, index, &self.seek) {
            self.parts.clear();
            self.parts.extend_from_slice(parts);
            self.key_columns = key_columns;
            self.snapshot = snapshot;
            return;
        }
        self.start(snapshot, key_columns);
        places.put(hash, index, &self.seek, &self.parts);
    }

    /// Lets go of the batches.
    pub fn finish(&mut self) {
        self.parts.clear();
        self.snapshot = Snapshot::default();
    }

    /// Steps to the next row; false at the end.
    #[inline]
    pub fn advance(&mut self) -> bool {
        loop {
            let Some(first) = self.parts.first() else {
                return false;
            };
            let mut least = (first.batch, first.key, first.val);
            let mut tied = false;
            for part in self.parts.iter().skip(1) {
                match self.compare((part.batch, part.key, part.val), least) {
                    Ordering::Less => {
                        least = (part.batch, part.key, part.val);
                        tied = false;
                    }
                    Ordering::Equal => tied = true,
                    Ordering::Greater => {}
                }
            }
            let mut total = 0;
            let mut at = 0;
            while let Some(part) = self.parts.get(at) {
                let here = (part.batch, part.key, part.val);
                let same = here == least || (tied && self.compare(here, least) == Ordering::Equal);
                if !same {
                    at += 1;
                    continue;
                }
                total += self.multiplicity(here);
                if self.step(at) {
                    at += 1;
                } else {
                    self.parts.remove(at);
                }
            }
            self.at = least;
            if total > 0 {
                return true;
            }
        }
    }

    /// The row last stepped to: its key's and its value's bytes.
    #[inline]
    pub fn row(&self) -> (&[u8], &[u8]) {
        self.parts_of(self.at)
    }

    fn parts_of(&self, (batch, key, val): Place) -> (&[u8], &[u8]) {
        match self.snapshot.batches.get(batch) {
            Some(b) => (b.storage.keys.index(key), b.storage.vals.get_abs(val)),
            None => self.snapshot.recent.row(key),
        }
    }

    fn compare(&self, a: Place, b: Place) -> Ordering {
        self.parts_of(a).cmp(&self.parts_of(b))
    }

    fn multiplicity(&self, (batch, key, val): Place) -> Diff {
        let Some(b) = self.snapshot.batches.get(batch) else {
            let recent = self.snapshot.recent.0.get(key);
            return recent.map_or(0, |(_, diff)| *diff);
        };
        let (low, high) = b.storage.upds.bounds(val);
        (low..high).map(|i| *b.storage.upds.get_abs(i).1).sum()
    }

    /// Moves a part to its next row in range; false when there is none.
    fn step(&mut self, at: usize) -> bool {
        let Some(part) = self.parts.get_mut(at) else {
            return false;
        };
        part.val += 1;
        if part.val >= part.val_end {
            part.key += 1;
            if part.key >= part.key_end {
                return false;
            }
            if let Some(batch) = self.snapshot.batches.get(part.batch) {
                (part.val, part.val_end) = batch.storage.vals.bounds(part.key);
            }
        }
        let place = (part.batch, part.key, part.val);
        self.within(place)
    }

    /// Is this row, which has the prefix, at or below the upper bound?
    fn within(&self, place: Place) -> bool {
        self.seek.high.is_none() || within(self.parts_of(place), self.key_columns, &self.seek)
    }
}

impl Default for Scan {
    fn default() -> Self {
        Scan::new()
    }
}

/// First index in `from..to` for which the predicate is false; the predicate is true, then false.
fn partition(from: usize, to: usize, less: impl Fn(usize) -> bool) -> usize {
    let (mut low, mut high) = (from, to);
    while low < high {
        let middle = low.midpoint(high);
        if less(middle) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    low
}

/// Compares a row's leading bytes with a bound: `Equal` means that the row starts with it.
fn against(row: &[u8], bound: &[u8]) -> Ordering {
    match row.get(..bound.len()) {
        Some(head) => head.cmp(bound),
        None => row.cmp(bound),
    }
}

fn position(batch: &Batch<Tick>, at: usize, key_columns: usize, seek: &Seek) -> Option<Part> {
    if seek.columns < key_columns {
        position_keys(batch, at, seek)
    } else {
        position_vals(batch, at, key_columns, seek)
    }
    .filter(|p| p.key < p.key_end && p.val < p.val_end)
    .filter(|p| {
        let row = || {
            (
                batch.storage.keys.index(p.key),
                batch.storage.vals.get_abs(p.val),
            )
        };
        seek.high.is_none() || within(row(), key_columns, seek)
    })
}

/// The prefix and the range lie within the key.
fn position_keys(batch: &Batch<Tick>, at: usize, seek: &Seek) -> Option<Part> {
    let keys = &batch.storage.keys;
    let prefix = seek.prefix.as_slice();
    let start = match &seek.low {
        None => partition(0, keys.len(), |k| {
            against(keys.index(k), prefix) == Ordering::Less
        }),
        Some((low, excluded)) => partition(0, keys.len(), |k| {
            before_low(keys.index(k), prefix, low, *excluded)
        }),
    };
    let end = if prefix.is_empty() {
        keys.len()
    } else {
        // Mostly few keys match: look from the start on in growing steps.
        let mut reach = 1;
        let mut low = start;
        while start + reach < keys.len()
            && against(keys.index(start + reach), prefix) == Ordering::Equal
        {
            low = start + reach;
            reach *= 2;
        }
        partition(low, keys.len().min(start + reach), |k| {
            against(keys.index(k), prefix) == Ordering::Equal
        })
    };
    if start >= end {
        return None;
    }
    let (val, val_end) = batch.storage.vals.bounds(start);
    Some(Part {
        batch: at,
        key: start,
        key_end: end,
        val,
        val_end,
    })
}

/// The prefix fixes the key; what is left of it and the range lie within the value.
fn position_vals(batch: &Batch<Tick>, at: usize, key_columns: usize, seek: &Seek) -> Option<Part> {
    let keys = &batch.storage.keys;
    let (key, rest) = seek.split(key_columns);
    let key = key?;
    // Batches are of times, and so mostly of a range of the keys that are counters.
    let last = keys.len().checked_sub(1)?;
    if keys.index(last) < key || key < keys.index(0) {
        return None;
    }
    let k = partition(0, keys.len(), |k| keys.index(k) < key);
    if k >= keys.len() || keys.index(k) != key {
        return None;
    }
    let vals = &batch.storage.vals;
    let (low, high) = vals.bounds(k);
    let start = match &seek.low {
        None if rest.is_empty() => low,
        None => partition(low, high, |v| {
            against(vals.get_abs(v), rest) == Ordering::Less
        }),
        Some((bound, excluded)) => partition(low, high, |v| {
            before_low(vals.get_abs(v), rest, bound, *excluded)
        }),
    };
    let end = if rest.is_empty() {
        high
    } else {
        partition(start, high, |v| {
            against(vals.get_abs(v), rest) == Ordering::Equal
        })
    };
    Some(Part {
        batch: at,
        key: k,
        key_end: k + 1,
        val: start,
        val_end: end,
    })
}

/// Is this row before the range that starts at `prefix ++ low`?
fn before_low(row: &[u8], prefix: &[u8], low: &[u8], excluded: bool) -> bool {
    match against(row, prefix) {
        Ordering::Equal => match against(row.get(prefix.len()..).unwrap_or_default(), low) {
            Ordering::Less => true,
            Ordering::Equal => excluded,
            Ordering::Greater => false,
        },
        order => order == Ordering::Less,
    }
}

/// Is this row, which has the prefix, at or below `high`?
fn within((key, val): (&[u8], &[u8]), key_columns: usize, seek: &Seek) -> bool {
    let Some((high, excluded)) = &seek.high else {
        return true;
    };
    let next = if seek.columns < key_columns {
        key.get(seek.prefix.len()..)
    } else {
        val.get(seek.prefix.len().saturating_sub(key.len())..)
    };
    match against(next.unwrap_or_default(), high) {
        Ordering::Less => true,
        Ordering::Equal => !*excluded,
        Ordering::Greater => false,
    }
}
