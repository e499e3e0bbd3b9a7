//! Connections and their deadline, the log, the file that is looked after, who holds it.

use std::{sync::Arc, time::Duration};

use atra_bus::{Filter, Interest, Seq};
use sqlx::{Executor as _, Row as _};

use super::{
    SqliteOptions, SqliteReader, SqliteStore, log, owner,
    tests::{Folder, Nobody, events},
};
use crate::{Keep, Read as _, Rejected, Storage, StorageOptions, StorageState, Store as _, StoreError};

/// Counts to a number that takes minutes.
const ENDLESS: &str =
    "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n LIMIT 10000000000) SELECT count(*) FROM n";

async fn store_with(folder: &Folder, change: impl FnOnce(&mut SqliteOptions)) -> SqliteStore {
    let mut options = SqliteOptions::new(folder.db());
    change(&mut options);
    let mut store = SqliteStore::open(options).await.expect("opened");
    store.load().await.expect("loaded");
    store
}

async fn count_for_ever(reader: &SqliteReader) -> Result<(), StoreError> {
    let mut db = reader.acquire().await.expect("a connection");
    let read = db.fetch_one(ENDLESS).await;
    read.map(drop).map_err(|error| reader.class(&error))
}

// === connections ===

#[tokio::test]
async fn a_read_that_takes_too_long_is_cut_and_its_connection_is_good_again() {
    let folder = Folder::new();
    let mut store = store_with(&folder, |options| {
        options.readers = 1;
        options.read_deadline = Duration::from_millis(50);
    })
    .await;
    store.commit(&events(1..=3, "x")).await.expect("committed");
    for _ in 0..3 {
        let cut = count_for_ever(&store.reader).await;
        assert!(matches!(cut, Err(StoreError::ReadDeadline { .. })), "found {cut:?}");
        assert_eq!(store.reader.last_seq().await.expect("a seq"), Seq(3));
    }
    assert_eq!(store.reader.counts(), (1, 3));
}

