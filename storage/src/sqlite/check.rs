//! Questions about a whole file: is it sound, and what is in it.

use std::{
    collections::{BTreeMap, VecDeque},
    path::Path,
};

use atra_bus::Seq;
use futures::{StreamExt as _, TryStreamExt as _, stream::BoxStream};
use serde::Serialize;
use sqlx::{Connection as _, Executor as _, Row as _, SqliteConnection, sqlite::SqliteRow};

use super::{
    SCHEMA_VERSION,
    chain::{Linking, ORIGIN_KEY, Origin},
    check_rows::rows,
    connection::{pragma, sqlite_version, used_bytes},
    error,
    files::{Log, log, size_of},
    lock::{Owner, owner},
    paths::resolve_db,
    prune::floor,
    queries::{
        CHECK_CAUSES, CHECK_CHAIN, CHECK_FACTS_AHEAD, CHECK_MEMORY, CHECK_ORPHANS, CHECK_SEQS, CHECK_TEAMS_AHEAD,
        COUNT_FACTS_BY_KIND, COUNT_ROWS, LAST_SEQ, META, ROOTS,
    },
    read::{SqliteReader, commit_time, event, payload_bytes},
    topics,
};
use crate::{FactKind, PAGE_BYTES, Read as _, StoreError, TeamRow};

/// Events that a check reads at once. 1,024: spreads the cost of looking up their names.
const ROWS_AHEAD: usize = 1_024;

/// What a check of a file found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct CheckReport {
    /// The last seq of the journal.
    pub last_seq: Seq,
    /// How many events were looked at.
    pub events: u64,
    /// The first seq that the chain of check values covers: 1, unless the journal was begun by an older atra or
    /// its beginning was pruned.
    pub chained_from: Seq,
    /// The first event of the first batch that is not as it was written.
    pub first_bad: Option<Seq>,
    /// The problems, one sentence each; at most 100 from SQLite and some for each table's rows.
    pub problems: Vec<String>,
}

impl CheckReport {
    /// Whether nothing is wrong.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.problems.is_empty()
    }
}

/// What is in a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Info {
    /// Size of the database file.
    pub file_bytes: u64,
    /// Size of the write-ahead log; 0 when there is none.
    pub wal_bytes: u64,
    /// Version of the tables in the file.
    pub schema_version: u32,
    /// Newest version that this build knows.
    pub schema_version_known: u32,
    /// Version of SQLite in this build.
    pub sqlite_version: String,
    /// Bytes of the file that hold something; the rest is used again before the file grows.
    pub used_bytes: u64,
    /// The write-ahead log, and who reads from it.
    pub log: Log,
    /// Who has the file for writing.
    pub owner: Option<Owner>,
    /// The last seq that was pruned.
    pub floor: Seq,
    /// Every team's row, sorted by name. Nothing behind the smallest cursor can be pruned.
    pub teams: Vec<TeamRow>,
    /// The last seq of the journal.
    pub last_seq: Seq,
}

/// Checks a file: its pages and indexes, the journal's order, check values and causes, the check value of each fact, team
/// and block, and memory against the journal. It verifies everything that a reader verifies, and reads every page.
///
/// # Cancel safety
/// Reads only.
///
/// # Errors
/// As [`SqliteReader::open_read_only`]. What is wrong inside the file is in the report, not an error.
pub async fn check(path: impl AsRef<Path>) -> Result<CheckReport, StoreError> {
    let reader = match SqliteReader::open_concrete(path.as_ref()).await {
        // So damaged that not even its tables can be listed.
        Err(StoreError::Damaged { what, .. }) => {
            let problems = vec![format!("the file cannot be opened: {what}")];
            return Ok(CheckReport { problems, ..CheckReport::default() });
        }
        reader => reader?,
    };
    let report = check_on(&reader).await;
    reader.close().await;
    report.map_err(|error| reader.class(&error))
}

