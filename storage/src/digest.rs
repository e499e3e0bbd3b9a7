//! The digest: what two runs must agree on, as one hash.
//!
//! It covers, per publisher by name, its durable events in its order (id, topic, version, time, cause,
//! payload); then memory, state, offsets and timers, each sorted by key; then dead letters by (agent,
//! event). Left out is what may differ between two runs that decided the same: seqs, `seen`, causes as seqs,
//! epochs, step numbers, cursors, attempt marks, the runtime's own marks, idempotency keys, recorded
//! results, state under keys that begin with `~`, and all events on `sys.` topics.

use std::collections::BTreeMap;

use atra_bus::{Event, Filter, Interest, Name, topic::SYSTEM_ROOT};
use serde::Serialize;

use crate::{FactKind, FactRow, Read, StoreError};

/// Events read at once. 8,192: a few megabytes, and the price of a page is spread.
const PAGE_EVENTS: usize = 8_192;

/// Bytes of a publisher's events that are hashed at once; BLAKE3 is several times faster on long inputs.
const HASHED_BYTES: usize = 64 << 10;

/// Publishers whose buffers are kept from page to page. 64: four megabytes.
const BUFFERS_MAX: usize = 64;

/// Facts read at once. 1,024: the price of a page is spread.
const PAGE_FACTS: usize = 1_024;

/// What the digest holds of facts, in this order.
const FACT_KINDS: [FactKind; 4] = [FactKind::Memory, FactKind::State, FactKind::Offset, FactKind::Timer];

/// State under keys with this prefix is left out: agents' counts for reports. The counts follow from the events, and a
/// build with more counts makes the same decisions.
const COUNTED_PREFIX: &str = "~";

/// The digest of a store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Digest {
    /// Over everything, as 64 hexadecimal digits.
    pub whole: String,
    /// Per publisher, sorted by name: the hash of its events and how many they are.
    pub publishers: Vec<(Name, String, u64)>,
}

impl Digest {
    /// The hash and the number of a publisher's events.
    #[must_use]
    pub fn publisher(&self, name: &Name) -> Option<(&str, u64)> {
        let (_, hash, n_events) = self.publishers.iter().find(|(publisher, ..)| publisher == name)?;
        Some((hash, *n_events))
    }
}

/// Hashes everything that two equal runs have in common. Of a store that is being written, the events are
/// those up to the last seq at the call, and the facts those of a moment later.
///
/// # Cancel safety
/// Reads only.
///
/// # Errors
/// What the reads say.
pub async fn digest(read: &dyn Read) -> Result<Digest, StoreError> {
    digest_with_progress(read, |_, _| {}).await
}

/// As [`digest`]; calls `tell` after each page with the number of hashed events and the total.
///
/// # Cancel safety
/// Reads only.
///
/// # Errors
/// What the reads say.
pub async fn digest_with_progress(read: &dyn Read, tell: impl FnMut(u64, u64) + Send) -> Result<Digest, StoreError> {
    let streams = publishers(read, |_| true, tell).await?;
    let mut whole = blake3::Hasher::new();
    let mut buffer = Vec::new();
    let mut publishers = Vec::with_capacity(streams.len());
    for (name, stream) in streams {
        let (hash, n_events) = stream.finish();
        put(&mut buffer, name.as_str().as_bytes());
        put(&mut buffer, hash.as_bytes());
        buffer.extend(n_events.to_le_bytes());
        publishers.push((name, hash.to_hex().to_string(), n_events));
    }
    for kind in FACT_KINDS {
        buffer.push(kind as u8);
        let n_left_out = if kind == FactKind::State { counted(read).await? } else { 0 };
        buffer.extend(read.count_facts(kind, None).await?.saturating_sub(n_left_out).to_le_bytes());
        each_fact(read, kind, |fact| {
            if kind == FactKind::State && fact.key.starts_with(COUNTED_PREFIX) {
                return;
            }
            put(&mut buffer, fact.owner.as_str().as_bytes());
            put(&mut buffer, fact.key.as_bytes());
            put(&mut buffer, fact.value.as_deref().unwrap_or_default().as_bytes());
            hash_full(&mut whole, &mut buffer);
        })
        .await?;
    }
    buffer.push(FactKind::DeadLetter as u8);
    each_fact(read, FactKind::DeadLetter, |letter| {
        // Their values tell of attempts and errors, which may differ.
        put(&mut buffer, letter.owner.as_str().as_bytes());
        put(&mut buffer, letter.key.as_bytes());
        hash_full(&mut whole, &mut buffer);
    })
    .await?;
    whole.update(&buffer);
    Ok(Digest { whole: whole.finalize().to_hex().to_string(), publishers })
}

