//! Deleting the beginning of the journal: in small transactions, each of which leaves a file that is sound.
//!
//! The floor, the last seq that is gone, is raised in the transaction that deletes. So a kill in between leaves a
//! journal that was pruned less far, and a reader never takes a hole for an end.

use atra_bus::Seq;
use sqlx::{Executor as _, Row as _, SqliteConnection};

use super::{
    chain::{Link, ORIGIN_KEY, Origin},
    queries::{
        BEGIN, COMMIT, FIRST_BATCH_END, FLOOR, LAST_BATCH_END, LAST_SEQ, META, NEEDED, PRUNE, PRUNE_OLDER_WRITES,
        SET_META,
    },
};
use crate::{OPEN_EFFECT, retention::event_of};

/// The key of the floor in the `meta` table; without it nothing was pruned.
const FLOOR_KEY: &str = "journal_floor";

/// Where the journal begins: the last seq that was pruned.
pub(super) async fn floor(db: &mut SqliteConnection) -> Result<Seq, sqlx::Error> {
    let row = db.fetch_optional(FLOOR).await?;
    let floor: i64 = row.map_or(Ok(0), |row| row.try_get(0))?;
    Ok(Seq(floor as u64))
}

/// Where the next transaction ends: the floor afterwards, and where the chain of check values begins then, if that
/// changes. Batches go as a whole, since a check value stands for one.
pub(super) struct Piece {
    pub(super) floor: Seq,
    origin: Option<Origin>,
}

/// Finds the next piece on the way from `floor` to `upto`, of some `events_max` events; `None`: there is none.
pub(super) async fn next_piece(
    db: &mut SqliteConnection,
    floor: Seq,
    upto: Seq,
    events_max: u64,
) -> Result<Option<Piece>, sqlx::Error> {
    let last: i64 = db.fetch_one(LAST_SEQ).await?.try_get(0)?;
    // The last batch stays: who opens the file finds its end, and what the next one is chained to.
    let upto = upto.min(Seq((last as u64).saturating_sub(1)));
    if upto <= floor {
        return Ok(None);
    }
    let end = upto.min(Seq(floor.get().saturating_add(events_max.max(1))));
    let origin = sqlx::query(META).bind(ORIGIN_KEY).fetch_optional(&mut *db).await?;
    let origin = origin.and_then(|row| Origin::parse(row.try_get(0).ok()?)).unwrap_or_default();
    if origin.seq > floor {
        // Events of an older version, which have no check values.
        return Ok(Some(Piece { floor: end.min(origin.seq), origin: None }));
    }
    let found = match batch_end(db, LAST_BATCH_END, floor, end).await? {
        None => batch_end(db, FIRST_BATCH_END, end, upto).await?,
        found => found,
    };
    Ok(found.map(|origin| Piece { floor: origin.seq, origin: Some(origin) }))
}

async fn batch_end(
    db: &mut SqliteConnection,
    sql: &'static str,
    after: Seq,
    upto: Seq,
) -> Result<Option<Origin>, sqlx::Error> {
    let query = sqlx::query(sql).bind(after.get() as i64).bind(upto.get() as i64);
    let Some(row) = query.fetch_optional(db).await? else { return Ok(None) };
    let link = Link::from_slice(row.try_get(1)?);
    let link = link.ok_or_else(|| sqlx::Error::Decode("a check value has the wrong length".into()))?;
    Ok(Some(Origin { seq: Seq(row.try_get::<i64, _>(0)? as u64), link }))
}

/// Deletes what nobody needs from `floor` to the end of the piece. On an error the transaction may still be open.
pub(super) async fn prune(db: &mut SqliteConnection, floor: Seq, piece: &Piece) -> Result<(), sqlx::Error> {
    db.execute(BEGIN).await?;
    let needed = needed(db).await?;
    let (from, to) = (floor.get() as i64, piece.floor.get() as i64);
    sqlx::query(PRUNE_OLDER_WRITES).bind(from).bind(to).execute(&mut *db).await?;
    sqlx::query(PRUNE).bind(from).bind(to).bind(needed).execute(&mut *db).await?;
    sqlx::query(SET_META).bind(FLOOR_KEY).bind(piece.floor.to_string()).execute(&mut *db).await?;
    if let Some(origin) = &piece.origin {
        sqlx::query(SET_META).bind(ORIGIN_KEY).bind(origin.to_string()).execute(&mut *db).await?;
    }
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
