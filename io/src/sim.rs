//! Whole clusters in one thread, in virtual time, from a seed.
//!
//! A [`World`] holds nodes with disks of their own and one network. Code runs on a tokio
//! current-thread runtime with a paused clock: time passes only when nothing can run, and then at
//! once. Every decision that a real machine leaves to chance (latency, what a power cut leaves,
//! random numbers) is drawn from the seed, so that two runs of one program with one seed have the
//! same [`World::trace`], byte for byte. The program has to do its part: no iteration over
//! `HashMap`s whose order shows, no `select!` without `biased`, [`crate::watch`] and not tokio's, no
//! threads.
//!
//! What is simulated, and how closely:
//! * Time has a resolution of 1 ms, which is that of tokio's timers.
//! * Streams are in order, lose nothing, and hold at most [`STREAM_BUFFER`] bytes each way. Latency
//!   is drawn for each write. A partition holds bytes back until it heals, as TCP does.
//! * A node that is paused gets no answers until it goes on: what it asks of its disk, its network
//!   and its timers waits. Its clocks run on.
//! * A crash ends a node's life: its streams break, its locks go, and nothing that is still
//!   running with an [`Io`] of that life ever gets an answer again. [`World::node`] starts the next.
//! * Disks keep synced and unsynced contents apart, and a crash decides what is left
//!   ([`Unsynced`]). Names are durable in the order in which they changed; directories at once.

mod clock;
mod disk;
mod files;
mod net;
mod trace;

pub use disk::Unsynced;
pub(crate) use files::{SimFile, SimLock};
pub(crate) use net::{SimListener, SimRead, SimStream, SimWrite};

use crate::Io;
use clock::Clock;
use disk::Disk;
use net::Net;
use rand::rngs::StdRng;
use rand::{Rng, RngCore, SeedableRng};
use std::collections::BTreeMap;
use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;
use trace::Trace;

/// What one direction of a stream holds before its writer waits, bytes.
pub const STREAM_BUFFER: usize = 64 << 10;

/// The wall clock when a world begins: 2026-01-01, nanoseconds since the epoch.
const EPOCH_NS: i64 = 1_767_225_600_000_000_000;

/// Space of a new node, bytes.
const CAPACITY: u64 = 64 << 30;

/// The most that a sync of a new node takes, milliseconds.
const SYNC_DELAY_MS: u64 = 2;

/// Virtual time that a run may take.
const TIME_LIMIT: Duration = Duration::from_secs(3600);

/// A simulated cluster. Clones are the same world.
#[derive(Clone)]
pub struct World(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    /// A node died or a partition healed.
    changed: Notify,
}

struct State {
    seed: u64,
    /// Draws what the network does.
    rng: StdRng,
    /// Time that passed in runs before this one.
    passed: Duration,
    started: Option<Instant>,
    time_limit: Duration,
    nodes: BTreeMap<Arc<str>, NodeState>,
    net: Net,
    trace: Trace,
    /// Nothing of interest happens any more: tasks are being dropped.
    over: bool,
}

struct NodeState {
    life: u64,
    /// The numbers that the node's programs draw.
    random: StdRng,
    /// Draws what its disk does.
    chance: StdRng,
    disk: Disk,
    clock: Clock,
    next_port: u16,
    fail_next_sync: bool,
    sync_delay_ms: u64,
    /// Nothing that it waits for comes.
    paused: bool,
    /// Who looks again when it goes on.
    sleepers: Vec<Waker>,
}

impl State {
    fn now(&self) -> Duration {
        self.passed
            + self
                .started
                .map_or(Duration::ZERO, |started| started.elapsed())
    }

    fn note(&mut self, node: &str, what: fmt::Arguments<'_>) {
        if !self.over {
            let at = self.now();
            self.trace.add(at, node, what);
        }
    }

