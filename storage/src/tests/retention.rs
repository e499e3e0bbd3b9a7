//! What the storage actor deletes by itself, and when: by the time of commit, by count, and facts that expire.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use atra_bus::{Batch, Env, Event, Seq, Task, TaskFuture, Timestamp};

use super::{Recorder, new, publish, step};
use crate::{
    FactKind, FactWrite, Keep, Loaded, MemoryDisk, MemoryStore, NewEvent, OPEN_EFFECT, Publish, Read as _, Release,
    Storage, StorageOptions, Store, StoreError, WriteBatch, conformance::name,
};

const DAY: Duration = Duration::from_secs(86_400);
const DAY_MS: i64 = 86_400_000;

/// A wall clock that shows what it is told to, and never moves by itself.
#[derive(Default)]
struct Wall(AtomicI64);

impl Wall {
    fn set_day(&self, day: i64) {
        self.0.store(day * DAY_MS, Ordering::Relaxed);
    }
}

impl Env for Wall {
    fn now(&self) -> Timestamp {
        Timestamp(self.0.load(Ordering::Relaxed))
    }

    fn random(&self) -> u64 {
        7
    }

    fn spawn(&self, _: &str, _: TaskFuture) -> Task {
        unreachable!("the storage actor spawns nothing")
    }
}

fn keeping(keep: Keep) -> StorageOptions {
    StorageOptions { keep, ..StorageOptions::default() }
}

fn days(n: u32) -> Keep {
    Keep { span: Some(DAY * n), ..Keep::default() }
}

/// Runs `work` beside a storage actor, and stops it.
async fn beside<W: Future<Output = ()>>(
    disk: &MemoryDisk,
    options: StorageOptions,
    wall: &Arc<Wall>,
    work: impl FnOnce(Storage) -> W,
) {
    beside_with(disk, options, wall, Arc::new(Recorder::default()), work).await;
}

async fn beside_with<W: Future<Output = ()>>(
    disk: &MemoryDisk,
    options: StorageOptions,
    wall: &Arc<Wall>,
    release: Arc<dyn Release>,
    work: impl FnOnce(Storage) -> W,
) {
    let store = Box::new(MemoryStore::on(disk));
    let env = Arc::clone(wall) as Arc<dyn Env>;
    let (storage, actor) = Storage::open(store, options, release, env).await.expect("opened");
    let work = async {
        work(storage.clone()).await;
        storage.stop().await.expect("stopped");
    };
    futures::join!(actor.run(), work);
}

/// An event with the time that its publisher claims.
fn claiming(order: u64, time: i64) -> NewEvent {
    let new = new("x", "1", order);
    NewEvent { event: Arc::new(Event { time: Timestamp(time), ..Event::clone(&new.event) }), ..new }
}

async fn floor(disk: &MemoryDisk) -> u64 {
    disk.floor().await.expect("a floor").get()
}

/// One event with its time in microseconds instead of milliseconds made a thousand fresh ones look thirty years old, and
/// all of them were deleted. One from the future at the beginning kept everything for ever.
#[tokio::test(start_paused = true)]
async fn no_claimed_time_deletes_what_is_fresh_or_keeps_what_is_old() {
    let (disk, wall) = (MemoryDisk::new(), Arc::new(Wall::default()));
    let now = 20_000 * DAY_MS;
    wall.set_day(20_000);
    beside(&disk, keeping(days(30)), &wall, |storage| async move {
        storage.publish(publish(vec![claiming(1, i64::MAX)])).await.expect("committed");
        for n in 2..=1_000 {
            storage.publish(publish(vec![claiming(n, now)])).await.expect("committed");
        }
        storage.publish(publish(vec![claiming(1_001, now * 1_000)])).await.expect("committed");
        tokio::time::sleep(DAY * 29).await;
    })
    .await;
    assert_eq!(floor(&disk).await, 0, "everything is 29 days old at most");
    beside(&disk, keeping(days(30)), &wall, |storage| async move {
        // A process whose clock shows the same day: age continues from the last commit.
        tokio::time::sleep(DAY * 31).await;
        storage.publish(publish(vec![claiming(1_002, 0)])).await.expect("committed");
        tokio::time::sleep(Duration::from_secs(120)).await;
    })
    .await;
    assert_eq!(floor(&disk).await, 1_001, "all that is older than 30 days, whatever it claims");
}

