//! A first swarm in the simulation, with a bug, down to the least that shows it.
//!
//! What to notice:
//! - The agent is the one that ships; the simulation watches it, makes it fail, and kills the process under it.
//! - The bug is one that no unit test sees: the total lives in a field, and is not restored when the process starts again.
//! - `sim::seeds` tries one seed after the other. What fails is made smaller: of hundreds of faults and sixty
//!   orders, a clean stop and a few orders are left. The text ends with the line that repeats it.
//! - In a test it is `atra::runtime::sim_test!`, which also keeps the smaller case in `tests/seeds/` for all later runs.

use std::{
    error::Error,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use atra::{
    prelude::*,
    runtime::sim::{FaultPlan, SimReport, crowd, seeds},
};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Order {
    pieces: u64,
}
impl EventType for Order {
    const TOPIC: Topic = Topic::literal("shop.order");
}

/// Adds up what is ordered.
struct Tally {
    total: u64,
    is_mended: bool,
}

#[atra::async_trait]
impl Agent for Tally {
    fn spec(&self) -> AgentSpec {
        AgentSpec::new("tally").handles::<Order>().owns("tally.")
    }

    async fn start(&mut self, state: &StateReader<'_>) -> Result<(), AgentError> {
        if self.is_mended {
            self.total = state.get("total")?.unwrap_or(0);
        }
        Ok(())
    }

    async fn handle(&mut self, event: &Event, cx: &mut Context<'_>) -> Result<(), AgentError> {
        self.total += event.get::<Order>()?.pieces;
        cx.put("tally.total", self.total)?;
        Ok(())
    }

    fn save(&mut self, state: &mut StateWriter<'_>) -> Result<(), AgentError> {
        state.put("total", &self.total)
    }
}

/// A quarter of an hour in which ada orders now and then, among others who talk to each other.
fn a_shop(seed: u64, is_mended: bool) -> SimReport<()> {
    let highest = AtomicU64::new(0);
    crowd::swarm(seed, 4, Duration::from_secs(10))
        .team(Team::of(move || Tally { total: 0, is_mended }))
        .faults(FaultPlan::survivable())
        .varied()
        .invariant("the total never falls", move |look| {
            let total =
                look.runtime.memory().get("tally.total").map_or(0, |entry| entry.get::<u64>().map_or(0, |n| *n));
            let before = highest.fetch_max(total, Ordering::Relaxed);
            if total < before { Err(format!("it fell from {before} to {total}")) } else { Ok(()) }
        })
        .simulate(|sim| async move {
            let ada = Name::new("ada").expect("a name");
            for n in 0..60 {
                sim.publish(&ada, &n.to_string(), Order { pieces: 1 }).await.expect("it is taken");
                sim.run_for(Duration::from_secs(15)).await;
            }
            sim.heal_and_settle(Duration::from_secs(3_600)).await;
        })
}

fn main() -> Result<(), Box<dyn Error>> {
    let found = std::panic::catch_unwind(|| seeds(100, |seed| a_shop(seed, false)));
    let text = *found.expect_err("the bug is found").downcast::<String>().map_err(|_| "no text")?;
    println!("{text}");
    assert!(text.contains("the total never falls broken") && text.contains("repeat it: ATRA_SIM_SEED="));
    assert!(text.contains("\n1 of its ") && text.contains(" of 60 inputs, cut after "), "one fault, a few orders");

    // Mended, all seeds hold.
    seeds(20, |seed| a_shop(seed, true));
    println!("mended: 20 seeds hold");
    Ok(())
}
