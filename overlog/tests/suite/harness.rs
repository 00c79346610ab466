//! Small programs, written as text, and what they do, read as text.

use super::subject::Subject;
use overlog::api::{Options, Output, RunError, Time};
use overlog::check::{CompileOptions, Sources, compile};
use overlog::ir::{Program, RelId};
use overlog::{Row, Value};
use std::sync::Arc;

/// Values from literals: `row![1, "a", list]`.
macro_rules! row {
    ($($value:expr),* $(,)?) => {
        vec![$(overlog::Value::from($value)),*]
    };
}

/// Makes each generic test into one for the oracle and one for the engine.
macro_rules! on_both {
    ($($test:ident),* $(,)?) => {
        mod oracle {
            $(#[test] fn $test() { super::$test::<overlog::oracle::Node>() })*
        }
        mod engine {
            $(#[test] fn $test() { super::$test::<overlog::node::Node>() })*
        }
    };
}

/// The program, or a panic with what is wrong in it.
pub fn program(text: &str) -> Arc<Program> {
    match check(text) {
        Ok(program) => Arc::new(program),
        Err(why) => panic!("{why}"),
    }
}

/// The program, or what is wrong in it.
pub fn check(text: &str) -> Result<Program, String> {
    let mut sources = Sources::new();
    sources.add("test.olg", text);
    compile("test.olg", &sources, &[], CompileOptions::default())
        .map(|(program, _)| program)
        .map_err(|d| d.render())
}

/// The address of the node under test.
pub const ME: &str = "me";

/// A node with a program, started.
pub struct Host<S> {
    pub program: Arc<Program>,
    pub node: S,
    /// What the last run, or the start, did.
    pub last: Output,
    now: Time,
}

impl<S: Subject> Host<S> {
    /// A new store.
    pub fn new(text: &str) -> Host<S> {
        Host::with(text, |_| {})
    }

    /// A new store, and other options than the usual.
    pub fn with(text: &str, change: impl FnOnce(&mut Options)) -> Host<S> {
        let mut host = Host::unstarted(text, change);
        host.start(true);
        host
    }

    /// Not started, to be restored first. All events of the program are observed.
    pub fn unstarted(text: &str, change: impl FnOnce(&mut Options)) -> Host<S> {
        let program = program(text);
        let mut options = Options::new(Value::addr(ME));
        options.observe = events(&program);
        change(&mut options);
        let node = S::new(program.clone(), options).unwrap();
        Host {
            program,
            node,
            last: Output::default(),
            now: Time {
                wall_ns: 1_000,
                mono_ns: 10,
            },
        }
    }

    pub fn start(&mut self, new: bool) {
        self.last = self.try_start(new).unwrap();
    }

    pub fn try_start(&mut self, new: bool) -> Result<Output, RunError> {
        self.node.start(new, self.now)
    }

    pub fn restore(&mut self, table: &str, rows: &[Vec<Value>]) {
        let rows = rows.iter().map(|r| Row::new(r)).collect();
        self.node.restore(self.rel(table), rows).unwrap();
    }

    /// A run, 1 us later than the last.
    pub fn run(&mut self, inputs: &[(&str, Vec<Value>)]) {
        self.last = self.try_run(inputs).unwrap();
    }

    pub fn try_run(&mut self, inputs: &[(&str, Vec<Value>)]) -> Result<Output, RunError> {
        self.now.wall_ns += 1_000;
        self.now.mono_ns += 1_000;
        let inputs = inputs
            .iter()
            .map(|(name, row)| (self.rel(name), Row::new(row)))
            .collect();
        self.node.run(inputs, self.now)
    }

    pub fn rel(&self, name: &str) -> RelId {
        self.program
            .find(name)
            .unwrap_or_else(|| panic!("no relation {name}"))
    }

    /// The rows of a table or view.
    pub fn rows(&mut self, name: &str) -> Vec<String> {
        let rel = self.rel(name);
        self.node.rows(rel).iter().map(show).collect()
    }

    /// The rows of an event in the last run, by tick.
    pub fn seen(&self, name: &str) -> Vec<String> {
        let rel = self.rel(name);
        self.last
            .observed
            .iter()
            .filter(|(r, _)| *r == rel)
            .map(|(_, row)| show(row))
            .collect()
    }

    /// The last run's messages.
    pub fn sent(&self) -> Vec<String> {
        let show = |m: &overlog::api::Message| {
            format!("{}({})", self.program.relation(m.rel).name, show(&m.row))
        };
        self.last.messages.iter().map(show).collect()
    }

    /// The last run's changes of durable tables.
    pub fn changes(&self) -> Vec<String> {
        let sign = |insert| if insert { '+' } else { '-' };
        let show = |c: &overlog::api::Change| {
            format!(
                "{}{}({})",
                sign(c.insert),
                self.program.relation(c.rel).name,
                show(&c.row)
            )
        };
        self.last.changes.iter().map(show).collect()
    }

    /// The last run's conflicts: table, winner, loser.
    pub fn conflicts(&self) -> Vec<String> {
        self.last
            .conflicts
            .iter()
            .map(|(t, w, l)| format!("{t}: {} beats {}", show(w), show(l)))
            .collect()
    }

    /// The rules of the last run's errors.
    pub fn failed(&self) -> Vec<&str> {
        self.last
            .errors
            .iter()
            .map(|(rule, _)| rule.as_str())
            .collect()
    }

    pub fn violations(&self) -> Vec<String> {
        self.last
            .violations
            .iter()
            .map(|(name, row)| format!("{name}({})", show(row)))
            .collect()
    }
}

/// All events that the host can observe.
pub fn events(program: &Program) -> Vec<RelId> {
    let event = |r: &overlog::ir::Relation| {
        matches!(r.kind, overlog::ir::RelKind::Event { .. }) && !r.name.starts_with("sys_")
    };
    (0..)
        .map(RelId)
        .zip(&program.relations)
        .filter(|(_, r)| event(r))
        .map(|(id, _)| id)
        .collect()
}

/// `1, "a"`
pub fn show(row: &Row) -> String {
    row.values()
        .iter()
        .map(Value::to_string)
        .collect::<Vec<_>>()
        .join(", ")
}
