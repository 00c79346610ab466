//! The data folder on a simulated disk: restarts, crashes, full disks.
#![allow(
    clippy::disallowed_methods,
    reason = "tests look at real files and clocks beside the simulator"
)]

mod damage;

use super::*;
use boomfs_io::sim::{Unsynced, World};
use boomfs_wire::Blob;
use overlog::{Row, Value};
use proptest::prelude::*;
use std::sync::Mutex;
use std::sync::atomic::Ordering;

const SMALL: u64 = 4 << 10;

fn options() -> Options {
    Options {
        cluster: None,
        founder: true,
        segment_bytes: SMALL,
        rules: 7,
    }
}

fn root() -> PathBuf {
    PathBuf::from("/nn")
}

async fn open(io: &Io) -> Result<Folder, StoreError> {
    Folder::open(io, &root(), options()).await
}

async fn start(io: &Io) -> Store {
    start_watched(io, Arc::new(|_| {})).await
}

async fn start_watched(io: &Io, on_durable: log::OnDurable) -> Store {
    open(io)
        .await
        .unwrap()
        .start(Arc::default(), on_durable)
        .await
        .unwrap()
}

/// The entry of this number: one change, whose row has this many bytes that tell the number.
fn entry(number: u64, len: usize) -> Entry {
    vec![record::Change {
        table: "accepted".to_owned(),
        insert: true,
        row: Blob(vec![u8::try_from(number % 251).unwrap(); len]),
    }]
}

async fn append(store: &Store, count: u64, len: usize) {
    for _ in 0..count {
        let number = store.log.appended() + 1;
        assert_eq!(store.log.append(entry(number, len)), number);
    }
}

async fn write(io: &Io, count: u64, len: usize) {
    let store = start(io).await;
    append(&store, count, len).await;
    store.log.close().await.unwrap();
}

fn expect(from: u64, to: u64, len: usize) -> Vec<Entry> {
    (from..=to).map(|number| entry(number, len)).collect()
}

fn numbered_entries(from: u64, to: u64, len: usize) -> Vec<(u64, Entry)> {
    (from..=to).map(|n| (n, entry(n, len))).collect()
}

fn segment(first: u64) -> PathBuf {
    root().join(format!("log/{first:020}.log"))
}

async fn files(io: &Io) -> Vec<(String, Vec<u8>)> {
    let mut all = Vec::new();
    for dir in [root(), root().join("log"), root().join("checkpoints")] {
        for item in io.read_dir(&dir).await.unwrap() {
            if !item.is_dir {
                let path = dir.join(&item.name);
                all.push((
                    path.display().to_string(),
                    io.read_file(&path).await.unwrap(),
                ));
            }
        }
    }
    all
}

#[test]
fn a_new_folder_has_no_entries_and_keeps_what_it_is() {
    let world = World::new(1);
    world.run(async {
        let io = world.node("nn");
        let folder = open(&io).await.unwrap();
        assert_eq!(
            (folder.next, folder.checkpoint, folder.local),
            (1, None, None)
        );
        let identity = folder.identity.clone();
        assert!(identity.founder && identity.nonce > 0);
        drop(folder);
        write(&io, 3, 10).await;
        let folder = open(&io).await.unwrap();
        assert_eq!(folder.identity, identity);
        assert_eq!(folder.entries, expect(1, 3, 10));
        assert_eq!(folder.next, 4);
    });
}

#[test]
fn the_log_goes_on_over_segments_and_restarts() {
    let world = World::new(2);
    world.run(async {
        let io = world.node("nn");
        for round in 0..5 {
            let folder = open(&io).await.unwrap();
            assert_eq!(folder.entries, expect(1, round * 20, 300));
            drop(folder);
            let store = start(&io).await;
            for slot in round * 20 + 1..=round * 20 + 20 {
                append(&store, 1, 300).await;
                store.log.wait_durable(slot).await.unwrap();
            }
            store.log.close().await.unwrap();
        }
        assert_eq!(open(&io).await.unwrap().entries, expect(1, 100, 300));
        let segments = numbered(&io, &root().join("log"), "log").await.unwrap();
        assert!(segments.len() > 5, "{segments:?}");
    });
}

