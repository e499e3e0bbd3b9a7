//! Opening: who may, on which file, with which settings; all of it checked before anything is written.

use std::{fs::File, path::Path, time::Duration};

use sqlx::{
    AssertSqlSafe, ConnectOptions as _, Connection as _, Executor as _, Row as _, SqliteConnection,
    sqlite::SqliteConnectOptions,
};

use super::{
    error::{classify, classify_opening, fatal},
    paths::folder_of,
    room::refuse_without_room,
    schema::{APPLICATION_ID, CHECK_VALUES_FROM, MIGRATIONS, SCHEMA_VERSION},
    sums,
};
use crate::{Level, StoreError};

/// Older ones can lose committed WAL transactions when a checkpoint races a commit.
const SQLITE_VERSION_MIN: (u32, u32, u32) = (3, 51, 3);

/// Distinct statement texts that stay prepared. Multi-row inserts of a few tables and sizes, and the joined
/// texts of small transactions.
const STATEMENTS_MAX: usize = 256;

/// How long readers, and everybody at the start, wait for a lock.
pub(super) const BUSY_TIMEOUT: Duration = Duration::from_secs(30);

/// Rows that a reading connection's thread may be ahead of us. 64: with payloads at their limit 64 MiB, and a whole journal
/// is read as fast as with 1,024.
const ROWS_AHEAD: usize = 64;

/// Settings of the writing connection, in this order, each read back. In KiB: a cache of 64 MB. The log is
/// moved into the file by the storage actor, since SQLite tells nobody when its own try fails, and cut to 64 MiB at most
/// afterwards.
const WRITER_PRAGMAS: [(&str, &str, &str); 8] = [
    ("journal_mode", "WAL", "wal"),
    ("cache_size", "-64000", "-64000"),
    ("temp_store", "MEMORY", "2"),
    ("foreign_keys", "ON", "1"),
    ("mmap_size", "0", "0"),
    ("wal_autocheckpoint", "0", "0"),
    ("journal_size_limit", "67108864", "67108864"),
    ("trusted_schema", "OFF", "0"),
];

pub(super) fn base_options(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .busy_timeout(BUSY_TIMEOUT)
        .statement_cache_capacity(STATEMENTS_MAX)
        .row_buffer_size(ROWS_AHEAD)
        .disable_statement_logging()
}

/// Opens the writing connection: checks whose file it is, settles its settings, brings its tables up to date.
pub(super) async fn open_writer(path: &Path, create: bool) -> Result<SqliteConnection, StoreError> {
    let is_there = path.exists();
    if !is_there && !create {
        return Err(fatal(path, "it does not exist; create it by starting a runtime on it"));
    }
    let of = |error: sqlx::Error| classify_opening(path, &error);
    refuse_without_room(path)?;
    let mut db = base_options(path).create_if_missing(create).connect().await.map_err(of)?;
    check_sqlite_version(&mut db, path).await?;
    let version = identify(&mut db, path).await?;
    for (name, value, expected) in WRITER_PRAGMAS {
        set_pragma(&mut db, path, name, value, expected).await?;
    }
    set_level(&mut db, path, Level::Process).await?;
    migrate(&mut db, path, version).await?;
    // The log and its index are opened by the first read, at the latest by this one.
    pragma(&mut db, path, "user_version").await?;
    // The names of new files, and that the journal of their making is gone: it would undo it.
    sync_folder(path)?;
    // From here on the storage actor retries, visibly.
    set_pragma(&mut db, path, "busy_timeout", "0", "0").await?;
    Ok(db)
}

/// `synchronous` as the level needs it. Outside any transaction.
pub(super) async fn set_level(db: &mut SqliteConnection, path: &Path, level: Level) -> Result<(), StoreError> {
    match level {
        Level::Process => set_pragma(db, path, "synchronous", "NORMAL", "1").await,
        Level::Power => set_pragma(db, path, "synchronous", "FULL", "2").await,
    }
}

async fn set_pragma(
    db: &mut SqliteConnection,
    path: &Path,
    name: &str,
    value: &str,
    expected: &str,
) -> Result<(), StoreError> {
    let of = |error: sqlx::Error| classify_opening(path, &error);
    db.execute(AssertSqlSafe(format!("PRAGMA {name} = {value}"))).await.map_err(of)?;
    let found = pragma(db, path, name).await?;
    if found != expected {
        return Err(fatal(path, format!("setting {name} is {found} and could not be made {expected}")));
    }
    Ok(())
}

/// A setting as text.
pub(super) async fn pragma(db: &mut SqliteConnection, path: &Path, name: &str) -> Result<String, StoreError> {
    let of = |error: sqlx::Error| classify(path, &error);
    let sql = AssertSqlSafe(format!("PRAGMA {name}"));
    let row = sqlx::query(sql).persistent(false).fetch_optional(db).await.map_err(of)?;
    let Some(row) = row else { return Ok(String::new()) };
    // Unchecked: some settings are numbers, some are texts, and SQLite gives either as text.
    row.try_get_unchecked::<String, _>(0).map_err(of)
}

