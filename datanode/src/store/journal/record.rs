//! The bytes of a journal file. Pure; `docs/FORMATS.md` draws them.

use boomfs_wire::{BlockId, CHUNK, Generation};
use bytes::Bytes;
use std::collections::VecDeque;

/// The newest format of journal files that this program knows.
pub(crate) const JOURNAL_VERSION: u32 = 1;
/// Bytes before the first record.
pub(crate) const FILE_HEADER: usize = 64;

const FILE_MAGIC: [u8; 8] = *b"boomjrn\n";
const RECORD_MAGIC: u32 = u32::from_le_bytes(*b"jrec");
const RECORD_HEADER: usize = 32;
const FIXED: usize = 56;
const NO_CUT: u64 = u64::MAX;
const DELETED: u32 = 1;
const APPLIED: u32 = 2;
const BAD: u32 = 4;
/// Longest record, bytes; a packet of one MiB needs little more than one MiB.
const MAX_RECORD: usize = 8 << 20;

/// A chunk as it is after a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Image {
    /// Which chunk.
    pub chunk: u32,
    /// All its bytes; fewer than [`CHUNK`] only in a replica's last.
    pub data: Bytes,
}

/// A change of a replica: its state as it is afterwards, and chunks that are new.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Record {
    /// The block.
    pub block: BlockId,
    /// Its generation.
    pub generation: Generation,
    /// Its block size, bytes.
    pub block_size: u64,
    /// Every byte below was on disk, in place or in this journal, when this record was.
    pub synced: u64,
    /// The replica ends here now; comes before `images`.
    pub cut: Option<u64>,
    /// The replica is in the trash.
    pub deleted: bool,
    /// All earlier records of this block are synced in place.
    pub applied: bool,
    /// The replica is never served again.
    pub bad: bool,
    /// Chunks, in ascending order.
    pub images: Vec<Image>,
}

impl Record {
    /// Appends the record's bytes.
    pub fn encode(&self, lsn: u64, durable: u64, out: &mut Vec<u8>) {
        let images: usize = self.images.iter().map(|i| 8 + i.data.len()).sum();
        let len = FIXED + images;
        let mut head = Vec::with_capacity(RECORD_HEADER);
        head.extend_from_slice(&RECORD_MAGIC.to_le_bytes());
        head.extend_from_slice(&u32::try_from(len).unwrap_or(u32::MAX).to_le_bytes());
        head.extend_from_slice(&lsn.to_le_bytes());
        head.extend_from_slice(&durable.to_le_bytes());
        let start = out.len();
        out.extend_from_slice(&head);
        out.extend_from_slice(&[0; 8]);
        let flags = [
            (self.deleted, DELETED),
            (self.applied, APPLIED),
            (self.bad, BAD),
        ];
        let flags: u32 = flags.iter().filter(|f| f.0).map(|f| f.1).sum();
        for word in [
            self.block.0,
            self.generation.0,
            self.block_size,
            self.synced,
        ] {
            out.extend_from_slice(&word.to_le_bytes());
        }
        out.extend_from_slice(&self.cut.unwrap_or(NO_CUT).to_le_bytes());
        out.extend_from_slice(&flags.to_le_bytes());
        out.extend_from_slice(
            &u32::try_from(self.images.len())
                .unwrap_or(u32::MAX)
                .to_le_bytes(),
        );
        out.extend_from_slice(&[0; 8]);
        for image in &self.images {
            out.extend_from_slice(&image.chunk.to_le_bytes());
            out.extend_from_slice(
                &u32::try_from(image.data.len())
                    .unwrap_or(u32::MAX)
                    .to_le_bytes(),
            );
            out.extend_from_slice(&image.data);
        }
        let payload = out.get(start + RECORD_HEADER..).unwrap_or_default();
        let crc = crc32c::crc32c_append(crc32c::crc32c(&head), payload);
        if let Some(place) = out.get_mut(start + 24..start + 28) {
            place.copy_from_slice(&crc.to_le_bytes());
        }
        out.resize(out.len().next_multiple_of(8), 0);
    }