#[test]
fn batches_that_wait_are_synced_together_and_in_order() {
    let world = World::new(3);
    world.run(async {
        let io = world.node("nn");
        let seen = Arc::new(Mutex::new(Vec::new()));
        let sink = seen.clone();
        let store = start_watched(&io, Arc::new(move |slot| sink.lock().unwrap().push(slot))).await;
        append(&store, 10, 10).await;
        assert_eq!(store.log.durable(), 0);
        store.log.wait_durable(10).await.unwrap();
        append(&store, 2, 10).await;
        store.log.wait_durable(12).await.unwrap();
        assert_eq!(*seen.lock().unwrap(), [10, 12]);
        assert_eq!(store.metrics().log_groups.load(Ordering::Relaxed), 2);
    });
}

#[test]
fn a_batch_longer_than_a_segment_gets_a_longer_one() {
    let world = World::new(4);
    world.run(async {
        let io = world.node("nn");
        let store = start(&io).await;
        append(&store, 1, 10).await;
        store.log.wait_durable(1).await.unwrap();
        append(&store, 1, 3 * SMALL as usize).await;
        store.log.wait_durable(2).await.unwrap();
        append(&store, 1, 10).await;
        store.log.close().await.unwrap();
        drop(store);
        let entries = open(&io).await.unwrap().entries;
        assert_eq!(
            entries.iter().map(|e| e[0].row.0.len()).collect::<Vec<_>>(),
            [10, 3 * SMALL as usize, 10]
        );
    });
}

#[test]
fn a_folder_in_use_is_refused() {
    let world = World::new(5);
    world.run(async {
        let io = world.node("nn");
        let _held = open(&io).await.unwrap();
        let e = open(&io).await.unwrap_err();
        assert!(matches!(e, StoreError::InUse { .. }));
        assert_eq!(
            e.to_string(),
            "data folder /nn is in use by another NameNode; stop that one, or name another folder"
        );
    });
}

#[test]
fn a_folder_of_another_cluster_or_release_is_refused_and_stays_as_it_was() {
    let world = World::new(6);
    world.run(async {
        let io = world.node("nn");
        write(&io, 2, 10).await;
        let before = files(&io).await;
        let other = Options { cluster: Some(ClusterId(99)), ..options() };
        let e = Folder::open(&io, &root(), other).await.unwrap_err();
        assert!(matches!(e, StoreError::OtherCluster { want: ClusterId(99), .. }), "{e}");
        assert_eq!(files(&io).await, before);
        let identity = Identity { cluster: ClusterId(1), created_ns: 0, nonce: 1, founder: true };
        let newer = encode_record(record::IDENTITY, FORMAT + 1, &identity).unwrap();
        io.write_atomic(&root().join("identity"), &newer).await.unwrap();
        let before = files(&io).await;
        let e = open(&io).await.unwrap_err();
        assert_eq!(
            e.to_string(),
            "/nn/identity has format 3, this build knows up to 2; use the release that wrote it, or a newer one"
        );
        assert_eq!(files(&io).await, before);
    });
}

#[test]
fn a_folder_of_somebody_else_is_refused() {
    let world = World::new(7);
    world.run(async {
        let io = world.node("nn");
        io.create_dir_all(&root()).await.unwrap();
        io.write_atomic(&root().join("thesis.tex"), b"x")
            .await
            .unwrap();
        let e = open(&io).await.unwrap_err();
        assert!(
            e.to_string()
                .contains("it has thesis.tex but no identity file"),
            "{e}"
        );
        assert!(!io.exists(&root().join("lock")).await);
    });
}

#[test]
fn a_folder_that_lost_its_identity_is_refused() {
    let world = World::new(8);
    world.run(async {
        let io = world.node("nn");
        write(&io, 2, 10).await;
        io.remove_file(&root().join("identity")).await.unwrap();
        let e = open(&io).await.unwrap_err();
        assert!(matches!(e, StoreError::Foreign { .. }), "{e}");
    });
}

async fn open_cluster(io: &Io) -> ClusterId {
    let bytes = io.read_file(&root().join("identity")).await.unwrap();
    record::decode_file::<Identity>(record::IDENTITY, &root().join("identity"), &bytes)
        .unwrap()
        .cluster
}

