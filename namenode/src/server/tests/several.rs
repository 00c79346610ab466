//! Several NameNodes, with the rules of this build: admission, failover, catch-up.

use super::*;
use crate::codec::errno;

/// A world with NameNodes on the hosts `nn1`, `nn2`, ..
struct Group {
    world: World,
    servers: Vec<Option<Server>>,
}

fn host(number: usize) -> String {
    format!("nn{number}")
}

fn addr(number: usize) -> String {
    format!("nn{number}:9000")
}

impl Group {
    /// One that founds its cluster and has admitted the others.
    async fn start(world: &World, count: usize) -> Group {
        let mut group = Group {
            world: world.clone(),
            servers: (0..count).map(|_| None).collect(),
        };
        for number in 1..=count {
            group.start_one(number).await;
            if number > 1 {
                group.admit(number, 0).await.unwrap();
            }
        }
        group.changed().await;
        group
    }

    /// Waits until the last change of the members has taken effect.
    async fn changed(&self) {
        let leader = self.leader().await;
        let raw = Raw::observer(&self.io(), &addr(leader)).await;
        self.has_rows(raw, "? x(F, M) :- membership(F, M);", 1)
            .await;
    }

    /// Waits until a query has so many rows.
    async fn has_rows(&self, mut raw: Raw, text: &str, count: usize) {
        for req in 1..200 {
            raw.send(ToNameNode::Query {
                req,
                text: text.to_owned(),
                limit: 9,
                watch: false,
            })
            .await;
            match raw.receive().await {
                Some(FromNameNode::Rows { added, .. }) if added.len() == count => return,
                Some(FromNameNode::Rows { .. }) => {}
                other => panic!("{other:?}"),
            }
            self.io().sleep(Duration::from_millis(50)).await;
        }
        panic!("{text} never has {count} rows\n{}", self.show().await);
    }

    async fn start_one(&mut self, number: usize) {
        self.start_at(number, &addr(number)).await;
    }

    async fn start_at(&mut self, number: usize, listen: &str) {
        let join = match number {
            1 => Vec::new(),
            _ => vec![addr(1)],
        };
        let config = Config {
            join,
            checkpoint_slots: 200,
            ..config(Path::new("/nn"), listen)
        };
        let io = self.world.node(&host(number));
        self.servers[number - 1] = Some(Server::start_local(io, config).await.unwrap());
    }

    fn crash(&mut self, number: usize) {
        self.world.crash_with(&host(number), Unsynced::Random);
        self.servers[number - 1] = None;
    }

    fn io(&self) -> Io {
        self.world.node("client")
    }

    async fn identity(&self, number: usize) -> Option<Identity> {
        let io = self.io();
        let stream = io.connect(&addr(number), SOON).await.ok()?;
        let mut raw = Raw {
            io,
            stream,
            session: 0,
            acked: 0,
        };
        raw.hello(Peer::Observer { stale: true }).await?;
        // One that has fetched a state starts again at any time.
        let read = ToNameNode::Read {
            req: 1,
            caller: Caller::default(),
            op: ReadOp::Identify,
        };
        raw.try_send(read).await.ok()?;
        match raw.receive().await? {
            FromNameNode::ReadAnswered {
                result: Ok(Answer::Identity(identity)),
                ..
            } => Some(identity),
            other => panic!("{other:?}"),
        }
    }

    /// What the NameNodes know of one another, for a failure.
    async fn show(&self) -> String {
        let tables = [
            ("clock", 2),
            ("upto", 1),
            ("promised", 1),
            ("tried", 1),
            ("kept_from", 1),
            ("me", 2),
            ("membership", 2),
            ("namenode", 4),
            ("granted", 2),
            ("leading", 1),
            ("campaign", 1),
            ("governing", 1),
            ("heard", 3),
            ("known", 3),
            ("leased", 1),
            ("next_slot", 1),
            ("open", 2),
        ];
        let mut text = String::new();
        for number in 1..=self.servers.len() {
            let Some(server) = &self.servers[number - 1] else {
                continue;
            };
            let identity = self.identity(number).await;
            text += &format!("{}: {identity:?}\n", addr(number));
            let counted = server.metrics().all();
            text += &format!("  {counted:?}\n");
            let io = self.io();
            let mut raw = Raw::connect(&io, &addr(number)).await;
            raw.hello(Peer::Observer { stale: true }).await;
            for (req, (table, columns)) in (1..).zip(tables) {
                let names = ["A", "B", "C", "D"][..columns].join(", ");
                raw.send(ToNameNode::Query {
                    req,
                    text: format!("? x({names}) :- {table}({names});"),
                    limit: 100,
                    watch: false,
                })
                .await;
                if let Some(FromNameNode::Rows { added, failure, .. }) = raw.receive().await {
                    text += &format!("  {table}: {added:?} {failure:?}\n");
                }
            }
        }
        text
    }

