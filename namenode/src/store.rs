//! The data folder: who it belongs to, the log of what this node promised and accepted, checkpoints.
//!
//! ```text
//! lock                      held while a NameNode uses the folder
//! identity                  format, cluster, and the number that this folder is known by
//! log/<first entry>.log     what runs changed in local tables; `spare` is the next segment, made in advance
//! checkpoints/<slot>.ckpt   replicated tables, the two newest
//! local/<entry>.ckpt        local tables, the two newest
//! ```
//!
//! [`Folder::open`] reads and checks and changes nothing that is there; [`Folder::start`] cuts a
//! torn tail off and begins to write. `docs/FORMATS.md` has the records byte by byte.

pub mod checkpoint;
pub mod log;
pub mod record;
pub mod segment;
#[cfg(test)]
mod tests;

use crate::metrics::Metrics;
use crate::planted::{Mistake, planted};
use boomfs_io::{File, Io, LockGuard, Open};
use boomfs_wire::{ClusterId, encode_record};
use checkpoint::Part;
use overlog::Digest;
use record::{Entry, FORMAT, Identity, Segment};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Why a data folder cannot be used, or can no longer be written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process has it open.
    #[error(
        "data folder {folder} is in use by another NameNode; stop that one, or name another folder"
    )]
    InUse {
        /// The folder.
        folder: String,
    },
    /// Written by a newer release.
    #[error(
        "{file} has format {got}, this build knows up to {max}; use the release that wrote it, or a newer one"
    )]
    NewerFormat {
        /// The file.
        file: String,
        /// Its format.
        got: u16,
        /// The newest known.
        max: u16,
    },
    /// Belongs to another cluster.
    #[error("{file} belongs to cluster {:016x}, not to {:016x}; name the folder of the right cluster", got.0, want.0)]
    OtherCluster {
        /// The file.
        file: String,
        /// Whose it is.
        got: ClusterId,
        /// Whose it should be.
        want: ClusterId,
    },
    /// Not a NameNode's.
    #[error(
        "{folder} is no NameNode data folder: {why}; name an empty folder, or one that a NameNode made"
    )]
    Foreign {
        /// The folder.
        folder: String,
        /// What speaks against it.
        why: String,
    },
    /// Bytes changed.
    #[error("{file} is corrupt at byte {offset}: {why}; nothing was changed; {hint}")]
    Corrupt {
        /// The file.
        file: String,
        /// Where the bad record starts, bytes.
        offset: u64,
        /// What is bad.
        why: String,
        /// What to do.
        hint: &'static str,
    },
    /// A checkpoint has other rows than the state that it is of.
    #[error(
        "the checkpoint of slot {slot} would have {rows} rows with digest {sum:016x}, its state has {of_rows} with {of_sum:016x}: nothing was kept of it, and the log has everything; check this machine's memory, and report it"
    )]
    Differs {
        /// The slot.
        slot: u64,
        /// What would have been written.
        rows: u64,
        /// Its digest.
        sum: u64,
        /// What the runs made of the state.
        of_rows: u64,
        /// Its digest.
        of_sum: u64,
    },
    /// A file that must be there is not.
    #[error(
        "log of {folder} is incomplete: {why}; nothing was changed; if there are other NameNodes, let a new one take its place (boomfs namenode replace); if not, restore the missing file from a copy"
    )]
    Missing {
        /// The folder.
        folder: String,
        /// Which entries.
        why: String,
    },
    /// The operating system refused.
    #[error("cannot {what} {file}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// On which file.
        file: String,
        /// Why not.
        source: io::Error,
    },
    /// A sync failed: what the disk holds is unknown until it is read anew.
    #[error(
        "cannot sync {file}: {source}; the NameNode stops, for what the disk holds is now unknown; \
         check the disk, then start again"
    )]
    Sync {
        /// The file.
        file: String,
        /// Why not.
        source: io::Error,
    },
    /// A value is too large for a record.
    #[error("cannot encode a record of {file}: {why}")]
    Encode {
        /// The file.
        file: String,
        /// Why not.
        why: String,
    },
}

