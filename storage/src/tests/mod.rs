//! Tests of the storage actor over the model store, on paused time.
//!
//! - `order`: what is accepted, in which order it is committed, released and answered
//! - `failure`: what each class of store error does
//! - `bounds`: queues, lanes, sizes, stopping
//! - `retention`: what is deleted, and when
//! - `contained`: panics inside the actor, and ending it without a stop

mod bounds;
mod contained;
mod failure;
mod order;
mod retention;

use std::sync::{Arc, Mutex};

use atra_bus::{Batch, Env, SimEnv, Task, Timestamp};

use crate::{
    Ancestor, FactKind, FactWrite, Level, MemoryDisk, MemoryStore, NewEvent, Publish, Release, Step, Storage,
    StorageOptions, Store,
    conformance::{event, name},
};

/// Keeps what was released.
#[derive(Default)]
pub(crate) struct Recorder(pub(crate) Mutex<Vec<Arc<Batch>>>);

impl Recorder {
    pub(crate) fn seqs(&self) -> Vec<u64> {
        let batches = self.0.lock().expect("no panic while locked");
        batches.iter().flat_map(|batch| &batch.events).map(|event| event.seq.get()).collect()
    }
}

impl Release for Recorder {
    fn release(&self, batch: &Arc<Batch>) {
        self.0.lock().expect("no panic while locked").push(Arc::clone(batch));
    }
}

/// A running actor over a model store.
pub(crate) struct Running {
    pub(crate) storage: Storage,
    pub(crate) disk: MemoryDisk,
    pub(crate) released: Arc<Recorder>,
    pub(crate) actor: Task,
}

pub(crate) async fn running() -> Running {
    running_with(StorageOptions::default(), &MemoryDisk::new()).await
}

pub(crate) async fn running_with(options: StorageOptions, disk: &MemoryDisk) -> Running {
    let store = Box::new(MemoryStore::on(disk));
    let released = Arc::new(Recorder::default());
    let (storage, actor) = start(store, options, Arc::clone(&released) as Arc<dyn Release>).await;
    Running { storage, disk: disk.clone(), released, actor }
}

pub(crate) async fn start(
    store: Box<dyn Store>,
    options: StorageOptions,
    release: Arc<dyn Release>,
) -> (Storage, Task) {
    let (storage, actor) = Storage::open(store, options, release, env()).await.expect("a sound store opens");
    let task = SimEnv::new(1, Timestamp(0)).spawn("storage", Box::pin(actor.run()));
    (storage, task)
}

/// A clock that follows tokio's, from 0 on.
pub(crate) fn env() -> Arc<dyn Env> {
    Arc::new(SimEnv::new(1, Timestamp(0)))
}

pub(crate) fn new(topic: &str, json: &str, order: u64) -> NewEvent {
    NewEvent { event: event("a", topic, json, order), ancestor: Ancestor::None, seen: None }
}

pub(crate) fn step(team: &str, epoch: u64, number: u64, events: Vec<NewEvent>) -> Step {
    Step {
        team: name(team),
        epoch,
        number,
        cursor: atra_bus::Seq::ZERO,
        events,
        facts: Vec::new(),
        level: Level::Process,
    }
}

pub(crate) fn publish(events: Vec<NewEvent>) -> Publish {
    Publish { events, key: None, expect: None, facts: Vec::new(), level: Level::Process }
}

pub(crate) fn state(key: &str, value: Option<&str>) -> FactWrite {
    FactWrite { kind: FactKind::State, owner: name("a"), key: key.into(), value: value.map(Into::into) }
}
