//! Live figures of a running runtime, all in one place: names, labels, values.
//!
//! Names are `atra_<noun>_<unit>`, with `_total` for what only grows. Labels are bounded: teams and quantiles, never ids.
//! They are for people and collectors; nothing in the runtime is decided by them.

use atra_storage::Distribution;
use serde::Serialize;

use crate::Runtime;

/// One figure.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Metric {
    /// What it is, with its unit.
    pub name: &'static str,
    /// What it is about, if there are several: the name and value of a label.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<(&'static str, String)>,
    /// Its value now.
    pub value: u64,
}

struct Figures(Vec<Metric>);

impl Figures {
    fn add(&mut self, name: &'static str, value: u64) {
        self.0.push(Metric { name, label: None, value });
    }

    fn add_of(&mut self, name: &'static str, label: &'static str, of: &str, value: u64) {
        self.0.push(Metric { name, label: Some((label, of.to_owned())), value });
    }

    fn add_distribution(&mut self, name: &'static str, found: Distribution) {
        for (quantile, value) in [("0.5", found.p50), ("0.99", found.p99), ("1", found.max)] {
            self.add_of(name, "quantile", quantile, value);
        }
    }
}

/// Every figure, in a fixed order.
pub(crate) fn read(runtime: &Runtime) -> Vec<Metric> {
    let mut figures = Figures(Vec::new());
    let storage = runtime.storage_metrics();
    figures.add("atra_queue_commands", storage.queued);
    figures.add("atra_queue_bytes", storage.queued_bytes);
    figures.add("atra_batches_total", storage.batches);
    figures.add("atra_steps_total", storage.steps);
    figures.add("atra_events_total", storage.events);
    figures.add("atra_rejected_commands_total", storage.rejected);
    figures.add("atra_retries_total", storage.retries);
    figures.add_distribution("atra_batch_steps", storage.batch_steps);
    figures.add_distribution("atra_commit_micros", storage.commits);
    figures.add("atra_database_bytes", storage.sizes.used_bytes);
    figures.add("atra_database_full", u64::from(storage.is_full));
    figures.add("atra_wal_bytes", storage.sizes.wal_bytes);
    figures.add("atra_checkpoints_total", storage.checkpoints);
    figures.add("atra_held_checkpoints_total", storage.checkpoints_held);
    figures.add("atra_reader_connections", storage.sizes.readers);
    figures.add("atra_cut_reads_total", storage.sizes.reads_cut);
    figures.add("atra_released_seq", runtime.released().get());
    figures.add("atra_pruned_seq", storage.floor.get());
    let subscribers = runtime.subscribers();
    figures.add("atra_subscribers", subscribers.len() as u64);
    figures.add("atra_lagging_subscribers", subscribers.iter().filter(|one| one.lagging).count() as u64);
    figures.add("atra_subscriber_events", subscribers.iter().map(|one| one.queued as u64).sum());
    figures.add("atra_subscriber_lags_total", subscribers.iter().map(|one| one.lagged).sum());
    for team in runtime.status() {
        let name = team.team.as_str();
        figures.add_of("atra_team_inputs_total", "team", name, team.inputs);
        figures.add_of("atra_team_inputs_ahead_total", "team", name, team.inputs_ahead);
        figures.add_of("atra_team_turns_total", "team", name, team.turns);
        figures.add_of("atra_team_steps_total", "team", name, team.steps);
        figures.add_of("atra_team_events_total", "team", name, team.events);
        figures.add_of("atra_team_dead_letters_total", "team", name, team.dead_letters);
        figures.add_of("atra_team_restarts_total", "team", name, team.restarts);
    }
    figures.0
}
