//! Whole DataNodes with a NameNode that the test plays: pipelines, fences, copies, deletion,
//! reports.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use boomfs_datanode::{Config, DataNode, Error};
use boomfs_io::sim::{Unsynced, World};
use boomfs_io::{Io, Stream};
use boomfs_wire::frame::{read_message, write_message};
use boomfs_wire::*;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::sync::mpsc;

const CLUSTER: ClusterId = ClusterId(77);
const SIZE: u64 = 1 << 20;
const BLOCK: BlockId = BlockId(5);

const EIO: i32 = 5;
const EINVAL: i32 = 22;
const EBADMSG: i32 = 74;
const ESTALE: i32 = 116;

/// What a NameNode knows, by node.
#[derive(Default)]
struct Known {
    replicas: BTreeMap<NodeId, BTreeMap<BlockId, (u64, u64)>>,
    reports: BTreeMap<NodeId, usize>,
    heartbeats: BTreeMap<NodeId, usize>,
    orders: BTreeMap<NodeId, mpsc::UnboundedSender<(u64, Order)>>,
    nonces: Vec<u64>,
}

#[derive(Clone)]
struct NameNode {
    addr: String,
    cluster: ClusterId,
    known: Arc<Mutex<Known>>,
}

impl NameNode {
    async fn start(io: &Io, cluster: ClusterId) -> NameNode {
        let listener = io.listen("127.0.0.1:0").await.unwrap();
        let namenode = NameNode {
            addr: listener.local_addr(),
            cluster,
            known: Arc::default(),
        };
        let serving = namenode.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(serving.clone().serve(stream));
            }
        });
        namenode
    }

    async fn serve(self, stream: Stream) {
        let (mut reader, mut writer) = stream.into_split();
        let Ok(Some((ToNameNode::Hello { cluster, peer }, _))) = read_message(&mut reader).await
        else {
            return;
        };
        let Peer::DataNode { nonce, node, .. } = peer else {
            panic!("not a DataNode")
        };
        if cluster.is_some_and(|c| c != self.cluster) {
            let failure = Failure {
                errno: ESTALE,
                message: "of another cluster".into(),
            };
            let _ = write_message(&mut writer, &FromNameNode::Refused { failure }, &[]).await;
            return;
        }
        let (sender, mut orders) = mpsc::unbounded_channel();
        let node = {
            let mut k = self.known.lock().unwrap();
            let at = k
                .nonces
                .iter()
                .position(|n| *n == nonce)
                .unwrap_or_else(|| {
                    k.nonces.push(nonce);
                    k.nonces.len() - 1
                });
            let given = NodeId(at as u64 + 1);
            assert!(node.0 == 0 || node == given);
            k.orders.insert(given, sender);
            given
        };
        let welcome = FromNameNode::Welcome {
            cluster: self.cluster,
            session: SessionId(0),
            node,
            ballot: 1,
            block_size: SIZE,
            replication: 3,
        };
        write_message(&mut writer, &welcome, &[]).await.unwrap();
        tokio::spawn(async move {
            while let Some((ballot, order)) = orders.recv().await {
                let _ =
                    write_message(&mut writer, &FromNameNode::Order { ballot, order }, &[]).await;
            }
        });
        while let Ok(Some((message, _))) = read_message::<ToNameNode, _>(&mut reader).await {
            self.hear(node, message);
        }
    }

    fn hear(&self, node: NodeId, message: ToNameNode) {
        let mut k = self.known.lock().unwrap();
        match message {
            ToNameNode::Heartbeat { capacity, free } => {
                assert!(capacity >= free && capacity > 0);
                *k.heartbeats.entry(node).or_default() += 1;
            }
            ToNameNode::Report {
                replicas,
                first,
                last,
            } => {
                let all = k.replicas.entry(node).or_default();
                if first {
                    all.clear();
                }
                all.extend(
                    replicas
                        .iter()
                        .map(|r| (r.block, (r.generation.0, r.length))),
                );
                *k.reports.entry(node).or_default() += usize::from(last);
            }
            ToNameNode::Received { replicas, gone } => {
                let all = k.replicas.entry(node).or_default();
                all.extend(
                    replicas
                        .iter()
                        .map(|r| (r.block, (r.generation.0, r.length))),
                );
                all.retain(|b, _| !gone.contains(b));
            }
            other => panic!("a DataNode sent {other:?}"),
        }
    }

    fn replica(&self, node: u64) -> Option<(u64, u64)> {
        self.known
            .lock()
            .unwrap()
            .replicas
            .get(&NodeId(node))?
            .get(&BLOCK)
            .copied()
    }

    fn order(&self, node: u64, ballot: u64, order: Order) {
        self.known.lock().unwrap().orders[&NodeId(node)]
            .send((ballot, order))
            .unwrap();
    }
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

