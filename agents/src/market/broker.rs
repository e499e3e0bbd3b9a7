//! The paper broker: approved targets become orders at the close and fills at the next open.
//!
//! Series share one cash account and are filled in the order in which their candles come. A fill's arithmetic is that of
//! the back-test ([`execute`]). Client ids derive from series and decision time, and the broker
//! remembers the last decision of each series: an approval that is delivered again cannot fill twice. A fill price
//! outside the candle's range is an error that must stop the desk; the books are untouched then.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::candle::{Candle, SeriesKey};
use super::fill::{Execution, Executions, Exits, Guard, Hit, execute, leave};
use super::money::{Money, MoneyError, Terms};

/// An approved target that waits for the next open.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Order {
    /// Open time of the candle at whose close it was decided.
    pub decided_at: i64,
    /// −1 to 1.
    pub target: f64,
    /// The most that the new position may be worth at its entry.
    pub notional_max: Money,
}

/// One fill of a series, as published.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fill {
    /// Client id: `SERIES.DECIDED_AT.LEG`, or `SERIES.TIME.stop` and `.limit` for what nobody ordered; the same however
    /// often the order is delivered.
    pub id: String,
    /// Which series.
    pub series: SeriesKey,
    /// Open time of the candle at whose open it was filled.
    pub time: i64,
    /// What was traded, and what it left.
    pub execution: Execution,
}

/// Why the broker refuses. All but [`BrokerError::Stale`] and [`BrokerError::Money`] must stop the desk.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum BrokerError {
    /// The price of a fill is not one that the candle traded at.
    #[error("{series}: fill at {price} ticks lies outside the candle's {low} to {high}, candle {time}")]
    OutsideRange {
        /// Which series.
        series: SeriesKey,
        /// Open time of the candle.
        time: i64,
        /// Price of the fill.
        price: i64,
        /// Lowest price of the candle.
        low: i64,
        /// Highest price of the candle.
        high: i64,
    },
    /// The decision is not newer than the last one taken: delivered again, or out of order. Nothing was changed.
    #[error("{series}: order decided at {decided_at} is not newer than the last one, {last}")]
    Stale {
        /// Which series.
        series: SeriesKey,
        /// Decision time of the order.
        decided_at: i64,
        /// Last decision time taken.
        last: i64,
    },
    /// The series has no terms.
    #[error("{series}: no terms of trade are known")]
    UnknownSeries {
        /// Which series.
        series: SeriesKey,
    },
    /// An amount exceeded the range of money or the limit of an account. This does not stop the desk: see
    /// [`Broker::give_up`].
    #[error("{series}: {error}")]
    Money {
        /// Which series.
        series: SeriesKey,
        /// What happened.
        #[source]
        error: MoneyError,
    },
}

/// One series at the broker: a few numbers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Desk {
    terms: Terms,
    lots: i64,
    order: Option<Order>,
    last_decided_at: Option<i64>,
    #[serde(default, skip_serializing_if = "Exits::is_none")]
    exits: Exits,
    /// The levels of the open position.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    guard: Option<Guard>,
}

/// The paper broker's books. Its JSON is about 150 bytes a series.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Broker {
    cash: Money,
    /// Ordered, because its order can decide.
    desks: BTreeMap<SeriesKey, Desk>,
}

impl Broker {
    /// Books that hold `cash` and no position.
    pub fn new(cash: Money) -> Self {
        Self { cash, desks: BTreeMap::new() }
    }

    /// Makes a series known, with where its positions are left unasked. Both stay as they were first given.
    pub fn open(&mut self, series: &SeriesKey, terms: Terms, exits: Exits) {
        if !self.desks.contains_key(series) {
            let desk = Desk { terms, lots: 0, order: None, last_decided_at: None, exits, guard: None };
            self.desks.insert(series.clone(), desk);
        }
    }

    /// Whether a series is known.
    pub fn knows(&self, series: &SeriesKey) -> bool {
        self.desks.contains_key(series)
    }

    /// Cash now.
    pub fn cash(&self) -> Money {
        self.cash
    }

    /// Position of a series now, in lots.
    pub fn lots(&self, series: &SeriesKey) -> i64 {
        self.desks.get(series).map_or(0, |desk| desk.lots)
    }

    /// The order that waits for the next open, if any.
    pub fn pending(&self, series: &SeriesKey) -> Option<&Order> {
        self.desks.get(series)?.order.as_ref()
    }

