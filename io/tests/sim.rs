//! What only a simulated world can do: virtual time, crashes, partitions, the same run twice.
#![allow(
    clippy::disallowed_methods,
    reason = "tests look at real files and clocks beside the simulator"
)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)] // A test may fail.

use boomfs_io::sim::{Unsynced, World};
use boomfs_io::{Io, Open, Stream};
use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const SOON: Duration = Duration::from_secs(10);

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// Answers every connection with what it gets.
async fn echo(io: Io, addr: &'static str) {
    let listener = io.listen(addr).await.unwrap();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        tokio::spawn(async move {
            let (mut read, mut write) = stream.into_split();
            let mut buf = [0; 100];
            while let Ok(n @ 1..) = read.read(&mut buf).await {
                if write.write_all(&buf[..n]).await.is_err() {
                    break;
                }
            }
        });
    }
}

async fn ask(stream: &mut Stream, text: &[u8]) -> std::io::Result<Vec<u8>> {
    stream.write_all(text).await?;
    let mut got = vec![0; text.len()];
    stream.read_exact(&mut got).await?;
    Ok(got)
}

/// A bit of everything, on three nodes.
fn busy(seed: u64) -> String {
    let world = World::new(seed);
    world.run(async {
        for name in ["s1", "s2"] {
            tokio::spawn(echo(
                world.node(name),
                if name == "s1" { "s1:1" } else { "s2:1" },
            ));
        }
        world.node("c").sleep(ms(10)).await;
        let mut tasks = Vec::new();
        for i in 0..8u64 {
            let io = world.node("c");
            tasks.push(tokio::spawn(async move {
                let addr = if i % 2 == 0 { "s1:1" } else { "s2:1" };
                let mut stream = io.connect(addr, SOON).await.unwrap();
                let path = format!("f{i}");
                let file = io.open(Path::new(&path), Open::create_new()).await.unwrap();
                for round in 0..20 {
                    let text = io.random_u64().to_le_bytes();
                    assert_eq!(ask(&mut stream, &text).await.unwrap(), text);
                    file.write_at(round * 8, text.to_vec()).await.unwrap();
                    file.sync_data().await.unwrap();
                }
            }));
        }
        for task in tasks {
            task.await.unwrap();
        }
        world.crash("s1");
        world.crash("c");
        let names = world.node("c").read_dir(Path::new("")).await.unwrap();
        world.note(&format!("{names:?}"));
    });
    world.trace()
}

#[test]
fn one_seed_is_one_run() {
    let (first, second, other) = (busy(42), busy(42), busy(43));
    assert_eq!(first, second);
    assert_ne!(first, other);
    assert!(first.lines().count() > 500);
    for what in ["connect", "accept", "send", "write", "sync", "crash"] {
        assert!(first.contains(what), "no {what} in the trace");
    }
}

#[test]
fn time_is_virtual() {
    let world = World::new(1);
    let io = world.node("a");
    let (before, after) = world.run(async {
        let before = io.mono_ns();
        io.sleep(Duration::from_secs(1800)).await;
        (before, io.mono_ns())
    });
    assert_eq!(after - before, 1_800_000_000_000);
    assert_eq!(world.elapsed(), Duration::from_secs(1800));
    // Goes on in the next run; other clocks may differ.
    world.set_clock_offset_ns("b", -5);
    world.run(async {
        assert_eq!(io.mono_ns(), after);
        assert_eq!(world.node("b").now_ns(), io.now_ns() - 5);
    });
}

#[test]
#[should_panic(expected = "seed 9 is not done after 3600s")]
fn a_run_that_hangs_is_ended() {
    World::new(9).run(std::future::pending::<()>());
}

#[test]
fn a_crash_breaks_streams_and_frees_the_address() {
    let world = World::new(2);
    world.run(async {
        tokio::spawn(echo(world.node("s"), "s:1"));
        let io = world.node("c");
        io.sleep(ms(1)).await;
        let mut stream = io.connect("s:1", SOON).await.unwrap();
        assert_eq!(ask(&mut stream, b"hi").await.unwrap(), b"hi");
        world.crash("s");
        assert_eq!(
            ask(&mut stream, b"hi").await.unwrap_err().kind(),
            ErrorKind::ConnectionReset
        );
        let refused = io.connect("s:1", SOON).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
        assert_eq!(
            refused.to_string(),
            "cannot connect to s:1: nobody listens there"
        );
        tokio::spawn(echo(world.node("s"), "s:1"));
        io.sleep(ms(1)).await;
        let mut stream = io.connect("s:1", SOON).await.unwrap();
        assert_eq!(ask(&mut stream, b"again").await.unwrap(), b"again");
    });
}

