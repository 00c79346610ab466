//! Questions: lookup, readdir, readlink, locate, statfs, status.

use crate::driver::*;
use crate::helpers::*;

fn cluster() -> (Real, Client) {
    let mut c = Real::new(3);
    let client = c.client("a");
    (c, client)
}

fn asked(c: &mut Real, op: &str, ino: i64, args: Vec<overlog::Value>) -> Answer {
    c.ask(op, ino, "", args).unwrap()
}

/// A page of a directory: its parent, the cookies and names, and whether it is the last.
fn page(c: &mut Real, dir: i64, after: i64, limit: i64) -> (i64, Vec<(i64, String)>, bool) {
    let payload = asked(c, "readdir", dir, vec![i(after), i(limit)]).unwrap();
    assert_eq!(payload[0], s("entries"));
    let mut entries = vec![];
    for entry in payload[2].as_list().unwrap() {
        let entry = entry.as_list().unwrap();
        let shown = Attr::from(&entry[2]);
        assert_eq!(
            shown,
            c.look(shown.ino).unwrap(),
            "an entry shows what a lookup shows"
        );
        let name = String::from_utf8(entry[1].as_bytes().unwrap().to_vec()).unwrap();
        entries.push((entry[0].as_int().unwrap(), name));
    }
    (
        payload[1].as_int().unwrap(),
        entries,
        payload[3].as_bool().unwrap(),
    )
}

/// All names, by pages of this size.
fn listing(c: &mut Real, dir: i64, limit: i64) -> Vec<String> {
    let (mut names, mut after) = (vec![], 0);
    loop {
        let (_, entries, end) = page(c, dir, after, limit);
        after = entries.last().map_or(after, |(cookie, _)| *cookie);
        names.extend(entries.into_iter().map(|(_, name)| name));
        if end {
            return names;
        }
    }
}

// Lookup.

#[test]
fn lookup_follows_the_last_link_if_asked() {
    let (mut c, mut a) = cluster();
    let d = c.attr(&mut a, mkdir(1, "d")).ino;
    let f = c.attr(&mut a, create(d, "f")).ino;
    for (name, target) in [
        ("rel", "d/f"),
        ("abs", "/d/f"),
        ("twice", "rel"),
        ("slash", "d/"),
        ("up", "d/../d/f"),
        ("dot", "./d/./f"),
        ("root", "/"),
    ] {
        c.ok(&mut a, symlink(1, name, target));
        assert_eq!(c.lookup(1, name, false).unwrap().kind, "symlink", "{name}");
    }
    c.ok(&mut a, symlink(d, "sideways", "../rel"));
    for (path, ino) in [
        ("rel", f),
        ("abs", f),
        ("twice", f),
        ("slash", d),
        ("up", f),
        ("dot", f),
        ("root", 1),
        ("d/sideways", f),
        ("slash/f", f),
        ("root/d/f", f),
    ] {
        assert_eq!(c.lookup(1, path, true).unwrap().ino, ino, "{path}");
    }
    assert_eq!(
        c.lookup(1, "d/f", true).unwrap().ino,
        f,
        "what is no link is itself"
    );
}

#[test]
fn lookup_of_dots() {
    let (mut c, mut a) = cluster();
    let d = c.attr(&mut a, mkdir(1, "d")).ino;
    let e = c.attr(&mut a, mkdir(d, "e")).ino;
    c.ok(&mut a, symlink(1, "link", "d/e"));
    for (base, path, ino) in [
        (1, "", 1),
        (1, "..", 1),
        (1, "../..", 1),
        (e, "..", d),
        (e, "../..", 1),
        (1, "d/e/..", d),
        (1, "d/../d", d),
        // Of where a link leads, and not of where it is.
        (1, "link/..", d),
        (e, "../../link/.", e),
    ] {
        assert_eq!(
            c.lookup(base, path, false).unwrap().ino,
            ino,
            "{base} {path}"
        );
    }
    c.ok(&mut a, create(1, "f"));
    assert_eq!(c.lookup(1, "f/..", false).unwrap_err(), "ENOTDIR");
    c.ok(&mut a, rename(d, "e", 1, "e"));
    assert_eq!(
        c.lookup(e, "..", false).unwrap().ino,
        1,
        "a directory that moved"
    );
}