    /// Takes an approved order; a newer one replaces one that still waits. Returns its client id.
    ///
    /// # Errors
    /// [`BrokerError::Stale`] for a decision already taken, [`BrokerError::UnknownSeries`].
    pub fn submit(&mut self, series: &SeriesKey, order: Order) -> Result<String, BrokerError> {
        let desk = self.desk(series)?;
        if let Some(last) = desk.last_decided_at.filter(|last| order.decided_at <= *last) {
            return Err(BrokerError::Stale { series: series.clone(), decided_at: order.decided_at, last });
        }
        desk.last_decided_at = Some(order.decided_at);
        desk.order = Some(order);
        Ok(format!("{series}.{}", order.decided_at))
    }

    /// Fills what waits at the candle's open, then what its prices reach: a stop or a limit. An order fills only at a candle
    /// later than its decision.
    ///
    /// # Errors
    /// [`BrokerError::OutsideRange`] if the price is not within the candle, [`BrokerError::Money`]; the books are as before.
    #[inline]
    pub fn candle(&mut self, series: &SeriesKey, candle: &Candle) -> Result<Vec<Fill>, BrokerError> {
        let cash = self.cash;
        let desk = self.desk(series)?;
        let due = desk.order.filter(|order| candle.time > order.decided_at);
        if due.is_none() && desk.guard.is_none() {
            return Ok(Vec::new());
        }
        // On a copy: an error leaves the books as they were.
        let mut after = desk.clone();
        let (cash, fills) = after.fills(series, candle, cash, due)?;
        *desk = after;
        self.cash = cash;
        Ok(fills)
    }

    /// Gives up an order that cannot be filled because an amount would exceed its limit. An opening order is dropped
    /// and returned; the closing part of an order still waits.
    pub fn give_up(&mut self, series: &SeriesKey) -> Option<Order> {
        let desk = self.desks.get_mut(series)?;
        let order = desk.order.filter(|order| order.target != 0.0)?;
        desk.order = (desk.lots != 0).then_some(Order { target: 0.0, notional_max: Money::ZERO, ..order });
        Some(order)
    }

    /// Closes the position of a series at a price, as a back-test does at its end.
    ///
    /// # Errors
    /// As [`Broker::candle`].
    pub fn close(&mut self, series: &SeriesKey, price: i64, time: i64) -> Result<Option<Fill>, BrokerError> {
        let cash = self.cash;
        let desk = self.desk(series)?;
        let money = |error| BrokerError::Money { series: series.clone(), error };
        let [closed, _] = execute(desk.terms, cash, desk.lots, 0.0, price, Money::ZERO).map_err(money)?;
        if let Some(execution) = &closed {
            of_account(desk.terms, execution).map_err(money)?;
        }
        desk.order = None;
        let Some(execution) = closed else { return Ok(None) };
        (desk.lots, desk.guard) = (0, None);
        self.cash = execution.cash_after;
        Ok(Some(Fill { id: format!("{series}.{time}.end"), series: series.clone(), time, execution }))
    }

    fn desk(&mut self, series: &SeriesKey) -> Result<&mut Desk, BrokerError> {
        self.desks.get_mut(series).ok_or_else(|| BrokerError::UnknownSeries { series: series.clone() })
    }
}

/// Checks the traded amount of an execution and the resulting amounts against the limit of an account.
fn of_account(terms: Terms, execution: &Execution) -> Result<(), MoneyError> {
    terms.value(execution.price, execution.lots)?.of_account()?;
    execution.cash_after.of_account().map(drop)
}

impl Desk {
    /// What a candle fills, and the cash behind it.
    fn fills(
        &mut self,
        series: &SeriesKey,
        candle: &Candle,
        mut cash: Money,
        due: Option<Order>,
    ) -> Result<(Money, Vec<Fill>), BrokerError> {
        let Candle { time, low, high, .. } = *candle;
        let in_range = |price: i64| match price < low || price > high {
            true => Err(BrokerError::OutsideRange { series: series.clone(), time, price, low, high }),
            false => Ok(()),
        };
        let money = |error| BrokerError::Money { series: series.clone(), error };
        let mut fills = Vec::new();
        if let Some(order) = due {
            in_range(candle.open)?;
            let Order { decided_at, target, notional_max } = order;
            let executions: Executions =
                execute(self.terms, cash, self.lots, target, candle.open, notional_max).map_err(money)?;
            self.order = None;
            for execution in executions.into_iter().flatten() {
                of_account(self.terms, &execution).map_err(money)?;
                (self.lots, cash) = (execution.lots_after, execution.cash_after);
                self.guard = self.exits.guard(execution.price, self.lots);
                let id = format!("{series}.{decided_at}.{}", fills.len());
                fills.push(Fill { id, series: series.clone(), time, execution });
            }
        }
        if let Some(hit) = self.guard.and_then(|guard| guard.hit(candle, self.lots)) {
            let (price, name) = match hit {
                Hit::Stop(price) => (price, "stop"),
                Hit::Limit(price) => (price, "limit"),
            };
            in_range(price)?;
            let execution = leave(self.terms, cash, self.lots, hit).map_err(money)?;
            of_account(self.terms, &execution).map_err(money)?;
            (self.lots, self.guard, cash) = (0, None, execution.cash_after);
            fills.push(Fill { id: format!("{series}.{time}.{name}"), series: series.clone(), time, execution });
        }
        Ok((cash, fills))
    }
}