impl StoreError {
    pub(crate) fn corrupt(file: &Path, offset: u64, why: impl Into<String>) -> StoreError {
        let hint = if file.extension().is_some_and(|e| e == "ckpt") {
            "move it away to start from the checkpoint before it and the log"
        } else {
            "if there are other NameNodes, let a new one take its place (boomfs namenode replace); if not, restore the file from a copy"
        };
        StoreError::Corrupt {
            file: file.display().to_string(),
            offset,
            why: why.into(),
            hint,
        }
    }

    pub(crate) fn differs(slot: u64, written: Digest, state: Digest) -> StoreError {
        StoreError::Differs {
            slot,
            rows: written.rows,
            sum: written.sum,
            of_rows: state.rows,
            of_sum: state.sum,
        }
    }

    pub(crate) fn io<'a>(
        what: &'static str,
        file: &'a Path,
    ) -> impl FnOnce(io::Error) -> StoreError + 'a {
        move |source| StoreError::Io {
            what,
            file: file.display().to_string(),
            source,
        }
    }

    pub(crate) fn sync(file: &Path) -> impl FnOnce(io::Error) -> StoreError + '_ {
        move |source| StoreError::Sync {
            file: file.display().to_string(),
            source,
        }
    }

    /// The disk is full.
    pub fn is_full(&self) -> bool {
        matches!(self, StoreError::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull)
    }
}

/// How a store is set up.
#[derive(Clone, Debug)]
pub struct Options {
    /// The cluster that the folder must belong to; a new folder gets it. `None`: any, or a random one.
    pub cluster: Option<ClusterId>,
    /// A new folder founds its cluster, or else joins it.
    pub founder: bool,
    /// Size of a log segment, bytes.
    pub segment_bytes: u64,
    /// Hash of the rules.
    pub rules: u64,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            cluster: None,
            founder: true,
            segment_bytes: 16 << 20,
            rules: 0,
        }
    }
}

/// Paths in a data folder.
#[derive(Clone, Debug)]
pub struct Layout {
    root: PathBuf,
}

impl Layout {
    fn lock(&self) -> PathBuf {
        self.root.join("lock")
    }
    fn identity(&self) -> PathBuf {
        self.root.join("identity")
    }
    fn log(&self) -> PathBuf {
        self.root.join("log")
    }
    fn spare(&self) -> PathBuf {
        self.root.join("log/spare")
    }
    fn segment(&self, first: u64) -> PathBuf {
        self.root.join(format!("log/{first:020}.log"))
    }
    fn folders(&self) -> [PathBuf; 3] {
        let [state, local] = [Part::State, Part::Local].map(|part| self.checkpoints(part));
        [self.log(), state, local]
    }
    fn checkpoints(&self, part: Part) -> PathBuf {
        self.root.join(match part {
            Part::State => "checkpoints",
            Part::Local => "local",
        })
    }
    fn checkpoint(&self, part: Part, slot: u64) -> PathBuf {
        self.checkpoints(part).join(format!("{slot:020}.ckpt"))
    }
}

/// A data folder that was read and checked, and is held.
#[derive(Debug)]
pub struct Folder {
    io: Io,
    layout: Layout,
    options: Options,
    lock: LockGuard,
    /// Whose it is.
    pub identity: Identity,
    /// The newest checkpoint of the state: its slot.
    pub checkpoint: Option<u64>,
    /// The newest checkpoint of the local tables: its entry.
    pub local: Option<u64>,
    /// Entries of the log after the local checkpoint, in order.
    pub entries: Vec<Entry>,
    /// Number of the next entry.
    pub next: u64,
    /// Slots up to here are known to be decided.
    pub applied: u64,
    /// Rules other than these wrote part of `entries`.
    pub other_rules: bool,
    tail: Tail,
}

