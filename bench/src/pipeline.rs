//! Four years of real candles: into the store, and through the seven agents of the desk.
//!
//! A run is timed from the start of the runtime until everything that the last candle led to is committed.
//! Every turn begins with a copy of the same file, in which there are candles and nothing else.

use std::{
    io::Read as _,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use atra_agents::{
    CandleSource, DeskConfig,
    candles::blocks_of,
    desk::{self, desk},
    market::{
        candle::SeriesKey,
        import::{ImportOptions, import_candles},
    },
};
use atra_bus::{Event, Filter, Seq, Timestamp};
use atra_runtime::{Agent, AgentError, AgentSpec, Context, Placement, RuntimeBuilder, Team, TeamState};
use atra_storage::{Block, MemoryStore, Release, SqliteOptions, SqliteStore, Storage, StorageOptions, Store};
use tempfile::TempDir;

use crate::{
    measure::{Contender, Scale, medians, millis, on_worker, runtime},
    report::{Case, Reporter, Unit},
};

/// Real candles beside the repository; without them there is nothing to measure.
pub(crate) const CANDLES: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/data/DOTUSDT-15m-usdm-2022-01_2026-02.csv.gz");
const SERIES: &str = "DOTUSDT.15m";
/// The slow eighth waits so much longer for each candle than the seven take.
const TIMES_SLOWER: f64 = 1_000.0;
/// How long a stop may take.
const STOP_DEADLINE: Duration = Duration::from_secs(60);

/// Measures the four-year run.
pub(crate) fn run(scale: Scale, reporter: &mut Reporter) {
    let Ok(csv) = std::fs::read(CANDLES) else {
        eprintln!("pipeline: skipped, no real candles beside the repository");
        return;
    };
    // A turn takes about a second; fewer of them tell as much.
    let scale = Scale { turns: scale.turns / 2 + 1, ..scale };
    let tokio = runtime();
    import(scale, reporter, &tokio, &csv);

    let mut blocks = blocks(&csv);
    // All of them on a full scale.
    blocks.truncate(scale.events / 1_000);
    let data = Data::new(&tokio, blocks);
    let bench = Bench { scale, tokio: &tokio, data: &data };
    bench.placements(reporter);
    bench.slow_eighth(reporter);
}

// === import ===

fn import(scale: Scale, reporter: &mut Reporter, tokio: &tokio::runtime::Runtime, csv: &[u8]) {
    let n_candles = blocks(csv).iter().map(|block| block.rows as usize).sum();
    let mut contenders = [
        Contender::new("import of four years, parse and commit", || {
            let folder = TempDir::new().expect("a temporary folder");
            tokio.block_on(async {
                let store = SqliteStore::open(SqliteOptions::new(db(&folder))).await.expect("created");
                write(Box::new(store), || blocks(csv)).await
            })
        }),
        Contender::new("csv + rusqlite, a row per candle", || {
            let folder = TempDir::new().expect("a temporary folder");
            import_by_rows(&db(&folder), csv, n_candles)
        }),
    ];
    let values = medians(scale.turns, &mut contenders);
    let case = Case { bench: "pipeline", name: contenders[0].name, unit: Unit::Milliseconds };
    reporter.print(&case.report(values[0], contenders[1].name, values[1]));
}

fn blocks(csv: &[u8]) -> Vec<Block> {
    let series: SeriesKey = SERIES.parse().expect("a series");
    let import = import_candles(csv, &ImportOptions::default(), |_| {}).expect("real candles");
    blocks_of(&series, &import.candles, import.scale).expect("sorted and sane")
}

/// Milliseconds that making and committing the blocks took.
async fn write(store: Box<dyn Store>, blocks: impl FnOnce() -> Vec<Block>) -> f64 {
    struct Nobody;
    impl Release for Nobody {
        fn release(&self, _: &Arc<atra_bus::Batch>) {}
    }
    let opened =
        Storage::open(store, StorageOptions::default(), Arc::new(Nobody), Arc::new(atra_bus::SystemEnv::new())).await;
    let (storage, actor) = opened.expect("a fresh store");
    let write = async {
        let start = Instant::now();
        storage.put_blocks(blocks()).await.expect("committed");
        let value = millis(start);
        storage.stop().await.expect("stopped");
        value
    };
    futures::join!(actor.run(), write).1
}

/// What is often written: a record and a row for each candle, numbers as floats, one transaction.
fn import_by_rows(path: &Path, csv: &[u8], n_candles: usize) -> f64 {
    let mut db = crate::rusqlite_store::open(path).expect("created");
    db.execute_batch(
        "CREATE TABLE candles(series INTEGER, time INTEGER, open REAL, high REAL, low REAL, close REAL, volume REAL, \
         PRIMARY KEY(series, time)) WITHOUT ROWID",
    )
    .expect("created");
    let start = Instant::now();
    let mut plain = String::new();
    flate2::read::MultiGzDecoder::new(csv).read_to_string(&mut plain).expect("gzip");
    let transaction = db.transaction().expect("begun");
    let mut n = 0;
    {
        let mut insert =
            transaction.prepare("INSERT OR REPLACE INTO candles VALUES (1, ?, ?, ?, ?, ?, ?)").expect("prepared");
        for row in csv::Reader::from_reader(plain.as_bytes()).deserialize() {
            let row: (i64, f64, f64, f64, f64, f64) = row.expect("a candle");
            n += insert.execute(row).expect("inserted");
        }
    }
    transaction.commit().expect("committed");
    assert_eq!(n, n_candles);
    millis(start)
}

// === the run ===

/// Candles as blocks, and a file that holds them.
struct Data {
    folder: TempDir,
    blocks: Vec<Block>,
    n_candles: usize,
}

impl Data {
    fn new(tokio: &tokio::runtime::Runtime, blocks: Vec<Block>) -> Self {
        let folder = TempDir::new().expect("a temporary folder");
        let n_candles = blocks.iter().map(|block| block.rows as usize).sum();
        tokio.block_on(async {
            let store = SqliteStore::open(SqliteOptions::new(db(&folder))).await.expect("created");
            write(Box::new(store), || blocks.clone()).await;
        });
        Self { folder, blocks, n_candles }
    }

    fn copy(&self) -> TempDir {
        let folder = TempDir::new().expect("a temporary folder");
        std::fs::copy(db(&self.folder), db(&folder)).expect("copied");
        folder
    }
}

fn db(folder: &TempDir) -> PathBuf {
    folder.path().join("bench.db")
}

/// Seconds that the default desk takes for these blocks, on a file.
pub(crate) fn many_tickers(tokio: &tokio::runtime::Runtime, blocks: Vec<Block>) -> f64 {
    let data = Data::new(tokio, blocks);
    let (path, n_candles) = (db(&data.folder), data.n_candles);
    let figures = tokio.block_on(on_worker(async move {
        let store = SqliteStore::open(SqliteOptions::new(path)).await.expect("opened");
        seven(store, Placement::Together, None, n_candles).await
    }));
    figures.seconds
}

/// How a run went.
#[derive(Clone, Copy, Default)]
struct Figures {
    seconds: f64,
    rows: u64,
    turns: u64,
}

struct Bench<'a> {
    scale: Scale,
    tokio: &'a tokio::runtime::Runtime,
    data: &'a Data,
}

