//! Closing, unregistering, wake-ups, errors of the journal, status.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Wake, Waker},
    time::Duration,
};

use atra_bus::{Batch, Seq, Subscription};
use futures::{FutureExt, StreamExt};

use crate::support::{Fixture, interest, interest_except, read_all, take_all};

#[tokio::test]
async fn closing_ends_every_stream_after_everything_that_was_released() {
    let mut fixture = Fixture::new(2);
    let mut live = fixture.bus.subscribe(interest(&["a"]), Seq(7));
    let mut lagging = fixture.bus.subscribe(interest(&["a"]), Seq::ZERO);
    (0..9).for_each(|_| fixture.release(&[("a", "x")]));
    fixture.bus.close();
    fixture.release(&[("a", "x")]);
    let mut late = fixture.bus.subscribe(interest(&["a"]), Seq(8));

    assert_eq!(fixture.bus.released(), Seq(9));
    assert_eq!(read_all(&mut live).await, [8, 9]);
    assert_eq!(take_all(&mut lagging, 2).await, [1, 2, 3, 4, 5, 6, 7, 8, 9]);
    assert_eq!(read_all(&mut late).await, [9]);
    assert!(late.next().await.is_none(), "an ended stream stays ended");
}

/// With the clock paused, the time-out fires as soon as nothing can run any more: a lost wake-up fails.
#[tokio::test(start_paused = true)]
async fn waiting_readers_are_woken_by_what_they_want_and_by_closing() {
    let mut fixture = Fixture::with(1, 0, 10);
    let mut subscription = fixture.bus.subscribe(interest(&["a"]), Seq::ZERO);
    let waiting = async {
        let mut seen = Vec::new();
        while let Some(event) = subscription.next().await {
            seen.push(event.unwrap().seq.get());
        }
        seen
    };
    let releasing = async {
        // One that fits, one that does not (the reader must be woken to read the journal), one unwanted.
        for events in [&[("a", "x")][..], &[("a", "x"), ("a", "x")], &[("b", "x")], &[("a", "x")]] {
            fixture.release(events);
            tokio::time::advance(Duration::from_millis(1)).await;
        }
        fixture.bus.close();
    };
    let both = tokio::time::timeout(Duration::from_secs(60), futures::future::join(waiting, releasing));
    assert_eq!(both.await.expect("a wake-up was lost").0, [1, 2, 3, 5]);
}

struct Woken(AtomicU64);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[tokio::test]
async fn a_reader_that_always_finds_something_lets_its_neighbours_run() {
    let mut fixture = Fixture::new(4_000);
    let mut subscription = fixture.bus.subscribe(interest(&["a"]), Seq::ZERO);
    (0..2_000).for_each(|_| fixture.release(&[("a", "x")]));
    let neighbour_ran = std::cell::Cell::new(false);
    let reading = async {
        for _ in 0..2_000 {
            subscription.next().await;
        }
        assert!(neighbour_ran.get(), "2,000 events were read in one go");
    };
    futures::future::join(reading, async { neighbour_ran.set(true) }).await;
}

#[test]
fn only_those_who_want_it_are_woken() {
    let mut fixture = Fixture::new(8);
    let woken = Arc::new(Woken(AtomicU64::new(0)));
    let waker = Waker::from(woken.clone());
    let mut subscription = fixture.bus.subscribe(interest_except(&["a"], &["y"]), Seq::ZERO);
    let poll = |subscription: &mut Subscription| subscription.poll_next_unpin(&mut Context::from_waker(&waker));

    // The first poll that finds nothing gives the others a turn: it wakes itself, once.
    assert!(poll(&mut subscription).is_pending());
    assert_eq!(woken.0.load(Ordering::Relaxed), 1);
    assert!(poll(&mut subscription).is_pending());
    fixture.release(&[("b", "x")]);
    fixture.release(&[("a", "y"), ("b", "x")]);
    assert_eq!(woken.0.load(Ordering::Relaxed), 1);
    fixture.release(&[("a", "x")]);
    assert_eq!(woken.0.load(Ordering::Relaxed), 2);
    assert!(poll(&mut subscription).is_ready());
}

/// Waking may run foreign code; a waker that drops a subscription must not meet a held lock.
#[test]
fn a_waker_that_drops_a_subscription_does_no_harm() {
    struct Dropping(std::sync::Mutex<Option<Subscription>>);
    impl Wake for Dropping {
        fn wake(self: Arc<Self>) {
            let held = self.0.lock().unwrap().take();
            drop(held);
        }
    }
    let idle = Waker::noop();
    let mut fixture = Fixture::new(8);
    let other = fixture.bus.subscribe(interest(&["a"]), Seq::ZERO);
    let waker = Waker::from(Arc::new(Dropping(std::sync::Mutex::new(Some(other)))));
    let mut subscription = fixture.bus.subscribe(interest(&["a"]), Seq::ZERO);
    // The first poll wakes itself; the second one waits.
    assert!(subscription.poll_next_unpin(&mut Context::from_waker(idle)).is_pending());
    assert!(subscription.poll_next_unpin(&mut Context::from_waker(&waker)).is_pending());
    assert_eq!(fixture.bus.subscribers().len(), 2);
    fixture.release(&[("a", "x")]);
    assert_eq!(fixture.bus.subscribers().len(), 1);
}

