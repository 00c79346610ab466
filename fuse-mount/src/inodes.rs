//! The inodes that the kernel knows, and which version of each file its caches may hold.
//!
//! Close-to-open rests on two facts kept per inode. `told` is the version that the last attributes given
//! to the kernel showed. `data` is the version that its page cache may hold pages of, `None` when that is
//! not known. Pages outlive an open only if `data` is exactly what the NameNode says at the next open.

use boomfs_client::{Attr, Ino};
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

/// What tells one content of a file from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Version {
    /// Last change of contents, ns since the epoch.
    pub mtime_ns: i64,
    /// Length, bytes.
    pub size: u64,
}

impl Version {
    pub(crate) fn of(attr: &Attr) -> Version {
        Version {
            mtime_ns: attr.mtime_ns,
            size: attr.size,
        }
    }
}

#[derive(Debug, Default)]
struct Inode {
    /// References the kernel holds: one for each entry answered, less those it forgot.
    lookups: u64,
    /// Open handles of this mount.
    opens: u64,
    /// Handles of this mount that share the write lease: until they are gone, nobody else changes the file.
    writers: u64,
    told: Option<Version>,
    data: Option<Version>,
}

/// What the kernel must be told when a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OpenAdvice {
    /// The pages it has are those of this version.
    pub keep_cache: bool,
    /// The attributes it has are older.
    pub forget_attributes: bool,
}

/// All inodes that the kernel knows or has open.
#[derive(Debug, Default)]
pub(crate) struct Inodes {
    table: Mutex<HashMap<Ino, Inode>>,
}

