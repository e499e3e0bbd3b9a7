//! Strategies: closed candles in, a target between −1 and 1 with a reason out.
//!
//! A strategy is pure: what it answers depends on its parameters and the candles so far. It speaks only when its target
//! changes; the target is decided at the close of the candle and can fill at the next open at the earliest. The same
//! code runs in the back-test, in paper trading and in replay. All state serialises and resumes bit for bit.

mod breakout;
mod cross;
mod hold;
mod own;
mod reversion;
mod spec;

use std::ops::Range;

use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use self::breakout::DonchianBreakout;
pub use self::cross::{EmaCross, MacdAdx, SmaCross};
pub use self::hold::BuyAndHold;
pub(crate) use self::own::Own;
pub use self::own::{Maker, OwnStrategy};
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
    /// The close is above the channel.
    BreakoutUp,
    /// The close is below the channel.
    BreakoutDown,
    /// The close is beyond the other side of the exit channel.
    ChannelExit,
    /// The strategy holds from its first candle on.
    Hold,
    /// A rule of somebody's own strategy.
    Own,
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

    /// Takes a run of candles; tells `each` of every decision as it is made, with the place of its candle. Whoever
    /// overrides it tells what `update` would answer.
    ///
    /// # Errors
    /// The first of `each`; the strategy is of no use then.
    fn decisions<E>(&mut self, candles: &[Candle], each: impl Each<E>) -> Result<(), E>
    where
        Self: Sized,
    {
        one_by_one(self, candles, 0..candles.len(), each)
    }
}

/// What hears of decisions, each with the place of its candle.
pub trait Each<E>: FnMut(usize, Decision) -> Result<(), E> {}

impl<E, F: FnMut(usize, Decision) -> Result<(), E>> Each<E> for F {}