/// A connection to a DataNode.
struct Peerage {
    io: Io,
    stream: Stream,
}

impl Peerage {
    async fn to(io: &Io, addr: &str) -> Peerage {
        let stream = io.connect(addr, Duration::from_secs(1)).await.unwrap();
        Peerage {
            io: io.clone(),
            stream,
        }
    }

    async fn ask(&mut self, message: ToDataNode, body: &[u8]) -> (FromDataNode, Bytes) {
        let asked = async {
            write_message(&mut self.stream, &message, body)
                .await
                .unwrap();
            read_message(&mut self.stream)
                .await
                .unwrap()
                .expect("an answer")
        };
        self.io
            .timeout(Duration::from_secs(20), asked)
            .await
            .unwrap()
    }

    async fn open(
        &mut self,
        generation: u64,
        existing: Option<(u64, u64)>,
        nodes: &[NodeAddr],
    ) -> FromDataNode {
        let message = ToDataNode::OpenPipeline {
            cluster: CLUSTER,
            block: BLOCK,
            generation: Generation(generation),
            existing: existing.map(|(g, len)| (Generation(g), len)),
            block_size: SIZE,
            node: nodes[0].node,
            rest: nodes[1..].to_vec(),
            copy: false,
        };
        self.ask(message, &[]).await.0
    }

    async fn packet(&mut self, offset: u64, data: &[u8], sync: bool) -> FromDataNode {
        let mut checksums = Vec::new();
        let mut at = 0;
        while at < data.len() {
            let end = data.len().min(at + CHUNK - (offset as usize + at) % CHUNK);
            checksums.push(crc32c::crc32c(&data[at..end]));
            at = end;
        }
        self.ask(
            ToDataNode::Packet {
                offset,
                checksums,
                sync,
            },
            data,
        )
        .await
        .0
    }

    async fn read(
        &mut self,
        generation: u64,
        offset: u64,
        length: u64,
    ) -> Result<(u64, Vec<u8>), i32> {
        let message = ToDataNode::Read {
            cluster: CLUSTER,
            block: BLOCK,
            generation: Generation(generation),
            offset,
            length,
        };
        match self.ask(message, &[]).await {
            (
                FromDataNode::Data {
                    start, checksums, ..
                },
                body,
            ) => {
                assert!(
                    body.chunks(CHUNK)
                        .zip(&checksums)
                        .all(|(d, c)| crc32c::crc32c(d) == *c)
                );
                assert_eq!(body.len().div_ceil(CHUNK), checksums.len());
                Ok((start, body.to_vec()))
            }
            (FromDataNode::Failed(f), _) => Err(f.errno),
            other => panic!("{other:?}"),
        }
    }
}

fn fine() -> FromDataNode {
    FromDataNode::Written { failed: vec![] }
}

fn opened(members: &[u64]) -> FromDataNode {
    FromDataNode::Opened {
        members: members.iter().map(|n| NodeId(*n)).collect(),
        failed: vec![],
    }
}

