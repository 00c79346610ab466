//! `boomfs fs rm`.

use super::crew::Crew;
use super::path::RemotePath;
use super::{Tree, below};
use crate::failure::Tally;
use anyhow::{Context, bail};
use boomfs_client::{At, Ino, Kind, errno};

/// Arguments of `boomfs fs rm`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// What to remove
    #[arg(value_name = "PATH", required_unless_present = "force")]
    paths: Vec<RemotePath>,
    /// Remove directories and all that is in them
    #[arg(short, long, visible_short_alias = 'R')]
    recursive: bool,
    /// What is not there is no error
    #[arg(short, long)]
    force: bool,
    /// Remove empty directories
    #[arg(short, long)]
    dir: bool,
}

/// Removes.
///
/// # Errors
/// Some could not be removed.
pub async fn run(tree: &Tree, args: &Args) -> anyhow::Result<()> {
    let mut tally = Tally::default();
    for path in &args.paths {
        tally.take(remove(tree, args, path).await);
    }
    tally.end()
}

async fn remove(tree: &Tree, args: &Args, path: &RemotePath) -> anyhow::Result<()> {
    if path.name().is_none() {
        bail!("/: the root cannot be removed");
    }
    let Some(attr) = tree.find(path, false).await? else {
        if args.force {
            return Ok(());
        }
        bail!("{path}: no such file or directory");
    };
    if attr.kind != Kind::Dir {
        tree.client
            .unlink(&tree.caller, &path.at())
            .await
            .with_context(|| path.to_string())?;
        return Ok(());
    }
    if args.recursive {
        return remove_tree(tree, path, attr.ino).await;
    }
    if args.dir {
        return tree
            .client
            .rmdir(&tree.caller, &path.at())
            .await
            .with_context(|| path.to_string());
    }
    bail!("{path}: is a directory; remove it and all that is in it with -r")
}

/// A directory that is to go once it is empty.
struct Emptied {
    at: At,
    ino: Ino,
    shown: RemotePath,
    depth: usize,
}

/// Files go while directories are listed; then directories, the deepest first.
async fn remove_tree(tree: &Tree, path: &RemotePath, ino: Ino) -> anyhow::Result<()> {
    let mut crew = Crew::default();
    let mut directories = vec![Emptied {
        at: path.at(),
        ino,
        shown: path.clone(),
        depth: 0,
    }];
    let mut listed = 0;
    while let Some(directory) = directories.get(listed) {
        let (ino, depth, shown) = (directory.ino, directory.depth, directory.shown.clone());
        listed += 1;
        let mut after = 0;
        loop {
            let Some((entries, end)) = crew.take(
                tree.page(ino, after)
                    .await
                    .with_context(|| shown.to_string()),
            ) else {
                break;
            };
            after = entries.last().map_or(after, |entry| entry.cookie);
            for entry in entries {
                let (at, shown) = (below(ino, &entry.name), shown.join(&entry.name));
                if entry.attr.kind == Kind::Dir {
                    directories.push(Emptied {
                        at,
                        ino: entry.attr.ino,
                        shown,
                        depth: depth + 1,
                    });
                    continue;
                }
                let tree = tree.clone();
                crew.add(async move {
                    let gone = tree.client.unlink(&tree.caller, &at).await;
                    gone.map(|_| ())
                        .or_else(|why| {
                            if why.errno() == errno::ENOENT {
                                Ok(())
                            } else {
                                Err(why)
                            }
                        })
                        .with_context(|| shown.to_string())
                })
                .await;
            }
            if end {
                break;
            }
        }
    }
    crew.rest().await;
    let mut level = usize::MAX;
    for directory in directories.into_iter().rev() {
        if directory.depth < level {
            crew.rest().await;
            level = directory.depth;
        }
        let tree = tree.clone();
        crew.add(async move {
            tree.client
                .rmdir(&tree.caller, &directory.at)
                .await
                .with_context(|| directory.shown.to_string())
        })
        .await;
    }
    crew.end().await
}
