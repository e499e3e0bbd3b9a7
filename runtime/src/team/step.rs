//! The open step: what a team decided since its last one; and sending it.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};

use atra_bus::{Event, Name, Seq};
use atra_storage::{
    Ancestor, FactKind, FactWrite, Level, NewEvent, Receipt, Rejected, Step, Storage, TeamRow, event_bytes,
    new_event_bytes,
};

/// What a team decided on the inputs since its last step.
#[derive(Debug, Default)]
pub(crate) struct OpenStep {
    pub(crate) inputs: usize,
    /// The input of a step that has one.
    pub(crate) first: Option<Arc<Event>>,
    pub(crate) bytes: usize,
    pub(crate) turns: u64,
    pub(crate) dead_letters: u64,
    pub(crate) events: Vec<NewEvent>,
    /// Passing events that somebody observes; handed out after the commit.
    pub(crate) passing: Vec<Arc<Event>>,
    pub(crate) facts: Vec<FactWrite>,
    /// (member, partition) → offset behind the last settled input.
    pub(crate) offsets: BTreeMap<(usize, Arc<str>), String>,
}

impl OpenStep {
    /// Adds a durable event; answers what its effects name as their ancestor.
    pub(crate) fn push(&mut self, event: Arc<Event>, ancestor: Ancestor, seen: Option<Seq>) -> Ancestor {
        // Encoded and measured at the publish; an encoding that failed was refused there.
        self.bytes += event.payload.json().map_or(0, |json| new_event_bytes(json, &event.topic));
        self.events.push(NewEvent { event, ancestor, seen });
        Ancestor::InStep(self.events.len() as u32 - 1)
    }

    /// What its rows count, once all of them are here; `bytes` is no less, and counts some facts twice.
    pub(crate) fn row_bytes(&self) -> usize {
        let events = self
            .events
            .iter()
            .map(|new| new.event.payload.check().map_or(0, |bytes| event_bytes(bytes, &new.event.topic)));
        events.sum::<usize>() + self.facts.iter().map(FactWrite::bytes).sum::<usize>()
    }

    pub(crate) fn fact(&mut self, kind: FactKind, owner: &Name, key: impl Into<String>, value: Option<Arc<str>>) {
        let fact = FactWrite { kind, owner: owner.clone(), key: key.into(), value };
        self.bytes += fact.bytes();
        self.facts.push(fact);
    }
}

/// Numbers a team's steps and hands them to the storage actor. Shared by the executor and the effect
/// ledger of an acting agent, which never send at the same time.
pub(crate) struct StepSender {
    storage: Storage,
    team: Name,
    epoch: u64,
    /// The last number given out.
    number: AtomicU64,
    /// The cursor of the last step.
    cursor: AtomicU64,
    level: Level,
    /// The first refusal of a fact that a turn wanted written: not the event's fault, whatever the turn made
    /// of it.
    refused: OnceLock<Rejected>,
}

impl StepSender {
    pub(crate) fn new(storage: Storage, row: &TeamRow, level: Level) -> Self {
        Self {
            storage,
            team: row.team.clone(),
            epoch: row.epoch,
            number: AtomicU64::new(row.number),
            cursor: AtomicU64::new(row.cursor.get()),
            level,
            refused: OnceLock::new(),
        }
    }

    /// Hands over a step. Waits for room in the queue, not for the commit.
    ///
    /// Not cancel safe: a dropped call may have used up a number, after which only a new epoch can write.
    pub(crate) async fn send(
        &self,
        cursor: Seq,
        events: Vec<NewEvent>,
        facts: Vec<FactWrite>,
    ) -> Result<Receipt, Rejected> {
        // Relaxed: one sender at a time; the executor's own awaits order them.
        let number = self.number.fetch_add(1, Ordering::Relaxed) + 1;
        self.cursor.store(cursor.get(), Ordering::Relaxed);
        let (team, epoch, level) = (self.team.clone(), self.epoch, self.level);
        self.storage.submit(Step { team, epoch, number, cursor, events, facts, level }).await
    }

    /// Commits facts alone, at the cursor of the last step, and waits for it.
    pub(crate) async fn send_facts(&self, facts: Vec<FactWrite>) -> Result<(), Rejected> {
        let cursor = Seq(self.cursor.load(Ordering::Relaxed));
        let sent = async { self.send(cursor, Vec::new(), facts).await?.await.map(|_| ()) }.await;
        sent.inspect_err(|rejected| {
            // Only the first counts; later ones follow from it.
            let _ = self.refused.set(rejected.clone());
        })
    }

    /// The refusal that a turn met, if it met one: the team cannot go on with this epoch.
    pub(crate) fn refused(&self) -> Option<Rejected> {
        self.refused.get().cloned()
    }

    /// The cursor of the last step.
    pub(crate) fn cursor(&self) -> Seq {
        Seq(self.cursor.load(Ordering::Relaxed))
    }
}
