//! `boomfs fs mv`.

use super::Tree;
use super::path::RemotePath;
use crate::failure::{Tally, usage};
use anyhow::{Context, bail};
use boomfs_client::Kind;

/// Arguments of `boomfs fs mv`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// What to move, and where to: into a directory that is there, or to a new name
    #[arg(value_name = "PATH", required = true, num_args = 2..)]
    paths: Vec<RemotePath>,
    /// Fail where the new name is there already
    #[arg(short, long)]
    no_clobber: bool,
    /// Take the last path as the new name, even if it is a directory
    #[arg(short = 'T', long)]
    no_target_directory: bool,
    /// Replace what is there; that is done anyway
    #[arg(short, long, conflicts_with = "no_clobber")]
    force: bool,
}

/// Moves.
///
/// # Errors
/// Some could not be moved.
pub async fn run(tree: &Tree, args: &Args) -> anyhow::Result<()> {
    let _ = args.force;
    let Some((to, from)) = args.paths.split_last() else {
        return Err(usage("mv needs two paths"));
    };
    let into = !args.no_target_directory
        && tree
            .find(to, true)
            .await?
            .is_some_and(|attr| attr.kind == Kind::Dir);
    if !into && from.len() > 1 {
        bail!("{to}: is no directory; several files can only be moved into one");
    }
    let mut tally = Tally::default();
    for from in from {
        let Some(name) = from.name() else {
            tally.take::<()>(Err(anyhow::anyhow!("/: the root cannot be moved")));
            continue;
        };
        let to = if into { to.join(name) } else { to.clone() };
        let moved = tree
            .client
            .rename(&tree.caller, &from.at(), &to.at(), args.no_clobber, false)
            .await;
        tally.take(moved.with_context(|| format!("{from} to {to}")));
    }
    tally.end()
}
