//! How often a team may be restarted: so many times in a row without progress, and so many times in a period with
//! progress in between.

use std::{collections::VecDeque, time::Duration};

use tokio::time::Instant;

use crate::Limits;

/// Counts the restarts of one team.
#[derive(Debug, Default)]
pub(crate) struct Restarts {
    /// Restarts without a committed input in between.
    in_row: u32,
    /// Inputs that were committed when it was last looked.
    settled: u64,
    /// Whether an input was committed since the restart before.
    has_progress: bool,
    /// When it was restarted with progress in between, not longer ago than the period. At most
    /// `restarts_per_period_max` and one.
    recent: VecDeque<Instant>,
}

impl Restarts {
    /// An incarnation ended with so many inputs committed in all.
    pub(crate) fn note_progress(&mut self, settled: u64) {
        self.has_progress = settled > self.settled;
        if self.has_progress {
            self.in_row = 0;
        }
        self.settled = settled;
    }

    /// Somebody has looked after the team: counts from nothing.
    pub(crate) fn forget(&mut self) {
        self.in_row = 0;
        self.recent.clear();
    }

    /// Counts a restart. One with progress in between counts in the period: a source that fails after each of its inputs
    /// makes progress for ever.
    ///
    /// # Errors
    /// What is exceeded, when this is one too many.
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

    /// Restarts in a row without progress: what the pause before the next one goes by.
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
