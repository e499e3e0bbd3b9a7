//! What was decided, decided again: some teams of a finished run are given what the journal says that they were given, and
//! must publish what it says that they published, byte for byte.
//!
//! It needs neither a second run nor inputs that do not depend on timing: the journal tells who came first. An agent that
//! asks a clock, a global or a map without order is found by it. Only so much of the journal is read, so a run of a large
//! swarm decides again for one team and for its beginning.

use std::collections::BTreeSet;

use atra_bus::{Name, Seq};

use super::{Invariant, SimReport, Violation, engine::mix};
use crate::{
    Clock, Team,
    replay::{Difference, Replay, ReplayError, Replayed},
};

/// Rows of the journal that are read for it, over all teams. 20,000: some milliseconds.
const ROWS_MAX: u64 = 20_000;

/// Decides again for the teams, in an order of the seed's, until enough was read.
pub(super) fn decide<T>(report: &mut SimReport<T>, seed: u64, mut teams: Vec<Team>) {
    let agents: BTreeSet<Name> = teams.iter().flat_map(Team::specs).map(|spec| spec.name.clone()).collect();
    // What a source says of the time alone is not recorded: what comes between two of its inputs may be handled later.
    teams.retain(|team| team.clock == Clock::Events || team.specs().all(|spec| !spec.is_source));
    // A shuffle that one team more or less does not change for the others.
    teams.sort_by_cached_key(|team| mix(seed ^ 0xA6A1, super::engine::hash_text(team.name().as_str())));
    let Ok(tokio) = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build() else {
        return;
    };
    let (mut left, mut n) = (ROWS_MAX, 0);
    for team in teams {
        if left == 0 {
            break;
        }
        let name = team.name().clone();
        let replay = Replay::new(report.reader.clone(), vec![(Seq::ZERO, team)], agents.clone());
        let replayed = tokio.block_on(replay.span(Seq::ZERO, Some(Seq(left))).run(|_| {}));
        n += match &replayed {
            Ok(replayed) => replayed.events,
            Err(_) => 1,
        };
        left -= replayed.as_ref().map_or(left, |replayed| replayed.upto.get().min(left));
        if let Some(text) = told(replayed) {
            let at_ms = report.virtual_time.as_millis() as u64;
            let invariant = Invariant::Deterministic.name().into();
            report.violations.push(Violation { invariant, key: name.to_string(), at_ms, text });
        }
    }
    if n > 0 || !report.violations.is_empty() {
        report.not_applicable.remove(Invariant::Deterministic.name());
        *report.checks.entry(Invariant::Deterministic.name().into()).or_insert(0) += n.max(1);
    }
}

fn told(replayed: Result<Replayed, ReplayError>) -> Option<String> {
    let Difference { recorded, present, what, .. } = match replayed {
        Ok(replayed) => replayed.difference?,
        Err(error) => return Some(format!("could not be decided again: {error}")),
    };
    let text = |event: &atra_bus::Event| format!("{} {}", event.topic, event.payload.json().unwrap_or("(no JSON)"));
    let was = recorded.map_or("nothing".into(), |row| format!("seq {}: {}", row.seq, text(&row.event)));
    let is = present.map_or("nothing".into(), |event| text(&event));
    Some(format!("given the same again, {what}; it was {was}, and is {is}"))
}
