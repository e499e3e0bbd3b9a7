#![doc = include_str!("../README.md")]

pub mod config;
pub mod simulation;

pub use atra_agents as agents;
pub use atra_bus as bus;
pub use atra_runtime as runtime;
pub use atra_storage as storage;

pub use async_trait::async_trait;
pub use atra_bus::{
    Committed, Draft, Env, Event, EventId, EventType, Filter, InvalidSetting, InvalidSettings, Name, NameError,
    Payload, Seq, SystemEnv, Timestamp, Topic,
};
pub use atra_runtime::{
    Agent, AgentError, AgentSpec, Clock, Context, Limits, Missed, Offsets, OnPoison, Placement, Query, Runtime,
    RuntimeBuilder, RuntimeError, Source, SourceItem, StartError, StateReader, StateWriter, Team, TeamState,
};
pub use atra_storage::{
    Level, MemoryDisk, MemoryStore, Read, Rejected, SqliteOptions, SqliteReader, SqliteStore, StoreError,
};

/// What almost every agent and every `main` needs: `use atra::prelude::*`.
pub mod prelude {
    pub use crate::{
        Agent, AgentError, AgentSpec, Clock, Context, Draft, Event, EventType, Filter, Level, MemoryDisk, MemoryStore,
        Missed, Name, Offsets, OnPoison, Placement, Query, Runtime, RuntimeBuilder, Source, SourceItem, SqliteOptions,
        SqliteStore, StateReader, StateWriter, Team, Timestamp, Topic,
    };
}

/// The tutorial of the simulation, so that what it shows is compiled.
#[cfg(doctest)]
#[doc = include_str!("../docs/simulation.md")]
struct SimulationTutorial;
