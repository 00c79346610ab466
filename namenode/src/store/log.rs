//! The log's writer: takes the batches that have gathered, writes them as one record, syncs once.
//!
//! While a group is being synced the next one gathers. Space is made in advance: beside the
//! segment that is written there is a spare one of full size, so a disk that fills up is noticed
//! while there still is a segment's worth of room.

use super::record::{Group, MARK, Mark, SEGMENT, Segment};
use super::{Shared, StoreError, encode, prepare, record};
use boomfs_io::{File, Open, watch};
use boomfs_wire::Blob;
use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;

/// The most bytes of batches in one record; a single batch may be longer.
const MAX_GROUP: usize = 4 << 20;

/// Batches that wait for their sync, bytes; over it the engine has to wait.
const MAX_PENDING: usize = 64 << 20;

/// What a record's envelope takes at most, bytes, without its batches.
const RECORD_OVERHEAD: usize = 64;

/// What a batch takes in a record besides its bytes.
const BATCH_OVERHEAD: usize = 8;

/// Space kept free behind the groups for the mark that ends a segment.
const MARK_SPACE: u64 = 64;

/// When the log has been quiet for this long its end is marked.
const QUIET: Duration = Duration::from_millis(50);

/// How long to wait before a write or an allocation that found the disk full is tried again.
const FULL_PAUSE: Duration = Duration::from_millis(250);

/// Is told, from the writer's task, up to which slot the log is on disk.
pub type OnDurable = Arc<dyn Fn(u64) + Send + Sync>;

/// Room for what comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// Enough.
    Plenty,
    /// The disk is full; what is left is kept for what the NameNode itself must decide.
    Reserve,
    /// Nothing more can be decided.
    None,
}

/// The log, as the engine's side sees it; clones share it.
#[derive(Clone)]
pub struct Log {
    inner: Arc<Inner>,
}

impl std::fmt::Debug for Log {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Log")
            .field("state", &self.inner.lock())
            .finish_non_exhaustive()
    }
}

struct Inner {
    shared: Arc<Shared>,
    state: Mutex<State>,
    on_durable: OnDurable,
    work: Notify,
    durable: watch::Sender<u64>,
    failed: watch::Sender<Option<Arc<StoreError>>>,
    done: watch::Sender<bool>,
}

#[derive(Debug)]
struct State {
    pending: VecDeque<(u64, Vec<u8>)>,
    pending_bytes: usize,
    /// The last slot that was appended.
    appended: u64,
    /// Bytes free in the segment.
    free: u64,
    spare: Spare,
    closing: bool,
    /// Nothing more is to be written.
    killed: bool,
}

#[derive(Debug)]
enum Spare {
    None,
    Making,
    Ready(File),
    Full,
}

/// Where the writer starts.
pub(super) struct Start {
    pub file: File,
    pub path: PathBuf,
    pub end: u64,
    pub len: u64,
    pub next_slot: u64,
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the next segment, in a task of its own.
    fn make_spare(self: &Arc<Self>) {
        {
            let mut state = self.lock();
            if matches!(state.spare, Spare::Making | Spare::Ready(_)) {
                return;
            }
            state.spare = Spare::Making;
        }
        let inner = self.clone();
        tokio::spawn(async move {
            let made = new_spare(&inner.shared).await;
            inner.lock().spare = match made {
                Ok(file) => Spare::Ready(file),
                Err(e) => {
                    inner
                        .shared
                        .metrics
                        .log_full
                        .fetch_add(1, Ordering::Relaxed);
                    tracing::warn!("no space for the log's next segment: {e}");
                    Spare::Full
                }
            };
            inner.work.notify_one();
        });
    }
}

async fn new_spare(shared: &Shared) -> Result<File, StoreError> {
    let path = shared.layout.spare();
    let how = Open {
        truncate: true,
        ..Open::write_create()
    };
    let file = shared
        .io
        .open(&path, how)
        .await
        .map_err(StoreError::io("create", &path))?;
    if let Err(e) = prepare(&file, &path, shared.options.segment_bytes).await {
        // Half a spare would take the space that others may need.
        let _ = shared.io.remove_file(&path).await;
        return Err(e);
    }
    Ok(file)
}

