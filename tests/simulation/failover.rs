//! NameNodes, DataNodes and their clients in one world, in which everything goes wrong for a while, and then nothing.
//!
//! What goes wrong is in [`Fault`](crate::faults::Fault). In the calm after it the cluster must serve again, every file
//! that was synced must be there, all NameNodes must have applied the same slots to the same state, and what the clients
//! saw must be linearizable.
//!
//! `BOOMFS_SIM_SEEDS` is how many seeds are run (default 250), `BOOMFS_SIM_SEED` where they start. A failure prints the
//! command that runs its seed alone, with as few faults as still make it fail: `BOOMFS_SIM_FAULTS` says which of them.
//! `BOOMFS_SIM_TRACES` names a file for a checksum of each seed's trace.

#[path = "mistakes.rs"]
mod mistakes;

use crate::faults::{self, Planned, kept};
use crate::group::Group;
use crate::trace;
use anyhow::{Context, Result, bail, ensure};
use boomfs_client::{At, Caller, Client, Config, Ino};
use boomfs_drill::drill::{broken, by_directory};
use boomfs_drill::workload::{Habit, Shared, list_all, work};
use boomfs_io::sim::World;
use boomfs_namenode::Reads;
use std::collections::BTreeSet;
use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Write;
use std::ops::RangeInclusive;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// How long things go wrong, in virtual time, ms.
const TROUBLE_MS: u64 = 4_000;
/// Runs that may be spent on finding which faults matter.
const SHRINK_TRIES: usize = 60;
/// NameNodes of most seeds.
const NAMENODES: usize = 3;
/// DataNodes.
const DATANODES: usize = 3;
/// What the clients do.
const HABITS: [Habit; 3] = [Habit::Changes, Habit::Changes, Habit::Reads];

/// One run: a world, and what happens in it.
struct Run {
    world: World,
    /// Which of the planned faults happen; `None`: all.
    kept: Option<BTreeSet<usize>>,
    datanodes: usize,
    /// Whoever loses its disk comes back under its old identity.
    made_again: bool,
    reads: Reads,
}

impl Run {
    fn new(seed: u64, kept: Option<BTreeSet<usize>>) -> Run {
        Run {
            world: World::new(seed),
            kept,
            datanodes: DATANODES,
            made_again: false,
            reads: match seed % 4 {
                0 => Reads::Confirm,
                _ => Reads::Lease,
            },
        }
    }

    fn plan(&self) -> Vec<(usize, Planned)> {
        let all = faults::plan(
            &self.world.node("fate"),
            NAMENODES,
            self.datanodes,
            TROUBLE_MS,
            match self.reads {
                Reads::Lease => faults::DRIFT,
                Reads::Confirm => faults::WILD_DRIFT,
            },
        );
        let happens = |(number, _): &(usize, Planned)| {
            self.kept.as_ref().is_none_or(|kept| kept.contains(number))
        };
        all.into_iter().enumerate().filter(happens).collect()
    }

    fn done(&self) -> Result<()> {
        self.world.run(self.trouble())
    }

    async fn trouble(&self) -> Result<()> {
        let world = &self.world;
        let plan = self.plan();
        let mut group = Group::start_with(world, NAMENODES, self.datanodes, self.reads).await?;
        group.made_again = self.made_again;
        let io = world.node("user");
        let shared = Arc::new(Shared::new(
            io.clone(),
            Duration::from_millis(40),
            self.datanodes > 0,
            Ino::ROOT,
        ));
        let clients: Vec<_> = HABITS
            .into_iter()
            .zip(1..)
            .map(|(habit, number)| tokio::spawn(work(shared.clone(), group.addrs(), number, habit)))
            .collect();
        let started = io.mono_ns();
        for (number, Planned { at_ms, fault }) in plan {
            let due = Duration::from_millis(at_ms);
            let passed = Duration::from_nanos(io.mono_ns() - started);
            io.sleep(due.saturating_sub(passed)).await;
            world.note(&format!("{number}: {fault:?}"));
            group.harm(fault);
        }
        group.calm().await?;
        io.sleep(Duration::from_secs(2)).await;
        // It serves again.
        let client = Client::connect(io.clone(), Config::new(group.addrs(), "after")).await?;
        let place = At {
            base: Ino::ROOT,
            path: vec![b"after".to_vec()],
        };
        client.mkdir(&Caller::default(), &place, 0o755).await?;
        client.close().await?;
        let errors = shared.errors.load(Ordering::Relaxed);
        shared.stop.store(true, Ordering::Relaxed);
        for client in clients {
            client.await??;
        }
        let more = shared.errors.load(Ordering::Relaxed) - errors;
        ensure!(more == 0, "{more} operations failed in the calm");
        check_histories(world, &shared, &group).await?;
        group.settle().await
    }
}

async fn check_histories(world: &World, shared: &Arc<Shared>, group: &Group) -> Result<()> {
    let mut directories = by_directory(shared.recorder.take());
    let names: Vec<String> = directories.keys().cloned().collect();
    list_all(shared, group.addrs(), &names).await?;
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
    Ok(())
}

