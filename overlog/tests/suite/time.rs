//! Time: ticks, the kinds of rules, the end of a tick, runs, starts. One test for each sentence.

use super::harness::{Host, check};
use super::subject::Subject;
use overlog::api::RunError;

on_both!(
    within_a_tick_rules_see_the_tables_as_they_stood,
    a_tick_is_a_stratified_fixpoint_over_its_events,
    a_derived_row_holds_exactly_while_its_body_holds,
    a_derived_row_goes_when_its_support_goes_even_round_a_cycle,
    a_derived_row_follows_an_aggregate,
    a_reaction_holds_in_this_tick,
    a_reaction_with_next_holds_in_the_next_tick,
    a_message_to_oneself_arrives_in_the_next_tick,
    a_message_to_another_leaves_the_node,
    a_change_is_visible_from_the_next_tick_on,
    an_edge_fires_in_the_tick_after_its_row_became_true,
    an_edge_rule_fires_once_for_several_reasons,
    a_replaced_row_gives_both_edges_and_an_equal_one_neither,
    edges_work_on_views,
    a_row_that_comes_and_goes_in_one_tick_gives_no_edge,
    equal_events_in_one_tick_are_one,
    a_view_that_is_seldom_read_is_as_of_the_tick_that_reads_it,
    views_of_different_tables_are_each_as_of_the_tick_that_reads_them,
    a_constant_picks_the_events_that_have_it,
    two_events_of_one_tick_do_not_see_each_others_changes,
    deletions_come_before_insertions_and_these_before_updates,
    a_deletion_matches_stored_rows_only,
    an_inserted_row_replaces_the_stored_row_with_its_key,
    of_two_insertions_for_one_key_the_greater_wins_and_the_other_is_reported,
    nothing_depends_on_the_order_of_rules_or_inputs,
    a_run_goes_on_while_there_is_something_to_do,
    a_run_without_inputs_has_one_tick,
    a_run_over_the_limit_of_ticks_has_no_effect_and_names_its_rules,
    a_run_over_the_limit_of_rows_has_no_effect,
    a_run_over_the_limit_leaves_invariants_to_be_reported,
    a_start_over_the_limit_leaves_the_views_of_what_was_restored,
    a_run_with_a_bad_input_has_no_effect,
    each_tick_has_one_sys_tick_with_the_same_times_in_a_run,
    sys_tick_causes_no_tick,
    at_start_nothing_fires_for_restored_state,
    the_first_tick_has_sys_start,
    facts_are_inserted_once_and_volatile_ones_at_every_start,
    a_fact_of_an_event_holds_in_the_first_tick,
    the_changes_of_a_run_are_net,
    volatile_tables_are_not_among_the_changes,
    a_node_is_deterministic,
);

const NO_INPUT: &[(&str, Vec<overlog::Value>)] = &[];

fn within_a_tick_rules_see_the_tables_as_they_stood<S: Subject>() {
    let mut n = Host::<S>::new(
        "table n(V: int) keys();
         event add(X: int); event saw(V: int);
         n(0);
         n(V + X) :- add(X), n(V);
         saw(V) :- add(_), n(V);",
    );
    n.run(&[("add", row![5])]);
    assert_eq!(n.seen("saw"), ["0"]);
    assert_eq!(n.rows("n"), ["5"]);
}

fn a_tick_is_a_stratified_fixpoint_over_its_events<S: Subject>() {
    let mut n = Host::<S>::new(
        "event e(A: int, B: int); event path(A: int, B: int); event end(A: int);
         path(X, Y) :- e(X, Y);
         path(X, Z) :- path(X, Y), e(Y, Z);
         end(Y) :- path(_, Y), notin path(Y, _);",
    );
    n.run(&[("e", row![1, 2]), ("e", row![2, 3]), ("e", row![3, 4])]);
    assert_eq!(
        n.seen("path"),
        ["1, 2", "1, 3", "1, 4", "2, 3", "2, 4", "3, 4"]
    );
    assert_eq!(n.seen("end"), ["4"]);
    assert_eq!(n.last.ticks, 1);
}

