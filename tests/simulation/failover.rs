//! Three NameNodes and their clients in one world, in which everything goes wrong for a while, and then nothing.
//!
//! NameNodes lose their power, and unsynced writes with it; they are cut off from one another and from the clients; disks
//! are slow, or fail a sync; wall clocks jump. In the calm after it the cluster must serve again, all NameNodes must
//! have applied the same slots to the same state, and what the clients saw must be linearizable.
//!
//! `BOOMFS_SIM_SEEDS` is how many seeds are run (default 25), `BOOMFS_SIM_SEED` where they start: a failure prints the
//! command that runs its seed alone.

use crate::trace;
use anyhow::{Context, Result, bail, ensure};
use boomfs_client::{At, Caller, Client, Config, Ino};
use boomfs_drill::drill::{broken, by_directory};
use boomfs_drill::workload::{Shared, list_all, work};
use boomfs_io::Io;
use boomfs_io::sim::{Unsynced, World};
use boomfs_namenode::Server;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// How long things go wrong, in virtual time.
const TROUBLE: Duration = Duration::from_secs(6);
/// How long the cluster may take to be whole again.
const PATIENCE: Duration = Duration::from_secs(90);

/// NameNodes in a world.
struct Group {
    world: World,
    servers: Vec<Option<Server>>,
    /// Pairs of hosts that are cut off from one another.
    cut: Vec<(String, String)>,
    /// Draws what goes wrong.
    io: Io,
}

fn host(at: usize) -> String {
    format!("nn{at}")
}

fn addr(at: usize) -> String {
    format!("nn{at}:9000")
}

impl Group {
    async fn start(world: &World, count: usize) -> Result<Group> {
        let mut group = Group {
            world: world.clone(),
            servers: (0..count).map(|_| None).collect(),
            cut: Vec::new(),
            io: world.node("fate"),
        };
        for at in 0..count {
            group.start_one(at).await?;
            if at > 0 {
                group.admit(at).await?;
            }
        }
        Ok(group)
    }

    fn addrs(&self) -> Vec<String> {
        (0..self.servers.len()).map(addr).collect()
    }

    async fn start_one(&mut self, at: usize) -> Result<()> {
        let join = if at == 0 { Vec::new() } else { vec![addr(0)] };
        let config = boomfs_namenode::Config {
            join,
            segment_bytes: 64 << 10,
            checkpoint_slots: 150,
            ..boomfs_namenode::Config::new("/namenode", addr(at))
        };
        let server = Server::start_local(self.world.node(&host(at)), config).await;
        let server = server.with_context(|| host(at))?;
        if let Some(place) = self.servers.get_mut(at) {
            *place = Some(server);
        }
        Ok(())
    }

    async fn admit(&self, at: usize) -> Result<()> {
        let nonce = self
            .servers
            .get(at)
            .and_then(Option::as_ref)
            .context("it runs")?
            .nonce();
        let client =
            Client::connect(self.world.node("admin"), Config::new(self.addrs(), "admin")).await?;
        let node = client
            .add_namenode(&Caller::default(), &addr(at), nonce, Default::default())
            .await?;
        loop {
            let status = client.status().await?;
            if status.namenodes.iter().any(|n| n.node == node && n.votes) {
                break;
            }
            self.io.sleep(Duration::from_millis(20)).await;
        }
        Ok(client.close().await?)
    }

    fn draw(&self, below: usize) -> usize {
        usize::try_from(self.io.random_u64() % below.max(1) as u64).unwrap_or(0)
    }

    fn crash(&mut self, at: usize) {
        let unsynced = [Unsynced::Random, Unsynced::Lost, Unsynced::Random];
        let unsynced = unsynced
            .get(self.draw(3))
            .copied()
            .unwrap_or(Unsynced::Random);
        self.world.crash_with(&host(at), unsynced);
        if let Some(server) = self.servers.get_mut(at) {
            *server = None;
        }
    }

    fn separate(&mut self, a: String, b: String) {
        self.world.partition(&a, &b, true);
        self.cut.push((a, b));
    }

    fn join_all(&mut self) {
        for (a, b) in std::mem::take(&mut self.cut) {
            self.world.partition(&a, &b, false);
        }
    }

    /// Something goes wrong, or is mended.
    async fn harm(&mut self) -> Result<()> {
        let at = self.draw(self.servers.len());
        let other = self.draw(self.servers.len());
        let runs = self.servers.get(at).is_some_and(Option::is_some);
        match self.draw(12) {
            0..3 if runs => self.crash(at),
            0..5 if !runs => self.start_one(at).await?,
            5 if at != other => self.separate(host(at), host(other)),
            6 => self.separate(host(at), "user".to_owned()),
            7 | 8 => self.join_all(),
            9 => {
                let most = 1 + self.draw(80) as u64;
                self.world.set_sync_delay_ms(&host(at), most);
            }
            10 if runs && self.draw(3) == 0 => self.world.fail_next_sync(&host(at)),
            11 => {
                let ahead = self.draw(20_000_000_000) as i64 - 10_000_000_000;
                self.world.set_clock_offset_ns(&host(at), ahead);
            }
            _ => {
                let most = 1 + self.draw(20) as u64;
                self.world.set_latency_ms(0, most);
            }
        }
        Ok(())
    }

