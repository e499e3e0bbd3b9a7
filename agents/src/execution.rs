//! The paper broker: fills at the next open what was approved at the close, then marks the candle.
//!
//! A candle's open trades what was approved before it, its prices trade the stop or limit of what is held; its close is a
//! passing mark, after the fills. Client ids derive
//! from the decision, so an approval that comes again cannot fill twice; a fill outside the candle's range is an error,
//! and an event that keeps failing here stops the team. An amount out of range is not an error: the fill is not made,
//! and risk halts the desk. The arithmetic is the back-test's ([`crate::market::broker`]).

use std::collections::BTreeMap;

use async_trait::async_trait;
use atra_bus::Event;
use atra_runtime::{Agent, AgentError, AgentSpec, Context, OnPoison, Query, StateReader, StateWriter};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    desk::Account,
    events::{Approved, CandleJson, Closed, End, Mark, OrderRejected, OutOfRange, Submitted},
    market::{
        broker::{Broker, BrokerError, Fill, Order},
        candle::{SeriesCandle, SeriesKey},
        money::MoneyError,
    },
};

const STATE: &str = "broker";

/// The last close of a series.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct LastClose {
    time: i64,
    close: i64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Books {
    broker: Broker,
    last: BTreeMap<SeriesKey, LastClose>,
    fills: u64,
    rejected: u64,
}

/// The agent.
pub(crate) struct Execution {
    account: Account,
    books: Books,
    is_changed: bool,
}

impl Execution {
    pub(crate) fn new(account: Account) -> Self {
        let books = Books { broker: Broker::new(account.cash), last: BTreeMap::new(), fills: 0, rejected: 0 };
        Self { account, books, is_changed: false }
    }

    fn candle(&mut self, event: &SeriesCandle, cx: &mut Context<'_>) -> Result<(), AgentError> {
        let SeriesCandle { series, scale, candle } = event;
        let last = LastClose { time: candle.time, close: candle.close };
        match self.books.last.get_mut(series) {
            Some(slot) => *slot = last,
            None => {
                self.books.broker.open(series, self.account.terms(*scale)?, self.account.exits);
                self.books.last.insert(series.clone(), last);
            }
        }
        match self.books.broker.candle(series, candle) {
            Ok(fills) => {
                for fill in fills {
                    self.books.fills += 1;
                    cx.publish(fill)?;
                }
            }
            Err(BrokerError::Money { error, .. }) => self.out_of_range(series, candle.time, &error, cx)?,
            Err(error) => return Err(error.into()),
        }
        cx.publish(Mark { series: series.clone(), scale: *scale, candle: CandleJson(*candle) })?;
        Ok(())
    }

    /// A fill would move an amount out of range: the part that opens is rejected, and risk halts the desk.
    fn out_of_range(
        &mut self,
        series: &SeriesKey,
        time: i64,
        error: &MoneyError,
        cx: &mut Context<'_>,
    ) -> Result<(), AgentError> {
        let reason = format!("fill not made: {error}");
        if let Some(order) = self.books.broker.give_up(series) {
            self.books.rejected += 1;
            cx.publish(OrderRejected { series: series.clone(), time: order.decided_at, reason: reason.clone() })?;
        }
        cx.publish(OutOfRange { series: series.clone(), time, reason })?;
        Ok(())
    }

    fn approved(&mut self, approved: &Approved, cx: &mut Context<'_>) -> Result<(), AgentError> {
        let Approved { series, time, target, notional_max, .. } = approved;
        let order = Order { decided_at: *time, target: *target, notional_max: *notional_max };
        match self.books.broker.submit(series, order) {
            Ok(id) => cx.publish(Submitted { id, series: series.clone(), time: *time, target: *target })?,
            Err(error @ (BrokerError::Stale { .. } | BrokerError::UnknownSeries { .. })) => {
                self.books.rejected += 1;
                cx.publish(OrderRejected { series: series.clone(), time: *time, reason: error.to_string() })?
            }
            Err(error) => return Err(error.into()),
        };
        Ok(())
    }

    /// The candles have ended: a back-test closes what is open, a run leaves it.
    fn end(&mut self, cx: &mut Context<'_>) -> Result<(), AgentError> {
        if self.account.close_at_end {
            for (series, LastClose { time, close }) in self.books.last.clone() {
                match self.books.broker.close(&series, close, time) {
                    Ok(Some(fill)) => {
                        self.books.fills += 1;
                        cx.publish(fill)?;
                    }
                    Ok(None) => {}
                    Err(BrokerError::Money { error, .. }) => self.out_of_range(&series, time, &error, cx)?,
                    Err(error) => return Err(error.into()),
                }
            }
        }
        cx.publish(Closed {})?;
        Ok(())
    }
}

#[async_trait]
impl Agent for Execution {
    fn spec(&self) -> AgentSpec {
        AgentSpec::new("execution")
            .handles::<SeriesCandle>()
            .handles::<Approved>()
            .handles::<End>()
            .publishes::<Mark>()
            .publishes::<Fill>()
            .publishes::<Submitted>()
            .publishes::<OrderRejected>()
            .publishes::<Closed>()
            .publishes::<OutOfRange>()
            .on_poison(OnPoison::Stop)
    }

    async fn start(&mut self, state: &StateReader<'_>) -> Result<(), AgentError> {
        if let Some(books) = state.get(STATE)? {
            self.books = books;
        }
        Ok(())
    }

    async fn handle(&mut self, event: &Event, cx: &mut Context<'_>) -> Result<(), AgentError> {
        self.is_changed = true;
        if let Some(candle) = event.as_type::<SeriesCandle>()? {
            return self.candle(candle, cx);
        }
        if let Some(approved) = event.as_type::<Approved>()? {
            return self.approved(approved, cx);
        }
        if event.is::<End>() { self.end(cx) } else { Ok(()) }
    }

    fn save(&mut self, state: &mut StateWriter<'_>) -> Result<(), AgentError> {
        if std::mem::take(&mut self.is_changed) { state.put(STATE, &self.books) } else { Ok(()) }
    }

    fn query(&self, query: &Query) -> Result<Value, AgentError> {
        let Books { broker, last, fills, rejected } = &self.books;
        match query.name.as_str() {
            "status" => {
                let open = |series: &SeriesKey| json!({ "series": series, "lots": broker.lots(series), "order": broker.pending(series) });
                let series: Vec<Value> = last.keys().map(open).collect();
                Ok(json!({ "cash": broker.cash(), "fills": fills, "rejected": rejected, "series": series }))
            }
            other => Err(AgentError::new(format!("execution does not answer {other:?}; ask for status"))),
        }
    }
}
