//! To a DataNode and back.

use super::{Failure, NodeAddr};
use crate::ids::{BlockId, ClusterId, Generation, NodeId};
use serde::{Deserialize, Serialize};

/// To a DataNode. A connection serves any number of these, one after the other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToDataNode {
    /// Opens a pipeline on a block; passed on to `rest[0]` with `rest[1..]`. Answered by [`FromDataNode::Opened`] when every member that can be reached has durably adopted the generation.
    /// While a pipeline is open its connection takes [`ToDataNode::Packet`]s and then [`ToDataNode::ClosePipeline`].
    OpenPipeline {
        /// The cluster, checked.
        cluster: ClusterId,
        /// The block.
        block: BlockId,
        /// The generation to adopt.
        generation: Generation,
        /// `None`: a new block. `Some(g, length)`: the replica that is there must have generation g or more and be at least this long, and is cut to this length.
        existing: Option<(Generation, u64)>,
        /// Block size, bytes.
        block_size: u64,
        /// The node that this is meant for, checked.
        node: NodeId,
        /// The other members.
        rest: Vec<NodeAddr>,
        /// The sender is another DataNode that copies a finished replica.
        copy: bool,
    },
    /// Bytes for the open pipeline; they follow the frame as its body. Answered by [`FromDataNode::Written`] when every member has them.
    Packet {
        /// Where in the block, bytes.
        offset: u64,
        /// CRC-32C of each piece; a piece ends where a chunk of the block ends.
        checksums: Vec<u32>,
        /// Answer when the bytes, and all before, are on every member's disk. A packet may be empty, to do only this.
        sync: bool,
    },
    /// Closes the pipeline; its replicas are finished and reported. Answered by `Written`.
    ClosePipeline,
    /// Reads whole chunks that cover a range. Answered by [`FromDataNode::Data`] with the bytes as body.
    Read {
        /// The cluster, checked.
        cluster: ClusterId,
        /// The block.
        block: BlockId,
        /// The generation; a replica of a lower one is refused as stale.
        generation: Generation,
        /// Start, bytes.
        offset: u64,
        /// Length, bytes; at most [`MAX_READ`].
        length: u64,
    },
    /// Says that a reader found bytes that do not match their checksums.
    Suspect {
        /// The block.
        block: BlockId,
    },
}

/// The most that one [`ToDataNode::Read`] or [`ToDataNode::Packet`] carries, bytes.
pub const MAX_READ: u64 = 1 << 20;

/// From a DataNode.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromDataNode {
    /// The pipeline is open.
    Opened {
        /// Members that adopted the generation, this node first.
        members: Vec<NodeId>,
        /// Members that did not, and why.
        failed: Vec<(NodeId, Failure)>,
    },
    /// A packet or close is done by every member.
    Written {
        /// Members that failed, and why; the pipeline is of no further use when there are any.
        failed: Vec<(NodeId, Failure)>,
    },
    /// Chunks, as the frame's body.
    Data {
        /// Where the body starts in the block (a multiple of [`CHUNK`](super::CHUNK)).
        start: u64,
        /// CRC-32C of each chunk of the body; the last may be short.
        checksums: Vec<u32>,
        /// Length of the replica, bytes.
        length: u64,
    },
    /// The request failed; the connection stays.
    Failed(Failure),
}