#[test]
fn names_in_what_is_no_directory() {
    let (mut c, mut a) = cluster();
    let f = c.attr(&mut a, create(1, "f")).ino;
    for path in ["x", "x/y", "..", "../f"] {
        assert_eq!(c.lookup(f, path, false).unwrap_err(), "ENOTDIR", "{path}");
        assert_eq!(c.err(&mut a, create(f, path)), "ENOTDIR", "{path}");
    }
    assert_eq!(
        c.lookup(999, "x", false).unwrap_err(),
        "ENOENT",
        "nor is there one"
    );
}

/// Symlinks `l1` to `last`, each to the one before; `l0` is the directory `d`.
fn chain(c: &mut Real, a: &mut Client, last: usize) -> i64 {
    let d = c.attr(a, mkdir(1, "l0")).ino;
    for n in 1..=last {
        c.ok(a, symlink(1, &format!("l{n}"), &format!("l{}", n - 1)));
    }
    d
}

#[test]
fn at_most_40_links_are_followed() {
    let (mut c, mut a) = cluster();
    let d = chain(&mut c, &mut a, 41);
    let f = c.attr(&mut a, create(d, "f")).ino;
    c.ok(&mut a, symlink(d, "s", "f"));
    assert_eq!(c.lookup(1, "l40", true).unwrap().ino, d);
    assert_eq!(c.lookup(1, "l41", true).unwrap_err(), "ELOOP");
    assert_eq!(c.lookup(1, "l41", false).unwrap().kind, "symlink");
    assert_eq!(c.lookup(1, "l40/f", false).unwrap().ino, f);
    assert_eq!(c.lookup(1, "l41/f", false).unwrap_err(), "ELOOP");
    assert_eq!(c.lookup(1, "l39/s", true).unwrap().ino, f);
    assert_eq!(c.lookup(1, "l40/s", true).unwrap_err(), "ELOOP");
    assert_eq!(
        c.lookup(1, "l40/s", false).unwrap().kind,
        "symlink",
        "the last is not followed"
    );
    assert_eq!(c.err(&mut a, create(1, "l41/g")), "ELOOP");
    c.ok(&mut a, create(1, "l40/g"));
    c.ok(&mut a, unlink(1, "l40/s"));
}

#[test]
fn links_in_circles_are_no_answer() {
    let (mut c, mut a) = cluster();
    c.ok(&mut a, symlink(1, "a", "b"));
    c.ok(&mut a, symlink(1, "b", "a"));
    c.ok(&mut a, symlink(1, "self", "self/x"));
    assert_eq!(c.lookup(1, "a", true).unwrap_err(), "ELOOP");
    assert_eq!(c.lookup(1, "a/x", false).unwrap_err(), "ELOOP");
    assert_eq!(c.lookup(1, "self", true).unwrap_err(), "ELOOP");
}

#[test]
fn several_questions_in_one_run_are_answered_each() {
    let (mut c, mut a) = cluster();
    let f = c.attr(&mut a, create(1, "f")).ino;
    c.ok(&mut a, symlink(1, "l", "f"));
    let question = |req: i64, uid: i64, name: &str, follow: bool| {
        vec![
            overlog::Value::addr("reader"),
            i(req),
            i(uid),
            i(uid),
            none(),
            s("lookup"),
            i(1),
            path(name),
            list([b(follow)]),
        ]
    };
    let rows = vec![
        c.row("ask", question(1, 0, "f", false)),
        c.row("ask", question(2, 5, "f", false)),
        c.row("ask", question(3, 0, "x", false)),
        c.row("ask", question(4, 0, "l", true)),
        c.row("ask", question(5, 0, "l", false)),
    ];
    c.sent.clear();
    c.run(rows);
    let ino = |answer: Option<Answer>| Attr::from(&answer.unwrap().unwrap()[1]).ino;
    assert_eq!(
        (ino(c.answered(1)), ino(c.answered(2)), ino(c.answered(4))),
        (f, f, f)
    );
    assert_ne!(ino(c.answered(5)), f);
    assert_eq!(c.answered(3), Some(Err("ENOENT".into())));
}

#[test]
fn questions_change_nothing() {
    let (mut c, mut a) = cluster();
    c.ok(&mut a, create(1, "f"));
    let (before, slot) = (c.replicated(), c.slot);
    c.lookup(1, "f", true).unwrap();
    page(&mut c, 1, 0, 10);
    asked(&mut c, "statfs", 0, vec![]).unwrap();
    asked(&mut c, "status", 0, vec![]).unwrap();
    assert_eq!((c.replicated(), c.slot), (before, slot));
}

