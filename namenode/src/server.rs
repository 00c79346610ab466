//! The shell: sockets, the log and the rules, put together.
//!
//! Readers decode messages into events and queue them; the engine's loop takes what is queued, runs the rules once,
//! appends what they changed in local tables (promises and votes) to the log, and runs the slots that are known to be
//! decided, one a run. What rests on a promise or a vote is held in the outbox until the log has it on disk; the rest
//! leaves at once, for what was decided is on the disks of a majority.
//!
//! The engine's loop lives on one thread and is the only user of the rules. Everything else may
//! run anywhere.

mod boot;
mod checkpointer;
mod conn;
mod engine;
mod inbox;
mod outbox;
mod peers;
mod query;
mod reader;
#[cfg(test)]
mod tests;
mod transfer;

use crate::codec::Misfit;
use crate::metrics::Metrics;
use crate::rules;
use crate::store::StoreError;
use boomfs_io::{Io, watch};
use boomfs_wire::ClusterId;
use overlog::ir::Program;
use overlog::node::Planned;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::sync::oneshot;

/// How long connections may take to read their last messages when the NameNode stops.
const GOODBYE: Duration = Duration::from_secs(2);

/// How a NameNode is set up.
#[derive(Clone, Debug)]
pub struct Config {
    /// Its data folder.
    pub data: PathBuf,
    /// Where it listens, `host:port`; port 0 picks a free one.
    pub listen: String,
    /// The cluster that the folder must belong to; `None`: any.
    pub cluster: Option<ClusterId>,
    /// NameNodes of the cluster that a new data folder joins; none: it founds one. Later, NameNodes that may have been
    /// told another address: they are told this one.
    pub join: Vec<String>,
    /// Where others reach it, `host:port`; `None`: where it listens.
    pub advertise: Option<String>,
    /// Default replication of a new cluster.
    pub replication: u32,
    /// Default block size of a new cluster, bytes.
    pub block_size: u64,
    /// Slots between checkpoints, at most.
    pub checkpoint_slots: u64,
    /// Bytes of log between checkpoints, at most.
    pub checkpoint_bytes: u64,
    /// Size of a log segment, bytes.
    pub segment_bytes: u64,
    /// How a leader makes sure that it still leads before it answers a read.
    pub reads: Reads,
    /// Connections at a time, at most.
    pub max_connections: usize,
}

/// How a leader makes sure that it still leads before it answers a read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reads {
    /// It has a lease, counted on the monotonic clocks of all NameNodes, which may differ by a tenth.
    #[default]
    Lease,
    /// A majority says so after the read came, whatever the clocks do. That takes one more way there and back, once for
    /// all reads that wait.
    Confirm,
}

impl Config {
    /// Defaults: three replicas of blocks of 64 MiB, a checkpoint every 5,000 slots or 32 MiB.
    pub fn new(data: impl Into<PathBuf>, listen: impl Into<String>) -> Config {
        Config {
            data: data.into(),
            listen: listen.into(),
            cluster: None,
            join: Vec::new(),
            advertise: None,
            replication: 3,
            block_size: 64 << 20,
            checkpoint_slots: 5_000,
            checkpoint_bytes: 32 << 20,
            segment_bytes: 16 << 20,
            reads: Reads::default(),
            max_connections: 4_096,
        }
    }
}

/// Why a NameNode did not start, or stopped.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The data folder is refused, or the disk failed.
    #[error(transparent)]
    Store(#[from] Arc<StoreError>),
    /// The address cannot be listened on.
    #[error("NameNode: {0}; choose another address, or stop who uses it")]
    Listen(io::Error),
    /// The rules have errors.
    #[error("the NameNode's rules do not compile:\n{0}")]
    Rules(String),
    /// The rules lack something.
    #[error(transparent)]
    Misfit(#[from] Misfit),
    /// The rules did not take what the store holds.
    #[error(
        "the NameNode's rules cannot apply {what}: {why}; is the data folder of another release?"
    )]
    Apply {
        /// A checkpoint's table, or a slot of the log.
        what: String,
        /// Why not.
        why: String,
    },
    /// The leader has another state.
    #[error(
        "this NameNode's state after slot {slot} has digest {mine:016x}, the leader's has {leaders:016x}: one of them is wrong, so this one stops; if the others go on without it, start a new one with an empty folder in its place (boomfs namenode replace), and report it"
    )]
    Differs {
        /// The slot.
        slot: u64,
        /// The digest here.
        mine: u64,
        /// The leader's.
        leaders: u64,
    },
    /// None of the NameNodes of the cluster that is to be joined answers.
    #[error(
        "NameNode: no NameNode of the cluster to join answers ({0}); is it running, and is the address right?"
    )]
    Join(String),
    /// The thread or runtime could not be made, or ended.
    #[error("NameNode thread: {0}")]
    Thread(String),
}

