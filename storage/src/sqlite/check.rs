//! Questions about a whole file: is it sound, and what is in it.

use std::path::Path;

use atra_bus::Seq;
use serde::Serialize;
use sqlx::{Connection as _, Executor as _, Row as _, SqliteConnection};

use super::{
    SCHEMA_VERSION,
    connection::{pragma, sqlite_version, used_bytes},
    files::{Log, Owner, log, owner, size_of},
    queries::{CHECK_CAUSES, CHECK_MEMORY, CHECK_ORPHANS, CHECK_SEQS, COUNT_ROWS},
    read::SqliteReader,
};
use crate::{Read as _, StoreError, TeamRow};

/// What a check of a file found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct CheckReport {
    /// The last seq of the journal.
    pub last_seq: Seq,
    /// How many events were looked at.
    pub events: u64,
    /// What is wrong, a sentence each; at most 100 of SQLite's own.
    pub problems: Vec<String>,
}

impl CheckReport {
    /// Whether nothing is wrong.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.problems.is_empty()
    }
}

/// What is in a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Info {
    /// Size of the database file.
    pub file_bytes: u64,
    /// Size of the write-ahead log; 0 when there is none.
    pub wal_bytes: u64,
    /// Version of the tables in the file.
    pub schema_version: u32,
    /// Newest version that this build knows.
    pub schema_version_known: u32,
    /// Version of SQLite in this build.
    pub sqlite_version: String,
    /// Rows per table.
    pub rows: Vec<(String, u64)>,
    /// Bytes of the file that hold something; the rest is used again before the file grows.
    pub used_bytes: u64,
    /// The write-ahead log, and who reads from it.
    pub log: Log,
    /// Who has the file for writing.
    pub owner: Option<Owner>,
    /// The last seq that was pruned.
    pub floor: Seq,
    /// Every team's row, sorted by name. Nothing behind the smallest cursor can be pruned.
    pub teams: Vec<TeamRow>,
    /// The last seq of the journal.
    pub last_seq: Seq,
}

/// Checks a file: its pages, the journal's order, causes, and memory against the journal. Reads every page.
///
/// # Cancel safety
/// Reads only.
///
/// # Errors
/// As [`SqliteReader::open_read_only`]. What is wrong inside the file is in the report, not an error.
pub async fn check(path: impl AsRef<Path>) -> Result<CheckReport, StoreError> {
    let reader = SqliteReader::open_concrete(path.as_ref()).await?;
    let report = check_on(&reader).await;
    reader.close().await;
    report.map_err(|error| reader.class(&error))
}

async fn check_on(reader: &SqliteReader) -> Result<CheckReport, sqlx::Error> {
    // One transaction: a runtime may be writing.
    let mut db = reader.acquire().await?;
    let mut db = db.begin().await?;
    let mut problems = Vec::new();
    for row in db.fetch_all("PRAGMA quick_check").await? {
        let text: String = row.try_get(0)?;
        if text != "ok" {
            problems.push(text);
        }
    }
    let row = db.fetch_one(CHECK_SEQS).await?;
    let (n, first, last): (i64, i64, i64) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
    if first != 1 || n != last {
        problems.push(format!("journal has {n} events of seqs {first} to {last}: seqs must be 1, 2, 3 without gaps"));
    }
    for (sql, what) in [
        (CHECK_CAUSES, "events have a cause that does not come before them"),
        (CHECK_MEMORY, "memory keys disagree with their newest write in the journal"),
        (CHECK_ORPHANS, "memory keys have no write in the journal"),
    ] {
        let found = count(&mut db, sql).await?;
        if found > 0 {
            problems.push(format!("{found} {what}"));
        }
    }
    db.rollback().await?;
    Ok(CheckReport { last_seq: Seq(last as u64), events: n as u64, problems })
}

async fn count(db: &mut SqliteConnection, sql: &'static str) -> Result<u64, sqlx::Error> {
    Ok(db.fetch_one(sql).await?.try_get::<i64, _>(0)? as u64)
}

/// Says what is in a file.
///
/// # Cancel safety
/// Reads only.
///
/// # Errors
/// As [`SqliteReader::open_read_only`].
pub async fn info(path: impl AsRef<Path>) -> Result<Info, StoreError> {
    let path = path.as_ref();
    let reader = SqliteReader::open_concrete(path).await?;
    let info = info_on(path, &reader).await;
    reader.close().await;
    info
}

async fn info_on(path: &Path, reader: &SqliteReader) -> Result<Info, StoreError> {
    let mut rows = Vec::new();
    let (log, owner) = (log(path), owner(path));
    let (schema_version, sqlite_version, used_bytes) = {
        let mut db = reader.acquire().await.map_err(|error| reader.class(&error))?;
        for (table, sql) in COUNT_ROWS {
            rows.push((table.to_owned(), count(&mut db, sql).await.map_err(|error| reader.class(&error))?));
        }
        let version = pragma(&mut db, path, "user_version").await?;
        (version.parse().unwrap_or(0), sqlite_version(&mut db, path).await?, used_bytes(&mut db, path).await?)
    };
    Ok(Info {
        file_bytes: size_of(path, ""),
        wal_bytes: log.bytes,
        used_bytes,
        log,
        owner,
        floor: reader.floor().await?,
        schema_version,
        schema_version_known: SCHEMA_VERSION,
        sqlite_version,
        rows,
        teams: reader.teams().await?,
        last_seq: reader.last_seq().await?,
    })
}
