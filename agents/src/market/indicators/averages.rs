//! Simple and exponential moving averages, and MACD, which is made of them.

use serde::{Deserialize, Serialize};

use super::{Indicator, Windows};

/// Simple moving average of ticks; first value at bar n − 1.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sma {
    windows: Windows,
}

impl Sma {
    /// An average over `period` values.
    pub fn new(period: usize) -> Self {
        Self { windows: Windows::new(&[period]) }
    }
}

impl Indicator for Sma {
    type Input = i64;
    type Output = f64;
    #[inline]
    fn update(&mut self, ticks: i64) -> Option<f64> {
        self.windows.push(ticks);
        self.windows.mean(0)
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
            self.value += (value - self.value) * (2.0 / (f64::from(self.period) + 1.0));
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
