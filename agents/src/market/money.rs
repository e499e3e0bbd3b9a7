//! Exact money: fixed point with 24 decimals in 128 bits.
//!
//! A price has at most 12 decimals, a quantity 6 and a fee rate 6 (parts per million); so price · quantity · fee is exact
//! in 24 decimals, and a ledger adds up to the last digit. The range is ± 1.7 · 10^14 units of the currency; what would
//! leave it is an error, not a wrap.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, de, de::Visitor};
use thiserror::Error;

use super::candle::{Scale, power_of_ten};

/// Decimals of [`Money`].
const DECIMALS: u8 = 24;
const UNIT: i128 = 1_000_000_000_000_000_000_000_000;
/// The greatest number of decimals of a traded quantity.
pub const LOT_DECIMALS_MAX: u8 = 6;
/// Parts in a whole of a fee rate.
const PPM: i128 = 1_000_000;

/// An exact amount of the quote currency. Serialises as a decimal text such as `"10000.25"`; a whole number can be read too,
/// as people write it into a configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize)]
#[serde(into = "String")]
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
    /// Beyond [`Money::ACCOUNT_MAX`].
    #[error("an amount of {amount} is beyond the limit of {}", Money::ACCOUNT_MAX)]
    Account {
        /// The amount.
        amount: Money,
    },
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
    /// The greatest amount that an account may hold, owe or trade at once: 5 · 10^13, a third of the range, so that sums of
    /// two of them are in range. Beyond it a desk halts.
    pub const ACCOUNT_MAX: Self = Self(50_000_000_000_000 * UNIT);
    /// The greatest initial cash: 10^12 allows growth to fifty times as much.
    pub const START_MAX: Self = Self(1_000_000_000_000 * UNIT);

    /// A whole number of the currency's units.
    pub const fn whole(units: i32) -> Self {
        Self(units as i128 * UNIT)
    }

    /// The nearest `f64`, for metrics and for people.
    #[inline]
    pub fn to_f64(self) -> f64 {
        float(self.0) / 1e24
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

    /// Saturating sum, for totals that are only displayed.
    #[must_use]
    pub fn saturating_plus(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    /// Wrapping sum, for a comparison of two sums whose results are in range.
    pub(crate) fn wrapping_plus(self, other: Self) -> Self {
        Self(self.0.wrapping_add(other.0))
    }

    /// The amount, if an account may hold it.
    ///
    /// # Errors
    /// [`MoneyError::Account`].
    #[inline]
    pub fn of_account(self) -> Result<Self, MoneyError> {
        if self.abs() <= Self::ACCOUNT_MAX { Ok(self) } else { Err(MoneyError::Account { amount: self }) }
    }

    /// Value of `lots` of volume at a price in ticks, both in units of the scale; saturates at the ends of the range.
    #[must_use]
    pub fn of_volume(scale: Scale, ticks: i64, lots: i64) -> Self {
        let half = |decimals: u8| i128::from(power_of_ten((DECIMALS / 2).saturating_sub(decimals)));
        let one = half(scale.price_decimals()) * half(scale.volume_decimals());
        Self((i128::from(ticks) * i128::from(lots)).saturating_mul(one))
    }

    /// A share of the amount in parts per million, rounded towards zero.
    pub fn share(self, ppm: u32) -> Self {
        // Divided first where the product would overflow; the loss is below 10^-18.
        let ppm = i128::from(ppm);
        let product = self.0.checked_mul(ppm);
        Self(product.map_or_else(|| millionth(self.0).saturating_mul(ppm), millionth))
    }

    /// Without its sign.
    pub(crate) fn abs(self) -> Self {
        Self(self.0.saturating_abs())
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

impl<'de> Deserialize<'de> for Money {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Amount;

        impl Visitor<'_> for Amount {
            type Value = Money;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an amount, as a text such as \"10000.25\" or a whole number")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Money, E> {
                text.parse().map_err(E::custom)
            }

            fn visit_i64<E: de::Error>(self, units: i64) -> Result<Money, E> {
                i128::from(units).checked_mul(UNIT).map(Money).ok_or_else(|| E::custom(MoneyError::Overflow))
            }

            fn visit_u64<E: de::Error>(self, units: u64) -> Result<Money, E> {
                i64::try_from(units)
                    .map_err(|_| E::custom(MoneyError::Overflow))
                    .and_then(|units| self.visit_i64(units))
            }
        }

        deserializer.deserialize_any(Amount)
    }
}

impl From<Money> for String {
    fn from(money: Money) -> Self {
        money.to_string()
    }
}

/// What an account is worth at prices between two, as [`Money::to_f64`] has it. What all of them have in common is found
/// once: that they are in range, and how far they are shifted to be floats.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Worth {
    /// Cash and the position a tick, shifted so far that the upper half of what they make is the float's number.
    cash: i128,
    tick: i128,
    /// 10^24 on the scale of that number.
    unit: f64,
}

