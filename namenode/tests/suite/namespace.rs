//! One test for each operation on the tree and for each of its errors.

use crate::driver::*;

fn cluster() -> (Real, Client) {
    let mut c = Real::new(3);
    let client = c.client("a");
    (c, client)
}

#[test]
fn made_things_have_what_was_asked_for() {
    let (mut c, mut a) = cluster();
    let d = c.attr(&mut a, mkdir_mode(1, "d", 0o1750));
    assert_eq!(
        (d.kind.as_str(), d.mode, d.nlink, d.uid),
        ("dir", 0o1750, 2, 0)
    );
    let f = c.attr(&mut a, create(d.ino, "f"));
    assert_eq!(
        (
            f.kind.as_str(),
            f.mode,
            f.nlink,
            f.size,
            f.block_size,
            f.replication
        ),
        ("file", 0o644, 1, 0, 65_536, 3)
    );
    let l = c.attr(&mut a, symlink(1, "l", "d/f"));
    assert_eq!((l.kind.as_str(), l.mode, l.size), ("symlink", 0o777, 3));
    let p = c.attr(&mut a, node_of("fifo", 1, "p"));
    assert_eq!((p.kind.as_str(), p.rdev), ("fifo", 7));
    assert_eq!(c.look(1).unwrap().nlink, 3, "the root has one subdirectory");
    assert_eq!(
        c.look(1).unwrap().mtime,
        p.mtime,
        "a directory changes when a name comes"
    );
    assert_eq!(f.mtime, f.crtime);
}

#[test]
fn names_that_exist_are_refused() {
    let (mut c, mut a) = cluster();
    let f = c.attr(&mut a, create(1, "f"));
    assert_eq!(c.err(&mut a, create(1, "f")), "EEXIST");
    assert_eq!(c.err(&mut a, mkdir(1, "f")), "EEXIST");
    assert_eq!(c.err(&mut a, symlink(1, "f", "x")), "EEXIST");
    assert_eq!(c.err(&mut a, link(f.ino, 1, "f")), "EEXIST");
    assert_eq!(c.err(&mut a, mkdir(1, "")), "EEXIST");
}

#[test]
fn create_opens_what_exists_if_not_exclusive() {
    let (mut c, mut a) = cluster();
    let f = c.attr(&mut a, create(1, "f"));
    assert_eq!(
        c.attr(&mut a, create_with(1, "f", false, false, 0)).ino,
        f.ino
    );
    assert_eq!(c.rows("lease").len(), 0);
    assert_eq!(
        c.attr(&mut a, create_with(1, "f", false, true, 0)).ino,
        f.ino
    );
    assert_eq!(
        c.rows("lease"),
        vec![vec![i(f.ino), i(a.session)]],
        "the lease comes with it"
    );
    let mut other = c.client("b");
    assert_eq!(
        c.err(&mut other, create_with(1, "f", false, true, 0)),
        "EBUSY"
    );
    c.ok(&mut a, mkdir(1, "d"));
    assert_eq!(
        c.err(&mut a, create_with(1, "d", false, false, 0)),
        "EISDIR"
    );
    c.ok(&mut a, symlink(1, "l", "f"));
    assert_eq!(
        c.err(&mut a, create_with(1, "l", false, false, 0)),
        "EEXIST"
    );
}

#[test]
fn create_makes_no_directories_or_links() {
    let (mut c, mut a) = cluster();
    for kind in ["dir", "symlink", "nonsense"] {
        assert_eq!(c.err(&mut a, node_of(kind, 1, "x")), "EINVAL", "{kind}");
    }
    for kind in ["file", "fifo", "socket", "char", "block"] {
        assert_eq!(c.attr(&mut a, node_of(kind, 1, kind)).kind, kind);
    }
    let mut odd = create(1, "y");
    odd.args[5] = i(5_000);
    assert_eq!(
        c.err(&mut a, odd),
        "EINVAL",
        "a block size that is no multiple of a chunk"
    );
}

