//! What is said about a team before it runs: its members, placement, clock and limits.

use std::sync::Arc;

use atra_bus::{
    InvalidSetting, InvalidSettings, Name, SettingCheck,
    contain::{contain_call, report},
};
use serde::{Deserialize, Serialize};

use crate::{Agent, AgentSpec, ledger::Model, limits::Limits};

/// Where the members of a team run. The result is the same, byte for byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Placement {
    /// All in the team's task: a hop is a function call.
    #[default]
    Together,
    /// Each in a task of its own with its own queue; members of one round run in parallel.
    Apart,
}

/// What a team's `now()` follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Clock {
    /// Wall time, as recorded with the inputs: the greatest time of an input so far. Timers fall due by the
    /// wall clock.
    #[default]
    Wall,
    /// The times of the team's own sources' events.
    Events,
}

/// Makes a fresh instance of an agent: at the start and after every failure.
pub(crate) type AgentFactory = Arc<dyn Fn() -> Box<dyn Agent> + Send + Sync>;

/// The spec of an instance that is created only for this. A panic of its drop is contained: an agent that owns a tokio
/// runtime, for example, panics when it is dropped inside a task.
fn spec_of(agent: impl Agent) -> AgentSpec {
    let spec = agent.spec();
    if let Err(panic) = contain_call(|| drop(agent)) {
        report(&format!("drop of agent {}", spec.name), &panic);
    }
    spec
}

/// A team to be started.
#[derive(Clone)]
pub struct Team {
    pub(crate) name: Name,
    pub(crate) factories: Vec<AgentFactory>,
    pub(crate) specs: Vec<Arc<AgentSpec>>,
    pub(crate) placement: Placement,
    pub(crate) clock: Clock,
    pub(crate) limits: Limits,
    /// Asked instead of the outside, in a simulation.
    pub(crate) model: Option<Model>,
}

impl Team {
    /// An empty team.
    ///
    /// # Panics
    /// When `name` is no name: it is a literal of the program.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self {
            name: Name::new(name).unwrap_or_else(|error| panic!("{error}")),
            factories: Vec::new(),
            specs: Vec::new(),
            placement: Placement::default(),
            clock: Clock::default(),
            limits: Limits::default(),
            model: None,
        }
    }

    /// A team of one agent, named as the agent.
    #[must_use]
    pub fn of<A: Agent + 'static>(factory: impl Fn() -> A + Send + Sync + 'static) -> Self {
        let spec = spec_of(factory());
        Self::new(spec.name.as_str()).member(spec, factory)
    }

    /// Adds a member; its place decides who is first where two members handle one event.
    #[must_use]
    pub fn agent<A: Agent + 'static>(self, factory: impl Fn() -> A + Send + Sync + 'static) -> Self {
        let spec = spec_of(factory());
        self.member(spec, factory)
    }

    fn member<A: Agent + 'static>(mut self, spec: AgentSpec, factory: impl Fn() -> A + Send + Sync + 'static) -> Self {
        self.specs.push(Arc::new(spec.delivered()));
        self.factories.push(Arc::new(move || Box::new(factory())));
        self
    }

    /// Says where the members run.
    #[must_use]
    pub fn placement(mut self, placement: Placement) -> Self {
        self.placement = placement;
        self
    }

    /// Says what `now()` follows.
    #[must_use]
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// Sets the bounds.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// The team's name.
    #[must_use]
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// What its members say of themselves, in their places.
    pub fn specs(&self) -> impl Iterator<Item = &AgentSpec> {
        self.specs.iter().map(AsRef::as_ref)
    }

    /// Checks the team's limits and its members' specs.
    ///
    /// # Errors
    /// Each value that is not allowed, as `teams.<name>.limits.<field>` or `agents.<name>.<part>`.
    pub fn check(&self) -> Result<(), InvalidSettings> {
        let of_team = |setting: InvalidSetting| InvalidSetting {
            field: format!("teams.{}.{}", self.name, setting.field),
            ..setting
        };
        let mut check = SettingCheck::new("");
        check.add(self.limits.check().map_err(|found| found.map(of_team)));
        self.specs().for_each(|spec| check.add(spec.check()));
        check.finish()
    }

    /// Whether its one member is an acting agent: one input per step, one step in flight.
    pub(crate) fn is_acting(&self) -> bool {
        self.specs.iter().any(|spec| spec.acting)
    }
}

impl std::fmt::Debug for Team {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let members: Vec<_> = self.specs.iter().map(|spec| &spec.name).collect();
        f.debug_struct("Team")
            .field("name", &self.name)
            .field("members", &members)
            .field("placement", &self.placement)
            .field("clock", &self.clock)
            .finish_non_exhaustive()
    }
}
