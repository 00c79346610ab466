//! Reading and writing.

use super::*;
use crate::{Error, Ino, Op, SetAttr, SetTime, errno, limits};
use boomfs_wire::NodeId;
use std::time::Duration;
use tokio::task::JoinHandle;

/// Tries something with a new file that is open for writing, on so many DataNodes and with blocks of so many bytes.
fn writing(
    seed: u64,
    nodes: u64,
    block_size: u64,
    what: impl AsyncFnOnce(&Fake, &Client, FileWriter),
) {
    let fake = Fake::new(seed, nodes, block_size);
    fake.world.run(async {
        fake.start().await;
        let client = fake.client().await;
        let writer = create_open(&client, "a").await;
        what(&fake, &client, writer).await;
    });
    nothing_wrong(&fake);
}

/// A flush that goes on by itself.
fn flushing(writer: &FileWriter) -> JoinHandle<Result<(), Error>> {
    let writer = writer.clone();
    tokio::spawn(async move { writer.flush().await })
}

async fn set_attr(client: &Client, ino: Ino, set: SetAttr) {
    let at = At {
        base: ino,
        path: vec![],
    };
    client.setattr(&root(), &at, set).await.unwrap();
}

fn verbs(fake: &Fake) -> Vec<&'static str> {
    let verb = |op: &Op| match op {
        Op::Create { .. } => "create",
        Op::AcquireLease { .. } => "acquire",
        Op::ReleaseLease { .. } => "release",
        Op::AddBlock { .. } => "add",
        Op::ReserveGeneration { .. } => "reserve",
        Op::CommitGeneration { .. } => "adopt",
        Op::Commit { .. } => "commit",
        Op::SetAttr { .. } => "setattr",
        _ => "other",
    };
    fake.state().log.iter().map(verb).collect()
}

#[test]
fn small_file_takes_four_commands() {
    writing(11, 3, 1 << 20, async |fake, client, writer| {
        let bytes = pattern(1, 10_000);
        writer.write_at(0, bytes.clone()).await.unwrap();
        assert_eq!(
            client.getattr(&root(), writer.ino()).await.unwrap().size,
            10_000
        );
        writer.close().await.unwrap();
        assert_eq!(verbs(fake), ["create", "add", "commit", "release"]);
        assert_eq!(fake.contents(writer.ino()), bytes);
        let state = fake.state();
        let block = &state.files[&writer.ino()].blocks[&0];
        assert_eq!(block.members.len(), 3);
        assert!(
            state
                .nodes
                .values()
                .all(|node| node.replicas[&block.id].finished)
        );
        assert_eq!(state.files[&writer.ino()].lease, None);
    });
}

#[test]
fn opens_share_a_writer_and_the_last_close_gives_the_lease_back() {
    writing(12, 3, 1 << 20, async |fake, client, one| {
        let two = client.open_write(&root(), one.ino()).await.unwrap();
        one.append(pattern(1, 10)).await.unwrap();
        assert_eq!(two.append(pattern(2, 10)).await.unwrap(), 10);
        one.close().await.unwrap();
        one.close().await.unwrap();
        assert!(fake.state().files[&one.ino()].lease.is_some());
        assert_eq!(fake.contents(one.ino()).len(), 20);
        two.close().await.unwrap();
        assert_eq!(verbs(fake), ["create", "add", "commit", "release"]);
        // A dropped open is closed, too.
        drop(client.open_write(&root(), one.ino()).await.unwrap());
        fake.until("the lease is back", |state| {
            state.files[&two.ino()].lease.is_none()
        })
        .await;
    });
}

/// Kills one member in the middle of a packet, and checks that all bytes are on the others.
fn member_dies(seed: u64, victim: u64) {
    writing(seed, 3, 4 << 20, async |fake, _, writer| {
        let bytes = pattern(seed, 10_000_000);
        fake.state()
            .nodes
            .get_mut(&NodeId(victim))
            .unwrap()
            .dies_at_packet = Some(2);
        for (at, part) in bytes.chunks(131_072).enumerate() {
            writer
                .write_at(at as u64 * 131_072, bytes.slice_ref(part))
                .await
                .unwrap();
        }
        writer.fsync().await.unwrap();
        assert!(fake.all_on_disk(writer.ino()));
        writer.close().await.unwrap();
        assert!(fake.contents(writer.ino()) == bytes);
        let state = fake.state();
        for block in state.files[&writer.ino()].blocks.values() {
            assert!(
                !block.members.contains(&NodeId(victim)) && block.members.len() == 2,
                "{block:?}"
            );
        }
    });
}

