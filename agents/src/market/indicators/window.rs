//! The last values of a series and exact sums over them.

use serde::{Deserialize, Serialize};

use super::super::candle::Candle;
use super::StateError;

/// The longest window: a sum of this many prices of [`TICKS_MAX`](super::super::candle::TICKS_MAX) fits an `i64`.
pub const LENGTH_MAX: usize = 8_192;

/// A number as a float. Of an unsigned number that is arithmetic; the instruction for a signed one
/// waits for what its register held, which may be what the bar before made: two bars are then not worked on at once.
#[inline(always)]
pub(super) fn float_of(number: u64) -> f64 {
    number as f64
}

/// A ring of the last values. Serialises as differences, oldest first: two or three digits instead of six a value.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(try_from = "RingJson", into = "RingJson")]
pub(crate) struct Ring {
    /// A power of two, so that an index is a mask and never a bounds failure.
    values: Vec<i64>,
    /// How many values are kept for readers and written to the state.
    length: usize,
    /// Values pushed so far.
    count: u64,
}

#[derive(Serialize, Deserialize)]
struct RingJson {
    length: usize,
    count: u64,
    deltas: Vec<i64>,
}

impl Ring {
    pub(crate) fn new(length: usize) -> Self {
        let length = length.clamp(1, LENGTH_MAX);
        Self { values: vec![0; length.next_power_of_two()], length, count: 0 }
    }

    /// The ring of `count` values so far that keeps these, oldest first.
    pub(crate) fn restore(length: usize, count: u64, values: impl Iterator<Item = i64>) -> Self {
        let mut ring = Self::new(length);
        ring.count = count - count.min(ring.length as u64);
        values.for_each(|value| ring.push(value));
        ring
    }

    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// How many values it keeps.
    pub(crate) fn length(&self) -> usize {
        self.length
    }

    /// Whether it has as many as it keeps.
    #[inline(always)]
    pub(crate) fn is_full(&self) -> bool {
        self.count >= self.length as u64
    }

    /// The value pushed `age` pushes before the newest; 0 where there is none yet.
    #[inline(always)]
    pub(crate) fn back(&self, age: usize) -> i64 {
        self.values[(self.count.wrapping_sub(1 + age as u64) as usize) & (self.values.len() - 1)]
    }

    #[inline(always)]
    pub(crate) fn push(&mut self, value: i64) {
        let mask = self.values.len() - 1;
        self.values[self.count as usize & mask] = value;
        self.count += 1;
    }
}

/// By what readers can see: slots of the power of two beyond the length do not count.
impl PartialEq for Ring {
    fn eq(&self, other: &Self) -> bool {
        (self.length, self.count) == (other.length, other.count)
            && (0..self.length).all(|age| self.back(age) == other.back(age))
    }
}

impl Eq for Ring {}

impl From<Ring> for RingJson {
    fn from(ring: Ring) -> Self {
        let kept = ring.length.min(ring.count as usize);
        let mut last = 0;
        let deltas = (0..kept).rev().map(|age| ring.back(age) - std::mem::replace(&mut last, ring.back(age))).collect();
        Self { length: ring.length, count: ring.count, deltas }
    }
}

impl TryFrom<RingJson> for Ring {
    type Error = StateError;
    fn try_from(json: RingJson) -> Result<Self, StateError> {
        let kept = json.length.min(usize::try_from(json.count).unwrap_or(usize::MAX));
        if json.length == 0 || json.length > LENGTH_MAX || json.deltas.len() != kept {
            return Err(StateError { what: "a window's length" });
        }
        let mut ring = Self::new(json.length);
        ring.count = json.count - kept as u64;
        let mut value = 0_i64;
        for delta in json.deltas {
            value = value.checked_add(delta).ok_or(StateError { what: "a window's value" })?;
            ring.push(value);
        }
        Ok(ring)
    }
}

/// The exact sum of the last few values. Serialises as its length and values; the sum follows from them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "RollingJson", into = "RollingJson")]
pub(crate) struct Rolling {
    period: usize,
    ring: Ring,
    sum: i64,
}

#[derive(Serialize, Deserialize)]
struct RollingJson {
    period: usize,
    ring: Ring,
}

impl Rolling {
    /// Over `period` values, clamped to 1 ..= [`LENGTH_MAX`].
    pub(crate) fn new(period: usize) -> Self {
        let period = period.clamp(1, LENGTH_MAX);
        Self { period, ring: Ring::new(period), sum: 0 }
    }

    /// Takes the next value; answers the one that leaves, 0 while none does.
    #[inline(always)]
    pub(crate) fn push(&mut self, value: i64) -> i64 {
        let old = self.ring.back(self.period - 1);
        self.ring.push(value);
        self.sum += value - old;
        old
    }

    /// Takes the closes of many candles at once: those that the others would push out are only counted.
    pub(crate) fn push_all(&mut self, candles: &[Candle]) {
        let (passing, kept) = candles.split_at(candles.len().saturating_sub(self.period));
        self.ring.count += passing.len() as u64;
        kept.iter().for_each(|candle| self.ring.push(candle.close));
        self.sum = self.values().sum();
    }

    /// The sum of what there is, whether it is all or not.
    #[inline(always)]
    pub(crate) fn sum(&self) -> i64 {
        self.sum
    }

    /// The sum, once there are enough values.
    #[inline(always)]
    pub(crate) fn full(&self) -> Option<i64> {
        self.ring.is_full().then_some(self.sum)
    }

    pub(crate) fn period(&self) -> usize {
        self.period
    }

