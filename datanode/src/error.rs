//! Why a DataNode does not start, or stops.

use std::io;
use std::path::{Path, PathBuf};

/// Why a DataNode does not start, or stopped.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another process holds the data folder's lock.
    #[error("data folder {path}: in use by another process; stop it, or choose another folder")]
    InUse {
        /// The folder.
        path: PathBuf,
    },
    /// The folder holds something else.
    #[error(
        "data folder {path}: holds {found} but no DataNode identity; choose an empty folder or one that a DataNode made"
    )]
    Foreign {
        /// The folder.
        path: PathBuf,
        /// A name found in it.
        found: String,
    },
    /// The folder or a file in it was written by a newer program.
    #[error(
        "{path}: format {found} is newer than {known}, the newest this program knows; use a newer boomfs"
    )]
    NewerFormat {
        /// The file.
        path: PathBuf,
        /// The format found.
        found: u64,
        /// The newest format known.
        known: u64,
    },
    /// A record cannot be trusted.
    #[error(
        "{path}: corrupt at byte {offset}: {reason}; nothing was changed, restore the file or start with an empty folder"
    )]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// Where in the file.
        offset: u64,
        /// What is wrong with it.
        reason: String,
    },
    /// The NameNode serves another cluster.
    #[error(
        "data folder {path}: belongs to another cluster than the NameNode at {namenode}: {reason}"
    )]
    OtherCluster {
        /// The folder.
        path: PathBuf,
        /// The NameNode's address.
        namenode: String,
        /// What the handshake said.
        reason: String,
    },
    /// A sync failed or the journal cannot be written: what is on the disk is no longer known.
    #[error(
        "data folder {path}: out of service: {reason}; restart the DataNode, its data is recovered from the journal and the other replicas"
    )]
    DiskFailed {
        /// The folder.
        path: PathBuf,
        /// What failed.
        reason: String,
    },
    /// An operating system call failed.
    #[error("{path}: {what}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// On which file or address.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}

impl Error {
    /// Wraps an error of the operating system.
    pub(crate) fn io(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
        move |source| Error::Io {
            what,
            path: path.to_path_buf(),
            source,
        }
    }
}
