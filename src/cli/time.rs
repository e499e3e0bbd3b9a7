//! Times as people write and read them: always UTC.
//!
//! Accepted: `2022-01-01`, `2022-01-01 12:00[:30]`, RFC 3339 (`2022-01-01T12:00:00Z`, with an offset or not) and
//! milliseconds since 1970.

use std::{fmt, str::FromStr};

use atra::agents::market::calendar::{civil, of_date};

const DAY: i64 = 86_400_000;

/// A point in time, milliseconds since 1970-01-01T00:00:00 UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Moment(pub(crate) i64);

/// Why a text is no time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no date: write 2022-01-01, 2022-01-01 12:00, 2022-01-01T12:00:00Z or milliseconds since 1970")]
pub(crate) struct MomentError(String);

impl FromStr for Moment {
    type Err = MomentError;

    fn from_str(text: &str) -> Result<Self, MomentError> {
        let trimmed = text.trim();
        // Four digits are a year that lacks its month, not a time in 1970.
        if let (Ok(millis), 5..) = (trimmed.parse::<i64>(), trimmed.len()) {
            return Ok(Self(millis));
        }
        parse(trimmed).map(Self).ok_or_else(|| MomentError(text.chars().take(60).collect()))
    }
}

fn parse(text: &str) -> Option<i64> {
    let (day, clock) = match text.split_once(['T', 't', ' ']) {
        Some((day, clock)) => (day, Some(clock)),
        None => (text, None),
    };
    let mut parts = day.split('-');
    let (year, month, day) = (digits(parts.next()?, 4)?, digits(parts.next()?, 2)?, digits(parts.next()?, 2)?);
    if parts.next().is_some() {
        return None;
    }
    let days = of_date(year, month, day)?;
    clock.map_or(Some(days), |clock| Some(days + parse_clock(clock)?))
}

/// `12:00`, `12:00:30`, `12:00:30.250`, each with nothing, `Z` or `+02:00` behind it.
fn parse_clock(text: &str) -> Option<i64> {
    let (clock, offset) = match text.strip_suffix(['Z', 'z']) {
        Some(clock) => (clock, 0),
        None => match text.rfind(['+', '-']) {
            Some(at) => {
                let (hours, minutes) = text[at + 1..].split_once(':')?;
                let offset = (digits(hours, 2)? * 60 + digits(minutes, 2)?) * 60_000;
                (&text[..at], if text[at..].starts_with('-') { -offset } else { offset })
            }
            None => (text, 0),
        },
    };
    let (clock, fraction) = clock.split_once('.').unwrap_or((clock, "0"));
    let mut parts = clock.split(':');
    let (hour, minute) = (digits(parts.next()?, 2)?, digits(parts.next()?, 2)?);
    let second = parts.next().map_or(Some(0), |second| digits(second, 2))?;
    if parts.next().is_some() || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    if fraction.is_empty() || fraction.len() > 9 || !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let millis: i64 = format!("{fraction:0<3}")[..3].parse().ok()?;
    Some(((hour * 60 + minute) * 60 + second) * 1_000 + millis - offset)
}

fn digits(text: &str, n: usize) -> Option<i64> {
    (text.len() == n && text.bytes().all(|b| b.is_ascii_digit())).then(|| text.parse().ok())?
}

impl fmt::Display for Moment {
    /// `2022-01-01 12:00:00`, with milliseconds only if there are any.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (year, month, day) = civil(self.0);
        let millis = self.0.rem_euclid(DAY);
        let (hour, minute, second) = (millis / 3_600_000, millis / 60_000 % 60, millis / 1_000 % 60);
        write!(f, "{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}")?;
        if millis % 1_000 != 0 { write!(f, ".{:03}", millis % 1_000) } else { Ok(()) }
    }
}

/// The time of day of a point in time, `12:00:00Z`.
pub(crate) fn clock(millis: i64) -> String {
    let second = millis.rem_euclid(DAY) / 1_000;
    format!("{:02}:{:02}:{:02}Z", second / 3_600, second / 60 % 60, second % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_to_write_a_time_is_the_same_time() {
        let noon = 1_641_038_400_000;
        for text in [
            "2022-01-01 12:00",
            "2022-01-01T12:00",
            "2022-01-01 12:00:00",
            "2022-01-01T12:00:00Z",
            "2022-01-01T14:00:00+02:00",
            "2022-01-01T12:00:00.000Z",
            "1641038400000",
            " 2022-01-01T10:30:00-01:30 ",
        ] {
            assert_eq!(text.parse(), Ok(Moment(noon)), "{text}");
        }
        assert_eq!("2022-01-01".parse(), Ok(Moment(noon - DAY / 2)));
        assert_eq!("2022-01-01T12:00:00.25Z".parse(), Ok(Moment(noon + 250)));
    }

    #[test]
    fn what_is_no_time_is_refused_with_examples() {
        for text in
            ["", "2022", "2022-13-01", "2022-02-29", "2022-1-1", "tomorrow", "2022-01-01 24:00", "2022-01-01x", "1e9"]
        {
            let error = text.parse::<Moment>().unwrap_err().to_string();
            assert!(error.contains("write 2022-01-01"), "{text}: {error}");
        }
    }

    #[test]
    fn times_print_as_they_are_read() {
        for millis in [0, -1, 1_641_038_400_000, 1_641_038_400_250] {
            assert_eq!(Moment(millis).to_string().parse(), Ok(Moment(millis)));
        }
        assert_eq!(Moment(1_641_038_400_000).to_string(), "2022-01-01 12:00:00");
    }

    #[test]
    fn times_at_the_ends_of_the_range_print() {
        for (millis, expected) in [
            (i64::MIN, "-292275055-05-16 16:47:04.192"),
            (i64::MAX, "292278994-08-17 07:12:55.807"),
            (253_402_300_799_999, "9999-12-31 23:59:59.999"),
            (253_402_300_800_000, "10000-01-01 00:00:00"),
            (-62_167_219_200_001, "-001-12-31 23:59:59.999"),
        ] {
            assert_eq!(Moment(millis).to_string(), expected);
        }
    }
}
