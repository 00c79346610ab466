//! Expressions and what they come to.

use super::builtins;
use crate::engine::eval::Ev;
use crate::packed::Row;
use crate::value::Value;
use crate::{CompileOptions, Sources, compile};

/// The value of an expression as a fact has it, or why it has none.
fn value(text: &str) -> String {
    let mut sources = Sources::new();
    sources.add("t", format!("table t(A: any); watch(t); t({text});"));
    match compile("t", &sources, &[], CompileOptions::default()) {
        Ok((program, _)) => program.facts[0].row[0].to_string(),
        Err(diagnostics) => diagnostics.list[0]
            .message
            .replace("this constant has no value: ", "! "),
    }
}

fn table(rows: &[(&str, &str)]) {
    for (text, expected) in rows {
        assert_eq!(value(text), *expected, "{text}");
    }
}

#[test]
fn operators() {
    table(&[
        ("1 + 2 * 3 - 4 / 2", "5"),
        ("(1 + 2) * -3", "-9"),
        ("7 / -2", "-3"),
        ("7 % -2", "1"),
        ("-7 % 2", "-1"),
        ("1.5 * 2.0", "3.0"),
        ("0.0 * -1.0", "0.0"),
        ("1.0e308 * 10.0", "inf"),
        ("inf - inf", "nan"),
        ("nan == nan", "true"),
        ("nan > inf", "true"),
        ("\"a\" + \"b\"", "\"ab\""),
        ("0x01 + 0xff", "0x01ff"),
        ("[1] + [2, [3]]", "[1, 2, [3]]"),
        (
            "1 < 2 && 2 <= 2 && 3 > 2 && 3 >= 3 && 1 == 1 && 1 != 2",
            "true",
        ),
        ("false && 1 / 0 == 1", "false"),
        ("true || 1 / 0 == 1", "true"),
        ("1 > 2 ? 1 / 0 : 5", "5"),
        ("true ? false ? 1 : 2 : 3", "2"),
        ("!true == false", "true"),
        ("[1, 2, 3][1]", "2"),
        ("[[1], [2]][1][0]", "2"),
        ("\"a\" < \"b\"", "true"),
        ("[1, 2] < [1, 2, 0]", "true"),
        ("1ms + 1us", "1001000"),
    ]);
}

#[test]
fn expressions_without_a_value() {
    table(&[
        (
            "9223372036854775807 + 1",
            "! 9223372036854775807 + 1 does not fit 64 bits",
        ),
        (
            "-9223372036854775808 / -1",
            "! -9223372036854775808 / -1 does not fit 64 bits",
        ),
        (
            "-(-9223372036854775808)",
            "! -(-9223372036854775808) does not fit 64 bits",
        ),
        ("1 % 0", "! division by zero: 1 % 0"),
        ("1.0 / 0.0", "! division by zero: 1.0 / 0.0"),
        (
            "1 + 2.0",
            "! 1 + 2.0: both must be ints, floats, strings, bytes or lists",
        ),
        ("1 - 2.0", "! 1 - 2.0: both must be ints or both floats"),
        ("[1][1]", "! index 1 is outside a list of 1"),
        ("[1][-1]", "! index -1 is outside a list of 1"),
        ("!1", "! ! of 1, which is no bool"),
        ("-true", "! - of true, which is no number"),
        ("1 && true", "! 1 is no bool"),
        (
            "[1][\"a\"]",
            "! [1][\"a\"]: an index takes a list and an int",
        ),
        (
            "split(1, \"a\")",
            "! split: argument 1 is 1, which is no string",
        ),
    ]);
}

