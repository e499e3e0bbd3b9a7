//! Events: what agents, sources and callers say, immutable once published.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{EventId, Name, Payload, PayloadError, Timestamp, Topic};

/// The place of a durable event in the journal: 1, 2, 3 … without gaps. 0 is the place before the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Seq(pub u64);

impl Seq {
    /// The place before the first event.
    pub const ZERO: Self = Self(0);

    /// The number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The next seq; the last one returns itself.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A type of event: names its topic, the version of its shape, and whether it is journalled.
///
/// # Examples
/// ```
/// use atra_bus::{EventType, Topic};
/// #[derive(serde::Serialize, serde::Deserialize)]
/// struct Greeting { name: String }
/// impl EventType for Greeting {
///     const TOPIC: Topic = Topic::literal("hello.greeting");
/// }
/// assert!(Greeting::DURABLE);
/// ```
pub trait EventType: Serialize + DeserializeOwned + Send + Sync + 'static {
    /// The topic of every event of this type; [`Topic::literal`] lets the compiler check it.
    const TOPIC: Topic;
    /// The version of the shape; raise it when old payloads no longer decode.
    const VERSION: u16 = 1;
    /// Whether events of this type are journalled before anyone outside the team sees them. A passing
    /// event (`false`) reaches teammates and, after its step commits, observers.
    const DURABLE: bool = true;
    /// A promise of the type's author, for very frequent events: the JSON text of every value decodes as an equal
    /// value, and this function compares two values (`Some(PartialEq::eq)`). Readers of the type then share the
    /// published value, and a passing event is encoded only when its text is requested. Builds with debug assertions
    /// check each value. Without the promise (the default), the call that takes a value encodes and decodes it, and
    /// readers get the decoded value.
    ///
    /// Not for types with skipped fields, with serializers that round, or with floats that may be NaN.
    const EXACT: Option<fn(&Self, &Self) -> bool> = None;
}

/// What is about to be published: an event without its identity, which the publisher's turn adds.
#[derive(Debug, Clone)]
pub struct Draft {
    /// What it is about.
    pub topic: Topic,
    /// The version of the payload's shape.
    pub version: u16,
    /// Whether it is journalled.
    pub durable: bool,
    /// When its value became known; the context's `now` if `None`.
    pub time: Option<Timestamp>,
    /// The content.
    pub payload: Payload,
}

impl Draft {
    /// A durable event of shape version 1 on `topic`. A value that cannot be stored ([`PayloadError`]) is refused by the call
    /// that takes the draft.
    pub fn new<T: Serialize>(topic: Topic, value: T) -> Self {
        Self { topic, version: 1, durable: true, time: None, payload: Payload::typed(value) }
    }

    /// The same, to another topic: one type used for many subjects.
    #[must_use]
    pub fn on(mut self, topic: Topic) -> Self {
        self.topic = topic;
        self
    }

    /// The same, known at `time`.
    #[must_use]
    pub fn at(mut self, time: Timestamp) -> Self {
        self.time = Some(time);
        self
    }

    /// The same, but passing: not journalled.
    #[must_use]
    pub fn passing(mut self) -> Self {
        self.durable = false;
        self
    }
}

impl<T: EventType> From<T> for Draft {
    fn from(value: T) -> Self {
        Self {
            topic: T::TOPIC,
            version: T::VERSION,
            durable: T::DURABLE,
            time: None,
            payload: Payload::of_event(value),
        }
    }
}

/// A typed value with a topic, an identity, a time and an origin; immutable once published.
#[derive(Debug, Clone)]
pub struct Event {
    /// Derived identity; see [`EventId`].
    pub id: EventId,
    /// What it is about.
    pub topic: Topic,
    /// The version of the payload's shape.
    pub version: u16,
    /// Whether it is journalled.
    pub durable: bool,
    /// The agent or caller that published it.
    pub source: Name,
    /// When its value became known.
    pub time: Timestamp,
    /// The event that was being handled when this one was published.
    pub cause: Option<EventId>,
    /// The event that began it all; its own id for an input.
    pub root: EventId,
    /// How many causes lie between it and its root.
    pub hops: u16,
    /// The content.
    pub payload: Payload,
}

impl Event {
    /// Whether the event is a `T`, addressed to somebody or not: same subject and same shape version.
    #[must_use]
    pub fn is<T: EventType>(&self) -> bool {
        self.version == T::VERSION && self.topic.subject() == T::TOPIC.as_str()
    }

    /// The content if the event is a `T` ([`Event::is`]) and decodes as one.
    ///
    /// # Errors
    /// [`PayloadError::Shape`] when topic and version say `T` but the content is not.
    pub fn as_type<T: EventType>(&self) -> Result<Option<&T>, PayloadError> {
        if self.is::<T>() { self.payload.get().map(Some) } else { Ok(None) }
    }

    /// The content as a `T`, decoded at most once for each type.
    ///
    /// # Errors
    /// [`PayloadError::Shape`] when it is not a `T`.
    pub fn get<T: DeserializeOwned + Send + Sync + 'static>(&self) -> Result<&T, PayloadError> {
        self.payload.get()
    }
}

/// An event with its place in the journal: what observers get. Agents do not see seqs.
#[derive(Debug, Clone)]
pub struct Committed {
    /// The place in the journal.
    pub seq: Seq,
    /// The event.
    pub event: Arc<Event>,
    /// The nearest durable event above it in the chain of causes; `None` for an input.
    pub cause_seq: Option<Seq>,
    /// For a team's own input: the team's cursor when it was taken. Foreign input *f* came before this
    /// one exactly when *f* ≤ `seen`.
    pub seen: Option<Seq>,
}

/// What one commit released, in journal order, without gaps. Never empty on the bus.
#[derive(Debug, Default)]
pub struct Batch {
    /// The events.
    pub events: Vec<Committed>,
}

impl Batch {
    /// The seq of the last event, or `None` of an empty batch.
    #[must_use]
    pub fn last_seq(&self) -> Option<Seq> {
        self.events.last().map(|event| event.seq)
    }
}