/// Tries seeds in as many threads as there are processors, until one gives something.
fn first<T: Send>(seeds: RangeInclusive<u64>, of: impl Fn(u64) -> Option<T> + Sync) -> Option<T> {
    let next = AtomicU64::new(*seeds.start());
    let over = AtomicBool::new(false);
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    let work = || {
        while !over.load(Ordering::Relaxed) {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if !seeds.contains(&seed) {
                break;
            }
            let found = of(seed);
            if found.is_some() {
                over.store(true, Ordering::Relaxed);
                return found;
            }
        }
        None
    };
    std::thread::scope(|scope| {
        let all: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        let ended = all.into_iter().filter_map(|worker| worker.join().ok());
        ended.flatten().next()
    })
}

fn number(name: &str, otherwise: u64) -> Result<u64> {
    match std::env::var(name) {
        Ok(text) => text.parse().with_context(|| name.to_owned()),
        Err(_) => Ok(otherwise),
    }
}

/// Why a run fails, if it does; a panic is a failure too.
fn failure(run: &Run) -> Option<String> {
    match catch_unwind(AssertUnwindSafe(|| run.done())) {
        Ok(Ok(())) => None,
        Ok(Err(why)) => Some(format!("{why:#}")),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
            Some(text.unwrap_or_else(|| "a panic".to_owned()))
        }
    }
}

/// Which faults of a failing seed matter, and the command that runs it with these alone.
fn report(seed: u64, why: &str) -> String {
    let all: BTreeSet<usize> = (0..Run::new(seed, None).plan().len()).collect();
    let few = faults::shrink(all, SHRINK_TRIES, |kept| {
        failure(&Run::new(seed, Some(kept.clone()))).is_some()
    });
    let list: Vec<String> = few.iter().map(usize::to_string).collect();
    let lines: Vec<String> = Run::new(seed, Some(few.clone()))
        .plan()
        .iter()
        .map(|(number, planned)| format!("  {number}: at {} ms {:?}", planned.at_ms, planned.fault))
        .collect();
    format!(
        "seed {seed}: {why}\nenough for it:\n{}\nagain: BOOMFS_SIM_SEED={seed} BOOMFS_SIM_SEEDS=1 BOOMFS_SIM_FAULTS={} cargo test -p boomfs-tests --test simulation nothing_is_lost",
        lines.join("\n"),
        list.join(",")
    )
}

/// The file for checksums of traces, if one is asked for.
#[expect(
    clippy::disallowed_methods,
    reason = "what a developer asks for is written to a real disk"
)]
fn sums() -> Result<Option<File>> {
    let file = std::env::var_os("BOOMFS_SIM_TRACES").map(File::create);
    file.transpose().context("BOOMFS_SIM_TRACES")
}

/// Adds a checksum of a run's trace to a file: two programs that should do the same can be compared.
fn note_sum(mut to: &File, world: &World, seed: u64) -> std::io::Result<()> {
    let mut sum = DefaultHasher::new();
    world.trace().hash(&mut sum);
    // One write: several threads write lines.
    to.write_all(format!("{seed} {:016x}\n", sum.finish()).as_bytes())
}

#[test]
fn nothing_is_lost_whatever_goes_wrong() -> Result<()> {
    let from = number("BOOMFS_SIM_SEED", 1)?;
    let count = number("BOOMFS_SIM_SEEDS", 250)?;
    let kept = kept(std::env::var("BOOMFS_SIM_FAULTS").ok().as_deref())?;
    let sums = sums()?;
    let fails = |seed| {
        let run = Run::new(seed, kept.clone());
        let why = failure(&run).or_else(|| {
            let error = note_sum(sums.as_ref()?, &run.world, seed).err()?;
            Some(format!("BOOMFS_SIM_TRACES: {error}"))
        });
        why.map(|why| (seed, why))
    };
    match first(from..=from + count - 1, fails) {
        Some((seed, why)) => bail!("{}", report(seed, &why)),
        None => Ok(()),
    }
}

/// What rots is chosen by what is there at the time, so that it might come to nothing in every run.
#[test]
fn disks_rot_and_are_refused() -> Result<()> {
    let mut missing = vec![
        "rot /namenode/log",
        "rot /namenode/checkpoints",
        "rot /namenode/local",
        "rot /datanode/blocks",
        " refuses: ",
    ];
    for seed in 1..=200 {
        let run = Run::new(seed, None);
        run.done()?;
        let trace = run.world.trace();
        missing.retain(|line| !trace.contains(line));
        if missing.is_empty() {
            println!("after {seed} seeds");
            return Ok(());
        }
    }
    bail!("in no run: {missing:?}")
}

#[test]
fn one_seed_of_trouble_is_one_run() -> Result<()> {
    let traced = || -> Result<String> {
        let run = Run::new(77, None);
        run.done()?;
        Ok(run.world.trace())
    };
    trace::same(&traced()?, &traced()?)
}
