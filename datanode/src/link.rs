//! The link to one NameNode: registration, reports, heartbeats, orders.

mod copy;
mod reporter;

#[cfg(test)]
pub(crate) use reporter::Change;
pub(crate) use reporter::Reporter;

use crate::error::Error;
use crate::metrics::{add, count};
use crate::server::Context;
use crate::store::detached;
use boomfs_io::{ReadHalf, WriteHalf, watch};
use boomfs_wire::frame::{FrameError, read_message, write_message};
use boomfs_wire::{BlockId, FromNameNode, Order, Peer, ToNameNode};
use copy::Copier;
use reporter::{Batch, Queue};
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::BufReader;
use tokio::sync::mpsc;

const CONNECT: Duration = Duration::from_secs(2);
const HANDSHAKE: Duration = Duration::from_secs(5);
/// For a message on its way out.
const SEND: Duration = Duration::from_secs(10);
const HEARTBEAT: Duration = Duration::from_secs(1);
/// A full report without need, to mend what a fault may have left wrong.
const FULL_REPORT: Duration = Duration::from_secs(3600);
/// Pause between attempts to connect: from the first, doubled up to the second.
const BACKOFF_MS: (u64, u64) = (100, 2000);
/// Replicas in one part of a full report.
const PART: usize = 10_000;
/// Orders that were received and not obeyed yet; beyond, the NameNode waits.
const MAX_ORDERS: usize = 256;
/// A NameNode refuses with ESTALE whoever belongs to another cluster.
const OTHER_CLUSTER: i32 = crate::errno::ESTALE;

/// The link to one NameNode.
pub(crate) struct Link {
    context: Arc<Context>,
    namenode: String,
    queue: Option<Arc<Queue>>,
    addr: String,
    copier: Arc<Copier>,
}

/// Why a link ended.
enum Ended {
    /// It can be tried again.
    Lost(String),
    /// The DataNode does not belong here.
    Fatal(Error),
}

impl From<FrameError> for Ended {
    fn from(e: FrameError) -> Ended {
        Ended::Lost(e.to_string())
    }
}

impl From<io::Error> for Ended {
    fn from(e: io::Error) -> Ended {
        Ended::Lost(e.to_string())
    }
}

impl From<boomfs_io::Elapsed> for Ended {
    fn from(e: boomfs_io::Elapsed) -> Ended {
        Ended::Lost(e.to_string())
    }
}

impl Link {
    /// A link to the NameNode at an address, which is number `at` in the configuration.
    pub fn new(context: Arc<Context>, namenode: String, at: usize, addr: String) -> Link {
        let queue = context.reporter.queues().get(at).cloned();
        let copier = Arc::new(Copier::new(context.clone()));
        Link {
            context,
            namenode,
            queue,
            addr,
            copier,
        }
    }

    /// Keeps the link up until told to stop.
    pub async fn run(self, mut stop: watch::Receiver<bool>) {
        let mut failures = 0u32;
        loop {
            let mut welcomed = false;
            let ended = tokio::select! {
                biased;
                _ = stop.wait_for(|s| *s) => return,
                ended = self.once(&mut welcomed) => ended,
            };
            match ended {
                Ended::Fatal(error) => {
                    self.context.store.shared().fail(error);
                    return;
                }
                Ended::Lost(why) => {
                    // The first failure of a row is worth a line; a NameNode that is down is not
                    // worth one every two seconds.
                    if welcomed || failures == 0 {
                        tracing::warn!("NameNode at {}: {why}; trying again", self.namenode);
                    }
                    failures = if welcomed {
                        0
                    } else {
                        failures.saturating_add(1)
                    };
                }
            }
            let most = (BACKOFF_MS.0 << failures.min(8)).min(BACKOFF_MS.1);
            let wait = most / 2 + self.context.io.random_u64() % (most / 2 + 1);
            tokio::select! {
                biased;
                _ = stop.wait_for(|s| *s) => return,
                () = self.context.io.sleep(Duration::from_millis(wait)) => {}
            }
        }
    }

    async fn once(&self, welcomed: &mut bool) -> Ended {
        match self.session(welcomed).await {
            Ok(()) => Ended::Lost("the connection was closed".into()),
            Err(ended) => ended,
        }
    }

