//! What runs say, held until the log is on disk as far as they rest on it.

use super::conn::{Conn, Item};
use crate::codec::ConnId;
use crate::metrics::Metrics;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// Messages and where they go.
pub type Mail = Vec<(ConnId, Item)>;

/// Filled by the engine's loop, emptied by the log's writer (or at once, if nothing is waited
/// for). First in, first out.
#[derive(Debug, Default)]
pub struct Outbox {
    held: Mutex<Held>,
    conns: Mutex<BTreeMap<ConnId, Arc<Conn>>>,
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
    /// An empty one; the log is on disk up to a slot.
    pub fn new(metrics: Arc<Metrics>, durable: u64) -> Outbox {
        let held = Mutex::new(Held {
            queue: VecDeque::new(),
            durable,
        });
        Outbox {
            held,
            conns: Mutex::default(),
            left: Notify::new(),
            metrics,
        }
    }

    /// Sends messages once the log is on disk up to `slot`, after all that was pushed before.
    pub fn push(&self, slot: u64, mail: Mail) {
        if mail.is_empty() {
            return;
        }
        let mut held = lock(&self.held);
        if held.queue.is_empty() && slot <= held.durable {
            // Under the lock, so that a release cannot overtake it.
            self.deliver(mail);
        } else {
            held.queue.push_back((slot, mail));
        }
    }

    /// The log is on disk up to `slot`.
    pub fn release(&self, slot: u64) {
        let mut held = lock(&self.held);
        held.durable = held.durable.max(slot);
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

    fn deliver(&self, mail: Mail) {
        let conns = lock(&self.conns);
        for (id, item) in mail {
            match conns.get(&id) {
                Some(conn) => conn.push(item),
                None => Metrics::add(&self.metrics.messages_dropped, 1),
            }
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

    /// Ends all connections.
    pub fn close_all(&self) {
        for conn in lock(&self.conns).values() {
            conn.push(Item::Close);
        }
    }
}
