//! The data folder of `boomfs up`, its cluster file, and how the other commands find a cluster.
//!
//! ```text
//! lock            held while an `up` uses the folder
//! cluster.json    where the NameNodes and DataNodes listen, the mount, the process
//! namenode/       data folder of the NameNode
//! datanode-1/ ..  data folders of the DataNodes
//! ```
#![allow(
    clippy::disallowed_types,
    reason = "free ports and NameNodes that answer are looked for on the real machine"
)]

use crate::cli::Find;
use crate::failure::Unreachable;
use anyhow::{Context, anyhow, bail};
use boomfs_client::{Caller, Client, Config};
use boomfs_io::{Io, LockGuard};
use rustix::process::{Pid, getegid, geteuid, getgroups, test_kill_process};
use serde::{Deserialize, Serialize};
use std::io::ErrorKind;
use std::net::{TcpListener, TcpStream, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Name of the cluster file.
const FILE: &str = "cluster.json";
/// The newest format of the cluster file.
const FORMAT: u32 = 1;
/// How long a first try to reach a NameNode takes.
const PROBE: Duration = Duration::from_secs(1);

/// What the cluster file says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterFile {
    /// Format of this file.
    pub format: u32,
    /// `host:port` of each NameNode.
    pub namenodes: Vec<String>,
    /// `host:port` of each DataNode.
    pub datanodes: Vec<String>,
    /// Where it is mounted, while it runs.
    pub mount: Option<PathBuf>,
    /// The process, while it runs.
    pub pid: Option<u32>,
}

impl ClusterFile {
    /// A file of this format.
    pub fn new(
        namenodes: Vec<String>,
        datanodes: Vec<String>,
        mount: Option<PathBuf>,
        pid: Option<u32>,
    ) -> ClusterFile {
        ClusterFile {
            format: FORMAT,
            namenodes,
            datanodes,
            mount,
            pid,
        }
    }

    /// Reads the cluster file of a data folder; `None` when there is none.
    ///
    /// # Errors
    /// It cannot be read, is no cluster file, or is of a newer format.
    pub fn read(data: &Path) -> anyhow::Result<Option<ClusterFile>> {
        let path = data.join(FILE);
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(why) if matches!(why.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                return Ok(None);
            }
            Err(why) => return Err(why).with_context(|| format!("cannot read {}", path.display())),
        };
        let value: serde_json::Value =
            serde_json::from_slice(&text).map_err(|why| broken(&path, &why))?;
        let format = value
            .get("format")
            .and_then(serde_json::Value::as_u64)
            .unwrap_or(0);
        if format > u64::from(FORMAT) {
            bail!(
                "{} has format {format}, newer than {FORMAT}, the newest this boomfs knows; use a newer boomfs",
                path.display()
            );
        }
        serde_json::from_value(value)
            .map(Some)
            .map_err(|why| broken(&path, &why))
    }

    /// Writes it into a data folder, all or nothing.
    ///
    /// # Errors
    /// Those of the operating system.
    pub async fn write(&self, io: &Io, data: &Path) -> anyhow::Result<()> {
        let path = data.join(FILE);
        let mut text = serde_json::to_vec_pretty(self)?;
        text.push(b'\n');
        io.write_atomic(&path, &text)
            .await
            .with_context(|| format!("cannot write {}", path.display()))
    }

    /// Whether the process that wrote it is known to be gone.
    fn has_ended(&self) -> bool {
        let Some(pid) = self.pid else { return true };
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
        pid.is_none_or(|pid| test_kill_process(pid) == Err(rustix::io::Errno::SRCH))
    }
}

fn broken(path: &Path, why: &serde_json::Error) -> anyhow::Error {
    anyhow!(
        "{} is no cluster file: {why}; remove it if it was damaged: it holds addresses only, and `boomfs up` makes it anew",
        path.display()
    )
}

/// The data folder of an `up`, locked.
pub struct DataFolder {
    /// The folder.
    pub path: PathBuf,
    /// The cluster file of before.
    pub file: Option<ClusterFile>,
    /// NameNodes that have a folder in it.
    pub namenodes: usize,
    /// DataNodes that have a folder in it.
    pub datanodes: usize,
    _lock: LockGuard,
}

