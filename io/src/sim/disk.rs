//! The disk of a simulated node: what programs see, and what a power cut leaves of it.
//!
//! Contents are kept by pages, once as written and once as synced. Names (files made, renamed,
//! removed) go to the disk in the order in which they changed, as on a journaling filesystem:
//! a sync of a directory takes along every change up to the last one in that directory, and a
//! power cut keeps some prefix of the rest. Directories themselves are on disk at once.

use crate::{DirItem, Open, Space};
use rand::rngs::StdRng;
use rand::{Rng, RngCore};
use rustix::io::Errno;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Unit of allocation, and of what a power cut keeps or drops.
const PAGE: usize = 4096;
/// Unit that a power cut never tears.
const SECTOR: usize = 512;
/// End of the longest file, bytes.
const MAX_FILE: u64 = 1 << 44;
/// Names that wait for a sync; beyond, the oldest go to the disk by themselves.
const MAX_PENDING: usize = 4096;

/// What becomes of writes that were not synced when the power is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unsynced {
    /// A process was killed on a system that lives on: programs find all of it, and nothing more is on disk than before.
    Kept,
    /// All are lost.
    Lost,
    /// Chance decides by file, page and sector; names survive up to some change.
    Random,
}

/// `None` is a page of zeros.
type Page = Option<Arc<[u8; PAGE]>>;

/// Contents of a file. A page that is absent is a hole and takes no space.
#[derive(Clone, Debug, Default)]
struct Image {
    len: u64,
    pages: BTreeMap<u64, Page>,
}

impl Image {
    /// Drops what is behind a new end.
    fn cut(&mut self, len: u64) -> Vec<u64> {
        let gone: Vec<u64> = self.pages.range(pages_of(len)..).map(|(&p, _)| p).collect();
        for page in &gone {
            self.pages.remove(page);
        }
        let (last, used) = (len / PAGE as u64, (len % PAGE as u64) as usize);
        let mut changed = gone;
        if used > 0
            && let Some(Some(bytes)) = self.pages.get_mut(&last)
        {
            Arc::make_mut(bytes)
                .iter_mut()
                .skip(used)
                .for_each(|b| *b = 0);
            changed.push(last);
        }
        self.len = len;
        changed
    }

    /// All of it; holes are zeros.
    fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.len as usize];
        for (at, page) in &self.pages {
            let rest = bytes.get_mut(*at as usize * PAGE..).unwrap_or_default();
            for (to, from) in rest
                .iter_mut()
                .zip(page.iter().flat_map(|page| page.iter()))
            {
                *to = *from;
            }
        }
        bytes
    }
}

/// Number of pages that `len` bytes touch.
fn pages_of(len: u64) -> u64 {
    len.div_ceil(PAGE as u64)
}

#[derive(Debug, Default)]
struct Inode {
    now: Image,
    synced: Image,
    dirty: BTreeSet<u64>,
    syncs_started: u64,
    sync_done: u64,
    handles: u32,
    /// It has a name now.
    named: bool,
    /// References from names on disk and from changes on their way there.
    held: u32,
}

/// A change of names that is not on disk yet.
#[derive(Debug)]
enum Change {
    Link(PathBuf, u64),
    Unlink(PathBuf),
    Rename(PathBuf, PathBuf),
}

impl Change {
    fn is_in(&self, dir: &Path) -> bool {
        let within = |p: &PathBuf| parent(p) == dir;
        match self {
            Change::Link(p, _) | Change::Unlink(p) => within(p),
            Change::Rename(from, to) => within(from) || within(to),
        }
    }
}

/// What a sync in progress will write.
pub(crate) struct Sync {
    number: u64,
    len: u64,
    pages: Vec<(u64, Option<Page>)>,
}

#[derive(Debug)]
pub(crate) struct Disk {
    capacity: u64,
    used: u64,
    inodes: BTreeMap<u64, Inode>,
    next_inode: u64,
    dirs: BTreeSet<PathBuf>,
    names: BTreeMap<PathBuf, u64>,
    synced_names: BTreeMap<PathBuf, u64>,
    pending: VecDeque<Change>,
    locks: BTreeSet<PathBuf>,
}

