//! Agents to fill a swarm with: they do a little of everything that an agent can do, and can be checked from outside.
//!
//! Each lives in a team of its own. On every beat of its schedule, and on timers of its own, it tells a neighbour; who
//! is told counts, writes its count to shared memory, reads another's, and sometimes passes on or sets a timer.

use std::time::Duration;

use async_trait::async_trait;
use atra_bus::{Draft, Event, EventType, Topic};
use serde::{Deserialize, Serialize};

use super::Swarm;
use crate::{Agent, AgentError, AgentSpec, Context, Limits, Missed, StateReader, StateWriter, Team};

/// Something told by one to another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// How often it may be passed on.
    pub left: u32,
}

impl EventType for Told {
    const TOPIC: Topic = Topic::literal("crowd.told");
    // Most of what a swarm says.
    const EXACT: Option<fn(&Self, &Self) -> bool> = Some(PartialEq::eq);
}

/// What a member knows: how often it had a beat, and how often it was told something.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Beats of the schedule.
    pub beats: u64,
    /// Times it was told.
    pub told: u64,
    /// Times it told somebody.
    pub said: u64,
}

/// One of the crowd.
#[derive(Debug)]
pub struct Member {
    place: usize,
    of: usize,
    every: Duration,
    counts: Counts,
}

impl Member {
    /// The member at `place` of `of`, with a beat every `every`.
    #[must_use]
    pub fn new(place: usize, of: usize, every: Duration) -> Self {
        Self { place, of, every, counts: Counts::default() }
    }

    fn name(place: usize) -> String {
        ["crowd-", itoa::Buffer::new().format(place)].concat()
    }

    /// The key of memory at which a member keeps how often it was told.
    fn key(place: usize) -> String {
        ["crowd.", itoa::Buffer::new().format(place), ".told"].concat()
    }

    fn tell(&mut self, left: u32, cx: &mut Context<'_>) -> Result<(), AgentError> {
        let to = cx.random() as usize % self.of;
        cx.send(&Self::name(to), Told { left })?;
        self.counts.said += 1;
        Ok(())
    }
}

#[async_trait]
impl Agent for Member {
    fn spec(&self) -> AgentSpec {
        AgentSpec::new(&Self::name(self.place)).owns(&format!("crowd.{}.", self.place)).publishes::<Told>().schedule(
            "beat",
            self.every,
            Missed::Last,
        )
    }

    async fn start(&mut self, state: &StateReader<'_>) -> Result<(), AgentError> {
        self.counts = state.get("counts")?.unwrap_or_default();
        Ok(())
    }

    async fn handle(&mut self, event: &Event, cx: &mut Context<'_>) -> Result<(), AgentError> {
        if event.topic.as_str().starts_with("sys.schedule.") {
            self.counts.beats += 1;
            return self.tell(u32::from(cx.random().is_multiple_of(8)), cx);
        }
        let left = event.get::<Told>()?.left;
        if event.topic.as_str() == "crowd.told" {
            // A timer of its own: what it put off before.
            return self.tell(left, cx);
        }
        self.counts.told += 1;
        cx.put(&Self::key(self.place), self.counts.told)?;
        let other = cx.random() as usize % self.of;
        let heard: u64 = cx.get(&Self::key(other)).await?.unwrap_or(0);
        match (left, heard % 4) {
            (0, _) => {}
            (_, 0) => _ = cx.after(Duration::from_millis(1 + heard % 5_000), Draft::from(Told { left: left - 1 }))?,
            _ => self.tell(left - 1, cx)?,
        }
        Ok(())
    }

    fn save(&mut self, state: &mut StateWriter<'_>) -> Result<(), AgentError> {
        state.put("counts", &self.counts)
    }
}

/// The teams of a crowd of `n`, one member each, with a beat every `every`.
pub fn teams(n: usize, every: Duration, limits: &Limits) -> impl Iterator<Item = Team> {
    let limits = limits.clone();
    (0..n).map(move |place| Team::of(move || Member::new(place, n, every)).limits(limits.clone()))
}

/// A swarm of `n` of them.
#[must_use]
pub fn swarm(seed: u64, n: usize, every: Duration) -> Swarm {
    teams(n, every, &Limits::default()).fold(Swarm::new(seed), Swarm::team)
}
