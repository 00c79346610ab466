//! `boomfs`: a distributed filesystem whose metadata is Overlog rules, as one program.
//!
//! A file per subcommand; each parses its arguments, calls the libraries and prints. What the commands share:
//! how a cluster is found ([`cluster`]), what failures look like ([`failure`]), what is printed ([`output`]).
//!
//! **Invariant:** nothing here decides anything about the filesystem: this is arguments in, text out.
#![allow(clippy::disallowed_methods)] // The command line is at home on the real machine, never in the simulator.

mod check;
mod cli;
mod cluster;
mod datanode;
mod drill;
mod failure;
mod fs;
mod members;
mod mount;
mod mountpoint;
mod namenode;
mod output;
mod query;
mod signals;
mod status;
mod umount;
mod up;

use clap::Parser;
use cli::{Cli, Command};
use std::process::ExitCode;

/// Rows and messages are many small pieces of memory: with it three NameNodes create a tenth more, and look up a third
/// more (docs/BENCHMARKS.md).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    cli::log(cli.verbose);
    failure::report_panics();
    match run(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failure::report(&error),
    }
}

fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Check(args) => return check::run(&args),
        Command::Umount(args) => return umount::run(&args),
        Command::Mount(args) if args.background => return mount::background(&args),
        _ => {}
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|why| anyhow::anyhow!("cannot start threads: {why}"))?;
    let result = runtime.block_on(async {
        match command {
            Command::Up(args) => up::run(args).await,
            Command::Namenode(args) => namenode::run(args).await,
            Command::Datanode(args) => datanode::run(args).await,
            Command::Mount(args) => mount::run(args).await,
            Command::Fs(args) => fs::run(args).await,
            Command::Query(args) => query::run(args).await,
            Command::Status(args) => status::run(args).await,
            Command::Drill(args) => drill::run(args).await,
            Command::Check(_) | Command::Umount(_) => Ok(()),
        }
    });
    // A thread that waits for a file or a terminal must not keep the process.
    runtime.shutdown_background();
    result
}
