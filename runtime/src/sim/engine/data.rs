//! What goes into a run of the engine, and what comes out of it.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Which ready task is polled next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Policy {
    /// The one with the least keyed random number: every seed is another order.
    #[default]
    Random,
    /// The one that was woken first, as a plain executor does.
    Fifo,
}

/// Why a simulation could not go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// Nothing is ready and no timer is set, but the scenario has not ended.
    #[error("deadlock: nothing is ready and no timer is set; waiting: {0}")]
    Deadlock(String),
    /// Polls without end while time stands still.
    #[error("livelock: {polls} polls without any progress of time; most polled: {busiest}")]
    Livelock {
        /// Polls at this instant.
        polls: u64,
        /// The tasks that took most of them.
        busiest: String,
    },
    /// Something left the simulation's one thread.
    #[error("not simulated: {0}")]
    Foreign(String),
    /// The scenario panicked.
    #[error("scenario panicked: {0}")]
    Panicked(String),
}

/// What a finished run amounted to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Figures {
    pub(crate) polls: u64,
    pub(crate) hash: u64,
    pub(crate) virtual_ms: u64,
}

/// One step of the run: what the rolling hash is made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceRecord {
    /// Which record, from 1.
    pub n: u64,
    /// Virtual time since the begin, in milliseconds.
    pub at_ms: u64,
    /// Which task or thing.
    pub what: String,
    /// A number of it: the task's poll, a batch's hash.
    pub value: u64,
}

/// How a run is set up.
#[derive(Debug, Clone)]
pub(crate) struct Setting {
    pub(crate) seed: u64,
    pub(crate) policy: Policy,
    pub(crate) polls_max: u64,
    pub(crate) traced: bool,
    /// Which task comes next, poll by poll, by key, whatever the policy; the least key where the list does not help.
    pub(crate) order: Option<Arc<[u64]>>,
}

/// What a traced run leaves.
pub(crate) struct Traced {
    pub(crate) records: Vec<TraceRecord>,
    pub(crate) order: Vec<u64>,
}
