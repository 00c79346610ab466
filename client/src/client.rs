//! The client: one session, its namespace operations and its open files.

use crate::files::Files;
use crate::layout::check_range;
use crate::link::Link;
use crate::pool::Pool;
use crate::writer::{Shared, done};
use crate::{Error, FileReader, FileWriter, Rows, Watch, describe, limits};
use boomfs_io::Io;
use boomfs_wire::{
    Answer, At, Attr, Caller, ClusterId, Entry, Identity, Ino, Kind, Name, NodeId, Op, ReadOp,
    SessionId, SetTime, StatFs, Status,
};
use std::sync::{Arc, Weak};
use std::time::Duration;

/// Where the NameNodes are and how long a call may take.
#[derive(Clone, Debug)]
pub struct Config {
    /// `host:port` of NameNodes; all are asked at once which of them leads, and who they name is asked too.
    pub namenodes: Vec<String>,
    /// Name of the session for people: host, process, purpose.
    pub name: String,
    /// How long one call may take before it fails with ETIMEDOUT.
    pub deadline: Duration,
    /// An observer takes answers from a NameNode that does not lead, too, from what that one has applied.
    pub stale: bool,
}

impl Config {
    /// A configuration with the default deadline, 30 s.
    pub fn new(namenodes: Vec<String>, name: impl Into<String>) -> Self {
        Config {
            namenodes,
            name: name.into(),
            deadline: limits::CALL_DEADLINE,
            stale: false,
        }
    }
}

/// What [`Client::create`] makes.
#[derive(Clone, Debug)]
pub struct CreateFile {
    /// What to make: a file, pipe, socket or device node.
    pub kind: Kind,
    /// Mode bits, umask already applied.
    pub mode: u32,
    /// Device number.
    pub rdev: u64,
    /// An existing name is an error.
    pub exclusive: bool,
    /// Take the write lease with it; [`Client::open_write`] adopts it.
    pub lease: bool,
    /// Block size in bytes, or 0 for the cluster's default.
    pub block_size: u64,
    /// Wanted replicas, or 0 for the cluster's default.
    pub replication: u32,
}

impl CreateFile {
    /// A regular file with the cluster's defaults.
    pub fn file(mode: u32) -> CreateFile {
        CreateFile {
            kind: Kind::File,
            mode,
            rdev: 0,
            exclusive: false,
            lease: false,
            block_size: 0,
            replication: 0,
        }
    }
}

/// What [`Client::setattr`] changes; `None` leaves it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SetAttr {
    /// New mode bits.
    pub mode: Option<u32>,
    /// New owner.
    pub uid: Option<u32>,
    /// New group.
    pub gid: Option<u32>,
    /// New length, bytes.
    pub size: Option<u64>,
    /// New access time.
    pub atime: Option<SetTime>,
    /// New modification time.
    pub mtime: Option<SetTime>,
}

/// One session with the NameNode. Clones share it.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

/// What a client and its open files share.
pub(crate) struct Inner {
    pub io: Io,
    pub config: Config,
    pub link: Arc<Link>,
    pub pool: Pool,
    pub files: Files,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.link.stop();
    }
}

/// An answer of another kind than the question has.
pub(crate) fn unexpected(what: &str, answer: &Answer) -> Error {
    Error::Protocol {
        what: what.to_owned(),
        who: "the NameNode".to_owned(),
        got: describe::kind_of(answer).to_owned(),
    }
}

/// An answer that has to be attributes.
pub(crate) fn attr_of(what: &'static str, answer: Answer) -> Result<Attr, Error> {
    match answer {
        Answer::Attr(attr) => Ok(attr),
        other => Err(unexpected(what, &other)),
    }
}

impl SetAttr {
    /// The command that does it.
    pub(crate) fn op(&self, at: At) -> Op {
        let SetAttr {
            mode,
            uid,
            gid,
            size,
            atime,
            mtime,
        } = self.clone();
        Op::SetAttr {
            at,
            mode,
            uid,
            gid,
            size,
            atime,
            mtime,
        }
    }
}

/// Looks after the writers of a client until it is gone.
async fn tend(inner: Weak<Inner>, io: Io) {
    loop {
        io.sleep(limits::TEND_INTERVAL).await;
        let Some(inner) = inner.upgrade() else { return };
        for (_, shared) in inner.files.writers() {
            tokio::spawn(shared.tend());
        }
        inner.files.prune(inner.io.mono_ns());
    }
}

