//! All SQL of this crate: one registry, so that a test can hold the plan of each query.
//!
//! Statements of several rows come in fixed sizes ([`SIZES`]), which keeps the statement cache hot.

use std::sync::LazyLock;

/// Rows of one multi-row statement, largest first. Any number of rows is a sum of few of these.
pub(super) const SIZES: [usize; 9] = [256, 128, 64, 32, 16, 8, 4, 2, 1];

pub(super) type BySize = LazyLock<[String; SIZES.len()]>;

fn by_size(head: &str, row: &str, tail: &str) -> [String; SIZES.len()] {
    SIZES.map(|n| format!("{head} VALUES {}{tail};", vec![row; n].join(",")))
}

// === write ===

pub(super) const BEGIN: &str = "BEGIN IMMEDIATE;";
pub(super) const COMMIT: &str = "COMMIT;";
pub(super) const ROLLBACK: &str = "ROLLBACK;";

pub(super) static INSERT_NAMES: BySize = LazyLock::new(|| by_size("INSERT INTO names(id, text)", "(?,?)", ""));

pub(super) static INSERT_EVENTS: BySize = LazyLock::new(|| {
    let columns = "seq, id, topic, version, source, time, cause, root, hops, cause_seq, seen, payload";
    by_size(&format!("INSERT INTO journal({columns})"), "(?,?,?,?,?,?,?,?,?,?,?,?)", "")
});

/// As `INSERT_EVENTS`; the last row is the last of its batch and has the check value and the commit time.
pub(super) static INSERT_LAST_EVENTS: BySize = LazyLock::new(|| {
    let columns = "seq, id, topic, version, source, time, cause, root, hops, cause_seq, seen, payload, chain, committed, \
                   clock";
    SIZES.map(|n| {
        let before = "(?,?,?,?,?,?,?,?,?,?,?,?,NULL,NULL,NULL),".repeat(n - 1);
        format!("INSERT INTO journal({columns}) VALUES {before}(?,?,?,?,?,?,?,?,?,?,?,?,?,?,?);")
    })
});

pub(super) static UPSERT_FACTS: BySize = LazyLock::new(|| {
    by_size(
        "INSERT INTO facts(kind, owner, key, writer, version, event, value, written, check_value)",
        "(?,?,?,?,?,?,?,?,?)",
        " ON CONFLICT(kind, owner, key) DO UPDATE SET writer = excluded.writer, version = excluded.version, \
         event = excluded.event, value = excluded.value, written = excluded.written, \
         check_value = excluded.check_value",
    )
});

pub(super) static UPSERT_BLOCKS: BySize = LazyLock::new(|| {
    by_size(
        "INSERT INTO blocks(series, start, rows, data, check_value)",
        "(?,?,?,?,?)",
        " ON CONFLICT(series, start) DO UPDATE SET rows = excluded.rows, data = excluded.data, \
         check_value = excluded.check_value",
    )
});

pub(super) const DELETE_FACT: &str = "DELETE FROM facts WHERE kind = ? AND owner = ? AND key = ?;";
pub(super) const INSERT_TEAM: &str =
    "INSERT INTO teams(team, epoch, number, cursor, check_value) VALUES (?,?,?,?,?) ON CONFLICT(team) DO NOTHING;";
pub(super) const UPDATE_TEAM: &str = "UPDATE teams SET epoch = ?, number = ?, cursor = ?, check_value = ? \
     WHERE team = ? AND epoch = ? AND number = ? AND cursor = ?;";

// === prune ===

/// Older writes of memory keys that were written in (?1, ?2], except for the newest of each.
pub(super) const PRUNE_OLDER_WRITES: &str = "DELETE FROM journal WHERE seq IN (SELECT older.seq FROM \
     (SELECT topic, max(seq) AS seq FROM journal WHERE seq > ?1 AND seq <= ?2 AND +topic < 0 GROUP BY topic) AS newest \
     JOIN journal AS older ON older.topic = newest.topic AND older.topic < 0 AND older.seq < newest.seq)";
/// Events in (?1, ?2], except for the newest write of a memory key that exists, starts of teams, and the ids in the list
/// ?3 of hexadecimal texts. The plus keeps the planner at the range of seqs.
pub(super) const PRUNE: &str = "DELETE FROM journal WHERE seq > ?1 AND seq <= ?2 \
     AND (+topic > 0 OR payload = 'null') \
     AND topic NOT IN (SELECT id FROM names WHERE text = 'sys.team.started') \
     AND hex(id) NOT IN (SELECT value FROM json_each(?3))";
