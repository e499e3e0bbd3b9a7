//! Decimal numbers and points in time out of bytes, exactly.

use serde::{Deserialize, Serialize};

use super::super::candle::{DECIMALS_MAX, power_of_ten};

/// More significant digits than this are binary noise (`130583.99999999999`): an `f64` promises 15.
const DIGITS_EXACT: u32 = 15;

/// `mantissa` · 10^−`decimals`, without trailing zeros behind the point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Decimal {
    pub(super) mantissa: i64,
    pub(super) decimals: u8,
    /// Whether digits beyond the 15th, or beyond [`DECIMALS_MAX`] decimals, were rounded away.
    pub(super) rounded: bool,
}

/// Parses a finite decimal number: sign, digits, point, exponent, thousands separators inside quotes. `None` otherwise.
#[inline]
pub(super) fn decimal(text: &[u8]) -> Option<Decimal> {
    // The common case in one pass: digits, at most one point, at most 18 digits, so that nothing overflows.
    let (mut all, mut kept, mut places, mut kept_places, mut point) = (0_i64, 0_i64, 0_u8, 0_u8, false);
    if text.len() <= 18 && text.first().is_some_and(u8::is_ascii_digit) {
        let mut plain = true;
        for &byte in text {
            let digit = byte.wrapping_sub(b'0');
            if digit < 10 {
                all = all * 10 + i64::from(digit);
                places += u8::from(point);
                if !point || digit != 0 {
                    (kept, kept_places) = (all, places);
                }
            } else if byte == b'.' && !point {
                point = true;
            } else {
                plain = false;
                break;
            }
        }
        if plain && kept_places <= DECIMALS_MAX && (kept_places == 0 || kept < power_of_ten(DIGITS_EXACT as u8)) {
            return Some(Decimal { mantissa: kept, decimals: kept_places, rounded: false });
        }
    }
    decimal_slow(text)
}

/// Parses a plain decimal in place, up to the first byte that is neither digit nor point. `None` for anything unusual,
/// which [`decimal`] then looks at with care.
#[inline(always)]
pub(super) fn plain_decimal(bytes: &[u8], at: &mut usize) -> Option<Decimal> {
    let start = *at;
    let (mut all, mut kept, mut places, mut kept_places, mut point) = (0_i64, 0_i64, 0_u8, 0_u8, false);
    while let Some(&byte) = bytes.get(*at) {
        let digit = byte.wrapping_sub(b'0');
        if digit < 10 {
            all = all.wrapping_mul(10).wrapping_add(i64::from(digit));
            places = places.wrapping_add(u8::from(point));
            if !point || digit != 0 {
                (kept, kept_places) = (all, places);
            }
        } else if byte == b'.' && !point && *at > start {
            point = true;
        } else {
            break;
        }
        *at += 1;
    }
    let length = *at - start;
    let plain = (1..=18).contains(&length)
        && kept_places <= DECIMALS_MAX
        && (kept_places == 0 || kept < power_of_ten(DIGITS_EXACT as u8));
    plain.then_some(Decimal { mantissa: kept, decimals: kept_places, rounded: false })
}

#[cold]
fn decimal_slow(text: &[u8]) -> Option<Decimal> {
    let text = text.trim_ascii();
    let (negative, text) = match text {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        _ => (false, text),
    };
    let (number, exponent) = match text.iter().position(|b| matches!(b, b'e' | b'E')) {
        Some(at) => (&text[..at], std::str::from_utf8(&text[at + 1..]).ok()?.parse::<i32>().ok()?),
        None => (text, 0),
    };
    if exponent.abs() > 40 || number.len() > 64 {
        return None;
    }
    let (mut mantissa, mut places, mut point, mut any, mut dropped) = (0_i64, -exponent, false, false, false);
    let mut significant = 0;
    for &byte in number {
        match byte {
            b'0'..=b'9' => {
                any = true;
                places += i32::from(point);
                // Two digits beyond the 15th are enough to round by; the rest only moves the point.
                if significant < DIGITS_EXACT + 2 {
                    mantissa = mantissa * 10 + i64::from(byte - b'0');
                    significant += u32::from(mantissa != 0);
                } else {
                    places -= 1;
                    dropped |= byte != b'0';
                }
            }
            b'.' if !point => point = true,
            b',' | b'_' | b' ' if any && !point => {}
            _ => return None,
        }
    }
    if !any {
        return None;
    }
    let mut rounded = dropped;
    let mut step = |mantissa: &mut i64, places: &mut i32| {
        rounded |= *mantissa % 10 != 0;
        *mantissa = (*mantissa + 5) / 10;
        *places -= 1;
    };
    // Rounded once, at the end: dropping digit by digit would round twice.
    let excess = (significant.saturating_sub(DIGITS_EXACT) as i32).max(places - i32::from(DECIMALS_MAX));
    if excess > 0 && places > 0 {
        let excess = excess.min(places);
        for _ in 1..excess {
            rounded_down(&mut mantissa, &mut places);
        }
        step(&mut mantissa, &mut places);
    }
    while places > 0 && mantissa % 10 == 0 {
        mantissa /= 10;
        places -= 1;
    }
    while places < 0 {
        mantissa = mantissa.checked_mul(10)?;
        places += 1;
    }
    let mantissa = if negative { -mantissa } else { mantissa };
    Some(Decimal { mantissa, decimals: u8::try_from(places).ok()?, rounded })
}

