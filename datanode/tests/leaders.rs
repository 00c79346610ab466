//! A DataNode with several NameNodes, of which one leads.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use boomfs_datanode::{Config, DataNode};
use boomfs_io::sim::{Unsynced, World};
use boomfs_io::{Io, Listener, Stream};
use boomfs_wire::frame::{read_message, write_message};
use boomfs_wire::*;
use std::sync::atomic::Ordering;
use std::time::Duration;

const CLUSTER: ClusterId = ClusterId(77);
const BLOCK: BlockId = BlockId(5);

/// A NameNode's end of the link to the DataNode.
struct Link {
    io: Io,
    stream: Stream,
}

impl Link {
    /// Takes a connection and its hello; gives the node that says hello. Connections of a life that is over are passed over.
    async fn accept(io: &Io, listener: &Listener) -> (Link, NodeId) {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let Ok(Some((hello, _))) = read_message::<ToNameNode, _>(&mut stream).await else {
                continue;
            };
            let ToNameNode::Hello {
                peer: Peer::DataNode { node, .. },
                ..
            } = hello
            else {
                panic!("{hello:?}")
            };
            let io = io.clone();
            return (Link { io, stream }, node);
        }
    }

    async fn say(&mut self, message: FromNameNode) {
        write_message(&mut self.stream, &message, &[])
            .await
            .unwrap();
    }

    async fn welcome(&mut self, ballot: u64) {
        let welcome = FromNameNode::Welcome {
            cluster: CLUSTER,
            session: SessionId(0),
            node: NodeId(1),
            ballot,
            block_size: 1 << 20,
            replication: 3,
        };
        self.say(welcome).await;
    }

    async fn hear(&mut self) -> ToNameNode {
        let heard = read_message::<ToNameNode, _>(&mut self.stream);
        let heard = self.io.timeout(Duration::from_secs(20), heard).await;
        heard.unwrap().unwrap().expect("a message").0
    }

    /// Waits for a full report, past heartbeats and changes.
    async fn report(&mut self) -> Vec<BlockId> {
        loop {
            match self.hear().await {
                ToNameNode::Report {
                    replicas,
                    first: true,
                    last: true,
                } => return replicas.iter().map(|r| r.block).collect(),
                ToNameNode::Heartbeat { .. } | ToNameNode::Received { .. } => {}
                other => panic!("{other:?}"),
            }
        }
    }

    async fn delete(&mut self, ballot: u64) {
        let order = Order::Delete {
            blocks: vec![(BLOCK, Generation(1))],
        };
        self.say(FromNameNode::Order { ballot, order }).await;
    }
}

async fn listeners(ios: &[Io; 2]) -> [Listener; 2] {
    [
        ios[0].listen("nn1:1").await.unwrap(),
        ios[1].listen("nn2:1").await.unwrap(),
    ]
}

async fn start(io: Io) -> DataNode {
    let namenodes = vec!["nn1:1".to_owned(), "nn2:1".to_owned()];
    DataNode::start(io, Config::new("/data", "127.0.0.1:9", namenodes))
        .await
        .unwrap()
}

/// Writes one replica and gives how long its close took.
async fn write(world: &World, io: &Io) -> Duration {
    let mut stream = io.connect("dn:9", Duration::from_secs(1)).await.unwrap();
    let open = ToDataNode::OpenPipeline {
        cluster: CLUSTER,
        block: BLOCK,
        generation: Generation(1),
        existing: None,
        block_size: 1 << 20,
        node: NodeId(1),
        rest: vec![],
        copy: false,
    };
    let packet = ToDataNode::Packet {
        offset: 0,
        checksums: vec![crc32c::crc32c(b"data")],
        sync: true,
    };
    let mut took = Duration::ZERO;
    for (message, body) in [
        (open, &b""[..]),
        (packet, b"data"),
        (ToDataNode::ClosePipeline, b""),
    ] {
        let start = world.elapsed();
        write_message(&mut stream, &message, body).await.unwrap();
        let answer = read_message::<FromDataNode, _>(&mut stream).await;
        match answer.unwrap().unwrap().0 {
            FromDataNode::Opened { failed, .. } | FromDataNode::Written { failed } => {
                assert_eq!(failed, []);
            }
            other => panic!("{other:?}"),
        }
        took = world.elapsed() - start;
    }
    took
}

