//! The tables, and how a file gets from one version of them to the next.

/// "atra" in the file's header (`PRAGMA application_id`): says whose file it is.
pub(super) const APPLICATION_ID: i64 = 0x6174_7261;

/// The version of the tables (`PRAGMA user_version`) that this build writes.
pub const SCHEMA_VERSION: u32 = 2;

/// What brings a file of version *n* to version *n* + 1, at index *n*. Never change one that was released.
pub(super) const MIGRATIONS: [&str; SCHEMA_VERSION as usize] = [V1, V2];

/// - `names`: topics, agents, callers, teams, series, each text once. Topics of memory writes have negative
///   ids, so that a partial index can hold them; all others are positive. Never deleted.
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
