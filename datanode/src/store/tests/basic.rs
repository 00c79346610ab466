//! One thing at a time.
#![allow(
    clippy::disallowed_methods,
    reason = "tests look at real files and clocks beside the simulator"
)]

use super::*;
use crate::errno::{EEXIST, EIO, ENOENT, ENOSPC, ESTALE};
use boomfs_io::sim::Unsynced;
use boomfs_wire::ReplicaInfo;
use std::time::Duration;

const SIZE: u64 = 1 << 20;

fn count_of(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

/// Runs on simulated disks, and on real ones.
fn on_both(test: impl AsyncFn(Io, PathBuf)) {
    let world = World::new(7);
    world.run(test(world.node("dn"), PathBuf::from(DATA)));
    let dir = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(test(Io::real(), dir.path().join("data")));
}

#[test]
fn bytes_come_back_after_writes_of_any_alignment_and_a_restart() {
    on_both(async |io, data| {
        let opened = try_open_with(&io, &data, 0).await.unwrap();
        let store = opened.store;
        let w = new_block(&store, 1, 1, SIZE).await.unwrap();
        let mut expected = Vec::new();
        for (at, len) in [
            (0, 10),
            (10, 4086),
            (4096, 100_000),
            (3, 5000),
            (200_000, 7),
            (SIZE - 3, 3),
        ] {
            let bytes = pattern(len, at as u8);
            write(&w, at, &bytes).await.unwrap();
            let end = at as usize + len;
            if expected.len() < end {
                expected.resize(end, 0);
            }
            expected[at as usize..end].copy_from_slice(&bytes);
            assert_eq!(read_all(&store, 1).await.unwrap(), expected);
        }
        let over = write(&w, SIZE - 2, b"abc").await.unwrap_err();
        assert_eq!(over.errno, crate::errno::EFBIG);
        store.close().await;
        let info = ReplicaInfo {
            block: BlockId(1),
            generation: Generation(1),
            length: SIZE,
        };
        assert_eq!(store.report(), [info]);
        drop((store, w));
        let store = try_open_with(&io, &data, 0).await.unwrap().store;
        assert_eq!(store.report(), [info]);
        assert_eq!(read_all(&store, 1).await.unwrap(), expected);
    });
}

#[test]
fn a_newer_generation_fences_the_older() {
    on_both(async |io, data| {
        let store = try_open_with(&io, &data, 0).await.unwrap().store;
        let old = new_block(&store, 1, 1, SIZE).await.unwrap();
        write(&old, 0, &pattern(5000, 1)).await.unwrap();
        let open = |generation, existing| {
            store.open_block(BlockId(1), Generation(generation), existing, SIZE)
        };
        let new = open(3, Some((Generation(1), 4500))).await.unwrap();
        assert_eq!(write(&old, 0, b"late").await.unwrap_err().errno, ESTALE);
        write(&new, 4500, b"more").await.unwrap();
        let mut expected = pattern(5000, 1);
        expected.truncate(4500);
        expected.extend_from_slice(b"more");
        assert_eq!(read_all(&store, 1).await.unwrap(), expected);
        assert_eq!(
            open(2, Some((Generation(1), 0))).await.err().unwrap().errno,
            ESTALE
        );
        assert_eq!(
            open(4, Some((Generation(4), 0))).await.err().unwrap().errno,
            ESTALE
        );
        assert_eq!(open(3, None).await.err().unwrap().errno, EEXIST);
        // Bytes that a crash took are not made up for.
        let lost = open(4, Some((Generation(3), 4505))).await.err().unwrap();
        assert_eq!(lost.errno, ESTALE);
        assert!(
            lost.message.contains("lost bytes: it has 4504 of 4505"),
            "{lost:?}"
        );
        assert_eq!(read_all(&store, 1).await.unwrap(), expected);
        let stale = new.replica.read(Generation(4), 0, 1).await.err().unwrap();
        assert_eq!(stale.errno, ESTALE);
        // A new block of the same id under a higher generation starts empty.
        open(5, None).await.unwrap();
        assert_eq!(read_all(&store, 1).await.unwrap(), b"");
        let missing = store
            .open_block(BlockId(2), Generation(1), Some((Generation(1), 0)), SIZE)
            .await;
        assert_eq!(missing.err().unwrap().errno, ENOENT);
    });
}

#[test]
fn small_synced_writes_cost_one_sync_of_the_journal_each_and_share_it() {
    let world = World::new(3);
    world.run(async {
        let opened = try_open(&world.node("dn")).await.unwrap();
        let store = opened.store;
        let w = new_block(&store, 1, 1, SIZE).await.unwrap();
        write(&w, 0, &[1; 100]).await.unwrap();
        assert_eq!(
            count_of(&opened.metrics.journal_syncs),
            0,
            "nothing was asked to be synced"
        );
        for i in 1..=5 {
            write(&w, 100 * i, &[2; 100]).await.unwrap();
            w.replica.sync().await.unwrap();
            assert_eq!(count_of(&opened.metrics.journal_syncs), i);
        }
        let mut tasks = tokio::task::JoinSet::new();
        for block in 10..42 {
            let store = store.clone();
            tasks.spawn(async move {
                let w = new_block(&store, block, 1, SIZE).await.unwrap();
                write(&w, 0, &[3; 4096]).await.unwrap();
                w.replica.sync().await.unwrap();
            });
        }
        tasks.join_all().await;
        let syncs = count_of(&opened.metrics.journal_syncs) - 5;
        assert!((1..=4).contains(&syncs), "{syncs} syncs for 32 writers");
        assert_eq!(count_of(&opened.metrics.replica_syncs), 0);
    });
}

#[test]
fn writes_without_a_sync_are_on_disk_within_five_seconds() {
    let world = World::new(4);
    world.run(async {
        let io = world.node("dn");
        let store = open(&io).await;
        let ticking = store.clone();
        let clock = io.clone();
        tokio::spawn(async move {
            loop {
                clock.sleep(Duration::from_secs(1)).await;
                ticking.tick().await;
            }
        });
        let small = new_block(&store, 1, 1, SIZE).await.unwrap();
        let large = new_block(&store, 2, 1, SIZE).await.unwrap();
        write(&small, 0, &pattern(100, 1)).await.unwrap();
        write(&large, 0, &pattern(500_000, 2)).await.unwrap();
        io.sleep(Duration::from_secs(5)).await;
        world.crash_with("dn", Unsynced::Lost);
    });
    world.run(async {
        let store = open(&world.node("dn")).await;
        assert_eq!(read_all(&store, 1).await.unwrap(), pattern(100, 1));
        assert_eq!(read_all(&store, 2).await.unwrap(), pattern(500_000, 2));
    });
}

#[test]
fn rot_is_found_reported_and_never_served_but_the_file_stays() {
    let world = World::new(5);
    let path = Path::new("/data/blocks/0/000/0000000000000001");
    world.run(async {
        let io = world.node("dn");
        let opened = try_open(&io).await.unwrap();
        let store = opened.store;
        let w = new_block(&store, 1, 1, SIZE).await.unwrap();
        write(&w, 0, &pattern(20_000, 1)).await.unwrap();
        w.replica.sync().await.unwrap();
        let data_at = Layout::new(SIZE).unwrap().data_at();
        world.corrupt("dn", path, data_at + 9000, 0x10).unwrap();
        assert_eq!(
            w.replica.read(Generation(1), 0, 4096).await.unwrap().data,
            pattern(20_000, 1)[..4096]
        );
        opened.reporter.queues()[0].take();
        let bad = w.replica.read(Generation(1), 8192, 10).await.err().unwrap();
        assert_eq!(bad.errno, EIO);
        let told = opened.reporter.queues()[0].take().changes;
        assert_eq!(told, [(BlockId(1), crate::link::Change::Gone)]);
        assert_eq!(read_all(&store, 1).await.unwrap_err().errno, EIO);
        assert_eq!(write(&w, 0, b"x").await.unwrap_err().errno, EIO);
        assert!(store.report().is_empty());
        store.close().await;
    });
    world.run(async {
        let io = world.node("dn");
        let store = open(&io).await;
        assert_eq!(
            read_all(&store, 1).await.unwrap_err().errno,
            EIO,
            "it is remembered"
        );
        // A good copy takes its place; the bad file is put aside.
        let copy = store
            .open_copy(BlockId(1), Generation(1), SIZE)
            .await
            .unwrap();
        write(&copy, 0, &pattern(20_000, 1)).await.unwrap();
        assert_eq!(
            read_all(&store, 1).await.unwrap_err().errno,
            EIO,
            "not before it is complete"
        );
        store.finish_copy(&copy.replica).await.unwrap();
        store.drop_copy(&copy.replica).await;
        assert_eq!(read_all(&store, 1).await.unwrap(), pattern(20_000, 1));
        assert_eq!(
            io.read_dir(Path::new("/data/quarantine"))
                .await
                .unwrap()
                .len(),
            1
        );
        assert_eq!(io.read_dir(Path::new("/data/copy")).await.unwrap(), []);
    });
    world.crash_with("dn", Unsynced::Lost);
    world.run(async {
        let store = open(&world.node("dn")).await;
        assert_eq!(read_all(&store, 1).await.unwrap(), pattern(20_000, 1));
    });
}

#[test]
fn an_unfinished_copy_is_never_seen() {
    let world = World::new(6);
    world.run(async {
        let io = world.node("dn");
        let store = open(&io).await;
        let copy = store
            .open_copy(BlockId(1), Generation(4), SIZE)
            .await
            .unwrap();
        write(&copy, 0, &pattern(9000, 1)).await.unwrap();
        assert!(store.report().is_empty());
        store.drop_copy(&copy.replica).await;
        assert_eq!(io.read_dir(Path::new("/data/copy")).await.unwrap(), []);
        store
            .open_copy(BlockId(2), Generation(4), SIZE)
            .await
            .unwrap();
    });
    world.crash_with("dn", Unsynced::Kept);
    world.run(async {
        let io = world.node("dn");
        let store = open(&io).await;
        assert!(store.report().is_empty());
        assert_eq!(io.read_dir(Path::new("/data/copy")).await.unwrap(), []);
    });
}

#[test]
fn deleted_replicas_stay_in_the_trash_for_ten_minutes() {
    let world = World::new(8);
    world.run(async {
        let io = world.node("dn");
        let opened = try_open(&io).await.unwrap();
        let store = opened.store;
        for block in 1..=3 {
            let w = new_block(&store, block, block, SIZE).await.unwrap();
            write(&w, 0, &pattern(9000, 1)).await.unwrap();
        }
        let order: Vec<_> = (1..=3).map(|b| (BlockId(b), Generation(2))).collect();
        store.delete(&order).await.unwrap();
        let left: Vec<_> = store.report().iter().map(|r| r.block.0).collect();
        assert_eq!(left, [3], "its generation is higher than the order's");
        assert_eq!(read_all(&store, 1).await.unwrap_err().errno, ENOENT);
        let trash = Path::new("/data/trash");
        io.sleep(Duration::from_secs(599)).await;
        store.purge_trash().await;
        assert_eq!(io.read_dir(trash).await.unwrap().len(), 2);
        io.sleep(Duration::from_secs(2)).await;
        store.purge_trash().await;
        assert_eq!(io.read_dir(trash).await.unwrap(), []);
        // The same block may come again, and a restart does not delete it a second time.
        let copy = store
            .open_copy(BlockId(1), Generation(1), SIZE)
            .await
            .unwrap();
        write(&copy, 0, b"again").await.unwrap();
        store.finish_copy(&copy.replica).await.unwrap();
    });
    world.crash_with("dn", Unsynced::Lost);
    world.run(async {
        let store = open(&world.node("dn")).await;
        assert_eq!(read_all(&store, 1).await.unwrap(), b"again");
        assert_eq!(read_all(&store, 2).await.unwrap_err().errno, ENOENT);
    });
}

#[test]
fn a_full_disk_fails_its_writer_and_nothing_else() {
    let world = World::new(9);
    world.run(async {
        let io = world.node("dn");
        let store = open(&io).await;
        let small = new_block(&store, 1, 1, SIZE).await.unwrap();
        write(&small, 0, &pattern(5000, 1)).await.unwrap();
        let large = new_block(&store, 2, 1, SIZE).await.unwrap();
        write(&large, 0, &pattern(5000, 2)).await.unwrap();
        let used = 64 << 30;
        let free = io.space(Path::new(DATA)).await.unwrap().free;
        // Of what the store last heard there is room, but the disk is full in the middle.
        world.set_capacity("dn", used - free + 100_000);
        let full = write(&large, 5000, &pattern(200_000, 3)).await.unwrap_err();
        assert_eq!(full.errno, ENOSPC);
        assert_eq!(read_all(&store, 2).await.unwrap(), pattern(5000, 2));
        small.replica.sync().await.unwrap();
        write(&small, 100, &pattern(100, 9)).await.unwrap();
        large.replica.sync().await.unwrap();
        store.refresh_space().await;
        store.close().await;
    });
    world.run(async {
        let store = open(&world.node("dn")).await;
        assert_eq!(read_all(&store, 2).await.unwrap(), pattern(5000, 2));
        assert_eq!(
            read_all(&store, 1).await.unwrap()[100..200],
            pattern(100, 9)
        );
    });
}

#[test]
fn a_configured_capacity_is_kept() {
    on_both(async |io, data| {
        let store = try_open_with(&io, &data, 100_000).await.unwrap().store;
        let w = new_block(&store, 1, 1, SIZE).await.unwrap();
        write(&w, 0, &pattern(80_000, 1)).await.unwrap();
        assert_eq!(
            write(&w, 80_000, &pattern(30_000, 1))
                .await
                .unwrap_err()
                .errno,
            ENOSPC
        );
        write(&w, 0, &pattern(80_000, 2)).await.unwrap();
        assert_eq!(read_all(&store, 1).await.unwrap(), pattern(80_000, 2));
        let (capacity, free) = store.shared().room.report();
        assert_eq!((capacity, free), (100_000, 100_000 - 81_920 - 4096));
    });
}

#[test]
fn a_failed_sync_of_the_journal_stops_the_node() {
    let world = World::new(10);
    world.run(async {
        let opened = try_open(&world.node("dn")).await.unwrap();
        let w = new_block(&opened.store, 1, 1, SIZE).await.unwrap();
        write(&w, 0, b"abc").await.unwrap();
        world.fail_next_sync("dn");
        assert_eq!(w.replica.sync().await.unwrap_err().errno, EIO);
        assert_eq!(
            w.replica.sync().await.unwrap_err().errno,
            EIO,
            "not tried again"
        );
        assert_eq!(write(&w, 0, b"x").await.unwrap_err().errno, EIO);
        assert!(new_block(&opened.store, 2, 1, SIZE).await.is_err());
        let why = opened.failure.get().unwrap();
        assert!(matches!(*why, Error::DiskFailed { .. }));
    });
}

#[test]
fn a_failed_sync_of_a_replica_spoils_that_replica_only() {
    let world = World::new(11);
    world.run(async {
        let opened = try_open(&world.node("dn")).await.unwrap();
        let store = opened.store;
        let w = new_block(&store, 1, 1, SIZE).await.unwrap();
        write(&w, 0, &pattern(500_000, 1)).await.unwrap();
        world.fail_next_sync("dn");
        assert_eq!(w.replica.sync().await.unwrap_err().errno, EIO);
        assert_eq!(read_all(&store, 1).await.unwrap_err().errno, EIO);
        let other = new_block(&store, 2, 1, SIZE).await.unwrap();
        write(&other, 0, b"fine").await.unwrap();
        other.replica.sync().await.unwrap();
        assert!(opened.failure.get().is_none());
    });
}

#[test]
fn a_folder_in_use_is_refused() {
    on_both(async |io, data| {
        let _held = try_open_with(&io, &data, 0).await.unwrap();
        let refused = try_open_with(&io, &data, 0).await.err().unwrap();
        assert!(matches!(refused, Error::InUse { .. }), "{refused}");
    });
}

#[test]
fn another_cluster_or_node_is_refused() {
    on_both(async |io, data| {
        let store = try_open_with(&io, &data, 0).await.unwrap().store;
        store.join(ClusterId(5), NodeId(2), "nn:1").await.unwrap();
        drop(store);
        let store = try_open_with(&io, &data, 0).await.unwrap().store;
        let identity = store.identity().await;
        assert_eq!(
            (identity.cluster, identity.node, identity.incarnation),
            (ClusterId(5), NodeId(2), 2)
        );
        store.join(ClusterId(5), NodeId(2), "nn:1").await.unwrap();
        let refused = store
            .join(ClusterId(6), NodeId(2), "nn:1")
            .await
            .unwrap_err();
        assert!(matches!(refused, Error::OtherCluster { .. }), "{refused}");
        assert!(store.join(ClusterId(5), NodeId(3), "nn:1").await.is_err());
        assert!(store.obeys(4).await.unwrap());
        assert!(!store.obeys(3).await.unwrap());
        drop(store);
        let store = try_open_with(&io, &data, 0).await.unwrap().store;
        assert!(!store.obeys(3).await.unwrap(), "the ballot is remembered");
    });
}

fn tree(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut out = BTreeMap::new();
    for item in std::fs::read_dir(dir).unwrap() {
        let path = item.unwrap().path();
        if path.is_dir() {
            out.extend(tree(&path));
        } else {
            out.insert(path.clone(), std::fs::read(&path).unwrap());
        }
    }
    out
}

/// Opens a folder that was spoiled, and checks that it was left as it was.
async fn refused(spoil: impl Fn(&Path)) -> Error {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let io = Io::real();
    let store = try_open_with(&io, &data, 0).await.unwrap().store;
    let w = new_block(&store, 1, 1, SIZE).await.unwrap();
    for i in 0..3 {
        write(&w, 0, &[i; 100]).await.unwrap();
        w.replica.sync().await.unwrap();
    }
    drop((store, w));
    spoil(&data);
    let before = tree(&data);
    let error = try_open_with(&io, &data, 0).await.err().unwrap();
    assert_eq!(tree(&data), before);
    error
}

fn patch(path: &Path, at: usize, bytes: &[u8]) {
    let mut all = std::fs::read(path).unwrap();
    all[at..at + bytes.len()].copy_from_slice(bytes);
    std::fs::write(path, all).unwrap();
}

/// A version, and a checksum that fits it: of all before it, and of what is behind it in an identity.
fn as_newer(path: &Path, at: usize, version: u8, crc: std::ops::Range<usize>) {
    patch(path, at, &[version]);
    let all = std::fs::read(path).unwrap();
    let behind = if at == 6 { &all[crc.end..] } else { &[] };
    let sum = crc32c::crc32c_append(crc32c::crc32c(&all[..crc.start]), behind);
    patch(path, crc.start, &sum.to_le_bytes());
}

#[tokio::test]
async fn a_spoiled_folder_is_refused_and_stays_as_it_was() {
    let identity = refused(|data| patch(&data.join("identity"), 25, &[0xff])).await;
    let text = identity.to_string();
    assert!(
        matches!(identity, Error::Corrupt { .. }) && text.contains("identity: corrupt"),
        "{text}"
    );
    let newer = refused(|data| as_newer(&data.join("identity"), 6, 9, 16..20)).await;
    assert!(
        matches!(
            newer,
            Error::NewerFormat {
                found: 9,
                known: 1,
                ..
            }
        ),
        "{newer}"
    );
    let journal = "journal.0000000000000001";
    let rotten = refused(|data| patch(&data.join(journal), 100, &[0xee])).await;
    assert!(
        matches!(rotten, Error::Corrupt { offset: 64, .. }),
        "{rotten}"
    );
    let newer = refused(|data| as_newer(&data.join(journal), 8, 2, 60..64)).await;
    assert!(
        matches!(
            newer,
            Error::NewerFormat {
                found: 2,
                known: 1,
                ..
            }
        ),
        "{newer}"
    );
    let rotten = refused(|data| patch(&data.join(journal), 8, &[3])).await;
    assert!(
        matches!(rotten, Error::Corrupt { offset: 0, .. }),
        "{rotten}"
    );
    let rotten = refused(|data| patch(&data.join("identity"), 7, &[0x20])).await;
    assert!(matches!(rotten, Error::Corrupt { .. }), "{rotten}");
    let replica = "blocks/0/000/0000000000000001";
    let newer = refused(|data| as_newer(&data.join(replica), 8, 3, 124..128)).await;
    assert!(
        matches!(
            newer,
            Error::NewerFormat {
                found: 3,
                known: 1,
                ..
            }
        ),
        "{newer}"
    );
    let foreign = refused(|data| std::fs::remove_file(data.join("identity")).unwrap()).await;
    assert!(matches!(foreign, Error::Foreign { .. }), "{foreign}");
}

/// A start writes a new journal and repairs replicas: a crash at any moment of it, and of the next
/// start, leaves what the start after it can go on from.
#[test]
fn crashes_while_starting_are_survived() {
    for unsynced in [Unsynced::Lost, Unsynced::Kept] {
        for cut_us in (0..6_000).step_by(150) {
            let world = World::new(11);
            let expected = pattern(30_000, 3);
            world.run(async {
                let io = world.node("dn");
                let store = try_open(&io).await.unwrap().store;
                let w = new_block(&store, 1, 1, SIZE).await.unwrap();
                write(&w, 0, &pattern(30_000, 9)).await.unwrap();
                write(&w, 0, &expected).await.unwrap();
                w.replica.sync().await.unwrap();
            });
            for _ in 0..2 {
                world.crash_with("dn", unsynced);
                world.run(async {
                    let io = world.node("dn");
                    let cut = Duration::from_micros(cut_us);
                    let _ = tokio::time::timeout(cut, try_open(&io)).await;
                });
            }
            world.crash_with("dn", unsynced);
            world.run(async {
                let io = world.node("dn");
                let store = try_open(&io).await.unwrap().store;
                let found = read_all(&store, 1).await.unwrap();
                assert_eq!(found, expected, "starts cut after {cut_us} us");
            });
        }
    }
}

async fn journals(io: &Io) -> usize {
    let items = io.read_dir(Path::new(DATA)).await.unwrap();
    items
        .iter()
        .filter(|i| i.name.starts_with("journal."))
        .count()
}

#[test]
fn a_start_after_a_crash_syncs_no_replica_that_was_synced() {
    for unsynced in [Unsynced::Lost, Unsynced::Kept] {
        let world = World::new(12);
        // The last has more chunks than go into the journal at a sync.
        let bytes = |block: u64| {
            pattern(
                if block == 41 {
                    200_000
                } else {
                    1000 * block as usize
                },
                3,
            )
        };
        world.run(async {
            let store = open(&world.node("dn")).await;
            for block in 1..=41 {
                let w = new_block(&store, block, 1, SIZE).await.unwrap();
                write(&w, 0, &bytes(block)).await.unwrap();
                w.replica.sync().await.unwrap();
            }
        });
        for _ in 0..2 {
            world.crash_with("dn", unsynced);
            world.run(async {
                let opened = try_open(&world.node("dn")).await.unwrap();
                assert_eq!(count_of(&opened.metrics.replica_syncs), 0);
                for block in 1..=41 {
                    assert_eq!(read_all(&opened.store, block).await.unwrap(), bytes(block));
                }
            });
        }
    }
}

#[test]
fn journals_stay_until_what_they_say_is_in_place() {
    let world = World::new(13);
    world.run(async {
        let store = open(&world.node("dn")).await;
        let w = new_block(&store, 1, 1, SIZE).await.unwrap();
        write(&w, 0, &pattern(9000, 1)).await.unwrap();
        w.replica.sync().await.unwrap();
    });
    world.crash_with("dn", Unsynced::Lost);
    world.run(async {
        let io = world.node("dn");
        let opened = try_open(&io).await.unwrap();
        assert_eq!(journals(&io).await, 2);
        opened.store.tick().await;
        let cut = async {
            while journals(&io).await > 1 {
                io.sleep(Duration::from_millis(10)).await;
            }
        };
        io.timeout(Duration::from_secs(5), cut).await.unwrap();
        assert_eq!(count_of(&opened.metrics.replica_syncs), 1);
    });
    world.crash_with("dn", Unsynced::Lost);
    world.run(async {
        let io = world.node("dn");
        let store = open(&io).await;
        assert_eq!(read_all(&store, 1).await.unwrap(), pattern(9000, 1));
        store.close().await;
        assert_eq!(journals(&io).await, 1);
    });
}

#[test]
fn a_journal_that_is_quiet_is_cut() {
    let world = World::new(14);
    world.run(async {
        let io = world.node("dn");
        let store = open(&io).await;
        let w = new_block(&store, 1, 1, SIZE).await.unwrap();
        write(&w, 0, &pattern(9000, 1)).await.unwrap();
        w.replica.sync().await.unwrap();
        // The record from which a torn header can be made again is cut in its turn.
        for _ in 0..20 {
            io.sleep(Duration::from_secs(1)).await;
            store.tick().await;
        }
        assert!(store.shared().journal.is_idle());
        assert_eq!(journals(&io).await, 1);
    });
    world.crash_with("dn", Unsynced::Lost);
    world.run(async {
        let io = world.node("dn");
        let opened = try_open(&io).await.unwrap();
        assert_eq!(journals(&io).await, 1, "there was nothing to keep it for");
        assert_eq!(count_of(&opened.metrics.replica_syncs), 0);
        assert_eq!(read_all(&opened.store, 1).await.unwrap(), pattern(9000, 1));
    });
}
