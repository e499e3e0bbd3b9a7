//! Indicators as TA-Lib defines them, one candle at a time.
//!
//! Inputs are integer ticks, outputs are in ticks too ([`Scale::price`] makes them prices); RSI is in percent. Sums over
//! windows are exact integers, so nothing drifts; and since no NaN can come in, none comes out. The batch form is
//! [`batch`] over the streaming one, so the two are equal bit for bit. All state serialises and resumes bit for bit.

mod averages;
mod directional;
mod extremes;
mod oscillators;
mod spec;
mod volume;
mod window;

use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use self::averages::{Ema, Macd, MacdValue, Sma, Wma};
pub use self::directional::{Adx, Di, DiValue, Sar, TrueRange};
pub use self::extremes::{Aroon, AroonValue, Donchian, DonchianValue, Stochastic, StochasticValue, WilliamsR};
pub use self::oscillators::{Atr, Bands, Bollinger, Rsi};
pub use self::spec::{AnyIndicator, INDICATORS, IndicatorKind, IndicatorSpec, LINES_MAX, SpecError};
pub use self::volume::{Cci, Mfi, Momentum, Obv, Roc};
pub(crate) use self::window::Rolling;
pub use self::window::{LENGTH_MAX, Windows};
use super::candle::{Candle, Scale};

/// Something that takes one value a bar and gives one, once it is warm.
pub trait Indicator {
    /// What it takes: ticks, or a candle.
    type Input;
    /// What it gives.
    type Output: Clone + Default;
    /// Takes the next value; `None` while there is no result yet. What comes out is finite.
    fn update(&mut self, input: Self::Input) -> Option<Self::Output>;

    /// The same once there has been a value: what is warm stays warm. Over a slice this is the whole loop, so an indicator
    /// whose [`update`](Self::update) asks whether it is warm has its arithmetic here, and asks before.
    ///
    /// # Panics
    /// If the indicator falls silent, which is a bug.
    #[inline(always)]
    fn step(&mut self, input: Self::Input) -> Self::Output {
        self.update(input).expect("an indicator that is warm stays warm")
    }

    /// A step for each input, into places of which there are as many. Whoever overrides it gives what [`step`](Self::step)
    /// would.
    #[inline(always)]
    fn steps(&mut self, inputs: impl Iterator<Item = Self::Input>, values: &mut [Self::Output])
    where
        Self: Sized,
    {
        values.iter_mut().zip(inputs).for_each(|(value, input)| *value = self.step(input));
    }
}

/// Runs an indicator over a slice: one result a value.
pub fn batch<I: Indicator>(mut indicator: I, inputs: impl IntoIterator<Item = I::Input>) -> Vec<Option<I::Output>> {
    inputs.into_iter().map(|input| indicator.update(input)).collect()
}

/// As [`batch`], without the bars before the first result: its bar, and all results from there on. Once an indicator
/// has given a value it gives one at every bar. Candles may be put together from columns, of those that are needed.
///
/// # Panics
/// If the indicator does not keep to that.
pub fn values<I: Indicator>(
    indicator: I,
    inputs: impl IntoIterator<Item = I::Input, IntoIter: ExactSizeIterator>,
) -> (usize, Vec<I::Output>) {
    let mut values = Vec::new();
    (values_into(indicator, inputs, &mut values), values)
}

/// As [`values`], into a vector that is used again: what was in it goes.
///
/// # Panics
/// As [`values`].
pub fn values_into<I: Indicator>(
    indicator: I,
    inputs: impl IntoIterator<Item = I::Input, IntoIter: ExactSizeIterator>,
    values: &mut Vec<I::Output>,
) -> usize {
    let mut inputs = inputs.into_iter();
    let (mut indicator, silent, first) = warm_up(indicator, &mut inputs);
    // A loop that only fills places need not ask for room a bar.
    values.resize(usize::from(first.is_some()) + inputs.len(), I::Output::default());
    if let (Some(first), [place, rest @ ..]) = (first, &mut values[..]) {
        *place = first;
        indicator.steps(inputs, rest);
    }
    silent
}

