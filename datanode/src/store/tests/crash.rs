//! Power cuts at any moment, against a model in memory: what was synced is there, and no byte
//! served was never written.

use super::*;
use boomfs_io::sim::Unsynced;
use proptest::prelude::*;
use std::time::Duration;

const SIZE: u64 = 256 << 10;
const BLOCKS: u64 = 3;

#[derive(Clone, Debug)]
enum Op {
    Write {
        at: u64,
        len: usize,
        fill: u8,
        sync: bool,
    },
    Sync,
    /// A new generation; `Some` brings the replica to a length.
    Adopt(Option<u64>),
    Checkpoint,
    Delete,
    Sleep(u64),
}

#[derive(Clone, Debug)]
struct Round {
    ops: Vec<Vec<Op>>,
    yields: usize,
    sleep_ms: u64,
    unsynced: u8,
}

fn op() -> impl Strategy<Value = Op> {
    let len = prop_oneof![3 => 1..300usize, 3 => 1..20_000usize, 1 => 60_000..150_000usize];
    let at = prop_oneof![2 => 0..SIZE - 1, 2 => 0..16_384u64, 1 => (0..60u64).prop_map(|c| c * 4096), 2 => Just(u64::MAX)];
    prop_oneof![
        8 => (at, len, any::<u8>(), any::<bool>()).prop_map(|(at, len, fill, sync)| Op::Write { at, len, fill, sync }),
        2 => Just(Op::Sync),
        2 => proptest::option::of(prop_oneof![0..SIZE, 0..10_000u64]).prop_map(Op::Adopt),
        1 => Just(Op::Checkpoint),
        1 => Just(Op::Delete),
        2 => (1..4000u64).prop_map(Op::Sleep),
    ]
}

fn round() -> impl Strategy<Value = Round> {
    let ops = proptest::collection::vec(proptest::collection::vec(op(), 1..12), BLOCKS as usize);
    (ops, 0..200usize, prop_oneof![0..20u64, 0..8000u64], 0..5u8).prop_map(
        |(ops, yields, sleep_ms, unsynced)| Round {
            ops,
            yields,
            sleep_ms,
            unsynced,
        },
    )
}

/// What a replica may hold.
#[derive(Clone, Debug, Default)]
struct Model {
    /// It must be there.
    there: bool,
    /// Its bytes as a reader sees them now.
    now: Vec<u8>,
    /// It is at least this long, and what was synced last.
    synced: Vec<u8>,
    /// Values that a byte may have besides, each written since.
    maybe: Vec<Vec<u8>>,
    least_generation: u64,
    generation: u64,
    /// A deletion has begun.
    going: bool,
}

impl Model {
    fn may(&mut self, at: usize, data: &[u8]) {
        if self.maybe.len() < at + data.len() {
            self.maybe.resize(at + data.len(), Vec::new());
        }
        for (place, byte) in self.maybe[at..].iter_mut().zip(data) {
            if !place.contains(byte) {
                place.push(*byte);
            }
        }
    }

    fn writing(&mut self, at: usize, data: &[u8]) {
        let from = self.now.len();
        if at > from {
            self.may(from, &vec![0; at - from]);
        }
        self.may(at, data);
    }

    fn wrote(&mut self, at: usize, data: &[u8]) {
        if self.now.len() < at + data.len() {
            self.now.resize(at + data.len(), 0);
        }
        self.now[at..at + data.len()].copy_from_slice(data);
    }

    fn resizing(&mut self, len: usize, generation: u64) {
        self.generation = generation;
        if len < self.now.len() {
            let tail = self.synced.split_off(len.min(self.synced.len()));
            self.may(len, &tail);
        }
    }

    fn all_synced(&mut self, bytes: Vec<u8>) {
        self.synced = bytes;
        self.maybe.clear();
    }

    /// Checks what a crash left, and goes on from there.
    fn check(&mut self, block: u64, found: Option<(u64, Vec<u8>)>) {
        let Some((generation, bytes)) = found else {
            assert!(
                !self.there || self.going || (self.synced.is_empty() && self.least_generation <= 1),
                "block {block} is lost"
            );
            *self = Model::default();
            return;
        };
        assert!(
            generation >= self.least_generation && generation <= self.generation,
            "block {block}: generation {generation}"
        );
        assert!(
            bytes.len() >= self.synced.len(),
            "block {block}: {} bytes of {}",
            bytes.len(),
            self.synced.len()
        );
        for (i, byte) in bytes.iter().enumerate() {
            let synced = self.synced.get(i) == Some(byte);
            let written = self.maybe.get(i).is_some_and(|m| m.contains(byte));
            assert!(
                synced || written,
                "block {block}: byte {i} of {} is {byte}, never written; {} synced there: {:?}, maybe of {}: {:?}",
                bytes.len(),
                self.synced.len(),
                self.synced.get(i),
                self.maybe.len(),
                self.maybe.get(i)
            );
        }
        self.there = true;
        self.now = bytes.clone();
        self.all_synced(bytes);
        self.least_generation = generation;
        self.generation = generation;
        self.going = false;
    }
}

