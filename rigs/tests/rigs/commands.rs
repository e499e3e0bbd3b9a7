//! SIGKILL at every change that a migration or an operator's command makes to a file, and no space from any write on.
//!
//! The files are those of a process that was killed under load, log included. Whatever happens to a command, what was
//! acknowledged is in the database or, after a restore, in what was put aside; and the same command given again comes to
//! its end.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use atra_rigs::{
    job::{Command, Job},
    ledger::Line,
    work::Work,
};
use atra_storage::{FactKind, SqliteReader, check, conformance::name, digest, sqlite::SCHEMA_VERSION};
use sqlx::{ConnectOptions as _, Connection as _, Row as _, SqliteConnection, sqlite::SqliteConnectOptions};
use tempfile::TempDir;

use crate::{
    judge::{Judge, Promise},
    support::{Seed, child, child_for, end, folder, lines_of, rounds, until},
};

/// Points of one command in CI, more are drawn from; `ATRA_RIG_ROUNDS` asks for all.
const POINTS: u64 = 30;
/// Points at the end of a command that are tried in any case.
const LAST: u64 = 12;
const ENOSPC: u64 = 28;
/// What brings a file back to the first version of its tables, as an atra of that time left it.
const FIRST_VERSION: &str = "ALTER TABLE journal DROP COLUMN chain; \
    ALTER TABLE journal DROP COLUMN committed; ALTER TABLE journal DROP COLUMN clock; \
    ALTER TABLE facts DROP COLUMN written; ALTER TABLE facts DROP COLUMN check_value; \
    ALTER TABLE teams DROP COLUMN check_value; ALTER TABLE blocks DROP COLUMN check_value; DROP TABLE topic_index; \
    DELETE FROM meta WHERE key IN ('chain_origin', 'timed_from', 'facts_timed_from'); PRAGMA user_version = 1;";
/// How many columns and marks the second version brought, and how many the third.
const BROUGHT: [i64; 2] = [2, 7];

/// Brings a file back to that version.
pub(crate) fn to_the_first_version(db: &Path) {
    block_on(async {
        let mut db = raw(db).await;
        sqlx::raw_sql(FIRST_VERSION).execute(&mut db).await.unwrap();
        db.close().await.unwrap();
    });
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(work)
}

async fn raw(db: &Path) -> SqliteConnection {
    SqliteConnectOptions::new().filename(db).busy_timeout(Duration::from_secs(30)).connect().await.unwrap()
}

/// A folder with `a.db` and its log as a kill left them, and its ledger.
fn killed(life: u64) -> TempDir {
    let folder = folder();
    let work = Work { life, each: 100_000, imports: 1, bytes_max: 400, ..Work::on(folder.path().join("a.db")) };
    let mut started = child(&work, &[]).spawn().unwrap();
    until(&mut started, &work, "some work", |lines| lines.len() > 300);
    started.kill().unwrap();
    started.wait().unwrap();
    folder
}

/// The same with the tables of the first version; its log is not in the file either.
fn killed_in_the_first_version() -> TempDir {
    let (before, after) = (killed(1), folder());
    copy_files(before.path(), after.path());
    let db = after.path().join("a.db");
    let old = folder();
    block_on(async {
        let mut db = raw(&db).await;
        sqlx::raw_sql(FIRST_VERSION).execute(&mut db).await.unwrap();
        copy_files(after.path(), old.path());
        db.close().await.unwrap();
    });
    old
}

fn copy_files(from: &Path, to: &Path) {
    for file in std::fs::read_dir(from).unwrap() {
        let (file, name) = file.map(|file| (file.path(), file.file_name())).unwrap();
        let is_made_anew = name.to_string_lossy().ends_with("-shm") || name.to_string_lossy().ends_with(".lock");
        if !is_made_anew {
            std::fs::copy(file, to.join(name)).unwrap();
        }
    }
}

fn digest_of(db: &Path) -> String {
    block_on(async {
        let reader = SqliteReader::open_read_only(db).await.unwrap_or_else(|error| panic!("{}: {error}", db.display()));
        digest(&*reader).await.unwrap().whole
    })
}

fn is_sound(db: &Path) -> bool {
    block_on(check(db)).unwrap().is_sound()
}

fn judged(folder: &Path) {
    let lines = lines_of(&folder.join("a.ledger"));
    Judge::default().judge(&folder.join("a.db"), &lines, Promise::Process).unwrap_or_else(|wrong| panic!("{wrong}"));
}

