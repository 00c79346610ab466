//! Copying a finished replica to another DataNode, on order.

use crate::errno::{EAGAIN, EBUSY, EIO, Res, fail};
use crate::metrics::count;
use crate::server::{Context, Downstream};
use boomfs_wire::{BlockId, FromDataNode, Generation, MAX_READ, NodeAddr, NodeId, ToDataNode};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Semaphore;

/// Copies at the same time.
const PARALLEL: usize = 4;
/// Copies that wait; beyond, orders are dropped, for they are repeated.
const MAX_WAITING: usize = 1024;
const OPEN: Duration = Duration::from_secs(5);
const PACKET: Duration = Duration::from_secs(10);
const CLOSE: Duration = Duration::from_secs(35);

/// Copies replicas to other DataNodes.
pub(crate) struct Copier {
    context: Arc<Context>,
    running: Arc<Semaphore>,
    known: Mutex<BTreeSet<(BlockId, NodeId)>>,
}

impl Copier {
    /// A copier without work.
    pub fn new(context: Arc<Context>) -> Copier {
        Copier {
            context,
            running: Arc::new(Semaphore::new(PARALLEL)),
            known: Mutex::new(BTreeSet::new()),
        }
    }

    /// Copies in the background. What is on its way already is not copied twice.
    pub fn start(
        self: &Arc<Self>,
        block: BlockId,
        generation: Generation,
        length: u64,
        target: NodeAddr,
    ) {
        let key = (block, target.node);
        {
            let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            if known.len() >= MAX_WAITING || !known.insert(key) {
                return;
            }
        }
        let copier = self.clone();
        tokio::spawn(async move {
            if let Ok(_place) = copier.running.clone().acquire_owned().await {
                match copier.copy(block, generation, length, &target).await {
                    Ok(()) => count(&copier.context.metrics.copies_sent),
                    Err(e) => {
                        tracing::warn!("block {block}: not copied to node {}: {e}", target.node)
                    }
                }
            }
            copier
                .known
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .remove(&key);
        });
    }

    async fn copy(
        &self,
        block: BlockId,
        generation: Generation,
        length: u64,
        target: &NodeAddr,
    ) -> Res<()> {
        let io = &self.context.io;
        let replica = self.context.store.get(block)?;
        let info = replica
            .info()
            .ok_or_else(|| fail(EIO, format!("block {block}: the replica here is bad")))?;
        if info.generation != generation || info.length < length {
            let why = format!(
                "block {block}: ordered generation {generation} of {length} bytes, have {} of {}",
                info.generation, info.length
            );
            return Err(fail(EAGAIN, why));
        }
        let mut downstream = Downstream::connect(io, target, OPEN).await?;
        let open = ToDataNode::OpenPipeline {
            cluster: self.context.store.identity().await.cluster,
            block,
            generation,
            existing: None,
            block_size: replica.layout.block_size,
            node: target.node,
            rest: Vec::new(),
            copy: true,
        };
        downstream.ask(io, &open, &[], OPEN).await?;
        let mut offset = 0;
        while offset < length {
            let chunks = replica
                .read(generation, offset, MAX_READ.min(length - offset))
                .await?;
            if chunks.data.is_empty() {
                return Err(fail(
                    EAGAIN,
                    format!("block {block}: became shorter while it was copied"),
                ));
            }
            offset = chunks.start + chunks.data.len() as u64;
            let packet = ToDataNode::Packet {
                offset: chunks.start,
                checksums: chunks.crcs,
                sync: false,
            };
            written(downstream.ask(io, &packet, &chunks.data, PACKET).await?)?;
        }
        let now = replica.info().map(|i| i.generation);
        if now != Some(generation) {
            // The connection ends without a close, and the target discards the copy.
            return Err(fail(
                EBUSY,
                format!("block {block}: a pipeline was opened while it was copied"),
            ));
        }
        written(
            downstream
                .ask(io, &ToDataNode::ClosePipeline, &[], CLOSE)
                .await?,
        )
    }
}

fn written(answer: FromDataNode) -> Res<()> {
    match answer {
        FromDataNode::Written { failed } => {
            failed.into_iter().next().map_or(Ok(()), |(_, f)| Err(f))
        }
        _ => Err(fail(EIO, "the target answered something else than Written")),
    }
}
