//! Queries, and what DataNodes send and get.

use super::*;

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
        let order = |order| {
            Some(FromNameNode::Order {
                ballot: (1 << 16) | 1,
                order,
            })
        };
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
