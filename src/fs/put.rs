//! `boomfs fs put`.

use super::copy::{CHUNK, local_name, unfinished};
use super::crew::Crew;
use super::path::RemotePath;
use super::{Tree, at, below, own_umask, progress};
use crate::failure::usage;
use anyhow::{Context, anyhow, bail};
use boomfs_client::{Attr, CreateFile, Ino, Kind, SetAttr, SetTime, errno};
use boomfs_io::{Io, Open};
use bytes::Bytes;
use indicatif::ProgressBar;
use std::fs::{FileType, Metadata};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Arguments of `boomfs fs put`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// What to copy (- is stdin), and last where to: into a directory that is there, or to a new name
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

/// A place in the cluster: a name in a directory.
#[derive(Clone)]
struct Place {
    directory: Ino,
    name: Vec<u8>,
    shown: RemotePath,
}

/// A directory whose attributes are set when all that is in it is there.
struct Finish {
    ino: Ino,
    meta: Metadata,
    shown: RemotePath,
}

/// Copies.
///
/// # Errors
/// Some could not be copied. What was is on the disks of its replicas.
pub async fn run(tree: &Tree, args: Args) -> anyhow::Result<()> {
    let Some((to, from)) = args.paths.split_last() else {
        return Err(usage("put needs two paths"));
    };
    let to = RemotePath::from(to.as_os_str());
    let how = How {
        tree: tree.clone(),
        io: Io::real(),
        bar: progress::bar(args.quiet),
        recursive: args.recursive,
        force: args.force,
        preserve: args.preserve,
        umask: own_umask(),
    };
    let there = tree.find(&to, true).await?;
    let into = there.filter(|attr| attr.kind == Kind::Dir);
    if into.is_none() && from.len() > 1 {
        bail!("{to}: is no directory; several files can only be copied into one");
    }
    let mut crew = Crew::default();
    for from in from {
        let placed = place(&how, from, &to, into.as_ref()).await;
        if let Some(place) = crew.take(placed) {
            put(&how, &mut crew, from, place).await;
        }
    }
    let outcome = crew.end().await;
    how.bar.finish_and_clear();
    outcome
}

/// Where one of the arguments goes.
async fn place(
    how: &How,
    from: &Path,
    to: &RemotePath,
    into: Option<&Attr>,
) -> anyhow::Result<Place> {
    if let Some(directory) = into {
        if from.as_os_str() == "-" {
            bail!("{to}: is a directory; say what to call the copy of stdin");
        }
        let name = local_name(from)?.as_bytes().to_vec();
        return Ok(Place {
            directory: directory.ino,
            shown: to.join(&name),
            name,
        });
    }
    let Some(name) = to.name().cloned() else {
        bail!("/: is a directory")
    };
    let parent = how
        .tree
        .look(&to.parent(), true)
        .await
        .context("cannot copy into the directory")?;
    Ok(Place {
        directory: parent.ino,
        name,
        shown: to.clone(),
    })
}

/// Copies one argument: a file, or a tree.
async fn put(how: &How, crew: &mut Crew, from: &Path, place: Place) {
    if from.as_os_str() == "-" {
        let how = how.clone();
        crew.add(async move { put_file(&how, Source::Stdin, None, &place).await })
            .await;
        return;
    }
    // Links that were named are followed; those found on the way are copied as links.
    let looked = std::fs::metadata(from).with_context(|| from.display().to_string());
    let Some(meta) = crew.take(looked) else {
        return;
    };
    let mut todo = vec![(from.to_owned(), meta, place)];
    let mut finish = Vec::new();
    while let Some((from, meta, place)) = todo.pop() {
        if meta.is_dir() {
            if !how.recursive {
                crew.take::<()>(Err(anyhow!(
                    "{}: is a directory; copy it and all that is in it with -r",
                    from.display()
                )));
                continue;
            }
            let Some(ino) = crew.take(make_directory(how, &meta, &place).await) else {
                continue;
            };
            let Some(names) = crew.take(names(&from)) else {
                continue;
            };
            for name in names {
                let path = from.join(&name);
                let looked =
                    std::fs::symlink_metadata(&path).with_context(|| path.display().to_string());
                let name = name.as_bytes().to_vec();
                let below = Place {
                    directory: ino,
                    shown: place.shown.join(&name),
                    name,
                };
                if let Some(meta) = crew.take(looked) {
                    todo.push((path, meta, below));
                }
            }
            finish.push(Finish {
                ino,
                meta,
                shown: place.shown,
            });
            continue;
        }
        let how = how.clone();
        crew.add(async move { put_leaf(&how, from, meta, &place).await })
            .await;
    }
    crew.rest().await;
    // Deepest first: a directory that is closed to us must be the last that is touched below its parent.
    for Finish { ino, meta, shown } in finish.into_iter().rev() {
        crew.take(
            preserve(how, ino, &meta)
                .await
                .with_context(|| shown.to_string()),
        );
    }
}