#[tokio::test]
async fn a_read_that_nobody_waits_for_any_more_holds_up_no_other() {
    let folder = Folder::new();
    let store = store_with(&folder, |options| {
        options.readers = 1;
        options.read_deadline = Duration::from_secs(3_600);
    })
    .await;
    let given_up = tokio::time::timeout(Duration::from_millis(50), count_for_ever(&store.reader)).await;
    assert!(given_up.is_err(), "it counts for minutes");
    // The same connection: its statement is cut first.
    let read = tokio::time::timeout(Duration::from_secs(60), store.reader.last_seq()).await;
    assert_eq!(read.expect("in time").expect("a seq"), Seq::ZERO);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_writer_and_the_fixed_readers_are_all_the_connections_and_nobody_hears_that_it_is_locked() {
    let folder = Folder::new();
    let store = store_with(&folder, |options| options.readers = 3).await;
    let (storage, actor) = Storage::open(
        Box::new(store),
        StorageOptions::default(),
        Arc::new(Nobody),
        Arc::new(atra_bus::SystemEnv::new()),
    )
    .await
    .expect("opened");
    let all = Interest::in_topics(vec![Filter::all()]);
    let most = std::sync::atomic::AtomicUsize::new(0);
    let agents = futures::future::join_all((0..60_u64).map(|agent| {
        let (storage, all, most, db) = (storage.clone(), &all, &most, folder.db());
        async move {
            for n in 0..20 {
                let new = crate::tests::new("x", "1", agent * 1_000 + n);
                let done = storage.publish(crate::tests::publish(vec![new])).await.expect("never refused");
                let reader = storage.reader();
                let (page, upto) = reader.journal(Seq::ZERO, done.last, all, 100).await.expect("never locked");
                assert!(!page.is_empty() && upto > Seq::ZERO);
                most.fetch_max(n_open(&db), std::sync::atomic::Ordering::Relaxed);
            }
        }
    }));
    let work = async {
        agents.await;
        storage.stop().await.expect("stopped");
    };
    futures::join!(actor.run(), work);
    if cfg!(target_os = "linux") {
        let most = most.into_inner();
        // One more handle has the lock.
        assert!((3..=5).contains(&most), "{most} handles were open at once");
    }
    assert_eq!(storage.metrics().retries, 0);
    assert!(storage.metrics().sizes.readers <= 3);
}

/// How often this process has the file open.
fn n_open(db: &std::path::Path) -> usize {
    let Ok(files) = std::fs::read_dir("/proc/self/fd") else { return 0 };
    files.flatten().filter(|file| std::fs::read_link(file.path()).is_ok_and(|path| path == db)).count()
}

// === released ===

#[tokio::test]
async fn whoever_was_told_a_seq_reads_it_afterwards_or_hears_that_it_is_late() {
    let folder = Folder::new();
    let store = folder.store().await;
    let (storage, actor) = Storage::open(
        Box::new(store),
        StorageOptions::default(),
        Arc::new(Nobody),
        Arc::new(atra_bus::SystemEnv::new()),
    )
    .await
    .expect("opened");
    let work = async {
        let waiting = storage.read_your_writes(Seq(2), Duration::from_secs(60));
        let writing = async {
            for n in 1..=2 {
                let publish = crate::tests::publish(vec![crate::tests::new("x", "1", n)]);
                storage.publish(publish).await.expect("committed");
            }
        };
        let (waited, ()) = futures::join!(waiting, writing);
        waited.expect("released");
        assert!(storage.reader().event(Seq(2)).await.expect("a read").is_some());
        let late = storage.read_your_writes(Seq(3), Duration::from_millis(10)).await;
        assert!(matches!(late, Err(Rejected::NotReleased { released: Seq(2), .. })), "found {late:?}");
        let never = storage.read_your_writes(Seq(3), Duration::from_secs(60));
        let (never, stopped) = futures::join!(never, storage.stop());
        stopped.expect("stopped");
        assert!(matches!(never, Err(Rejected::Stopped)), "found {never:?}");
    };
    futures::join!(actor.run(), work);
}

// === the log ===

#[tokio::test]
async fn the_log_is_begun_anew_under_load_and_a_reader_that_holds_it_is_found() {
    let folder = Folder::new();
    let mut store = folder.store().await;
    store.commit(&events(1..=2_000, "x")).await.expect("committed");
    assert!(store.look(true).await.expect("looked").expect("sizes").wal_bytes > 100_000);
    assert!(store.shorten_log().await.expect("nobody reads"));
    assert_eq!(store.look(true).await.expect("looked").expect("sizes").wal_bytes, 0);

    let mut reading = folder.raw().await;
    store.commit(&events(2_001..=2_001, "x")).await.expect("committed");
    reading.execute("BEGIN").await.expect("begun");
    reading.fetch_one("SELECT count(*) FROM journal").await.expect("read");
    store.commit(&events(2_002..=5_000, "x")).await.expect("committed");
    assert!(!store.shorten_log().await.expect("told"), "somebody reads");
    store.commit(&events(5_001..=5_001, "x")).await.expect("the writer goes on");
    if cfg!(target_os = "linux") {
        let log = log(&folder.db());
        let [reader] = log.readers.as_slice() else { panic!("one reader, found {log:?}") };
        assert_eq!(reader.process, std::process::id());
        assert!(reader.holds_bytes > 100_000 && reader.holds_bytes <= log.bytes, "found {log:?}");
        // A look that closed the index would have taken the locks of this process away.
        assert_eq!(super::log(&folder.db()).readers.len(), 1);
    }
    reading.execute("ROLLBACK").await.expect("rolled back");
    assert!(store.shorten_log().await.expect("told"));
    assert!(log(&folder.db()).readers.is_empty());
}

/// By what it has really grown: a small commit writes several pages, which its content does not tell.
#[tokio::test]
async fn the_log_is_moved_by_what_it_has_grown_by() {
    let folder = Folder::new();
    let store = folder.store().await;
    let (storage, actor) = Storage::open(
        Box::new(store),
        StorageOptions::default(),
        Arc::new(Nobody),
        Arc::new(atra_bus::SystemEnv::new()),
    )
    .await
    .expect("opened");
    let work = async {
        let mut largest = 0;
        for n in 0..3_000 {
            // A key that is new each time: pages of the journal, of names, of facts and of two indexes.
            let new = crate::tests::new(&format!("memory.k{}", n * 7_919 % 100_003), "1", n);
            storage.publish(crate::tests::publish(vec![new])).await.expect("committed");
            largest = largest.max(storage.metrics().sizes.wal_bytes);
        }
        let checkpoints = storage.metrics().checkpoints;
        storage.stop().await.expect("stopped");
        eprintln!("log: {checkpoints} times moved, {largest} bytes at most");
        assert!(checkpoints >= 2, "moved {checkpoints} times");
        assert!(largest < 28 << 20, "{largest} bytes, which should be some 16 MiB and what is written in 20 ms");
    };
    futures::join!(actor.run(), work);
}

/// Begun anew although at every moment somebody reads: each reader is through at some time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_stays_bounded_under_constant_reading_and_writing() {
    let folder = Folder::new();
    let store = folder.store().await;
    let options = StorageOptions { wal_bytes_max: 1 << 20, ..StorageOptions::default() };
    let (storage, actor) =
        Storage::open(Box::new(store), options, Arc::new(Nobody), Arc::new(atra_bus::SystemEnv::new()))
            .await
            .expect("opened");
    let is_over = std::sync::atomic::AtomicBool::new(false);
    let is_over = &is_over;
    let load = std::sync::atomic::Ordering::Relaxed;
    let all = Interest::in_topics(vec![Filter::all()]);
    let readers = futures::future::join_all((0..3).map(|_| async {
        while !is_over.load(load) {
            let upto = storage.released();
            let after = Seq(upto.get().saturating_sub(2_000));
            storage.reader().journal(after, upto, &all, 2_000).await.expect("a page");
            tokio::task::yield_now().await;
        }
    }));
    let writer = async {
        let mut n = 0;
        // The first time under load, and again.
        while storage.metrics().checkpoints < 2 {
            let new = (0..100).map(|k| crate::tests::new("x", "1", n * 1_000 + k)).collect();
            storage.publish(crate::tests::publish(new)).await.expect("committed");
            n += 1;
        }
        is_over.store(true, load);
    };
    let work = async {
        let both = tokio::time::timeout(Duration::from_secs(60), async { futures::join!(readers, writer) });
        both.await.expect("begun anew twice within a minute");
        storage.stop().await.expect("stopped");
    };
    futures::join!(actor.run(), work);
}