/// Where the log goes on.
#[derive(Debug)]
struct Tail {
    path: PathBuf,
    /// Where the last group starts: it may have been read from memory and never have reached the disk.
    last_group: u64,
    /// From there to the end.
    bytes: Vec<u8>,
    end: u64,
    torn: Option<String>,
}

impl Tail {
    /// Brings to the disk what was read: a torn end is cut off, and the last group is written anew.
    /// A process that was killed before its sync leaves that group to the system, one whose sync
    /// failed leaves it in memory as if it were stored, where a sync alone does not help.
    async fn secure(&self, io: &Io, dir: &Path) -> Result<File, StoreError> {
        let path = &self.path;
        let file = io
            .open(path, Open::write_create())
            .await
            .map_err(StoreError::io("open", path))?;
        if let Some(why) = &self.torn {
            tracing::warn!(
                "log segment {} ends in a write that never finished, cut at byte {}: {why}",
                path.display(),
                self.end
            );
            file.set_len(self.end)
                .await
                .map_err(StoreError::io("cut", path))?;
        }
        file.write_at(self.last_group, self.bytes.clone())
            .await
            .map_err(StoreError::io("write", path))?;
        file.sync_data().await.map_err(StoreError::sync(path))?;
        io.sync_dir(dir).await.map_err(StoreError::sync(dir))?;
        Ok(file)
    }
}

impl Folder {
    /// Takes a data folder, makes it if it is missing, and checks every record of its log.
    /// Changes nothing in a folder that is refused, but for a `lock` file that may be missing.
    ///
    /// # Errors
    /// Every [`StoreError`] but `Sync` says why the folder is refused.
    pub async fn open(io: &Io, root: &Path, options: Options) -> Result<Folder, StoreError> {
        let layout = Layout {
            root: root.to_owned(),
        };
        io.create_dir_all(root)
            .await
            .map_err(StoreError::io("create", root))?;
        let made = io.exists(&layout.identity()).await;
        if !made {
            check_empty(io, &layout).await?;
        }
        let lock = io.lock(&layout.lock()).await.map_err(|e| match e.kind() {
            io::ErrorKind::WouldBlock => StoreError::InUse {
                folder: root.display().to_string(),
            },
            _ => StoreError::io("lock", &layout.lock())(e),
        })?;
        if !made {
            create(io, &layout, &options).await?;
        }
        let file = layout.identity();
        let bytes = io
            .read_file(&file)
            .await
            .map_err(StoreError::io("read", &file))?;
        let identity: Identity = record::decode_file(record::IDENTITY, &file, &bytes)?;
        if let Some(want) = options.cluster.filter(|want| *want != identity.cluster) {
            let file = root.display().to_string();
            return Err(StoreError::OtherCluster {
                file,
                got: identity.cluster,
                want,
            });
        }
        let newest = async |part: Part| {
            let all = numbered(io, &layout.checkpoints(part), "ckpt").await?;
            Ok::<_, StoreError>(all.last().copied())
        };
        let (checkpoint, local) = (newest(Part::State).await?, newest(Part::Local).await?);
        let log = read_log(
            io,
            &layout,
            identity.cluster,
            local.unwrap_or(0),
            options.rules,
        )
        .await?;
        Ok(Folder {
            io: io.clone(),
            layout,
            options,
            lock,
            identity,
            checkpoint,
            local,
            entries: log.entries,
            next: log.next,
            applied: log.applied,
            other_rules: log.other_rules,
            tail: log.tail,
        })
    }

    /// There is a folder already.
    pub async fn is_made(io: &Io, root: &Path) -> bool {
        let layout = Layout {
            root: root.to_owned(),
        };
        io.exists(&layout.identity()).await
    }

