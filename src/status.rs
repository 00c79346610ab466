//! `boomfs status`: nodes, capacity and health.

use crate::cli::Find;
use crate::{cluster, output};
use boomfs_client::{NameNodeStatus, Status};
use serde_json::{Value, json};

/// Arguments of `boomfs status`.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    find: Find,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Ask any NameNode, also one that does not lead: what it says of the others is not known to it
    #[arg(long)]
    stale: bool,
}

/// Shows it.
///
/// # Errors
/// The cluster cannot be reached.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let client = cluster::observe(&args.find, "status", args.stale).await?;
    let status = client.status().await?;
    let id = client.cluster().0;
    client.close().await?;
    if args.json {
        return output::json(&as_json(id, &status));
    }
    output::line(&format!("cluster {id:016x}: {}", verdict(&status)))?;
    output::line(&namenodes(&status))?;
    output::line(&nodes(&status))?;
    for fact in facts(&status) {
        output::line(&fact)?;
    }
    Ok(())
}

fn live(status: &Status) -> usize {
    status.nodes.iter().filter(|node| node.live).count()
}

/// The one line that says how it is.
fn verdict(status: &Status) -> String {
    let (live, all) = (live(status), status.nodes.len());
    let wanted = status.space.replication;
    let mut wrong = Vec::new();
    if status.starting {
        wrong.push("starting: not all known DataNodes have reported yet".to_owned());
    }
    let votes = status.namenodes.iter().filter(|n| n.votes);
    let (voters, silent) = (votes.clone().count(), votes.filter(|n| !n.live).count());
    if status.ballot.is_some() && silent > 0 {
        let more = (voters - 1) / 2 - silent.min((voters - 1) / 2);
        let left = match more {
            0 => "none more may fail".to_owned(),
            n => format!("{n} more may fail"),
        };
        wrong.push(format!(
            "{silent} of {voters} NameNodes do not answer, {left}"
        ));
    }
    if live == 0 {
        wrong.push(
            "no DataNode is live, nothing can be read or written; start one with `boomfs datanode`"
                .to_owned(),
        );
    } else if (live as u64) < u64::from(wanted) {
        wrong.push(format!(
            "too few DataNodes: {live} live, but {wanted} replicas of each block are wanted"
        ));
    } else if live < all {
        wrong.push(format!("{} of {all} DataNodes do not answer", all - live));
    }
    if status.missing > 0 {
        wrong.push(format!(
            "{} blocks have no replica that is live",
            status.missing
        ));
    }
    if status.under_replicated > status.missing {
        let few = status.under_replicated - status.missing;
        wrong.push(format!("{few} blocks have fewer replicas than wanted"));
    }
    if wrong.is_empty() {
        "healthy".into()
    } else {
        wrong.join("; ")
    }
}

fn namenodes(status: &Status) -> String {
    let mut table = output::table(&["NameNode", "address", "role", "state", "slot", "lag"]);
    for node in &status.namenodes {
        let lag = status.applied_slot.saturating_sub(node.slot);
        table.add_row([
            node.node.to_string(),
            output::plain(&node.addr),
            role(status, node).to_owned(),
            if node.live { "live" } else { "silent" }.to_owned(),
            node.slot.to_string(),
            lag.to_string(),
        ]);
    }
    table.to_string()
}

fn role(status: &Status, node: &NameNodeStatus) -> &'static str {
    match status.ballot {
        Some((_, leader)) if leader == node.node => "leader",
        _ if node.votes => "follower",
        _ => "learner",
    }
}

fn nodes(status: &Status) -> String {
    let mut table = output::table(&["DataNode", "address", "state", "capacity", "free", "blocks"]);
    for node in &status.nodes {
        table.add_row([
            node.node.to_string(),
            output::plain(&node.addr),
            if node.live { "live" } else { "dead" }.to_owned(),
            output::size(node.capacity),
            output::size(node.free),
            node.blocks.to_string(),
        ]);
    }
    table.to_string()
}