/// Drops a digit and keeps a trace of it, so that the last rounding sees "more than half" rightly.
fn rounded_down(mantissa: &mut i64, places: &mut i32) {
    let sticky = i64::from(*mantissa % 10 != 0);
    *mantissa = (*mantissa / 10) | sticky;
    *places -= 1;
}

impl Decimal {
    /// Divides by 10^`places`. What does not fit is rounded and counted as such.
    pub(super) fn shift(&mut self, places: u8) {
        self.decimals += places;
        while self.decimals > 0 && (self.mantissa % 10 == 0 || self.decimals > DECIMALS_MAX) {
            self.rounded |= self.mantissa % 10 != 0;
            // Half away from zero.
            self.mantissa = (self.mantissa + 5 * self.mantissa.signum()) / 10;
            self.decimals -= 1;
        }
    }
}

/// The unit that a number is a time in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Unit {
    /// Seconds since 1970.
    #[serde(rename = "s")]
    Seconds,
    /// Milliseconds.
    #[serde(rename = "ms")]
    Millis,
    /// Microseconds.
    #[serde(rename = "us")]
    Micros,
    /// Nanoseconds.
    #[serde(rename = "ns")]
    Nanos,
    /// A date, with or without a clock.
    Text,
}

impl Unit {
    /// `s`, `ms`, `us`, `ns` or `text`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Seconds => "s",
            Self::Millis => "ms",
            Self::Micros => "us",
            Self::Nanos => "ns",
            Self::Text => "text",
        }
    }
}

/// A time whose unit is known.
pub(super) fn time_in(text: &[u8], unit: Unit) -> Option<(i64, Unit)> {
    let text = text.trim_ascii();
    if unit == Unit::Text {
        return text_time(std::str::from_utf8(text).ok()?).map(|millis| (millis, unit));
    }
    let Decimal { mantissa, decimals, .. } = decimal(text)?;
    let nanos = match unit {
        Unit::Seconds => 1_000_000_000,
        Unit::Millis => 1_000_000,
        Unit::Micros => 1_000,
        Unit::Nanos | Unit::Text => 1,
    };
    let millis = (i128::from(mantissa) * nanos).div_euclid(i128::from(power_of_ten(decimals)) * 1_000_000);
    i64::try_from(millis).ok().map(|millis| (millis, unit))
}

/// A time in milliseconds and the unit that its magnitude tells; text is read as UTC.
#[inline]
pub(super) fn time(text: &[u8]) -> Option<(i64, Unit)> {
    if text.len() == 13 {
        let mut millis = 0_i64;
        if text.iter().all(|b| {
            millis = millis * 10 + i64::from(b.wrapping_sub(b'0'));
            b.is_ascii_digit()
        }) {
            return Some((millis, Unit::Millis));
        }
    }
    time_slow(text.trim_ascii())
}

fn time_slow(text: &[u8]) -> Option<(i64, Unit)> {
    if text.len() == 8 && text.iter().all(u8::is_ascii_digit) {
        return Some((date(number(&text[..4])?, number(&text[4..6])?, number(&text[6..])?)?, Unit::Text));
    }
    let Some(Decimal { mantissa, decimals, .. }) = decimal(text).filter(|_| !text.contains(&b' ')) else {
        return text_time(std::str::from_utf8(text).ok()?).map(|millis| (millis, Unit::Text));
    };
    let whole = mantissa / power_of_ten(decimals);
    // Seconds reach 10^11 in the year 5138, milliseconds began beyond it in 1973.
    Some(match whole.unsigned_abs() {
        0..100_000_000_000 => {
            (i64::try_from(i128::from(mantissa) * 1000 / i128::from(power_of_ten(decimals))).ok()?, Unit::Seconds)
        }
        100_000_000_000..100_000_000_000_000 => (whole, Unit::Millis),
        100_000_000_000_000..100_000_000_000_000_000 => (whole.div_euclid(1_000), Unit::Micros),
        _ => (whole.div_euclid(1_000_000), Unit::Nanos),
    })
}

