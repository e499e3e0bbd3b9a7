//! Acknowledged appends per second.

use std::{
    cell::Cell,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use atra_bus::{Committed, Event, Seq, Timestamp};
use atra_storage::{CommitTime, Level, check_value};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};

use super::{Actor, Bench, Events, PRODUCERS, publish};
use crate::{
    measure::{Awake, Contender, named_medians, on_worker, per_second},
    report::{Case, Unit},
    rusqlite_store::{bind, insert_one, open},
};

/// Writers of the plain pool.
const POOL_WRITERS: usize = 8;
/// The plain pool is so much slower that it gets one event in so many.
const POOL_SHARE: usize = 50;
/// Events of a larger step.
const EVENTS_PER_STEP: usize = 16;

/// How appends are made.
#[derive(Clone, Copy)]
struct Load {
    producers: usize,
    events_per_publish: usize,
    level: Level,
}

const MANY: Load = Load { producers: PRODUCERS, events_per_publish: 1, level: Level::Process };

impl Bench<'_> {
    /// 512 callers, one event each on its way.
    pub(super) fn many_producers(&mut self, events: &Events) {
        let (failed, failed_pool) = (Cell::new(0.0), Cell::new(0.0));
        let Self { files, tokio, .. } = self;
        let contenders = vec![
            Contender::new("appends acknowledged, 512 producers", || {
                let file = files.fresh();
                let (value, share) = tokio.block_on(on_worker(on_sqlite(file.path(), events.clone(), MANY)));
                failed.set(share);
                value
            }),
            Contender::new("rusqlite 0.39, one transaction", || raw(&files.fresh().path(), events, Level::Process)),
            Contender::new("the same actor over rusqlite 0.39", || {
                let file = files.fresh();
                tokio.block_on(on_worker(on_rusqlite(file.path(), events.clone(), MANY)))
            }),
            Contender::new("sqlx pool, 8 deferred writers", || {
                let (file, events) = (files.fresh(), events[..events.len() / POOL_SHARE].into());
                let (value, share) = tokio.block_on(on_worker(pool(file.path(), events)));
                failed_pool.set(share);
                value
            }),
            Contender::new("check values of the same batches, alone", || check_values(events)),
        ];
        let (names, values) = named_medians(self.scale.turns, contenders);
        self.say(&names, &values);
        let case = Case { bench: "storage", name: names[0], unit: Unit::ShareFailed };
        self.reporter.print(&case.report(failed.get(), names[3], failed_pool.get()));
    }

    /// As many events on their way, 16 to a step.
    pub(super) fn steps_of_sixteen(&mut self, events: &Events) {
        let load = Load { events_per_publish: EVENTS_PER_STEP, ..MANY };
        let Self { files, tokio, .. } = self;
        let contenders = vec![
            Contender::new("appends acknowledged, 16 events a step", || {
                let file = files.fresh();
                tokio.block_on(on_worker(on_sqlite(file.path(), events.clone(), load))).0
            }),
            Contender::new("rusqlite 0.39, one transaction", || raw(&files.fresh().path(), events, Level::Process)),
            Contender::new("the same actor over rusqlite 0.39", || {
                let file = files.fresh();
                tokio.block_on(on_worker(on_rusqlite(file.path(), events.clone(), load)))
            }),
        ];
        let (names, values) = named_medians(self.scale.turns, contenders);
        self.say(&names, &values);
    }

    /// 512 callers whose events must survive a power cut.
    pub(super) fn power(&mut self, events: &Events) {
        let load = Load { level: Level::Power, ..MANY };
        let Self { files, tokio, .. } = self;
        let contenders = vec![
            Contender::new("appends acknowledged at level power, 512", || {
                let file = files.fresh();
                tokio.block_on(on_worker(on_sqlite(file.path(), events.clone(), load))).0
            }),
            Contender::new("rusqlite 0.39, one transaction, FULL", || raw(&files.fresh().path(), events, Level::Power)),
        ];
        let (names, values) = named_medians(self.scale.turns, contenders);
        self.say(&names, &values);
    }

    /// One caller who waits for each acknowledgement: with processors that fall asleep meanwhile, and with such as
    /// something else keeps awake.
    pub(super) fn one_producer(&mut self, events: &Events) {
        self.alone(
            events,
            [
                "appends acknowledged, one after the other",
                "rusqlite 0.39, a transaction each",
                "the same actor over rusqlite 0.39",
            ],
        );
        let _awake = Awake::start();
        self.alone(
            events,
            [
                "appends acknowledged, one after the other, awake",
                "rusqlite 0.39, a transaction each, awake",
                "the same actor over rusqlite 0.39, awake",
            ],
        );
    }

    fn alone(&mut self, events: &Events, [ours, raw, actor]: [&'static str; 3]) {
        let load = Load { producers: 1, ..MANY };
        let Self { files, tokio, .. } = self;
        let contenders = vec![
            Contender::new(ours, || {
                let file = files.fresh();
                tokio.block_on(on_worker(on_sqlite(file.path(), events.clone(), load))).0
            }),
            Contender::new(raw, || autocommit(&files.fresh().path(), events)),
            Contender::new(actor, || {
                let file = files.fresh();
                tokio.block_on(on_worker(on_rusqlite(file.path(), events.clone(), load)))
            }),
        ];
        let (names, values) = named_medians(self.scale.turns, contenders);
        self.say(&names, &values);
    }

    /// Prints the first contender against each of the others.
    pub(super) fn say(&mut self, names: &[&str], values: &[f64]) {
        for (reference, value) in names.iter().zip(values).skip(1) {
            let case = Case { bench: "storage", name: names[0], unit: Unit::EventsPerSecond };
            self.reporter.print(&case.report(values[0], reference, *value));
        }
    }
}

