//! What a crash or a cut takes from a replica is never read, nor made up for.

use crate::cluster::Cluster;
use crate::user::{User, pattern};
use anyhow::{Result, ensure};
use boomfs_io::sim::{Unsynced, World};
use bytes::Bytes;
use std::time::Duration;

/// Each of three DataNodes alone has everything.
async fn check_each(user: &User) -> Result<()> {
    let cut = |number: u32, on| user.world.partition("user", &format!("dn{number}"), on);
    for number in 1..=3 {
        for other in (1..=3).filter(|other| *other != number) {
            cut(other, true);
        }
        user.check().await?;
        (1..=3).for_each(|other| cut(other, false));
    }
    Ok(())
}

/// Two of three DataNodes lose in a power cut what `close` had left in memory. The one that has it makes up for it,
/// and whoever writes on must not find zeros in its place.
#[test]
fn bytes_that_a_power_cut_took_come_back_from_another_replica() -> Result<()> {
    for writes_first in [false, true] {
        let world = World::new(11);
        let done: Result<()> = world.run(async {
            let mut cluster = Cluster::start(&world, 3).await?;
            let mut user = User::new(&world, &cluster).await?;
            user.create("f").await?;
            // With a part on disk, so that the replica is there after the power cut, and short.
            user.append("f", pattern(1, 3_000)).await?;
            user.write("f", 3_000, pattern(3, 2_000)).await?;
            for number in [1, 3] {
                cluster.crash_datanode_with(number, Unsynced::Lost);
                cluster.start_datanode(number).await?;
            }
            if !writes_first {
                user.repaired().await?;
                check_each(&user).await?;
            }
            user.append("f", pattern(2, 10_000)).await?;
            user.check().await?;
            user.repaired().await?;
            check_each(&user).await?;
            cluster.stop().await
        });
        done?;
    }
    Ok(())
}

/// A DataNode is cut off from the others, but not from the NameNode, at each moment of an overwrite. Whether it took
/// part is unknown to the others then: what it has of before must not be read afterwards.
#[test]
fn a_replica_that_missed_an_overwrite_is_not_read() -> Result<()> {
    let world = World::new(12);
    world.run(async {
        let cluster = Cluster::start(&world, 3).await?;
        let mut user = User::new(&world, &cluster).await?;
        let cut = |on| {
            for other in ["dn1", "dn2", "user"] {
                world.partition("dn3", other, on);
            }
        };
        let mut missed = 0;
        for moment in 0..40 {
            let name = format!("f{moment}");
            let (old, new) = (pattern(moment, 2_000), pattern(moment + 100, 2_000));
            user.create(&name).await?;
            user.write(&name, 0, old.clone()).await?;
            user.repaired().await?;
            let ino = user.ino(&name).await?;
            let writer = user.client.open_write(&user.caller, ino).await?;
            writer.write_at(0, Bytes::from(new.clone())).await?;
            let closing = writer.close();
            let cutting = async {
                user.io.sleep(Duration::from_millis(moment)).await;
                cut(true);
            };
            let (closed, ()) = tokio::join!(closing, cutting);
            closed?;
            // Only the one that was cut off can be reached.
            cut(false);
            for other in ["dn1", "dn2"] {
                world.partition("user", other, true);
                world.partition("dn3", other, true);
            }
            let reader = cluster.client("reader").await?;
            for other in ["dn1", "dn2"] {
                world.partition("reader", other, true);
            }
            let read = reader.open_read(ino).await?.read_at(0, 2_000).await;
            world.note(&format!("read {name} from dn3: {read:?}"));
            match read {
                Ok(bytes) => ensure!(bytes == new, "moment {moment}: old bytes were read"),
                Err(_) => missed += 1,
            }
            for other in ["dn1", "dn2"] {
                world.partition("user", other, false);
                world.partition("reader", other, false);
                world.partition("dn3", other, false);
            }
        }
        ensure!((1..40).contains(&missed), "{missed} of 40 were missed");
        cluster.stop().await
    })
}
