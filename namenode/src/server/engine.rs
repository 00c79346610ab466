//! The engine's loop: takes what is queued, runs the rules, stores what they changed, runs what was decided.

mod feed;
mod heed;

use self::feed::Feed;
use super::boot::now;
use super::checkpointer::Checkpointer;
use super::conn::Item;
use super::outbox::Mail;
use super::query::Queries;
use super::reader::{Queued, Role, Shared};
use super::transfer::TransferError;
use super::{ServerError, Stop};
use crate::codec::output::Outputs;
use crate::codec::{ConnId, Inputs, Observed, PeerEvents, errno, input};
use crate::metrics::Metrics;
use crate::planted::{Mistake, makes};
use crate::store::Store;
use crate::store::record::Change;
use boomfs_io::{Io, watch};
use boomfs_wire::{Blob, FromNameNode};
use overlog::api::{Output, RunError, Time};
use overlog::ir::{Program, RelId, RelKind, Relation, TableClass};
use overlog::node::Node;
use overlog::{Row, Value, packed};
use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

/// Commands in one run, at most.
const MAX_COMMANDS: usize = 256;

/// Questions and other events in one run, at most.
const MAX_READS: usize = 1_024;

/// Slots that are applied before new events are looked at.
const MAX_FOLLOW_UPS: usize = 16;

/// How long after a state could not be fetched it is tried again.
const FETCH_PAUSE: Duration = Duration::from_secs(1);

/// How long the loop sleeps at most.
const IDLE: Duration = Duration::from_secs(1);

/// How long it sleeps when a query waits for its reader.
const READER_PAUSE: Duration = Duration::from_millis(10);

/// Lines of the log for each kind of trouble, in a second.
const LINES_A_SECOND: u32 = 5;

const SECOND_NS: i64 = 1_000_000_000;

/// Keeps troubles that repeat from filling the log.
#[derive(Debug, Default)]
pub struct Limiter {
    second: i64,
    lines: u32,
    left_out: u64,
}

impl Limiter {
    fn may(&mut self, time: Time) -> bool {
        let second = time.mono_ns / SECOND_NS;
        if second != self.second {
            if self.left_out > 0 {
                tracing::warn!("{} more reports of the rules were left out", self.left_out);
            }
            *self = Limiter {
                second,
                lines: 0,
                left_out: 0,
            };
        }
        self.lines += 1;
        let may = self.lines <= LINES_A_SECOND;
        self.left_out += u64::from(!may);
        may
    }
}

/// The rules and the node that runs them.
pub struct Rules {
    /// The node.
    pub node: Node,
    /// The program.
    pub program: Arc<Program>,
    /// Events that the shell feeds.
    pub inputs: Inputs,
    /// Messages that it takes.
    pub outputs: Outputs,
    /// What the rules tell it.
    pub observed: Observed,
    /// Messages between NameNodes.
    pub peer_events: PeerEvents,
    /// Timers and their periods, ns.
    pub timers: Vec<(RelId, i64)>,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// For what the rules report.
    pub limiter: Limiter,
}

impl Rules {
    /// One run.
    pub fn run(&mut self, inputs: Vec<(RelId, Row)>, time: Time) -> Result<Output, RunError> {
        let output = self.node.run(inputs, time)?;
        self.note(&output, time);
        Ok(output)
    }

    /// Counts and logs what a run reports.
    pub fn note(&mut self, output: &Output, time: Time) {
        let metrics = &self.metrics;
        Metrics::add(&metrics.runs, 1);
        Metrics::add(&metrics.ticks, output.ticks);
        Metrics::add(&metrics.rule_errors, output.errors.len() as u64);
        Metrics::add(&metrics.rule_conflicts, output.conflicts.len() as u64);
        Metrics::add(&metrics.rule_violations, output.violations.len() as u64);
        for (rule, message) in &output.errors {
            if self.limiter.may(time) {
                tracing::error!("rule {rule}: {message}");
            }
        }
        for (table, winner, loser) in &output.conflicts {
            if self.limiter.may(time) {
                tracing::error!("two rows for one key of {table}: {winner:?} won over {loser:?}");
            }
        }
        for (invariant, row) in &output.violations {
            if self.limiter.may(time) {
                tracing::error!("invariant {invariant} is violated by {row:?}");
            }
        }
        for line in &output.watch {
            tracing::info!("{line}");
        }
    }
}

/// A timer of the rules.
struct Timer {
    rel: RelId,
    period_ns: i64,
    due_ns: i64,
}

