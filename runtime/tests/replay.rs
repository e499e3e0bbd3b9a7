//! Replays of simulated runs: what is unchanged is equal, however the run was made to fail; what is changed is found.
#![expect(clippy::unwrap_used, reason = "a test that fails should fail")]

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use atra_bus::{Draft, Event, Name, Seq, Topic};
use atra_runtime::{
    Agent, AgentError, AgentSpec, Context, Limits, StateReader, StateWriter, Team,
    replay::{Replay, Replayed, starts},
    sim::{FaultPlan, Swarm, crowd},
};
use atra_storage::{FactKind, MemoryDisk, Read};

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(future)
}

fn replay(disk: &MemoryDisk, team: Team, more: impl FnOnce(Replay) -> Replay) -> Replayed {
    block_on(async {
        let reader: Arc<dyn Read> = Arc::new(disk.clone());
        let agents: BTreeSet<Name> = starts(disk).await.unwrap().into_iter().flat_map(|start| start.agents).collect();
        more(Replay::new(reader, vec![(Seq::ZERO, team)], agents)).run(|_| {}).await.unwrap()
    })
}

/// A crowd that tells each other things, with timers, schedules, shared memory, and faults.
fn crowd_disk(seed: u64) -> MemoryDisk {
    let disk = MemoryDisk::new();
    let swarm = crowd::swarm(seed, 6, Duration::from_secs(10)).on(&disk).faults(FaultPlan::survivable());
    let report = swarm.simulate(|sim| async move {
        sim.run_for(Duration::from_secs(1_800)).await;
        sim.heal_and_settle(Duration::from_secs(3_600)).await;
    });
    assert_eq!(report.failure(), None, "{report}");
    disk
}

#[test]
fn what_is_unchanged_decides_what_is_recorded_whatever_went_wrong() {
    for seed in 0..12 {
        let disk = crowd_disk(seed);
        for team in crowd::teams(6, Duration::from_secs(10), &Limits::default()) {
            let name = team.name().clone();
            let replayed = replay(&disk, team, |replay| replay);
            assert!(replayed.difference.is_none(), "seed {seed}, {name}: {:?}", replayed.difference);
            assert!(replayed.events > 100 && replayed.inputs > 150, "seed {seed}, {name}: {replayed:?}");
        }
    }
}

/// Counts what it is told, and says so; `odd`: what it does otherwise from so many on.
struct Counter {
    told: u64,
    odd: Option<u64>,
    outside: Arc<AtomicU64>,
}

#[async_trait]
impl Agent for Counter {
    fn spec(&self) -> AgentSpec {
        AgentSpec::new("counter").subscribes("in.n").publishes_on("out.n", true).owns("count").acting()
    }
    async fn start(&mut self, state: &StateReader<'_>) -> Result<(), AgentError> {
        self.told = state.get("told")?.unwrap_or_default();
        Ok(())
    }
    async fn handle(&mut self, event: &Event, cx: &mut Context<'_>) -> Result<(), AgentError> {
        let n = *event.get::<u64>()?;
        if n == 5 {
            return Err(AgentError::new("five is poison"));
        }
        let outside = self.outside.clone();
        let priced = cx.effect("price", |_| async move { Ok(100 * (outside.fetch_add(1, Ordering::Relaxed) + 1)) });
        let price: u64 = priced.await?;
        self.told += 1;
        let odd = u64::from(self.odd.is_some_and(|from| self.told >= from));
        cx.put("count", self.told)?;
        cx.publish(Draft::new(Topic::new("out.n").unwrap(), price + self.told + odd))?;
        Ok(())
    }
    fn save(&mut self, state: &mut StateWriter<'_>) -> Result<(), AgentError> {
        state.put("told", &self.told)
    }
}

fn counter(odd: Option<u64>, outside: &Arc<AtomicU64>) -> Team {
    let outside = outside.clone();
    Team::of(move || Counter { told: 0, odd, outside: outside.clone() })
}

/// Ten numbers, the fifth of which becomes a dead letter; nine calls to the outside.
fn counted(outside: &Arc<AtomicU64>) -> MemoryDisk {
    let disk = MemoryDisk::new();
    let run = Swarm::new(1).on(&disk).team(counter(None, outside)).run(|runtime| async move {
        for n in 1..=10_u64 {
            runtime.publish(Draft::new(Topic::new("in.n").unwrap(), n)).await.unwrap();
        }
        runtime.idle().await;
    });
    run.unwrap();
    assert_eq!(block_on(disk.facts(FactKind::DeadLetter, None)).unwrap().len(), 1);
    disk
}

