//! Checkpoints, written beside the log: the replicated tables as they stood after a slot, and apart from them this
//! node's own tables as they stood after an entry of the log.

use super::record::{self, Bad, Checkpoint, Footer, Rows};
use super::{Shared, StoreError, encode, numbered};
use crate::store::record::split;
use boomfs_io::{File, Io, Open};
use boomfs_wire::{Blob, ClusterId, MAX_HEADER};
use overlog::digest::seed;
use overlog::{Digest, Row};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Bytes of rows in one record, about.
const PIECE: usize = 256 << 10;

/// What is read at once, bytes.
const READ: usize = 1 << 20;

/// What a checkpoint holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Replicated tables; its number is a slot.
    State,
    /// Local tables; its number is a log entry.
    Local,
}

/// Writes a checkpoint, piece by piece, while the NameNode works on. Dropped without
/// [`Writer::finish`] it leaves a `.tmp` file, which the next start removes.
#[derive(Debug)]
pub struct Writer {
    shared: Arc<Shared>,
    part: Part,
    slot: u64,
    tables: Vec<(String, u32)>,
    open: Option<(File, PathBuf, u64)>,
    digest: Digest,
}

impl Writer {
    pub(crate) fn new(
        shared: Arc<Shared>,
        part: Part,
        slot: u64,
        tables: Vec<(String, u32)>,
    ) -> Writer {
        Writer {
            shared,
            part,
            slot,
            tables,
            open: None,
            digest: Digest::default(),
        }
    }

    /// The slot or entry.
    pub fn slot(&self) -> u64 {
        self.slot
    }

    async fn put(&mut self, bytes: Vec<u8>) -> Result<(), StoreError> {
        let Some((file, path, end)) = &mut self.open else {
            return Ok(());
        };
        let len = bytes.len() as u64;
        file.write_at(*end, bytes)
            .await
            .map_err(StoreError::io("write", path))?;
        *end += len;
        Ok(())
    }

    async fn begin(&mut self) -> Result<(), StoreError> {
        if self.open.is_some() {
            return Ok(());
        }
        let path = self
            .shared
            .layout
            .checkpoint(self.part, self.slot)
            .with_extension("tmp");
        let how = Open {
            truncate: true,
            ..Open::write_create()
        };
        let file = self
            .shared
            .io
            .open(&path, how)
            .await
            .map_err(StoreError::io("create", &path))?;
        let header = Checkpoint {
            cluster: self.shared.cluster,
            slot: self.slot,
            rules: self.shared.options.rules,
            tables: self.tables.clone(),
        };
        let bytes = encode(&path, record::CHECKPOINT, &header)?;
        self.open = Some((file, path, 0));
        self.put(bytes).await
    }

    /// Adds rows of a table, given by its place in the list of tables.
    ///
    /// # Errors
    /// The file cannot be written.
    pub async fn rows(&mut self, table: u32, rows: &[Row]) -> Result<(), StoreError> {
        self.begin().await?;
        let Some((name, _)) = self.tables.get(table as usize) else {
            return Ok(());
        };
        let seed = seed(name);
        let mut piece = Rows {
            table,
            count: 0,
            rows: Blob::default(),
        };
        for row in rows {
            self.digest.add(seed, row.as_bytes());
            piece.rows.0.extend_from_slice(row.as_bytes());
            piece.count += 1;
            if piece.rows.0.len() >= PIECE {
                let bytes = encode(Path::new("checkpoint"), record::ROWS, &piece)?;
                self.put(bytes).await?;
                piece = Rows {
                    table,
                    count: 0,
                    rows: Blob::default(),
                };
            }
        }
        if piece.count > 0 {
            let bytes = encode(Path::new("checkpoint"), record::ROWS, &piece)?;
            self.put(bytes).await?;
        }
        Ok(())
    }

    /// Digest of the rows so far.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Ends it: from now on a start begins with it. Call it once the log is on disk as far as it rests on it.
    ///
    /// # Errors
    /// It cannot be written; those before it stand.
    pub async fn finish(mut self) -> Result<Digest, StoreError> {
        self.begin().await?;
        let footer = Footer {
            slot: self.slot,
            rows: self.digest.rows,
            digest: self.digest.sum,
        };
        let bytes = encode(Path::new("checkpoint"), record::FOOTER, &footer)?;
        self.put(bytes).await?;
        let shared = self.shared.clone();
        if let Some((file, temp, _)) = &self.open {
            file.sync_data().await.map_err(StoreError::sync(temp))?;
            let path = shared.layout.checkpoint(self.part, self.slot);
            shared
                .io
                .rename(temp, &path)
                .await
                .map_err(StoreError::io("rename", temp))?;
            let dir = shared.layout.checkpoints(self.part);
            shared
                .io
                .sync_dir(&dir)
                .await
                .map_err(StoreError::sync(&dir))?;
        }
        if self.part == Part::State {
            shared.metrics.checkpoints.fetch_add(1, Ordering::Relaxed);
            shared
                .metrics
                .checkpoint_slot
                .store(self.slot, Ordering::Relaxed);
        }
        Ok(self.digest)
    }

    /// Gives up, and gives the space back.
    pub async fn abandon(self) {
        if let Some((_, path, _)) = &self.open {
            // Best effort: the next start removes it too.
            let _ = self.shared.io.remove_file(path).await;
        }
    }
}

