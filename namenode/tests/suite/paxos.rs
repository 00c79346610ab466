//! The Paxos rules by themselves: nodes with clocks that drift and disks that lose what was not synced, over a network
//! that loses, repeats and reorders. They stop, and start again with what they stored.
//!
//! What is checked at every step: no slot gets two values; of two nodes never both govern with a lease; and who governs
//! with one has applied all that was ever acknowledged; what a node says that it promised or voted for is stored.

mod batch;
mod between;
mod mistakes;
mod weather;

use mistakes::Mistake;
use overlog::api::{Change, Message, Options, Output, Time};
use overlog::ir::{RelId, RelKind, TableClass};
use overlog::node::{Node, Planned};
use overlog::{CompileOptions, Row, Sources, Value, compile};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

const MS: i64 = 1_000_000;

fn program(count: usize) -> Planned {
    changed_program(count, None)
}

/// The rules, with a mistake in them if one is given.
fn changed_program(count: usize, mistake: Option<&Mistake>) -> Planned {
    let mut sources = Sources::new();
    let mut found = 0;
    for (name, text) in boomfs_namenode::rules::FILES {
        match mistake {
            Some(m) if text.contains(m.from) => {
                found += 1;
                sources.add(*name, text.replace(m.from, m.to));
            }
            _ => sources.add(*name, *text),
        }
    }
    if let Some(m) = mistake {
        assert_eq!(found, 1, "{}: its text is in {found} files", m.name);
    }
    let members: Vec<String> = (1..=count).map(|n| n.to_string()).collect();
    let nodes: String = (1..=count)
        .map(|n| format!("namenode({n}, {n}, \"\", @\"n{n}\");\n"))
        .collect();
    let text = format!(
        "{}\nmembership(0, [{}]);\nnext_namenode({});\n{nodes}",
        concat!(
            include_str!("paxos_glue.olg"),
            include_str!("paxos_invariants.olg")
        ),
        members.join(", "),
        count + 1
    );
    sources.add("glue.olg", text);
    match compile("glue.olg", &sources, &[], CompileOptions::default()) {
        Ok((program, _)) => Planned::new(Arc::new(program)).unwrap(),
        Err(errors) => panic!("{}", errors.render()),
    }
}

/// Numbers by chance from a seed (Steele, Lea and Flood's SplitMix64).
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.next() % n as u64).unwrap()
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    fn span(&mut self, most: i64) -> i64 {
        i64::try_from(self.below(usize::try_from(most).unwrap())).unwrap()
    }
}

fn addr(at: usize) -> Value {
    Value::addr(format!("n{}", at + 1))
}

fn int(value: &Value) -> i64 {
    value.as_int().unwrap()
}

/// A run whose changes are not on the disk yet, and what waits for them.
struct Unsynced {
    changes: Vec<Change>,
    held: Vec<Message>,
    /// What this node had applied by then.
    applied: i64,
}

/// One node, and what it has on its disk.
struct Peer {
    node: Option<Node>,
    /// Rows of local tables.
    stored: BTreeMap<RelId, BTreeSet<Row>>,
    /// Rows of replicated tables, as of a checkpoint.
    checkpoint: BTreeMap<RelId, BTreeSet<Row>>,
    /// Slots up to here are known to be chosen.
    mark: i64,
    unsynced: VecDeque<Unsynced>,
    /// Its clock runs at this many parts of 1,000 of the true one, from this.
    rate: i64,
    offset: i64,
    beaten: i64,
    governs: bool,
    leased_until: i64,
    /// It starts from a state that it took from another.
    takes_over: bool,
    /// What it has promised, stored or not.
    promised: Vec<i64>,
    /// It does nothing until then (true time), as if it got no processor.
    paused_until: i64,
}

/// A message on its way.
#[derive(Clone)]
struct Flying {
    from: usize,
    to: usize,
    rel: RelId,
    row: Row,
    /// When it comes, where time runs on.
    due: i64,
}

