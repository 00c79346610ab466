//! A DataNode as a whole: starts its parts and stops them.

use crate::error::Error;
use crate::link::{self, Reporter};
use crate::metrics::Metrics;
use crate::server::{self, Context};
use crate::store::{Options, Store};
use boomfs_io::{Io, watch};
use boomfs_wire::{ClusterId, NodeId, ReplicaInfo};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;

/// How a clean stop may last before it is given up.
const STOP: Duration = Duration::from_secs(30);

/// How to run a DataNode.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// The data folder; made when it is missing.
    pub data: PathBuf,
    /// Where to listen, `host:port`; port 0 picks one.
    pub listen: String,
    /// The address that others are told, where it is not the one listened on.
    pub advertise: Option<String>,
    /// Addresses of the NameNodes.
    pub namenodes: Vec<String>,
    /// Most bytes that replicas may take; `None` is all that the disk has.
    pub capacity: Option<u64>,
    /// Bytes that stay free on the disk; `None` is 16 MiB.
    pub reserve: Option<u64>,
}

impl Config {
    /// A DataNode that may use all of its disk.
    pub fn new(
        data: impl Into<PathBuf>,
        listen: impl Into<String>,
        namenodes: Vec<String>,
    ) -> Config {
        Config {
            data: data.into(),
            listen: listen.into(),
            namenodes,
            ..Config::default()
        }
    }
}

/// A DataNode that runs. Dropping it stops it as a crash would; see [`DataNode::shutdown`].
pub struct DataNode {
    addr: String,
    context: Arc<Context>,
    stop: watch::Sender<bool>,
    failed: watch::Receiver<Option<Arc<Error>>>,
    tasks: JoinSet<()>,
}

impl DataNode {
    /// Opens the data folder, recovers what a crash left, listens, and begins to look for its
    /// NameNodes. Does not wait for them: see [`DataNode::registered`].
    ///
    /// # Errors
    /// A data folder that is in use, foreign, of a newer format or corrupt (nothing in it is
    /// changed then), a disk that fails, an address that cannot be listened on.
    pub async fn start(io: Io, config: Config) -> Result<DataNode, Error> {
        let metrics = Arc::new(Metrics::default());
        let reporter = Arc::new(Reporter::new(config.namenodes.len()));
        let (failure, failed) = watch::channel(None);
        let options = Options {
            data: config.data.clone(),
            capacity: config.capacity.unwrap_or(0),
            reserve: config.reserve.unwrap_or(16 << 20),
        };
        let store = Store::open(&io, options, &metrics, &reporter, failure).await?;
        let listener = io.listen(&config.listen).await;
        let listener = listener.map_err(Error::io("cannot listen", Path::new(&config.listen)))?;
        let addr = config
            .advertise
            .clone()
            .unwrap_or_else(|| listener.local_addr());
        let context = Arc::new(Context::new(io, store, metrics, reporter));
        let stop = watch::Sender::new(false);
        let mut tasks = JoinSet::new();
        tasks.spawn(server::serve(context.clone(), listener, stop.subscribe()));
        tasks.spawn(housekeep(context.clone(), stop.subscribe()));
        for (at, namenode) in config.namenodes.iter().enumerate() {
            let link = link::Link::new(context.clone(), namenode.clone(), at, addr.clone());
            tasks.spawn(link.run(stop.subscribe()));
        }
        Ok(DataNode {
            addr,
            context,
            stop,
            failed,
            tasks,
        })
    }

    /// Where clients and other DataNodes reach it, `host:port`.
    pub fn addr(&self) -> String {
        self.addr.clone()
    }

    /// Its counters.
    pub fn metrics(&self) -> Arc<Metrics> {
        self.context.metrics.clone()
    }

    /// Its cluster and id, 0 before the first NameNode said which.
    pub async fn identity(&self) -> (ClusterId, NodeId) {
        let identity = self.context.store.identity().await;
        (identity.cluster, identity.node)
    }

    /// Waits until a NameNode has welcomed it since the start. Answers `false` at the deadline.
    pub async fn registered(&self, deadline: Duration) -> bool {
        let mut welcomed = self.context.welcomed.subscribe();
        let come = self.context.io.timeout(deadline, welcomed.wait_for(|w| *w));
        matches!(come.await, Ok(Ok(_)))
    }

    /// The replicas that it serves.
    pub fn replicas(&self) -> Vec<ReplicaInfo> {
        self.context.store.report()
    }

    /// Waits until the DataNode cannot go on, and answers why: its disk failed, or its NameNode
    /// serves another cluster. Waits for ever while all is well.
    pub async fn failed(&self) -> Arc<Error> {
        let mut failed = self.failed.clone();
        match failed.wait_for(Option::is_some).await {
            Ok(Some(error)) => error,
            // The store holds the sender for as long as this DataNode lives.
            _ => std::future::pending().await,
        }
    }

    /// Stops: ends connections, brings everything to the disk, lets go of the data folder.
    pub async fn shutdown(mut self) {
        self.stop.set(true);
        let io = self.context.io.clone();
        let store = self.context.store.clone();
        let ended = async {
            while self.tasks.join_next().await.is_some() {}
            store.close().await;
        };
        if io.timeout(STOP, ended).await.is_err() {
            tracing::warn!(
                "the DataNode did not stop cleanly within {STOP:?}; its journal is replayed at the next start"
            );
        }
    }
}

impl Drop for DataNode {
    fn drop(&mut self) {
        // Tasks end by themselves, between two changes of the disk.
        self.stop.set(true);
        self.tasks.detach_all();
    }
}

/// Every second what the store does by itself; every minute the trash.
async fn housekeep(context: Arc<Context>, mut stop: watch::Receiver<bool>) {
    let mut round: u64 = 0;
    loop {
        tokio::select! {
            biased;
            _ = stop.wait_for(|s| *s) => return,
            () = context.io.sleep(Duration::from_secs(1)) => {}
        }
        context.store.tick().await;
        if round.is_multiple_of(60) {
            context.store.purge_trash().await;
        }
        round += 1;
    }
}
