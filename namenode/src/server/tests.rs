//! The shell with toy rules: a raw client on loopback and in the simulator.

use super::*;
use boomfs_io::sim::{Unsynced, World};
use boomfs_io::{Io, Stream};
use boomfs_wire::*;
use overlog::{CompileOptions, Sources, compile};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::io::AsyncWriteExt;

fn toy() -> Rulebook {
    let text = include_str!("toy.olg");
    let mut sources = Sources::new();
    sources.add("toy.olg", text);
    let (program, _) = compile("toy.olg", &sources, &[], CompileOptions::default())
        .unwrap_or_else(|e| panic!("{e}"));
    Rulebook::new(program, text)
}

fn config(data: &Path, listen: &str) -> Config {
    Config {
        segment_bytes: 64 << 10,
        ..Config::new(data, listen)
    }
}

async fn start(world: &World) -> Server {
    let io = world.node("nn");
    Server::start_local_with(io, config(Path::new("/nn"), "nn:9000"), toy())
        .await
        .unwrap()
}

const SOON: Duration = Duration::from_secs(20);

/// A peer that speaks frames and nothing else.
struct Raw {
    io: Io,
    stream: Stream,
    session: u64,
}

impl Raw {
    async fn connect(io: &Io, addr: &str) -> Raw {
        let stream = io.connect(addr, SOON).await.unwrap();
        Raw {
            io: io.clone(),
            stream,
            session: 0,
        }
    }

    async fn send(&mut self, message: ToNameNode) {
        self.try_send(message).await.unwrap();
    }

    async fn try_send(&mut self, message: ToNameNode) -> Result<(), FrameError> {
        self.io
            .timeout(SOON, write_message(&mut self.stream, &message, &[]))
            .await
            .unwrap()
    }

    async fn receive(&mut self) -> Option<FromNameNode> {
        let read = self
            .io
            .timeout(SOON, read_message::<FromNameNode, _>(&mut self.stream))
            .await
            .unwrap();
        read.ok().flatten().map(|(message, _)| message)
    }

    async fn hello(&mut self, peer: Peer) -> Option<FromNameNode> {
        self.send(ToNameNode::Hello {
            cluster: None,
            peer,
        })
        .await;
        self.receive().await
    }

    async fn client(io: &Io, addr: &str, session: Option<u64>) -> Raw {
        let mut raw = Raw::connect(io, addr).await;
        let session = session.map(SessionId);
        let answer = raw
            .hello(Peer::Client {
                session,
                nonce: 6,
                name: "test".to_owned(),
            })
            .await;
        let Some(FromNameNode::Welcome { session, .. }) = answer else {
            panic!("{answer:?}")
        };
        raw.session = session.0;
        raw
    }

    async fn observer(io: &Io, addr: &str) -> Raw {
        let mut raw = Raw::connect(io, addr).await;
        let answer = raw.hello(Peer::Observer).await;
        assert!(
            matches!(answer, Some(FromNameNode::Welcome { .. })),
            "{answer:?}"
        );
        raw
    }

    async fn command(&mut self, seq: u64, op: Op) {
        self.send(ToNameNode::Command {
            seq,
            ack: seq - 1,
            caller: Caller::default(),
            op,
        })
        .await;
    }

    async fn call(&mut self, seq: u64, op: Op) -> Result<Answer, Failure> {
        self.command(seq, op).await;
        let answer = self.receive().await;
        let Some(FromNameNode::Answered { seq: got, result }) = answer else {
            panic!("{answer:?}")
        };
        assert_eq!(got, seq);
        result
    }

    async fn create(&mut self, seq: u64, name: &str) -> Result<Answer, Failure> {
        self.call(seq, create(name)).await
    }

