//! Containment: runs and drops code that may panic, so that its panic does not spread.
//!
//! Panics come from where the kernel calls foreign code: handlers, factories and destructors of agents, serialisers,
//! wakers, stores, log subscribers. [`contain`] wraps every task of the runtime, [`contain_call`] a single call,
//! [`Contained`] a value whose destructor is foreign. Code that contains a panic must report it.
//!
//! What cannot be contained: a destructor that panics while its thread unwinds from another panic aborts the process,
//! unless one of these also wraps that destructor. Destructors that block hold their thread.

use std::{
    any::Any,
    future::Future,
    ops::{Deref, DerefMut},
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use crate::{ERROR_BYTES_MAX, cut_text};

/// Runs `call` and catches its panic.
///
/// # Errors
/// The text of the panic.
pub fn contain_call<T>(call: impl FnOnce() -> T) -> Result<T, String> {
    // Unwind safety: the caller drops or rebuilds everything that the call may have left half changed.
    catch_unwind(AssertUnwindSafe(call)).map_err(text_of)
}

/// The text of a caught panic, cut at [`ERROR_BYTES_MAX`].
#[must_use]
pub fn text_of(panic: Box<dyn Any + Send>) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    if text.is_none() {
        // The panic value is foreign: its destructor may panic too, and that second panic is ignored.
        if let Err(again) = catch_unwind(AssertUnwindSafe(|| drop(panic))) {
            std::mem::forget(again);
        }
    }
    let text = text.unwrap_or_else(|| "a value that is not text".into());
    cut_text(&text, ERROR_BYTES_MAX).into_owned()
}

/// Polls and drops `future`, and catches its panics.
pub fn contain<F: Future>(future: F) -> Containing<F> {
    Containing { future: Some(Box::pin(future)) }
}

/// See [`contain`].
#[must_use = "futures do nothing unless polled"]
pub struct Containing<F> {
    /// `None` once it has ended.
    future: Option<Pin<Box<F>>>,
}

impl<F: Future> Future for Containing<F> {
    type Output = Result<F::Output, String>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(future) = &mut self.future else { return Poll::Pending };
        let polled = contain_call(|| future.as_mut().poll(cx));
        let output = match polled {
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(output)) => Ok(output),
            Err(panic) => Err(panic),
        };
        let future = self.future.take();
        let dropped = contain_call(|| drop(future));
        // A panic of the future has priority over a panic of its drop.
        Poll::Ready(output.and_then(|output| dropped.map(|()| output)))
    }
}

impl<F> Drop for Containing<F> {
    /// Dropped before its end, as by an abort: no task waits for the result.
    fn drop(&mut self) {
        let future = self.future.take();
        if let Err(panic) = contain_call(|| drop(future)) {
            report("an aborted task", &panic);
        }
    }
}

/// Panics of destructors, for the owner of the values. Only the first panic is kept.
#[derive(Debug, Default)]
pub struct DropPanics(Mutex<Option<String>>);

impl DropPanics {
    /// Notes a panic.
    pub fn note(&self, text: String) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(text);
    }

    /// The first panic since the last call.
    pub fn take(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// A foreign value; a panic of its destructor is caught and noted.
pub struct Contained<T> {
    /// `None` only while it is dropped.
    value: Option<T>,
    what: Box<str>,
    panics: Arc<DropPanics>,
}

impl<T> Contained<T> {
    /// Holds `value`, called `what` in messages.
    pub fn new(value: T, what: &str, panics: Arc<DropPanics>) -> Self {
        Self { value: Some(value), what: what.into(), panics }
    }
}

impl<T> Deref for Contained<T> {
    type Target = T;

    fn deref(&self) -> &T {
        match &self.value {
            Some(value) => value,
            None => unreachable!("{} is taken only by its drop", self.what),
        }
    }
}

impl<T> DerefMut for Contained<T> {
    fn deref_mut(&mut self) -> &mut T {
        match &mut self.value {
            Some(value) => value,
            None => unreachable!("{} is taken only by its drop", self.what),
        }
    }
}

impl<T> Drop for Contained<T> {
    fn drop(&mut self) {
        let value = self.value.take();
        if let Err(panic) = contain_call(|| drop(value)) {
            let text = format!("{} panicked when it was dropped: {panic}", self.what);
            self.panics.note(text);
        }
    }
}

/// Logs a contained panic; a log subscriber that panics too is contained as well.
pub fn report(what: &str, panic: &str) {
    // There is no other place to report it: the panic hook has printed both.
    let _ = contain_call(|| tracing::error!(task = what, panic, "panic was contained"));
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    struct Loud(&'static str);

    impl Drop for Loud {
        fn drop(&mut self) {
            panic!("{}", self.0);
        }
    }

    #[test]
    fn a_future_whose_poll_or_drop_panics_ends_with_the_text_of_the_first_panic() {
        let run = |future: Pin<Box<dyn Future<Output = u32>>>| contain(future).now_or_never().expect("ready at once");
        assert_eq!(run(Box::pin(async { 7 })), Ok(7));
        assert_eq!(run(Box::pin(async { panic!("poll") })), Err("poll".into()));
        let held = Loud("drop");
        let ends = std::future::poll_fn(move |_| {
            let _ = &held;
            Poll::Ready(7)
        });
        assert_eq!(run(Box::pin(ends)), Err("drop".into()));
    }

    #[test]
    fn a_value_whose_destructor_panics_is_dropped_and_noted_even_while_the_thread_unwinds() {
        let panics = Arc::new(DropPanics::default());
        let held = Contained::new(Loud("one"), "agent a", panics.clone());
        let unwound = contain_call(move || {
            let _held = held;
            panic!("another");
        });
        assert_eq!(unwound, Err("another".to_owned()));
        assert_eq!(panics.take().as_deref(), Some("agent a panicked when it was dropped: one"));
        assert_eq!(panics.take(), None);
    }

    #[test]
    fn a_panic_with_a_value_that_panics_when_it_is_dropped_is_contained() {
        let thrown: Result<(), String> = contain_call(|| std::panic::panic_any(Loud("thrown")));
        assert_eq!(thrown, Err("a value that is not text".into()));
    }

    #[test]
    fn a_pending_future_that_is_dropped_panics_nobody() {
        let held = Loud("drop");
        let pending = contain(std::future::poll_fn(move |_| {
            let _ = &held;
            Poll::<()>::Pending
        }));
        drop(pending);
    }
}
