//! The write path: one batch, one transaction, few round trips to the connection's thread.
//!
//! A batch becomes a list of [`Call`]s. Large multi-row statements go alone; small ones are joined into
//! one text with binds, since a round trip costs more than a small statement.

use std::{borrow::Cow, pin::Pin, sync::Arc, task::Poll};

use atra_bus::Committed;
use futures::TryStreamExt;
use sqlx::{
    Arguments as _, AssertSqlSafe, Either, Executor as _, SqlSafeStr as _, SqliteConnection, sqlite::SqliteArguments,
};

use super::{
    chain::{Link, Linking},
    names::BatchNames,
    newest::Seen,
    queries::{
        BEGIN, BySize, COMMIT, DELETE_FACT, INSERT_EVENTS, INSERT_LAST_EVENTS, INSERT_NAMES, INSERT_TEAM,
        INSERT_TOPICS, SIZES, UPDATE_TEAM, UPSERT_BLOCKS, UPSERT_FACTS,
    },
    sums::{FactSum, Summer},
    topics::{Ended, Tally, Topics},
};
use crate::{CommitTime, FactKind, StoreError, TeamMove, WriteBatch};

/// Statements with fewer rows than this are joined, up to this many rows in a call.
const JOINED_ROWS_MAX: usize = 64;

/// Events in the first call of a large batch: enough that the round trip does not show, few enough that the
/// connection's thread does not wait long for its first rows.
const FIRST_ROWS_MAX: usize = 64;

/// Values of an event's row, without those of the end of a batch.
const EVENT_VALUES: usize = 12;
/// Additional values in the row of the last event of a batch.
const END_VALUES: usize = 3;

/// What the row of the last event of a batch has besides the event.
#[derive(Clone, Copy)]
struct BatchEnd {
    link: Link,
    at: Option<CommitTime>,
}

/// One text for the connection, with its values.
struct Call<'a> {
    sql: Cow<'static, str>,
    values: SqliteArguments,
    n_rows: usize,
    n_statements: usize,
    /// Statements that must change exactly one row: (index in the text, the move).
    moves: Vec<(usize, &'a TeamMove)>,
}

/// Collects statements into calls.
struct Script<'a> {
    calls: Vec<Call<'a>>,
    is_begun: bool,
}

/// Why a batch was not written.
pub(super) enum WriteError {
    Sql(sqlx::Error),
    Refused(StoreError),
}

impl From<sqlx::Error> for WriteError {
    fn from(error: sqlx::Error) -> Self {
        Self::Sql(error)
    }
}

/// A value that cannot be bound; none of ours can fail, but the driver's interface may.
fn unbound(error: sqlx::error::BoxDynError) -> WriteError {
    WriteError::Sql(sqlx::Error::Encode(error))
}

impl<'a> Script<'a> {
    fn new() -> Self {
        Self { calls: Vec::new(), is_begun: false }
    }

    /// Adds a statement of `n_rows` rows, whose values `bind` pushes.
    fn add(
        &mut self,
        sql: &'static str,
        n_rows: usize,
        moved: Option<&'a TeamMove>,
        bind: impl FnOnce(&mut SqliteArguments) -> Result<(), sqlx::error::BoxDynError>,
    ) -> Result<(), WriteError> {
        // BEGIN and COMMIT bring no rows: they go with whatever is beside them.
        let fits = |call: &Call<'_>| call.n_rows == 0 || n_rows == 0 || call.n_rows + n_rows <= JOINED_ROWS_MAX;
        let is_joined = self.calls.last().is_some_and(fits);
        if is_joined && let Some(call) = self.calls.last_mut() {
            call.sql.to_mut().push_str(sql);
        } else {
            self.calls.push(Call {
                sql: Cow::Borrowed(sql),
                values: SqliteArguments::default(),
                n_rows: 0,
                n_statements: 0,
                moves: Vec::new(),
            });
        }
        let call = self.calls.last_mut().expect("a call was there or has just been pushed");
        if let Some(moved) = moved {
            call.moves.push((call.n_statements, moved));
        }
        call.n_rows += n_rows;
        call.n_statements += 1;
        bind(&mut call.values).map_err(unbound)
    }

    /// Adds rows as multi-row statements of the fixed sizes.
    fn add_rows<T>(
        &mut self,
        statements: &'static BySize,
        mut rows: &[T],
        mut bind: impl FnMut(&T, &mut SqliteArguments) -> Result<(), sqlx::error::BoxDynError>,
    ) -> Result<(), WriteError> {
        for (size, sql) in SIZES.iter().zip(statements.iter()) {
            while rows.len() >= *size {
                let (these, rest) = rows.split_at(*size);
                self.add(sql, *size, None, |values| these.iter().try_for_each(|row| bind(row, values)))?;
                rows = rest;
            }
        }
        Ok(())
    }

