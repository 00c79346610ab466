//! What one run is fed: timers, what other NameNodes say, and of what clients and DataNodes want as much as may be done
//! now.

use super::{Engine, MAX_COMMANDS, MAX_READS};
use crate::codec::{ConnId, errno, input};
use crate::metrics::Metrics;
use crate::planted::{Mistake, makes};
use crate::server::Reads;
use crate::server::boot::now;
use crate::server::conn::Item;
use crate::server::outbox::Mail;
use crate::server::query::Asked;
use crate::server::reader::{Queued, What};
use crate::store::log::Room;
use boomfs_wire::FromNameNode;
use overlog::Row;
use overlog::api::Time;
use overlog::ir::RelId;

/// Bytes of events in one run, about.
const MAX_RUN_BYTES: usize = 512 << 10;

/// What one run is fed.
#[derive(Default)]
pub(super) struct Feed {
    pub(super) inputs: Vec<(RelId, Row)>,
    pub(super) commands: Vec<(ConnId, u64)>,
    pub(super) reads: Vec<(ConnId, i64)>,
    pub(super) bytes: usize,
}

impl Engine {
    /// Takes the timers that are due, what other NameNodes say, and from the backlog what one run can take.
    pub(super) fn gather(&mut self) -> Feed {
        let mut feed = Feed::default();
        let room = self.store.log.room();
        let time = now(&self.io);
        for timer in &mut self.timers {
            if timer.due_ns <= time.mono_ns {
                timer.due_ns = time.mono_ns.saturating_add(timer.period_ns);
                feed.inputs.push((timer.rel, input::timer(time.wall_ns)));
            }
        }
        let full = room != Room::Plenty;
        if self.standing.full != full {
            self.standing.full = full;
            self.standing.refuses = false;
            feed.inputs
                .push((self.rules.inputs.space, input::space(full)));
        }
        feed.inputs.extend(self.shared.inbox.take());
        let before = feed.inputs.len();
        while let Some(queued) = self.backlog.front() {
            let others = feed.inputs.len() - before - feed.commands.len();
            let enough = feed.commands.len() >= MAX_COMMANDS
                || others >= MAX_READS
                || feed.bytes >= MAX_RUN_BYTES;
            if self.has_to_wait(queued, time) {
                self.held = true;
                break;
            }
            // At least one, however large.
            if enough {
                break;
            }
            feed.bytes += queued.what.size();
            if let Some(queued) = self.backlog.pop_front() {
                self.admit(queued, room, &mut feed);
            }
        }
        feed.inputs.extend(self.ask_to_confirm(time));
        // They need no run of their own.
        if !feed.inputs.is_empty() {
            let state = self.rules.inputs.state;
            let digests = self.digests.drain(..);
            feed.inputs.extend(digests.map(|row| (state, row)));
        }
        feed
    }

    /// What only a leader may do waits for its lease or a confirmation, and for a slot if it needs one; while its disk
    /// is full, until the rules have said who is to lead.
    fn has_to_wait(&self, queued: &Queued, time: Time) -> bool {
        let governs = self.standing.ballot.is_some();
        let leads = match self.shared.config.reads {
            Reads::Lease => self.standing.until_ns > time.mono_ns,
            Reads::Confirm => queued.came_ns <= self.standing.confirmed_ns,
        };
        let leads = leads || makes(Mistake::ReadsWithoutLease);
        match &queued.what {
            // On a full disk slots may stay open for long.
            What::Command { .. } if self.standing.full => governs && !self.standing.refuses,
            What::Register(..) if self.standing.full && !self.standing.refuses => governs,
            What::Command { .. } | What::Register(..) => governs && self.standing.room <= 0,
            What::Read { stale, .. } | What::Query { stale, .. } => governs && !leads && !stale,
            _ => false,
        }
    }

    /// If the first in the backlog is a read that waits for a confirmation, one is asked for; one at a time, for all
    /// that have come by now. If it is lost, the next beat is as good.
    fn ask_to_confirm(&mut self, time: Time) -> Option<(RelId, Row)> {
        let first = self.backlog.front()?;
        let standing = &self.standing;
        let is_read = matches!(
            first.what,
            What::Read { stale: false, .. } | What::Query { stale: false, .. }
        );
        let wanted = self.shared.config.reads == Reads::Confirm
            && is_read
            && standing.ballot.is_some()
            && first.came_ns > standing.confirmed_ns
            && standing.asked_ns <= standing.confirmed_ns;
        wanted.then(|| {
            self.standing.asked_ns = time.mono_ns;
            (
                self.rules.inputs.confirm,
                input::confirm(self.backlog.len()),
            )
        })
    }

    fn admit(&mut self, queued: Queued, room: Room, feed: &mut Feed) {
        let Queued {
            conn,
            what,
            came_ns: _,
            permit: _,
        } = queued;
        let inputs = self.rules.inputs;
        let governs = self.standing.ballot.is_some();
        match what {
            // Its connection was told that this node leads no more.
            What::Command { .. } if !governs => {}
            What::Read { stale: false, .. } | What::Query { stale: false, .. } if !governs => {}
            What::Event(rel, _) | What::Register(rel, _)
                if rel == inputs.hello_client && !governs =>
            {
                let item = self.shared.not_leader();
                self.shared.outbox.deliver(Mail {
                    conns: vec![(conn, item), (conn, Item::Close)],
                    ..Mail::default()
                });
            }
            What::Command { seq, .. } if room != Room::Plenty => {
                Metrics::add(&self.metrics.commands_no_space, 1);
                let result = Err(no_space());
                self.send(conn, FromNameNode::Answered { seq, result });
            }
            What::Register(..) if governs && room == Room::None => {
                let failure = no_space();
                self.send(conn, FromNameNode::Refused { failure });
                self.shared.outbox.deliver(Mail::one(conn, Item::Close));
            }
            What::Command { seq, row } => {
                Metrics::add(&self.metrics.commands, 1);
                feed.inputs.push((inputs.request, row));
                feed.commands.push((conn, seq));
            }
            What::Read { req, row, .. } => {
                Metrics::add(&self.metrics.reads, 1);
                feed.inputs.push((inputs.ask, row));
                feed.reads.push((conn, req));
            }
            What::Event(rel, row) | What::Register(rel, row) => feed.inputs.push((rel, row)),
            What::Query {
                req,
                text,
                limit,
                watch,
                ..
            } => {
                Metrics::add(&self.metrics.queries, 1);
                let asked = Asked {
                    conn,
                    req,
                    text,
                    limit,
                    watch,
                };
                self.queries
                    .start(&mut self.rules, &self.shared.outbox, asked);
            }
            What::Cancel { req } => self.queries.cancel(&mut self.rules, conn, req),
            What::Closed => {
                self.queries.close(&mut self.rules, conn);
                feed.inputs.push((inputs.closed, input::closed(conn)));
            }
        }
    }
}

fn no_space() -> boomfs_wire::Failure {
    errno::failure(
        errno::ENOSPC,
        "the disk of the NameNode's log is full: free space there; what was acknowledged is safe",
    )
}