    #[expect(clippy::expect_used, reason = "it has just been put there")]
    fn node(&mut self, name: &str) -> &mut NodeState {
        // Every event asks for its node: no name is copied for that.
        if !self.nodes.contains_key(name) {
            let new = NodeState::new(self.seed, name);
            self.nodes.insert(name.into(), new);
        }
        self.nodes.get_mut(name).expect("the node")
    }
}

impl NodeState {
    fn new(seed: u64, name: &str) -> NodeState {
        let of_name = u64::from(crc32c::crc32c(name.as_bytes()));
        let stream = |n: u64| StdRng::seed_from_u64(seed ^ (of_name << 8 | n).rotate_left(20));
        NodeState {
            life: 1,
            random: stream(1),
            chance: stream(2),
            disk: Disk::new(CAPACITY),
            clock: Clock::default(),
            next_port: 40_000,
            fail_next_sync: false,
            sync_delay_ms: SYNC_DELAY_MS,
            paused: false,
            sleepers: Vec::new(),
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl World {
    /// A world without nodes.
    #[must_use]
    pub fn new(seed: u64) -> World {
        World(Arc::new(Shared {
            state: Mutex::new(State {
                seed,
                rng: StdRng::seed_from_u64(seed),
                passed: Duration::ZERO,
                started: None,
                time_limit: TIME_LIMIT,
                nodes: BTreeMap::new(),
                net: Net::default(),
                trace: Trace::default(),
                over: false,
            }),
            changed: Notify::new(),
        }))
    }

    /// A node, made when it is new; after a crash, its next life. Its name is its host name.
    #[must_use]
    pub fn node(&self, name: &str) -> Io {
        let life = self.0.lock().node(name).life;
        Io(crate::Inner::Sim(Node {
            shared: self.0.clone(),
            name: name.into(),
            life,
        }))
    }

    /// Runs a future, and what it spawns (`tokio::spawn`, `spawn_local`), in virtual time. What is
    /// still running when the future ends is dropped; disks stay for the next run.
    ///
    /// # Panics
    /// When the future is not done within the time limit (an hour of virtual time): something in
    /// it waits for what will never come. And inside of another runtime.
    #[expect(clippy::panic, reason = "a simulation that hangs is a failed test")]
    pub fn run<F: Future>(&self, future: F) -> F::Output {
        let built = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build();
        let runtime = built.unwrap_or_else(|e| panic!("cannot start the simulator's runtime: {e}"));
        let local = tokio::task::LocalSet::new();
        let (seed, limit) = {
            let mut state = self.0.lock();
            state.over = false;
            (state.seed, state.time_limit)
        };
        let output = local.block_on(&runtime, async {
            self.0.lock().started = Some(Instant::now());
            let output = tokio::time::timeout(limit, future).await;
            let mut state = self.0.lock();
            state.passed = state.now();
            state.started = None;
            state.over = true;
            output
        });
        // Destructors may look at the clock or spawn.
        let context = runtime.enter();
        drop(local);
        drop(context);
        drop(runtime);
        output.unwrap_or_else(|_| {
            panic!("simulation with seed {seed} is not done after {limit:?} of virtual time")
        })
    }

    /// Virtual time that has passed since the world began.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.0.lock().now()
    }

    /// Everything that happened, a line an event: virtual time in nanoseconds, node, event. The
    /// last line is a digest of all, for text is kept up to 64 MiB only.
    #[must_use]
    pub fn trace(&self) -> String {
        self.0.lock().trace.text()
    }

    /// Adds a line to the trace.
    pub fn note(&self, what: &str) {
        self.0.lock().note("world", format_args!("{what}"));
    }

    /// Virtual time that one [`World::run`] may take.
    pub fn set_time_limit(&self, limit: Duration) {
        self.0.lock().time_limit = limit;
    }

    /// Latency of each write on a stream, in whole milliseconds, ends included (0 to 2 at first).
    pub fn set_latency_ms(&self, least: u64, most: u64) {
        self.0.lock().net.latency_ms = (least, most.max(least));
    }

    /// Cuts a node's power; unsynced writes survive by chance ([`Unsynced::Random`]).
    pub fn crash(&self, name: &str) {
        self.crash_with(name, Unsynced::Random);
    }

    /// Ends a node's life, and says what becomes of what it had not synced.
    pub fn crash_with(&self, name: &str, unsynced: Unsynced) {
        let wakers = {
            let mut state = self.0.lock();
            let node = state.node(name);
            node.life += 1;
            node.paused = false;
            let sleepers = std::mem::take(&mut node.sleepers);
            node.disk.crash(unsynced, &mut node.chance);
            state.note(name, format_args!("crash {unsynced:?}"));
            let mut wakers = state.net.crash(name);
            wakers.extend(sleepers);
            wakers
        };
        self.wake(wakers);
    }

    /// Cuts two nodes off from each other, or joins them again. Bytes on the way arrive afterwards.
    pub fn partition(&self, a: &str, b: &str, on: bool) {
        self.cut(a, b, on);
        self.cut(b, a, on);
    }

    /// Holds what one node sends to another, or lets it through again. The other way is as it was; new connections need
    /// both.
    pub fn cut(&self, from: &str, to: &str, on: bool) {
        let wakers = {
            let mut state = self.0.lock();
            let what = if on { "is not heard by" } else { "is heard by" };
            state.note(from, format_args!("{what} {to}"));
            state.net.cut(from, to, on)
        };
        self.wake(wakers);
    }

    /// Breaks the connections between two nodes, as a router that forgets them does.
    pub fn reset(&self, a: &str, b: &str) {
        let wakers = {
            let mut state = self.0.lock();
            state.note(a, format_args!("loses its connections with {b}"));
            state.net.reset(a, b)
        };
        self.wake(wakers);
    }

    /// Pauses a node, as SIGSTOP does, or lets it go on.
    pub fn pause(&self, name: &str, on: bool) {
        let wakers = {
            let mut state = self.0.lock();
            state.note(
                name,
                format_args!("{}", if on { "pauses" } else { "goes on" }),
            );
            let node = state.node(name);
            node.paused = on;
            if on {
                Vec::new()
            } else {
                std::mem::take(&mut node.sleepers)
            }
        };
        self.wake(wakers);
    }

    fn wake(&self, wakers: Vec<Waker>) {
        wakers.into_iter().for_each(Waker::wake);
        self.0.changed.notify_waiters();
    }

    /// Size of a node's disk, bytes (64 GiB at first). Files use pages of 4 KiB.
    pub fn set_capacity(&self, name: &str, bytes: u64) {
        self.0.lock().node(name).disk.set_capacity(bytes);
    }

    /// Makes the next sync of a node, of a file or directory, fail with EIO. What a file's sync
    /// should have written is then lost at the next crash, whatever later syncs say.
    pub fn fail_next_sync(&self, name: &str) {
        self.0.lock().node(name).fail_next_sync = true;
    }

    /// A node's disk is as it was at first, but for what is on it: quick, with room, and no sync fails.
    pub fn mend_disk(&self, name: &str) {
        let mut state = self.0.lock();
        let node = state.node(name);
        node.fail_next_sync = false;
        node.sync_delay_ms = SYNC_DELAY_MS;
        node.disk.set_capacity(CAPACITY);
    }

    /// The most that a sync takes on a node, milliseconds (2 at first).
    pub fn set_sync_delay_ms(&self, name: &str, most: u64) {
        self.0.lock().node(name).sync_delay_ms = most;
    }

    /// How far a node's wall clock is ahead of the others, nanoseconds.
    pub fn set_clock_offset_ns(&self, name: &str, offset: i64) {
        self.0.lock().node(name).clock.set_offset_ns(offset);
    }

    /// How fast a node's clocks run: so many millionths faster than true time (0 at first; a negative number is slower).
    /// They go on from where they are.
    pub fn set_clock_drift_ppm(&self, name: &str, ppm: i64) {
        let mut state = self.0.lock();
        let now = state.now();
        state.node(name).clock.set_drift(now, ppm);
    }

    /// Cuts a node's power and gives it another disk, on which nothing is.
    pub fn crash_and_lose_disk(&self, name: &str) {
        self.crash_with(name, Unsynced::Lost);
        let mut state = self.0.lock();
        state.note(name, format_args!("has a new disk"));
        state.node(name).disk = Disk::new(CAPACITY);
    }

    /// The files of a node, with what programs find in them.
    pub fn seen(&self, name: &str) -> Vec<(PathBuf, Vec<u8>)> {
        self.0.lock().node(name).disk.seen()
    }

    /// The files of a node that [`Unsynced::Lost`] would leave, with what it would leave of them.
    pub fn stored(&self, name: &str) -> Vec<(PathBuf, Vec<u8>)> {
        self.0.lock().node(name).disk.stored()
    }

    /// Flips bits of one byte of a file, as a rotting disk does.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn corrupt(&self, name: &str, path: &Path, offset: u64, mask: u8) -> io::Result<()> {
        let mut state = self.0.lock();
        state.note(
            name,
            format_args!("rot {} at {offset} by {mask:#04x}", path.display()),
        );
        state
            .node(name)
            .disk
            .corrupt(&files::place(path), offset, mask)
    }
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("World")
            .field("seed", &self.0.lock().seed)
            .finish_non_exhaustive()
    }
}

