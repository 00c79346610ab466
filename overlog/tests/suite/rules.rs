//! Rules: terms, expressions, errors, aggregates, updates, messages.

use super::harness::{Host, check};
use super::subject::Subject;

on_both!(
    the_order_of_the_terms_does_not_matter,
    an_existential_variable_under_notin_is_any,
    a_variable_twice_in_a_term_must_be_equal,
    an_assignment_to_a_bound_variable_is_a_test,
    an_element_of_a_list_comes_with_its_position,
    an_element_that_is_bound_must_be_equal,
    expressions_compute,
    a_failed_expression_drops_the_binding_and_is_reported,
    a_failed_expression_is_not_reported_if_another_term_fails,
    a_failed_test_is_reported_only_if_the_rest_holds,
    a_failed_head_drops_the_row,
    a_failed_head_of_a_delete_is_reported,
    an_error_is_an_event_of_the_next_tick,
    a_value_of_another_type_than_the_column_is_dropped_and_reported,
    an_error_in_a_view_is_reported_when_it_appears,
    an_error_in_a_view_is_reported_only_if_the_rest_of_the_body_holds,
    count_star_counts_combinations_of_rows,
    sum_avg_and_list_take_one_contribution_of_each_combination,
    count_counts_distinct_values,
    least_of_a_number_that_is_asked_for_in_the_order_of_a_column,
    min_max_any_argmin_argmax_and_top_and_least,
    float_sums_are_exact_and_rounded_once,
    kept_totals_follow_what_comes_and_goes,
    an_empty_group_has_no_row,
    a_sum_that_overflows_drops_its_group,
    a_body_aggregate_is_grouped_by_what_is_bound_outside,
    a_body_aggregate_of_nothing,
    an_error_in_a_body_aggregate_drops_the_inner_binding,
    a_body_aggregate_can_be_compared_with_a_bound_variable,
    aggregates_over_events,
    an_update_changes_the_named_columns,
    updates_of_different_columns_merge,
    an_update_without_a_stored_row_has_no_effect,
    plus_equals_adds_up_all_contributions,
    two_values_for_one_column_conflict,
    plus_equals_comes_after_equals,
    a_plus_equals_that_overflows_is_dropped,
    an_update_with_an_aggregate,
    a_delete_matches_a_pattern,
    a_delete_by_key_needs_no_row,
    ids_for_several_creates_in_one_tick,
    all_messages_of_a_tick_are_sorted_and_distinct,
    a_head_at_the_bodys_location_is_no_message,
);

fn list(items: &[i64]) -> overlog::Value {
    overlog::Value::list(
        items
            .iter()
            .map(|i| overlog::Value::Int(*i))
            .collect::<Vec<_>>(),
    )
}

fn the_order_of_the_terms_does_not_matter<S: Subject>() {
    let terms = [
        "e(X)",
        "t(X, Y)",
        "Z := Y + W",
        "Z > 3",
        "notin u(Z)",
        "W in [X, 10]",
        "N := count<*> { t(_, Y) }",
        "N < 2",
    ];
    let mut all = Vec::new();
    for turn in 0..terms.len() {
        let mut turned = terms;
        turned.rotate_left(turn);
        let mut n = Host::<S>::new(&format!(
            "table t(A: int, B: int); table u(A: int); event e(A: int); event out(Z: int, N: int);
             t(1, 2); t(1, 3); t(2, 3); t(1, 5); u(15); out(Z, N) :- {};",
            turned.join(", ")
        ));
        n.run(&[("e", row![1]), ("e", row![2])]);
        all.push(n.seen("out"));
    }
    assert_eq!(all[0], ["6, 1", "12, 1"]);
    assert!(all.iter().all(|x| *x == all[0]));
}

fn an_existential_variable_under_notin_is_any<S: Subject>() {
    let mut n = Host::<S>::new(
        "table t(A: int, B: int); t(1, 2); t(3, 3); event e(A: int); event none(A: int); event no_pair(A: int);
         none(A) :- e(A), notin t(A, X); no_pair(A) :- e(A), notin t(X, X), A > 0;",
    );
    n.run(&[("e", row![1]), ("e", row![2])]);
    assert_eq!(
        (n.seen("none"), n.seen("no_pair").len()),
        (vec!["2".to_owned()], 0)
    );
}

fn a_variable_twice_in_a_term_must_be_equal<S: Subject>() {
    let mut n = Host::<S>::new(
        "table t(A: int, B: int); view v(A: int) kept; v(X) :- t(X, X); t(1, 2); t(3, 3);",
    );
    assert_eq!(n.rows("v"), ["3"]);
}

