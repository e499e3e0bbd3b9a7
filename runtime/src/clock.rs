//! The wall clock of a runtime: the machine's, with jumps logged and bounded.
//!
//! A machine's clock can be wrong for a moment: it starts in 1970, or a time server sends a wrong time. Events that get
//! a wrong time keep it. So a jump above [`ClockLimits::step_max`] is followed only once it has lasted for
//! [`ClockLimits::hold`]; until then the clock continues with monotonic time.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use atra_bus::{Env, EventId, Task, TaskFuture, Timestamp};
use tokio::time::Instant;

/// Jumps from this on are logged. 1 s: a slewed clock differs by less between two readings.
const LOGGED_FROM: Duration = Duration::from_secs(1);

/// The bounds of a runtime's wall clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockLimits {
    /// The largest jump of the machine's clock, in either direction, that is followed at once. 2 h: a clock that was
    /// set to a wrong time zone by an hour is followed at once, another day or year is not.
    pub step_max: Duration,
    /// How long a larger jump must last before it is followed. 1 min: longer than a time server needs to correct itself,
    /// and short for a machine that was asleep.
    pub hold: Duration,
    /// How far ahead of the clock an event's time may be. 1 day: above any difference of clocks or time zones. Callers
    /// are refused, events of sources are counted and logged, and no wall clock of a team follows such a time.
    pub ahead_max: Duration,
}

impl Default for ClockLimits {
    fn default() -> Self {
        Self {
            step_max: Duration::from_secs(2 * 3_600),
            hold: Duration::from_secs(60),
            ahead_max: Duration::from_secs(24 * 3_600),
        }
    }
}

/// An environment whose wall clock is bounded.
pub(crate) struct BoundedEnv {
    inner: Arc<dyn Env>,
    limits: ClockLimits,
    state: Mutex<State>,
}

struct State {
    /// The last reading that was followed, and when it was made.
    followed: Timestamp,
    followed_at: Instant,
    /// A jump that is not followed yet.
    held: Option<Held>,
}

#[derive(Clone, Copy)]
struct Held {
    off_by_ms: i64,
    since: Instant,
}

impl BoundedEnv {
    pub(crate) fn new(inner: Arc<dyn Env>, limits: ClockLimits) -> Self {
        let state = State { followed: inner.now(), followed_at: inner.monotonic(), held: None };
        Self { inner, limits, state: Mutex::new(state) }
    }
}

impl State {
    fn read(&mut self, read: Timestamp, at: Instant, limits: &ClockLimits) -> Timestamp {
        let expected = self.followed.after(at.saturating_duration_since(self.followed_at));
        let off_by_ms = read.0.saturating_sub(expected.0);
        let most_ms = u64::try_from(limits.step_max.as_millis()).unwrap_or(u64::MAX);
        if off_by_ms.unsigned_abs() <= most_ms {
            if off_by_ms.unsigned_abs() >= LOGGED_FROM.as_millis() as u64 {
                tracing::warn!(from = %expected, to = %read, off_by_ms, "wall clock jumped; the jump is followed");
            }
            return self.follow(read, at);
        }
        let same = self.held.filter(|held| held.off_by_ms.abs_diff(off_by_ms) <= most_ms);
        match same {
            Some(held) if at.saturating_duration_since(held.since) >= limits.hold => {
                tracing::warn!(from = %expected, to = %read, off_by_ms, hold = ?limits.hold, "wall clock jump has lasted and is followed");
                return self.follow(read, at);
            }
            Some(_) => {}
            None => {
                tracing::warn!(
                    expected = %expected, found = %read, off_by_ms, step_max = ?limits.step_max, hold = ?limits.hold,
                    "wall clock jumped by more than clock_step_max_ms; the jump is followed only if it lasts"
                );
                self.held = Some(Held { off_by_ms, since: at });
            }
        }
        expected
    }

    fn follow(&mut self, read: Timestamp, at: Instant) -> Timestamp {
        *self = Self { followed: read, followed_at: at, held: None };
        read
    }
}

impl Env for BoundedEnv {
    fn now(&self) -> Timestamp {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        // Read under the lock: readings are followed in the order in which they were made.
        state.read(self.inner.now(), self.inner.monotonic(), &self.limits)
    }

    fn monotonic(&self) -> Instant {
        self.inner.monotonic()
    }

    fn random(&self) -> u64 {
        self.inner.random()
    }

    fn spawn(&self, name: &str, future: TaskFuture) -> Task {
        self.inner.spawn(name, future)
    }

    fn process(&self) -> u32 {
        self.inner.process()
    }

    fn new_id(&self) -> EventId {
        self.inner.new_id()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Timestamp = Timestamp(1_600_000_000_000);
    const HOUR: Duration = Duration::from_secs(3_600);
    const YEAR: Duration = Duration::from_secs(365 * 24 * 3_600);

    struct Readings {
        state: State,
        begun: Instant,
    }

    impl Readings {
        fn new() -> Self {
            let begun = Instant::now();
            Self { state: State { followed: START, followed_at: begun, held: None }, begun }
        }

        /// Reads `machine` when so many seconds have passed.
        fn at(&mut self, secs: u64, machine: Timestamp) -> Timestamp {
            self.state.read(machine, self.begun + Duration::from_secs(secs), &ClockLimits::default())
        }
    }

    fn on_time(secs: u64) -> Timestamp {
        START.after(Duration::from_secs(secs))
    }

    #[test]
    fn a_small_jump_is_followed_at_once_in_both_directions() {
        let mut clock = Readings::new();
        assert_eq!(clock.at(10, on_time(10).before(HOUR)), on_time(10).before(HOUR));
        assert_eq!(clock.at(20, on_time(20).after(HOUR)), on_time(20).after(HOUR));
        let most = ClockLimits::default().step_max;
        assert_eq!(clock.at(30, on_time(30).after(HOUR + most)), on_time(30).after(HOUR + most));
        let above = on_time(40).after(HOUR + most + most + Duration::from_millis(1));
        assert_eq!(clock.at(40, above), on_time(40).after(HOUR + most));
    }

    #[test]
    fn a_jump_of_years_for_a_moment_is_never_followed() {
        let mut clock = Readings::new();
        for far in [Timestamp::MIN, Timestamp(0), on_time(0).after(10 * YEAR), Timestamp::MAX] {
            assert_eq!(clock.at(10, far), on_time(10), "{far}");
            assert_eq!(clock.at(40, far), on_time(40), "{far}");
            assert_eq!(clock.at(50, on_time(50)), on_time(50), "{far}");
            // A jump that went back does not affect the next one.
            assert_eq!(clock.at(80, far), on_time(80), "{far}");
            assert_eq!(clock.at(90, on_time(90)), on_time(90), "{far}");
            clock = Readings::new();
        }
    }

    #[test]
    fn a_jump_of_years_that_lasts_is_followed_after_the_hold() {
        let mut clock = Readings::new();
        let set = |secs| on_time(secs).after(50 * YEAR);
        assert_eq!(clock.at(10, set(10)), on_time(10));
        assert_eq!(clock.at(69, set(69)), on_time(69));
        assert_eq!(clock.at(70, set(70)), set(70));
        assert_eq!(clock.at(80, set(80)), set(80));
    }

    #[test]
    fn a_clock_that_jumps_about_is_held_at_each_jump() {
        let mut clock = Readings::new();
        for secs in (10..600).step_by(30) {
            let far = on_time(secs).after(u32::try_from(secs).unwrap() * YEAR);
            assert_eq!(clock.at(secs, far), on_time(secs));
        }
    }
}
