//! Blocks of files: where they go, their generations and lengths, and the lease that one needs to change them.

use crate::driver::*;
use crate::helpers::*;

const BLOCK: i64 = 65_536;

/// Three DataNodes and a client.
fn cluster() -> (Real, Client, Vec<i64>) {
    let mut c = Real::new(3);
    let nodes = (1..=3).map(|n| c.datanode(&format!("d{n}"), n)).collect();
    let client = c.client("a");
    (c, client, nodes)
}

/// A file of this client, with its lease.
fn file(c: &mut Real, a: &mut Client) -> i64 {
    c.attr(a, create_with(1, "f", true, true, 0)).ino
}

fn add(ino: i64, offset: i64, exclude: &[i64]) -> Command {
    let exclude = list(exclude.iter().map(|x| i(*x)));
    cmd("add_block", ino, "", [i(offset), exclude])
}

fn reserve(ino: i64, block: i64) -> Command {
    cmd("reserve_generation", ino, "", [i(block)])
}

fn adopt(ino: i64, block: i64, generation: i64, members: &[i64]) -> Command {
    let members = list(members.iter().map(|x| i(*x)));
    cmd(
        "commit_generation",
        ino,
        "",
        [i(block), i(generation), members],
    )
}

fn acquire(ino: i64) -> Command {
    cmd("acquire", ino, "", [])
}

fn release(ino: i64) -> Command {
    cmd("release", ino, "", [])
}

fn resize(ino: i64, size: i64) -> Command {
    setattr(
        ino,
        "",
        Set {
            size: Some(size),
            ..Set::default()
        },
    )
}

/// A block at this offset, written on all nodes and committed with this length.
fn written(c: &mut Real, a: &mut Client, ino: i64, offset: i64, length: i64) -> Block {
    let block = added(c, a, add(ino, offset, &[]));
    for (conn, node) in members(c, &block.nodes) {
        c.received(&conn, node, &[(block.block, block.generation, length)], &[]);
    }
    let size = c.look(ino).unwrap().size.max(offset + length);
    c.attr(
        a,
        commit(ino, size, &[(block.block, block.generation, length)]),
    );
    block
}

fn added(c: &mut Real, a: &mut Client, command: Command) -> Block {
    Block::from(c.ok(a, command).as_slice())
}

/// Connections of nodes.
fn members(c: &mut Real, nodes: &[i64]) -> Vec<(String, i64)> {
    let conn =
        |row: &Vec<overlog::Value>| String::from_utf8(row[1].as_bytes().unwrap().to_vec()).unwrap();
    let rows = c.rows("node");
    let known = rows.iter().map(|row| (conn(row), row[0].as_int().unwrap()));
    known.filter(|(_, node)| nodes.contains(node)).collect()
}

fn sorted(mut nodes: Vec<i64>) -> Vec<i64> {
    nodes.sort_unstable();
    nodes
}

/// `fileblock` of a file: offset and length of each block.
fn layout(c: &mut Real, ino: i64) -> Vec<(i64, i64)> {
    let payload = c
        .ask("locate", ino, "", vec![i(0), i(1 << 40)])
        .unwrap()
        .unwrap();
    let mut blocks: Vec<(i64, i64)> = payload[3]
        .as_list()
        .unwrap()
        .iter()
        .map(|x| {
            (
                x.as_list().unwrap()[1].as_int().unwrap(),
                x.as_list().unwrap()[3].as_int().unwrap(),
            )
        })
        .collect();
    blocks.sort_unstable();
    blocks
}

// New blocks.

#[test]
fn a_new_block_goes_to_as_many_live_nodes_as_the_file_wants() {
    let (mut c, mut a, nodes) = cluster();
    let four = c.datanode("d4", 4);
    let f = file(&mut c, &mut a);
    let block = added(&mut c, &mut a, add(f, 0, &[]));
    assert_eq!(
        (
            block.offset,
            block.generation,
            block.length,
            block.nodes.len()
        ),
        (0, 1, 0, 3)
    );
    assert!(block.nodes.iter().all(|n| *n == four || nodes.contains(n)));
    assert_eq!(
        sorted(block.nodes.clone())
            .windows(2)
            .filter(|w| w[0] == w[1])
            .count(),
        0
    );
    assert_eq!(c.look(f).unwrap().allocated, 0);
    assert_eq!(c.column("usage", 1), [1]);
    let mut two = create_with(1, "two", true, true, 0);
    two.args[6] = i(2);
    let two = c.attr(&mut a, two).ino;
    assert_eq!(added(&mut c, &mut a, add(two, 0, &[])).nodes.len(), 2);
}