fn names(directory: &Path) -> anyhow::Result<Vec<std::ffi::OsString>> {
    let entries = std::fs::read_dir(directory).and_then(|entries| {
        entries
            .map(|entry| entry.map(|entry| entry.file_name()))
            .collect::<std::io::Result<Vec<_>>>()
    });
    let mut names = entries.with_context(|| directory.display().to_string())?;
    names.sort();
    names.reverse();
    Ok(names)
}

async fn make_directory(how: &How, meta: &Metadata, place: &Place) -> anyhow::Result<Ino> {
    let at = below(place.directory, &place.name);
    // Until it is full, it must be open to us.
    let mode = (meta.mode() & 0o777 & !how.umask) | 0o700;
    match how.tree.client.mkdir(&how.tree.caller, &at, mode).await {
        Ok(attr) => Ok(attr.ino),
        Err(why) if why.errno() == errno::EEXIST => {
            let there = how
                .tree
                .client
                .lookup(&how.tree.caller, &at, true)
                .await
                .with_context(|| place.shown.to_string())?;
            if there.kind != Kind::Dir {
                bail!("{}: exists and is no directory", place.shown);
            }
            Ok(there.ino)
        }
        Err(why) => Err(why).with_context(|| place.shown.to_string()),
    }
}

/// Copies something that is no directory.
async fn put_leaf(how: &How, from: PathBuf, meta: Metadata, place: &Place) -> anyhow::Result<()> {
    let kind: FileType = meta.file_type();
    if kind.is_symlink() {
        return put_link(how, &from, &meta, place).await;
    }
    if !kind.is_file() {
        bail!(
            "{}: is neither a file nor a directory nor a link; it was left out",
            from.display()
        );
    }
    put_file(how, Source::File(from), Some(meta), place).await
}

async fn put_link(how: &How, from: &Path, meta: &Metadata, place: &Place) -> anyhow::Result<()> {
    let target = std::fs::read_link(from).with_context(|| from.display().to_string())?;
    let (client, caller) = (&how.tree.client, &how.tree.caller);
    let made = async {
        let temp = below(place.directory, unfinished(how.io.random_u64()).as_bytes());
        let attr = client
            .symlink(caller, &temp, target.as_os_str().as_bytes())
            .await?;
        preserve_link(how, attr.ino, meta).await?;
        finish(how, &temp, place).await
    };
    made.await.with_context(|| place.shown.to_string())
}

/// Where the bytes come from.
enum Source {
    Stdin,
    File(PathBuf),
}