/// What is wrong with a link.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Link {
    /// Messages take some fifty milliseconds, and some take much longer.
    Slow,
    /// What is sent is lost.
    Cut,
    /// Half of what is sent is lost.
    Lossy,
    /// What is sent comes once the link is mended.
    Held,
}

struct Net {
    planned: Planned,
    peers: Vec<Peer>,
    flying: Vec<Flying>,
    /// Links that are not as they should be, by sender and receiver.
    links: BTreeMap<(usize, usize), Link>,
    /// True time, ns.
    now: i64,
    /// Every value that some node knew to be chosen, by slot.
    decided: BTreeMap<i64, Value>,
    /// The last slot that a governing node has applied: clients have heard of it.
    acknowledged: i64,
    proposed: i64,
    /// Draws how long messages take.
    delays: Dice,
}

impl Net {
    fn new(planned: &Planned, count: usize, dice: &mut Dice) -> Net {
        let peers = (0..count).map(|_| Peer {
            node: None,
            stored: BTreeMap::new(),
            checkpoint: BTreeMap::new(),
            mark: 0,
            unsynced: VecDeque::new(),
            rate: 950 + dice.span(101),
            offset: dice.span(10_000 * MS),
            beaten: 0,
            governs: false,
            leased_until: 0,
            takes_over: false,
            promised: Vec::new(),
            paused_until: 0,
        });
        let mut net = Net {
            planned: planned.clone(),
            peers: peers.collect(),
            flying: Vec::new(),
            links: BTreeMap::new(),
            now: 1_000 * MS,
            decided: BTreeMap::new(),
            acknowledged: 0,
            proposed: 0,
            delays: Dice(dice.next()),
        };
        (0..count).for_each(|at| net.start(at));
        net
    }

    fn rel(&self, name: &str) -> RelId {
        self.planned.program().find(name).unwrap()
    }

    fn clock(&self, at: usize) -> i64 {
        self.peers[at].offset + self.now / 1_000 * self.peers[at].rate
    }

    fn start(&mut self, at: usize) {
        let mut options = Options::new(addr(at));
        options.observe = ["chosen", "leads", "behind", "begins", "steps_down"]
            .iter()
            .map(|name| self.rel(name))
            .collect();
        let mut node = Node::of(&self.planned, options).unwrap();
        let peer = &mut self.peers[at];
        // Without a checkpoint the facts are the state that the log starts from.
        let fresh = peer.checkpoint.is_empty();
        for (rel, rows) in peer.stored.iter().chain(&peer.checkpoint) {
            node.restore(*rel, rows.iter().cloned().collect()).unwrap();
        }
        peer.node = Some(node);
        (peer.governs, peer.leased_until) = (false, 0);
        peer.promised.clear();
        // A state of another's: votes for the slots before it are dropped before they are said to be known.
        let taken_over = self.applied(at) > self.peers[at].mark;
        self.peers[at].takes_over = taken_over;
        let time = Time {
            wall_ns: self.clock(at),
            mono_ns: self.clock(at),
        };
        let out = self.peers[at]
            .node
            .as_mut()
            .unwrap()
            .start(fresh, time)
            .unwrap();
        self.take(at, out);
        // What it knew to be chosen is applied again.
        let accepted = self.rel("accepted");
        let votes: BTreeMap<i64, Value> = self.peers[at]
            .stored
            .get(&accepted)
            .into_iter()
            .flatten()
            .map(|row| (int(&row.values()[0]), row.values()[1].clone()))
            .collect();
        let from = self.applied(at);
        if taken_over {
            self.tell(at, "truncate", &[Value::Int(from)]);
            self.peers[at].takes_over = false;
        }
        for slot in from + 1..=self.peers[at].mark {
            let value = votes[&slot].as_list().unwrap()[1].clone();
            self.apply(at, slot, value);
        }
        self.tell(at, "be", &[addr(at), Value::Bool(false)]);
    }

