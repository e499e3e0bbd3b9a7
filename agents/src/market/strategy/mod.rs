//! Strategies: closed candles in, a target between −1 and 1 with a reason out.
//!
//! A strategy is pure: what it answers depends on its parameters and the candles so far. It speaks only when its target
//! changes; the target is decided at the close of the candle and can fill at the next open at the earliest. The same
//! code runs in the back-test, in paper trading and in replay. All state serialises and resumes bit for bit.

mod cross;
mod hold;
mod reversion;

use serde::{Deserialize, Serialize};
use thiserror::Error;

pub(crate) use self::cross::compare_means;
pub use self::cross::{EmaCross, SmaCross};
pub use self::hold::BuyAndHold;
pub use self::reversion::{BollingerReversion, RsiReversion};
use super::candle::Candle;
use super::indicators::LENGTH_MAX;

/// Why a target changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Reason {
    /// The fast average crossed above the slow one.
    CrossUp,
    /// The fast average crossed below the slow one.
    CrossDown,
    /// The value is below its lower bound.
    Oversold,
    /// The value is above its upper bound.
    Overbought,
    /// The value is back at its middle.
    Reverted,
    /// The strategy holds from its first candle on.
    Hold,
}

/// A target that differs from the last one.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Decision {
    /// −1 (all in, short) to 1 (all in, long); 0 is flat.
    pub target: f64,
    /// Why.
    pub reason: Reason,
}

/// A pure decider over closed candles.
pub trait Strategy {
    /// Takes the next closed candle; answers if the target changes. The target before the first answer is 0.
    fn update(&mut self, candle: &Candle) -> Option<Decision>;
}

/// Whether a strategy may go short.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Side {
    /// 0 or 1.
    #[default]
    LongOnly,
    /// −1, 0 or 1.
    LongShort,
}

impl Side {
    fn down(self) -> f64 {
        match self {
            Self::LongOnly => 0.0,
            Self::LongShort => -1.0,
        }
    }
}

/// A strategy by name, with its parameters: `{"name":"sma-cross","fast":10,"slow":20,"side":"long-only"}`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "kebab-case", deny_unknown_fields)]
#[non_exhaustive]
pub enum StrategySpec {
    /// Strict crossing of two simple averages, compared as exact integer sums.
    SmaCross {
        /// Period of the fast average.
        fast: usize,
        /// Period of the slow average; greater.
        slow: usize,
        /// Long only, or long and short.
        #[serde(default)]
        side: Side,
    },
    /// Strict crossing of two exponential averages.
    EmaCross {
        /// Period of the fast average.
        fast: usize,
        /// Period of the slow average; greater.
        slow: usize,
        /// Long only, or long and short.
        #[serde(default)]
        side: Side,
    },
    /// Long below `low`, flat again at 50; short above `high` if allowed.
    RsiReversion {
        /// Period of the RSI.
        period: usize,
        /// Below it the market is oversold.
        low: f64,
        /// Above it the market is overbought.
        high: f64,
        /// Long only, or long and short.
        #[serde(default)]
        side: Side,
    },
    /// Long below the lower band, flat again at the middle; short above the upper band if allowed.
    Bollinger {
        /// Period of mean and deviation.
        period: usize,
        /// Width of the bands in standard deviations.
        deviations: f64,
        /// Long only, or long and short.
        #[serde(default)]
        side: Side,
    },
    /// Long from the first candle on: what every other strategy is compared with.
    BuyAndHold,
}

/// Parameters that make no strategy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum StrategyError {
    /// A period is out of range.
    #[error("{strategy}: a period is {period}, outside 1 to {limit}")]
    Period {
        /// Which strategy.
        strategy: &'static str,
        /// The period given.
        period: usize,
        /// The longest allowed.
        limit: usize,
    },
    /// The fast average is not faster.
    #[error("{strategy}: fast is {fast}, not below slow, which is {slow}")]
    Order {
        /// Which strategy.
        strategy: &'static str,
        /// The fast period.
        fast: usize,
        /// The slow period.
        slow: usize,
    },
    /// A bound makes no sense.
    #[error("{strategy}: {what}")]
    Bound {
        /// Which strategy.
        strategy: &'static str,
        /// What is wrong.
        what: &'static str,
    },
}

impl StrategySpec {
    /// Names of all strategies, for help texts.
    pub const NAMES: [&'static str; 5] = ["sma-cross", "ema-cross", "rsi-reversion", "bollinger", "buy-and-hold"];

    /// The strategy's name.
    pub fn name(&self) -> &'static str {
        match self {
            Self::SmaCross { .. } => "sma-cross",
            Self::EmaCross { .. } => "ema-cross",
            Self::RsiReversion { .. } => "rsi-reversion",
            Self::Bollinger { .. } => "bollinger",
            Self::BuyAndHold => "buy-and-hold",
        }
    }

