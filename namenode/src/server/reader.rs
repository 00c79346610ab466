//! Accepting connections and reading from them: messages become events in the engine's queue.

use super::Config;
use super::boot::now;
use super::conn::{self, Conn, Greeting, Item};
use super::inbox::{Inbox, Rows};
use super::outbox::Outbox;
use super::peers::Peers;
use super::transfer;
use crate::codec::input::{self, DataNodeHello, Numbers};
use crate::codec::output::Cluster;
use crate::codec::{ConnId, Inputs, PeerEvents, errno};
use crate::metrics::Metrics;
use crate::store;
use boomfs_io::{Io, Listener, ReadHalf, Stream, watch};
use boomfs_wire::{
    Answer, Caller, Failure, FrameError, FromNameNode, Identity, NodeId, Peer, ReadOp, ReplicaInfo,
    SessionId, ToNameNode, encode_message, read_message,
};
use overlog::Row;
use overlog::api::check_input;
use overlog::ir::{Program, RelId};
use std::future::poll_fn;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;
use tokio::io::{AsyncWriteExt, BufReader};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

/// How long a new connection may take for its Hello.
const HELLO_DEADLINE: Duration = Duration::from_secs(5);

/// How long the rules may take to answer a Hello: as long as a slow disk takes to sync.
const WELCOME_DEADLINE: Duration = Duration::from_secs(60);

/// Clients renew every 3 s and DataNodes send a heartbeat every second.
const IDLE_DEADLINE: Duration = Duration::from_secs(60);

/// An observer may watch in silence.
const OBSERVER_DEADLINE: Duration = Duration::from_secs(24 * 3600);

/// Bytes of events that wait in the queue, at most.
pub const QUEUE_BYTES: usize = 64 << 20;

/// Bursts of events that wait in the queue, at most.
pub const QUEUE_BURSTS: usize = 8_192;

/// Events in a burst, at most.
const BURST: usize = 256;

/// Replicas in one event.
const REPORT_PIECE: usize = 4_096;

/// The most rows that a query is asked to give.
const MAX_QUERY_ROWS: u64 = 10_000_000;

/// The longest query, bytes.
const MAX_QUERY: usize = 64 << 10;

/// Bytes that another NameNode's rules may say in one run.
const MAX_TOLD: usize = 256 << 20;

/// What this NameNode is to clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    /// It serves them.
    Leads,
    /// Another one does, which listens there, as far as is known.
    Follows(Option<String>),
}

/// What readers, writers and the engine share.
#[derive(Debug)]
pub struct Shared {
    /// Clocks, sockets, files.
    pub io: Io,
    /// Settings.
    pub config: Config,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// The rules' events.
    pub inputs: Inputs,
    /// Messages of other NameNodes.
    pub peer_events: PeerEvents,
    /// The rules' declarations.
    pub program: Arc<Program>,
    /// What a Welcome says.
    pub about: Mutex<Cluster>,
    /// This NameNode founded its cluster.
    pub founder: bool,
    /// Whom clients should ask.
    pub role: watch::Sender<Role>,
    /// Where answers go.
    pub outbox: Arc<Outbox>,
    /// What other NameNodes say.
    pub inbox: Arc<Inbox>,
    /// The other NameNodes.
    pub peers: Arc<Peers>,
    /// Checkpoints, for others.
    pub folder: Arc<store::Shared>,
    /// The engine's queue. What came together goes in together, so that it makes one batch and not several.
    pub queue: mpsc::Sender<Vec<Queued>>,
    /// Bytes free in it.
    pub budget: Arc<Semaphore>,
    /// Numbers what arrives.
    pub arrivals: AtomicU64,
    /// Numbers connections.
    pub conns: AtomicU64,
}

impl Shared {
    /// What a Welcome says.
    pub fn about(&self) -> MutexGuard<'_, Cluster> {
        self.about.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where the leader is.
    pub fn not_leader(&self) -> Item {
        let leader = match self.role.get() {
            Role::Leads => None,
            Role::Follows(leader) => leader,
        };
        Item::message(FromNameNode::NotLeader { leader })
    }
}

