//! Exact money: fixed point with 24 decimals in 128 bits.
//!
//! A price has at most 12 decimals, a quantity 6 and a fee rate 6 (parts per million); so price · quantity · fee is exact
//! in 24 decimals, and a ledger adds up to the last digit. The range is ± 1.7 · 10^14 units of the currency; what would
//! leave it is an error, not a wrap.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::candle::{Scale, TICKS_MAX, power_of_ten};

/// Decimals of [`Money`].
const DECIMALS: u8 = 24;
const UNIT: i128 = 1_000_000_000_000_000_000_000_000;
/// The greatest number of decimals of a traded quantity.
pub const LOT_DECIMALS_MAX: u8 = 6;
/// Parts in a whole of a fee rate.
const PPM: i128 = 1_000_000;

/// An exact amount of the quote currency. Serialises as a decimal text such as `"10000.25"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Money(i128);

/// An amount that is none, or too great.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum MoneyError {
    /// Not a decimal number with at most 24 decimals.
    #[error("amount {text:?} is not a decimal number with at most 24 decimals")]
    Text {
        /// The text given.
        text: String,
    },
    /// Beyond ± 1.7 · 10^14.
    #[error("an amount of money is out of range")]
    Overflow,
    /// Too many decimals of a quantity, or a fee of a whole or more.
    #[error("{what} is {value}, above the limit of {limit}")]
    Terms {
        /// Which setting.
        what: &'static str,
        /// Its value.
        value: u32,
        /// Its limit.
        limit: u32,
    },
}

impl Money {
    /// Nothing.
    pub const ZERO: Self = Self(0);
    /// More than any account holds: "no limit".
    pub const MAX: Self = Self(i128::MAX);

    /// A whole number of the currency's units.
    pub const fn whole(units: i32) -> Self {
        Self(units as i128 * UNIT)
    }

    /// The nearest `f64`, for metrics and for people.
    #[inline]
    pub fn to_f64(self) -> f64 {
        // A 128-bit conversion is a call: of what does not fit 64 bits, the first 63 are converted and the rest is scaled
        // by a power of two.
        if let Ok(small) = i64::try_from(self.0) {
            return small as f64 / 1e24;
        }
        let high = (self.0 >> 64) as i64;
        let shift = 65 - (high ^ (high >> 63)).leading_zeros();
        (self.0 >> shift) as i64 as f64 * f64::from_bits((1023 + u64::from(shift)) << 52) / 1e24
    }

    /// Sum, if in range.
    ///
    /// # Errors
    /// [`MoneyError::Overflow`].
    pub fn plus(self, other: Self) -> Result<Self, MoneyError> {
        self.0.checked_add(other.0).map(Self).ok_or(MoneyError::Overflow)
    }

    /// Difference, if in range.
    ///
    /// # Errors
    /// [`MoneyError::Overflow`].
    pub fn minus(self, other: Self) -> Result<Self, MoneyError> {
        self.0.checked_sub(other.0).map(Self).ok_or(MoneyError::Overflow)
    }

    /// A share of the amount in parts per million, rounded towards zero.
    pub fn share(self, ppm: u32) -> Self {
        // Divided first where the product would overflow; the loss is below 10^-18.
        let ppm = i128::from(ppm);
        Self(self.0.checked_mul(ppm).map_or_else(|| (self.0 / PPM).saturating_mul(ppm), |product| product / PPM))
    }

    /// Whether it is below zero.
    pub fn is_negative(self) -> bool {
        self.0 < 0
    }
}

impl fmt::Display for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.0 < 0 { "-" } else { "" };
        let (whole, rest) = (self.0.unsigned_abs() / UNIT as u128, self.0.unsigned_abs() % UNIT as u128);
        if rest == 0 {
            return write!(f, "{sign}{whole}");
        }
        let digits = format!("{rest:024}");
        write!(f, "{sign}{whole}.{}", digits.trim_end_matches('0'))
    }
}

