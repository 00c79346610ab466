//! Mistakes planted in the Paxos rules, one at a time: schedules must show each of them.

use std::sync::atomic::{AtomicU32, Ordering};

use super::{any_schedule, changed_program, seed, weather::any_weather};

/// A mistake that somebody could make in the rules.
pub struct Mistake {
    pub name: &'static str,
    /// What the rules say.
    pub from: &'static str,
    /// What is put in its place.
    pub to: &'static str,
}

const fn mistake(name: &'static str, from: &'static str, to: &'static str) -> Mistake {
    Mistake { name, from, to }
}

/// Each must be found. docs/PAXOS.md has the table.
const MISTAKES: &[Mistake] = &[
    mistake(
        "a promise is not stored",
        "table promised(Ballot: max<list>) keys();",
        "table promised(Ballot: max<list>) keys() volatile;",
    ),
    mistake(
        "a vote is not stored",
        "table accepted(Slot: int, Vote: max<list>) keys(Slot);",
        "table accepted(Slot: int, Vote: max<list>) keys(Slot) volatile;",
    ),
    mistake(
        "a vote is told before it is stored",
        "event vote(@To: addr, From: int, Ballot: list, Slot: int);",
        "event vote(@To: addr, From: int, Ballot: list, Slot: int) eager;",
    ),
    mistake(
        "a leader counts its own vote before it is stored",
        "ask_votes: accept(@A, A == Me ? addr(\"disk\") : Me, B, S, U, V)",
        "ask_votes: accept(@A, Me, B, S, U, V)",
    ),
    mistake(
        "a majority of votes is one short",
        "voted(S, N), contains(Ms, N) }, 2 * C > size(Ms);",
        "voted(S, N), contains(Ms, N) }, 2 * C > size(Ms) - 2;",
    ),
    mistake(
        "a majority of promises is one short",
        "promised_by(N, _), contains(Ms, N) }, 2 * C <= size(Ms);",
        "promised_by(N, _), contains(Ms, N) }, 2 * C <= size(Ms) - 2;",
    ),
    mistake(
        "votes that were told in promises are not kept",
        "note_votes: recovered(X[0], X[1]) :- got_promise(_, _, Votes), X in Votes;",
        "note_votes: recovered(X[0], X[1]) :- got_promise(_, _, Votes), X in Votes, X[0] < 0;",
    ),
    mistake(
        "a promise tells no votes",
        "{ accepted(S, V), S > From };",
        "{ accepted(S, V), S > From + 1000000 };",
    ),
    mistake(
        "what others know to be chosen is not waited for",
        "notin misses(B, _), upto(U), clock(U, _);",
        "upto(U), clock(U, _);",
    ),
    mistake(
        "chosen as soon as it is proposed",
        "know_agreed: knows(S) :- agrees(S);",
        "know_agreed: knows(S) :- agrees(S);\nknow_proposed: knows(S) :- open(S, _), beat(_);",
    ),
    mistake(
        "a follower takes any vote of its own for what was chosen",
        "accepted(S, V), V[0] == B;\nknow_caught",
        "accepted(S, V), V[0] <= B;\nknow_caught",
    ),
    mistake(
        "a leader governs before its own batch is applied",
        "recovering(_, S);\nbegin_to_govern",
        "recovering(_, X), S <= X;\nbegin_to_govern",
    ),
    mistake(
        "votes are dropped before a checkpoint has them",
        "accepted(S, _), S <= T;\nnote_kept",
        "accepted(S, _), S <= T + 3;\nnote_kept",
    ),
    mistake(
        "gaps are not filled",
        "notin recovered(S, _);\n\nevent submitted",
        "notin recovered(S, _), S == T;\n\nevent submitted",
    ),
    mistake(
        "a new leader starts above what is open",
        "start_behind: next_slot(T + 2) :- top_slot(T);",
        "start_behind: next_slot(T + 1) :- top_slot(T);",
    ),
    mistake(
        "a promise is told before it is stored",
        "event promise(@To: addr, From: int, Ballot: list, Upto: int, Votes: list);",
        "event promise(@To: addr, From: int, Ballot: list, Upto: int, Votes: list) eager;",
    ),
    mistake(
        "a vote below the promise",
        "tell_vote: vote(@L, N, B, S) :- accept(_, L, B, S, _, _), bound(B),",
        "tell_vote: vote(@L, N, B, S) :- accept(_, L, B, S, _, _),",
    ),
    mistake(
        "promises of another ballot count",
        "promise(_, N, B, U, Votes), campaign(B), notin stands(_, _);",
        "promise(_, N, _, U, Votes), campaign(_), notin stands(_, _);",
    ),
    mistake(
        "votes of another ballot count",
        "vote(_, N, B, S), leading(B), open(S, _);",
        "vote(_, N, _, S), leading(_), open(S, _);",
    ),
    mistake(
        "a follower waits for nobody",
        "M >= Until || B[1] == G[1] || Y == G;",
        "M >= Until || true;",
    ),
    mistake(
        "a node that starts waits for nobody",
        "grant_nobody: granted([0, 0], M + 250ms)",
        "grant_nobody: granted([0, 0], M)",
    ),
    mistake(
        "a lease is counted from the answer",
        "note_answer: acked(N, T) :- got_ack(N, T, _);",
        "note_answer: acked(N, M) :- got_ack(N, _, _), sys_tick(_, _, M);",
    ),
    mistake(
        "a lease is longer than others wait",
        "Ts[size(Ts) - K][0] + 200ms",
        "Ts[size(Ts) - K][0] + 400ms",
    ),
];

/// Whether some case of so many shows a mistake, and the first that does.
fn found(mistake: &Mistake, cases: u32) -> Option<u32> {
    let programs = [3, 5].map(|count| changed_program(count, Some(mistake)));
    let shows = |case: u32| {
        let run = std::panic::AssertUnwindSafe(|| {
            if case.is_multiple_of(4) {
                any_schedule(&programs, seed(), case);
            } else {
                any_weather(&programs, case);
            }
        });
        std::panic::catch_unwind(run).is_err()
    };
    // Every worker tries every so many; the first case of all counts.
    let first = AtomicU32::new(cases);
    let workers =
        std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap());
    std::thread::scope(|scope| {
        for worker in 0..workers {
            let (first, shows) = (&first, &shows);
            scope.spawn(move || {
                let mut mine = (worker..cases).step_by(workers as usize);
                let found =
                    mine.find(|case| *case >= first.load(Ordering::Relaxed) || shows(*case));
                first.fetch_min(found.unwrap_or(cases), Ordering::Relaxed);
            });
        }
    });
    let first = first.into_inner();
    (first < cases).then_some(first)
}

/// `BOOMFS_MISTAKE` names one, or those with a word in common; `BOOMFS_SEED` makes other cases.
#[test]
fn mistakes_in_the_rules_are_found() {
    let only = std::env::var("BOOMFS_MISTAKE").unwrap_or_default();
    let mistakes: Vec<&Mistake> = MISTAKES.iter().filter(|m| m.name.contains(&only)).collect();
    let mut missed = Vec::new();
    for mistake in mistakes {
        match found(mistake, 500) {
            Some(case) => println!("found in case {}: {}", case + 1, mistake.name),
            None => missed.push(mistake.name),
        }
    }
    assert!(missed.is_empty(), "not found in 500 cases: {missed:#?}");
}
