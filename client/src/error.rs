//! What goes wrong, with the errno that a mount hands on.

use boomfs_wire::Failure;
use std::time::Duration;

/// The POSIX error numbers that the client itself gives (Linux's values).
pub mod errno {
    /// Operation not permitted.
    pub const EPERM: i32 = 1;
    /// No such file or directory.
    pub const ENOENT: i32 = 2;
    /// Input/output error.
    pub const EIO: i32 = 5;
    /// Bad file descriptor.
    pub const EBADF: i32 = 9;
    /// Try again.
    pub const EAGAIN: i32 = 11;
    /// Permission denied.
    pub const EACCES: i32 = 13;
    /// Device or resource busy.
    pub const EBUSY: i32 = 16;
    /// File exists.
    pub const EEXIST: i32 = 17;
    /// Not a directory.
    pub const ENOTDIR: i32 = 20;
    /// Is a directory.
    pub const EISDIR: i32 = 21;
    /// Invalid argument.
    pub const EINVAL: i32 = 22;
    /// File too large.
    pub const EFBIG: i32 = 27;
    /// No space left on device.
    pub const ENOSPC: i32 = 28;
    /// Protocol error.
    pub const EPROTO: i32 = 71;
    /// No buffer space available.
    pub const ENOBUFS: i32 = 105;
    /// Transport endpoint is not connected.
    pub const ENOTCONN: i32 = 107;
    /// Connection timed out.
    pub const ETIMEDOUT: i32 = 110;
    /// Stale file handle.
    pub const ESTALE: i32 = 116;
}

/// Why a call failed. [`Error::errno`] is what a mount answers with.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The NameNode answered that it cannot be done.
    #[error("{}", .0.message)]
    Refused(Failure),
    /// The deadline passed (ETIMEDOUT).
    #[error("{what}: no answer within {} s: {who}", .within.as_secs_f64())]
    TimedOut {
        /// What was to be done, and to which object.
        what: String,
        /// The deadline.
        within: Duration,
        /// Who did not answer, and why where that is known.
        who: String,
    },
    /// The session with the NameNode ended, and its leases with it (EIO).
    #[error(
        "{what}: the session with the NameNode has ended and its leases with it: it was not renewed for too long; open the file again"
    )]
    SessionLost {
        /// What was to be done, and to which object.
        what: String,
    },
    /// Bytes could not be read or written (EIO, or what the DataNodes agreed on, such as ENOSPC).
    #[error("{what}: {why}")]
    Data {
        /// The POSIX error number.
        errno: i32,
        /// What was to be done, and to which object.
        what: String,
        /// Why it failed, and what to do.
        why: String,
    },
    /// The call itself makes no sense (EINVAL, EFBIG, EBADF).
    #[error("{what}: {why}")]
    Invalid {
        /// The POSIX error number.
        errno: i32,
        /// What was to be done, and to which object.
        what: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The other side does not speak as agreed (EPROTO).
    #[error(
        "{what}: {who} answered with {got}, which is no answer to it; are both of the same version?"
    )]
    Protocol {
        /// What was to be done, and to which object.
        what: String,
        /// Who answered.
        who: String,
        /// What came.
        got: String,
    },
}

impl Error {
    /// The POSIX error number (Linux's values).
    pub fn errno(&self) -> i32 {
        match self {
            Error::Refused(failure) => failure.errno,
            Error::TimedOut { .. } => errno::ETIMEDOUT,
            Error::SessionLost { .. } => errno::EIO,
            Error::Data { errno, .. } | Error::Invalid { errno, .. } => *errno,
            Error::Protocol { .. } => errno::EPROTO,
        }
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Error {
        Error::Refused(failure)
    }
}
