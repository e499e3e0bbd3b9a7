//! The handle on a running runtime: publish, read, ask, wait, stop.

use std::{
    future::IntoFuture,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use atra_bus::{
    Draft, Event, EventId, Filter, Interest, Name, Observer, PayloadError, Seq, SubscriberStatus, Subscription, Task,
    Timestamp, Topic, TopicError, topic::SYSTEM_ROOT,
};
use atra_storage::{Level, Publish, Read, Rejected, StorageMetrics, StoreError};
use rustc_hash::FxHashMap;
use serde::Serialize;
use serde_json::Value;
use tokio::sync::{mpsc, oneshot, watch};

use crate::{
    AgentError, KEY_BYTES_MAX, Query,
    coordinator::{CALLER, StorageTask, Watchdog},
    kernel::{Kernel, id_of_key, publish_of},
    memory::SharedMemory,
    metrics::{self, Metric},
    stop::Ending,
    supervisor::TeamState,
    team::{Counters, Orders, Team, TeamAsk, TurnWatch, Waiter},
};

/// Direct effects of one event that `settled` follows at once. 100,000: far above any cascade limit.
const EFFECTS_MAX: usize = 100_000;

/// Why a call on a runtime failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RuntimeError {
    /// Callers may not publish on this topic.
    #[error("callers cannot publish on {topic}: {reason}")]
    Reserved {
        /// The topic.
        topic: Topic,
        /// Whose it is.
        reason: String,
    },
    /// The topic or key breaks the rules of topics.
    #[error(transparent)]
    Topic(#[from] TopicError),
    /// The value has no JSON form.
    #[error(transparent)]
    Payload(#[from] PayloadError),
    /// The value is above the limit.
    #[error("event of {bytes} bytes is above the limit of {limit} bytes")]
    TooLarge {
        /// Measured.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// The event's time is too far ahead of the runtime's clock.
    #[error(
        "time {time} of the event is {ahead:?} ahead of the clock ({now}), the limit is {limit:?} (event_ahead_max_ms); times are in milliseconds"
    )]
    AheadOfClock {
        /// The event's time.
        time: Timestamp,
        /// The clock.
        now: Timestamp,
        /// Measured.
        ahead: Duration,
        /// The limit.
        limit: Duration,
    },
    /// The idempotency key is too long to be stored.
    #[error("idempotency key of {bytes} bytes is above the limit of {KEY_BYTES_MAX} bytes")]
    KeyTooLong {
        /// Measured.
        bytes: usize,
    },
    /// Callers' passing events have nobody to reach: publish them as durable.
    #[error("a caller's event on {0} must be durable")]
    Passing(Topic),
    /// The storage refused; the cause says whether trying again helps.
    #[error("storage refused")]
    Rejected(#[from] Rejected),
    /// The store could not be read.
    #[error("store could not be read")]
    Store(#[from] StoreError),
    /// No team or agent has this name.
    #[error("there is no {what} named {name:?}")]
    Unknown {
        /// `team` or `agent`.
        what: &'static str,
        /// The name.
        name: String,
    },
    /// The team does not run.
    #[error("team {team} does not run: {state}")]
    TeamEnded {
        /// The team.
        team: Name,
        /// Its state.
        state: TeamState,
    },
    /// The agent could not answer.
    #[error("agent could not answer: {0}")]
    Query(AgentError),
    /// The runtime has stopped; start a new one.
    #[error("the runtime has stopped; start a new one")]
    Stopped,
    /// A task on which the whole runtime depends has ended. Everything acknowledged is committed.
    #[error("the runtime has failed, its task {task} ended: {reason}; stop it, fix the cause and start a new one")]
    Failed {
        /// `storage`, `answers` or `watchdog`.
        task: String,
        /// Why.
        reason: String,
    },
    /// The deadline passed before everything had stopped; nothing acknowledged is lost.
    #[error("stop took longer than {0:?}; what was not committed will be repeated at the next start")]
    Deadline(Duration),
}

/// A team as the runtime holds it.
pub(crate) struct TeamHandle {
    pub(crate) plan: Team,
    /// What it subscribes to.
    pub(crate) interest: Interest,
    pub(crate) asks: mpsc::Sender<TeamAsk>,
    pub(crate) orders: Arc<Orders>,
    pub(crate) states: watch::Receiver<TeamState>,
    pub(crate) counters: Arc<Counters>,
    /// One per member, by place.
    pub(crate) watches: Arc<[Arc<TurnWatch>]>,
    pub(crate) restarts: Arc<AtomicU64>,
    pub(crate) task: Option<Task>,
}

/// A running runtime. Cheap to clone; the last clone to go ends everything at once, as a kill would.
#[derive(Clone)]
pub struct Runtime {
    kernel: Arc<Kernel>,
    teams: Arc<Vec<TeamHandle>>,
    /// The index of a team in `teams`, and of an agent in its team, by name.
    places: Arc<Places>,
    ending: Arc<Ending>,
}

#[derive(Default)]
struct Places {
    teams: FxHashMap<Name, usize>,
    agents: FxHashMap<Name, (usize, usize)>,
}

impl Places {
    fn of(teams: &[TeamHandle]) -> Self {
        let mut places = Self::default();
        for (index, team) in teams.iter().enumerate() {
            places.teams.insert(team.plan.name.clone(), index);
            let agents = team.plan.specs().enumerate();
            places.agents.extend(agents.map(|(place, spec)| (spec.name.clone(), (index, place))));
        }
        places
    }
}

/// What a publish answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Published {
    /// Its place in the journal.
    pub seq: Seq,
    /// Its id; also the root of everything it causes.
    pub id: EventId,
    /// What the acknowledgement promises.
    pub level: Level,
    /// Whether the idempotency key was known: nothing was published, `seq` is the first one's.
    pub repeated: bool,
}

/// A team as seen from outside.
#[derive(Debug, Clone, Serialize)]
pub struct TeamStatus {
    /// Its name.
    pub team: Name,
    /// Where it is in its life.
    pub state: TeamState,
    /// Whether the team is paused: it takes no inputs until it is resumed.
    pub paused: bool,
    /// Inputs handled in this process.
    pub inputs: u64,
    /// Inputs whose time was so far ahead that they did not move the team's clock.
    pub inputs_ahead: u64,
    /// Turns in this process.
    pub turns: u64,
    /// Committed steps in this process.
    pub steps: u64,
    /// Durable events published in this process.
    pub events: u64,
    /// Dead letters written in this process.
    pub dead_letters: u64,
    /// Restarts in this process.
    pub restarts: u64,
    /// The agent whose turn has been running for longer than the watchdog allows.
    pub stuck: Option<Name>,
}

impl Runtime {
    pub(crate) fn new(
        kernel: Arc<Kernel>,
        mut teams: Vec<TeamHandle>,
        storage: StorageTask,
        watchdog: Watchdog,
    ) -> Self {
        let tasks = teams.iter_mut().filter_map(|team| team.task.take()).collect();
        let ending = Arc::new(Ending::new(kernel.clone(), tasks, storage, Some(watchdog)));
        let places = Arc::new(Places::of(&teams));
        Self { kernel, teams: Arc::new(teams), places, ending }
    }

    // === publishing ===

    /// Publishes a durable event; await the answer for its seq. Options first: `.key(…)`, `.from(…)`.
    pub fn publish(&self, event: impl Into<Draft>) -> PublishCall<'_> {
        let draft = event.into();
        PublishCall { runtime: self, draft, caller: None, key: None, expect: None, level: None, memory: false }
    }

    /// Writes a memory key that no agent owns.
    ///
    /// # Errors
    /// [`RuntimeError::Topic`] when `key` is no key; the call's own when awaited.
    pub fn put<T: Serialize + Send + Sync + 'static>(
        &self,
        key: &str,
        value: T,
    ) -> Result<PublishCall<'_>, RuntimeError> {
        Ok(PublishCall { memory: true, ..self.publish(Draft::new(Topic::memory(key)?, value)) })
    }

    /// Removes a memory key that no agent owns.
    ///
    /// # Errors
    /// As [`Runtime::put`].
    pub fn remove(&self, key: &str) -> Result<PublishCall<'_>, RuntimeError> {
        self.put(key, ())
    }

    // === reading ===

    /// Shared memory, as of what is released.
    #[must_use]
    pub fn memory(&self) -> &SharedMemory {
        &self.kernel.memory
    }

    /// Committed events on the topics of `filters`, after `after`, without gap or repeat.
    #[must_use]
    pub fn subscribe(&self, filters: Vec<Filter>, after: Seq) -> Subscription {
        self.kernel.bus.subscribe(Interest::in_topics(filters), after)
    }

    /// Passing events on the topics of `filters`, after their steps committed; what does not fit into
    /// `queue_events_max` is counted, never waited for.
    #[must_use]
    pub fn observe(&self, filters: Vec<Filter>, queue_events_max: usize) -> Observer {
        self.kernel.bus.observe(Interest::in_topics(filters), queue_events_max)
    }

    /// The greatest seq that the outside may see.
    #[must_use]
    pub fn released(&self) -> Seq {
        self.kernel.bus.released()
    }

    /// Reads of what is committed.
    #[must_use]
    pub fn reader(&self) -> Arc<dyn Read> {
        self.kernel.reader.clone()
    }

    /// Figures of the storage actor.
    #[must_use]
    pub fn storage_metrics(&self) -> StorageMetrics {
        self.kernel.storage.metrics()
    }

    /// Every live figure: storage, journal, bus, teams.
    #[must_use]
    pub fn metrics(&self) -> Vec<Metric> {
        metrics::read(self)
    }

    /// Who is subscribed to committed events, and how far behind each is.
    #[must_use]
    pub fn subscribers(&self) -> Vec<SubscriberStatus> {
        self.kernel.bus.subscribers()
    }

    /// Every team, in starting order.
    #[must_use]
    pub fn status(&self) -> Vec<TeamStatus> {
        // Relaxed: figures for people.
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let status = |team: &TeamHandle| TeamStatus {
            team: team.plan.name.clone(),
            state: self.state_of(team),
            paused: team.orders.is_paused(),
            inputs: read(&team.counters.inputs),
            inputs_ahead: read(&team.counters.inputs_ahead),
            turns: read(&team.counters.turns),
            steps: read(&team.counters.steps),
            events: read(&team.counters.events),
            dead_letters: read(&team.counters.dead_letters),
            restarts: read(&team.restarts),
            stuck: team
                .watches
                .iter()
                .position(|watch| watch.is_stuck())
                .map(|place| team.plan.specs[place].name.clone()),
        };
        self.teams.iter().map(status).collect()
    }

    /// Asks an agent; answered from state that is committed.
    ///
    /// # Errors
    /// [`RuntimeError::Unknown`], [`RuntimeError::TeamEnded`] or the agent's own as [`RuntimeError::Query`].
    ///
    /// # Cancel safety
    /// A dropped call is answered into the void; nothing changes.
    pub async fn query(&self, agent: &str, query: Query) -> Result<Value, RuntimeError> {
        Ok(self.query_as_of(agent, query).await?.0)
    }

    /// The same, and the seq as of which the answer holds: everything up to it that the agent's team subscribes to has
    /// been taken, and what was made of it is committed. Who was told a seq by a publish and gets a greater or the same
    /// one here sees its effects in that team; [`settled`](Self::settled) waits for them.
    ///
    /// # Errors
    /// As [`query`](Self::query).
    ///
    /// # Cancel safety
    /// A dropped call is answered into the void; nothing changes.
    pub async fn query_as_of(&self, agent: &str, query: Query) -> Result<(Value, Seq), RuntimeError> {
        let Some(&(index, place)) = self.places.agents.get(agent) else { return Err(unknown("agent", agent)) };
        let team = &self.teams[index];
        loop {
            let (answer, answered) = oneshot::channel();
            self.ask(team, TeamAsk::Query { place, query: query.clone(), answer }).await?;
            tokio::select! {
                // Biased: an answer counts even if the runtime has ended since.
                biased;
                // A restart drops the question: ask the next incarnation.
                answer = answered => if let Ok(answer) = answer { return answer.map_err(RuntimeError::Query) },
                () = self.kernel.life.over() => self.kernel.life.check()?,
            }
        }
    }

    // === control ===

    /// Takes no more inputs until resumed; nothing is lost meanwhile. An order: it does not wait for anything.
    ///
    /// # Errors
    /// [`RuntimeError::Unknown`] or [`RuntimeError::TeamEnded`].
    ///
    /// # Cancel safety
    /// Nothing is awaited.
    pub async fn pause(&self, team: &str) -> Result<(), RuntimeError> {
        self.alive(self.team(team)?)?.orders.pause();
        Ok(())
    }

    /// Resumes the team after a pause. An order, like [`pause`](Self::pause).
    ///
    /// # Errors
    /// [`RuntimeError::Unknown`] or [`RuntimeError::TeamEnded`].
    ///
    /// # Cancel safety
    /// Nothing is awaited.
    pub async fn resume(&self, team: &str) -> Result<(), RuntimeError> {
        self.alive(self.team(team)?)?.orders.resume();
        Ok(())
    }

    /// Restarts a team from committed state, even a failed or poisoned one. Returns when a team that had ended is
    /// starting; a running team finishes its input first.
    ///
    /// # Errors
    /// [`RuntimeError::Unknown`], or [`RuntimeError::TeamEnded`] when it was stopped for good.
    ///
    /// # Cancel safety
    /// If the call is dropped while it waits, the team still restarts.
    pub async fn restart(&self, team: &str) -> Result<(), RuntimeError> {
        let team = self.team(team)?;
        self.kernel.life.check()?;
        let mut states = team.states.clone();
        if *states.borrow() == TeamState::Stopped {
            return Err(ended(team));
        }
        let had_ended = states.borrow_and_update().is_ended();
        team.orders.restart();
        while had_ended && team.orders.is_restart() {
            tokio::select! {
                changed = states.changed() => if changed.is_err() { return Err(ended(team)) },
                () = self.kernel.life.over() => self.kernel.life.check()?,
            }
        }
        Ok(())
    }

    /// Waits until every source has ended and everything is settled. Teams that have ended are skipped and returned, so
    /// that a caller does not mistake a failed team for an idle one.
    ///
    /// # Cancel safety
    /// Cancel safe: it only looks.
    pub async fn idle(&self) -> Vec<TeamStatus> {
        loop {
            let before = self.kernel.bus.delivered();
            for team in self.teams.iter() {
                self.come_so_far(team, None).await;
            }
            // Everything released was in their queues before the first was asked, and nothing was released
            // while each was found idle in turn: so all were idle at once.
            if self.released() == before || self.kernel.life.check().is_err() {
                return self.status().into_iter().filter(|team| team.state.is_ended()).collect();
            }
            tokio::task::yield_now().await;
        }
    }

    /// Waits until everything that an event caused, across all teams, is done. Timers that were set on the
    /// way are not waited for.
    ///
    /// # Errors
    /// [`RuntimeError::TeamEnded`] when a team that must handle some of it does not run.
    ///
    /// # Cancel safety
    /// Cancel safe: it only looks.
    pub async fn settled(&self, root: Seq) -> Result<(), RuntimeError> {
        self.kernel.life.check()?;
        let mut edge = vec![root];
        while !edge.is_empty() {
            for &seq in &edge {
                let Some(committed) = self.kernel.reader.event(seq).await? else { continue };
                for team in self.teams.iter() {
                    if team.interest.wants(committed.event.topic.as_str(), &committed.event.source)
                        && !self.come_so_far(team, Some(seq)).await
                    {
                        return Err(self.why_not(team));
                    }
                }
            }
            let mut next = Vec::new();
            for &seq in &edge {
                next.extend(self.kernel.reader.effects_of(seq, EFFECTS_MAX).await?.iter().map(|effect| effect.seq));
            }
            edge = next;
        }
        Ok(())
    }

    /// Waits until a team's state suits `wanted`.
    ///
    /// # Errors
    /// [`RuntimeError::Unknown`]; [`RuntimeError::Stopped`] or [`RuntimeError::Failed`] when the runtime has ended, so
    /// that the condition can never hold.
    ///
    /// # Cancel safety
    /// Cancel safe: it only looks.
    pub async fn until_state(
        &self,
        team: &str,
        mut wanted: impl FnMut(&TeamState) -> bool,
    ) -> Result<TeamState, RuntimeError> {
        let team = self.team(team)?;
        let mut states = team.states.clone();
        loop {
            states.borrow_and_update();
            // Not the state that the team reports: a stuck team would still report running after the runtime has
            // stopped.
            let state = self.state_of(team);
            if wanted(&state) {
                return Ok(state);
            }
            let life = self.kernel.life.check();
            if let Err(RuntimeError::Stopped) = life {
                return Err(RuntimeError::Stopped);
            }
            tokio::select! {
                // Biased: a team's last state has priority over the end of the runtime.
                biased;
                changed = states.changed() => if changed.is_err() {
                    return Err(self.why_not(team));
                },
                () = self.kernel.life.over(), if life.is_ok() => {}
                () = self.kernel.life.stopped() => {}
            }
        }
    }

    /// Waits until the runtime has failed: a task that everything depends on has ended ([`RuntimeError::Failed`]), or it
    /// was stopped ([`RuntimeError::Stopped`]). The teams' own failures are their states.
    ///
    /// # Cancel safety
    /// Cancel safe: it only looks.
    pub async fn until_ended(&self) -> RuntimeError {
        self.kernel.life.over().await;
        self.kernel.life.check().err().unwrap_or(RuntimeError::Stopped)
    }

    /// Stops: sources first, teams in reverse order finish what they began, storage flushes and checkpoints.
    /// A second call waits for the first and gives its outcome. While the disk is full, uncommitted work is given up:
    /// it was not acknowledged, and the next start repeats it.
    /// Afterwards, even after an error, every call on every handle is refused with [`RuntimeError::Stopped`], and
    /// another runtime can open the file.
    ///
    /// # Errors
    /// [`RuntimeError::Rejected`] when the storage could not do its last writes; everything has ended all the same.
    /// [`RuntimeError::TeamEnded`] when a team's own tasks had panicked, [`RuntimeError::Failed`] when the runtime's had.
    /// [`RuntimeError::Deadline`] when `deadline` passed first: everything then ends as by a kill. The stop waits up to
    /// 5 s longer for a commit in progress, so that the file is free.
    ///
    /// # Cancel safety
    /// Dropping the future ends everything at once; nothing acknowledged is lost.
    pub async fn stop(&self, deadline: Duration) -> Result<(), RuntimeError> {
        self.ending.stop(&self.teams, deadline).await
    }

    // === inside ===

    fn team(&self, name: &str) -> Result<&TeamHandle, RuntimeError> {
        let index = self.places.teams.get(name).ok_or_else(|| unknown("team", name))?;
        Ok(&self.teams[*index])
    }

    /// The team, if neither it nor the runtime has ended.
    fn alive<'a>(&self, team: &'a TeamHandle) -> Result<&'a TeamHandle, RuntimeError> {
        self.kernel.life.check()?;
        if team.states.borrow().is_ended() { Err(ended(team)) } else { Ok(team) }
    }

    /// The status that the team reports, unless its task or the runtime has ended.
    fn state_of(&self, team: &TeamHandle) -> TeamState {
        let state = team.states.borrow().clone();
        match self.kernel.life.check() {
            Err(RuntimeError::Stopped) if !state.is_ended() => TeamState::Stopped,
            Err(error @ RuntimeError::Failed { .. }) if !state.is_ended() => {
                TeamState::Failed { reason: error.to_string() }
            }
            _ => state,
        }
    }

    /// Queues a question; waits for space as long as the team can still answer.
    async fn ask(&self, team: &TeamHandle, ask: TeamAsk) -> Result<(), RuntimeError> {
        self.alive(team)?;
        tokio::select! {
            sent = team.asks.send(ask) => sent.map_err(|_| ended(team)),
            () = self.kernel.life.over() => self.kernel.life.check(),
        }
    }

    /// Why the team did not reach the seq: the runtime or the team has ended.
    fn why_not(&self, team: &TeamHandle) -> RuntimeError {
        self.kernel.life.check().err().unwrap_or_else(|| ended(team))
    }

    /// `false`: the team has ended before it came so far.
    async fn come_so_far(&self, team: &TeamHandle, upto: Option<Seq>) -> bool {
        let mut states = team.states.clone();
        loop {
            let (answer, answered) = oneshot::channel();
            if self.ask(team, TeamAsk::Tell(Waiter { upto, answer })).await.is_err() {
                return false;
            }
            tokio::select! {
                // Biased: an answer counts even if the team has ended since.
                biased;
                told = answered => if told.is_ok() { return true },
                _ = states.wait_for(TeamState::is_ended) => return false,
                () = self.kernel.life.over() => return false,
            }
            // Dropped by a restart: ask the next incarnation.
        }
    }
}

