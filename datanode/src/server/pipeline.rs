//! A pipeline: what comes is written here and passed on to the next member at the same time.

use super::Context;
use crate::errno::{EBADMSG, EHOSTUNREACH, EINVAL, EIO, ETIMEDOUT, Res, fail};
use crate::metrics::count;
use crate::store::{Writer, detached, packet_matches};
use boomfs_io::{Io, ReadHalf, WriteHalf};
use boomfs_wire::frame::{read_message, write_message};
use boomfs_wire::{
    BlockId, ClusterId, Failure, FromDataNode, Generation, MAX_READ, NodeAddr, NodeId, ToDataNode,
};
use bytes::Bytes;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::BufReader;

/// For the connection to the next member.
const CONNECT: Duration = Duration::from_secs(2);
/// For the whole of an open, at its first member.
const OPEN: Duration = Duration::from_secs(5);
/// For a packet or close, at its first member.
const PACKET: Duration = Duration::from_secs(10);

type Failed = Vec<(NodeId, Failure)>;

/// A connection to another DataNode with a pipeline on it.
pub(crate) struct Downstream {
    node: NodeAddr,
    reader: BufReader<ReadHalf>,
    writer: WriteHalf,
}

impl Downstream {
    /// Connects.
    pub async fn connect(io: &Io, node: &NodeAddr, deadline: Duration) -> Res<Downstream> {
        let stream = io.connect(&node.addr, deadline.min(CONNECT)).await;
        let stream = stream.map_err(|e| {
            fail(
                EHOSTUNREACH,
                format!("node {} at {}: cannot connect: {e}", node.node, node.addr),
            )
        })?;
        let (reader, writer) = stream.into_split();
        Ok(Downstream {
            node: node.clone(),
            reader: BufReader::new(reader),
            writer,
        })
    }

    /// Whom it leads to.
    pub fn node(&self) -> &NodeAddr {
        &self.node
    }

    /// Sends a message and waits for its answer. After an error the connection is of no use.
    pub async fn ask(
        &mut self,
        io: &Io,
        message: &ToDataNode,
        body: &[u8],
        deadline: Duration,
    ) -> Res<FromDataNode> {
        let exchange = async {
            write_message(&mut self.writer, message, body).await?;
            read_message::<FromDataNode, _>(&mut self.reader).await
        };
        let NodeAddr { node, addr } = &self.node;
        match io.timeout(deadline, exchange).await {
            Err(e) => Err(fail(
                ETIMEDOUT,
                format!("node {node} at {addr}: no answer: {e}"),
            )),
            Ok(Err(e)) => Err(fail(EHOSTUNREACH, format!("node {node} at {addr}: {e}"))),
            Ok(Ok(None)) => Err(fail(
                EHOSTUNREACH,
                format!("node {node} at {addr}: closed the connection"),
            )),
            Ok(Ok(Some((FromDataNode::Failed(failure), _)))) => Err(failure),
            Ok(Ok(Some((answer, _)))) => Ok(answer),
        }
    }
}

/// Members nearer to the end wait less, so that who names a failure is the one who saw it.
/// `behind` counts the members behind this one.
fn within(whole: Duration, step: Duration, behind: usize) -> Duration {
    let steps = u32::try_from(3usize.saturating_sub(behind)).unwrap_or(0);
    whole.saturating_sub(step.saturating_mul(steps)).max(step)
}

/// An open pipeline, as one member sees it.
pub(crate) struct Pipeline {
    context: Arc<Context>,
    me: NodeId,
    writer: Writer,
    copy: bool,
    next: Option<Downstream>,
    /// Members behind this one.
    behind: usize,
    /// Members that failed since the open.
    failed: Failed,
}

/// What [`ToDataNode::OpenPipeline`] says.
struct Request {
    cluster: ClusterId,
    block: BlockId,
    generation: Generation,
    existing: Option<(Generation, u64)>,
    block_size: u64,
    node: NodeId,
    rest: Vec<NodeAddr>,
    copy: bool,
}

impl Request {
    fn from(message: ToDataNode) -> Option<Request> {
        let ToDataNode::OpenPipeline {
            cluster,
            block,
            generation,
            existing,
            block_size,
            node,
            rest,
            copy,
        } = message
        else {
            return None;
        };
        Some(Request {
            cluster,
            block,
            generation,
            existing,
            block_size,
            node,
            rest,
            copy,
        })
    }

    fn for_next(&self, node: NodeId, rest: &[NodeAddr]) -> ToDataNode {
        ToDataNode::OpenPipeline {
            cluster: self.cluster,
            block: self.block,
            generation: self.generation,
            existing: self.existing,
            block_size: self.block_size,
            node,
            rest: rest.to_vec(),
            copy: self.copy,
        }
    }
}

