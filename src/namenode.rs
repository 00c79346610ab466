//! `boomfs namenode`: one NameNode as a process, and which NameNodes a cluster has.

use crate::cli::Find;
use crate::signals::Signals;
use crate::{cli, cluster, members, output};
use anyhow::Context;
use boomfs_client::{Client, NodeId};
use boomfs_io::Io;
use boomfs_namenode::{Config, Server};
use std::path::PathBuf;
use std::time::Duration;

/// How long a NameNode that is to be admitted may take to say who it is.
const IDENTIFY: Duration = Duration::from_secs(10);

/// Arguments of `boomfs namenode`.
#[derive(clap::Args, Debug)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct Args {
    #[command(subcommand)]
    admin: Option<Admin>,
    #[command(flatten)]
    run: Option<Run>,
}

/// One NameNode as a process.
#[derive(clap::Args, Debug)]
struct Run {
    /// Data folder; made if it is missing
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Where to listen, host:port; port 0 picks a free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8020")]
    listen: String,
    /// The address that others are told, where it is not the one listened on
    #[arg(long, value_name = "ADDR")]
    advertise: Option<String>,
    /// NameNodes of the cluster that a new data folder joins, host:port; without it a new data folder founds a cluster.
    /// Then admit it: boomfs namenode add ADDR
    #[arg(long, value_name = "ADDR", value_delimiter = ',')]
    join: Vec<String>,
    /// Replicas of each block, for a new cluster
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=64))]
    replication: u32,
    /// Block size of a new cluster: a multiple of 4K
    #[arg(long, value_name = "BYTES", value_parser = cli::block_size)]
    block_size: Option<u64>,
    /// How a leader makes sure that it leads before it answers a read: by its lease, which trusts that clocks run at
    /// the same speed to a tenth, or by asking the others each time
    #[arg(long, value_enum, default_value_t = cli::Reads::Lease)]
    reads: cli::Reads,
    /// Size of a segment of the log; the next one is made in advance [default: 16MiB]
    #[arg(long, value_name = "BYTES", value_parser = cli::log_segment)]
    log_segment: Option<u64>,
}

/// Changes of a cluster's NameNodes. Each waits until it is in force.
#[derive(clap::Subcommand, Debug)]
enum Admin {
    /// Admit a NameNode that was started with --join
    Add {
        /// Where it listens, host:port
        #[arg(value_name = "ADDR")]
        addr: String,
        #[command(flatten)]
        find: Find,
    },
    /// Take a NameNode's vote away; its process may then be stopped
    Remove {
        /// Its number, as `boomfs status` shows it
        #[arg(value_name = "NODE")]
        node: u64,
        #[command(flatten)]
        find: Find,
    },
    /// Admit a NameNode in the place of another one, which may be gone for good
    Replace {
        /// The number of the one that goes
        #[arg(value_name = "NODE")]
        node: u64,
        /// Where the new one listens, host:port
        #[arg(value_name = "ADDR")]
        addr: String,
        #[command(flatten)]
        find: Find,
    },
    /// Let another NameNode lead
    Transfer {
        /// Its number
        #[arg(value_name = "NODE")]
        node: u64,
        #[command(flatten)]
        find: Find,
    },
}

/// Runs it until it is asked to stop, or does what is to be done.
///
/// # Errors
/// Why it does not start, or stopped; what the cluster refuses.
pub async fn run(args: Args) -> anyhow::Result<()> {
    match (args.admin, args.run) {
        (Some(admin), _) => administer(admin).await,
        (None, Some(run)) => serve(run).await,
        (None, None) => Err(crate::failure::usage("--data DIR is missing")),
    }
}

async fn serve(args: Run) -> anyhow::Result<()> {
    let mut signals = Signals::install()?;
    let mut config = Config::new(args.data, args.listen);
    config.replication = args.replication;
    config.block_size = args.block_size.unwrap_or(config.block_size);
    config.reads = args.reads.into();
    config.segment_bytes = args.log_segment.unwrap_or(config.segment_bytes);
    config.join = args.join;
    config.advertise = args.advertise;
    let server = Server::start(Io::real(), config).await?;
    output::line(&format!(
        "ready: NameNode of cluster {:016x} on {}",
        server.cluster().0,
        server.addr()
    ))?;
    tokio::select! {
        biased;
        signal = signals.next() => tracing::info!(signal, "stopping"),
        ended = server.ended() => return Ok(ended?),
    }
    Ok(server.shutdown().await?)
}

async fn administer(admin: Admin) -> anyhow::Result<()> {
    let io = Io::real();
    let (find, done) = match admin {
        Admin::Add { addr, find } => (find, Change::Add(addr, NodeId(0))),
        Admin::Replace { node, addr, find } => (find, Change::Add(addr, NodeId(node))),
        Admin::Remove { node, find } => (find, Change::Remove(NodeId(node))),
        Admin::Transfer { node, find } => (find, Change::Transfer(NodeId(node))),
    };
    let client = cluster::connect(&find, "namenode").await?;
    let said = change(&io, &client, done).await;
    let closed = client.close().await;
    output::line(&said?)?;
    Ok(closed?)
}

/// What is to be changed.
enum Change {
    Add(String, NodeId),
    Remove(NodeId),
    Transfer(NodeId),
}

async fn change(io: &Io, client: &Client, change: Change) -> anyhow::Result<String> {
    Ok(match change {
        Change::Add(addr, replaces) => {
            let nonce = nonce(&addr).await?;
            let node = members::add(io, client, &addr, nonce, replaces).await?;
            match replaces.0 {
                0 => format!("NameNode {node} at {addr} votes"),
                old => format!("NameNode {node} at {addr} votes in the place of NameNode {old}"),
            }
        }
        Change::Remove(node) => {
            members::remove(io, client, node).await?;
            format!("NameNode {node} has no vote any more")
        }
        Change::Transfer(node) => {
            members::transfer(io, client, node).await?;
            format!("NameNode {node} leads")
        }
    })
}

/// Asks a NameNode that may be in no cluster's log yet who it is.
async fn nonce(addr: &str) -> anyhow::Result<u64> {
    let config = boomfs_client::Config {
        deadline: IDENTIFY,
        stale: true,
        ..boomfs_client::Config::new(vec![addr.to_owned()], "namenode")
    };
    let asked = async {
        let client = Client::observer(Io::real(), config).await?;
        let identity = client.identify().await;
        client.close().await?;
        identity
    };
    let identity = asked.await;
    let hint = || format!("NameNode {addr} does not say who it is; start it first, with --join");
    Ok(identity.with_context(hint)?.nonce)
}