fn failed_nodes(answer: &FromDataNode) -> Vec<(u64, i32)> {
    match answer {
        FromDataNode::Written { failed } | FromDataNode::Opened { failed, .. } => {
            failed.iter().map(|(n, f)| (n.0, f.errno)).collect()
        }
        other => panic!("{other:?}"),
    }
}

fn errno(answer: &FromDataNode) -> i32 {
    match answer {
        FromDataNode::Failed(f) => f.errno,
        other => panic!("{other:?}"),
    }
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i % 253) as u8).collect()
}

struct Cluster {
    io: Io,
    namenode: NameNode,
    nodes: Vec<DataNode>,
    addrs: Vec<NodeAddr>,
}

impl Cluster {
    /// Starts DataNodes one after the other, so that their ids are 1, 2, ...
    async fn start(ios: &[Io], io: &Io, data: impl Fn(usize) -> PathBuf) -> Cluster {
        let namenode = NameNode::start(io, CLUSTER).await;
        let mut nodes = Vec::new();
        let mut addrs = Vec::new();
        for (i, own) in ios.iter().enumerate() {
            let config = Config::new(data(i), "127.0.0.1:0", vec![namenode.addr.clone()]);
            let node = DataNode::start(own.clone(), config).await.unwrap();
            assert!(node.registered(Duration::from_secs(10)).await);
            assert_eq!(node.identity().await, (CLUSTER, NodeId(i as u64 + 1)));
            addrs.push(NodeAddr {
                node: NodeId(i as u64 + 1),
                addr: node.addr(),
            });
            nodes.push(node);
        }
        Cluster {
            io: io.clone(),
            namenode,
            nodes,
            addrs,
        }
    }

    async fn stop(self) {
        for node in self.nodes {
            node.shutdown().await;
        }
    }
}

/// Runs with real sockets and disks, and simulated.
fn on_both(test: impl AsyncFn(Cluster)) {
    let world = simulated(5, &test);
    assert!(!world.trace().is_empty());
    let dir = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let ios = [Io::real(), Io::real(), Io::real(), Io::real()];
        let cluster = Cluster::start(&ios, &ios[0], |i| dir.path().join(format!("dn{i}"))).await;
        test(cluster).await;
    });
}

fn simulated(seed: u64, test: impl AsyncFn(Cluster)) -> World {
    let world = World::new(seed);
    world.run(async {
        let io = world.node("nn");
        // The nodes of a world reach each other by name, so each listens under its own.
        let ios: Vec<Io> = (0..4).map(|i| world.node(&format!("dn{i}"))).collect();
        let cluster = sim_cluster(&world, &ios, &io).await;
        test(cluster).await;
    });
    world
}

async fn sim_cluster(_world: &World, ios: &[Io], io: &Io) -> Cluster {
    Cluster::start(ios, io, |_| PathBuf::from("/data")).await
}

#[test]
fn three_nodes_write_together_and_the_namenode_knows_before_the_close_is_answered() {
    on_both(async |cluster| {
        let (io, nodes) = (cluster.io.clone(), &cluster.addrs[..3]);
        let mut client = Peerage::to(&io, &nodes[0].addr).await;
        assert_eq!(client.open(1, None, nodes).await, opened(&[1, 2, 3]));
        let data = pattern(300_000);
        assert_eq!(client.packet(0, &data[..131_072], false).await, fine());
        assert_eq!(client.packet(131_072, &data[131_072..], true).await, fine());
        assert_eq!(client.ask(ToDataNode::ClosePipeline, &[]).await.0, fine());
        for node in 1..=3 {
            until(&io, "reported", || {
                cluster.namenode.replica(node) == Some((1, 300_000))
            })
            .await;
            let mut reader = Peerage::to(&io, &nodes[node as usize - 1].addr).await;
            let (start, body) = reader.read(1, 5000, 1000).await.unwrap();
            assert_eq!((start, body.as_slice()), (4096, &data[4096..8192]));
            let (start, body) = reader.read(1, 299_999, 1 << 20).await.unwrap();
            assert_eq!((start, body.as_slice()), (299_008, &data[299_008..]));
            assert_eq!(reader.read(1, 300_000, 10).await.unwrap().1, b"");
            assert_eq!(reader.read(2, 0, 10).await, Err(ESTALE));
        }
        cluster.stop().await;
    });
}

