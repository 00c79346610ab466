//! The order inside a batch: a batch decided at once gives the same answers and the same replicated tables as its
//! commands decided one by one.

use crate::driver::*;
use overlog::{Row, Value};
use proptest::prelude::*;
use std::collections::BTreeMap;

/// The tree and the sessions that random commands work on.
struct Stage {
    cluster: Real,
    clients: Vec<Client>,
    /// Inodes to name: directories, files, and numbers that are reserved but not used yet.
    inos: Vec<i64>,
    /// Reserved numbers of each client.
    reserved: Vec<i64>,
    block: i64,
}

fn stage() -> Stage {
    let mut c = Real::new(2);
    for (conn, nonce) in [("dn1", 11), ("dn2", 12)] {
        c.datanode(conn, nonce);
    }
    let mut clients: Vec<Client> = ["a", "b", "c"]
        .into_iter()
        .map(|name| c.client(name))
        .collect();
    let a = &mut clients[0];
    let d = c.attr(a, mkdir_mode(1, "d", 0o777)).ino;
    let e = c.attr(a, mkdir_mode(1, "d/e", 0o777)).ino;
    let g = c.attr(a, mkdir_mode(1, "g", 0o1777)).ino;
    c.ok(
        a,
        setattr(
            1,
            "",
            Set {
                mode: Some(0o777),
                ..Set::default()
            },
        ),
    );
    let x = c.attr(a, create(d, "x")).ino;
    let y = c.attr(a, create_with(1, "y", true, true, 0)).ino;
    c.ok(a, link(x, g, "z"));
    c.ok(a, symlink(1, "l", "d/e"));
    let block = c.ok(a, cmd("add_block", y, "", [i(0), none()]))[1]
        .as_int()
        .unwrap();
    c.ok(a, commit(y, 100, &[(block, 1, 100)]));
    let mut reserved = vec![];
    for client in &mut clients {
        reserved.push(
            c.ok(client, cmd("reserve", 0, "", [i(4)]))[1]
                .as_int()
                .unwrap(),
        );
    }
    let mut inos = vec![1, d, e, g, x, y];
    inos.extend(reserved.iter().copied());
    Stage {
        cluster: c,
        clients,
        inos,
        reserved,
        block,
    }
}

/// A random command, as numbers that [`Stage::command`] makes sense of.
#[derive(Clone, Debug)]
struct Draw {
    client: usize,
    op: usize,
    base: usize,
    path: Vec<usize>,
    to: usize,
    to_path: Vec<usize>,
    pick: usize,
    uid: usize,
    /// Sent with the number of an earlier command: a retry.
    again: usize,
}

fn draw() -> impl Strategy<Value = Draw> {
    let short = || prop_oneof![6 => prop::collection::vec(0..7_usize, 1), 2 => prop::collection::vec(0..7_usize, 2..4)];
    (
        (0..3_usize, 0..27_usize, 0..9_usize),
        (short(), 0..9_usize, short()),
        0..8_usize,
        0..3_usize,
        0..12_usize,
    )
        .prop_map(
            |((client, op, base), (path, to, to_path), pick, uid, again)| Draw {
                client,
                op,
                base,
                path,
                to,
                to_path,
                pick,
                uid,
                again,
            },
        )
}

const NAMES: [&str; 7] = ["x", "y", "z", "d", "e", "g", "l"];

