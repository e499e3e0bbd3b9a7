//! Indicators of momentum and volume over exact integers: WMA, CCI, MFI, ROC, MOM, OBV.

use serde::{Deserialize, Serialize};

use super::super::candle::Candle;
use super::window::Ring;
use super::{Indicator, LENGTH_MAX, StateError};

/// Linearly weighted moving average of ticks, the newest with weight n; first at bar n − 1.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "RingOf", into = "RingOf")]
pub struct Wma {
    period: usize,
    ring: Ring,
    sum: i64,
    /// 8,192 · 8,193 / 2 values of 10^15 need 75 bits.
    weighted: i128,
}

/// A period and the ring that it runs over; sums follow from them.
#[derive(Serialize, Deserialize)]
struct RingOf {
    period: usize,
    ring: Ring,
}

impl Wma {
    /// An average over `period` values.
    pub fn new(period: usize) -> Self {
        let period = period.clamp(1, LENGTH_MAX);
        Self { period, ring: Ring::new(period), sum: 0, weighted: 0 }
    }
}

impl From<Wma> for RingOf {
    fn from(wma: Wma) -> Self {
        Self { period: wma.period, ring: wma.ring }
    }
}

impl TryFrom<RingOf> for Wma {
    type Error = StateError;
    fn try_from(RingOf { period, ring }: RingOf) -> Result<Self, StateError> {
        if !(1..=LENGTH_MAX).contains(&period) {
            return Err(StateError { what: "a weighted window" });
        }
        let kept = period.min(ring.count() as usize);
        let sum = (0..kept).try_fold(0_i64, |sum, age| sum.checked_add(ring.back(age)));
        let weighted = (0..kept).map(|age| i128::from(ring.back(age)) * (period - age) as i128).sum();
        Ok(Self { period, sum: sum.ok_or(StateError { what: "a weighted window" })?, ring, weighted })
    }
}

impl Indicator for Wma {
    type Input = i64;
    type Output = f64;
    #[inline]
    fn update(&mut self, ticks: i64) -> Option<f64> {
        let n = self.period as i128;
        // Each weight falls by one: the sum of what was there goes off, the oldest with weight one with it.
        self.weighted += i128::from(ticks) * n - i128::from(self.sum);
        self.sum += ticks - self.ring.back(self.period - 1);
        self.ring.push(ticks);
        (self.ring.count() >= self.period as u64).then(|| self.weighted as f64 / (n * (n + 1) / 2) as f64)
    }
}

/// Commodity channel index; first at bar n − 1, 0 where nothing moved.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Cci {
    period: usize,
    /// Three times the typical price, so that it is whole.
    typical: Ring,
}

impl Cci {
    /// The usual period is 20.
    pub fn new(period: usize) -> Self {
        let period = period.clamp(1, LENGTH_MAX);
        Self { period, typical: Ring::new(period) }
    }
}

impl Indicator for Cci {
    type Input = Candle;
    type Output = f64;
    #[inline]
    fn update(&mut self, candle: Candle) -> Option<f64> {
        let typical = candle.high + candle.low + candle.close;
        self.typical.push(typical);
        if self.typical.count() < self.period as u64 {
            return None;
        }
        let (n, mut sum, mut deviation) = (self.period as f64, 0_i64, 0.0);
        (0..self.period).for_each(|age| sum += self.typical.back(age));
        let mean = sum as f64 / n;
        (0..self.period).for_each(|age| deviation += (self.typical.back(age) as f64 - mean).abs());
        Some(if deviation > 0.0 { (typical as f64 - mean) / (0.015 * deviation / n) } else { 0.0 })
    }
}

/// Money flow index, 0 to 100; first at bar n, 0 without any flow.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Mfi {
    period: usize,
    last: Option<i64>,
    /// Three times the typical price × volume, positive if the price rose: two rings, since a product needs 102 bits.
    typical: Ring,
    volume: Ring,
}

impl Mfi {
    /// The usual period is 14.
    pub fn new(period: usize) -> Self {
        let period = period.clamp(1, LENGTH_MAX);
        Self { period, last: None, typical: Ring::new(period), volume: Ring::new(period) }
    }
}

impl Indicator for Mfi {
    type Input = Candle;
    type Output = f64;
    #[inline]
    fn update(&mut self, candle: Candle) -> Option<f64> {
        let typical = candle.high + candle.low + candle.close;
        let last = self.last.replace(typical)?;
        self.typical.push(typical);
        // The direction is the volume's sign.
        self.volume.push(candle.volume * (typical - last).signum());
        if self.volume.count() < self.period as u64 {
            return None;
        }
        // Summed anew in floats: all terms are of one sign, so nothing is lost and nothing drifts.
        let (mut up, mut down) = (0.0, 0.0);
        for age in 0..self.period {
            let flow = self.typical.back(age) as f64 * self.volume.back(age) as f64;
            up += flow.max(0.0);
            down += (-flow).max(0.0);
        }
        Some(if up + down > 0.0 { 100.0 * up / (up + down) } else { 0.0 })
    }
}

/// Change over n bars in ticks (MOM); first at bar n.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Momentum {
    period: usize,
    ring: Ring,
}

impl Momentum {
    /// The usual period is 10.
    pub fn new(period: usize) -> Self {
        let period = period.clamp(1, LENGTH_MAX);
        Self { period, ring: Ring::new(period) }
    }

    /// The value n bars ago, once there is one.
    #[inline]
    fn before(&mut self, ticks: i64) -> Option<i64> {
        let old = self.ring.back(self.period - 1);
        self.ring.push(ticks);
        (self.ring.count() > self.period as u64).then_some(old)
    }
}

impl Indicator for Momentum {
    type Input = i64;
    type Output = i64;
    #[inline]
    fn update(&mut self, ticks: i64) -> Option<i64> {
        Some(ticks - self.before(ticks)?)
    }
}

/// Change over n bars in percent (ROC); first at bar n.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Roc(Momentum);

impl Roc {
    /// The usual period is 10.
    pub fn new(period: usize) -> Self {
        Self(Momentum::new(period))
    }
}

impl Indicator for Roc {
    type Input = i64;
    type Output = f64;
    #[inline]
    fn update(&mut self, ticks: i64) -> Option<f64> {
        let before = self.0.before(ticks)?;
        Some(if before == 0 { 0.0 } else { 100.0 * (ticks - before) as f64 / before as f64 })
    }
}

/// On-balance volume in lots, beginning with the first candle's; stays at the end of the range instead of wrapping.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Obv {
    last_close: Option<i64>,
    sum: i64,
}

impl Indicator for Obv {
    type Input = Candle;
    type Output = i64;
    #[inline]
    fn update(&mut self, candle: Candle) -> Option<i64> {
        let sign = self.last_close.replace(candle.close).map_or(1, |last| (candle.close - last).signum());
        self.sum = self.sum.saturating_add(candle.volume * sign);
        Some(self.sum)
    }
}
