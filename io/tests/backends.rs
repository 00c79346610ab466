//! One suite for both backends: what holds on a real machine holds in a simulated world.
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

use boomfs_io::sim::World;
use boomfs_io::{Io, Open};
use std::future::Future;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const SOON: Duration = Duration::from_secs(10);

/// Runs a test on both backends with an empty directory.
fn both<F: Future<Output = ()>>(test: impl Fn(Io, PathBuf) -> F) {
    let real = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let dir = tempfile::tempdir().unwrap();
    real.block_on(async {
        tokio::time::timeout(SOON, test(Io::real(), dir.path().to_owned()))
            .await
            .expect("in time");
    });

    let world = World::new(7);
    let io = world.node("n1");
    world.run(async {
        io.create_dir_all(Path::new("/data")).await.unwrap();
        test(io.clone(), PathBuf::from("/data")).await;
    });
}

#[test]
fn a_file_reads_back_what_was_written() {
    both(async |io, dir| {
        let p = dir.join("f");
        let file = io.open(&p, Open::create_new()).await.unwrap();
        file.write_at(0, b"hello".to_vec()).await.unwrap();
        file.write_at(8, b"world".to_vec()).await.unwrap();
        assert_eq!(file.len().await.unwrap(), 13);
        assert_eq!(file.read_at(0, 100).await.unwrap(), b"hello\0\0\0world");
        assert_eq!(file.read_at(10, 2).await.unwrap(), b"rl");
        assert_eq!(file.read_at(13, 5).await.unwrap(), b"");
        assert_eq!(file.read_at(1 << 40, usize::MAX).await.unwrap(), b"");
        file.sync_data().await.unwrap();
        drop(file);
        assert_eq!(io.read_file(&p).await.unwrap(), b"hello\0\0\0world");
    });
}

#[test]
fn runs_are_written_in_their_order() {
    both(async |io, dir| {
        let file = io.open(&dir.join("f"), Open::create_new()).await.unwrap();
        let runs = vec![(4, b"behind".to_vec()), (0, b"front".to_vec())];
        file.write_runs(runs).await.unwrap();
        assert_eq!(file.read_at(0, 100).await.unwrap(), b"frontehind");
    });
}

#[test]
fn an_empty_write_changes_nothing() {
    both(async |io, dir| {
        let file = io.open(&dir.join("f"), Open::create_new()).await.unwrap();
        file.write_at(100, Vec::new()).await.unwrap();
        file.allocate(100, 0).await.unwrap();
        assert_eq!(file.len().await.unwrap(), 0);
    });
}

#[test]
fn a_file_is_cut_extended_and_allocated() {
    both(async |io, dir| {
        let file = io.open(&dir.join("f"), Open::write_create()).await.unwrap();
        file.write_at(0, vec![1; 5000]).await.unwrap();
        file.set_len(3).await.unwrap();
        file.set_len(6).await.unwrap();
        assert_eq!(file.read_at(0, 10).await.unwrap(), [1, 1, 1, 0, 0, 0]);
        file.allocate(4, 10_000).await.unwrap();
        assert_eq!(file.len().await.unwrap(), 10_004);
        assert_eq!(file.read_at(2, 3).await.unwrap(), [1, 0, 0]);
        file.allocate(0, 10).await.unwrap();
        assert_eq!(file.len().await.unwrap(), 10_004);
    });
}

#[test]
fn holes_are_passed_over() {
    both(async |io, dir| {
        let file = io.open(&dir.join("f"), Open::create_new()).await.unwrap();
        file.set_len(1 << 24).await.unwrap();
        assert_eq!(file.next_data(5).await.unwrap(), 1 << 24);
        file.write_at(1 << 20, b"here".to_vec()).await.unwrap();
        let found = file.next_data(5).await.unwrap();
        // A filesystem may take more for written than was.
        assert!((5..=1 << 20).contains(&found), "{found}");
        assert_eq!(file.next_data(1 << 20).await.unwrap(), 1 << 20);
        assert_eq!(
            file.next_data((1 << 20) + 2).await.unwrap(),
            (1 << 20) + 2,
            "not before the offset asked for"
        );
        assert!(file.next_data(1 << 25).await.unwrap() >= 1 << 24);
    });
}