/// Something for the engine.
#[derive(Debug)]
pub struct Queued {
    /// Who sent it.
    pub conn: ConnId,
    /// What.
    pub what: What,
    /// When it came, monotonic clock, ns.
    pub came_ns: i64,
    /// Its share of the queue's bytes.
    #[expect(dead_code, reason = "held for its drop")]
    pub permit: Option<OwnedSemaphorePermit>,
}

/// What is queued.
#[derive(Debug)]
pub enum What {
    /// A command, as a row of `request`.
    Command {
        /// Its number.
        seq: u64,
        /// The row.
        row: Row,
    },
    /// A question, as a row of `ask`.
    Read {
        /// Its number.
        req: i64,
        /// Whoever asks is content with what this NameNode has applied.
        stale: bool,
        /// The row.
        row: Row,
    },
    /// Some other event.
    Event(RelId, Row),
    /// A Hello that must be decided in the log: of a new session or DataNode.
    Register(RelId, Row),
    /// A query.
    Query {
        /// Its number.
        req: u64,
        /// Its text.
        text: String,
        /// The most rows.
        limit: u64,
        /// It stays.
        watch: bool,
        /// As in a question.
        stale: bool,
    },
    /// Ends a query.
    Cancel {
        /// Its number.
        req: u64,
    },
    /// The connection is gone.
    Closed,
}

impl What {
    /// Bytes that it takes in the queue, about.
    pub fn size(&self) -> usize {
        match self {
            What::Command { row, .. }
            | What::Read { row, .. }
            | What::Event(_, row)
            | What::Register(_, row) => row.as_bytes().len() + 64,
            What::Query { text, .. } => text.len() + 64,
            What::Cancel { .. } | What::Closed => 64,
        }
    }
}

/// Accepts connections until it is dropped.
pub async fn accept(shared: Arc<Shared>, listener: Arc<Listener>) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                let id = ConnId(shared.conns.fetch_add(1, Ordering::Relaxed) + 1);
                Metrics::add(&shared.metrics.connections_total, 1);
                tokio::spawn(serve(shared.clone(), Arc::new(Conn::new(id)), stream, peer));
            }
            Err(e) => {
                tracing::error!("NameNode no longer accepts connections: {e}");
                shared.io.sleep(HELLO_DEADLINE).await;
            }
        }
    }
}

