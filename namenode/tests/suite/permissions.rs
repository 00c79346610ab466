//! Who may do what: each check of POSIX that an operation makes, by owner, group, others and root.

use crate::driver::*;

const OWNER: i64 = 10;
const MEMBER: i64 = 20;
const STRANGER: i64 = 30;
const GROUP: i64 = 100;

fn cluster() -> (Real, Client) {
    let mut c = Real::new(3);
    let client = c.client("a");
    (c, client)
}

fn owner(command: Command) -> Command {
    command.by(OWNER, GROUP, &[])
}

/// Of the group only by a supplementary one.
fn member(command: Command) -> Command {
    command.by(MEMBER, 200, &[300, GROUP])
}

fn stranger(command: Command) -> Command {
    command.by(STRANGER, 300, &[])
}

/// A directory of the owner and the group.
fn dir(c: &mut Real, a: &mut Client, name: &str, mode: i64) -> i64 {
    let ino = c.attr(a, mkdir_mode(1, name, mode)).ino;
    let set = Set {
        uid: Some(OWNER),
        gid: Some(GROUP),
        ..Set::default()
    };
    c.attr(a, setattr(ino, "", set));
    ino
}

/// A file of the owner and the group.
fn file(c: &mut Real, a: &mut Client, name: &str, mode: i64) -> i64 {
    let ino = c.attr(a, create(1, name)).ino;
    let set = Set {
        mode: Some(mode),
        uid: Some(OWNER),
        gid: Some(GROUP),
        ..Set::default()
    };
    c.attr(a, setattr(ino, "", set));
    c.attr(
        a,
        setattr(
            ino,
            "",
            Set {
                mode: Some(mode),
                ..Set::default()
            },
        ),
    );
    ino
}

/// The error, or nothing.
fn tried(c: &mut Real, a: &mut Client, command: Command) -> String {
    c.run_one(a, command).err().unwrap_or_default()
}

fn chmod(ino: i64, mode: i64) -> Command {
    setattr(
        ino,
        "",
        Set {
            mode: Some(mode),
            ..Set::default()
        },
    )
}

fn chown(ino: i64, uid: i64) -> Command {
    setattr(
        ino,
        "",
        Set {
            uid: Some(uid),
            ..Set::default()
        },
    )
}

fn chgrp(ino: i64, gid: i64) -> Command {
    setattr(
        ino,
        "",
        Set {
            gid: Some(gid),
            ..Set::default()
        },
    )
}

fn resize(ino: i64) -> Command {
    setattr(
        ino,
        "",
        Set {
            size: Some(0),
            ..Set::default()
        },
    )
}

fn utimes(ino: i64, atime: Option<Option<i64>>, mtime: Option<Option<i64>>) -> Command {
    setattr(
        ino,
        "",
        Set {
            atime,
            mtime,
            ..Set::default()
        },
    )
}

// Directories.

#[test]
fn changing_a_directory_needs_write_and_search_permission() {
    let (mut c, mut a) = cluster();
    let f = c.attr(&mut a, create(1, "target")).ino;
    // Mode, and whether owner, member of the group, and stranger may.
    for (mode, may) in [
        (0o700, [true, false, false]),
        (0o070, [false, true, false]),
        (0o007, [false, false, true]),
        (0o555, [false, false, false]),
        (0o666, [false, false, false]),
        (0o333, [true, true, true]),
    ] {
        let d = dir(&mut c, &mut a, &format!("{mode:o}"), mode);
        for (who, may) in [owner, member, stranger].into_iter().zip(may) {
            let expected = if may { "" } else { "EACCES" };
            let steps = [
                create(d, "f"),
                mkdir(d, "d"),
                symlink(d, "s", "x"),
                node_of("fifo", d, "p"),
                link(f, d, "l"),
                rename(d, "f", d, "g"),
                unlink(d, "l"),
                rmdir(d, "d"),
                unlink(d, "s"),
                unlink(d, "p"),
                unlink(d, "g"),
            ];
            for step in steps {
                let text = format!("{mode:o} {step:?}");
                assert_eq!(tried(&mut c, &mut a, who(step)), expected, "{text}");
            }
        }
        assert_eq!(c.attr(&mut a, create(d, "root")).uid, 0, "root may always");
    }
}