#[test]
fn writer_goes_on_without_the_first_member() {
    member_dies(13, 1);
}

#[test]
fn writer_goes_on_without_a_later_member() {
    member_dies(14, 3);
}

#[test]
fn writer_without_any_member_fails_and_names_them() {
    writing(15, 2, 4096, async |fake, _, writer| {
        writer.write_at(0, pattern(1, 100)).await.unwrap();
        writer.flush().await.unwrap();
        for node in fake.state().nodes.values_mut() {
            node.dead = true;
        }
        writer.write_at(100, pattern(2, 100)).await.unwrap();
        let error = writer.flush().await.unwrap_err();
        assert_eq!(error.errno(), errno::EIO);
        let text = error.to_string();
        assert!(
            text.starts_with(
                "write of inode 101, block at 0: no replica took the bytes within 30 s: "
            ),
            "{text}"
        );
        assert!(
            text.contains("DataNode 1: ") && text.contains("DataNode 2: "),
            "{text}"
        );
        assert_eq!(writer.write_at(0, pattern(1, 1)).await.unwrap_err(), error);
        assert_eq!(writer.close().await.unwrap_err(), error);
        // What was acknowledged before is committed, and the lease is back.
        let state = fake.state();
        assert_eq!(
            (
                state.files[&writer.ino()].size,
                state.files[&writer.ino()].lease
            ),
            (100, None)
        );
    });
}

#[test]
fn full_disks_are_no_space() {
    writing(16, 3, 4096, async |fake, _, writer| {
        for node in fake.state().nodes.values_mut() {
            node.full = true;
        }
        writer.write_at(0, pattern(1, 100)).await.unwrap();
        assert_eq!(writer.flush().await.unwrap_err().errno(), errno::ENOSPC);
        assert_eq!(writer.close().await.unwrap_err().errno(), errno::ENOSPC);
    });
}

#[test]
fn members_that_come_back_are_used_again() {
    writing(17, 1, 4096, async |fake, _, writer| {
        writer.write_at(0, pattern(1, 3000)).await.unwrap();
        writer.flush().await.unwrap();
        let node = |dead: bool| fake.state().nodes.get_mut(&NodeId(1)).unwrap().dead = dead;
        node(true);
        writer.write_at(3000, pattern(2, 1000)).await.unwrap();
        let flushing = flushing(&writer);
        fake.world
            .node("client")
            .sleep(Duration::from_secs(3))
            .await;
        node(false);
        flushing.await.unwrap().unwrap();
        writer.close().await.unwrap();
        assert_eq!(
            fake.contents(writer.ino()),
            [pattern(1, 3000), pattern(2, 1000)].concat()
        );
    });
}

/// Power is cut at both members of a block; the writer goes on when they are back. The one that is spared has all on
/// disk, and comes back ten seconds later than the other.
fn after_a_power_cut(
    seed: u64,
    spared: Option<NodeId>,
    expect: impl FnOnce(&Fake, Ino, Result<(), Error>),
) {
    writing(seed, 2, 4096, async |fake, _, writer| {
        let io = fake.world.node("client");
        writer.write_at(0, pattern(1, 100)).await.unwrap();
        writer.flush().await.unwrap();
        for (id, node) in &mut fake.state().nodes {
            node.dead = true;
            for replica in node.replicas.values_mut() {
                if spared != Some(*id) {
                    replica.data.clone_from(&replica.on_disk);
                }
            }
        }
        writer.write_at(100, pattern(2, 100)).await.unwrap();
        let flushing = flushing(&writer);
        io.sleep(Duration::from_secs(1)).await;
        for (id, node) in &mut fake.state().nodes {
            node.dead = spared == Some(*id);
        }
        io.sleep(Duration::from_secs(10)).await;
        assert_eq!(flushing.is_finished(), spared.is_none());
        for node in fake.state().nodes.values_mut() {
            node.dead = false;
        }
        expect(fake, writer.ino(), flushing.await.unwrap());
    });
}

#[test]
fn writer_whose_members_all_lost_bytes_waits_for_nobody() {
    after_a_power_cut(41, None, |_, _, flushed| {
        let error = flushed.unwrap_err();
        assert_eq!(error.errno(), errno::EIO);
        assert_eq!(
            error.to_string(),
            "write of inode 101, block at 0: no replica has all bytes any more: \
             DataNode 1 lost bytes that it had acknowledged: it has 0 of 100; \
             DataNode 2 lost bytes that it had acknowledged: it has 0 of 100"
        );
    });
}