impl From<StoreError> for ServerError {
    fn from(e: StoreError) -> ServerError {
        ServerError::Store(Arc::new(e))
    }
}

/// The rules that a NameNode runs.
#[derive(Clone)]
pub(crate) struct Rulebook {
    planned: Planned,
    /// Of their text.
    hash: u64,
}

impl Rulebook {
    fn new(program: Program, text: &str) -> Result<Rulebook, ServerError> {
        // FNV-1a, 64 bits.
        let step = |h: u64, b: u8| (h ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3);
        Ok(Rulebook {
            planned: Planned::new(Arc::new(program))
                .map_err(|e| ServerError::Rules(e.to_string()))?,
            hash: text.bytes().fold(0xcbf2_9ce4_8422_2325, step),
        })
    }

    /// The rules of this build: read and planned once, for all NameNodes of a process.
    fn own() -> Result<Rulebook, ServerError> {
        static OWN: OnceLock<Rulebook> = OnceLock::new();
        let read = || {
            let program = rules::program().map_err(|e| ServerError::Rules(e.render()))?;
            Rulebook::new(program, &rules::text())
        };
        if rules::are_changed() {
            return read();
        }
        match OWN.get() {
            Some(own) => Ok(own.clone()),
            None => read().map(|own| OWN.get_or_init(|| own).clone()),
        }
    }
}

/// How a NameNode is told to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// Not yet.
    Run,
    /// With a checkpoint.
    Clean,
    /// At once, as after a crash.
    Abort,
}

/// How it ended; `None` while it runs.
type Ended = Option<Result<(), Arc<ServerError>>>;

/// A NameNode that runs. Dropping it lets it stop by itself, cleanly.
#[derive(Debug)]
pub struct Server {
    addr: String,
    cluster: ClusterId,
    nonce: u64,
    metrics: Arc<Metrics>,
    stop: watch::Sender<Stop>,
    ended: watch::Receiver<Ended>,
}

/// What a loop that started says of itself.
struct Started {
    addr: String,
    cluster: ClusterId,
    nonce: u64,
    metrics: Arc<Metrics>,
}

impl Server {
    /// Starts a NameNode on a thread of its own, with a runtime of its own. Returns when it
    /// accepts connections.
    ///
    /// # Errors
    /// Every [`ServerError`]; a data folder that is refused stays as it was.
    pub async fn start(io: Io, config: Config) -> Result<Server, ServerError> {
        Server::start_with(io, config, Rulebook::own()?).await
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "the engine has a thread of its own; in a simulated world start_local takes its place"
    )]
    async fn start_with(io: Io, config: Config, rulebook: Rulebook) -> Result<Server, ServerError> {
        let (stop, stopped) = watch::channel(Stop::Run);
        let (ready, is_ready) = oneshot::channel();
        let (end, ended) = watch::channel(None);
        let thread = std::thread::Builder::new().name("namenode".to_owned());
        let body = move || {
            // One worker for sockets and the log, beside the engine on this thread.
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(1)
                .enable_all()
                .build();
            let runtime = match runtime {
                Ok(runtime) => runtime,
                Err(e) => {
                    let _ = ready.send(Err(ServerError::Thread(e.to_string())));
                    return;
                }
            };
            let local = tokio::task::LocalSet::new();
            local.block_on(&runtime, serve(io, config, rulebook, stopped, ready, end));
            // What still runs are connections that have nobody to talk to.
            drop(local);
            runtime.shutdown_background();
        };
        thread
            .spawn(body)
            .map_err(|e| ServerError::Thread(e.to_string()))?;
        Server::wait(stop, is_ready, ended).await
    }

    /// Starts a NameNode on the current `LocalSet`, for simulated worlds.
    ///
    /// # Errors
    /// As [`Server::start`].
    pub async fn start_local(io: Io, config: Config) -> Result<Server, ServerError> {
        Server::start_local_with(io, config, Rulebook::own()?).await
    }

    async fn start_local_with(
        io: Io,
        config: Config,
        rulebook: Rulebook,
    ) -> Result<Server, ServerError> {
        let (stop, stopped) = watch::channel(Stop::Run);
        let (ready, is_ready) = oneshot::channel();
        let (end, ended) = watch::channel(None);
        tokio::task::spawn_local(serve(io, config, rulebook, stopped, ready, end));
        Server::wait(stop, is_ready, ended).await
    }

    async fn wait(
        stop: watch::Sender<Stop>,
        ready: oneshot::Receiver<Result<Started, ServerError>>,
        ended: watch::Receiver<Ended>,
    ) -> Result<Server, ServerError> {
        match ready.await {
            Ok(Ok(Started {
                addr,
                cluster,
                nonce,
                metrics,
            })) => Ok(Server {
                addr,
                cluster,
                nonce,
                metrics,
                stop,
                ended,
            }),
            Ok(Err(e)) => Err(e),
            Err(_) => Err(ServerError::Thread(
                "it ended before it was ready".to_owned(),
            )),
        }
    }

    /// Where it listens, `host:port`.
    pub fn addr(&self) -> &str {
        &self.addr
    }

    /// Its cluster.
    pub fn cluster(&self) -> ClusterId {
        self.cluster
    }

    /// The number that its data folder is known by among NameNodes.
    pub fn nonce(&self) -> u64 {
        self.nonce
    }

    /// What it counts.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// Waits until it has ended, by itself or by [`Server::shutdown`].
    ///
    /// # Errors
    /// Why it stopped.
    pub async fn ended(&self) -> Result<(), Arc<ServerError>> {
        let mut ended = self.ended.clone();
        let result = ended.wait_for(Option::is_some).await.unwrap_or_default();
        result.unwrap_or_else(|| {
            Err(Arc::new(ServerError::Thread(
                "it ended without a word".to_owned(),
            )))
        })
    }

    /// Stops it: answers what was decided, writes a checkpoint, closes the folder.
    ///
    /// # Errors
    /// What failed; all that was acknowledged is in the log all the same.
    pub async fn shutdown(self) -> Result<(), Arc<ServerError>> {
        self.stop.set(Stop::Clean);
        self.ended().await
    }

    /// Stops it where it stands: no checkpoint, nothing more is written or answered.
    ///
    /// # Errors
    /// Why it had stopped before.
    pub async fn abort(self) -> Result<(), Arc<ServerError>> {
        self.stop.set(Stop::Abort);
        self.ended().await
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.change(|stop| {
            let running = *stop == Stop::Run;
            if running {
                *stop = Stop::Clean;
            }
            running
        });
    }
}