    /// Opens the newest checkpoint of a part, if there is one.
    ///
    /// # Errors
    /// It cannot be read, or its header is bad.
    pub async fn read_checkpoint(
        &self,
        part: Part,
    ) -> Result<Option<checkpoint::Reader>, StoreError> {
        let slot = match part {
            Part::State => self.checkpoint,
            Part::Local => self.local,
        };
        let Some(slot) = slot else {
            return Ok(None);
        };
        let path = self.layout.checkpoint(part, slot);
        checkpoint::Reader::open(&self.io, path, self.identity.cluster, slot)
            .await
            .map(Some)
    }

    /// Begins to write: removes what an interrupted start or checkpoint left, cuts off a torn tail, and makes sure that
    /// what was read of the log is on disk.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub async fn start(
        self,
        metrics: Arc<Metrics>,
        on_durable: log::OnDurable,
    ) -> Result<Store, StoreError> {
        let Folder {
            io,
            layout,
            options,
            lock,
            identity,
            checkpoint,
            next,
            applied,
            tail,
            ..
        } = self;
        for dir in layout.folders() {
            for item in io
                .read_dir(&dir)
                .await
                .map_err(StoreError::io("read", &dir))?
            {
                if item.name.ends_with(".tmp") || item.name == "spare" {
                    let path = dir.join(&item.name);
                    io.remove_file(&path)
                        .await
                        .map_err(StoreError::io("remove", &path))?;
                }
            }
        }
        let file = tail.secure(&io, &layout.log()).await?;
        let len = file
            .len()
            .await
            .map_err(StoreError::io("read", &tail.path))?;
        let start = log::Start {
            file,
            path: tail.path,
            end: tail.end,
            len,
            next,
            applied: applied.max(checkpoint.unwrap_or(0)),
        };
        let shared = Shared {
            io,
            layout,
            options,
            cluster: identity.cluster,
            metrics,
        };
        let shared = Arc::new(shared);
        let log = log::Log::start(shared.clone(), on_durable, start)?;
        Ok(Store {
            log,
            shared,
            last_checkpoint: checkpoint.unwrap_or(0),
            _lock: lock,
        })
    }
}

/// What the parts of a store share.
#[derive(Debug)]
pub(crate) struct Shared {
    io: Io,
    layout: Layout,
    options: Options,
    cluster: ClusterId,
    metrics: Arc<Metrics>,
}

/// A data folder that is being written.
#[derive(Debug)]
pub struct Store {
    /// The log.
    pub log: log::Log,
    pub(crate) shared: Arc<Shared>,
    /// Slot of the newest checkpoint, 0 if there is none.
    pub last_checkpoint: u64,
    _lock: LockGuard,
}

impl Store {
    /// What is counted.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.shared.metrics
    }

    /// Starts to write a checkpoint of one part: of the state after a slot, or of the local tables after an entry.
    pub fn checkpoint(
        &self,
        part: Part,
        slot: u64,
        tables: Vec<(String, u32)>,
    ) -> checkpoint::Writer {
        checkpoint::Writer::new(self.shared.clone(), part, slot, tables)
    }

    /// What the parts share.
    pub(crate) fn shared(&self) -> Arc<Shared> {
        self.shared.clone()
    }
}

impl Shared {
    /// Opens the newest checkpoint of the state, if there is one.
    ///
    /// # Errors
    /// It cannot be read, or its header is bad.
    pub async fn newest_state(&self) -> Result<Option<checkpoint::Reader>, StoreError> {
        let all = numbered(&self.io, &self.layout.checkpoints(Part::State), "ckpt").await?;
        let Some(slot) = all.last().copied() else {
            return Ok(None);
        };
        let path = self.layout.checkpoint(Part::State, slot);
        checkpoint::Reader::open(&self.io, path, self.cluster, slot)
            .await
            .map(Some)
    }

    /// Removes what is not needed any more: see [`checkpoint::prune`].
    ///
    /// # Errors
    /// A file cannot be removed.
    pub async fn prune(&self) -> Result<u64, StoreError> {
        checkpoint::prune(self).await
    }
}

