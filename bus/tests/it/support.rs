//! Fixtures: a journal in memory, events, a seeded generator.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use async_trait::async_trait;
use atra_bus::{
    Batch, Bus, BusOptions, Committed, Event, EventId, Filter, Interest, Journal, JournalError, Name, Page, Payload,
    Seq, Subscription, Timestamp, Topic,
};

/// A small generator: the same numbers for the same seed.
pub(crate) struct Draw(u64);

impl Draw {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// A number below `n`.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % n
    }
}

/// A journal in memory. It yields a few times before it answers, so that everything else can move while a
/// read is under way, and fails when told to.
#[derive(Default)]
pub(crate) struct MemoryJournal {
    rows: Mutex<Vec<Committed>>,
    pub(crate) yields_max: u64,
    pub(crate) reads: AtomicU64,
    pub(crate) failing: AtomicBool,
}

#[async_trait]
impl Journal for MemoryJournal {
    async fn read(&self, after: Seq, upto: Seq, interest: &Interest, limit: usize) -> Result<Page, JournalError> {
        let n = self.reads.fetch_add(1, Ordering::Relaxed);
        for _ in 0..n.wrapping_mul(7) % (self.yields_max + 1) {
            tokio::task::yield_now().await;
        }
        if self.failing.load(Ordering::Relaxed) {
            return Err(JournalError { after, cause: "told to fail".into(), retryable: true, pruned: None });
        }
        let mut page = Page { events: Vec::new(), upto };
        {
            let rows = self.rows.lock().unwrap();
            assert!(after < upto && upto.get() as usize <= rows.len(), "read of ({after}, {upto}] of {}", rows.len());
            for row in &rows[after.get() as usize..upto.get() as usize] {
                if interest.wants(row.event.topic.as_str(), &row.event.source) {
                    page.events.push(row.clone());
                    if page.events.len() == limit {
                        page.upto = row.seq;
                        break;
                    }
                }
            }
        }
        // The rows were read; until they are handed over, more may be released.
        for _ in 0..n % (self.yields_max + 1) {
            tokio::task::yield_now().await;
        }
        Ok(page)
    }
}

/// A bus on a journal in memory, and the place of the next event.
pub(crate) struct Fixture {
    pub(crate) bus: Bus,
    pub(crate) journal: Arc<MemoryJournal>,
    next: u64,
}

impl Fixture {
    pub(crate) fn new(queue_events_max: usize) -> Self {
        Self::with(queue_events_max, 3, 4)
    }

    pub(crate) fn with(queue_events_max: usize, yields_max: u64, page_events_max: usize) -> Self {
        Self::on(BusOptions { queue_events_max, page_events_max, ..BusOptions::default() }, yields_max)
    }

    pub(crate) fn on(options: BusOptions, yields_max: u64) -> Self {
        let journal = Arc::new(MemoryJournal { yields_max, ..MemoryJournal::default() });
        Self { bus: Bus::new(options, journal.clone()), journal, next: 1 }
    }

    /// Commits `events` (topic, source) to the journal as one batch, without releasing it.
    pub(crate) fn commit(&mut self, events: &[(&str, &str)]) -> Arc<Batch> {
        let events: Vec<Committed> = events
            .iter()
            .map(|(topic, source)| {
                let seq = Seq(self.next);
                self.next += 1;
                Committed { seq, event: event(topic, source, true), cause_seq: None, seen: None }
            })
            .collect();
        self.journal.rows.lock().unwrap().extend(events.iter().cloned());
        Arc::new(Batch { events })
    }

    /// Commits `events` and releases them.
    pub(crate) fn release(&mut self, events: &[(&str, &str)]) {
        let batch = self.commit(events);
        self.bus.release(&batch);
    }

    /// The seqs above `after` that `interest` wants of what was committed.
    pub(crate) fn wanted(&self, interest: &Interest, after: u64) -> Vec<u64> {
        let rows = self.journal.rows.lock().unwrap();
        rows.iter()
            .filter(|row| row.seq.get() > after && interest.wants(row.event.topic.as_str(), &row.event.source))
            .map(|row| row.seq.get())
            .collect()
    }

    pub(crate) fn reads(&self) -> u64 {
        self.journal.reads.load(Ordering::Relaxed)
    }
}

pub(crate) fn event(topic: &str, source: &str, durable: bool) -> Arc<Event> {
    let source = Name::new(source).unwrap();
    let id = EventId::of(&source, topic);
    Arc::new(Event {
        id,
        topic: Topic::new(topic).unwrap(),
        version: 1,
        durable,
        source,
        time: Timestamp(0),
        cause: None,
        root: id,
        hops: 0,
        payload: Payload::from_journal("1".into()),
    })
}

pub(crate) fn interest(filters: &[&str]) -> Interest {
    Interest::in_topics(filters.iter().map(|text| Filter::new(text).unwrap()).collect())
}

pub(crate) fn interest_except(filters: &[&str], except: &[&str]) -> Interest {
    Interest { except: except.iter().map(|name| Name::new(name).unwrap()).collect(), ..interest(filters) }
}

/// Reads until the stream ends.
pub(crate) async fn read_all(subscription: &mut Subscription) -> Vec<u64> {
    let mut seqs = Vec::new();
    while let Some(event) = subscription.next().await {
        seqs.push(event.unwrap().seq.get());
    }
    seqs
}

/// Reads until the stream ends, by `ready` and `take_ready` with at most `max` at a time.
pub(crate) async fn take_all(subscription: &mut Subscription, max: usize) -> Vec<u64> {
    let mut seqs = Vec::new();
    let mut taken = VecDeque::new();
    while subscription.ready().await {
        let n = subscription.take_ready(&mut taken, max);
        assert!(n == taken.len() && (1..=max).contains(&n), "ready, but {n} of at most {max} taken");
        seqs.extend(taken.drain(..).map(|event| event.seq.get()));
    }
    seqs
}
