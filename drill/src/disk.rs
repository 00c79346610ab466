//! Small disks of NameNodes' own, which can be filled without harm to anybody else's.
//!
//! Each is a filesystem in memory (tmpfs) with a file beside the NameNode's folder that takes what is free. It needs root.

use anyhow::{Context, Result, ensure};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use std::ffi::CString;
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

/// What a disk holds besides its share of files, bytes: two checkpoints and some segments of the log.
const LEAST: u64 = 48 << 20;
/// What a file that is there from the beginning takes in two checkpoints, bytes.
const PER_FILE: u64 = 2 << 10;
/// What is written at once to fill it, bytes: the largest first.
const PIECES: [usize; 2] = [1 << 20, 4 << 10];

/// One disk. It is gone with everything on it when this is dropped.
#[derive(Debug)]
pub struct Disk {
    place: PathBuf,
}

impl Disk {
    /// Mounts one on a new folder, with room for so many files.
    ///
    /// # Errors
    /// Whoever runs this is not root; the folder cannot be made or mounted on.
    pub fn make(place: &Path, files: u64) -> Result<Disk> {
        ensure!(
            rustix::process::geteuid().is_root(),
            "filling a NameNode's disk needs a small filesystem for it, and mounting one needs root: run the drill as root"
        );
        fs::create_dir_all(place).with_context(|| format!("cannot make {}", place.display()))?;
        let options = CString::new(format!("size={}", LEAST + files * PER_FILE))?;
        mount(
            "boomfs-drill",
            place,
            "tmpfs",
            MountFlags::empty(),
            options.as_c_str(),
        )
        .with_context(|| format!("cannot mount a tmpfs on {}", place.display()))?;
        Ok(Disk {
            place: place.to_owned(),
        })
    }

    /// Where it is.
    pub fn place(&self) -> &Path {
        &self.place
    }

    fn filler(&self) -> PathBuf {
        self.place.join("filler")
    }

    /// Takes all that is free now.
    ///
    /// # Errors
    /// A write fails for another reason than a full disk.
    pub fn fill(&self) -> Result<()> {
        let path = self.filler();
        let what = || format!("cannot fill {}", path.display());
        let mut file = File::options()
            .create(true)
            .append(true)
            .open(&path)
            .with_context(what)?;
        for size in PIECES {
            let piece = vec![0; size];
            loop {
                match file.write_all(&piece) {
                    Ok(()) => {}
                    Err(e) if e.kind() == ErrorKind::StorageFull => break,
                    Err(e) => return Err(e).with_context(what),
                }
            }
        }
        Ok(())
    }

    /// Gives it back.
    ///
    /// # Errors
    /// It cannot be removed.
    pub fn free(&self) -> Result<()> {
        let path = self.filler();
        fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Nobody is there to hear of it; lazily, for a process may not be quite gone.
        let _ = unmount(&self.place, UnmountFlags::DETACH);
        let _ = fs::remove_dir(&self.place);
    }
}
