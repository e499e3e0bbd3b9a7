//! Deaths of the process: which of them are held against a turn.

use std::time::Duration;

use async_trait::async_trait;
use atra_bus::{Draft, Event, Name, Topic};
use atra_runtime::{
    Agent, AgentError, AgentSpec, Context, Team,
    sim::{Fault, FaultAt, FaultClass, FaultPlan, Swarm},
};
use atra_storage::FactKind;

/// Lives that die in a row: above the ten deaths after which a turn is given up.
const LIVES: u32 = 15;

/// Remembers what it was told last: a good agent for a good event.
struct Last;

#[async_trait]
impl Agent for Last {
    fn spec(&self) -> AgentSpec {
        AgentSpec::new("last").subscribes("in.n").owns("last.")
    }
    async fn handle(&mut self, event: &Event, cx: &mut Context<'_>) -> Result<(), AgentError> {
        let n = *event.get::<u64>()?;
        cx.put("last.n", n)?;
        Ok(())
    }
}

/// Once three of twenty such runs made a dead letter of a good event: the write was the one behind its turn. Nothing else
/// writes here, so each life has the same writes, and one of these places is that one.
#[test]
fn a_process_that_dies_at_the_same_write_of_each_life_makes_no_dead_letter() {
    for n in 2..20 {
        for seed in 0..4 {
            let at = |life| Fault { class: FaultClass::Crash, at: FaultAt::CommitOfLife { life, n } };
            let plan = FaultPlan::Exactly((1..=LIVES).map(at).collect());
            let report = Swarm::new(seed).team(Team::of(|| Last)).faults(plan).simulate(|sim| async move {
                let caller = Name::new("caller").unwrap();
                for n in 0..3_u64 {
                    let draft = Draft::new(Topic::literal("in.n"), n);
                    sim.publish(&caller, &n.to_string(), draft).await.unwrap();
                }
                // Long enough for all of the lives.
                sim.run_for(Duration::from_secs(3_600)).await;
                sim.heal_and_settle(Duration::from_secs(7_200)).await;
                sim.reader().facts(FactKind::DeadLetter, None).await.unwrap()
            });
            assert_eq!(report.failure(), None, "seed {seed}, a death at commit {n} of each life: {report}");
            assert_eq!(report.output.unwrap(), Vec::new(), "seed {seed}, a death at commit {n} of each life");
        }
    }
}
