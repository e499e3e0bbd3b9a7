//! What a turn may use: the only way from an agent to anything else.
//!
//! Everything that a handler decides is collected here as data and committed with the step, or dropped
//! with it. Time, ids and randomness derive from the handled event, so a repeated turn decides the same.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use atra_bus::{
    Draft, Event, EventId, Name, PayloadError, Seq, Timestamp, Topic, TopicError, contain::DropPanics,
    topic::SYSTEM_ROOT,
};
use atra_storage::{Read, StoreError, event_bytes};
use rustc_hash::{FxHashMap, FxHashSet};
use serde::{Serialize, de::DeserializeOwned};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::{
    agent::AgentSpec,
    ledger::{EffectError, EffectLedger},
    limits::Limits,
    memory::{AsOf, Entry, SharedMemory},
};

/// Why a publish, send, put or timer was refused. Nothing was recorded.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum PublishError {
    /// The agent's spec does not say that it publishes there.
    #[error("agent {agent} published on {topic}, which its spec does not declare: add publishes_on({topic:?}, …)")]
    Undeclared {
        /// The agent.
        agent: Name,
        /// The topic.
        topic: Topic,
    },
    /// The topic is the runtime's: `put` writes memory, `send` addresses an agent, `sys` is not for agents.
    #[error("agent {agent} cannot publish on {topic}: write memory with put, address an agent with send")]
    Reserved {
        /// The agent.
        agent: Name,
        /// The topic.
        topic: Topic,
    },
    /// The key is not under a prefix that the agent owns.
    #[error("agent {agent} wrote memory key {key:?}, which it does not own: add owns(…) to its spec")]
    NotOwned {
        /// The agent.
        agent: Name,
        /// The key.
        key: String,
    },
    /// The topic or key breaks the rules of topics.
    #[error(transparent)]
    Topic(#[from] TopicError),
    /// The value has no JSON form.
    #[error(transparent)]
    Payload(#[from] PayloadError),
    /// The value is above the limit.
    #[error("{topic} of {bytes} bytes is above the limit of {limit} bytes (event_bytes_max)")]
    TooLarge {
        /// The topic.
        topic: Topic,
        /// Measured.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// The turn's events and other effects exceed the limit of a step.
    #[error("with {topic} the turn has {bytes} bytes, above the limit of {limit} bytes (step_bytes_max)")]
    TurnTooLarge {
        /// The topic.
        topic: Topic,
        /// The size of the whole turn.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// The turn published too much.
    #[error("one cascade may publish at most {limit} events (cascade_events_max)")]
    TooMany {
        /// The limit.
        limit: usize,
    },
    /// The chain of causes is too long.
    #[error("{topic} is {hops} hops from its root, the limit is {limit} (hops_max)")]
    TooFar {
        /// The topic.
        topic: Topic,
        /// Measured.
        hops: u16,
        /// The limit.
        limit: u16,
    },
    /// No agent has this name.
    #[error("there is no agent named {0:?} in this runtime")]
    UnknownAgent(String),
    /// A passing event cannot leave its team.
    #[error("a passing event cannot be sent to agent {agent} of another team: make {topic} durable")]
    PassingOutside {
        /// The addressee.
        agent: Name,
        /// The topic.
        topic: Topic,
    },
    /// `put_if` found another revision.
    #[error("memory key {key:?} has revision {found:?}, not the expected one")]
    Revision {
        /// The key.
        key: String,
        /// What is there.
        found: Option<EventId>,
    },
}

/// Why a memory read failed.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The stored value is not of the type that was asked for.
    #[error(transparent)]
    Payload(#[from] PayloadError),
    /// An older version had to be read from the journal, and that failed.
    #[error("memory key {key:?} could not be read as of seq {at}")]
    Store {
        /// The key.
        key: String,
        /// The position.
        at: Seq,
        /// What the store said.
        #[source]
        source: StoreError,
    },
}

/// A timer that a turn set or cancelled.
#[derive(Debug, Clone)]
pub(crate) enum TimerChange {
    Set { id: String, due: Timestamp, delay: Duration, draft: Draft },
    Cancel { id: String },
}

/// What one turn decided: data, carried out by the executor.
#[derive(Debug, Default)]
pub(crate) struct Effects {
    /// In the order published; memory writes are events on `memory.<key>` among them.
    pub(crate) published: Vec<Arc<Event>>,
    pub(crate) timers: Vec<TimerChange>,
    /// Their size, which counts towards the limit of a step.
    pub(crate) bytes: usize,
}

impl Effects {
    pub(crate) fn is_empty(&self) -> bool {
        self.published.is_empty() && self.timers.is_empty()
    }

    /// Returns the size so far; the next turn begins at zero.
    pub(crate) fn take_bytes(&mut self) -> usize {
        std::mem::take(&mut self.bytes)
    }
}

/// What all members of a team share.
pub(crate) struct TeamShared {
    pub(crate) limits: Limits,
    pub(crate) memory: SharedMemory,
    pub(crate) reader: Arc<dyn Read>,
    /// Keys that members own, as written before this round: the newest, committed or not.
    pub(crate) view: RwLock<BTreeMap<String, Option<Entry>>>,
    /// Prefixes that members own.
    pub(crate) owned: Vec<String>,
    /// Names of this team's members.
    pub(crate) members: BTreeSet<Name>,
    /// Names of all agents in the runtime.
    pub(crate) agents: Arc<FxHashSet<Name>>,
    /// Calls to the outside; of an acting agent only.
    pub(crate) ledger: Option<EffectLedger>,
    /// Panics in destructors of users' values: agents and streams.
    pub(crate) drops: Arc<DropPanics>,
}

impl TeamShared {
    /// A member's durable event, if it is a memory write, is seen by its team from the next round on.
    pub(crate) fn remember(&self, event: &Event) {
        if let Some(key) = event.topic.memory_key() {
            let entry = (!event.payload.is_null()).then(|| Entry { value: event.payload.clone(), revision: event.id });
            let mut view = self.view.write().unwrap_or_else(PoisonError::into_inner);
            match view.get_mut(key) {
                Some(held) => *held = entry,
                None => _ = view.insert(key.into(), entry),
            }
        }
    }
}

/// What is particular to the turn's input.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TurnInput {
    pub(crate) now: Timestamp,
    pub(crate) position: Seq,
    pub(crate) attempt: u32,
}

/// What a handler gets: reads as of the turn's position, and a place for its decisions.
pub struct Context<'a> {
    pub(crate) spec: &'a AgentSpec,
    pub(crate) team: &'a TeamShared,
    pub(crate) event: &'a Event,
    pub(crate) input: TurnInput,
    pub(crate) effects: &'a mut Effects,
    /// The agent's own writes of this round; they are in the team's view from the next round on.
    pub(crate) own: &'a mut FxHashMap<String, Option<Entry>>,
    pub(crate) order: u32,
    pub(crate) draws: u64,
}

impl Context<'_> {
    // === decisions ===

    /// Publishes an event: to teammates in the next round, to others after the step is committed.
    ///
    /// # Errors
    /// [`PublishError`] says which limit or declaration; nothing was recorded.
    pub fn publish(&mut self, event: impl Into<Draft>) -> Result<EventId, PublishError> {
        let draft = event.into();
        if draft.topic.is_reserved() {
            return Err(PublishError::Reserved { agent: self.spec.name.clone(), topic: draft.topic });
        }
        let topic = draft.topic.as_str();
        let declared = |durable| {
            self.spec.publishes.iter().any(|declared| {
                declared.durable == durable && (declared.filter.as_str() == topic || declared.filter.matches(topic))
            })
        };
        if !declared(draft.durable) {
            return Err(PublishError::Undeclared { agent: self.spec.name.clone(), topic: draft.topic });
        }
        self.record(draft)
    }

    /// Sends an event to one agent, of this team or another, on `to.<agent>.<topic>`.
    ///
    /// # Errors
    /// [`PublishError::UnknownAgent`] at the call; else as [`Context::publish`].
    pub fn send(&mut self, agent: &str, event: impl Into<Draft>) -> Result<EventId, PublishError> {
        let Some(name) = self.team.agents.get(agent) else {
            return Err(PublishError::UnknownAgent(agent.into()));
        };
        let mut draft = event.into();
        // A receiver would treat it as an event of the runtime.
        if draft.topic.as_str().starts_with(SYSTEM_ROOT) {
            return Err(PublishError::Reserved { agent: self.spec.name.clone(), topic: draft.topic });
        }
        if !draft.durable && !self.team.members.contains(name) {
            return Err(PublishError::PassingOutside { agent: name.clone(), topic: draft.topic });
        }
        draft.topic = draft.topic.addressed_to(name)?;
        self.record(draft)
    }

    /// Writes one of the agent's own memory keys.
    ///
    /// # Errors
    /// [`PublishError::NotOwned`], or a limit; nothing was recorded.
    pub fn put<T: Serialize + Send + Sync + 'static>(&mut self, key: &str, value: T) -> Result<EventId, PublishError> {
        self.write(key, Draft::new(Topic::memory(key)?, value))
    }

    /// Writes one of the agent's own keys if its newest write is still `revision` (`None`: if the key does
    /// not exist). Decided at once: nobody else writes this key.
    ///
    /// # Errors
    /// [`PublishError::Revision`] with what was found; else as [`Context::put`].
    pub fn put_if<T: Serialize + Send + Sync + 'static>(
        &mut self,
        key: &str,
        revision: Option<EventId>,
        value: T,
    ) -> Result<EventId, PublishError> {
        let found = self.held(key).flatten().map(|entry| entry.revision);
        if found != revision {
            return Err(PublishError::Revision { key: key.into(), found });
        }
        self.put(key, value)
    }

    /// Removes one of the agent's own keys. A removal is a version too.
    ///
    /// # Errors
    /// As [`Context::put`].
    pub fn remove(&mut self, key: &str) -> Result<EventId, PublishError> {
        self.write(key, Draft::new(Topic::memory(key)?, ()))
    }

    /// Sets a timer: `event` comes back to this agent as an input of its own once `delay` has passed: on an `events`
    /// clock of the team's time, on a `wall` clock of monotonic time, whatever the machine's clock does. The answer
    /// cancels it. Timers are committed with the step and survive restarts of the team and of the process; a new
    /// process computes the rest of the delay from the machine's clock, at most the whole delay.
    ///
    /// # Errors
    /// [`PublishError::TooLarge`] or [`PublishError::Reserved`]; nothing was recorded.
    pub fn after(&mut self, delay: Duration, event: impl Into<Draft>) -> Result<String, PublishError> {
        let draft = event.into();
        if draft.topic.is_reserved() {
            return Err(PublishError::Reserved { agent: self.spec.name.clone(), topic: draft.topic });
        }
        self.count(&draft, true)?;
        let id = self.next_id().to_string();
        let due = self.input.now.after(delay);
        self.effects.timers.push(TimerChange::Set { id: id.clone(), due, delay, draft });
        Ok(id)
    }

    /// Cancels a timer; nothing happens if it has fired.
    pub fn cancel(&mut self, timer: &str) {
        self.effects.timers.push(TimerChange::Cancel { id: timer.into() });
    }

    // === reads ===

    /// The value of a memory key: the agent's own as it last wrote it, a teammate's as written before this
    /// round, any other as of the input's position.
    ///
    /// # Cancel safety
    /// Reads only.
    ///
    /// # Errors
    /// [`ReadError`] when the value is not a `T` or the journal could not be read.
    pub async fn get<T: DeserializeOwned + Clone + Send + Sync + 'static>(
        &self,
        key: &str,
    ) -> Result<Option<T>, ReadError> {
        let Some(entry) = self.entry(key).await? else { return Ok(None) };
        Ok(Some(entry.get::<T>()?.clone()))
    }

    /// The entry of a memory key with its revision; positions as in [`Context::get`].
    ///
    /// # Cancel safety
    /// Reads only.
    ///
    /// # Errors
    /// [`ReadError::Store`] when the journal could not be read.
    pub async fn entry(&self, key: &str) -> Result<Option<Entry>, ReadError> {
        match self.held(key) {
            Some(entry) => Ok(entry),
            None => self.foreign(key).await,
        }
    }

    /// Every key that begins with `prefix`, sorted, with its entry; positions as in [`Context::get`].
    ///
    /// # Cancel safety
    /// Reads only.
    ///
    /// # Errors
    /// [`ReadError::Store`] when the journal could not be read.
    pub async fn list(&self, prefix: &str) -> Result<Vec<(String, Entry)>, ReadError> {
        let mut keys: BTreeSet<String> = self.own.keys().filter(|key| key.starts_with(prefix)).cloned().collect();
        {
            let view = self.team.view.read().unwrap_or_else(PoisonError::into_inner);
            let range = view.range(prefix.to_owned()..);
            keys.extend(range.map(|(key, _)| key).take_while(|key| key.starts_with(prefix)).cloned());
        }
        keys.extend(self.team.memory.keys_with(prefix).into_iter().map(|key| key.to_string()));
        let at = self.input.position;
        if self.team.memory.has_forgotten(at) {
            let known = self.team.reader.memory_keys(prefix).await;
            keys.extend(known.map_err(|source| ReadError::Store { key: prefix.into(), at, source })?);
        }
        let mut entries = Vec::new();
        for key in keys {
            if let Some(entry) = self.entry(&key).await? {
                entries.push((key, entry));
            }
        }
        Ok(entries)
    }

    /// The team's clock at this input. Never goes back. The event's own time is `event.time`.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.input.now
    }

    /// 64 random bits, the same at every repetition of this turn.
    pub fn random(&mut self) -> u64 {
        self.draws += 1;
        let name = xxh3_64_with_seed(self.spec.name.as_str().as_bytes(), self.event.id.seed());
        xxh3_64_with_seed(&self.draws.to_le_bytes(), name)
    }

    /// A new id, the same at every repetition of this turn.
    pub fn new_id(&mut self) -> EventId {
        self.next_id()
    }

    /// The event being handled.
    #[must_use]
    pub fn cause(&self) -> EventId {
        self.event.id
    }

    /// Which try of this event it is: 1, 2, …
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.input.attempt
    }

    // === the outside (acting agents only) ===

    /// Calls the outside once: the intent is committed, `call` runs, the result is committed and given
    /// back. A repeated turn gets the recorded result without calling. `call` is given the idempotency key
    /// to send along. The result is kept for as long as the turn may be repeated, and for `storage.keep_results` (seven
    /// days) at least; an intent without a result is kept for ever.
    ///
    /// # Errors
    /// [`EffectError::Unknown`] when an earlier try was interrupted between intent and result: ask the
    /// outside by the key, then [`Context::resolve_effect`]; it is never silently repeated.
    pub async fn effect<T, F, Fut>(&mut self, name: &str, call: F) -> Result<T, EffectError>
    where
        T: Serialize + DeserializeOwned + Send,
        F: FnOnce(String) -> Fut + Send,
        Fut: Future<Output = Result<T, crate::AgentError>> + Send,
    {
        let Some(ledger) = &self.team.ledger else { return Err(EffectError::NotActing(self.spec.name.clone())) };
        ledger.call(self.event.id, name, call).await
    }

    /// Records the outcome of an effect that was [`EffectError::Unknown`], as found out by the agent.
    ///
    /// # Errors
    /// [`EffectError`] when it could not be committed.
    pub async fn resolve_effect<T: Serialize + Sync>(&mut self, name: &str, result: &T) -> Result<(), EffectError> {
        let Some(ledger) = &self.team.ledger else { return Err(EffectError::NotActing(self.spec.name.clone())) };
        ledger.resolve(self.event.id, name, result).await
    }

    // === inside ===

    fn next_id(&mut self) -> EventId {
        let id = EventId::derive(&self.spec.name, self.event.id, self.order);
        self.order += 1;
        id
    }

    /// Adds the size of an effect that is about to be recorded to the turn's size.
    fn count(&mut self, draft: &Draft, is_stored: bool) -> Result<(), PublishError> {
        let bytes = if is_stored { draft.payload.json()?.len() } else { draft.payload.check()? };
        let limits = &self.team.limits;
        if bytes > limits.event_bytes_max {
            let (topic, limit) = (draft.topic.clone(), limits.event_bytes_max);
            return Err(PublishError::TooLarge { topic, bytes, limit });
        }
        let bytes = self.effects.bytes + event_bytes(bytes, &draft.topic);
        if bytes > limits.step_bytes_max {
            return Err(PublishError::TurnTooLarge { topic: draft.topic.clone(), bytes, limit: limits.step_bytes_max });
        }
        self.effects.bytes = bytes;
        Ok(())
    }

    fn record(&mut self, draft: Draft) -> Result<EventId, PublishError> {
        let limits = &self.team.limits;
        let hops = self.event.hops.saturating_add(1);
        if hops > limits.hops_max {
            return Err(PublishError::TooFar { topic: draft.topic, hops, limit: limits.hops_max });
        }
        if self.effects.published.len() >= limits.cascade_events_max {
            return Err(PublishError::TooMany { limit: limits.cascade_events_max });
        }
        self.count(&draft, draft.durable)?;
        let id = self.next_id();
        self.effects.published.push(Arc::new(Event {
            id,
            topic: draft.topic,
            version: draft.version,
            durable: draft.durable,
            source: self.spec.name.clone(),
            time: draft.time.unwrap_or(self.input.now),
            cause: Some(self.event.id),
            root: self.event.root,
            hops,
            payload: draft.payload,
        }));
        Ok(id)
    }

    fn write(&mut self, key: &str, draft: Draft) -> Result<EventId, PublishError> {
        if !self.spec.owns.iter().any(|prefix| key.starts_with(prefix.as_str())) {
            return Err(PublishError::NotOwned { agent: self.spec.name.clone(), key: key.into() });
        }
        let value = draft.payload.clone();
        let id = self.record(draft)?;
        self.own.insert(key.into(), (!value.is_null()).then_some(Entry { value, revision: id }));
        Ok(id)
    }

    /// What the team itself knows of a key: `Some(None)` is a key of the team's that does not exist.
    fn held(&self, key: &str) -> Option<Option<Entry>> {
        if let Some(entry) = self.own.get(key) {
            return Some(entry.clone());
        }
        if !self.team.owned.iter().any(|prefix| key.starts_with(prefix.as_str())) {
            return None;
        }
        let view = self.team.view.read().unwrap_or_else(PoisonError::into_inner);
        Some(view.get(key).cloned().flatten())
    }

    async fn foreign(&self, key: &str) -> Result<Option<Entry>, ReadError> {
        let at = self.input.position;
        match self.team.memory.as_of(key, at) {
            AsOf::Known(entry) => Ok(entry),
            AsOf::Older => {
                let found = self.team.reader.memory_as_of(key, at).await;
                let committed = found.map_err(|source| ReadError::Store { key: key.into(), at, source })?;
                Ok(committed.and_then(|committed| {
                    let value = committed.event.payload.clone();
                    (!value.is_null()).then(|| Entry { value, revision: committed.event.id })
                }))
            }
        }
    }
}

impl std::fmt::Debug for Context<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context")
            .field("agent", &self.spec.name)
            .field("event", &self.event.id)
            .field("attempt", &self.input.attempt)
            .finish_non_exhaustive()
    }
}
