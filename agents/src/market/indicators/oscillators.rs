//! RSI, average true range and Bollinger bands.

use serde::{Deserialize, Serialize};
use wide::f64x2;

use super::super::candle::Candle;
use super::super::money::float;
use super::averages::Wilder;
use super::directional::TrueRange;
use super::window::Rolling;
use super::{Indicator, StateError, pairs};

/// Relative strength index of Wilder, 0 to 100; first value at bar n, 0 while nothing has moved.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Rsi {
    last: Option<i64>,
    gain: Wilder,
    loss: Wilder,
}

impl Rsi {
    /// The usual period is 14.
    pub fn new(period: u32) -> Self {
        Self { last: None, gain: Wilder::new(period), loss: Wilder::new(period) }
    }
}

impl Indicator for Rsi {
    type Input = i64;
    type Output = f64;
    #[inline(always)]
    fn update(&mut self, ticks: i64) -> Option<f64> {
        if self.loss.is_warm() {
            return Some(self.step(ticks));
        }
        let change = (ticks - self.last.replace(ticks)?) as f64;
        let (gain, loss) = (self.gain.update(change.max(0.0)), self.loss.update((-change).max(0.0)));
        Some(strength(gain?, loss?))
    }

    #[inline(always)]
    fn step(&mut self, ticks: i64) -> f64 {
        let change = (ticks - self.last.replace(ticks).unwrap_or(ticks)) as f64;
        strength(self.gain.step(change.max(0.0)), self.loss.step((-change).max(0.0)))
    }
}

#[inline(always)]
fn strength(gain: f64, loss: f64) -> f64 {
    if gain + loss > 0.0 { 100.0 * gain / (gain + loss) } else { 0.0 }
}

/// Average true range of Wilder, in ticks; the true range exists from bar 1, its average from bar n.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Atr {
    range: TrueRange,
    average: Wilder,
}

impl Atr {
    /// The usual period is 14.
    pub fn new(period: u32) -> Self {
        Self { range: TrueRange::default(), average: Wilder::new(period) }
    }
}

impl Indicator for Atr {
    type Input = Candle;
    type Output = f64;
    #[inline(always)]
    fn update(&mut self, candle: Candle) -> Option<f64> {
        self.average.update(self.range.update(candle)? as f64)
    }

    #[inline(always)]
    fn step(&mut self, candle: Candle) -> f64 {
        self.average.step(self.range.step(candle) as f64)
    }

    #[inline(always)]
    fn steps(&mut self, mut inputs: impl Iterator<Item = Candle>, values: &mut [f64]) {
        let (places, rest) = values.as_chunks_mut();
        let (mut two, mut last) = (self.average.two(), above(self.range.last_close.unwrap_or(0)));
        pairs(&mut inputs, places, |[a, b]: [Candle; 2]| {
            let high = f64x2::new([above(a.high), above(b.high)]);
            let low = f64x2::new([above(a.low), above(b.low)]);
            let before = f64x2::new([last, above(a.close)]);
            last = above(b.close);
            two.step(high.fast_max(before) - low.fast_min(before)).to_array()
        });
        self.average.end(&two);
        self.range.last_close = Some((last.to_bits() ^ ABOVE) as i64);
        rest.iter_mut().zip(inputs).for_each(|(place, value)| *place = self.step(value));
    }
}

/// 2^52 as a float's bits, of which the last 52 are zeros.
const ABOVE: u64 = 0x4330_0000_0000_0000;

/// A price and 2^52, exactly: of a price that a candle may have, that is to put bits together. Differences need no more.
#[inline(always)]
fn above(ticks: i64) -> f64 {
    f64::from_bits(ABOVE | ticks as u64)
}

/// The three lines of Bollinger's bands.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Bands {
    /// Mean + k standard deviations.
    pub upper: f64,
    /// The mean.
    pub middle: f64,
    /// Mean − k standard deviations.
    pub lower: f64,
    /// The population standard deviation.
    pub deviation: f64,
}

/// Bollinger bands with the population standard deviation, in ticks. The sums of values and of squares are exact
/// integers, so a flat window has deviation 0 and nothing drifts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "BollingerJson", into = "BollingerJson")]
pub struct Bollinger {
    deviations: f64,
    window: Rolling,
    /// 8,192 squares of 10^15 need 113 bits.
    squares: i128,
}

#[derive(Serialize, Deserialize)]
struct BollingerJson {
    deviations: f64,
    window: Rolling,
}

impl Bollinger {
    /// The usual parameters are a period of 20 and 2 deviations.
    pub fn new(period: usize, deviations: f64) -> Self {
        Self { deviations, window: Rolling::new(period), squares: 0 }
    }
}

impl Indicator for Bollinger {
    type Input = i64;
    type Output = Bands;
    #[inline(always)]
    fn update(&mut self, ticks: i64) -> Option<Bands> {
        let old = self.window.push(ticks);
        self.squares += i128::from(ticks - old) * i128::from(ticks + old);
        let sum = self.window.full()?;
        let n = self.window.period() as f64;
        let spread = self.squares * self.window.period() as i128 - square(sum);
        // The root and two divisions would wait for one another.
        let (middle, deviation) = (sum as f64 / n, float(spread).sqrt() * (1.0 / n));
        let width = self.deviations * deviation;
        Some(Bands { upper: middle + width, middle, lower: middle - width, deviation })
    }
}

fn square(value: i64) -> i128 {
    i128::from(value) * i128::from(value)
}

impl From<Bollinger> for BollingerJson {
    fn from(b: Bollinger) -> Self {
        Self { deviations: b.deviations, window: b.window }
    }
}

impl TryFrom<BollingerJson> for Bollinger {
    type Error = StateError;
    fn try_from(BollingerJson { deviations, window }: BollingerJson) -> Result<Self, StateError> {
        let squares = window.values().map(square).sum();
        Ok(Self { deviations, window, squares })
    }
}