    /// Waits until one of them leads.
    async fn leader(&self) -> usize {
        for _ in 0..400 {
            for number in 1..=self.servers.len() {
                if self.servers[number - 1].is_some()
                    && self.identity(number).await.is_some_and(|i| i.leads)
                {
                    return number;
                }
            }
            self.io().sleep(Duration::from_millis(10)).await;
        }
        panic!("nobody leads\n{}", self.show().await);
    }

    async fn client(&self, session: Option<u64>) -> Raw {
        let leader = self.leader().await;
        Raw::client(&self.io(), &addr(leader), session).await
    }

    async fn admit(&self, number: usize, replaces: u64) -> Result<u64, Failure> {
        let nonce = self.identity(number).await.unwrap().nonce;
        let leader = self.leader().await;
        let mut raw = Raw::connect(&self.io(), &addr(leader)).await;
        let hello = Peer::Client {
            session: None,
            nonce,
            name: "admin".to_owned(),
        };
        let welcome = raw.hello(hello).await;
        assert!(
            matches!(welcome, Some(FromNameNode::Welcome { .. })),
            "{welcome:?}"
        );
        let op = Op::AddNameNode {
            addr: addr(number),
            nonce,
            replaces: NodeId(replaces),
        };
        for seq in 1.. {
            match raw.call(seq, op.clone()).await {
                Ok(Answer::NameNode(node)) => return Ok(node.0),
                Err(e) if e.errno == 16 => self.io().sleep(Duration::from_millis(100)).await,
                Err(e) => return Err(e),
                other => panic!("{other:?}"),
            }
        }
        unreachable!()
    }

    /// Waits until all that run have applied the same slots.
    async fn settle(&self) -> u64 {
        for _ in 0..600 {
            let mut slots = Vec::new();
            for number in 1..=self.servers.len() {
                if self.servers[number - 1].is_some() {
                    slots.push(self.identity(number).await.map_or(0, |i| i.slot));
                }
            }
            if slots.iter().all(|slot| *slot == slots[0] && *slot > 0) {
                return slots[0];
            }
            self.io().sleep(Duration::from_millis(50)).await;
        }
        panic!("they do not settle\n{}", self.show().await);
    }
}

fn mkdir(name: &str) -> Op {
    Op::Mkdir {
        at: At {
            base: Ino::ROOT,
            path: vec![name.as_bytes().to_vec()],
        },
        mode: 0o755,
        ino: Ino(0),
    }
}

#[test]
fn others_are_admitted_and_learn_what_was_decided() {
    let world = World::new(41);
    world.run(async {
        let mut group = Group::start(&world, 3).await;
        let mut raw = group.client(None).await;
        for n in 1..=20 {
            raw.call(n, mkdir(&format!("d{n}"))).await.unwrap();
        }
        group.settle().await;
        let ids = [1, 2, 3].map(|n| group.identity(n));
        let mut nodes = Vec::new();
        for id in ids {
            nodes.push(id.await.unwrap().node.0);
        }
        assert_eq!(nodes, [1, 2, 3]);
        // A follower says who leads.
        let follower = if group.leader().await == 1 { 2 } else { 1 };
        let mut raw = Raw::connect(&group.io(), &addr(follower)).await;
        let told = raw.hello(Peer::Observer { stale: false }).await;
        let leader = addr(group.leader().await);
        assert_eq!(
            told,
            Some(FromNameNode::NotLeader {
                leader: Some(leader)
            })
        );
        for number in 1..=3 {
            let server = group.servers[number - 1].take().unwrap();
            server.shutdown().await.unwrap();
        }
    });
}

