//! The portfolio: an independent set of books over the broker's fills, and the report.
//!
//! It hears fills and marks from execution, fills first, so it closes a candle on the mark. Each fill is compared with
//! what the broker says that it left; cash + Σ position × price must be the equity ([`crate::market::portfolio`]). A
//! mismatch is an error, and an event that keeps failing here stops the team: a ledger that is wrong is worse than none.
//! An amount out of range is not an error: the books do not change, and risk halts the desk.
//!
//! Journalled are changes of position, and the equity once a day and once a fill; the equity of each candle is passing.

use std::{cmp::Reverse, collections::BTreeMap};

use async_trait::async_trait;
use atra_bus::Event;
use atra_runtime::{Agent, AgentError, AgentSpec, Context, OnPoison, Query, StateReader, StateWriter};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    desk::Account,
    events::{Closed, DailyEquity, Denied, Equity, Halt, Mark, OutOfRange, PositionChanged, StateChanged},
    market::{
        broker::Fill,
        candle::{Scale, SeriesKey},
        fill::Trade,
        money::Money,
        portfolio::{Holding, Portfolio as Ledger, PortfolioError},
        risk::{DenyCode, RiskLimits, RiskState},
    },
    report::{DeskReport, PositionReport, SeriesReport},
};

const STATE: &str = "books";
const DAY_MILLIS: i64 = 86_400_000;

/// What the portfolio knows of a series beside the ledger.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Followed {
    scale: Scale,
    first_time: i64,
    first_open: i64,
    last_time: i64,
    last_close: i64,
    candles: u64,
    trades: u64,
    wins: u64,
    profit: Money,
    fees: Money,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Books {
    ledger: Ledger,
    /// Open time of the candle of the last mark; never goes back, though series have different intervals.
    marked_at: Option<i64>,
    series: BTreeMap<SeriesKey, Followed>,
    /// What risk has said, for the report.
    #[serde(default)]
    risk: RiskSaid,
    /// Whether a fill could not be booked, since an amount exceeded its limit: later fills are not booked either.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    is_broken: bool,
}

/// What risk has said.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct RiskSaid {
    state: RiskState,
    is_killed: bool,
    /// Series that are stopped by their own losses.
    #[serde(default, skip_serializing_if = "is_none")]
    stopped: usize,
    /// Everything that is halted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    halts: Vec<Halt>,
    denied: u64,
    /// How often for each reason.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    reasons: BTreeMap<DenyCode, u64>,
}

/// Whether nothing is stopped: not written then, so that a desk without this limit keeps what it wrote before.
fn is_none(stopped: &usize) -> bool {
    *stopped == 0
}

impl RiskSaid {
    fn text(&self, limits: &RiskLimits) -> String {
        let state = match self.state {
            _ if self.is_killed => "halted by a caller",
            RiskState::Active => "active",
            RiskState::Reducing => "reducing",
            RiskState::Halted => "halted",
        };
        // A limit of the whole never triggers.
        let unset = match (limits.drawdown_max_ppm < 1_000_000, limits.daily_loss_max_ppm < 1_000_000) {
            (true, true) => "",
            (false, true) => "; no drawdown limit set",
            (true, false) => "; no daily-loss limit set",
            (false, false) => "; no drawdown or daily-loss limit set",
        };
        let stopped = if self.stopped > 0 { format!(", {} series stopped", self.stopped) } else { String::new() };
        let mut reasons: Vec<_> = self.reasons.iter().collect();
        reasons.sort_by_key(|(code, n)| (Reverse(**n), **code));
        let reasons: Vec<String> = reasons.iter().map(|(code, n)| format!("{n} {}", code.name())).collect();
        let reasons = if reasons.is_empty() { String::new() } else { format!(" ({})", reasons.join(", ")) };
        let halts: String = self.halts.iter().map(|halt| format!("; {halt}")).collect();
        format!("{state}{stopped}, {} denied{reasons}{unset}{halts}", self.denied)
    }
}

/// The agent.
pub(crate) struct PortfolioAgent {
    account: Account,
    limits: RiskLimits,
    books: Books,
    is_changed: bool,
    /// Whether a fill came since the last mark; fills and mark are of one turn, so this never crosses a step.
    is_filled: bool,
}