/// What is in memory is read without a hand-off; nobody may see a difference.
#[test]
fn many_files_are_written_and_read_at_once_on_several_threads() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(4)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let io = Io::real();
        let mut tasks = tokio::task::JoinSet::new();
        for task in 0..32u8 {
            let (io, path) = (io.clone(), dir.path().join(task.to_string()));
            tasks.spawn(async move {
                let file = io.open(&path, Open::create_new()).await.unwrap();
                let mut expected = Vec::new();
                // Below and above what counts as short.
                for len in [1usize, 4096, 100_000, 300_000] {
                    let bytes = vec![task.wrapping_add(len as u8); len];
                    let at = expected.len() as u64;
                    file.write_at(at, bytes.clone()).await.unwrap();
                    expected.extend(bytes);
                    assert_eq!(file.read_at(at, len + 1).await.unwrap().len(), len);
                }
                file.set_len(400_000).await.unwrap();
                expected.truncate(400_000);
                assert!(file.read_at(0, 1 << 20).await.unwrap() == expected);
                assert!(io.exists(&path).await);
            });
        }
        tokio::time::timeout(SOON, tasks.join_all())
            .await
            .expect("in time");
    });
}

#[test]
fn opening_fails_as_it_should() {
    both(async |io, dir| {
        let p = dir.join("f");
        let kind = async |p: &Path, how| io.open(p, how).await.err().map(|e| e.kind());
        assert_eq!(kind(&p, Open::read()).await, Some(ErrorKind::NotFound));
        assert_eq!(
            kind(&dir.join("no/f"), Open::create_new()).await,
            Some(ErrorKind::NotFound)
        );
        assert_eq!(
            kind(
                &p,
                Open {
                    create: true,
                    ..Open::read()
                }
            )
            .await,
            Some(ErrorKind::InvalidInput)
        );
        assert_eq!(kind(&p, Open::create_new()).await, None);
        assert_eq!(
            kind(&p, Open::create_new()).await,
            Some(ErrorKind::AlreadyExists)
        );
        assert_eq!(
            kind(&p.join("below"), Open::write_create()).await,
            Some(ErrorKind::NotADirectory)
        );
        assert_eq!(
            kind(&dir, Open::write_create()).await,
            Some(ErrorKind::IsADirectory)
        );

        let file = io.open(&p, Open::read()).await.unwrap();
        assert_eq!(
            file.write_at(0, vec![1]).await.unwrap_err().raw_os_error(),
            Some(9)
        );
        let file = io
            .open(
                &p,
                Open {
                    write: true,
                    ..Open::default()
                },
            )
            .await
            .unwrap();
        file.write_at(0, vec![1]).await.unwrap();
        assert_eq!(
            file.read_at(0, 1).await.unwrap_err().raw_os_error(),
            Some(9)
        );
    });
}

#[test]
fn truncate_empties_and_open_handles_see_it() {
    both(async |io, dir| {
        let p = dir.join("f");
        let first = io.open(&p, Open::write_create()).await.unwrap();
        first.write_at(0, b"abc".to_vec()).await.unwrap();
        let second = io
            .open(
                &p,
                Open {
                    truncate: true,
                    ..Open::write_create()
                },
            )
            .await
            .unwrap();
        assert_eq!(first.len().await.unwrap(), 0);
        second.write_at(0, b"z".to_vec()).await.unwrap();
        assert_eq!(first.clone().read_at(0, 9).await.unwrap(), b"z");
    });
}

#[test]
fn directories_list_sorted() {
    both(async |io, dir| {
        io.create_dir_all(&dir.join("d/e/f")).await.unwrap();
        io.create_dir_all(&dir.join("d/e/f")).await.unwrap();
        for name in ["d/b", "d/a", "d/e/deep"] {
            io.open(&dir.join(name), Open::create_new())
                .await
                .unwrap()
                .write_at(0, vec![1, 2])
                .await
                .unwrap();
        }
        let list = async |p: &Path| {
            let items = io.read_dir(p).await.unwrap();
            items
                .into_iter()
                .map(|i| (i.name, i.is_dir, i.len))
                .collect::<Vec<_>>()
        };
        let file = |name: &str| (name.to_owned(), false, 2);
        assert_eq!(
            list(&dir.join("d")).await,
            [file("a"), file("b"), ("e".to_owned(), true, 0)]
        );
        assert_eq!(list(&dir.join("d/e/./f")).await, []);
        assert_eq!(
            io.read_dir(&dir.join("none")).await.unwrap_err().kind(),
            ErrorKind::NotFound
        );
        assert_eq!(
            io.read_dir(&dir.join("d/a")).await.unwrap_err().kind(),
            ErrorKind::NotADirectory
        );
        assert!(io.create_dir_all(&dir.join("d/a/x")).await.is_err());
        assert!(io.exists(&dir.join("d/e")).await);
        assert!(io.exists(&dir.join("d/a")).await);
        assert!(!io.exists(&dir.join("d/x")).await);
    });
}

