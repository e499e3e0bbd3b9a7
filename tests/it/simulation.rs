//! What ships, simulated: the desk and a crowd with every fault that is promised to be survived.

use std::{
    collections::BTreeMap,
    process::{Command, Output},
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use atra::{
    runtime::sim::{FaultClass, FaultPlan, Policy},
    simulation::{Case, StoreKind, TRIALS_MAX, Verdict, run, shrink},
};

fn case(seed: u64) -> Case {
    Case {
        seed,
        agents: 12,
        beat_ms: 10_000,
        desk: true,
        virtual_ms: 12 * 60_000,
        policy: Policy::Random,
        faults: FaultPlan::survivable(),
        varied: true,
        store: StoreKind::Model,
        order: Vec::new(),
        inputs: None,
        story: String::new(),
    }
}

fn run_all(cases: &[Case]) -> Vec<Verdict> {
    let (next, verdicts) = (AtomicU64::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::SeqCst) as usize) {
                    verdicts.lock().unwrap().push(run(case, false).unwrap());
                }
            });
        }
    });
    verdicts.into_inner().unwrap()
}

/// The same seeds as [`case`], in a process of their own.
fn run_in_a_child(seeds: u64) -> Output {
    let Case { agents, beat_ms, virtual_ms, .. } = case(0);
    let number = |ms: u64, unit: f64| (ms as f64 / unit).to_string();
    let mut command = Command::new(env!("CARGO_BIN_EXE_atra"));
    command.args(["sim", "--json", "--faults", "all", "--seeds", &format!("0..{seeds}"), "--jobs", "2"]);
    command.args(["--agents", &agents.to_string(), "--every", &number(beat_ms, 1_000.0)]);
    command.args(["--hours", &number(virtual_ms, 3_600_000.0)]).output().unwrap()
}

fn json_lines(output: &Output) -> Vec<serde_json::Value> {
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Each seed in this process and in another: what holds, and that both have the same history.
#[test]
fn a_hundred_seeds_hold_with_every_fault_and_have_one_history_in_two_processes() {
    const SEEDS: u64 = 100;
    let (verdicts, child) = std::thread::scope(|scope| {
        let child = scope.spawn(|| run_in_a_child(SEEDS));
        (run_all(&(0..SEEDS).map(case).collect::<Vec<_>>()), child.join().unwrap())
    });
    let errors = String::from_utf8_lossy(&child.stderr);
    assert_eq!(child.status.code(), Some(0), "{errors}");
    let lines = json_lines(&child);
    let hash = |line: &serde_json::Value| Some((line["seed"].as_u64()?, line["hash"].as_str()?.to_owned()));
    let theirs: BTreeMap<u64, String> = lines.iter().filter_map(hash).collect();
    let ours: BTreeMap<u64, String> = verdicts.iter().map(|verdict| (verdict.seed, verdict.hash.clone())).collect();
    assert_eq!((ours.len() as u64, &ours), (SEEDS, &theirs), "atra sim --check-determinism shows where they differ");

    let (mut fired, mut checks) = (BTreeMap::new(), BTreeMap::new());
    for verdict in verdicts {
        assert_eq!(verdict.failure, None, "seed {}: {} {:#?}", verdict.seed, verdict.options, verdict.recent);
        for fault in &verdict.faults {
            *fired.entry(fault.class).or_insert(0) += 1;
        }
        for (name, n) in verdict.checks {
            *checks.entry(name).or_insert(0) += n;
        }
    }
    for class in FaultClass::SURVIVED {
        assert!(fired.contains_key(&class), "{} never fired: {fired:?}", class.name());
    }
    let all =
        ["order", "atomic", "isolated", "durable", "exactly_once", "as_of", "deterministic", "bounded", "contained"];
    for name in all.into_iter().chain(["clean_stop", "fenced", "not_stuck"]) {
        assert!(checks.get(name).is_some_and(|n| *n > 100), "{name} was hardly evaluated: {checks:?}");
    }
}

#[test]
fn kept_cases_hold() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/seeds");
    let mut cases = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "json") {
            cases.push(serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap());
        }
    }
    assert!(!cases.is_empty());
    for verdict in run_all(&cases) {
        assert_eq!(verdict.failure, None, "seed {}", verdict.seed);
    }
}

