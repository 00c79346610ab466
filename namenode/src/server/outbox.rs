//! What runs say, on its way: at once, or held until the log is on disk as far as it rests on it.

use super::conn::{Conn, Item};
use super::inbox::{Inbox, Rows};
use super::peers::Peers;
use crate::codec::ConnId;
use crate::metrics::Metrics;
use crate::planted::{Mistake, makes};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// What one run says, sorted by who hears it.
#[derive(Debug, Default)]
pub struct Mail {
    /// To clients and DataNodes.
    pub conns: Vec<(ConnId, Item)>,
    /// To other NameNodes, by their nonces: all that a run says to one of them arrives as one.
    pub peers: BTreeMap<u64, Rows>,
    /// To this NameNode itself, by way of its disk.
    pub own: Rows,
}

impl Mail {
    fn is_empty(&self) -> bool {
        self.conns.is_empty() && self.peers.is_empty() && self.own.is_empty()
    }

    /// For one connection.
    pub fn one(conn: ConnId, item: Item) -> Mail {
        Mail {
            conns: vec![(conn, item)],
            ..Mail::default()
        }
    }
}

/// Filled by the engine's loop, emptied by the log's writer (or at once, if nothing is waited
/// for). First in, first out.
#[derive(Debug)]
pub struct Outbox {
    held: Mutex<Held>,
    conns: Mutex<BTreeMap<ConnId, Arc<Conn>>>,
    peers: Arc<Peers>,
    inbox: Arc<Inbox>,
    /// A connection was forgotten.
    left: Notify,
    metrics: Arc<Metrics>,
}

#[derive(Debug, Default)]
struct Held {
    queue: VecDeque<(u64, Mail)>,
    durable: u64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Outbox {
    /// An empty one; the log is on disk up to an entry.
    pub fn new(
        metrics: Arc<Metrics>,
        peers: Arc<Peers>,
        inbox: Arc<Inbox>,
        durable: u64,
    ) -> Outbox {
        let held = Mutex::new(Held {
            queue: VecDeque::new(),
            durable,
        });
        Outbox {
            held,
            conns: Mutex::default(),
            peers,
            inbox,
            left: Notify::new(),
            metrics,
        }
    }

    /// Sends mail once the log is on disk up to `entry`, after all that was pushed before.
    pub fn push(&self, entry: u64, mail: Mail) {
        if mail.is_empty() {
            return;
        }
        let mut held = lock(&self.held);
        let stored = held.queue.is_empty() && entry <= held.durable;
        if stored || makes(Mistake::TellsBeforeStored) {
            // Under the lock, so that a release cannot overtake it.
            self.deliver(mail);
        } else {
            held.queue.push_back((entry, mail));
        }
    }

    /// The log is on disk up to `entry`.
    pub fn release(&self, entry: u64) {
        let mut held = lock(&self.held);
        held.durable = held.durable.max(entry);
        while held
            .queue
            .front()
            .is_some_and(|(needs, _)| *needs <= held.durable)
        {
            if let Some((_, mail)) = held.queue.pop_front() {
                self.deliver(mail);
            }
        }
    }

    /// Sends mail at once.
    pub fn deliver(&self, mail: Mail) {
        if !mail.conns.is_empty() {
            let conns = lock(&self.conns);
            let mut all = mail.conns.into_iter().peekable();
            while let Some((id, item)) = all.next() {
                // Together: the writer is awake at the first.
                let mut items = vec![item];
                while let Some((_, item)) = all.next_if(|(next, _)| *next == id) {
                    items.push(item);
                }
                match conns.get(&id) {
                    Some(conn) => conn.push_all(items),
                    None => Metrics::add(&self.metrics.messages_dropped, items.len() as u64),
                }
            }
        }
        for (nonce, rows) in mail.peers {
            self.peers.send(nonce, rows);
        }
        if !mail.own.is_empty() {
            self.inbox.push(mail.own);
        }
    }

    /// Adds a connection, unless there are `most` already.
    pub fn join(&self, conn: Arc<Conn>, most: usize) -> bool {
        let mut conns = lock(&self.conns);
        let room = conns.len() < most;
        if room {
            conns.insert(conn.id, conn);
        }
        room
    }

    /// Forgets a connection.
    pub fn leave(&self, id: ConnId) {
        lock(&self.conns).remove(&id);
        self.left.notify_one();
    }

    /// Waits until all connections are gone.
    pub async fn empty(&self) {
        while !lock(&self.conns).is_empty() {
            self.left.notified().await;
        }
    }

    /// Looks a connection up.
    pub fn conn(&self, id: ConnId) -> Option<Arc<Conn>> {
        lock(&self.conns).get(&id).cloned()
    }

    /// Tells those who need the leader something, and ends their connections.
    pub fn turn_away(&self, item: impl Fn() -> Item) {
        for conn in lock(&self.conns).values().filter(|c| c.needs_leader()) {
            conn.push(item());
            conn.push(Item::Close);
        }
    }

    /// Ends all connections.
    pub fn close_all(&self) {
        for conn in lock(&self.conns).values() {
            conn.push(Item::Close);
        }
    }
}
