//! `atra db`: info, backup, restore, prune, vacuum, on the real binary.

use serde_json::Value;

use super::{Folder, Running, bytes};

impl Folder {
    fn info(&self, db: &str) -> Value {
        self.atra(&["db", "info", "--json", "--db", db]).ok().one()
    }

    fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.0.path()).expect("a folder").flatten();
        let mut names: Vec<String> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    /// A run that goes on until somebody ends it, with something committed.
    pub(super) fn running(&self) -> Running {
        let slow = ["run", "--config", "desk.toml", "--db", "a.db", "--speed", "400"];
        let mut running = Running::spawn(&mut self.command(&slow));
        running.until(|line| line.contains("candles (") && !line.starts_with("0 candles"));
        running
    }
}

fn events(info: &Value) -> u64 {
    info["last_seq"].as_u64().expect("a seq")
}

// === info ===

#[test]
fn info_tells_sizes_versions_rows_and_who_is_farthest_behind() {
    let folder = Folder::finished();
    let info = folder.info("a.db");
    assert_eq!((&info["running"], &info["process"], &info["floor"]), (&false.into(), &Value::Null, &0.into()));
    assert!(info["file_bytes"].as_u64() >= info["used_bytes"].as_u64() && info["used_bytes"].as_u64() > Some(0));
    assert_eq!(info["readers"], Value::Array(Vec::new()));
    let person = folder.atra(&["db", "info", "--db", "a.db"]).ok().out;
    for part in ["seqs 1 to ", "team desk at ", "not running", "journal", "sqlite"] {
        assert!(person.contains(part), "{part:?} is not in: {person}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn info_names_the_process_that_runs() {
    let folder = Folder::with_candles();
    let running = folder.running();
    let info = folder.info("a.db");
    assert_eq!((&info["running"], info["process"].as_u64()), (&true.into(), Some(u64::from(running.child.id()))));
    assert!(info["log"]["bytes"].as_u64().is_some());
    running.signal("-TERM");
    running.end().ok();
    assert_eq!(folder.info("a.db")["running"], false);
}

// === backup and restore ===

#[test]
fn a_backup_is_the_same_and_writes_over_nothing() {
    let folder = Folder::finished();
    let done = folder.atra(&["db", "backup", "b.db", "--db", "a.db", "--json"]).ok().one();
    assert_eq!((done["sound"].as_bool(), done["last_seq"].as_u64()), (Some(true), Some(events(&folder.info("a.db")))));
    assert_eq!(folder.digest("b.db"), folder.digest("a.db"));
    folder.atra(&["db", "check", "--db", "b.db"]).ok();
    assert!(!folder.names().iter().any(|name| name.contains("partial")), "{:?}", folder.names());

    let before = bytes(&folder.path("b.db"));
    folder.atra(&["db", "backup", "b.db", "--db", "a.db"]).fails(1, &["b.db", "exists already", "another file"]);
    assert_eq!(bytes(&folder.path("b.db")), before);
    // One that was interrupted is in nobody's way.
    std::fs::write(folder.path("c.db.partial"), "half").expect("written");
    folder.atra(&["db", "backup", "c.db", "--db", "a.db"]).ok();
    assert_eq!(folder.digest("c.db"), folder.digest("a.db"));
}

#[test]
fn a_backup_that_cannot_be_made_leaves_nothing() {
    let folder = Folder::finished();
    let names = folder.names();
    folder.atra(&["db", "backup", "no/b.db", "--db", "a.db"]).fails(1, &["b.db", "check that the folder exists"]);
    folder.atra(&["db", "backup", "b.db", "--db", "none.db"]).fails(1, &["there is no database none.db"]);
    folder.atra(&["db", "backup", "b.db", "--db", "a.csv"]).fails(1, &["not an atra database"]);
    folder.atra(&["db", "backup", ".", "--db", "a.db"]).fails(1, &["is a folder"]);
    folder.atra(&["db", "backup", "--db", "a.db"]).fails(2, &["FILE"]);
    assert_eq!(folder.names(), names);
    // Damage is found before the copy gets its name.
    let mut file = bytes(&folder.path("a.db"));
    let middle = file.len() / 2;
    file[middle..middle + 4_096].fill(0x55);
    std::fs::write(folder.path("a.db"), file).expect("written");
    let done = folder.atra(&["db", "backup", "b.db", "--db", "a.db"]);
    assert_eq!(done.code, 1, "{}", done.err);
    assert!(!folder.path("b.db").exists() && !folder.path("b.db.partial").exists());
}

#[cfg(unix)]
#[test]
fn a_backup_of_a_running_database_is_a_moment_of_it_and_goes_on_to_the_same_end() {
    let folder = Folder::with_candles();
    let whole = Folder::finished().digest("a.db");
    let running = folder.running();
    folder.atra(&["db", "backup", "b.db", "--db", "a.db"]).ok();
    // What writes refuses, says who has it, and changes nothing.
    let holder = format!("process {}", running.child.id());
    folder.atra(&["db", "restore", "b.db", "--db", "a.db"]).fails(1, &["in use", &holder, "stop it first"]);
    folder.atra(&["db", "prune", "--keep-events", "10", "--db", "a.db"]).fails(1, &["in use", &holder]);
    folder.atra(&["db", "vacuum", "--db", "a.db"]).fails(1, &["in use", &holder]);
    folder.atra(&["db", "prune", "--keep-events", "10", "--dry-run", "--db", "a.db"]).ok();
    running.signal("-TERM");
    running.end().ok();
    folder.atra(&["db", "check", "--db", "b.db"]).ok();
    let args = ["run", "--config", "desk.toml", "--db", "b.db", "--until-idle", "--json"];
    assert_eq!(folder.atra(&args).ok().one()["digest"], Value::String(whole));
}

#[test]
fn a_restore_keeps_what_was_there_aside() {
    let folder = Folder::finished();
    let digest = folder.digest("a.db");
    folder.atra(&["db", "backup", "b.db", "--db", "a.db"]).ok();
    folder.run(&["--fresh", "--to", "2022-01-05"]).ok();
    let other = folder.digest("a.db");
    assert_ne!(other, digest);

    let done = folder.atra(&["db", "restore", "b.db", "--db", "a.db", "--json"]).ok().one();

    assert_eq!(folder.digest("a.db"), digest);
    assert_eq!(done["aside"], "a.db.before-restore");
    assert_eq!(folder.digest("a.db.before-restore"), other);
    // Again: another name, and what was put aside before stays.
    let done = folder.atra(&["db", "restore", "b.db", "--db", "a.db", "--json"]).ok().one();
    assert_eq!(done["aside"], "a.db.before-restore-1");
    assert_eq!(folder.digest("a.db.before-restore"), other);
    // Where nothing is.
    let done = folder.atra(&["db", "restore", "b.db", "--db", "new.db", "--json"]).ok().one();
    assert_eq!((&done["aside"], folder.digest("new.db")), (&Value::Null, digest));
    assert_eq!(folder.run(&[]).ok().one()["events"].as_u64(), Some(events(&folder.info("a.db"))));
}

#[test]
fn a_restore_from_what_is_no_backup_changes_nothing() {
    let folder = Folder::finished();
    let before = bytes(&folder.path("a.db"));
    let restore = |from: &str| folder.atra(&["db", "restore", from, "--db", "a.db"]);
    restore("none.db").fails(1, &["there is no backup none.db"]);
    restore("a.csv").fails(1, &["not an atra database"]);
    restore("a.db").fails(1, &["the database itself"]);
    let mut newer = before.clone();
    newer[60..64].copy_from_slice(&99_u32.to_be_bytes());
    std::fs::write(folder.path("newer.db"), newer).expect("written");
    restore("newer.db").fails(1, &["version 99"]);
    let mut damaged = before.clone();
    let middle = damaged.len() / 2;
    damaged[middle..middle + 4_096].fill(0x55);
    std::fs::write(folder.path("damaged.db"), damaged).expect("written");
    assert_eq!(restore("damaged.db").code, 1);
    assert_eq!(bytes(&folder.path("a.db")), before);
    assert!(!folder.names().iter().any(|name| name.contains("before-restore") || name.contains("restoring-")));
}

// === prune and vacuum ===

#[test]
fn pruning_deletes_what_nobody_needs_and_says_so_wherever_it_is_asked_for() {
    let folder = Folder::finished();
    let last = events(&folder.info("a.db"));
    let dry = folder.atra(&["db", "prune", "--keep-events", "100", "--dry-run", "--db", "a.db", "--json"]).ok().one();
    assert_eq!((dry["floor"].as_u64(), &dry["dry_run"]), (Some(last - 100), &true.into()));
    assert_eq!(folder.info("a.db")["floor"], 0);

    let done = folder.atra(&["db", "prune", "--keep-events", "100", "--db", "a.db", "--json"]).ok().one();

    let floor = done["floor"].as_u64().expect("a seq");
    assert!(floor > 1 && floor <= last - 100, "{done}");
    let info = folder.info("a.db");
    assert_eq!((info["floor"].as_u64(), events(&info)), (Some(floor), last));
    folder.atra(&["db", "check", "--db", "a.db"]).ok();
    let show = |seq: u64| folder.atra(&["journal", "show", &seq.to_string(), "--db", "a.db"]);
    show(floor + 1).ok();
    show(floor / 2).fails(1, &["was pruned", &(floor + 1).to_string()]);
    folder.atra(&["why", &(floor / 2).to_string(), "--db", "a.db"]).fails(1, &["was pruned"]);
    folder.atra(&["journal", "tail", "--after", "0", "--db", "a.db"]).fails(1, &["were pruned", "use --after"]);
    folder.atra(&["memory", "ls", "--db", "a.db"]).ok();
    let status = folder.atra(&["status", "--db", "a.db"]).ok().out;
    assert!(status.contains("pruned"), "{status}");
    // It goes on: what a journal was begun with is still known, and nothing is decided twice.
    let again = folder.run(&[]).ok().one();
    assert_eq!(again["ended"], "idle");
    let other = folder.atra(&["run", "--db", "a.db", "--until-idle", "--config", "desk.toml", "--json"]).ok();
    assert!(other.one()["digest"].is_string());
}

#[test]
fn a_pruned_cause_is_told_of() {
    let folder = Folder::finished();
    folder.atra(&["db", "prune", "--keep-events", "300", "--db", "a.db"]).ok();
    let floor = folder.info("a.db")["floor"].as_u64().expect("a seq");
    let tail = folder.atra(&["journal", "tail", "-n", "300", "--db", "a.db", "--json"]).ok().json();
    let orphan = tail.iter().find(|event| {
        event["seq"].as_u64() > Some(floor) && event["cause_seq"].as_u64().is_some_and(|cause| cause <= floor)
    });
    let Some(orphan) = orphan else { return };
    let (seq, cause) = (orphan["seq"].to_string(), orphan["cause_seq"].to_string());
    let why = folder.atra(&["why", &seq, "--db", "a.db"]).ok().out;
    assert!(why.contains(&format!("#{cause} led to this and was pruned")), "{why}");
    let why = folder.atra(&["why", &seq, "--db", "a.db", "--json"]).ok().one();
    assert_eq!(why["pruned_cause"], orphan["cause_seq"]);
}

/// 600 events and keys that were committed 40 days ago, and one of now; what the events claim is the other way round.
fn with_old_commits(folder: &Folder) -> i64 {
    use atra::{
        Committed, Env as _, Event, Name, Seq, SqliteOptions, SqliteStore, SystemEnv, Timestamp,
        storage::{CommitTime, FactKind, FactRow, Store as _, WriteBatch, conformance::event},
    };
    const DAY_MS: i64 = 86_400_000;
    let now = SystemEnv::new().now().millis();
    let batch = |seqs: std::ops::RangeInclusive<u64>, days: i64| {
        let at = Timestamp(now - days * DAY_MS);
        let claimed = Timestamp(now - (40 - days) * DAY_MS);
        let of = |seq: u64| {
            let event = Event { time: claimed, ..Event::clone(&event("a", "x", "1", seq)) };
            Committed { seq: Seq(seq), event: event.into(), cause_seq: None, seen: None }
        };
        let key = |seq: u64| FactRow {
            kind: FactKind::Key,
            owner: Name::new("caller").expect("a name"),
            key: seq.to_string(),
            value: Some("{}".into()),
            version: Seq(seq),
            event: None,
        };
        let committed_at = Some(CommitTime { wall: at, clock: at });
        let (events, facts) = (seqs.clone().map(of).collect(), seqs.map(key).collect());
        WriteBatch { events, facts, committed_at, ..WriteBatch::default() }
    };
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    tokio.block_on(async {
        let mut store = SqliteStore::open(SqliteOptions::new(folder.path("a.db"))).await.expect("opened");
        store.load().await.expect("loaded");
        store.commit(&batch(1..=600, 40)).await.expect("committed");
        store.commit(&batch(601..=601, 0)).await.expect("committed");
        store.close().await.expect("closed");
    });
    now
}

#[test]
fn a_span_is_kept_by_the_time_of_commit() {
    let folder = Folder::new();
    let now = with_old_commits(&folder);
    let shown = folder.atra(&["journal", "show", "601", "--db", "a.db", "--json"]).ok().one();
    assert_eq!(shown["committed"].as_i64(), Some(now), "{shown}");
    let prune = |span: &str| folder.atra(&["db", "prune", "--keep", span, "--db", "a.db", "--json"]).ok().one();
    let first = prune("50d");
    assert_eq!((&first["floor"], &first["keys"]), (&0.into(), &600.into()), "keys are kept for a week: {first}");
    assert_eq!(prune("30d")["floor"], 600);
    let info = folder.info("a.db");
    assert_eq!(info["facts"], serde_json::json!([["key", 1]]), "{info}");
    folder.atra(&["db", "check", "--db", "a.db"]).ok();
}

/// Candles of years are committed in a second, and are not old because of what they are of.
#[test]
fn what_was_committed_today_is_kept_however_old_its_candles_are() {
    let folder = Folder::finished();
    let done = folder.atra(&["db", "prune", "--keep", "1d", "--db", "a.db", "--json"]).ok().one();
    assert_eq!(done["floor"], 0, "{done}");
}

#[test]
fn a_wish_that_cannot_be_meant_prunes_nothing() {
    let folder = Folder::finished();
    let before = bytes(&folder.path("a.db"));
    let prune = |args: &[&str]| folder.atra(&[&["db", "prune", "--db", "a.db"], args].concat());
    prune(&[]).fails(2, &["--keep"]);
    prune(&["--keep", "30 days"]).fails(2, &["such as 30d"]);
    prune(&["--keep", "0d"]).fails(2, &["no span of time"]);
    prune(&["--keep-events", "-1"]).fails(2, &["--keep-events"]);
    folder.atra(&["db", "prune", "--keep", "1d", "--db", "none.db"]).fails(1, &["there is no database none.db"]);
    folder.atra(&["db", "vacuum", "--db", "none.db"]).fails(1, &["there is no database none.db"]);
    folder.atra(&["db", "vacuum", "--db", "a.csv"]).fails(1, &["not an atra database"]);
    assert_eq!(bytes(&folder.path("a.db")), before);
}

#[test]
fn a_vacuum_gives_back_what_was_pruned() {
    let folder = Folder::finished();
    folder.atra(&["db", "prune", "--keep-events", "10", "--db", "a.db"]).ok();
    let digest = folder.digest("a.db");
    let done = folder.atra(&["db", "vacuum", "--db", "a.db", "--json"]).ok().one();
    let bytes = |key: &str| done[key].as_u64().expect("bytes");
    assert!(bytes("bytes") < bytes("bytes_before") * 3 / 4, "{done}");
    assert_eq!(folder.digest("a.db"), digest);
    folder.atra(&["db", "check", "--db", "a.db"]).ok();
    let person = folder.atra(&["db", "vacuum", "--db", "a.db"]).ok().out;
    assert!(person.contains("before"), "{person}");
}

/// A team that is not in the configuration any more, at the journal's beginning.
fn with_an_old_team(folder: &Folder) {
    use atra::{
        Name, Seq, SqliteOptions, SqliteStore,
        storage::{Store as _, TeamMove, TeamRow, WriteBatch},
    };
    let tokio = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    tokio.block_on(async {
        let mut store = SqliteStore::open(SqliteOptions::new(folder.path("a.db"))).await.expect("opened");
        store.load().await.expect("loaded");
        let to = TeamRow { team: Name::new("old").expect("a name"), epoch: 1, number: 1, cursor: Seq(2) };
        let batch = WriteBatch { teams: vec![TeamMove { from: None, to }], ..WriteBatch::default() };
        store.commit(&batch).await.expect("committed");
        store.close().await.expect("closed");
    });
}

#[test]
fn a_team_that_is_no_more_is_forgotten_and_pins_the_journal_no_longer() {
    let folder = Folder::finished();
    with_an_old_team(&folder);
    let prune = || folder.atra(&["db", "prune", "--keep-events", "100", "--db", "a.db"]).ok().out;
    let pinned = prune();
    assert!(pinned.contains("team old has taken events up to 2 only"), "{pinned}");
    let forget = |args: &[&str]| folder.atra(&[&["db", "forget-team", "--db", "a.db"], args].concat());
    forget(&["desk"]).fails(2, &["'atra run' starts", "--fresh"]);
    forget(&["nobody"]).fails(1, &["there is no team nobody", "atra status"]);
    forget(&["no team"]).fails(2, &[]);
    forget(&[]).fails(2, &["TEAM"]);
    folder.atra(&["db", "forget-team", "old", "--db", "none.db"]).fails(1, &["there is no database none.db"]);
    let dry = forget(&["old", "--dry-run"]).ok().out;
    assert!(dry.contains("would forget team old") && dry.contains("with it up to 2"), "{dry}");
    assert!(prune().contains("team old"), "a dry run changes nothing");

    let done = forget(&["old", "--json"]).ok().one();

    assert_eq!(
        (&done["team"]["team"], &done["dry_run"], done["pinned"].as_u64()),
        (&"old".into(), &false.into(), Some(2))
    );
    assert_eq!(done["freed"].as_u64(), Some(events(&folder.info("a.db"))));
    assert!(prune().contains("pruned seqs"), "nobody pins it");
    folder.atra(&["db", "check", "--db", "a.db"]).ok();
    forget(&["old"]).fails(1, &["there is no team old"]);
}

/// A file as large as it may be stands for a full disk; the signal that comes with it is ignored.
#[cfg(unix)]
#[test]
fn a_backup_or_restore_without_space_says_so_and_leaves_nothing() {
    let folder = Folder::finished();
    folder.atra(&["db", "backup", "b.db", "--db", "a.db"]).ok();
    let (names, before) = (folder.names(), bytes(&folder.path("a.db")));
    let small = |args: &[&str]| {
        let mut command = std::process::Command::new("sh");
        command.current_dir(folder.0.path()).args(["-c", "ulimit -f 64; exec \"$@\"", "sh"]);
        command.arg(env!("CARGO_BIN_EXE_atra")).args(args).stdin(std::process::Stdio::null());
        command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
        Running::spawn(&mut command).end()
    };
    small(&["db", "backup", "c.db", "--db", "a.db"]).fails(1, &["no space left", "c.db.partial"]);
    small(&["db", "restore", "b.db", "--db", "a.db"]).fails(1, &["no space left", "a.db.restoring"]);
    assert_eq!((folder.names(), bytes(&folder.path("a.db"))), (names, before));
    folder.atra(&["db", "backup", "c.db", "--db", "a.db"]).ok();
    folder.atra(&["db", "restore", "b.db", "--db", "a.db"]).ok();
}

/// What a kill between the last two names of a restore leaves.
#[test]
fn a_restore_that_was_cut_is_told_to_whoever_comes_next_and_can_be_repeated() {
    let folder = Folder::finished();
    let digest = folder.digest("a.db");
    folder.atra(&["db", "backup", "b.db", "--db", "a.db"]).ok();
    std::fs::rename(folder.path("a.db"), folder.path("a.db.before-restore")).expect("moved");
    std::fs::copy(folder.path("b.db"), folder.path("a.db.restored")).expect("copied");
    folder.run(&[]).fails(1, &["being restored", "restore it again"]);
    assert!(!folder.path("a.db").exists(), "no new database in the place of the old one");
    folder.atra(&["db", "restore", "b.db", "--db", "a.db"]).ok();
    assert_eq!(folder.digest("a.db"), digest);
    folder.run(&[]).ok();
}

#[test]
fn a_newer_or_foreign_file_is_left_alone_by_every_command() {
    let folder = Folder::finished();
    let mut newer = bytes(&folder.path("a.db"));
    newer[60..64].copy_from_slice(&99_u32.to_be_bytes());
    std::fs::write(folder.path("newer.db"), &newer).expect("written");
    let foreign = bytes(&folder.path("a.csv"));
    let commands: [&[&str]; 7] = [
        &["info"],
        &["check"],
        &["backup", "copy.db"],
        &["prune", "--keep", "1d"],
        &["prune", "--keep-events", "1", "--dry-run"],
        &["vacuum"],
        &["forget-team", "old"],
    ];
    for command in commands {
        for (db, part) in [("newer.db", "version 99"), ("a.csv", "not an atra database"), ("none.db", "no database")] {
            folder.atra(&[&["db"], command, &["--db", db]].concat()).fails(1, &[part]);
        }
    }
    assert_eq!((bytes(&folder.path("newer.db")), bytes(&folder.path("a.csv"))), (newer, foreign));
    assert!(!folder.path("none.db").exists() && !folder.path("copy.db").exists());
    assert!(!folder.path("newer.db.lock").exists(), "nobody took it for writing");
}

// === bounds and retention ===

#[test]
fn retention_is_configured_and_a_limit_is_told_by_status() {
    let folder = Folder::with_candles();
    let config = "[storage]\nkeep_events = 200\ndb_bytes_max = 1\n";
    std::fs::write(folder.path("keep.toml"), config).expect("written");
    folder.run(&[]).ok();
    let status = folder.atra(&["status", "--db", "a.db", "--config", "keep.toml"]).ok().out;
    assert!(status.contains("full: ") && status.contains("callers are refused"), "{status}");
    let status = folder.atra(&["status", "--db", "a.db", "--config", "keep.toml", "--json"]).ok().one();
    assert_eq!(status["full"], true);
    std::fs::write(folder.path("bad.toml"), "[storage]\nkeep = \"thirty\"\n").expect("written");
    folder.atra(&["status", "--db", "a.db", "--config", "bad.toml"]).fails(2, &["bad.toml, line 2", "such as 30d"]);
}

// === figures ===

#[cfg(unix)]
#[test]
fn a_running_process_tells_its_figures_when_asked() {
    let folder = Folder::with_candles();
    let mut running = folder.running();
    running.signal("-USR1");
    let line = running.until(|line| line.starts_with('{'));
    let figures: Value = serde_json::from_str(&line).expect("JSON");
    assert!(figures["atra_batches_total"].as_u64() > Some(0), "{figures}");
    assert!(figures["atra_commit_micros"]["0.99"].as_u64() >= figures["atra_commit_micros"]["0.5"].as_u64());
    assert!(figures["atra_team_inputs_total"]["desk"].as_u64() > Some(0), "{figures}");
    assert!(figures["atra_database_bytes"].as_u64() > Some(0) && figures["atra_reader_connections"].as_u64().is_some());
    running.signal("-TERM");
    let done = running.end().ok();
    assert!(done.out.contains("stopped cleanly"), "{}", done.out);
}

#[cfg(unix)]
#[test]
fn a_database_that_is_moved_away_ends_the_run_with_its_reason() {
    let folder = Folder::with_candles();
    let running = folder.running();
    std::fs::rename(folder.path("a.db"), folder.path("moved.db")).expect("moved");
    let done = running.end();
    assert_eq!(done.code, 1, "{}", done.err);
    assert!(done.err.contains("deleted or moved while it was in use"), "{}", done.err);
}

#[test]
fn what_is_slow_is_logged_with_what_it_waited_for() {
    let folder = Folder::with_candles();
    let mut command = folder.command(&["run", "--config", "desk.toml", "--db", "a.db", "--until-idle", "--json"]);
    let done = Running::spawn(command.env("ATRA_STORAGE_SLOW_AFTER_MS", "0")).end().ok();
    for part in ["commit was slow", "\"lookups_ms\":", "read was slow", "\"waited_for_connection_ms\":"] {
        assert!(done.err.contains(part), "{part:?} is not in: {}", done.err);
    }
    assert!(
        !folder.run(&["--fresh"]).ok().err.contains("was slow"),
        "a second is not exceeded by three thousand candles"
    );
}