impl Worth {
    #[inline]
    pub(crate) fn at(&self, ticks: i64) -> f64 {
        let amount = self.cash.wrapping_add(self.tick.wrapping_mul(i128::from(ticks as u64)));
        (amount >> 64) as i64 as f64 / self.unit
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
        self.millionths(ticks, lots).and_then(millions).map(Money).ok_or(MoneyError::Overflow)
    }

    /// The same with the fee for trading it.
    ///
    /// # Errors
    /// [`MoneyError::Overflow`].
    #[inline]
    pub(crate) fn value_and_fee(self, ticks: i64, lots: i64) -> Result<(Money, Money), MoneyError> {
        let parts = self.millionths(ticks, lots).ok_or(MoneyError::Overflow)?;
        let fee = parts.abs().saturating_mul(i128::from(self.fee_ppm));
        millions(parts).map(|value| (Money(value), Money(fee))).ok_or(MoneyError::Overflow)
    }

    /// What `lots` are worth at a price, in millionths: the value and the fee are whole numbers of it.
    #[inline]
    fn millionths(self, ticks: i64, lots: i64) -> Option<i128> {
        let one = i128::from(self.tick_lot_millionth());
        match ticks.checked_mul(lots) {
            // A product of two signed 64-bit numbers is one instruction and always fits.
            Some(units) => Some(i128::from(units) * one),
            None => (i128::from(ticks) * i128::from(lots)).checked_mul(one),
        }
    }

    /// What `cash` and `lots` are worth at the prices from `low` to `high`; `None` if there is not one rule for all of them.
    #[inline]
    pub(crate) fn worth(self, cash: Money, lots: i64, low: i64, high: i64) -> Option<Worth> {
        let tick = product(i128::from(lots), self.tick_lot())?;
        let at = |ticks: i64| cash.0.checked_add(product(tick, i128::from(ticks))?);
        // What is in between has the sign and the length of both.
        let (one, other) = (at(low)?, at(high)?);
        let shift = excess(one);
        let is_one_rule = low >= 0 && (1..64).contains(&shift) && shift == excess(other) && (one ^ other) >= 0;
        let unit = 1e24 * f64::from_bits((1023 - u64::from(shift)) << 52);
        is_one_rule.then(|| Worth { cash: cash.0 << (64 - shift), tick: tick << (64 - shift), unit })
    }

    /// The fee for trading a notional, exact.
    #[inline]
    pub fn fee(self, notional: Money) -> Money {
        // Exact: a notional is a multiple of 10^(24 − 12 − 6).
        Money(millionth(notional.0.abs()).saturating_mul(i128::from(self.fee_ppm)))
    }

    /// The most lots that `cash` buys at a price, fee included: `floor(cash / (price · (1 + fee)))`.
    #[inline]
    pub fn affordable(self, cash: Money, ticks: i64) -> i64 {
        let with_fee =
            product(i128::from(self.tick_lot_millionth()) * (PPM + i128::from(self.fee_ppm)), i128::from(ticks));
        with_fee.map_or(0, |one| times(cash.0, one))
    }

    /// The most lots whose notional does not exceed `notional`.
    #[inline]
    pub fn lots_within(self, notional: Money, ticks: i64) -> i64 {
        if notional == Money::MAX {
            return i64::MAX;
        }
        product(self.tick_lot(), i128::from(ticks)).map_or(0, |one| times(notional.0, one))
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
        i128::from(self.tick_lot_millionth()) * PPM
    }

    /// What a lot is worth a tick, in millionths of that: whole, since both decimals together are at most 18.
    #[inline]
    fn tick_lot_millionth(self) -> i64 {
        power_of_ten((DECIMALS - 6).saturating_sub(self.price_decimals).saturating_sub(self.lot_decimals))
    }
}

/// A product, if in range. Where the lengths of both say that it is, the check is left out: it costs more than the product.
#[inline]
fn product(a: i128, b: i128) -> Option<i128> {
    let spare = a.unsigned_abs().leading_zeros() + b.unsigned_abs().leading_zeros();
    // At most 126 bits of 127.
    if spare >= 130 { Some(a.wrapping_mul(b)) } else { a.checked_mul(b) }
}

/// A number of millionths, if in range: the upper half alone tells that it is, in all but the last cases.
#[inline]
fn millions(parts: i128) -> Option<i128> {
    const UPPER_MAX: u64 = (i64::MAX / PPM as i64) as u64 - 1;
    let upper = (parts >> 64) as i64;
    if upper.unsigned_abs() < UPPER_MAX { Some(parts.wrapping_mul(PPM)) } else { parts.checked_mul(PPM) }
}

/// The number as a float, right to the last bit or the one before. A 128-bit conversion is a call: of what does not fit 64
/// bits, the first 63 are converted, and scaled by a power of two.
#[inline]
pub(super) fn float(amount: i128) -> f64 {
    match excess(amount) {
        0 => amount as i64 as f64,
        shift => (amount >> shift) as i64 as f64 * f64::from_bits((1023 + u64::from(shift)) << 52),
    }
}

/// The bits after the first 63 of a number that does not fit 64 bits; 0 of one that does.
#[inline]
fn excess(amount: i128) -> u32 {
    let high = (amount >> 64) as i64;
    if high == amount as i64 >> 63 { 0 } else { 65 - (high ^ (high >> 63)).leading_zeros() }
}

