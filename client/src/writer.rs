//! Writing a file.

use crate::Error;
use boomfs_wire::Ino;
use bytes::Bytes;

/// Writes one file under its write lease. All opens of an inode in one client share one writer;
/// clones of a `FileWriter` are one open. The lease is given back when the last open is closed.
///
/// A failure to bring bytes to their replicas, and the loss of the session, is kept: every later
/// call fails with it until all opens are closed.
#[derive(Clone)]
pub struct FileWriter {}

impl FileWriter {
    /// The file.
    pub fn ino(&self) -> Ino {
        todo!()
    }

    /// Length of the file with what is not yet sent, bytes.
    pub fn size(&self) -> u64 {
        todo!()
    }

    /// Time of the last write that is not yet committed, ns since the epoch; `None` when there is none.
    pub fn mtime_ns(&self) -> Option<i64> {
        todo!()
    }

    /// Writes at an offset. Returns when the bytes are in the writer's bounded buffer; they leave in packets, at
    /// the latest with [`flush`](FileWriter::flush).
    ///
    /// # Errors
    /// EFBIG beyond the largest file size; the kept failure (EIO, ENOSPC, ..); ETIMEDOUT when the buffer stays full.
    pub async fn write_at(&self, offset: u64, data: Bytes) -> Result<(), Error> {
        let _ = (offset, data);
        todo!()
    }

    /// Writes at the end and returns the offset the bytes got.
    ///
    /// # Errors
    /// As [`write_at`](FileWriter::write_at).
    pub async fn append(&self, data: Bytes) -> Result<u64, Error> {
        let _ = data;
        todo!()
    }

    /// Cuts the file, or extends it with a hole. Returns when the NameNode has decided it.
    ///
    /// # Errors
    /// EFBIG; the kept failure.
    pub async fn truncate(&self, size: u64) -> Result<(), Error> {
        let _ = size;
        todo!()
    }

    /// Brings all bytes into the memory of every replica and commits length and mtime. Nothing to do, no message.
    ///
    /// # Errors
    /// The kept failure.
    pub async fn flush(&self) -> Result<(), Error> {
        todo!()
    }

    /// As [`flush`](FileWriter::flush), and the bytes are on the disk of every replica.
    ///
    /// # Errors
    /// The kept failure.
    pub async fn fsync(&self) -> Result<(), Error> {
        todo!()
    }

    /// Reads, seeing own writes that are not yet sent; otherwise as [`FileReader::read_at`](crate::FileReader::read_at).
    ///
    /// # Errors
    /// As [`FileReader::read_at`](crate::FileReader::read_at).
    pub async fn read_at(&self, offset: u64, len: usize) -> Result<Bytes, Error> {
        let _ = (offset, len);
        todo!()
    }

    /// Ends this open (all its clones): flushes, and gives the lease back when it was the last. A second call does nothing.
    ///
    /// # Errors
    /// The kept failure; the open is ended all the same.
    pub async fn close(&self) -> Result<(), Error> {
        todo!()
    }
}
