//! NameNodes and DataNodes in a world in which things go wrong.

#[path = "rot.rs"]
mod rot;

use crate::faults::Fault;
use anyhow::{Context, Result, bail};
use boomfs_client::{Caller, Client, Config, Error, NodeId, errno};
use boomfs_datanode::DataNode;
use boomfs_io::Io;
use boomfs_io::sim::{Unsynced, World};
use boomfs_namenode::planted::{Mistake, plant};
use boomfs_namenode::{Reads, Server};
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;
use tokio::task::JoinHandle;

/// How long the cluster may take to be whole again.
const PATIENCE: Duration = Duration::from_secs(90);
/// Space on a disk that is not full, bytes.
const CAPACITY: u64 = 64 << 30;
/// Hosts of clients.
const USERS: [&str; 2] = ["user", "look"];

/// A NameNode that gets another disk, and so is another one from then on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Renewed {
    /// Its disk is gone: it is admitted in its own place.
    Lost(usize),
    /// It is to be removed from the cluster first.
    Leaves(usize),
    /// It was removed, and its disk is gone: it is admitted like any other.
    Left(usize),
}

/// What runs on a node.
enum Running {
    NameNode(Server),
    DataNode(DataNode),
}

/// See the module. Clones are the same cluster.
#[derive(Clone)]
pub struct Group {
    world: World,
    io: Io,
    namenodes: usize,
    renewed: Rc<Cell<Option<Renewed>>>,
    /// What is being done about it.
    renewing: Rc<Cell<Option<JoinHandle<()>>>>,
    /// What rotted.
    rotten: Rc<RefCell<rot::Rotten>>,
    /// Whoever loses its disk comes back under its old identity, which is a mistake.
    pub made_again: bool,
    /// How a leader knows that it leads.
    reads: Reads,
    nodes: Rc<RefCell<Vec<Option<Running>>>>,
}

/// What a NameNode is called in the log until it is renewed.
fn first_id(at: usize) -> NodeId {
    NodeId(at as u64 + 1)
}

impl Group {
    /// Starts a cluster: the first NameNode founds it, the others join and are admitted.
    ///
    /// # Errors
    /// A part does not start.
    pub async fn start(world: &World, namenodes: usize, datanodes: usize) -> Result<Group> {
        Group::start_with(world, namenodes, datanodes, Reads::Lease).await
    }

    /// The same; leaders know in this way that they lead.
    ///
    /// # Errors
    /// A part does not start.
    pub async fn start_with(
        world: &World,
        namenodes: usize,
        datanodes: usize,
        reads: Reads,
    ) -> Result<Group> {
        let nodes = (0..namenodes + datanodes).map(|_| None).collect();
        let group = Group {
            world: world.clone(),
            io: world.node("fate"),
            namenodes,
            renewed: Rc::default(),
            renewing: Rc::default(),
            rotten: Rc::default(),
            made_again: false,
            reads,
            nodes: Rc::new(RefCell::new(nodes)),
        };
        for at in 0..namenodes + datanodes {
            group.start_one(at).await?;
            if (1..namenodes).contains(&at) {
                group.admit(at).await?;
            }
        }
        Ok(group)
    }

    /// Where a node is.
    pub fn host(&self, at: usize) -> String {
        if at < self.namenodes {
            format!("nn{at}")
        } else {
            format!("dn{}", at - self.namenodes)
        }
    }

    pub fn addr(&self, at: usize) -> String {
        format!("{}:9000", self.host(at))
    }

    /// Where the NameNodes listen.
    pub fn addrs(&self) -> Vec<String> {
        (0..self.namenodes).map(|at| self.addr(at)).collect()
    }

    fn count(&self) -> usize {
        self.nodes.borrow().len()
    }

    fn runs(&self, at: usize) -> bool {
        self.nodes.borrow().get(at).is_some_and(Option::is_some)
    }

    fn set(&self, at: usize, running: Option<Running>) {
        // Dropped after the borrow: it may do something on its way.
        let before = match self.nodes.borrow_mut().get_mut(at) {
            Some(place) => std::mem::replace(place, running),
            None => running,
        };
        drop(before);
    }

    /// Starts a node again. One that refuses what is on its disk after that has rotted is given another.
    async fn start_again(&self, at: usize) -> Result<()> {
        match self.start_one(at).await {
            Err(why) if self.is_rotten(at) => {
                self.world
                    .note(&format!("{} refuses: {why:#}", self.host(at)));
                self.note_replaced();
                self.lose_disk(at).await;
                Ok(())
            }
            other => other,
        }
    }