/// Memory keys that were removed in (?1, ?2], by the ids of their topics.
pub(super) const REMOVED_KEYS: &str =
    "SELECT topic FROM journal WHERE seq > ?1 AND seq <= ?2 AND +topic < 0 AND payload = 'null'";
/// The name of a memory key without events, except the name with the lowest id: its id must not be used again.
pub(super) const FREE_NAME: &str = "DELETE FROM names WHERE id = ?1 AND id < 0 \
     AND id > (SELECT min(id) FROM names) \
     AND NOT EXISTS (SELECT 1 FROM journal WHERE journal.topic = names.id AND journal.topic < 0) RETURNING text";
/// Facts of kind ?1 behind (?2, ?3).
pub(super) const EXPIRY_PAGE: &str = "SELECT owner, key FROM facts \
     WHERE kind = ?1 AND (owner, key) > (?2, ?3) ORDER BY owner, key LIMIT ?4";
/// Of those in ((?2, ?3), (?4, ?5)] what was written before ?6 and at a smaller seq than ?7; what has no time counts as
/// written at ?8.
pub(super) const EXPIRE: &str = "DELETE FROM facts WHERE kind = ?1 \
     AND (owner, key) > (?2, ?3) AND (owner, key) <= (?4, ?5) \
     AND coalesce(written, ?8) < ?6 AND version < ?7 AND value <> '\"intent\"'";
pub(super) const NAME_OF: &str = "SELECT text FROM names WHERE id = ?1";
/// What says that an event is still needed.
pub(super) const NEEDED: &str = "SELECT key FROM facts WHERE kind IN (5, 6) OR (kind = 7 AND value = ?1)";
/// The last batch that ends in (?1, ?2], and the first: seq and check value.
pub(super) const LAST_BATCH_END: &str = "SELECT seq, chain FROM journal \
     WHERE seq > ?1 AND seq <= ?2 AND chain IS NOT NULL ORDER BY seq DESC LIMIT 1";
pub(super) const FIRST_BATCH_END: &str = "SELECT seq, chain FROM journal \
     WHERE seq > ?1 AND seq <= ?2 AND chain IS NOT NULL ORDER BY seq LIMIT 1";
pub(super) const FLOOR: &str = "SELECT CAST(value AS INTEGER) FROM meta WHERE key = 'journal_floor'";
pub(super) const SET_META: &str = "INSERT INTO meta(key, value) VALUES (?1, ?2) \
     ON CONFLICT(key) DO UPDATE SET value = excluded.value";

/// Everything that runs have written; blocks are not of a run, and names stay.
pub(super) const FORGET_RUNS: &str = "BEGIN IMMEDIATE; DELETE FROM journal; DELETE FROM facts; DELETE FROM teams; \
     DELETE FROM topic_index; DELETE FROM meta WHERE key IN ('chain_origin', 'journal_floor', 'timed_from'); \
     INSERT INTO meta(key, value) VALUES ('journal_generation', '1') \
     ON CONFLICT(key) DO UPDATE SET value = CAST(CAST(value AS INTEGER) + 1 AS TEXT); COMMIT;";
/// How often the journal was reset.
pub(super) const GENERATION: &str = "SELECT CAST(value AS INTEGER) FROM meta WHERE key = 'journal_generation'";

/// A team's row.
pub(super) const FORGET_TEAM: &str = "DELETE FROM teams WHERE team = (SELECT id FROM names WHERE text = ?1)";
/// What a team or one of its members goes on with: state, offsets, timers, attempt marks, marks of the runtime.
pub(super) const FORGET_FACTS: &str = "DELETE FROM facts WHERE kind IN (2, 3, 4, 6, 9) \
     AND owner = (SELECT id FROM names WHERE text = ?1)";

// === read ===

/// The columns of an event, in three values: every value of a row costs an allocation and a copy on its way
/// through the driver, which made twelve of them most of the price of a bulk read. The ids are one blob (id,
/// root, and the cause if there is one), the numbers one text; `seen` is −1 for none, `cause_seq` 0.
macro_rules! events {
    () => {
        events!("")
    };
    ($more:literal) => {
        concat!(
            "SELECT concat_ws(' ', seq, topic, version, source, time, hops, coalesce(cause_seq, 0), \
             coalesce(seen, -1)), CAST(id || root || coalesce(cause, x'') AS BLOB), payload",
            $more,
            " FROM journal"
        )
    };
}

