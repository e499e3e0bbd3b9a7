//! The walk-forward: batch against the reference, streaming against batch, restarts against none.
#![allow(clippy::unwrap_used, reason = "a test that panics has failed, in a helper as well")]

mod support;

use std::collections::BTreeMap;

use atra_agents::market::candle::Candle;
use atra_agents::market::simulator::Simulator;
use atra_agents::market::walkforward::{Pair, WalkForward, WalkForwardConfig, select, walk_forward};
use serde_json::Value;

use support::{assert_close, dot, oracle};

/// 2022 to 2025 are exactly four years of quarter hours.
const FOUR_YEARS: usize = 140_256;

fn check(fee_ppm: u32, name: &str) {
    let (Some(import), Some(table)) = (dot(), oracle("walkforward_DOTUSDT_15m.json")) else { return };
    let expected = &serde_json::from_str::<Value>(&table).unwrap()[name];
    let config = WalkForwardConfig { fee_ppm, ..WalkForwardConfig::default() };
    let report = walk_forward(&import.candles[..FOUR_YEARS], &config).unwrap().unwrap();
    let number = |key: &str| expected[key].as_f64().unwrap();
    assert_eq!(report.selections.len() as f64, number("refits"));
    assert_eq!(import.candles[report.first].time, 1_650_154_500_000, "2022-04-17 00:15");
    let hash: i64 = (1..).zip(&report.selections).map(|(k, s)| k * s.map_or(-1, |s| s as i64)).sum();
    assert_eq!(hash as f64, number("selection_hash"));
    assert_eq!(report.trades as f64, number("oos_trades"));
    assert_eq!(report.flat_refits as f64, number("flat_refits"));
    assert_eq!(report.switches as f64, number("switches"));
    assert_close(report.return_pct, number("oos_return_pct"), "return");
    assert_close(report.drawdown_max_pct, number("oos_max_dd_pct"), "drawdown");
    assert_close(report.sharpe, number("oos_sharpe"), "sharpe");
    assert_close(report.buy_and_hold_pct, number("buy_hold_oos_pct"), "buy and hold");
    assert_close(report.median_fixed_pct, number("median_fixed_oos_pct"), "median");
    assert_close(report.best_fixed.1, expected["best_fixed_in_hindsight"]["ret_pct"].as_f64().unwrap(), "best");
    assert_eq!(report.best_fixed.0, Pair { fast: 32, slow: 768 });
    for (pair, total) in config.pairs.iter().zip(&report.totals) {
        let key = format!("{}/{}", pair.fast, pair.slow);
        assert_close(*total, expected["per_candidate_total"][&key].as_f64().unwrap(), &key);
    }
    assert_eq!(streamed(&import.candles[..FOUR_YEARS], &config, None), report.selections);
}

/// The selections of the streaming form; with `restart`, all state goes through its keyed saves every so many candles.
fn streamed(candles: &[Candle], config: &WalkForwardConfig, restart: Option<usize>) -> Vec<Option<usize>> {
    let mut stream = WalkForward::new(config.clone()).unwrap();
    let mut store = BTreeMap::<String, String>::new();
    let (mut selections, mut incumbent) = (Vec::new(), None);
    for (i, candle) in candles.iter().enumerate() {
        if restart.is_some_and(|every| i.is_multiple_of(every)) {
            stream.save(&mut |key, value| drop(store.insert(key, value.to_string()))).unwrap();
            let get = |key: &str| Some(serde_json::from_str(store.get(key)?).unwrap());
            stream = WalkForward::restore(get).unwrap().unwrap();
        }
        if stream.update(candle) {
            incumbent = select(&stream.scores(), incumbent, config.trades_min, config.margin);
            selections.push(incumbent);
        }
    }
    selections
}

#[test]
fn four_years_at_a_tenth_of_a_percent_equal_the_reference() {
    check(1_000, "DOTUSDT_15m_4y.fee0.001");
}

#[test]
fn four_years_at_four_hundredths_of_a_percent_equal_the_reference() {
    check(400, "DOTUSDT_15m_4y.fee0.0004");
}

fn small(validation: usize) -> WalkForwardConfig {
    let pairs = [(2, 4), (2, 8), (4, 8), (4, 16)].map(Pair::from).to_vec();
    WalkForwardConfig { pairs, train: 120, step: 12, validation, trades_min: 2, ..WalkForwardConfig::default() }
}

#[test]
fn streaming_equals_batch_and_survives_restarts() {
    let candles: Vec<Candle> = Simulator::new(5, "15m".parse().unwrap(), 0).take(1_500).collect();
    for config in [small(0), small(36)] {
        let batch = walk_forward(&candles, &config).unwrap().unwrap().selections;
        assert!(batch.iter().any(Option::is_some) && batch.iter().any(Option::is_none), "{batch:?}");
        for restart in [None, Some(1), Some(7), Some(256)] {
            assert_eq!(streamed(&candles, &config, restart), batch, "restart {restart:?}");
        }
    }
}

#[test]
fn scores_after_a_restart_are_the_same_bits() {
    let candles: Vec<Candle> = Simulator::new(6, "15m".parse().unwrap(), 0).take(600).collect();
    let mut whole = WalkForward::new(small(36)).unwrap();
    let mut stopped = whole.clone();
    let mut store = BTreeMap::<String, Value>::new();
    for candle in &candles {
        stopped.save(&mut |key, value| drop(store.insert(key, value))).unwrap();
        assert_eq!(stopped.changed_keys(), ["head"]);
        stopped = WalkForward::restore(|key| store.get(key).cloned()).unwrap().unwrap();
        assert_eq!(whole.update(candle), stopped.update(candle));
        assert_eq!(whole.scores(), stopped.scores());
        assert_eq!(whole.validation_scores(), stopped.validation_scores());
    }
    store.remove("block.3");
    assert!(WalkForward::restore(|key| store.get(key).cloned()).is_err());
    assert!(WalkForward::restore(|_| None).unwrap().is_none());
}
