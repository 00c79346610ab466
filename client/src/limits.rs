//! Every limit of the client in one place.

use std::time::Duration;

/// How long one call may take when the [`Config`](crate::Config) does not say otherwise.
pub const CALL_DEADLINE: Duration = Duration::from_secs(30);
/// How long a TCP connection may take to stand.
pub const CONNECT_DEADLINE: Duration = Duration::from_secs(3);
/// How long a NameNode may take to answer `Hello`.
pub const HELLO_DEADLINE: Duration = Duration::from_secs(5);
/// How long one batch of messages may take to leave.
pub const SEND_DEADLINE: Duration = Duration::from_secs(10);
/// How often the session is renewed; its leases last 10 s.
pub const RENEW_INTERVAL: Duration = Duration::from_secs(3);
/// A NameNode that owes an answer and says nothing for this long is asked for a sign of life.
pub const PING_AFTER: Duration = Duration::from_millis(100);
/// After this silence the other NameNodes are asked whether one of them leads; the connection stays until one does.
pub const DOUBT_AFTER: Duration = Duration::from_millis(200);
/// How often it is looked, while the others are asked, whether the silence is over.
pub const DOUBT_INTERVAL: Duration = Duration::from_millis(50);
/// A NameNode that owes an answer and says nothing for this long is given up.
pub const SILENCE_LIMIT: Duration = Duration::from_secs(8);
/// A connection that lasted this long is replaced without a pause when it ends.
pub const LASTED: Duration = Duration::from_secs(1);
/// NameNodes that the client was told of, beside those of its configuration.
pub const LEARNED: usize = 16;
/// Bytes of such an address.
pub const ADDRESS: usize = 300;
/// Commands that are queued, on their way, or answered but not yet acknowledged to the NameNode.
pub const COMMANDS_IN_FLIGHT: usize = 1024;
/// Questions and queries that wait for an answer.
pub const READS_IN_FLIGHT: usize = 1024;
/// Bytes of messages that go into one write to the socket.
pub const BATCH_BYTES: usize = 256 << 10;
/// Rows that one query without a limit of its own may bring.
pub const QUERY_ROWS: u64 = 1_000_000;
/// Changes of a watched query that wait for their consumer.
pub const WATCH_QUEUE: usize = 1024;
/// Open inodes that one renewal names.
pub const RENEW_INODES: usize = 65_536;

/// First wait of a retry; it doubles, or grows by an eighth while a new leader is looked for.
pub const BACKOFF_FIRST: Duration = Duration::from_millis(20);
/// Longest wait between two tries.
pub const BACKOFF_MOST: Duration = Duration::from_millis(500);

/// Idle connections kept to one DataNode.
pub const IDLE_PER_NODE: usize = 8;
/// Idle connections kept in all.
pub const IDLE_IN_ALL: usize = 64;
/// How long an idle connection is kept.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(20);
/// How long a DataNode may take to open a pipeline, or to write and sync a packet.
pub const PIPELINE_DEADLINE: Duration = Duration::from_secs(15);
/// How long a DataNode may take to answer one read.
pub const READ_DEADLINE: Duration = Duration::from_secs(5);
/// How long a DataNode that failed is asked last.
pub const DEMOTION: Duration = Duration::from_secs(10);

/// The largest file offset: what a signed 64-bit `off_t` holds.
pub const FILE_SIZE: u64 = i64::MAX as u64;
/// Bytes of one packet of a pipeline.
pub const PACKET: u64 = boomfs_wire::MAX_READ;
/// Bytes a writer holds at most that have not reached their replicas. From half of it on, it sends parts that are not
/// full packets, too.
pub const DIRTY_BYTES: usize = 8 << 20;
/// Bytes that all writers of a client hold; each gets its share, but not less than `DIRTY_LEAST`.
pub const DIRTY_IN_ALL: usize = 256 << 20;
/// See [`DIRTY_IN_ALL`].
pub const DIRTY_LEAST: usize = 256 << 10;
/// What a piece of dirty bytes costs beside its bytes.
pub const PIECE_OVERHEAD: usize = 96;
/// Dirty bytes are sent after this time even when nobody flushes.
pub const DIRTY_AGE: Duration = Duration::from_secs(5);
/// Pipelines that one writer keeps open.
pub const PIPELINES: usize = 4;
/// A pipeline that was not used for this long is closed, before its DataNodes grow tired of it.
pub const PIPELINE_IDLE: Duration = Duration::from_secs(10);
/// How often a client looks after its writers.
pub const TEND_INTERVAL: Duration = Duration::from_secs(1);
/// A DataNode has what it acknowledged on its disk after this time (5 s, and a margin).
pub const UNSYNCED_AGE: Duration = Duration::from_secs(7);
/// Files whose last bytes may not be on disk yet that the client remembers.
pub const UNSYNCED_FILES: usize = 65_536;

/// How long the places of blocks are trusted before the NameNode is asked again.
pub const LAYOUT_AGE: Duration = Duration::from_secs(3);
/// Blocks that one question for places covers at least.
pub const LAYOUT_BLOCKS: u64 = 16;
/// Bytes of one step of readahead.
pub const WINDOW: u64 = 1 << 20;
/// Steps of readahead that are on their way at most.
pub const WINDOWS_AHEAD: u64 = 4;
/// Steps of readahead that a reader keeps.
pub const WINDOWS_KEPT: usize = 8;
/// Rounds over all replicas, each with fresh places, before bytes that all replicas answered wrongly are given up.
pub const READ_ROUNDS: u32 = 3;
