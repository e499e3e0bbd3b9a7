//! Bugs planted on purpose: each must be found by the checkers, within a few seeds.
//!
//! They are planted where a kernel's decision becomes a batch ([`Swarm::sabotage`]), or as an agent that breaks a rule,
//! so that the product has no switch for them. The table in `docs/simulation.md` is this list.
#![expect(clippy::unwrap_used, reason = "a test that fails should fail")]

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use atra_bus::{Draft, Event, EventType, Name, Payload, Seq, Topic};
use atra_runtime::{
    Agent, AgentError, AgentSpec, Context, Missed, Offsets, Source, SourceItem, StateReader, StateWriter, Team,
    sim::{FaultClass, FaultPlan, Look, SimReport, Swarm, crowd, fewer},
};
use atra_storage::{FactKind, FactRow, WriteBatch};
use serde::{Deserialize, Serialize};

/// Seeds within which a bug must be found.
const SEEDS_MAX: u64 = 40;
/// Faults that may be left when a failure has been made smaller.
const FAULTS_LEFT_MAX: usize = 10;
/// Runs that making one smaller may take.
const TRIES_MAX: usize = 300;
const BEAT: Duration = Duration::from_secs(5);

/// How an agent breaks a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flaw {
    None,
    NotSaved,
    NotRestored,
    CountsOutside,
    BeginsAnew,
    SkipsOne,
    EndsWithoutEnd,
    PromisesTooMuch,
}

/// A source of numbers that can be read again, and remembers how many it has seen.
struct Numbers {
    seen: u64,
    flaw: Flaw,
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
        let begun = offsets.get("n").map(|text| text.parse::<u64>().unwrap());
        let first = match (self.flaw, begun) {
            (Flaw::BeginsAnew, _) | (_, None) => 1,
            (Flaw::SkipsOne, Some(last)) => last + 2,
            (_, Some(last)) => last + 1,
        };
        let is_short = self.flaw == Flaw::EndsWithoutEnd;
        let numbers = futures::stream::unfold(first, move |n| async move {
            if is_short && n == 300 {
                return None;
            }
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
    flaw: Flaw,
    /// Where it must not count: outlives every instance.
    outside: Arc<AtomicU64>,
}

#[async_trait]
impl Agent for Ticker {
    fn spec(&self) -> AgentSpec {
        AgentSpec::new("ticker").owns("ticker.").schedule("tick", BEAT, Missed::All)
    }
    async fn start(&mut self, state: &StateReader<'_>) -> Result<(), AgentError> {
        if self.flaw != Flaw::NotRestored {
            self.ticks = state.get("ticks")?.unwrap_or(0);
        }
        Ok(())
    }
    async fn handle(&mut self, _: &Event, cx: &mut Context<'_>) -> Result<(), AgentError> {
        let outside = self.outside.fetch_add(1, Ordering::Relaxed) + 1;
        self.ticks = if self.flaw == Flaw::CountsOutside { outside } else { self.ticks + 1 };
        cx.put("ticker.ticks", self.ticks)?;
        Ok(())
    }
    fn save(&mut self, state: &mut StateWriter<'_>) -> Result<(), AgentError> {
        if self.flaw == Flaw::NotSaved { Ok(()) } else { state.put("ticks", &self.ticks) }
    }
}

/// Promises that its text decodes as an equal value, which leaves out what is skipped.
#[derive(Debug, Serialize, Deserialize)]
struct Hint {
    n: u64,
    #[serde(skip)]
    hint: u64,
}

impl EventType for Hint {
    const TOPIC: Topic = Topic::literal("hints.hint");
    const EXACT: Option<fn(&Self, &Self) -> bool> = Some(|one, other| one.n == other.n);
}

/// Gives a hint now and then, or follows those of the other.
struct Hints {
    follows: bool,
}

#[async_trait]
impl Agent for Hints {
    fn spec(&self) -> AgentSpec {
        match self.follows {
            true => AgentSpec::new("follower").handles::<Hint>().publishes_on("hints.followed", true),
            false => AgentSpec::new("hinter").schedule("hint", BEAT, Missed::Last).publishes::<Hint>(),
        }
    }
    async fn handle(&mut self, event: &Event, cx: &mut Context<'_>) -> Result<(), AgentError> {
        match event.as_type::<Hint>()? {
            Some(hint) => cx.publish(Draft::new(Topic::literal("hints.followed"), hint.hint))?,
            None => cx.publish(Hint { n: 1, hint: 1 })?,
        };
        Ok(())
    }
}

fn swarm(seed: u64, flaw: Flaw) -> Swarm {
    let hints = |swarm: Swarm, follows| swarm.team(Team::of(move || Hints { follows }));
    let liars = [false, true].into_iter().filter(|_| flaw == Flaw::PromisesTooMuch);
    liars.fold(plain_swarm(seed, flaw), hints)
}

fn plain_swarm(seed: u64, flaw: Flaw) -> Swarm {
    let outside = Arc::new(AtomicU64::new(0));
    let ticks_of =
        |look: &Look<'_>| look.runtime.memory().get("ticker.ticks").map_or(0, |entry| *entry.get::<u64>().unwrap());
    let beats_of = |look: &Look<'_>| look.at_ms / BEAT.as_millis() as u64;
    let (highest, ticks) = (AtomicU64::new(0), AtomicU64::new(0));
    let never_less = |of: AtomicU64, key: &'static str| {
        move |look: &Look<'_>| {
            let now = look.runtime.memory().get(key).map_or(0, |entry| *entry.get::<u64>().unwrap());
            let before = of.fetch_max(now, Ordering::Relaxed);
            if now < before { Err(format!("{key} fell from {before} to {now}")) } else { Ok(()) }
        }
    };
    crowd::swarm(seed, 4, BEAT)
        .team(Team::of(move || Numbers { seen: 0, flaw }))
        .team(Team::of(|| Picky))
        .team(Team::of(move || Ticker { ticks: 0, flaw, outside: outside.clone() }))
        .invariant("counts never fall", never_less(highest, "numbers.seen"))
        .invariant("ticks never fall", never_less(ticks, "ticker.ticks"))
        .invariant("no tick is made twice", move |look| {
            let (ticks, beats) = (ticks_of(look), beats_of(look));
            if ticks <= beats { Ok(()) } else { Err(format!("{ticks} ticks in {beats} beats")) }
        })
        .eventually("no tick is missed", move |look| {
            let (ticks, beats) = (ticks_of(look), beats_of(look));
            if ticks + 2 >= beats { Ok(()) } else { Err(format!("{ticks} ticks in {beats} beats")) }
        })
        .eventually("every number is counted once", |look| {
            let seen = look.runtime.memory().get("numbers.seen").map_or(0, |entry| *entry.get::<u64>().unwrap());
            if seen == 600 { Ok(()) } else { Err(format!("{seen} of 600")) }
        })
}

