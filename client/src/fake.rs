//! A NameNode and DataNodes for tests, in a simulated world: small, strict, and told when to fail.

mod datanode;
mod namenode;

use crate::{Client, Config};
use boomfs_io::sim::World;
use boomfs_io::watch;
use boomfs_wire::{
    BlockId, Failure, FromNameNode, Generation, Ino, NodeAddr, NodeId, Op, SessionId, ToNameNode,
};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};

pub const NAMENODE: &str = "nn:7000";
/// The others, when there are three.
pub const OTHERS: [&str; 2] = ["nn2:7000", "nn3:7000"];
/// Another name of the second.
pub const ALIAS: &str = "nn2:7001";

/// One replica.
#[derive(Clone, Debug, Default)]
pub struct Replica {
    pub generation: Generation,
    pub data: Vec<u8>,
    /// What a power cut would leave.
    pub on_disk: Vec<u8>,
    pub finished: bool,
}

/// One DataNode.
#[derive(Default)]
pub struct DataNode {
    pub dead: bool,
    /// Dies in the middle of its n-th packet from now (0: the next).
    pub dies_at_packet: Option<u64>,
    /// Flips a bit of every chunk it reads.
    pub rotten: bool,
    /// Takes requests and answers none.
    pub mute: bool,
    pub full: bool,
    pub replicas: BTreeMap<BlockId, Replica>,
    pub suspected: Vec<BlockId>,
    pub reads: u64,
}

#[derive(Clone, Debug)]
pub struct Block {
    pub id: BlockId,
    pub generation: Generation,
    pub reserved: Generation,
    pub length: u64,
    pub members: Vec<NodeId>,
}

#[derive(Clone, Debug, Default)]
pub struct File {
    pub size: u64,
    pub block_size: u64,
    pub mtime_ns: i64,
    pub lease: Option<SessionId>,
    pub blocks: BTreeMap<u64, Block>,
}

#[derive(Default)]
pub struct Session {
    pub applied: u64,
    pub answers: BTreeMap<u64, FromNameNode>,
    pub orphans: Vec<Ino>,
}

#[derive(Default)]
pub struct State {
    pub nodes: BTreeMap<NodeId, DataNode>,
    pub files: BTreeMap<Ino, File>,
    pub names: BTreeMap<Vec<u8>, Ino>,
    pub sessions: BTreeMap<SessionId, Session>,
    pub nonces: BTreeMap<u64, SessionId>,
    pub expired: BTreeSet<SessionId>,
    /// Commands that were run, in order.
    pub log: Vec<Op>,
    /// Commands that arrived, those that were sent again included.
    pub arrived: u64,
    /// Cuts the connection after the n-th command from now is run, before it is answered.
    pub cut_after: Option<u64>,
    /// Answers nothing.
    pub mute: bool,
    /// The NameNode that leads, by its host; empty: none does.
    pub leader: String,
    /// Counts the leaders.
    pub ballot: u64,
    /// What the others say of who leads.
    pub hint: Option<String>,
    /// NameNodes, by their host, that take connections and messages and say nothing, as a stopped process does.
    pub stopped: BTreeSet<String>,
    /// NameNodes that refuse everybody.
    pub refusing: BTreeMap<String, Failure>,
    /// The connection that answers to a session's commands leave by: the one that greeted last, by NameNode.
    pub conns: BTreeMap<(String, SessionId), u64>,
    pub next_conn: u64,
    /// Hellos that came, by NameNode.
    pub hellos: BTreeMap<String, u64>,
    /// Messages of a query's rows, for tests of queries.
    pub rows: Vec<FromNameNode>,
    pub queries: Vec<ToNameNode>,
    pub next_id: u64,
    pub block_size: u64,
    pub replication: usize,
    /// What a strict server found wrong with its clients.
    pub wrong: Vec<String>,
}

/// The whole cluster.
#[derive(Clone)]
pub struct Fake {
    pub world: World,
    state: Arc<Mutex<State>>,
    /// Who leads has changed.
    changed: Arc<watch::Sender<u64>>,
}

impl Fake {
    pub fn new(seed: u64, nodes: u64, block_size: u64) -> Fake {
        let state = State {
            nodes: (1..=nodes)
                .map(|node| (NodeId(node), DataNode::default()))
                .collect(),
            next_id: 100,
            block_size,
            replication: 3,
            leader: "nn".to_owned(),
            ballot: 1,
            ..State::default()
        };
        Fake {
            world: World::new(seed),
            state: Arc::new(Mutex::new(state)),
            changed: Arc::new(watch::Sender::new(0)),
        }
    }

    /// All three NameNodes.
    pub fn namenodes() -> Vec<String> {
        let all = [NAMENODE].into_iter().chain(OTHERS);
        all.map(str::to_owned).collect()
    }

    /// Another NameNode leads from now on, and all know; empty: none does, and nobody knows more.
    pub fn elect(&self, host: &str) {
        let ballot = {
            let mut state = self.state();
            state.ballot += 1;
            state.leader = host.to_owned();
            state.hint = (!host.is_empty()).then(|| format!("{host}:7000"));
            state.ballot
        };
        self.changed.set(ballot);
    }

    /// A client of all three.
    pub async fn client_of_three(&self) -> Client {
        let config = Config::new(Fake::namenodes(), "test");
        Client::connect(self.world.node("client"), config)
            .await
            .unwrap()
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub fn addr(node: NodeId) -> NodeAddr {
        NodeAddr {
            node,
            addr: format!("dn{node}:9000"),
        }
    }

    /// Starts all servers.
    pub async fn start(&self) {
        self.start_namenode(NAMENODE).await;
        let nodes: Vec<NodeId> = self.state().nodes.keys().copied().collect();
        for node in nodes {
            self.start_datanode(node).await;
        }
    }

    pub async fn client(&self) -> Client {
        let config = Config::new(vec![NAMENODE.to_owned()], "test");
        Client::connect(self.world.node("client"), config)
            .await
            .unwrap()
    }

    /// The bytes of a file as its committed members hold them; all of them have to agree.
    pub fn contents(&self, ino: Ino) -> Vec<u8> {
        let state = self.state();
        let file = &state.files[&ino];
        let mut contents = vec![0; file.size as usize];
        for (start, block) in &file.blocks {
            assert!(
                !block.members.is_empty(),
                "block {} has no member",
                block.id
            );
            for member in &block.members {
                let replica = &state.nodes[member].replicas[&block.id];
                assert_eq!(
                    replica.generation, block.generation,
                    "generation of block {} on {member}",
                    block.id
                );
                let length = (block.length.min(file.size.saturating_sub(*start))) as usize;
                let place = &mut contents[*start as usize..*start as usize + length];
                if *member != block.members[0] {
                    assert!(
                        place == &replica.data[..length],
                        "block {} differs on {member}",
                        block.id
                    );
                }
                place.copy_from_slice(&replica.data[..length]);
            }
        }
        contents
    }

    /// All committed members have all bytes on disk.
    pub fn all_on_disk(&self, ino: Ino) -> bool {
        let state = self.state();
        state.files[&ino].blocks.values().all(|block| {
            block.members.iter().all(|member| {
                let replica = &state.nodes[member].replicas[&block.id];
                replica.on_disk == replica.data
            })
        })
    }

    /// Waits in virtual time until something holds.
    pub async fn until(&self, what: &str, holds: impl Fn(&State) -> bool) {
        let io = self.world.node("client");
        for _ in 0..60_000 {
            if holds(&self.state()) {
                return;
            }
            io.sleep(std::time::Duration::from_millis(1)).await;
        }
        panic!("after a minute still not: {what}");
    }
}
