//! The one retry policy: how long a call may take in all, and how long to wait between tries.

use crate::limits::{BACKOFF_FIRST, BACKOFF_MOST};
use boomfs_io::Io;
use std::time::Duration;

/// When a call has to be over.
#[derive(Clone, Copy, Debug)]
pub struct Deadline {
    at_ns: u64,
    span: Duration,
}

impl Deadline {
    /// `span` from now.
    pub fn after(io: &Io, span: Duration) -> Deadline {
        let span_ns = u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
        Deadline {
            at_ns: io.mono_ns().saturating_add(span_ns),
            span,
        }
    }

    /// What is left; `None` when it has passed.
    pub fn left(&self, io: &Io) -> Option<Duration> {
        match self.at_ns.saturating_sub(io.mono_ns()) {
            0 => None,
            ns => Some(Duration::from_nanos(ns)),
        }
    }

    /// The whole span, for messages.
    pub fn span(&self) -> Duration {
        self.span
    }
}

/// Waits that grow, with jitter so that clients that lost the same server do not come back in step.
#[derive(Debug)]
pub struct Backoff {
    next: Duration,
    /// A wait grows by one part of this many.
    part: u32,
}

impl Backoff {
    /// Starts with the shortest wait, and doubles.
    pub fn new() -> Backoff {
        Backoff {
            next: BACKOFF_FIRST,
            part: 1,
        }
    }

    /// Starts with the shortest wait, and grows by an eighth: a wait is about an eighth of the time that has passed
    /// since the first, so that what comes back after half a second is noticed some tens of milliseconds later.
    pub fn slow() -> Backoff {
        Backoff {
            part: 8,
            ..Backoff::new()
        }
    }

    /// The next wait: between half and the whole of a span that grows up to its limit.
    pub fn next(&mut self, io: &Io) -> Duration {
        let span = self.next;
        self.next = (span + span / self.part).min(BACKOFF_MOST);
        let half_ns = u64::try_from(span.as_nanos() / 2).unwrap_or(u64::MAX);
        let jitter_ns = io.random_u64() % half_ns.max(1);
        Duration::from_nanos(half_ns.saturating_add(jitter_ns))
    }

    /// Sleeps for the next wait.
    pub async fn wait(&mut self, io: &Io) {
        let span = self.next(io);
        io.sleep(span).await;
    }

    /// Sleeps for the next wait, or answers false at once when the deadline would pass.
    pub async fn wait_within(&mut self, io: &Io, deadline: Deadline) -> bool {
        let span = self.next(io);
        match deadline.left(io) {
            Some(left) if left > span => {
                io.sleep(span).await;
                true
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_doubles_with_jitter_up_to_its_limit() {
        let io = Io::real();
        let mut backoff = Backoff::new();
        let mut span = BACKOFF_FIRST;
        for _ in 0..10 {
            let wait = backoff.next(&io);
            assert!(
                wait >= span / 2 && wait <= span,
                "{wait:?} is not within {:?} to {span:?}",
                span / 2
            );
            span = (span * 2).min(BACKOFF_MOST);
        }
        assert_eq!(span, BACKOFF_MOST);
    }

    #[test]
    fn slow_backoff_waits_for_an_eighth_of_the_time_that_passed() {
        let io = Io::real();
        let mut backoff = Backoff::slow();
        let mut passed = Duration::ZERO;
        for _ in 0..100 {
            let wait = backoff.next(&io);
            assert!(
                wait <= passed / 4 + BACKOFF_FIRST && wait <= BACKOFF_MOST,
                "{wait:?} after {passed:?}"
            );
            passed += wait;
        }
        assert!(backoff.next(&io) >= BACKOFF_MOST / 2);
    }

    #[test]
    fn deadline_that_passed_has_nothing_left() {
        let io = Io::real();
        assert_eq!(Deadline::after(&io, Duration::ZERO).left(&io), None);
        let left = Deadline::after(&io, Duration::from_secs(60))
            .left(&io)
            .unwrap();
        assert!(left > Duration::from_secs(50) && left <= Duration::from_secs(60));
    }
}