#[test]
fn what_was_acknowledged_is_there_after_the_leader_died() {
    for seed in 50..56 {
        let world = World::new(seed);
        world.run(async {
            let mut group = Group::start(&world, 3).await;
            let mut session = None;
            let mut seq = 0;
            for round in 0..6 {
                let mut raw = group.client(session).await;
                session = Some(raw.session);
                raw.acked = seq;
                for n in 0..5 {
                    seq += 1;
                    let made = raw.call(seq, mkdir(&format!("d{round}.{n}"))).await;
                    made.unwrap_or_else(|e| panic!("seed {seed} round {round}: {e}"));
                }
                let leader = group.leader().await;
                group.crash(leader);
                let next = group.leader().await;
                assert_ne!(leader, next);
                group.start_one(leader).await;
            }
            let mut raw = group.client(session).await;
            for round in 0..6 {
                for n in 0..5 {
                    let at = At {
                        base: Ino::ROOT,
                        path: vec![format!("d{round}.{n}").into_bytes()],
                    };
                    let found = raw.read(9, ReadOp::Lookup { at, follow: false }).await;
                    found.unwrap_or_else(|e| panic!("seed {seed}: d{round}.{n} is lost: {e}"));
                }
            }
            group.settle().await;
        });
    }
}

#[test]
fn another_leads_as_soon_as_the_leader_is_told_to_stop() {
    let world = World::new(56);
    world.run(async {
        let mut group = Group::start(&world, 3).await;
        for _ in 0..5 {
            let leader = group.leader().await;
            let server = group.servers[leader - 1].take().unwrap();
            let before = group.io().mono_ns();
            tokio::task::spawn_local(server.shutdown());
            let next = group.leader().await;
            let took = Duration::from_nanos(group.io().mono_ns() - before);
            assert_ne!(leader, next);
            // An election alone waits longer.
            assert!(took < Duration::from_millis(200), "{took:?}");
            group.io().sleep(Duration::from_secs(1)).await;
            group.start_one(leader).await;
            group.io().sleep(Duration::from_secs(1)).await;
        }
    });
}

#[test]
fn one_that_was_away_for_long_takes_the_state_as_a_whole() {
    let world = World::new(42);
    world.run(async {
        let mut group = Group::start(&world, 3).await;
        let leader = group.leader().await;
        let away = if leader == 3 { 2 } else { 3 };
        group.crash(away);
        let mut raw = group.client(None).await;
        for n in 1..=900 {
            raw.call(n, mkdir(&format!("d{n}"))).await.unwrap();
        }
        group.start_one(away).await;
        let slot = group.settle().await;
        assert!(slot > 900);
        // Nothing is missing in what it took: it can lead.
        group.crash(leader);
        let other = (1..=3).find(|n| *n != leader && *n != away).unwrap();
        group.crash(other);
        group.start_one(leader).await;
        let mut raw = group.client(Some(raw.session)).await;
        for n in [1, 450, 900] {
            let at = At {
                base: Ino::ROOT,
                path: vec![format!("d{n}").into_bytes()],
            };
            assert!(
                raw.read(9, ReadOp::Lookup { at, follow: false })
                    .await
                    .is_ok()
            );
        }
    });
}

#[test]
fn one_that_lost_its_disk_has_no_vote_until_it_is_admitted_in_its_own_place() {
    let world = World::new(43);
    world.run(async {
        let mut group = Group::start(&world, 3).await;
        let mut raw = group.client(None).await;
        raw.call(1, mkdir("before")).await.unwrap();
        let leader = group.leader().await;
        let lost = if leader == 3 { 2 } else { 3 };
        group.crash(lost);
        for name in ["identity", "lock"] {
            let io = world.node(&host(lost));
            let _ = io.remove_file(&Path::new("/nn").join(name)).await;
        }
        for dir in ["log", "checkpoints", "local"] {
            let io = world.node(&host(lost));
            let dir = Path::new("/nn").join(dir);
            for item in io.read_dir(&dir).await.unwrap() {
                io.remove_file(&dir.join(item.name)).await.unwrap();
            }
        }
        // With a majority of its own it starts; it knows nobody, and nobody counts on it.
        group.start_one(lost).await;
        assert_eq!(group.identity(lost).await.unwrap().node.0, 0);
        let node = group.admit(lost, lost as u64).await.unwrap();
        assert_eq!(node, 4);
        group.settle().await;
        for _ in 0..100 {
            if group.identity(lost).await.unwrap().node.0 == 4 {
                break;
            }
            world.node("client").sleep(Duration::from_millis(100)).await;
        }
        // Now it counts: with one of the others gone there still is a majority.
        let other = (1..=3).find(|n| *n != leader && *n != lost).unwrap();
        group.changed().await;
        group.crash(other);
        let mut raw = group.client(None).await;
        raw.call(1, mkdir("after")).await.unwrap();
    });
}

