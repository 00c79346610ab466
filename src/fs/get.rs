//! `boomfs fs get`.

use super::cat::{self, Heard};
use super::copy::{CHUNK, unfinished};
use super::crew::Crew;
use super::path::RemotePath;
use super::{Tree, own_umask, progress};
use crate::failure::usage;
use anyhow::{Context, anyhow, bail};
use boomfs_client::{Attr, Kind};
use boomfs_io::{Io, Open};
use indicatif::ProgressBar;
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, utimensat};
use std::ffi::OsStr;
use std::fs::Permissions;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, lchown, symlink};
use std::path::{Path, PathBuf};

/// Arguments of `boomfs fs get`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// What to copy, and last where to: into a directory that is there, to a new name, or - for stdout
    #[arg(value_name = "PATH", required = true, num_args = 2..)]
    paths: Vec<PathBuf>,
    /// Copy directories and all that is in them
    #[arg(short, long, visible_short_alias = 'R')]
    recursive: bool,
    /// Replace files that are there
    #[arg(short, long)]
    force: bool,
    /// Keep permissions and times and, as root, owners
    #[arg(short, long)]
    preserve: bool,
    /// No progress bar
    #[arg(short, long)]
    quiet: bool,
}

/// How files are copied.
#[derive(Clone)]
struct How {
    tree: Tree,
    io: Io,
    bar: ProgressBar,
    recursive: bool,
    force: bool,
    preserve: bool,
    umask: u32,
}

/// Copies.
///
/// # Errors
/// Some could not be copied.
pub async fn run(tree: &Tree, args: Args) -> anyhow::Result<()> {
    let Some((to, from)) = args.paths.split_last() else {
        return Err(usage("get needs two paths"));
    };
    let from: Vec<RemotePath> = from
        .iter()
        .map(|path| RemotePath::from(path.as_os_str()))
        .collect();
    if to.as_os_str() == "-" {
        return print(tree, &from).await;
    }
    let how = How {
        tree: tree.clone(),
        io: Io::real(),
        bar: progress::bar(args.quiet),
        recursive: args.recursive,
        force: args.force,
        preserve: args.preserve,
        umask: own_umask(),
    };
    let into = to.is_dir();
    if !into && from.len() > 1 {
        bail!(
            "{}: is no directory; several files can only be copied into one",
            to.display()
        );
    }
    let mut crew = Crew::default();
    for from in from {
        let to = match from.name() {
            Some(name) if into => to.join(OsStr::from_bytes(name)),
            _ => to.clone(),
        };
        get(&how, &mut crew, from, to).await;
    }
    let outcome = crew.end().await;
    how.bar.finish_and_clear();
    outcome
}

async fn print(tree: &Tree, from: &[RemotePath]) -> anyhow::Result<()> {
    for path in from {
        if cat::print(tree, path).await? == Heard::No {
            break;
        }
    }
    Ok(())
}

/// Copies one argument: a file, or a tree.
async fn get(how: &How, crew: &mut Crew, from: RemotePath, to: PathBuf) {
    let Some(attr) = crew.take(how.tree.look(&from, true).await) else {
        return;
    };
    let mut todo = vec![(from, attr, to)];
    let mut finish = Vec::new();
    while let Some((from, attr, to)) = todo.pop() {
        if attr.kind == Kind::Dir {
            if !how.recursive {
                crew.take::<()>(Err(anyhow!(
                    "{from}: is a directory; copy it and all that is in it with -r"
                )));
                continue;
            }
            if crew.take(make_directory(&to)).is_none() {
                continue;
            }
            let entries = how
                .tree
                .entries(attr.ino)
                .await
                .with_context(|| from.to_string());
            for entry in crew.take(entries).unwrap_or_default().into_iter().rev() {
                let local = to.join(OsStr::from_bytes(&entry.name));
                todo.push((from.join(&entry.name), entry.attr, local));
            }
            finish.push((attr, to));
            continue;
        }
        let how = how.clone();
        crew.add(async move {
            get_leaf(&how, &attr, &to)
                .await
                .with_context(|| format!("{from} to {}", to.display()))
        })
        .await;
    }
    crew.rest().await;
    for (attr, to) in finish.into_iter().rev() {
        crew.take(set_attributes(how, &attr, &to).with_context(|| to.display().to_string()));
    }
}

fn make_directory(to: &Path) -> anyhow::Result<()> {
    match std::fs::create_dir(to) {
        Err(why) if why.kind() == ErrorKind::AlreadyExists && to.is_dir() => Ok(()),
        made => made.with_context(|| to.display().to_string()),
    }
}

/// Copies something that is no directory.
async fn get_leaf(how: &How, attr: &Attr, to: &Path) -> anyhow::Result<()> {
    if !how.force && to.symlink_metadata().is_ok() {
        bail!("exists; replace it with -f");
    }
    let temp = to.with_file_name(unfinished(how.io.random_u64()));
    let copied = match attr.kind {
        Kind::File => get_file(how, attr, &temp).await,
        Kind::Symlink => get_link(how, attr, &temp).await,
        other => bail!(
            "is a {}, not a file, directory or link; it was left out",
            super::show::kind(other)
        ),
    };
    let copied = copied.and_then(|()| Ok(std::fs::rename(&temp, to)?));
    if copied.is_err() {
        // What is left of it is of no use; a failure to say so adds nothing.
        let _ = std::fs::remove_file(&temp);
    }
    copied
}

async fn get_file(how: &How, attr: &Attr, temp: &Path) -> anyhow::Result<()> {
    how.bar.inc_length(attr.size);
    let reader = how.tree.client.open_read(attr.ino).await?;
    let file = how.io.open(temp, Open::create_new()).await?;
    let mut offset = 0;
    loop {
        let bytes = reader.read_at(offset, CHUNK).await?;
        if bytes.is_empty() {
            break;
        }
        let length = bytes.len() as u64;
        file.write_at(offset, bytes.into()).await?;
        offset += length;
        how.bar.inc(length);
    }
    set_attributes(how, attr, temp)
}

async fn get_link(how: &How, attr: &Attr, temp: &Path) -> anyhow::Result<()> {
    let target = how.tree.client.readlink(&how.tree.caller, attr.ino).await?;
    symlink(OsStr::from_bytes(&target), temp)?;
    set_attributes(how, attr, temp)
}

/// Permissions and, with -p, owner and times.
fn set_attributes(how: &How, attr: &Attr, path: &Path) -> anyhow::Result<()> {
    if how.preserve && how.tree.caller.uid == 0 {
        lchown(path, Some(attr.uid), Some(attr.gid))?;
    }
    if attr.kind != Kind::Symlink {
        let mode = if how.preserve {
            attr.mode & 0o7777
        } else {
            attr.mode & 0o777 & !how.umask
        };
        std::fs::set_permissions(path, Permissions::from_mode(mode))?;
    }
    if how.preserve {
        let times = Timestamps {
            last_access: timespec(attr.atime_ns),
            last_modification: timespec(attr.mtime_ns),
        };
        utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)?;
    }
    Ok(())
}

fn timespec(ns: i64) -> Timespec {
    Timespec {
        tv_sec: ns.div_euclid(1_000_000_000),
        tv_nsec: ns.rem_euclid(1_000_000_000),
    }
}
