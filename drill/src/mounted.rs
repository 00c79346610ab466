//! A client that works through a mount, as any program does: it writes small trees, reads them again and compares.

use crate::Process;
use crate::workload::{Shared, pattern};
use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// How long a mount may take to come and go.
const MOUNT: Duration = Duration::from_secs(60);
/// Directories of a tree.
const DIRECTORIES: u64 = 4;
/// Files in each.
const FILES: u64 = 12;
/// The longest file, bytes.
const LONGEST: u64 = 64 << 10;

/// A mount in a process of its own; unmounted when it is dropped.
pub struct Mount {
    process: Process,
    place: PathBuf,
}

impl Mount {
    /// Mounts the filesystem on an empty folder, which is made.
    ///
    /// # Errors
    /// It cannot be mounted: the process says why.
    pub fn start(binary: &Path, place: &Path, namenodes: &[String]) -> Result<Mount> {
        fs::create_dir_all(place).with_context(|| format!("cannot make {}", place.display()))?;
        let mut command = Command::new(binary);
        command.arg("mount").arg(place);
        command.args(["--namenodes", &namenodes.join(",")]);
        let mut process = Process::start("mount", &mut command)?;
        process.ready(MOUNT)?;
        Ok(Mount {
            process,
            place: place.to_owned(),
        })
    }

    /// Ends it at once: calls that wait for the cluster fail.
    pub fn give_up(&self) {
        // One that is gone already is as it should be.
        let _ = self.process.signal(Signal::KILL);
        self.detach();
    }

    fn detach(&self) {
        // A dead mount would be in everybody's way. There may be none.
        let _ = Command::new("umount").arg("-l").arg(&self.place).output();
    }

    /// Works in a directory until told to stop.
    ///
    /// # Errors
    /// A call failed, or something is not as it was written: which, and how.
    pub fn work(&self, ground: &str, shared: &Arc<Shared>) -> Result<()> {
        let ground = self.place.join(ground);
        let mut round = 0;
        while !shared.stop.load(Ordering::Relaxed) {
            round += 1;
            let top = ground.join(format!("tree.{round}"));
            write(&top, round, shared)?;
            let moved = ground.join(format!("kept.{round}"));
            let what = || format!("rename {} to {}", top.display(), moved.display());
            fs::rename(&top, &moved).with_context(what)?;
            compare(&moved, round)?;
            if round > 1 {
                let old = ground.join(format!("kept.{}", round - 1));
                compare(&old, round - 1)?;
                fs::remove_dir_all(&old).with_context(|| format!("remove {}", old.display()))?;
            }
        }
        Ok(())
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if self.process.stop(MOUNT).is_err() {
            self.detach();
        }
    }
}

fn directory(top: &Path, number: u64) -> PathBuf {
    top.join(format!("d{number}"))
}

/// What is in one file of a round.
fn contents(round: u64, directory: u64, file: u64) -> (u64, usize) {
    let seed = (round * DIRECTORIES + directory) * FILES + file;
    // Some are empty, most are short.
    let len = (seed.wrapping_mul(0x9e37_79b9) % LONGEST) * (file % 4) / 3;
    (seed, usize::try_from(len).unwrap_or(0))
}

fn write(top: &Path, round: u64, shared: &Arc<Shared>) -> Result<()> {
    for number in 0..DIRECTORIES {
        let place = directory(top, number);
        fs::create_dir_all(&place).with_context(|| format!("mkdir {}", place.display()))?;
        for file in 0..FILES {
            let (seed, len) = contents(round, number, file);
            let path = place.join(format!("f{file}"));
            fs::write(&path, pattern(seed, len))
                .with_context(|| format!("write {}", path.display()))?;
            shared.files.fetch_add(1, Ordering::Relaxed);
            shared.bytes.fetch_add(len as u64, Ordering::Relaxed);
        }
    }
    Ok(())
}

fn compare(top: &Path, round: u64) -> Result<()> {
    for number in 0..DIRECTORIES {
        let place = directory(top, number);
        let listed = fs::read_dir(&place).with_context(|| format!("list {}", place.display()))?;
        let count = listed.count() as u64;
        ensure!(
            count == FILES,
            "{} has {count} names, not {FILES}",
            place.display()
        );
        for file in 0..FILES {
            let (seed, len) = contents(round, number, file);
            let path = place.join(format!("f{file}"));
            let got = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
            ensure!(
                got == pattern(seed, len),
                "{} has {} bytes that are not the {len} that were written",
                path.display(),
                got.len()
            );
        }
    }
    Ok(())
}
