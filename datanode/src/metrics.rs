//! Counters of a DataNode, read by whoever shows them.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! metrics {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// Counters since the start; each only grows.
        #[derive(Debug, Default)]
        pub struct Metrics {
            $($(#[$doc])* pub $name: AtomicU64,)*
        }

        impl Metrics {
            /// All counters with their names.
            pub fn all(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name.load(Ordering::Relaxed)),)*]
            }
        }
    };
}

metrics! {
    /// Connections accepted.
    connections,
    /// Connections closed at once because too many were open.
    connections_refused,
    /// Connections closed because of a frame that could not be understood.
    malformed_frames,
    /// Pipelines opened.
    pipelines,
    /// Writes refused because a newer pipeline has the block.
    fenced,
    /// Packets written.
    packets,
    /// Bytes of packets written.
    bytes_written,
    /// Packets refused because their bytes do not match their checksums.
    bad_packets,
    /// Reads served.
    reads,
    /// Bytes read.
    bytes_read,
    /// Replicas found corrupt or failed.
    bad_replicas,
    /// Replicas moved to the trash.
    deleted,
    /// Replicas copied to another DataNode.
    copies_sent,
    /// Replicas received as copies.
    copies_received,
    /// Records written to the journal.
    journal_records,
    /// Syncs of the journal.
    journal_syncs,
    /// Syncs of replica files.
    replica_syncs,
    /// Orders obeyed.
    orders,
    /// Orders ignored because their ballot is below the highest seen.
    orders_stale,
}

/// Counts one.
pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// Counts several.
pub(crate) fn add(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Ordering::Relaxed);
}
