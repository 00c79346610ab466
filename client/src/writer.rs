//! Writing a file.

mod sender;
mod state;

use crate::client::{Inner, SetAttr};
use crate::fetch::{Fetch, Written};
use crate::files::Slot;
use crate::layout::{Layout, check_range, read_end};
use crate::pipeline::How;
use crate::pool::nanos;
use crate::retry::Deadline;
use crate::{Error, describe, errno, limits};
use boomfs_wire::{Answer, At, Attr, Caller, Ino, Op};
use bytes::Bytes;
use sender::Core;
use state::{State, covers, overlay};
use std::collections::BTreeMap;
use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// Writes one file under its write lease. All opens of an inode in one client share one writer;
/// clones of a `FileWriter` are one open. The lease is given back when the last open is closed;
/// an open that is dropped without [`close`](FileWriter::close) is closed in the background, and
/// its failure only logged.
///
/// A failure to bring bytes to their replicas, and the loss of the session, is kept: every later
/// call fails with it until all opens are closed.
#[derive(Clone)]
pub struct FileWriter {
    open: Arc<OpenWriter>,
}

struct OpenWriter {
    shared: Arc<Shared>,
    slot: Arc<Slot>,
    /// It counts as an open that is not closed yet.
    counted: AtomicBool,
}

/// The one writer of a file in this client.
pub(crate) struct Shared {
    inner: Arc<Inner>,
    ino: Ino,
    caller: Caller,
    /// The session that holds the lease.
    epoch: u64,
    block_size: u64,
    layout: Arc<Layout>,
    pub(crate) opens: AtomicUsize,
    state: Mutex<State>,
    core: tokio::sync::Mutex<Core>,
    /// Held for reading by writes, for writing by a change of the length: the two do not overlap.
    gate: tokio::sync::RwLock<()>,
    /// Bytes left the buffer.
    room: Notify,
}

