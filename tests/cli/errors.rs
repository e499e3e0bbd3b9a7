//! What cannot be meant and what is not there: a clear error with what to do next, and nothing changed.

use super::{Folder, PATIENCE, Running, bytes};

#[test]
fn a_span_without_candles_is_an_error_and_fresh_forgets_nothing_for_it() {
    let folder = Folder::finished();
    let before = folder.digest("a.db");
    for more in [["--from", "2030-01-01"], ["--to", "2001-01-01"]] {
        let parts = ["DOT.15m has no candles in that span", "its candles open from 2022-01-01 00:00:00 to"];
        folder.run(&[["--fresh"].as_slice(), &more].concat()).fails(1, &parts);
        folder.atra(&[["backtest", "--db", "a.db"].as_slice(), &more].concat()).fails(1, &parts);
    }
    assert_eq!(folder.digest("a.db"), before);
}

/// The desk once began a simulated market in the journal of somebody's own agents.
#[test]
fn the_file_of_another_program_is_refused() {
    use atra::prelude::*;

    struct Own;

    #[atra::async_trait]
    impl Agent for Own {
        fn spec(&self) -> AgentSpec {
            AgentSpec::new("own")
        }

        async fn handle(&mut self, _: &Event, _: &mut Context<'_>) -> Result<(), AgentError> {
            Ok(())
        }
    }

    let folder = Folder::new();
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    tokio.block_on(async {
        let store = SqliteStore::open(SqliteOptions::new(folder.path("own.db"))).await.expect("opened");
        let runtime = RuntimeBuilder::new(store).team(Team::of(|| Own)).start().await.expect("started");
        runtime.stop(PATIENCE).await.expect("stopped");
    });
    let was = bytes(&folder.path("own.db"));
    for more in [[].as_slice(), &["--fresh"]] {
        let run = [["run", "--db", "own.db", "--until-idle"].as_slice(), more].concat();
        folder.atra(&run).fails(1, &["own.db is another program's: its teams are own"]);
    }
    assert!(was == bytes(&folder.path("own.db")), "a refused run wrote to the file");
}

#[test]
fn a_typo_in_the_configuration_is_named_with_file_line_and_key() {
    let folder = Folder::with_candles();
    std::fs::write(folder.path("bad.toml"), "[limits]\n\ninput_max = 3\n").expect("written");
    let run = ["run", "--config", "bad.toml", "--db", "a.db", "--until-idle"];
    folder.atra(&run).fails(2, &["bad.toml, line 3", "limits.input_max", "limits.inputs_max"]);
    std::fs::write(folder.path("bad.toml"), "[desk]\nfee_ppn = 3\n").expect("written");
    folder.atra(&run).fails(2, &["bad.toml, line 2", "desk.fee_ppm"]);
    std::fs::write(folder.path("bad.toml"), "[desk.risk]\ndrawdown_max = 3\n").expect("written");
    folder.atra(&run).fails(2, &["did you mean \"desk.risk.drawdown_max_ppm\""]);
    folder.atra(&["status", "--config", "none.toml"]).fails(2, &["none.toml"]);
    let mut command = folder.command(&["config", "show", "--json"]);
    let command = command.env("ATRA_STORAGE_LEVEL", "power");
    // What tests are told by is no key.
    let tests = ["ATRA_SIM_SEED", "ATRA_KILL_SEED", "ATRA_RIG_ROUNDS", "ATRA_TEST_DEATH_DB"].map(|name| (name, "7"));
    let config = Running::spawn(command.envs(tests)).end().ok().one();
    assert_eq!(config["storage"]["level"], "power");
}

#[test]
fn a_shown_configuration_can_be_read_and_has_no_endless_numbers() {
    let folder = Folder::new();
    let shown = folder.atra(&["config", "show"]).ok().out;
    assert!(shown.contains("# notional_max: not set: no limit") && !shown.contains("17014118"), "{shown}");
    std::fs::write(folder.path("again.toml"), &shown).expect("written");
    assert_eq!(folder.atra(&["config", "show", "--config", "again.toml"]).ok().out, shown);
    assert!(folder.atra(&["config", "show", "--json"]).ok().one()["desk"]["risk"]["notional_max"].is_null());
}

#[test]
fn a_missing_or_foreign_database_is_told_and_not_touched() {
    let folder = Folder::with_candles();
    for args in [&["status"][..], &["journal", "tail"], &["why", "1"], &["memory", "ls"], &["db", "check"]] {
        let args = [args, ["--db", "none.db"].as_slice()].concat();
        folder.atra(&args).fails(1, &["there is no database none.db", "next:"]);
    }
    assert!(!folder.path("none.db").exists());
    folder.atra(&["run", "--db", "no/such/folder.db", "--until-idle"]).fails(1, &["no/such/folder.db"]);
    let import = ["import", "candles", "a.csv", "--ticker", "DOT", "--db", "no/such/folder.db"];
    folder.atra(&import).fails(1, &["there is no folder no/such for the database", "make it first"]);

    std::fs::write(folder.path("text.db"), "this is no database at all, but long enough to look at".repeat(30))
        .expect("written");
    let before = bytes(&folder.path("text.db"));
    folder.atra(&["status", "--db", "text.db"]).fails(1, &["not an atra database"]);
    folder.atra(&["run", "--db", "text.db", "--until-idle"]).fails(1, &["not an atra database"]);
    assert_eq!(bytes(&folder.path("text.db")), before);
}