type Models = Arc<Mutex<Vec<Model>>>;

fn with<T>(models: &Models, block: u64, act: impl FnOnce(&mut Model) -> T) -> T {
    act(&mut models.lock().unwrap()[block as usize - 1])
}

async fn run_ops(io: Io, store: Arc<Store>, models: Models, block: u64, ops: Vec<Op>) {
    let mut writer: Option<Writer> = None;
    for op in ops {
        if writer.is_none() {
            let (there, generation, len) =
                with(&models, block, |m| (m.there, m.generation + 1, m.now.len()));
            with(&models, block, |m| m.resizing(len, generation));
            let existing = there.then_some((Generation(0), len as u64));
            let opened = store
                .open_block(BlockId(block), Generation(generation), existing, SIZE)
                .await
                .unwrap();
            with(&models, block, |m| {
                m.there = true;
                m.least_generation = if there { generation } else { 0 };
            });
            writer = Some(opened);
        }
        let Some(w) = writer.clone() else { return };
        match op {
            Op::Write {
                at,
                len,
                fill,
                sync,
            } => {
                let at = if at == u64::MAX {
                    with(&models, block, |m| m.now.len() as u64)
                } else {
                    at
                };
                let len = len.min((SIZE - at) as usize);
                let data = pattern(len, fill);
                with(&models, block, |m| m.writing(at as usize, &data));
                write(&w, at, &data).await.unwrap();
                with(&models, block, |m| {
                    if !data.is_empty() {
                        m.wrote(at as usize, &data)
                    }
                });
                if sync {
                    w.replica.sync().await.unwrap();
                    with(&models, block, |m| m.all_synced(m.now.clone()));
                }
            }
            Op::Sync => {
                w.replica.sync().await.unwrap();
                with(&models, block, |m| m.all_synced(m.now.clone()));
            }
            Op::Adopt(len) => {
                let (len, generation) = with(&models, block, |m| {
                    (len.unwrap_or(m.now.len() as u64), m.generation + 1)
                });
                let existing = Some((Generation(1), len));
                let opening =
                    store.open_block(BlockId(block), Generation(generation), existing, SIZE);
                if len > with(&models, block, |m| m.now.len() as u64) {
                    // Nothing has changed then: the writer of before goes on.
                    let refused = opening.await.err().expect("it cannot become longer");
                    assert_eq!(refused.errno, crate::errno::ESTALE, "{refused}");
                    continue;
                }
                with(&models, block, |m| m.resizing(len as usize, generation));
                let opened = opening.await.unwrap();
                let stale = write(&w, 0, b"x").await.unwrap_err();
                assert_eq!(stale.errno, crate::errno::ESTALE);
                with(&models, block, |m| {
                    let changed = m.now.len() != len as usize;
                    m.now.truncate(len as usize);
                    m.maybe.truncate(len as usize);
                    if changed {
                        m.all_synced(m.now.clone());
                    }
                    m.least_generation = generation;
                });
                writer = Some(opened);
            }
            Op::Checkpoint => store.checkpoint().await.unwrap(),
            Op::Delete => {
                with(&models, block, |m| m.going = true);
                store
                    .delete(&[(BlockId(block), Generation(u64::MAX))])
                    .await
                    .unwrap();
                // Whether the deletion is on disk shows after the crash only.
                return;
            }
            Op::Sleep(ms) => io.sleep(Duration::from_millis(ms)).await,
        }
        if let Some(w) = &writer {
            let read = w.replica.read(Generation(0), 0, SIZE).await.unwrap();
            with(&models, block, |m| {
                assert!(
                    read.data == m.now,
                    "block {block}: a reader sees something else"
                )
            });
        }
    }
}

async fn tick(io: Io, store: Arc<Store>) {
    loop {
        io.sleep(Duration::from_secs(1)).await;
        store.tick().await;
    }
}