const SET: &str = "event add(A: int, B: int); event del(A: int, B: int); table t(A: int, B: int);
    t(X, Y) :- add(X, Y); delete t(X, Y) :- del(X, Y);";

fn a_derived_row_holds_exactly_while_its_body_holds<S: Subject>() {
    let mut n = Host::<S>::new(&format!(
        "{SET} view pair(A: int, C: int) kept; view last(A: int) kept;
         pair(X, Z) :- t(X, Y), t(Y, Z);
         last(Y) :- t(_, Y), notin t(Y, _);"
    ));
    n.run(&[("add", row![1, 2]), ("add", row![2, 3])]);
    assert_eq!(n.rows("pair"), ["1, 3"]);
    assert_eq!(n.rows("last"), ["3"]);
    n.run(&[("del", row![2, 3])]);
    assert!(n.rows("pair").is_empty());
    assert_eq!(n.rows("last"), ["2"]);
}

fn a_derived_row_goes_when_its_support_goes_even_round_a_cycle<S: Subject>() {
    let mut n = Host::<S>::new(&format!(
        "{SET} view path(A: int, B: int) kept;
         path(X, Y) :- t(X, Y);
         path(X, Z) :- path(X, Y), t(Y, Z);"
    ));
    n.run(&[
        ("add", row![1, 2]),
        ("add", row![2, 3]),
        ("add", row![3, 2]),
    ]);
    assert_eq!(
        n.rows("path"),
        ["1, 2", "1, 3", "2, 2", "2, 3", "3, 2", "3, 3"]
    );
    n.run(&[("del", row![1, 2])]);
    assert_eq!(n.rows("path"), ["2, 2", "2, 3", "3, 2", "3, 3"]);
    n.run(&[("del", row![2, 3])]);
    assert_eq!(n.rows("path"), ["3, 2"]);
}

fn a_derived_row_follows_an_aggregate<S: Subject>() {
    let mut n = Host::<S>::new(&format!(
        "{SET} view sum(A: int, N: int) kept; sum(X, sum<Y>) :- t(X, Y);"
    ));
    n.run(&[("add", row![1, 2]), ("add", row![1, 5])]);
    assert_eq!(n.rows("sum"), ["1, 7"]);
    n.run(&[("del", row![1, 2])]);
    assert_eq!(n.rows("sum"), ["1, 5"]);
    n.run(&[("del", row![1, 5])]);
    assert!(n.rows("sum").is_empty());
}

fn a_reaction_holds_in_this_tick<S: Subject>() {
    let mut n = Host::<S>::new("event a(X: int); event b(X: int); b(X + 1) :- a(X);");
    n.run(&[("a", row![1])]);
    assert_eq!((n.seen("b"), n.last.ticks), (vec!["2".to_owned()], 1));
    n.run(NO_INPUT);
    assert!(n.seen("b").is_empty());
}

fn a_reaction_with_next_holds_in_the_next_tick<S: Subject>() {
    let mut n = Host::<S>::new(
        "event a(X: int); event b(X: int); event both(X: int); next b(X) :- a(X); both(X) :- a(X), b(X);",
    );
    n.run(&[("a", row![1])]);
    assert_eq!((n.seen("b"), n.last.ticks), (vec!["1".to_owned()], 2));
    assert!(n.seen("both").is_empty());
}

fn a_message_to_oneself_arrives_in_the_next_tick<S: Subject>() {
    let mut n = Host::<S>::new("event go(N: addr); event m(@To: addr, X: int); m(@N, 7) :- go(N);");
    n.run(&[("go", vec![overlog::Value::addr("me")])]);
    assert_eq!(
        (n.seen("m"), n.last.ticks),
        (vec!["@\"me\", 7".to_owned()], 2)
    );
    assert!(n.sent().is_empty());
}

fn a_message_to_another_leaves_the_node<S: Subject>() {
    let mut n = Host::<S>::new("event go(N: addr); event m(@To: addr, X: int); m(@N, 7) :- go(N);");
    n.run(&[("go", vec![overlog::Value::addr("you")])]);
    assert_eq!(n.sent(), ["m(@\"you\", 7)"]);
    assert!(n.seen("m").is_empty());
    assert_eq!(n.last.ticks, 1);
}

