//! Other processes on the file: one that holds the write lock, one that reads without an end.

use std::{path::Path, time::Duration};

use atra_rigs::{ledger::Line, work::Work};
use atra_storage::log;
use sqlx::{ConnectOptions as _, Connection as _, Executor as _, SqliteConnection, sqlite::SqliteConnectOptions};

use crate::{
    judge::{Judge, Promise},
    support::{child, end, figure, folder, lines, pause, until},
};

/// How long a stranger stays; a minute on demand is the same.
const STAY: Duration = Duration::from_millis(1_500);

/// From which size on the child begins its log anew: a stranger's stay makes it several times as large.
const WAL_BYTES_MAX: u64 = 1 << 20;

fn n_acknowledged(work: &Work) -> usize {
    lines(work).iter().filter(|line| matches!(line, Line::Acknowledged(..))).count()
}

async fn open(db: &Path) -> SqliteConnection {
    SqliteConnectOptions::new().filename(db).busy_timeout(Duration::from_secs(30)).connect().await.unwrap()
}

/// What was seen while a stranger stayed.
struct Seen {
    acknowledged: usize,
    /// Bytes of the log at the end of the stay, and what of them the stranger is said to hold.
    wal: u64,
    held: u64,
    /// What the child measured: microseconds from publish to answer, and how often the log could not be begun anew.
    p50: u64,
    p99: u64,
    max: u64,
    n_held: u64,
}

/// A child under load, during which a stranger does `begin` and stays.
fn beside(name: &str, begin: &'static str) -> Seen {
    let folder = folder();
    let over = folder.path().join("over");
    let work = Work {
        producers: 16,
        each: 1_000_000,
        imports: 0,
        wal_bytes_max: WAL_BYTES_MAX,
        until: Some(over.clone()),
        ..Work::on(folder.path().join(name))
    };
    let mut started = child(&work, &[]).spawn().unwrap();
    until(&mut started, &work, "progress", |lines| lines.len() > 200);
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut stranger = tokio.block_on(open(&work.db));
    tokio.block_on(async { sqlx::raw_sql(begin).execute(&mut stranger).await.unwrap() });
    let before = n_acknowledged(&work);
    pause(STAY);
    let meanwhile = n_acknowledged(&work) - before;
    let wal_bytes = || std::fs::metadata(format!("{}-wal", work.db.display())).map_or(0, |log| log.len());
    let wal = wal_bytes();
    let own = std::process::id();
    let told = log(&work.db).readers;
    let held = told.iter().find(|reader| reader.process == own).map_or(0, |reader| reader.holds_bytes);
    tokio.block_on(async {
        stranger.execute("ROLLBACK").await.unwrap();
        stranger.close().await.unwrap();
    });
    let after = n_acknowledged(&work);
    until(&mut started, &work, "progress without the stranger", |_| n_acknowledged(&work) > after + 100);
    until(&mut started, &work, "a log that is begun anew", |_| wal_bytes() < 4 * WAL_BYTES_MAX);
    std::fs::write(over, "").unwrap();
    assert!(end(started, name), "stopped cleanly: {:?}", lines(&work).last());
    let verdict = Judge::default().judge(&work.db, &lines(&work), Promise::Process).unwrap();
    let figure = |name| figure(&lines(&work), name);
    let (p50, p99, max) = (figure("p50_micros"), figure("p99_micros"), figure("max_micros"));
    let seen = Seen { acknowledged: meanwhile, wal, held, p50, p99, max, n_held: figure("held") };
    eprintln!(
        "{name}: {meanwhile} acknowledged in {STAY:?}, log of {wal} bytes, {held} held by the stranger, could not be begun \
         anew {} times; waits in µs: half {p50}, 99 of 100 {p99}, longest {max}; {verdict:?}",
        seen.n_held
    );
    seen
}

#[test]
fn a_lock_held_by_another_process_is_waited_for_then_refused_and_loses_nothing() {
    let Seen { acknowledged, .. } = beside("locked", "BEGIN IMMEDIATE");
    // What was on its way when it came may have made it.
    assert!(acknowledged < 100, "{acknowledged} acknowledged while another process held the lock");
}

/// The log grows by what is written while the reader stays, is told of with its reader, and is small again as soon as
/// that has gone. The writer waits for it a tenth of a second at most, and once a second at most: that bounds its waits.
#[test]
fn a_reader_without_an_end_in_another_process_holds_up_nobody() {
    let alone = beside("alone", "BEGIN");
    let seen = beside("read", "BEGIN; SELECT count(*) FROM journal");
    eprintln!(
        "strangers: a reader without an end makes half of the waits {} and 99 of 100 {} times as long",
        ratio(seen.p50, alone.p50),
        ratio(seen.p99, alone.p99)
    );
    assert!(seen.acknowledged > 100, "only {} acknowledged beside a reader", seen.acknowledged);
    assert!(seen.wal > WAL_BYTES_MAX && seen.held > 0 && seen.held <= seen.wal, "{} of {} held", seen.held, seen.wal);
    assert!(seen.n_held > 0 && alone.held == 0, "nobody tried to begin the log anew");
    assert!(seen.max > 0 && alone.max > 0);
}

fn ratio(with: u64, without: u64) -> String {
    format!("{:.2}", with as f64 / without.max(1) as f64)
}