impl Bench<'_> {
    fn on_sqlite(&self, placement: Placement, eighth: Option<Eighth>) -> Figures {
        let (folder, n_candles) = (self.data.copy(), self.data.n_candles);
        let path = db(&folder);
        self.tokio.block_on(on_worker(async move {
            let store = SqliteStore::open(SqliteOptions::new(path)).await.expect("opened");
            seven(store, placement, eighth, n_candles).await
        }))
    }

    fn on_model(&self, placement: Placement) -> Figures {
        let (blocks, n_candles) = (self.data.blocks.clone(), self.data.n_candles);
        self.tokio.block_on(on_worker(async move {
            let store = MemoryStore::new();
            let disk = store.disk();
            write(Box::new(store), || blocks).await;
            seven(MemoryStore::on(&disk), placement, None, n_candles).await
        }))
    }

    fn candles_per_second(&self, figures: Figures) -> f64 {
        self.data.n_candles as f64 / figures.seconds
    }

    fn placements(&self, reporter: &mut Reporter) {
        let mut last = Figures::default();
        let mut contenders = [
            Contender::new("seven together, SQLite", || {
                last = self.on_sqlite(Placement::Together, None);
                self.candles_per_second(last)
            }),
            Contender::new("seven apart, SQLite", || self.candles_per_second(self.on_sqlite(Placement::Apart, None))),
            Contender::new("seven together, model store", || {
                self.candles_per_second(self.on_model(Placement::Together))
            }),
        ];
        let values = medians(self.scale.turns, &mut contenders);
        let names: Vec<&str> = contenders.iter().map(|contender| contender.name).collect();
        drop(contenders);

        let case = |name, unit| Case { bench: "pipeline", name, unit };
        let run_ms = |value: f64| self.data.n_candles as f64 / value * 1e3;
        let run = case("four-year run, seven together, SQLite", Unit::Milliseconds);
        reporter.print(&run.report(run_ms(values[0]), names[2], run_ms(values[2])));
        for (name, value) in names.iter().zip(&values).skip(1) {
            reporter.print(&case(name, Unit::CandlesPerSecond).report(*value, names[0], values[0]));
        }
        let per_candle = |n: u64| n as f64 / self.data.n_candles as f64;
        let rows = case("rows in the journal", Unit::RowsPerCandle);
        reporter.print(&rows.report(per_candle(last.rows), "a row per turn", per_candle(last.turns)));
    }

    fn slow_eighth(&self, reporter: &mut Reporter) {
        let alone = || self.on_sqlite(Placement::Together, None).seconds;
        // Twice, so that one is warm.
        let seconds = alone().min(alone());
        let wait = Duration::from_secs_f64(seconds / self.data.n_candles as f64 * TIMES_SLOWER);
        let mut handled = 0;
        let mut contenders = [
            Contender::new("seven beside a slow eighth", || {
                let eighth = Eighth::new(wait);
                let figures = self.on_sqlite(Placement::Together, Some(eighth.clone()));
                handled = eighth.progress.handled_slowly.load(Ordering::Relaxed);
                self.candles_per_second(figures)
            }),
            Contender::new("seven alone", || self.candles_per_second(self.on_sqlite(Placement::Together, None))),
        ];
        let values = medians(self.scale.turns, &mut contenders);
        drop(contenders);
        let case = |name, unit| Case { bench: "pipeline", name, unit };
        let beside = case("seven beside a slow eighth", Unit::CandlesPerSecond);
        reporter.print(&beside.report(values[0], "seven alone", values[1]));
        eprintln!(
            "pipeline: the eighth waited {} us for each candle; {handled} of {} were handled so when the seven were done, \
             the others afterwards, none lost",
            wait.as_micros(),
            self.data.n_candles
        );

        let peak = |wait| peak(&db(&self.data.copy()), wait);
        let (Some(alone), Some(beside)) = (peak(None), peak(Some(wait))) else {
            eprintln!("pipeline: skipped the peak of memory, this system does not tell it");
            return;
        };
        let peak = case("peak memory of the four-year run", Unit::MebibytesAtPeak);
        reporter.print(&peak.report(alone.after, "its process before the run", alone.before));
        let peak = case("peak memory, seven beside a slow eighth", Unit::MebibytesAtPeak);
        reporter.print(&peak.report(beside.after, "seven alone", alone.after));
    }
}

