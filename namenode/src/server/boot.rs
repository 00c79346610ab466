//! From a data folder to an engine that runs: checkpoint, log, listener.

use super::engine::{Engine, Rules};
use super::outbox::Outbox;
use super::reader::{self, Shared};
use super::{Config, Rulebook, ServerError};
use crate::codec::output::{self, Cluster, Outputs};
use crate::codec::{Inputs, input, timers};
use crate::metrics::Metrics;
use crate::store::{Folder, Options};
use boomfs_io::{Io, Listener};
use boomfs_wire::Answer;
use overlog::api::{self, Time};
use overlog::ir::{Program, RelId, RelKind, TableClass};
use overlog::node::Node;
use overlog::{Row, Value};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::{Semaphore, mpsc};

/// This node's address, as the rules see it.
const ME: &str = "nn";

/// The one leader's ballot, until Paxos counts them.
const BALLOT: u64 = 1;

/// How many slots of a replay are reported at once.
const REPLAY_REPORT: usize = 100_000;

/// A NameNode that is ready to serve.
pub struct Booted {
    /// Its loop.
    pub engine: Engine,
    /// What its tasks share.
    pub shared: Arc<Shared>,
    /// Where it listens.
    pub listener: Listener,
}

/// Boots from the data folder. Whatever is refused leaves the folder as it was.
pub async fn boot(io: Io, config: Config, rulebook: Rulebook) -> Result<Booted, ServerError> {
    // First of all, so that an address in use is said at once; clients that come now wait.
    let listener = io
        .listen(&config.listen)
        .await
        .map_err(ServerError::Listen)?;
    let options = Options {
        cluster: config.cluster,
        segment_bytes: config.segment_bytes,
        rules: rulebook.hash,
    };
    let mut folder = Folder::open(&io, &config.data, options).await?;
    let metrics = Arc::new(Metrics::default());
    let mut rules = Rules::new(Arc::new(rulebook.program), metrics.clone())?;
    restore(&mut rules, &folder).await?;
    // Without a checkpoint the log is applied from its first slot, to what the facts say.
    let first = rules.start(folder.checkpoint.is_none(), now(&io))?;
    replay(&mut rules, &mut folder, &io)?;
    let durable = folder.next_slot - 1;
    let checkpoint = folder.checkpoint.unwrap_or(0);
    let (cluster, new) = (folder.cluster, folder.new);
    let outbox = Arc::new(Outbox::new(metrics.clone(), durable));
    let released = outbox.clone();
    let store = folder
        .start(
            metrics.clone(),
            Arc::new(move |slot| released.release(slot)),
        )
        .await?;
    metrics.checkpoint_slot.store(checkpoint, Ordering::Relaxed);
    let (sender, queue) = mpsc::channel(reader::QUEUE_EVENTS);
    let mut shared = Shared {
        io: io.clone(),
        metrics,
        inputs: rules.inputs,
        cluster: Cluster {
            cluster,
            ballot: BALLOT,
            block_size: config.block_size,
            replication: config.replication,
        },
        outbox,
        queue: sender,
        budget: Arc::new(Semaphore::new(reader::QUEUE_BYTES)),
        arrivals: AtomicU64::new(0),
        conns: AtomicU64::new(0),
        config,
    };
    let mut engine = Engine::new(
        io,
        rules,
        store,
        queue,
        shared.outbox.clone(),
        &shared.config,
    );
    if new {
        engine.take_proposals(&first);
    }
    let configure = input::configure(shared.config.replication, shared.config.block_size);
    if let Ok(row) = configure {
        engine.first(vec![(shared.inputs.configure, row)]).await?;
    }
    defaults(&mut engine, &mut shared);
    let shared = Arc::new(shared);
    Ok(Booted {
        engine,
        shared,
        listener,
    })
}

/// The time of a run.
pub fn now(io: &Io) -> Time {
    Time {
        wall_ns: io.now_ns(),
        mono_ns: i64::try_from(io.mono_ns()).unwrap_or(i64::MAX),
    }
}

/// The tables that a checkpoint holds: all that are durable.
pub fn durable_tables(program: &Program) -> Vec<RelId> {
    let durable = |(i, kind): (usize, &RelKind)| match kind {
        RelKind::Table(TableClass::Local | TableClass::Replicated { .. }) => {
            u32::try_from(i).ok().map(RelId)
        }
        _ => None,
    };
    program
        .relations
        .iter()
        .map(|r| &r.kind)
        .enumerate()
        .filter_map(durable)
        .collect()
}

