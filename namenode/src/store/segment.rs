//! Reading a log segment: which records are there, and whether a bad one is a torn tail.

use super::StoreError;
use super::record::{self, Bad, Entry, Group, Mark, Segment};
use boomfs_wire::ClusterId;
use std::path::Path;

/// What a segment holds.
#[derive(Debug)]
pub struct Scan {
    /// Its first record.
    pub header: Segment,
    /// Entries and their numbers.
    pub entries: Vec<(u64, Entry)>,
    /// The number after its last.
    pub next: u64,
    /// Slots up to here are known to be decided.
    pub applied: u64,
    /// Where the next record goes, bytes.
    pub end: u64,
    /// Why there is a tail to cut off at `end`: a write that never finished.
    pub torn: Option<String>,
    /// The last record says that another segment follows.
    pub sealed: bool,
    /// A mark is the last record.
    pub marked: bool,
}

/// Reads the bytes of a segment.
///
/// A bad record is a torn tail only in the last segment and only if nothing valid stands behind
/// it: records are written one after the other, each after the sync of the one before, so what
/// stands before a valid record was synced, and being bad it is corrupt.
///
/// # Errors
/// [`StoreError::Corrupt`] with the place of the first bad record, and
/// [`StoreError::OtherCluster`].
pub fn scan(file: &Path, bytes: &[u8], cluster: ClusterId, last: bool) -> Result<Scan, StoreError> {
    let (header, mut at) = match record::read_at::<Segment>(record::SEGMENT, bytes, 0) {
        Ok(read) => read,
        Err(Bad(why)) => return Err(StoreError::corrupt(file, 0, why)),
    };
    if header.cluster != cluster {
        let file = file.display().to_string();
        return Err(StoreError::OtherCluster {
            file,
            got: header.cluster,
            want: cluster,
        });
    }
    let next = header.first;
    let mut scan = Scan {
        header,
        entries: Vec::new(),
        next,
        applied: 0,
        end: 0,
        torn: None,
        sealed: false,
        marked: false,
    };
    loop {
        scan.end = at as u64;
        let rest = bytes.get(at..).unwrap_or_default();
        if rest.iter().all(|b| *b == 0) {
            return Ok(scan);
        }
        if scan.sealed {
            return Err(StoreError::corrupt(
                file,
                at as u64,
                "there is data behind the segment's end mark",
            ));
        }
        match read_next(&mut scan, bytes, at) {
            Ok(next) => at = next,
            Err(Bad(why)) if last && !valid_behind(bytes, at) => {
                scan.torn = Some(why);
                return Ok(scan);
            }
            Err(Bad(why)) => return Err(StoreError::corrupt(file, at as u64, why)),
        }
    }
}

/// Reads one record and says where the next starts.
fn read_next(scan: &mut Scan, bytes: &[u8], at: usize) -> Result<usize, Bad> {
    let expected = scan.next;
    if record::kind_of(record::slice_at(bytes, at)?) == Some(record::MARK) {
        let (mark, next) = record::read_at::<Mark>(record::MARK, bytes, at)?;
        if mark.last + 1 != expected {
            return Err(Bad(format!(
                "a mark for entry {} where the last entry is {}",
                mark.last,
                expected - 1
            )));
        }
        scan.sealed = mark.sealed;
        scan.applied = mark.applied;
        scan.marked = true;
        return Ok(next);
    }
    let (group, next) = record::read_at::<Group>(record::GROUP, bytes, at)?;
    if group.first != expected {
        return Err(Bad(format!(
            "a group that starts at entry {} where {expected} is next",
            group.first
        )));
    }
    for entry in group.entries {
        scan.entries.push((scan.next, entry));
        scan.next += 1;
    }
    scan.applied = group.applied;
    scan.marked = false;
    Ok(next)
}

/// Does a valid record start anywhere behind `at`?
fn valid_behind(bytes: &[u8], at: usize) -> bool {
    let rest = bytes.get(at + 1..).unwrap_or_default();
    rest.windows(MAGIC.len())
        .enumerate()
        .filter(|(_, w)| *w == MAGIC)
        .any(|(i, _)| {
            let at = at + 1 + i;
            record::read_at::<Group>(record::GROUP, bytes, at).is_ok()
                || record::read_at::<Mark>(record::MARK, bytes, at).is_ok()
        })
}

/// What every record starts with.
const MAGIC: &[u8] = b"BOMF";