impl DataFolder {
    /// Makes the folder if it is missing, and takes its lock.
    ///
    /// # Errors
    /// In use by another process; holds something else; what [`ClusterFile::read`] gives.
    pub async fn open(io: &Io, path: &Path) -> anyhow::Result<DataFolder> {
        let shown = path.display();
        refuse_foreign(path)?;
        io.create_dir_all(path)
            .await
            .with_context(|| format!("cannot make data folder {shown}"))?;
        let path = path
            .canonicalize()
            .with_context(|| format!("cannot use data folder {shown}"))?;
        let lock = match io.lock(&path.join("lock")).await {
            Ok(lock) => lock,
            Err(why) if why.kind() == ErrorKind::WouldBlock => {
                let pid = ClusterFile::read(&path)
                    .ok()
                    .flatten()
                    .and_then(|file| file.pid);
                let who = pid.map_or_else(
                    || "another boomfs up".to_owned(),
                    |pid| format!("another boomfs up (process {pid})"),
                );
                bail!(
                    "data folder {shown} is in use by {who}; stop that one, or name another folder with --data"
                );
            }
            Err(why) => {
                return Err(why).with_context(|| format!("cannot lock data folder {shown}"));
            }
        };
        let file = ClusterFile::read(&path)?;
        let count = |name: fn(usize) -> String| {
            let there = (1..).take_while(|number| path.join(name(*number)).is_dir());
            there.count()
        };
        let (namenodes, datanodes) = (count(namenode_name), count(datanode_name));
        Ok(DataFolder {
            path,
            file,
            namenodes,
            datanodes,
            _lock: lock,
        })
    }

    /// Data folder of a NameNode, counted from 1.
    pub fn namenode(&self, number: usize) -> PathBuf {
        self.path.join(namenode_name(number))
    }

    /// Data folder of a DataNode, counted from 1.
    pub fn datanode(&self, number: usize) -> PathBuf {
        self.path.join(datanode_name(number))
    }

    /// Where a NameNode, counted from 1, listens: as before if that is still free.
    pub fn namenode_address(&self, number: usize) -> String {
        free_or_any(
            self.file
                .as_ref()
                .and_then(|file| file.namenodes.get(number - 1)),
        )
    }

    /// Where a DataNode, counted from 1, listens: as before if that is still free.
    pub fn datanode_address(&self, number: usize) -> String {
        free_or_any(
            self.file
                .as_ref()
                .and_then(|file| file.datanodes.get(number - 1)),
        )
    }
}

/// The first has no number: most clusters have one.
fn namenode_name(number: usize) -> String {
    match number {
        1 => "namenode".to_owned(),
        _ => format!("namenode-{number}"),
    }
}

fn datanode_name(number: usize) -> String {
    format!("datanode-{number}")
}

/// A folder with other things in it is not ours to use.
fn refuse_foreign(path: &Path) -> anyhow::Result<()> {
    let entries = match std::fs::read_dir(path) {
        Ok(entries) => entries,
        Err(why) if why.kind() == ErrorKind::NotFound => return Ok(()),
        Err(why) => {
            return Err(why).with_context(|| format!("cannot use data folder {}", path.display()));
        }
    };
    for entry in entries {
        let name = entry
            .with_context(|| format!("cannot read data folder {}", path.display()))?
            .file_name();
        let shown = name.to_string_lossy();
        let ours = ["lock", FILE, "cluster.json.tmp", "namenode", "lost+found"]
            .contains(&shown.as_ref())
            || shown.starts_with("namenode-")
            || shown.starts_with("datanode-")
            || (shown.starts_with("mount-") && shown.ends_with(".log"));
        if !ours {
            bail!(
                "{} is no data folder of boomfs up: it holds {shown}; name an empty folder, or one that `boomfs up` made",
                path.display()
            );
        }
    }
    Ok(())
}

/// An address of before, if nobody else listens there now.
fn free_or_any(before: Option<&String>) -> String {
    match before {
        Some(addr) if TcpListener::bind(addr.as_str()).is_ok() => addr.clone(),
        _ => "127.0.0.1:0".to_owned(),
    }
}

/// The NameNodes that a command means.
///
/// # Errors
/// No cluster file, or its cluster does not run.
pub fn find(find: &Find) -> anyhow::Result<Vec<String>> {
    if !find.namenodes.is_empty() {
        return Ok(find.namenodes.clone());
    }
    let data = find.data.display();
    let Some(file) = ClusterFile::read(&find.data)? else {
        return Err(Unreachable(format!(
            "no cluster found: there is no cluster file in {data}; start one with `boomfs up --mount DIR`, or say where it is with --data DIR or --namenodes HOST:PORT"
        ))
        .into());
    };
    if file.has_ended() && !file.namenodes.iter().any(|addr| answers(addr)) {
        return Err(Unreachable(format!(
            "the cluster of {data} does not run; start it with: boomfs up --mount DIR --data {data}"
        ))
        .into());
    }
    Ok(file.namenodes)
}

