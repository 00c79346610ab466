//! Requests that find, make, move and remove names.

use crate::caller::trusted;
use crate::state::{State, failed, failed_inode, inode_at};
use boomfs_client::{At, Caller, CreateFile, Ino, Kind};
use fuser::{Errno, FileAttr};
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

impl State {
    pub(crate) async fn lookup(&self, at: At) -> Result<FileAttr, Errno> {
        let attr = self
            .client
            .lookup(&trusted(), &at, false)
            .await
            .map_err(|error| failed("lookup", &error))?;
        Ok(self.present(attr, true))
    }

    pub(crate) async fn mkdir(&self, caller: Caller, at: At, mode: u32) -> Result<FileAttr, Errno> {
        let made = self.client.mkdir(&caller, &at, mode & 0o7777).await;
        self.changed();
        Ok(self.present(made.map_err(|error| failed("mkdir", &error))?, true))
    }

    pub(crate) async fn mknod(
        &self,
        caller: Caller,
        at: At,
        kind: Kind,
        mode: u32,
        rdev: u32,
    ) -> Result<FileAttr, Errno> {
        let what = CreateFile {
            kind,
            rdev: u64::from(rdev),
            exclusive: true,
            lease: false,
            ..CreateFile::file(mode & 0o7777)
        };
        let made = self.client.create(&caller, &at, what).await;
        self.changed();
        Ok(self.present(made.map_err(|error| failed("mknod", &error))?, true))
    }

    pub(crate) async fn symlink(
        &self,
        caller: Caller,
        at: At,
        target: Vec<u8>,
    ) -> Result<FileAttr, Errno> {
        let made = self.client.symlink(&caller, &at, &target).await;
        self.changed();
        Ok(self.present(made.map_err(|error| failed("symlink", &error))?, true))
    }

    pub(crate) async fn readlink(&self, ino: Ino) -> Result<OsString, Errno> {
        let target = self
            .client
            .readlink(&trusted(), ino)
            .await
            .map_err(|error| failed_inode("readlink", &error))?;
        Ok(OsString::from_vec(target))
    }

    pub(crate) async fn link(&self, caller: Caller, ino: Ino, at: At) -> Result<FileAttr, Errno> {
        let made = self.client.link(&caller, ino, &at).await;
        self.changed();
        Ok(self.present(made.map_err(|error| failed("link", &error))?, true))
    }

    pub(crate) async fn unlink(&self, caller: Caller, at: At) -> Result<(), Errno> {
        let done = self.client.unlink(&caller, &at).await;
        self.changed();
        done.map(drop).map_err(|error| failed("unlink", &error))
    }

    pub(crate) async fn rmdir(&self, caller: Caller, at: At) -> Result<(), Errno> {
        let done = self.client.rmdir(&caller, &at).await;
        self.changed();
        done.map_err(|error| failed("rmdir", &error))
    }

    pub(crate) async fn rename(
        &self,
        caller: Caller,
        from: At,
        to: At,
        (no_replace, exchange): (bool, bool),
    ) -> Result<(), Errno> {
        let done = self
            .client
            .rename(&caller, &from, &to, no_replace, exchange)
            .await;
        self.changed();
        done.map(drop).map_err(|error| failed("rename", &error))
    }

    pub(crate) async fn getattr(&self, ino: Ino) -> Result<FileAttr, Errno> {
        let attr = self
            .client
            .lookup(&trusted(), &inode_at(ino), false)
            .await
            .map_err(|error| failed_inode("getattr", &error))?;
        Ok(self.present(attr, false))
    }
}
