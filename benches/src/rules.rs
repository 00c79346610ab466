//! Drives the NameNode's rules as its shell does, without sockets or disks.

use anyhow::{Context, Result, bail};
use overlog::api::{Options, Output, Time};
use overlog::ir::{Program, RelId};
use overlog::node::Node;
use overlog::{Row, Value};
use std::sync::Arc;

/// A node that runs the NameNode's rules.
pub struct Rules {
    node: Node,
    request: RelId,
    ask: RelId,
    decided: RelId,
    reply: RelId,
    read_reply: RelId,
    welcome: RelId,
    slot: i64,
    arrival: i64,
    now: Time,
    /// The session that commands belong to.
    pub session: i64,
    seq: i64,
}

impl Rules {
    /// A new, empty filesystem with one session.
    pub fn new(program: Program) -> Result<Rules> {
        let find = |name: &str| {
            program
                .find(name)
                .with_context(|| format!("no relation {name}"))
        };
        let mut options = Options::new(Value::addr("nn"));
        options.observe = vec![find("propose")?];
        options.replicated_changes = false;
        options.max_ticks = 100_000;
        let [request, ask, decided, hello] = [
            find("request")?,
            find("ask")?,
            find("decided")?,
            find("hello_client")?,
        ];
        let [reply, read_reply, welcome] =
            [find("reply")?, find("read_reply")?, find("welcome_client")?];
        let (configure, begins) = (find("configure")?, find("begins")?);
        let node = Node::new(Arc::new(program), options)?;
        let now = Time {
            wall_ns: 1_700_000_000_000_000_000,
            mono_ns: 1,
        };
        let mut rules = Rules {
            node,
            request,
            ask,
            decided,
            reply,
            read_reply,
            welcome,
            slot: 0,
            arrival: 0,
            now,
            session: 0,
            seq: 0,
        };
        let started = rules.node.start(true, now)?;
        rules.follow(started)?;
        let settings = [
            Value::Int(3),
            Value::Int(64 << 20),
            Value::Int(1),
            Value::str("nn:1"),
            Value::addr("nn"),
        ];
        rules.feed(vec![(configure, Row::new(&settings))])?;
        // How a leader comes to govern is not measured here.
        let ballot = Value::list(vec![Value::Int(1), Value::Int(2)]);
        rules.feed(vec![(begins, Row::new(&[ballot]))])?;
        rules.arrival += 1;
        let greeting = [
            Value::Int(rules.arrival),
            Value::addr("c1"),
            Value::Int(0),
            Value::Int(77),
            Value::str("bench"),
        ];
        let out = rules.feed(vec![(hello, Row::new(&greeting))])?;
        let welcome = out
            .iter()
            .flat_map(|o| &o.messages)
            .find(|m| m.rel == rules.welcome)
            .context("no session")?;
        rules.session = welcome
            .row
            .values()
            .get(1)
            .and_then(Value::as_int)
            .context("no session number")?;
        Ok(rules)
    }

    fn feed(&mut self, inputs: Vec<(RelId, Row)>) -> Result<Vec<Output>> {
        self.now.wall_ns += 1_000;
        self.now.mono_ns += 1_000;
        let out = self.node.run(inputs, self.now)?;
        self.follow(out)
    }

    /// Decides what was proposed, as a NameNode alone does.
    fn follow(&mut self, first: Output) -> Result<Vec<Output>> {
        let mut all = vec![first];
        let mut at = 0;
        while let Some(out) = all.get(at) {
            let batches: Vec<Row> = out.observed.iter().map(|(_, row)| row.clone()).collect();
            for batch in batches {
                self.slot += 1;
                let slot = Row::new(&[Value::Int(self.slot)]);
                let row = [slot.as_bytes(), batch.as_bytes()].concat();
                let row = Row::check(row, 2).context("the rules proposed what is no batch")?;
                all.push(self.node.run(vec![(self.decided, row)], self.now)?);
            }
            at += 1;
        }
        Ok(all)
    }

