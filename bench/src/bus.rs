//! The bus: fan-out to seven listeners, and what the interest index costs.
//!
//! Fan-out is event by event: every batch has one event, the worst case for the bus (a commit under load
//! carries hundreds). No side loses anything. "at the reader's pace" means that the publisher stays within
//! the queues' capacity of the slowest listener, as the paced rivals do; "not paced" lets the publisher run
//! ahead and the listeners read what did not fit from a journal in memory.

use std::{
    collections::VecDeque,
    hint::black_box,
    sync::{Arc, RwLock},
    time::Instant,
};

use crate::{
    measure::{Contender, Scale, medians, on_worker, per_second, runtime},
    report::{Case, Reporter, Unit},
    rivals::{self, CAPACITY, Listener, Progress},
};
use async_trait::async_trait;
use atra_bus::{
    Batch, Bus, BusOptions, Committed, Event, EventId, Filter, Interest, Journal, JournalError, Name, Page, Payload,
    Seq, Subscription, Timestamp, Topic,
};

/// How many events are released before the queues are emptied when the index is measured.
const BURST_EVENTS: usize = 2_000;

/// Measures everything about the bus.
pub(crate) fn run(scale: Scale, reporter: &mut Reporter) {
    fan_out(scale, reporter);
    own_topics(scale, reporter);
}

// === fan-out to seven ===

/// How a listener reads its subscription.
#[derive(Clone, Copy)]
enum Reading {
    /// `next`, event by event.
    Next,
    /// `ready` and `take_ready`, as a team does.
    Take,
}

fn fan_out(scale: Scale, reporter: &mut Reporter) {
    let runtime = runtime();
    let events = events(scale.events);
    let journal = Arc::new(MemoryJournal::new(&events));
    let batches: Vec<Arc<Batch>> =
        journal.rows.iter().map(|row| Arc::new(Batch { events: vec![row.clone()] })).collect();
    let atra = |reading, paced| runtime.block_on(on_worker(atra(batches.clone(), journal.clone(), reading, paced)));
    let rival = |events: &Vec<Arc<Event>>| events.clone();
    let mut contenders = [
        Contender::new("fan-out to 7, next()", || atra(Reading::Next, true)),
        Contender::new("fan-out to 7, take_ready()", || atra(Reading::Take, true)),
        Contender::new("fan-out to 7, take_ready(), not paced", || atra(Reading::Take, false)),
        Contender::new("tokio broadcast, paced", || {
            let events = rival(&events);
            runtime.block_on(on_worker(async move { rivals::tokio_broadcast(&events).await }))
        }),
        Contender::new("tokio mpsc x 7", || {
            let events = rival(&events);
            runtime.block_on(on_worker(async move { rivals::tokio_mpsc(&events).await }))
        }),
        Contender::new("kameo 0.22, bounded", || {
            let events = rival(&events);
            runtime.block_on(on_worker(async move { rivals::kameo(&events).await }))
        }),
        Contender::new("ractor 0.16, paced", || {
            let events = rival(&events);
            runtime.block_on(on_worker(async move { rivals::ractor(&events).await }))
        }),
        Contender::new("actix 0.13, paced", || rivals::actix(&events)),
    ];
    let values = medians(scale.turns, &mut contenders);
    let names: Vec<&str> = contenders.iter().map(|contender| contender.name).collect();
    let n_atra = 3;
    for (name, value) in names.iter().zip(&values).take(n_atra) {
        for (reference, reference_value) in names.iter().zip(&values).skip(n_atra) {
            let case = Case { bench: "bus", name, unit: Unit::EventsPerSecond };
            reporter.print(&case.report(*value, reference, *reference_value));
        }
    }
}

async fn atra(batches: Vec<Arc<Batch>>, journal: Arc<MemoryJournal>, reading: Reading, paced: bool) -> f64 {
    let progress = Arc::new(Progress::default());
    let options = BusOptions { queue_events_max: CAPACITY, ..BusOptions::default() };
    let bus = Bus::new(options, journal);
    for mut listener in Listener::all(&progress) {
        let mut subscription = bus.subscribe(Interest::in_topics(vec![Filter::all()]), Seq::ZERO);
        tokio::spawn(async move {
            match reading {
                Reading::Next => {
                    while let Some(Ok(event)) = subscription.next().await {
                        listener.hear(&event.event);
                    }
                }
                Reading::Take => {
                    let mut taken = VecDeque::new();
                    while subscription.ready().await {
                        subscription.take_ready(&mut taken, 256);
                        taken.drain(..).for_each(|event| listener.hear(&event.event));
                    }
                }
            }
        });
    }
    let start = Instant::now();
    for (n, batch) in (1..).zip(&batches) {
        bus.release(batch);
        if paced {
            progress.pace(n).await;
        }
    }
    progress.reached(batches.len()).await;
    let value = per_second(batches.len(), start);
    if paced {
        assert!(bus.subscribers().iter().all(|status| status.lagged == 0), "paced, but lagged");
    }
    bus.close();
    value
}

// === the interest index ===

