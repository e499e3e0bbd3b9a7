//! The portfolio: an independent set of books over the broker's fills, and what they amount to.
//!
//! It books each fill by itself and compares cash and position with what the broker says that they are; and at every
//! fill it checks that cash + Σ position × price is the equity that it carries. A mismatch is a bug or a lost event, and
//! must stop the desk. Money is exact; the statistics are those of the back-test.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::broker::Fill;
use super::candle::SeriesKey;
use super::fill::{Position, Trade};
use super::metrics::{EquityStats, Metrics};
use super::money::{Money, MoneyError, Terms};

/// Why the books are not right. Each must stop the desk.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PortfolioError {
    /// The broker's cash is not the portfolio's.
    #[error("{series}: fill {id} leaves cash {found} at the broker, {expected} in the portfolio")]
    Cash {
        /// Which series.
        series: SeriesKey,
        /// The fill.
        id: String,
        /// Cash as the broker says.
        found: Money,
        /// Cash as the portfolio has it.
        expected: Money,
    },
    /// The broker's position is not the portfolio's.
    #[error("{series}: fill {id} leaves {found} lots at the broker, {expected} in the portfolio")]
    Lots {
        /// Which series.
        series: SeriesKey,
        /// The fill.
        id: String,
        /// Lots as the broker says.
        found: i64,
        /// Lots as the portfolio has them.
        expected: i64,
    },
    /// Cash and positions do not add up to the equity.
    #[error("equity is {carried}, but cash and positions add up to {counted}")]
    Equity {
        /// The equity carried forward.
        carried: Money,
        /// What cash and positions add up to.
        counted: Money,
    },
    /// The series has no terms.
    #[error("{series}: no terms of trade are known")]
    UnknownSeries {
        /// Which series.
        series: SeriesKey,
    },
    /// An amount left the range of money.
    #[error("{0}")]
    Money(#[from] MoneyError),
}

/// What the portfolio holds of one series.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holding {
    /// The open position, or none.
    pub position: Position,
    /// Last price known, in ticks.
    pub price: i64,
    terms: Terms,
    /// Position × price.
    value: Money,
}

impl Holding {
    /// Position × price, as of the last mark that was in range.
    pub fn value(&self) -> Money {
        self.value
    }
}

/// The portfolio's books.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Portfolio {
    start: Money,
    cash: Money,
    /// Cash + Σ value, carried forward by differences and checked against the sum.
    equity: Money,
    holdings: BTreeMap<SeriesKey, Holding>,
    /// Holdings with a position.
    open: usize,
    stats: EquityStats,
}

/// What a desk amounts to: its metrics and what buying and holding would have made is for the reader to compare.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Cash at the start.
    pub start: Money,
    /// Cash now.
    pub cash: Money,
    /// Cash and positions now.
    pub equity: Money,
    /// Series with an open position.
    pub open_positions: usize,
    /// The metrics as of the last mark.
    pub metrics: Metrics,
}

impl Portfolio {
    /// Books that hold `cash` and no position.
    pub fn new(cash: Money) -> Self {
        Self {
            start: cash,
            cash,
            equity: cash,
            holdings: BTreeMap::new(),
            open: 0,
            stats: EquityStats::new(cash.to_f64()),
        }
    }

    /// Makes a series known. Its terms stay as they were first given.
    pub fn open(&mut self, series: &SeriesKey, terms: Terms) {
        if !self.holdings.contains_key(series) {
            let holding = Holding { position: Position::default(), price: 0, terms, value: Money::ZERO };
            self.holdings.insert(series.clone(), holding);
        }
    }

    /// Cash and positions at the last marks.
    pub fn equity(&self) -> Money {
        self.equity
    }

    /// Cash now.
    pub fn cash(&self) -> Money {
        self.cash
    }

    /// What is held of a series.
    pub fn holding(&self, series: &SeriesKey) -> Option<&Holding> {
        self.holdings.get(series)
    }

    /// Sum of the absolute values of all positions.
    pub fn gross(&self) -> Money {
        let abs = |value: Money| if value.is_negative() { Money::ZERO.minus(value) } else { Ok(value) };
        self.holdings.values().try_fold(Money::ZERO, |sum, holding| sum.plus(abs(holding.value)?)).unwrap_or(Money::MAX)
    }

