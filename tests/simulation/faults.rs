//! What goes wrong in a world, and when: drawn from a seed before anything happens, so that a part of it can be left out
//! and the rest stays as it was.

use anyhow::{Context, Result};
use boomfs_io::Io;
use boomfs_io::sim::Unsynced;
use std::collections::BTreeSet;

/// One thing that goes wrong, or is mended. Nodes are numbers: NameNodes first, then DataNodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A node loses its power, and starts again after so many ms.
    Crash(usize, Unsynced, u64),
    /// A NameNode loses its disk, and takes its own place with a new one.
    LoseDisk(usize),
    /// A NameNode is removed from the cluster, and another one with a new disk added where it was.
    Rejoin(usize),
    /// Bits flip on a disk; the number says which. A NameNode's, in anything that it has stored, and as often as not it is
    /// started again at once; a DataNode's, in some replicas of closed files that another DataNode has too.
    Rot(usize, u64),
    /// What the first sends does not reach the second.
    Cut(usize, usize),
    /// Two do not reach one another.
    Part(usize, usize),
    /// One reaches nobody, and nobody reaches it.
    Alone(usize),
    /// A NameNode does not reach the other NameNodes.
    Apart(usize),
    /// A NameNode and the clients do not reach one another.
    PartUsers(usize),
    /// All cuts are mended.
    Join,
    /// The connections between two break.
    Reset(usize, usize),
    /// A node pauses for so many ms.
    Pause(usize, u64),
    /// Its syncs take up to so many ms.
    SlowDisk(usize, u64),
    /// Its next sync fails.
    FailSync(usize),
    /// Its disk is full for so many ms.
    FillDisk(usize, u64),
    /// Its wall clock jumps, to so many ms ahead.
    Jump(usize, i64),
    /// Its clocks run so many millionths too fast.
    Drift(usize, i64),
    /// Messages take up to so many ms.
    Latency(u64),
}

/// A fault and its time, ms from the beginning of the trouble.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Planned {
    pub at_ms: u64,
    pub fault: Fault,
}

/// So far clocks may run too fast or too slow, millionths, where reads rest on a lease: two differ by less than a tenth.
pub const DRIFT: u64 = 40_000;
/// The same where reads are confirmed.
pub const WILD_DRIFT: u64 = 400_000;

struct Draw<'a> {
    io: &'a Io,
    drift: u64,
}

impl Draw<'_> {
    fn below(&self, n: u64) -> u64 {
        self.io.random_u64() % n.max(1)
    }

    fn node(&self, nodes: usize) -> usize {
        usize::try_from(self.below(nodes as u64)).unwrap_or(0)
    }

    fn around_zero(&self, most: u64) -> i64 {
        i64::try_from(self.below(2 * most + 1)).unwrap_or(0) - i64::try_from(most).unwrap_or(0)
    }

    fn fault(&self, namenodes: usize, nodes: usize) -> Fault {
        // NameNodes are hit more often than the others.
        let node = if self.below(3) > 0 {
            self.node(namenodes)
        } else {
            self.node(nodes)
        };
        let other = (node + 1 + self.node(nodes - 1)) % nodes;
        match self.below(28) {
            0..5 => {
                let unsynced = [Unsynced::Random, Unsynced::Lost, Unsynced::Kept];
                let which = self.node(3);
                let unsynced = unsynced.get(which).copied().unwrap_or(Unsynced::Random);
                Fault::Crash(node, unsynced, 1 + self.below(1_500))
            }
            5 | 6 => Fault::Cut(node, other),
            7 | 8 => Fault::Part(node, other),
            9 => Fault::Alone(node),
            10 => Fault::PartUsers(self.node(namenodes)),
            11..15 => Fault::Join,
            15 | 16 => Fault::Reset(node, other),
            17 | 18 => Fault::Pause(node, 20 + self.below(1_500)),
            19 => Fault::SlowDisk(node, 1 + self.below(80)),
            20 => Fault::FailSync(node),
            21 => Fault::FillDisk(node, 20 + self.below(1_000)),
            22 => Fault::Jump(node, self.around_zero(10_000)),
            23 => Fault::Drift(node, self.around_zero(self.drift)),
            24 | 25 => Fault::Apart(self.node(namenodes)),
            _ => Fault::Latency(1 + self.below(20)),
        }
    }
}