fn an_assignment_to_a_bound_variable_is_a_test<S: Subject>() {
    let mut n = Host::<S>::new(
        "event e(A: int, B: int); event same(A: int); same(A) :- e(A, B), B := A + 1;",
    );
    n.run(&[("e", row![1, 2]), ("e", row![2, 2])]);
    assert_eq!(n.seen("same"), ["1"]);
}

fn an_element_of_a_list_comes_with_its_position<S: Subject>() {
    let mut n = Host::<S>::new(
        "event e(L: list); event at(I: int, X: any); event in_it(X: any); at(I, X) :- e(L), I, X in L; in_it(X) :- e(L), X in L;",
    );
    n.run(&[("e", vec![list(&[7, 5, 7])])]);
    assert_eq!(n.seen("at"), ["0, 7", "1, 5", "2, 7"]);
    assert_eq!(n.seen("in_it"), ["5", "7"]);
}

fn an_element_that_is_bound_must_be_equal<S: Subject>() {
    let mut n = Host::<S>::new(
        "table t(X: int); t(5); t(6); event e(L: list); event has(X: int); event at(I: int); event n(N: int);
         has(X) :- e(L), t(X), X in L; at(I) :- e(L), S := 7, I, S in L; n(count<*>) :- e(L), 7 in L;",
    );
    n.run(&[("e", vec![list(&[7, 5, 7])])]);
    assert_eq!(
        (n.seen("has"), n.seen("at"), n.seen("n")),
        (
            vec!["5".to_owned()],
            vec!["0".to_owned(), "2".to_owned()],
            vec!["2".to_owned()]
        )
    );
}

fn expressions_compute<S: Subject>() {
    let cases = [
        ("1 + 2 * 3 - 4", "3"),
        ("7 / 2", "3"),
        ("-7 / 2", "-3"),
        ("-7 % 4", "-3"),
        ("1.5 + 2.0", "3.5"),
        ("\"a\" + \"b\"", "\"ab\""),
        ("[1] + [2, \"x\"]", "[1, 2, \"x\"]"),
        ("[5, 6][1]", "6"),
        ("1 < 2 && !(3 == 4) || 1 / 0 == 1", "true"),
        ("2 >= 3 ? \"yes\" : \"no\"", "\"no\""),
        ("500ms", "500000000"),
        ("size([1, 2])", "2"),
        ("split(\"a/b//c\", \"/\")", "[\"a\", \"b\", \"\", \"c\"]"),
        ("join([\"a\", \"b\"], \"/\")", "\"a/b\""),
        ("substr(\"hello\", 1, 3)", "\"ell\""),
        ("str(12) + str(\"x\")", "\"12x\""),
        ("int(\"42\") + 1", "43"),
        ("contains([1, 2], 2) && contains(\"abc\", \"bc\")", "true"),
        ("last([1, 2]) == head([2, 1])", "true"),
        ("range(1, 4)", "[1, 2, 3]"),
        ("sort([3, 1, 2])", "[1, 2, 3]"),
        ("max(3, 9) - min(3, 9)", "6"),
        ("addr(\"h:1\")", "@\"h:1\""),
    ];
    for (text, expected) in cases {
        // Not as constants, which the checker computes: behind a variable.
        let mut n = Host::<S>::new(&format!(
            "event e(B: bool); event out(V: any); out(B ? {text} : [0][1]) :- e(B);"
        ));
        n.run(&[("e", row![true])]);
        assert_eq!(n.seen("out"), [expected], "{text}");
    }
}

const DIVIDE: &str = "event e(A: int, B: int); table u(A: int); u(1); event out(Q: int);";

fn a_failed_expression_drops_the_binding_and_is_reported<S: Subject>() {
    let mut n = Host::<S>::new(&format!("{DIVIDE} share: out(Q) :- e(A, B), Q := A / B;"));
    n.run(&[("e", row![6, 2]), ("e", row![1, 0])]);
    assert_eq!(
        (n.seen("out"), n.failed()),
        (vec!["3".to_owned()], vec!["share"])
    );
    n.run(&[("e", row![i64::MIN, -1])]);
    assert_eq!((n.seen("out").len(), n.failed()), (0, vec!["share"]));
}

