//! What bad peers, full and failing disks and endless rules get.

use super::*;

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
            peer: Peer::Observer { stale: false },
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
fn a_question_that_the_engine_drops_does_not_take_others_with_it() {
    let world = World::new(12);
    world.run(async {
        let server = start(&world).await;
        let io = world.node("client");
        let mut raw = Raw::client(&io, server.addr(), None).await;
        raw.create(1, "a").await.unwrap();
        let mut all = Vec::new();
        for req in 1..=40 {
            let op = match req {
                13 => ReadOp::ReadLink { ino: Ino(1) },
                _ => ReadOp::Lookup {
                    at: at("a"),
                    follow: false,
                },
            };
            let read = ToNameNode::Read {
                req,
                caller: Caller::default(),
                op,
            };
            all.extend(encode_message(&read, 0).unwrap());
        }
        raw.stream.write_all(&all).await.unwrap();
        let mut answered = std::collections::BTreeMap::new();
        for _ in 1..=40 {
            let Some(FromNameNode::ReadAnswered { req, result }) = raw.receive().await else {
                panic!()
            };
            answered.insert(req, result.map_err(|e| e.errno));
        }
        let dropped: Vec<u64> = answered
            .iter()
            .filter(|(_, r)| **r == Err(5))
            .map(|(req, _)| *req)
            .collect();
        assert_eq!(dropped, [13]);
        assert_eq!(answered.len(), 40);
        assert!(server.metrics().runs_dropped.load(Ordering::Relaxed) > 1);
    });
}

#[test]
fn a_batch_that_the_engine_drops_is_answered_and_dropped_again_in_a_replay() {
    let world = World::new(13);
    world.run(async {
        let server = start(&world).await;
        let io = world.node("client");
        let mut raw = Raw::client(&io, server.addr(), None).await;
        raw.create(1, "a").await.unwrap();
        let failure = raw.call(2, Op::Unlink { at: at("a") }).await.unwrap_err();
        assert_eq!(failure.errno, 5);
        raw.create(3, "b").await.unwrap();
        world.crash_with("nn", Unsynced::Lost);
        drop(server);
        let server = start(&world).await;
        let mut raw = Raw::client(&io, server.addr(), Some(raw.session)).await;
        assert!(raw.exists("a").await && raw.exists("b").await);
        assert!(raw.create(4, "c").await.is_ok());
    });
}

#[test]
fn who_does_not_read_is_not_read_from_and_others_are_served() {
    let world = World::new(14);
    world.run(async {
        let server = start(&world).await;
        let io = world.node("client");
        let mut deaf = Raw::client(&io, server.addr(), None).await;
        let mut all = Vec::new();
        for req in 1..=500 {
            let op = ReadOp::Lookup {
                at: at("a"),
                follow: false,
            };
            all.extend(
                encode_message(
                    &ToNameNode::Read {
                        req,
                        caller: Caller::default(),
                        op,
                    },
                    0,
                )
                .unwrap(),
            );
        }
        // Its answers fill its own stream and queue, then its requests wait, and nothing else does.
        let flood = async {
            loop {
                if deaf.stream.write_all(&all).await.is_err() {
                    break;
                }
            }
        };
        let serve = async {
            let mut raw = Raw::client(&io, server.addr(), None).await;
            for seq in 1..=50 {
                raw.create(seq, &format!("f{seq}")).await.unwrap();
                io.sleep(Duration::from_millis(20)).await;
            }
        };
        let reads = || server.metrics().reads.load(Ordering::Relaxed);
        let served = async {
            tokio::select! {
                biased;
                () = flood => panic!("the stream broke"),
                () = serve => reads(),
            }
        };
        let before = served.await;
        assert!(before > 1000);
        io.sleep(Duration::from_secs(5)).await;
        assert!(reads() < 2_000_000);
        let after = reads();
        io.sleep(Duration::from_secs(5)).await;
        assert_eq!(
            reads(),
            after,
            "a client that does not read is not served without end"
        );
    });
}
