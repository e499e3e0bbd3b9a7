//! When a batch was committed, and the clock that retention uses.
//!
//! A wall clock can be wrong and can jump, in both directions. If it measured age, one wrong hour could delete
//! everything, or stop pruning for ten years. So each batch has two times: the wall clock, for people, and the commit
//! clock, for retention. The commit clock runs on monotonic time while a process runs, so jumps of the wall clock do
//! not affect it. Only the time between two processes comes from the wall clock, and only if it is plausible.

use std::time::Duration;

use atra_bus::Timestamp;
use serde::Serialize;
use tokio::time::Instant;
use tracing::warn;

/// The longest plausible time between two processes, five years: a longer time means that one of them had a wrong
/// clock.
const STOPPED_MAX: Duration = Duration::from_secs(5 * 365 * 24 * 3_600);

/// When a batch was committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct CommitTime {
    /// The wall clock at the commit.
    pub wall: Timestamp,
    /// The commit clock: milliseconds since the file's first batch; never goes back.
    pub clock: Timestamp,
}

/// The commit clock of a process.
#[derive(Debug, Clone)]
pub(crate) struct CommitClock {
    /// Its value at the start.
    base: Timestamp,
    started: Instant,
}

impl CommitClock {
    /// Continues from the last commit of the previous process.
    pub(crate) fn start(last: Option<CommitTime>, wall: Timestamp) -> Self {
        Self { base: clock_at(last, wall), started: Instant::now() }
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.base.after(self.started.elapsed())
    }
}

/// The commit clock while no runtime runs: the last commit plus the time since then. This time counts as zero when the
/// wall clock went back or the time is implausible, so no event counts as older than it is.
#[must_use]
pub fn clock_at(last: Option<CommitTime>, wall: Timestamp) -> Timestamp {
    let Some(last) = last else { return Timestamp(0) };
    let since = wall.millis().saturating_sub(last.wall.millis());
    let Ok(since) = u64::try_from(since) else { return last.clock };
    let since = Duration::from_millis(since);
    if since > STOPPED_MAX {
        warn!(days = since.as_secs() / 86_400, "time since the last commit is implausible and not counted as age");
        return last.clock;
    }
    last.clock.after(since)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = 86_400_000;

    fn at(wall: i64, clock: i64) -> Option<CommitTime> {
        Some(CommitTime { wall: Timestamp(wall), clock: Timestamp(clock) })
    }

    #[test]
    fn time_between_processes_counts_unless_the_wall_clock_is_wrong() {
        let clock = |last, wall| clock_at(last, Timestamp(wall)).millis();
        assert_eq!(clock(None, 7 * DAY), 0, "a new file");
        assert_eq!(clock(None, i64::MAX), 0, "whatever its wall clock says");
        assert_eq!(clock(at(7 * DAY, 3 * DAY), 9 * DAY), 5 * DAY, "two days later");
        assert_eq!(clock(at(7 * DAY, 3 * DAY), DAY), 3 * DAY, "the wall clock went back");
        assert_eq!(clock(at(7 * DAY, 3 * DAY), 20_000 * DAY), 3 * DAY, "the clock of the process before was at 1970");
        for wall in [i64::MIN, i64::MAX] {
            assert_eq!(clock(at(7 * DAY, 3 * DAY), wall), 3 * DAY);
            assert_eq!(clock(at(wall, 3 * DAY), 7 * DAY), 3 * DAY);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn within_a_process_only_monotonic_time_counts() {
        let clock = CommitClock::start(at(DAY, DAY), Timestamp(2 * DAY));
        assert_eq!(clock.now(), Timestamp(2 * DAY));
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(clock.now(), Timestamp(2 * DAY + 60_000));
    }
}
