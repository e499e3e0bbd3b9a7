//! What the storage actor counts, and the snapshot that others read.

use std::{
    sync::{
        Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering},
    },
    time::Duration,
};

use serde::Serialize;
use tokio::sync::Notify;

use atra_bus::Seq;

use crate::{Sizes, StoreError};

/// Classes of a [`Histogram`]: four for each power of two, up to 2^32.
const CLASSES: usize = 128;

/// How often values of about the same size came: within a fifth of each other. Counts only, no lock, fixed size.
#[derive(Debug)]
pub(crate) struct Histogram {
    counts: [AtomicU64; CLASSES],
    max: AtomicU64,
}

/// What a histogram tells. Values are the upper ends of their classes, except for the greatest, which is exact.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Distribution {
    /// How many values.
    pub count: u64,
    /// Half of them are not greater.
    pub p50: u64,
    /// All but one in a hundred are not greater.
    pub p99: u64,
    /// The greatest.
    pub max: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: std::array::from_fn(|_| AtomicU64::new(0)), max: AtomicU64::new(0) }
    }
}

impl Histogram {
    pub(crate) fn record(&self, value: u64) {
        self.counts[class_of(value)].fetch_add(1, Ordering::Relaxed);
        self.max.fetch_max(value, Ordering::Relaxed);
    }

    pub(crate) fn snapshot(&self) -> Distribution {
        let counts: Vec<u64> = self.counts.iter().map(|count| count.load(Ordering::Relaxed)).collect();
        let (count, max): (u64, u64) = (counts.iter().sum(), self.max.load(Ordering::Relaxed));
        let quantile = |per_mille: u64| {
            let wanted = (count * per_mille).div_ceil(1_000).max(1);
            let mut seen = 0;
            let class = counts.iter().position(|n| {
                seen += n;
                seen >= wanted
            });
            class.map_or(0, |class| end_of(class).min(max))
        };
        Distribution { count, p50: quantile(500), p99: quantile(990), max }
    }
}

/// The power of two and the two bits after the first.
fn class_of(value: u64) -> usize {
    if value < 4 {
        return value as usize;
    }
    let power = value.ilog2() as usize;
    (power * 4 - 4 + (value >> (power - 2)) as usize % 4).min(CLASSES - 1)
}

/// The greatest value of a class.
fn end_of(class: usize) -> u64 {
    if class < 4 {
        return class as u64;
    }
    let (power, part) = (class / 4 + 1, class as u64 % 4);
    ((part + 5) << (power - 2)) - 1
}

/// Whether the storage actor works.
///
/// ```text
/// Running ⇄ Degraded      (no space; space again)
/// Running, Degraded → Stopped   (stop, or every handle dropped)
/// Running, Degraded → Failed    (the store cannot be written any more)
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum StorageState {
    /// Commits go through.
    Running = 0,
    /// The disk is full: the batch at work is kept and probed, reads go on.
    Degraded = 1,
    /// It was stopped; everything queued before is committed.
    Stopped = 2,
    /// The store failed for good; the log says why.
    Failed = 3,
}

/// A snapshot of the storage actor's counters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct StorageMetrics {
    /// Commands that wait or are being committed.
    pub queued: u64,
    /// Bytes of content that wait or are being committed.
    pub queued_bytes: u64,
    /// Committed batches.
    pub batches: u64,
    /// Committed steps and publishes.
    pub steps: u64,
    /// Committed events.
    pub events: u64,
    /// Commands that were refused or failed.
    pub rejected: u64,
    /// Tries of a commit after the first one.
    pub retries: u64,
    /// How long the last commit took, retries included.
    pub last_commit: Duration,
    /// How long commits took, in microseconds.
    pub commits: Distribution,
    /// How many steps and publishes were in a batch.
    pub batch_steps: Distribution,
    /// How often the log was moved into the database, and how often a reader kept it from being begun anew.
    pub checkpoints: u64,
    /// How often a reader kept the log from being begun anew.
    pub checkpoints_held: u64,
    /// What the store takes up.
    pub sizes: Sizes,
    /// The last seq that was pruned.
    pub floor: Seq,
    /// Whether callers are refused because of `db_bytes_max`.
    pub is_full: bool,
    /// Whether it works.
    pub state: StorageState,
}

/// Shared by the actor, which writes, and the handles, which read. All orderings are relaxed unless said
/// otherwise: the numbers are for people, and each stands alone.
#[derive(Debug, Default)]
pub(crate) struct Gauges {
    /// Commands that were taken out of the lanes and have not been answered.
    at_work: AtomicU64,
    pub(crate) batches: AtomicU64,
    pub(crate) steps: AtomicU64,
    pub(crate) events: AtomicU64,
    pub(crate) rejected: AtomicU64,
    pub(crate) retries: AtomicU64,
    pub(crate) last_commit_micros: AtomicU64,
    pub(crate) commits: Histogram,
    pub(crate) batch_steps: Histogram,
    pub(crate) checkpoints: AtomicU64,
    pub(crate) checkpoints_held: AtomicU64,
    sizes: Mutex<Sizes>,
    floor: AtomicU64,
    is_full: AtomicBool,
    /// Released seq. Written with `Release` after the batch was handed over, read with `Acquire`: who sees
    /// the seq sees what the hand-over did.
    pub(crate) released: AtomicU64,
    moved: Notify,
    state: AtomicU8,
    /// What made the actor fail, for those who call afterwards.
    pub(crate) failure: OnceLock<StoreError>,
    stopping: AtomicBool,
    stop_asked: Notify,
    is_aborted: AtomicBool,
    aborted: Notify,
    ended: Notify,
}

