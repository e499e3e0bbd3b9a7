//! RSI, average true range and Bollinger bands.

use serde::{Deserialize, Serialize};

use super::super::candle::Candle;
use super::window::Ring;
use super::{Indicator, LENGTH_MAX, StateError};

/// Wilder's average: seeded with the mean of the first n values, then (previous · (n − 1) + value) / n.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Wilder {
    period: u32,
    seeded: u32,
    value: f64,
}

impl Wilder {
    fn new(period: u32) -> Self {
        Self { period: period.max(1), seeded: 0, value: 0.0 }
    }

    #[inline]
    fn update(&mut self, value: f64) -> Option<f64> {
        let n = f64::from(self.period);
        if self.seeded == self.period {
            self.value = (self.value * (n - 1.0) + value) / n;
            return Some(self.value);
        }
        self.value += value;
        self.seeded += 1;
        if self.seeded < self.period {
            return None;
        }
        self.value /= n;
        Some(self.value)
    }
}

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
    #[inline]
    fn update(&mut self, ticks: i64) -> Option<f64> {
        let change = (ticks - self.last.replace(ticks)?) as f64;
        let (gain, loss) = (self.gain.update(change.max(0.0)), self.loss.update((-change).max(0.0)));
        let (gain, loss) = (gain?, loss?);
        Some(if gain + loss > 0.0 { 100.0 * gain / (gain + loss) } else { 0.0 })
    }
}

/// Average true range of Wilder, in ticks; the true range exists from bar 1, its average from bar n.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Atr {
    last_close: Option<i64>,
    average: Wilder,
}

impl Atr {
    /// The usual period is 14.
    pub fn new(period: u32) -> Self {
        Self { last_close: None, average: Wilder::new(period) }
    }
}

impl Indicator for Atr {
    type Input = Candle;
    type Output = f64;
    #[inline]
    fn update(&mut self, candle: Candle) -> Option<f64> {
        let last = self.last_close.replace(candle.close)?;
        self.average.update((candle.high.max(last) - candle.low.min(last)) as f64)
    }
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
    period: usize,
    ring: Ring,
    sum: i64,
    /// 8,192 squares of 10^15 need 113 bits.
    squares: i128,
}

#[derive(Serialize, Deserialize)]
struct BollingerJson {
    deviations: f64,
    period: usize,
    ring: Ring,
}

impl Bollinger {
    /// The usual parameters are a period of 20 and 2 deviations.
    pub fn new(period: usize, deviations: f64) -> Self {
        let period = period.clamp(1, LENGTH_MAX);
        Self { deviations, period, ring: Ring::new(period), sum: 0, squares: 0 }
    }
}

impl Indicator for Bollinger {
    type Input = i64;
    type Output = Bands;
    #[inline]
    fn update(&mut self, ticks: i64) -> Option<Bands> {
        let old = self.ring.back(self.period - 1);
        self.ring.push(ticks);
        self.sum += ticks - old;
        self.squares += square(ticks) - square(old);
        if self.ring.count() < self.period as u64 {
            return None;
        }
        let n = self.period as f64;
        let spread = self.squares * self.period as i128 - square(self.sum);
        // A 64-bit conversion is one instruction, a 128-bit one a call.
        let spread = i64::try_from(spread).map_or(spread as f64, |spread| spread as f64);
        let (middle, deviation) = (self.sum as f64 / n, spread.sqrt() / n);
        let width = self.deviations * deviation;
        Some(Bands { upper: middle + width, middle, lower: middle - width, deviation })
    }
}

fn square(value: i64) -> i128 {
    i128::from(value) * i128::from(value)
}

impl From<Bollinger> for BollingerJson {
    fn from(b: Bollinger) -> Self {
        Self { deviations: b.deviations, period: b.period, ring: b.ring }
    }
}

impl TryFrom<BollingerJson> for Bollinger {
    type Error = StateError;
    fn try_from(json: BollingerJson) -> Result<Self, StateError> {
        let error = StateError { what: "a bollinger window" };
        if !(1..=LENGTH_MAX).contains(&json.period) {
            return Err(error);
        }
        let kept = json.period.min(json.ring.count() as usize);
        let sum = (0..kept).try_fold(0_i64, |sum, age| sum.checked_add(json.ring.back(age))).ok_or(error)?;
        let squares = (0..kept).map(|age| square(json.ring.back(age))).sum();
        Ok(Self { deviations: json.deviations, period: json.period, ring: json.ring, sum, squares })
    }
}
