//! The registry of queries: that all are in it, and how SQLite carries out each.

use std::collections::BTreeMap;

use sqlx::{AssertSqlSafe, Executor as _, Row as _};

use super::{queries::*, tests::Folder};
use crate::Store as _;

/// Names, texts and plans. A plan's steps are joined by `; `. What scans a whole table says why it may.
const PLANNED: &[(&str, &str, &str)] = &[
    ("LAST_SEQ", LAST_SEQ, "SEARCH journal"),
    (
        "NAMES_AFTER",
        NAMES_AFTER,
        "COMPOUND QUERY; LEFT-MOST SUBQUERY; SEARCH names USING INTEGER PRIMARY KEY (rowid>?); UNION ALL; SEARCH names USING INTEGER PRIMARY KEY (rowid<?)",
    ),
    ("JOURNAL", JOURNAL, "SEARCH journal USING INTEGER PRIMARY KEY (rowid>? AND rowid<?)"),
    (
        "JOURNAL_WANTED",
        JOURNAL_WANTED,
        "SEARCH journal USING INTEGER PRIMARY KEY (rowid>? AND rowid<?); LIST SUBQUERY 1; SCAN json_each VIRTUAL TABLE INDEX 1:; CREATE BLOOM FILTER; LIST SUBQUERY 2; SCAN json_each VIRTUAL TABLE INDEX 1:; CREATE BLOOM FILTER",
    ),
    ("TAIL", TAIL, "SEARCH journal USING INTEGER PRIMARY KEY (rowid<?)"),
    (
        "TAIL_WANTED",
        TAIL_WANTED,
        "SEARCH journal USING INTEGER PRIMARY KEY (rowid>? AND rowid<?); LIST SUBQUERY 1; SCAN json_each VIRTUAL TABLE INDEX 1:; CREATE BLOOM FILTER; LIST SUBQUERY 2; SCAN json_each VIRTUAL TABLE INDEX 1:; CREATE BLOOM FILTER",
    ),
    ("COMMIT_TIME", COMMIT_TIME, "SEARCH journal USING INTEGER PRIMARY KEY (rowid>? AND rowid<?)"),
    ("COMMIT_TIME_BEFORE", COMMIT_TIME_BEFORE, "SEARCH journal USING INTEGER PRIMARY KEY (rowid<?)"),
    ("META_NUMBER", META_NUMBER, "SEARCH meta USING PRIMARY KEY (key=?)"),
    ("NAMES", NAMES, "SCAN names"),
    ("FACTS_AFTER", FACTS_AFTER, "SEARCH facts USING PRIMARY KEY ((kind,owner,key)>(?,?,?))"),
    ("BLOCKS_AFTER", BLOCKS_AFTER, "SEARCH blocks USING INTEGER PRIMARY KEY (rowid>?)"),
    ("SET_FACT_CHECK", SET_FACT_CHECK, "SEARCH facts USING PRIMARY KEY (kind=? AND owner=? AND key=?)"),
    ("SET_BLOCK_CHECK", SET_BLOCK_CHECK, "SEARCH blocks USING INTEGER PRIMARY KEY (rowid=?)"),
    ("SET_TEAM_CHECK", SET_TEAM_CHECK, "SEARCH teams USING INTEGER PRIMARY KEY (rowid=?)"),
    ("EFFECTS_OF", EFFECTS_OF, "SEARCH journal USING INDEX journal_cause (cause_seq=?)"),
    (
        "MEMORY_AS_OF",
        MEMORY_AS_OF,
        "SEARCH journal USING INDEX journal_memory (topic=? AND seq<?); SCALAR SUBQUERY 1; SEARCH names USING COVERING INDEX sqlite_autoindex_names_1 (text=?)",
    ),
    ("TAIL_OF_KEY", TAIL_OF_KEY, "SEARCH journal USING INDEX journal_memory (topic=? AND seq<?)"),
    ("NAMES_ENDS", NAMES_ENDS, "SCAN CONSTANT ROW; SCALAR SUBQUERY 1; SEARCH names; SCALAR SUBQUERY 2; SEARCH names"),
    (
        "NAMES_OF_IDS",
        NAMES_OF_IDS,
        "SCAN wanted VIRTUAL TABLE INDEX 1:; SEARCH names USING INTEGER PRIMARY KEY (rowid=?)",
    ),
    (
        "NAMES_OF_TEXTS",
        NAMES_OF_TEXTS,
        "SCAN wanted VIRTUAL TABLE INDEX 1:; SEARCH names USING COVERING INDEX sqlite_autoindex_names_1 (text=?)",
    ),
    (
        "NAMES_IN_RANGE",
        NAMES_IN_RANGE,
        "SEARCH names USING COVERING INDEX sqlite_autoindex_names_1 (text>? AND text<?)",
    ),
    (
        "COUNT_TOPICS",
        COUNT_TOPICS,
        "SEARCH journal USING INTEGER PRIMARY KEY (rowid>? AND rowid<?); USE TEMP B-TREE FOR GROUP BY",
    ),
    ("INSERT_TOPIC", INSERT_TOPIC, ""),
    ("LAST_STRETCH", LAST_STRETCH, "SEARCH topic_index USING PRIMARY KEY (topic=?)"),
    ("UNCOUNTED", UNCOUNTED, "SEARCH topic_index USING PRIMARY KEY (topic=?)"),
    (
        "TOPIC_TOTALS",
        TOPIC_TOTALS,
        "CO-ROUTINE topics; SETUP; SEARCH topic_index USING PRIMARY KEY; RECURSIVE STEP; SCAN topics; CORRELATED SCALAR SUBQUERY 2; SEARCH topic_index USING PRIMARY KEY (topic>?); SCAN topics; CORRELATED SCALAR SUBQUERY 4; SEARCH newest USING PRIMARY KEY (topic=?)",
    ),
    ("STRETCH_OF", STRETCH_OF, "SEARCH topic_index USING PRIMARY KEY (topic=? AND upto>?)"),
    ("STRETCH_BEFORE", STRETCH_BEFORE, "SEARCH topic_index USING PRIMARY KEY (topic=? AND upto<?)"),
    ("STRETCH_AFTER", STRETCH_AFTER, "SEARCH topic_index USING PRIMARY KEY (topic=? AND upto>?)"),
    ("TOPIC_AT", TOPIC_AT, "SEARCH topic_index USING PRIMARY KEY (topic=? AND upto<?)"),
    (
        "NEXT_WANTED",
        NEXT_WANTED,
        "SEARCH wanted VIRTUAL TABLE INDEX 1:; CORRELATED SCALAR SUBQUERY 1; SEARCH topic_index USING PRIMARY KEY (topic=? AND upto>?)",
    ),
    (
        "LAST_WANTED",
        LAST_WANTED,
        "SEARCH wanted VIRTUAL TABLE INDEX 1:; CORRELATED SCALAR SUBQUERY 1; SEARCH topic_index USING PRIMARY KEY (topic=? AND upto<?)",
    ),
    ("REMOVED_KEYS", REMOVED_KEYS, "SEARCH journal USING INTEGER PRIMARY KEY (rowid>? AND rowid<?)"),
    (
        "FREE_NAME",
        FREE_NAME,
        "SEARCH names USING INTEGER PRIMARY KEY (rowid=?); SCALAR SUBQUERY 1; SEARCH names; CORRELATED SCALAR SUBQUERY 2; SEARCH journal USING COVERING INDEX journal_memory (topic=?)",
    ),
    (
        "FACT",
        FACT,
        "SEARCH facts USING PRIMARY KEY (kind=? AND owner=? AND key=?); SCALAR SUBQUERY 1; SEARCH names USING COVERING INDEX sqlite_autoindex_names_1 (text=?)",
    ),
    ("MEMORY_FACT", MEMORY_FACT, "SEARCH facts USING PRIMARY KEY (kind=? AND owner=? AND key=?)"),
    ("MEMORY_PAGE", MEMORY_PAGE, "SEARCH facts USING PRIMARY KEY (kind=? AND owner=? AND key>?)"),
    ("MEMORY_KEYS", MEMORY_KEYS, "SEARCH names USING COVERING INDEX sqlite_autoindex_names_1 (text>? AND text<?)"),
    (
        "FACTS_PAGE",
        FACTS_PAGE,
        "SEARCH facts USING PRIMARY KEY (kind=? AND owner=? AND key>?); SCALAR SUBQUERY 1; SEARCH names USING COVERING INDEX sqlite_autoindex_names_1 (text=?)",
    ),
    (
        "FACT_OWNERS",
        FACT_OWNERS,
        "CO-ROUTINE owners; SETUP; SEARCH facts USING PRIMARY KEY (kind=?); RECURSIVE STEP; SCAN owners; CORRELATED SCALAR SUBQUERY 2; SEARCH facts USING PRIMARY KEY (kind=? AND owner>?); SCAN owners",
    ),
    ("COUNT_FACTS_BY_KIND", COUNT_FACTS_BY_KIND, "SCAN facts"),
    ("COUNT_FACTS", COUNT_FACTS, "SEARCH facts USING PRIMARY KEY (kind=?)"),
    (
        "COUNT_FACTS_OF",
        COUNT_FACTS_OF,
        "SEARCH facts USING PRIMARY KEY (kind=? AND owner=?); SCALAR SUBQUERY 1; SEARCH names USING COVERING INDEX sqlite_autoindex_names_1 (text=?)",
    ),
    ("TEAMS", TEAMS, "SCAN teams; SEARCH names USING INTEGER PRIMARY KEY (rowid=?) LEFT-JOIN"),
    (
        "BLOCKS",
        BLOCKS,
        "SEARCH blocks USING INDEX blocks_start (series=? AND start>? AND start<?); SCALAR SUBQUERY 1; SEARCH names USING COVERING INDEX sqlite_autoindex_names_1 (text=?)",
    ),
    ("SERIES", SERIES, "SCAN blocks USING INDEX blocks_start"),
    ("DELETE_FACT", DELETE_FACT, "SEARCH facts USING PRIMARY KEY (kind=? AND owner=? AND key=?)"),
    ("INSERT_TEAM", INSERT_TEAM, ""),
    ("UPDATE_TEAM", UPDATE_TEAM, "SEARCH teams USING INTEGER PRIMARY KEY (rowid=?)"),
    (
        "PRUNE_OLDER_WRITES",
        PRUNE_OLDER_WRITES,
        "SEARCH journal USING INTEGER PRIMARY KEY (rowid=?); LIST SUBQUERY 2; CO-ROUTINE newest; SEARCH journal USING INTEGER PRIMARY KEY (rowid>? AND rowid<?); USE TEMP B-TREE FOR GROUP BY; SCAN newest; SEARCH older USING COVERING INDEX journal_memory (topic=? AND seq<?); CREATE BLOOM FILTER",
    ),
    (
        "PRUNE",
        PRUNE,
        "SEARCH journal USING INTEGER PRIMARY KEY (rowid>? AND rowid<?); LIST SUBQUERY 1; SEARCH names USING COVERING INDEX sqlite_autoindex_names_1 (text=?); CREATE BLOOM FILTER; LIST SUBQUERY 2; SCAN json_each VIRTUAL TABLE INDEX 1:; CREATE BLOOM FILTER",
    ),
    ("ROOTS", ROOTS, "SCAN sqlite_schema"),
    ("GENERATION", GENERATION, "SEARCH meta USING PRIMARY KEY (key=?)"),
    ("NAME_OF", NAME_OF, "SEARCH names USING INTEGER PRIMARY KEY (rowid=?)"),
    ("EXPIRY_PAGE", EXPIRY_PAGE, "SEARCH facts USING PRIMARY KEY (kind=? AND (owner,key)>(?,?))"),
    ("EXPIRE", EXPIRE, "SEARCH facts USING PRIMARY KEY (kind=? AND (owner,key)>(?,?) AND (owner,key)<(?,?))"),
    (
        "NEEDED",
        NEEDED,
        "MULTI-INDEX OR; INDEX 1; SEARCH facts USING PRIMARY KEY (kind=?); INDEX 2; SEARCH facts USING PRIMARY KEY (kind=?)",
    ),
    (
        "FORGET_TEAM",
        FORGET_TEAM,
        "SEARCH teams USING INTEGER PRIMARY KEY (rowid=?); SCALAR SUBQUERY 1; SEARCH names USING COVERING INDEX sqlite_autoindex_names_1 (text=?)",
    ),
    (
        "FORGET_FACTS",
        FORGET_FACTS,
        "SEARCH facts USING PRIMARY KEY (kind=? AND owner=?); SCALAR SUBQUERY 1; SEARCH names USING COVERING INDEX sqlite_autoindex_names_1 (text=?)",
    ),
    ("FLOOR", FLOOR, "SEARCH meta USING PRIMARY KEY (key=?)"),
    ("SET_META", SET_META, ""),
    ("LAST_BATCH_END", LAST_BATCH_END, "SEARCH journal USING INTEGER PRIMARY KEY (rowid>? AND rowid<?)"),
    ("FIRST_BATCH_END", FIRST_BATCH_END, "SEARCH journal USING INTEGER PRIMARY KEY (rowid>? AND rowid<?)"),
    ("LAST_LINK", LAST_LINK, "SCAN journal"),
    ("META", META, "SEARCH meta USING PRIMARY KEY (key=?)"),
    ("CHECK_CHAIN", CHECK_CHAIN, "SEARCH journal USING INTEGER PRIMARY KEY (rowid>?)"),
    ("CHECK_FACTS_AHEAD", CHECK_FACTS_AHEAD, "SCAN facts; SCALAR SUBQUERY 1; SEARCH journal"),
    ("CHECK_TEAMS_AHEAD", CHECK_TEAMS_AHEAD, "SCAN teams; SCALAR SUBQUERY 1; SEARCH journal"),
    ("CHECK_SEQS", CHECK_SEQS, "SEARCH journal USING INTEGER PRIMARY KEY (rowid>?)"),
    ("CHECK_CAUSES", CHECK_CAUSES, "SEARCH journal USING COVERING INDEX journal_cause (cause_seq>?)"),
    (
        "CHECK_MEMORY",
        CHECK_MEMORY,
        "CO-ROUTINE newest; SEARCH journal USING COVERING INDEX journal_memory (topic<?); SCAN newest; SEARCH journal USING INTEGER PRIMARY KEY (rowid=?); SEARCH names USING INTEGER PRIMARY KEY (rowid=?); SEARCH facts USING PRIMARY KEY (kind=? AND owner=? AND key=?) LEFT-JOIN",
    ),
    (
        "CHECK_ORPHANS",
        CHECK_ORPHANS,
        "SEARCH facts USING PRIMARY KEY (kind=?); CORRELATED SCALAR SUBQUERY 1; SEARCH journal USING INTEGER PRIMARY KEY (rowid=?)",
    ),
];