    async fn read(&mut self, req: u64, op: ReadOp) -> Result<Answer, Failure> {
        self.send(ToNameNode::Read {
            req,
            caller: Caller::default(),
            op,
        })
        .await;
        let answer = self.receive().await;
        let Some(FromNameNode::ReadAnswered { req: got, result }) = answer else {
            panic!("{answer:?}")
        };
        assert_eq!(got, req);
        result
    }

    async fn exists(&mut self, name: &str) -> bool {
        match self
            .read(
                1,
                ReadOp::Lookup {
                    at: at(name),
                    follow: false,
                },
            )
            .await
        {
            Ok(Answer::Attr(_)) => true,
            Err(Failure { errno: 2, .. }) => false,
            other => panic!("{other:?}"),
        }
    }
}

fn at(name: &str) -> At {
    At {
        base: Ino::ROOT,
        path: vec![name.as_bytes().to_vec()],
    }
}

fn create(name: &str) -> Op {
    Op::Create {
        at: at(name),
        kind: Kind::File,
        mode: 0o644,
        rdev: 0,
        exclusive: true,
        lease: false,
        block_size: 0,
        replication: 0,
        ino: Ino(0),
    }
}

#[test]
fn commands_and_questions_are_answered_on_a_real_network() {
    let folder = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let io = Io::real();
        let make = || Server::start_with(io.clone(), config(folder.path(), "127.0.0.1:0"), toy());
        let server = make().await.unwrap();
        let mut raw = Raw::client(&io, server.addr(), None).await;
        let Ok(Answer::Attr(attr)) = raw.create(1, "a").await else {
            panic!()
        };
        assert!(attr.ino.0 > 0);
        assert_eq!(
            raw.create(2, "a").await,
            Err(Failure {
                errno: 17,
                message: "a exists".to_owned()
            })
        );
        assert!(raw.exists("a").await);
        assert!(!raw.exists("b").await);
        let Ok(Answer::Status(status)) = raw.read(7, ReadOp::Status).await else {
            panic!()
        };
        assert_eq!(
            (
                status.sessions,
                status.space.inodes,
                status.space.replication
            ),
            (1, 1, 3)
        );
        assert!(status.applied_slot >= 3);
        let cluster = server.cluster();
        server.shutdown().await.unwrap();
        assert_eq!(raw.receive().await, None);

        let server = make().await.unwrap();
        assert_eq!(server.cluster(), cluster);
        assert_eq!(
            server.metrics().runs.load(Ordering::Relaxed),
            3,
            "a checkpoint needs no replay"
        );
        let mut again = Raw::client(&io, server.addr(), Some(raw.session)).await;
        assert!(again.exists("a").await);
        let e = make().await.unwrap_err();
        assert!(
            e.to_string().contains("is in use by another NameNode"),
            "{e}"
        );
        server.abort().await.unwrap();
    });
}

#[test]
fn an_address_in_use_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let io = Io::real();
        let taken = io.listen("127.0.0.1:0").await.unwrap();
        let data = folder.path().join("nn");
        let e = Server::start_with(io.clone(), config(&data, &taken.local_addr()), toy())
            .await
            .unwrap_err();
        assert!(
            e.to_string()
                .starts_with("NameNode: cannot listen on 127.0.0.1:"),
            "{e}"
        );
        assert!(!data.exists());
    });
}

#[test]
fn a_client_that_sends_many_commands_at_once_gets_all_answers_in_order() {
    let world = World::new(1);
    world.run(async {
        let server = start(&world).await;
        let io = world.node("client");
        let mut raw = Raw::client(&io, server.addr(), None).await;
        for seq in 1..=1000 {
            raw.command(seq, create(&format!("f{seq}"))).await;
        }
        for seq in 1..=1000 {
            let answer = raw.receive().await;
            assert!(matches!(answer, Some(FromNameNode::Answered { seq: got, result: Ok(_) }) if got == seq), "{answer:?}");
        }
        let slots = server.metrics().log_slot.load(Ordering::Relaxed);
        assert!(slots < 500, "commands are decided in batches: {slots} slots");
    });
}