    async fn start_one(&self, at: usize) -> Result<()> {
        let io = self.world.node(&self.host(at));
        let running = if at < self.namenodes {
            // The founder needs nobody, unless its folder is gone.
            let join = match at {
                0 if !self.has_new_disk(at) => Vec::new(),
                _ => (0..self.namenodes)
                    .filter(|n| *n != at)
                    .map(|n| self.addr(n))
                    .collect(),
            };
            let config = boomfs_namenode::Config {
                join,
                reads: self.reads,
                block_size: 64 << 10,
                segment_bytes: 64 << 10,
                checkpoint_slots: 60,
                ..boomfs_namenode::Config::new("/namenode", self.addr(at))
            };
            Server::start_local(io, config)
                .await
                .map(Running::NameNode)
                .map_err(anyhow::Error::from)
        } else {
            let config = boomfs_datanode::Config::new("/datanode", self.addr(at), self.addrs());
            DataNode::start(io, config)
                .await
                .map(Running::DataNode)
                .map_err(anyhow::Error::from)
        };
        let running = running.with_context(|| self.host(at))?;
        self.set(at, Some(running));
        Ok(())
    }

    /// What tells the data folder of a NameNode from others.
    pub fn nonce(&self, at: usize) -> Option<u64> {
        match self.nodes.borrow().get(at) {
            Some(Some(Running::NameNode(server))) => Some(server.nonce()),
            _ => None,
        }
    }

    async fn admit(&self, at: usize) -> Result<()> {
        let nonce = self.nonce(at).with_context(|| self.host(at))?;
        let client = self.admin().await?;
        let node = client
            .add_namenode(&Caller::default(), &self.addr(at), nonce, self.replaces(at))
            .await?;
        loop {
            let status = client.status().await?;
            if status.namenodes.iter().any(|n| n.node == node && n.votes) {
                break;
            }
            self.io.sleep(Duration::from_millis(20)).await;
        }
        Ok(client.close().await?)
    }

    /// The node in whose place one is admitted.
    fn replaces(&self, at: usize) -> NodeId {
        match self.renewed.get() == Some(Renewed::Lost(at)) {
            true => first_id(at),
            false => NodeId(0),
        }
    }

    fn has_new_disk(&self, at: usize) -> bool {
        [Renewed::Lost(at), Renewed::Left(at)]
            .map(Some)
            .contains(&self.renewed.get())
    }

    async fn admin(&self) -> Result<Client> {
        let config = Config::new(self.addrs(), "admin");
        Ok(Client::connect(self.world.node("admin"), config).await?)
    }

    /// A NameNode is removed from the cluster; tried before, it may be gone already.
    async fn remove(&self, at: usize) -> Result<()> {
        let (client, node) = (self.admin().await?, first_id(at));
        loop {
            match client.remove_namenode(&Caller::default(), node).await {
                Err(Error::Refused(why)) if why.errno == errno::ENOENT => break,
                Err(Error::Refused(why)) if why.errno == errno::EBUSY => {
                    self.io.sleep(Duration::from_millis(20)).await;
                }
                other => {
                    other?;
                    break;
                }
            }
        }
        while client
            .status()
            .await?
            .namenodes
            .iter()
            .any(|n| n.node == node && n.votes)
        {
            self.io.sleep(Duration::from_millis(20)).await;
        }
        Ok(client.close().await?)
    }

    /// Brings the NameNode that is to be renewed as far as it goes.
    async fn renew(&self) -> Result<()> {
        match self.renewed.get() {
            None => Ok(()),
            Some(Renewed::Lost(at) | Renewed::Left(at)) => self.admit(at).await,
            Some(Renewed::Leaves(at)) => {
                self.remove(at).await?;
                self.world.note(&format!("{} has left", self.host(at)));
                self.world.crash_and_lose_disk(&self.host(at));
                self.set(at, None);
                self.renewed.set(Some(Renewed::Left(at)));
                self.start_one(at).await?;
                self.admit(at).await
            }
        }
    }

    /// A NameNode is removed, and another one added where it was. In the midst of trouble that may come to nothing: the
    /// calm sees to it then.
    async fn rejoin(&self, at: usize) {
        self.renewed.set(Some(Renewed::Leaves(at)));
        if let Err(why) = self.renew().await {
            self.world
                .note(&format!("{} is not renewed yet: {why:#}", self.host(at)));
        }
    }

