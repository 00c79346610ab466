//! The sessions shown in docs/OVERLOG.md do what the page says, on the engine and on the oracle.
//!
//! A block between fences that say `session` goes on with the program in the last `overlog` block:
//!
//! * `> open("ada"); open("bob")` is a run with these events; lines behind it are the events that it derives.
//! * `? account(Name, Cents);` is a query; lines behind it are its rows.

use super::harness::{Host, show};
use super::subject::Subject;
use overlog::Value;

const PAGE: &str = include_str!("../../../docs/OVERLOG.md");

/// A program of the page and a session with it.
struct Session {
    program: String,
    lines: Vec<String>,
}

fn sessions() -> Vec<Session> {
    let mut out = Vec::new();
    let mut program = String::new();
    let mut fence: Option<&str> = None;
    for line in PAGE.lines() {
        match (fence, line.strip_prefix("```")) {
            (None, Some(word)) => {
                fence = Some(word);
                match word {
                    "overlog" => program.clear(),
                    "session" => out.push(Session {
                        program: program.clone(),
                        lines: Vec::new(),
                    }),
                    _ => {}
                }
            }
            (Some(_), Some("")) => fence = None,
            (Some("overlog"), _) => program.extend([line, "\n"]),
            (Some("session"), _) => out.last_mut().unwrap().lines.push(line.to_owned()),
            _ => {}
        }
    }
    out
}

/// The name and the values of `open("ada", 3)`.
fn event<S: Subject>(text: &str) -> (&str, Vec<Value>) {
    let (name, rest) = text.split_once('(').expect("an event with arguments");
    let columns = rest
        .trim_end()
        .strip_suffix(')')
        .expect("a closing bracket");
    let width = (1..20).find(|width| {
        let declared: Vec<String> = (0..*width).map(|c| format!("C{c}: any")).collect();
        super::harness::check(&format!("view v({});\nv({columns});", declared.join(", "))).is_ok()
    });
    let declared: Vec<String> = (0..width.expect("constants"))
        .map(|c| format!("C{c}: any"))
        .collect();
    let mut host = Host::<S>::new(&format!("view v({});\nv({columns});", declared.join(", ")));
    let rel = host.rel("v");
    (name.trim(), host.node.rows(rel)[0].values())
}

/// What one line of a session gives.
fn answer<S: Subject>(host: &mut Host<S>, line: &str) -> Vec<String> {
    if let Some(events) = line.strip_prefix("> ") {
        let events: Vec<_> = events.split(';').map(event::<S>).collect();
        host.run(&events);
        let given = |name: &str, row: &str| {
            events.iter().any(|(n, values)| {
                let text: Vec<String> = values.iter().map(Value::to_string).collect();
                *n == name && text.join(", ") == row
            })
        };
        let name = |rel| host.program.relation(rel).name.clone();
        let observed = host
            .last
            .observed
            .iter()
            .map(|(r, row)| (name(*r), show(row)));
        return observed
            .filter(|(name, row)| !given(name, row))
            .map(|(name, row)| format!("{name}({row})"))
            .collect();
    }
    let rows = host
        .node
        .query(line)
        .unwrap_or_else(|why| panic!("{line}\n{why}"));
    rows.iter().map(show).collect()
}

fn the_sessions_of_the_page_are_true<S: Subject>() {
    let sessions = sessions();
    assert!(sessions.len() >= 6, "{}", sessions.len());
    for Session { program, lines } in sessions {
        let mut host = Host::<S>::new(&program);
        let mut lines = lines.iter().filter(|line| !line.is_empty()).peekable();
        while let Some(line) = lines.next() {
            let mut expected = Vec::new();
            while let Some(row) = lines.next_if(|l| !l.starts_with(['>', '?'])) {
                expected.push(row.clone());
            }
            assert_eq!(answer(&mut host, line), expected, "{line}\nof\n{program}");
        }
    }
}

on_both!(the_sessions_of_the_page_are_true);
