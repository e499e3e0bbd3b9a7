//! The owner's end of a simulated task.

use std::{
    sync::{Arc, Mutex, Weak},
    task::{Context, Poll, Waker},
};

use atra_bus::OwnedTask;

use super::{Shared, lock};

#[derive(Debug, Default)]
pub(super) struct End {
    state: Mutex<(Option<bool>, Option<Waker>)>,
}

impl End {
    pub(super) fn set(&self, ok: bool) {
        let waker = {
            let mut state = lock(&self.state);
            state.0.get_or_insert(ok);
            state.1.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// The owner's end of a task.
pub(super) struct Owned {
    pub(super) id: u64,
    pub(super) end: Arc<End>,
    pub(super) engine: Weak<Shared>,
}

impl std::fmt::Debug for Owned {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "task {}", self.id)
    }
}

impl OwnedTask for Owned {
    fn is_finished(&self) -> bool {
        lock(&self.end.state).0.is_some()
    }

    fn abort(&self) {
        if let Some(engine) = self.engine.upgrade() {
            // A task that is being polled has no future here: it is dropped when the poll is over.
            let slot = lock(&engine.state).take(self.id);
            drop(slot);
        }
        self.end.set(false);
    }

    fn poll_end(&self, cx: &mut Context<'_>) -> Poll<bool> {
        let mut state = lock(&self.end.state);
        match state.0 {
            Some(ok) => Poll::Ready(ok),
            None => {
                state.1 = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}