    /// It stops; of what it had not synced, the first runs may have got to the disk.
    fn stop(&mut self, at: usize, dice: &mut Dice) {
        let kept = dice.below(self.peers[at].unsynced.len() + 1);
        self.sync(at, kept, false);
        let peer = &mut self.peers[at];
        peer.unsynced.clear();
        peer.node = None;
        peer.governs = false;
    }

    fn tell(&mut self, at: usize, event: &str, row: &[Value]) {
        self.give(at, vec![(self.rel(event), Row::new(row))]);
    }

    fn give(&mut self, at: usize, rows: Vec<(RelId, Row)>) {
        self.now += MS / 10;
        let mono_ns = self.clock(at);
        let Some(node) = &mut self.peers[at].node else {
            return;
        };
        let time = Time {
            wall_ns: mono_ns,
            mono_ns,
        };
        let out = node.run(rows, time).unwrap();
        self.take(at, out);
        self.check(at);
    }

    fn apply(&mut self, at: usize, slot: i64, value: Value) {
        let known = self.decided.entry(slot).or_insert_with(|| value.clone());
        assert_eq!(*known, value, "two values for slot {slot}");
        assert_eq!(slot, self.applied(at) + 1, "slots are chosen in order");
        self.tell(at, "decided", &[Value::Int(slot), value]);
        let node = self.peers[at].node.as_ref();
        if let Some(digest) = node.filter(|_| slot % 16 == 0).map(Node::digest) {
            let digest = Value::Int(digest.sum.cast_signed());
            self.tell(at, "state", &[Value::Int(slot), digest]);
        }
    }

    fn take(&mut self, at: usize, out: Output) {
        assert_eq!(
            (out.errors, out.violations, out.conflicts),
            Default::default()
        );
        self.check_said(at, &out.messages);
        let (eager, held): (Vec<_>, Vec<_>) = out
            .messages
            .into_iter()
            .partition(|m| self.planned.program().relation(m.rel).eager);
        let local = |change: &Change| {
            matches!(
                self.planned.program().relation(change.rel).kind,
                RelKind::Table(TableClass::Local)
            )
        };
        let changes: Vec<Change> = out.changes.into_iter().filter(local).collect();
        let applied = match self.peers[at].takes_over {
            true => self.peers[at].mark,
            false => self.applied(at),
        };
        self.peers[at].unsynced.push_back(Unsynced {
            changes,
            held,
            applied,
        });
        self.send(at, eager);
        let (mut chosen, mut behind) = (Vec::new(), None);
        for (rel, row) in out.observed {
            let values = row.values();
            match self.planned.program().relation(rel).name.as_str() {
                "chosen" => chosen.push((int(&values[0]), values[1].clone())),
                "begins" => self.peers[at].governs = true,
                "steps_down" => self.peers[at].governs = false,
                "leads" => self.peers[at].leased_until = int(&values[1]),
                _ => behind = Some(values[0].clone()),
            }
        }
        chosen.sort();
        for (slot, value) in chosen {
            self.apply(at, slot, value);
        }
        if let Some(from) = behind {
            self.catch_up(at, &from);
        }
    }

    fn send(&mut self, at: usize, messages: Vec<Message>) {
        for message in messages {
            let to = (0..self.peers.len()).find(|n| addr(*n) == message.to);
            assert!(to.is_some() || message.to == Value::addr("disk"));
            let to = to.unwrap_or(at);
            self.check_told(at, &message);
            let link = self.links.get(&(at, to)).copied();
            let Some(delay) = weather::delay(link, &mut self.delays) else {
                continue;
            };
            self.flying.push(Flying {
                from: at,
                to,
                rel: message.rel,
                row: message.row,
                due: self.now.saturating_add(delay),
            });
        }
    }