#[test]
fn members_keep_their_connections_for_the_next_pipeline() {
    on_both(async |mut cluster| {
        let (io, nodes) = (cluster.io.clone(), cluster.addrs[..3].to_vec());
        let mut client = Peerage::to(&io, &nodes[0].addr).await;
        for generation in 1..=5 {
            let existing = (generation > 1).then_some((generation - 1, 10));
            let answer = client.open(generation, existing, &nodes).await;
            assert_eq!(answer, opened(&[1, 2, 3]));
            assert_eq!(client.packet(0, &pattern(10), false).await, fine());
            assert_eq!(client.ask(ToDataNode::ClosePipeline, &[]).await.0, fine());
        }
        for node in &cluster.nodes[..3] {
            let connections = node.metrics().connections.load(Ordering::Relaxed);
            assert_eq!(connections, 1);
        }
        // One that leads nowhere any more is noticed, and the members behind are still reached.
        let gone = cluster.nodes.remove(1);
        gone.shutdown().await;
        let FromDataNode::Opened { members, .. } = client.open(6, Some((5, 10)), &nodes).await
        else {
            panic!("not opened")
        };
        assert_eq!(members, [NodeId(1), NodeId(3)]);
        cluster.stop().await;
    });
}

#[test]
fn a_newer_pipeline_fences_the_older_on_every_member() {
    on_both(async |cluster| {
        let (io, nodes) = (cluster.io.clone(), &cluster.addrs[..3]);
        let mut old = Peerage::to(&io, &nodes[0].addr).await;
        assert_eq!(old.open(1, None, nodes).await, opened(&[1, 2, 3]));
        assert_eq!(old.packet(0, &pattern(10_000), false).await, fine());
        let mut new = Peerage::to(&io, &nodes[1].addr).await;
        let two = [nodes[1].clone(), nodes[2].clone()];
        assert_eq!(new.open(2, Some((1, 9000)), &two).await, opened(&[2, 3]));
        let late = old.packet(10_000, b"late", false).await;
        assert_eq!(failed_nodes(&late), [(2, ESTALE), (3, ESTALE)]);
        assert_eq!(new.packet(9000, b"new", true).await, fine());
        let mut expected = pattern(9000);
        expected.extend_from_slice(b"new");
        assert_eq!(new.ask(ToDataNode::ClosePipeline, &[]).await.0, fine());
        for node in two {
            let mut reader = Peerage::to(&io, &node.addr).await;
            assert_eq!(reader.read(2, 0, SIZE).await.unwrap().1, expected);
        }
        assert_eq!(
            errno(&old.open(1, Some((1, 0)), &nodes[2..]).await),
            EINVAL,
            "meant for another node"
        );
        let mut third = Peerage::to(&io, &nodes[2].addr).await;
        assert_eq!(
            errno(&third.open(1, Some((1, 0)), &nodes[2..]).await),
            ESTALE
        );
        cluster.stop().await;
    });
}

