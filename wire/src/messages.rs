//! The messages, and what is in them: client and DataNode to NameNode and back, client and DataNode to DataNode.

mod datanode;
mod namenode;

pub use datanode::{FromDataNode, MAX_READ, ToDataNode};
pub use namenode::{FromNameNode, Order, Peer, PeerRow, ReplicaInfo, ToNameNode};

use crate::ids::{BlockId, ClusterId, Generation, Ino, NodeId};
use serde::{Deserialize, Serialize};

/// A file name or a symlink's target: bytes, as the kernel hands them over.
pub type Name = Vec<u8>;

/// Bytes of a file covered by one checksum, on the way and on disk.
pub const CHUNK: usize = 4096;

/// Who asks: the identity that permission checks use.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Caller {
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// All supplementary groups.
    pub groups: Vec<u32>,
}

/// A place in the tree, as `openat` names it: a directory or inode and a relative path from it.
/// An empty path is the base itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct At {
    /// Where the path starts.
    pub base: Ino,
    /// The path's components; none is empty, `.` or `/`.
    pub path: Vec<Name>,
}

/// What an inode is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Dir,
    /// A symbolic link.
    Symlink,
    /// A named pipe.
    Fifo,
    /// A UNIX socket.
    Socket,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
}

/// An inode's attributes. Times are nanoseconds since the epoch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attr {
    /// The inode.
    pub ino: Ino,
    /// What it is.
    pub kind: Kind,
    /// Permission bits, with set-id and sticky bits (07777).
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Length in bytes.
    pub size: u64,
    /// Bytes that blocks hold (holes do not count).
    pub allocated: u64,
    /// Number of names.
    pub nlink: u32,
    /// Device number of a device node.
    pub rdev: u64,
    /// Last access.
    pub atime_ns: i64,
    /// Last change of contents.
    pub mtime_ns: i64,
    /// Last change of attributes.
    pub ctime_ns: i64,
    /// Creation.
    pub crtime_ns: i64,
    /// Block size of the file, bytes.
    pub block_size: u64,
    /// Wanted number of replicas.
    pub replication: u32,
}

/// A time in [`Op::SetAttr`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SetTime {
    /// The stamp of the command.
    Now,
    /// This many nanoseconds since the epoch.
    At(i64),
}