/// What goes wrong in so many ms, with clocks that drift by so many millionths at most.
pub fn plan(io: &Io, namenodes: usize, datanodes: usize, span_ms: u64, drift: u64) -> Vec<Planned> {
    let draw = Draw { io, drift };
    let pause = [60, 200, 500];
    let pause = pause.get(draw.node(3)).copied().unwrap_or(200);
    let mut all = Vec::new();
    let mut at_ms = 0;
    while at_ms < span_ms {
        let fault = draw.fault(namenodes, namenodes + datanodes);
        all.push(Planned { at_ms, fault });
        at_ms += 20 + draw.below(2 * pause);
    }
    let mut losses = Vec::new();
    // One NameNode at most: of three, two have what was acknowledged.
    if draw.below(3) == 0 {
        losses.push(Fault::LoseDisk(draw.node(namenodes)));
    } else if draw.below(3) == 0 {
        losses.push(Fault::Rot(draw.node(namenodes), io.random_u64()));
    }
    // While one has left, the others have what was acknowledged, and neither loses it.
    let all_keep = losses.is_empty();
    for fault in losses {
        let at_ms = draw.below(span_ms);
        all.push(Planned { at_ms, fault });
    }
    // Late, when there are files that rot.
    for _ in 0..draw.below(3) {
        if datanodes > 0 {
            let fault = Fault::Rot(namenodes + draw.node(datanodes), io.random_u64());
            let at_ms = span_ms - draw.below(span_ms / 4);
            all.push(Planned { at_ms, fault });
        }
    }
    if all_keep && draw.below(2) == 0 {
        let fault = Fault::Rejoin(draw.node(namenodes));
        let at_ms = draw.below(span_ms);
        all.push(Planned { at_ms, fault });
    }
    all.sort_by_key(|planned| planned.at_ms);
    all
}

/// Which of the planned faults are to happen, as `3,17,20`; `None`: all.
///
/// # Errors
/// It is no list of numbers.
pub fn kept(text: Option<&str>) -> Result<Option<BTreeSet<usize>>> {
    let Some(text) = text else {
        return Ok(None);
    };
    let numbers = text.split(',').filter(|part| !part.is_empty());
    let numbers = numbers.map(|part| {
        let number = part.trim().parse();
        number.with_context(|| format!("BOOMFS_SIM_FAULTS: {part:?} is no number"))
    });
    numbers.collect::<Result<_>>().map(Some)
}

/// A small part of what goes wrong that still `fails`: pieces are left out, half of all at first and one at a time in
/// the end, as long as it does (Zeller and Hildebrandt's ddmin, without its complements), within so many tries.
pub fn shrink(
    all: BTreeSet<usize>,
    tries: usize,
    mut fails: impl FnMut(&BTreeSet<usize>) -> bool,
) -> BTreeSet<usize> {
    let mut left = all;
    let mut tries = tries;
    let mut piece = left.len().div_ceil(2);
    while piece > 0 {
        let mut from = 0;
        while from < left.len() && tries > 0 {
            tries -= 1;
            let without: BTreeSet<usize> = left
                .iter()
                .enumerate()
                .filter(|(at, _)| *at < from || *at >= from + piece)
                .map(|(_, fault)| *fault)
                .collect();
            if fails(&without) {
                left = without;
            } else {
                from += piece;
            }
        }
        piece = if piece == 1 { 0 } else { piece.div_ceil(2) };
    }
    left
}

#[test]
fn what_does_not_matter_is_left_out() {
    let fails = |faults: &BTreeSet<usize>| faults.contains(&7) && faults.contains(&23);
    let left = shrink((0..40).collect(), 1_000, fails);
    assert_eq!(left, BTreeSet::from([7, 23]));
    // One that fails without any trouble needs none.
    assert!(shrink((0..40).collect(), 1_000, |_| true).is_empty());
    // Tries are limited; what is left still fails.
    let left = shrink((0..40).collect(), 3, fails);
    assert!(fails(&left));
}

#[test]
fn one_seed_plans_one_trouble() {
    let plans = [5, 5, 6].map(|seed| {
        let world = boomfs_io::sim::World::new(seed);
        plan(&world.node("fate"), 3, 3, 6_000, DRIFT)
    });
    assert_eq!(plans[0], plans[1]);
    assert_ne!(plans[0], plans[2]);
}
