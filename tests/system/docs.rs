//! What README.md and docs/OPERATIONS.md show is what works.

use crate::lab;
use anyhow::{Context, Result, ensure};
use boomfs_tests::{Fuse, Up, fuse};
use std::path::Path;
use std::time::Duration;

const README: &str = include_str!("../../README.md");
const OPERATIONS: &str = include_str!("../../docs/OPERATIONS.md");
const PAXOS: &str = include_str!("../../docs/PAXOS.md");
const CI: &str = include_str!("../../.ci/run");

/// The lines of the blocks of shell commands under a heading.
fn commands<'a>(page: &'a str, heading: &str) -> Vec<&'a str> {
    let under = page
        .lines()
        .skip_while(|line| *line != heading)
        .skip(1)
        .take_while(|line| !line.starts_with("## "));
    let mut shell = false;
    let inside = under.filter(|line| {
        let fence = line.starts_with("```");
        shell = if fence { *line == "```sh" } else { shell };
        shell && !fence
    });
    inside.collect()
}

/// The query of a line `boomfs query '..'`, and whether it is watched.
fn query(line: &str) -> Option<(&str, bool)> {
    let words = line.strip_prefix("boomfs query ")?;
    let query = words.split('\'').nth(1)?;
    Some((query, words.starts_with("--watch ")))
}

#[test]
fn continuous_integration_runs_the_two_commands() {
    let shown = commands(README, "## Two commands");
    assert_eq!(shown.len(), 2, "{shown:?}");
    let run = shown[0].split("&& ").last().unwrap();
    let run = run.strip_suffix("/mnt/boomfs").unwrap();
    let starts = |line: &str, command: &str| line.starts_with(command);
    assert!(CI.lines().any(|line| starts(line, run)), "{run}");
    assert!(CI.lines().any(|line| line == shown[1]), "{}", shown[1]);
}

#[test]
fn the_queries_that_are_shown_are_answered() -> Result<()> {
    if fuse()? == Fuse::Skip {
        return Ok(());
    }
    let lab = lab()?;
    let up = Up::start(&lab, &[])?;
    let script = "mkdir -p doc/a; head -c 2000000 /dev/zero > doc/a/large; printf x > doc/small";
    lab.sh(&up.mount, script)?;
    let data = up.data.display().to_string();
    let mut answers = Vec::new();
    for line in README
        .lines()
        .chain(OPERATIONS.lines())
        .chain(PAXOS.lines())
    {
        let Some((query, watched)) = query(line) else {
            continue;
        };
        if watched {
            let mut watch = lab.start(&["query", "--watch", query, "--json", "--data", &data])?;
            let soon = Duration::from_secs(10);
            watch.line(soon, |line| line.contains(r#""change":"added""#))?;
            watch.stop(soon)?;
        } else {
            let answer = up.boomfs(&["query", query])?;
            ensure!(
                answer.lines().count() >= 3,
                "{query} has no table: {answer}"
            );
            answers.push((query, answer));
        }
    }
    ensure!(answers.len() >= 6, "{answers:?}");
    let of = |name: &str| {
        let found = answers.iter().find(|(query, _)| query.contains(name));
        found
            .map(|(_, answer)| answer.as_str())
            .context(name.to_owned())
    };
    ensure!(of("largest(")?.contains("/doc/a/large"));
    ensure!(!of("largest(")?.contains("small"));
    ensure!(of("per_directory(")?.contains("count<N>"));
    ensure!(of("per_node(")?.lines().count() >= 6);
    up.stop()
}

#[test]
fn the_commands_that_count_lines_count() -> Result<()> {
    let lab = lab()?;
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for line in commands(README, "## How much of it is rules") {
        // Sources without their history have nothing to ask git for.
        if line.starts_with("git ") && !root.join(".git").exists() {
            continue;
        }
        let counted: u64 = lab.sh(root, line)?.trim().parse()?;
        ensure!(counted > 100, "{line}: {counted}");
    }
    Ok(())
}
