//! How long a NameNode that owes an answer has been silent, and what that means. No I/O.

use crate::limits;
use std::time::Duration;

/// A span as whole nanoseconds.
pub fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

/// What to do about the silence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// Nothing, for this many nanoseconds.
    Fine(u64),
    /// Ask for a sign of life, now.
    Ping,
    /// Ask the others whether one of them leads.
    Doubt,
    /// End the connection.
    GiveUp,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Silence {
    /// Since when something is owed.
    owed_ns: Option<u64>,
    /// A sign of life was asked for in this silence.
    pinged: bool,
    ping_due: bool,
}

impl Silence {
    /// Looks at the silence at `now_ns`, when something was last heard at `heard_ns`.
    pub fn look(&mut self, owed: bool, now_ns: u64, heard_ns: u64) -> Look {
        if !owed {
            *self = Silence::default();
            // Once something is asked, it is looked again.
            return Look::Fine(nanos(limits::SILENCE_LIMIT));
        }
        let owed_ns = *self.owed_ns.get_or_insert(now_ns);
        let quiet_ns = now_ns.saturating_sub(owed_ns.max(heard_ns));
        if quiet_ns < nanos(limits::PING_AFTER) {
            self.pinged = false;
            return Look::Fine(nanos(limits::PING_AFTER) - quiet_ns);
        }
        if quiet_ns >= nanos(limits::SILENCE_LIMIT) {
            return Look::GiveUp;
        }
        if !self.pinged {
            self.pinged = true;
            self.ping_due = true;
            return Look::Ping;
        }
        if quiet_ns < nanos(limits::DOUBT_AFTER) {
            return Look::Fine(nanos(limits::DOUBT_AFTER) - quiet_ns);
        }
        Look::Doubt
    }

    /// Whether a sign of life is to be asked for with what is sent next; true once.
    pub fn take_ping(&mut self) -> bool {
        std::mem::take(&mut self.ping_due)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn silence_is_counted_from_what_is_owed_or_was_heard_last() {
        let mut silence = Silence::default();
        assert_eq!(silence.look(false, 900 * MS, 0), Look::Fine(8_000 * MS));
        assert_eq!(silence.look(true, 1_000 * MS, 0), Look::Fine(100 * MS));
        assert_eq!(silence.look(true, 1_080 * MS, 0), Look::Fine(20 * MS));
        assert_eq!(silence.look(true, 1_100 * MS, 0), Look::Ping);
        assert!(silence.take_ping() && !silence.take_ping());
        assert_eq!(silence.look(true, 1_100 * MS, 0), Look::Fine(100 * MS));
        assert_eq!(silence.look(true, 1_200 * MS, 0), Look::Doubt);
        // Something is heard, but not all that is owed.
        assert_eq!(
            silence.look(true, 1_600 * MS, 1_590 * MS),
            Look::Fine(90 * MS)
        );
        assert_eq!(silence.look(true, 1_900 * MS, 1_590 * MS), Look::Ping);
        assert_eq!(silence.look(true, 9_590 * MS, 1_590 * MS), Look::GiveUp);
        assert_eq!(
            silence.look(false, 9_590 * MS, 1_590 * MS),
            Look::Fine(8_000 * MS)
        );
    }
}