pub(super) const LAST_SEQ: &str = "SELECT coalesce(max(seq), 0) FROM journal";
/// The last seq and the check value in its row.
pub(super) const LAST_LINK: &str = "SELECT seq, chain, committed, clock FROM journal ORDER BY seq DESC LIMIT 1";
/// The greatest id of a name, and the least; 0 if there is none.
pub(super) const NAMES_ENDS: &str = "SELECT max(coalesce((SELECT max(id) FROM names), 0), 0), \
     min(coalesce((SELECT min(id) FROM names), 0), 0)";
/// Names whose ids are in a list, whose texts are, and those with texts in [?1, ?2). A cross join keeps the order of the
/// loops.
pub(super) const NAMES_OF_IDS: &str =
    "SELECT names.id, text FROM json_each(?1) AS wanted CROSS JOIN names ON names.id = wanted.value";
pub(super) const NAMES_OF_TEXTS: &str =
    "SELECT names.id, text FROM json_each(?1) AS wanted CROSS JOIN names ON names.text = wanted.value";
pub(super) const NAMES_IN_RANGE: &str =
    "SELECT id, text FROM names WHERE text >= ?1 AND text < ?2 ORDER BY text LIMIT ?3";
/// Names that came after the known ones: ids grow away from zero in both directions.
pub(super) const NAMES_AFTER: &str =
    "SELECT id, text FROM names WHERE id > ?1 UNION ALL SELECT id, text FROM names WHERE id < ?2";

pub(super) const JOURNAL: &str = concat!(events!(), " WHERE seq > ?1 AND seq <= ?2 ORDER BY seq LIMIT ?3");
/// As `JOURNAL`, for topics in a list or unknown to the reader, and sources that are not in a list.
pub(super) const JOURNAL_WANTED: &str = concat!(
    events!(),
    " WHERE seq > ?1 AND seq <= ?2 \
     AND (topic IN (SELECT value FROM json_each(?4)) OR topic > ?5 OR topic < ?6) \
     AND source NOT IN (SELECT value FROM json_each(?7)) ORDER BY seq LIMIT ?3"
);
pub(super) const TAIL: &str = concat!(events!(), " WHERE seq < ?2 ORDER BY seq DESC LIMIT ?1");
/// The writes of one memory key. `topic < 0` is what lets the planner use the partial index.
pub(super) const TAIL_OF_KEY: &str =
    concat!(events!(), " WHERE seq < ?2 AND topic = ?3 AND topic < 0 ORDER BY seq DESC LIMIT ?1");
pub(super) const TAIL_WANTED: &str = concat!(
    events!(),
    " \
     WHERE seq < ?2 AND seq > ?7 AND (topic IN (SELECT value FROM json_each(?3)) OR topic > ?4 OR topic < ?5) \
     AND source NOT IN (SELECT value FROM json_each(?6)) ORDER BY seq DESC LIMIT ?1"
);
/// When the first batch that ends in (?1, ?2] with a commit time was committed: its last seq, and the time twice.
pub(super) const COMMIT_TIME: &str = "SELECT seq, committed, clock FROM journal \
     WHERE seq > ?1 AND seq <= ?2 AND clock IS NOT NULL ORDER BY seq LIMIT 1";
/// The same of the last batch that ends before ?1.
pub(super) const COMMIT_TIME_BEFORE: &str = "SELECT seq, committed, clock FROM journal \
     WHERE seq < ?1 AND clock IS NOT NULL ORDER BY seq DESC LIMIT 1";
pub(super) const EFFECTS_OF: &str = concat!(events!(), " WHERE cause_seq = ?1 ORDER BY seq LIMIT ?2");
/// `topic < 0` is what lets the planner use the partial index: memory topics have negative ids.
pub(super) const MEMORY_AS_OF: &str = concat!(
    events!(),
    " WHERE topic = (SELECT id FROM names WHERE text = ?1) AND topic < 0 \
     AND seq <= ?2 ORDER BY seq DESC LIMIT 1"
);

// === the topic index ===

/// Events by topic in (?1, ?2], those of memory as one.
pub(super) const COUNT_TOPICS: &str = "SELECT CASE WHEN topic < 0 THEN -1 ELSE topic END AS counted, count(*) \
     FROM journal WHERE seq > ?1 AND seq <= ?2 GROUP BY counted";
pub(super) static INSERT_TOPICS: BySize =
    LazyLock::new(|| by_size("INSERT INTO topic_index(topic, upto, events)", "(?,?,?)", ""));