/// Without an identity there must be nothing that somebody could miss.
async fn check_empty(io: &Io, layout: &Layout) -> Result<(), StoreError> {
    let root = &layout.root;
    let foreign = |why: String| StoreError::Foreign {
        folder: root.display().to_string(),
        why,
    };
    for item in io
        .read_dir(root)
        .await
        .map_err(StoreError::io("read", root))?
    {
        match item.name.as_str() {
            "lock" | "identity.tmp" => {}
            // Made before the identity: what an interrupted first start leaves.
            "log" | "checkpoints" | "local" => {
                let dir = root.join(&item.name);
                let items = io
                    .read_dir(&dir)
                    .await
                    .map_err(StoreError::io("read", &dir))?;
                let left_over = |name: &str| name == "spare" || name == "00000000000000000001.log";
                if let Some(item) = items.iter().find(|i| !left_over(&i.name)) {
                    return Err(foreign(format!(
                        "it has {}/{} but no identity file",
                        dir.display(),
                        item.name
                    )));
                }
                let file = layout.segment(1);
                if item.name == "log" && io.exists(&file).await {
                    let bytes = io
                        .read_file(&file)
                        .await
                        .map_err(StoreError::io("read", &file))?;
                    let header = record::read_at::<Segment>(record::SEGMENT, &bytes, 0);
                    if header.is_ok_and(|(_, end)| {
                        bytes.get(end..).unwrap_or_default().iter().any(|b| *b != 0)
                    }) {
                        return Err(foreign(format!(
                            "{} has entries, but there is no identity file",
                            file.display()
                        )));
                    }
                }
            }
            name => return Err(foreign(format!("it has {name} but no identity file"))),
        }
    }
    Ok(())
}

/// Makes a new folder; the identity comes last, so that it stands for all of it.
async fn create(io: &Io, layout: &Layout, options: &Options) -> Result<(), StoreError> {
    let cluster = options
        .cluster
        .unwrap_or_else(|| ClusterId((io.random_u64() >> 1).max(1)));
    for dir in layout.folders() {
        io.create_dir_all(&dir)
            .await
            .map_err(StoreError::io("create", &dir))?;
    }
    let path = layout.segment(1);
    let how = Open {
        truncate: true,
        ..Open::write_create()
    };
    let file = io
        .open(&path, how)
        .await
        .map_err(StoreError::io("create", &path))?;
    prepare(&file, &path, options.segment_bytes).await?;
    let header = encode(
        &path,
        record::SEGMENT,
        &Segment {
            cluster,
            first: 1,
            rules: options.rules,
        },
    )?;
    file.write_at(0, header)
        .await
        .map_err(StoreError::io("write", &path))?;
    file.sync_data().await.map_err(StoreError::sync(&path))?;
    io.sync_dir(&layout.log())
        .await
        .map_err(StoreError::sync(&layout.log()))?;
    let nonce = match planted() {
        Some(Mistake::MadeAgainAs(nonce)) => nonce,
        _ => (io.random_u64() >> 1).max(1),
    };
    let identity = Identity {
        cluster,
        created_ns: io.now_ns(),
        nonce,
        founder: options.founder,
    };
    let bytes = encode(&layout.identity(), record::IDENTITY, &identity)?;
    io.write_atomic(&layout.identity(), &bytes)
        .await
        .map_err(StoreError::io("write", &layout.identity()))
}

/// Gives a segment its space and fills it with zeros, so that later writes neither fail for
/// want of space nor change the file's metadata.
async fn prepare(file: &File, path: &Path, len: u64) -> Result<(), StoreError> {
    const PIECE: u64 = 1 << 20;
    file.allocate(0, len)
        .await
        .map_err(StoreError::io("allocate", path))?;
    let mut at = 0;
    while at < len {
        let n = PIECE.min(len - at);
        let zeros = vec![0; usize::try_from(n).unwrap_or(0)];
        file.write_at(at, zeros)
            .await
            .map_err(StoreError::io("write", path))?;
        at += n;
    }
    file.sync_data().await.map_err(StoreError::sync(path))
}