#[test]
fn a_rename_needs_both_directories() {
    let (mut c, mut a) = cluster();
    let from = dir(&mut c, &mut a, "from", 0o777);
    let to = dir(&mut c, &mut a, "to", 0o755);
    c.attr(&mut a, create(from, "f"));
    c.attr(&mut a, create(to, "g"));
    assert_eq!(
        tried(&mut c, &mut a, stranger(rename(from, "f", to, "f"))),
        "EACCES"
    );
    assert_eq!(
        tried(&mut c, &mut a, stranger(rename(to, "g", from, "g"))),
        "EACCES"
    );
    assert_eq!(
        tried(&mut c, &mut a, stranger(exchange(from, "f", to, "g"))),
        "EACCES"
    );
    assert_eq!(tried(&mut c, &mut a, owner(rename(from, "f", to, "f"))), "");
}

#[test]
fn a_directory_that_changes_its_parent_must_be_writable_itself() {
    let (mut c, mut a) = cluster();
    let from = dir(&mut c, &mut a, "from", 0o777);
    let to = dir(&mut c, &mut a, "to", 0o777);
    c.attr(&mut a, mkdir_mode(from, "root's", 0o755));
    c.attr(&mut a, mkdir_mode(from, "all's", 0o777));
    c.attr(&mut a, create(to, "f"));
    assert_eq!(
        tried(&mut c, &mut a, stranger(rename(from, "root's", to, "x"))),
        "EACCES"
    );
    assert_eq!(
        tried(&mut c, &mut a, stranger(rename(from, "root's", from, "x"))),
        "",
        "here it does not"
    );
    // Nor does an exchange move one, from either side.
    assert_eq!(
        tried(&mut c, &mut a, stranger(exchange(from, "x", to, "f"))),
        "EACCES"
    );
    assert_eq!(
        tried(&mut c, &mut a, stranger(exchange(to, "f", from, "x"))),
        "EACCES"
    );
    assert_eq!(
        tried(&mut c, &mut a, stranger(rename(from, "all's", to, "y"))),
        ""
    );
    assert_eq!(
        tried(&mut c, &mut a, stranger(exchange(to, "f", to, "y"))),
        ""
    );
}

#[test]
fn every_directory_on_the_way_must_be_searchable() {
    let (mut c, mut a) = cluster();
    let d = dir(&mut c, &mut a, "d", 0o766);
    c.attr(&mut a, mkdir_mode(d, "e", 0o777));
    c.attr(&mut a, create(d, "e/f"));
    c.attr(&mut a, symlink(1, "link", "d/e"));
    for path in [
        "d/e/new",
        "link/new",
        "d/e/../e/new",
        "d/nothing/new",
        "d/e/f/new",
    ] {
        assert_eq!(
            tried(&mut c, &mut a, stranger(create(1, path))),
            "EACCES",
            "{path}"
        );
        assert_eq!(
            tried(&mut c, &mut a, member(create(1, path))),
            "EACCES",
            "{path}"
        );
    }
    let names = ["d/e/f", "d/e", "link/f", "d/..", "d/nothing"];
    for path in names {
        let asked = c
            .ask_as(STRANGER, "lookup", 1, path, vec![b(false)])
            .unwrap();
        assert_eq!(asked.unwrap_err(), "EACCES", "{path}");
        let set = setattr(
            1,
            path,
            Set {
                mode: Some(0),
                ..Set::default()
            },
        );
        assert_eq!(tried(&mut c, &mut a, stranger(set)), "EACCES", "{path}");
    }
    assert!(
        c.ask_as(STRANGER, "lookup", 1, "d", vec![b(false)])
            .unwrap()
            .is_ok()
    );
    assert!(
        c.ask_as(STRANGER, "lookup", d, "", vec![b(false)])
            .unwrap()
            .is_ok(),
        "no way, no search"
    );
    for path in &names[..4] {
        assert!(
            c.ask_as(OWNER, "lookup", 1, path, vec![b(false)])
                .unwrap()
                .is_ok(),
            "{path}"
        );
        assert!(
            c.ask_as(0, "lookup", 1, path, vec![b(false)])
                .unwrap()
                .is_ok(),
            "{path}"
        );
    }
    // Where to is a path, too.
    c.attr(&mut a, create(1, "g"));
    c.attr(&mut a, chmod(1, 0o777));
    assert_eq!(
        tried(&mut c, &mut a, stranger(rename(1, "g", 1, "d/e/g"))),
        "EACCES"
    );
    assert_eq!(tried(&mut c, &mut a, owner(rename(1, "g", 1, "d/e/g"))), "");
}