    fn decode(payload: &Bytes) -> Option<Record> {
        let flags = u32_at(payload, 40)?;
        let cut = u64_at(payload, 32)?;
        let count = u32_at(payload, 44)?;
        let mut images = Vec::new();
        let mut at = FIXED;
        for _ in 0..count {
            let chunk = u32_at(payload, at)?;
            let len = usize::try_from(u32_at(payload, at + 4)?).ok()?;
            let end = (at + 8).checked_add(len)?;
            if len == 0 || len > CHUNK || end > payload.len() {
                return None;
            }
            images.push(Image {
                chunk,
                data: payload.slice(at + 8..end),
            });
            at = end;
        }
        (at == payload.len()).then_some(())?;
        Some(Record {
            block: BlockId(u64_at(payload, 0)?),
            generation: Generation(u64_at(payload, 8)?),
            block_size: u64_at(payload, 16)?,
            synced: u64_at(payload, 24)?,
            cut: (cut != NO_CUT).then_some(cut),
            deleted: flags & DELETED != 0,
            applied: flags & APPLIED != 0,
            bad: flags & BAD != 0,
            images,
        })
    }
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let word = bytes.get(at..at.checked_add(4)?)?;
    word.try_into().ok().map(u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    let word = bytes.get(at..at.checked_add(8)?)?;
    word.try_into().ok().map(u64::from_le_bytes)
}

/// The first bytes of a journal file. `last` is the last record of the file before.
pub(crate) fn file_header(number: u64, first_lsn: u64, last: u64) -> Vec<u8> {
    let mut out = Vec::with_capacity(FILE_HEADER);
    out.extend_from_slice(&FILE_MAGIC);
    out.extend_from_slice(&JOURNAL_VERSION.to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&number.to_le_bytes());
    out.extend_from_slice(&first_lsn.to_le_bytes());
    out.extend_from_slice(&last.to_le_bytes());
    out.resize(FILE_HEADER - 4, 0);
    let crc = crc32c::crc32c(&out);
    out.extend_from_slice(&crc.to_le_bytes());
    out
}

/// The records of a journal file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Contents {
    /// The last record of the file before; all of that file was synced before this one was made.
    pub before: u64,
    /// No record above has this number or a higher one.
    pub next: u64,
    /// The records, in order.
    pub records: Vec<Record>,
    /// Where those are that no later record says were synced: from byte, to byte.
    pub unproven: (usize, usize),
}

/// What a journal file holds.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ParsedJournal {
    /// What is in it.
    Good(Contents),
    /// The file was being made when the machine stopped: nothing was in it.
    Unborn,
    /// A newer program's file.
    Newer(u32),
    /// It cannot be trusted: where, and why.
    Bad(u64, String),
}

struct Found {
    lsn: u64,
    durable: u64,
    record: Record,
    end: usize,
}

/// A valid record at this place.
fn record_at(bytes: &Bytes, at: usize) -> Option<Found> {
    if u32_at(bytes, at)? != RECORD_MAGIC {
        return None;
    }
    let len = usize::try_from(u32_at(bytes, at + 4)?).ok()?;
    if !(FIXED..=MAX_RECORD).contains(&len) {
        return None;
    }
    let body = at + RECORD_HEADER;
    let end = body.checked_add(len)?;
    let payload = bytes.get(body..end)?;
    let head = bytes.get(at..at + 24)?;
    if crc32c::crc32c_append(crc32c::crc32c(head), payload) != u32_at(bytes, at + 24)? {
        return None;
    }
    Some(Found {
        lsn: u64_at(bytes, at + 8)?,
        durable: u64_at(bytes, at + 16)?,
        record: Record::decode(&bytes.slice(body..end))?,
        end: end.next_multiple_of(8),
    })
}