fn a_change_is_visible_from_the_next_tick_on<S: Subject>() {
    let mut n = Host::<S>::new(
        "table t(X: int); event put(X: int); event look(X: int); event saw(X: int);
         t(X) :- put(X); next look(X) :- put(X); saw(X) :- put(X), t(X); saw(X) :- look(X), t(X);",
    );
    n.run(&[("put", row![1])]);
    assert_eq!(n.seen("saw"), ["1"]);
    assert_eq!(n.last.ticks, 2);
}

fn an_edge_fires_in_the_tick_after_its_row_became_true<S: Subject>() {
    let mut n = Host::<S>::new(&format!(
        "{SET} event full(A: int); full(X) :- t(X, 1), t(X, 2);"
    ));
    n.run(&[("add", row![5, 1])]);
    assert_eq!((n.seen("full").len(), n.last.ticks), (0, 1));
    n.run(&[("add", row![5, 2])]);
    assert_eq!((n.seen("full"), n.last.ticks), (vec!["5".to_owned()], 2));
    n.run(&[("add", row![5, 2])]);
    assert!(n.seen("full").is_empty());
    n.run(&[("del", row![5, 2])]);
    assert!(n.seen("full").is_empty());
    n.run(&[("add", row![5, 2])]);
    assert_eq!(n.seen("full"), ["5"]);
}

fn an_edge_rule_fires_once_for_several_reasons<S: Subject>() {
    let mut n = Host::<S>::new(&format!("{SET} event some(A: int); some(X) :- t(X, _);"));
    n.run(&[("add", row![5, 1])]);
    assert_eq!(n.seen("some"), ["5"]);
    n.run(&[("add", row![5, 2])]);
    assert!(n.seen("some").is_empty());
}

fn a_replaced_row_gives_both_edges_and_an_equal_one_neither<S: Subject>() {
    let mut n = Host::<S>::new(
        "table t(A: int, B: int) keys(A); event put(A: int, B: int); event came(A: int, B: int); event went(A: int, B: int);
         t(X, Y) :- put(X, Y); came(X, Y) :- t#insert(X, Y); went(X, Y) :- t#delete(X, Y);",
    );
    n.run(&[("put", row![1, 1])]);
    assert_eq!(
        (n.seen("came"), n.seen("went")),
        (vec!["1, 1".to_owned()], vec![])
    );
    n.run(&[("put", row![1, 2])]);
    assert_eq!(
        (n.seen("came"), n.seen("went")),
        (vec!["1, 2".to_owned()], vec!["1, 1".to_owned()])
    );
    n.run(&[("put", row![1, 2])]);
    assert_eq!(
        (n.seen("came"), n.seen("went"), n.last.ticks),
        (vec![], vec![], 1)
    );
}

fn edges_work_on_views<S: Subject>() {
    let mut n = Host::<S>::new(&format!(
        "{SET} view count(A: int, N: int); count(X, count<*>) :- t(X, _);
         event came(A: int, N: int); event went(A: int, N: int);
         came(X, N) :- count#insert(X, N); went(X, N) :- count#delete(X, N);"
    ));
    n.run(&[("add", row![1, 1])]);
    assert_eq!(
        (n.seen("came"), n.seen("went")),
        (vec!["1, 1".to_owned()], vec![])
    );
    n.run(&[("add", row![1, 2])]);
    assert_eq!(
        (n.seen("came"), n.seen("went")),
        (vec!["1, 2".to_owned()], vec!["1, 1".to_owned()])
    );
}

fn a_row_that_comes_and_goes_in_one_tick_gives_no_edge<S: Subject>() {
    let mut n = Host::<S>::new(
        "table t(A: int, B: int) keys(A); event put(A: int, B: int); event came(A: int, B: int); event went(A: int);
         t(X, Y) :- put(X, Y); delete t(X, _) :- put(X, _); came(X, Y) :- t#insert(X, Y); went(X) :- t#delete(X, _);",
    );
    n.run(&[("put", row![1, 1])]);
    assert_eq!(n.seen("came"), ["1, 1"]);
    n.run(&[("put", row![1, 1])]);
    assert_eq!(
        (n.seen("came"), n.seen("went"), n.last.ticks),
        (vec![], vec![], 1)
    );
}