pub(super) const INSERT_TOPIC: &str = "INSERT INTO topic_index(topic, upto, events) VALUES (?1, ?2, ?3)";
/// The end of the last stretch.
pub(super) const LAST_STRETCH: &str = "SELECT max(upto) FROM topic_index WHERE topic = 0";
/// Up to where events were not counted, since they had been pruned before.
pub(super) const UNCOUNTED: &str = "SELECT min(upto) FROM topic_index WHERE topic = 0 AND events = 0";
/// The newest row of each topic: from each topic to the next one, so that the other rows are not read.
pub(super) const TOPIC_TOTALS: &str = "WITH RECURSIVE topics(topic) AS (SELECT min(topic) FROM topic_index \
     UNION ALL SELECT (SELECT min(topic) FROM topic_index WHERE topic > topics.topic) FROM topics \
     WHERE topic IS NOT NULL) SELECT topic, (SELECT events FROM topic_index AS newest \
     WHERE newest.topic = topics.topic ORDER BY upto DESC LIMIT 1) FROM topics WHERE topic IS NOT NULL";
/// The stretch that ?1 is in, and the end of the one before a stretch.
pub(super) const STRETCH_OF: &str = "SELECT min(upto) FROM topic_index WHERE topic = 0 AND upto >= ?1";
pub(super) const STRETCH_BEFORE: &str = "SELECT max(upto) FROM topic_index WHERE topic = 0 AND upto < ?1";
pub(super) const STRETCH_AFTER: &str = "SELECT min(upto) FROM topic_index WHERE topic = 0 AND upto > ?1";
/// The newest row of a topic up to the end of a stretch.
pub(super) const TOPIC_AT: &str = "SELECT upto, events FROM topic_index WHERE topic = ?1 AND upto <= ?2 \
     ORDER BY upto DESC LIMIT 1";
/// The first stretch that ends after ?2 and has an event on a topic of the list, and the last that ends up to ?2.
pub(super) const NEXT_WANTED: &str = "SELECT min(found) FROM (SELECT (SELECT min(upto) FROM topic_index \
     WHERE topic = wanted.value AND upto > ?2) AS found FROM json_each(?1) AS wanted)";
pub(super) const LAST_WANTED: &str = "SELECT max(found) FROM (SELECT (SELECT max(upto) FROM topic_index \
     WHERE topic = wanted.value AND upto <= ?2) AS found FROM json_each(?1) AS wanted)";

pub(super) const FACT: &str = "SELECT owner, writer, key, version, event, value, written, check_value FROM facts \
     WHERE kind = ?1 AND owner = (SELECT id FROM names WHERE text = ?2) AND key = ?3";
pub(super) const MEMORY_FACT: &str = "SELECT owner, writer, key, version, event, value, written, check_value FROM facts \
     WHERE kind = 1 AND owner = 0 AND key = ?1";
pub(super) const MEMORY_PAGE: &str = "SELECT owner, writer, key, version, event, value, written, check_value FROM facts \
     WHERE kind = 1 AND owner = 0 AND key >= ?1 ORDER BY key LIMIT ?2";
/// The plus keeps the planner at the range of texts, which is the sorted one. A key ends before the greatest character.
pub(super) const MEMORY_KEYS: &str = "SELECT substr(text, 8) FROM names \
     WHERE text >= 'memory.' || ?1 AND text < 'memory.' || ?1 || char(1114111) AND text > ?2 AND +id < 0 \
     ORDER BY text LIMIT ?3";
pub(super) const FACTS_PAGE: &str = "SELECT owner, writer, key, version, event, value, written, check_value FROM facts \
     WHERE kind = ?1 AND owner = (SELECT id FROM names WHERE text = ?2) AND key >= ?3 ORDER BY key LIMIT ?4";
/// From each owner to the next one, so that what they have is not read.
pub(super) const FACT_OWNERS: &str = "WITH RECURSIVE owners(owner) AS (SELECT min(owner) FROM facts WHERE kind = ?1 \
     UNION ALL SELECT (SELECT min(owner) FROM facts WHERE kind = ?1 AND owner > owners.owner) FROM owners \
     WHERE owner IS NOT NULL) SELECT owner FROM owners WHERE owner IS NOT NULL";
pub(super) const COUNT_FACTS: &str = "SELECT count(*) FROM facts WHERE kind = ?1";
pub(super) const COUNT_FACTS_OF: &str =
    "SELECT count(*) FROM facts WHERE kind = ?1 AND owner = (SELECT id FROM names WHERE text = ?2)";

