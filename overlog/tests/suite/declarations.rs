//! Declarations: keys, lattice columns, views, invariants, queries.

use super::harness::Host;
use super::subject::Subject;

on_both!(
    a_table_without_keys_is_a_set,
    a_max_column_merges,
    min_or_and_and_set_columns_merge,
    insertions_merge_with_one_another_but_not_with_what_the_tick_deletes,
    an_update_of_a_lattice_column_merges,
    a_list_in_a_max_column_is_one_value,
    a_view_with_a_min_column_has_the_best_row_for_each_key,
    shortest_paths_by_a_min_column_follow_deletions,
    what_is_not_named_is_any,
    a_lazy_view_is_evaluated_when_asked,
    views_stand_on_views,
    an_invariant_reports_new_rows_at_rest,
    an_invariant_with_an_event_is_checked_in_each_tick,
    a_rule_can_react_to_a_violation,
    a_replicated_table_is_changed_by_its_event,
    all_values_have_one_total_order,
    a_query_sees_tables_and_views_at_rest,
    a_query_can_join_and_aggregate,
);

fn a_table_without_keys_is_a_set<S: Subject>() {
    let mut n =
        Host::<S>::new("table t(A: int, B: int); event e(A: int, B: int); t(A, B) :- e(A, B);");
    n.run(&[("e", row![1, 1]), ("e", row![1, 2])]);
    n.run(&[("e", row![1, 1])]);
    assert_eq!(n.rows("t"), ["1, 1", "1, 2"]);
}

fn a_max_column_merges<S: Subject>() {
    let mut n = Host::<S>::new(
        "table t(A: int, M: max<int>) keys(A); event e(A: int, M: int); t(A, M) :- e(A, M);",
    );
    n.run(&[("e", row![1, 5]), ("e", row![1, 9]), ("e", row![2, 3])]);
    assert_eq!(n.rows("t"), ["1, 9", "2, 3"]);
    assert!(n.conflicts().is_empty());
    n.run(&[("e", row![1, 7]), ("e", row![2, 4])]);
    assert_eq!(n.rows("t"), ["1, 9", "2, 4"]);
    assert_eq!(n.changes(), ["-t(2, 3)", "+t(2, 4)"]);
}

fn min_or_and_and_set_columns_merge<S: Subject>() {
    let mut n = Host::<S>::new(
        "table t(A: int, L: min<int>, O: or, N: and, S: set<int>) keys(A);
         event e(A: int, L: int, B: bool, S: list); t(A, L, B, B, S) :- e(A, L, B, S);",
    );
    let list = |items: &[i64]| {
        overlog::Value::list(
            items
                .iter()
                .map(|i| overlog::Value::Int(*i))
                .collect::<Vec<_>>(),
        )
    };
    n.run(&[("e", row![1, 5, true, list(&[3, 1, 3])])]);
    assert_eq!(n.rows("t"), ["1, 5, true, true, [1, 3]"]);
    n.run(&[("e", row![1, 7, false, list(&[2])])]);
    assert_eq!(n.rows("t"), ["1, 5, true, false, [1, 2, 3]"]);
}

fn insertions_merge_with_one_another_but_not_with_what_the_tick_deletes<S: Subject>() {
    let mut n = Host::<S>::new(
        "table t(A: int, M: max<int>) keys(A); event put(A: int, M: int); event forget(A: int);
         t(A, M) :- put(A, M); delete t(A, _) :- forget(A);",
    );
    n.run(&[("put", row![1, 9])]);
    n.run(&[
        ("put", row![1, 3]),
        ("put", row![1, 4]),
        ("forget", row![1]),
    ]);
    assert_eq!(n.rows("t"), ["1, 4"]);
}

fn an_update_of_a_lattice_column_merges<S: Subject>() {
    let mut n = Host::<S>::new(
        "table t(A: int, M: max<int>) keys(A); event e(A: int, M: int); t(1, 5); update t(A: A, M: M) :- e(A, M);",
    );
    n.run(&[("e", row![1, 3]), ("e", row![2, 9])]);
    assert_eq!(n.rows("t"), ["1, 5"]);
    n.run(&[("e", row![1, 8]), ("e", row![1, 7])]);
    assert_eq!(n.rows("t"), ["1, 8"]);
    assert!(n.conflicts().is_empty());
}

fn a_list_in_a_max_column_is_one_value<S: Subject>() {
    let mut n = Host::<S>::new(
        "table accepted(Slot: int, Best: max<[Ballot, Value]>) keys(Slot); event e(S: int, B: int, V: string);
         accepted(S, [B, V]) :- e(S, B, V);",
    );
    n.run(&[("e", row![1, 1, "z"])]);
    n.run(&[("e", row![1, 2, "a"])]);
    assert_eq!(n.rows("accepted"), ["1, [2, \"a\"]"]);
}