    /// A NameNode loses its disk, and takes its own place with another: under a new identity, as whoever loses what it
    /// promised must.
    async fn lose_disk(&self, at: usize) {
        let nonce = self.nonce(at);
        self.world.crash_and_lose_disk(&self.host(at));
        self.set(at, None);
        self.renewed.set(Some(Renewed::Lost(at)));
        if self.made_again {
            plant(nonce.map(Mistake::MadeAgainAs));
        }
        let started = self.start_one(at).await;
        if self.made_again {
            self.renewed.set(None);
            plant(None);
        }
        let admitted = match started {
            Ok(()) => self.admit(at).await,
            Err(why) => Err(why),
        };
        if let Err(why) = admitted {
            self.world.note(&format!(
                "{} does not come back yet: {why:#}",
                self.host(at)
            ));
        }
    }

    fn crash(&self, at: usize, unsynced: Unsynced) {
        self.world.crash_with(&self.host(at), unsynced);
        self.set(at, None);
    }

    /// Does something after a while.
    fn later(&self, ms: u64, act: impl AsyncFnOnce(Group) + 'static) -> JoinHandle<()> {
        let group = self.clone();
        tokio::task::spawn_local(async move {
            group.io.sleep(Duration::from_millis(ms)).await;
            act(group).await;
        })
    }

    fn everybody(&self) -> Vec<String> {
        let nodes = (0..self.count()).map(|at| self.host(at));
        nodes.chain(USERS.map(str::to_owned)).collect()
    }

    fn alone(&self, host: &str) {
        for other in self.everybody().iter().filter(|other| *other != host) {
            self.world.partition(host, other, true);
        }
    }

    fn join_all(&self) {
        let all = self.everybody();
        for a in &all {
            for b in all.iter().filter(|b| *b != a) {
                self.world.cut(a, b, false);
            }
        }
    }

    /// Something goes wrong, or is mended. What does not fit the moment does nothing.
    pub fn harm(&self, fault: Fault) {
        let world = &self.world;
        match fault {
            Fault::Crash(at, unsynced, down_ms) if self.runs(at) => {
                self.crash(at, unsynced);
                self.later(down_ms, async move |group| {
                    // A start in the midst of trouble may fail: the calm starts it again.
                    if !group.runs(at)
                        && let Err(why) = group.start_again(at).await
                    {
                        group
                            .world
                            .note(&format!("{} does not start: {why:#}", group.host(at)));
                    }
                });
            }
            Fault::Crash(..) => {}
            Fault::LoseDisk(at) => {
                let task = self.later(0, async move |group| group.lose_disk(at).await);
                self.renewing.set(Some(task));
            }
            Fault::Rejoin(at) => {
                let task = self.later(0, async move |group| group.rejoin(at).await);
                self.renewing.set(Some(task));
            }
            Fault::Rot(at, which) if at < self.namenodes => {
                self.later(0, async move |group| group.rot_namenode(at, which).await);
            }
            Fault::Rot(at, which) => {
                self.later(0, async move |group| group.rot_replicas(at, which).await);
            }
            Fault::Cut(a, b) => world.cut(&self.host(a), &self.host(b), true),
            Fault::Part(a, b) => world.partition(&self.host(a), &self.host(b), true),
            Fault::Alone(at) => self.alone(&self.host(at)),
            Fault::Apart(at) => {
                for other in (0..self.namenodes).filter(|other| *other != at) {
                    world.partition(&self.host(at), &self.host(other), true);
                }
            }
            Fault::PartUsers(at) => {
                for user in USERS {
                    world.partition(&self.host(at), user, true);
                }
            }
            Fault::Join => self.join_all(),
            Fault::Reset(a, b) => world.reset(&self.host(a), &self.host(b)),
            Fault::Pause(at, ms) => {
                world.pause(&self.host(at), true);
                self.later(ms, async move |group| {
                    group.world.pause(&group.host(at), false);
                });
            }
            Fault::SlowDisk(at, ms) => world.set_sync_delay_ms(&self.host(at), ms),
            Fault::FailSync(at) => world.fail_next_sync(&self.host(at)),
            Fault::FillDisk(at, ms) => {
                world.set_capacity(&self.host(at), 0);
                self.later(ms, async move |group| {
                    group.world.set_capacity(&group.host(at), CAPACITY);
                });
            }
            Fault::Jump(at, ms) => world.set_clock_offset_ns(&self.host(at), ms * 1_000_000),
            Fault::Drift(at, ppm) => world.set_clock_drift_ppm(&self.host(at), ppm),
            Fault::Latency(ms) => world.set_latency_ms(0, ms),
        }
    }