// === the file ===

#[test]
fn who_holds_a_file_is_told() {
    let folder = Folder::new();
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    tokio.block_on(async {
        assert_eq!(owner(&folder.db()), None);
        let mut store = folder.store().await;
        assert_eq!(owner(&folder.db()).expect("held").process, Some(std::process::id()));
        store.close().await.expect("closed");
        assert_eq!(owner(&folder.db()), None);
    });
}

#[tokio::test]
async fn a_file_that_goes_away_is_fatal_and_what_came_between_is_named() {
    type Harm = fn(&std::path::Path);
    let harms: [(Harm, &str); 4] = [
        (|db| std::fs::remove_file(db).expect("removed"), "deleted or moved"),
        (|db| std::fs::rename(db, db.with_extension("old")).expect("moved"), "deleted or moved"),
        (
            |db| {
                std::fs::copy(db, db.with_extension("new")).expect("copied");
                std::fs::rename(db.with_extension("new"), db).expect("moved");
            },
            "replaced by another",
        ),
        (
            |db| {
                let mut rights = std::fs::metadata(db).expect("there").permissions();
                rights.set_readonly(true);
                std::fs::set_permissions(db, rights).expect("set");
            },
            "made read-only",
        ),
    ];
    for (harm, expected) in harms {
        let folder = Folder::new();
        let store = folder.store().await;
        let (storage, actor) = Storage::open(
            Box::new(store),
            StorageOptions::default(),
            Arc::new(Nobody),
            Arc::new(atra_bus::SystemEnv::new()),
        )
        .await
        .expect("opened");
        let work = async {
            let publish = |n| crate::tests::publish(vec![crate::tests::new("x", "1", n)]);
            storage.publish(publish(1)).await.expect("committed");
            harm(&folder.db());
            let noticed = tokio::time::timeout(Duration::from_secs(60), async {
                while storage.metrics().state != StorageState::Failed {
                    tokio::task::yield_now().await;
                }
            });
            noticed.await.expect("noticed");
            match storage.publish(publish(2)).await {
                Err(Rejected::Failed(StoreError::Fatal { cause, .. })) => {
                    assert!(cause.contains(expected) && cause.contains("since it was last seen"), "found {cause}");
                }
                other => panic!("{expected}: found {other:?}"),
            }
        };
        futures::join!(actor.run(), work);
    }
}

// === retention and bounds ===