#[cfg(test)]
mod tests {
    use super::super::candle::Scale;
    use super::*;

    fn broker() -> (Broker, SeriesKey) {
        let series: SeriesKey = "BTC.1m".parse().unwrap();
        let mut broker = Broker::new(Money::whole(1_000));
        broker.open(&series, Terms::new(Scale::new(2, 0).unwrap(), 0, 1_000).unwrap(), Exits::default());
        (broker, series)
    }

    fn order(decided_at: i64) -> Order {
        Order { decided_at, target: 1.0, notional_max: Money::MAX }
    }

    fn candle(time: i64) -> Candle {
        Candle { time, open: 10_000, high: 10_100, low: 9_900, close: 10_050, volume: 1 }
    }

    #[test]
    fn an_order_fills_at_the_next_open_and_only_once() {
        let (mut broker, series) = broker();
        broker.submit(&series, order(60)).unwrap();
        assert_eq!(broker.candle(&series, &candle(60)).unwrap(), []);
        let fills = broker.candle(&series, &candle(120)).unwrap();
        assert_eq!((fills.len(), fills[0].id.as_str(), fills[0].execution.lots), (1, "BTC.1m.60.0", 9));
        assert!(matches!(broker.submit(&series, order(60)), Err(BrokerError::Stale { .. })));
        assert_eq!(broker.candle(&series, &candle(180)).unwrap(), []);
        assert_eq!((broker.lots(&series), broker.cash().to_string().as_str()), (9, "99.1"));
    }

    #[test]
    fn a_fill_outside_the_candle_is_an_error_and_changes_nothing() {
        let (mut broker, series) = broker();
        broker.submit(&series, order(60)).unwrap();
        let before = broker.clone();
        let bad = Candle { open: 10_101, ..candle(120) };
        assert!(matches!(broker.candle(&series, &bad), Err(BrokerError::OutsideRange { price: 10_101, .. })));
        assert_eq!(broker, before);
    }

    /// An amount out of range failed the team again at every restart.
    #[test]
    fn what_is_out_of_range_is_given_up_but_a_position_still_waits_to_be_closed() {
        let (mut broker, series) = broker();
        broker.submit(&series, order(60)).unwrap();
        broker.candle(&series, &candle(120)).unwrap();
        broker.submit(&series, Order { target: -1.0, ..order(120) }).unwrap();
        let high = Candle { open: 1_000_000_000_000_000, high: 1_000_000_000_000_000, ..candle(180) };
        let before = broker.clone();
        let error = broker.candle(&series, &high).unwrap_err();
        assert!(matches!(error, BrokerError::Money { error: MoneyError::Account { .. }, .. }), "{error}");
        assert_eq!(broker, before);
        assert_eq!(broker.give_up(&series).map(|order| order.target), Some(-1.0));
        assert_eq!(broker.give_up(&series), None);
        let [fill] = &broker.candle(&series, &candle(240)).unwrap()[..] else { panic!("closed once it can be") };
        assert_eq!((fill.execution.lots, fill.execution.lots_after), (-9, 0));
        broker.submit(&series, order(240)).unwrap();
        assert!(broker.give_up(&series).is_some() && broker.pending(&series).is_none());
    }

    #[test]
    fn state_round_trips() {
        let (mut broker, series) = broker();
        broker.submit(&series, Order { target: 0.1 + 0.2, ..order(60) }).unwrap();
        let json = serde_json::to_string(&broker).unwrap();
        assert_eq!(serde_json::from_str::<Broker>(&json).unwrap(), broker);
    }
}
