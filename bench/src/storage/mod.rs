//! The storage actor: acknowledged appends, latencies, bulk loads, and writing beside readers, each next to what a
//! user would write instead.
//!
//! Every turn begins with an empty file with atra's tables and settings. All write the same rows, whose
//! payloads were encoded before. "one transaction" is the machine's speed and acknowledges nothing before
//! its end; the others acknowledge every event when it is committed.

mod append;
mod bulk;
mod latency;
mod mixed;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use atra_bus::{Batch, Event, EventId, Name, Payload, Timestamp, Topic};
use atra_storage::{
    Ancestor, Level, NewEvent, Publish, Release, SqliteOptions, SqliteStore, Storage, StorageOptions, Store,
};
use serde_json::json;
use tempfile::TempDir;

use crate::{
    measure::{Scale, runtime},
    report::Reporter,
    rusqlite_store::RusqliteStore,
};

/// Callers with an append on its way each.
const PRODUCERS: usize = 512;
/// Appends that wait for each other are so much slower that they get one event in so many.
const ALONE_SHARE: usize = 40;

/// Measures everything about the storage actor.
pub(crate) fn run(scale: Scale, reporter: &mut Reporter) {
    let tokio = runtime();
    let events: Events = events(scale.events / 2).into();
    let mut bench = Bench { scale, reporter, files: Files::new(&tokio), tokio };
    bench.many_producers(&events);
    bench.steps_of_sixteen(&events);
    bench.power(&events);
    let alone = events[..events.len() / ALONE_SHARE].into();
    bench.one_producer(&alone);
    bench.latencies(&events, &alone);
    bench.beside_readers(&events);
    bench.bulk();
}

/// What every group of cases needs.
struct Bench<'a> {
    scale: Scale,
    reporter: &'a mut Reporter,
    files: Files,
    tokio: tokio::runtime::Runtime,
}

type Events = Arc<[Arc<Event>]>;

/// A storage actor on a thread of its own, as the coordinator runs it.
struct Actor {
    storage: Storage,
    thread: std::thread::JoinHandle<()>,
}

impl Actor {
    async fn on_sqlite(path: PathBuf) -> Self {
        Self::start(Box::new(SqliteStore::open(SqliteOptions::new(path)).await.expect("a fresh file"))).await
    }

    async fn on_rusqlite(path: PathBuf) -> Self {
        Self::start(Box::new(RusqliteStore::open(path).await.expect("a fresh file"))).await
    }

    async fn start(store: Box<dyn Store>) -> Self {
        let opened =
            Storage::open(store, StorageOptions::default(), Arc::new(Nobody), Arc::new(atra_bus::SystemEnv::new()))
                .await;
        let (storage, mut actor) = opened.expect("a fresh file");
        tokio::spawn(actor.answers_apart());
        let thread = std::thread::Builder::new().name("actor".into()).spawn(move || {
            let tokio = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
            tokio.block_on(actor.run());
        });
        let thread = thread.expect("a thread");
        Self { storage, thread }
    }

    async fn stop(self) {
        self.storage.stop().await.expect("stopped");
        self.thread.join().expect("the actor does not panic");
    }
}

fn publish(events: &[Arc<Event>], level: Level) -> Publish {
    let new = |event: &Arc<Event>| NewEvent { event: event.clone(), ancestor: Ancestor::None, seen: None };
    Publish { events: events.iter().map(new).collect(), key: None, expect: None, facts: Vec::new(), level }
}

struct Nobody;

impl Release for Nobody {
    fn release(&self, _: &Arc<Batch>) {}
}

// === fixtures ===

/// Empty files with atra's tables.
struct Files(TempDir);

/// A file in a folder that goes with it.
struct Fresh(TempDir);

impl Fresh {
    fn path(&self) -> PathBuf {
        db(self.0.path())
    }
}

fn db(folder: &Path) -> PathBuf {
    folder.join("bench.db")
}

impl Files {
    fn new(runtime: &tokio::runtime::Runtime) -> Self {
        let folder = TempDir::new().expect("a temporary folder");
        let path = db(folder.path());
        runtime.block_on(async {
            let mut store = SqliteStore::open(SqliteOptions::new(path)).await.expect("created");
            store.close().await.expect("closed");
        });
        Self(folder)
    }

    fn fresh(&self) -> Fresh {
        let folder = TempDir::new().expect("a temporary folder");
        std::fs::copy(db(self.0.path()), db(folder.path())).expect("copied");
        Fresh(folder)
    }
}

/// `n` candles as events, their payloads encoded.
fn events(n: usize) -> Vec<Arc<Event>> {
    let (topic, source) = (Topic::literal("market.candle"), Name::new("feed").expect("a name of letters"));
    let event = |at: i64| {
        let time = 1_640_995_200_000 + at * 900_000;
        let id = EventId::of(&source, &at.to_string());
        let value = json!({
            "series": "DOTUSDT.15m", "time": time, "ohlcv": [26650 + at % 97, 26885, 26643, 26806, 2_233_575 + at],
            "scale": [3, 1],
        });
        let payload = Payload::typed(value);
        payload.json().expect("it has a JSON form");
        Arc::new(Event {
            id,
            topic: topic.clone(),
            version: 1,
            durable: true,
            source: source.clone(),
            time: Timestamp(time),
            cause: None,
            root: id,
            hops: 0,
            payload,
        })
    };
    (0..n as i64).map(event).collect()
}