#[tokio::test(start_paused = true)]
async fn a_wall_clock_that_jumps_deletes_nothing_early_and_stops_nothing() {
    let (disk, wall) = (MemoryDisk::new(), Arc::new(Wall::default()));
    wall.set_day(20_000);
    let jumps = [23_650, 20_000, 0, 20_001, i64::from(i32::MAX), -5, 20_002];
    let clock = Arc::clone(&wall);
    beside(&disk, keeping(days(30)), &wall, |storage| async move {
        for (n, day) in (1..).zip(jumps) {
            clock.set_day(day);
            storage.publish(publish(vec![claiming(n, 0)])).await.expect("committed");
            tokio::time::sleep(DAY).await;
        }
    })
    .await;
    assert_eq!(floor(&disk).await, 0, "a week has passed");
    // The next processes begin with a clock that is behind, then in 1970, then right again.
    for (round, day) in (1..).zip([19_000, 0, 20_003]) {
        wall.set_day(day);
        beside(&disk, keeping(days(30)), &wall, |storage| async move {
            storage.publish(publish(vec![claiming(100 + round, 0)])).await.expect("committed");
            tokio::time::sleep(DAY).await;
        })
        .await;
        assert_eq!(floor(&disk).await, 0, "begun on day {day}");
    }
    wall.set_day(20_034);
    beside(&disk, keeping(days(30)), &wall, |_| tokio::time::sleep(Duration::from_secs(120))).await;
    assert!(floor(&disk).await >= 9, "a month later it is old, found floor {}", floor(&disk).await);
}

/// Sees how long the journal is after each commit.
struct Longest {
    disk: MemoryDisk,
    most: Mutex<(u64, u64)>,
}

impl Release for Longest {
    fn release(&self, batch: &Arc<Batch>) {
        let last = batch.events.last().map_or(0, |event| event.seq.get());
        let floor = futures::FutureExt::now_or_never(self.disk.floor()).expect("the model waits for nothing");
        let length = last - floor.expect("a floor").get();
        let mut most = self.most.lock().expect("no panic while locked");
        *most = (most.0.max(length), most.1.max(batch.events.len() as u64));
    }
}

/// A journal that was to keep 20,000 events had 1.12 million: it was looked at once a minute.
#[tokio::test(start_paused = true)]
async fn a_journal_that_is_kept_by_count_is_pruned_as_fast_as_it_grows() {
    let (disk, wall) = (MemoryDisk::new(), Arc::new(Wall::default()));
    let keep = Keep { events: Some(2_000), ..Keep::default() };
    let longest = Arc::new(Longest { disk: disk.clone(), most: Mutex::default() });
    let release = Arc::clone(&longest) as Arc<dyn Release>;
    beside_with(&disk, keeping(keep), &wall, release, |storage| async move {
        // No time passes, and the queue is never empty.
        for round in 0..30 {
            let callers = (0..1_000).map(|n| storage.publish(publish(vec![new("x", "1", round * 1_000 + n)])));
            for answer in futures::future::join_all(callers).await {
                answer.expect("committed");
            }
        }
    })
    .await;
    let (length, batch) = *longest.most.lock().expect("no panic while locked");
    assert!(length <= 2_500 + batch, "{length} events were kept, with batches of {batch}");
    assert!(disk.n_events() - floor(&disk).await >= 2_000, "and never fewer than were asked for");
}

#[tokio::test(start_paused = true)]
async fn a_team_pins_a_journal_that_is_kept_by_count() {
    let (disk, wall) = (MemoryDisk::new(), Arc::new(Wall::default()));
    let keep = Keep { events: Some(100), ..Keep::default() };
    beside(&disk, keeping(keep), &wall, |storage| async move {
        storage.raise_epoch(&name("t")).await.expect("raised");
        for n in 1..=1_000 {
            storage.publish(publish(vec![new("x", "1", n)])).await.expect("committed");
            if n == 500 {
                let step = crate::Step { cursor: Seq(300), ..step("t", 1, 1, Vec::new()) };
                storage.submit(step).await.expect("queued").await.expect("committed");
            }
        }
        tokio::time::sleep(Duration::from_secs(600)).await;
    })
    .await;
    assert_eq!(floor(&disk).await, 300, "as far as the team has taken, and no further");
}

fn keyed(order: u64, key: &str) -> Publish {
    Publish { key: Some((name("caller"), key.into())), ..publish(vec![new("x", "1", order)]) }
}

