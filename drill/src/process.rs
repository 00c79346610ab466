//! A child process whose output is listened to.

use crate::eventually;
use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

/// Lines that a process has written so far.
type Lines = Arc<Mutex<Vec<String>>>;

/// A child process. It is killed when this is dropped.
pub struct Process {
    name: String,
    child: Child,
    stdout: Lines,
    stderr: Lines,
}

fn listen(from: impl Read + Send + 'static) -> Lines {
    let lines = Lines::default();
    let heard = lines.clone();
    thread::spawn(move || {
        for line in BufReader::new(from).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).into_owned();
            heard
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(line);
        }
    });
    lines
}

fn copy(lines: &Lines) -> Vec<String> {
    lines.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

impl Process {
    /// Starts it.
    ///
    /// # Errors
    /// The operating system refuses.
    pub fn start(name: &str, command: &mut Command) -> Result<Process> {
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        let stdout = child.stdout.take().map(listen).unwrap_or_default();
        let stderr = child.stderr.take().map(listen).unwrap_or_default();
        Ok(Process {
            name: name.to_owned(),
            child,
            stdout,
            stderr,
        })
    }

    /// Its number.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has written to stdout so far.
    pub fn stdout(&self) -> Vec<String> {
        copy(&self.stdout)
    }

    /// What it has written to stderr so far.
    pub fn stderr(&self) -> Vec<String> {
        copy(&self.stderr)
    }

    /// Waits for a line on stdout.
    ///
    /// # Errors
    /// It does not come within the deadline, or the process ends before; its stderr is shown.
    pub fn line(&mut self, deadline: Duration, fits: impl Fn(&str) -> bool) -> Result<String> {
        let found = eventually(deadline, "a line on stdout", || {
            // Asked first: what an ended process wrote is complete a moment after it ended.
            let ended = self.child.try_wait()?.is_some();
            match copy(&self.stdout).into_iter().find(|line| fits(line)) {
                Some(line) => Ok(Some(line)),
                None if ended => Ok(None),
                None => bail!("it is still silent"),
            }
        });
        match found {
            Ok(Some(line)) => Ok(line),
            Ok(None) => {
                let late = eventually(Duration::from_secs(1), "a last line", || {
                    copy(&self.stdout)
                        .into_iter()
                        .find(|line| fits(line))
                        .context("none")
                });
                late.with_context(|| format!("{} ended; {}", self.name, self.said()))
            }
            Err(why) => Err(why.context(self.said())),
        }
    }

    /// Waits for the line that starts with `ready`.
    ///
    /// # Errors
    /// As [`Process::line`].
    pub fn ready(&mut self, deadline: Duration) -> Result<String> {
        self.line(deadline, |line| line.starts_with("ready"))
    }

    fn said(&self) -> String {
        format!(
            "{} said: {:?} and on stderr: {:?}",
            self.name,
            self.stdout(),
            self.stderr()
        )
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// It is gone already.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.child.id())
            .ok()
            .and_then(Pid::from_raw)
            .context("no such process")?;
        kill_process(pid, signal).with_context(|| format!("cannot signal {}", self.name))
    }

    /// Kills it (SIGKILL) and waits until it is gone.
    ///
    /// # Errors
    /// It was gone already, or does not go.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.wait(Duration::from_secs(30)).map(|_| ())
    }

    /// Asks it to stop (SIGTERM), waits until it has, and checks that it stopped cleanly.
    ///
    /// # Errors
    /// It does not stop within the deadline, or not cleanly.
    pub fn stop(&mut self, deadline: Duration) -> Result<()> {
        self.signal(Signal::TERM)?;
        let status = self.wait(deadline)?;
        if !status.success() {
            bail!("{} stopped with {status}; {}", self.name, self.said());
        }
        Ok(())
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// It does not come within the deadline.
    pub fn wait(&mut self, deadline: Duration) -> Result<ExitStatus> {
        let ended = eventually(deadline, "its end", || {
            self.child.try_wait()?.context("it still runs")
        });
        ended.map_err(|why| why.context(self.said()))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Gone already is fine.
        let _ = self.child.kill();
        let _ = eventually(Duration::from_secs(10), "its end", || {
            self.child.try_wait()?.context("it still runs")
        });
    }
}
