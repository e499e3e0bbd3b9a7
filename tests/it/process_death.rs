//! An event that takes the whole process down. The test runs itself as a child process.

use std::process::Command;

use async_trait::async_trait;
use atra_bus::{Draft, Event};
use atra_runtime::{Agent, AgentError, AgentSpec, Context, Limits, OnPoison, RuntimeBuilder, Team, TeamState};
use atra_storage::{FactKind, FactRow, SqliteOptions, SqliteReader, SqliteStore};

use crate::support::{Script, lines, topic};

/// Where the child finds its database; absent in a normal run.
const CHILD: &str = "ATRA_TEST_DEATH_DB";

/// Which team the child runs.
const TEAM: &str = "ATRA_TEST_DEATH_TEAM";

fn deadly(name: &'static str, on_poison: OnPoison) -> Script<u64> {
    let spec = AgentSpec::new(name).subscribes("in.n").publishes_on("out.>", true).on_poison(on_poison);
    Script::new(spec, 0, move |_: &mut u64, event: &Event, cx: &mut Context<'_>| {
        let n = *event.get::<u64>()?;
        if n == 13 {
            std::process::abort();
        }
        cx.publish(Draft::new(topic(&format!("out.{name}")), n))?;
        Ok(())
    })
}

/// Takes the process down late in its turn: after it has decided something, and has waited.
struct Late;

#[async_trait]
impl Agent for Late {
    fn spec(&self) -> AgentSpec {
        AgentSpec::new("late").subscribes("in.n").publishes_on("out.>", true)
    }
    async fn handle(&mut self, event: &Event, cx: &mut Context<'_>) -> Result<(), AgentError> {
        let n = *event.get::<u64>()?;
        cx.publish(Draft::new(topic("out.late"), n))?;
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        if n == 13 {
            std::process::abort();
        }
        Ok(())
    }
}

/// One of the teams, by name.
fn team(name: &str) -> Team {
    match name {
        "two" => Team::new("two")
            .agent(|| deadly("first", OnPoison::DeadLetter))
            .agent(|| deadly("second", OnPoison::DeadLetter))
            .limits(Limits { deaths_max: 3, ..Limits::default() }),
        "late" => Team::of(|| Late).limits(Limits { deaths_max: 2, ..Limits::default() }),
        "once" => {
            Team::of(|| deadly("once", OnPoison::DeadLetter)).limits(Limits { deaths_max: 1, ..Limits::default() })
        }
        "ledger" => Team::of(|| deadly("ledger", OnPoison::Stop)).limits(Limits { deaths_max: 3, ..Limits::default() }),
        _ => Team::of(|| deadly("deadly", OnPoison::DeadLetter)),
    }
}

/// One life of the runtime: publishes 1 to 20 (once, by key) and waits until all is settled, or the team has ended.
#[test]
fn child() {
    let Ok(path) = std::env::var(CHILD) else { return };
    let team = team(&std::env::var(TEAM).unwrap());
    let name = team.name().to_string();
    let tokio = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    tokio.block_on(async {
        let store = SqliteStore::open(SqliteOptions::new(&path)).await.unwrap();
        let runtime = RuntimeBuilder::new(store).team(team).start().await.unwrap();
        let mut last = None;
        for n in 1..=20_u64 {
            last = Some(runtime.publish(Draft::new(topic("in.n"), n)).key(n.to_string()).await.unwrap());
        }
        let (settled, ended) = (runtime.settled(last.unwrap().seq), runtime.until_state(&name, TeamState::is_ended));
        drop(futures::future::select(std::pin::pin!(settled), std::pin::pin!(ended)).await);
        runtime.stop(std::time::Duration::from_secs(10)).await.unwrap();
    });
}

/// Lets the child live until it ends by itself: how often, the dead letters, and the journal.
fn lives(team: &str) -> (u32, Vec<FactRow>, Vec<FactRow>, Vec<String>) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("death.db");
    let mut lives = 0;
    loop {
        lives += 1;
        assert!(lives <= 15, "the poison was never put aside");
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "process_death::child"])
            .env(CHILD, &path)
            .env(TEAM, team)
            .output()
            .unwrap();
        if child.status.success() {
            break;
        }
    }
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio.block_on(async {
        let reader = SqliteReader::open_read_only(&path).await.unwrap();
        let letters = reader.facts(FactKind::DeadLetter, None).await.unwrap();
        let owner = atra_bus::Name::new(team).unwrap();
        let meta = reader.facts(FactKind::Meta, Some(&owner)).await.unwrap();
        (lives, letters, meta, lines(&*reader).await)
    })
}

#[test]
fn an_event_that_aborts_the_process_becomes_a_dead_letter_after_its_limit() {
    let (lives, letters, _, lines) = lives("deadly");
    // The first death leaves no mark, the second one none of a turn; ten marked ones follow.
    assert_eq!(lives, 13);
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0].owner.as_str(), "deadly");
    let out: Vec<_> = lines.iter().filter_map(|line| line.strip_prefix("out.deadly ")).collect();
    let expected: Vec<_> = (1..=20).filter(|n| *n != 13).map(|n: i32| n.to_string()).collect();
    assert_eq!(out, expected);
}

/// Each turn's deaths are counted by themselves: the second agent's do not wipe out the first one's.
#[test]
fn two_agents_that_abort_the_process_on_one_event_are_both_found_out() {
    let (lives, letters, _, lines) = lives("two");
    let owners: Vec<_> = letters.iter().map(|letter| letter.owner.as_str()).collect();
    assert_eq!((lives, owners), (2 + 3 + 3 + 1, vec!["first", "second"]));
    assert!(lines.iter().any(|line| line == "out.second 14"), "{lines:?}");
}

/// Whatever the limit, and wherever in the turn: the last try has no marks, and finds it out all the same.
#[test]
fn an_event_that_aborts_the_process_late_in_its_turn_becomes_a_dead_letter() {
    for (team, deaths_max) in [("late", 2), ("once", 1)] {
        let (lives, letters, _, lines) = lives(team);
        assert_eq!((lives, letters.len()), (2 + deaths_max + 1, 1), "{team}");
        assert!(lines.iter().any(|line| *line == format!("out.{team} 20")), "{lines:?}");
        assert!(!lines.iter().any(|line| *line == format!("out.{team} 13")), "{lines:?}");
    }
}

/// A ledger skips nothing, whatever takes the process down.
#[test]
fn an_event_that_aborts_the_process_stops_a_ledgers_team() {
    let (lives, letters, meta, lines) = lives("ledger");
    assert_eq!((lives, letters.len()), (2 + 3 + 1, 0));
    let said = meta.iter().filter_map(|row| row.value.as_deref()).any(|json| json.contains("poisoned"));
    assert!(said, "{meta:?}");
    assert!(!lines.iter().any(|line| line == "out.ledger 14"), "{lines:?}");
}
