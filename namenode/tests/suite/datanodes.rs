//! DataNodes: who they are, what they have, their death, and what is copied and deleted because of it.

use crate::driver::*;
use crate::helpers::*;
use overlog::Value;

/// DataNodes with their connections.
pub type Nodes = Vec<(String, i64)>;

/// Nodes that have reported nothing, a client, and a store that has settled.
pub fn cluster(replication: i64, count: i64) -> (Real, Client, Nodes) {
    let mut c = Real::new(replication);
    let nodes = (1..=count)
        .map(|n| (format!("d{n}"), c.datanode(&format!("d{n}"), n)))
        .collect();
    let client = c.client("a");
    c.pass(1);
    assert_eq!(c.rows("settled").len(), 1);
    (c, client, nodes)
}

/// A closed file of one block that these nodes have.
fn file(c: &mut Real, a: &mut Client, name: &str, nodes: &[(String, i64)]) -> i64 {
    let ino = c.attr(a, create_with(1, name, true, true, 0)).ino;
    let block = Block::from(
        c.ok(a, cmd("add_block", ino, "", [i(0), none()]))
            .as_slice(),
    )
    .block;
    for (conn, node) in nodes {
        c.received(conn, *node, &[(block, 1, 100)], &[]);
    }
    c.attr(a, commit(ino, 100, &[(block, 1, 100)]));
    c.ok(a, cmd("release", ino, "", []));
    block
}

/// Time passes; everybody else is heard of.
pub fn pass(c: &mut Real, a: &Client, alive: &[(String, i64)], seconds: i64) {
    for _ in 0..seconds {
        c.pass(1);
        for (conn, node) in alive {
            c.beat(conn, *node);
        }
        c.renew(a, &[]);
    }
}

fn beat(conn: &str, node: i64, free: i64) -> Vec<Value> {
    vec![Value::addr(conn), i(node), i(1 << 40), i(free)]
}

/// Nodes that are alive.
fn up(c: &mut Real) -> Vec<i64> {
    c.column("up", 0)
}

/// Who has a block, as a reader hears it.
fn located(c: &mut Real, block: i64) -> Vec<i64> {
    let ino = c
        .rows("block")
        .iter()
        .find(|row| row[0] == i(block))
        .unwrap()[1]
        .as_int()
        .unwrap();
    let payload = c
        .ask("locate", ino, "", vec![i(0), i(1 << 40)])
        .unwrap()
        .unwrap();
    firsts(&payload[3].as_list().unwrap()[0].as_list().unwrap()[4])
}

fn under_replicated(c: &mut Real) -> Vec<i64> {
    c.column("under_replicated", 0)
}

// Who they are.

#[test]
fn a_new_node_is_registered_in_the_log() {
    let mut c = Real::new(3);
    let slot = c.slot;
    let node = c.greet("d1", 0, 7, "host:1");
    assert_eq!(c.rows("datanode"), [vec![i(node), i(7)]]);
    assert_eq!((c.slot, up(&mut c)), (slot + 1, vec![node]));
    let row = &c.rows("node")[0];
    assert_eq!(
        (&row[1], &row[2], &row[6]),
        (&Value::addr("d1"), &s("host:1"), &b(false))
    );
    c.report("d1", node, (true, true), &[]);
    assert_eq!(c.rows("node")[0][6], b(true), "it has reported");
}

#[test]
fn a_node_that_greets_again_is_the_same() {
    let mut c = Real::new(3);
    let node = c.greet("d1", 0, 7, "host:1");
    let slot = c.slot;
    // It did not hear its number.
    assert_eq!(c.greet("d2", 0, 7, "host:1"), node);
    // It restarted elsewhere.
    assert_eq!(c.greet("d3", node, 7, "host:2"), node);
    assert_eq!((c.slot, c.rows("datanode").len()), (slot, 1));
    let row = &c.rows("node")[0];
    assert_eq!((&row[1], &row[2]), (&Value::addr("d3"), &s("host:2")));
    c.restart();
    assert_eq!(c.greet("d4", node, 7, "host:2"), node);
    assert_eq!(up(&mut c), [node]);
    assert_eq!(
        c.greet("d5", 0, 8, "host:3"),
        c.rows("datanode")[1][0].as_int().unwrap()
    );
}

