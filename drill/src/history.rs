//! What clients did, and when.

use serde::{Deserialize, Serialize};
use std::sync::{Mutex, PoisonError};

/// One operation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operation<O, A> {
    /// Who did it: one operation at a time.
    pub process: u64,
    /// What it was.
    pub op: O,
    /// When it began, ns since the drill did.
    pub begun_ns: u64,
    /// When its answer came, and the answer; `None` if none did: it may have taken effect at any time since, or never.
    pub ended: Option<(u64, A)>,
}

/// Gathers operations of many clients.
#[derive(Debug)]
pub struct Recorder<O, A>(Mutex<Vec<Operation<O, A>>>);

impl<O, A> Default for Recorder<O, A> {
    fn default() -> Self {
        Recorder(Mutex::default())
    }
}

impl<O, A> Recorder<O, A> {
    /// Adds an operation that is over, or given up.
    pub fn add(&self, operation: Operation<O, A>) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.push(operation);
    }

    /// Everything that was added, in the order of beginnings.
    pub fn take(&self) -> Vec<Operation<O, A>> {
        let mut all = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        all.sort_by_key(|operation| operation.begun_ns);
        all
    }
}
