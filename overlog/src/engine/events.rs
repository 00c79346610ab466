//! The events of one tick: rows in a slab, sets by hash, hash indexes by column.

use crate::packed;
use hashbrown::{DefaultHashBuilder, HashTable};
use std::cell::RefCell;
use std::hash::BuildHasher;

/// Rows in one slab.
#[derive(Default)]
pub struct RowBuf {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl RowBuf {
    /// The row at a place.
    pub fn get(&self, at: usize) -> &[u8] {
        let start = if at == 0 {
            0
        } else {
            self.ends.get(at - 1).copied().unwrap_or_default()
        };
        let end = self.ends.get(at).copied().unwrap_or(start);
        self.bytes.get(start..end).unwrap_or_default()
    }

    /// How many rows.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// No rows.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Appends a row.
    pub fn push(&mut self, row: &[u8]) {
        self.bytes.extend_from_slice(row);
        self.ends.push(self.bytes.len());
    }

    /// The bytes of a row that is being written at the end; [`RowBuf::seal`] makes it one.
    pub fn writer(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// Ends the row that was written.
    pub fn seal(&mut self) {
        self.ends.push(self.bytes.len());
    }

    /// Drops what was written since the last row.
    pub fn abandon(&mut self) {
        let end = self.ends.last().copied().unwrap_or_default();
        self.bytes.truncate(end);
    }

    /// Removes all rows, keeping the room.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
    }

    /// All rows.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        (0..self.len()).map(|i| self.get(i))
    }
}

/// The different values that a column of the tick's rows has, while they are few.
struct Distinct {
    column: usize,
    /// A row with each of them.
    rows: Vec<u32>,
    many: bool,
}

/// More different values than this are not told apart.
const FEW: usize = 16;

/// Rows of one event with some columns' values. It takes rows when it is asked: most are not in most ticks.
struct HashIndex {
    columns: Vec<usize>,
    keys: RowBuf,
    /// First and last row of each key.
    table: HashTable<(u32, u32)>,
    /// The next row with the same key.
    next: Vec<u32>,
}

const NONE: u32 = u32::MAX;

/// The rows of one event in this tick.
#[derive(Default)]
pub struct EventRows {
    rows: RowBuf,
    /// Where each column of each row ends, from the start of its row.
    ends: Vec<u32>,
    columns: usize,
    set: HashTable<u32>,
    indexes: Vec<RefCell<HashIndex>>,
    distinct: Vec<Distinct>,
    hasher: DefaultHashBuilder,
}

impl EventRows {
    /// Empty, with so many columns, hash indexes on these, and their different values of some noted.
    pub fn new(columns: usize, indexes: &[Vec<usize>], distinct: &[usize]) -> EventRows {
        EventRows {
            columns,
            distinct: distinct
                .iter()
                .map(|c| Distinct {
                    column: *c,
                    rows: Vec::new(),
                    many: false,
                })
                .collect(),
            indexes: indexes
                .iter()
                .map(|c| {
                    RefCell::new(HashIndex {
                        columns: c.clone(),
                        keys: RowBuf::default(),
                        table: HashTable::new(),
                        next: Vec::new(),
                    })
                })
                .collect(),
            ..EventRows::default()
        }
    }

    /// The rows, in the order in which they came.
    pub fn rows(&self) -> &RowBuf {
        &self.rows
    }

    /// Adds a row; false if it was there.
    pub fn insert(&mut self, row: &[u8]) -> bool {
        let hash = self.hasher.hash_one(row);
        let rows = &self.rows;
        if self
            .set
            .find(hash, |i| rows.get(*i as usize) == row)
            .is_some()
        {
            return false;
        }
        let Ok(at) = u32::try_from(self.rows.len()) else {
            return false;
        };
        self.rows.push(row);
        let (rows, hasher) = (&self.rows, &self.hasher);
        self.set
            .insert_unique(hash, at, |i| hasher.hash_one(rows.get(*i as usize)));
        let mut end = 0;
        for _ in 0..self.columns {
            end += packed::skip(row.get(end..).unwrap_or_default());
            self.ends.push(u32::try_from(end).unwrap_or(u32::MAX));
        }
        let ends = self.ends.as_slice();
        let ends = ends.get(ends.len() - self.columns..).unwrap_or_default();
        let mut all = std::mem::take(&mut self.distinct);
        for distinct in all.iter_mut().filter(|d| !d.many) {
            let new = value(row, ends, distinct.column);
            let old = |at: &u32| self.columns(*at as usize).get(distinct.column);
            if !distinct.rows.iter().any(|at| old(at) == new) {
                distinct.many = distinct.rows.len() == FEW;
                distinct.rows.push(at);
            }
        }
        self.distinct = all;
        true
    }

