//! Mistakes planted in the shell and in the rules of the log: trouble must show each of them. Those of the Paxos rules
//! are found faster by the rules alone (`namenode/tests/suite/mistakes.rs`).

use super::{Run, failure, first};
use crate::group::Group;
use anyhow::{Result, ensure};
use boomfs_client::{At, Caller, Client, Config, Ino};
use boomfs_io::sim::World;
use boomfs_namenode::planted::{Mistake, plant};

/// Seeds in which a mistake must show.
const SEEDS: u64 = 500;

/// What somebody could do wrong, and whether whoever loses its disk is made again as it was.
const MISTAKES: &[(&str, Option<Mistake>)] = &[
    (
        "promises and votes are told before they are stored",
        Some(Mistake::TellsBeforeStored),
    ),
    (
        "a checkpoint lacks the last slot",
        Some(Mistake::CheckpointLacksLastSlot),
    ),
    (
        "a checkpoint lacks some rows",
        Some(Mistake::CheckpointLacksRows),
    ),
    (
        "votes are dropped that no checkpoint holds",
        Some(Mistake::TruncatesTooFar),
    ),
    (
        "an old leader still answers reads",
        Some(Mistake::ReadsWithoutLease),
    ),
    (
        "the last slot is not applied again after a start",
        Some(Mistake::ReplayLeavesOutLast),
    ),
    (
        "a slot is noted as decided before it is",
        Some(Mistake::NotesAppliedTooSoon),
    ),
    ("one that lost its disk votes as before", None),
    (
        "a retry is applied twice",
        Some(Mistake::Rule(
            "expects(S, max(N, A + 1), Old) :- acks",
            "expects(S, A + 1, Old) :- acks",
        )),
    ),
];

/// How a mistake shows with a seed, if it does.
fn shows(mistake: Option<Mistake>, seed: u64) -> Option<String> {
    plant(mistake);
    let run = Run {
        datanodes: 0,
        made_again: mistake.is_none(),
        ..Run::new(seed, None)
    };
    let shows = failure(&run);
    plant(None);
    shows
}

/// Two NameNodes go on without the one that has made something else of the log.
#[test]
fn who_has_another_state_than_the_leader_stops() -> Result<()> {
    let world = World::new(5);
    let why = world.run(async {
        let group = Group::start(&world, 3, 0).await?;
        plant(group.nonce(2).map(Mistake::LeavesOutSlots));
        let client =
            Client::connect(world.node("user"), Config::new(group.addrs(), "user")).await?;
        for number in 0..100 {
            let place = At {
                base: Ino::ROOT,
                path: vec![format!("d{number}").into_bytes()],
            };
            client.mkdir(&Caller::default(), &place, 0o755).await?;
        }
        group.why_ended(2).await
    });
    plant(None);
    let why = why?;
    ensure!(why.contains("the leader's has"), "{why}");
    Ok(())
}

/// `BOOMFS_MISTAKE` names one, or those with a word in common.
#[test]
fn mistakes_in_the_shell_are_found() -> Result<()> {
    let only = std::env::var("BOOMFS_MISTAKE").unwrap_or_default();
    let mut missed = Vec::new();
    for (name, mistake) in MISTAKES.iter().filter(|(name, _)| name.contains(&only)) {
        let how = |seed| shows(*mistake, seed).map(|why| (seed, why));
        match first(1..=SEEDS, how) {
            Some((seed, why)) => {
                let line = why.lines().next().unwrap_or_default();
                println!("found with seed {seed}: {name}: {line:.200}");
            }
            None => missed.push(*name),
        }
    }
    ensure!(
        missed.is_empty(),
        "not found with {SEEDS} seeds: {missed:#?}"
    );
    Ok(())
}
