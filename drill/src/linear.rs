//! Is a history linearizable? The search of Wing and Gong (1993), which tries what can have come first, with the
//! memory of Lowe (2017), which never looks twice at the same operations done and the same state.

use crate::history::Operation;
use std::collections::HashSet;
use std::hash::Hash;

/// An object that does one operation at a time.
pub trait Model {
    /// Its state.
    type State: Clone + Eq + Hash;
    /// What can be done.
    type Op;
    /// What comes of it.
    type Answer;
    /// The state at the beginning.
    fn start(&self) -> Self::State;
    /// The state after an operation with this answer (`None`: whichever it was), or `None`: it cannot have that answer.
    fn step(
        &self,
        state: &Self::State,
        op: &Self::Op,
        answer: Option<&Self::Answer>,
    ) -> Option<Self::State>;
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// There is an order.
    Linearizable,
    /// There is none.
    Broken {
        /// How many operations the longest order that was found has.
        placed: usize,
        /// Operations, by their place in the history, of which one cannot follow it.
        stuck: Vec<usize>,
    },
    /// The search was given up after so many steps.
    Unknown {
        /// Steps.
        steps: u64,
    },
}

/// Operations as a list of their beginnings and ends, from which what is placed is taken out.
struct Events {
    /// Operation and whether it ends here.
    items: Vec<(usize, bool)>,
    next: Vec<usize>,
    before: Vec<usize>,
    /// Where an operation begins and ends in `items`.
    places: Vec<(usize, usize)>,
}

impl Events {
    /// Item 0 is a head that stays.
    fn new<O, A>(history: &[Operation<O, A>]) -> Events {
        let mut order: Vec<(u64, bool, usize)> = Vec::new();
        for (at, operation) in history.iter().enumerate() {
            order.push((operation.begun_ns, false, at));
            let end = operation.ended.as_ref().map_or(u64::MAX, |(ns, _)| *ns);
            order.push((end, true, at));
        }
        // What begins in the moment in which another ends may have overlapped it.
        order.sort_unstable();
        let count = order.len() + 1;
        let mut events = Events {
            items: vec![(usize::MAX, true)],
            next: (1..=count).collect(),
            before: (0..count).map(|at| at.saturating_sub(1)).collect(),
            places: vec![(0, 0); history.len()],
        };
        for (at, (_, ends, operation)) in (1..).zip(order) {
            events.items.push((operation, ends));
            if let Some(place) = events.places.get_mut(operation) {
                if ends {
                    place.1 = at;
                } else {
                    place.0 = at;
                }
            }
        }
        events
    }

    fn after(&self, at: usize) -> Option<usize> {
        self.next.get(at).copied().filter(|n| *n < self.items.len())
    }

    fn set_next(&mut self, at: usize, to: usize) {
        if let Some(next) = self.next.get_mut(at) {
            *next = to;
        }
    }

    fn set_before(&mut self, at: usize, to: usize) {
        if let Some(before) = self.before.get_mut(at) {
            *before = to;
        }
    }

    fn unlink(&mut self, at: usize) {
        let (before, next) = (self.before.get(at).copied(), self.next.get(at).copied());
        if let (Some(before), Some(next)) = (before, next) {
            self.set_next(before, next);
            self.set_before(next, before);
        }
    }

    fn link(&mut self, at: usize) {
        let (before, next) = (self.before.get(at).copied(), self.next.get(at).copied());
        if let (Some(before), Some(next)) = (before, next) {
            self.set_next(before, at);
            self.set_before(next, at);
        }
    }

    fn take_out(&mut self, operation: usize) {
        if let Some((begin, end)) = self.places.get(operation).copied() {
            self.unlink(begin);
            self.unlink(end);
        }
    }

    /// Puts back what was taken out last.
    fn put_back(&mut self, operation: usize) {
        if let Some((begin, end)) = self.places.get(operation).copied() {
            self.link(end);
            self.link(begin);
        }
    }
}

/// Which operations are placed.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Placed(Vec<u64>);

impl Placed {
    fn flip(&mut self, at: usize) {
        if let Some(word) = self.0.get_mut(at / 64) {
            *word ^= 1 << (at % 64);
        }
    }
}

/// Looks for an order. `most`: steps after which it is given up.
pub fn check<M: Model>(model: &M, history: &[Operation<M::Op, M::Answer>], most: u64) -> Verdict {
    let mut events = Events::new(history);
    let mut placed = Placed(vec![0; history.len().div_ceil(64)]);
    let mut state = model.start();
    let mut seen: HashSet<(Placed, M::State)> = HashSet::new();
    let mut stack: Vec<(usize, M::State)> = Vec::new();
    let (mut longest, mut stuck) = (0, Vec::new());
    let mut cursor = events.after(0);
    let mut steps = 0;
    loop {
        steps += 1;
        if steps > most {
            return Verdict::Unknown { steps: most };
        }
        let item = cursor.and_then(|at| Some((at, *events.items.get(at)?)));
        let operation = match item {
            Some((_, (at, false))) => history.get(at).map(|operation| (at, operation)),
            _ => None,
        };
        if let Some((at, operation)) = operation {
            let answer = operation.ended.as_ref().map(|(_, answer)| answer);
            if let Some(after) = model.step(&state, &operation.op, answer) {
                placed.flip(at);
                if seen.insert((placed.clone(), after.clone())) {
                    stack.push((at, std::mem::replace(&mut state, after)));
                    events.take_out(at);
                    cursor = events.after(0);
                    continue;
                }
                placed.flip(at);
            }
            cursor = cursor.and_then(|at| events.after(at));
            continue;
        }
        // An end: whatever ends here must come before it. What never ended need not come at all.
        let ended = item.and_then(|(_, (at, _))| history.get(at));
        if ended.is_none_or(|operation| operation.ended.is_none()) {
            return Verdict::Linearizable;
        }
        if stack.len() >= longest {
            longest = stack.len();
            stuck = open(&events);
        }
        let Some((at, earlier)) = stack.pop() else {
            return Verdict::Broken {
                placed: longest,
                stuck,
            };
        };
        state = earlier;
        placed.flip(at);
        events.put_back(at);
        cursor = events
            .places
            .get(at)
            .and_then(|(begin, _)| events.after(*begin));
    }
}

