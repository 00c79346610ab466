//! Sessions, resending, deadlines, queries.

use super::*;
use crate::{Config, Error, Op, errno, limits};
use boomfs_wire::{FromNameNode, ToNameNode};
use std::time::Duration;

#[test]
fn command_whose_answer_is_lost_is_answered_after_the_reconnect_and_not_repeated() {
    let fake = Fake::new(1, 0, 4096);
    fake.world.run(async {
        fake.start().await;
        let client = fake.client().await;
        fake.state().cut_after = Some(0);
        let attr = create(&client, "a").await;
        assert_eq!(attr.ino, fake.state().names[&b"a".to_vec()]);
        assert_eq!(fake.state().log.len(), 1);
        assert_eq!(fake.state().arrived, 2);
    });
    nothing_wrong(&fake);
}

#[test]
fn many_commands_over_many_cuts_are_each_run_once() {
    let fake = Fake::new(2, 0, 4096);
    fake.world.run(async {
        fake.start().await;
        let client = fake.client().await;
        let mut calls = tokio::task::JoinSet::new();
        for n in 0..3000 {
            let client = client.clone();
            calls.spawn(async move { create(&client, &format!("f{n}")).await });
        }
        for n in [5, 100, 900, 1, 0, 700] {
            fake.state().cut_after = Some(n);
            fake.until("the connection was cut", |state| state.cut_after.is_none())
                .await;
        }
        let mut inodes: Vec<Ino> = calls
            .join_all()
            .await
            .into_iter()
            .map(|attr| attr.ino)
            .collect();
        inodes.sort_unstable();
        inodes.dedup();
        assert_eq!(inodes.len(), 3000);
        assert_eq!(fake.state().log.len(), 3000);
    });
    nothing_wrong(&fake);
}

#[test]
fn namenode_that_cannot_be_reached_is_named() {
    let fake = Fake::new(3, 0, 4096);
    fake.world.run(async {
        let config = Config {
            deadline: Duration::from_secs(4),
            ..Config::new(vec!["nn:7000".to_owned()], "test")
        };
        let error = Client::connect(fake.world.node("client"), config)
            .await
            .err()
            .unwrap();
        assert_eq!(error.errno(), errno::ETIMEDOUT);
        let text = error.to_string();
        assert!(
            text.starts_with(
                "connect: no answer within 4 s: no NameNode can be reached; nn:7000: "
            ),
            "{text}"
        );
        assert_eq!(fake.world.elapsed(), Duration::from_secs(4));
    });
}

#[test]
fn silent_namenode_is_named_when_the_deadline_passes() {
    let fake = Fake::new(4, 0, 4096);
    fake.world.run(async {
        fake.start().await;
        let client = fake.client().await;
        fake.state().mute = true;
        let error = client.unlink(&root(), &named("x")).await.unwrap_err();
        assert_eq!(error.errno(), errno::ETIMEDOUT);
        let text = error.to_string();
        assert!(
            text.starts_with("unlink \"x\" under inode 1: no answer within 30 s: no NameNode"),
            "{text}"
        );
        assert!(text.contains("nn:7000: "), "{text}");
        // The command was sent, so it is run when the NameNode is back, and the next one after it.
        fake.state().mute = false;
        create(&client, "y").await;
        let state = fake.state();
        assert!(
            matches!(state.log.as_slice(), [Op::Unlink { .. }, Op::Create { .. }]),
            "{:?}",
            state.log
        );
    });
    nothing_wrong(&fake);
}

#[test]
fn lost_session_fails_its_writers_and_is_followed_by_a_new_one() {
    let fake = Fake::new(5, 3, 4096);
    fake.world.run(async {
        fake.start().await;
        let client = fake.client().await;
        let writer = create_open(&client, "a").await;
        writer.write_at(0, pattern(1, 100)).await.unwrap();
        let lost = client.session();
        fake.state().expired.insert(lost);
        let error = writer.fsync().await.unwrap_err();
        assert_eq!(error.errno(), errno::EIO);
        fake.until("a new session", |state| state.sessions.len() == 2)
            .await;
        create(&client, "b").await;
        assert_ne!(client.session(), lost);
        assert!(writer.write_at(0, pattern(1, 1)).await.is_err());
        assert!(writer.close().await.is_err());
        let again = client.open_write(&root(), writer.ino()).await.unwrap();
        again.write_at(0, pattern(2, 10)).await.unwrap();
        again.close().await.unwrap();
        assert_eq!(fake.contents(again.ino()), pattern(2, 10));
    });
    nothing_wrong(&fake);
}

#[test]
fn session_whose_end_was_not_answered_has_ended() {
    let fake = Fake::new(10, 0, 4096);
    fake.world.run(async {
        fake.start().await;
        let client = fake.client().await;
        let session = client.session();
        fake.state().mute = true;
        let closing = tokio::spawn({
            let client = client.clone();
            async move { client.close().await }
        });
        fake.world
            .node("client")
            .sleep(limits::SILENCE_LIMIT * 2)
            .await;
        // It was ended by a NameNode that died before it could say so.
        fake.state().expired.insert(session);
        fake.state().mute = false;
        closing.await.unwrap().unwrap();
    });
    nothing_wrong(&fake);
}

