//! The trait that developers write, and the data around it.
//!
//! An agent is a pure function of its state, the event and memory (*deciding*), or touches the outside
//! world through [`Context::effect`](crate::Context::effect) (*acting*). It promises what
//! `docs/writing-agents.md` lists; the runtime promises the rest.

use std::{collections::BTreeMap, fmt, pin::Pin, sync::Arc, time::Duration};

use async_trait::async_trait;
use atra_bus::{
    Draft, ERROR_BYTES_MAX, Event, EventType, Filter, InvalidSettings, Name, SettingCheck, Timestamp, Topic, cut_text,
    encode, topic::TOPIC_BYTES_MAX,
};
use atra_storage::ROW_BYTES;
use futures::Stream;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::{Context, limits::Limits};

/// The longest turn that a spec may ask for. 30 days: a turn that is pending longer holds its team for good.
const TURN_TIMEOUT_MAX: Duration = Duration::from_secs(30 * 86_400);
/// The longest interval of a schedule. 100 years: the arithmetic of its due times stays far from the ends of time.
const SCHEDULE_EVERY_MAX: Duration = Duration::from_secs(36_525 * 86_400);
/// Bytes of a schedule's topic beside the two names: `sys.schedule.` and a dot.
const SCHEDULE_TOPIC_BYTES: usize = "sys.schedule..".len();

/// Why a turn, a start or a save failed. Made from any error with `?`, or with [`AgentError::new`].
///
/// Not an enum: what went wrong inside an agent is the agent's own language; the runtime only counts,
/// reports and retries. The text is cut at 4 KiB, so that it can be stored everywhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentError(String);

impl AgentError {
    /// An error with a sentence for people: lowercase, what and which.
    pub fn new(message: impl Into<String>) -> Self {
        let mut message = message.into();
        if message.len() > ERROR_BYTES_MAX {
            message = cut_text(&message, ERROR_BYTES_MAX).into_owned();
        }
        Self(message)
    }
}

impl fmt::Display for AgentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<E: std::error::Error> From<E> for AgentError {
    /// Keeps the text of the error and of its sources.
    fn from(error: E) -> Self {
        let mut text = error.to_string();
        let mut source = error.source();
        // An error may be its own source.
        while let Some(cause) = source.filter(|_| text.len() <= ERROR_BYTES_MAX) {
            text = format!("{text}: {cause}");
            source = cause.source();
        }
        Self::new(text)
    }
}

/// An agent: one actor with its own state, alone or in a team.
///
/// # For implementers
/// - `handle` decides from `self`, the event and what `cx` gives; it reads no clock, no randomness, no
///   files and no globals. Everything it decides goes through `cx`.
/// - What a later turn needs is in `self` and is written by `save`, or it is lost at the next restart.
/// - `start` must bring back exactly the state that `save` wrote.
/// - `&mut self` may be ahead of the store when a turn fails; the instance is then dropped, never reused.
#[async_trait]
pub trait Agent: Send {
    /// Name, subscriptions, publishes, owned memory, schedules, limits: data, readable without running it.
    fn spec(&self) -> AgentSpec;

    /// Restores committed state; reads only. The first start ever is an input of its own: subscribe to
    /// `sys.init`.
    async fn start(&mut self, _state: &StateReader<'_>) -> Result<(), AgentError> {
        Ok(())
    }

    /// Handles one event. What it decides goes through `cx`.
    async fn handle(&mut self, event: &Event, cx: &mut Context<'_>) -> Result<(), AgentError>;

    /// For sources: the stream of inputs from `offsets` on. Runs on a task of its own, so it can read ahead.
    fn source(&self, _offsets: &Offsets) -> Option<Source> {
        None
    }

    /// Writes what changed of the agent's state into the step: keyed, only what changed. Called at most
    /// once per step, and only when the agent had a turn in it.
    fn save(&mut self, _state: &mut StateWriter<'_>) -> Result<(), AgentError> {
        Ok(())
    }

    /// Answers a read-only question from `self`. The executor closes the step first and answers after it
    /// is committed.
    fn query(&self, query: &Query) -> Result<Value, AgentError> {
        Err(AgentError::new(format!("this agent does not answer {:?}", query.name)))
    }
}

/// What happens to an event that keeps failing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnPoison {
    /// It becomes a dead letter and the agent goes on.
    #[default]
    DeadLetter,
    /// The team stops, visibly: for ledgers, where a skipped event is worse than a stop.
    Stop,
}

/// What a schedule does about times that passed while the team was stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Missed {
    /// Fires once, for the last of them.
    #[default]
    Last,
    /// Fires for each of the newest `limits.missed_max`.
    All,
}

