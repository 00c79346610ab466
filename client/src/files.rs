//! The files that a client has open.

use crate::layout::Layout;
use crate::limits;
use crate::pool::nanos;
use crate::writer::Shared;
use boomfs_wire::{Attr, Ino};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// Where the writer of one file is found.
#[derive(Default)]
pub struct Slot {
    /// Held while the lease is taken or given back: the two do not overlap.
    pub door: tokio::sync::Mutex<()>,
    current: Mutex<Option<Arc<Shared>>>,
}

impl Slot {
    /// The writer, if there is one.
    pub fn current(&self) -> Option<Arc<Shared>> {
        lock(&self.current).clone()
    }

    /// Puts a writer there.
    pub fn enter(&self, shared: &Arc<Shared>) {
        *lock(&self.current) = Some(Arc::clone(shared));
    }

    /// Takes a writer away, unless another took its place.
    pub fn leave(&self, shared: &Arc<Shared>) {
        let mut current = lock(&self.current);
        if current
            .as_ref()
            .is_some_and(|current| Arc::ptr_eq(current, shared))
        {
            *current = None;
        }
    }
}

/// See the module.
#[derive(Default)]
pub struct Files {
    slots: Mutex<BTreeMap<Ino, Arc<Slot>>>,
    layouts: Mutex<HashMap<Ino, Weak<Layout>>>,
    /// Leases that a create took, with the session, until the file is opened.
    adopted: Mutex<HashMap<Ino, (u64, Attr)>>,
    /// Blocks of closed files that may not be on disk yet, with the time of their last bytes.
    unsynced: Mutex<HashMap<Ino, BTreeMap<u64, u64>>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing under these locks is left half-done by a panic.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Files {
    /// The slot of a file, made when it is missing. Give it back with [`Files::tidy`].
    pub fn slot(&self, ino: Ino) -> Arc<Slot> {
        Arc::clone(lock(&self.slots).entry(ino).or_default())
    }

    /// The slot of a file that is open for writing.
    pub fn writer(&self, ino: Ino) -> Option<(Arc<Slot>, Arc<Shared>)> {
        let slot = lock(&self.slots).get(&ino).cloned()?;
        let shared = slot.current()?;
        Some((slot, shared))
    }

    /// All writers.
    pub fn writers(&self) -> Vec<(Arc<Slot>, Arc<Shared>)> {
        let slots: Vec<_> = lock(&self.slots).values().cloned().collect();
        slots
            .into_iter()
            .filter_map(|slot| slot.current().map(|shared| (slot, shared)))
            .collect()
    }

    /// How much memory one writer may fill, bytes: less when there are many.
    pub fn share(&self) -> usize {
        let writers = lock(&self.slots).len().max(1);
        (limits::DIRTY_IN_ALL / writers).clamp(limits::DIRTY_LEAST, limits::DIRTY_BYTES)
    }

    /// Whether any file is open for writing or has bytes that may not be on disk.
    pub fn is_quiet(&self) -> bool {
        lock(&self.slots).is_empty() && lock(&self.unsynced).is_empty()
    }

    /// Gives a slot back; one that nobody uses goes away.
    pub fn tidy(&self, slot: Arc<Slot>) {
        if slot.current().is_some() {
            return;
        }
        let mut slots = lock(&self.slots);
        // Ours and the map's: slots are handed out under this lock only.
        if Arc::strong_count(&slot) == 2 {
            slots.retain(|_, other| !Arc::ptr_eq(other, &slot));
        }
    }

    /// The places of a file, shared by all who read it.
    pub fn layout(&self, ino: Ino) -> Arc<Layout> {
        let mut layouts = lock(&self.layouts);
        if let Some(layout) = layouts.get(&ino).and_then(Weak::upgrade) {
            return layout;
        }
        let layout = Arc::new(Layout::new(ino));
        layouts.insert(ino, Arc::downgrade(&layout));
        layout
    }

    /// The length of a file changed by other means than its writer.
    pub fn resized(&self, ino: Ino, size: u64) {
        if let Some(blocks) = lock(&self.unsynced).get_mut(&ino) {
            blocks.retain(|start, _| *start < size);
        }
        self.changed(ino);
    }

    /// A file changed by other means than its writer.
    pub fn changed(&self, ino: Ino) {
        if let Some(layout) = lock(&self.layouts).get(&ino).and_then(Weak::upgrade) {
            layout.forget();
        }
    }

    /// A create took the lease.
    pub fn adopt(&self, attr: &Attr, epoch: u64) {
        lock(&self.adopted).insert(attr.ino, (epoch, attr.clone()));
    }

    /// The lease that a create took in this session, once.
    pub fn adopted(&self, ino: Ino, epoch: u64) -> Option<Attr> {
        lock(&self.adopted)
            .remove(&ino)
            .filter(|(of, _)| *of == epoch)
            .map(|(_, attr)| attr)
    }

    /// A writer gave its lease back.
    pub fn closed(&self, ino: Ino, unsynced: BTreeMap<u64, u64>, now_ns: u64) {
        lock(&self.adopted).remove(&ino);
        if unsynced.is_empty() {
            return;
        }
        let mut files = lock(&self.unsynced);
        if files.len() >= limits::UNSYNCED_FILES {
            prune(&mut files, now_ns);
        }
        // Over the limit the file is not remembered: an fsync through another open of it within the next
        // seconds then relies on the DataNodes' own timer.
        if files.len() < limits::UNSYNCED_FILES {
            files.insert(ino, unsynced);
        }
    }

    /// Blocks of a closed file that may not be on disk.
    pub fn take_unsynced(&self, ino: Ino) -> BTreeMap<u64, u64> {
        lock(&self.unsynced).remove(&ino).unwrap_or_default()
    }

    /// Whether a closed file has blocks that may not be on disk.
    pub fn is_unsynced(&self, ino: Ino, now_ns: u64) -> bool {
        lock(&self.unsynced)
            .get(&ino)
            .is_some_and(|blocks| blocks.values().any(|since| is_young(*since, now_ns)))
    }

    /// Closed files with blocks that may not be on disk.
    pub fn unsynced(&self) -> Vec<Ino> {
        let mut inodes: Vec<Ino> = lock(&self.unsynced).keys().copied().collect();
        inodes.sort_unstable();
        inodes
    }

    /// Forgets what is of no use any more.
    pub fn prune(&self, now_ns: u64) {
        prune(&mut lock(&self.unsynced), now_ns);
        lock(&self.layouts).retain(|_, layout| layout.strong_count() > 0);
    }
}

fn is_young(since_ns: u64, now_ns: u64) -> bool {
    now_ns.saturating_sub(since_ns) < nanos(limits::UNSYNCED_AGE)
}

fn prune(files: &mut HashMap<Ino, BTreeMap<u64, u64>>, now_ns: u64) {
    files.retain(|_, blocks| blocks.values().any(|since| is_young(*since, now_ns)));
}
