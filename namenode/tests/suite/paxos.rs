//! The Paxos rules by themselves: nodes that talk over a network that loses, repeats and reorders, and that stop and
//! start again with what they stored.

use overlog::api::{Options, Output, Time};
use overlog::ir::{Program, RelId, RelKind, TableClass};
use overlog::node::Node;
use overlog::{CompileOptions, Row, Sources, Value, compile};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};

fn program() -> Arc<Program> {
    static PROGRAM: OnceLock<Arc<Program>> = OnceLock::new();
    Arc::clone(PROGRAM.get_or_init(|| {
        let mut sources = Sources::new();
        for (name, text) in [
            ("main.olg", include_str!("../../rules/paxos/main.olg")),
            ("schema.olg", include_str!("../../rules/paxos/schema.olg")),
            (
                "acceptor.olg",
                include_str!("../../rules/paxos/acceptor.olg"),
            ),
            ("leader.olg", include_str!("../../rules/paxos/leader.olg")),
            ("learner.olg", include_str!("../../rules/paxos/learner.olg")),
        ] {
            sources.add(name, text);
        }
        match compile("main.olg", &sources, &[], CompileOptions::default()) {
            Ok((program, _)) => Arc::new(program),
            Err(errors) => panic!("{}", errors.render()),
        }
    }))
}

/// Numbers by chance from a seed (Steele, Lea and Flood's SplitMix64).
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % n as u64).unwrap()
    }
}

fn int(n: usize) -> Value {
    Value::Int(i64::try_from(n).unwrap())
}

fn addr(n: usize) -> Value {
    Value::addr(format!("n{n}"))
}

/// One node, and what it has on its disk.
struct Peer {
    node: Option<Node>,
    stored: BTreeMap<RelId, BTreeSet<Row>>,
    fresh: bool,
}

struct Net {
    program: Arc<Program>,
    peers: Vec<Peer>,
    flying: Vec<(usize, RelId, Row)>,
    now: Time,
    /// Every value that some node learned, by slot.
    decided: BTreeMap<i64, Value>,
    submitted: i64,
}

impl Net {
    fn new(count: usize) -> Net {
        let peers = (0..count).map(|_| Peer {
            node: None,
            stored: BTreeMap::new(),
            fresh: true,
        });
        let mut net = Net {
            program: program(),
            peers: peers.collect(),
            flying: Vec::new(),
            now: Time::default(),
            decided: BTreeMap::new(),
            submitted: 0,
        };
        (0..count).for_each(|at| net.start(at));
        net
    }

    fn rel(&self, name: &str) -> RelId {
        self.program.find(name).unwrap()
    }

    fn start(&mut self, at: usize) {
        let mut node = Node::new(self.program.clone(), Options::new(addr(at))).unwrap();
        let fresh = std::mem::take(&mut self.peers[at].fresh);
        for (rel, rows) in &self.peers[at].stored {
            node.restore(*rel, rows.iter().cloned().collect()).unwrap();
        }
        let out = node.start(fresh, self.now).unwrap();
        self.peers[at].node = Some(node);
        self.take(at, out);
        let members = (0..self.peers.len()).map(|n| Value::list(vec![int(n), addr(n)]));
        self.tell(
            at,
            "be",
            &[int(at), addr(at), Value::list(members.collect::<Vec<_>>())],
        );
    }

    fn stop(&mut self, at: usize) {
        self.peers[at].node = None;
    }

    fn tell(&mut self, at: usize, event: &str, row: &[Value]) {
        self.give(at, vec![(self.rel(event), Row::new(row))]);
    }

    fn give(&mut self, at: usize, rows: Vec<(RelId, Row)>) {
        self.now.mono_ns += 1_000_000;
        let Some(node) = &mut self.peers[at].node else {
            return;
        };
        let out = node.run(rows, self.now).unwrap();
        self.take(at, out);
    }

    /// Stores the changes, then sends the messages.
    fn take(&mut self, at: usize, out: Output) {
        assert_eq!((out.errors, out.violations), Default::default());
        let learned = self.rel("learned");
        for change in out.changes {
            let class = &self.program.relation(change.rel).kind;
            assert!(matches!(class, RelKind::Table(TableClass::Local)));
            let rows = self.peers[at].stored.entry(change.rel).or_default();
            if change.insert {
                rows.insert(change.row.clone());
            } else {
                rows.remove(&change.row);
            }
            if change.rel == learned {
                let values = change.row.values();
                assert!(change.insert, "what was learned stays: {values:?}");
                let slot = values[0].as_int().unwrap();
                let known = self
                    .decided
                    .entry(slot)
                    .or_insert_with(|| values[1].clone());
                assert_eq!(*known, values[1], "two values for slot {slot}");
            }
        }
        for message in out.messages {
            let to = (0..self.peers.len())
                .find(|n| addr(*n) == message.to)
                .unwrap();
            self.flying.push((to, message.rel, message.row));
        }
    }

    fn stand(&mut self, at: usize) {
        let now = Value::Int(self.now.mono_ns);
        self.tell(at, "stand", &[now]);
    }

    fn submit(&mut self, at: usize) {
        self.submitted += 1;
        let value = Value::list(vec![Value::Int(self.submitted)]);
        self.tell(at, "submit", &[value]);
    }

    /// Delivers all that flies, to its end.
    fn calm(&mut self) {
        for _ in 0..10_000 {
            if self.flying.is_empty() {
                return;
            }
            let (to, rel, row) = self.flying.remove(0);
            self.give(to, vec![(rel, row)]);
        }
        panic!("the nodes never stop talking");
    }