    /// Nodes that do not run, or no longer.
    async fn ended(&self) -> Result<Vec<usize>> {
        let asked = (0..self.count()).map(|at| {
            let group = self.clone();
            let ended = async move { group.has_ended(at).await.then_some(at) };
            tokio::task::spawn_local(ended)
        });
        let mut ended = Vec::new();
        for one in asked.collect::<Vec<_>>() {
            ended.extend(one.await?);
        }
        Ok(ended)
    }

    async fn has_ended(&self, at: usize) -> bool {
        let running = match self.nodes.borrow_mut().get_mut(at) {
            Some(place) => place.take(),
            None => None,
        };
        let ended = match &running {
            // One that failed a sync has ended; it may be doing so now.
            Some(Running::NameNode(server)) => {
                let end = self.io.timeout(Duration::from_millis(300), server.ended());
                end.await.is_ok()
            }
            Some(Running::DataNode(node)) => {
                let end = self.io.timeout(Duration::from_millis(300), node.failed());
                end.await.is_ok()
            }
            None => true,
        };
        self.set(at, running);
        ended
    }

    /// Why a NameNode has ended by itself.
    ///
    /// # Errors
    /// It runs.
    pub async fn why_ended(&self, at: usize) -> Result<String> {
        let running = match self.nodes.borrow_mut().get_mut(at) {
            Some(place) => place.take(),
            None => None,
        };
        let Some(Running::NameNode(server)) = &running else {
            bail!("{} is no NameNode that was started", self.host(at));
        };
        let ended = self
            .io
            .timeout(Duration::from_secs(5), server.ended())
            .await;
        match ended.with_context(|| format!("{} runs", self.host(at)))? {
            Ok(()) => bail!("{} has ended as it should", self.host(at)),
            Err(why) => Ok(why.to_string()),
        }
    }

    /// Everything is mended, and who does not run is started.
    ///
    /// # Errors
    /// One does not start.
    pub async fn calm(&self) -> Result<()> {
        self.join_all();
        self.world.set_latency_ms(0, 2);
        for at in 0..self.count() {
            let host = self.host(at);
            self.world.pause(&host, false);
            self.world.mend_disk(&host);
        }
        // What was to happen later has happened.
        self.io.sleep(Duration::from_secs(2)).await;
        if let Some(task) = self.renewing.take() {
            task.abort();
            // What it has not done is done below.
            let _ = task.await;
        }
        let mut ended = self.ended().await?;
        // One without a disk asks the others who they are: they come first.
        ended.sort_by_key(|at| self.has_new_disk(*at) || self.is_rotten(*at));
        for at in ended {
            self.crash(at, Unsynced::Random);
            self.start_again(at).await?;
        }
        self.renew().await
    }

    /// Waits until all NameNodes have applied the same slots, and compares what they have then.
    ///
    /// # Errors
    /// They do not come to the same state.
    pub async fn settle(&self) -> Result<()> {
        let started = self.io.mono_ns();
        let mut last = String::new();
        while Duration::from_nanos(self.io.mono_ns() - started) < PATIENCE {
            let mut states = Vec::new();
            for at in 0..self.namenodes {
                states.push(self.state(at).await.unwrap_or_else(|e| format!("{e:#}")));
            }
            let first = states.first().cloned().unwrap_or_default();
            if first.starts_with('[') && states.iter().all(|state| *state == first) {
                return Ok(());
            }
            last = states.join("\n");
            self.io.sleep(Duration::from_millis(200)).await;
        }
        bail!("the NameNodes do not come to the same state:\n{last}")
    }

    /// Clock, counters, tree, blocks and sessions of one NameNode, as it has applied them.
    async fn state(&self, at: usize) -> Result<String> {
        let config = Config {
            stale: true,
            deadline: Duration::from_secs(2),
            ..Config::new(vec![self.addr(at)], "look")
        };
        let client = Client::observer(self.world.node("look"), config).await?;
        let mut text = String::new();
        for query in [
            "? c(S, T) :- clock(S, T);",
            "? n(N, R) :- counter(N, R);",
            "? d(P, N, I) :- dentry(P, N, I, _);",
            "? i(I, L, C) :- inode(Ino: I, Nlink: L, Ctime: C);",
            "? f(I, O, B) :- fileblock(I, O, B);",
            "? b(B, G, L) :- block(Block: B, Generation: G, Length: L);",
            "? s(S, N, A) :- session(Session: S, Next: N, Ack: A);",
            "? m(N, A) :- namenode(N, _, A, _);",
        ] {
            let mut rows = client.query(query, 100_000).await?.rows;
            rows.sort();
            text += &format!("[{}] ", rows.join(" "));
        }
        client.close().await?;
        Ok(text)
    }
}