async fn check_on(reader: &SqliteReader) -> Result<CheckReport, sqlx::Error> {
    // One transaction: a runtime may be writing.
    let mut db = reader.acquire().await?;
    let mut db = db.begin().await?;
    let mut report = CheckReport::default();
    let found = pages(&mut db, &mut report.problems).await;
    report.take("pages cannot be read", found)?;
    let found = sequence(&mut db, &mut report).await;
    report.take("the journal cannot be read", found)?;
    match Chain::check(reader, &mut db).await {
        Ok(chain) => {
            report.problems.extend(chain.problem.clone());
            (report.chained_from, report.first_bad) = (chain.origin.seq.next(), chain.first_bad);
        }
        Err(error) => report.take("check values of the journal cannot be read", Err(error))?,
    }
    let found = rows(reader, &mut db, &mut report.problems).await;
    report.take("rows cannot be read", found)?;
    let floor = floor(&mut db).await?;
    match topics::check(&mut db, floor).await {
        Ok(problem) => report.problems.extend(problem),
        Err(error) => report.take("table topic_index cannot be read", Err(error))?,
    }
    for (sql, what) in [
        (CHECK_CAUSES, "events have a cause that does not come before them"),
        (CHECK_MEMORY, "memory keys disagree with their newest write in the journal"),
        (CHECK_ORPHANS, "memory keys have no write in the journal"),
        (CHECK_FACTS_AHEAD, "facts are newer than the journal's end"),
        (CHECK_TEAMS_AHEAD, "teams are beyond the journal's end"),
    ] {
        match count(&mut db, sql).await {
            Ok(0) => {}
            Ok(found) => report.problems.push(format!("{found} {what}")),
            Err(error) => report.take(&format!("it cannot be determined whether {what}"), Err(error))?,
        }
    }
    db.rollback().await?;
    Ok(report)
}

impl CheckReport {
    /// Damage is a problem; any other error is the caller's.
    fn take(&mut self, what: &str, found: Result<(), sqlx::Error>) -> Result<(), sqlx::Error> {
        match found {
            Err(error) if error::is_damage(&error) => self.problems.push(format!("{what}: {error}")),
            found => return found,
        }
        Ok(())
    }
}

/// Whether the journal is complete from its floor to its end.
async fn sequence(db: &mut SqliteConnection, report: &mut CheckReport) -> Result<(), sqlx::Error> {
    let floor = floor(&mut *db).await?;
    let row = db.fetch_one(sqlx::query(CHECK_SEQS).bind(floor.get() as i64)).await?;
    let (n, first, last): (i64, i64, i64) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
    if first as u64 != floor.next().get() || n as u64 != (last as u64).saturating_sub(floor.get()) {
        let from = floor.next();
        report.problems.push(format!(
            "journal has {n} events of seqs {first} to {last}: it must have all from {from} on without gaps"
        ));
    }
    (report.last_seq, report.events) = (Seq(last as u64), n as u64);
    Ok(())
}

/// The problems that SQLite finds in pages and indexes. SQLite names a b-tree by its first page; this adds the table's
/// name.
async fn pages(db: &mut SqliteConnection, problems: &mut Vec<String>) -> Result<(), sqlx::Error> {
    let (mut texts, mut end) = (Vec::new(), Ok(()));
    let mut rows = db.fetch("PRAGMA integrity_check");
    loop {
        match rows.try_next().await {
            Ok(Some(row)) => texts.push(row.try_get::<String, _>(0)?),
            Ok(None) => break,
            // SQLite checks the pages first and stops at a table that it cannot open; the problems of the pages show
            // why.
            Err(error) => {
                end = Err(error);
                break;
            }
        }
    }
    drop(rows);
    texts.retain(|text| text != "ok");
    if texts.is_empty() {
        return end;
    }
    let mut roots = BTreeMap::new();
    // Without it the numbers alone are given.
    for row in db.fetch_all(ROOTS).await.unwrap_or_default() {
        let (kind, name): (String, String) = (row.try_get(1)?, row.try_get(2)?);
        roots.insert(row.try_get::<i64, _>(0)?, format!("{kind} {name}"));
    }
    // One text may have several lines, each with one problem.
    let lines = texts.iter().flat_map(|text| text.lines()).filter(|line| !line.starts_with("***"));
    problems.extend(lines.map(|line| with_table(line, &roots)));
    end.or_else(|error| if error::is_damage(&error) { Ok(()) } else { Err(error) })
}

