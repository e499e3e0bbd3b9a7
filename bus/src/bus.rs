//! The bus: hands committed batches to those who want something in them.
//!
//! One releaser (the storage actor) calls [`Bus::release`] after each commit. The bus looks up who wants
//! each event ([`Interest`]) and puts it into their bounded queues. It never waits: a subscriber whose
//! queue is full *lags*, takes what it has, reads the gap from the [`Journal`] and rejoins
//! ([`Subscription`]). So being slow costs latency, never loss and never unbounded memory.
//!
//! Passing events go to [`Observer`]s, which may lose some and count what they lost.
//!
//! It leaves to others: committing, applying memory and answering callers (the storage actor).
//!
//! Locks, in this order and never across an await: `releaser` → `index` → one subscriber's queue. Wakers
//! are called after `index` is let go, because waking may run foreign code that drops a subscription.

use std::{
    fmt, iter,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    task::Waker,
};

use crate::{
    Batch, Event, Filter, Interest, InvalidSettings, Journal, Name, Observer, Seq, SettingCheck, Subscription, Topic,
    contain::{contain_call, report},
    index::{Index, Slot},
    observer::Watcher,
    queue::{Mode, Queue},
};

/// Limits of a [`Bus`].
#[derive(Debug, Clone)]
pub struct BusOptions {
    /// How many events one subscriber's queue holds before it reads on from the journal. Default 4,096:
    /// sixteen steps of 256 inputs, so a team with four steps in flight does not lag in normal operation,
    /// and at about 50 bytes each (the events are shared) a full queue costs 200 KB.
    /// A reader may hold as many again, which it moved out in one go and has not handed out yet.
    pub queue_events_max: usize,
    /// How many events all queues together hold, about. Default 4,194,304: a thousand subscribers with full queues, 170 MB.
    /// With more subscribers each queue holds less, down to 16 events; a subscriber that falls behind reads the
    /// journal.
    pub queues_events_max: usize,
    /// For how many topics the bus remembers who wants them. Default 16,384: more than a desk with a few
    /// thousand memory keys uses at a time, in about 2 MB. Above it the cache is emptied and filled again.
    pub topics_cached_max: usize,
    /// How many events a lagging subscriber reads from the journal at a time. Default 1,024: enough that a
    /// read's fixed cost does not show, few enough that a thousand lagging readers fit into memory.
    pub page_events_max: usize,
}

/// The smallest capacity of a queue, for any number of queues. 16: a few steps of a quiet topic.
const QUEUE_EVENTS_MIN: usize = 16;

impl Default for BusOptions {
    fn default() -> Self {
        Self {
            queue_events_max: 4_096,
            queues_events_max: 4_194_304,
            topics_cached_max: 16_384,
            page_events_max: 1_024,
        }
    }
}

impl BusOptions {
    /// Checks every limit.
    ///
    /// # Errors
    /// Each limit that is out of its range.
    pub fn check(&self) -> Result<(), InvalidSettings> {
        let mut check = SettingCheck::new("bus");
        check.range("queue_events_max", self.queue_events_max, 1..=10_000_000);
        check.range("queues_events_max", self.queues_events_max, 1..=1_000_000_000);
        check.range("topics_cached_max", self.topics_cached_max, 1..=10_000_000);
        check.range("page_events_max", self.page_events_max, 1..=1_000_000);
        check.finish()
    }
}

/// How a subscriber is doing, for status pages.
#[derive(Debug, Clone)]
pub struct SubscriberStatus {
    /// Numbered in the order of subscribing, from 1; never reused.
    pub id: u64,
    /// What it wants.
    pub filters: Vec<Filter>,
    /// Whose events it leaves out.
    pub except: Vec<Name>,
    /// How many events wait in its queue.
    pub queued: usize,
    /// Whether its queue takes nothing at the moment because the reader is behind.
    pub lagging: bool,
    /// How often its queue was full.
    pub lagged: u64,
}

/// What the bus and one subscription share.
pub(crate) struct Subscriber {
    pub(crate) queue: Mutex<Queue>,
    /// As in `interest`; here too, so that releasing to the many without exceptions follows no pointer.
    except: Vec<Name>,
    pub(crate) interest: Arc<Interest>,
    id: u64,
}

/// Hands committed batches to those who want something in them; a cheap clone of one shared bus.
///
/// # Ordering
/// Batches come from one releaser in seq order; each subscription gives them out in that order.
///
/// # Examples
/// ```
/// # use atra_bus::*;
/// # use std::sync::Arc;
/// # struct Nothing;
/// # #[async_trait::async_trait]
/// # impl Journal for Nothing {
/// #     async fn read(&self, _: Seq, upto: Seq, _: &Interest, _: usize) -> Result<Page, JournalError> {
/// #         Ok(Page { events: Vec::new(), upto })
/// #     }
/// # }
/// # let journal: Arc<dyn Journal> = Arc::new(Nothing);
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// let bus = Bus::new(BusOptions::default(), journal);
/// let mut candles = bus.subscribe(Interest::in_topics(vec![Filter::new("market.*").unwrap()]), Seq::ZERO);
/// bus.close();
/// assert!(candles.next().await.is_none());
/// # });
/// ```
#[derive(Clone)]
pub struct Bus {
    shared: Arc<Shared>,
}

