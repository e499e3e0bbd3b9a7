//! `status --check`: what the exit code says, and events of a poisoned team by what commands accept.

use atra::prelude::*;

use super::{Folder, PATIENCE};

impl Folder {
    fn check(&self, db: &str) -> (i32, serde_json::Value) {
        let done = self.atra(&["status", "--check", "--json", "--db", db]);
        (done.code, done.one())
    }
}

#[cfg(unix)]
#[test]
fn the_exit_code_tells_healthy_stopped_suspended_and_crashed_apart() {
    let folder = Folder::with_candles();
    folder.atra(&["status", "--check", "--db", "none.db"]).fails(1, &["there is no database none.db"]);
    let running = folder.running();
    let (code, status) = folder.check("a.db");
    assert_eq!((code, &status["phase"], &status["healthy"]), (0, &"running".into(), &true.into()), "{status}");

    running.signal("-STOP");
    let (code, status) = folder.check("a.db");
    assert_eq!((code, &status["degraded"][0]["kind"]), (4, &"suspended".into()), "{status}");
    folder.atra(&["risk", "kill", "--db", "a.db"]).fails(1, &["did not respond", "kill -CONT"]);
    running.signal("-CONT");

    running.signal("-TERM");
    running.end().ok();
    let (code, status) = folder.check("a.db");
    assert_eq!((code, &status["phase"], &status["clean"]), (3, &"stopped".into(), &true.into()), "{status}");
    assert!(!folder.path("a.db.status").exists());

    let running = folder.running();
    running.signal("-KILL");
    assert_eq!(running.end().code, -1);
    let (code, status) = folder.check("a.db");
    assert_eq!((code, &status["phase"]), (6, &"crashed".into()), "{status}");
    // Without the flag it is only told.
    folder.atra(&["status", "--db", "a.db"]).ok();
}

/// A process that still has the file is never "not running", before and after the database has its mark.
#[cfg(unix)]
#[test]
fn a_process_that_starts_or_stops_is_told_by_its_phase() {
    let folder = Folder::with_candles();
    let running = folder.running();
    let file = std::fs::read_to_string(folder.path("a.db.status")).expect("a status file");
    assert!(
        std::os::unix::fs::PermissionsExt::mode(&folder.path("a.db.status").metadata().expect("a file").permissions())
            & 0o077
            == 0
    );
    for phase in ["starting", "stopping"] {
        std::fs::write(
            folder.path("a.db.status"),
            file.replace("\"phase\":\"running\"", &format!("\"phase\":{phase:?}")),
        )
        .expect("written");
        let (code, status) = folder.check("a.db");
        assert_eq!((code, &status["phase"], &status["running"]), (3, &phase.into(), &true.into()), "{status}");
    }
    running.signal("-TERM");
    running.end().ok();
}

/// An agent that may not skip an event, and cannot handle the second one.
struct Ledger;

#[atra::async_trait]
impl Agent for Ledger {
    fn spec(&self) -> AgentSpec {
        AgentSpec::new("ledger").subscribes("in.n").on_poison(OnPoison::Stop)
    }

    async fn handle(&mut self, event: &Event, _: &mut Context<'_>) -> Result<(), AgentError> {
        match event.payload.to_value() {
            Ok(value) if value == 2 => Err(AgentError::new("two is not accepted")),
            _ => Ok(()),
        }
    }
}

#[test]
fn a_poisoned_team_is_an_exit_code_and_its_event_is_found_by_seq_and_id() {
    let folder = Folder::new();
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let (seq, id) = tokio.block_on(async {
        let store = SqliteStore::open(SqliteOptions::new(folder.path("own.db"))).await.expect("opened");
        let runtime = RuntimeBuilder::new(store).team(Team::of(|| Ledger)).start().await.expect("started");
        let topic = Topic::new("in.n").expect("a topic");
        runtime.publish(Draft::new(topic.clone(), 1_u64)).await.expect("published");
        let poison = runtime.publish(Draft::new(topic, 2_u64)).await.expect("published");
        runtime.until_state("ledger", atra::TeamState::is_ended).await.expect("ended");
        runtime.stop(PATIENCE).await.expect("stopped");
        (poison.seq.to_string(), poison.id.to_string())
    });

    let (code, status) = folder.check("own.db");
    assert_eq!((code, &status["healthy"]), (5, &false.into()), "{status}");
    assert!(status["teams"][0]["state"]["reason"].as_str().is_some_and(|reason| reason.contains(&id)), "{status}");
    let list = folder.atra(&["dead-letters", "ls", "--db", "own.db"]).ok().out;
    assert!(list.contains(&id) && list.contains("two is not accepted"), "{list}");
    // With its dash, the beginning of an id is no seq.
    for event in [&seq, &format!("#{seq}"), &id, &id[..9].to_owned(), &id.to_uppercase()] {
        for command in [&["journal", "show"][..], &["why"], &["dead-letters", "show"]] {
            let done = folder.atra(&[command, &[event.as_str(), "--json", "--db", "own.db"]].concat()).ok();
            assert!(done.out.contains(&id), "{command:?} {event}: {}", done.out);
        }
        let after = ["journal", "tail", "--after", event, "--topic", "in.n", "--db", "own.db"];
        assert_eq!(folder.atra(&after).ok().out, "");
    }
    folder.atra(&["why", "ffffffff-0000-8000-8000-000000000000", "--db", "own.db"]).fails(1, &["no event ffffffff"]);
}
