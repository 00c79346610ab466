//! `boomfs datanode`: one DataNode as a process.

use crate::signals::Signals;
use crate::{cli, output};
use boomfs_datanode::{Config, DataNode};
use boomfs_io::Io;
use std::path::PathBuf;
use std::time::Duration;

/// How long to wait for a NameNode before saying so.
const PATIENCE: Duration = Duration::from_secs(10);

/// Arguments of `boomfs datanode`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Data folder; made if it is missing
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Where to listen, host:port; port 0 picks a free one. Clients and other DataNodes must reach it by this name
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:0")]
    listen: String,
    /// The address that others are told, where it is not the one listened on
    #[arg(long, value_name = "ADDR")]
    advertise: Option<String>,
    /// Most bytes that replicas may take [default: all of the disk]
    #[arg(long, value_name = "BYTES", value_parser = cli::bytes)]
    capacity: Option<u64>,
    /// NameNodes, host:port
    #[arg(long, value_name = "ADDR", value_delimiter = ',', required = true)]
    namenodes: Vec<String>,
}

/// Runs it until it is asked to stop.
///
/// # Errors
/// Why it does not start, or stopped.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let mut signals = Signals::install()?;
    let namenodes = args.namenodes.join(", ");
    let config = Config {
        advertise: args.advertise,
        capacity: args.capacity,
        ..Config::new(args.data, args.listen, args.namenodes)
    };
    let node = DataNode::start(Io::real(), config).await?;
    let outcome = tokio::select! {
        biased;
        signal = signals.next() => {
            tracing::info!(signal, "stopping");
            Ok(())
        }
        why = node.failed() => Err(why.into()),
        never = serve(&node, &namenodes) => never,
    };
    node.shutdown().await;
    outcome
}

/// Says when it belongs to a cluster, and who is missing before that. Does not end.
async fn serve(node: &DataNode, namenodes: &str) -> anyhow::Result<()> {
    while !node.registered(PATIENCE).await {
        eprintln!(
            "boomfs: DataNode on {}: no NameNode has answered yet at {namenodes}; waiting",
            node.addr()
        );
    }
    let (cluster, id) = node.identity().await;
    output::line(&format!(
        "ready: DataNode {id} of cluster {:016x} on {}",
        cluster.0,
        node.addr()
    ))?;
    std::future::pending().await
}