/// Waits until something holds.
async fn until(io: &Io, what: &str, holds: impl Fn() -> bool) {
    for _ in 0..3000 {
        if holds() {
            return;
        }
        io.sleep(Duration::from_millis(10)).await;
    }
    panic!("did not happen: {what}");
}

#[test]
fn a_follower_welcomes_without_a_ballot_and_later_leads() {
    let world = World::new(31);
    world.run(async {
        let ios = [world.node("nn1"), world.node("nn2")];
        let [one, two] = listeners(&ios).await;
        let node = start(world.node("dn")).await;
        // New: it says hello to both, and the follower welcomes it once the leader has registered it.
        let (mut leader, new) = Link::accept(&ios[0], &one).await;
        assert_eq!(new, NodeId(0));
        let (mut follower, _) = Link::accept(&ios[1], &two).await;
        leader.welcome(4).await;
        follower.welcome(0).await;
        assert_eq!(leader.report().await, []);
        assert_eq!(follower.report().await, []);
        write(&world, &ios[0]).await;
        // Both are told of changes.
        for link in [&mut leader, &mut follower] {
            loop {
                if let ToNameNode::Received { replicas, .. } = link.hear().await
                    && replicas.iter().any(|r| r.length == 4)
                {
                    break;
                }
            }
        }
        // A follower's orders have no ballot and are not obeyed.
        let metrics = node.metrics();
        let stale = || metrics.orders_stale.load(Ordering::Relaxed);
        follower.delete(0).await;
        until(&ios[0], "ignored", || stale() == 1).await;
        follower.say(FromNameNode::Leads { ballot: 9 }).await;
        assert_eq!(follower.report().await, [BLOCK]);
        // The one that led is not obeyed any more, nor when it says that it leads still.
        leader.delete(4).await;
        until(&ios[0], "ignored", || stale() == 2).await;
        leader.say(FromNameNode::Leads { ballot: 4 }).await;
        until(&ios[0], "ignored", || stale() == 3).await;
        assert_eq!(node.replicas().len(), 1);
        follower.delete(9).await;
        until(&ios[0], "deleted", || node.replicas().is_empty()).await;
        node.shutdown().await;
    });
}

#[test]
fn the_ballot_of_a_new_leader_outlives_a_crash_and_a_welcome_without_one() {
    let world = World::new(32);
    world.run(async {
        let ios = [world.node("nn1"), world.node("nn2")];
        let [one, two] = listeners(&ios).await;
        let node = start(world.node("dn")).await;
        let (mut first, _) = Link::accept(&ios[0], &one).await;
        first.welcome(0).await;
        first.say(FromNameNode::Leads { ballot: 7 }).await;
        assert_eq!(first.report().await, []);
        assert_eq!(first.report().await, []);
        write(&world, &ios[0]).await;
        world.crash_with("dn", Unsynced::Lost);
        drop((node, first));
        let node = start(world.node("dn")).await;
        let (mut first, id) = Link::accept(&ios[0], &one).await;
        assert_eq!(id, NodeId(1));
        first.welcome(0).await;
        let (mut second, _) = Link::accept(&ios[1], &two).await;
        second.welcome(6).await;
        second.delete(6).await;
        let metrics = node.metrics();
        until(&ios[0], "ignored", || {
            metrics.orders_stale.load(Ordering::Relaxed) == 1
        })
        .await;
        assert_eq!(node.replicas().len(), 1);
        first.delete(7).await;
        until(&ios[0], "deleted", || node.replicas().is_empty()).await;
    });
}

#[test]
fn a_namenode_that_is_down_does_not_hold_up_a_close() {
    let world = World::new(33);
    world.run(async {
        let ios = [world.node("nn1"), world.node("nn2")];
        let [one, two] = listeners(&ios).await;
        drop(two);
        let _node = start(world.node("dn")).await;
        let (mut leader, _) = Link::accept(&ios[0], &one).await;
        leader.welcome(1).await;
        leader.report().await;
        let took = write(&world, &ios[1]).await;
        assert!(took < Duration::from_millis(200), "{took:?}");
    });
}
