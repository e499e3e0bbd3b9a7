//! What is accepted comes back: values on every way into the store, before and after a restart, and the bounds of a step.
#![expect(clippy::unwrap_used, reason = "a test that fails should fail")]

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use atra_bus::{Draft, Event, EventType, Filter, Name, Seq, Topic};
use atra_runtime::{
    Agent, AgentError, AgentSpec, Context, EffectError, KEY_BYTES_MAX, Limits, Offsets, PublishError, Runtime,
    RuntimeBuilder, RuntimeError, Source, SourceItem, StateReader, StateWriter, Team, TeamState,
};
use atra_storage::{FactKind, FactRow, MemoryDisk, MemoryStore, SqliteOptions, SqliteStore};
use proptest::{collection, prelude::*, strategy::ValueTree as _, test_runner::TestRunner};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

const IN: Topic = Topic::literal("in.n");
const OUT: Topic = Topic::literal("out.n");
const LONG: Duration = Duration::from_secs(60);

type Handler = dyn Fn(&mut Value, &Event, &mut Context<'_>) -> Result<(), AgentError> + Send + Sync;

/// An agent that is a function; its state is a JSON value.
#[derive(Clone)]
struct Script {
    spec: AgentSpec,
    state: Value,
    handler: Arc<Handler>,
}

impl Script {
    fn new(
        spec: AgentSpec,
        handler: impl Fn(&mut Value, &Event, &mut Context<'_>) -> Result<(), AgentError> + Send + Sync + 'static,
    ) -> Self {
        Self { spec, state: Value::Null, handler: Arc::new(handler) }
    }
}

#[async_trait]
impl Agent for Script {
    fn spec(&self) -> AgentSpec {
        self.spec.clone()
    }
    async fn start(&mut self, state: &StateReader<'_>) -> Result<(), AgentError> {
        self.state = state.get("state")?.unwrap_or_default();
        Ok(())
    }
    async fn handle(&mut self, event: &Event, cx: &mut Context<'_>) -> Result<(), AgentError> {
        (self.handler)(&mut self.state, event, cx)
    }
    fn save(&mut self, state: &mut StateWriter<'_>) -> Result<(), AgentError> {
        state.put("state", &self.state)
    }
}

fn spec(name: &str) -> AgentSpec {
    AgentSpec::new(name).subscribes("in.*")
}

/// A runtime of these teams on the model store.
async fn start(disk: &MemoryDisk, teams: Vec<Team>) -> Runtime {
    let builder = RuntimeBuilder::new(MemoryStore::on(disk));
    teams.into_iter().fold(builder, RuntimeBuilder::team).start().await.unwrap()
}

/// Publishes and waits until all that it causes is done.
async fn give<T: Serialize>(runtime: &Runtime, value: T) {
    let published = runtime.publish(Draft::new(IN, value)).await.unwrap();
    runtime.settled(published.seq).await.unwrap();
}

async fn dead_letters(runtime: &Runtime) -> Vec<FactRow> {
    runtime.reader().facts(FactKind::DeadLetter, None).await.unwrap()
}

fn is_running(runtime: &Runtime) -> bool {
    runtime.status().iter().all(|team| team.state == TeamState::Running)
}

// === readers ===

/// Once, a look from outside at a value that came from the store made its owner fail on every event from then on.
#[tokio::test]
async fn a_look_from_outside_changes_nothing_for_the_owner_of_a_value() {
    let disk = MemoryDisk::new();
    let owner = || Team::of(|| Owner);
    let runtime = start(&disk, vec![owner()]).await;
    give(&runtime, 0.5).await;
    runtime.stop(LONG).await.unwrap();

    let runtime = start(&disk, vec![owner()]).await;
    assert_eq!(runtime.memory().get("kept.sum").unwrap().get::<Value>().unwrap(), &json!(0.5));
    for _ in 0..20 {
        give(&runtime, 0.5).await;
    }
    assert_eq!(runtime.memory().get("kept.sum").unwrap().get::<f64>().unwrap(), &10.5);
    assert!(dead_letters(&runtime).await.is_empty());
    runtime.stop(LONG).await.unwrap();
}

/// Adds numbers in a memory key.
struct Owner;

#[async_trait]
impl Agent for Owner {
    fn spec(&self) -> AgentSpec {
        spec("owner").owns("kept.")
    }
    async fn handle(&mut self, event: &Event, cx: &mut Context<'_>) -> Result<(), AgentError> {
        let sum: f64 = cx.get("kept.sum").await?.unwrap_or(0.0);
        cx.put("kept.sum", sum + event.get::<f64>()?)?;
        Ok(())
    }
}

#[tokio::test]
async fn teams_read_one_event_as_different_types() {
    let disk = MemoryDisk::new();
    let part = Script::new(spec("part"), |_, event, _| {
        #[derive(Deserialize)]
        struct Part {
            n: u64,
        }
        assert_eq!(event.get::<Part>()?.n, event.get::<BTreeMap<String, u64>>()?["n"]);
        Ok(())
    });
    let whole = Script::new(spec("whole"), |_, event, _| {
        assert_eq!(event.get::<Value>()?["more"], 1);
        Ok(())
    });
    let teams = || {
        vec![
            Team::of({
                let part = part.clone();
                move || part.clone()
            }),
            Team::of({
                let whole = whole.clone();
                move || whole.clone()
            }),
        ]
    };
    let runtime = start(&disk, teams()).await;
    for n in 0..50 {
        give(&runtime, json!({ "n": n, "more": 1 })).await;
    }
    assert!(runtime.status().iter().all(|team| team.restarts == 0));
    assert!(dead_letters(&runtime).await.is_empty());
    runtime.stop(LONG).await.unwrap();
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Skips {
    n: u64,
    #[serde(skip)]
    hint: u64,
}

impl EventType for Skips {
    const TOPIC: Topic = Topic::literal("in.skips");
}

/// What is skipped must not be seen by live teammates either: a replay would decide otherwise.
#[tokio::test]
async fn a_teammate_sees_what_a_replay_would() {
    let disk = MemoryDisk::new();
    let told = Script::new(AgentSpec::new("told").subscribes("in.n").publishes::<Skips>(), |_, event, cx| {
        cx.publish(Skips { n: *event.get()?, hint: 7 })?;
        Ok(())
    });
    let heard = Script::new(AgentSpec::new("heard").handles::<Skips>().publishes_on("out.*", true), |_, event, cx| {
        cx.publish(Draft::new(OUT, event.get::<Skips>()?.hint))?;
        Ok(())
    });
    let team = Team::new("team").agent(move || told.clone()).agent(move || heard.clone());
    let runtime = start(&disk, vec![team]).await;
    give(&runtime, 1).await;
    let events = runtime.reader().journal_tail(&everything(), 10).await.unwrap();
    let out: Vec<u64> =
        events.iter().filter(|row| row.event.topic == OUT).map(|row| *row.event.get().unwrap()).collect();
    assert_eq!(out, [0]);
    runtime.stop(LONG).await.unwrap();
}

fn everything() -> atra_bus::Interest {
    atra_bus::Interest::in_topics(vec![Filter::all()])
}

// === every way in ===

/// Publishes, writes, sets or saves NaN, as the input says.
fn odd_agent() -> Team {
    let agent = Script::new(spec("odd").owns("odd.").publishes_on("out.*", true), |state, event, cx| {
        match event.get::<String>()?.as_str() {
            "publish" => _ = cx.publish(Draft::new(OUT, [f64::NAN]))?,
            "passing" => _ = cx.publish(Draft::new(OUT, f64::NAN).passing())?,
            "put" => _ = cx.put("odd.key", f64::INFINITY)?,
            "after" => _ = cx.after(LONG, Draft::new(OUT, [f64::NAN]))?,
            "send" => _ = cx.send("odd", Draft::new(OUT, [f64::NAN]))?,
            "save" => *state = (0..130).fold(json!(0), |value, _| json!([value])),
            _ => _ = cx.put("odd.key", 1)?,
        }
        Ok(())
    });
    Team::of(move || agent.clone())
}

#[tokio::test]
async fn a_value_that_cannot_come_back_is_a_failed_turn_and_not_a_failed_team() {
    let disk = MemoryDisk::new();
    let runtime = start(&disk, vec![odd_agent()]).await;
    give(&runtime, "fine").await;
    for (n, way) in ["publish", "put", "after", "send", "save"].into_iter().enumerate() {
        give(&runtime, way).await;
        let letters = dead_letters(&runtime).await;
        assert_eq!(letters.len(), n + 1, "{way}");
        assert_eq!(runtime.memory().get("odd.key").unwrap().get::<u64>().unwrap(), &1, "{way}");
    }
    let reasons: Vec<String> =
        dead_letters(&runtime).await.iter().map(|row| row.value.as_deref().unwrap().into()).collect();
    assert!(reasons.iter().any(|reason| reason.contains("$[0] is NaN")), "{reasons:?}");
    assert!(reasons.iter().any(|reason| reason.contains("is nested deeper than 120 levels")), "{reasons:?}");
    give(&runtime, "fine").await;
    assert!(is_running(&runtime));
    runtime.stop(LONG).await.unwrap();

    // Nothing of it is in the way of the next start.
    let runtime = start(&disk, vec![odd_agent()]).await;
    give(&runtime, "fine").await;
    assert!(is_running(&runtime));
    runtime.stop(LONG).await.unwrap();
}

#[tokio::test]
async fn a_caller_is_refused_a_value_that_cannot_come_back_and_its_key_stays() {
    let runtime = start(&MemoryDisk::new(), vec![]).await;
    let refused = runtime.publish(Draft::new(IN, json!({})).on(IN)).key("x".repeat(KEY_BYTES_MAX + 1)).await;
    assert!(matches!(refused, Err(RuntimeError::KeyTooLong { .. })), "{refused:?}");
    let refused = runtime.publish(Draft::new(IN, [[f64::NAN]])).await.unwrap_err();
    assert!(refused.to_string().contains("$[0][0] is NaN"), "{refused}");
    runtime.put("price", 1.5).unwrap().await.unwrap();
    assert!(matches!(runtime.put("price", f64::NAN).unwrap().await, Err(RuntimeError::Payload(_))));
    assert!(matches!(runtime.put("price", Some(())).unwrap().await, Err(RuntimeError::Payload(_))));
    assert_eq!(runtime.memory().get("price").unwrap().get::<f64>().unwrap(), &1.5);
    runtime.stop(LONG).await.unwrap();
}

/// Calls the outside with what the input says; counts the calls, and keeps what the turn was told.
struct Acting {
    calls: Arc<AtomicU64>,
    told: Arc<Mutex<Vec<String>>>,
}

#[async_trait]
impl Agent for Acting {
    fn spec(&self) -> AgentSpec {
        spec("acting").publishes_on("out.*", true).acting()
    }
    async fn handle(&mut self, event: &Event, cx: &mut Context<'_>) -> Result<(), AgentError> {
        let calls = self.calls.clone();
        let way = event.get::<String>()?.clone();
        let result = match way.as_str() {
            "huge" => json!("x".repeat(17 << 20)),
            "deep" => (0..130).fold(json!(0), |value, _| json!([value])),
            _ => json!(way),
        };
        let name = if way == "name" { "x".repeat(KEY_BYTES_MAX + 1) } else { "call".into() };
        let called = cx.effect(&name, |_| async move {
            calls.fetch_add(1, Ordering::Relaxed);
            Ok(result)
        });
        let told = match called.await {
            Ok(value) => cx.publish(Draft::new(OUT, value)).map(|_| "ok"),
            Err(EffectError::Unknown { .. }) => {
                cx.resolve_effect("call", &json!("resolved")).await?;
                Ok("unknown")
            }
            Err(error) => {
                self.told.lock().unwrap().push(error.to_string());
                return Err(error.into());
            }
        };
        self.told.lock().unwrap().push(told?.into());
        Ok(())
    }
}

#[tokio::test]
async fn a_result_that_cannot_be_recorded_leaves_the_outcome_unknown_and_is_not_called_again() {
    for (way, reason) in [("huge", "event_bytes_max"), ("deep", "nested deeper")] {
        let (calls, told) = (Arc::<AtomicU64>::default(), Arc::<Mutex<Vec<String>>>::default());
        let (counted, heard) = (calls.clone(), told.clone());
        let team = Team::of(move || Acting { calls: counted.clone(), told: heard.clone() });
        let runtime = start(&MemoryDisk::new(), vec![team]).await;
        give(&runtime, way).await;
        let heard = told.lock().unwrap().clone();
        assert!(heard[0].contains("outcome stays unknown") && heard[0].contains(reason), "{heard:?}");
        assert_eq!((heard[1].as_str(), calls.load(Ordering::Relaxed)), ("unknown", 1));
        give(&runtime, "fine").await;
        assert!(is_running(&runtime) && dead_letters(&runtime).await.is_empty());
        runtime.stop(LONG).await.unwrap();
    }
}

#[tokio::test]
async fn an_effect_whose_name_cannot_be_stored_is_not_called() {
    let (calls, told) = (Arc::<AtomicU64>::default(), Arc::<Mutex<Vec<String>>>::default());
    let counted = calls.clone();
    let team = Team::of(move || Acting { calls: counted.clone(), told: told.clone() });
    let runtime = start(&MemoryDisk::new(), vec![team]).await;
    give(&runtime, "name").await;
    assert_eq!((calls.load(Ordering::Relaxed), dead_letters(&runtime).await.len()), (0, 1));
    runtime.stop(LONG).await.unwrap();
}

// === bounds of a step ===

/// Does too much of something, as the input says.
fn greedy() -> Team {
    let spec = spec("greedy").owns("greedy.").publishes_on("out.*", true);
    let agent = Script::new(spec, |_, event, cx| {
        let megabyte = "x".repeat((1 << 20) - 100);
        match event.get::<String>()?.as_str() {
            "timers" => (0..17).try_for_each(|_| cx.after(LONG, Draft::new(OUT, &megabyte)).map(|_| ()))?,
            "events" => (0..17).try_for_each(|_| cx.publish(Draft::new(OUT, &megabyte)).map(|_| ()))?,
            "passing" => (0..17).try_for_each(|_| cx.publish(Draft::new(OUT, &megabyte).passing()).map(|_| ()))?,
            "keys" => (0..17).try_for_each(|n| cx.put(&format!("greedy.{n}"), megabyte.clone()).map(|_| ()))?,
            "error" => return Err(AgentError::new("x".repeat(17 << 20))),
            "panic" => panic!("{}", "x".repeat(17 << 20)),
            _ => {}
        }
        Ok(())
    });
    Team::of(move || agent.clone())
}

#[tokio::test]
async fn a_turn_that_is_too_much_for_a_step_becomes_a_dead_letter_and_the_team_goes_on() {
    let disk = MemoryDisk::new();
    let runtime = start(&disk, vec![greedy()]).await;
    for (n, way) in ["timers", "events", "keys", "error", "panic"].into_iter().enumerate() {
        give(&runtime, way).await;
        let letters = dead_letters(&runtime).await;
        assert_eq!(letters.len(), n + 1, "{way}");
        assert!(letters.iter().all(|letter| letter.value.as_ref().unwrap().len() < 10_000), "{way}");
        assert!(is_running(&runtime), "{way}");
    }
    let cut = |row: &FactRow| row.value.as_deref().unwrap().contains("(cut from 17825792 bytes)");
    assert_eq!(dead_letters(&runtime).await.iter().filter(|row| cut(row)).count(), 2);
    runtime.stop(LONG).await.unwrap();
}

/// Saves seventeen megabytes when the input says so.
struct Hoarder {
    n: u64,
    hoards: bool,
}

#[async_trait]
impl Agent for Hoarder {
    fn spec(&self) -> AgentSpec {
        spec("hoarder")
    }
    async fn start(&mut self, state: &StateReader<'_>) -> Result<(), AgentError> {
        self.n = state.get("n")?.unwrap_or(0);
        Ok(())
    }
    async fn handle(&mut self, event: &Event, _: &mut Context<'_>) -> Result<(), AgentError> {
        self.n += 1;
        // It is saved at the end of the step, whatever came after it.
        self.hoards |= event.get::<String>()? == "hoard";
        Ok(())
    }
    fn save(&mut self, state: &mut StateWriter<'_>) -> Result<(), AgentError> {
        state.put("n", &self.n)?;
        for part in 0..17 {
            if self.hoards {
                // An error that is not passed on must not make a state of half its keys.
                let _ = state.put(&format!("part.{part}"), &"x".repeat((1 << 20) - 100));
            }
        }
        Ok(())
    }
}

/// The inputs before and behind it are in the same step at first; they must not suffer for it.
#[tokio::test]
async fn an_input_whose_state_is_too_large_becomes_a_dead_letter_and_its_neighbours_do_not() {
    let disk = MemoryDisk::new();
    let team = || Team::of(|| Hoarder { n: 0, hoards: false });
    let runtime = start(&disk, vec![team()]).await;
    runtime.pause("hoarder").await.unwrap();
    let mut last = Seq::ZERO;
    for n in 0..20 {
        let way = if n == 10 { "hoard" } else { "fine" };
        last = runtime.publish(Draft::new(IN, way)).await.unwrap().seq;
    }
    runtime.resume("hoarder").await.unwrap();
    runtime.settled(last).await.unwrap();
    assert!(is_running(&runtime));
    assert_eq!(dead_letters(&runtime).await.len(), 1);
    let name = Name::new("hoarder").unwrap();
    let n = runtime.reader().fact(FactKind::State, &name, "n").await.unwrap().unwrap();
    assert_eq!(n.value.as_deref(), Some("19"));
    runtime.stop(LONG).await.unwrap();
}

/// Each of twenty letters would repeat the event's content.
#[tokio::test]
async fn dead_letters_of_a_large_event_fit_into_the_step_that_buries_them() {
    let disk = MemoryDisk::new();
    let picky = |n: usize| Script::new(spec(&format!("picky-{n}")), |_, _, _| Err(AgentError::new("no")));
    let limits = Limits { dead_letters_per_thousand_max: 1_000, ..Limits::default() };
    let team = (0..20).fold(Team::new("picky"), |team, n| team.agent(move || picky(n))).limits(limits);
    let runtime = start(&disk, vec![team]).await;
    give(&runtime, "x".repeat((1 << 20) - 100)).await;
    let letters = dead_letters(&runtime).await;
    assert_eq!(letters.len(), 20);
    assert!(is_running(&runtime));
    let sizes: Vec<usize> = letters.iter().map(|letter| letter.value.as_ref().unwrap().len()).collect();
    assert!(sizes.iter().any(|size| *size > 1 << 20) && sizes.iter().any(|size| *size < 1_000), "{sizes:?}");
    runtime.stop(LONG).await.unwrap();
}

#[tokio::test]
async fn a_turn_is_refused_the_publish_that_is_too_much_at_the_call() {
    let seen = Arc::<Mutex<Vec<bool>>>::default();
    let noted = seen.clone();
    let agent = Script::new(spec("counted").publishes_on("out.*", true), move |_, _, cx| {
        let megabyte = "x".repeat((1 << 20) - 100);
        let refused = (0..20).map(|_| cx.publish(Draft::new(OUT, &megabyte))).find_map(Result::err);
        noted.lock().unwrap().push(matches!(refused, Some(PublishError::TurnTooLarge { .. })));
        Err(AgentError::new("enough"))
    });
    let runtime = start(&MemoryDisk::new(), vec![Team::of(move || agent.clone())]).await;
    give(&runtime, 1).await;
    assert_eq!(*seen.lock().unwrap(), [true; 3]);
    runtime.stop(LONG).await.unwrap();
}

// === sources ===

/// Yields these places, one number each.
struct Places(Vec<(&'static str, &'static str)>);

#[async_trait]
impl Agent for Places {
    fn spec(&self) -> AgentSpec {
        AgentSpec::new("places").source().publishes_on("in.*", true)
    }
    async fn handle(&mut self, _: &Event, _: &mut Context<'_>) -> Result<(), AgentError> {
        Ok(())
    }
    fn source(&self, _: &Offsets) -> Option<Source> {
        let items = self.0.clone().into_iter().map(|(partition, offset)| {
            Ok(SourceItem::Input { event: Draft::new(IN, 1), partition: partition.into(), offset: offset.into() })
        });
        Some(Box::pin(futures::stream::iter(items.chain([Ok(SourceItem::End)]).collect::<Vec<_>>())))
    }
}

#[tokio::test]
async fn a_place_of_a_source_that_would_give_two_events_one_id_is_refused() {
    let cases: [(&[(&str, &str)], &str); 4] = [
        (&[("a", "1"), ("a", "1")], "offset \"1\" a second time"),
        (&[("a", "1"), ("a", "2"), ("b", "1"), ("a", "1")], "offset \"1\" a second time"),
        (&[("a\0b", "c")], "NUL"),
        (&[("a", "b\0c")], "NUL"),
    ];
    for (places, reason) in cases {
        let disk = MemoryDisk::new();
        let limits = Limits { restarts_max: 1, ..Limits::default() };
        let runtime = start(&disk, vec![Team::of(move || Places(places.to_vec())).limits(limits)]).await;
        let state = runtime.until_state("places", TeamState::is_ended).await.unwrap();
        assert!(state.to_string().contains(reason), "{places:?}: {state}");
        let events = runtime.reader().journal_tail(&everything(), usize::MAX).await.unwrap();
        let mut ids: Vec<_> = events.iter().map(|row| row.event.id).collect();
        let n = ids.len();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), n, "{places:?}: an id is there twice");
        runtime.stop(LONG).await.unwrap();
    }
}

// === any value ===

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Sample {
    float: f64,
    single: f32,
    large: u128,
    maybe: Option<Option<u8>>,
    unit: (),
    map: BTreeMap<String, Choice>,
    by_number: BTreeMap<i64, f64>,
    list: Vec<Option<Choice>>,
    nested: Value,
    #[serde(skip)]
    skipped: u8,
    #[serde(flatten)]
    rest: BTreeMap<String, u8>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
enum Choice {
    Unit,
    New(char),
    Tuple(u8, i128),
    Struct { bytes: Vec<u8>, tagged: Tagged },
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "map")]
enum Tagged {
    A { n: i8 },
    B(BTreeMap<String, f64>),
}

impl EventType for Sample {
    const TOPIC: Topic = Topic::literal("in.sample");
}

fn choice() -> impl Strategy<Value = Choice> {
    let tagged = prop_oneof![
        any::<i8>().prop_map(|n| Tagged::A { n }),
        collection::btree_map("[a-z]{0,3}|map", any::<f64>(), 0..3).prop_map(Tagged::B),
    ];
    prop_oneof![
        Just(Choice::Unit),
        any::<char>().prop_map(Choice::New),
        (any::<u8>(), any::<i128>()).prop_map(|(a, b)| Choice::Tuple(a, b)),
        (collection::vec(any::<u8>(), 0..4), tagged).prop_map(|(bytes, tagged)| Choice::Struct { bytes, tagged }),
    ]
}

prop_compose! {
    fn sample()(
        float in prop_oneof![8 => any::<f64>(), 1 => Just(f64::NAN), 1 => Just(f64::INFINITY)],
        single in any::<f32>(),
        large in prop_oneof![8 => any::<u64>().prop_map(u128::from), 1 => any::<u128>()],
        maybe in any::<Option<Option<u8>>>(),
        map in collection::btree_map(".{0,3}", choice(), 0..3),
        by_number in collection::btree_map(any::<i64>(), any::<f64>(), 0..3),
        list in collection::vec(proptest::option::of(choice()), 0..3),
        depth in prop_oneof![8 => 0_u32..10, 1 => 110_u32..130],
        skipped in 0_u8..3,
        rest in collection::btree_map("[a-z]{1,4}", any::<u8>(), 0..3),
    ) -> Sample {
        let nested = (0..depth).fold(json!("x"), |value, _| json!({ "": value }));
        Sample { float, single, large, maybe, unit: (), map, by_number, list, nested, skipped, rest }
    }
}

/// What a turn and a caller saw of a sample, on each way that accepted it.
type Seen = Arc<Mutex<BTreeMap<(u64, &'static str), Value>>>;

/// Takes a sample on every way into the store, and notes what it sees of it.
struct Taker {
    samples: Arc<Vec<Sample>>,
    seen: Seen,
    saved: Vec<(u64, Sample)>,
    refused: u64,
}

impl Taker {
    fn note(&self, n: u64, way: &'static str, seen: &Sample) {
        self.seen.lock().unwrap().insert((n, way), serde_json::to_value(seen).unwrap());
    }
}

#[async_trait]
impl Agent for Taker {
    fn spec(&self) -> AgentSpec {
        AgentSpec::new("taker").subscribes("in.*").owns("taker.").publishes_on("out.*", true).acting()
    }
    async fn handle(&mut self, event: &Event, cx: &mut Context<'_>) -> Result<(), AgentError> {
        if let Some(sample) = event.as_type::<Sample>()? {
            assert_eq!(sample.skipped, 0, "a skipped field is not in the store");
            return Ok(());
        }
        let n = *event.get::<u64>()?;
        let sample = self.samples[n as usize].clone();
        let key = format!("taker.k{n}");
        if cx.put(&key, sample.clone()).is_ok() {
            let held: Sample = cx.get(&key).await?.unwrap();
            assert_eq!(held.skipped, 0);
            self.note(n, "memory", &held);
        }
        if cx.after(LONG * 1_000, Draft::new(OUT, sample.clone())).is_ok() {
            self.note(n, "timer", &sample);
        }
        if let Ok(result) = cx.effect("call", |_| async { Ok(sample.clone()) }).await {
            assert_eq!(result.skipped, 0);
            self.note(n, "effect", &result);
        }
        // What `save` refuses would be a dead letter: ask first.
        if atra_bus::encode(&sample).is_ok() {
            self.note(n, "state", &sample);
            self.saved.push((n, sample));
        } else {
            self.refused += 1;
        }
        Ok(())
    }
    fn save(&mut self, state: &mut StateWriter<'_>) -> Result<(), AgentError> {
        self.saved.drain(..).try_for_each(|(n, sample)| state.put(&n.to_string(), &sample))
    }
}

fn team(samples: &Arc<Vec<Sample>>, seen: &Seen) -> Team {
    let (samples, seen) = (samples.clone(), seen.clone());
    Team::of(move || Taker { samples: samples.clone(), seen: seen.clone(), saved: Vec::new(), refused: 0 })
}

/// What the store says of it after a restart, as its own type.
async fn stored(runtime: &Runtime, n: u64, way: &str, event: &str) -> Value {
    let reader = runtime.reader();
    let name = Name::new("taker").unwrap();
    let fact = |kind, key: String| {
        let (reader, name) = (reader.clone(), name.clone());
        async move { reader.fact(kind, &name, &key).await.unwrap().unwrap().value.unwrap() }
    };
    let sample: Sample = match way {
        "memory" => runtime.memory().get(&format!("taker.k{n}")).unwrap().get::<Sample>().unwrap().clone(),
        "state" => serde_json::from_str(&fact(FactKind::State, n.to_string()).await).unwrap(),
        "effect" => {
            let json = fact(FactKind::Result, format!("{event}.call")).await;
            let record: BTreeMap<String, Box<serde_json::value::RawValue>> = serde_json::from_str(&json).unwrap();
            serde_json::from_str(record["result"].get()).unwrap()
        }
        other => unreachable!("{other}"),
    };
    serde_json::to_value(sample).unwrap()
}

async fn check(store: impl AsyncFn() -> RuntimeBuilder, samples: Vec<Sample>) {
    let (samples, seen) = (Arc::new(samples), Seen::default());
    let runtime = store().await.team(team(&samples, &seen)).start().await.unwrap();
    let mut events = Vec::new();
    for n in 0..samples.len() as u64 {
        let published = runtime.publish(Draft::new(IN, n)).await.unwrap();
        runtime.settled(published.seq).await.unwrap();
        let accepted = runtime.publish(samples[n as usize].clone()).await;
        if let Ok(accepted) = &accepted {
            runtime.settled(accepted.seq).await.unwrap();
        }
        events.push((published.id.to_string(), accepted.ok().map(|accepted| accepted.seq)));
    }
    let letters = runtime.reader().facts(FactKind::DeadLetter, None).await.unwrap();
    assert!(letters.is_empty() && is_running(&runtime), "{letters:?}");
    runtime.stop(LONG).await.unwrap();

    let runtime = store().await.team(team(&samples, &Seen::default())).start().await.unwrap();
    let seen = seen.lock().unwrap().clone();
    for ((n, way), live) in &seen {
        if *way != "timer" {
            assert_eq!(
                &stored(&runtime, *n, way, &events[*n as usize].0).await,
                live,
                "{way} of {:?}",
                samples[*n as usize]
            );
        }
    }
    let timers = runtime.reader().facts(FactKind::Timer, None).await.unwrap();
    assert_eq!(timers.len(), seen.keys().filter(|(_, way)| *way == "timer").count());
    for (n, (_, seq)) in events.iter().enumerate() {
        if let Some(seq) = seq {
            let row = runtime.reader().event(*seq).await.unwrap().unwrap();
            let expected = Sample { skipped: 0, ..samples[n].clone() };
            assert_eq!(row.event.get::<Sample>().unwrap(), &expected);
        }
    }
    runtime.idle().await;
    assert!(is_running(&runtime));
    runtime.stop(LONG).await.unwrap();
}

/// A few dozen values at a time: a start costs more than a value.
fn samples() -> Vec<Vec<Sample>> {
    let mut runner = TestRunner::deterministic();
    let batch = collection::vec(sample(), 40);
    (0..3).map(|_| batch.new_tree(&mut runner).unwrap().current()).collect()
}

#[tokio::test]
async fn any_value_is_refused_or_comes_back_equal_from_the_model_store() {
    for samples in samples() {
        let disk = MemoryDisk::new();
        check(async || RuntimeBuilder::new(MemoryStore::on(&disk)), samples).await;
    }
}

#[tokio::test]
async fn any_value_is_refused_or_comes_back_equal_from_sqlite() {
    for samples in samples() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.db");
        check(async || RuntimeBuilder::new(SqliteStore::open(SqliteOptions::new(&path)).await.unwrap()), samples).await;
    }
}
