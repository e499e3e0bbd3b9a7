//! Every bound of a team, with its default and the reason.

use std::time::Duration;

use atra_bus::{InvalidSettings, SettingCheck};
use serde::{Deserialize, Serialize};

/// The longest time that any limit allows, in milliseconds: a day, far below where the arithmetic of instants ends.
const DAY_MS: u64 = 86_400_000;

/// The bounds of a team. All are configurable; the defaults suit a busy team on two cores.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Inputs in one step. 256: the cost of a commit is spread thin, and a killed process repeats little.
    pub inputs_max: usize,
    /// Steps on their way to the store. 4: the executor works while the store commits, and no more waits.
    pub steps_in_flight_max: usize,
    /// Encoded bytes of a step's events. 16 MiB: a batch of them fits the storage queue.
    pub step_bytes_max: usize,
    /// Encoded bytes of one event or fact. 1 MiB: bigger things belong in a file with a reference to it.
    pub event_bytes_max: usize,
    /// Events in one cascade. 10,000: far above any honest fan-out; a loop ends here.
    pub cascade_events_max: usize,
    /// Hops from an event to its root. 64: a longer chain across teams is a loop.
    pub hops_max: u16,
    /// Inputs that a source may read ahead. 4,096: hides the read latency of a page.
    pub read_ahead_inputs_max: usize,
    /// Foreign events taken out of the subscription at once. 512: two steps' worth.
    pub foreign_events_max: usize,
    /// Pending timers of one agent. 10,000: they live in memory.
    pub timers_max: usize,
    /// Times of one schedule with `Missed::All` that are caught up on after a pause. 100,000: a day of seconds; what is
    /// older is left out, with an error in the log.
    pub missed_max: u64,
    /// Restarts without a committed input in between before the team is marked failed. 10.
    pub restarts_max: u32,
    /// Restarts within `restart_period_ms`, with committed inputs in between, before the team is marked failed. 50: a
    /// source that loses its connection every other second keeps running, a source that fails after each input does
    /// not.
    pub restarts_per_period_max: u32,
    /// The period of `restarts_per_period_max`, in milliseconds. 60,000.
    pub restart_period_ms: u64,
    /// Dead letters per 1,000 inputs before the team is marked failed. 100: one in ten is not poison any
    /// more, it is a broken agent.
    pub dead_letters_per_thousand_max: u32,
    /// The first pause before a restart, in milliseconds; doubles each time. 10.
    pub backoff_first_ms: u64,
    /// The longest pause before a restart, in milliseconds. 10,000.
    pub backoff_max_ms: u64,
    /// Deaths of the process in one turn before it is given up. 10: no machine dies that often in the same turn by chance.
    pub deaths_max: u32,
    /// How often a bare cursor move is written, in milliseconds. 5,000: it saves re-reading, not data.
    pub cursor_every_ms: u64,
    /// How long a turn may run without yielding before the watchdog names it, in milliseconds. 5,000.
    pub watchdog_ms: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            inputs_max: 256,
            steps_in_flight_max: 4,
            step_bytes_max: 16 << 20,
            event_bytes_max: 1 << 20,
            cascade_events_max: 10_000,
            hops_max: 64,
            read_ahead_inputs_max: 4_096,
            foreign_events_max: 512,
            timers_max: 10_000,
            missed_max: 100_000,
            restarts_max: 10,
            restarts_per_period_max: 50,
            restart_period_ms: 60_000,
            dead_letters_per_thousand_max: 100,
            backoff_first_ms: 10,
            backoff_max_ms: 10_000,
            deaths_max: 10,
            cursor_every_ms: 5_000,
            watchdog_ms: 5_000,
        }
    }
}

impl Limits {
    /// Checks every limit. Values that cannot work are refused: with a limit of 0 inputs none is ever taken, and the
    /// largest possible hop limit never ends a loop.
    ///
    /// # Errors
    /// Each limit that is out of its range or does not fit another.
    pub fn check(&self) -> Result<(), InvalidSettings> {
        let mut check = SettingCheck::new("limits");
        check.range("inputs_max", self.inputs_max, 1..=1_000_000);
        check.range("steps_in_flight_max", self.steps_in_flight_max, 1..=1_024);
        check.range("step_bytes_max", self.step_bytes_max, 1_024..=1 << 30);
        check.range("event_bytes_max", self.event_bytes_max, 64..=1 << 30);
        check.at_most("event_bytes_max", self.event_bytes_max, "step_bytes_max", self.step_bytes_max);
        check.range("cascade_events_max", self.cascade_events_max, 1..=10_000_000);
        check.range("hops_max", self.hops_max, 1..=10_000);
        check.range("read_ahead_inputs_max", self.read_ahead_inputs_max, 1..=1_000_000);
        check.range("foreign_events_max", self.foreign_events_max, 1..=1_000_000);
        check.range("timers_max", self.timers_max, 0..=10_000_000);
        check.range("missed_max", self.missed_max, 1..=10_000_000);
        check.range("restarts_max", self.restarts_max, 0..=1_000_000);
        check.range("restarts_per_period_max", self.restarts_per_period_max, 0..=1_000_000);
        check.range("restart_period_ms", self.restart_period_ms, 1..=DAY_MS);
        check.range("dead_letters_per_thousand_max", self.dead_letters_per_thousand_max, 0..=1_000_000);
        check.range("backoff_first_ms", self.backoff_first_ms, 1..=DAY_MS);
        check.range("backoff_max_ms", self.backoff_max_ms, 1..=DAY_MS);
        check.at_most("backoff_first_ms", self.backoff_first_ms, "backoff_max_ms", self.backoff_max_ms);
        check.range("deaths_max", self.deaths_max, 1..=1_000_000);
        check.range("cursor_every_ms", self.cursor_every_ms, 1..=DAY_MS);
        check.range("watchdog_ms", self.watchdog_ms, 10..=DAY_MS);
        check.finish()
    }

    /// The pause before the `restart`-th restart in a row (1, 2, …): exponential, bounded.
    #[must_use]
    pub fn backoff(&self, restart: u32) -> Duration {
        let doubled = self.backoff_first_ms.saturating_mul(1_u64 << restart.saturating_sub(1).min(20));
        Duration::from_millis(doubled.min(self.backoff_max_ms))
    }
}
