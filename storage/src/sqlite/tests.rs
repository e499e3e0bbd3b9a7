//! What only SQLite can get wrong: files, locks, settings, plans, damage.

use std::{path::Path, sync::Arc};

use atra_bus::{Committed, EventId, Seq};
use futures::FutureExt as _;
use sqlx::{
    AssertSqlSafe, ConnectOptions as _, Connection as _, Executor as _, SqliteConnection, sqlite::SqliteConnectOptions,
};
use tempfile::TempDir;

use super::{SqliteOptions, SqliteReader, SqliteStore, check, connection::pragma, info};
use crate::{
    FactKind, FactRow, Level, Release, Storage, StorageOptions, Store, StoreError, TeamMove, TeamRow, WriteBatch,
    conformance::{event, name},
};

pub(super) struct Folder(TempDir);

impl Folder {
    pub(super) fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary folder"))
    }

    pub(super) fn db(&self) -> std::path::PathBuf {
        self.0.path().join("a.db")
    }

    pub(super) async fn store(&self) -> SqliteStore {
        let mut store = SqliteStore::open(SqliteOptions::new(self.db())).await.expect("a sound file opens");
        store.load().await.expect("loaded");
        store
    }

    pub(super) async fn raw(&self) -> SqliteConnection {
        let options = SqliteConnectOptions::new().filename(self.db()).create_if_missing(true);
        options.connect().await.expect("a raw connection")
    }
}

pub(super) fn events(seqs: std::ops::RangeInclusive<u64>, topic: &str) -> WriteBatch {
    let event = |seq| Committed { seq: Seq(seq), event: event("a", topic, "1", seq), cause_seq: None, seen: None };
    WriteBatch { events: seqs.map(event).collect(), ..WriteBatch::default() }
}

/// Seqs 1 to 4; 4 writes the memory key `k`.
fn sound() -> WriteBatch {
    let mut batch = events(1..=3, "x");
    batch.events[1].cause_seq = Some(Seq(1));
    let write = event("a", "memory.k", "4", 4);
    batch.facts.push(FactRow {
        kind: FactKind::Memory,
        owner: name("a"),
        key: "k".into(),
        value: Some("4".into()),
        version: Seq(4),
        event: Some(write.id),
    });
    batch.events.push(Committed { seq: Seq(4), event: write, cause_seq: None, seen: None });
    let to = TeamRow { team: name("t"), epoch: 1, number: 1, cursor: Seq(4) };
    batch.teams.push(TeamMove { from: None, to });
    batch
}

#[tokio::test]
async fn a_file_has_one_runtime_and_the_next_is_told_which() {
    let folder = Folder::new();
    let mut first = folder.store().await;
    let second = SqliteStore::open(SqliteOptions::new(folder.db())).await;
    match second {
        Err(StoreError::InUse { path, holder }) => {
            assert!(path.ends_with("a.db"));
            assert_eq!(holder, format!(" (process {})", std::process::id()));
        }
        other => panic!("opened twice, or another error: {other:?}"),
    }
    first.close().await.expect("closed");
    folder.store().await;
}

#[tokio::test]
async fn a_file_that_is_not_ours_is_refused_and_left_alone() {
    // A text, and somebody else's database.
    let text = Folder::new();
    std::fs::write(text.db(), "this is a text and not a database at all, however long it may become".repeat(20))
        .expect("written");
    let foreign = Folder::new();
    let mut db = foreign.raw().await;
    db.execute("CREATE TABLE theirs(x)").await.expect("created");
    db.close().await.expect("closed");
    for folder in [text, foreign] {
        let before = std::fs::read(folder.db()).expect("read");
        let opened = SqliteStore::open(SqliteOptions::new(folder.db())).await;
        match opened {
            Err(StoreError::Fatal { cause, .. }) => assert!(cause.contains("not an atra database"), "found {cause}"),
            other => panic!("opened, or another error: {other:?}"),
        }
        let read = SqliteReader::open_read_only(folder.db()).await.map(|_| ());
        assert!(matches!(read, Err(StoreError::Fatal { .. })), "found {read:?}");
        assert_eq!(std::fs::read(folder.db()).expect("read"), before);
    }
}

