//! Other processes on the file: one that holds the write lock, one that reads without an end.

use std::{path::Path, time::Duration};

use atra_rigs::{ledger::Line, work::Work};
use sqlx::{ConnectOptions as _, Connection as _, Executor as _, SqliteConnection, sqlite::SqliteConnectOptions};

use crate::{
    judge::{Judge, Promise},
    support::{child, end, folder, lines, pause, until},
};

/// How long a stranger stays; a minute on demand is the same.
const STAY: Duration = Duration::from_millis(1_500);

fn n_acknowledged(work: &Work) -> usize {
    lines(work).iter().filter(|line| matches!(line, Line::Acknowledged(..))).count()
}

async fn open(db: &Path) -> SqliteConnection {
    SqliteConnectOptions::new().filename(db).busy_timeout(Duration::from_secs(30)).connect().await.unwrap()
}

/// A child under load, during which a stranger does `begin` and stays; gives how much was acknowledged meanwhile.
fn beside(name: &str, begin: &'static str) -> (usize, u64, Work) {
    let folder = folder();
    let over = folder.path().join("over");
    let work = Work {
        producers: 16,
        each: 1_000_000,
        imports: 0,
        until: Some(over.clone()),
        ..Work::on(folder.path().join(name))
    };
    let started = child(&work, &[]).spawn().unwrap();
    until(&work, "progress", |lines| lines.len() > 200);
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut stranger = tokio.block_on(open(&work.db));
    tokio.block_on(async { sqlx::raw_sql(begin).execute(&mut stranger).await.unwrap() });
    let before = n_acknowledged(&work);
    pause(STAY);
    let meanwhile = n_acknowledged(&work) - before;
    let wal = std::fs::metadata(format!("{}-wal", work.db.display())).unwrap().len();
    tokio.block_on(async {
        stranger.execute("ROLLBACK").await.unwrap();
        stranger.close().await.unwrap();
    });
    let after = n_acknowledged(&work);
    until(&work, "progress without the stranger", |_| n_acknowledged(&work) > after + 100);
    std::fs::write(over, "").unwrap();
    assert!(end(started, name), "stopped cleanly: {:?}", lines(&work).last());
    let verdict = Judge::default().judge(&work.db, &lines(&work), Promise::Process).unwrap();
    eprintln!("{name}: {meanwhile} acknowledged in {STAY:?} beside the stranger, log of {wal} bytes; {verdict:?}");
    (meanwhile, wal, work)
}

#[test]
fn a_lock_held_by_another_process_is_waited_for_then_refused_and_loses_nothing() {
    let (meanwhile, _, _) = beside("locked", "BEGIN IMMEDIATE");
    // What was on its way when it came may have made it.
    assert!(meanwhile < 100, "{meanwhile} acknowledged while another process held the lock");
}

#[test]
fn a_reader_without_an_end_in_another_process_holds_up_nobody() {
    let (meanwhile, _, _) = beside("read", "BEGIN; SELECT count(*) FROM journal");
    assert!(meanwhile > 100, "only {meanwhile} acknowledged beside a reader");
}