#[test]
fn the_class_that_fits_decides_alone() {
    let (mut c, mut a) = cluster();
    // Others may, and owner and group may not.
    let d = dir(&mut c, &mut a, "d", 0o007);
    assert_eq!(tried(&mut c, &mut a, owner(create(d, "f"))), "EACCES");
    assert_eq!(tried(&mut c, &mut a, member(create(d, "f"))), "EACCES");
    assert_eq!(
        tried(&mut c, &mut a, create(d, "f").by(STRANGER, GROUP, &[])),
        "EACCES",
        "by its own group"
    );
    assert_eq!(tried(&mut c, &mut a, stranger(create(d, "f"))), "");
}

#[test]
fn in_a_sticky_directory_names_go_by_their_owner() {
    let (mut c, mut a) = cluster();
    let d = dir(&mut c, &mut a, "tmp", 0o1777);
    for name in ["f", "g", "h"] {
        c.attr(&mut a, member(create(d, name)));
    }
    c.attr(&mut a, member(mkdir(d, "dir")));
    c.attr(&mut a, stranger(create(d, "mine")));
    c.attr(&mut a, stranger(mkdir(d, "my_dir")));
    for step in [
        unlink(d, "f"),
        rmdir(d, "dir"),
        rename(d, "f", d, "x"),
        rename(d, "mine", d, "f"),
        rename(d, "my_dir", d, "dir"),
        exchange(d, "mine", d, "f"),
        exchange(d, "f", d, "mine"),
    ] {
        let text = format!("{step:?}");
        assert_eq!(tried(&mut c, &mut a, stranger(step)), "EPERM", "{text}");
    }
    assert_eq!(
        tried(&mut c, &mut a, stranger(rename(d, "mine", d, "new"))),
        ""
    );
    assert_eq!(tried(&mut c, &mut a, stranger(unlink(d, "new"))), "");
    assert_eq!(
        tried(&mut c, &mut a, member(unlink(d, "f"))),
        "",
        "the owner of the file"
    );
    assert_eq!(
        tried(&mut c, &mut a, owner(unlink(d, "g"))),
        "",
        "the owner of the directory"
    );
    assert_eq!(tried(&mut c, &mut a, unlink(d, "h")), "", "root");
    assert_eq!(tried(&mut c, &mut a, member(rmdir(d, "dir"))), "");
}

#[test]
fn new_names_in_a_set_gid_directory_have_its_group() {
    let (mut c, mut a) = cluster();
    let plain = dir(&mut c, &mut a, "plain", 0o777);
    let d = dir(&mut c, &mut a, "d", 0o2777);
    let made = c.attr(&mut a, stranger(create(plain, "f")));
    assert_eq!((made.uid, made.gid), (STRANGER, 300));
    let made = c.attr(&mut a, stranger(create(d, "f")));
    assert_eq!((made.uid, made.gid, made.mode), (STRANGER, GROUP, 0o644));
    assert_eq!(c.attr(&mut a, stranger(symlink(d, "s", "x"))).gid, GROUP);
    let made = c.attr(&mut a, stranger(mkdir(d, "e")));
    assert_eq!(
        (made.gid, made.mode),
        (GROUP, 0o2755),
        "and directories hand it on"
    );
    assert_eq!(c.attr(&mut a, stranger(create(made.ino, "f"))).gid, GROUP);
}

#[test]
fn a_stranger_makes_no_set_gid_program_of_a_group() {
    let (mut c, mut a) = cluster();
    let d = dir(&mut c, &mut a, "d", 0o2777);
    let program = |name: &str| {
        let mut command = create(d, name);
        command.args[1] = i(0o2755);
        command
    };
    assert_eq!(c.attr(&mut a, stranger(program("f"))).mode, 0o755);
    assert_eq!(c.attr(&mut a, member(program("g"))).mode, 0o2755);
    assert_eq!(c.attr(&mut a, program("h")).mode, 0o2755);
}

