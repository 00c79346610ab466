//! The DataNodes. The first member of a pipeline writes to the others' memory by itself.

use super::{Fake, Replica, State};
use crate::errno;
use boomfs_io::{ReadHalf, WriteHalf};
use boomfs_wire::frame::{read_message, write_message};
use boomfs_wire::{
    BlockId, CHUNK, ClusterId, Failure, FromDataNode, Generation, NodeId, ToDataNode,
};
use bytes::Bytes;

struct Open {
    block: BlockId,
    generation: Generation,
    block_size: u64,
    members: Vec<NodeId>,
}

enum Reply {
    Message(FromDataNode, Vec<u8>),
    Nothing,
    Cut,
}

fn failed(errno: i32, message: &str) -> Failure {
    Failure {
        errno,
        message: message.to_owned(),
    }
}

impl Fake {
    pub async fn start_datanode(&self, node: NodeId) {
        let listener = self
            .world
            .node(&format!("dn{node}"))
            .listen(&Fake::addr(node).addr)
            .await
            .unwrap();
        let fake = self.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (reader, writer) = stream.into_split();
                let fake = fake.clone();
                tokio::spawn(async move { fake.serve_data(node, reader, writer).await });
            }
        });
    }

    async fn serve_data(&self, node: NodeId, mut reader: ReadHalf, mut writer: WriteHalf) {
        let mut open = None;
        while let Ok(Some((message, body))) = read_message::<ToDataNode, _>(&mut reader).await {
            let reply = self.state().data(node, &mut open, message, &body);
            match reply {
                Reply::Message(answer, body) => {
                    if write_message(&mut writer, &answer, &body).await.is_err() {
                        return;
                    }
                }
                Reply::Nothing => {}
                Reply::Cut => return,
            }
        }
    }
}

impl State {
    fn data(
        &mut self,
        node: NodeId,
        open: &mut Option<Open>,
        message: ToDataNode,
        body: &Bytes,
    ) -> Reply {
        let me = self.nodes.get_mut(&node).unwrap();
        if me.dead {
            return Reply::Cut;
        }
        if me.mute {
            return Reply::Nothing;
        }
        let answer = match message {
            ToDataNode::OpenPipeline {
                cluster,
                block,
                generation,
                existing,
                block_size,
                node: meant,
                rest,
                ..
            } => {
                assert_eq!((cluster, meant), (ClusterId(77), node));
                *open = None;
                let mut members = Vec::new();
                let mut out = Vec::new();
                for member in std::iter::once(node).chain(rest.iter().map(|rest| rest.node)) {
                    match self.adopt(member, block, generation, existing) {
                        Ok(()) => members.push(member),
                        Err(failure) if member == node => {
                            return Reply::Message(FromDataNode::Failed(failure), vec![]);
                        }
                        Err(failure) => out.push((member, failure)),
                    }
                }
                *open = Some(Open {
                    block,
                    generation,
                    block_size,
                    members: members.clone(),
                });
                FromDataNode::Opened {
                    members,
                    failed: out,
                }
            }
            ToDataNode::Packet {
                offset,
                checksums,
                sync,
            } => match open {
                Some(open) => match self.packet(node, open, offset, &checksums, sync, body) {
                    Some(failed) => FromDataNode::Written { failed },
                    None => return Reply::Cut,
                },
                None => FromDataNode::Failed(failed(errno::EINVAL, "no pipeline is open")),
            },
            ToDataNode::ClosePipeline => match open.take() {
                Some(open) => {
                    for member in open.members {
                        if let Some(replica) = self
                            .nodes
                            .get_mut(&member)
                            .unwrap()
                            .replicas
                            .get_mut(&open.block)
                        {
                            replica.finished = true;
                        }
                    }
                    FromDataNode::Written { failed: vec![] }
                }
                None => FromDataNode::Failed(failed(errno::EINVAL, "no pipeline is open")),
            },
            ToDataNode::Read {
                block,
                generation,
                offset,
                length,
                ..
            } => {
                me.reads += 1;
                let rotten = me.rotten;
                let Some(replica) = me.replicas.get(&block) else {
                    return Reply::Message(
                        FromDataNode::Failed(failed(errno::ENOENT, "no such block")),
                        vec![],
                    );
                };
                if replica.generation < generation {
                    return Reply::Message(
                        FromDataNode::Failed(failed(errno::ESTALE, "stale replica")),
                        vec![],
                    );
                }
                let start = (offset as usize / CHUNK * CHUNK).min(replica.data.len());
                let end = ((offset + length) as usize)
                    .next_multiple_of(CHUNK)
                    .min(replica.data.len());
                let mut bytes = replica.data[start..end.max(start)].to_vec();
                let checksums = bytes.chunks(CHUNK).map(crc32c::crc32c).collect();
                if rotten && let Some(byte) = bytes.first_mut() {
                    *byte ^= 1;
                }
                let length = replica.data.len() as u64;
                return Reply::Message(
                    FromDataNode::Data {
                        start: start as u64,
                        checksums,
                        length,
                    },
                    bytes,
                );
            }
            ToDataNode::Suspect { block } => {
                me.suspected.push(block);
                return Reply::Nothing;
            }
        };
        Reply::Message(answer, vec![])
    }