/// A command: it changes the replicated state, goes through the log and is answered once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Op {
    /// Ends the session; its leases go with it. Answer: [`Answer::Done`].
    CloseSession,
    /// Takes a range of inode numbers for [`Op::Create`] and [`Op::Mkdir`]. Answer: [`Answer::Inodes`].
    ReserveInodes {
        /// How many; at most 65,536.
        count: u32,
    },
    /// Makes a directory. Answer: [`Answer::Attr`].
    Mkdir {
        /// Its name.
        at: At,
        /// Mode bits, umask already applied.
        mode: u32,
        /// A number from a reserved range, or 0: the NameNode chooses.
        ino: Ino,
    },
    /// Makes a file, pipe, socket or device node. Answer: [`Answer::Attr`].
    Create {
        /// Its name.
        at: At,
        /// What to make: not a directory, not a symlink.
        kind: Kind,
        /// Mode bits, umask already applied.
        mode: u32,
        /// Device number.
        rdev: u64,
        /// An existing name is an error (EEXIST); otherwise an existing regular file is answered.
        exclusive: bool,
        /// Take the write lease with it.
        lease: bool,
        /// Block size in bytes (a multiple of [`CHUNK`]), or 0 for the cluster's default.
        block_size: u64,
        /// Wanted replicas, or 0 for the cluster's default.
        replication: u32,
        /// A number from a reserved range, or 0.
        ino: Ino,
    },
    /// Makes a symbolic link. Answer: [`Answer::Attr`].
    Symlink {
        /// Its name.
        at: At,
        /// Where it points.
        target: Name,
    },
    /// Gives an inode another name. Answer: [`Answer::Attr`].
    Link {
        /// The inode.
        ino: Ino,
        /// The new name.
        at: At,
    },
    /// Removes a name that is no directory. Answer: [`Answer::Attr`] of the inode as it is now.
    Unlink {
        /// The name.
        at: At,
    },
    /// Removes an empty directory. Answer: [`Answer::Done`].
    Rmdir {
        /// The name.
        at: At,
    },
    /// Removes a whole tree. Answer: [`Answer::Done`]. Not served yet: EOPNOTSUPP.
    RemoveTree {
        /// The name.
        at: At,
    },
    /// Moves a name. Answer: [`Answer::Attr`] of what was moved.
    Rename {
        /// The old name.
        from: At,
        /// The new name.
        to: At,
        /// Fail with EEXIST where the new name exists.
        no_replace: bool,
        /// Swap both names.
        exchange: bool,
    },
    /// Changes attributes. Answer: [`Answer::Attr`].
    SetAttr {
        /// The inode.
        at: At,
        /// New mode bits.
        mode: Option<u32>,
        /// New owner.
        uid: Option<u32>,
        /// New group.
        gid: Option<u32>,
        /// New length: cuts blocks off, or leaves a hole at the end.
        size: Option<u64>,
        /// New access time.
        atime: Option<SetTime>,
        /// New modification time.
        mtime: Option<SetTime>,
    },
    /// Takes the write lease of a file, or fails with EBUSY. Answer: [`Answer::Attr`].
    AcquireLease {
        /// The file.
        ino: Ino,
    },
    /// Gives the write lease back. Answer: [`Answer::Done`].
    ReleaseLease {
        /// The file.
        ino: Ino,
    },
    /// Allocates a block of a file that this session holds the lease of; the block that is there is answered if there is one.
    /// Answer: [`Answer::Block`] with the chosen targets as `nodes`.
    AddBlock {
        /// The file.
        ino: Ino,
        /// Where the block starts, a multiple of the file's block size.
        offset: u64,
        /// Nodes that failed.
        exclude: Vec<NodeId>,
    },
    /// Reserves the next generation of a block, for a new pipeline on it. Answer: [`Answer::Block`] with the reserved generation and the committed members as `nodes`.
    ReserveGeneration {
        /// The file.
        ino: Ino,
        /// The block.
        block: BlockId,
    },
    /// Commits a reserved generation with the members that adopted it. Answer: [`Answer::Done`].
    CommitGeneration {
        /// The file.
        ino: Ino,
        /// The block.
        block: BlockId,
        /// The generation.
        generation: Generation,
        /// Who adopted it.
        members: Vec<NodeId>,
    },
    /// Commits lengths at fsync and close. Answer: [`Answer::Attr`].
    Commit {
        /// The file.
        ino: Ino,
        /// Its length.
        size: u64,
        /// Length of each block that changed, with the generation it was written under.
        blocks: Vec<(BlockId, Generation, u64)>,
        /// Modification time; `None` leaves it.
        mtime: Option<SetTime>,
    },
    /// Admits a NameNode, which has a vote once the window of open slots has passed. Only for uid 0. Answer:
    /// [`Answer::NameNode`].
    AddNameNode {
        /// Where it listens, `host:port`.
        addr: String,
        /// Chosen at random when its data folder was made; see [`ReadOp::Identify`].
        nonce: u64,
        /// The NameNode whose place it takes, or 0.
        replaces: NodeId,
    },
    /// Takes a NameNode's vote away. Only for uid 0. Answer: [`Answer::Done`].
    RemoveNameNode {
        /// Which.
        node: NodeId,
    },
    /// Asks the leader to hand over to another NameNode. Only for uid 0. Answer: [`Answer::Done`], when it begins to.
    Transfer {
        /// To whom.
        node: NodeId,
    },
}

/// A question: answered from the state as it stands; changes nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReadOp {
    /// Attributes of a place. Answer: [`Answer::Attr`].
    Lookup {
        /// The place.
        at: At,
        /// Follow a symlink at the end of the path.
        follow: bool,
    },
    /// A page of a directory, in cookie order. Answer: [`Answer::Entries`].
    ReadDir {
        /// The directory.
        ino: Ino,
        /// Entries after this cookie; 0 is the start.
        after: u64,
        /// At most this many (at most 1,024).
        limit: u32,
    },
    /// A symlink's target. Answer: [`Answer::Target`].
    ReadLink {
        /// The link.
        ino: Ino,
    },
    /// Space and counts. Answer: [`Answer::StatFs`].
    StatFs,
    /// The blocks of a range of a file and who has them, nearest first. A block that no DataNode has reported since the NameNode started is waited for. Answer: [`Answer::Blocks`].
    Locate {
        /// The file.
        ino: Ino,
        /// Start, bytes.
        offset: u64,
        /// Length, bytes.
        length: u64,
    },
    /// The DataNodes and counts. Answer: [`Answer::Status`].
    Status,
    /// Who this NameNode is; also one that is no member yet answers. Answer: [`Answer::Identity`].
    Identify,
}