/// A millionth, rounded towards zero: three divisions of 64 bits by a constant, each a product, instead of one of 128
/// bits, which is a call. It is asked for at every fill.
#[inline]
fn millionth(amount: i128) -> i128 {
    const BY: u64 = PPM as u64;
    let (whole, sign) = (amount.unsigned_abs(), amount.signum());
    let (high, low) = ((whole >> 64) as u64, whole as u64);
    let first = ((high % BY) << 32) | (low >> 32);
    let second = ((first % BY) << 32) | (low & 0xffff_ffff);
    let quotient = (u128::from(high / BY) << 64) | (u128::from(first / BY) << 32) | u128::from(second / BY);
    quotient as i128 * sign
}

/// How many times `one` goes into an amount: 0 if either is not above zero, the greatest number if it is too many.
#[inline]
fn times(amount: i128, one: i128) -> i64 {
    /// Up to here an estimate in floats is off by one at most.
    const ESTIMATED_MAX: f64 = 1e15;
    if amount <= 0 || one <= 0 {
        return 0;
    }
    let estimate = float(amount) / float(one);
    if estimate >= ESTIMATED_MAX {
        return i64::try_from(amount / one).unwrap_or(i64::MAX);
    }
    let quotient = estimate as i64;
    let rest = amount - i128::from(quotient) * one;
    quotient + i64::from(rest >= one) - i64::from(rest < 0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn quotients_are_those_of_a_division(amount: i128, one in 1..i128::MAX, shift in 0_u32..127, near in -2_i128..3) {
            let (amount, one) = (amount >> (shift / 2), (one >> shift).max(1));
            prop_assert_eq!(millionth(amount), amount / PPM);
            prop_assert_eq!(product(amount, one >> (127 - shift)), amount.checked_mul(one >> (127 - shift)));
            // And where it is nearly a whole number of times.
            for amount in [amount, (amount / one * one).saturating_add(near)] {
                let expected = if amount > 0 { i64::try_from(amount / one).unwrap_or(i64::MAX) } else { 0 };
                prop_assert_eq!(times(amount, one), expected, "{} / {}", amount, one);
            }
        }
    }

    #[test]
    fn an_amount_is_read_from_a_text_or_a_whole_number() {
        let read = |json: &str| serde_json::from_str::<Money>(json);
        for json in ["\"10000\"", "10000", "\"10000.0\""] {
            assert_eq!(read(json).unwrap(), Money::whole(10_000), "{json}");
        }
        assert_eq!(read("-3").unwrap(), Money::whole(-3));
        for bad in ["1.5", "true", "null", "\"abc\"", "18446744073709551615", "9223372036854775807"] {
            assert!(read(bad).is_err(), "{bad}");
        }
        assert!(read("true").unwrap_err().to_string().contains("an amount, as a text such as \"10000.25\""));
    }

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
    fn what_an_account_is_worth_is_its_exact_equity_as_a_float() {
        let terms = Terms::new(Scale::new(3, 1).unwrap(), 3, 0).unwrap();
        let mut answered = 0;
        for lots in [1, -1, 376_000, -376_000, 9_000_000_000, -9_000_000_000, i64::MAX] {
            for cash in ["0", "7", "-7", "10000.25", "-10034.000000000000000000000001"] {
                let cash: Money = cash.parse().unwrap();
                let prices = [0, 1, 2, 26_650, 26_651, 30_000, 10_i64.pow(9), 10_i64.pow(15), i64::MAX];
                for pair in prices.windows(2) {
                    let Some(worth) = terms.worth(cash, lots, pair[0], pair[1]) else { continue };
                    answered += 1;
                    for ticks in [pair[0], i64::midpoint(pair[0], pair[1]), pair[1]] {
                        let exact = terms.value(ticks, lots).and_then(|value| value.plus(cash)).unwrap();
                        assert_eq!(worth.at(ticks), exact.to_f64(), "{cash} and {lots} lots at {ticks}");
                    }
                }
            }
        }
        assert!(answered > 50, "{answered}");
    }

    #[test]
    fn the_value_of_a_volume_is_exact_and_ends_at_the_range() {
        let scale = Scale::new(3, 1).unwrap();
        assert_eq!(Money::of_volume(scale, 26_806, 2_233_575).to_string(), "5987321.145");
        assert_eq!(Money::of_volume(Scale::default(), i64::MAX, i64::MAX), Money::MAX);
        assert_eq!(Money::of_volume(Scale::new(12, 12).unwrap(), 1, 1).to_string(), "0.000000000000000000000001");
    }

    #[test]
    fn an_account_has_a_limit() {
        assert_eq!(Money::ACCOUNT_MAX.of_account(), Ok(Money::ACCOUNT_MAX));
        let more = Money::ACCOUNT_MAX.plus(Money::whole(1)).unwrap();
        for amount in [more, Money::ZERO.minus(more).unwrap()] {
            let error = amount.of_account().unwrap_err().to_string();
            assert!(error.contains("50000000000001") && error.ends_with("limit of 50000000000000"), "{error}");
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
