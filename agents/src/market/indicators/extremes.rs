//! The greatest and the least of a window, and what is made of them: stochastic, Williams %R, Aroon.

use serde::{Deserialize, Serialize};

use super::super::candle::{Candle, TICKS_MAX};
use super::window::{Ring, float_of};
use super::{Indicator, LENGTH_MAX, StateError};

/// Bits of a place within a window: 10^15 ticks and a place fit an `i64`.
const PLACE_BITS: u32 = LENGTH_MAX.ilog2();
const PLACES: i64 = LENGTH_MAX as i64 - 1;

/// Highest high and lowest low of the last candles, for as much work at every candle, whatever the market does: no branch
/// to foretell, no window to look through. Candles are taken in blocks of the window's length; the window is then the end
/// of the block before, of which the maxima up to its end are known, and the beginning of this one, of which the maximum
/// is carried along (van Herk, Gil and Werman).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "ChannelJson", into = "ChannelJson")]
struct Channel {
    length: usize,
    count: u64,
    /// Where in its block the next candle comes to.
    place: usize,
    /// High, and the low negated, each with its place as one number: of equal values the newest is the greatest. Up to
    /// `place` they are this block's, from there on the maxima of the block before. One more is less than all.
    keys: Vec<[i64; 2]>,
    /// The greatest of this block.
    block: [i64; 2],
    /// The greatest of the window.
    best: [i64; 2],
}

/// The values, oldest first. Those of the block before may as well be its maxima.
#[derive(Serialize, Deserialize)]
struct ChannelJson {
    high: LaneJson,
    low: LaneJson,
}

#[derive(Serialize, Deserialize)]
struct LaneJson {
    ring: Ring,
}

const NONE: [i64; 2] = [i64::MIN; 2];

#[inline(always)]
fn greater(a: [i64; 2], b: [i64; 2]) -> [i64; 2] {
    [a[0].max(b[0]), a[1].max(b[1])]
}

impl Channel {
    fn new(length: usize) -> Self {
        let length = length.clamp(1, LENGTH_MAX);
        Self { length, count: 0, place: 0, keys: vec![NONE; length + 1], block: NONE, best: NONE }
    }

    /// Highest high and lowest low, this candle included.
    #[inline(always)]
    fn update(&mut self, candle: &Candle) -> Option<(i64, i64)> {
        let extremes = self.step(candle);
        (self.count >= self.length as u64).then_some(extremes)
    }

    /// Those of the candles that there are.
    #[inline(always)]
    fn step(&mut self, candle: &Candle) -> (i64, i64) {
        let key = [candle.high, -candle.low].map(|value| value << PLACE_BITS | self.place as i64);
        self.keys[self.place] = key;
        self.place += 1;
        self.count += 1;
        self.block = greater(self.block, key);
        // Of equal values this block's is the newer one.
        let (block, before) = (self.block, self.keys[self.place]);
        self.best = [0, 1].map(|lane| if block[lane] | PLACES >= before[lane] { block[lane] } else { before[lane] });
        if self.place == self.length {
            let mut greatest = NONE;
            for key in self.keys.iter_mut().rev() {
                greatest = greater(greatest, *key);
                *key = greatest;
            }
            (self.place, self.block) = (0, NONE);
        }
        let [high, low] = self.best.map(|key| key >> PLACE_BITS);
        (high, -low)
    }

    /// How many bars ago the extremes were; of equal ones the newest counts.
    fn ages(&self) -> [usize; 2] {
        // The newest candle stands one before `place`.
        self.best.map(|key| (self.place + 2 * self.length - 1 - (key & PLACES) as usize) % self.length)
    }
}

impl From<Channel> for ChannelJson {
    fn from(Channel { length, count, place, keys, .. }: Channel) -> Self {
        let before = if count >= length as u64 { &keys[place..length] } else { &[] };
        let lane = |lane: usize| {
            let values = before.iter().chain(&keys[..place]).map(|key| key[lane] >> PLACE_BITS);
            LaneJson { ring: Ring::restore(length, count, values) }
        };
        Self { high: lane(0), low: lane(1) }
    }
}

