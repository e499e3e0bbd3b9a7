//! Simple, weighted and exponential moving averages, Wilder's, and MACD, which is made of them.
//!
//! A recurrence costs what a bar waits for the one before it, so each is written over two bars ([`decay`]): even and odd
//! bars are two chains that a processor follows side by side. No division, no fused product: the bits are everyone's.

use std::array::from_fn;

use serde::{Deserialize, Serialize};
use wide::f64x2;

use super::window::Rolling;
use super::{Indicator, StateError, pairs};

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
    #[inline(always)]
    fn update(&mut self, ticks: i64) -> Option<f64> {
        let mean = self.step(ticks);
        self.0.full().map(|_| mean)
    }

    #[inline(always)]
    fn step(&mut self, ticks: i64) -> f64 {
        self.0.push(ticks);
        self.0.sum() as f64 / self.0.period() as f64
    }

    /// Two at a time, of which the compiler makes one division.
    #[inline(always)]
    fn steps(&mut self, mut inputs: impl Iterator<Item = i64>, values: &mut [f64]) {
        let (places, rest) = values.as_chunks_mut::<2>();
        for place in places {
            let (Some(first), Some(second)) = (inputs.next(), inputs.next()) else { return };
            *place = [self.step(first), self.step(second)];
        }
        rest.iter_mut().zip(inputs).for_each(|(place, value)| *place = self.step(value));
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
    #[inline(always)]
    fn update(&mut self, ticks: i64) -> Option<f64> {
        let n = self.window.period() as i128;
        // Each weight falls by one: the sum of what was there goes off, the oldest with weight one with it.
        self.weighted += i128::from(ticks) * n - i128::from(self.window.sum());
        self.window.push(ticks);
        self.window.full().map(|_| self.weighted as f64 / (n * (n + 1) / 2) as f64)
    }
}

/// `value · keep + input`, from the value of two bars ago: `before · keep² + (input of the last bar · keep + input)`.
/// `tail` is what both of these will have become by the next bar, so that a bar only adds.
#[inline(always)]
pub(super) fn decay(keep: f64, value: &mut f64, tail: &mut [f64; 2], input: f64) {
    let next = tail[0] + (tail[1] + input);
    *tail = [keep * keep * *value, keep * input];
    *value = next;
}

/// The tail of a value that has no bars behind it: as if it had stood there before.
pub(super) fn tail_of(keep: f64, value: f64) -> [f64; 2] {
    [keep * keep * value, keep * (value * (1.0 - keep))]
}

/// A share of each value and the rest of what was, seeded with the mean of the first n values.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Average {
    period: u32,
    /// Values before the first one that counts (MACD's fast average starts late).
    #[serde(default, skip_serializing_if = "is_zero")]
    skip: u32,
    /// Values of the seed so far; `period` once the average exists.
    seeded: u32,
    /// The seed's sum, then the average.
    value: f64,
    /// See [`decay`].
    #[serde(default)]
    tail: [f64; 2],
    /// Whether the average exists and has a tail, which it has not in states of builds that took one bar at a time.
    #[serde(default)]
    warm: bool,
}

fn is_zero(n: &u32) -> bool {
    *n == 0
}

impl Average {
    fn new(period: u32, skip: u32) -> Self {
        Self { period: period.max(1), skip, seeded: 0, value: 0.0, tail: [0.0; 2], warm: false }
    }

    /// The next average, of one that is warm.
    #[inline(always)]
    fn step(&mut self, share: f64, value: f64) -> f64 {
        decay(1.0 - share, &mut self.value, &mut self.tail, value * share);
        self.value
    }

    #[inline(always)]
    fn update(&mut self, share: f64, value: f64) -> Option<f64> {
        if self.warm { Some(self.step(share, value)) } else { self.warm_up(share, value) }
    }

