//! Create and lookup by the NameNode's rules against the same logic on plain hash maps, alone and in
//! batches of 256, on a million files: from packed rows to packed rows. `BOOMFS_BENCH_FILES` sets another number; an argument such as
//! `create/256` runs that part alone.

use anyhow::Result;
use boomfs_benches::measure::{machine, median, resident, timed, us};
use boomfs_benches::plain::{Create, Plain, ROOT};
use boomfs_benches::rules::Rules;
use std::time::Duration;

const BATCH: usize = 256;
const ROUNDS: usize = 1_000;

fn main() -> Result<()> {
    let files = std::env::var("BOOMFS_BENCH_FILES")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(1_000_000);
    println!(
        "engine against plain hash maps, {files} files, {}",
        machine()
    );
    let before = resident("self");
    let mut rules = Rules::new(boomfs_namenode::rules::program()?)?;
    let empty = resident("self");
    let dirs = load_rules(&mut rules, files)?;
    for _ in 0..1_000 {
        rules.idle()?;
    }
    let loaded = resident("self");
    println!(
        "memory: rules and engine {} KiB, {} bytes a file",
        (empty - before) >> 10,
        (loaded - empty) / files as u64
    );
    let mut plain = Plain::new();
    let (session, mut seq, plain_dirs) = load_plain(&mut plain, files);

    let only = std::env::args().skip(1).find(|a| !a.starts_with('-'));
    for (what, batch) in [
        ("create", 1),
        ("create", BATCH),
        ("lookup", 1),
        ("lookup", BATCH),
    ] {
        if only
            .as_ref()
            .is_some_and(|o| *o != format!("{what}/{batch}"))
        {
            continue;
        }
        let (by_rules, by_hand) = if what == "create" {
            (
                create_rules(&mut rules, &dirs, batch)?,
                create_plain(&mut plain, (session, &mut seq), &plain_dirs, batch),
            )
        } else {
            (
                lookup_rules(&mut rules, &dirs, batch)?,
                lookup_plain(&plain, &plain_dirs, batch),
            )
        };
        report(what, batch, by_rules, by_hand);
    }
    Ok(())
}

fn report(what: &str, batch: usize, rules: Duration, plain: Duration) {
    let (rules, plain) = (us(rules) / batch as f64, us(plain) / batch as f64);
    println!(
        "{what:7} batch {batch:4}: rules {rules:8.2} us, plain {plain:7.3} us, ratio {:6.1}",
        rules / plain
    );
}

/// A directory for each thousand files.
fn load_rules(rules: &mut Rules, files: usize) -> Result<Vec<i64>> {
    let names: Vec<(i64, String)> = (0..files.div_ceil(1_000))
        .map(|d| (ROOT, format!("dir{d}")))
        .collect();
    let mut dirs = Vec::new();
    for part in names.chunks(BATCH) {
        dirs.extend(rules.make("mkdir", part)?);
    }
    let all: Vec<(i64, String)> = (0..files)
        .filter_map(|f| Some((*dirs.get(f / 1_000)?, format!("file-{:03}.txt", f % 1_000))))
        .collect();
    for part in all.chunks(BATCH) {
        rules.make("create", part)?;
    }
    Ok(dirs)
}

fn load_plain(plain: &mut Plain, files: usize) -> (i64, i64, Vec<i64>) {
    let session = plain.open();
    let mut seq = 0;
    let mut make = |plain: &mut Plain, parent: i64, name: String, dir: bool| {
        seq += 1;
        let create = Create {
            session,
            seq,
            ack: seq - 512,
            uid: 0,
            parent,
            name: name.as_bytes(),
            stamp: seq,
            dir,
        };
        plain
            .create(&create)
            .ok()
            .and_then(|a| a.first().copied())
            .unwrap_or_default()
    };
    let dirs: Vec<i64> = (0..files.div_ceil(1_000))
        .map(|d| make(plain, ROOT, format!("dir{d}"), true))
        .collect();
    for f in 0..files {
        let parent = dirs.get(f / 1_000).copied().unwrap_or(ROOT);
        make(plain, parent, format!("file-{:03}.txt", f % 1_000), false);
    }
    (session, seq, dirs)
}

/// Names spread over the directories.
fn names(
    dirs: &[i64],
    round: usize,
    batch: usize,
    prefix: &str,
    width: usize,
) -> Vec<(i64, String)> {
    (0..batch)
        .filter_map(|i| {
            let n = round * batch + i;
            let dir = dirs.get(n.wrapping_mul(7_919) % dirs.len())?;
            Some((*dir, format!("{prefix}-{n:0width$}.txt")))
        })
        .collect()
}

fn existing(dirs: &[i64], round: usize, batch: usize) -> Vec<(i64, String)> {
    (0..batch)
        .filter_map(|i| {
            let n = round * batch + i;
            Some((
                *dirs.get(n.wrapping_mul(7_919) % dirs.len())?,
                format!("file-{:03}.txt", n % 1_000),
            ))
        })
        .collect()
}

fn create_rules(rules: &mut Rules, dirs: &[i64], batch: usize) -> Result<Duration> {
    let mut times = Vec::new();
    for round in 0..ROUNDS {
        let part = names(dirs, round, batch, &format!("new{batch}"), 1);
        let asked = rules.ask_make("create", &part);
        let (time, outputs) = timed(|| rules.run(asked));
        rules.made("create", batch, &outputs?)?;
        times.push(time);
    }
    Ok(median(times))
}

fn create_plain(
    plain: &mut Plain,
    (session, seq): (i64, &mut i64),
    dirs: &[i64],
    batch: usize,
) -> Duration {
    let mut times = Vec::new();
    for round in 0..ROUNDS {
        let part = names(dirs, round, batch, &format!("new{batch}"), 1);
        let (time, good) = timed(|| {
            part.iter()
                .filter(|(parent, name)| {
                    *seq += 1;
                    let create = Create {
                        session,
                        seq: *seq,
                        ack: *seq - 512,
                        uid: 0,
                        parent: *parent,
                        name: name.as_bytes(),
                        stamp: *seq,
                        dir: false,
                    };
                    plain.create(&create).is_ok()
                })
                .count()
        });
        assert_eq!(good, batch, "plain creates succeed");
        times.push(time);
    }
    median(times)
}

fn lookup_rules(rules: &mut Rules, dirs: &[i64], batch: usize) -> Result<Duration> {
    let mut times = Vec::new();
    for round in 0..ROUNDS {
        let part = existing(dirs, round, batch);
        let asked = rules.ask_lookup(&part);
        let (time, outputs) = timed(|| rules.run(asked));
        rules.found(batch, &outputs?)?;
        times.push(time);
    }
    Ok(median(times))
}

fn lookup_plain(plain: &Plain, dirs: &[i64], batch: usize) -> Duration {
    let mut times = Vec::new();
    for round in 0..ROUNDS {
        let part = existing(dirs, round, batch);
        let (time, good) = timed(|| {
            part.iter()
                .filter(|(p, n)| plain.lookup(0, *p, n.as_bytes()).is_ok())
                .count()
        });
        assert_eq!(good, batch, "plain lookups succeed");
        times.push(time);
    }
    median(times)
}
