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
    /// Where the last group starts, bytes; all before it was synced. The header's end if there is none.
    pub last_group: u64,
    /// Why there is a tail to cut off at `end`: a write that never finished.
    pub torn: Option<String>,
    /// The last record says that another segment follows.
    pub sealed: bool,
    /// A mark is the last record.
    pub marked: bool,
}

/// Reads the bytes of a segment. `following` is the first entry of the next segment, if there is one.
///
/// A bad record is a torn tail only if nothing valid stands behind it, in this segment or in the
/// next: a group is written after the sync of the one before, so what stands before a valid group
/// was synced, and being bad it is corrupt. Marks are not synced by themselves, so one that a power
/// cut took may have whole records behind it. Entries are numbered, which tells that nothing but
/// marks is missing, and these are no loss.
///
/// # Errors
/// [`StoreError::Corrupt`] with the place of the first bad record, and
/// [`StoreError::OtherCluster`].
pub fn scan(
    file: &Path,
    bytes: &[u8],
    cluster: ClusterId,
    following: Option<u64>,
) -> Result<Scan, StoreError> {
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
        last_group: at as u64,
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
            Err(Bad(why)) => match next_valid(bytes, at + 1) {
                Some((behind, record)) if record.continues_at(scan.next) => {
                    tracing::warn!(
                        "{}: a mark at byte {at} was lost, but no entry: {why}",
                        file.display()
                    );
                    at = behind;
                }
                None if following.is_none_or(|first| first == scan.next) => {
                    scan.torn = Some(why);
                    return Ok(scan);
                }
                _ => return Err(StoreError::corrupt(file, at as u64, why)),
            },
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
    scan.last_group = at as u64;
    for entry in group.entries {
        scan.entries.push((scan.next, entry));
        scan.next += 1;
    }
    scan.applied = group.applied;
    scan.marked = false;
    Ok(next)
}

/// A record that stands behind a bad one.
enum Behind {
    Group(Group),
    Mark(Mark),
}

impl Behind {
    /// No entry is missing before it, if `next` is the one that would come now.
    fn continues_at(&self, next: u64) -> bool {
        match self {
            Behind::Group(group) => group.first == next,
            Behind::Mark(mark) => mark.last.checked_add(1) == Some(next),
        }
    }
}

/// The first valid record that starts at or behind `from`, and where.
fn next_valid(bytes: &[u8], from: usize) -> Option<(usize, Behind)> {
    let rest = bytes.get(from..).unwrap_or_default();
    let starts = rest.windows(MAGIC.len()).enumerate();
    let starts = starts.filter(|(_, w)| *w == MAGIC).map(|(i, _)| from + i);
    let read = |at| {
        let group =
            record::read_at(record::GROUP, bytes, at).map(|(group, _)| Behind::Group(group));
        let mark = || record::read_at(record::MARK, bytes, at).map(|(mark, _)| Behind::Mark(mark));
        Some((at, group.or_else(|_| mark()).ok()?))
    };
    starts.filter_map(read).next()
}

/// What every record starts with.
const MAGIC: &[u8] = b"BOMF";