#[test]
fn what_was_acknowledged_survives_crashes() {
    for seed in 0..20 {
        let world = World::new(seed);
        world.run(async {
            let mut done: Vec<String> = Vec::new();
            for life in 0..4 {
                let server = start(&world).await;
                let io = world.node("client");
                let mut raw = Raw::client(&io, server.addr(), None).await;
                for name in &done {
                    assert!(
                        raw.exists(name).await,
                        "seed {seed}, life {life}: {name} is lost"
                    );
                }
                let work = async {
                    for seq in 1..200 {
                        let name = format!("l{life}n{seq}");
                        raw.create(seq, &name).await.unwrap();
                        done.push(name);
                    }
                };
                let cut = Duration::from_millis(20 + 37 * (seed % 7) + 50 * life);
                let _ = tokio::time::timeout(cut, work).await;
                world.crash_with(
                    "nn",
                    if seed % 2 == 0 {
                        Unsynced::Lost
                    } else {
                        Unsynced::Random
                    },
                );
                drop(server);
            }
            assert!(done.len() > 10, "{}", done.len());
        });
    }
}

#[test]
fn two_runs_with_one_seed_are_equal() {
    let trace = || {
        let world = World::new(42);
        world.run(async {
            let server = start(&world).await;
            let io = world.node("client");
            let mut raw = Raw::client(&io, server.addr(), None).await;
            for seq in 1..=20 {
                raw.create(seq, &format!("f{seq}")).await.unwrap();
            }
            server.shutdown().await.unwrap();
        });
        world.trace()
    };
    let first = trace();
    assert!(first.lines().count() > 100);
    assert_eq!(first, trace());
}

#[test]
fn checkpoints_are_made_on_the_way_and_the_log_stays_short() {
    let world = World::new(3);
    world.run(async {
        let io = world.node("nn");
        let short = Config {
            checkpoint_slots: 20,
            segment_bytes: 8 << 10,
            ..config(Path::new("/nn"), "nn:9000")
        };
        let server = Server::start_local_with(io.clone(), short.clone(), toy())
            .await
            .unwrap();
        let client = world.node("client");
        let mut raw = Raw::client(&client, server.addr(), None).await;
        for seq in 1..=300 {
            raw.create(seq, &format!("f{seq}")).await.unwrap();
        }
        assert!(server.metrics().checkpoints.load(Ordering::Relaxed) > 10);
        assert!(io.read_dir(Path::new("/nn/log")).await.unwrap().len() < 10);
        assert_eq!(
            io.read_dir(Path::new("/nn/checkpoints"))
                .await
                .unwrap()
                .iter()
                .filter(|f| f.name.ends_with("ckpt"))
                .count(),
            2
        );
        world.crash("nn");
        drop(server);
        let server = Server::start_local_with(world.node("nn"), short, toy())
            .await
            .unwrap();
        assert!(server.metrics().runs.load(Ordering::Relaxed) < 60);
        let mut raw = Raw::client(&client, server.addr(), Some(raw.session)).await;
        for seq in 1..=300 {
            assert!(raw.exists(&format!("f{seq}")).await);
        }
        // A retry is answered as it was the first time.
        assert!(raw.create(300, "f300").await.is_ok());
    });
}

