//! The arguments, as far as several commands share them.

use clap::{ArgAction, Args, Parser, Subcommand};
use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::Duration;
use tracing_subscriber::EnvFilter;

/// A distributed filesystem whose metadata is Overlog rules.
#[derive(Debug, Parser)]
#[command(name = "boomfs", version, propagate_version = true, after_help = EXIT_CODES)]
pub struct Cli {
    /// Say more on stderr: -v what happens, -vv details, -vvv everything. BOOMFS_LOG=filter says it exactly
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub verbose: u8,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

const EXIT_CODES: &str =
    "Exit codes: 0 done, 1 failed, 2 wrong arguments, 3 the cluster cannot be reached.";

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a whole cluster in this process and mount it
    Up(crate::up::Args),
    /// Run a NameNode
    Namenode(crate::namenode::Args),
    /// Run a DataNode
    Datanode(crate::datanode::Args),
    /// Mount a cluster that runs
    Mount(crate::mount::Args),
    /// Unmount, also what a process that is gone left behind
    Umount(crate::umount::Args),
    /// Work with files without a mount
    Fs(crate::fs::Args),
    /// Ask the metadata an Overlog query
    Query(crate::query::Args),
    /// Show nodes, capacity and health
    Status(crate::status::Args),
    /// Harm a cluster of its own while clients work, and prove that nothing is lost
    Drill(crate::drill::Args),
    /// Check rule files
    Check(crate::check::Args),
}

/// How a command finds its cluster.
#[derive(Args, Clone, Debug)]
pub struct Find {
    /// Data folder of `boomfs up`, whose cluster file says where the NameNode is
    #[arg(long, value_name = "DIR", default_value = "./boomfs-data")]
    pub data: PathBuf,
    /// NameNodes, host:port; instead of --data
    #[arg(long, value_name = "ADDR", value_delimiter = ',')]
    pub namenodes: Vec<String>,
    /// How long to wait for an answer
    #[arg(long, value_name = "SECONDS", default_value = "30", value_parser = seconds)]
    pub timeout: Duration,
}

/// A span in seconds, with a fraction if wanted.
///
/// # Errors
/// No number, or none above zero.
pub fn seconds(text: &str) -> Result<Duration, String> {
    let number: f64 = text
        .parse()
        .map_err(|_| "not a number of seconds".to_owned())?;
    match Duration::try_from_secs_f64(number) {
        Ok(span) if !span.is_zero() => Ok(span),
        _ => Err("must be above zero".into()),
    }
}

/// A number of bytes with an optional unit: 4096, 64K, 64KiB, 1M, 2GiB.
///
/// # Errors
/// No such number.
pub fn bytes(text: &str) -> Result<u64, String> {
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number
        .parse()
        .map_err(|_| "not a number of bytes; for example 4096, 64K or 1MiB".to_owned())?;
    let shift = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => {
            return Err(format!(
                "unknown unit {unit}; K, M, G and T are powers of 1024"
            ));
        }
    };
    number
        .checked_mul(1 << shift)
        .ok_or_else(|| "too large".into())
}

/// A block size: a multiple of what one checksum covers, at most 1 GiB.
///
/// # Errors
/// Another number.
pub fn block_size(text: &str) -> Result<u64, String> {
    let size = bytes(text)?;
    let chunk = boomfs_wire::CHUNK as u64;
    if size == 0 || !size.is_multiple_of(chunk) || size > 1 << 30 {
        return Err(format!("must be a multiple of {chunk} and at most 1GiB"));
    }
    Ok(size)
}

/// How a leader makes sure that it leads, on the command line.
#[derive(clap::ValueEnum, Clone, Copy, Debug)]
pub enum Reads {
    /// By its lease.
    Lease,
    /// By asking the others.
    Confirm,
}

impl Reads {
    /// Its name there.
    pub fn name(self) -> &'static str {
        match self {
            Reads::Lease => "lease",
            Reads::Confirm => "confirm",
        }
    }
}

impl From<Reads> for boomfs_namenode::Reads {
    fn from(reads: Reads) -> boomfs_namenode::Reads {
        match reads {
            Reads::Lease => boomfs_namenode::Reads::Lease,
            Reads::Confirm => boomfs_namenode::Reads::Confirm,
        }
    }
}

/// A size of a segment of the log.
///
/// # Errors
/// No such number; too small for what a run stores, or too large to be kept twice.
pub fn log_segment(text: &str) -> Result<u64, String> {
    match bytes(text)? {
        size @ 65_536..=0x4000_0000 => Ok(size),
        _ => Err("must be between 64K and 1G".into()),
    }
}

/// Starts the log on stderr.
pub fn log(verbose: u8) {
    let level = match verbose {
        0 => "warn",
        1 => "info",
        2 => "debug",
        _ => "trace",
    };
    let filter = match std::env::var("BOOMFS_LOG") {
        Ok(text) if !text.is_empty() => EnvFilter::try_new(&text).unwrap_or_else(|why| {
            eprintln!("boomfs: BOOMFS_LOG: {why}; logging at {level}");
            EnvFilter::new(level)
        }),
        _ => EnvFilter::new(level),
    };
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(verbose > 0)
        .with_writer(std::io::stderr)
        .init();
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn arguments_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn bytes_have_units() {
        assert_eq!(bytes("4096"), Ok(4096));
        assert_eq!(bytes("64K"), Ok(65_536));
        assert_eq!(bytes("1MiB"), Ok(1 << 20));
        assert_eq!(bytes("2g"), Ok(2 << 30));
        assert!(bytes("").is_err());
        assert!(bytes("1x").is_err());
        assert!(bytes("99999999T").is_err());
    }

    #[test]
    fn seconds_are_above_zero() {
        assert_eq!(seconds("0.5"), Ok(Duration::from_millis(500)));
        assert!(seconds("0").is_err());
        assert!(seconds("-1").is_err());
        assert!(seconds("soon").is_err());
    }
}