    /// Books a fill; answers the trade that it closed, if it closed one.
    ///
    /// # Errors
    /// A disagreement with the broker or among the books. The books must not be used any more. With
    /// [`PortfolioError::Money`] they do not change, and they no longer match the broker's.
    pub fn fill(&mut self, fill: &Fill) -> Result<Option<Trade>, PortfolioError> {
        let execution = &fill.execution;
        let holding = Self::known(&mut self.holdings, &fill.series)?;
        let terms = holding.terms;
        // On a copy: an amount out of range leaves the books as they were.
        let mut after = *holding;
        let closed = after.position.book(terms, execution, fill.time)?;
        let worth = terms.value(execution.price, execution.lots)?;
        let cash = self.cash.minus(worth)?.minus(terms.fee(worth))?;
        if cash != execution.cash_after {
            let (found, expected) = (execution.cash_after, cash);
            return Err(PortfolioError::Cash { series: fill.series.clone(), id: fill.id.clone(), found, expected });
        }
        if after.position.lots != execution.lots_after {
            let (found, expected) = (execution.lots_after, after.position.lots);
            return Err(PortfolioError::Lots { series: fill.series.clone(), id: fill.id.clone(), found, expected });
        }
        // By differences: a fill moves cash and position at one price, so only that price's change and the fee remain.
        let value = terms.value(execution.price, after.position.lots)?;
        let moved = value.minus(after.value)?.minus(worth)?;
        (after.value, after.price) = (value, execution.price);
        let equity = self.equity.plus(moved)?.minus(terms.fee(worth))?;
        *holding = after;
        (self.cash, self.equity) = (cash, equity);
        self.open = self.holdings.values().filter(|holding| holding.position.lots != 0).count();
        if let Some((trade, notional)) = &closed {
            self.stats.trade(trade, *notional);
        }
        self.check()?;
        Ok(closed.map(|(trade, _)| trade))
    }

    /// Marks a series at its candle's close and answers the equity.
    ///
    /// # Errors
    /// An unknown series, or an amount out of range; the books do not change ([`skip`](Self::skip)).
    #[inline]
    pub fn mark(&mut self, series: &SeriesKey, time: i64, close: i64) -> Result<Money, PortfolioError> {
        let holding = Self::known(&mut self.holdings, series)?;
        if holding.position.lots != 0 {
            let value = holding.terms.value(close, holding.position.lots)?.of_account()?;
            self.equity = self.equity.plus(value.minus(holding.value)?)?.of_account()?;
            holding.value = value;
        }
        holding.price = close;
        self.stats.mark(time, self.equity.to_f64(), self.open > 0);
        Ok(self.equity)
    }

    /// Skips a mark that is out of range: the equity does not change.
    pub fn skip(&mut self, time: i64) {
        self.stats.mark(time, self.equity.to_f64(), self.open > 0);
    }

    /// Checks that cash + Σ position × price is the equity carried forward.
    ///
    /// # Errors
    /// [`PortfolioError::Equity`].
    pub fn check(&self) -> Result<(), PortfolioError> {
        let mut counted = self.cash;
        for holding in self.holdings.values() {
            // Modulo the range: a part of the sum may leave it where the whole does not.
            counted = counted.wrapping_plus(holding.terms.value(holding.price, holding.position.lots)?);
        }
        if counted == self.equity { Ok(()) } else { Err(PortfolioError::Equity { carried: self.equity, counted }) }
    }

    /// Fall of the equity from its peak, as a positive share.
    pub fn drawdown(&self) -> f64 {
        self.stats.drawdown()
    }

    /// What it all amounts to.
    pub fn report(&self) -> Report {
        Report {
            start: self.start,
            cash: self.cash,
            equity: self.equity,
            open_positions: self.open,
            metrics: self.stats.metrics(),
        }
    }

    fn known<'a>(
        holdings: &'a mut BTreeMap<SeriesKey, Holding>,
        series: &SeriesKey,
    ) -> Result<&'a mut Holding, PortfolioError> {
        holdings.get_mut(series).ok_or_else(|| PortfolioError::UnknownSeries { series: series.clone() })
    }
}
