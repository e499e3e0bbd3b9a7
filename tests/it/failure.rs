//! Failed, panicking and hanging turns, dead letters, poison, restarts.

use std::{
    sync::Arc,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Duration,
};

use async_trait::async_trait;
use atra_bus::{Draft, Event, Timestamp};
use atra_runtime::{
    Agent, AgentError, AgentSpec, Clock, Context, Limits, Offsets, OnPoison, Query, RuntimeBuilder, Source, SourceItem,
    StateReader, StateWriter, Team, TeamState, sim::Swarm,
};
use atra_storage::{FactKind, MemoryStore};

use futures::stream;
use serde_json::{Value, json};

use crate::support::{Numbers, Script, topic};

/// How an [`Unlucky`] agent fails on the number 13.
#[derive(Clone, Copy, Debug)]
enum Way {
    Error,
    Panic,
    Hang,
}

struct Unlucky {
    way: Way,
    sum: u64,
    on_poison: OnPoison,
}

#[async_trait]
impl Agent for Unlucky {
    fn spec(&self) -> AgentSpec {
        AgentSpec::new("unlucky")
            .subscribes("in.*")
            .publishes_on("out.sum", true)
            .turn_timeout(Duration::from_millis(50))
            .on_poison(self.on_poison)
    }
    async fn start(&mut self, state: &StateReader<'_>) -> Result<(), AgentError> {
        self.sum = state.get("sum")?.unwrap_or(0);
        Ok(())
    }
    async fn handle(&mut self, event: &Event, cx: &mut Context<'_>) -> Result<(), AgentError> {
        let n = *event.get::<u64>()?;
        // The state is ahead of the store when the turn fails: a restart must undo this.
        self.sum += n;
        if n == 13 {
            match self.way {
                Way::Error => return Err(AgentError::new("thirteen")),
                Way::Panic => panic!("thirteen"),
                Way::Hang => std::future::pending::<()>().await,
            }
        }
        cx.publish(Draft::new(topic("out.sum"), self.sum))?;
        Ok(())
    }
    fn save(&mut self, state: &mut StateWriter<'_>) -> Result<(), AgentError> {
        state.put("sum", &self.sum)
    }
}

fn unlucky(way: Way, on_poison: OnPoison) -> Team {
    Team::of(move || Unlucky { way, sum: 0, on_poison })
}

#[test]
fn an_event_that_keeps_failing_becomes_a_dead_letter_and_no_other_team_notices() {
    for way in [Way::Error, Way::Panic, Way::Hang] {
        let others = Arc::new(AtomicU64::new(0));
        let counted = others.clone();
        let other = move || {
            let counted = counted.clone();
            let spec = AgentSpec::new("other").subscribes("in.*");
            Script::new(spec, 0_u64, move |_: &mut u64, _: &Event, _: &mut Context<'_>| {
                counted.fetch_add(1, Ordering::Relaxed);
                Ok(())
            })
        };
        let swarm = Swarm::new(1).team(unlucky(way, OnPoison::DeadLetter)).team(Team::of(other));
        let report = swarm
            .run(|runtime| async move {
                let mut last = None;
                for n in 1..=20_u64 {
                    last = Some(runtime.publish(Draft::new(topic("in.n"), n)).await.unwrap());
                }
                runtime.settled(last.unwrap().seq).await.unwrap();
                runtime.status()
            })
            .unwrap();
        assert_eq!(others.load(Ordering::Relaxed), 20, "{way:?}");
        assert_eq!(report.output[0].restarts, 3, "{way:?}");
        assert_eq!(report.output[1].restarts, 0, "{way:?}");
        let (letters, sums) = futures::executor::block_on(async {
            let letters = report.reader.facts(FactKind::DeadLetter, None).await.unwrap();
            (letters, crate::support::lines(&*report.reader).await)
        });
        assert_eq!(letters.len(), 1, "{way:?}");
        assert!(letters[0].value.as_ref().unwrap().contains("\"attempts\":3"), "{way:?}");
        // 1 + 2 + … + 20 without 13: nothing was counted twice, and only the poison is missing.
        assert_eq!(sums.iter().rfind(|line| line.starts_with("out.sum")).unwrap(), "out.sum 197", "{way:?}");
    }
}

