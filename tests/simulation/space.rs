//! Full disks of NameNodes.

use crate::group::Group;
use anyhow::{Context, Result, bail, ensure};
use boomfs_client::{At, Caller, Client, Config, Ino, errno};
use boomfs_io::sim::World;
use std::time::Duration;

/// Directories that are made while a disk is full: more than fit into what is kept in reserve.
const MANY: usize = 1_500;

fn place(name: &str) -> At {
    At {
        base: Ino::ROOT,
        path: vec![name.as_bytes().to_vec()],
    }
}

/// The one that leads.
async fn leader(client: &Client) -> Result<usize> {
    let (_, node) = client.status().await?.ballot.context("nobody leads")?;
    Ok(usize::try_from(node.0)? - 1)
}

async fn make(client: &Client, name: &str) -> Result<(), boomfs_client::Error> {
    client
        .mkdir(&Caller::default(), &place(name), 0o755)
        .await
        .map(|_| ())
}

#[test]
fn a_leader_whose_disk_is_full_makes_way() -> Result<()> {
    let world = World::new(31);
    world.run(async {
        let group = Group::start(&world, 3, 0).await?;
        let client =
            Client::connect(world.node("user"), Config::new(group.addrs(), "user")).await?;
        make(&client, "before").await?;
        let first = leader(&client).await?;
        world.set_capacity(&group.host(first), 0);
        for n in 0..MANY {
            make(&client, &format!("d{n}")).await?;
        }
        let second = leader(&client).await?;
        ensure!(second != first, "NameNode {first} leads on");
        // The others' disks fill up too: what is to be stored is refused, and reading goes on.
        for at in 0..3 {
            world.set_capacity(&group.host(at), 0);
        }
        let io = world.node("user");
        let mut refused = None;
        for n in 0..MANY {
            match make(&client, &format!("e{n}")).await {
                Ok(()) => {}
                Err(e) if e.errno() == errno::ENOSPC => {
                    refused = Some(n);
                    break;
                }
                Err(e) => bail!("{e}"),
            }
        }
        refused.context("nothing was refused")?;
        client
            .lookup(&Caller::default(), &place("before"), true)
            .await?;
        // There is room again.
        for at in 0..3 {
            world.set_capacity(&group.host(at), 1 << 40);
        }
        io.sleep(Duration::from_secs(1)).await;
        for n in 0..MANY {
            make(&client, &format!("f{n}")).await?;
        }
        client.close().await?;
        group.settle().await
    })
}