/// Runs the desk over everything in the store; with an eighth, also what the eighth did not handle in time.
async fn seven(store: impl Store + 'static, placement: Placement, eighth: Option<Eighth>, n_candles: usize) -> Figures {
    let candles = CandleSource::Store(store.reader());
    let team = desk(DeskConfig::default(), candles).await.expect("a series").placement(placement);
    let start = Instant::now();
    let mut builder = RuntimeBuilder::new(store).team(team);
    if let Some(eighth) = eighth.clone() {
        builder = builder.team(Team::of(move || eighth.clone()));
    }
    let runtime = builder.start().await.expect("started");
    // The end is the last input: when it is seen, it is committed with everything before.
    let mut ends = runtime.subscribe(vec![Filter::new("market.end").expect("a filter")], Seq::ZERO);
    tokio::select! {
        // Biased: the end counts even if the team has ended since.
        biased;
        end = ends.next() => drop(end.expect("not closed").expect("readable")),
        state = runtime.until_state(desk::TEAM, TeamState::is_ended) => panic!("the desk has ended: {state:?}"),
    }
    let seconds = start.elapsed().as_secs_f64();
    if let Some(eighth) = eighth {
        eighth.progress.hurry();
        runtime.idle().await;
        assert_eq!(eighth.progress.handled.load(Ordering::Relaxed), n_candles as u64, "the eighth lost candles");
    }
    let turns = runtime.status().iter().map(|team| team.turns).sum();
    let figures = Figures { seconds, rows: runtime.released().get(), turns };
    runtime.stop(STOP_DEADLINE).await.expect("stopped");
    figures
}

