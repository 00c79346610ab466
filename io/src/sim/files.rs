//! Operations on a simulated node's disk.

use super::{Node, State};
use crate::{DirItem, Open, Space};
use rand::Rng;
use rustix::io::Errno;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

/// One spelling for each path: `./a` is `a`.
pub(super) fn place(p: &Path) -> PathBuf {
    p.components()
        .filter(|part| *part != Component::CurDir)
        .collect()
}

impl Node {
    /// Something on the disk, with a line in the trace when it worked.
    async fn on_disk<T>(
        &self,
        what: impl FnOnce() -> String,
        act: impl FnOnce(&mut super::disk::Disk) -> io::Result<T>,
    ) -> io::Result<T> {
        self.pause().await;
        self.act(|state| {
            let done = act(&mut state.node(&self.name).disk);
            self.log(state, &what(), &done);
            done
        })
        .await
    }

    fn log<T>(&self, state: &mut State, what: &str, done: &io::Result<T>) {
        match done {
            Ok(_) => state.note(&self.name, format_args!("{what}")),
            Err(e) => state.note(&self.name, format_args!("{what}: {:?}", e.kind())),
        }
    }

    pub(crate) async fn open(&self, path: &Path, how: Open) -> io::Result<SimFile> {
        let path = place(path);
        self.pause().await;
        let opened = self.act(|state| {
            let opened = state.node(&self.name).disk.open(&path, how);
            if how.write {
                self.log(state, &format!("open {}", path.display()), &opened);
            }
            opened
        });
        let (ino, _) = opened.await?;
        Ok(SimFile {
            node: self.clone(),
            ino,
            path,
            how,
        })
    }

    pub(crate) async fn create_dir_all(&self, p: &Path) -> io::Result<()> {
        let p = place(p);
        self.on_disk(
            || format!("mkdir {}", p.display()),
            |disk| disk.create_dir_all(&p),
        )
        .await
    }

    pub(crate) async fn read_dir(&self, p: &Path) -> io::Result<Vec<DirItem>> {
        self.pause().await;
        self.act(|state| state.node(&self.name).disk.read_dir(&place(p)))
            .await
    }

    pub(crate) async fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let (from, to) = (place(from), place(to));
        let what = || format!("rename {} to {}", from.display(), to.display());
        self.on_disk(what, |disk| disk.rename(&from, &to)).await
    }

    pub(crate) async fn remove_file(&self, p: &Path) -> io::Result<()> {
        let p = place(p);
        self.on_disk(
            || format!("remove {}", p.display()),
            |disk| disk.remove_file(&p),
        )
        .await
    }

    pub(crate) async fn sync_dir(&self, p: &Path) -> io::Result<()> {
        let p = place(p);
        let failed = self.sync_delay().await;
        self.act(|state| {
            let done = if failed {
                Err(Errno::IO.into())
            } else {
                state.node(&self.name).disk.sync_dir(&p)
            };
            self.log(state, &format!("sync dir {}", p.display()), &done);
            done
        })
        .await
    }

    /// Takes the time of a sync, and says whether it is to fail.
    async fn sync_delay(&self) -> bool {
        let (failed, wait) = self
            .act(|state| {
                let node = state.node(&self.name);
                let wait = node.chance.random_range(0..=node.sync_delay_ms);
                (
                    std::mem::take(&mut node.fail_next_sync),
                    Duration::from_millis(wait),
                )
            })
            .await;
        self.sleep(wait).await;
        failed
    }

    pub(crate) async fn exists(&self, p: &Path) -> bool {
        self.pause().await;
        self.act(|state| state.node(&self.name).disk.exists(&place(p)))
            .await
    }

    pub(crate) async fn lock(&self, p: &Path) -> io::Result<SimLock> {
        let path = place(p);
        self.on_disk(
            || format!("lock {}", path.display()),
            |disk| disk.lock(&path),
        )
        .await?;
        Ok(SimLock {
            node: self.clone(),
            path,
        })
    }

    pub(crate) async fn space(&self, p: &Path) -> io::Result<Space> {
        self.act(|state| {
            let disk = &state.node(&self.name).disk;
            if disk.exists(&place(p)) {
                Ok(disk.space())
            } else {
                Err(Errno::NOENT.into())
            }
        })
        .await
    }
}

/// An open file on a simulated disk.
#[derive(Debug)]
pub(crate) struct SimFile {
    node: Node,
    ino: u64,
    path: PathBuf,
    how: Open,
}

impl SimFile {
    fn check(&self, may: bool) -> io::Result<()> {
        if may { Ok(()) } else { Err(Errno::BADF.into()) }
    }

    pub(crate) async fn read_at(&self, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        self.check(self.how.read)?;
        self.node.pause().await;
        self.node
            .act(|state| Ok(state.node(&self.node.name).disk.read(self.ino, offset, len)))
            .await
    }

    pub(crate) async fn next_data(&self, offset: u64) -> io::Result<u64> {
        self.node
            .act(|state| Ok(state.node(&self.node.name).disk.next_data(self.ino, offset)))
            .await
    }

    pub(crate) async fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.check(self.how.write)?;
        let (len, crc) = (data.len(), crc32c::crc32c(data));
        let what = || {
            format!(
                "write {} at {offset} {len} bytes {crc:08x}",
                self.path.display()
            )
        };
        self.node
            .on_disk(what, |disk| disk.write(self.ino, offset, data))
            .await
    }

    pub(crate) async fn sync_data(&self) -> io::Result<()> {
        let node = &self.node;
        let sync = node
            .act(|state| state.node(&node.name).disk.sync_start(self.ino))
            .await;
        let failed = node.sync_delay().await;
        node.act(|state| {
            if let Some(sync) = sync {
                state.node(&node.name).disk.sync_end(self.ino, sync, failed);
            }
            let done = if failed {
                Err(Errno::IO.into())
            } else {
                Ok(())
            };
            node.log(state, &format!("sync {}", self.path.display()), &done);
            done
        })
        .await
    }

    pub(crate) async fn len(&self) -> io::Result<u64> {
        self.node
            .act(|state| Ok(state.node(&self.node.name).disk.len(self.ino)))
            .await
    }

    pub(crate) async fn set_len(&self, n: u64) -> io::Result<()> {
        if !self.how.write {
            return Err(Errno::INVAL.into());
        }
        let what = || format!("set length of {} to {n}", self.path.display());
        self.node
            .on_disk(what, |disk| disk.set_len(self.ino, n))
            .await
    }

    pub(crate) async fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        self.check(self.how.write)?;
        let what = || format!("allocate {} at {offset} {len} bytes", self.path.display());
        self.node
            .on_disk(what, |disk| disk.allocate(self.ino, offset, len))
            .await
    }
}

impl Drop for SimFile {
    fn drop(&mut self) {
        self.node
            .with(|state| state.node(&self.node.name).disk.close(self.ino));
    }
}

/// A lock on a simulated disk.
#[derive(Debug)]
pub(crate) struct SimLock {
    node: Node,
    path: PathBuf,
}

impl Drop for SimLock {
    fn drop(&mut self) {
        self.node
            .with(|state| state.node(&self.node.name).disk.unlock(&self.path));
    }
}