impl Log {
    pub(super) fn start(shared: Arc<Shared>, on_durable: OnDurable, start: Start) -> Log {
        let durable = start.next_slot - 1;
        shared.metrics.log_slot.store(durable, Ordering::Relaxed);
        let state = State {
            pending: VecDeque::new(),
            pending_bytes: 0,
            appended: durable,
            free: start.len.saturating_sub(start.end + MARK_SPACE),
            spare: Spare::None,
            closing: false,
            killed: false,
        };
        let inner = Arc::new(Inner {
            shared,
            state: Mutex::new(state),
            on_durable,
            work: Notify::new(),
            durable: watch::Sender::new(durable),
            failed: watch::Sender::new(None),
            done: watch::Sender::new(false),
        });
        inner.make_spare();
        let Start {
            file,
            path,
            end,
            len,
            ..
        } = start;
        let writer = Writer {
            inner: inner.clone(),
            file,
            path,
            end,
            len,
            last: durable,
            marked: true,
        };
        tokio::spawn(writer.run());
        Log { inner }
    }

    /// Hands over the batch of the next slot. Its sync is reported to the `OnDurable`.
    pub fn append(&self, batch: Vec<u8>) -> u64 {
        let slot = {
            let mut state = self.inner.lock();
            state.appended += 1;
            let slot = state.appended;
            state.pending_bytes += batch.len() + BATCH_OVERHEAD;
            state.pending.push_back((slot, batch));
            slot
        };
        self.inner.work.notify_one();
        slot
    }

    /// The last slot handed over.
    pub fn appended(&self) -> u64 {
        self.inner.lock().appended
    }

    /// The last slot on disk.
    pub fn durable(&self) -> u64 {
        self.inner.durable.get()
    }

    /// Room for more.
    pub fn room(&self) -> Room {
        let state = self.inner.lock();
        let segment = self.inner.shared.options.segment_bytes;
        let left = state.free.saturating_sub(state.pending_bytes as u64);
        match state.spare {
            Spare::Ready(_) | Spare::Making => Room::Plenty,
            _ if left > segment / 4 => Room::Plenty,
            _ if left > segment / 16 => Room::Reserve,
            _ => Room::None,
        }
    }

    /// So much waits for its sync that the engine should wait too.
    pub fn is_behind(&self) -> bool {
        self.inner.lock().pending_bytes > MAX_PENDING
    }

    /// Waits until a slot is on disk.
    ///
    /// # Errors
    /// The log has failed; it stays so.
    pub async fn wait_durable(&self, slot: u64) -> Result<(), Arc<StoreError>> {
        let mut durable = self.inner.durable.subscribe();
        let mut failed = self.inner.failed.subscribe();
        tokio::select! {
            biased;
            // The senders live as long as the log.
            _ = durable.wait_for(|d| *d >= slot) => Ok(()),
            e = failed.wait_for(Option::is_some) => Err(e.ok().flatten().unwrap_or_else(ended)),
        }
    }

    /// Waits until the log fails; for ever, if all goes well.
    pub async fn failure(&self) -> Arc<StoreError> {
        let mut failed = self.inner.failed.subscribe();
        let e = failed.wait_for(Option::is_some).await;
        e.ok().flatten().unwrap_or_else(ended)
    }

    /// Writes and syncs what was handed over, and marks the end.
    ///
    /// # Errors
    /// The log has failed, or the disk is full.
    pub async fn close(&self) -> Result<(), Arc<StoreError>> {
        self.inner.lock().closing = true;
        self.inner.work.notify_one();
        let mut done = self.inner.done.subscribe();
        let _ = done.wait_for(|done| *done).await;
        match self.inner.failed.get() {
            Some(e) => Err(e),
            None => Ok(()),
        }
    }
}

impl Log {
    /// Ends the log where it stands: what was not written yet never will be.
    pub async fn abandon(&self) {
        {
            let mut state = self.inner.lock();
            state.killed = true;
            state.closing = true;
        }
        self.inner.work.notify_one();
        let mut done = self.inner.done.subscribe();
        let _ = done.wait_for(|done| *done).await;
    }

