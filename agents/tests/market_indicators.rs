//! Indicators against TA-Lib's values, edge cases, and restarts.
#![allow(clippy::unwrap_used, reason = "a test that panics has failed, in a helper as well")]

mod support;

use atra_agents::market::candle::{Candle, Scale};
use atra_agents::market::indicators::{Atr, Bollinger, Ema, FeatureSet, Macd, Rsi, Sma, batch};

use support::{assert_close, goog, oracle};

#[test]
fn features_equal_talib_on_daily_data() {
    let (Some(import), Some(table)) = (goog(), oracle("ind_GOOG_1d.csv")) else { return };
    let mut lines = table.lines();
    let header: Vec<&str> = lines.next().unwrap().split(',').collect();
    let mut features = FeatureSet::new(import.scale);
    let mut compared = 0;
    for (candle, line) in import.candles.iter().zip(lines) {
        let row: Vec<&str> = line.split(',').collect();
        let f = features.update(candle);
        let values = [
            ("sma_10", f.sma_10),
            ("sma_20", f.sma_20),
            ("sma_50", f.sma_50),
            ("ema_12", f.ema_12),
            ("ema_26", f.ema_26),
            ("rsi_14", f.rsi_14),
            ("macd_12_26_9", f.macd.map(|m| m.macd)),
            ("macd_signal", f.macd.map(|m| m.signal)),
            ("macd_hist", f.macd.map(|m| m.histogram)),
            ("bb_upper_20_2", f.bands.map(|b| b.upper)),
            ("bb_middle", f.bands.map(|b| b.middle)),
            ("bb_lower_20_2", f.bands.map(|b| b.lower)),
            ("stddev_20", f.bands.map(|b| b.deviation)),
            ("atr_14", f.atr_14),
            ("natr_14", f.natr_14),
        ];
        for (name, value) in values {
            let column = header.iter().position(|h| *h == name).unwrap_or_else(|| panic!("no column {name}"));
            let at = format!("{name} at {}", row[0]);
            match row[column] {
                "" => assert_eq!(value, None, "{at}"),
                text => assert_close(value.unwrap_or_else(|| panic!("{at} is missing")), text.parse().unwrap(), &at),
            }
            compared += usize::from(value.is_some());
        }
    }
    assert_eq!(import.candles.len(), 2148);
    assert!(compared > 30_000, "{compared}");
}

fn candle(close: i64) -> Candle {
    Candle { time: 0, open: close, high: close, low: close, close, volume: 0 }
}

#[test]
fn edge_cases_of_flat_and_rising_series() {
    let flat = || (0..60).map(|_| 10_000_i64);
    let rising = || (0..60).map(|i| 10_000 + i * 100);
    assert_eq!(batch(Rsi::new(14), flat()).last(), Some(&Some(0.0)));
    assert_eq!(batch(Rsi::new(14), rising()).last(), Some(&Some(100.0)));
    assert_eq!(batch(Macd::new(12, 26, 9), flat().map(|v| v as f64)).last().unwrap().unwrap().macd, 0.0);
    let bands = batch(Bollinger::new(20, 2.0), flat()).last().unwrap().unwrap();
    assert_eq!((bands.upper, bands.lower, bands.deviation), (10_000.0, 10_000.0, 0.0));
    assert_eq!(batch(Atr::new(14), flat().map(candle)).last(), Some(&Some(0.0)));
    assert_eq!(batch(Sma::new(20), rising().take(10)), vec![None; 10]);
}

#[test]
fn first_values_are_where_talib_has_them() {
    let rising = || (1..60).map(|i| i * 100_i64);
    let first = |values: Vec<bool>| values.iter().position(|some| *some).unwrap();
    assert_eq!(first(batch(Sma::new(20), rising()).iter().map(Option::is_some).collect()), 19);
    assert_eq!(first(batch(Rsi::new(14), rising()).iter().map(Option::is_some).collect()), 14);
    assert_eq!(first(batch(Atr::new(14), rising().map(candle)).iter().map(Option::is_some).collect()), 14);
    let floats = || rising().map(|v| v as f64);
    assert_eq!(first(batch(Ema::new(12), floats()).iter().map(Option::is_some).collect()), 11);
    assert_eq!(first(batch(Macd::new(12, 26, 9), floats()).iter().map(Option::is_some).collect()), 33);
}

#[test]
fn a_restart_at_any_candle_changes_no_bit() {
    let candles = support::walk(120);
    let mut whole = FeatureSet::new(Scale::new(2, 0).unwrap());
    let mut stopped = whole.clone();
    for candle in &candles {
        let json = serde_json::to_string(&stopped).unwrap();
        assert!(json.len() < 1_500, "{} bytes", json.len());
        stopped = serde_json::from_str(&json).unwrap();
        let (a, b) = (whole.update(candle), stopped.update(candle));
        assert_eq!(serde_json::to_string(&a).unwrap(), serde_json::to_string(&b).unwrap());
        assert_eq!(whole, stopped);
    }
}
