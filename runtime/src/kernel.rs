//! What all parts of one running runtime share.

use std::{collections::BTreeMap, ops::Bound, sync::Arc};

use async_trait::async_trait;
use atra_bus::{Batch, Bus, Env, Event, EventId, Interest, Journal, JournalError, Name, Page, Seq, Topic};
use atra_storage::{
    Ancestor, FactKind, FactWrite, Level, NewEvent, Publish, Read, Rejected, Release, Storage, StoreError,
};
use rustc_hash::FxHashSet;
use serde_json::Value;

use crate::{AgentSpec, ClockLimits, life::Life, memory::SharedMemory};

/// Handles on everything that a team or a caller needs.
pub(crate) struct Kernel {
    pub(crate) env: Arc<dyn Env>,
    pub(crate) clock: ClockLimits,
    pub(crate) storage: Storage,
    pub(crate) reader: Arc<dyn Read>,
    pub(crate) bus: Bus,
    pub(crate) memory: SharedMemory,
    /// The owners of memory, by prefix; no prefix begins with another one.
    pub(crate) owners: BTreeMap<String, Name>,
    /// The names of all agents.
    pub(crate) agents: Arc<FxHashSet<Name>>,
    /// The greatest payload of a caller's event: what the most generous team takes.
    pub(crate) event_bytes_max: usize,
    pub(crate) level: Level,
    /// The publisher of `sys.*` events, and the owner of the runtime's own facts.
    pub(crate) name: Name,
    /// Whether the runtime works.
    pub(crate) life: Life,
    /// Whether the process before this one did not stop cleanly.
    pub(crate) unclean: bool,
    /// The configuration in force, recorded at a team's first start in the process and at each ordered restart.
    pub(crate) config: Value,
}

impl Kernel {
    /// The agent that owns a memory key.
    pub(crate) fn owner_of(&self, key: &str) -> Option<&Name> {
        // Every key between a prefix and a key with that prefix also has the prefix, so no other owner is between them.
        let upto = (Bound::Unbounded, Bound::Included(key));
        self.owners
            .range::<str, _>(upto)
            .next_back()
            .filter(|(prefix, _)| key.starts_with(prefix.as_str()))
            .map(|(_, owner)| owner)
    }

    /// Publishes one of the runtime's own events.
    pub(crate) async fn announce(&self, topic: &str, value: Value) -> Result<(), Rejected> {
        let topic = Topic::new(topic).map_err(|error| Rejected::Invalid(error.to_string()))?;
        let id = self.env.new_id();
        let event = Event {
            id,
            topic,
            version: 1,
            durable: true,
            source: self.name.clone(),
            time: self.env.now(),
            cause: None,
            root: id,
            hops: 0,
            payload: atra_bus::Payload::typed(value),
        };
        self.storage.publish(publish_of(event, self.level)).await.map(|_| ())
    }

    /// Writes (or with `None` removes) a fact of the runtime about `owner`.
    pub(crate) async fn note(&self, owner: &Name, key: &str, value: Option<Value>) -> Result<(), Rejected> {
        let value = value.map(|value| value.to_string().into());
        let fact = FactWrite { kind: FactKind::Meta, owner: owner.clone(), key: key.into(), value };
        self.storage.put_facts(vec![fact], self.level).await.map(|_| ())
    }
}

/// The owners of memory, by prefix, without nested prefixes: by the topology check these have the same owner.
pub(crate) fn owners_of<'a>(specs: impl Iterator<Item = &'a AgentSpec>) -> BTreeMap<String, Name> {
    let all: BTreeMap<&str, &Name> =
        specs.flat_map(|spec| spec.owns.iter().map(|prefix| (prefix.as_str(), &spec.name))).collect();
    let mut owners: BTreeMap<String, Name> = BTreeMap::new();
    for (prefix, owner) in all {
        if owners.last_key_value().is_none_or(|(shorter, _)| !prefix.starts_with(shorter.as_str())) {
            owners.insert(prefix.to_owned(), owner.clone());
        }
    }
    owners
}

/// A publish of one event that nothing led to.
pub(crate) fn publish_of(event: Event, level: Level) -> Publish {
    let event = NewEvent { event: Arc::new(event), ancestor: Ancestor::None, seen: None };
    Publish { events: vec![event], key: None, expect: None, facts: Vec::new(), level }
}

/// An id that belongs to a caller's idempotency key.
pub(crate) fn id_of_key(caller: &Name, key: &str) -> EventId {
    EventId::of_all(caller, &["key", key])
}

/// What happens at every commit, before anybody is answered: memory, then `released`, then the bus.
pub(crate) struct Releaser {
    pub(crate) memory: SharedMemory,
    pub(crate) bus: Bus,
}

impl Release for Releaser {
    fn release(&self, batch: &Arc<Batch>) {
        self.memory.apply(batch);
        if let Some(last) = batch.last_seq() {
            self.memory.set_released(last);
        }
        self.bus.release(batch);
    }
}

/// The journal as subscriptions read it.
pub(crate) struct JournalReader(pub(crate) Arc<dyn Read>);

#[async_trait]
impl Journal for JournalReader {
    async fn read(&self, after: Seq, upto: Seq, interest: &Interest, limit: usize) -> Result<Page, JournalError> {
        match self.0.journal(after, upto, interest, limit).await {
            Ok((events, upto)) => Ok(Page { events, upto }),
            Err(error) => {
                let pruned = if let StoreError::Pruned { floor, .. } = error { Some(floor) } else { None };
                Err(JournalError { after, cause: error.to_string(), retryable: error.is_retryable(), pruned })
            }
        }
    }
}
