//! What a child can be told to do: write as hard as it can, flood the queue, or one of an operator's commands.

use std::path::{Path, PathBuf};

use atra_bus::{Env as _, Filter, Interest, Name, Seq, SystemEnv};
use atra_storage::{
    Keep, SqliteOptions, SqliteReader, SqliteStore, Store as _, StoreError, backup, digest, forget_team, prune_file,
    restore, vacuum,
};
use serde::{Deserialize, Serialize};

use crate::{
    flood::Flood,
    ledger::{Ledger, Line},
    work::Work,
};

/// One job of one child.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Job {
    /// Producers, teams and imports.
    Work(Work),
    /// More than fits.
    Flood(Flood),
    /// What an operator does with a file.
    Command {
        /// The database.
        db: PathBuf,
        /// Where an error is told.
        ledger: PathBuf,
        /// What is done.
        command: Command,
    },
}

/// What is done with a whole file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Made or brought up to date, and closed.
    Open,
    /// Copied.
    Backup(PathBuf),
    /// Replaced by a copy.
    Restore(PathBuf),
    /// The beginning of its journal is deleted, but for so many events.
    Prune(u64),
    /// Made small.
    Vacuum,
    /// A team in it is forgotten.
    Forget(Name),
    /// All of it is read: for a digest, and the journal from its end to its beginning.
    ReadAll,
}

impl Job {
    /// Does it. Whether it came to its end.
    ///
    /// # Panics
    /// When the ledger cannot be written.
    #[must_use]
    pub fn run(&self) -> bool {
        match self {
            Self::Work(work) => crate::work::run(work),
            Self::Flood(flood) => crate::flood::run(flood),
            Self::Command { db, ledger, command } => {
                let ledger = Ledger::open(ledger).expect("the ledger can be opened");
                let tokio = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
                let done = tokio.block_on(command.run(db.clone()));
                ledger.write(&done.as_ref().map_or_else(|error| Line::Error(error.to_string()), |()| Line::Stopped));
                done.is_ok()
            }
        }
    }
}

impl Command {
    async fn run(&self, db: PathBuf) -> Result<(), StoreError> {
        match self {
            Self::Open => {
                let mut store = SqliteStore::open(SqliteOptions::new(db)).await?;
                store.load().await?;
                store.close().await
            }
            Self::Backup(to) => backup(&db, to, |_| {}).await.map(drop),
            Self::Restore(from) => restore(&db, from, |_| {}).await.map(drop),
            Self::Prune(events) => {
                let keep = Keep { events: Some(*events), ..Keep::default() };
                prune_file(&db, keep, SystemEnv::new().now(), |_, _| {}).await.map(drop)
            }
            Self::Vacuum => vacuum(&db, |_| {}).await.map(drop),
            Self::ReadAll => read_all(&db).await,
            Self::Forget(team) => forget_team(&db, team).await.map(drop),
        }
    }
}

async fn read_all(db: &Path) -> Result<(), StoreError> {
    let reader = SqliteReader::open_read_only(db).await?;
    digest(&*reader).await?;
    let (everything, mut before) = (Interest::in_topics(vec![Filter::all()]), Seq(u64::MAX));
    while before > Seq(1) {
        before = reader.journal_before(before, &everything, usize::MAX).await?.1.next();
    }
    Ok(())
}