impl FromStr for Money {
    type Err = MoneyError;
    fn from_str(text: &str) -> Result<Self, MoneyError> {
        let error = || MoneyError::Text { text: text.chars().take(60).collect() };
        let (negative, digits) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
        let (whole, rest) = digits.split_once('.').unwrap_or((digits, "0"));
        let plain = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        if !plain(whole) || !plain(rest) || rest.len() > usize::from(DECIMALS) {
            return Err(error());
        }
        let rest: i128 = format!("{rest:0<24}").parse().map_err(|_| error())?;
        let amount = whole.parse::<i128>().ok().and_then(|w| w.checked_mul(UNIT)?.checked_add(rest));
        amount.map(|a| Self(if negative { -a } else { a })).ok_or(MoneyError::Overflow)
    }
}

impl TryFrom<String> for Money {
    type Error = MoneyError;
    fn try_from(text: String) -> Result<Self, MoneyError> {
        text.parse()
    }
}

impl From<Money> for String {
    fn from(money: Money) -> Self {
        money.to_string()
    }
}

/// What a position is worth a tick.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TickValue(i128);

impl TickValue {
    /// `cash` and the position at a price; `None` if that is out of range.
    #[inline]
    pub(crate) fn at(self, ticks: i64, cash: Money) -> Option<Money> {
        if ticks.unsigned_abs() > TICKS_MAX as u64 {
            return None;
        }
        // In range, as `tick_value` saw to it: a checked product of 128 bits is a call.
        cash.0.checked_add(self.0.wrapping_mul(i128::from(ticks))).map(Money)
    }
}

/// How a series is traded: what a tick times a lot is worth, and what trading costs. Quantities are whole lots.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terms {
    price_decimals: u8,
    lot_decimals: u8,
    fee_ppm: u32,
    /// Left out of the state when there is none.
    #[serde(default, skip_serializing_if = "is_zero")]
    slippage_ppm: u32,
}

fn is_zero(n: &u32) -> bool {
    *n == 0
}

impl Terms {
    /// Terms for a series of the given scale. A lot is 10^−`lot_decimals` units; the fee is in parts per million of the
    /// notional at entry and at exit (1,000 is 0.1 %).
    ///
    /// # Errors
    /// More than [`LOT_DECIMALS_MAX`] decimals, or a fee of 100 % or more.
    pub fn new(scale: Scale, lot_decimals: u8, fee_ppm: u32) -> Result<Self, MoneyError> {
        let above = |what, value, limit| MoneyError::Terms { what, value, limit };
        if lot_decimals > LOT_DECIMALS_MAX {
            return Err(above("lot_decimals", lot_decimals.into(), LOT_DECIMALS_MAX.into()));
        }
        if fee_ppm >= PPM as u32 {
            return Err(above("fee_ppm", fee_ppm, PPM as u32 - 1));
        }
        Ok(Self { price_decimals: scale.price_decimals(), lot_decimals, fee_ppm, slippage_ppm: 0 })
    }

    /// The same terms with market orders filled worse than the price seen, by so many parts per million.
    ///
    /// # Errors
    /// A slippage of 100 % or more.
    pub fn with_slippage(self, slippage_ppm: u32) -> Result<Self, MoneyError> {
        match slippage_ppm {
            0..1_000_000 => Ok(Self { slippage_ppm, ..self }),
            _ => Err(MoneyError::Terms { what: "slippage_ppm", value: slippage_ppm, limit: PPM as u32 - 1 }),
        }
    }

    /// The price at which a market order for `lots` is filled (negative sells): worse by the slippage, rounded to the
    /// worse tick, never below one tick.
    #[inline]
    pub fn slipped(self, ticks: i64, lots: i64) -> i64 {
        if self.slippage_ppm == 0 {
            return ticks;
        }
        // At most 10^15 ticks, so the product is within 128 bits and the quotient within 64.
        let worse = (i128::from(ticks) * i128::from(self.slippage_ppm) + PPM - 1).div_euclid(PPM) as i64;
        (ticks + worse * lots.signum()).max(1)
    }

    /// What `lots` are worth at a price in ticks; negative for a short position.
    ///
    /// # Errors
    /// [`MoneyError::Overflow`].
    #[inline]
    pub fn value(self, ticks: i64, lots: i64) -> Result<Money, MoneyError> {
        (i128::from(ticks) * i128::from(lots)).checked_mul(self.tick_lot()).map(Money).ok_or(MoneyError::Overflow)
    }

    /// What `lots` are worth a tick, for a position that is marked often; `None` where a price could leave the range.
    pub(crate) fn tick_value(self, lots: i64) -> Option<TickValue> {
        const MOST: u128 = (i128::MAX / 2) as u128 / TICKS_MAX as u128;
        i128::from(lots).checked_mul(self.tick_lot()).filter(|unit| unit.unsigned_abs() < MOST).map(TickValue)
    }