#[test]
fn a_refused_start_leaves_nothing_beside_the_file() {
    let folder = Folder::with_candles();
    std::fs::write(folder.path("text.db"), "no database ".repeat(300)).expect("written");
    std::fs::create_dir(folder.path("some.db")).expect("made");
    let import = ["import", "candles", "a.csv", "--ticker", "DOT", "--db"];
    for (db, part) in [("text.db", "not an atra database"), ("some.db", "some.db is a folder")] {
        folder.atra(&["run", "--until-idle", "--db", db]).fails(1, &[part]);
        folder.atra(&[import.as_slice(), &[db]].concat()).fails(1, &[part]);
        folder.atra(&["status", "--db", db]).fails(1, &[part]);
        folder.atra(&["db", "check", "--db", db]).fails(1, &[part]);
    }
    let mut names: Vec<_> = std::fs::read_dir(folder.0.path()).expect("a folder").flatten().collect();
    names.retain(|entry| [b't', b's'].contains(&entry.file_name().as_encoded_bytes()[0]));
    assert_eq!(names.len(), 2, "{names:?}");
    // What a start leaves that was killed at once is gone on with.
    std::fs::write(folder.path("empty.db"), "").expect("written");
    folder.atra(&[import.as_slice(), &["empty.db"]].concat()).ok();
}

#[test]
fn a_database_of_a_newer_atra_is_left_alone() {
    let folder = Folder::with_candles();
    // The user version of a SQLite file is at byte 60, big-endian.
    let mut file = bytes(&folder.path("a.db"));
    file[60..64].copy_from_slice(&99_u32.to_be_bytes());
    std::fs::write(folder.path("a.db"), &file).expect("written");
    folder.run(&[]).fails(1, &["version 99", "use a newer atra"]);
    folder.atra(&["status", "--db", "a.db"]).fails(1, &["version 99"]);
    assert_eq!(bytes(&folder.path("a.db")), file);
}

/// Each cause has its own hint; all of them once were "check the name and your rights to it".
#[cfg(target_os = "linux")]
#[test]
fn a_hint_names_what_the_system_lacks() {
    let folder = Folder::finished();
    std::fs::create_dir(folder.path("gone")).expect("made");
    let atra = env!("CARGO_BIN_EXE_atra");
    for (script, part) in [
        (format!("ulimit -n 8; {atra:?} status --db a.db"), "ulimit -n"),
        (format!("ulimit -n 20; {atra:?} status --db a.db"), "ulimit -n"),
        (format!("cd gone; rmdir ../gone; {atra:?} status --db a.db"), "working directory was deleted"),
        (format!("{atra:?} status --db a.db/x"), "a file and no folder"),
        (format!("{atra:?} db backup /nowhere/b.db --db a.db"), "/nowhere"),
    ] {
        let mut command = std::process::Command::new("bash");
        command.args(["-c", &script]).current_dir(folder.0.path()).stdin(std::process::Stdio::null());
        command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
        Running::spawn(&mut command).end().fails(1, &[part]);
    }
}

#[cfg(unix)]
#[test]
fn a_read_only_database_can_be_read_and_not_run() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = Folder::finished();
    let set = |mode, name: &str| {
        std::fs::set_permissions(folder.path(name), std::fs::Permissions::from_mode(mode)).expect("rights");
    };
    set(0o444, "a.db");
    if std::fs::OpenOptions::new().write(true).open(folder.path("a.db")).is_ok() {
        atra_test_support::skip("file modes do not bind this user");
        return;
    }
    folder.run(&[]).fails(1, &["a.db", "writable"]);
    folder.atra(&["status", "--db", "a.db"]).ok();
    set(0o644, "a.db");
}

#[test]
fn an_unknown_ticker_or_event_names_what_there_is() {
    let folder = Folder::finished();
    let before = folder.digest("a.db");
    folder.run(&["--fresh", "--ticker", "DOTT"]).fails(1, &["\"DOTT\"", "did you mean DOT?", "DOT.15m"]);
    folder.run(&["--interval", "1h"]).fails(1, &["1h", "DOT.15m"]);
    assert_eq!(folder.digest("a.db"), before);
    folder.atra(&["why", "999999", "--db", "a.db"]).fails(1, &["no event 999999", "next:"]);
    folder.atra(&["memory", "get", "nobody", "--db", "a.db"]).fails(1, &["\"nobody\"", "atra memory ls"]);
    folder.atra(&["dead-letters", "show", "abcd", "--db", "a.db"]).fails(1, &["dead letter"]);
    folder.atra(&["db", "digest", "--publisher", "nobody", "--db", "a.db"]).fails(1, &["nobody"]);
    folder.atra(&["journal", "tail", "--topic", "a..b", "--db", "a.db"]).fails(2, &["a..b"]);
    folder.atra(&["why", "x"]).fails(2, &["whole number"]);
    folder.atra(&["rum"]).fails(2, &["rum"]);
    folder.atra(&[]).fails(2, &["error: a command is missing", "Usage: atra", "journal"]);
    folder.atra(&["journal"]).fails(2, &["error: a command is missing", "tail"]);
}
