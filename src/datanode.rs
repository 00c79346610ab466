//! `boomfs datanode`: one DataNode as a process.

use crate::output;
use crate::signals::Signals;
use boomfs_datanode::{Config, DataNode};
use boomfs_io::Io;
use std::path::PathBuf;

/// Arguments of `boomfs datanode`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Data folder; made if it is missing
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Where to listen, host:port; port 0 picks a free one. Clients and other DataNodes must reach it by this name
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:0")]
    listen: String,
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
    let config = Config { data: args.data, listen: args.listen, namenodes: args.namenodes };
    let node = DataNode::start(Io::real(), config).await?;
    output::line(&format!("ready: DataNode on {}", node.addr()))?;
    tokio::select! {
        biased;
        signal = signals.next() => tracing::info!(signal, "stopping"),
    }
    node.shutdown().await;
    Ok(())
}