impl TryFrom<ChannelJson> for Channel {
    type Error = StateError;
    fn try_from(ChannelJson { high, low }: ChannelJson) -> Result<Self, StateError> {
        let (high, low) = (high.ring, low.ring);
        if (high.length(), high.count()) != (low.length(), low.count()) {
            return Err(StateError { what: "a window's length" });
        }
        let mut channel = Self::new(high.length());
        let kept = high.count().min(high.length() as u64);
        channel.count = high.count() - kept;
        channel.place = (channel.count % high.length() as u64) as usize;
        for age in (0..kept as usize).rev() {
            let (high, low) = (high.back(age), low.back(age));
            if high.unsigned_abs().max(low.unsigned_abs()) > TICKS_MAX as u64 {
                return Err(StateError { what: "a window's value" });
            }
            channel.update(&Candle { high, low: -low, ..Candle::default() });
        }
        Ok(channel)
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
    #[inline(always)]
    fn update(&mut self, candle: Candle) -> Option<DonchianValue> {
        let (upper, lower) = self.0.update(&candle)?;
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
    #[inline(always)]
    fn update(&mut self, candle: Candle) -> Option<f64> {
        let (high, low) = self.0.update(&candle)?;
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
    #[inline(always)]
    fn update(&mut self, candle: Candle) -> Option<AroonValue> {
        self.channel.update(&candle)?;
        let n = f64::from(self.period);
        let [up, down] = self.channel.ages().map(|age| 100.0 * (n - age as f64) / n);
        Some(AroonValue { down, up })
    }
}

/// The mean of the last few numbers, summed anew each time: for windows so short that it costs nothing, so that
/// nothing drifts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "ShortMeanJson")]
struct ShortMean {
    last: Vec<f64>,
    /// Of the next number; what is there is the oldest.
    place: usize,
    /// Numbers taken, until there are as many as are kept.
    taken: usize,
}

#[derive(Deserialize)]
struct ShortMeanJson {
    last: Vec<f64>,
    place: usize,
    taken: usize,
}

impl TryFrom<ShortMeanJson> for ShortMean {
    type Error = StateError;
    fn try_from(ShortMeanJson { last, place, taken }: ShortMeanJson) -> Result<Self, StateError> {
        let is_possible = place < last.len() && taken <= last.len() && last.len() <= LENGTH_MAX;
        is_possible.then_some(Self { last, place, taken }).ok_or(StateError { what: "a mean's length" })
    }
}

impl ShortMean {
    fn new(period: usize) -> Self {
        Self { last: vec![0.0; period.clamp(1, LENGTH_MAX)], place: 0, taken: 0 }
    }

    #[inline(always)]
    fn update(&mut self, value: f64) -> Option<f64> {
        self.taken = self.last.len().min(self.taken + 1);
        let mean = self.step(value);
        (self.taken == self.last.len()).then_some(mean)
    }

    #[inline(always)]
    fn step(&mut self, value: f64) -> f64 {
        let n = self.last.len();
        self.last[self.place] = value;
        self.place = if self.place + 1 >= n { 0 } else { self.place + 1 };
        self.last.iter().sum::<f64>() * (1.0 / n as f64)
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
    #[inline(always)]
    fn update(&mut self, candle: Candle) -> Option<StochasticValue> {
        let (high, low) = self.channel.update(&candle)?;
        let k = self.k.update(within(&candle, high, low))?;
        let d = self.d.update(k)?;
        Some(StochasticValue { k, d })
    }

    #[inline(always)]
    fn step(&mut self, candle: Candle) -> StochasticValue {
        let (high, low) = self.channel.step(&candle);
        let k = self.k.step(within(&candle, high, low));
        StochasticValue { k, d: self.d.step(k) }
    }
}

/// Where the close lies between low and high, in percent.
#[inline(always)]
fn within(candle: &Candle, high: i64, low: i64) -> f64 {
    if high > low { 100.0 * float_of((candle.close - low) as u64) / float_of((high - low) as u64) } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn candle(high: i64, low: i64) -> Candle {
        Candle { high, low, ..Candle::default() }
    }

    proptest! {
        #[test]
        fn extremes_and_their_ages_are_those_of_the_window_after_restarts_too(
            values in proptest::collection::vec((-9_i64..9, -TICKS_MAX..=TICKS_MAX), 1..80),
            length in 1_usize..12,
            is_wide: bool,
            restart: prop::sample::Index,
        ) {
            let values: Vec<i64> = values.iter().map(|(near, far)| if is_wide { *far } else { *near }).collect();
            let (mut channel, mut restarted) = (Channel::new(length), Channel::new(length));
            let restart = restart.index(values.len());
            for i in 0..values.len() {
                let expected = (i + 1).checked_sub(length).map(|from| {
                    let window = &values[from..=i];
                    let age = |extreme: i64| window.iter().rev().position(|value| *value == extreme).unwrap();
                    let (upper, lower) = (*window.iter().max().unwrap(), *window.iter().min().unwrap());
                    ((upper, lower), [age(upper), age(lower)])
                });
                if i >= restart {
                    let json = serde_json::to_string(&restarted).unwrap();
                    restarted = serde_json::from_str(&json).unwrap();
                }
                for channel in [&mut channel, &mut restarted] {
                    let extremes = channel.update(&candle(values[i], values[i]));
                    prop_assert_eq!(extremes.map(|extremes| (extremes, channel.ages())), expected);
                }
                prop_assert_eq!(&channel, &restarted);
            }
        }
    }

    #[test]
    fn a_state_that_cannot_be_is_refused() {
        let ring = |value: i64| format!(r#"{{"ring":{{"length":2,"count":2,"deltas":[{value},0]}}}}"#);
        let channel = |high, low: String| serde_json::from_str::<Channel>(&format!(r#"{{"high":{high},"low":{low}}}"#));
        assert!(channel(ring(1), ring(1)).is_ok());
        assert!(channel(ring(TICKS_MAX + 1), ring(1)).is_err());
        assert!(channel(ring(1), r#"{"ring":{"length":2,"count":1,"deltas":[1]}}"#.into()).is_err());
        for bad in [r#"{"last":[],"place":0,"taken":0}"#, r#"{"last":[1.0],"place":1,"taken":0}"#] {
            assert!(serde_json::from_str::<ShortMean>(bad).is_err(), "{bad}");
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
