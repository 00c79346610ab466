//! The seam: everything through which boomfs touches time, chance, networks and disks.
//!
//! An [`Io`] is either real (tokio, `std::fs`) or one node of a simulated [`sim::World`], in
//! which whole clusters run in one thread, in virtual time, from a seed. NameNode, DataNode and
//! client are written against `Io` only.
//!
//! **Architecture invariant:** no other crate of NameNode, DataNode and client reads a clock,
//! draws a random number, or opens a socket or a file.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)] // This is the place that may use the real ones.

mod file;
mod net;
mod real;
pub mod sim;
pub mod watch;

pub use file::{DirItem, File, LockGuard, Open, Space};
pub use net::{Listener, ReadHalf, Stream, WriteHalf};

use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// A deadline passed before what it was set for was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not done within {0:?}")]
pub struct Elapsed(
    /// The span that was allowed.
    pub Duration,
);

impl From<Elapsed> for io::Error {
    fn from(e: Elapsed) -> io::Error {
        io::Error::new(io::ErrorKind::TimedOut, e)
    }
}

/// Time, chance, network and disk of one node. Cheap to clone.
///
/// In a simulated world an `Io` belongs to one life of its node: after a crash of the node its
/// operations never complete, as those of a dead process never do; ask the world for a new one.
#[derive(Clone, Debug)]
pub struct Io(Inner);

#[derive(Clone, Debug)]
enum Inner {
    Real(Arc<real::Real>),
    Sim(sim::Node),
}

impl Io {
    /// The real machine. Sockets, sleeping and files need a tokio runtime when they are used.
    #[must_use]
    pub fn real() -> Io {
        Io(Inner::Real(Arc::new(real::Real::new())))
    }

    /// The wall clock: nanoseconds since the epoch. May jump.
    #[must_use]
    pub fn now_ns(&self) -> i64 {
        match &self.0 {
            Inner::Real(_) => real::now_ns(),
            Inner::Sim(node) => node.now_ns(),
        }
    }

    /// The monotonic clock: nanoseconds since an arbitrary moment of this process. Never goes back.
    #[must_use]
    pub fn mono_ns(&self) -> u64 {
        match &self.0 {
            Inner::Real(_) => real::mono_ns(),
            Inner::Sim(node) => node.mono_ns(),
        }
    }

    /// Waits for a span of time; the resolution is a millisecond, rounded up.
    pub async fn sleep(&self, d: Duration) {
        match &self.0 {
            Inner::Real(_) => tokio::time::sleep(d).await,
            Inner::Sim(node) => node.sleep(d).await,
        }
    }

    /// Runs a future until it is done or the span has passed; then it is dropped.
    ///
    /// # Errors
    /// [`Elapsed`] when the span has passed.
    pub async fn timeout<F: Future>(&self, d: Duration, f: F) -> Result<F::Output, Elapsed> {
        let elapsed = |_| Elapsed(d);
        match &self.0 {
            Inner::Real(_) => tokio::time::timeout(d, f).await.map_err(elapsed),
            Inner::Sim(node) => {
                let done = tokio::time::timeout(node.true_span(d), f).await;
                node.while_alive(done.map_err(elapsed)).await
            }
        }
    }

