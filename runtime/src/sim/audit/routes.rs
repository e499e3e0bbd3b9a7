//! Whom what has a topic is for, worked out once per topic.

use std::sync::Arc;

use atra_bus::Topic;

use super::{AgentAccount, Version};

/// Where what has a topic goes.
pub(super) struct Route {
    /// The agents that want it.
    pub(super) agents: Wanted,
    /// The place of the key of memory that it writes.
    pub(super) key: Option<u32>,
}

impl Route {
    /// Where a topic that was never seen before goes.
    pub(super) fn of(topic: &Topic, agents: &[AgentAccount], memory: &mut Vec<(Arc<str>, Vec<Version>)>) -> Self {
        let wants = |agent: &AgentAccount| match topic.addressee() {
            Some(name) => agent.spec.name.as_str() == name,
            None => agent.spec.wants.filters.iter().any(|filter| filter.matches(topic.as_str())),
        };
        let places: Vec<u32> = (0..).zip(agents).filter(|(_, agent)| wants(agent)).map(|(place, _)| place).collect();
        let agents = match places[..] {
            [] => Wanted::Nobody,
            [place] => Wanted::One(place),
            _ => Wanted::Many(places.into()),
        };
        // One topic, one key.
        let key = topic.memory_key().map(|key| {
            memory.push((key.into(), Vec::new()));
            memory.len() as u32 - 1
        });
        Self { agents, key }
    }
}

/// Places of agents. Most topics of a swarm address one, which is told where the route lies.
pub(super) enum Wanted {
    Nobody,
    One(u32),
    Many(Box<[u32]>),
}

impl Wanted {
    pub(super) fn places(&self) -> &[u32] {
        match self {
            Self::Nobody => &[],
            Self::One(place) => std::slice::from_ref(place),
            Self::Many(places) => places,
        }
    }
}