fn a_view_with_a_min_column_has_the_best_row_for_each_key<S: Subject>() {
    let mut n = Host::<S>::new(
        "table t(A: int, B: int); event add(A: int, B: int); event del(A: int, B: int); t(A, B) :- add(A, B); delete t(A, B) :- del(A, B);
         view best(A: int, B: min<int>) keys(A) kept; best(A, B) :- t(A, B);",
    );
    n.run(&[("add", row![1, 5]), ("add", row![1, 3])]);
    assert_eq!(n.rows("best"), ["1, 3"]);
    n.run(&[("del", row![1, 3])]);
    assert_eq!(n.rows("best"), ["1, 5"]);
}

fn shortest_paths_by_a_min_column_follow_deletions<S: Subject>() {
    let mut n = Host::<S>::new(
        "table link(A: int, B: int, D: int) keys(A, B); event add(A: int, B: int, D: int); event cut(A: int, B: int);
         link(A, B, D) :- add(A, B, D); delete link(A, B, _) :- cut(A, B);
         view dist(A: int, B: int, D: min<int>) keys(A, B) kept;
         dist(A, B, D) :- link(A, B, D);
         dist(A, C, D + E) :- dist(A, B, D), link(B, C, E);",
    );
    n.run(&[
        ("add", row![1, 2, 1]),
        ("add", row![2, 3, 1]),
        ("add", row![1, 3, 5]),
        ("add", row![3, 1, 1]),
    ]);
    assert_eq!(n.rows("dist")[..3], ["1, 1, 3", "1, 2, 1", "1, 3, 2"]);
    n.run(&[("cut", row![2, 3])]);
    assert_eq!(
        n.rows("dist"),
        [
            "1, 1, 6", "1, 2, 1", "1, 3, 5", "3, 1, 1", "3, 2, 2", "3, 3, 6"
        ]
    );
}

fn what_is_not_named_is_any<S: Subject>() {
    let mut n = Host::<S>::new(
        "table t(A: int, B: int, C: int); view v(C: int) kept; v(C) :- t(C: C, A: 1); t(1, 2, 3); t(1, 4, 3); t(2, 2, 5);",
    );
    assert_eq!(n.rows("v"), ["3"]);
}

fn a_lazy_view_is_evaluated_when_asked<S: Subject>() {
    let mut n = Host::<S>::new(
        "table t(A: int, B: int); t(1, 2); t(2, 3); view path(A: int, B: int) lazy; view end(A: int) lazy;
         path(X, Y) :- t(X, Y); path(X, Z) :- t(X, Y), path(Y, Z); end(Y) :- path(_, Y), notin path(Y, _);
         event e(A: int, B: int); t(A, B) :- e(A, B);",
    );
    assert_eq!(n.rows("path"), ["1, 2", "1, 3", "2, 3"]);
    n.run(&[("e", row![3, 4])]);
    assert_eq!(
        n.rows("path"),
        ["1, 2", "1, 3", "1, 4", "2, 3", "2, 4", "3, 4"]
    );
    assert_eq!(n.rows("end"), ["4"]);
}

fn views_stand_on_views<S: Subject>() {
    let mut n = Host::<S>::new(
        "table t(A: int, B: int); event e(A: int, B: int); t(A, B) :- e(A, B);
         view degree(A: int, N: int); degree(A, count<B>) :- t(A, B);
         view top(L: list); top(top<1, [N, A]>) :- degree(A, N);
         event changed(L: list); changed(L) :- top#insert(L);",
    );
    n.run(&[("e", row![1, 1]), ("e", row![2, 1]), ("e", row![2, 2])]);
    assert_eq!(n.seen("changed"), ["[[2, 2]]"]);
    n.run(&[("e", row![1, 1])]);
    assert!(n.seen("changed").is_empty());
}

const ORPHAN: &str = "table inode(I: int); table dentry(I: int); event add(I: int); event link(I: int); event unlink(I: int);
    inode(I) :- add(I); dentry(I) :- link(I); delete dentry(I) :- unlink(I);
    invariant no_orphan(I) :- dentry(I), notin inode(I);";

fn an_invariant_reports_new_rows_at_rest<S: Subject>() {
    let mut n = Host::<S>::new(ORPHAN);
    n.run(&[("add", row![1]), ("link", row![1])]);
    assert!(n.violations().is_empty());
    n.run(&[("link", row![2])]);
    assert_eq!(n.violations(), ["no_orphan(2)"]);
    n.run(&[("link", row![3])]);
    assert_eq!(n.violations(), ["no_orphan(3)"]);
    n.run(&[("unlink", row![2])]);
    assert!(n.violations().is_empty());
    n.run(&[("link", row![2])]);
    assert_eq!(n.violations(), ["no_orphan(2)"]);
    assert_eq!(n.rows("dentry"), ["1", "2", "3"]);
}

