//! Pending timers on wall clocks: each must fire once its delay has passed in virtual time, whatever the wall clock
//! did.

use std::collections::BTreeMap;

use atra_bus::Name;
use atra_storage::FactRow;
use serde::Deserialize;

/// The delay in a timer's fact; `None` on an `events` clock and for a schedule.
#[derive(Deserialize)]
struct Stored {
    after: Option<u64>,
}

/// A timer that was set and has not fired.
pub(super) struct Pending {
    pub(super) owner: Name,
    pub(super) after_ms: u64,
    /// When it was committed, or when the present process started.
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

    /// Timers that should have fired at least this long ago.
    pub(super) fn overdue(&self, at_ms: u64, by_ms: u64) -> impl Iterator<Item = &Pending> {
        let is_overdue =
            move |timer: &&Pending| timer.since_ms.saturating_add(timer.after_ms).saturating_add(by_ms) < at_ms;
        self.0.values().filter(is_overdue)
    }
}
