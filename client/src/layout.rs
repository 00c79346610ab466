//! Where the blocks of a file are: asked once, shared by all readers of the file, forgotten soon.

use crate::link::Link;
use crate::pool::nanos;
use crate::{Error, describe, errno, limits};
use boomfs_io::Io;
use boomfs_wire::{Answer, Caller, Ino, LocatedBlock, ReadOp};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The places of a range of a file.
#[derive(Clone, Debug, Default)]
pub struct Places {
    /// Length of the file, bytes.
    pub size: u64,
    /// Block size of the file, bytes.
    pub block_size: u64,
    /// The blocks by offset; holes are absent.
    pub blocks: BTreeMap<u64, LocatedBlock>,
}

#[derive(Debug, Default)]
struct Known {
    /// Which bytes of the file `places` covers.
    range: Range<u64>,
    asked_ns: u64,
    places: Arc<Places>,
}

/// The places of one file.
#[derive(Debug)]
pub struct Layout {
    ino: Ino,
    state: Mutex<(u64, Known)>,
}

impl Layout {
    pub fn new(ino: Ino) -> Layout {
        Layout {
            ino,
            state: Mutex::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, (u64, Known)> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Grows when this client changes the file: whatever was read before is no longer to be trusted.
    pub fn version(&self) -> u64 {
        self.state().0
    }

    /// Forgets everything, for the file changed or a place turned out to be wrong.
    pub fn forget(&self) {
        let mut state = self.state();
        state.0 += 1;
        state.1 = Known::default();
    }

    /// Forgets where blocks are, but not that what was read is right.
    pub fn ask_again(&self) {
        self.state().1 = Known::default();
    }

    /// The places of a range, from memory when they are fresh and the range lies inside the file as it was known.
    pub async fn places(
        &self,
        io: &Io,
        link: &Arc<Link>,
        range: Range<u64>,
    ) -> Result<Arc<Places>, Error> {
        let now_ns = io.mono_ns();
        let version = {
            let state = self.state();
            let known = &state.1;
            let fresh = known.asked_ns != 0
                && now_ns.saturating_sub(known.asked_ns) < nanos(limits::LAYOUT_AGE);
            let inside = known.range.start <= range.start
                && range.end <= known.range.end.min(known.places.size);
            if fresh && inside {
                return Ok(Arc::clone(&known.places));
            }
            state.0
        };
        let asked = self.window(range);
        let op = ReadOp::Locate {
            ino: self.ino,
            offset: asked.start,
            length: asked.end - asked.start,
        };
        let places = match link.read(&Caller::default(), op).await? {
            Answer::Blocks {
                size,
                block_size,
                blocks,
            } if block_size > 0 => {
                let blocks = blocks
                    .into_iter()
                    .map(|block| (block.offset, block))
                    .collect();
                Arc::new(Places {
                    size,
                    block_size,
                    blocks,
                })
            }
            other => {
                let what = format!("locate blocks of inode {}", self.ino);
                let got = describe::kind_of(&other).to_owned();
                return Err(Error::Protocol {
                    what,
                    who: "the NameNode".to_owned(),
                    got,
                });
            }
        };
        let mut state = self.state();
        // An answer that was on its way while the file changed is good for its asker only.
        if state.0 == version {
            state.1 = Known {
                range: asked,
                asked_ns: now_ns.max(1),
                places: Arc::clone(&places),
            };
        }
        Ok(places)
    }

    /// What to ask for: whole blocks, and some more behind for a sequential reader.
    fn window(&self, range: Range<u64>) -> Range<u64> {
        let block_size = self.state().1.places.block_size.max(limits::WINDOW);
        let start = range.start - range.start % block_size;
        let end = range
            .end
            .max(start.saturating_add(block_size.saturating_mul(limits::LAYOUT_BLOCKS)));
        start..end.min(limits::FILE_SIZE)
    }
}

/// Where a read of `len` bytes ends at most; EINVAL for an offset that no file can have.
pub fn read_end(ino: Ino, offset: u64, len: usize) -> Result<u64, Error> {
    if offset > limits::FILE_SIZE {
        let what = format!("read of inode {ino}");
        let why = "the offset is beyond the largest file size, 2^63 - 1 bytes";
        return Err(Error::Invalid {
            errno: errno::EINVAL,
            what,
            why,
        });
    }
    Ok(offset.saturating_add(len as u64).min(limits::FILE_SIZE))
}

/// Stops with EFBIG where a range leaves what a file can be.
pub fn check_range(verb: &'static str, ino: Ino, offset: u64, len: u64) -> Result<u64, Error> {
    match offset.checked_add(len) {
        Some(end) if end <= limits::FILE_SIZE => Ok(end),
        _ => {
            let what = format!("{verb} of inode {ino}");
            let why = "the offset is beyond the largest file size, 2^63 - 1 bytes";
            Err(Error::Invalid {
                errno: errno::EFBIG,
                what,
                why,
            })
        }
    }
}