#[test]
fn modes_have_only_mode_bits() {
    let (mut c, mut a) = cluster();
    assert_eq!(c.attr(&mut a, mkdir_mode(1, "d", 0o100_755)).mode, 0o755);
    let mut f = create(1, "f");
    f.args[1] = i(0o107_644);
    assert_eq!(c.attr(&mut a, f).mode, 0o7644);
    let set = Set {
        mode: Some(0o100_600),
        ..Set::default()
    };
    assert_eq!(c.attr(&mut a, setattr(1, "f", set)).mode, 0o600);
}

#[test]
fn paths_are_walked() {
    let (mut c, mut a) = cluster();
    let d = c.attr(&mut a, mkdir(1, "d")).ino;
    let e = c.attr(&mut a, mkdir(1, "d/e")).ino;
    assert_eq!(
        c.attr(&mut a, create(1, "d/e/f")).ino,
        c.lookup(e, "f", false).unwrap().ino
    );
    c.ok(&mut a, symlink(1, "up", "d/e"));
    c.ok(&mut a, symlink(1, "d/abs", "/d/e/"));
    c.ok(&mut a, symlink(1, "d/e/back", "../../d"));
    assert_eq!(
        c.attr(&mut a, create(1, "up/g")).ino,
        c.lookup(e, "g", false).unwrap().ino
    );
    assert_eq!(
        c.attr(&mut a, create(1, "d/abs/h")).ino,
        c.lookup(e, "h", false).unwrap().ino
    );
    assert_eq!(
        c.attr(&mut a, create(1, "up/back/i")).ino,
        c.lookup(d, "i", false).unwrap().ino
    );
    assert_eq!(
        c.lookup(1, "up", false).unwrap().kind,
        "symlink",
        "the last name is not followed"
    );
    assert_eq!(c.lookup(1, "up", true).unwrap().ino, e);
    assert_eq!(
        c.lookup(1, "up/back/i", false).unwrap().ino,
        c.lookup(d, "i", false).unwrap().ino
    );
}

#[test]
fn paths_that_lead_nowhere() {
    let (mut c, mut a) = cluster();
    c.ok(&mut a, mkdir(1, "d"));
    c.ok(&mut a, create(1, "f"));
    c.ok(&mut a, symlink(1, "loop", "loop"));
    c.ok(&mut a, symlink(1, "dangling", "nowhere"));
    for (names, errno) in [
        ("x/y", "ENOENT"),
        ("f/y", "ENOTDIR"),
        ("loop/y", "ELOOP"),
        ("dangling/y", "ENOENT"),
        ("d/x/y", "ENOENT"),
    ] {
        assert_eq!(c.err(&mut a, create(1, names)), errno, "{names}");
        assert_eq!(c.lookup(1, names, false).unwrap_err(), errno, "{names}");
    }
    assert_eq!(c.err(&mut a, create(999, "y")), "ENOENT", "no such base");
    assert_eq!(c.lookup(1, "loop", true).unwrap_err(), "ELOOP");
    assert_eq!(c.lookup(1, "dangling", true).unwrap_err(), "ENOENT");
    assert_eq!(c.lookup(1, "nothing", false).unwrap_err(), "ENOENT");
    assert_eq!(c.lookup(999, "", false).unwrap_err(), "ENOENT");
}

#[test]
fn names_are_names() {
    let (mut c, mut a) = cluster();
    let longest = "n".repeat(255);
    c.ok(&mut a, create(1, &longest));
    assert_eq!(
        c.err(&mut a, create(1, &format!("{longest}n"))),
        "ENAMETOOLONG"
    );
    assert_eq!(
        c.lookup(1, &format!("{longest}n"), false).unwrap_err(),
        "ENAMETOOLONG"
    );
    assert_eq!(
        c.err(&mut a, mkdir(1, &format!("{longest}n/x"))),
        "ENAMETOOLONG"
    );
    for bad in ["a/b", "nul\0", "", ".", ".."] {
        let mut command = create(1, "x");
        command.path = list([s(bad)]);
        assert!(
            ["EINVAL", "EEXIST", "ENOENT"].contains(&c.err(&mut a, command).as_str()),
            "{bad:?}"
        );
    }
    let mut bytes = create(1, "x");
    bytes.path = list([overlog::Value::str([0xff, 0xfe])]);
    c.ok(&mut a, bytes);
    assert_eq!(c.err(&mut a, symlink(1, "s", "")), "ENOENT");
    assert_eq!(
        c.err(&mut a, symlink(1, "s", &"t".repeat(4_096))),
        "ENAMETOOLONG"
    );
    c.ok(&mut a, symlink(1, "s", &"t".repeat(4_095)));
}

