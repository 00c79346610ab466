//! What becomes of a binding, a group or an update for which an expression has no value, wherever it stands.

use super::harness::Host;
use super::subject::Subject;

on_both!(
    a_group_of_failed_bindings_alone_has_no_row,
    a_binding_fails_as_a_whole_for_all_aggregates_of_a_head,
    a_sum_of_what_is_no_number_drops_its_group,
    a_nested_sum_of_what_is_no_number_has_no_value,
    top_takes_the_greatest_of_several_numbers,
    an_overflow_in_an_update_with_an_aggregate_names_its_rule,
    a_view_drops_a_value_of_another_type_than_the_column,
    an_aggregate_over_a_failed_value_is_passed_over,
    an_element_of_a_failed_list_is_passed_over,
);

const PAIRS: &str =
    "event e(G: int, X: int); event n(G: int, N: int); table t(G: int, X: int); t(G, X) :- e(G, X);
    view kept_n(G: int, N: int) kept; view lazy_n(G: int, N: int) lazy;";

fn a_group_of_failed_bindings_alone_has_no_row<S: Subject>() {
    for agg in ["count<6 / X>", "sum<6 / X>", "max<6 / X>"] {
        let mut n = Host::<S>::new(&format!(
            "{PAIRS} per_event: n(G, {agg}) :- e(G, X); per_row: kept_n(G, {agg}) :- t(G, X); lazy_n(G, {agg}) :- t(G, X);"
        ));
        n.run(&[("e", row![1, 0]), ("e", row![2, 0]), ("e", row![2, 6])]);
        assert_eq!(n.seen("n"), ["2, 1"], "{agg}");
        assert_eq!(n.rows("kept_n"), ["2, 1"], "{agg}");
        assert_eq!(n.rows("lazy_n"), ["2, 1"], "{agg}");
        assert_eq!(n.failed(), ["per_event", "per_row"], "{agg}");
    }
}

fn a_binding_fails_as_a_whole_for_all_aggregates_of_a_head<S: Subject>() {
    let mut n = Host::<S>::new(
        "event e(X: int); event n(N: int, S: int); table t(X: int); t(X) :- e(X); view lazy_n(N: int, S: int) lazy;
         n(count<X>, sum<6 / X>) :- e(X); lazy_n(count<X>, sum<6 / X>) :- t(X);",
    );
    n.run(&[("e", row![0]), ("e", row![2]), ("e", row![3])]);
    assert_eq!(
        (n.seen("n"), n.rows("lazy_n")),
        (vec!["2, 5".to_owned()], vec!["2, 5".to_owned()])
    );
}

const MIXED: &str =
    "event e(G: int, X: any); table t(G: int, X: any); t(G, X) :- e(G, X); event n(G: int, S: int);
    view kept_n(G: int, S: int) kept; view lazy_n(G: int, S: int) lazy;";

fn a_sum_of_what_is_no_number_drops_its_group<S: Subject>() {
    let mut n = Host::<S>::new(&format!(
        "{MIXED} per_event: n(G, sum<X>) :- e(G, X); per_row: kept_n(G, sum<X>) :- t(G, X); lazy_n(G, sum<X>) :- t(G, X);"
    ));
    n.run(&[("e", row![1, "a"]), ("e", row![1, 2]), ("e", row![2, 3])]);
    assert_eq!(n.seen("n"), ["2, 3"]);
    assert_eq!(n.rows("kept_n"), ["2, 3"]);
    assert_eq!(n.rows("lazy_n"), ["2, 3"]);
    assert_eq!(n.failed(), ["per_event", "per_row"]);
}

fn a_nested_sum_of_what_is_no_number_has_no_value<S: Subject>() {
    let mut n = Host::<S>::new(&format!(
        "{MIXED} table g(G: int); g(1); g(2); event ask(A: int);
         per_event: n(G, S) :- ask(_), g(G), S := sum<X> {{ t(G, X) }};
         per_row: kept_n(G, S) :- g(G), S := sum<X> {{ t(G, X) }};
         lazy_n(G, S) :- g(G), S := sum<X> {{ t(G, X) }};"
    ));
    n.run(&[("e", row![1, "a"]), ("e", row![1, 2]), ("e", row![2, 3])]);
    assert_eq!(n.failed(), ["per_row"]);
    n.run(&[("ask", row![0])]);
    assert_eq!(n.seen("n"), ["2, 3"]);
    assert_eq!(n.rows("kept_n"), ["2, 3"]);
    assert_eq!(n.rows("lazy_n"), ["2, 3"]);
    assert_eq!(n.failed(), ["per_event"]);
}

