//! What the model store keeps of an event: what a row of SQLite has, and nothing of the value that it was made of.
//!
//! A long simulation is millions of events. What lies here is a third of what they are while they are handed out, whose
//! memory is used again; and it lies in pieces, so that nothing is moved when it grows.

use std::sync::Arc;

use atra_bus::{Committed, Event, EventId, Name, Payload, Seq, Timestamp, Topic};
use rustc_hash::FxHashMap;

/// Events in a piece of the journal.
const PIECE: usize = 1_024;
/// Topics, and names, that are shared between events: more than a simulated crowd has. Above it the list is begun anew.
const WORDS_MAX: usize = 65_536;
/// Bytes of a text that lie where it is: as many as take no more room than to point at them.
const SHORT_MAX: usize = 22;
/// An event that names no position. Zero is one: nothing had been taken.
const UNSEEN: u64 = u64::MAX;

/// An event as it lies here.
#[derive(Debug)]
struct Row {
    id: EventId,
    root: EventId,
    cause: Option<EventId>,
    time: Timestamp,
    /// Zero: none.
    cause_seq: u64,
    /// [`UNSEEN`]: none.
    seen: u64,
    payload: Text,
    /// Its place in the journal's list of topics.
    topic: u32,
    /// Its place in the journal's list of sources.
    source: u32,
    version: u16,
    hops: u16,
}

/// A text that lies where it is if it is short.
#[derive(Debug)]
pub(crate) enum Text {
    Short(u8, [u8; SHORT_MAX]),
    Long(Arc<str>),
}

impl Text {
    pub(crate) fn new(text: &Arc<str>) -> Self {
        Self::short(text).unwrap_or_else(|| Self::Long(Arc::clone(text)))
    }

    pub(crate) fn of(text: &str) -> Self {
        Self::short(text).unwrap_or_else(|| Self::Long(text.into()))
    }

    fn short(text: &str) -> Option<Self> {
        let mut short = [0; SHORT_MAX];
        short.get_mut(..text.len())?.copy_from_slice(text.as_bytes());
        Some(Self::Short(text.len() as u8, short))
    }

    pub(crate) fn as_str(&self) -> &str {
        match self {
            // It was a text when it was copied.
            Self::Short(len, bytes) => std::str::from_utf8(&bytes[..usize::from(*len)]).unwrap_or_default(),
            Self::Long(text) => text,
        }
    }

    pub(crate) fn shared(&self) -> Arc<str> {
        match self {
            Self::Short(..) => self.as_str().into(),
            Self::Long(text) => Arc::clone(text),
        }
    }
}

/// An event of the model's journal, as it is looked at.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Kept<'a> {
    pub(crate) seq: Seq,
    pub(crate) topic: &'a Topic,
    pub(crate) source: &'a Name,
    row: &'a Row,
}

impl<'a> Kept<'a> {
    pub(crate) fn id(&self) -> EventId {
        self.row.id
    }

    pub(crate) fn json(&self) -> &'a str {
        self.row.payload.as_str()
    }

    pub(crate) fn cause_seq(&self) -> Option<Seq> {
        (self.row.cause_seq > 0).then_some(Seq(self.row.cause_seq))
    }

    /// The event as it comes back from a store: its payload is JSON text.
    pub(crate) fn committed(&self) -> Committed {
        let Row { id, root, cause, time, seen, payload, version, hops, .. } = self.row;
        let event = Event {
            id: *id,
            topic: self.topic.clone(),
            version: *version,
            // Else it would not be in a journal.
            durable: true,
            source: self.source.clone(),
            time: *time,
            cause: *cause,
            root: *root,
            hops: *hops,
            payload: Payload::from_journal(payload.shared()),
        };
        let seen = (*seen != UNSEEN).then_some(Seq(*seen));
        Committed { seq: self.seq, event: Arc::new(event), cause_seq: self.cause_seq(), seen }
    }
}

/// Words that many events share, each once.
#[derive(Debug)]
struct Words<T> {
    list: Vec<T>,
    places: FxHashMap<T, u32>,
    /// The one that was asked for last: most come several times in a row.
    last: u32,
}

