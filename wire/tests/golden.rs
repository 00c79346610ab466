//! The bytes of every message, as they are on the wire. They change only with
//! `PROTOCOL_VERSION`: a difference here is a release that cannot talk to the one before.
//!
//! `UPDATE_GOLDEN=1 cargo test -p boomfs-wire --test golden` writes them anew.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods
)] // A test may fail.

use boomfs_wire::*;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt::{Debug, Write};

/// Name and bytes of each message, in hex.
const GOLDEN: &str = include_str!("golden.txt");

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, b| {
        write!(text, "{b:02x}").unwrap();
        text
    })
}

/// Messages with their names and bytes.
#[derive(Default)]
struct Book {
    lines: Vec<(String, String)>,
}

impl Book {
    /// Encodes a message, and checks that it comes back.
    fn add<M: Serialize + DeserializeOwned + Message + PartialEq + Debug>(
        &mut self,
        name: &str,
        message: &M,
    ) {
        let bytes = encode_message(message, 0).unwrap();
        let mut reader = &bytes[..];
        let back = finish(read_message::<M, _>(&mut reader))
            .unwrap()
            .unwrap()
            .0;
        assert_eq!(&back, message, "{name}");
        assert!(
            self.lines.iter().all(|(other, _)| other != name),
            "{name} twice"
        );
        self.lines.push((name.to_owned(), hex(&bytes)));
    }

    fn op(&mut self, name: &str, op: Op) {
        let caller = Caller {
            uid: 1000,
            gid: 100,
            groups: vec![4, 24],
        };
        self.add(
            &format!("command.{name}"),
            &ToNameNode::Command {
                seq: 7,
                ack: 5,
                caller,
                op,
            },
        );
    }

    fn read(&mut self, name: &str, op: ReadOp) {
        self.add(
            &format!("read.{name}"),
            &ToNameNode::Read {
                req: 9,
                caller: Caller::default(),
                op,
            },
        );
    }

    fn answer(&mut self, name: &str, answer: Answer) {
        self.add(
            &format!("answer.{name}"),
            &FromNameNode::Answered {
                seq: 7,
                result: Ok(answer),
            },
        );
    }
}

/// Runs a future that never waits.
fn finish<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap()
        .block_on(future)
}

fn at(name: &str) -> At {
    At {
        base: Ino(1),
        path: vec![b"dir".to_vec(), name.as_bytes().to_vec()],
    }
}

fn attr(kind: Kind) -> Attr {
    Attr {
        ino: Ino(17),
        kind,
        mode: 0o644,
        uid: 1000,
        gid: 100,
        size: 5,
        allocated: 4096,
        nlink: 1,
        rdev: 0,
        atime_ns: -1,
        mtime_ns: 2,
        ctime_ns: 3,
        crtime_ns: 4,
        block_size: 64 << 20,
        replication: 3,
    }
}

fn node(n: u64) -> NodeAddr {
    NodeAddr {
        node: NodeId(n),
        addr: format!("dn{n}:7000"),
    }
}

fn failure() -> Failure {
    Failure {
        errno: 2,
        message: "no such file".to_owned(),
    }
}

fn located() -> LocatedBlock {
    LocatedBlock {
        block: BlockId(11),
        offset: 64 << 20,
        generation: Generation(2),
        length: 99,
        nodes: vec![node(1), node(2)],
    }
}

