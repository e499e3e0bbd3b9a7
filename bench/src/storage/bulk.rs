//! Candles in bulk: into the store and back into memory, by blocks as atra keeps them and by rows as one would.
//!
//! The rows are written with one prepared statement in one transaction, into a table without any other index: once
//! with time and series packed into the rowid, once with the two as the key of a WITHOUT ROWID table.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use atra_agents::{
    candles::blocks_of,
    market::{
        block,
        candle::{Candle, Scale, SeriesKey},
        import::{ImportOptions, import_candles},
    },
};
use atra_storage::{Block, SqliteOptions, SqliteReader, SqliteStore, Store};
use rusqlite::Connection;

use super::{Actor, Bench};
use crate::{
    measure::{Contender, millis, named_medians, on_worker},
    pipeline::CANDLES,
    report::{Case, Unit},
    rusqlite_store::open,
};

/// Series of the large load.
const TICKERS: usize = 64;
/// Bits of a packed key that hold the time in seconds: until the year 4147.
const TIME_BITS: u32 = 36;

/// How rows of candles can be kept.
#[derive(Clone, Copy)]
enum Key {
    Packed,
    WithoutRowid,
}

impl Key {
    fn create(self) -> &'static str {
        match self {
            Self::Packed => {
                "CREATE TABLE candles(key INTEGER PRIMARY KEY, open INTEGER, high INTEGER, low INTEGER, close INTEGER, \
                 volume INTEGER) STRICT"
            }
            Self::WithoutRowid => {
                "CREATE TABLE candles(series INTEGER, time INTEGER, open INTEGER, high INTEGER, low INTEGER, \
                 close INTEGER, volume INTEGER, PRIMARY KEY(series, time)) STRICT, WITHOUT ROWID"
            }
        }
    }
}

/// Four years of one ticker, as parsed.
struct Data {
    candles: Vec<Candle>,
    scale: Scale,
}

impl Data {
    fn blocks(&self, ticker: usize) -> Vec<Block> {
        let series: SeriesKey = format!("T{ticker}.15m").parse().expect("a series");
        blocks_of(&series, &self.candles, self.scale).expect("sorted and sane")
    }
}

impl Bench<'_> {
    /// Loads one ticker, loads many, and reads one back.
    pub(super) fn bulk(&mut self) {
        let Ok(csv) = std::fs::read(CANDLES) else {
            eprintln!("storage: bulk skipped, no real candles beside the repository");
            return;
        };
        let import = import_candles(csv.as_slice(), &ImportOptions::default(), |_| {}).expect("real candles");
        let mut candles = import.candles;
        // All of them on a full scale.
        candles.truncate(self.scale.events);
        let data = Data { candles, scale: import.scale };
        self.load_one(&data);
        self.load_many(&data);
        self.read_back(&data);
    }

    fn load_one(&mut self, data: &Data) {
        let Self { files, tokio, .. } = self;
        let n = data.candles.len();
        let contenders = vec![
            Contender::new("candle bulk load, encode and commit", || {
                let file = files.fresh();
                n as f64 / tokio.block_on(put(&file.path(), || data.blocks(0))).as_secs_f64()
            }),
            Contender::new("rusqlite 0.39, rows, packed key", || {
                let file = files.fresh();
                n as f64 / rows(&file.path(), Key::Packed, &data.candles, 1).as_secs_f64()
            }),
            Contender::new("rusqlite 0.39, rows, WITHOUT ROWID", || {
                let file = files.fresh();
                n as f64 / rows(&file.path(), Key::WithoutRowid, &data.candles, 1).as_secs_f64()
            }),
            Contender::new("rusqlite 0.39, the same blocks", || {
                let file = files.fresh();
                n as f64 / raw_blocks(&file.path(), || data.blocks(0)).as_secs_f64()
            }),
        ];
        let (names, values) = named_medians(self.scale.turns, contenders);
        for (reference, value) in names.iter().zip(&values).skip(1) {
            let case = Case { bench: "storage", name: names[0], unit: Unit::CandlesPerSecond };
            self.reporter.print(&case.report(values[0], reference, *value));
        }
    }

    /// Nine million candles; once each, since rows take their time.
    fn load_many(&mut self, data: &Data) {
        let file = self.files.fresh();
        let blocks = || (0..TICKERS).flat_map(|ticker| data.blocks(ticker)).collect();
        let took = self.tokio.block_on(put(&file.path(), blocks));
        let file = self.files.fresh();
        let by_rows = rows(&file.path(), Key::Packed, &data.candles, TICKERS);
        let case = Case { bench: "storage", name: "load of 64 tickers, four years each", unit: Unit::Milliseconds };
        let [took, by_rows] = [took, by_rows].map(|took| took.as_secs_f64() * 1e3);
        self.reporter.print(&case.report(took, "rusqlite 0.39, rows, packed key", by_rows));
    }

    fn read_back(&mut self, data: &Data) {
        let (by_blocks, by_rows) = (self.files.fresh(), self.files.fresh());
        self.tokio.block_on(put(&by_blocks.path(), || data.blocks(0)));
        rows(&by_rows.path(), Key::Packed, &data.candles, 1);
        let Self { tokio, .. } = self;
        let contenders = vec![
            Contender::new("four years of one ticker into memory", || {
                let start = Instant::now();
                let n = tokio.block_on(read_blocks(&by_blocks.path()));
                assert_eq!(n, data.candles.len());
                millis(start)
            }),
            Contender::new("rusqlite 0.39, rows", || {
                let start = Instant::now();
                assert_eq!(read_rows(&by_rows.path()), data.candles.len());
                millis(start)
            }),
        ];
        let (names, values) = named_medians(self.scale.turns, contenders);
        let case = Case { bench: "storage", name: names[0], unit: Unit::Milliseconds };
        self.reporter.print(&case.report(values[0], names[1], values[1]));
    }
}