/// Constants of the registry that are no queries, or are made of those that are.
const UNPLANNED: &[&str] = &[
    "SIZES",
    "BEGIN",
    "COMMIT",
    "ROLLBACK",
    "INSERT_NAMES",
    "INSERT_EVENTS",
    "INSERT_LAST_EVENTS",
    "INSERT_TOPICS",
    "UPSERT_FACTS",
    "UPSERT_BLOCKS",
    "FORGET_RUNS",
    "COUNT_ROWS",
];

/// Steps of the plan of a query, in a file with these tables.
async fn plan(folder: &Folder, sql: &str) -> String {
    let mut db = folder.raw().await;
    let sql = AssertSqlSafe(format!("EXPLAIN QUERY PLAN {sql}"));
    let rows = db.fetch_all(sqlx::raw_sql(sql)).await.expect("a plan");
    let steps: Vec<String> = rows.iter().map(|row| row.try_get(3).expect("a step")).collect();
    steps.join("; ")
}

#[tokio::test]
async fn every_query_is_carried_out_as_is_held_here() {
    let folder = Folder::new();
    let _store = folder.store().await;
    let mut found = String::new();
    for (name, sql, expected) in PLANNED {
        let plan = plan(&folder, sql).await;
        if plan != *expected {
            found += &format!("    ({name:?}, {name}, {plan:?}),\n");
        }
    }
    assert!(found.is_empty(), "other plans:\n{found}");
}

