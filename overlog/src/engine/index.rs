//! Reading arrangements outside of dataflows: rows by prefix, in order, as they stand.

use crate::engine::spine::{Batch, RowTrace, Tick};
use differential_dataflow::trace::TraceReader;
use differential_dataflow::trace::implementations::BatchContainer;
use std::cmp::Ordering;
use std::rc::Rc;

/// The batches of an arrangement as they stood at some moment.
pub type Snapshot = Rc<Vec<Rc<Batch<Tick>>>>;

/// Takes the batches of a trace. All updates in it must be final.
pub fn snapshot(trace: &RowTrace<Tick>) -> Snapshot {
    let mut batches = Vec::new();
    trace.map_spans(|span| batches.extend(span.inner.clone()));
    Rc::new(batches)
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

/// One batch's part of a scan.
struct Part {
    batch: usize,
    key: usize,
    key_end: usize,
    val: usize,
    val_end: usize,
}

/// Merges the rows of all batches of a snapshot: in order, each once, those that add up to nothing left out.
pub struct Scan {
    batches: Snapshot,
    parts: Vec<Part>,
    key_columns: usize,
    seek: Seek,
    /// The row last returned: batch, key, value.
    at: (usize, usize, usize),
}

impl Scan {
    /// An empty scan, to be reused by [`Scan::start`].
    pub fn new() -> Scan {
        Scan {
            batches: Rc::default(),
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
    pub fn start(&mut self, batches: &Snapshot, key_columns: usize) {
        self.parts.clear();
        self.batches = Rc::clone(batches);
        self.key_columns = key_columns;
        for (at, batch) in batches.iter().enumerate() {
            if let Some(part) = position(batch, at, key_columns, &self.seek) {
                self.parts.push(part);
            }
        }
    }

    /// Lets go of the batches.
    pub fn finish(&mut self) {
        self.parts.clear();
        self.batches = Rc::default();
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

    fn parts_of(&self, (batch, key, val): (usize, usize, usize)) -> (&[u8], &[u8]) {
        match self.batches.get(batch) {
            Some(b) => (b.storage.keys.index(key), b.storage.vals.get_abs(val)),
            None => (&[], &[]),
        }
    }

    fn compare(&self, a: (usize, usize, usize), b: (usize, usize, usize)) -> Ordering {
        self.parts_of(a).cmp(&self.parts_of(b))
    }

    fn multiplicity(&self, (batch, _, val): (usize, usize, usize)) -> isize {
        let Some(b) = self.batches.get(batch) else {
            return 0;
        };
        let (low, high) = b.storage.upds.bounds(val);
        (low..high).map(|i| *b.storage.upds.get_abs(i).1).sum()
    }

    /// Moves a part to its next row in range; false when there is none.
    fn step(&mut self, at: usize) -> bool {
        let Some(part) = self.parts.get_mut(at) else {
            return false;
        };
        let Some(batch) = self.batches.get(part.batch) else {
            return false;
        };
        part.val += 1;
        if part.val >= part.val_end {
            part.key += 1;
            if part.key >= part.key_end {
                return false;
            }
            (part.val, part.val_end) = batch.storage.vals.bounds(part.key);
        }
        self.seek.high.is_none() || within(batch, part.key, part.val, self.key_columns, &self.seek)
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
    .filter(|p| seek.high.is_none() || within(batch, p.key, p.val, key_columns, seek))
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
    let mut split = 0;
    for _ in 0..key_columns {
        split += crate::packed::skip(seek.prefix.as_slice().get(split..).unwrap_or_default());
    }
    let (key, rest) = seek.prefix.split_at(split.min(seek.prefix.len()));
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
fn within(batch: &Batch<Tick>, key: usize, val: usize, key_columns: usize, seek: &Seek) -> bool {
    let Some((high, excluded)) = &seek.high else {
        return true;
    };
    let next = if seek.columns < key_columns {
        batch.storage.keys.index(key).get(seek.prefix.len()..)
    } else {
        let key_len = batch.storage.keys.index(key).len();
        batch
            .storage
            .vals
            .get_abs(val)
            .get(seek.prefix.len().saturating_sub(key_len)..)
    };
    match against(next.unwrap_or_default(), high) {
        Ordering::Less => true,
        Ordering::Equal => !*excluded,
        Ordering::Greater => false,
    }
}