impl Stage {
    fn command(&self, draw: &Draw) -> Command {
        let join = |l: &[usize]| l.iter().map(|n| NAMES[*n]).collect::<Vec<_>>().join("/");
        let (path, to_path) = (join(&draw.path), join(&draw.to_path));
        let (base, to, pick) = (self.inos[draw.base], self.inos[draw.to], draw.pick);
        let flag = pick % 2 == 0;
        let own = self.reserved[draw.client] + i64::try_from(pick % 4).unwrap() / 2;
        let number = if pick < 3 { own } else { 0 };
        let size = i64::try_from(pick).unwrap() * 40;
        let file = [self.inos[4], self.inos[5], base][pick % 3];
        let command = match draw.op {
            0 | 1 => cmd("mkdir", base, &path, [i(0o777), i(number)]),
            2..=5 => create_with(base, &path, flag, pick % 3 == 0, number),
            6 => symlink(base, &path, &to_path),
            7 | 8 => link(to, base, &path),
            9 | 10 => unlink(base, &path),
            11 | 12 => rmdir(base, &path),
            13..=15 => rename(base, &path, to, &to_path),
            16 => rename_noreplace(base, &path, to, &to_path),
            17 => exchange(base, &path, to, &to_path),
            18 => setattr(
                base,
                &path,
                Set {
                    mode: Some(0o1700 + size % 64),
                    ..Set::default()
                },
            ),
            19 => setattr(
                base,
                "",
                Set {
                    mtime: Some(flag.then_some(7)),
                    uid: (pick == 3).then_some(1),
                    ..Set::default()
                },
            ),
            20 => setattr(
                base,
                "",
                Set {
                    size: Some(size),
                    ..Set::default()
                },
            ),
            21 => cmd("acquire", file, "", []),
            22 => cmd("release", file, "", []),
            23 => cmd("add_block", file, "", [i(65_536 * i64::from(flag)), none()]),
            24 => commit(file, size, &[(self.block, 1, size.min(100))]),
            25 if flag => cmd("reserve_generation", file, "", [i(self.block)]),
            25 => cmd(
                "commit_generation",
                file,
                "",
                [i(self.block), i(2), list([i(1)])],
            ),
            _ if pick == 0 => cmd("close_session", 0, "", []),
            _ if pick < 4 => cmd("reserve", 0, "", [i(2)]),
            _ => setattr(
                base,
                &path,
                Set {
                    gid: Some(1),
                    atime: Some(None),
                    ..Set::default()
                },
            ),
        };
        let uid = [0, 0, 1][draw.uid];
        command.by(uid, uid, &[])
    }

    /// What the leader proposes for these draws: the commands of a batch.
    fn proposal(&mut self, draws: &[Draw]) -> Vec<Value> {
        let mut inputs = vec![];
        for draw in draws {
            let command = self.command(draw);
            let client = &mut self.clients[draw.client];
            let seq = if draw.again == 0 && client.seq > 1 {
                client.seq - i64::try_from(draw.pick % 2).unwrap()
            } else {
                client.seq += 1;
                client.seq
            };
            let client = client.clone();
            inputs.push(self.cluster.request(&client, seq, client.ack, &command));
        }
        self.cluster.proposal(inputs)
    }
}

/// Tables, and the first reply to each command: a client does not wait for a second.
type Outcome = (
    BTreeMap<String, Vec<Row>>,
    BTreeMap<(Value, i64), Vec<Value>>,
);

impl Stage {
    /// Whether this is an answer again to what its client has acknowledged: nobody waits for it.
    fn acknowledged(&self, (_, columns): &Sent) -> bool {
        let of = |c: &&Client| columns[0] == Value::addr(&c.conn);
        let client = self.clients.iter().find(of);
        client.is_some_and(|c| columns[1].as_int().unwrap() <= c.ack)
    }

    fn outcome(&mut self) -> Outcome {
        let mut tables = self.cluster.replicated();
        tables.remove("clock");
        let mut replies = BTreeMap::new();
        for message in self.cluster.taken() {
            if message.0 == "reply" && !self.acknowledged(&message) {
                let to = (message.1[0].clone(), message.1[1].as_int().unwrap());
                replies.entry(to).or_insert(message.1);
            }
        }
        (tables, replies)
    }
}

fn compare(draws: &[Draw]) -> Result<(), TestCaseError> {
    let (mut whole, mut single) = (stage(), stage());
    let commands = whole.proposal(draws);
    prop_assert_eq!(&commands, &single.proposal(draws));
    let stamp = i(whole.cluster.wall + 1_000);
    whole.cluster.sent.clear();
    single.cluster.sent.clear();
    whole
        .cluster
        .decide(list([stamp.clone(), Value::list(commands.clone())]));
    for command in commands {
        single
            .cluster
            .decide(list([stamp.clone(), list([command])]));
    }
    let (tables, replies) = whole.outcome();
    let (tables_single, replies_single) = single.outcome();
    for (name, rows) in &tables {
        prop_assert_eq!(rows, &tables_single[name], "table {}", name);
    }
    prop_assert_eq!(replies, replies_single);
    Ok(())
}

#[test]
fn a_batch_is_as_its_commands_one_by_one() {
    let mut config = ProptestConfig::with_cases(cases());
    config.failure_persistence = None;
    config.max_shrink_iters = 3_000;
    let mut runner = proptest::test_runner::TestRunner::new_with_rng(
        config,
        proptest::test_runner::TestRng::from_seed(
            proptest::test_runner::RngAlgorithm::ChaCha,
            &seed(),
        ),
    );
    runner
        .run(&prop::collection::vec(draw(), 2..24), |draws| {
            compare(&draws)
        })
        .unwrap();
}

