//! Indicators of momentum and volume over exact integers: CCI, MFI, ROC, MOM, OBV.

use serde::{Deserialize, Serialize};

use super::super::candle::Candle;
use super::Indicator;
use super::window::{Ring, Rolling};

/// Commodity channel index; first at bar n − 1, 0 where nothing moved.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Cci(Rolling);

impl Cci {
    /// The usual period is 20.
    pub fn new(period: usize) -> Self {
        Self(Rolling::new(period))
    }
}

/// Three times the typical price, so that it is whole.
fn typical(candle: &Candle) -> i64 {
    candle.high + candle.low + candle.close
}

impl Indicator for Cci {
    type Input = Candle;
    type Output = f64;
    #[inline]
    fn update(&mut self, candle: Candle) -> Option<f64> {
        let typical = typical(&candle);
        self.0.push(typical);
        let n = self.0.period() as f64;
        let mean = self.0.full()? as f64 / n;
        let deviation: f64 = self.0.values().map(|value| (value as f64 - mean).abs()).sum();
        Some(if deviation > 0.0 { (typical as f64 - mean) / (0.015 * deviation / n) } else { 0.0 })
    }
}

/// Money flow index, 0 to 100; first at bar n, 0 without any flow.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Mfi {
    last: Option<i64>,
    /// Three times the typical price × volume, positive if the price rose: two rings, since a product needs 102 bits.
    typical: Ring,
    volume: Ring,
}

impl Mfi {
    /// The usual period is 14.
    pub fn new(period: usize) -> Self {
        Self { last: None, typical: Ring::new(period), volume: Ring::new(period) }
    }
}

impl Indicator for Mfi {
    type Input = Candle;
    type Output = f64;
    #[inline]
    fn update(&mut self, candle: Candle) -> Option<f64> {
        let typical = typical(&candle);
        let last = self.last.replace(typical)?;
        self.typical.push(typical);
        // The direction is the volume's sign.
        self.volume.push(candle.volume * (typical - last).signum());
        if !self.volume.is_full() {
            return None;
        }
        // Summed anew in floats: all terms are of one sign, so nothing is lost and nothing drifts.
        let (mut up, mut down) = (0.0, 0.0);
        for age in 0..self.volume.length() {
            let flow = self.typical.back(age) as f64 * self.volume.back(age) as f64;
            up += flow.max(0.0);
            down += (-flow).max(0.0);
        }
        Some(if up + down > 0.0 { 100.0 * up / (up + down) } else { 0.0 })
    }
}

/// Change over n bars in ticks (MOM); first at bar n.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Momentum(Ring);

impl Momentum {
    /// The usual period is 10.
    pub fn new(period: usize) -> Self {
        Self(Ring::new(period))
    }

    /// The value n bars ago, once there is one.
    #[inline]
    fn before(&mut self, ticks: i64) -> Option<i64> {
        let old = self.0.is_full().then(|| self.0.back(self.0.length() - 1));
        self.0.push(ticks);
        old
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