#[test]
fn a_member_that_is_gone_is_named_and_the_others_go_on() {
    on_both(async |mut cluster| {
        let (io, nodes) = (cluster.io.clone(), cluster.addrs.clone());
        let gone = cluster.nodes.remove(1);
        gone.shutdown().await;
        let mut client = Peerage::to(&io, &nodes[0].addr).await;
        let answer = client.open(1, None, &nodes[..3]).await;
        let FromDataNode::Opened { members, .. } = &answer else {
            panic!("{answer:?}")
        };
        assert_eq!(members, &[NodeId(1), NodeId(3)]);
        assert_eq!(
            failed_nodes(&answer)
                .iter()
                .map(|f| f.0)
                .collect::<Vec<_>>(),
            [2]
        );
        assert_eq!(client.packet(0, &pattern(5000), true).await, fine());
        let third = cluster.nodes.remove(1);
        third.shutdown().await;
        let failed = client.packet(5000, b"x", true).await;
        assert_eq!(
            failed_nodes(&failed)
                .iter()
                .map(|f| f.0)
                .collect::<Vec<_>>(),
            [3]
        );
        assert_eq!(
            client.open(2, Some((1, 5001)), &nodes[..1]).await,
            opened(&[1])
        );
        let (_, body) = Peerage::to(&io, &nodes[0].addr)
            .await
            .read(2, 0, SIZE)
            .await
            .unwrap();
        assert_eq!(body.len(), 5001);
        cluster.stop().await;
    });
}

#[test]
fn a_packet_that_was_damaged_on_the_way_is_refused() {
    on_both(async |cluster| {
        let (io, nodes) = (cluster.io.clone(), &cluster.addrs[..2]);
        let mut client = Peerage::to(&io, &nodes[0].addr).await;
        client.open(1, None, nodes).await;
        let packet = |checksums| ToDataNode::Packet {
            offset: 0,
            checksums,
            sync: false,
        };
        assert_eq!(errno(&client.ask(packet(vec![1]), b"abc").await.0), EBADMSG);
        assert_eq!(errno(&client.ask(packet(vec![]), b"abc").await.0), EBADMSG);
        let good = crc32c::crc32c(b"abc");
        assert_eq!(
            errno(&client.ask(packet(vec![good, good]), b"abc").await.0),
            EBADMSG
        );
        assert_eq!(client.ask(packet(vec![good]), b"abc").await.0, fine());
        assert_eq!(
            client.packet(SIZE - 1, b"xy", false).await,
            FromDataNode::Written {
                failed: match client.packet(SIZE - 1, b"xy", false).await {
                    FromDataNode::Written { failed } => failed,
                    other => panic!("{other:?}"),
                }
            }
        );
        assert_eq!(client.read(1, 0, 10).await.unwrap().1, b"abc");
        cluster.stop().await;
    });
}

#[test]
fn malformed_frames_close_their_connection_and_are_counted() {
    on_both(async |cluster| {
        let (io, nodes) = (cluster.io.clone(), &cluster.addrs[..1]);
        for bytes in [
            vec![0u8; 64],
            b"GET /index.html HTTP/1.1\r\n\r\n".to_vec(),
            vec![0xff; 4000],
        ] {
            let mut stream = io
                .connect(&nodes[0].addr, Duration::from_secs(1))
                .await
                .unwrap();
            stream.write_all(&bytes).await.unwrap();
            let answer = io
                .timeout(
                    Duration::from_secs(5),
                    read_message::<FromDataNode, _>(&mut stream),
                )
                .await;
            assert!(matches!(answer, Ok(Ok(None) | Err(_))), "{answer:?}");
        }
        let metrics = cluster.nodes[0].metrics();
        assert_eq!(metrics.malformed_frames.load(Ordering::Relaxed), 3);
        let mut client = Peerage::to(&io, &nodes[0].addr).await;
        assert_eq!(
            errno(&client.ask(ToDataNode::ClosePipeline, &[]).await.0),
            EINVAL
        );
        assert_eq!(client.open(1, None, nodes).await, opened(&[1]));
        cluster.stop().await;
    });
}

async fn one_replica(cluster: &Cluster, len: usize) {
    let nodes = &cluster.addrs[..1];
    let mut client = Peerage::to(&cluster.io, &nodes[0].addr).await;
    client.open(3, None, nodes).await;
    assert_eq!(client.packet(0, &pattern(len), true).await, fine());
    assert_eq!(client.ask(ToDataNode::ClosePipeline, &[]).await.0, fine());
}

