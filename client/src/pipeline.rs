//! One open pipeline to the replicas of a block.

use crate::limits;
use crate::pool::{DataConn, Pool, Trouble};
use crate::retry::Deadline;
use boomfs_io::Io;
use boomfs_wire::{
    BlockId, CHUNK, ClusterId, Failure, FromDataNode, Generation, NodeAddr, NodeId, ToDataNode,
};
use bytes::Bytes;

/// What to open.
#[derive(Clone, Debug)]
pub struct Opening {
    pub cluster: ClusterId,
    pub block: BlockId,
    pub generation: Generation,
    /// The generation and length that a replica of before must have; `None`: a new block.
    pub existing: Option<(Generation, u64)>,
    pub block_size: u64,
}

/// Members that are out, and why.
pub type Failed = Vec<(NodeId, Trouble)>;

/// An open pipeline. Dropping it without [`Pipeline::close`] breaks its connection.
pub struct Pipeline {
    conn: DataConn,
    /// Where its block starts in the file.
    pub block_start: u64,
    /// Who takes part, the one that is connected first.
    pub members: Vec<NodeAddr>,
}

/// What to do with one packet.
#[derive(Clone, Copy, Debug, Default)]
pub struct How {
    /// Have it on every disk before it is acknowledged.
    pub sync: bool,
    /// Close the pipeline behind it, in the same breath.
    pub close: bool,
}

impl Pipeline {
    /// Opens a pipeline through the first of `targets` that works, with all others that do; and says who does not.
    pub async fn open(
        io: &Io,
        pool: &Pool,
        opening: &Opening,
        block_start: u64,
        targets: &[NodeAddr],
        deadline: Deadline,
    ) -> (Option<Pipeline>, Failed) {
        let mut failed: Failed = Vec::new();
        let mut targets = targets;
        while let Some((head, rest)) = targets.split_first() {
            targets = rest;
            let Some(left) = deadline.left(io) else { break };
            let message = ToDataNode::OpenPipeline {
                cluster: opening.cluster,
                block: opening.block,
                generation: opening.generation,
                existing: opening.existing,
                block_size: opening.block_size,
                node: head.node,
                rest: rest.to_vec(),
                copy: false,
            };
            match pool
                .call(&head.addr, &message, left.min(limits::PIPELINE_DEADLINE))
                .await
            {
                Ok((
                    conn,
                    FromDataNode::Opened {
                        members,
                        failed: out,
                    },
                    _,
                )) if members.contains(&head.node) => {
                    failed.extend(
                        out.into_iter()
                            .map(|(node, failure)| (node, Trouble::Failed(failure))),
                    );
                    let among = std::iter::once(head).chain(rest);
                    let members = among
                        .filter(|node| members.contains(&node.node))
                        .cloned()
                        .collect();
                    return (
                        Some(Pipeline {
                            conn,
                            block_start,
                            members,
                        }),
                        failed,
                    );
                }
                Ok((_, answer, _)) => {
                    failed.push((head.node, Trouble::Corrupt(unexpected(&answer))))
                }
                Err(trouble) => failed.push((head.node, trouble)),
            }
        }
        (None, failed)
    }

    /// Sends bytes for an offset of the block and waits until every member has them. On failure says who is out: the
    /// pipeline is of no further use then.
    pub async fn packet(
        &mut self,
        io: &Io,
        offset: u64,
        bytes: &Bytes,
        how: How,
        deadline: Deadline,
    ) -> Result<(), Failed> {
        let checksums = checksums(offset, bytes);
        let within = self.within(io, deadline)?;
        let packet = ToDataNode::Packet {
            offset,
            checksums,
            sync: how.sync,
        };
        let mut sent = self.conn.send(io, &packet, bytes, within).await;
        if sent.is_ok() && how.close {
            sent = self
                .conn
                .send(io, &ToDataNode::ClosePipeline, &[], within)
                .await;
        }
        sent.map_err(|trouble| self.head_failed(trouble))?;
        self.written(io, deadline).await?;
        if how.close {
            self.written(io, deadline).await
        } else {
            Ok(())
        }
    }

    /// Closes it; its replicas are finished.
    pub async fn close(&mut self, io: &Io, deadline: Deadline) -> Result<(), Failed> {
        let within = self.within(io, deadline)?;
        let sent = self
            .conn
            .send(io, &ToDataNode::ClosePipeline, &[], within)
            .await;
        sent.map_err(|trouble| self.head_failed(trouble))?;
        self.written(io, deadline).await
    }

    /// The connection of a pipeline that was closed in order.
    pub fn into_conn(self) -> DataConn {
        self.conn
    }

    fn within(&self, io: &Io, deadline: Deadline) -> Result<std::time::Duration, Failed> {
        let late = || self.head_failed(Trouble::Broken("the deadline has passed".to_owned()));
        deadline
            .left(io)
            .map(|left| left.min(limits::PIPELINE_DEADLINE))
            .ok_or_else(late)
    }

    async fn written(&mut self, io: &Io, deadline: Deadline) -> Result<(), Failed> {
        let within = self.within(io, deadline)?;
        match self.conn.answer(io, within).await {
            Ok((FromDataNode::Written { failed }, _)) if failed.is_empty() => Ok(()),
            Ok((FromDataNode::Written { failed }, _)) => Err(failed
                .into_iter()
                .map(|(node, failure)| (node, Trouble::Failed(failure)))
                .collect()),
            Ok((answer, _)) => Err(self.head_failed(Trouble::Corrupt(unexpected(&answer)))),
            Err(trouble) => Err(self.head_failed(trouble)),
        }
    }

    /// Who does not answer is out, and that is the member that is connected.
    fn head_failed(&self, trouble: Trouble) -> Failed {
        self.members
            .first()
            .map(|head| (head.node, trouble))
            .into_iter()
            .collect()
    }
}

fn unexpected(answer: &FromDataNode) -> String {
    let kind = match answer {
        FromDataNode::Opened { .. } => "Opened without itself, or out of turn",
        FromDataNode::Written { .. } => "Written out of turn",
        FromDataNode::Data { .. } => "Data",
        FromDataNode::Failed(Failure { message, .. }) => message,
    };
    format!("it answered with {kind}; is it of this version?")
}

/// The checksum of each piece; a piece ends where a chunk of the block ends.
fn checksums(offset: u64, bytes: &[u8]) -> Vec<u32> {
    let chunk = CHUNK as u64;
    let to_boundary = usize::try_from((chunk - offset % chunk) % chunk).unwrap_or(0);
    let (first, rest) = bytes.split_at(to_boundary.min(bytes.len()));
    let first = (!first.is_empty()).then_some(first);
    first
        .into_iter()
        .chain(rest.chunks(CHUNK))
        .map(crc32c::crc32c)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_end_where_chunks_end() {
        let bytes: Vec<u8> = (0..9000_u32).map(|n| (n % 251) as u8).collect();
        let sums = |parts: &[&[u8]]| {
            parts
                .iter()
                .map(|part| crc32c::crc32c(part))
                .collect::<Vec<_>>()
        };
        assert_eq!(
            checksums(0, &bytes),
            sums(&[&bytes[..4096], &bytes[4096..8192], &bytes[8192..]])
        );
        assert_eq!(
            checksums(4000, &bytes),
            sums(&[
                &bytes[..96],
                &bytes[96..4192],
                &bytes[4192..8288],
                &bytes[8288..]
            ])
        );
        assert_eq!(checksums(4000, &bytes[..50]), sums(&[&bytes[..50]]));
        assert_eq!(checksums(8192, &[]), Vec::<u32>::new());
    }
}
