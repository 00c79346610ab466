//! The engine's loop: takes what is queued, runs the rules, appends to the log, runs what was
//! decided.

use super::boot::{durable_tables, now};
use super::checkpointer::Checkpointer;
use super::conn::Item;
use super::outbox::{Mail, Outbox};
use super::query::Queries;
use super::reader::{Queued, What};
use super::{Config, ServerError, Stop};
use crate::codec::output::{self, Outputs};
use crate::codec::{ConnId, Inputs, errno, input};
use crate::metrics::Metrics;
use crate::store::{Store, log::Room};
use boomfs_io::{Io, watch};
use boomfs_wire::FromNameNode;
use overlog::Row;
use overlog::api::{Output, RunError, Time};
use overlog::ir::{Program, RelId};
use overlog::node::Node;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::mpsc;

/// Commands in one run, at most.
const MAX_COMMANDS: usize = 256;

/// Questions and other events in one run, at most.
const MAX_READS: usize = 1_024;

/// Bytes of events in one run, about.
const MAX_RUN_BYTES: usize = 512 << 10;

/// Batches that are decided before new events are looked at.
const MAX_FOLLOW_UPS: usize = 16;

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

/// A batch that the rules want decided, and the commands that may be in it.
struct Proposal {
    batch: Vec<u8>,
    commands: Arc<Vec<(ConnId, u64)>>,
}

/// What one run is fed.
#[derive(Default)]
struct Feed {
    inputs: Vec<(RelId, Row)>,
    commands: Vec<(ConnId, u64)>,
    reads: Vec<(ConnId, i64)>,
    bytes: usize,
}

/// The engine.
pub struct Engine {
    io: Io,
    pub(super) rules: Rules,
    store: Store,
    queue: mpsc::Receiver<Queued>,
    /// Taken from the queue, not fed yet.
    backlog: VecDeque<Queued>,
    outbox: Arc<Outbox>,
    timers: Vec<Timer>,
    proposals: VecDeque<Proposal>,
    queries: Queries,
    checkpointer: Checkpointer,
    metrics: Arc<Metrics>,
}

impl Engine {
    /// A new one.
    pub fn new(
        io: Io,
        rules: Rules,
        store: Store,
        queue: mpsc::Receiver<Queued>,
        outbox: Arc<Outbox>,
        config: &Config,
    ) -> Engine {
        let mono_ns = now(&io).mono_ns;
        let timer = |(rel, period_ns): &(RelId, i64)| Timer {
            rel: *rel,
            period_ns: *period_ns,
            due_ns: mono_ns.saturating_add(*period_ns),
        };
        let timers = rules.timers.iter().map(timer).collect();
        let tables = durable_tables(&rules.program);
        let checkpointer = Checkpointer::new(config, &rules.program, tables, &store);
        let metrics = rules.metrics.clone();
        Engine {
            io,
            rules,
            store,
            queue,
            backlog: VecDeque::new(),
            outbox,
            timers,
            proposals: VecDeque::new(),
            queries: Queries::default(),
            checkpointer,
            metrics,
        }
    }

    /// Runs until it is told to stop, or the log or a checkpoint fails.
    ///
    /// # Errors
    /// What failed. Nothing that rests on it has left.
    pub async fn run(mut self, mut stopped: watch::Receiver<Stop>) -> Result<(), ServerError> {
        let result = match self.work(&mut stopped).await {
            Ok(Stop::Clean) => self.close().await,
            Ok(_) => Ok(()),
            Err(e) => Err(e),
        };
        // Whoever opens the folder next must have it alone.
        self.checkpointer.abandon().await;
        self.store.log.abandon().await;
        result
    }

    async fn work(&mut self, stopped: &mut watch::Receiver<Stop>) -> Result<Stop, ServerError> {
        let log = self.store.log.clone();
        let mut failure = std::pin::pin!(log.failure());
        loop {
            let asked = stopped.get();
            if asked != Stop::Run {
                return Ok(asked);
            }
            if self.has_work() && !log.has_failed() {
                // Lets readers, writers and the log in.
                tokio::task::yield_now().await;
            } else {
                let pause = self.pause();
                tokio::select! {
                    biased;
                    e = &mut failure => return Err(e.into()),
                    _ = stopped.changed() => continue,
                    got = self.queue.recv() => self.backlog.extend(got),
                    () = self.io.sleep(pause) => {}
                }
            }
            self.take_queued();
            self.cycle().await?;
            if log.is_behind() {
                log.wait_durable(log.durable() + 1).await?;
            }
        }
    }

