//! Simulated swarms under virtual time.

use std::time::Duration;

use atra_bus::{Draft, Event, Name};
use atra_runtime::{AgentSpec, Context, Team, sim::Swarm};
use atra_storage::Digest;

use crate::support::{Script, topic};

const N_AGENTS: usize = 100;

/// Passes a message on to two agents drawn at random, after a delay drawn at random, until it is used up.
fn gossip(place: usize) -> Script<u64> {
    let spec = AgentSpec::new(&format!("agent-{place}")).publishes_on("gossip.said", true);
    Script::new(spec, 0, |heard: &mut u64, event: &Event, cx: &mut Context<'_>| {
        *heard += 1;
        let left = *event.get::<u64>()?;
        if event.topic.subject() == "gossip.later" {
            for _ in 0..2 {
                let to = cx.random() as usize % N_AGENTS;
                cx.send(&format!("agent-{to}"), Draft::new(topic("gossip.said"), left - 1))?;
            }
        } else if left > 0 {
            let delay = Duration::from_millis(cx.random() % 10_000);
            cx.after(delay, Draft::new(topic("gossip.later"), left))?;
        }
        Ok(())
    })
}

fn run(seed: u64) -> (Digest, u64) {
    let swarm = Swarm::new(seed).teams(N_AGENTS, |place| Team::of(move || gossip(place)));
    let report = swarm
        .run(|runtime| async move {
            for n in 0..10_u64 {
                let from = Name::new(&format!("caller-{n}")).unwrap();
                let to = Name::new(&format!("agent-{n}")).unwrap();
                let said = topic("gossip.said").addressed_to(&to).unwrap();
                runtime.publish(Draft::new(said, 5_u64)).from(from).await.unwrap();
            }
            // Virtual: costs no time.
            tokio::time::sleep(Duration::from_secs(120)).await;
            runtime.idle().await;
            runtime.status().iter().map(|team| team.turns).sum::<u64>()
        })
        .unwrap();
    (report.digest, report.output)
}

#[test]
fn a_swarm_of_a_hundred_agents_has_one_history_per_seed() {
    let (digest, turns) = run(7);
    // 10 messages, each 1 + 2 + 4 + … + 32 times said and 31 timers: nothing is lost on the way.
    assert_eq!(turns, 10 * (63 + 31));
    assert_eq!(run(7), (digest.clone(), turns));
    assert_ne!(run(8).0, digest);
}
