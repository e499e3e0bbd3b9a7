//! What an operator does with whole files: restores, copies beside what is left of others, teams that are forgotten.

use atra_bus::{Committed, Seq, Timestamp};

use super::{
    SqliteOptions, SqliteStore, backup, check, forget_team, restore,
    tests::{Folder, events},
};
use crate::{
    FactKind, FactRow, Keep, Store as _, StoreError, TeamMove, TeamRow, WriteBatch,
    conformance::{event, name},
    plan_forget, plan_prune,
};

async fn filled(folder: &Folder) {
    let mut store = folder.store().await;
    store.commit(&events(1..=50, "x")).await.expect("committed");
    store.close().await.expect("closed");
}

#[tokio::test]
async fn what_is_restored_is_flushed_and_level_power_need_not_wait() {
    let folder = Folder::new();
    filled(&folder).await;
    let copy = folder.db().with_extension("copy");
    backup(&folder.db(), &copy, |_| {}).await.expect("copied");
    let mut store = folder.store().await;
    store.reopen_if_unknown(&StoreError::Unknown("test".into())).await;
    drop(store);
    let mut store = SqliteStore::open(SqliteOptions::new(folder.db())).await.expect("opened");
    assert!(store.load().await.expect("loaded").is_unflushed);
    drop(store);

    restore(&folder.db(), &copy, |_| {}).await.expect("restored");

    let mut store = SqliteStore::open(SqliteOptions::new(folder.db())).await.expect("opened");
    let loaded = store.load().await.expect("loaded");
    assert_eq!((loaded.is_unflushed, loaded.last_seq), (false, Seq(50)));
}

/// SQLite takes any log of the right name for the file's own.
#[tokio::test]
async fn a_copy_is_not_put_beside_the_log_of_another() {
    let folder = Folder::new();
    filled(&folder).await;
    let copy = folder.db().with_extension("copy");
    let log = folder.db().with_extension("copy-wal");
    std::fs::write(&log, "another's").expect("written");
    let refused = backup(&folder.db(), &copy, |_| {}).await.expect_err("refused").to_string();
    assert!(refused.contains("would be taken for its log") && !copy.exists(), "found {refused}");
    std::fs::remove_file(log).expect("removed");
    backup(&folder.db(), &copy, |_| {}).await.expect("copied");

    // A log without its database holds what was committed last: it is neither deleted nor taken for the copy's.
    std::fs::remove_file(folder.db()).expect("removed");
    std::fs::write(folder.db().with_extension("db-wal"), "the last commits").expect("written");
    let refused = restore(&folder.db(), &copy, |_| {}).await.expect_err("refused").to_string();
    assert!(refused.contains("put them back together") && !folder.db().exists(), "found {refused}");
}

/// Teams `old` of `a` and `b`, and `new`, which has `b` now.
async fn with_teams(folder: &Folder) {
    let started = |team: &str, agents: &str, seq: u64| Committed {
        seq: Seq(seq),
        event: event("atra", "sys.team.started", &format!(r#"{{"team":"{team}","agents":{agents}}}"#), seq),
        cause_seq: None,
        seen: None,
    };
    let mut batch = events(1..=20, "x");
    batch.events.push(started("old", r#"["a","b"]"#, 21));
    batch.events.push(started("new", r#"["b","c"]"#, 22));
    for (kind, owner) in [
        (FactKind::State, "a"),
        (FactKind::Offset, "a"),
        (FactKind::Timer, "a"),
        (FactKind::Attempt, "old"),
        (FactKind::Meta, "old"),
        (FactKind::DeadLetter, "a"),
        (FactKind::Result, "a"),
        (FactKind::State, "b"),
    ] {
        let (key, value) = ("k".into(), Some("1".into()));
        batch.facts.push(FactRow { kind, owner: name(owner), key, value, version: Seq(22), event: None });
    }
    for (team, cursor) in [("old", 3), ("new", 22)] {
        let to = TeamRow { team: name(team), epoch: 1, number: 1, cursor: Seq(cursor) };
        batch.teams.push(TeamMove { from: None, to });
    }
    let mut store = folder.store().await;
    store.commit(&batch).await.expect("committed");
    store.commit(&events(23..=30, "x")).await.expect("committed");
    store.close().await.expect("closed");
}

#[tokio::test]
async fn a_forgotten_team_pins_nothing_and_leaves_what_others_need() {
    let folder = Folder::new();
    with_teams(&folder).await;
    let keep = Keep { events: Some(5), ..Keep::default() };
    let mut store = folder.store().await;
    let before = plan_prune(&*store.reader(), keep, Timestamp(0)).await.expect("a plan");
    assert_eq!(before.upto, Seq(3), "the old team pins what it has not taken");
    let planned = plan_forget(&*store.reader(), &name("old")).await.expect("a plan");
    let busy = forget_team(&folder.db(), &name("old")).await.expect_err("refused");
    assert!(matches!(busy, StoreError::InUse { .. }), "found {busy:?}");
    store.close().await.expect("closed");

    let done = forget_team(&folder.db(), &name("old")).await.expect("forgotten");

    assert_eq!(done, planned);
    assert_eq!((done.agents, done.facts, done.pinned, done.freed), (vec![name("a")], 5, Seq(3), Seq(22)));
    let mut store = folder.store().await;
    let reader = store.reader();
    assert_eq!(plan_prune(&*reader, keep, Timestamp(0)).await.expect("a plan").upto, Seq(22));
    let mut left = Vec::new();
    for kind in FactKind::ALL {
        let facts = reader.facts(kind, None).await.expect("facts");
        left.extend(facts.into_iter().map(|fact| (kind, fact.owner.to_string())));
    }
    let expected = [(FactKind::State, "b"), (FactKind::DeadLetter, "a"), (FactKind::Result, "a")];
    assert_eq!(left, expected.map(|(kind, owner)| (kind, owner.to_owned())));
    // One that comes back begins anew.
    let to = TeamRow { team: name("old"), epoch: 1, number: 0, cursor: Seq(0) };
    let batch = WriteBatch { teams: vec![TeamMove { from: None, to }], ..WriteBatch::default() };
    store.commit(&batch).await.expect("committed");
    store.close().await.expect("closed");
    assert!(check(folder.db()).await.expect("a report").is_sound());
    let unknown = forget_team(&folder.db(), &name("nobody")).await.expect_err("refused");
    assert!(matches!(unknown, StoreError::UnknownTeam(_)), "found {unknown:?}");
}
