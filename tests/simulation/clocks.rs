//! Clocks that differ by more than leases allow for: reads that are confirmed do not mind.

use crate::faults::Fault;
use crate::group::Group;
use anyhow::{Context, Result, ensure};
use boomfs_client::{At, Caller, Client, Config, Ino, errno};
use boomfs_io::sim::World;
use boomfs_namenode::Reads;
use std::time::Duration;

/// How many seeds are tried.
const SEEDS: u64 = 30;
/// How far the leader's clock is behind, and the others' ahead, millionths.
const APART: i64 = 400_000;

fn place() -> At {
    At {
        base: Ino::ROOT,
        path: vec![b"new".to_vec()],
    }
}

fn config(addrs: Vec<String>, name: &str) -> Config {
    Config {
        deadline: Duration::from_secs(1),
        ..Config::new(addrs, name)
    }
}

/// A leader is cut off from the other NameNodes, but not from one who reads. What another one acknowledges meanwhile must
/// be seen by who begins to read after that. Gives how many reads did not see it.
async fn stale_reads(world: &World, reads: Reads) -> Result<usize> {
    let group = Group::start_with(world, 3, 0, reads).await?;
    let io = world.node("user");
    let writer = Client::connect(io.clone(), config(group.addrs(), "user")).await?;
    let (_, leader) = writer.status().await?.ballot.context("nobody leads")?;
    let leader = usize::try_from(leader.0)? - 1;
    let at_leader = config(vec![group.addr(leader)], "look");
    let reader = Client::connect(world.node("look"), at_leader).await?;
    reader.lookup(&Caller::default(), &place(), true).await.ok();
    for at in 0..3 {
        let ppm = if at == leader { -APART } else { APART };
        group.harm(Fault::Drift(at, ppm));
    }
    let reading = tokio::spawn({
        let io = io.clone();
        async move {
            let mut missed = Vec::new();
            loop {
                let begun = io.mono_ns();
                match reader.lookup(&Caller::default(), &place(), true).await {
                    Err(e) if e.errno() == errno::ENOENT => missed.push(begun),
                    // It is seen, or who was asked leads no more.
                    Ok(_) | Err(_) => break,
                }
                io.sleep(Duration::from_millis(2)).await;
            }
            missed
        }
    });
    io.sleep(Duration::from_millis(500)).await;
    let cut = io.mono_ns();
    group.harm(Fault::Apart(leader));
    world.partition(&group.host(leader), "user", true);
    writer.mkdir(&Caller::default(), &place(), 0o755).await?;
    let acked = io.mono_ns();
    let missed = reading.await?;
    group.harm(Fault::Join);
    for at in 0..3 {
        group.harm(Fault::Drift(at, 0));
    }
    group.settle().await?;
    let answered = missed.iter().filter(|begun| **begun < cut).count();
    ensure!(
        answered > 50,
        "{answered} reads were answered before the cut"
    );
    Ok(missed.iter().filter(|begun| **begun > acked).count())
}

fn in_all(reads: Reads) -> Result<usize> {
    (1..=SEEDS)
        .map(|seed| {
            let world = World::new(seed);
            world.run(stale_reads(&world, reads))
        })
        .sum()
}

#[test]
fn one_namenode_confirms_its_reads_itself() -> Result<()> {
    let world = World::new(1);
    world.run(async {
        let group = Group::start_with(&world, 1, 0, Reads::Confirm).await?;
        let client = Client::connect(world.node("user"), config(group.addrs(), "user")).await?;
        let made = client.mkdir(&Caller::default(), &place(), 0o755).await?;
        let found = client.lookup(&Caller::default(), &place(), true).await?;
        ensure!(made.ino == found.ino, "{made:?} is not {found:?}");
        client.close().await?;
        group.settle().await
    })
}

#[test]
fn confirmed_reads_are_right_whatever_the_clocks_do() -> Result<()> {
    assert_eq!(in_all(Reads::Confirm)?, 0);
    // What they are held against does happen.
    assert!(in_all(Reads::Lease)? > 0);
    Ok(())
}