    /// Builds the strategy with nothing seen yet.
    ///
    /// # Errors
    /// Parameters out of range.
    pub fn build(&self) -> Result<AnyStrategy, StrategyError> {
        let strategy = self.name();
        let bound = |good: bool, what| if good { Ok(()) } else { Err(StrategyError::Bound { strategy, what }) };
        let period = |period| match period {
            1..=LENGTH_MAX => Ok(()),
            _ => Err(StrategyError::Period { strategy, period, limit: LENGTH_MAX }),
        };
        Ok(match *self {
            Self::SmaCross { fast, slow, .. } | Self::EmaCross { fast, slow, .. } if fast >= slow => {
                return Err(StrategyError::Order { strategy, fast, slow });
            }
            Self::SmaCross { fast, slow, side } => {
                period(fast).and(period(slow))?;
                AnyStrategy::SmaCross(SmaCross::new(fast, slow, side))
            }
            Self::EmaCross { fast, slow, side } => {
                period(fast).and(period(slow))?;
                AnyStrategy::EmaCross(EmaCross::new(fast as u32, slow as u32, side))
            }
            Self::RsiReversion { period: n, low, high, side } => {
                period(n)?;
                bound(0.0 < low && low < 50.0 && 50.0 < high && high < 100.0, "not 0 < low < 50 < high < 100")?;
                AnyStrategy::RsiReversion(RsiReversion::new(n as u32, low, high, side))
            }
            Self::Bollinger { period: n, deviations, side } => {
                period(n)?;
                bound(deviations > 0.0 && deviations.is_finite(), "deviations is not above 0")?;
                AnyStrategy::Bollinger(BollingerReversion::new(n, deviations, side))
            }
            Self::BuyAndHold => AnyStrategy::BuyAndHold(BuyAndHold::default()),
        })
    }
}

/// Any of the strategies: one type to hold, to run without a virtual call, and to save.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum AnyStrategy {
    /// See [`StrategySpec::SmaCross`].
    SmaCross(SmaCross),
    /// See [`StrategySpec::EmaCross`].
    EmaCross(EmaCross),
    /// See [`StrategySpec::RsiReversion`].
    RsiReversion(RsiReversion),
    /// See [`StrategySpec::Bollinger`].
    Bollinger(BollingerReversion),
    /// See [`StrategySpec::BuyAndHold`].
    BuyAndHold(BuyAndHold),
}

impl Strategy for AnyStrategy {
    #[inline]
    fn update(&mut self, candle: &Candle) -> Option<Decision> {
        match self {
            Self::SmaCross(strategy) => strategy.update(candle),
            Self::EmaCross(strategy) => strategy.update(candle),
            Self::RsiReversion(strategy) => strategy.update(candle),
            Self::Bollinger(strategy) => strategy.update(candle),
            Self::BuyAndHold(strategy) => strategy.update(candle),
        }
    }
}

/// The target last spoken; turns "what it should be" into "what changed".
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
struct Target(f64);

impl Target {
    fn set(&mut self, target: f64, reason: Reason) -> Option<Decision> {
        let changed = self.0 != target;
        self.0 = target;
        changed.then_some(Decision { target, reason })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candle(close: i64) -> Candle {
        Candle { time: 0, open: close, high: close, low: close, close, volume: 0 }
    }

    fn targets(spec: StrategySpec, closes: &[i64]) -> Vec<Option<f64>> {
        let mut strategy = spec.build().unwrap();
        closes
            .iter()
            .map(|close| {
                // A restart between any two candles changes nothing.
                let json = serde_json::to_string(&strategy).unwrap();
                strategy = serde_json::from_str(&json).unwrap();
                strategy.update(&candle(*close)).map(|d| d.target)
            })
            .collect()
    }

    #[test]
    fn a_cross_is_strict_on_both_bars() {
        let spec = |side| StrategySpec::SmaCross { fast: 1, slow: 2, side };
        // fast − slow: none, −, =, + (not a cross: it came from equality), −, +
        let closes = [10, 8, 8, 9, 7, 9];
        let long = targets(spec(Side::LongOnly), &closes);
        assert_eq!(long, [None, None, None, None, None, Some(1.0)]);
        let short = targets(spec(Side::LongShort), &closes);
        assert_eq!(short, [None, None, None, None, Some(-1.0), Some(1.0)]);
        let ema = targets(StrategySpec::EmaCross { fast: 1, slow: 2, side: Side::LongOnly }, &closes);
        assert_eq!(ema[5], Some(1.0));
    }

    #[test]
    fn reversion_enters_outside_and_leaves_in_the_middle() {
        let closes = [100, 101, 100, 101, 90, 89, 100, 110, 120, 101, 100];
        let spec = StrategySpec::Bollinger { period: 4, deviations: 1.0, side: Side::LongShort };
        let bands: Vec<f64> = targets(spec, &closes).into_iter().flatten().collect();
        assert_eq!(bands[..3], [1.0, 0.0, -1.0]);
        let spec = StrategySpec::RsiReversion { period: 3, low: 30.0, high: 70.0, side: Side::LongOnly };
        let rsi: Vec<f64> = targets(spec, &closes).into_iter().flatten().collect();
        assert_eq!(rsi[..2], [1.0, 0.0]);
    }

    #[test]
    fn hold_speaks_once() {
        assert_eq!(targets(StrategySpec::BuyAndHold, &[5, 5, 5]), [Some(1.0), None, None]);
    }

    #[test]
    fn specs_are_read_by_name_and_checked() {
        let spec: StrategySpec = serde_json::from_str(r#"{"name":"sma-cross","fast":10,"slow":20}"#).unwrap();
        assert_eq!(spec, StrategySpec::SmaCross { fast: 10, slow: 20, side: Side::LongOnly });
        assert!(serde_json::from_str::<StrategySpec>(r#"{"name":"sma-cross","fast":10,"slow":20,"x":1}"#).is_err());
        for bad in [
            StrategySpec::SmaCross { fast: 20, slow: 20, side: Side::LongOnly },
            StrategySpec::SmaCross { fast: 0, slow: 20, side: Side::LongOnly },
            StrategySpec::SmaCross { fast: 1, slow: LENGTH_MAX + 1, side: Side::LongOnly },
            StrategySpec::Bollinger { period: 20, deviations: f64::NAN, side: Side::LongOnly },
            StrategySpec::RsiReversion { period: 14, low: 60.0, high: 70.0, side: Side::LongOnly },
        ] {
            assert!(bad.build().is_err(), "{bad:?}");
        }
        for name in StrategySpec::NAMES {
            assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b == b'-'));
        }
    }
}
