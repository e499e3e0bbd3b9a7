//! Subscriptions: streams of committed events that never lose one.
//!
//! A subscription reads from two places: the live queue that the bus fills (`queue.rs`) and, for what the
//! queue could not take or what lies before it, the [`Journal`]. The hand-over is exact because it happens
//! at a seq that the reader chooses under the queue's lock:
//!
//! 1. The queue was full at some seq and takes nothing more. The reader takes what is left in it.
//! 2. Under the lock it reads *R* = `released`. If *R* is near, it opens the queue with tail *R*: from now
//!    on the queue takes what is wanted above *R* and leaves out what is not above it. If *R* is far (the
//!    queue would only fill up again), the queue stays shut.
//! 3. It reads everything wanted in (cursor, *R*] from the journal, and only then looks at the queue again.
//!
//! No gap, no repeat: a wanted event ≤ *R* comes from the journal (it is committed, else *R* would not be
//! released) and never from the queue; one above *R* was not handed out by the bus when *R* was chosen
//! (the bus raises `released` before it fills queues), so it meets an open queue or is missed by a shut one
//! and then lies in the journal's next stretch.
//!
//! What a subscription leaves to others: retrying a journal that cannot be read, and remembering how far it
//! was processed (it knows only what it handed out).

use std::{
    collections::VecDeque,
    fmt,
    future::{Future, poll_fn},
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
};

use async_trait::async_trait;
use futures::Stream;

use crate::{
    Bus, Committed, Filter, Name, Seq,
    bus::{Subscriber, lock},
    index::Slot,
    queue::{Entry, Mode, Queue, pop},
};

/// What a reader wants: events whose topic suits one of `filters` and whose source is not in `except`.
#[derive(Debug, Clone)]
pub struct Interest {
    /// Topics that are wanted; one match is enough.
    pub filters: Vec<Filter>,
    /// Publishers whose events are left out: a team is never fed its own rows.
    pub except: Vec<Name>,
}

impl Interest {
    /// Everything on the topics of `filters`.
    #[must_use]
    pub fn in_topics(filters: Vec<Filter>) -> Self {
        Self { filters, except: Vec::new() }
    }

    /// Whether an event of `source` on `topic` is wanted.
    #[must_use]
    pub fn wants(&self, topic: &str, source: &Name) -> bool {
        self.filters.iter().any(|filter| filter.matches(topic)) && !self.except.contains(source)
    }
}

/// Why the journal could not be read.
#[derive(Debug, Clone, thiserror::Error)]
#[error("journal could not be read after seq {after}: {cause}")]
pub struct JournalError {
    /// Where the read began.
    pub after: Seq,
    /// What the store said.
    pub cause: String,
    /// Whether trying again may help.
    pub retryable: bool,
    /// The journal was pruned up to here, beyond where the read began: what lies between is gone. Take a snapshot of
    /// what you keep, and go on from here with [`Subscription::reset`].
    pub pruned: Option<Seq>,
}

/// A page of the journal.
#[derive(Debug, Default)]
pub struct Page {
    /// The wanted events, in journal order.
    pub events: Vec<Committed>,
    /// The seq up to which everything wanted is in `events`: the place to read on from.
    pub upto: Seq,
}

/// The journal as a subscription needs it: what was committed can be read again.
#[async_trait]
pub trait Journal: Send + Sync {
    /// Reads what `interest` wants of seqs in (`after`, `upto`], at most `limit` events.
    ///
    /// Called with `after` < `upto` ≤ `released`. The page's `upto` lies above `after` (progress, even if
    /// nothing there is wanted) and not above `upto`; its events lie between, in rising order.
    ///
    /// # Cancel safety
    /// Reads only.
    ///
    /// # Errors
    /// [`JournalError`]; nothing was consumed.
    async fn read(&self, after: Seq, upto: Seq, interest: &Interest, limit: usize) -> Result<Page, JournalError>;
}