fn commands(book: &mut Book) {
    let (ino, block, generation) = (Ino(17), BlockId(11), Generation(2));
    book.op("close_session", Op::CloseSession);
    book.op("reserve_inodes", Op::ReserveInodes { count: 1024 });
    book.op(
        "mkdir",
        Op::Mkdir {
            at: at("d"),
            mode: 0o755,
            ino: Ino(0),
        },
    );
    book.op(
        "create",
        Op::Create {
            at: at("f"),
            kind: Kind::File,
            mode: 0o644,
            rdev: 0,
            exclusive: true,
            lease: false,
            block_size: 0,
            replication: 3,
            ino,
        },
    );
    book.op(
        "symlink",
        Op::Symlink {
            at: at("l"),
            target: b"../t".to_vec(),
        },
    );
    book.op("link", Op::Link { ino, at: at("h") });
    book.op("unlink", Op::Unlink { at: at("f") });
    book.op("rmdir", Op::Rmdir { at: at("d") });
    book.op("remove_tree", Op::RemoveTree { at: at("d") });
    book.op(
        "rename",
        Op::Rename {
            from: at("a"),
            to: at("b"),
            no_replace: true,
            exchange: false,
        },
    );
    book.op(
        "set_attr",
        Op::SetAttr {
            at: At {
                base: ino,
                path: vec![],
            },
            mode: Some(0o600),
            uid: None,
            gid: Some(5),
            size: Some(0),
            atime: Some(SetTime::Now),
            mtime: Some(SetTime::At(-9)),
        },
    );
    book.op("acquire_lease", Op::AcquireLease { ino });
    book.op("release_lease", Op::ReleaseLease { ino });
    book.op(
        "add_block",
        Op::AddBlock {
            ino,
            offset: 64 << 20,
            exclude: vec![NodeId(3)],
        },
    );
    book.op("reserve_generation", Op::ReserveGeneration { ino, block });
    let members = vec![NodeId(1), NodeId(2)];
    book.op(
        "commit_generation",
        Op::CommitGeneration {
            ino,
            block,
            generation,
            members,
        },
    );
    book.op(
        "commit",
        Op::Commit {
            ino,
            size: 5,
            blocks: vec![(block, generation, 5)],
            mtime: None,
        },
    );
}

fn to_name_node(book: &mut Book) {
    let cluster = Some(ClusterId(0xc0ffee));
    let client = Peer::Client {
        session: Some(SessionId(3)),
        nonce: 8,
        name: "host:mount".to_owned(),
    };
    book.add(
        "hello.client",
        &ToNameNode::Hello {
            cluster: None,
            peer: client,
        },
    );
    book.add(
        "hello.observer",
        &ToNameNode::Hello {
            cluster,
            peer: Peer::Observer { stale: false },
        },
    );
    let addr = "dn1:7000".to_owned();
    let data_node = Peer::DataNode {
        node: NodeId(1),
        nonce: 8,
        incarnation: 2,
        addr,
        capacity: 100,
        free: 50,
    };
    book.add(
        "hello.data_node",
        &ToNameNode::Hello {
            cluster,
            peer: data_node,
        },
    );
    book.add(
        "hello.stale_observer",
        &ToNameNode::Hello {
            cluster,
            peer: Peer::Observer { stale: true },
        },
    );
    book.add(
        "hello.name_node",
        &ToNameNode::Hello {
            cluster,
            peer: Peer::NameNode {
                nonce: 77,
                addr: "nn2:8020".to_owned(),
                rules: 0xfeed,
                to: 78,
            },
        },
    );
    book.add(
        "tell",
        &ToNameNode::Tell {
            rows: vec![PeerRow {
                event: 5,
                row: Blob(vec![1, 2, 3]),
            }],
            more: true,
        },
    );
    book.add("fetch_state", &ToNameNode::FetchState { slot: 40 });
    book.read("identify", ReadOp::Identify);
    book.op(
        "add_name_node",
        Op::AddNameNode {
            addr: "nn4:8020".to_owned(),
            nonce: 79,
            replaces: NodeId(3),
        },
    );
    book.op("remove_name_node", Op::RemoveNameNode { node: NodeId(3) });
    book.op("transfer", Op::Transfer { node: NodeId(2) });
    commands(book);
    book.read(
        "lookup",
        ReadOp::Lookup {
            at: at("f"),
            follow: true,
        },
    );
    book.read(
        "read_dir",
        ReadOp::ReadDir {
            ino: Ino(1),
            after: 4,
            limit: 100,
        },
    );
    book.read("read_link", ReadOp::ReadLink { ino: Ino(17) });
    book.read("stat_fs", ReadOp::StatFs);
    book.read(
        "locate",
        ReadOp::Locate {
            ino: Ino(17),
            offset: 1,
            length: 2,
        },
    );
    book.read("status", ReadOp::Status);
    book.add(
        "renew",
        &ToNameNode::Renew {
            orphans: vec![Ino(17)],
        },
    );
    let text = "? f(X) :- inode(X);".to_owned();
    book.add(
        "query",
        &ToNameNode::Query {
            req: 9,
            text,
            limit: 10,
            watch: true,
        },
    );
    book.add("cancel", &ToNameNode::Cancel { req: 9 });
    book.add(
        "heartbeat",
        &ToNameNode::Heartbeat {
            capacity: 100,
            free: 50,
        },
    );
    let replica = ReplicaInfo {
        block: BlockId(11),
        generation: Generation(2),
        length: 99,
    };
    book.add(
        "report",
        &ToNameNode::Report {
            replicas: vec![replica],
            first: true,
            last: false,
        },
    );
    book.add(
        "received",
        &ToNameNode::Received {
            replicas: vec![replica],
            gone: vec![BlockId(12)],
        },
    );
}

