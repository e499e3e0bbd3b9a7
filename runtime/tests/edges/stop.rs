//! Stops: orders that no queue can hide, and what is left afterwards.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use atra_bus::{Draft, Filter, Seq};
use atra_runtime::{AgentError, AgentSpec, Limits, Query, Runtime, RuntimeBuilder, RuntimeError, TeamState};
use atra_storage::{MemoryStore, SqliteOptions, SqliteStore};
use serde_json::Value;
use tokio::sync::Notify;

use crate::support::{idle, team, topic};

/// Lets a stuck turn end, also when the test fails: its worker would be waited for.
struct Releasing(Arc<AtomicBool>);

impl Drop for Releasing {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// A team whose turn never yields until `is_released`; it notifies `has_begun` when it runs.
fn stuck(is_released: &Arc<AtomicBool>, has_begun: &Arc<Notify>) -> atra_runtime::Team {
    let (is_released, has_begun) = (is_released.clone(), has_begun.clone());
    team(AgentSpec::new("a").subscribes("in.*"), move |_, _| {
        has_begun.notify_one();
        while !is_released.load(Ordering::SeqCst) {
            std::thread::yield_now();
        }
        Ok(())
    })
}

fn query() -> Query {
    Query { name: "q".into(), arguments: Value::Null }
}

/// A team that fails on every input, and pauses for an hour of virtual time before it tries again.
fn backing_off() -> atra_runtime::Team {
    let limits = Limits { backoff_first_ms: 3_600_000, backoff_max_ms: 3_600_000, ..Limits::default() };
    team(AgentSpec::new("a").subscribes("in.*"), |_, _| Err(AgentError::new("always"))).limits(limits)
}

/// Asks `n` questions that nobody answers, and lets them wait.
async fn questions(runtime: &Runtime, n: usize) {
    for _ in 0..n {
        let runtime = runtime.clone();
        let ask = async move { drop(runtime.query("a", query()).await) };
        #[expect(clippy::disallowed_methods, reason = "a test's own callers")]
        drop(tokio::spawn(ask));
    }
    for _ in 0..n {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn no_number_of_waiting_questions_hides_a_stop_from_a_team_that_backs_off() {
    for n in [0, 64, 200] {
        let runtime =
            RuntimeBuilder::new(MemoryStore::new()).own_thread(false).team(backing_off()).start().await.unwrap();
        runtime.publish(Draft::new(topic("in.x"), 1)).await.unwrap();
        runtime.until_state("a", |state| matches!(state, TeamState::Restarting { .. })).await.unwrap();
        questions(&runtime, n).await;
        let asked = tokio::time::Instant::now();
        runtime.stop(Duration::from_secs(60)).await.unwrap();
        assert!(asked.elapsed() < Duration::from_secs(1), "{n} questions: {:?}", asked.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn pause_resume_and_restart_wait_for_no_question() {
    let runtime = RuntimeBuilder::new(MemoryStore::new()).own_thread(false).team(backing_off()).start().await.unwrap();
    runtime.publish(Draft::new(topic("in.x"), 1)).await.unwrap();
    runtime.until_state("a", |state| matches!(state, TeamState::Restarting { .. })).await.unwrap();
    questions(&runtime, 200).await;
    let asked = tokio::time::Instant::now();
    runtime.pause("a").await.unwrap();
    runtime.resume("a").await.unwrap();
    assert!(!runtime.status()[0].paused);
    runtime.pause("a").await.unwrap();
    runtime.restart("a").await.unwrap();
    runtime.until_state("a", |state| *state == TeamState::Running).await.unwrap();
    assert!(asked.elapsed() < Duration::from_secs(1), "{:?}", asked.elapsed());
    assert!(runtime.status()[0].paused, "a pause holds over a restart");
    runtime.stop(Duration::from_secs(60)).await.unwrap();
}

/// Every call on a handle that was kept.
async fn everything_is_refused(runtime: &Runtime) {
    let stopped = |outcome: Result<(), RuntimeError>, what: &str| {
        assert!(matches!(outcome, Err(RuntimeError::Stopped)), "{what}: {outcome:?}");
    };
    stopped(runtime.publish(Draft::new(topic("in.x"), 1)).await.map(drop), "publish");
    stopped(runtime.put("k.x", 1).unwrap().await.map(drop), "put");
    stopped(runtime.remove("k.x").unwrap().await.map(drop), "remove");
    stopped(runtime.query("a", query()).await.map(drop), "query");
    stopped(runtime.pause("a").await, "pause");
    stopped(runtime.resume("a").await, "resume");
    stopped(runtime.restart("a").await, "restart");
    stopped(runtime.settled(Seq(1)).await, "settled");
    stopped(runtime.until_state("a", |state| *state == TeamState::Running).await.map(drop), "until_state");
    assert!(matches!(runtime.until_ended().await, RuntimeError::Stopped));
    assert_eq!(runtime.idle().await.len(), 1);
    assert!(runtime.status().iter().all(|team| team.state.is_ended()), "{:?}", runtime.status());
    let mut events = runtime.subscribe(vec![Filter::all()], runtime.released());
    assert!(events.next().await.is_none());
    assert!(runtime.observe(vec![Filter::all()], 1).next().await.is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn after_a_stop_and_after_a_deadline_every_call_is_refused_and_the_file_is_free() {
    for is_stuck in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let db = folder.path().join("x.db");
        let (is_released, has_begun) = (Arc::new(AtomicBool::new(!is_stuck)), Arc::default());
        let _releasing = Releasing(is_released.clone());
        let store = SqliteStore::open(SqliteOptions::new(&db)).await.unwrap();
        let runtime = RuntimeBuilder::new(store).team(stuck(&is_released, &has_begun)).start().await.unwrap();
        runtime.publish(Draft::new(topic("in.x"), 1)).await.unwrap();
        has_begun.notified().await;

        let stopped = runtime.stop(Duration::from_millis(if is_stuck { 50 } else { 60_000 })).await;
        assert_eq!(matches!(stopped, Err(RuntimeError::Deadline(_))), is_stuck, "{stopped:?}");
        everything_is_refused(&runtime).await;
        // Another call gives the outcome of the first.
        let again = runtime.stop(Duration::from_secs(60)).await;
        assert_eq!(matches!(again, Err(RuntimeError::Deadline(_))), is_stuck, "{again:?}");

        // The handle is kept, and the stuck turn still holds its part of the old runtime.
        let store = SqliteStore::open(SqliteOptions::new(&db)).await.expect("the file is free");
        let next = RuntimeBuilder::new(store).team(idle(AgentSpec::new("a").subscribes("in.*"))).start().await.unwrap();
        let published = next.publish(Draft::new(topic("in.x"), 2)).await.unwrap();
        is_released.store(true, Ordering::SeqCst);
        next.settled(published.seq).await.unwrap();
        everything_is_refused(&runtime).await;
        next.stop(Duration::from_secs(60)).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_second_stop_waits_for_the_first_and_gives_its_outcome() {
    let disk = atra_storage::MemoryDisk::new();
    let store = MemoryStore::on(&disk);
    let runtime = RuntimeBuilder::new(store)
        .own_thread(false)
        .team(idle(AgentSpec::new("a").subscribes("in.*")))
        .start()
        .await
        .unwrap();
    runtime.until_state("a", |state| *state == TeamState::Running).await.unwrap();
    disk.delay_commits(Some(Duration::from_secs(10)));
    let begun = tokio::time::Instant::now();
    let (first, second, hasty) = tokio::join!(
        runtime.stop(Duration::from_secs(600)),
        async {
            let stopped = runtime.stop(Duration::from_secs(600)).await;
            assert!(begun.elapsed() >= Duration::from_secs(10), "it did not wait: {:?}", begun.elapsed());
            stopped
        },
        runtime.stop(Duration::from_secs(1)),
    );
    first.unwrap();
    second.unwrap();
    assert!(matches!(hasty, Err(RuntimeError::Deadline(_))), "{hasty:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_runtime_whose_last_handle_is_dropped_or_whose_stop_is_dropped_frees_its_file() {
    for drops_a_stop in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let db = folder.path().join("x.db");
        let (is_released, has_begun) = (Arc::new(AtomicBool::new(false)), Arc::default());
        let _releasing = Releasing(is_released.clone());
        let store = SqliteStore::open(SqliteOptions::new(&db)).await.unwrap();
        let runtime = RuntimeBuilder::new(store).team(stuck(&is_released, &has_begun)).start().await.unwrap();
        let kept = runtime.clone();
        runtime.publish(Draft::new(topic("in.x"), 1)).await.unwrap();
        has_begun.notified().await;
        if drops_a_stop {
            let stop = runtime.stop(Duration::from_secs(600));
            assert!(tokio::time::timeout(Duration::from_millis(20), stop).await.is_err());
            everything_is_refused(&kept).await;
        } else {
            drop(kept);
        }
        drop(runtime);
        // The thread of the storage ends by itself: there is nobody left to wait for it.
        while SqliteStore::open(SqliteOptions::new(&db)).await.is_err() {
            tokio::task::yield_now().await;
        }
        is_released.store(true, Ordering::SeqCst);
    }
}