/// Puts the name of the table or index behind `Tree N`.
fn with_table(line: &str, roots: &BTreeMap<i64, String>) -> String {
    let named = line.strip_prefix("Tree ").and_then(|rest| {
        let (number, rest) = rest.split_once(' ')?;
        Some(format!("{}: {rest}", roots.get(&number.parse().ok()?)?))
    });
    named.unwrap_or_else(|| line.to_owned())
}

/// The walk along the chain of check values.
struct Chain {
    origin: Origin,
    first_bad: Option<Seq>,
    problem: Option<String>,
}

impl Chain {
    /// Computes every link anew and stops at the first that differs: what comes after hangs on it.
    async fn check(reader: &SqliteReader, db: &mut SqliteConnection) -> Result<Self, sqlx::Error> {
        let mut chain = Self { origin: Origin::default(), first_bad: None, problem: None };
        if pragma(db, Path::new(""), "user_version").await.is_ok_and(|version| version == "1") {
            // A file of the first version that no runtime of this one has opened yet.
            chain.origin.seq = Seq(db.fetch_one(LAST_SEQ).await?.try_get::<i64, _>(0)? as u64);
            return Ok(chain);
        }
        if let Some(row) = sqlx::query(META).bind(ORIGIN_KEY).fetch_optional(&mut *db).await? {
            match Origin::parse(row.try_get(0)?) {
                Some(origin) => chain.origin = origin,
                None => return Ok(chain.bad(Seq(1), "where the chain of check values begins cannot be read")),
            }
        }
        chain.walk(reader, db).await
    }

    async fn walk(self, reader: &SqliteReader, db: &mut SqliteConnection) -> Result<Self, sqlx::Error> {
        let (mut link, mut last, mut batch) = (self.origin.link, self.origin.seq, self.origin.seq.next());
        let mut linking = Linking::after(link);
        let mut rows =
            Ahead { rows: sqlx::query(CHECK_CHAIN).bind(last.get() as i64).fetch(db), read: VecDeque::new() };
        loop {
            let row = match rows.next(reader).await {
                Ok(Some(row)) => row,
                Ok(None) if last >= batch => return Ok(self.bad(batch, &format!("it ends at seq {last} without one"))),
                Ok(None) => return Ok(self),
                Err(error) if error::is_damage(&error) => return Ok(self.bad(batch, &error.to_string())),
                Err(error) => return Err(error),
            };
            let stored = link_row(reader, &row, last, &mut linking);
            let stored =
                stored.and_then(|stored| Ok((stored, commit_time(&row, 4).map_err(|error| error.to_string())?)));
            let (stored, at) = match stored {
                Ok(found) => found,
                Err(cause) => return Ok(self.bad(batch, &cause)),
            };
            last = last.next();
            let Some(stored) = stored else { continue };
            link = linking.finish(at);
            if stored != link.as_bytes() {
                return Ok(self.bad(batch, &format!("the check value of seqs {batch} to {last} differs")));
            }
            (batch, linking) = (last.next(), Linking::after(link));
        }
    }

    fn bad(self, seq: Seq, cause: &str) -> Self {
        let problem = format!("journal is not as it was written, from seq {seq} on: {cause}");
        Self { first_bad: Some(seq), problem: Some(problem), ..self }
    }
}

/// Rows of events, read in groups so that their names are looked up together.
struct Ahead<'a> {
    rows: BoxStream<'a, Result<SqliteRow, sqlx::Error>>,
    read: VecDeque<Result<SqliteRow, sqlx::Error>>,
}

impl Ahead<'_> {
    async fn next(&mut self, reader: &SqliteReader) -> Result<Option<SqliteRow>, sqlx::Error> {
        if self.read.is_empty() {
            let mut n_bytes = 0;
            while self.read.len() < ROWS_AHEAD && n_bytes < PAGE_BYTES {
                let Some(row) = self.rows.next().await else { break };
                n_bytes += row.as_ref().map_or(PAGE_BYTES, payload_bytes);
                self.read.push_back(row);
            }
            // A name that cannot be read is reported for the row that needs it.
            let rows: Vec<&SqliteRow> = self.read.iter().filter_map(|row| row.as_ref().ok()).collect();
            if let Err(error) = reader.learn_for(&rows, |row, names| event(row, names).map(drop)).await {
                tracing::debug!(%error, "names of a page could not be read");
            }
        }
        self.read.pop_front().transpose()
    }
}

