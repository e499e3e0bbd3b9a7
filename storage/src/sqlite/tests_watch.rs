//! The log and its index under a running store: deleted, replaced, truncated, overwritten; and what SQLite does itself.

use std::{
    fs::OpenOptions,
    io::{Seek as _, SeekFrom, Write as _},
    path::Path,
    sync::Arc,
    time::Duration,
};

use atra_bus::Seq;
use sqlx::{Connection as _, Executor as _};

use super::{
    SqliteOptions, SqliteReader, SqliteStore,
    paths::beside,
    tests::{Folder, Nobody, events},
};
use crate::{Rejected, Storage, StorageOptions, StorageState, Store as _, StoreError};

type Harm = fn(&Path);

/// What is done to a file, and what the error says of it.
const HARMS: [(&str, Harm, &str); 12] = [
    ("database cut", |db| cut(db, 100), "a.db was truncated"),
    ("database emptied", |db| cut(db, 0), "a.db was truncated"),
    ("database overwritten", |db| overwrite(db, 0), "a.db was overwritten"),
    ("log deleted", |db| std::fs::remove_file(beside(db, "-wal")).expect("removed"), "-wal was deleted or moved"),
    ("log replaced", |db| replace(&beside(db, "-wal")), "-wal was replaced"),
    ("log emptied", |db| cut(&beside(db, "-wal"), 0), "-wal was truncated"),
    ("log cut", |db| cut(&beside(db, "-wal"), 5_000), "-wal was truncated"),
    ("log overwritten", |db| overwrite(&beside(db, "-wal"), 0), "-wal was overwritten"),
    ("log overwritten in its middle", |db| overwrite(&beside(db, "-wal"), 5_000), "-wal was overwritten"),
    ("index deleted", |db| std::fs::remove_file(beside(db, "-shm")).expect("removed"), "-shm was deleted or moved"),
    ("index replaced", |db| replace(&beside(db, "-shm")), "-shm was replaced"),
    ("index zeroed", |db| overwrite(&beside(db, "-shm"), 0), "-shm was overwritten"),
];

fn replace(file: &Path) {
    let copy = beside(file, ".copy");
    std::fs::copy(file, &copy).expect("copied");
    std::fs::rename(copy, file).expect("renamed");
}

fn cut(file: &Path, bytes: u64) {
    OpenOptions::new().write(true).open(file).expect("opened").set_len(bytes).expect("cut");
}

fn overwrite(file: &Path, at: u64) {
    let mut file = OpenOptions::new().write(true).open(file).expect("opened");
    let changed = |file: &std::fs::File| file.metadata().expect("there").modified().expect("a time");
    let before = changed(&file);
    // The clock of a file system ticks every few milliseconds.
    while changed(&file) == before {
        file.seek(SeekFrom::Start(at)).expect("moved");
        file.write_all(&[0; 4_096]).expect("written");
    }
}

