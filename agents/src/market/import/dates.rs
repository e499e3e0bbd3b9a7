//! Dates and clocks as text. They are UTC unless they say another offset.
//!
//! A date that begins with its year is unmistakable. Of `03/04/2021` only the rest of the file can tell which is the day:
//! [`time`] reads it as day first, and [`turned`] is the same moment with the two exchanged, so that [`super::rows`] can mend
//! what it has taken once a row tells.

use super::super::calendar::{civil, of_date};
use super::number::Unit;

const DAY_MILLIS: i64 = 86_400_000;

/// `2020-10-02 16:45:00`, `2020-10-02T16:45:00.250Z`, `2019-10-17 09-AM`, `17.10.2019 09:00`, `10/17/2019`. What is not year
/// first is [`Unit::DayFirst`] if it can be, else [`Unit::MonthFirst`].
pub(super) fn time(text: &str) -> Option<(i64, Unit)> {
    let (day, clock) = text.split_once([' ', 'T']).unwrap_or((text, ""));
    let mut parts = day.split(['-', '/', '.']);
    let (a, b, c) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() {
        return None;
    }
    let part = |text: &str| number(text.as_bytes());
    let (clock, offset) = zone(clock.trim());
    let clock = clock_millis(clock)?;
    if a.len() == 4 {
        return Some((date(part(a)?, part(b)?, part(c)?)? + clock - offset, Unit::Text));
    }
    // With an offset the day in the file and the day in UTC may differ, and could not be turned round.
    if c.len() != 4 || offset != 0 {
        return None;
    }
    let (year, a, b) = (part(c)?, part(a)?, part(b)?);
    match (date(year, b, a), date(year, a, b)) {
        (Some(days), _) => Some((days + clock, Unit::DayFirst)),
        (None, Some(days)) => Some((days + clock, Unit::MonthFirst)),
        (None, None) => None,
    }
}

/// `20191017`.
pub(super) fn of_eight_digits(text: &[u8]) -> Option<i64> {
    date(number(text.get(..4)?)?, number(text.get(4..6)?)?, number(text.get(6..)?)?)
}

/// The same moment with day and month exchanged; `None` if its day is no month.
pub(super) fn turned(millis: i64) -> Option<i64> {
    let (year, month, day) = civil(millis);
    Some(date(year, day, month)? + millis.rem_euclid(DAY_MILLIS))
}

fn number(digits: &[u8]) -> Option<i64> {
    (!digits.is_empty() && digits.len() <= 9 && digits.iter().all(u8::is_ascii_digit))
        .then(|| digits.iter().fold(0, |n, b| n * 10 + i64::from(b - b'0')))
}

/// A clock without its zone, and the milliseconds that the zone is ahead of UTC: `Z`, ` UTC`, `+02:00`, `-0500`.
fn zone(clock: &str) -> (&str, i64) {
    if let Some(clock) = ["Z", " UTC"].iter().find_map(|zone| clock.strip_suffix(zone)) {
        return (clock, 0);
    }
    let said = clock.rfind(['+', '-']).and_then(|at| {
        let digits = clock[at + 1..].replacen(':', "", 1);
        let minutes = number(digits.as_bytes()).filter(|n| digits.len() == 4 && n % 100 < 60 && *n < 1_500)?;
        let offset = (minutes / 100 * 60 + minutes % 100) * 60_000;
        Some((clock[..at].trim_end(), if clock[at..].starts_with('-') { -offset } else { offset }))
    });
    said.unwrap_or((clock, 0))
}

fn clock_millis(clock: &str) -> Option<i64> {
    if clock.is_empty() {
        return Some(0);
    }
    let upper = clock.to_ascii_uppercase();
    let (clock, half) = match (upper.strip_suffix("AM"), upper.strip_suffix("PM")) {
        (Some(rest), _) => (rest, Some(0)),
        (_, Some(rest)) => (rest, Some(12)),
        _ => (upper.as_str(), None),
    };
    let clock = clock.trim_end_matches(['-', ' ']);
    let (clock, fraction) = clock.split_once('.').unwrap_or((clock, "0"));
    let mut parts = clock.split(':').map(|part| number(part.as_bytes()));
    let mut hour = parts.next()??;
    let minute = parts.next().unwrap_or(Some(0))?;
    let second = parts.next().unwrap_or(Some(0))?;
    if parts.next().is_some() || (half.is_some() && !(1..=12).contains(&hour)) {
        return None;
    }
    if let Some(half) = half {
        hour = hour % 12 + half;
    }
    let millis = number(format!("{fraction:0<3}").get(..3)?.as_bytes())?;
    (hour < 24 && minute < 60 && second < 60).then_some(((hour * 60 + minute) * 60 + second) * 1000 + millis)
}

/// The beginning of a day; the years of no market are slips.
fn date(year: i64, month: i64, day: i64) -> Option<i64> {
    of_date(year, month, day).filter(|_| (1800..3000).contains(&year))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_that_is_a_month_turns_round_and_back() {
        for days in -62_000..370_000 {
            let noon = days * DAY_MILLIS + 43_200_000;
            let can_be = civil(noon).2 <= 12;
            assert_eq!(turned(noon).and_then(turned), can_be.then_some(noon));
        }
    }

    #[test]
    fn offsets_are_taken_away() {
        let at = Some((1_601_657_100_000, Unit::Text));
        for text in ["2020-10-02 18:45:00+02:00", "2020-10-02 11:45 -0500", "2020-10-03T02:30:00+09:45"] {
            assert_eq!(time(text), at, "{text}");
        }
        for bad in ["2020-10-02 18:45+25:00", "2020-10-02 18:45+02:60", "2020-10-02 18:45+2", "02/10/2020 18:45+02:00"]
        {
            assert_eq!(time(bad), None, "{bad}");
        }
    }
}
