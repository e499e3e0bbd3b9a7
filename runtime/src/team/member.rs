//! One agent's turn: contained, timed, its effects collected.

use std::{
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::Poll,
    time::Duration,
};

use atra_bus::{
    ERROR_BYTES_MAX, Event, Name,
    contain::{Contained, contain_call, text_of},
    cut_text,
};
use futures::FutureExt;
use rustc_hash::FxHashMap;
use serde_json::Value;

use crate::{
    Agent, AgentError, AgentSpec, Context, Query, StateWriter,
    context::{Effects, TeamShared, TurnInput},
    memory::Entry,
};

/// What went wrong in a turn.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TurnFault {
    /// The handler returned an error.
    #[error("{0}")]
    Failed(String),
    /// The handler panicked.
    #[error("panicked: {0}")]
    Panicked(String),
    /// The handler was pending for too long.
    #[error("still pending after {0:?} (turn_timeout)")]
    TimedOut(Duration),
    /// The cascade or the step grew above a limit.
    #[error("{0}")]
    Limit(String),
    /// The agent's state after the turn was refused.
    #[error("state after it cannot be saved: {0}")]
    NotSaved(String),
    /// The process died repeatedly while it handled this event.
    #[error("the process died {0} times while handling it")]
    Died(u32),
}

/// Keys of an agent's state that changed, with their JSON or removal.
pub(crate) type StateWrites = Vec<(String, Option<Arc<str>>)>;

/// A turn that failed: who, on what, why.
#[derive(Debug)]
pub(crate) struct TurnFailure {
    pub(crate) agent: Name,
    pub(crate) event: Arc<Event>,
    pub(crate) fault: TurnFault,
}

/// What the watchdog looks at, one per member: a count of its turns, and whether it is in one.
#[derive(Debug, Default)]
pub(crate) struct TurnWatch {
    /// Turns begun.
    turns: AtomicU64,
    /// Whether its handler runs.
    running: AtomicBool,
    /// Whether the watchdog found one turn running for too long.
    stuck: AtomicBool,
}

impl TurnFault {
    /// Whether the fault concerns the whole cascade: no single turn is the cause, so no member handles the input.
    pub(crate) fn is_of_cascade(&self) -> bool {
        matches!(self, Self::Limit(_) | Self::NotSaved(_))
    }
}

impl TurnWatch {
    /// Notes what the watchdog found; answers what it had found before.
    pub(crate) fn set_stuck(&self, stuck: bool) -> bool {
        self.stuck.swap(stuck, Ordering::Relaxed)
    }

    /// Whether the watchdog found the present turn running for too long.
    pub(crate) fn is_stuck(&self) -> bool {
        self.look().1 && self.stuck.load(Ordering::Relaxed)
    }

    fn begin(&self) -> Running<'_> {
        self.turns.fetch_add(1, Ordering::Relaxed);
        self.running.store(true, Ordering::Relaxed);
        Running(self)
    }

    /// (turns begun, whether one is running).
    pub(crate) fn look(&self) -> (u64, bool) {
        // Relaxed: the watchdog samples seconds apart.
        (self.turns.load(Ordering::Relaxed), self.running.load(Ordering::Relaxed))
    }
}

/// A turn under way; also over when it is dropped with its executor.
struct Running<'a>(&'a TurnWatch);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.running.store(false, Ordering::Relaxed);
    }
}

/// A member of a team: the agent and what its turns need.
pub(crate) struct Member {
    pub(crate) place: usize,
    pub(crate) spec: Arc<AgentSpec>,
    agent: Contained<Box<dyn Agent>>,
    team: Arc<TeamShared>,
    watch: Arc<TurnWatch>,
    /// Own memory writes of the present round.
    own: FxHashMap<String, Option<Entry>>,
    /// Whether it had a turn since it was last saved.
    dirty: bool,
}

impl Member {
    pub(crate) fn new(
        place: usize,
        spec: Arc<AgentSpec>,
        agent: Contained<Box<dyn Agent>>,
        team: Arc<TeamShared>,
        watch: Arc<TurnWatch>,
    ) -> Self {
        Self { place, spec, agent, team, watch, own: FxHashMap::default(), dirty: false }
    }

    pub(crate) fn step_bytes_max(&self) -> usize {
        self.team.limits.step_bytes_max
    }

    pub(crate) fn begin_round(&mut self) {
        self.own.clear();
    }

    /// Handles one event; what it decided is added to `effects`.
    ///
    /// A handler that does not wait costs no timer: the time-out is armed only once it is pending.
    pub(crate) async fn turn(
        &mut self,
        event: &Event,
        input: TurnInput,
        effects: &mut Effects,
    ) -> Result<(), TurnFault> {
        self.dirty = true;
        let running = self.watch.begin();
        let mut cx = Context {
            spec: &self.spec,
            team: &self.team,
            event,
            input,
            effects,
            own: &mut self.own,
            order: 0,
            draws: 0,
        };
        // Unwind safety: after a panic the instance, the effects and the whole open step are dropped. Around the time-out
        // too, which drops a handler that is pending.
        let handled = within(self.spec.turn_timeout, self.agent.handle(event, &mut cx));
        let outcome = AssertUnwindSafe(handled).catch_unwind().await;
        drop(running);
        match outcome {
            Ok(Some(Ok(()))) => Ok(()),
            Ok(Some(Err(error))) => Err(TurnFault::Failed(error.to_string())),
            Ok(None) => Err(TurnFault::TimedOut(self.spec.turn_timeout)),
            Err(panic) => Err(TurnFault::Panicked(text_of(panic))),
        }
    }

    /// What changed of the agent's state since it was last saved.
    pub(crate) fn save(&mut self) -> Result<StateWrites, TurnFault> {
        let mut writes = Vec::new();
        if std::mem::take(&mut self.dirty) {
            let mut writer = StateWriter::new(&mut writes, &self.team.limits);
            let saved = contained(|| self.agent.save(&mut writer));
            // First: a refusal counts even if `save` ignored it.
            if let Some(refused) = writer.refused() {
                return Err(TurnFault::NotSaved(refused.to_string()));
            }
            saved?;
        }
        Ok(writes)
    }

    pub(crate) fn query(&self, query: &Query) -> Result<Value, AgentError> {
        match contained(|| self.agent.query(query).map_err(|error| AgentError::new(error.to_string()))) {
            Ok(value) => Ok(value),
            Err(fault) => Err(AgentError::new(fault.to_string())),
        }
    }
}

/// Runs a call of an agent so that its panic stays inside.
pub(crate) fn contained<T>(call: impl FnOnce() -> Result<T, AgentError>) -> Result<T, TurnFault> {
    match contain_call(call) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(TurnFault::Failed(error.to_string())),
        Err(panic) => Err(TurnFault::Panicked(panic)),
    }
}

/// Polls once without a timer, then waits at most `limit`; `None` when that passed.
pub(crate) async fn within<F: Future>(limit: Duration, future: F) -> Option<F::Output> {
    let mut future = std::pin::pin!(future);
    match futures::poll!(future.as_mut()) {
        Poll::Ready(output) => Some(output),
        Poll::Pending => tokio::time::timeout(limit, future).await.ok(),
    }
}

pub(crate) fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    cut_text(text.unwrap_or("a value that is not text"), ERROR_BYTES_MAX).into_owned()
}