#[tokio::test]
async fn a_file_of_a_newer_atra_is_refused() {
    let folder = Folder::new();
    folder.store().await.close().await.expect("closed");
    let mut db = folder.raw().await;
    db.execute("PRAGMA user_version = 99").await.expect("set");
    db.close().await.expect("closed");
    let opened = SqliteStore::open(SqliteOptions::new(folder.db())).await.map(|_| ());
    assert!(matches!(opened, Err(StoreError::Newer { found: 99, .. })), "found {opened:?}");
    let read = SqliteReader::open_read_only(folder.db()).await.map(|_| ());
    assert!(matches!(read, Err(StoreError::Newer { found: 99, .. })), "found {read:?}");
}

#[tokio::test]
async fn a_missing_file_is_an_error_and_stays_missing() {
    let folder = Folder::new();
    let is_empty = |path: &Path| std::fs::read_dir(path).expect("listed").next().is_none();
    assert!(SqliteReader::open_read_only(folder.db()).await.is_err());
    assert!(SqliteStore::open(SqliteOptions { create: false, ..SqliteOptions::new(folder.db()) }).await.is_err());
    assert!(check(folder.db()).await.is_err() && info(folder.db()).await.is_err());
    assert!(is_empty(folder.0.path()));
    let nowhere = folder.0.path().join("no/such/folder/a.db");
    let opened = SqliteStore::open(SqliteOptions::new(nowhere)).await.map(|_| ());
    assert!(matches!(opened, Err(StoreError::Fatal { .. })), "found {opened:?}");
}

#[tokio::test]
async fn a_command_line_reads_beside_a_runtime_and_after_it() {
    let folder = Folder::new();
    let mut store = folder.store().await;
    store.commit(&events(1..=3, "x")).await.expect("committed");
    let beside = SqliteReader::open_read_only(folder.db()).await.expect("opened");
    assert_eq!(beside.last_seq().await.expect("a seq"), Seq(3));
    store.commit(&events(4..=4, "new.topic")).await.expect("committed");
    let late = beside.event(Seq(4)).await.expect("a read").expect("the event");
    assert_eq!(late.event.topic.as_str(), "new.topic");
    drop(beside);
    store.close().await.expect("closed");
    let after = SqliteReader::open_read_only(folder.db()).await.expect("opened");
    assert_eq!(after.last_seq().await.expect("a seq"), Seq(4));
}

#[tokio::test]
async fn synchronous_follows_the_level_of_the_batch() {
    let folder = Folder::new();
    let mut store = folder.store().await;
    let path = folder.db();
    for (seq, level, expected) in [(1, Level::Process, "1"), (2, Level::Power, "2"), (3, Level::Process, "1")] {
        store.commit(&WriteBatch { level, ..events(seq..=seq, "x") }).await.expect("committed");
        let db = store.db.as_mut().expect("open");
        assert_eq!(pragma(db, &path, "synchronous").await.expect("a setting"), expected);
    }
}

#[tokio::test]
async fn a_lock_held_by_another_is_busy_and_changes_nothing() {
    let folder = Folder::new();
    let mut store = folder.store().await;
    let mut other = folder.raw().await;
    other.execute("BEGIN IMMEDIATE").await.expect("begun");
    let refused = store.commit(&events(1..=1, "x")).await;
    assert!(matches!(refused, Err(StoreError::Busy(_))), "found {refused:?}");
    other.execute("ROLLBACK").await.expect("rolled back");
    store.commit(&events(1..=1, "x")).await.expect("committed");
}

#[tokio::test]
async fn a_full_disk_is_told_and_the_store_goes_on_when_there_is_space() {
    let folder = Folder::new();
    let mut store = folder.store().await;
    store.db.as_mut().expect("open").execute("PRAGMA max_page_count = 20").await.expect("set");
    let large = events(1..=2_000, "x");
    let refused = store.commit(&large).await;
    assert!(matches!(refused, Err(StoreError::Full(_))), "found {refused:?}");
    assert_eq!(store.reader().last_seq().await.expect("reads go on"), Seq::ZERO);
    store.db.as_mut().expect("open").execute("PRAGMA max_page_count = 100000").await.expect("set");
    store.commit(&large).await.expect("committed");
}