#[test]
fn renaming_replaces_files_and_moves_directories() {
    both(async |io, dir| {
        let at = |name: &str| dir.join(name);
        io.write_atomic(&at("a"), b"1").await.unwrap();
        io.write_atomic(&at("b"), b"2").await.unwrap();
        let old = io.open(&at("b"), Open::read()).await.unwrap();
        io.rename(&at("a"), &at("b")).await.unwrap();
        assert_eq!(io.read_file(&at("b")).await.unwrap(), b"1");
        assert_eq!(old.read_at(0, 1).await.unwrap(), b"2");
        assert!(!io.exists(&at("a")).await);
        assert_eq!(
            io.rename(&at("a"), &at("b")).await.unwrap_err().kind(),
            ErrorKind::NotFound
        );
        io.rename(&at("b"), &at("b")).await.unwrap();
        assert_eq!(io.read_file(&at("b")).await.unwrap(), b"1");

        io.create_dir_all(&at("d")).await.unwrap();
        io.write_atomic(&at("d/x"), b"3").await.unwrap();
        io.rename(&at("d"), &at("e")).await.unwrap();
        assert_eq!(io.read_file(&at("e/x")).await.unwrap(), b"3");
        assert!(!io.exists(&at("d")).await);
        assert_eq!(
            io.rename(&at("b"), &at("e")).await.unwrap_err().kind(),
            ErrorKind::IsADirectory
        );
    });
}

#[test]
fn a_removed_file_lives_as_long_as_its_handles() {
    both(async |io, dir| {
        let p = dir.join("f");
        let file = io.open(&p, Open::create_new()).await.unwrap();
        io.remove_file(&p).await.unwrap();
        assert!(!io.exists(&p).await);
        file.write_at(0, b"still".to_vec()).await.unwrap();
        assert_eq!(file.read_at(0, 5).await.unwrap(), b"still");
        file.sync_data().await.unwrap();
        assert_eq!(
            io.remove_file(&p).await.unwrap_err().kind(),
            ErrorKind::NotFound
        );
        assert_eq!(
            io.remove_file(&dir).await.unwrap_err().kind(),
            ErrorKind::IsADirectory
        );
    });
}

#[test]
fn atomic_writes_replace_and_leave_nothing_behind() {
    both(async |io, dir| {
        let p = dir.join("identity");
        io.write_atomic(&p, b"a longer text").await.unwrap();
        io.write_atomic(&p, b"short").await.unwrap();
        assert_eq!(io.read_file(&p).await.unwrap(), b"short");
        assert_eq!(io.read_dir(&dir).await.unwrap().len(), 1);
        assert!(io.write_atomic(Path::new("/"), b"").await.is_err());
        assert!(io.write_atomic(&dir.join("no/f"), b"").await.is_err());
        io.sync_dir(&dir).await.unwrap();
        assert_eq!(
            io.sync_dir(&dir.join("no")).await.unwrap_err().kind(),
            ErrorKind::NotFound
        );
    });
}

#[test]
fn a_lock_excludes_until_it_is_dropped() {
    both(async |io, dir| {
        let p = dir.join("lock");
        let held = io.lock(&p).await.unwrap();
        assert_eq!(io.lock(&p).await.unwrap_err().kind(), ErrorKind::WouldBlock);
        drop(held);
        io.lock(&p).await.unwrap();
        assert!(io.exists(&p).await);
    });
}

#[test]
fn space_is_known() {
    both(async |io, dir| {
        let space = io.space(&dir).await.unwrap();
        assert!(space.capacity >= space.free && space.free > 0);
        assert!(io.space(&dir.join("no")).await.is_err());
    });
}

#[test]
fn clocks_go_on_and_numbers_differ() {
    both(async |io, _| {
        let (wall, mono) = (io.now_ns(), io.mono_ns());
        io.sleep(Duration::from_millis(5)).await;
        assert!(io.mono_ns() >= mono + 5_000_000);
        assert!(io.now_ns() > wall);
        assert!(wall > 1_700_000_000_000_000_000);
        assert_ne!(io.random_u64(), io.random_u64());
        let never = io
            .timeout(Duration::from_millis(2), std::future::pending::<()>())
            .await;
        assert_eq!(never.unwrap_err().to_string(), "not done within 2ms");
        assert_eq!(io.timeout(SOON, async { 3 }).await, Ok(3));
    });
}

