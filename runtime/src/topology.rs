//! Checks what the specs of all teams say together, before anything runs.

mod delivery;
mod loops;
mod overlap;

use std::collections::{BTreeMap, BTreeSet};

use atra_bus::{Filter, Name};

use self::overlap::{Filters, OverBudget};
use crate::{AgentSpec, team::Team};

/// The most steps of the search for topology warnings: 20 million take about a second. Specs with plain topics, or with
/// wildcards behind a token of their own, need a few steps each.
const STEPS_MAX: usize = 20_000_000;

/// Why the teams cannot run together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TopologyError {
    /// Two agents, or two teams, have one name.
    #[error("{what} {name} is there twice: names are unique in a runtime")]
    TwoNames {
        /// `agent` or `team`.
        what: &'static str,
        /// The name.
        name: Name,
    },
    /// A team without agents.
    #[error("team {0} has no agents")]
    Empty(Name),
    /// Two agents own overlapping memory.
    #[error("agents {first} and {second} both own memory under {prefix:?}: each key has one owner")]
    TwoOwners {
        /// One agent.
        first: Name,
        /// The other.
        second: Name,
        /// The longer prefix.
        prefix: String,
    },
    /// An acting agent shares its team.
    #[error("acting agent {agent} must be alone in its team, {team} has {n_agents}")]
    ActingNotAlone {
        /// The agent.
        agent: Name,
        /// Its team.
        team: Name,
        /// Agents in it.
        n_agents: usize,
    },
    /// The name is the runtime's or the callers'.
    #[error("{what} cannot be named {name}: {reason}; use another name")]
    ReservedName {
        /// `agent` or `team`.
        what: &'static str,
        /// The name.
        name: Name,
        /// What uses the name.
        reason: String,
    },
    /// Nothing that the filter matches can ever reach the agent.
    #[error("agent {agent} subscribes to {filter}, which never reaches it: {reason}")]
    NeverDelivered {
        /// The agent.
        agent: Name,
        /// Its filter.
        filter: Filter,
        /// Why.
        reason: String,
    },
    /// A schedule on a clock that never advances.
    #[error(
        "agent {agent} has a schedule that never fires: the clock of team {team} follows its own sources' events, and it          has no source; use Clock::Wall or add a source"
    )]
    ClockStandsStill {
        /// The agent with the schedule.
        agent: Name,
        /// Its team.
        team: Name,
    },
    /// A passing event would have to leave its team.
    #[error(
        "agent {subscriber} wants {filter}, which agent {publisher} of another team publishes as passing: make it durable"
    )]
    PassingCrosses {
        /// Who wants it.
        subscriber: Name,
        /// What it wants.
        filter: Filter,
        /// Who publishes it.
        publisher: Name,
    },
}

/// Something odd that does not stop the start.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum TopologyWarning {
    /// Nobody in this runtime publishes what the agent wants: only callers can.
    Orphan {
        /// Who wants it.
        agent: Name,
        /// What it wants.
        filter: Filter,
    },
    /// Teams that feed each other: bounded by `hops_max` only.
    Cycle {
        /// The teams, in order.
        teams: Vec<Name>,
    },
    /// The filters overlap too much to search all of them for orphans and cycles.
    Unchecked {
        /// How many subscriptions and published topics there are.
        n_filters: usize,
    },
}

impl std::fmt::Display for TopologyWarning {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Orphan { agent, filter } => {
                write!(f, "agent {agent} wants {filter}, which no agent publishes: only callers can")
            }
            Self::Cycle { teams } => {
                let names: Vec<_> = teams.iter().map(Name::as_str).collect();
                write!(f, "teams {} feed each other: only hops_max ends a loop", names.join(" → "))
            }
            Self::Unchecked { n_filters } => write!(
                f,
                "{n_filters} subscriptions and published topics overlap in too many ways: not all were checked for \
                 topics that no agent publishes and for teams that feed each other"
            ),
        }
    }
}

/// Checks the teams; the first error stops the start.
///
/// # Errors
/// [`TopologyError`] with who and what.
pub fn check(teams: &[Team]) -> Result<Vec<TopologyWarning>, TopologyError> {
    names(teams)?;
    owners(teams)?;
    passing(teams)?;
    delivery::check(teams)?;
    let mut warnings = Vec::new();
    let mut budget = STEPS_MAX;
    let found = orphans(teams, &mut budget, &mut warnings).and_then(|()| loops::loops(teams, &mut budget));
    match found {
        Ok(loops) => warnings.extend(loops.into_iter().map(|teams| TopologyWarning::Cycle { teams })),
        Err(OverBudget) => {
            let n_filters = members(teams).map(|(_, spec)| spec.subscribes.len() + spec.publishes.len()).sum();
            warnings.push(TopologyWarning::Unchecked { n_filters });
        }
    }
    Ok(warnings)
}

