//! Many files that are there before a drill begins, so that NameNodes have something to restore and to hand over.

use crate::report::Loss;
use anyhow::{Context, Result};
use boomfs_client::{At, Caller, Client, Config, CreateFile, Error, Ino};
use boomfs_io::Io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Files in one directory.
const PER_DIRECTORY: u64 = 1_000;
/// Files that are made at the same time.
const AT_ONCE: u64 = 64;
/// Names that a listing asks for.
const PAGE: u32 = 500;

/// See the module.
pub struct Many {
    files: u64,
    directories: Vec<Ino>,
}

impl Many {
    /// Makes them, in directories of this one.
    ///
    /// # Errors
    /// A file cannot be made.
    pub async fn make(io: Io, namenodes: Vec<String>, ground: Ino, files: u64) -> Result<Many> {
        let mut many = Many {
            files,
            directories: Vec::new(),
        };
        if files == 0 {
            return Ok(many);
        }
        let client = Client::connect(io, Config::new(namenodes, "drill files")).await?;
        let caller = Caller::default();
        for directory in 0..files.div_ceil(PER_DIRECTORY) {
            let place = At {
                base: ground,
                path: vec![format!("many.{directory}").into_bytes()],
            };
            let made = client.mkdir(&caller, &place, 0o755).await;
            many.directories
                .push(made.context("making directories")?.ino);
        }
        let next = Arc::new(AtomicU64::new(0));
        let workers: Vec<_> = (0..AT_ONCE)
            .map(|_| {
                let work = fill(
                    client.clone(),
                    many.directories.clone(),
                    next.clone(),
                    files,
                );
                tokio::spawn(work)
            })
            .collect();
        for worker in workers {
            worker.await?.context("making files")?;
        }
        client.close().await?;
        Ok(many)
    }

    /// Directories that do not have all of them.
    ///
    /// # Errors
    /// A directory cannot be listed.
    pub async fn losses(&self, io: Io, namenodes: Vec<String>) -> Result<Vec<Loss>> {
        let mut losses = Vec::new();
        if self.files == 0 {
            return Ok(losses);
        }
        let client = Client::connect(io, Config::new(namenodes, "drill files")).await?;
        for (number, directory) in (0..).zip(&self.directories) {
            let there = count(&client, *directory).await?;
            let made = PER_DIRECTORY.min(self.files - number * PER_DIRECTORY);
            if there != made {
                losses.push(Loss {
                    what: format!("files of directory many.{number}"),
                    why: format!("{there} of {made} are there"),
                });
            }
        }
        client.close().await?;
        Ok(losses)
    }
}

/// Makes one file after another.
async fn fill(
    client: Client,
    directories: Vec<Ino>,
    next: Arc<AtomicU64>,
    files: u64,
) -> Result<(), Error> {
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        let directory = usize::try_from(number / PER_DIRECTORY).ok();
        let Some(directory) = directory
            .filter(|_| number < files)
            .and_then(|at| directories.get(at))
        else {
            return Ok(());
        };
        let place = At {
            base: *directory,
            path: vec![format!("file.{number}").into_bytes()],
        };
        let file = CreateFile::file(0o644);
        client.create(&Caller::default(), &place, file).await?;
    }
}

async fn count(client: &Client, directory: Ino) -> Result<u64, Error> {
    let caller = Caller::default();
    let (mut there, mut after) = (0, 0);
    loop {
        let (_, entries, end) = client.readdir(&caller, directory, after, PAGE).await?;
        there += entries.len() as u64;
        match entries.last() {
            Some(last) if !end => after = last.cookie,
            _ => return Ok(there),
        }
    }
}
