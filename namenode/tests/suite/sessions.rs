//! Sessions: commands once and in order, answers that are kept, renewals, the end of a session and of what it had.

use crate::driver::*;
use overlog::Value;

fn cluster() -> (Real, Client) {
    let mut c = Real::new(3);
    let client = c.client("a");
    (c, client)
}

/// Names in the root.
fn names(c: &mut Real) -> Vec<String> {
    let mut names: Vec<String> = c
        .rows("dentry")
        .iter()
        .map(|row| row[1].to_string())
        .collect();
    names.sort();
    names
}

/// Numbers of the answers that are kept for a session.
fn kept(c: &mut Real, session: i64) -> Vec<i64> {
    let rows = c.rows("answer");
    let mut kept: Vec<i64> = rows
        .iter()
        .filter(|row| row[0] == i(session))
        .map(|row| row[1].as_int().unwrap())
        .collect();
    kept.sort_unstable();
    kept
}

fn stale(answer: Option<Answer>) -> bool {
    answer == Some(Err("ESTALE".to_owned()))
}

// Numbered commands.

#[test]
fn a_command_runs_once_and_its_retry_is_answered_again() {
    let (mut c, a) = cluster();
    let first = c.send(&a, 1, 0, &create(1, "f")).unwrap().unwrap();
    let slot = c.slot;
    assert_eq!(c.send(&a, 1, 0, &create(1, "f")), Some(Ok(first)));
    assert_eq!(
        c.slot,
        slot + 1,
        "the retry was decided, too, and did nothing"
    );
    assert_eq!(
        c.send(&a, 2, 0, &create(1, "f")),
        Some(Err("EEXIST".into()))
    );
    assert_eq!(
        c.send(&a, 2, 0, &unlink(1, "f")),
        Some(Err("EEXIST".into()))
    );
    assert_eq!(
        names(&mut c),
        ["\"f\""],
        "a number stands for its first command"
    );
}

#[test]
fn repeats_in_one_batch_run_once() {
    let (mut c, a) = cluster();
    let first = c.request(&a, 1, 0, &mkdir(1, "d"));
    let again = c.request(&a, 1, 0, &mkdir(1, "d"));
    c.run(vec![first, again]);
    assert!(c.reply("a", 1).unwrap().is_ok(), "and one reply");
    assert_eq!(c.rows("dentry").len(), 1);
}

#[test]
fn commands_run_in_the_order_of_their_numbers() {
    let (mut c, a) = cluster();
    let steps = [create(1, "f"), rename(1, "f", 1, "g"), unlink(1, "g")];
    let rows: Vec<_> = (1..)
        .zip(&steps)
        .map(|(seq, step)| c.request(&a, seq, 0, step))
        .collect();
    c.run(rows);
    for seq in 1..=3 {
        assert!(c.reply("a", seq).unwrap().is_ok(), "{seq}");
    }
    assert!(names(&mut c).is_empty());
    assert_eq!(kept(&mut c, a.session), [1, 2, 3]);
}

#[test]
fn a_command_that_comes_before_the_one_before_it_is_refused() {
    let (mut c, a) = cluster();
    let rows = [3, 2, 1].map(|seq| c.request(&a, seq, 0, &create(1, &format!("f{seq}"))));
    c.run(rows.to_vec());
    assert!(c.reply("a", 1).unwrap().is_ok());
    for seq in [2, 3] {
        assert_eq!(c.reply("a", seq), Some(Err("EPROTO".into())));
    }
    assert_eq!(names(&mut c), ["\"f1\""]);
    assert!(c.send(&a, 2, 0, &create(1, "f2")).unwrap().is_ok());
}

