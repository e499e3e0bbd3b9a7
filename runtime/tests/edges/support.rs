//! Fixtures: an agent made of a spec and a function.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use async_trait::async_trait;
use atra_bus::{Event, Topic};
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

/// A topic of the program.
pub(crate) fn topic(text: &str) -> Topic {
    Topic::new(text).unwrap()
}

/// A team like [`team`], whose agent is dropped with `on_drop`.
pub(crate) fn team_with_drop(
    spec: AgentSpec,
    on_drop: impl Fn() + Send + Sync + 'static,
    handler: impl Fn(&Event, &mut Context<'_>) -> Result<(), AgentError> + Send + Sync + 'static,
) -> Team {
    let (handler, on_drop): (Arc<Handler>, Arc<dyn Fn() + Send + Sync>) = (Arc::new(handler), Arc::new(on_drop));
    // The instance that only gives its spec is dropped too: it is not the runtime's.
    let is_first = Arc::new(AtomicBool::new(true));
    Team::of(move || Dropped {
        script: Script { spec: spec.clone(), handler: handler.clone() },
        on_drop: (!is_first.swap(false, Ordering::SeqCst)).then(|| on_drop.clone()),
    })
}

struct Dropped {
    script: Script,
    on_drop: Option<Arc<dyn Fn() + Send + Sync>>,
}

#[async_trait]
impl Agent for Dropped {
    fn spec(&self) -> AgentSpec {
        self.script.spec()
    }
    async fn handle(&mut self, event: &Event, cx: &mut Context<'_>) -> Result<(), AgentError> {
        self.script.handle(event, cx).await
    }
}

impl Drop for Dropped {
    fn drop(&mut self) {
        if let Some(on_drop) = &self.on_drop {
            on_drop();
        }
    }
}

/// An agent that subscribes to nothing.
pub(crate) struct Named(pub(crate) &'static str);

#[async_trait]
impl Agent for Named {
    fn spec(&self) -> AgentSpec {
        AgentSpec::new(self.0)
    }
    async fn handle(&mut self, _event: &Event, _cx: &mut Context<'_>) -> Result<(), AgentError> {
        Ok(())
    }
}
