//! Messages to rows and rows to messages.

use super::input::{self, DataNodeHello, Numbers};
use super::output::{self, Cluster, Sent};
use super::{ConnId, errno, json};
use boomfs_wire::*;
use overlog::{Row, Value};

const CONN: ConnId = ConnId(17);

fn numbers() -> Numbers {
    Numbers {
        arrival: 1,
        conn: CONN,
        session: 20,
        seq: 3,
        ack: 2,
    }
}

fn caller() -> Caller {
    Caller {
        uid: 1000,
        gid: 100,
        groups: vec![4, 27],
    }
}

fn at(base: u64, path: &[&str]) -> At {
    At {
        base: Ino(base),
        path: path.iter().map(|n| n.as_bytes().to_vec()).collect(),
    }
}

/// The event for an op, shown from the op's name on.
fn shown(op: &Op) -> String {
    let row = input::request(numbers(), &caller(), op).unwrap();
    let values = row.values();
    assert_eq!(
        format!("{:?}", &values[..8]),
        r#"[1, @"c11", 20, 3, 2, 1000, 100, [4, 27]]"#
    );
    assert_eq!(values.len(), 12);
    values[8..]
        .iter()
        .map(|v| v.to_string())
        .collect::<Vec<_>>()
        .join(" ")
}