// Readdir.

#[test]
fn a_directory_is_read_by_pages() {
    let (mut c, mut a) = cluster();
    let d = c.attr(&mut a, mkdir(1, "d")).ino;
    assert_eq!(page(&mut c, d, 0, 10), (1, vec![], true));
    for name in ["c", "a", "b", "d"] {
        c.ok(&mut a, create(d, name));
    }
    c.ok(&mut a, symlink(d, "s", "x"));
    c.ok(&mut a, mkdir(d, "sub"));
    let all = ["c", "a", "b", "d", "s", "sub"];
    for limit in 1..=7 {
        assert_eq!(
            listing(&mut c, d, limit),
            all,
            "in the order in which they came, by {limit}"
        );
    }
    let (parent, entries, end) = page(&mut c, d, 0, 4);
    assert_eq!((parent, entries.len(), end), (1, 4, false));
    assert!(entries.windows(2).all(|pair| pair[0].0 < pair[1].0));
    let (_, rest, end) = page(&mut c, d, entries[3].0, 4);
    assert_eq!((rest.len(), end), (2, true));
    assert_eq!(page(&mut c, d, rest[1].0, 4), (1, vec![], true));
    let (_, again, _) = page(&mut c, d, entries[1].0, 2);
    assert_eq!(again, entries[2..], "from any cookie");
}

#[test]
fn a_page_has_at_most_1024_entries() {
    let (mut c, mut a) = cluster();
    for n in 0..5 {
        let commands: Vec<Command> = (0..206).map(|m| create(1, &format!("{n}.{m}"))).collect();
        c.batch(&mut a, &commands);
    }
    let payload = asked(&mut c, "readdir", 1, vec![i(0), i(1 << 20)]).unwrap();
    assert_eq!(
        (payload[2].as_list().unwrap().len(), &payload[3]),
        (1_024, &b(false))
    );
    let last = payload[2].as_list().unwrap()[1_023].as_list().unwrap()[0].clone();
    let payload = asked(&mut c, "readdir", 1, vec![last, i(1 << 20)]).unwrap();
    assert_eq!(
        (payload[2].as_list().unwrap().len(), &payload[3]),
        (6, &b(true))
    );
}

#[test]
fn names_that_stay_are_listed_once_while_others_come_and_go() {
    let (mut c, mut a) = cluster();
    for name in ["a", "b", "c", "d", "e", "f"] {
        c.ok(&mut a, create(1, name));
    }
    let (_, entries, _) = page(&mut c, 1, 0, 3);
    let after = entries[2].0;
    // The last that was listed goes, one behind it goes, others come.
    c.ok(&mut a, unlink(1, "c"));
    c.ok(&mut a, unlink(1, "d"));
    c.ok(&mut a, create(1, "g"));
    c.restart();
    let (_, rest, end) = page(&mut c, 1, after, 10);
    let names: Vec<&str> = rest.iter().map(|(_, name)| name.as_str()).collect();
    assert_eq!((names, end), (vec!["e", "f", "g"], true));
    // A name that came back is a new one.
    c.hello("a", a.session, 0);
    c.ok(&mut a, create(1, "a2"));
    c.ok(&mut a, rename(1, "a", 1, "moved"));
    let (_, rest, _) = page(&mut c, 1, after, 10);
    assert_eq!(
        rest.iter()
            .map(|(_, name)| name.as_str())
            .collect::<Vec<_>>(),
        ["e", "f", "g", "a2", "moved"]
    );
}

#[test]
fn a_name_that_is_replaced_keeps_its_place() {
    let (mut c, mut a) = cluster();
    for name in ["a", "b", "c", "d", "new"] {
        c.ok(&mut a, create(1, name));
    }
    let (_, entries, _) = page(&mut c, 1, 0, 2);
    let after = entries[1].0;
    // Both were there all the time: one was listed, the other was not.
    c.ok(&mut a, rename(1, "new", 1, "a"));
    c.ok(&mut a, create(1, "newer"));
    c.ok(&mut a, rename(1, "newer", 1, "d"));
    let (_, rest, _) = page(&mut c, 1, after, 10);
    assert_eq!(
        rest.iter()
            .map(|(_, name)| name.as_str())
            .collect::<Vec<_>>(),
        ["c", "d"]
    );
    c.ok(&mut a, exchange(1, "a", 1, "d"));
    let (_, rest, _) = page(&mut c, 1, after, 10);
    assert_eq!(
        rest.iter()
            .map(|(_, name)| name.as_str())
            .collect::<Vec<_>>(),
        ["c", "d"]
    );
    assert_eq!(listing(&mut c, 1, 3), ["a", "b", "c", "d"]);
}