pub(crate) struct Shared {
    pub(crate) options: BusOptions,
    pub(crate) journal: Arc<dyn Journal>,
    /// The greatest seq that the outside may see. Raised *before* a batch is put into queues, so nobody
    /// holds an event that `released` does not cover yet.
    released: AtomicU64,
    /// The greatest seq that is in every queue that wants it. Raised *after* a batch was put into queues,
    /// so that an empty queue means "handed out up to here" (`Subscription::cursor`).
    delivered: AtomicU64,
    releaser: Mutex<Releaser>,
    subscribers: Mutex<Index<Subscriber>>,
    observers: Mutex<Index<Watcher>>,
    /// How many observers there are, for the fast answer "nobody".
    n_observers: AtomicUsize,
    /// The present capacity of each queue; changed under the lock of `subscribers`.
    queue_limit: AtomicUsize,
    /// Set by `close`, under `releaser`.
    closed: AtomicBool,
    /// Subscribers numbered so far.
    n_subscribed: AtomicU64,
}

/// The releaser's own data; its lock is held through a whole release or close, and by nobody else.
#[derive(Default)]
struct Releaser {
    /// Whom to wake when the locks are gone. Empty between releases.
    wakers: Vec<Waker>,
    /// By slot: the runs of the batch that this subscriber wants. Empty between releases.
    runs: Vec<Runs>,
    /// Slots with runs, in the order they were found. Empty between releases.
    touched: Vec<Slot>,
}

/// Runs `start..end` of a batch that one subscriber wants, in order; `end` 0 stands for none. Mostly there is one, and it
/// lies where the slot is: with a thousand subscribers a list of its own for each would be fetched each time.
#[derive(Default)]
struct Runs {
    first: (u32, u32),
    more: Vec<(u32, u32)>,
}

impl Runs {
    /// Adds the event at `at`, which is above all in it; answers whether it is the first.
    fn add(&mut self, at: u32) -> bool {
        if self.first.1 == 0 {
            self.first = (at, at + 1);
            return true;
        }
        let (_, end) = self.more.last_mut().unwrap_or(&mut self.first);
        match *end == at {
            true => *end += 1,
            false => self.more.push((at, at + 1)),
        }
        false
    }

    fn clear(&mut self) {
        self.first = (0, 0);
        self.more.clear();
        // One odd batch must not hold its memory for ever.
        self.more.shrink_to(64);
    }
}

/// Locks; a poisoned lock is used on, because no holder leaves data half changed when it panics.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Wakes a reader. Its executor is foreign code: a panic there must not end the releaser.
fn wake(waker: Waker) {
    if let Err(panic) = contain_call(|| waker.wake()) {
        report("waker of a reader", &panic);
    }
}

// === impl Bus ===