fn a_failed_expression_is_not_reported_if_another_term_fails<S: Subject>() {
    for terms in [
        "e(A, B), Q := A / B, u(A), Q < 5",
        "Q < 5, u(A), Q := A / B, e(A, B)",
    ] {
        let mut n = Host::<S>::new(&format!("{DIVIDE} share: out(Q) :- {terms};"));
        n.run(&[("e", row![2, 0])]);
        assert!(n.failed().is_empty());
        n.run(&[("e", row![1, 0])]);
        assert_eq!(n.failed(), ["share"]);
    }
}

fn a_failed_test_is_reported_only_if_the_rest_holds<S: Subject>() {
    let mut n = Host::<S>::new(&format!(
        "{DIVIDE} share: out(A) :- e(A, B), 6 / B > 1, notin u(A), A < 9;"
    ));
    n.run(&[("e", row![1, 0]), ("e", row![9, 0])]);
    assert!(n.failed().is_empty());
    n.run(&[("e", row![2, 0])]);
    assert_eq!((n.failed(), n.seen("out").len()), (vec!["share"], 0));
}

fn a_failed_head_drops_the_row<S: Subject>() {
    let mut n = Host::<S>::new(&format!("{DIVIDE} share: out(A / B) :- e(A, B);"));
    n.run(&[("e", row![1, 0]), ("e", row![4, 2])]);
    assert_eq!(
        (n.seen("out"), n.failed()),
        (vec!["2".to_owned()], vec!["share"])
    );
}

fn a_failed_head_of_a_delete_is_reported<S: Subject>() {
    let mut n = Host::<S>::new(&format!("{DIVIDE} share: delete u(A / B) :- e(A, B);"));
    n.run(&[("e", row![1, 0]), ("e", row![2, 2])]);
    assert_eq!((n.rows("u").len(), n.failed()), (0, vec!["share"]));
    n.run(&[("e", row![1, 0])]);
    assert_eq!(n.failed(), ["share"]);
}

fn an_error_is_an_event_of_the_next_tick<S: Subject>() {
    let mut n = Host::<S>::new(&format!(
        "{DIVIDE} share: out(A / B) :- e(A, B); event bad(R: string); bad(R) :- sys_error(R, _);"
    ));
    n.run(&[("e", row![1, 0])]);
    assert_eq!(
        (n.seen("bad"), n.last.ticks),
        (vec!["\"share\"".to_owned()], 2)
    );
}

fn a_value_of_another_type_than_the_column_is_dropped_and_reported<S: Subject>() {
    let mut n = Host::<S>::new(
        "event e(V: any); event out(X: int); table t(X: int); give: out(V) :- e(V); keep: t(V) :- e(V);",
    );
    n.run(&[("e", row![1]), ("e", row!["text"])]);
    assert_eq!(
        (n.seen("out"), n.rows("t")),
        (vec!["1".to_owned()], vec!["1".to_owned()])
    );
    assert_eq!(n.failed(), ["give", "keep"]);
}

fn an_error_in_a_view_is_reported_when_it_appears<S: Subject>() {
    let mut n = Host::<S>::new(
        "event e(A: int, B: int); table t(A: int, B: int); t(A, B) :- e(A, B); view v(Q: int) kept; share: v(A / B) :- t(A, B);",
    );
    n.run(&[("e", row![1, 0]), ("e", row![4, 2])]);
    assert_eq!(
        (n.rows("v"), n.failed()),
        (vec!["2".to_owned()], vec!["share"])
    );
    n.run(&[("e", row![6, 1])]);
    assert!(n.failed().is_empty());
}

fn an_error_in_a_view_is_reported_only_if_the_rest_of_the_body_holds<S: Subject>() {
    let mut n = Host::<S>::new(
        "event e(A: int, B: int); event f(A: int); table t(A: int, B: int); table u(A: int); t(A, B) :- e(A, B); u(A) :- f(A);
         view v(A: int) kept; share: v(A) :- t(A, B), u(A / B);",
    );
    n.run(&[("e", row![1, 0])]);
    assert!(n.failed().is_empty());
    n.run(&[("f", row![1])]);
    assert_eq!(n.failed(), ["share"]);
}

const TWO: &str = "table a(X: int, Y: int); table b(Y: int, Z: int); a(1, 1); a(1, 2); a(2, 1); b(1, 5); b(1, 6); b(2, 5);";

fn count_star_counts_combinations_of_rows<S: Subject>() {
    let mut n = Host::<S>::new(&format!(
        "{TWO} view n(X: int, N: int) kept; n(X, count<*>) :- a(X, Y), b(Y, _);"
    ));
    assert_eq!(n.rows("n"), ["1, 3", "2, 2"]);
}