impl Client {
    /// Opens a new session.
    ///
    /// # Errors
    /// ETIMEDOUT naming who could not be reached; a refusal as the NameNode gave it.
    pub async fn connect(io: Io, config: Config) -> Result<Client, Error> {
        Client::start(io, config, false).await
    }

    /// Connects without a session: questions, queries and status only.
    ///
    /// # Errors
    /// As [`Client::connect`].
    pub async fn observer(io: Io, config: Config) -> Result<Client, Error> {
        Client::start(io, config, true).await
    }

    async fn start(io: Io, config: Config, observer: bool) -> Result<Client, Error> {
        let link = Link::start(io.clone(), config.clone(), observer).await?;
        let pool = Pool::new(io.clone());
        let inner = Arc::new(Inner {
            io: io.clone(),
            config,
            link,
            pool,
            files: Files::default(),
        });
        tokio::spawn(tend(Arc::downgrade(&inner), io));
        Ok(Client { inner })
    }

    /// The session; 0 for an observer. After a session is lost, the one that followed it.
    pub fn session(&self) -> SessionId {
        self.inner.link.session()
    }

    /// The cluster.
    pub fn cluster(&self) -> ClusterId {
        self.inner.link.cluster()
    }

    /// Default block size of the cluster, bytes.
    pub fn block_size(&self) -> u64 {
        self.inner.link.block_size()
    }

    /// Default replication of the cluster.
    pub fn replication(&self) -> u32 {
        self.inner.link.replication()
    }

    /// Flushes and closes all writers, and ends the session.
    ///
    /// # Errors
    /// The first failure of a writer or of the NameNode; the client is closed all the same.
    pub async fn close(&self) -> Result<(), Error> {
        let mut result = Ok(());
        for (slot, shared) in self.inner.files.writers() {
            let closed = FileWriter::new(shared, slot, false).close_all().await;
            result = result.and(closed);
        }
        if self.session() != SessionId(0) {
            result = result.and(self.end_session().await);
        }
        self.inner.link.stop();
        result
    }

    async fn end_session(&self) -> Result<(), Error> {
        self.inner.link.closes();
        match self.command(&Caller::default(), Op::CloseSession).await {
            // The answer is gone if a leader ended it and died: to the next one the session is unknown.
            Ok(_) | Err(Error::SessionLost { .. }) => Ok(()),
            Err(why) => Err(why),
        }
    }

    /// Runs a command: exactly once, also over reconnects and restarts of the NameNode. When it fails with
    /// ETIMEDOUT or because the session was lost, it may or may not have been run.
    ///
    /// # Errors
    /// What the NameNode answered, ETIMEDOUT, or the loss of the session.
    pub async fn command(&self, caller: &Caller, op: Op) -> Result<Answer, Error> {
        self.inner.link.command(caller, op, None).await
    }

    /// Asks a question.
    ///
    /// # Errors
    /// What the NameNode answered, or ETIMEDOUT.
    pub async fn read(&self, caller: &Caller, op: ReadOp) -> Result<Answer, Error> {
        self.inner.link.read(caller, op).await
    }

    /// Attributes of a place. A file that this client writes has the size and mtime its writer knows.
    ///
    /// # Errors
    /// As [`Client::read`].
    pub async fn lookup(&self, caller: &Caller, at: &At, follow: bool) -> Result<Attr, Error> {
        let op = ReadOp::Lookup {
            at: at.clone(),
            follow,
        };
        let attr = attr_of("look up", self.read(caller, op).await?)?;
        Ok(self.patched(attr))
    }

    /// Attributes of an inode; as [`Client::lookup`] of an empty path.
    ///
    /// # Errors
    /// As [`Client::read`].
    pub async fn getattr(&self, caller: &Caller, ino: Ino) -> Result<Attr, Error> {
        self.lookup(
            caller,
            &At {
                base: ino,
                path: Vec::new(),
            },
            false,
        )
        .await
    }

    /// Makes a directory.
    ///
    /// # Errors
    /// As [`Client::command`].
    pub async fn mkdir(&self, caller: &Caller, at: &At, mode: u32) -> Result<Attr, Error> {
        let op = Op::Mkdir {
            at: at.clone(),
            mode,
            ino: Ino(0),
        };
        attr_of("mkdir", self.command(caller, op).await?)
    }

