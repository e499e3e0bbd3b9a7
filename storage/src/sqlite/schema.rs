//! The tables, and how a file gets from one version of them to the next.

/// "atra" in the file's header (`PRAGMA application_id`): says whose file it is.
pub(super) const APPLICATION_ID: i64 = 0x6174_7261;

/// The version of the tables (`PRAGMA user_version`) that this build writes.
pub const SCHEMA_VERSION: u32 = 3;

/// The first version whose facts, teams and blocks have check values.
pub(super) const CHECK_VALUES_FROM: u32 = 3;

/// What brings a file of version *n* to version *n* + 1, at index *n*. Never change one that was released.
pub(super) const MIGRATIONS: [&str; SCHEMA_VERSION as usize] = [V1, V2, V3];

/// - `names`: topics, agents, callers, teams, series, each text once. Topics of memory writes have negative
///   ids, so that a partial index can hold them; all others are positive. Only names of removed memory keys are
///   deleted, with their last event.
/// - `journal`: the journal. `cause` and `root` are event ids, `cause_seq` the nearest durable ancestor.
/// - `facts`: newest values. `owner` is 0 for memory, which is unique by key alone; `writer` is who wrote it.
/// - `blocks`: a rowid table, since a WITHOUT ROWID table must not hold large rows.
const V1: &str = "
CREATE TABLE meta(key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE names(id INTEGER PRIMARY KEY, text TEXT NOT NULL UNIQUE) STRICT;
CREATE TABLE journal(
    seq INTEGER PRIMARY KEY,
    id BLOB NOT NULL,
    topic INTEGER NOT NULL,
    version INTEGER NOT NULL,
    source INTEGER NOT NULL,
    time INTEGER NOT NULL,
    cause BLOB,
    root BLOB NOT NULL,
    hops INTEGER NOT NULL,
    cause_seq INTEGER,
    seen INTEGER,
    payload TEXT NOT NULL
) STRICT;
CREATE INDEX journal_cause ON journal(cause_seq) WHERE cause_seq IS NOT NULL;
CREATE INDEX journal_memory ON journal(topic, seq) WHERE topic < 0;
CREATE TABLE facts(
    kind INTEGER NOT NULL,
    owner INTEGER NOT NULL,
    key TEXT NOT NULL,
    writer INTEGER NOT NULL,
    version INTEGER NOT NULL,
    event BLOB,
    value TEXT NOT NULL,
    PRIMARY KEY(kind, owner, key)
) STRICT, WITHOUT ROWID;
CREATE TABLE teams(
    team INTEGER PRIMARY KEY,
    epoch INTEGER NOT NULL,
    number INTEGER NOT NULL,
    cursor INTEGER NOT NULL
) STRICT;
CREATE TABLE blocks(
    id INTEGER PRIMARY KEY,
    series INTEGER NOT NULL,
    start INTEGER NOT NULL,
    rows INTEGER NOT NULL,
    data BLOB NOT NULL
) STRICT;
CREATE UNIQUE INDEX blocks_start ON blocks(series, start);
";

/// `chain`: the check value of a batch, in the row of its last event. Events of version 1 have none: where the
/// chain begins is in `meta`.
const V2: &str = "
ALTER TABLE journal ADD COLUMN chain BLOB;
INSERT INTO meta(key, value)
    SELECT 'chain_origin', coalesce(max(seq), 0) || ' 00000000000000000000000000000000' FROM journal;
";

/// - `committed`, `clock`: when a batch was committed, in the row of its last event; see [`CommitTime`](crate::CommitTime).
///   Events of older versions have none: `timed_from` in `meta` is the last of them.
/// - `written`: for idempotency keys and effect results, the commit clock when the fact was written.
/// - `check_value`: XXH3 over the row; the Rust part of the migration computes it for the rows that are there.
/// - `topic_index`: see `topics.rs`. It is filled when the file is loaded.
const V3: &str = "
ALTER TABLE journal ADD COLUMN committed INTEGER;
ALTER TABLE journal ADD COLUMN clock INTEGER;
ALTER TABLE facts ADD COLUMN written INTEGER;
ALTER TABLE facts ADD COLUMN check_value INTEGER NOT NULL DEFAULT 0;
ALTER TABLE teams ADD COLUMN check_value INTEGER NOT NULL DEFAULT 0;
ALTER TABLE blocks ADD COLUMN check_value INTEGER NOT NULL DEFAULT 0;
CREATE TABLE topic_index(
    topic INTEGER NOT NULL,
    upto INTEGER NOT NULL,
    events INTEGER NOT NULL,
    PRIMARY KEY(topic, upto)
) STRICT, WITHOUT ROWID;
INSERT INTO meta(key, value) SELECT 'timed_from', coalesce(max(seq), 0) FROM journal;
";

/// The check value in the views of an older file: none, so nothing is verified.
pub(super) const UNVERIFIED: i64 = i64::MIN;

/// Makes a file of an older version readable with the present queries, without writing to it: views in the temporary
/// database of a reading connection hide the tables of the same names.
pub(super) fn views_of(version: u32) -> Option<String> {
    let missing = match version {
        1 => "NULL AS chain, NULL AS committed, NULL AS clock",
        2 => "NULL AS committed, NULL AS clock",
        _ => return None,
    };
    Some(format!(
        "CREATE TEMP VIEW journal AS SELECT *, {missing} FROM main.journal; \
         CREATE TEMP VIEW facts AS SELECT *, NULL AS written, {UNVERIFIED} AS check_value FROM main.facts; \
         CREATE TEMP VIEW teams AS SELECT *, {UNVERIFIED} AS check_value FROM main.teams; \
         CREATE TEMP VIEW blocks AS SELECT *, {UNVERIFIED} AS check_value FROM main.blocks; \
         CREATE TEMP VIEW topic_index AS SELECT 1 AS topic, 1 AS upto, 1 AS events WHERE 0;"
    ))
}
