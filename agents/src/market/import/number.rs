//! Decimal numbers, and points in time that are numbers, out of bytes, exactly.

use serde::{Deserialize, Serialize};

use super::super::candle::{DECIMALS_MAX, power_of_ten};
use super::dates;

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
    let (mut significant, mut n_digits, mut grouped) = (0, 0, false);
    for &byte in number {
        match byte {
            b'0'..=b'9' => {
                any = true;
                n_digits += u32::from(!point);
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
            // A comma that parts anything but thousands is a decimal comma: taken for nothing it would make 10,50 a
            // thousand and fifty.
            b',' | b'_' | b' ' if !point && is_group(n_digits, grouped) => (n_digits, grouped) = (0, true),
            _ => return None,
        }
    }
    if !any || (grouped && n_digits != 3) {
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

/// What the commas and points of a number tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Marks {
    /// There are none, or the number is none.
    None,
    /// A point and no comma.
    Point,
    /// Commas part thousands: there are several, or a point stands behind the only one.
    Thousands,
    /// The only comma is a decimal one: what stands before or behind it is no group of thousands.
    Decimal,
    /// The only comma has three digits behind it: it may part thousands or be a decimal one.
    Unsure,
}

/// Tells what the commas and points of a number are; whether the number is one is told by [`decimal`].
pub(super) fn marks(text: &[u8]) -> Marks {
    let mut parts = text.trim_ascii().splitn(3, |byte| *byte == b',');
    let (Some(before), behind, more) = (parts.next(), parts.next(), parts.next()) else { return Marks::None };
    let Some(behind) = behind else {
        return if before.contains(&b'.') { Marks::Point } else { Marks::None };
    };
    let before = before.strip_prefix(b"-").unwrap_or(before);
    if before.contains(&b'.') {
        Marks::Decimal
    } else if more.is_some() || behind.contains(&b'.') {
        Marks::Thousands
    } else if matches!(before, [b'1'..=b'9', rest @ ..] if rest.len() < 3) && behind.len() == 3 {
        Marks::Unsure
    } else {
        Marks::Decimal
    }
}

/// As [`decimal`], of a number with a decimal comma, whose points part thousands.
pub(super) fn decimal_with_comma(text: &[u8]) -> Option<Decimal> {
    let mut turned = [0; 64];
    let turned = turned.get_mut(..text.len())?;
    for (to, byte) in turned.iter_mut().zip(text) {
        *to = match byte {
            b',' => b'.',
            b'.' => b',',
            other => *other,
        };
    }
    decimal(turned)
}

/// Whether so many digits may stand before a separator of thousands.
fn is_group(n_digits: u32, is_behind_another: bool) -> bool {
    if is_behind_another { n_digits == 3 } else { (1..=3).contains(&n_digits) }
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
    /// A date whose day stands first, and the year last.
    #[serde(rename = "day_first")]
    DayFirst,
    /// A date whose month stands first, and the year last.
    #[serde(rename = "month_first")]
    MonthFirst,
}

impl Unit {
    /// `s`, `ms`, `us`, `ns`, `text`, `text, day first` or `text, month first`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Seconds => "s",
            Self::Millis => "ms",
            Self::Micros => "us",
            Self::Nanos => "ns",
            Self::Text => "text",
            Self::DayFirst => "text, day first",
            Self::MonthFirst => "text, month first",
        }
    }
}

/// A time whose unit is known.
pub(super) fn time_in(text: &[u8], unit: Unit) -> Option<(i64, Unit)> {
    let text = text.trim_ascii();
    let nanos = match unit {
        Unit::Seconds => 1_000_000_000,
        Unit::Millis => 1_000_000,
        Unit::Micros => 1_000,
        Unit::Nanos => 1,
        Unit::Text | Unit::DayFirst | Unit::MonthFirst => return dates::time(std::str::from_utf8(text).ok()?),
    };
    let Decimal { mantissa, decimals, .. } = decimal(text)?;
    let millis = (i128::from(mantissa) * nanos).div_euclid(i128::from(power_of_ten(decimals)) * 1_000_000);
    i64::try_from(millis).ok().map(|millis| (millis, unit))
}

/// A time in milliseconds and the unit that its magnitude tells; text is read by [`dates`].
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
        return dates::of_eight_digits(text).map(|millis| (millis, Unit::Text));
    }
    let Some(Decimal { mantissa, decimals, .. }) = decimal(text).filter(|_| !text.contains(&b' ')) else {
        return dates::time(std::str::from_utf8(text).ok()?);
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
            ("1,234,567", 1_234_567, 0),
            ("130583.99999999999", 130_584, 0),
            ("111205.00000000001", 111_205, 0),
            ("0.0000012345", 12345, 10),
            ("0", 0, 0),
            (".5", 5, 1),
        ] {
            assert_eq!(exact(text), Some((mantissa, decimals)), "{text}");
        }
        for bad in [
            "", "nan", "inf", "-", ".", "1.2.3", "1e", "0x1", "1e99", "--1", "10,50", "1234,567", "1,23,456", "1,",
            "1,.5",
        ] {
            assert_eq!(exact(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_comma_parts_thousands_or_is_a_point_or_may_be_either() {
        for (text, is) in [
            ("1234", Marks::None),
            ("1234.5", Marks::Point),
            ("1,234", Marks::Unsure),
            ("-12,345", Marks::Unsure),
            ("1,234.5", Marks::Thousands),
            ("1,234,567", Marks::Thousands),
            ("0,123", Marks::Decimal),
            ("1,5", Marks::Decimal),
            ("1234,567", Marks::Decimal),
            ("1.234,567", Marks::Decimal),
        ] {
            assert_eq!(marks(text.as_bytes()), is, "{text}");
        }
        let turned = |text: &str| decimal_with_comma(text.as_bytes()).map(|found| (found.mantissa, found.decimals));
        assert_eq!(turned("-1.234.567,25"), Some((-123_456_725, 2)));
        assert_eq!((turned("1.5"), turned("1,234.5"), turned(&"1".repeat(65))), (None, None, None));
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
            ("2020-10-02T11:45:00-05:00", Unit::Text),
            ("02.10.2020 04:45 PM", Unit::DayFirst),
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
