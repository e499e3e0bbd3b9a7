//! Unit tests of agents: feed an event, look at the effects. No runtime, no store, no clock.
//!
//! An [`AgentBench`] runs the same turn as a team does, with the same context, checks and limits; what it
//! leaves out is everything around the turn: queues, commits, supervision. Its clock stands still until the
//! test moves it, ids and random numbers follow from what was fed, and nothing needs a tokio runtime unless
//! the agent itself waits for something of tokio's.
//!
//! Acting agents are tested with [`sim::Swarm`](crate::sim::Swarm): their calls need a store to be recorded
//! in, so `cx.effect` on a bench answers [`EffectError::NotActing`](crate::EffectError::NotActing).

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use atra_bus::{Batch, Committed, Draft, Event, EventId, EventType, Name, Seq, Timestamp, Topic, contain::Contained};
use atra_storage::{MemoryStore, Store};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::{
    Agent, AgentError, AgentSpec, Limits, Query, StateReader, TurnFault,
    context::{Effects, TeamShared, TimerChange, TurnInput},
    memory::{AsOf, Entry, SharedMemory},
    team::{Member, Timers, TurnWatch},
};

/// One agent on a bench.
///
/// # Examples
/// ```
/// use atra_runtime::{Agent, AgentError, AgentSpec, Context, testing::AgentBench};
/// use atra_bus::{Event, EventType, Topic};
/// #[derive(serde::Serialize, serde::Deserialize)]
/// struct Ping(u32);
/// impl EventType for Ping { const TOPIC: Topic = Topic::literal("ping"); }
/// #[derive(serde::Serialize, serde::Deserialize, PartialEq, Debug)]
/// struct Pong(u32);
/// impl EventType for Pong { const TOPIC: Topic = Topic::literal("pong"); }
///
/// struct Echo;
/// #[async_trait::async_trait]
/// impl Agent for Echo {
///     fn spec(&self) -> AgentSpec {
///         AgentSpec::new("echo").handles::<Ping>().publishes::<Pong>()
///     }
///     async fn handle(&mut self, event: &Event, cx: &mut Context<'_>) -> Result<(), AgentError> {
///         cx.publish(Pong(event.get::<Ping>()?.0))?;
///         Ok(())
///     }
/// }
///
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// let mut bench = AgentBench::new(Echo);
/// let effects = bench.feed(Ping(7)).await?;
/// assert_eq!(effects.published::<Pong>(), [&Pong(7)]);
/// # Ok::<(), atra_runtime::TurnFault>(())
/// # }).unwrap();
/// ```
pub struct AgentBench {
    spec: Arc<AgentSpec>,
    team: Arc<TeamShared>,
    /// The agent until its first turn, from when on it is a member.
    agent: Option<Box<dyn Agent>>,
    member: Option<Member>,
    timers: Timers,
    now: Timestamp,
    /// How many events were fed and keys preset: what ids and positions are made of.
    steps: u64,
    state: BTreeMap<String, Arc<str>>,
}

/// What one turn decided.
#[derive(Debug, Default)]
pub struct TurnEffects {
    events: Vec<Arc<Event>>,
    timers: Vec<(Timestamp, Draft)>,
}

impl TurnEffects {
    /// Every event that was published or sent, memory writes among them, in the order published.
    #[must_use]
    pub fn events(&self) -> &[Arc<Event>] {
        &self.events
    }

    /// The published or sent events of type `T`, in order.
    ///
    /// # Panics
    /// When an event's topic and version say `T` but its content is not: the test should fail.
    #[must_use]
    pub fn published<T: EventType>(&self) -> Vec<&T> {
        let decode = |event| Event::get::<T>(event).unwrap_or_else(|error| panic!("event on {}: {error}", T::TOPIC));
        self.events.iter().filter(|event| event.is::<T>()).map(|event| decode(event)).collect()
    }

    /// The last write of a memory key in this turn: `None` if it was not written, `Some(None)` if removed.
    ///
    /// # Panics
    /// When the written value is not a `T`.
    #[must_use]
    pub fn written<T: DeserializeOwned + Clone + Send + Sync + 'static>(&self, key: &str) -> Option<Option<T>> {
        let write = self.events.iter().rev().find(|event| event.topic.memory_key() == Some(key))?;
        Some(entry_of(write).map(|entry| value_of(key, &entry)))
    }

    /// The timers that were set, with the time when each is due.
    #[must_use]
    pub fn timers(&self) -> &[(Timestamp, Draft)] {
        &self.timers
    }

    /// Whether the turn decided nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.events.is_empty() && self.timers.is_empty()
    }
}

