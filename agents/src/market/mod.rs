//! The market domain: pure, deterministic, without tokio, clock or I/O.

pub mod block;
pub mod candle;
pub mod import;
pub mod indicators;
pub mod money;
pub mod strategy;