#[test]
fn a_gap_is_refused_until_it_is_filled() {
    let (mut c, a) = cluster();
    assert_eq!(
        c.send(&a, 2, 0, &create(1, "g")),
        Some(Err("EPROTO".into()))
    );
    assert!(names(&mut c).is_empty() && kept(&mut c, a.session).is_empty());
    // In one batch: what is behind the gap is refused, what is before it runs.
    let rows = [1, 2, 4].map(|seq| c.request(&a, seq, 0, &create(1, &format!("f{seq}"))));
    c.sent.clear();
    c.run(rows.to_vec());
    assert!(c.reply("a", 1).unwrap().is_ok() && c.reply("a", 2).unwrap().is_ok());
    assert_eq!(c.reply("a", 4), Some(Err("EPROTO".into())));
    assert!(c.send(&a, 3, 0, &create(1, "f3")).unwrap().is_ok());
    assert!(c.send(&a, 4, 0, &create(1, "f4")).unwrap().is_ok());
}

#[test]
fn what_a_client_has_received_is_no_gap() {
    let (mut c, a) = cluster();
    // Command 1 was answered before it came to the rules, for instance as malformed.
    assert!(c.send(&a, 2, 1, &create(1, "f")).unwrap().is_ok());
    assert_eq!(
        c.send(&a, 1, 0, &create(1, "g")),
        None,
        "it was received: nobody waits for it"
    );
    assert_eq!(names(&mut c), ["\"f\""]);
}

#[test]
fn sessions_do_not_wait_for_one_another() {
    let (mut c, a) = cluster();
    let other = c.client("bb");
    let rows = vec![
        c.request(&a, 1, 0, &create(1, "f")),
        c.request(&other, 1, 0, &create(1, "f")),
        c.request(&other, 3, 0, &create(1, "g")),
    ];
    c.run(rows);
    assert!(c.reply("a", 1).unwrap().is_ok());
    assert_eq!(
        c.reply("bb", 1),
        Some(Err("EEXIST".into())),
        "in the order of arrival"
    );
    assert_eq!(c.reply("bb", 3), Some(Err("EPROTO".into())));
}

// Answers.

#[test]
fn acknowledged_answers_are_forgotten() {
    let (mut c, a) = cluster();
    for seq in 1..=3 {
        c.send(&a, seq, 0, &create(1, &format!("f{seq}")));
    }
    assert_eq!(kept(&mut c, a.session), [1, 2, 3]);
    c.send(&a, 4, 2, &create(1, "f4"));
    assert_eq!(kept(&mut c, a.session), [3, 4]);
    // A mark that is older than one that came before changes nothing.
    c.send(&a, 5, 1, &create(1, "f5"));
    assert_eq!(kept(&mut c, a.session), [3, 4, 5]);
    c.send(&a, 3, 5, &create(1, "f3"));
    assert!(kept(&mut c, a.session).is_empty());
}

#[test]
fn at_most_1024_answers_are_kept_and_then_commands_wait() {
    let (mut c, a) = cluster();
    let full = 1_024;
    let rows = (1..=full + 2)
        .map(|seq| c.request(&a, seq, 0, &unlink(1, &seq.to_string())))
        .collect();
    c.run(rows);
    assert_eq!(c.reply("a", full), Some(Err("ENOENT".into())));
    assert_eq!(
        c.reply("a", full + 1),
        Some(Err("EAGAIN".into())),
        "not run: it may be sent again"
    );
    assert_eq!(c.reply("a", full + 2), Some(Err("EAGAIN".into())));
    assert_eq!(kept(&mut c, a.session).len(), 1_024);
    assert_eq!(
        c.send(&a, full + 1, 0, &create(1, "f")),
        Some(Err("EAGAIN".into()))
    );
    // Room for one, by what the command itself acknowledges.
    assert!(c.send(&a, full + 1, 1, &create(1, "f")).unwrap().is_ok());
    assert_eq!(
        c.send(&a, full + 2, 1, &create(1, "g")),
        Some(Err("EAGAIN".into()))
    );
    assert_eq!(kept(&mut c, a.session).len(), 1_024);
    assert_eq!(names(&mut c), ["\"f\""]);
}