fn from_name_node(book: &mut Book) {
    book.add(
        "welcome",
        &FromNameNode::Welcome {
            cluster: ClusterId(0xc0ffee),
            session: SessionId(3),
            node: NodeId(0),
            ballot: 6,
            block_size: 64 << 20,
            replication: 3,
        },
    );
    book.add("refused", &FromNameNode::Refused { failure: failure() });
    book.add(
        "not_leader",
        &FromNameNode::NotLeader {
            leader: Some("nn2:8020".to_owned()),
        },
    );
    book.add("leads", &FromNameNode::Leads { ballot: 65_537 });
    book.add(
        "state",
        &FromNameNode::State {
            slot: 40,
            table: "inode".to_owned(),
            columns: 15,
            count: 1,
            rows: Blob(vec![4, 5]),
            end: Some((1, 9)),
        },
    );
    book.answer("name_node", Answer::NameNode(NodeId(4)));
    book.answer(
        "identity",
        Answer::Identity(Identity {
            cluster: ClusterId(0xc0ffee),
            node: NodeId(2),
            nonce: 77,
            leads: true,
            slot: 40,
        }),
    );
    book.answer("done", Answer::Done);
    let kinds = [
        Kind::File,
        Kind::Dir,
        Kind::Symlink,
        Kind::Fifo,
        Kind::Socket,
        Kind::CharDevice,
        Kind::BlockDevice,
    ];
    for kind in kinds {
        book.answer(&format!("attr.{kind:?}"), Answer::Attr(attr(kind)));
    }
    book.answer(
        "inodes",
        Answer::Inodes {
            first: Ino(100),
            count: 1024,
        },
    );
    book.answer("block", Answer::Block(located()));
    book.answer(
        "blocks",
        Answer::Blocks {
            size: 5,
            block_size: 64 << 20,
            blocks: vec![located()],
        },
    );
    let entry = Entry {
        cookie: 4,
        name: b"\xff\xfe".to_vec(),
        attr: attr(Kind::File),
    };
    book.answer(
        "entries",
        Answer::Entries {
            parent: Ino(1),
            entries: vec![entry],
            end: true,
        },
    );
    book.answer("target", Answer::Target(b"../t".to_vec()));
    let space = StatFs {
        capacity: 300,
        free: 200,
        inodes: 4,
        blocks: 3,
        replication: 3,
        block_size: 64 << 20,
    };
    book.answer("stat_fs", Answer::StatFs(space.clone()));
    let live = NodeStatus {
        node: NodeId(1),
        addr: "dn1:7000".to_owned(),
        live: true,
        capacity: 100,
        free: 50,
        blocks: 3,
    };
    book.answer(
        "status",
        Answer::Status(Status {
            nodes: vec![live],
            space,
            under_replicated: 2,
            missing: 1,
            sessions: 5,
            starting: true,
            applied_slot: 77,
            namenodes: vec![NameNodeStatus {
                node: NodeId(2),
                addr: "nn2:8020".to_owned(),
                votes: true,
                slot: 39,
                live: true,
            }],
            ballot: Some((4, NodeId(2))),
        }),
    );
    book.add(
        "answered.failure",
        &FromNameNode::Answered {
            seq: 7,
            result: Err(failure()),
        },
    );
    book.add(
        "read_answered",
        &FromNameNode::ReadAnswered {
            req: 9,
            result: Ok(Answer::Done),
        },
    );
    book.add("renewed", &FromNameNode::Renewed);
    book.add(
        "rows",
        &FromNameNode::Rows {
            req: 9,
            columns: vec!["Ino".to_owned()],
            run: 12,
            added: vec!["[1]".to_owned()],
            removed: vec![],
            end: true,
            failure: Some(failure()),
        },
    );
    let copy = Order::Copy {
        block: BlockId(11),
        generation: Generation(2),
        length: 99,
        target: node(3),
    };
    book.add(
        "order.copy",
        &FromNameNode::Order {
            ballot: 6,
            order: copy,
        },
    );
    let delete = Order::Delete {
        blocks: vec![(BlockId(11), Generation(2))],
    };
    book.add(
        "order.delete",
        &FromNameNode::Order {
            ballot: 6,
            order: delete,
        },
    );
}

