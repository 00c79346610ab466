//! The real machine: tokio's sockets, `std::fs` on tokio's blocking threads.
//!
//! A hand-off to such a thread and back costs several times what a short call on the page cache
//! does. A read of what is in memory is therefore done where it is asked for: the kernel can be
//! told not to wait for the disk. Of a write it cannot (ext4 has no such mode for buffered ones),
//! and a thread of the runtime that waits for a stuck disk may be the one that looks after all
//! sockets and timers: others that sleep do not take that over. So writes are handed off always,
//! several of them at once where they come together; or their task has a thread of its own.

use crate::{DirItem, Open, Space};
use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};
use std::cell::Cell;
use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, IoSliceMut};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::net::{TcpListener, TcpStream};

/// How long to wait for a resource that a listener ran out of.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// Most bytes of a read that is tried without a hand-off: some 50 us of copying.
const SHORT: usize = 256 << 10;

/// What the real backend keeps: its random numbers.
#[derive(Debug)]
pub(crate) struct Real {
    random: Mutex<StdRng>,
}

impl Real {
    pub(crate) fn new() -> Real {
        // The standard library's hasher is the only source of the system's randomness here that
        // cannot fail; each word goes through keys that no other instance has.
        let keys = RandomState::new();
        let mut seed = <StdRng as SeedableRng>::Seed::default();
        for (i, word) in seed.chunks_exact_mut(size_of::<u64>()).enumerate() {
            word.copy_from_slice(
                &keys
                    .hash_one((i, now_ns(), std::process::id()))
                    .to_le_bytes(),
            );
        }
        Real {
            random: Mutex::new(StdRng::from_seed(seed)),
        }
    }

    pub(crate) fn random_u64(&self) -> u64 {
        self.random
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .next_u64()
    }
}

pub(crate) fn now_ns() -> i64 {
    let nanos = |d: Duration| i64::try_from(d.as_nanos()).unwrap_or(i64::MAX);
    match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(since) => nanos(since),
        Err(before) => -nanos(before.duration()),
    }
}

pub(crate) fn mono_ns() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    let passed = START.get_or_init(Instant::now).elapsed();
    u64::try_from(passed.as_nanos()).unwrap_or(u64::MAX)
}

pub(crate) async fn listen(addr: &str) -> io::Result<TcpListener> {
    TcpListener::bind(addr)
        .await
        .map_err(|e| io::Error::new(e.kind(), format!("cannot listen on {addr}: {e}")))
}

pub(crate) async fn connect(addr: &str) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(addr).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

pub(crate) async fn accept(listener: &TcpListener) -> io::Result<(TcpStream, String)> {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                // Fails only when the other side has gone already: the first read will say so.
                let _ = stream.set_nodelay(true);
                return Ok((stream, peer.to_string()));
            }
            Err(e) if passes(&e) => {
                tracing::warn!("cannot accept a connection now, will try again: {e}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
            Err(e) => return Err(e),
        }
    }
}

/// Errors of accept that concern one connection or a passing lack, not the listener.
fn passes(e: &io::Error) -> bool {
    use rustix::io::Errno;
    let lacks = [
        Errno::MFILE,
        Errno::NFILE,
        Errno::NOBUFS,
        Errno::NOMEM,
        Errno::PERM,
        Errno::PROTO,
    ];
    matches!(
        e.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset
    ) || lacks
        .iter()
        .any(|lack| e.raw_os_error() == Some(lack.raw_os_error()))
}

thread_local! {
    /// This thread may block: it belongs to one task.
    static APART: Cell<bool> = const { Cell::new(false) };
}

pub(crate) fn spawn_apart(
    name: &str,
    task: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()?;
    let body = move || {
        APART.set(true);
        runtime.block_on(task);
    };
    let thread = std::thread::Builder::new().name(name.to_owned());
    thread.spawn(body).map(|_| ())
}

/// Runs a blocking call where it may block.
async fn blocking<T: Send + 'static>(
    call: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    if APART.get() {
        return call();
    }
    match tokio::task::spawn_blocking(call).await {
        Ok(result) => result,
        Err(e) => Err(io::Error::other(e)),
    }
}

/// The same for a call on a path.
async fn on_path<T: Send + 'static>(
    p: &Path,
    call: impl FnOnce(PathBuf) -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let p = p.to_owned();
    blocking(move || call(p)).await
}

pub(crate) async fn open(p: &Path, how: Open) -> io::Result<fs::File> {
    on_path(p, move |p| {
        fs::OpenOptions::new()
            .read(how.read)
            .write(how.write)
            .create(how.create)
            .create_new(how.create_new)
            .truncate(how.truncate)
            .open(p)
    })
    .await
}

pub(crate) async fn create_dir_all(p: &Path) -> io::Result<()> {
    on_path(p, |p| make_dirs(&p)).await
}

/// From the top down, each synced into its parent.
fn make_dirs(p: &Path) -> io::Result<()> {
    if p.as_os_str().is_empty() || p.is_dir() {
        return Ok(());
    }
    let parent = p.parent().unwrap_or(Path::new(""));
    make_dirs(parent)?;
    match fs::create_dir(p) {
        Err(e) if !(e.kind() == io::ErrorKind::AlreadyExists && p.is_dir()) => Err(e),
        _ => fs::File::open(if parent.as_os_str().is_empty() {
            Path::new(".")
        } else {
            parent
        })?
        .sync_all(),
    }
}

