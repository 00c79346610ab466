//! From a data folder to an engine that runs: checkpoints, log, who this NameNode is.

use super::engine::{Engine, Rules, key_of};
use super::inbox::Inbox;
use super::outbox::Outbox;
use super::peers::{Me, Peers};
use super::reader::{self, Role, Shared};
use super::{Config, Rulebook, ServerError};
use crate::codec::output::{Cluster, Outputs};
use crate::codec::{Inputs, Observed, PeerEvents, input, timers};
use crate::metrics::Metrics;
use crate::planted::{Mistake, makes};
use crate::store::checkpoint::Part;
use crate::store::record::{Checkpoint, Entry};
use crate::store::{Folder, Options};
use boomfs_io::{Io, watch};
use boomfs_wire::frame::{read_message, write_message};
use boomfs_wire::{ClusterId, FromNameNode, Peer, ToNameNode};
use overlog::api::{self, Output, Time};
use overlog::ir::{Program, RelId, RelKind, TableClass};
use overlog::node::{Node, Planned};
use overlog::{Row, Value, packed};
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::sync::{Semaphore, mpsc, oneshot};

/// Rows of a table that are restored at once, about: each such batch is sorted in, and merged with those before it.
const RESTORED_AT_ONCE: usize = 200_000;

/// How many slots of a replay are reported at once.
const REPLAY_REPORT: usize = 100_000;

/// How long a new NameNode looks for the cluster that it joins.
const JOIN_DEADLINE: Duration = Duration::from_secs(30);
/// For one of the addresses that it was given.
const ASK_DEADLINE: Duration = Duration::from_secs(2);
const JOIN_PAUSE: Duration = Duration::from_millis(200);

/// A NameNode that is ready to serve.
pub struct Booted {
    /// Its loop.
    pub engine: Engine,
    /// What its tasks share.
    pub shared: Arc<Shared>,
    /// Is told when clients are served, or when that is up to other NameNodes.
    pub ready: oneshot::Receiver<()>,
}

/// Boots from the data folder. Whatever is refused leaves the folder as it was.
pub async fn boot(
    io: &Io,
    config: &Config,
    rulebook: &Rulebook,
    listens: &str,
    metrics: &Arc<Metrics>,
) -> Result<Booted, ServerError> {
    let mut options = Options {
        cluster: config.cluster,
        founder: config.join.is_empty(),
        segment_bytes: config.segment_bytes,
        rules: rulebook.hash,
    };
    if !options.founder && options.cluster.is_none() && !Folder::is_made(io, &config.data).await {
        options.cluster = Some(find_cluster(io, &config.join).await?);
    }
    let mut folder = Folder::open(io, &config.data, options).await?;
    let mut rules = Rules::new(&rulebook.planned, folder.identity.nonce, metrics.clone())?;
    let local = local_rows(&rules.program, &mut folder).await?;
    restore(&mut rules, &folder).await?;
    for (rel, rows) in &local {
        restore_rows(&mut rules, *rel, rows.values().cloned().collect())?;
    }
    // Without a checkpoint the log is applied from its first slot, to what the facts say.
    let started = rules.start(folder.checkpoint.is_none(), now(io))?;
    let checkpoint = folder.checkpoint.unwrap_or(0);
    replay(&mut rules, &folder, &local, io)?;
    let applied = folder.applied.max(checkpoint);
    // The state is another's: this node has no votes for the slots before it.
    let fetched = checkpoint > folder.applied;
    let (identity, durable) = (folder.identity.clone(), folder.next - 1);
    let addr = config
        .advertise
        .clone()
        .unwrap_or_else(|| listens.to_owned());
    let me = Me {
        cluster: identity.cluster,
        nonce: identity.nonce,
        addr: addr.clone(),
        rules: rulebook.hash,
    };
    let (peers, inbox) = (
        Arc::new(Peers::new(io.clone(), me, metrics.clone())),
        Inbox::new(),
    );
    let outbox = Arc::new(Outbox::new(
        metrics.clone(),
        peers.clone(),
        inbox.clone(),
        durable,
    ));
    let released = outbox.clone();
    let store = folder
        .start(
            metrics.clone(),
            Arc::new(move |entry| released.release(entry)),
        )
        .await?;
    metrics.checkpoint_slot.store(checkpoint, Ordering::Relaxed);
    let (sender, queue) = mpsc::channel(reader::QUEUE_BURSTS);
    let (ready, is_ready) = oneshot::channel();
    let inputs = rules.inputs;
    let shared = Arc::new(Shared {
        io: io.clone(),
        metrics: metrics.clone(),
        inputs,
        peer_events: rules.peer_events.clone(),
        program: rules.program.clone(),
        about: Mutex::new(Cluster {
            cluster: identity.cluster,
            ..Cluster::default()
        }),
        founder: identity.founder,
        role: watch::Sender::new(Role::Follows(None)),
        outbox,
        inbox,
        peers,
        folder: store.shared(),
        queue: sender,
        budget: Arc::new(Semaphore::new(reader::QUEUE_BYTES)),
        arrivals: AtomicU64::new(0),
        // The upper half tells the connections of one life of one NameNode from all others.
        conns: AtomicU64::new((io.random_u64() >> 32) << 32),
        config: config.clone(),
    });
    let mut engine = Engine::new(rules, store, shared.clone(), queue, applied, ready);
    engine.take_start(started);
    if fetched {
        // Before the log says that all up to there is known: votes for these slots that were not chosen must be gone.
        engine.first(vec![(inputs.truncate, input::truncate(checkpoint))]);
    }
    engine.note_applied();
    shared.peers.call(&config.join);
    let mut first = vec![(inputs.be, input::be(identity.nonce, identity.founder))];
    let settings = input::configure(config.replication, config.block_size, identity.nonce, &addr);
    match settings {
        Ok(row) => first.push((inputs.configure, row)),
        Err(e) => return Err(ServerError::Rules(e.message)),
    }
    engine.first(first);
    Ok(Booted {
        engine,
        shared,
        ready: is_ready,
    })
}