/// Operations that may come next: those that begin before the first end.
fn open(events: &Events) -> Vec<usize> {
    let mut open = Vec::new();
    let mut at = events.after(0);
    while let Some(place) = at {
        match events.items.get(place) {
            Some((operation, false)) => open.push(*operation),
            _ => break,
        }
        at = events.after(place);
    }
    open
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A number that can be set and read.
    struct Register;

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Op {
        Set(u8),
        Get,
    }

    impl Model for Register {
        type State = u8;
        type Op = Op;
        type Answer = u8;
        fn start(&self) -> u8 {
            0
        }
        fn step(&self, state: &u8, op: &Op, answer: Option<&u8>) -> Option<u8> {
            match op {
                Op::Set(n) => Some(*n),
                Op::Get => answer.is_none_or(|a| a == state).then_some(*state),
            }
        }
    }

    fn did(process: u64, op: Op, begun_ns: u64, ended: Option<(u64, u8)>) -> Operation<Op, u8> {
        Operation {
            process,
            op,
            begun_ns,
            ended,
        }
    }

    fn holds(history: &[Operation<Op, u8>]) -> bool {
        check(&Register, history, 1_000_000) == Verdict::Linearizable
    }

    #[test]
    fn reads_that_overlap_a_write_see_either_value_but_never_go_back() {
        let write = did(1, Op::Set(5), 0, Some((100, 0)));
        let read = |from, to, got| did(2, Op::Get, from, Some((to, got)));
        assert!(holds(&[write.clone(), read(10, 20, 0), read(30, 40, 5)]));
        assert!(!holds(&[write.clone(), read(10, 20, 5), read(30, 40, 0)]));
        assert!(!holds(&[write, read(110, 120, 0)]), "a stale read");
    }

    #[test]
    fn what_was_never_answered_may_take_effect_late_or_never() {
        let lost = did(1, Op::Set(7), 0, None);
        let read = |from, got| did(2, Op::Get, from, Some((from + 1, got)));
        assert!(holds(&[lost.clone(), read(10, 0), read(20, 0)]));
        assert!(holds(&[lost.clone(), read(10, 0), read(20, 7)]));
        assert!(!holds(&[lost.clone(), read(10, 7), read(20, 0)]));
        assert!(
            !holds(&[read(0, 7), did(1, Op::Set(7), 5, None)]),
            "before it began"
        );
    }

    #[test]
    fn a_broken_history_names_what_cannot_follow() {
        let history = [
            did(1, Op::Set(1), 0, Some((10, 0))),
            did(1, Op::Set(2), 20, Some((30, 0))),
            did(2, Op::Get, 40, Some((50, 1))),
        ];
        assert_eq!(
            check(&Register, &history, 1_000),
            Verdict::Broken {
                placed: 2,
                stuck: vec![2]
            }
        );
        assert_eq!(check(&Register, &history, 1), Verdict::Unknown { steps: 1 });
    }

    /// All orders, one by one.
    fn by_force(history: &[Operation<Op, u8>], done: &mut Vec<usize>, state: u8) -> bool {
        let left: Vec<usize> = (0..history.len()).filter(|at| !done.contains(at)).collect();
        if left.iter().all(|at| history[*at].ended.is_none()) {
            return true;
        }
        left.iter().any(|at| {
            let first = left.iter().all(|other| {
                history[*other]
                    .ended
                    .is_none_or(|(end, _)| end >= history[*at].begun_ns)
            });
            let operation = &history[*at];
            let answer = operation.ended.as_ref().map(|(_, a)| a);
            let Some(after) = Register
                .step(&state, &operation.op, answer)
                .filter(|_| first)
            else {
                return false;
            };
            done.push(*at);
            let holds = by_force(history, done, after);
            done.pop();
            holds
        })
    }

    fn operation() -> impl Strategy<Value = Operation<Op, u8>> {
        let op = prop_oneof![(0_u8..3).prop_map(Op::Set), Just(Op::Get)];
        (0_u64..3, op, 0_u64..20, 1_u64..8, 0_u8..3, any::<bool>()).prop_map(
            |(process, op, begun, span, answer, lost)| {
                let lost = lost && process == 0;
                did(
                    process,
                    op,
                    begun,
                    (!lost).then_some((begun + span, answer)),
                )
            },
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]
        #[test]
        fn the_search_finds_what_trying_all_orders_finds(history in prop::collection::vec(operation(), 0..7)) {
            let forced = by_force(&history, &mut Vec::new(), 0);
            prop_assert_eq!(holds(&history), forced);
        }
    }
}
