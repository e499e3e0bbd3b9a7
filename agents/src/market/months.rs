//! What each month and each year of an equity curve made.

use super::calendar::civil;

/// The months' names.
pub const NAMES: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// A calendar year of an equity curve, as shares of what there was before.
#[derive(Debug, Clone, PartialEq)]
pub struct Year {
    /// Which.
    pub year: i64,
    /// January first; `None` for a month without a candle, or after everything was lost.
    pub months: [Option<f64>; 12],
    /// The whole year.
    pub whole: Option<f64>,
}

/// The years of an equity curve, marked at `times`.
pub fn years(times: &[i64], equity: &[f64]) -> Vec<Year> {
    let mut years: Vec<Year> = Vec::new();
    // What the year and the month began with.
    let mut before = equity.first().map_or([0.0; 2], |first| [*first; 2]);
    let (mut last, mut end) = (None, before[0]);
    let change = |before: f64, end: f64| (before > 0.0).then(|| end / before - 1.0);
    for (time, equity) in times.iter().zip(equity) {
        let (year, month, _) = civil(*time);
        if last != Some((year, month)) {
            before[1] = end;
            if years.last().is_none_or(|last| last.year != year) {
                before[0] = end;
                years.push(Year { year, months: [None; 12], whole: None });
            }
            last = Some((year, month));
        }
        end = *equity;
        if let Some(last) = years.last_mut() {
            last.months[(month - 1) as usize] = change(before[1], end);
            last.whole = change(before[0], end);
        }
    }
    years
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_month_is_measured_from_the_end_of_the_one_before() {
        const DAY: i64 = 86_400_000;
        // 31 January 2021, 1 and 2 February, 1 April 2022; nothing in between.
        let times = [18_658, 18_659, 18_660, 19_083].map(|day| day * DAY);
        let years = years(&times, &[100.0, 110.0, 121.0, 60.5]);
        let share = |value: Option<f64>| value.map(|share| (share * 1000.0).round() as i64);
        assert_eq!(
            years.iter().map(|year| (year.year, share(year.whole))).collect::<Vec<_>>(),
            [(2021, Some(210)), (2022, Some(-500))]
        );
        assert_eq!(years[0].months.map(share)[..3], [Some(0), Some(210), None]);
        assert_eq!(years[1].months.map(share)[2..4], [None, Some(-500)]);
        // Nothing is made of nothing.
        assert_eq!(super::years(&times[..2], &[0.0, 5.0])[0].whole, None);
        assert_eq!(super::years(&[], &[]), []);
    }
}
