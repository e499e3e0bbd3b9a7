//! Bugs planted on purpose: each must be found by the checkers, within a few seeds.
//!
//! They are planted where a kernel's decision becomes a batch ([`Swarm::sabotage`]), or as an agent that breaks a rule,
//! so that the product has no switch for them. The table in `docs/simulation.md` is this list.
#![expect(clippy::unwrap_used, reason = "a test that fails should fail")]

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use async_trait::async_trait;
use atra_bus::{Draft, Event, EventType, Name, Seq, Topic};
use atra_runtime::{
    Agent, AgentError, AgentSpec, Context, Missed, Offsets, Source, SourceItem, StateReader, StateWriter, Team,
    sim::{FaultClass, FaultPlan, SimReport, Swarm, crowd},
};
use atra_storage::{FactKind, WriteBatch};

/// Seeds within which a bug must be found.
const SEEDS_MAX: u64 = 40;
const BEAT: Duration = Duration::from_secs(5);

/// A source of numbers that can be read again, and remembers how many it has seen.
struct Numbers {
    seen: u64,
}

struct Number;
impl Number {
    const TOPIC: Topic = Topic::literal("numbers.n");
}

#[async_trait]
impl Agent for Numbers {
    fn spec(&self) -> AgentSpec {
        AgentSpec::new("numbers").source().publishes_on("numbers.*", true).subscribes("numbers.*").owns("numbers.")
    }
    async fn start(&mut self, state: &StateReader<'_>) -> Result<(), AgentError> {
        self.seen = state.get("seen")?.unwrap_or(0);
        Ok(())
    }
    async fn handle(&mut self, _: &Event, cx: &mut Context<'_>) -> Result<(), AgentError> {
        self.seen += 1;
        cx.put("numbers.seen", self.seen)?;
        Ok(())
    }
    fn save(&mut self, state: &mut StateWriter<'_>) -> Result<(), AgentError> {
        state.put("seen", &self.seen)
    }
    fn source(&self, offsets: &Offsets) -> Option<Source> {
        let first = offsets.get("n").map_or(0, |text| text.parse::<u64>().unwrap()) + 1;
        let numbers = futures::stream::unfold(first, |n| async move {
            if n > 600 {
                return (n == 601).then_some((Ok(SourceItem::End), n + 1));
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
            let event = Draft::new(Number::TOPIC, n);
            Some((Ok(SourceItem::Input { event, partition: "n".into(), offset: n.to_string() }), n + 1))
        });
        Some(Box::pin(numbers))
    }
}

/// Cannot handle every tenth number, and says so.
struct Picky;

#[async_trait]
impl Agent for Picky {
    fn spec(&self) -> AgentSpec {
        AgentSpec::new("picky").subscribes("numbers.*")
    }
    async fn handle(&mut self, event: &Event, _: &mut Context<'_>) -> Result<(), AgentError> {
        match *event.get::<u64>()? % 50 {
            0 => Err(AgentError::new("every fiftieth")),
            _ => Ok(()),
        }
    }
}

/// Counts in shared memory what only it can count, and has a fault of its own.
struct Ticker {
    ticks: u64,
    saves: bool,
    restores: bool,
}

#[async_trait]
impl Agent for Ticker {
    fn spec(&self) -> AgentSpec {
        AgentSpec::new("ticker").owns("ticker.").schedule("tick", BEAT, Missed::All)
    }
    async fn start(&mut self, state: &StateReader<'_>) -> Result<(), AgentError> {
        if self.restores {
            self.ticks = state.get("ticks")?.unwrap_or(0);
        }
        Ok(())
    }
    async fn handle(&mut self, _: &Event, cx: &mut Context<'_>) -> Result<(), AgentError> {
        self.ticks += 1;
        cx.put("ticker.ticks", self.ticks)?;
        Ok(())
    }
    fn save(&mut self, state: &mut StateWriter<'_>) -> Result<(), AgentError> {
        if self.saves { state.put("ticks", &self.ticks) } else { Ok(()) }
    }
}

fn swarm(seed: u64, ticker: (bool, bool)) -> Swarm {
    let (saves, restores) = ticker;
    let (highest, ticks) = (AtomicU64::new(0), AtomicU64::new(0));
    let never_less = |of: AtomicU64, key: &'static str| {
        move |look: &atra_runtime::sim::Look<'_>| {
            let now = look.runtime.memory().get(key).map_or(0, |entry| *entry.get::<u64>().unwrap());
            let before = of.fetch_max(now, Ordering::Relaxed);
            if now < before { Err(format!("{key} fell from {before} to {now}")) } else { Ok(()) }
        }
    };
    crowd::swarm(seed, 4, BEAT)
        .team(Team::of(|| Numbers { seen: 0 }))
        .team(Team::of(|| Picky))
        .team(Team::of(move || Ticker { ticks: 0, saves, restores }))
        .invariant("counts never fall", never_less(highest, "numbers.seen"))
        .invariant("ticks never fall", never_less(ticks, "ticker.ticks"))
        .eventually("every number is counted once", |look| {
            let seen = look.runtime.memory().get("numbers.seen").map_or(0, |entry| *entry.get::<u64>().unwrap());
            if seen == 600 { Ok(()) } else { Err(format!("{seen} of 600")) }
        })
}

