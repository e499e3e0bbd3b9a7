//! What a fill is: sizing, cash, position and trade, exact and in one place.
//!
//! The back-test, the paper broker and the portfolio all trade through these few functions, so they cannot disagree:
//! [`execute`] sizes and fills a target at a price; a [`Position`] turns fills into [`Trade`]s; [`Exits`] leave a
//! position unasked, at a stop or a limit.

use serde::{Deserialize, Serialize};

use super::candle::Candle;
use super::money::{Money, MoneyError, Terms};

/// One purchase or sale and what it left behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Execution {
    /// Lots bought; negative if sold.
    pub lots: i64,
    /// Price in ticks.
    pub price: i64,
    /// Fee paid.
    pub fee: Money,
    /// Cash afterwards.
    pub cash_after: Money,
    /// Position afterwards, in lots; negative is short.
    pub lots_after: i64,
}

/// The executions that bring a position to a target: none, one, or two (a reversal closes first, then opens).
pub type Executions = [Option<Execution>; 2];

/// Brings a position of `lots` to `target` at `price`, with at most `notional_max` in the new position.
///
/// A position already on the target's side stays as it is; anything else is closed, and the new one takes
/// `floor(cash · |target| / (price · (1 + fee)))` lots of the cash that there is then. A target that is no number is 0.
///
/// # Errors
/// [`MoneyError::Overflow`] if an amount leaves the range of [`Money`].
#[inline(always)]
pub fn execute(
    terms: Terms,
    mut cash: Money,
    mut lots: i64,
    target: f64,
    price: i64,
    notional_max: Money,
) -> Result<Executions, MoneyError> {
    let side = if target > 0.0 { 1 } else { -i64::from(target < 0.0) };
    let mut executions = [None; 2];
    if lots.signum() == side {
        return Ok(executions);
    }
    if lots != 0 {
        let closed = trade(terms, cash, lots, -lots, terms.slipped(price, -lots))?;
        (cash, lots) = (closed.cash_after, 0);
        executions[0] = Some(closed);
    }
    if side != 0 {
        let share = (target.abs().min(1.0) * 1e6) as u32;
        let budget = if share == 1_000_000 { cash } else { cash.share(share) };
        let price = terms.slipped(price, side);
        let size = terms.affordable(budget, price).min(terms.lots_within(notional_max, price));
        if size > 0 {
            executions[1] = Some(trade(terms, cash, lots, side * size, price)?);
        }
    }
    Ok(executions)
}

// === stops and limits ===

/// Where a position is left without being asked, as shares of its entry price in parts per million; 0 is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Exits {
    /// A stop: this much against the position.
    pub stop_loss_ppm: u32,
    /// A limit: this much in its favour.
    pub take_profit_ppm: u32,
}

/// The levels of an open position, in ticks. Both are rounded away from the entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Guard {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    stop: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    limit: Option<i64>,
}

/// What a candle did to a guarded position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hit {
    /// The stop was reached: a market order at this price, to which slippage is added.
    Stop(i64),
    /// The limit was passed: filled at this price.
    Limit(i64),
}

impl Exits {
    /// Whether there is neither stop nor limit.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// The levels for a position of `lots` that was entered at `price`; `None` if there are none.
    #[inline]
    pub fn guard(&self, price: i64, lots: i64) -> Option<Guard> {
        if self.is_none() || lots == 0 {
            return None;
        }
        let side = lots.signum();
        // Up is rounded up, down is rounded down; a level below one tick cannot be reached and is none.
        let level = |ppm: u32, side: i64| {
            let distance = (i128::from(price) * i128::from(ppm) + 999_999).div_euclid(1_000_000) as i64;
            Some(price + side * distance).filter(|level| ppm > 0 && *level > 0)
        };
        Some(Guard { stop: level(self.stop_loss_ppm, -side), limit: level(self.take_profit_ppm, side) })
    }
}