/// A command under test.
struct Case<'a> {
    name: &'static str,
    /// What lies in the folder before: `a.db` and `a.ledger`.
    files: &'a Path,
    command: fn(&Path) -> Command,
    /// The file whose disk becomes full.
    written: &'static str,
    /// What must hold after whatever happened. `true`: the command had its whole effect.
    judge: &'a dyn Fn(&Path) -> bool,
    /// Whether it may be given again after it had its effect.
    is_repeatable: bool,
}

impl Case<'_> {
    fn begin(&self, told: &[(&str, String)], watched: &str) -> (TempDir, std::process::Child) {
        let folder = folder();
        copy_files(self.files, folder.path());
        let started = self.job(folder.path(), told, watched).spawn().unwrap();
        (folder, started)
    }

    fn job(&self, folder: &Path, told: &[(&str, String)], watched: &str) -> std::process::Command {
        let (db, ledger) = (folder.join("a.db"), folder.join("command.ledger"));
        let job = Job::Command { db, ledger: ledger.clone(), command: (self.command)(folder) };
        child_for(&job, &folder.join(watched), &ledger, told)
    }

    fn counts(&self, watched: &str) -> BTreeMap<String, u64> {
        let counts = folder();
        let file = counts.path().join("counts");
        let (folder, started) = self.begin(&[("COUNTS", file.display().to_string())], watched);
        assert!(end(started, self.name), "{}: {:?}", self.name, lines_of(&folder.path().join("command.ledger")));
        assert!((self.judge)(folder.path()), "{}: a clean pass has its effect", self.name);
        let text = std::fs::read_to_string(file).unwrap();
        text.lines()
            .filter_map(|line| line.split_once(' '))
            .map(|(class, n)| (class.into(), n.parse().unwrap()))
            .collect()
    }

    /// Kills it at each change, gives it again.
    fn kills(&self, seed: &mut Seed) {
        let n = self.counts("a.db")["change"];
        let (mut n_killed, mut n_before, mut n_after) = (0, 0, 0);
        for at in draw(n + 1, seed) {
            let what = format!("{} killed at change {at} of {n}", self.name);
            let (folder, started) = self.begin(&[("KILL", at.to_string())], "a.db");
            let status = started.wait_with_output().unwrap().status;
            n_killed += u64::from(status.code().is_none());
            let is_done = (self.judge)(folder.path());
            *(if is_done { &mut n_after } else { &mut n_before }) += 1;
            self.again(folder.path(), is_done, &what);
        }
        eprintln!("{}: {n_killed} kills at {n} changes, {n_before} before its effect and {n_after} after", self.name);
        assert!(n_killed > 0 && n_before > 0 && n_after > 0, "{}: the points did not hit", self.name);
    }

    /// No space from a write on: an error that says so, and nothing is changed.
    fn full_disks(&self, seed: &mut Seed) {
        let n = self.counts(self.written)["write"];
        let mut n_refused = 0;
        for at in draw(n, seed) {
            let what = format!("{} without space from write {at} of {n} on", self.name);
            let told =
                [("CLASS", "write".into()), ("AT", at.to_string()), ("FOR", "0".into()), ("ERRNO", ENOSPC.to_string())];
            let (folder, started) = self.begin(&told, self.written);
            let is_ok = end(started, &what);
            let is_done = (self.judge)(folder.path());
            if !is_ok {
                n_refused += 1;
                let told = lines_of(&folder.path().join("command.ledger"));
                let says_so = matches!(told.last(), Some(Line::Error(text)) if text.contains("no space") || text.contains("full"));
                assert!(says_so, "{what}: {told:?}");
            }
            assert!(is_done || !is_ok, "{what}: it said that it was done");
            self.again(folder.path(), is_done, &what);
        }
        eprintln!("{}: {n_refused} times without space, at {n} writes", self.name);
        assert!(n_refused > 0, "{}: the points did not hit", self.name);
    }

    fn again(&self, folder: &Path, is_done: bool, what: &str) {
        if is_done && !self.is_repeatable {
            return;
        }
        let ended = end(self.job(folder, &[], "a.db").spawn().unwrap(), what);
        assert!(ended, "{what}, then again: {:?}", lines_of(&folder.join("command.ledger")));
        assert!((self.judge)(folder), "{what}, then again: it has no effect");
    }
}

/// All of 1 ..= n, or as many as are asked for; the last ones always, where names change.
fn draw(n: u64, seed: &mut Seed) -> Vec<u64> {
    let mut points: Vec<u64> = (1..=n.saturating_sub(LAST)).collect();
    while points.len() as u64 > rounds(POINTS) {
        points.swap_remove(seed.below(points.len() as u64) as usize);
    }
    points.extend(n.saturating_sub(LAST) + 1..=n);
    points
}