fn fail<T>(errno: Errno) -> io::Result<T> {
    Err(errno.into())
}

fn parent(p: &Path) -> &Path {
    p.parent().unwrap_or(Path::new(""))
}

impl Disk {
    pub(crate) fn new(capacity: u64) -> Disk {
        Disk {
            capacity,
            used: 0,
            inodes: BTreeMap::new(),
            next_inode: 1,
            dirs: BTreeSet::new(),
            names: BTreeMap::new(),
            synced_names: BTreeMap::new(),
            pending: VecDeque::new(),
            locks: BTreeSet::new(),
        }
    }

    pub(crate) fn set_capacity(&mut self, bytes: u64) {
        self.capacity = bytes;
    }

    pub(crate) fn space(&self) -> Space {
        Space {
            capacity: self.capacity,
            free: self.capacity.saturating_sub(self.used),
        }
    }

    fn is_dir(&self, p: &Path) -> bool {
        p.parent().is_none() || self.dirs.contains(p)
    }

    /// That a name can be made or changed at this path.
    fn check_parent(&self, p: &Path) -> io::Result<()> {
        let dir = parent(p);
        if self.is_dir(dir) {
            Ok(())
        } else if self.names.contains_key(dir) {
            fail(Errno::NOTDIR)
        } else {
            fail(Errno::NOENT)
        }
    }

    pub(crate) fn exists(&self, p: &Path) -> bool {
        self.is_dir(p) || self.names.contains_key(p)
    }

    pub(crate) fn create_dir_all(&mut self, p: &Path) -> io::Result<()> {
        let missing: Vec<&Path> = p.ancestors().take_while(|a| !self.is_dir(a)).collect();
        if missing.iter().any(|a| self.names.contains_key(*a)) {
            return fail(Errno::EXIST);
        }
        self.dirs.extend(missing.into_iter().map(Path::to_owned));
        Ok(())
    }

    pub(crate) fn read_dir(&self, p: &Path) -> io::Result<Vec<DirItem>> {
        if !self.is_dir(p) {
            return fail(if self.names.contains_key(p) {
                Errno::NOTDIR
            } else {
                Errno::NOENT
            });
        }
        let name = |q: &Path| {
            q.file_name()
                .map(|n| n.to_string_lossy().into_owned())
                .unwrap_or_default()
        };
        let dirs = self.dirs.iter().filter(|d| parent(d) == p);
        let mut items: Vec<DirItem> = dirs
            .map(|d| DirItem {
                name: name(d),
                is_dir: true,
                len: 0,
            })
            .collect();
        for (path, ino) in self.names.iter().filter(|(f, _)| parent(f) == p) {
            let len = self.inodes.get(ino).map_or(0, |inode| inode.now.len);
            items.push(DirItem {
                name: name(path),
                is_dir: false,
                len,
            });
        }
        items.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(items)
    }

    /// Opens a file and counts the handle. Also says whether it was made.
    pub(crate) fn open(&mut self, p: &Path, how: Open) -> io::Result<(u64, bool)> {
        let changes = how.create || how.create_new || how.truncate;
        if !how.write && (changes || !how.read) {
            return fail(Errno::INVAL);
        }
        if self.is_dir(p) {
            return fail(if how.create_new {
                Errno::EXIST
            } else {
                Errno::ISDIR
            });
        }
        self.check_parent(p)?;
        let (ino, made) = match self.names.get(p) {
            Some(_) if how.create_new => return fail(Errno::EXIST),
            Some(&ino) => (ino, false),
            None if how.create || how.create_new => (self.make(p), true),
            None => return fail(Errno::NOENT),
        };
        if how.truncate {
            self.set_len(ino, 0)?;
        }
        if let Some(inode) = self.inodes.get_mut(&ino) {
            inode.handles += 1;
        }
        Ok((ino, made))
    }

    fn make(&mut self, p: &Path) -> u64 {
        let ino = self.next_inode;
        self.next_inode += 1;
        self.inodes.insert(
            ino,
            Inode {
                named: true,
                held: 1,
                ..Inode::default()
            },
        );
        self.names.insert(p.to_owned(), ino);
        self.change(Change::Link(p.to_owned(), ino));
        ino
    }

