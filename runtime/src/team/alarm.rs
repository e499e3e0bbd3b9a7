//! An alarm that is set once and looked at only when its time has come: a look at a timer costs more than one at the
//! clock, and most waits end long before.

use std::{
    future::poll_fn,
    pin::{Pin, pin},
    task::{Context, Poll},
};

use tokio::{
    task::unconstrained,
    time::{Instant, Sleep, sleep_until},
};

/// Rings once, for the task that has set it.
pub(crate) struct Alarm {
    due: Instant,
    sleep: Pin<Box<Sleep>>,
}

impl Alarm {
    /// Sets it for the calling task, which is woken when it rings. Ready at the first poll.
    pub(crate) async fn set(due: Instant) -> Self {
        let mut sleep = Box::pin(sleep_until(due));
        // Unconstrained: the timer of a task that has had its turn would not look whom to wake. If it has rung already,
        // the next look finds it.
        poll_fn(|cx| Poll::Ready(_ = pin!(unconstrained(sleep.as_mut())).poll(cx))).await;
        Self { due, sleep }
    }

    /// Ready when it has rung.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if Instant::now() < self.due { Poll::Pending } else { self.sleep.as_mut().poll(cx) }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::{
        task::{consume_budget, coop::has_budget_remaining},
        time::timeout,
    };

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_alarm_rings_for_a_task_that_has_used_up_its_turn() {
        let work = async {
            while has_budget_remaining() {
                consume_budget().await;
            }
            let mut alarm = Alarm::set(Instant::now() + Duration::from_secs(5)).await;
            poll_fn(|cx| alarm.poll(cx)).await;
            Instant::now()
        };
        let start = Instant::now();
        let rung = timeout(Duration::from_secs(60), work).await.expect("it rings");
        assert_eq!(rung - start, Duration::from_secs(5));
    }
}