fn simulate(seed: u64, rounds: Vec<Round>) {
    let world = World::new(seed);
    let models: Models = Arc::new(Mutex::new(vec![Model::default(); BLOCKS as usize]));
    for round in rounds {
        let (world_in, models_in) = (world.clone(), models.clone());
        world.run(async move {
            let io = world_in.node("dn");
            let store = open(&io).await;
            for block in 1..=BLOCKS {
                let found = match read_all(&store, block).await {
                    Ok(bytes) => Some((store.get(BlockId(block)).unwrap().generation().0, bytes)),
                    Err(e) => {
                        assert_eq!(e.errno, crate::errno::ENOENT, "{e}");
                        None
                    }
                };
                with(&models_in, block, |m| m.check(block, found));
            }
            tokio::spawn(tick(io.clone(), store.clone()));
            let mut tasks = tokio::task::JoinSet::new();
            for (block, ops) in (1..).zip(round.ops) {
                tasks.spawn(run_ops(
                    io.clone(),
                    store.clone(),
                    models_in.clone(),
                    block,
                    ops,
                ));
            }
            for _ in 0..round.yields {
                tokio::task::yield_now().await;
            }
            io.sleep(Duration::from_millis(round.sleep_ms)).await;
            let how = match round.unsynced {
                0 => Unsynced::Kept,
                1 => Unsynced::Lost,
                _ => Unsynced::Random,
            };
            world_in.crash_with("dn", how);
            while let Some(done) = tasks.try_join_next() {
                done.unwrap();
            }
        });
    }
}

/// What a killed process left to the system, or had failed to sync, may be gone after a power cut: a start says
/// nothing of it before it is on disk.
#[test]
fn what_a_start_has_read_of_the_journal_is_on_disk() {
    for failed in [false, true] {
        let world = World::new(1);
        let world_in = world.clone();
        world.run(async move {
            let world = world_in;
            let io = world.node("dn");
            let store = open(&io).await;
            let w = new_block(&store, 1, 1, SIZE).await.unwrap();
            let written = pattern(5_000, 3);
            write(&w, 0, &written[..2_000]).await.unwrap();
            w.replica.sync().await.unwrap();
            write(&w, 2_000, &written[2_000..]).await.unwrap();
            if failed {
                world.fail_next_sync("dn");
            } else {
                world.set_sync_delay_ms("dn", 100_000);
            }
            let synced = io.timeout(Duration::from_millis(50), w.replica.sync());
            assert!(!synced.await.is_ok_and(|synced| synced.is_ok()));
            world.crash_with("dn", Unsynced::Kept);
            world.mend_disk("dn");
            let found = read_all(&open(&world.node("dn")).await, 1).await.unwrap();
            assert_eq!(found, written);
            world.crash_with("dn", Unsynced::Lost);
            let found = read_all(&open(&world.node("dn")).await, 1).await.unwrap();
            assert_eq!(found, written);
        });
    }
}

/// A cut of the journal puts bytes in place that no sync has covered; a crash then takes the record
/// of those that followed in the same chunk, but not the chunks behind it.
#[test]
fn a_chunk_that_grew_in_place_before_a_sync_is_recognised() {
    for seed in 0..40 {
        let world = World::new(seed);
        let written = pattern(11_500, 7);
        let (world_in, data) = (world.clone(), written.clone());
        world.run(async move {
            let store = open(&world_in.node("dn")).await;
            let w = new_block(&store, 1, 1, SIZE).await.unwrap();
            write(&w, 0, &data[..1000]).await.unwrap();
            w.replica.sync().await.unwrap();
            write(&w, 1000, &data[1000..1500]).await.unwrap();
            store.checkpoint().await.unwrap();
            write(&w, 1500, &data[1500..]).await.unwrap();
            world_in.crash_with("dn", Unsynced::Random);
        });
        let world_in = world.clone();
        world.run(async move {
            let store = open(&world_in.node("dn")).await;
            let found = read_all(&store, 1).await.unwrap();
            assert!(found.len() >= 1000, "seed {seed}: {} bytes", found.len());
            assert!(found == written[..found.len()], "seed {seed}");
        });
    }
}

fn cases() -> u32 {
    std::env::var("PROPTEST_CASES")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(64)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_was_synced_survives_and_nothing_else_is_invented(
        seed in any::<u64>(),
        rounds in proptest::collection::vec(round(), 1..6),
    ) {
        simulate(seed, rounds);
    }
}