/// Through the storage actor, the way an import goes. How long it takes from an open store until all is committed, as
/// for the others below.
async fn put(path: &Path, blocks: impl FnOnce() -> Vec<Block>) -> Duration {
    let store: Box<dyn Store> = Box::new(SqliteStore::open(SqliteOptions::new(path)).await.expect("a fresh file"));
    let actor = Actor::start(store).await;
    let start = Instant::now();
    let blocks = blocks();
    let storage = actor.storage.clone();
    on_worker(async move { storage.put_blocks(blocks).await.expect("committed") }).await;
    let took = start.elapsed();
    actor.stop().await;
    took
}

fn rows(path: &Path, key: Key, candles: &[Candle], tickers: usize) -> Duration {
    let mut db = open(path).expect("a fresh file");
    db.execute_batch(key.create()).expect("created");
    let start = Instant::now();
    let transaction = db.transaction().expect("begun");
    for ticker in 0..tickers as i64 {
        match key {
            Key::Packed => insert_packed(&transaction, ticker, candles),
            Key::WithoutRowid => insert_pairs(&transaction, ticker, candles),
        }
    }
    transaction.commit().expect("committed");
    start.elapsed()
}

fn insert_packed(db: &Connection, ticker: i64, candles: &[Candle]) {
    let mut insert = db.prepare("INSERT INTO candles VALUES (?, ?, ?, ?, ?, ?)").expect("prepared");
    for c in candles {
        let key = (ticker << TIME_BITS) | (c.time / 1_000);
        insert.execute((key, c.open, c.high, c.low, c.close, c.volume)).expect("inserted");
    }
}

fn insert_pairs(db: &Connection, ticker: i64, candles: &[Candle]) {
    let mut insert = db.prepare("INSERT INTO candles VALUES (?, ?, ?, ?, ?, ?, ?)").expect("prepared");
    for c in candles {
        insert.execute((ticker, c.time, c.open, c.high, c.low, c.close, c.volume)).expect("inserted");
    }
}

fn raw_blocks(path: &Path, blocks: impl FnOnce() -> Vec<Block>) -> Duration {
    let mut db = open(path).expect("a fresh file");
    let start = Instant::now();
    let blocks = blocks();
    let transaction = db.transaction().expect("begun");
    {
        let mut insert =
            transaction.prepare("INSERT INTO blocks(series, start, rows, data) VALUES (1, ?, ?, ?)").expect("prepared");
        for block in &blocks {
            insert.execute((block.start, block.rows, &*block.data)).expect("inserted");
        }
    }
    transaction.commit().expect("committed");
    start.elapsed()
}

async fn read_blocks(path: &Path) -> usize {
    let reader = SqliteReader::open_read_only(path).await.expect("opened");
    let series = reader.series().await.expect("readable").remove(0).series;
    let blocks = reader.blocks(&series, i64::MIN, i64::MAX, usize::MAX >> 1).await.expect("readable");
    let mut candles = Vec::new();
    for block in &blocks {
        block::decode_into(&block.data, &mut candles).expect("as written");
    }
    candles.len()
}

fn read_rows(path: &Path) -> usize {
    let db = open(path).expect("opened");
    let mut select =
        db.prepare("SELECT key, open, high, low, close, volume FROM candles ORDER BY key").expect("prepared");
    let candle = |row: &rusqlite::Row<'_>| {
        let key: i64 = row.get(0)?;
        let time = (key & ((1 << TIME_BITS) - 1)) * 1_000;
        Ok(Candle {
            time,
            open: row.get(1)?,
            high: row.get(2)?,
            low: row.get(3)?,
            close: row.get(4)?,
            volume: row.get(5)?,
        })
    };
    let candles: rusqlite::Result<Vec<Candle>> = select.query_map([], candle).expect("readable").collect();
    candles.expect("readable").len()
}