#[test]
fn commands_become_requests() {
    let create = Op::Create {
        at: at(1, &["a", "b"]),
        kind: Kind::File,
        mode: 0o644,
        rdev: 0,
        exclusive: true,
        lease: false,
        block_size: 4096,
        replication: 2,
        ino: Ino(7),
    };
    let rename = Op::Rename {
        from: at(1, &["a"]),
        to: at(2, &["b", "c"]),
        no_replace: true,
        exchange: false,
    };
    let setattr = Op::SetAttr {
        at: at(9, &[]),
        mode: Some(0o600),
        uid: None,
        gid: Some(5),
        size: Some(10),
        atime: Some(SetTime::Now),
        mtime: Some(SetTime::At(-5)),
    };
    let commit = Op::Commit {
        ino: Ino(9),
        size: 100,
        blocks: vec![(BlockId(30), Generation(2), 100)],
        mtime: None,
    };
    let members = vec![NodeId(1), NodeId(2)];
    let commit_generation = Op::CommitGeneration {
        ino: Ino(9),
        block: BlockId(30),
        generation: Generation(3),
        members,
    };
    let cases = [
        (Op::CloseSession, r#""close_session" 0 [] []"#),
        (Op::ReserveInodes { count: 10 }, r#""reserve" 0 [] [10]"#),
        (
            Op::Mkdir {
                at: at(1, &["d"]),
                mode: 0o755,
                ino: Ino(0),
            },
            r#""mkdir" 1 ["d"] [493, 0]"#,
        ),
        (
            create,
            r#""create" 1 ["a", "b"] ["file", 420, 0, true, false, 4096, 2, 7]"#,
        ),
        (
            Op::Symlink {
                at: at(1, &["l"]),
                target: b"/x/y".to_vec(),
            },
            r#""symlink" 1 ["l"] ["/x/y"]"#,
        ),
        (
            Op::Link {
                ino: Ino(9),
                at: at(1, &["n"]),
            },
            r#""link" 1 ["n"] [9]"#,
        ),
        (Op::Unlink { at: at(1, &["n"]) }, r#""unlink" 1 ["n"] []"#),
        (Op::Rmdir { at: at(1, &["d"]) }, r#""rmdir" 1 ["d"] []"#),
        (rename, r#""rename" 1 ["a"] [2, ["b", "c"], true, false]"#),
        (
            setattr,
            r#""setattr" 9 [] [[384], [], [5], [10], ["now"], ["at", -5]]"#,
        ),
        (Op::AcquireLease { ino: Ino(9) }, r#""acquire" 9 [] []"#),
        (Op::ReleaseLease { ino: Ino(9) }, r#""release" 9 [] []"#),
        (
            Op::AddBlock {
                ino: Ino(9),
                offset: 0,
                exclude: vec![NodeId(3)],
            },
            r#""add_block" 9 [] [0, [3]]"#,
        ),
        (
            Op::ReserveGeneration {
                ino: Ino(9),
                block: BlockId(30),
            },
            r#""reserve_generation" 9 [] [30]"#,
        ),
        (
            commit_generation,
            r#""commit_generation" 9 [] [30, 3, [1, 2]]"#,
        ),
        (commit, r#""commit" 9 [] [100, [[30, 2, 100]], []]"#),
    ];
    for (op, want) in cases {
        assert_eq!(shown(&op), want);
    }
}

#[test]
fn questions_become_asks() {
    let shown = |op: ReadOp| {
        let row = input::ask(CONN, -5, &caller(), &op).unwrap();
        let values = row.values();
        assert_eq!(
            format!("{:?}", &values[..5]),
            r#"[@"c11", -5, 1000, 100, [4, 27]]"#
        );
        values[5..]
            .iter()
            .map(|v| v.to_string())
            .collect::<Vec<_>>()
            .join(" ")
    };
    assert_eq!(
        shown(ReadOp::Lookup {
            at: at(1, &["a"]),
            follow: true
        }),
        r#""lookup" 1 ["a"] [true]"#
    );
    assert_eq!(
        shown(ReadOp::ReadDir {
            ino: Ino(1),
            after: 3,
            limit: 100
        }),
        r#""readdir" 1 [] [3, 100]"#
    );
    assert_eq!(
        shown(ReadOp::ReadLink { ino: Ino(1) }),
        r#""readlink" 1 [] []"#
    );
    assert_eq!(shown(ReadOp::StatFs), r#""statfs" 0 [] []"#);
    assert_eq!(shown(ReadOp::Status), r#""status" 0 [] []"#);
    let all = ReadOp::Locate {
        ino: Ino(1),
        offset: 5,
        length: u64::MAX,
    };
    assert_eq!(
        shown(all),
        format!(r#""locate" 1 [] [5, {}]"#, i64::MAX - 5)
    );
}

#[test]
fn the_other_events() {
    let shown = |row: Row| format!("{row:?}");
    assert_eq!(
        shown(input::hello_client(1, CONN, 0, 9, "tar").unwrap()),
        r#"[1, @"c11", 0, 4, "tar"]"#
    );
    let hello = DataNodeHello {
        node: 2,
        nonce: 9,
        incarnation: 3,
        addr: "dn:1",
        capacity: 10,
        free: 5,
    };
    let row = input::hello_datanode(1, CONN, hello).unwrap();
    assert_eq!(shown(row), r#"[1, @"c11", 2, 4, 3, "dn:1", 10, 5]"#);
    assert_eq!(
        shown(input::renew(CONN, 20, [5, 6]).unwrap()),
        r#"[@"c11", 20, [5, 6]]"#
    );
    assert_eq!(shown(input::closed(CONN)), r#"[@"c11"]"#);
    assert_eq!(
        shown(input::heartbeat(CONN, 2, 10, 5).unwrap()),
        r#"[@"c11", 2, 10, 5]"#
    );
    let replica = ReplicaInfo {
        block: BlockId(30),
        generation: Generation(1),
        length: 7,
    };
    let row = input::report(CONN, 2, true, false, &[replica]).unwrap();
    assert_eq!(shown(row), r#"[@"c11", 2, true, false, [[30, 1, 7]]]"#);
    let row = input::received(CONN, 2, &[replica], [31]).unwrap();
    assert_eq!(shown(row), r#"[@"c11", 2, [[30, 1, 7]], [31]]"#);
    let vote = Row::new(&[Value::list([
        Value::list([Value::Int(4), Value::Int(2)]),
        Value::list([Value::Int(7), Value::list([])]),
    ])]);
    let value = input::vote_value(vote.as_bytes()).unwrap();
    assert_eq!(shown(Row::check(value.to_vec(), 1).unwrap()), "[[7, []]]");
    assert_eq!(input::vote_value(b"\xff"), None);
    assert_eq!(input::peer_nonce(input::peer_addr(77).as_bytes()), Some(77));
    assert_eq!(input::peer_nonce(b"disk"), None);
    assert_eq!(shown(input::timer(8)), "[8]");
    assert_eq!(
        shown(input::configure(3, 4096, 9, "a:1").unwrap()),
        r#"[3, 4096, 9, "a:1", @"n9"]"#
    );
}

#[test]
fn what_no_row_can_hold_is_refused() {
    let errno = |op: Op| input::request(numbers(), &caller(), &op).unwrap_err().errno;
    let unlink = |name: &[u8]| Op::Unlink {
        at: At {
            base: Ino(1),
            path: vec![name.to_vec()],
        },
    };
    for bad in [&b""[..], b".", b"a/b", b"a\0b"] {
        assert_eq!(errno(unlink(bad)), errno::EINVAL);
    }
    // Longer than a name may be: the rules say so, for they know what comes first.
    assert!(input::request(numbers(), &caller(), &unlink(&[b'x'; 300])).is_ok());
    assert_eq!(errno(unlink(&[b'x'; 5000])), 36);
    assert_eq!(
        errno(Op::AcquireLease { ino: Ino(u64::MAX) }),
        errno::EINVAL
    );
    assert_eq!(errno(Op::RemoveTree { at: at(1, &["a"]) }), 95);
    let exclude = vec![NodeId(i64::MAX as u64); 200_000];
    assert_eq!(
        errno(Op::AddBlock {
            ino: Ino(1),
            offset: 0,
            exclude
        }),
        errno::EMSGSIZE
    );
}

#[test]
fn names_are_bytes() {
    let name = vec![0xff, 0xfe, b'x'];
    let row = input::request(
        numbers(),
        &caller(),
        &Op::Unlink {
            at: At {
                base: Ino(1),
                path: vec![name.clone()],
            },
        },
    );
    let values = row.unwrap().values();
    assert_eq!(values[10], Value::list([Value::str(&name)]));
}

/// Builds rows directly; the same as packing values.
#[test]
fn rows_are_packed_as_values_are() {
    let row = input::renew(CONN, 20, [0, 1, 255, 256, i64::MAX as u64]).unwrap();
    let list = [0, 1, 255, 256, i64::MAX].map(Value::Int);
    assert_eq!(
        row,
        Row::new(&[Value::addr("c11"), Value::Int(20), Value::list(list)])
    );
}

fn cluster() -> Cluster {
    Cluster {
        cluster: ClusterId(5),
        ballot: 1,
        block_size: 4096,
        replication: 3,
        node: 0,
    }
}

fn ints(items: &[i64]) -> Value {
    Value::list(items.iter().map(|i| Value::Int(*i)).collect::<Vec<_>>())
}

fn row(rest: &[Value]) -> Row {
    let mut all = vec![Value::addr("c11")];
    all.extend_from_slice(rest);
    Row::new(&all)
}

fn message(sent: Sent, rest: &[Value]) -> FromNameNode {
    output::message(sent, &row(rest), &cluster()).unwrap()
}

fn attr_value() -> Value {
    let mut items = vec![Value::Int(9), Value::str("file")];
    items.extend((3..16).map(Value::Int));
    Value::list(items)
}

fn attr() -> Attr {
    Attr {
        ino: Ino(9),
        kind: Kind::File,
        mode: 3,
        uid: 4,
        gid: 5,
        size: 6,
        allocated: 7,
        nlink: 8,
        rdev: 9,
        atime_ns: 10,
        mtime_ns: 11,
        ctime_ns: 12,
        crtime_ns: 13,
        block_size: 14,
        replication: 15,
    }
}

#[test]
fn greetings_and_orders() {
    let welcome = |session, node| FromNameNode::Welcome {
        cluster: ClusterId(5),
        session: SessionId(session),
        node: NodeId(node),
        ballot: 1,
        block_size: 4096,
        replication: 3,
    };
    assert_eq!(
        message(Sent::WelcomeClient, &[Value::Int(20)]),
        welcome(20, 0)
    );
    assert_eq!(
        message(Sent::WelcomeDataNode, &[Value::Int(2)]),
        welcome(0, 2)
    );
    let refused = message(
        Sent::Refuse,
        &["ESTALE".into(), "session 20 has expired".into()],
    );
    let failure = Failure {
        errno: 116,
        message: "session 20 has expired".to_owned(),
    };
    assert_eq!(refused, FromNameNode::Refused { failure });
    assert_eq!(message(Sent::Renewed, &[]), FromNameNode::Renewed);
    let copy = [30, 2, 100, 3].map(Value::Int);
    let target = NodeAddr {
        node: NodeId(3),
        addr: "dn:1".to_owned(),
    };
    let order = Order::Copy {
        block: BlockId(30),
        generation: Generation(2),
        length: 100,
        target,
    };
    let copy = [&copy[..], &["dn:1".into()]].concat();
    assert_eq!(
        message(Sent::OrderCopy, &copy),
        FromNameNode::Order { ballot: 1, order }
    );
    let order = Order::Delete {
        blocks: vec![(BlockId(30), Generation(2))],
    };
    let delete = [Value::list([ints(&[30, 2])])];
    assert_eq!(
        message(Sent::OrderDelete, &delete),
        FromNameNode::Order { ballot: 1, order }
    );
}

#[test]
fn payloads_become_answers() {
    let node = Value::list([Value::Int(2), "dn:1".into()]);
    let block = [30, 0, 1, 100].map(Value::Int);
    let block = [&block[..], &[Value::list([node.clone()])]].concat();
    let located = LocatedBlock {
        block: BlockId(30),
        offset: 0,
        generation: Generation(1),
        length: 100,
        nodes: vec![NodeAddr {
            node: NodeId(2),
            addr: "dn:1".to_owned(),
        }],
    };
    let entry = Value::list([Value::Int(4), Value::str([0xff]), attr_value()]);
    let space = StatFs {
        capacity: 1,
        free: 2,
        inodes: 3,
        blocks: 4,
        replication: 5,
        block_size: 6,
    };
    let nodes = Value::list([Value::list([
        Value::Int(2),
        "dn:1".into(),
        true.into(),
        Value::Int(10),
        Value::Int(5),
        Value::Int(1),
    ])]);
    let status = Status {
        nodes: vec![NodeStatus {
            node: NodeId(2),
            addr: "dn:1".to_owned(),
            live: true,
            capacity: 10,
            free: 5,
            blocks: 1,
        }],
        under_replicated: 1,
        missing: 2,
        sessions: 3,
        starting: false,
        namenodes: vec![NameNodeStatus {
            node: NodeId(2),
            addr: "nn:1".to_owned(),
            votes: true,
            slot: 7,
            live: false,
        }],
        ballot: Some((5, NodeId(1))),
        ..Status::default()
    };
    let tagged = |tag: &str, items: &[Value]| Value::list([&[tag.into()], items].concat());
    let cases = [
        (Value::list([]), Answer::Done),
        (tagged("attr", &[attr_value()]), Answer::Attr(attr())),
        (
            tagged("inodes", &[5.into(), 10.into()]),
            Answer::Inodes {
                first: Ino(5),
                count: 10,
            },
        ),
        (tagged("block", &block), Answer::Block(located.clone())),
        (
            tagged(
                "blocks",
                &[100.into(), 4096.into(), Value::list([Value::list(block)])],
            ),
            Answer::Blocks {
                size: 100,
                block_size: 4096,
                blocks: vec![located],
            },
        ),
        (
            tagged("entries", &[1.into(), Value::list([entry]), true.into()]),
            Answer::Entries {
                parent: Ino(1),
                entries: vec![Entry {
                    cookie: 4,
                    name: vec![0xff],
                    attr: attr(),
                }],
                end: true,
            },
        ),
        (
            tagged("target", &["/x".into()]),
            Answer::Target(b"/x".to_vec()),
        ),
        (
            tagged("statfs", &[1, 2, 3, 4, 5, 6].map(Value::Int)),
            Answer::StatFs(space),
        ),
        (
            tagged(
                "status",
                &[
                    nodes,
                    1.into(),
                    2.into(),
                    3.into(),
                    false.into(),
                    Value::list([Value::list([
                        2.into(),
                        "nn:1".into(),
                        true.into(),
                        7.into(),
                        false.into(),
                    ])]),
                    Value::list([ints(&[5, 1])]),
                ],
            ),
            Answer::Status(status),
        ),
    ];
    for (payload, want) in cases {
        assert_eq!(output::answer(&payload).unwrap(), want);
        let reply = message(Sent::Reply, &[Value::Int(3), "".into(), payload.clone()]);
        assert_eq!(
            reply,
            FromNameNode::Answered {
                seq: 3,
                result: Ok(want.clone())
            }
        );
        let read = output::read_reply(&row(&[Value::Int(-4), "".into(), payload])).unwrap();
        assert_eq!(read, (-4, Ok(want)));
    }
}

#[test]
fn failures_keep_their_errno_and_their_words() {
    let payload = Value::list(["/a: no such directory".into()]);
    let reply = message(Sent::Reply, &[Value::Int(3), "ENOENT".into(), payload]);
    let failure = Failure {
        errno: 2,
        message: "/a: no such directory".to_owned(),
    };
    assert_eq!(
        reply,
        FromNameNode::Answered {
            seq: 3,
            result: Err(failure)
        }
    );
}

#[test]
fn a_payload_that_is_none_is_an_internal_error() {
    for payload in [
        ints(&[1]),
        Value::list(["attr".into()]),
        Value::list(["attr".into(), ints(&[1])]),
        Value::Int(3),
    ] {
        let reply = message(Sent::Reply, &[Value::Int(3), "".into(), payload]);
        let FromNameNode::Answered {
            seq: 3,
            result: Err(failure),
        } = reply
        else {
            panic!("{reply:?}")
        };
        assert_eq!(failure.errno, errno::EIO);
    }
    let reply = message(
        Sent::Reply,
        &[Value::Int(3), "EWHAT".into(), Value::list([])],
    );
    let FromNameNode::Answered {
        result: Err(failure),
        ..
    } = reply
    else {
        panic!("{reply:?}")
    };
    assert_eq!(failure.errno, errno::EIO);
    assert!(output::message(Sent::WelcomeClient, &row(&[Value::Int(-1)]), &cluster()).is_err());
    assert!(output::message(Sent::OrderCopy, &row(&[]), &cluster()).is_err());
    assert!(output::read_reply(&row(&["x".into(), "".into(), Value::list([])])).is_err());
}

#[test]
fn connections_have_names() {
    assert_eq!(ConnId(17).to_string(), "c11");
    assert_eq!(ConnId::parse(b"c11"), Some(ConnId(17)));
    for bad in [
        &b""[..],
        b"c",
        b"17",
        b"cx",
        b"c99999999999999999999",
        b"nn",
    ] {
        assert_eq!(ConnId::parse(bad), None);
    }
}

#[test]
fn rows_as_json() {
    let values = [
        Value::Int(-3),
        Value::Bool(true),
        Value::float(1.5),
        Value::float(f64::NAN),
        Value::str("a\"b\n"),
        Value::str([b'x', 0xff]),
        Value::bytes([0, 0xab]),
        Value::addr("c1"),
        Value::list([Value::Int(1), Value::list([])]),
    ];
    assert_eq!(
        json::row(&values),
        "[-3,true,1.5,\"nan\",\"a\\\"b\\n\",\"x\u{fffd}\",\"00ab\",\"c1\",[1,[]]]"
    );
}
