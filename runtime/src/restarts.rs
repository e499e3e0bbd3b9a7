//! Limits the restarts of a team: the number in a row without progress, and the number in a period with progress in
//! between.

use std::{collections::VecDeque, time::Duration};

use tokio::time::Instant;

use crate::Limits;

/// Counts the restarts of one team.
#[derive(Debug, Default)]
pub(crate) struct Restarts {
    /// Restarts without a committed input in between.
    in_row: u32,
    /// Committed inputs at the last call.
    settled: u64,
    /// Whether an input was committed since the restart before.
    has_progress: bool,
    /// Instants of restarts with progress in between, within the period. At most
    /// `restarts_per_period_max` and one.
    recent: VecDeque<Instant>,
}

impl Restarts {
    /// Records the end of an incarnation, with the total of committed inputs.
    pub(crate) fn note_progress(&mut self, settled: u64) {
        self.has_progress = settled > self.settled;
        if self.has_progress {
            self.in_row = 0;
        }
        self.settled = settled;
    }

    /// Resets the counts after an operator's restart.
    pub(crate) fn forget(&mut self) {
        self.in_row = 0;
        self.recent.clear();
    }

    /// Counts a restart. A restart after progress counts in the period, since a source that fails after each input
    /// makes progress without end.
    ///
    /// # Errors
    /// The exceeded limit.
    pub(crate) fn count(&mut self, limits: &Limits) -> Result<(), String> {
        self.in_row = self.in_row.saturating_add(1);
        let most = limits.restarts_max;
        if self.in_row > most {
            return Err(format!("{most} restarts without progress (restarts_max)"));
        }
        if std::mem::take(&mut self.has_progress) {
            let (most, now) = (limits.restarts_per_period_max, Instant::now());
            let period = Duration::from_millis(limits.restart_period_ms);
            self.recent.retain(|at| now.duration_since(*at) < period);
            self.recent.push_back(now);
            if self.recent.len() > most as usize {
                return Err(format!("more than {most} restarts in {period:?} (restarts_per_period_max)"));
            }
        }
        Ok(())
    }

    /// Restarts in a row without progress, which determine the pause before the next restart.
    pub(crate) fn in_row(&self) -> u32 {
        self.in_row
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> Limits {
        Limits { restarts_max: 3, restarts_per_period_max: 3, restart_period_ms: 60_000, ..Limits::default() }
    }

    #[tokio::test(start_paused = true)]
    async fn restarts_with_progress_in_between_are_bounded_in_a_period() {
        let mut restarts = Restarts::default();
        for settled in 1..=3 {
            restarts.note_progress(settled);
            assert_eq!(restarts.count(&limits()), Ok(()));
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        restarts.note_progress(4);
        assert!(restarts.count(&limits()).unwrap_err().contains("restarts_per_period_max"));

        // Those of a minute ago do not count.
        let mut restarts = Restarts::default();
        for settled in 1..=100 {
            restarts.note_progress(settled);
            assert_eq!(restarts.count(&limits()), Ok(()));
            tokio::time::advance(Duration::from_secs(21)).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn restarts_without_progress_are_bounded_however_far_apart_they_are() {
        let mut restarts = Restarts::default();
        restarts.note_progress(1);
        for _ in 0..3 {
            restarts.note_progress(1);
            assert_eq!(restarts.count(&limits()), Ok(()));
            tokio::time::advance(Duration::from_secs(3_600)).await;
        }
        assert!(restarts.count(&limits()).unwrap_err().contains("without progress"));
        restarts.forget();
        assert_eq!(restarts.count(&limits()), Ok(()));
    }
}
