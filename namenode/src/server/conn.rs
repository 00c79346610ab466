//! A connection: what is to be written to it, and the task that writes it.

use super::reader::Shared;
use crate::codec::output::{self, Sent};
use crate::codec::{ConnId, errno};
use crate::metrics::Metrics;
use boomfs_io::{WriteHalf, watch};
use boomfs_wire::{Answer, Failure, FromNameNode, Status, encode_message};
use overlog::Row;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::sync::Notify;

/// Over so many bytes that wait to be written, nothing more is read from the connection.
const SOFT_LIMIT: usize = 4 << 20;

/// Over so many, the connection is closed: it does not read.
const HARD_LIMIT: usize = 64 << 20;

/// How long one write may take.
const WRITE_DEADLINE: Duration = Duration::from_secs(30);

/// Messages are gathered into writes of about so many bytes.
const WRITE_SIZE: usize = 256 << 10;

/// What a message without rows counts as, bytes.
const MESSAGE_SIZE: usize = 64;

/// Half-answered questions for the status that a connection may have.
const MAX_PARTIAL: usize = 64;

/// Something to write.
#[derive(Debug)]
pub enum Item {
    /// A row of the rules, yet to be encoded.
    Rule(Sent, Row),
    /// A message of the shell.
    Message(Box<FromNameNode>),
    /// The end.
    Close,
}

impl Item {
    /// A message.
    pub fn message(message: FromNameNode) -> Item {
        Item::Message(Box::new(message))
    }

    fn size(&self) -> usize {
        match self {
            Item::Rule(_, row) => MESSAGE_SIZE + row.as_bytes().len(),
            Item::Message(message) => match message.as_ref() {
                FromNameNode::Rows { added, removed, .. } => {
                    MESSAGE_SIZE
                        + added
                            .iter()
                            .chain(removed)
                            .map(|row| row.len() + 16)
                            .sum::<usize>()
                }
                FromNameNode::State { rows, .. } => MESSAGE_SIZE + rows.0.len(),
                _ => MESSAGE_SIZE,
            },
            Item::Close => 0,
        }
    }
}

/// What the rules made of a Hello.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Greeting {
    /// Nothing yet.
    Waiting,
    /// A client with this session, or a DataNode with this id.
    Welcome(u64),
    /// The connection has ended.
    Ended,
}

/// A connection, shared by its reader, its writer and the outbox.
#[derive(Debug)]
pub struct Conn {
    /// Its name.
    pub id: ConnId,
    out: Mutex<Out>,
    /// There is something to write.
    work: Notify,
    /// Something was written.
    freed: Notify,
    /// It is served by a NameNode that leads, and by no other.
    needs_leader: AtomicBool,
    greeting: watch::Sender<Greeting>,
}

#[derive(Debug, Default)]
struct Out {
    items: Vec<Item>,
    bytes: usize,
    closed: bool,
    slow: bool,
}

impl Conn {
    /// A new one.
    pub fn new(id: ConnId) -> Conn {
        Conn {
            id,
            out: Mutex::default(),
            work: Notify::new(),
            freed: Notify::new(),
            needs_leader: AtomicBool::new(false),
            greeting: watch::Sender::new(Greeting::Waiting),
        }
    }

    /// It is served by a NameNode that leads, and by no other.
    pub fn set_needs_leader(&self) {
        self.needs_leader.store(true, Ordering::SeqCst);
    }

    /// See [`Conn::set_needs_leader`].
    pub fn needs_leader(&self) -> bool {
        self.needs_leader.load(Ordering::SeqCst)
    }

    fn out(&self) -> MutexGuard<'_, Out> {
        self.out.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues something to write; never waits.
    pub fn push(&self, item: Item) {
        self.push_all(vec![item]);
    }

    /// The same of several: they are written together.
    pub fn push_all(&self, items: Vec<Item>) {
        {
            let mut out = self.out();
            for item in items {
                if out.closed {
                    break;
                }
                out.closed = matches!(item, Item::Close);
                out.bytes += item.size();
                out.items.push(item);
                if out.bytes > HARD_LIMIT {
                    out.items = vec![Item::Close];
                    out.closed = true;
                    out.slow = true;
                }
            }
        }
        self.work.notify_one();
    }

    /// Less than the soft limit waits to be written.
    pub fn has_room(&self) -> bool {
        self.out().bytes <= SOFT_LIMIT
    }

    /// Waits until less than the soft limit waits to be written, or the connection ends.
    pub async fn room(&self) {
        // The writer has a deadline for each write, so this ends.
        while !self.has_room() && !self.has_ended() {
            self.freed.notified().await;
        }
    }

    /// What the rules made of its Hello, and whether it has ended.
    pub fn greeting(&self) -> watch::Receiver<Greeting> {
        self.greeting.subscribe()
    }

    /// The connection is known to the shell alone.
    pub fn welcome(&self, id: u64) {
        self.greeting.change(|g| {
            let waiting = *g == Greeting::Waiting;
            if waiting {
                *g = Greeting::Welcome(id);
            }
            waiting
        });
    }

    fn has_ended(&self) -> bool {
        self.greeting.get() == Greeting::Ended
    }

    /// Nothing more will be written.
    fn end(&self) {
        let mut out = self.out();
        out.closed = true;
        out.items = Vec::new();
        out.bytes = 0;
        drop(out);
        self.greeting.set(Greeting::Ended);
        self.freed.notify_one();
    }
}