    /// Adds events as one statement, of a fixed size; with `end`, the last one carries it.
    fn add_events(&mut self, rows: &[EventRow<'_>], end: Option<BatchEnd>) -> Result<(), WriteError> {
        let size = SIZES.iter().position(|size| *size == rows.len()).expect("rows were cut to a fixed size");
        let sql = if end.is_some() { &INSERT_LAST_EVENTS[size] } else { &INSERT_EVENTS[size] };
        self.add(sql, rows.len(), None, |values| {
            values.reserve(rows.len() * EVENT_VALUES + END_VALUES, 0);
            rows.iter().try_for_each(|row| bind_event(row, values))?;
            let Some(BatchEnd { link, at }) = end else { return Ok(()) };
            values.add(link.as_bytes().to_vec())?;
            values.add(at.map(|at| at.wall.millis()))?;
            values.add(at.map(|at| at.clock.millis()))
        })
    }

    /// Opens the transaction in front of everything else, if that is not done.
    fn begin(&mut self) {
        if std::mem::replace(&mut self.is_begun, true) {
            return;
        }
        if let Some(first) = self.calls.first_mut() {
            first.sql.to_mut().insert_str(0, BEGIN);
            first.n_statements += 1;
            first.moves.iter_mut().for_each(|(at, _)| *at += 1);
        }
    }

    /// One statement is a transaction by itself. With BEGIN and COMMIT around it the connection's thread has three
    /// results to give, and each wakes the actor.
    fn is_one_statement(&self) -> bool {
        !self.is_begun && self.calls.iter().map(|call| call.n_statements).sum::<usize>() <= 1
    }

    /// The calls that are complete; the last one may still grow.
    fn take_full(&mut self) -> impl Iterator<Item = Call<'a>> {
        if self.calls.len() > 1 {
            self.begin();
        }
        self.calls.drain(..self.calls.len().saturating_sub(1))
    }
}

/// Stands for the id of a name that must be looked up.
const UNKNOWN: i64 = 0;

/// The event's row: its ids, and the number of its topic and source.
struct EventRow<'a> {
    committed: &'a Committed,
    topic: i64,
    source: i64,
    payload: &'a Arc<str>,
}

/// What became of a batch.
pub(super) struct Written {
    /// Names that are known when the transaction is committed.
    pub(super) names: Vec<(Arc<str>, i64)>,
    /// What the topic index has then: a stretch that ended, or events since the last one.
    pub(super) topics: Counted,
    /// The topics of the batch.
    pub(super) seen: Seen,
    /// What the next batch is chained to.
    pub(super) link: Link,
    /// Whether the transaction is committed. It is in one text with the rest when nothing has to be looked at before:
    /// a team's move is checked first.
    pub(super) is_committed: bool,
}

/// The events of a batch, by topic.
pub(super) enum Counted {
    Ended(Ended),
    Since(Tally),
}