#[test]
fn strangers_are_refused_and_malformed_frames_close_their_connection() {
    let world = World::new(4);
    world.run(async {
        let server = start(&world).await;
        let io = world.node("client");
        let malformed = || server.metrics().malformed_frames.load(Ordering::Relaxed);

        let mut raw = Raw::connect(&io, server.addr()).await;
        raw.stream
            .write_all(b"GET / HTTP/1.1\r\n\r\nand so on and on")
            .await
            .unwrap();
        assert_eq!(raw.receive().await, None);
        assert_eq!(malformed(), 1);

        let mut raw = Raw::connect(&io, server.addr()).await;
        raw.send(ToNameNode::Heartbeat {
            capacity: 1,
            free: 1,
        })
        .await;
        assert_eq!(raw.receive().await, None);
        assert_eq!(malformed(), 2);

        let mut raw = Raw::connect(&io, server.addr()).await;
        raw.send(ToNameNode::Hello {
            cluster: Some(ClusterId(1)),
            peer: Peer::Observer,
        })
        .await;
        let Some(FromNameNode::Refused { failure }) = raw.receive().await else {
            panic!()
        };
        assert!(
            failure.message.starts_with("this NameNode serves cluster "),
            "{failure}"
        );
        assert_eq!(raw.receive().await, None);

        let mut raw = Raw::connect(&io, server.addr()).await;
        let peer = Peer::Client {
            session: Some(SessionId(12345)),
            nonce: 1,
            name: String::new(),
        };
        let Some(FromNameNode::Refused { failure }) = raw.hello(peer).await else {
            panic!()
        };
        assert_eq!(
            failure,
            Failure {
                errno: 116,
                message: "no such session".to_owned()
            }
        );
        assert_eq!(raw.receive().await, None);

        let mut raw = Raw::observer(&io, server.addr()).await;
        let before = malformed();
        raw.command(1, create("a")).await;
        assert_eq!(raw.receive().await, None);
        assert_eq!(malformed(), before + 1);

        // Who says nothing is cut off after five seconds.
        let mut raw = Raw::connect(&io, server.addr()).await;
        let from = world.elapsed();
        assert_eq!(raw.receive().await, None);
        assert!(world.elapsed() - from < Duration::from_secs(6));

        let mut raw = Raw::client(&io, server.addr(), None).await;
        assert!(raw.create(1, "a").await.is_ok());
        let open = server.metrics().connections_open.load(Ordering::Relaxed);
        assert_eq!(open, 1);
    });
}

#[test]
fn one_connection_too_many_is_told_so() {
    let world = World::new(5);
    world.run(async {
        let few = Config {
            max_connections: 2,
            ..config(Path::new("/nn"), "nn:9000")
        };
        let server = Server::start_local_with(world.node("nn"), few, toy())
            .await
            .unwrap();
        let io = world.node("client");
        let _one = Raw::observer(&io, server.addr()).await;
        let two = Raw::observer(&io, server.addr()).await;
        let mut three = Raw::connect(&io, server.addr()).await;
        let Some(FromNameNode::Refused { failure }) = three.receive().await else {
            panic!()
        };
        assert_eq!(failure.errno, 24);
        drop(two);
        while server.metrics().connections_open.load(Ordering::Relaxed) > 1 {
            io.sleep(Duration::from_millis(1)).await;
        }
        Raw::observer(&io, server.addr()).await;
    });
}

#[test]
fn commands_that_make_no_sense_are_answered_and_the_session_goes_on() {
    let world = World::new(6);
    world.run(async {
        let server = start(&world).await;
        let io = world.node("client");
        let mut raw = Raw::client(&io, server.addr(), None).await;
        assert_eq!(raw.create(1, "a/b").await.unwrap_err().errno, 22);
        assert_eq!(
            raw.call(2, Op::RemoveTree { at: at("a") })
                .await
                .unwrap_err()
                .errno,
            95
        );
        let failure = raw.call(3, Op::Rmdir { at: at("a") }).await.unwrap_err();
        assert_eq!(failure.errno, 5);
        assert!(failure.message.contains("nonsense"), "{failure}");
        assert!(raw.create(4, "a").await.is_ok());
    });
}

