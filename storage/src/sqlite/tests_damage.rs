//! Damage inside of rows and pages: every reader notices what it reads, and the check finds all of it and says where.

use atra_bus::{Name, Seq, Timestamp};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _};

use super::{
    SqliteReader, check, schema,
    tests::{Folder, events},
};
use crate::{
    Block, CommitTime, FactKind, FactRow, Store as _, StoreError, TeamMove, TeamRow, WriteBatch, conformance::name,
};

fn fact(kind: FactKind, owner: &str, key: &str, value: &str) -> FactRow {
    let value = Some(value.into());
    FactRow { kind, owner: name(owner), key: key.into(), value, version: Seq(3), event: None }
}

/// A file with some of everything.
async fn written(folder: &Folder) {
    let mut store = folder.store().await;
    let facts = (0..40).map(|n| fact(FactKind::State, "a", &format!("k{n:02}"), &format!("\"{}\"", "v".repeat(n))));
    let others = [fact(FactKind::Key, "c", "q", "{}"), fact(FactKind::Offset, "b", "p", "17")];
    let block = |start: i64| Block { series: name("s"), start, rows: 3, data: vec![start as u8; 300].into() };
    let team =
        |team: &str| TeamMove { from: None, to: TeamRow { team: name(team), epoch: 1, number: 2, cursor: Seq(3) } };
    let batch = WriteBatch {
        facts: facts.chain(others).collect(),
        blocks: (0..5).map(block).collect(),
        teams: vec![team("t"), team("u")],
        committed_at: Some(CommitTime { wall: Timestamp(5), clock: Timestamp(6) }),
        ..events(1..=3, "x")
    };
    store.commit(&batch).await.expect("committed");
    store.close().await.expect("closed");
}

async fn change(folder: &Folder, sql: &str) {
    let mut db = folder.raw().await;
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))
        .execute(&mut db)
        .await
        .unwrap_or_else(|error| panic!("{sql}: {error}"));
    db.close().await.expect("closed");
}

fn is_damaged<T: std::fmt::Debug>(read: Result<T, StoreError>, what: &str) -> String {
    match read {
        Err(StoreError::Damaged { what, .. }) => what,
        other => panic!("{what}: not found, but {other:?}"),
    }
}

#[tokio::test]
async fn a_fact_that_was_changed_in_any_column_is_found_by_its_reader_and_by_the_check() {
    for change_to in [
        "value = '\"w\"'",
        "value = CAST(x'22ff22' AS TEXT)",
        "version = 2",
        "writer = 1 + (writer % 3)",
        "event = zeroblob(16)",
        "written = 1",
        "check_value = check_value + 1",
        "key = 'k07x'",
    ] {
        let folder = Folder::new();
        written(&folder).await;
        change(&folder, &format!("UPDATE facts SET {change_to} WHERE key = 'k07'")).await;
        let reader = SqliteReader::open_read_only(folder.db()).await.expect("opened");
        is_damaged(reader.facts(FactKind::State, Some(&name("a"))).await, change_to);
        // Contained: what is not damaged is read.
        let other = reader.fact(FactKind::State, &name("a"), "k08").await.expect("a sound fact");
        assert!(other.is_some(), "{change_to}");
        let report = check(folder.db()).await.expect("a report");
        assert!(report.problems.iter().any(|problem| problem.contains("table facts")), "{change_to}: {report:?}");
    }
}

#[tokio::test]
async fn a_fact_under_another_owner_or_of_another_kind_is_found() {
    for (change_to, kind, owner) in
        [("owner = (SELECT id FROM names WHERE text = 'c')", FactKind::State, "c"), ("kind = 3", FactKind::Offset, "a")]
    {
        let folder = Folder::new();
        written(&folder).await;
        change(&folder, &format!("UPDATE facts SET {change_to} WHERE key = 'k07'")).await;
        let reader = SqliteReader::open_read_only(folder.db()).await.expect("opened");
        is_damaged(reader.fact(kind, &name(owner), "k07").await, change_to);
        assert!(!check(folder.db()).await.expect("a report").is_sound(), "{change_to}");
    }
}