/// What became of the members behind.
#[derive(Default)]
struct Behind {
    next: Option<Downstream>,
    members: Vec<NodeId>,
    failed: Failed,
}

impl Pipeline {
    /// Opens the pipeline here and at the members behind, at the same time.
    pub async fn open(context: &Arc<Context>, open: ToDataNode) -> Res<(Pipeline, FromDataNode)> {
        let Some(request) = Request::from(open) else {
            return Err(fail(EINVAL, "this message opens no pipeline"));
        };
        let me = context.check_cluster(request.cluster).await?;
        if me != request.node {
            return Err(fail(
                EINVAL,
                format!("this is node {me}, not node {}", request.node),
            ));
        }
        let deadline = within(OPEN, Duration::from_secs(1), request.rest.len());
        let request = Arc::new(request);
        let here = context.io.timeout(
            deadline,
            detached(open_here(context.clone(), request.clone())),
        );
        let (here, behind) = tokio::join!(biased; here, open_behind(context, &request, deadline));
        let here = here.map_err(|e| {
            fail(
                ETIMEDOUT,
                format!("block {}: opening it: {e}", request.block),
            )
        })?;
        let writer = here?;
        count(&context.metrics.pipelines);
        let mut members = vec![me];
        members.extend(&behind.members);
        let opened = FromDataNode::Opened {
            members,
            failed: behind.failed,
        };
        let pipeline = Pipeline {
            context: context.clone(),
            me,
            writer,
            copy: request.copy,
            behind: behind.members.len(),
            next: behind.next,
            failed: Vec::new(),
        };
        Ok((pipeline, opened))
    }

    /// Writes a packet here and behind.
    pub async fn packet(
        &mut self,
        offset: u64,
        checksums: Vec<u32>,
        sync: bool,
        body: Bytes,
    ) -> Res<FromDataNode> {
        let block = self.writer.replica.block;
        if body.len() as u64 > MAX_READ {
            return Err(fail(
                EINVAL,
                format!(
                    "block {block}: a packet of {} bytes is over the limit",
                    body.len()
                ),
            ));
        }
        if !packet_matches(offset, &body, &checksums) {
            count(&self.context.metrics.bad_packets);
            let why =
                format!("block {block}: the packet at byte {offset} does not match its checksums");
            return Err(fail(EBADMSG, why));
        }
        let deadline = within(PACKET, Duration::from_secs(2), self.behind);
        let writer = self.writer.clone();
        let (data, crcs) = (body.clone(), checksums.clone());
        let here = detached(async move {
            writer
                .replica
                .write(writer.token, offset, data, &crcs)
                .await?;
            if sync {
                writer.replica.sync().await?;
            }
            Ok(())
        });
        let message = ToDataNode::Packet {
            offset,
            checksums,
            sync,
        };
        Ok(self.both(here, &message, &body, deadline).await)
    }

    /// Does something here and has it done behind; names those that failed.
    async fn both(
        &mut self,
        here: impl Future<Output = Res<()>>,
        message: &ToDataNode,
        body: &[u8],
        deadline: Duration,
    ) -> FromDataNode {
        let io = self.context.io.clone();
        let here = io.timeout(deadline, here);
        let behind = ask_behind(&io, &mut self.next, message, body, deadline);
        let (here, behind) = tokio::join!(biased; here, behind);
        let mut failed = Vec::new();
        match here {
            Ok(Ok(())) => {}
            Ok(Err(failure)) => failed.push((self.me, failure)),
            Err(e) => failed.push((
                self.me,
                fail(ETIMEDOUT, format!("the disk did not answer: {e}")),
            )),
        }
        if !behind.is_empty() {
            self.next = None;
        }
        self.failed.extend(behind);
        failed.extend(self.failed.iter().cloned());
        FromDataNode::Written { failed }
    }

    /// Closes: the replica is finished, and the NameNodes know it, before this is answered.
    pub async fn close(mut self) -> Res<FromDataNode> {
        let context = self.context.clone();
        let (writer, copy) = (self.writer.clone(), self.copy);
        let here = detached(async move {
            let info = if copy {
                let finished = context.store.finish_copy(&writer.replica).await;
                context.store.drop_copy(&writer.replica).await;
                finished?.info()
            } else {
                writer.replica.info()
            };
            if let Some(info) = info {
                let ticket = context.reporter.changed_now(info);
                context.reporter.wait(&context.io, ticket).await;
            }
            Ok(())
        });
        // A copy syncs up to a whole block.
        let deadline = if copy {
            super::TRANSFER
        } else {
            within(PACKET, Duration::from_secs(2), self.behind)
        };
        let closed = self
            .both(here, &ToDataNode::ClosePipeline, &[], deadline)
            .await;
        if let Some(next) = self.next.take() {
            self.context.idle.keep(&self.context.io, next);
        }
        Ok(closed)
    }