    /// The first of the runs that are not synced are; what waited for them leaves, if there still is somebody to say it.
    fn sync(&mut self, at: usize, runs: usize, alive: bool) {
        for _ in 0..runs {
            let Some(run) = self.peers[at].unsynced.pop_front() else {
                return;
            };
            let peer = &mut self.peers[at];
            for Change { rel, row, insert } in run.changes {
                let rows = peer.stored.entry(rel).or_default();
                if insert {
                    rows.insert(row);
                } else {
                    rows.remove(&row);
                }
            }
            peer.mark = peer.mark.max(run.applied);
            if !alive {
                continue;
            }
            // What it says to itself by way of its disk is never lost.
            let (own, others): (Vec<_>, Vec<_>) = run
                .held
                .into_iter()
                .partition(|m| m.to == Value::addr("disk"));
            self.send(at, others);
            let rows: Vec<_> = own.into_iter().map(|m| (m.rel, m.row)).collect();
            if !rows.is_empty() {
                self.give(at, rows);
            }
        }
    }

    /// The node takes a checkpoint of a slot it has applied some time ago, and drops the votes before the last one.
    fn checkpoint(&mut self, at: usize) {
        if self.peers[at].node.is_none() {
            return;
        }
        let before = self.peers[at].checkpoint.clone();
        self.sync(at, usize::MAX, true);
        self.peers[at].checkpoint = self.replicated(at);
        let clock = self.rel("clock");
        if let Some(row) = before.get(&clock).and_then(BTreeSet::first) {
            self.tell(at, "truncate", &[row.values()[0].clone()]);
        }
    }

    fn replicated(&mut self, at: usize) -> BTreeMap<RelId, BTreeSet<Row>> {
        let node = self.peers[at].node.as_mut().unwrap();
        let all = ["clock", "membership", "namenode", "next_namenode"]
            .map(|name| self.planned.program().find(name).unwrap());
        all.into_iter()
            .map(|rel| (rel, node.rows(rel).into_iter().collect()))
            .collect()
    }

    /// It is too far behind to learn slot by slot: it takes the state of the one that said so, and starts anew.
    fn catch_up(&mut self, at: usize, from: &Value) {
        let from = (0..self.peers.len()).find(|n| addr(*n) == *from).unwrap();
        if self.peers[from].node.is_none() || self.applied(from) <= self.applied(at) {
            return;
        }
        self.peers[at].checkpoint = self.replicated(from);
        self.sync(at, usize::MAX, false);
        self.peers[at].unsynced.clear();
        self.start(at);
    }

    fn applied(&mut self, at: usize) -> i64 {
        let clock = self.rel("clock");
        let node = self.peers[at].node.as_mut().unwrap();
        node.rows(clock)
            .first()
            .map_or(0, |row| int(&row.values()[0]))
    }

    /// See the module.
    fn check(&mut self, at: usize) {
        if self.peers[at].node.is_none() || !self.peers[at].governs {
            return;
        }
        if self.peers[at].leased_until > self.clock(at) {
            self.check_lease(at);
            let applied = self.applied(at);
            assert!(applied >= self.acknowledged, "{at} would read what is old");
            for other in (0..self.peers.len()).filter(|other| *other != at) {
                let peer = &self.peers[other];
                assert!(
                    peer.node.is_none() || !peer.governs || peer.leased_until <= self.clock(other),
                    "{at} and {other} both govern"
                );
            }
        }
        self.acknowledged = self.acknowledged.max(self.applied(at));
    }

    fn beat(&mut self, at: usize) {
        self.peers[at].beaten = self.now;
        let now = Value::Int(self.clock(at));
        self.tell(at, "beat", &[now]);
    }

