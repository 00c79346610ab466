//! Comparison of two traces.

use anyhow::{Result, bail};

/// Lines that are shown before the first that differs.
const BEFORE: usize = 20;

/// That two traces are one.
///
/// # Errors
/// They are not; the first lines that differ are shown, with those before them.
pub fn same(first: &str, second: &str) -> Result<()> {
    if first == second {
        return Ok(());
    }
    let pairs = first.lines().zip(second.lines());
    let equal = pairs.take_while(|(a, b)| a == b).count();
    let before: Vec<&str> = first
        .lines()
        .take(equal)
        .skip(equal.saturating_sub(BEFORE))
        .collect();
    let line = |text: &str| text.lines().nth(equal).unwrap_or("(its end)").to_owned();
    bail!(
        "two runs differ from line {} on, after\n{}\none has\n{}\nthe other\n{}",
        equal + 1,
        before.join("\n"),
        line(first),
        line(second)
    )
}

#[test]
fn the_first_line_that_differs_is_shown() {
    same("a\nb\n", "a\nb\n").unwrap();
    let why = same("a\nb\nc\n", "a\nb\nd\n").unwrap_err().to_string();
    assert_eq!(
        why,
        "two runs differ from line 3 on, after\na\nb\none has\nc\nthe other\nd"
    );
    let why = same("a\n", "a\nb\n").unwrap_err().to_string();
    assert!(why.ends_with("one has\n(its end)\nthe other\nb"), "{why}");
}
