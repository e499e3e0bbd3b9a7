//! The seven agents of the market desk ([`desk`](desk::desk)), and the pure domain that they are made of ([`market`]).
//!
//! Each agent is a thin translation between events and a pure part: it reads no clock, decides nothing by itself that a
//! function in [`market`] could decide, and writes what it needs after a restart as small keyed state.

pub mod candles;
pub mod desk;
pub mod events;
mod execution;
mod feed;
pub mod halts;
mod indicator;
pub mod market;
mod optimizer;
mod portfolio;
pub mod report;
mod risk;
mod series;
mod signal;

pub use candles::{CandleSource, SIMULATED_FROM};
pub use desk::{DeskConfig, DeskError, OptimizerConfig, desk, desk_with};
pub use report::DeskReport;
