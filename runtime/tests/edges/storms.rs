//! Restarts: bounded whatever an incarnation achieves, and they feed nobody.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use atra_bus::{Draft, Event, Filter, Interest, Seq};
use atra_runtime::{
    Agent, AgentError, AgentSpec, Context, Limits, Offsets, Runtime, RuntimeBuilder, Source, SourceItem, Team,
    TeamState,
};
use atra_storage::{MemoryDisk, MemoryStore};
use futures::stream;

use crate::support::{team, topic};

/// A source that fails after each of its inputs, as one whose connection breaks at once.
struct Flaky(Arc<AtomicU64>);

#[async_trait]
impl Agent for Flaky {
    fn spec(&self) -> AgentSpec {
        AgentSpec::new("a").source().publishes_on("n.*", true)
    }
    async fn handle(&mut self, _event: &Event, _cx: &mut Context<'_>) -> Result<(), AgentError> {
        Ok(())
    }
    fn source(&self, offsets: &Offsets) -> Option<Source> {
        let n = offsets.get("p").map_or(0, |text| text.parse::<u64>().unwrap()) + 1;
        self.0.store(n, Ordering::SeqCst);
        let event = Draft::new(topic("n.x"), n);
        let input = SourceItem::Input { event, partition: "p".into(), offset: n.to_string() };
        Some(Box::pin(stream::iter([Ok(input), Err(AgentError::new("connection lost"))])))
    }
}

async fn started(disk: &MemoryDisk, team: Team) -> Runtime {
    RuntimeBuilder::new(MemoryStore::on(disk)).own_thread(false).team(team).start().await.unwrap()
}

/// How often the start of a team was announced.
async fn announced(runtime: &Runtime) -> usize {
    let only = Interest::in_topics(vec![Filter::new("sys.team.started").unwrap()]);
    let (events, _) = runtime.reader().journal(Seq::ZERO, runtime.released(), &only, usize::MAX).await.unwrap();
    events.len()
}

#[tokio::test(start_paused = true)]
async fn a_source_that_fails_after_each_input_fails_its_team_within_the_bound() {
    let n_read = Arc::new(AtomicU64::new(0));
    let read = n_read.clone();
    let runtime = started(&MemoryDisk::new(), Team::of(move || Flaky(read.clone()))).await;
    let state = tokio::time::timeout(Duration::from_secs(300), runtime.until_state("a", TeamState::is_ended)).await;
    let state = state.expect("within five minutes").unwrap();
    assert!(matches!(&state, TeamState::Failed { reason } if reason.contains("connection lost")), "{state}");
    assert_eq!(n_read.load(Ordering::SeqCst), u64::from(Limits::default().restarts_per_period_max) + 1);
    // Each restart counts, but only the first start is announced.
    assert_eq!(announced(&runtime).await, 1);

    runtime.restart("a").await.unwrap();
    runtime.until_state("a", TeamState::is_ended).await.unwrap();
    assert_eq!(announced(&runtime).await, 2, "a restart that somebody ordered is announced");
    runtime.stop(Duration::from_secs(60)).await.unwrap();
}

/// One that works for a while between its failures is not given up.
#[tokio::test(start_paused = true)]
async fn a_team_that_fails_now_and_then_with_progress_in_between_goes_on() {
    struct Hourly;
    #[async_trait]
    impl Agent for Hourly {
        fn spec(&self) -> AgentSpec {
            AgentSpec::new("a").source().publishes_on("n.*", true)
        }
        async fn handle(&mut self, _event: &Event, _cx: &mut Context<'_>) -> Result<(), AgentError> {
            Ok(())
        }
        fn source(&self, offsets: &Offsets) -> Option<Source> {
            let n = offsets.get("p").map_or(0, |text| text.parse::<u64>().unwrap()) + 1;
            let event = Draft::new(topic("n.x"), n);
            let input = SourceItem::Input { event, partition: "p".into(), offset: n.to_string() };
            let later = async {
                tokio::time::sleep(Duration::from_secs(3_600)).await;
                Err(AgentError::new("connection lost"))
            };
            Some(Box::pin(futures::StreamExt::chain(stream::iter([Ok(input)]), stream::once(later))))
        }
    }
    let runtime = started(&MemoryDisk::new(), Team::of(|| Hourly)).await;
    tokio::time::sleep(Duration::from_secs(100 * 3_600)).await;
    let status = runtime.status().remove(0);
    assert!(status.restarts >= 98 && !status.state.is_ended(), "{status:?}");
    runtime.stop(Duration::from_secs(60)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_fails_on_the_start_of_teams_does_not_feed_itself() {
    for filter in [">", "sys.team.started", "sys.>"] {
        let fails = team(AgentSpec::new("a").subscribes(filter), |event, _| {
            if event.topic.as_str() == "sys.team.started" { Err(AgentError::new("always")) } else { Ok(()) }
        });
        let disk = MemoryDisk::new();
        let runtime = started(&disk, fails).await;
        tokio::time::sleep(Duration::from_secs(3_600)).await;
        let published = runtime.publish(Draft::new(topic("in.x"), 1)).await.unwrap();
        runtime.settled(published.seq).await.unwrap();
        let status = runtime.status().remove(0);
        assert_eq!(announced(&runtime).await, 1, "{filter}");
        assert!(status.restarts <= 3 && status.dead_letters <= 1, "{filter}: {status:?}");
        runtime.stop(Duration::from_secs(60)).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn the_retries_of_a_failing_turn_are_not_journalled() {
    let fails = team(AgentSpec::new("a").subscribes("in.*"), |_, _| Err(AgentError::new("always")));
    let runtime = started(&MemoryDisk::new(), fails).await;
    for n in 0..10 {
        let published = runtime.publish(Draft::new(topic("in.x"), n)).await.unwrap();
        runtime.settled(published.seq).await.unwrap();
    }
    let status = runtime.status().remove(0);
    assert_eq!((status.restarts, status.dead_letters), (30, 10));
    assert_eq!(announced(&runtime).await, 1);
    assert_eq!(runtime.released(), Seq(11), "ten events and one start");
    runtime.stop(Duration::from_secs(60)).await.unwrap();
}