fn answers(addr: &str) -> bool {
    let Ok(mut addrs) = addr.to_socket_addrs() else {
        return false;
    };
    addrs.any(|addr| TcpStream::connect_timeout(&addr, PROBE).is_ok())
}

/// Connects with a session, for commands that change something or open files.
///
/// # Errors
/// [`Unreachable`], or what the NameNode refused.
pub async fn connect(find: &Find, purpose: &str) -> anyhow::Result<Client> {
    let config = config(find, purpose)?;
    let unreachable = explain(&config);
    Client::connect(Io::real(), config)
        .await
        .map_err(unreachable)
}

/// Connects without a session, for questions; if they may be `stale`, to any NameNode.
///
/// # Errors
/// As [`connect`].
pub async fn observe(find: &Find, purpose: &str, stale: bool) -> anyhow::Result<Client> {
    let config = Config {
        stale,
        ..config(find, purpose)?
    };
    let unreachable = explain(&config);
    Client::observer(Io::real(), config)
        .await
        .map_err(unreachable)
}

fn config(find: &Find, purpose: &str) -> anyhow::Result<Config> {
    Ok(Config {
        deadline: find.timeout,
        ..Config::new(self::find(find)?, session_name(purpose))
    })
}

fn explain(config: &Config) -> impl FnOnce(boomfs_client::Error) -> anyhow::Error + use<> {
    let who = config.namenodes.join(", ");
    move |error| match error {
        boomfs_client::Error::TimedOut {
            who: why, within, ..
        } => Unreachable(format!(
            "no NameNode serves at {who} within {} s: {why}; is it running?",
            within.as_secs_f64()
        ))
        .into(),
        error => error.into(),
    }
}

/// What a session is called for people: machine, process, purpose.
pub fn session_name(purpose: &str) -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!("{}:{}:{purpose}", host.trim(), std::process::id())
}

/// Who runs this command.
///
/// # Errors
/// The operating system does not say which groups.
pub fn caller() -> anyhow::Result<Caller> {
    let groups = getgroups().context("cannot ask for the groups of this process")?;
    Ok(Caller {
        uid: geteuid().as_raw(),
        gid: getegid().as_raw(),
        groups: groups
            .into_iter()
            .map(rustix::process::Gid::as_raw)
            .collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
    }

    #[test]
    fn a_cluster_file_is_read_as_written() {
        let folder = tempfile::tempdir().unwrap();
        let file = ClusterFile::new(
            vec!["127.0.0.1:1".into()],
            vec!["127.0.0.1:2".into()],
            Some("/mnt/x".into()),
            Some(7),
        );
        assert_eq!(ClusterFile::read(folder.path()).unwrap(), None);
        runtime()
            .block_on(file.write(&Io::real(), folder.path()))
            .unwrap();
        assert_eq!(ClusterFile::read(folder.path()).unwrap(), Some(file));
    }

    #[test]
    fn newer_and_broken_cluster_files_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        std::fs::write(&path, "{\"format\": 2}").unwrap();
        let text = ClusterFile::read(folder.path()).unwrap_err().to_string();
        assert!(text.contains("format 2, newer than 1"), "{text}");
        std::fs::write(&path, "{").unwrap();
        let text = ClusterFile::read(folder.path()).unwrap_err().to_string();
        assert!(text.contains("is no cluster file"), "{text}");
    }

    #[test]
    fn a_folder_with_other_things_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("thesis.tex"), "x").unwrap();
        let error = runtime()
            .block_on(DataFolder::open(&Io::real(), folder.path()))
            .err()
            .unwrap();
        assert!(error.to_string().contains("it holds thesis.tex"), "{error}");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_folder_is_used_by_one_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        runtime().block_on(async {
            let first = DataFolder::open(&Io::real(), &data).await.unwrap();
            let error = DataFolder::open(&Io::real(), &data).await.err().unwrap();
            assert!(
                error.to_string().contains("is in use by another boomfs up"),
                "{error}"
            );
            drop(first);
            DataFolder::open(&Io::real(), &data).await.unwrap();
        });
    }

    #[test]
    fn a_port_of_before_is_kept_while_it_is_free() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = taken.local_addr().unwrap().to_string();
        assert_eq!(free_or_any(Some(&addr)), "127.0.0.1:0");
        drop(taken);
        assert_eq!(free_or_any(Some(&addr)), addr);
        assert_eq!(free_or_any(None), "127.0.0.1:0");
    }
}