/// An agent in a team of its own that wants every candle and waits over each, until it is told to hurry.
#[derive(Clone)]
struct Eighth {
    wait: Duration,
    progress: Arc<Progress>,
    last: Timestamp,
}

#[derive(Default)]
struct Progress {
    is_hurried: AtomicBool,
    handled: AtomicU64,
    handled_slowly: AtomicU64,
}

impl Progress {
    fn hurry(&self) {
        // Relaxed: one flag and two figures, each on its own.
        self.handled_slowly.store(self.handled.load(Ordering::Relaxed), Ordering::Relaxed);
        self.is_hurried.store(true, Ordering::Relaxed);
    }
}

impl Eighth {
    fn new(wait: Duration) -> Self {
        Self { wait, progress: Arc::default(), last: Timestamp(i64::MIN) }
    }
}

#[async_trait]
impl Agent for Eighth {
    fn spec(&self) -> AgentSpec {
        AgentSpec::new("eighth").subscribes("market.candle")
    }

    async fn handle(&mut self, event: &Event, _: &mut Context<'_>) -> Result<(), AgentError> {
        // Strictly later, and as many as there are candles: none was repeated, none was lost.
        if event.time <= self.last {
            return Err(AgentError::new("a candle was repeated"));
        }
        self.last = event.time;
        if !self.progress.is_hurried.load(Ordering::Relaxed) {
            tokio::time::sleep(self.wait).await;
        }
        self.progress.handled.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

// === memory ===

/// Peaks of resident memory, in MiB.
struct Peak {
    before: f64,
    after: f64,
}

/// The peak of a process that does nothing but one run.
fn peak(file: &Path, wait: Option<Duration>) -> Option<Peak> {
    let mut command = Command::new(std::env::current_exe().ok()?);
    command.arg("--peak-of").arg(file);
    if let Some(wait) = wait {
        command.arg("--wait").arg(wait.as_nanos().to_string());
    }
    let output = command.output().ok()?;
    let (before, after) = std::str::from_utf8(&output.stdout).ok()?.trim().split_once(' ')?;
    Some(Peak { before: before.parse().ok()?, after: after.parse().ok()? })
}

/// Runs the desk once on `file`, and prints this process's peak of memory before and after.
pub(crate) fn say_peak(file: PathBuf, wait: Option<u64>) {
    let before = high_water_mark();
    let eighth = wait.map(|wait| Eighth::new(Duration::from_nanos(wait)));
    runtime().block_on(on_worker(async move {
        let store = SqliteStore::open(SqliteOptions::new(file)).await.expect("opened");
        let series = store.reader().series().await.expect("readable");
        let n_candles = series.iter().map(|row| row.rows as usize).sum();
        seven(store, Placement::Together, eighth, n_candles).await
    }));
    if let (Some(before), Some(after)) = (before, high_water_mark()) {
        println!("{before} {after}");
    }
}

/// The greatest resident memory of this process so far, in MiB, where the system tells it.
fn high_water_mark() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kibibytes: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes / 1024.0)
}
