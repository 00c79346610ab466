//! What the NameNode counts.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! metrics {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Counters and gauges; read them at any time, from any thread.
        #[derive(Debug, Default)]
        pub struct Metrics {
            $($(#[$doc])* pub $name: AtomicU64,)*
        }

        impl Metrics {
            /// All of them, with their names, in the order of the source.
            pub fn all(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name.load(Ordering::Relaxed)),)*]
            }
        }
    };
}

metrics! {
    /// Connections that are open.
    connections_open,
    /// Connections that were accepted.
    connections_total,
    /// Connections that were refused: too many, or their Hello.
    connections_refused,
    /// Connections closed because they did not read what they were sent.
    connections_slow,
    /// Frames or messages that made no sense; each closed its connection.
    malformed_frames,
    /// Commands handed to the rules.
    commands,
    /// Questions handed to the rules.
    reads,
    /// Commands answered ENOSPC because the log has no room.
    commands_no_space,
    /// Queries started.
    queries,
    /// Runs of the rules.
    runs,
    /// Ticks in all runs.
    ticks,
    /// Time in runs, ns.
    run_ns,
    /// Runs that were dropped by the engine (limits).
    runs_dropped,
    /// Rows of `sys_error`.
    rule_errors,
    /// Rows of `sys_conflict`.
    rule_conflicts,
    /// Rows of invariants.
    rule_violations,
    /// Messages of the rules that could not be sent on as they were.
    bad_payloads,
    /// Messages to connections that were gone.
    messages_dropped,
    /// The last slot applied.
    applied_slot,
    /// Messages of other NameNodes that were handed to the rules.
    peer_messages,
    /// Messages to other NameNodes that found their queue full or nobody there.
    peer_messages_dropped,
    /// Times this NameNode began to govern.
    elections,
    /// The last log entry on disk.
    log_entry,
    /// Groups written and synced.
    log_groups,
    /// Bytes of groups.
    log_bytes,
    /// Time in writing and syncing groups, ns.
    log_ns,
    /// Times the disk had no space for the next segment.
    log_full,
    /// Checkpoints written.
    checkpoints,
    /// Checkpoints that failed.
    checkpoints_failed,
    /// Slot of the newest checkpoint.
    checkpoint_slot,
}

impl Metrics {
    pub(crate) fn add(counter: &AtomicU64, n: u64) {
        counter.fetch_add(n, Ordering::Relaxed);
    }
}