#[tokio::test]
async fn an_interrupted_commit_is_settled_by_loading() {
    let folder = Folder::new();
    let mut store = folder.store().await;
    // Dropped at its first wait: what the connection's thread did by then is not known. Many round trips, so
    // that one poll cannot see the end of it, however fast that thread is.
    assert!(store.commit(&events(1..=5_000, "x")).now_or_never().is_none());
    let refused = store.commit(&events(1..=1, "x")).await;
    assert!(matches!(refused, Err(StoreError::Unknown(_))), "found {refused:?}");
    let last = store.load().await.expect("loaded").last_seq;
    store.commit(&events(last.get() + 1..=last.get() + 1, "y")).await.expect("committed");
}

#[tokio::test]
async fn a_check_passes_a_sound_file_and_names_each_damage() {
    let damages = [
        ("DELETE FROM journal WHERE seq = 2", "without gaps"),
        ("UPDATE journal SET cause_seq = 3 WHERE seq = 2", "does not come before"),
        ("UPDATE facts SET value = '5'", "disagree"),
        ("DELETE FROM facts", "disagree"),
        ("UPDATE facts SET version = 3", "no write in the journal"),
        ("UPDATE facts SET version = 5", "newer than the journal's end"),
        ("DELETE FROM journal WHERE seq = 4", "beyond the journal's end"),
    ];
    for (damage, expected) in damages {
        let folder = Folder::new();
        let mut store = folder.store().await;
        store.commit(&sound()).await.expect("committed");
        let report = check(folder.db()).await.expect("a report");
        assert!(report.is_sound() && report.events == 4, "found {report:?}");
        store.close().await.expect("closed");
        let mut db = folder.raw().await;
        db.execute(damage).await.expect("damaged");
        db.close().await.expect("closed");
        let report = check(folder.db()).await.expect("a report");
        assert!(report.problems.iter().any(|problem| problem.contains(expected)), "{damage}: found {report:?}");
    }
}

#[tokio::test]
async fn a_check_names_the_first_batch_that_is_not_as_it_was_written() {
    // Batches 1 to 4, 5, 6 to 305. Each damage changes one thing only, and leaves a file that SQLite calls sound.
    let damages = [
        ("UPDATE journal SET payload = '2' WHERE seq = 2", 1),
        ("UPDATE journal SET time = time + 1 WHERE seq = 5", 5),
        ("UPDATE journal SET seen = 0 WHERE seq = 5", 5),
        ("UPDATE journal SET version = 2 WHERE seq = 300", 6),
        ("UPDATE journal SET hops = 1 WHERE seq = 6", 6),
        ("UPDATE journal SET id = root WHERE seq = 7; UPDATE journal SET root = zeroblob(16) WHERE seq = 7", 6),
        ("UPDATE journal SET cause = zeroblob(16) WHERE seq = 305", 6),
        ("UPDATE journal SET cause_seq = 1 WHERE seq = 5", 5),
        ("UPDATE names SET text = 'z' WHERE text = 'y'", 5),
        ("UPDATE journal SET chain = zeroblob(16) WHERE seq = 5", 5),
        ("UPDATE journal SET chain = NULL WHERE seq = 305", 6),
        ("UPDATE journal SET chain = (SELECT chain FROM journal WHERE seq = 305) WHERE seq = 4", 1),
        ("DELETE FROM journal WHERE seq > 300", 6),
        ("DELETE FROM journal WHERE seq = 5; UPDATE journal SET seq = seq - 1 WHERE seq > 5", 5),
        ("UPDATE meta SET value = 'what' WHERE key = 'chain_origin'", 1),
    ];
    let folder = Folder::new();
    let mut store = folder.store().await;
    for batch in [sound(), events(5..=5, "y"), events(6..=305, "x")] {
        store.commit(&batch).await.expect("committed");
    }
    store.close().await.expect("closed");
    let report = check(folder.db()).await.expect("a report");
    assert!(report.is_sound() && report.chained_from == Seq(1), "found {report:?}");
    for (damage, first_bad) in damages {
        let damaged = Folder::new();
        std::fs::copy(folder.db(), damaged.db()).expect("copied");
        let mut db = damaged.raw().await;
        sqlx::raw_sql(damage).execute(&mut db).await.expect("damaged");
        db.close().await.expect("closed");
        let report = check(damaged.db()).await.expect("a report");
        assert_eq!(report.first_bad, Some(Seq(first_bad)), "{damage}: found {report:?}");
        assert!(!report.is_sound());
    }
}

