//! What can never be delivered is refused at the start with the reason; what is accepted is delivered.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use atra_bus::{Draft, Seq};
use atra_runtime::{AgentSpec, Clock, Missed, RuntimeBuilder, RuntimeError, StartError, Team, topology};
use atra_storage::MemoryStore;

use crate::support::{idle, team, topic};

async fn refused(teams: Vec<Team>) -> String {
    let builder = teams.into_iter().fold(RuntimeBuilder::new(MemoryStore::new()), RuntimeBuilder::team);
    match builder.start().await {
        Ok(_) => panic!("it started"),
        Err(error @ (StartError::Topology(_) | StartError::Settings(_))) => error.to_string(),
        Err(error) => panic!("refused for another reason: {error}"),
    }
}

fn spec(name: &str) -> AgentSpec {
    AgentSpec::new(name).subscribes("in.x")
}

#[tokio::test]
async fn a_filter_that_nothing_can_ever_match_is_refused_with_the_reason() {
    let second = Duration::from_secs(1);
    let cases = [
        (vec![spec("a").subscribes("to.b.>"), spec("b")], "agent a subscribes to to.b.>, which never reaches it"),
        (vec![spec("a").subscribes("to.b.hello"), spec("b")], "reach the agent that they name"),
        (vec![spec("a").subscribes("to.*.hello")], "reach the agent that they name"),
        (vec![spec("a").subscribes("to.>")], "reach the agent that they name"),
        (vec![spec("a").subscribes("to.a")], "an address without a subject"),
        (vec![spec("a").subscribes("sys.team.stopped")], "the runtime publishes nothing there"),
        (vec![spec("a").subscribes("sys.foo.>")], "the runtime publishes nothing there"),
        (
            vec![spec("a").subscribes("sys.schedule.b.tick"), spec("b").schedule("tock", second, Missed::Last)],
            "nothing",
        ),
        (vec![spec("a").publishes_on("sys.x", true)], "agents.a.publishes"),
        (vec![spec("a").publishes_on("to.b.x", true), spec("b")], "agents.a.publishes"),
        (vec![spec("caller")], "agent cannot be named caller"),
        (vec![spec("a").owns("desk."), spec("b").owns("desk.risk.")], "both own memory"),
        // Passing events stay in their team, also when only wildcards meet.
        (vec![spec("a").subscribes("m.tick"), spec("b").publishes_on("m.*", false)], "make it durable"),
        (vec![spec("a").subscribes("m.*"), spec("b").publishes_on("m.tick", false)], "make it durable"),
    ];
    for (specs, expected) in cases {
        let error = refused(specs.into_iter().map(idle).collect()).await;
        assert!(error.contains(expected), "{error:?} does not say {expected:?}");
    }
    let team = Team::new("atra").agent(|| crate::support::Named("a"));
    assert!(refused(vec![team]).await.contains("team cannot be named atra"));
    let member = Team::new("t").agent(|| crate::support::Named("atra"));
    assert!(refused(vec![member]).await.contains("agent cannot be named atra"));
    let still = idle(spec("a").schedule("s", second, Missed::Last)).clock(Clock::Events);
    assert!(refused(vec![still]).await.contains("never fires"));
}

#[test]
fn a_filter_that_something_can_match_is_accepted() {
    let second = Duration::from_secs(1);
    let cases = [
        vec![spec("a").subscribes("to.a.>"), spec("b")],
        vec![spec("a").subscribes(">")],
        vec![spec("a").subscribes("sys.init").subscribes("sys.team.started").subscribes("sys.>")],
        vec![spec("a").subscribes("sys.schedule.b.*"), spec("b").schedule("tick", second, Missed::Last)],
        vec![spec("a").subscribes("memory.desk.>"), spec("b").publishes_on("m.tick", false)],
        vec![spec("a").subscribes("m.*"), spec("b").publishes_on("m.tick", false).publishes_on("m.candle", true)],
        vec![spec("a").subscribes("m.*").publishes_on("m.own", false), spec("b").publishes_on("m.tick", false)],
        vec![spec("callers")],
    ];
    for specs in cases {
        let teams: Vec<Team> = specs.iter().cloned().map(idle).collect();
        assert!(topology::check(&teams).is_ok(), "{specs:?}: {:?}", topology::check(&teams));
        teams.iter().for_each(|team| team.check().unwrap());
    }
}

type Heard = Arc<Mutex<Vec<String>>>;

/// An agent that keeps the topics it gets.
fn listener(spec: AgentSpec, heard: &Heard) -> Team {
    let heard = heard.clone();
    team(spec, move |event, _| {
        heard.lock().unwrap().push(event.topic.to_string());
        Ok(())
    })
}

#[tokio::test]
async fn system_events_and_the_addresses_of_others_reach_only_whoever_names_them() {
    let (all, named, mine) = (Heard::default(), Heard::default(), Heard::default());
    let runtime = RuntimeBuilder::new(MemoryStore::new())
        .team(listener(AgentSpec::new("all").subscribes(">"), &all))
        .team(listener(AgentSpec::new("named").subscribes("sys.team.started"), &named))
        .team(listener(AgentSpec::new("mine").subscribes("*.team.*").subscribes("in.>"), &mine))
        .start()
        .await
        .unwrap();
    for text in ["in.x", "to.mine.y"] {
        let published = runtime.publish(Draft::new(topic(text), 1)).await.unwrap();
        runtime.settled(published.seq).await.unwrap();
    }
    // Everything that was announced has been settled too.
    for seq in 1..=runtime.released().get() {
        runtime.settled(Seq(seq)).await.unwrap();
    }
    assert_eq!(*all.lock().unwrap(), ["in.x"]);
    assert_eq!(*mine.lock().unwrap(), ["in.x", "to.mine.y"]);
    let named = named.lock().unwrap().clone();
    assert!(named.len() >= 2 && named.iter().all(|topic| topic == "sys.team.started"), "{named:?}");
    runtime.stop(Duration::from_secs(60)).await.unwrap();
}

#[tokio::test]
async fn an_address_that_reaches_nobody_is_refused_at_the_publish() {
    let runtime = RuntimeBuilder::new(MemoryStore::new()).team(idle(spec("a"))).start().await.unwrap();
    for text in ["to.a", "to.a.sys.init", "sys.init"] {
        let refused = runtime.publish(Draft::new(topic(text), 1)).await;
        assert!(matches!(refused, Err(RuntimeError::Reserved { .. })), "{text}: {refused:?}");
    }
    let refused = runtime.publish(Draft::new(topic("to.b.x"), 1)).await;
    assert!(matches!(refused, Err(RuntimeError::Unknown { .. })), "{refused:?}");
    runtime.stop(Duration::from_secs(60)).await.unwrap();
}
