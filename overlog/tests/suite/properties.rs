//! Random programs and inputs: the engine does what the oracle does.

use super::compare::{Step, agree, steps};
use super::generator::program;
use super::harness::check;
use overlog::ir::{Program, Rule, Term};
use overlog::{node, oracle};
use proptest::prelude::*;
use std::cell::Cell;
use std::sync::Arc;

type Case = (Vec<u8>, Vec<Vec<u8>>, Vec<Vec<u8>>);

fn cases(default: u32) -> u32 {
    std::env::var("BOOMFS_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(default)
}

/// Keys, rules and steps.
fn case() -> impl Strategy<Value = Case> {
    let bytes = |n| prop::collection::vec(any::<u8>(), 0..n);
    (bytes(32), prop::collection::vec(bytes(64), 1..14), prop::collection::vec(bytes(24), 1..8))
}

fn check_cases(default: u32, test: impl Fn(&str, Program, &dyn Fn(&Program) -> Vec<Step>) -> Result<usize, String>) {
    let config = ProptestConfig { cases: cases(default), failure_persistence: None, max_shrink_iters: 20_000, ..ProptestConfig::default() };
    let mut runner = proptest::test_runner::TestRunner::new(config);
    let useful = Cell::new(0);
    let outcome = runner.run(&case(), |(keys, rules, inputs)| {
        let text = program(&keys, &rules);
        let compiled = check(&text).map_err(|why| TestCaseError::fail(format!("{text}\nis refused:\n{why}")))?;
        let all = steps(&compiled, &inputs);
        let make = |p: &Program| steps(p, &inputs);
        match test(&text, compiled, &make) {
            Ok(n) => useful.set(useful.get() + n),
            Err(why) => {
                let listed: Vec<String> = all.iter().map(|s| format!("  {s:?}\n")).collect();
                return Err(TestCaseError::fail(format!("program:\n{text}\nsteps:\n{}\n{why}\n", listed.concat())));
            }
        }
        Ok(())
    });
    if let Err(proptest::test_runner::TestError::Fail(why, _)) = &outcome {
        panic!("{why}");
    }
    outcome.unwrap();
    assert!(useful.get() > 0, "no case did anything");
}

#[test]
fn the_engine_does_what_the_oracle_does() {
    check_cases(500, |_, compiled, steps| {
        let steps = steps(&compiled);
        let compiled = Arc::new(compiled);
        agree::<oracle::Node, node::Node>(&compiled, &compiled, &steps)
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
    program.rules.iter_mut().for_each(|rule: &mut Rule| turn(&mut rule.body));
    program
}

#[test]
fn the_order_of_terms_never_changes_the_meaning_for_the_oracle() {
    check_cases(100, |_, compiled, steps| {
        let steps = steps(&compiled);
        agree::<oracle::Node, oracle::Node>(&Arc::new(compiled.clone()), &Arc::new(reversed(compiled)), &steps)
    });
}

#[test]
fn the_order_of_terms_never_changes_the_meaning_for_the_engine() {
    check_cases(100, |_, compiled, steps| {
        let steps = steps(&compiled);
        agree::<node::Node, node::Node>(&Arc::new(compiled.clone()), &Arc::new(reversed(compiled)), &steps)
    });
}
