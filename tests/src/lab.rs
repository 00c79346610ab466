//! The folder, the processes and the mounts of one test.

use crate::{Process, eventually};
use anyhow::{Context, Result, bail};
use rustix::mount::{UnmountFlags, unmount};
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;
use tempfile::TempDir;

/// Labs that work at the same time: more only wait for one another's processors.
const LABS: usize = 2;
/// How long one command may take.
const COMMAND: Duration = Duration::from_secs(120);

static OPEN: Mutex<usize> = Mutex::new(0);
static CLOSED: Condvar = Condvar::new();

/// The folder of one test. See the crate's documentation for what becomes of it.
pub struct Lab {
    binary: PathBuf,
    // In an option, so that it can be left behind with a mount in it.
    folder: Option<TempDir>,
    mounts: Mutex<Vec<PathBuf>>,
}

/// What a command did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ran {
    /// Its exit code; `None`: a signal ended it.
    pub code: Option<i32>,
    /// Its stdout.
    pub stdout: String,
    /// Its stderr.
    pub stderr: String,
}

impl Ran {
    /// Its stdout, if it succeeded.
    ///
    /// # Errors
    /// It failed; what it said is in the message.
    pub fn ok(self) -> Result<String> {
        if self.code != Some(0) {
            bail!("{self}");
        }
        Ok(self.stdout)
    }
}

impl fmt::Display for Ran {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "exit code {:?}; stdout: {:?}; stderr: {:?}",
            self.code, self.stdout, self.stderr
        )
    }
}

impl Lab {
    /// A lab for the binary at a path, which is `env!("CARGO_BIN_EXE_boomfs")` in tests of its package.
    ///
    /// # Errors
    /// No temporary folder can be made.
    pub fn new(binary: &str) -> Result<Lab> {
        let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        while *open >= LABS {
            open = CLOSED.wait(open).unwrap_or_else(PoisonError::into_inner);
        }
        *open += 1;
        drop(open);
        let folder = tempfile::Builder::new().prefix("boomfs-test-").tempdir();
        let mut lab = Lab {
            binary: PathBuf::from(binary),
            folder: None,
            mounts: Mutex::default(),
        };
        lab.folder = Some(folder.context("cannot make a temporary folder")?);
        Ok(lab)
    }

    /// A path in its folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder
            .as_ref()
            .map_or_else(|| PathBuf::from(name), |folder| folder.path().join(name))
    }

    /// A new directory in its folder that will be mounted on, and unmounted at the end.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn mountpoint(&self, name: &str) -> Result<PathBuf> {
        let path = self.path(name);
        self.watch_mount(&path);
        // It is there already after a kill, perhaps as a dead mount, which cannot even be looked at.
        match std::fs::create_dir(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => {
                Err(e).with_context(|| path.display().to_string())
            }
            _ => Ok(path),
        }
    }

    /// Remembers to unmount a path at the end.
    pub fn watch_mount(&self, path: &Path) {
        let mut mounts = self.mounts.lock().unwrap_or_else(PoisonError::into_inner);
        if !mounts.iter().any(|known| known == path) {
            mounts.push(path.to_owned());
        }
    }

    /// The binary with arguments, in the lab's folder.
    pub fn command<S: AsRef<std::ffi::OsStr>>(&self, args: &[S]) -> Command {
        let mut command = Command::new(&self.binary);
        command
            .args(args)
            .env_remove("BOOMFS_LOG")
            .current_dir(self.path("."));
        command
    }

    /// Starts the binary and leaves it running.
    ///
    /// # Errors
    /// As [`Process::start`].
    pub fn start<S: AsRef<std::ffi::OsStr>>(&self, args: &[S]) -> Result<Process> {
        let name = args
            .iter()
            .take(1)
            .map(|arg| arg.as_ref().to_string_lossy())
            .collect::<String>();
        Process::start(&format!("boomfs {name}"), &mut self.command(args))
    }

    /// Runs the binary to its end.
    ///
    /// # Errors
    /// It does not end within two minutes; what it does is in the [`Ran`].
    pub fn boomfs<S: AsRef<std::ffi::OsStr>>(&self, args: &[S]) -> Result<Ran> {
        run("boomfs", &mut self.command(args), COMMAND)
    }

    /// Runs a script of the shell in a folder.
    ///
    /// # Errors
    /// It fails, or does not end within two minutes.
    pub fn sh(&self, folder: &Path, script: &str) -> Result<String> {
        let mut command = Command::new("sh");
        command
            .arg("-euc")
            .arg(script)
            .current_dir(folder)
            .env("LC_ALL", "C");
        let ran = run("sh", &mut command, COMMAND)?;
        ran.ok()
            .with_context(|| format!("in {}: {script}", folder.display()))
    }
}

fn run(name: &str, command: &mut Command, deadline: Duration) -> Result<Ran> {
    let folder = tempfile::tempdir()?;
    let file = |name: &str| std::fs::File::create(folder.path().join(name));
    let read = |name: &str| {
        std::fs::read(folder.path().join(name))
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
    };
    // Into files: a background process that inherits a pipe would keep it open.
    command
        .stdin(std::process::Stdio::null())
        .stdout(file("out")?)
        .stderr(file("err")?);
    let mut child = command
        .spawn()
        .with_context(|| format!("cannot start {name}"))?;
    let ended = eventually(deadline, name, || {
        child.try_wait()?.context("it still runs")
    });
    match ended {
        Ok(status) => Ok(Ran {
            code: status.code(),
            stdout: read("out")?,
            stderr: read("err")?,
        }),
        Err(why) => {
            let _ = child.kill();
            bail!(
                "{why:#}; stdout: {:?}; stderr: {:?}",
                read("out")?,
                read("err")?
            )
        }
    }
}

fn is_mounted(path: &Path) -> bool {
    let text = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let path = path.to_string_lossy();
    text.lines()
        .any(|line| line.split(' ').nth(4) == Some(path.as_ref()))
}

impl Drop for Lab {
    fn drop(&mut self) {
        let mounts =
            std::mem::take(&mut *self.mounts.lock().unwrap_or_else(PoisonError::into_inner));
        let mut left = false;
        for path in mounts {
            while is_mounted(&path) && unmount(&path, UnmountFlags::DETACH).is_ok() {}
            left |= is_mounted(&path);
        }
        if left && let Some(folder) = self.folder.take() {
            // Whoever removes a folder removes what is mounted in it, too.
            let kept = folder.keep();
            eprintln!(
                "something is still mounted in {}; it is left there",
                kept.display()
            );
        }
        *OPEN.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        CLOSED.notify_one();
    }
}
