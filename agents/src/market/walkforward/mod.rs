//! Walk-forward optimisation: candidates run all the time, and every few hours the best of the recent past is chosen.
//!
//! Each candidate is a pair of simple averages, long-only: in the market while the fast one is above the slow one (exact
//! integer sums), decided at close *i*, held from open *i + 1*, fee on entry and exit. Its results are kept as sums per
//! block of `step` candles, so a re-fit over thousands of candles is O(candidates).
//!
//! [`walk_forward`] is the batch reference over a whole history; [`WalkForward`] is the same, one candle at a time, for
//! the optimizer agent; [`Governor`] decides with named gates what a re-fit may change.

mod batch;
mod governor;
mod stream;

use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use self::batch::{WalkForwardReport, walk_forward};
pub use self::governor::{Gate, GateLimits, Governor, Verdict, Version};
pub use self::stream::{RestoreError, WalkForward};
use super::indicators::LENGTH_MAX;

/// The most candidates: one bit each of a machine word.
pub const CANDIDATES_MAX: usize = 64;
/// The greatest common multiple of all periods: a price of 10^15 ticks times this fits an `i64`.
const COMMON_MULTIPLE_MAX: usize = 8_192;

/// A candidate: two simple averages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "Vec<usize>", into = "(usize, usize)")]
pub struct Pair {
    /// Period of the fast average.
    pub fast: usize,
    /// Period of the slow average.
    pub slow: usize,
}

impl From<(usize, usize)> for Pair {
    fn from((fast, slow): (usize, usize)) -> Self {
        Self { fast, slow }
    }
}

impl TryFrom<Vec<usize>> for Pair {
    type Error = String;
    fn try_from(lengths: Vec<usize>) -> Result<Self, String> {
        match lengths[..] {
            [fast, slow] => Ok(Self { fast, slow }),
            _ => Err(format!("a pair is two lengths, such as [8, 32], not {}", lengths.len())),
        }
    }
}

impl From<Pair> for (usize, usize) {
    fn from(pair: Pair) -> Self {
        (pair.fast, pair.slow)
    }
}

/// What is searched, over how much of the past, and how often.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WalkForwardConfig {
    /// The candidates. Default: the 33 pairs of [`WalkForwardConfig::default_pairs`].
    pub pairs: Vec<Pair>,
    /// Steps looked back on; a multiple of `step`. Default: 8,640, which is 90 days of quarter hours.
    pub train: usize,
    /// Candles between two re-fits. Default: 24, which is 6 hours.
    pub step: usize,
    /// Newest steps kept out of `train` to compare challenger and incumbent on; a multiple of `step`. Default: 0, which
    /// compares them on `train`.
    pub validation: usize,
    /// Fee at entry and exit, in parts per million. Default: 1,000.
    pub fee_ppm: u32,
    /// Candles a year, to annualise with. Default: 35,040 quarter hours.
    pub periods_per_year: f64,
    /// Entries in `train` below which a candidate's Sharpe means nothing. Default: 10.
    pub trades_min: i64,
    /// By how much the challenger's annualised Sharpe must exceed the incumbent's. Default: 0.5.
    pub margin: f64,
}

impl Default for WalkForwardConfig {
    fn default() -> Self {
        Self {
            pairs: Self::default_pairs(),
            train: 8_640,
            step: 24,
            validation: 0,
            fee_ppm: 1_000,
            periods_per_year: 35_040.0,
            trades_min: 10,
            margin: 0.5,
        }
    }
}

/// A configuration that cannot be run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// No candidates, or too many.
    #[error("{count} candidates, outside 1 to {limit}")]
    Candidates {
        /// How many.
        count: usize,
        /// The limit.
        limit: usize,
    },
    /// A pair's periods are out of order or range, or have no small common multiple.
    #[error(
        "pair {fast}/{slow}: not 1 <= fast < slow, or the periods of all pairs have no common multiple up to {limit}"
    )]
    Pair {
        /// Its fast period.
        fast: usize,
        /// Its slow period.
        slow: usize,
        /// The limit.
        limit: usize,
    },
    /// Lengths that do not fit together.
    #[error("train {train} and validation {validation} are not multiples of step {step}, or one is out of range")]
    Lengths {
        /// Steps to train on.
        train: usize,
        /// Steps to validate on.
        validation: usize,
        /// Candles between re-fits.
        step: usize,
    },
    /// A number makes no sense.
    #[error("{what} is out of range")]
    Number {
        /// Which setting.
        what: &'static str,
    },
}

impl WalkForwardConfig {
    /// Fast of 8, 16, 32, 64, 96, 192, 384 with slow of 32, 64, 96, 192, 384, 768, 1536, slow at least twice fast.
    pub fn default_pairs() -> Vec<Pair> {
        const FAST: [usize; 7] = [8, 16, 32, 64, 96, 192, 384];
        const SLOW: [usize; 7] = [32, 64, 96, 192, 384, 768, 1536];
        FAST.into_iter()
            .flat_map(|fast| {
                SLOW.into_iter().filter(move |slow| *slow >= 2 * fast).map(move |slow| Pair { fast, slow })
            })
            .collect()
    }