#[test]
fn writer_waits_for_a_member_that_lost_nothing() {
    after_a_power_cut(42, Some(NodeId(2)), |fake, ino, flushed| {
        flushed.unwrap();
        assert_eq!(
            fake.contents(ino),
            [pattern(1, 100), pattern(2, 100)].concat()
        );
    });
}

#[test]
fn writer_waits_for_whoever_has_a_block_that_nobody_had_when_it_asked() {
    writing(43, 1, 4096, async |fake, client, writer| {
        writer.write_at(0, pattern(1, 100)).await.unwrap();
        writer.close().await.unwrap();
        let ino = writer.ino();
        let members = |nodes: &[u64]| {
            let nodes = nodes.iter().copied().map(NodeId).collect();
            fake.state()
                .files
                .get_mut(&ino)
                .unwrap()
                .blocks
                .get_mut(&0)
                .unwrap()
                .members = nodes;
        };
        members(&[]);
        let writer = client.open_write(&root(), ino).await.unwrap();
        writer.write_at(100, pattern(2, 100)).await.unwrap();
        let flushing = flushing(&writer);
        fake.world
            .node("client")
            .sleep(Duration::from_secs(3))
            .await;
        assert!(!flushing.is_finished());
        members(&[1]);
        flushing.await.unwrap().unwrap();
        writer.close().await.unwrap();
        assert_eq!(
            fake.contents(ino),
            [pattern(1, 100), pattern(2, 100)].concat()
        );
    });
}

#[test]
fn fsync_covers_blocks_whose_pipelines_are_closed() {
    writing(18, 4, 4096, async |fake, client, writer| {
        for block in (0..12).rev() {
            writer
                .write_at(block * 4096 + 10, pattern(block, 4000))
                .await
                .unwrap();
        }
        writer.flush().await.unwrap();
        assert!(!fake.all_on_disk(writer.ino()));
        writer.fsync().await.unwrap();
        assert!(fake.all_on_disk(writer.ino()));
        writer.write_at(5, pattern(99, 20_000)).await.unwrap();
        writer.close().await.unwrap();
        assert!(!fake.all_on_disk(writer.ino()));
        // Also when the writer is gone.
        client.sync_file(&root(), writer.ino()).await.unwrap();
        assert!(fake.all_on_disk(writer.ino()));
        let commands = fake.state().log.len();
        client.sync_file(&root(), writer.ino()).await.unwrap();
        assert_eq!(fake.state().log.len(), commands);
    });
}

#[test]
fn reader_takes_another_replica_when_a_chunk_is_rotten() {
    writing(19, 3, 1 << 20, async |fake, client, writer| {
        let bytes = pattern(1, 3_000_000);
        writer.write_at(0, bytes.clone()).await.unwrap();
        writer.close().await.unwrap();
        for node in [1, 2] {
            fake.state().nodes.get_mut(&NodeId(node)).unwrap().rotten = true;
        }
        // Which replica comes first is chance; over many readers each does.
        for _ in 0..20 {
            let reader = client.open_read(writer.ino()).await.unwrap();
            assert!(reader.read_at(1000, 2_000_000).await.unwrap() == bytes.slice(1000..2_001_000));
            fake.world.node("client").sleep(limits::DEMOTION).await;
        }
        let suspected = |node| fake.state().nodes[&NodeId(node)].suspected.len();
        assert!(suspected(1) > 0 && suspected(2) > 0 && suspected(3) == 0);
        // With no right replica left, the reader says so.
        fake.state().nodes.get_mut(&NodeId(3)).unwrap().rotten = true;
        let error = client
            .open_read(writer.ino())
            .await
            .unwrap()
            .read_at(0, 10)
            .await
            .unwrap_err();
        assert_eq!(error.errno(), errno::EIO);
        assert!(
            error.to_string().contains("does not match its checksum"),
            "{error}"
        );
    });
}

#[test]
fn reader_passes_a_dead_and_a_silent_replica() {
    writing(20, 3, 1 << 20, async |fake, client, writer| {
        let bytes = pattern(1, 100_000);
        writer.write_at(0, bytes.clone()).await.unwrap();
        writer.close().await.unwrap();
        fake.state().nodes.get_mut(&NodeId(1)).unwrap().dead = true;
        fake.state().nodes.get_mut(&NodeId(2)).unwrap().mute = true;
        for _ in 0..8 {
            let reader = client.open_read(writer.ino()).await.unwrap();
            assert!(reader.read_at(0, 1 << 20).await.unwrap() == bytes);
        }
        fake.state().nodes.get_mut(&NodeId(3)).unwrap().dead = true;
        let error = client
            .open_read(writer.ino())
            .await
            .unwrap()
            .read_at(0, 10)
            .await
            .unwrap_err();
        assert_eq!(error.errno(), errno::ETIMEDOUT);
        let text = error.to_string();
        assert!(
            text.contains("DataNode 1 at dn1:9000") && text.contains("DataNode 3 at dn3:9000"),
            "{text}"
        );
    });
}