#[test]
fn functions_of_text() {
    table(&[
        (r#"split("/a//b", "/")"#, r#"["", "a", "", "b"]"#),
        (r#"split("abc", "")"#, r#"["abc"]"#),
        (r#"split("", "/")"#, r#"[""]"#),
        (r#"join(["a", "b", ""], "/")"#, r#""a/b/""#),
        (r#"join([], "/")"#, r#""""#),
        (r#"join([1], "/")"#, "! join: 1 is no string"),
        (
            r#"starts_with("/a/b", "/a") && !starts_with("a", "ab")"#,
            "true",
        ),
        (r#"ends_with("a.rs", ".rs") && ends_with("a", "")"#, "true"),
        (
            r#"contains("abc", "bc") && !contains("abc", "cb") && contains([1, 2], 2)"#,
            "true",
        ),
        (
            "contains(1, 2)",
            "! contains takes a list and a value, or two strings: wrong arguments",
        ),
        (r#"substr("abcdef", 2, 3)"#, r#""cde""#),
        (
            r#"substr("abc", -5, 2) + substr("abc", 2, 99) + substr("abc", 9, 1)"#,
            r#""abc""#,
        ),
        (r#"lower("AbC\u{c9}") + upper("x")"#, "\"abc\u{c9}X\""),
        (r#"size("\u{e9}") + size([1, 2]) + size(0x00)"#, "5"),
        ("size(5)", "! size of 5, which is no list, string or bytes"),
    ]);
}

#[test]
fn functions_of_lists() {
    table(&[
        ("[head([1, 2]), last([1, 2])]", "[1, 2]"),
        ("[tail([1, 2, 3]), init([1, 2, 3])]", "[[2, 3], [1, 2]]"),
        ("head([])", "! head of an empty list"),
        ("tail([])", "! tail of an empty list"),
        ("slice([1, 2, 3, 4], 1, 2)", "[2, 3]"),
        ("slice([1, 2], 5, -1)", "[]"),
        ("sort([3, 1, \"a\", 2.0, 1])", "[1, 1, 3, 2.0, \"a\"]"),
        ("unique([3, 1, 3])", "[1, 3]"),
        ("reverse([1, 2])", "[2, 1]"),
        ("range(2, 5) + range(5, 2)", "[2, 3, 4]"),
        (
            "range(0, 9223372036854775807)",
            "! range(0, 9223372036854775807) has more than 1048576 items",
        ),
        (
            "range(-9223372036854775808, 9223372036854775807)",
            "! range(-9223372036854775808, 9223372036854775807) has more than 1048576 items",
        ),
    ]);
}

#[test]
fn functions_of_numbers() {
    table(&[
        (
            "[abs(-3), abs(-1.5), min(2, 1), max(\"a\", \"b\")]",
            "[3, 1.5, 1, \"b\"]",
        ),
        (
            "abs(-9223372036854775808)",
            "! abs(-9223372036854775808) does not fit 64 bits",
        ),
        (
            "[band(12, 10), bor(12, 10), bxor(12, 10), bnot(0)]",
            "[8, 14, 6, -1]",
        ),
        (
            "[shl(1, 4), shr(-16, 2), shl(1, 63)]",
            "[16, -4, -9223372036854775808]",
        ),
        ("shl(1, 64)", "! shl by 64 is outside 0..63"),
        ("shr(1, -1)", "! shr by -1 is outside 0..63"),
        ("[floor(-1.5), ceil(-1.5), round(2.5)]", "[-2, -1, 3]"),
        ("floor(nan)", "! floor(nan) does not fit 64 bits"),
        ("round(1.0e19)", "! round(1e19) does not fit 64 bits"),
    ]);
}

#[test]
fn conversions() {
    table(&[
        (
            "[str(1), str(\"a\"), str([1, \"a\"]), str(@\"h:1\")]",
            r#"["1", "a", "[1, \"a\"]", "h:1"]"#,
        ),
        (
            "[int(\" 42 \"), int(true), int(-1.9), int(7)]",
            "[42, 1, -1, 7]",
        ),
        ("int(\"x\")", "! \"x\" is no int"),
        ("int([1])", "! [1] is no int"),
        ("[float(1), float(\"1.5\"), float(2.0)]", "[1.0, 1.5, 2.0]"),
        ("float(true)", "! true is no float"),
        ("[addr(\"h:1\"), bytes(\"ab\")]", "[@\"h:1\", 0x6162]"),
        ("addr(1)", "! 1 is no addr"),
        (
            "[typeof(1), typeof([]), typeof(@\"h\")]",
            "[\"int\", \"list\", \"addr\"]",
        ),
    ]);
}

#[test]
fn a_hash_is_the_same_everywhere() {
    // FNV-1a of the packed bytes: an empty string packs to 30 00 00.
    let packed = Row::new(&[crate::Value::str("")]);
    assert_eq!(packed.as_bytes(), [0x30, 0, 0]);
    let mut state: u64 = 14_695_981_039_346_656_037;
    for byte in [0x30_u64, 0, 0] {
        state = (state ^ byte).wrapping_mul(1_099_511_628_211);
    }
    assert_eq!(value("hash(\"\")"), (state % (1 << 63)).to_string());
}

#[test]
fn long_values_are_cut_in_messages() {
    let list = format!("[{}]", vec!["1"; 20].join(", "));
    assert_eq!(value(&format!("int({list})")), "! a list of 20 is no int");
    assert_eq!(
        value(&format!("int(\"{}\")", "x".repeat(100))),
        "! a value of 100 bytes is no int"
    );
}

/// A fast form gives what the ordinary one gives, or leaves it to that.
#[test]
fn fast_forms_are_the_ordinary_ones() {
    let list = |items: &[Value]| Value::list(items.to_vec());
    let int = Value::Int;
    let values = [
        int(0),
        int(-1),
        int(2),
        int(63),
        int(64),
        int(i64::MIN),
        Value::Bool(true),
        Value::float(1.0),
        Value::str(""),
        Value::str("a\0b"),
        Value::bytes(b"ab"),
        list(&[]),
        list(&[int(2)]),
        list(&[Value::str("a\0b"), list(&[int(0), int(2)]), int(-1)]),
    ];
    let mut given = 0;
    for function in builtins() {
        let Some(fast) = function.fast else { continue };
        let arity = function.args.len();
        for n in 0..values.len().pow(u32::try_from(arity).unwrap()) {
            let pick = |at: u32| values[n / values.len().pow(at) % values.len()].clone();
            let args: Vec<Value> = (0..u32::try_from(arity).unwrap()).map(pick).collect();
            let row: Vec<Row> = args
                .iter()
                .map(|v| Row::new(std::slice::from_ref(v)))
                .collect();
            let packed: Vec<Ev<'_>> = row.iter().map(|r| Ev::Ref(r.as_bytes())).collect();
            let Some(result) = fast(&packed) else {
                continue;
            };
            given += 1;
            let ordinary = super::call(function, &args);
            assert_eq!(
                result.value().ok(),
                ordinary.ok(),
                "{}{args:?}",
                function.name
            );
        }
    }
    assert!(given > 200, "only {given} results");
}
