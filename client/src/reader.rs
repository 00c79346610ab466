//! Reading a file.

use crate::Error;
use boomfs_wire::Ino;
use bytes::Bytes;

/// Reads one file. Clones share readahead and the places of blocks. When this client also has the
/// file open for writing, reads see what its writer has not yet sent.
#[derive(Clone)]
pub struct FileReader {}

impl FileReader {
    /// The file.
    pub fn ino(&self) -> Ino {
        todo!()
    }

    /// Reads at most `len` bytes from `offset`; fewer only at the end of the file. Holes, and the file behind a
    /// block's end, are zeros.
    ///
    /// # Errors
    /// EIO when no replica has right bytes, ETIMEDOUT when those that may have them do not answer within the
    /// deadline, ENOENT or ESTALE when the file is gone.
    pub async fn read_at(&self, offset: u64, len: usize) -> Result<Bytes, Error> {
        let _ = (offset, len);
        todo!()
    }
}
