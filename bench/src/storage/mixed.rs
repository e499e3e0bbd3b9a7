//! Writing while others read.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Instant,
};

use atra_bus::{Filter, Interest, Seq};
use atra_storage::Level;

use super::{Actor, Bench, Events, PRODUCERS, append::batches, publish};
use crate::{
    measure::{Contender, named_medians, on_worker, per_second},
    report::{Case, Unit},
    rusqlite_store::open,
};

/// Readers, as many as the pool has connections.
const READERS: usize = 4;
/// Events of one read.
const PAGE_EVENTS: usize = 256;

impl Bench<'_> {
    /// 512 producers beside four readers that read the journal over and over.
    pub(super) fn beside_readers(&mut self, events: &Events) {
        let Self { files, tokio, .. } = self;
        let read = AtomicU64::new(0);
        let contenders = vec![
            Contender::new("appends beside four readers at full speed", || {
                let file = files.fresh();
                let (value, n_read) = tokio.block_on(on_worker(mixed(file.path(), events.clone(), READERS)));
                // Relaxed: one thread.
                read.store(n_read as u64, Ordering::Relaxed);
                value
            }),
            Contender::new("appends alone", || {
                let file = files.fresh();
                tokio.block_on(on_worker(mixed(file.path(), events.clone(), 0))).0
            }),
            Contender::new("rusqlite 0.39, batches beside four threads that read", || {
                raw_mixed(&files.fresh().path(), events, READERS)
            }),
            Contender::new("rusqlite 0.39, batches alone", || raw_mixed(&files.fresh().path(), events, 0)),
        ];
        let (names, values) = named_medians(self.scale.turns, contenders);
        for pair in [0, 2] {
            let case = Case { bench: "storage", name: names[pair], unit: Unit::EventsPerSecond };
            self.reporter.print(&case.report(values[pair], names[pair + 1], values[pair + 1]));
        }
        eprintln!("storage: the readers read {} events a second meanwhile", read.into_inner());
    }
}

/// Events written a second, and events read a second meanwhile.
pub(super) async fn mixed(path: PathBuf, events: Events, readers: usize) -> (f64, f64) {
    let actor = Actor::on_sqlite(path).await;
    let is_over = Arc::new(AtomicBool::new(false));
    let start = Instant::now();
    let readers: Vec<_> = (0..readers)
        .map(|_| {
            let (storage, is_over) = (actor.storage.clone(), is_over.clone());
            tokio::spawn(async move {
                let (reader, everything) = (storage.reader(), Interest::in_topics(vec![Filter::all()]));
                let (mut after, mut n_read) = (Seq::ZERO, 0);
                // Relaxed: it ends a moment later then.
                while !is_over.load(Ordering::Relaxed) {
                    let upto = storage.released();
                    let (page, complete) =
                        reader.journal(after, upto, &everything, PAGE_EVENTS).await.expect("readable");
                    n_read += page.len();
                    after = if complete >= upto { Seq::ZERO } else { complete };
                    if page.is_empty() {
                        tokio::task::yield_now().await;
                    }
                }
                n_read
            })
        })
        .collect();
    let producers: Vec<_> = (0..PRODUCERS)
        .map(|producer| {
            let (storage, events) = (actor.storage.clone(), events.clone());
            tokio::spawn(async move {
                for event in events.iter().skip(producer).step_by(PRODUCERS) {
                    storage.publish(publish(std::slice::from_ref(event), Level::Process)).await.expect("committed");
                }
            })
        })
        .collect();
    for producer in producers {
        producer.await.expect("a producer does not panic");
    }
    let value = per_second(events.len(), start);
    is_over.store(true, Ordering::Relaxed);
    let mut n_read = 0;
    for reader in readers {
        n_read += reader.await.expect("a reader does not panic");
    }
    let read = per_second(n_read, start);
    actor.stop().await;
    (value, read)
}

/// The same with nothing between: one thread that commits as many events at a time as there are producers, and threads
/// that read pages of them. Events written a second.
fn raw_mixed(path: &Path, events: &Events, readers: usize) -> f64 {
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..readers {
            scope.spawn(|| {
                let db = open(path).expect("opened");
                let page = "SELECT * FROM journal WHERE seq > ? ORDER BY seq LIMIT ?";
                let mut page = db.prepare(page).expect("prepared");
                let mut after = 0_i64;
                // Relaxed: it ends a moment later then.
                while !is_over.load(Ordering::Relaxed) {
                    let mut rows = page.query((after, PAGE_EVENTS as i64)).expect("readable");
                    after = 0;
                    while let Some(row) = rows.next().expect("readable") {
                        after = row.get("seq").expect("a seq");
                        std::hint::black_box(row.get::<_, String>("payload").expect("a payload"));
                    }
                }
            });
        }
        let value = batches(path, events, PRODUCERS);
        is_over.store(true, Ordering::Relaxed);
        value
    })
}