impl Bus {
    /// A bus on which nothing was released yet.
    #[must_use]
    pub fn new(options: BusOptions, journal: Arc<dyn Journal>) -> Self {
        let (topics_cached_max, queue_limit) = (options.topics_cached_max, AtomicUsize::new(options.queue_events_max));
        let shared = Shared {
            options,
            journal,
            released: AtomicU64::new(0),
            delivered: AtomicU64::new(0),
            releaser: Mutex::default(),
            subscribers: Mutex::new(Index::new(topics_cached_max)),
            observers: Mutex::new(Index::new(topics_cached_max)),
            n_observers: AtomicUsize::new(0),
            queue_limit,
            closed: AtomicBool::new(false),
            n_subscribed: AtomicU64::new(0),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Hands one committed batch to those who want something in it, and wakes only them.
    ///
    /// # Ordering
    /// Called by one releaser, in seq order, after the batch is in the journal and memory was applied.
    /// [`released`](Self::released) is raised first, so nobody gets an event that it does not cover.
    ///
    /// # Backpressure
    /// None: never waits. A subscriber whose queue cannot take its part of the batch reads it from the
    /// journal. After [`close`](Self::close) and for an empty batch it does nothing.
    ///
    /// # Panics
    /// When the batch does not begin above `released`: events would be lost or repeated.
    pub fn release(&self, batch: &Arc<Batch>) {
        let (Some(first), Some(last)) = (batch.events.first(), batch.events.last()) else { return };
        let shared = &*self.shared;
        let mut releaser = lock(&shared.releaser);
        if self.shared.closed.load(Ordering::Acquire) {
            return;
        }
        assert!(first.seq > self.released(), "batch from {} on, but {} is released", first.seq, self.released());
        // Release: whoever sees the new value also sees what the releaser did before (memory, journal).
        shared.released.store(last.seq.get(), Ordering::Release);
        {
            let mut index = lock(&shared.subscribers);
            match &batch.events[..] {
                [event] => {
                    for (_, subscriber) in index.route(&event.event.topic).members() {
                        if subscriber.wants_from(&event.event.source) {
                            let mut queue = lock(&subscriber.queue);
                            queue.push_one(event);
                            releaser.wakers.extend(queue.take_waker());
                        }
                    }
                }
                _ => releaser.hand_out(&mut index, batch),
            }
        }
        shared.delivered.store(last.seq.get(), Ordering::Release);
        releaser.wakers.drain(..).for_each(wake);
    }

    /// The greatest seq that the outside may see.
    #[must_use]
    pub fn released(&self) -> Seq {
        self.shared.released()
    }

    /// The greatest seq that is in every queue that wants it: at `released`, or a moment behind it while a
    /// batch is being handed out.
    #[must_use]
    pub fn delivered(&self) -> Seq {
        self.shared.delivered()
    }

    /// Says what was released before this bus existed. At start only, before anything is released or
    /// subscribed.
    pub fn set_released(&self, seq: Seq) {
        let _releaser = lock(&self.shared.releaser);
        self.shared.released.store(seq.get(), Ordering::Release);
        self.shared.delivered.store(seq.get(), Ordering::Release);
    }

    /// Durable events after `after` that `interest` wants, without gap or repeat: from the journal as long
    /// as the reader is behind, then live.
    ///
    /// # Ordering
    /// Seq order. `after` may lie above `released`: then what comes up to it is left out.
    #[must_use]
    pub fn subscribe(&self, interest: Interest, after: Seq) -> Subscription {
        // Under the index lock: a batch whose `released` is not seen here is handed out after the insertion.
        let mut index = lock(&self.shared.subscribers);
        let mode = if after >= self.released() { Mode::Live } else { Mode::Lagging { first_missed: after.next() } };
        let events_max = self.shared.fit_queues(&index, index.n_members() + 1);
        let mut queue = Queue::new(events_max, after, mode);
        queue.closed = self.shared.closed.load(Ordering::Acquire);
        let interest = Arc::new(interest);
        let subscriber = Arc::new(Subscriber {
            queue: Mutex::new(queue),
            except: interest.except.clone(),
            interest: interest.clone(),
            // Relaxed: only uniqueness matters, and the locks order it.
            id: self.shared.n_subscribed.fetch_add(1, Ordering::Relaxed) + 1,
        });
        let slot = index.insert(subscriber.clone(), &interest.filters);
        Subscription::new(self.clone(), subscriber, slot, after)
    }

    /// Passing events that `interest` wants, through a queue of at most `queue_events_max`: what does not
    /// fit is counted ([`Observer::dropped`]), never waited for.
    #[must_use]
    pub fn observe(&self, interest: Interest, queue_events_max: usize) -> Observer {
        let mut index = lock(&self.shared.observers);
        let closed = self.shared.closed.load(Ordering::Acquire);
        let watcher = Arc::new(Watcher::new(interest, queue_events_max, closed));
        let slot = index.insert(watcher.clone(), &watcher.interest.filters);
        // Relaxed: an observer that is being made may miss what passes at that instant.
        self.shared.n_observers.fetch_add(1, Ordering::Relaxed);
        Observer { bus: self.clone(), watcher, slot }
    }

    /// Whether anybody observes passing events on `topic`: lets a team skip collecting them. One atomic
    /// load when nobody observes anything.
    #[must_use]
    pub fn wants_passing(&self, topic: &Topic) -> bool {
        self.shared.n_observers.load(Ordering::Relaxed) != 0 && !lock(&self.shared.observers).route(topic).is_empty()
    }

    /// Shows passing events to those who observe them; called after the step that made them committed.
    ///
    /// # Backpressure
    /// None: what does not fit into an observer's queue is counted there.
    pub fn pass(&self, events: &[Arc<Event>]) {
        if self.shared.n_observers.load(Ordering::Relaxed) == 0 {
            return;
        }
        let mut wakers = Vec::new();
        {
            let mut index = lock(&self.shared.observers);
            for event in events {
                for (_, watcher) in index.route(&event.topic).members() {
                    if !watcher.interest.except.contains(&event.source) {
                        let mut state = lock(&watcher.state);
                        state.push(event);
                        wakers.extend(state.take_waker());
                    }
                }
            }
        }
        wakers.into_iter().for_each(wake);
    }

    /// How each subscriber is doing, in the order of subscribing.
    #[must_use]
    pub fn subscribers(&self) -> Vec<SubscriberStatus> {
        let index = lock(&self.shared.subscribers);
        let mut all: Vec<SubscriberStatus> = index.members().map(|subscriber| subscriber.status()).collect();
        all.sort_by_key(|status| status.id);
        all
    }

    /// Ends all streams after what was released (for observers: passed) until now. What is released
    /// afterwards is ignored; who subscribes afterwards reads the journal up to here and ends.
    pub fn close(&self) {
        let mut releaser = lock(&self.shared.releaser);
        // Before the index locks are taken: who is not found below sees it when it registers.
        self.shared.closed.store(true, Ordering::Release);
        for subscriber in lock(&self.shared.subscribers).members() {
            let mut queue = lock(&subscriber.queue);
            queue.closed = true;
            releaser.wakers.extend(queue.take_waker());
        }
        for watcher in lock(&self.shared.observers).members() {
            let mut state = lock(&watcher.state);
            state.close();
            releaser.wakers.extend(state.take_waker());
        }
        releaser.wakers.drain(..).for_each(wake);
    }

    pub(crate) fn shared(&self) -> &Shared {
        &self.shared
    }

    pub(crate) fn remove_subscriber(&self, slot: Slot, filters: &[Filter]) {
        let mut index = lock(&self.shared.subscribers);
        index.remove(slot, filters);
        self.shared.fit_queues(&index, index.n_members());
    }

    pub(crate) fn remove_observer(&self, slot: Slot, filters: &[Filter]) {
        lock(&self.shared.observers).remove(slot, filters);
        self.shared.n_observers.fetch_sub(1, Ordering::Relaxed);
    }
}

impl fmt::Debug for Bus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bus").field("released", &self.released()).finish_non_exhaustive()
    }
}

