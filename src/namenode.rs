//! `boomfs namenode`: one NameNode as a process.

use crate::signals::Signals;
use crate::{cli, output};
use boomfs_io::Io;
use boomfs_namenode::{Config, Server};
use std::path::PathBuf;

/// Arguments of `boomfs namenode`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Data folder; made if it is missing
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Where to listen, host:port; port 0 picks a free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8020")]
    listen: String,
    /// Replicas of each block, for a new cluster
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=64))]
    replication: u32,
    /// Block size of a new cluster: a multiple of 4K
    #[arg(long, value_name = "BYTES", value_parser = cli::block_size)]
    block_size: Option<u64>,
}

/// Runs it until it is asked to stop.
///
/// # Errors
/// Why it does not start, or stopped.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let mut signals = Signals::install()?;
    let mut config = Config::new(args.data, args.listen);
    config.replication = args.replication;
    config.block_size = args.block_size.unwrap_or(config.block_size);
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