#[test]
fn two_greetings_of_a_new_node_in_one_run_register_it_once() {
    let mut c = Real::new(3);
    let hello = |conn: &str, arrival: i64, node: i64| {
        let room = i(1 << 40);
        vec![
            i(arrival),
            Value::addr(conn),
            i(node),
            i(7),
            i(1),
            s(conn),
            room.clone(),
            room,
        ]
    };
    let rows = vec![
        c.row("hello_datanode", hello("y", 1, 0)),
        c.row("hello_datanode", hello("x", 2, 0)),
    ];
    c.run(rows);
    assert_eq!(
        (
            c.got("x", "welcome_datanode"),
            c.got("y", "welcome_datanode")
        ),
        (1, 1)
    );
    assert_eq!(c.rows("datanode").len(), 1);
    assert_eq!(
        c.rows("node")[0][1],
        Value::addr("x"),
        "the later one is where it is"
    );
    let node = c.rows("datanode")[0][0].as_int().unwrap();
    let rows = vec![
        c.row("hello_datanode", hello("z", 3, node)),
        c.row("hello_datanode", hello("w", 4, node)),
    ];
    c.run(rows);
    assert_eq!(c.rows("node")[0][1], Value::addr("w"));
    assert_eq!(c.rows("greeting").len(), 0, "nothing is left of it");
}

#[test]
fn nodes_of_other_clusters_are_refused() {
    let mut c = Real::new(3);
    let room = i(1 << 40);
    let hello = vec![
        i(1),
        Value::addr("x"),
        i(99),
        i(7),
        i(1),
        s("host:1"),
        room.clone(),
        room,
    ];
    c.feed("hello_datanode", hello);
    assert_eq!(c.refusals("x"), ["ENODEV"]);
    assert_eq!((c.rows("datanode").len(), c.rows("node").len()), (0, 0));
    c.feed("heartbeat", beat("y", 99, 0));
    assert_eq!(c.refusals("y"), ["ESTALE"], "it has to greet first");
}

#[test]
fn several_heartbeats_in_one_run() {
    let (mut c, _, nodes) = cluster(1, 1);
    // They waited while the NameNode was busy.
    let rows = [500, 300, 400].map(|free| c.row("heartbeat", beat("d1", nodes[0].1, free)));
    c.run(rows.to_vec());
    assert_eq!(
        c.rows("node")[0][5],
        i(300),
        "the least room that it told of"
    );
}

// What they have.

#[test]
fn a_report_replaces_what_was_known() {
    let (mut c, mut a, nodes) = cluster(1, 1);
    let one = file(&mut c, &mut a, "f", &nodes);
    let two = file(&mut c, &mut a, "g", &nodes);
    assert_eq!(
        (located(&mut c, one).len(), located(&mut c, two).len()),
        (1, 1)
    );
    let (conn, node) = &nodes[0];
    c.report(conn, *node, (true, false), &[(two, 1, 100)]);
    assert_eq!(
        (located(&mut c, one).len(), located(&mut c, two).len()),
        (0, 1)
    );
    c.report(conn, *node, (false, true), &[(one, 1, 100)]);
    assert_eq!(
        (located(&mut c, one).len(), located(&mut c, two).len()),
        (1, 1)
    );
    // First and last at once: it has nothing.
    c.report(conn, *node, (true, true), &[]);
    assert_eq!(c.rows("replica").len(), 0);
}

#[test]
fn what_comes_and_goes_is_told() {
    let (mut c, mut a, nodes) = cluster(1, 1);
    let block = file(&mut c, &mut a, "f", &[]);
    let (conn, node) = &nodes[0];
    assert_eq!(
        c.rows("missing"),
        [vec![i(block), c.rows("block")[0][1].clone()]]
    );
    c.received(conn, *node, &[(block, 1, 100)], &[]);
    assert_eq!(c.rows("replica"), [[block, *node, 1, 100].map(i).to_vec()]);
    c.received(conn, *node, &[(block, 2, 50)], &[]);
    assert_eq!(c.rows("replica"), [[block, *node, 2, 50].map(i).to_vec()]);
    c.received(conn, *node, &[], &[block]);
    assert_eq!(c.rows("replica").len(), 0);
}

