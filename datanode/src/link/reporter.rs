//! What is to be told to each NameNode: a bounded list of changes a link.

use boomfs_io::{Io, watch};
use boomfs_wire::{BlockId, ReplicaInfo};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;

/// Changes that wait for one NameNode; beyond, it gets a full report instead.
const MAX_WAITING: usize = 65_536;

/// Something about a block that a NameNode should know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// The replica is as this says.
    There(ReplicaInfo),
    /// The replica is gone, or bad.
    Gone,
}

#[derive(Default)]
struct Waiting {
    changes: BTreeMap<BlockId, Change>,
    /// Too many: a full report is due.
    overflow: bool,
    /// Some of the changes should leave at once.
    urgent: bool,
    /// Counts what was put in.
    added: u64,
}

/// What waits for one NameNode.
pub(crate) struct Queue {
    waiting: Mutex<Waiting>,
    wake: Notify,
    /// What has been sent.
    sent: watch::Sender<Sent>,
}

/// What one NameNode has been told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sent {
    /// Everything up to this number.
    number: u64,
    /// It leads, as far as it has said.
    leads: bool,
}

/// Changes taken out to be sent.
pub(crate) struct Batch {
    /// The changes.
    pub changes: Vec<(BlockId, Change)>,
    /// A full report is due instead.
    pub full: bool,
    /// To hand back with [`Queue::sent`].
    pub number: u64,
}

impl Queue {
    fn new() -> Queue {
        Queue {
            waiting: Mutex::new(Waiting::default()),
            wake: Notify::new(),
            sent: watch::Sender::new(Sent::default()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, block: BlockId, change: Change, urgent: bool) -> u64 {
        let mut w = self.lock();
        w.added += 1;
        if w.changes.len() >= MAX_WAITING && !w.changes.contains_key(&block) {
            w.overflow = true;
            w.changes.clear();
        }
        if !w.overflow {
            w.changes.insert(block, change);
        }
        w.urgent |= urgent;
        if urgent {
            self.wake.notify_one();
        }
        w.added
    }

    /// Returns when something waits that should leave at once.
    pub async fn urgent(&self) {
        while !self.lock().urgent {
            self.wake.notified().await;
        }
    }

    /// Takes out everything that waits.
    pub fn take(&self) -> Batch {
        let mut w = self.lock();
        w.urgent = false;
        Batch {
            changes: std::mem::take(&mut w.changes).into_iter().collect(),
            full: std::mem::take(&mut w.overflow),
            number: w.added,
        }
    }

    /// A batch has been sent, as changes or as part of a full report.
    pub fn sent(&self, number: u64) {
        self.sent.change(|now| {
            let more = number > now.number;
            now.number = number.max(now.number);
            more
        });
    }

    /// The NameNode leads, or does not, or is not connected any more.
    pub fn set_leads(&self, leads: bool) {
        self.sent.change(|now| {
            let other = now.leads != leads;
            now.leads = leads;
            other
        });
    }

    /// A full report is due, at once.
    pub fn want_full(&self) {
        let mut w = self.lock();
        w.overflow = true;
        w.changes.clear();
        w.urgent = true;
        self.wake.notify_one();
    }
}

/// Tells all NameNodes.
pub(crate) struct Reporter {
    queues: Vec<Arc<Queue>>,
}

/// What [`Reporter::wait`] waits for.
pub(crate) struct Ticket(Vec<u64>);

impl Reporter {
    /// A reporter to this many NameNodes.
    pub fn new(links: usize) -> Reporter {
        Reporter {
            queues: (0..links).map(|_| Arc::new(Queue::new())).collect(),
        }
    }

    /// The queues, one a NameNode.
    pub fn queues(&self) -> &[Arc<Queue>] {
        &self.queues
    }

    fn put(&self, block: BlockId, change: Change, urgent: bool) -> Ticket {
        Ticket(
            self.queues
                .iter()
                .map(|q| q.put(block, change, urgent))
                .collect(),
        )
    }

    /// A replica has changed; told with the next heartbeat at the latest.
    pub fn changed(&self, info: ReplicaInfo) {
        self.put(info.block, Change::There(info), false);
    }

    /// A replica has changed; told at once.
    pub fn changed_now(&self, info: ReplicaInfo) -> Ticket {
        self.put(info.block, Change::There(info), true)
    }

    /// A replica is gone or bad; told at once.
    pub fn gone(&self, block: BlockId) {
        self.put(block, Change::Gone, true);
    }

    /// Waits until the NameNode that leads was told, but no longer than a second. The others, of which one may be gone or
    /// slow, hear it when they can; if one of them comes to lead, it asks for a full report.
    pub async fn wait(&self, io: &Io, ticket: Ticket) {
        let told = async {
            for (queue, number) in self.queues.iter().zip(ticket.0) {
                let mut sent = queue.sent.subscribe();
                // The sender lives as long as the queue.
                let _ = sent
                    .wait_for(|now| !now.leads || now.number >= number)
                    .await;
            }
        };
        let _ = io.timeout(Duration::from_secs(1), told).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use boomfs_wire::Generation;

    fn info(block: u64, length: u64) -> ReplicaInfo {
        ReplicaInfo {
            block: BlockId(block),
            generation: Generation(1),
            length,
        }
    }

    #[test]
    fn later_changes_of_a_block_replace_earlier_ones() {
        let reporter = Reporter::new(1);
        reporter.changed(info(1, 0));
        reporter.changed(info(2, 0));
        reporter.changed(info(1, 9));
        reporter.gone(BlockId(2));
        let batch = reporter.queues()[0].take();
        let expected = vec![
            (BlockId(1), Change::There(info(1, 9))),
            (BlockId(2), Change::Gone),
        ];
        assert_eq!(
            (batch.changes, batch.full, batch.number),
            (expected, false, 4)
        );
    }

    #[test]
    fn too_many_changes_become_a_full_report() {
        let reporter = Reporter::new(1);
        (0..=MAX_WAITING as u64).for_each(|b| reporter.changed(info(b, 0)));
        let batch = reporter.queues()[0].take();
        assert!(batch.full && batch.changes.is_empty());
    }
}