#[test]
fn the_leader_chooses_the_targets_and_they_travel_in_the_command() {
    let (mut c, mut a, nodes) = cluster();
    let f = file(&mut c, &mut a);
    let row = c.request(&a, a.seq + 1, a.ack, &add(f, 0, &nodes[..1]));
    let commands = c.proposal(vec![row]);
    let args = commands[0].as_list().unwrap()[10]
        .as_list()
        .unwrap()
        .to_vec();
    assert_eq!((&args[0], ints(&args[1])), (&i(0), nodes[..1].to_vec()));
    let chosen = args[2]
        .as_list()
        .unwrap()
        .iter()
        .map(|x| x.as_list().unwrap()[1].as_int().unwrap())
        .collect();
    assert_eq!(sorted(chosen), nodes[1..], "[order, node, address]");
    // What is decided does not look at the nodes again.
    for n in 1..=3 {
        c.feed("closed", vec![overlog::Value::addr(format!("d{n}"))]);
    }
    c.restart();
    c.hello("a", a.session, 0);
    c.sent.clear();
    c.decide(list([i(c.wall), list(commands)]));
    let block = c.reply("a", a.seq + 1).unwrap().unwrap();
    assert_eq!(sorted(Block::from(block.as_slice()).nodes), nodes[1..]);
}

#[test]
fn blocks_are_spread_over_the_nodes() {
    let (mut c, mut a, _) = cluster();
    for n in 4..=6 {
        c.datanode(&format!("d{n}"), n);
    }
    let f = file(&mut c, &mut a);
    let mut used: Vec<i64> = (0..12)
        .flat_map(|n| added(&mut c, &mut a, add(f, n * BLOCK, &[])).nodes)
        .collect();
    used.sort_unstable();
    used.dedup();
    assert_eq!(used.len(), 6);
}

#[test]
fn dead_full_and_excluded_nodes_get_no_blocks() {
    let (mut c, mut a, nodes) = cluster();
    let f = file(&mut c, &mut a);
    assert_eq!(
        added(&mut c, &mut a, add(f, 0, &nodes[..2])).nodes,
        nodes[2..]
    );
    assert_eq!(c.err(&mut a, add(f, BLOCK, &nodes)), "ENOSPC");
    // A node needs more room than a block takes.
    let room = |conn: &str, node: i64, free: i64| {
        vec![overlog::Value::addr(conn), i(node), i(1 << 40), i(free)]
    };
    c.feed("heartbeat", room("d1", nodes[0], BLOCK));
    c.feed("heartbeat", room("d2", nodes[1], BLOCK + 1));
    assert_eq!(
        sorted(added(&mut c, &mut a, add(f, BLOCK, &[])).nodes),
        nodes[1..]
    );
    for _ in 0..4 {
        c.pass(3);
        c.beat("d3", nodes[2]);
        c.renew(&a, &[]);
    }
    assert_eq!(
        added(&mut c, &mut a, add(f, 2 * BLOCK, &[])).nodes,
        nodes[2..]
    );
    c.pass(9);
    c.renew(&a, &[]);
    c.pass(2);
    assert_eq!(
        c.err(&mut a, add(f, 3 * BLOCK, &[])),
        "EAGAIN",
        "all are dead: the client waits for one"
    );
}

#[test]
fn blocks_start_at_multiples_of_the_block_size() {
    let (mut c, mut a, _) = cluster();
    let f = file(&mut c, &mut a);
    for offset in [1, BLOCK - 1, BLOCK + 4_096, -BLOCK] {
        assert_eq!(c.err(&mut a, add(f, offset, &[])), "EINVAL", "{offset}");
    }
    assert_eq!(
        added(&mut c, &mut a, add(f, 7 * BLOCK, &[])).offset,
        7 * BLOCK
    );
}

