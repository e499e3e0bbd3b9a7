//! Failed, panicking and hanging turns, dead letters, poison, restarts.

use std::{
    sync::Arc,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use async_trait::async_trait;
use atra_bus::{Draft, Event};
use atra_runtime::{
    Agent, AgentError, AgentSpec, Context, OnPoison, StateReader, StateWriter, Team, TeamState, sim::Swarm,
};
use atra_storage::FactKind;

use crate::support::{Script, topic};

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
        assert_eq!(sums.iter().filter(|line| line.starts_with("out.sum")).last().unwrap(), "out.sum 197", "{way:?}");
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