    /// The log has failed; [`Log::failure`] says why.
    pub fn has_failed(&self) -> bool {
        self.inner.failed.get().is_some()
    }
}

fn ended() -> Arc<StoreError> {
    let source = std::io::Error::other("the log's writer has ended");
    Arc::new(StoreError::Io {
        what: "write",
        file: "log".to_owned(),
        source,
    })
}

/// The writing side.
struct Writer {
    inner: Arc<Inner>,
    file: File,
    path: PathBuf,
    /// Where the next record goes.
    end: u64,
    /// Length of the segment that is zeros from `end`.
    len: u64,
    /// The last slot written.
    last: u64,
    /// A mark is the last record, or there is nothing to mark.
    marked: bool,
}

/// What the writer does next.
enum Work {
    Kill,
    Group(Group),
    Mark,
    Spare,
    Close,
}

impl Writer {
    async fn run(mut self) {
        if let Err(e) = self.work().await {
            tracing::error!("{e}");
            self.inner.failed.set(Some(Arc::new(e)));
        }
        self.inner.done.set(true);
    }

    async fn work(&mut self) -> Result<(), StoreError> {
        loop {
            match self.next().await {
                Work::Kill => return Ok(()),
                Work::Group(group) => self.write(group).await?,
                Work::Mark => self.mark(false).await?,
                Work::Spare => self.inner.make_spare(),
                Work::Close => {
                    self.mark(false).await?;
                    return self.sync().await;
                }
            }
        }
    }

    /// Waits for something to do.
    async fn next(&self) -> Work {
        loop {
            let full = {
                let mut state = self.inner.lock();
                if state.killed {
                    return Work::Kill;
                }
                if let Some(group) = take_group(&mut state) {
                    return Work::Group(group);
                }
                if state.closing {
                    return Work::Close;
                }
                matches!(state.spare, Spare::Full | Spare::None)
            };
            let work = self.inner.work.notified();
            let io = &self.inner.shared.io;
            if !self.marked {
                if io.timeout(QUIET, work).await.is_err() {
                    return Work::Mark;
                }
            } else if full {
                if io.timeout(FULL_PAUSE, work).await.is_err() {
                    return Work::Spare;
                }
            } else {
                work.await;
            }
        }
    }

    async fn write(&mut self, group: Group) -> Result<(), StoreError> {
        let shared = self.inner.shared.clone();
        let metrics = &shared.metrics;
        let count = group.batches.len() as u64;
        let last = group.first_slot + count - 1;
        let started = shared.io.mono_ns();
        let len = encode(&self.path, record::GROUP, &group)?.len() as u64;
        if self.end + len + MARK_SPACE > self.len {
            self.roll(&group).await?;
        } else {
            self.put(&group).await?;
            self.sync().await?;
        }
        self.last = last;
        self.marked = false;
        metrics.log_slot.store(last, Ordering::Relaxed);
        metrics.log_groups.fetch_add(1, Ordering::Relaxed);
        metrics.log_bytes.fetch_add(len, Ordering::Relaxed);
        metrics.log_ns.fetch_add(
            shared.io.mono_ns().saturating_sub(started),
            Ordering::Relaxed,
        );
        self.inner.lock().free = self.len.saturating_sub(self.end + MARK_SPACE);
        self.inner.durable.set(last);
        (self.inner.on_durable)(last);
        Ok(())
    }

    /// Writes a group at the end. A full disk is waited out: nothing was acknowledged, and what
    /// a failed write left is written over.
    async fn put(&mut self, group: &Group) -> Result<(), StoreError> {
        loop {
            let bytes = encode(&self.path, record::GROUP, group)?;
            let len = bytes.len() as u64;
            match self
                .file
                .write_at(self.end, bytes)
                .await
                .map_err(StoreError::io("write", &self.path))
            {
                Ok(()) => {
                    self.end += len;
                    return Ok(());
                }
                Err(e) if e.is_full() && !self.inner.lock().closing => {
                    tracing::warn!("{e}; it will be tried again");
                    self.inner.shared.io.sleep(FULL_PAUSE).await;
                }
                Err(e) => return Err(e),
            }
        }
    }

    async fn sync(&self) -> Result<(), StoreError> {
        self.file
            .sync_data()
            .await
            .map_err(StoreError::sync(&self.path))
    }

