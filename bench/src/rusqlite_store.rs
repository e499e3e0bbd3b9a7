//! The storage actor's store over rusqlite, and the raw inserts: what the same tables cost without sqlx.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, LazyLock},
    thread::JoinHandle,
};

use async_trait::async_trait;
use atra_bus::Committed;
use atra_storage::{Loaded, Read, SqliteReader, Store, StoreError, WriteBatch};
use rusqlite::{Connection, Statement};
use rustc_hash::FxHashMap;
use tokio::sync::{mpsc, oneshot};

/// Rows of one multi-row statement, as in the store that ships.
const SIZES: [usize; 6] = [256, 64, 16, 4, 2, 1];
const COLUMNS: &str = "seq, id, topic, version, source, time, cause, root, hops, cause_seq, seen, payload";

static INSERTS: LazyLock<[String; 6]> = LazyLock::new(|| {
    SIZES.map(|n| {
        let rows = vec!["(?,?,?,?,?,?,?,?,?,?,?,?)"; n].join(",");
        format!("INSERT INTO journal({COLUMNS}) VALUES {rows}")
    })
});

/// The statement for one row.
pub(crate) fn insert_one() -> &'static str {
    &INSERTS[SIZES.len() - 1]
}

/// Opens the file with the settings of the store that ships.
pub(crate) fn open(path: &Path) -> rusqlite::Result<Connection> {
    let db = Connection::open(path)?;
    for (name, value) in [
        ("journal_mode", "WAL"),
        ("synchronous", "NORMAL"),
        ("cache_size", "-64000"),
        ("temp_store", "MEMORY"),
        ("foreign_keys", "ON"),
        ("mmap_size", "0"),
        ("wal_autocheckpoint", "4096"),
        ("journal_size_limit", "67108864"),
        ("trusted_schema", "OFF"),
    ] {
        db.pragma_update(None, name, value)?;
    }
    db.set_prepared_statement_cache_capacity(256);
    Ok(db)
}

/// Binds one event's row from parameter `first` on.
pub(crate) fn bind(
    statement: &mut Statement<'_>,
    first: usize,
    row: &Committed,
    (topic, source): (i64, i64),
) -> rusqlite::Result<()> {
    let event = &row.event;
    let payload = event.payload.json().map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))?;
    statement.raw_bind_parameter(first, row.seq.get() as i64)?;
    statement.raw_bind_parameter(first + 1, event.id.as_bytes().as_slice())?;
    statement.raw_bind_parameter(first + 2, topic)?;
    statement.raw_bind_parameter(first + 3, i64::from(event.version))?;
    statement.raw_bind_parameter(first + 4, source)?;
    statement.raw_bind_parameter(first + 5, event.time.millis())?;
    statement.raw_bind_parameter(first + 6, event.cause.as_ref().map(|id| id.as_bytes().as_slice()))?;
    statement.raw_bind_parameter(first + 7, event.root.as_bytes().as_slice())?;
    statement.raw_bind_parameter(first + 8, i64::from(event.hops))?;
    statement.raw_bind_parameter(first + 9, row.cause_seq.map(|seq| seq.get() as i64))?;
    statement.raw_bind_parameter(first + 10, row.seen.map(|seq| seq.get() as i64))?;
    statement.raw_bind_parameter(first + 11, payload)
}

type Answer = oneshot::Sender<Result<(), StoreError>>;

/// A store over rusqlite on a thread of its own. It writes events only: that is what is measured.
pub(crate) struct RusqliteStore {
    reader: Arc<dyn Read>,
    jobs: Option<mpsc::Sender<(WriteBatch, Answer)>>,
    thread: Option<JoinHandle<()>>,
}

impl RusqliteStore {
    /// Opens a file that has atra's tables and nothing in them.
    pub(crate) async fn open(path: PathBuf) -> Result<Self, StoreError> {
        let reader = SqliteReader::open_read_only(&path).await?;
        let db = open(&path).map_err(|error| invalid(&error))?;
        // The actor has one batch under way at a time.
        let (jobs, mut queue) = mpsc::channel::<(WriteBatch, Answer)>(1);
        let thread = std::thread::spawn(move || {
            let mut names = FxHashMap::default();
            while let Some((batch, answer)) = queue.blocking_recv() {
                let written = write(&db, &batch, &mut names).map_err(|error| {
                    // What the first error was is told; there may be nothing to roll back.
                    let _ = db.execute_batch("ROLLBACK");
                    invalid(&error)
                });
                drop(batch);
                let _ = answer.send(written);
            }
        });
        Ok(Self { reader, jobs: Some(jobs), thread: Some(thread) })
    }
}

fn invalid(error: &rusqlite::Error) -> StoreError {
    StoreError::Invalid(error.to_string())
}

fn write(db: &Connection, batch: &WriteBatch, names: &mut FxHashMap<String, i64>) -> rusqlite::Result<()> {
    assert!(batch.facts.is_empty() && batch.teams.is_empty() && batch.blocks.is_empty(), "events only");
    db.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
    let mut rows = Vec::with_capacity(batch.events.len());
    for row in &batch.events {
        rows.push((row, (id(db, names, row.event.topic.as_str())?, id(db, names, row.event.source.as_str())?)));
    }
    let mut rows = rows.as_slice();
    for (size, sql) in SIZES.into_iter().zip(INSERTS.iter()) {
        while rows.len() >= size {
            let (these, rest) = rows.split_at(size);
            let mut statement = db.prepare_cached(sql)?;
            for (at, (row, names)) in these.iter().enumerate() {
                bind(&mut statement, at * 12 + 1, row, *names)?;
            }
            statement.raw_execute()?;
            rows = rest;
        }
    }
    db.prepare_cached("COMMIT")?.execute([])?;
    Ok(())
}

fn id(db: &Connection, names: &mut FxHashMap<String, i64>, text: &str) -> rusqlite::Result<i64> {
    if let Some(id) = names.get(text) {
        return Ok(*id);
    }
    let id = names.len() as i64 + 1;
    db.execute("INSERT INTO names(id, text) VALUES (?, ?)", (id, text))?;
    names.insert(text.into(), id);
    Ok(id)
}

#[async_trait]
impl Store for RusqliteStore {
    async fn load(&mut self) -> Result<Loaded, StoreError> {
        Ok(Loaded::default())
    }

    async fn commit(&mut self, batch: &WriteBatch) -> Result<(), StoreError> {
        let (answer, answered) = oneshot::channel();
        let gone = || StoreError::Unknown("the store's thread is gone".into());
        let jobs = self.jobs.as_ref().ok_or_else(gone)?;
        jobs.send((batch.clone(), answer)).await.map_err(|_| gone())?;
        answered.await.unwrap_or_else(|_| Err(gone()))
    }

    async fn checkpoint(&mut self) -> Result<(), StoreError> {
        Ok(())
    }

    async fn close(&mut self) -> Result<(), StoreError> {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            assert!(thread.join().is_ok(), "the store's thread does not panic");
        }
        Ok(())
    }

    fn reader(&self) -> Arc<dyn Read> {
        self.reader.clone()
    }
}