    /// Makes a file, pipe, socket or device node.
    ///
    /// # Errors
    /// As [`Client::command`].
    pub async fn create(&self, caller: &Caller, at: &At, file: CreateFile) -> Result<Attr, Error> {
        let CreateFile {
            kind,
            mode,
            rdev,
            exclusive,
            lease,
            block_size,
            replication,
        } = file;
        let at = at.clone();
        let op = Op::Create {
            at,
            kind,
            mode,
            rdev,
            exclusive,
            lease,
            block_size,
            replication,
            ino: Ino(0),
        };
        let epoch = self.inner.link.epoch();
        let attr = attr_of("create", self.command(caller, op).await?)?;
        if lease {
            self.inner.files.adopt(&attr, epoch);
        }
        Ok(self.patched(attr))
    }

    /// Makes a symbolic link.
    ///
    /// # Errors
    /// As [`Client::command`].
    pub async fn symlink(&self, caller: &Caller, at: &At, target: &[u8]) -> Result<Attr, Error> {
        let op = Op::Symlink {
            at: at.clone(),
            target: target.to_vec(),
        };
        attr_of("symlink", self.command(caller, op).await?)
    }

    /// Gives an inode another name.
    ///
    /// # Errors
    /// As [`Client::command`].
    pub async fn link(&self, caller: &Caller, ino: Ino, at: &At) -> Result<Attr, Error> {
        let op = Op::Link {
            ino,
            at: at.clone(),
        };
        let attr = attr_of("link", self.command(caller, op).await?)?;
        Ok(self.patched(attr))
    }

    /// Removes a name that is no directory; answers the inode as it is now (`nlink` 0 when that was the last name).
    ///
    /// # Errors
    /// As [`Client::command`].
    pub async fn unlink(&self, caller: &Caller, at: &At) -> Result<Attr, Error> {
        let attr = attr_of(
            "unlink",
            self.command(caller, Op::Unlink { at: at.clone() }).await?,
        )?;
        Ok(self.patched(attr))
    }

    /// Removes an empty directory.
    ///
    /// # Errors
    /// As [`Client::command`].
    pub async fn rmdir(&self, caller: &Caller, at: &At) -> Result<(), Error> {
        done(
            "rmdir",
            &self.command(caller, Op::Rmdir { at: at.clone() }).await?,
        )
    }

    /// Moves a name; answers what was moved. `no_replace`: EEXIST where the new name exists; `exchange`: swap both.
    /// Bytes of the moved file that this client wrote a moment ago are brought to disk first when it replaces a name.
    ///
    /// # Errors
    /// As [`Client::command`].
    pub async fn rename(
        &self,
        caller: &Caller,
        from: &At,
        to: &At,
        no_replace: bool,
        exchange: bool,
    ) -> Result<Attr, Error> {
        if !self.inner.files.is_quiet() && !no_replace {
            self.sync_before_rename(caller, from, to).await?;
        }
        let op = Op::Rename {
            from: from.clone(),
            to: to.clone(),
            no_replace,
            exchange,
        };
        let attr = attr_of("rename", self.command(caller, op).await?)?;
        Ok(self.patched(attr))
    }

    /// Who replaces a file expects either the old or the new contents after a crash.
    async fn sync_before_rename(&self, caller: &Caller, from: &At, to: &At) -> Result<(), Error> {
        // Whatever is wrong with either name is for the rename to say.
        let Ok(moved) = self.lookup(caller, from, false).await else {
            return Ok(());
        };
        let ino = moved.ino;
        let files = &self.inner.files;
        let concerned =
            files.writer(ino).is_some() || files.is_unsynced(ino, self.inner.io.mono_ns());
        if moved.kind != Kind::File || !concerned || self.lookup(caller, to, false).await.is_err() {
            return Ok(());
        }
        self.sync_file(caller, ino).await
    }

    /// Changes attributes. When this client writes the file, its bytes are flushed first, so that a time that is set
    /// here stays.
    ///
    /// # Errors
    /// As [`Client::command`], and what [`FileWriter::flush`] gives.
    pub async fn setattr(&self, caller: &Caller, at: &At, set: SetAttr) -> Result<Attr, Error> {
        if let Some(size) = set.size {
            check_range("truncate", at.base, size, 0)?;
        }
        let files = &self.inner.files;
        let ino = if at.path.is_empty() {
            Some(at.base)
        } else if files.writers().is_empty() {
            None
        } else {
            Some(self.lookup(caller, at, true).await?.ino)
        };
        if let Some((slot, shared)) = ino.and_then(|ino| files.writer(ino))
            && shared.has_lease()
        {
            let attr = FileWriter::new(shared, slot, false)
                .set_attr(caller, set)
                .await?;
            return Ok(self.patched(attr));
        }
        let attr = attr_of(
            "set attributes",
            self.command(caller, set.op(at.clone())).await?,
        )?;
        if let Some(size) = set.size {
            files.resized(attr.ino, size);
        }
        Ok(attr)
    }

