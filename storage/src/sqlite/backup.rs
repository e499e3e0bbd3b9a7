//! Whole files: a copy of one that may be in use, a copy put back, a file made small.
//!
//! A copy is written under another name, flushed, checked from its first page to its last, and only then gets its name.
//! Nothing is ever written over: a target that exists is an error, and what a restore replaces is kept aside.

use std::{
    fs::File,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::Serialize;
use sqlx::{ConnectOptions as _, Connection as _, Executor as _, Row as _};
use tokio::time::{MissedTickBehavior, interval};

use super::{
    PAGE_BYTES, SqliteOptions, SqliteStore,
    check::{CheckReport, check},
    connection::{base_options, sync_folder, used_bytes},
    error::{classify, fatal, is_for_want_of_room},
    files::{FileId, size_of},
    lock::FileLock,
    paths::{
        beside, give_rights_of, open_beside, refuse_open_folder, refuse_unsafe_files, resolve_db, resolve_or_keep,
    },
    read::SqliteReader,
};
use crate::{Store as _, StoreError, output::refuse_database_name};

/// How often progress is told. 100 ms: a bar moves smoothly.
const TELL_EVERY: Duration = Duration::from_millis(100);
/// Names that are tried for a file that is put aside.
const ASIDE_MAX: u32 = 1_000;

/// How far long work is, in bytes. The end is an estimate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// What is being done, for a person.
    pub what: &'static str,
    /// Bytes done.
    pub bytes: u64,
    /// Bytes there will be.
    pub bytes_total: u64,
}

/// A copy of a database that was checked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Copied {
    /// Its size.
    pub bytes: u64,
    /// What its check found: nothing wrong.
    pub check: CheckReport,
}

/// A copy that was put in the place of a database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Restored {
    /// The copy.
    pub copied: Copied,
    /// Where the database lies that was there before; `None`: there was none.
    pub aside: Option<PathBuf>,
}

/// What making a file small has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Vacuumed {
    /// Its size before.
    pub bytes_before: u64,
    /// Its size now.
    pub bytes_after: u64,
}

/// Copies a database to `to`, as it is at one moment, whether a runtime has it or not. The copy is compact.
///
/// # Cancel safety
/// Dropped while it waits, a file with the suffix `.partial` may be left; the next copy to the same place replaces it.
///
/// # Errors
/// [`StoreError::Fatal`] when `from` cannot be read or is damaged, when `to` exists, or cannot be written;
/// [`StoreError::Full`]. No file of that name is there then.
pub async fn backup(from: &Path, to: &Path, tell: impl Fn(Progress) + Send) -> Result<Copied, StoreError> {
    let (from, to) = (&resolve_db(from)?, &resolve_db(to)?);
    refuse_existing(to)?;
    let partial = beside(to, ".partial");
    let _lock = Partial::take(&partial, to)?;
    let copied = copy(from, &partial, tell).await;
    if copied.is_err() {
        // What is left of a copy that failed is worth nothing; the error is the one to tell.
        let _ = std::fs::remove_file(&partial);
    }
    let copied = copied?;
    refuse_existing(to)?;
    keep_rights(from, &partial);
    std::fs::rename(&partial, to).map_err(|error| fatal(to, format!("the copy could not get its name: {error}")))?;
    sync_folder(to)?;
    Ok(copied)
}

/// Puts a copy of `from` in the place of `db`. What is there is kept aside, with its log.
///
/// # Cancel safety
/// Dropped before the copy is complete, `db` is as it was.
///
/// # Errors
/// [`StoreError::InUse`] when a runtime has `db`; as [`backup`] for `from`. `db` is as it was then.
pub async fn restore(db: &Path, from: &Path, tell: impl Fn(Progress) + Send) -> Result<Restored, StoreError> {
    let (given, db, from) = (db, &resolve_db(db)?, &resolve_db(from)?);
    if db == from || FileId::of(db).is_ok_and(|db| FileId::of(from).is_ok_and(|from| from.is_same(db))) {
        return Err(fatal(from, "it is the database itself: name the backup"));
    }
    refuse_open_folder(db)?;
    refuse_unsafe_files(db)?;
    let mut lock = FileLock::take(db).await?;
    if db.exists() {
        lock.take_inode().await?;
    }
    if !db.exists() && size_of(db, "-wal") > 0 {
        let log = beside(db, "-wal");
        let cause =
            format!("it is not there, but its log {} is: put them back together, or move it away", log.display());
        return Err(fatal(db, cause));
    }
    let fresh = beside(db, ".restoring");
    let _partial = Partial::take(&fresh, db)?;
    let copied = copy(from, &fresh, tell).await;
    if copied.is_err() {
        let _ = std::fs::remove_file(&fresh);
    }
    let copied = copied?;
    keep_rights(if db.exists() { db } else { from }, &fresh);
    // From here until the end the database may be missing or without its log: nobody begins on it meanwhile.
    let whole = restored(db);
    rename(&fresh, &whole, db)?;
    let aside = put_aside(db).await?;
    rename(&whole, db, db)?;
    sync_folder(db)?;
    // It was written anew, flushed and checked, which is what level `power` waits for after an error of the disk.
    lock.set_unflushed(false);
    // The acknowledged seq is now the copy's last one.
    lock.clear_acknowledged();
    drop(lock);
    Ok(Restored { copied, aside: aside.map(|aside| as_given(aside, given)) })
}

