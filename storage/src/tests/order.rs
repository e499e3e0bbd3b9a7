//! What is accepted, and in which order it is committed, released and answered.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use atra_bus::{Batch, Env as _, EventId, Filter, Interest, Seq, SimEnv, Timestamp};
use futures::FutureExt as _;

use super::{Recorder, Running, new, publish, running, running_with, start, state, step};
use crate::{
    Ancestor, FactKind, Level, MemoryDisk, MemoryStore, NewEvent, Publish, Receipt, Rejected, Release, Storage,
    StorageOptions, conformance::name,
};

#[tokio::test(start_paused = true)]
async fn nothing_is_answered_before_it_is_committed() {
    let Running { storage, disk, released, actor: _actor, .. } = running().await;
    disk.delay_commits(Some(Duration::from_secs(10)));
    let mut receipt = storage.try_publish(publish(vec![new("x", "1", 1)])).expect("room");

    tokio::time::sleep(Duration::from_secs(9)).await;
    assert!((&mut receipt).now_or_never().is_none(), "answered while the commit was running");
    assert_eq!(disk.n_commits(), 0);
    assert_eq!(storage.released(), Seq::ZERO);

    let acknowledged = receipt.await.expect("committed");
    assert_eq!((acknowledged.first, acknowledged.last), (Seq(1), Seq(1)));
    assert_eq!(disk.n_commits(), 1);
    assert_eq!(storage.released(), Seq(1));
    assert_eq!(released.seqs(), [1]);
}

/// Looks, at the moment of the release, whether the caller has been answered already.
#[derive(Default)]
struct Early {
    receipt: Mutex<Option<Receipt>>,
    was_answered: Mutex<Option<bool>>,
}

impl Release for Early {
    fn release(&self, _: &Arc<Batch>) {
        let mut receipt = self.receipt.lock().expect("no panic while locked");
        let answer = receipt.as_mut().and_then(|receipt| receipt.now_or_never());
        *self.was_answered.lock().expect("no panic while locked") = Some(answer.is_some());
    }
}

#[tokio::test(start_paused = true)]
async fn a_batch_is_released_before_its_callers_are_answered() {
    let early = Arc::new(Early::default());
    let release = Arc::clone(&early) as Arc<dyn Release>;
    let (storage, _actor) = start(Box::new(MemoryStore::new()), StorageOptions::default(), release).await;
    let receipt = storage.try_publish(publish(vec![new("x", "1", 1)])).expect("room");
    *early.receipt.lock().expect("no panic while locked") = Some(receipt);
    storage.publish(publish(vec![new("x", "2", 2)])).await.expect("committed");
    assert_eq!(*early.was_answered.lock().expect("no panic while locked"), Some(false));
}

#[tokio::test(start_paused = true)]
async fn what_queued_while_a_commit_ran_is_one_batch() {
    let Running { storage, disk, released, actor: _actor, .. } = running().await;
    disk.delay_commits(Some(Duration::from_secs(1)));
    let first = storage.try_publish(publish(vec![new("x", "0", 0)])).expect("room");
    tokio::task::yield_now().await;
    let rest: Vec<_> = (1..=300)
        .map(|n| storage.try_publish(publish(vec![new("x", "0", n * 2), new("x", "0", n * 2 + 1)])).expect("room"))
        .collect();
    first.await.expect("committed");
    for (receipt, n) in rest.into_iter().zip(0..) {
        let acknowledged = receipt.await.expect("committed");
        assert_eq!((acknowledged.first, acknowledged.last), (Seq(2 + n * 2), Seq(3 + n * 2)), "first in, first out");
    }
    assert_eq!(disk.n_commits(), 2);
    assert_eq!(released.seqs(), (1..=601).collect::<Vec<_>>(), "released without gaps, in order");
    let metrics = storage.metrics();
    assert_eq!((metrics.batches, metrics.steps, metrics.events, metrics.queued), (2, 301, 601, 0));
}