    #[cold]
    fn warm_up(&mut self, share: f64, value: f64) -> Option<f64> {
        if self.seeded == self.period {
            (self.tail, self.warm) = (tail_of(1.0 - share, self.value), true);
            return Some(self.step(share, value));
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
        (self.tail, self.warm) = (tail_of(1.0 - share, self.value), true);
        Some(self.value)
    }
}

/// An average while it takes two bars at once, each by itself what [`decay`] makes of it: the older bar is the first half.
pub(super) struct Two {
    share: f64x2,
    keep: f64x2,
    /// What both averages will have become two bars on.
    old: f64x2,
    /// What both inputs will have become a bar on.
    kept: f64x2,
    last: f64x2,
}

impl Two {
    #[inline(always)]
    fn new(share: f64, average: &Average) -> Self {
        let keep = 1.0 - share;
        let Average { value, tail, .. } = *average;
        let old = f64x2::new([tail[0], keep * keep * value]);
        Self { share: share.into(), keep: keep.into(), old, kept: tail[1].into(), last: value.into() }
    }

    #[inline(always)]
    pub(super) fn step(&mut self, values: f64x2) -> f64x2 {
        let inputs = values * self.share;
        let kept = self.keep * inputs;
        let came = f64x2::new([self.kept.to_array()[1], kept.to_array()[0]]);
        self.last = self.old + (came + inputs);
        self.old = self.keep * self.keep * self.last;
        self.kept = kept;
        self.last
    }

    #[inline(always)]
    fn end(&self, average: &mut Average) {
        average.value = self.last.to_array()[1];
        average.tail = [self.old.to_array()[0], self.kept.to_array()[1]];
    }
}

/// Exponential moving average, a = 2 / (n + 1), seeded with the mean of the first n values.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ema(Average);

impl Ema {
    /// An average of `period` ≥ 1 values.
    pub fn new(period: u32) -> Self {
        Self(Average::new(period, 0))
    }

    fn share(&self) -> f64 {
        2.0 / (f64::from(self.0.period) + 1.0)
    }
}

impl Indicator for Ema {
    type Input = f64;
    type Output = f64;
    #[inline(always)]
    fn update(&mut self, value: f64) -> Option<f64> {
        self.0.update(self.share(), value)
    }

    #[inline(always)]
    fn step(&mut self, value: f64) -> f64 {
        self.0.step(self.share(), value)
    }
}

/// Wilder's average: seeded with the mean of the first n values, then an nth of each value and the rest of what was.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Wilder(Average);

impl Wilder {
    pub(super) fn new(period: u32) -> Self {
        Self(Average::new(period, 0))
    }

    fn share(&self) -> f64 {
        1.0 / f64::from(self.0.period)
    }

    pub(super) fn is_warm(&self) -> bool {
        self.0.warm
    }

    #[inline(always)]
    pub(super) fn update(&mut self, value: f64) -> Option<f64> {
        self.0.update(self.share(), value)
    }

    /// The next average, of one that is warm.
    #[inline(always)]
    pub(super) fn step(&mut self, value: f64) -> f64 {
        self.0.step(self.share(), value)
    }

    /// Two bars at once from here on, until [`Wilder::end`].
    #[inline(always)]
    pub(super) fn two(&self) -> Two {
        Two::new(self.share(), &self.0)
    }

    #[inline(always)]
    pub(super) fn end(&mut self, two: &Two) {
        two.end(&mut self.0);
    }

