//! Settings that cannot work are refused before anything runs, with the field, the value and what is allowed.

use std::time::Duration;

use atra_bus::BusOptions;
use atra_runtime::{AgentSpec, Limits, Missed, RuntimeBuilder, StartError, config, testing::AgentBench};
use atra_storage::{MemoryStore, StorageOptions};

use crate::support::{Named, idle};

type Change = fn(&mut Limits);

/// Every limit that has no meaning at its lowest or highest value.
const LIMITS: [(&str, Change, Change); 18] = [
    ("inputs_max", |l| l.inputs_max = 0, |l| l.inputs_max = usize::MAX),
    ("steps_in_flight_max", |l| l.steps_in_flight_max = 0, |l| l.steps_in_flight_max = usize::MAX),
    ("step_bytes_max", |l| l.step_bytes_max = 0, |l| l.step_bytes_max = usize::MAX),
    ("event_bytes_max", |l| l.event_bytes_max = 0, |l| l.event_bytes_max = usize::MAX),
    // An event that fits no step.
    ("event_bytes_max", |l| l.step_bytes_max = 2_000, |l| l.event_bytes_max = (16 << 20) + 1),
    ("cascade_events_max", |l| l.cascade_events_max = 0, |l| l.cascade_events_max = usize::MAX),
    // Hops are counted up to the end of the type: a limit there ends no loop.
    ("hops_max", |l| l.hops_max = 0, |l| l.hops_max = u16::MAX),
    ("read_ahead_inputs_max", |l| l.read_ahead_inputs_max = 0, |l| l.read_ahead_inputs_max = usize::MAX),
    ("foreign_events_max", |l| l.foreign_events_max = 0, |l| l.foreign_events_max = usize::MAX),
    ("timers_max", |l| l.timers_max = usize::MAX, |l| l.timers_max = usize::MAX - 1),
    ("restarts_max", |l| l.restarts_max = u32::MAX, |l| l.restarts_max = u32::MAX - 1),
    (
        "dead_letters_per_thousand_max",
        |l| l.dead_letters_per_thousand_max = u32::MAX,
        |l| l.dead_letters_per_thousand_max = u32::MAX - 1,
    ),
    ("backoff_first_ms", |l| l.backoff_first_ms = 0, |l| l.backoff_first_ms = u64::MAX),
    ("backoff_max_ms", |l| l.backoff_max_ms = 0, |l| l.backoff_max_ms = u64::MAX),
    ("backoff_first_ms", |l| l.backoff_max_ms = 9, |l| l.backoff_first_ms = 10_001),
    ("deaths_max", |l| l.deaths_max = 0, |l| l.deaths_max = u32::MAX),
    ("cursor_every_ms", |l| l.cursor_every_ms = 0, |l| l.cursor_every_ms = u64::MAX),
    ("watchdog_ms", |l| l.watchdog_ms = 0, |l| l.watchdog_ms = u64::MAX),
];

async fn refused(builder: RuntimeBuilder) -> String {
    match builder.start().await {
        Ok(_) => panic!("it started"),
        Err(StartError::Settings(error)) => error.to_string(),
        Err(error) => panic!("refused for another reason: {error}"),
    }
}

#[tokio::test]
async fn a_limit_at_the_ends_of_its_type_is_refused_by_the_builder_and_by_the_bench() {
    assert_eq!(Limits::default().check(), Ok(()));
    for (field, low, high) in LIMITS {
        for change in [low, high] {
            let mut limits = Limits::default();
            change(&mut limits);
            let team = idle(AgentSpec::new("a").subscribes("in.x")).limits(limits.clone());
            let error = refused(RuntimeBuilder::new(MemoryStore::new()).team(team)).await;
            assert!(error.contains(&format!("teams.a.limits.{field} = ")), "{field}: {error}");

            let bench = std::panic::catch_unwind(|| AgentBench::new(Named("nothing")).limits(limits.clone()));
            assert!(bench.is_err(), "{field}: the bench took {limits:?}");
        }
    }
}