fn sum_avg_and_list_take_one_contribution_of_each_combination<S: Subject>() {
    let mut n = Host::<S>::new(&format!(
        "{TWO} view n(X: int, S: int, A: float, L: list) kept; n(X, sum<Z>, avg<Z>, list<Z>) :- a(X, Y), b(Y, Z);"
    ));
    assert_eq!(
        n.rows("n"),
        ["1, 16, 5.333333333333333, [5, 5, 6]", "2, 11, 5.5, [5, 6]"]
    );
}

fn count_counts_distinct_values<S: Subject>() {
    let mut n = Host::<S>::new(&format!(
        "{TWO} view n(X: int, C: int, S: list) kept; n(X, count<Z>, set<Z>) :- a(X, Y), b(Y, Z);"
    ));
    assert_eq!(n.rows("n"), ["1, 2, [5, 6]", "2, 2, [5, 6]"]);
}

/// A page of a table in the order of a column, as a reader asks for it: what lies behind it does not matter.
fn least_of_a_number_that_is_asked_for_in_the_order_of_a_column<S: Subject>() {
    let mut n = Host::<S>::new(
        "table t(P: int, K: string, C: int) keys(P, K); table u(K: string, X: int) keys(K, X); event put(P: int, K: string, C: int);
         event also(K: string, X: int); event page(P: int, After: int, N: int); event out(L: list); event pairs(L: list);
         view v(K: string, L: list) lazy; v(K, [K, X]) :- u(K, X);
         t(P, K, C) :- put(P, K, C); u(K, X) :- also(K, X);
         out(L) :- page(P, After, N), L := least<N, [C, K]> { t(P, K, C), C > After };
         pairs(L) :- page(P, After, N), L := least<N, [C, W]> { t(P, K, C), C > After, v(K, W) };",
    );
    let puts = (0..20).map(|c| {
        (
            "put",
            row![c % 2, format!("k{}", (c * 7) % 20).as_str(), c / 4],
        )
    });
    n.run(&puts.collect::<Vec<_>>());
    let also =
        (0..20).flat_map(|k| (0..3).map(move |x| ("also", row![format!("k{k}").as_str(), 2 - x])));
    n.run(&also.collect::<Vec<_>>());
    n.run(&[("page", row![0, 1, 3])]);
    assert_eq!(
        n.seen("out"),
        ["[[2, \"k10\"], [2, \"k16\"], [3, \"k18\"]]"]
    );
    assert_eq!(
        n.seen("pairs"),
        ["[[2, [\"k10\", 0]], [2, [\"k10\", 1]], [2, [\"k10\", 2]]]"]
    );
    n.run(&[("page", row![1, 3, 0]), ("page", row![7, 0, 5])]);
    assert_eq!(n.seen("out"), ["[]"]);
    n.run(&[("page", row![1, 3, 100])]);
    assert_eq!(n.seen("out"), ["[[4, \"k13\"], [4, \"k19\"]]"]);
}

fn min_max_any_argmin_argmax_and_top_and_least<S: Subject>() {
    let mut n = Host::<S>::new(
        "table t(K: int, V: string); t(1, \"b\"); t(2, \"c\"); t(2, \"a\"); t(1, \"d\"); t(3, \"a\"); t(3, \"b\");
         view m(A: int, B: int, C: int, D: string, E: string, F: list, G: list) kept;
         m(min<K>, max<K>, any<K>, argmin<K, V>, argmax<K, V>, top<2, K>, least<3, V>) :- t(K, V);",
    );
    assert_eq!(
        n.rows("m"),
        ["1, 3, 1, \"b\", \"b\", [2, 3], [\"a\", \"b\", \"c\"]"]
    );
}

fn float_sums_are_exact_and_rounded_once<S: Subject>() {
    let mut n = Host::<S>::new(
        "table t(I: int, X: float); t(1, 0.1); t(2, 0.2); t(3, 0.3); t(4, 1e100); t(5, -1e100); event del(I: int); delete t(I, _) :- del(I);
         view s(X: float) kept; s(sum<X>) :- t(_, X); event now(X: float); now(sum<X>) :- del(_), t(_, X);",
    );
    assert_eq!(n.rows("s"), ["0.6"]);
    n.run(&[("del", row![4])]);
    assert_eq!(n.seen("now"), ["0.6"]);
    assert_eq!(n.rows("s"), ["-1e100"]);
    n.run(&[("del", row![5])]);
    assert_eq!(n.rows("s"), ["0.6"]);
}