    /// Checks that it can be run.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn check(&self) -> Result<(), ConfigError> {
        if self.pairs.is_empty() || self.pairs.len() > CANDIDATES_MAX {
            return Err(ConfigError::Candidates { count: self.pairs.len(), limit: CANDIDATES_MAX });
        }
        let mut multiple = 1;
        for &Pair { fast, slow } in &self.pairs {
            let bad = ConfigError::Pair { fast, slow, limit: COMMON_MULTIPLE_MAX };
            if fast == 0 || fast >= slow || slow > LENGTH_MAX {
                return Err(bad);
            }
            multiple = common_multiple(common_multiple(multiple, fast), slow);
            if multiple > COMMON_MULTIPLE_MAX {
                return Err(bad);
            }
        }
        let Self { train, validation, step, .. } = *self;
        let fits = |length: usize| step > 0 && length.is_multiple_of(step) && length / step <= 10_000;
        if !fits(train) || !fits(validation) || train == 0 || step > 100_000 {
            return Err(ConfigError::Lengths { train, validation, step });
        }
        match () {
            () if self.fee_ppm >= 1_000_000 => Err(ConfigError::Number { what: "fee_ppm" }),
            () if !(self.periods_per_year > 0.0 && self.periods_per_year.is_finite()) => {
                Err(ConfigError::Number { what: "periods_per_year" })
            }
            () if !self.margin.is_finite() => Err(ConfigError::Number { what: "margin" }),
            () => Ok(()),
        }
    }

    /// The longest period: results count from the step on at which all candidates have an opinion.
    pub fn warm_up(&self) -> usize {
        self.pairs.iter().map(|pair| pair.slow).max().unwrap_or(1)
    }

    fn fee(&self) -> f64 {
        f64::from(self.fee_ppm) / 1e6
    }

    /// Candidates next to `candidate` on the grid: one period further along one axis, among the pairs that there are.
    pub fn neighbours(&self, candidate: usize) -> Vec<usize> {
        let Some(&Pair { fast, slow }) = self.pairs.get(candidate) else { return Vec::new() };
        let next = |values: Vec<usize>, than: usize| {
            let below = values.iter().filter(|v| **v < than).max().copied();
            let above = values.iter().filter(|v| **v > than).min().copied();
            [below, above]
        };
        let along_fast = next(self.pairs.iter().filter(|p| p.slow == slow).map(|p| p.fast).collect(), fast);
        let along_slow = next(self.pairs.iter().filter(|p| p.fast == fast).map(|p| p.slow).collect(), slow);
        let wanted = along_fast.into_iter().flatten().map(|fast| Pair { fast, slow });
        let wanted = wanted.chain(along_slow.into_iter().flatten().map(|slow| Pair { fast, slow }));
        wanted.filter_map(|pair| self.pairs.iter().position(|p| *p == pair)).collect()
    }
}

fn common_multiple(a: usize, b: usize) -> usize {
    let (mut x, mut y) = (a, b);
    while y != 0 {
        (x, y) = (y, x % y);
    }
    a / x.max(1) * b
}

/// What a candidate did over a window of steps.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Score {
    /// Annualised Sharpe ratio of its net step returns; `None` without variance.
    pub sharpe: Option<f64>,
    /// Sum of its net step returns.
    pub total: f64,
    /// Entries.
    pub trades: i64,
}

impl Score {
    fn new(sum: f64, squares: f64, trades: i64, steps: usize, periods_per_year: f64) -> Self {
        let n = steps as f64;
        let mean = sum / n;
        let variance = squares / n - mean * mean;
        let sharpe = (variance > 0.0).then(|| mean / variance.sqrt() * periods_per_year.sqrt());
        Self { sharpe: sharpe.filter(|s| s.is_finite()), total: sum, trades }
    }

    /// The Sharpe ratio, if it is based on enough trades.
    pub fn eligible(&self, trades_min: i64) -> Option<f64> {
        self.sharpe.filter(|_| self.trades >= trades_min)
    }
}

/// The candidate with the greatest eligible Sharpe, and that; ties go to the first.
pub fn best(scores: &[Score], trades_min: i64) -> Option<(usize, f64)> {
    let mut best: Option<(usize, f64)> = None;
    for (index, score) in scores.iter().enumerate() {
        if let Some(sharpe) = score.eligible(trades_min)
            && best.is_none_or(|(_, most)| sharpe > most)
        {
            best = Some((index, sharpe));
        }
    }
    best
}

/// The reference's rule: flat if no Sharpe is above 0; else the incumbent, unless its Sharpe is not above 0 or not
/// eligible or the best exceeds it by more than the margin.
pub fn select(scores: &[Score], incumbent: Option<usize>, trades_min: i64, margin: f64) -> Option<usize> {
    let (challenger, sharpe) = best(scores, trades_min).filter(|(_, sharpe)| *sharpe > 0.0)?;
    let kept = incumbent.and_then(|i| Some((i, scores.get(i)?.eligible(trades_min)?)));
    match kept {
        Some((incumbent, own)) if own > 0.0 && sharpe <= own + margin => Some(incumbent),
        _ => Some(challenger),
    }
}