#[test]
fn only_files_have_blocks() {
    let (mut c, mut a, _) = cluster();
    let d = c.attr(&mut a, mkdir(1, "d")).ino;
    let p = c.attr(&mut a, node_of("fifo", 1, "p")).ino;
    for ino in [1, d, p] {
        for command in [
            acquire(ino),
            add(ino, 0, &[]),
            reserve(ino, 1),
            adopt(ino, 1, 2, &[]),
            commit(ino, 0, &[]),
        ] {
            assert_eq!(c.err(&mut a, command), "EINVAL");
        }
    }
    for command in [
        acquire(999),
        add(999, 0, &[]),
        reserve(999, 1),
        adopt(999, 1, 2, &[]),
        commit(999, 0, &[]),
    ] {
        assert_eq!(c.err(&mut a, command), "ENOENT");
    }
}

#[test]
fn a_hole_is_an_absent_row() {
    let (mut c, mut a, _) = cluster();
    let f = file(&mut c, &mut a);
    written(&mut c, &mut a, f, 2 * BLOCK, 100);
    let attr = c.look(f).unwrap();
    assert_eq!((attr.size, attr.allocated), (2 * BLOCK + 100, 100));
    assert_eq!(layout(&mut c, f), [(2 * BLOCK, 100)]);
    let longer = c.attr(&mut a, commit(f, 10 * BLOCK, &[]));
    assert_eq!(
        (longer.size, longer.allocated),
        (10 * BLOCK, 100),
        "also behind the last block"
    );
}

#[test]
fn a_block_that_is_there_is_answered_again() {
    let (mut c, mut a, nodes) = cluster();
    let f = file(&mut c, &mut a);
    let block = written(&mut c, &mut a, f, 0, 100);
    let again = added(&mut c, &mut a, add(f, 0, &[]));
    assert_eq!(
        (again.block, again.generation, again.length),
        (block.block, 1, 100)
    );
    assert_eq!(sorted(again.nodes), nodes, "with who has it");
    let again = added(&mut c, &mut a, add(f, 0, &nodes));
    assert_eq!(
        again.block, block.block,
        "whom the writer cannot reach is no matter: there are bytes in it"
    );
    assert_eq!(c.rows("block").len(), 1);
}

#[test]
fn an_empty_block_whose_targets_failed_gets_others() {
    let (mut c, mut a, nodes) = cluster();
    let four = c.datanode("d4", 4);
    let f = file(&mut c, &mut a);
    let block = added(&mut c, &mut a, add(f, 0, &[]));
    let failed = block.nodes[0];
    let other = added(&mut c, &mut a, add(f, 0, &[failed]));
    let left: Vec<i64> = nodes
        .into_iter()
        .chain([four])
        .filter(|n| *n != failed)
        .collect();
    assert_eq!(
        (other.generation, other.length, sorted(other.nodes.clone())),
        (1, 0, left)
    );
    // What the failed node may have of the first block must never count.
    assert_ne!(other.block, block.block);
    assert_eq!(
        (c.column("block", 0), c.column("usage", 1)),
        (vec![other.block], vec![1])
    );
    // Without any other node it stays, and so does the error.
    let all = sorted(other.nodes)
        .into_iter()
        .chain([failed])
        .collect::<Vec<_>>();
    assert_eq!(c.err(&mut a, add(f, 0, &all)), "ENOSPC");
    assert_eq!(c.column("block", 0), [other.block]);
}

#[test]
fn an_empty_block_that_nobody_has_gets_new_targets() {
    let (mut c, mut a, nodes) = cluster();
    let f = file(&mut c, &mut a);
    // The writer died before it opened a pipeline.
    let block = added(&mut c, &mut a, add(f, 0, &[]));
    let again = added(&mut c, &mut a, add(f, 0, &[]));
    assert_eq!(sorted(again.nodes), nodes);
    assert_ne!(again.block, block.block);
    // One that somebody has is there, though nothing was committed.
    c.received("d1", nodes[0], &[(again.block, 1, 10)], &[]);
    let same = added(&mut c, &mut a, add(f, 0, &[]));
    assert_eq!((same.block, same.nodes), (again.block, nodes[..1].to_vec()));
}

#[test]
fn only_replicas_of_the_generation_are_answered() {
    let (mut c, mut a, nodes) = cluster();
    let f = file(&mut c, &mut a);
    let block = written(&mut c, &mut a, f, 0, 100);
    c.ok(&mut a, reserve(f, block.block));
    c.received("d2", nodes[1], &[(block.block, 2, 100)], &[]);
    c.ok(&mut a, adopt(f, block.block, 2, &nodes[1..2]));
    assert_eq!(added(&mut c, &mut a, add(f, 0, &[])).nodes, nodes[1..2]);
    let located = c.ask("locate", f, "", vec![i(0), i(100)]).unwrap().unwrap();
    assert_eq!(
        firsts(&located[3].as_list().unwrap()[0].as_list().unwrap()[4]),
        nodes[1..2]
    );
}