#[test]
fn a_connection_that_waits_for_accept_breaks_too() {
    let world = World::new(2);
    world.run(async {
        let listener = world.node("s").listen("s:1").await.unwrap();
        let mut stream = world.node("c").connect("s:1", SOON).await.unwrap();
        world.crash("s");
        assert_eq!(
            stream.read(&mut [0]).await.unwrap_err().kind(),
            ErrorKind::ConnectionReset
        );
        drop(listener);
        // A listener that is dropped in peace only closes.
        let listener = world.node("s").listen("s:1").await.unwrap();
        let mut stream = world.node("c").connect("s:1", SOON).await.unwrap();
        drop(listener);
        assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
    });
}

#[test]
fn a_dead_life_does_nothing_any_more() {
    let world = World::new(3);
    world.run(async {
        let old = world.node("n");
        let file = old.open(Path::new("f"), Open::create_new()).await.unwrap();
        let lock = old.lock(Path::new("lock")).await.unwrap();
        let listener = old.listen("n:5").await.unwrap();
        world.crash_with("n", Unsynced::Kept);
        let new = world.node("n");
        for stuck in [
            new.timeout(SOON, old.sleep(ms(1))).await,
            new.timeout(SOON, async { drop(file.write_at(0, vec![1]).await) })
                .await,
            new.timeout(SOON, async {
                drop(old.open(Path::new("f"), Open::read()).await)
            })
            .await,
            new.timeout(SOON, async { drop(listener.accept().await) })
                .await,
            new.timeout(SOON, async {
                let _ = old.timeout(ms(1), std::future::pending::<()>()).await;
            })
            .await,
        ] {
            assert!(stuck.is_err());
        }
        let _held = new.lock(Path::new("lock")).await.unwrap();
        let _listening = new.listen("n:5").await.unwrap();
        // What the dead one drops is not the new one's.
        drop((lock, listener, file));
        assert_eq!(
            new.lock(Path::new("lock")).await.unwrap_err().kind(),
            ErrorKind::WouldBlock
        );
        assert_eq!(
            new.listen("n:5").await.unwrap_err().kind(),
            ErrorKind::AddrInUse
        );
        assert_eq!(new.read_file(Path::new("f")).await.unwrap(), b"");
    });
}

#[test]
fn an_atomic_write_survives_and_a_plain_one_may_not() {
    let world = World::new(4);
    let (safe, plain) = (Path::new("/d/safe"), Path::new("/d/plain"));
    world.run(async {
        let io = world.node("n");
        io.create_dir_all(Path::new("/d")).await.unwrap();
        io.write_atomic(safe, b"old").await.unwrap();
        io.write_atomic(safe, b"new").await.unwrap();
        let file = io.open(plain, Open::create_new()).await.unwrap();
        file.write_at(0, b"x".to_vec()).await.unwrap();
        file.sync_data().await.unwrap();
        world.crash_with("n", Unsynced::Lost);
    });
    // Disks outlive a run.
    world.run(async {
        let io = world.node("n");
        assert_eq!(io.read_file(safe).await.unwrap(), b"new");
        assert!(!io.exists(plain).await);
    });
}

#[test]
fn an_atomic_write_that_is_cut_short_leaves_old_or_new() {
    let mut seen = std::collections::BTreeSet::new();
    for seed in 0..200 {
        let world = World::new(seed);
        let p = Path::new("/d/f");
        world.run(async {
            let io = world.node("n");
            io.create_dir_all(Path::new("/d")).await.unwrap();
            io.write_atomic(p, b"old").await.unwrap();
            let cut = ms(seed % 7);
            let _ = tokio::time::timeout(cut, io.write_atomic(p, b"newer")).await;
            world.crash("n");
            seen.insert(world.node("n").read_file(p).await.unwrap());
        });
    }
    assert_eq!(
        seen.into_iter().collect::<Vec<_>>(),
        [b"newer".to_vec(), b"old".to_vec()]
    );
}

#[test]
fn a_failed_sync_is_told_once_and_its_bytes_are_gone() {
    let world = World::new(5);
    world.run(async {
        let io = world.node("n");
        let p = Path::new("f");
        io.write_atomic(p, b"aaaa").await.unwrap();
        let file = io.open(p, Open::write_create()).await.unwrap();
        file.write_at(0, b"bbbb".to_vec()).await.unwrap();
        world.fail_next_sync("n");
        assert_eq!(file.sync_data().await.unwrap_err().raw_os_error(), Some(5));
        file.sync_data().await.unwrap();
        world.crash_with("n", Unsynced::Lost);
        assert_eq!(world.node("n").read_file(p).await.unwrap(), b"aaaa");
    });
}