/// Publishes, does the harm while nobody writes, and gives the error that the storage ends with.
async fn ends_with(db: &Path, harm: Harm) -> String {
    let store = SqliteStore::open(SqliteOptions::new(db)).await.expect("opened");
    // The log is not moved meanwhile, so that there is something to lose.
    let options = StorageOptions { checkpoint_after_idle: Duration::from_secs(3_600), ..StorageOptions::default() };
    let (storage, actor) =
        Storage::open(Box::new(store), options, Arc::new(Nobody), Arc::new(atra_bus::SystemEnv::new()))
            .await
            .expect("opened");
    let work = async {
        for n in 1..=10 {
            let publish = crate::tests::publish(vec![crate::tests::new("x", "1", n)]);
            storage.publish(publish).await.expect("committed");
        }
        // Until it was seen whole with all of them in it.
        let seen = async {
            while !std::fs::read_to_string(beside(db, ".lock")).is_ok_and(|mark| mark.contains("seq=10 ")) {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), seen).await.expect("seen");
        harm(db);
        let is_zeroed = super::log(db).pages == 0;
        let noticed = async {
            while storage.metrics().state != StorageState::Failed {
                tokio::task::yield_now().await;
                // A damaged header of the index is restored by SQLite when SQLite sees it first: then nothing is wrong.
                if is_zeroed && super::log(db).pages > 0 {
                    harm(db);
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(10), noticed).await.expect("noticed");
        match storage.publish(crate::tests::publish(vec![crate::tests::new("x", "1", 11)])).await {
            Err(Rejected::Failed(StoreError::Fatal { cause, .. })) => cause,
            other => panic!("found {other:?}"),
        }
    };
    futures::join!(actor.run(), work).1
}

/// Under a run that went on without its log, 1,463 acknowledged events were lost, and a check found nothing wrong.
#[tokio::test]
async fn a_log_that_is_not_whole_ends_the_run_and_nothing_is_lost_in_silence() {
    for (what, harm, expected) in HARMS {
        let folder = Folder::new();
        let cause = ends_with(&folder.db(), harm).await;
        assert!(cause.contains(expected), "{what}: {cause}");
        assert!(cause.contains("since it was last seen"), "{what}: {cause}");
        let is_saved = cause.contains("everything committed was moved into the database");
        assert_eq!(is_saved, expected.contains("deleted") || expected.contains("replaced"), "{what}: {cause}");
        let is_of_the_database = expected.starts_with("a.db");
        let named =
            if is_of_the_database { "go back to a backup" } else { "acknowledged after seq 0 was in the log only" };
        assert!(is_saved || cause.contains(named), "{what}: {cause}");

        // As another process finds it.
        let copy = tempfile::tempdir().expect("a folder");
        let copied = copy.path().join("a.db");
        for suffix in ["", "-wal", ".lock"] {
            if beside(&folder.db(), suffix).exists() {
                std::fs::copy(beside(&folder.db(), suffix), beside(&copied, suffix)).expect("copied");
            }
        }
        let reopened = async {
            let mut store = SqliteStore::open(SqliteOptions::new(&copied)).await?;
            let loaded = store.load().await?;
            store.close().await?;
            Ok::<_, StoreError>(loaded.last_seq)
        };
        match reopened.await {
            Ok(last) => assert_eq!(last, Seq(10), "{what}: lost in silence"),
            // Nothing is in the file, or nothing that fits the log.
            Err(_) if is_of_the_database => {}
            Err(error) => {
                assert!(!is_saved, "{what}: {error}");
                assert!(error.to_string().contains("to 10 were acknowledged"), "{what}: {error}");
            }
        }
    }
}

/// Killed before anybody could look: the next start says what is missing.
#[tokio::test]
async fn a_start_without_what_was_acknowledged_is_refused_until_somebody_agrees() {
    let folder = Folder::new();
    let copy = tempfile::tempdir().expect("a folder");
    let killed = copy.path().join("a.db");
    let mut store = folder.store().await;
    store.commit(&events(1..=10, "x")).await.expect("committed");
    store.look(true).await.expect("whole");
    // What a kill leaves, but for the log.
    for suffix in ["", ".lock"] {
        std::fs::copy(beside(&folder.db(), suffix), beside(&killed, suffix)).expect("copied");
    }
    store.close().await.expect("closed");
    for _ in 0..2 {
        let mut store = SqliteStore::open(SqliteOptions::new(&killed)).await.expect("opened");
        let refused = store.load().await.expect_err("refused").to_string();
        assert!(refused.contains("seqs 1 to 10 were acknowledged by the last process"), "{refused}");
        store.close().await.expect("closed");
    }
    std::fs::remove_file(beside(&killed, ".lock")).expect("removed");
    let mut store = SqliteStore::open(SqliteOptions::new(&killed)).await.expect("opened");
    assert_eq!(store.load().await.expect("loaded").last_seq, Seq(0));
    store.close().await.expect("closed");
    // After another start of the machine, level `process` may have lost something.
    let mark = "1 seq=10 boot=another";
    std::fs::write(beside(&killed, ".lock"), mark).expect("written");
    let mut store = SqliteStore::open(SqliteOptions::new(&killed)).await.expect("opened");
    store.load().await.expect("loaded");
}

/// A file in the log's place is taken for the log by the next start, whatever it is.
#[tokio::test]
async fn a_foreign_log_is_put_aside_and_never_played_back() {
    let folder = Folder::new();
    let cause = ends_with(&folder.db(), |db| replace(&beside(db, "-wal"))).await;
    assert!(cause.contains("was replaced"), "{cause}");
    assert!(beside(&folder.db(), "-wal.foreign").exists());
    let reader = SqliteReader::open_read_only(folder.db()).await.expect("opened");
    assert_eq!(reader.last_seq().await.expect("a seq"), Seq(10));
}

/// SQLite, here and in another process, empties, restarts and shortens the log: that is no fault.
#[tokio::test]
async fn what_sqlite_does_to_the_log_is_no_fault() {
    let folder = Folder::new();
    let mut store = folder.store().await;
    let mut seq = 0;
    for round in 0..40 {
        let next = seq + 50;
        store.commit(&events(seq + 1..=next, &"x".repeat(round + 1))).await.expect("committed");
        seq = next;
        store.look(true).await.unwrap_or_else(|error| panic!("round {round}: {error}"));
        match round % 5 {
            0 => store.checkpoint().await.expect("moved"),
            1 => assert!(store.shorten_log().await.expect("emptied")),
            2 => {
                let mut other = folder.raw().await;
                other.execute("PRAGMA wal_checkpoint(TRUNCATE)").await.expect("emptied by another");
                other.close().await.expect("closed");
            }
            3 => {
                // More than is kept in memory goes to the log before the end, and is given up.
                let mut other = folder.raw().await;
                other.execute("PRAGMA cache_size = 1").await.expect("set");
                other.execute("PRAGMA cache_spill = 1").await.expect("set");
                let sql = "BEGIN; CREATE TABLE t(x); INSERT INTO t SELECT randomblob(4000) FROM names, names; ROLLBACK";
                other.execute(sql).await.expect("rolled back");
                other.close().await.expect("closed");
            }
            _ => {}
        }
        store.look(true).await.unwrap_or_else(|error| panic!("after round {round}: {error}"));
    }
    store.close().await.expect("closed");
    assert!(super::check(folder.db()).await.expect("a report").is_sound());
}

/// SQLite removes a log by its name when it closes: that name may have become another database's.
#[tokio::test]
async fn a_folder_that_was_swapped_keeps_the_log_of_the_other_database() {
    let root = tempfile::tempdir().expect("a folder");
    let at = |folder: &str| root.path().join(folder).join("a.db");
    for (folder, n) in [("first", 3), ("second", 7)] {
        std::fs::create_dir(root.path().join(folder)).expect("made");
        let mut store = SqliteStore::open(SqliteOptions::new(at(folder))).await.expect("opened");
        store.load().await.expect("loaded");
        store.commit(&events(1..=n, "x")).await.expect("committed");
        store.close().await.expect("closed");
    }
    let mut store = SqliteStore::open(SqliteOptions::new(at("first"))).await.expect("opened");
    store.load().await.expect("loaded");
    store.commit(&events(4..=5, "x")).await.expect("committed");
    std::fs::rename(root.path().join("first"), root.path().join("moved")).expect("moved");
    std::fs::rename(root.path().join("second"), root.path().join("first")).expect("moved");
    std::fs::write(beside(&at("first"), "-wal"), "another database's log").expect("written");
    let refused = store.look(true).await.expect_err("refused").to_string();
    assert!(refused.contains("replaced by another file"), "{refused}");

    // Nothing depends on how it ends.
    let _ = store.close().await;

    assert_eq!(std::fs::read(beside(&at("first"), "-wal")).expect("read"), b"another database's log");
    let reader = SqliteReader::open_read_only(at("moved")).await.expect("opened");
    assert_eq!(reader.last_seq().await.expect("a seq"), Seq(5), "what was acknowledged is in the moved folder");
}

#[tokio::test]
async fn a_link_that_leads_elsewhere_does_not_move_the_store() {
    let folder = Folder::new();
    let other = tempfile::tempdir().expect("a folder");
    let link = other.path().join("link.db");
    #[cfg(unix)]
    std::os::unix::fs::symlink(folder.db(), &link).expect("linked");
    let mut store = SqliteStore::open(SqliteOptions::new(&link)).await.expect("opened");
    store.load().await.expect("loaded");
    store.commit(&events(1..=2, "x")).await.expect("committed");
    std::fs::remove_file(&link).expect("removed");
    std::fs::write(&link, "something else").expect("written");
    store.look(true).await.expect("it is where it was");
    assert!(store.was_moved_link, "it is said once");
    store.commit(&events(3..=4, "x")).await.expect("committed");
    store.close().await.expect("closed");
    assert_eq!(
        SqliteReader::open_read_only(folder.db()).await.expect("opened").last_seq().await.expect("a seq"),
        Seq(4)
    );
    assert_eq!(std::fs::read(&link).expect("read"), b"something else");
}