/// A stream of committed events without gap or repeat; made by [`Bus::subscribe`]. Dropping it
/// unregisters it.
///
/// # Ordering
/// Seq order, also across the change between journal and live queue.
///
/// # Delivery
/// Every durable event that its interest wants, once, as long as it is read.
///
/// # Backpressure
/// None on the bus: a slow reader's queue fills up, and the reader then reads from the journal.
pub struct Subscription {
    bus: Bus,
    subscriber: Arc<Subscriber>,
    slot: Slot,
    /// Everything wanted up to here was handed out. What lies beyond is in `buffer`, then in the journal
    /// up to `catch_up`, then in the live queue.
    handed_out: Seq,
    /// Next to be handed out: a page of the journal, or what was in the live queue when it was last looked
    /// at. So at most a page or a queue's worth.
    buffer: VecDeque<Entry>,
    /// What `handed_out` becomes when the buffer is empty: nothing wanted lies in between.
    buffer_upto: Seq,
    /// While it is set, the journal is read up to it before the live queue is looked at.
    catch_up: Option<Seq>,
    /// Whether it was behind and is not any more, until somebody asks.
    rejoined: bool,
    /// The journal read that is under way. The lock is never taken (`get_mut` only): it makes the
    /// subscription `Sync` though the future is not.
    fetch: Mutex<Option<Fetch>>,
    /// Whether the last look found nothing, so that the others got a turn. The next one waits.
    yielded: bool,
    /// What went wrong in `ready`, until `next` tells it.
    failed: Option<JournalError>,
}

/// A journal read under way, and the bounds it was asked for.
struct Fetch {
    after: Seq,
    upto: Seq,
    page: Pin<Box<dyn Future<Output = Result<Page, JournalError>> + Send>>,
}

// === impl Subscription ===

impl Subscription {
    pub(crate) fn new(bus: Bus, subscriber: Arc<Subscriber>, slot: Slot, after: Seq) -> Self {
        Self {
            bus,
            subscriber,
            slot,
            handed_out: after,
            buffer: VecDeque::new(),
            buffer_upto: after,
            catch_up: None,
            rejoined: false,
            fetch: Mutex::new(None),
            yielded: false,
            failed: None,
        }
    }

    /// The next wanted event; `None` after the bus was closed and everything released was handed out.
    ///
    /// # Cancel safety
    /// Cancel safe: an event is taken only when it is returned, and a journal read that was under way goes
    /// on at the next call.
    ///
    /// # Errors
    /// [`JournalError`] when the journal could not be read. Nothing is lost: the next call reads again from
    /// the same place, at once; how long to wait before it is the caller's choice.
    pub async fn next(&mut self) -> Option<Result<Committed, JournalError>> {
        poll_fn(|cx| self.poll_event(cx)).await
    }

    /// Waits until something is ready (`true`), or the bus is closed and everything released was handed
    /// out (`false`). Reads the next page of the journal into the subscription's own buffer when behind.
    ///
    /// `true` with nothing in [`take_ready`](Self::take_ready) means that the journal could not be read:
    /// [`next`](Self::next) then returns the error without waiting.
    ///
    /// # Cancel safety
    /// Cancel safe: hands nothing out.
    pub async fn ready(&mut self) -> bool {
        poll_fn(|cx| self.poll_ready(cx)).await
    }

