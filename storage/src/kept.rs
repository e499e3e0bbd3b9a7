//! What the model store keeps of an event: what a row of SQLite has, and nothing of the value that it was made of.
//!
//! A long simulation is millions of events. What lies here is a third of what they are while they are handed out, whose
//! memory is used again; and it lies in pieces, so that nothing is moved when it grows.

use std::{collections::HashSet, sync::Arc};

use atra_bus::{Committed, Event, EventId, Name, Payload, PayloadError, Seq, Timestamp, Topic};
use rustc_hash::FxBuildHasher;

/// Events in a piece of the journal.
const PIECE: usize = 1_024;
/// Topics that are shared between events: more than a simulated crowd has. Above it the list is begun anew.
const TOPICS_MAX: usize = 65_536;

/// An event of the model's journal.
#[derive(Debug)]
pub(crate) struct Kept {
    pub(crate) seq: Seq,
    pub(crate) event: KeptEvent,
    pub(crate) cause_seq: Option<Seq>,
    pub(crate) seen: Option<Seq>,
}

#[derive(Debug)]
pub(crate) struct KeptEvent {
    pub(crate) id: EventId,
    pub(crate) topic: Topic,
    pub(crate) source: Name,
    pub(crate) time: Timestamp,
    pub(crate) payload: Text,
    root: EventId,
    cause: Option<EventId>,
    version: u16,
    hops: u16,
}

/// A payload's JSON.
#[derive(Debug)]
pub(crate) struct Text(Arc<str>);

impl Text {
    /// Never an error: [`Payload::json`] has been asked.
    pub(crate) fn json(&self) -> Result<&str, PayloadError> {
        Ok(&self.0)
    }
}

impl Kept {
    /// The event as it comes back from a store: its payload is JSON text.
    pub(crate) fn committed(&self) -> Committed {
        let KeptEvent { id, topic, source, time, payload, root, cause, version, hops } = &self.event;
        let event = Event {
            id: *id,
            topic: topic.clone(),
            version: *version,
            // Else it would not be in a journal.
            durable: true,
            source: source.clone(),
            time: *time,
            cause: *cause,
            root: *root,
            hops: *hops,
            payload: Payload::from_json(payload.0.clone()),
        };
        Committed { seq: self.seq, event: Arc::new(event), cause_seq: self.cause_seq, seen: self.seen }
    }
}

/// Seq n at place n − 1; `None` when it was pruned.
#[derive(Debug, Default)]
pub(crate) struct Journal {
    pieces: Vec<Vec<Option<Kept>>>,
    topics: HashSet<Topic, FxBuildHasher>,
}

impl Journal {
    pub(crate) fn len(&self) -> usize {
        self.pieces.last().map_or(0, |last| (self.pieces.len() - 1) * PIECE + last.len())
    }

    pub(crate) fn push(&mut self, committed: &Committed) {
        let event = &*committed.event;
        // Checked before it was taken.
        let json = event.payload.shared_json().cloned().unwrap_or_else(|_| "null".into());
        let kept = KeptEvent {
            id: event.id,
            topic: self.shared(&event.topic),
            source: event.source.clone(),
            time: event.time,
            payload: Text(json),
            root: event.root,
            cause: event.cause,
            version: event.version,
            hops: event.hops,
        };
        let kept = Kept { seq: committed.seq, event: kept, cause_seq: committed.cause_seq, seen: committed.seen };
        if self.pieces.last().is_none_or(|last| last.len() == PIECE) {
            self.pieces.push(Vec::with_capacity(PIECE));
        }
        if let Some(last) = self.pieces.last_mut() {
            last.push(Some(kept));
        }
    }

    /// The same topic, in memory that other events share.
    fn shared(&mut self, topic: &Topic) -> Topic {
        if let Some(known) = self.topics.get(topic.as_str()) {
            return known.clone();
        }
        if self.topics.len() == TOPICS_MAX {
            self.topics.clear();
        }
        self.topics.insert(topic.clone());
        topic.clone()
    }

    /// Leaves the first `n`.
    pub(crate) fn truncate(&mut self, n: usize) {
        self.pieces.truncate(n.div_ceil(PIECE));
        if let Some(last) = self.pieces.last_mut() {
            last.truncate(n - (n - 1) / PIECE * PIECE);
        }
    }

    pub(crate) fn get(&self, place: usize) -> Option<&Kept> {
        self.pieces.get(place / PIECE)?.get(place % PIECE)?.as_ref()
    }

    /// What is left of the first `n`, in order.
    pub(crate) fn first(&self, n: usize) -> impl DoubleEndedIterator<Item = &Kept> {
        (0..n.min(self.len())).filter_map(|place| self.get(place))
    }

    /// The first `n` places.
    pub(crate) fn places(&mut self, n: usize) -> impl Iterator<Item = &mut Option<Kept>> {
        self.pieces.iter_mut().flatten().take(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(n: u64) -> Committed {
        let source = Name::new("a").unwrap_or_else(|error| panic!("{error}"));
        let id = EventId::of(&source, &n.to_string());
        let event = Event {
            id,
            topic: Topic::literal("a.b"),
            version: 3,
            durable: true,
            source,
            time: Timestamp(7),
            cause: (n > 1).then_some(id),
            root: id,
            hops: 2,
            payload: Payload::typed(n),
        };
        Committed { seq: Seq(n), event: Arc::new(event), cause_seq: Some(Seq(1)), seen: None }
    }

    /// Cut anywhere, at the ends of pieces too, it is as long as it was told to be and goes on from there.
    #[test]
    fn it_is_cut_where_it_is_told_and_goes_on() {
        let mut journal = Journal::default();
        let most = 2 * PIECE as u64 + 5;
        for cut in [most, 2 * PIECE as u64 + 1, 2 * PIECE as u64, 2 * PIECE as u64 - 1, PIECE as u64, 1, 0] {
            journal.truncate(cut as usize);
            assert_eq!(journal.len() as u64, cut.min(journal.len() as u64));
            for n in journal.len() as u64 + 1..=most {
                journal.push(&event(n));
            }
            assert_eq!(journal.len() as u64, most);
            let seqs: Vec<u64> = journal.first(most as usize).map(|kept| kept.seq.get()).collect();
            assert!(seqs.iter().copied().eq(1..=most), "cut at {cut}");
        }
        let (kept, original) = (journal.get(4).expect("it is there").committed(), event(5));
        assert_eq!(kept.event.payload.json().ok(), Some("5"));
        let fields = |event: &Event| Event { payload: Payload::from_json("5".into()), ..event.clone() };
        assert_eq!(format!("{:?}", fields(&kept.event)), format!("{:?}", fields(&original.event)));
        assert_eq!((kept.seq, kept.cause_seq, kept.seen), (original.seq, original.cause_seq, original.seen));
        assert!(journal.get(most as usize).is_none());
    }
}
