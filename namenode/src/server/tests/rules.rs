//! The shell with the rules of this build.

use super::{Config, Raw, Server, Unsynced, World};
use boomfs_wire::*;
use std::sync::atomic::Ordering;

async fn start(world: &World) -> Server {
    let config = Config {
        segment_bytes: 64 << 10,
        ..Config::new("/nn", "nn:9000")
    };
    Server::start_local(world.node("nn"), config).await.unwrap()
}

fn at(base: Ino, name: &str) -> At {
    At {
        base,
        path: vec![name.as_bytes().to_vec()],
    }
}

fn mkdir(name: &str) -> Op {
    Op::Mkdir {
        at: at(Ino::ROOT, name),
        mode: 0o755,
        ino: Ino(0),
    }
}

fn create(base: Ino, name: &str) -> Op {
    Op::Create {
        at: at(base, name),
        kind: Kind::File,
        mode: 0o644,
        rdev: 0,
        exclusive: true,
        lease: true,
        block_size: 0,
        replication: 0,
        ino: Ino(0),
    }
}

fn attr(answer: Result<Answer, Failure>) -> Attr {
    match answer {
        Ok(Answer::Attr(attr)) => attr,
        other => panic!("{other:?}"),
    }
}

fn healthy(server: &Server) {
    let metrics = server.metrics();
    for (name, counter) in [
        ("errors", &metrics.rule_errors),
        ("conflicts", &metrics.rule_conflicts),
        ("violations", &metrics.rule_violations),
        ("payloads", &metrics.bad_payloads),
        ("runs", &metrics.runs_dropped),
    ] {
        assert_eq!(counter.load(Ordering::Relaxed), 0, "{name}");
    }
}

#[test]
fn files_are_made_listed_and_there_after_a_crash() {
    let world = World::new(1);
    world.run(async {
        let server = start(&world).await;
        let io = world.node("client");
        let mut raw = Raw::client(&io, server.addr(), None).await;
        let dir = attr(raw.call(1, mkdir("d")).await).ino;
        for seq in 2..=101 {
            raw.command(seq, create(dir, &format!("f{seq:03}"))).await;
        }
        for seq in 2..=101 {
            let answer = raw.receive().await;
            assert!(
                matches!(&answer, Some(FromNameNode::Answered { seq: got, result: Ok(Answer::Attr(_)) }) if *got == seq),
                "{answer:?}"
            );
        }
        let again = raw.call(102, create(dir, "f050")).await.unwrap_err();
        assert_eq!(again.errno, 17);
        healthy(&server);
        world.crash_with("nn", Unsynced::Lost);
        drop(server);

        let server = start(&world).await;
        let mut raw = Raw::client(&io, server.addr(), Some(raw.session)).await;
        let mut names = Vec::new();
        let mut after = 0;
        loop {
            let page = ReadOp::ReadDir {
                ino: dir,
                after,
                limit: 30,
            };
            let Ok(Answer::Entries { entries, end, parent }) = raw.read(5, page).await else {
                panic!()
            };
            assert_eq!(parent, Ino::ROOT);
            after = entries.last().map_or(after, |e| e.cookie);
            names.extend(entries.into_iter().map(|e| e.name));
            if end {
                break;
            }
        }
        let want: Vec<Vec<u8>> = (2..=101).map(|n| format!("f{n:03}").into_bytes()).collect();
        names.sort();
        assert_eq!(names, want);
        // The answer to the last command is still known.
        let same = raw.call(102, create(dir, "f050")).await.unwrap_err();
        assert_eq!(same, again);
        assert!(raw.call(103, create(dir, "g")).await.is_ok());
        healthy(&server);
    });
}