/// A recurring timer: fires at every multiple of `every` since the epoch, on the team's clock; on a `wall` clock on the
/// machine's. If the machine's clock goes back, past times fire again; a schedule waits for two intervals at most.
#[derive(Debug, Clone)]
pub struct Schedule {
    /// Unique within the agent; the event's topic is `sys.schedule.<agent>.<name>`.
    pub name: Name,
    /// The interval; whole milliseconds, at least one.
    pub every: Duration,
    /// What to do about missed times.
    pub missed: Missed,
}

/// A topic that an agent may publish on.
#[derive(Debug, Clone)]
pub struct Publishes {
    /// The topics.
    pub filter: Filter,
    /// Whether what it publishes there is journalled.
    pub durable: bool,
}

/// What the runtime must know of an agent before it runs.
///
/// # Panics
/// The builder methods take literals of the program and panic on text that is no name, topic or filter:
/// a typo is found by the first test that makes the spec.
#[derive(Debug, Clone)]
pub struct AgentSpec {
    /// Unique in the runtime.
    pub name: Name,
    /// What it handles.
    pub subscribes: Vec<Filter>,
    /// Those of them that callers publish, not agents: what a person or a program outside commands.
    pub commands: Vec<Filter>,
    /// What it may publish; anything else is refused at the call.
    pub publishes: Vec<Publishes>,
    /// Memory keys with these prefixes are its own: only it writes them.
    pub owns: Vec<String>,
    /// Its recurring timers.
    pub schedules: Vec<Schedule>,
    /// Whether it touches the outside world; then it is alone in its team.
    pub acting: bool,
    /// Whether it brings events in.
    pub is_source: bool,
    /// What happens to an event that keeps failing.
    pub on_poison: OnPoison,
    /// How often one event is tried before it is given up. Default 3: a second try meets most passing
    /// causes, a third tells that it is the event.
    pub attempts_max: u32,
    /// How long one turn may be pending. Default 30 s: longer than a retried call to a slow service.
    pub turn_timeout: Duration,
}

