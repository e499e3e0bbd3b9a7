//! The market domain: pure, deterministic, without tokio, clock or I/O.
pub mod backtest;
pub mod block;
pub mod broker;
pub mod candle;
pub mod fill;
pub mod import;
pub mod indicators;
pub mod metrics;
pub mod money;
pub mod portfolio;
pub mod risk;
pub mod simulator;
pub mod strategy;
pub mod walkforward;
