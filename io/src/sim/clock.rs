//! The clocks of a simulated node.

use std::time::Duration;

const MILLION: i128 = 1_000_000;

/// A monotonic clock that may run too fast or too slow, and a wall clock some way ahead of it.
#[derive(Debug, Default)]
pub(super) struct Clock {
    drift_ppm: i64,
    /// True time at which the drift began, and what the clock showed then.
    since: Duration,
    shown: Duration,
    offset_ns: i64,
}

fn scaled(d: Duration, by: i128, of: i128) -> Duration {
    let ns = i128::try_from(d.as_nanos()).unwrap_or(i128::MAX);
    let ns = ns.saturating_mul(by) / of.max(1);
    Duration::from_nanos(u64::try_from(ns).unwrap_or(u64::MAX))
}

impl Clock {
    fn rate(&self) -> i128 {
        MILLION + i128::from(self.drift_ppm)
    }

    fn mono(&self, now: Duration) -> Duration {
        self.shown + scaled(now.saturating_sub(self.since), self.rate(), MILLION)
    }

    /// What the monotonic clock shows at a true time, ns.
    pub(super) fn mono_ns(&self, now: Duration) -> u64 {
        u64::try_from(self.mono(now).as_nanos()).unwrap_or(u64::MAX)
    }

    /// What the wall clock shows at a true time, ns since the world began.
    pub(super) fn wall_ns(&self, now: Duration) -> i64 {
        i64::try_from(self.mono_ns(now))
            .unwrap_or(i64::MAX)
            .saturating_add(self.offset_ns)
    }

    /// True time that passes while so much passes on this clock.
    pub(super) fn true_span(&self, d: Duration) -> Duration {
        if self.drift_ppm == 0 {
            return d;
        }
        scaled(d, MILLION, self.rate())
    }

    pub(super) fn set_offset_ns(&mut self, offset_ns: i64) {
        self.offset_ns = offset_ns;
    }

    pub(super) fn set_drift(&mut self, now: Duration, ppm: i64) {
        self.shown = self.mono(now);
        self.since = now;
        self.drift_ppm = ppm.clamp(-900_000, 9_000_000);
    }
}
