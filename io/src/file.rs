//! Files, as both backends show them.

use crate::{real, sim};
use std::io;
use std::sync::Arc;

/// How to open a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Open {
    /// For reading.
    pub read: bool,
    /// For writing.
    pub write: bool,
    /// Make it when it is missing.
    pub create: bool,
    /// Make it, and fail with `AlreadyExists` when it is there.
    pub create_new: bool,
    /// Cut it to no bytes.
    pub truncate: bool,
}

impl Open {
    /// To read a file that is there.
    #[must_use]
    pub fn read() -> Open {
        Open {
            read: true,
            ..Open::default()
        }
    }

    /// To read and write; made when it is missing, otherwise as it is.
    #[must_use]
    pub fn write_create() -> Open {
        Open {
            read: true,
            write: true,
            create: true,
            ..Open::default()
        }
    }

    /// To read and write a file that must not be there yet.
    #[must_use]
    pub fn create_new() -> Open {
        Open {
            read: true,
            write: true,
            create_new: true,
            ..Open::default()
        }
    }
}

/// One name in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirItem {
    /// The name.
    pub name: String,
    /// It is a directory.
    pub is_dir: bool,
    /// Length in bytes; 0 for a directory.
    pub len: u64,
}

/// Space of a filesystem, bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// All of it.
    pub capacity: u64,
    /// What may still be written.
    pub free: u64,
}

/// An open file; clones share it. Operations on different ranges may run at the same time.
/// A write or sync whose future is dropped may still happen.
#[derive(Clone, Debug)]
pub struct File(Inner);

#[derive(Clone, Debug)]
enum Inner {
    Real(Arc<std::fs::File>),
    Sim(Arc<sim::SimFile>),
}

impl File {
    pub(crate) fn real(file: std::fs::File) -> File {
        File(Inner::Real(Arc::new(file)))
    }

    pub(crate) fn sim(file: sim::SimFile) -> File {
        File(Inner::Sim(Arc::new(file)))
    }

    /// Up to `len` bytes from `offset`; fewer only where the file ends.
    ///
    /// # Errors
    /// Those of the operating system.
    pub async fn read_at(&self, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        match &self.0 {
            Inner::Real(file) => real::read_at(file.clone(), offset, len).await,
            Inner::Sim(file) => file.read_at(offset, len).await,
        }
    }

    /// The first offset, from this one on, at which something may have been written; everything
    /// before it reads as zeros. The end of the file, or an offset behind it, if nothing was.
    ///
    /// # Errors
    /// Those of the operating system.
    pub async fn next_data(&self, offset: u64) -> io::Result<u64> {
        match &self.0 {
            Inner::Real(file) => real::next_data(file.clone(), offset).await,
            Inner::Sim(file) => file.next_data(offset).await,
        }
    }

    /// Writes all of `data` at `offset`; a gap before it reads as zeros. Survives a crash after
    /// [`File::sync_data`].
    ///
    /// # Errors
    /// Those of the operating system; `StorageFull` may come after part has been written.
    pub async fn write_at(&self, offset: u64, data: Vec<u8>) -> io::Result<()> {
        self.write_runs(vec![(offset, data)]).await
    }

    /// The same for several runs of bytes, one after the other, which is cheaper than one by one.
    ///
    /// # Errors
    /// As [`File::write_at`]; what comes behind the run that failed is not written.
    pub async fn write_runs(&self, runs: Vec<(u64, Vec<u8>)>) -> io::Result<()> {
        match &self.0 {
            Inner::Real(file) => real::write_runs(file.clone(), runs).await,
            Inner::Sim(file) => {
                for (offset, data) in runs {
                    file.write_at(offset, &data).await?;
                }
                Ok(())
            }
        }
    }

    /// Makes contents and length survive a crash (`fdatasync`). The name of a new file needs
    /// [`crate::Io::sync_dir`] besides.
    ///
    /// # Errors
    /// Those of the operating system. A sync that failed must not be tried again: the kernel may
    /// have dropped what could not be written and answer the next sync with success.
    pub async fn sync_data(&self) -> io::Result<()> {
        match &self.0 {
            Inner::Real(file) => real::sync_data(file.clone()).await,
            Inner::Sim(file) => file.sync_data().await,
        }
    }

    /// Length in bytes.
    ///
    /// # Errors
    /// Those of the operating system.
    pub async fn len(&self) -> io::Result<u64> {
        match &self.0 {
            Inner::Real(file) => Ok(file.metadata()?.len()),
            Inner::Sim(file) => file.len().await,
        }
    }

    /// Cuts the file, or extends it with a hole.
    ///
    /// # Errors
    /// Those of the operating system.
    pub async fn set_len(&self, n: u64) -> io::Result<()> {
        match &self.0 {
            Inner::Real(file) => real::set_len(file.clone(), n).await,
            Inner::Sim(file) => file.set_len(n).await,
        }
    }

    /// Reserves space for a range, so that writes to it cannot fail with `StorageFull`, and
    /// extends the file to its end with zeros. Where the filesystem cannot reserve, the file
    /// only becomes longer.
    ///
    /// # Errors
    /// Those of the operating system, `StorageFull` first of all.
    pub async fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        match &self.0 {
            Inner::Real(file) => real::allocate(file.clone(), offset, len).await,
            Inner::Sim(file) => file.allocate(offset, len).await,
        }
    }
}

/// A lock that is held; dropping it lets go.
#[derive(Debug)]
pub struct LockGuard(#[expect(dead_code, reason = "held for its drop")] Lock);

#[derive(Debug)]
#[expect(dead_code, reason = "held for their drop")]
enum Lock {
    Real(std::fs::File),
    Sim(sim::SimLock),
}

impl LockGuard {
    pub(crate) fn real(file: std::fs::File) -> LockGuard {
        LockGuard(Lock::Real(file))
    }

    pub(crate) fn sim(lock: sim::SimLock) -> LockGuard {
        LockGuard(Lock::Sim(lock))
    }
}
