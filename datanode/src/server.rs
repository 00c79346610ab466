//! The block server: connections of clients and of other DataNodes.

mod idle;
mod pipeline;

use crate::errno::{EAGAIN, EINVAL, ETIMEDOUT, Res, fail};
use crate::link::Reporter;
use crate::metrics::{Metrics, count};
use crate::store::{Store, detached};
use boomfs_io::{Io, Listener, ReadHalf, Stream, WriteHalf, watch};
use boomfs_wire::frame::{FrameError, read_message, write_message};
use boomfs_wire::{BlockId, ClusterId, FromDataNode, Generation, MAX_READ, NodeId, ToDataNode};
use bytes::Bytes;
use idle::Idle;
use pipeline::Pipeline;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::BufReader;
use tokio::sync::Semaphore;

pub(crate) use pipeline::Downstream;

/// Connections at the same time.
const MAX_CONNECTIONS: usize = 1024;
/// A connection without a pipeline that says nothing for so long is closed.
const IDLE: Duration = Duration::from_secs(60);
/// The same with a pipeline.
const PIPELINE_IDLE: Duration = Duration::from_secs(600);
/// For a message that has begun, or an answer on its way out.
const TRANSFER: Duration = Duration::from_secs(30);
/// For a read from the disk.
const READ: Duration = Duration::from_secs(10);
/// Replicas that wait to be verified because someone suspects them.
const MAX_SUSPECTS: usize = 64;

/// What the parts of a DataNode share.
pub(crate) struct Context {
    pub io: Io,
    pub store: Arc<Store>,
    pub metrics: Arc<Metrics>,
    pub reporter: Arc<Reporter>,
    /// A NameNode has welcomed this DataNode.
    pub welcomed: watch::Sender<bool>,
    suspects: Mutex<BTreeSet<BlockId>>,
    idle: Idle,
}

impl Context {
    /// The parts of a DataNode, put together.
    pub fn new(
        io: Io,
        store: Arc<Store>,
        metrics: Arc<Metrics>,
        reporter: Arc<Reporter>,
    ) -> Context {
        Context {
            io,
            store,
            metrics,
            reporter,
            welcomed: watch::Sender::new(false),
            suspects: Mutex::new(BTreeSet::new()),
            idle: Idle::default(),
        }
    }

    /// Fails for a peer of another cluster. Answers this node's id.
    pub async fn check_cluster(&self, cluster: ClusterId) -> Res<NodeId> {
        let identity = self.store.identity().await;
        if identity.cluster.0 == 0 {
            return Err(fail(
                EAGAIN,
                "this DataNode has not met its NameNode yet; try again",
            ));
        }
        if identity.cluster != cluster {
            let why = format!(
                "this DataNode is of cluster {}, not of {cluster}",
                identity.cluster
            );
            return Err(fail(EINVAL, why));
        }
        Ok(identity.node)
    }

    /// Verifies a replica in the background; one that is bad reports itself.
    fn suspect(self: &Arc<Self>, block: BlockId) {
        {
            let mut suspects = self.suspects.lock().unwrap_or_else(PoisonError::into_inner);
            if suspects.len() >= MAX_SUSPECTS || !suspects.insert(block) {
                return;
            }
        }
        let context = self.clone();
        tokio::spawn(async move {
            if let Ok(replica) = context.store.get(block)
                && let Err(e) = replica.verify().await
            {
                tracing::warn!("a suspected replica: {e}");
            }
            let mut suspects = context
                .suspects
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            suspects.remove(&block);
        });
    }
}

/// Accepts connections until told to stop.
pub(crate) async fn serve(
    context: Arc<Context>,
    listener: Listener,
    mut stop: watch::Receiver<bool>,
) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let accepted = tokio::select! {
            biased;
            _ = stop.wait_for(|s| *s) => return,
            accepted = listener.accept() => accepted,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(e) => {
                tracing::error!("cannot accept connections any more: {e}");
                return;
            }
        };
        count(&context.metrics.connections);
        let Ok(place) = places.clone().try_acquire_owned() else {
            count(&context.metrics.connections_refused);
            continue;
        };
        let (context, mut stop) = (context.clone(), stop.clone());
        tokio::spawn(async move {
            let mut connection = Connection::new(context, stream);
            let ended = tokio::select! {
                biased;
                _ = stop.wait_for(|s| *s) => Ok(()),
                ended = connection.run() => ended,
            };
            if let Err(e) = ended {
                tracing::debug!("connection of {peer}: {e}");
            }
            connection.end().await;
            drop(place);
        });
    }
}