#[tokio::test]
async fn a_block_or_a_team_that_was_changed_is_found_by_its_reader_and_by_the_check() {
    for (table, change_to) in [
        ("blocks", "data = zeroblob(300)"),
        ("blocks", "rows = 4"),
        ("blocks", "start = 9"),
        ("blocks", "series = (SELECT id FROM names WHERE text = 'a')"),
        ("teams", "cursor = 2"),
        ("teams", "number = 9"),
        ("teams", "epoch = 7"),
    ] {
        let folder = Folder::new();
        written(&folder).await;
        let row = if table == "blocks" { "start = 2" } else { "team = (SELECT id FROM names WHERE text = 't')" };
        change(&folder, &format!("UPDATE {table} SET {change_to} WHERE {row}")).await;
        let reader = SqliteReader::open_read_only(folder.db()).await.expect("opened");
        if table == "teams" {
            is_damaged(reader.teams().await, change_to);
        } else {
            let series = if change_to.contains("series") { "a" } else { "s" };
            is_damaged(reader.blocks(&name(series), 0, 9, 9).await, change_to);
        }
        let report = check(folder.db()).await.expect("a report");
        let expected = format!("table {table}");
        assert!(report.problems.iter().any(|problem| problem.contains(&expected)), "{change_to}: {report:?}");
    }
}

/// The names table has no check values of its own: they are covered by those of the rows that refer to it.
#[tokio::test]
async fn a_name_that_was_changed_is_found_by_the_check() {
    for text in ["x", "a", "s", "t", "c"] {
        let folder = Folder::new();
        written(&folder).await;
        change(&folder, &format!("UPDATE names SET text = 'other' WHERE text = '{text}'")).await;
        assert!(!check(folder.db()).await.expect("a report").is_sound(), "{text}");
    }
}

/// A commit time that changed would let retention delete early.
#[tokio::test]
async fn a_commit_time_that_was_changed_is_found_by_the_check() {
    for column in ["committed", "clock"] {
        let folder = Folder::new();
        written(&folder).await;
        change(&folder, &format!("UPDATE journal SET {column} = {column} - 1 WHERE seq = 3")).await;
        assert_eq!(check(folder.db()).await.expect("a report").first_bad, Some(Seq(1)), "{column}");
    }
}

/// Readers do not walk the chain of check values, so a search by age must not trust a single time.
#[tokio::test]
async fn a_damaged_commit_time_never_makes_what_is_fresh_look_old() {
    let folder = Folder::new();
    let mut store = folder.store().await;
    for seq in 1..=50_i64 {
        let committed_at = Some(CommitTime { wall: Timestamp(0), clock: Timestamp(seq * 1_000) });
        let batch = WriteBatch { committed_at, ..events(seq as u64..=seq as u64, "x") };
        store.commit(&batch).await.expect("committed");
    }
    store.close().await.expect("closed");
    let mut n_refused = 0;
    for seq in 1..=50 {
        for clock in [3_000, -1] {
            change(&folder, &format!("UPDATE journal SET clock = {clock} WHERE seq = {seq}")).await;
            let reader = SqliteReader::open_read_only(folder.db()).await.expect("opened");
            match reader.last_committed_before(Timestamp(10_000)).await {
                Ok(found) => assert!(found <= Seq(9), "with seq {seq} at {clock}: {found}"),
                Err(StoreError::Damaged { .. }) => n_refused += 1,
                Err(error) => panic!("{error}"),
            }
            change(&folder, &format!("UPDATE journal SET clock = {} WHERE seq = {seq}", seq * 1_000)).await;
        }
    }
    assert!(n_refused > 0, "the search met one of them");
}

/// The check itself said "run a check".
#[tokio::test]
async fn a_damaged_page_is_named_with_its_table() {
    let folder = Folder::new();
    written(&folder).await;
    let mut db = folder.raw().await;
    let sql = "SELECT name, rootpage, (SELECT page_size FROM pragma_page_size) FROM sqlite_schema WHERE rootpage > 0";
    let roots: Vec<(String, i64, i64)> = sqlx::query_as(sql).fetch_all(&mut db).await.expect("roots");
    db.close().await.expect("closed");
    for table in ["journal", "facts", "teams", "blocks", "names"] {
        let (_, page, size) = roots.iter().find(|(name, ..)| name == table).expect("a table");
        let sound = std::fs::read(folder.db()).expect("read");
        let mut damaged = sound.clone();
        let from = ((page - 1) * size) as usize;
        damaged[from..from + *size as usize].fill(0xa5);
        std::fs::write(folder.db(), damaged).expect("written");
        let report = check(folder.db()).await.expect("damage is in the report, and no error");
        let expected = format!("table {table}: page {page}");
        let is_named = report.problems.iter().any(|problem| problem.contains(&expected));
        assert!(is_named, "{table}: {report:#?}");
        std::fs::write(folder.db(), sound).expect("written");
    }
    assert!(check(folder.db()).await.expect("a report").is_sound());
}