#[test]
fn several_words_of_one_replica_in_one_run() {
    let (mut c, mut a, nodes) = cluster(1, 1);
    let block = file(&mut c, &mut a, "f", &[]);
    let (conn, node) = &nodes[0];
    let told = |generation: i64, length: i64| {
        let came = list([list([block, generation, length].map(i))]);
        vec![Value::addr(conn), i(*node), came, none()]
    };
    let rows = [(1, 900), (2, 10), (2, 50)].map(|(g, l)| c.row("received", told(g, l)));
    c.run(rows.to_vec());
    assert_eq!(
        c.rows("replica"),
        [[block, *node, 2, 50].map(i).to_vec()],
        "the newest and longest"
    );
}

#[test]
fn a_block_that_nobody_reported_yet_is_located_without_nodes() {
    let (mut c, mut a, nodes) = cluster(2, 2);
    let block = file(&mut c, &mut a, "f", &nodes);
    assert_eq!(located(&mut c, block), [nodes[0].1, nodes[1].1]);
    c.restart();
    // The block and its length are known, and who has it is not: a client that finds nobody asks again.
    assert_eq!(located(&mut c, block), Vec::<i64>::new());
    c.greet("d2", nodes[1].1, 2, "host:1");
    assert_eq!(located(&mut c, block), Vec::<i64>::new());
    c.report("d2", nodes[1].1, (true, true), &[(block, 1, 100)]);
    assert_eq!(located(&mut c, block), [nodes[1].1]);
}

// Life and death.

#[test]
fn a_node_is_dead_after_10_s_of_silence() {
    let (mut c, mut a, nodes) = cluster(2, 2);
    let block = file(&mut c, &mut a, "f", &nodes);
    c.beat("d1", nodes[0].1);
    pass(&mut c, &a, &nodes[1..], 10);
    assert_eq!(located(&mut c, block), [nodes[0].1, nodes[1].1]);
    pass(&mut c, &a, &nodes[1..], 1);
    assert_eq!(up(&mut c), [nodes[1].1]);
    assert_eq!(
        located(&mut c, block),
        [nodes[1].1],
        "what it has does not count"
    );
    assert_eq!(under_replicated(&mut c), [block]);
    c.sent.clear();
    c.beat("d1", nodes[0].1);
    assert_eq!(c.refusals("d1"), ["ESTALE"], "it has to greet again");
    assert_eq!(up(&mut c), [nodes[1].1]);
}

#[test]
fn a_dead_node_comes_back() {
    let (mut c, mut a, nodes) = cluster(2, 2);
    let block = file(&mut c, &mut a, "f", &nodes);
    pass(&mut c, &a, &nodes[1..], 12);
    c.greet("d1", nodes[0].1, 1, "host:1");
    assert_eq!(
        located(&mut c, block),
        [nodes[1].1],
        "not until it has reported"
    );
    c.report("d1", nodes[0].1, (true, true), &[(block, 1, 100)]);
    assert_eq!(located(&mut c, block), [nodes[0].1, nodes[1].1]);
    assert_eq!(under_replicated(&mut c), Vec::<i64>::new());
}

#[test]
fn a_heartbeat_in_the_run_of_the_timer_counts() {
    let (mut c, _, nodes) = cluster(1, 1);
    c.wall += 20 * SECOND;
    c.mono += 20 * SECOND;
    let rows = vec![
        c.row("every_second", vec![i(c.wall)]),
        c.row("heartbeat", beat("d1", nodes[0].1, 1 << 40)),
    ];
    c.run(rows);
    assert_eq!(
        up(&mut c),
        [nodes[0].1],
        "the NameNode was stopped, and not the node"
    );
}

