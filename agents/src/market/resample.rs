//! Candles of a longer interval out of those of a shorter one: 1m → 15m → 1h → 1d.
//!
//! A long candle begins at a whole multiple of its interval since 1970 (a day at midnight UTC, a week on Monday) and is
//! made of what falls into it: first open, highest high, lowest low, last close, summed volume. One whose end has not been
//! reached is left out, or it would change later; one with holes in it is made and counted.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::candle::{Candle, Interval, LOTS_MAX};

const WEEK_MILLIS: i64 = 7 * 86_400_000;
/// The first Monday: 1970 began on a Thursday.
const MONDAY_MILLIS: i64 = 4 * 86_400_000;

/// What was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resampled {
    /// The longer candles, sorted.
    #[serde(skip)]
    pub candles: Vec<Candle>,
    /// Candles with shorter ones missing inside.
    pub with_holes: usize,
    /// Whether the last ones were left out, since their candle has not ended.
    pub is_cut: bool,
}

/// An interval that cannot be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ResampleError {
    /// Not longer, or no whole multiple.
    #[error("{to} is no multiple of {from}: candles can only be made longer, by a whole factor")]
    Interval {
        /// What there is.
        from: Interval,
        /// What was asked for.
        to: Interval,
    },
    /// A summed volume leaves the range.
    #[error("the volume of the candle at {time} is out of range")]
    Volume {
        /// Its open time.
        time: i64,
    },
}

/// Makes longer candles out of sorted ones of one series.
///
/// # Errors
/// [`ResampleError`].
pub fn resample(candles: &[Candle], from: Interval, to: Interval) -> Result<Resampled, ResampleError> {
    let (short, long) = (from.millis(), to.millis());
    if long <= short || long % short != 0 {
        return Err(ResampleError::Interval { from, to });
    }
    // As exchanges and charts have their weeks.
    let origin = if long % WEEK_MILLIS == 0 { MONDAY_MILLIS } else { 0 };
    let begin = |candle: &Candle| {
        candle.time.saturating_sub(origin).div_euclid(long).saturating_mul(long).saturating_add(origin)
    };
    let mut made = Resampled { candles: Vec::new(), with_holes: 0, is_cut: false };
    for run in candles.chunk_by(|a, b| begin(a) == begin(b)) {
        let (first, last) = (&run[0], &run[run.len() - 1]);
        let time = begin(first);
        // Only the last run can lack its end for good; one before it has a hole there.
        let is_last = candles.last().is_some_and(|newest| newest.time == last.time);
        if is_last && last.time.saturating_add(short) < time.saturating_add(long) {
            made.is_cut = true;
            break;
        }
        made.with_holes += usize::from((run.len() as i64) < long / short);
        let volume = run.iter().try_fold(0_i64, |sum, candle| sum.checked_add(candle.volume));
        made.candles.push(Candle {
            time,
            open: first.open,
            high: run.iter().map(|candle| candle.high).max().unwrap_or(first.high),
            low: run.iter().map(|candle| candle.low).min().unwrap_or(first.low),
            close: last.close,
            volume: volume.filter(|volume| *volume <= LOTS_MAX).ok_or(ResampleError::Volume { time })?,
        });
    }
    Ok(made)
}

#[cfg(test)]
mod tests {
    use super::super::simulator::Simulator;
    use super::*;

    fn interval(text: &str) -> Interval {
        text.parse().unwrap()
    }

    #[test]
    fn step_by_step_is_the_same_as_at_once() {
        let minutes: Vec<Candle> = Simulator::new(2, interval("1m"), 1_640_995_200_000).take(3 * 1_440 + 7).collect();
        let step = |candles: &[Candle], from, to| resample(candles, interval(from), interval(to)).unwrap();
        let quarters = step(&minutes, "1m", "15m");
        let hours = step(&quarters.candles, "15m", "1h");
        let days = step(&hours.candles, "1h", "1d");
        assert_eq!(days.candles, step(&minutes, "1m", "1d").candles);
        assert_eq!((quarters.candles.len(), days.candles.len()), (3 * 96, 3));
        assert!(quarters.is_cut && quarters.with_holes == 0);
        assert!(days.candles.iter().all(|candle| candle.check().is_ok()));
        assert_eq!(days.candles[0].open, minutes[0].open);
        let volume: i64 = minutes[..1_440].iter().map(|candle| candle.volume).sum();
        assert_eq!(days.candles[0].volume, volume);
    }

    /// Weeks began on Thursdays, as 1970 did.
    #[test]
    fn a_week_begins_on_a_monday() {
        // 2022-01-01 was a Saturday.
        let days: Vec<Candle> = Simulator::new(2, interval("1d"), 1_640_995_200_000).take(16).collect();
        let weeks = resample(&days, interval("1d"), interval("1w")).unwrap();
        let times: Vec<i64> = weeks.candles.iter().map(|week| week.time).collect();
        assert_eq!(times, [1_640_563_200_000, 1_641_168_000_000, 1_641_772_800_000]);
        assert_eq!((weeks.candles[1].open, weeks.candles[1].close), (days[2].open, days[8].close));
        assert_eq!((weeks.with_holes, weeks.is_cut), (1, false));
    }

    #[test]
    fn holes_are_counted_and_an_unfinished_end_is_left_out() {
        let candle = |minute: i64| Candle { time: minute * 60_000, open: 5, high: 6, low: 4, close: 5, volume: 1 };
        let candles: Vec<Candle> = [0, 1, 2, 5, 7, 9, 10, 11].map(candle).into();
        let made = resample(&candles, interval("1m"), interval("5m")).unwrap();
        assert_eq!((made.candles.len(), made.with_holes, made.is_cut), (2, 2, true));
        assert_eq!(made.candles[1].volume, 3);
        for bad in ["1m", "90s", "30s"] {
            assert!(resample(&candles, interval("1m"), interval(bad)).is_err());
        }
    }
}