#[test]
fn answers_survive_a_restart() {
    let (mut c, a) = cluster();
    let made = c.send(&a, 1, 0, &create(1, "f")).unwrap().unwrap();
    c.restart();
    c.hello("a2", a.session, 0);
    assert_eq!(c.got("a2", "welcome_client"), 1);
    let back = Client {
        conn: "a2".into(),
        ..a
    };
    assert_eq!(c.send(&back, 1, 0, &create(1, "f")), Some(Ok(made)));
    assert_eq!(names(&mut c), ["\"f\""]);
}

// Opening, and who speaks for a session.

#[test]
fn a_nonce_that_is_known_is_the_same_session() {
    let mut c = Real::new(3);
    c.hello("x", 0, 7);
    c.hello("y", 0, 7);
    assert_eq!(
        (c.got("x", "welcome_client"), c.got("y", "welcome_client")),
        (1, 1)
    );
    assert_eq!(c.sessions().len(), 1);
    c.hello("z", 0, 8);
    assert_eq!(c.sessions().len(), 2);
}

#[test]
fn two_greetings_with_one_nonce_in_one_run_open_one_session() {
    let mut c = Real::new(3);
    let hello = |conn: &str, arrival| vec![i(arrival), Value::addr(conn), i(0), i(7), s("client")];
    let rows = vec![
        c.row("hello_client", hello("x", 1)),
        c.row("hello_client", hello("y", 2)),
    ];
    c.run(rows);
    assert_eq!(
        (c.got("x", "welcome_client"), c.got("y", "welcome_client")),
        (1, 1)
    );
    let session = c.sessions();
    assert_eq!(session.len(), 1);
    let speaks = |conn| vec![i(session[0]), Value::addr(conn)];
    assert_eq!(c.rows("conn"), [speaks("x"), speaks("y")]);
}

#[test]
fn a_connection_that_was_left_and_greets_late_takes_no_replies_away() {
    let (mut c, a) = cluster();
    let hello = |conn: &str, arrival| {
        vec![
            i(arrival),
            Value::addr(conn),
            i(a.session),
            i(0),
            s("client"),
        ]
    };
    let rows = vec![
        c.row("hello_client", hello("y", 100)),
        c.row("hello_client", hello("x", 101)),
    ];
    c.run(rows);
    let here = Client {
        conn: "y".into(),
        ..a.clone()
    };
    assert!(c.send(&here, 1, 0, &create(1, "f")).unwrap().is_ok());
    c.renew(&a, &[]);
    for (seq, left) in [(2, "x"), (3, "a")] {
        c.feed("closed", vec![Value::addr(left)]);
        let name = format!("after {left}");
        assert!(c.send(&here, seq, 0, &create(1, &name)).unwrap().is_ok());
    }
    c.feed("closed", vec![Value::addr("y")]);
    assert_eq!(c.rows("conn").len(), 0);
}

#[test]
fn unknown_sessions_are_refused() {
    let mut c = Real::new(3);
    let ghost = Client {
        conn: "ghost".into(),
        session: 999,
        seq: 0,
        ack: 0,
    };
    c.hello("ghost", 999, 7);
    assert_eq!(c.refusals("ghost"), ["ESTALE"]);
    let slot = c.slot;
    assert!(stale(c.send(&ghost, 1, 0, &create(1, "f"))));
    c.sent.clear();
    c.renew(&ghost, &[1]);
    assert_eq!(c.refusals("ghost"), ["ESTALE"]);
    assert_eq!((c.got("ghost", "renewed"), c.rows("holds").len()), (0, 0));
    assert_eq!(c.slot, slot, "nothing of it is even proposed");
    assert!(names(&mut c).is_empty());
}

