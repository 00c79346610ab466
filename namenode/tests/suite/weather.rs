//! Schedules in which time runs on, as it does in a cluster: beats come when they are due, messages take as long as
//! their link lets them, nodes stop, pause and start, and links break and are mended.

use super::{Dice, Link, MS, Net, of_case, program, seed};
use overlog::node::Planned;

/// When what is on a link comes that is held.
const NEVER: i64 = i64::MAX / 2;

/// How long a message takes, ns; `None`: it is lost.
pub fn delay(link: Option<Link>, dice: &mut Dice) -> Option<i64> {
    match link {
        None => Some(dice.span(6 * MS)),
        Some(Link::Cut) => None,
        Some(Link::Lossy) => dice.one_in(2).then(|| dice.span(6 * MS)),
        Some(Link::Held) => Some(NEVER),
        Some(Link::Slow) if dice.one_in(5) => Some(dice.span(800 * MS)),
        Some(Link::Slow) => Some(dice.span(100 * MS)),
    }
}

/// How often things happen. Each is the mean time between two of its kind, in milliseconds.
pub struct Weather {
    /// A link breaks, or all are mended.
    links: usize,
    /// A disk finishes a sync.
    sync: usize,
    /// A node stops that has something to sync.
    stop_unsynced: usize,
    /// A node stops.
    stop: usize,
    /// One that stopped starts.
    start: usize,
    /// A node pauses.
    pause: usize,
    /// The leader is asked for something.
    propose: usize,
    /// A node takes a checkpoint.
    checkpoint: usize,
}

impl Weather {
    pub fn any(dice: &mut Dice) -> Weather {
        let mut one = |of: &[usize]| of[dice.below(of.len())];
        Weather {
            links: one(&[40, 120, 400]),
            sync: one(&[1, 4, 20]),
            stop_unsynced: one(&[10, 100, 50_000]),
            stop: one(&[300, 1_000, 50_000]),
            start: one(&[3, 30, 300]),
            pause: one(&[500, 5_000, 50_000]),
            propose: one(&[4, 20]),
            checkpoint: one(&[200, 3_000, 50_000]),
        }
    }

    /// So much time passes.
    pub fn pass(&self, net: &mut Net, dice: &mut Dice, span: i64) {
        let end = net.now + span;
        while net.now < end {
            net.now += MS;
            if dice.one_in(self.links) {
                net.change_link(dice);
            }
            for at in 0..net.peers.len() {
                self.step(net, dice, at);
            }
            net.deliver_due(dice);
        }
    }

    /// A millisecond of one node.
    fn step(&self, net: &mut Net, dice: &mut Dice, at: usize) {
        let peer = &net.peers[at];
        if peer.node.is_none() {
            if dice.one_in(self.start) {
                net.start(at);
            }
            return;
        }
        let stores = peer.unsynced.iter().any(|run| !run.changes.is_empty());
        if dice.one_in(self.stop) || (stores && dice.one_in(self.stop_unsynced)) {
            return net.stop(at, dice);
        }
        if dice.one_in(self.pause) {
            net.peers[at].paused_until = net.now + dice.span(600 * MS);
        }
        if net.peers[at].paused_until > net.now {
            return;
        }
        if net.now - net.peers[at].beaten >= 50 * MS {
            net.beat(at);
        }
        if dice.one_in(self.sync) {
            net.sync(at, 1 + dice.below(3), true);
        }
        if net.peers[at].governs && dice.one_in(self.propose) {
            net.propose(at);
        }
        if dice.one_in(self.checkpoint) {
            net.checkpoint(at);
        }
    }
}

impl Net {
    /// Links break and are mended, one way or both.
    pub fn change_link(&mut self, dice: &mut Dice) {
        let (mut a, b) = (dice.below(self.peers.len()), dice.below(self.peers.len()));
        if dice.one_in(2) {
            a = self.governs().unwrap_or(a);
        }
        if a == b || dice.one_in(6) {
            return self.mend();
        }
        if dice.one_in(4) {
            self.links.remove(&(a, b));
            return self.release();
        }
        let link = [Link::Slow, Link::Cut, Link::Lossy, Link::Held][dice.below(4)];
        let others: Vec<usize> = if dice.one_in(3) {
            // One is alone.
            (0..self.peers.len()).filter(|other| *other != a).collect()
        } else {
            vec![b]
        };
        let ways = dice.below(3);
        for other in others {
            if ways != 0 {
                self.links.insert((a, other), link);
            }
            if ways != 1 {
                self.links.insert((other, a), link);
            }
        }
    }

    /// One that believes that it governs.
    fn governs(&self) -> Option<usize> {
        self.peers.iter().position(|peer| peer.governs)
    }

    /// All links are as they should be; what was held comes.
    pub fn mend(&mut self) {
        self.links.clear();
        self.release();
    }

    /// What was held comes, where the link is mended.
    fn release(&mut self) {
        for message in &mut self.flying {
            let held = self.links.get(&(message.from, message.to)) == Some(&Link::Held);
            if message.due >= NEVER && !held {
                message.due = self.now + self.delays.span(6 * MS);
            }
        }
    }

    /// What is due comes, alone or together with what else is due there.
    fn deliver_due(&mut self, dice: &mut Dice) {
        let now = self.now;
        let all = std::mem::take(&mut self.flying);
        let (due, later): (Vec<_>, Vec<_>) = all
            .into_iter()
            .partition(|message| message.due <= now && self.peers[message.to].paused_until <= now);
        self.flying = later;
        let together = dice.one_in(2);
        let mut rows: Vec<Vec<_>> = self.peers.iter().map(|_| Vec::new()).collect();
        for message in due {
            if together {
                rows[message.to].push((message.rel, message.row));
            } else {
                self.give(message.to, vec![(message.rel, message.row)]);
            }
        }
        for (to, rows) in rows.into_iter().enumerate() {
            if !rows.is_empty() {
                self.give(to, rows);
            }
        }
    }
}

/// Weather of one kind for some seconds, then of another, and then calm.
pub fn any_weather(programs: &[Planned; 2], case: u32) {
    let mut dice = Dice(seed().wrapping_mul(1_000_033) + u64::from(case));
    let (program, count) = of_case(programs, case);
    let mut net = Net::new(program, count, &mut dice);
    net.calm(1_000 * MS);
    for _ in 0..2 {
        let span = dice.span(4_000 * MS);
        Weather::any(&mut dice).pass(&mut net, &mut dice, span);
    }
    super::settles(&mut net, &format!("case {case}"));
}

#[test]
fn no_slot_gets_two_values_in_any_weather() {
    let programs = [program(3), program(5)];
    for case in 0..crate::driver::cases() {
        any_weather(&programs, case);
    }
}