pub(super) const TEAMS: &str = "SELECT text, epoch, number, cursor, check_value, team FROM teams \
     LEFT JOIN names ON names.id = teams.team";
pub(super) const BLOCKS: &str = "SELECT start, rows, data, check_value FROM blocks \
     WHERE series = (SELECT id FROM names WHERE text = ?1) AND start >= ?2 AND start <= ?3 ORDER BY start LIMIT ?4";
pub(super) const SERIES: &str = "SELECT series, sum(rows), min(start), max(start) FROM blocks GROUP BY series";

// === rows that a migration gives their check values ===

pub(super) const NAMES: &str = "SELECT id, text FROM names";
pub(super) const FACTS_AFTER: &str = "SELECT owner, writer, key, version, event, value, written, check_value, kind FROM facts \
     WHERE (kind, owner, key) > (?1, ?2, ?3) ORDER BY kind, owner, key LIMIT ?4";
pub(super) const BLOCKS_AFTER: &str =
    "SELECT start, rows, data, check_value, series, id FROM blocks WHERE id > ?1 ORDER BY id LIMIT ?2";
pub(super) const SET_FACT_CHECK: &str = "UPDATE facts SET check_value = ?4 WHERE kind = ?1 AND owner = ?2 AND key = ?3";
pub(super) const SET_BLOCK_CHECK: &str = "UPDATE blocks SET check_value = ?2 WHERE id = ?1";
pub(super) const SET_TEAM_CHECK: &str = "UPDATE teams SET check_value = ?2 WHERE team = ?1";

// === check ===

pub(super) const ROOTS: &str = "SELECT rootpage, type, name FROM sqlite_schema WHERE rootpage > 0";

pub(super) const CHECK_SEQS: &str =
    "SELECT count(*), coalesce(min(seq), ?1 + 1), coalesce(max(seq), ?1) FROM journal WHERE seq > ?1";
/// Every event with its check value, in the order in which they were chained.
pub(super) const CHECK_CHAIN: &str = concat!(events!(", chain, committed, clock"), " WHERE seq > ?1 ORDER BY seq");
/// A value of `meta` that is a number.
pub(super) const META_NUMBER: &str = "SELECT CAST(value AS INTEGER) FROM meta WHERE key = ?1";
pub(super) const META: &str = "SELECT value FROM meta WHERE key = ?1";
pub(super) const CHECK_CAUSES: &str = "SELECT count(*) FROM journal WHERE cause_seq IS NOT NULL AND cause_seq >= seq";
/// Memory keys whose fact and newest journal write disagree: a fact that is not the newest write, or a newest
/// write that is neither a removal nor a fact.
pub(super) const CHECK_MEMORY: &str = "SELECT count(*) FROM \
     (SELECT topic, max(seq) AS seq FROM journal WHERE topic < 0 GROUP BY topic) AS newest \
     JOIN journal ON journal.seq = newest.seq \
     JOIN names ON names.id = newest.topic \
     LEFT JOIN facts ON facts.kind = 1 AND facts.owner = 0 AND facts.key = substr(names.text, 8) \
     WHERE (journal.payload = 'null') <> (facts.key IS NULL) \
     OR (facts.key IS NOT NULL AND (facts.version <> newest.seq OR facts.event <> journal.id \
         OR facts.value <> journal.payload))";
/// Memory facts that no journal write stands behind.
pub(super) const CHECK_ORPHANS: &str = "SELECT count(*) FROM facts WHERE kind = 1 AND NOT EXISTS \
     (SELECT 1 FROM journal WHERE journal.seq = facts.version AND journal.id = facts.event)";
/// A journal that lost its end: its rows are chained and whole, but others speak of what came after.
pub(super) const CHECK_FACTS_AHEAD: &str =
    "SELECT count(*) FROM facts WHERE version > (SELECT coalesce(max(seq), 0) FROM journal)";
pub(super) const CHECK_TEAMS_AHEAD: &str =
    "SELECT count(*) FROM teams WHERE cursor > (SELECT coalesce(max(seq), 0) FROM journal)";
pub(super) const COUNT_FACTS_BY_KIND: &str = "SELECT kind, count(*) FROM facts GROUP BY kind";
pub(super) const COUNT_ROWS: [(&str, &str); 5] = [
    ("facts", "SELECT count(*) FROM facts"),
    ("teams", "SELECT count(*) FROM teams"),
    ("blocks", "SELECT count(*) FROM blocks"),
    ("names", "SELECT count(*) FROM names"),
    ("meta", "SELECT count(*) FROM meta"),
];