#[test]
fn what_a_dead_node_says_does_not_count() {
    let (mut c, mut a, nodes) = cluster(2, 2);
    let block = file(&mut c, &mut a, "f", &nodes);
    pass(&mut c, &a, &nodes[1..], 12);
    // It had not noticed.
    c.received("d1", nodes[0].1, &[(block, 1, 100)], &[]);
    assert_eq!(located(&mut c, block), [nodes[1].1]);
    c.report("d1", nodes[0].1, (true, true), &[(block, 1, 100)]);
    assert_eq!(
        c.column("replica", 1),
        [nodes[1].1],
        "what is not alive has nothing"
    );
    assert_eq!(c.rows("reported").len(), 1);
    c.greet("d1", nodes[0].1, 1, "host:1");
    assert_eq!(located(&mut c, block), [nodes[1].1]);
}

#[test]
fn what_comes_late_on_a_connection_that_was_left_does_not_count() {
    let (mut c, mut a, nodes) = cluster(1, 1);
    let block = file(&mut c, &mut a, "f", &nodes);
    let node = nodes[0].1;
    c.greet("d2", node, 1, "host:1");
    c.report("d2", node, (true, true), &[(block, 1, 100)]);
    let known = (c.rows("node"), c.rows("replica"));
    c.received("d1", node, &[(block, 2, 50)], &[]);
    c.received("d1", node, &[], &[block]);
    c.report("d1", node, (true, true), &[]);
    c.feed("heartbeat", beat("d1", node, 0));
    assert_eq!((c.rows("node"), c.rows("replica")), known);
    assert!(c.refusals("d1").contains(&"ESTALE".to_string()));
    // Nor does what is said on both in one run.
    let rows =
        [("d1", 0), ("d2", 7)].map(|(conn, free)| c.row("heartbeat", beat(conn, node, free)));
    c.run(rows.to_vec());
    assert_eq!(c.rows("node")[0][5], i(7));
    assert_eq!(c.refusals("d2"), Vec::<String>::new());
}

#[test]
fn a_greeting_that_comes_late_on_a_connection_that_was_left_is_mended() {
    let (mut c, mut a, nodes) = cluster(1, 2);
    let block = file(&mut c, &mut a, "f", &nodes[..1]);
    let (conn, node) = &nodes[0];
    // It had left that one before it greeted on the one that it uses.
    c.greet("left", *node, 1, "host:1");
    assert_eq!(c.rows("reported").len(), 1, "what greets has to report");
    c.sent.clear();
    c.beat(conn, *node);
    assert_eq!(c.refusals(conn), ["ESTALE"], "it has to greet again");
    c.greet("d3", *node, 1, "host:1");
    c.report("d3", *node, (true, true), &[(block, 1, 100)]);
    c.sent.clear();
    c.beat("d3", *node);
    assert_eq!(c.refusals("d3"), Vec::<String>::new());
    // Orders go to where it is.
    c.received("d3", *node, &[(block, 1, 100), (3, 1, 1)], &[]);
    c.pass(1);
    assert_eq!(c.deletions().len(), 1);
    assert_eq!(c.got("d3", "order_delete"), 1);
}

// The start.

/// Restarts a store in which block `f` should have two replicas and has one, and the store does not know `x`.
fn restarted() -> (Real, Client, Nodes, i64) {
    let (mut c, mut a, nodes) = cluster(2, 3);
    let block = file(&mut c, &mut a, "f", &nodes[..1]);
    c.restart();
    c.hello("a", a.session, 0);
    (c, a, nodes, block)
}

#[test]
fn nothing_is_repaired_or_deleted_until_all_nodes_have_reported() {
    let (mut c, a, nodes, block) = restarted();
    for (conn, node) in &nodes[..2] {
        c.datanode_at(conn, *node, 0, "host:1");
    }
    // One is short of a replica, and one that was dropped is garbage.
    c.received("d1", nodes[0].1, &[(block, 1, 100), (3, 1, 1)], &[]);
    pass(&mut c, &a, &nodes[..2], 5);
    assert_eq!((c.copies(), c.deletions()), (vec![], vec![]));
    c.greet("d3", nodes[2].1, 0, "host:3");
    pass(&mut c, &a, &nodes, 1);
    assert_eq!(
        (c.copies(), c.deletions()),
        (vec![], vec![]),
        "it has greeted, and not reported"
    );
    c.report("d3", nodes[2].1, (true, false), &[]);
    pass(&mut c, &a, &nodes, 1);
    assert_eq!(
        (c.copies(), c.deletions()),
        (vec![], vec![]),
        "nor all of it"
    );
    c.report("d3", nodes[2].1, (false, true), &[]);
    pass(&mut c, &a, &nodes, 2);
    assert_eq!(c.copies().len(), 1);
    assert_eq!(c.deletions().len(), 1);
}

