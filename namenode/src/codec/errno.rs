//! The names of POSIX errors, as the rules write them, and their numbers on Linux.

use boomfs_wire::Failure;

/// Names and numbers, as in errno.h.
const TABLE: &[(&str, i32)] = &[
    ("EPERM", 1),
    ("ENOENT", 2),
    ("EINTR", 4),
    ("EIO", 5),
    ("ENXIO", 6),
    ("E2BIG", 7),
    ("EBADF", 9),
    ("EAGAIN", 11),
    ("ENOMEM", 12),
    ("EACCES", 13),
    ("EFAULT", 14),
    ("EBUSY", 16),
    ("EEXIST", 17),
    ("EXDEV", 18),
    ("ENODEV", 19),
    ("ENOTDIR", 20),
    ("EISDIR", 21),
    ("EINVAL", 22),
    ("ENFILE", 23),
    ("EMFILE", 24),
    ("ENOTTY", 25),
    ("ETXTBSY", 26),
    ("EFBIG", 27),
    ("ENOSPC", 28),
    ("ESPIPE", 29),
    ("EROFS", 30),
    ("EMLINK", 31),
    ("EPIPE", 32),
    ("EDOM", 33),
    ("ERANGE", 34),
    ("EDEADLK", 35),
    ("ENAMETOOLONG", 36),
    ("ENOLCK", 37),
    ("ENOSYS", 38),
    ("ENOTEMPTY", 39),
    ("ELOOP", 40),
    ("ENODATA", 61),
    ("EPROTO", 71),
    ("EOVERFLOW", 75),
    ("EMSGSIZE", 90),
    ("EOPNOTSUPP", 95),
    ("ECONNRESET", 104),
    ("ETIMEDOUT", 110),
    ("EHOSTUNREACH", 113),
    ("ESTALE", 116),
    ("EDQUOT", 122),
    ("ECANCELED", 125),
];

/// Input or output error: also what an unknown name becomes.
pub const EIO: i32 = 5;
/// Invalid argument.
pub const EINVAL: i32 = 22;
/// No space left.
pub const ENOSPC: i32 = 28;
/// Too many connections.
pub const EMFILE: i32 = 24;
/// A message too long.
pub const EMSGSIZE: i32 = 90;
/// Of another cluster, or a session that is no more.
pub const ESTALE: i32 = 116;
/// Asked for what this peer may not ask.
pub const EPROTO: i32 = 71;
/// Ended before it was done.
pub const ECANCELED: i32 = 125;

/// The number of a name, if there is one.
pub fn number(name: &[u8]) -> Option<i32> {
    TABLE
        .iter()
        .find(|(n, _)| n.as_bytes() == name)
        .map(|(_, number)| *number)
}

/// The name of a number; that of [`EIO`] if it has none here.
pub fn name(number: i32) -> &'static str {
    TABLE
        .iter()
        .find(|(_, n)| *n == number)
        .map_or("EIO", |(name, _)| name)
}

/// A failure with its sentence.
pub fn failure(errno: i32, message: impl Into<String>) -> Failure {
    Failure {
        errno,
        message: message.into(),
    }
}