/// What the rules said last of this node's place among the NameNodes.
#[derive(Debug, Default)]
struct Standing {
    /// It governs, under this ballot.
    ballot: Option<u64>,
    /// Its lease lasts until then, monotonic clock, ns.
    until_ns: i64,
    /// It was confirmed that it led at this time, monotonic clock, ns.
    confirmed_ns: i64,
    /// When it asked for that last.
    asked_ns: i64,
    /// So many more slots it may open.
    room: i64,
    /// Its disk has no room for more than a little; the rules know.
    full: bool,
    /// What is to be stored is refused until there is room again.
    refuses: bool,
    /// The others are known: it is not alone.
    others: bool,
}

/// How the loop ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It was told to.
    Stopped,
    /// Its folder has a newer state than it has: it is to be started from there.
    Anew,
}

/// The engine.
pub struct Engine {
    io: Io,
    pub(super) rules: Rules,
    store: Store,
    shared: Arc<Shared>,
    queue: mpsc::Receiver<Vec<Queued>>,
    /// Taken from the queue, not fed yet.
    backlog: VecDeque<Queued>,
    /// What is first in the backlog has to wait for a lease, or for room.
    held: bool,
    timers: Vec<Timer>,
    /// Slots and their values, as rows of `decided`.
    decisions: VecDeque<Row>,
    applied: u64,
    /// Digests of the state after slots that were applied, as rows of `state`, which the rules have not heard of yet.
    digests: Vec<Row>,
    /// What ends the loop: the rules have found it.
    fault: Option<ServerError>,
    standing: Standing,
    /// Fetches the state of another NameNode.
    transfer: Option<JoinHandle<Result<u64, TransferError>>>,
    queries: Queries,
    checkpointer: Checkpointer,
    metrics: Arc<Metrics>,
    /// Is told when clients are served, or when that is up to others.
    ready: Option<oneshot::Sender<()>>,
}

impl Engine {
    /// A new one, which has applied all up to a slot.
    pub fn new(
        rules: Rules,
        store: Store,
        shared: Arc<Shared>,
        queue: mpsc::Receiver<Vec<Queued>>,
        applied: u64,
        ready: oneshot::Sender<()>,
    ) -> Engine {
        let io = shared.io.clone();
        let mono_ns = now(&io).mono_ns;
        let timer = |(rel, period_ns): &(RelId, i64)| Timer {
            rel: *rel,
            period_ns: *period_ns,
            due_ns: mono_ns.saturating_add(*period_ns),
        };
        let timers = rules.timers.iter().map(timer).collect();
        let checkpointer = Checkpointer::new(&shared.config, &rules.program, &store);
        let metrics = rules.metrics.clone();
        metrics.applied_slot.store(applied, Ordering::Relaxed);
        Engine {
            io,
            rules,
            store,
            shared,
            queue,
            backlog: VecDeque::new(),
            held: false,
            timers,
            decisions: VecDeque::new(),
            applied,
            digests: Vec::new(),
            fault: None,
            standing: Standing::default(),
            transfer: None,
            queries: Queries::default(),
            checkpointer,
            metrics,
            ready: Some(ready),
        }
    }

    /// Runs until it is told to stop, or the log or a checkpoint fails.
    ///
    /// # Errors
    /// What failed. Nothing that rests on it has left.
    pub async fn run(mut self, stopped: &mut watch::Receiver<Stop>) -> Result<Exit, ServerError> {
        let result = match self.work(stopped).await {
            Ok(Some(Stop::Clean)) => self.close().await.map(|()| Exit::Stopped),
            Ok(Some(_)) => Ok(Exit::Stopped),
            Ok(None) => self.leave().await.map(|()| Exit::Anew),
            Err(e) => Err(e),
        };
        if let Some(transfer) = self.transfer.take() {
            transfer.abort();
        }
        self.shared.peers.close();
        // Whoever opens the folder next must have it alone.
        self.checkpointer.abandon().await;
        self.store.log.abandon().await;
        result
    }