/// The number of state entries that are left out.
async fn counted(read: &dyn Read) -> Result<u64, StoreError> {
    let mut n = 0;
    for owner in read.fact_owners(FactKind::State).await? {
        let mut from = Some(COUNTED_PREFIX.to_owned());
        while let Some(key) = from {
            let page = read.facts_page(FactKind::State, &owner, &key, PAGE_FACTS).await?;
            n += page.facts.iter().filter(|fact| fact.key.starts_with(COUNTED_PREFIX)).count() as u64;
            from = page.next.filter(|next| next.starts_with(COUNTED_PREFIX));
        }
    }
    Ok(n)
}

/// Hashes one publisher's events: the hash as hexadecimal digits, and their number.
///
/// # Cancel safety
/// Reads only.
///
/// # Errors
/// What the reads say.
pub async fn digest_of_publisher(read: &dyn Read, name: &Name) -> Result<(String, u64), StoreError> {
    let mut streams = publishers(read, |publisher| publisher == name, |_, _| {}).await?;
    let (hash, n_events) = streams.remove(name).unwrap_or_default().finish();
    Ok((hash.to_hex().to_string(), n_events))
}

/// Takes every fact of a kind, page by page: sorted by (owner, key), or memory, whose owner is only who wrote last, by
/// key alone.
async fn each_fact(read: &dyn Read, kind: FactKind, mut take: impl FnMut(&FactRow)) -> Result<(), StoreError> {
    let owners = match kind {
        FactKind::Memory => vec![None],
        _ => read.fact_owners(kind).await?.into_iter().map(Some).collect(),
    };
    for owner in owners {
        let mut from = Some(String::new());
        while let Some(key) = from {
            let page = match &owner {
                Some(owner) => read.facts_page(kind, owner, &key, PAGE_FACTS).await?,
                None => read.memory_page(&key, PAGE_FACTS).await?,
            };
            page.facts.iter().for_each(&mut take);
            from = page.next;
        }
    }
    Ok(())
}

fn hash_full(hasher: &mut blake3::Hasher, buffer: &mut Vec<u8>) {
    if buffer.len() >= HASHED_BYTES {
        hasher.update(buffer);
        buffer.clear();
    }
}

/// A publisher's events on their way into a hash.
#[derive(Default)]
struct Stream {
    hasher: blake3::Hasher,
    buffer: Vec<u8>,
    n_events: u64,
}

impl Stream {
    fn add(&mut self, event: &Event) -> Result<(), StoreError> {
        let json = event.payload.json().map_err(|error| StoreError::Invalid(error.to_string()))?;
        let buffer = &mut self.buffer;
        buffer.extend(event.id.as_bytes());
        put(buffer, event.topic.as_str().as_bytes());
        buffer.extend(event.version.to_le_bytes());
        buffer.extend(event.time.millis().to_le_bytes());
        match &event.cause {
            Some(cause) => put(buffer, cause.as_bytes()),
            None => put(buffer, &[]),
        }
        put(buffer, json.as_bytes());
        self.n_events += 1;
        hash_full(&mut self.hasher, buffer);
        Ok(())
    }