#[test]
fn a_session_goes_on_behind_commands_that_the_shell_refused() {
    let world = World::new(2);
    world.run(async {
        let server = start(&world).await;
        let io = world.node("client");
        let mut raw = Raw::client(&io, server.addr(), None).await;
        assert_eq!(raw.call(1, mkdir("a/b")).await.unwrap_err().errno, 22);
        assert_eq!(
            raw.call(
                2,
                Op::RemoveTree {
                    at: at(Ino::ROOT, "d")
                }
            )
            .await
            .unwrap_err()
            .errno,
            95
        );
        assert!(raw.call(3, mkdir("d")).await.is_ok());
        // And when those behind have come before the refusal has left.
        raw.command(4, mkdir("a/b")).await;
        raw.command(5, mkdir("e")).await;
        raw.command(6, mkdir("e")).await;
        let mut errnos = Vec::new();
        for _ in 4..=6 {
            let Some(FromNameNode::Answered { seq, result }) = raw.receive().await else {
                panic!("no answer")
            };
            errnos.push((seq, result.err().map(|failure| failure.errno)));
        }
        errnos.sort();
        assert_eq!(errnos, [(4, Some(22)), (5, None), (6, Some(17))]);
        healthy(&server);
    });
}

#[test]
fn defaults_are_decided_once() {
    let world = World::new(3);
    world.run(async {
        for (block_size, replication) in [(1 << 20, 2), (1 << 22, 5)] {
            let config = Config {
                block_size,
                replication,
                ..Config::new("/nn", "nn:9000")
            };
            let server = Server::start_local(world.node("nn"), config).await.unwrap();
            let io = world.node("client");
            let mut raw = Raw::connect(&io, server.addr()).await;
            let welcome = raw.hello(Peer::Observer { stale: false }).await;
            let Some(FromNameNode::Welcome {
                block_size,
                replication,
                ..
            }) = welcome
            else {
                panic!("{welcome:?}")
            };
            assert_eq!((block_size, replication), (1 << 20, 2));
            server.shutdown().await.unwrap();
        }
    });
}

#[test]
fn a_block_goes_to_datanodes_and_their_replicas_are_found() {
    let world = World::new(4);
    world.run(async {
        let server = start(&world).await;
        let mut nodes = Vec::new();
        for n in 1..=3 {
            let io = world.node(&format!("dn{n}"));
            let mut raw = Raw::connect(&io, server.addr()).await;
            let peer = Peer::DataNode {
                node: NodeId(0),
                nonce: 2 * n,
                incarnation: 1,
                addr: format!("dn{n}:9001"),
                capacity: 1 << 40,
                free: 1 << 39,
            };
            let Some(FromNameNode::Welcome { node, .. }) = raw.hello(peer).await else {
                panic!()
            };
            raw.send(ToNameNode::Report {
                replicas: Vec::new(),
                first: true,
                last: true,
            })
            .await;
            nodes.push((node, raw));
        }
        let io = world.node("client");
        let mut raw = Raw::client(&io, server.addr(), None).await;
        let file = attr(raw.call(1, create(Ino::ROOT, "f")).await).ino;
        let add = Op::AddBlock {
            ino: file,
            offset: 0,
            exclude: Vec::new(),
        };
        let Ok(Answer::Block(block)) = raw.call(2, add).await else {
            panic!()
        };
        assert_eq!(block.nodes.len(), 3);
        let replica = ReplicaInfo {
            block: block.block,
            generation: block.generation,
            length: 100,
        };
        for (_, node) in &mut nodes {
            node.send(ToNameNode::Received {
                replicas: vec![replica],
                gone: Vec::new(),
            })
            .await;
        }
        let commit = Op::Commit {
            ino: file,
            size: 100,
            blocks: vec![(block.block, block.generation, 100)],
            mtime: Some(SetTime::Now),
        };
        assert_eq!(attr(raw.call(3, commit).await).size, 100);
        assert_eq!(
            raw.call(4, Op::ReleaseLease { ino: file }).await,
            Ok(Answer::Done)
        );
        let locate = ReadOp::Locate {
            ino: file,
            offset: 0,
            length: u64::MAX,
        };
        let Ok(Answer::Blocks {
            size: 100, blocks, ..
        }) = raw.read(1, locate).await
        else {
            panic!()
        };
        assert_eq!(blocks.len(), 1);
        assert_eq!((blocks[0].nodes.len(), blocks[0].length), (3, 100));
        let Ok(Answer::Status(status)) = raw.read(2, ReadOp::Status).await else {
            panic!()
        };
        assert_eq!((status.nodes.len(), status.under_replicated), (3, 0));
        assert_eq!(status.space.blocks, 1);
        healthy(&server);
    });
}