fn kept_totals_follow_what_comes_and_goes<S: Subject>() {
    let mut n = Host::<S>::new(
        "table t(G: int, K: int, X: int) keys(G, K); event put(G: int, K: int, X: int); event del(G: int, K: int);
         t(G, K, X) :- put(G, K, X); delete t(G, K, _) :- del(G, K);
         view all(G: int, N: int, S: int, A: float) kept; all(G, count<*>, sum<X * 2>, avg<X>) :- t(G, _, X);
         view members(G: int, N: int) kept; members(G, count<K>) :- t(G, K, _);
         view values(G: int, N: int) kept; values(G, count<X>) :- t(G, _, X);
         view asked(G: int, N: int, S: int) kept; asked(G, N, S) :- G in [1, 2], N := count<K> { t(G, K, _) }, S := sum<X> { t(G, _, X) };",
    );
    assert_eq!(n.rows("asked"), ["1, 0, 0", "2, 0, 0"]);
    n.run(&[
        ("put", row![1, 1, 5]),
        ("put", row![1, 2, 5]),
        ("put", row![1, 3, i64::MAX]),
        ("put", row![2, 1, 1]),
    ]);
    // Twice the greatest int does not fit, so that binding contributes nothing; the plain sum overflows.
    assert_eq!(n.rows("all"), ["1, 2, 20, 5.0", "2, 1, 2, 1.0"]);
    assert_eq!(n.rows("members"), ["1, 3", "2, 1"]);
    assert_eq!(n.rows("values"), ["1, 2", "2, 1"]);
    assert_eq!(n.rows("asked"), ["2, 1, 1"]);
    n.run(&[("put", row![1, 3, 7]), ("del", row![1, 1])]);
    assert_eq!(n.rows("all"), ["1, 2, 24, 6.0", "2, 1, 2, 1.0"]);
    assert_eq!(n.rows("members"), ["1, 2", "2, 1"]);
    assert_eq!(n.rows("values"), ["1, 2", "2, 1"]);
    assert_eq!(n.rows("asked"), ["1, 2, 12", "2, 1, 1"]);
    n.run(&[("del", row![1, 2]), ("del", row![1, 3])]);
    assert_eq!(n.rows("all"), ["2, 1, 2, 1.0"]);
    assert_eq!(n.rows("asked"), ["1, 0, 0", "2, 1, 1"]);
}

fn an_empty_group_has_no_row<S: Subject>() {
    let mut n = Host::<S>::new(
        "table t(A: int); view n(N: int) kept; n(count<*>) :- t(_); event e(X: int); event m(N: int); m(count<X>) :- e(X), t(X);",
    );
    assert!(n.rows("n").is_empty());
    n.run(&[("e", row![1])]);
    assert!(n.seen("m").is_empty());
}

fn a_sum_that_overflows_drops_its_group<S: Subject>() {
    let mut n = Host::<S>::new(
        "event e(G: int, X: int); event s(G: int, X: int); total: s(G, sum<X>) :- e(G, X);
         table t(G: int, X: int); t(G, X) :- e(G, X); view v(G: int, X: int) kept; kept_total: v(G, sum<X>) :- t(G, X);",
    );
    n.run(&[
        ("e", row![1, i64::MAX]),
        ("e", row![1, 1]),
        ("e", row![2, 3]),
    ]);
    assert_eq!(
        (n.seen("s"), n.rows("v")),
        (vec!["2, 3".to_owned()], vec!["2, 3".to_owned()])
    );
    assert_eq!(n.failed(), ["kept_total", "total"]);
    n.run(&[("e", row![1, -1])]);
    assert_eq!(
        (n.seen("s"), n.rows("v")),
        (
            vec!["1, -1".to_owned()],
            vec![format!("1, {}", i64::MAX), "2, 3".to_owned()]
        )
    );
    assert!(n.failed().is_empty());
}

