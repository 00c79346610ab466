//! Changing which NameNodes a cluster has.

use crate::cluster;
use anyhow::{Context, anyhow, bail};
use boomfs_client::{Client, Error, NameNodeStatus, NodeId, errno};
use boomfs_io::Io;
use std::time::Duration;

/// How long a change may take until it is in force: a new NameNode may have to fetch the whole state.
const IN_FORCE: Duration = Duration::from_secs(120);
/// How often to ask.
const POLL: Duration = Duration::from_millis(50);

/// Admits a NameNode, unless it is a member, and waits until it votes.
///
/// # Errors
/// The cluster refuses, or it does not come to vote in time.
pub async fn admit(io: &Io, client: &Client, addr: &str, nonce: u64) -> anyhow::Result<NodeId> {
    add(io, client, addr, nonce, NodeId(0)).await
}

/// Admits a NameNode in the place of another one, or of none (0), and waits until it votes.
///
/// # Errors
/// As [`admit`].
pub async fn add(
    io: &Io,
    client: &Client,
    addr: &str,
    nonce: u64,
    replaces: NodeId,
) -> anyhow::Result<NodeId> {
    let caller = cluster::caller()?;
    let what = || format!("cannot admit NameNode {addr}");
    let started = io.mono_ns();
    let node = loop {
        match client.add_namenode(&caller, addr, nonce, replaces).await {
            Ok(node) => break node,
            Err(Error::Refused(failure))
                if failure.errno == errno::EBUSY && in_time(io, started) =>
            {
                io.sleep(POLL).await;
            }
            Err(why) => return Err(why).with_context(what),
        }
    };
    wait(
        io,
        client,
        &format!("NameNode {node} at {addr} has no vote"),
        |all| all.iter().any(|n| n.node == node && n.votes),
    )
    .await?;
    Ok(node)
}

/// Takes a NameNode's vote away, and waits until it has none.
///
/// # Errors
/// The cluster refuses, or it does not happen in time.
pub async fn remove(io: &Io, client: &Client, node: NodeId) -> anyhow::Result<()> {
    let caller = cluster::caller()?;
    let started = io.mono_ns();
    loop {
        match client.remove_namenode(&caller, node).await {
            Ok(()) => break,
            Err(Error::Refused(failure))
                if failure.errno == errno::EBUSY && in_time(io, started) =>
            {
                io.sleep(POLL).await;
            }
            Err(why) => return Err(why).with_context(|| format!("cannot remove NameNode {node}")),
        }
    }
    wait(io, client, &format!("NameNode {node} still votes"), |all| {
        all.iter().all(|n| n.node != node || !n.votes)
    })
    .await
}

/// Hands leadership over, and waits until the other leads.
///
/// # Errors
/// The cluster refuses, or it does not happen in time.
pub async fn transfer(io: &Io, client: &Client, node: NodeId) -> anyhow::Result<()> {
    let caller = cluster::caller()?;
    let started = io.mono_ns();
    loop {
        let leads = client.status().await?.ballot.map(|(_, leader)| leader);
        if leads == Some(node) {
            return Ok(());
        }
        if !in_time(io, started) {
            let now =
                leads.map_or_else(|| "none does".to_owned(), |n| format!("NameNode {n} does"));
            bail!("NameNode {node} does not lead: {now}; is it running, and has it caught up?");
        }
        client
            .transfer(&caller, node)
            .await
            .with_context(|| format!("cannot hand over to NameNode {node}"))?;
        io.sleep(POLL * 10).await;
    }
}

fn in_time(io: &Io, started: u64) -> bool {
    Duration::from_nanos(io.mono_ns().saturating_sub(started)) < IN_FORCE
}

async fn wait(
    io: &Io,
    client: &Client,
    missing: &str,
    fits: impl Fn(&[NameNodeStatus]) -> bool,
) -> anyhow::Result<()> {
    let started = io.mono_ns();
    while !fits(&client.status().await?.namenodes) {
        if !in_time(io, started) {
            return Err(anyhow!(
                "{missing} after {} s; is it running, and can the others reach it?",
                IN_FORCE.as_secs()
            ));
        }
        io.sleep(POLL).await;
    }
    Ok(())
}