#[test]
fn the_parent_of_a_directory_comes_with_its_page() {
    let (mut c, mut a) = cluster();
    let d = c.attr(&mut a, mkdir(1, "d")).ino;
    let e = c.attr(&mut a, mkdir(d, "e")).ino;
    assert_eq!(
        (
            page(&mut c, e, 0, 1).0,
            page(&mut c, d, 0, 1).0,
            page(&mut c, 1, 0, 1).0
        ),
        (d, 1, 1)
    );
    c.ok(&mut a, rename(d, "e", 1, "e"));
    assert_eq!(page(&mut c, e, 0, 1).0, 1);
}

#[test]
fn what_is_no_directory_is_not_listed() {
    let (mut c, mut a) = cluster();
    let f = c.attr(&mut a, create(1, "f")).ino;
    let d = c.attr(&mut a, mkdir(1, "d")).ino;
    c.ok(&mut a, rmdir(1, "d"));
    assert_eq!(
        asked(&mut c, "readdir", f, vec![i(0), i(10)]),
        Err("ENOTDIR".into())
    );
    assert_eq!(
        asked(&mut c, "readdir", d, vec![i(0), i(10)]),
        Err("ENOENT".into())
    );
}

// The others.

#[test]
fn readlink_gives_the_target_as_it_was_set() {
    let (mut c, mut a) = cluster();
    for (name, target) in [("l", "../a//b/./c"), ("abs", "/"), ("odd", "no such")] {
        let l = c.attr(&mut a, symlink(1, name, target));
        assert_eq!(
            asked(&mut c, "readlink", l.ino, vec![]),
            Ok(vec![s("target"), s(target)])
        );
        assert_eq!(l.size, target.len() as i64);
    }
    let f = c.attr(&mut a, create(1, "f")).ino;
    assert_eq!(asked(&mut c, "readlink", f, vec![]), Err("EINVAL".into()));
    assert_eq!(asked(&mut c, "readlink", 1, vec![]), Err("EINVAL".into()));
    assert_eq!(asked(&mut c, "readlink", 999, vec![]), Err("ENOENT".into()));
}

#[test]
fn locate_gives_the_blocks_of_a_range() {
    let (mut c, mut a) = cluster();
    let node = c.datanode("d1", 1);
    let size = 65_536;
    let f = c.attr(&mut a, create_with(1, "f", true, true, 0)).ino;
    let mut blocks = vec![];
    for n in [0, 1, 3] {
        let block = Block::from(
            c.ok(&mut a, cmd("add_block", f, "", [i(n * size), none()]))
                .as_slice(),
        )
        .block;
        c.received("d1", node, &[(block, 1, size)], &[]);
        blocks.push((block, 1, if n == 3 { 10 } else { size }));
    }
    c.ok(&mut a, commit(f, 3 * size + 10, &blocks));
    let located = |c: &mut Real, offset: i64, length: i64| {
        let payload = asked(c, "locate", f, vec![i(offset), i(length)]).unwrap();
        assert_eq!(payload[..3], [s("blocks"), i(3 * size + 10), i(size)]);
        let mut found: Vec<(i64, i64, i64, Vec<i64>)> = vec![];
        for item in payload[3].as_list().unwrap() {
            let item = item.as_list().unwrap();
            let int = |at: usize| item[at].as_int().unwrap();
            assert_eq!(int(2), 1, "its generation");
            found.push((int(0), int(1), int(3), firsts(&item[4])));
        }
        found.sort_by_key(|block| block.1);
        found
    };
    let one = (blocks[0].0, 0, size, vec![node]);
    let two = (blocks[1].0, size, size, vec![node]);
    let four = (blocks[2].0, 3 * size, 10, vec![node]);
    assert_eq!(
        located(&mut c, 0, 10 * size),
        [one.clone(), two.clone(), four.clone()]
    );
    assert_eq!(
        located(&mut c, 0, i64::MAX),
        [one.clone(), two.clone(), four.clone()]
    );
    assert_eq!(located(&mut c, 0, 1), std::slice::from_ref(&one));
    assert_eq!(located(&mut c, size - 1, 1), std::slice::from_ref(&one));
    assert_eq!(located(&mut c, size - 1, 2), [one, two.clone()]);
    assert_eq!(
        located(&mut c, size, 2 * size),
        [two],
        "and the hole behind it"
    );
    assert_eq!(located(&mut c, 2 * size, size), []);
    assert_eq!(
        located(&mut c, 4 * size - 1, 1),
        [four],
        "the block and not only its bytes"
    );
    assert_eq!(located(&mut c, 4 * size, 1), []);
    assert_eq!(located(&mut c, 0, 0), []);
    assert_eq!(
        asked(&mut c, "locate", 999, vec![i(0), i(1)]),
        Err("ENOENT".into())
    );
    assert_eq!(
        asked(&mut c, "locate", 1, vec![i(0), i(1)]),
        Err("EISDIR".into())
    );
    let fifo = c.attr(&mut a, node_of("fifo", 1, "p")).ino;
    assert_eq!(
        asked(&mut c, "locate", fifo, vec![i(0), i(1)]),
        Err("EINVAL".into())
    );
}

