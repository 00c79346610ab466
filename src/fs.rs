//! `boomfs fs`: files and directories without a mount.

mod cat;
mod chmod;
mod chown;
mod copy;
mod crew;
mod du;
mod get;
mod ls;
mod mkdir;
mod mv;
mod path;
mod progress;
mod put;
mod rm;
mod show;
mod stat;

use crate::cli::Find;
use crate::cluster;
use anyhow::Context;
use boomfs_client::{At, Attr, Caller, Client, Entry, Ino};
use clap::Subcommand;
use path::RemotePath;
use rustix::fs::Mode;
use rustix::process::umask;

/// Names that one question for a directory asks for.
const PAGE: u32 = 1024;

/// Arguments of `boomfs fs`.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    find: Find,
    /// For commands that only read: ask any NameNode, also one that does not lead and may not know the latest
    #[arg(long)]
    stale: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List directories
    Ls(ls::Args),
    /// Print files
    Cat(cat::Args),
    /// Copy from this machine into the cluster
    Put(put::Args),
    /// Copy from the cluster to this machine
    Get(get::Args),
    /// Make directories
    Mkdir(mkdir::Args),
    /// Remove files and trees
    Rm(rm::Args),
    /// Move and rename
    Mv(mv::Args),
    /// Show everything about files
    Stat(stat::Args),
    /// Show what trees take
    Du(du::Args),
    /// Change permissions
    Chmod(chmod::Args),
    /// Change owner and group
    Chown(chown::Args),
}

/// Runs one of the commands.
///
/// # Errors
/// What failed; commands that take several paths go through all of them first.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let caller = cluster::caller()?;
    let client = match &args.command {
        // A question needs no session, and so no entry in the log.
        Command::Ls(_) | Command::Cat(_) | Command::Get(_) | Command::Stat(_) | Command::Du(_) => {
            cluster::observe(&args.find, "fs", args.stale).await?
        }
        _ if args.stale => {
            return Err(crate::failure::usage(
                "--stale is for commands that only read: leave it out",
            ));
        }
        _ => cluster::connect(&args.find, "fs").await?,
    };
    let tree = Tree {
        client: client.clone(),
        caller,
    };
    let outcome = match args.command {
        Command::Ls(args) => ls::run(&tree, &args).await,
        Command::Cat(args) => cat::run(&tree, &args).await,
        Command::Put(args) => put::run(&tree, args).await,
        Command::Get(args) => get::run(&tree, args).await,
        Command::Mkdir(args) => mkdir::run(&tree, &args).await,
        Command::Rm(args) => rm::run(&tree, &args).await,
        Command::Mv(args) => mv::run(&tree, &args).await,
        Command::Stat(args) => stat::run(&tree, &args).await,
        Command::Du(args) => du::run(&tree, &args).await,
        Command::Chmod(args) => chmod::run(&tree, &args).await,
        Command::Chown(args) => chown::run(&tree, &args).await,
    };
    let closed = client.close().await;
    outcome?;
    Ok(closed?)
}

/// The tree, as the one who runs the command may see it.
#[derive(Clone)]
struct Tree {
    client: Client,
    caller: Caller,
}

impl Tree {
    /// Attributes of a path.
    async fn look(&self, path: &RemotePath, follow: bool) -> anyhow::Result<Attr> {
        self.client
            .lookup(&self.caller, &path.at(), follow)
            .await
            .with_context(|| path.to_string())
    }

    /// The same; `None` when there is nothing.
    async fn find(&self, path: &RemotePath, follow: bool) -> anyhow::Result<Option<Attr>> {
        match self.client.lookup(&self.caller, &path.at(), follow).await {
            Ok(attr) => Ok(Some(attr)),
            Err(why) if why.errno() == boomfs_client::errno::ENOENT => Ok(None),
            Err(why) => Err(why).with_context(|| path.to_string()),
        }
    }

    /// A page of a directory after a cookie, and whether it is the last.
    async fn page(&self, ino: Ino, after: u64) -> anyhow::Result<(Vec<Entry>, bool)> {
        let (_, entries, end) = self.client.readdir(&self.caller, ino, after, PAGE).await?;
        let end = end || entries.is_empty();
        Ok((entries, end))
    }

    /// All names of a directory, sorted.
    async fn entries(&self, ino: Ino) -> anyhow::Result<Vec<Entry>> {
        let mut all: Vec<Entry> = Vec::new();
        loop {
            let after = all.last().map_or(0, |entry| entry.cookie);
            let (entries, end) = self.page(ino, after).await?;
            all.extend(entries);
            if end {
                all.sort_by(|a, b| a.name.cmp(&b.name));
                return Ok(all);
            }
        }
    }
}

/// An inode itself, as a place.
fn at(ino: Ino) -> At {
    At {
        base: ino,
        path: Vec::new(),
    }
}

/// A name in a directory, as a place.
fn below(directory: Ino, name: &[u8]) -> At {
    At {
        base: directory,
        path: vec![name.to_vec()],
    }
}

/// Permission bits that this process does not give to what it makes.
fn own_umask() -> u32 {
    // It can only be read by setting it; no other thread makes files yet.
    let mask = umask(Mode::empty());
    umask(mask);
    mask.as_raw_mode()
}