    fn command(&mut self, op: &str, base: i64, name: &str, args: Vec<Value>) -> (RelId, Row) {
        self.arrival += 1;
        self.seq += 1;
        let row = Row::new(&[
            Value::Int(self.arrival),
            Value::addr("c1"),
            Value::Int(self.session),
            Value::Int(self.seq),
            Value::Int((self.seq - 512).max(0)),
            Value::Int(0),
            Value::Int(0),
            Value::list(vec![]),
            Value::str(op),
            Value::Int(base),
            Value::list(vec![Value::str(name)]),
            Value::list(args),
        ]);
        (self.request, row)
    }

    /// Makes directories or files in one batch; gives their numbers.
    pub fn make(&mut self, op: &str, names: &[(i64, String)]) -> Result<Vec<i64>> {
        let asked = self.ask_make(op, names);
        let outputs = self.run(asked)?;
        self.made(op, names.len(), &outputs)
    }

    /// One run with what was asked, and one for each batch that is decided.
    pub fn run(&mut self, asked: Vec<(RelId, Row)>) -> Result<Vec<Output>> {
        self.feed(asked)
    }

    /// Commands that make directories or files.
    pub fn ask_make(&mut self, op: &str, names: &[(i64, String)]) -> Vec<(RelId, Row)> {
        names
            .iter()
            .map(|(parent, name)| {
                let args = if op == "mkdir" {
                    vec![Value::Int(0o755), Value::Int(0)]
                } else {
                    let zero = Value::Int(0);
                    vec![
                        Value::str("file"),
                        Value::Int(0o644),
                        zero.clone(),
                        Value::Bool(true),
                        Value::Bool(false),
                        zero.clone(),
                        zero.clone(),
                        zero,
                    ]
                };
                self.command(op, *parent, name, args)
            })
            .collect()
    }

    /// The numbers of what the last commands made.
    pub fn made(&self, op: &str, asked: usize, outputs: &[Output]) -> Result<Vec<i64>> {
        let mut made = vec![0; asked];
        let first = self.seq - i64::try_from(asked)? + 1;
        for message in outputs
            .iter()
            .flat_map(|o| &o.messages)
            .filter(|m| m.rel == self.reply)
        {
            let values = message.row.values();
            let [_, Value::Int(seq), errno, payload] = values.as_slice() else {
                bail!("odd reply {values:?}")
            };
            if errno != &Value::str("") {
                bail!("{op} failed: {errno} {payload}");
            }
            let attr = payload
                .as_list()
                .and_then(|l| l.get(1))
                .and_then(Value::as_list);
            let ino = attr
                .and_then(|a| a.first())
                .and_then(Value::as_int)
                .context("no inode in the answer")?;
            if let Some(slot) = made.get_mut(usize::try_from(seq - first)?) {
                *slot = ino;
            }
        }
        if made.contains(&0) {
            bail!(
                "{op}: {} of {} without an answer",
                made.iter().filter(|i| **i == 0).count(),
                made.len()
            );
        }
        Ok(made)
    }

    /// Questions that look names up.
    pub fn ask_lookup(&self, names: &[(i64, String)]) -> Vec<(RelId, Row)> {
        names
            .iter()
            .enumerate()
            .map(|(i, (parent, name))| {
                let row = [
                    Value::addr("c1"),
                    Value::Int(i64::try_from(i).unwrap_or_default()),
                    Value::Int(0),
                    Value::Int(0),
                    Value::list(vec![]),
                    Value::str("lookup"),
                    Value::Int(*parent),
                    Value::list(vec![Value::str(name)]),
                    Value::list(vec![Value::Bool(false)]),
                ];
                (self.ask, Row::new(&row))
            })
            .collect()
    }

    /// Checks that all were found.
    pub fn found(&self, asked: usize, outputs: &[Output]) -> Result<()> {
        let good = outputs
            .iter()
            .flat_map(|o| &o.messages)
            .filter(|m| m.rel == self.read_reply && m.row.values().get(2) == Some(&Value::str("")))
            .count();
        if good != asked {
            bail!("{good} good answers of {asked}");
        }
        Ok(())
    }

    /// A tick in which nothing happens.
    pub fn idle(&mut self) -> Result<()> {
        self.feed(Vec::new()).map(|_| ())
    }
}
