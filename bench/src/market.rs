//! The pure market: indicators, back-test, search, walk-forward, parsing; and 64 tickers through the seven.
//!
//! TA-Lib is run beside ours ([`talib`]). Peers that are no Rust crates (vectorbt with its Rust engine, numpy,
//! pandas) cannot be run from the
//! project's own dependencies. Their figures were measured once, on two cores, over the same four years of quarter hours,
//! and stand here as constants; ratios to them are of two machines and mean little below two.

use std::{hint::black_box, io::Read as _, time::Instant};

use atra_agents::{
    candles::blocks_of,
    market::{
        backtest::{BacktestOptions, backtest, score},
        candle::SeriesKey,
        import::{Import, ImportOptions, import_candles},
        money::{Money, Terms},
        strategy::{Side, StrategySpec},
        walkforward::{WalkForwardConfig, walk_forward},
    },
};

use crate::{
    measure::{Contender, Scale, medians, millis, runtime},
    pipeline::{CANDLES, many_tickers},
    report::{Case, Reporter, Unit},
    talib,
};

/// Four years of quarter hours.
const FOUR_YEARS: usize = 140_256;
const TICKERS: usize = 64;

/// Measures everything of the market that is not a runtime, and 64 tickers in one.
pub(crate) fn run(scale: Scale, reporter: &mut Reporter) {
    let Ok(packed) = std::fs::read(CANDLES) else {
        eprintln!("market: skipped, no real candles beside the repository");
        return;
    };
    let mut csv = Vec::new();
    flate2::read::MultiGzDecoder::new(&packed[..]).read_to_end(&mut csv).expect("gzip");
    let end =
        csv.iter().enumerate().filter(|(_, byte)| **byte == b'\n').nth(FOUR_YEARS).map_or(csv.len(), |(at, _)| at + 1);
    csv.truncate(end);
    let mut import = import_candles(&csv, &ImportOptions::default(), |_| {}).expect("real candles");
    import.candles.truncate(FOUR_YEARS);
    talib::run(scale, reporter, &import.candles);
    runs(scale, reporter, &import, &csv);
    if scale.events >= Scale::FULL.events {
        many(reporter, &import);
    }
}

/// A case beside a figure that was measured elsewhere.
fn beside(
    scale: Scale,
    reporter: &mut Reporter,
    name: &'static str,
    peer: &'static str,
    figure: f64,
    mut turn: impl FnMut(),
) {
    let mut contenders = [Contender::new(name, || {
        let start = Instant::now();
        turn();
        millis(start)
    })];
    let value = medians(scale.turns, &mut contenders)[0];
    reporter.print(&Case { bench: "market", name, unit: Unit::Milliseconds }.report(value, peer, figure));
}

fn runs(scale: Scale, reporter: &mut Reporter, import: &Import, csv: &[u8]) {
    let candles = &import.candles[..];
    let terms = Terms::new(import.scale, 3, 1_000).expect("terms");
    let options = BacktestOptions::new(Money::whole(10_000), terms);
    let spec = |fast, slow| StrategySpec::SmaCross { fast, slow, side: Side::LongOnly }.build().expect("a strategy");
    beside(scale, reporter, "back-test, equity, trades and metrics", "vectorbt's Rust engine, elsewhere", 9.0, || {
        black_box(backtest(candles, spec(10, 20), &options).expect("in range"));
    });
    beside(scale, reporter, "back-test, metrics only", "vectorbt's Rust engine, elsewhere", 9.0, || {
        black_box(score(candles, spec(10, 20), &options).expect("in range"));
    });
    let few = Scale { turns: scale.turns.min(3), ..scale };
    beside(few, reporter, "1,000 parameter sets on two cores", "1,000 × vectorbt's, elsewhere", 9_000.0, || {
        let half = |from: usize| {
            for n in (from..1_000).step_by(2) {
                let (fast, slow) = (2 + n % 40, 50 + n / 40 * 8);
                black_box(score(candles, spec(fast, slow), &options).expect("in range"));
            }
        };
        std::thread::scope(|scope| {
            scope.spawn(|| half(0));
            half(1);
        });
    });
    let walk = WalkForwardConfig::default();
    beside(scale, reporter, "walk-forward, 33 candidates", "numpy, measured elsewhere", 205.0, || {
        black_box(walk_forward(candles, &walk).expect("a configuration"));
    });
    beside(scale, reporter, "CSV parsed", "pandas, measured elsewhere", 17.0, || {
        black_box(import_candles(csv, &ImportOptions::default(), |_| {}).expect("real candles"));
    });
}

/// The same candles under 64 names, as one account, from SQLite into SQLite: once, since it takes long.
fn many(reporter: &mut Reporter, import: &Import) {
    let series = |n: usize| format!("T{n:02}.15m").parse::<SeriesKey>().expect("a series");
    let blocks = (0..TICKERS).flat_map(|n| blocks_of(&series(n), &import.candles, import.scale).expect("sorted"));
    let seconds = many_tickers(&runtime(), blocks.collect());
    let per_second = (TICKERS * FOUR_YEARS) as f64 / seconds;
    let case =
        Case { bench: "market", name: "64 tickers × four years through the seven", unit: Unit::CandlesPerSecond };
    reporter.print(&case.report(per_second, "one ticker in NautilusTrader, elsewhere", 17_000.0));
    eprintln!("market: 64 tickers took {seconds:.1} s");
}
