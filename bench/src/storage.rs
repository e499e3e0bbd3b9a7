//! Acknowledged appends: the storage actor, and what a user would write instead.
//!
//! Every turn begins with an empty file with atra's tables and settings. All write the same rows, whose
//! payloads were encoded before. "one transaction" is the machine's speed and acknowledges nothing before
//! its end; the others acknowledge every event when it is committed.

use std::{
    cell::Cell,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use atra_bus::{Batch, Committed, Event, EventId, Name, Payload, Seq, Timestamp, Topic};
use atra_storage::{
    Ancestor, Level, NewEvent, Publish, Release, SqliteOptions, SqliteStore, Storage, StorageOptions, Store,
};
use serde_json::json;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use tempfile::TempDir;

use crate::{
    measure::{Contender, Scale, medians, on_worker, per_second, runtime},
    report::{Case, Reporter, Unit},
    rusqlite_store::{RusqliteStore, bind, insert_one, open},
};

/// Callers with an append on its way each.
const PRODUCERS: usize = 512;
/// Writers of the plain pool.
const POOL_WRITERS: usize = 8;
/// The plain pool is so much slower that it gets one event in so many.
const POOL_SHARE: usize = 50;
/// Appends that wait for each other are so much slower that they get one event in so many.
const ALONE_SHARE: usize = 40;

/// Measures everything about the storage actor.
pub(crate) fn run(scale: Scale, reporter: &mut Reporter) {
    let runtime = runtime();
    let events: Arc<[Arc<Event>]> = events(scale.events / 2).into();
    let files = Files::new(&runtime);
    many_producers(scale, reporter, &runtime, &files, &events);
    let n_alone = events.len() / ALONE_SHARE;
    one_producer(scale, reporter, &runtime, &files, &events[..n_alone].into());
}

type Events = Arc<[Arc<Event>]>;

fn many_producers(
    scale: Scale,
    reporter: &mut Reporter,
    runtime: &tokio::runtime::Runtime,
    files: &Files,
    events: &Events,
) {
    let (failed, failed_pool) = (Cell::new(0.0), Cell::new(0.0));
    let mut contenders = [
        Contender::new("appends acknowledged, 512 producers", || {
            let file = files.fresh();
            let (value, share) = runtime.block_on(on_worker(atra(file.path(), events.clone(), PRODUCERS)));
            failed.set(share);
            value
        }),
        Contender::new("rusqlite 0.39, one transaction", || raw(&files.fresh().path(), events)),
        Contender::new("the same actor over rusqlite 0.39", || {
            let file = files.fresh();
            runtime.block_on(on_worker(actor_over_rusqlite(file.path(), events.clone(), PRODUCERS)))
        }),
        Contender::new("sqlx pool, 8 deferred writers", || {
            let (file, events) = (files.fresh(), events[..events.len() / POOL_SHARE].into());
            let (value, share) = runtime.block_on(on_worker(pool(file.path(), events)));
            failed_pool.set(share);
            value
        }),
    ];
    let values = medians(scale.turns, &mut contenders);
    let names: Vec<&str> = contenders.iter().map(|contender| contender.name).collect();
    for (reference, value) in names.iter().zip(&values).skip(1) {
        let case = Case { bench: "storage", name: names[0], unit: Unit::EventsPerSecond };
        reporter.print(&case.report(values[0], reference, *value));
    }
    let case = Case { bench: "storage", name: names[0], unit: Unit::ShareFailed };
    reporter.print(&case.report(failed.get(), names[3], failed_pool.get()));
}

fn one_producer(
    scale: Scale,
    reporter: &mut Reporter,
    runtime: &tokio::runtime::Runtime,
    files: &Files,
    events: &Events,
) {
    let mut contenders = [
        Contender::new("appends acknowledged, one after the other", || {
            let file = files.fresh();
            runtime.block_on(on_worker(atra(file.path(), events.clone(), 1))).0
        }),
        Contender::new("rusqlite 0.39, a transaction each", || autocommit(&files.fresh().path(), events)),
        Contender::new("the same actor over rusqlite 0.39", || {
            let file = files.fresh();
            runtime.block_on(on_worker(actor_over_rusqlite(file.path(), events.clone(), 1)))
        }),
    ];
    let values = medians(scale.turns, &mut contenders);
    for (reference, value) in contenders.iter().zip(&values).skip(1) {
        let case = Case { bench: "storage", name: contenders[0].name, unit: Unit::EventsPerSecond };
        reporter.print(&case.report(values[0], reference.name, *value));
    }
}

// === contenders ===

/// Appends per second through the storage actor on the store that ships, and the share that failed.
async fn atra(path: PathBuf, events: Events, producers: usize) -> (f64, f64) {
    let store = SqliteStore::open(SqliteOptions::new(path)).await.expect("a fresh file");
    appends(Box::new(store), events, producers).await
}

async fn actor_over_rusqlite(path: PathBuf, events: Events, producers: usize) -> f64 {
    let store = RusqliteStore::open(path).await.expect("a fresh file");
    appends(Box::new(store), events, producers).await.0
}

async fn appends(store: Box<dyn Store>, events: Events, producers: usize) -> (f64, f64) {
    let opened = Storage::open(store, StorageOptions::default(), Arc::new(Nobody)).await;
    let (storage, actor) = opened.expect("a fresh file");
    // As the coordinator runs it: on a thread of its own.
    let thread = std::thread::spawn(move || {
        let tokio = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        tokio.block_on(actor.run());
    });
    let start = Instant::now();
    let tasks: Vec<_> = (0..producers)
        .map(|producer| {
            let (storage, events) = (storage.clone(), events.clone());
            tokio::spawn(async move {
                let mut n_failed = 0;
                for event in events.iter().skip(producer).step_by(producers) {
                    n_failed += usize::from(storage.publish(publish(event)).await.is_err());
                }
                n_failed
            })
        })
        .collect();
    let mut n_failed = 0;
    for task in tasks {
        n_failed += task.await.expect("a producer does not panic");
    }
    let value = per_second(events.len() - n_failed, start);
    assert_eq!(storage.released(), Seq((events.len() - n_failed) as u64));
    storage.stop().await.expect("stopped");
    thread.join().expect("the actor does not panic");
    (value, n_failed as f64 / events.len() as f64)
}

fn publish(event: &Arc<Event>) -> Publish {
    let event = NewEvent { event: event.clone(), ancestor: Ancestor::None, seen: None };
    Publish { events: vec![event], key: None, expect: None, facts: Vec::new(), level: Level::Process }
}

struct Nobody;

impl Release for Nobody {
    fn release(&self, _: &Arc<Batch>) {}
}

/// Prepared single-row inserts in one transaction.
fn raw(path: &Path, events: &Events) -> f64 {
    let db = open(path).expect("a fresh file");
    let start = Instant::now();
    db.execute_batch("BEGIN IMMEDIATE").expect("begun");
    insert_each(&db, events);
    db.execute_batch("COMMIT").expect("committed");
    per_second(events.len(), start)
}

/// Prepared single-row inserts, each committed before the next.
fn autocommit(path: &Path, events: &Events) -> f64 {
    let db = open(path).expect("a fresh file");
    let start = Instant::now();
    insert_each(&db, events);
    per_second(events.len(), start)
}

fn insert_each(db: &rusqlite::Connection, events: &Events) {
    let mut statement = db.prepare(insert_one()).expect("the table is there");
    for (seq, event) in (1..).zip(events.iter()) {
        let row = Committed { seq: Seq(seq), event: event.clone(), cause_seq: None, seen: None };
        bind(&mut statement, 1, &row, (1, 2)).expect("bound");
        statement.raw_execute().expect("inserted");
    }
}

/// What is often written: a pool, and transactions that read before they write. Nothing is tried again.
/// Appends per second of those that succeeded, and the share that failed.
async fn pool(path: PathBuf, events: Events) -> (f64, f64) {
    let options = SqliteConnectOptions::new()
        .filename(path)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Normal)
        .busy_timeout(Duration::from_secs(30));
    let pool = SqlitePoolOptions::new().max_connections(POOL_WRITERS as u32).connect_with(options).await;
    let pool = pool.expect("a fresh file");
    let start = Instant::now();
    let writers: Vec<_> = (0..POOL_WRITERS)
        .map(|writer| {
            let (pool, events) = (pool.clone(), events.clone());
            tokio::spawn(async move {
                let mut n_failed = 0;
                for event in events.iter().skip(writer).step_by(POOL_WRITERS) {
                    n_failed += usize::from(append(&pool, event).await.is_err());
                }
                n_failed
            })
        })
        .collect();
    let mut n_failed = 0;
    for writer in writers {
        n_failed += writer.await.expect("a writer does not panic");
    }
    let value = per_second(events.len() - n_failed, start);
    pool.close().await;
    (value, n_failed as f64 / events.len() as f64)
}

