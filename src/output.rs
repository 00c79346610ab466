//! What is printed: lines, tables, sizes, times.

use anyhow::Context;
use comfy_table::{Table, presets};
use std::io::{ErrorKind, Write};

/// Prints a line on stdout, at once. A reader that has gone is no failure.
///
/// # Errors
/// stdout cannot be written.
pub fn line(text: &str) -> anyhow::Result<()> {
    let mut bytes = text.as_bytes().to_vec();
    bytes.push(b'\n');
    raw(&bytes)
}

/// Prints bytes on stdout, at once. A reader that has gone is no failure.
///
/// # Errors
/// stdout cannot be written.
pub fn raw(bytes: &[u8]) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(why) if why.kind() != ErrorKind::BrokenPipe => {
            Err(why).context("cannot write to stdout")
        }
        _ => Ok(()),
    }
}

/// Prints a value as one line of JSON.
///
/// # Errors
/// stdout cannot be written.
pub fn json(value: &serde_json::Value) -> anyhow::Result<()> {
    line(&value.to_string())
}

/// An empty table with a head.
pub fn table<S: AsRef<str>>(head: &[S]) -> Table {
    let mut table = Table::new();
    table
        .load_preset(presets::UTF8_FULL_CONDENSED)
        .set_header(head.iter().map(|name| plain(name.as_ref())));
    table
}

/// Text whose control characters cannot harm a terminal.
pub fn plain(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '?' } else { c })
        .collect()
}

/// A number of bytes for people: 1.5 GiB.
pub fn size(bytes: u64) -> String {
    human(bytes, &["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"], " ")
}

/// A number of bytes as `ls -h` and `du -h` show it: 1.5G.
pub fn short_size(bytes: u64) -> String {
    human(bytes, &["", "K", "M", "G", "T", "P", "E"], "")
}

fn human(bytes: u64, units: &[&str], gap: &str) -> String {
    #[allow(clippy::cast_precision_loss)] // One digit behind the point is shown.
    let mut number = bytes as f64;
    let mut units = units.iter();
    let mut unit = units.next().copied().unwrap_or_default();
    if bytes < 1024 {
        return format!("{bytes}{gap}{unit}").trim_end().to_owned();
    }
    while number >= 1023.95 {
        let Some(next) = units.next() else { break };
        number /= 1024.0;
        unit = next;
    }
    format!("{number:.1}{gap}{unit}")
}

/// A time in UTC: 2026-01-31 23:59:59.
pub fn time(ns: i64) -> String {
    let seconds = ns.div_euclid(1_000_000_000);
    let (days, rest) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let (year, month, day) = date(days);
    format!(
        "{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02}",
        rest / 3600,
        rest / 60 % 60,
        rest % 60
    )
}

/// The civil date of a day counted from 1970-01-01: eras of 400 years that begin in March, so that a leap day is a year's last.
fn date(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let of_era = days.rem_euclid(146_097);
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 {
        shifted + 3
    } else {
        shifted - 9
    };
    (year + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_one_digit_behind_the_point() {
        assert_eq!(size(0), "0 B");
        assert_eq!(size(1023), "1023 B");
        assert_eq!(size(1536), "1.5 KiB");
        assert_eq!(size(64 << 20), "64.0 MiB");
        assert_eq!(size((1 << 20) - 1), "1.0 MiB");
        assert_eq!(short_size(12), "12");
        assert_eq!(short_size(10 << 30), "10.0G");
        assert_eq!(size(u64::MAX), "16.0 EiB");
    }

    #[test]
    fn times_are_utc() {
        assert_eq!(time(0), "1970-01-01 00:00:00");
        assert_eq!(time(-1), "1969-12-31 23:59:59");
        assert_eq!(time(951_782_400_000_000_000), "2000-02-29 00:00:00");
        assert_eq!(time(1_767_225_599_999_999_999), "2025-12-31 23:59:59");
    }

    #[test]
    fn control_characters_are_not_shown() {
        assert_eq!(plain("a\u{1b}[2Jb\n"), "a?[2Jb?");
    }
}
