//! Timers of wall clocks that are pending: each must ring once its delay has passed in virtual time, whatever the wall
//! clock did meanwhile.

use std::collections::BTreeMap;

use atra_bus::Name;
use atra_storage::FactRow;
use serde::Deserialize;

/// What a timer's fact says of its delay; none on an `events` clock, and none of a schedule.
#[derive(Deserialize)]
struct Stored {
    after: Option<u64>,
}

/// A timer that has been set and has not fallen due.
pub(super) struct Pending {
    pub(super) owner: Name,
    pub(super) after_ms: u64,
    /// When it was committed, or when the process that has it was started.
    pub(super) since_ms: u64,
}

/// Pending timers by the key of their fact.
#[derive(Default)]
pub(super) struct Timers(BTreeMap<u64, Pending>);

impl Timers {
    /// A timer's fact was committed, or found at a start.
    pub(super) fn fact(&mut self, at_ms: u64, key: u64, fact: &FactRow) {
        let Some(json) = &fact.value else {
            self.0.remove(&key);
            return;
        };
        if let Ok(Stored { after: Some(after_ms) }) = serde_json::from_str(json) {
            self.0.insert(key, Pending { owner: fact.owner.clone(), after_ms, since_ms: at_ms });
        }
    }

    /// Those that should have rung so long ago.
    pub(super) fn overdue(&self, at_ms: u64, by_ms: u64) -> impl Iterator<Item = &Pending> {
        let is_overdue =
            move |timer: &&Pending| timer.since_ms.saturating_add(timer.after_ms).saturating_add(by_ms) < at_ms;
        self.0.values().filter(is_overdue)
    }
}