/// Appends per second through the storage actor on the store that ships, and the share that failed.
async fn on_sqlite(path: PathBuf, events: Events, load: Load) -> (f64, f64) {
    appends(Actor::on_sqlite(path).await, events, load).await
}

async fn on_rusqlite(path: PathBuf, events: Events, load: Load) -> f64 {
    appends(Actor::on_rusqlite(path).await, events, load).await.0
}

async fn appends(actor: Actor, events: Events, load: Load) -> (f64, f64) {
    let start = Instant::now();
    let tasks: Vec<_> = (0..load.producers)
        .map(|producer| {
            let (storage, events) = (actor.storage.clone(), events.clone());
            tokio::spawn(async move {
                let mut n_failed = 0;
                for step in events.chunks(load.events_per_publish).skip(producer).step_by(load.producers) {
                    if storage.publish(publish(step, load.level)).await.is_err() {
                        n_failed += step.len();
                    }
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
    assert_eq!(actor.storage.released(), Seq((events.len() - n_failed) as u64));
    actor.stop().await;
    (value, n_failed as f64 / events.len() as f64)
}

/// Prepared single-row inserts in one transaction.
fn raw(path: &Path, events: &Events, level: Level) -> f64 {
    let db = open(path).expect("a fresh file");
    if level == Level::Power {
        db.pragma_update(None, "synchronous", "FULL").expect("set");
    }
    let start = Instant::now();
    db.execute_batch("BEGIN IMMEDIATE").expect("begun");
    insert_from(&db, 1, events);
    db.execute_batch("COMMIT").expect("committed");
    per_second(events.len(), start)
}

const AT: CommitTime = CommitTime { wall: Timestamp(1), clock: Timestamp(1) };

/// What the chain of check values costs by itself, in batches of as many as are on their way.
fn check_values(events: &Events) -> f64 {
    let rows = (1..).zip(events.iter()).map(|(seq, event)| {
        // What a publish encodes before it is queued is not of the chain.
        event.payload.json().expect("of JSON");
        Committed { seq: Seq(seq), event: event.clone(), cause_seq: None, seen: None }
    });
    let rows: Vec<Committed> = rows.collect();
    let start = Instant::now();
    let last = rows.chunks(PRODUCERS).fold([0; 16], |before, rows| check_value(before, rows, Some(AT)));
    let rate = per_second(rows.len(), start);
    assert_ne!(last, [0; 16], "computed");
    rate
}

/// Prepared single-row inserts, each committed before the next.
fn autocommit(path: &Path, events: &Events) -> f64 {
    let db = open(path).expect("a fresh file");
    let start = Instant::now();
    insert_from(&db, 1, events);
    per_second(events.len(), start)
}

/// Prepared single-row inserts, `n` of them committed at a time.
pub(super) fn batches(path: &Path, events: &Events, n: usize) -> f64 {
    let db = open(path).expect("a fresh file");
    let start = Instant::now();
    for (at, batch) in events.chunks(n).enumerate() {
        db.execute_batch("BEGIN IMMEDIATE").expect("begun");
        insert_from(&db, (at * n) as u64 + 1, batch);
        db.execute_batch("COMMIT").expect("committed");
    }
    per_second(events.len(), start)
}

fn insert_from(db: &rusqlite::Connection, first: u64, events: &[Arc<Event>]) {
    let mut statement = db.prepare_cached(insert_one()).expect("the table is there");
    for (seq, event) in (first..).zip(events) {
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