/// Boots and runs until told to stop; anew, when it has fetched a newer state than it had.
async fn serve(
    io: Io,
    config: Config,
    rulebook: Rulebook,
    mut stopped: watch::Receiver<Stop>,
    ready: oneshot::Sender<Result<Started, ServerError>>,
    end: watch::Sender<Ended>,
) {
    // First of all, so that an address in use is said at once; clients that come now wait.
    let listener = match io.listen(&config.listen).await {
        Ok(listener) => Arc::new(listener),
        Err(e) => {
            let _ = ready.send(Err(ServerError::Listen(e)));
            return;
        }
    };
    let mut ready = Some(ready);
    let metrics = Arc::new(Metrics::default());
    let addr = listener.local_addr();
    let result = loop {
        let booted = match boot::boot(&io, &config, &rulebook, &addr, &metrics).await {
            Ok(booted) => booted,
            Err(e) => match ready.take() {
                Some(ready) => {
                    let _ = ready.send(Err(e));
                    return;
                }
                None => break Err(e),
            },
        };
        let boot::Booted {
            engine,
            shared,
            ready: serves,
        } = booted;
        let started = Started {
            addr: addr.clone(),
            cluster: shared.about().cluster,
            nonce: shared.peers.me().nonce,
            metrics: metrics.clone(),
        };
        let accepting = tokio::spawn(reader::accept(shared.clone(), listener.clone()));
        let running = engine.run(&mut stopped);
        let told = async {
            if serves.await.is_ok()
                && let Some(ready) = ready.take()
            {
                let _ = ready.send(Ok(started));
            }
            std::future::pending::<()>().await;
        };
        let result = tokio::select! {
            biased;
            result = running => result,
            () = told => continue,
        };
        accepting.abort();
        // The port is free, and the folder's lock released, once `ended` says so.
        let _ = accepting.await;
        shared.outbox.close_all();
        // What was said reaches those who read.
        let _ = shared.io.timeout(GOODBYE, shared.outbox.empty()).await;
        match result {
            Ok(engine::Exit::Anew) => {}
            Ok(engine::Exit::Stopped) => break Ok(()),
            Err(e) => break Err(e),
        }
    };
    drop(listener);
    let result = result.map_err(Arc::new);
    if let Err(e) = &result {
        tracing::error!("NameNode stops: {e}");
    }
    if let Some(ready) = ready {
        let why = match &result {
            Ok(()) => "it was told to stop before it was ready".to_owned(),
            Err(e) => e.to_string(),
        };
        let _ = ready.send(Err(ServerError::Thread(why)));
    }
    end.set(Some(result));
}
