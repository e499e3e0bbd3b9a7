//! Timers and schedules on both clocks, across restarts.

use std::time::Duration;

use async_trait::async_trait;
use atra_bus::{Draft, Event, Timestamp};
use atra_runtime::{Agent, AgentError, AgentSpec, Clock, Context, Missed, Team, sim::Swarm};
use atra_storage::{FactKind, MemoryDisk};

use crate::support::{Numbers, Script, lines, topic};

/// Says what it heard on `clock.heard`: the topic's last token and the team's time in seconds.
fn listener(missed: Missed) -> Script<u64> {
    let spec = AgentSpec::new("clock").subscribes("numbers.feed").publishes_on("clock.heard", true).schedule(
        "tick",
        Duration::from_secs(10),
        missed,
    );
    Script::new(spec, 0, |heard: &mut u64, event: &Event, cx: &mut Context<'_>| {
        *heard += 1;
        if event.topic.as_str() == "sys.schedule.clock.tick" {
            let text = format!("{} at {}", event.time, cx.now());
            cx.publish(Draft::new(topic("clock.heard"), text))?;
        }
        Ok(())
    })
}

fn team(n: u64, missed: Missed) -> Team {
    Team::new("t").agent(move || Numbers { name: "feed", n }).agent(move || listener(missed)).clock(Clock::Events)
}

fn ticks(lines: &[String]) -> Vec<&str> {
    lines.iter().filter_map(|line| line.strip_prefix("clock.heard ")).collect()
}

#[test]
fn a_schedule_fires_before_the_input_that_is_not_earlier_and_once_per_time() {
    let report = Swarm::new(1).team(team(25, Missed::Last)).run(|runtime| async move { runtime.idle().await }).unwrap();
    let lines = futures::executor::block_on(lines(&*report.reader));
    assert_eq!(ticks(&lines), ["\"10000 at 10000\"", "\"20000 at 20000\""]);
    let tick = lines.iter().position(|line| line == "sys.schedule.clock.tick 10000").unwrap();
    assert_eq!(lines[tick - 1], "numbers.feed 9");
    assert_eq!(lines[tick + 2], "numbers.feed 10");
}

#[test]
fn a_schedule_survives_stops_at_any_input() {
    let whole = Swarm::new(1).team(team(45, Missed::All)).run(|runtime| async move { runtime.idle().await }).unwrap();
    for cut in [1, 9, 10, 11, 20, 44] {
        let disk = MemoryDisk::new();
        for n in [cut, 45] {
            let swarm = Swarm::new(1).on(&disk).team(team(n, Missed::All));
            let report = swarm.run(|runtime| async move { runtime.idle().await }).unwrap();
            if n == 45 {
                assert_eq!(report.digest, whole.digest, "stopped after {cut}");
            }
        }
    }
}

#[test]
fn a_timer_comes_back_to_its_agent_after_its_delay_on_the_wall_clock() {
    let agent = || {
        let spec = AgentSpec::new("later").subscribes("in.n").publishes_on("out.n", true);
        Script::new(spec, 0_u64, |_: &mut u64, event: &Event, cx: &mut Context<'_>| {
            if event.topic.as_str() == "in.n" {
                cx.after(Duration::from_secs(60), Draft::new(topic("alarm.n"), cx.now()))?;
                let cancelled = cx.after(Duration::from_secs(30), Draft::new(topic("alarm.never"), 0))?;
                cx.cancel(&cancelled);
            } else {
                let set = *event.get::<Timestamp>()?;
                cx.publish(Draft::new(topic("out.n"), cx.now().0 - set.0))?;
            }
            Ok(())
        })
    };
    let report = Swarm::new(1)
        .team(Team::of(agent))
        .run(|runtime| async move {
            let mut out = runtime.subscribe(vec![atra_bus::Filter::new("out.*").unwrap()], runtime.released());
            runtime.publish(Draft::new(topic("in.n"), 1)).await.unwrap();
            *out.next().await.unwrap().unwrap().event.get::<i64>().unwrap()
        })
        .unwrap();
    assert_eq!(report.output, 60_000);
    let lines = futures::executor::block_on(lines(&*report.reader));
    assert!(!lines.iter().any(|line| line.contains("never")), "{lines:?}");
}

/// Says what time it is on every number.
fn watch() -> Script<u64> {
    let spec = AgentSpec::new("watch").subscribes("in.n").publishes_on("out.time", true);
    Script::new(spec, 0, |_: &mut u64, _: &Event, cx: &mut Context<'_>| {
        cx.publish(Draft::new(topic("out.time"), cx.now()))?;
        Ok(())
    })
}

#[test]
fn a_wall_clock_is_the_inputs_recorded_time_and_never_goes_back_across_a_restart() {
    let report = Swarm::new(1)
        .team(Team::of(watch))
        .run(|runtime| async move {
            let mut last = None;
            for time in [5_000, 3_000, 4_000, 9_000] {
                // The second input comes after a restart: only what is committed knows of 5,000.
                if time == 3_000 {
                    runtime.settled(last.unwrap()).await.unwrap();
                    runtime.restart("watch").await.unwrap();
                }
                let event = Draft::new(topic("in.n"), time).at(Timestamp(time));
                last = Some(runtime.publish(event).await.unwrap().seq);
            }
            runtime.settled(last.unwrap()).await.unwrap();
        })
        .unwrap();
    let lines = futures::executor::block_on(lines(&*report.reader));
    let times: Vec<_> = lines.iter().filter_map(|line| line.strip_prefix("out.time ")).collect();
    assert_eq!(times, ["5000", "5000", "5000", "9000"]);
}

/// Each try of a tick that is poison once had the time of the try in its id, so that no try was the third.
#[test]
fn a_tick_that_keeps_failing_becomes_a_dead_letter_although_time_goes_on() {
    struct Stuck;
    #[async_trait]
    impl Agent for Stuck {
        fn spec(&self) -> AgentSpec {
            let spec = AgentSpec::new("stuck").turn_timeout(Duration::from_secs(5));
            spec.schedule("tick", Duration::from_secs(1), Missed::Last)
        }
        async fn handle(&mut self, _event: &Event, _cx: &mut Context<'_>) -> Result<(), AgentError> {
            std::future::pending().await
        }
    }
    let report = Swarm::new(1)
        .team(Team::of(|| Stuck))
        .run(|runtime| async move {
            // Virtual: costs no time.
            tokio::time::sleep(Duration::from_secs(60)).await;
            runtime.reader().facts(FactKind::DeadLetter, None).await.unwrap().len()
        })
        .unwrap();
    assert!((2..=4).contains(&report.output), "{} dead letters in 60 s of three tries of 5 s each", report.output);
}