/// A batch that is whole in itself, but is not the one that was there: only the batch after it can tell.
#[tokio::test]
async fn a_batch_of_another_history_is_noticed_at_the_next_one() {
    let (folder, other) = (Folder::new(), Folder::new());
    for (folder, topic) in [(&folder, "y"), (&other, "x")] {
        let mut store = folder.store().await;
        for batch in [sound(), events(5..=5, topic), events(6..=6, "x")] {
            store.commit(&batch).await.expect("committed");
        }
        store.close().await.expect("closed");
    }
    let mut db = folder.raw().await;
    let graft =
        "UPDATE journal SET (topic, chain) = (SELECT topic, chain FROM other.journal WHERE seq = 5) WHERE seq = 5";
    let graft = format!("ATTACH '{}' AS other; {graft}", other.db().display());
    sqlx::raw_sql(AssertSqlSafe(graft)).execute(&mut db).await.expect("grafted");
    db.close().await.expect("closed");
    let report = check(folder.db()).await.expect("a report");
    assert_eq!(report.first_bad, Some(Seq(6)), "found {report:?}");
}

/// What is appended after a reopening, and after `forget_runs`, is chained to what is there.
#[tokio::test]
async fn the_chain_goes_on_where_the_journal_ends() {
    let folder = Folder::new();
    for seq in 1..=3 {
        let mut store = folder.store().await;
        store.commit(&events(seq..=seq, "x")).await.expect("committed");
        store.close().await.expect("closed");
    }
    assert!(check(folder.db()).await.expect("a report").is_sound());
    let mut store = folder.store().await;
    store.forget_runs().await.expect("forgotten");
    store.load().await.expect("loaded");
    store.commit(&events(1..=2, "x")).await.expect("committed");
    let report = check(folder.db()).await.expect("a report");
    assert!(report.is_sound() && report.events == 2, "found {report:?}");
}

#[tokio::test]
async fn a_file_of_version_1_is_brought_up_to_date_and_its_old_part_is_not_chained() {
    let folder = Folder::new();
    let mut db = folder.raw().await;
    let old = format!(
        "PRAGMA journal_mode = WAL; {} PRAGMA application_id = {}; PRAGMA user_version = 1; \
         INSERT INTO names VALUES (1, 'x'), (2, 'a'); \
         INSERT INTO journal SELECT value, zeroblob(16), 1, 1, 2, 0, NULL, zeroblob(16), 0, NULL, NULL, '1' \
         FROM json_each('[1,2,3]')",
        super::schema::MIGRATIONS[0],
        super::schema::APPLICATION_ID
    );
    sqlx::raw_sql(AssertSqlSafe(old)).execute(&mut db).await.expect("an old file");
    db.close().await.expect("closed");
    // Read as it is.
    let report = check(folder.db()).await.expect("a report");
    assert!(report.is_sound() && report.chained_from == Seq(4), "found {report:?}");

    let mut store = folder.store().await;
    store.commit(&events(4..=5, "x")).await.expect("committed");
    store.commit(&events(6..=6, "x")).await.expect("committed");
    let report = check(folder.db()).await.expect("a report");
    assert!(report.is_sound() && report.chained_from == Seq(4) && report.events == 6, "found {report:?}");
    assert_eq!(info(folder.db()).await.expect("info").schema_version, super::SCHEMA_VERSION);
    store.close().await.expect("closed");
    let mut db = folder.raw().await;
    db.execute("UPDATE journal SET payload = '2' WHERE seq = 6").await.expect("damaged");
    db.close().await.expect("closed");
    assert_eq!(check(folder.db()).await.expect("a report").first_bad, Some(Seq(6)));
}

#[tokio::test]
async fn info_tells_what_is_in_a_file() {
    let folder = Folder::new();
    let mut store = folder.store().await;
    store.commit(&sound()).await.expect("committed");
    let found = info(folder.db()).await.expect("info");
    assert_eq!((found.last_seq, found.teams.len(), found.schema_version), (Seq(4), 1, super::SCHEMA_VERSION));
    assert!(found.wal_bytes > 0);
    let rows = super::count_rows(folder.db()).await.expect("rows").rows;
    assert!(rows.contains(&("journal".into(), 4)) && rows.contains(&("facts".into(), 1)), "{rows:?}");
}

pub(super) struct Nobody;

impl Release for Nobody {
    fn release(&self, _: &Arc<atra_bus::Batch>) {}
}

