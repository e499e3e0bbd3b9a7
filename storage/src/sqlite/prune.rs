//! Deleting the beginning of the journal: in small transactions, each of which leaves a file that is sound.
//!
//! The floor, the last seq that is gone, is raised in the transaction that deletes. So a kill in between leaves a
//! journal that was pruned less far, and a reader never takes a hole for an end.

use atra_bus::Seq;
use sqlx::{Executor as _, Row as _, SqliteConnection};

use super::queries::{BEGIN, COMMIT, FLOOR, LAST_SEQ, NEEDED, PRUNE, PRUNE_OLDER_WRITES, SET_FLOOR};
use crate::{OPEN_EFFECT, retention::event_of};

/// Where the journal begins: the last seq that was pruned.
pub(super) async fn floor(db: &mut SqliteConnection) -> Result<Seq, sqlx::Error> {
    let row = db.fetch_optional(FLOOR).await?;
    let floor: i64 = row.map_or(Ok(0), |row| row.try_get(0))?;
    Ok(Seq(floor as u64))
}

/// The seq up to which the next transaction deletes; the floor itself when there is nothing to do.
pub(super) async fn next_floor(
    db: &mut SqliteConnection,
    floor: Seq,
    upto: Seq,
    events_max: u64,
) -> Result<Seq, sqlx::Error> {
    let last: i64 = db.fetch_one(LAST_SEQ).await?.try_get(0)?;
    // The last batch stays: who opens the file finds its end, and what the next one is chained to.
    let upto = upto.min(Seq((last as u64).saturating_sub(1)));
    if upto <= floor {
        return Ok(floor);
    }
    Ok(upto.min(Seq(floor.get().saturating_add(events_max.max(1)))))
}

/// Deletes events in (`floor`, `upto`] that nobody needs. On an error the transaction may still be open.
pub(super) async fn prune(db: &mut SqliteConnection, floor: Seq, upto: Seq) -> Result<(), sqlx::Error> {
    db.execute(BEGIN).await?;
    let needed = needed(db).await?;
    let (from, to) = (floor.get() as i64, upto.get() as i64);
    sqlx::query(PRUNE_OLDER_WRITES).bind(from).bind(to).execute(&mut *db).await?;
    sqlx::query(PRUNE).bind(from).bind(to).bind(needed).execute(&mut *db).await?;
    sqlx::query(SET_FLOOR).bind(upto.to_string()).execute(&mut *db).await?;
    db.execute(COMMIT).await?;
    Ok(())
}

/// The events that facts name, as a JSON list of hexadecimal texts.
async fn needed(db: &mut SqliteConnection) -> Result<String, sqlx::Error> {
    let mut ids = Vec::new();
    for row in sqlx::query(NEEDED).bind(OPEN_EFFECT).fetch_all(db).await? {
        let key: &str = row.try_get(0)?;
        ids.extend(event_of(key).map(|id| format!("\"{}\"", hex(id.as_bytes()))));
    }
    Ok(format!("[{}]", ids.join(",")))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02X}")).collect()
}