// Generations.

#[test]
fn a_generation_is_reserved_and_then_committed() {
    let (mut c, mut a, nodes) = cluster();
    let f = file(&mut c, &mut a);
    let block = written(&mut c, &mut a, f, 0, 100);
    let reserved = added(&mut c, &mut a, reserve(f, block.block));
    assert_eq!(
        (
            reserved.block,
            reserved.offset,
            reserved.generation,
            reserved.length
        ),
        (block.block, 0, 2, 100)
    );
    assert_eq!(sorted(reserved.nodes), nodes);
    assert_eq!(
        c.rows("block")[0][2..4],
        [i(1), i(2)],
        "reserved is not committed"
    );
    assert_eq!(c.ok(&mut a, adopt(f, block.block, 2, &nodes)), vec![]);
    assert_eq!(c.rows("block")[0][2..4], [i(2), i(2)]);
}

#[test]
fn stale_generations_are_refused() {
    let (mut c, mut a, nodes) = cluster();
    let f = file(&mut c, &mut a);
    let block = written(&mut c, &mut a, f, 0, 100).block;
    assert_eq!(
        c.err(&mut a, adopt(f, block, 2, &nodes)),
        "ESTALE",
        "never reserved"
    );
    assert_eq!(added(&mut c, &mut a, reserve(f, block)).generation, 2);
    assert_eq!(added(&mut c, &mut a, reserve(f, block)).generation, 3);
    c.ok(&mut a, adopt(f, block, 3, &nodes));
    assert_eq!(
        c.err(&mut a, adopt(f, block, 2, &nodes)),
        "ESTALE",
        "a later one is committed"
    );
    assert_eq!(c.err(&mut a, adopt(f, block, 3, &nodes)), "ESTALE");
    assert_eq!(
        added(&mut c, &mut a, reserve(f, block)).generation,
        4,
        "none is given twice"
    );
    // A length that was written under another generation is not the block's.
    assert_eq!(c.err(&mut a, commit(f, 200, &[(block, 1, 200)])), "ESTALE");
    assert_eq!(c.err(&mut a, commit(f, 200, &[(block, 4, 200)])), "ESTALE");
    assert_eq!(c.look(f).unwrap().size, 100);
    assert_eq!(c.attr(&mut a, commit(f, 200, &[(block, 3, 200)])).size, 200);
}

#[test]
fn a_generation_without_members_is_not_committed() {
    let (mut c, mut a, _) = cluster();
    let f = file(&mut c, &mut a);
    let block = written(&mut c, &mut a, f, 0, 100).block;
    c.ok(&mut a, reserve(f, block));
    assert_eq!(
        c.err(&mut a, adopt(f, block, 2, &[])),
        "EINVAL",
        "nobody would have it"
    );
}

#[test]
fn blocks_of_other_files_are_refused() {
    let (mut c, mut a, nodes) = cluster();
    let f = file(&mut c, &mut a);
    let block = written(&mut c, &mut a, f, 0, 100).block;
    let g = c.attr(&mut a, create_with(1, "g", true, true, 0)).ino;
    assert_eq!(c.err(&mut a, reserve(g, block)), "ENOENT");
    assert_eq!(c.err(&mut a, adopt(g, block, 2, &nodes)), "ENOENT");
    assert_eq!(c.err(&mut a, reserve(g, 999)), "ENOENT");
    // Nor is a length taken for one: what was written would be lost without a word.
    assert_eq!(c.err(&mut a, commit(g, 10, &[(block, 1, 10)])), "ENOENT");
    assert_eq!(c.err(&mut a, commit(g, 10, &[(999, 1, 10)])), "ENOENT");
    assert_eq!(
        (c.look(g).unwrap().size, layout(&mut c, f)),
        (0, vec![(0, 100)])
    );
}

// Lengths.