#[test]
fn streams_carry_bytes_both_ways_and_end() {
    both(async |io, _| {
        let listener = io.listen("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr();
        let server = async {
            let (stream, peer) = listener.accept().await.unwrap();
            assert_eq!(stream.peer_addr(), peer);
            let (mut read, mut write) = stream.into_split();
            let mut got = Vec::new();
            read.read_to_end(&mut got).await.unwrap();
            write.write_all(&got).await.unwrap();
            write.flush().await.unwrap();
            got.len()
        };
        let client = async {
            let mut stream = io.connect(&addr, SOON).await.unwrap();
            assert_eq!(stream.peer_addr(), addr);
            for i in 0..=255 {
                stream.write_all(&[i; 10]).await.unwrap();
            }
            stream.shutdown().await.unwrap();
            assert!(stream.write_all(b"more").await.is_err());
            let mut got = Vec::new();
            stream.read_to_end(&mut got).await.unwrap();
            got
        };
        let (n, got) = tokio::join!(server, client);
        assert_eq!(n, 2560);
        assert!(
            got.chunks(10)
                .zip(0..=255)
                .all(|(chunk, i)| chunk == [i; 10])
        );
    });
}

#[test]
fn a_writer_waits_for_a_slow_reader() {
    both(async |io, _| {
        let listener = io.listen("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr();
        let (accepted, connected) = tokio::join!(listener.accept(), io.connect(&addr, SOON));
        let (mut reader, mut writer) = (accepted.unwrap().0, connected.unwrap());
        // More than any buffer on the way: nobody reads, so it cannot be done.
        let much = vec![9; 64 << 20];
        let stuck = io
            .timeout(Duration::from_millis(100), writer.write_all(&much))
            .await;
        assert!(stuck.is_err());
        drop(writer);
        let mut n = 0;
        let mut buf = vec![0; 1 << 16];
        loop {
            match reader.read(&mut buf).await.unwrap() {
                0 => break,
                got => n += got,
            }
        }
        assert!(n > 0 && n < much.len());
    });
}

#[test]
fn dropping_one_side_ends_the_other() {
    both(async |io, _| {
        let listener = io.listen("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr();
        let (accepted, connected) = tokio::join!(listener.accept(), io.connect(&addr, SOON));
        drop(accepted.unwrap());
        let mut stream = connected.unwrap();
        assert_eq!(stream.read(&mut [0; 8]).await.unwrap(), 0);
        let failed = async {
            loop {
                if let Err(e) = stream.write_all(b"into the void").await {
                    return e.kind();
                }
                tokio::task::yield_now().await;
            }
        };
        let kind = io.timeout(SOON, failed).await.unwrap();
        assert!(
            matches!(kind, ErrorKind::BrokenPipe | ErrorKind::ConnectionReset),
            "{kind:?}"
        );
    });
}

#[test]
fn nobody_listens() {
    both(async |io, _| {
        let listener = io.listen("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr();
        assert_eq!(
            io.listen(&addr).await.unwrap_err().kind(),
            ErrorKind::AddrInUse
        );
        drop(listener);
        let err = io.connect(&addr, SOON).await.unwrap_err();
        assert_eq!(err.kind(), ErrorKind::ConnectionRefused);
        assert!(err.to_string().contains(&addr), "{err}");
        io.listen(&addr).await.unwrap();
        assert!(io.connect("no port", SOON).await.is_err());
    });
}

/// Nothing gets lost on a loopback, so the other side does not read: its system takes nothing then either.
#[test]
fn a_connection_that_is_stuck_ends() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let io = Io::real();
        let listener = io.listen("127.0.0.1:0").await.unwrap();
        let stream = io.connect(&listener.local_addr(), SOON).await.unwrap();
        let _silent = listener.accept().await.unwrap();
        stream.end_when_stuck(Duration::from_millis(200)).unwrap();
        let (_reader, mut writer) = stream.into_split();
        let piece = vec![0; 1 << 20];
        let writing = async {
            loop {
                if let Err(e) = writer.write_all(&piece).await {
                    break e;
                }
            }
        };
        let end = tokio::time::timeout(SOON, writing).await.expect("an end");
        assert_eq!(end.kind(), ErrorKind::TimedOut, "{end}");
    });
}

#[test]
fn everything_can_be_spawned() {
    fn spawnable<T: Send>(_: T) {}
    let io = Io::real();
    let p = Path::new("f");
    spawnable(io.clone());
    spawnable(io.sleep(SOON));
    spawnable(io.timeout(SOON, async {}));
    spawnable(io.listen(""));
    spawnable(io.connect("", SOON));
    spawnable(io.open(p, Open::read()));
    spawnable(io.create_dir_all(p));
    spawnable(io.read_dir(p));
    spawnable(io.rename(p, p));
    spawnable(io.remove_file(p));
    spawnable(io.sync_dir(p));
    spawnable(io.exists(p));
    spawnable(io.read_file(p));
    spawnable(io.write_atomic(p, b""));
    spawnable(io.lock(p));
    spawnable(io.space(p));
    both(async |io, dir| {
        let file = io.open(&dir.join("f"), Open::write_create()).await.unwrap();
        spawnable(file.read_at(0, 1));
        spawnable(file.write_at(0, Vec::new()));
        spawnable(file.sync_data());
        spawnable(file.len());
        spawnable(file.set_len(0));
        spawnable(file.allocate(0, 1));
        let listener = io.listen("127.0.0.1:0").await.unwrap();
        spawnable(listener.accept());
    });
}
