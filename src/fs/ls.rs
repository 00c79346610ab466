//! `boomfs fs ls`.

use super::path::RemotePath;
use super::{Tree, show};
use crate::failure::Tally;
use crate::output;
use boomfs_client::{Attr, Kind};
use std::io::IsTerminal;

/// Arguments of `boomfs fs ls`.
#[derive(clap::Args, Debug)]
#[command(disable_help_flag = true)]
pub struct Args {
    /// What to list
    #[arg(value_name = "PATH", default_value = "/")]
    paths: Vec<RemotePath>,
    /// Mode, links, owner, size and time, too
    #[arg(short, long)]
    long: bool,
    /// Go down into directories
    #[arg(short = 'R', long)]
    recursive: bool,
    /// Show directories themselves, not what is in them
    #[arg(short, long)]
    directory: bool,
    /// Sizes as 1.5G
    #[arg(short = 'h', long)]
    human: bool,
    /// Names that start with a dot, too; they are shown anyway
    #[arg(short, long)]
    all: bool,
    /// Print help
    #[arg(long, action = clap::ArgAction::Help)]
    help: Option<bool>,
    /// Print a JSON object a name
    #[arg(long)]
    json: bool,
}

/// Lists.
///
/// # Errors
/// Some paths could not be listed.
pub async fn run(tree: &Tree, args: &Args) -> anyhow::Result<()> {
    let _ = args.all;
    let mut tally = Tally::default();
    let headed = args.paths.len() > 1 || args.recursive;
    for path in &args.paths {
        tally.take(list(tree, args, path, headed, &mut Tally::default()).await);
    }
    tally.end()
}

async fn list(
    tree: &Tree,
    args: &Args,
    path: &RemotePath,
    headed: bool,
    below: &mut Tally,
) -> anyhow::Result<()> {
    let attr = tree.look(path, !args.directory && !args.long).await?;
    // As in ls: a link to a directory is shown itself with -l.
    if attr.kind != Kind::Dir || args.directory {
        return one(tree, args, path, &path.bytes(), &attr).await;
    }
    let mut todo = vec![(path.clone(), attr.ino)];
    let mut first = true;
    while let Some((path, ino)) = todo.pop() {
        if headed && !args.json {
            output::line(&format!("{}{path}:", if first { "" } else { "\n" }))?;
        }
        first = false;
        let Some(entries) = below.take(tree.entries(ino).await) else {
            continue;
        };
        for entry in &entries {
            one(
                tree,
                args,
                &path.join(&entry.name),
                &entry.name,
                &entry.attr,
            )
            .await?;
        }
        if args.recursive {
            let directories = entries
                .iter()
                .rev()
                .filter(|entry| entry.attr.kind == Kind::Dir);
            todo.extend(directories.map(|entry| (path.join(&entry.name), entry.attr.ino)));
        }
    }
    std::mem::take(below).end()
}

async fn one(
    tree: &Tree,
    args: &Args,
    path: &RemotePath,
    name: &[u8],
    attr: &Attr,
) -> anyhow::Result<()> {
    let target = match attr.kind {
        Kind::Symlink if args.long || args.json => {
            Some(tree.client.readlink(&tree.caller, attr.ino).await?)
        }
        _ => None,
    };
    if args.json {
        return output::json(&show::json(&path.bytes(), attr, target.as_deref()));
    }
    let mut line = Vec::new();
    if args.long {
        let size = if args.human {
            output::short_size(attr.size)
        } else {
            attr.size.to_string()
        };
        let owner = format!("{}:{}", attr.uid, attr.gid);
        let (mode, time) = (
            show::mode(attr.kind, attr.mode),
            output::time(attr.mtime_ns),
        );
        line.extend(
            format!("{mode} {:>3} {owner:<11} {size:>12} {time} ", attr.nlink).into_bytes(),
        );
    }
    line.extend(printed(name));
    if let Some(target) = target {
        line.extend(b" -> ");
        line.extend(printed(&target));
    }
    line.push(b'\n');
    output::raw(&line)
}

/// A name: its bytes, but made harmless for a terminal.
fn printed(name: &[u8]) -> Vec<u8> {
    if std::io::stdout().is_terminal() {
        return output::plain(&String::from_utf8_lossy(name)).into_bytes();
    }
    name.to_vec()
}