    /// Something happens by chance.
    fn step(&mut self, dice: &mut Dice, chances: &[usize]) {
        let at = dice.below(self.peers.len());
        let mut left = dice.below(chances.iter().sum());
        let what = chances.iter().position(|chance| {
            let here = left < *chance;
            left = left.saturating_sub(*chance);
            here
        });
        match what.unwrap() {
            0 => self.stand(at),
            1 => self.submit(at),
            2 => self.tell(at, "repeat", &[Value::Int(0)]),
            3 => self.stop(at),
            4 if self.peers[at].node.is_none() => self.start(at),
            _ if self.flying.is_empty() => {}
            5 => {
                self.pick(dice, None);
            }
            6 => {
                // It comes, and will come again.
                let at = dice.below(self.flying.len());
                let (to, rel, row) = self.flying[at].clone();
                self.give(to, vec![(rel, row)]);
            }
            7 => {
                let (to, rel, row) = self.pick(dice, None).unwrap();
                let mut rows = vec![(rel, row)];
                for _ in 0..dice.below(4) {
                    rows.extend(self.pick(dice, Some(to)).map(|(_, rel, row)| (rel, row)));
                }
                self.give(to, rows);
            }
            _ => {
                let (to, rel, row) = self.pick(dice, None).unwrap();
                self.give(to, vec![(rel, row)]);
            }
        }
    }

    /// Takes any message from the network, or any to this node.
    fn pick(&mut self, dice: &mut Dice, to: Option<usize>) -> Option<(usize, RelId, Row)> {
        let fits = |(at, (there, ..)): (usize, &(usize, RelId, Row))| {
            to.is_none_or(|to| to == *there).then_some(at)
        };
        let all: Vec<usize> = self.flying.iter().enumerate().filter_map(fits).collect();
        if all.is_empty() {
            return None;
        }
        Some(self.flying.swap_remove(all[dice.below(all.len())]))
    }

    fn repeat(&mut self) {
        for at in 0..self.peers.len() {
            let now = Value::Int(self.now.mono_ns);
            self.tell(at, "repeat", &[now]);
        }
        self.calm();
    }

    fn rows(&mut self, at: usize, table: &str) -> Vec<Vec<Value>> {
        let rel = self.rel(table);
        let node = self.peers[at].node.as_mut().unwrap();
        node.rows(rel).iter().map(Row::values).collect()
    }
}

#[test]
fn one_leader_decides_what_is_submitted_in_order() {
    let mut net = Net::new(3);
    net.stand(0);
    net.calm();
    assert_eq!(net.rows(0, "leading").len(), 1);
    for _ in 0..5 {
        net.submit(0);
    }
    net.calm();
    let values: Vec<Value> = net.decided.values().cloned().collect();
    let wanted = (1..=5).map(|n| Value::list(vec![Value::Int(n)]));
    assert_eq!(values, wanted.collect::<Vec<_>>());
    for at in 0..3 {
        assert_eq!(net.rows(at, "upto"), [[Value::Int(5)]]);
    }
}

#[test]
fn a_new_leader_keeps_what_a_majority_has_voted_for() {
    let mut net = Net::new(3);
    net.stand(0);
    net.calm();
    net.submit(0);
    // Two vote, nobody learns; then the leader is gone.
    let accept = net.rel("accept");
    net.flying.retain(|(to, rel, _)| *rel == accept && *to != 2);
    while let Some(at) = net.flying.iter().position(|(_, rel, _)| *rel == accept) {
        let (to, rel, row) = net.flying.remove(at);
        net.give(to, vec![(rel, row)]);
    }
    net.flying.clear();
    net.stop(0);
    net.stand(2);
    net.calm();
    assert_eq!(net.rows(2, "leading").len(), 1);
    assert_eq!(net.decided[&1], Value::list(vec![Value::Int(1)]));
    // What was cut off learns it when it is back.
    net.start(0);
    net.repeat();
    assert_eq!(net.rows(0, "upto"), [[Value::Int(1)]]);
}

/// Any schedule of deliveries, losses, repeats, stops, starts and elections: [`Net::take`] sees that no slot gets two
/// values. In the calm after it everything that was decided is known to all, and more can be decided.
#[test]
fn no_slot_gets_two_values_whatever_the_network_does() {
    let cases = crate::driver::cases() / 4;
    let seed: u64 = std::env::var("BOOMFS_SEED").map_or(1, |s| s.parse().unwrap());
    for case in 0..cases {
        let mut dice = Dice(seed.wrapping_mul(1_000_003) + u64::from(case));
        let count = if case % 4 == 3 { 5 } else { 3 };
        let mut net = Net::new(count);
        // Each case has likelihoods of its own: what is rare in one is frequent in another.
        let chances = [8, 12, 3, 4, 6, 12, 6, 20, 40].map(|most| dice.below(most) + 1);
        for _ in 0..400 {
            net.step(&mut dice, &chances);
        }
        (0..count).for_each(|at| {
            if net.peers[at].node.is_none() {
                net.start(at);
            }
        });
        net.calm();
        // The last to stand wins; a leader that it outbids stops.
        let leader = dice.below(count);
        for _ in 0..3 {
            net.stand(leader);
            net.calm();
            net.repeat();
        }
        let before = net.decided.len();
        net.submit(leader);
        net.calm();
        net.repeat();
        let last = *net.decided.keys().last().unwrap();
        assert!(
            net.decided.len() > before,
            "case {case}: nothing more is decided"
        );
        for at in 0..count {
            assert_eq!(net.rows(at, "upto"), [[Value::Int(last)]], "case {case}");
        }
    }
}
