//! atra-bus: messages move.
//!
//! What is here: [`Topic`] and [`Filter`], the [`Event`] and its typed [`Payload`], the [`Bus`] that
//! broadcasts committed batches to those who want something in them, [`Subscription`]s that never lose
//! a durable event, and [`Env`], the seam through which wall time, randomness and task spawning enter.
//!
//! What is not: nothing here knows SQL, agents or teams. This crate is the leftmost of the workspace;
//! every other one may use it and it uses none of them.

pub mod bus;
pub mod env;
pub mod event;
pub mod id;
mod index;
pub mod name;
pub mod observer;
pub mod payload;
mod queue;
pub mod setting;
pub mod subscription;
pub mod topic;

pub use bus::{Bus, BusOptions, SubscriberStatus};
pub use env::SimEnv;
pub use env::{Env, OwnedTask, SystemEnv, Task, TaskFuture};
pub use event::{Batch, Committed, Draft, Event, EventType, Seq};
pub use id::EventId;
pub use name::{Name, NameError};
pub use observer::Observer;
pub use payload::{Payload, PayloadError};
pub use setting::{InvalidSetting, InvalidSettings, SettingCheck};
pub use subscription::{Interest, Journal, JournalError, Page, Subscription};
pub use topic::{Filter, Topic, TopicError};

/// Milliseconds since 1970-01-01T00:00:00 UTC. Signed: data may be older than the epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// The instant `duration` later; saturates at the ends of the range.
    #[must_use]
    pub fn after(self, duration: std::time::Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)))
    }

    /// Milliseconds since the epoch.
    #[must_use]
    pub const fn millis(self) -> i64 {
        self.0
    }
}

impl std::fmt::Display for Timestamp {
    /// Milliseconds as a plain number; the command line formats dates.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}