/// The actor over the real thing: concurrent writers with keys and conditions, and what they leave behind.
#[tokio::test]
async fn many_writers_through_the_actor_leave_a_sound_file() {
    let folder = Folder::new();
    let store = Box::new(SqliteStore::open(SqliteOptions::new(folder.db())).await.expect("opened"));
    let (storage, actor) =
        Storage::open(store, StorageOptions::default(), Arc::new(Nobody), Arc::new(atra_bus::SystemEnv::new()))
            .await
            .expect("opened");
    let writers = futures::future::join_all((0..40_u64).map(|writer| {
        let storage = storage.clone();
        async move {
            let team = name(&format!("t{writer}"));
            let row = storage.raise_epoch(&team).await.expect("raised");
            for n in 1..=10_u64 {
                let topic = if n % 3 == 0 { format!("memory.w{writer}") } else { "x".into() };
                let mut step = crate::tests::step(team.as_str(), row.epoch, n, vec![]);
                step.events.push(crate::tests::new(&topic, &n.to_string(), writer * 1_000 + n));
                step.facts.push(crate::tests::state(&format!("w{writer}"), Some(&n.to_string())));
                storage.submit(step).await.expect("queued").await.expect("committed");
            }
        }
    }));
    let work = async {
        writers.await;
        storage.stop().await.expect("stopped");
    };
    futures::join!(actor.run(), work);
    let report = check(folder.db()).await.expect("a report");
    assert!(report.is_sound(), "found {report:?}");
    assert_eq!(report.last_seq, Seq(400));
    let reader = SqliteReader::open_read_only(folder.db()).await.expect("opened");
    assert_eq!(reader.facts(FactKind::Memory, None).await.expect("facts").len(), 40);
    let fact = reader.fact(FactKind::Memory, &name("a"), "w7").await.expect("a read").expect("a fact");
    assert_eq!(fact.event, Some(EventId::of(&name("a"), "7009")));
    assert!(reader.teams().await.expect("teams").iter().all(|row| row.number == 10));
}

#[tokio::test]
async fn what_is_written_anew_is_the_same_and_the_doubt_outlives_the_process_only() {
    let folder = Folder::new();
    let lock = folder.0.path().join("a.db.lock");
    let mut store = folder.store().await;
    store.commit(&sound()).await.expect("committed");
    store.reopen_if_unknown(&StoreError::Unknown("test".into())).await;
    assert!(store.load().await.expect("loaded").is_unflushed);
    drop(store);
    // The next process.
    let mut store = SqliteStore::open(SqliteOptions::new(folder.db())).await.expect("opened");
    assert!(store.load().await.expect("loaded").is_unflushed);
    assert!(std::fs::read_to_string(&lock).expect("read").ends_with(" unflushed"));

    store.renew().await.expect("written anew");

    assert!(!store.load().await.expect("loaded").is_unflushed);
    assert_eq!(std::fs::read_to_string(&lock).expect("read"), std::process::id().to_string());
    store.commit(&events(5..=5, "y")).await.expect("committed");
    assert_eq!(pragma(store.db.as_mut().expect("open"), &folder.db(), "temp_store").await.expect("a setting"), "2");
    store.close().await.expect("closed");
    let report = check(folder.db()).await.expect("a report");
    assert!(report.is_sound() && report.events == 5, "found {report:?}");
}

#[tokio::test]
async fn forgetting_runs_keeps_the_blocks_and_begins_at_one() {
    let folder = Folder::new();
    let mut store = folder.store().await;
    let block = crate::Block { series: name("s"), start: 0, rows: 1, data: Arc::from([1_u8].as_slice()) };
    store.commit(&WriteBatch { blocks: vec![block], ..sound() }).await.expect("committed");
    assert_eq!(store.reader().last_seq().await.expect("read"), Seq(4));

    store.forget_runs().await.expect("forgotten");

    let loaded = store.load().await.expect("loaded");
    assert_eq!((loaded.last_seq, loaded.teams), (Seq::ZERO, Vec::new()));
    let reader = store.reader();
    assert_eq!(reader.facts(FactKind::Memory, None).await.expect("read"), Vec::new());
    assert_eq!(reader.blocks(&name("s"), 0, 9, 9).await.expect("read").len(), 1);
    store.commit(&sound()).await.expect("a run begins at seq 1");
    store.close().await.expect("closed");
    assert!(check(folder.db()).await.expect("checked").is_sound());
}