/// One life of a node.
#[derive(Clone)]
pub(crate) struct Node {
    shared: Arc<Shared>,
    name: Arc<str>,
    life: u64,
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Node({}, life {})", self.name, self.life)
    }
}

impl Node {
    /// Does something to the world, unless this life is over.
    fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> Option<T> {
        let mut state = self.shared.lock();
        if state.node(&self.name).life == self.life {
            Some(act(&mut state))
        } else {
            None
        }
    }

    /// The same, for who is polled: not while the node is paused.
    fn poll_with<T>(&self, cx: &Context<'_>, act: impl FnOnce(&mut State) -> T) -> Option<T> {
        let mut state = self.shared.lock();
        let node = state.node(&self.name);
        if node.life != self.life {
            return None;
        }
        if node.paused {
            node.sleepers.push(cx.waker().clone());
            return None;
        }
        Some(act(&mut state))
    }

    /// Does something to the world when the node is not paused; a life that is over waits for ever.
    async fn act<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        let mut act = Some(act);
        poll_fn(|cx| {
            let done = self.poll_with(cx, |state| act.take().map(|act| act(state)));
            done.flatten().map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }

    /// Hands a value on, unless this life is over.
    pub(crate) async fn while_alive<T>(&self, value: T) -> T {
        self.act(|_| ()).await;
        value
    }

    pub(crate) fn now_ns(&self) -> i64 {
        let mut state = self.shared.lock();
        let now = state.now();
        EPOCH_NS.saturating_add(state.node(&self.name).clock.wall_ns(now))
    }

    pub(crate) fn mono_ns(&self) -> u64 {
        let mut state = self.shared.lock();
        let now = state.now();
        state.node(&self.name).clock.mono_ns(now)
    }

    pub(crate) fn random_u64(&self) -> u64 {
        self.shared.lock().node(&self.name).random.next_u64()
    }

    /// True time that passes while so much passes on the node's clock.
    pub(crate) fn true_span(&self, d: Duration) -> Duration {
        self.shared.lock().node(&self.name).clock.true_span(d)
    }

    pub(crate) async fn sleep(&self, d: Duration) {
        tokio::time::sleep(self.true_span(d)).await;
        self.while_alive(()).await;
    }

    /// Waits for as long as the network takes.
    async fn latency(&self) {
        let wait = self.act(|state| state.net.latency(&mut state.rng)).await;
        tokio::time::sleep(wait).await;
        self.while_alive(()).await;
    }

    /// Lets others go first at times, as a real disk does.
    async fn pause(&self) {
        if self
            .act(|state| state.node(&self.name).chance.random_bool(0.25))
            .await
        {
            tokio::task::yield_now().await;
        }
    }
}
