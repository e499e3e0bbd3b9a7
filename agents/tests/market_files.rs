//! Real files of every CSV quirk known to us. The data lie beside the repository; without them the tests say so.
#![allow(clippy::unwrap_used, reason = "a test that panics has failed, in a helper as well")]

use atra_agents::market::import::{ColumnOrder, Import, ImportOptions, import_csv};

fn file(name: &str) -> Option<Import> {
    let path = format!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/data/{}"), name);
    let Ok(bytes) = std::fs::read(&path) else {
        eprintln!("skipped: no {path}");
        return None;
    };
    Some(import_csv(&bytes, &ImportOptions::default(), |_| {}).unwrap_or_else(|e| panic!("{name}: {e}")))
}

fn summary(import: &Import) -> (usize, usize, i64, String, String) {
    let report = &import.report;
    let interval = import.interval.map(|i| i.to_string()).unwrap_or_default();
    (import.candles.len(), report.refused, import.candles[0].time, interval, report.units.join(","))
}

#[test]
fn a_header_with_text_times() {
    let Some(import) = file("formats/binance-kline-header.csv") else { return };
    assert_eq!(summary(&import), (2999, 0, 1_601_657_100_000, "15m".into(), "text".into()));
    assert_eq!((import.scale.price_decimals(), import.candles[0].open), (2, 1_055_019));
}

#[test]
fn no_header_and_float_seconds() {
    let Some(import) = file("formats/binance-kline-noheader-mixed-units.csv") else { return };
    assert_eq!(summary(&import), (3000, 0, 1_577_836_800_000, "15m".into(), "s".into()));
}

#[test]
fn open_close_high_low_is_found_by_plausibility() {
    let Some(import) = file("formats/bitfinex-1m-open-close-high-low.csv") else { return };
    assert_eq!(import.report.order, ColumnOrder::OpenCloseHighLow);
    assert_eq!(summary(&import), (5000, 0, 1_388_534_520_000, "1m".into(), "ms".into()));
}

#[test]
fn a_comment_line_and_newest_first() {
    let Some(import) = file("formats/comment-line-newest-first-am-pm.csv") else { return };
    assert!(import.report.newest_first);
    assert_eq!(summary(&import), (1998, 0, 1_564_113_600_000, "1h".into(), "text".into()));
}

#[test]
fn binary_noise_is_rounded_and_counted() {
    let Some(import) = file("formats/scaled-prices-eurusd-d1.csv") else { return };
    assert_eq!((import.scale.price_decimals(), import.candles[0].open), (0, 130_584));
    assert!(import.report.rounded > 100);
    assert_eq!(import.report.refused, 0);
}

#[test]
fn an_unnamed_index_column() {
    let Some(import) = file("reference/GOOG-1d.csv") else { return };
    assert_eq!(summary(&import), (2148, 0, 1_092_873_600_000, "1d".into(), "text".into()));
}

#[test]
fn four_years_packed() {
    let Some(import) = file("DOTUSDT-15m-usdm-2022-01_2026-02.csv.gz") else { return };
    assert_eq!(summary(&import), (145_920, 0, 1_640_995_200_000, "15m".into(), "ms".into()));
    assert_eq!((import.report.gaps, import.report.duplicates), (0, 0));
    assert_eq!(import.scale.price_decimals(), 3);
}