#[test]
fn a_ledgers_poison_stops_its_team_visibly_until_it_is_restarted() {
    let swarm = Swarm::new(1).team(unlucky(Way::Error, OnPoison::Stop));
    let report = swarm
        .run(|runtime| async move {
            for n in [1_u64, 13, 2] {
                runtime.publish(Draft::new(topic("in.n"), n)).await.unwrap();
            }
            runtime.until_state("unlucky", TeamState::is_ended).await.unwrap()
        })
        .unwrap();
    assert!(matches!(report.output, TeamState::Poisoned { .. }), "{:?}", report.output);
    let lines = futures::executor::block_on(crate::support::lines(&*report.reader));
    assert_eq!(lines.iter().filter(|line| line.starts_with("out.")).count(), 1, "{lines:?}");
}

#[test]
fn a_turn_that_never_yields_is_named_and_storage_and_other_teams_go_on() {
    let released = Arc::new(AtomicBool::new(false));
    let spin = released.clone();
    let stuck = move || {
        let spin = spin.clone();
        let spec = AgentSpec::new("stuck").subscribes("in.stuck");
        Script::new(spec, 0_u64, move |_: &mut u64, _: &Event, _: &mut Context<'_>| {
            while !spin.load(Ordering::Relaxed) {
                std::hint::spin_loop();
            }
            Ok(())
        })
    };
    let other = || {
        let spec = AgentSpec::new("other").subscribes("in.n");
        Script::new(spec, 0_u64, |_: &mut u64, _: &Event, _: &mut Context<'_>| Ok(()))
    };
    let tokio = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    tokio.block_on(async {
        let limits = Limits { watchdog_ms: 20, ..Limits::default() };
        let builder = RuntimeBuilder::new(MemoryStore::new());
        let builder = builder.team(Team::of(stuck).limits(limits)).team(Team::of(other));
        let runtime = builder.start().await.unwrap();
        runtime.publish(Draft::new(topic("in.stuck"), 1)).await.unwrap();
        // Ends when the watchdog has spoken; the harness's own limit is the bound.
        while runtime.status()[0].stuck.is_none() {
            tokio::task::yield_now().await;
        }
        let published = runtime.publish(Draft::new(topic("in.n"), 1)).await.unwrap();
        runtime.settled(published.seq).await.unwrap();
        released.store(true, Ordering::Relaxed);
        runtime.stop(Duration::from_secs(10)).await.unwrap();
    });
}

#[test]
fn a_team_that_fails_without_progress_gives_up_visibly_and_can_be_restarted() {
    let broken = Arc::new(AtomicBool::new(true));
    let shared = broken.clone();
    let team = Team::of(move || SlowStart { broken: shared.clone() });
    let swarm = Swarm::new(1).team(team);
    let report = swarm
        .run(|runtime| async move {
            let failed = runtime.until_state("starter", TeamState::is_ended).await.unwrap();
            let refused = runtime.pause("starter").await;
            broken.store(false, Ordering::Relaxed);
            runtime.restart("starter").await.unwrap();
            let mended = runtime.until_state("starter", |state| *state == TeamState::Running).await.unwrap();
            (failed, refused.is_err(), mended, runtime.status()[0].restarts)
        })
        .unwrap();
    let (failed, refused, mended, restarts) = report.output;
    assert!(matches!(&failed, TeamState::Failed { reason } if reason.contains("not today")), "{failed:?}");
    assert!(refused);
    assert_eq!((mended, restarts), (TeamState::Running, u64::from(Limits::default().restarts_max) + 1));
}

/// Cannot start while it is broken.
struct SlowStart {
    broken: Arc<AtomicBool>,
}

#[async_trait]
impl Agent for SlowStart {
    fn spec(&self) -> AgentSpec {
        AgentSpec::new("starter")
    }
    async fn start(&mut self, _state: &StateReader<'_>) -> Result<(), AgentError> {
        if self.broken.load(Ordering::Relaxed) { Err(AgentError::new("not today")) } else { Ok(()) }
    }
    async fn handle(&mut self, _event: &Event, _cx: &mut Context<'_>) -> Result<(), AgentError> {
        Ok(())
    }
}

#[test]
fn a_cascade_without_end_is_a_failed_turn_and_becomes_a_dead_letter() {
    let echo = |name: &'static str, wants: &'static str, says: &'static str| {
        let spec = AgentSpec::new(name).subscribes(wants).subscribes("in.n").publishes_on(says, true);
        move || {
            Script::new(spec.clone(), 0_u64, move |_: &mut u64, _: &Event, cx: &mut Context<'_>| {
                cx.publish(Draft::new(topic(says), 1))?;
                Ok(())
            })
        }
    };
    let limits = Limits { cascade_events_max: 40, ..Limits::default() };
    let team =
        Team::new("t").agent(echo("ping", "pong.x", "ping.x")).agent(echo("pong", "ping.x", "pong.x")).limits(limits);
    let report = Swarm::new(1)
        .team(team)
        .run(|runtime| async move {
            let published = runtime.publish(Draft::new(topic("in.n"), 1)).await.unwrap();
            runtime.settled(published.seq).await.unwrap();
        })
        .unwrap();
    let letters = futures::executor::block_on(report.reader.facts(FactKind::DeadLetter, None)).unwrap();
    assert_eq!(letters.len(), 2, "neither member handles the input");
    assert!(letters[0].value.as_ref().unwrap().contains("cascade_events_max"));
}

