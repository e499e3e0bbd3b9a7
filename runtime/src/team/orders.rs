//! Orders to a team: stop, restart, pause. They are separate from the queue of questions, so they never wait behind it.
//! An order is a bit, not a message: sending it never waits and never fails, and sending it twice has the effect of
//! once. The executor checks the orders before every input and every question; the supervisor checks them during a
//! backoff and while the team is down.

use std::{
    future::poll_fn,
    sync::atomic::{AtomicBool, AtomicU8, Ordering},
    task::{Context, Poll},
};

use futures::task::AtomicWaker;

const STOP: u8 = 1;
const RESTART: u8 = 2;
const PAUSE: u8 = 4;
const LOST: u8 = 8;

/// The orders of a team that are in force.
#[derive(Debug, Default)]
pub(crate) struct Orders {
    bits: AtomicU8,
    /// Of the executor or of the supervisor: never of both.
    waker: AtomicWaker,
    /// Whether a panic of the runtime's own tasks ended the team last.
    has_panicked: AtomicBool,
}

impl Orders {
    /// Finish the input in progress, commit it, and end.
    pub(crate) fn stop(&self) {
        self.give(STOP);
    }

    /// End and start again from committed state.
    pub(crate) fn restart(&self) {
        self.give(RESTART);
    }

    /// Take no inputs until resumed; stays in force over restarts.
    pub(crate) fn pause(&self) {
        self.give(PAUSE);
    }

    /// Go on.
    pub(crate) fn resume(&self) {
        // SeqCst, as in `give`.
        self.bits.fetch_and(!PAUSE, Ordering::SeqCst);
        self.waker.wake();
    }

    /// The runtime has failed: nothing can be committed any more.
    pub(crate) fn lose(&self) {
        self.give(LOST);
    }

    fn give(&self, bit: u8) {
        // SeqCst with `poll_other`: either the waiter sees the bit or it is woken.
        self.bits.fetch_or(bit, Ordering::SeqCst);
        self.waker.wake();
    }

    fn has(&self, bit: u8) -> bool {
        self.bits.load(Ordering::SeqCst) & bit != 0
    }

    pub(crate) fn is_stop(&self) -> bool {
        self.has(STOP)
    }

    pub(crate) fn is_restart(&self) -> bool {
        self.has(RESTART)
    }

    pub(crate) fn is_lost(&self) -> bool {
        self.has(LOST)
    }

    pub(crate) fn is_paused(&self) -> bool {
        self.has(PAUSE)
    }

    /// Whether there is any order but a pause: one cheap check.
    pub(crate) fn is_ending(&self) -> bool {
        self.has(STOP | RESTART | LOST)
    }

    /// Takes the order to restart, if it was given.
    pub(crate) fn take_restart(&self) -> bool {
        self.bits.fetch_and(!RESTART, Ordering::SeqCst) & RESTART != 0
    }

    /// Ready when the team is to end, or is paused while `is_paused` says otherwise.
    pub(crate) fn poll_other(&self, is_paused: bool, cx: &mut Context<'_>) -> Poll<()> {
        // Registered before the check, so that an order in between is not missed.
        self.waker.register(cx.waker());
        if self.is_ending() || self.is_paused() != is_paused { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Waits until the team is to stop or to restart. Cancel safe.
    pub(crate) async fn stop_or_restart(&self) {
        poll_fn(|cx| {
            self.waker.register(cx.waker());
            if self.has(STOP | RESTART) { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    pub(crate) fn set_panicked(&self, has_panicked: bool) {
        self.has_panicked.store(has_panicked, Ordering::SeqCst);
    }

    /// Whether a panic of the runtime's own tasks ended the team last.
    pub(crate) fn has_panicked(&self) -> bool {
        self.has_panicked.load(Ordering::SeqCst)
    }
}
