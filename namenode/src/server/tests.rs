//! The shell with toy rules, and with those of this build: a raw client on loopback and in the
//! simulator.
#![allow(
    clippy::disallowed_methods,
    reason = "tests look at real files and clocks beside the simulator"
)]

mod queries;
mod rules;
mod several;
mod trouble;

use super::*;
use boomfs_io::sim::{Unsynced, World};
use boomfs_io::{Io, Stream};
use boomfs_wire::*;
use overlog::{CompileOptions, compile};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::io::AsyncWriteExt;

fn toy() -> Rulebook {
    let text = include_str!("tests/toy.olg");
    let mut sources = crate::rules::sources();
    let glue = include_str!("../../tests/suite/paxos_glue.olg");
    sources.add("paxos_glue.olg", glue);
    sources.add("toy.olg", text);
    let (program, _) = compile("toy.olg", &sources, &[], CompileOptions::default())
        .unwrap_or_else(|e| panic!("{e}"));
    Rulebook::new(program, text).unwrap()
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
    /// All answers up to this one have come.
    acked: u64,
}

impl Raw {
    async fn connect(io: &Io, addr: &str) -> Raw {
        let stream = io.connect(addr, SOON).await.unwrap();
        Raw {
            io: io.clone(),
            stream,
            session: 0,
            acked: 0,
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
        let message = read.ok().flatten().map(|(message, _)| message);
        if let Some(FromNameNode::Answered { seq, .. }) = &message
            && *seq == self.acked + 1
        {
            self.acked = *seq;
        }
        message
    }

    async fn hello(&mut self, peer: Peer) -> Option<FromNameNode> {
        let hello = ToNameNode::Hello {
            cluster: None,
            peer,
        };
        self.try_send(hello).await.ok()?;
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
        let answer = raw.hello(Peer::Observer { stale: false }).await;
        assert!(
            matches!(answer, Some(FromNameNode::Welcome { .. })),
            "{answer:?}"
        );
        raw
    }

    async fn command(&mut self, seq: u64, op: Op) {
        self.send(ToNameNode::Command {
            seq,
            ack: self.acked,
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
        assert!(
            server.metrics().runs.load(Ordering::Relaxed) < 12,
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
fn commands_of_one_write_are_one_batch() {
    let world = World::new(1);
    world.run(async {
        let server = start(&world).await;
        let mut raw = Raw::client(&world.node("client"), server.addr(), None).await;
        let slot = || server.metrics().applied_slot.load(Ordering::Relaxed);
        let before = slot();
        let mut bytes = Vec::new();
        for seq in 1..=100 {
            let message = ToNameNode::Command {
                seq,
                ack: 0,
                caller: Caller::default(),
                op: create(&format!("f{seq}")),
            };
            bytes.extend(encode_message(&message, 0).unwrap());
        }
        raw.stream.write_all(&bytes).await.unwrap();
        for seq in 1..=100 {
            let answer = raw.receive().await;
            let Some(FromNameNode::Answered { seq: of, result }) = answer else {
                panic!("{answer:?}")
            };
            assert_eq!((of, result.is_ok()), (seq, true));
        }
        assert_eq!(slot(), before + 1);
        server.abort().await.unwrap();
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
        let slots = server.metrics().applied_slot.load(Ordering::Relaxed);
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
        // One that is being written is done, and the oldest removed.
        client.sleep(Duration::from_secs(1)).await;
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