#[test]
fn a_node_that_does_not_come_is_waited_for_30_s() {
    let (mut c, a, nodes, block) = restarted();
    for (conn, node) in &nodes[..2] {
        c.datanode_at(conn, *node, 0, "host:1");
    }
    c.received("d1", nodes[0].1, &[(block, 1, 100)], &[]);
    pass(&mut c, &a, &nodes[..2], 30);
    assert_eq!((c.rows("settled").len(), c.copies()), (0, vec![]));
    pass(&mut c, &a, &nodes[..2], 2);
    assert_eq!(c.rows("settled").len(), 1);
    assert_eq!(c.copies(), [("d1".into(), block, 1, 100, nodes[1].1)]);
}

// Copies.

#[test]
fn a_block_with_too_few_replicas_is_copied_to_who_has_none() {
    let (mut c, mut a, nodes) = cluster(2, 3);
    let block = file(&mut c, &mut a, "f", &nodes[..2]);
    pass(&mut c, &a, &nodes, 1);
    assert_eq!(c.copies(), []);
    c.received("d1", nodes[0].1, &[], &[block]);
    c.received("d3", nodes[2].1, &[(block, 1, 100)], &[]);
    c.received("d3", nodes[2].1, &[], &[block]);
    c.feed("heartbeat", beat("d1", nodes[0].1, 100));
    c.sent.clear();
    c.pass(1);
    // The first has no more room than the block takes, and the second has the block.
    assert_eq!(c.copies(), [("d2".into(), block, 1, 100, nodes[2].1)]);
    let order = c
        .sent
        .iter()
        .find(|(event, _)| event == "order_copy")
        .unwrap();
    assert_eq!(order.1[5], s("d3:1"), "with the address of the target");
}

#[test]
fn a_copy_is_ordered_once_and_again_after_30_s() {
    let (mut c, mut a, nodes) = cluster(2, 2);
    let block = file(&mut c, &mut a, "f", &nodes[..1]);
    c.sent.clear();
    pass(&mut c, &a, &nodes, 30);
    let order = ("d1".to_owned(), block, 1, 100, nodes[1].1);
    assert_eq!(c.copies(), std::slice::from_ref(&order));
    pass(&mut c, &a, &nodes, 3);
    assert_eq!(c.copies(), [order.clone(), order]);
    c.received("d2", nodes[1].1, &[(block, 1, 100)], &[]);
    assert_eq!(
        (c.rows("copying").len(), under_replicated(&mut c).len()),
        (0, 0)
    );
    c.sent.clear();
    pass(&mut c, &a, &nodes, 32);
    assert_eq!(c.copies(), []);
}

#[test]
fn a_copy_to_a_node_that_died_goes_to_another_at_once() {
    let (mut c, mut a, nodes) = cluster(2, 3);
    let block = file(&mut c, &mut a, "f", &nodes[..1]);
    c.pass(1);
    let target = c.copies()[0].4;
    let alive: Nodes = nodes
        .iter()
        .filter(|(_, node)| *node != target)
        .cloned()
        .collect();
    c.sent.clear();
    pass(&mut c, &a, &alive, 12);
    let other = alive[1].1;
    assert_eq!(c.copies(), [("d1".into(), block, 1, 100, other)]);
}

