//! Observers: streams of passing events, for those outside who can bear to miss some.

use std::{
    collections::VecDeque,
    fmt,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, Waker},
};

use futures::Stream;

use crate::{Bus, Event, Interest, bus::lock, index::Slot};

/// What the bus and one observer share.
pub(crate) struct Watcher {
    pub(crate) interest: Interest,
    pub(crate) state: Mutex<WatcherState>,
}

/// Plain data behind the watcher's lock.
pub(crate) struct WatcherState {
    /// At most `events_max`.
    events: VecDeque<Arc<Event>>,
    events_max: usize,
    dropped: u64,
    closed: bool,
    waker: Option<Waker>,
}

impl Watcher {
    pub(crate) fn new(interest: Interest, events_max: usize, closed: bool) -> Self {
        let state = WatcherState { events: VecDeque::new(), events_max, dropped: 0, closed, waker: None };
        Self { interest, state: Mutex::new(state) }
    }
}

impl WatcherState {
    /// Takes `event` in or counts it as dropped.
    pub(crate) fn push(&mut self, event: &Arc<Event>) {
        if self.events.len() < self.events_max {
            self.events.push_back(event.clone());
        } else {
            self.dropped += 1;
        }
    }

    pub(crate) fn close(&mut self) {
        self.closed = true;
    }

    pub(crate) fn take_waker(&mut self) -> Option<Waker> {
        self.waker.take()
    }
}

/// A stream of passing events; made by [`Bus::observe`]. Dropping it unregisters it.
///
/// # Ordering
/// What one team passed comes in its order.
///
/// # Delivery
/// At most once: what does not fit into the queue is dropped and counted (the newest is dropped, what is
/// queued stays). Nobody ever waits for an observer.
pub struct Observer {
    pub(crate) bus: Bus,
    pub(crate) watcher: Arc<Watcher>,
    pub(crate) slot: Slot,
}

impl Observer {
    /// The next passing event, or `None` after the bus was closed and everything queued was handed out.
    ///
    /// # Cancel safety
    /// Cancel safe: an event is taken only when it is returned.
    pub async fn next(&mut self) -> Option<Arc<Event>> {
        std::future::poll_fn(|cx| self.poll_event(cx)).await
    }

    /// How many wanted events did not fit into the queue.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        lock(&self.watcher.state).dropped
    }

    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Option<Arc<Event>>> {
        let mut state = lock(&self.watcher.state);
        if let Some(event) = state.events.pop_front() {
            return Poll::Ready(Some(event));
        }
        if state.closed {
            return Poll::Ready(None);
        }
        state.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl Stream for Observer {
    type Item = Arc<Event>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.get_mut().poll_event(cx)
    }
}

impl Drop for Observer {
    fn drop(&mut self) {
        self.bus.remove_observer(self.slot, &self.watcher.interest.filters);
    }
}

impl fmt::Debug for Observer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Observer").field("interest", &self.watcher.interest).finish_non_exhaustive()
    }
}
