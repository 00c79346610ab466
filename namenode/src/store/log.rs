//! The log's writer: takes the entries that have gathered, writes them as one record, syncs once.
//!
//! While a group is being synced the next one gathers. Space is made in advance: beside the
//! segment that is written there is a spare one of full size, so a disk that fills up is noticed
//! while there still is a segment's worth of room.

use super::record::{Entry, Group, MARK, Mark, SEGMENT, Segment};
use super::{Shared, StoreError, encode, prepare, record};
use boomfs_io::{File, Open, watch};
use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::Notify;

/// The most bytes of entries in one record; a single entry may be longer.
const MAX_GROUP: usize = 4 << 20;

/// Entries that wait for their sync, bytes; over it the engine has to wait.
const MAX_PENDING: usize = 64 << 20;

/// What a record's envelope takes at most, bytes, without its entries.
const RECORD_OVERHEAD: usize = 64;

/// What an entry, and each change in it, takes in a record besides its bytes.
const ENTRY_OVERHEAD: usize = 32;

/// Space kept free behind the groups for the mark that ends a segment.
const MARK_SPACE: u64 = 80;

/// When the log has been quiet for this long its end is marked.
const QUIET: Duration = Duration::from_millis(50);

/// How long to wait before a write or an allocation that found the disk full is tried again.
const FULL_PAUSE: Duration = Duration::from_millis(250);

/// Is told, from the writer's thread, up to which entry the log is on disk.
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
    _owner: Arc<Owner>,
}

/// Ends the writer when nobody has the log any more.
struct Owner(Arc<Inner>);

impl Drop for Owner {
    fn drop(&mut self) {
        self.0.kill();
    }
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
    /// Where tasks run that must not keep the writer.
    others: Handle,
    state: Mutex<State>,
    on_durable: OnDurable,
    work: Notify,
    /// The writer sleeps until there is work, for all is marked.
    quiet: AtomicBool,
    durable: watch::Sender<u64>,
    failed: watch::Sender<Option<Arc<StoreError>>>,
    done: watch::Sender<bool>,
}

#[derive(Debug)]
struct State {
    /// With the slots that were known to be decided when each was appended.
    pending: VecDeque<(u64, Entry)>,
    pending_bytes: usize,
    /// The last entry that was appended.
    appended: u64,
    /// Slots up to here are known to be decided.
    applied: u64,
    /// Bytes free in the segment.
    free: u64,
    spare: Spare,
    closing: bool,
    /// Nothing more is to be written.
    killed: bool,
}

#[derive(Debug)]
enum Spare {
    /// It has just become the segment that is written.
    None,
    Making,
    Ready(File),
    /// The disk has no space for one.
    Full,
}