fn own_topics(scale: Scale, reporter: &mut Reporter) {
    let contender = |name, n_subscribers: usize, taken: bool| {
        let mut setup = OwnTopics::new(n_subscribers);
        Contender::new(name, move || setup.cost(scale.events, taken))
    };
    for (kind, taken) in [("release", false), ("release and take", true)] {
        let mut contenders =
            [contender("10", 10, taken), contender("100", 100, taken), contender("1,000", 1_000, taken)];
        let values = medians(scale.turns, &mut contenders);
        for (contender, value) in contenders.iter().zip(&values).skip(1) {
            let name = format!("{kind}, {} subscribers, a topic each", contender.name);
            let case = Case { bench: "bus", name: &name, unit: Unit::NanosecondsPerEvent };
            reporter.print(&case.report(*value, "the same with 10", values[0]));
        }
    }
}

/// Subscribers that want one topic each, and events for them in turn.
struct OwnTopics {
    bus: Bus,
    subscriptions: Vec<Subscription>,
    events: Vec<Arc<Event>>,
    next: Seq,
}

impl OwnTopics {
    fn new(n_subscribers: usize) -> Self {
        let bus = Bus::new(BusOptions::default(), Arc::new(MemoryJournal::new(&[])));
        let topics: Vec<Topic> = (0..n_subscribers)
            .map(|n| Topic::new(&format!("market.candle.ticker-{n}")).expect("a topic of letters and digits"))
            .collect();
        let subscribe = |topic: &Topic| bus.subscribe(Interest::in_topics(vec![topic.clone().into()]), Seq::ZERO);
        let subscriptions = topics.iter().map(subscribe).collect();
        let events = (0..).zip(&topics).map(|(n, topic)| event(n, topic)).collect();
        Self { bus, subscriptions, events, next: Seq(1) }
    }

    /// Nanoseconds per event, for releasing alone or with taking everything out of the queues again.
    fn cost(&mut self, n: usize, taken: bool) -> f64 {
        let mut nanoseconds = 0;
        let mut out = VecDeque::new();
        let bursts = n.div_ceil(BURST_EVENTS);
        for _ in 0..bursts {
            let batches: Vec<Arc<Batch>> = (0..BURST_EVENTS).map(|_| self.batch()).collect();
            let start = Instant::now();
            batches.iter().for_each(|batch| self.bus.release(batch));
            if !taken {
                nanoseconds += start.elapsed().as_nanos();
            }
            let mut n_taken = 0;
            for subscription in &mut self.subscriptions {
                n_taken += subscription.take_ready(&mut out, BURST_EVENTS);
                black_box(&mut out).clear();
            }
            if taken {
                nanoseconds += start.elapsed().as_nanos();
            }
            assert_eq!(n_taken, BURST_EVENTS);
        }
        nanoseconds as f64 / (bursts * BURST_EVENTS) as f64
    }

    fn batch(&mut self) -> Arc<Batch> {
        let seq = self.next;
        self.next = seq.next();
        let event = self.events[seq.get() as usize % self.events.len()].clone();
        Arc::new(Batch { events: vec![Committed { seq, event, cause_seq: None, seen: None }] })
    }
}

// === fixtures ===

/// A journal in memory: what a page cache would be at its best.
struct MemoryJournal {
    rows: Vec<Committed>,
    /// Stands for the lock that a real journal's reader has.
    lock: RwLock<()>,
}

impl MemoryJournal {
    fn new(events: &[Arc<Event>]) -> Self {
        let row = |(seq, event): (u64, &Arc<Event>)| Committed {
            seq: Seq(seq),
            event: event.clone(),
            cause_seq: None,
            seen: None,
        };
        Self { rows: (1..).zip(events).map(row).collect(), lock: RwLock::default() }
    }
}

#[async_trait]
impl Journal for MemoryJournal {
    async fn read(&self, after: Seq, upto: Seq, interest: &Interest, limit: usize) -> Result<Page, JournalError> {
        let _held = self.lock.read();
        let rows = &self.rows[after.get() as usize..upto.get() as usize];
        let wanted = |row: &&Committed| interest.wants(row.event.topic.as_str(), &row.event.source);
        let events: Vec<Committed> = rows.iter().filter(wanted).take(limit).cloned().collect();
        let upto = if events.len() == limit { events[limit - 1].seq } else { upto };
        Ok(Page { events, upto })
    }
}

/// `n` events on one topic, numbered by their time.
fn events(n: usize) -> Vec<Arc<Event>> {
    let topic = Topic::literal("market.candle");
    (0..n as i64).map(|at| event(at, &topic)).collect()
}

fn event(at: i64, topic: &Topic) -> Arc<Event> {
    let source = Name::new("feed").expect("a name of letters");
    let id = EventId::of(&source, &at.to_string());
    Arc::new(Event {
        id,
        topic: topic.clone(),
        version: 1,
        durable: true,
        source,
        time: Timestamp(at),
        cause: None,
        root: id,
        hops: 0,
        payload: Payload::typed(at),
    })
}
