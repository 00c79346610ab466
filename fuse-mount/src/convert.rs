//! From our values to fuser's and back. Pure.

use boomfs_client::{Attr, FileWriter, Kind, SetTime};
use fuser::{Errno, FileAttr, FileType, INodeNo, OpenAccMode, OpenFlags, RenameFlags, TimeOrNow};
use rustix::fs::OFlags;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Longest name in a directory, bytes, as on ext4.
pub(crate) const NAME_MAX: usize = 255;
/// Bytes that `st_blksize` recommends for one read or write: what stdio buffers.
const IO_SIZE: u32 = 64 << 10;
/// Unit of `st_blocks`, bytes.
const SECTOR: u64 = 512;
const NS_PER_S: u128 = 1_000_000_000;

/// Attributes as the kernel takes them.
pub(crate) fn file_attr(attr: &Attr) -> FileAttr {
    FileAttr {
        ino: INodeNo(attr.ino.0),
        size: attr.size,
        blocks: attr.allocated.div_ceil(SECTOR),
        atime: system_time(attr.atime_ns),
        mtime: system_time(attr.mtime_ns),
        ctime: system_time(attr.ctime_ns),
        crtime: system_time(attr.crtime_ns),
        kind: file_type(attr.kind),
        perm: u16::try_from(attr.mode & 0o7777).unwrap_or_default(),
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        // The kernel's 32-bit encoding, which is what mknod brought.
        rdev: u32::try_from(attr.rdev).unwrap_or(u32::MAX),
        blksize: IO_SIZE,
        flags: 0,
    }
}

/// What the writer of a file knows better than the NameNode: length and time of what is not committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Uncommitted {
    /// Length of the file, bytes.
    pub size: u64,
    /// Time of the last write that is not committed, ns since the epoch.
    pub mtime_ns: Option<i64>,
}

impl Uncommitted {
    pub(crate) fn of(writer: &FileWriter) -> Uncommitted {
        Uncommitted {
            size: writer.size(),
            mtime_ns: writer.mtime_ns(),
        }
    }

    /// Lays it over what the NameNode answered.
    pub(crate) fn lay_over(self, attr: &mut Attr) {
        attr.size = self.size;
        if let Some(mtime_ns) = self.mtime_ns {
            attr.mtime_ns = mtime_ns;
            attr.ctime_ns = attr.ctime_ns.max(mtime_ns);
            // How much of it is hole is known at commit. Until then it counts as data: programs take
            // a file of no blocks for one that is empty.
            attr.allocated = attr.allocated.max(attr.size);
        }
    }
}

/// The kind as a directory entry's type.
pub(crate) fn file_type(kind: Kind) -> FileType {
    match kind {
        Kind::File => FileType::RegularFile,
        Kind::Dir => FileType::Directory,
        Kind::Symlink => FileType::Symlink,
        Kind::Fifo => FileType::NamedPipe,
        Kind::Socket => FileType::Socket,
        Kind::CharDevice => FileType::CharDevice,
        Kind::BlockDevice => FileType::BlockDevice,
    }
}

/// What `mknod` is to make, from the type bits of its mode; `None` for what it cannot.
pub(crate) fn mknod_kind(mode: u32) -> Option<Kind> {
    use rustix::fs::FileType as Type;
    match Type::from_raw_mode(mode) {
        Type::RegularFile => Some(Kind::File),
        Type::Fifo => Some(Kind::Fifo),
        Type::Socket => Some(Kind::Socket),
        Type::CharacterDevice => Some(Kind::CharDevice),
        Type::BlockDevice => Some(Kind::BlockDevice),
        // POSIX: a mode without a type makes a regular file.
        _ if mode & 0o170_000 == 0 => Some(Kind::File),
        _ => None,
    }
}

/// Nanoseconds since the epoch, also before it, as a system time.
pub(crate) fn system_time(ns: i64) -> SystemTime {
    let distance = Duration::from_nanos(ns.unsigned_abs());
    let time = if ns >= 0 {
        UNIX_EPOCH.checked_add(distance)
    } else {
        UNIX_EPOCH.checked_sub(distance)
    };
    time.unwrap_or(UNIX_EPOCH)
}