#[tokio::test]
async fn a_dropped_subscription_is_unregistered_and_takes_nothing_more() {
    let mut fixture = Fixture::new(8);
    let kept = fixture.bus.subscribe(interest(&["a", "a.>"]), Seq::ZERO);
    let dropped = fixture.bus.subscribe(interest(&["a", "*"]), Seq::ZERO);
    fixture.release(&[("a", "x")]);
    assert_eq!(
        fixture.bus.subscribers().iter().map(|status| (status.id, status.queued)).collect::<Vec<_>>(),
        [(1, 1), (2, 1)]
    );

    drop(dropped);
    let batch = fixture.commit(&[("a", "x")]);
    fixture.bus.release(&batch);
    assert_eq!(Arc::strong_count(&batch), 1, "one event is copied, not its batch");
    let status = fixture.bus.subscribers();
    assert_eq!((status.len(), status[0].id, status[0].queued), (1, 1, 2));

    // The slot is used again, by somebody who wants something else.
    let mut third = fixture.bus.subscribe(interest(&["b"]), Seq(2));
    fixture.release(&[("a", "x")]);
    assert_eq!(third.take_ready(&mut VecDeque::new(), 9), 0);
    assert_eq!(fixture.bus.subscribers()[1].id, 3);
    drop(kept);
}

/// A queue of n events may keep at most 8 n alive: a sparse reader must not hold large batches.
#[test]
fn a_reader_of_little_does_not_keep_large_batches_alive() {
    let mut fixture = Fixture::new(64);
    let _sparse = fixture.bus.subscribe(interest(&["a"]), Seq::ZERO);
    let mut events = vec![("b", "x"); 100];
    events[40] = ("a", "x");
    events[41] = ("a", "x");
    let batch = fixture.commit(&events);
    fixture.bus.release(&batch);
    assert_eq!(Arc::strong_count(&batch), 1);
    let batch = fixture.commit(&[("a", "x"); 20]);
    fixture.bus.release(&batch);
    assert_eq!(Arc::strong_count(&batch), 2, "a batch that is wanted whole is shared");
}

#[tokio::test]
async fn a_failed_journal_read_is_told_loses_nothing_and_can_be_tried_again() {
    let mut fixture = Fixture::new(2);
    (0..5).for_each(|_| fixture.release(&[("a", "x")]));
    let mut subscription = fixture.bus.subscribe(interest(&["a"]), Seq(1));
    fixture.journal.failing.store(true, Ordering::Relaxed);

    let error = subscription.next().await.unwrap().unwrap_err();
    assert_eq!((error.after, error.retryable), (Seq(1), true));
    // By `ready`: true, nothing to take, and `next` has the error at once.
    assert!(subscription.ready().await);
    assert_eq!(subscription.take_ready(&mut VecDeque::new(), 9), 0);
    assert!(subscription.next().now_or_never().unwrap().unwrap().is_err());
    assert_eq!(subscription.cursor(), Seq(1));

    fixture.journal.failing.store(false, Ordering::Relaxed);
    fixture.bus.close();
    assert_eq!(read_all(&mut subscription).await, [2, 3, 4, 5]);
}

#[test]
fn status_shows_queue_and_lag() {
    let mut fixture = Fixture::new(2);
    let mut subscription = fixture.bus.subscribe(interest(&["a"]), Seq::ZERO);
    (0..3).for_each(|_| fixture.release(&[("a", "x")]));
    let status = &fixture.bus.subscribers()[0];
    assert_eq!((status.queued, status.lagging, status.lagged), (2, true, 1));
    subscription.take_ready(&mut VecDeque::new(), 9);
    assert_eq!(fixture.bus.subscribers()[0].queued, 0);
}

#[test]
#[should_panic(expected = "batch from 1 on, but 1 is released")]
fn a_batch_that_was_released_before_is_a_bug() {
    let mut fixture = Fixture::new(2);
    let batch: Arc<Batch> = fixture.commit(&[("a", "x")]);
    fixture.bus.release(&batch);
    fixture.bus.release(&batch);
}

#[test]
fn handles_and_streams_can_move_and_be_shared_between_threads() {
    fn both<T: Send + Sync>() {}
    both::<atra_bus::Bus>();
    both::<Subscription>();
    both::<atra_bus::Observer>();
}
