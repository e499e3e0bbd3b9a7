//! The live queue of one subscriber: what was released and not yet taken.
//!
//! A queue is plain data behind its subscriber's lock. It holds every wanted event with a seq above the
//! one it was opened at, in order, until it is full. Then it *lags*: it keeps what it holds, takes nothing
//! more and remembers the first seq it missed. The reader takes what is left, reads on from the journal
//! and opens the queue again at a seq of its choice.
//!
//! It leaves to others: who wants what (`index.rs`), and where to open it (`subscription.rs`).

use std::{collections::VecDeque, sync::Arc, task::Waker};

use crate::{Batch, Committed, Seq};

/// A run of events shares its batch only when it is at least this part of it (1/8). So a queue of n
/// events keeps at most 8 n alive, however little its reader wants of large batches.
const SHARED_RUN_DIVISOR: usize = 8;
/// What a queue's buffer shrinks to after it lagged: a burst must not hold its memory for ever.
const ENTRIES_KEPT: usize = 64;

/// Something queued, in seq order.
#[derive(Debug)]
pub(crate) enum Entry {
    /// One event. Copied when released (one reference count), moved when taken.
    One(Committed),
    /// The events `next..end` of a batch; not empty. One entry, whatever their number.
    Run { batch: Arc<Batch>, next: u32, end: u32 },
}

impl Entry {
    /// The seq of its first event.
    pub(crate) fn seq(&self) -> Seq {
        match self {
            Self::One(event) => event.seq,
            Self::Run { batch, next, .. } => batch.events[*next as usize].seq,
        }
    }
}

/// Takes the first event of `entries`.
pub(crate) fn pop(entries: &mut VecDeque<Entry>) -> Option<Committed> {
    if let Some(Entry::Run { batch, next, end }) = entries.front_mut()
        && *next + 1 < *end
    {
        let event = batch.events[*next as usize].clone();
        *next += 1;
        return Some(event);
    }
    match entries.pop_front()? {
        Entry::One(event) => Some(event),
        Entry::Run { batch, next, .. } => Some(batch.events[next as usize].clone()),
    }
}

/// Whether the queue takes what is released.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Takes everything wanted above its tail.
    Live,
    /// Takes nothing: the wanted event `first_missed` did not fit, or nothing was read yet.
    Lagging {
        /// No wanted event between the last one taken into the queue and this seq was missed.
        first_missed: Seq,
    },
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Queue {
    entries: VecDeque<Entry>,
    /// Events in `entries`; at most `events_max`.
    queued: usize,
    events_max: usize,
    /// The last seq taken in, or the seq it was opened at: what is at or below has been taken care of.
    tail: Seq,
    pub(crate) mode: Mode,
    /// How often it was full.
    pub(crate) lagged: u64,
    /// Set once by `Bus::close`: nothing more comes.
    pub(crate) closed: bool,
    /// Of the reader, while it waits.
    waker: Option<Waker>,
}

impl Queue {
    /// A queue that has taken care of everything up to `tail`.
    pub(crate) fn new(events_max: usize, tail: Seq, mode: Mode) -> Self {
        Self { entries: VecDeque::new(), queued: 0, events_max, tail, mode, lagged: 0, closed: false, waker: None }
    }

    /// Takes in the events `start..end` of `batch`, all of them or none.
    pub(crate) fn push_run(&mut self, batch: &Arc<Batch>, start: usize, end: usize) {
        if self.mode != Mode::Live {
            return;
        }
        let mut start = start;
        // Rare: the queue was opened at a seq inside a batch that was being handed out.
        while start < end && batch.events[start].seq <= self.tail {
            start += 1;
        }
        if start == end {
            return;
        }
        let n = end - start;
        if self.queued + n > self.events_max {
            self.fall_behind(batch.events[start].seq);
            return;
        }
        if n > 1 && n * SHARED_RUN_DIVISOR >= batch.events.len() {
            self.entries.push_back(Entry::Run { batch: batch.clone(), next: start as u32, end: end as u32 });
        } else {
            self.entries.extend(batch.events[start..end].iter().cloned().map(Entry::One));
        }
        self.queued += n;
        self.tail = batch.events[end - 1].seq;
    }

    /// Takes in one event: the same as a run of one, without the arithmetic.
    pub(crate) fn push_one(&mut self, event: &Committed) {
        if self.mode != Mode::Live || event.seq <= self.tail {
            return;
        }
        if self.queued >= self.events_max {
            self.fall_behind(event.seq);
            return;
        }
        self.entries.push_back(Entry::One(event.clone()));
        self.queued += 1;
        self.tail = event.seq;
    }

    /// Moves everything it holds into `entries`, which must be empty, by a swap: the lock is held for a few
    /// nanoseconds, however much there is, so that a reader does not hold up the releaser.
    pub(crate) fn take_all(&mut self, entries: &mut VecDeque<Entry>) {
        debug_assert!(entries.is_empty(), "taken events would be overtaken");
        std::mem::swap(&mut self.entries, entries);
        self.queued = 0;
    }

    /// Opens a drained queue: from now on it takes everything wanted above `at`.
    pub(crate) fn open(&mut self, at: Seq) {
        assert!(self.entries.is_empty(), "a queue is opened at {at} with {} events in it", self.queued);
        self.entries.shrink_to(ENTRIES_KEPT);
        self.mode = Mode::Live;
        self.tail = at;
    }

    /// Sets the capacity to `events_max`. The newest events above it are dropped; the reader gets them from the
    /// journal.
    pub(crate) fn set_limit(&mut self, events_max: usize) {
        self.events_max = events_max;
        let mut first_missed = None;
        while self.queued > events_max {
            let over = self.queued - events_max;
            match self.entries.back_mut() {
                Some(Entry::Run { batch, next, end }) if (*end - *next) as usize > over => {
                    *end -= over as u32;
                    self.queued -= over;
                    first_missed = Some(batch.events[*end as usize].seq);
                }
                Some(entry) => {
                    let n = match entry {
                        Entry::One(_) => 1,
                        Entry::Run { next, end, .. } => (*end - *next) as usize,
                    };
                    first_missed = Some(entry.seq());
                    self.queued -= n;
                    self.entries.pop_back();
                }
                None => break,
            }
        }
        if let Some(first_missed) = first_missed {
            self.fall_behind(first_missed);
            self.entries.shrink_to_fit();
        }
    }

    /// How many events it holds at most.
    pub(crate) fn limit(&self) -> usize {
        self.events_max
    }

    /// The seq of the oldest event in it.
    pub(crate) fn front(&self) -> Option<Seq> {
        self.entries.front().map(Entry::seq)
    }

    /// How many events it holds.
    pub(crate) fn queued(&self) -> usize {
        self.queued
    }

    /// Remembers whom to wake when something changes.
    pub(crate) fn wait(&mut self, waker: &Waker) {
        match &mut self.waker {
            Some(held) => held.clone_from(waker),
            none => *none = Some(waker.clone()),
        }
    }

    /// Who waits, if anybody; to be woken after the locks are gone.
    pub(crate) fn take_waker(&mut self) -> Option<Waker> {
        self.waker.take()
    }

    #[cold]
    fn fall_behind(&mut self, first_missed: Seq) {
        self.mode = Mode::Lagging { first_missed };
        self.lagged += 1;
    }
}