/// The path of a file beside a database, as the database was named, if that leads to it.
fn as_given(path: PathBuf, db: &Path) -> PathBuf {
    let given = path.file_name().map(|name| db.with_file_name(name));
    given.filter(|given| resolve_or_keep(given) == path).unwrap_or(path)
}

/// The copy on its way to its place.
fn restored(db: &Path) -> PathBuf {
    beside(db, ".restored")
}

/// Refuses a database whose restore did not come to its end: it may be missing, or without its log.
///
/// # Errors
/// [`StoreError::Fatal`] that says so.
pub fn refuse_half_restored(db: &Path) -> Result<(), StoreError> {
    let db = &resolve_or_keep(db);
    let copy = restored(db);
    if !copy.exists() {
        return Ok(());
    }
    let cause = format!(
        "it was being restored when the process ended, and may be neither the old nor the new one: restore it again; {} \
         is the copy that was to take its place",
        copy.display()
    );
    Err(fatal(db, cause))
}

fn rename(from: &Path, to: &Path, db: &Path) -> Result<(), StoreError> {
    std::fs::rename(from, to)
        .map_err(|error| fatal(db, format!("{} could not become {}: {error}", from.display(), to.display())))
}

/// Makes a file as small as its content. Takes as much free space as the content while it runs.
///
/// # Cancel safety
/// Dropped while it waits, the file is as it was or done.
///
/// # Errors
/// As [`SqliteStore::open`], and [`StoreError::Full`]; the file is as it was then.
pub async fn vacuum(path: &Path, tell: impl Fn(Progress) + Send) -> Result<Vacuumed, StoreError> {
    let path = &resolve_db(path)?;
    let bytes_before = size_of(path, "") + size_of(path, "-wal");
    let mut store = SqliteStore::open(SqliteOptions { create: false, readers: 1, ..SqliteOptions::new(path) }).await?;
    let bytes_total = match store.db.as_mut() {
        Some(db) => used_bytes(db, path).await?,
        None => 0,
    };
    store.reserve_index(bytes_total / PAGE_BYTES)?;
    let done = match store.db.as_mut() {
        Some(db) => {
            let grown = || Progress { what: "compacting", bytes: size_of(path, "-wal"), bytes_total };
            while_telling(db.execute("VACUUM"), grown, tell).await.map(drop).map_err(|error| classify(path, &error))
        }
        None => Ok(()),
    };
    // In any case: it moves the log into the file. The first error is the one to tell.
    let closed = store.close().await;
    done.and(closed)?;
    Ok(Vacuumed { bytes_before, bytes_after: size_of(path, "") + size_of(path, "-wal") })
}

// === parts ===

/// Writes a checked copy to `to`, where an empty file is.
async fn copy(from: &Path, to: &Path, tell: impl Fn(Progress) + Send) -> Result<Copied, StoreError> {
    // Says it when the file is missing, nobody's or too new.
    SqliteReader::open_concrete(from).await?.close().await;
    let mut db = base_options(from).read_only(true).connect().await.map_err(|error| classify(from, &error))?;
    let bytes_total = used_bytes(&mut db, from).await?;
    let no_room = |cause: String| StoreError::Full(format!("the copy could not be written: {cause}"));
    // The copy is what is written, so it is where there may be no room; damage is where it is read from.
    let of = |error: sqlx::Error| match classify(to, &error) {
        StoreError::Unknown(_) if is_for_want_of_room(&error, to, bytes_total) => {
            no_room(format!("{}: {error}; the quota or the limit of a file's size is reached", to.display()))
        }
        StoreError::Unknown(cause) => fatal(from, format!("it could not be copied to {}: {cause}", to.display())),
        StoreError::Full(cause) => no_room(cause),
        StoreError::Fatal { cause, .. } => fatal(from, cause),
        other => other,
    };
    let name = to.to_str().ok_or_else(|| fatal(to, "its name is no text"))?.to_owned();
    let copying = sqlx::query("VACUUM INTO ?1").bind(name).persistent(false).execute(&mut db);
    let grown = || Progress { what: "copying", bytes: size_of(to, ""), bytes_total };
    while_telling(copying, grown, &tell).await.map_err(of)?;
    db.close().await.map_err(of)?;
    let synced = File::open(to).and_then(|file| file.sync_all());
    synced.map_err(|error| fatal(to, format!("the copy could not be flushed: {error}")))?;
    tell(Progress { what: "checking", bytes: bytes_total, bytes_total });
    let check = check(to).await?;
    match check.problems.first() {
        Some(problem) => Err(fatal(from, format!("its copy is not sound: {problem}; run a check"))),
        None => Ok(Copied { bytes: size_of(to, ""), check }),
    }
}

