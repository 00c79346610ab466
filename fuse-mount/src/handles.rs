//! Open files and directories, by the number that the kernel holds for each.

use crate::convert::Opened;
use boomfs_client::{FileReader, FileWriter, Ino};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::OnceCell;

/// Numbers and what they stand for. Numbers are not used again.
#[derive(Debug)]
pub(crate) struct Handles<T> {
    next: AtomicU64,
    table: Mutex<HashMap<u64, Arc<T>>>,
}

impl<T> Default for Handles<T> {
    fn default() -> Self {
        Handles {
            next: AtomicU64::new(1),
            table: Mutex::default(),
        }
    }
}

impl<T> Handles<T> {
    fn with<R>(&self, act: impl FnOnce(&mut HashMap<u64, Arc<T>>) -> R) -> R {
        act(&mut self.table.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn add(&self, item: T) -> u64 {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.with(|table| table.insert(number, Arc::new(item)));
        number
    }

    pub(crate) fn get(&self, number: u64) -> Option<Arc<T>> {
        self.with(|table| table.get(&number).cloned())
    }

    pub(crate) fn remove(&self, number: u64) -> Option<Arc<T>> {
        self.with(|table| table.remove(&number))
    }

    /// Takes out all.
    pub(crate) fn drain(&self) -> Vec<Arc<T>> {
        self.with(|table| table.drain().map(|(_, item)| item).collect())
    }
}

/// One open of a file.
pub(crate) struct OpenFile {
    pub ino: Ino,
    pub opened: Opened,
    pub reader: FileReader,
    /// Set when this handle shares the write lease: at its first write, or when the open made or cut the file.
    pub writer: OnceCell<FileWriter>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_found_removed_and_not_used_again() {
        let handles = Handles::default();
        let (a, b) = (handles.add('a'), handles.add('b'));
        assert_eq!(handles.get(a).as_deref(), Some(&'a'));
        assert_eq!(handles.remove(a).as_deref(), Some(&'a'));
        assert_eq!(handles.get(a), None);
        assert!(handles.add('c') > b);
        assert_eq!(handles.drain().len(), 2);
        assert_eq!(handles.get(b), None);
    }
}