/// Sends everything, in one transaction. The rows of a call are bound while the connection's thread works on the call
/// before it: in large batches half of the work is done beside the other half.
///
/// On an error the transaction may still be open: the caller rolls back.
pub(super) async fn write(
    db: &mut SqliteConnection,
    batch: &WriteBatch,
    mut names: BatchNames<'_>,
    topics: &Topics,
    before: Link,
) -> Result<Written, WriteError> {
    let (mut script, mut pipe) = (Script::new(), Pipe::Idle(db));
    let (mut linking, mut link) = (Linking::after(before), before);
    let mut events = batch.events.as_slice();
    let (mut tally, mut seen) = (Tally::default(), Seen::default());
    // The first call of a large batch is small, so that the thread has something to do soon.
    let mut rows_max = if events.len() < 2 * SIZES[0] { SIZES[0] } else { FIRST_ROWS_MAX };
    while let Some(size) = SIZES.into_iter().find(|size| *size <= events.len().min(rows_max)) {
        rows_max = SIZES[0];
        let (these, rest) = events.split_at(size);
        let mut rows = event_rows(these, &mut names, &mut linking)?;
        if rows.iter().any(|row| row.topic == UNKNOWN || row.source == UNKNOWN) {
            let db = pipe.settle().await?;
            find_names(&mut rows, &mut names, db).await?;
            pipe = Pipe::Idle(db);
        }
        for row in &rows {
            tally.add(row.topic);
            seen.add(row.topic, &row.committed.event.topic);
        }
        let at = batch.committed_at;
        let end = rest.is_empty().then(|| BatchEnd { link: linking.finish(at), at });
        link = end.map_or(link, |end| end.link);
        script.add_events(&rows, end)?;
        for call in script.take_full() {
            pipe = pipe.start(call).await?;
        }
        events = rest;
    }
    let others = batch.facts.iter().map(|fact| fact.owner.as_str());
    let others = others.chain(batch.teams.iter().map(|moved| moved.to.team.as_str()));
    let others = others.chain(batch.blocks.iter().map(|block| block.series.as_str()));
    let missing = names.missing(others);
    if !missing.is_empty() {
        let db = pipe.settle().await?;
        names.find(missing, db).await?;
        pipe = Pipe::Idle(db);
    }
    add_facts(&mut script, batch, &mut names)?;
    add_teams(&mut script, batch, &mut names)?;
    let blocks: Vec<_> = batch.blocks.iter().map(|block| (names.id(block.series.as_str()), block)).collect();
    let mut summer = Summer::default();
    script.add_rows(&UPSERT_BLOCKS, &blocks, |(series, block), values| {
        let rows = i64::from(block.rows);
        values.add(*series)?;
        values.add(block.start)?;
        values.add(rows)?;
        values.add(&*block.data)?;
        values.add(summer.block(block.series.as_str(), block.start, rows, &block.data))
    })?;
    let (new, found) = names.into_parts();
    script.add_rows(&INSERT_NAMES, &new, |(text, id), values| {
        values.add(*id)?;
        values.add(&**text)
    })?;
    let ended = batch.events.last().and_then(|last| topics.ends(last.seq, &tally));
    if let Some(ended) = &ended {
        script.add_rows(&INSERT_TOPICS, &ended.rows, |(topic, upto, n_events), values| {
            values.add(*topic)?;
            values.add(*upto)?;
            values.add(*n_events)
        })?;
    }
    let is_alone = script.is_one_statement();
    let is_committed = is_alone || batch.teams.is_empty();
    if !is_alone {
        script.begin();
        if is_committed {
            script.add(COMMIT, 0, None, |_| Ok(()))?;
        }
    }
    for call in script.calls {
        pipe = pipe.start(call).await?;
    }
    pipe.settle().await?;
    let topics = ended.map_or(Counted::Since(tally), Counted::Ended);
    let names = new.into_iter().chain(found).collect();
    Ok(Written { names, topics, seen, link, is_committed })
}

/// A connection with at most one call on its way.
enum Pipe<'a> {
    Idle(&'a mut SqliteConnection),
    Busy(Sending<'a>),
}

/// A call on its way; gives the connection back.
type Sending<'a> = Pin<Box<dyn Future<Output = Result<&'a mut SqliteConnection, WriteError>> + Send + 'a>>;

impl<'a> Pipe<'a> {
    /// Waits for the call before, and hands this one to the connection's thread without waiting for its end.
    async fn start(self, call: Call<'a>) -> Result<Self, WriteError> {
        let db = self.settle().await?;
        let mut sending: Sending<'a> = Box::pin(async move {
            send(db, call).await?;
            Ok(db)
        });
        // The first poll puts the call into the thread's queue.
        match futures::poll!(&mut sending) {
            Poll::Ready(sent) => sent.map(Self::Idle),
            Poll::Pending => Ok(Self::Busy(sending)),
        }
    }

    async fn settle(self) -> Result<&'a mut SqliteConnection, WriteError> {
        match self {
            Self::Idle(db) => Ok(db),
            Self::Busy(sending) => sending.await,
        }
    }
}

/// Looks the names up that were not known.
async fn find_names(
    rows: &mut [EventRow<'_>],
    names: &mut BatchNames<'_>,
    db: &mut SqliteConnection,
) -> Result<(), WriteError> {
    let texts = rows.iter().flat_map(|row| [row.committed.event.topic.as_str(), row.committed.event.source.as_str()]);
    let missing = names.missing(texts);
    names.find(missing, db).await?;
    for row in rows {
        row.topic = names.id(row.committed.event.topic.as_str());
        row.source = names.id(row.committed.event.source.as_str());
    }
    Ok(())
}

/// Looks up the names of events, as far as they are known, and adds the events to the link.
fn event_rows<'a>(
    events: &'a [Committed],
    names: &mut BatchNames<'_>,
    linking: &mut Linking,
) -> Result<Vec<EventRow<'a>>, WriteError> {
    let row = |committed: &'a Committed| {
        let event = &committed.event;
        let payload = event.payload.shared_json().map_err(|error| {
            WriteError::Refused(StoreError::Invalid(format!("event {} on {}: {error}", event.id, event.topic)))
        })?;
        linking.add(committed, payload);
        let mut id = |text| names.get(text).unwrap_or(UNKNOWN);
        let (topic, source) = (id(event.topic.as_str()), id(event.source.as_str()));
        Ok(EventRow { committed, topic, source, payload })
    };
    events.iter().map(row).collect()
}

