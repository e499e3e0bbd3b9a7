//! Calls to the outside: intent, result, `Unknown`.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use atra_bus::{Draft, Event};
use atra_runtime::{Agent, AgentError, AgentSpec, Context, EffectError, Team, sim::Swarm};

use crate::support::{lines, topic};

/// An order service outside: how often it was called.
#[derive(Default)]
struct Outside {
    calls: AtomicU64,
}

/// Calls the outside once per event; the call hangs or is followed by a failure on the first try.
struct Caller {
    outside: Arc<Outside>,
    hang: bool,
}

#[async_trait]
impl Agent for Caller {
    fn spec(&self) -> AgentSpec {
        AgentSpec::new("caller-agent")
            .subscribes("in.n")
            .publishes_on("out.n", true)
            .acting()
            .turn_timeout(Duration::from_millis(50))
    }
    async fn handle(&mut self, _event: &Event, cx: &mut Context<'_>) -> Result<(), AgentError> {
        let (outside, hang) = (self.outside.clone(), self.hang);
        let called = cx
            .effect("order", |_key| async move {
                let n = outside.calls.fetch_add(1, Ordering::Relaxed) + 1;
                if hang {
                    std::future::pending::<()>().await;
                }
                Ok(n)
            })
            .await;
        let result = match called {
            Ok(n) => n,
            Err(EffectError::Unknown { .. }) => {
                // A real agent would ask the outside by the key.
                cx.resolve_effect("order", &42_u64).await?;
                42
            }
            Err(error) => return Err(error.into()),
        };
        if !self.hang && cx.attempt() == 1 {
            return Err(AgentError::new("fails after the call"));
        }
        cx.publish(Draft::new(topic("out.n"), result))?;
        Ok(())
    }
}

fn run(hang: bool) -> (u64, Vec<String>) {
    let outside = Arc::new(Outside::default());
    let shared = outside.clone();
    let team = Team::of(move || Caller { outside: shared.clone(), hang });
    let report = Swarm::new(1)
        .team(team)
        .run(|runtime| async move {
            let published = runtime.publish(Draft::new(topic("in.n"), 1)).await.unwrap();
            runtime.settled(published.seq).await.unwrap();
        })
        .unwrap();
    (outside.calls.load(Ordering::Relaxed), futures::executor::block_on(lines(&*report.reader)))
}

#[test]
fn a_repeated_turn_gets_the_recorded_result_without_calling_again() {
    let (calls, lines) = run(false);
    assert_eq!((calls, lines.last().unwrap().as_str()), (1, "out.n 1"));
}

#[test]
fn an_intent_without_a_result_is_unknown_and_never_silently_repeated() {
    let (calls, lines) = run(true);
    assert_eq!((calls, lines.last().unwrap().as_str()), (1, "out.n 42"));
}