impl Shared {
    /// A writer for a file whose lease is held; `unsynced`: blocks that a writer of before left off disk.
    pub(crate) fn new(
        inner: &Arc<Inner>,
        caller: &Caller,
        attr: &Attr,
        epoch: u64,
        unsynced: BTreeMap<u64, u64>,
    ) -> Shared {
        Shared {
            inner: Arc::clone(inner),
            ino: attr.ino,
            caller: caller.clone(),
            epoch,
            block_size: attr.block_size.max(1),
            layout: inner.files.layout(attr.ino),
            opens: AtomicUsize::new(0),
            state: Mutex::new(State::new(attr.block_size, attr.size, unsynced)),
            core: tokio::sync::Mutex::default(),
            gate: tokio::sync::RwLock::default(),
            room: Notify::new(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing in the state is left half-done by a panic, for nothing in it awaits or calls out.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn deadline(&self) -> Deadline {
        Deadline::after(&self.inner.io, self.inner.config.deadline)
    }

    /// The session that holds its lease still stands.
    pub(crate) fn has_lease(&self) -> bool {
        self.inner.link.epoch() == self.epoch
    }

    fn check(&self, verb: &'static str) -> Result<(), Error> {
        let mut state = self.state();
        if !self.has_lease() {
            let what = describe::Subject::ino(verb, self.ino).to_string();
            state.fail(&Error::SessionLost { what });
        }
        state.failed.clone().map_or(Ok(()), Err)
    }

    /// Length and mtime as this writer knows them, into attributes from the NameNode.
    pub(crate) fn patch(&self, attr: &mut Attr) {
        let state = self.state();
        attr.size = state.size;
        if let Some(mtime_ns) = state.mtime_ns {
            attr.mtime_ns = mtime_ns;
            attr.ctime_ns = attr.ctime_ns.max(mtime_ns);
        }
    }

    /// Puts bytes into the buffer at places that are settled already.
    async fn put(self: &Arc<Shared>, mut offset: u64, data: &Bytes) -> Result<(), Error> {
        let deadline = self.deadline();
        let packet = usize::try_from(limits::PACKET).unwrap_or(usize::MAX);
        for part in data.chunks(packet) {
            loop {
                self.check("write")?;
                let room = self.room.notified();
                tokio::pin!(room);
                // From here on a packet that leaves wakes this up.
                room.as_mut().enable();
                if self.try_put(offset, part) {
                    break;
                }
                let waited = match deadline.left(&self.inner.io) {
                    Some(left) => self.inner.io.timeout(left, room).await.is_ok(),
                    None => false,
                };
                if !waited {
                    let what = describe::Subject::ino("write", self.ino).to_string();
                    let who = "the DataNodes do not take the bytes that wait".to_owned();
                    return Err(Error::TimedOut {
                        what,
                        within: deadline.span(),
                        who,
                    });
                }
            }
            offset += part.len() as u64;
        }
        Ok(())
    }

    fn try_put(self: &Arc<Shared>, offset: u64, part: &[u8]) -> bool {
        let share = self.inner.files.share();
        let mut state = self.state();
        let fits = state.dirty.is_empty() || state.dirty.cost() + part.len() <= share;
        if fits {
            state.insert(
                offset,
                part,
                self.inner.io.now_ns(),
                self.inner.io.mono_ns(),
            );
        }
        let send = state.dirty.has_full() || state.dirty.cost() >= share / 2 || !fits;
        if send && !state.sender_runs {
            state.sender_runs = true;
            let sender = Arc::clone(self);
            tokio::spawn(async move { sender.send_full().await });
        }
        fits
    }

    async fn flush(&self, sync: bool) -> Result<(), Error> {
        self.check("flush")?;
        let mut core = self.core.lock().await;
        self.check("flush")?;
        self.drain(&mut core, How { sync, close: false }).await?;
        if sync {
            self.sync(&mut core).await?;
        }
        let submitted = self.submit_commit().await?;
        drop(core);
        self.committed(submitted).await
    }

    /// Changes attributes behind all bytes that were written before.
    pub(crate) async fn set_attr(&self, caller: &Caller, set: &SetAttr) -> Result<Attr, Error> {
        self.check("set attributes")?;
        let _gate = self.gate.write().await;
        if let Some(size) = set.size {
            check_range("truncate", self.ino, size, 0)?;
            self.state().dirty.cut(size);
        }
        let mut core = self.core.lock().await;
        self.check("set attributes")?;
        if set.size.is_some() || set.mtime.is_some() || set.atime.is_some() {
            self.drain(&mut core, How::default()).await?;
        }
        if set.size.is_some() {
            // An open pipeline would leave the bytes that are cut off on its replicas.
            self.close_pipelines(&mut core, u64::MAX).await;
        }
        if set.size.is_some() || set.mtime.is_some() || set.atime.is_some() {
            let submitted = self.submit_commit().await?;
            self.committed(submitted).await?;
        }
        let op = set.op(At {
            base: self.ino,
            path: Vec::new(),
        });
        let answer = self
            .inner
            .link
            .command(caller, op, Some(self.epoch))
            .await?;
        let attr = crate::client::attr_of("set attributes", answer)?;
        if let Some(size) = set.size {
            self.state().resized(size);
            self.layout.forget();
        }
        Ok(attr)
    }

    /// The last open was closed: finishes all blocks, commits, gives the lease back.
    async fn finish(&self) -> Result<(), Error> {
        let mut core = self.core.lock().await;
        let mut result = self.check("close");
        if result.is_ok() {
            result = self
                .drain(
                    &mut core,
                    How {
                        sync: false,
                        close: true,
                    },
                )
                .await;
        }
        if self.has_lease() {
            self.close_pipelines(&mut core, u64::MAX).await;
            // What was acknowledged is committed even when other bytes were lost.
            let commit = self.submit_commit().await;
            let op = Op::ReleaseLease { ino: self.ino };
            let release = self
                .inner
                .link
                .submit(&self.caller, op, Some(self.epoch), self.deadline())
                .await;
            let committed = match commit {
                Ok(submitted) => self.committed(submitted).await,
                Err(error) => Err(error),
            };
            result = result.and(committed);
            let released = match release {
                Ok(pending) => self.inner.link.answer(pending).await,
                Err(error) => Err(error),
            };
            if let Err(error) = released {
                tracing::debug!(ino = %self.ino, "write lease was not given back: {error}");
            }
        }
        let unsynced = std::mem::take(&mut self.state().unsynced);
        self.inner
            .files
            .closed(self.ino, unsynced, self.inner.io.mono_ns());
        self.layout.forget();
        result
    }

    /// Sends bytes that wait for long, and closes pipelines that idle.
    pub(crate) async fn tend(self: Arc<Shared>) {
        let now_ns = self.inner.io.mono_ns();
        let since_ns = self.state().dirty_since_ns;
        if since_ns
            .is_some_and(|since_ns| now_ns.saturating_sub(since_ns) >= nanos(limits::DIRTY_AGE))
        {
            // A failure is kept for the application.
            let _ = self.flush(false).await;
        } else if let Ok(mut core) = self.core.try_lock() {
            self.close_pipelines(
                &mut core,
                now_ns.saturating_sub(nanos(limits::PIPELINE_IDLE)),
            )
            .await;
        }
    }

    /// Reads under what is not yet sent.
    pub(crate) async fn read(&self, offset: u64, len: usize, seed: u64) -> Result<Bytes, Error> {
        let range = {
            let end = read_end(self.ino, offset, len)?;
            offset..end.min(self.state().size)
        };
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        // First what waits, then the replicas: bytes that get there in between are seen either way.
        let waiting = self.state().waiting(&range);
        if let [(start, bytes)] = waiting.as_slice()
            && *start == range.start
            && bytes.len() as u64 == range.end - range.start
        {
            return Ok(bytes.clone());
        }
        if covers(&waiting, &range) {
            return Ok(overlay(Bytes::new(), &waiting, &range));
        }
        let inner = &self.inner;
        let deadline = self.deadline();
        let fetch = Fetch {
            io: &inner.io,
            link: &inner.link,
            pool: &inner.pool,
            seed,
            deadline,
        };
        let what = describe::Subject::ino("read", self.ino).to_string();
        let written = || -> Written { self.state().written() };
        let base = fetch
            .range(&self.layout, &what, range.clone(), Some(&written))
            .await?;
        Ok(overlay(base, &waiting, &range))
    }
}

/// Runs something to its end even when the caller stops waiting: bytes on their way must not be lost half-way.
async fn to_its_end<T: Send + 'static>(
    what: &'static str,
    ino: Ino,
    work: impl Future<Output = Result<T, Error>> + Send + 'static,
) -> Result<T, Error> {
    match tokio::spawn(work).await {
        Ok(result) => result,
        Err(e) => {
            let what = describe::Subject::ino(what, ino).to_string();
            Err(Error::Data {
                errno: errno::EIO,
                what,
                why: format!("its task ended: {e}"),
            })
        }
    }
}

impl FileWriter {
    /// An open; counted when it is one of its own.
    pub(crate) fn new(shared: Arc<Shared>, slot: Arc<Slot>, counted: bool) -> FileWriter {
        if counted {
            shared.opens.fetch_add(1, Ordering::Relaxed);
        }
        FileWriter {
            open: Arc::new(OpenWriter {
                shared,
                slot,
                counted: AtomicBool::new(counted),
            }),
        }
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.open.shared
    }

    /// The file.
    pub fn ino(&self) -> Ino {
        self.shared().ino
    }

    /// Length of the file with what is not yet sent, bytes.
    pub fn size(&self) -> u64 {
        self.shared().state().size
    }

    /// Time of the last write that is not yet committed, ns since the epoch; `None` when there is none.
    pub fn mtime_ns(&self) -> Option<i64> {
        self.shared().state().mtime_ns
    }

    /// Writes at an offset. Returns when the bytes are in the writer's bounded buffer; they leave in packets, at
    /// the latest with [`flush`](FileWriter::flush) or after 5 s.
    ///
    /// # Errors
    /// EFBIG beyond the largest file size; the kept failure (EIO, ENOSPC, ..); ETIMEDOUT when the buffer stays full.
    pub async fn write_at(&self, offset: u64, data: Bytes) -> Result<(), Error> {
        let shared = self.shared();
        check_range("write", shared.ino, offset, data.len() as u64)?;
        let _gate = shared.gate.read().await;
        shared.put(offset, &data).await
    }

    /// Writes at the end and returns the offset the bytes got.
    ///
    /// # Errors
    /// As [`write_at`](FileWriter::write_at).
    pub async fn append(&self, data: Bytes) -> Result<u64, Error> {
        let shared = self.shared();
        let _gate = shared.gate.read().await;
        shared.check("append")?;
        let offset = {
            let mut state = shared.state();
            let end = check_range("append", shared.ino, state.size, data.len() as u64)?;
            // Nobody else gets this place, also while the bytes wait for room.
            std::mem::replace(&mut state.size, end)
        };
        shared.put(offset, &data).await?;
        Ok(offset)
    }

    /// Cuts the file, or extends it with a hole. Returns when the NameNode has decided it.
    ///
    /// # Errors
    /// EFBIG; the kept failure.
    pub async fn truncate(&self, size: u64) -> Result<(), Error> {
        let shared = Arc::clone(self.shared());
        let ino = shared.ino;
        let set = SetAttr {
            size: Some(size),
            ..SetAttr::default()
        };
        let done = async move { shared.set_attr(&shared.caller, &set).await.map(|_| ()) };
        to_its_end("truncate", ino, done).await
    }

    /// Changes attributes behind all bytes that were written before.
    pub(crate) async fn set_attr(&self, caller: &Caller, set: SetAttr) -> Result<Attr, Error> {
        let shared = Arc::clone(self.shared());
        let caller = caller.clone();
        let ino = shared.ino;
        to_its_end("set attributes", ino, async move {
            shared.set_attr(&caller, &set).await
        })
        .await
    }

    /// Brings all bytes into the memory of every replica and commits length and mtime. Nothing to do, no message.
    ///
    /// # Errors
    /// The kept failure.
    pub async fn flush(&self) -> Result<(), Error> {
        let shared = Arc::clone(self.shared());
        to_its_end(
            "flush",
            shared.ino,
            async move { shared.flush(false).await },
        )
        .await
    }

    /// As [`flush`](FileWriter::flush), and the bytes are on the disk of every replica.
    ///
    /// # Errors
    /// The kept failure.
    pub async fn fsync(&self) -> Result<(), Error> {
        let shared = Arc::clone(self.shared());
        to_its_end("fsync", shared.ino, async move { shared.flush(true).await }).await
    }

    /// Reads, seeing own writes that are not yet sent; otherwise as [`FileReader::read_at`](crate::FileReader::read_at).
    ///
    /// # Errors
    /// As [`FileReader::read_at`](crate::FileReader::read_at).
    pub async fn read_at(&self, offset: u64, len: usize) -> Result<Bytes, Error> {
        self.shared().read(offset, len, 0).await
    }

    /// Ends this open (all its clones): flushes, and gives the lease back when it was the last. A second call does nothing.
    ///
    /// # Errors
    /// The kept failure; the open is ended all the same.
    pub async fn close(&self) -> Result<(), Error> {
        if !self.open.counted.swap(false, Ordering::AcqRel) {
            return Ok(());
        }
        let (shared, slot) = (Arc::clone(self.shared()), Arc::clone(&self.open.slot));
        to_its_end("close", shared.ino, close(shared, slot)).await
    }
}

impl FileWriter {
    /// Ends all opens, for the client is closed.
    pub(crate) async fn close_all(&self) -> Result<(), Error> {
        let (shared, slot) = (Arc::clone(self.shared()), Arc::clone(&self.open.slot));
        shared.opens.store(1, Ordering::Release);
        to_its_end("close", shared.ino, close(shared, slot)).await
    }
}

/// Ends one open of a writer.
async fn close(shared: Arc<Shared>, slot: Arc<Slot>) -> Result<(), Error> {
    let door = slot.door.lock().await;
    let result = if shared.opens.fetch_sub(1, Ordering::AcqRel) == 1 {
        let result = shared.finish().await;
        slot.leave(&shared);
        result
    } else {
        shared.flush(false).await
    };
    drop(door);
    let inner = Arc::clone(&shared.inner);
    drop(shared);
    inner.files.tidy(slot);
    result
}

impl Drop for OpenWriter {
    fn drop(&mut self) {
        if !self.counted.swap(false, Ordering::AcqRel) {
            return;
        }
        let (shared, slot) = (Arc::clone(&self.shared), Arc::clone(&self.slot));
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            tracing::warn!(ino = %shared.ino, "a writer was dropped outside of the runtime: its lease runs out with the session");
            return;
        };
        runtime.spawn(async move {
            let ino = shared.ino;
            if let Err(error) = close(shared, slot).await {
                tracing::warn!(%ino, "close of a dropped writer failed: {error}");
            }
        });
    }
}

/// An answer that has to be `Done`.
pub(crate) fn done(what: &'static str, answer: &Answer) -> Result<(), Error> {
    match answer {
        Answer::Done => Ok(()),
        other => Err(crate::client::unexpected(what, other)),
    }
}
