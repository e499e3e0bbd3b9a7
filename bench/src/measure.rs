//! How things are measured: contenders by turns, medians, one clock.

use std::{
    hint::spin_loop,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{JoinHandle, available_parallelism, spawn},
    time::Instant,
};

use tokio::runtime::{Builder, Runtime};

/// Worker threads; two, so that figures from small and large machines can be compared.
const THREADS: usize = 2;

/// How much is run.
#[derive(Clone, Copy)]
pub(crate) struct Scale {
    /// Events per turn of one contender.
    pub(crate) events: usize,
    /// Turns of each contender.
    pub(crate) turns: usize,
}

impl Scale {
    /// Enough for a median that is stable to a few percent on a quiet machine.
    pub(crate) const FULL: Self = Self { events: 200_000, turns: 9 };
    /// Enough to see that everything runs.
    pub(crate) const QUICK: Self = Self { events: 20_000, turns: 3 };
}

/// Something that can be measured: one turn, answering its value (events per second, nanoseconds …).
pub(crate) struct Contender<'a> {
    pub(crate) name: &'static str,
    pub(crate) turn: Box<dyn FnMut() -> f64 + 'a>,
}

impl<'a> Contender<'a> {
    pub(crate) fn new(name: &'static str, turn: impl FnMut() -> f64 + 'a) -> Self {
        Self { name, turn: Box::new(turn) }
    }
}

/// Runs all contenders by turns (A B C A B C …) after one turn each to warm up; the median of each.
pub(crate) fn medians(turns: usize, contenders: &mut [Contender<'_>]) -> Vec<f64> {
    let mut values = vec![Vec::with_capacity(turns); contenders.len()];
    for turn in 0..=turns {
        for (contender, values) in contenders.iter_mut().zip(&mut values) {
            let value = (contender.turn)();
            if turn > 0 {
                values.push(value);
            }
        }
    }
    values.into_iter().map(median).collect()
}

/// As [`medians`], with the contenders' names.
pub(crate) fn named_medians(turns: usize, mut contenders: Vec<Contender<'_>>) -> (Vec<&'static str>, Vec<f64>) {
    let values = medians(turns, &mut contenders);
    (contenders.iter().map(|contender| contender.name).collect(), values)
}

/// Events per second for `n` events since `start`.
pub(crate) fn per_second(n: usize, start: Instant) -> f64 {
    n as f64 / start.elapsed().as_secs_f64()
}

/// Milliseconds since `start`.
pub(crate) fn millis(start: Instant) -> f64 {
    start.elapsed().as_secs_f64() * 1e3
}

/// A runtime with two workers.
pub(crate) fn runtime() -> Runtime {
    Builder::new_multi_thread().worker_threads(THREADS).enable_all().build().expect("threads can be started")
}

/// Runs `turn` on a worker: `block_on` alone would run it on a third thread.
pub(crate) async fn on_worker<T: Send + 'static>(turn: impl Future<Output = T> + Send + 'static) -> T {
    tokio::spawn(turn).await.expect("a contender does not panic")
}

/// Keeps the processors from falling asleep until it is dropped, with threads that give way to everybody: waking a
/// thread on a processor that sleeps can take longer than all that is measured.
pub(crate) struct Awake {
    is_over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Awake {
    pub(crate) fn start() -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let n = available_parallelism().map_or(THREADS, std::num::NonZero::get);
        let threads = (0..n).map(|_| {
            let is_over = Arc::clone(&is_over);
            spawn(move || {
                // The least of all; without it they would take their share.
                #[cfg(target_os = "linux")]
                rustix::process::nice(19).expect("everybody may give way");
                // Relaxed: it ends a moment later then.
                while !is_over.load(Ordering::Relaxed) {
                    spin_loop();
                }
            })
        });
        let threads = threads.collect();
        Self { is_over, threads }
    }
}

impl Drop for Awake {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // It has nothing that could panic.
            let _ = thread.join();
        }
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len().is_multiple_of(2) { (values[middle - 1] + values[middle]) / 2.0 } else { values[middle] }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contenders_take_turns_and_their_medians_are_reported() {
        let mut order = Vec::new();
        let log = std::cell::RefCell::new(&mut order);
        let mut values = [9.0, 1.0, 5.0, 3.0].into_iter();
        let mut contenders = [
            Contender::new("a", || {
                log.borrow_mut().push('a');
                values.next().expect("four turns")
            }),
            Contender::new("b", || {
                log.borrow_mut().push('b');
                2.0
            }),
        ];
        assert_eq!(medians(3, &mut contenders), [3.0, 2.0]);
        drop(contenders);
        assert_eq!(order.iter().collect::<String>(), "abababab");
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), 2.5);
    }
}