/// Gives the checkpoint's rows to the rules.
async fn restore(rules: &mut Rules, folder: &Folder) -> Result<(), ServerError> {
    let Some(mut reader) = folder.read_checkpoint().await? else {
        return Ok(());
    };
    let apply = |table: &str, why: String| ServerError::Apply {
        what: format!("table {table} of its checkpoint"),
        why,
    };
    let program = rules.program.clone();
    let mut tables = Vec::new();
    for (name, columns) in &reader.header().tables {
        let rel = program
            .find(name)
            .filter(|rel| program.relation(*rel).is_table());
        let rel = rel.ok_or_else(|| apply(name, "they have no such table".to_owned()))?;
        let known = program.relation(rel).columns.len();
        if known != *columns as usize {
            return Err(apply(
                name,
                format!("it has {columns} columns, they know it with {known}"),
            ));
        }
        tables.push((rel, name.clone()));
    }
    while let Some((table, rows)) = reader.next().await? {
        if let Some((rel, name)) = tables.get(table as usize) {
            rules
                .node
                .restore(*rel, rows)
                .map_err(|e| apply(name, e.to_string()))?;
        }
    }
    Ok(())
}

/// Runs what was decided since the checkpoint; what the rules say then was said before.
fn replay(rules: &mut Rules, folder: &mut Folder, io: &Io) -> Result<(), ServerError> {
    let batches = std::mem::take(&mut folder.batches);
    if batches.is_empty() {
        return Ok(());
    }
    if folder.other_rules {
        tracing::warn!(
            "the log since the last checkpoint was written under other rules; a clean stop before an upgrade avoids this"
        );
    }
    let count = batches.len();
    tracing::info!("applying {count} slots of the log");
    for (i, (slot, batch)) in batches.into_iter().enumerate() {
        let apply = |why: String| ServerError::Apply {
            what: format!("slot {slot} of its log"),
            why,
        };
        let row = input::decided(slot, &batch).map_err(|e| apply(e.message))?;
        match rules.run(vec![(rules.inputs.decided, row)], now(io)) {
            Ok(_) => {}
            // Dropped then as it is dropped now: limits are counted, not timed.
            Err(e @ api::RunError::Limit { .. }) => {
                tracing::warn!("slot {slot} has no effect: {e}")
            }
            Err(e) => return Err(apply(e.to_string())),
        }
        if (i + 1) % REPLAY_REPORT == 0 {
            tracing::info!("applied {} of {count} slots", i + 1);
        }
    }
    Ok(())
}

/// Asks the rules for the cluster's defaults as they were decided.
fn defaults(engine: &mut Engine, shared: &mut Shared) {
    let caller = boomfs_wire::Caller::default();
    let asked = input::ask(
        crate::codec::ConnId::SHELL,
        0,
        &caller,
        &boomfs_wire::ReadOp::StatFs,
    );
    let Ok(row) = asked else { return };
    let Ok(output) = engine
        .rules
        .run(vec![(shared.inputs.ask, row)], now(&shared.io))
    else {
        return;
    };
    let replies = output
        .messages
        .iter()
        .filter(|m| engine.rules.outputs.get(m.rel) == Some(output::Sent::ReadReply));
    for reply in replies {
        if let Ok((_, Ok(Answer::StatFs(space)))) = output::read_reply(&reply.row)
            && space.block_size > 0
            && space.replication > 0
        {
            shared.cluster.block_size = space.block_size;
            shared.cluster.replication = space.replication;
        }
    }
}

impl Rules {
    /// Makes a node of the rules.
    ///
    /// # Errors
    /// They lack an event, or cannot be planned.
    pub fn new(program: Arc<Program>, metrics: Arc<Metrics>) -> Result<Rules, ServerError> {
        let (inputs, outputs) = (Inputs::find(&program)?, Outputs::find(&program)?);
        let timers = timers(&program);
        let options = api::Options {
            observe: vec![inputs.propose],
            ..api::Options::new(Value::addr(ME))
        };
        let node =
            Node::new(program.clone(), options).map_err(|e| ServerError::Rules(e.to_string()))?;
        Ok(Rules {
            node,
            program,
            inputs,
            outputs,
            timers,
            metrics,
            limiter: Default::default(),
        })
    }

    fn start(&mut self, new: bool, time: Time) -> Result<Vec<Row>, ServerError> {
        let output = self
            .node
            .start(new, time)
            .map_err(|e| ServerError::Rules(e.to_string()))?;
        self.note(&output, time);
        Ok(output.observed.into_iter().map(|(_, row)| row).collect())
    }
}
