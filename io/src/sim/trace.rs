//! What happened in a world, line by line, for comparing two runs.

use std::fmt::{Arguments, Write};
use std::time::Duration;

/// Bytes of text that are kept; what comes later only counts in the digest.
const KEEP: usize = 64 << 20;

/// One line an event: virtual time in nanoseconds, node, what happened.
#[derive(Debug, Default)]
pub(crate) struct Trace {
    text: String,
    lines: u64,
    digest: u32,
    line: String,
}

impl Trace {
    pub(crate) fn add(&mut self, at: Duration, node: &str, what: Arguments<'_>) {
        self.line.clear();
        // Writing to a string does not fail.
        let _ = writeln!(self.line, "{} {node} {what}", at.as_nanos());
        self.lines += 1;
        self.digest = crc32c::crc32c_append(self.digest, self.line.as_bytes());
        if self.text.len() + self.line.len() <= KEEP {
            self.text.push_str(&self.line);
        }
    }

    /// The lines, and a last one that stands for all of them.
    pub(crate) fn text(&self) -> String {
        format!(
            "{}lines {} digest {:08x}\n",
            self.text, self.lines, self.digest
        )
    }
}
