//! `boomfs up`: a whole cluster in one process, mounted.

use crate::cluster::{self, ClusterFile, DataFolder};
use crate::signals::Signals;
use crate::{cli, members, mountpoint, output};
use anyhow::{Context, anyhow, bail};
use boomfs_client::{Client, Config, Status};
use boomfs_datanode::DataNode;
use boomfs_fuse_mount::Mount;
use boomfs_io::Io;
use boomfs_namenode::Server;
use std::path::{Path, PathBuf};
use std::task::Poll;
use std::time::Duration;

/// How long to wait for all DataNodes to be known and to have reported.
const ASSEMBLY: Duration = Duration::from_secs(10);
/// How often to ask whether they have.
const POLL: Duration = Duration::from_millis(50);
/// How long one part may take to stop.
const STOPPING: Duration = Duration::from_secs(30);

/// Arguments of `boomfs up`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Where to mount; made if only its last component is missing
    #[arg(long, value_name = "DIR")]
    mount: PathBuf,
    /// Data folder; made if it is missing, and gone on with if it is there
    #[arg(long, value_name = "DIR", default_value = "./boomfs-data")]
    data: PathBuf,
    /// DataNodes [default: 3, or as many as the data folder has]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    datanodes: Option<u32>,
    /// Replicas of each block, for a new data folder [default: 3, or as many as there are DataNodes]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    replication: Option<u32>,
    /// NameNodes: with 3 the cluster outlives one of them, with 5 two [default: 1, or as many as the data folder has]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=7))]
    namenodes: Option<u32>,
    /// Block size of a new data folder: a multiple of 4K [default: 64MiB]
    #[arg(long, value_name = "BYTES", value_parser = cli::block_size)]
    block_size: Option<u64>,
    /// Mount options, as in -o ro,sync
    #[arg(short, value_name = "OPTIONS")]
    options: Vec<String>,
}

/// Runs the cluster until this process is asked to stop, or its mount is unmounted.
///
/// # Errors
/// What does not start, with the reason; everything that did is stopped again.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let options = mountpoint::options(&args.options)?;
    let mut signals = Signals::install()?;
    let io = Io::real();
    if !args.data.exists() {
        // Nothing is left behind where it could not be mounted anyway.
        mountpoint::prepare(&args.mount)?;
    }
    let folder = DataFolder::open(&io, &args.data).await?;
    let path = mountpoint::prepare(&args.mount)?;
    let mut parts = Parts::default();
    let started = tokio::select! {
        biased;
        signal = signals.next() => Err(anyhow!("stopped by {signal} before the mount was ready")),
        started = start(&io, &args, &folder, &path, options, &mut parts) => started,
    };
    if let Err(error) = started {
        parts.stop(&io, &mut signals).await;
        return Err(error);
    }
    let outcome = parts.run(&mut signals).await;
    let file = ClusterFile::new(
        parts.namenode_addresses(),
        parts.datanode_addresses(),
        None,
        None,
    );
    let clean = parts.stop(&io, &mut signals).await;
    file.write(&io, &folder.path).await?;
    outcome?;
    if !clean {
        bail!("not everything stopped as it should; the next start checks what is on disk");
    }
    Ok(())
}

/// What runs.
#[derive(Default)]
struct Parts {
    namenodes: Vec<Server>,
    datanodes: Vec<DataNode>,
    client: Option<Client>,
    mount: Option<Mount>,
}