/// A time to set. fuser 0.18 turns seconds `s` before the epoch and nanoseconds `n` after it into
/// `-(|s| + n)` instead of `-|s| + n`; from the distance to the epoch both can be had back. Times
/// that 64 bits of nanoseconds do not hold (before 1677, after 2262) become the nearest that they do.
pub(crate) fn set_time(time: TimeOrNow) -> SetTime {
    match time {
        TimeOrNow::Now => SetTime::Now,
        TimeOrNow::SpecificTime(time) => SetTime::At(match time.duration_since(UNIX_EPOCH) {
            Ok(after) => i64::try_from(after.as_nanos()).unwrap_or(i64::MAX),
            Err(before) => {
                let distance = before.duration();
                let down = i128::from(distance.as_secs()) * NS_PER_S.cast_signed();
                let up = i128::from(distance.subsec_nanos());
                i64::try_from(up - down).unwrap_or(i64::MIN)
            }
        }),
    }
}

/// The flags of `open` that matter here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Opened {
    /// The file may be written through this handle.
    pub write: bool,
    /// Writes go to the end.
    pub append: bool,
    /// Cut it to nothing first.
    pub truncate: bool,
    /// Fail where the name exists.
    pub exclusive: bool,
    /// Each write is on disk when it returns.
    pub sync: bool,
}

impl Opened {
    pub(crate) fn new(flags: OpenFlags) -> Opened {
        let set = |flag: OFlags| flags.0.cast_unsigned() & flag.bits() != 0;
        Opened {
            write: flags.acc_mode() != OpenAccMode::O_RDONLY,
            append: set(OFlags::APPEND),
            truncate: set(OFlags::TRUNC),
            exclusive: set(OFlags::EXCL),
            // O_SYNC has this bit, too.
            sync: set(OFlags::DSYNC),
        }
    }
}

/// `renameat2` flags as (no_replace, exchange); `None` where they are not served or contradict.
pub(crate) fn rename_flags(flags: RenameFlags) -> Option<(bool, bool)> {
    let no_replace = flags.contains(RenameFlags::RENAME_NOREPLACE);
    let exchange = flags.contains(RenameFlags::RENAME_EXCHANGE);
    let known = RenameFlags::RENAME_NOREPLACE | RenameFlags::RENAME_EXCHANGE;
    (flags.bits() & !known.bits() == 0 && !(no_replace && exchange))
        .then_some((no_replace, exchange))
}