#[test]
fn link_gives_another_name() {
    let (mut c, mut a) = cluster();
    let f = c.attr(&mut a, create(1, "f"));
    let g = c.attr(&mut a, link(f.ino, 1, "g"));
    assert_eq!((g.ino, g.nlink), (f.ino, 2));
    assert!(g.ctime > f.ctime);
    assert_eq!(c.attr(&mut a, unlink(1, "f")).nlink, 1);
    let d = c.attr(&mut a, mkdir(1, "d")).ino;
    assert_eq!(c.err(&mut a, link(d, 1, "e")), "EPERM");
    assert_eq!(c.err(&mut a, link(999, 1, "e")), "ENOENT");
}

#[test]
fn unlinked_files_are_orphans_and_can_be_linked_again() {
    let (mut c, mut a) = cluster();
    let f = c.attr(&mut a, create(1, "f"));
    assert_eq!(c.attr(&mut a, unlink(1, "f")).nlink, 0);
    assert_eq!(c.rows("orphan").len(), 1);
    assert_eq!(
        c.look(f.ino).unwrap().nlink,
        0,
        "it stays while it may be open"
    );
    assert_eq!(c.attr(&mut a, link(f.ino, 1, "g")).nlink, 1);
    assert_eq!(c.rows("orphan").len(), 0);
}

#[test]
fn unlink_and_rmdir_errors() {
    let (mut c, mut a) = cluster();
    c.ok(&mut a, mkdir(1, "d"));
    c.ok(&mut a, create(1, "d/f"));
    assert_eq!(c.err(&mut a, unlink(1, "x")), "ENOENT");
    assert_eq!(c.err(&mut a, unlink(1, "d")), "EISDIR");
    assert_eq!(c.err(&mut a, rmdir(1, "x")), "ENOENT");
    assert_eq!(c.err(&mut a, rmdir(1, "d/f")), "ENOTDIR");
    assert_eq!(c.err(&mut a, rmdir(1, "d")), "ENOTEMPTY");
    assert_eq!(c.err(&mut a, rmdir(1, "")), "EBUSY");
    c.ok(&mut a, unlink(1, "d/f"));
    assert_eq!(c.ok(&mut a, rmdir(1, "d")), vec![]);
    assert_eq!(c.look(1).unwrap().nlink, 2);
}

#[test]
fn nothing_is_made_in_a_removed_directory() {
    let (mut c, mut a) = cluster();
    let d = c.attr(&mut a, mkdir(1, "d")).ino;
    c.ok(&mut a, rmdir(1, "d"));
    assert_eq!(c.err(&mut a, create(d, "f")), "ENOENT");
}

#[test]
fn rename_moves_names() {
    let (mut c, mut a) = cluster();
    let d = c.attr(&mut a, mkdir(1, "d")).ino;
    let e = c.attr(&mut a, mkdir(1, "e")).ino;
    let f = c.attr(&mut a, create(1, "f"));
    let moved = c.attr(&mut a, rename(1, "f", d, "g"));
    assert_eq!(moved.ino, f.ino);
    assert!(moved.ctime > f.ctime);
    assert_eq!(c.attr(&mut a, rename(1, "e", 1, "d/e")).ino, e);
    assert_eq!((c.look(1).unwrap().nlink, c.look(d).unwrap().nlink), (3, 3));
    assert_eq!(c.lookup(1, "d/e", false).unwrap().ino, e);
    assert_eq!(c.lookup(1, "f", false).unwrap_err(), "ENOENT");
    assert_eq!(c.attr(&mut a, rename(d, "e", 1, "e2")).ino, e);
    assert_eq!((c.look(1).unwrap().nlink, c.look(d).unwrap().nlink), (4, 2));
}

