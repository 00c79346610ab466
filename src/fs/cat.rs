//! `boomfs fs cat`.

use super::Tree;
use super::copy::CHUNK;
use super::path::RemotePath;
use crate::failure::Tally;
use anyhow::{Context, bail};
use boomfs_client::Kind;
use bytes::Bytes;
use std::io::{ErrorKind, Write};

/// Arguments of `boomfs fs cat`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// What to print
    #[arg(value_name = "PATH", required = true)]
    paths: Vec<RemotePath>,
}

/// Prints.
///
/// # Errors
/// Some files could not be read.
pub async fn run(tree: &Tree, args: &Args) -> anyhow::Result<()> {
    let mut tally = Tally::default();
    for path in &args.paths {
        if tally.take(print(tree, path).await) == Some(Heard::No) {
            break;
        }
    }
    tally.end()
}

/// Whether anyone reads stdout.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// Somebody does.
    Yes,
    /// Nobody any more: there is nothing left to do.
    No,
}

/// Prints a file.
///
/// # Errors
/// It cannot be read, or stdout cannot be written.
pub async fn print(tree: &Tree, path: &RemotePath) -> anyhow::Result<Heard> {
    let attr = tree.look(path, true).await?;
    if attr.kind != Kind::File {
        bail!("{path}: is no file but a {}", super::show::kind(attr.kind));
    }
    let reader = tree
        .client
        .open_read(attr.ino)
        .await
        .with_context(|| path.to_string())?;
    let mut offset = 0;
    loop {
        let bytes = reader
            .read_at(offset, CHUNK)
            .await
            .with_context(|| path.to_string())?;
        if bytes.is_empty() {
            return Ok(Heard::Yes);
        }
        offset += bytes.len() as u64;
        match tokio::task::spawn_blocking(move || write(&bytes)).await? {
            Err(why) if why.kind() == ErrorKind::BrokenPipe => return Ok(Heard::No),
            written => written.context("cannot write to stdout")?,
        }
    }
}

fn write(bytes: &Bytes) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(bytes)?;
    out.flush()
}