impl<T> Default for Words<T> {
    fn default() -> Self {
        Self { list: Vec::new(), places: FxHashMap::default(), last: 0 }
    }
}

impl<T: Clone + Eq + std::hash::Hash> Words<T> {
    fn place(&mut self, word: &T) -> u32 {
        if self.list.get(self.last as usize) != Some(word) {
            self.last = self.find(word);
        }
        self.last
    }

    fn find(&mut self, word: &T) -> u32 {
        if let Some(place) = self.places.get(word) {
            return *place;
        }
        if self.places.len() == WORDS_MAX {
            self.places.clear();
        }
        let place = self.list.len() as u32;
        self.list.push(word.clone());
        self.places.insert(word.clone(), place);
        place
    }
}

/// Seq n at place n − 1; `None` when it was pruned.
#[derive(Debug, Default)]
pub(crate) struct Journal {
    pieces: Vec<Vec<Option<Row>>>,
    topics: Words<Topic>,
    sources: Words<Name>,
}

impl Journal {
    pub(crate) fn len(&self) -> usize {
        self.pieces.last().map_or(0, |last| (self.pieces.len() - 1) * PIECE + last.len())
    }

    pub(crate) fn push(&mut self, committed: &Committed) {
        let event = &*committed.event;
        let row = Row {
            id: event.id,
            root: event.root,
            cause: event.cause,
            time: event.time,
            cause_seq: committed.cause_seq.map_or(0, Seq::get),
            seen: committed.seen.map_or(UNSEEN, Seq::get),
            // Checked before it was taken.
            payload: event.payload.shared_json().map_or_else(|_| Text::of("null"), Text::new),
            topic: self.topics.place(&event.topic),
            source: self.sources.place(&event.source),
            version: event.version,
            hops: event.hops,
        };
        if self.pieces.last().is_none_or(|last| last.len() == PIECE) {
            self.pieces.push(Vec::with_capacity(PIECE));
        }
        if let Some(last) = self.pieces.last_mut() {
            last.push(Some(row));
        }
    }

    /// Leaves the first `n`.
    pub(crate) fn truncate(&mut self, n: usize) {
        self.pieces.truncate(n.div_ceil(PIECE));
        if let Some(last) = self.pieces.last_mut() {
            last.truncate(n - (n - 1) / PIECE * PIECE);
        }
    }

    pub(crate) fn get(&self, place: usize) -> Option<Kept<'_>> {
        let row = self.pieces.get(place / PIECE)?.get(place % PIECE)?.as_ref()?;
        let (topic, source) = (&self.topics.list[row.topic as usize], &self.sources.list[row.source as usize]);
        Some(Kept { seq: Seq(place as u64 + 1), topic, source, row })
    }

    /// What is left of the first `n`, in order.
    pub(crate) fn first(&self, n: usize) -> impl DoubleEndedIterator<Item = Kept<'_>> {
        (0..n.min(self.len())).filter_map(|place| self.get(place))
    }

    /// Leaves of the first `n` those that are wanted.
    pub(crate) fn retain(&mut self, n: usize, is_wanted: impl Fn(&Kept<'_>) -> bool) {
        for place in 0..n.min(self.len()) {
            if self.get(place).is_some_and(|kept| !is_wanted(&kept)) {
                self.pieces[place / PIECE][place % PIECE] = None;
            }
        }
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
        let (kept, original) = (journal.get(4).map(|kept| kept.committed()).expect("it is there"), event(5));
        assert_eq!(kept.event.payload.json().ok(), Some("5"));
        let fields = |event: &Event| Event { payload: Payload::from_journal("5".into()), ..event.clone() };
        assert_eq!(format!("{:?}", fields(&kept.event)), format!("{:?}", fields(&original.event)));
        assert_eq!((kept.seq, kept.cause_seq, kept.seen), (original.seq, original.cause_seq, original.seen));
        assert!(journal.get(most as usize).is_none());
    }
}