#[test]
fn orders_copy_and_delete_and_old_leaders_are_not_obeyed() {
    on_both(async |cluster| {
        let io = cluster.io.clone();
        one_replica(&cluster, 900_001).await;
        let copy = Order::Copy {
            block: BLOCK,
            generation: Generation(3),
            length: 900_001,
            target: cluster.addrs[3].clone(),
        };
        cluster.namenode.order(1, 7, copy.clone());
        until(&io, "copied", || {
            cluster.namenode.replica(4) == Some((3, 900_001))
        })
        .await;
        let mut reader = Peerage::to(&io, &cluster.addrs[3].addr).await;
        assert_eq!(reader.read(3, 0, SIZE).await.unwrap().1, pattern(900_001));
        let delete = |generation| Order::Delete {
            blocks: vec![(BLOCK, Generation(generation))],
        };
        cluster.namenode.order(1, 6, delete(3));
        let metrics = cluster.nodes[0].metrics();
        until(&io, "ignored", || {
            metrics.orders_stale.load(Ordering::Relaxed) == 1
        })
        .await;
        assert_eq!(cluster.nodes[0].replicas().len(), 1);
        cluster.namenode.order(1, 7, delete(3));
        until(&io, "deleted", || cluster.namenode.replica(1).is_none()).await;
        assert_eq!(cluster.nodes[0].replicas(), []);
        // Orders may come twice.
        cluster.namenode.order(1, 7, copy);
        cluster.namenode.order(1, 7, delete(3));
        until(&io, "obeyed", || {
            metrics.orders.load(Ordering::Relaxed) == 4
        })
        .await;
        cluster.stop().await;
    });
}

#[test]
fn a_copy_that_is_broken_off_is_discarded() {
    on_both(async |cluster| {
        let io = cluster.io.clone();
        let target = &cluster.addrs[0];
        let mut sender = Peerage::to(&io, &target.addr).await;
        let open = ToDataNode::OpenPipeline {
            cluster: CLUSTER,
            block: BLOCK,
            generation: Generation(2),
            existing: None,
            block_size: SIZE,
            node: target.node,
            rest: vec![],
            copy: true,
        };
        assert_eq!(sender.ask(open, &[]).await.0, opened(&[1]));
        assert_eq!(sender.packet(0, &pattern(5000), false).await, fine());
        drop(sender);
        let mut reader = Peerage::to(&io, &target.addr).await;
        assert_eq!(reader.read(1, 0, 10).await, Err(2));
        assert_eq!(cluster.nodes[0].replicas(), []);
        cluster.stop().await;
    });
}

#[test]
fn a_restarted_namenode_gets_a_full_report() {
    on_both(async |cluster| {
        let io = cluster.io.clone();
        one_replica(&cluster, 10).await;
        until(&io, "alive", || {
            let k = cluster.namenode.known.lock().unwrap();
            k.reports.get(&NodeId(1)) == Some(&1)
                && k.heartbeats.get(&NodeId(1)).is_some_and(|n| *n >= 2)
        })
        .await;
        cluster.stop().await;
    });
}

#[test]
fn a_suspected_replica_checks_itself_and_only_its_own_finding_counts() {
    let world = World::new(12);
    world.run(async {
        let ios: Vec<Io> = (0..4).map(|i| world.node(&format!("dn{i}"))).collect();
        let io = world.node("nn");
        let cluster = sim_cluster(&world, &ios, &io).await;
        one_replica(&cluster, 100_000).await;
        let suspect = async || {
            let mut peer = Peerage::to(&io, &cluster.addrs[0].addr).await;
            write_message(&mut peer.stream, &ToDataNode::Suspect { block: BLOCK }, &[])
                .await
                .unwrap();
            peer.stream.flush().await.unwrap();
            peer.read(3, 0, 1).await
        };
        until(&io, "reported", || {
            cluster.namenode.replica(1) == Some((3, 100_000))
        })
        .await;
        suspect().await.unwrap();
        io.sleep(Duration::from_secs(3)).await;
        assert_eq!(cluster.namenode.replica(1), Some((3, 100_000)));
        let file = PathBuf::from("/data/blocks/0/000/0000000000000005");
        world.corrupt("dn0", &file, 90_000, 1).unwrap();
        suspect().await.unwrap();
        until(&io, "found bad", || cluster.namenode.replica(1).is_none()).await;
        let mut reader = Peerage::to(&io, &cluster.addrs[0].addr).await;
        assert_eq!(reader.read(3, 0, 1).await, Err(EIO));
        assert!(ios[0].exists(&file).await, "the bytes are kept");
        cluster.stop().await;
    });
}

