//! Files of the data folder that rotted, are cut short, or are gone.

use super::*;

#[test]
fn a_missing_segment_is_refused() {
    for gone in 0..3 {
        let world = World::new(9);
        world.run(async {
            let io = world.node("nn");
            let store = start(&io).await;
            while numbered(&io, &root().join("log"), "log")
                .await
                .unwrap()
                .len()
                < 3
            {
                append(&store, 1, 1000).await;
                store.log.wait_durable(store.log.appended()).await.unwrap();
            }
            store.log.close().await.unwrap();
            drop(store);
            let segments = numbered(&io, &root().join("log"), "log").await.unwrap();
            io.remove_file(&segment(segments[gone])).await.unwrap();
            let before = files(&io).await;
            let e = open(&io).await.unwrap_err();
            assert!(matches!(e, StoreError::Missing { .. }), "{gone}: {e}");
            assert_eq!(files(&io).await, before);
        });
    }
}

/// Every bit of a small log, flipped: the start is refused, or it has a prefix of what was
/// written; and if the log was closed cleanly, nothing acknowledged is ever missing.
#[test]
fn flipped_bits_are_refused_or_cost_only_a_tail() {
    for marked in [false, true] {
        let world = World::new(10);
        let (bytes, cluster, header) = world.run(async {
            let io = world.node("nn");
            let store = start(&io).await;
            for slot in 1..=4 {
                append(&store, 1, 20).await;
                store.log.wait_durable(slot).await.unwrap();
            }
            if marked {
                store.log.close().await.unwrap();
            }
            let bytes = io.read_file(&segment(1)).await.unwrap();
            let (_, header) = record::read_at::<Segment>(record::SEGMENT, &bytes, 0).unwrap();
            (bytes, open_cluster(&io).await, header)
        });
        let path = segment(1);
        let whole = segment::scan(&path, &bytes, cluster, None).unwrap();
        assert_eq!(whole.entries, numbered_entries(1, 4, 20));
        assert_eq!(whole.marked, marked);
        let used = usize::try_from(whole.end).unwrap();
        let group = usize::try_from(whole.last_group).unwrap();
        let (_, groups_end) =
            record::read_at::<record::Group>(record::GROUP, &bytes, group).unwrap();
        for at in 0..used + 64 {
            for bit in 0..8 {
                let mut rotten = bytes.clone();
                rotten[at] ^= 1 << bit;
                match segment::scan(&path, &rotten, cluster, None) {
                    Err(StoreError::Corrupt { offset, .. }) => assert!(offset <= at as u64),
                    Err(StoreError::OtherCluster { .. }) => panic!("a flipped bit passed the CRC"),
                    Err(e) => panic!("{e}"),
                    Ok(scan) => {
                        assert!(at >= header);
                        assert!(
                            numbered_entries(1, 4, 20).starts_with(&scan.entries),
                            "byte {at} bit {bit}"
                        );
                        let lost = 4 - scan.entries.len();
                        assert!(
                            lost <= usize::from(!marked),
                            "byte {at} bit {bit} cost {lost} entries"
                        );
                    }
                }
                if at < used {
                    // In a segment that another follows no entry is a tail.
                    match segment::scan(&path, &rotten, cluster, Some(5)) {
                        Ok(scan) => {
                            assert_eq!(scan.entries, numbered_entries(1, 4, 20));
                            assert!(at >= groups_end, "byte {at} bit {bit}");
                        }
                        Err(e) => assert!(matches!(e, StoreError::Corrupt { .. })),
                    }
                }
            }
        }
    }
}

#[test]
fn a_rotten_record_names_the_file_and_the_place_and_nothing_changes() {
    let world = World::new(11);
    world.run(async {
        let io = world.node("nn");
        write(&io, 1, 20).await;
        world.corrupt("nn", &segment(1), 100, 0x10).unwrap();
        let before = files(&io).await;
        let e = open(&io).await.unwrap_err();
        let StoreError::Corrupt { file, offset, .. } = &e else {
            panic!("{e}")
        };
        assert_eq!(file, "/nn/log/00000000000000000001.log");
        assert!(*offset > 0 && *offset <= 100);
        assert!(
            e.to_string()
                .contains("nothing was changed; if there are other NameNodes"),
            "{e}"
        );
        assert_eq!(files(&io).await, before);
    });
}

#[test]
fn a_torn_tail_is_cut_and_the_log_goes_on() {
    let world = World::new(12);
    world.run(async {
        let io = world.node("nn");
        let store = start(&io).await;
        append(&store, 2, 50).await;
        store.log.wait_durable(2).await.unwrap();
        drop(store);
        world.crash_with("nn", Unsynced::Lost);
        let io = world.node("nn");
        let end = segment_end(&io).await;
        let file = io.open(&segment(1), Open::write_create()).await.unwrap();
        let group = record::Group {
            first: 3,
            applied: 0,
            entries: vec![entry(3, 50)],
        };
        let mut torn = encode_record(record::GROUP, FORMAT, &group).unwrap();
        torn.truncate(40);
        file.write_at(end, torn).await.unwrap();
        assert_eq!(open(&io).await.unwrap().entries, expect(1, 2, 50));
        write(&io, 3, 50).await;
        assert_eq!(open(&io).await.unwrap().entries, expect(1, 5, 50));
    });
}