impl AgentBench {
    /// Puts an agent on the bench, as new; its clock stands at 1970-01-01.
    ///
    /// # Panics
    /// When its spec is refused by [`AgentSpec::check`], as a runtime would refuse it.
    #[must_use]
    pub fn new(agent: impl Agent + 'static) -> Self {
        let spec = Arc::new(agent.spec().delivered());
        spec.check().unwrap_or_else(|error| panic!("{error}"));
        let team = Arc::new(TeamShared {
            limits: Limits::default(),
            memory: SharedMemory::default(),
            reader: MemoryStore::new().reader(),
            view: RwLock::default(),
            owned: spec.owns.clone(),
            members: BTreeSet::from([spec.name.clone()]),
            agents: Arc::new(std::iter::once(spec.name.clone()).collect()),
            ledger: None,
            drops: Arc::default(),
        });
        let timers = Timers::new(vec![spec.clone()], Limits::default().missed_max);
        let (agent, member): (Option<Box<dyn Agent>>, _) = (Some(Box::new(agent)), None);
        Self { spec, team, agent, member, timers, now: Timestamp::default(), steps: 0, state: BTreeMap::new() }
    }

    // === the world around it ===

    /// Names agents of other teams, so that the agent can send to them.
    ///
    /// # Panics
    /// When one is no name, or after the first turn: the agents of a runtime do not change.
    #[must_use]
    pub fn beside(mut self, agents: &[&str]) -> Self {
        let mut names = (*self.team.agents).clone();
        names.extend(agents.iter().map(|agent| Name::new(agent).unwrap_or_else(|error| panic!("{error}"))));
        self.shared().agents = Arc::new(names);
        self
    }

