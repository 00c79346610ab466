//! Reading bytes of a file from their replicas.
//!
//! Every chunk is verified. A replica that fails in any way is followed by the next; when all failed the NameNode is
//! asked again where they are, until the deadline.

use crate::Error;
use crate::layout::{Layout, Places};
use crate::link::Link;
use crate::pool::{Pool, Trouble};
use crate::retry::{Backoff, Deadline};
use crate::{errno, limits};
use boomfs_io::Io;
use boomfs_wire::{
    BlockId, CHUNK, FromDataNode, Generation, LocatedBlock, MAX_READ, NodeAddr, ToDataNode,
};
use bytes::{Bytes, BytesMut};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

/// What fetching needs of its client.
pub struct Fetch<'a> {
    pub io: &'a Io,
    pub link: &'a Arc<Link>,
    pub pool: &'a Pool,
    /// Orders replicas that are equally near; stable for a reader.
    pub seed: u64,
    pub deadline: Deadline,
}

/// What the writer of a file knows better than the NameNode.
#[derive(Clone, Debug, Default)]
pub struct Written {
    /// Length of the file, bytes.
    pub size: u64,
    /// Block size of the file, bytes.
    pub block_size: u64,
    /// `blocks` holds all that there are.
    pub complete: bool,
    /// Blocks that it wrote to, by offset.
    pub blocks: BTreeMap<u64, LocatedBlock>,
}

/// Why the replicas of a block gave no bytes.
struct NoReplica {
    reasons: Vec<String>,
    /// All answered, so that asking them again is of little use.
    all_answered: bool,
    /// The deadline passed before all were asked.
    cut_short: bool,
}