/// A block and who has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocatedBlock {
    /// The block.
    pub block: BlockId,
    /// Where it starts in the file, bytes.
    pub offset: u64,
    /// The generation that a reader must name and a writer's pipeline gets.
    pub generation: Generation,
    /// Its committed length, bytes; up to the block size it is followed by zeros.
    pub length: u64,
    /// Its replicas.
    pub nodes: Vec<NodeAddr>,
}

/// A DataNode and where it listens.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct NodeAddr {
    /// The node.
    pub node: NodeId,
    /// `host:port`.
    pub addr: String,
}

/// One name in a directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its stable place in the directory's order.
    pub cookie: u64,
    /// The name.
    pub name: Name,
    /// What it names.
    pub attr: Attr,
}

/// Space and counts of the filesystem.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatFs {
    /// Raw capacity over all live DataNodes, bytes.
    pub capacity: u64,
    /// Raw free space over all live DataNodes, bytes.
    pub free: u64,
    /// Inodes in use.
    pub inodes: u64,
    /// Blocks.
    pub blocks: u64,
    /// Default replication.
    pub replication: u32,
    /// Default block size, bytes.
    pub block_size: u64,
}

/// One DataNode in [`Status`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// The node.
    pub node: NodeId,
    /// Where it listens.
    pub addr: String,
    /// Heard of within the last 10 seconds.
    pub live: bool,
    /// Capacity, bytes.
    pub capacity: u64,
    /// Free space, bytes.
    pub free: u64,
    /// Replicas reported.
    pub blocks: u64,
}

/// Health of the cluster, as the NameNode sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// All registered DataNodes.
    pub nodes: Vec<NodeStatus>,
    /// Space and counts.
    pub space: StatFs,
    /// Blocks with fewer live replicas than wanted, those with none included.
    pub under_replicated: u64,
    /// Blocks without a live replica.
    pub missing: u64,
    /// Open sessions.
    pub sessions: u64,
    /// True until all known DataNodes have reported after a start, at most 30 s.
    pub starting: bool,
    /// Last slot of the log that is applied.
    pub applied_slot: u64,
    /// The NameNodes.
    pub namenodes: Vec<NameNodeStatus>,
    /// The ballot of the leader, `[round, node]`; `None` while there is none.
    pub ballot: Option<(u64, NodeId)>,
}

/// One NameNode in [`Status`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NameNodeStatus {
    /// Its id.
    pub node: NodeId,
    /// Where it listens, `host:port`.
    pub addr: String,
    /// It has a vote.
    pub votes: bool,
    /// The last slot of which it has told that it knows it.
    pub slot: u64,
    /// The leader has heard of it within the last second; always true of the leader itself.
    pub live: bool,
}

/// What a NameNode says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Its cluster.
    pub cluster: ClusterId,
    /// Its id; 0 while it is not admitted.
    pub node: NodeId,
    /// Chosen at random when its data folder was made.
    pub nonce: u64,
    /// It leads.
    pub leads: bool,
    /// The last slot that it has applied.
    pub slot: u64,
}

/// What a command or a question gets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// Nothing more to say.
    Done,
    /// Attributes.
    Attr(Attr),
    /// A range of inode numbers.
    Inodes {
        /// The first.
        first: Ino,
        /// How many.
        count: u32,
    },
    /// A block to write to.
    Block(LocatedBlock),
    /// Blocks of a range.
    Blocks {
        /// Length of the file, bytes.
        size: u64,
        /// Block size of the file, bytes.
        block_size: u64,
        /// The blocks; holes are absent.
        blocks: Vec<LocatedBlock>,
    },
    /// A page of a directory.
    Entries {
        /// The directory's parent (the root's is itself).
        parent: Ino,
        /// The names.
        entries: Vec<Entry>,
        /// No more after these.
        end: bool,
    },
    /// A symlink's target.
    Target(Name),
    /// Space and counts.
    StatFs(StatFs),
    /// Health.
    Status(Status),
    /// The id of a NameNode.
    NameNode(NodeId),
    /// Who a NameNode is.
    Identity(Identity),
}

/// Why something failed: a POSIX error and a sentence for a person.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message} (errno {errno})")]
pub struct Failure {
    /// The POSIX error number (Linux's values).
    pub errno: i32,
    /// What failed, why, and what to do.
    pub message: String,
}
