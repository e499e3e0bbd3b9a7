//! True range, directional movement and what stops follow: DI, ADX, parabolic SAR.

use serde::{Deserialize, Serialize};

use super::super::candle::Candle;
use super::Indicator;
use super::averages::{Wilder, decay, tail_of};

/// True range in ticks; first at bar 1.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct TrueRange {
    pub(super) last_close: Option<i64>,
}

impl Indicator for TrueRange {
    type Input = Candle;
    type Output = i64;
    #[inline(always)]
    fn update(&mut self, candle: Candle) -> Option<i64> {
        let is_first = self.last_close.is_none();
        let range = self.step(candle);
        (!is_first).then_some(range)
    }

    #[inline(always)]
    fn step(&mut self, candle: Candle) -> i64 {
        let last = self.last_close.replace(candle.close).unwrap_or(candle.close);
        candle.high.max(last) - candle.low.min(last)
    }
}

/// The two directional indicators.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct DiValue {
    /// Movement upwards as a share of the true range, in percent.
    pub plus: f64,
    /// Movement downwards.
    pub minus: f64,
}

/// Wilder's sums of movement up, movement down and true range: n − 1 bars are added up, then each bar takes an nth off
/// and adds its own.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Movement {
    period: u32,
    /// High, low and close of the last candle.
    last: Option<[i64; 3]>,
    /// Bars taken, until the sums exist.
    warm: u32,
    plus: f64,
    minus: f64,
    range: f64,
    /// Of plus, minus and range, once the sums exist: see [`decay`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tails: Option<[[f64; 2]; 3]>,
}

impl Movement {
    fn new(period: u32) -> Self {
        Self { period: period.max(1), last: None, warm: 0, plus: 0.0, minus: 0.0, range: 0.0, tails: None }
    }

    /// What a candle moved up, down, and in all.
    #[inline(always)]
    fn of(&mut self, candle: &Candle) -> Option<[f64; 3]> {
        let [high, low, close] = self.last.replace([candle.high, candle.low, candle.close])?;
        let (up, down) = (candle.high - high, low - candle.low);
        // Products instead of branches: which of the two it is, no processor can foretell.
        let plus = (up.max(0) * i64::from(up > down)) as f64;
        let minus = (down.max(0) * i64::from(down > up)) as f64;
        Some([plus, minus, (candle.high.max(close) - candle.low.min(close)) as f64])
    }

    /// |+DI − −DI| / (+DI + −DI) in percent: the true range cancels out. `None` of no movement.
    #[inline(always)]
    fn dx(&self) -> Option<f64> {
        let both = self.plus + self.minus;
        (both > 0.0).then(|| 100.0 * (self.plus - self.minus).abs() / both)
    }

    /// Takes a candle once the sums exist.
    #[inline(always)]
    fn step(&mut self, candle: &Candle) {
        let bar = self.of(candle);
        let keep = 1.0 - 1.0 / f64::from(self.period);
        if let (Some([plus, minus, range]), Some([of_plus, of_minus, of_range])) = (bar, &mut self.tails) {
            decay(keep, &mut self.plus, of_plus, plus);
            decay(keep, &mut self.minus, of_minus, minus);
            decay(keep, &mut self.range, of_range, range);
        }
    }

    /// Takes a candle; whether the sums exist after it.
    #[inline(always)]
    fn update(&mut self, candle: &Candle) -> bool {
        if self.tails.is_none() && !self.warm_up(candle) {
            return false;
        }
        self.step(candle);
        true
    }

    /// Adds up the first n − 1 bars; after those the sums exist, and the candle is not taken.
    #[cold]
    fn warm_up(&mut self, candle: &Candle) -> bool {
        if self.warm + 1 >= self.period && self.last.is_some() {
            let keep = 1.0 - 1.0 / f64::from(self.period);
            self.tails = Some([self.plus, self.minus, self.range].map(|sum| tail_of(keep, sum)));
            return true;
        }
        if let Some([plus, minus, range]) = self.of(candle) {
            (self.plus, self.minus, self.range) = (self.plus + plus, self.minus + minus, self.range + range);
            self.warm += 1;
        }
        false
    }
}

/// Wilder's directional indicators +DI and −DI; first at bar n, 0 where nothing moved.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Di(Movement);

impl Di {
    /// The usual period is 14.
    pub fn new(period: u32) -> Self {
        Self(Movement::new(period))
    }
}