    pub(crate) fn close(&mut self, ino: u64) {
        if let Some(inode) = self.inodes.get_mut(&ino) {
            inode.handles = inode.handles.saturating_sub(1);
        }
        self.unused(ino);
    }

    pub(crate) fn remove_file(&mut self, p: &Path) -> io::Result<()> {
        if self.is_dir(p) {
            return fail(Errno::ISDIR);
        }
        let Some(ino) = self.names.remove(p) else {
            self.check_parent(p)?;
            return fail(Errno::NOENT);
        };
        self.change(Change::Unlink(p.to_owned()));
        self.unname(ino);
        Ok(())
    }

    pub(crate) fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        self.check_parent(to)?;
        if self.dirs.contains(from) {
            return self.rename_dir(from, to);
        }
        if self.is_dir(to) {
            return fail(Errno::ISDIR);
        }
        let Some(ino) = self.names.remove(from) else {
            return fail(Errno::NOENT);
        };
        let replaced = self.names.insert(to.to_owned(), ino);
        self.change(Change::Rename(from.to_owned(), to.to_owned()));
        if let Some(old) = replaced.filter(|&old| old != ino) {
            self.unname(old);
        }
        Ok(())
    }

    /// A directory moves on disk at once, as do all changes before.
    fn rename_dir(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        if to.starts_with(from) && to != from {
            return fail(Errno::INVAL);
        }
        if self.names.contains_key(to) {
            return fail(Errno::NOTDIR);
        }
        let within = |p: &PathBuf| p.starts_with(to) && p != to;
        if to != from && (self.dirs.iter().any(within) || self.names.keys().any(within)) {
            return fail(Errno::NOTEMPTY);
        }
        self.apply_pending(self.pending.len());
        let moved = |p: PathBuf| match p.strip_prefix(from) {
            Ok(rest) if rest.as_os_str().is_empty() => to.to_owned(),
            Ok(rest) => to.join(rest),
            Err(_) => p,
        };
        self.dirs = std::mem::take(&mut self.dirs)
            .into_iter()
            .map(moved)
            .collect();
        self.names = std::mem::take(&mut self.names)
            .into_iter()
            .map(|(p, i)| (moved(p), i))
            .collect();
        self.synced_names = std::mem::take(&mut self.synced_names)
            .into_iter()
            .map(|(p, i)| (moved(p), i))
            .collect();
        Ok(())
    }

    pub(crate) fn sync_dir(&mut self, p: &Path) -> io::Result<()> {
        if !self.is_dir(p) {
            return fail(if self.names.contains_key(p) {
                Errno::NOTDIR
            } else {
                Errno::NOENT
            });
        }
        let last = self.pending.iter().rposition(|change| change.is_in(p));
        self.apply_pending(last.map_or(0, |at| at + 1));
        Ok(())
    }

    pub(crate) fn lock(&mut self, p: &Path) -> io::Result<()> {
        let (ino, _) = self.open(p, Open::write_create())?;
        self.close(ino);
        if self.locks.insert(p.to_owned()) {
            Ok(())
        } else {
            fail(Errno::WOULDBLOCK)
        }
    }

    pub(crate) fn unlock(&mut self, p: &Path) {
        self.locks.remove(p);
    }

    fn change(&mut self, change: Change) {
        self.pending.push_back(change);
        if self.pending.len() > MAX_PENDING {
            self.apply_pending(1);
        }
    }

    /// Brings the first changes of names to the disk.
    fn apply_pending(&mut self, count: usize) {
        for _ in 0..count {
            let Some(change) = self.pending.pop_front() else {
                return;
            };
            let replaced = match change {
                Change::Link(p, ino) => self.synced_names.insert(p, ino),
                Change::Unlink(p) => self.synced_names.remove(&p),
                Change::Rename(from, to) => {
                    let moved = self.synced_names.remove(&from);
                    moved.and_then(|ino| self.synced_names.insert(to, ino))
                }
            };
            if let Some(ino) = replaced {
                self.let_go(ino);
            }
        }
    }

    fn let_go(&mut self, ino: u64) {
        if let Some(inode) = self.inodes.get_mut(&ino) {
            inode.held = inode.held.saturating_sub(1);
        }
        self.unused(ino);
    }

    fn unname(&mut self, ino: u64) {
        if let Some(inode) = self.inodes.get_mut(&ino) {
            inode.named = false;
        }
        self.unused(ino);
    }

    /// Frees the space of a file that nobody can reach any more, and forgets it when the disk
    /// has forgotten it too.
    fn unused(&mut self, ino: u64) {
        let Some(inode) = self.inodes.get_mut(&ino) else {
            return;
        };
        if inode.named || inode.handles > 0 {
            return;
        }
        let pages = inode.now.pages.len() as u64;
        // A name on disk may bring it back, but only as it was synced.
        inode.now = Image::default();
        inode.dirty.clear();
        let forgotten = inode.held == 0;
        self.used = self.used.saturating_sub(pages * PAGE as u64);
        if forgotten {
            self.inodes.remove(&ino);
        }
    }

    pub(crate) fn len(&self, ino: u64) -> u64 {
        self.inodes.get(&ino).map_or(0, |inode| inode.now.len)
    }

    pub(crate) fn read(&self, ino: u64, offset: u64, len: usize) -> Vec<u8> {
        let Some(inode) = self.inodes.get(&ino) else {
            return Vec::new();
        };
        let end = inode.now.len.min(offset.saturating_add(len as u64));
        let mut bytes =
            Vec::with_capacity(usize::try_from(end.saturating_sub(offset)).unwrap_or(0));
        let mut at = offset;
        while at < end {
            let (page, from, till) = piece(at, end);
            let there = inode.now.pages.get(&page).and_then(Option::as_ref);
            match there.and_then(|p| p.get(from..till)) {
                Some(part) => bytes.extend_from_slice(part),
                None => bytes.resize(bytes.len() + till - from, 0),
            }
            at += (till - from) as u64;
        }
        bytes
    }

    /// Where the first page begins, from an offset on, that was written to; the end if none was.
    pub(crate) fn next_data(&self, ino: u64, offset: u64) -> u64 {
        let Some(inode) = self.inodes.get(&ino) else {
            return 0;
        };
        let size = PAGE as u64;
        let mut written = inode.now.pages.range(offset / size..);
        let first = written.find(|(_, page)| page.is_some());
        first.map_or(inode.now.len, |(page, _)| (page * size).max(offset))
    }

    /// Takes a page's worth of space unless the file has it.
    fn reserve(&mut self, ino: u64, page: u64) -> io::Result<&mut Page> {
        let Some(inode) = self.inodes.get_mut(&ino) else {
            return fail(Errno::BADF);
        };
        if !inode.now.pages.contains_key(&page) {
            if self.used + PAGE as u64 > self.capacity {
                return fail(Errno::NOSPC);
            }
            self.used += PAGE as u64;
            inode.dirty.insert(page);
        }
        Ok(inode.now.pages.entry(page).or_default())
    }

    pub(crate) fn write(&mut self, ino: u64, offset: u64, data: &[u8]) -> io::Result<()> {
        let end = end_of(offset, data.len() as u64)?;
        let mut at = offset;
        while at < end {
            let (page, from, till) = piece(at, end);
            let bytes = self
                .reserve(ino, page)?
                .get_or_insert_with(|| Arc::new([0; PAGE]));
            let start = (at - offset) as usize;
            if let Some(to) = Arc::make_mut(bytes).get_mut(from..till)
                && let Some(part) = data.get(start..start + (till - from))
            {
                to.copy_from_slice(part);
            }
            at += (till - from) as u64;
            if let Some(inode) = self.inodes.get_mut(&ino) {
                inode.dirty.insert(page);
                inode.now.len = inode.now.len.max(at);
            }
        }
        Ok(())
    }

    pub(crate) fn set_len(&mut self, ino: u64, len: u64) -> io::Result<()> {
        end_of(len, 0)?;
        let Some(inode) = self.inodes.get_mut(&ino) else {
            return fail(Errno::BADF);
        };
        let before = inode.now.pages.len();
        let changed = inode.now.cut(len);
        inode.dirty.extend(changed);
        let freed = (before - inode.now.pages.len()) as u64;
        self.used = self.used.saturating_sub(freed * PAGE as u64);
        Ok(())
    }

    pub(crate) fn allocate(&mut self, ino: u64, offset: u64, len: u64) -> io::Result<()> {
        let end = end_of(offset, len)?;
        if len == 0 {
            return Ok(());
        }
        let pages = offset / PAGE as u64..pages_of(end);
        let Some(inode) = self.inodes.get_mut(&ino) else {
            return fail(Errno::BADF);
        };
        let there = inode.now.pages.range(pages.clone()).count() as u64;
        let missing = (pages.end - pages.start - there) * PAGE as u64;
        if self.used + missing > self.capacity {
            return fail(Errno::NOSPC);
        }
        inode.now.len = inode.now.len.max(end);
        for page in pages {
            self.reserve(ino, page)?;
        }
        Ok(())
    }

    /// What a sync that starts now has to write.
    pub(crate) fn sync_start(&mut self, ino: u64) -> Option<Sync> {
        let inode = self.inodes.get_mut(&ino)?;
        inode.syncs_started += 1;
        let pages = inode
            .dirty
            .iter()
            .map(|page| (*page, inode.now.pages.get(page).cloned()))
            .collect();
        Some(Sync {
            number: inode.syncs_started,
            len: inode.now.len,
            pages,
        })
    }

    /// Ends a sync. One that failed loses its writes without a trace: they are taken for
    /// written, as Linux does, and a power cut shows that they are not.
    pub(crate) fn sync_end(&mut self, ino: u64, sync: Sync, failed: bool) {
        let Some(inode) = self.inodes.get_mut(&ino) else {
            return;
        };
        // A sync that started later and ended earlier has written all this.
        if sync.number < inode.sync_done {
            return;
        }
        if !failed {
            inode.sync_done = sync.number;
            inode.synced.len = sync.len;
        }
        for (page, content) in sync.pages {
            if same(inode.now.pages.get(&page), content.as_ref()) {
                inode.dirty.remove(&page);
            }
            match content {
                _ if failed => {}
                Some(content) => drop(inode.synced.pages.insert(page, content)),
                None => drop(inode.synced.pages.remove(&page)),
            }
        }
    }

    /// Changes bytes behind everybody's back, on disk too.
    pub(crate) fn corrupt(&mut self, p: &Path, offset: u64, mask: u8) -> io::Result<()> {
        let inode = self.names.get(p).and_then(|ino| self.inodes.get_mut(ino));
        let Some(inode) = inode else {
            return fail(Errno::NOENT);
        };
        let (page, at, _) = piece(offset, offset.saturating_add(1));
        for image in [&mut inode.now, &mut inode.synced] {
            if let Some(page) = image.pages.get_mut(&page)
                && let Some(byte) =
                    Arc::make_mut(page.get_or_insert_with(|| Arc::new([0; PAGE]))).get_mut(at)
            {
                *byte ^= mask;
            }
        }
        Ok(())
    }

    /// Every file on disk, with what of it is there.
    pub(crate) fn stored(&self) -> Vec<(PathBuf, Vec<u8>)> {
        self.contents(&self.synced_names, |inode| &inode.synced)
    }

    /// Every file, with what is in it for programs.
    pub(crate) fn seen(&self) -> Vec<(PathBuf, Vec<u8>)> {
        self.contents(&self.names, |inode| &inode.now)
    }

    fn contents(
        &self,
        names: &BTreeMap<PathBuf, u64>,
        side: impl Fn(&Inode) -> &Image,
    ) -> Vec<(PathBuf, Vec<u8>)> {
        let file = |(path, ino): (&PathBuf, &u64)| {
            let inode = self.inodes.get(ino)?;
            Some((path.clone(), side(inode).bytes()))
        };
        names.iter().filter_map(file).collect()
    }

    /// Ends all processes: nobody has anything open or locked afterwards.
    pub(crate) fn crash(&mut self, unsynced: Unsynced, rng: &mut StdRng) {
        self.locks.clear();
        let reached = match unsynced {
            Unsynced::Kept => return self.close_all(),
            Unsynced::Lost => 0,
            Unsynced::Random => rng.random_range(0..=self.pending.len()),
        };
        self.apply_pending(reached);
        for change in std::mem::take(&mut self.pending) {
            if let Change::Link(_, ino) = change {
                self.let_go(ino);
            }
        }
        self.names = self.synced_names.clone();
        let named: BTreeSet<u64> = self.names.values().copied().collect();
        self.inodes.retain(|ino, _| named.contains(ino));
        self.used = 0;
        for inode in self.inodes.values_mut() {
            // One that had lost its last name was emptied: only what was synced is left of it.
            let reachable = inode.named || inode.handles > 0;
            inode.named = true;
            inode.handles = 0;
            let left = if reachable && unsynced == Unsynced::Random {
                left_of(inode, rng)
            } else {
                inode.synced.clone()
            };
            inode.now = left.clone();
            inode.synced = left;
            inode.dirty.clear();
            self.used += inode.now.pages.len() as u64 * PAGE as u64;
        }
    }

    fn close_all(&mut self) {
        for inode in self.inodes.values_mut() {
            inode.handles = 0;
        }
        let unnamed = self.inodes.iter().filter(|(_, inode)| !inode.named);
        for ino in unnamed.map(|(ino, _)| *ino).collect::<Vec<_>>() {
            self.unused(ino);
        }
    }
}

