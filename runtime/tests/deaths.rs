//! Deaths of the process: which of them are held against a turn.
#![expect(clippy::unwrap_used, reason = "a test that fails should fail")]

use std::time::Duration;

use atra_bus::{Draft, EventType, Name};
use atra_runtime::sim::{Fault, FaultAt, FaultClass, FaultPlan, SimReport, Swarm, crowd};
use atra_storage::{FactKind, FactRow};

/// Lives that die in a row: above the ten deaths after which a turn is given up.
const LIVES: u32 = 15;

/// A crowd of two that is published to in every life; what is left is its dead letters.
fn run(swarm: Swarm) -> SimReport<Vec<FactRow>> {
    swarm.simulate(|sim| async move {
        let caller = Name::new("caller").unwrap();
        for n in 0..40_u64 {
            let to = crowd::Told::TOPIC.addressed_to(&Name::new("crowd-1").unwrap()).unwrap();
            sim.publish(&caller, &n.to_string(), Draft::from(crowd::Told { left: 1 }).on(to)).await.unwrap();
            sim.run_for(Duration::from_secs(15)).await;
        }
        sim.heal_and_settle(Duration::from_secs(7_200)).await;
        sim.reader().facts(FactKind::DeadLetter, None).await.unwrap()
    })
}

fn crowd() -> Swarm {
    crowd::swarm(3, 2, Duration::from_secs(10))
}

/// Once three of twenty such runs made a dead letter of a good event: the write was the one behind its turn.
#[test]
fn a_process_that_dies_at_the_same_write_of_each_life_makes_no_dead_letter() {
    for n in 2..40 {
        let at = |life| Fault { class: FaultClass::Crash, at: FaultAt::CommitOfLife { life, n } };
        let report = run(crowd().faults(FaultPlan::Exactly((1..=LIVES).map(at).collect())));
        assert_eq!(report.failure(), None, "a death at commit {n} of each life: {report}");
        assert_eq!(report.output.unwrap(), Vec::new(), "a death at commit {n} of each life");
    }
}