#[test]
fn slots_that_are_known_to_be_decided_are_noted_with_entries_and_when_the_log_is_quiet() {
    let world = World::new(19);
    world.run(async {
        let io = world.node("nn");
        let store = start(&io).await;
        append(&store, 1, 10).await;
        store.log.set_applied(7);
        append(&store, 1, 10).await;
        store.log.wait_durable(2).await.unwrap();
        let bytes = io.read_file(&segment(1)).await.unwrap();
        let scan = segment::scan(&segment(1), &bytes, open_cluster(&io).await, None).unwrap();
        assert_eq!((scan.entries.len(), scan.applied), (2, 7));
        // Nothing is written for each slot, but soon after the last.
        store.log.set_applied(9);
        io.sleep(std::time::Duration::from_millis(200)).await;
        let bytes = io.read_file(&segment(1)).await.unwrap();
        let scan = segment::scan(&segment(1), &bytes, open_cluster(&io).await, None).unwrap();
        assert_eq!((scan.applied, scan.marked), (9, true));
        let end = scan.end;
        io.sleep(std::time::Duration::from_secs(60)).await;
        let bytes = io.read_file(&segment(1)).await.unwrap();
        let scan = segment::scan(&segment(1), &bytes, open_cluster(&io).await, None).unwrap();
        assert_eq!(scan.end, end, "a quiet log writes nothing");
        store.log.close().await.unwrap();
        drop(store);
        assert_eq!(open(&io).await.unwrap().applied, 9);
    });
}

#[test]
fn a_failed_sync_ends_the_log_for_good() {
    let world = World::new(13);
    world.run(async {
        let io = world.node("nn");
        let store = start(&io).await;
        append(&store, 1, 10).await;
        store.log.wait_durable(1).await.unwrap();
        world.fail_next_sync("nn");
        append(&store, 1, 10).await;
        let e = store.log.wait_durable(2).await.unwrap_err();
        assert!(matches!(*e, StoreError::Sync { .. }), "{e}");
        assert!(
            e.to_string()
                .starts_with("cannot sync /nn/log/00000000000000000001.log: "),
            "{e}"
        );
        append(&store, 1, 10).await;
        assert!(store.log.wait_durable(3).await.is_err());
        assert_eq!(store.log.durable(), 1);
        assert!(store.log.close().await.is_err());
    });
}

#[test]
fn a_slow_disk_is_not_a_full_one() {
    let world = World::new(15);
    world.run(async {
        let io = world.node("nn");
        let store = start(&io).await;
        world.set_sync_delay_ms("nn", 80);
        for _ in 0..400 {
            append(&store, 1, 200).await;
            io.sleep(std::time::Duration::from_millis(2)).await;
            assert_eq!(store.log.room(), log::Room::Plenty);
        }
        store.log.wait_durable(store.log.appended()).await.unwrap();
    });
}

#[test]
fn a_full_disk_is_noticed_with_room_to_spare_and_is_got_over() {
    let world = World::new(14);
    world.run(async {
        let io = world.node("nn");
        let store = start(&io).await;
        append(&store, 1, 10).await;
        store.log.wait_durable(1).await.unwrap();
        let used = used(&io).await;
        world.set_capacity("nn", used);
        while store.log.room() == log::Room::Plenty {
            append(&store, 1, 200).await;
            store.log.wait_durable(store.log.appended()).await.unwrap();
            io.sleep(std::time::Duration::from_millis(20)).await;
            assert!(store.log.appended() < 100);
        }
        assert!(store.log.room() == log::Room::Reserve);
        append(&store, 1, 100).await;
        store.log.wait_durable(store.log.appended()).await.unwrap();
        world.set_capacity("nn", 1 << 30);
        while store.log.room() != log::Room::Plenty {
            io.sleep(std::time::Duration::from_millis(50)).await;
        }
        append(&store, 20, 500).await;
        store.log.wait_durable(store.log.appended()).await.unwrap();
        let slots = store.log.appended();
        store.log.close().await.unwrap();
        drop(store);
        assert_eq!(open(&io).await.unwrap().next, slots + 1);
    });
}

#[test]
fn a_full_disk_is_tried_again_now_and_then() {
    let world = World::new(16);
    world.run(async {
        let io = world.node("nn");
        let store = start(&io).await;
        append(&store, 1, 10).await;
        store.log.wait_durable(1).await.unwrap();
        world.set_capacity("nn", used(&io).await);
        // More than there is room for: the last ones wait.
        for _ in 0..200 {
            append(&store, 1, 200).await;
            io.sleep(std::time::Duration::from_millis(5)).await;
        }
        let attempts = || store.metrics().log_full.load(Ordering::Relaxed);
        let before = attempts();
        io.sleep(std::time::Duration::from_secs(10)).await;
        assert!((20..=60).contains(&(attempts() - before)));
        assert!(store.log.durable() < store.log.appended());
        world.set_capacity("nn", 1 << 30);
        store.log.wait_durable(store.log.appended()).await.unwrap();
    });
}

