//! One NameNode, three DataNodes and a client do ordinary work, and two of them crash on the way.

use crate::cluster::{BLOCK, Cluster, noted};
use crate::trace;
use crate::user::{User, pattern};
use anyhow::{Context, Result, ensure};
use boomfs_io::sim::World;
use std::time::Duration;

/// A cluster and its user, with some files in it.
async fn start(world: &World) -> Result<(Cluster, User)> {
    let cluster = Cluster::start(world, 3).await?;
    let mut user = User::new(world, &cluster).await?;
    user.make_directory("d").await?;
    user.create("d/big").await?;
    user.write("d/big", 0, pattern(1, 4 * BLOCK + 12_345))
        .await?;
    user.check().await?;
    user.append("d/big", pattern(2, BLOCK)).await?;
    user.write("d/big", BLOCK - 1_000, pattern(3, BLOCK + 2_000))
        .await?;
    user.create("d/holes").await?;
    user.write("d/holes", 3 * BLOCK + 7, pattern(4, 100))
        .await?;
    user.create("d/old").await?;
    user.write("d/old", 0, pattern(5, 5_000)).await?;
    user.create("gone").await?;
    user.write("gone", 0, pattern(6, 70_000)).await?;
    user.rename("d/old", "new").await?;
    user.unlink("gone").await?;
    user.check().await?;
    Ok((cluster, user))
}

async fn work(world: &World) -> Result<()> {
    let (mut cluster, mut user) = start(world).await?;

    cluster.crash_datanode(2);
    user.check().await?;
    user.append("new", pattern(7, 9_000)).await?;
    user.write("d/big", 2 * BLOCK + 5, pattern(8, 20_000))
        .await?;
    user.create("small").await?;
    user.write("small", 0, pattern(9, 3)).await?;
    user.check().await?;
    user.short_of_replicas().await?;
    cluster.start_datanode(2).await?;
    user.repaired().await?;
    // What was repaired is right, too: it alone is left.
    cluster.crash_datanode(1);
    cluster.crash_datanode(3);
    user.check().await?;
    cluster.start_datanode(1).await?;
    cluster.start_datanode(3).await?;
    user.repaired().await?;
    user.check().await?;

    cluster.crash_namenode();
    cluster.start_namenode().await?;
    user.check().await?;
    user.append("d/big", pattern(10, 10_000)).await?;
    user.rename("small", "d/big2").await?;
    user.repaired().await?;
    user.check().await?;

    // Longer than a session lasts that is not renewed, and than a silent DataNode counts as alive.
    user.io.sleep(Duration::from_secs(60)).await;
    user.append("d/big2", pattern(11, BLOCK)).await?;
    user.check().await?;

    // Another client, with nothing in its memory, sees the same.
    noted(world, "close", user.client.close()).await?;
    user.client = cluster.client("other").await?;
    user.check().await?;
    noted(world, "close", user.client.close()).await?;
    cluster.stop().await
}

/// A world in which the work was done.
fn worked(seed: u64) -> Result<World> {
    let world = World::new(seed);
    let done = world.run(work(&world));
    done.with_context(|| format!("with seed {seed}"))?;
    Ok(world)
}

#[test]
fn one_seed_is_one_run() -> Result<()> {
    let first = worked(1)?;
    println!(
        "{:?} of virtual time, {} lines of trace",
        first.elapsed(),
        first.trace().lines().count()
    );
    trace::same(&first.trace(), &worked(1)?.trace())?;
    ensure!(
        first.trace() != worked(2)?.trace(),
        "another seed is the same run"
    );
    Ok(())
}