/// Fails in one way on every thousandth number, in a team of its own.
struct Thousandth {
    way: Option<Way>,
    seen: u64,
}

#[async_trait]
impl Agent for Thousandth {
    fn spec(&self) -> AgentSpec {
        AgentSpec::new("thousandth").subscribes("numbers.feed").turn_timeout(Duration::from_millis(50))
    }
    async fn start(&mut self, state: &StateReader<'_>) -> Result<(), AgentError> {
        self.seen = state.get("seen")?.unwrap_or(0);
        Ok(())
    }
    async fn handle(&mut self, event: &Event, _cx: &mut Context<'_>) -> Result<(), AgentError> {
        self.seen += 1;
        match self.way.filter(|_| event.get::<u64>().is_ok_and(|n| n % 1_000 == 500)) {
            None => Ok(()),
            Some(Way::Error) => Err(AgentError::new("a thousandth")),
            Some(Way::Panic) => panic!("a thousandth"),
            Some(Way::Hang) => std::future::pending().await,
        }
    }
    fn save(&mut self, state: &mut StateWriter<'_>) -> Result<(), AgentError> {
        state.put("seen", &self.seen)
    }
    fn query(&self, _query: &Query) -> Result<Value, AgentError> {
        Ok(json!(self.seen))
    }
}

#[test]
fn one_failure_in_a_thousand_leaves_the_other_publishers_digests_as_they_are() {
    const N: u64 = 5_000;
    let run = |way: Option<Way>| {
        let feed = Team::of(|| Numbers { name: "feed", n: N }).clock(Clock::Events);
        let other = || {
            let spec = AgentSpec::new("other").subscribes("numbers.feed").publishes_on("other.out", true);
            Script::new(spec, 0_u64, |_: &mut u64, event: &Event, cx: &mut Context<'_>| {
                cx.publish(Draft::new(topic("other.out"), event.get::<u64>()? * 2))?;
                Ok(())
            })
        };
        let swarm = Swarm::new(1).team(feed).team(Team::of(other)).team(Team::of(move || Thousandth { way, seen: 0 }));
        let report = swarm.run(|runtime| async move {
            runtime.idle().await;
            let asked = Query { name: "seen".into(), arguments: Value::Null };
            (runtime.query("thousandth", asked).await.unwrap(), runtime.status())
        });
        report.unwrap()
    };
    let whole = run(None);
    assert_eq!(whole.output.0, N);
    for way in [Way::Error, Way::Panic, Way::Hang] {
        let report = run(Some(way));
        let letters = futures::executor::block_on(report.reader.facts(FactKind::DeadLetter, None)).unwrap();
        assert_eq!(letters.len(), 5, "{way:?}");
        // The five are given up, and none of the others is missed or counted twice.
        assert_eq!(report.output.0, N - 5, "{way:?}");
        assert_eq!(report.digest.publishers, whole.digest.publishers, "{way:?}");
        let restarts: Vec<_> = report.output.1.iter().map(|team| team.restarts).collect();
        assert_eq!(restarts, [0, 0, 15], "{way:?}");
    }
}

/// Fails on 0; passes every other number on.
fn picky(name: &'static str) -> Script<u64> {
    let spec = AgentSpec::new(name).subscribes("in.n").publishes_on(&format!("{name}.out"), true).attempts_max(2);
    Script::new(spec, 0_u64, move |_: &mut u64, event: &Event, cx: &mut Context<'_>| match *event.get::<u64>()? {
        0 => Err(AgentError::new("zero")),
        n => {
            cx.publish(Draft::new(topic(&format!("{name}.out")), n))?;
            Ok(())
        }
    })
}