    /// The last average.
    #[inline(always)]
    pub(super) fn last(&self) -> f64 {
        self.0.value
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
    /// The first value, which both averages leave out: their difference stays, and is nothing where nothing moves.
    #[serde(default)]
    origin: f64,
}

impl Macd {
    /// The usual periods are 12, 26 and 9.
    pub fn new(fast: u32, slow: u32, signal: u32) -> Self {
        let late = Ema(Average::new(fast, slow.saturating_sub(fast)));
        Self { fast: late, slow: Ema::new(slow), signal: Ema::new(signal), origin: 0.0 }
    }
}

impl Indicator for Macd {
    type Input = f64;
    type Output = MacdValue;
    #[inline(always)]
    fn update(&mut self, value: f64) -> Option<MacdValue> {
        if self.signal.0.warm {
            return Some(self.step(value));
        }
        if self.slow.0.seeded == 0 {
            self.origin = value;
        }
        let (fast, slow) = (self.fast.update(value - self.origin), self.slow.update(value - self.origin));
        let macd = fast? - slow?;
        let signal = self.signal.update(macd)?;
        Some(MacdValue { macd, signal, histogram: macd - signal })
    }

    #[inline(always)]
    fn step(&mut self, value: f64) -> MacdValue {
        let moved = value - self.origin;
        let macd = self.fast.step(moved) - self.slow.step(moved);
        let signal = self.signal.step(macd);
        MacdValue { macd, signal, histogram: macd - signal }
    }

    #[inline(always)]
    fn steps(&mut self, mut inputs: impl Iterator<Item = f64>, values: &mut [MacdValue]) {
        let [mut fast, mut slow, mut signal] =
            [&self.fast, &self.slow, &self.signal].map(|average| Two::new(average.share(), &average.0));
        let origin = f64x2::from(self.origin);
        let mut pair = |pair: [f64; 2]| {
            let moved = f64x2::new(pair) - origin;
            let macd = fast.step(moved) - slow.step(moved);
            let line = signal.step(macd);
            let ([a, b], [c, d], [e, f]) = (macd.to_array(), line.to_array(), (macd - line).to_array());
            [MacdValue { macd: a, signal: c, histogram: e }, MacdValue { macd: b, signal: d, histogram: f }]
        };
        // Four pairs a turn, their inputs first: what the averages stand at then stays in registers between pairs. There are
        // as many inputs as places.
        let (many, places) = values.as_chunks_mut::<8>();
        for places in many {
            let taken: [f64; 8] = from_fn(|_| inputs.next().unwrap_or_default());
            let (places, taken) = (places.as_chunks_mut().0, taken.as_chunks().0);
            places.iter_mut().zip(taken).for_each(|(place, input)| *place = pair(*input));
        }
        let (places, rest) = places.as_chunks_mut();
        pairs(&mut inputs, places, pair);
        fast.end(&mut self.fast.0);
        slow.end(&mut self.slow.0);
        signal.end(&mut self.signal.0);
        rest.iter_mut().zip(inputs).for_each(|(place, value)| *place = self.step(value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Before averages were taken two bars at a time a state was the average alone.
    #[test]
    fn two_bars_at_a_time_is_one_by_one_and_older_states_go_on() {
        let value = |bar: u32| f64::from(bar * 7_919 % 1_000) + 20_000.0;
        let mut ema = Ema::new(12);
        let mut one_by_one = (0..12).map(value).sum::<f64>() / 12.0;
        for bar in 0..500 {
            let ours = ema.update(value(bar));
            if bar >= 12 {
                one_by_one += (value(bar) - one_by_one) * 2.0 / 13.0;
            }
            if bar >= 11 {
                assert!((ours.unwrap() / one_by_one - 1.0).abs() < 1e-14, "bar {bar}");
            }
            if bar == 100 {
                let old = format!(r#"{{"period":12,"skip":0,"seeded":12,"value":{one_by_one}}}"#);
                ema = serde_json::from_str(&old).unwrap();
            }
        }
    }

    #[test]
    fn macd_of_what_does_not_move_is_nothing() {
        for price in [1.0, 7.0, 10_000.0, 33_333.0, 999_999_999_999_999.0] {
            let mut macd = Macd::new(12, 26, 9);
            let last = (0..200).fold(None, |_, _| macd.update(price));
            assert_eq!(last, Some(MacdValue::default()), "{price}");
        }
    }
}