struct Connection {
    context: Arc<Context>,
    reader: BufReader<ReadHalf>,
    writer: WriteHalf,
    pipeline: Option<Pipeline>,
}

impl Connection {
    fn new(context: Arc<Context>, stream: Stream) -> Connection {
        let (reader, writer) = stream.into_split();
        Connection {
            context,
            reader: BufReader::with_capacity(64 << 10, reader),
            writer,
            pipeline: None,
        }
    }

    async fn run(&mut self) -> Result<(), FrameError> {
        loop {
            let idle = if self.pipeline.is_some() {
                PIPELINE_IDLE
            } else {
                IDLE
            };
            let io = self.context.io.clone();
            // The idle time includes the message's own: a peer that sends a byte now and then
            // does not hold its place for ever.
            let read = io
                .timeout(idle, read_message::<ToDataNode, _>(&mut self.reader))
                .await;
            let (message, body) = match read {
                Err(_) | Ok(Ok(None)) => return Ok(()),
                Ok(Ok(Some(message))) => message,
                Ok(Err(e)) => {
                    if !matches!(e, FrameError::Io(_) | FrameError::Truncated { .. }) {
                        count(&self.context.metrics.malformed_frames);
                    }
                    return Err(e);
                }
            };
            if let Some((answer, body)) = self.handle(message, body).await {
                let sent = io
                    .timeout(TRANSFER, write_message(&mut self.writer, &answer, &body))
                    .await;
                sent.map_err(std::io::Error::from)??;
            }
        }
    }

    async fn handle(&mut self, message: ToDataNode, body: Bytes) -> Option<(FromDataNode, Bytes)> {
        let done = match message {
            ToDataNode::Read {
                cluster,
                block,
                generation,
                offset,
                length,
            } => self.read(cluster, block, generation, offset, length).await,
            ToDataNode::Suspect { block } => {
                self.context.suspect(block);
                return None;
            }
            ToDataNode::Packet {
                offset,
                checksums,
                sync,
            } => match &mut self.pipeline {
                Some(pipeline) => pipeline
                    .packet(offset, checksums, sync, body)
                    .await
                    .map(plain),
                None => Err(no_pipeline()),
            },
            ToDataNode::ClosePipeline => match self.pipeline.take() {
                Some(pipeline) => pipeline.close().await.map(plain),
                None => Err(no_pipeline()),
            },
            open @ ToDataNode::OpenPipeline { .. } => self.open(open).await.map(plain),
        };
        Some(done.unwrap_or_else(|failure| plain(FromDataNode::Failed(failure))))
    }

    async fn open(&mut self, open: ToDataNode) -> Res<FromDataNode> {
        if let Some(before) = self.pipeline.take() {
            before.abandon().await;
        }
        let (pipeline, opened) = Pipeline::open(&self.context, open).await?;
        self.pipeline = Some(pipeline);
        Ok(opened)
    }

    async fn read(
        &self,
        cluster: ClusterId,
        block: BlockId,
        generation: Generation,
        offset: u64,
        length: u64,
    ) -> Res<(FromDataNode, Bytes)> {
        self.context.check_cluster(cluster).await?;
        if length > MAX_READ {
            return Err(fail(
                EINVAL,
                format!("block {block}: a read of {length} bytes is over the limit of {MAX_READ}"),
            ));
        }
        let replica = self.context.store.get(block)?;
        // A task of its own: what a bad chunk sets off has to end.
        let work = detached(async move { replica.read(generation, offset, length).await });
        let chunks = self.context.io.timeout(READ, work).await;
        let chunks = chunks.map_err(|e| {
            fail(
                ETIMEDOUT,
                format!("block {block}: reading from the disk: {e}"),
            )
        })??;
        let answer = FromDataNode::Data {
            start: chunks.start,
            checksums: chunks.crcs,
            length: chunks.length,
        };
        Ok((answer, chunks.data.into()))
    }

    async fn end(&mut self) {
        if let Some(pipeline) = self.pipeline.take() {
            pipeline.abandon().await;
        }
    }
}

fn no_pipeline() -> boomfs_wire::Failure {
    fail(EINVAL, "no pipeline is open on this connection")
}

fn plain(answer: FromDataNode) -> (FromDataNode, Bytes) {
    (answer, Bytes::new())
}
