//! The block store: a data folder of replicas, its journal, its trash.
//!
//! **Architecture invariant:** whatever changes the disk runs to its end once it has begun; callers
//! that may be dropped (a deadline, a connection that closes) run it as a task of its own, see
//! [`detached`]. Otherwise a lock would be let go of while a write is still on its way.

mod flush;
mod identity;
mod journal;
mod layout;
mod recover;
mod replica;
mod shared;
#[cfg(test)]
mod tests;

pub(crate) use identity::Identity;
pub(crate) use replica::{Replica, packet_matches};
pub(crate) use shared::Shared;

use crate::errno::{EINVAL, EIO, ENOENT, Res, disk, fail};
use crate::error::Error;
use crate::link::Reporter;
use crate::metrics::{Metrics, count};
use boomfs_io::{Io, Open, watch};
use boomfs_wire::{BlockId, ClusterId, Generation, NodeId, ReplicaInfo};
use journal::Record;
use layout::{CHUNK64, Header, Layout};
use replica::Place;
use shared::lock;
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// How to open a store.
pub(crate) struct Options {
    /// The data folder.
    pub data: PathBuf,
    /// Most bytes that replicas may take; 0 is no limit.
    pub capacity: u64,
    /// Bytes that must stay free on the disk.
    pub reserve: u64,
}

/// A data folder, open.
pub(crate) struct Store {
    shared: Arc<Shared>,
    index: Mutex<BTreeMap<BlockId, Arc<Replica>>>,
    /// Makes the making, replacing and deleting of one block's replica happen one at a time.
    making: Vec<tokio::sync::Mutex<()>>,
    /// Folders that are known to be there.
    folders: tokio::sync::Mutex<BTreeSet<PathBuf>>,
    identity: tokio::sync::Mutex<Identity>,
    ballot: tokio::sync::Mutex<u64>,
    copies: AtomicU64,
    flushing: tokio::sync::Mutex<flush::Pending>,
}

/// A replica with the right to write to it.
#[derive(Clone)]
pub(crate) struct Writer {
    /// The replica.
    pub replica: Arc<Replica>,
    /// Proof that no later pipeline has it.
    pub token: u64,
}

/// Runs something as a task of its own, so that it ends even if nobody waits for it any more.
pub(crate) async fn detached<T: Send + 'static>(
    work: impl Future<Output = Res<T>> + Send + 'static,
) -> Res<T> {
    match tokio::spawn(work).await {
        Ok(result) => result,
        Err(e) => Err(fail(EIO, format!("the DataNode is stopping: {e}"))),
    }
}

impl Store {
    /// Opens a data folder: locks it, recovers what a crash left. A folder that is refused is
    /// unchanged.
    pub async fn open(
        io: &Io,
        options: Options,
        metrics: &Arc<Metrics>,
        reporter: &Arc<Reporter>,
        failure: watch::Sender<Option<Arc<Error>>>,
    ) -> Result<Arc<Store>, Error> {
        recover::open(io, options, metrics, reporter, failure).await
    }

    fn assemble(
        shared: Arc<Shared>,
        replicas: Vec<Replica>,
        identity: Identity,
        ballot: u64,
        old: Option<flush::Old>,
    ) -> Arc<Store> {
        let index = replicas
            .into_iter()
            .map(|r| (r.block, Arc::new(r)))
            .collect();
        Arc::new(Store {
            shared,
            index: Mutex::new(index),
            making: (0..16).map(|_| tokio::sync::Mutex::new(())).collect(),
            folders: tokio::sync::Mutex::new(BTreeSet::new()),
            identity: tokio::sync::Mutex::new(identity),
            ballot: tokio::sync::Mutex::new(ballot),
            copies: AtomicU64::new(0),
            flushing: tokio::sync::Mutex::new(flush::Pending::new(old)),
        })
    }

    /// What its replicas share.
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Who the folder belongs to.
    pub async fn identity(&self) -> Identity {
        *self.identity.lock().await
    }

