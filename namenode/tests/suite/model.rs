//! Property: whatever two users and root do, the rules do what a tree in memory does.
//!
//! A case has up to 60 steps, so an eighth of `BOOMFS_CASES` will do. `BOOMFS_SEED` is the seed; it has a default, so that
//! a run repeats itself.

use crate::driver::*;
use crate::tree::{Ino, Op, ROOT, Tree, User};
use overlog::Value;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use std::collections::BTreeMap;

/// One step: who does what.
#[derive(Clone, Debug)]
struct Step {
    who: usize,
    what: What,
}

/// How a path is chosen: by what there is then, so that most steps have something to do.
#[derive(Clone, Debug)]
enum Way {
    /// The path from the root to one of the entries that there are.
    To(usize),
    /// A name in one of the directories that there are, as a kernel asks for it.
    In(usize, String),
    /// Any path from one of the inodes that there have been.
    Any(usize, Vec<String>),
}

/// An operation; inodes are given by their place among those that there have been.
#[derive(Clone, Debug)]
enum What {
    Mkdir(Way, i64),
    Create(Way, i64),
    Symlink(Way, String),
    Link(usize, Way),
    Unlink(Way),
    Rmdir(Way),
    Rename(Way, Way, bool, bool),
    SetAttr(Way, Set),
    Lookup(Way, bool),
    Readdir(usize),
}

fn users() -> [User; 3] {
    [
        User {
            uid: 0,
            gid: 0,
            groups: vec![],
        },
        User {
            uid: 1,
            gid: 11,
            groups: vec![100],
        },
        User {
            uid: 2,
            gid: 12,
            groups: vec![13],
        },
    ]
}

/// Few names, so that they meet.
fn name() -> impl Strategy<Value = String> {
    prop_oneof![
        5 => Just("a"), 5 => Just("b"), 3 => Just("c"), 1 => Just("..")
    ]
    .prop_map(str::to_owned)
}

fn path() -> impl Strategy<Value = Vec<String>> {
    prop_oneof![
        1 => Just(vec![]),
        4 => prop::collection::vec(name(), 1..=1),
        4 => prop::collection::vec(name(), 2..=4),
    ]
}

/// The weights of the three ways.
fn way(to: u32, within: u32, any: u32) -> impl Strategy<Value = Way> {
    prop_oneof![
        to => (0..64_usize).prop_map(Way::To),
        within => (0..64_usize, name()).prop_map(|(dir, name)| Way::In(dir, name)),
        any => (0..64_usize, path()).prop_map(|(base, path)| Way::Any(base, path)),
    ]
}

fn new() -> impl Strategy<Value = Way> {
    way(1, 6, 2)
}

fn old() -> impl Strategy<Value = Way> {
    way(6, 2, 2)
}

fn mode() -> impl Strategy<Value = i64> {
    prop_oneof![
        9 => Just(0o777), 2 => Just(0o755), 1 => Just(0o700), 1 => Just(0o070), 1 => Just(0o600),
        1 => Just(0o1777), 1 => Just(0o2777), 1 => Just(0o6755), 1 => Just(0o750)
    ]
}

fn target() -> impl Strategy<Value = String> {
    let relative = || prop::collection::vec(name(), 1..=3).prop_map(|names| names.join("/"));
    prop_oneof![
        4 => relative(),
        2 => relative().prop_map(|path| format!("/{path}")),
        1 => Just("/".to_owned()),
        1 => Just("a/".to_owned()),
        1 => Just("./b".to_owned()),
    ]
}

fn time() -> impl Strategy<Value = Option<Option<i64>>> {
    prop_oneof![3 => Just(None), 2 => Just(Some(None)), 1 => Just(Some(Some(5))), 1 => Just(Some(Some(2 * START)))]
}

fn set() -> impl Strategy<Value = Set> {
    let ids = |ids: &'static [i64]| prop::option::weighted(0.2, prop::sample::select(ids));
    (
        prop::option::weighted(0.4, mode()),
        ids(&[0, 1, 2]),
        ids(&[0, 11, 12, 13, 100]),
        prop::option::weighted(0.2, prop::sample::select(&[0_i64, 1, 100_000][..])),
        time(),
        time(),
    )
        .prop_map(|(mode, uid, gid, size, atime, mtime)| Set {
            mode,
            uid,
            gid,
            size,
            atime,
            mtime,
        })
}

