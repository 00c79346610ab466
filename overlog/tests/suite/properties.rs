//! Random programs and inputs: the engine does what the oracle does.

use super::compare::{Seen, Step, agree, steps};
use super::generator::program;
use super::harness::check;
use super::shrink::shrunk;
use overlog::ir::{Program, Rule, Term};
use overlog::{node, oracle};
use proptest::prelude::*;
use std::cell::RefCell;
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

/// Runs a test on random programs: 500 of them, or as `BOOMFS_CASES` says. A failing one is shown as small as it gets.
fn for_all(test: impl Fn(Program, &[Step]) -> Result<Seen, String>) {
    let cases = std::env::var("BOOMFS_CASES")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(500);
    // Shrinking is done here, on the text: bytes of choices shrink badly.
    let config = ProptestConfig {
        cases,
        failure_persistence: None,
        max_shrink_iters: 0,
        ..ProptestConfig::default()
    };
    let mut runner = proptest::test_runner::TestRunner::new(config);
    let all = RefCell::new(Seen::new());
    let failing = RefCell::new(None);
    let outcome = runner.run(&case(), |(keys, rules, inputs)| {
        let statements = program(&keys, &rules);
        let compiled = match check(&statements.join("\n")) {
            Ok(compiled) => compiled,
            Err(why) => {
                *failing.borrow_mut() =
                    Some(format!("{}\nis refused:\n{why}", statements.join("\n")));
                return Err(TestCaseError::fail("refused"));
            }
        };
        let steps = steps(&compiled, &inputs);
        match test(compiled, &steps) {
            Ok(seen) => seen
                .into_iter()
                .for_each(|(what, n)| *all.borrow_mut().entry(what).or_default() += n),
            Err(why) => {
                *failing.borrow_mut() = Some(shrunk(statements, steps, why, &test));
                return Err(TestCaseError::fail("differs"));
            }
        }
        Ok(())
    });
    if let Some(failing) = failing.into_inner() {
        panic!("{failing}");
    }
    outcome.unwrap();
    // A generator whose programs do nothing would prove nothing.
    let all = all.into_inner();
    for what in WORTH_SEEING.iter().filter(|_| cases >= 300) {
        assert!(
            all.get(what).is_some_and(|n| *n > 0),
            "no case had {what}: {all:?}"
        );
    }
    if std::env::var_os("BOOMFS_CASES").is_some() {
        eprintln!("{cases} cases: {all:?}");
    }
}

#[test]
fn the_engine_does_what_the_oracle_does() {
    for_all(|compiled, steps| {
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
    for_all(|compiled, steps| {
        agree::<oracle::Node, oracle::Node>(
            &Arc::new(compiled.clone()),
            &Arc::new(reversed(compiled)),
            steps,
        )
    });
}

#[test]
fn the_order_of_terms_never_changes_the_meaning_for_the_engine() {
    for_all(|compiled, steps| {
        agree::<node::Node, node::Node>(
            &Arc::new(compiled.clone()),
            &Arc::new(reversed(compiled)),
            steps,
        )
    });
}
