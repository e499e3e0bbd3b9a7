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
    /// Why publishes were refused.
    refused: Vec<String>,
}

/// A child under load, during which a stranger does `begin` and stays until `is_enough` of the ledger and of the log's
/// bytes, and [`STAY`] longer. With a limit, only callers write.
fn beside(
    name: &str,
    begin: &'static str,
    db_bytes_max: Option<u64>,
    is_enough: impl Fn(&[Line], u64) -> bool,
) -> Seen {
    let folder = folder();
    let over = folder.path().join("over");
    let work = Work {
        producers: 16,
        each: 1_000_000,
        imports: 0,
        teams: if db_bytes_max.is_some() { 0 } else { 2 },
        bytes_max: if db_bytes_max.is_some() { 100 } else { 2_000 },
        wal_bytes_max: WAL_BYTES_MAX,
        db_bytes_max,
        until: Some(over.clone()),
        ..Work::on(folder.path().join(name))
    };
    let mut started = child(&work, &[]).spawn().unwrap();
    until(&mut started, &work, "progress", |lines| lines.len() > 200);
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut stranger = tokio.block_on(open(&work.db));
    tokio.block_on(async { sqlx::raw_sql(begin).execute(&mut stranger).await.unwrap() });
    let before_lines = lines(&work).len();
    let before = n_acknowledged(&work);
    let wal_bytes = || std::fs::metadata(format!("{}-wal", work.db.display())).map_or(0, |log| log.len());
    // A busy machine takes longer to write as much.
    until(&mut started, &work, "enough beside the stranger", |lines| is_enough(&lines[before_lines..], wal_bytes()));
    pause(STAY);
    let meanwhile = n_acknowledged(&work) - before;
    let own = std::process::id();
    let told = log(&work.db).readers;
    let held = told.iter().find(|reader| reader.process == own).map_or(0, |reader| reader.holds_bytes);
    // After it: the child goes on writing, and the log is at least as long as what was held.
    let wal = wal_bytes();
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
    let refused = |line: &Line| if let Line::Refused(_, why) = line { Some(why.clone()) } else { None };
    let refused = lines(&work).iter().filter_map(refused).collect();
    let seen = Seen { acknowledged: meanwhile, wal, held, p50, p99, max, n_held: figure("held"), refused };
    eprintln!(
        "{name}: {meanwhile} acknowledged in {STAY:?}, log of {wal} bytes, {held} held by the stranger, could not be begun \
         anew {} times; waits in µs: half {p50}, 99 of 100 {p99}, longest {max}; {verdict:?}",
        seen.n_held
    );
    seen
}

#[test]
fn a_lock_held_by_another_process_is_waited_for_then_refused_and_loses_nothing() {
    let Seen { acknowledged, .. } = beside("locked", "BEGIN IMMEDIATE", None, |_, _| true);
    // What was on its way when it came may have made it.
    assert!(acknowledged < 100, "{acknowledged} acknowledged while another process held the lock");
}

/// The log grows by what is written while the reader stays, is told of with its reader, and is small again as soon as
/// that has gone. The writer waits for it a tenth of a second at most, and once a second at most: that bounds its waits.
#[test]
fn a_reader_without_an_end_in_another_process_holds_up_nobody() {
    let alone = beside("alone", "BEGIN", None, |_, _| true);
    let is_acknowledged = |line: &&Line| matches!(line, Line::Acknowledged(..));
    let seen = beside("read", "BEGIN; SELECT count(*) FROM journal", None, |lines, wal| {
        wal > WAL_BYTES_MAX && lines.iter().filter(is_acknowledged).count() > 100
    });
    eprintln!(
        "strangers: a reader without an end makes half of the waits {} and 99 of 100 {} times as long",
        ratio(seen.p50, alone.p50),
        ratio(seen.p99, alone.p99)
    );
    assert!(seen.wal > WAL_BYTES_MAX && seen.held > 0 && seen.held <= seen.wal, "{} of {} held", seen.held, seen.wal);
    assert!(seen.n_held > 0 && alone.held == 0, "nobody tried to begin the log anew");
    assert!(seen.max > 0 && alone.max > 0);
}

/// What the log has above its bound counts as the database: in the end callers are refused and told who holds it, and
/// when that has gone they go on.
#[test]
fn a_log_that_another_process_holds_makes_the_database_full_and_is_bounded_by_that() {
    let limit = 32 << 20;
    let is_refused = |line: &Line| matches!(line, Line::Refused(..));
    let seen =
        beside("limited", "BEGIN; SELECT count(*) FROM journal", Some(limit), |lines, _| lines.iter().any(is_refused));
    assert!(!seen.refused.is_empty(), "nobody was refused with a log of {} bytes", seen.wal);
    let own = format!("in a log that process {} reads from", std::process::id());
    assert!(
        seen.refused.iter().all(|why| why.contains("database is full") && why.contains("them in a log")),
        "{:?}",
        seen.refused.first()
    );
    // It is looked for when the log could not be begun anew, which is tried once a second.
    assert!(seen.refused.iter().any(|why| why.contains(&own)), "{:?}", seen.refused.last());
    // Looked at every 20 ms, in which some megabytes are written.
    let bound = limit + WAL_BYTES_MAX + (16 << 20);
    eprintln!("strangers: {} refused at a log of {} bytes, the limit being {limit}", seen.refused.len(), seen.wal);
    assert!(seen.wal <= bound, "{} bytes of log", seen.wal);
}

fn ratio(with: u64, without: u64) -> String {
    format!("{:.2}", with as f64 / without.max(1) as f64)
}
