//! atra-runtime: agents live.
//!
//! What is here: the [`Agent`] trait and the [`Context`] of a turn, [`Team`]s and the one loop that runs
//! them, supervision, [`SharedMemory`], the coordinator ([`RuntimeBuilder`]) and the handle on a running
//! [`Runtime`], and simulation.
//!
//! What is not: nothing here knows SQL or a market. Only the team executor commits turns.

pub mod agent;
mod clock;
pub mod config;
pub mod context;
mod coordinator;
mod kernel;
mod known;
mod ledger;
mod life;
pub mod limits;
pub mod memory;
pub mod metrics;
pub mod replay;
mod restarts;
mod runtime;
pub mod sim;
mod stop;
mod supervisor;
mod tasks;
mod team;
pub mod testing;
pub mod topology;

pub use agent::{
    Agent, AgentError, AgentSpec, KEY_BYTES_MAX, Missed, Offsets, OnPoison, Publishes, Query, Schedule, Source,
    SourceItem, StateReader, StateWriter,
};
pub use clock::ClockLimits;
pub use context::{Context, PublishError, ReadError};
pub use coordinator::{RuntimeBuilder, StartError};
pub use ledger::{EffectError, ModelCall};
pub use limits::Limits;
pub use memory::{Entry, SharedMemory};
pub use metrics::Metric;
pub use runtime::{PublishCall, Published, Runtime, RuntimeError, TeamStatus};
pub use supervisor::{STATE_KEY, TeamState};
pub use team::{Clock, Placement, Team, TurnFault};