impl AgentSpec {
    /// A spec with defaults and no subscriptions.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self {
            name: Name::new(name).unwrap_or_else(|error| panic!("{error}")),
            subscribes: Vec::new(),
            commands: Vec::new(),
            publishes: Vec::new(),
            owns: Vec::new(),
            schedules: Vec::new(),
            acting: false,
            is_source: false,
            on_poison: OnPoison::DeadLetter,
            attempts_max: 3,
            turn_timeout: Duration::from_secs(30),
        }
    }

    /// Handles every event whose topic suits `filter`. A wildcard as the first segment matches neither the runtime's
    /// own events (`sys.`) nor events addressed to others (`to.`): name `sys.` to get the runtime's events.
    #[must_use]
    pub fn subscribes(mut self, filter: &str) -> Self {
        self.subscribes.push(Filter::new(filter).unwrap_or_else(|error| panic!("{error}")));
        self
    }

    /// Handles events of type `T`.
    #[must_use]
    pub fn handles<T: EventType>(mut self) -> Self {
        self.subscribes.push(Filter::exactly(&T::TOPIC));
        self
    }

    /// Handles events of type `T`, which callers publish: the topology check expects no agent to.
    #[must_use]
    pub fn commanded_by<T: EventType>(mut self) -> Self {
        self.commands.push(Filter::exactly(&T::TOPIC));
        self.handles::<T>()
    }

    /// May publish events of type `T`.
    #[must_use]
    pub fn publishes<T: EventType>(mut self) -> Self {
        self.publishes.push(Publishes { filter: Filter::exactly(&T::TOPIC), durable: T::DURABLE });
        self
    }

    /// May publish on any topic that suits `filter`.
    #[must_use]
    pub fn publishes_on(mut self, filter: &str, durable: bool) -> Self {
        let filter = Filter::new(filter).unwrap_or_else(|error| panic!("{error}"));
        self.publishes.push(Publishes { filter, durable });
        self
    }

    /// Owns every memory key that begins with `prefix`.
    #[must_use]
    pub fn owns(mut self, prefix: &str) -> Self {
        self.owns.push(prefix.into());
        self
    }

    /// Gets an event on `sys.schedule.<agent>.<name>` at every multiple of `every` since the epoch.
    #[must_use]
    pub fn schedule(mut self, name: &str, every: Duration, missed: Missed) -> Self {
        let name = Name::new(name).unwrap_or_else(|error| panic!("{error}"));
        self.schedules.push(Schedule { name, every, missed });
        self
    }

    /// Touches the outside world, through `cx.effect` only.
    #[must_use]
    pub fn acting(mut self) -> Self {
        self.acting = true;
        self
    }

    /// Brings events in: [`Agent::source`] gives a stream.
    #[must_use]
    pub fn source(mut self) -> Self {
        self.is_source = true;
        self
    }

    /// What happens to an event that keeps failing.
    #[must_use]
    pub fn on_poison(mut self, on_poison: OnPoison) -> Self {
        self.on_poison = on_poison;
        self
    }

    /// How often one event is tried; at least 1.
    #[must_use]
    pub fn attempts_max(mut self, attempts: u32) -> Self {
        self.attempts_max = attempts;
        self
    }

    /// How long one turn may be pending.
    #[must_use]
    pub fn turn_timeout(mut self, limit: Duration) -> Self {
        self.turn_timeout = limit;
        self
    }

    /// The spec with its filters as they are delivered: a wildcard root matches no system event.
    pub(crate) fn delivered(mut self) -> Self {
        self.subscribes = self.subscribes.into_iter().map(Filter::without_system).collect();
        self
    }

    /// Checks every part of the spec that its builder does not check.
    ///
    /// # Errors
    /// Each part that is out of its range or can never work, as `agents.<name>.<part>`.
    pub fn check(&self) -> Result<(), InvalidSettings> {
        let mut check = SettingCheck::new(format!("agents.{}", self.name));
        check.range("attempts_max", self.attempts_max, 1..=1_000_000);
        check.duration("turn_timeout", self.turn_timeout, Duration::from_millis(1)..=TURN_TIMEOUT_MAX);
        for (index, schedule) in self.schedules.iter().enumerate() {
            let field = format!("schedules.{}", schedule.name);
            check.duration(&field, schedule.every, Duration::from_millis(1)..=SCHEDULE_EVERY_MAX);
            if schedule.every.subsec_nanos() % 1_000_000 != 0 {
                check.refuse(&field, format!("{:?}", schedule.every), "whole milliseconds");
            }
            let topic = SCHEDULE_TOPIC_BYTES + self.name.as_str().len() + schedule.name.as_str().len();
            if topic > TOPIC_BYTES_MAX {
                let allowed =
                    format!("names that make a topic of at most {TOPIC_BYTES_MAX} bytes (sys.schedule.<agent>.<name>)");
                check.refuse(&field, format!("a topic of {topic} bytes"), allowed);
            }
            if self.schedules[..index].iter().any(|other| other.name == schedule.name) {
                check.refuse(&field, "twice", "each schedule name once");
            }
        }
        for published in &self.publishes {
            let root = published.filter.as_str().split('.').next().unwrap_or_default();
            if ["sys", "memory", "to"].contains(&root) {
                let allowed = "no root sys, memory or to: put writes memory, send addresses an agent";
                check.refuse("publishes", published.filter.as_str(), allowed);
            }
        }
        for prefix in &self.owns {
            // A key that begins with the prefix, if there can be one: a token may go on where the prefix ends.
            if !prefix.is_empty() && Topic::memory(&format!("{prefix}x")).is_err() {
                let allowed = "the beginning of a memory key: tokens of letters, digits, '_' and '-', split by dots";
                check.refuse("owns", format!("{prefix:?}"), allowed);
            }
        }
        check.finish()
    }

    /// The topic of a schedule's events.
    ///
    /// # Panics
    /// When agent and schedule names together are above the topic limit.
    #[must_use]
    pub fn schedule_topic(agent: &Name, schedule: &Name) -> Topic {
        Topic::new(&format!("sys.schedule.{agent}.{schedule}")).unwrap_or_else(|error| panic!("{error}"))
    }
}

/// How far a source has been read, per partition: the text that [`SourceItem::Input`] carried last.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Offsets(pub(crate) BTreeMap<String, String>);

impl Offsets {
    /// The offset of one partition, if any of its inputs was settled.
    #[must_use]
    pub fn get(&self, partition: &str) -> Option<&str> {
        self.0.get(partition).map(String::as_str)
    }

    /// All of them, sorted by partition.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(partition, offset)| (partition.as_str(), offset.as_str()))
    }
}

impl<K: Into<String>, V: Into<String>> FromIterator<(K, V)> for Offsets {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(offsets: I) -> Self {
        Self(offsets.into_iter().map(|(partition, offset)| (partition.into(), offset.into())).collect())
    }
}

/// What a source's stream yields.
#[derive(Debug)]
pub enum SourceItem {
    /// An event from outside. Its id derives from (source, partition, offset).
    Input {
        /// The event; its `time` (wall time if it has none) moves the team's clock and must not go back within
        /// a source.
        event: Draft,
        /// Which of the source's partitions it is from (a series, a shard, a file).
        partition: Arc<str>,
        /// The place behind this input, unique within the partition: reading on from here repeats nothing. Neither the
        /// offset nor the partition may have a NUL character or more than [`KEY_BYTES_MAX`] bytes; a repeated offset
        /// fails the source.
        offset: String,
    },
    /// Nothing will come before this time: lets an `events` clock and its timers go on.
    Idle {
        /// The time.
        until: Timestamp,
    },
    /// The end: nothing will ever come again. A stream that closes without it has failed.
    End,
}

