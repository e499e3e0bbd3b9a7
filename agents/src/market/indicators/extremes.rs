//! The greatest and the least of a window, and what is made of them: stochastic, Williams %R, Aroon.

use serde::{Deserialize, Serialize};

use super::super::candle::Candle;
use super::window::Ring;
use super::{Indicator, LENGTH_MAX};

/// A rolling maximum or minimum. When the one there is leaves the window, the window is looked through for the next: in a
/// market that happens seldom, and it is cheaper than a queue of all that may still become it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Extreme {
    /// 1 for a maximum, −1 for a minimum, which is the maximum of the negated values.
    sign: i64,
    /// The values times the sign.
    ring: Ring,
    best: i64,
    /// How many bars ago the best was; of equal ones the newest counts.
    age: usize,
}

impl Extreme {
    fn new(length: usize, sign: i64) -> Self {
        Self { sign, ring: Ring::new(length), best: i64::MIN, age: 0 }
    }

    #[inline]
    fn push(&mut self, value: i64) {
        let value = value * self.sign;
        self.ring.push(value);
        if value >= self.best {
            (self.best, self.age) = (value, 0);
            return;
        }
        self.age += 1;
        if self.age >= self.ring.length() {
            (self.best, self.age) = (value, 0);
            for age in 1..self.ring.length() {
                let value = self.ring.back(age);
                if value > self.best {
                    (self.best, self.age) = (value, age);
                }
            }
        }
    }

    /// The extreme and how many bars ago it was, once the window is full.
    #[inline]
    fn get(&self) -> Option<(i64, u64)> {
        self.ring.is_full().then_some((self.best * self.sign, self.age as u64))
    }
}

/// Highest high and lowest low of the last candles.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Channel {
    high: Extreme,
    low: Extreme,
}

impl Channel {
    fn new(period: usize) -> Self {
        Self { high: Extreme::new(period, 1), low: Extreme::new(period, -1) }
    }

    /// ((Highest high, bars ago), (lowest low, bars ago)), this candle included.
    #[inline]
    fn update(&mut self, candle: &Candle) -> Option<((i64, u64), (i64, u64))> {
        self.high.push(candle.high);
        self.low.push(candle.low);
        Some((self.high.get()?, self.low.get()?))
    }
}

/// The highest high and the lowest low of a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct DonchianValue {
    /// The highest high.
    pub upper: i64,
    /// The lowest low.
    pub lower: i64,
}

/// Donchian's channel, this candle included; first at bar n − 1.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Donchian(Channel);

impl Donchian {
    /// Over `period` candles; the usual one is 20.
    pub fn new(period: usize) -> Self {
        Self(Channel::new(period))
    }
}

impl Indicator for Donchian {
    type Input = Candle;
    type Output = DonchianValue;
    #[inline]
    fn update(&mut self, candle: Candle) -> Option<DonchianValue> {
        let ((upper, _), (lower, _)) = self.0.update(&candle)?;
        Some(DonchianValue { upper, lower })
    }
}

/// Williams %R, −100 to 0; 0 where nothing moved; first at bar n − 1.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WilliamsR(Channel);

impl WilliamsR {
    /// The usual period is 14.
    pub fn new(period: usize) -> Self {
        Self(Channel::new(period))
    }
}

impl Indicator for WilliamsR {
    type Input = Candle;
    type Output = f64;
    #[inline]
    fn update(&mut self, candle: Candle) -> Option<f64> {
        let ((high, _), (low, _)) = self.0.update(&candle)?;
        Some(if high > low { -100.0 * (high - candle.close) as f64 / (high - low) as f64 } else { 0.0 })
    }
}

/// Aroon's two lines.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct AroonValue {
    /// 100 at a new low, 0 at one that is n bars old.
    pub down: f64,
    /// The same of highs.
    pub up: f64,
}

/// Aroon: how long ago the highest high and the lowest low of n + 1 candles were; first at bar n.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Aroon {
    period: u32,
    channel: Channel,
}