/// Bytes of a database that hold something.
pub(super) async fn used_bytes(db: &mut SqliteConnection, path: &Path) -> Result<u64, StoreError> {
    let mut values = [0_u64; 3];
    for (place, name) in values.iter_mut().zip(["page_count", "freelist_count", "page_size"]) {
        *place = pragma(db, path, name).await?.parse().unwrap_or(0);
    }
    Ok(values[0].saturating_sub(values[1]) * values[2])
}

pub(super) async fn sqlite_version(db: &mut SqliteConnection, path: &Path) -> Result<String, StoreError> {
    let of = |error: sqlx::Error| classify(path, &error);
    let row = db.fetch_one("SELECT sqlite_version()").await.map_err(of)?;
    row.try_get(0).map_err(of)
}

async fn check_sqlite_version(db: &mut SqliteConnection, path: &Path) -> Result<(), StoreError> {
    let text = sqlite_version(db, path).await?;
    let mut parts = text.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    let mut next = || parts.next().unwrap_or(0);
    let version = (next(), next(), next());
    if version < SQLITE_VERSION_MIN {
        let (a, b, c) = SQLITE_VERSION_MIN;
        return Err(fatal(path, format!("SQLite {text} is older than {a}.{b}.{c}; build atra with its own SQLite")));
    }
    Ok(())
}

/// The schema version of the file, 0 for an empty one; an error when it is somebody else's.
pub(super) async fn identify(db: &mut SqliteConnection, path: &Path) -> Result<u32, StoreError> {
    let of = |error: sqlx::Error| classify_opening(path, &error);
    let row = db.fetch_one("SELECT count(*) FROM sqlite_schema").await.map_err(of)?;
    let n_tables: i64 = row.try_get(0).map_err(of)?;
    let id = pragma(db, path, "application_id").await?;
    let version = pragma(db, path, "user_version").await?;
    let version = version.parse::<u32>().unwrap_or(u32::MAX);
    if id != APPLICATION_ID.to_string() && (id != "0" || version != 0 || n_tables != 0) {
        return Err(fatal(path, "it is not an atra database: use another --db"));
    }
    if version > SCHEMA_VERSION {
        let path = path.display().to_string();
        return Err(StoreError::Newer { path, found: version, known: SCHEMA_VERSION });
    }
    Ok(version)
}

async fn migrate(db: &mut SqliteConnection, path: &Path, from: u32) -> Result<(), StoreError> {
    let of = |error: sqlx::Error| classify_opening(path, &error);
    for version in from..SCHEMA_VERSION {
        if let Err(error) = migrate_from(db, version).await {
            // The first error is the one to tell; without a transaction there is nothing to roll back.
            let _ = db.execute("ROLLBACK").await;
            return Err(of(error));
        }
    }
    Ok(())
}

/// Brings the tables to the next version, in one transaction.
async fn migrate_from(db: &mut SqliteConnection, version: u32) -> Result<(), sqlx::Error> {
    let change = MIGRATIONS[version as usize];
    sqlx::raw_sql(AssertSqlSafe(format!("BEGIN IMMEDIATE; {change}"))).execute(&mut *db).await?;
    if version + 1 == CHECK_VALUES_FROM {
        sums::fill(db).await?;
    }
    let end = format!("PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {}; COMMIT;", version + 1);
    sqlx::raw_sql(AssertSqlSafe(end)).execute(&mut *db).await?;
    Ok(())
}

/// What a read-only connection is opened with.
pub(super) fn reader_options(path: &Path, mode: ReadMode) -> SqliteConnectOptions {
    let mut options = base_options(path).read_only(true).pragma("query_only", "ON").pragma("temp_store", "MEMORY");
    options = match mode {
        ReadMode::Runtime => options.pragma("cache_size", "-8000").pragma("mmap_size", "0"),
        ReadMode::CommandLine | ReadMode::Immutable => {
            options.pragma("cache_size", "-8000").pragma("mmap_size", "268435456")
        }
    };
    options.immutable(matches!(mode, ReadMode::Immutable))
}

/// How a file is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ReadMode {
    /// Beside the writer in this process: no memory map, where an I/O error would be a signal.
    Runtime,
    /// By a read-only command.
    CommandLine,
    /// In a folder that cannot be written, where nothing is left in a log: without any locks.
    Immutable,
}

/// Closes for good; what is in the log goes into the file.
pub(super) async fn close(db: SqliteConnection, path: &Path) -> Result<(), StoreError> {
    db.close().await.map_err(|error| classify(path, &error))
}

/// Makes names in a file's folder last.
pub(super) fn sync_folder(file: &Path) -> Result<(), StoreError> {
    // Where a folder cannot be opened, there is nothing to flush.
    match File::open(folder_of(file)) {
        Ok(folder) => {
            folder.sync_all().map_err(|error| fatal(file, format!("its folder could not be flushed: {error}")))
        }
        Err(_) => Ok(()),
    }
}