/// Asks the NameNodes that are to be joined which cluster they are of.
async fn find_cluster(io: &Io, hosts: &[String]) -> Result<ClusterId, ServerError> {
    let started = io.mono_ns();
    let mut trouble = BTreeMap::new();
    loop {
        for host in hosts {
            match io.timeout(ASK_DEADLINE, ask_cluster(io, host)).await {
                Ok(Ok(cluster)) => return Ok(cluster),
                Ok(Err(why)) => trouble.insert(host, why),
                Err(e) => trouble.insert(host, e.to_string()),
            };
        }
        if Duration::from_nanos(io.mono_ns().saturating_sub(started)) > JOIN_DEADLINE {
            let one = |(host, why): (&&String, &String)| format!("{host}: {why}");
            let all: Vec<String> = trouble.iter().map(one).collect();
            return Err(ServerError::Join(all.join("; ")));
        }
        io.sleep(JOIN_PAUSE).await;
    }
}

async fn ask_cluster(io: &Io, host: &str) -> Result<ClusterId, String> {
    let mut stream = io
        .connect(host, ASK_DEADLINE)
        .await
        .map_err(|e| e.to_string())?;
    let hello = ToNameNode::Hello {
        cluster: None,
        peer: Peer::Observer { stale: true },
    };
    write_message(&mut stream, &hello, &[])
        .await
        .map_err(|e| e.to_string())?;
    stream.flush().await.map_err(|e| e.to_string())?;
    match read_message::<FromNameNode, _>(&mut stream).await {
        Ok(Some((FromNameNode::Welcome { cluster, .. }, _))) => Ok(cluster),
        Ok(Some((FromNameNode::Refused { failure }, _))) => Err(failure.message),
        Ok(_) => Err("it did not welcome this NameNode".to_owned()),
        Err(e) => Err(e.to_string()),
    }
}

/// The time of a run.
pub fn now(io: &Io) -> Time {
    Time {
        wall_ns: io.now_ns(),
        mono_ns: i64::try_from(io.mono_ns()).unwrap_or(i64::MAX),
    }
}

