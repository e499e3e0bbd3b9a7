//! The check value of a single row, for facts, teams and blocks: they are overwritten and so cannot be chained.
//!
//! XXH3-64 over all columns of the row. Names are hashed as texts, not as ids, so that the names table is covered too.
//! It detects damage, not deliberate changes. It is written with the row, and verified by every reader and by the check
//! of a file. The functions take bytes: a damaged row may hold anything.

use std::collections::BTreeMap;

use sqlx::{Executor as _, Row as _, SqliteConnection, sqlite::SqliteRow};
use xxhash_rust::xxh3::xxh3_64;

use super::queries::{BLOCKS_AFTER, FACTS_AFTER, NAMES, SET_BLOCK_CHECK, SET_FACT_CHECK, SET_TEAM_CHECK, TEAMS};
use super::{read::RowError, schema::UNVERIFIED};

/// Compares a computed check value with the one in the row.
pub(super) fn verify(row: &SqliteRow, column: usize, computed: i64, what: impl Fn() -> String) -> Result<(), RowError> {
    let stored = row.try_get::<i64, _>(column)?;
    if stored == computed || stored == UNVERIFIED {
        return Ok(());
    }
    Err(RowError::Damaged(format!("{} is not as it was written: its check value differs", what())))
}

/// Rows that the migration reads at once. 128: a block is some tens of kilobytes.
const ROWS_AT_ONCE: i64 = 128;

/// The columns that a fact's check value covers. The owner is the writer, except for memory, which has no owner.
pub(super) struct FactSum<'a> {
    pub(super) kind: i64,
    pub(super) writer: &'a str,
    pub(super) key: &'a [u8],
    pub(super) version: i64,
    pub(super) event: Option<&'a [u8]>,
    pub(super) written: Option<i64>,
    pub(super) value: &'a [u8],
}

/// Hashes rows; keeps its buffer between them.
#[derive(Default)]
pub(super) struct Summer {
    bytes: Vec<u8>,
}

impl Summer {
    /// The check value of a fact.
    pub(super) fn fact(&mut self, fact: &FactSum<'_>) -> i64 {
        self.bytes.clear();
        self.number(fact.kind);
        self.number(fact.version);
        self.maybe(fact.written);
        self.part(fact.writer.as_bytes());
        self.part(fact.key);
        self.part(fact.event.unwrap_or_default());
        self.part(fact.value);
        self.finish()
    }

    /// The check value of a team's row.
    pub(super) fn team(&mut self, team: &str, epoch: i64, number: i64, cursor: i64) -> i64 {
        self.bytes.clear();
        for n in [epoch, number, cursor] {
            self.number(n);
        }
        self.part(team.as_bytes());
        self.finish()
    }

    /// The check value of a block.
    pub(super) fn block(&mut self, series: &str, start: i64, rows: i64, data: &[u8]) -> i64 {
        self.bytes.clear();
        self.number(start);
        self.number(rows);
        self.part(series.as_bytes());
        // Not copied into the buffer: it is most of the row.
        self.number(xxh3_64(data).cast_signed());
        self.number(data.len() as i64);
        self.finish()
    }

    fn number(&mut self, n: i64) {
        self.bytes.extend(n.to_le_bytes());
    }

    fn maybe(&mut self, n: Option<i64>) {
        self.bytes.push(u8::from(n.is_some()));
        self.number(n.unwrap_or(0));
    }

    /// The length goes before the bytes, so that no two rows look alike.
    fn part(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as i64);
        self.bytes.extend_from_slice(bytes);
    }

    fn finish(&self) -> i64 {
        xxh3_64(&self.bytes).cast_signed()
    }
}

/// Gives the rows of a file of version 2 their check values, within the transaction of its migration. A row that cannot
/// be decoded gets none, so that its readers and the check find it.
pub(super) async fn fill(db: &mut SqliteConnection) -> Result<(), sqlx::Error> {
    let mut names = BTreeMap::new();
    for row in db.fetch_all(NAMES).await? {
        // A text that is damaged is missing here.
        if let Ok(text) = row.try_get_unchecked::<String, _>(1) {
            names.insert(row.try_get::<i64, _>(0)?, text);
        }
    }
    let mut summer = Summer::default();
    fill_facts(db, &names, &mut summer).await?;
    fill_blocks(db, &names, &mut summer).await?;
    for row in db.fetch_all(TEAMS).await? {
        let team: i64 = row.try_get(5)?;
        let Ok(Some(text)) = row.try_get_unchecked::<Option<&str>, _>(0) else { continue };
        let sum = summer.team(text, row.try_get(1)?, row.try_get(2)?, row.try_get(3)?);
        sqlx::query(SET_TEAM_CHECK).bind(team).bind(sum).execute(&mut *db).await?;
    }
    Ok(())
}

async fn fill_facts(
    db: &mut SqliteConnection,
    names: &BTreeMap<i64, String>,
    summer: &mut Summer,
) -> Result<(), sqlx::Error> {
    let mut after = (0_i64, 0_i64, Vec::new());
    loop {
        // The key is read as bytes and compared as text, so that a key that is not valid text does not end the scan.
        let key = String::from_utf8_lossy(&after.2).into_owned();
        let query = sqlx::query(FACTS_AFTER).bind(after.0).bind(after.1).bind(key).bind(ROWS_AT_ONCE);
        let rows = query.fetch_all(&mut *db).await?;
        for row in &rows {
            let (kind, owner) = (row.try_get::<i64, _>(8)?, row.try_get::<i64, _>(0)?);
            after = (kind, owner, row.try_get_unchecked::<Vec<u8>, _>(2)?);
            let Some(sum) = sum_of(row, kind, names, summer) else { continue };
            let Ok(key) = String::from_utf8(after.2.clone()) else { continue };
            sqlx::query(SET_FACT_CHECK).bind(kind).bind(owner).bind(key).bind(sum).execute(&mut *db).await?;
        }
        if (rows.len() as i64) < ROWS_AT_ONCE {
            return Ok(());
        }
    }
}

/// The check value of a row of [`FACTS_AFTER`].
fn sum_of(row: &SqliteRow, kind: i64, names: &BTreeMap<i64, String>, summer: &mut Summer) -> Option<i64> {
    let writer = names.get(&row.try_get::<i64, _>(1).ok()?)?;
    let fact = FactSum {
        kind,
        writer,
        key: row.try_get_unchecked(2).ok()?,
        version: row.try_get(3).ok()?,
        event: row.try_get_unchecked(4).ok()?,
        value: row.try_get_unchecked(5).ok()?,
        written: row.try_get(6).ok()?,
    };
    std::str::from_utf8(fact.value).ok()?;
    Some(summer.fact(&fact))
}

async fn fill_blocks(
    db: &mut SqliteConnection,
    names: &BTreeMap<i64, String>,
    summer: &mut Summer,
) -> Result<(), sqlx::Error> {
    let mut after = i64::MIN;
    loop {
        let rows = sqlx::query(BLOCKS_AFTER).bind(after).bind(ROWS_AT_ONCE).fetch_all(&mut *db).await?;
        for row in &rows {
            after = row.try_get(5)?;
            let Some(series) = names.get(&row.try_get::<i64, _>(4)?) else { continue };
            let sum = summer.block(series, row.try_get(0)?, row.try_get(1)?, row.try_get_unchecked(2)?);
            sqlx::query(SET_BLOCK_CHECK).bind(after).bind(sum).execute(&mut *db).await?;
        }
        if (rows.len() as i64) < ROWS_AT_ONCE {
            return Ok(());
        }
    }
}