    /// The connection has ended without a close: the replica stays as it is, a copy is discarded.
    pub async fn abandon(self) {
        let (context, writer, copy) = (self.context.clone(), self.writer.clone(), self.copy);
        let ended = detached(async move {
            if copy {
                context.store.drop_copy(&writer.replica).await;
            } else if let Some(info) = writer.replica.info() {
                context.reporter.changed(info);
            }
            Ok(())
        });
        // Nothing is left to be told to anyone.
        let _ = ended.await;
    }
}

async fn open_here(context: Arc<Context>, request: Arc<Request>) -> Res<Writer> {
    let Request {
        block,
        generation,
        existing,
        block_size,
        ..
    } = *request;
    if request.copy {
        return context.store.open_copy(block, generation, block_size).await;
    }
    let writer = context
        .store
        .open_block(block, generation, existing, block_size)
        .await?;
    if let Some(info) = writer.replica.info() {
        context.reporter.changed(info);
    }
    Ok(writer)
}

/// Opens the pipeline at the first of the rest that can be reached, which passes it on.
async fn open_behind(context: &Context, request: &Request, deadline: Duration) -> Behind {
    let io = &context.io;
    let mut behind = Behind::default();
    let started = io.mono_ns();
    let mut rest = request.rest.as_slice();
    while let Some((next, others)) = rest.split_first() {
        rest = others;
        let left =
            deadline.saturating_sub(Duration::from_nanos(io.mono_ns().saturating_sub(started)));
        if left.is_zero() {
            behind.failed.push((
                next.node,
                fail(
                    ETIMEDOUT,
                    format!("node {}: not reached in time", next.node),
                ),
            ));
            continue;
        }
        match open_at(context, request, next, others, left).await {
            Ok((downstream, members, failed)) => {
                behind.next = Some(downstream);
                behind.members = members;
                behind.failed.extend(failed);
                return behind;
            }
            Err(failure) => behind.failed.push((next.node, failure)),
        }
    }
    behind
}

async fn open_at(
    context: &Context,
    request: &Request,
    next: &NodeAddr,
    others: &[NodeAddr],
    left: Duration,
) -> Res<(Downstream, Vec<NodeId>, Failed)> {
    let io = &context.io;
    let started = io.mono_ns();
    let open = request.for_next(next.node, others);
    if let Some(mut downstream) = context.idle.take(io, next) {
        match downstream.ask(io, &open, &[], left.min(CONNECT)).await {
            Ok(answer) => return opened(downstream, answer),
            // It may have gone while the connection waited. If it did get this, the same open
            // once more does no harm: it takes over from the first.
            Err(e) if matches!(e.errno, EHOSTUNREACH | ETIMEDOUT) => {}
            Err(failure) => {
                context.idle.keep(io, downstream);
                return Err(failure);
            }
        }
    }
    let left = left.saturating_sub(Duration::from_nanos(io.mono_ns().saturating_sub(started)));
    let mut downstream = Downstream::connect(io, next, left).await?;
    let answer = downstream.ask(io, &open, &[], left).await?;
    opened(downstream, answer)
}

fn opened(downstream: Downstream, answer: FromDataNode) -> Res<(Downstream, Vec<NodeId>, Failed)> {
    match answer {
        FromDataNode::Opened { members, failed } => Ok((downstream, members, failed)),
        other => Err(unexpected(&downstream.node, &other)),
    }
}

async fn ask_behind(
    io: &Io,
    next: &mut Option<Downstream>,
    message: &ToDataNode,
    body: &[u8],
    deadline: Duration,
) -> Failed {
    let Some(downstream) = next else {
        return Vec::new();
    };
    let node = downstream.node.node;
    match downstream.ask(io, message, body, deadline).await {
        Ok(FromDataNode::Written { failed }) => failed,
        Ok(other) => vec![(node, unexpected(&downstream.node, &other))],
        Err(failure) => vec![(node, failure)],
    }
}

fn unexpected(node: &NodeAddr, answer: &FromDataNode) -> Failure {
    let kind = match answer {
        FromDataNode::Opened { .. } => "Opened",
        FromDataNode::Written { .. } => "Written",
        FromDataNode::Data { .. } => "Data",
        FromDataNode::Failed(_) => "Failed",
    };
    fail(
        EIO,
        format!(
            "node {} at {}: answered {kind} to something else",
            node.node, node.addr
        ),
    )
}