    fn propose(&mut self, at: usize) {
        self.proposed += 1;
        let batch = Value::list(vec![Value::Int(self.proposed), Value::list(vec![])]);
        self.tell(at, "propose", &[batch]);
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
            0 => self.now += dice.span(100 * MS),
            1 => self.propose(at),
            2 => self.beat(at),
            3 if self.peers[at].node.is_some() => self.stop(at, dice),
            4 if self.peers[at].node.is_none() => self.start(at),
            5 if self.peers[at].node.is_some() => self.sync(at, 1 + dice.below(3), true),
            6 => self.checkpoint(at),
            11 => self.change_link(dice),
            12 => {
                let span = dice.span(600 * MS);
                weather::Weather::any(dice).pass(self, dice, span);
            }
            _ if self.flying.is_empty() => {}
            7 => {
                self.pick(dice, None);
            }
            8 => {
                // It comes, and will come again.
                let at = dice.below(self.flying.len());
                let Flying { to, rel, row, .. } = self.flying[at].clone();
                self.give(to, vec![(rel, row)]);
            }
            9 => {
                let Flying { to, rel, row, .. } = self.pick(dice, None).unwrap();
                let mut rows = vec![(rel, row)];
                for _ in 0..dice.below(4) {
                    rows.extend(self.pick(dice, Some(to)).map(|m| (m.rel, m.row)));
                }
                self.give(to, rows);
            }
            _ => {
                let Flying { to, rel, row, .. } = self.pick(dice, None).unwrap();
                self.give(to, vec![(rel, row)]);
            }
        }
    }

    /// Takes any message from the network, or any to this node.
    fn pick(&mut self, dice: &mut Dice, to: Option<usize>) -> Option<Flying> {
        let fits =
            |(at, message): (usize, &Flying)| to.is_none_or(|to| to == message.to).then_some(at);
        let all: Vec<usize> = self.flying.iter().enumerate().filter_map(fits).collect();
        if all.is_empty() {
            return None;
        }
        Some(self.flying.swap_remove(all[dice.below(all.len())]))
    }

    /// Time goes on, and nothing is in the way of anybody.
    fn calm(&mut self, span: i64) {
        let end = self.now + span;
        while self.now < end {
            self.now += MS;
            for at in 0..self.peers.len() {
                if self.now - self.peers[at].beaten >= 50 * MS {
                    self.beat(at);
                }
                self.sync(at, usize::MAX, true);
            }
            for Flying { to, rel, row, .. } in std::mem::take(&mut self.flying) {
                self.give(to, vec![(rel, row)]);
            }
        }
    }

    /// What the nodes know, for a failure.
    fn show(&mut self) -> String {
        let tables = [
            "clock",
            "upto",
            "promised",
            "tried",
            "kept_from",
            "granted",
            "leading",
            "campaign",
            "governing",
            "promised_by",
            "recovering",
            "next_slot",
            "open",
            "wait",
            "patience",
            "heard",
            "leased",
            "accepted",
        ];
        let mut text = String::new();
        for at in 0..self.peers.len() {
            let clock = self.clock(at);
            text += &format!("node {at} at {clock}:\n");
            for table in tables {
                let rel = self.rel(table);
                if let Some(node) = &mut self.peers[at].node {
                    text += &format!("  {table}: {:?}\n", node.rows(rel));
                }
            }
        }
        text
    }

    fn leader(&self) -> Option<usize> {
        let leads =
            |at: &usize| self.peers[*at].governs && self.peers[*at].leased_until > self.clock(*at);
        (0..self.peers.len()).find(leads)
    }
}

#[test]
fn nodes_elect_one_that_decides_what_is_proposed_in_order() {
    let mut dice = Dice(3);
    let mut net = Net::new(&program(3), 3, &mut dice);
    net.calm(2_000 * MS);
    let leader = net.leader().expect("a leader after two seconds");
    let before = net.applied(leader);
    for _ in 0..5 {
        net.propose(leader);
    }
    net.calm(100 * MS);
    let values: Vec<i64> = (before + 1..=before + 5)
        .map(|slot| int(&net.decided[&slot].as_list().unwrap()[0]))
        .collect();
    assert_eq!(values, [1, 2, 3, 4, 5]);
    for at in 0..3 {
        assert_eq!(net.applied(at), before + 5);
    }
}