#[test]
fn a_full_disk_fails_writes_and_keeps_the_rest() {
    let world = World::new(6);
    world.run(async {
        let io = world.node("n");
        world.set_capacity("n", 8192);
        io.write_atomic(Path::new("a"), &[1; 4096]).await.unwrap();
        let full = io
            .write_atomic(Path::new("b"), &[2; 8192])
            .await
            .unwrap_err();
        assert_eq!(full.raw_os_error(), Some(28));
        assert_eq!(io.space(Path::new("")).await.unwrap().free, 4096);
        assert_eq!(io.read_file(Path::new("a")).await.unwrap(), [1; 4096]);
        assert!(!io.exists(Path::new("b")).await && !io.exists(Path::new("b.tmp")).await);
        // Another node's disk is another's.
        assert!(world.node("m").space(Path::new("")).await.unwrap().free > 1 << 30);
    });
}

#[test]
fn a_partition_holds_bytes_back_until_it_heals() {
    let world = World::new(8);
    world.run(async {
        tokio::spawn(echo(world.node("s"), "s:1"));
        let io = world.node("c");
        io.sleep(ms(1)).await;
        let mut stream = io.connect("s:1", SOON).await.unwrap();
        world.partition("s", "c", true);
        stream.write_all(b"later").await.unwrap();
        let mut got = [0; 5];
        assert!(io.timeout(SOON, stream.read_exact(&mut got)).await.is_err());
        let lost = io.connect("s:1", ms(500)).await.unwrap_err();
        assert_eq!(lost.kind(), ErrorKind::TimedOut);
        assert_eq!(
            lost.to_string(),
            "cannot connect to s:1: not done within 500ms"
        );
        // Others are not concerned.
        world.node("d").connect("s:1", SOON).await.unwrap();

        let heal = async {
            io.sleep(ms(100)).await;
            world.partition("c", "s", false);
        };
        let (healed, read, connected) =
            tokio::join!(heal, stream.read_exact(&mut got), io.connect("s:1", SOON));
        let ((), _, _) = (healed, read.unwrap(), connected.unwrap());
        assert_eq!(&got, b"later");
    });
}

#[test]
fn a_crash_behind_a_partition_shows_when_it_heals() {
    let world = World::new(8);
    world.run(async {
        tokio::spawn(echo(world.node("s"), "s:1"));
        let io = world.node("c");
        io.sleep(ms(1)).await;
        let mut stream = io.connect("s:1", SOON).await.unwrap();
        world.partition("s", "c", true);
        world.crash("s");
        assert!(io.timeout(SOON, stream.read_u8()).await.is_err());
        world.partition("s", "c", false);
        assert_eq!(
            stream.read_u8().await.unwrap_err().kind(),
            ErrorKind::ConnectionReset
        );
    });
}

#[test]
fn latency_is_as_set_and_bytes_stay_in_order() {
    let world = World::new(10);
    world.set_latency_ms(5, 50);
    world.run(async {
        let listener = world.node("s").listen("s:1").await.unwrap();
        let io = world.node("c");
        let (accepted, connected) = tokio::join!(listener.accept(), io.connect("s:1", SOON));
        let (mut reader, mut writer) = (accepted.unwrap().0, connected.unwrap());
        let sent = io.mono_ns();
        for i in 0..100 {
            writer.write_all(&[i]).await.unwrap();
        }
        assert_eq!(io.mono_ns(), sent);
        let mut got = [0; 100];
        reader.read_exact(&mut got[..1]).await.unwrap();
        let waited = io.mono_ns() - sent;
        assert!((5_000_000..=50_000_000).contains(&waited), "{waited}");
        reader.read_exact(&mut got[1..]).await.unwrap();
        assert!(io.mono_ns() - sent <= 50_000_000);
        assert!(got.iter().enumerate().all(|(i, b)| i == usize::from(*b)));
    });
}

#[test]
fn rot_changes_one_byte() {
    let world = World::new(11);
    world.run(async {
        let io = world.node("n");
        io.write_atomic(Path::new("f"), b"abc").await.unwrap();
        world.corrupt("n", Path::new("./f"), 1, 0x20).unwrap();
        assert_eq!(io.read_file(Path::new("f")).await.unwrap(), b"aBc");
        assert!(world.corrupt("n", Path::new("g"), 0, 1).is_err());
    });
}

