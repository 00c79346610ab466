//! The bytes of a replica file and the names of files. Pure; `docs/FORMATS.md` draws it.

use boomfs_wire::{BlockId, CHUNK, Generation};
use std::path::{Path, PathBuf};

/// The newest format of replica files that this program knows.
pub(crate) const REPLICA_VERSION: u32 = 1;
/// Bytes of the header; the checksum slots follow it.
pub(crate) const HEADER_LEN: usize = 128;
/// Largest block size, bytes.
pub(crate) const MAX_BLOCK_SIZE: u64 = 1 << 30;

const MAGIC: [u8; 8] = *b"boomblk\n";
const FLAG_BAD: u32 = 1;
const CRC_AT: usize = HEADER_LEN - 4;

/// [`CHUNK`] as the type of offsets.
pub(crate) const CHUNK64: u64 = CHUNK as u64;

/// The number of chunks that hold this many bytes.
pub(crate) fn chunks_of(length: u64) -> u32 {
    u32::try_from(length.div_ceil(CHUNK64)).unwrap_or(u32::MAX)
}

/// Where a chunk starts in its block.
pub(crate) fn chunk_start(chunk: u32) -> u64 {
    u64::from(chunk) * CHUNK64
}

/// Bytes that a chunk has in a replica of this length.
pub(crate) fn chunk_len(chunk: u32, length: u64) -> usize {
    usize::try_from(length.saturating_sub(chunk_start(chunk)).min(CHUNK64)).unwrap_or(CHUNK)
}

/// Where things are in a replica file: a function of the block size alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    /// Block size, bytes.
    pub block_size: u64,
}

impl Layout {
    /// A layout, if the block size is a possible one.
    pub fn new(block_size: u64) -> Option<Layout> {
        let fits = block_size > 0 && block_size <= MAX_BLOCK_SIZE;
        (fits && block_size.is_multiple_of(CHUNK64)).then_some(Layout { block_size })
    }

    /// Chunks of a full block.
    pub fn chunks(self) -> u32 {
        chunks_of(self.block_size)
    }

    /// Where the data starts in the file.
    pub fn data_at(self) -> u64 {
        (HEADER_LEN as u64 + 4 * u64::from(self.chunks())).next_multiple_of(CHUNK64)
    }

    /// Where a chunk's checksum is in the file.
    pub fn slot_at(self, chunk: u32) -> u64 {
        HEADER_LEN as u64 + 4 * u64::from(chunk)
    }

    /// Where a chunk's data is in the file.
    pub fn chunk_at(self, chunk: u32) -> u64 {
        self.data_at() + chunk_start(chunk)
    }
}

/// What a replica's header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    /// The block.
    pub block: BlockId,
    /// The generation adopted.
    pub generation: Generation,
    /// Block size, bytes.
    pub block_size: u64,
    /// Every byte below was on disk before this header was written.
    pub synced: u64,
    /// The replica was found corrupt, or a sync of it failed: never served again.
    pub bad: bool,
}

