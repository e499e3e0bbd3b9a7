//! atra-bus: messages move.
//!
//! What is here: [`Topic`] and [`Filter`], the [`Event`] and its typed [`Payload`], the [`Bus`] that
//! broadcasts committed batches to those who want something in them, [`Subscription`]s that never lose
//! a durable event, and [`Env`], the seam through which wall time, randomness and task spawning enter.
//!
//! What is not: nothing here knows SQL, agents or teams. This crate is the leftmost of the workspace;
//! every other one may use it and it uses none of them.

pub mod bus;
pub mod contain;
mod cut;
mod encode;
pub mod env;
pub mod event;
pub mod id;
mod index;
mod json_text;
pub mod name;
pub mod observer;
pub mod payload;
mod queue;
pub mod setting;
pub mod subscription;
mod time;
pub mod topic;

pub use bus::{Bus, BusOptions, SubscriberStatus};
pub use cut::{ERROR_BYTES_MAX, cut_text};
pub use encode::{NESTING_MAX, ValueFault};
pub use env::SimEnv;
pub use env::{Env, OwnedTask, SystemEnv, Task, TaskFuture};
pub use event::{Batch, Committed, Draft, Event, EventType, Seq};
pub use id::EventId;
pub use name::{Name, NameError};
pub use observer::Observer;
pub use payload::{Payload, PayloadError, encode, round_trip};
pub use setting::{InvalidSetting, InvalidSettings, SettingCheck};
pub use subscription::{Interest, Journal, JournalError, Page, Subscription};
pub use time::{Timestamp, later};
pub use topic::{Filter, Topic, TopicError};
