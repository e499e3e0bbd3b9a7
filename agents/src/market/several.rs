//! One strategy over several series at once, on one account.
//!
//! Candles are taken in the order in which they became known, those of one moment by the name of their series. What a
//! series opens is at most its equal part of the equity at the close of the candle that it was decided on. Broker and
//! portfolio are those of the desk, so the seven agents trade the same to the last digit.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use thiserror::Error;

use super::backtest::buy_and_hold;
use super::broker::{Broker, BrokerError, Order};
use super::candle::{Candle, SeriesKey};
use super::fill::{Exits, Trade};
use super::metrics::Metrics;
use super::money::{Money, Terms};
use super::portfolio::{Portfolio, PortfolioError};
use super::strategy::Strategy;

/// The candles of one series and how they are traded.
#[derive(Debug, Clone, Copy)]
pub struct Part<'a> {
    /// Which series.
    pub series: &'a SeriesKey,
    /// Its candles, sorted.
    pub candles: &'a [Candle],
    /// Lot size, fee, slippage and scale.
    pub terms: Terms,
}

/// What a series made.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Made {
    /// Closed trades.
    pub trades: u64,
    /// Trades with a profit after both fees.
    pub wins: u64,
    /// Profit after fees.
    pub profit: Money,
    /// Fees.
    pub fees: Money,
    /// What buying at its first open and holding to its last close would have returned, after both fees.
    pub buy_and_hold: f64,
}

/// What a back-test of several series found.
#[derive(Debug, Clone, PartialEq)]
pub struct Several {
    /// Trades in order, with the place of their series.
    pub trades: Vec<(usize, Trade)>,
    /// The equity at the close of each candle, by the time at which the candle opened (of several candles that close in
    /// one moment the latest), as a back-test of one series has it; before what is open is closed.
    pub equity: Vec<(i64, f64)>,
    /// Exact equity at the end.
    pub final_equity: Money,
    /// Metrics of the account.
    pub metrics: Metrics,
    /// What each series made, in the order given.
    pub made: Vec<Made>,
    /// What buying an equal part of each and holding would have returned.
    pub buy_and_hold: f64,
}

/// Why a back-test of several series cannot go on.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SeveralError {
    /// The broker refuses.
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// The books do not agree.
    #[error(transparent)]
    Portfolio(#[from] PortfolioError),
}

