//! Checks what the specs of all teams say together, before anything runs.

use std::collections::{BTreeMap, BTreeSet};

use atra_bus::{Filter, Name};

use crate::{AgentSpec, team::Team};

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
    let mut warnings = orphans(teams);
    warnings.extend(cycles(teams));
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

/// Sorted prefixes overlap exactly when a neighbour begins with its predecessor.
fn owners(teams: &[Team]) -> Result<(), TopologyError> {
    let mut owned: Vec<(&str, &Name)> =
        members(teams).flat_map(|(_, spec)| spec.owns.iter().map(|prefix| (prefix.as_str(), &spec.name))).collect();
    owned.sort_unstable();
    for pair in owned.windows(2) {
        let ((short, first), (long, second)) = (pair[0], pair[1]);
        if long.starts_with(short) && first != second {
            let (first, second) = (first.clone(), second.clone());
            return Err(TopologyError::TwoOwners { first, second, prefix: long.into() });
        }
    }
    Ok(())
}

fn passing(teams: &[Team]) -> Result<(), TopologyError> {
    let published: Vec<_> =
        members(teams).flat_map(|(team, spec)| spec.publishes.iter().map(move |p| (team, spec, p))).collect();
    for (team, spec) in members(teams) {
        for filter in &spec.subscribes {
            // A filter with wildcards takes what it gets; a literal one means just this topic.
            let crossing = published.iter().find(|(from, _, published)| {
                filter.is_literal() && !published.durable && from.name() != team.name() && published.filter == *filter
            });
            if let Some((_, publisher, _)) = crossing {
                let (subscriber, publisher) = (spec.name.clone(), publisher.name.clone());
                return Err(TopologyError::PassingCrosses { subscriber, filter: filter.clone(), publisher });
            }
        }
    }
    Ok(())
}

fn orphans(teams: &[Team]) -> Vec<TopologyWarning> {
    let reserved = ["sys", "memory", "to"];
    members(teams)
        .flat_map(|(_, spec)| spec.subscribes.iter().map(move |filter| (spec, filter)))
        .filter(|(spec, filter)| {
            let root = filter.as_str().split('.').next().unwrap_or_default();
            let published = members(teams).any(|(_, from)| from.publishes.iter().any(|p| p.filter.overlaps(filter)));
            !published && !reserved.contains(&root) && !spec.commands.contains(filter)
        })
        .map(|(spec, filter)| TopologyWarning::Orphan { agent: spec.name.clone(), filter: filter.clone() })
        .collect()
}

/// Teams that can reach themselves through others, each loop named once by its first team.
fn cycles(teams: &[Team]) -> Vec<TopologyWarning> {
    let mut feeds: BTreeMap<&Name, BTreeSet<&Name>> = BTreeMap::new();
    for from in teams {
        let durable: Vec<_> = from.specs().flat_map(|spec| &spec.publishes).filter(|p| p.durable).collect();
        for to in teams.iter().filter(|to| to.name() != from.name()) {
            let wants = |filter: &Filter| durable.iter().any(|published| published.filter.overlaps(filter));
            if to.specs().any(|spec| spec.subscribes.iter().any(wants)) {
                feeds.entry(from.name()).or_default().insert(to.name());
            }
        }
    }
    let mut found = Vec::new();
    let mut named: BTreeSet<Name> = BTreeSet::new();
    for team in teams {
        if named.contains(team.name()) {
            continue;
        }
        if let Some(path) = path_back(&feeds, team.name()) {
            named.extend(path.iter().cloned());
            found.push(TopologyWarning::Cycle { teams: path });
        }
    }
    found
}

/// The shortest way from a team back to itself, breadth first.
fn path_back(feeds: &BTreeMap<&Name, BTreeSet<&Name>>, start: &Name) -> Option<Vec<Name>> {
    let mut came_from: BTreeMap<&Name, &Name> = BTreeMap::new();
    let mut edge: std::collections::VecDeque<&Name> = [start].into();
    while let Some(at) = edge.pop_front() {
        for next in feeds.get(at).into_iter().flatten().copied() {
            if next == start {
                let mut path = vec![at.clone()];
                let mut back = at;
                while let Some(before) = came_from.get(back).copied() {
                    path.push(before.clone());
                    back = before;
                }
                path.reverse();
                return Some(path);
            }
            if !came_from.contains_key(next) {
                came_from.insert(next, at);
                edge.push_back(next);
            }
        }
    }
    None
}