#[test]
fn an_address_belongs_to_its_node() {
    let world = World::new(12);
    world.run(async {
        let io = world.node("n");
        assert_eq!(
            io.listen("m:1").await.unwrap_err().kind(),
            ErrorKind::AddrNotAvailable
        );
        let own = io.listen("localhost:0").await.unwrap();
        let other = io.listen("n:0").await.unwrap();
        assert_ne!(own.local_addr(), other.local_addr());
        assert!(own.local_addr().starts_with("n:"));
        let port = own.local_addr().split_off(2);
        let own_addr = format!("127.0.0.1:{port}");
        let (accepted, connected) = tokio::join!(own.accept(), io.connect(&own_addr, SOON));
        assert_eq!(accepted.unwrap().0.peer_addr().split(':').next(), Some("n"));
        assert_eq!(connected.unwrap().peer_addr(), own.local_addr());
        // On another node it means another place.
        let lost = world.node("m").connect(&own_addr, SOON).await;
        assert_eq!(lost.unwrap_err().kind(), ErrorKind::ConnectionRefused);
    });
}

#[test]
fn a_way_that_is_cut_holds_what_goes_that_way() {
    let world = World::new(30);
    world.run(async {
        tokio::spawn(echo(world.node("s"), "s:1"));
        let io = world.node("c");
        io.sleep(ms(10)).await;
        let mut stream = io.connect("s:1", SOON).await.unwrap();
        assert_eq!(ask(&mut stream, b"one").await.unwrap(), b"one");
        world.cut("s", "c", true);
        // The question gets through, and the answer does not.
        stream.write_all(b"two").await.unwrap();
        io.sleep(ms(500)).await;
        let mut got = [0; 3];
        let answer = io.timeout(ms(500), stream.read_exact(&mut got)).await;
        assert!(answer.is_err(), "{answer:?}");
        assert!(world.trace().contains("s receive"));
        let connected = io.connect("s:1", ms(500)).await;
        assert_eq!(connected.unwrap_err().kind(), ErrorKind::TimedOut);
        world.cut("s", "c", false);
        stream.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"two");
    });
}

#[test]
fn connections_that_are_lost_break_on_both_sides() {
    let world = World::new(31);
    world.run(async {
        tokio::spawn(echo(world.node("s"), "s:1"));
        let io = world.node("c");
        io.sleep(ms(10)).await;
        let mut stream = io.connect("s:1", SOON).await.unwrap();
        assert_eq!(ask(&mut stream, b"one").await.unwrap(), b"one");
        world.reset("s", "c");
        let why = ask(&mut stream, b"two").await.unwrap_err();
        assert_eq!(why.kind(), ErrorKind::ConnectionReset);
        let mut again = io.connect("s:1", SOON).await.unwrap();
        assert_eq!(ask(&mut again, b"three").await.unwrap(), b"three");
    });
}

#[test]
fn a_paused_node_does_nothing_until_it_goes_on() {
    let world = World::new(32);
    world.run(async {
        tokio::spawn(echo(world.node("s"), "s:1"));
        let io = world.node("c");
        io.sleep(ms(10)).await;
        let mut stream = io.connect("s:1", SOON).await.unwrap();
        world.pause("s", true);
        let before = io.mono_ns();
        let asked = io.timeout(ms(700), ask(&mut stream, b"one")).await;
        assert!(asked.is_err(), "{asked:?}");
        let slept = world.node("s");
        let sleeping = tokio::spawn(async move {
            slept.sleep(ms(50)).await;
            slept.mono_ns()
        });
        io.sleep(ms(300)).await;
        world.pause("s", false);
        let woke = sleeping.await.unwrap();
        assert_eq!(woke - before, 1_000_000_000);
        let mut got = [0; 3];
        stream.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"one");
        // What was paused can still crash.
        world.pause("s", true);
        world.crash("s");
        assert!(ask(&mut stream, b"two").await.is_err());
    });
}

#[test]
fn a_clock_that_drifts_is_fast_in_all_that_it_measures() {
    let world = World::new(33);
    world.run(async {
        let (fast, fair) = (world.node("fast"), world.node("fair"));
        fair.sleep(ms(100)).await;
        world.set_clock_drift_ppm("fast", 100_000);
        let (a, b) = (fast.mono_ns(), fair.mono_ns());
        assert_eq!(a, b, "it goes on from where it was");
        fair.sleep(ms(1_000)).await;
        assert_eq!(fast.mono_ns() - a, 1_100_000_000);
        assert_eq!(fast.now_ns() - fair.now_ns(), 100_000_000);
        let b = fair.mono_ns();
        fast.sleep(ms(1_100)).await;
        assert_eq!(fair.mono_ns() - b, 1_000_000_000);
        let waited = fast.timeout(ms(2_200), std::future::pending::<()>()).await;
        assert!(waited.is_err());
        assert_eq!(fair.mono_ns() - b, 3_000_000_000);
    });
}