fn run(swarm: Swarm) -> SimReport<()> {
    use FaultClass::{AgentError, AgentPanic, CommitBusy, CommitUnknown, Crash, Latency, Restart, Stop};
    let classes = vec![AgentError, AgentPanic, CommitBusy, CommitUnknown, Crash, Latency, Restart, Stop];
    swarm.faults(FaultPlan::Each(classes)).simulate(|sim| async move {
        let caller = Name::new("caller").unwrap();
        for n in 0..10_u64 {
            sim.run_for(Duration::from_secs(30)).await;
            let to = crowd::Told::TOPIC.addressed_to(&Name::new("crowd-1").unwrap()).unwrap();
            // With a bug the store may be given up for good: then the checkers say what happened.
            let _ = sim.publish(&caller, &n.to_string(), Draft::new(to, crowd::Told { left: 2 })).await;
        }
        sim.heal_and_settle(Duration::from_secs(7_200)).await;
    })
}

fn without(mut batch: WriteBatch, kind: FactKind) -> Option<WriteBatch> {
    batch.facts.retain(|fact| fact.kind != kind);
    Some(batch)
}

type Bug = fn(u64, WriteBatch) -> Option<WriteBatch>;

/// Every thirtieth batch that has something to spoil.
fn now_and_then(n: u64) -> bool {
    n.is_multiple_of(30)
}

const BUGS: [(&str, Bug); 15] = [
    ("cursor not in the step", |_, mut batch| {
        for moved in &mut batch.teams {
            moved.to.cursor = moved.from.as_ref().map_or(Seq::ZERO, |from| from.cursor);
        }
        Some(batch)
    }),
    ("stale epoch accepted", |n, mut batch| {
        for moved in batch.teams.iter_mut().filter(|moved| now_and_then(n) && moved.from.is_some()) {
            moved.to.epoch -= 1;
        }
        Some(batch)
    }),
    ("step number not counted", |n, mut batch| {
        for moved in batch.teams.iter_mut().filter(|_| now_and_then(n)) {
            moved.to.number = moved.from.as_ref().map_or(0, |from| from.number);
        }
        Some(batch)
    }),
    ("team's row not written", |n, mut batch| {
        if now_and_then(n) {
            batch.teams.clear();
        }
        Some(batch)
    }),
    ("cursor ahead of what was taken", |n, mut batch| {
        for moved in batch.teams.iter_mut().filter(|_| now_and_then(n)) {
            moved.to.cursor = Seq(moved.to.cursor.get() + 5);
        }
        Some(batch)
    }),
    ("acknowledged and not committed", |n, batch| (!now_and_then(n)).then_some(batch)),
    ("dead letter forgotten", |_, batch| without(batch, FactKind::DeadLetter)),
    ("state not in the step", |_, batch| without(batch, FactKind::State)),
    ("offset not in the step", |_, batch| without(batch, FactKind::Offset)),
    ("memory not in the step", |_, batch| without(batch, FactKind::Memory)),
    ("marks of the runtime not kept", |_, mut batch| {
        for fact in batch.facts.iter_mut().filter(|fact| fact.kind == FactKind::Meta && fact.value.is_none()) {
            fact.value = Some("true".into());
        }
        Some(batch)
    }),
    ("last event of a batch lost", |n, mut batch| {
        if now_and_then(n) {
            batch.events.pop();
        }
        Some(batch)
    }),
    ("two events of a batch change places", |_, mut batch| {
        if let [.., one, two] = batch.events.as_mut_slice() {
            std::mem::swap(&mut one.event, &mut two.event);
        }
        Some(batch)
    }),
    ("one event journalled twice", |_, mut batch| {
        if let [.., one, two] = batch.events.as_mut_slice() {
            two.event = one.event.clone();
        }
        Some(batch)
    }),
    ("position of an own input not recorded", |_, mut batch| {
        for event in batch.events.iter_mut().filter(|event| event.seen.is_some()) {
            event.seen = Some(Seq::ZERO);
        }
        Some(batch)
    }),
];

#[test]
fn nothing_is_found_where_nothing_is_planted() {
    for seed in 0..10 {
        let report = run(swarm(seed, (true, true)));
        assert_eq!(report.failure(), None, "seed {seed}: {report}");
    }
}

#[test]
fn every_planted_bug_is_found() {
    let mut missed = Vec::new();
    let only = std::env::var("ATRA_PLANTED").ok();
    for (name, bug) in BUGS.into_iter().filter(|(name, _)| only.as_ref().is_none_or(|only| only == name)) {
        let found = (0..SEEDS_MAX)
            .find_map(|seed| run(swarm(seed, (true, true)).sabotage(bug)).failure().map(|failure| (seed, failure)));
        match found {
            Some((seed, failure)) => println!("| {name} | {seed} | {failure} |"),
            None => missed.push(name),
        }
    }
    assert!(missed.is_empty(), "not found: {missed:?}");
}

#[test]
fn an_agent_that_forgets_is_found() {
    for (name, ticker) in [("state not saved", (false, true)), ("state not restored", (true, false))] {
        let found = (0..40).find_map(|seed| run(swarm(seed, ticker)).failure().map(|failure| (seed, failure)));
        let (seed, failure) = found.unwrap_or_else(|| panic!("{name} was not found"));
        println!("| {name} | {seed} | {failure} |");
    }
}
