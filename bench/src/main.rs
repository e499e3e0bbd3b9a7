//! Side-by-side benchmarks: atra and what a user would pick instead, in one run on one machine.
//!
//! `cargo run --release -p atra-bench -- [pipeline|swarm|storage|bus|memory|market] [--json] [--quick]` prints one line per case: atra's value,
//! the reference's, and the ratio. **A ratio above 1 means that atra is better**, for throughput (value /
//! reference) as for costs (reference / value). With `--json` each line is one object:
//! `{"bench":…,"case":…,"value":…,"unit":…,"reference":…,"reference_value":…,"ratio":…}`.
//!
//! All contenders of a case run by turns, several times (A B C A B C …), and the medians are reported, so
//! that the noise of a shared machine hits all of them. Absolute figures depend on the machine; ratios less.
//!
//! To add a bench: a module with `pub(crate) fn run(scale: Scale, report: &mut Reporter)`, and an arm of
//! [`Bench`].

// Benchmarks measure wall time and run outside every seam; nothing here is part of a runtime.
#![allow(clippy::disallowed_methods)]

mod bus;
mod market;
mod measure;
mod memory;
mod pipeline;
mod report;
mod rivals;
mod rusqlite_store;
mod storage;
mod swarm;
mod talib;

use std::path::PathBuf;

use clap::{Parser, ValueEnum};

use crate::{measure::Scale, report::Reporter};

/// Many small allocations, freed on other threads than they were made on: what it is made for (decision 47).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Side-by-side benchmarks of atra.
#[derive(Parser)]
struct Args {
    /// What to measure; everything if left out.
    #[arg(value_enum)]
    benches: Vec<Bench>,
    /// One JSON object per line instead of a table.
    #[arg(long)]
    json: bool,
    /// Fewer events and turns: shows that the benchmarks run, not how fast atra is.
    #[arg(long)]
    quick: bool,
    /// Runs the desk once on this file and says how much memory it took: what a bench starts for itself.
    #[arg(long, hide = true)]
    peak_of: Option<PathBuf>,
    /// With a slow eighth beside it, which waits so many nanoseconds for each candle.
    #[arg(long, hide = true)]
    wait: Option<u64>,
}

/// What can be measured.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Bench {
    /// Four years of real candles: import, the seven together, apart and beside a slow eighth.
    Pipeline,
    /// 10, 100 and 1,000 teams on one bus, each with a topic of its own.
    Swarm,
    /// Acknowledged appends.
    Storage,
    /// Fan-out of committed events, and what the interest index costs.
    Bus,
    /// Reads of shared memory.
    Memory,
    /// Indicators, back-test, search, walk-forward, parsing, 64 tickers.
    Market,
}

fn main() {
    let args = Args::parse();
    if let Some(file) = args.peak_of {
        return pipeline::say_peak(file, args.wait);
    }
    let benches = if args.benches.is_empty() { Bench::value_variants() } else { &args.benches };
    let scale = if args.quick { Scale::QUICK } else { Scale::FULL };
    let mut reporter = Reporter::new(args.json);
    for bench in benches {
        match bench {
            Bench::Pipeline => pipeline::run(scale, &mut reporter),
            Bench::Swarm => swarm::run(scale, &mut reporter),
            Bench::Storage => storage::run(scale, &mut reporter),
            Bench::Bus => bus::run(scale, &mut reporter),
            Bench::Memory => memory::run(scale, &mut reporter),
            Bench::Market => market::run(scale, &mut reporter),
        }
    }
}
