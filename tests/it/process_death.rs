//! An event that takes the whole process down. The test runs itself as a child process.

use std::process::Command;

use atra_bus::{Draft, Event};
use atra_runtime::{AgentSpec, Context, RuntimeBuilder, Team};
use atra_storage::{FactKind, SqliteOptions, SqliteReader, SqliteStore};

use crate::support::{Script, lines, topic};

/// Where the child finds its database; absent in a normal run.
const CHILD: &str = "ATRA_TEST_DEATH_DB";

fn deadly() -> Script<u64> {
    let spec = AgentSpec::new("deadly").subscribes("in.n").publishes_on("out.n", true);
    Script::new(spec, 0, |_: &mut u64, event: &Event, cx: &mut Context<'_>| {
        let n = *event.get::<u64>()?;
        if n == 13 {
            std::process::abort();
        }
        cx.publish(Draft::new(topic("out.n"), n))?;
        Ok(())
    })
}

/// One life of the runtime: publishes 1 to 20 (once, by key) and waits until all is settled.
#[test]
fn child() {
    let Ok(path) = std::env::var(CHILD) else { return };
    let tokio = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    tokio.block_on(async {
        let store = SqliteStore::open(SqliteOptions::new(&path)).await.unwrap();
        let runtime = RuntimeBuilder::new(store).team(Team::of(deadly)).start().await.unwrap();
        let mut last = None;
        for n in 1..=20_u64 {
            last = Some(runtime.publish(Draft::new(topic("in.n"), n)).key(n.to_string()).await.unwrap());
        }
        runtime.settled(last.unwrap().seq).await.unwrap();
        runtime.stop(std::time::Duration::from_secs(10)).await.unwrap();
    });
}

#[test]
fn an_event_that_aborts_the_process_becomes_a_dead_letter_after_its_limit() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("death.db");
    let mut lives = 0;
    loop {
        lives += 1;
        assert!(lives <= 15, "the poison was never put aside");
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "process_death::child"])
            .env(CHILD, &path)
            .output()
            .unwrap();
        if child.status.success() {
            break;
        }
    }
    // The first death leaves no mark; ten marked ones follow.
    assert!((10..=13).contains(&lives), "{lives} lives");
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (letters, lines) = tokio.block_on(async {
        let reader = SqliteReader::open_read_only(&path).await.unwrap();
        (reader.facts(FactKind::DeadLetter, None).await.unwrap(), lines(&*reader).await)
    });
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0].owner.as_str(), "deadly");
    let out: Vec<_> = lines.iter().filter_map(|line| line.strip_prefix("out.n ")).collect();
    let expected: Vec<_> = (1..=20).filter(|n| *n != 13).map(|n: i32| n.to_string()).collect();
    assert_eq!(out, expected);
}
