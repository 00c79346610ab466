//! POSIX error numbers (Linux's values) and failures made of them.

use boomfs_wire::Failure;
use std::io;

pub(crate) const ENOENT: i32 = 2;
pub(crate) const EIO: i32 = 5;
pub(crate) const EAGAIN: i32 = 11;
pub(crate) const EBUSY: i32 = 16;
pub(crate) const EEXIST: i32 = 17;
pub(crate) const EINVAL: i32 = 22;
pub(crate) const EFBIG: i32 = 27;
pub(crate) const ENOSPC: i32 = 28;
pub(crate) const EBADMSG: i32 = 74;
pub(crate) const ETIMEDOUT: i32 = 110;
pub(crate) const EHOSTUNREACH: i32 = 113;
pub(crate) const ESTALE: i32 = 116;

/// The result of an operation on a block.
pub(crate) type Res<T> = Result<T, Failure>;

/// A failure with its number and sentence.
pub(crate) fn fail(errno: i32, message: impl Into<String>) -> Failure {
    Failure {
        errno,
        message: message.into(),
    }
}

/// The number that tells a client most about an error of the operating system.
pub(crate) fn errno_of(error: &io::Error) -> i32 {
    match error.kind() {
        io::ErrorKind::StorageFull => ENOSPC,
        io::ErrorKind::TimedOut => ETIMEDOUT,
        _ => error.raw_os_error().unwrap_or(EIO),
    }
}

/// A failure of the disk: ENOSPC stays what it is, anything else is EIO.
pub(crate) fn disk(what: &str, block: impl std::fmt::Display, error: &io::Error) -> Failure {
    let errno = match errno_of(error) {
        ENOSPC => ENOSPC,
        _ => EIO,
    };
    fail(errno, format!("block {block}: {what}: {error}"))
}
