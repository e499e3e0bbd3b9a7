//! From what SQLite says to what the storage actor does.

use std::{
    io::{Seek as _, SeekFrom, Write as _},
    path::Path,
};

use super::{
    files::size_of,
    room::{is_no_room, try_room},
};
use crate::StoreError;

// Primary result codes, <https://www.sqlite.org/rescode.html>.
const PERM: i32 = 3;
const BUSY: i32 = 5;
const LOCKED: i32 = 6;
const NOMEM: i32 = 7;
const READONLY: i32 = 8;
pub(super) const INTERRUPT: i32 = 9;
const IOERR: i32 = 10;
const CORRUPT: i32 = 11;
const FULL: i32 = 13;
const CANTOPEN: i32 = 14;
const NOTADB: i32 = 26;
/// An extended code: a write failed, for want of space or otherwise.
const IOERR_WRITE: i32 = 778;
/// Another: the log's index could not grow.
const IOERR_SHMSIZE: i32 = 4_874;

/// The primary result code of an error, if it is SQLite's.
pub(super) fn code(error: &sqlx::Error) -> Option<i32> {
    extended_code(error).map(|code| code & 0xff)
}

fn extended_code(error: &sqlx::Error) -> Option<i32> {
    error.as_database_error()?.code()?.parse().ok()
}

/// Whether an error says that the file is damaged, and not that it could not be read this time.
pub(super) fn is_damage(error: &sqlx::Error) -> bool {
    // What is stored where a number or a text should be can be anything: decoding fails then.
    matches!(code(error), Some(CORRUPT)) || matches!(error, sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_))
}

/// The class of an error. Of a write: the transaction is rolled back, except for what is `Unknown`.
pub(super) fn classify(path: &Path, error: &sqlx::Error) -> StoreError {
    let text = error.to_string();
    let fatal = |hint: &str| fatal(path, format!("{text}; {hint}"));
    match code(error) {
        Some(BUSY | LOCKED | NOMEM) => StoreError::Busy(text),
        Some(FULL) => StoreError::Full(format!("{}: {text}", path.display())),
        Some(IOERR) if is_failed_write(error) && is_out_of_room(path, sizes(path)) => {
            StoreError::Full(format!("{}: {text}; the quota or the limit of a file's size is reached", path.display()))
        }
        // The log's index grows at the end of a commit, whose pages are in the log already.
        Some(IOERR) if extended_code(error) == Some(IOERR_SHMSIZE) && is_out_of_room(path, sizes(path)) => {
            StoreError::Unknown(format!("{text}; no space is left for the log's index"))
        }
        // Whether the last write reached the file is not known; the store is reopened and looked at.
        Some(IOERR) => StoreError::Unknown(text),
        Some(CORRUPT) => damaged(path, text),
        Some(NOTADB) => fatal("it is not an atra database: use another --db"),
        Some(READONLY | PERM) => fatal("it cannot be written: make the file and its folder writable"),
        Some(CANTOPEN) => fatal("it cannot be opened: check that the folder exists and is accessible"),
        Some(_) => StoreError::Invalid(text),
        None => match error {
            sqlx::Error::PoolTimedOut => StoreError::Busy("no reader became free in time".into()),
            sqlx::Error::PoolClosed => fatal("it was closed"),
            sqlx::Error::Io(_) | sqlx::Error::WorkerCrashed => StoreError::Unknown(text),
            _ if is_damage(error) => damaged(path, text),
            _ => StoreError::Invalid(text),
        },
    }
}

/// The class of an error while a file is opened, when nothing that was promised depends on the outcome.
pub(super) fn classify_opening(path: &Path, error: &sqlx::Error) -> StoreError {
    match code(error) {
        Some(IOERR) if is_out_of_room(path, sizes(path)) => StoreError::Full(format!("{}: {error}", path.display())),
        _ => classify(path, error),
    }
}

/// Whether an error says that a write failed, and a file of so many bytes beside the one that is written could not be
/// made either.
pub(super) fn is_for_want_of_room(error: &sqlx::Error, written: &Path, bytes: u64) -> bool {
    is_failed_write(error) && is_out_of_room(written, bytes)
}

/// Whether an error says that a write failed, and not a flush.
pub(super) fn is_failed_write(error: &sqlx::Error) -> bool {
    extended_code(error) == Some(IOERR_WRITE)
}

/// Where a database or its log ends.
fn sizes(db: &Path) -> u64 {
    size_of(db, "").max(size_of(db, "-wal"))
}

/// Whether a file beside another cannot grow beyond so many bytes, because a quota or a limit of size forbids it:
/// SQLite tells only a full disk apart from other failures of a write.
fn is_out_of_room(path: &Path, bytes: u64) -> bool {
    let written = try_room(path, |mut room| {
        room.seek(SeekFrom::Start(bytes))?;
        room.write_all(&[0; 4096])
    });
    written.is_err_and(|error| is_no_room(&error))
}

/// The error of a file that is damaged.
pub(super) fn damaged(path: &Path, what: impl Into<String>) -> StoreError {
    StoreError::Damaged { path: path.display().to_string(), what: what.into() }
}

pub(super) fn fatal(path: &Path, cause: impl Into<String>) -> StoreError {
    StoreError::Fatal { path: path.display().to_string(), cause: cause.into() }
}