#[test]
fn another_leads_within_a_second_when_the_leader_stops() {
    let mut dice = Dice(4);
    let mut net = Net::new(&program(3), 3, &mut dice);
    net.calm(2_000 * MS);
    for _ in 0..10 {
        let leader = net.leader().expect("a leader");
        net.stop(leader, &mut dice);
        net.calm(1_000 * MS);
        let next = net.leader();
        assert!(next.is_some_and(|next| next != leader), "{}", net.show());
        net.start(leader);
        net.calm(1_000 * MS);
    }
}

#[test]
fn one_that_quits_hands_over_at_once() {
    let mut dice = Dice(6);
    let mut net = Net::new(&program(3), 3, &mut dice);
    net.calm(2_000 * MS);
    for _ in 0..10 {
        let leader = net.leader().expect("a leader");
        net.tell(leader, "quits", &[addr(leader)]);
        net.sync(leader, usize::MAX, true);
        net.stop(leader, &mut dice);
        net.calm(60 * MS);
        let next = net.leader();
        assert!(next.is_some_and(|next| next != leader), "{}", net.show());
        net.start(leader);
        net.calm(1_000 * MS);
    }
}

#[test]
fn a_calm_cluster_keeps_its_leader_and_stores_nothing() {
    let mut dice = Dice(5);
    let mut net = Net::new(&program(3), 3, &mut dice);
    net.calm(2_000 * MS);
    let leader = net.leader();
    let stored: Vec<_> = net.peers.iter().map(|peer| peer.stored.clone()).collect();
    for _ in 0..60 {
        net.calm(1_000 * MS);
        assert_eq!(net.leader(), leader);
    }
    let after: Vec<_> = net.peers.iter().map(|peer| peer.stored.clone()).collect();
    assert_eq!(stored, after);
}

/// Any schedule of deliveries, losses, repeats, stops, starts, syncs and clocks, and then calm.
fn any_schedule(programs: &[Planned; 2], seed: u64, case: u32) {
    let mut dice = Dice(seed.wrapping_mul(1_000_003) + u64::from(case));
    let (program, count) = of_case(programs, case);
    let mut net = Net::new(program, count, &mut dice);
    if dice.below(2) == 0 {
        net.calm(2_000 * MS);
    }
    // Each case has likelihoods of its own: what is rare in one is frequent in another.
    let chances = [20, 12, 30, 3, 6, 40, 3, 12, 6, 20, 60, 6, 6].map(|most| dice.below(most) + 1);
    for _ in 0..300 {
        net.step(&mut dice, &chances);
    }
    settles(&mut net, &format!("case {case}"));
}

/// In the calm somebody leads, everything that was decided is known to all, and more can be decided.
fn settles(net: &mut Net, case: &str) {
    let count = net.peers.len();
    net.mend();
    for at in 0..count {
        net.peers[at].paused_until = 0;
        if net.peers[at].node.is_none() {
            net.start(at);
        }
    }
    net.calm(10_000 * MS);
    let leader = net
        .leader()
        .unwrap_or_else(|| panic!("{case}: nobody leads\n{}", net.show()));
    let before = net.decided.len();
    net.propose(leader);
    net.calm(200 * MS);
    let last = *net.decided.keys().last().unwrap();
    assert!(
        net.decided.len() > before,
        "{case}: nothing more is decided"
    );
    for at in 0..count {
        let applied = net.applied(at);
        assert_eq!(applied, last, "{case}: node {at}\n{}", net.show());
    }
}

/// The program of a case, and how many nodes run it.
fn of_case(programs: &[Planned; 2], case: u32) -> (&Planned, usize) {
    let few = case % 4 != 3;
    (&programs[usize::from(!few)], if few { 3 } else { 5 })
}

fn seed() -> u64 {
    std::env::var("BOOMFS_SEED").map_or(1, |s| s.parse().unwrap())
}

#[test]
fn no_slot_gets_two_values_whatever_the_network_does() {
    let programs = [program(3), program(5)];
    for case in 0..crate::driver::cases() / 4 {
        any_schedule(&programs, seed(), case);
    }
}
