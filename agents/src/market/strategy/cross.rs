//! Crossings of two averages, and of MACD with its signal.

use std::cmp::Ordering;

use serde::{Deserialize, Serialize};

use super::super::candle::Candle;
use super::super::indicators::{Adx, Ema, Indicator, Macd, Rolling};
use super::{Decision, Each, Reason, Side, Strategy, Target, one_by_one};

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
fn compare_means(fast_sum: i64, fast: usize, slow_sum: i64, slow: usize) -> Ordering {
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

    /// The first candles, until both windows lie in the slice, and whatever cannot be walked, go one by one.
    fn decisions<E>(&mut self, candles: &[Candle], mut each: impl Each<E>) -> Result<(), E> {
        let slow = self.slow.period();
        let start = if candles.len() >= 2 * slow { slow } else { candles.len() };
        one_by_one(self, candles, 0..start, &mut each)?;
        let end = self.walk(candles, start, &mut each)?;
        one_by_one(self, candles, end..candles.len(), each)
    }
}

impl SmaCross {
    /// Takes candles from `start` on, up to the answer. What leaves a window is still at hand, and the difference of the
    /// means is carried along as one 64-bit number, up to the first price with which it might not fit.
    fn walk<E>(&mut self, candles: &[Candle], start: usize, each: &mut impl Each<E>) -> Result<usize, E> {
        let (n_fast, n_slow) = (self.fast.period(), self.slow.period());
        let most = i64::MAX as u64 / (4 * n_fast * n_slow) as u64;
        if start == candles.len() || candles[..start].iter().any(|candle| candle.close as u64 > most) {
            return Ok(start);
        }
        let sum = |n: usize| candles[start - n..start].iter().map(|candle| candle.close).sum::<i64>();
        // By how much the average leads that does; of two that are equal, and at first, neither does.
        let mut lead = sum(n_fast) * n_slow as i64 - sum(n_slow) * n_fast as i64;
        let (mut by_fast, mut by_slow, mut least) = (n_slow as i64, n_fast as i64, i64::MAX);
        let bars = candles.len() - start;
        let [coming, left_fast, left_slow] = [0, n_fast, n_slow].map(|n| &candles[start - n..][..bars]);
        let mut end = candles.len();
        for bar in 0..bars {
            let close = coming[bar].close;
            if close as u64 > most {
                end = start + bar;
                break;
            }
            lead += (close - left_fast[bar].close) * by_fast - (close - left_slow[bar].close) * by_slow;
            // To stand where the bar before stood is no cross.
            if lead > least {
                continue;
            }
            let above = if by_fast < 0 { -lead } else { lead };
            let sign = if above < 0 { -1 } else { 1 };
            (lead, by_fast, by_slow) = (above * sign, n_slow as i64 * sign, n_fast as i64 * sign);
            least = if above == 0 { i64::MAX } else { 0 };
            let reason = self.stand.cross(above.cmp(&0));
            if let Some(decision) = reason.and_then(|reason| decide(&mut self.target, reason, self.side)) {
                each(start + bar, decision)?;
            }
        }
        self.fast.push_all(&candles[start..end]);
        self.slow.push_all(&candles[start..end]);
        Ok(end)
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
