//! Panics inside the actor, and ending it without a stop.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

use atra_bus::Batch;

use super::{Running, new, publish, running, start};
use crate::{MemoryDisk, MemoryStore, Rejected, Release, StorageOptions, StorageState, StoreError};

/// Panics from its second batch on.
#[derive(Default)]
struct Fragile(AtomicBool);

impl Release for Fragile {
    fn release(&self, _batch: &Arc<Batch>) {
        assert!(!self.0.swap(true, Ordering::SeqCst), "the second batch");
    }
}

#[tokio::test(start_paused = true)]
async fn a_panic_in_the_actor_is_told_to_everybody_who_calls_afterwards_and_by_the_stop() {
    let disk = MemoryDisk::new();
    let store = Box::new(MemoryStore::on(&disk));
    let (storage, actor) = start(store, StorageOptions::default(), Arc::new(Fragile::default())).await;
    storage.publish(publish(vec![new("x", "0", 0)])).await.expect("the first batch");

    // Committed, but not acknowledged to the caller: unknown, not absent.
    let during = storage.publish(publish(vec![new("x", "0", 1)])).await;
    assert!(matches!(during, Err(Rejected::Unknown(_))), "found {during:?}");

    let expected = |cause: &StoreError| matches!(cause, StoreError::Panicked(text) if text == "the second batch");
    let after = storage.publish(publish(vec![new("x", "0", 2)])).await;
    assert!(matches!(&after, Err(Rejected::Failed(cause)) if expected(cause)), "found {after:?}");
    assert!(storage.failure().as_ref().is_some_and(expected));
    assert_eq!(storage.metrics().state, StorageState::Failed);
    let stopped = storage.stop().await;
    assert!(matches!(&stopped, Err(Rejected::Failed(cause)) if expected(cause)), "found {stopped:?}");
    assert!(actor.join().await, "the panic stayed inside");
    assert_eq!(disk.n_events(), 2);
}

/// A waker of a foreign executor that is broken.
struct Broken;

impl Wake for Broken {
    fn wake(self: Arc<Self>) {
        panic!("waker");
    }
}

#[tokio::test(start_paused = true)]
async fn a_waker_that_panics_takes_no_answer_of_another_with_it() {
    let Running { storage, actor: _actor, .. } = running().await;
    let mut first = storage.try_publish(publish(vec![new("x", "0", 0)])).expect("room");
    let second = storage.try_publish(publish(vec![new("x", "0", 1)])).expect("room");
    let waker = Waker::from(Arc::new(Broken));
    assert!(std::pin::Pin::new(&mut first).poll(&mut Context::from_waker(&waker)).is_pending());

    second.await.expect("answered all the same");
    let first = std::pin::Pin::new(&mut first).poll(&mut Context::from_waker(Waker::noop()));
    assert!(matches!(first, Poll::Ready(Ok(_))), "found {first:?}");
    storage.publish(publish(vec![new("x", "0", 2)])).await.expect("the actor goes on");
}

#[tokio::test(start_paused = true)]
async fn an_abort_finishes_the_commit_under_way_and_refuses_what_is_queued_however_busy_the_store_is() {
    let Running { storage, disk, actor, .. } = running().await;
    disk.delay_commits(Some(Duration::from_secs(10)));
    let first = storage.try_publish(publish(vec![new("x", "0", 0)])).expect("room");
    tokio::task::yield_now().await;
    let second = storage.try_publish(publish(vec![new("x", "0", 1)])).expect("room");
    storage.abort();
    storage.ended().await;
    first.await.expect("it was under way");
    assert!(matches!(second.await, Err(Rejected::Stopped)));
    assert!(matches!(storage.publish(publish(vec![new("x", "0", 2)])).await, Err(Rejected::Stopped)));
    assert!(actor.join().await);
    assert_eq!(disk.n_events(), 1);

    // A busy store is tried for half a minute otherwise.
    let Running { storage, disk, actor, .. } = running().await;
    disk.fail_next(1_000, &StoreError::Busy("test".into()));
    let busy = storage.try_publish(publish(vec![new("x", "0", 0)])).expect("room");
    tokio::time::sleep(Duration::from_secs(4)).await;
    let asked = tokio::time::Instant::now();
    storage.abort();
    storage.ended().await;
    assert!(matches!(busy.await, Err(Rejected::Stopped)));
    assert_eq!(asked.elapsed(), Duration::ZERO);
    assert!(actor.join().await);
}

#[tokio::test(start_paused = true)]
async fn an_idle_actor_is_ended_by_an_abort() {
    let Running { storage, actor, .. } = running().await;
    storage.abort();
    storage.ended().await;
    assert!(actor.join().await);
}