#[tokio::test(start_paused = true)]
async fn a_batch_of_small_commands_is_a_whole_statement_and_the_rest_comes_next() {
    let Running { storage, released, actor: _actor, .. } = running().await;
    let receipts: Vec<_> =
        (0..300).map(|n| storage.try_publish(publish(vec![new("x", "0", n)])).expect("room")).collect();
    for (receipt, n) in receipts.into_iter().zip(1..) {
        assert_eq!(receipt.await.expect("committed").first, Seq(n), "first in, first out");
    }
    let batches = released.0.lock().expect("no panic while locked");
    assert_eq!(batches.iter().map(|batch| batch.events.len()).collect::<Vec<_>>(), [256, 44]);
}

#[tokio::test(start_paused = true)]
async fn a_batch_is_bounded_by_count_and_by_bytes() {
    // Of 1,001 bytes and what a row and a command cost besides, the fourth crosses the line of 4,000.
    for (commands_max, bytes_max, expected) in [(1_024, 4_000, [4, 4, 2].as_slice()), (3, 1 << 20, &[3, 3, 3, 1])] {
        let options =
            StorageOptions { batch_commands_max: commands_max, batch_bytes_max: bytes_max, ..Default::default() };
        let Running { storage, released, actor: _actor, .. } = running_with(options, &MemoryDisk::new()).await;
        let json = format!("\"{}\"", "x".repeat(1_001 - 2));
        let receipts: Vec<_> =
            (0..10).map(|n| storage.try_publish(publish(vec![new("x", &json, n)])).expect("room")).collect();
        for receipt in receipts {
            receipt.await.expect("committed");
        }
        let batches = released.0.lock().expect("no panic while locked");
        assert_eq!(batches.iter().map(|batch| batch.events.len()).collect::<Vec<_>>(), expected);
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_does_not_wait_for_the_next_commit() {
    let Running { storage, disk, actor: _actor, .. } = running().await;
    disk.delay_commits(Some(Duration::from_secs(10)));
    let mut first = storage.try_publish(publish(vec![new("x", "0", 0)])).expect("room");
    tokio::task::yield_now().await;
    let mut second = storage.try_publish(publish(vec![new("x", "0", 1)])).expect("room");

    tokio::time::sleep(Duration::from_secs(11)).await;
    assert_eq!(disk.n_commits(), 1, "the second commit is under way");
    assert_eq!((&mut first).now_or_never().expect("answered").expect("committed").first, Seq(1));
    assert!((&mut second).now_or_never().is_none());

    // Nothing comes after it: it is answered at once.
    let (before, answer) = (tokio::time::Instant::now(), second.await);
    assert_eq!(answer.expect("committed").first, Seq(2));
    assert_eq!(before.elapsed(), Duration::from_secs(9));
}

#[tokio::test(start_paused = true)]
async fn what_is_committed_is_answered_by_the_task_that_was_split_off() {
    let store = Box::new(MemoryStore::new());
    let opened = Storage::open(store, StorageOptions::default(), Arc::new(Recorder::default()), super::env()).await;
    let (storage, mut actor) = opened.expect("a sound store opens");
    let mut answers = Box::pin(actor.answers_apart());
    let _actor = SimEnv::new(1, Timestamp(0)).spawn("storage", Box::pin(actor.run()));

    let mut first = storage.try_publish(publish(vec![new("x", "0", 0)])).expect("room");
    let second = storage.try_publish(publish(vec![new("x", "0", 1)])).expect("room");
    while storage.released() < Seq(2) {
        tokio::task::yield_now().await;
    }
    assert!((&mut first).now_or_never().is_none(), "the task has not run");
    assert!((&mut answers).now_or_never().is_none(), "more may come");
    let [first, second] = [first, second].map(|receipt| receipt.now_or_never().expect("answered").expect("committed"));
    assert_eq!((first.first, second.first), (Seq(1), Seq(2)));

    // Without the task the actor answers; a stop is answered last.
    drop(answers);
    let last = storage.try_publish(publish(vec![new("x", "0", 2)])).expect("room");
    storage.stop().await.expect("stopped");
    assert_eq!(last.now_or_never().expect("answered before the stop").expect("committed").first, Seq(3));
}

#[tokio::test(start_paused = true)]
async fn a_step_of_an_older_epoch_is_refused() {
    let Running { storage, disk, actor: _actor, .. } = running().await;
    let team = name("t");
    let row = storage.raise_epoch(&team).await.expect("raised");
    assert_eq!((row.epoch, row.number, row.cursor), (1, 0, Seq::ZERO));
    storage.submit(step("t", 1, 1, vec![])).await.expect("queued").await.expect("committed");

    // Queued before the epoch is raised: committed. Queued after it: refused.
    let before = storage.submit(step("t", 1, 2, vec![new("x", "1", 1)])).await.expect("queued");
    let raised = storage.raise_epoch(&team);
    let after = async { storage.submit(step("t", 1, 3, vec![new("x", "2", 2)])).await.expect("queued").await };
    let (raised, after) = futures::join!(biased_first(raised), after);
    before.await.expect("committed, since it was queued before");
    let row = raised.expect("raised");
    assert_eq!((row.epoch, row.number), (2, 2), "the row says what was committed");
    assert!(matches!(after, Err(Rejected::Stale { epoch: 1, newest: 2, .. })), "found {after:?}");
    let never = storage.submit(step("u", 1, 1, vec![])).await.expect("queued").await;
    assert!(matches!(never, Err(Rejected::Stale { newest: 0, .. })), "found {never:?}");
    let future = storage.submit(step("t", 3, 3, vec![])).await.expect("queued").await;
    assert!(matches!(future, Err(Rejected::Stale { epoch: 3, newest: 2, .. })), "found {future:?}");
    assert_eq!(storage.reader().last_seq().await.expect("a seq"), Seq(1));
    // A reopened store knows the epoch.
    let again = running_with(StorageOptions::default(), &disk).await;
    assert_eq!(again.storage.raise_epoch(&team).await.expect("raised").epoch, 3);
}

/// Names the future that is polled first, and so queued first.
async fn biased_first<T>(future: impl Future<Output = T>) -> T {
    future.await
}

#[tokio::test(start_paused = true)]
async fn a_refused_step_changes_nothing_and_hurts_no_other() {
    let Running { storage, disk, released, actor: _actor, .. } = running().await;
    storage.raise_epoch(&name("t")).await.expect("raised");
    storage.raise_epoch(&name("u")).await.expect("raised");
    disk.delay_commits(Some(Duration::from_secs(1)));
    let blocker = storage.try_publish(publish(vec![new("x", "0", 0)])).expect("room");
    tokio::task::yield_now().await;
    let n_commits = disk.n_commits();

    let mut refused = step("t", 1, 2, vec![new("memory.k", "\"bad\"", 1)]);
    refused.facts.push(state("s", Some("\"bad\"")));
    let refused = storage.submit(refused).await.expect("queued");
    let good = storage.submit(step("t", 1, 1, vec![new("x", "1", 2)])).await.expect("queued");
    let next = storage.submit(step("t", 1, 2, vec![new("x", "2", 3)])).await.expect("queued");
    let other = storage.submit(step("u", 1, 1, vec![new("x", "3", 4)])).await.expect("queued");
    blocker.await.expect("committed");

    let refused = refused.await;
    assert!(matches!(refused, Err(Rejected::OutOfOrder { number: 2, expected: 1, .. })), "found {refused:?}");
    assert_eq!(good.await.expect("committed").first, Seq(2));
    assert_eq!(next.await.expect("committed").first, Seq(3));
    assert_eq!(other.await.expect("committed").first, Seq(4));
    assert_eq!(disk.n_commits(), n_commits + 2, "the blocker, and one batch for all");
    assert_eq!(released.seqs(), [1, 2, 3, 4]);
    let reader = storage.reader();
    assert!(reader.facts(FactKind::Memory, None).await.expect("facts").is_empty());
    assert!(reader.facts(FactKind::State, None).await.expect("facts").is_empty());
}

#[tokio::test(start_paused = true)]
async fn causes_within_a_step_become_seqs() {
    let Running { storage, released, actor: _actor, .. } = running().await;
    storage.publish(publish(vec![new("x", "0", 0)])).await.expect("committed");
    let caused = |ancestor, order| NewEvent { ancestor, seen: Some(Seq(1)), ..new("x", "1", order) };
    let events = vec![
        caused(Ancestor::Seq(Seq(1)), 1),
        caused(Ancestor::InStep(0), 2),
        caused(Ancestor::InStep(1), 3),
        caused(Ancestor::None, 4),
    ];
    storage.publish(publish(events)).await.expect("committed");
    let batches = released.0.lock().expect("no panic while locked").clone();
    let causes: Vec<_> = batches[1].events.iter().map(|event| event.cause_seq.map(Seq::get)).collect();
    assert_eq!(causes, [Some(1), Some(2), Some(3), None]);
    assert!(batches[1].events.iter().all(|event| event.seen == Some(Seq(1))));

    let unborn = storage.publish(publish(vec![caused(Ancestor::Seq(Seq(99)), 5)])).await;
    assert!(matches!(unborn, Err(Rejected::Invalid(_))), "found {unborn:?}");
    let itself = storage.publish(publish(vec![caused(Ancestor::InStep(0), 6)])).await;
    assert!(matches!(itself, Err(Rejected::Invalid(_))), "found {itself:?}");
}

#[tokio::test(start_paused = true)]
async fn an_event_on_a_memory_topic_is_the_write() {
    let Running { storage, actor: _actor, .. } = running().await;
    let mut both = publish(vec![new("memory.k", "1", 1), new("memory.k", "{\"v\":2}", 2), new("memory.gone", "3", 3)]);
    both.facts = vec![state("s", Some("1")), state("s", Some("2"))];
    storage.publish(both).await.expect("committed");
    storage.publish(publish(vec![new("memory.gone", "null", 4)])).await.expect("committed");

    let reader = storage.reader();
    let facts = reader.facts(FactKind::Memory, None).await.expect("facts");
    assert_eq!(facts.len(), 1, "null removes");
    assert_eq!(facts[0].value.as_deref(), Some("{\"v\":2}"), "the last write wins");
    assert_eq!((facts[0].version, facts[0].event), (Seq(2), Some(EventId::of(&name("a"), "2"))));
    let fact = reader.fact(FactKind::State, &name("a"), "s").await.expect("a read").expect("a fact");
    assert_eq!((fact.value.as_deref(), fact.version), (Some("2"), Seq(3)));
    let all = Interest::in_topics(vec![Filter::all()]);
    assert_eq!(reader.journal_tail(&all, 9).await.expect("a tail").len(), 4, "the journal has every write");
}

fn keyed(key: &str, order: u64) -> Publish {
    Publish { key: Some((name("caller"), key.into())), ..publish(vec![new("x", "1", order), new("x", "2", order + 1)]) }
}

#[tokio::test(start_paused = true)]
async fn a_repeated_key_is_answered_with_the_first_seqs() {
    let Running { storage, disk, released, actor: _actor, .. } = running().await;
    // Within one batch.
    let (a, b) = (storage.try_publish(keyed("k", 1)).expect("room"), storage.try_publish(keyed("k", 9)).expect("room"));
    let first = a.await.expect("committed");
    let second = b.await.expect("known");
    assert!(!first.repeated && second.repeated);
    assert_eq!((first.first, first.last), (Seq(1), Seq(2)));
    assert_eq!((second.first, second.last), (Seq(1), Seq(2)));
    // Later, and by a reopened store.
    assert!(storage.publish(keyed("k", 20)).await.expect("known").repeated);
    let again = running_with(StorageOptions::default(), &disk).await;
    let third = again.storage.publish(keyed("k", 30)).await.expect("known");
    assert!(third.repeated && third.first == Seq(1));
    // The key is the caller's own.
    let other = Publish { key: Some((name("other"), "k".into())), ..keyed("k", 40) };
    assert!(!again.storage.publish(other).await.expect("committed").repeated);
    assert_eq!(released.seqs(), [1, 2]);
}

#[tokio::test(start_paused = true)]
async fn a_repeat_at_a_higher_level_is_flushed_before_it_is_answered() {
    let Running { storage, disk, actor: _actor, .. } = running().await;
    let first = storage.publish(keyed("k", 1)).await.expect("committed");
    assert_eq!(first.level, Level::Process);
    let n_commits = disk.n_commits();
    let repeat = storage.publish(Publish { level: Level::Power, ..keyed("k", 1) }).await.expect("known");
    assert!(repeat.repeated && repeat.level == Level::Power && repeat.first == Seq(1));
    assert_eq!(disk.n_commits(), n_commits + 1, "a flush needs something to write");
    let plain = storage.publish(keyed("k", 1)).await.expect("known");
    assert_eq!(plain.level, Level::Process, "nothing more is claimed than is known");
    assert_eq!(disk.n_commits(), n_commits + 1, "nothing to write, nothing committed");
}

#[tokio::test(start_paused = true)]
async fn a_condition_is_checked_against_the_newest_write() {
    let Running { storage, actor: _actor, .. } = running().await;
    let put = |expect: Option<EventId>, json: &str, order: u64| Publish {
        expect: Some(("k".into(), expect)),
        ..publish(vec![new("memory.k", json, order)])
    };
    let id = |order: u64| EventId::of(&name("a"), &order.to_string());
    // Two at once in one batch: only the first finds the key missing.
    let (a, b) =
        (storage.try_publish(put(None, "1", 1)).expect("room"), storage.try_publish(put(None, "2", 2)).expect("room"));
    a.await.expect("committed");
    let lost = b.await;
    assert!(matches!(lost, Err(Rejected::Conflict { found: Some(found), .. }) if found == id(1)), "found {lost:?}");
    // From the store, and through a removal.
    storage.publish(put(Some(id(1)), "3", 3)).await.expect("committed");
    let lost = storage.publish(put(Some(id(1)), "4", 4)).await;
    assert!(matches!(lost, Err(Rejected::Conflict { .. })), "found {lost:?}");
    storage.publish(put(Some(id(3)), "null", 5)).await.expect("removed");
    storage.publish(put(None, "6", 6)).await.expect("it does not exist any more");
}

#[tokio::test(start_paused = true)]
async fn the_answer_names_the_level_that_was_reached() {
    let Running { storage, actor: _actor, .. } = running().await;
    let plain = storage.try_publish(publish(vec![new("x", "1", 1)])).expect("room");
    let power = storage.try_publish(Publish { level: Level::Power, ..publish(vec![new("x", "2", 2)]) }).expect("room");
    assert_eq!(power.await.expect("committed").level, Level::Power);
    assert_eq!(plain.await.expect("committed").level, Level::Power, "the batch was flushed as a whole");
    // A publish of nothing flushes nothing, so it does not raise what others are told.
    let plain = storage.try_publish(keyed("k", 3)).expect("room");
    let empty = storage.try_publish(Publish { level: Level::Power, ..publish(vec![]) }).expect("room");
    assert_eq!(plain.await.expect("committed").level, Level::Process);
    let empty = empty.await.expect("nothing to do");
    assert_eq!(empty.first, empty.last.next(), "an empty range");
}

#[tokio::test(start_paused = true)]
async fn a_reopened_store_goes_on_at_the_next_seq() {
    let disk = MemoryDisk::new();
    let first = running_with(StorageOptions::default(), &disk).await;
    first.storage.publish(publish(vec![new("x", "1", 1)])).await.expect("committed");
    first.actor.abort();
    let second = running_with(StorageOptions::default(), &disk).await;
    assert_eq!(second.storage.released(), Seq(1));
    assert_eq!(second.storage.publish(publish(vec![new("x", "2", 2)])).await.expect("committed").first, Seq(2));
}