impl Gauges {
    pub(crate) fn add(counter: &AtomicU64, n: u64) {
        counter.fetch_add(n, Ordering::Relaxed);
    }

    pub(crate) fn take(&self, n_commands: usize) {
        Self::add(&self.at_work, n_commands as u64);
    }

    pub(crate) fn answered(&self, n_commands: usize) {
        self.at_work.fetch_sub(n_commands as u64, Ordering::Relaxed);
    }

    pub(crate) fn set_state(&self, state: StorageState) {
        self.state.store(state as u8, Ordering::Release);
    }

    pub(crate) fn state(&self) -> StorageState {
        match self.state.load(Ordering::Acquire) {
            0 => StorageState::Running,
            1 => StorageState::Degraded,
            2 => StorageState::Stopped,
            _ => StorageState::Failed,
        }
    }

    /// Makes everything up to `seq` visible.
    pub(crate) fn set_released(&self, seq: Seq) {
        // Release: who sees the seq sees what the hand-over did.
        self.released.store(seq.get(), Ordering::Release);
        self.moved.notify_waiters();
    }

    /// Waits until everything up to `seq` is released; `false`: the actor ended before. Cancel safe.
    pub(crate) async fn until_released(&self, seq: Seq) -> bool {
        loop {
            // Registered before the look, so that a release in between is not missed.
            let moved = self.moved.notified();
            if self.released.load(Ordering::Acquire) >= seq.get() {
                return true;
            }
            if matches!(self.state(), StorageState::Stopped | StorageState::Failed) {
                return false;
            }
            moved.await;
        }
    }

    pub(crate) fn set_sizes(&self, sizes: Sizes) {
        *self.sizes.lock().unwrap_or_else(PoisonError::into_inner) = sizes;
    }

    pub(crate) fn sizes(&self) -> Sizes {
        // Plain numbers: whole after a panic elsewhere.
        *self.sizes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set_floor(&self, floor: Seq) {
        self.floor.store(floor.get(), Ordering::Relaxed);
    }

    pub(crate) fn set_full(&self, is_full: bool) {
        self.is_full.store(is_full, Ordering::Relaxed);
    }

    /// The actor's last act.
    pub(crate) fn end(&self, state: StorageState) {
        self.set_state(state);
        self.ended.notify_waiters();
        self.moved.notify_waiters();
    }

    /// Waits until the actor has ended. Cancel safe.
    pub(crate) async fn finished(&self) {
        loop {
            // Registered before the look, so that an end in between is not missed.
            let ended = self.ended.notified();
            if matches!(self.state(), StorageState::Stopped | StorageState::Failed) {
                return;
            }
            ended.await;
        }
    }

    /// Says that somebody wants to stop, which ends the waiting for a full disk.
    pub(crate) fn ask_to_stop(&self) {
        // SeqCst with the check in `stop_asked`: either the waiter sees the flag or gets the notice.
        self.stopping.store(true, Ordering::SeqCst);
        self.stop_asked.notify_one();
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    /// Waits until somebody wants to stop. Cancel safe.
    pub(crate) async fn stop_asked(&self) {
        while !self.is_stopping() {
            self.stop_asked.notified().await;
        }
    }

    /// Ends the actor after the commit in progress, if any, without the queued commands.
    pub(crate) fn abort(&self) {
        self.ask_to_stop();
        // SeqCst with the check in `aborted`, as above.
        self.is_aborted.store(true, Ordering::SeqCst);
        self.aborted.notify_one();
    }

    pub(crate) fn is_aborted(&self) -> bool {
        self.is_aborted.load(Ordering::SeqCst)
    }

    /// Waits until the actor is to end at once. Cancel safe.
    pub(crate) async fn aborted(&self) {
        while !self.is_aborted() {
            self.aborted.notified().await;
        }
    }

    /// `waiting`: commands in the lanes; `bytes`: theirs and those of commands at work.
    pub(crate) fn snapshot(&self, waiting: usize, bytes: usize) -> StorageMetrics {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        StorageMetrics {
            queued: waiting as u64 + get(&self.at_work),
            queued_bytes: bytes as u64,
            batches: get(&self.batches),
            steps: get(&self.steps),
            events: get(&self.events),
            rejected: get(&self.rejected),
            retries: get(&self.retries),
            last_commit: Duration::from_micros(get(&self.last_commit_micros)),
            commits: self.commits.snapshot(),
            batch_steps: self.batch_steps.snapshot(),
            checkpoints: get(&self.checkpoints),
            checkpoints_held: get(&self.checkpoints_held),
            sizes: self.sizes(),
            floor: Seq(get(&self.floor)),
            is_full: self.is_full.load(Ordering::Relaxed),
            state: self.state(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_value_is_in_the_class_that_ends_at_or_behind_it() {
        for value in (0..5_000).chain([1 << 20, (1 << 20) + 7, (1 << 30) - 1]) {
            let class = class_of(value);
            assert!(value <= end_of(class), "{value} is behind the end of class {class}");
            assert!(class == 0 || value > end_of(class - 1), "{value} fits class {}", class - 1);
            assert!(end_of(class) - value <= value / 4 + 1, "class {class} is too wide for {value}");
        }
        assert_eq!(class_of(u64::MAX), CLASSES - 1);
    }

    #[test]
    fn half_of_the_values_are_not_above_the_middle() {
        let histogram = Histogram::default();
        assert_eq!(histogram.snapshot(), Distribution::default());
        (1..=1_000).for_each(|value| histogram.record(value));
        let found = histogram.snapshot();
        assert!((500..=640).contains(&found.p50) && (990..=1_000).contains(&found.p99), "{found:?}");
        assert_eq!((found.count, found.max), (1_000, 1_000));
    }
}