#[test]
fn statfs_adds_up_the_live_nodes() {
    let (mut c, mut a) = cluster();
    let statfs = |c: &mut Real| ints(&list(asked(c, "statfs", 0, vec![]).unwrap()[1..].to_vec()));
    let room: i64 = 1 << 40;
    assert_eq!(statfs(&mut c), [0, 0, 1, 0, 3, 65_536]);
    let one = c.datanode("d1", 1);
    c.datanode("d2", 2);
    assert_eq!(
        statfs(&mut c),
        [2 * room, 2 * room, 1, 0, 3, 65_536],
        "nodes of one size, too"
    );
    let row = vec![overlog::Value::addr("d1"), i(one), i(room), i(7)];
    c.feed("heartbeat", row.clone());
    let f = c.attr(&mut a, create_with(1, "f", true, true, 0)).ino;
    c.datanode("d3", 3);
    c.ok(&mut a, cmd("add_block", f, "", [i(0), none()]));
    assert_eq!(statfs(&mut c), [3 * room, 2 * room + 7, 2, 1, 3, 65_536]);
    for _ in 0..2 {
        c.pass(6);
        c.feed("heartbeat", row.clone());
    }
    assert_eq!(statfs(&mut c)[..2], [room, 7], "the others are dead");
}

#[test]
fn status_tells_of_nodes_and_replicas() {
    let (mut c, mut a) = cluster();
    let status = |c: &mut Real| asked(c, "status", 0, vec![]).unwrap();
    assert_eq!(
        status(&mut c),
        [
            s("status"),
            none(),
            i(0),
            i(0),
            i(1),
            b(true),
            none(),
            list([list([i(1), i(2)])])
        ],
        "starting"
    );
    let one = c.datanode("d1", 1);
    let two = c.datanode("d2", 2);
    c.pass(1);
    let f = c.attr(&mut a, create_with(1, "f", true, true, 0)).ino;
    let block = Block::from(
        c.ok(&mut a, cmd("add_block", f, "", [i(0), none()]))
            .as_slice(),
    )
    .block;
    let room: i64 = 1 << 40;
    let node = |id: i64, addr: &str, up: bool, blocks: i64| {
        let room = if addr.is_empty() { 0 } else { room };
        list([i(id), s(addr), b(up), i(room), i(room), i(blocks)])
    };
    let nodes = list([node(one, "d1:1", true, 0), node(two, "d2:1", true, 0)]);
    assert_eq!(
        status(&mut c)[1..6],
        [nodes, i(1), i(1), i(1), b(false)],
        "a block that nobody has"
    );
    c.received("d1", one, &[(block, 1, 0)], &[]);
    c.pass(6);
    c.beat("d1", one);
    c.renew(&a, &[]);
    c.pass(6);
    let nodes = list([node(one, "d1:1", true, 1), node(two, "d2:1", false, 0)]);
    assert_eq!(
        status(&mut c)[1..6],
        [nodes, i(1), i(0), i(1), b(false)],
        "one dead, two short"
    );
    c.restart();
    let nodes = list([node(one, "", false, 0), node(two, "", false, 0)]);
    assert_eq!(
        status(&mut c)[1..6],
        [nodes, i(1), i(1), i(1), b(true)],
        "known, and not heard of"
    );
}