#[test]
fn without_a_session_there_are_no_commands() {
    let (mut c, a) = cluster();
    let nobody = Client {
        conn: "nobody".into(),
        session: 0,
        seq: 0,
        ack: 0,
    };
    assert!(stale(c.send(
        &nobody,
        1,
        0,
        &cmd("expire", a.session, "", [])
    )));
    assert!(stale(c.send(&nobody, 1, 0, &mkdir(1, "d"))));
    assert_eq!(c.sessions(), [a.session]);
    assert!(names(&mut c).is_empty());
}

// The end.

#[test]
fn a_session_ends_after_10_s_of_silence() {
    let (mut c, a) = cluster();
    c.pass(10);
    assert_eq!(c.sessions(), [a.session]);
    c.renew(&a, &[]);
    assert_eq!(c.got("a", "renewed"), 1);
    let slot = c.slot;
    c.pass(10);
    assert_eq!(
        (c.slot, c.sessions()),
        (slot, vec![a.session]),
        "renewals are no log entries"
    );
    c.pass(1);
    assert_eq!((c.slot, c.sessions()), (slot + 1, vec![]), "its end is one");
    c.sent.clear();
    c.renew(&a, &[]);
    assert_eq!(
        (c.refusals("a"), c.got("a", "renewed")),
        (vec!["ESTALE".to_owned()], 0)
    );
}

#[test]
fn commands_do_not_renew() {
    let (mut c, a) = cluster();
    c.pass(8);
    c.send(&a, 1, 0, &create(1, "f"));
    c.pass(3);
    assert!(c.sessions().is_empty());
}

#[test]
fn a_renewal_that_waited_with_the_timer_counts() {
    let (mut c, a) = cluster();
    c.wall += 20 * SECOND;
    c.mono += 20 * SECOND;
    // The NameNode was stopped for a while; what came meanwhile comes with the timer.
    let rows = vec![
        c.row("every_second", vec![i(c.wall)]),
        c.row("renew", vec![Value::addr("a"), i(a.session), none()]),
    ];
    c.run(rows);
    assert_eq!(c.sessions(), [a.session]);
}

#[test]
fn a_node_that_starts_gives_everybody_a_full_period() {
    let (mut c, a) = cluster();
    c.pass(9);
    c.restart();
    c.pass(10);
    assert_eq!(c.sessions(), [a.session]);
    c.hello("a", a.session, 0);
    c.pass(10);
    assert_eq!(c.sessions(), [a.session], "a greeting is a sign of life");
    c.pass(1);
    assert!(c.sessions().is_empty());
    let other = c.client("bb");
    c.restart();
    c.pass(11);
    assert!(
        c.sessions().is_empty(),
        "{} said nothing at all",
        other.session
    );
}

#[test]
fn what_a_session_had_goes_with_it() {
    let (mut c, mut a) = cluster();
    let mut other = c.client("bb");
    let f = c.attr(&mut a, create_with(1, "f", true, true, 0)).ino;
    let g = c.attr(&mut other, create_with(1, "g", true, true, 0)).ino;
    c.ok(&mut a, cmd("reserve", 0, "", [i(10)]));
    c.ok(&mut other, cmd("reserve", 0, "", [i(10)]));
    assert_eq!(c.err(&mut other, cmd("acquire", f, "", [])), "EBUSY");
    c.pass(6);
    c.renew(&other, &[]);
    c.pass(6);
    assert_eq!(c.sessions(), [other.session]);
    assert_eq!(c.rows("lease"), [vec![i(g), i(other.session)]]);
    assert_eq!(c.column("range", 1), [other.session]);
    assert_eq!(
        c.column("answer", 0),
        vec![other.session; c.rows("answer").len()]
    );
    assert_eq!(c.column("seen", 0), [other.session]);
    c.ok(&mut other, cmd("acquire", f, "", []));
}