/// Adds a row to the batch's link; gives the stored link if the row is the last of its batch.
fn link_row<'a>(
    reader: &SqliteReader,
    row: &'a SqliteRow,
    last: Seq,
    linking: &mut Linking,
) -> Result<Option<&'a [u8]>, String> {
    let event = reader.with_names(|names| event(row, names)).map_err(|error| error.into_sql().to_string())?;
    let committed = event.committed;
    if committed.seq != last.next() {
        return Err(format!("seq {} follows {last}", committed.seq));
    }
    linking.add(&committed, committed.event.payload.json().map_err(|error| error.to_string())?);
    // Unchecked: a damaged row may hold anything.
    row.try_get_unchecked(3).map_err(|error| error.to_string())
}

async fn count(db: &mut SqliteConnection, sql: &'static str) -> Result<u64, sqlx::Error> {
    Ok(db.fetch_one(sql).await?.try_get::<i64, _>(0)? as u64)
}

/// Says what is in a file.
///
/// # Cancel safety
/// Reads only.
///
/// # Errors
/// As [`SqliteReader::open_read_only`].
pub async fn info(path: impl AsRef<Path>) -> Result<Info, StoreError> {
    let path = &resolve_db(path.as_ref())?;
    let reader = SqliteReader::open_concrete(path).await?;
    let info = info_on(path, &reader).await;
    reader.close().await;
    info
}

/// Numbers of rows in a file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct RowCounts {
    /// Rows per table; of the journal, the events that were not pruned.
    pub rows: Vec<(String, u64)>,
    /// Facts per kind.
    pub facts: Vec<(FactKind, u64)>,
}

/// Counts rows. Reads an index of each table but the journal, so its cost grows with the number of facts, blocks and
/// names.
///
/// # Cancel safety
/// Reads only.
///
/// # Errors
/// As [`SqliteReader::open_read_only`].
pub async fn count_rows(path: impl AsRef<Path>) -> Result<RowCounts, StoreError> {
    let reader = SqliteReader::open_concrete(path.as_ref()).await?;
    let counts = rows_on(&reader).await;
    reader.close().await;
    counts
}

async fn rows_on(reader: &SqliteReader) -> Result<RowCounts, StoreError> {
    let n_events = reader.last_seq().await?.get().saturating_sub(reader.floor().await?.get());
    let mut counts = RowCounts { rows: vec![("journal".to_owned(), n_events)], facts: Vec::new() };
    let of = |error: sqlx::Error| reader.class(&error);
    let mut db = reader.acquire().await.map_err(of)?;
    for (table, sql) in COUNT_ROWS {
        counts.rows.push((table.to_owned(), count(&mut db, sql).await.map_err(of)?));
    }
    for row in db.fetch_all(COUNT_FACTS_BY_KIND).await.map_err(of)? {
        let (kind, n): (i64, i64) = (row.try_get(0).map_err(of)?, row.try_get(1).map_err(of)?);
        counts.facts.extend(FactKind::from_number(kind).map(|kind| (kind, n as u64)));
    }
    Ok(counts)
}

async fn info_on(path: &Path, reader: &SqliteReader) -> Result<Info, StoreError> {
    let (log, owner) = (log(path), owner(path));
    let (schema_version, sqlite_version, used_bytes) = {
        let mut db = reader.acquire().await.map_err(|error| reader.class(&error))?;
        let version = pragma(&mut db, path, "user_version").await?;
        (version.parse().unwrap_or(0), sqlite_version(&mut db, path).await?, used_bytes(&mut db, path).await?)
    };
    Ok(Info {
        file_bytes: size_of(path, ""),
        wal_bytes: log.bytes,
        used_bytes,
        log,
        owner,
        floor: reader.floor().await?,
        schema_version,
        schema_version_known: SCHEMA_VERSION,
        sqlite_version,
        teams: reader.teams().await?,
        last_seq: reader.last_seq().await?,
    })
}