    /// Takes over the cluster and id that a NameNode said, durably. Another cluster than the
    /// folder's, or another id, is refused.
    pub async fn join(
        &self,
        cluster: ClusterId,
        node: NodeId,
        namenode: &str,
    ) -> Result<(), Error> {
        let mut identity = self.identity.lock().await;
        let other = |reason: String| Error::OtherCluster {
            path: self.shared.names.root().to_path_buf(),
            namenode: namenode.to_owned(),
            reason,
        };
        if identity.cluster.0 != 0 && identity.cluster != cluster {
            return Err(other(format!(
                "the folder is of cluster {}, the NameNode of {cluster}",
                identity.cluster
            )));
        }
        if identity.node.0 != 0 && identity.node != node {
            return Err(other(format!(
                "the folder is of node {}, the NameNode says {node}",
                identity.node
            )));
        }
        if (identity.cluster, identity.node) == (cluster, node) {
            return Ok(());
        }
        let joined = Identity {
            cluster,
            node,
            ..*identity
        };
        identity::save(&self.shared.io, &self.shared.names, &joined).await?;
        *identity = joined;
        Ok(())
    }

    /// Whether an order of this ballot is to be obeyed; a higher one than ever is stored first.
    pub async fn obeys(&self, ballot: u64) -> Result<bool, Error> {
        let mut highest = self.ballot.lock().await;
        if ballot > *highest {
            identity::save_ballot(&self.shared.io, &self.shared.names, ballot).await?;
            *highest = ballot;
        }
        Ok(ballot == *highest)
    }

    /// The replica of a block.
    pub fn get(&self, block: BlockId) -> Res<Arc<Replica>> {
        let found = lock(&self.index).get(&block).cloned();
        found.ok_or_else(|| {
            fail(
                ENOENT,
                format!("block {block}: no replica on this DataNode"),
            )
        })
    }

    /// All replicas that are served.
    pub fn report(&self) -> Vec<ReplicaInfo> {
        lock(&self.index)
            .values()
            .filter_map(|r| r.info())
            .collect()
    }