#[test]
fn a_replay_gives_recorded_results_back_skips_dead_letters_and_calls_nobody() {
    let outside = Arc::new(AtomicU64::new(0));
    let disk = counted(&outside);
    let replayed = replay(&disk, counter(None, &outside), |replay| replay);
    assert!(replayed.difference.is_none(), "{:?}", replayed.difference);
    assert_eq!((replayed.inputs, replayed.events, outside.load(Ordering::Relaxed)), (10, 18, 9));
}

#[test]
fn the_first_decision_that_changed_is_shown_as_it_was_and_as_it_is() {
    let outside = Arc::new(AtomicU64::new(0));
    let disk = counted(&outside);
    let difference = replay(&disk, counter(Some(7), &outside), |replay| replay).difference.unwrap();
    let (was, is) = (difference.recorded.unwrap(), difference.present.unwrap());
    assert_eq!((was.event.payload.json().unwrap(), is.payload.json().unwrap()), ("707", "708"));
    assert_eq!(difference.input.unwrap().event.payload.json().unwrap(), "8");
    assert!(difference.what.contains("content"), "{}", difference.what);

    // Up to the event before, all is equal; from the next one on, it is found again.
    let (before, after) = (Seq(was.seq.get() - 1), was.seq.next());
    let equal = replay(&disk, counter(Some(7), &outside), |replay| replay.span(Seq::ZERO, Some(before)));
    assert!(equal.difference.is_none(), "{:?}", equal.difference);
    let later = replay(&disk, counter(Some(7), &outside), |replay| replay.span(after, None)).difference.unwrap();
    assert!(later.recorded.unwrap().seq > was.seq);
    // The memory key does not depend on it: of what is compared, nothing changed.
    let nobody = replay(&disk, counter(Some(7), &outside), |replay| replay.agent(Name::new("nobody").unwrap()));
    assert!(nobody.difference.is_none());
}

#[test]
fn a_decision_that_is_missing_is_found_at_the_end() {
    let outside = Arc::new(AtomicU64::new(0));
    let disk = counted(&outside);
    let last = block_on(disk.last_seq()).unwrap();
    let quiet = Team::new("counter").agent(|| Quiet);
    let difference = replay(&disk, quiet, |replay| replay).difference.unwrap();
    assert!(difference.present.is_none() && difference.recorded.unwrap().seq < last);
}

/// As the counter, and decides nothing.
struct Quiet;

#[async_trait]
impl Agent for Quiet {
    fn spec(&self) -> AgentSpec {
        AgentSpec::new("counter").subscribes("in.n").publishes_on("out.n", true).owns("count")
    }
    async fn handle(&mut self, _: &Event, _: &mut Context<'_>) -> Result<(), AgentError> {
        Ok(())
    }
}

#[test]
fn a_replay_begins_with_a_copy_of_the_state_and_changes_its_team_where_the_record_did() {
    let outside = Arc::new(AtomicU64::new(0));
    let disk = MemoryDisk::new();
    let run = |disk: &MemoryDisk, odd, numbers: std::ops::RangeInclusive<u64>| {
        let done = Swarm::new(1).on(disk).team(counter(odd, &outside)).run(|runtime| async move {
            for n in numbers {
                runtime.publish(Draft::new(Topic::new("in.n").unwrap(), n)).key(n.to_string()).await.unwrap();
            }
            runtime.idle().await;
        });
        done.unwrap();
    };
    run(&disk, None, 6..=9);
    // The same again on a disk of its own: the state as it was then.
    let copy = MemoryDisk::new();
    let calls = outside.swap(0, Ordering::Relaxed);
    run(&copy, None, 6..=9);
    outside.store(calls, Ordering::Relaxed);
    let changed_at = block_on(disk.last_seq()).unwrap().next();
    run(&disk, Some(0), 10..=14);

    let both = |second: Option<u64>| {
        block_on(async {
            let reader: Arc<dyn Read> = Arc::new(disk.clone());
            let teams = vec![(Seq::ZERO, counter(None, &outside)), (changed_at, counter(second, &outside))];
            Replay::new(reader, teams, BTreeSet::new()).run(|_| {}).await.unwrap()
        })
    };
    assert!(both(Some(0)).difference.is_none(), "{:?}", both(Some(0)).difference);
    assert_eq!(both(Some(0)).events, 18);
    assert!(both(None).difference.is_some());

    let from_copy = replay(&disk, counter(Some(0), &outside), |replay| replay.state(Arc::new(copy.clone())));
    assert!(from_copy.difference.is_none(), "{:?}", from_copy.difference);
    assert_eq!((from_copy.inputs, from_copy.events), (5, 10));
}
