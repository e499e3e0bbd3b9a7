//! Fixtures: an agent made of a spec and a function.

use std::sync::Arc;

use async_trait::async_trait;
use atra_bus::Event;
use atra_runtime::{Agent, AgentError, AgentSpec, Context, Team};

type Handler = dyn Fn(&Event, &mut Context<'_>) -> Result<(), AgentError> + Send + Sync;

/// An agent without state.
pub(crate) struct Script {
    spec: AgentSpec,
    handler: Arc<Handler>,
}

#[async_trait]
impl Agent for Script {
    fn spec(&self) -> AgentSpec {
        self.spec.clone()
    }
    async fn handle(&mut self, event: &Event, cx: &mut Context<'_>) -> Result<(), AgentError> {
        (self.handler)(event, cx)
    }
}

/// A team of one agent with this spec, which handles everything with `handler`.
pub(crate) fn team(
    spec: AgentSpec,
    handler: impl Fn(&Event, &mut Context<'_>) -> Result<(), AgentError> + Send + Sync + 'static,
) -> Team {
    let handler: Arc<Handler> = Arc::new(handler);
    Team::of(move || Script { spec: spec.clone(), handler: handler.clone() })
}

/// A team of one agent that does nothing.
pub(crate) fn idle(spec: AgentSpec) -> Team {
    team(spec, |_, _| Ok(()))
}