impl Guard {
    /// Whether a candle takes a position of `lots` out, and at which price. The order of prices within a candle is not
    /// known, so the worse is taken to have come first:
    ///
    /// | what the candle did | filled |
    /// |---|---|
    /// | opened beyond the stop | at the open |
    /// | reached the stop, whatever else it did | at the stop |
    /// | passed the limit (touching is not enough) | at the limit; beyond a gap at the candle's price nearest to it |
    #[inline]
    pub fn hit(&self, candle: &Candle, lots: i64) -> Option<Hit> {
        let is_long = lots > 0;
        if let Some(stop) = self.stop {
            let (gapped, reached) = if is_long {
                (candle.open <= stop, candle.low <= stop)
            } else {
                (candle.open >= stop, candle.high >= stop)
            };
            if gapped {
                return Some(Hit::Stop(candle.open));
            }
            if reached {
                return Some(Hit::Stop(stop));
            }
        }
        let limit = self.limit?;
        let passed = if is_long { candle.high > limit } else { candle.low < limit };
        let nearest = if is_long { limit.max(candle.low) } else { limit.min(candle.high) };
        passed.then_some(Hit::Limit(nearest))
    }
}

/// Closes a position of `lots` because of a hit.
///
/// # Errors
/// As [`execute`].
pub fn leave(terms: Terms, cash: Money, lots: i64, hit: Hit) -> Result<Execution, MoneyError> {
    let price = match hit {
        Hit::Stop(price) => terms.slipped(price, -lots),
        Hit::Limit(price) => price,
    };
    trade(terms, cash, lots, -lots, price)
}

// === positions ===

#[inline(always)]
fn trade(terms: Terms, cash: Money, lots: i64, change: i64, price: i64) -> Result<Execution, MoneyError> {
    let (value, fee) = terms.value_and_fee(price, change)?;
    let cash_after = cash.minus(value)?.minus(fee)?;
    Ok(Execution { lots: change, price, fee, cash_after, lots_after: lots + change })
}

/// An entry and its exit.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Trade {
    /// Open time of the candle of the entry.
    pub entry_time: i64,
    /// Open time of the candle of the exit.
    pub exit_time: i64,
    /// Size in lots; negative is short.
    pub lots: i64,
    /// Price of the entry, in ticks.
    pub entry_price: i64,
    /// Price of the exit, in ticks.
    pub exit_price: i64,
    /// Profit after both fees.
    pub profit: Money,
    /// Both fees.
    pub fee: Money,
    /// Profit as a share of the entry's notional.
    pub return_share: f64,
}

/// An open position, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Position {
    /// Size in lots; negative is short, 0 is none.
    pub lots: i64,
    /// Price of the entry, in ticks.
    pub entry_price: i64,
    /// Open time of the candle of the entry.
    pub entry_time: i64,
    /// Fee paid at the entry.
    pub entry_fee: Money,
}

impl Position {
    /// Books an execution: opens the position, or closes it and answers the trade and what was traded, the notional of its
    /// entry and exit together. [`execute`] never does a part of it.
    ///
    /// # Errors
    /// [`MoneyError::Overflow`].
    #[inline(always)]
    pub fn book(&mut self, terms: Terms, execution: &Execution, time: i64) -> Result<Option<(Trade, f64)>, MoneyError> {
        let Execution { lots, price, fee, .. } = *execution;
        if self.lots == 0 {
            *self = Self { lots, entry_price: price, entry_time: time, entry_fee: fee };
            return Ok(None);
        }
        let entered = terms.value(self.entry_price, self.lots)?;
        let fees = self.entry_fee.plus(fee)?;
        let left = terms.value(price, self.lots)?;
        let profit = left.minus(entered)?.minus(fees)?;
        let notional = entered.abs().to_f64();
        let trade = Trade {
            entry_time: self.entry_time,
            exit_time: time,
            lots: self.lots,
            entry_price: self.entry_price,
            exit_price: price,
            profit,
            fee: fees,
            return_share: profit.to_f64() / notional,
        };
        *self = Self::default();
        Ok(Some((trade, notional + left.abs().to_f64())))
    }
}

#[cfg(test)]
mod tests {
    use super::super::candle::Scale;
    use super::*;

