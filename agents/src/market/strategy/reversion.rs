//! Strategies that bet on a return to the middle.

use serde::{Deserialize, Serialize};

use super::super::candle::Candle;
use super::super::indicators::{Bollinger, Indicator, Rsi};
use super::{Decision, Reason, Side, Strategy, Target};

/// The middle of the RSI, where a position is closed.
const RSI_MIDDLE: f64 = 50.0;

/// Where a value is among lower bound, middle and upper bound, turned into a target.
fn decide(target: &mut Target, value: f64, [low, middle, high]: [f64; 3], side: Side) -> Option<Decision> {
    if value < low {
        return target.set(1.0, Reason::Oversold);
    }
    if value > high {
        return target.set(side.down(), Reason::Overbought);
    }
    let back = (target.0 > 0.0 && value >= middle) || (target.0 < 0.0 && value <= middle);
    back.then(|| target.set(0.0, Reason::Reverted)).flatten()
}

/// Long while oversold by RSI.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RsiReversion {
    low: f64,
    high: f64,
    side: Side,
    rsi: Rsi,
    target: Target,
}

impl RsiReversion {
    pub(super) fn new(period: u32, low: f64, high: f64, side: Side) -> Self {
        Self { low, high, side, rsi: Rsi::new(period), target: Target::default() }
    }
}

impl Strategy for RsiReversion {
    #[inline]
    fn update(&mut self, candle: &Candle) -> Option<Decision> {
        let rsi = self.rsi.update(candle.close)?;
        decide(&mut self.target, rsi, [self.low, RSI_MIDDLE, self.high], self.side)
    }
}

/// Long below the lower Bollinger band.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BollingerReversion {
    side: Side,
    bands: Bollinger,
    target: Target,
}

impl BollingerReversion {
    pub(super) fn new(period: usize, deviations: f64, side: Side) -> Self {
        Self { side, bands: Bollinger::new(period, deviations), target: Target::default() }
    }
}

impl Strategy for BollingerReversion {
    #[inline]
    fn update(&mut self, candle: &Candle) -> Option<Decision> {
        let bands = self.bands.update(candle.close)?;
        decide(&mut self.target, candle.close as f64, [bands.lower, bands.middle, bands.upper], self.side)
    }
}
