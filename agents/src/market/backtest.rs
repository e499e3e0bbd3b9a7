//! A strategy over a slice of candles: decided at close *i*, filled at open *i + 1*, net of fees.
//!
//! All in with `floor(cash / (open · (1 + fee)))` lots; equity is marked at each close; a position still open after the
//! last candle is closed at the last close, with fee. Stops and limits are those of [`Exits`]. Money is exact. The paper
//! broker and the portfolio go through the same [`fill`](super::fill) functions, candle by candle, and give the same trades.

use serde::{Deserialize, Serialize};

use super::candle::Candle;
use super::fill::{Execution, Exits, Guard, Position, Trade, execute, leave};
use super::metrics::{EquityStats, Metrics};
use super::money::{Money, MoneyError, Terms};
use super::strategy::Strategy;

/// What a back-test starts from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BacktestOptions {
    /// Cash at the start.
    pub cash: Money,
    /// Lot size, fee, slippage and scale of the series.
    pub terms: Terms,
    /// Where positions are left unasked.
    pub exits: Exits,
}

impl BacktestOptions {
    /// Without stops and limits.
    pub fn new(cash: Money, terms: Terms) -> Self {
        Self { cash, terms, exits: Exits::default() }
    }
}

/// What a back-test found.
#[derive(Debug, Clone, PartialEq)]
pub struct Backtest {
    /// Trades in order; the last one may have been closed because the candles ended.
    pub trades: Vec<Trade>,
    /// Equity at each close, before a last open position is closed.
    pub equity: Vec<f64>,
    /// Exact equity at the end.
    pub final_equity: Money,
    /// Metrics, the closing at the end included.
    pub metrics: Metrics,
    /// What buying at the first open and holding to the last close would have returned, after both fees.
    pub buy_and_hold: f64,
}

/// Runs a strategy that has seen nothing yet over sorted candles of one series.
///
/// # Errors
/// [`MoneyError::Overflow`] if an amount leaves the range of [`Money`].
pub fn backtest(
    candles: &[Candle],
    strategy: impl Strategy,
    options: &BacktestOptions,
) -> Result<Backtest, MoneyError> {
    let mut equity = Vec::with_capacity(candles.len());
    let mut trades = Vec::new();
    let (final_equity, metrics) = run(candles, strategy, options, &mut equity, |trade| trades.push(*trade))?;
    let buy_and_hold = buy_and_hold(candles, options.terms);
    Ok(Backtest { trades, equity, final_equity, metrics, buy_and_hold })
}

/// The same run, of which only the sums are kept: for a search over many parameters.
///
/// # Errors
/// As [`backtest`].
pub fn score(candles: &[Candle], strategy: impl Strategy, options: &BacktestOptions) -> Result<Metrics, MoneyError> {
    run(candles, strategy, options, &mut Unkept, |_| {}).map(|(_, metrics)| metrics)
}

/// What buying at the first open and holding to the last close returns, after both fees.
pub fn buy_and_hold(candles: &[Candle], terms: Terms) -> f64 {
    candles.first().zip(candles.last()).map_or(0.0, |(first, last)| {
        let fee = f64::from(terms.fee_ppm()) / 1e6;
        last.close as f64 * (1.0 - fee) / (first.open as f64 * (1.0 + fee)) - 1.0
    })
}

/// What becomes of the equity at each close.
trait Curve {
    fn take(&mut self, equities: impl Iterator<Item = f64>);
}

impl Curve for Vec<f64> {
    fn take(&mut self, equities: impl Iterator<Item = f64>) {
        self.extend(equities);
    }
}

/// Nothing: only what the metrics need is computed.
struct Unkept;

impl Curve for Unkept {
    fn take(&mut self, _: impl Iterator<Item = f64>) {}
}