fn unknown(what: &'static str, name: &str) -> RuntimeError {
    RuntimeError::Unknown { what, name: name.into() }
}

fn ended(team: &TeamHandle) -> RuntimeError {
    RuntimeError::TeamEnded { team: team.plan.name.clone(), state: team.states.borrow().clone() }
}

impl std::fmt::Debug for Runtime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let teams: Vec<_> = self.teams.iter().map(|team| &team.plan.name).collect();
        f.debug_struct("Runtime").field("teams", &teams).field("released", &self.released()).finish_non_exhaustive()
    }
}

/// A publish that is being put together; await it to send it.
///
/// # Cancel safety
/// Once awaited, dropping it does not take the event back: it may or may not be committed. With a key, ask
/// again.
#[must_use = "a publish does nothing until it is awaited"]
pub struct PublishCall<'a> {
    runtime: &'a Runtime,
    draft: Draft,
    caller: Option<Name>,
    key: Option<String>,
    expect: Option<(String, Option<EventId>)>,
    level: Option<Level>,
    memory: bool,
}

impl PublishCall<'_> {
    /// An idempotency key: a second publish of this caller with the same key changes nothing and returns the seqs of
    /// the first. Keys are kept for `storage.keep_keys`, seven days from the commit on by default; after that the same
    /// key publishes again.
    pub fn key(mut self, key: impl Into<String>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// Who publishes; `caller` if not said.
    pub fn from(mut self, caller: Name) -> Self {
        self.caller = Some(caller);
        self
    }

    /// What the acknowledgement must promise; the runtime's default if not said.
    pub fn level(mut self, level: Level) -> Self {
        self.level = Some(level);
        self
    }

    /// For a memory write: only if the key was last written by `revision` (`None`: if it does not exist).
    pub fn if_revision(mut self, revision: Option<EventId>) -> Self {
        self.expect = self.draft.topic.memory_key().map(|key| (key.to_owned(), revision));
        self
    }

    async fn send(self) -> Result<Published, RuntimeError> {
        let kernel = &self.runtime.kernel;
        kernel.life.check()?;
        self.check()?;
        let Self { draft, caller, key, expect, level, .. } = self;
        let caller = match caller {
            Some(caller) => caller,
            // A literal that is a name.
            None => Name::new(CALLER).unwrap_or_else(|error| panic!("{error}")),
        };
        let id = key.as_ref().map_or_else(|| kernel.env.new_id(), |key| id_of_key(&caller, key));
        let event = Event {
            id,
            topic: draft.topic,
            version: draft.version,
            durable: true,
            source: caller.clone(),
            time: draft.time.unwrap_or_else(|| kernel.env.now()),
            cause: None,
            root: id,
            hops: 0,
            payload: draft.payload,
        };
        let publish = publish_of(event, level.unwrap_or(kernel.level));
        let publish = Publish { key: key.map(|key| (caller, key)), expect, ..publish };
        // If the runtime ends in the meantime, its error is returned, but an unknown outcome stays unknown.
        let done =
            kernel.storage.publish(publish).await.map_err(|rejected| match (&rejected, kernel.life.check()) {
                (Rejected::Stopped | Rejected::Failed(_), Err(ended)) => ended,
                _ => rejected.into(),
            })?;
        Ok(Published { seq: done.first, id, level: done.level, repeated: done.repeated })
    }

    fn check(&self) -> Result<(), RuntimeError> {
        let topic = &self.draft.topic;
        if !self.draft.durable {
            return Err(RuntimeError::Passing(topic.clone()));
        }
        let reserved = |reason: &str| RuntimeError::Reserved { topic: topic.clone(), reason: reason.into() };
        // Also when addressed to an agent: the receiver would treat it as an event of the runtime.
        if topic.root() == "sys" || topic.subject().starts_with(SYSTEM_ROOT) {
            return Err(reserved("it is the runtime's"));
        }
        if topic.addressee().is_some() && topic.subject() == topic.as_str() {
            return Err(reserved("an address needs a subject: to.<agent>.<topic>"));
        }
        if let Some(agent) = topic.addressee()
            && !self.runtime.kernel.agents.contains(agent)
        {
            return Err(unknown("agent", agent));
        }
        if let Some(key) = topic.memory_key() {
            if !self.memory {
                return Err(reserved("write memory with put"));
            }
            if let Some(owner) = self.runtime.kernel.owner_of(key) {
                return Err(reserved(&format!("agent {owner} owns that key")));
            }
        }
        let taken = |caller: &Name| self.runtime.kernel.agents.contains(caller) || *caller == self.runtime.kernel.name;
        if let Some(caller) = self.caller.as_ref().filter(|caller| taken(caller)) {
            return Err(reserved(&format!("{caller} is the name of an agent or of the runtime, not of a caller")));
        }
        if let Some(time) = self.draft.time {
            let (now, limit) = (self.runtime.kernel.env.now(), self.runtime.kernel.clock.ahead_max);
            if time > now.after(limit) {
                return Err(RuntimeError::AheadOfClock { time, now, ahead: time.since(now), limit });
            }
        }
        if let Some(bytes) = self.key.as_ref().map(String::len).filter(|bytes| *bytes > KEY_BYTES_MAX) {
            return Err(RuntimeError::KeyTooLong { bytes });
        }
        let limit = self.runtime.kernel.event_bytes_max;
        let bytes = self.draft.payload.json()?.len();
        if bytes > limit {
            return Err(RuntimeError::TooLarge { bytes, limit });
        }
        Ok(())
    }
}

impl<'a> IntoFuture for PublishCall<'a> {
    type Output = Result<Published, RuntimeError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send + 'a>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.send())
    }
}