/// Up to the first value; how many inputs came before it. A function of its own, by value: what the steady loop works
/// on has then never been lent to anyone, and stays in registers.
#[inline(never)]
fn warm_up<I: Indicator>(
    mut indicator: I,
    inputs: &mut impl Iterator<Item = I::Input>,
) -> (I, usize, Option<I::Output>) {
    let mut silent = 0;
    for input in inputs {
        match indicator.update(input) {
            Some(value) => return (indicator, silent, Some(value)),
            None => silent += 1,
        }
    }
    (indicator, silent, None)
}

/// Takes two inputs at a time; a last one alone is left.
#[inline(always)]
fn pairs<T, V>(inputs: &mut impl Iterator<Item = T>, values: &mut [[V; 2]], mut each: impl FnMut([T; 2]) -> [V; 2]) {
    for places in values {
        let (Some(first), Some(second)) = (inputs.next(), inputs.next()) else { return };
        *places = each([first, second]);
    }
}

/// A saved state that cannot be one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("saved state is damaged: {what} is not possible")]
pub struct StateError {
    /// What is wrong.
    pub what: &'static str,
}

/// The fixed set of values that the desk computes for every candle, in prices; `None` is not ready yet.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Features {
    /// Simple average of 10 closes.
    pub sma_10: Option<f64>,
    /// Simple average of 20 closes.
    pub sma_20: Option<f64>,
    /// Simple average of 50 closes.
    pub sma_50: Option<f64>,
    /// Exponential average of 12 closes.
    pub ema_12: Option<f64>,
    /// Exponential average of 26 closes.
    pub ema_26: Option<f64>,
    /// Relative strength index of 14 closes, 0 to 100.
    pub rsi_14: Option<f64>,
    /// Average true range of 14 candles.
    pub atr_14: Option<f64>,
    /// Average true range in percent of the close.
    pub natr_14: Option<f64>,
    /// MACD(12, 26, 9).
    pub macd: Option<MacdValue>,
    /// Bollinger bands (20, 2).
    pub bands: Option<Bands>,
}

/// Streaming state of [`Features`] for one series: up to 1,500 bytes of JSON.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FeatureSet {
    scale: Scale,
    sma: Windows,
    ema_12: Ema,
    ema_26: Ema,
    rsi: Rsi,
    atr: Atr,
    macd: Macd,
    bollinger: Bollinger,
}

impl FeatureSet {
    /// Nothing seen yet, for a series of this scale.
    pub fn new(scale: Scale) -> Self {
        Self {
            scale,
            sma: Windows::new(&[10, 20, 50]),
            ema_12: Ema::new(12),
            ema_26: Ema::new(26),
            rsi: Rsi::new(14),
            atr: Atr::new(14),
            macd: Macd::new(12, 26, 9),
            bollinger: Bollinger::new(20, 2.0),
        }
    }

    /// The scale that its candles must have.
    pub fn scale(&self) -> Scale {
        self.scale
    }

    /// Takes the next closed candle.
    pub fn update(&mut self, candle: &Candle) -> Features {
        let price = |ticks: f64| self.scale.price(ticks);
        let (ticks, close) = (candle.close, candle.close as f64);
        self.sma.push(ticks);
        let atr = self.atr.update(*candle);
        Features {
            sma_10: self.sma.mean(0).map(price),
            sma_20: self.sma.mean(1).map(price),
            sma_50: self.sma.mean(2).map(price),
            ema_12: self.ema_12.update(close).map(price),
            ema_26: self.ema_26.update(close).map(price),
            rsi_14: self.rsi.update(ticks),
            atr_14: atr.map(price),
            natr_14: atr.map(|atr| 100.0 * atr / close).filter(|natr| natr.is_finite()),
            macd: self.macd.update(close).map(|m| MacdValue {
                macd: price(m.macd),
                signal: price(m.signal),
                histogram: price(m.histogram),
            }),
            bands: self.bollinger.update(ticks).map(|b| Bands {
                upper: price(b.upper),
                middle: price(b.middle),
                lower: price(b.lower),
                deviation: price(b.deviation),
            }),
        }
    }
}