#[test]
fn synced_bytes_survive_a_crash_of_everything() {
    let world = World::new(13);
    let run = |check: bool| {
        world.run(async {
            let ios: Vec<Io> = (0..3).map(|i| world.node(&format!("dn{i}"))).collect();
            let io = world.node("nn");
            let cluster = sim_cluster(&world, &ios, &io).await;
            let mut client = Peerage::to(&io, &cluster.addrs[0].addr).await;
            if check {
                for node in &cluster.addrs {
                    let mut reader = Peerage::to(&io, &node.addr).await;
                    assert_eq!(
                        reader.read(1, 0, SIZE).await.unwrap().1[..70_000],
                        pattern(70_000)
                    );
                }
                let again = client.open(2, Some((1, 70_000)), &cluster.addrs).await;
                assert_eq!(again, opened(&[1, 2, 3]));
            } else {
                client.open(1, None, &cluster.addrs).await;
                assert_eq!(client.packet(0, &pattern(70_000), true).await, fine());
                assert_eq!(client.packet(70_000, &pattern(5000), false).await, fine());
            }
        });
    };
    run(false);
    (0..3).for_each(|i| world.crash_with(&format!("dn{i}"), Unsynced::Random));
    world.crash_with("nn", Unsynced::Kept);
    run(true);
}

#[test]
fn a_namenode_of_another_cluster_stops_the_node() {
    on_both(async |mut cluster| {
        let io = cluster.io.clone();
        let node = cluster.nodes.remove(0);
        node.shutdown().await;
        cluster.stop().await;
        drop(io);
    });
    let dir = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let io = Io::real();
        let first = NameNode::start(&io, CLUSTER).await;
        let config = Config::new(dir.path().join("dn"), "127.0.0.1:0", vec![first.addr]);
        let node = DataNode::start(io.clone(), config.clone()).await.unwrap();
        assert!(node.registered(Duration::from_secs(10)).await);
        node.shutdown().await;
        let other = NameNode::start(&io, ClusterId(78)).await;
        let config = Config {
            namenodes: vec![other.addr],
            ..config
        };
        // The folder is free when the last task of the first life has let go of it.
        let started = async {
            loop {
                match DataNode::start(io.clone(), config.clone()).await {
                    Err(Error::InUse { .. }) => io.sleep(Duration::from_millis(10)).await,
                    other => break other.unwrap(),
                }
            }
        };
        let node = io.timeout(Duration::from_secs(5), started).await.unwrap();
        let why = io
            .timeout(Duration::from_secs(10), node.failed())
            .await
            .unwrap();
        assert!(matches!(*why, Error::OtherCluster { .. }), "{why}");
    });
}

#[test]
fn two_simulations_with_one_seed_are_the_same() {
    let run = || {
        simulated(21, async |cluster| {
            one_replica(&cluster, 200_000).await;
            let copy = Order::Copy {
                block: BLOCK,
                generation: Generation(3),
                length: 200_000,
                target: cluster.addrs[1].clone(),
            };
            cluster.namenode.order(1, 1, copy);
            until(&cluster.io, "copied", || {
                cluster.namenode.replica(2).is_some()
            })
            .await;
            cluster.stop().await;
        })
        .trace()
    };
    assert_eq!(run(), run());
}
