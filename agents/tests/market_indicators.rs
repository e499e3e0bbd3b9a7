//! Indicators against TA-Lib's values, edge cases, and restarts.
#![allow(clippy::unwrap_used, reason = "a test that panics has failed, in a helper as well")]

mod support;

use atra_agents::market::candle::{Candle, LOTS_MAX, Scale, TICKS_MAX};
use atra_agents::market::indicators::{
    Adx, Aroon, Atr, Bollinger, Cci, Di, Donchian, Ema, FeatureSet, INDICATORS, Indicator, IndicatorSpec, Macd, Mfi,
    Momentum, Obv, Roc, Rsi, Sar, Sma, Stochastic, TrueRange, WilliamsR, Wma, batch, values_into,
};

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

/// Every indicator of the table, and the column of TA-Lib's that each of its lines must equal.
const ORACLE: [(&str, &[&str]); 30] = [
    ("sma:10", &["sma_10"]),
    ("sma:20", &["sma_20"]),
    ("sma:50", &["sma_50"]),
    ("ema:12", &["ema_12"]),
    ("ema:20", &["ema_20"]),
    ("ema:26", &["ema_26"]),
    ("wma:10", &["wma_10"]),
    ("rsi:14", &["rsi_14"]),
    ("macd:12,26,9", &["macd_12_26_9", "macd_signal", "macd_hist"]),
    ("bollinger:20,2", &["bb_upper_20_2", "bb_middle", "bb_lower_20_2"]),
    ("tr", &["tr"]),
    ("atr:14", &["atr_14"]),
    ("natr:14", &["natr_14"]),
    ("adx:14", &["adx_14"]),
    ("di:14", &["plus_di_14", "minus_di_14"]),
    ("stoch:14,3,3", &["stoch_k_14_3", "stoch_d_3"]),
    ("stochf:14,3", &["stochf_k_14", "stochf_d_3"]),
    ("cci:20", &["cci_20"]),
    ("willr:14", &["willr_14"]),
    ("mfi:14", &["mfi_14"]),
    ("obv", &["obv"]),
    ("roc:10", &["roc_10"]),
    ("mom:10", &["mom_10"]),
    ("stddev:20", &["stddev_20"]),
    ("max:20", &["max_20"]),
    ("min:20", &["min_20"]),
    ("aroon:14", &["aroon_down_14", "aroon_up_14"]),
    ("sar:0.02,0.2", &["sar"]),
    ("sma", &["sma_20"]),
    ("sar", &["sar"]),
];

#[test]
fn every_indicator_by_name_equals_talib_at_every_bar() {
    let (Some(import), Some(table)) = (goog(), oracle("ind_GOOG_1d.csv")) else { return };
    let header: Vec<&str> = table.lines().next().unwrap().split(',').collect();
    let rows: Vec<Vec<&str>> = table.lines().skip(1).map(|line| line.split(',').collect()).collect();
    let mut seen = std::collections::BTreeSet::new();
    for (name, columns) in ORACLE {
        let spec: IndicatorSpec = name.parse().unwrap();
        assert_eq!(spec.lines().len(), columns.len());
        let places = columns.iter().map(|c| header.iter().position(|h| h == c).unwrap_or_else(|| panic!("no {c}")));
        let places: Vec<usize> = places.collect();
        let mut indicator = spec.build();
        for (candle, row) in import.candles.iter().zip(&rows) {
            let values = indicator.update(candle, import.scale);
            for (line, &place) in places.iter().enumerate() {
                let at = format!("{name}, {} at {}", header[place], row[0]);
                match (row[place], values) {
                    ("", None) => {}
                    // Bollinger has its middle, MACD its line, before the other lines: ours come together.
                    (text, Some(values)) if !text.is_empty() => {
                        // As everywhere in the table: one part in 10^9 of what is summed, for CCI's and MOM's zeros.
                        assert_close(values[line], text.parse().unwrap(), &at);
                    }
                    (text, values) => panic!("{at}: {text:?} but {values:?}"),
                }
            }
        }
        seen.extend(columns.iter().copied());
    }
    let left: Vec<_> = header.iter().skip(7).filter(|column| !seen.contains(**column)).collect();
    assert!(left.is_empty(), "columns that nothing was compared with: {left:?}");
}

#[test]
fn batch_and_streaming_are_equal_bit_for_bit_and_a_restart_changes_nothing() {
    let candles = support::walk(400);
    let scale = Scale::new(2, 0).unwrap();
    for kind in INDICATORS {
        let spec: IndicatorSpec = kind.name.parse().unwrap();
        let mut whole = spec.build();
        let mut stopped = spec.build();
        for candle in &candles {
            let json = serde_json::to_string(&stopped).unwrap();
            stopped = serde_json::from_str(&json).unwrap_or_else(|error| panic!("{}: {error}: {json}", kind.name));
            let (a, b) = (whole.update(candle, scale), stopped.update(candle, scale));
            let bits = |values: Option<[f64; 3]>| values.map(|values| values.map(f64::to_bits));
            assert_eq!(bits(a), bits(b), "{}", kind.name);
            assert!(a.iter().flatten().all(|value| value.is_finite()), "{}", kind.name);
        }
        assert_eq!(whole, stopped, "{}", kind.name);
    }
}

