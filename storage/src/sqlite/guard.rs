//! Handles changes of the store's files by others: stops committing, saves what can be saved, and reports what is in
//! the database file.

use std::path::Path;

use atra_bus::Seq;
use sqlx::{AssertSqlSafe, Executor as _, Row as _, SqliteConnection};
use tracing::warn;

use super::{
    RENEW_PATIENCE_MS, SqliteStore,
    error::fatal,
    files::FileId,
    lock::FileLock,
    paths::beside,
    room::is_no_room,
    watch::{LogFault, LogWatch},
};
use crate::StoreError;

/// Pages by which the log may grow until the next check; its index needs space for them. 32,768: the largest
/// transaction, and what a fast disk writes in 20 ms.
const PAGES_AHEAD: u64 = 32_768;

impl SqliteStore {
    /// Checks the database, its log and the log's index; returns how many bytes of the log have not been moved.
    pub(super) async fn look_at_files(&mut self) -> Result<Option<u64>, StoreError> {
        if let Some(fault) = &self.fault {
            return Err(fault.clone());
        }
        if let Err(fault) = self.id.check(&self.path) {
            self.fault = Some(fault.clone());
            return Err(fault);
        }
        let Some(watch) = &mut self.watch else { return Ok(None) };
        match watch.look() {
            Ok(unmoved) => {
                if unmoved == Some(0) {
                    self.moved = self.last;
                }
                // Before the store is loaded, the mark of the last process still counts.
                if self.refuse_lost_events(self.last).is_ok()
                    && let Some(lock) = &mut self.lock
                {
                    lock.set_acknowledged(self.last);
                }
                Ok(unmoved)
            }
            Err(fault) => Err(self.save_from(&fault).await),
        }
    }

    /// Fails when the log must not be moved; otherwise the database file may change.
    pub(super) async fn begin_to_move(&mut self) -> Result<(), StoreError> {
        self.refuse_damaged_log().await?;
        if let Some(watch) = &mut self.watch {
            watch.expect_change();
        }
        Ok(())
    }

    /// Fails when the log must be neither extended nor moved.
    pub(super) async fn refuse_damaged_log(&mut self) -> Result<(), StoreError> {
        if let Some(fault) = &self.fault {
            return Err(fault.clone());
        }
        match self.watch.as_mut().map(LogWatch::look) {
            Some(Err(fault)) => Err(self.save_from(&fault).await),
            _ => Ok(()),
        }
    }

    /// Handles changed log files: moves an intact log into the database, or protects the next start from a damaged log.
    async fn save_from(&mut self, fault: &LogFault) -> StoreError {
        let mut cause = fault.to_string();
        let after = |moved: Seq| {
            format!(
                "; what was acknowledged after seq {moved} was in the log only: go back to a backup, or check the \
                 database before it is used again"
            )
        };
        if fault.is_of_the_database(&self.path) {
            cause += "; the newest commits are in its log: keep both files, and go back to a backup";
            std::mem::forget(self.db.take());
        } else if fault.is_content_whole() && self.move_whole_log().await {
            self.moved = self.last;
            cause += "; everything committed was moved into the database";
            if let Some(watch) = &self.watch {
                watch.put_foreign_log_aside();
            }
        } else if fault.is_content_whole() {
            cause += &after(self.moved);
        } else {
            let done = self.watch.as_ref().map_or_else(String::new, LogWatch::put_aside);
            cause = format!("{cause}; {done}{}", after(self.moved));
            // Closing would move damaged pages into the database. The end of the process closes it.
            std::mem::forget(self.db.take());
        }
        let error = fatal(&self.path, cause);
        self.fault = Some(error.clone());
        error
    }

    /// Moves all of the log into the database through the open handles. Returns whether the log is empty then.
    async fn move_whole_log(&mut self) -> bool {
        if FileId::of(&self.path).is_ok_and(|found| !found.is_same(self.id)) {
            return false;
        }
        let Some(db) = &mut self.db else { return false };
        move_all(db).await.unwrap_or_else(|error| {
            warn!(%error, "log could not be moved into the database");
            false
        })
    }

    /// Takes the connection for closing; `None` when it must not be closed: SQLite removes the log by its name, and a
    /// file in its place may be another database's.
    pub(super) async fn db_to_close(&mut self) -> Option<SqliteConnection> {
        // The error of the next start reports the fault, or that of a check already did.
        let _ = self.refuse_damaged_log().await;
        let is_foreign = self.watch.as_ref().is_some_and(|watch| watch.is_log_foreign());
        self.watch = None;
        let db = self.db.take();
        if is_foreign {
            std::mem::forget(db);
            return None;
        }
        db
    }

    /// Allocates space for the log's index before a transaction.
    pub(super) fn reserve_index(&mut self, more_pages: u64) -> Result<(), StoreError> {
        match self.watch.as_mut().map(|watch| watch.reserve(PAGES_AHEAD + more_pages)) {
            Some(Err(error)) if is_no_room(&error) => {
                Err(StoreError::Full(format!("{}: no room for the log's index: {error}", self.path.display())))
            }
            Some(Err(error)) => Err(StoreError::Unknown(format!("the log's index cannot be extended: {error}"))),
            _ => Ok(()),
        }
    }

    /// Fails when the last process had acknowledged a later seq than the journal has.
    pub(super) fn refuse_lost_events(&self, last: Seq) -> Result<(), StoreError> {
        let Some(acknowledged) = self.lock.as_ref().and_then(FileLock::acknowledged).filter(|seq| *seq > last) else {
            return Ok(());
        };
        let cause = format!(
            "seqs {} to {acknowledged} were acknowledged by the last process and are missing: its log was deleted or \
             replaced; put the log back, or restore a backup; to continue without them, remove {}",
            last.next(),
            beside(&self.path, ".lock").display()
        );
        Err(fatal(&self.path, cause))
    }

    /// Warns once when the name by which the database was opened leads to another file: the store keeps its file.
    pub(super) fn warn_of_moved_link(&mut self) {
        let is_elsewhere = |given: &Path| FileId::of(given).map_or(true, |found| !found.is_same(self.id));
        if self.given != self.path && is_elsewhere(&self.given) && !std::mem::replace(&mut self.was_moved_link, true) {
            warn!(
                name = %self.given.display(), database = %self.path.display(),
                "the name no longer leads to the open database; commands with that name use another database"
            );
        }
    }
}

async fn move_all(db: &mut SqliteConnection) -> Result<bool, sqlx::Error> {
    db.execute(AssertSqlSafe(format!("PRAGMA busy_timeout = {RENEW_PATIENCE_MS}"))).await?;
    let row = db.fetch_one("PRAGMA wal_checkpoint(FULL)").await?;
    let (is_held, pages, moved): (i64, i64, i64) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
    Ok(is_held == 0 && pages == moved)
}
