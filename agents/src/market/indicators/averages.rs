//! Simple, weighted and exponential moving averages, Wilder's, and MACD, which is made of them.
//!
//! The recurrences are written as two products and a sum: a bar waits for the one before it, and a division there is most
//! of what it costs. What is multiplied by is the same number at every bar.

use serde::{Deserialize, Serialize};

use super::window::Rolling;
use super::{Indicator, StateError};

/// Simple moving average of ticks; first value at bar n − 1.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sma(Rolling);

impl Sma {
    /// An average over `period` values.
    pub fn new(period: usize) -> Self {
        Self(Rolling::new(period))
    }
}

impl Indicator for Sma {
    type Input = i64;
    type Output = f64;
    #[inline]
    fn update(&mut self, ticks: i64) -> Option<f64> {
        self.0.push(ticks);
        Some(self.0.full()? as f64 / self.0.period() as f64)
    }
}

/// Linearly weighted moving average of ticks, the newest with weight n; first at bar n − 1.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Rolling", into = "Rolling")]
pub struct Wma {
    window: Rolling,
    /// 8,192 · 8,193 / 2 values of 10^15 need 75 bits.
    weighted: i128,
}

impl Wma {
    /// An average over `period` values.
    pub fn new(period: usize) -> Self {
        Self { window: Rolling::new(period), weighted: 0 }
    }
}

impl From<Wma> for Rolling {
    fn from(wma: Wma) -> Self {
        wma.window
    }
}

impl TryFrom<Rolling> for Wma {
    type Error = StateError;
    fn try_from(window: Rolling) -> Result<Self, StateError> {
        let weight = |age: usize| (window.period() - age) as i128;
        let weighted = window.values().enumerate().map(|(age, value)| i128::from(value) * weight(age)).sum();
        Ok(Self { window, weighted })
    }
}

impl Indicator for Wma {
    type Input = i64;
    type Output = f64;
    #[inline]
    fn update(&mut self, ticks: i64) -> Option<f64> {
        let n = self.window.period() as i128;
        // Each weight falls by one: the sum of what was there goes off, the oldest with weight one with it.
        self.weighted += i128::from(ticks) * n - i128::from(self.window.sum());
        self.window.push(ticks);
        self.window.full().map(|_| self.weighted as f64 / (n * (n + 1) / 2) as f64)
    }
}

/// Exponential moving average, a = 2 / (n + 1), seeded with the mean of the first n values.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ema {
    period: u32,
    /// Values before the first one that counts (MACD's fast average starts late).
    skip: u32,
    /// Values of the seed so far; `period` once the average exists.
    seeded: u32,
    /// The seed's sum, then the average.
    value: f64,
}

impl Ema {
    /// An average of `period` ≥ 1 values.
    pub fn new(period: u32) -> Self {
        Self { period: period.max(1), skip: 0, seeded: 0, value: 0.0 }
    }

    fn skipping(period: u32, skip: u32) -> Self {
        Self { skip, ..Self::new(period) }
    }
}

impl Indicator for Ema {
    type Input = f64;
    type Output = f64;
    #[inline]
    fn update(&mut self, value: f64) -> Option<f64> {
        if self.seeded == self.period {
            let share = 2.0 / (f64::from(self.period) + 1.0);
            self.value = self.value * (1.0 - share) + value * share;
            return Some(self.value);
        }
        if self.skip > 0 {
            self.skip -= 1;
            return None;
        }
        self.value += value;
        self.seeded += 1;
        if self.seeded < self.period {
            return None;
        }
        self.value /= f64::from(self.period);
        Some(self.value)
    }
}

/// Wilder's average: seeded with the mean of the first n values, then an nth of each value and the rest of what was.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Wilder {
    period: u32,
    seeded: u32,
    value: f64,
}

impl Wilder {
    pub(super) fn new(period: u32) -> Self {
        Self { period: period.max(1), seeded: 0, value: 0.0 }
    }

    #[inline]
    pub(super) fn update(&mut self, value: f64) -> Option<f64> {
        let n = f64::from(self.period);
        if self.seeded == self.period {
            let share = 1.0 / n;
            self.value = self.value * (1.0 - share) + value * share;
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

/// The three lines of MACD.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct MacdValue {
    /// Fast average − slow average.
    pub macd: f64,
    /// The exponential average of `macd`.
    pub signal: f64,
    /// `macd` − `signal`.
    pub histogram: f64,
}

/// Moving average convergence / divergence, as TA-Lib defines it: both averages exist from bar slow − 1 (the fast one
/// is seeded with the values just before it), all three lines from bar slow + signal − 2.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Macd {
    fast: Ema,
    slow: Ema,
    signal: Ema,
}

impl Macd {
    /// The usual periods are 12, 26 and 9.
    pub fn new(fast: u32, slow: u32, signal: u32) -> Self {
        Self { fast: Ema::skipping(fast, slow.saturating_sub(fast)), slow: Ema::new(slow), signal: Ema::new(signal) }
    }
}

impl Indicator for Macd {
    type Input = f64;
    type Output = MacdValue;
    #[inline]
    fn update(&mut self, value: f64) -> Option<MacdValue> {
        let (fast, slow) = (self.fast.update(value), self.slow.update(value));
        let macd = fast? - slow?;
        let signal = self.signal.update(macd)?;
        Some(MacdValue { macd, signal, histogram: macd - signal })
    }
}