    /// The row at a place, to read its columns.
    #[inline]
    pub fn columns(&self, at: usize) -> Columns<'_> {
        let from = at * self.columns;
        Columns {
            row: self.rows.get(at),
            ends: self.ends.get(from..from + self.columns).unwrap_or_default(),
        }
    }

    /// False if no row has a value that is wanted in the column that is noted at `at`.
    pub fn may_have(&self, at: usize, wanted: impl Fn(&[u8]) -> bool) -> bool {
        let Some(distinct) = self.distinct.get(at).filter(|d| !d.many) else {
            return true;
        };
        let value = |row: &u32| self.columns(*row as usize).get(distinct.column);
        distinct.rows.iter().any(|row| wanted(value(row)))
    }

    /// Is the row there?
    pub fn contains(&self, row: &[u8]) -> bool {
        let hash = self.hasher.hash_one(row);
        self.set
            .find(hash, |i| self.rows.get(*i as usize) == row)
            .is_some()
    }

    /// The first row with this key in a hash index.
    pub fn first(&self, index: usize, key: &[u8]) -> Option<usize> {
        let mut index = self.indexes.get(index)?.borrow_mut();
        for at in index.next.len()..self.rows.len() {
            index.add(self.columns(at), u32::try_from(at).ok()?, &self.hasher);
        }
        let hash = self.hasher.hash_one(key);
        let found = index
            .table
            .find(hash, |(first, _)| index.keys.get(*first as usize) == key)?;
        Some(found.0 as usize)
    }

    /// The next row with the same key.
    pub fn next(&self, index: usize, at: usize) -> Option<usize> {
        let next = *self.indexes.get(index)?.borrow().next.get(at)?;
        (next != NONE).then_some(next as usize)
    }

    /// Removes all rows, keeping the room.
    pub fn clear(&mut self) {
        if self.rows.is_empty() {
            return;
        }
        self.rows.clear();
        self.ends.clear();
        self.set.clear();
        for distinct in &mut self.distinct {
            distinct.rows.clear();
            distinct.many = false;
        }
        for index in &mut self.indexes {
            let index = index.get_mut();
            index.keys.clear();
            index.table.clear();
            index.next.clear();
        }
    }
}

/// A row whose columns are found at once.
#[derive(Clone, Copy)]
pub struct Columns<'a> {
    row: &'a [u8],
    ends: &'a [u32],
}

impl<'a> Columns<'a> {
    /// A column's packed value.
    #[inline]
    pub fn get(&self, column: usize) -> &'a [u8] {
        value(self.row, self.ends, column)
    }

    /// Where a column starts and ends in the row.
    #[inline]
    pub fn span(&self, column: usize) -> (usize, usize) {
        span(self.ends, column)
    }

    /// A part of the row's bytes.
    #[inline]
    pub fn bytes(&self, from: usize, to: usize) -> &'a [u8] {
        self.row.get(from..to).unwrap_or_default()
    }
}

#[inline]
fn value<'a>(row: &'a [u8], ends: &[u32], column: usize) -> &'a [u8] {
    let (start, end) = span(ends, column);
    row.get(start..end).unwrap_or_default()
}

#[inline]
fn span(ends: &[u32], column: usize) -> (usize, usize) {
    let start = match column.checked_sub(1) {
        None => 0,
        Some(before) => ends.get(before).copied().unwrap_or(u32::MAX) as usize,
    };
    let end = ends.get(column).copied().unwrap_or(u32::MAX) as usize;
    (start, end)
}

impl HashIndex {
    fn add(&mut self, row: Columns<'_>, at: u32, hasher: &DefaultHashBuilder) {
        for column in &self.columns {
            self.keys.writer().extend_from_slice(row.get(*column));
        }
        self.keys.seal();
        self.next.push(NONE);
        let keys = &self.keys;
        let key = keys.get(at as usize);
        let hash = hasher.hash_one(key);
        match self
            .table
            .find_mut(hash, |(first, _)| keys.get(*first as usize) == key)
        {
            Some((_, last)) => {
                if let Some(link) = self.next.get_mut(*last as usize) {
                    *link = at;
                }
                *last = at;
            }
            None => {
                self.table.insert_unique(hash, (at, at), |(first, _)| {
                    hasher.hash_one(keys.get(*first as usize))
                });
            }
        }
    }
}
