//! The runtime's own tasks when they panic: visible at once to everybody, and what can be restarted is.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use atra_bus::{Draft, Env, Event, SystemEnv, Task, TaskFuture, Timestamp};
use atra_runtime::{
    Agent, AgentError, AgentSpec, Context, Limits, Offsets, Placement, Runtime, RuntimeBuilder, RuntimeError, Source,
    SourceItem, StateReader, Team, TeamState,
};
use atra_storage::{MemoryDisk, MemoryStore, StoreError};
use futures::{Stream, stream};

use crate::support::{team, team_with_drop, topic};

const DEADLINE: Duration = Duration::from_secs(60);

async fn started(team: Team) -> Runtime {
    RuntimeBuilder::new(MemoryStore::new()).team(team).start().await.unwrap()
}

fn failed_with(text: &str) -> impl Fn(&TeamState) -> bool {
    move |state| matches!(state, TeamState::Failed { reason } if reason.contains(text))
}

/// Everybody who looks at team `a` finds it failed.
async fn everybody_sees_it(runtime: &Runtime, text: &str) {
    runtime.until_state("a", failed_with(text)).await.unwrap();
    assert!(failed_with(text)(&runtime.status()[0].state), "{:?}", runtime.status());
    let later = runtime.publish(Draft::new(topic("in.x"), 0)).await.unwrap();
    let settled = runtime.settled(later.seq).await;
    assert!(matches!(settled, Err(RuntimeError::TeamEnded { .. })), "{settled:?}");
    let query = atra_runtime::Query { name: "q".into(), arguments: serde_json::Value::Null };
    let asked = runtime.query("a", query).await;
    assert!(matches!(asked, Err(RuntimeError::TeamEnded { .. })), "{asked:?}");
}

/// An agent that fails on its first input, and whose drop then does `on_drop`, once.
fn drops_badly(placement: Placement, on_drop: impl Fn() + Send + Sync + 'static) -> Team {
    let (has_failed, has_dropped) = (AtomicBool::new(false), AtomicBool::new(false));
    let on_drop = move || {
        if !has_dropped.swap(true, Ordering::SeqCst) {
            on_drop();
        }
    };
    team_with_drop(AgentSpec::new("a").subscribes("in.*"), on_drop, move |_, _| {
        match has_failed.swap(true, Ordering::SeqCst) {
            false => Err(AgentError::new("first")),
            true => Ok(()),
        }
    })
    .placement(placement)
}

/// What `reqwest::blocking` does: the agent owns a tokio runtime, which must not be dropped where tasks run.
fn drop_a_tokio_runtime() {
    drop(tokio::runtime::Builder::new_current_thread().build().unwrap());
}