#[test]
fn commands_of_a_session_that_has_ended_do_not_use_up_slots() {
    let world = World::new(44);
    world.run(async {
        let group = Group::start(&world, 1).await;
        let mut gone = group.client(None).await;
        gone.call(1, Op::CloseSession).await.unwrap();
        // More than may be open at a time, each in a run of its own; none is even proposed.
        for seq in 2..40 {
            let refused = gone.call(seq, mkdir("never")).await.unwrap_err();
            assert_eq!(refused.errno, errno::ESTALE);
        }
        let mut raw = group.client(None).await;
        raw.call(1, mkdir("after")).await.unwrap();
    });
}

#[test]
fn one_that_moved_is_found_where_it_says_it_is() {
    let world = World::new(45);
    world.run(async {
        let mut group = Group::start(&world, 3).await;
        let moved = if group.leader().await == 3 { 2 } else { 3 };
        group.crash(moved);
        group.start_at(moved, &format!("nn{moved}:9999")).await;
        let mut raw = group.client(None).await;
        raw.call(1, mkdir("after")).await.unwrap();
        let slot = group.identity(group.leader().await).await.unwrap().slot;
        let server = group.servers[moved - 1].as_ref().unwrap();
        let applied = || server.metrics().applied_slot.load(Ordering::Relaxed);
        for _ in 0..100 {
            if applied() >= slot {
                return;
            }
            group.io().sleep(Duration::from_millis(50)).await;
        }
        panic!("it has applied {} of {slot} slots", applied());
    });
}

#[test]
fn one_that_has_left_and_does_not_know_it_is_told_and_keeps_nobody_from_leading() {
    let world = World::new(46);
    world.run(async {
        let group = Group::start(&world, 3).await;
        let leader = group.leader().await;
        let gone = 1 + leader % 3;
        let node = group.identity(gone).await.unwrap().node;
        let cut = |on| {
            for other in (1..=3).filter(|other| *other != gone) {
                world.cut(&host(other), &host(gone), on);
            }
        };
        // It hears of no leader, and stands again and again. Its own connections last.
        cut(true);
        let mut raw = group.client(None).await;
        raw.call(1, Op::RemoveNameNode { node }).await.unwrap();
        group.changed().await;
        cut(false);
        // The two that are left need one another.
        let io = group.io();
        world.pause(&host(leader), true);
        io.sleep(Duration::from_secs(1)).await;
        world.pause(&host(leader), false);
        // Whoever has not applied the change yet may hear it once more.
        io.sleep(Duration::from_secs(3)).await;
        let mut raw = group.client(None).await;
        raw.call(1, mkdir("after")).await.unwrap();
        let mut raw = Raw::connect(&io, &addr(gone)).await;
        raw.hello(Peer::Observer { stale: true }).await;
        group.has_rows(raw, "? x(N) :- me(N, _);", 0).await;
        assert_eq!(group.identity(gone).await.unwrap().node, NodeId(0));
    });
}

#[test]
fn one_whose_start_is_given_up_stops() {
    for ms in 1..30 {
        let world = World::new(47);
        world.run(async {
            let io = world.node("nn1");
            let config = || config(Path::new("/nn"), "nn1:9000");
            let start = Server::start_local(io.clone(), config());
            // Given up at any time.
            let _ = io.timeout(Duration::from_millis(ms), start).await;
            io.sleep(Duration::from_secs(5)).await;
            Server::start_local(io, config()).await.unwrap();
        });
    }
}