#[test]
fn a_client_closes_its_session() {
    let (mut c, a) = cluster();
    c.send(&a, 1, 0, &create_with(1, "f", true, true, 0));
    assert_eq!(
        c.send(&a, 2, 0, &cmd("close_session", 0, "", [])),
        Some(Ok(vec![]))
    );
    assert!(c.sessions().is_empty());
    for table in ["answer", "lease", "seen", "holds"] {
        assert_eq!(c.rows(table).len(), 0, "{table}");
    }
    assert!(stale(c.send(&a, 3, 2, &create(1, "g"))));
    assert!(
        stale(c.send(&a, 2, 0, &cmd("close_session", 0, "", []))),
        "nor is there an answer"
    );
    assert_eq!(names(&mut c), ["\"f\""]);
}

#[test]
fn commands_behind_a_close_do_not_run() {
    let (mut c, a) = cluster();
    let rows = vec![
        c.request(&a, 1, 0, &create(1, "f")),
        c.request(&a, 2, 0, &cmd("close_session", 0, "", [])),
        c.request(&a, 3, 0, &create_with(1, "g", true, true, 0)),
    ];
    c.run(rows);
    assert!(c.reply("a", 1).unwrap().is_ok());
    assert_eq!(c.reply("a", 2), Some(Ok(vec![])));
    assert!(stale(c.reply("a", 3)));
    assert_eq!(names(&mut c), ["\"f\""]);
}

/// The batch of an `expire` and then commands, as a leader decides them.
fn expiry_then(c: &mut Real, a: &Client, commands: &[Command]) -> Value {
    let rows = (1..)
        .zip(commands)
        .map(|(seq, command)| c.request(a, seq, 0, command))
        .collect();
    let commands = c.proposal(rows);
    let expire = [0, 0, 0, 0, 0, 0].map(i).into_iter();
    let expire = list(expire.chain([none(), s("expire"), i(a.session), none(), none()]));
    let at = i(c.wall);
    list([at, list([expire].into_iter().chain(commands))])
}

#[test]
fn a_command_of_an_expired_session_never_runs() {
    let (mut c, a) = cluster();
    // The end was decided in the same batch, before it.
    let batch = expiry_then(
        &mut c,
        &a,
        &[create_with(1, "f", true, true, 0), create(1, "g")],
    );
    c.decide(batch.clone());
    assert!(c.sessions().is_empty());
    assert!(names(&mut c).is_empty());
    assert!(stale(c.reply("a", 1)) && stale(c.reply("a", 2)));
    // Or in a batch before it.
    c.sent.clear();
    c.decide(batch);
    assert!(names(&mut c).is_empty());
    assert!(stale(c.reply("a", 1)) && stale(c.reply("a", 2)));
    assert_eq!(c.rows("answer").len(), 0);
}

#[test]
fn commands_before_the_expiry_run() {
    let (mut c, a) = cluster();
    let batch = expiry_then(&mut c, &a, &[create_with(1, "f", true, true, 0)]);
    let mut commands = batch.as_list().unwrap()[1].as_list().unwrap().to_vec();
    commands.reverse();
    c.decide(list([i(c.wall), list(commands)]));
    assert!(c.sessions().is_empty());
    assert_eq!(names(&mut c), ["\"f\""]);
    assert_eq!((c.rows("lease").len(), c.rows("answer").len()), (0, 0));
}

// Orphans.

#[test]
fn an_orphan_that_nobody_holds_is_reaped_after_15_s() {
    let (mut c, mut a) = cluster();
    c.pass(20);
    let mut b = c.client("bb");
    let f = c.attr(&mut b, create(1, "f")).ino;
    assert!(a.session > 0 && c.sessions() == [b.session]);
    c.ok(&mut b, unlink(1, "f"));
    for _ in 0..5 {
        c.renew(&b, &[]);
        c.pass(3);
    }
    assert_eq!(c.look(f).unwrap().nlink, 0);
    c.pass(1);
    assert_eq!(c.look(f).unwrap_err(), "ENOENT");
    assert_eq!((c.rows("orphan").len(), c.column("usage", 0)), (0, vec![1]));
    a.session = 0;
}