#[tokio::test]
async fn an_agent_whose_drop_panics_fails_its_team_which_can_be_restarted() {
    for placement in [Placement::Together, Placement::Apart] {
        for on_drop in [drop_a_tokio_runtime as fn(), || panic!("drop")] {
            let runtime = started(drops_badly(placement, on_drop)).await;
            runtime.publish(Draft::new(topic("in.x"), 1)).await.unwrap();
            everybody_sees_it(&runtime, "agent a panicked when it was dropped").await;

            runtime.restart("a").await.unwrap();
            let published = runtime.publish(Draft::new(topic("in.x"), 2)).await.unwrap();
            runtime.settled(published.seq).await.unwrap();
            assert_eq!(runtime.status()[0].state, TeamState::Running, "{placement:?}");
            runtime.stop(DEADLINE).await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_panic_of_a_drop_is_told_by_the_stop_and_nothing_that_was_committed_is_lost() {
    let disk = MemoryDisk::new();
    let team = team_with_drop(AgentSpec::new("a").subscribes("in.*"), || panic!("at the end"), |_, _| Ok(()));
    let runtime = RuntimeBuilder::new(MemoryStore::on(&disk)).team(team).start().await.unwrap();
    let published = runtime.publish(Draft::new(topic("in.x"), 1)).await.unwrap();
    runtime.settled(published.seq).await.unwrap();
    let stopped = runtime.stop(DEADLINE).await;
    assert!(
        matches!(&stopped, Err(RuntimeError::TeamEnded { state, .. }) if failed_with("at the end")(state)),
        "{stopped:?}"
    );
    assert!(failed_with("at the end")(&runtime.status()[0].state));
}

#[tokio::test]
async fn two_members_whose_drops_panic_do_not_end_the_process() {
    struct Loud(&'static str, bool);
    #[async_trait]
    impl Agent for Loud {
        fn spec(&self) -> AgentSpec {
            AgentSpec::new(self.0).subscribes("in.*")
        }
        async fn start(&mut self, _state: &StateReader<'_>) -> Result<(), AgentError> {
            self.1 = true;
            Ok(())
        }
        async fn handle(&mut self, _event: &Event, _cx: &mut Context<'_>) -> Result<(), AgentError> {
            panic!("a turn");
        }
    }
    impl Drop for Loud {
        fn drop(&mut self) {
            assert!(!self.1, "drop of {}", self.0);
        }
    }
    for placement in [Placement::Together, Placement::Apart] {
        let team = Team::new("a").agent(|| Loud("one", false)).agent(|| Loud("two", false)).placement(placement);
        let runtime = started(team).await;
        runtime.publish(Draft::new(topic("in.x"), 1)).await.unwrap();
        runtime.until_state("a", failed_with("panicked when it was dropped")).await.unwrap();
        runtime.stop(DEADLINE).await.unwrap_err();
    }
}

#[tokio::test]
async fn a_factory_that_panics_fails_its_team_after_its_restarts_and_is_tried_again_when_ordered() {
    let (n_made, is_broken) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let (made, broken) = (n_made.clone(), is_broken.clone());
    struct Nothing;
    #[async_trait]
    impl Agent for Nothing {
        fn spec(&self) -> AgentSpec {
            AgentSpec::new("a").subscribes("in.*")
        }
        async fn handle(&mut self, _event: &Event, _cx: &mut Context<'_>) -> Result<(), AgentError> {
            Ok(())
        }
    }
    let team = Team::of(move || {
        made.fetch_add(1, Ordering::SeqCst);
        assert!(!broken.load(Ordering::SeqCst), "factory");
        Nothing
    });
    is_broken.store(true, Ordering::SeqCst);
    let limits = Limits { restarts_max: 2, backoff_first_ms: 1, backoff_max_ms: 1, ..Limits::default() };
    let runtime = started(team.limits(limits)).await;
    runtime.until_state("a", failed_with("start panicked: factory")).await.unwrap();
    is_broken.store(false, Ordering::SeqCst);
    runtime.restart("a").await.unwrap();
    runtime.until_state("a", |state| *state == TeamState::Running).await.unwrap();
    runtime.stop(DEADLINE).await.unwrap();
}

/// A stream whose poll or drop panics.
struct BadStream {
    panics_at: &'static str,
    n: u64,
}

impl Stream for BadStream {
    type Item = Result<SourceItem, AgentError>;
    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        _cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        self.n += 1;
        match (self.panics_at, self.n) {
            ("poll", _) => panic!("stream"),
            (_, 1) => {
                let event = Draft::new(topic("n.x"), 1).at(Timestamp(1));
                std::task::Poll::Ready(Some(Ok(SourceItem::Input { event, partition: "p".into(), offset: "1".into() })))
            }
            (_, 2) => std::task::Poll::Ready(Some(Err(AgentError::new("second")))),
            _ => std::task::Poll::Pending,
        }
    }
}

impl Drop for BadStream {
    fn drop(&mut self) {
        assert!(self.panics_at != "drop", "stream dropped");
    }
}

struct BadSource(&'static str);

#[async_trait]
impl Agent for BadSource {
    fn spec(&self) -> AgentSpec {
        AgentSpec::new("a").source().publishes_on("n.*", true)
    }
    async fn handle(&mut self, _event: &Event, _cx: &mut Context<'_>) -> Result<(), AgentError> {
        Ok(())
    }
    fn source(&self, _offsets: &Offsets) -> Option<Source> {
        Some(Box::pin(BadStream { panics_at: self.0, n: 0 }))
    }
}

#[tokio::test]
async fn a_source_whose_stream_panics_fails_its_team_with_the_text_of_the_panic() {
    let limits = Limits { restarts_max: 2, backoff_first_ms: 1, backoff_max_ms: 1, ..Limits::default() };
    for (panics_at, text) in [("poll", "source panicked: stream"), ("drop", "source a panicked when it was dropped")] {
        let runtime = started(Team::of(move || BadSource(panics_at)).limits(limits.clone())).await;
        runtime.until_state("a", failed_with(text)).await.unwrap();
        let _ = runtime.stop(DEADLINE).await;
    }
}

/// An environment whose clock panics when asked to: foreign code in every task of the runtime.
struct BadEnv {
    real: SystemEnv,
    is_broken: Arc<AtomicBool>,
}

impl Env for BadEnv {
    fn now(&self) -> Timestamp {
        // Not for the storage, which asks at every commit: this is about supervisors.
        let is_storage = std::thread::current().name() == Some("atra-storage");
        assert!(is_storage || !self.is_broken.load(Ordering::SeqCst), "clock");
        self.real.now()
    }
    fn random(&self) -> u64 {
        self.real.random()
    }
    fn spawn(&self, name: &str, future: TaskFuture) -> Task {
        self.real.spawn(name, future)
    }
}

/// A supervisor reads the clock when it rests, and the executor when a timer may be due.
#[tokio::test]
async fn a_supervisor_that_panics_leaves_a_failed_team_which_can_be_restarted() {
    let is_broken = Arc::new(AtomicBool::new(false));
    let env = Arc::new(BadEnv { real: SystemEnv::new(), is_broken: is_broken.clone() });
    let spec =
        AgentSpec::new("a").subscribes("in.*").schedule("s", Duration::from_secs(3_600), atra_runtime::Missed::Last);
    let builder = RuntimeBuilder::new(MemoryStore::new()).env(env).team(team(spec, |_, _| Ok(())));
    let runtime = builder.start().await.unwrap();
    runtime.until_state("a", |state| *state == TeamState::Running).await.unwrap();
    // The schedule's first time is committed with it.
    let published = runtime.publish(Draft::new(topic("in.x"), 1)).await.unwrap();
    runtime.settled(published.seq).await.unwrap();

    is_broken.store(true, Ordering::SeqCst);
    let _ = runtime.pause("a").await;
    for _ in 0..10 {
        // So that the executor sees the pause: it looks at the clock when it ends.
        tokio::task::yield_now().await;
    }
    let _ = runtime.resume("a").await;
    runtime.until_state("a", failed_with("supervisor panicked: clock")).await.unwrap();
    assert!(failed_with("supervisor panicked")(&runtime.status()[0].state));
    is_broken.store(false, Ordering::SeqCst);
    everybody_sees_it(&runtime, "supervisor panicked: clock").await;

    runtime.restart("a").await.unwrap();
    // The pause holds over the restart, unless it was taken back before the panic.
    runtime.resume("a").await.unwrap();
    let published = runtime.publish(Draft::new(topic("in.x"), 2)).await.unwrap();
    runtime.settled(published.seq).await.unwrap();
    runtime.stop(DEADLINE).await.unwrap();
}

#[tokio::test]
async fn a_stop_after_a_supervisor_has_panicked_says_so() {
    let runtime = started(drops_badly(Placement::Together, || panic!("drop"))).await;
    runtime.publish(Draft::new(topic("in.x"), 1)).await.unwrap();
    everybody_sees_it(&runtime, "panicked when it was dropped").await;
    let stopped = runtime.stop(DEADLINE).await;
    assert!(matches!(&stopped, Err(RuntimeError::TeamEnded { team, .. }) if team.as_str() == "a"), "{stopped:?}");
}

/// The storage fails while a team has nothing to write: the team must not go on saying that it runs.
#[tokio::test]
async fn a_storage_that_has_failed_is_seen_by_every_team_and_every_call() {
    let disk = MemoryDisk::new();
    let idle = team(AgentSpec::new("idle").subscribes("none.x"), |_, _| Ok(()));
    let busy = team(AgentSpec::new("a").subscribes("in.*"), |_, _| Ok(()));
    let builder = RuntimeBuilder::new(MemoryStore::on(&disk)).team(busy).team(idle);
    let runtime = builder.start().await.unwrap();
    for name in ["a", "idle"] {
        runtime.until_state(name, |state| *state == TeamState::Running).await.unwrap();
    }
    disk.fail_next(100, &StoreError::Fatal { path: "test".into(), cause: "gone".into() });
    runtime.publish(Draft::new(topic("in.x"), 1)).await.unwrap_err();

    let ended = runtime.until_ended().await;
    assert!(matches!(&ended, RuntimeError::Failed { task, .. } if task == "storage"), "{ended}");
    for name in ["a", "idle"] {
        runtime.until_state(name, TeamState::is_ended).await.unwrap();
    }
    assert!(
        runtime.status().iter().all(|team| matches!(team.state, TeamState::Failed { .. })),
        "{:?}",
        runtime.status()
    );
    let later = runtime.publish(Draft::new(topic("in.x"), 1)).await;
    assert!(matches!(later, Err(RuntimeError::Failed { .. })), "{later:?}");
    assert!(matches!(runtime.restart("a").await, Err(RuntimeError::Failed { .. })));
    assert!(matches!(runtime.settled(atra_bus::Seq(1)).await, Err(RuntimeError::Failed { .. })));
    assert_eq!(runtime.idle().await.len(), 2, "both have ended");
    let stopped = runtime.stop(DEADLINE).await;
    assert!(matches!(&stopped, Err(RuntimeError::Failed { task, .. }) if task == "storage"), "{stopped:?}");
}

#[tokio::test]
async fn a_source_of_numbers_without_end_is_dropped_before_the_next_incarnation_begins() {
    let n_alive = Arc::new(AtomicU64::new(0));
    struct Exclusive(Arc<AtomicU64>);
    impl Drop for Exclusive {
        fn drop(&mut self) {
            self.0.fetch_sub(1, Ordering::SeqCst);
        }
    }
    struct Port(Arc<AtomicU64>);
    #[async_trait]
    impl Agent for Port {
        fn spec(&self) -> AgentSpec {
            AgentSpec::new("a").source().publishes_on("n.*", true)
        }
        async fn handle(&mut self, _event: &Event, _cx: &mut Context<'_>) -> Result<(), AgentError> {
            Ok(())
        }
        fn source(&self, _offsets: &Offsets) -> Option<Source> {
            // As a file or a port that only one may have.
            assert_eq!(self.0.fetch_add(1, Ordering::SeqCst), 0, "two streams at once");
            let held = Exclusive(self.0.clone());
            Some(Box::pin(stream::poll_fn(move |_| {
                let _ = &held;
                std::task::Poll::Pending
            })))
        }
    }
    let alive = n_alive.clone();
    let runtime = started(Team::of(move || Port(alive.clone()))).await;
    for _ in 0..20 {
        runtime.until_state("a", |state| *state == TeamState::Running).await.unwrap();
        let before = runtime.status()[0].clone();
        runtime.restart("a").await.unwrap();
        let published = runtime.publish(Draft::new(topic("in.x"), 2)).await.unwrap();
        runtime.settled(published.seq).await.unwrap();
        assert_eq!(before.restarts, runtime.status()[0].restarts);
    }
    runtime.stop(DEADLINE).await.unwrap();
    assert_eq!(n_alive.load(Ordering::SeqCst), 0);
}