    /// Everything is mended, and who does not run is started.
    async fn calm(&mut self) -> Result<()> {
        self.join_all();
        self.world.set_latency_ms(0, 2);
        for at in 0..self.servers.len() {
            self.world.set_sync_delay_ms(&host(at), 2);
            // One that failed a sync has ended; it may be doing so now.
            let server = self.servers.get(at).and_then(Option::as_ref);
            let ended = match server {
                Some(server) => self
                    .io
                    .timeout(Duration::from_millis(300), server.ended())
                    .await
                    .is_ok(),
                None => true,
            };
            if ended {
                self.crash(at);
                self.start_one(at).await?;
            }
        }
        Ok(())
    }

    /// Waits until all have applied the same slots, and compares what they have then.
    async fn settle(&self) -> Result<()> {
        let started = self.io.mono_ns();
        let mut last = String::new();
        while Duration::from_nanos(self.io.mono_ns() - started) < PATIENCE {
            let mut states = Vec::new();
            for at in 0..self.servers.len() {
                states.push(self.state(at).await.unwrap_or_else(|e| format!("{e:#}")));
            }
            let first = states.first().cloned().unwrap_or_default();
            if !first.is_empty()
                && states.iter().all(|state| *state == first)
                && first.starts_with('[')
            {
                return Ok(());
            }
            last = states.join("\n");
            self.io.sleep(Duration::from_millis(200)).await;
        }
        bail!("the NameNodes do not come to the same state:\n{last}")
    }

    /// Clock, counters, tree and sessions of one NameNode, as it has applied them.
    async fn state(&self, at: usize) -> Result<String> {
        let config = Config {
            stale: true,
            deadline: Duration::from_secs(2),
            ..Config::new(vec![addr(at)], "look")
        };
        let client = Client::observer(self.world.node("look"), config).await?;
        let mut text = String::new();
        for query in [
            "? c(S, T) :- clock(S, T);",
            "? n(N, R) :- counter(N, R);",
            "? d(P, N, I) :- dentry(P, N, I, _);",
            "? i(I, L, C) :- inode(Ino: I, Nlink: L, Ctime: C);",
            "? s(S, N, A) :- session(Session: S, Next: N, Ack: A);",
            "? m(N, A) :- namenode(N, _, A, _);",
        ] {
            let mut rows = client.query(query, 100_000).await?.rows;
            rows.sort();
            text += &format!("[{}] ", rows.join(" "));
        }
        client.close().await?;
        Ok(text)
    }
}

async fn run(world: &World) -> Result<()> {
    let mut group = Group::start(world, 3).await?;
    let io = world.node("user");
    let shared = Arc::new(Shared::new(io.clone(), Duration::from_millis(15), false));
    let clients: Vec<_> = (1..=3)
        .map(|number| tokio::spawn(work(shared.clone(), group.addrs(), number)))
        .collect();
    let started = io.mono_ns();
    while Duration::from_nanos(io.mono_ns() - started) < TROUBLE {
        group.harm().await?;
        let pause = 20 + group.draw(400) as u64;
        io.sleep(Duration::from_millis(pause)).await;
    }
    group.calm().await?;
    io.sleep(Duration::from_secs(4)).await;
    // It serves again.
    let client = Client::connect(io.clone(), Config::new(group.addrs(), "after")).await?;
    let place = At {
        base: Ino::ROOT,
        path: vec![b"after".to_vec()],
    };
    client.mkdir(&Caller::default(), &place, 0o755).await?;
    client.close().await?;
    shared.stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.await??;
    }
    let mut directories = by_directory(shared.recorder.take());
    let names: Vec<String> = directories.keys().cloned().collect();
    list_all(&shared, group.addrs(), &names).await?;
    for (name, mut more) in by_directory(shared.recorder.take()) {
        directories.entry(name).or_default().append(&mut more);
    }
    let done: usize = directories.values().map(Vec::len).sum();
    world.note(&format!(
        "{done} operations in {} directories",
        directories.len()
    ));
    ensure!(done > 50, "only {done} operations were done");
    let losses = broken(&directories);
    ensure!(losses.is_empty(), "{losses:#?}");
    group.settle().await
}

fn number(name: &str, otherwise: u64) -> Result<u64> {
    match std::env::var(name) {
        Ok(text) => text.parse().with_context(|| name.to_owned()),
        Err(_) => Ok(otherwise),
    }
}

#[test]
fn nothing_is_lost_whatever_goes_wrong() -> Result<()> {
    let from = number("BOOMFS_SIM_SEED", 1)?;
    let count = number("BOOMFS_SIM_SEEDS", 25)?;
    for seed in from..from + count {
        let world = World::new(seed);
        let done = world.run(run(&world));
        done.with_context(|| {
            format!(
                "again: BOOMFS_SIM_SEED={seed} BOOMFS_SIM_SEEDS=1 cargo test -p boomfs-tests --test simulation nothing_is_lost"
            )
        })?;
    }
    Ok(())
}

#[test]
fn one_seed_of_trouble_is_one_run() -> Result<()> {
    let traced = || -> Result<String> {
        let world = World::new(77);
        world.run(run(&world))?;
        Ok(world.trace())
    };
    trace::same(&traced()?, &traced()?)
}
