//! The names of what is checked, and of a check that failed. How each is checked is in `audit.rs`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A guarantee, as it is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Invariant {
    /// Foreign events reach an agent in journal order, without gap or repeat.
    Order,
    /// What is found after a crash is the state after some whole number of commits.
    Atomic,
    /// Nobody outside a team gets an event that is not committed.
    Isolated,
    /// What was acknowledged is there, as long as its level promises.
    Durable,
    /// No event is in the journal twice.
    ExactlyOnce,
    /// A turn reads what others wrote as of its position.
    AsOf,
    /// Committed decisions are the same when they are made again.
    Deterministic,
    /// Queues stay within their limits.
    Bounded,
    /// A team fails only for what its own agents did; dead letters are earned.
    Contained,
    /// A stop ends in time, in order, and leaves the mark of a clean end, unless there is no space for it.
    CleanStop,
    /// Epochs, step numbers and cursors never go back.
    Fenced,
    /// What a team wants is handled in the end.
    NotStuck,
    /// A team that is said to run has a task behind it.
    HasTask,
}

/// A check that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Violation {
    /// Which guarantee, or the name of the test's own invariant.
    pub invariant: String,
    /// Whom it is about: an agent, a team, a key.
    pub key: String,
    /// Virtual time since the begin, in milliseconds.
    pub at_ms: u64,
    /// What was found.
    pub text: String,
}

impl Invariant {
    /// All of them, in the order of their discriminants.
    pub(super) const ALL: [Self; 13] = [
        Self::Order,
        Self::Atomic,
        Self::Isolated,
        Self::Durable,
        Self::ExactlyOnce,
        Self::AsOf,
        Self::Deterministic,
        Self::Bounded,
        Self::Contained,
        Self::CleanStop,
        Self::Fenced,
        Self::NotStuck,
        Self::HasTask,
    ];

    /// Its name, as in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Order => "order",
            Self::Atomic => "atomic",
            Self::Isolated => "isolated",
            Self::Durable => "durable",
            Self::ExactlyOnce => "exactly_once",
            Self::AsOf => "as_of",
            Self::Deterministic => "deterministic",
            Self::Bounded => "bounded",
            Self::Contained => "contained",
            Self::CleanStop => "clean_stop",
            Self::Fenced => "fenced",
            Self::NotStuck => "not_stuck",
            Self::HasTask => "has_task",
        }
    }
}

/// What the checks of a run came to.
#[derive(Default)]
pub(crate) struct Outcome {
    /// How often each was evaluated. Zero: it could have been, and was not.
    pub(crate) checks: BTreeMap<String, u64>,
    /// Those that there was nothing for, and why.
    pub(crate) not_applicable: BTreeMap<String, String>,
    pub(crate) violations: Vec<Violation>,
    /// The last events.
    pub(crate) recent: Vec<String>,
}