/// The desk and a crowd on the real SQLite: the history of the model, record by record, so the same hash.
#[test]
fn the_desk_on_sqlite_has_the_history_of_the_model() {
    let cases: Vec<Case> = (0..6)
        .flat_map(|seed| [StoreKind::Model, StoreKind::Sqlite].map(|store| Case { store, ..case(seed) }))
        .collect();
    let mut verdicts = run_all(&cases);
    verdicts.sort_by_key(|verdict| verdict.seed);
    for pair in verdicts.chunks(2) {
        let [one, other] = pair else { panic!("a pair a seed") };
        assert_eq!((&one.failure, &other.failure), (&None, &None), "seed {}", one.seed);
        assert_eq!((&one.hash, one.events, one.polls), (&other.hash, other.events, other.polls), "seed {}", one.seed);
    }
}

#[test]
fn two_processes_have_one_history() {
    let args = ["sim", "--json", "--seeds", "0..2", "--agents", "6", "--hours", "0.1", "--check-determinism"];
    let output = Command::new(env!("CARGO_BIN_EXE_atra")).args(args).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let last = json_lines(&output).pop().unwrap();
    assert_eq!((last["seeds"].as_u64(), last["failures"].as_array().map(Vec::len)), (Some(2), Some(0)), "{last}");
}

/// What was polled when can be kept, and another process polls in the same order; a list of another seed is refused.
#[test]
fn an_order_is_written_and_followed_from_the_command_line() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("order");
    let list = format!("list:{}", file.display());
    let run = |seed: &str, more: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_atra"));
        command.args(["sim", "--json", "--no-desk", "--agents", "4", "--hours", "0.05", "--seed", seed]).args(more);
        command.output().unwrap()
    };
    let hash = |output: &Output| json_lines(output).pop().unwrap()["hash"].as_str().unwrap().to_owned();
    let written = run("3", &["--order", file.to_str().unwrap()]);
    let (followed, fifo) = (run("3", &["--policy", &list]), run("3", &["--policy", "fifo"]));
    assert_eq!(hash(&written), hash(&followed));
    assert_ne!(hash(&written), hash(&fifo));
    let refused = run("4", &["--policy", &list]);
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(2), "{text}");
    assert!(text.contains("is the order of seed 3, not of seed 4"), "{text}");
}

/// Whoever was not there must be able to tell what failed, under what, in which program, and to see it again.
#[test]
fn a_failing_run_tells_everything_that_is_needed_to_see_it_again() {
    let args = ["--no-desk", "--agents", "6", "--hours", "0.2", "--faults", "latency,torn_commit"];
    let run = |more: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_atra"));
        command.arg("sim").args(more).args(args).env("ATRA_SIM_SEED", "7").output().unwrap()
    };
    let output = run(&["--seeds", "3..6"]);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}");
    for part in [
        ": atomic broken for \"store\" after ",
        "options: seed ",
        ", drawn: inputs_max ",
        "of atra 0.1.0, ",
        ", case ",
        "1 of ",
        "faults are enough, with ",
        "\n    torn_commit {\"commit\"",
        "last events:\n    ",
        "repeat it: atra sim --seed ",
    ] {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
    let seed = text.split("repeat it: atra sim --seed ").nth(1).unwrap().split(' ').next().unwrap();
    let again = run(&["--seed", seed, "--shrink-within", "0"]);
    let again = String::from_utf8_lossy(&again.stderr).into_owned();
    let first = |text: &str| text.lines().find(|line| line.starts_with("seed ")).unwrap().to_owned();
    assert_eq!(first(&again), first(&text));
}

#[test]
fn a_failure_is_shrunk_to_the_fault_that_makes_it() {
    let torn = Case { faults: FaultPlan::Each(vec![FaultClass::TornCommit]), desk: false, varied: false, ..case(3) };
    let mut tries = 0;
    let tried = |n: usize, _: &Case| {
        tries = n;
        true
    };
    let (smaller, verdict) = shrink(&torn, Duration::from_secs(60), tried).unwrap().expect("it fails");
    assert!((1..=TRIALS_MAX).contains(&tries), "{tries} tries");
    // Out of time from the beginning: what fails is given as it is, verified all the same.
    let (same, _) = shrink(&torn, Duration::ZERO, |_, _| panic!("no time for a try")).unwrap().expect("it fails");
    assert_eq!(same.faults, torn.faults);
    assert!(verdict.failure.unwrap().starts_with("atomic"), "{smaller:?}");
    let FaultPlan::Exactly(faults) = &smaller.faults else { panic!("{smaller:?}") };
    assert!(faults.len() == 1 && smaller.virtual_ms < torn.virtual_ms, "{smaller:?}");
    let again = run(&smaller, false).unwrap();
    assert_eq!(again.hash, verdict.hash);
}