    /// A page of a directory after a cookie (0: the start): its parent, the names, and whether no more follow.
    ///
    /// # Errors
    /// As [`Client::read`].
    pub async fn readdir(
        &self,
        caller: &Caller,
        ino: Ino,
        after: u64,
        limit: u32,
    ) -> Result<(Ino, Vec<Entry>, bool), Error> {
        match self
            .read(caller, ReadOp::ReadDir { ino, after, limit })
            .await?
        {
            Answer::Entries {
                parent,
                mut entries,
                end,
            } => {
                for entry in &mut entries {
                    self.patch(&mut entry.attr);
                }
                Ok((parent, entries, end))
            }
            other => Err(unexpected("read directory", &other)),
        }
    }

    /// A symlink's target.
    ///
    /// # Errors
    /// As [`Client::read`].
    pub async fn readlink(&self, caller: &Caller, ino: Ino) -> Result<Name, Error> {
        match self.read(caller, ReadOp::ReadLink { ino }).await? {
            Answer::Target(target) => Ok(target),
            other => Err(unexpected("read link", &other)),
        }
    }

    /// Space and counts.
    ///
    /// # Errors
    /// As [`Client::read`].
    pub async fn statfs(&self) -> Result<StatFs, Error> {
        match self.read(&Caller::default(), ReadOp::StatFs).await? {
            Answer::StatFs(statfs) => Ok(statfs),
            other => Err(unexpected("statfs", &other)),
        }
    }

    /// DataNodes and health.
    ///
    /// # Errors
    /// As [`Client::read`].
    pub async fn status(&self) -> Result<Status, Error> {
        match self.read(&Caller::default(), ReadOp::Status).await? {
            Answer::Status(status) => Ok(status),
            other => Err(unexpected("status", &other)),
        }
    }

    /// Who the NameNode is that this client is connected to.
    ///
    /// # Errors
    /// As [`Client::read`].
    pub async fn identify(&self) -> Result<Identity, Error> {
        match self.read(&Caller::default(), ReadOp::Identify).await? {
            Answer::Identity(identity) => Ok(identity),
            other => Err(unexpected("identify", &other)),
        }
    }

    /// Admits the NameNode that listens at an address and has this nonce ([`Client::identify`] of it tells); gives its
    /// id. `replaces`: the one whose place it takes, or 0.
    ///
    /// # Errors
    /// EPERM for anyone but uid 0; as [`Client::command`].
    pub async fn add_namenode(
        &self,
        caller: &Caller,
        addr: &str,
        nonce: u64,
        replaces: NodeId,
    ) -> Result<NodeId, Error> {
        let op = Op::AddNameNode {
            addr: addr.to_owned(),
            nonce,
            replaces,
        };
        match self.command(caller, op).await? {
            Answer::NameNode(node) => Ok(node),
            other => Err(unexpected("add NameNode", &other)),
        }
    }

    /// Takes a NameNode's vote away.
    ///
    /// # Errors
    /// EPERM for anyone but uid 0; as [`Client::command`].
    pub async fn remove_namenode(&self, caller: &Caller, node: NodeId) -> Result<(), Error> {
        let op = Op::RemoveNameNode { node };
        done("remove NameNode", &self.command(caller, op).await?)
    }

    /// Asks the leader to hand over to another NameNode; returns when it begins to.
    ///
    /// # Errors
    /// EPERM for anyone but uid 0; as [`Client::command`].
    pub async fn transfer(&self, caller: &Caller, node: NodeId) -> Result<(), Error> {
        let op = Op::Transfer { node };
        done("transfer leadership", &self.command(caller, op).await?)
    }

    /// Runs an Overlog query once. `limit`: at most this many rows.
    ///
    /// # Errors
    /// EINVAL with the errors of the query's text; ETIMEDOUT.
    pub async fn query(&self, text: &str, limit: u64) -> Result<Rows, Error> {
        self.inner.link.query(text, limit).await
    }