#[test]
fn creates_in_one_directory_are_one_tick() {
    let mut c = Real::new(3);
    let mut a = c.client("a");
    let d = c.attr(&mut a, mkdir(1, "d")).ino;
    for round in 0..4 {
        let commands: Vec<Command> = (0..256)
            .map(|n| create(d, &format!("f{round}.{n}")))
            .collect();
        assert!(c.batch(&mut a, &commands).iter().all(Result::is_ok));
        assert_eq!(c.ticks, 1);
    }
    let mkdirs: Vec<Command> = (0..256).map(|n| mkdir(d, &format!("d{n}"))).collect();
    c.batch(&mut a, &mkdirs);
    assert_eq!(c.ticks, 1);
    assert_eq!(c.look(d).unwrap().nlink, 258);
}

#[test]
fn of_two_creates_of_one_name_the_first_wins() {
    let mut c = Real::new(3);
    let mut a = c.client("a");
    let answers = c.batch(
        &mut a,
        &[
            create(1, "f"),
            create(1, "f"),
            unlink(1, "f"),
            mkdir(1, "f"),
            create(1, "f/g"),
        ],
    );
    let errors: Vec<Option<&str>> = answers
        .iter()
        .map(|a| a.as_ref().err().map(String::as_str))
        .collect();
    assert_eq!(errors, [None, Some("EEXIST"), None, None, None]);
}

/// A path of several names that is in the way leads elsewhere once what is before it has run.
#[test]
fn what_follows_a_blocked_path_waits() {
    let mut c = Real::new(3);
    let mut a = c.client("a");
    let d = c.attr(&mut a, mkdir(1, "d")).ino;
    let inner = c.attr(&mut a, mkdir(d, "s")).ino;
    let answers = c.batch(
        &mut a,
        &[
            rename(1, "d", 1, "e"),
            create(1, "e/s/x"),
            create(inner, "x"),
        ],
    );
    assert!(answers[0].is_ok() && answers[1].is_ok());
    assert_eq!(answers[2], Err("EEXIST".to_owned()));
}

/// Whether a rename moves a directory may depend on the command before it.
#[test]
fn renames_between_directories_keep_their_order() {
    let mut c = Real::new(3);
    let mut a = c.client("a");
    let z = c.attr(&mut a, mkdir(1, "z")).ino;
    let under_z = c.attr(&mut a, mkdir(z, "d")).ino;
    let q = c.attr(&mut a, mkdir(1, "q")).ino;
    let under_q = c.attr(&mut a, mkdir(q, "b")).ino;
    c.ok(&mut a, create(1, "f"));
    let answers = c.batch(
        &mut a,
        &[
            exchange(1, "f", 1, "z"),
            rename(1, "f", under_q, "y"),
            rename(1, "q", under_z, "r"),
        ],
    );
    assert!(answers[0].is_ok() && answers[1].is_ok());
    assert_eq!(
        answers[2],
        Err("EINVAL".to_owned()),
        "q may not move below z, which is now below q"
    );
}

#[test]
fn the_end_of_a_session_keeps_its_order() {
    let mut c = Real::new(3);
    let (mut a, mut b) = (c.client("a"), c.client("b"));
    let f = c.attr(&mut a, create_with(1, "f", true, true, 0)).ino;
    // b's commands come after the end of a's session, in the same batch.
    let mut inputs = vec![];
    (a.seq, b.seq) = (a.seq + 1, b.seq + 1);
    inputs.push(c.request(&a, a.seq, 1, &cmd("close_session", 0, "", [])));
    inputs.push(c.request(&b, b.seq, 0, &cmd("acquire", f, "", [])));
    inputs.push(c.request(&a, a.seq + 1, 1, &create_with(1, "g", true, true, 0)));
    c.sent.clear();
    c.run(inputs);
    assert_eq!(c.reply("a", a.seq), Some(Ok(vec![])));
    assert!(c.reply("b", b.seq).unwrap().is_ok());
    assert_eq!(c.rows("lease"), vec![vec![i(f), i(b.session)]]);
    assert_eq!(
        c.lookup(1, "g", false).unwrap_err(),
        "ENOENT",
        "a command after the end of its session is not run"
    );
}

/// The same cases in each run, others with `BOOMFS_SEED`.
fn seed() -> [u8; 32] {
    let mut bytes = [7; 32];
    if let Some(n) = std::env::var("BOOMFS_SEED")
        .ok()
        .and_then(|n| n.parse::<u64>().ok())
    {
        bytes[..8].copy_from_slice(&n.to_le_bytes());
    }
    bytes
}