fn top_takes_the_greatest_of_several_numbers<S: Subject>() {
    let mut n = Host::<S>::new(
        "event e(N: int, X: int); table t(N: int, X: int); t(N, X) :- e(N, X); event s(T: list, L: list); event ask(A: int);
         view kept_s(T: list, L: list) kept; view lazy_s(T: list, L: list) lazy;
         s(top<N, X>, least<N, X>) :- e(N, X); kept_s(top<N, X>, least<N, X>) :- t(N, X); lazy_s(top<N, X>, least<N, X>) :- t(N, X);
         s(T, L) :- ask(_), T := top<N, X> { t(N, X) }, L := least<N, X> { t(N, X) };",
    );
    n.run(&[
        ("e", row![1, 1]),
        ("e", row![1, 2]),
        ("e", row![2, 4]),
        ("e", row![1, 5]),
    ]);
    let all = ["[4, 5], [1, 2]"];
    assert_eq!(n.seen("s"), all);
    assert_eq!(n.rows("kept_s"), all);
    assert_eq!(n.rows("lazy_s"), all);
    n.run(&[("ask", row![0])]);
    assert_eq!(n.seen("s"), all);
}

fn an_overflow_in_an_update_with_an_aggregate_names_its_rule<S: Subject>() {
    let mut n = Host::<S>::new(
        "table c(K: int, N: int, M: int) keys(K); c(1, 1, 0); event e(K: int, X: int); event f(K: int);
         first: f(K) :- e(K, _); bump: update c(K: K, N += 9223372036854775807, M: max<X>) :- e(K, X);",
    );
    n.run(&[("e", row![1, 7])]);
    assert_eq!(n.rows("c"), ["1, 1, 7"]);
    assert_eq!(n.failed(), ["bump"]);
}

fn a_view_drops_a_value_of_another_type_than_the_column<S: Subject>() {
    let mut n = Host::<S>::new(
        "event e(X: any); table t(X: any); t(X) :- e(X); view kept_v(X: int) kept; view lazy_v(X: int) lazy; view kept_m(X: int) kept; view lazy_m(X: int) lazy;
         narrow: kept_v(X) :- t(X); lazy_v(X) :- t(X); narrow_max: kept_m(max<X>) :- t(X); lazy_m(max<X>) :- t(X);",
    );
    n.run(&[("e", row![1]), ("e", row!["a"])]);
    assert_eq!(n.rows("kept_v"), ["1"]);
    assert_eq!(n.rows("lazy_v"), ["1"]);
    assert_eq!(n.rows("kept_m"), [""; 0]);
    assert_eq!(n.rows("lazy_m"), [""; 0]);
    assert_eq!(n.failed(), ["narrow", "narrow_max"]);
}

fn an_aggregate_over_a_failed_value_is_passed_over<S: Subject>() {
    let mut n = Host::<S>::new(
        "table t(A: int); t(1); event e(L: list); event f(A: int, M: int);
         second: f(A, M) :- e(L), A := int(L[1]), M := max<X> { t(X), X != A };",
    );
    n.run(&[(
        "e",
        vec![overlog::Value::list(vec![overlog::Value::Int(1)])],
    )]);
    assert!(n.seen("f").is_empty());
    assert_eq!(n.failed(), ["second"]);
}

fn an_element_of_a_failed_list_is_passed_over<S: Subject>() {
    let mut n = Host::<S>::new(
        "event e(I: int); event f(I: int); at: f(I) :- e(I), Y in [[5], [6]][I], Y != 5;",
    );
    n.run(&[("e", row![0])]);
    assert_eq!((n.seen("f"), n.failed()), (vec![], vec![]));
    n.run(&[("e", row![0]), ("e", row![9])]);
    assert_eq!((n.seen("f"), n.failed()), (vec![], vec!["at"]));
}