#[test]
fn a_full_disk_refuses_commands_and_reads_go_on() {
    let world = World::new(7);
    world.run(async {
        let server = start(&world).await;
        let nn = world.node("nn");
        let io = world.node("client");
        let mut raw = Raw::client(&io, server.addr(), None).await;
        raw.create(1, "a").await.unwrap();
        let space = nn.space(Path::new("/nn")).await.unwrap();
        world.set_capacity("nn", space.capacity - space.free);
        let mut seq = 1;
        let failure = loop {
            seq += 1;
            assert!(seq < 5000);
            if let Err(failure) = raw.create(seq, &format!("{:0>200}", seq)).await {
                break failure;
            }
        };
        assert_eq!(failure.errno, 28);
        assert!(raw.exists("a").await);
        assert!(raw.exists(&format!("{:0>200}", seq - 1)).await);
        // The reserve still takes a new session.
        let mut other = Raw::client(&io, server.addr(), None).await;
        assert_eq!(other.create(1, "b").await.unwrap_err().errno, 28);
        world.set_capacity("nn", 1 << 30);
        while other.create(1, "b").await.is_err() {
            io.sleep(Duration::from_millis(100)).await;
        }
        assert!(server.metrics().commands_no_space.load(Ordering::Relaxed) > 0);
    });
}

#[test]
fn a_failed_sync_stops_the_namenode_and_nothing_is_acknowledged() {
    let world = World::new(8);
    world.run(async {
        let server = start(&world).await;
        let io = world.node("client");
        let mut raw = Raw::client(&io, server.addr(), None).await;
        raw.create(1, "a").await.unwrap();
        world.fail_next_sync("nn");
        raw.command(2, create("b")).await;
        assert_eq!(raw.receive().await, None);
        let e = server.ended().await.unwrap_err();
        assert!(e.to_string().starts_with("cannot sync /nn/log/"), "{e}");
    });
}

#[test]
fn datanodes_report_and_get_orders() {
    let world = World::new(9);
    world.run(async {
        let server = start(&world).await;
        let io = world.node("dn");
        let peer = |node| Peer::DataNode {
            node: NodeId(node),
            nonce: 5,
            incarnation: 1,
            addr: "dn:1".to_owned(),
            capacity: 10,
            free: 5,
        };
        let mut raw = Raw::connect(&io, server.addr()).await;
        let Some(FromNameNode::Welcome { node, .. }) = raw.hello(peer(0)).await else {
            panic!()
        };
        assert!(node.0 > 0);
        raw.send(ToNameNode::Heartbeat {
            capacity: 10,
            free: 5,
        })
        .await;
        let replica = |block| ReplicaInfo {
            block: BlockId(block),
            generation: Generation(1),
            length: 7,
        };
        let replicas = (1..=10_000).map(replica).collect();
        raw.send(ToNameNode::Report {
            replicas,
            first: true,
            last: true,
        })
        .await;
        raw.send(ToNameNode::Received {
            replicas: vec![replica(3)],
            gone: vec![BlockId(4)],
        })
        .await;
        let (one, two) = (raw.receive().await, raw.receive().await);
        let target = NodeAddr {
            node: NodeId(2),
            addr: "dn:1".to_owned(),
        };
        let copy = Order::Copy {
            block: BlockId(3),
            generation: Generation(1),
            length: 7,
            target,
        };
        let delete = Order::Delete {
            blocks: vec![(BlockId(4), Generation(1))],
        };
        let order = |order| Some(FromNameNode::Order { ballot: 1, order });
        assert!(
            (one == order(copy.clone()) && two == order(delete.clone()))
                || (one == order(delete) && two == order(copy))
        );

        let mut observer = Raw::observer(&io, server.addr()).await;
        let text = "? n(count<B>) :- replica(B, _)".to_owned();
        observer
            .send(ToNameNode::Query {
                req: 1,
                text,
                limit: 10,
                watch: false,
            })
            .await;
        let Some(FromNameNode::Rows {
            added,
            end: true,
            failure: None,
            ..
        }) = observer.receive().await
        else {
            panic!()
        };
        assert_eq!(added, ["[10000]"]);
    });
}