async fn start(
    io: &Io,
    args: &Args,
    folder: &DataFolder,
    path: &Path,
    options: boomfs_fuse_mount::Options,
    parts: &mut Parts,
) -> anyhow::Result<()> {
    let asked = args.datanodes.map_or(
        if folder.datanodes == 0 {
            3
        } else {
            folder.datanodes
        },
        |n| n as usize,
    );
    if asked < folder.datanodes {
        tracing::warn!(
            "starting {asked} of the {} DataNodes in {}",
            folder.datanodes,
            folder.path.display()
        );
    }
    let most = u32::try_from(asked).unwrap_or(u32::MAX);
    for number in 1..=namenodes_asked(args, folder) {
        let listen = folder.namenode_address(number);
        let mut config = boomfs_namenode::Config::new(folder.namenode(number), listen);
        config.replication = args.replication.unwrap_or(config.replication.min(most));
        config.block_size = args.block_size.unwrap_or(config.block_size);
        // The first founds a new cluster; the others join it, or tell those before them where they are now.
        config.join = parts.namenode_addresses();
        let namenode = Server::start(io.clone(), config).await;
        let namenode = namenode.with_context(|| format!("NameNode {number}"))?;
        parts.namenodes.push(namenode);
    }
    let namenodes = parts.namenode_addresses();
    // All at once: each has to look through its replicas first.
    let starting: Vec<_> = (1..=asked)
        .map(|number| {
            let listen = folder.datanode_address(number);
            let data = folder.datanode(number);
            let config = boomfs_datanode::Config::new(data, listen, namenodes.clone());
            tokio::spawn(DataNode::start(io.clone(), config))
        })
        .collect();
    let mut failed = None;
    for (at, start) in starting.into_iter().enumerate() {
        let of = || format!("DataNode {}", at + 1);
        match start.await.with_context(of)?.with_context(of) {
            Ok(node) => parts.datanodes.push(node),
            Err(why) => failed = failed.or(Some(why)),
        }
    }
    if let Some(why) = failed {
        return Err(why);
    }
    let name = cluster::session_name(&format!("up {}", path.display()));
    let client = Client::connect(io.clone(), Config::new(namenodes, name)).await?;
    parts.client = Some(client.clone());
    for namenode in &parts.namenodes {
        members::admit(io, &client, namenode.addr(), namenode.nonce()).await?;
    }
    warn_of_defaults(args, &client);
    let missing = tokio::select! {
        biased;
        why = first_failure(&parts.datanodes) => return Err(why),
        missing = assemble(io, &client, parts) => missing?,
    };
    parts.mount = Some(Mount::new(client.clone(), path, options)?);
    mountpoint::look(path).await?;
    let file = ClusterFile::new(
        parts.namenode_addresses(),
        parts.datanode_addresses(),
        Some(path.to_owned()),
        Some(std::process::id()),
    );
    file.write(io, &folder.path).await?;
    let who = if missing.is_empty() {
        String::new()
    } else {
        format!("; missing: {}", missing.join("; "))
    };
    output::line(&format!(
        "ready: {} ({} DataNodes, replication {}, {} {}, data {}){who}",
        path.display(),
        parts.datanodes.len(),
        client.replication(),
        match parts.namenodes.len() {
            1 => "NameNode".to_owned(),
            n => format!("{n} NameNodes"),
        },
        parts.namenode_addresses().join(","),
        folder.path.display(),
    ))
}

fn namenodes_asked(args: &Args, folder: &DataFolder) -> usize {
    let there = folder.namenodes.max(1);
    let asked = args.namenodes.map_or(there, |n| n as usize);
    if asked < there {
        tracing::warn!(
            "starting {asked} of the {there} NameNodes in {}",
            folder.path.display()
        );
    }
    asked
}

/// Defaults belong to the cluster: they are set when its data folder is made.
fn warn_of_defaults(args: &Args, client: &Client) {
    if let Some(wanted) = args
        .replication
        .filter(|wanted| *wanted != client.replication())
    {
        tracing::warn!(
            "--replication {wanted} is for new data folders; this one keeps {}",
            client.replication()
        );
    }
    if let Some(wanted) = args
        .block_size
        .filter(|wanted| *wanted != client.block_size())
    {
        tracing::warn!(
            "--block-size {wanted} is for new data folders; this one keeps {}",
            client.block_size()
        );
    }
}

/// Waits until our DataNodes are live and all known ones have reported; after a while, says who is missing.
async fn assemble(io: &Io, client: &Client, parts: &Parts) -> anyhow::Result<Vec<String>> {
    let ours = parts.datanode_addresses();
    let start = io.mono_ns();
    loop {
        let status = client.status().await?;
        let missing = missing(&ours, &status);
        if missing.is_empty() && !status.starting {
            return Ok(few(&status));
        }
        if Duration::from_nanos(io.mono_ns().saturating_sub(start)) >= ASSEMBLY {
            return Ok(missing
                .into_iter()
                .chain(absent(&status))
                .chain(few(&status))
                .collect());
        }
        io.sleep(POLL).await;
    }
}

/// Waits until a DataNode cannot go on; says which, and why.
async fn first_failure(nodes: &[DataNode]) -> anyhow::Error {
    let mut failures: Vec<_> = nodes.iter().map(|node| Box::pin(node.failed())).collect();
    std::future::poll_fn(|context| {
        for (at, failure) in failures.iter_mut().enumerate() {
            if let Poll::Ready(why) = failure.as_mut().poll(context) {
                return Poll::Ready(
                    anyhow::Error::new(why).context(format!("DataNode {}", at + 1)),
                );
            }
        }
        Poll::Pending
    })
    .await
}

