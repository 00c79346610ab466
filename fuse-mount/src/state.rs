//! What all requests of a mount share.
#![allow(
    clippy::disallowed_methods,
    reason = "a mount is of this machine's kernel and clock"
)]

use crate::convert;
use crate::dirs::OpenDir;
use crate::handles::{Handles, OpenFile};
use crate::inodes::{Inodes, Version};
use crate::notify::Notify;
use boomfs_client::{At, Attr, Client, Ino, Kind};
use fuser::{Errno, FileAttr};
use rustix::io::Errno as Number;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::Notify as Wakeup;

/// One mount: the client it asks, and what the kernel holds of it.
pub(crate) struct State {
    pub client: Client,
    pub runtime: Handle,
    /// How long the kernel may use names and attributes without asking again.
    pub ttl: Duration,
    /// Every write is on disk when it returns.
    pub sync: bool,
    pub inodes: Inodes,
    pub files: Handles<OpenFile>,
    pub dirs: Handles<OpenDir>,
    pub notify: Notify,
    pub running: Arc<Running>,
    changes: AtomicU64,
}

impl State {
    pub(crate) fn new(client: Client, runtime: Handle, ttl: Duration, sync: bool) -> State {
        State {
            client,
            runtime,
            ttl,
            sync,
            inodes: Inodes::default(),
            files: Handles::default(),
            dirs: Handles::default(),
            notify: Notify::default(),
            running: Arc::default(),
            changes: AtomicU64::new(0),
        }
    }

    /// Counts changes that this mount made to names and attributes: what was listed before one is old.
    pub(crate) fn changes(&self) -> u64 {
        self.changes.load(Ordering::SeqCst)
    }

    pub(crate) fn changed(&self) {
        self.changes.fetch_add(1, Ordering::SeqCst);
    }

    /// Lays what an own writer knows over attributes. Kernels read the size back right after a write.
    pub(crate) fn lay_over(&self, attr: &mut Attr) {
        if attr.kind == Kind::File
            && let Some(writer) = self.client.writer(attr.ino)
        {
            convert::Uncommitted::of(&writer).lay_over(attr);
        }
    }

    /// Attributes on their way to the kernel. `looked_up`: with a reference to the inode, which it gives back by
    /// `forget`; counted before the answer leaves, since that can follow at once.
    pub(crate) fn present(&self, mut attr: Attr, looked_up: bool) -> FileAttr {
        self.lay_over(&mut attr);
        if self.inodes.told(attr.ino, Version::of(&attr), looked_up) {
            self.notify.drop_pages(attr.ino);
        }
        convert::file_attr(&attr)
    }
}

/// A name in a directory.
///
/// # Errors
/// ENAMETOOLONG; the kernel passes longer names than a directory takes.
pub(crate) fn name_at(parent: Ino, name: &OsStr) -> Result<At, Errno> {
    if name.len() > convert::NAME_MAX {
        return Err(Errno::ENAMETOOLONG);
    }
    Ok(At {
        base: parent,
        path: vec![name.as_bytes().to_vec()],
    })
}

/// The inode itself.
pub(crate) fn inode_at(ino: Ino) -> At {
    At {
        base: ino,
        path: Vec::new(),
    }
}

/// What a program sees of a client's error; the sentence goes to the log.
pub(crate) fn failed(what: &'static str, error: &boomfs_client::Error) -> Errno {
    let number = error.errno();
    // Answers of everyday use are no news.
    let usual = [
        Number::NOENT,
        Number::EXIST,
        Number::ACCESS,
        Number::PERM,
        Number::NOTDIR,
        Number::ISDIR,
        Number::NOTEMPTY,
        Number::INVAL,
        Number::NAMETOOLONG,
        Number::STALE,
        Number::XDEV,
        Number::LOOP,
        Number::MLINK,
    ];
    if usual.iter().any(|usual| usual.raw_os_error() == number) {
        tracing::trace!(what, %error);
    } else {
        tracing::warn!(what, number, %error, "a request failed");
    }
    convert::errno(number)
}

/// As [`failed`], of a request that names an inode and no name: that it is gone is ESTALE. The kernel then looks
/// its name up again, which finds what another mount has put there.
pub(crate) fn failed_inode(what: &'static str, error: &boomfs_client::Error) -> Errno {
    if error.errno() == Number::NOENT.raw_os_error() {
        Errno::ESTALE
    } else {
        failed(what, error)
    }
}

/// Counts requests that are being served.
#[derive(Debug, Default)]
pub(crate) struct Running {
    count: AtomicUsize,
    fewer: Wakeup,
}

/// One request that is being served, until dropped.
pub(crate) struct Serving(Arc<Running>);

impl Running {
    pub(crate) fn enter(self: &Arc<Running>) -> Serving {
        self.count.fetch_add(1, Ordering::SeqCst);
        Serving(self.clone())
    }

    pub(crate) fn count(&self) -> usize {
        self.count.load(Ordering::SeqCst)
    }

    /// Waits until none is left.
    pub(crate) async fn none_left(&self) {
        loop {
            let fewer = self.fewer.notified();
            tokio::pin!(fewer);
            // From here on a wakeup is not missed.
            fewer.as_mut().enable();
            if self.count() == 0 {
                return;
            }
            fewer.await;
        }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        if self.0.count.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.0.fewer.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_have_255_bytes() {
        let longest = "x".repeat(255);
        assert_eq!(
            name_at(Ino(1), OsStr::new(&longest)).unwrap().path,
            [longest.as_bytes()]
        );
        assert_eq!(
            name_at(Ino(1), OsStr::new(&"x".repeat(256))),
            Err(Errno::ENAMETOOLONG)
        );
    }

    #[tokio::test]
    async fn the_last_request_to_end_wakes_who_waits() {
        let running = Arc::new(Running::default());
        let (first, second) = (running.enter(), running.enter());
        assert_eq!(running.count(), 2);
        let waiter = tokio::spawn({
            let running = running.clone();
            async move { running.none_left().await }
        });
        drop(first);
        tokio::task::yield_now().await;
        drop(second);
        tokio::time::timeout(Duration::from_secs(5), waiter)
            .await
            .unwrap()
            .unwrap();
        running.none_left().await;
    }
}