#[test]
fn command_that_was_sent_under_a_lost_session_fails_and_later_ones_do_not() {
    let fake = Fake::new(9, 0, 4096);
    fake.world.run(async {
        fake.start().await;
        let client = fake.client().await;
        let lost = client.session();
        fake.state().mute = true;
        let sent = tokio::spawn({
            let client = client.clone();
            async move { client.unlink(&root(), &named("a")).await }
        });
        // Long enough for the client to take the silence for a dead NameNode.
        fake.world
            .node("client")
            .sleep(limits::SILENCE_LIMIT * 2)
            .await;
        fake.state().expired.insert(lost);
        fake.state().mute = false;
        let error = sent.await.unwrap().unwrap_err();
        assert!(matches!(&error, Error::SessionLost { .. }), "{error}");
        assert_eq!(error.errno(), errno::EIO);
        create(&client, "b").await;
        assert_ne!(client.session(), lost);
        assert_eq!(fake.state().log.len(), 1);
    });
    nothing_wrong(&fake);
}

#[test]
fn session_that_is_renewed_outlives_its_idle_time_and_names_open_inodes() {
    let fake = Fake::new(6, 0, 4096);
    fake.world.run(async {
        fake.start().await;
        let client = fake.client().await;
        let ino = create(&client, "a").await.ino;
        client.note_open(ino);
        client.unlink(&root(), &named("a")).await.unwrap();
        let session = client.session();
        fake.until("a renewal with the inode", |state| {
            state.sessions[&session].orphans == [ino]
        })
        .await;
        client.note_close(ino);
        fake.until("a renewal without it", |state| {
            state.sessions[&session].orphans.is_empty()
        })
        .await;
        client.close().await.unwrap();
        assert_eq!(
            client
                .unlink(&root(), &named("a"))
                .await
                .unwrap_err()
                .errno(),
            errno::ENOTCONN
        );
    });
    nothing_wrong(&fake);
}

fn rows(added: &[&str], removed: &[&str], run: u64, end: bool) -> FromNameNode {
    let own = |rows: &[&str]| rows.iter().map(|row| (*row).to_owned()).collect();
    let columns = vec!["x".to_owned()];
    FromNameNode::Rows {
        req: 0,
        columns,
        run,
        added: own(added),
        removed: own(removed),
        end,
        failure: None,
    }
}

#[test]
fn query_gathers_rows_up_to_its_limit() {
    let fake = Fake::new(7, 0, 4096);
    fake.world.run(async {
        fake.start().await;
        let config = Config::new(vec!["nn:7000".to_owned()], "test");
        let client = Client::observer(fake.world.node("client"), config)
            .await
            .unwrap();
        fake.state().rows = vec![
            rows(&["[1]", "[2]"], &[], 9, false),
            rows(&["[3]"], &[], 9, true),
        ];
        let all = client.query("? q(X) :- inode(X);", 10).await.unwrap();
        assert_eq!(
            (all.columns, all.rows, all.run),
            (
                vec!["x".into()],
                vec!["[1]".into(), "[2]".into(), "[3]".into()],
                9
            )
        );
        let two = client.query("? q(X) :- inode(X);", 2).await.unwrap();
        assert_eq!(two.rows, ["[1]", "[2]"]);
        assert_eq!(
            client
                .unlink(&root(), &named("x"))
                .await
                .unwrap_err()
                .errno(),
            errno::EPERM
        );
    });
}

#[test]
fn watch_starts_again_after_a_reconnect_and_is_cancelled_when_dropped() {
    let fake = Fake::new(8, 0, 4096);
    fake.world.run(async {
        fake.start().await;
        let client = fake.client().await;
        fake.state().rows = vec![
            rows(&["[1]"], &[], 1, false),
            rows(&["[2]"], &["[1]"], 2, false),
        ];
        let mut watch = client.watch("? q(X) :- inode(X);").await.unwrap();
        let first = watch.next().await.unwrap();
        assert_eq!(
            (first.added, first.restarted),
            (vec!["[1]".to_owned()], true)
        );
        let second = watch.next().await.unwrap();
        assert_eq!(
            (second.added, second.removed, second.restarted),
            (vec!["[2]".into()], vec!["[1]".into()], false)
        );
        fake.state().cut_after = Some(0);
        create(&client, "a").await;
        assert!(watch.next().await.unwrap().restarted);
        assert!(watch.failure().is_none());
        drop(watch);
        fake.until("the query's end", |state| {
            matches!(state.queries.last(), Some(ToNameNode::Cancel { .. }))
        })
        .await;
    });
}