/// The one table from the client's errors to what a program sees. The client gives Linux's numbers; what
/// is none, or one that makes the kernel act (ENOSYS: never ask again) becomes EIO.
pub(crate) fn errno(number: i32) -> Errno {
    match number {
        1..=4095 if number != rustix::io::Errno::NOSYS.raw_os_error() => Errno::from_i32(number),
        _ => Errno::EIO,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use boomfs_client::Ino;

    fn attr() -> Attr {
        Attr {
            ino: Ino(7),
            kind: Kind::File,
            mode: 0o4755,
            uid: 1,
            gid: 2,
            size: 1000,
            allocated: 513,
            nlink: 3,
            rdev: 0x801,
            atime_ns: 1_500_000_000,
            mtime_ns: -1_500_000_000,
            ctime_ns: 3,
            crtime_ns: 4,
            block_size: 64 << 20,
            replication: 3,
        }
    }

    #[test]
    fn attributes_convert() {
        let got = file_attr(&attr());
        assert_eq!(
            (got.ino, got.size, got.blocks, got.nlink),
            (INodeNo(7), 1000, 2, 3)
        );
        assert_eq!(
            (got.perm, got.kind, got.uid, got.gid, got.rdev),
            (0o4755, FileType::RegularFile, 1, 2, 0x801)
        );
        assert_eq!(got.atime, UNIX_EPOCH + Duration::from_millis(1500));
        assert_eq!(got.mtime, UNIX_EPOCH - Duration::from_millis(1500));
    }

    #[test]
    fn what_is_not_committed_lies_over_what_is() {
        let mut dirty = attr();
        Uncommitted {
            size: 5000,
            mtime_ns: Some(77),
        }
        .lay_over(&mut dirty);
        assert_eq!(
            (dirty.size, dirty.mtime_ns, dirty.ctime_ns, dirty.allocated),
            (5000, 77, 77, 5000)
        );
        let mut clean = attr();
        Uncommitted {
            size: 1000,
            mtime_ns: None,
        }
        .lay_over(&mut clean);
        assert_eq!(clean, attr());
    }

    #[test]
    fn times_before_the_epoch_come_back_right() {
        let at = |secs: i64, nanos: u32| -> TimeOrNow {
            // As fuser 0.18 makes them.
            TimeOrNow::SpecificTime(if secs >= 0 {
                UNIX_EPOCH + Duration::new(secs.unsigned_abs(), nanos)
            } else {
                UNIX_EPOCH - Duration::new(secs.unsigned_abs(), nanos)
            })
        };
        assert_eq!(set_time(at(1, 5)), SetTime::At(1_000_000_005));
        assert_eq!(set_time(at(0, 0)), SetTime::At(0));
        assert_eq!(set_time(at(-1, 0)), SetTime::At(-1_000_000_000));
        assert_eq!(set_time(at(-2, 800_000_000)), SetTime::At(-1_200_000_000));
        assert_eq!(set_time(at(-1, 999_999_999)), SetTime::At(-1));
        assert_eq!(set_time(at(1 << 40, 0)), SetTime::At(i64::MAX));
        assert_eq!(set_time(at(-(1 << 40), 0)), SetTime::At(i64::MIN));
        assert_eq!(set_time(TimeOrNow::Now), SetTime::Now);
        for ns in [0, 1, -1, 1_999_999_999, -1_999_999_999, i64::MAX, i64::MIN] {
            let time = system_time(ns);
            let back = match time.duration_since(UNIX_EPOCH) {
                Ok(after) => i128::try_from(after.as_nanos()).unwrap(),
                Err(before) => -i128::try_from(before.duration().as_nanos()).unwrap(),
            };
            assert_eq!(back, i128::from(ns));
        }
    }

    #[test]
    fn open_flags_convert() {
        let open = |flags: OFlags| Opened::new(OpenFlags(flags.bits().cast_signed()));
        assert_eq!(open(OFlags::RDONLY), Opened::default());
        assert_eq!(
            open(OFlags::RDWR),
            Opened {
                write: true,
                ..Opened::default()
            }
        );
        assert_eq!(
            open(OFlags::WRONLY | OFlags::APPEND | OFlags::SYNC),
            Opened {
                write: true,
                append: true,
                sync: true,
                ..Opened::default()
            }
        );
        assert_eq!(
            open(OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::TRUNC | OFlags::DSYNC),
            Opened {
                write: true,
                truncate: true,
                exclusive: true,
                sync: true,
                ..Opened::default()
            }
        );
        assert_eq!(open(OFlags::RDONLY | OFlags::DIRECT), Opened::default());
    }

    #[test]
    fn rename_flags_convert() {
        assert_eq!(rename_flags(RenameFlags::empty()), Some((false, false)));
        assert_eq!(
            rename_flags(RenameFlags::RENAME_NOREPLACE),
            Some((true, false))
        );
        assert_eq!(
            rename_flags(RenameFlags::RENAME_EXCHANGE),
            Some((false, true))
        );
        assert_eq!(rename_flags(RenameFlags::RENAME_WHITEOUT), None);
        assert_eq!(
            rename_flags(RenameFlags::RENAME_NOREPLACE | RenameFlags::RENAME_EXCHANGE),
            None
        );
        assert_eq!(rename_flags(RenameFlags::from_bits_retain(1 << 20)), None);
    }

    #[test]
    fn node_kinds_convert() {
        assert_eq!(mknod_kind(0o100_644), Some(Kind::File));
        assert_eq!(mknod_kind(0o644), Some(Kind::File));
        assert_eq!(mknod_kind(0o010_600), Some(Kind::Fifo));
        assert_eq!(mknod_kind(0o020_600), Some(Kind::CharDevice));
        assert_eq!(mknod_kind(0o060_600), Some(Kind::BlockDevice));
        assert_eq!(mknod_kind(0o140_600), Some(Kind::Socket));
        assert_eq!(mknod_kind(0o040_700), None);
        assert_eq!(mknod_kind(0o120_777), None);
    }

    #[test]
    fn errors_are_what_the_client_says_or_eio() {
        assert_eq!(errno(2).code(), 2);
        assert_eq!(errno(110).code(), 110);
        assert_eq!(errno(38).code(), Errno::EIO.code());
        assert_eq!(errno(0).code(), Errno::EIO.code());
        assert_eq!(errno(-2).code(), Errno::EIO.code());
        assert_eq!(errno(5000).code(), Errno::EIO.code());
    }
}
