//! A journal without a beginning: what teams, subscriptions and callers make of it.

use std::time::Duration;

use atra_bus::{Draft, Event, Filter, Seq};
use atra_runtime::{AgentSpec, Context, RuntimeBuilder, Team};
use atra_storage::{Keep, MemoryDisk, MemoryStore, Read as _, StorageOptions};
use futures::FutureExt as _;

use crate::support::{Script, topic};

fn listener(name: &'static str) -> Script<u64> {
    let spec = AgentSpec::new(name).subscribes("in.n");
    Script::new(spec, 0, |seen: &mut u64, _: &Event, _: &mut Context<'_>| {
        *seen += 1;
        Ok(())
    })
}

fn keeping_ten() -> StorageOptions {
    let mut options = StorageOptions::default();
    options.keep = Keep { events: Some(10), ..Keep::default() };
    options.retention_every = Duration::from_millis(1);
    options
}

async fn seen(runtime: &atra_runtime::Runtime, agent: &str) -> u64 {
    let query = atra_runtime::Query { name: "seen".into(), arguments: serde_json::Value::Null };
    runtime.query(agent, query).await.unwrap().as_u64().unwrap()
}

/// Retention in a running runtime waits for the team that is farthest behind; then a subscription from the beginning is
/// told so, goes on from the floor, and a team that is new begins there.
#[tokio::test(start_paused = true)]
async fn a_subscription_is_told_and_goes_on_and_a_new_team_begins_at_the_floor() {
    let disk = MemoryDisk::new();
    let builder = RuntimeBuilder::new(MemoryStore::on(&disk)).storage(keeping_ten()).own_thread(false);
    let runtime = builder.team(Team::of(|| listener("old"))).start().await.unwrap();
    runtime.pause("old").await.unwrap();
    for n in 0..50 {
        runtime.publish(Draft::new(topic("in.n"), n)).await.unwrap();
    }
    tokio::time::sleep(Duration::from_secs(20)).await;
    let paused_at = disk.floor().await.unwrap();
    assert!(paused_at < Seq(10), "a paused team pins what it has not taken; the floor is {paused_at}");
    runtime.resume("old").await.unwrap();
    runtime.idle().await;
    assert_eq!(seen(&runtime, "old").await, 50, "nothing was lost to it");
    while disk.floor().await.unwrap() < Seq(30) {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }

    let mut late = runtime.subscribe(vec![Filter::new("in.n").unwrap()], Seq::ZERO);
    let error = late.next().await.unwrap().unwrap_err();
    let floor = error.pruned.expect("it says how far it was pruned");
    assert!(!error.retryable && floor >= Seq(30));
    assert!(late.next().await.unwrap().is_err(), "and says it again until it is told where to go on");
    late.reset(floor);
    let mut left = Vec::new();
    while let Some(Some(Ok(event))) = late.next().now_or_never() {
        left.push(event.seq);
    }
    assert!(!left.is_empty() && left.iter().all(|seq| *seq > floor), "{left:?} after {floor}");
    runtime.stop(Duration::from_secs(60)).await.unwrap();
    drop(runtime);

    let builder = RuntimeBuilder::new(MemoryStore::on(&disk)).own_thread(false);
    let builder = builder.team(Team::of(|| listener("old"))).team(Team::of(|| listener("new")));
    let runtime = builder.start().await.unwrap();
    runtime.idle().await;
    assert_eq!(seen(&runtime, "old").await, 50);
    let floor = disk.floor().await.unwrap();
    let events =
        disk.journal_tail(&atra_bus::Interest::in_topics(vec![Filter::new("in.n").unwrap()]), 99).await.unwrap();
    let expected = events.iter().filter(|event| event.seq > floor).count() as u64;
    assert_eq!(seen(&runtime, "new").await, expected, "from the floor on");
    runtime.stop(Duration::from_secs(60)).await.unwrap();
}