    /// Goes on in the spare segment. It gets its name once its first group is on disk, so a
    /// segment that has a name is whole up to its tail; then the old one is sealed, so that
    /// the new one cannot go missing unnoticed; then the group may be acknowledged.
    async fn roll(&mut self, group: &Group) -> Result<(), StoreError> {
        let file = self.take_spare().await?;
        let shared = self.inner.shared.clone();
        let spare = shared.layout.spare();
        let path = shared.layout.segment(group.first_slot);
        let header = Segment {
            cluster: shared.cluster,
            first_slot: group.first_slot,
            rules: shared.options.rules,
        };
        let header = encode(&path, SEGMENT, &header)?;
        let header_len = header.len() as u64;
        file.write_at(0, header)
            .await
            .map_err(StoreError::io("write", &spare))?;
        let old = Writer {
            inner: self.inner.clone(),
            file: std::mem::replace(&mut self.file, file),
            path: std::mem::replace(&mut self.path, path),
            end: std::mem::replace(&mut self.end, header_len),
            len: std::mem::replace(&mut self.len, shared.options.segment_bytes),
            last: self.last,
            marked: self.marked,
        };
        self.put(group).await?;
        self.sync().await?;
        shared
            .io
            .rename(&spare, &self.path)
            .await
            .map_err(StoreError::io("rename", &spare))?;
        let dir = shared.layout.log();
        shared
            .io
            .sync_dir(&dir)
            .await
            .map_err(StoreError::sync(&dir))?;
        let mut old = old;
        old.mark(true).await?;
        old.sync().await?;
        self.inner.make_spare();
        Ok(())
    }

    async fn take_spare(&self) -> Result<File, StoreError> {
        loop {
            let closing = {
                let mut state = self.inner.lock();
                if let Spare::Ready(_) = state.spare
                    && let Spare::Ready(file) = std::mem::replace(&mut state.spare, Spare::None)
                {
                    return Ok(file);
                }
                state.closing && matches!(state.spare, Spare::Full)
            };
            if closing {
                let source = std::io::Error::from(std::io::ErrorKind::StorageFull);
                return Err(StoreError::io("create", &self.inner.shared.layout.spare())(
                    source,
                ));
            }
            let _ = self
                .inner
                .shared
                .io
                .timeout(FULL_PAUSE, self.inner.work.notified())
                .await;
            self.inner.make_spare();
        }
    }

    /// Says behind the groups that they were synced. The mark itself needs no sync: it only
    /// helps to tell a rotten record from a torn one.
    async fn mark(&mut self, sealed: bool) -> Result<(), StoreError> {
        if !sealed && (self.marked || self.end + MARK_SPACE > self.len) {
            self.marked = true;
            return Ok(());
        }
        let bytes = encode(
            &self.path,
            MARK,
            &Mark {
                slot: self.last,
                sealed,
            },
        )?;
        let len = bytes.len() as u64;
        match self
            .file
            .write_at(self.end, bytes)
            .await
            .map_err(StoreError::io("write", &self.path))
        {
            Ok(()) => {
                self.end += len;
                self.marked = true;
                self.inner.lock().free = self.len.saturating_sub(self.end + MARK_SPACE);
                Ok(())
            }
            Err(e) if e.is_full() => Ok(()),
            Err(e) => Err(e),
        }
    }
}

/// Takes what has gathered, up to [`MAX_GROUP`] bytes.
fn take_group(state: &mut State) -> Option<Group> {
    let (first_slot, batch) = state.pending.pop_front()?;
    let mut size = RECORD_OVERHEAD + batch.len() + BATCH_OVERHEAD;
    let mut batches = vec![Blob(batch)];
    while let Some((_, batch)) = state.pending.front() {
        if size + batch.len() > MAX_GROUP {
            break;
        }
        size += batch.len() + BATCH_OVERHEAD;
        batches.extend(state.pending.pop_front().map(|(_, batch)| Blob(batch)));
    }
    state.pending_bytes = state.pending_bytes.saturating_sub(size - RECORD_OVERHEAD);
    Some(Group {
        first_slot,
        batches,
    })
}
