//! `boomfs fs du`.

use super::path::RemotePath;
use super::{Tree, show};
use crate::failure::Tally;
use crate::output;
use anyhow::Context;
use boomfs_client::{Attr, Ino, Kind};
use serde_json::json;
use std::collections::HashSet;

/// Arguments of `boomfs fs du`.
#[derive(clap::Args, Debug)]
#[command(disable_help_flag = true)]
pub struct Args {
    /// What to measure
    #[arg(value_name = "PATH", default_value = "/")]
    paths: Vec<RemotePath>,
    /// Show only what was asked for, not what is below it
    #[arg(short, long)]
    summarize: bool,
    /// Sizes as 1.5G instead of KiB
    #[arg(short = 'h', long, conflicts_with = "bytes")]
    human: bool,
    /// Lengths of files in bytes, not what their blocks hold
    #[arg(short, long)]
    bytes: bool,
    /// Print help
    #[arg(long, action = clap::ArgAction::Help)]
    help: Option<bool>,
    /// Print a JSON object a line
    #[arg(long)]
    json: bool,
}

/// Measures.
///
/// # Errors
/// Some could not be looked at.
pub async fn run(tree: &Tree, args: &Args) -> anyhow::Result<()> {
    let mut tally = Tally::default();
    // As du: a file with several names counts once in all.
    let mut seen = HashSet::new();
    for path in &args.paths {
        tally.take(measure(tree, args, path, &mut seen).await);
    }
    tally.end()
}

#[derive(Clone, Copy, Default)]
struct Sum {
    length: u64,
    allocated: u64,
    files: u64,
    directories: u64,
}

impl Sum {
    fn of(attr: &Attr) -> Sum {
        let is_dir = attr.kind == Kind::Dir;
        let length = if attr.kind == Kind::File {
            attr.size
        } else {
            0
        };
        Sum {
            length,
            allocated: attr.allocated,
            files: u64::from(!is_dir),
            directories: u64::from(is_dir),
        }
    }

    fn add(&mut self, other: Sum) {
        self.length = self.length.saturating_add(other.length);
        self.allocated = self.allocated.saturating_add(other.allocated);
        self.files += other.files;
        self.directories += other.directories;
    }
}

struct Directory {
    path: RemotePath,
    parent: Option<usize>,
    sum: Sum,
}

async fn measure(
    tree: &Tree,
    args: &Args,
    path: &RemotePath,
    seen: &mut HashSet<Ino>,
) -> anyhow::Result<()> {
    let attr = tree.look(path, false).await?;
    if attr.kind != Kind::Dir {
        return print(args, path, Sum::of(&attr), show::kind(attr.kind));
    }
    let mut tally = Tally::default();
    let mut directories: Vec<Directory> = Vec::new();
    let mut todo = vec![(path.clone(), attr, None)];
    while let Some((path, attr, parent)) = todo.pop() {
        let at = directories.len();
        let mut sum = Sum::of(&attr);
        let entries = tree
            .entries(attr.ino)
            .await
            .with_context(|| path.to_string());
        for entry in tally.take(entries).unwrap_or_default() {
            if entry.attr.kind == Kind::Dir {
                todo.push((path.join(&entry.name), entry.attr, Some(at)));
            } else if entry.attr.nlink < 2 || seen.insert(entry.attr.ino) {
                sum.add(Sum::of(&entry.attr));
            }
        }
        directories.push(Directory { path, parent, sum });
    }
    // Children were pushed in order and taken from the end: backwards, they come in order and before their parents.
    while let Some(directory) = directories.pop() {
        if let Some(parent) = directory.parent.and_then(|at| directories.get_mut(at)) {
            parent.sum.add(directory.sum);
        }
        if !args.summarize || directory.parent.is_none() {
            print(args, &directory.path, directory.sum, "dir")?;
        }
    }
    tally.end()
}

fn print(args: &Args, path: &RemotePath, sum: Sum, kind: &str) -> anyhow::Result<()> {
    if args.json {
        return output::json(&json!({
            "path": path.to_string(), "kind": kind, "size": sum.length, "allocated": sum.allocated,
            "files": sum.files, "directories": sum.directories,
        }));
    }
    let size = match (args.bytes, args.human) {
        (true, _) => sum.length.to_string(),
        (false, true) => output::short_size(sum.allocated),
        (false, false) => sum.allocated.div_ceil(1024).to_string(),
    };
    output::line(&format!("{size}\t{path}"))
}