    /// What [`ready`](Self::ready) waits for, for who waits for other things too and keeps no future between two looks.
    pub fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        ready!(poll_budget(cx));
        if self.failed.is_some() {
            return Poll::Ready(true);
        }
        // Who waits here takes what came in one go: a turn of the others first would bring it little, and cost
        // a poll for each event where every reader gets only now and then one.
        self.yielded = true;
        match ready!(self.poll_source(cx)) {
            Ok(some) => Poll::Ready(some),
            Err(error) => {
                self.failed = Some(error);
                Poll::Ready(true)
            }
        }
    }

    /// Moves what is ready into `into`, at most `max` events, without waiting; returns how many.
    ///
    /// What was moved out of the queue or read from the journal before (by [`ready`](Self::ready)) comes
    /// first and alone; only if there is none of it is the live queue looked at, under one short lock. So
    /// fewer than `max` does not mean that nothing more is ready; 0 means that nothing was.
    pub fn take_ready(&mut self, into: &mut VecDeque<Committed>, max: usize) -> usize {
        if self.buffer.is_empty() && self.caught_up() {
            lock(&self.subscriber.queue).take_all(&mut self.buffer);
        }
        let mut taken = 0;
        while taken < max {
            let Some(event) = self.take_buffered() else { break };
            into.push_back(event);
            taken += 1;
        }
        taken
    }

    /// The seq up to which everything wanted has been handed out; moves over events that are not wanted as
    /// they are released. It says nothing of what the caller has done with what it was handed.
    ///
    /// # Ordering
    /// Never goes back. May lie behind `released` for a moment while a batch is being handed out.
    #[must_use]
    pub fn cursor(&self) -> Seq {
        if let Some(entry) = self.buffer.front() {
            return self.handed_out.max(before(entry.seq()));
        }
        if self.catch_up.is_some_and(|upto| self.handed_out < upto) {
            return self.handed_out;
        }
        // Before the queue is looked at: what is wanted up to `delivered` was put into the queue before
        // `delivered` was raised, so if the queue is empty *afterwards* all of it was taken. Read after the
        // lock is gone, an event could come in between and the cursor would move over it. `released` would
        // not do at all: it is raised before the queues are filled.
        let delivered = self.bus.shared().delivered();
        let queue = lock(&self.subscriber.queue);
        let upto = match (queue.front(), queue.mode) {
            (Some(front), _) => before(front),
            (None, Mode::Live) => delivered,
            (None, Mode::Lagging { first_missed }) => before(first_missed),
        };
        self.handed_out.max(upto)
    }

    /// Whether it must read on from the journal before it hears of what is released now. It may be that
    /// nothing in there is wanted; only reading on tells.
    #[must_use]
    pub fn is_behind(&self) -> bool {
        self.catch_up.is_some_and(|upto| self.handed_out < upto)
            || matches!(lock(&self.subscriber.queue).mode, Mode::Lagging { .. })
    }

    /// Whether it was behind and has read on to what is live since this was last asked. It may have found nothing that is
    /// wanted on the way: then nothing else tells that it came so far.
    pub fn take_rejoined(&mut self) -> bool {
        std::mem::take(&mut self.rejoined)
    }

    /// How often its queue was full, so that it had to read on from the journal.
    #[must_use]
    pub fn lagged(&self) -> u64 {
        lock(&self.subscriber.queue).lagged
    }

    /// Goes on after `seq`, leaving out what lies before it: for a reader that fell behind a pruned journal
    /// ([`JournalError::pruned`]). Does nothing when it is beyond that, or holds events that it has not handed out.
    pub fn reset(&mut self, seq: Seq) {
        if self.buffer.is_empty() && seq > self.handed_out {
            (self.handed_out, self.buffer_upto) = (seq, seq);
            self.failed = None;
            *self.fetch.get_mut().unwrap_or_else(PoisonError::into_inner) = None;
        }
    }

    /// What it wants.
    #[must_use]
    pub fn interest(&self) -> &Interest {
        &self.subscriber.interest
    }

    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Committed, JournalError>>> {
        ready!(poll_budget(cx));
        loop {
            if let Some(error) = self.failed.take() {
                return Poll::Ready(Some(Err(error)));
            }
            if let Some(event) = self.take_buffered() {
                return Poll::Ready(Some(Ok(event)));
            }
            match ready!(self.poll_source(cx)) {
                Ok(false) => return Poll::Ready(None),
                Err(error) => return Poll::Ready(Some(Err(error))),
                Ok(true) => {}
            }
        }
    }

    /// Makes sure that something is in the buffer (`true`), or that nothing will ever be (`false`).
    fn poll_source(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool, JournalError>> {
        loop {
            if !self.buffer.is_empty() {
                return Poll::Ready(Ok(true));
            }
            if !self.caught_up() {
                ready!(self.poll_fetch(cx))?;
                continue;
            }
            let mut queue = lock(&self.subscriber.queue);
            queue.take_all(&mut self.buffer);
            if !self.buffer.is_empty() {
                self.yielded = false;
                return Poll::Ready(Ok(true));
            }
            let Mode::Lagging { first_missed } = queue.mode else {
                if queue.closed {
                    return Poll::Ready(Ok(false));
                }
                // The first time, the others on this thread get a turn first. Under load something has come
                // by then, and the releaser is spared a wake-up per event and reader (it doubled fan-out).
                if !self.yielded {
                    self.yielded = true;
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                self.yielded = false;
                // Under the same lock as the look at the queue: a wake-up cannot fall in between.
                queue.wait(cx.waker());
                return Poll::Pending;
            };
            // Nothing wanted lies between the last event taken from the queue and the first it missed.
            self.handed_out = self.handed_out.max(before(first_missed));
            let released = self.bus.shared().released();
            open_if_near(&mut queue, self.handed_out, released);
            drop(queue);
            self.catch_up = Some(released);
        }
    }

    /// Reads the next page up to `catch_up` into the (empty) buffer.
    fn poll_fetch(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), JournalError>> {
        let upto = self.catch_up.unwrap_or(self.handed_out);
        let after = self.handed_out;
        let slot = self.fetch.get_mut().unwrap_or_else(PoisonError::into_inner);
        let fetch = slot.get_or_insert_with(|| {
            let shared = self.bus.shared();
            let (journal, interest) = (shared.journal.clone(), self.subscriber.interest.clone());
            let limit = shared.options.page_events_max.max(1);
            Fetch { after, upto, page: Box::pin(async move { journal.read(after, upto, &interest, limit).await }) }
        });
        let read = ready!(fetch.page.as_mut().poll(cx));
        let (after, upto) = (fetch.after, fetch.upto);
        *slot = None;
        let page = read?;
        check(&page, after, upto)?;
        self.buffer_upto = page.upto;
        self.buffer.extend(page.events.into_iter().map(Entry::One));
        if self.buffer.is_empty() {
            self.handed_out = page.upto;
        }
        if self.catch_up == Some(page.upto) {
            // The last page. Rejoining now, not when the page has been handed out, keeps a reader that is
            // fast enough out of the journal.
            let mut queue = lock(&self.subscriber.queue);
            let released = self.bus.shared().released();
            if open_if_near(&mut queue, page.upto, released) {
                self.catch_up = Some(released);
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Whether the live queue is what comes next. Call it with an empty buffer.
    fn caught_up(&mut self) -> bool {
        if self.catch_up.is_some_and(|upto| self.handed_out >= upto) {
            (self.catch_up, self.rejoined) = (None, true);
        }
        self.catch_up.is_none()
    }

    fn take_buffered(&mut self) -> Option<Committed> {
        let event = pop(&mut self.buffer)?;
        self.handed_out = if self.buffer.is_empty() { event.seq.max(self.buffer_upto) } else { event.seq };
        Some(event)
    }
}

impl Stream for Subscription {
    type Item = Result<Committed, JournalError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.get_mut().poll_event(cx)
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.bus.remove_subscriber(self.slot, &self.subscriber.interest.filters);
    }
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription")
            .field("interest", &self.subscriber.interest)
            .field("cursor", &self.cursor())
            .finish_non_exhaustive()
    }
}

/// Pending, and woken again, when the task has had its share: a reader that always finds something must
/// not keep its neighbours on the same thread from reading (they would lag).
fn poll_budget(cx: &mut Context<'_>) -> Poll<()> {
    std::pin::pin!(tokio::task::coop::consume_budget()).poll(cx)
}

/// Opens a drained and shut queue at `released` if that is near `position`, up to which everything wanted
/// is handed out or buffered; otherwise the queue would only fill up again while the journal is read.
///
/// Call it with the queue's lock held and `released` read under it. If it answers `true`, the journal must
/// be read up to `released` before the queue is looked at.
fn open_if_near(queue: &mut Queue, position: Seq, released: Seq) -> bool {
    let near = queue.limit() as u64 / 2;
    let open =
        queue.mode != Mode::Live && queue.front().is_none() && released.get().saturating_sub(position.get()) <= near;
    if open {
        queue.open(released.max(position));
    }
    open
}

/// The place before `seq`.
fn before(seq: Seq) -> Seq {
    Seq(seq.get().saturating_sub(1))
}

/// Holds a journal to its contract: otherwise a gap, a repeat or an endless loop would be blamed on the bus.
fn check(page: &Page, after: Seq, upto: Seq) -> Result<(), JournalError> {
    let mut last = after;
    let ordered = page.events.iter().all(|event| {
        let above = event.seq > last;
        last = event.seq;
        above
    });
    if ordered && after < page.upto && last <= page.upto && page.upto <= upto {
        return Ok(());
    }
    let cause = format!("page up to {} with {} events does not lie in ({after}, {upto}]", page.upto, page.events.len());
    Err(JournalError { after, cause, retryable: false, pruned: None })
}