#[test]
fn commit_makes_lengths_and_times_visible() {
    let (mut c, mut a, _) = cluster();
    let f = file(&mut c, &mut a);
    let one = written(&mut c, &mut a, f, 0, BLOCK).block;
    let two = written(&mut c, &mut a, f, BLOCK, 10).block;
    assert_eq!(layout(&mut c, f), [(0, BLOCK), (BLOCK, 10)]);
    let before = c.look(f).unwrap();
    let grown = c.attr(
        &mut a,
        commit(f, BLOCK + 50, &[(one, 1, BLOCK), (two, 1, 50)]),
    );
    assert_eq!((grown.size, grown.allocated), (BLOCK + 50, BLOCK + 50));
    assert!(grown.mtime > before.mtime && grown.ctime == grown.mtime);
    let mut old = commit(f, BLOCK + 60, &[(two, 1, 60)]);
    old.args[2] = list([s("at"), i(5)]);
    let old = c.attr(&mut a, old);
    assert_eq!(
        (old.size, old.mtime),
        (BLOCK + 60, 5),
        "the time of the writer's last write"
    );
    let mut none_said = commit(f, BLOCK + 70, &[(two, 1, 70)]);
    none_said.args[2] = none();
    assert_eq!(c.attr(&mut a, none_said).mtime, 5);
}

#[test]
fn a_length_fits_its_block_and_its_file() {
    let (mut c, mut a, _) = cluster();
    let f = file(&mut c, &mut a);
    let one = written(&mut c, &mut a, f, 0, 100).block;
    let two = written(&mut c, &mut a, f, BLOCK, 100).block;
    for (size, blocks) in [
        (2 * BLOCK, vec![(one, 1, BLOCK + 1)]),
        (BLOCK + 100, vec![(two, 1, 101)]),
        (BLOCK + 99, vec![]),
        (50, vec![(two, 1, 100), (one, 1, 50)]),
        (-1, vec![]),
    ] {
        assert_eq!(
            c.err(&mut a, commit(f, size, &blocks)),
            "EINVAL",
            "{size} {blocks:?}"
        );
    }
    assert_eq!(
        (c.look(f).unwrap().size, layout(&mut c, f)),
        (BLOCK + 100, vec![(0, 100), (BLOCK, 100)])
    );
    let full = c.attr(
        &mut a,
        commit(f, 2 * BLOCK, &[(one, 1, BLOCK), (two, 1, BLOCK)]),
    );
    assert_eq!((full.size, full.allocated), (2 * BLOCK, 2 * BLOCK));
}

#[test]
fn cutting_drops_what_is_behind_the_end() {
    let (mut c, mut a, _) = cluster();
    let f = file(&mut c, &mut a);
    for n in 0..4 {
        written(&mut c, &mut a, f, n * BLOCK, BLOCK);
    }
    let cut = c.attr(&mut a, resize(f, BLOCK + 10));
    assert_eq!((cut.size, cut.allocated), (BLOCK + 10, BLOCK + 10));
    assert_eq!(layout(&mut c, f), [(0, BLOCK), (BLOCK, 10)]);
    assert_eq!(c.column("usage", 1), [2]);
    let cut = c.attr(&mut a, resize(f, BLOCK));
    assert_eq!((cut.size, cut.allocated), (BLOCK, BLOCK));
    assert_eq!(
        layout(&mut c, f),
        [(0, BLOCK)],
        "a block that would be empty goes"
    );
    let cut = c.attr(&mut a, resize(f, 0));
    assert_eq!((cut.size, cut.allocated, layout(&mut c, f)), (0, 0, vec![]));
    assert_eq!((c.rows("block").len(), c.column("usage", 1)), (0, vec![0]));
}

#[test]
fn stretching_makes_a_hole() {
    let (mut c, mut a, _) = cluster();
    let f = file(&mut c, &mut a);
    written(&mut c, &mut a, f, 0, 100);
    let longer = c.attr(&mut a, resize(f, 3 * BLOCK));
    assert_eq!((longer.size, longer.allocated), (3 * BLOCK, 100));
    assert_eq!(layout(&mut c, f), [(0, 100)]);
    // Cut inside the hole, then inside the block.
    assert_eq!(c.attr(&mut a, resize(f, BLOCK)).allocated, 100);
    assert_eq!(c.attr(&mut a, resize(f, 40)).allocated, 40);
    assert_eq!(layout(&mut c, f), [(0, 40)]);
}

