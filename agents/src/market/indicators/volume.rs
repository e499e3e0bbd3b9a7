//! Indicators of momentum and volume over exact integers: CCI, MFI, ROC, MOM, OBV.

use std::ops::{Add, Sub};

use serde::{Deserialize, Serialize};

use super::super::candle::{Candle, LOTS_MAX, TICKS_MAX};
use super::super::money::float;
use super::window::{Ring, Rolling, float_of};
use super::{Indicator, LENGTH_MAX, StateError};

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
    #[inline(always)]
    fn update(&mut self, candle: Candle) -> Option<f64> {
        let typical = typical(&candle);
        self.0.push(typical);
        let n = self.0.period() as f64;
        let mean = self.0.full()? as f64 / n;
        let deviation: f64 = self.0.values().map(|value| (value as f64 - mean).abs()).sum();
        Some(if deviation > 0.0 { (typical as f64 - mean) / (0.015 * deviation / n) } else { 0.0 })
    }
}

/// Money flow index, 0 to 100; first at bar n, 0 without any flow. A flow is three times the typical price × volume,
/// negative if the price fell; sums of flows are exact.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "MfiJson", into = "MfiJson")]
pub struct Mfi {
    last: Option<i64>,
    /// Up to [`FLOW_MAX`] each, so that 8,192 of them need 118 bits.
    flows: Flows<i128>,
    /// Flows taken, until there are as many as are kept.
    taken: usize,
}

/// The last flows and their sums.
#[derive(Debug, Clone, PartialEq)]
struct Flows<N> {
    kept: Vec<N>,
    /// Of the next flow; what is there is the oldest.
    place: usize,
    net: N,
    up: N,
}

impl<N: Copy + Default + Ord + Add<Output = N> + Sub<Output = N>> Flows<N> {
    /// Takes a flow for the oldest; answers the sum of what flowed up, and of all that flowed.
    #[inline(always)]
    fn take(&mut self, flow: N) -> (N, N) {
        let old = std::mem::replace(&mut self.kept[self.place], flow);
        self.place = if self.place + 1 >= self.kept.len() { 0 } else { self.place + 1 };
        self.net = self.net + flow - old;
        self.up = self.up + flow.max(N::default()) - old.max(N::default());
        (self.up, self.up + self.up - self.net)
    }
}

impl Flows<i128> {
    /// The same in 64 bits, if no flow is greater than `most`.
    fn narrow(&self, most: u64) -> Option<Flows<i64>> {
        let narrow = |flow: &i128| i64::try_from(*flow).ok().filter(|flow| flow.unsigned_abs() <= most);
        let kept = self.kept.iter().map(narrow).collect::<Option<Vec<i64>>>()?;
        Some(Flows { kept, place: self.place, net: self.net as i64, up: self.up as i64 })
    }
}

impl From<Flows<i64>> for Flows<i128> {
    fn from(Flows { kept, place, net, up }: Flows<i64>) -> Self {
        Self { kept: kept.into_iter().map(i128::from).collect(), place, net: net.into(), up: up.into() }
    }
}

/// The greatest volume at the greatest price.
const FLOW_MAX: u128 = 3 * TICKS_MAX as u128 * LOTS_MAX as u128;

/// Flows in halves, since JSON has no number of 128 bits; the sums follow.
#[derive(Serialize, Deserialize)]
struct MfiJson {
    last: Option<i64>,
    flows: Vec<(i64, u64)>,
    place: usize,
    taken: usize,
}

impl Mfi {
    /// The usual period is 14.
    pub fn new(period: usize) -> Self {
        let kept = vec![0; period.clamp(1, LENGTH_MAX)];
        Self { last: None, flows: Flows { kept, place: 0, net: 0, up: 0 }, taken: 0 }
    }