/// Why reading ended.
#[derive(Debug, thiserror::Error)]
enum Gone {
    #[error("{0}")]
    Frame(#[from] FrameError),
    #[error("nothing was heard of it for {0:?}")]
    Silent(Duration),
    #[error("it sent what a {0} does not send")]
    Unexpected(&'static str),
    #[error("{0}")]
    Refused(Failure),
    #[error("the NameNode stops")]
    Stopping,
    #[error("this NameNode does not lead")]
    NotLeader,
}

async fn serve(shared: Arc<Shared>, conn: Arc<Conn>, stream: Stream, peer: String) {
    if !shared
        .outbox
        .join(conn.clone(), shared.config.max_connections)
    {
        refuse_busy(&shared, stream).await;
        return;
    }
    shared
        .metrics
        .connections_open
        .fetch_add(1, Ordering::Relaxed);
    let (read, write) = stream.into_split();
    let writing = tokio::spawn(conn::write(shared.clone(), conn.clone(), write));
    let mut reader = Reader {
        shared: shared.clone(),
        conn: conn.clone(),
        half: BufReader::with_capacity(32 << 10, read),
        burst: Vec::new(),
        stale: false,
    };
    let gone = reader.run().await;
    // What came whole is not lost for what came behind it.
    let _ = reader.pass_on().await;
    match &gone {
        Ok(()) => {}
        Err(
            e @ (Gone::Frame(FrameError::Io(_))
            | Gone::Silent(_)
            | Gone::Stopping
            | Gone::NotLeader),
        ) => {
            tracing::debug!("connection {} of {peer} ended: {e}", conn.id);
        }
        Err(e @ Gone::Refused(_)) => {
            Metrics::add(&shared.metrics.connections_refused, 1);
            tracing::warn!("connection {} of {peer} refused: {e}", conn.id);
        }
        Err(e) => {
            Metrics::add(&shared.metrics.malformed_frames, 1);
            tracing::warn!("connection {} of {peer} closed: {e}", conn.id);
        }
    }
    match gone {
        Err(Gone::Refused(failure)) => {
            conn.push(Item::message(FromNameNode::Refused { failure }));
        }
        Err(Gone::NotLeader) => conn.push(shared.not_leader()),
        _ => {}
    }
    let _ = shared
        .queue
        .send(vec![Queued {
            conn: conn.id,
            what: What::Closed,
            came_ns: now(&shared.io).mono_ns,
            permit: None,
        }])
        .await;
    conn.push(Item::Close);
    let _ = writing.await;
    shared.outbox.leave(conn.id);
    shared
        .metrics
        .connections_open
        .fetch_sub(1, Ordering::Relaxed);
}

/// Tells one connection too many so.
async fn refuse_busy(shared: &Shared, mut stream: Stream) {
    Metrics::add(&shared.metrics.connections_refused, 1);
    let most = shared.config.max_connections;
    let why = format!("the NameNode has {most} connections, which is its limit; try again later");
    let failure = errno::failure(errno::EMFILE, why);
    if let Ok(bytes) = encode_message(&FromNameNode::Refused { failure }, 0) {
        let _ = shared
            .io
            .timeout(HELLO_DEADLINE, stream.write_all(&bytes))
            .await;
    }
}

async fn until_ended(greeting: &mut watch::Receiver<Greeting>) {
    // An error means that the connection is no more, which is an end too.
    let _ = greeting.wait_for(|g| *g == Greeting::Ended).await;
}

/// Gives a burst to the engine; waits while the queue is full.
async fn pass_on(shared: &Shared, burst: &mut Vec<Queued>) -> Result<(), Gone> {
    if burst.is_empty() {
        return Ok(());
    }
    let burst = std::mem::take(burst);
    let sent = shared.queue.send(burst).await;
    sent.map_err(|_| Gone::Stopping)
}

struct Reader {
    shared: Arc<Shared>,
    conn: Arc<Conn>,
    half: BufReader<ReadHalf>,
    /// Events that came since the reader last had to wait.
    burst: Vec<Queued>,
    /// It may be answered from what this NameNode has applied.
    stale: bool,
}

impl Reader {
    async fn run(&mut self) -> Result<(), Gone> {
        let mut ended = self.conn.greeting();
        let Some(hello) = self.next(HELLO_DEADLINE, &mut ended).await? else {
            return Ok(());
        };
        let ToNameNode::Hello { cluster, peer } = hello else {
            return Err(Gone::Unexpected("stranger"));
        };
        let own = self.shared.about().cluster;
        if let Some(theirs) = cluster.filter(|theirs| *theirs != own) {
            let why = format!(
                "this NameNode serves cluster {:016x}, not {:016x}",
                own.0, theirs.0
            );
            return Err(Gone::Refused(errno::failure(errno::ESTALE, why)));
        }
        match peer {
            Peer::Client {
                session,
                nonce,
                name,
            } => {
                self.need_leader()?;
                let session = session.map_or(0, |s| s.0);
                let arrival = self.arrival();
                let row = input::hello_client(arrival, self.conn.id, session, nonce, &name)
                    .map_err(Gone::Refused)?;
                let session = self
                    .greet(
                        self.shared.inputs.hello_client,
                        row,
                        session == 0,
                        &mut ended,
                    )
                    .await?;
                self.client(session, &mut ended).await
            }
            Peer::NameNode {
                nonce,
                addr,
                rules,
                to,
            } => {
                self.meet(nonce, &addr, rules, to)?;
                self.namenode(&mut ended).await
            }
            Peer::Observer { stale } => {
                self.stale = stale;
                if !stale {
                    self.need_leader()?;
                }
                self.conn.welcome(0);
                self.conn.push(Item::message(self.welcome()));
                self.observer(&mut ended).await
            }
            Peer::DataNode {
                node,
                nonce,
                incarnation,
                addr,
                capacity,
                free,
            } => {
                let new = node.0 == 0;
                let hello = DataNodeHello {
                    node: node.0,
                    nonce,
                    incarnation,
                    addr: &addr,
                    capacity,
                    free,
                };
                let row = input::hello_datanode(self.arrival(), self.conn.id, hello)
                    .map_err(Gone::Refused)?;
                let node = self
                    .greet(self.shared.inputs.hello_datanode, row, new, &mut ended)
                    .await?;
                self.datanode(node, &mut ended).await
            }
        }
    }

    fn arrival(&self) -> u64 {
        self.shared.arrivals.fetch_add(1, Ordering::Relaxed) + 1
    }

    fn welcome(&self) -> FromNameNode {
        let about = *self.shared.about();
        FromNameNode::Welcome {
            cluster: about.cluster,
            session: SessionId(0),
            node: NodeId(0),
            ballot: about.ballot,
            block_size: about.block_size,
            replication: about.replication,
        }
    }

    /// Only a NameNode that leads serves this connection.
    fn need_leader(&self) -> Result<(), Gone> {
        // In this order: if it ceases to lead in between, the connection is turned away.
        self.conn.set_needs_leader();
        match self.shared.role.get() {
            Role::Leads => Ok(()),
            Role::Follows(_) => Err(Gone::NotLeader),
        }
    }

    /// Another NameNode says who it is, and whom it takes this one for.
    fn meet(&self, nonce: u64, addr: &str, rules: u64, to: u64) -> Result<(), Gone> {
        let me = self.shared.peers.me();
        let refused = |why: String| Err(Gone::Refused(errno::failure(errno::EINVAL, why)));
        if rules != me.rules {
            return refused(
                "the rules of the two NameNodes differ: run the same release on both".to_owned(),
            );
        }
        if to != 0 && to != me.nonce {
            return refused(format!(
                "there is another NameNode at {}: one with a new data folder has to be admitted in place of the old one",
                me.addr
            ));
        }
        self.shared.peers.heard(nonce, addr);
        self.conn.welcome(0);
        self.conn.push(Item::message(self.welcome()));
        Ok(())
    }

    /// What another NameNode says.
    async fn namenode(&mut self, ended: &mut watch::Receiver<Greeting>) -> Result<(), Gone> {
        let (mut told, mut bytes) = (Rows::new(), 0);
        while let Some(message) = self.next(OBSERVER_DEADLINE, ended).await? {
            match message {
                ToNameNode::Tell { rows, more } => {
                    for row in rows {
                        bytes += row.row.0.len();
                        told.push(self.peer_row(row)?);
                    }
                    if bytes > MAX_TOLD {
                        return Err(Gone::Unexpected("NameNode that knows its limits"));
                    }
                    if !more {
                        Metrics::add(&self.shared.metrics.peer_messages, told.len() as u64);
                        self.shared.inbox.push(std::mem::take(&mut told));
                        bytes = 0;
                        self.shared.inbox.room().await;
                    }
                }
                ToNameNode::FetchState { slot } => self.send_state(slot).await,
                _ => return Err(Gone::Unexpected("NameNode")),
            }
        }
        Ok(())
    }

    fn peer_row(&self, sent: boomfs_wire::PeerRow) -> Result<(RelId, Row), Gone> {
        let unexpected = Gone::Unexpected("NameNode of the same release");
        let Some(rel) = self.shared.peer_events.get(sent.event) else {
            return Err(unexpected);
        };
        let columns = self.shared.program.relation(rel).columns.len();
        match Row::check(sent.row.0, columns) {
            Some(row) if check_input(&self.shared.program, rel, &row).is_ok() => Ok((rel, row)),
            _ => Err(unexpected),
        }
    }

    async fn send_state(&self, slot: u64) {
        let shared = &self.shared;
        let sent = transfer::send(&shared.folder, slot, &self.conn).await;
        if let Err(e) = sent {
            tracing::warn!("the state was not sent: {e}");
            let failure = errno::failure(
                errno::number(b"EAGAIN").unwrap_or(errno::EIO),
                e.to_string(),
            );
            self.conn
                .push(Item::message(FromNameNode::Refused { failure }));
            self.conn.push(Item::Close);
        }
    }

    /// The next message; `None` at the end of the stream.
    async fn next(
        &mut self,
        deadline: Duration,
        ended: &mut watch::Receiver<Greeting>,
    ) -> Result<Option<ToNameNode>, Gone> {
        let read = self
            .shared
            .io
            .timeout(deadline, read_message::<ToNameNode, _>(&mut self.half));
        let mut read = pin!(async {
            tokio::select! {
                biased;
                read = read => Some(read),
                () = until_ended(ended) => None,
            }
        });
        let at_once = poll_fn(|cx| Poll::Ready(read.as_mut().poll(cx))).await;
        let read = match at_once {
            Poll::Ready(read) => read,
            Poll::Pending => {
                pass_on(&self.shared, &mut self.burst).await?;
                read.await
            }
        };
        match read {
            None => Ok(None),
            Some(Ok(Ok(message))) => {
                if !self.conn.has_room() {
                    pass_on(&self.shared, &mut self.burst).await?;
                    self.conn.room().await;
                }
                Ok(message.map(|(message, _body)| message))
            }
            Some(Ok(Err(e))) => Err(e.into()),
            Some(Err(_)) => Err(Gone::Silent(deadline)),
        }
    }

    /// Something for the engine: it goes with what came together with it. Waits while the queue is full.
    async fn queue(&mut self, what: What) -> Result<(), Gone> {
        let size = what.size().min(QUEUE_BYTES);
        let permits = u32::try_from(size).unwrap_or(u32::MAX);
        let budget = self.shared.budget.clone();
        let permit = match budget.clone().try_acquire_many_owned(permits) {
            Ok(permit) => permit,
            Err(_) => {
                // What this reader holds may be what fills the queue.
                self.pass_on().await?;
                let permit = budget.acquire_many_owned(permits).await;
                permit.map_err(|_| Gone::Stopping)?
            }
        };
        self.burst.push(Queued {
            conn: self.conn.id,
            what,
            came_ns: now(&self.shared.io).mono_ns,
            permit: Some(permit),
        });
        if self.burst.len() >= BURST {
            self.pass_on().await?;
        }
        Ok(())
    }

    async fn pass_on(&mut self) -> Result<(), Gone> {
        pass_on(&self.shared, &mut self.burst).await
    }

    /// Asks the rules who this is.
    async fn greet(
        &mut self,
        rel: RelId,
        row: Row,
        new: bool,
        greeting: &mut watch::Receiver<Greeting>,
    ) -> Result<u64, Gone> {
        let what = if new {
            What::Register(rel, row)
        } else {
            What::Event(rel, row)
        };
        self.queue(what).await?;
        self.pass_on().await?;
        let answer = greeting.wait_for(|g| *g != Greeting::Waiting);
        match self.shared.io.timeout(WELCOME_DEADLINE, answer).await {
            Ok(Ok(Greeting::Welcome(id))) => Ok(id),
            Ok(_) => Err(Gone::Stopping),
            Err(_) => Err(Gone::Silent(WELCOME_DEADLINE)),
        }
    }

    async fn client(
        &mut self,
        session: u64,
        ended: &mut watch::Receiver<Greeting>,
    ) -> Result<(), Gone> {
        while let Some(message) = self.next(IDLE_DEADLINE, ended).await? {
            match message {
                ToNameNode::Command {
                    seq,
                    ack,
                    caller,
                    op,
                } => {
                    let numbers = Numbers {
                        arrival: self.arrival(),
                        conn: self.conn.id,
                        session,
                        seq,
                        ack,
                    };
                    let row = input::request(numbers, &caller, &op)
                        .or_else(|failure| input::refused(numbers, &failure));
                    match row {
                        Ok(row) => self.queue(What::Command { seq, row }).await?,
                        Err(failure) => {
                            self.conn.push(Item::message(FromNameNode::Answered {
                                seq,
                                result: Err(failure),
                            }));
                        }
                    }
                }
                ToNameNode::Renew { orphans } => {
                    let row = input::renew(self.conn.id, session, orphans.iter().map(|i| i.0))
                        .map_err(Gone::Refused)?;
                    self.queue(What::Event(self.shared.inputs.renew, row))
                        .await?;
                }
                other => self.reading(other, "client").await?,
            }
        }
        Ok(())
    }

    async fn observer(&mut self, ended: &mut watch::Receiver<Greeting>) -> Result<(), Gone> {
        while let Some(message) = self.next(OBSERVER_DEADLINE, ended).await? {
            self.reading(message, "observer").await?;
        }
        Ok(())
    }

    /// What clients and observers may send.
    async fn reading(&mut self, message: ToNameNode, who: &'static str) -> Result<(), Gone> {
        match message {
            ToNameNode::Read { req, caller, op } => self.read(req, &caller, &op).await,
            ToNameNode::Query {
                req,
                text,
                limit,
                watch,
            } => {
                if text.len() > MAX_QUERY {
                    let why = format!(
                        "the query has {} bytes, the limit is {MAX_QUERY}",
                        text.len()
                    );
                    self.conn.push(super::query::failed(
                        req,
                        errno::failure(errno::EMSGSIZE, why),
                    ));
                    return Ok(());
                }
                self.queue(What::Query {
                    req,
                    text,
                    limit: limit.min(MAX_QUERY_ROWS),
                    watch,
                    stale: self.stale,
                })
                .await
            }
            ToNameNode::Cancel { req } => self.queue(What::Cancel { req }).await,
            _ => Err(Gone::Unexpected(who)),
        }
    }

    async fn read(&mut self, req: u64, caller: &Caller, op: &ReadOp) -> Result<(), Gone> {
        if matches!(op, ReadOp::Identify) {
            let result = Ok(Answer::Identity(self.identity()));
            self.conn
                .push(Item::message(FromNameNode::ReadAnswered { req, result }));
            return Ok(());
        }
        let number = i64::try_from(req)
            .map_err(|_| Gone::Unexpected("peer that numbers its questions from 0"))?;
        let asks: &[(i64, &ReadOp)] = match op {
            // The rules answer it in two halves; the writer puts them together.
            ReadOp::Status => &[(number, &ReadOp::Status), (!number, &ReadOp::StatFs)],
            op => &[(number, op)],
        };
        for (number, op) in asks {
            match input::ask(self.conn.id, *number, caller, op) {
                Ok(row) => {
                    let (req, stale) = (*number, self.stale);
                    self.queue(What::Read { req, stale, row }).await?;
                }
                Err(failure) => {
                    self.conn.push(Item::message(FromNameNode::ReadAnswered {
                        req,
                        result: Err(failure),
                    }));
                }
            }
        }
        Ok(())
    }

    async fn datanode(
        &mut self,
        node: u64,
        ended: &mut watch::Receiver<Greeting>,
    ) -> Result<(), Gone> {
        let id = self.conn.id;
        while let Some(message) = self.next(IDLE_DEADLINE, ended).await? {
            let inputs = self.shared.inputs;
            match message {
                ToNameNode::Heartbeat { capacity, free } => {
                    let row = input::heartbeat(id, node, capacity, free).map_err(Gone::Refused)?;
                    self.queue(What::Event(inputs.heartbeat, row)).await?;
                }
                ToNameNode::Report {
                    replicas,
                    first,
                    last,
                } => self.report(node, &replicas, first, last).await?,
                ToNameNode::Received { replicas, gone } => {
                    let row = input::received(id, node, &replicas, gone.iter().map(|b| b.0))
                        .map_err(Gone::Refused)?;
                    self.queue(What::Event(inputs.received, row)).await?;
                }
                _ => return Err(Gone::Unexpected("DataNode")),
            }
        }
        Ok(())
    }

    fn identity(&self) -> Identity {
        let shared = &self.shared;
        let about = *shared.about();
        Identity {
            cluster: about.cluster,
            node: NodeId(about.node),
            nonce: shared.peers.me().nonce,
            leads: shared.role.get() == Role::Leads,
            slot: shared.metrics.applied_slot.load(Ordering::Relaxed),
        }
    }

    /// A report in pieces, so that a long one does not hold up a run.
    async fn report(
        &mut self,
        node: u64,
        replicas: &[ReplicaInfo],
        first: bool,
        last: bool,
    ) -> Result<(), Gone> {
        let mut rest = replicas;
        let mut is_first = first;
        loop {
            let (piece, behind) = rest.split_at(rest.len().min(REPORT_PIECE));
            let is_last = last && behind.is_empty();
            let row = input::report(self.conn.id, node, is_first, is_last, piece)
                .map_err(Gone::Refused)?;
            self.queue(What::Event(self.shared.inputs.report, row))
                .await?;
            (rest, is_first) = (behind, false);
            if rest.is_empty() {
                return Ok(());
            }
        }
    }
}
