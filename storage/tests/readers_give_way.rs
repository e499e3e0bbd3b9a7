//! Who reads much stands behind who writes. A process of its own, since it looks at all threads of the process.
#![cfg(target_os = "linux")]

use std::{fs, sync::Arc};

use atra_bus::{Batch, Event, EventId, Filter, Interest, Name, Payload, Seq, Timestamp, Topic};
use atra_storage::{Ancestor, Level, NewEvent, Publish, Release, SqliteOptions, SqliteStore, Storage, StorageOptions};

struct Nobody;

impl Release for Nobody {
    fn release(&self, _: &Arc<Batch>) {}
}

fn event(n: i64) -> NewEvent {
    let source = Name::new("feed").expect("a name");
    let id = EventId::of(&source, &n.to_string());
    let event = Event {
        id,
        topic: Topic::literal("x.y"),
        version: 1,
        durable: true,
        source,
        time: Timestamp(n),
        cause: None,
        root: id,
        hops: 0,
        payload: Payload::typed(n),
    };
    NewEvent { event: Arc::new(event), ancestor: Ancestor::None, seen: None }
}

/// The nice values of the threads that belong to SQLite's connections, least first.
fn nice_values() -> Vec<i32> {
    let stats = fs::read_dir("/proc/self/task").expect("listed").flatten();
    let stats = stats.filter_map(|task| fs::read_to_string(task.path().join("stat")).ok());
    let mut values: Vec<i32> = stats
        .filter(|stat| stat.contains("(sqlx-sqlite"))
        // The 19th field; the second is a name in brackets.
        .filter_map(|stat| stat.rsplit_once(')')?.1.split_whitespace().nth(16)?.parse().ok())
        .collect();
    values.sort_unstable();
    values
}

#[tokio::test]
async fn a_long_read_is_behind_the_writer_and_a_short_one_is_not() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = SqliteStore::open(SqliteOptions::new(folder.path().join("a.db"))).await.expect("opened");
    let (storage, actor) = Storage::open(
        Box::new(store),
        StorageOptions::default(),
        Arc::new(Nobody),
        Arc::new(atra_bus::SystemEnv::new()),
    )
    .await
    .expect("opened");
    let everything = Interest::in_topics(vec![Filter::all()]);
    let work = async {
        let events = (0..1_000).map(event).collect();
        let publish = Publish { events, key: None, expect: None, facts: Vec::new(), level: Level::Process };
        storage.publish(publish).await.expect("committed");
        let reader = storage.reader();
        let base = nice_values()[0];
        reader.journal(Seq::ZERO, Seq(1), &everything, 10).await.expect("read");
        assert_eq!(nice_values(), [base, base], "of the writer and a reader that has done little");
        reader.journal(Seq::ZERO, Seq(1_000), &everything, 1_000).await.expect("read");
        assert_eq!(nice_values(), [base, (base + 10).min(19)], "of the writer and a reader that has done much");
        drop(reader);
        storage.stop().await.expect("stopped");
    };
    futures::join!(actor.run(), work);
}