/// A source's stream of inputs.
pub type Source = Pin<Box<dyn Stream<Item = Result<SourceItem, AgentError>> + Send>>;

/// An agent's committed state, at the start.
#[derive(Debug)]
pub struct StateReader<'a> {
    pub(crate) facts: &'a BTreeMap<String, Arc<str>>,
}

impl StateReader<'_> {
    /// The value of a key, if it was ever saved.
    ///
    /// # Errors
    /// When the stored JSON is not a `T`.
    pub fn get<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, AgentError> {
        self.facts.get(key).map(|json| decode(key, json)).transpose()
    }

    /// Every key that begins with `prefix`, sorted.
    ///
    /// # Errors
    /// When a stored JSON is not a `T`.
    pub fn list<T: DeserializeOwned>(&self, prefix: &str) -> Result<Vec<(String, T)>, AgentError> {
        self.facts
            .range(prefix.to_owned()..)
            .take_while(|(key, _)| key.starts_with(prefix))
            .map(|(key, json)| Ok((key.clone(), decode(key, json)?)))
            .collect()
    }
}

fn decode<T: DeserializeOwned>(key: &str, json: &str) -> Result<T, AgentError> {
    serde_json::from_str(json).map_err(|error| AgentError::new(format!("saved state {key:?} cannot be read: {error}")))
}

/// The longest key of a state, name of an effect, idempotency key, partition or offset, in bytes. 4 KiB: each of them is a
/// key of the store, or part of one.
pub const KEY_BYTES_MAX: usize = 4_096;

/// Where an agent writes what changed of its state.
/// A refused value is not saved, so the turn fails even if `save` ignores the error.
#[derive(Debug)]
pub struct StateWriter<'a> {
    writes: &'a mut Vec<(String, Option<Arc<str>>)>,
    value_bytes_max: usize,
    /// Bytes that this save may still use.
    bytes_left: usize,
    bytes_max: usize,
    /// The first refusal.
    refused: Option<AgentError>,
}

impl<'a> StateWriter<'a> {
    pub(crate) fn new(writes: &'a mut Vec<(String, Option<Arc<str>>)>, limits: &Limits) -> Self {
        let bytes_max = limits.step_bytes_max;
        Self { writes, value_bytes_max: limits.event_bytes_max, bytes_left: bytes_max, bytes_max, refused: None }
    }

    /// The first refusal, if there was one.
    pub(crate) fn refused(self) -> Option<AgentError> {
        self.refused
    }

    /// Writes a key. Keys have up to [`KEY_BYTES_MAX`] bytes, a value up to `event_bytes_max`, all of one save together up
    /// to `step_bytes_max`.
    ///
    /// # Errors
    /// When the value would not decode unchanged, or a limit is exceeded.
    pub fn put<T: Serialize + ?Sized>(&mut self, key: &str, value: &T) -> Result<(), AgentError> {
        let written = match encode(value) {
            Ok(json) => self.write(key, Some(json)),
            Err(error) => Err(AgentError::new(format!("state {key:?}: {error}"))),
        };
        if let Err(error) = &written {
            self.refused.get_or_insert_with(|| error.clone());
        }
        written
    }

    /// Removes a key.
    pub fn remove(&mut self, key: &str) {
        if let Err(error) = self.write(key, None) {
            self.refused.get_or_insert(error);
        }
    }

    fn write(&mut self, key: &str, json: Option<Arc<str>>) -> Result<(), AgentError> {
        // A key that was stored by an older build can still be removed.
        if key.len() > KEY_BYTES_MAX && json.is_some() {
            let n = key.len();
            return Err(AgentError::new(format!("state key of {n} bytes is above the limit of {KEY_BYTES_MAX}")));
        }
        let (n, most) = (json.as_ref().map_or(0, |json| json.len()), self.value_bytes_max);
        if n > most {
            return Err(AgentError::new(format!("state {key:?} of {n} bytes is above the limit of {most}; split it")));
        }
        let bytes = key.len() + n + ROW_BYTES;
        let Some(left) = self.bytes_left.checked_sub(bytes) else {
            let most = self.bytes_max;
            let text = format!("state is above {most} bytes with {key:?} (step_bytes_max); write only what changed");
            return Err(AgentError::new(text));
        };
        self.bytes_left = left;
        self.writes.push((key.into(), json));
        Ok(())
    }
}

/// A read-only question to an agent.
#[derive(Debug, Clone, PartialEq)]
pub struct Query {
    /// What is asked.
    pub name: String,
    /// Its arguments.
    pub arguments: Value,
}