fn facts(status: &Status) -> Vec<String> {
    let space = &status.space;
    vec![
        format!(
            "space: {} free of {}; files take it {} times",
            output::size(space.free),
            output::size(space.capacity),
            space.replication
        ),
        format!(
            "inodes: {}, blocks: {} of at most {}, under-replicated: {}, missing: {}",
            space.inodes,
            space.blocks,
            output::size(space.block_size),
            status.under_replicated,
            status.missing
        ),
        format!(
            "sessions: {}, applied slot: {}, ballot: {}",
            status.sessions,
            status.applied_slot,
            status.ballot.map_or_else(
                || "none".to_owned(),
                |(round, node)| format!("{round} of NameNode {node}")
            )
        ),
    ]
}

fn as_json(id: u64, status: &Status) -> Value {
    let nodes: Vec<Value> = status
        .nodes
        .iter()
        .map(|node| {
            json!({
                "node": node.node.0, "addr": node.addr, "live": node.live,
                "capacity": node.capacity, "free": node.free, "blocks": node.blocks,
            })
        })
        .collect();
    let namenodes: Vec<Value> = status
        .namenodes
        .iter()
        .map(|node| {
            json!({
                "node": node.node.0, "addr": node.addr, "role": role(status, node),
                "votes": node.votes, "live": node.live, "slot": node.slot,
            })
        })
        .collect();
    let space = &status.space;
    json!({
        "cluster": format!("{id:016x}"),
        "healthy": verdict(status) == "healthy",
        "verdict": verdict(status),
        "starting": status.starting,
        "namenodes": namenodes,
        "leader": status.ballot.map(|(_, node)| node.0),
        "ballot": status.ballot.map(|(round, _)| round),
        "datanodes": nodes,
        "live": live(status),
        "under_replicated": status.under_replicated,
        "missing": status.missing,
        "sessions": status.sessions,
        "applied_slot": status.applied_slot,
        "capacity": space.capacity,
        "free": space.free,
        "inodes": space.inodes,
        "blocks": space.blocks,
        "replication": space.replication,
        "block_size": space.block_size,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use boomfs_client::{NodeId, NodeStatus, StatFs};

    fn status(live: &[bool], missing: u64, under: u64) -> Status {
        let node = |live: &bool| NodeStatus {
            node: Default::default(),
            addr: "a:1".into(),
            live: *live,
            capacity: 0,
            free: 0,
            blocks: 0,
        };
        Status {
            nodes: live.iter().map(node).collect(),
            space: StatFs {
                replication: 3,
                ..StatFs::default()
            },
            missing,
            under_replicated: under,
            ..Status::default()
        }
    }

    #[test]
    fn the_verdict_names_what_is_wrong() {
        assert_eq!(verdict(&status(&[true; 3], 0, 0)), "healthy");
        assert_eq!(
            verdict(&status(&[true, true, true, false], 0, 0)),
            "1 of 4 DataNodes do not answer"
        );
        let few = verdict(&status(&[true, false], 1, 3));
        assert_eq!(
            few,
            "too few DataNodes: 1 live, but 3 replicas of each block are wanted; 1 blocks have no replica that is live; \
             2 blocks have fewer replicas than wanted"
        );
        assert!(verdict(&status(&[], 0, 0)).starts_with("no DataNode is live"));
        let mut five = status(&[true; 3], 0, 0);
        five.ballot = Some((3, NodeId(1)));
        five.namenodes = (1..=5)
            .map(|node| NameNodeStatus {
                node: NodeId(node),
                addr: "a:1".into(),
                votes: true,
                slot: 1,
                live: node != 4,
            })
            .collect();
        assert_eq!(
            verdict(&five),
            "1 of 5 NameNodes do not answer, 1 more may fail"
        );
        assert_eq!(role(&five, &five.namenodes[0]), "leader");
    }
}