/// Copies a file under another name, and gives it its own when all of it is on disk.
async fn put_file(
    how: &How,
    from: Source,
    meta: Option<Metadata>,
    place: &Place,
) -> anyhow::Result<()> {
    let (client, caller) = (&how.tree.client, &how.tree.caller);
    if !how.force
        && client
            .lookup(caller, &below(place.directory, &place.name), false)
            .await
            .is_ok()
    {
        bail!("{}: exists; replace it with -f", place.shown);
    }
    if let Some(meta) = &meta {
        how.bar.inc_length(meta.len());
    }
    let mode = meta.as_ref().map_or(0o666, |meta| meta.mode() & 0o777) & !how.umask;
    let temp = below(place.directory, unfinished(how.io.random_u64()).as_bytes());
    let file = CreateFile {
        exclusive: true,
        lease: true,
        ..CreateFile::file(mode)
    };
    let attr = client
        .create(caller, &temp, file)
        .await
        .with_context(|| place.shown.to_string())?;
    let copied = async {
        fill(how, from, attr.ino).await?;
        if let Some(meta) = &meta {
            preserve(how, attr.ino, meta).await?;
        }
        finish(how, &temp, place).await
    };
    let copied = copied.await;
    if copied.is_err() {
        // What is left of it is of no use; a failure to say so adds nothing.
        let _ = client.unlink(caller, &temp).await;
    }
    copied.with_context(|| place.shown.to_string())
}

async fn fill(how: &How, from: Source, ino: Ino) -> anyhow::Result<()> {
    let writer = how.tree.client.open_write(&how.tree.caller, ino).await?;
    let filled = async {
        let mut offset = 0;
        let file = match &from {
            Source::Stdin => None,
            Source::File(path) => Some(
                how.io
                    .open(path, Open::read())
                    .await
                    .with_context(|| path.display().to_string())?,
            ),
        };
        loop {
            let bytes = match &file {
                Some(file) => file.read_at(offset, CHUNK).await?,
                None => tokio::task::spawn_blocking(read_stdin).await??,
            };
            if bytes.is_empty() {
                break;
            }
            let length = bytes.len() as u64;
            writer.write_at(offset, Bytes::from(bytes)).await?;
            offset += length;
            how.bar.inc(length);
        }
        anyhow::Ok(writer.fsync().await?)
    };
    let filled = filled.await;
    let closed = writer.close().await;
    filled?;
    Ok(closed?)
}

fn read_stdin() -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    std::io::stdin()
        .lock()
        .take(CHUNK as u64)
        .read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Gives a finished copy its own name.
async fn finish(how: &How, temp: &boomfs_client::At, place: &Place) -> anyhow::Result<()> {
    let to = below(place.directory, &place.name);
    how.tree
        .client
        .rename(&how.tree.caller, temp, &to, !how.force, false)
        .await?;
    Ok(())
}

/// With -p, sets what the original has.
async fn preserve(how: &How, ino: Ino, meta: &Metadata) -> anyhow::Result<()> {
    if !how.preserve {
        return Ok(());
    }
    preserve_owner(how, ino, meta).await?;
    let set = SetAttr {
        mode: Some(meta.mode() & 0o7777),
        atime: Some(SetTime::At(ns(meta.atime(), meta.atime_nsec()))),
        mtime: Some(SetTime::At(ns(meta.mtime(), meta.mtime_nsec()))),
        ..SetAttr::default()
    };
    how.tree
        .client
        .setattr(&how.tree.caller, &at(ino), set)
        .await?;
    Ok(())
}

/// The same for a link, which has no permissions.
async fn preserve_link(how: &How, ino: Ino, meta: &Metadata) -> anyhow::Result<()> {
    if !how.preserve {
        return Ok(());
    }
    preserve_owner(how, ino, meta).await?;
    let mtime = Some(SetTime::At(ns(meta.mtime(), meta.mtime_nsec())));
    how.tree
        .client
        .setattr(
            &how.tree.caller,
            &at(ino),
            SetAttr {
                mtime,
                ..SetAttr::default()
            },
        )
        .await?;
    Ok(())
}

async fn preserve_owner(how: &How, ino: Ino, meta: &Metadata) -> anyhow::Result<()> {
    let caller = &how.tree.caller;
    if caller.uid != 0 || (meta.uid() == 0 && meta.gid() == caller.gid) {
        return Ok(());
    }
    let set = SetAttr {
        uid: Some(meta.uid()),
        gid: Some(meta.gid()),
        ..SetAttr::default()
    };
    how.tree.client.setattr(caller, &at(ino), set).await?;
    Ok(())
}

fn ns(seconds: i64, nanos: i64) -> i64 {
    seconds.saturating_mul(1_000_000_000).saturating_add(nanos)
}