impl PortfolioAgent {
    pub(crate) fn new(account: Account, limits: RiskLimits) -> Self {
        let ledger = Ledger::new(account.cash);
        let (series, risk) = (BTreeMap::new(), RiskSaid::default());
        let books = Books { ledger, marked_at: None, series, risk, is_broken: false };
        Self { account, limits, books, is_changed: false, is_filled: false }
    }

    fn fill(&mut self, fill: &Fill, cx: &mut Context<'_>) -> Result<(), AgentError> {
        if self.books.is_broken {
            return Ok(());
        }
        let trade = match self.books.ledger.fill(fill) {
            Ok(trade) => trade,
            Err(PortfolioError::Money(error)) => {
                self.books.is_broken = true;
                let reason = format!("fill {} not booked, and none after it: {error}", fill.id);
                cx.publish(OutOfRange { series: fill.series.clone(), time: fill.time, reason })?;
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        if let Some(followed) = self.books.series.get_mut(&fill.series) {
            followed.fees = followed.fees.saturating_plus(fill.execution.fee);
            if let Some(Trade { profit, .. }) = trade {
                followed.trades += 1;
                followed.wins += u64::from(profit > Money::ZERO);
                followed.profit = followed.profit.saturating_plus(profit);
            }
        }
        self.is_filled = true;
        let (lots, cash) = (fill.execution.lots_after, self.books.ledger.cash());
        let changed = PositionChanged { series: fill.series.clone(), time: fill.time, lots, cash, trade };
        cx.put(&format!("portfolio.position.{}", fill.series), changed.clone())?;
        cx.publish(changed)?;
        Ok(())
    }

    fn mark(&mut self, mark: &Mark, cx: &mut Context<'_>) -> Result<(), AgentError> {
        let Mark { series, scale, candle: crate::events::CandleJson(candle) } = mark;
        self.daily(candle.time, cx)?;
        let Books { ledger, marked_at, series: followed, .. } = &mut self.books;
        match followed.get_mut(series) {
            Some(followed) => {
                (followed.last_time, followed.last_close) = (candle.time, candle.close);
                followed.candles += 1;
            }
            None => {
                ledger.open(series, self.account.terms(*scale)?);
                let new = Followed {
                    scale: *scale,
                    first_time: candle.time,
                    first_open: candle.open,
                    last_time: candle.time,
                    last_close: candle.close,
                    candles: 1,
                    trades: 0,
                    wins: 0,
                    profit: Money::ZERO,
                    fees: Money::ZERO,
                };
                followed.insert(series.clone(), new);
            }
        }
        let at = marked_at.map_or(candle.time, |last| last.max(candle.time));
        *marked_at = Some(at);
        match ledger.mark(series, at, candle.close) {
            Ok(_) => {}
            Err(PortfolioError::Money(error)) => {
                ledger.skip(at);
                let reason = format!("mark not taken, the value before it stands: {error}");
                cx.publish(OutOfRange { series: series.clone(), time: candle.time, reason })?;
            }
            Err(error) => return Err(error.into()),
        }
        let held = ledger.holding(series).map_or(Money::ZERO, Holding::value);
        let (time, close, equity, gross) = (candle.time, candle.close, ledger.equity(), ledger.gross());
        let traded = (candle.volume > 0).then(|| Money::of_volume(*scale, candle.close, candle.volume));
        if std::mem::take(&mut self.is_filled) {
            cx.publish(self.equity_now(at))?;
        }
        cx.publish(Equity { series: series.clone(), time, close, equity, gross, held, traded })?;
        Ok(())
    }

    /// With the first candle of a day, the equity that the day before ended with, checked against the sum.
    fn daily(&self, time: i64, cx: &mut Context<'_>) -> Result<(), AgentError> {
        if let Some(last) = self.books.marked_at
            && time.div_euclid(DAY_MILLIS) > last.div_euclid(DAY_MILLIS)
        {
            self.books.ledger.check()?;
            cx.publish(self.equity_now(last))?;
        }
        Ok(())
    }

    fn equity_now(&self, time: i64) -> DailyEquity {
        let ledger = &self.books.ledger;
        DailyEquity { time, equity: ledger.equity(), cash: ledger.cash(), drawdown: ledger.drawdown() }
    }

    /// The candles have ended, and the broker has closed what it closes.
    fn closed(&mut self, cx: &mut Context<'_>) -> Result<(), AgentError> {
        if std::mem::take(&mut self.is_filled)
            && let Some(at) = self.books.marked_at
        {
            // Marked again at the last closes, so that the fees of the last fills are in the curve.
            for (series, followed) in &self.books.series {
                match self.books.ledger.mark(series, at, followed.last_close) {
                    // Told when its candle was marked.
                    Ok(_) | Err(PortfolioError::Money(_)) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            cx.publish(self.equity_now(at))?;
        }
        self.books.ledger.check()?;
        cx.publish(self.report()?)?;
        Ok(())
    }

    fn report(&self) -> Result<DeskReport, AgentError> {
        let Books { ledger, series, risk, .. } = &self.books;
        let mut positions = Vec::new();
        let mut each = Vec::new();
        let mut fees = Money::ZERO;
        for (key, followed) in series {
            let terms = self.account.terms(followed.scale)?;
            fees = fees.saturating_plus(followed.fees);
            let fee = f64::from(terms.fee_ppm()) / 1e6;
            let bought = followed.first_open as f64 * (1.0 + fee);
            each.push(SeriesReport {
                series: key.clone(),
                candles: followed.candles,
                trades: followed.trades,
                wins: followed.wins,
                profit: followed.profit,
                fees: followed.fees,
                buy_and_hold: followed.last_close as f64 * (1.0 - fee) / bought - 1.0,
            });
            let Some(holding) = ledger.holding(key).filter(|holding| holding.position.lots != 0) else { continue };
            positions.push(PositionReport {
                series: key.clone(),
                quantity: terms.quantity(holding.position.lots),
                entry_price: terms.price(holding.position.entry_price),
                entry_time: holding.position.entry_time,
                price: terms.price(holding.price),
                value: holding.value(),
            });
        }
        let from = series.values().map(|followed| followed.first_time).min();
        let to = series.iter().map(|(key, followed)| followed.last_time.saturating_add(key.interval().millis())).max();
        let report = DeskReport::new(&ledger.report(), fees, positions, each, from, to);
        let broken = if self.books.is_broken { "; books ended before a fill that was out of range" } else { "" };
        Ok(DeskReport { risk: Some(risk.text(&self.limits) + broken), ..report })
    }
}

#[async_trait]
impl Agent for PortfolioAgent {
    fn spec(&self) -> AgentSpec {
        AgentSpec::new("portfolio")
            .handles::<Mark>()
            .handles::<Fill>()
            .handles::<Closed>()
            .handles::<Denied>()
            .handles::<StateChanged>()
            .publishes::<Equity>()
            .publishes::<PositionChanged>()
            .publishes::<DailyEquity>()
            .publishes::<DeskReport>()
            .publishes::<OutOfRange>()
            .owns("portfolio.")
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
        if let Some(mark) = event.as_type::<Mark>()? {
            return self.mark(mark, cx);
        }
        if let Some(fill) = event.as_type::<Fill>()? {
            return self.fill(fill, cx);
        }
        if let Some(StateChanged { state, killed, stopped, halts, .. }) = event.as_type()? {
            let risk = &mut self.books.risk;
            (risk.state, risk.is_killed, risk.stopped) = (*state, *killed, stopped.len());
            risk.halts.clone_from(halts);
        } else if let Some(Denied { code, .. }) = event.as_type()? {
            self.books.risk.denied += 1;
            *self.books.risk.reasons.entry(*code).or_default() += 1;
        }
        if event.is::<Closed>() { self.closed(cx) } else { Ok(()) }
    }

    fn save(&mut self, state: &mut StateWriter<'_>) -> Result<(), AgentError> {
        if std::mem::take(&mut self.is_changed) { state.put(STATE, &self.books) } else { Ok(()) }
    }

    fn query(&self, query: &Query) -> Result<Value, AgentError> {
        match query.name.as_str() {
            "report" | "status" => Ok(serde_json::to_value(self.report()?)?),
            other => Err(AgentError::new(format!("portfolio does not answer {other:?}; ask for report"))),
        }
    }
}