    /// Runs a task on a thread of its own, where what it asks of files is done at once: no thread waits for another's
    /// word that a write or a sync is done. For a task that does little else. It has timers but no sockets, and ends by
    /// itself. In a simulated world it is a task as any other.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn spawn_apart(
        &self,
        name: &str,
        task: impl Future<Output = ()> + Send + 'static,
    ) -> io::Result<()> {
        match &self.0 {
            Inner::Real(_) => real::spawn_apart(name, task),
            Inner::Sim(_) => {
                tokio::spawn(task);
                Ok(())
            }
        }
    }

    /// A random number. Not for secrets.
    #[must_use]
    pub fn random_u64(&self) -> u64 {
        match &self.0 {
            Inner::Real(real) => real.random_u64(),
            Inner::Sim(node) => node.random_u64(),
        }
    }

    /// Listens for connections on `host:port`; port 0 picks a free one.
    ///
    /// # Errors
    /// The address is in use, is none of this node's, or is no address.
    pub async fn listen(&self, addr: &str) -> io::Result<Listener> {
        match &self.0 {
            Inner::Real(_) => real::listen(addr).await.map(Listener::real),
            Inner::Sim(node) => node.listen(addr).await.map(Listener::sim),
        }
    }

    /// Connects to `host:port`. `TCP_NODELAY` is set.
    ///
    /// # Errors
    /// `ConnectionRefused` when nobody listens there, `TimedOut` when the deadline passes first,
    /// and whatever the network says. The message names the address.
    pub async fn connect(&self, addr: &str, deadline: Duration) -> io::Result<Stream> {
        let connecting = async {
            match &self.0 {
                Inner::Real(_) => real::connect(addr).await.map(Stream::real),
                Inner::Sim(node) => node.connect(addr).await.map(Stream::sim),
            }
        };
        let named = |e: &dyn std::fmt::Display| format!("cannot connect to {addr}: {e}");
        match self.timeout(deadline, connecting).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(e)) => Err(io::Error::new(e.kind(), named(&e))),
            Err(e) => Err(io::Error::new(io::ErrorKind::TimedOut, named(&e))),
        }
    }

    /// Opens a file.
    ///
    /// # Errors
    /// Those of the operating system: `NotFound`, `AlreadyExists`, `StorageFull`, ...
    pub async fn open(&self, path: &Path, how: Open) -> io::Result<File> {
        match &self.0 {
            Inner::Real(_) => real::open(path, how).await.map(File::real),
            Inner::Sim(node) => node.open(path, how).await.map(File::sim),
        }
    }

    /// Makes a directory and those above it that are missing; they survive a crash from then on.
    ///
    /// # Errors
    /// Those of the operating system.
    pub async fn create_dir_all(&self, p: &Path) -> io::Result<()> {
        match &self.0 {
            Inner::Real(_) => real::create_dir_all(p).await,
            Inner::Sim(node) => node.create_dir_all(p).await,
        }
    }

    /// What a directory holds, sorted by name. Names that are no UTF-8 are shown with
    /// replacement characters.
    ///
    /// # Errors
    /// Those of the operating system.
    pub async fn read_dir(&self, p: &Path) -> io::Result<Vec<DirItem>> {
        match &self.0 {
            Inner::Real(_) => real::read_dir(p).await,
            Inner::Sim(node) => node.read_dir(p).await,
        }
    }

    /// Renames a file or directory; replaces a file. Survives a crash after [`Io::sync_dir`] of
    /// the target's directory.
    ///
    /// # Errors
    /// Those of the operating system.
    pub async fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        match &self.0 {
            Inner::Real(_) => real::rename(from, to).await,
            Inner::Sim(node) => node.rename(from, to).await,
        }
    }

    /// Removes a file. Handles that are open go on working.
    ///
    /// # Errors
    /// Those of the operating system.
    pub async fn remove_file(&self, p: &Path) -> io::Result<()> {
        match &self.0 {
            Inner::Real(_) => real::remove_file(p).await,
            Inner::Sim(node) => node.remove_file(p).await,
        }
    }

    /// Makes the names in a directory survive a crash.
    ///
    /// # Errors
    /// Those of the operating system. A sync that failed must not be tried again: what it should
    /// have written may be lost.
    pub async fn sync_dir(&self, p: &Path) -> io::Result<()> {
        match &self.0 {
            Inner::Real(_) => real::sync_dir(p).await,
            Inner::Sim(node) => node.sync_dir(p).await,
        }
    }

    /// Whether a file or directory is there (and can be seen).
    pub async fn exists(&self, p: &Path) -> bool {
        match &self.0 {
            Inner::Real(_) => real::exists(p).await,
            Inner::Sim(node) => node.exists(p).await,
        }
    }

    /// A whole file; for small ones.
    ///
    /// # Errors
    /// Those of the operating system.
    pub async fn read_file(&self, p: &Path) -> io::Result<Vec<u8>> {
        match &self.0 {
            Inner::Real(_) => real::read_file(p).await,
            Inner::Sim(node) => {
                let file = node.open(p, Open::read()).await?;
                let len = usize::try_from(file.len().await?).map_err(io::Error::other)?;
                file.read_at(0, len).await
            }
        }
    }

    /// Writes a whole file so that after a crash either the old or the new contents are there,
    /// and after `Ok` the new: to `<name>.tmp`, sync, rename, [`Io::sync_dir`]. One at a time a file.
    ///
    /// # Errors
    /// Those of the operating system. The old contents are still there unless the last step,
    /// the sync of the directory, was what failed.
    pub async fn write_atomic(&self, p: &Path, bytes: &[u8]) -> io::Result<()> {
        let (Some(name), Some(dir)) = (p.file_name(), p.parent()) else {
            let why = format!("cannot write {}: it names no file", p.display());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        };
        let dir = if dir.as_os_str().is_empty() {
            Path::new(".")
        } else {
            dir
        };
        let mut temp = name.to_owned();
        temp.push(".tmp");
        let temp: PathBuf = dir.join(temp);
        let written = async {
            let file = self
                .open(
                    &temp,
                    Open {
                        truncate: true,
                        ..Open::write_create()
                    },
                )
                .await?;
            file.write_at(0, bytes.to_vec()).await?;
            file.sync_data().await?;
            self.rename(&temp, p).await
        };
        if let Err(e) = written.await {
            // Best effort: the name is taken over by the next try anyway.
            let _ = self.remove_file(&temp).await;
            return Err(e);
        }
        self.sync_dir(dir).await
    }

    /// Locks a file exclusively, and makes it when it is missing. Does not wait. The lock ends
    /// when the guard is dropped or the process dies.
    ///
    /// # Errors
    /// `WouldBlock` when somebody, this process included, holds the lock.
    pub async fn lock(&self, p: &Path) -> io::Result<LockGuard> {
        match &self.0 {
            Inner::Real(_) => real::lock(p).await.map(LockGuard::real),
            Inner::Sim(node) => node.lock(p).await.map(LockGuard::sim),
        }
    }

    /// Space of the filesystem that a path is on.
    ///
    /// # Errors
    /// Those of the operating system.
    pub async fn space(&self, p: &Path) -> io::Result<Space> {
        match &self.0 {
            Inner::Real(_) => real::space(p).await,
            Inner::Sim(node) => node.space(p).await,
        }
    }
}