    /// `None`: the state is to be taken from the folder.
    async fn work(
        &mut self,
        stopped: &mut watch::Receiver<Stop>,
    ) -> Result<Option<Stop>, ServerError> {
        let log = self.store.log.clone();
        let shared = self.shared.clone();
        let mut failure = std::pin::pin!(log.failure());
        loop {
            let asked = stopped.get();
            if asked != Stop::Run {
                return Ok(Some(asked));
            }
            if self.has_work() && !log.has_failed() {
                // Lets readers, writers and the log in.
                tokio::task::yield_now().await;
            } else {
                let pause = self.pause();
                tokio::select! {
                    biased;
                    e = &mut failure => return Err(e.into()),
                    told = stopped.changed() => match told {
                        Ok(()) => continue,
                        // Its start was given up: nobody can tell it any more.
                        Err(_) => return Ok(Some(Stop::Clean)),
                    },
                    () = shared.inbox.work() => {}
                    got = self.queue.recv() => self.backlog.extend(got.into_iter().flatten()),
                    () = self.io.sleep(pause) => {}
                }
            }
            self.held = false;
            self.take_queued();
            self.cycle().await?;
            if let Some(fault) = self.fault.take() {
                return Err(fault);
            }
            if self.has_fetched().await {
                return Ok(None);
            }
            if log.is_behind() {
                log.wait_durable(log.durable() + 1).await?;
            }
        }
    }

    fn take_queued(&mut self) {
        while self.backlog.len() < MAX_COMMANDS + MAX_READS {
            match self.queue.try_recv() {
                Ok(burst) => self.backlog.extend(burst),
                Err(_) => return,
            }
        }
    }

    fn has_work(&self) -> bool {
        (!self.backlog.is_empty() && !self.held)
            || !self.decisions.is_empty()
            || self.shared.inbox.has_work()
            || self.queries.has_work()
            || self.checkpointer.has_work()
    }

    /// Until the next timer is due.
    fn pause(&mut self) -> Duration {
        let mono_ns = now(&self.io).mono_ns;
        let idle = if self.queries.waits() {
            READER_PAUSE
        } else {
            IDLE
        };
        let next = self
            .timers
            .iter()
            .map(|t| t.due_ns.saturating_sub(mono_ns))
            .min();
        next.map_or(idle, |ns| {
            Duration::from_nanos(u64::try_from(ns).unwrap_or(0)).min(idle)
        })
    }

    /// One run on what is queued and due, then one for each slot that is known.
    async fn cycle(&mut self) -> Result<(), ServerError> {
        let feed = self.gather();
        if !feed.inputs.is_empty() {
            self.run_feed(feed);
        }
        for _ in 0..MAX_FOLLOW_UPS {
            let Some(row) = self.decisions.pop_front() else {
                break;
            };
            self.apply(row);
        }
        let kept = self
            .checkpointer
            .step(&self.rules.node, &self.store, self.applied)
            .await?;
        if let Some(slot) = kept {
            self.feed_one(self.rules.inputs.truncate, input::truncate(slot));
        }
        self.queries.step(&mut self.rules, &self.shared.outbox);
        self.tell_ready();
        Ok(())
    }

    fn send(&self, conn: ConnId, message: FromNameNode) {
        let mail = Mail::one(conn, Item::message(message));
        self.shared.outbox.deliver(mail);
    }

    fn feed_one(&mut self, rel: RelId, row: Row) {
        self.run_feed(Feed {
            inputs: vec![(rel, row)],
            ..Feed::default()
        });
    }

    /// Runs a feed and passes on what it says. One that the engine drops is halved until what is to blame stands alone.
    fn run_feed(&mut self, feed: Feed) {
        let time = now(&self.io);
        let started = self.io.mono_ns();
        let mut left = vec![feed];
        while let Some(Feed {
            inputs,
            commands,
            reads,
            ..
        }) = left.pop()
        {
            let copy = inputs.clone();
            match self.rules.run(inputs, time) {
                Ok(output) => self.say(output),
                Err(e) => {
                    Metrics::add(&self.metrics.runs_dropped, 1);
                    if copy.len() <= 1 {
                        tracing::error!("the rules cannot take {copy:?}: {e}");
                        self.fail(&commands, &reads, &e);
                    } else {
                        left.extend(self.halves(copy, &commands, &reads));
                    }
                }
            }
        }
        let spent = self.io.mono_ns().saturating_sub(started);
        Metrics::add(&self.metrics.run_ns, spent);
    }

    /// Splits a feed; commands and questions stand in the order of their rows.
    fn halves(
        &self,
        inputs: Vec<(RelId, Row)>,
        commands: &[(ConnId, u64)],
        reads: &[(ConnId, i64)],
    ) -> [Feed; 2] {
        let middle = inputs.len() / 2;
        let events = self.rules.inputs;
        let mut halves = [Feed::default(), Feed::default()];
        let (mut commands, mut reads) = (commands.iter(), reads.iter());
        let [first, second] = &mut halves;
        for (i, (rel, row)) in inputs.into_iter().enumerate() {
            let half = if i < middle {
                &mut *first
            } else {
                &mut *second
            };
            if rel == events.request {
                half.commands.extend(commands.next());
            } else if rel == events.ask {
                half.reads.extend(reads.next());
            }
            half.inputs.push((rel, row));
        }
        halves.reverse();
        halves
    }

