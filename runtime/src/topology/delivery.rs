//! Refuses subscriptions and schedules that can never work, so that an agent that waits in vain is found at the start.

use std::collections::BTreeSet;

use atra_bus::{Filter, Name};

use super::{TopologyError, members};
use crate::{
    AgentSpec, Clock,
    coordinator::{CALLER, runtime_name},
    team::Team,
};

/// Topics that the runtime publishes on besides schedules.
const SYSTEM_TOPICS: [&str; 3] = ["sys.team.started", "sys.init", "sys.clock"];
/// The most comparisons of filters in the search for passing events. Two million take some tens of milliseconds; above
/// that, filters with wildcards are accepted unchecked.
const COMPARED_MAX: usize = 2_000_000;

pub(super) fn check(teams: &[Team]) -> Result<(), TopologyError> {
    reserved_names(teams)?;
    clocks(teams)?;
    let schedules = members(teams).flat_map(|(_, spec)| spec.schedules.iter().map(move |schedule| (spec, schedule)));
    let schedules: BTreeSet<String> =
        schedules.map(|(spec, schedule)| format!("sys.schedule.{}.{}", spec.name, schedule.name)).collect();
    for (_, spec) in members(teams) {
        for filter in &spec.subscribes {
            if let Some(reason) = why_never(spec, filter, &schedules) {
                return Err(TopologyError::NeverDelivered { agent: spec.name.clone(), filter: filter.clone(), reason });
            }
        }
    }
    passing(teams)
}

/// Names that the runtime or callers use to publish.
fn reserved_names(teams: &[Team]) -> Result<(), TopologyError> {
    let refuse = |what, name: &Name, reason: &str| {
        Err(TopologyError::ReservedName { what, name: name.clone(), reason: reason.into() })
    };
    let runtime = runtime_name();
    for team in teams {
        if *team.name() == runtime {
            return refuse("team", team.name(), "the runtime's own facts are under it");
        }
        for spec in team.specs() {
            if spec.name == runtime {
                return refuse("agent", &spec.name, "the runtime publishes under it");
            }
            if spec.name.as_str() == CALLER {
                return refuse("agent", &spec.name, "callers publish under it unless they say another name");
            }
        }
    }
    Ok(())
}

/// An `events` clock follows the team's own sources, so it never advances without a source.
fn clocks(teams: &[Team]) -> Result<(), TopologyError> {
    for team in teams.iter().filter(|team| team.clock == Clock::Events) {
        let has_source = team.specs().any(|spec| spec.is_source);
        if let Some(spec) = team.specs().find(|spec| !has_source && !spec.schedules.is_empty()) {
            return Err(TopologyError::ClockStandsStill { agent: spec.name.clone(), team: team.name().clone() });
        }
    }
    Ok(())
}

/// Why no event that `filter` matches can reach the agent.
fn why_never(spec: &AgentSpec, filter: &Filter, schedules: &BTreeSet<String>) -> Option<String> {
    let mut tokens = filter.as_str().split('.');
    match (tokens.next(), tokens.next(), tokens.next()) {
        (Some("to"), Some(addressee), subject) => {
            if addressee != spec.name.as_str() {
                return Some(format!(
                    "events under to. reach the agent that they name, and agent {} without a subscription",
                    spec.name
                ));
            }
            subject.is_none().then(|| "an address without a subject is not accepted".into())
        }
        (Some("sys"), _, _) => {
            let published = SYSTEM_TOPICS.iter().copied().chain(schedules.iter().map(String::as_str));
            let is_published = if filter.is_literal() {
                SYSTEM_TOPICS.contains(&filter.as_str()) || schedules.contains(filter.as_str())
            } else {
                published.into_iter().any(|topic| filter.matches(topic))
            };
            let known = SYSTEM_TOPICS.join(", ");
            (!is_published).then(|| {
                format!("the runtime publishes nothing there: it has {known} and sys.schedule.<agent>.<name> of each schedule")
            })
        }
        _ => None,
    }
}

/// Passing events do not leave their team, so a filter that matches only another team's passing events gets no events.
fn passing(teams: &[Team]) -> Result<(), TopologyError> {
    // By filter, with publishers of two teams, so that at least one is from another team.
    let mut passing: std::collections::BTreeMap<&Filter, Vec<(&Team, &AgentSpec)>> = Default::default();
    for (team, spec) in members(teams) {
        for published in spec.publishes.iter().filter(|published| !published.durable) {
            let publishers = passing.entry(&published.filter).or_default();
            if publishers.len() < 2 && publishers.iter().all(|(other, _)| other.name() != team.name()) {
                publishers.push((team, spec));
            }
        }
    }
    let mut compared = 0;
    for (team, spec) in members(teams).filter(|_| !passing.is_empty()) {
        for filter in &spec.subscribes {
            compared += passing.len();
            if compared > COMPARED_MAX {
                return Ok(());
            }
            let overlapping = passing.iter().filter(|(published, _)| published.overlaps(filter));
            let crossing =
                overlapping.flat_map(|(_, publishers)| publishers).find(|(from, _)| from.name() != team.name());
            let Some((_, publisher)) = crossing else { continue };
            compared += teams.len();
            if spec.commands.contains(filter) || is_delivered(teams, team, filter) {
                continue;
            }
            let (subscriber, publisher) = (spec.name.clone(), publisher.name.clone());
            return Err(TopologyError::PassingCrosses { subscriber, filter: filter.clone(), publisher });
        }
    }
    Ok(())
}

/// Whether any agent publishes something that reaches `team` through `filter`.
fn is_delivered(teams: &[Team], team: &Team, filter: &Filter) -> bool {
    // Memory is written, not published.
    filter.as_str().starts_with("memory.")
        || members(teams).any(|(from, spec)| {
            let reaches = |durable: bool| durable || from.name() == team.name();
            spec.publishes.iter().any(|published| reaches(published.durable) && published.filter.overlaps(filter))
        })
}