#[test]
fn another_try_may_take_other_nodes() {
    let (mut c, mut a, nodes) = cluster(2, 4);
    let block = file(&mut c, &mut a, "f", &nodes[..1]);
    c.sent.clear();
    for _ in 0..50 {
        c.wall += 9 * SECOND;
        c.mono += 9 * SECOND;
        let beats = nodes.iter().map(|(conn, node)| beat(conn, *node, 1 << 40));
        let mut rows: Vec<_> = beats.map(|values| c.row("heartbeat", values)).collect();
        rows.push(c.row("every_second", vec![i(c.wall)]));
        c.run(rows);
    }
    let mut targets: Vec<i64> = c.copies().iter().map(|copy| copy.4).collect();
    assert_eq!(targets.len(), 10, "one in 45 s");
    assert!(c.copies().iter().all(|copy| copy.1 == block));
    targets.sort_unstable();
    targets.dedup();
    let others: Vec<i64> = nodes[1..].iter().map(|(_, node)| *node).collect();
    assert_eq!(targets, others);
}

#[test]
fn blocks_that_cannot_be_copied_do_not_keep_others_waiting() {
    let (mut c, mut a, nodes) = cluster(3, 2);
    // More replicas wanted than there are nodes.
    for n in 0..32 {
        file(&mut c, &mut a, &format!("f{n}"), &nodes);
    }
    let block = file(&mut c, &mut a, "g", &nodes[..1]);
    c.sent.clear();
    c.pass(1);
    assert_eq!(c.copies(), [("d1".into(), block, 1, 100, nodes[1].1)]);
}

#[test]
fn a_file_that_is_being_written_is_left_alone() {
    let (mut c, mut a, nodes) = cluster(2, 3);
    let few = file(&mut c, &mut a, "few", &nodes[..1]);
    let many = file(&mut c, &mut a, "many", &nodes);
    for row in c.rows("block") {
        c.ok(&mut a, cmd("acquire", row[1].as_int().unwrap(), "", []));
    }
    c.sent.clear();
    pass(&mut c, &a, &nodes, 2);
    assert_eq!((c.copies(), c.deletions()), (vec![], vec![]));
    for row in c.rows("block") {
        c.ok(&mut a, cmd("release", row[1].as_int().unwrap(), "", []));
    }
    c.sent.clear();
    c.pass(1);
    assert_eq!(
        c.copies().iter().map(|copy| copy.1).collect::<Vec<_>>(),
        [few]
    );
    assert_eq!(
        c.deletions().iter().map(|gone| gone.1).collect::<Vec<_>>(),
        [many]
    );
}

#[test]
fn a_block_that_nobody_has_is_missing_and_not_copied() {
    let (mut c, mut a, nodes) = cluster(2, 2);
    let block = file(&mut c, &mut a, "f", &[]);
    c.sent.clear();
    pass(&mut c, &a, &nodes, 2);
    assert_eq!((c.copies(), c.column("missing", 0)), (vec![], vec![block]));
}

// Deletions.

#[test]
fn one_replica_too_many_goes_at_a_time() {
    let (mut c, mut a, nodes) = cluster(1, 3);
    let block = file(&mut c, &mut a, "f", &nodes);
    c.sent.clear();
    c.pass(1);
    assert_eq!(c.deletions(), [("d3".into(), block, 1)]);
    c.pass(1);
    assert_eq!(c.deletions().len(), 2, "said again while it is not gone");
    assert!(c.deletions().iter().all(|gone| gone.0 == "d3"));
    c.received("d3", nodes[2].1, &[], &[block]);
    c.sent.clear();
    c.pass(1);
    assert_eq!(c.deletions(), [("d2".into(), block, 1)]);
    c.received("d2", nodes[1].1, &[], &[block]);
    c.sent.clear();
    pass(&mut c, &a, &nodes, 3);
    assert_eq!(c.deletions(), [], "never the last");
}

#[test]
fn replicas_of_dead_nodes_do_not_make_others_superfluous() {
    let (mut c, mut a, nodes) = cluster(1, 2);
    let f = c.attr(&mut a, create_with(1, "f", true, true, 0)).ino;
    let block = Block::from(
        c.ok(&mut a, cmd("add_block", f, "", [i(0), none()]))
            .as_slice(),
    )
    .block;
    c.attr(&mut a, commit(f, 100, &[(block, 1, 100)]));
    c.received("d1", nodes[0].1, &[(block, 1, 100)], &[]);
    c.received("d2", nodes[1].1, &[(block, 1, 100)], &[]);
    pass(&mut c, &a, &nodes[1..], 12);
    c.ok(&mut a, cmd("release", f, "", []));
    c.sent.clear();
    pass(&mut c, &a, &nodes[1..], 3);
    assert_eq!(c.deletions(), []);
}