/// Waits until a NameNode has ended; says which, and why.
async fn first_ended(namenodes: &[Server]) -> anyhow::Error {
    let mut all: Vec<_> = namenodes.iter().map(|n| Box::pin(n.ended())).collect();
    std::future::poll_fn(|context| {
        for (at, ended) in all.iter_mut().enumerate() {
            if let Poll::Ready(ended) = ended.as_mut().poll(context) {
                let why = match ended {
                    Ok(()) => anyhow!("it ended by itself"),
                    Err(why) => why.into(),
                };
                return Poll::Ready(why.context(format!("NameNode {}", at + 1)));
            }
        }
        Poll::Pending
    })
    .await
}

fn missing(ours: &[String], status: &Status) -> Vec<String> {
    let is_live = |addr: &String| {
        status
            .nodes
            .iter()
            .any(|node| node.live && node.addr == *addr)
    };
    let silent = ours.iter().enumerate().filter(|(_, addr)| !is_live(addr));
    silent
        .map(|(at, addr)| format!("DataNode {} ({addr}) has not registered", at + 1))
        .collect()
}

/// DataNodes that the cluster knows and that are not there.
fn absent(status: &Status) -> Vec<String> {
    let dead = status.nodes.iter().filter(|node| !node.live);
    dead.map(|node| format!("DataNode {} (last at {}) is not live", node.node, node.addr))
        .collect()
}

fn few(status: &Status) -> Vec<String> {
    let live = status.nodes.iter().filter(|node| node.live).count();
    let wanted = status.space.replication;
    if (live as u64) < u64::from(wanted) {
        return vec![format!(
            "{wanted} replicas of each block are wanted, and only {live} DataNodes are live"
        )];
    }
    Vec::new()
}

impl Parts {
    fn namenode_addresses(&self) -> Vec<String> {
        self.namenodes
            .iter()
            .map(|server| server.addr().to_owned())
            .collect()
    }

    fn datanode_addresses(&self) -> Vec<String> {
        self.datanodes.iter().map(DataNode::addr).collect()
    }

    /// Waits until it is to end.
    async fn run(&self, signals: &mut Signals) -> anyhow::Result<()> {
        let Some(mount) = &self.mount else {
            return Ok(());
        };
        tokio::select! {
            biased;
            signal = signals.next() => {
                tracing::info!(signal, "stopping");
                Ok(())
            }
            why = first_ended(&self.namenodes) => Err(why),
            why = first_failure(&self.datanodes) => Err(why),
            () = mount.wait() => {
                eprintln!("boomfs: {} was unmounted; stopping", mount.path().display());
                Ok(())
            }
        }
    }

    /// Stops everything: the mount first, for its last writes need all the others. A second signal ends the waiting.
    async fn stop(&mut self, io: &Io, signals: &mut Signals) -> bool {
        let mut clean = true;
        if let Some(mount) = self.mount.take() {
            clean &= within(io, signals, "unmounting", async move {
                mount.unmount().await.map_err(Into::into)
            })
            .await;
        }
        if let Some(client) = self.client.take() {
            clean &= within(io, signals, "closing the session", async move {
                client.close().await.map_err(Into::into)
            })
            .await;
        }
        for node in self.datanodes.drain(..) {
            let stopping = async move {
                node.shutdown().await;
                Ok(())
            };
            clean &= within(io, signals, "stopping a DataNode", stopping).await;
        }
        for namenode in self.namenodes.drain(..) {
            clean &= within(io, signals, "stopping a NameNode", async move {
                namenode.shutdown().await.map_err(Into::into)
            })
            .await;
        }
        clean
    }
}

/// Does one step of stopping; says whether it went well.
async fn within(
    io: &Io,
    signals: &mut Signals,
    what: &str,
    step: impl Future<Output = anyhow::Result<()>>,
) -> bool {
    let outcome = tokio::select! {
        biased;
        signal = signals.next() => Err(anyhow!("cut short by {signal}")),
        outcome = io.timeout(STOPPING, step) => {
            outcome.unwrap_or_else(|_| Err(anyhow!("not done within {} s", STOPPING.as_secs())))
        }
    };
    if let Err(error) = outcome {
        crate::failure::warn(&error.context(what.to_owned()));
        return false;
    }
    true
}