fn number(digits: &[u8]) -> Option<i64> {
    (!digits.is_empty() && digits.len() <= 9 && digits.iter().all(u8::is_ascii_digit))
        .then(|| digits.iter().fold(0, |n, b| n * 10 + i64::from(b - b'0')))
}

/// `2020-10-02 16:45:00`, `2020-10-02T16:45:00.250Z`, `2019-10-17 09-AM`, `17.10.2019 09:00`, `2019/10/17`.
fn text_time(text: &str) -> Option<i64> {
    let (day, clock) = text.split_once([' ', 'T']).unwrap_or((text, ""));
    let mut parts = day.split(['-', '/', '.']);
    let (a, b, c) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() {
        return None;
    }
    // Year first, or day first. Month first cannot be told from day first and is refused when the month exceeds 12.
    let (year, month, day) = if a.len() == 4 { (a, b, c) } else { (c, b, a) };
    if year.len() != 4 {
        return None;
    }
    let days = date(number(year.as_bytes())?, number(month.as_bytes())?, number(day.as_bytes())?)?;
    Some(days + clock_millis(clock.trim())?)
}

fn clock_millis(clock: &str) -> Option<i64> {
    if clock.is_empty() {
        return Some(0);
    }
    let clock = ["Z", "+00:00", "+0000", " UTC"].iter().find_map(|zone| clock.strip_suffix(zone)).unwrap_or(clock);
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

/// Milliseconds of a day's beginning: Howard Hinnant's days_from_civil.
fn date(year: i64, month: i64, day: i64) -> Option<i64> {
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let length = match month {
        2 => 28 + i64::from(leap),
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return None,
    };
    if !(1..=length).contains(&day) || !(1800..3000).contains(&year) {
        return None;
    }
    let y = if month <= 2 { year - 1 } else { year };
    let era = y.div_euclid(400);
    let of_era = y - era * 400;
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468;
    Some(days * 86_400_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exact(text: &str) -> Option<(i64, u8)> {
        decimal(text.as_bytes()).map(|d| (d.mantissa, d.decimals))
    }

    #[test]
    fn decimals_are_exact() {
        for (text, mantissa, decimals) in [
            ("26.65", 2665, 2),
            ("10550.19000000", 1_055_019, 2),
            ("100", 100, 0),
            ("0.10", 1, 1),
            ("2.665e1", 2665, 2),
            ("1E3", 1000, 0),
            ("1e-8", 1, 8),
            ("-1.5", -15, 1),
            ("1,234.5", 12345, 1),
            ("130583.99999999999", 130_584, 0),
            ("111205.00000000001", 111_205, 0),
            ("0.0000012345", 12345, 10),
            ("0", 0, 0),
            (".5", 5, 1),
        ] {
            assert_eq!(exact(text), Some((mantissa, decimals)), "{text}");
        }
        for bad in ["", "nan", "inf", "-", ".", "1.2.3", "1e", "0x1", "1e99", "--1"] {
            assert_eq!(exact(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_unit_of_a_time_is_told_by_magnitude() {
        let at = 1_601_657_100_000;
        for (text, unit) in [
            ("1601657100", Unit::Seconds),
            ("1601657100.0", Unit::Seconds),
            ("1601657100000", Unit::Millis),
            ("1601657100000000", Unit::Micros),
            ("1601657100000000000", Unit::Nanos),
            ("2020-10-02 16:45:00", Unit::Text),
            ("2020-10-02T16:45:00.000Z", Unit::Text),
            ("02.10.2020 04:45 PM", Unit::Text),
        ] {
            assert_eq!(time(text.as_bytes()), Some((at, unit)), "{text}");
        }
        assert_eq!(time(b"2019-10-17 09-AM"), Some((1_571_302_800_000, Unit::Text)));
        assert_eq!(time(b"2019-10-17 12-AM"), Some((1_571_270_400_000, Unit::Text)));
        assert_eq!(time(b"2004-08-19"), Some((1_092_873_600_000, Unit::Text)));
        assert_eq!(time(b"20040819"), Some((1_092_873_600_000, Unit::Text)));
        for bad in ["", "2020-13-01", "2021-02-29", "2020-01-01 25:00", "hello", "2020-01-01 13-PM", "1-2"] {
            assert_eq!(time(bad.as_bytes()), None, "{bad}");
        }
    }
}