    fn fail(&self, commands: &[(ConnId, u64)], reads: &[(ConnId, i64)], e: &RunError) {
        let failure = || {
            errno::failure(
                errno::EIO,
                format!("the NameNode's rules cannot take this: {e}"),
            )
        };
        for (conn, seq) in commands {
            self.send(
                *conn,
                FromNameNode::Answered {
                    seq: *seq,
                    result: Err(failure()),
                },
            );
        }
        for (conn, req) in reads {
            let req = (if *req < 0 { !*req } else { *req }).cast_unsigned();
            self.send(
                *conn,
                FromNameNode::ReadAnswered {
                    req,
                    result: Err(failure()),
                },
            );
        }
    }

    /// Stores what a run changed, passes on what it says, and takes note of what it tells the shell.
    fn say(&mut self, output: Output) {
        let program = self.rules.program.clone();
        let entry = self.changes(&program, &output);
        for (rel, row) in output.observed {
            if let Some(said) = self.rules.observed.get(rel) {
                self.heed(said, row);
            }
        }
        let (mut eager, mut held) = (Mail::default(), Mail::default());
        for message in output.messages {
            let mail = match program.relation(message.rel).eager {
                true => &mut eager,
                false => &mut held,
            };
            self.address(message, mail);
        }
        self.queries
            .note(&mut self.rules, output.run, &self.shared.outbox, &mut eager);
        self.shared.outbox.deliver(eager);
        self.shared.outbox.push(entry, held);
    }

    /// Appends to the log what a run changed in local tables; gives the entry that must be on disk before what the run
    /// says may leave.
    fn changes(&self, program: &Program, output: &Output) -> u64 {
        let local = |rel: RelId| {
            matches!(
                program.relation(rel).kind,
                RelKind::Table(TableClass::Local)
            )
        };
        let mut entry: Vec<Change> = Vec::new();
        let (gone, came): (Vec<_>, Vec<_>) = output
            .changes
            .iter()
            .filter(|c| local(c.rel))
            .partition(|c| !c.insert);
        let key = |c: &overlog::api::Change| (c.rel, key_of(program.relation(c.rel), &c.row));
        let replaced: BTreeSet<(RelId, Vec<u8>)> = came.iter().map(|c| key(c)).collect();
        for change in gone {
            let (rel, key) = key(change);
            if !replaced.contains(&(rel, key.clone())) {
                entry.push(Change {
                    table: program.relation(rel).name.clone(),
                    insert: false,
                    row: Blob(key),
                });
            }
        }
        entry.extend(came.into_iter().map(|c| Change {
            table: program.relation(c.rel).name.clone(),
            insert: true,
            row: Blob(c.row.as_bytes().to_vec()),
        }));
        if entry.is_empty() {
            self.store.log.appended()
        } else {
            self.store.log.append(entry)
        }
    }

    fn address(&self, message: overlog::api::Message, mail: &mut Mail) {
        let Value::Addr(to) = &message.to else {
            Metrics::add(&self.metrics.messages_dropped, 1);
            return;
        };
        if to.as_ref() == b"disk" {
            mail.own.push((message.rel, message.row));
        } else if let Some(nonce) = input::peer_nonce(to) {
            let rows = mail.peers.entry(nonce).or_default();
            rows.push((message.rel, message.row));
        } else if let Some(sent) = self.rules.outputs.get(message.rel) {
            match ConnId::parse(to) {
                Some(conn) => mail.conns.push((conn, Item::Rule(sent, message.row))),
                None => Metrics::add(&self.metrics.messages_dropped, 1),
            }
        } else {
            Metrics::add(&self.metrics.bad_payloads, 1);
        }
    }

    /// A run before the loop starts.
    pub fn first(&mut self, inputs: Vec<(RelId, Row)>) {
        for (rel, row) in inputs {
            self.feed_one(rel, row);
        }
    }

    /// Lets the log know what is applied already.
    pub fn note_applied(&self) {
        self.store.log.set_applied(self.applied);
    }

    /// What a start says.
    pub fn take_start(&mut self, output: Output) {
        self.say(output);
    }