    /// Keeps no buffer: there may be many publishers.
    fn rest(&mut self) {
        self.hasher.update(&std::mem::take(&mut self.buffer));
    }

    fn finish(mut self) -> (blake3::Hash, u64) {
        self.hasher.update(&self.buffer);
        (self.hasher.finalize(), self.n_events)
    }
}

async fn publishers(
    read: &dyn Read,
    is_wanted: impl Fn(&Name) -> bool,
    mut tell: impl FnMut(u64, u64),
) -> Result<BTreeMap<Name, Stream>, StoreError> {
    let all = Interest::in_topics(vec![Filter::all()]);
    let last = read.last_seq().await?;
    let mut streams: BTreeMap<Name, Stream> = BTreeMap::new();
    // What was pruned is not part of it: two files are compared from the same floor on.
    let floor = read.floor().await?;
    let mut at = floor;
    while at < last {
        tell(at.get() - floor.get(), last.get() - floor.get());
        let (events, upto) = read.journal(at, last, &all, PAGE_EVENTS).await?;
        if upto <= at {
            return Err(StoreError::Invalid(format!("journal read does not get beyond seq {at}")));
        }
        at = upto;
        for committed in &events {
            let event = &committed.event;
            if event.topic.as_str().starts_with(SYSTEM_ROOT) || !is_wanted(&event.source) {
                continue;
            }
            // Looked up by reference first: a clone of the name for every event would cost more.
            match streams.get_mut(&event.source) {
                Some(stream) => stream.add(event)?,
                None => streams.entry(event.source.clone()).or_default().add(event)?,
            }
        }
        if streams.len() > BUFFERS_MAX {
            streams.values_mut().for_each(Stream::rest);
        }
    }
    Ok(streams)
}

