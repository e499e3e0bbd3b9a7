//! What the storage actor counts, and the snapshot that others read.

use std::{
    sync::{
        OnceLock,
        atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering},
    },
    time::Duration,
};

use serde::Serialize;
use tokio::sync::Notify;

use crate::StoreError;

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
    /// Whether it works.
    pub state: StorageState,
}

/// Shared by the actor, which writes, and the handles, which read. All orderings are relaxed unless said
/// otherwise: the numbers are for people, and each stands alone.
#[derive(Debug, Default)]
pub(crate) struct Gauges {
    pub(crate) queued: AtomicU64,
    pub(crate) queued_bytes: AtomicU64,
    pub(crate) batches: AtomicU64,
    pub(crate) steps: AtomicU64,
    pub(crate) events: AtomicU64,
    pub(crate) rejected: AtomicU64,
    pub(crate) retries: AtomicU64,
    pub(crate) last_commit_micros: AtomicU64,
    /// Released seq. Written with `Release` after the batch was handed over, read with `Acquire`: who sees
    /// the seq sees what the hand-over did.
    pub(crate) released: AtomicU64,
    state: AtomicU8,
    /// What made the actor fail, for those who call afterwards.
    pub(crate) failure: OnceLock<StoreError>,
    stopping: AtomicBool,
    stop_asked: Notify,
    ended: Notify,
}

impl Gauges {
    pub(crate) fn add(counter: &AtomicU64, n: u64) {
        counter.fetch_add(n, Ordering::Relaxed);
    }

    pub(crate) fn queue(&self, bytes: usize) {
        Self::add(&self.queued, 1);
        Self::add(&self.queued_bytes, bytes as u64);
    }

    pub(crate) fn unqueue(&self, bytes: usize) {
        self.queued.fetch_sub(1, Ordering::Relaxed);
        self.queued_bytes.fetch_sub(bytes as u64, Ordering::Relaxed);
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

    /// The actor's last act.
    pub(crate) fn end(&self, state: StorageState) {
        self.set_state(state);
        self.ended.notify_waiters();
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

    pub(crate) fn snapshot(&self) -> StorageMetrics {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        StorageMetrics {
            queued: get(&self.queued),
            queued_bytes: get(&self.queued_bytes),
            batches: get(&self.batches),
            steps: get(&self.steps),
            events: get(&self.events),
            rejected: get(&self.rejected),
            retries: get(&self.retries),
            last_commit: Duration::from_micros(get(&self.last_commit_micros)),
            state: self.state(),
        }
    }
}
