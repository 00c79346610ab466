//! Requests that change attributes, and statfs.

use crate::caller::trusted;
use crate::state::{State, failed, failed_inode, inode_at};
use boomfs_client::{Attr, Caller, Error, Ino, SetAttr, StatFs};
use fuser::{Errno, FileAttr};
use rustix::io::Errno as Number;

const SET_ID_BITS: u32 = 0o6000;

impl State {
    /// `by_handle`: it came through an open file, whose permissions were checked when it was opened.
    pub(crate) async fn setattr(
        &self,
        caller: Caller,
        ino: Ino,
        mut change: SetAttr,
        by_handle: bool,
    ) -> Result<FileAttr, Errno> {
        let result = self
            .setattr_in_parts(&caller, ino, &mut change, by_handle)
            .await;
        self.changed();
        Ok(self.present(
            result.map_err(|error| failed_inode("setattr", &error))?,
            false,
        ))
    }

    async fn setattr_in_parts(
        &self,
        caller: &Caller,
        ino: Ino,
        change: &mut SetAttr,
        by_handle: bool,
    ) -> Result<Attr, Error> {
        if let Some(size) = change.size.take_if(|_| by_handle) {
            let attr = self.set_size(&trusted(), ino, size).await?;
            if *change == SetAttr::default() {
                return Ok(attr);
            }
        }
        if change.size.is_some() {
            // The kernel cuts its own pages; what else it holds is of a version before this one.
            self.inodes.doubt(ino);
        }
        match self
            .client
            .setattr(caller, &inode_at(ino), change.clone())
            .await
        {
            Err(error) if error.errno() == Number::PERM.raw_os_error() => {
                self.strip_set_id(ino, change).await?.ok_or(error)
            }
            result => result,
        }
    }

    /// Cuts or extends a file. Where this mount writes it, the client puts the cut behind all bytes not yet sent.
    pub(crate) async fn set_size(
        &self,
        caller: &Caller,
        ino: Ino,
        size: u64,
    ) -> Result<Attr, Error> {
        if !self.inodes.has_writer(ino) {
            // The kernel cuts its own pages; what else it holds is of a version before this one.
            self.inodes.doubt(ino);
        }
        let change = SetAttr {
            size: Some(size),
            ..SetAttr::default()
        };
        self.client.setattr(caller, &inode_at(ino), change).await
    }

    /// A write by someone who is not the owner takes the set-id bits off. The kernel asks for that in the writer's
    /// name, whom the NameNode refuses. The kernel itself refuses any other `chmod` by a stranger, so what
    /// does nothing but take these bits off can be granted.
    async fn strip_set_id(&self, ino: Ino, change: &SetAttr) -> Result<Option<Attr>, Error> {
        let Some(mode) = change.mode else {
            return Ok(None);
        };
        if *change
            != (SetAttr {
                mode: Some(mode),
                ..SetAttr::default()
            })
        {
            return Ok(None);
        }
        let before = self.client.getattr(&trusted(), ino).await?.mode & 0o7777;
        if !only_strips_set_id(before, mode & 0o7777) {
            return Ok(None);
        }
        self.client
            .setattr(&trusted(), &inode_at(ino), change.clone())
            .await
            .map(Some)
    }

    pub(crate) async fn statfs(&self) -> Result<Space, Errno> {
        let answer = self
            .client
            .statfs()
            .await
            .map_err(|error| failed("statfs", &error))?;
        Ok(Space::of(&answer))
    }
}

fn only_strips_set_id(before: u32, after: u32) -> bool {
    before & !SET_ID_BITS == after & !SET_ID_BITS && after & SET_ID_BITS & !before == 0
}

/// What `statfs` says. Space is what files can still take, so raw space by the default replication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Space {
    /// In units of [`Space::UNIT`].
    pub blocks: u64,
    /// In units of [`Space::UNIT`].
    pub free: u64,
    /// Inodes that can be.
    pub files: u64,
    /// Inodes that can still be made.
    pub files_free: u64,
}

impl Space {
    /// Unit of the counts, bytes.
    pub(crate) const UNIT: u32 = 4096;
    /// Inodes are not limited; programs want a number.
    const FILES_FREE: u64 = 1 << 32;

    fn of(answer: &StatFs) -> Space {
        let share = |raw: u64| raw / u64::from(answer.replication.max(1)) / u64::from(Space::UNIT);
        Space {
            blocks: share(answer.capacity),
            free: share(answer.free),
            files: answer.inodes.saturating_add(Space::FILES_FREE),
            files_free: Space::FILES_FREE,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn taking_off_set_id_bits_is_told_from_chmod() {
        assert!(only_strips_set_id(0o4755, 0o755));
        assert!(only_strips_set_id(0o6755, 0o2755));
        assert!(only_strips_set_id(0o755, 0o755));
        assert!(!only_strips_set_id(0o755, 0o4755));
        assert!(!only_strips_set_id(0o4755, 0o754));
        assert!(!only_strips_set_id(0o4755, 0o1755));
    }

    #[test]
    fn space_is_what_files_can_take() {
        let answer = StatFs {
            capacity: 3 << 30,
            free: 3 << 20,
            inodes: 10,
            replication: 3,
            ..StatFs::default()
        };
        assert_eq!(
            Space::of(&answer),
            Space {
                blocks: 1 << 18,
                free: 256,
                files: 10 + (1 << 32),
                files_free: 1 << 32
            }
        );
        assert_eq!(Space::of(&StatFs::default()).blocks, 0);
    }
}
