//! Several NameNodes: finding the one that leads, and finding the next one.

use super::*;
use crate::fake::{ALIAS, NAMENODE, OTHERS};
use crate::{Config, Error, errno};
use boomfs_wire::{Failure, NodeId, Op};
use std::time::Duration;

const SECOND: &str = OTHERS[0];

async fn start_three(fake: &Fake) {
    for addr in Fake::namenodes() {
        fake.start_namenode(&addr).await;
    }
}

fn config(namenodes: &[&str]) -> Config {
    let namenodes = namenodes.iter().map(|addr| (*addr).to_owned()).collect();
    Config {
        deadline: Duration::from_secs(4),
        ..Config::new(namenodes, "test")
    }
}

/// Runs a command and gives how long it took, in milliseconds.
async fn timed(fake: &Fake, client: &Client, name: &str) -> u128 {
    let start = fake.world.elapsed();
    create(client, name).await;
    (fake.world.elapsed() - start).as_millis()
}

#[test]
fn followers_name_the_leader_also_where_the_client_was_not_told_of_it() {
    let fake = Fake::new(21, 0, 4096);
    fake.world.run(async {
        start_three(&fake).await;
        fake.elect("nn3");
        let io = fake.world.node("client");
        let client = Client::connect(io, config(&[NAMENODE])).await.unwrap();
        create(&client, "a").await;
        assert_eq!(fake.state().sessions.len(), 1);
        // It was learned for good: the one of the configuration is not needed any more.
        fake.world.crash("nn");
        fake.elect("nn2");
        create(&client, "b").await;
    });
    nothing_wrong(&fake);
}

#[test]
fn a_mute_namenode_and_one_that_is_cut_off_do_not_hold_up_the_others() {
    let fake = Fake::new(22, 0, 4096);
    fake.world.run(async {
        start_three(&fake).await;
        fake.elect("nn3");
        fake.state().stopped.insert("nn".to_owned());
        fake.world.partition("client", "nn2", true);
        let start = fake.world.elapsed();
        let client = fake.client_of_three().await;
        create(&client, "a").await;
        let passed = fake.world.elapsed() - start;
        assert!(passed < Duration::from_millis(50), "{passed:?}");
    });
    nothing_wrong(&fake);
}

#[test]
fn a_leader_that_dies_under_commands_is_followed_by_the_next_and_each_is_run_once() {
    let fake = Fake::new(23, 0, 4096);
    fake.world.run(async {
        start_three(&fake).await;
        let client = fake.client_of_three().await;
        let session = client.session();
        let mut calls = tokio::task::JoinSet::new();
        for n in 0..2000 {
            let client = client.clone();
            calls.spawn(async move { create(&client, &format!("f{n}")).await.ino });
        }
        fake.until("some were run", |state| state.log.len() > 100)
            .await;
        assert!(fake.state().log.len() < 1900);
        fake.world.crash("nn");
        fake.elect("");
        fake.world
            .node("client")
            .sleep(Duration::from_millis(600))
            .await;
        let elected = fake.world.elapsed();
        fake.elect("nn2");
        let more = fake.state().log.len();
        fake.until("the next one runs them", |state| state.log.len() > more)
            .await;
        let passed = fake.world.elapsed() - elected;
        assert!(passed < Duration::from_millis(100), "{passed:?}");
        let mut inodes: Vec<Ino> = calls.join_all().await;
        inodes.sort_unstable();
        inodes.dedup();
        assert_eq!(inodes.len(), 2000);
        assert_eq!(fake.state().log.len(), 2000);
        assert_eq!(client.session(), session);
    });
    nothing_wrong(&fake);
}

#[test]
fn a_command_that_the_old_leader_ran_is_answered_by_the_new_one() {
    let fake = Fake::new(24, 0, 4096);
    fake.world.run(async {
        start_three(&fake).await;
        let client = fake.client_of_three().await;
        fake.state().cut_after = Some(0);
        let call = tokio::spawn({
            let client = client.clone();
            async move { create(&client, "a").await }
        });
        fake.until("it was run", |state| state.log.len() == 1).await;
        fake.elect("nn3");
        let attr = call.await.unwrap();
        let state = fake.state();
        assert_eq!(attr.ino, state.names[&b"a".to_vec()]);
        assert_eq!((state.log.len(), state.arrived), (1, 2));
    });
    nothing_wrong(&fake);
}