// Attributes.

#[test]
fn the_owner_changes_the_mode() {
    let (mut c, mut a) = cluster();
    for ino in [
        file(&mut c, &mut a, "f", 0o777),
        dir(&mut c, &mut a, "d", 0o777),
    ] {
        assert_eq!(tried(&mut c, &mut a, member(chmod(ino, 0o700))), "EPERM");
        assert_eq!(tried(&mut c, &mut a, stranger(chmod(ino, 0o700))), "EPERM");
        assert_eq!(c.attr(&mut a, owner(chmod(ino, 0o4711))).mode, 0o4711);
        assert_eq!(c.attr(&mut a, chmod(ino, 0o1600)).mode, 0o1600);
    }
}

#[test]
fn set_gid_is_for_members_of_the_group() {
    let (mut c, mut a) = cluster();
    let f = file(&mut c, &mut a, "f", 0o755);
    let d = dir(&mut c, &mut a, "d", 0o755);
    let outside = |command: Command| command.by(OWNER, 200, &[]);
    assert_eq!(c.attr(&mut a, outside(chmod(f, 0o2755))).mode, 0o755);
    assert_eq!(
        c.attr(&mut a, outside(chmod(d, 0o2755))).mode,
        0o2755,
        "on directories it is no privilege"
    );
    assert_eq!(
        c.attr(&mut a, chmod(f, 0o2755).by(OWNER, 200, &[GROUP]))
            .mode,
        0o2755
    );
    assert_eq!(c.attr(&mut a, chmod(f, 0o2711).by(0, 0, &[])).mode, 0o2711);
}

#[test]
fn root_gives_files_away() {
    let (mut c, mut a) = cluster();
    let f = file(&mut c, &mut a, "f", 0o644);
    for who in [owner, member, stranger] {
        assert_eq!(tried(&mut c, &mut a, who(chown(f, STRANGER))), "EPERM");
    }
    assert_eq!(
        tried(&mut c, &mut a, owner(chown(f, OWNER))),
        "",
        "to whom it belongs"
    );
    assert_eq!(c.attr(&mut a, chown(f, STRANGER)).uid, STRANGER);
    assert_eq!(
        tried(&mut c, &mut a, owner(chown(f, OWNER))),
        "EPERM",
        "nor does one take them back"
    );
}

#[test]
fn the_owner_chooses_among_his_groups() {
    let (mut c, mut a) = cluster();
    let f = file(&mut c, &mut a, "f", 0o644);
    let mine = |gid: i64| chgrp(f, gid).by(OWNER, 200, &[300, 400]);
    assert_eq!(
        c.attr(&mut a, mine(GROUP)).gid,
        GROUP,
        "what it has already"
    );
    for gid in [200, 300, 400] {
        assert_eq!(c.attr(&mut a, mine(gid)).gid, gid);
    }
    assert_eq!(tried(&mut c, &mut a, mine(GROUP)), "EPERM");
    assert_eq!(
        tried(&mut c, &mut a, member(chgrp(f, GROUP))),
        "EPERM",
        "the owner does"
    );
    assert_eq!(c.attr(&mut a, chgrp(f, 500)).gid, 500);
}

#[test]
fn a_new_owner_or_group_takes_set_id_bits_off() {
    let (mut c, mut a) = cluster();
    for (n, command) in [chown as fn(i64, i64) -> Command, chgrp]
        .into_iter()
        .enumerate()
    {
        let f = file(&mut c, &mut a, &format!("f{n}"), 0o7755);
        assert_eq!(c.attr(&mut a, command(f, 500)).mode, 0o1755, "also root's");
        let d = dir(&mut c, &mut a, &format!("d{n}"), 0o7755);
        assert_eq!(
            c.attr(&mut a, command(d, 500)).mode,
            0o7755,
            "not a directory's"
        );
    }
    let f = file(&mut c, &mut a, "f", 0o7755);
    assert_eq!(
        c.attr(&mut a, chgrp(f, 200).by(OWNER, 200, &[])).mode,
        0o1755
    );
    // Whoever says which mode he wants, gets it if he may.
    let both = Set {
        mode: Some(0o4711),
        uid: Some(STRANGER),
        ..Set::default()
    };
    assert_eq!(c.attr(&mut a, setattr(f, "", both)).mode, 0o4711);
}