/// Reads a journal file. A record that cannot be read ends it, as a crash leaves it, unless a
/// record behind it says that what cannot be read had been on disk: then it is corrupt.
/// One whose making was cut short never had records: a crash while starting may leave one behind,
/// and so may the next. That none is lost shows in what the journal behind it says was synced.
pub(crate) fn parse(bytes: &Bytes) -> ParsedJournal {
    let head = bytes.get(..FILE_HEADER).unwrap_or(bytes);
    if head.get(..8) != Some(&FILE_MAGIC) {
        // Its header is synced before the first record is written.
        if bytes.iter().all(|b| *b == 0) {
            return ParsedJournal::Unborn;
        }
        return ParsedJournal::Bad(0, "the magic number is wrong".into());
    }
    let covered = head.get(..FILE_HEADER - 4).map(crc32c::crc32c);
    if covered.is_none() || covered != u32_at(head, FILE_HEADER - 4) {
        if bytes.len() <= FILE_HEADER {
            return ParsedJournal::Unborn;
        }
        return ParsedJournal::Bad(0, "the header's checksum is wrong".into());
    }
    let version = u32_at(head, 8).unwrap_or(0);
    if version > JOURNAL_VERSION {
        return ParsedJournal::Newer(version);
    }
    let mut next = u64_at(head, 24).unwrap_or(0);
    let before = u64_at(head, 32).unwrap_or(0);
    let mut at = FILE_HEADER;
    let mut records = Vec::new();
    let mut unproven = VecDeque::new();
    while let Some(found) = record_at(bytes, at).filter(|f| f.lsn >= next) {
        unproven.push_back((found.lsn, at));
        while unproven
            .pop_front_if(|(lsn, _)| *lsn <= found.durable)
            .is_some()
        {}
        next = found.lsn + 1;
        at = found.end;
        records.push(found.record);
    }
    let unproven = (unproven.front().map_or(at, |(_, from)| *from), at);
    let mut behind = at;
    while behind + RECORD_HEADER <= bytes.len() {
        if let Some(found) = record_at(bytes, behind)
            && found.durable >= next
        {
            let why = format!(
                "record {next} cannot be read, though record {} says that it was synced",
                found.lsn
            );
            return ParsedJournal::Bad(at as u64, why);
        }
        behind += 8;
    }
    ParsedJournal::Good(Contents {
        before,
        next,
        records,
        unproven,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(block: u64, fill: u8) -> Record {
        Record {
            block: BlockId(block),
            generation: Generation(2),
            block_size: 8192,
            synced: 5000,
            cut: Some(4999),
            deleted: false,
            applied: true,
            bad: false,
            images: vec![Image {
                chunk: 1,
                data: Bytes::from(vec![fill; 903]),
            }],
        }
    }

    /// None of them says that one before it was synced.
    fn good(records: Vec<Record>, next: u64) -> ParsedJournal {
        let mut bytes = FILE_HEADER;
        for record in &records {
            let mut out = Vec::new();
            record.encode(next, 9, &mut out);
            bytes += out.len();
        }
        ParsedJournal::Good(Contents {
            before: 9,
            next,
            records,
            unproven: (FILE_HEADER, bytes),
        })
    }

    #[test]
    fn what_no_later_record_proves_is_told() {
        let lens: Vec<usize> = (1..=4)
            .map(|n| {
                let mut out = Vec::new();
                sample(n, 1).encode(n, 9, &mut out);
                out.len()
            })
            .collect();
        // What each record says was on disk, and how many of the four are proven by that.
        for (durable, proven) in [
            ([9, 9, 9, 9], 0),
            ([9, 10, 11, 11], 2),
            ([9, 9, 9, 10], 1),
            ([9, 10, 11, 12], 3),
        ] {
            let records = (10..)
                .zip(durable)
                .map(|(lsn, d)| (lsn, d, sample(lsn - 9, 1)));
            let bytes = file(&records.collect::<Vec<_>>());
            let from = FILE_HEADER + lens[..proven].iter().sum::<usize>();
            let to = bytes.len();
            let ParsedJournal::Good(contents) = parse(&bytes.into()) else {
                panic!("taken for bad")
            };
            assert_eq!(contents.unproven, (from, to), "{durable:?}");
        }
    }

    fn file(records: &[(u64, u64, Record)]) -> Vec<u8> {
        let mut bytes = file_header(3, 10, 9);
        for (lsn, durable, record) in records {
            record.encode(*lsn, *durable, &mut bytes);
        }
        bytes
    }

    #[test]
    fn record_bytes_are_what_the_document_says() {
        let bytes = file(&[(10, 9, sample(0x55, 7))]);
        assert_eq!(&bytes[..12], b"boomjrn\n\x01\0\0\0");
        assert_eq!(bytes[16], 3);
        assert_eq!(bytes[24], 10);
        let record = &bytes[FILE_HEADER..];
        assert_eq!(&record[..4], b"jrec");
        assert_eq!(u32_at(record, 4), Some(56 + 8 + 903));
        assert_eq!((record[8], record[16]), (10, 9));
        assert_eq!(u64_at(record, 32), Some(0x55));
        assert_eq!(u64_at(record, 64), Some(4999));
        assert_eq!(u32_at(record, 72), Some(APPLIED));
        assert_eq!(record.len() % 8, 0);
        let parsed = parse(&bytes.into());
        assert_eq!(parsed, good(vec![sample(0x55, 7)], 11));
    }

    #[test]
    fn a_torn_tail_ends_the_journal() {
        let two = [(10, 9, sample(1, 1)), (11, 9, sample(2, 2))];
        let whole = file(&two);
        let first = file(&two[..1]).len();
        for cut in first..whole.len() - 8 {
            let parsed = parse(&whole[..cut].to_vec().into());
            assert_eq!(parsed, good(vec![sample(1, 1)], 11), "cut at {cut}");
        }
        // The second survived and the first did not: neither had been synced.
        let mut lost = whole.clone();
        lost[FILE_HEADER..first].fill(0);
        assert_eq!(parse(&lost.into()), good(vec![], 10));
    }

    #[test]
    fn a_rotten_synced_record_is_noticed() {
        let mut bytes = file(&[(10, 9, sample(1, 1)), (11, 10, sample(2, 2))]);
        bytes[FILE_HEADER + 100] ^= 4;
        let ParsedJournal::Bad(at, why) = parse(&bytes.into()) else {
            panic!("taken for good")
        };
        assert_eq!(at, FILE_HEADER as u64);
        assert_eq!(
            why,
            "record 10 cannot be read, though record 11 says that it was synced"
        );
    }

    #[test]
    fn a_file_that_was_being_made_is_no_error() {
        assert_eq!(parse(&Bytes::new()), ParsedJournal::Unborn);
        assert_eq!(parse(&vec![0; 64].into()), ParsedJournal::Unborn);
        assert!(matches!(
            parse(&vec![1; 64].into()),
            ParsedJournal::Bad(0, _)
        ));
    }
}