#[test]
fn queries_are_answered_in_pages_and_refused_with_reasons() {
    let world = World::new(10);
    world.run(async {
        let server = start(&world).await;
        let io = world.node("client");
        let mut raw = Raw::client(&io, server.addr(), None).await;
        for seq in 1..=1200 {
            raw.command(seq, create(&format!("f{seq:04}"))).await;
        }
        for _ in 1..=1200 {
            raw.receive().await.unwrap();
        }
        let mut observer = Raw::observer(&io, server.addr()).await;
        let query = |text: &str, limit| ToNameNode::Query {
            req: 9,
            text: text.to_owned(),
            limit,
            watch: false,
        };
        observer
            .send(query("? d(N) :- dentry(Name: N)", 5000))
            .await;
        let mut all = Vec::new();
        loop {
            let Some(FromNameNode::Rows {
                req: 9,
                columns,
                added,
                removed,
                end,
                failure: None,
                ..
            }) = observer.receive().await
            else {
                panic!()
            };
            assert_eq!(columns, ["N"]);
            assert!(removed.is_empty() && added.len() <= 500);
            all.extend(added);
            if end {
                break;
            }
        }
        assert_eq!(
            all,
            (1..=1200)
                .map(|n| format!("[\"f{n:04}\"]"))
                .collect::<Vec<_>>()
        );
        for (text, limit, why) in [
            ("? d(N) :- nothing(N)", 10, "nothing"),
            ("? d(N :- x", 10, "query:1"),
            ("? d(N) :- dentry(Name: N)", 10, "more than 10 rows"),
            ("? d(N) :- request(Seq: N)", 10, "event"),
        ] {
            observer.send(query(text, limit)).await;
            let Some(FromNameNode::Rows {
                end: true,
                failure: Some(failure),
                ..
            }) = observer.receive().await
            else {
                panic!()
            };
            assert!(failure.message.contains(why), "{text}: {failure}");
        }
    });
}

#[test]
fn a_watched_query_sends_its_answer_and_then_changes() {
    let world = World::new(11);
    world.run(async {
        let server = start(&world).await;
        let io = world.node("client");
        let mut raw = Raw::client(&io, server.addr(), None).await;
        let mut observer = Raw::observer(&io, server.addr()).await;
        let text = "? d(N) :- dentry(Name: N)".to_owned();
        observer
            .send(ToNameNode::Query {
                req: 4,
                text,
                limit: 100,
                watch: true,
            })
            .await;
        let mut added = async || match observer.receive().await {
            Some(FromNameNode::Rows {
                req: 4,
                added,
                removed,
                end: false,
                failure: None,
                ..
            }) => {
                assert!(removed.is_empty());
                added
            }
            other => panic!("{other:?}"),
        };
        assert_eq!(added().await, Vec::<String>::new());
        raw.create(1, "a").await.unwrap();
        assert_eq!(added().await, ["[\"a\"]"]);
        raw.create(2, "a").await.unwrap_err();
        raw.create(3, "b").await.unwrap();
        assert_eq!(added().await, ["[\"b\"]"]);
        observer.send(ToNameNode::Cancel { req: 4 }).await;
        let text = "? d(count<N>) :- dentry(Name: N)".to_owned();
        observer
            .send(ToNameNode::Query {
                req: 5,
                text,
                limit: 100,
                watch: false,
            })
            .await;
        let Some(FromNameNode::Rows { req: 5, added, .. }) = observer.receive().await else {
            panic!()
        };
        assert_eq!(added, ["[2]"]);
        raw.create(4, "c").await.unwrap();
        observer
            .send(ToNameNode::Read {
                req: 1,
                caller: Caller::default(),
                op: ReadOp::StatFs,
            })
            .await;
        assert!(
            matches!(
                observer.receive().await,
                Some(FromNameNode::ReadAnswered { .. })
            ),
            "the watch has ended"
        );
    });
}