impl Fetch<'_> {
    /// The bytes of a range as far as the file goes; holes are zeros. `written` is asked before every try.
    pub async fn range(
        &self,
        layout: &Layout,
        what: &str,
        range: Range<u64>,
        written: Option<&(dyn Fn() -> Written + Sync)>,
    ) -> Result<Bytes, Error> {
        let mut backoff = Backoff::new();
        let mut wrong_rounds = 0;
        let mut why = String::new();
        loop {
            let places = self.places(layout, &range, written).await?;
            let end = range.end.min(places.size);
            if range.start >= end {
                return Ok(Bytes::new());
            }
            let failed = match self.gather(&places, range.start..end).await {
                Ok(bytes) => return Ok(bytes),
                Err(failed) => failed,
            };
            layout.ask_again();
            wrong_rounds += u32::from(failed.all_answered);
            // The last round may end at the deadline; the one before says more then.
            if !failed.cut_short || why.is_empty() {
                why = failed.reasons.join("; ");
            }
            if failed.all_answered && wrong_rounds >= limits::READ_ROUNDS {
                let why = format!(
                    "no replica has right bytes: {why}; see `boomfs status` for what is missing"
                );
                return Err(Error::Data {
                    errno: errno::EIO,
                    what: what.to_owned(),
                    why,
                });
            }
            if !backoff.wait_within(self.io, self.deadline).await {
                return Err(Error::TimedOut {
                    what: what.to_owned(),
                    within: self.deadline.span(),
                    who: why,
                });
            }
        }
    }

    /// What the NameNode knows, under what the writer knows.
    async fn places(
        &self,
        layout: &Layout,
        range: &Range<u64>,
        written: Option<&(dyn Fn() -> Written + Sync)>,
    ) -> Result<Arc<Places>, Error> {
        let Some(written) = written else {
            return layout.places(self.io, self.link, range.clone()).await;
        };
        let Written {
            size,
            block_size,
            complete,
            blocks,
        } = written();
        let mut first = range.start - range.start % block_size.max(1);
        let mut known = complete;
        while !known && blocks.contains_key(&first) {
            first = first.saturating_add(block_size);
            known = first >= range.end;
        }
        let mut places = Places {
            size,
            block_size,
            blocks,
        };
        if !known {
            let asked = layout.places(self.io, self.link, range.clone()).await?;
            for (start, block) in &asked.blocks {
                places.blocks.entry(*start).or_insert_with(|| block.clone());
            }
        }
        Ok(Arc::new(places))
    }

    async fn gather(&self, places: &Places, range: Range<u64>) -> Result<Bytes, NoReplica> {
        let mut gathered = BytesMut::new();
        let mut at = range.start;
        while at < range.end {
            let block_start = at - at % places.block_size;
            let block_end = block_start.saturating_add(places.block_size).min(range.end);
            let block = places.blocks.get(&block_start);
            let data_end = block
                .map_or(0, |block| block_start + block.length.min(places.block_size))
                .min(block_end);
            if let Some(block) = block
                && at < data_end
            {
                let end = data_end.min(at + MAX_READ);
                let bytes = self.any_replica(block, at - block_start, end - at).await?;
                if at == range.start && end == range.end {
                    return Ok(bytes);
                }
                gathered.extend_from_slice(&bytes);
                at = end;
            } else {
                let zeros = usize::try_from(block_end - at).unwrap_or(usize::MAX);
                gathered.resize(gathered.len() + zeros, 0);
                at = block_end;
            }
        }
        Ok(gathered.freeze())
    }

    /// Bytes of one block from the first replica that has them.
    async fn any_replica(
        &self,
        block: &LocatedBlock,
        offset: u64,
        len: u64,
    ) -> Result<Bytes, NoReplica> {
        let mut failed = NoReplica {
            reasons: Vec::new(),
            all_answered: true,
            cut_short: false,
        };
        if block.nodes.is_empty() {
            failed.all_answered = false;
            failed
                .reasons
                .push(format!("block {} has no live replica", block.block));
        }
        for node in self.nearest_first(&block.nodes) {
            let Some(left) = self.deadline.left(self.io) else {
                failed.cut_short = true;
                failed.all_answered = false;
                break;
            };
            let within = left.min(limits::READ_DEADLINE);
            let want = Want {
                block: block.block,
                generation: block.generation,
                offset,
                len,
            };
            match read_replica(self.io, self.link, self.pool, node, want, within).await {
                Ok((bytes, _)) if bytes.len() as u64 == len => return Ok(bytes),
                Ok((bytes, length)) => failed.reasons.push(format!(
                    "DataNode {} at {} has only {} of {len} bytes at {offset} of block {}, its replica is {length} long",
                    node.node,
                    node.addr,
                    bytes.len(),
                    block.block
                )),
                Err(trouble) => {
                    failed.all_answered &= !matches!(trouble, Trouble::Broken(_));
                    failed.reasons.push(format!(
                        "block {} from DataNode {} at {}: {trouble}",
                        block.block, node.node, node.addr
                    ));
                }
            }
        }
        Err(failed)
    }

    /// This host first, then in an order of the reader's own; who failed a moment ago comes last.
    fn nearest_first<'n>(&self, nodes: &'n [NodeAddr]) -> Vec<&'n NodeAddr> {
        let mut nodes: Vec<&NodeAddr> = nodes.iter().collect();
        nodes.sort_by_key(|node| {
            let shuffled = (node.node.0 ^ self.seed)
                .wrapping_mul(0x9e37_79b9_7f4a_7c15)
                .rotate_left(29);
            (
                self.pool.is_demoted(&node.addr),
                !is_loopback(&node.addr),
                shuffled.wrapping_mul(self.seed | 1),
            )
        });
        nodes
    }
}

fn is_loopback(addr: &str) -> bool {
    addr.starts_with("127.") || addr.starts_with("localhost:") || addr.starts_with("[::1]")
}

/// A range of a block.
#[derive(Clone, Copy, Debug)]
pub struct Want {
    pub block: BlockId,
    pub generation: Generation,
    pub offset: u64,
    pub len: u64,
}