    /// Applies a slot: one run of its own.
    fn apply(&mut self, row: Row) {
        // The batch behind it is not decoded for this.
        let (slot, _) = packed::split_first(row.as_bytes());
        let slot = packed::unpack_int(slot).and_then(|slot| u64::try_from(slot).ok());
        let slot = slot.unwrap_or(0);
        if slot != self.applied + 1 {
            tracing::error!("slot {slot} came after slot {}: ignored", self.applied);
            return;
        }
        let started = self.io.mono_ns();
        let leaves_out = Mistake::LeavesOutSlots(self.shared.peers.me().nonce);
        let decided = match slot.is_multiple_of(40) && makes(leaves_out) {
            true => input::nothing(slot),
            false => row.clone(),
        };
        let inputs = vec![(self.rules.inputs.decided, decided)];
        // It is applied in any case: what is dropped here is dropped by every NameNode, since limits are counted.
        self.applied = slot;
        let early = u64::from(makes(Mistake::NotesAppliedTooSoon));
        self.store.log.set_applied(slot + early);
        self.metrics.applied_slot.store(slot, Ordering::Relaxed);
        match self.rules.run(inputs, now(&self.io)) {
            Ok(output) => self.say(output),
            Err(e) => {
                Metrics::add(&self.metrics.runs_dropped, 1);
                tracing::error!("slot {slot} has no effect: {e}");
                self.fail_slot(&row, &e);
                self.feed_one(self.rules.inputs.decided, input::nothing(slot));
            }
        }
        let digest = self.rules.node.digest();
        self.digests.push(input::state(slot, digest.sum));
        if self.standing.ballot.is_some() && self.shared.role.get() != Role::Leads {
            self.look_up_defaults();
        }
        let spent = self.io.mono_ns().saturating_sub(started);
        Metrics::add(&self.metrics.run_ns, spent);
    }

    /// Nothing of a slot took place: its commands fail, as far as their clients are connected here.
    fn fail_slot(&mut self, row: &Row, e: &RunError) {
        let Some(conn) = self.rules.program.find("conn") else {
            return;
        };
        let conns: Vec<(i64, ConnId)> = self
            .rules
            .node
            .rows(conn)
            .iter()
            .filter_map(|row| match row.values().as_slice() {
                [Value::Int(session), Value::Addr(addr)] => Some((*session, ConnId::parse(addr)?)),
                _ => None,
            })
            .collect();
        let values = row.values();
        let commands = values.get(1).and_then(Value::as_list);
        let commands = commands.and_then(|batch| batch.get(1)?.as_list());
        let failed: Vec<(ConnId, u64)> = commands
            .unwrap_or_default()
            .iter()
            .filter_map(|command| match command.as_list()? {
                [_, Value::Int(session), Value::Int(seq), ..] => {
                    Some((*session, u64::try_from(*seq).ok()?))
                }
                _ => None,
            })
            .flat_map(|(session, seq)| {
                let of_session = conns.iter().filter(move |(of, _)| *of == session);
                of_session.map(move |(_, conn)| (*conn, seq))
            })
            .collect();
        self.fail(&failed, &[], e);
    }

    /// A clean end: another may lead at once, what was decided is applied, and a checkpoint is written.
    async fn close(&mut self) -> Result<(), ServerError> {
        let nonce = self.shared.peers.me().nonce;
        self.feed_one(self.rules.inputs.quits, input::quits(nonce));
        self.queries.close_all(&mut self.rules);
        while let Some(row) = self.decisions.pop_front() {
            self.apply(row);
        }
        self.leave().await?;
        let last = self.metrics.checkpoint_slot.load(Ordering::Relaxed);
        let checkpoint = match self.applied > last {
            true => {
                self.checkpointer
                    .at_end(&self.rules.node, &self.store, self.applied)
                    .await
            }
            false => Ok(()),
        };
        self.store.log.close().await?;
        match checkpoint {
            // The log has it all: the next start only takes longer.
            Err(ServerError::Store(e)) if e.is_full() => {
                tracing::warn!("no checkpoint at the end: {e}");
                Ok(())
            }
            other => other,
        }
    }

    /// What was said is on disk, and nobody is connected any more.
    async fn leave(&mut self) -> Result<(), ServerError> {
        let log = &self.store.log;
        log.wait_durable(log.appended()).await?;
        self.shared.outbox.close_all();
        Ok(())
    }
}

/// The packed key columns of a row.
pub fn key_of(relation: &Relation, row: &Row) -> Vec<u8> {
    let mut rest = row.as_bytes();
    let mut key = Vec::new();
    for at in 0..relation.columns.len() {
        let (value, behind) = packed::split_first(rest);
        if relation.keys.contains(&at) {
            key.extend_from_slice(value);
        }
        rest = behind;
    }
    key
}
