//! The store under a simulation: faults above any backend, and what a crash does.
//!
//! Faults are injected here, above the backend, so the model and SQLite see the same ones. A crash freezes the
//! incarnation first: from then on none of its tasks is polled, and what was on its way never reaches the disk.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use atra_storage::{Level, Loaded, Read, Store, StoreError, WriteBatch};
use tokio::{sync::mpsc, time::sleep};

use super::{
    SIM_START,
    audit::Audit,
    driven::{DrivenReader, ReadBug},
    engine::{EndBug, Engine, Meddler, Meddling, WakeBug},
    faults::{FaultClass, Faults},
};

/// What the operator of a simulation is asked to do.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Order {
    /// The process has died (it is frozen already): start it again.
    Crashed { power: bool, lies: bool, draw: u64 },
    /// Stop cleanly and start again.
    Stop { draw: u64 },
    /// Pause a team for a while.
    Pause { draw: u64 },
    /// Restart a team.
    Restart { draw: u64 },
}

/// What all incarnations of the store share.
#[derive(Clone)]
pub(crate) struct DiskWorld {
    pub(crate) engine: Engine,
    pub(crate) faults: Faults,
    pub(crate) audit: Audit,
    pub(crate) orders: mpsc::Sender<Order>,
    pub(crate) commits: Arc<AtomicU64>,
    pub(crate) clock_off_by: Arc<AtomicI64>,
    pub(crate) bugs: Bugs,
}

/// Bugs of the kernel, as tests plant them.
#[derive(Clone, Default)]
pub(crate) struct Bugs {
    /// What is written when the n-th batch is answered.
    pub(crate) batch: Option<BatchBug>,
    pub(crate) read: Option<ReadBug>,
    pub(crate) wake: Option<WakeBug>,
    pub(crate) end: Option<EndBug>,
}

pub(crate) type BatchBug = Arc<dyn Fn(u64, WriteBatch) -> Vec<WriteBatch> + Send + Sync>;

/// A store that fails as planned.
pub(crate) struct FaultyStore {
    pub(crate) inner: Box<dyn Store>,
    pub(crate) world: DiskWorld,
    pub(crate) group: u32,
    /// Commits that this process (since its last restart) requested.
    pub(crate) commits: u64,
}

/// The longest step of the wall clock: a correction after a long sleep, not another year.
const CLOCK_STEP_MAX_MS: u64 = 30_000;

/// A permanent jump of the wall clock in either direction: by an hour, or by more than the runtime follows at once.
const CLOCK_JUMPS_MS: [i64; 4] = [-3_600_000, 3_600_000, -4 * 3_600_000, 4 * 3_600_000];
/// The longest time during which the wall clock is wrong by decades. A little less than the runtime's default hold.
const CLOCK_MOMENT_MAX_MS: u64 = 50_000;
/// Ten years.
const DECADE_MS: i64 = 3_652 * 86_400_000;

/// The longest time for which a task is not polled: a machine that is busy with something else.
const STALL_MAX_MS: u64 = 1_000;

impl FaultyStore {
    /// Dies here: this future never goes on.
    async fn crash(&self, power: bool, lies: bool, draw: u64) -> StoreError {
        self.world.engine.freeze(self.group + 1);
        self.order(Order::Crashed { power, lies, draw });
        std::future::pending().await
    }

    fn order(&self, order: Order) {
        // A full queue means that the operator has enough to do; crashes have room of their own, see `ORDERS_MAX`.
        let _ = self.world.orders.try_send(order);
    }

    /// Wall time jumps by hours for good, or for a moment by ten years or back to 1970.
    fn jump_clock(&self, draw: u64) {
        let off_by = self.world.clock_off_by.clone();
        let kind = draw >> 32;
        if kind & 1 == 0 {
            // Relaxed: one thread.
            off_by.fetch_add(CLOCK_JUMPS_MS[(kind >> 1 & 3) as usize], Ordering::Relaxed);
            return;
        }
        let by_ms = if kind & 2 == 0 { DECADE_MS } else { -SIM_START.millis() };
        off_by.fetch_add(by_ms, Ordering::Relaxed);
        let moment = Duration::from_millis(draw % CLOCK_MOMENT_MAX_MS);
        let back = async move {
            sleep(moment).await;
            off_by.fetch_sub(by_ms, Ordering::Relaxed);
        };
        self.world.engine.detach(0, "clock", Box::pin(back));
    }