#[tokio::test]
async fn the_journal_is_pruned_in_the_background_as_configured() {
    let folder = Folder::new();
    let store = folder.store().await;
    let options = StorageOptions {
        keep: Keep { events: Some(100), ..Keep::default() },
        retention_every: Duration::from_millis(1),
        ..StorageOptions::default()
    };
    let (storage, actor) =
        Storage::open(Box::new(store), options, Arc::new(Nobody), Arc::new(atra_bus::SystemEnv::new()))
            .await
            .expect("opened");
    let work = async {
        for n in 0..100_u64 {
            let new = (0..100).map(|k| crate::tests::new("x", "1", n * 1_000 + k)).collect();
            storage.publish(crate::tests::publish(new)).await.expect("committed");
        }
        while storage.metrics().floor < Seq(9_900) {
            tokio::task::yield_now().await;
        }
        storage.stop().await.expect("stopped");
    };
    tokio::time::timeout(Duration::from_secs(60), async { futures::join!(actor.run(), work) }).await.expect("pruned");
    let reader = SqliteReader::open_read_only(folder.db()).await.expect("opened");
    assert_eq!(
        (reader.floor().await.expect("a floor"), reader.last_seq().await.expect("a seq")),
        (Seq(9_900), Seq(10_000))
    );
    let rows = folder.raw().await.fetch_one("SELECT count(*) FROM journal").await.expect("counted");
    assert_eq!(rows.try_get::<i64, _>(0).expect("a number"), 100);
}

/// A check value stands for a whole batch: what begins the rest must be the end of one.
#[tokio::test]
async fn a_pruned_file_is_sound_wherever_it_was_cut() {
    for upto in [1, 7, 10, 11, 29, 30, 31, 64] {
        let folder = Folder::new();
        let mut store = folder.store().await;
        for end in (10..=60).step_by(10) {
            store.commit(&events(end - 9..=end, "x")).await.expect("committed");
        }
        let floor = store.prune(Seq(upto), 25).await.expect("pruned");
        assert!(floor <= Seq(upto.min(25)) && floor.get() % 10 == 0, "cut at {upto}: floor {floor}");
        store.close().await.expect("closed");
        let mut store = folder.store().await;
        store.commit(&events(61..=62, "y")).await.expect("committed");
        store.prune(Seq(upto), 25).await.expect("pruned");
        store.close().await.expect("closed");
        let report = super::check(folder.db()).await.expect("a report");
        assert!(report.is_sound(), "cut at {upto}: {report:?}");
        assert_eq!(report.last_seq, Seq(62));
    }
    // A batch that is larger than a piece goes as a whole; a file that is damaged below its floor is not found bad.
    let folder = Folder::new();
    let mut store = folder.store().await;
    store.commit(&events(1..=50, "x")).await.expect("committed");
    store.commit(&events(51..=52, "x")).await.expect("committed");
    assert_eq!(store.prune(Seq(51), 5).await.expect("pruned"), Seq(50));
    assert!(super::check(folder.db()).await.expect("a report").is_sound());
}

#[tokio::test]
async fn callers_are_refused_at_the_limit_while_a_paused_team_pins_the_journal() {
    let folder = Folder::new();
    let store = folder.store().await;
    let options = StorageOptions {
        db_bytes_max: Some(1 << 20),
        keep: Keep { events: Some(1), ..Keep::default() },
        retention_every: Duration::from_millis(1),
        ..StorageOptions::default()
    };
    let (storage, actor) =
        Storage::open(Box::new(store), options, Arc::new(Nobody), Arc::new(atra_bus::SystemEnv::new()))
            .await
            .expect("opened");
    let work = async {
        let team = crate::conformance::name("paused");
        let row = storage.raise_epoch(&team).await.expect("raised");
        let large = format!("\"{}\"", "x".repeat(10_000));
        let mut n = 0;
        let refused = loop {
            n += 1;
            assert!(n < 10_000, "never refused");
            match storage.publish(crate::tests::publish(vec![crate::tests::new("x", &large, n)])).await {
                Ok(_) => {}
                Err(refused) => break refused,
            }
        };
        assert!(refused.to_string().contains("team paused pins the journal at seq 0"), "found {refused}");
        assert!(refused.is_retryable() && storage.metrics().is_full);
        // The runtime's own events and steps go on: the team can come back and take what pins.
        storage.publish(crate::tests::publish(vec![crate::tests::new("sys.x", "1", 0)])).await.expect("not refused");
        let mut step = crate::tests::step("paused", row.epoch, 1, vec![]);
        step.cursor = storage.released();
        storage.submit(step).await.expect("queued").await.expect("committed");
        let again = async {
            loop {
                let publish = crate::tests::publish(vec![crate::tests::new("x", "1", n + 1)]);
                if storage.publish(publish).await.is_ok() {
                    return;
                }
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), again).await.expect("there is room again");
        storage.stop().await.expect("stopped");
    };
    futures::join!(actor.run(), work);
}
