//! Which series may go on: each by what it has made of the account's money, fees included.
//!
//! A series' result is the cash that its fills moved and the value of what it holds. When that falls too far from its peak,
//! measured against the equity of the account, the series is stopped until a person resumes; the others go on.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::candle::SeriesKey;
use super::money::Money;

/// What is known of one series.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Followed {
    /// Cash that its fills brought, less what they took.
    flow: Money,
    peak: Money,
    /// `flow` and the value held at the last mark.
    result: Money,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    is_stopped: bool,
}

/// The results of all series. Empty while there is no limit.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct Stops {
    /// Cash of the account after the last fill.
    cash: Option<Money>,
    series: BTreeMap<SeriesKey, Followed>,
}

impl Stops {
    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Takes the equity of an account without any position: that is its cash.
    pub(super) fn flat(&mut self, equity: Money) {
        self.cash = Some(equity);
    }

    /// Takes the cash of the account after a fill of a series. Without the cash before it the series is followed anew.
    pub(super) fn fill(&mut self, series: &SeriesKey, cash: Money) {
        let moved = self.cash.replace(cash).and_then(|before| cash.minus(before).ok());
        let flow = |followed: &Followed| Some(Followed { flow: followed.flow.plus(moved?).ok()?, ..*followed });
        match self.series.get_mut(series) {
            Some(followed) => match flow(followed) {
                Some(next) => *followed = next,
                None => drop(self.series.remove(series)),
            },
            None => {
                if let Some(flow) = moved {
                    let new = Followed { flow, peak: Money::ZERO, result: Money::ZERO, is_stopped: false };
                    self.series.insert(series.clone(), new);
                }
            }
        }
    }

    /// Takes the value that a series holds at a close; answers whether it is stopped by that, if it was not before.
    pub(super) fn mark(&mut self, series: &SeriesKey, held: Money, equity: Money, limit_ppm: u32) -> bool {
        let Some(followed) = self.series.get_mut(series) else {
            // Not followed yet: what it holds now is its beginning.
            if let (true, Ok(flow)) = (held != Money::ZERO, Money::ZERO.minus(held)) {
                let new = Followed { flow, peak: Money::ZERO, result: Money::ZERO, is_stopped: false };
                self.series.insert(series.clone(), new);
            }
            return false;
        };
        let Ok(result) = followed.flow.plus(held) else { return false };
        followed.result = result;
        followed.peak = followed.peak.max(result);
        let fell = followed.peak.minus(result).is_ok_and(|fall| fall > Money::ZERO && fall >= equity.share(limit_ppm));
        fell && !std::mem::replace(&mut followed.is_stopped, fell)
    }

    pub(super) fn is_stopped(&self, series: &SeriesKey) -> bool {
        self.series.get(series).is_some_and(|followed| followed.is_stopped)
    }

    /// Every series that is stopped.
    pub(super) fn stopped(&self) -> impl Iterator<Item = &SeriesKey> {
        self.series.iter().filter(|(_, followed)| followed.is_stopped).map(|(series, _)| series)
    }

    /// A person lets all go on; each is followed anew from where it stands.
    pub(super) fn resume(&mut self) {
        for followed in self.series.values_mut() {
            (followed.is_stopped, followed.peak) = (false, followed.result);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_series_is_stopped_by_its_own_fall_and_resumes_from_where_it_stands() {
        let (a, b): (SeriesKey, SeriesKey) = ("A.15m".parse().unwrap(), "B.15m".parse().unwrap());
        let whole = Money::whole;
        let mut stops = Stops::default();
        stops.flat(whole(10_000));
        // A buys for 4,000 with a fee of 4, B for 5,000.
        stops.fill(&a, whole(5_996));
        stops.fill(&b, whole(996));
        let limit = 100_000;
        assert!(!stops.mark(&a, whole(4_100), whole(10_096), limit));
        assert!(!stops.mark(&b, whole(5_000), whole(10_096), limit));
        // 4,100 − 3,100 is 1,000: just not a tenth of 10,001, and a tenth of 10,000.
        assert!(!stops.mark(&a, whole(3_100), whole(10_001), limit));
        assert!(stops.mark(&a, whole(3_100), whole(10_000), limit));
        assert!(!stops.mark(&a, whole(3_000), whole(9_900), limit), "told once");
        assert_eq!((stops.is_stopped(&a), stops.is_stopped(&b)), (true, false));
        let json = serde_json::to_string(&stops).unwrap();
        assert_eq!(serde_json::from_str::<Stops>(&json).unwrap(), stops);
        // Sold at 3,000 without a fee: the result stays.
        stops.fill(&a, whole(3_996));
        assert!(!stops.mark(&a, Money::ZERO, whole(9_900), limit) && stops.is_stopped(&a));
        stops.resume();
        assert!(!stops.is_stopped(&a) && !stops.mark(&a, Money::ZERO, whole(9_900), limit));
    }

    #[test]
    fn what_is_held_before_anything_is_known_is_a_beginning() {
        let a: SeriesKey = "A.15m".parse().unwrap();
        let mut stops = Stops::default();
        assert!(!stops.mark(&a, Money::whole(500), Money::whole(1_000), 100_000));
        assert!(!stops.mark(&a, Money::whole(401), Money::whole(1_000), 100_000));
        assert!(stops.mark(&a, Money::whole(400), Money::whole(1_000), 100_000));
        assert!(Stops::default().is_empty() && !stops.is_empty());
    }
}