    /// Runs an Overlog query that stays. Its first [`crate::Change`] holds all rows.
    ///
    /// # Errors
    /// ETIMEDOUT when the NameNode cannot be reached.
    pub async fn watch(&self, text: &str) -> Result<Watch, Error> {
        self.inner.link.watch(text).await
    }

    /// Opens a file for reading. No message; permissions are the caller's business.
    ///
    /// # Errors
    /// None now; reading gives them.
    pub async fn open_read(&self, ino: Ino) -> Result<FileReader, Error> {
        Ok(FileReader::new(&self.inner, ino))
    }

    /// Opens a file for writing: takes its lease, adopts the one that [`Client::create`] took, or shares this client's
    /// writer when it is already open.
    ///
    /// # Errors
    /// EBUSY when another session holds the lease and keeps it; as [`Client::command`].
    pub async fn open_write(&self, caller: &Caller, ino: Ino) -> Result<FileWriter, Error> {
        let slot = self.inner.files.slot(ino);
        let opened = self.open_in(caller, ino, &slot).await;
        match opened {
            Ok(shared) => Ok(shared),
            Err(error) => {
                self.inner.files.tidy(slot);
                Err(error)
            }
        }
    }

    async fn open_in(
        &self,
        caller: &Caller,
        ino: Ino,
        slot: &Arc<crate::files::Slot>,
    ) -> Result<FileWriter, Error> {
        let inner = &self.inner;
        let _door = slot.door.lock().await;
        if let Some(shared) = slot.current()
            && shared.has_lease()
        {
            return Ok(FileWriter::new(shared, Arc::clone(slot), true));
        }
        let epoch = inner.link.epoch();
        let attr = match inner.files.adopted(ino, epoch) {
            Some(attr) => attr,
            None => {
                let op = Op::AcquireLease { ino };
                attr_of(
                    "take write lease",
                    inner.link.command(caller, op, Some(epoch)).await?,
                )?
            }
        };
        let unsynced = inner.files.take_unsynced(ino);
        let shared = Arc::new(Shared::new(inner, caller, &attr, epoch, unsynced));
        let writer = FileWriter::new(Arc::clone(&shared), Arc::clone(slot), true);
        slot.enter(&shared);
        inner.files.changed(ino);
        Ok(writer)
    }

    fn patch(&self, attr: &mut Attr) {
        if let Some((_, shared)) = self.inner.files.writer(attr.ino) {
            shared.patch(attr);
        }
    }

    fn patched(&self, mut attr: Attr) -> Attr {
        self.patch(&mut attr);
        attr
    }

    /// The writer of a file that this client has open, if it has; it is no open of its own.
    pub fn writer(&self, ino: Ino) -> Option<FileWriter> {
        let (slot, shared) = self.inner.files.writer(ino)?;
        Some(FileWriter::new(shared, slot, false))
    }

    /// Brings the bytes of a file that this client wrote, also through a writer that is closed by now, to the disk of
    /// every replica. Nothing to do, no message.
    ///
    /// # Errors
    /// As [`FileWriter::fsync`] and [`Client::open_write`].
    pub async fn sync_file(&self, caller: &Caller, ino: Ino) -> Result<(), Error> {
        if let Some(writer) = self.writer(ino) {
            return writer.fsync().await;
        }
        if !self.inner.files.is_unsynced(ino, self.inner.io.mono_ns()) {
            return Ok(());
        }
        let writer = self.open_write(caller, ino).await?;
        let synced = writer.fsync().await;
        synced.and(writer.close().await)
    }

    /// Flushes and syncs all writers (syncfs).
    ///
    /// # Errors
    /// The first failure.
    pub async fn sync_all(&self) -> Result<(), Error> {
        let mut result = Ok(());
        for (slot, shared) in self.inner.files.writers() {
            result = result.and(FileWriter::new(shared, slot, false).fsync().await);
        }
        for ino in self.inner.files.unsynced() {
            result = result.and(self.sync_file(&Caller::default(), ino).await);
        }
        result
    }

    /// Counts an open of an inode, so that it survives losing its last name.
    pub fn note_open(&self, ino: Ino) {
        self.inner.link.note_open(ino);
    }

    /// Takes back one [`Client::note_open`].
    pub fn note_close(&self, ino: Ino) {
        self.inner.link.note_close(ino);
    }
}