async fn append(pool: &sqlx::SqlitePool, event: &Event) -> Result<(), sqlx::Error> {
    let payload = event.payload.json().expect("encoded before");
    let mut transaction = pool.begin().await?;
    let last: i64 =
        sqlx::query_scalar("SELECT coalesce(max(seq), 0) FROM journal").fetch_one(&mut *transaction).await?;
    sqlx::query(insert_one())
        .bind(last + 1)
        .bind(event.id.as_bytes().as_slice())
        .bind(1_i64)
        .bind(i64::from(event.version))
        .bind(2_i64)
        .bind(event.time.millis())
        .bind(None::<&[u8]>)
        .bind(event.root.as_bytes().as_slice())
        .bind(i64::from(event.hops))
        .bind(None::<i64>)
        .bind(None::<i64>)
        .bind(payload)
        .execute(&mut *transaction)
        .await?;
    transaction.commit().await
}

// === fixtures ===

/// Empty files with atra's tables.
struct Files(TempDir);

/// A file in a folder that goes with it.
struct Fresh(TempDir);

impl Fresh {
    fn path(&self) -> PathBuf {
        db(self.0.path())
    }
}

fn db(folder: &Path) -> PathBuf {
    folder.join("bench.db")
}

impl Files {
    fn new(runtime: &tokio::runtime::Runtime) -> Self {
        let folder = TempDir::new().expect("a temporary folder");
        let path = db(folder.path());
        runtime.block_on(async {
            let mut store = SqliteStore::open(SqliteOptions::new(path)).await.expect("created");
            store.close().await.expect("closed");
        });
        Self(folder)
    }

    fn fresh(&self) -> Fresh {
        let folder = TempDir::new().expect("a temporary folder");
        std::fs::copy(db(self.0.path()), db(folder.path())).expect("copied");
        Fresh(folder)
    }
}

/// `n` candles as events, their payloads encoded.
fn events(n: usize) -> Vec<Arc<Event>> {
    let (topic, source) = (Topic::literal("market.candle"), Name::new("feed").expect("a name of letters"));
    let event = |at: i64| {
        let time = 1_640_995_200_000 + at * 900_000;
        let id = EventId::of(&source, &at.to_string());
        let value = json!({
            "series": "DOTUSDT.15m", "time": time, "ohlcv": [26650 + at % 97, 26885, 26643, 26806, 2_233_575 + at],
            "scale": [3, 1],
        });
        let payload = Payload::typed(value);
        payload.json().expect("it has a JSON form");
        Arc::new(Event {
            id,
            topic: topic.clone(),
            version: 1,
            durable: true,
            source: source.clone(),
            time: Timestamp(time),
            cause: None,
            root: id,
            hops: 0,
            payload,
        })
    };
    (0..n as i64).map(event).collect()
}
