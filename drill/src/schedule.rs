//! When what goes wrong.

use crate::scenario::Scenario;
use anyhow::{Context, Result, bail, ensure};
use std::path::Path;
use std::time::Duration;

/// The most seconds that a schedule may last: a week.
const LONGEST: f64 = 7.0 * 24.0 * 3_600.0;

/// The course of a drill.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Course {
    /// The same again and again, each time when the cluster is whole.
    Rounds {
        /// What.
        scenario: Scenario,
        /// How often.
        rounds: u32,
        /// The longest time between two; the shortest is a tenth of it.
        interval: Duration,
    },
    /// At certain times, whether the cluster is whole or not.
    Schedule(Vec<Due>),
}

/// A fault of a schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Due {
    /// When it begins, from when the clients work; later if the one before it still lasts.
    pub at: Duration,
    /// What goes wrong.
    pub scenario: Scenario,
}

impl Course {
    /// Reads a schedule: see docs/DRILLS.md.
    ///
    /// # Errors
    /// It cannot be read, or has a line that is none.
    pub fn read(path: &Path) -> Result<Course> {
        let what = || format!("schedule {}", path.display());
        let text = std::fs::read_to_string(path).with_context(what)?;
        parse(&text).map(Course::Schedule).with_context(what)
    }

    /// Its name in a report.
    pub fn name(&self) -> &'static str {
        match self {
            Course::Rounds { scenario, .. } => scenario.name(),
            Course::Schedule(_) => "schedule",
        }
    }

    /// What goes wrong in it.
    pub fn scenarios(&self) -> Vec<Scenario> {
        match self {
            Course::Rounds { scenario, .. } => vec![*scenario],
            Course::Schedule(all) => all.iter().map(|due| due.scenario).collect(),
        }
    }
}

fn parse(text: &str) -> Result<Vec<Due>> {
    let mut all: Vec<Due> = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let said = line.split_once('#').map_or(line, |(said, _)| said);
        if said.trim().is_empty() {
            continue;
        }
        let due = due(said).with_context(|| format!("line {number}, {:?}", line.trim()))?;
        if let Some(before) = all.last().filter(|before| before.at > due.at) {
            let before = before.at.as_secs_f64();
            bail!("line {number} is for before {before} s, when the one above it is: sort them");
        }
        all.push(due);
    }
    ensure!(!all.is_empty(), "nothing is in it");
    Ok(all)
}

fn due(said: &str) -> Result<Due> {
    let words: Vec<&str> = said.split_whitespace().collect();
    let [seconds, name] = words.as_slice() else {
        bail!("a line is a number of seconds and the name of a scenario");
    };
    let at: f64 = seconds.parse().context("the seconds are no number")?;
    ensure!(
        (0.0..=LONGEST).contains(&at),
        "the seconds are from 0 to {LONGEST}, a week"
    );
    let scenario = Scenario::of(name).with_context(Scenario::names)?;
    let at = Duration::from_secs_f64(at);
    Ok(Due { at, scenario })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schedule_has_a_line_for_each_fault() {
        let all = parse("# seconds what\n0.5 kill-leader # now\n\n 0.5\tpause-datanode\n20 calm");
        let due = |ms, scenario| Due {
            at: Duration::from_millis(ms),
            scenario,
        };
        assert_eq!(
            all.unwrap(),
            [
                due(500, Scenario::KillLeader),
                due(500, Scenario::PauseDatanode),
                due(20_000, Scenario::Calm)
            ]
        );
    }

    #[test]
    fn a_line_that_is_none_is_refused() {
        for (text, why) in [
            ("", "nothing is in it"),
            ("1", "line 1, \"1\": a line is a number"),
            ("1 calm calm", "a line is a number"),
            ("\nx calm", "line 2, \"x calm\": the seconds are no number"),
            ("-1 calm", "from 0 to"),
            ("NaN calm", "from 0 to"),
            ("1e99 calm", "from 0 to"),
            ("1 kill", "the scenarios are kill-leader, "),
            ("2 calm\n1 calm", "line 2 is for before 2 s"),
        ] {
            let error = format!("{:#}", parse(text).unwrap_err());
            assert!(error.contains(why), "{error}");
        }
        let missing = format!("{:#}", Course::read(Path::new("/none")).unwrap_err());
        assert!(missing.starts_with("schedule /none: "), "{missing}");
    }

    #[test]
    fn the_schedule_in_the_docs_is_one() {
        let page = include_str!("../../docs/DRILLS.md");
        let from = page.find("```text\n").unwrap() + "```text\n".len();
        let text = &page[from..];
        let text = &text[..text.find("```").unwrap()];
        assert!(parse(text).unwrap().len() > 2);
    }
}