/// Bytes of a block from one replica, verified, and the length of that replica. Fewer bytes than wanted when the
/// replica ends before.
pub async fn read_replica(
    io: &Io,
    link: &Arc<Link>,
    pool: &Pool,
    node: &NodeAddr,
    want: Want,
    within: std::time::Duration,
) -> Result<(Bytes, u64), Trouble> {
    let Want {
        block,
        generation,
        offset,
        len,
    } = want;
    let message = ToDataNode::Read {
        cluster: link.cluster(),
        block,
        generation,
        offset,
        length: len,
    };
    let (mut conn, answer, body) = pool.call(&node.addr, &message, within).await?;
    let FromDataNode::Data {
        start,
        checksums,
        length,
    } = answer
    else {
        return Err(Trouble::Corrupt(
            "it answered a read with something else; is it of this version?".to_owned(),
        ));
    };
    match verified(start, &checksums, &body, offset, len) {
        Ok(bytes) => {
            pool.give_back(conn);
            Ok((bytes, length))
        }
        Err(why) => {
            tracing::warn!(node = %node.node, block = %block, "bad bytes from a replica: {why}");
            // Its own check decides; without an answer the connection is not used again.
            let _ = conn
                .send(
                    io,
                    &ToDataNode::Suspect { block },
                    &[],
                    limits::READ_DEADLINE,
                )
                .await;
            pool.demote(&node.addr);
            Err(Trouble::Corrupt(why))
        }
    }
}

/// Checks the chunks and gives the wanted part of them.
fn verified(
    start: u64,
    checksums: &[u32],
    body: &Bytes,
    offset: u64,
    len: u64,
) -> Result<Bytes, String> {
    let chunk = CHUNK as u64;
    if !start.is_multiple_of(chunk) || start > offset {
        return Err(format!("its chunks start at {start}, asked was {offset}"));
    }
    if body.chunks(CHUNK).len() != checksums.len() {
        return Err(format!(
            "{} bytes came with {} checksums",
            body.len(),
            checksums.len()
        ));
    }
    for (at, (bytes, sum)) in body.chunks(CHUNK).zip(checksums).enumerate() {
        if crc32c::crc32c(bytes) != *sum {
            return Err(format!(
                "the chunk at {} does not match its checksum",
                start + at as u64 * chunk
            ));
        }
    }
    let here = |at: u64| {
        usize::try_from(at - start)
            .unwrap_or(usize::MAX)
            .min(body.len())
    };
    Ok(body.slice(here(offset)..here(offset.saturating_add(len))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wanted_part_of_right_chunks() {
        let body = Bytes::from((0..5000_u32).map(|n| n as u8).collect::<Vec<_>>());
        let sums: Vec<u32> = body.chunks(CHUNK).map(crc32c::crc32c).collect();
        assert_eq!(
            verified(8192, &sums, &body, 8200, 10),
            Ok(body.slice(8..18))
        );
        assert_eq!(
            verified(8192, &sums, &body, 13_000, 900),
            Ok(body.slice(4808..5000))
        );
        assert_eq!(verified(8192, &sums, &body, 20_000, 5), Ok(Bytes::new()));
    }

    #[test]
    fn wrong_chunks_are_named() {
        let body = Bytes::from(vec![3; 5000]);
        let mut sums: Vec<u32> = body.chunks(CHUNK).map(crc32c::crc32c).collect();
        assert_eq!(
            verified(4096, &sums, &body, 0, 1),
            Err("its chunks start at 4096, asked was 0".to_owned())
        );
        sums[1] ^= 1;
        let why = "the chunk at 4096 does not match its checksum".to_owned();
        assert_eq!(verified(0, &sums, &body, 0, 1), Err(why));
        sums.pop();
        assert_eq!(
            verified(0, &sums, &body, 0, 1),
            Err("5000 bytes came with 1 checksums".to_owned())
        );
    }
}
