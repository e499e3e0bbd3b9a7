//! The paper desk – broker and portfolio, candle by candle – against the vectorised back-test, trade for trade.
#![allow(clippy::unwrap_used, reason = "a test that panics has failed, in a helper as well")]

mod support;

use atra_agents::market::backtest::{BacktestOptions, backtest};
use atra_agents::market::broker::{Broker, Order};
use atra_agents::market::candle::{Candle, Scale, SeriesKey};
use atra_agents::market::fill::{Exits, Trade};
use atra_agents::market::money::{Money, Terms};
use atra_agents::market::portfolio::{Portfolio, PortfolioError};
use atra_agents::market::simulator::Simulator;
use atra_agents::market::strategy::{Side, Strategy, StrategySpec};

struct Paper {
    trades: Vec<Trade>,
    equity: Vec<f64>,
    portfolio: Portfolio,
}

/// Runs the desk; with `restart`, all state goes through JSON every so many candles.
fn paper(candles: &[Candle], spec: StrategySpec, options: &BacktestOptions, restart: Option<usize>) -> Paper {
    let series: SeriesKey = "TEST.15m".parse().unwrap();
    let (mut broker, mut portfolio) = (Broker::new(options.cash), Portfolio::new(options.cash));
    broker.open(&series, options.terms, options.exits);
    portfolio.open(&series, options.terms);
    let mut strategy = spec.build().unwrap();
    let (mut trades, mut equity) = (Vec::new(), Vec::new());
    for (i, candle) in candles.iter().enumerate() {
        if restart.is_some_and(|every| i.is_multiple_of(every)) {
            broker = serde_json::from_str(&serde_json::to_string(&broker).unwrap()).unwrap();
            portfolio = serde_json::from_str(&serde_json::to_string(&portfolio).unwrap()).unwrap();
            strategy = serde_json::from_str(&serde_json::to_string(&strategy).unwrap()).unwrap();
        }
        for fill in broker.candle(&series, candle).unwrap() {
            trades.extend(portfolio.fill(&fill).unwrap());
        }
        equity.push(portfolio.mark(&series, candle.time, candle.close).unwrap().to_f64());
        if let Some(decision) = strategy.update(candle) {
            let order = Order { decided_at: candle.time, target: decision.target, notional_max: Money::MAX };
            broker.submit(&series, order).unwrap();
        }
    }
    let last = candles.last().unwrap();
    if let Some(fill) = broker.close(&series, last.close, last.time).unwrap() {
        trades.extend(portfolio.fill(&fill).unwrap());
        portfolio.mark(&series, last.time, last.close).unwrap();
    }
    portfolio.check().unwrap();
    Paper { trades, equity, portfolio }
}

fn agree(candles: &[Candle], spec: StrategySpec, options: &BacktestOptions, restart: Option<usize>) {
    let run = backtest(candles, spec.build().unwrap(), options).unwrap();
    let paper = paper(candles, spec, options, restart);
    assert!(!run.trades.is_empty(), "{}", spec.name());
    assert_eq!(run.trades, paper.trades, "{}", spec.name());
    assert_eq!(run.equity, paper.equity, "{}", spec.name());
    assert_eq!(run.final_equity, paper.portfolio.equity(), "{}", spec.name());
    let (a, b) = (run.metrics, paper.portfolio.report().metrics);
    assert_eq!(a, b, "{}", spec.name());
}

fn specs(side: Side) -> [StrategySpec; 7] {
    StrategySpec::NAMES.map(|name| StrategySpec::usual(name).unwrap().with_side(side))
}

fn options(scale: Scale) -> BacktestOptions {
    BacktestOptions::new(Money::whole(10_000), Terms::new(scale, 3, 400).unwrap())
}

/// With a stop, a limit and slippage as well.
fn guarded(scale: Scale) -> BacktestOptions {
    let terms = Terms::new(scale, 3, 400).unwrap().with_slippage(200).unwrap();
    let exits = Exits { stop_loss_ppm: 15_000, take_profit_ppm: 30_000 };
    BacktestOptions { exits, ..BacktestOptions::new(Money::whole(10_000), terms) }
}

#[test]
fn the_desk_trades_as_the_back_test_on_real_data() {
    let (candles, scale) = support::real_or_simulated();
    for side in [Side::LongOnly, Side::LongShort] {
        for spec in specs(side) {
            agree(&candles, spec, &options(scale), None);
            agree(&candles, spec, &guarded(scale), None);
        }
    }
}

#[test]
fn the_desk_trades_as_the_back_test_however_often_it_is_restarted() {
    let candles: Vec<Candle> = Simulator::new(11, "15m".parse().unwrap(), 0).take(3_000).collect();
    for side in [Side::LongOnly, Side::LongShort] {
        for spec in specs(side) {
            agree(&candles, spec, &options(Simulator::scale()), Some(1));
            agree(&candles, spec, &guarded(Simulator::scale()), Some(7));
        }
    }
}

#[test]
fn a_lost_fill_is_found() {
    let series: SeriesKey = "TEST.15m".parse().unwrap();
    let options = options(Simulator::scale());
    let (mut broker, mut portfolio) = (Broker::new(options.cash), Portfolio::new(options.cash));
    broker.open(&series, options.terms, options.exits);
    portfolio.open(&series, options.terms);
    let candles: Vec<Candle> = Simulator::new(11, "15m".parse().unwrap(), 0).take(3).collect();
    let order = |i: usize, target| Order { decided_at: candles[i].time, target, notional_max: Money::MAX };
    broker.submit(&series, order(0, 1.0)).unwrap();
    let lost = broker.candle(&series, &candles[1]).unwrap();
    assert_eq!(lost.len(), 1);
    broker.submit(&series, order(1, 0.0)).unwrap();
    let fill = broker.candle(&series, &candles[2]).unwrap().remove(0);
    assert!(matches!(portfolio.fill(&fill), Err(PortfolioError::Cash { .. })));
}
