//! `boomfs fs mkdir`.

use super::path::RemotePath;
use super::{Tree, own_umask};
use crate::failure::Tally;
use anyhow::{Context, bail};
use boomfs_client::{Kind, errno};

/// Arguments of `boomfs fs mkdir`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// What to make
    #[arg(value_name = "PATH", required = true)]
    paths: Vec<RemotePath>,
    /// Make what is missing above it, too; what is there already is no error
    #[arg(short, long)]
    parents: bool,
    /// Permissions, as in 0755, instead of what the umask leaves
    #[arg(short, long, value_name = "MODE", value_parser = super::chmod::octal)]
    mode: Option<u32>,
}

/// Makes directories.
///
/// # Errors
/// Some could not be made.
pub async fn run(tree: &Tree, args: &Args) -> anyhow::Result<()> {
    let default = 0o777 & !own_umask();
    let mut tally = Tally::default();
    for path in &args.paths {
        let mode = args.mode.unwrap_or(default);
        tally.take(if args.parents {
            with_parents(tree, path, mode, default).await
        } else {
            tree.client
                .mkdir(&tree.caller, &path.at(), mode)
                .await
                .map(|_| ())
                .with_context(|| path.to_string())
        });
    }
    tally.end()
}

async fn with_parents(
    tree: &Tree,
    path: &RemotePath,
    mode: u32,
    default: u32,
) -> anyhow::Result<()> {
    for step in path.steps() {
        let mode = if step == *path { mode } else { default | 0o300 };
        match tree.client.mkdir(&tree.caller, &step.at(), mode).await {
            Ok(_) => {}
            Err(why) if why.errno() == errno::EEXIST => {
                if tree.look(&step, true).await?.kind != Kind::Dir {
                    bail!("{step}: exists and is no directory");
                }
            }
            // Who may not make a name there may still go through it.
            Err(why) => match tree.find(&step, true).await {
                Ok(Some(attr)) if attr.kind == Kind::Dir => {}
                _ => return Err(why).with_context(|| step.to_string()),
            },
        }
    }
    Ok(())
}
