//! Telling the kernel that what it holds is old.
//!
//! **Invariant:** pages are dropped only on the thread that is here. The kernel waits for locks on the pages,
//! and whoever holds them may wait for a request that is still to be served.
#![allow(
    clippy::disallowed_methods,
    reason = "a mount is of this machine's kernel and clock"
)]

use boomfs_client::Ino;
use fuser::{INodeNo, Notifier};
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// Files whose pages wait to be dropped. When there are more, the pages of the others go at their next open.
const QUEUE: usize = 1024;

/// The way back to the kernel. Before it is connected, and after the mount is gone, nothing happens.
#[derive(Debug, Default)]
pub(crate) struct Notify {
    notifier: OnceLock<Notifier>,
    queue: OnceLock<SyncSender<Ino>>,
}

impl Notify {
    /// Starts the thread.
    ///
    /// # Errors
    /// When no thread can be started.
    pub(crate) fn connect(&self, notifier: Notifier) -> std::io::Result<()> {
        let (sender, receiver) = sync_channel(QUEUE);
        let for_thread = notifier.clone();
        std::thread::Builder::new()
            .name("boomfs-notify".into())
            .spawn(move || drop_pages(&for_thread, &receiver))?;
        let _ = self.notifier.set(notifier);
        let _ = self.queue.set(sender);
        Ok(())
    }

    /// The kernel asks again for the attributes of this inode. Takes no lock that a request could hold.
    pub(crate) fn forget_attributes(&self, ino: Ino) {
        if let Some(notifier) = self.notifier.get()
            && let Err(error) = notifier.inval_inode(INodeNo(ino.0), -1, 0)
        {
            tracing::debug!(%ino, %error, "the kernel's attributes were not dropped");
        }
    }

    /// The kernel drops its attributes and pages of this inode, soon.
    pub(crate) fn drop_pages(&self, ino: Ino) {
        if let Some(queue) = self.queue.get()
            && queue.try_send(ino).is_err()
        {
            tracing::debug!(%ino, "too many pages to drop; these go at the next open");
        }
    }
}

fn drop_pages(notifier: &Notifier, queue: &Receiver<Ino>) {
    while let Ok(ino) = queue.recv() {
        if let Err(error) = notifier.inval_inode(INodeNo(ino.0), 0, 0) {
            tracing::debug!(%ino, %error, "the kernel's pages were not dropped");
        }
    }
}