#[tokio::test]
async fn every_wrong_setting_of_all_teams_and_options_is_named_in_one_error() {
    let limits = Limits { inputs_max: 0, hops_max: u16::MAX, ..Limits::default() };
    let mut storage = StorageOptions::default();
    storage.lookups_max = 0;
    let builder = RuntimeBuilder::new(MemoryStore::new())
        .bus(BusOptions { page_events_max: 0, ..BusOptions::default() })
        .storage(storage)
        .team(idle(AgentSpec::new("a").subscribes("in.x")).limits(limits))
        .team(idle(AgentSpec::new("b").subscribes("in.x").attempts_max(0)));
    let error = refused(builder).await;
    for field in ["storage.lookups_max", "bus.page_events_max", "teams.a.limits.inputs_max", "teams.a.limits.hops_max"]
    {
        assert!(error.contains(field), "{field} is not in {error}");
    }
    assert!(error.contains("agents.b.attempts_max = 0"), "{error}");
}

#[tokio::test]
async fn a_step_that_the_storage_would_refuse_is_refused_at_the_start() {
    let mut storage = StorageOptions::default();
    (storage.command_bytes_max, storage.bulk_chunk_bytes) = (1 << 20, 1 << 20);
    let builder = RuntimeBuilder::new(MemoryStore::new());
    let error = refused(builder.storage(storage).team(idle(AgentSpec::new("a").subscribes("in.x")))).await;
    assert!(error.contains("teams.a.limits.step_bytes_max") && error.contains("storage.command_bytes_max"), "{error}");
}

#[tokio::test]
async fn a_part_of_a_spec_that_can_never_work_is_refused() {
    let long = "n".repeat(100);
    let second = Duration::from_secs(1);
    let named = |name: &str| AgentSpec::new(name).subscribes("in.x");
    let cases = [
        (named("a").attempts_max(0), "agents.a.attempts_max = 0"),
        (named("a").turn_timeout(Duration::ZERO), "agents.a.turn_timeout = 0ns"),
        (named("a").turn_timeout(Duration::MAX), "agents.a.turn_timeout"),
        (named("a").schedule("s", Duration::ZERO, Missed::Last), "agents.a.schedules.s = 0ns"),
        (named("a").schedule("s", Duration::MAX, Missed::Last), "agents.a.schedules.s"),
        (named("a").schedule("s", Duration::from_micros(1_500), Missed::Last), "whole milliseconds"),
        (named("a").schedule("s", second, Missed::Last).schedule("s", second, Missed::All), "each schedule name once"),
        (named(&long).schedule(&long, second, Missed::Last), "a topic of 214 bytes"),
        (named("a").owns("desk risk"), "agents.a.owns = \"desk risk\""),
        (named("a").owns("desk..risk"), "agents.a.owns"),
        (named("a").owns(&"x".repeat(200)), "agents.a.owns"),
    ];
    for (spec, expected) in cases {
        assert!(spec.check().is_err(), "{expected}");
        let error = refused(RuntimeBuilder::new(MemoryStore::new()).team(idle(spec))).await;
        assert!(error.contains(expected), "{error:?} does not say {expected:?}");
    }
}

#[test]
fn the_configuration_sections_are_checked_with_the_names_of_their_keys() {
    let storage = config::StorageConfig {
        readers: 0,
        read_deadline_ms: 0,
        slow_after_ms: u64::MAX,
        queue_bytes_max: 0,
        db_bytes_max: Some(0),
        ..Default::default()
    };
    let found = storage.check().unwrap_err();
    let fields: Vec<_> = found.settings().iter().map(|setting| setting.field.as_str()).collect();
    assert_eq!(
        fields,
        [
            "storage.queue_bytes_max",
            "storage.db_bytes_max",
            "storage.slow_after_ms",
            "storage.readers",
            "storage.read_deadline_ms",
        ]
    );
    let process = config::ProcessConfig { threads: usize::MAX >> 1, stop_deadline_ms: 0, ..Default::default() };
    assert_eq!(process.check().unwrap_err().settings().len(), 2);
    assert_eq!(config::ProcessConfig::default().check(), Ok(()));
    assert_eq!(config::StorageConfig::default().check(), Ok(()));
}
