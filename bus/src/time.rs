//! Points in time, and arithmetic on them that cannot overflow.
//! The range is that of `i64`. Methods saturate at its ends, or return `None` if their name says `checked` or they
//! return an `Option`. No other code adds to the number inside; `tests/it/tidy.rs` checks this.

use std::{fmt, time::Duration};

use tokio::time::Instant;

/// The longest wait: an instant this far ahead can be computed on every machine. 100 years.
const WAIT_MAX: Duration = Duration::from_secs(100 * 365 * 24 * 3_600);

/// The instant `wait` after `from`, at most 100 years, since a configured wait may be too long for the arithmetic.
#[must_use]
pub fn later(from: Instant, wait: Duration) -> Instant {
    from + wait.min(WAIT_MAX)
}

/// Milliseconds since 1970-01-01T00:00:00 UTC. Signed: data may be older than the epoch.
///
/// # Examples
/// ```
/// use atra_bus::Timestamp;
/// use std::time::Duration;
///
/// let noon = Timestamp(43_200_000);
/// assert_eq!(noon.after(Duration::from_secs(60)), Timestamp(43_260_000));
/// assert_eq!(Timestamp::MAX.after(Duration::MAX), Timestamp::MAX);
/// assert_eq!(noon.next_multiple(Duration::from_secs(3_600)), Some(Timestamp(46_800_000)));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// The earliest point in time.
    pub const MIN: Self = Self(i64::MIN);
    /// The latest point in time.
    pub const MAX: Self = Self(i64::MAX);

    /// The instant `duration` later, in whole milliseconds; [`Timestamp::MAX`] if there is none.
    #[must_use]
    pub fn after(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(millis_of(duration)))
    }

    /// The instant `duration` earlier, in whole milliseconds; [`Timestamp::MIN`] if there is none.
    #[must_use]
    pub fn before(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(millis_of(duration)))
    }

    /// The time from `earlier` to this; zero if `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        if earlier < self { Duration::from_millis(self.0.abs_diff(earlier.0)) } else { Duration::ZERO }
    }

    /// The last multiple of `every` since the epoch that is not later; [`Timestamp::MIN`] if there is none.
    #[must_use]
    pub fn last_multiple(self, every: Duration) -> Self {
        let every = interval_of(every);
        Self(self.0.div_euclid(every).saturating_mul(every))
    }

    /// The first multiple of `every` since the epoch that is later, if there is one.
    #[must_use]
    pub fn next_multiple(self, every: Duration) -> Option<Self> {
        let every = interval_of(every);
        self.0.div_euclid(every).checked_add(1)?.checked_mul(every).map(Self)
    }

    /// Milliseconds since the epoch.
    #[must_use]
    pub const fn millis(self) -> i64 {
        self.0
    }
}

fn millis_of(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// At least one: nothing is divided by zero.
fn interval_of(every: Duration) -> i64 {
    millis_of(every).max(1)
}

impl fmt::Display for Timestamp {
    /// Milliseconds as a plain number; the command line formats dates.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENDS: [Timestamp; 7] = [
        Timestamp::MIN,
        Timestamp(i64::MIN + 1),
        Timestamp(-1),
        Timestamp(0),
        // The year 10,000.
        Timestamp(253_402_300_800_000),
        Timestamp(i64::MAX - 1),
        Timestamp::MAX,
    ];
    const DURATIONS: [Duration; 5] =
        [Duration::ZERO, Duration::from_nanos(1), Duration::from_millis(1), Duration::from_secs(3_600), Duration::MAX];

    #[test]
    fn arithmetic_ends_at_the_ends_of_the_range() {
        for time in ENDS {
            for duration in DURATIONS {
                assert!(time.after(duration) >= time, "{time} + {duration:?}");
                assert!(time.before(duration) <= time, "{time} - {duration:?}");
                assert!(time.last_multiple(duration) <= time, "{time} at multiples of {duration:?}");
                assert!(time.next_multiple(duration).is_none_or(|next| next > time), "{time}, {duration:?}");
            }
            for other in ENDS {
                assert_eq!(time.since(other).is_zero(), time <= other, "{time} since {other}");
            }
        }
        assert_eq!(Timestamp::MAX.since(Timestamp::MIN), Duration::from_millis(u64::MAX));
        assert_eq!(Timestamp::MAX.next_multiple(Duration::from_secs(1)), None);
        assert_eq!(Timestamp::MIN.after(Duration::MAX), Timestamp(-1));
    }

    #[test]
    fn a_wait_without_end_is_an_instant_far_ahead() {
        let now = Instant::now();
        assert_eq!(later(now, Duration::from_secs(5)) - now, Duration::from_secs(5));
        assert_eq!(later(now, Duration::MAX) - now, WAIT_MAX);
    }

    #[test]
    fn multiples_are_counted_from_the_epoch_on_both_sides_of_it() {
        let ten = Duration::from_millis(10);
        for (time, last, next) in [(-11, -20, -10), (-10, -10, 0), (-1, -10, 0), (0, 0, 10), (9, 0, 10), (10, 10, 20)] {
            assert_eq!(Timestamp(time).last_multiple(ten), Timestamp(last), "{time}");
            assert_eq!(Timestamp(time).next_multiple(ten), Some(Timestamp(next)), "{time}");
        }
    }
}