/// Writes until the connection ends: many messages in one write.
pub async fn write(shared: Arc<Shared>, conn: Arc<Conn>, mut half: WriteHalf) {
    let mut encoder = Encoder {
        shared: shared.clone(),
        conn: conn.clone(),
        partial: BTreeMap::new(),
    };
    let mut buffer = Vec::with_capacity(4096);
    'all: loop {
        let items = std::mem::take(&mut conn.out().items);
        if items.is_empty() {
            conn.work.notified().await;
            continue;
        }
        let mut written = 0;
        for item in items {
            written += item.size();
            let close = matches!(item, Item::Close);
            encoder.encode(item, &mut buffer);
            if close || buffer.len() >= WRITE_SIZE {
                let flushed = flush(&shared, &conn, &mut half, &mut buffer, &mut written).await;
                if close || !flushed {
                    break 'all;
                }
            }
        }
        if !flush(&shared, &conn, &mut half, &mut buffer, &mut written).await {
            break;
        }
    }
    if conn.out().slow {
        Metrics::add(&shared.metrics.connections_slow, 1);
        tracing::warn!(
            "connection {} closed: it does not read what it is sent",
            conn.id
        );
    }
    let _ = shared.io.timeout(WRITE_DEADLINE, half.shutdown()).await;
    conn.end();
}

async fn flush(
    shared: &Shared,
    conn: &Conn,
    half: &mut WriteHalf,
    buffer: &mut Vec<u8>,
    written: &mut usize,
) -> bool {
    let done = match buffer.is_empty() {
        true => true,
        false => matches!(
            shared
                .io
                .timeout(WRITE_DEADLINE, half.write_all(buffer))
                .await,
            Ok(Ok(()))
        ),
    };
    buffer.clear();
    let mut out = conn.out();
    out.bytes = out.bytes.saturating_sub(std::mem::take(written));
    drop(out);
    conn.freed.notify_one();
    done
}

/// Turns items into frames.
struct Encoder {
    shared: Arc<Shared>,
    conn: Arc<Conn>,
    /// Questions for the status, of which one half is answered.
    partial: BTreeMap<i64, Answer>,
}

impl Encoder {
    fn encode(&mut self, item: Item, buffer: &mut Vec<u8>) {
        let message = match item {
            Item::Rule(Sent::ReadReply, row) => self.read_reply(&row),
            Item::Rule(sent, row) => self.rule(sent, &row),
            Item::Message(message) => Some(*message),
            Item::Close => None,
        };
        if let Some(message) = message {
            self.frame(&message, buffer);
        }
    }

    fn frame(&self, message: &FromNameNode, buffer: &mut Vec<u8>) {
        match encode_message(message, 0) {
            Ok(bytes) => buffer.extend_from_slice(&bytes),
            Err(e) => {
                let failure = errno::failure(
                    errno::EMSGSIZE,
                    format!("the answer cannot be sent: {e}; ask for less"),
                );
                let instead = match message {
                    FromNameNode::Answered { seq, .. } => FromNameNode::Answered {
                        seq: *seq,
                        result: Err(failure),
                    },
                    FromNameNode::ReadAnswered { req, .. } => FromNameNode::ReadAnswered {
                        req: *req,
                        result: Err(failure),
                    },
                    _ => {
                        tracing::error!("a message to {} cannot be encoded: {e}", self.conn.id);
                        return;
                    }
                };
                buffer.extend_from_slice(&encode_message(&instead, 0).unwrap_or_default());
            }
        }
    }

    fn rule(&mut self, sent: Sent, row: &Row) -> Option<FromNameNode> {
        let message = match output::message(sent, row, &self.shared.about()) {
            Ok(message) => message,
            Err(e) => {
                self.bad(&e);
                return None;
            }
        };
        match &message {
            FromNameNode::Welcome { session, node, .. } => self.conn.welcome(session.0.max(node.0)),
            FromNameNode::Refused { .. } => {
                Metrics::add(&self.shared.metrics.connections_refused, 1);
                self.conn.push(Item::Close);
            }
            _ => {}
        }
        Some(message)
    }

    fn bad(&self, e: &output::BadRow) {
        Metrics::add(&self.shared.metrics.bad_payloads, 1);
        tracing::error!(
            "the rules sent {} what cannot be sent on: {e}",
            self.conn.id
        );
    }

    /// Answers to questions below 0 are the shell's own: the other half of a status.
    fn read_reply(&mut self, row: &Row) -> Option<FromNameNode> {
        let (req, result) = match output::read_reply(row) {
            Ok(read) => read,
            Err(e) => {
                self.bad(&e);
                return None;
            }
        };
        let asked = if req < 0 { !req } else { req };
        let result = match result {
            Ok(answer @ (Answer::Status(_) | Answer::StatFs(_)))
                if req < 0 || matches!(answer, Answer::Status(_)) =>
            {
                self.status(asked, answer)?
            }
            Err(failure) if req < 0 => {
                self.partial.remove(&asked);
                Err(failure)
            }
            other => other,
        };
        Some(FromNameNode::ReadAnswered {
            req: asked.cast_unsigned(),
            result,
        })
    }

    fn status(&mut self, asked: i64, answer: Answer) -> Option<Result<Answer, Failure>> {
        let Some(other) = self.partial.remove(&asked) else {
            if self.partial.len() >= MAX_PARTIAL {
                self.partial.clear();
            }
            self.partial.insert(asked, answer);
            return None;
        };
        let (Answer::Status(status), Answer::StatFs(space)) = (match (answer, other) {
            (s @ Answer::StatFs(_), a) => (a, s),
            pair => pair,
        }) else {
            return Some(Err(errno::failure(
                errno::EIO,
                "two answers of one kind to a question for the status",
            )));
        };
        let applied_slot = self.shared.metrics.applied_slot.load(Ordering::Relaxed);
        Some(Ok(Answer::Status(Status {
            space,
            applied_slot,
            ..status
        })))
    }
}