/// The tables that checkpoints hold: the replicated ones and the local ones.
pub fn durable_tables(program: &Program) -> (Vec<RelId>, Vec<RelId>) {
    let (mut replicated, mut local) = (Vec::new(), Vec::new());
    for (i, relation) in program.relations.iter().enumerate() {
        let Ok(rel) = u32::try_from(i).map(RelId) else {
            continue;
        };
        match relation.kind {
            RelKind::Table(TableClass::Local) => local.push(rel),
            RelKind::Table(TableClass::Replicated { .. }) => replicated.push(rel),
            _ => {}
        }
    }
    (replicated, local)
}

/// A table of a checkpoint or of the log that the rules know.
fn known_table(program: &Program, name: &str, columns: Option<u32>) -> Result<RelId, ServerError> {
    let apply = |why: String| ServerError::Apply {
        what: format!("table {name} of its folder"),
        why,
    };
    let rel = program
        .find(name)
        .filter(|rel| program.relation(*rel).is_table());
    let rel = rel.ok_or_else(|| apply("they have no such table".to_owned()))?;
    let known = program.relation(rel).columns.len();
    match columns {
        Some(columns) if known != columns as usize => Err(apply(format!(
            "it has {columns} columns, they know it with {known}"
        ))),
        _ => Ok(rel),
    }
}

/// The tables that a checkpoint lists.
fn known_tables(program: &Program, header: &Checkpoint) -> Result<Vec<RelId>, ServerError> {
    let table = |(name, columns): &(String, u32)| known_table(program, name, Some(*columns));
    header.tables.iter().map(table).collect()
}

fn restore_rows(rules: &mut Rules, rel: RelId, rows: Vec<Row>) -> Result<(), ServerError> {
    let name = rules.program.relation(rel).name.clone();
    rules
        .node
        .restore(rel, rows)
        .map_err(|e| ServerError::Apply {
            what: format!("table {name} of its folder"),
            why: e.to_string(),
        })
}

/// Gives the checkpoint's rows to the rules.
async fn restore(rules: &mut Rules, folder: &Folder) -> Result<(), ServerError> {
    let Some(mut reader) = folder.read_checkpoint(Part::State).await? else {
        return Ok(());
    };
    let program = rules.program.clone();
    let tables = known_tables(&program, reader.header())?;
    let (mut last, mut gathered) = (0, Vec::new());
    let mut give = |table: u32, rows: &mut Vec<Row>| match tables.get(table as usize) {
        Some(rel) => restore_rows(rules, *rel, std::mem::take(rows)),
        None => Ok(()),
    };
    while let Some((table, rows)) = reader.next().await? {
        if table != last || gathered.len() >= RESTORED_AT_ONCE {
            give(last, &mut gathered)?;
        }
        last = table;
        gathered.extend(rows);
    }
    give(last, &mut gathered)
}

/// Rows of local tables by their keys, as the local checkpoint and the log after it have them.
type Local = BTreeMap<RelId, HashMap<Vec<u8>, Row>>;

async fn local_rows(program: &Program, folder: &mut Folder) -> Result<Local, ServerError> {
    let mut all = Local::new();
    if let Some(mut reader) = folder.read_checkpoint(Part::Local).await? {
        let tables = known_tables(program, reader.header())?;
        while let Some((table, rows)) = reader.next().await? {
            if let Some(rel) = tables.get(table as usize) {
                let keyed = rows
                    .into_iter()
                    .map(|row| (key_of(program.relation(*rel), &row), row));
                all.entry(*rel).or_default().extend(keyed);
            }
        }
    }
    for entry in std::mem::take(&mut folder.entries) {
        change(program, &mut all, entry)?;
    }
    Ok(all)
}

fn change(program: &Program, all: &mut Local, entry: Entry) -> Result<(), ServerError> {
    for change in entry {
        let rel = known_table(program, &change.table, None)?;
        let relation = program.relation(rel);
        let rows = all.entry(rel).or_default();
        if !change.insert {
            rows.remove(&change.row.0);
            continue;
        }
        let columns = relation.columns.len();
        let row = Row::check(change.row.0, columns).ok_or_else(|| ServerError::Apply {
            what: format!("a change of table {} in its log", change.table),
            why: format!("it is not {columns} packed values"),
        })?;
        rows.insert(key_of(relation, &row), row);
    }
    Ok(())
}