#[test]
fn sequential_reader_reads_ahead_and_sees_every_byte() {
    writing(21, 3, 3 << 20, async |fake, client, writer| {
        let bytes = pattern(1, 9_999_999);
        writer.write_at(0, bytes.clone()).await.unwrap();
        writer.close().await.unwrap();
        let reader = client.open_read(writer.ino()).await.unwrap();
        let mut read = Vec::new();
        loop {
            let part = reader.read_at(read.len() as u64, 131_072).await.unwrap();
            if part.is_empty() {
                break;
            }
            read.extend_from_slice(&part);
        }
        assert!(read == bytes);
        let reads: u64 = fake.state().nodes.values().map(|node| node.reads).sum();
        assert!(reads < 20, "{reads} reads for 10 windows");
        // The file changes under the open reader.
        let writer = client.open_write(&root(), writer.ino()).await.unwrap();
        writer.write_at(9_000_000, pattern(2, 10)).await.unwrap();
        assert_eq!(reader.read_at(9_000_000, 10).await.unwrap(), pattern(2, 10));
        writer.close().await.unwrap();
        assert_eq!(reader.read_at(9_000_000, 10).await.unwrap(), pattern(2, 10));
        let set = SetAttr {
            size: Some(5),
            ..SetAttr::default()
        };
        set_attr(client, writer.ino(), set).await;
        assert_eq!(reader.read_at(0, 100).await.unwrap(), bytes.slice(0..5));
    });
}

#[test]
fn time_that_is_set_on_an_open_file_stays() {
    writing(22, 3, 4096, async |fake, client, writer| {
        writer.write_at(0, pattern(1, 10)).await.unwrap();
        let written = client
            .getattr(&root(), writer.ino())
            .await
            .unwrap()
            .mtime_ns;
        writer.flush().await.unwrap();
        assert_eq!(
            client
                .getattr(&root(), writer.ino())
                .await
                .unwrap()
                .mtime_ns,
            written
        );
        writer.write_at(0, pattern(2, 10)).await.unwrap();
        let set = SetAttr {
            mtime: Some(SetTime::At(5)),
            ..SetAttr::default()
        };
        set_attr(client, writer.ino(), set).await;
        writer.close().await.unwrap();
        assert_eq!(fake.state().files[&writer.ino()].mtime_ns, 5);
    });
}

#[test]
fn bytes_that_nobody_flushes_leave_after_a_while() {
    writing(23, 3, 4096, async |fake, _, writer| {
        writer.write_at(0, pattern(1, 10)).await.unwrap();
        let ino = writer.ino();
        fake.until("the bytes are committed", |state| {
            state.files[&ino].size == 10
        })
        .await;
        // Then its pipeline, which idles, is closed.
        fake.until("the block is finished", |state| {
            let block = &state.files[&ino].blocks[&0];
            state.nodes[&NodeId(1)].replicas[&block.id].finished
        })
        .await;
        writer.append(pattern(2, 10)).await.unwrap();
        writer.close().await.unwrap();
        assert_eq!(
            fake.contents(ino),
            [pattern(1, 10), pattern(2, 10)].concat()
        );
    });
}

#[test]
fn silly_offsets_are_refused() {
    writing(24, 3, 4096, async |_, _, writer| {
        for offset in [limits::FILE_SIZE, u64::MAX] {
            assert_eq!(
                writer
                    .write_at(offset, pattern(1, 1))
                    .await
                    .unwrap_err()
                    .errno(),
                errno::EFBIG
            );
        }
        assert_eq!(
            writer.truncate(u64::MAX).await.unwrap_err().errno(),
            errno::EFBIG
        );
        assert_eq!(
            writer.read_at(u64::MAX, 1).await.unwrap_err().errno(),
            errno::EINVAL
        );
        writer.truncate(limits::FILE_SIZE).await.unwrap();
        assert_eq!(
            writer.append(pattern(1, 1)).await.unwrap_err().errno(),
            errno::EFBIG
        );
        assert_eq!(
            writer.read_at(limits::FILE_SIZE - 3, 10).await.unwrap(),
            Bytes::from_static(&[0; 3])
        );
        writer.close().await.unwrap();
    });
}
