//! What each class of store error does.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use atra_bus::Seq;

use super::{Recorder, Running, new, publish, running, running_with, start, step};
use crate::{
    Level, Loaded, MemoryStore, Publish, Read, Rejected, Release, StorageOptions, StorageState, Store, StoreError,
    WriteBatch, conformance::name,
};

fn busy() -> StoreError {
    StoreError::Busy("test".into())
}

fn full() -> StoreError {
    StoreError::Full("test".into())
}

fn unknown() -> StoreError {
    StoreError::Unknown("test".into())
}

fn fatal() -> StoreError {
    StoreError::Fatal { path: "p".into(), cause: "test".into() }
}

#[tokio::test(start_paused = true)]
async fn a_busy_store_is_tried_again_and_given_up_after_the_limit() {
    let Running { storage, disk, released, actor: _actor, .. } = running().await;
    disk.fail_next(3, &busy());
    storage.publish(publish(vec![new("x", "1", 1)])).await.expect("committed at the fourth try");
    assert_eq!((storage.metrics().retries, released.seqs()), (3, vec![1]));

    let limit = StorageOptions::default().retries_max as usize;
    disk.fail_next(limit + 1, &busy());
    let failed = storage.publish(publish(vec![new("x", "2", 2)])).await.expect_err("given up");
    assert!(matches!(&failed, Rejected::Failed(StoreError::Busy(_))) && failed.is_retryable(), "found {failed:?}");
    // Nothing was written, and the next one takes the seq.
    assert_eq!(storage.publish(publish(vec![new("x", "3", 3)])).await.expect("committed").first, Seq(2));
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_holds_the_batch_until_there_is_space_while_reads_go_on() {
    let Running { storage, disk, released, actor: _actor, .. } = running().await;
    storage.publish(publish(vec![new("x", "1", 1)])).await.expect("committed");
    disk.fail_next(100, &full());
    let mut waiting = storage.try_publish(publish(vec![new("x", "2", 2)])).expect("room");
    let answered = tokio::time::timeout(Duration::from_secs(60), &mut waiting).await;
    assert!(answered.is_err(), "answered on a full disk: {answered:?}");
    assert_eq!(storage.metrics().state, StorageState::Degraded);
    assert_eq!(storage.reader().last_seq().await.expect("reads go on"), Seq(1));
    assert_eq!(waiting.await.expect("committed when there is space").first, Seq(2));
    assert_eq!((storage.metrics().state, released.seqs()), (StorageState::Running, vec![1, 2]));
}

#[tokio::test(start_paused = true)]
async fn a_stop_ends_the_waiting_for_a_full_disk() {
    let Running { storage, disk, actor: _actor, .. } = running().await;
    disk.fail_next(10_000, &full());
    let waiting = storage.try_publish(publish(vec![new("x", "1", 1)])).expect("room");
    tokio::time::sleep(Duration::from_secs(10)).await;
    storage.stop().await.expect("stopped");
    let answer = waiting.await;
    assert!(matches!(answer, Err(Rejected::Failed(StoreError::Full(_)))), "found {answer:?}");
}

#[tokio::test(start_paused = true)]
async fn an_unknown_outcome_is_looked_up_and_nothing_is_written_twice() {
    let Running { storage, disk, released, actor: _actor, .. } = running().await;
    storage.raise_epoch(&name("t")).await.expect("raised");
    // The answer got lost, the batch is there.
    disk.fail_next_after_effect(&unknown());
    let receipt = storage.submit(step("t", 1, 1, vec![new("x", "1", 1)])).await.expect("queued");
    assert_eq!(receipt.await.expect("found there").first, Seq(1));
    // The batch is not there: written again.
    disk.fail_next(1, &unknown());
    let receipt = storage.submit(step("t", 1, 2, vec![new("x", "2", 2)])).await.expect("queued");
    assert_eq!(receipt.await.expect("written").first, Seq(2));
    // Without events, the team's row tells.
    disk.fail_next_after_effect(&unknown());
    let receipt = storage.submit(step("t", 1, 3, vec![])).await.expect("queued");
    receipt.await.expect("found there");
    // Facts alone may be written twice.
    disk.fail_next_after_effect(&unknown());
    storage.put_facts(vec![super::state("k", Some("1"))], Level::Process).await.expect("written");
    assert_eq!(released.seqs(), [1, 2]);
    assert_eq!(storage.reader().last_seq().await.expect("a seq"), Seq(2));
}

#[tokio::test(start_paused = true)]
async fn level_power_is_never_claimed_after_a_failed_flush() {
    let Running { storage, disk, released, actor: _actor, .. } = running().await;
    disk.fail_next_after_effect(&unknown());
    let plain = storage.try_publish(publish(vec![new("x", "1", 1)])).expect("room");
    let power = |order: u64| Publish { level: Level::Power, ..publish(vec![new("x", "2", order)]) };
    let doubtful = storage.try_publish(power(2)).expect("room").await;
    assert!(matches!(doubtful, Err(Rejected::Unknown(_))), "found {doubtful:?}");
    assert_eq!(plain.await.expect("it is there").level, Level::Process);
    assert_eq!(released.seqs(), [1, 2], "what is committed is seen");
    disk.fail_renewals(Some(unknown()));
    let later = storage.publish(power(3)).await;
    assert!(matches!(later, Err(Rejected::Failed(StoreError::Unflushed(_)))), "found {later:?}");
    storage.publish(publish(vec![new("x", "4", 4)])).await.expect("level process goes on");
    assert_eq!(released.seqs(), [1, 2, 3]);
    // Written anew, and not before the pause is over.
    disk.fail_renewals(None);
    assert!(storage.publish(power(5)).await.is_err());
    tokio::time::sleep(StorageOptions::default().backoff_max).await;
    assert_eq!(storage.publish(power(6)).await.expect("promised again").level, Level::Power);
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_keeps_failing_ends_the_writing_and_nothing_is_called_absent() {
    let Running { storage, disk, actor, .. } = running().await;
    disk.fail_next(1_000, &unknown());
    let answer = storage.publish(publish(vec![new("x", "1", 1)])).await;
    assert!(matches!(answer, Err(Rejected::Unknown(_))), "found {answer:?}");
    assert!(actor.join().await, "the actor ends by itself");
    let later = storage.publish(publish(vec![new("x", "2", 2)])).await;
    assert!(matches!(later, Err(Rejected::Failed(StoreError::Failing { .. }))), "found {later:?}");
}

/// The batch could not be flushed: its commands are tried alone, and one that fails then may be there all the same.
#[tokio::test(start_paused = true)]
async fn a_command_of_a_batch_of_unknown_outcome_is_never_called_absent() {
    let Running { storage, disk, actor: _actor, .. } = running().await;
    disk.fail_next(1, &unknown());
    disk.fail_next(StorageOptions::default().retries_max as usize + 1, &busy());
    let plain = storage.try_publish(publish(vec![new("x", "1", 1)])).expect("room");
    let power = Publish { level: Level::Power, ..publish(vec![new("x", "2", 2)]) };
    let power = storage.try_publish(power).expect("room");
    let (plain, power) = (plain.await, power.await);
    assert!(matches!(plain, Err(Rejected::Unknown(_))), "found {plain:?}");
    assert!(power.is_ok(), "written anew, and then committed: {power:?}");
}

/// Refuses every batch that has an event on the topic `bad`.
struct Picky(MemoryStore);

#[async_trait]
impl Store for Picky {
    async fn load(&mut self) -> Result<Loaded, StoreError> {
        self.0.load().await
    }
    async fn commit(&mut self, batch: &WriteBatch) -> Result<(), StoreError> {
        match batch.events.iter().find(|event| event.event.topic.as_str() == "bad") {
            Some(_) => Err(StoreError::Invalid("test".into())),
            None => self.0.commit(batch).await,
        }
    }
    async fn checkpoint(&mut self) -> Result<(), StoreError> {
        self.0.checkpoint().await
    }
    async fn close(&mut self) -> Result<(), StoreError> {
        self.0.close().await
    }
    fn reader(&self) -> Arc<dyn Read> {
        self.0.reader()
    }
}

#[tokio::test(start_paused = true)]
async fn only_the_guilty_command_of_a_batch_fails() {
    let released = Arc::new(Recorder::default());
    let release = Arc::clone(&released) as Arc<dyn Release>;
    let (storage, _actor) = start(Box::new(Picky(MemoryStore::new())), StorageOptions::default(), release).await;
    let receipts: Vec<_> = ["x", "bad", "x", "x"]
        .iter()
        .zip(1..)
        .map(|(topic, n)| storage.try_publish(publish(vec![new(topic, "1", n)])).expect("room"))
        .collect();
    let mut answers = Vec::new();
    for receipt in receipts {
        answers.push(receipt.await.map(|acknowledged| acknowledged.first.get()).ok());
    }
    assert_eq!(answers, [Some(1), None, Some(2), Some(3)]);
    assert_eq!(released.seqs(), [1, 2, 3]);
}

#[tokio::test(start_paused = true)]
async fn waiting_for_space_is_not_held_against_the_disk() {
    let Running { storage, disk, actor: _actor, .. } = running().await;
    disk.fail_next(2 * StorageOptions::default().retries_max as usize, &StoreError::Full("test".into()));
    disk.fail_next(1, &StoreError::Unknown("test".into()));
    let committed = storage.publish(publish(vec![new("x", "1", 1)])).await;
    assert_eq!(committed.expect("committed").first, Seq(1));
}

#[tokio::test(start_paused = true)]
async fn a_fatal_error_answers_everybody_and_ends_the_writing() {
    let Running { storage, disk, actor, .. } = running().await;
    disk.delay_commits(Some(Duration::from_secs(1)));
    disk.fail_next(1, &fatal());
    let first = storage.try_publish(publish(vec![new("x", "1", 1)])).expect("room");
    tokio::task::yield_now().await;
    let queued = storage.try_publish(publish(vec![new("x", "2", 2)])).expect("room");
    for receipt in [first, queued] {
        let answer = receipt.await;
        assert!(matches!(answer, Err(Rejected::Failed(StoreError::Fatal { .. }))), "found {answer:?}");
    }
    assert!(actor.join().await, "the actor ends by itself");
    assert_eq!(storage.metrics().state, StorageState::Failed);
    let later = storage.publish(publish(vec![new("x", "3", 3)])).await;
    assert!(matches!(later, Err(Rejected::Failed(StoreError::Fatal { .. }))), "found {later:?}");
    assert!(matches!(storage.stop().await, Err(Rejected::Failed(_))));
    assert_eq!(storage.reader().last_seq().await.expect("reads go on"), Seq::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_second_writer_is_noticed() {
    let Running { storage, disk, actor: _actor, .. } = running().await;
    storage.raise_epoch(&name("t")).await.expect("raised");
    let mut other = MemoryStore::on(&disk);
    other.load().await.expect("loaded");
    let answer = storage.submit(step("t", 1, 1, vec![])).await.expect("queued").await;
    assert!(matches!(answer, Err(Rejected::Failed(StoreError::Fatal { .. }))), "found {answer:?}");
}

#[tokio::test(start_paused = true)]
async fn a_dropped_actor_leaves_nobody_waiting() {
    let Running { storage, disk, actor, .. } = running_with(StorageOptions::default(), &Default::default()).await;
    disk.delay_commits(Some(Duration::from_secs(1)));
    let receipt = storage.try_publish(publish(vec![new("x", "1", 1)])).expect("room");
    tokio::task::yield_now().await;
    drop(actor);
    let answer = receipt.await;
    assert!(matches!(answer, Err(Rejected::Unknown(_))), "found {answer:?}");
    assert!(storage.publish(publish(vec![])).await.is_err());
    assert!(storage.stop().await.is_err());
}

/// Fails the first commit, as if its row had been changed behind the actor's back, and then some loads.
struct Moved {
    store: MemoryStore,
    fault: Mutex<Option<StoreError>>,
    full_loads: u32,
}

#[async_trait]
impl Store for Moved {
    async fn load(&mut self) -> Result<Loaded, StoreError> {
        if self.fault.lock().expect("no panic while locked").is_none() && self.full_loads > 0 {
            self.full_loads -= 1;
            return Err(full());
        }
        self.store.load().await
    }
    async fn commit(&mut self, batch: &WriteBatch) -> Result<(), StoreError> {
        let fault = self.fault.lock().expect("no panic while locked").take();
        match fault {
            Some(error) => Err(error),
            None => self.store.commit(batch).await,
        }
    }
    async fn checkpoint(&mut self) -> Result<(), StoreError> {
        self.store.checkpoint().await
    }
    async fn close(&mut self) -> Result<(), StoreError> {
        self.store.close().await
    }
    fn reader(&self) -> Arc<dyn Read> {
        self.store.reader()
    }
}

#[tokio::test(start_paused = true)]
async fn after_a_conflict_commands_are_judged_by_what_is_stored() {
    let conflict = StoreError::Conflict { team: name("t"), epoch: 1, number: 0 };
    let store = Moved { store: MemoryStore::new(), fault: Mutex::new(Some(conflict)), full_loads: 0 };
    let (storage, _actor) = start(Box::new(store), StorageOptions::default(), Arc::new(Recorder::default())).await;
    let a = storage.try_publish(publish(vec![new("x", "1", 1)])).expect("room");
    let b = storage.try_publish(publish(vec![new("x", "2", 2)])).expect("room");
    assert_eq!(a.await.expect("committed").first, Seq(1));
    assert_eq!(b.await.expect("committed").first, Seq(2));
}

/// The log's index cannot grow on a full disk either: the outcome is unknown, and the store cannot be opened again.
#[tokio::test(start_paused = true)]
async fn a_store_that_cannot_be_opened_for_want_of_space_is_waited_for() {
    let full_loads = 3 * StorageOptions::default().retries_max;
    let store = Moved { store: MemoryStore::new(), fault: Mutex::new(Some(unknown())), full_loads };
    let (storage, _actor) = start(Box::new(store), StorageOptions::default(), Arc::new(Recorder::default())).await;
    let mut waiting = storage.try_publish(publish(vec![new("x", "1", 1)])).expect("room");
    let answered = tokio::time::timeout(Duration::from_secs(60), &mut waiting).await;
    assert!(answered.is_err(), "answered on a full disk: {answered:?}");
    assert_eq!(storage.metrics().state, StorageState::Degraded);
    assert_eq!(waiting.await.expect("committed when there is space").first, Seq(1));
    assert_eq!(storage.metrics().state, StorageState::Running);
}
