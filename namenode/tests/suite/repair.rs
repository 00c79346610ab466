//! How much is copied at a time, and in which order.

use crate::datanodes::{Nodes, cluster, pass};
use crate::driver::*;
use crate::helpers::*;

const MIB: i64 = 1 << 20;

/// Closed files of one block of this length, which these nodes have.
fn files(c: &mut Real, a: &mut Client, count: i64, length: i64, nodes: &Nodes) -> Vec<i64> {
    let block = |n: i64| {
        let args = [
            s("file"),
            i(0o644),
            i(0),
            b(true),
            b(true),
            i(64 * MIB),
            i(0),
            i(0),
        ];
        let ino = c
            .attr(a, cmd("create", 1, &format!("f{n}-{length}"), args))
            .ino;
        let added = c.ok(a, cmd("add_block", ino, "", [i(0), none()]));
        let block = Block::from(added.as_slice()).block;
        for (conn, node) in nodes {
            c.received(conn, *node, &[(block, 1, length)], &[]);
        }
        c.attr(a, commit(ino, length, &[(block, 1, length)]));
        c.ok(a, cmd("release", ino, "", []));
        block
    };
    (0..count).map(block).collect()
}

fn copied(c: &mut Real) -> Vec<i64> {
    let blocks = c.copies().iter().map(|copy| copy.1).collect();
    c.sent.clear();
    blocks
}

#[test]
fn all_blocks_get_their_turn() {
    let (mut c, mut a, nodes) = cluster(2, 3);
    let blocks = files(&mut c, &mut a, 300, 100, &nodes[..1].to_vec());
    c.sent.clear();
    pass(&mut c, &a, &nodes, 1);
    assert_eq!(copied(&mut c), blocks[..256], "the first second's");
    pass(&mut c, &a, &nodes, 1);
    assert_eq!(copied(&mut c), blocks[256..]);
    pass(&mut c, &a, &nodes, 2);
    assert_eq!(copied(&mut c), [0; 0], "all are under way");
}

#[test]
fn blocks_that_cannot_be_copied_are_in_nobodys_way() {
    let (mut c, mut a, nodes) = cluster(2, 2);
    let big = files(&mut c, &mut a, 260, MIB, &nodes[..1].to_vec());
    let small = files(&mut c, &mut a, 3, 100, &nodes[..1].to_vec());
    // The other node has room for the small ones only.
    let room = vec![
        overlog::Value::addr("d2"),
        i(nodes[1].1),
        i(1 << 40),
        i(MIB),
    ];
    c.sent.clear();
    for _ in 0..3 {
        c.feed("heartbeat", room.clone());
        c.pass(1);
    }
    assert_eq!(copied(&mut c), small);
    assert_eq!(c.rows("under_replicated").len(), big.len() + small.len());
}

#[test]
fn the_bytes_under_way_are_bounded() {
    let (mut c, mut a, nodes) = cluster(2, 2);
    let blocks = files(&mut c, &mut a, 8, 64 * MIB, &nodes[..1].to_vec());
    c.sent.clear();
    pass(&mut c, &a, &nodes, 5);
    assert_eq!(copied(&mut c), blocks[..3]);
    for block in &blocks[..3] {
        c.received("d2", nodes[1].1, &[(*block, 1, 64 * MIB)], &[]);
    }
    pass(&mut c, &a, &nodes, 2);
    assert_eq!(
        copied(&mut c),
        blocks[3..6],
        "as soon as the first are there"
    );
}
