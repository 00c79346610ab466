//! Messages that come together do what they do one after the other in some order, in which a few of the answers may be
//! lost. So what holds of nodes that take one message at a time holds of these.

use super::mistakes::Mistake;
use super::{Dice, Flying, MS, Net, changed_program, of_case, program, seed};
use overlog::api::Time;
use overlog::ir::RelId;
use overlog::node::Planned;
use overlog::{Row, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// What a node decides by. What is left out only says when it loses patience.
const TABLES: &[&str] = &[
    "promised",
    "tried",
    "accepted",
    "kept_from",
    "upto",
    "agreed",
    "campaign",
    "leading",
    "governing",
    "granted",
    "heard",
    "leased",
];

/// And what one decides by that leads; the next election clears these.
const LEADERS: &[&str] = &["open", "voted", "acked", "recovering", "next_slot"];

/// A column of `alive_ack`.
const UPTO_OF_ACK: usize = 4;

/// How many messages come together, at most: all their orders are tried.
const MOST: usize = 4;

/// What came of some messages.
#[derive(PartialEq)]
struct Outcome {
    tables: BTreeMap<&'static str, Vec<Row>>,
    chosen: BTreeSet<Row>,
    said: BTreeSet<(Value, RelId, Vec<Value>)>,
}

impl Outcome {
    /// It is this one, or this one with some of its messages lost.
    fn allows(&self, other: &Outcome) -> bool {
        self.tables == other.tables
            && self.chosen == other.chosen
            && self.said.is_superset(&other.said)
    }
}

/// Nodes to which much has happened, always the same for a case.
fn net_of(programs: &[Planned; 2], case: u32) -> Net {
    let mut dice = Dice(seed().wrapping_mul(2_000_003) + u64::from(case));
    let (program, count) = of_case(programs, case);
    let mut net = Net::new(program, count, &mut dice);
    if dice.one_in(2) {
        net.calm(600 * MS);
    }
    // Few messages are delivered, so that many are on their way.
    let chances = [10, 12, 20, 2, 6, 40, 3, 4, 4, 1, 20, 6, 3].map(|most| dice.below(most) + 1);
    let least = 60 + dice.below(60);
    for step in 0..4 * least {
        net.step(&mut dice, &chances);
        if step >= least && awaited(&net, 0).is_some() {
            break;
        }
    }
    net
}

/// A node that runs and to which several messages are on their way, looked for from this one on.
fn awaited(net: &Net, from: usize) -> Option<usize> {
    let count = net.peers.len();
    let coming = |at: usize| net.flying.iter().filter(|m| m.to == at).count();
    let nodes = (0..count).map(|n| (n + from) % count);
    nodes
        .filter(|at| net.peers[*at].node.is_some())
        .find(|at| coming(*at) > 2)
}

/// A node that runs, and some of the messages that are on their way to it.
fn arrivals(net: &Net, dice: &mut Dice) -> Option<(usize, Vec<(RelId, Row)>)> {
    let at = awaited(net, dice.below(net.peers.len()))?;
    let mut all: Vec<&Flying> = net.flying.iter().filter(|m| m.to == at).collect();
    let mut rows = Vec::new();
    while !all.is_empty() && rows.len() < MOST {
        let message = all.swap_remove(dice.below(all.len()));
        rows.push((message.rel, message.row.clone()));
    }
    Some((at, rows))
}

/// Gives a node groups of messages, one group a run, all at the same time.
fn outcome(net: &mut Net, at: usize, groups: &[Vec<(RelId, Row)>]) -> Outcome {
    net.now += MS / 2;
    let clock = net.clock(at);
    let time = Time {
        wall_ns: clock,
        mono_ns: clock,
    };
    let (is_chosen, is_ack) = (net.rel("chosen"), net.rel("alive_ack"));
    let rels = |names: &[&'static str]| -> Vec<_> {
        names.iter().map(|name| (*name, net.rel(name))).collect()
    };
    let (mut tables, leaders) = (rels(TABLES), rels(LEADERS));
    let leading = net.rel("leading");
    let node = net.peers[at].node.as_mut().unwrap();
    let (mut chosen, mut said) = (BTreeSet::new(), BTreeSet::new());
    for group in groups {
        let out = node.run(group.clone(), time).unwrap();
        let wrong = (out.errors, out.violations, out.conflicts);
        assert_eq!(wrong, Default::default());
        let observed = out.observed.into_iter();
        chosen.extend(observed.filter_map(|(rel, row)| (rel == is_chosen).then_some(row)));
        said.extend(out.messages.into_iter().map(|m| {
            let mut row = m.row.values();
            if m.rel == is_ack {
                // Up to where it knows all: it may say too little.
                row.remove(UPTO_OF_ACK);
            }
            (m.to, m.rel, row)
        }));
    }
    if !node.rows(leading).is_empty() {
        tables.extend(leaders);
    }
    let mut rows = |rel| {
        let mut rows = node.rows(rel);
        rows.sort();
        rows
    };
    Outcome {
        tables: tables
            .into_iter()
            .map(|(name, rel)| (name, rows(rel)))
            .collect(),
        chosen,
        said,
    }
}

/// All orders of so many things.
fn orders(count: usize) -> Vec<Vec<usize>> {
    if count == 0 {
        return vec![Vec::new()];
    }
    let with_last = |order: Vec<usize>| {
        (0..count).map(move |place| {
            let mut order = order.clone();
            order.insert(place, count - 1);
            order
        })
    };
    orders(count - 1).into_iter().flat_map(with_last).collect()
}

/// How many messages came together; or what they did that they do in no order.
fn try_case(programs: &[Planned; 2], case: u32) -> Result<usize, String> {
    let mut net = net_of(programs, case);
    let Some((at, rows)) = arrivals(&net, &mut Dice(u64::from(case))) else {
        return Ok(0);
    };
    let together = outcome(&mut net, at, std::slice::from_ref(&rows));
    let mut all = String::new();
    for order in orders(rows.len()) {
        let groups: Vec<_> = order.iter().map(|n| vec![rows[*n].clone()]).collect();
        let in_order = outcome(&mut net_of(programs, case), at, &groups);
        if in_order.allows(&together) {
            return Ok(rows.len());
        }
        all += &format!("{order:?}:\n{}", differences(&net, &together, &in_order));
    }
    let came: Vec<String> = rows
        .iter()
        .map(|(rel, row)| format!("  {} {row:?}\n", net.planned.program().relation(*rel).name))
        .collect();
    Err(format!(
        "case {case}: no order does what these do together to node {at}\n{}{all}{}",
        came.concat(),
        net.show()
    ))
}

fn differences(net: &Net, together: &Outcome, in_order: &Outcome) -> String {
    let mut text = String::new();
    for (table, rows) in &together.tables {
        let others = in_order.tables.get(table);
        if others != Some(rows) {
            text += &format!("  {table}: together {rows:?}, in order {others:?}\n");
        }
    }
    if in_order.chosen != together.chosen {
        let (all, others) = (&together.chosen, &in_order.chosen);
        text += &format!("  chosen: together {all:?}, in order {others:?}\n");
    }
    for (_, rel, row) in together.said.difference(&in_order.said) {
        let name = &net.planned.program().relation(*rel).name;
        text += &format!("  only together: {name} {row:?}\n");
    }
    text
}

#[test]
fn messages_that_come_together_do_what_they_do_in_some_order() {
    let programs = [program(3), program(5)];
    let counts: Vec<usize> = (0..2 * crate::driver::cases())
        .map(|case| try_case(&programs, case).unwrap_or_else(|why| panic!("{why}")))
        .collect();
    let used = counts.iter().filter(|count| **count > 2).count();
    assert!(4 * used > 3 * counts.len(), "too few at once: {counts:?}");
}

/// If each message were heard by its own ballot, a vote and a promise of one tick would not know of one another.
#[test]
fn votes_and_promises_of_one_tick_that_ignore_one_another_are_noticed() {
    let mistake = Mistake {
        name: "each message of a tick is heard by its own ballot",
        from: "bound(max(B, P)) :- asked_most(B), promised(P);",
        to: "bound(max(B, P)) :- asked(B), promised(P);",
    };
    let programs = [3, 5].map(|count| changed_program(count, Some(&mistake)));
    let noticed = |case: &u32| {
        let tried = catch_unwind(AssertUnwindSafe(|| try_case(&programs, *case)));
        // A case that goes wrong before is none.
        matches!(tried, Ok(Err(_)))
    };
    let first = (0..2_000).find(noticed);
    println!("{first:?}");
    assert!(first.is_some());
}