#[test]
fn stale_replicas_go_when_there_are_enough_others() {
    let (mut c, mut a, nodes) = cluster(2, 3);
    let f = c.attr(&mut a, create_with(1, "f", true, true, 0)).ino;
    let block = Block::from(
        c.ok(&mut a, cmd("add_block", f, "", [i(0), none()]))
            .as_slice(),
    )
    .block;
    for (conn, node) in &nodes[..2] {
        c.received(conn, *node, &[(block, 1, 100)], &[]);
    }
    c.ok(&mut a, cmd("reserve_generation", f, "", [i(block)]));
    c.received("d3", nodes[2].1, &[(block, 2, 100)], &[]);
    c.ok(
        &mut a,
        cmd(
            "commit_generation",
            f,
            "",
            [i(block), i(2), list([i(nodes[2].1)])],
        ),
    );
    c.attr(&mut a, commit(f, 100, &[(block, 2, 100)]));
    c.ok(&mut a, cmd("release", f, "", []));
    c.sent.clear();
    c.pass(1);
    // One has it in the new generation, and two are wanted: the old ones may be the last resort.
    assert_eq!(
        (located(&mut c, block), c.deletions()),
        (vec![nodes[2].1], vec![])
    );
    let copy = c.copies()[0].clone();
    assert_eq!(
        (copy.0.as_str(), copy.2),
        ("d3", 2),
        "from who has the new one"
    );
    let (target, stale) = if copy.4 == nodes[0].1 { (0, 1) } else { (1, 0) };
    c.received(&nodes[target].0, nodes[target].1, &[(block, 2, 100)], &[]);
    c.sent.clear();
    c.pass(1);
    assert_eq!(c.deletions(), [(nodes[stale].0.clone(), block, 1)]);
}

#[test]
fn replicas_of_blocks_that_are_no_more_are_garbage() {
    let (mut c, mut a, nodes) = cluster(1, 1);
    let block = file(&mut c, &mut a, "f", &nodes);
    c.ok(
        &mut a,
        setattr(
            1,
            "f",
            Set {
                size: Some(0),
                ..Set::default()
            },
        ),
    );
    c.sent.clear();
    c.pass(1);
    assert_eq!(c.deletions(), [("d1".into(), block, 1)]);
    c.received("d1", nodes[0].1, &[], &[block]);
    c.sent.clear();
    c.pass(1);
    assert_eq!(c.deletions(), []);
}

#[test]
fn blocks_that_this_log_has_not_given_out_are_never_deleted() {
    let (mut c, a, nodes) = cluster(1, 1);
    let next = c.column("counter", 0)[0];
    // The node was told of them by a leader that is ahead.
    c.received(
        "d1",
        nodes[0].1,
        &[(next - 1, 1, 1), (next, 1, 1), (next + 1, 1, 1)],
        &[],
    );
    c.sent.clear();
    c.pass(1);
    assert_eq!(c.deletions(), [("d1".into(), next - 1, 1)]);
    assert!(a.session > 0);
}

#[test]
fn a_node_deletes_at_most_1000_replicas_a_second() {
    let (mut c, mut a, nodes) = cluster(1, 1);
    for n in 0..5 {
        let commands: Vec<Command> = (0..250).map(|m| unlink(1, &format!("{n}.{m}"))).collect();
        c.batch(&mut a, &commands);
    }
    let last = c.column("counter", 0)[0];
    let dropped: Vec<Told> = (last - 1_100..last).map(|block| (block, 1, 1)).collect();
    c.received("d1", nodes[0].1, &dropped, &[]);
    c.sent.clear();
    c.pass(1);
    let gone: Vec<i64> = c.deletions().iter().map(|gone| gone.1).collect();
    assert_eq!(gone, (last - 1_100..last - 100).collect::<Vec<_>>());
}