    fn terms() -> Terms {
        Terms::new(Scale::new(2, 0).unwrap(), 0, 1_000).unwrap()
    }

    #[test]
    fn a_reversal_closes_before_it_opens() {
        let cash = Money::whole(10_000);
        let [None, Some(open)] = execute(terms(), cash, 0, -1.0, 16_902, Money::MAX).unwrap() else { panic!() };
        assert_eq!((open.lots, open.lots_after), (-59, -59));
        let [Some(close), Some(long)] = execute(terms(), open.cash_after, -59, 1.0, 17_913, Money::MAX).unwrap() else {
            panic!()
        };
        assert_eq!((close.lots, long.lots, long.lots_after), (59, 52, 52));
    }

    #[test]
    fn slippage_is_against_the_order_and_rounds_to_the_worse_tick() {
        let terms = terms().with_slippage(500).unwrap();
        assert_eq!((terms.slipped(10_001, 1), terms.slipped(10_001, -1), terms.slipped(1, -1)), (10_007, 9_995, 1));
        let [_, Some(open)] = execute(terms, Money::whole(10_000), 0, 1.0, 10_001, Money::MAX).unwrap() else {
            panic!()
        };
        assert_eq!((open.price, open.lots), (10_007, 99));
        assert!(terms.with_slippage(1_000_000).is_err());
    }

    #[test]
    fn stops_and_limits_take_the_worse_of_what_may_have_been() {
        let exits = Exits { stop_loss_ppm: 20_000, take_profit_ppm: 50_000 };
        let candle = |open, high, low| Candle { time: 0, open, high, low, close: open, volume: 0 };
        let (long, short) = (exits.guard(1_000, 5).unwrap(), exits.guard(1_000, -5).unwrap());
        for (guard, lots, candle, hit) in [
            (long, 5, candle(1_000, 1_049, 981), None),
            (long, 5, candle(1_000, 1_010, 980), Some(Hit::Stop(980))),
            (long, 5, candle(970, 1_100, 960), Some(Hit::Stop(970))),
            (long, 5, candle(1_000, 1_100, 900), Some(Hit::Stop(980))),
            (long, 5, candle(1_000, 1_050, 990), None),
            (long, 5, candle(1_000, 1_051, 990), Some(Hit::Limit(1_050))),
            (long, 5, candle(1_100, 1_110, 1_090), Some(Hit::Limit(1_090))),
            (short, -5, candle(1_000, 1_020, 990), Some(Hit::Stop(1_020))),
            (short, -5, candle(1_030, 1_040, 900), Some(Hit::Stop(1_030))),
            (short, -5, candle(1_000, 1_010, 949), Some(Hit::Limit(950))),
            (short, -5, candle(1_000, 1_010, 950), None),
        ] {
            assert_eq!(guard.hit(&candle, lots), hit, "{candle:?}");
        }
        assert_eq!(Exits::default().guard(1_000, 5), None);
        let stopped = leave(terms().with_slippage(1_000).unwrap(), Money::ZERO, 5, Hit::Stop(980)).unwrap();
        assert_eq!((stopped.price, stopped.lots), (979, -5));
    }

    #[test]
    fn limits_share_and_nonsense() {
        let lots = |target, max| {
            let [_, open] = execute(terms(), Money::whole(10_000), 0, target, 10_000, max).unwrap();
            open.map_or(0, |o| o.lots)
        };
        assert_eq!(lots(1.0, Money::MAX), 99);
        assert_eq!(lots(0.5, Money::MAX), 49);
        assert_eq!(lots(9.0, Money::MAX), 99);
        assert_eq!(lots(1.0, Money::whole(1_000)), 10);
        assert_eq!(lots(1.0, "999.99".parse().unwrap()), 9);
        assert_eq!(lots(1.0, Money::ZERO), 0);
        assert_eq!(lots(f64::NAN, Money::MAX), 0);
        assert_eq!(execute(terms(), Money::ZERO, 5, 1.0, 10_000, Money::MAX).unwrap(), [None; 2]);
    }
}
