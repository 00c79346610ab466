//! Checks before mounting, so that what is wrong is said plainly.
#![allow(
    clippy::disallowed_methods,
    reason = "a mount is of this machine's kernel and clock"
)]

use crate::Error;
use crate::mountinfo;
use rustix::io::Errno;
use rustix::mount::UnmountFlags;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Type of our mounts in `/proc/self/mountinfo`.
pub(crate) const FSTYPE: &str = "fuse.boomfs";

/// Checks that a directory can be mounted on, and clears a dead FUSE mount of before from it.
/// Returns its canonical path.
///
/// # Errors
/// [`Error::Missing`], [`Error::NotADirectory`], [`Error::Busy`], [`Error::Dead`], [`Error::Unreachable`],
/// [`Error::NoFuse`], [`Error::NoHelper`].
pub fn check(mountpoint: &Path) -> Result<PathBuf, Error> {
    check_device()?;
    if is_dead(mountpoint) {
        clear_dead(mountpoint)?;
    }
    let meta = std::fs::metadata(mountpoint).map_err(|error| explain(mountpoint, error))?;
    if !meta.is_dir() {
        return Err(Error::NotADirectory(mountpoint.to_path_buf()));
    }
    let path = mountpoint
        .canonicalize()
        .map_err(|error| explain(mountpoint, error))?;
    match mountinfo::mounted_at(&path) {
        Ok(Some(entry)) => Err(Error::Busy {
            path,
            fstype: entry.fstype,
            source_name: entry.source,
        }),
        Ok(None) => Ok(path),
        // Without /proc there is nothing to check against; mount(2) will say.
        Err(_) => Ok(path),
    }
}

fn explain(path: &Path, why: io::Error) -> Error {
    match why.kind() {
        io::ErrorKind::NotFound => Error::Missing(path.to_path_buf()),
        io::ErrorKind::NotADirectory => Error::NotADirectory(path.to_path_buf()),
        _ => Error::Unreachable {
            path: path.to_path_buf(),
            why,
        },
    }
}

fn check_device() -> Result<(), Error> {
    std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/fuse")
        .map_err(|why| Error::NoFuse { why })?;
    if !is_root() && helper().is_none() {
        return Err(Error::NoHelper {
            uid: rustix::process::geteuid().as_raw(),
        });
    }
    Ok(())
}

pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// `fusermount3` (or the older `fusermount`) in the path, or where `FUSERMOUNT_PATH` says.
fn helper() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("FUSERMOUNT_PATH") {
        return Some(PathBuf::from(path));
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders: Vec<PathBuf> = std::env::split_paths(&path)
        .chain([PathBuf::from("/bin"), PathBuf::from("/sbin")])
        .collect();
    ["fusermount3", "fusermount"]
        .iter()
        .flat_map(|name| folders.iter().map(move |folder| folder.join(name)))
        .find(|candidate| candidate.is_file())
}

/// A mount whose process is gone answers everything with ENOTCONN. Asked by statfs, which always goes to the
/// process: attributes may still come from the kernel's cache.
fn is_dead(mountpoint: &Path) -> bool {
    matches!(
        rustix::fs::statfs(mountpoint),
        Err(Errno::NOTCONN | Errno::CONNABORTED)
    )
}

/// Nobody can have use of a dead mount.
fn clear_dead(mountpoint: &Path) -> Result<(), Error> {
    let path = canonical_parent(mountpoint).map_err(|error| explain(mountpoint, error))?;
    tracing::info!(path = %path.display(), "clearing a mount whose process is gone");
    detach(&path, UnmountFlags::DETACH).map_err(|why| Error::Dead { path, why })
}

/// The canonical path of a folder that cannot be looked at itself: its parent's, and its name.
pub(crate) fn canonical_parent(path: &Path) -> io::Result<PathBuf> {
    if let Ok(path) = path.canonicalize() {
        return Ok(path);
    }
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return path.canonicalize();
    };
    let parent = if parent.as_os_str().is_empty() {
        Path::new(".")
    } else {
        parent
    };
    Ok(parent.canonicalize()?.join(name))
}

/// Unmounts as root, or through the helper.
pub(crate) fn detach(path: &Path, flags: UnmountFlags) -> io::Result<()> {
    match rustix::mount::unmount(path, flags) {
        Err(Errno::PERM) if !is_root() => detach_by_helper(path, flags),
        result => Ok(result?),
    }
}

fn detach_by_helper(path: &Path, flags: UnmountFlags) -> io::Result<()> {
    let Some(helper) = helper() else {
        return Err(io::Error::new(
            io::ErrorKind::NotFound,
            "not root, and fusermount3 was not found; install package fuse3",
        ));
    };
    let mut command = Command::new(helper);
    command.arg("-u").arg("-q");
    if flags.contains(UnmountFlags::DETACH) {
        command.arg("-z");
    }
    let output = command.arg("--").arg(path).stdin(Stdio::null()).output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_string();
    if said.contains("busy") {
        return Err(Errno::BUSY.into());
    }
    Err(io::Error::other(if said.is_empty() {
        "fusermount3 failed and said nothing".to_string()
    } else {
        said
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_folder_and_a_file_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let missing = folder.path().join("missing");
        let file = folder.path().join("file");
        std::fs::write(&file, b"x").unwrap();
        let missing_error = explain(&missing, std::fs::metadata(&missing).unwrap_err());
        assert!(
            matches!(&missing_error, Error::Missing(path) if *path == missing),
            "{missing_error}"
        );
        let below_file = explain(
            &file.join("x"),
            std::fs::metadata(file.join("x")).unwrap_err(),
        );
        assert!(
            matches!(below_file, Error::NotADirectory(_)),
            "{below_file}"
        );
    }

    #[test]
    fn the_root_folder_is_busy() {
        let error = check(Path::new("/")).unwrap_err();
        assert!(
            matches!(
                &error,
                Error::Busy { .. } | Error::NoFuse { .. } | Error::NoHelper { .. }
            ),
            "{error}"
        );
    }

    #[test]
    fn a_relative_name_has_a_parent() {
        let here = std::env::current_dir().unwrap().canonicalize().unwrap();
        assert_eq!(
            canonical_parent(Path::new("not-there")).unwrap(),
            here.join("not-there")
        );
    }
}