    async fn turn(&self, block: BlockId) -> Option<tokio::sync::MutexGuard<'_, ()>> {
        let at = usize::try_from(block.0).unwrap_or(0) % self.making.len().max(1);
        match self.making.get(at) {
            Some(turn) => Some(turn.lock().await),
            None => None,
        }
    }

    /// Opens a block for a new pipeline, and makes its replica where `existing` is `None`.
    pub async fn open_block(
        &self,
        block: BlockId,
        generation: Generation,
        existing: Option<(Generation, u64)>,
        block_size: u64,
    ) -> Res<Writer> {
        self.shared.check()?;
        let _turn = self.turn(block).await;
        let found = lock(&self.index).get(&block).cloned();
        if let Some(replica) = found {
            if existing.is_some() || replica.bad().is_none() {
                let token = replica.adopt(generation, existing, block_size).await?;
                return Ok(Writer { replica, token });
            }
            // A bad replica makes room, but its bytes are kept.
            self.put_away(&replica).await?;
        } else if existing.is_some() {
            return Err(fail(
                ENOENT,
                format!("block {block}: no replica on this DataNode"),
            ));
        }
        let replica = Arc::new(self.make(block, generation, block_size).await?);
        let token = replica.adopt(generation, None, block_size).await?;
        lock(&self.index).insert(block, replica.clone());
        Ok(Writer { replica, token })
    }

    /// Makes an empty replica. Its name and header are on disk with its first sync: before,
    /// there is nothing in it that anyone was promised.
    async fn make(&self, block: BlockId, generation: Generation, block_size: u64) -> Res<Replica> {
        let header = new_header(block, generation, block_size)?;
        self.shared.room.take(CHUNK64, block)?;
        let failed = |e: io::Error| disk("cannot make a replica", block, &e);
        let made = self.make_file(block, &header).await;
        if made.is_err() {
            self.shared.room.give(CHUNK64);
        }
        let (replica, record) = made.map_err(failed)?;
        self.shared.append(record).await?;
        Ok(replica)
    }

    async fn make_file(&self, block: BlockId, header: &Header) -> io::Result<(Replica, Record)> {
        let io = &self.shared.io;
        self.folder_of(block).await?;
        let path = self.shared.names.replica(block);
        let file = match io.open(&path, Open::create_new()).await {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                // Something that was not recognized as a replica at the start.
                let aside = self.aside(block, Generation(0));
                io.create_dir_all(&self.shared.names.quarantine()).await?;
                io.rename(&path, &aside).await?;
                io.open(&path, Open::create_new()).await?
            }
            opened => opened?,
        };
        let Some(replica) = Replica::new(&self.shared, Place::Home, *header, 0, true) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        if let Err(e) = replica.write_first_header(&file).await {
            // Best effort: a file without a header is put away at the next start.
            let _ = io.remove_file(&path).await;
            return Err(e);
        }
        replica.keep(&file);
        let record = Record {
            block,
            generation: header.generation,
            block_size: header.block_size,
            ..Record::default()
        };
        Ok((replica, record))
    }

    fn aside(&self, block: BlockId, generation: Generation) -> PathBuf {
        let name = format!(
            "{:016x}.{}.{}",
            block.0,
            generation.0,
            self.shared.io.now_ns()
        );
        self.shared.names.quarantine().join(name)
    }

    /// Makes a block's folder, durably.
    async fn folder_of(&self, block: BlockId) -> io::Result<PathBuf> {
        let folder = self.shared.names.folder(block);
        let mut known = self.folders.lock().await;
        if !known.contains(&folder) {
            let io = &self.shared.io;
            io.create_dir_all(&folder).await?;
            for above in folder.ancestors().skip(1).take(2) {
                io.sync_dir(above).await?;
            }
            known.insert(folder.clone());
        }
        Ok(folder)
    }

    /// Moves a bad replica out of the way. The block's turn is held.
    async fn put_away(&self, replica: &Arc<Replica>) -> Res<()> {
        let block = replica.block;
        let Some(record) = replica.retire().await else {
            return Ok(());
        };
        let aside = self.aside(block, record.generation);
        let lsn = self.shared.append(record).await?;
        self.shared.sync_journal(block, lsn).await?;
        lock(&self.index).remove(&block);
        let quarantine = self.shared.names.quarantine();
        let moved = async {
            self.shared.io.create_dir_all(&quarantine).await?;
            self.shared
                .io
                .rename(&self.shared.names.replica(block), &aside)
                .await?;
            self.shared.io.sync_dir(&quarantine).await
        };
        moved
            .await
            .map_err(|e| disk("cannot put a bad replica away", block, &e))
    }

    /// Moves replicas to the trash, those whose generation is not above the one given.
    pub async fn delete(&self, blocks: &[(BlockId, Generation)]) -> Res<()> {
        let mut gone = Vec::new();
        for (block, most) in blocks {
            let _turn = self.turn(*block).await;
            let Ok(replica) = self.get(*block) else {
                continue;
            };
            if replica.generation() > *most {
                continue;
            }
            let bytes = replica.footprint();
            if let Some(record) = replica.retire().await {
                lock(&self.index).remove(block);
                gone.push((record, bytes));
            }
        }
        let Some((last, _)) = gone.last() else {
            return Ok(());
        };
        let block = last.block;
        let records: Vec<Record> = gone.iter().map(|(r, _)| r.clone()).collect();
        let written = self.shared.journal.append(&records).await;
        let lsn = written.map_err(|e| self.shared.journal_failed(block, &e))?;
        self.shared.sync_journal(block, lsn).await?;
        for (record, bytes) in gone {
            self.trash(&record, bytes).await;
            self.shared.reporter.gone(record.block);
            count(&self.shared.metrics.deleted);
        }
        Ok(())
    }

    async fn trash(&self, record: &Record, bytes: u64) {
        let to = trash_name(&self.shared, record, bytes);
        let from = self.shared.names.replica(record.block);
        if let Err(e) = self.shared.io.rename(&from, &to).await {
            tracing::warn!(
                "block {}: cannot move the replica to the trash: {e}",
                record.block
            );
        }
    }

    /// Opens a copy that another DataNode sends. Nobody sees it before [`Store::finish_copy`].
    pub async fn open_copy(
        &self,
        block: BlockId,
        generation: Generation,
        block_size: u64,
    ) -> Res<Writer> {
        self.shared.check()?;
        if let Ok(replica) = self.get(block)
            && replica.bad().is_none()
            && replica.generation() > generation
        {
            let why = format!(
                "block {block}: the replica here is newer than the copy of generation {generation}"
            );
            return Err(fail(crate::errno::ESTALE, why));
        }
        let header = new_header(block, generation, block_size)?;
        self.shared.room.take(CHUNK64, block)?;
        let number = self.copies.fetch_add(1, Ordering::Relaxed);
        let folder = self.shared.names.copies();
        let path = folder.join(format!("{:016x}.{}.{number}", block.0, generation.0));
        let made = async {
            self.shared.io.create_dir_all(&folder).await?;
            let file = self.shared.io.open(&path, Open::create_new()).await?;
            let replica = Replica::new(&self.shared, Place::Copy(path.clone()), header, 0, true);
            let Some(replica) = replica else {
                return Err(io::ErrorKind::InvalidInput.into());
            };
            replica.write_first_header(&file).await?;
            replica.keep(&file);
            Ok(replica)
        };
        let replica = made
            .await
            .map_err(|e| disk("cannot make a copy", block, &e))?;
        let token = replica.adopt(generation, None, block_size).await?;
        Ok(Writer {
            replica: Arc::new(replica),
            token,
        })
    }

    /// Ends a copy that will not be finished.
    pub async fn drop_copy(&self, copy: &Replica) {
        if let Some(path) = copy.copy_path()
            && copy.retire().await.is_some()
        {
            self.shared.room.give(copy.footprint());
            if let Err(e) = self.shared.io.remove_file(&path).await {
                tracing::warn!(
                    "block {}: cannot remove an unfinished copy: {e}",
                    copy.block
                );
            }
        }
    }

    /// Makes a complete copy the replica of its block: synced, in its place, known to all. Answers
    /// the replica.
    pub async fn finish_copy(&self, copy: &Replica) -> Res<Arc<Replica>> {
        let Some(from) = copy.copy_path() else {
            return Err(fail(EINVAL, format!("block {}: is no copy", copy.block)));
        };
        let (block, header) = (copy.block, copy.finish().await?);
        let _turn = self.turn(block).await;
        if let Ok(there) = self.get(block) {
            if there.bad().is_some() {
                self.put_away(&there).await?;
            } else if there.is_as_good(header.generation, header.synced) {
                // Another copy was faster, or a client's pipeline has come.
                return Ok(there);
            } else if let Some(record) = there.retire().await {
                lock(&self.index).remove(&block);
                let lsn = self.shared.append(record.clone()).await?;
                self.shared.sync_journal(block, lsn).await?;
                self.trash(&record, there.footprint()).await;
            }
        }
        // Older records may say that the block was deleted: this one says that it is back.
        let record = Record {
            block,
            generation: header.generation,
            block_size: header.block_size,
            synced: header.synced,
            applied: true,
            ..Record::default()
        };
        let lsn = self.shared.append(record).await?;
        self.shared.sync_journal(block, lsn).await?;
        let placed = async {
            let folder = self.folder_of(block).await?;
            self.shared
                .io
                .rename(&from, &self.shared.names.replica(block))
                .await?;
            self.shared.io.sync_dir(&folder).await
        };
        placed
            .await
            .map_err(|e| disk("cannot put a copy in its place", block, &e))?;
        let replica = Replica::new(&self.shared, Place::Home, header, header.synced, false);
        let replica = Arc::new(
            replica.ok_or_else(|| fail(EINVAL, format!("block {block}: bad block size")))?,
        );
        lock(&self.index).insert(block, replica.clone());
        copy.moved();
        count(&self.shared.metrics.copies_received);
        Ok(replica)
    }
}

fn new_header(block: BlockId, generation: Generation, block_size: u64) -> Res<Header> {
    if Layout::new(block_size).is_none() || block.0 == 0 {
        let why =
            format!("block {block}: block size {block_size} is no multiple of 4096 up to 1 GiB");
        return Err(fail(EINVAL, why));
    }
    Ok(Header {
        block,
        generation,
        block_size,
        synced: 0,
        bad: false,
    })
}

/// Where a deleted replica goes; its name says when, and what its removal frees.
fn trash_name(shared: &Shared, record: &Record, bytes: u64) -> PathBuf {
    let ms = shared.io.now_ns() / 1_000_000;
    let name = format!(
        "{ms}.{:016x}.{}.{bytes}",
        record.block.0, record.generation.0
    );
    shared.names.trash().join(name)
}

/// When a file came into the trash (ms since the epoch) and what its removal frees.
fn parse_trash_name(name: &str) -> Option<(i64, u64)> {
    let mut parts = name.split('.');
    let ms = parts.next()?.parse().ok()?;
    let bytes = parts.nth(2)?.parse().ok()?;
    Some((ms, bytes))
}
