//! The records of a data folder: what is in the files, as values.

use super::StoreError;
use boomfs_wire::{Blob, ClusterId, FrameError, decode_record, record_len};
use overlog::{Row, packed};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// The format of the whole data folder: raised whenever an older build could not read it.
pub const FORMAT: u16 = 2;

/// Kind of the identity record.
pub const IDENTITY: u16 = 0x0210;
/// Kind of a log segment's first record.
pub const SEGMENT: u16 = 0x0211;
/// Kind of a group of log entries.
pub const GROUP: u16 = 0x0212;
/// Kind of a mark behind synced groups.
pub const MARK: u16 = 0x0213;
/// Kind of a checkpoint's first record.
pub const CHECKPOINT: u16 = 0x0214;
/// Kind of a piece of a table in a checkpoint.
pub const ROWS: u16 = 0x0215;
/// Kind of a checkpoint's last record.
pub const FOOTER: u16 = 0x0216;

/// What makes a folder a NameNode's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The cluster.
    pub cluster: ClusterId,
    /// When the folder was made, wall clock, ns.
    pub created_ns: i64,
    /// Chosen at random when the folder was made: a NameNode is its folder.
    pub nonce: u64,
    /// It founded the cluster, and did not join it.
    pub founder: bool,
}

/// Starts a log segment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segment {
    /// The cluster.
    pub cluster: ClusterId,
    /// Number of its first entry.
    pub first: u64,
    /// Hash of the rules that wrote what is in it.
    pub rules: u64,
}

/// What one run changed in a local table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// Name of the table.
    pub table: String,
    /// A row came, in place of the one with its key; or else the row with this key went.
    pub insert: bool,
    /// The packed row, or its key columns.
    pub row: Blob,
}

/// An entry of the log: what one run changed.
pub type Entry = Vec<Change>;

/// Entries that follow one another: written and synced together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// Number of the first.
    pub first: u64,
    /// Slots up to this one are known to be decided, and their values are in this log or in a checkpoint.
    pub applied: u64,
    /// The entries.
    pub entries: Vec<Entry>,
}

/// Says that all groups before it were synced, so that a bad one among them is no torn tail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// The last entry before it.
    pub last: u64,
    /// As in [`Group`].
    pub applied: u64,
    /// The log goes on in the next segment, which must be there.
    pub sealed: bool,
}

/// Starts a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// The cluster.
    pub cluster: ClusterId,
    /// The last slot whose effects it holds; for local tables, the last log entry.
    pub slot: u64,
    /// Hash of the rules.
    pub rules: u64,
    /// Names of the tables and their numbers of columns.
    pub tables: Vec<(String, u32)>,
}

/// Rows of one table, one packed row after the other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rows {
    /// Index into [`Checkpoint::tables`].
    pub table: u32,
    /// How many.
    pub count: u64,
    /// The rows.
    pub rows: Blob,
}

/// Ends a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Footer {
    /// As in the header.
    pub slot: u64,
    /// How many rows.
    pub rows: u64,
    /// Digest of all rows; equal for equal states, whatever the order.
    pub digest: u64,
}

/// Why a record was not read.
#[derive(Debug)]
pub struct Bad(pub String);

impl From<FrameError> for Bad {
    fn from(e: FrameError) -> Bad {
        Bad(e.to_string())
    }
}

/// The record's kind, from a prefix that [`record_len`] accepted.
pub fn kind_of(bytes: &[u8]) -> Option<u16> {
    match bytes.get(4..6)? {
        &[a, b] => Some(u16::from_le_bytes([a, b])),
        _ => None,
    }
}

/// The bytes of the record that starts at `at`.
pub fn slice_at(bytes: &[u8], at: usize) -> Result<&[u8], Bad> {
    let rest = bytes.get(at..).unwrap_or_default();
    let len = record_len(FORMAT, rest)?;
    rest.get(..len).ok_or_else(|| {
        Bad(format!(
            "the record's {len} bytes end after the file, which has {}",
            bytes.len()
        ))
    })
}

/// Decodes the record that starts at `at`; also says where the next one starts.
pub fn read_at<T: DeserializeOwned>(kind: u16, bytes: &[u8], at: usize) -> Result<(T, usize), Bad> {
    let record = slice_at(bytes, at)?;
    Ok((decode_record(kind, FORMAT, record)?, at + record.len()))
}

/// Decodes a file that is one record. A version that is too new gets its own error.
pub fn decode_file<T: DeserializeOwned>(
    kind: u16,
    file: &Path,
    bytes: &[u8],
) -> Result<T, StoreError> {
    decode_record(kind, FORMAT, bytes).map_err(|e| match e {
        FrameError::UnknownVersion { got, max, .. } => StoreError::NewerFormat {
            file: file.display().to_string(),
            got,
            max,
        },
        e => StoreError::corrupt(file, 0, e.to_string()),
    })
}

/// Splits packed rows.
pub fn split(bytes: &[u8], count: u64, columns: u32) -> Option<Vec<Row>> {
    let mut rest = bytes;
    let mut rows = Vec::new();
    for _ in 0..count {
        let mut len = 0;
        for _ in 0..columns {
            len += match packed::skip(rest.get(len..)?) {
                0 => return None,
                n => n,
            };
        }
        let (row, behind) = rest.split_at_checked(len)?;
        rows.push(Row::check(row.to_vec(), columns as usize)?);
        rest = behind;
    }
    rest.is_empty().then_some(rows)
}