    /// Sets the bounds.
    ///
    /// # Panics
    /// When [`Limits::check`] refuses them, or after the first turn: the bounds of a team do not change.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        limits.check().unwrap_or_else(|error| panic!("{error}"));
        self.shared().limits = limits;
        self
    }

    /// Sets the clock; it must not go back.
    ///
    /// # Panics
    /// When it would.
    pub fn set_now(&mut self, now: Timestamp) {
        assert!(now >= self.now, "a team's clock never goes back: it is at {}, not to be set to {now}", self.now);
        self.now = now;
    }

    /// Presets a memory key, the agent's own or another's.
    ///
    /// # Panics
    /// When `key` is no key or the value has no JSON form.
    pub fn put<T: Serialize + Send + Sync + 'static>(&mut self, key: &str, value: T) {
        let topic = Topic::memory(key).unwrap_or_else(|error| panic!("{error}"));
        let event = self.event(Draft::new(topic, value));
        if let Err(error) = event.payload.json() {
            panic!("{error}");
        }
        self.apply(&event);
    }

    /// The value of a memory key, as the agent would read it now.
    ///
    /// # Panics
    /// When it is not a `T`.
    #[must_use]
    pub fn get<T: DeserializeOwned + Clone + Send + Sync + 'static>(&self, key: &str) -> Option<T> {
        let entry = if self.owns(key) {
            self.team.view.read().unwrap_or_else(PoisonError::into_inner).get(key).cloned().flatten()
        } else {
            match self.team.memory.as_of(key, Seq(self.steps)) {
                AsOf::Known(entry) => entry,
                AsOf::Older => None,
            }
        };
        entry.map(|entry| value_of(key, &entry))
    }

    // === turns ===

    /// Feeds one event and gives what the turn decided. Its time is the bench's clock unless the draft says.
    ///
    /// # Errors
    /// What the turn failed with. A runtime would now drop the instance; here it stays as it is.
    ///
    /// # Panics
    /// When the agent's spec does not subscribe to the topic (a runtime would not deliver the event), or when the value
    /// cannot be stored (a runtime would refuse it).
    pub async fn feed(&mut self, event: impl Into<Draft>) -> Result<TurnEffects, TurnFault> {
        let draft = event.into();
        let topic = draft.topic.as_str();
        let wanted = match draft.topic.addressee() {
            Some(agent) => agent == self.spec.name.as_str(),
            None => self.spec.subscribes.iter().any(|filter| filter.matches(topic)),
        };
        assert!(wanted, "agent {} does not subscribe to {topic}: a runtime would not deliver it", self.spec.name);
        if let Err(error) = draft.payload.check() {
            panic!("{topic}: {error}");
        }
        let event = self.event(draft);
        self.turn(&event).await
    }

    /// Moves the clock and feeds the timers and schedules that fall due, in order; one answer per turn.
    ///
    /// # Errors
    /// What the first failing turn failed with.
    pub async fn advance(&mut self, by: Duration) -> Result<Vec<TurnEffects>, TurnFault> {
        self.timers.schedule_from(self.now);
        self.now = self.now.after(by);
        let mut effects = Vec::new();
        while let Some(due) = self.timers.take_due(self.now) {
            self.steps += 1;
            effects.push(self.turn(&due.event).await?);
        }
        Ok(effects)
    }

    /// Asks the agent.
    ///
    /// # Errors
    /// The agent's own.
    pub fn query(&mut self, name: &str, arguments: Value) -> Result<Value, AgentError> {
        self.member().query(&Query { name: name.into(), arguments })
    }

    /// Saves the agent's state and goes on with a fresh instance that starts from it, as a restart does.
    ///
    /// # Errors
    /// What `save` or `start` failed with.
    pub async fn restart(&mut self, fresh: impl Agent + 'static) -> Result<(), TurnFault> {
        for (key, value) in self.member().save()? {
            match value {
                Some(json) => drop(self.state.insert(key, json)),
                None => drop(self.state.remove(&key)),
            }
        }
        let mut fresh: Box<dyn Agent> = Box::new(fresh);
        let started = fresh.start(&StateReader { facts: &self.state }).await;
        started.map_err(|error| TurnFault::Failed(error.to_string()))?;
        self.agent = Some(fresh);
        Ok(())
    }

    // === inside ===

    async fn turn(&mut self, event: &Arc<Event>) -> Result<TurnEffects, TurnFault> {
        let mut effects = Effects::default();
        self.member().begin_round();
        let input = TurnInput { now: self.now, position: Seq(self.steps), attempt: 1 };
        self.member().turn(event, input, &mut effects).await?;
        let mut decided = TurnEffects { events: effects.published, timers: Vec::new() };
        for event in &decided.events {
            if event.topic.memory_key().is_some() {
                self.apply(event);
            }
        }
        for change in effects.timers {
            match change {
                TimerChange::Set { id, due, draft, .. } => {
                    decided.timers.push((due, draft.clone()));
                    let set = self.timers.set(0, &id, due, draft, None);
                    set.map_err(|error| TurnFault::Failed(error.to_string()))?;
                }
                TimerChange::Cancel { id } => self.timers.cancel(0, &id),
            }
        }
        Ok(decided)
    }

    /// An event of a caller, with the next id.
    fn event(&mut self, draft: Draft) -> Arc<Event> {
        self.steps += 1;
        let source = Name::new("caller").unwrap_or_else(|error| panic!("{error}"));
        let id = EventId::of(&source, &self.steps.to_string());
        Arc::new(Event {
            id,
            topic: draft.topic,
            version: draft.version,
            durable: draft.durable,
            source,
            time: draft.time.unwrap_or(self.now),
            cause: None,
            root: id,
            hops: 0,
            payload: draft.payload,
        })
    }

    fn owns(&self, key: &str) -> bool {
        self.team.owned.iter().any(|prefix| key.starts_with(prefix.as_str()))
    }

    /// Applies a memory write as a team does after a round.
    fn apply(&self, event: &Arc<Event>) {
        let Some(key) = event.topic.memory_key() else { return };
        if self.owns(key) {
            let mut view = self.team.view.write().unwrap_or_else(PoisonError::into_inner);
            view.insert(key.into(), entry_of(event));
        } else {
            let seq = Seq(self.steps);
            let committed = Committed { seq, event: event.clone(), cause_seq: None, seen: None };
            self.team.memory.apply(&Batch { events: vec![committed] });
            self.team.memory.set_released(seq);
        }
    }

    /// What the turns share, while nothing else holds it.
    fn shared(&mut self) -> &mut TeamShared {
        Arc::get_mut(&mut self.team).unwrap_or_else(|| panic!("set up the bench before the first turn"))
    }

    /// The agent as a member; made at its first turn.
    fn member(&mut self) -> &mut Member {
        if let Some(agent) = self.agent.take() {
            let watch = Arc::new(TurnWatch::default());
            let agent = Contained::new(agent, self.spec.name.as_str(), self.team.drops.clone());
            self.member = Some(Member::new(0, self.spec.clone(), agent, self.team.clone(), watch));
        }
        self.member.as_mut().unwrap_or_else(|| unreachable!("a bench has its agent either new or as a member"))
    }
}

impl Drop for AgentBench {
    /// A destructor of the agent that panics fails the test, as it fails a team.
    fn drop(&mut self) {
        drop(self.member.take());
        let panic = self.team.drops.take();
        assert!(panic.is_none() || std::thread::panicking(), "{}", panic.unwrap_or_default());
    }
}

fn entry_of(event: &Event) -> Option<Entry> {
    (!event.payload.is_null()).then(|| Entry { value: event.payload.clone(), revision: event.id })
}

fn value_of<T: DeserializeOwned + Clone + Send + Sync + 'static>(key: &str, entry: &Entry) -> T {
    entry.get::<T>().unwrap_or_else(|error| panic!("memory key {key:?}: {error}")).clone()
}

impl std::fmt::Debug for AgentBench {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AgentBench").field("agent", &self.spec.name).field("now", &self.now).finish_non_exhaustive()
    }
}
