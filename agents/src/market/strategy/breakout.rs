//! Breaking out of a channel.

use serde::{Deserialize, Serialize};

use super::super::candle::Candle;
use super::super::indicators::{Donchian, DonchianValue, Indicator};
use super::{Decision, Reason, Side, Strategy, Target};

/// Donchian's breakout: long above the highest high of the `entry` candles before, flat below the lowest low of the `exit`
/// candles before; the reverse for short. The candle itself is in neither channel, or nothing could break out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DonchianBreakout {
    side: Side,
    entry: Donchian,
    exit: Donchian,
    /// The channels of the candles before this one.
    before: Option<(DonchianValue, DonchianValue)>,
    target: Target,
}

impl DonchianBreakout {
    pub(super) fn new(entry: usize, exit: usize, side: Side) -> Self {
        Self { side, entry: Donchian::new(entry), exit: Donchian::new(exit), before: None, target: Target::default() }
    }
}

impl Strategy for DonchianBreakout {
    #[inline]
    fn update(&mut self, candle: &Candle) -> Option<Decision> {
        let now = (self.entry.update(*candle), self.exit.update(*candle));
        let before = std::mem::replace(&mut self.before, now.0.zip(now.1));
        let (entry, exit) = before?;
        if candle.close > entry.upper {
            return self.target.set(1.0, Reason::BreakoutUp);
        }
        if candle.close < entry.lower {
            return self.target.set(self.side.down(), Reason::BreakoutDown);
        }
        let is_over =
            (self.target.0 > 0.0 && candle.close < exit.lower) || (self.target.0 < 0.0 && candle.close > exit.upper);
        is_over.then(|| self.target.set(0.0, Reason::ChannelExit)).flatten()
    }
}
