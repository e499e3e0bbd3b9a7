//! The back-test against a reference table of trades, equity and metrics.
#![allow(clippy::unwrap_used, reason = "a test that panics has failed, in a helper as well")]

mod support;

use atra_agents::market::backtest::{Backtest, BacktestOptions, backtest};
use atra_agents::market::money::{Money, Terms};
use atra_agents::market::strategy::{Side, StrategySpec};
use serde_json::Value;

use support::{assert_close, btc, dot, goog, oracle};

fn check(name: &str, side: Side) {
    let (Some(import), Some(trades), Some(equity), Some(metrics)) = (
        goog(),
        oracle(&format!("bt_GOOG_1d.{name}.trades.csv")),
        oracle(&format!("bt_GOOG_1d.{name}.equity.csv")),
        oracle("bt_GOOG_1d.metrics.json"),
    ) else {
        return;
    };
    let options = BacktestOptions::new(Money::whole(10_000), Terms::new(import.scale, 0, 1_000).unwrap());
    let strategy = StrategySpec::SmaCross { fast: 10, slow: 20, side }.build().unwrap();
    let run = backtest(&import.candles, strategy, &options).unwrap();

    let rows: Vec<Vec<&str>> = trades.lines().skip(1).map(|line| line.split(',').collect()).collect();
    assert_eq!(run.trades.len(), rows.len());
    let mut exposure = 0;
    for (trade, row) in run.trades.iter().zip(&rows) {
        let bar = |text: &str| text.parse::<usize>().unwrap();
        let number = |i: usize| row[i].parse::<f64>().unwrap();
        exposure += bar(row[2]) - bar(row[0]) + 1;
        assert_eq!(trade.entry_time, import.candles[bar(row[0])].time);
        assert_eq!(trade.exit_time, import.candles[bar(row[2])].time);
        assert_eq!(trade.lots as f64, number(4));
        assert_close(options.terms.price(trade.entry_price), number(5), "entry price");
        assert_close(options.terms.price(trade.exit_price), number(6), "exit price");
        assert_close(trade.profit.to_f64(), number(7), "profit");
        assert_close(trade.fee.to_f64(), number(8), "fee");
        assert_close(trade.return_share, number(9), "return");
    }
    for (i, (equity, line)) in run.equity.iter().zip(equity.lines().skip(1)).enumerate() {
        // The table's last row is after the closing of the last position.
        let equity = if i + 1 == run.equity.len() { run.final_equity.to_f64() } else { *equity };
        assert_close(equity, line.rsplit(',').next().unwrap().parse().unwrap(), line);
    }
    check_metrics(&run, &serde_json::from_str::<Value>(&metrics).unwrap()[format!("GOOG_1d.{name}")]["definition"]);
    let metrics: Value = serde_json::from_str(&metrics).unwrap();
    assert_eq!(metrics[format!("GOOG_1d.{name}")]["definition"]["exposure_bars"], exposure);
}

fn check_metrics(run: &Backtest, expected: &Value) {
    let m = &run.metrics;
    for (name, found) in [
        ("final_equity", m.final_equity),
        ("return_pct", m.return_share * 100.0),
        ("cagr_pct", m.cagr.unwrap() * 100.0),
        ("ann", m.days_per_year.into()),
        ("days", m.days as f64),
        ("sharpe_daily", m.sharpe.unwrap()),
        ("sortino_daily", m.sortino.unwrap()),
        ("vol_daily_ann_pct", m.volatility.unwrap() * 100.0),
        ("max_drawdown_pct", m.drawdown_max * -100.0),
        ("calmar", m.calmar.unwrap()),
        ("trades", m.trades as f64),
        ("win_rate_pct", m.win_rate.unwrap() * 100.0),
        ("profit_factor_money", m.profit_factor.unwrap()),
        ("expectancy_money", m.expectancy.unwrap()),
        ("fees", m.fees),
    ] {
        assert_close(found, expected[name].as_f64().unwrap(), name);
    }
}

#[test]
fn long_only_equals_the_reference() {
    check("longonly", Side::LongOnly);
}

#[test]
fn long_short_equals_the_reference() {
    check("longshort", Side::LongShort);
}

/// Floating averages decide ties by rounding noise and find 3,412 trades here.
#[test]
fn exact_crossings_on_quarter_hours_make_3410_trades_and_leave_29_of_10000() {
    let Some(import) = btc() else { return };
    let options = BacktestOptions::new(Money::whole(10_000), Terms::new(import.scale, 6, 1_000).unwrap());
    let strategy = StrategySpec::SmaCross { fast: 10, slow: 20, side: Side::LongOnly }.build().unwrap();
    let run = backtest(&import.candles, strategy, &options).unwrap();
    assert_eq!(run.trades.len(), 3_410);
    assert!((29.0..30.0).contains(&run.final_equity.to_f64()), "{}", run.final_equity);
}

#[test]
fn four_years_of_crossings_cost_nearly_everything() {
    let Some(import) = dot() else { return };
    let options = BacktestOptions::new(Money::whole(10_000), Terms::new(import.scale, 3, 1_000).unwrap());
    let strategy = StrategySpec::SmaCross { fast: 10, slow: 20, side: Side::LongOnly }.build().unwrap();
    let run = backtest(&import.candles, strategy, &options).unwrap();
    assert!(run.trades.len() > 3_000, "{}", run.trades.len());
    assert!(run.metrics.return_share < -0.9);
    assert_eq!(run.metrics.days_per_year, 365);
}