fn what() -> impl Strategy<Value = What> {
    let flag = prop::bool::weighted;
    prop_oneof![
        5 => (new(), mode()).prop_map(|(way, mode)| What::Mkdir(way, mode)),
        4 => (new(), mode()).prop_map(|(way, mode)| What::Create(way, mode)),
        3 => (new(), target()).prop_map(|(way, target)| What::Symlink(way, target)),
        4 => (0..64_usize, new()).prop_map(|(ino, way)| What::Link(ino, way)),
        4 => old().prop_map(What::Unlink),
        4 => old().prop_map(What::Rmdir),
        16 => (old(), way(5, 4, 1), flag(0.1), flag(0.4)).prop_map(|(old, new, keep, swap)| What::Rename(old, new, keep, swap)),
        6 => (old(), set()).prop_map(|(way, set)| What::SetAttr(way, set)),
        3 => (old(), flag(0.5)).prop_map(|(way, follow)| What::Lookup(way, follow)),
        1 => (0..64_usize).prop_map(What::Readdir),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let who = prop_oneof![1 => Just(0_usize), 4 => Just(1), 4 => Just(2)];
    (who, what()).prop_map(|(who, what)| Step { who, what })
}

/// What a step comes to in this tree: a base and an operation. `inos`: those that there have been.
fn resolve(tree: &Tree, inos: &[Ino], what: &What) -> (Ino, Op) {
    let ino = |place: usize| inos[place % inos.len()];
    let place = |way: &Way| match way {
        Way::To(place) => {
            let all = paths(tree);
            // Not the root, if there is anything else.
            let entries = all.get(1..).filter(|entries| !entries.is_empty());
            (ROOT, pick(entries.unwrap_or(&all), *place).1)
        }
        Way::In(place, name) => {
            let dirs: Vec<(Ino, Vec<String>)> = paths(tree)
                .into_iter()
                .filter(|(ino, _)| tree.is_dir(*ino))
                .collect();
            (pick(&dirs, *place).0, vec![name.clone()])
        }
        Way::Any(place, path) => (ino(*place), path.clone()),
    };
    match what.clone() {
        What::Mkdir(way, mode) => {
            let (base, path) = place(&way);
            (base, Op::Mkdir { path, mode })
        }
        What::Create(way, mode) => {
            let (base, path) = place(&way);
            (base, Op::Create { path, mode })
        }
        What::Symlink(way, target) => {
            let (base, path) = place(&way);
            (base, Op::Symlink { path, target })
        }
        What::Link(from, way) => {
            let (base, path) = place(&way);
            let from = ino(from);
            (base, Op::Link { ino: from, path })
        }
        What::Unlink(way) => {
            let (base, path) = place(&way);
            (base, Op::Unlink { path })
        }
        What::Rmdir(way) => {
            let (base, path) = place(&way);
            (base, Op::Rmdir { path })
        }
        What::Rename(old, new, keep, swap) => {
            let ((base, from), (to_base, to)) = (place(&old), place(&new));
            (
                base,
                Op::Rename {
                    from,
                    to_base,
                    to,
                    keep,
                    swap,
                },
            )
        }
        What::SetAttr(way, set) => {
            let (base, path) = place(&way);
            (base, Op::SetAttr { path, set })
        }
        What::Lookup(way, follow) => {
            let (base, path) = place(&way);
            (base, Op::Lookup { path, follow })
        }
        What::Readdir(dir) => (ino(dir), Op::Readdir),
    }
}

fn pick<T: Clone>(all: &[T], place: usize) -> T {
    all[place % all.len()].clone()
}

/// All entries with their paths from the root, the root first.
fn paths(tree: &Tree) -> Vec<(Ino, Vec<String>)> {
    let mut all = vec![(ROOT, vec![])];
    let mut next = 0;
    while let Some((dir, path)) = all.get(next).cloned() {
        let below = tree.entries(dir).into_iter();
        all.extend(below.map(|(name, ino)| (ino, [path.clone(), vec![name]].concat())));
        next += 1;
    }
    all
}

fn names(path: &[String]) -> String {
    path.join("/")
}

/// The command of an operation; questions have none.
fn command(base: Ino, op: &Op) -> Command {
    match op {
        Op::Mkdir { path, mode } => mkdir_mode(base, &names(path), *mode),
        Op::Create { path, mode } => {
            let mut command = create(base, &names(path));
            command.args[1] = i(*mode);
            command
        }
        Op::Symlink { path, target } => symlink(base, &names(path), target),
        Op::Link { ino, path } => link(*ino, base, &names(path)),
        Op::Unlink { path } => unlink(base, &names(path)),
        Op::Rmdir { path } => rmdir(base, &names(path)),
        Op::Rename {
            from,
            to_base,
            to,
            keep,
            swap,
        } => {
            let mut command = rename(base, &names(from), *to_base, &names(to));
            (command.args[2], command.args[3]) = (b(*keep), b(*swap));
            command
        }
        Op::SetAttr { path, set } => setattr(base, &names(path), set.clone()),
        Op::Lookup { .. } | Op::Readdir => panic!("{op:?} is a question"),
    }
}

/// Runs a step on the rules.
fn run(c: &mut Real, client: &mut Client, user: &User, base: Ino, op: &Op) -> Answer {
    c.wall += 1_000_000;
    match op {
        Op::Lookup { path, follow } => c.ask_by(
            user.uid,
            user.gid,
            &user.groups,
            "lookup",
            base,
            &names(path),
            vec![b(*follow)],
        ),
        Op::Readdir => c.ask_by(
            user.uid,
            user.gid,
            &user.groups,
            "readdir",
            base,
            "",
            vec![i(0), i(1_000)],
        ),
        op => {
            let command = command(base, op).by(user.uid, user.gid, &user.groups);
            let answer = c.batch(client, &[command]).remove(0);
            Some(answer)
        }
    }
    .expect("an answer")
}

/// Attributes of all inodes, from the tables.
fn attributes(c: &mut Real) -> BTreeMap<Ino, Attr> {
    let stats: BTreeMap<Value, Vec<Value>> = c
        .rows("dirstat")
        .into_iter()
        .map(|row| (row[0].clone(), row))
        .collect();
    let shown = c.rows("inode").into_iter().map(|mut row| {
        if let Some(stat) = stats.get(&row[0]) {
            let int = |x: &Value| x.as_int().unwrap();
            row[5] = i(32 * int(&stat[2]));
            row[7] = i(2 + int(&stat[3]));
            row[10] = stat[4].clone();
            row[11] = i(int(&row[11]).max(int(&stat[5])));
        }
        let attr = Attr::from(&list(row));
        (attr.ino, attr)
    });
    shown.collect()
}

/// All names, by directory and in the order of their listing.
fn listings(c: &mut Real) -> BTreeMap<Ino, Vec<(String, Ino)>> {
    let mut rows = c.rows("dentry");
    rows.sort_by_key(|row| row[3].as_int());
    let mut all: BTreeMap<Ino, Vec<(String, Ino)>> = BTreeMap::new();
    for row in rows {
        let name = String::from_utf8(row[1].as_bytes().unwrap().to_vec()).unwrap();
        let entry = (name, row[2].as_int().unwrap());
        all.entry(row[0].as_int().unwrap()).or_default().push(entry);
    }
    all
}

/// What the rules hold is what the tree holds.
fn same(c: &mut Real, tree: &Tree) {
    let expected: BTreeMap<Ino, Attr> = tree
        .inos()
        .into_iter()
        .map(|ino| (ino, tree.attr(ino)))
        .collect();
    assert_eq!(attributes(c), expected, "attributes (left: rules)");
    let full = tree.inos().into_iter().map(|ino| (ino, tree.entries(ino)));
    let expected: BTreeMap<Ino, Vec<(String, Ino)>> =
        full.filter(|(_, entries)| !entries.is_empty()).collect();
    assert_eq!(listings(c), expected, "names in their order (left: rules)");
    for row in c.rows("symlink") {
        let target = tree.target(row[0].as_int().unwrap()).unwrap();
        assert_eq!(row[1], s(target), "target of a symlink");
    }
}

/// What an answer shows: an inode, a listing, or nothing.
fn check_answer(tree: &Tree, op: &Op, shown: Option<Ino>, payload: &[Value]) {
    match (op, shown) {
        (Op::Readdir, Some(dir)) => {
            let entries = payload[2].as_list().unwrap();
            let given: Vec<(Value, Attr)> = entries
                .iter()
                .map(|entry| {
                    (
                        entry.as_list().unwrap()[1].clone(),
                        Attr::from(&entry.as_list().unwrap()[2]),
                    )
                })
                .collect();
            let known = tree
                .entries(dir)
                .into_iter()
                .map(|(name, ino)| (s(&name), tree.attr(ino)));
            assert_eq!(given, known.collect::<Vec<_>>(), "listing (left: rules)");
        }
        (_, Some(ino)) => assert_eq!(
            Attr::from(&payload[1]),
            tree.attr(ino),
            "answer (left: rules)"
        ),
        (_, None) => assert!(payload.is_empty()),
    }
}

/// What is there at first: `a` and `b` with directories and a file, of both users, and a link.
fn furnish() -> Vec<Step> {
    let at = |names: &str| Way::Any(0, names.split('/').map(str::to_owned).collect());
    let open = Set {
        mode: Some(0o777),
        ..Set::default()
    };
    let steps = [
        (0, What::SetAttr(Way::Any(0, vec![]), open)),
        (1, What::Mkdir(at("a"), 0o777)),
        (2, What::Mkdir(at("b"), 0o777)),
        (1, What::Mkdir(at("a/a"), 0o777)),
        (2, What::Mkdir(at("a/b"), 0o777)),
        (2, What::Create(at("a/c"), 0o666)),
        (1, What::Create(at("b/a"), 0o666)),
        (2, What::Mkdir(at("b/b"), 0o777)),
        (1, What::Symlink(at("c"), "a".to_owned())),
        (2, What::Mkdir(at("a/a/a"), 0o777)),
        (1, What::Mkdir(at("b/b/c"), 0o777)),
    ];
    steps.map(|(who, what)| Step { who, what }).to_vec()
}

/// Runs steps on both.
fn play(steps: &[Step]) {
    let mut c = Real::new(3);
    let mut client = c.client("a");
    let mut tree = Tree::new(65_536, 3);
    let users = users();
    let mut inos = vec![ROOT];
    for (n, step) in furnish().iter().chain(steps).enumerate() {
        let user = &users[step.who];
        let (base, op) = resolve(&tree, &inos, &step.what);
        let answer = run(&mut c, &mut client, user, base, &op);
        let makes = matches!(
            op,
            Op::Mkdir { .. } | Op::Create { .. } | Op::Symlink { .. }
        );
        let fresh = match &answer {
            Ok(payload) if makes => Attr::from(&payload[1]).ino,
            _ => 0,
        };
        if fresh != 0 {
            assert!(!inos.contains(&fresh), "inode {fresh} was given out before");
            inos.push(fresh);
        }
        let expected = tree.run(user, base, &op, c.wall, fresh);
        let text = format!("step {n}: {op:?} by {} from {base}", user.uid);
        match (&answer, expected) {
            (Ok(payload), Ok(shown)) => check_answer(&tree, &op, shown, payload),
            (Err(errno), Err(errors)) => assert!(
                errors.contains(&errno.as_str()),
                "{text}: {errno}, should be one of {errors:?}"
            ),
            (answer, expected) => panic!("{text}: {answer:?}, should be {expected:?}"),
        }
        same(&mut c, &tree);
    }
}

#[test]
fn the_rules_keep_a_posix_tree() {
    let seed: u64 = std::env::var("BOOMFS_SEED").map_or(1, |seed| seed.parse().unwrap());
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let config = Config {
        cases: cases().div_ceil(8),
        failure_persistence: None,
        max_shrink_iters: 2_000,
        ..Config::default()
    };
    let mut runner =
        TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
    let steps = prop::collection::vec(step(), 1..=60);
    let played = runner.run(&steps, |steps| {
        play(&steps);
        Ok(())
    });
    if let Err(error) = played {
        panic!("seed {seed}: {error}");
    }
}