    fn adopt(
        &mut self,
        member: NodeId,
        block: BlockId,
        generation: Generation,
        existing: Option<(Generation, u64)>,
    ) -> Result<(), Failure> {
        let node = self.nodes.get_mut(&member).unwrap();
        if node.dead {
            return Err(failed(errno::EIO, "it cannot be reached"));
        }
        if node.full {
            return Err(failed(errno::ENOSPC, "its disk is full"));
        }
        match (node.replicas.get_mut(&block), existing) {
            (None, None) => {
                node.replicas.insert(
                    block,
                    Replica {
                        generation,
                        ..Replica::default()
                    },
                );
                Ok(())
            }
            (Some(_), None) => Err(failed(errno::EEXIST, "the block is there")),
            (None, Some(_)) => Err(failed(errno::ENOENT, "no such block")),
            (Some(replica), Some((least, length))) => {
                if replica.generation < least || replica.generation > generation {
                    return Err(failed(errno::ESTALE, "stale generation"));
                }
                if length > replica.data.len() as u64 {
                    return Err(failed(errno::ESTALE, "it lost bytes"));
                }
                replica.generation = generation;
                replica.data.truncate(length as usize);
                replica.finished = false;
                Ok(())
            }
        }
    }

    /// Who failed; `None`: the node itself died.
    fn packet(
        &mut self,
        head: NodeId,
        open: &Open,
        offset: u64,
        checksums: &[u32],
        sync: bool,
        body: &Bytes,
    ) -> Option<Vec<(NodeId, Failure)>> {
        let known = self
            .files
            .values()
            .flat_map(|file| file.blocks.values())
            .find(|block| block.id == open.block);
        if let Some(known) = known
            && (known.generation != open.generation || known.members != open.members)
        {
            self.wrong.push(format!(
                "packet for {} under {} with {:?}, committed is {} with {:?}",
                open.block, open.generation, open.members, known.generation, known.members
            ));
        }
        if offset + body.len() as u64 > open.block_size {
            self.wrong
                .push(format!("packet leaves block {}", open.block));
        }
        let mut pieces = Vec::new();
        let mut rest = &body[..];
        let mut at = offset as usize;
        while !rest.is_empty() {
            let (piece, later) = rest.split_at((CHUNK - at % CHUNK).min(rest.len()));
            pieces.push(crc32c::crc32c(piece));
            at += piece.len();
            rest = later;
        }
        if pieces != checksums {
            self.wrong
                .push(format!("packet for {} has wrong checksums", open.block));
        }
        let mut out = Vec::new();
        for member in &open.members {
            let node = self.nodes.get_mut(member).unwrap();
            // Who dies here has written half of the packet.
            let mut body = &body[..];
            match &mut node.dies_at_packet {
                Some(0) => {
                    node.dies_at_packet = None;
                    node.dead = true;
                    body = &body[..body.len() / 2];
                }
                Some(n) => *n -= 1,
                None => {}
            }
            if let Some(replica) = node.replicas.get_mut(&open.block) {
                let end = offset as usize + body.len();
                if replica.data.len() < end {
                    replica.data.resize(end, 0);
                }
                replica.data[offset as usize..end].copy_from_slice(body);
                if sync && !node.dead {
                    replica.on_disk.clone_from(&replica.data);
                }
            }
            if node.dead {
                if *member == head {
                    return None;
                }
                out.push((*member, failed(errno::EIO, "it died")));
            }
        }
        Some(out)
    }
}