/// Does `work`, and tells its progress meanwhile.
async fn while_telling<T>(work: impl Future<Output = T>, now: impl Fn() -> Progress, tell: impl Fn(Progress)) -> T {
    let mut ticks = interval(TELL_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut work = std::pin::pin!(work);
    loop {
        tokio::select! {
            // Biased: the end is told at once.
            biased;
            done = &mut work => return done,
            _ = ticks.tick() => tell(now()),
        }
    }
}

/// A file in the making that nobody else makes: locked, and empty.
struct Partial(File);

impl Partial {
    fn take(path: &Path, of: &Path) -> Result<Self, StoreError> {
        let failed = |error| {
            fatal(
                of,
                format!("{} cannot be written: {error}; check the file, its folder and their rights", path.display()),
            )
        };
        let file = open_beside(path, of).map_err(failed)?;
        if file.try_lock().is_err() {
            return Err(fatal(of, format!("another process is writing {}; wait for it", path.display())));
        }
        // What an interrupted one left.
        file.set_len(0).map_err(failed)?;
        Ok(Self(file))
    }
}

impl Drop for Partial {
    /// Unlocks explicitly: a child process that another thread has just forked has the same handle.
    fn drop(&mut self) {
        let _ = self.0.unlock();
    }
}

/// Gives a copy the access rights of a database. A failure is not an error: the copy is then accessible to its creator
/// only.
fn keep_rights(of: &Path, copy: &Path) {
    let given = of.metadata().and_then(|of| give_rights_of(&of, &File::open(copy)?));
    if let Err(error) = given {
        tracing::warn!(copy = %copy.display(), %error, "the copy could not get the access rights of the database");
    }
}

fn refuse_existing(to: &Path) -> Result<(), StoreError> {
    refuse_database_name(to).map_err(|error| fatal(to, format!("{error}: name another file")))?;
    if to.symlink_metadata().is_ok() {
        return Err(fatal(to, "it exists already, and a backup writes over nothing: name another file"));
    }
    for suffix in ["-wal", "-journal"] {
        let log = beside(to, suffix);
        if log.symlink_metadata().is_ok() {
            let cause = format!(
                "{} is there and would be taken for its log: move it away, or name another file",
                log.display()
            );
            return Err(fatal(to, cause));
        }
    }
    Ok(())
}

/// Moves a database out of the way, with its log; gives its new name.
async fn put_aside(db: &Path) -> Result<Option<PathBuf>, StoreError> {
    if !db.exists() {
        // A log would be taken for one of the copy; this one is empty.
        for suffix in ["-wal", "-shm"] {
            let _ = std::fs::remove_file(beside(db, suffix));
        }
        return Ok(None);
    }
    fold(db).await;
    let names = (0..ASIDE_MAX)
        .map(|n| beside(db, &if n == 0 { ".before-restore".into() } else { format!(".before-restore-{n}") }));
    let aside = names.into_iter().find(|name| !name.exists());
    let aside = aside.ok_or_else(|| fatal(db, "a thousand files were put aside before: remove some"))?;
    // The log first: a database without its log is old, but a log beside another database destroys it.
    for suffix in ["-wal", ""] {
        let from = beside(db, suffix);
        if from.exists() {
            rename(&from, &beside(&aside, suffix), db)?;
        }
    }
    // Made anew whenever it is needed.
    let _ = std::fs::remove_file(beside(db, "-shm"));
    Ok(Some(aside))
}

/// Moves the log into the database, so that it is one file. Whether that is possible does not matter: what is damaged
/// is put aside as it is.
async fn fold(db: &Path) {
    if let Ok(mut connection) = base_options(db).connect().await {
        let row = connection.fetch_one("PRAGMA wal_checkpoint(TRUNCATE)").await;
        let is_held = row.is_ok_and(|row| row.try_get::<i64, _>(0).unwrap_or(1) != 0);
        if is_held {
            tracing::warn!(db = %db.display(), "somebody reads from the database that is put aside");
        }
        let _ = connection.close().await;
    }
}