/// What the start of a replica file holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Parsed {
    /// A header.
    Good(Header),
    /// Nothing was ever synced here.
    Blank,
    /// A newer program's file.
    Newer(u32),
    /// No header, and why.
    Bad(&'static str),
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes
        .get(at..at + 4)
        .and_then(|b| b.try_into().ok())
        .map_or(0, u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes
        .get(at..at + 8)
        .and_then(|b| b.try_into().ok())
        .map_or(0, u64::from_le_bytes)
}

impl Header {
    /// The header's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER_LEN);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&REPLICA_VERSION.to_le_bytes());
        out.extend_from_slice(&(if self.bad { FLAG_BAD } else { 0 }).to_le_bytes());
        out.extend_from_slice(&self.block.0.to_le_bytes());
        out.extend_from_slice(&self.generation.0.to_le_bytes());
        out.extend_from_slice(&self.block_size.to_le_bytes());
        out.extend_from_slice(&self.synced.to_le_bytes());
        out.resize(CRC_AT, 0);
        let crc = crc32c::crc32c(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads a header from the first bytes of a file.
    pub fn parse(bytes: &[u8]) -> Parsed {
        let head = bytes.get(..HEADER_LEN).unwrap_or(bytes);
        if head.iter().all(|b| *b == 0) {
            return Parsed::Blank;
        }
        let Some(covered) = head.get(..CRC_AT) else {
            return Parsed::Bad("the header is cut short");
        };
        if head.get(..8) != Some(&MAGIC) {
            return Parsed::Bad("the magic number is wrong");
        }
        // First, for a version may rot as all else.
        if crc32c::crc32c(covered) != u32_at(head, CRC_AT) {
            return Parsed::Bad("the header's checksum is wrong");
        }
        let version = u32_at(head, 8);
        if version > REPLICA_VERSION {
            return Parsed::Newer(version);
        }
        let header = Header {
            block: BlockId(u64_at(head, 16)),
            generation: Generation(u64_at(head, 24)),
            block_size: u64_at(head, 32),
            synced: u64_at(head, 40),
            bad: u32_at(head, 12) & FLAG_BAD != 0,
        };
        if Layout::new(header.block_size).is_none() || header.synced > header.block_size {
            return Parsed::Bad("the block size is impossible");
        }
        Parsed::Good(header)
    }
}

/// Checksum slots as bytes.
pub(crate) fn encode_slots(crcs: &[u32]) -> Vec<u8> {
    crcs.iter().flat_map(|c| c.to_le_bytes()).collect()
}

/// Checksum slots from bytes; slots beyond the bytes are 0, which no chunk of zeros has.
pub(crate) fn decode_slots(bytes: &[u8], count: u32) -> Vec<u32> {
    let mut out: Vec<u32> = bytes
        .chunks_exact(4)
        .map(|b| b.try_into().map_or(0, u32::from_le_bytes))
        .collect();
    out.resize(count as usize, 0);
    out
}

/// Names of files and folders in a data folder.
#[derive(Clone, Debug)]
pub(crate) struct Names {
    root: PathBuf,
}

impl Names {
    /// The names below a data folder.
    pub fn new(root: &Path) -> Names {
        Names {
            root: root.to_path_buf(),
        }
    }

    /// The data folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The lock file.
    pub fn lock(&self) -> PathBuf {
        self.root.join("lock")
    }

    /// The identity file.
    pub fn identity(&self) -> PathBuf {
        self.root.join("identity")
    }

    /// The file with the highest ballot obeyed.
    pub fn ballot(&self) -> PathBuf {
        self.root.join("ballot")
    }

    /// The folder of replicas.
    pub fn blocks(&self) -> PathBuf {
        self.root.join("blocks")
    }

    /// The folder of deleted replicas.
    pub fn trash(&self) -> PathBuf {
        self.root.join("trash")
    }

    /// The folder of copies that are not complete.
    pub fn copies(&self) -> PathBuf {
        self.root.join("copy")
    }

    /// The folder of bad replicas that made room for good ones.
    pub fn quarantine(&self) -> PathBuf {
        self.root.join("quarantine")
    }

    /// A journal file.
    pub fn journal(&self, number: u64) -> PathBuf {
        self.root.join(format!("journal.{number:016x}"))
    }

    /// The folder of a replica. At most 4,096 blocks share one, and 4,096 of these share a parent.
    pub fn folder(&self, block: BlockId) -> PathBuf {
        let upper = format!("{:x}", block.0 >> 24);
        let lower = format!("{:03x}", (block.0 >> 12) & 0xfff);
        self.blocks().join(upper).join(lower)
    }

    /// A replica's file.
    pub fn replica(&self, block: BlockId) -> PathBuf {
        self.folder(block).join(format!("{:016x}", block.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_bytes_are_what_the_document_says() {
        let header = Header {
            block: BlockId(0x0102),
            generation: Generation(7),
            block_size: 1 << 26,
            synced: 4097,
            bad: true,
        };
        let bytes = header.encode();
        assert_eq!(bytes.len(), HEADER_LEN);
        assert_eq!(&bytes[..16], b"boomblk\n\x01\0\0\0\x01\0\0\0");
        assert_eq!(&bytes[16..24], &[2, 1, 0, 0, 0, 0, 0, 0]);
        assert_eq!(&bytes[24..32], &[7, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(&bytes[32..40], &[0, 0, 0, 4, 0, 0, 0, 0]);
        assert_eq!(&bytes[40..48], &[1, 16, 0, 0, 0, 0, 0, 0]);
        assert_eq!(Header::parse(&bytes), Parsed::Good(header));
    }

    #[test]
    fn every_flipped_bit_of_a_header_is_noticed() {
        let header = Header {
            block: BlockId(1),
            generation: Generation(1),
            block_size: 4096,
            synced: 0,
            bad: false,
        };
        let good = header.encode();
        for bit in 0..good.len() * 8 {
            let mut bytes = good.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_ne!(Header::parse(&bytes), Parsed::Good(header), "bit {bit}");
        }
        assert_eq!(Header::parse(&[]), Parsed::Blank);
        assert_eq!(Header::parse(&[0; 128]), Parsed::Blank);
        assert_eq!(
            Header::parse(&good[..50]),
            Parsed::Bad("the header is cut short")
        );
    }

    #[test]
    fn no_run_of_zeros_has_the_checksum_of_an_empty_slot() {
        let zeros = [0u8; CHUNK];
        assert!((1..=CHUNK).all(|n| crc32c::crc32c(&zeros[..n]) != 0));
    }

    #[test]
    fn a_small_replica_takes_one_page_more_than_its_data() {
        let layout = Layout::new(1 << 26).unwrap();
        assert_eq!(layout.slot_at(0), 128);
        assert_eq!(layout.data_at(), 69_632);
        assert_eq!(Layout::new(4096).unwrap().data_at(), 4096);
        assert_eq!(Layout::new(0), None);
        assert_eq!(Layout::new(4097), None);
    }

    #[test]
    fn folders_are_bounded() {
        let names = Names::new(Path::new("/d"));
        assert_eq!(
            names.replica(BlockId(0x1_2345_6789)),
            Path::new("/d/blocks/123/456/0000000123456789")
        );
    }
}