fn an_invariant_with_an_event_is_checked_in_each_tick<S: Subject>() {
    let mut n = Host::<S>::new(
        "event e(X: int); invariant small(X) :- e(X), X > 1; next e(X - 1) :- e(X), X > 0;",
    );
    n.run(&[("e", row![3])]);
    assert_eq!(n.violations(), ["small(3)", "small(2)"]);
    assert_eq!(n.last.ticks, 4);
}

fn a_rule_can_react_to_a_violation<S: Subject>() {
    let mut n = Host::<S>::new(&format!(
        "{ORPHAN} event alarm(I: string, R: list); alarm(I, R) :- sys_violation(I, R);"
    ));
    n.run(&[("link", row![2])]);
    assert_eq!(n.seen("alarm"), ["\"no_orphan\", [2]"]);
    assert_eq!(
        (n.violations(), n.last.ticks),
        (vec!["no_orphan(2)".to_owned()], 2)
    );
}

fn a_replicated_table_is_changed_by_its_event<S: Subject>() {
    let mut n = Host::<S>::new(
        "event apply(A: int, B: int); event good(A: int, B: int); table r(A: int, B: int) keys(A) replicated by apply;
         good(A, B) :- apply(A, B), notin r(_, B); r(A, B) :- good(A, B);",
    );
    n.run(&[("apply", row![1, 5])]);
    n.run(&[("apply", row![2, 5])]);
    n.run(&[("apply", row![1, 6])]);
    assert_eq!(n.rows("r"), ["1, 6"]);
    assert_eq!(n.changes(), ["-r(1, 5)", "+r(1, 6)"]);
}

fn all_values_have_one_total_order<S: Subject>() {
    let mut n = Host::<S>::new(
        "table t(V: any); view sorted(L: list) kept; sorted(list<V>) :- t(V);
         t([1]); t(@\"a\"); t(0x00); t(\"b\"); t(\"a\\u{0}\"); t(\"a\"); t(nan); t(inf); t(-1.5); t(300); t(-300); t(-1); t(0); t(true); t(false); t([]);",
    );
    assert_eq!(
        n.rows("sorted"),
        [
            "[false, true, -300, -1, 0, 300, -1.5, inf, nan, \"a\", \"a\\u{0}\", \"b\", 0x00, @\"a\", [], [1]]"
        ]
    );
}

const FILES: &str = "table inode(I: int, Size: int) keys(I); table name(D: int, N: string, I: int) keys(D, N);
    inode(1, 0); inode(2, 10); inode(3, 2000); inode(4, 300); name(1, \"d\", 2); name(1, \"b\", 3); name(2, \"x\", 4);
    view path(P: string, I: int); path(\"\", 1); path(P + \"/\" + N, I) :- path(P, D), name(D, N, I);";

fn a_query_sees_tables_and_views_at_rest<S: Subject>() {
    let mut n = Host::<S>::new(FILES);
    let mut ask = |text: &str| {
        n.node
            .query(text)
            .map(|rows| rows.iter().map(super::harness::show).collect::<Vec<_>>())
    };
    assert_eq!(
        ask("? big(P, S) :- path(P, I), inode(I: I, Size: S), S > 100;").unwrap(),
        ["\"/b\", 2000", "\"/d/x\", 300"]
    );
    assert_eq!(ask("path(\"/d\", I)").unwrap(), ["\"/d\", 2"]);
    assert_eq!(
        ask("? name(1, N, _);").unwrap(),
        ["1, \"b\", 3", "1, \"d\", 2"]
    );
    assert!(ask("? inode(X)").is_err());
}

fn a_query_can_join_and_aggregate<S: Subject>() {
    let mut n = Host::<S>::new(FILES);
    let mut ask = |text: &str| {
        n.node
            .query(text)
            .map(|rows| rows.iter().map(super::harness::show).collect::<Vec<_>>())
    };
    assert_eq!(
        ask("? n(D, count<*>, sum<S>) :- name(D, _, I), inode(I, S)").unwrap(),
        ["1, 2, 2010", "2, 1, 300"]
    );
    assert_eq!(
        ask("? empty(I) :- inode(I, _), notin name(I, _, _)").unwrap(),
        ["3", "4"]
    );
    assert_eq!(
        ask("? n(I, N) :- inode(I, _), N := count<X> { name(I, X, _) }").unwrap(),
        ["1, 2", "2, 1", "3, 0", "4, 0"]
    );
}