    /// Takes candles while 64 bits hold what is summed, as they nearly always do; answers the first that does not fit.
    #[inline(always)]
    fn narrow_steps<'v>(
        &mut self,
        inputs: &mut impl Iterator<Item = Candle>,
        places: &mut impl Iterator<Item = &'v mut f64>,
    ) -> Option<(&'v mut f64, Candle)> {
        let most = i64::MAX as u64 / 4 / self.flows.kept.len() as u64;
        let (mut flows, mut last) = (self.flows.narrow(most)?, self.last?);
        let mut odd = None;
        for (place, candle) in places.zip(inputs) {
            let typical = typical(&candle);
            match typical.checked_mul(candle.volume * (typical - last).signum()) {
                Some(flow) if flow.unsigned_abs() <= most => {
                    last = typical;
                    let (up, total) = flows.take(flow);
                    *place = if total == 0 { 0.0 } else { 100.0 * float_of(up as u64) / float_of(total as u64) };
                }
                _ => {
                    odd = Some((place, candle));
                    break;
                }
            }
        }
        (self.last, self.flows) = (Some(last), flows.into());
        odd
    }
}

impl Indicator for Mfi {
    type Input = Candle;
    type Output = f64;
    #[inline(always)]
    fn update(&mut self, candle: Candle) -> Option<f64> {
        if self.last.is_none() {
            self.last = Some(typical(&candle));
            return None;
        }
        self.taken = self.flows.kept.len().min(self.taken + 1);
        let value = self.step(candle);
        (self.taken == self.flows.kept.len()).then_some(value)
    }

    #[inline(always)]
    fn step(&mut self, candle: Candle) -> f64 {
        let typical = typical(&candle);
        let last = self.last.replace(typical).unwrap_or(typical);
        let (up, total) = self.flows.take(i128::from(typical) * i128::from(candle.volume * (typical - last).signum()));
        // The part is not more than the whole, so the whole decides whether 64 bits hold both, as they nearly always do.
        match ((total >> 64) as u64, total as u64) {
            (0, 0) => 0.0,
            (0, total) => 100.0 * float_of(up as u64) / float_of(total),
            _ => percent(up, total),
        }
    }

    #[inline(always)]
    fn steps(&mut self, mut inputs: impl Iterator<Item = Candle>, values: &mut [f64]) {
        let mut places = values.iter_mut();
        if let Some((place, candle)) = self.narrow_steps(&mut inputs, &mut places) {
            *place = self.step(candle);
        }
        places.zip(inputs).for_each(|(place, candle)| *place = self.step(candle));
    }
}

#[cold]
fn percent(part: i128, whole: i128) -> f64 {
    100.0 * float(part) / float(whole)
}

impl From<Mfi> for MfiJson {
    fn from(Mfi { last, flows: Flows { kept, place, .. }, taken }: Mfi) -> Self {
        Self { last, flows: kept.iter().map(|flow| ((flow >> 64) as i64, *flow as u64)).collect(), place, taken }
    }
}

impl TryFrom<MfiJson> for Mfi {
    type Error = StateError;
    fn try_from(MfiJson { last, flows, place, taken }: MfiJson) -> Result<Self, StateError> {
        let flows: Vec<i128> = flows.iter().map(|(high, low)| i128::from(*high) << 64 | i128::from(*low)).collect();
        let is_long = flows.is_empty() || flows.len() > LENGTH_MAX || place >= flows.len() || taken > flows.len();
        if is_long || flows.iter().any(|flow| flow.unsigned_abs() > FLOW_MAX) {
            return Err(StateError { what: "a window's length or flow" });
        }
        let (net, up) = (flows.iter().sum(), flows.iter().map(|flow| (*flow).max(0)).sum());
        Ok(Self { last, flows: Flows { kept: flows, place, net, up }, taken })
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
    #[inline(always)]
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
    #[inline(always)]
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
    #[inline(always)]
    fn update(&mut self, candle: Candle) -> Option<i64> {
        let sign = self.last_close.replace(candle.close).map_or(1, |last| (candle.close - last).signum());
        self.sum = self.sum.saturating_add(candle.volume * sign);
        Some(self.sum)
    }
}