/// Removes all checkpoints but the two newest of each part, and the log that the older of them has no need of. Gives
/// the slot of the older one of the state, 0 if there is none.
pub(super) async fn prune(shared: &Shared) -> Result<u64, StoreError> {
    let (io, layout) = (&shared.io, &shared.layout);
    let remove = async |path: PathBuf| {
        io.remove_file(&path)
            .await
            .map_err(StoreError::io("remove", &path))
    };
    let mut kept = [0; 2];
    for (part, kept) in [Part::State, Part::Local].into_iter().zip(&mut kept) {
        let all = numbered(io, &layout.checkpoints(part), "ckpt").await?;
        let [older @ .., keep, _newest] = all.as_slice() else {
            continue;
        };
        for slot in older {
            remove(layout.checkpoint(part, *slot)).await?;
        }
        *kept = *keep;
    }
    let [slot, entry] = kept;
    let segments = numbered(io, &layout.log(), "log").await?;
    for pair in segments.windows(2) {
        // A segment ends where the next one starts; the last one is never removed.
        if let [first, next] = pair
            && *next <= entry + 1
        {
            remove(layout.segment(*first)).await?;
        }
    }
    Ok(slot)
}

/// Reads a checkpoint.
#[derive(Debug)]
pub struct Reader {
    file: File,
    path: PathBuf,
    len: u64,
    /// Where `buffer` starts in the file.
    at: u64,
    buffer: Vec<u8>,
    header: Checkpoint,
    digest: Digest,
    done: bool,
}

impl Reader {
    pub(super) async fn open(
        io: &Io,
        path: PathBuf,
        cluster: ClusterId,
        slot: u64,
    ) -> Result<Reader, StoreError> {
        let file = io
            .open(&path, Open::read())
            .await
            .map_err(StoreError::io("open", &path))?;
        let len = file.len().await.map_err(StoreError::io("read", &path))?;
        let header = Checkpoint {
            cluster,
            slot,
            rules: 0,
            tables: Vec::new(),
        };
        let mut reader = Reader {
            file,
            path,
            len,
            at: 0,
            buffer: Vec::new(),
            header,
            digest: Digest::default(),
            done: false,
        };
        let header: Checkpoint = reader.record(record::CHECKPOINT).await?;
        if header.cluster != cluster {
            let file = reader.path.display().to_string();
            return Err(StoreError::OtherCluster {
                file,
                got: header.cluster,
                want: cluster,
            });
        }
        if header.slot != slot {
            let why = format!("it holds slot {}, its name says {slot}", header.slot);
            return Err(StoreError::corrupt(&reader.path, 0, why));
        }
        reader.header = header;
        Ok(reader)
    }

    /// The header.
    pub fn header(&self) -> &Checkpoint {
        &self.header
    }

    /// Digest of the rows that were read so far.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The next piece of a table; `None` once everything was read and the digest agrees.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`], also at the very end: use nothing before `None` came.
    pub async fn next(&mut self) -> Result<Option<(u32, Vec<Row>)>, StoreError> {
        if self.done {
            return Ok(None);
        }
        let start = self.at;
        self.fill().await?;
        if record::kind_of(&self.buffer) == Some(record::FOOTER) {
            let footer: Footer = self.record(record::FOOTER).await?;
            let got = Footer {
                slot: self.header.slot,
                rows: self.digest.rows,
                digest: self.digest.sum,
            };
            if footer != got {
                let why = format!("its footer says {footer:?}, the rows give {got:?}");
                return Err(StoreError::corrupt(&self.path, start, why));
            }
            if self.at != self.len {
                return Err(StoreError::corrupt(
                    &self.path,
                    self.at,
                    "there is data behind its end",
                ));
            }
            self.done = true;
            return Ok(None);
        }
        let rows: Rows = self.record(record::ROWS).await?;
        let Some((name, columns)) = self.header.tables.get(rows.table as usize) else {
            return Err(StoreError::corrupt(
                &self.path,
                start,
                format!("rows of table {}, which it does not list", rows.table),
            ));
        };
        let seed = seed(name);
        let unpacked = split(&rows.rows.0, rows.count, *columns).ok_or_else(|| {
            StoreError::corrupt(
                &self.path,
                start,
                format!("rows of {name} that are not {columns} packed values each"),
            )
        })?;
        for row in &unpacked {
            self.digest.add(seed, row.as_bytes());
        }
        Ok(Some((rows.table, unpacked)))
    }

    /// Reads ahead until a whole record, or all there is, is in the buffer.
    async fn fill(&mut self) -> Result<(), StoreError> {
        loop {
            match record::slice_at(&self.buffer, 0) {
                Ok(_) => return Ok(()),
                Err(_)
                    if self.at + (self.buffer.len() as u64) < self.len
                        && self.buffer.len() <= MAX_HEADER + READ =>
                {
                    let from = self.at + self.buffer.len() as u64;
                    let more = self
                        .file
                        .read_at(from, READ)
                        .await
                        .map_err(StoreError::io("read", &self.path))?;
                    if more.is_empty() {
                        return Ok(());
                    }
                    self.buffer.extend_from_slice(&more);
                }
                Err(_) => return Ok(()),
            }
        }
    }

    async fn record<T: serde::de::DeserializeOwned>(&mut self, kind: u16) -> Result<T, StoreError> {
        self.fill().await?;
        if self.buffer.is_empty() {
            return Err(StoreError::corrupt(
                &self.path,
                self.at,
                "it ends without a footer",
            ));
        }
        match record::read_at(kind, &self.buffer, 0) {
            Ok((value, len)) => {
                self.buffer.drain(..len);
                self.at += len as u64;
                Ok(value)
            }
            Err(Bad(why)) => Err(StoreError::corrupt(&self.path, self.at, why)),
        }
    }
}