#[test]
fn an_open_orphan_stays_while_a_session_renews_it() {
    let (mut c, a) = cluster();
    let mut b = c.client("bb");
    let f = c.attr(&mut b, create(1, "f")).ino;
    c.ok(&mut b, unlink(1, "f"));
    for _ in 0..10 {
        c.renew(&a, &[f]);
        c.renew(&b, &[]);
        c.pass(3);
    }
    assert_eq!(c.look(f).unwrap().nlink, 0, "after 30 s");
    // Others that it no longer names are not held.
    c.renew(&a, &[]);
    c.pass(1);
    assert_eq!(c.look(f).unwrap_err(), "ENOENT");
}

#[test]
fn an_open_orphan_goes_when_its_session_ends() {
    let (mut c, mut a) = cluster();
    let f = c.attr(&mut a, create(1, "f")).ino;
    c.ok(&mut a, unlink(1, "f"));
    for _ in 0..6 {
        c.renew(&a, &[f]);
        c.pass(3);
    }
    c.pass(7);
    assert_eq!(
        (c.sessions(), c.look(f).unwrap().nlink),
        (vec![a.session], 0)
    );
    c.pass(2);
    assert!(c.sessions().is_empty());
    assert_eq!(c.look(f).unwrap_err(), "ENOENT");
}

#[test]
fn a_node_that_starts_waits_15_s_before_it_reaps() {
    let (mut c, mut a) = cluster();
    let f = c.attr(&mut a, create(1, "f")).ino;
    c.ok(&mut a, unlink(1, "f"));
    for _ in 0..5 {
        c.renew(&a, &[f]);
        c.pass(3);
    }
    c.restart();
    for _ in 0..5 {
        c.pass(3);
        c.hello("a", a.session, 0);
    }
    assert_eq!(
        c.look(f).unwrap().nlink,
        0,
        "who holds it had time to say so"
    );
    c.pass(1);
    assert_eq!(c.look(f).unwrap_err(), "ENOENT");
}

#[test]
fn an_orphan_that_is_being_written_stays() {
    let (mut c, mut a) = cluster();
    let f = c.attr(&mut a, create_with(1, "f", true, true, 0)).ino;
    c.ok(&mut a, unlink(1, "f"));
    for _ in 0..6 {
        c.renew(&a, &[]);
        c.pass(3);
    }
    assert_eq!(c.look(f).unwrap().nlink, 0);
    // A leader that had not heard of the lease asks for its end: that is for the log to say.
    let reap = [0, 0, 0, 0, 0, 0].map(i).into_iter();
    let reap = list(reap.chain([none(), s("reap"), i(f), none(), none()]));
    c.decide(list([i(c.wall), list([reap])]));
    assert_eq!(c.look(f).unwrap().nlink, 0);
    c.ok(&mut a, cmd("release", f, "", []));
    c.pass(1);
    assert_eq!(c.look(f).unwrap_err(), "ENOENT");
}

#[test]
fn at_most_4096_orphans_go_at_a_time() {
    let (mut c, mut a) = cluster();
    let all: Vec<String> = (0..4_097).map(|n| n.to_string()).collect();
    for step in [create, unlink] {
        for some in all.chunks(1_000) {
            let commands: Vec<Command> = some.iter().map(|name| step(1, name)).collect();
            assert!(c.batch(&mut a, &commands).iter().all(Result::is_ok));
        }
    }
    for _ in 0..5 {
        c.renew(&a, &[]);
        c.pass(3);
    }
    assert_eq!(c.rows("orphan").len(), 4_097);
    c.pass(1);
    assert_eq!(c.rows("orphan").len(), 1);
    c.pass(1);
    assert_eq!(c.rows("usage"), [vec![i(1), i(0)]]);
}