#[test]
fn times_of_choice_are_for_the_owner_and_now_is_for_writers() {
    let (mut c, mut a) = cluster();
    let f = file(&mut c, &mut a, "f", 0o664);
    let (now, old) = (Some(None), Some(Some(5)));
    for (atime, mtime) in [
        (old, old),
        (old, None),
        (None, old),
        (old, now),
        (now, old),
        (now, None),
        (None, now),
    ] {
        assert_eq!(
            tried(&mut c, &mut a, member(utimes(f, atime, mtime))),
            "EPERM",
            "{atime:?} {mtime:?}"
        );
        assert_eq!(
            tried(&mut c, &mut a, stranger(utimes(f, atime, mtime))),
            "EPERM"
        );
        assert_eq!(tried(&mut c, &mut a, owner(utimes(f, atime, mtime))), "");
    }
    assert_eq!(tried(&mut c, &mut a, member(utimes(f, now, now))), "");
    assert_eq!(
        tried(&mut c, &mut a, stranger(utimes(f, now, now))),
        "EACCES"
    );
    let set = c.attr(&mut a, owner(utimes(f, Some(Some(-7)), Some(Some(8)))));
    assert_eq!((set.atime, set.mtime), (-7, 8));
    assert!(set.ctime > START);
    assert_eq!(tried(&mut c, &mut a, utimes(f, old, old)), "", "root may");
}

#[test]
fn cutting_a_file_needs_write_permission() {
    let (mut c, mut a) = cluster();
    let f = file(&mut c, &mut a, "f", 0o464);
    assert_eq!(tried(&mut c, &mut a, stranger(resize(f))), "EACCES");
    assert_eq!(tried(&mut c, &mut a, member(resize(f))), "");
    // The owner may have it open since before it was made read-only.
    assert_eq!(tried(&mut c, &mut a, owner(resize(f))), "");
    let with_time = Set {
        size: Some(0),
        mtime: Some(None),
        ..Set::default()
    };
    assert_eq!(
        tried(&mut c, &mut a, member(setattr(f, "", with_time))),
        "",
        "the time of the cut"
    );
    let d = dir(&mut c, &mut a, "d", 0o777);
    let p = c.attr(&mut a, node_of("fifo", 1, "p")).ino;
    assert_eq!(tried(&mut c, &mut a, resize(d)), "EISDIR");
    assert_eq!(tried(&mut c, &mut a, resize(p)), "EINVAL");
    let negative = Set {
        size: Some(-1),
        ..Set::default()
    };
    assert_eq!(tried(&mut c, &mut a, setattr(f, "", negative)), "EINVAL");
}

#[test]
fn opening_what_exists_by_create_needs_permission_on_the_file_and_not_on_the_directory() {
    let (mut c, mut a) = cluster();
    let d = dir(&mut c, &mut a, "d", 0o755);
    let f = c.attr(&mut a, owner(create(d, "f"))).ino;
    let open = |lease: bool| create_with(d, "f", false, lease, 0);
    assert_eq!(c.attr(&mut a, stranger(open(false))).ino, f);
    assert_eq!(
        tried(&mut c, &mut a, stranger(open(true))),
        "EACCES",
        "it is opened for writing"
    );
    c.attr(&mut a, chmod(f, 0o602));
    assert_eq!(tried(&mut c, &mut a, stranger(open(false))), "EACCES");
    assert_eq!(tried(&mut c, &mut a, member(open(true))), "EACCES");
    assert_eq!(c.rows("lease").len(), 0);
    assert_eq!(c.attr(&mut a, stranger(open(true))).ino, f);
    assert_eq!(c.column("lease", 0), [f]);
    c.attr(&mut a, chmod(f, 0));
    assert_eq!(c.attr(&mut a, open(true)).ino, f, "root may");
    assert_eq!(
        tried(
            &mut c,
            &mut a,
            stranger(create_with(d, "new", false, false, 0))
        ),
        "EACCES"
    );
}
