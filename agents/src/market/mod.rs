//! The market domain: what the seven agents decide with, and nothing of how they live.
//!
//! Pure and deterministic: no tokio, no clock, no randomness but a seed, no I/O but bytes that the caller read. Times are
//! milliseconds that come in with the data. Whatever is state of something that runs – features, strategies, broker,
//! portfolio, risk, walk-forward, simulator – serialises, and resumes bit for bit after a JSON round trip (`serde_json`
//! with `float_roundtrip`) at any candle. Nothing here iterates a hash map. Input never panics; errors are types.
//!
//! Prices are integer ticks and money is fixed point: crossings, sizes, fees and balances are exact. Indicators and
//! metrics are `f64`.
//!
//! | agent | uses | feeds it | gets from it |
//! |---|---|---|---|
//! | feed | [`import::import_candles`], [`block`], [`simulator::Simulator`] | bytes, blocks, a seed | [`candle::SeriesCandle`], [`import::ImportReport`] |
//! | indicator | [`indicators::FeatureSet`] per series | each closed candle | [`indicators::Features`] |
//! | signal | [`strategy::StrategySpec`] → [`strategy::AnyStrategy`] per series | each closed candle | [`strategy::Decision`] when the target changes |
//! | risk | [`risk::Risk`] with [`risk::RiskLimits`] | equity, closes, trades, targets | [`risk::RiskDecision`], [`risk::RiskState`] |
//! | execution | [`broker::Broker`] | approvals at the close, then the next candle | [`broker::Fill`]s at its open |
//! | portfolio | [`portfolio::Portfolio`] | fills, then marks at the close | equity, [`fill::Trade`]s, [`portfolio::Report`] |
//! | optimizer | [`walkforward::WalkForward`] and [`walkforward::Governor`] per series | each closed candle, the drawdown | [`walkforward::Verdict`], the [`walkforward::Version`] in force |
//!
//! Order within a candle: the broker fills at its open, the portfolio books the fills and marks the close, then features,
//! strategy and risk decide, and an approval waits for the next open. A strategy speaks only when its target changes: a
//! signal agent whose parameters change builds a new strategy and replays its window of candles into it first.
//!
//! [`backtest::backtest`] runs the same functions over a slice, [`several::several`] over several series on one account; tests
//! hold that desk and back-test agree trade for trade on years of real candles.

pub mod backtest;
pub mod block;
pub mod broker;
pub mod calendar;
pub mod candle;
pub mod checks;
pub mod fill;
pub mod html;
pub mod import;
pub mod indicators;
pub mod metrics;
pub mod money;
pub mod months;
pub mod portfolio;
pub mod resample;
pub mod risk;
pub mod search;
pub mod several;
pub mod simulator;
mod stops;
pub mod strategy;
mod svg;
pub mod table;
pub mod walkforward;