/// What a strategy wants does not depend on what is filled, and what is held does not change from one decision to the next:
/// so the strategy walks to its next decision, and the candles up to there, which are at hand, are marked in one go.
fn run(
    candles: &[Candle],
    mut strategy: impl Strategy,
    options: &BacktestOptions,
    curve: &mut impl Curve,
    closed: impl FnMut(&Trade),
) -> Result<(Money, Metrics), MoneyError> {
    let mut run = Run {
        terms: options.terms,
        exits: options.exits,
        cash: options.cash,
        position: Position::default(),
        guard: None,
        stats: EquityStats::new(options.cash.to_f64()),
        curve,
        closed,
        passed: 0,
    };
    strategy.decisions(candles, |place, decision| run.decided(candles, place, decision.target))?;
    run.pass(&candles[run.passed..])?;
    if let Some(last) = candles.last().filter(|_| run.position.lots != 0) {
        run.fill(0.0, last.close, last.time)?;
        run.stats.mark(last.time, run.cash.to_f64(), true);
    }
    Ok((run.cash, run.stats.metrics()))
}

struct Run<'c, C, F> {
    terms: Terms,
    exits: Exits,
    cash: Money,
    position: Position,
    guard: Option<Guard>,
    stats: EquityStats,
    curve: &'c mut C,
    closed: F,
    /// Candles that are marked.
    passed: usize,
}

impl<C: Curve, F: FnMut(&Trade)> Run<'_, C, F> {
    /// Marks what is held up to a candle, and fills at the open of the next, if there is one.
    #[inline(never)]
    fn decided(&mut self, candles: &[Candle], place: usize, target: f64) -> Result<(), MoneyError> {
        let Some(next) = candles.get(place + 1) else { return Ok(()) };
        self.pass(&candles[self.passed..=place])?;
        self.passed = place + 1;
        self.fill(target, next.open, next.time)
    }

    #[inline(always)]
    fn fill(&mut self, target: f64, price: i64, time: i64) -> Result<(), MoneyError> {
        let [closed, opened] = execute(self.terms, self.cash, self.position.lots, target, price, Money::MAX)?;
        closed.map_or(Ok(()), |closed| self.book(closed, time))?;
        opened.map_or(Ok(()), |opened| self.book(opened, time))
    }

    #[inline(always)]
    fn book(&mut self, execution: Execution, time: i64) -> Result<(), MoneyError> {
        self.cash = execution.cash_after;
        self.guard = self.exits.guard(execution.price, execution.lots_after);
        if let Some((trade, notional)) = self.position.book(self.terms, &execution, time)? {
            self.stats.trade(&trade, notional);
            (self.closed)(&trade);
        }
        Ok(())
    }

    /// Takes candles at whose opens nothing is filled. A stop or a limit ends the position within one of them.
    fn pass(&mut self, mut candles: &[Candle]) -> Result<(), MoneyError> {
        if let Some(guard) = self.guard {
            let hit = |(place, candle)| Some((place, guard.hit(candle, self.position.lots)?));
            if let Some((place, hit)) = candles.iter().enumerate().find_map(hit) {
                self.mark(&candles[..place])?;
                let left = leave(self.terms, self.cash, self.position.lots, hit)?;
                self.book(left, candles[place].time)?;
                candles = &candles[place..];
            }
        }
        self.mark(candles)
    }

    /// Marks candles over which the position does not change. The equity rises or falls with the close, so the lowest and
    /// the highest close tell how low and how high it went.
    fn mark(&mut self, candles: &[Candle]) -> Result<(), MoneyError> {
        let Self { terms, cash, position: Position { lots, .. }, stats, curve, .. } = self;
        let (terms, cash, lots) = (*terms, *cash, *lots);
        if lots == 0 {
            let equity = cash.to_f64();
            curve.take(std::iter::repeat_n(equity, candles.len()));
            stats.run_between(candles, false, (equity, equity), |_| equity);
            return Ok(());
        }
        let mut closes = candles.iter().map(|candle| candle.close);
        let Some(first) = closes.next() else { return Ok(()) };
        let (low, high) = closes.fold((first, first), |(low, high), close| (low.min(close), high.max(close)));
        if let Some(worth) = terms.worth(cash, lots, low, high) {
            let (one, other) = (worth.at(low), worth.at(high));
            curve.take(candles.iter().map(|candle| worth.at(candle.close)));
            stats.run_between(candles, true, (one.min(other), one.max(other)), |candle| worth.at(candle.close));
            return Ok(());
        }
        let worth = |candle: &Candle| terms.value(candle.close, lots).and_then(|value| cash.plus(value));
        candles.iter().try_for_each(|candle| {
            let equity = worth(candle)?.to_f64();
            curve.take(std::iter::once(equity));
            stats.mark(candle.time, equity, true);
            Ok(())
        })
    }
}