fn encode<T: serde::Serialize>(file: &Path, kind: u16, value: &T) -> Result<Vec<u8>, StoreError> {
    encode_record(kind, FORMAT, value).map_err(|e| StoreError::Encode {
        file: file.display().to_string(),
        why: e.to_string(),
    })
}

/// Numbers of the files `<number>.<extension>` in a folder, ascending.
async fn numbered(io: &Io, dir: &Path, extension: &str) -> Result<Vec<u64>, StoreError> {
    let items = io
        .read_dir(dir)
        .await
        .map_err(StoreError::io("read", dir))?;
    let number = |name: &str| {
        name.strip_suffix(extension)?
            .strip_suffix('.')?
            .parse()
            .ok()
    };
    let mut all: Vec<u64> = items.iter().filter_map(|item| number(&item.name)).collect();
    all.sort_unstable();
    Ok(all)
}

/// What the log holds after the local checkpoint.
struct LogContents {
    entries: Vec<Entry>,
    next: u64,
    applied: u64,
    other_rules: bool,
    tail: Tail,
}

/// Reads all segments; each must start where the one before ends, and the first at or before
/// the entry after the checkpoint.
async fn read_log(
    io: &Io,
    layout: &Layout,
    cluster: ClusterId,
    checkpoint: u64,
    rules: u64,
) -> Result<LogContents, StoreError> {
    let folder = layout.root.display().to_string();
    let missing = |why: String| StoreError::Missing {
        folder: folder.clone(),
        why,
    };
    let segments = numbered(io, &layout.log(), "log").await?;
    let mut entries = Vec::new();
    let mut applied = 0;
    let mut other_rules = false;
    let mut before: Option<(u64, bool, Tail)> = None;
    for (i, &first) in segments.iter().enumerate() {
        let path = layout.segment(first);
        let bytes = io
            .read_file(&path)
            .await
            .map_err(StoreError::io("read", &path))?;
        let following = segments.get(i + 1).copied();
        let scan = segment::scan(&path, &bytes, cluster, following)?;
        if scan.header.first != first {
            let why = format!(
                "it starts at entry {}, its name says {first}",
                scan.header.first
            );
            return Err(StoreError::corrupt(&path, 0, why));
        }
        let expected = before.as_ref().map(|(next, ..)| *next);
        match expected {
            Some(entry) if entry != first => {
                return Err(missing(format!(
                    "entries {entry} to {} are in no file",
                    first.saturating_sub(1)
                )));
            }
            None if first > checkpoint + 1 => {
                return Err(missing(format!(
                    "entries {} to {} are in no file",
                    checkpoint + 1,
                    first - 1
                )));
            }
            _ => {}
        }
        let (first, next) = (scan.header.first, scan.next);
        other_rules |= scan.header.rules != rules && next > first.max(checkpoint + 1);
        applied = applied.max(scan.applied);
        let newer = scan.entries.into_iter().filter(|(n, _)| *n > checkpoint);
        entries.extend(newer.map(|(_, entry)| entry));
        let last = scan.last_group as usize..scan.end as usize;
        let tail = Tail {
            path,
            last_group: scan.last_group,
            bytes: bytes.get(last).unwrap_or_default().to_vec(),
            end: scan.end,
            torn: scan.torn,
        };
        before = Some((next, scan.sealed, tail));
    }
    let Some((next, sealed, tail)) = before else {
        return Err(missing("there is no segment at all".to_owned()));
    };
    if sealed {
        return Err(missing(format!(
            "{} says that a segment from entry {next} follows",
            tail.path.display()
        )));
    }
    if next <= checkpoint {
        let last = next - 1;
        return Err(missing(format!(
            "it ends at entry {last}, the newest local checkpoint holds entry {checkpoint}"
        )));
    }
    Ok(LogContents {
        entries,
        next,
        applied,
        other_rules,
        tail,
    })
}