fn equal_events_in_one_tick_are_one<S: Subject>() {
    let mut n = Host::<S>::new(
        "event a(X: int); event b(X: int); event n(N: int); b(X) :- a(X); b(1) :- a(_); n(count<*>) :- b(_);",
    );
    n.run(&[("a", row![1]), ("a", row![1])]);
    assert_eq!(
        (n.seen("a"), n.seen("b"), n.seen("n")),
        (
            vec!["1".to_owned()],
            vec!["1".to_owned()],
            vec!["1".to_owned()]
        )
    );
}

/// Many changes between two looks, and looks after few.
fn a_view_that_is_seldom_read_is_as_of_the_tick_that_reads_it<S: Subject>() {
    let mut n = Host::<S>::new(
        "table t(A: int, B: int) keys(A); table u(A: int); event put(A: int, B: int); event drop(A: int);
         event look(X: int); event out(B: int, N: int);
         view both(A: int, B: int) kept; view n(B: int, N: int) kept;
         t(A, B) :- put(A, B); u(A) :- put(A, _); delete t(A, _) :- drop(A);
         both(A, B) :- t(A, B), u(A); n(B, count<A>) :- both(A, B); out(B, N) :- look(_), n(B, N);",
    );
    for a in 0..200 {
        n.run(&[("put", row![a, a % 2])]);
    }
    n.run(&[("look", row![0])]);
    assert_eq!(n.seen("out"), ["0, 100", "1, 100"]);
    n.run(&[("drop", row![7]), ("put", row![0, 1])]);
    n.run(&[("look", row![0]), ("drop", row![1])]);
    assert_eq!(n.seen("out"), ["0, 99", "1, 100"]);
    assert_eq!(n.rows("n"), ["0, 99", "1, 99"]);
}