const REPLICAS: &str = "table block(B: int, Want: int); table replica(B: int, N: string); block(1, 2); block(2, 2); block(3, 1);
    replica(1, \"a\"); replica(1, \"b\"); replica(2, \"a\");";

fn a_body_aggregate_is_grouped_by_what_is_bound_outside<S: Subject>() {
    let mut n = Host::<S>::new(&format!(
        "{REPLICAS} view under(B: int, N: int) kept; under(B, N) :- block(B, W), N := count<X> {{ replica(B, X) }}, N < W;
         event ask(B: int); event reply(B: int, L: list); reply(B, L) :- ask(B), L := list<X> {{ replica(B, X) }};"
    ));
    assert_eq!(n.rows("under"), ["2, 1", "3, 0"]);
    n.run(&[("ask", row![1]), ("ask", row![3])]);
    assert_eq!(n.seen("reply"), ["1, [\"a\", \"b\"]", "3, []"]);
}

fn a_body_aggregate_of_nothing<S: Subject>() {
    let mut n = Host::<S>::new(
        "table t(X: int); event e(A: int); event a(N: int, M: int, S: int); event b(L: list, S: list, T: list, U: list); event c(X: int);
         a(N, M, S) :- e(_), N := count<*> { t(_) }, M := count<X> { t(X) }, S := sum<X> { t(X) };
         b(L, S, T, U) :- e(_), L := list<X> { t(X) }, S := set<X> { t(X) }, T := top<2, X> { t(X) }, U := least<2, X> { t(X) };
         c(X) :- e(_), X := max<Y> { t(Y) }; c(X) :- e(_), X := any<Y> { t(Y) }; c(0) :- e(_), _X := avg<Y> { t(Y) };",
    );
    n.run(&[("e", row![1])]);
    assert_eq!(
        (n.seen("a"), n.seen("b")),
        (
            vec!["0, 0, 0".to_owned()],
            vec!["[], [], [], []".to_owned()]
        )
    );
    assert!(n.seen("c").is_empty());
    assert!(n.failed().is_empty());
}

fn an_error_in_a_body_aggregate_drops_the_inner_binding<S: Subject>() {
    for nested in [
        "sum<6 / X> { t(X) }",
        "sum<Y> { t(X), Y := 6 / X }",
        "sum<Y> { t(X), X < 9, u(X, Y), 6 / X > 0 }",
    ] {
        let mut n = Host::<S>::new(&format!(
            "table t(X: int); t(0); t(2); t(3); table u(X: int, Y: int); u(0, 9); u(2, 3); u(3, 2); event e(A: int); event s(N: int);
             total: s(N) :- e(_), N := {nested};"
        ));
        n.run(&[("e", row![1])]);
        assert_eq!(
            (n.seen("s"), n.failed()),
            (vec!["5".to_owned()], vec!["total"]),
            "{nested}"
        );
    }
}

fn a_body_aggregate_can_be_compared_with_a_bound_variable<S: Subject>() {
    let mut n = Host::<S>::new(&format!(
        "{REPLICAS} view exact(B: int) kept; exact(B) :- block(B, N), N := count<X> {{ replica(B, X) }};"
    ));
    assert_eq!(n.rows("exact"), ["1"]);
}

fn aggregates_over_events<S: Subject>() {
    let mut n = Host::<S>::new(
        "event vote(B: int, Node: string); event total(B: int, N: int); event won(B: int); table members(N: int) keys(); members(3);
         total(B, count<Node>) :- vote(B, Node); won(B) :- total(B, N), members(M), N > M / 2;",
    );
    n.run(&[
        ("vote", row![1, "a"]),
        ("vote", row![1, "b"]),
        ("vote", row![2, "c"]),
    ]);
    assert_eq!(
        (n.seen("total"), n.seen("won")),
        (
            vec!["1, 2".to_owned(), "2, 1".to_owned()],
            vec!["1".to_owned()]
        )
    );
}

const COUNTER: &str = "table c(K: int, N: int, S: string) keys(K); c(1, 0, \"a\"); c(2, 0, \"b\"); event e(K: int, X: int); event f(K: int, S: string);";

fn an_update_changes_the_named_columns<S: Subject>() {
    let mut n = Host::<S>::new(&format!("{COUNTER} update c(K: K, N: X) :- e(K, X);"));
    n.run(&[("e", row![1, 7])]);
    assert_eq!(n.rows("c"), ["1, 7, \"a\"", "2, 0, \"b\""]);
}

fn updates_of_different_columns_merge<S: Subject>() {
    let mut n = Host::<S>::new(&format!(
        "{COUNTER} update c(K: K, N: X) :- e(K, X); update c(K: K, S: S) :- f(K, S);"
    ));
    n.run(&[("e", row![1, 7]), ("f", row![1, "z"])]);
    assert_eq!(n.rows("c"), ["1, 7, \"z\"", "2, 0, \"b\""]);
    assert!(n.conflicts().is_empty());
}

fn an_update_without_a_stored_row_has_no_effect<S: Subject>() {
    let mut n = Host::<S>::new(&format!("{COUNTER} update c(K: K, N: X) :- e(K, X);"));
    n.run(&[("e", row![3, 7]), ("e", row![3, 8])]);
    assert_eq!(n.rows("c").len(), 2);
    assert!(n.conflicts().is_empty() && n.changes().is_empty());
}

fn plus_equals_adds_up_all_contributions<S: Subject>() {
    let mut n = Host::<S>::new(&format!(
        "{COUNTER} update c(K: K, N += X) :- e(K, X); update c(K: K, N += 1) :- e(K, _); update c(K: K, N += 100) :- f(K, _);"
    ));
    n.run(&[
        ("e", row![1, 10]),
        ("e", row![1, 20]),
        ("e", row![2, 5]),
        ("f", row![1, "x"]),
    ]);
    assert_eq!(n.rows("c"), ["1, 132, \"a\"", "2, 6, \"b\""]);
}

fn two_values_for_one_column_conflict<S: Subject>() {
    let mut n = Host::<S>::new(&format!("{COUNTER} update c(K: K, N: X) :- e(K, X);"));
    n.run(&[("e", row![1, 7]), ("e", row![1, 9]), ("e", row![1, 8])]);
    assert_eq!(n.rows("c")[0], "1, 9, \"a\"");
    assert_eq!(n.conflicts(), ["c: 1, 9 beats 1, 7", "c: 1, 9 beats 1, 8"]);
}

fn plus_equals_comes_after_equals<S: Subject>() {
    let mut n = Host::<S>::new(&format!(
        "{COUNTER} update c(K: K, N += 1) :- e(K, _); update c(K: K, N: X) :- e(K, X);"
    ));
    n.run(&[("e", row![1, 7])]);
    assert_eq!(n.rows("c")[0], "1, 8, \"a\"");
}

fn a_plus_equals_that_overflows_is_dropped<S: Subject>() {
    let mut n = Host::<S>::new(&format!(
        "{COUNTER} bump: update c(K: K, N += X) :- e(K, X); update c(K: K, S: S) :- f(K, S);"
    ));
    n.run(&[("e", row![1, 1])]);
    n.run(&[
        ("e", row![1, i64::MAX]),
        ("e", row![2, 4]),
        ("f", row![1, "z"]),
    ]);
    assert_eq!(n.rows("c"), ["1, 1, \"z\"", "2, 4, \"b\""]);
    assert_eq!(n.failed(), ["bump"]);
}

fn an_update_with_an_aggregate<S: Subject>() {
    let mut n = Host::<S>::new(&format!("{COUNTER} update c(K: K, N: max<X>) :- e(K, X);"));
    n.run(&[("e", row![1, 7]), ("e", row![1, 9]), ("e", row![2, 3])]);
    assert_eq!(n.rows("c"), ["1, 9, \"a\"", "2, 3, \"b\""]);
    assert!(n.conflicts().is_empty());
}

fn a_delete_matches_a_pattern<S: Subject>() {
    let mut n = Host::<S>::new(
        "table t(A: int, B: int, C: int); t(1, 1, 1); t(1, 2, 1); t(2, 1, 1); t(2, 1, 2); event e(A: int); delete t(A, _, 1) :- e(A); event f(X: int); delete t(_, _, _) :- f(_);",
    );
    n.run(&[("e", row![1])]);
    assert_eq!(n.rows("t"), ["2, 1, 1", "2, 1, 2"]);
    n.run(&[("e", row![2])]);
    assert_eq!(n.rows("t"), ["2, 1, 2"]);
    n.run(&[("f", row![0])]);
    assert!(n.rows("t").is_empty());
}

/// The head names the key and nothing else, in another order than the columns', of rows that are there or not.
fn a_delete_by_key_needs_no_row<S: Subject>() {
    let mut n = Host::<S>::new(
        "table t(A: string, X: int, B: int) keys(B, A); t(\"a\", 7, 1); t(\"b\", 7, 1); t(\"a\", 7, 2);
         table one(X: int) keys(); one(5); event e(A: any, B: int); event again(A: string, X: int, B: int); event f(X: int);
         delete t(A, _, B) :- e(A, B); t(A, X, B) :- again(A, X, B); delete one(_) :- f(_);",
    );
    n.run(&[("e", row!["a", 1]), ("e", row!["c", 1])]);
    assert_eq!(n.rows("t"), ["\"a\", 7, 2", "\"b\", 7, 1"]);
    n.run(&[("e", row!["b", 1]), ("again", row!["b", 8, 1])]);
    assert_eq!(n.rows("t"), ["\"a\", 7, 2", "\"b\", 8, 1"]);
    n.run(&[("e", row![3, 2]), ("f", row![0]), ("f", row![1])]);
    assert_eq!(n.last.errors.len(), 1, "a key of the wrong type");
    assert_eq!(n.rows("t").len(), 2);
    assert!(n.rows("one").is_empty());
}

fn ids_for_several_creates_in_one_tick<S: Subject>() {
    let mut n = Host::<S>::new(
        "table next_ino(K: int, N: int) keys(K); next_ino(0, 10); event ok(C: string); event all(L: list); event id(C: string, I: int);
         all(list<C>) :- ok(C); id(C, N + I) :- all(L), I, C in L, next_ino(0, N); update next_ino(K: 0, N += size(L)) :- all(L);",
    );
    n.run(&[("ok", row!["b"]), ("ok", row!["a"]), ("ok", row!["c"])]);
    assert_eq!(n.seen("id"), ["\"a\", 10", "\"b\", 11", "\"c\", 12"]);
    assert_eq!(n.rows("next_ino"), ["0, 13"]);
}

fn all_messages_of_a_tick_are_sorted_and_distinct<S: Subject>() {
    let mut n = Host::<S>::new(
        "table peer(N: addr); peer(@\"b\"); peer(@\"a\"); event e(X: int); event m(@To: addr, X: int); event k(@To: addr);
         m(@N, 1) :- e(_), peer(N); m(@N, X) :- e(X), peer(N); k(@N) :- e(_), peer(N);",
    );
    n.run(&[("e", row![1]), ("e", row![0])]);
    assert_eq!(
        n.sent(),
        [
            "m(@\"a\", 0)",
            "m(@\"a\", 1)",
            "k(@\"a\")",
            "m(@\"b\", 0)",
            "m(@\"b\", 1)",
            "k(@\"b\")"
        ]
    );
}

fn a_head_at_the_bodys_location_is_no_message<S: Subject>() {
    let mut n = Host::<S>::new(
        "event ask(@Me: addr, From: addr, X: int); event work(@Me: addr, X: int); event reply(@To: addr, X: int);
         work(@Me, X) :- ask(@Me, _, X); reply(@From, X + 1) :- ask(@Me, From, X), work(@Me, X);",
    );
    n.run(&[(
        "ask",
        vec![
            overlog::Value::addr("me"),
            overlog::Value::addr("you"),
            overlog::Value::Int(1),
        ],
    )]);
    assert_eq!(
        (n.seen("work"), n.sent(), n.last.ticks),
        (
            vec!["@\"me\", 1".to_owned()],
            vec!["reply(@\"you\", 2)".to_owned()],
            1
        )
    );
}

#[test]
fn what_cannot_run_is_refused() {
    let cases = [
        ("event e(X: int); event f(Y: int); f(Y) :- e(_);", "OLG0301"),
        (
            "event e(X: int); event f(Y: int); f(X) :- e(X), notin g(X);",
            "OLG0201",
        ),
        (
            "event e(X: int); event f(Y: int); f(X) :- e(X, _);",
            "OLG0203",
        ),
        (
            "event e(X: int); event f(Y: string); f(X) :- e(X);",
            "OLG040",
        ),
        (
            "event e(X: int); event f(X: int); f(X) :- e(X), notin g(X); event g(X: int); g(X) :- f(X);",
            "OLG0602",
        ),
        (
            "table t(X: int); view a(X: int); view b(X: int); a(X) :- t(X), notin b(X); b(X) :- a(X);",
            "OLG0601",
        ),
        ("table t(X: int); table s(X: int); s(X) :- t(X);", "OLG0503"),
        ("event e(X: int); view v(X: int); v(X) :- e(X);", "OLG0502"),
        (
            "event e(X: int); event l(X: int); table r(X: int) replicated by l; r(X) :- e(X);",
            "OLG0508",
        ),
        (
            "event a(@N: addr); event b(@N: addr); event c(X: int); c(1) :- a(@X), b(@Y);",
            "OLG0303",
        ),
        ("table t(X: int); table t(Y: int);", "OLG0101"),
        ("table t(X: int) keys(Y);", "OLG0104"),
    ];
    for (text, code) in cases {
        let why = check(text).unwrap_err();
        assert!(why.contains(code), "{text}\n{why}");
    }
}