    async fn session(&self, welcomed: &mut bool) -> Result<(), Ended> {
        let io = &self.context.io;
        let stream = io.connect(&self.namenode, CONNECT).await?;
        let (reader, mut writer) = stream.into_split();
        let mut reader = BufReader::new(reader);
        let ballot = io
            .timeout(HANDSHAKE, self.handshake(&mut reader, &mut writer))
            .await??;
        self.context
            .store
            .obeys(ballot)
            .await
            .map_err(Ended::Fatal)?;
        *welcomed = true;
        self.context.welcomed.set(true);
        tracing::info!("NameNode at {}: welcomed", self.namenode);
        if let Some(queue) = &self.queue {
            queue.set_leads(ballot > 0);
        }
        let (orders, received) = mpsc::channel(MAX_ORDERS);
        let mut reading = tokio::spawn(read_orders(reader, orders));
        let obeying = tokio::spawn(self.clone_for_orders().obey_all(received));
        let ended = tokio::select! {
            biased;
            read = &mut reading => match read {
                Ok(Err(e)) => Err(e.into()),
                _ => Ok(()),
            },
            spoken = self.speak(&mut writer) => spoken,
        };
        reading.abort();
        if let Some(queue) = &self.queue {
            queue.set_leads(false);
        }
        // Orders that were received are obeyed: their sender counts on it.
        drop(obeying);
        ended
    }

    fn clone_for_orders(&self) -> Orders {
        Orders {
            queue: self.queue.clone(),
            context: self.context.clone(),
            copier: self.copier.clone(),
            namenode: self.namenode.clone(),
        }
    }

    async fn handshake(
        &self,
        reader: &mut BufReader<ReadHalf>,
        writer: &mut WriteHalf,
    ) -> Result<u64, Ended> {
        let identity = self.context.store.identity().await;
        let (capacity, free) = self.context.store.shared().room.report();
        let hello = ToNameNode::Hello {
            cluster: (identity.cluster.0 != 0).then_some(identity.cluster),
            peer: Peer::DataNode {
                node: identity.node,
                nonce: identity.nonce,
                incarnation: identity.incarnation,
                addr: self.addr.clone(),
                capacity,
                free,
            },
        };
        write_message(writer, &hello, &[]).await?;
        match read_message::<FromNameNode, _>(reader).await? {
            Some((
                FromNameNode::Welcome {
                    cluster,
                    node,
                    ballot,
                    ..
                },
                _,
            )) => {
                let joined = self.context.store.join(cluster, node, &self.namenode).await;
                joined.map_err(Ended::Fatal)?;
                Ok(ballot)
            }
            Some((FromNameNode::Refused { failure }, _)) if failure.errno == OTHER_CLUSTER => {
                Err(Ended::Fatal(Error::OtherCluster {
                    path: self.context.store.shared().names.root().to_path_buf(),
                    namenode: self.namenode.clone(),
                    reason: failure.to_string(),
                }))
            }
            Some((FromNameNode::Refused { failure }, _)) => {
                Err(Ended::Lost(format!("refused: {failure}")))
            }
            Some(_) => Err(Ended::Lost(
                "answered the handshake with something else".into(),
            )),
            None => Err(Ended::Lost("closed the connection in the handshake".into())),
        }
    }

    /// Reports, changes and heartbeats, until the connection fails.
    async fn speak(&self, writer: &mut WriteHalf) -> Result<(), Ended> {
        let Some(queue) = &self.queue else {
            return Ok(());
        };
        let io = &self.context.io;
        let mut full_at = None;
        let mut beat_at = None;
        loop {
            let mut batch = queue.take();
            let now = io.mono_ns();
            let due = full_at
                .is_none_or(|at: u64| Duration::from_nanos(now.saturating_sub(at)) >= FULL_REPORT);
            if batch.full || due {
                self.report(writer, std::mem::take(&mut batch.changes))
                    .await?;
                full_at = Some(now);
            } else if !batch.changes.is_empty() {
                self.changes(writer, &batch).await?;
            }
            queue.sent(batch.number);
            let now = io.mono_ns();
            let since = beat_at.map_or(HEARTBEAT, |at: u64| {
                Duration::from_nanos(now.saturating_sub(at))
            });
            let mut wait = HEARTBEAT.saturating_sub(since);
            if wait.is_zero() {
                let (capacity, free) = self.context.store.shared().room.report();
                self.send(writer, &ToNameNode::Heartbeat { capacity, free })
                    .await?;
                beat_at = Some(now);
                wait = HEARTBEAT;
            }
            tokio::select! {
                biased;
                () = queue.urgent() => {}
                () = io.sleep(wait) => {}
            }
        }
    }