async fn segment_end(io: &Io) -> u64 {
    let bytes = io.read_file(&segment(1)).await.unwrap();
    segment::scan(&segment(1), &bytes, open_cluster(io).await, None)
        .unwrap()
        .end
}

/// A power cut may take sectors of what was not synced in any order: marks, and a group that was never acknowledged.
#[test]
fn a_mark_that_was_lost_is_no_lost_entry() {
    let world = World::new(27);
    world.run(async {
        let io = world.node("nn");
        let store = start(&io).await;
        let mut marks = Vec::new();
        for slot in 1..=3 {
            append(&store, 1, 20).await;
            store.log.wait_durable(slot).await.unwrap();
            for applied in 0..2 {
                let at = segment_end(&io).await;
                store.log.set_applied(10 * slot + applied);
                io.sleep(std::time::Duration::from_millis(200)).await;
                marks.push((at, segment_end(&io).await));
            }
        }
        let bytes = io.read_file(&segment(1)).await.unwrap();
        let cluster = open_cluster(&io).await;
        for lost in 0..1_u32 << marks.len() {
            let mut torn = bytes.clone();
            for (i, (from, till)) in marks.iter().enumerate() {
                let from = usize::try_from(*from).unwrap();
                let till = usize::try_from(*till).unwrap();
                if lost >> i & 1 == 1 {
                    torn[from..from + (till - from) / 2].fill(0);
                }
            }
            for following in [None, Some(4)] {
                let scan = segment::scan(&segment(1), &torn, cluster, following).unwrap();
                assert_eq!(scan.entries, numbered_entries(1, 3, 20), "lost {lost:b}");
            }
            let e = segment::scan(&segment(1), &torn, cluster, Some(5));
            assert_eq!(e.is_err(), lost >> 5 == 1, "lost {lost:b}: {e:?}");
        }
    });
}

/// What a killed process left to the system, or had failed to sync, may be gone after a power cut: a start says
/// nothing of it before it is on disk.
#[test]
fn what_a_start_has_read_is_on_disk() {
    for failed in [false, true] {
        let world = World::new(28);
        world.run(async {
            let io = world.node("nn");
            let store = start(&io).await;
            append(&store, 1, 10).await;
            store.log.wait_durable(1).await.unwrap();
            // The spare segment is there.
            io.sleep(std::time::Duration::from_secs(1)).await;
            if failed {
                world.fail_next_sync("nn");
            } else {
                world.set_sync_delay_ms("nn", 10_000);
            }
            append(&store, 1, 10).await;
            if failed {
                store.log.wait_durable(2).await.unwrap_err();
            } else {
                io.sleep(std::time::Duration::from_millis(20)).await;
            }
            assert_eq!(store.log.durable(), 1);
            drop(store);
            world.crash_with("nn", Unsynced::Kept);
            world.mend_disk("nn");
            let io = world.node("nn");
            let folder = open(&io).await.unwrap();
            assert_eq!(folder.entries, expect(1, 2, 10));
            drop(
                folder
                    .start(Arc::default(), Arc::new(|_| {}))
                    .await
                    .unwrap(),
            );
            world.crash_with("nn", Unsynced::Lost);
            let io = world.node("nn");
            assert_eq!(open(&io).await.unwrap().entries, expect(1, 2, 10));
        });
    }
}

#[test]
fn a_rotten_or_cut_checkpoint_is_refused() {
    let world = World::new(17);
    world.run(async {
        let io = world.node("nn");
        let store = start(&io).await;
        append(&store, 1, 10).await;
        store.log.wait_durable(1).await.unwrap();
        checkpoint(&store, 1, 3).await;
        store.log.close().await.unwrap();
        drop(store);
        let path = root().join("checkpoints/00000000000000000001.ckpt");
        let whole = io.read_file(&path).await.unwrap();
        for at in 0..whole.len() {
            let mut rotten = whole.clone();
            rotten[at] ^= 4;
            io.write_atomic(&path, &rotten).await.unwrap();
            let e = read(&open(&io).await.unwrap()).await.unwrap_err();
            assert!(matches!(e, StoreError::Corrupt { .. }), "byte {at}: {e}");
            io.write_atomic(&path, &whole[..at]).await.unwrap();
            let e = read(&open(&io).await.unwrap()).await.unwrap_err();
            assert!(matches!(e, StoreError::Corrupt { .. }), "cut at {at}: {e}");
        }
        let e = read(&open(&io).await.unwrap()).await.unwrap_err();
        assert!(
            e.to_string()
                .contains("move it away to start from the checkpoint before it"),
            "{e}"
        );
    });
}