/// Over a slice, a warm indicator takes bars by a loop of its own.
#[test]
fn over_a_slice_and_one_by_one_no_bit_differs() {
    fn same<I: Indicator + Clone>(indicator: &I, inputs: &[I::Input])
    where
        I::Input: Copy,
        I::Output: std::fmt::Debug,
    {
        let mut streaming = indicator.clone();
        let streamed: Vec<_> = inputs.iter().map(|input| streaming.update(*input)).collect();
        let first = streamed.iter().position(Option::is_some).unwrap();
        let mut found = vec![I::Output::default(); 9];
        // The shortest text that is this float: equal texts, equal bits.
        let text = |value: &I::Output| format!("{value:?}");
        // Bars are taken by twos: of as many as there are, one less, and a few.
        for length in [inputs.len(), inputs.len() - 1, first + 1, first + 2, first + 4, first] {
            assert_eq!(values_into(indicator.clone(), inputs[..length].iter().copied(), &mut found), first);
            let streamed = streamed[..length].iter().flatten();
            assert!(streamed.map(text).eq(found.iter().map(text)), "{}, {length} bars", std::any::type_name::<I>());
        }
    }
    let candles = support::walk(700);
    let up = TICKS_MAX - candles.iter().map(|candle| candle.high).max().unwrap();
    let dearer = |c: &Candle| Candle { high: c.high + up, low: c.low + up, close: c.close + up, ..*c };
    let dear: Vec<Candle> = candles.iter().map(dearer).collect();
    // Flows that do not fit 64 bits, after some that do.
    let busy = |(at, c): (usize, &Candle)| Candle { volume: if at % 300 == 200 { LOTS_MAX } else { c.volume }, ..*c };
    let busy: Vec<Candle> = candles.iter().enumerate().map(busy).collect();
    let ticks: Vec<i64> = candles.iter().map(|candle| candle.close).collect();
    let floats: Vec<f64> = ticks.iter().map(|ticks| *ticks as f64).collect();
    for n in [1, 2, 5, 14, 100] {
        same(&Sma::new(n), &ticks);
        same(&Wma::new(n), &ticks);
        same(&Roc::new(n), &ticks);
        same(&Momentum::new(n), &ticks);
        same(&Bollinger::new(n, 2.0), &ticks);
        same(&Rsi::new(n as u32), &ticks);
        same(&Ema::new(n as u32), &floats);
        same(&Macd::new(n as u32, 2 * n as u32, 9), &floats);
        same(&Atr::new(n as u32), &candles);
        same(&Atr::new(n as u32), &dear);
        same(&Adx::new(n as u32), &candles);
        same(&Di::new(n as u32), &candles);
        same(&Aroon::new(n as u32), &candles);
        same(&Stochastic::new(n, 3, 4), &candles);
        same(&Donchian::new(n), &candles);
        same(&WilliamsR::new(n), &candles);
        same(&Cci::new(n), &candles);
        same(&Mfi::new(n), &candles);
        same(&Mfi::new(n), &busy);
    }
    same(&TrueRange::default(), &candles);
    same(&Obv::default(), &candles);
    same(&Sar::new(0.02, 0.2), &candles);
}

#[test]
fn the_edges_are_those_of_talib() {
    let Some(edges) = oracle("ind_edges.json") else { return };
    let edges: serde_json::Value = serde_json::from_str(&edges).unwrap();
    let scale = Scale::new(2, 0).unwrap();
    let last = |name: &str, close: fn(i64) -> i64| {
        let mut indicator = name.parse::<IndicatorSpec>().unwrap().build();
        (0..200).fold(None, |_, i| indicator.update(&candle(close(i)), scale)).unwrap()
    };
    let flat = [
        ("rsi_14", "rsi:14", 0),
        ("macd", "macd:12,26,9", 0),
        ("bb_upper", "bollinger:20,2", 0),
        ("atr_14", "atr:14", 0),
        ("adx_14", "adx:14", 0),
        ("plus_di", "di:14", 0),
        ("stoch_k", "stoch:14,3,3", 0),
        ("cci_20", "cci:20", 0),
        ("willr_14", "willr:14", 0),
        ("mfi_14", "mfi:14", 0),
        ("stddev", "stddev:20", 0),
        ("natr", "natr:14", 0),
    ];
    for (edge, name, line) in flat {
        assert_eq!(Some(last(name, |_| 10_000)[line]), edges["flat"][edge].as_f64(), "{edge}");
    }
    for (edge, name) in [("rsi_14", "rsi:14"), ("stoch_k(h=l=c)", "stoch:14,3,3"), ("adx_14(h=l=c)", "adx:14")] {
        assert_close(last(name, |i| 10_000 + i * 100)[0], edges["rising"][edge].as_f64().unwrap(), edge);
    }
}

#[test]
fn names_are_checked() {
    assert_eq!("MACD".parse::<IndicatorSpec>().unwrap().to_string(), "macd:12,26,9");
    let lines = "macd:3,10,2".parse::<IndicatorSpec>().unwrap().lines();
    assert_eq!(lines, ["macd_3_10_2", "macd_signal_3_10_2", "macd_hist_3_10_2"]);
    for (bad, said) in [
        ("smaa:3", "there is no indicator \"smaa\"; there are sma ema"),
        ("sma:0", "sma: \"0\" is not a whole number from 1 to 8192"),
        ("sma:2.5", "not a whole number"),
        ("sma:99999", "not a whole number"),
        ("sma:", "not a whole number"),
        ("sma:nan", "not a whole number"),
        ("macd:12,26", "macd takes 3 parameters, not 2, as in macd:12,26,9"),
        ("macd:26,12,9", "not a fast period below"),
        ("obv:1", "obv takes 0 parameters"),
        ("bollinger:20,inf", "not a number above 0"),
    ] {
        let error = bad.parse::<IndicatorSpec>().unwrap_err().to_string();
        assert!(error.contains(said), "{bad}: {error}");
    }
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
