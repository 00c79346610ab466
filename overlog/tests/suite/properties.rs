//! Random programs and inputs: the engine does what the oracle does.
//!
//! A case is a function of a seed and its number. `BOOMFS_SEED` is the seed, 0 without it, so that a test does the same
//! wherever it runs; `BOOMFS_CASES` is how many of its cases to run. A failure says how to get it again.

use super::compare::{Seen, Step, agree, steps};
use super::generator::program;
use super::harness::check;
use super::shrink::{Check, shrunk};
use overlog::ir::{Program, Rule, Term};
use overlog::{node, oracle};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

/// Keys, rules and steps.
type Case = (Vec<u8>, Vec<Vec<u8>>, Vec<Vec<u8>>);

fn case() -> impl Strategy<Value = Case> {
    let bytes = |n| prop::collection::vec(any::<u8>(), n / 2..n);
    (
        bytes(40),
        prop::collection::vec(bytes(100), 1..16),
        prop::collection::vec(bytes(140), 1..10),
    )
}

/// Each must have happened in some case.
const WORTH_SEEING: &[&str] = &[
    "changes",
    "conflicts",
    "messages",
    "observed events",
    "rows of tables",
    "rows of views",
    "rules with errors",
    "runs of several ticks",
    "runs over a limit",
    "violations",
];

/// A number from the environment.
fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

/// The case with this number: a function of it and the seed alone, whatever ran before.
fn nth_case(seed: u64, number: u64) -> Case {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    bytes[8..16].copy_from_slice(&number.to_le_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let mut runner = TestRunner::new_with_rng(ProptestConfig::default(), rng);
    case().new_tree(&mut runner).unwrap().current()
}

/// What a test says of a program; a panic of the node is a failure as any other.
fn caught(test: Check<'_>, program: Program, steps: &[Step]) -> Result<Seen, String> {
    catch_unwind(AssertUnwindSafe(|| test(program, steps))).unwrap_or_else(|panic| {
        let words = panic
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
        Err(format!(
            "panics differ from none: {}",
            words.unwrap_or_default()
        ))
    })
}

/// Runs a test on random programs: 500 of them, or as `BOOMFS_CASES` says, of the seed 0, or of `BOOMFS_SEED`. A
/// failing one is shown as small as it gets.
fn for_all(name: &str, test: impl Fn(Program, &[Step]) -> Result<Seen, String>) {
    let cases = number("BOOMFS_CASES").unwrap_or(500);
    let seed = number("BOOMFS_SEED").unwrap_or(0);
    let test = |program: Program, steps: &[Step]| caught(&test, program, steps);
    let mut all = Seen::new();
    for number in 0..cases {
        let fail = |what: String| -> ! {
            let replay = format!(
                "BOOMFS_SEED={seed} BOOMFS_CASES={} cargo test -p overlog --test suite {name}",
                number + 1
            );
            panic!("case {number} of seed {seed}\n{what}\nto replay: {replay}");
        };
        let (keys, rules, inputs) = nth_case(seed, number);
        let statements = program(&keys, &rules);
        let compiled = check(&statements.join("\n"))
            .unwrap_or_else(|why| fail(format!("{}\nis refused:\n{why}", statements.join("\n"))));
        let steps = steps(&compiled, &inputs);
        match test(compiled, &steps) {
            Ok(seen) => seen
                .into_iter()
                .for_each(|(what, n)| *all.entry(what).or_default() += n),
            // Shrinking is done here, on the text: bytes of choices shrink badly.
            Err(why) => fail(shrunk(statements, steps, why, &test)),
        }
    }
    // A generator whose programs do nothing would prove nothing.
    for what in WORTH_SEEING.iter().filter(|_| cases >= 300) {
        assert!(
            all.get(what).is_some_and(|n| *n > 0),
            "no case of seed {seed} had {what}: {all:?}"
        );
    }
    if std::env::var_os("BOOMFS_CASES").is_some() {
        eprintln!("{cases} cases of seed {seed}: {all:?}");
    }
}

#[test]
fn the_engine_does_what_the_oracle_does() {
    for_all("the_engine_does_what_the_oracle_does", |compiled, steps| {
        let compiled = Arc::new(compiled);
        agree::<oracle::Node, node::Node>(&compiled, &compiled, steps)
    });
}

/// With the terms of each body in the opposite order.
fn reversed(mut program: Program) -> Program {
    fn turn(body: &mut [Term]) {
        body.reverse();
        for term in body {
            if let Term::Agg { body, .. } = term {
                turn(body);
            }
        }
    }
    program
        .rules
        .iter_mut()
        .for_each(|rule: &mut Rule| turn(&mut rule.body));
    program
}

#[test]
fn the_order_of_terms_never_changes_the_meaning_for_the_oracle() {
    for_all(
        "the_order_of_terms_never_changes_the_meaning_for_the_oracle",
        |compiled, steps| {
            agree::<oracle::Node, oracle::Node>(
                &Arc::new(compiled.clone()),
                &Arc::new(reversed(compiled)),
                steps,
            )
        },
    );
}

#[test]
fn the_order_of_terms_never_changes_the_meaning_for_the_engine() {
    for_all(
        "the_order_of_terms_never_changes_the_meaning_for_the_engine",
        |compiled, steps| {
            agree::<node::Node, node::Node>(
                &Arc::new(compiled.clone()),
                &Arc::new(reversed(compiled)),
                steps,
            )
        },
    );
}