async fn used(io: &Io) -> u64 {
    let space = io.space(&root()).await.unwrap();
    space.capacity - space.free
}

fn tables() -> Vec<(String, u32)> {
    vec![("dentry".to_owned(), 3), ("clock".to_owned(), 1)]
}

fn rows(n: i64) -> Vec<Row> {
    (0..n)
        .map(|i| {
            Row::new(&[
                Value::Int(i),
                Value::str(format!("name {i}")),
                Value::list([Value::Int(i)]),
            ])
        })
        .collect()
}

/// Checkpoints of both parts, as of this entry and a slot of the same number.
async fn checkpoint(store: &Store, slot: u64, n: i64) -> overlog::Digest {
    let mut local = store.checkpoint(Part::Local, slot, tables());
    local.rows(0, &rows(1)).await.unwrap();
    local.finish().await.unwrap();
    let mut writer = store.checkpoint(Part::State, slot, tables());
    writer.rows(0, &rows(n)).await.unwrap();
    writer
        .rows(1, &[Row::new(&[Value::Int(slot.cast_signed())])])
        .await
        .unwrap();
    let digest = writer.finish().await.unwrap();
    store.shared().prune().await.unwrap();
    digest
}

async fn read(folder: &Folder) -> Result<Vec<(u32, Row)>, StoreError> {
    let mut all = Vec::new();
    if let Some(mut reader) = folder.read_checkpoint(Part::State).await? {
        assert_eq!(reader.header().tables, tables());
        while let Some((table, rows)) = reader.next().await? {
            all.extend(rows.into_iter().map(|row| (table, row)));
        }
    }
    Ok(all)
}

#[test]
fn a_start_reads_the_newest_checkpoint_and_the_log_after_it() {
    let world = World::new(15);
    world.run(async {
        let io = world.node("nn");
        let store = start(&io).await;
        for slot in 1..=30 {
            append(&store, 1, 500).await;
            store.log.wait_durable(slot).await.unwrap();
            if slot % 10 == 0 {
                checkpoint(&store, slot, 20_000 + slot.cast_signed()).await;
            }
        }
        append(&store, 2, 500).await;
        store.log.close().await.unwrap();
        drop(store);
        let kept = numbered(&io, &root().join("checkpoints"), "ckpt")
            .await
            .unwrap();
        assert_eq!(kept, [20, 30]);
        let segments = numbered(&io, &root().join("log"), "log").await.unwrap();
        assert!(segments[0] <= 21 && segments[1] > 21, "{segments:?}");
        let folder = open(&io).await.unwrap();
        assert_eq!((folder.checkpoint, folder.local), (Some(30), Some(30)));
        assert_eq!(folder.entries, expect(31, 32, 500));
        let all = read(&folder).await.unwrap();
        assert_eq!(all.len(), 20_031);
        assert_eq!(all[20_029], (0, rows(20_030)[20_029].clone()));
        assert_eq!(all[20_030], (1, Row::new(&[Value::Int(30)])));
        drop(folder);
        // The older ones serve when the newest are moved away.
        for part in ["checkpoints", "local"] {
            let newest = root().join(part).join("00000000000000000030.ckpt");
            io.remove_file(&newest).await.unwrap();
        }
        let folder = open(&io).await.unwrap();
        assert_eq!((folder.checkpoint, folder.entries.len()), (Some(20), 12));
        assert_eq!(read(&folder).await.unwrap().len(), 20_021);
    });
}

#[test]
fn a_checkpoint_of_equal_rows_has_an_equal_digest_in_any_order() {
    let world = World::new(16);
    world.run(async {
        let io = world.node("nn");
        let store = start(&io).await;
        append(&store, 3, 10).await;
        store.log.wait_durable(3).await.unwrap();
        let mut writers = Vec::new();
        for slot in 1..=3 {
            let mut list = rows(100);
            match slot {
                2 => list.reverse(),
                3 => list[50] = Row::new(&[Value::Int(50), Value::str("name 51"), Value::list([])]),
                _ => {}
            }
            let mut writer = store.checkpoint(Part::State, slot, tables());
            writer.rows(0, &list).await.unwrap();
            writers.push(writer.finish().await.unwrap());
        }
        assert_eq!(writers[0], writers[1]);
        assert_ne!(writers[0], writers[2]);
    });
}