// === migration ===

/// The version that the file says it has, and which its tables have: never a part of one.
fn version(db: &Path) -> u32 {
    block_on(async {
        let mut db = raw(db).await;
        let text = "SELECT (SELECT user_version FROM pragma_user_version), \
            (SELECT count(*) FROM pragma_table_info('journal') WHERE name = 'chain') \
            + (SELECT count(*) FROM meta WHERE key = 'chain_origin'), \
            (SELECT count(*) FROM pragma_table_info('journal') WHERE name IN ('committed', 'clock')) \
            + (SELECT count(*) FROM pragma_table_info('facts') WHERE name IN ('written', 'check_value')) \
            + (SELECT count(*) FROM pragma_table_info('teams') WHERE name = 'check_value') \
            + (SELECT count(*) FROM pragma_table_info('blocks') WHERE name = 'check_value') \
            + (SELECT count(*) FROM meta WHERE key = 'timed_from')";
        let row = sqlx::query(text).fetch_one(&mut db).await.unwrap();
        let (version, second, third): (i64, i64, i64) = (row.get(0), row.get(1), row.get(2));
        db.close().await.unwrap();
        let expected = [2, 3].map(|of| if version >= of { BROUGHT[of as usize - 2] } else { 0 });
        assert_eq!([second, third], expected, "version {version} with the tables of another");
        version as u32
    })
}

#[test]
fn a_migration_that_is_killed_or_has_no_space_is_done_wholly_or_not_at_all() {
    let mut seed = Seed::begin("migration");
    let files = killed_in_the_first_version();
    let judge = |folder: &Path| {
        // A copy is judged, since opening it migrates it.
        let looked_at = self::folder();
        copy_files(folder, looked_at.path());
        let is_done = version(&looked_at.path().join("a.db")) == SCHEMA_VERSION;
        judged(looked_at.path());
        is_done
    };
    assert!(!judge(files.path()), "it begins with the first version");
    let case = Case {
        name: "migration",
        files: files.path(),
        command: |_| Command::Open,
        written: "a.db",
        judge: &judge,
        is_repeatable: true,
    };
    case.kills(&mut seed);
    case.full_disks(&mut seed);
}

#[test]
fn a_file_whose_making_is_killed_is_made_by_the_next_process() {
    let mut seed = Seed::begin("creation");
    let files = folder();
    let judge = |folder: &Path| {
        let looked_at = self::folder();
        copy_files(folder, looked_at.path());
        let db = looked_at.path().join("a.db");
        let is_made = db.exists() && block_on(SqliteReader::open_read_only(&db)).is_ok();
        judged(looked_at.path());
        is_made
    };
    let case = Case {
        name: "creation",
        files: files.path(),
        command: |_| Command::Open,
        written: "a.db",
        judge: &judge,
        is_repeatable: true,
    };
    case.kills(&mut seed);
}

// === commands ===

#[test]
fn a_backup_that_is_killed_or_has_no_space_leaves_no_copy_that_is_not_whole() {
    let mut seed = Seed::begin("backup");
    let files = killed(1);
    let whole = digest_of(&files.path().join("a.db"));
    let judge = |folder: &Path| {
        let to = folder.join("a.db.copy");
        if to.exists() {
            assert!(is_sound(&to));
            assert_eq!(digest_of(&to), whole);
        }
        assert_eq!(digest_of(&folder.join("a.db")), whole);
        to.exists()
    };
    let case = Case {
        name: "backup",
        files: files.path(),
        command: |folder| Command::Backup(folder.join("a.db.copy")),
        written: "a.db.copy.partial",
        judge: &judge,
        is_repeatable: false,
    };
    case.kills(&mut seed);
    case.full_disks(&mut seed);
}

