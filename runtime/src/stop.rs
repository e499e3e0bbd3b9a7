//! How a runtime ends: by a stop, at the stop's deadline, or because its last handle is dropped.
//! In each case, afterwards every call is refused, nothing is written, and the file is free.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use atra_bus::{Name, Task};
use atra_storage::Rejected;
use tokio::{
    sync::watch,
    time::{Instant, timeout},
};

use crate::{
    RuntimeError,
    coordinator::{StorageTask, Watchdog, note_clean_stop},
    kernel::Kernel,
    runtime::TeamHandle,
    supervisor::TeamState,
};

/// How long an ended storage may take to close its file. 5 s: it ends after the commit in progress; a slower disk may
/// never answer.
const CLOSE_MAX: Duration = Duration::from_secs(5);

/// How a stop went.
#[derive(Debug, Clone)]
enum Outcome {
    Clean,
    Rejected(Rejected),
    Deadline(Duration),
    Team {
        team: Name,
        state: TeamState,
    },
    Failed {
        task: String,
        reason: String,
    },
    /// The call was dropped before the stop was over.
    Interrupted,
}

impl Outcome {
    fn into_result(self) -> Result<(), RuntimeError> {
        Err(match self {
            Self::Clean => return Ok(()),
            Self::Rejected(rejected) => RuntimeError::Rejected(rejected),
            Self::Deadline(deadline) => RuntimeError::Deadline(deadline),
            Self::Team { team, state } => RuntimeError::TeamEnded { team, state },
            Self::Failed { task, reason } => RuntimeError::Failed { task, reason },
            Self::Interrupted => RuntimeError::Stopped,
        })
    }
}

/// What ends a runtime. Shared by its handles.
pub(crate) struct Ending {
    /// `None` once a stop has begun.
    parts: Mutex<Option<Parts>>,
    /// Of the stop, once it is over.
    outcome: watch::Sender<Option<Outcome>>,
}

/// Used only by a stop. If it is dropped without a stop, everything ends at once.
struct Parts {
    kernel: Arc<Kernel>,
    /// The teams' supervisors, in starting order.
    tasks: Vec<Task>,
    /// `None` once it has ended.
    storage: Option<StorageTask>,
    watchdog: Option<Watchdog>,
}

impl Drop for Parts {
    fn drop(&mut self) {
        self.refuse_all();
        self.kernel.storage.abort();
    }
}

impl Parts {
    /// From now on every call is refused.
    fn refuse_all(&self) {
        self.kernel.life.stop();
        self.kernel.bus.close();
    }

    /// Ends the remaining tasks, and waits until the file is free.
    async fn end(&mut self, is_drained: bool) {
        self.refuse_all();
        self.tasks.clear();
        drop(self.watchdog.take());
        if !is_drained {
            self.kernel.storage.abort();
            if timeout(CLOSE_MAX, self.kernel.storage.ended()).await.is_err() {
                tracing::error!(waited = ?CLOSE_MAX, "storage is still in a commit; the file is free when it ends");
                return;
            }
        }
        match self.storage.take() {
            Some(StorageTask::Task(task)) => drop(task.join().await),
            Some(StorageTask::Thread(thread, answers)) => {
                // Its loop has returned or is returning, and with it ends the other.
                drop(thread.join());
                answers.join().await;
            }
            None => {}
        }
    }
}

/// Publishes the outcome when a stop is over, also when its call is dropped.
struct Telling<'a>(&'a watch::Sender<Option<Outcome>>, Outcome);

impl Drop for Telling<'_> {
    fn drop(&mut self) {
        self.0.send_replace(Some(self.1.clone()));
    }
}

impl Ending {
    pub(crate) fn new(kernel: Arc<Kernel>, tasks: Vec<Task>, storage: StorageTask, watchdog: Option<Watchdog>) -> Self {
        let parts = Parts { kernel, tasks, storage: Some(storage), watchdog };
        Self { parts: Mutex::new(Some(parts)), outcome: watch::Sender::new(None) }
    }

    /// Stops within `deadline`. A second call waits for the first, within its own deadline, and returns the same
    /// outcome.
    pub(crate) async fn stop(&self, teams: &[TeamHandle], deadline: Duration) -> Result<(), RuntimeError> {
        let begun = Instant::now();
        let parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(parts) = parts else {
            let mut outcome = self.outcome.subscribe();
            let told = timeout(deadline, outcome.wait_for(Option::is_some)).await;
            let told = told.ok().and_then(Result::ok).and_then(|told| told.clone());
            return told.map_or(Err(RuntimeError::Deadline(deadline)), Outcome::into_result);
        };
        let mut telling = Telling(&self.outcome, Outcome::Interrupted);
        // Declared after it, so dropped before it: waiting callers are woken when everything has ended.
        let mut parts = parts;
        let drained = timeout(deadline.saturating_sub(begun.elapsed()), parts.drain(teams)).await;
        let is_drained = drained.is_ok();
        telling.1 = drained.unwrap_or(Outcome::Deadline(deadline));
        parts.end(is_drained).await;
        telling.1.clone().into_result()
    }
}

impl Parts {
    /// Teams finish what they began, storage flushes and checkpoints.
    async fn drain(&mut self, teams: &[TeamHandle]) -> Outcome {
        let kernel = self.kernel.clone();
        let failed_before = kernel.life.failure();
        // First, since a team that waits for space reacts to nothing else.
        kernel.storage.end_waiting_for_space();
        teams.iter().for_each(|team| team.orders.stop());
        while let Some(task) = self.tasks.pop() {
            let name = task.name().to_owned();
            if !task.join().await {
                tracing::error!(task = %name, "task ended by a panic");
            }
        }
        let noted = note_clean_stop(&kernel).await;
        // In any case. The first error is the one to report.
        let stopped = kernel.storage.stop().await;
        // The storage's own error is more precise, unless the storage had ended before.
        match (failed_before, noted.and(stopped)) {
            (None, Err(rejected)) => return Outcome::Rejected(rejected),
            (None, Ok(())) => {}
            (Some((task, reason)), _) => return Outcome::Failed { task, reason },
        }
        if let Some((task, reason)) = kernel.life.failure() {
            return Outcome::Failed { task, reason };
        }
        let panicked = teams.iter().find(|team| team.orders.has_panicked());
        panicked.map_or(Outcome::Clean, |team| Outcome::Team {
            team: team.plan.name.clone(),
            state: team.states.borrow().clone(),
        })
    }
}