/// Where the writer starts.
pub(super) struct Start {
    pub file: File,
    pub path: PathBuf,
    pub end: u64,
    pub len: u64,
    pub next: u64,
    pub applied: u64,
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was not written yet never will be.
    fn kill(&self) {
        {
            let mut state = self.lock();
            state.killed = true;
            state.closing = true;
        }
        self.work.notify_one();
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
        self.others.spawn(async move {
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
    /// Starts the writer, on the caller's runtime or beside it.
    ///
    /// # Errors
    /// Its thread cannot be started.
    pub(super) fn start(
        shared: Arc<Shared>,
        on_durable: OnDurable,
        start: Start,
    ) -> Result<Log, StoreError> {
        let io = shared.io.clone();
        let log = shared.layout.log();
        let durable = start.next - 1;
        shared.metrics.log_entry.store(durable, Ordering::Relaxed);
        let state = State {
            pending: VecDeque::new(),
            pending_bytes: 0,
            appended: durable,
            applied: start.applied,
            free: start.len.saturating_sub(start.end + MARK_SPACE),
            spare: Spare::None,
            closing: false,
            killed: false,
        };
        let start_applied = start.applied;
        let inner = Arc::new(Inner {
            shared,
            others: Handle::current(),
            state: Mutex::new(state),
            on_durable,
            work: Notify::new(),
            quiet: AtomicBool::new(false),
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
            applied: start_applied,
            marked: true,
        };
        io.spawn_apart("log", writer.run())
            .map_err(StoreError::io("start the thread of", &log))?;
        Ok(Log {
            _owner: Arc::new(Owner(inner.clone())),
            inner,
        })
    }

    /// Hands over the next entry and gives its number. Its sync is reported to the `OnDurable`.
    pub fn append(&self, entry: Entry) -> u64 {
        let number = {
            let mut state = self.inner.lock();
            state.appended += 1;
            state.pending_bytes += size_of(&entry);
            let applied = state.applied;
            state.pending.push_back((applied, entry));
            state.appended
        };
        self.inner.work.notify_one();
        number
    }

    /// Slots up to here are known to be decided: noted with the next group, or when the log is quiet.
    pub fn set_applied(&self, slot: u64) {
        self.inner.lock().applied = slot;
        // Wakes nobody for each slot: under load the next group is soon there.
        if !self.inner.quiet.swap(false, Ordering::Relaxed) {
            return;
        }
        self.inner.work.notify_one();
    }

    /// The last entry handed over.
    pub fn appended(&self) -> u64 {
        self.inner.lock().appended
    }

    /// The last entry on disk.
    pub fn durable(&self) -> u64 {
        self.inner.durable.get()
    }

    /// Room for more.
    pub fn room(&self) -> Room {
        let state = self.inner.lock();
        let segment = self.inner.shared.options.segment_bytes;
        let left = state.free.saturating_sub(state.pending_bytes as u64);
        match state.spare {
            Spare::None | Spare::Making | Spare::Ready(_) => Room::Plenty,
            Spare::Full if left > segment / 4 => Room::Plenty,
            Spare::Full if left > segment / 16 => Room::Reserve,
            Spare::Full => Room::None,
        }
    }

    /// So much waits for its sync that the engine should wait too.
    pub fn is_behind(&self) -> bool {
        self.inner.lock().pending_bytes > MAX_PENDING
    }

    /// Waits until an entry is on disk.
    ///
    /// # Errors
    /// The log has failed; it stays so.
    pub async fn wait_durable(&self, entry: u64) -> Result<(), Arc<StoreError>> {
        let mut durable = self.inner.durable.subscribe();
        let mut failed = self.inner.failed.subscribe();
        tokio::select! {
            biased;
            // The senders live as long as the log.
            _ = durable.wait_for(|d| *d >= entry) => Ok(()),
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
        self.inner.kill();
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
    /// The last entry written.
    last: u64,
    /// What the last record says of the slots that are decided.
    applied: u64,
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
    async fn next(&mut self) -> Work {
        loop {
            let full = {
                let mut state = self.inner.lock();
                if state.killed {
                    return Work::Kill;
                }
                if let Some(group) = take_group(&mut state) {
                    return Work::Group(group);
                }
                self.marked &= state.applied == self.applied;
                if state.closing {
                    return Work::Close;
                }
                matches!(state.spare, Spare::Full | Spare::None)
            };
            self.inner.quiet.store(self.marked, Ordering::Relaxed);
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
        let last = group.first + group.entries.len() as u64 - 1;
        let started = shared.io.mono_ns();
        let len = encode(&self.path, record::GROUP, &group)?.len() as u64;
        if self.end + len + MARK_SPACE > self.len {
            self.roll(&group).await?;
        } else {
            self.put(&group).await?;
            self.sync().await?;
        }
        self.last = last;
        self.applied = group.applied;
        self.marked = false;
        metrics.log_entry.store(last, Ordering::Relaxed);
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
        let path = shared.layout.segment(group.first);
        let header = Segment {
            cluster: shared.cluster,
            first: group.first,
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
            applied: self.applied,
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
            let (full, closing) = {
                let mut state = self.inner.lock();
                if let Spare::Ready(_) = state.spare
                    && let Spare::Ready(file) = std::mem::replace(&mut state.spare, Spare::None)
                {
                    return Ok(file);
                }
                (matches!(state.spare, Spare::Full), state.closing)
            };
            if full && closing {
                let source = std::io::Error::from(std::io::ErrorKind::StorageFull);
                return Err(StoreError::io("create", &self.inner.shared.layout.spare())(
                    source,
                ));
            }
            let io = &self.inner.shared.io;
            if full {
                // Not at once: an attempt that fails wakes whoever waits for work.
                io.sleep(FULL_PAUSE).await;
                self.inner.make_spare();
            } else {
                // One is being made.
                let _ = io.timeout(FULL_PAUSE, self.inner.work.notified()).await;
            }
        }
    }

    /// Says behind the groups that they were synced. The mark itself needs no sync: it only
    /// helps to tell a rotten record from a torn one.
    async fn mark(&mut self, sealed: bool) -> Result<(), StoreError> {
        if !sealed && (self.marked || self.end + MARK_SPACE > self.len) {
            self.marked = true;
            self.applied = self.inner.lock().applied;
            return Ok(());
        }
        let mark = Mark {
            last: self.last,
            // What a sealed segment says must not go beyond what is in it.
            applied: if sealed {
                self.applied
            } else {
                self.inner.lock().applied
            },
            sealed,
        };
        let bytes = encode(&self.path, MARK, &mark)?;
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
                self.applied = mark.applied;
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
    let first = state.appended + 1 - state.pending.len() as u64;
    let mut entries: Vec<Entry> = Vec::new();
    let (mut size, mut applied) = (0, 0);
    while let Some((_, entry)) = state.pending.front() {
        let more = size_of(entry);
        if !entries.is_empty() && RECORD_OVERHEAD + size + more > MAX_GROUP {
            break;
        }
        size += more;
        if let Some((known, entry)) = state.pending.pop_front() {
            applied = known;
            entries.push(entry);
        }
    }
    state.pending_bytes = state.pending_bytes.saturating_sub(size);
    (!entries.is_empty()).then_some(Group {
        first,
        applied,
        entries,
    })
}

/// Bytes that an entry takes, about.
fn size_of(entry: &Entry) -> usize {
    let change = |c: &super::record::Change| ENTRY_OVERHEAD + c.table.len() + c.row.0.len();
    ENTRY_OVERHEAD + entry.iter().map(change).sum::<usize>()
}