#[test]
fn a_leader_that_steps_down_is_left_at_once() {
    let fake = Fake::new(25, 0, 4096);
    fake.world.run(async {
        start_three(&fake).await;
        let client = fake.client_of_three().await;
        create(&client, "a").await;
        for (host, name) in [("nn2", "b"), ("nn3", "c"), ("nn", "d")] {
            fake.elect(host);
            let took = timed(&fake, &client, name).await;
            assert!(took < 100, "{host}: {took} ms");
            fake.world
                .node("client")
                .sleep(Duration::from_secs(2))
                .await;
        }
        assert_eq!(fake.state().sessions.len(), 1);
    });
    nothing_wrong(&fake);
}

#[test]
fn a_leader_that_is_stopped_is_left_within_half_a_second_once_another_leads() {
    let fake = Fake::new(26, 0, 4096);
    fake.world.run(async {
        start_three(&fake).await;
        let client = fake.client_of_three().await;
        create(&client, "a").await;
        // Idle for a while: silence is counted from the question on.
        let io = fake.world.node("client");
        io.sleep(Duration::from_secs(20)).await;
        fake.state().stopped.insert("nn".to_owned());
        fake.elect("nn2");
        let took = timed(&fake, &client, "b").await;
        assert!((200..500).contains(&took), "{took} ms");
        // An idle client finds out by its renewals, long before its session ends.
        fake.state().stopped.insert("nn2".to_owned());
        fake.elect("nn3");
        io.sleep(Duration::from_secs(4)).await;
        assert!(timed(&fake, &client, "c").await < 50);
        let state = fake.state();
        assert_eq!((state.sessions.len(), state.log.len()), (1, 3));
    });
    nothing_wrong(&fake);
}

#[test]
fn a_slow_leader_is_not_left_while_nobody_else_leads() {
    let fake = Fake::new(27, 0, 4096);
    fake.world.run(async {
        start_three(&fake).await;
        let client = fake.client_of_three().await;
        create(&client, "a").await;
        let hellos = fake.state().hellos.clone();
        fake.world.partition("client", "nn", true);
        let call = tokio::spawn({
            let client = client.clone();
            async move { create(&client, "b").await }
        });
        let io = fake.world.node("client");
        io.sleep(Duration::from_secs(3)).await;
        assert!(!call.is_finished());
        fake.world.partition("client", "nn", false);
        call.await.unwrap();
        let state = fake.state();
        // The others were asked and this one was not: its connection never ended.
        assert_eq!(state.hellos["nn"], hellos["nn"]);
        assert!(state.hellos["nn2"] > hellos["nn2"]);
        // The command came once.
        assert_eq!((state.log.len(), state.arrived), (2, 2));
    });
    nothing_wrong(&fake);
}

#[test]
fn a_leader_that_has_two_addresses_gets_one_hello_of_the_session() {
    let fake = Fake::new(28, 0, 4096);
    fake.world.run(async {
        start_three(&fake).await;
        fake.start_namenode(ALIAS).await;
        fake.elect("nn2");
        fake.state().hint = Some(ALIAS.to_owned());
        for seed in 0..20 {
            let client = fake.client_of_three().await;
            assert!(timed(&fake, &client, &format!("f{seed}")).await < 50);
            client.close().await.unwrap();
        }
    });
    nothing_wrong(&fake);
}

#[test]
fn a_watched_query_starts_again_at_the_next_leader() {
    let fake = Fake::new(29, 0, 4096);
    fake.world.run(async {
        start_three(&fake).await;
        let client = fake.client_of_three().await;
        fake.state().rows = vec![boomfs_wire::FromNameNode::Rows {
            req: 0,
            columns: vec!["x".to_owned()],
            run: 1,
            added: vec!["[1]".to_owned()],
            removed: Vec::new(),
            end: false,
            failure: None,
        }];
        let mut watch = client.watch("? q(X) :- inode(X);").await.unwrap();
        assert!(watch.next().await.unwrap().restarted);
        fake.elect("nn3");
        let again = watch.next().await.unwrap();
        assert_eq!(
            (again.restarted, again.added),
            (true, vec!["[1]".to_owned()])
        );
    });
    nothing_wrong(&fake);
}

