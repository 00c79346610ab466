//! To a NameNode and back.

use super::{Answer, Caller, Failure, NodeAddr, Op, ReadOp};
use crate::blob::Blob;
use crate::ids::{BlockId, ClusterId, Generation, Ino, NodeId, SessionId};
use serde::{Deserialize, Serialize};

/// Who connects to a NameNode.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Peer {
    /// A client. A `session` of `None` asks for a new one; another resumes it.
    Client {
        /// The session to resume.
        session: Option<SessionId>,
        /// A number chosen at random for a new session, so that asking twice gives one session.
        nonce: u64,
        /// Name for people: host, process, purpose.
        name: String,
    },
    /// A reader of queries and status: no session.
    Observer {
        /// A NameNode that does not lead may answer, from what it has applied.
        stale: bool,
    },
    /// A DataNode. `node` 0 asks to be registered; `nonce` makes asking twice one registration.
    DataNode {
        /// Its id.
        node: NodeId,
        /// Chosen at random when the data folder was made.
        nonce: u64,
        /// Counts the starts of this data folder.
        incarnation: u64,
        /// Where it listens, `host:port`.
        addr: String,
        /// Capacity, bytes.
        capacity: u64,
        /// Free space, bytes.
        free: u64,
    },
    /// Another NameNode, with messages of its rules. `Welcome` says who answers.
    NameNode {
        /// Chosen at random when its data folder was made.
        nonce: u64,
        /// Where it listens, `host:port`.
        addr: String,
        /// Hash of its rules: only the same rules understand one another's messages.
        rules: u64,
        /// The nonce of the one that this is meant for; 0: whoever it is.
        to: u64,
    },
}

/// To a NameNode. The first message of a connection is `Hello`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToNameNode {
    /// Who connects. Answered by [`FromNameNode::Welcome`], or [`FromNameNode::Refused`] and an end.
    Hello {
        /// The cluster that the sender belongs to, where it knows.
        cluster: Option<ClusterId>,
        /// Who it is.
        peer: Peer,
    },
    /// A command of this connection's session. Commands of a session are applied in the order of `seq` (from 1, without gaps).
    Command {
        /// Its number.
        seq: u64,
        /// All answers up to this number have been received.
        ack: u64,
        /// Who asks.
        caller: Caller,
        /// What.
        op: Op,
    },
    /// A question.
    Read {
        /// Chosen by the sender; the answer carries it.
        req: u64,
        /// Who asks.
        caller: Caller,
        /// What.
        op: ReadOp,
    },
    /// Keeps this connection's session and its leases (every 3 s; they last 10 s).
    Renew {
        /// Unlinked inodes that the client still has open.
        orphans: Vec<Ino>,
    },
    /// An Overlog query. Answered by [`FromNameNode::Rows`].
    Query {
        /// Chosen by the sender.
        req: u64,
        /// `? head(..) :- body;`
        text: String,
        /// At most this many rows.
        limit: u64,
        /// Stay, and send changes.
        watch: bool,
    },
    /// Ends a query that stays.
    Cancel {
        /// Its number.
        req: u64,
    },
    /// A DataNode's sign of life, every second.
    Heartbeat {
        /// Capacity, bytes.
        capacity: u64,
        /// Free space, bytes.
        free: u64,
    },
    /// Part of a full block report; sent after each `Welcome` and every hour.
    Report {
        /// Replicas.
        replicas: Vec<ReplicaInfo>,
        /// The first part.
        first: bool,
        /// The last part.
        last: bool,
    },
    /// Replicas that changed since: new, of a new generation, finished, or gone.
    Received {
        /// Replicas that are there.
        replicas: Vec<ReplicaInfo>,
        /// Replicas that are gone or were found to be bad.
        gone: Vec<BlockId>,
    },
    /// What one run of another NameNode's rules says to this one.
    Tell {
        /// The messages.
        rows: Vec<PeerRow>,
        /// They go on in the next message: those of a run arrive together or not at all.
        more: bool,
    },
    /// Asks for the state as of a slot that is not before this one. Answered by [`FromNameNode::State`]s.
    FetchState {
        /// The slot.
        slot: u64,
    },
}

/// A message of the rules of one NameNode to those of another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerRow {
    /// The number of the event in the program; both have the same.
    pub event: u32,
    /// The packed row.
    pub row: Blob,
}

/// A replica, as its DataNode reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaInfo {
    /// The block.
    pub block: BlockId,
    /// The generation adopted.
    pub generation: Generation,
    /// Its length on this node, bytes.
    pub length: u64,
}

/// From a NameNode.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromNameNode {
    /// The connection stands.
    Welcome {
        /// The cluster.
        cluster: ClusterId,
        /// The client's session (0 for others).
        session: SessionId,
        /// The DataNode's id (0 for others).
        node: NodeId,
        /// The ballot of the leader that speaks; a DataNode obeys the highest only.
        ballot: u64,
        /// Default block size of the cluster, bytes.
        block_size: u64,
        /// Default replication of the cluster.
        replication: u32,
    },
    /// The connection is refused, and ends.
    Refused {
        /// Why and what to do. ESTALE: the session is unknown or has expired.
        failure: Failure,
    },
    /// The answer to a command.
    Answered {
        /// Its number.
        seq: u64,
        /// The answer.
        result: Result<Answer, Failure>,
    },
    /// The answer to a question.
    ReadAnswered {
        /// Its number.
        req: u64,
        /// The answer.
        result: Result<Answer, Failure>,
    },
    /// The session is kept.
    Renewed,
    /// Rows of a query. Values are JSON, one array a row.
    Rows {
        /// The query.
        req: u64,
        /// Names of the columns.
        columns: Vec<String>,
        /// The run after which this holds.
        run: u64,
        /// Rows that came.
        added: Vec<String>,
        /// Rows that went (queries that stay).
        removed: Vec<String>,
        /// Nothing follows.
        end: bool,
        /// Why the query ended early.
        failure: Option<Failure>,
    },
    /// An order to a DataNode.
    Order {
        /// The ballot of the leader that gives it.
        ballot: u64,
        /// What to do.
        order: Order,
    },
    /// This NameNode does not lead; the connection ends.
    NotLeader {
        /// Where the leader listens, as far as is known.
        leader: Option<String>,
    },
    /// To a DataNode: this NameNode leads now, and wants a full report.
    Leads {
        /// Its ballot.
        ballot: u64,
    },
    /// Part of the replicated state.
    State {
        /// The slot whose effects it holds.
        slot: u64,
        /// Name of the table.
        table: String,
        /// Its number of columns.
        columns: u32,
        /// How many rows are in this part.
        count: u64,
        /// The packed rows, one after the other.
        rows: Blob,
        /// After the last part: number of all rows, and their digest.
        end: Option<(u64, u64)>,
    },
}

/// What a NameNode tells a DataNode to do. All may be repeated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Order {
    /// Copy a replica of this generation to another node.
    Copy {
        /// The block.
        block: BlockId,
        /// The generation.
        generation: Generation,
        /// Committed length, bytes.
        length: u64,
        /// Where to.
        target: NodeAddr,
    },
    /// Move these replicas to the trash, where their generation is at most this.
    Delete {
        /// Blocks and generations.
        blocks: Vec<(BlockId, Generation)>,
    },
}