impl Inodes {
    fn with<T>(&self, act: impl FnOnce(&mut HashMap<Ino, Inode>) -> T) -> T {
        act(&mut self.table.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Attributes are about to be given to the kernel, `looked_up` with a reference to the inode. True when its
    /// pages are of another version than these attributes, and should be dropped.
    pub(crate) fn told(&self, ino: Ino, version: Version, looked_up: bool) -> bool {
        self.with(|table| {
            if !looked_up && !table.contains_key(&ino) {
                return false;
            }
            let inode = table.entry(ino).or_default();
            inode.lookups = inode.lookups.saturating_add(u64::from(looked_up));
            inode.told = Some(version);
            match inode.data {
                Some(data) if data == version => false,
                Some(_) if inode.writers > 0 => {
                    inode.data = Some(version);
                    false
                }
                Some(_) => {
                    inode.data = None;
                    inode.opens > 0
                }
                None => false,
            }
        })
    }

    /// The kernel gave back this many references.
    pub(crate) fn forget(&self, ino: Ino, lookups: u64) {
        self.with(|table| {
            if let Some(inode) = table.get_mut(&ino) {
                inode.lookups = inode.lookups.saturating_sub(lookups);
            }
            drop_unused(table, ino);
        });
    }

    /// A handle is being opened; [`Inodes::closed`] takes it back.
    pub(crate) fn opening(&self, ino: Ino) {
        self.with(|table| table.entry(ino).or_default().opens += 1);
    }

    /// The file that is being opened is of this version now. `fresh`: it was made or cut to nothing by this
    /// open, so the kernel cannot hold pages of it.
    pub(crate) fn opened(&self, ino: Ino, version: Version, fresh: bool) -> OpenAdvice {
        self.with(|table| {
            let inode = table.entry(ino).or_default();
            let advice = OpenAdvice {
                keep_cache: fresh || inode.data == Some(version),
                forget_attributes: inode.told.is_some_and(|told| told != version),
            };
            inode.data = Some(version);
            inode.told = Some(version);
            advice
        })
    }

    /// A handle was closed; `writer`: it shared the write lease.
    pub(crate) fn closed(&self, ino: Ino, writer: bool) {
        self.with(|table| {
            if let Some(inode) = table.get_mut(&ino) {
                inode.opens = inode.opens.saturating_sub(1);
                inode.writers = inode.writers.saturating_sub(u64::from(writer));
            }
            drop_unused(table, ino);
        });
    }

    /// True when a handle of this mount shares the file's write lease.
    pub(crate) fn has_writer(&self, ino: Ino) -> bool {
        self.with(|table| table.get(&ino).is_some_and(|inode| inode.writers > 0))
    }

    /// A handle shares the write lease from now on. `found`: the version under the new lease, where that had to be
    /// asked. True when the file had changed since the kernel's pages were read, and they should be dropped.
    pub(crate) fn writer_opened(&self, ino: Ino, found: Option<Version>) -> bool {
        self.with(|table| {
            let inode = table.entry(ino).or_default();
            inode.writers += 1;
            let stale = found.is_some_and(|found| inode.data.is_some_and(|data| data != found));
            if stale {
                inode.data = None;
            }
            stale
        })
    }

    /// A handle of this mount wrote, and the kernel has the same bytes in its pages; or this mount's own writer
    /// changed the times.
    pub(crate) fn wrote(&self, ino: Ino, version: Version) {
        self.with(|table| {
            if let Some(inode) = table.get_mut(&ino)
                && inode.writers > 0
            {
                inode.told = Some(version);
                inode.data = inode.data.and(Some(version));
            }
        });
    }

    /// What the kernel's pages hold is no longer known.
    pub(crate) fn doubt(&self, ino: Ino) {
        self.with(|table| {
            if let Some(inode) = table.get_mut(&ino) {
                inode.data = None;
            }
        });
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.with(|table| table.len())
    }
}

fn drop_unused(table: &mut HashMap<Ino, Inode>, ino: Ino) {
    if table
        .get(&ino)
        .is_some_and(|inode| inode.lookups == 0 && inode.opens == 0)
    {
        table.remove(&ino);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INO: Ino = Ino(9);

    fn version(mtime_ns: i64, size: u64) -> Version {
        Version { mtime_ns, size }
    }

    fn open(inodes: &Inodes, version: Version, fresh: bool) -> OpenAdvice {
        inodes.opening(INO);
        inodes.opened(INO, version, fresh)
    }

    fn advice(keep_cache: bool, forget_attributes: bool) -> OpenAdvice {
        OpenAdvice {
            keep_cache,
            forget_attributes,
        }
    }

    #[test]
    fn an_inode_goes_when_forgotten_and_closed() {
        let inodes = Inodes::default();
        inodes.told(INO, version(1, 1), true);
        inodes.told(INO, version(1, 1), true);
        open(&inodes, version(1, 1), false);
        inodes.forget(INO, 2);
        assert_eq!(inodes.len(), 1);
        inodes.closed(INO, false);
        assert_eq!(inodes.len(), 0);
        inodes.forget(INO, 5);
        inodes.told(INO, version(1, 1), false);
        assert_eq!(inodes.len(), 0);
    }

    #[test]
    fn pages_are_kept_only_over_opens_of_one_version() {
        let inodes = Inodes::default();
        inodes.told(INO, version(1, 1), true);
        assert_eq!(open(&inodes, version(1, 1), false), advice(false, false));
        inodes.closed(INO, false);
        assert_eq!(open(&inodes, version(1, 1), false), advice(true, false));
        inodes.closed(INO, false);
        assert_eq!(open(&inodes, version(2, 1), false), advice(false, true));
        assert_eq!(open(&inodes, version(2, 1), false), advice(true, false));
    }

    #[test]
    fn own_writes_keep_their_pages() {
        let inodes = Inodes::default();
        inodes.told(INO, version(1, 0), true);
        assert_eq!(open(&inodes, version(1, 0), true), advice(true, false));
        assert!(!inodes.writer_opened(INO, None));
        inodes.wrote(INO, version(5, 100));
        assert!(!inodes.told(INO, version(6, 100), false));
        inodes.closed(INO, true);
        assert_eq!(open(&inodes, version(6, 100), false), advice(true, false));
    }

    #[test]
    fn a_change_before_the_lease_drops_the_pages() {
        let inodes = Inodes::default();
        open(&inodes, version(1, 10), false);
        assert!(inodes.writer_opened(INO, Some(version(2, 20))));
        inodes.wrote(INO, version(3, 30));
        assert_eq!(open(&inodes, version(3, 30), false), advice(false, false));
    }

    #[test]
    fn attributes_of_another_version_drop_the_pages_of_an_open_file() {
        let inodes = Inodes::default();
        inodes.told(INO, version(1, 10), true);
        open(&inodes, version(1, 10), false);
        assert!(inodes.told(INO, version(2, 10), false));
        assert!(
            !inodes.told(INO, version(3, 10), false),
            "they are being dropped already"
        );
        inodes.closed(INO, false);
        open(&inodes, version(3, 10), false);
        inodes.closed(INO, false);
        assert!(
            !inodes.told(INO, version(4, 10), false),
            "nobody has it open: the next open drops them"
        );
        assert_eq!(open(&inodes, version(4, 10), false), advice(false, false));
    }
}