    async fn send(&self, writer: &mut WriteHalf, message: &ToNameNode) -> Result<(), Ended> {
        let sent = self
            .context
            .io
            .timeout(SEND, write_message(writer, message, &[]))
            .await;
        Ok(sent??)
    }

    /// A full report, in parts, then what the changes say of replicas that are gone.
    async fn report(
        &self,
        writer: &mut WriteHalf,
        changes: Vec<(BlockId, reporter::Change)>,
    ) -> Result<(), Ended> {
        let replicas = self.context.store.report();
        let parts = replicas.len().div_ceil(PART).max(1);
        for part in 0..parts {
            let some = replicas
                .iter()
                .skip(part * PART)
                .take(PART)
                .copied()
                .collect();
            let message = ToNameNode::Report {
                replicas: some,
                first: part == 0,
                last: part + 1 == parts,
            };
            self.send(writer, &message).await?;
        }
        // What changed before the report is in it, and what is not in it is gone.
        drop(changes);
        Ok(())
    }

    async fn changes(&self, writer: &mut WriteHalf, batch: &Batch) -> Result<(), Ended> {
        for some in batch.changes.chunks(PART) {
            let mut replicas = Vec::new();
            let mut gone = Vec::new();
            for (block, change) in some {
                match change {
                    reporter::Change::There(info) => replicas.push(*info),
                    reporter::Change::Gone => gone.push(*block),
                }
            }
            self.send(writer, &ToNameNode::Received { replicas, gone })
                .await?;
        }
        Ok(())
    }
}

/// Reads what the NameNode says, until the connection ends.
async fn read_orders(
    mut reader: BufReader<ReadHalf>,
    orders: mpsc::Sender<(u64, Word)>,
) -> Result<(), FrameError> {
    while let Some((message, _)) = read_message::<FromNameNode, _>(&mut reader).await? {
        let word = match message {
            FromNameNode::Order { ballot, order } => (ballot, Word::Order(order)),
            FromNameNode::Leads { ballot } => (ballot, Word::Leads),
            _ => continue,
        };
        if orders.send(word).await.is_err() {
            break;
        }
    }
    Ok(())
}

/// What a NameNode says to a DataNode.
enum Word {
    Order(Order),
    /// It leads now, and wants a full report.
    Leads,
}

/// Obeys what one NameNode orders.
struct Orders {
    queue: Option<Arc<Queue>>,
    context: Arc<Context>,
    copier: Arc<Copier>,
    namenode: String,
}

impl Orders {
    async fn obey_all(self, mut received: mpsc::Receiver<(u64, Word)>) {
        while let Some((ballot, word)) = received.recv().await {
            match self.context.store.obeys(ballot).await {
                Ok(true) => match word {
                    Word::Order(order) => self.obey(order).await,
                    Word::Leads => {
                        tracing::info!("NameNode at {}: leads, ballot {ballot}", self.namenode);
                        if let Some(queue) = &self.queue {
                            queue.set_leads(true);
                            queue.want_full();
                        }
                    }
                },
                Ok(false) => {
                    count(&self.context.metrics.orders_stale);
                    tracing::warn!(
                        "NameNode at {}: ignored an order of the old ballot {ballot}",
                        self.namenode
                    );
                }
                Err(e) => tracing::error!("an order was not obeyed: {e}"),
            }
        }
    }

    async fn obey(&self, order: Order) {
        add(&self.context.metrics.orders, 1);
        match order {
            Order::Copy {
                block,
                generation,
                length,
                target,
            } => self.copier.start(block, generation, length, target),
            Order::Delete { blocks } => {
                let store = self.context.store.clone();
                let done = detached(async move { store.delete(&blocks).await }).await;
                if let Err(e) = done {
                    tracing::warn!("replicas were not deleted: {e}");
                }
            }
        }
    }
}