pub(crate) async fn read_dir(p: &Path) -> io::Result<Vec<DirItem>> {
    on_path(p, |p| {
        let mut items = Vec::new();
        for entry in fs::read_dir(p)? {
            let entry = entry?;
            let about = match entry.metadata() {
                Ok(about) => about,
                // Removed since the directory was read.
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                Err(e) => return Err(e),
            };
            items.push(DirItem {
                name: entry.file_name().to_string_lossy().into_owned(),
                is_dir: about.is_dir(),
                len: if about.is_dir() { 0 } else { about.len() },
            });
        }
        items.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(items)
    })
    .await
}

pub(crate) async fn rename(from: &Path, to: &Path) -> io::Result<()> {
    let to = to.to_owned();
    on_path(from, move |from| fs::rename(from, to)).await
}

pub(crate) async fn remove_file(p: &Path) -> io::Result<()> {
    on_path(p, fs::remove_file).await
}

pub(crate) async fn sync_dir(p: &Path) -> io::Result<()> {
    on_path(p, |p| fs::File::open(p)?.sync_all()).await
}

pub(crate) async fn exists(p: &Path) -> bool {
    on_path(p, fs::exists).await.unwrap_or(false)
}

pub(crate) async fn read_file(p: &Path) -> io::Result<Vec<u8>> {
    on_path(p, fs::read).await
}

pub(crate) async fn lock(p: &Path) -> io::Result<fs::File> {
    on_path(p, |p| {
        let file = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(p)?;
        file.try_lock()?;
        Ok(file)
    })
    .await
}

pub(crate) async fn space(p: &Path) -> io::Result<Space> {
    on_path(p, |p| {
        let about = rustix::fs::statvfs(p)?;
        Ok(Space {
            capacity: about.f_blocks.saturating_mul(about.f_frsize),
            free: about.f_bavail.saturating_mul(about.f_frsize),
        })
    })
    .await
}

/// Reads what is in memory of a range, and answers how many bytes that is from its start.
fn read_cached(file: &fs::File, offset: u64, room: &mut [u8]) -> usize {
    use rustix::io::{Errno, ReadWriteFlags, preadv2};
    let mut got = 0;
    while let Some(rest) = room.get_mut(got..).filter(|rest| !rest.is_empty()) {
        let at = offset.saturating_add(got as u64);
        match preadv2(
            file,
            &mut [IoSliceMut::new(rest)],
            at,
            ReadWriteFlags::NOWAIT,
        ) {
            Ok(0) => break,
            Ok(n) => got += n,
            Err(Errno::INTR) => {}
            // Not in memory, or not known before the disk is asked. Whoever reads the rest on a
            // thread that may wait finds a real error again.
            Err(_) => break,
        }
    }
    got
}

pub(crate) async fn read_at(file: Arc<fs::File>, offset: u64, len: usize) -> io::Result<Vec<u8>> {
    // A length may come from a corrupt record: never more memory than there are bytes.
    let there = file.metadata()?.len().saturating_sub(offset);
    let len = len.min(usize::try_from(there).unwrap_or(usize::MAX));
    let mut bytes = Vec::new();
    if len <= SHORT {
        bytes.resize(len, 0);
        let got = read_cached(&file, offset, &mut bytes);
        // What never waits has to let go of the thread by itself.
        tokio::task::consume_budget().await;
        if got == len {
            return Ok(bytes);
        }
        bytes.truncate(got);
    }
    blocking(move || {
        let mut got = bytes.len();
        bytes.resize(len, 0);
        while let Some(room) = bytes.get_mut(got..).filter(|room| !room.is_empty()) {
            match file.read_at(room, offset + got as u64) {
                Ok(0) => break,
                Ok(n) => got += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        bytes.truncate(got);
        Ok(bytes)
    })
    .await
}

pub(crate) async fn next_data(file: Arc<fs::File>, offset: u64) -> io::Result<u64> {
    use rustix::fs::{SeekFrom, seek};
    use rustix::io::Errno;
    // No other call looks at the file's position.
    blocking(move || match seek(&*file, SeekFrom::Data(offset)) {
        Ok(at) => Ok(at),
        // Nothing but a hole, or nothing at all.
        Err(Errno::NXIO) => Ok(file.metadata()?.len().max(offset)),
        // A filesystem that does not know.
        Err(Errno::INVAL | Errno::OPNOTSUPP) => Ok(offset),
        Err(e) => Err(e.into()),
    })
    .await
}

pub(crate) async fn write_runs(file: Arc<fs::File>, runs: Vec<(u64, Vec<u8>)>) -> io::Result<()> {
    blocking(move || {
        runs.iter()
            .try_for_each(|(offset, data)| file.write_all_at(data, *offset))
    })
    .await
}

pub(crate) async fn sync_data(file: Arc<fs::File>) -> io::Result<()> {
    blocking(move || file.sync_data()).await
}

pub(crate) async fn set_len(file: Arc<fs::File>, n: u64) -> io::Result<()> {
    blocking(move || file.set_len(n)).await
}

pub(crate) async fn allocate(file: Arc<fs::File>, offset: u64, len: u64) -> io::Result<()> {
    if len == 0 {
        return Ok(());
    }
    blocking(move || {
        match rustix::fs::fallocate(&*file, rustix::fs::FallocateFlags::empty(), offset, len) {
            Ok(()) => Ok(()),
            Err(e) if e == rustix::io::Errno::OPNOTSUPP || e == rustix::io::Errno::NOSYS => {
                let end = offset.saturating_add(len);
                if file.metadata()?.len() < end {
                    file.set_len(end)
                } else {
                    Ok(())
                }
            }
            Err(e) => Err(e.into()),
        }
    })
    .await
}