/// What `PRAGMA optimize` learns at a stop must not turn a search into a scan.
#[tokio::test]
async fn a_file_with_statistics_has_the_same_plans() {
    let folder = Folder::new();
    let mut store = folder.store().await;
    for n in 0..40 {
        store
            .commit(&super::tests::events(n * 50 + 1..=n * 50 + 50, &format!("memory.k{n}")))
            .await
            .expect("committed");
    }
    folder.raw().await.execute("ANALYZE").await.expect("analysed");
    for (name, sql, expected) in PLANNED.iter().filter(|(name, ..)| !name.starts_with("CHECK_")) {
        assert_eq!(plan(&folder, sql).await, *expected, "{name}");
    }
}

/// Nothing that runs often may read a whole table, sort, or build an index for itself.
#[test]
fn what_is_held_is_no_scan_but_for_those_that_may() {
    // For people, in a check, or as many rows as teams or owners.
    let may: BTreeMap<&str, &str> = BTreeMap::from([
        ("NAMES", "SCAN names"),
        ("COUNT_FACTS_BY_KIND", "SCAN facts"),
        ("ROOTS", "SCAN sqlite_schema"),
        ("TOPIC_TOTALS", "SCAN topics"),
        // A stretch at a time.
        ("COUNT_TOPICS", "SCAN nothing"),
        ("LAST_LINK", "SCAN journal"),
        ("TEAMS", "SCAN teams"),
        ("FACT_OWNERS", "SCAN owners"),
        ("SERIES", "SCAN blocks"),
    ]);
    for (name, _, plan) in PLANNED {
        for step in plan.split("; ") {
            let is_list =
                step.contains("VIRTUAL TABLE") || step.contains("CONSTANT") || step.starts_with("SCAN newest");
            let may_scan = may.get(name).is_some_and(|allowed| step.starts_with(allowed)) || name.starts_with("CHECK_");
            assert!(!step.starts_with("SCAN ") || is_list || may_scan, "{name}: {step}");
            assert!(!step.contains("AUTOMATIC") || name.starts_with("CHECK_"), "{name}: {step}");
            let may_sort = may.contains_key(name) || name.starts_with("CHECK_") || name.starts_with("PRUNE");
            assert!(!step.contains("TEMP B-TREE") || may_sort, "{name}: {step}");
        }
    }
}

