//! The search for an order is held against another one's: `todc-utils` has the same algorithm, written by others.

use crate::history::Operation;
use crate::linear::{Model, Verdict, check};
use crate::model::{Answer, Directory, Op};
use proptest::prelude::*;
use proptest::sample::Index;
use std::collections::{BTreeMap, BTreeSet};
use todc_utils::linearizability::WGLChecker;
use todc_utils::linearizability::history::{Action, History};
use todc_utils::specifications::Specification;

type Did = Operation<Op, Answer>;

/// A directory, as the other search wants it.
struct Other;

impl Specification for Other {
    type State = BTreeMap<String, u64>;
    type Operation = (Op, Option<Answer>);

    fn init() -> Self::State {
        Directory.start()
    }

    fn apply((op, answer): &Self::Operation, state: &Self::State) -> (bool, Self::State) {
        match Directory.step(state, op, answer.as_ref()) {
            Some(next) => (true, next),
            None => (false, state.clone()),
        }
    }
}

/// The other search does not know of operations without an answer: each is tried as one that came to pass, and as none.
fn other_holds(history: &[Did]) -> bool {
    let lost: Vec<usize> = (0..history.len())
        .filter(|at| history[*at].ended.is_none())
        .collect();
    (0..1_u32 << lost.len()).any(|chosen| {
        let dropped: BTreeSet<usize> = (0..lost.len())
            .filter(|at| chosen >> at & 1 == 1)
            .map(|at| lost[at])
            .collect();
        let mut events = Vec::new();
        for (at, did) in history.iter().enumerate() {
            if !dropped.contains(&at) {
                let end = did.ended.as_ref().map_or(u64::MAX, |(end, _)| *end);
                events.extend([(did.begun_ns, false, at), (end, true, at)]);
            }
        }
        events.sort_unstable();
        let actions: Vec<_> = events
            .into_iter()
            .map(|(_, ends, at)| {
                let did = &history[at];
                let what = (did.op.clone(), did.ended.clone().map(|(_, answer)| answer));
                let action = if ends { Action::Response } else { Action::Call };
                (at, action(what))
            })
            .collect();
        actions.is_empty() || WGLChecker::<Other>::is_linearizable(History::from_actions(actions))
    })
}

/// What a directory answers.
fn answer(state: &BTreeMap<String, u64>, op: &Op, fresh: u64) -> Answer {
    match op {
        Op::Create(name) if state.contains_key(name) => Answer::Exists,
        Op::Create(_) => Answer::File(fresh),
        Op::Unlink(name) if state.contains_key(name) => Answer::Done,
        Op::Unlink(_) => Answer::Missing,
        Op::Rename(name, _) | Op::Lookup(name) => state
            .get(name)
            .map_or(Answer::Missing, |file| Answer::File(*file)),
        Op::List => Answer::Names(state.clone()),
    }
}

/// An operation, when it takes effect, and how long before and after that it begins and ends; `None`: no answer.
type Step = (Op, u64, u64, Option<u64>);

fn step() -> impl Strategy<Value = Step> {
    let name = || (0_u8..3).prop_map(|name| format!("n{name}"));
    let op = prop_oneof![
        3 => name().prop_map(Op::Create),
        2 => name().prop_map(Op::Unlink),
        2 => (name(), name()).prop_map(|(from, to)| Op::Rename(from, to)),
        2 => name().prop_map(Op::Lookup),
        2 => Just(Op::List),
    ];
    let after = prop_oneof![7 => (0_u64..20).prop_map(Some), 1 => Just(None)];
    (op, 20_u64..120, 0_u64..20, after)
}

/// What clients of a real directory saw; no more than four operations have no answer.
fn history(mut steps: Vec<Step>) -> Vec<Did> {
    steps.sort_by_key(|(_, effect, ..)| *effect);
    let (mut state, mut lost) = (Directory.start(), 0);
    let mut history = Vec::new();
    for (at, (op, effect, before, after)) in (0_u64..).zip(steps) {
        let told = answer(&state, &op, at + 1);
        state = Directory
            .step(&state, &op, Some(&told))
            .expect("a directory's own answer");
        lost += u64::from(after.is_none());
        let after = after.or((lost > 4).then_some(0));
        history.push(Did {
            process: at,
            op,
            begun_ns: effect - before,
            ended: after.map(|after| (effect + after, told)),
        });
    }
    history
}

/// Gives one operation the answer of another.
fn spoil(history: &mut [Did], to: &Index, from: &Index) {
    if history.is_empty() {
        return;
    }
    let answer = from.get(history).ended.clone().map(|(_, answer)| answer);
    let spoilt = to.index(history.len());
    if let (Some((_, told)), Some(answer)) = (&mut history[spoilt].ended, answer) {
        *told = answer;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3_000, ..ProptestConfig::default() })]
    #[test]
    fn both_searches_find_the_same(
        steps in prop::collection::vec(step(), 0..24),
        spoilt in prop::option::of((any::<Index>(), any::<Index>())),
    ) {
        let mut history = history(steps);
        if let Some((to, from)) = &spoilt {
            spoil(&mut history, to, from);
        }
        let holds = check(&Directory, &history, 10_000_000) == Verdict::Linearizable;
        prop_assert_eq!(holds, other_holds(&history));
        prop_assert!(holds || spoilt.is_some(), "a directory did this");
    }
}
