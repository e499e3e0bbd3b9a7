//! Deleting the beginning of the journal: in small transactions, each of which leaves a file that is sound.
//!
//! The floor, the last seq that is gone, is raised in the transaction that deletes. So a kill in between leaves a
//! journal that was pruned less far, and a reader never takes a hole for an end.

use std::collections::BTreeSet;

use atra_bus::{Name, Seq, Timestamp};
use sqlx::{Executor as _, Row as _, SqliteConnection};

use super::{
    chain::{Link, ORIGIN_KEY, Origin},
    queries::{
        BEGIN, COMMIT, EXPIRE, EXPIRY_PAGE, FIRST_BATCH_END, FLOOR, FREE_NAME, LAST_BATCH_END, LAST_SEQ, META,
        META_NUMBER, NAME_OF, NEEDED, PRUNE, PRUNE_OLDER_WRITES, REMOVED_KEYS, SET_META,
    },
    topics::{self, Ended},
};
use crate::{Expired, Expiry, OPEN_EFFECT, retention::event_of};

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

/// Deletes unneeded events from `floor` to the end of the piece, and returns the names that it deleted: those of memory
/// keys that were removed in the piece. On an error the transaction may still be open.
pub(super) async fn prune(
    db: &mut SqliteConnection,
    floor: Seq,
    piece: &Piece,
    ended: Option<&Ended>,
) -> Result<Vec<String>, sqlx::Error> {
    db.execute(BEGIN).await?;
    if let Some(ended) = ended {
        topics::insert(db, &ended.rows).await?;
    }
    let needed = needed(db).await?;
    let (from, to) = (floor.get() as i64, piece.floor.get() as i64);
    sqlx::query(PRUNE_OLDER_WRITES).bind(from).bind(to).execute(&mut *db).await?;
    let mut removed = BTreeSet::new();
    for row in sqlx::query(REMOVED_KEYS).bind(from).bind(to).fetch_all(&mut *db).await? {
        removed.insert(row.try_get::<i64, _>(0)?);
    }
    sqlx::query(PRUNE).bind(from).bind(to).bind(needed).execute(&mut *db).await?;
    sqlx::query(SET_META).bind(FLOOR_KEY).bind(piece.floor.to_string()).execute(&mut *db).await?;
    if let Some(origin) = &piece.origin {
        sqlx::query(SET_META).bind(ORIGIN_KEY).bind(origin.to_string()).execute(&mut *db).await?;
    }
    let mut freed = Vec::new();
    for topic in removed {
        if let Some(row) = sqlx::query(FREE_NAME).bind(topic).fetch_optional(&mut *db).await? {
            freed.push(row.try_get(0)?);
        }
    }
    db.execute(COMMIT).await?;
    Ok(freed)
}

/// The key of the commit clock at which facts without a time count as written, in the `meta` table.
const UNTIMED_KEY: &str = "facts_timed_from";

/// Deletes the expired ones of the next facts. On an error the
/// transaction may still be open.
pub(super) async fn expire(
    db: &mut SqliteConnection,
    expiry: &Expiry,
    from: (i64, String),
) -> Result<Expired, sqlx::Error> {
    db.execute(BEGIN).await?;
    let kind = expiry.kind as i64;
    let limit = i64::try_from(expiry.facts_max.max(1)).unwrap_or(i64::MAX);
    let page = sqlx::query(EXPIRY_PAGE).bind(kind).bind(from.0).bind(&from.1).bind(limit);
    let rows = page.fetch_all(&mut *db).await?;
    let mut expired = Expired::default();
    if let Some(last) = rows.last() {
        let to = (last.try_get::<i64, _>(0)?, last.try_get::<String, _>(1)?);
        let untimed = untimed(db, expiry.now).await?;
        let delete = sqlx::query(EXPIRE).bind(kind).bind(from.0).bind(&from.1).bind(to.0).bind(&to.1);
        let settled = i64::try_from(expiry.settled.get()).unwrap_or(i64::MAX);
        let delete = delete.bind(expiry.before.millis()).bind(settled).bind(untimed.millis());
        expired.deleted = delete.execute(&mut *db).await?.rows_affected();
        expired.kept = (rows.len() as u64).saturating_sub(expired.deleted);
        if rows.len() as i64 >= limit {
            let owner: String = sqlx::query(NAME_OF).bind(to.0).fetch_one(&mut *db).await?.try_get(0)?;
            let owner = Name::new(&owner).map_err(|error| sqlx::Error::Decode(error.into()))?;
            expired.next = Some((owner, to.1));
        }
    }
    db.execute(COMMIT).await?;
    Ok(expired)
}

/// The time at which facts without a time count as written; set to `now` at the first call.
async fn untimed(db: &mut SqliteConnection, now: Timestamp) -> Result<Timestamp, sqlx::Error> {
    let row = sqlx::query(META_NUMBER).bind(UNTIMED_KEY).fetch_optional(&mut *db).await?;
    if let Some(row) = row {
        return Ok(Timestamp(row.try_get(0)?));
    }
    sqlx::query(SET_META).bind(UNTIMED_KEY).bind(now.millis().to_string()).execute(db).await?;
    Ok(now)
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
