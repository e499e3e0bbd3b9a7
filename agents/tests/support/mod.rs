//! Fixtures of the market tests: real data where they are present, a small walk where they are not.
#![allow(dead_code, reason = "each test binary uses some of the fixtures")]

use atra_agents::market::candle::Candle;
use atra_agents::market::candle::Scale;
use atra_agents::market::import::{Import, ImportOptions, import_candles};
use atra_agents::market::simulator::Simulator;
use atra_test_support::shared_if_present;

/// Simulated candles where there are no real ones.
const SIMULATED: usize = 30_000;

/// The bytes of a file beside the repository. Without it the calling test counts as skipped.
#[track_caller]
pub(crate) fn shared(name: &str) -> Option<Vec<u8>> {
    atra_test_support::shared(name).map(|path| std::fs::read(path).unwrap())
}

/// Real candles of quarter hours, or simulated ones where the real ones are absent.
pub(crate) fn real_or_simulated() -> (Vec<Candle>, Scale) {
    if shared_if_present("data/DOTUSDT-15m-usdm-2022-01_2026-02.csv.gz").is_some()
        && let Some(import) = dot()
    {
        return (import.candles, import.scale);
    }
    let simulator = Simulator::new(5, "15m".parse().unwrap(), 1_640_995_200_000);
    (simulator.take(SIMULATED).collect(), Simulator::scale())
}

#[track_caller]
pub(crate) fn oracle(name: &str) -> Option<String> {
    Some(String::from_utf8(shared(&format!("oracle/{name}"))?).unwrap())
}

#[track_caller]
fn import(name: &str) -> Option<Import> {
    Some(import_candles(&shared(name)?, &ImportOptions::default(), |_| {}).unwrap())
}

#[track_caller]
pub(crate) fn goog() -> Option<Import> {
    import("data/reference/GOOG-1d.csv")
}

#[track_caller]
pub(crate) fn dot() -> Option<Import> {
    import("data/DOTUSDT-15m-usdm-2022-01_2026-02.csv.gz")
}

#[track_caller]
pub(crate) fn btc() -> Option<Import> {
    import("data/BTCUSDT-15m-usdm-2023-01_2026-04.csv.gz")
}

/// Equal within 1e-9 of the expected value (of 1e-6 for values nearer to zero than that).
pub(crate) fn assert_close(found: f64, expected: f64, what: &str) {
    let tolerance = 1e-9 * expected.abs().max(1e-3);
    assert!((found - expected).abs() <= tolerance, "{what}: found {found}, expected {expected}");
}

/// A deterministic walk of 15-minute candles around 100.00 (two decimals).
pub(crate) fn walk(n: usize) -> Vec<Candle> {
    let (mut state, mut close) = (7_u64, 10_000_i64);
    let mut step = |range: i64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as i64 % range
    };
    (0..n as i64)
        .map(|i| {
            let open = close;
            close = (open + step(201) - 100).max(100);
            let (high, low) = (open.max(close) + step(50), (open.min(close) - step(50)).max(1));
            Candle { time: i * 900_000, open, high, low, close, volume: step(1000) }
        })
        .collect()
}
