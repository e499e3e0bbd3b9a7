//! The environment of one incarnation of a runtime inside a simulation.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use atra_bus::{Env, Task, TaskFuture, Timestamp};

use super::Engine;

/// The environment of one incarnation of a runtime inside a simulation.
pub(crate) struct SwarmEnv {
    engine: Engine,
    group: u32,
    start: Timestamp,
    /// What clock steps have added, in milliseconds.
    off_by: Arc<AtomicI64>,
}

impl SwarmEnv {
    pub(crate) fn new(engine: Engine, group: u32, start: Timestamp, off_by: Arc<AtomicI64>) -> Self {
        Self { engine, group, start, off_by }
    }
}

impl Env for SwarmEnv {
    fn now(&self) -> Timestamp {
        // As of this poll of the root: time moves between two of them only. Tokio's own clock costs a lock.
        let passed = self.start.after(Duration::from_millis(self.engine.now_ms()));
        Timestamp(passed.0.saturating_add(self.off_by.load(Ordering::Relaxed)))
    }

    fn monotonic(&self) -> tokio::time::Instant {
        self.engine.instant()
    }

    fn random(&self) -> u64 {
        self.engine.random()
    }

    fn process(&self) -> u32 {
        self.group
    }

    fn spawn(&self, name: &str, future: TaskFuture) -> Task {
        self.engine.spawn(self.group, name, future)
    }
}