#[test]
fn what_each_namenode_said_is_named_when_the_deadline_passes() {
    let fake = Fake::new(30, 0, 4096);
    fake.world.run(async {
        fake.start_namenode(NAMENODE).await;
        fake.start_namenode(SECOND).await;
        fake.elect("");
        fake.state().stopped.insert("nn2".to_owned());
        let io = fake.world.node("client");
        let three = config(&[NAMENODE, SECOND, OTHERS[1]]);
        let error = Client::connect(io.clone(), three.clone())
            .await
            .err()
            .unwrap();
        assert_eq!(error.errno(), errno::ETIMEDOUT);
        assert_eq!(
            error.to_string(),
            "connect: no answer within 4 s: no NameNode can be reached; \
             nn:7000: it does not lead and knows of no leader; \
             nn2:7000: it took the connection and says nothing; \
             nn3:7000: cannot connect to nn3:7000: nobody listens there"
        );
        // Under a standing connection, too.
        fake.elect("nn");
        let client = Client::connect(io, three).await.unwrap();
        fake.state().stopped.insert("nn".to_owned());
        let error = client.unlink(&root(), &named("x")).await.unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("NameNode nn:7000 is connected but did not answer; nn2:7000: ")
                && text.contains("; nn3:7000: cannot connect"),
            "{text}"
        );
    });
}

#[test]
fn refusals_of_all_end_the_wait_and_are_named() {
    let fake = Fake::new(31, 0, 4096);
    fake.world.run(async {
        start_three(&fake).await;
        fake.elect("nn2");
        let refuse = |errno, message: &str| Failure {
            errno,
            message: message.to_owned(),
        };
        {
            let mut state = fake.state();
            let full = refuse(24, "it has 4096 connections");
            state.refusing.insert("nn2".to_owned(), full);
            let alien = refuse(errno::EINVAL, "it is of another make");
            state.refusing.insert("nn3".to_owned(), alien);
        }
        let start = fake.world.elapsed();
        let io = fake.world.node("client");
        let three = Config::new(Fake::namenodes(), "test");
        let error = Client::connect(io, three).await.err().unwrap();
        let text = "NameNode nn2:7000 refuses: it has 4096 connections; \
                    NameNode nn3:7000 refuses: it is of another make; \
                    NameNode nn:7000 does not lead";
        assert_eq!(error, Error::Refused(refuse(24, text)));
        assert!(fake.world.elapsed() - start < Duration::from_secs(1));
    });
    nothing_wrong(&fake);
}

#[test]
fn a_session_that_the_next_leader_does_not_know_is_followed_by_a_new_one() {
    let fake = Fake::new(32, 0, 4096);
    fake.world.run(async {
        start_three(&fake).await;
        let client = fake.client_of_three().await;
        let lost = client.session();
        fake.state().expired.insert(lost);
        fake.elect("nn3");
        fake.until("a new session", |state| state.sessions.len() == 2)
            .await;
        create(&client, "a").await;
        assert_ne!(client.session(), lost);
    });
    nothing_wrong(&fake);
}

#[test]
fn stale_observers_are_served_by_any_and_others_by_the_leader() {
    let fake = Fake::new(33, 0, 4096);
    fake.world.run(async {
        start_three(&fake).await;
        fake.elect("nn2");
        let io = fake.world.node("client");
        let one = Config {
            stale: true,
            ..config(&[NAMENODE])
        };
        let stale = Client::observer(io.clone(), one).await.unwrap();
        assert_eq!(fake.state().hellos.get("nn2"), None);
        let identity = stale.identify().await.unwrap();
        assert_eq!((identity.node, identity.leads), (NodeId(7), false));
        // It stays where it is, whoever leads.
        fake.elect("nn3");
        stale.identify().await.unwrap();
        assert_eq!(fake.state().hellos["nn"], 1);
        let fresh = Client::observer(io, config(&[NAMENODE])).await.unwrap();
        fresh.identify().await.unwrap();
        assert_eq!(fake.state().hellos["nn3"], 1);
    });
    nothing_wrong(&fake);
}

#[test]
fn membership_commands_are_sent_as_they_are() {
    let fake = Fake::new(34, 0, 4096);
    fake.world.run(async {
        start_three(&fake).await;
        let client = fake.client_of_three().await;
        let (root, two) = (root(), NodeId(2));
        let added = client.add_namenode(&root, "nn4:7000", 5, two).await;
        assert_eq!(added.unwrap(), NodeId(9));
        client.remove_namenode(&root, two).await.unwrap();
        client.transfer(&root, two).await.unwrap();
        let addr = "nn4:7000".to_owned();
        let expected = [
            Op::AddNameNode {
                addr,
                nonce: 5,
                replaces: two,
            },
            Op::RemoveNameNode { node: two },
            Op::Transfer { node: two },
        ];
        assert_eq!(fake.state().log, expected);
    });
    nothing_wrong(&fake);
}