fn everything() -> FaultPlan {
    use FaultClass::{AgentError, AgentPanic, CommitBusy, CommitUnknown, Crash, Latency, Restart, Stop};
    FaultPlan::Each(vec![AgentError, AgentPanic, CommitBusy, CommitUnknown, Crash, Latency, Restart, Stop])
}

fn run(swarm: Swarm, faults: FaultPlan) -> SimReport<()> {
    swarm.faults(faults).simulate(|sim| async move {
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

const BUGS: [(&str, Bug); 22] = [
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
    ("team's number ahead by one", |n, mut batch| {
        for moved in batch.teams.iter_mut().filter(|_| now_and_then(n)) {
            moved.to.number += 1;
        }
        Some(batch)
    }),
    ("position of an own input ahead", |n, mut batch| {
        for event in batch.events.iter_mut().filter(|_| n > 100) {
            event.seen = event.seen.map(|seen| Seq(seen.get() + 50));
        }
        Some(batch)
    }),
    ("timers not in the step", |_, batch| without(batch, FactKind::Timer)),
    ("a timer that has fired stays", |_, mut batch| {
        batch.facts.retain(|fact| fact.kind != FactKind::Timer || fact.value.is_some());
        Some(batch)
    }),
    ("offset ahead by one", |_, mut batch| {
        let offsets = batch.facts.iter_mut().filter(|fact| fact.kind == FactKind::Offset);
        for fact in offsets {
            let ahead = fact.value.as_deref().and_then(|json| json.trim_matches('"').parse::<u64>().ok());
            fact.value = ahead.map(|offset| format!("\"{}\"", offset + 1).into());
        }
        Some(batch)
    }),
    ("dead letter that nobody earned", |n, mut batch| {
        if now_and_then(n)
            && let [.., committed] = batch.events.as_slice()
        {
            let (owner, key) = (Name::new("ticker").unwrap(), committed.event.id.to_string());
            let value = Some(r#"{"reason":"none"}"#.into());
            batch.facts.push(FactRow {
                kind: FactKind::DeadLetter,
                owner,
                key,
                value,
                version: committed.seq,
                event: None,
            });
        }
        Some(batch)
    }),
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
    ("journalled with another content than its readers got", |n, mut batch| {
        for committed in batch.events.iter_mut().filter(|_| n > 20) {
            if let Ok(told) = committed.event.payload.get::<crowd::Told>() {
                let payload = Payload::typed(crowd::Told { left: told.left + 1 });
                committed.event = Arc::new(Event { payload, ..Event::clone(&committed.event) });
            }
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

/// What broke: the invariant, not its words.
fn kind(report: &SimReport<()>) -> Option<String> {
    let text = report.failure()?;
    Some(report.violations.first().map_or_else(|| text.split(':').next().unwrap().to_owned(), |v| v.invariant.clone()))
}

/// Looks for a planted bug, makes its faults fewer, and repeats what is left twice.
fn hunt(name: &str, plant: impl Fn(u64) -> Swarm) {
    let found = (0..SEEDS_MAX).find_map(|seed| {
        let report = run(plant(seed), everything());
        kind(&report).map(|kind| (seed, kind, report))
    });
    let (seed, broke, first) = found.unwrap_or_else(|| panic!("{name} was not found"));
    let mut tries_left = TRIES_MAX;
    let left = fewer(first.faults, |list| {
        tries_left -= 1;
        let again =
            tries_left > 0 && kind(&run(plant(seed), FaultPlan::Exactly(list.to_vec()))).as_ref() == Some(&broke);
        Ok::<_, ()>(again)
    });
    let left = left.unwrap();
    let again = || run(plant(seed), FaultPlan::Exactly(left.clone()));
    let (one, other) = (again(), again());
    assert_eq!((kind(&one), one.hash), (Some(broke), other.hash), "{name}: what is left does not repeat it");
    println!("| {name} | {seed} | {} | {} |", left.len(), one.failure().unwrap());
    assert!(left.len() <= FAULTS_LEFT_MAX, "{name}: {} faults are left", left.len());
}

#[test]
fn nothing_is_found_where_nothing_is_planted() {
    for seed in 0..10 {
        let report = run(swarm(seed, Flaw::None), everything());
        assert_eq!(report.failure(), None, "seed {seed}: {report}");
    }
}

#[test]
fn every_planted_bug_is_found_and_shrunk_and_repeats() {
    let only = std::env::var("ATRA_SIM_PLANTED").ok();
    for (name, bug) in BUGS.into_iter().filter(|(name, _)| only.as_ref().is_none_or(|only| only == name)) {
        hunt(name, |seed| swarm(seed, Flaw::None).sabotage(move |n, batch| bug(n, batch).into_iter().collect()));
    }
}

/// Bugs of what is around the store: planted where a reader reads, a task is woken, an answer is given.
#[test]
fn every_planted_bug_around_the_store_is_found_and_shrunk_and_repeats() {
    let plain = |seed| swarm(seed, Flaw::None);
    hunt("a lost wake-up", |seed| plain(seed).sabotage_wakes(|task, polls| task == "team crowd-1" && polls == 40));
    hunt("a supervisor that is gone", |seed| {
        plain(seed).sabotage_ends(|task, polls| task == "team crowd-1" && polls == 40)
    });
    hunt("what was missed is taken for nothing", |seed| plain(seed).sabotage_reads(|_, _| true));
    // Memory, bus and callers have it; the store gets it with the next batch.
    hunt("memory, bus and callers before the commit", |seed| {
        let held = Mutex::new(Vec::new());
        plain(seed).sabotage(move |n, batch| {
            let mut held = held.lock().unwrap();
            let mut batches = std::mem::take(&mut *held);
            if now_and_then(n) { &mut *held } else { &mut batches }.push(batch);
            batches
        })
    });
}

/// A team whose supervisor has ended without a trace goes on saying that it runs.
#[test]
fn a_team_that_is_said_to_run_without_a_task_is_found() {
    let bug = |task: &str, polls| task == "team crowd-1" && polls == 40;
    let report = run(swarm(0, Flaw::None).sabotage_ends(bug), FaultPlan::None);
    let is_it = |broken: &atra_runtime::sim::Violation| broken.invariant == "has_task" && broken.key == "crowd-1";
    assert!(report.violations.iter().any(is_it), "{report}");
}

#[test]
fn every_agent_that_breaks_a_rule_is_found_and_shrunk_and_repeats() {
    for (name, flaw) in [
        ("state not saved", Flaw::NotSaved),
        ("state not restored", Flaw::NotRestored),
        ("counted outside of the agent", Flaw::CountsOutside),
        ("source begins anew at a restart", Flaw::BeginsAnew),
        ("source skips one at a restart", Flaw::SkipsOne),
        ("source ends without saying so", Flaw::EndsWithoutEnd),
        ("event that promises to come back as it is and does not", Flaw::PromisesTooMuch),
    ] {
        hunt(name, |seed| swarm(seed, flaw));
    }
}