#[tokio::test]
async fn an_index_that_does_not_have_its_rows_is_found() {
    let folder = Folder::new();
    written(&folder).await;
    // What the index says is not what the table says: a search by name finds nothing.
    let sql = "PRAGMA writable_schema = ON; \
         UPDATE sqlite_schema SET sql = 'CREATE UNIQUE INDEX blocks_start ON blocks(start, series)' \
         WHERE name = 'blocks_start'; PRAGMA writable_schema = OFF;";
    change(&folder, sql).await;
    assert!(!check(folder.db()).await.expect("a report").is_sound());
}

/// A file of version 2 as that version wrote it.
async fn of_version_2(folder: &Folder) {
    let mut db = folder.raw().await;
    let old = format!(
        "PRAGMA journal_mode = WAL; {} {} PRAGMA application_id = {}; PRAGMA user_version = 2; \
         INSERT INTO names VALUES (1, 'x'), (2, 'a'), (3, 's'), (4, 't'); \
         INSERT INTO facts SELECT 8, 2, 'k' || value, 2, 0, NULL, '{{}}' FROM json_each('[1,2,3]'); \
         INSERT INTO facts VALUES (2, 2, 'n', 2, 0, NULL, '1'); \
         WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n LIMIT 300) \
         INSERT INTO blocks SELECT x, 3, x, 1, zeroblob(x) FROM n; \
         INSERT INTO teams VALUES (4, 1, 1, 0)",
        schema::MIGRATIONS[0],
        schema::MIGRATIONS[1],
        schema::APPLICATION_ID
    );
    sqlx::raw_sql(AssertSqlSafe(old)).execute(&mut db).await.expect("an old file");
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)").await.expect("moved");
    db.close().await.expect("closed");
}

async fn read_whole(reader: &dyn crate::Read) -> (usize, usize, usize) {
    let blocks = reader.blocks(&name("s"), 0, i64::MAX, 1_000).await.expect("blocks");
    let keys = reader.facts(FactKind::Key, None).await.expect("facts");
    (keys.len(), blocks.len(), reader.teams().await.expect("teams").len())
}

#[tokio::test]
async fn a_file_of_version_2_is_read_as_it_is_and_gets_check_values_when_it_is_opened_for_writing() {
    let folder = Folder::new();
    of_version_2(&folder).await;
    let reader = SqliteReader::open_read_only(folder.db()).await.expect("an old file is read");
    assert_eq!(read_whole(&*reader).await, (3, 300, 1));
    assert_eq!(reader.commit_time(Seq(1)).await.expect("a read"), None);
    assert_eq!(reader.last_committed_before(Timestamp(i64::MAX)).await.expect("a seq"), Seq::ZERO);
    assert!(check(folder.db()).await.expect("a report").is_sound());

    let mut store = folder.store().await;
    assert_eq!(read_whole(&*store.reader()).await, (3, 300, 1));
    store.close().await.expect("closed");

    let report = check(folder.db()).await.expect("a report");
    assert!(report.is_sound(), "found {report:?}");
    change(&folder, "UPDATE blocks SET data = zeroblob(7) WHERE id = 299").await;
    let problems = check(folder.db()).await.expect("a report").problems;
    assert_eq!(problems.len(), 1, "found {problems:?}");
    assert!(problems[0].contains("block 299 of series s"), "found {problems:?}");
}

/// Such a row could not be read before either. It must not keep the rest from being opened.
#[tokio::test]
async fn a_damaged_row_in_a_file_of_version_2_is_found_afterwards_and_does_not_prevent_the_migration() {
    let folder = Folder::new();
    of_version_2(&folder).await;
    change(&folder, "UPDATE facts SET value = CAST(x'22ff22' AS TEXT) WHERE key = 'k2'").await;
    assert!(!check(folder.db()).await.expect("a report").is_sound());
    let mut store = folder.store().await;
    is_damaged(store.reader().fact(FactKind::Key, &Name::new("a").expect("a name"), "k2").await, "invalid UTF-8");
    assert!(store.reader().fact(FactKind::Key, &name("a"), "k3").await.expect("a read").is_some());
    store.close().await.expect("closed");
    let problems = check(folder.db()).await.expect("a report").problems;
    assert_eq!(problems.len(), 1, "found {problems:?}");
}