/// What one rule asks for is up to date, and the rest does not stay behind when another one asks for it.
fn views_of_different_tables_are_each_as_of_the_tick_that_reads_them<S: Subject>() {
    let mut n = Host::<S>::new(
        "table t(A: int); table u(A: int); table w(A: int);
         event put(A: int); event drop(A: int);
         t(A) :- put(A); u(A) :- put(A); w(A) :- put(A); delete t(A) :- drop(A); delete w(A) :- drop(A);
         view of_t(N: int) kept; view above(N: int) kept; view top(N: int) kept; view of_w(N: int) kept;
         view asked(N: int) lazy; view both(A: int) kept;
         of_t(count<*>) :- t(_); above(N + 1) :- of_t(N); top(N) :- above(N); of_w(count<*>) :- w(_); both(A) :- t(A), u(A);
         asked(N) :- of_w(N), N > 0;
         event look(X: string); event seen(X: string, N: int);
         seen(\"t\", N) :- look(\"t\"), top(N); seen(\"w\", N) :- look(\"w\"), asked(N);
         seen(\"both\", count<A>) :- look(\"both\"), both(A);",
    );
    n.run(&[("put", row![1]), ("put", row![2])]);
    n.run(&[("look", row!["w"])]);
    assert_eq!(n.seen("seen"), ["\"w\", 2"]);
    n.run(&[("drop", row![1])]);
    n.run(&[("look", row!["both"])]);
    assert_eq!(n.seen("seen"), ["\"both\", 1"]);
    n.run(&[("look", row!["w"])]);
    assert_eq!(n.seen("seen"), ["\"w\", 1"]);
    n.run(&[("put", row![3])]);
    n.run(&[("look", row!["t"])]);
    assert_eq!(n.seen("seen"), ["\"t\", 3"]);
    n.run(&[("look", row!["w"]), ("look", row!["both"])]);
    assert_eq!(n.seen("seen"), ["\"both\", 2", "\"w\", 2"]);
}

/// Rules that ask for constants, in ticks with few and with many different values.
fn a_constant_picks_the_events_that_have_it<S: Subject>() {
    let mut n = Host::<S>::new(
        "event e(A: int, B: string); event one(B: string); event some(A: int); event pair(B: string);
         one(B) :- e(19, B); some(A) :- e(A, B), contains([\"b3\", \"b19\", \"c\"], B);
         pair(B) :- e(A, B), e(A2, \"b2\"), A == 1, A2 == 2;",
    );
    let rows = |range: std::ops::Range<i64>| -> Vec<(&str, Vec<overlog::Value>)> {
        range
            .map(|a| ("e", row![a, format!("b{a}").as_str()]))
            .collect()
    };
    for (range, one, some, pair) in [
        (0..1, vec![], vec![], vec![]),
        (3..5, vec![], vec!["3"], vec![]),
        (1..3, vec![], vec![], vec!["\"b1\""]),
        (0..40, vec!["\"b19\""], vec!["19", "3"], vec!["\"b1\""]),
        (19..20, vec!["\"b19\""], vec!["19"], vec![]),
        (4..18, vec![], vec![], vec![]),
    ] {
        n.run(&rows(range));
        let mut seen = n.seen("some");
        seen.sort();
        assert_eq!(
            (n.seen("one"), seen, n.seen("pair")),
            (texts(&one), texts(&some), texts(&pair))
        );
    }
}

fn texts(all: &[&str]) -> Vec<String> {
    all.iter().map(|s| (*s).to_owned()).collect()
}

fn two_events_of_one_tick_do_not_see_each_others_changes<S: Subject>() {
    let mut n = Host::<S>::new(
        "table t(Name: int, Who: int); event create(Name: int, Who: int); event ok(Who: int);
         t(N, W) :- create(N, W), notin t(N, _); ok(W) :- create(N, W), notin t(N, _);",
    );
    n.run(&[("create", row![1, 10]), ("create", row![1, 20])]);
    assert_eq!(n.seen("ok"), ["10", "20"]);
    n.run(&[("create", row![1, 30])]);
    assert!(n.seen("ok").is_empty());
}

fn deletions_come_before_insertions_and_these_before_updates<S: Subject>() {
    let mut n = Host::<S>::new(
        "table t(A: int, N: int) keys(A); event e(A: int); t(1, 5);
         delete t(A, _) :- e(A); t(A, 100) :- e(A); update t(A: A, N += 1) :- e(A);",
    );
    n.run(&[("e", row![1])]);
    assert_eq!(n.rows("t"), ["1, 101"]);
    n.run(&[("e", row![2])]);
    assert_eq!(n.rows("t"), ["1, 101", "2, 101"]);
}

fn a_deletion_matches_stored_rows_only<S: Subject>() {
    let mut n = Host::<S>::new(
        "table t(A: int, B: int); event e(A: int); t(1, 1); t(2, 1); t(A, 2) :- e(A); delete t(A, _) :- e(A);",
    );
    n.run(&[("e", row![1])]);
    assert_eq!(n.rows("t"), ["1, 2", "2, 1"]);
}

fn an_inserted_row_replaces_the_stored_row_with_its_key<S: Subject>() {
    let mut n = Host::<S>::new(
        "table t(A: int, B: int, C: int) keys(A, C); table one(X: int) keys(); event e(A: int, B: int, C: int);
         t(A, B, C) :- e(A, B, C); one(B) :- e(_, B, _);",
    );
    n.run(&[("e", row![1, 1, 1])]);
    n.run(&[("e", row![1, 2, 1])]);
    n.run(&[("e", row![1, 3, 2])]);
    assert_eq!(n.rows("t"), ["1, 2, 1", "1, 3, 2"]);
    assert_eq!(n.rows("one"), ["3"]);
    assert_eq!(n.changes(), ["+t(1, 3, 2)", "-one(2)", "+one(3)"]);
    assert!(n.conflicts().is_empty());
}

fn of_two_insertions_for_one_key_the_greater_wins_and_the_other_is_reported<S: Subject>() {
    let mut n = Host::<S>::new(
        "table t(A: int, B: int) keys(A); event e(A: int, B: int); t(A, B) :- e(A, B);
         event lost(T: string, W: list, L: list); lost(T, W, L) :- sys_conflict(T, W, L);",
    );
    n.run(&[
        ("e", row![1, 5]),
        ("e", row![1, 9]),
        ("e", row![1, 7]),
        ("e", row![2, 1]),
    ]);
    assert_eq!(n.rows("t"), ["1, 9", "2, 1"]);
    assert_eq!(n.conflicts(), ["t: 1, 9 beats 1, 5", "t: 1, 9 beats 1, 7"]);
    assert_eq!(
        n.seen("lost"),
        ["\"t\", [1, 9], [1, 5]", "\"t\", [1, 9], [1, 7]"]
    );
    assert_eq!(n.last.ticks, 2);
}

fn nothing_depends_on_the_order_of_rules_or_inputs<S: Subject>() {
    let rules = [
        "t(A, B) :- e(A, B);",
        "t(A, B + 1) :- e(A, B);",
        "delete t(A, B) :- f(A), t(A, B);",
        "update t(A: A, B += 10) :- e(A, _);",
        "f(A) :- e(A, _), t(A, _);",
    ];
    let declare = "table t(A: int, B: int) keys(A); event e(A: int, B: int); event f(A: int);";
    let inputs = [("e", row![1, 5]), ("e", row![1, 9]), ("e", row![2, 3])];
    let mut all = Vec::new();
    for turn in 0..rules.len() {
        let mut turned = rules;
        turned.rotate_left(turn);
        let mut n = Host::<S>::new(&format!("{declare}{}", turned.concat()));
        let mut inputs = inputs.clone();
        inputs.rotate_left(turn % 3);
        n.run(&inputs);
        inputs.reverse();
        n.run(&inputs);
        all.push((n.rows("t"), n.conflicts()));
    }
    assert_eq!(all[0].0, ["1, 30", "2, 14"]);
    assert!(all.iter().all(|x| *x == all[0]));
}

fn a_run_goes_on_while_there_is_something_to_do<S: Subject>() {
    let mut n = Host::<S>::new(
        "event down(N: int); table t(N: int); event edge(N: int);
         next down(N - 1) :- down(N), N > 0; t(0) :- down(0); edge(N) :- t#insert(N);",
    );
    n.run(&[("down", row![3])]);
    assert_eq!(n.seen("down"), ["3", "2", "1", "0"]);
    assert_eq!(n.seen("edge"), ["0"]);
    assert_eq!(n.last.ticks, 5);
}

fn a_run_without_inputs_has_one_tick<S: Subject>() {
    let mut n = Host::<S>::new("event e(X: int);");
    assert_eq!((n.last.run, n.last.ticks), (1, 1));
    n.run(NO_INPUT);
    assert_eq!((n.last.run, n.last.ticks), (2, 1));
}

fn a_run_over_the_limit_of_ticks_has_no_effect_and_names_its_rules<S: Subject>() {
    let text = "event e(X: int); table t(X: int); view v(X: int) kept; v(X + 1) :- t(X);
        event came(X: int); came(X) :- v#insert(X);
        t(X) :- e(X); for_ever: next e(X + 1) :- e(X), X > 0;";
    let mut n = Host::<S>::with(text, |o| o.max_ticks = 20);
    n.run(&[("e", row![0])]);
    let error = n.try_run(&[("e", row![1])]).unwrap_err();
    assert!(
        matches!(&error, RunError::Limit { rules, .. } if rules.contains("for_ever")),
        "{error:?}"
    );
    assert_eq!(n.rows("t"), ["0"]);
    assert_eq!(n.rows("v"), ["1"]);
    n.run(&[("e", row![-1])]);
    assert_eq!(
        (n.last.run, n.last.ticks, n.seen("came")),
        (3, 2, vec!["0".to_owned()])
    );
    assert_eq!(n.changes(), ["+t(-1)"]);
}

fn a_run_over_the_limit_of_rows_has_no_effect<S: Subject>() {
    let text = "event e(X: int); event many(X: int); table t(X: int);
        t(X) :- e(X); many(X) :- e(X); grow: many(X + 1) :- many(X), X > 0;";
    let mut n = Host::<S>::with(text, |o| o.max_rows = 1_000);
    let error = n.try_run(&[("e", row![1])]).unwrap_err();
    assert!(
        matches!(&error, RunError::Limit { rules, .. } if rules.contains("grow")),
        "{error:?}"
    );
    assert!(n.rows("t").is_empty());
    n.run(&[("e", row![0])]);
    assert_eq!(n.seen("many"), ["0"]);
}

fn a_run_over_the_limit_leaves_invariants_to_be_reported<S: Subject>() {
    let mut n = Host::<S>::with(
        "table t(A: int); table armed(A: int); armed(1); event e(A: int); event disarm(A: int); event go(A: int);
         t(A) :- e(A); delete armed(_) :- disarm(_); invariant none(A) :- t(A);
         next go(1) :- sys_violation(_, _), armed(_); next go(1) :- go(1);",
        |o| o.max_ticks = 5,
    );
    assert!(n.try_run(&[("e", row![7])]).is_err());
    n.run(&[("disarm", row![0])]);
    assert!(n.violations().is_empty());
    n.run(&[("e", row![7])]);
    assert_eq!(n.violations(), ["none(7)"]);
}

fn a_start_over_the_limit_leaves_the_views_of_what_was_restored<S: Subject>() {
    let mut n = Host::<S>::unstarted(
        "table t(A: int); view v(A: int) kept; v(A) :- t(A); event seen(A: int); seen(A) :- v#insert(A);
         event e(A: int); event f(A: int); f(A) :- e(A), v(A); event go(A: int); next go(1) :- sys_start(_, _), v(2); next go(A) :- go(A);",
        |o| o.max_ticks = 5,
    );
    n.restore("t", &[row![1], row![2]]);
    assert!(n.try_start(false).is_err());
    assert_eq!(n.rows("v"), ["1", "2"]);
    n.run(&[("e", row![1])]);
    assert_eq!(n.seen("f"), ["1"]);
    assert!(n.seen("seen").is_empty());
}

fn a_run_with_a_bad_input_has_no_effect<S: Subject>() {
    let mut n = Host::<S>::new("event e(X: int); table t(X: int); t(X) :- e(X);");
    for bad in [("e", row!["text"]), ("e", row![1, 2]), ("t", row![1])] {
        assert!(matches!(
            n.try_run(&[("e", row![1]), bad]),
            Err(RunError::Input { .. })
        ));
    }
    assert!(n.rows("t").is_empty());
}

fn each_tick_has_one_sys_tick_with_the_same_times_in_a_run<S: Subject>() {
    let mut n = Host::<S>::new(
        "event e(X: int); event at(T: int, W: int, M: int);
         next e(X - 1) :- e(X), X > 0; at(T, W, M) :- e(_), sys_tick(T, W, M);",
    );
    n.run(&[("e", row![1])]);
    assert_eq!(n.seen("at"), ["2, 2000, 1010", "3, 2000, 1010"]);
}

fn sys_tick_causes_no_tick<S: Subject>() {
    let mut n =
        Host::<S>::new("event e(X: int); event at(T: int); at(T) :- e(_), sys_tick(Tick: T);");
    n.run(NO_INPUT);
    assert_eq!((n.last.ticks, n.seen("at").len()), (1, 0));
}

const STORED: &str =
    "table t(A: int, B: int); view v(A: int) kept; v(A) :- t(A, _); event came(A: int);
    came(A) :- t#insert(A, _); came(A) :- v#insert(A); event up(A: int); up(A) :- v(A);
    event started(Now: int, New: bool); started(N, W) :- sys_start(N, W);";

fn at_start_nothing_fires_for_restored_state<S: Subject>() {
    let mut n = Host::<S>::unstarted(STORED, |_| {});
    n.restore("t", &[row![1, 1], row![2, 2]]);
    n.start(false);
    assert_eq!(
        (n.seen("came").len(), n.seen("up").len(), n.last.ticks),
        (0, 0, 1)
    );
    assert_eq!(n.rows("v"), ["1", "2"]);
    assert!(n.changes().is_empty());
}

fn the_first_tick_has_sys_start<S: Subject>() {
    let mut n = Host::<S>::unstarted(STORED, |_| {});
    n.start(false);
    assert_eq!(n.seen("started"), ["1000, false"]);
    n.run(NO_INPUT);
    assert!(n.seen("started").is_empty());
    assert_eq!(Host::<S>::new(STORED).seen("started"), ["1000, true"]);
}

fn facts_are_inserted_once_and_volatile_ones_at_every_start<S: Subject>() {
    let text = "table d(X: int); table v(X: int) volatile; view w(X: int) kept; d(1); v(2); w(3); w(X) :- d(X);
        event came(X: int); came(X) :- d#insert(X); came(X) :- v#insert(X); came(X) :- w#insert(X);";
    let mut n = Host::<S>::new(text);
    assert_eq!(
        (n.rows("d"), n.rows("v"), n.rows("w")),
        (
            vec!["1".to_owned()],
            vec!["2".to_owned()],
            vec!["1".to_owned(), "3".to_owned()]
        )
    );
    assert_eq!(n.changes(), ["+d(1)"]);
    assert_eq!((n.seen("came").len(), n.last.ticks), (0, 1));
    let mut n = Host::<S>::unstarted(text, |_| {});
    n.start(false);
    assert_eq!(
        (n.rows("d").len(), n.rows("v"), n.rows("w")),
        (0, vec!["2".to_owned()], vec!["3".to_owned()])
    );
    assert!(n.changes().is_empty());
}

fn a_fact_of_an_event_holds_in_the_first_tick<S: Subject>() {
    let mut n = Host::<S>::new("event e(X: int); table t(X: int); e(4); t(X) :- e(X);");
    assert_eq!(n.rows("t"), ["4"]);
    n.run(NO_INPUT);
    assert!(n.seen("e").is_empty());
}

fn the_changes_of_a_run_are_net<S: Subject>() {
    let mut n = Host::<S>::new(
        "table t(X: int); table n(N: int) keys(); event e(X: int); event f(X: int); n(0);
         t(X) :- e(X); next f(X) :- e(X); delete t(X) :- f(X); update n(N += 1) :- e(_); update n(N += 1) :- f(_);",
    );
    n.run(&[("e", row![1])]);
    assert_eq!(n.changes(), ["-n(0)", "+n(2)"]);
}

fn volatile_tables_are_not_among_the_changes<S: Subject>() {
    let mut n = Host::<S>::new("table t(X: int) volatile; event e(X: int); t(X) :- e(X);");
    n.run(&[("e", row![1])]);
    assert_eq!(n.rows("t"), ["1"]);
    assert!(n.changes().is_empty());
}

fn a_node_is_deterministic<S: Subject>() {
    let text = "event e(A: int, B: int); table t(A: int, B: int) keys(A); event m(@To: addr, L: list); table n(N: addr);
        n(@\"x\"); n(@\"y\"); n(@\"me\"); t(A, B) :- e(A, B); m(@N, L) :- e(_, _), n(N), L := list<A> { t(A, _) };";
    let run = || {
        let mut n = Host::<S>::new(text);
        for i in 0..5 {
            n.run(&[("e", row![i, 1]), ("e", row![i % 2, i])]);
        }
        format!("{:?}", n.last)
    };
    assert_eq!(run(), run());
}

#[test]
fn a_body_whose_only_events_are_under_notin_is_refused() {
    let why = check("event e(X: int); table t(X: int); table s(X: int); s(X) :- t(X), notin e(X);")
        .unwrap_err();
    assert!(why.contains("OLG0501"), "{why}");
}

#[test]
fn rules_that_change_replicated_tables_read_no_clock() {
    let text =
        "event log(X: int); table r(X: int) replicated by log; r(T) :- log(_), sys_tick(Tick: T);";
    let why = check(text).unwrap_err();
    assert!(why.contains("OLG0508"), "{why}");
}