    /// The fee for trading a notional, exact.
    pub fn fee(self, notional: Money) -> Money {
        // Exact: a notional is a multiple of 10^(24 − 12 − 6).
        Money((notional.0.abs() / PPM).saturating_mul(i128::from(self.fee_ppm)))
    }

    /// The most lots that `cash` buys at a price, fee included: `floor(cash / (price · (1 + fee)))`.
    pub fn affordable(self, cash: Money, ticks: i64) -> i64 {
        let with_fee = (self.tick_lot() / PPM * (PPM + i128::from(self.fee_ppm))).checked_mul(i128::from(ticks));
        match with_fee {
            Some(one) if one > 0 && cash.0 > 0 => i64::try_from(cash.0 / one).unwrap_or(i64::MAX),
            _ => 0,
        }
    }

    /// The most lots whose notional does not exceed `notional`.
    pub fn lots_within(self, notional: Money, ticks: i64) -> i64 {
        match self.tick_lot().checked_mul(i128::from(ticks)) {
            Some(one) if one > 0 && notional.0 > 0 => i64::try_from(notional.0 / one).unwrap_or(i64::MAX),
            _ => 0,
        }
    }

    /// A quantity as the number that people read.
    pub fn quantity(self, lots: i64) -> f64 {
        lots as f64 / power_of_ten(self.lot_decimals) as f64
    }

    /// A price as the number that people read.
    pub fn price(self, ticks: i64) -> f64 {
        ticks as f64 / power_of_ten(self.price_decimals) as f64
    }

    /// Fee rate in parts per million.
    pub fn fee_ppm(self) -> u32 {
        self.fee_ppm
    }

    /// Slippage in parts per million.
    pub fn slippage_ppm(self) -> u32 {
        self.slippage_ppm
    }

    #[inline]
    fn tick_lot(self) -> i128 {
        // At least 10^6, since both decimals together are at most 18.
        let decimals = DECIMALS.saturating_sub(self.price_decimals).saturating_sub(self.lot_decimals);
        i128::from(power_of_ten(decimals.min(12))) * i128::from(power_of_ten(decimals.saturating_sub(12)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_round_trips_exactly() {
        for text in ["0", "10000", "-0.5", "123.456789012345678901234567", "-99999999999999.000000000000000000000001"] {
            let digits: String = text.chars().take(text.find('.').unwrap_or(text.len()) + 25).collect();
            assert_eq!(digits.parse::<Money>().unwrap().to_string(), digits);
        }
        for bad in ["", "-", "1.", ".1", "1e3", "+1", "0.1234567890123456789012345", "999999999999999999"] {
            assert!(bad.parse::<Money>().is_err(), "{bad}");
        }
    }

    #[test]
    fn conversion_to_f64_is_within_a_bit() {
        for text in ["10000", "69267.40865", "-0.25", "0.000000000000000000000001", "100000000000000", "12345678.9"] {
            let (money, float) = (text.parse::<Money>().unwrap().to_f64(), text.parse::<f64>().unwrap());
            assert!((money - float).abs() <= float.abs() * 4e-16, "{text}: {money}");
        }
    }

    #[test]
    fn value_fee_and_size_are_exact() {
        let terms = Terms::new(Scale::new(2, 0).unwrap(), 0, 1_000).unwrap();
        let value = terms.value(17_913, 55).unwrap();
        assert_eq!(value.to_string(), "9852.15");
        assert_eq!(terms.fee(value).to_string(), "9.85215");
        assert_eq!(terms.affordable(Money::whole(10_000), 17_913), 55);
        // The limit, and just below it: 55 lots cost 9862.00215.
        assert_eq!(terms.affordable("9862.00215".parse().unwrap(), 17_913), 55);
        assert_eq!(terms.affordable("9862.00214".parse().unwrap(), 17_913), 54);
        assert_eq!(terms.affordable(Money::ZERO, 17_913), 0);
        assert!(terms.value(i64::MAX, i64::MAX).is_err());
        assert!(Terms::new(Scale::default(), 7, 0).is_err());
        assert!(Terms::new(Scale::default(), 0, 1_000_000).is_err());
    }
}