/// Runs a strategy, made anew for each series, over all of them.
///
/// # Errors
/// [`SeveralError`]: an amount out of range, or candles that cannot be.
pub fn several<S: Strategy>(
    parts: &[Part<'_>],
    mut make: impl FnMut() -> S,
    cash: Money,
    exits: Exits,
) -> Result<Several, SeveralError> {
    let (mut broker, mut portfolio) = (Broker::new(cash), Portfolio::new(cash));
    for part in parts {
        broker.open(part.series, part.terms, exits);
        portfolio.open(part.series, part.terms);
    }
    let hold = |part: &Part<'_>| Made { buy_and_hold: buy_and_hold(part.candles, part.terms), ..Made::default() };
    let mut run = Run {
        broker,
        portfolio,
        share_ppm: match u32::try_from(parts.len()) {
            // Alone it takes what there is.
            Ok(0 | 1) => u32::MAX,
            n => 1_000_000 / n.unwrap_or(u32::MAX),
        },
        marked_at: i64::MIN,
        trades: Vec::new(),
        made: parts.iter().map(hold).collect(),
    };
    let mut strategies: Vec<S> = parts.iter().map(|_| make()).collect();
    let mut equity: Vec<(i64, f64)> = Vec::new();
    for (place, candle) in merged(parts) {
        let now = run.candle(&parts[place], place, candle, &mut strategies[place])?;
        match equity.last_mut() {
            Some((last, value)) if *last == run.marked_at => *value = now.to_f64(),
            _ => equity.push((run.marked_at, now.to_f64())),
        }
    }
    run.end(parts)?;
    let Run { portfolio, trades, made, .. } = run;
    let hold = made.iter().map(|made| made.buy_and_hold).sum::<f64>() / made.len().max(1) as f64;
    let metrics = portfolio.report().metrics;
    Ok(Several { trades, equity, final_equity: portfolio.equity(), metrics, made, buy_and_hold: hold })
}

/// All candles in the order in which they became known, with the place of their series.
fn merged<'a>(parts: &'a [Part<'a>]) -> impl Iterator<Item = (usize, &'a Candle)> {
    let known_at = |place: usize, candle: &Candle| {
        let part: &Part<'_> = &parts[place];
        candle.time.saturating_add(part.series.interval().millis())
    };
    // Of one moment by name, as the feed hands them over.
    let mut by_name: Vec<usize> = (0..parts.len()).collect();
    by_name.sort_by_key(|place| parts[*place].series);
    let mut next = vec![0; parts.len()];
    let first = by_name.iter().enumerate().filter_map(|(rank, &place)| {
        let candle = parts[place].candles.first()?;
        Some(Reverse((known_at(place, candle), rank)))
    });
    let mut heads: BinaryHeap<Reverse<(i64, usize)>> = first.collect();
    std::iter::from_fn(move || {
        let Reverse((_, rank)) = heads.pop()?;
        let place = by_name[rank];
        let candles = parts[place].candles;
        let candle = &candles[next[place]];
        next[place] += 1;
        if let Some(following) = candles.get(next[place]) {
            heads.push(Reverse((known_at(place, following), rank)));
        }
        Some((place, candle))
    })
}

struct Run {
    broker: Broker,
    portfolio: Portfolio,
    /// The part of the equity that a series may take.
    share_ppm: u32,
    marked_at: i64,
    trades: Vec<(usize, Trade)>,
    made: Vec<Made>,
}

impl Run {
    /// Fills, marks, decides; answers the equity at the close.
    fn candle(
        &mut self,
        part: &Part<'_>,
        place: usize,
        candle: &Candle,
        strategy: &mut impl Strategy,
    ) -> Result<Money, SeveralError> {
        for fill in self.broker.candle(part.series, candle)? {
            self.book(place, &fill)?;
        }
        self.marked_at = self.marked_at.max(candle.time);
        let equity = self.portfolio.mark(part.series, self.marked_at, candle.close)?;
        if let Some(decision) = strategy.update(candle) {
            let notional_max = equity.share(self.share_ppm).max(Money::ZERO);
            self.broker
                .submit(part.series, Order { decided_at: candle.time, target: decision.target, notional_max })?;
        }
        Ok(equity)
    }

    fn book(&mut self, place: usize, fill: &super::broker::Fill) -> Result<(), SeveralError> {
        let trade = self.portfolio.fill(fill)?;
        let made = &mut self.made[place];
        made.fees = made.fees.plus(fill.execution.fee).map_err(PortfolioError::Money)?;
        if let Some(trade) = trade {
            made.trades += 1;
            made.wins += u64::from(trade.profit > Money::ZERO);
            made.profit = made.profit.plus(trade.profit).map_err(PortfolioError::Money)?;
            self.trades.push((place, trade));
        }
        Ok(())
    }

    /// Closes what is open at the last close of its series, by name, and marks all once more if there was something.
    fn end(&mut self, parts: &[Part<'_>]) -> Result<(), SeveralError> {
        let last = |(place, part): (usize, &Part<'_>)| Some((part.series.clone(), (place, *part.candles.last()?)));
        let last: BTreeMap<SeriesKey, (usize, Candle)> = parts.iter().enumerate().filter_map(last).collect();
        let mut is_filled = false;
        for (series, (place, candle)) in &last {
            if let Some(fill) = self.broker.close(series, candle.close, candle.time)? {
                self.book(*place, &fill)?;
                is_filled = true;
            }
        }
        if is_filled {
            for (series, (_, candle)) in &last {
                self.portfolio.mark(series, self.marked_at, candle.close)?;
            }
        }
        Ok(self.portfolio.check()?)
    }
}

#[cfg(test)]
mod tests {
    use super::super::backtest::{BacktestOptions, backtest};
    use super::super::simulator::Simulator;
    use super::super::strategy::StrategySpec;
    use super::*;

    fn walk(seed: u64, n: usize) -> Vec<Candle> {
        Simulator::new(seed, "15m".parse().unwrap(), 0).take(n).collect()
    }

    fn keys(names: &[&str]) -> Vec<SeriesKey> {
        names.iter().map(|name| name.parse().unwrap()).collect()
    }

    #[test]
    fn one_series_is_the_back_test() {
        let (candles, keys) = (walk(3, 3_000), keys(&["A.15m"]));
        let terms = Terms::new(Simulator::scale(), 3, 400).unwrap();
        for name in StrategySpec::NAMES {
            let make = || StrategySpec::usual(name).unwrap().build().unwrap();
            let options = BacktestOptions::new(Money::whole(10_000), terms);
            let one = backtest(&candles, make(), &options).unwrap();
            let part = Part { series: &keys[0], candles: &candles, terms };
            let all = several(&[part], make, options.cash, options.exits).unwrap();
            let trades: Vec<Trade> = all.trades.iter().map(|(_, trade)| *trade).collect();
            assert_eq!(
                (trades, all.final_equity, &all.metrics),
                (one.trades, one.final_equity, &one.metrics),
                "{name}"
            );
            let marked: Vec<(i64, f64)> = candles.iter().map(|candle| candle.time).zip(one.equity).collect();
            assert_eq!(all.equity, marked);
            assert_eq!((all.buy_and_hold, all.made[0].trades), (one.buy_and_hold, one.metrics.trades));
        }
    }

    #[test]
    fn no_series_takes_more_than_its_part_and_the_order_given_does_not_matter() {
        let candles: Vec<Vec<Candle>> = (0..4).map(|seed| walk(seed, 1_500)).collect();
        let keys = keys(&["C.15m", "A.15m", "D.15m", "B.15m"]);
        let terms = Terms::new(Simulator::scale(), 3, 400).unwrap();
        let part = |n: usize| Part { series: &keys[n], candles: &candles[n], terms };
        let make = || StrategySpec::usual("sma-cross").unwrap().build().unwrap();
        let run = |order: [usize; 4]| several(&order.map(part), make, Money::whole(10_000), Exits::default()).unwrap();
        let (a, b) = (run([0, 1, 2, 3]), run([3, 2, 1, 0]));
        assert_eq!((&a.equity, a.final_equity, &a.metrics), (&b.equity, b.final_equity, &b.metrics));
        assert!(a.made.iter().all(|made| made.trades > 10));
        let most = a.equity.iter().map(|(_, value)| *value).fold(0.0, f64::max);
        for (_, trade) in &a.trades {
            assert!(terms.value(trade.entry_price, trade.lots.abs()).unwrap().to_f64() <= most / 4.0);
        }
    }
}