#[test]
fn an_unfinished_checkpoint_is_no_checkpoint() {
    let world = World::new(18);
    world.run(async {
        let io = world.node("nn");
        let store = start(&io).await;
        append(&store, 1, 10).await;
        let mut writer = store.checkpoint(Part::State, 1, tables());
        writer.rows(0, &rows(10)).await.unwrap();
        store.log.close().await.unwrap();
        drop((store, writer));
        assert!(
            io.exists(&root().join("checkpoints/00000000000000000001.tmp"))
                .await
        );
        assert_eq!(open(&io).await.unwrap().checkpoint, None);
        write(&io, 0, 0).await;
        assert!(
            !io.exists(&root().join("checkpoints/00000000000000000001.tmp"))
                .await
        );
    });
}

fn cases() -> u32 {
    std::env::var("BOOMFS_CASES")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(48)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), ..ProptestConfig::default() })]

    /// Power cuts at random moments, one after the other: what was reported durable is there,
    /// in order, and what else is there was appended.
    #[test]
    fn what_was_acknowledged_survives_power_cuts(
        seed in any::<u64>(),
        lives in prop::collection::vec((1_u64..40, 1_usize..900, 0_u64..120), 1..5),
        checkpoints in any::<bool>(),
    ) {
        let world = World::new(seed);
        let acknowledged = Arc::new(Mutex::new(0_u64));
        world.run(async {
            let mut floor = 0;
            for (count, len, cut_ms) in lives {
                let io = world.node("nn");
                let durable = acknowledged.clone();
                let store = start_watched(&io, Arc::new(move |slot| *durable.lock().unwrap() = slot)).await;
                let from = store.log.appended();
                assert!(from >= *acknowledged.lock().unwrap(), "slots {from} to {acknowledged:?} are lost");
                assert!(from >= floor);
                let work = async {
                    for i in 0..count {
                        store.log.append(entry(store.log.appended() + 1, len));
                        if i % 3 == 0 {
                            io.sleep(std::time::Duration::from_millis(2)).await;
                        }
                        if checkpoints && i % 10 == 9 {
                            let slot = store.log.appended();
                            store.log.wait_durable(slot).await.unwrap();
                            checkpoint(&store, slot, 5).await;
                        }
                    }
                    std::future::pending::<()>().await;
                };
                let clock = tokio::time::timeout(std::time::Duration::from_millis(cut_ms), work);
                assert!(clock.await.is_err());
                floor = *acknowledged.lock().unwrap();
                world.crash("nn");
                drop(store);
            }
            let io = world.node("nn");
            let folder = open(&io).await.unwrap();
            let last = folder.next - 1;
            assert!(last >= floor, "slots after {last} are lost, {floor} was acknowledged");
            let first = folder.local.unwrap_or(0) + 1;
            assert_eq!(folder.entries.len() as u64, last + 1 - first);
            for (number, entry) in (first..).zip(&folder.entries) {
                let fill = u8::try_from(number % 251).unwrap();
                assert!(entry[0].row.0.iter().all(|b| *b == fill));
            }
            read(&folder).await.unwrap();
        });
    }
}

#[tokio::test]
async fn the_writer_ends_when_nobody_has_the_log_any_more() {
    let folder = tempfile::tempdir().unwrap();
    let io = Io::real();
    let held = Arc::new(());
    let by_writer = held.clone();
    let store = Folder::open(&io, folder.path(), options())
        .await
        .unwrap()
        .start(Arc::default(), Arc::new(move |_| drop(by_writer.clone())))
        .await
        .unwrap();
    append(&store, 3, 10).await;
    store.log.wait_durable(3).await.unwrap();
    assert_eq!(Arc::strong_count(&held), 2);
    drop(store);
    for _ in 0..2_000 {
        if Arc::strong_count(&held) == 1 {
            return;
        }
        io.sleep(std::time::Duration::from_millis(5)).await;
    }
    panic!("the writer lives on");
}
