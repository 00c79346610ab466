//! Connections to other DataNodes on which no pipeline is open, kept for the next one: a file of
//! a few bytes is a pipeline of its own.

use super::pipeline::Downstream;
use boomfs_io::Io;
use boomfs_wire::NodeAddr;
use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Connections kept in all.
const MOST: usize = 64;
/// For how long; less than the other side bears with one that says nothing.
const KEPT: Duration = Duration::from_secs(20);

/// Connections that wait, those kept first in front, each with the time since when (monotonic ns).
#[derive(Default)]
pub(crate) struct Idle(Mutex<VecDeque<(u64, Downstream)>>);

impl Idle {
    fn lock(&self) -> MutexGuard<'_, VecDeque<(u64, Downstream)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection to a DataNode, which may have gone since.
    pub fn take(&self, io: &Io, node: &NodeAddr) -> Option<Downstream> {
        let mut waiting = self.lock();
        drop_old(io, &mut waiting);
        // The one that was used last is the least likely to be dead.
        let at = waiting.iter().rposition(|(_, d)| d.node() == node)?;
        waiting.remove(at).map(|(_, downstream)| downstream)
    }

    /// Keeps a connection all of whose answers were read.
    pub fn keep(&self, io: &Io, downstream: Downstream) {
        let mut waiting = self.lock();
        drop_old(io, &mut waiting);
        if waiting.len() >= MOST {
            waiting.pop_front();
        }
        waiting.push_back((io.mono_ns(), downstream));
    }
}

fn drop_old(io: &Io, waiting: &mut VecDeque<(u64, Downstream)>) {
    let now = io.mono_ns();
    let is_old = |since: u64| Duration::from_nanos(now.saturating_sub(since)) > KEPT;
    while waiting.front().is_some_and(|(since, _)| is_old(*since)) {
        waiting.pop_front();
    }
}