#[test]
fn an_empty_block_behind_the_end_is_cut_too() {
    let (mut c, mut a, _) = cluster();
    let f = file(&mut c, &mut a);
    added(&mut c, &mut a, add(f, 2 * BLOCK, &[]));
    c.ok(&mut a, resize(f, 0));
    assert_eq!((c.rows("block").len(), c.column("usage", 1)), (0, vec![0]));
}

#[test]
fn the_blocks_of_a_reaped_file_go_with_it() {
    let (mut c, mut a, _) = cluster();
    let f = file(&mut c, &mut a);
    written(&mut c, &mut a, f, 0, 100);
    written(&mut c, &mut a, f, BLOCK, 100);
    c.ok(&mut a, release(f));
    c.ok(&mut a, unlink(1, "f"));
    assert_eq!(layout(&mut c, f).len(), 2);
    c.pass(9);
    c.renew(&a, &[]);
    c.pass(9);
    for table in ["block", "fileblock", "orphan"] {
        assert_eq!(c.rows(table).len(), 0, "{table}");
    }
    assert_eq!(c.rows("usage"), [vec![i(1), i(0)]]);
}

// Leases.

#[test]
fn one_session_writes_at_a_time() {
    let (mut c, mut a, _) = cluster();
    let mut b = c.client("bb");
    let f = c.attr(&mut a, create(1, "f")).ino;
    assert_eq!(
        c.err(&mut a, add(f, 0, &[])),
        "EIO",
        "nothing is written without a lease"
    );
    assert_eq!(c.attr(&mut a, acquire(f)).ino, f);
    assert_eq!(c.attr(&mut a, acquire(f)).ino, f, "it has it already");
    assert_eq!(c.err(&mut b, acquire(f)), "EBUSY");
    for command in [
        add(f, 0, &[]),
        reserve(f, 1),
        adopt(f, 1, 2, &[1]),
        commit(f, 0, &[]),
    ] {
        assert_eq!(c.err(&mut b, command), "EIO");
    }
    assert_eq!(c.err(&mut b, resize(f, 0)), "EBUSY", "cutting is writing");
    c.ok(
        &mut b,
        setattr(
            f,
            "",
            Set {
                mode: Some(0o600),
                ..Set::default()
            },
        ),
    );
    assert_eq!(
        c.ok(&mut b, release(f)),
        vec![],
        "what is not held is not given back"
    );
    assert_eq!(c.rows("lease"), [vec![i(f), i(a.session)]]);
    c.ok(&mut a, release(f));
    c.ok(&mut b, resize(f, 10));
    c.ok(&mut b, acquire(f));
    assert_eq!(c.err(&mut a, commit(f, 20, &[])), "EIO");
}

#[test]
fn the_lease_ends_with_its_session_and_the_next_writer_goes_on() {
    let (mut c, mut a, nodes) = cluster();
    let mut b = c.client("bb");
    let f = file(&mut c, &mut a);
    let block = written(&mut c, &mut a, f, 0, 100).block;
    for _ in 0..4 {
        assert_eq!(c.err(&mut b, acquire(f)), "EBUSY");
        c.pass(3);
        c.renew(&b, &[]);
        nodes
            .iter()
            .zip(["d1", "d2", "d3"])
            .for_each(|(node, conn)| c.beat(conn, *node));
    }
    assert_eq!(c.attr(&mut b, acquire(f)).size, 100);
    let reserved = added(&mut c, &mut b, reserve(f, block));
    assert_eq!(
        (reserved.generation, sorted(reserved.nodes)),
        (2, nodes.clone())
    );
    c.ok(&mut b, adopt(f, block, 2, &nodes));
    assert_eq!(c.attr(&mut b, commit(f, 150, &[(block, 2, 150)])).size, 150);
    // The first writer has a new session and knows nothing of it.
    let mut again = c.client("ccc");
    assert_eq!(c.err(&mut again, commit(f, 120, &[(block, 1, 120)])), "EIO");
    assert_eq!(c.look(f).unwrap().size, 150);
}

#[test]
fn a_removed_file_is_still_written() {
    let (mut c, mut a, _) = cluster();
    let f = file(&mut c, &mut a);
    c.ok(&mut a, unlink(1, "f"));
    let block = added(&mut c, &mut a, add(f, 0, &[])).block;
    let attr = c.ok(&mut a, commit(f, 10, &[(block, 1, 10)]));
    assert_eq!(Attr::from(&attr[1]).size, 10);
}