#[test]
fn rename_replaces() {
    let (mut c, mut a) = cluster();
    let f = c.attr(&mut a, create(1, "f")).ino;
    c.ok(&mut a, create(1, "g"));
    assert_eq!(c.attr(&mut a, rename(1, "f", 1, "g")).ino, f);
    assert_eq!(c.lookup(1, "g", false).unwrap().ino, f);
    assert_eq!(c.rows("orphan").len(), 1, "what was replaced may be open");
    let d = c.attr(&mut a, mkdir(1, "d")).ino;
    c.ok(&mut a, mkdir(1, "e"));
    assert_eq!(c.attr(&mut a, rename(1, "d", 1, "e")).ino, d);
    assert_eq!(c.look(1).unwrap().nlink, 3);
    c.ok(&mut a, mkdir(1, "h"));
    c.ok(&mut a, mkdir(1, "h/i"));
    assert_eq!(c.attr(&mut a, rename(1, "h/i", 1, "e")).nlink, 2);
    assert_eq!(c.look(1).unwrap().nlink, 4);
}

#[test]
fn rename_checks() {
    let (mut c, mut a) = cluster();
    c.ok(&mut a, mkdir(1, "d"));
    c.ok(&mut a, mkdir(1, "d/e"));
    c.ok(&mut a, create(1, "f"));
    c.ok(&mut a, create(1, "g"));
    assert_eq!(c.err(&mut a, rename(1, "x", 1, "y")), "ENOENT");
    assert_eq!(c.err(&mut a, rename(1, "d", 1, "f")), "ENOTDIR");
    assert_eq!(c.err(&mut a, rename(1, "f", 1, "d")), "EISDIR");
    c.ok(&mut a, mkdir(1, "h"));
    assert_eq!(c.err(&mut a, rename(1, "h", 1, "d")), "ENOTEMPTY");
    assert_eq!(c.err(&mut a, rename(1, "d", 1, "d/x")), "EINVAL");
    assert_eq!(c.err(&mut a, rename(1, "d", 1, "d/e/x")), "EINVAL");
    assert_eq!(c.err(&mut a, rename(1, "d/e", 1, "d")), "ENOTEMPTY");
    assert_eq!(c.err(&mut a, rename_noreplace(1, "f", 1, "g")), "EEXIST");
    assert_eq!(c.err(&mut a, rename(1, "", 1, "x")), "EBUSY");
    assert_eq!(c.err(&mut a, rename(1, "f", 1, "")), "EBUSY");
    let both = cmd("rename", 1, "f", [i(1), path("g"), b(true), b(true)]);
    assert_eq!(c.err(&mut a, both), "EINVAL");
    c.ok(&mut a, rename_noreplace(1, "f", 1, "new"));
}

#[test]
fn rename_to_the_same_inode_does_nothing() {
    let (mut c, mut a) = cluster();
    let f = c.attr(&mut a, create(1, "f"));
    c.ok(&mut a, link(f.ino, 1, "g"));
    let before = c.look(f.ino).unwrap();
    assert_eq!(c.attr(&mut a, rename(1, "f", 1, "g")), before);
    assert_eq!(c.attr(&mut a, rename(1, "f", 1, "f")), before);
    assert_eq!(c.rows("dentry").len(), 2);
    c.ok(&mut a, mkdir(1, "d"));
    c.ok(&mut a, create(1, "d/x"));
    c.ok(&mut a, rename(1, "d", 1, "d"));
}