impl Aroon {
    /// The usual period is 14.
    pub fn new(period: u32) -> Self {
        let period = period.clamp(1, LENGTH_MAX as u32 - 1);
        Self { period, channel: Channel::new(period as usize + 1) }
    }
}

impl Indicator for Aroon {
    type Input = Candle;
    type Output = AroonValue;
    #[inline]
    fn update(&mut self, candle: Candle) -> Option<AroonValue> {
        let ((_, high), (_, low)) = self.channel.update(&candle)?;
        let n = f64::from(self.period);
        let share = |ago: u64| 100.0 * (n - ago as f64) / n;
        Some(AroonValue { down: share(low), up: share(high) })
    }
}

/// The mean of the last few numbers, summed anew each time: for windows so short that it costs nothing, so that
/// nothing drifts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct ShortMean {
    period: usize,
    /// Of the next number; what is there is the oldest, if there is something.
    place: usize,
    last: Vec<f64>,
}

impl ShortMean {
    fn new(period: usize) -> Self {
        Self { period: period.clamp(1, LENGTH_MAX), place: 0, last: Vec::new() }
    }

    #[inline]
    fn update(&mut self, value: f64) -> Option<f64> {
        match self.last.get_mut(self.place) {
            Some(oldest) => *oldest = value,
            None => self.last.push(value),
        }
        self.place = if self.place + 1 >= self.period { 0 } else { self.place + 1 };
        (self.last.len() >= self.period).then(|| self.last.iter().sum::<f64>() / self.period as f64)
    }
}

/// The two lines of a stochastic.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct StochasticValue {
    /// Where the close lies between low and high, 0 to 100.
    pub k: f64,
    /// The mean of `k`.
    pub d: f64,
}

/// Stochastic: %K of n candles smoothed over `smooth`, %D its mean over `signal`; both lines from bar
/// n + smooth + signal − 3. A `smooth` of 1 is the fast stochastic. 0 where nothing moved.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Stochastic {
    channel: Channel,
    k: ShortMean,
    d: ShortMean,
}

impl Stochastic {
    /// The usual parameters are 14, 3 and 3.
    pub fn new(period: usize, smooth: usize, signal: usize) -> Self {
        Self { channel: Channel::new(period), k: ShortMean::new(smooth), d: ShortMean::new(signal) }
    }
}

impl Indicator for Stochastic {
    type Input = Candle;
    type Output = StochasticValue;
    #[inline]
    fn update(&mut self, candle: Candle) -> Option<StochasticValue> {
        let ((high, _), (low, _)) = self.channel.update(&candle)?;
        let raw = if high > low { 100.0 * (candle.close - low) as f64 / (high - low) as f64 } else { 0.0 };
        let k = self.k.update(raw)?;
        let d = self.d.update(k)?;
        Some(StochasticValue { k, d })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn extremes_are_those_of_the_window(
            values in proptest::collection::vec(-20_i64..20, 1..80),
            length in 1_usize..12,
        ) {
            let mut channel = Donchian::new(length);
            for i in 0..values.len() {
                let window = (i + 1).checked_sub(length).map(|from| &values[from..=i]);
                let candle = Candle { high: values[i], low: values[i], ..Candle::default() };
                let of_window = |w: &[i64]| Some(DonchianValue { upper: *w.iter().max()?, lower: *w.iter().min()? });
                prop_assert_eq!(channel.update(candle), window.and_then(of_window));
            }
        }
    }

    #[test]
    fn of_equal_extremes_the_newest_counts() {
        let mut aroon = Aroon::new(3);
        let candle = |high, low| Candle { time: 0, open: low, high, low, close: high, volume: 0 };
        let values = [candle(9, 1), candle(9, 1), candle(5, 2), candle(5, 2)].map(|c| aroon.update(c));
        let close = |a: f64, b: f64| (a - b).abs() < 1e-12;
        assert!(close(values[3].unwrap().up, 100.0 / 3.0) && close(values[3].unwrap().down, 100.0 / 3.0));
    }
}