/// Length and bytes, so that no two different lists of fields look the same.
fn put(buffer: &mut Vec<u8>, bytes: &[u8]) {
    buffer.extend((bytes.len() as u64).to_le_bytes());
    buffer.extend(bytes);
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use atra_bus::{Committed, EventId, Seq, Timestamp};

    use super::*;
    use crate::{
        MemoryStore, Store, TeamMove, TeamRow, WriteBatch,
        conformance::{event, name},
    };

    /// (source, topic, payload, order) of events in journal order.
    type Written<'a> = &'a [(&'a str, &'a str, &'a str, u64)];

    async fn digest_of(events: Written<'_>, facts: &[(FactKind, &str, &str, u64)]) -> Digest {
        let mut store = MemoryStore::new();
        let events = events.iter().zip(1..).map(|((source, topic, json, order), seq)| Committed {
            seq: Seq(seq),
            event: event(source, topic, json, *order),
            cause_seq: None,
            seen: Some(Seq(seq - 1)),
        });
        let facts = facts.iter().map(|(kind, key, value, version)| FactRow {
            kind: *kind,
            owner: name("a"),
            key: (*key).into(),
            value: Some((*value).into()),
            version: Seq(*version),
            event: None,
        });
        let batch = WriteBatch { events: events.collect(), facts: facts.collect(), ..WriteBatch::default() };
        store.commit(&batch).await.expect("committed");
        digest(store.reader().as_ref()).await.expect("a digest")
    }

    #[tokio::test]
    async fn it_does_not_depend_on_how_publishers_interleave() {
        let one = digest_of(&[("a", "x", "1", 1), ("a", "x", "2", 2), ("b", "y", "3", 1)], &[]).await;
        let two = digest_of(&[("b", "y", "3", 1), ("a", "x", "1", 1), ("a", "x", "2", 2)], &[]).await;
        assert_eq!(one, two);
        let swapped = digest_of(&[("b", "y", "3", 1), ("a", "x", "2", 2), ("a", "x", "1", 1)], &[]).await;
        assert_ne!(one.whole, swapped.whole, "a publisher's own order counts");
        assert_eq!(one.publisher(&name("b")), swapped.publisher(&name("b")));
        assert_eq!(
            one.publishers.iter().map(|(name, _, n)| (name.as_str(), *n)).collect::<Vec<_>>(),
            [("a", 2), ("b", 1)]
        );
    }

    #[tokio::test]
    async fn it_depends_on_every_field_that_two_equal_runs_share() {
        let base = digest_of(&[("a", "x", "1", 1)], &[(FactKind::State, "k", "1", 1)]).await;
        let events: [Written<'_>; 4] =
            [&[("b", "x", "1", 1)], &[("a", "y", "1", 1)], &[("a", "x", "2", 1)], &[("a", "x", "1", 2)]];
        for events in events {
            assert_ne!(digest_of(events, &[(FactKind::State, "k", "1", 1)]).await.whole, base.whole, "{events:?}");
        }
        for fact in [(FactKind::Timer, "k", "1", 1), (FactKind::State, "l", "1", 1), (FactKind::State, "k", "2", 1)] {
            assert_ne!(digest_of(&[("a", "x", "1", 1)], &[fact]).await.whole, base.whole, "{fact:?}");
        }
    }

    #[tokio::test]
    async fn it_depends_on_id_time_cause_and_version_of_an_event() {
        let of = async |change: fn(&mut Event)| {
            let mut store = MemoryStore::new();
            let mut changed = (*event("a", "x", "1", 1)).clone();
            change(&mut changed);
            let committed = Committed { seq: Seq(1), event: Arc::new(changed), cause_seq: None, seen: None };
            let batch = WriteBatch { events: vec![committed], ..WriteBatch::default() };
            store.commit(&batch).await.expect("committed");
            digest(store.reader().as_ref()).await.expect("a digest").whole
        };
        let base = of(|_| {}).await;
        assert_eq!(of(|_| {}).await, base);
        let changes: [fn(&mut Event); 4] = [
            |event| event.id = EventId::from_bits(7),
            |event| event.time = Timestamp(7),
            |event| event.cause = Some(EventId::from_bits(7)),
            |event| event.version = 7,
        ];
        for (place, change) in changes.into_iter().enumerate() {
            assert_ne!(of(change).await, base, "change {place}");
        }
    }

    #[tokio::test]
    async fn it_leaves_out_what_may_differ() {
        let base = digest_of(&[("a", "x", "1", 1)], &[(FactKind::State, "k", "1", 1)]).await;
        let events: Written<'_> = &[("r", "sys.team.started", "9", 7), ("a", "x", "1", 1)];
        let facts = [
            (FactKind::State, "k", "1", 99),
            (FactKind::Attempt, "k", "1", 1),
            (FactKind::Meta, "k", "1", 1),
            (FactKind::Key, "k", "1", 1),
            (FactKind::State, "~totals", "1", 1),
        ];
        assert_eq!(digest_of(events, &facts).await, base);
    }

    #[tokio::test]
    async fn one_publisher_has_the_same_hash_alone() {
        let mut store = MemoryStore::new();
        let events = (1..=3).map(|n| Committed {
            seq: Seq(n),
            event: event(if n == 2 { "b" } else { "a" }, "x", "1", n),
            cause_seq: None,
            seen: None,
        });
        let to = TeamRow { team: name("t"), epoch: 1, number: 1, cursor: Seq(3) };
        let batch =
            WriteBatch { events: events.collect(), teams: vec![TeamMove { from: None, to }], ..WriteBatch::default() };
        store.commit(&batch).await.expect("committed");
        let reader = store.reader();
        let whole = digest(reader.as_ref()).await.expect("a digest");
        let alone = digest_of_publisher(reader.as_ref(), &name("a")).await.expect("a digest");
        assert_eq!(whole.publisher(&name("a")), Some((alone.0.as_str(), 2)));
        assert_eq!(digest_of_publisher(reader.as_ref(), &name("never")).await.expect("a digest").1, 0);
    }
}
