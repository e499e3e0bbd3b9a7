//! The state of the runtime: running, failed, or stopped.
//!
//! ```text
//! Running → Failed (a task of the runtime's own ended) → Stopped
//!     └──────────────────────────────────────────────────↑
//! ```

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use crate::{RuntimeError, team::Orders};

#[derive(Debug, Clone, PartialEq, Eq)]
enum Phase {
    Running,
    Failed { task: String, reason: String },
    Stopped,
}

/// The life of one runtime.
pub(crate) struct Life {
    phase: watch::Sender<Phase>,
    /// The orders of every team, to notify them when the runtime fails.
    teams: Mutex<Vec<Arc<Orders>>>,
}

impl Life {
    pub(crate) fn new() -> Self {
        Self { phase: watch::Sender::new(Phase::Running), teams: Mutex::default() }
    }

    /// Also notifies this team when the runtime fails.
    pub(crate) fn watch_over(&self, team: Arc<Orders>) {
        self.teams().push(team);
        // It may have failed before.
        if self.failure().is_some() {
            self.tell_teams();
        }
    }

    /// A task that everything depends on has ended; the first one counts.
    pub(crate) fn fail(&self, task: &str, reason: String) {
        let is_first = self.phase.send_if_modified(|phase| {
            let is_first = *phase == Phase::Running;
            if is_first {
                *phase = Phase::Failed { task: task.into(), reason };
            }
            is_first
        });
        if is_first {
            self.tell_teams();
        }
    }

    /// The runtime has stopped: every call is refused from now on.
    pub(crate) fn stop(&self) {
        self.phase.send_replace(Phase::Stopped);
    }

    /// # Errors
    /// [`RuntimeError::Stopped`] or [`RuntimeError::Failed`] when the runtime has stopped or failed.
    pub(crate) fn check(&self) -> Result<(), RuntimeError> {
        match &*self.phase.borrow() {
            Phase::Running => Ok(()),
            Phase::Stopped => Err(RuntimeError::Stopped),
            Phase::Failed { task, reason } => Err(RuntimeError::Failed { task: task.clone(), reason: reason.clone() }),
        }
    }

    /// Which task has ended and why, if the runtime has failed and has not been stopped since.
    pub(crate) fn failure(&self) -> Option<(String, String)> {
        match &*self.phase.borrow() {
            Phase::Failed { task, reason } => Some((task.clone(), reason.clone())),
            _ => None,
        }
    }

    /// Waits until the runtime has failed or stopped. Cancel safe.
    pub(crate) async fn over(&self) {
        // The sender is in `self`, so the channel is open.
        let _ = self.phase.subscribe().wait_for(|phase| *phase != Phase::Running).await;
    }

    /// Waits until the runtime has stopped. Cancel safe.
    pub(crate) async fn stopped(&self) {
        let _ = self.phase.subscribe().wait_for(|phase| *phase == Phase::Stopped).await;
    }

    fn tell_teams(&self) {
        let teams = self.teams().clone();
        teams.iter().for_each(|team| team.lose());
    }

    fn teams(&self) -> std::sync::MutexGuard<'_, Vec<Arc<Orders>>> {
        self.teams.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
