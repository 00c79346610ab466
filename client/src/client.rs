//! The client: one session, its namespace operations and its open files.

use crate::limits;
use crate::{Change, Error, FileReader, FileWriter, Rows, Watch};
use boomfs_io::Io;
use boomfs_wire::{
    Answer, At, Attr, Caller, ClusterId, Entry, Ino, Kind, Name, Op, ReadOp, SessionId, SetTime, StatFs, Status,
};
use std::time::Duration;

/// Where the NameNodes are and how long a call may take.
#[derive(Clone, Debug)]
pub struct Config {
    /// `host:port` of each NameNode; tried in turn.
    pub namenodes: Vec<String>,
    /// Name of the session for people: host, process, purpose.
    pub name: String,
    /// How long one call may take before it fails with ETIMEDOUT.
    pub deadline: Duration,
}

impl Config {
    /// A configuration with the default deadline, 30 s.
    pub fn new(namenodes: Vec<String>, name: impl Into<String>) -> Self {
        Config { namenodes, name: name.into(), deadline: limits::CALL_DEADLINE }
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
pub struct Client {}

impl Client {
    /// Opens a new session.
    ///
    /// # Errors
    /// ETIMEDOUT naming who could not be reached; a refusal as the NameNode gave it.
    pub async fn connect(io: Io, config: Config) -> Result<Client, Error> {
        let _ = (io, config);
        todo!()
    }

    /// Connects without a session: questions, queries and status only.
    ///
    /// # Errors
    /// As [`Client::connect`].
    pub async fn observer(io: Io, config: Config) -> Result<Client, Error> {
        let _ = (io, config);
        todo!()
    }

    /// The session; 0 for an observer. After a session is lost, the one that followed it.
    pub fn session(&self) -> SessionId {
        todo!()
    }

    /// The cluster.
    pub fn cluster(&self) -> ClusterId {
        todo!()
    }

    /// Default block size of the cluster, bytes.
    pub fn block_size(&self) -> u64 {
        todo!()
    }

    /// Default replication of the cluster.
    pub fn replication(&self) -> u32 {
        todo!()
    }

    /// Flushes and closes all writers, and ends the session.
    ///
    /// # Errors
    /// The first failure of a writer or of the NameNode; the client is closed all the same.
    pub async fn close(&self) -> Result<(), Error> {
        todo!()
    }

    /// Runs a command: exactly once, also over reconnects and restarts of the NameNode. When it fails with
    /// ETIMEDOUT or because the session was lost, it may or may not have been run.
    ///
    /// # Errors
    /// What the NameNode answered, ETIMEDOUT, or the loss of the session.
    pub async fn command(&self, caller: &Caller, op: Op) -> Result<Answer, Error> {
        let _ = (caller, op);
        todo!()
    }

    /// Asks a question.
    ///
    /// # Errors
    /// What the NameNode answered, or ETIMEDOUT.
    pub async fn read(&self, caller: &Caller, op: ReadOp) -> Result<Answer, Error> {
        let _ = (caller, op);
        todo!()
    }

    /// Attributes of a place. A file that this client writes has the size and mtime its writer knows.
    ///
    /// # Errors
    /// As [`Client::read`].
    pub async fn lookup(&self, caller: &Caller, at: &At, follow: bool) -> Result<Attr, Error> {
        let _ = (caller, at, follow);
        todo!()
    }

    /// Attributes of an inode; as [`Client::lookup`] of an empty path.
    ///
    /// # Errors
    /// As [`Client::read`].
    pub async fn getattr(&self, caller: &Caller, ino: Ino) -> Result<Attr, Error> {
        self.lookup(caller, &At { base: ino, path: Vec::new() }, false).await
    }

    /// Makes a directory.
    ///
    /// # Errors
    /// As [`Client::command`].
    pub async fn mkdir(&self, caller: &Caller, at: &At, mode: u32) -> Result<Attr, Error> {
        let _ = (caller, at, mode);
        todo!()
    }

    /// Makes a file, pipe, socket or device node.
    ///
    /// # Errors
    /// As [`Client::command`].
    pub async fn create(&self, caller: &Caller, at: &At, file: CreateFile) -> Result<Attr, Error> {
        let _ = (caller, at, file);
        todo!()
    }

    /// Makes a symbolic link.
    ///
    /// # Errors
    /// As [`Client::command`].
    pub async fn symlink(&self, caller: &Caller, at: &At, target: &[u8]) -> Result<Attr, Error> {
        let _ = (caller, at, target);
        todo!()
    }

    /// Gives an inode another name.
    ///
    /// # Errors
    /// As [`Client::command`].
    pub async fn link(&self, caller: &Caller, ino: Ino, at: &At) -> Result<Attr, Error> {
        let _ = (caller, ino, at);
        todo!()
    }

    /// Removes a name that is no directory; answers the inode as it is now (`nlink` 0 when that was the last name).
    ///
    /// # Errors
    /// As [`Client::command`].
    pub async fn unlink(&self, caller: &Caller, at: &At) -> Result<Attr, Error> {
        let _ = (caller, at);
        todo!()
    }

    /// Removes an empty directory.
    ///
    /// # Errors
    /// As [`Client::command`].
    pub async fn rmdir(&self, caller: &Caller, at: &At) -> Result<(), Error> {
        let _ = (caller, at);
        todo!()
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
        let _ = (caller, from, to, no_replace, exchange);
        todo!()
    }

    /// Changes attributes. When this client writes the file, its bytes are flushed first, so that a time that is set
    /// here stays.
    ///
    /// # Errors
    /// As [`Client::command`], and what [`FileWriter::flush`] gives.
    pub async fn setattr(&self, caller: &Caller, at: &At, set: SetAttr) -> Result<Attr, Error> {
        let _ = (caller, at, set);
        todo!()
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
        let _ = (caller, ino, after, limit);
        todo!()
    }

    /// A symlink's target.
    ///
    /// # Errors
    /// As [`Client::read`].
    pub async fn readlink(&self, caller: &Caller, ino: Ino) -> Result<Name, Error> {
        let _ = (caller, ino);
        todo!()
    }

    /// Space and counts.
    ///
    /// # Errors
    /// As [`Client::read`].
    pub async fn statfs(&self) -> Result<StatFs, Error> {
        todo!()
    }

    /// DataNodes and health.
    ///
    /// # Errors
    /// As [`Client::read`].
    pub async fn status(&self) -> Result<Status, Error> {
        todo!()
    }

    /// Runs an Overlog query once. `limit`: at most this many rows.
    ///
    /// # Errors
    /// EINVAL with the errors of the query's text; ETIMEDOUT.
    pub async fn query(&self, text: &str, limit: u64) -> Result<Rows, Error> {
        let _ = (text, limit);
        todo!()
    }

    /// Runs an Overlog query that stays. Its first [`Change`] holds all rows.
    ///
    /// # Errors
    /// ETIMEDOUT when the NameNode cannot be reached.
    pub async fn watch(&self, text: &str) -> Result<Watch, Error> {
        let _: (&str, Option<Change>) = (text, None);
        todo!()
    }

    /// Opens a file for reading. No message; permissions are the caller's business.
    ///
    /// # Errors
    /// None now; reading gives them.
    pub async fn open_read(&self, ino: Ino) -> Result<FileReader, Error> {
        let _ = ino;
        todo!()
    }

    /// Opens a file for writing: takes its lease, adopts the one that [`Client::create`] took, or shares this client's
    /// writer when it is already open.
    ///
    /// # Errors
    /// EBUSY when another session holds the lease and keeps it; as [`Client::command`].
    pub async fn open_write(&self, caller: &Caller, ino: Ino) -> Result<FileWriter, Error> {
        let _ = (caller, ino);
        todo!()
    }

    /// The writer of a file that this client has open, if it has; it is no open of its own.
    pub fn writer(&self, ino: Ino) -> Option<FileWriter> {
        let _ = ino;
        todo!()
    }

    /// Brings the bytes of a file that this client wrote, also through a writer that is closed by now, to the disk of
    /// every replica. Nothing to do, no message.
    ///
    /// # Errors
    /// As [`FileWriter::fsync`] and [`Client::open_write`].
    pub async fn sync_file(&self, caller: &Caller, ino: Ino) -> Result<(), Error> {
        let _ = (caller, ino);
        todo!()
    }

    /// Flushes and syncs all writers (syncfs).
    ///
    /// # Errors
    /// The first failure.
    pub async fn sync_all(&self) -> Result<(), Error> {
        todo!()
    }

    /// Counts an open of an inode, so that it survives losing its last name.
    pub fn note_open(&self, ino: Ino) {
        let _ = ino;
        todo!()
    }

    /// Takes back one [`Client::note_open`].
    pub fn note_close(&self, ino: Ino) {
        let _ = ino;
        todo!()
    }
}