    /// The values that there are, newest first.
    pub(crate) fn values(&self) -> impl Iterator<Item = i64> {
        let kept = self.period.min(usize::try_from(self.ring.count()).unwrap_or(usize::MAX));
        (0..kept).map(|age| self.ring.back(age))
    }
}

impl From<Rolling> for RollingJson {
    fn from(rolling: Rolling) -> Self {
        Self { period: rolling.period, ring: rolling.ring }
    }
}

impl TryFrom<RollingJson> for Rolling {
    type Error = StateError;
    fn try_from(RollingJson { period, ring }: RollingJson) -> Result<Self, StateError> {
        let error = StateError { what: "a window's length or sum" };
        if ring.length != period {
            return Err(error);
        }
        let mut rolling = Self { period, ring, sum: 0 };
        let sum = rolling.values().try_fold(0_i64, i64::checked_add);
        rolling.sum = sum.ok_or(error)?;
        Ok(rolling)
    }
}

/// Moving sums of several lengths over one ring of integers: exact, so they never drift, however long they run.
///
/// # Examples
/// ```
/// use atra_agents::market::indicators::Windows;
/// let mut windows = Windows::new(&[2, 3]);
/// for ticks in [1, 2, 3, 4] {
///     windows.push(ticks);
/// }
/// assert_eq!(windows.sum(0), Some(7));
/// assert_eq!(windows.sum(1), Some(9));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "WindowsJson", into = "WindowsJson")]
pub struct Windows {
    ring: Ring,
    /// Each window's length and the sum of the values in it.
    sums: Vec<(usize, i64)>,
}

#[derive(Serialize, Deserialize)]
struct WindowsJson {
    ring: Ring,
    lengths: Vec<usize>,
}

impl Windows {
    /// Windows of the given lengths, each clamped to 1 ..= [`LENGTH_MAX`].
    pub fn new(lengths: &[usize]) -> Self {
        let lengths = lengths.iter().map(|length| (*length).clamp(1, LENGTH_MAX));
        let longest = lengths.clone().max().unwrap_or(1);
        Self { ring: Ring::new(longest), sums: lengths.map(|length| (length, 0)).collect() }
    }

    /// Takes the next value into all sums.
    #[inline]
    pub fn push(&mut self, value: i64) {
        for (length, sum) in &mut self.sums {
            // Before the push, the value that leaves is the one of age `length - 1`. The ring begins with zeros.
            *sum += value - self.ring.back(*length - 1);
        }
        self.ring.push(value);
    }

    /// The sum over window `index`, once it is full.
    #[inline]
    pub fn sum(&self, index: usize) -> Option<i64> {
        let (length, sum) = *self.sums.get(index)?;
        (self.ring.count() >= length as u64).then_some(sum)
    }

    /// The mean over window `index`, once it is full.
    #[inline]
    pub fn mean(&self, index: usize) -> Option<f64> {
        Some(self.sum(index)? as f64 / self.sums[index].0 as f64)
    }

    /// Values pushed so far.
    pub fn count(&self) -> u64 {
        self.ring.count()
    }

    /// The windows' lengths, in the order given.
    pub fn lengths(&self) -> Vec<usize> {
        self.sums.iter().map(|(length, _)| *length).collect()
    }
}

impl From<Windows> for WindowsJson {
    fn from(windows: Windows) -> Self {
        Self { lengths: windows.sums.iter().map(|(length, _)| *length).collect(), ring: windows.ring }
    }
}

impl TryFrom<WindowsJson> for Windows {
    type Error = StateError;
    fn try_from(json: WindowsJson) -> Result<Self, StateError> {
        let sum = |length: usize| {
            let kept = length.min(json.ring.count() as usize);
            (0..kept).try_fold(0_i64, |sum, age| sum.checked_add(json.ring.back(age)))
        };
        let sums = json
            .lengths
            .iter()
            .map(|&length| match sum(length) {
                Some(sum) if (1..=json.ring.length).contains(&length) => Ok((length, sum)),
                _ => Err(StateError { what: "a window's length" }),
            })
            .collect::<Result<_, _>>()?;
        Ok(Self { ring: json.ring, sums })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn sums_are_exact_and_survive_a_restart_at_any_value(
            values in proptest::collection::vec(-1_000_000_000_000_i64..1_000_000_000_000, 1..60),
            lengths in proptest::collection::vec(1_usize..20, 1..4),
            restart: prop::sample::Index,
        ) {
            let mut windows = Windows::new(&lengths);
            let restart = restart.index(values.len());
            for (i, value) in values.iter().enumerate() {
                if i == restart {
                    let json = serde_json::to_string(&windows).unwrap();
                    windows = serde_json::from_str(&json).unwrap();
                    prop_assert_eq!(serde_json::to_string(&windows).unwrap(), json);
                }
                windows.push(*value);
                for (index, length) in lengths.iter().enumerate() {
                    let expected = (i + 1).checked_sub(*length).map(|from| values[from..=i].iter().sum());
                    prop_assert_eq!(windows.sum(index), expected);
                }
            }
        }
    }

    #[test]
    fn a_state_that_cannot_be_is_refused() {
        for bad in [
            r#"{"length":0,"count":0,"deltas":[]}"#,
            r#"{"length":9999999,"count":0,"deltas":[]}"#,
            r#"{"length":2,"count":2,"deltas":[1]}"#,
            r#"{"length":2,"count":2,"deltas":[9223372036854775807,1]}"#,
        ] {
            assert!(serde_json::from_str::<Ring>(bad).is_err(), "{bad}");
        }
    }
}
