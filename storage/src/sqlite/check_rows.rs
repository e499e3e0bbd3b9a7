//! The part of a file's check that verifies each fact, team and block as readers do.
//!
//! It decodes rows with the readers' own functions, so it verifies everything that a reader verifies. A damaged row is
//! named by its key. If rows cannot be read at all, the last key before them is named.

use sqlx::{Executor as _, Row as _, SqliteConnection, sqlite::SqliteRow};

use super::{
    error::is_damage,
    names::NameTable,
    queries::{BLOCKS_AFTER, FACTS_AFTER, TEAMS},
    read::{RowError, SqliteReader, block, fact, named_team},
};
use crate::FactKind;

/// Rows that are read at once. 128: a block is some tens of kilobytes.
const ROWS_AT_ONCE: i64 = 128;

/// Rows of a table that are named; the others are counted.
const NAMED_MAX: u64 = 20;

/// What is wrong with the rows of one table.
struct Findings<'a> {
    table: &'static str,
    problems: &'a mut Vec<String>,
    n: u64,
}

impl Findings<'_> {
    fn add(&mut self, cause: &str) {
        self.n += 1;
        if self.n <= NAMED_MAX {
            self.problems.push(format!("table {}: {cause}", self.table));
        }
    }

    fn finish(self) {
        if let more @ 1.. = self.n.saturating_sub(NAMED_MAX) {
            self.problems.push(format!("table {}: {more} more rows are damaged", self.table));
        }
    }
}

/// Verifies every fact, team and block.
pub(super) async fn rows(
    reader: &SqliteReader,
    db: &mut SqliteConnection,
    problems: &mut Vec<String>,
) -> Result<(), sqlx::Error> {
    facts(reader, db, Findings { table: "facts", problems, n: 0 }).await?;
    blocks(reader, db, Findings { table: "blocks", problems, n: 0 }).await?;
    let mut found = Findings { table: "teams", problems, n: 0 };
    match db.fetch_all(TEAMS).await {
        Ok(rows) => {
            for row in &rows {
                found.take(named_team(row));
            }
        }
        Err(error) if is_damage(&error) => found.add(&error.to_string()),
        Err(error) => return Err(error),
    }
    found.finish();
    Ok(())
}

impl Findings<'_> {
    /// Looks up the names of rows; names that cannot be read are reported as problems of these rows.
    async fn learn(
        &mut self,
        reader: &SqliteReader,
        rows: &[SqliteRow],
        decode: impl Fn(&SqliteRow, &NameTable) -> Result<(), RowError>,
    ) {
        let rows: Vec<&SqliteRow> = rows.iter().collect();
        if let Err(error) = reader.learn_for(&rows, decode).await {
            self.add(&format!("names cannot be read: {error}"));
        }
    }

    fn take<T>(&mut self, checked: Result<T, RowError>) {
        if let Err(error) = checked {
            self.add(&error.into_sql().to_string());
        }
    }
}

/// The position of a scan over the facts.
type FactKey = (i64, i64, Vec<u8>);

async fn facts(reader: &SqliteReader, db: &mut SqliteConnection, mut found: Findings<'_>) -> Result<(), sqlx::Error> {
    let mut after: FactKey = (i64::MIN, 0, Vec::new());
    loop {
        let rows = match facts_after(db, &after).await {
            Ok(rows) => rows,
            Err(error) if is_damage(&error) => {
                let (kind, owner, key) = &after;
                let owner = reader
                    .with_names(|names| names.name(*owner))
                    .map_or_else(|_| String::new(), |name| name.to_string());
                let key = String::from_utf8_lossy(key);
                found.add(&format!("rows cannot be read after kind {kind}, owner {owner:?}, key {key:?}: {error}"));
                break;
            }
            Err(error) => return Err(error),
        };
        found.learn(reader, &rows, checked_fact).await;
        for row in &rows {
            found.take(reader.with_names(|names| checked_fact(row, names)));
            // Unchecked: a damaged row may hold anything.
            after = (number(row, 8), number(row, 0), row.try_get_unchecked(2).unwrap_or_default());
        }
        if (rows.len() as i64) < ROWS_AT_ONCE {
            break;
        }
    }
    found.finish();
    Ok(())
}

async fn facts_after(db: &mut SqliteConnection, after: &FactKey) -> Result<Vec<SqliteRow>, sqlx::Error> {
    let key = String::from_utf8_lossy(&after.2).into_owned();
    sqlx::query(FACTS_AFTER).bind(after.0).bind(after.1).bind(key).bind(ROWS_AT_ONCE).fetch_all(db).await
}

fn number(row: &SqliteRow, column: usize) -> i64 {
    row.try_get(column).unwrap_or_default()
}

fn checked_fact(row: &SqliteRow, names: &NameTable) -> Result<(), RowError> {
    let number: i64 = row.try_get(8)?;
    let kind = FactKind::from_number(number);
    let kind = kind.ok_or_else(|| RowError::Damaged(format!("a fact has the unknown kind {number}")))?;
    fact(row, names, kind).map(drop)
}

async fn blocks(reader: &SqliteReader, db: &mut SqliteConnection, mut found: Findings<'_>) -> Result<(), sqlx::Error> {
    let mut after = i64::MIN;
    loop {
        let rows = match sqlx::query(BLOCKS_AFTER).bind(after).bind(ROWS_AT_ONCE).fetch_all(&mut *db).await {
            Ok(rows) => rows,
            Err(error) if is_damage(&error) => {
                found.add(&format!("rows cannot be read after row {after}: {error}"));
                break;
            }
            Err(error) => return Err(error),
        };
        let checked = |row: &SqliteRow, names: &NameTable| block(row, &names.name(row.try_get(4)?)?).map(drop);
        found.learn(reader, &rows, checked).await;
        for row in &rows {
            found.take(reader.with_names(|names| checked(row, names)));
            after = row.try_get(5)?;
        }
        if (rows.len() as i64) < ROWS_AT_ONCE {
            break;
        }
    }
    found.finish();
    Ok(())
}
