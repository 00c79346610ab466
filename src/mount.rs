//! `boomfs mount`: mounts a cluster that runs, in this process or in one of its own.

use crate::cli::Find;
use crate::failure::Unreachable;
use crate::signals::Signals;
use crate::{cluster, mountpoint, output};
use anyhow::{Context, anyhow, bail};
use boomfs_fuse_mount::Mount;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

/// How much longer than the child's own deadlines its parent waits.
const PATIENCE: Duration = Duration::from_secs(45);

/// Arguments of `boomfs mount`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Where to mount; made if only its last component is missing
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    #[command(flatten)]
    find: Find,
    /// Return when it is mounted, and serve it from a process of its own
    #[arg(short, long)]
    pub background: bool,
    /// Where the process in the background writes its log; without it, nowhere
    #[arg(long, value_name = "FILE", requires = "background")]
    log: Option<PathBuf>,
    /// Mount options, as in -o ro,sync
    #[arg(short, value_name = "OPTIONS")]
    options: Vec<String>,
    /// This is the process in the background.
    #[arg(long, hide = true)]
    detached: bool,
}

/// Mounts and serves until it is unmounted or this process is asked to stop.
///
/// # Errors
/// The cluster cannot be reached, or mounting is refused.
pub async fn run(args: Args) -> anyhow::Result<()> {
    if !args.detached {
        return serve(&args).await;
    }
    // The parent listens to stdout until it is ready or has failed.
    rustix::process::setsid().context("cannot leave the session of the terminal")?;
    let outcome = serve(&args).await;
    if let Err(error) = &outcome {
        let kind = if error.downcast_ref::<Unreachable>().is_some() {
            "unreachable"
        } else {
            "failed"
        };
        output::line(&format!(
            "{kind} {}",
            format!("{error:#}").replace('\n', " ")
        ))?;
    }
    outcome
}

async fn serve(args: &Args) -> anyhow::Result<()> {
    let mut signals = Signals::install()?;
    let options = mountpoint::options(&args.options)?;
    let path = mountpoint::prepare(&args.dir)?;
    let client = cluster::connect(&args.find, &format!("mount {}", path.display())).await?;
    let mount = Mount::new(client.clone(), &path, options)?;
    let looked = mountpoint::look(&path).await;
    if let Err(error) = looked {
        let _ = mount.unmount().await;
        return Err(error);
    }
    output::line(&format!(
        "ready: {} (process {})",
        path.display(),
        std::process::id()
    ))?;
    let outcome = tokio::select! {
        biased;
        signal = signals.next() => {
            tracing::info!(signal, "unmounting");
            mount.unmount().await
        }
        () = mount.wait() => Ok(()),
    };
    let closed = client.close().await;
    outcome?;
    Ok(closed?)
}

/// Starts a process that mounts, and waits until it has.
///
/// # Errors
/// What the process said, or that it ended or hangs without a word.
pub fn background(args: &Args) -> anyhow::Result<()> {
    // Wrong words and a cluster that does not run are said by this process.
    mountpoint::options(&args.options)?;
    let namenodes = cluster::find(&args.find)?;
    let dir = std::path::absolute(&args.dir)
        .with_context(|| format!("cannot use {}", args.dir.display()))?;
    let mut command =
        Command::new(std::env::current_exe().context("cannot find this program's own file")?);
    command.arg("mount").arg("--detached");
    command.arg("--namenodes").arg(namenodes.join(","));
    command
        .arg("--timeout")
        .arg(args.find.timeout.as_secs_f64().to_string());
    for words in &args.options {
        command.arg("-o").arg(words);
    }
    command.arg("--").arg(dir);
    command
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log(args.log.as_deref())?);
    let mut child = command
        .spawn()
        .context("cannot start a process for the mount")?;
    let stdout = child
        .stdout
        .take()
        .ok_or_else(|| anyhow!("the process for the mount has no output"))?;
    let (sender, lines) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    match lines.recv_timeout(args.find.timeout + PATIENCE) {
        Ok(line) => told(&line),
        Err(mpsc::RecvTimeoutError::Disconnected) => {
            let status = child
                .wait()
                .context("cannot wait for the process of the mount")?;
            bail!(
                "the process for {} ended without a word ({status}); run it without --background to see why",
                args.dir.display()
            );
        }
        Err(mpsc::RecvTimeoutError::Timeout) => {
            let _ = child.kill();
            bail!(
                "mounting {} takes too long and was given up",
                args.dir.display()
            );
        }
    }
}

/// What the process in the background said first.
fn told(line: &str) -> anyhow::Result<()> {
    match line.split_once(' ') {
        Some(("ready:", _)) => output::line(line),
        Some(("unreachable", why)) => Err(Unreachable(why.to_owned()).into()),
        Some(("failed", why)) => bail!("{why}"),
        _ => bail!("the process for the mount said something unexpected: {line}"),
    }
}

fn log(path: Option<&Path>) -> anyhow::Result<Stdio> {
    let Some(path) = path else {
        return Ok(Stdio::null());
    };
    let file: File = OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .with_context(|| format!("cannot write the log {}", path.display()))?;
    Ok(file.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_background_says_becomes_an_outcome() {
        assert!(told("ready: /mnt/x (process 7)").is_ok());
        assert_eq!(
            told("failed cannot mount").unwrap_err().to_string(),
            "cannot mount"
        );
        assert!(
            told("unreachable no NameNode")
                .unwrap_err()
                .is::<Unreachable>()
        );
        assert!(told("hello").is_err());
    }
}
