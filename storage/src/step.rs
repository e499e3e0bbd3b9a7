//! What is handed to the storage actor: steps of teams and publishes of callers. Plain data, no closures,
//! so it can be checked, simulated and written to another backend.

use std::sync::Arc;

use atra_bus::{Event, EventId, Name, Seq, Topic};
use serde::{Deserialize, Serialize};

/// What an acknowledgement promises.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Survives the process being killed at any instant (SQLite `synchronous=NORMAL`).
    #[default]
    Process,
    /// Survives power loss too, on a disk that is honest about its flushes (`synchronous=FULL`).
    Power,
}

/// Which queue a command waits in. Within a lane, first in is first out; a team's steps use one lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Lane {
    /// Epochs, markers: few and small.
    Control,
    /// Steps and publishes.
    #[default]
    Turns,
    /// Imports: chunked, and never in the way of turns for long.
    Bulk,
}

/// What a fact is about. The discriminant is stored; never renumber.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum FactKind {
    /// Newest version of a shared-memory key. Owner: the agent or caller that wrote it.
    Memory = 1,
    /// A key of an agent's private state. Owner: the agent.
    State = 2,
    /// How far a source has been read. Owner: the agent.
    Offset = 3,
    /// A timer that has not fired. Owner: the agent.
    Timer = 4,
    /// An event that an agent gave up on. Owner: the agent.
    DeadLetter = 5,
    /// A mark that an input is about to be tried. Owner: the team.
    Attempt = 6,
    /// Intent or result of a call to the outside. Owner: the acting agent.
    Result = 7,
    /// An idempotency key and the seq of its first publish. Owner: the caller.
    Key = 8,
    /// Marks of the runtime itself (clean stop, configuration in force). Owner: the runtime.
    Meta = 9,
}

/// The value of a [`FactKind::Result`] fact while its call to the outside has no result: an intent.
pub const OPEN_EFFECT: &str = "\"intent\"";

impl FactKind {
    /// Every kind, in stored order.
    pub const ALL: [Self; 9] = [
        Self::Memory,
        Self::State,
        Self::Offset,
        Self::Timer,
        Self::DeadLetter,
        Self::Attempt,
        Self::Result,
        Self::Key,
        Self::Meta,
    ];

    /// Whether facts of this kind are deleted when they are old: see [`Expiry`](crate::Expiry).
    #[must_use]
    pub fn expires(self) -> bool {
        matches!(self, Self::Result | Self::Key)
    }

    /// The kind with this stored number.
    #[must_use]
    pub fn from_number(number: i64) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as i64 == number)
    }
}

/// A fact that a step writes. Memory is not written this way: an event on `memory.<key>` is the write,
/// and the storage actor derives the fact from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FactWrite {
    /// What it is about.
    pub kind: FactKind,
    /// Whose it is.
    pub owner: Name,
    /// The key, unique per kind and owner.
    pub key: String,
    /// JSON text; `None` removes the fact.
    pub value: Option<Arc<str>>,
}

/// Fixed overhead of a row, for the bounds: about what its columns and indexes take.
pub const ROW_BYTES: usize = 128;

/// What a durable event counts against the bound of a command, in bytes: whoever fills steps counts alike.
#[must_use]
pub fn new_event_bytes(json: &str, topic: &Topic) -> usize {
    event_bytes(json.len(), topic)
}

/// The same, of a payload of so many bytes.
#[must_use]
pub fn event_bytes(payload_bytes: usize, topic: &Topic) -> usize {
    payload_bytes + topic.as_str().len() + ROW_BYTES
}

impl FactWrite {
    /// What it counts against the bound of a command, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.key.len() + self.value.as_ref().map_or(0, |value| value.len()) + ROW_BYTES
    }
}

/// A fact as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FactRow {
    /// What it is about.
    pub kind: FactKind,
    /// Whose it is. Memory facts are unique by key alone; their owner is who wrote last.
    pub owner: Name,
    /// The key.
    pub key: String,
    /// JSON text. `None` in a [`WriteBatch`](crate::WriteBatch) removes the fact; a reader never sees it.
    pub value: Option<Arc<str>>,
    /// The last seq of the journal when the fact was written: for memory, the seq of the write itself.
    pub version: Seq,
    /// For memory: the id of the event that wrote it, which callers use as the revision in `put_if`.
    pub event: Option<EventId>,
}

/// The nearest durable event above an event in its chain of causes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Ancestor {
    /// None: the event is an input.
    #[default]
    None,
    /// It is in the journal already.
    Seq(Seq),
    /// It is the event of this index in the same step (a smaller index than the event's own).
    InStep(u32),
}

/// A durable event on its way into the journal.
#[derive(Debug, Clone)]
pub struct NewEvent {
    /// The event; its payload has been encoded and measured.
    pub event: Arc<Event>,
    /// The durable event that led to it.
    pub ancestor: Ancestor,
    /// For a team's own input: its cursor when the input was taken.
    pub seen: Option<Seq>,
}

/// What a team decided on one or more consecutive inputs, committed together or not at all.
#[derive(Debug, Clone)]
pub struct Step {
    /// The team.
    pub team: Name,
    /// The incarnation that made it; only the newest is accepted.
    pub epoch: u64,
    /// 1, 2, 3 … per team, across epochs; accepted only after its predecessor.
    pub number: u64,
    /// How far the team has taken what it subscribes to.
    pub cursor: Seq,
    /// Durable events, in the order in which they enter the journal.
    pub events: Vec<NewEvent>,
    /// Facts; the last write of a key wins.
    pub facts: Vec<FactWrite>,
    /// What the acknowledgement must promise.
    pub level: Level,
}

/// A caller's publish: a step without a turn.
#[derive(Debug, Clone)]
pub struct Publish {
    /// Durable events, in order.
    pub events: Vec<NewEvent>,
    /// Idempotency key: (caller, key). A second publish with the same key changes nothing and is answered
    /// with the seq of the first.
    pub key: Option<(Name, String)>,
    /// A condition on shared memory, checked at the commit: the key, and the id of the event that wrote it
    /// last (`None`: it must not exist).
    pub expect: Option<(String, Option<EventId>)>,
    /// Facts; the last write of a key wins.
    pub facts: Vec<FactWrite>,
    /// What the acknowledgement must promise.
    pub level: Level,
}

/// A columnar block of a series: opaque bytes, decoded by who wrote them. Unique by (series, start).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// The series.
    pub series: Name,
    /// The aligned start of the block's span, in the series' own unit.
    pub start: i64,
    /// How many rows are inside.
    pub rows: u32,
    /// The bytes.
    pub data: Arc<[u8]>,
}
