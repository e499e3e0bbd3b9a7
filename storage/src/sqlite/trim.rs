//! What an operator deletes from a file that nobody uses: the beginning of its journal, and what is left of a team.

use std::path::Path;

use atra_bus::{Name, Seq, Timestamp};
use sqlx::SqliteConnection;

use super::{
    SqliteOptions, SqliteStore,
    error::classify,
    queries::{BEGIN, COMMIT, FORGET_FACTS, FORGET_TEAM},
};
use crate::{
    Expiry, ForgetPlan, Keep, Level, PrunePlan, Store as _, StoreError, clock_of, plan_forget, plan_prune,
    retention::EXPIRING,
};

/// Events that one transaction deletes, and facts that one looks at. 10,000: no other writer waits, and the progress
/// bar moves.
const PIECE_EVENTS: u64 = 10_000;

/// The outcome of pruning a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pruned {
    /// The plan for the journal.
    pub plan: PrunePlan,
    /// The last deleted seq.
    pub floor: Seq,
    /// Idempotency keys that were deleted.
    pub keys: u64,
    /// Recorded results that were deleted.
    pub results: u64,
}

/// Deletes everything that is older than the retention and not needed. `wall` is the wall clock now; `tell` is called
/// with the plan and the progress.
///
/// # Cancel safety
/// Dropped while it waits, the journal is pruned less far. It is sound whenever it ends.
///
/// # Errors
/// As [`SqliteStore::open`], and those of reading and writing; the journal may be pruned less far then.
pub async fn prune_file(
    path: &Path,
    keep: Keep,
    wall: Timestamp,
    tell: impl Fn(&PrunePlan, Seq) + Send + Sync,
) -> Result<Pruned, StoreError> {
    let mut store = open(path).await?;
    let done = prune_all(&mut store, keep, wall, tell).await;
    // In any case: it moves the log into the file. The first error is the one to tell.
    let closed = store.close().await;
    let done = done?;
    closed.map(|()| done)
}

/// Deletes what a team has in the file, so that it pins the journal no longer: its row, and its members' state, offsets,
/// timers and marks, in one transaction that is flushed. See [`plan_forget`] for what stays.
///
/// # Cancel safety
/// Dropped while it waits, the team is forgotten or not.
///
/// # Errors
/// As [`SqliteStore::open`]; [`StoreError::UnknownTeam`]; those of reading and writing. The team is as it was then.
pub async fn forget_team(path: &Path, team: &Name) -> Result<ForgetPlan, StoreError> {
    let mut store = open(path).await?;
    let done = forget(&mut store, team).await;
    let closed = store.close().await;
    let done = done?;
    closed.map(|()| done)
}

async fn open(path: &Path) -> Result<SqliteStore, StoreError> {
    SqliteStore::open(SqliteOptions { create: false, readers: 1, ..SqliteOptions::new(path) }).await
}

async fn prune_all(
    store: &mut SqliteStore,
    keep: Keep,
    wall: Timestamp,
    tell: impl Fn(&PrunePlan, Seq) + Send + Sync,
) -> Result<Pruned, StoreError> {
    store.load().await?;
    let reader = store.reader();
    let plan = plan_prune(&*reader, keep, clock_of(&*reader, wall).await?).await?;
    let mut floor = plan.floor;
    while floor < plan.upto {
        let next = store.prune(plan.upto, PIECE_EVENTS).await?;
        if next <= floor {
            // What is left belongs to a batch that is kept.
            break;
        }
        floor = next;
        // So that the log does not grow by all that is deleted.
        store.checkpoint().await?;
        tell(&plan, floor);
    }
    let settled = reader.teams().await?.into_iter().map(|team| team.cursor).min().unwrap_or(plan.last.next());
    let (mut deleted, now) = ([0; EXPIRING.len()], clock_of(&*reader, wall).await?);
    for (kind, deleted) in EXPIRING.into_iter().zip(&mut deleted) {
        let mut next = Expiry::first(kind, keep, now, settled, PIECE_EVENTS);
        while let Some(expiry) = next {
            let expired = store.expire(&expiry).await?;
            *deleted += expired.deleted;
            store.checkpoint().await?;
            next = expired.next.map(|from| Expiry { from: Some(from), ..expiry });
        }
    }
    let [keys, results] = deleted;
    Ok(Pruned { plan, floor, keys, results })
}

async fn forget(store: &mut SqliteStore, team: &Name) -> Result<ForgetPlan, StoreError> {
    store.load().await?;
    let plan = plan_forget(&*store.reader(), team).await?;
    // It is done once, by hand, and is not to come back.
    store.begin_at(Level::Power).await?;
    let path = store.path.clone();
    let deleted = delete(store.db()?, &plan).await.map_err(|error| classify(&path, &error));
    if let Err(error) = deleted {
        store.roll_back().await;
        return Err(error);
    }
    Ok(plan)
}

async fn delete(db: &mut SqliteConnection, plan: &ForgetPlan) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(BEGIN).execute(&mut *db).await?;
    sqlx::query(FORGET_TEAM).bind(plan.team.team.as_str()).execute(&mut *db).await?;
    for owner in plan.owners() {
        sqlx::query(FORGET_FACTS).bind(owner.as_str()).execute(&mut *db).await?;
    }
    sqlx::raw_sql(COMMIT).execute(&mut *db).await?;
    Ok(())
}
