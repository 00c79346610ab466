//! Why a folder cannot be mounted or unmounted.

use std::io;
use std::path::PathBuf;

/// What goes wrong when mounting and unmounting; each says what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The mount point does not exist.
    #[error("cannot mount on {}: there is no such directory; make it with: mkdir -p {}", .0.display(), .0.display())]
    Missing(PathBuf),
    /// The mount point is something else than a directory.
    #[error("cannot mount on {}: it is not a directory; name an empty directory", .0.display())]
    NotADirectory(PathBuf),
    /// Something is mounted there already.
    #[error(
        "cannot mount on {}: {source_name} ({fstype}) is mounted there already; unmount it or name another directory", .path.display()
    )]
    Busy {
        /// The mount point.
        path: PathBuf,
        /// Type of what is mounted there.
        fstype: String,
        /// Source of what is mounted there.
        source_name: String,
    },
    /// A dead mount could not be cleared.
    #[error(
        "cannot mount on {}: a mount of a process that is gone is still there and could not be cleared: {why}; run as root: umount -l {}", .path.display(), .path.display()
    )]
    Dead {
        /// The mount point.
        path: PathBuf,
        /// Why it could not be cleared.
        why: io::Error,
    },
    /// The mount point cannot be looked at.
    #[error("cannot mount on {}: {why}", .path.display())]
    Unreachable {
        /// The mount point.
        path: PathBuf,
        /// Why.
        why: io::Error,
    },
    /// The kernel offers no FUSE.
    #[error(
        "cannot mount: {why} (/dev/fuse); load the kernel's module with: modprobe fuse. In a container, start it with --device /dev/fuse --cap-add SYS_ADMIN"
    )]
    NoFuse {
        /// What opening the device said.
        why: io::Error,
    },
    /// Neither root nor a helper to mount with.
    #[error(
        "cannot mount as user {uid}: fusermount3 was not found; install it (Debian, Ubuntu, Fedora: package fuse3) or run as root"
    )]
    NoHelper {
        /// The effective user.
        uid: u32,
    },
    /// The kernel or the helper refused.
    #[error("cannot mount on {}: {why}; {hint}", .path.display())]
    Refused {
        /// The mount point.
        path: PathBuf,
        /// What it said.
        why: io::Error,
        /// What to do.
        hint: &'static str,
    },
    /// No tokio runtime to run tasks on.
    #[error("cannot mount on {}: no tokio runtime is running; call this from within one or name one in the options", .0.display())]
    NoRuntime(PathBuf),
    /// Nothing is mounted there.
    #[error("cannot unmount {}: nothing is mounted there", .0.display())]
    NotMounted(PathBuf),
    /// Something else is mounted there.
    #[error("cannot unmount {}: a {fstype} filesystem is mounted there, not boomfs; use: umount {}", .path.display(), .path.display())]
    NotOurs {
        /// The mount point.
        path: PathBuf,
        /// Its type.
        fstype: String,
    },
    /// Programs use the mount.
    #[error(
        "cannot unmount {}: it is in use; end the programs that have files or their working directory there (fuser -vm {} lists them)", .0.display(), .0.display()
    )]
    InUse(PathBuf),
    /// Unmounting failed.
    #[error("cannot unmount {}: {why}", .path.display())]
    Unmount {
        /// The mount point.
        path: PathBuf,
        /// Why.
        why: io::Error,
    },
    /// The mount is detached but its last requests did not end in time.
    #[error("unmounted {}, but {left} of its requests had not ended after {seconds} s; what they were to write may be missing", .path.display())]
    Unfinished {
        /// The mount point.
        path: PathBuf,
        /// Requests that are still running.
        left: usize,
        /// How long was waited.
        seconds: u64,
    },
}