fn one_by_one<E>(
    strategy: &mut impl Strategy,
    candles: &[Candle],
    places: Range<usize>,
    mut each: impl Each<E>,
) -> Result<(), E> {
    for place in places {
        if let Some(decision) = strategy.update(&candles[place]) {
            each(place, decision)?;
        }
    }
    Ok(())
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

/// A strategy by name, with its parameters: `{"name":"sma-cross","fast":10,"slow":20,"side":"long-only"}`. It is read from
/// its name alone as well; parameters that are not given are the usual ones.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "kebab-case", deny_unknown_fields, remote = "Self")]
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
    /// Long above the highest high of `entry` candles, out below the lowest low of `exit`; the reverse for short.
    Donchian {
        /// Candles of the channel that is broken out of.
        entry: usize,
        /// Candles of the channel that is fallen back from.
        exit: usize,
        /// Long only, or long and short.
        #[serde(default)]
        side: Side,
    },
    /// MACD crossing its signal line, entered only with ADX at `adx_min` or above.
    MacdAdx {
        /// Period of the fast average.
        fast: usize,
        /// Period of the slow average; greater.
        slow: usize,
        /// Period of the signal line.
        signal: usize,
        /// Period of ADX.
        adx: usize,
        /// The weakest trend that is entered.
        adx_min: f64,
        /// Long only, or long and short.
        #[serde(default)]
        side: Side,
    },
    /// Long from the first candle on: what every other strategy is compared with.
    BuyAndHold,
    /// A strategy that the program brought along ([`desk_with`](crate::desk_with)).
    Own,
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
    /// The strategy is the program's own: its name alone does not make it.
    #[error("own: this strategy comes with the program that brought it; it cannot be configured")]
    Own,
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
    pub const NAMES: [&'static str; 7] =
        ["sma-cross", "ema-cross", "rsi-reversion", "bollinger", "donchian", "macd-adx", "buy-and-hold"];

    /// A strategy with its usual parameters.
    pub fn usual(name: &str) -> Option<Self> {
        let side = Side::LongOnly;
        Some(match name {
            "sma-cross" => Self::SmaCross { fast: 10, slow: 20, side },
            "ema-cross" => Self::EmaCross { fast: 12, slow: 26, side },
            "rsi-reversion" => Self::RsiReversion { period: 14, low: 30.0, high: 70.0, side },
            "bollinger" => Self::Bollinger { period: 20, deviations: 2.0, side },
            "donchian" => Self::Donchian { entry: 20, exit: 10, side },
            "macd-adx" => Self::MacdAdx { fast: 12, slow: 26, signal: 9, adx: 14, adx_min: 20.0, side },
            "buy-and-hold" => Self::BuyAndHold,
            _ => return None,
        })
    }

    /// The same strategy, allowed to go short if it can.
    #[must_use]
    pub fn with_side(mut self, wanted: Side) -> Self {
        match &mut self {
            Self::SmaCross { side, .. }
            | Self::EmaCross { side, .. }
            | Self::RsiReversion { side, .. }
            | Self::Bollinger { side, .. }
            | Self::Donchian { side, .. }
            | Self::MacdAdx { side, .. } => *side = wanted,
            Self::BuyAndHold | Self::Own => {}
        }
        self
    }

    /// The longest period of its averages and windows: what it needs before it can decide, at least.
    pub fn warm_up(&self) -> usize {
        match *self {
            Self::SmaCross { slow, .. } | Self::EmaCross { slow, .. } => slow,
            Self::RsiReversion { period, .. } | Self::Bollinger { period, .. } => period,
            Self::Donchian { entry, exit, .. } => entry.max(exit),
            Self::MacdAdx { slow, signal, adx, .. } => (slow + signal).max(2 * adx),
            Self::BuyAndHold | Self::Own => 1,
        }
    }

    /// The strategy's name.
    pub fn name(&self) -> &'static str {
        match self {
            Self::SmaCross { .. } => "sma-cross",
            Self::EmaCross { .. } => "ema-cross",
            Self::RsiReversion { .. } => "rsi-reversion",
            Self::Bollinger { .. } => "bollinger",
            Self::Donchian { .. } => "donchian",
            Self::MacdAdx { .. } => "macd-adx",
            Self::BuyAndHold => "buy-and-hold",
            Self::Own => "own",
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
            Self::SmaCross { fast, slow, .. }
            | Self::EmaCross { fast, slow, .. }
            | Self::MacdAdx { fast, slow, .. }
                if fast >= slow =>
            {
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
            Self::Donchian { entry, exit, side } => {
                period(entry).and(period(exit))?;
                AnyStrategy::Donchian(DonchianBreakout::new(entry, exit, side))
            }
            Self::MacdAdx { fast, slow, signal, adx, adx_min, side } => {
                [fast, slow, signal, adx].into_iter().try_for_each(period)?;
                bound((0.0..100.0).contains(&adx_min), "not 0 <= adx_min < 100")?;
                let periods = [fast, slow, signal, adx].map(|period| period as u32);
                AnyStrategy::MacdAdx(MacdAdx::new(periods, adx_min, side))
            }
            Self::BuyAndHold => AnyStrategy::BuyAndHold(BuyAndHold::default()),
            Self::Own => return Err(StrategyError::Own),
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
    /// See [`StrategySpec::Donchian`].
    Donchian(DonchianBreakout),
    /// See [`StrategySpec::MacdAdx`].
    MacdAdx(MacdAdx),
    /// See [`StrategySpec::BuyAndHold`].
    BuyAndHold(BuyAndHold),
}

macro_rules! each {
    ($of:expr, $strategy:ident => $answer:expr) => {
        match $of {
            AnyStrategy::SmaCross($strategy) => $answer,
            AnyStrategy::EmaCross($strategy) => $answer,
            AnyStrategy::RsiReversion($strategy) => $answer,
            AnyStrategy::Bollinger($strategy) => $answer,
            AnyStrategy::Donchian($strategy) => $answer,
            AnyStrategy::MacdAdx($strategy) => $answer,
            AnyStrategy::BuyAndHold($strategy) => $answer,
        }
    };
}

impl Strategy for AnyStrategy {
    #[inline]
    fn update(&mut self, candle: &Candle) -> Option<Decision> {
        each!(self, strategy => strategy.update(candle))
    }

    /// Asks which strategy it is once, not at every candle.
    fn decisions<E>(&mut self, candles: &[Candle], each: impl Each<E>) -> Result<(), E> {
        each!(self, strategy => strategy.decisions(candles, each))
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
    fn decisions_over_slices_are_those_of_one_candle_after_the_other() {
        let market = super::super::simulator::Simulator::new(8, "15m".parse().unwrap(), 0);
        let mut candles: Vec<Candle> = market.take(3_000).collect();
        // Prices whose products do not fit 64 bits, and back.
        candles[1_000..2_000].iter_mut().for_each(|candle| candle.close *= 100_000_000_000);
        let long = StrategySpec::SmaCross { fast: 100, slow: 200, side: Side::LongOnly };
        for spec in StrategySpec::NAMES.iter().filter_map(|name| StrategySpec::usual(name)).chain([long]) {
            for side in [Side::LongOnly, Side::LongShort] {
                let spec = spec.with_side(side);
                let mut one = spec.build().unwrap();
                let expected: Vec<_> =
                    candles.iter().enumerate().filter_map(|(place, c)| Some((place, one.update(c)?))).collect();
                for step in [1, 19, 39, 40, 41, 100, 1_000, 3_000] {
                    let mut slices = spec.build().unwrap();
                    let mut found = Vec::new();
                    for (n, part) in candles.chunks(step).enumerate() {
                        let told = slices.decisions(part, |place, decision| {
                            found.push((n * step + place, decision));
                            Ok::<_, ()>(())
                        });
                        assert_eq!(told, Ok(()));
                    }
                    assert_eq!(found, expected, "{spec:?} by {step}");
                    assert_eq!(slices, one, "{spec:?} by {step}");
                }
            }
        }
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
    fn a_breakout_needs_a_close_beyond_the_candles_before() {
        let spec = |side| StrategySpec::Donchian { entry: 5, exit: 2, side };
        // 13 is above everything, the 12 before it was not; 11 is below the two candles before it, 10 below all five.
        let closes = [10, 11, 12, 11, 12, 13, 12, 11, 10];
        let long = targets(spec(Side::LongOnly), &closes);
        assert_eq!(long[5..], [Some(1.0), None, Some(0.0), None]);
        assert_eq!(long[..5], [None; 5]);
        let short: Vec<f64> = targets(spec(Side::LongShort), &closes).into_iter().flatten().collect();
        assert_eq!(short, [1.0, 0.0, -1.0]);
    }

    #[test]
    fn a_weak_trend_is_left_but_not_entered() {
        let market = super::super::simulator::Simulator::new(3, "15m".parse().unwrap(), 0);
        let closes: Vec<i64> = market.take(600).map(|candle| candle.close).collect();
        let spec =
            |adx_min| StrategySpec::MacdAdx { fast: 3, slow: 8, signal: 3, adx: 5, adx_min, side: Side::LongShort };
        let entries = |adx_min| targets(spec(adx_min), &closes).into_iter().flatten().filter(|t| *t != 0.0).count();
        assert!(entries(0.0) > entries(40.0) && entries(40.0) > 0, "{} {}", entries(0.0), entries(40.0));
        assert_eq!(entries(99.9), 0);
    }

    #[test]
    fn every_name_has_usual_parameters_that_can_be_built() {
        for name in StrategySpec::NAMES {
            let spec = StrategySpec::usual(name).unwrap();
            assert_eq!((spec.name(), spec.build().is_ok()), (name, true));
            let json = serde_json::to_string(&spec).unwrap();
            assert_eq!(serde_json::from_str::<StrategySpec>(&json).unwrap(), spec);
        }
        assert!(StrategySpec::usual("own").is_none() && StrategySpec::Own.build().is_err());
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