// === impl Shared, Releaser, Subscriber ===

impl Shared {
    pub(crate) fn released(&self) -> Seq {
        Seq(self.released.load(Ordering::Acquire))
    }

    /// The greatest seq that is in every queue that wants it.
    pub(crate) fn delivered(&self) -> Seq {
        Seq(self.delivered.load(Ordering::Acquire))
    }

    /// Sets and returns the capacity of each queue, so that `n_subscribers` queues stay within `queues_events_max`. It
    /// is halved or doubled, so that all queues are visited only when their number has about doubled.
    fn fit_queues(&self, index: &Index<Subscriber>, n_subscribers: usize) -> usize {
        let BusOptions { queue_events_max, queues_events_max, .. } = self.options;
        // Relaxed: changed under the lock of the index, which the caller holds.
        let before = self.queue_limit.load(Ordering::Relaxed);
        let fits = |limit: usize| limit.saturating_mul(n_subscribers) <= queues_events_max;
        let mut limit = before;
        while !fits(limit) && limit > QUEUE_EVENTS_MIN {
            limit = (limit / 2).max(QUEUE_EVENTS_MIN);
        }
        // Grows only when there is room for twice as much, so that a subscriber at the threshold causes no changes.
        while limit < queue_events_max && fits(limit.saturating_mul(4)) {
            limit = limit.saturating_mul(2).min(queue_events_max);
        }
        if limit != before {
            self.queue_limit.store(limit, Ordering::Relaxed);
            index.members().for_each(|subscriber| lock(&subscriber.queue).set_limit(limit));
        }
        limit
    }
}

impl Releaser {
    /// Puts a batch of several events into the queues: first finds each subscriber's runs, then locks each
    /// queue once.
    fn hand_out(&mut self, index: &mut Index<Subscriber>, batch: &Arc<Batch>) {
        self.runs.resize_with(index.n_slots(), Runs::default);
        for (at, event) in (0_u32..).zip(&batch.events) {
            for (slot, subscriber) in index.route(&event.event.topic).members() {
                if !subscriber.wants_from(&event.event.source) {
                    continue;
                }
                if self.runs[slot as usize].add(at) {
                    self.touched.push(slot);
                }
            }
        }
        for slot in self.touched.drain(..) {
            let runs = &mut self.runs[slot as usize];
            if let Some(subscriber) = index.member(slot) {
                let mut queue = lock(&subscriber.queue);
                for (start, end) in iter::once(&runs.first).chain(&runs.more) {
                    queue.push_run(batch, *start as usize, *end as usize);
                }
                self.wakers.extend(queue.take_waker());
            }
            runs.clear();
        }
    }
}

impl Subscriber {
    fn wants_from(&self, source: &Name) -> bool {
        !self.except.contains(source)
    }

    fn status(&self) -> SubscriberStatus {
        let queue = lock(&self.queue);
        SubscriberStatus {
            id: self.id,
            filters: self.interest.filters.clone(),
            except: self.except.clone(),
            queued: queue.queued(),
            lagging: queue.mode != Mode::Live,
            lagged: queue.lagged,
        }
    }
}