    /// Carries out what does not end the commit; gives what does.
    async fn begin(&self, n: u64) -> Result<Vec<(FaultClass, u64)>, StoreError> {
        let mut later = Vec::new();
        for (class, draw) in self.world.faults.commit(n, self.group, self.commits) {
            match class {
                FaultClass::Latency => sleep(Duration::from_millis(draw % 20)).await,
                FaultClass::DiskStall => sleep(Duration::from_millis(draw % 60_000)).await,
                FaultClass::ClockStep => {
                    let step = (draw % (2 * CLOCK_STEP_MAX_MS)) as i64 - CLOCK_STEP_MAX_MS as i64;
                    self.world.clock_off_by.fetch_add(step, Ordering::Relaxed);
                }
                FaultClass::ClockJump => self.jump_clock(draw),
                FaultClass::Pause => self.order(Order::Pause { draw }),
                FaultClass::Restart => self.order(Order::Restart { draw }),
                FaultClass::Stop => self.order(Order::Stop { draw }),
                FaultClass::DiskFull => self.world.faults.fill_disk(1 + draw % 6),
                FaultClass::CommitBusy => return Err(StoreError::Busy("planned".into())),
                FaultClass::CommitLost => return Err(StoreError::Unknown("planned, without effect".into())),
                _ => later.push((class, draw)),
            }
        }
        if self.world.faults.is_disk_full() {
            return Err(StoreError::Full("planned".into()));
        }
        Ok(later)
    }
}

#[async_trait]
impl Store for FaultyStore {
    async fn load(&mut self) -> Result<Loaded, StoreError> {
        self.inner.load().await
    }

    async fn commit(&mut self, batch: &WriteBatch) -> Result<(), StoreError> {
        // Relaxed: one thread.
        let n = self.world.commits.fetch_add(1, Ordering::Relaxed) + 1;
        self.commits += 1;
        let later = self.begin(n).await?;
        let changed = self.world.bugs.batch.as_ref().map(|bug| bug(n, batch.clone()));
        let batches = changed.as_deref().unwrap_or(std::slice::from_ref(batch));
        let of = |class: FaultClass| later.iter().find(|(found, _)| *found == class).map(|(_, draw)| *draw);
        let crash = of(FaultClass::Crash).map(|draw| (false, draw));
        let crash = of(FaultClass::PowerLoss).map(|draw| (true, draw)).or(crash);
        if let Some((power, draw)) = crash
            && draw & 1 == 0
        {
            return Err(self.crash(power, false, draw).await);
        }
        for batch in batches {
            let mut torn = None;
            if of(FaultClass::TornCommit).is_some() && !batch.facts.is_empty() {
                let mut less = batch.clone();
                less.facts.pop();
                torn = Some(less);
            }
            self.inner.commit(torn.as_ref().unwrap_or(batch)).await?;
            self.world.audit.committed(batch);
            if torn.is_some() {
                return Err(self.crash(false, false, 0).await);
            }
        }
        if batches.is_empty() {
            return Ok(());
        }
        if let Some(draw) = of(FaultClass::DiskLies) {
            return Err(self.crash(false, true, draw).await);
        }
        if let Some((power, draw)) = crash {
            return Err(self.crash(power, false, draw).await);
        }
        if of(FaultClass::CommitUnknown).is_some() {
            return Err(StoreError::Unknown("planned, after its effect".into()));
        }
        Ok(())
    }

    async fn checkpoint(&mut self) -> Result<(), StoreError> {
        self.inner.checkpoint().await?;
        self.world.audit.synced();
        Ok(())
    }

    async fn renew(&mut self) -> Result<(), StoreError> {
        self.inner.renew().await
    }

    async fn close(&mut self) -> Result<(), StoreError> {
        self.inner.close().await?;
        self.world.audit.synced();
        Ok(())
    }

    fn reader(&self) -> Arc<dyn Read> {
        match &self.world.bugs.read {
            None => self.inner.reader(),
            Some(bug) => Arc::new(DrivenReader::flawed(self.inner.reader(), bug.clone())),
        }
    }
}

/// What goes wrong instead of a poll: the process dies between two of them, or one comes late.
pub(crate) fn meddler(faults: Faults, orders: mpsc::Sender<Order>) -> Meddler {
    Box::new(move |task, nth, n| {
        let (class, draw) = faults.poll(task, nth, n)?;
        if class == FaultClass::TaskStall {
            return Some(Meddling::Stalls(Duration::from_millis(1 + draw % STALL_MAX_MS)));
        }
        // As where a commit dies.
        let _ = orders.try_send(Order::Crashed { power: false, lies: false, draw });
        Some(Meddling::Dies)
    })
}

/// Whether a commit at this level outlives a power cut.
pub(crate) fn is_flushed(level: Level) -> bool {
    level == Level::Power
}