/// The values of slots, as this node's last votes have them.
fn values(program: &Program, local: &Local) -> BTreeMap<u64, Vec<u8>> {
    let accepted = program.find("accepted").and_then(|rel| local.get(&rel));
    let one = |row: &Row| {
        let (slot, vote) = packed::split_first(row.as_bytes());
        let slot = u64::try_from(packed::unpack_int(slot)?).ok()?;
        Some((slot, input::vote_value(vote)?.to_vec()))
    };
    let rows = accepted.into_iter().flat_map(HashMap::values);
    rows.filter_map(one).collect()
}

/// Applies the slots since the checkpoint that are known to be decided; what the rules say then was said before.
fn replay(rules: &mut Rules, folder: &Folder, local: &Local, io: &Io) -> Result<(), ServerError> {
    let from = folder.checkpoint.unwrap_or(0) + 1;
    if folder.applied < from {
        return Ok(());
    }
    if folder.other_rules {
        tracing::warn!(
            "the log since the last checkpoint was written under other rules; a clean stop before an upgrade avoids this"
        );
    }
    let values = values(&rules.program, local);
    tracing::info!("applying slots {from} to {}", folder.applied);
    let last = folder.applied - u64::from(makes(Mistake::ReplayLeavesOutLast));
    for (i, slot) in (from..=last).enumerate() {
        let apply = |why: String| ServerError::Apply {
            what: format!("slot {slot} of its log"),
            why,
        };
        let value = values
            .get(&slot)
            .ok_or_else(|| apply("the log has no value of it".to_owned()))?;
        let mut bytes = Row::new(&[Value::Int(i64::try_from(slot).unwrap_or(i64::MAX))])
            .as_bytes()
            .to_vec();
        bytes.extend_from_slice(value);
        let row = Row::check(bytes, 2).ok_or_else(|| apply("its value is none".to_owned()))?;
        match rules.run(vec![(rules.inputs.decided, row)], now(io)) {
            Ok(_) => {}
            // Dropped then as it is dropped now: limits are counted, not timed.
            Err(e @ api::RunError::Limit { .. }) => {
                tracing::warn!("slot {slot} has no effect: {e}");
                let row = input::nothing(slot);
                rules
                    .run(vec![(rules.inputs.decided, row)], now(io))
                    .map_err(|e| apply(e.to_string()))?;
            }
            Err(e) => return Err(apply(e.to_string())),
        }
        if (i + 1) % REPLAY_REPORT == 0 {
            tracing::info!("applied {} slots", i + 1);
        }
    }
    Ok(())
}

impl Rules {
    /// Makes a node of the rules, for the NameNode whose folder has this nonce.
    ///
    /// # Errors
    /// They lack an event, or a view cannot be built.
    pub fn new(planned: &Planned, nonce: u64, metrics: Arc<Metrics>) -> Result<Rules, ServerError> {
        let program = Arc::clone(planned.program());
        let (inputs, outputs) = (Inputs::find(&program)?, Outputs::find(&program)?);
        let observed = Observed::find(&program)?;
        let peer_events = PeerEvents::find(&program)?;
        let timers = timers(&program);
        let options = api::Options {
            observe: observed.all(),
            // The log has them already, as votes.
            replicated_changes: false,
            ..api::Options::new(Value::addr(input::peer_addr(nonce)))
        };
        let node = Node::of(planned, options).map_err(|e| ServerError::Rules(e.to_string()))?;
        Ok(Rules {
            node,
            program,
            inputs,
            outputs,
            observed,
            peer_events,
            timers,
            metrics,
            limiter: Default::default(),
        })
    }

    fn start(&mut self, new: bool, time: Time) -> Result<Output, ServerError> {
        let output = self
            .node
            .start(new, time)
            .map_err(|e| ServerError::Rules(e.to_string()))?;
        self.note(&output, time);
        Ok(output)
    }
}