/// What chance leaves of a file when the power is cut.
fn left_of(inode: &Inode, rng: &mut StdRng) -> Image {
    match rng.random_range(0..3) {
        0 => return inode.synced.clone(),
        1 => return inode.now.clone(),
        _ => {}
    }
    let mut left = inode.synced.clone();
    for page in &inode.dirty {
        let (old, new) = (inode.synced.pages.get(page), inode.now.pages.get(page));
        match rng.random_range(0..3) {
            0 => continue,
            1 => {
                let torn = tear(
                    old.and_then(Option::as_ref),
                    new.and_then(Option::as_ref),
                    rng,
                );
                left.pages.insert(*page, Some(Arc::new(torn)));
            }
            _ => match new {
                Some(new) => drop(left.pages.insert(*page, new.clone())),
                None => drop(left.pages.remove(page)),
            },
        }
    }
    let len = if rng.random_bool(0.5) {
        inode.now.len
    } else {
        inode.synced.len
    };
    left.cut(len);
    left
}

/// A page of which some sectors are new.
fn tear(
    old: Option<&Arc<[u8; PAGE]>>,
    new: Option<&Arc<[u8; PAGE]>>,
    rng: &mut StdRng,
) -> [u8; PAGE] {
    let mut page = old.map_or([0; PAGE], |p| **p);
    let new = new.map_or([0; PAGE], |p| **p);
    let choice = rng.next_u32();
    for (i, (to, from)) in page.chunks_mut(SECTOR).zip(new.chunks(SECTOR)).enumerate() {
        if choice >> i & 1 == 1 {
            to.copy_from_slice(from);
        }
    }
    page
}

/// The page at a position, and the part of it up to `end`.
fn piece(at: u64, end: u64) -> (u64, usize, usize) {
    let (page, from) = (at / PAGE as u64, (at % PAGE as u64) as usize);
    let till = PAGE.min(usize::try_from(end - at).map_or(PAGE, |left| from.saturating_add(left)));
    (page, from, till)
}

fn end_of(offset: u64, len: u64) -> io::Result<u64> {
    match offset.checked_add(len) {
        Some(end) if end <= MAX_FILE => Ok(end),
        _ => fail(Errno::FBIG),
    }
}

fn same(a: Option<&Page>, b: Option<&Page>) -> bool {
    match (a, b) {
        (Some(Some(a)), Some(Some(b))) => Arc::ptr_eq(a, b),
        (Some(None), Some(None)) | (None, None) => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests;