/// A step that was closed after the poison had been taken once carried the cursor beyond it: when it failed
/// again, it was gone without a dead letter. Happens only when inputs before it are settled in the same life.
#[test]
fn a_poison_behind_other_inputs_becomes_a_dead_letter_and_the_inputs_around_it_are_handled_once() {
    let swarm = Swarm::new(1).team(Team::of(|| picky("a")));
    let report = swarm
        .run(|runtime| async move {
            runtime.pause("a").await.unwrap();
            let mut last = None;
            for n in [5_u64, 6, 0, 7] {
                last = Some(runtime.publish(Draft::new(topic("in.n"), n)).await.unwrap());
            }
            runtime.resume("a").await.unwrap();
            runtime.settled(last.unwrap().seq).await.unwrap();
            runtime.reader().facts(FactKind::DeadLetter, None).await.unwrap().len()
        })
        .unwrap();
    assert_eq!(report.output, 1);
    let lines = futures::executor::block_on(crate::support::lines(&*report.reader));
    let out: Vec<_> = lines.iter().filter_map(|line| line.strip_prefix("a.out ")).collect();
    assert_eq!(out, ["5", "6", "7"]);
}

#[test]
fn many_agents_that_fail_on_one_event_are_each_put_aside_and_the_team_goes_on() {
    let names = ["a", "b", "c", "d", "e", "f", "g", "h"];
    let team = names.into_iter().fold(Team::new("t"), |team, name| team.agent(move || picky(name)));
    let report = Swarm::new(1)
        .team(team)
        .run(|runtime| async move {
            let mut last = None;
            for n in [0_u64, 1] {
                last = Some(runtime.publish(Draft::new(topic("in.n"), n)).await.unwrap());
            }
            runtime.settled(last.unwrap().seq).await.unwrap();
            runtime.reader().facts(FactKind::DeadLetter, None).await.unwrap().len()
        })
        .unwrap();
    assert_eq!(report.output, names.len());
}

/// The team once counted a step's bytes otherwise than the storage did: a fan-out of many small events was too
/// large for the one and not for the other, and the team failed for good.
#[test]
fn a_fan_out_of_many_small_events_closes_its_step_in_time() {
    const N: u64 = 300;
    const FAN: u64 = 600;
    let fan = || {
        let spec = AgentSpec::new("fan").subscribes("in.n").publishes_on("fan.out", true);
        Script::new(spec, 0_u64, |_: &mut u64, _: &Event, cx: &mut Context<'_>| {
            for n in 0..FAN {
                cx.publish(Draft::new(topic("fan.out"), n))?;
            }
            Ok(())
        })
    };
    let report = Swarm::new(1)
        .team(Team::of(fan))
        .run(|runtime| async move {
            runtime.pause("fan").await.unwrap();
            let mut last = None;
            for n in 0..N {
                last = Some(runtime.publish(Draft::new(topic("in.n"), n)).await.unwrap().seq);
            }
            runtime.resume("fan").await.unwrap();
            runtime.settled(last.unwrap()).await.unwrap();
            runtime.status()[0].clone()
        })
        .unwrap();
    assert_eq!((report.output.events, report.output.restarts), (N * FAN, 0));
}

/// Gives three numbers at a time and then loses its connection.
struct Flaky;

#[async_trait]
impl Agent for Flaky {
    fn spec(&self) -> AgentSpec {
        AgentSpec::new("flaky").source().publishes_on("numbers.*", true)
    }
    async fn handle(&mut self, _event: &Event, _cx: &mut Context<'_>) -> Result<(), AgentError> {
        Ok(())
    }
    fn source(&self, offsets: &Offsets) -> Option<Source> {
        let first = offsets.get("n").map_or(1, |text| text.parse::<u64>().unwrap() + 1);
        let inputs = (first..first + 3).map(|n| {
            if n > 60 {
                return Ok(SourceItem::End);
            }
            let event = Draft::new(topic("numbers.flaky"), n).at(Timestamp(n as i64));
            Ok(SourceItem::Input { event, partition: "n".into(), offset: n.to_string() })
        });
        Some(Box::pin(stream::iter(inputs.chain([Err(AgentError::new("connection lost"))]))))
    }
}

/// What was handled before the failure was once dropped with the open step: read again and again, and never
/// committed.
#[test]
fn what_a_source_gave_before_it_failed_is_committed_and_counts_as_progress() {
    let team = Team::of(|| Flaky).clock(Clock::Events);
    let report = Swarm::new(1).team(team).run(|runtime| async move { runtime.idle().await }).unwrap();
    let lines = futures::executor::block_on(crate::support::lines(&*report.reader));
    let expected: Vec<_> = (1..=60).map(|n| format!("numbers.flaky {n}")).collect();
    assert_eq!(lines, expected);
}
