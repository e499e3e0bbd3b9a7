//! Reads of shared memory, against a bare `DashMap`.

use std::{
    hint::black_box,
    sync::Arc,
    time::{Duration, Instant},
};

use atra_runtime::{RuntimeBuilder, SharedMemory};
use atra_storage::MemoryStore;
use dashmap::DashMap;
use rustc_hash::FxBuildHasher;

use crate::{
    measure::{Contender, Scale, medians, per_second, runtime},
    report::{Case, Reporter, Unit},
};

/// Keys in memory: those of a desk with a few hundred series.
const KEYS: usize = 1_000;
/// Reads for each event of the scale: a read is cheap.
const READS_PER_EVENT: usize = 20;

/// Measures reads of shared memory.
pub(crate) fn run(scale: Scale, reporter: &mut Reporter) {
    let keys: Vec<String> = (0..KEYS).map(|n| format!("indicator.ticker-{n}.sma")).collect();
    let tokio = runtime();
    // Filled as callers fill it: by committed puts.
    let runtime = tokio.block_on(async {
        let runtime = RuntimeBuilder::new(MemoryStore::new()).start().await.expect("started");
        for (n, key) in keys.iter().enumerate() {
            runtime.put(key, n).expect("a key").await.expect("committed");
        }
        runtime
    });
    let fx: DashMap<Arc<str>, Arc<usize>, FxBuildHasher> = DashMap::with_hasher(FxBuildHasher);
    let std: DashMap<Arc<str>, Arc<usize>> = DashMap::new();
    for (n, key) in keys.iter().enumerate() {
        fx.insert(key.as_str().into(), Arc::new(n));
        std.insert(key.as_str().into(), Arc::new(n));
    }
    let memory = runtime.memory();
    check(memory, &keys);
    let n = scale.events * READS_PER_EVENT;
    for (name, n_threads) in [("get, one thread", 1), ("get, two threads", 2)] {
        let mut contenders = [
            Contender::new(name, || reads(n, n_threads, &keys, |key| black_box(memory.get(key)).is_some())),
            Contender::new("bare DashMap (Fx), get + Arc clone", || {
                reads(n, n_threads, &keys, |key| black_box(fx.get(key).map(|value| value.clone())).is_some())
            }),
            Contender::new("bare DashMap, get + Arc clone", || {
                reads(n, n_threads, &keys, |key| black_box(std.get(key).map(|value| value.clone())).is_some())
            }),
        ];
        let values = medians(scale.turns, &mut contenders);
        for (reference, value) in contenders.iter().zip(&values).skip(1) {
            let case = Case { bench: "memory", name, unit: Unit::ReadsPerSecond };
            reporter.print(&case.report(values[0], reference.name, *value));
        }
    }
    tokio.block_on(runtime.stop(Duration::from_secs(60))).expect("stopped");
}

fn check(memory: &SharedMemory, keys: &[String]) {
    for (n, key) in keys.iter().enumerate() {
        let entry = memory.get(key).expect("put");
        assert_eq!(entry.get::<usize>().expect("a number"), &n);
    }
}

/// Reads per second over all threads, `n` in all, in an order that no cache can guess.
fn reads(n: usize, n_threads: usize, keys: &[String], get: impl Fn(&str) -> bool + Sync) -> f64 {
    // Coprime to the number of keys: every key is read equally often.
    const STRIDE: usize = 379;
    let start = Instant::now();
    std::thread::scope(|scope| {
        for thread in 0..n_threads {
            let get = &get;
            scope.spawn(move || {
                let mut at = thread * STRIDE;
                for _ in 0..n / n_threads {
                    at = (at + STRIDE) % KEYS;
                    assert!(get(black_box(&keys[at])), "a key is missing");
                }
            });
        }
    });
    per_second(n / n_threads * n_threads, start)
}