fn bind_event(row: &EventRow<'_>, values: &mut SqliteArguments) -> Result<(), sqlx::error::BoxDynError> {
    let event = &row.committed.event;
    values.add(row.committed.seq.get() as i64)?;
    values.add(event.id.as_bytes().as_slice())?;
    values.add(row.topic)?;
    values.add(i64::from(event.version))?;
    values.add(row.source)?;
    values.add(event.time.millis())?;
    values.add(event.cause.as_ref().map(|id| id.as_bytes().as_slice()))?;
    values.add(event.root.as_bytes().as_slice())?;
    values.add(i64::from(event.hops))?;
    values.add(row.committed.cause_seq.map(|seq| seq.get() as i64))?;
    values.add(row.committed.seen.map(|seq| seq.get() as i64))?;
    values.add(Arc::clone(row.payload))
}

fn add_facts(script: &mut Script<'_>, batch: &WriteBatch, names: &mut BatchNames<'_>) -> Result<(), WriteError> {
    let (mut written, mut removed) = (Vec::with_capacity(batch.facts.len()), Vec::new());
    for fact in &batch.facts {
        let writer = names.id(fact.owner.as_str());
        let owner = if fact.kind == FactKind::Memory { 0 } else { writer };
        match &fact.value {
            Some(value) => written.push((fact, owner, writer, value)),
            None => removed.push((fact, owner)),
        }
    }
    // In the order of the table: neighbours are on one page.
    written.sort_unstable_by(|(a, a_owner, ..), (b, b_owner, ..)| {
        (a.kind, a_owner, &a.key).cmp(&(b.kind, b_owner, &b.key))
    });
    let (mut summer, clock) = (Summer::default(), batch.committed_at.map(|at| at.clock.millis()));
    script.add_rows(&UPSERT_FACTS, &written, |(fact, owner, writer, value), values| {
        let (kind, version) = (fact.kind as i64, fact.version.get() as i64);
        let event = fact.event.as_ref().map(|id| id.as_bytes().as_slice());
        let at = clock.filter(|_| fact.kind.expires());
        values.add(kind)?;
        values.add(*owner)?;
        values.add(fact.key.as_str())?;
        values.add(*writer)?;
        values.add(version)?;
        values.add(event)?;
        values.add(Arc::clone(value))?;
        values.add(at)?;
        let (writer, key, value) = (fact.owner.as_str(), fact.key.as_bytes(), value.as_bytes());
        values.add(summer.fact(&FactSum { kind, writer, key, version, event, written: at, value }))
    })?;
    for (fact, owner) in removed {
        script.add(DELETE_FACT, 1, None, |values| {
            values.add(fact.kind as i64)?;
            values.add(owner)?;
            values.add(fact.key.as_str())
        })?;
    }
    Ok(())
}

fn add_teams<'a>(script: &mut Script<'a>, batch: &'a WriteBatch, names: &mut BatchNames<'_>) -> Result<(), WriteError> {
    let mut summer = Summer::default();
    for moved in &batch.teams {
        let team = names.id(moved.to.team.as_str());
        let [epoch, number, cursor] = [moved.to.epoch, moved.to.number, moved.to.cursor.get()].map(|n| n as i64);
        let to = [epoch, number, cursor, summer.team(moved.to.team.as_str(), epoch, number, cursor)];
        match &moved.from {
            None => script.add(INSERT_TEAM, 1, Some(moved), |values| {
                values.add(team)?;
                to.into_iter().try_for_each(|n| values.add(n))
            })?,
            Some(from) => script.add(UPDATE_TEAM, 1, Some(moved), |values| {
                to.into_iter().try_for_each(|n| values.add(n))?;
                values.add(team)?;
                [from.epoch, from.number, from.cursor.get()].into_iter().try_for_each(|n| values.add(n as i64))
            })?,
        }
    }
    Ok(())
}

/// Sends one call and checks that each move changed its row.
async fn send(db: &mut SqliteConnection, call: Call<'_>) -> Result<(), WriteError> {
    let sql = match call.sql {
        Cow::Borrowed(sql) => sql.into_sql_str(),
        Cow::Owned(sql) => AssertSqlSafe(sql).into_sql_str(),
    };
    let query = sqlx::query_with(sql, call.values).persistent(true);
    let mut results = db.fetch_many(query);
    let (mut index, mut moves) = (0, call.moves.iter().peekable());
    while let Some(result) = results.try_next().await? {
        let Either::Left(done) = result else { continue };
        if let Some((_, moved)) = moves.next_if(|(at, _)| *at == index)
            && done.rows_affected() != 1
        {
            let (epoch, number) = moved.from.as_ref().map_or((0, 0), |row| (row.epoch, row.number));
            let team = moved.to.team.clone();
            return Err(WriteError::Refused(StoreError::Conflict { team, epoch, number }));
        }
        index += 1;
    }
    // Fewer results than statements would mean that a move went unchecked.
    assert_eq!(index, call.n_statements, "every statement of a call answers once");
    Ok(())
}