#[test]
fn every_query_of_the_registry_is_held() {
    let text = include_str!("queries.rs");
    let names = text.lines().filter_map(|line| {
        let rest = line.strip_prefix("pub(super) const ").or_else(|| line.strip_prefix("pub(super) static "))?;
        rest.split(':').next()
    });
    for name in names {
        let is_held = PLANNED.iter().any(|(held, ..)| *held == name) || UNPLANNED.contains(&name);
        assert!(is_held, "{name} is in the registry, but its plan is held nowhere");
    }
}

/// A query that is written where it is used would escape the other tests.
#[test]
fn no_query_is_written_elsewhere() {
    for (file, text) in [
        ("check.rs", include_str!("check.rs")),
        ("check_rows.rs", include_str!("check_rows.rs")),
        ("sums.rs", include_str!("sums.rs")),
        ("mod.rs", include_str!("mod.rs")),
        ("prune.rs", include_str!("prune.rs")),
        ("names.rs", include_str!("names.rs")),
        ("read.rs", include_str!("read.rs")),
        ("topics.rs", include_str!("topics.rs")),
        ("wanted.rs", include_str!("wanted.rs")),
        ("trim.rs", include_str!("trim.rs")),
        ("write.rs", include_str!("write.rs")),
    ] {
        for (n, line) in text.lines().enumerate() {
            let is_sql =
                ["\"SELECT ", "\"INSERT ", "\"UPDATE ", "\"DELETE ", " OFFSET "].iter().any(|w| line.contains(w));
            assert!(!is_sql, "{file}:{}: {line}", n + 1);
        }
    }
    assert!(!include_str!("queries.rs").contains(" OFFSET "), "pages go by key");
}