    fn take_queued(&mut self) {
        while self.backlog.len() < MAX_COMMANDS + MAX_READS {
            match self.queue.try_recv() {
                Ok(queued) => self.backlog.push_back(queued),
                Err(_) => return,
            }
        }
    }

    fn has_work(&self) -> bool {
        !self.backlog.is_empty()
            || !self.proposals.is_empty()
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

    /// One run on what is queued and due, then one for each batch it led to.
    async fn cycle(&mut self) -> Result<(), ServerError> {
        let feed = self.gather();
        if !feed.inputs.is_empty() {
            let commands = Arc::new(feed.commands.clone());
            let slot = self.store.log.appended();
            let mut outputs = Vec::new();
            self.run_feed(feed, &mut outputs);
            for output in outputs {
                self.say(slot, output, &commands);
            }
        }
        for _ in 0..MAX_FOLLOW_UPS {
            let Some(proposal) = self.proposals.pop_front() else {
                break;
            };
            self.decide(proposal).await?;
        }
        self.checkpointer
            .step(&self.rules.node, &self.store)
            .await?;
        self.queries
            .step(&mut self.rules, &self.outbox, self.store.log.appended());
        Ok(())
    }

    /// Takes from the backlog what one run can take, and the timers that are due.
    fn gather(&mut self) -> Feed {
        let mut feed = Feed::default();
        let room = self.store.log.room();
        let time = now(&self.io);
        for timer in &mut self.timers {
            if timer.due_ns <= time.mono_ns {
                timer.due_ns = time.mono_ns.saturating_add(timer.period_ns);
                feed.inputs.push((timer.rel, input::timer(time.wall_ns)));
            }
        }
        while let Some(queued) = self.backlog.front() {
            let others = feed.inputs.len() - feed.commands.len();
            let full = feed.commands.len() >= MAX_COMMANDS
                || others >= MAX_READS
                || feed.bytes >= MAX_RUN_BYTES;
            // At least one, however large.
            if full {
                break;
            }
            feed.bytes += queued.what.size();
            if let Some(queued) = self.backlog.pop_front() {
                self.admit(queued, room, &mut feed);
            }
        }
        feed
    }

    fn admit(&mut self, queued: Queued, room: Room, feed: &mut Feed) {
        let Queued {
            conn,
            what,
            permit: _,
        } = queued;
        let inputs = self.rules.inputs;
        match what {
            What::Command { seq, .. } if room != Room::Plenty => {
                Metrics::add(&self.metrics.commands_no_space, 1);
                let result = Err(no_space());
                self.send(conn, FromNameNode::Answered { seq, result });
            }
            What::Register(..) if room == Room::None => {
                self.send(
                    conn,
                    FromNameNode::Refused {
                        failure: no_space(),
                    },
                );
                self.outbox
                    .push(self.store.log.appended(), vec![(conn, Item::Close)]);
            }
            What::Command { seq, row } => {
                Metrics::add(&self.metrics.commands, 1);
                feed.inputs.push((inputs.request, row));
                feed.commands.push((conn, seq));
            }
            What::Read { req, row } => {
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
            } => {
                Metrics::add(&self.metrics.queries, 1);
                self.queries.start(
                    &mut self.rules,
                    &self.outbox,
                    super::query::Asked {
                        conn,
                        req,
                        text,
                        limit,
                        watch,
                    },
                );
            }
            What::Cancel { req } => self.queries.cancel(&mut self.rules, conn, req),
            What::Closed => {
                self.queries.close(&mut self.rules, conn);
                feed.inputs.push((inputs.closed, input::closed(conn)));
            }
        }
    }

    fn send(&self, conn: ConnId, message: FromNameNode) {
        self.outbox.push(
            self.store.log.appended(),
            vec![(conn, Item::message(message))],
        );
    }

    /// Runs a feed. One that the engine drops is halved until what is to blame stands alone.
    fn run_feed(&mut self, feed: Feed, outputs: &mut Vec<Output>) {
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
            // Rows are moved into the run; those of a lone command need no copy.
            let copy = inputs.clone();
            match self.rules.run(inputs, time) {
                Ok(output) => outputs.push(output),
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
        Metrics::add(
            &self.metrics.run_ns,
            self.io.mono_ns().saturating_sub(started),
        );
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

    /// Passes on what a run says, once the log is on disk up to `slot`, and takes what it proposes.
    fn say(&mut self, slot: u64, output: Output, commands: &Arc<Vec<(ConnId, u64)>>) {
        let mut mail: Mail = Vec::with_capacity(output.messages.len());
        for message in output.messages {
            let Some(sent) = self.rules.outputs.get(message.rel) else {
                Metrics::add(&self.metrics.bad_payloads, 1);
                continue;
            };
            match output::connection(&message.to) {
                Some(conn) => mail.push((conn, Item::Rule(sent, message.row))),
                None => Metrics::add(&self.metrics.messages_dropped, 1),
            }
        }
        self.queries
            .note(&mut self.rules, output.run, &self.outbox, &mut mail);
        self.outbox.push(slot, mail);
        for (_, row) in output.observed {
            self.proposals.push_back(Proposal {
                batch: row.as_bytes().to_vec(),
                commands: commands.clone(),
            });
        }
    }

    /// Proposals of a run outside of the loop.
    pub fn take_proposals(&mut self, rows: &[Row]) {
        let commands = Arc::new(Vec::new());
        let proposal = |row: &Row| Proposal {
            batch: row.as_bytes().to_vec(),
            commands: commands.clone(),
        };
        self.proposals.extend(rows.iter().map(proposal));
    }

    /// A run before the loop starts, and what it leads to.
    ///
    /// # Errors
    /// The log failed.
    pub async fn first(&mut self, inputs: Vec<(RelId, Row)>) -> Result<(), ServerError> {
        let mut outputs = Vec::new();
        let slot = self.store.log.appended();
        self.run_feed(
            Feed {
                inputs,
                ..Feed::default()
            },
            &mut outputs,
        );
        for output in outputs {
            self.say(slot, output, &Arc::new(Vec::new()));
        }
        for _ in 0..MAX_FOLLOW_UPS {
            let Some(proposal) = self.proposals.pop_front() else {
                break;
            };
            self.decide(proposal).await?;
        }
        Ok(self
            .store
            .log
            .wait_durable(self.store.log.appended())
            .await?)
    }

    /// With one NameNode, what is appended to the log is decided.
    async fn decide(&mut self, proposal: Proposal) -> Result<(), ServerError> {
        if self.store.log.room() == Room::None {
            tracing::warn!("a batch is dropped: the log's disk is full");
            for (conn, seq) in proposal.commands.iter() {
                self.send(
                    *conn,
                    FromNameNode::Answered {
                        seq: *seq,
                        result: Err(no_space()),
                    },
                );
            }
            return Ok(());
        }
        let next = self.store.log.appended() + 1;
        let row = match input::decided(next, &proposal.batch) {
            Ok(row) => row,
            Err(e) => {
                tracing::error!("the rules proposed what is no batch: {}", e.message);
                return Ok(());
            }
        };
        let slot = self.store.log.append(proposal.batch);
        // The log's writer starts while this thread computes; on one thread it has to be let in.
        tokio::task::yield_now().await;
        let started = self.io.mono_ns();
        let inputs = vec![(self.rules.inputs.decided, row)];
        match self.rules.run(inputs, now(&self.io)) {
            Ok(output) => self.say(slot, output, &proposal.commands),
            Err(e) => {
                Metrics::add(&self.metrics.runs_dropped, 1);
                tracing::error!("slot {slot} has no effect: {e}");
                self.fail(&proposal.commands, &[], &e);
            }
        }
        Metrics::add(
            &self.metrics.run_ns,
            self.io.mono_ns().saturating_sub(started),
        );
        Ok(())
    }

    /// A clean end: what was decided is answered, and a checkpoint is written.
    async fn close(&mut self) -> Result<(), ServerError> {
        self.queries.close_all(&mut self.rules);
        while let Some(proposal) = self.proposals.pop_front() {
            self.decide(proposal).await?;
        }
        self.store
            .log
            .wait_durable(self.store.log.appended())
            .await?;
        self.outbox.close_all();
        let slot = self.store.log.appended();
        let last = self.metrics.checkpoint_slot.load(Ordering::Relaxed);
        let checkpoint = match slot > last {
            true => {
                self.checkpointer
                    .at_end(&self.rules.node, &self.store)
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
}

fn no_space() -> boomfs_wire::Failure {
    errno::failure(
        errno::ENOSPC,
        "the disk of the NameNode's log is full: free space there; what was acknowledged is safe",
    )
}
