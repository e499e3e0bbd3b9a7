//! Queues, lanes, sizes, stopping.

use std::{sync::Arc, time::Duration};

use atra_bus::{Event, Seq};
use futures::FutureExt as _;

use super::{Recorder, Running, new, publish, running, running_with, state, step};
use crate::{
    Block, FactKind, FactWrite, Level, MemoryDisk, MemoryStore, NewEvent, Rejected, Storage, StorageOptions,
    StorageState,
    conformance::{event, name},
};

fn small() -> StorageOptions {
    StorageOptions {
        queue_commands_max: 2,
        queue_bytes_max: 10_000,
        command_bytes_max: 5_000,
        bulk_chunk_bytes: 5_000,
        ..Default::default()
    }
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_refuses_or_waits_and_loses_nothing() {
    let Running { storage, disk, released, actor: _actor, .. } = running_with(small(), &MemoryDisk::new()).await;
    disk.delay_commits(Some(Duration::from_secs(1)));
    let mut receipts = vec![storage.try_publish(publish(vec![new("x", "0", 0)])).expect("room")];
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    receipts.push(storage.try_publish(publish(vec![new("x", "0", 1)])).expect("room"));
    tokio::task::yield_now().await;
    for n in 2..=3 {
        receipts.push(storage.try_publish(publish(vec![new("x", "0", n)])).expect("room"));
    }
    let refused = storage.try_publish(publish(vec![new("x", "0", 4)])).expect_err("no room");
    let Rejected::Overloaded { queued: 2, commands_max: 2, retry_after, .. } = refused else { panic!("{refused:?}") };
    assert_eq!(retry_after, Duration::from_secs(1), "what the last commit took");
    assert!(refused.is_retryable());
    // Whoever comes again then finds room, and so does a caller that waits.
    tokio::time::sleep(retry_after + Duration::from_millis(10)).await;
    receipts.push(storage.try_publish(publish(vec![new("x", "0", 5)])).expect("room"));
    let last = storage.publish(publish(vec![new("x", "0", 6)])).await.expect("committed");
    assert_eq!(last.first, Seq(6));
    for receipt in receipts {
        receipt.await.expect("committed");
    }
    assert_eq!(released.seqs(), [1, 2, 3, 4, 5, 6]);
}

#[tokio::test(start_paused = true)]
async fn the_queue_is_bounded_by_bytes_too() {
    // Room for many commands, so that only bytes can be what is short.
    let options = StorageOptions { queue_commands_max: 100, ..small() };
    let Running { storage, disk, actor: _actor, .. } = running_with(options, &MemoryDisk::new()).await;
    disk.delay_commits(Some(Duration::from_secs(1)));
    let large = || publish(vec![new("x", &format!("\"{}\"", "x".repeat(4_000)), 1)]);
    let first = storage.try_publish(large()).expect("room");
    let second = storage.try_publish(large()).expect("room");
    assert!(matches!(storage.try_publish(large()), Err(Rejected::Overloaded { .. })));
    assert!(storage.metrics().queued_bytes > 8_000);
    let mut waiting = Box::pin(storage.submit(step("nobody", 1, 1, large().events)));
    assert!((&mut waiting).now_or_never().is_none(), "a submit waits for bytes");
    drop(waiting);
    let (first, second) = (first.await, second.await);
    assert!(first.is_ok() && second.is_ok());
    assert_eq!(storage.metrics().queued_bytes, 0);
    storage.try_publish(large()).expect("room again").await.expect("committed");

    let too_large = publish(vec![new("x", &format!("\"{}\"", "x".repeat(5_000)), 1)]);
    let refused = storage.publish(too_large).await;
    assert!(matches!(refused, Err(Rejected::TooLarge { limit: 5_000, .. })), "found {refused:?}");
}

#[tokio::test(start_paused = true)]
async fn a_payload_at_the_limit_is_taken_and_one_byte_more_is_refused_at_once() {
    let Running { storage, disk, actor: _actor, .. } = running_with(small(), &MemoryDisk::new()).await;
    let of = |n: usize| publish(vec![new("x", &format!("\"{}\"", "x".repeat(n)), n as u64)]);
    // The quotes, the topic, and what a row and a command cost besides.
    let most = small().command_bytes_max
        - crate::step::new_event_bytes("\"\"", &atra_bus::Topic::literal("x"))
        - crate::step::ROW_BYTES;
    storage.publish(of(most)).await.expect("committed");
    let refused = storage.publish(of(most + 1)).await;
    assert!(matches!(refused, Err(Rejected::TooLarge { bytes: 5_001, limit: 5_000 })), "found {refused:?}");
    assert_eq!((disk.n_commits(), storage.metrics().queued_bytes), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_step_is_committed_when_nobody_waits_for_it() {
    let Running { storage, released, actor: _actor, .. } = running().await;
    drop(storage.try_publish(publish(vec![new("x", "1", 1)])).expect("room"));
    storage.publish(publish(vec![new("x", "2", 2)])).await.expect("committed");
    assert_eq!(released.seqs(), [1, 2]);
}

#[tokio::test(start_paused = true)]
async fn a_stop_commits_what_was_queued_before_and_refuses_what_comes_after() {
    let Running { storage, disk, actor, released } = running().await;
    disk.delay_commits(Some(Duration::from_secs(1)));
    storage.raise_epoch(&name("t")).await.expect("raised");
    let mut receipts = Vec::new();
    for n in 1..=5_u64 {
        receipts.push(storage.submit(step("t", 1, n, vec![new("x", "1", n)])).await.expect("queued"));
    }
    let (first, second) = futures::join!(storage.stop(), storage.stop());
    first.expect("stopped");
    second.expect("stopping twice is fine");
    for receipt in receipts {
        receipt.now_or_never().expect("answered before the stop is").expect("committed");
    }
    assert_eq!(released.seqs(), [1, 2, 3, 4, 5]);
    assert!(matches!(storage.publish(publish(vec![])).await, Err(Rejected::Stopped)));
    assert!(matches!(storage.try_publish(publish(vec![])), Err(Rejected::Stopped)));
    storage.stop().await.expect("stopped already");
    assert_eq!(storage.metrics().state, StorageState::Stopped);
    assert!(actor.join().await);
}

#[tokio::test(start_paused = true)]
async fn the_actor_ends_when_the_last_handle_is_dropped() {
    let Running { storage, actor, released, .. } = running().await;
    drop(storage.try_publish(publish(vec![new("x", "1", 1)])).expect("room"));
    drop(storage);
    assert!(actor.join().await);
    assert_eq!(released.seqs(), [1], "what was queued is committed");
}

#[tokio::test(start_paused = true)]
async fn content_that_breaks_a_rule_is_refused_at_the_call() {
    let Running { storage, disk, actor: _actor, .. } = running().await;
    let passing = Event { durable: false, ..Event::clone(&event("a", "x", "1", 1)) };
    let passing = NewEvent { event: Arc::new(passing), ..new("x", "1", 1) };
    assert!(matches!(storage.publish(publish(vec![passing])).await, Err(Rejected::Invalid(_))));
    let memory = FactWrite { kind: FactKind::Memory, ..state("k", Some("1")) };
    assert!(matches!(storage.put_facts(vec![memory], Level::Process).await, Err(Rejected::Invalid(_))));
    assert_eq!(disk.n_commits(), 0);
}

fn block(start: i64, bytes: usize) -> Block {
    Block { series: name("s"), start, rows: 1, data: vec![0; bytes].into() }
}

#[tokio::test(start_paused = true)]
async fn blocks_are_chunked_and_neither_starve_turns_nor_are_starved() {
    let options =
        StorageOptions { bulk_chunk_bytes: 1_000, batch_commands_max: 4, bulk_skips_max: 3, ..Default::default() };
    let Running { storage, disk, actor: _actor, .. } = running_with(options, &MemoryDisk::new()).await;
    disk.delay_commits(Some(Duration::from_secs(1)));
    let import = async {
        storage.put_blocks((0..20).map(|n| block(n, 600)).collect()).await.expect("written");
        tokio::time::Instant::now()
    };
    let turns = async {
        // Turns fill every batch, always.
        let mut receipts = Vec::new();
        for n in 0..400 {
            receipts.push(storage.try_publish(publish(vec![new("x", "1", n)])).expect("room"));
        }
        for receipt in receipts {
            receipt.await.expect("committed");
        }
        tokio::time::Instant::now()
    };
    let started = tokio::time::Instant::now();
    let (imported, done) = futures::join!(import, turns);
    let (imported, done) = (imported - started, done - started);
    // 100 batches of turns; bulk is let in every fourth batch, and at most one chunk a batch.
    assert!(imported < done, "the import was starved: {imported:?} against {done:?}");
    assert!(done < Duration::from_secs(110), "the import delayed turns: {done:?}");
    assert_eq!(storage.reader().blocks(&name("s"), 0, 99, 99).await.expect("blocks").len(), 20);
}

#[tokio::test(start_paused = true)]
async fn control_goes_before_turns() {
    let Running { storage, disk, actor: _actor, .. } =
        running_with(StorageOptions { batch_commands_max: 2, ..Default::default() }, &MemoryDisk::new()).await;
    disk.delay_commits(Some(Duration::from_secs(1)));
    let turns: Vec<_> = (0..40).map(|n| storage.try_publish(publish(vec![new("x", "1", n)])).expect("room")).collect();
    let started = tokio::time::Instant::now();
    storage.put_facts(vec![state("k", Some("1"))], Level::Process).await.expect("written");
    assert!(started.elapsed() <= Duration::from_secs(2), "waited behind turns: {:?}", started.elapsed());
    for turn in turns {
        turn.await.expect("committed");
    }
}

#[tokio::test(start_paused = true)]
async fn a_bound_that_cannot_work_is_refused_with_its_name_and_range_and_never_changed() {
    type Change = fn(&mut StorageOptions);
    let cases: [(Change, &str); 9] = [
        (|options| options.queue_commands_max = 0, "storage.queue_commands_max = 0"),
        (|options| options.queue_commands_max = usize::MAX, "storage.queue_commands_max"),
        (|options| options.queue_bytes_max = u32::MAX as usize + 1, "storage.queue_bytes_max"),
        (
            |options| options.queue_bytes_max = 10_000,
            "storage.queue_bytes_max = 10000 is not allowed: at least 16777216 (command_bytes_max)",
        ),
        (|options| options.batch_commands_max = 0, "storage.batch_commands_max = 0"),
        (|options| options.lookups_max = 0, "storage.lookups_max = 0"),
        (|options| options.backoff_max = Duration::ZERO, "storage.backoff_max = 0ns"),
        (|options| options.checkpoint_after_idle = Duration::MAX, "storage.checkpoint_after_idle"),
        (|options| options.db_bytes_max = Some(0), "storage.db_bytes_max = 0"),
    ];
    for (change, expected) in cases {
        let mut options = StorageOptions::default();
        change(&mut options);
        let store = Box::new(MemoryStore::new());
        let opened = Storage::open(store, options, Arc::new(Recorder::default()), super::env()).await;
        let error = opened.err().unwrap_or_else(|| panic!("{expected} was accepted")).to_string();
        assert!(error.contains(expected), "{error:?} does not say {expected:?}");
    }
    assert_eq!(StorageOptions::default().check(), Ok(()));
}