#[tokio::test(start_paused = true)]
async fn a_key_is_known_for_as_long_as_keys_are_kept_and_then_forgotten() {
    let (disk, wall) = (MemoryDisk::new(), Arc::new(Wall::default()));
    let n_keys = disk.clone();
    beside(&disk, StorageOptions::default(), &wall, |storage| async move {
        for n in 1..=5_000 {
            let first = storage.publish(keyed(n, &format!("k{n}"))).await.expect("committed");
            assert!(!first.repeated);
        }
        tokio::time::sleep(DAY * 7 - Duration::from_secs(7_200)).await;
        let again = storage.publish(keyed(9_001, "k1")).await.expect("known");
        assert!(again.repeated && again.first == Seq(1), "found {again:?}");
        tokio::time::sleep(DAY).await;
        assert_eq!(
            n_keys.count_facts(FactKind::Key, None).await.expect("a count"),
            0,
            "all are deleted in the background"
        );
        let late = storage.publish(keyed(9_002, "k1")).await.expect("committed");
        assert!(!late.repeated && late.first == Seq(5_001), "found {late:?}");
    })
    .await;
}

/// A call whose turn can still be repeated would be made twice if its result were forgotten.
#[tokio::test(start_paused = true)]
async fn a_result_is_kept_while_its_input_may_be_repeated_and_an_intent_for_ever() {
    let (disk, wall) = (MemoryDisk::new(), Arc::new(Wall::default()));
    let results = disk.clone();
    beside(&disk, StorageOptions::default(), &wall, |storage| async move {
        let fact = |key: &str, value: &str| FactWrite {
            kind: FactKind::Result,
            owner: name("a"),
            key: key.into(),
            value: Some(value.into()),
        };
        let left = || async { results.count_facts(FactKind::Result, None).await.expect("a count") };
        storage.raise_epoch(&name("t")).await.expect("raised");
        storage.publish(publish(vec![new("x", "1", 1)])).await.expect("committed");
        let mut first = step("t", 1, 1, Vec::new());
        first.facts = vec![fact("done", "{\"result\":1}"), fact("open", OPEN_EFFECT)];
        storage.submit(first).await.expect("queued").await.expect("committed");
        storage.publish(publish(vec![new("x", "1", 2)])).await.expect("committed");
        tokio::time::sleep(DAY * 30).await;
        assert_eq!(left().await, 2, "the team has not taken what came after it");
        let second = crate::Step { cursor: Seq(2), ..step("t", 1, 2, Vec::new()) };
        storage.submit(second).await.expect("queued").await.expect("committed");
        tokio::time::sleep(DAY).await;
        assert_eq!(left().await, 1, "the intent stays");
    })
    .await;
}

/// A store that lets others run before each piece is deleted.
struct Yielding(MemoryStore);

#[async_trait::async_trait]
impl Store for Yielding {
    async fn load(&mut self) -> Result<Loaded, StoreError> {
        self.0.load().await
    }

    async fn commit(&mut self, batch: &WriteBatch) -> Result<(), StoreError> {
        self.0.commit(batch).await
    }

    async fn checkpoint(&mut self) -> Result<(), StoreError> {
        self.0.checkpoint().await
    }

    async fn prune(&mut self, upto: Seq, events_max: u64) -> Result<Seq, StoreError> {
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        self.0.prune(upto, events_max).await
    }

    async fn close(&mut self) -> Result<(), StoreError> {
        self.0.close().await
    }

    fn reader(&self) -> Arc<dyn crate::Read> {
        self.0.reader()
    }
}

/// What is to be deleted was found before the team came: the pieces that were left would have gone below it.
#[tokio::test(start_paused = true)]
async fn a_team_that_comes_while_pieces_are_deleted_pins_what_is_left() {
    let (disk, wall) = (MemoryDisk::new(), Arc::new(Wall::default()));
    let unlimited = StorageOptions { keep: Keep::default(), ..StorageOptions::default() };
    beside(&disk, unlimited, &wall, |storage| async move {
        for n in 0..100 {
            let events = (0..100).map(|place| new("x", "1", n * 100 + place)).collect();
            storage.publish(publish(events)).await.expect("committed");
        }
    })
    .await;
    let store = Box::new(Yielding(MemoryStore::on(&disk)));
    let keep = Keep { events: Some(100), ..Keep::default() };
    let env = Arc::clone(&wall) as Arc<dyn Env>;
    let opened = Storage::open(store, keeping(keep), Arc::new(Recorder::default()), env).await;
    let (storage, actor) = opened.expect("opened");
    let work = async {
        while floor(&disk).await == 0 {
            tokio::task::yield_now().await;
        }
        let row = storage.raise_epoch(&name("t")).await.expect("raised");
        assert!(row.cursor > Seq::ZERO && row.cursor < Seq(9_000), "some pieces are left: {row:?}");
        tokio::time::sleep(Duration::from_secs(600)).await;
        assert_eq!(floor(&disk).await, row.cursor.get());
        storage.stop().await.expect("stopped");
    };
    futures::join!(actor.run(), work);
}
