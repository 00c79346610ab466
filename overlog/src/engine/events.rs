//! The events of one tick: rows in a slab, sets by hash, hash indexes by column.

use crate::packed;
use hashbrown::{DefaultHashBuilder, HashTable};
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

/// Rows of one event with some columns' values.
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
    set: HashTable<u32>,
    indexes: Vec<HashIndex>,
    hasher: DefaultHashBuilder,
}

impl EventRows {
    /// Empty, with hash indexes on these columns.
    pub fn new(indexes: &[Vec<usize>]) -> EventRows {
        EventRows {
            indexes: indexes
                .iter()
                .map(|c| HashIndex {
                    columns: c.clone(),
                    keys: RowBuf::default(),
                    table: HashTable::new(),
                    next: Vec::new(),
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
        for index in &mut self.indexes {
            index.add(row, at, &self.hasher);
        }
        true
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
        let index = self.indexes.get(index)?;
        let hash = self.hasher.hash_one(key);
        let found = index
            .table
            .find(hash, |(first, _)| index.keys.get(*first as usize) == key)?;
        Some(found.0 as usize)
    }

    /// The next row with the same key.
    pub fn next(&self, index: usize, at: usize) -> Option<usize> {
        let next = self.indexes.get(index)?.next.get(at)?;
        (*next != NONE).then_some(*next as usize)
    }

    /// Removes all rows, keeping the room.
    pub fn clear(&mut self) {
        if self.rows.is_empty() {
            return;
        }
        self.rows.clear();
        self.set.clear();
        for index in &mut self.indexes {
            index.keys.clear();
            index.table.clear();
            index.next.clear();
        }
    }
}

impl HashIndex {
    fn add(&mut self, row: &[u8], at: u32, hasher: &DefaultHashBuilder) {
        let mut rest = row;
        let mut column = 0;
        for wanted in &self.columns {
            while column < *wanted {
                rest = packed::split_first(rest).1;
                column += 1;
            }
            let (value, after) = packed::split_first(rest);
            self.keys.writer().extend_from_slice(value);
            rest = after;
            column += 1;
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