fn data_node(book: &mut Book) {
    let (cluster, block, generation) = (ClusterId(0xc0ffee), BlockId(11), Generation(2));
    book.add(
        "open_pipeline",
        &ToDataNode::OpenPipeline {
            cluster,
            block,
            generation,
            existing: Some((Generation(1), 99)),
            block_size: 64 << 20,
            node: NodeId(1),
            rest: vec![node(2)],
            copy: false,
        },
    );
    book.add(
        "packet",
        &ToDataNode::Packet {
            offset: 4096,
            checksums: vec![1, 0xffff_ffff],
            sync: true,
        },
    );
    book.add("close_pipeline", &ToDataNode::ClosePipeline);
    book.add(
        "read_block",
        &ToDataNode::Read {
            cluster,
            block,
            generation,
            offset: 1,
            length: 2,
        },
    );
    book.add("suspect", &ToDataNode::Suspect { block });
    let failed = vec![(NodeId(2), failure())];
    book.add(
        "opened",
        &FromDataNode::Opened {
            members: vec![NodeId(1)],
            failed: failed.clone(),
        },
    );
    book.add("written", &FromDataNode::Written { failed });
    book.add(
        "data",
        &FromDataNode::Data {
            start: 4096,
            checksums: vec![5],
            length: 99,
        },
    );
    book.add("failed", &FromDataNode::Failed(failure()));
}

#[test]
fn bytes_of_every_message() {
    let mut book = Book::default();
    to_name_node(&mut book);
    from_name_node(&mut book);
    data_node(&mut book);
    let text = book
        .lines
        .iter()
        .fold(String::new(), |text, (name, bytes)| {
            text + name + " " + bytes + "\n"
        });
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(
            concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden.txt"),
            &text,
        )
        .unwrap();
        return;
    }
    for (is, was) in text.lines().zip(GOLDEN.lines()) {
        assert_eq!(is, was);
    }
    assert_eq!(text.lines().count(), GOLDEN.lines().count());
}

#[test]
fn a_frame_byte_by_byte() {
    let bytes = encode_message(&ToNameNode::Cancel { req: 0x0102_0304 }, 3).unwrap();
    let parts = [
        "424f4d46", // BOMF
        "0100",     // to a NameNode
        "0200",     // version 2
        "0c000000", // header of 12 bytes
        "03000000", // body of 3 bytes
        "ca3ee800", // CRC-32C
        "05000000", // the sixth variant
        "0403020100000000",
    ];
    assert_eq!(hex(&bytes), parts.concat());
}

#[test]
fn a_record_byte_by_byte() {
    let bytes = encode_record(0x0101, 2, &(1u8, "ab".to_owned())).unwrap();
    let parts = [
        "424f4d46",
        "0101",
        "0200",
        "0b000000",
        "00000000",
        "00d13681",
        "01",
        "0200000000000000",
        "6162",
    ];
    assert_eq!(hex(&bytes), parts.concat());
}