impl Indicator for Di {
    type Input = Candle;
    type Output = DiValue;
    #[inline(always)]
    fn update(&mut self, candle: Candle) -> Option<DiValue> {
        let Movement { plus, minus, range, .. } = *self.0.update(&candle).then_some(&self.0)?;
        let share = |sum: f64| if range > 0.0 { 100.0 * sum / range } else { 0.0 };
        Some(DiValue { plus: share(plus), minus: share(minus) })
    }
}

/// Wilder's average directional index, 0 to 100: Wilder's average of DX; first at bar 2n − 1.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Adx {
    movement: Movement,
    average: Wilder,
}

impl Adx {
    /// The usual period is 14.
    pub fn new(period: u32) -> Self {
        Self { movement: Movement::new(period), average: Wilder::new(period) }
    }
}
impl Indicator for Adx {
    type Input = Candle;
    type Output = f64;
    #[inline(always)]
    fn update(&mut self, candle: Candle) -> Option<f64> {
        if self.average.is_warm() {
            return Some(self.step(candle));
        }
        // While it is seeded, a bar without movement counts, and adds nothing.
        self.movement.update(&candle).then(|| self.average.update(self.movement.dx().unwrap_or(0.0)))?
    }

    #[inline(always)]
    fn step(&mut self, candle: Candle) -> f64 {
        self.movement.step(&candle);
        self.movement.dx().map_or(self.average.last(), |dx| self.average.step(dx))
    }
}

/// Where a parabolic stop stands.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Stop {
    is_long: bool,
    sar: f64,
    /// The furthest price since the last turn.
    extreme: f64,
    acceleration: f64,
}

/// Wilder's parabolic stop and reverse, in ticks; first at bar 1.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sar {
    step: f64,
    most: f64,
    last: Option<(i64, i64)>,
    stop: Option<Stop>,
}

impl Sar {
    /// The usual parameters are a step of 0.02 and at most 0.2.
    pub fn new(step: f64, most: f64) -> Self {
        Self { step: step.min(most), most, last: None, stop: None }
    }
}

impl Indicator for Sar {
    type Input = Candle;
    type Output = f64;
    #[inline(always)]
    fn update(&mut self, candle: Candle) -> Option<f64> {
        let (last_high, last_low) = self.last.replace((candle.high, candle.low))?;
        let (high, low) = (candle.high as f64, candle.low as f64);
        let is_first = self.stop.is_none();
        let step = self.step;
        let stop = self.stop.get_or_insert_with(|| {
            let (up, down) = (candle.high - last_high, last_low - candle.low);
            let is_long = down <= 0 || up >= down;
            let (sar, extreme) = if is_long { (last_low as f64, high) } else { (last_high as f64, low) };
            Stop { is_long, sar, extreme, acceleration: step }
        });
        // The first bar has itself as the one before, as TA-Lib does it.
        let (last_high, last_low) = if is_first { (high, low) } else { (last_high as f64, last_low as f64) };
        // Mirrored for a falling market, so that one set of rules does for both.
        let sign = if stop.is_long { 1.0 } else { -1.0 };
        let near = |a: f64, b: f64| if stop.is_long { a.min(b) } else { a.max(b) };
        let far = |a: f64, b: f64| if stop.is_long { a.max(b) } else { a.min(b) };
        let (behind, ahead) = if stop.is_long { (low, high) } else { (high, low) };
        let (last_behind, last_ahead) = if stop.is_long { (last_low, last_high) } else { (last_high, last_low) };
        if sign * (behind - stop.sar) <= 0.0 {
            let turned = far(far(stop.extreme, last_ahead), ahead);
            let next = far(far(turned + self.step * (behind - turned), last_ahead), ahead);
            *stop = Stop { is_long: !stop.is_long, sar: next, extreme: behind, acceleration: self.step };
            return Some(turned);
        }
        let now = stop.sar;
        let (mut extreme, mut acceleration) = (stop.extreme, stop.acceleration);
        if sign * (ahead - extreme) > 0.0 {
            (extreme, acceleration) = (ahead, (acceleration + self.step).min(self.most));
        }
        let sar = near(near(now + acceleration * (extreme - now), last_behind), behind);
        *stop = Stop { sar, extreme, acceleration, ..*stop };
        Some(now)
    }
}
