//! A NameNode, DataNodes and clients in one world.

use anyhow::{Context, Result, bail, ensure};
use boomfs_client::Client;
use boomfs_datanode::DataNode;
use boomfs_io::Io;
use boomfs_io::sim::{Unsynced, World};
use boomfs_namenode::Server;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::future::Future;
use std::time::Duration;

/// Block size of the cluster, bytes: small, so that a small file has several blocks.
pub const BLOCK: usize = 64 << 10;

const NAMENODE: &str = "nn:9000";

/// How long something that was set going may take, in virtual time.
const PATIENCE: Duration = Duration::from_secs(120);

/// A cluster in a world. Dropping it ends its nodes.
pub struct Cluster {
    world: World,
    namenode: Option<Server>,
    datanodes: BTreeMap<u32, DataNode>,
}

impl Cluster {
    /// Starts a NameNode and so many DataNodes, counted from 1, and waits until it knows them.
    ///
    /// # Errors
    /// A part does not start.
    pub async fn start(world: &World, datanodes: u32) -> Result<Cluster> {
        let mut cluster = Cluster {
            world: world.clone(),
            namenode: None,
            datanodes: BTreeMap::new(),
        };
        cluster.start_namenode().await?;
        for number in 1..=datanodes {
            cluster.start_datanode(number).await?;
        }
        Ok(cluster)
    }

    /// Starts the NameNode, anew or on the disk that it had.
    ///
    /// # Errors
    /// It does not start.
    pub async fn start_namenode(&mut self) -> Result<()> {
        let config = boomfs_namenode::Config {
            block_size: BLOCK as u64,
            segment_bytes: 1 << 20,
            ..boomfs_namenode::Config::new("/namenode", NAMENODE)
        };
        let server = Server::start_local(self.world.node("nn"), config).await?;
        self.namenode = Some(server);
        Ok(())
    }

    /// Starts a DataNode, anew or on the disk that it had, and waits until a NameNode knows it.
    ///
    /// # Errors
    /// It does not start, or is not known in time.
    pub async fn start_datanode(&mut self, number: u32) -> Result<()> {
        let name = datanode(number);
        let listen = format!("{name}:9100");
        let config = boomfs_datanode::Config::new("/datanode", listen, vec![NAMENODE.to_owned()]);
        let node = DataNode::start(self.world.node(&name), config).await?;
        ensure!(node.registered(PATIENCE).await, "{name} is not registered");
        self.datanodes.insert(number, node);
        Ok(())
    }

    /// Cuts the power of the NameNode.
    pub fn crash_namenode(&mut self) {
        self.world.crash_with("nn", Unsynced::Random);
        self.namenode = None;
    }

    /// Cuts the power of a DataNode; chance decides about what it had not synced.
    pub fn crash_datanode(&mut self, number: u32) {
        self.crash_datanode_with(number, Unsynced::Random);
    }

    /// Cuts the power of a DataNode.
    pub fn crash_datanode_with(&mut self, number: u32, unsynced: Unsynced) {
        self.world.crash_with(&datanode(number), unsynced);
        self.datanodes.remove(&number);
    }

    /// A client with a session, on a node of its own.
    ///
    /// # Errors
    /// It cannot connect.
    pub async fn client(&self, name: &str) -> Result<Client> {
        let config = boomfs_client::Config::new(vec![NAMENODE.to_owned()], name);
        Ok(Client::connect(self.world.node(name), config).await?)
    }

    /// Stops everything cleanly.
    ///
    /// # Errors
    /// The NameNode does not stop cleanly.
    pub async fn stop(mut self) -> Result<()> {
        for (_, node) in std::mem::take(&mut self.datanodes) {
            node.shutdown().await;
        }
        let namenode = self.namenode.take().context("no NameNode runs")?;
        namenode.shutdown().await?;
        Ok(())
    }
}

fn datanode(number: u32) -> String {
    format!("dn{number}")
}

/// Awaits what somebody does, and notes in the world's trace what came of it.
///
/// # Errors
/// What it gives itself.
pub async fn noted<T: Debug, E: Debug>(
    world: &World,
    what: &str,
    act: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    let outcome = act.await;
    world.note(&format!("{what}: {outcome:?}"));
    outcome
}

/// Waits until the rows of a query are as wanted.
///
/// # Errors
/// It fails, or has others at the deadline, which are named.
pub async fn until(
    io: &Io,
    client: &Client,
    query: &str,
    wanted: impl Fn(&[String]) -> bool,
) -> Result<()> {
    let deadline = io.mono_ns() + u64::try_from(PATIENCE.as_nanos())?;
    loop {
        let rows = client.query(query, 10).await?.rows;
        if wanted(&rows) {
            return Ok(());
        }
        if io.mono_ns() >= deadline {
            bail!("{query} still has {rows:?} after {PATIENCE:?}");
        }
        io.sleep(Duration::from_millis(200)).await;
    }
}