#[test]
fn a_restore_that_is_killed_or_has_no_space_loses_neither_the_old_nor_the_new() {
    let mut seed = Seed::begin("restore");
    let (files, other) = (killed(1), killed(2));
    let old = digest_of(&files.path().join("a.db"));
    let backup = files.path().join("backup");
    block_on(atra_storage::backup(&other.path().join("a.db"), &backup, |_| {})).unwrap();
    let new = digest_of(&backup);
    let judge = |folder: &Path| {
        let db = folder.join("a.db");
        let aside: Vec<PathBuf> = (0..4)
            .map(|n| {
                folder.join(if n == 0 { "a.db.before-restore".into() } else { format!("a.db.before-restore-{n}") })
            })
            .filter(|file| file.exists())
            .collect();
        let is_old_aside = aside.iter().any(|file| digest_of(file) == old);
        let found = db.exists().then(|| digest_of(&db));
        assert!(is_old_aside || found.as_ref() == Some(&old), "the old one is nowhere");
        let is_half = folder.join("a.db.restored").exists();
        if is_half {
            let looked_at = self::folder();
            copy_files(folder, looked_at.path());
            let error = block_on(atra_storage::SqliteStore::open(atra_storage::SqliteOptions::new(
                looked_at.path().join("a.db"),
            )));
            let error = error.map(drop).unwrap_err().to_string();
            assert!(error.contains("restore it again"), "nobody begins on it: {error}");
            return false;
        }
        assert!(found.is_some(), "there is no database, and nothing says why");
        found.as_ref() == Some(&new)
    };
    let case = Case {
        name: "restore",
        files: files.path(),
        command: |folder| Command::Restore(folder.join("backup")),
        written: "a.db.restoring",
        judge: &judge,
        is_repeatable: true,
    };
    case.kills(&mut seed);
    case.full_disks(&mut seed);
}

#[test]
fn a_vacuum_that_is_killed_or_has_no_space_changes_nothing_that_is_in_the_file() {
    let mut seed = Seed::begin("vacuum");
    let files = killed(1);
    block_on(async {
        // Something to give back.
        let mut db = raw(&files.path().join("a.db")).await;
        let filled = "CREATE TABLE room(x BLOB); INSERT INTO room VALUES (zeroblob(100000)); DROP TABLE room;";
        sqlx::raw_sql(filled).execute(&mut db).await.unwrap();
        db.close().await.unwrap();
    });
    let before = std::fs::metadata(files.path().join("a.db")).unwrap().len();
    let judge = |folder: &Path| {
        let looked_at = self::folder();
        copy_files(folder, looked_at.path());
        judged(looked_at.path());
        std::fs::metadata(looked_at.path().join("a.db")).unwrap().len() < before
    };
    let case = Case {
        name: "vacuum",
        files: files.path(),
        command: |_| Command::Vacuum,
        written: "a.db",
        judge: &judge,
        is_repeatable: true,
    };
    case.kills(&mut seed);
    case.full_disks(&mut seed);
}

#[test]
fn pruning_that_is_killed_or_has_no_space_leaves_a_sound_file_that_was_pruned_less_far() {
    const KEPT: u64 = 20;
    let mut seed = Seed::begin("prune");
    let files = killed(1);
    let facts = |db: &Path| {
        block_on(async {
            let reader = SqliteReader::open_read_only(db).await.unwrap();
            let memory = reader.facts(FactKind::Memory, None).await.unwrap();
            (reader.last_seq().await.unwrap(), reader.floor().await.unwrap(), memory, reader.teams().await.unwrap())
        })
    };
    let (last, _, memory, teams) = facts(&files.path().join("a.db"));
    let upto = teams.iter().map(|team| team.cursor.get()).min().unwrap().min(last.get() - KEPT);
    let judge = |folder: &Path| {
        let db = folder.join("a.db");
        assert!(is_sound(&db));
        let (last_now, floor, memory_now, teams_now) = facts(&db);
        assert_eq!((last_now, &memory_now, &teams_now), (last, &memory, &teams));
        assert!(floor.get() <= upto);
        floor.get() > 0
    };
    let case = Case {
        name: "prune",
        files: files.path(),
        command: |_| Command::Prune(KEPT),
        written: "a.db",
        judge: &judge,
        is_repeatable: true,
    };
    case.kills(&mut seed);
    case.full_disks(&mut seed);
}

#[test]
fn forgetting_a_team_that_is_killed_or_has_no_space_forgets_it_wholly_or_not_at_all() {
    let mut seed = Seed::begin("forget");
    let files = killed(1);
    let judge = |folder: &Path| {
        let (row, fact) = block_on(async {
            let reader = SqliteReader::open_read_only(folder.join("a.db")).await.unwrap();
            let row = reader.teams().await.unwrap().into_iter().any(|row| row.team == name("team0"));
            (row, reader.fact(FactKind::State, &name("team0"), "number").await.unwrap().is_some())
        });
        assert_eq!(row, fact, "half of the team is left");
        assert!(is_sound(&folder.join("a.db")));
        !row
    };
    let case = Case {
        name: "forget",
        files: files.path(),
        command: |_| Command::Forget(name("team0")),
        written: "a.db",
        judge: &judge,
        is_repeatable: false,
    };
    case.kills(&mut seed);
    case.full_disks(&mut seed);
}
