//! Crossings of two averages, and of MACD with its signal.

use std::cmp::Ordering;

use serde::{Deserialize, Serialize};

use super::super::candle::Candle;
use super::super::indicators::{Adx, Ema, Indicator, Macd, Rolling};
use super::{Decision, Reason, Side, Strategy, Target};

/// Where the fast average stood to the slow one at the last bar.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Stand {
    #[default]
    Unknown,
    Below,
    Equal,
    Above,
}

impl Stand {
    /// Strict: from below to above in one bar, or the reverse. Touching and parting again is no cross.
    #[inline]
    fn cross(&mut self, now: Ordering) -> Option<Reason> {
        let now = match now {
            Ordering::Less => Self::Below,
            Ordering::Equal => Self::Equal,
            Ordering::Greater => Self::Above,
        };
        match (std::mem::replace(self, now), now) {
            (Self::Below, Self::Above) => Some(Reason::CrossUp),
            (Self::Above, Self::Below) => Some(Reason::CrossDown),
            _ => None,
        }
    }
}

fn decide(target: &mut Target, reason: Reason, side: Side) -> Option<Decision> {
    let wanted = if reason == Reason::CrossUp { 1.0 } else { side.down() };
    target.set(wanted, reason)
}

/// Compares two means as exact integers: `fast_sum / fast` with `slow_sum / slow`, without dividing.
#[inline]
pub(crate) fn compare_means(fast_sum: i64, fast: usize, slow_sum: i64, slow: usize) -> Ordering {
    // Signed lengths: a product of two signed 64-bit numbers is one instruction.
    (i128::from(fast_sum) * i128::from(slow as i64)).cmp(&(i128::from(slow_sum) * i128::from(fast as i64)))
}

/// Strict crossing of two simple averages, compared as exact integer sums of ticks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SmaCross {
    side: Side,
    fast: Rolling,
    slow: Rolling,
    stand: Stand,
    target: Target,
}

impl SmaCross {
    pub(super) fn new(fast: usize, slow: usize, side: Side) -> Self {
        let (fast, slow) = (Rolling::new(fast), Rolling::new(slow));
        Self { side, fast, slow, stand: Stand::Unknown, target: Target::default() }
    }
}

impl Strategy for SmaCross {
    #[inline]
    fn update(&mut self, candle: &Candle) -> Option<Decision> {
        self.fast.push(candle.close);
        self.slow.push(candle.close);
        let (fast, slow) = (self.fast.full()?, self.slow.full()?);
        let reason = self.stand.cross(compare_means(fast, self.fast.period(), slow, self.slow.period()))?;
        decide(&mut self.target, reason, self.side)
    }

    /// The same over a slice, where what leaves a window is still at hand: once both windows lie in the slice, the
    /// difference of the means is carried along as one 64-bit number, if the prices are such that it fits.
    fn decisions(&mut self, candles: &[Candle]) -> Vec<(usize, Decision)> {
        let (fast, slow) = (self.fast.period(), self.slow.period());
        let closes: Vec<i64> = candles.iter().map(|candle| candle.close).collect();
        // As many bits as the greatest needs (all, if one is negative); both products together are below what is compared.
        let bits = closes.iter().fold(0, |bits, close| bits | *close as u64);
        let fits = (u128::from(bits) + 1) * (fast * slow) as u128 * 2 <= i64::MAX as u128;
        let by_one = if fits && closes.len() >= 2 * slow { slow } else { closes.len() };
        let update = |(place, candle)| Some((place, self.update(candle)?));
        let mut decided: Vec<(usize, Decision)> = candles[..by_one].iter().enumerate().filter_map(update).collect();
        if by_one == closes.len() {
            return decided;
        }
        let (n_fast, n_slow) = (fast as i64, slow as i64);
        let sum = |n: usize| closes[by_one - n..by_one].iter().sum::<i64>();
        let mut above = sum(fast) * n_slow - sum(slow) * n_fast;
        // The value that comes, and those that leave the fast and the slow window.
        let leaving = closes[by_one - fast..].iter().zip(&closes[by_one - slow..]);
        let mut bars = closes[by_one..].iter().zip(leaving).enumerate();
        let mut pass = |(close, (left_fast, left_slow)): (&i64, (&i64, &i64))| {
            above += (close - left_fast) * n_slow - (close - left_slow) * n_fast;
            above
        };
        loop {
            // To stand where the bar before stood is no cross: on to the next bar that does not.
            let found = match self.stand {
                Stand::Above => bars.find_map(|(place, bar)| Some((place, pass(bar))).filter(|at| at.1 <= 0)),
                Stand::Below => bars.find_map(|(place, bar)| Some((place, pass(bar))).filter(|at| at.1 >= 0)),
                Stand::Unknown | Stand::Equal => bars.next().map(|(place, bar)| (place, pass(bar))),
            };
            let Some((place, above)) = found else { break };
            let reason = self.stand.cross(above.cmp(&0));
            if let Some(decision) = reason.and_then(|reason| decide(&mut self.target, reason, self.side)) {
                decided.push((by_one + place, decision));
            }
        }
        self.fast.push_all(&closes[by_one..]);
        self.slow.push_all(&closes[by_one..]);
        decided
    }
}

/// Strict crossing of two exponential averages of ticks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EmaCross {
    side: Side,
    fast: Ema,
    slow: Ema,
    stand: Stand,
    target: Target,
}

impl EmaCross {
    pub(super) fn new(fast: u32, slow: u32, side: Side) -> Self {
        Self { side, fast: Ema::new(fast), slow: Ema::new(slow), stand: Stand::Unknown, target: Target::default() }
    }
}

impl Strategy for EmaCross {
    #[inline]
    fn update(&mut self, candle: &Candle) -> Option<Decision> {
        let close = candle.close as f64;
        let (fast, slow) = (self.fast.update(close), self.slow.update(close));
        let reason = self.stand.cross(fast?.total_cmp(&slow?))?;
        decide(&mut self.target, reason, self.side)
    }
}

/// MACD crossing its signal line strictly, entered only while the trend is strong enough: long on a cross up, short (if
/// allowed) on a cross down, each with ADX at `adx_min` or above. A cross against the position leaves it whatever ADX says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MacdAdx {
    adx_min: f64,
    side: Side,
    macd: Macd,
    adx: Adx,
    stand: Stand,
    target: Target,
}

impl MacdAdx {
    pub(super) fn new([fast, slow, signal, adx]: [u32; 4], adx_min: f64, side: Side) -> Self {
        let (macd, adx) = (Macd::new(fast, slow, signal), Adx::new(adx));
        Self { adx_min, side, macd, adx, stand: Stand::Unknown, target: Target::default() }
    }
}

impl Strategy for MacdAdx {
    #[inline]
    fn update(&mut self, candle: &Candle) -> Option<Decision> {
        let (macd, adx) = (self.macd.update(candle.close as f64), self.adx.update(*candle));
        let (macd, adx) = (macd?, adx?);
        let reason = self.stand.cross(macd.macd.total_cmp(&macd.signal))?;
        let wanted = if reason == Reason::CrossUp { 1.0 } else { self.side.down() };
        if adx >= self.adx_min {
            return self.target.set(wanted, reason);
        }
        // Too weak to enter: only what is held against the cross is left.
        let is_against = if reason == Reason::CrossUp { self.target.0 < 0.0 } else { self.target.0 > 0.0 };
        is_against.then(|| self.target.set(0.0, reason)).flatten()
    }
}