#[test]
fn exchange_swaps_names() {
    let (mut c, mut a) = cluster();
    let d = c.attr(&mut a, mkdir(1, "d")).ino;
    let e = c.attr(&mut a, mkdir(1, "d/e")).ino;
    c.ok(&mut a, create(1, "d/e/in"));
    let f = c.attr(&mut a, create(1, "f")).ino;
    let g = c.attr(&mut a, create(1, "g")).ino;
    // In one directory: the invariant on cookies sees that each name keeps a place of its own.
    assert_eq!(c.attr(&mut a, exchange(1, "f", 1, "g")).ino, f);
    assert_eq!(
        (
            c.lookup(1, "f", false).unwrap().ino,
            c.lookup(1, "g", false).unwrap().ino
        ),
        (g, f)
    );
    c.ok(&mut a, exchange(1, "f", d, "e"));
    assert_eq!(
        (
            c.lookup(1, "f", false).unwrap().ino,
            c.lookup(d, "e", false).unwrap().ino
        ),
        (e, g)
    );
    assert_eq!((c.look(1).unwrap().nlink, c.look(d).unwrap().nlink), (4, 2));
    assert_eq!(c.err(&mut a, exchange(1, "g", 1, "none")), "ENOENT");
    c.ok(&mut a, mkdir(1, "f/deep"));
    assert_eq!(c.err(&mut a, exchange(1, "f", e, "deep")), "EINVAL");
    assert_eq!(c.err(&mut a, exchange(e, "deep", 1, "f")), "EINVAL");
    c.ok(&mut a, exchange(1, "f", 1, "f"));
}

#[test]
fn reserved_numbers_are_used() {
    let (mut c, mut a) = cluster();
    let mut other = c.client("b");
    let given = c.ok(&mut a, cmd("reserve", 0, "", [i(10)]));
    let first = given[1].as_int().unwrap();
    assert_eq!((given[0].clone(), given[2].clone()), (s("inodes"), i(10)));
    assert_eq!(
        c.attr(&mut a, create_with(1, "f", true, false, first)).ino,
        first
    );
    assert_eq!(
        c.attr(&mut a, cmd("mkdir", 1, "d", [i(0o755), i(first + 9)]))
            .ino,
        first + 9
    );
    assert_eq!(
        c.err(&mut a, create_with(1, "g", true, false, first)),
        "EINVAL",
        "in use"
    );
    assert_eq!(
        c.err(&mut a, create_with(1, "g", true, false, first + 10)),
        "EINVAL",
        "beyond the range"
    );
    assert_eq!(
        c.err(&mut other, create_with(1, "g", true, false, first + 1)),
        "EINVAL",
        "of another session"
    );
    assert_eq!(c.err(&mut a, cmd("reserve", 0, "", [i(0)])), "EINVAL");
    assert_eq!(c.err(&mut a, cmd("reserve", 0, "", [i(65_537)])), "EINVAL");
    assert!(
        c.ok(&mut other, cmd("reserve", 0, "", [i(1)]))[1]
            .as_int()
            .unwrap()
            >= first + 10
    );
}

#[test]
fn times_of_a_directory() {
    let (mut c, mut a) = cluster();
    let d = c.attr(&mut a, mkdir(1, "d")).ino;
    let f = c.attr(&mut a, create(d, "f"));
    assert_eq!(
        (c.look(d).unwrap().mtime, c.look(d).unwrap().ctime),
        (f.mtime, f.mtime)
    );
    let changed = c.attr(
        &mut a,
        setattr(
            d,
            "",
            Set {
                mode: Some(0o700),
                ..Set::default()
            },
        ),
    );
    assert_eq!(changed.mtime, f.mtime, "a new mode leaves the mtime");
    let old = c.attr(
        &mut a,
        setattr(
            d,
            "",
            Set {
                mtime: Some(Some(5)),
                ..Set::default()
            },
        ),
    );
    assert_eq!(old.mtime, 5);
    assert!(old.ctime > changed.ctime);
    let future = START * 2;
    c.attr(
        &mut a,
        setattr(
            d,
            "",
            Set {
                mtime: Some(Some(future)),
                ..Set::default()
            },
        ),
    );
    let g = c.attr(&mut a, create(d, "g"));
    assert_eq!(
        c.look(d).unwrap().mtime,
        g.mtime,
        "a new name sets the mtime, also back from the future"
    );
}

#[test]
fn unknown_operations_are_refused() {
    let (mut c, mut a) = cluster();
    assert_eq!(c.err(&mut a, cmd("remove_tree", 1, "x", [])), "EOPNOTSUPP");
}