fn members(teams: &[Team]) -> impl Iterator<Item = (&Team, &AgentSpec)> {
    teams.iter().flat_map(|team| team.specs().map(move |spec| (team, spec)))
}

fn names(teams: &[Team]) -> Result<(), TopologyError> {
    let (mut team_names, mut agent_names) = (BTreeSet::new(), BTreeSet::new());
    for team in teams {
        if !team_names.insert(team.name()) {
            return Err(TopologyError::TwoNames { what: "team", name: team.name().clone() });
        }
        let n_agents = team.specs().count();
        if n_agents == 0 {
            return Err(TopologyError::Empty(team.name().clone()));
        }
        for spec in team.specs() {
            if !agent_names.insert(&spec.name) {
                return Err(TopologyError::TwoNames { what: "agent", name: spec.name.clone() });
            }
            if spec.acting && n_agents > 1 {
                let (agent, team) = (spec.name.clone(), team.name().clone());
                return Err(TopologyError::ActingNotAlone { agent, team, n_agents });
            }
        }
    }
    Ok(())
}

/// Two prefixes overlap when one begins with the other. Sorted, everything that begins with a prefix follows
/// it directly.
fn owners(teams: &[Team]) -> Result<(), TopologyError> {
    let mut owned: Vec<(&str, &Name)> =
        members(teams).flat_map(|(_, spec)| spec.owns.iter().map(|prefix| (prefix.as_str(), &spec.name))).collect();
    owned.sort_unstable();
    // The prefixes that the current one begins with. All have one owner, or the check would have ended.
    let mut open: Vec<(&str, &Name)> = Vec::new();
    for (prefix, owner) in owned {
        while open.pop_if(|(shorter, _)| !prefix.starts_with(*shorter)).is_some() {}
        if let Some((_, first)) = open.last().filter(|(_, first)| *first != owner) {
            let (first, second) = ((*first).clone(), owner.clone());
            return Err(TopologyError::TwoOwners { first, second, prefix: prefix.into() });
        }
        open.push((prefix, owner));
    }
    Ok(())
}

/// A filter with wildcards need not match anything; a literal filter names one topic.
fn passing(teams: &[Team]) -> Result<(), TopologyError> {
    // The first publisher of each passing topic, and the first of another team.
    let mut published: BTreeMap<&Filter, ((&Name, &Name), Option<&Name>)> = BTreeMap::new();
    for (team, spec) in members(teams) {
        for passing in spec.publishes.iter().filter(|published| !published.durable && published.filter.is_literal()) {
            let ((first_team, _), other) =
                published.entry(&passing.filter).or_insert(((team.name(), &spec.name), None));
            if *first_team != team.name() {
                other.get_or_insert(&spec.name);
            }
        }
    }
    for (team, spec) in members(teams) {
        for filter in &spec.subscribes {
            let Some(((first_team, first), other)) = published.get(filter) else { continue };
            let publisher = if *first_team == team.name() { *other } else { Some(*first) };
            if let Some(publisher) = publisher {
                let (subscriber, publisher) = (spec.name.clone(), publisher.clone());
                return Err(TopologyError::PassingCrosses { subscriber, filter: filter.clone(), publisher });
            }
        }
    }
    Ok(())
}

fn orphans(teams: &[Team], budget: &mut usize, warnings: &mut Vec<TopologyWarning>) -> Result<(), OverBudget> {
    let reserved = ["sys", "memory", "to"];
    let mut published = Filters::default();
    for (_, spec) in members(teams) {
        spec.publishes.iter().for_each(|from| _ = published.add(&from.filter));
    }
    let mut known: BTreeMap<&Filter, bool> = BTreeMap::new();
    for (_, spec) in members(teams) {
        for filter in &spec.subscribes {
            let root = filter.as_str().split('.').next().unwrap_or_default();
            if reserved.contains(&root) || spec.commands.contains(filter) {
                continue;
            }
            let is_published = match known.get(filter) {
                Some(is_published) => *is_published,
                None => {
                    let is_published = !published.overlapping(filter, 1, budget)?.is_empty();
                    known.insert(filter, is_published);
                    is_published
                }
            };
            if !is_published {
                warnings.push(TopologyWarning::Orphan { agent: spec.name.clone(), filter: filter.clone() });
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
