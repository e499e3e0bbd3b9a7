//! The reference: the whole history at once, in `f64`, with prefix sums at block boundaries.

use super::super::candle::Candle;
use super::super::strategy::compare_means;
use super::{ConfigError, Pair, Score, WalkForwardConfig, select};

/// What a walk-forward over a history found. Percentages are of 100.
#[derive(Debug, Clone, PartialEq)]
pub struct WalkForwardReport {
    /// Index of the first candle out of sample.
    pub first: usize,
    /// The candidate chosen at each re-fit, or none.
    pub selections: Vec<Option<usize>>,
    /// Net return out of sample.
    pub return_pct: f64,
    /// Annualised Sharpe ratio of the net step returns out of sample.
    pub sharpe: f64,
    /// Greatest fall from a peak out of sample.
    pub drawdown_max_pct: f64,
    /// Entries out of sample.
    pub trades: usize,
    /// Re-fits that chose to stay out.
    pub flat_refits: usize,
    /// Re-fits that changed the choice.
    pub switches: usize,
    /// Buying at the first open out of sample and holding to the last open.
    pub buy_and_hold_pct: f64,
    /// The best candidate held throughout, as known only in hindsight, and its net return.
    pub best_fixed: (Pair, f64),
    /// Net return of the median candidate held throughout.
    pub median_fixed_pct: f64,
    /// What each candidate makes of 1 over the whole history, in the order of the pairs.
    pub totals: Vec<f64>,
}

/// One candidate over the history.
struct Run {
    /// In the market after close i?
    position: Vec<bool>,
    /// (Sum, sum of squares, entries) of the net step returns before each block boundary.
    prefix: Vec<(f64, f64, i64)>,
    log_total: f64,
    log_outside: f64,
}

/// Runs the walk-forward over sorted candles; `None` if they do not reach beyond the first training window.
///
/// # Errors
/// A configuration that cannot be run.
pub fn walk_forward(candles: &[Candle], config: &WalkForwardConfig) -> Result<Option<WalkForwardReport>, ConfigError> {
    config.check()?;
    let warm_up = config.warm_up();
    // Step i runs from open i to open i + 1. At close t − 1 the last step known is t − 2.
    let first = warm_up + config.train + config.validation + 1;
    if candles.len() <= first {
        return Ok(None);
    }
    let mut sums = Vec::with_capacity(candles.len() + 1);
    sums.push(0_i64);
    let mut sum = 0;
    for candle in candles {
        sum += candle.close;
        sums.push(sum);
    }
    let ratio = |i: usize| match candles.get(i + 1) {
        Some(next) => next.open as f64 / candles[i].open as f64,
        None => 1.0,
    };
    let ratios: Vec<f64> = (0..candles.len()).map(ratio).collect();
    let logs: Vec<f64> = ratios.iter().map(|ratio| ratio.ln()).collect();
    let runs: Vec<Run> = config.pairs.iter().map(|pair| run(*pair, &sums, &ratios, &logs, config, first)).collect();

    let mut selections = Vec::new();
    let mut incumbent = None;
    let (train, blocks) = (config.train / config.step, (config.train + config.validation) / config.step);
    for block in blocks..=blocks + (candles.len() - first - 1) / config.step {
        let scores: Vec<Score> = runs
            .iter()
            .map(|run| {
                let (end, start) = (run.prefix[block - (blocks - train)], run.prefix[block - blocks]);
                let (sum, squares, trades) = (end.0 - start.0, end.1 - start.1, end.2 - start.2);
                Score::new(sum, squares, trades, config.train, config.periods_per_year)
            })
            .collect();
        incumbent = select(&scores, incumbent, config.trades_min, config.margin);
        selections.push(incumbent);
    }
    Ok(Some(report(candles, config, &runs, &ratios, first, selections)))
}

fn run(pair: Pair, sums: &[i64], ratios: &[f64], logs: &[f64], config: &WalkForwardConfig, first: usize) -> Run {
    let Pair { fast, slow } = pair;
    let n = ratios.len();
    let mut position = vec![false; n];
    for i in slow - 1..n {
        let (f, s) = (sums[i + 1] - sums[i + 1 - fast], sums[i + 1] - sums[i + 1 - slow]);
        position[i] = compare_means(f, fast, s, slow).is_gt();
    }
    let warm_up = config.warm_up();
    let mut prefix = Vec::with_capacity(n / config.step + 1);
    let (mut sum, mut squares, mut entries) = (0.0, 0.0, 0);
    let (mut log_total, mut log_outside) = (0.0, 0.0);
    let mut boundary = warm_up;
    for i in 0..n {
        if i == boundary {
            prefix.push((sum, squares, entries));
            boundary += config.step;
        }
        let Step { simple, log, entered } =
            step(held(&position, i), held_before(&position, i), ratios[i], logs[i], config);
        if i >= warm_up {
            sum += simple;
            squares += simple * simple;
            entries += i64::from(entered);
        }
        log_total += log;
        log_outside += if i >= first { log } else { 0.0 };
    }
    if n == boundary {
        prefix.push((sum, squares, entries));
    }
    Run { position, prefix, log_total, log_outside }
}

fn held(position: &[bool], i: usize) -> bool {
    i >= 1 && position[i - 1]
}

fn held_before(position: &[bool], i: usize) -> bool {
    i >= 2 && position[i - 2]
}

struct Step {
    simple: f64,
    log: f64,
    entered: bool,
}

fn step(held: bool, before: bool, ratio: f64, log: f64, config: &WalkForwardConfig) -> Step {
    let fee = config.fee();
    let (simple, log) = match (before, held) {
        (false, false) => (0.0, 0.0),
        (true, true) => (ratio - 1.0, log),
        (false, true) => (ratio / (1.0 + fee) - 1.0, log - fee.ln_1p()),
        (true, false) => (-fee, (-fee).ln_1p()),
    };
    Step { simple, log, entered: held && !before }
}

fn report(
    candles: &[Candle],
    config: &WalkForwardConfig,
    runs: &[Run],
    ratios: &[f64],
    first: usize,
    selections: Vec<Option<usize>>,
) -> WalkForwardReport {
    let percent = |log: f64| log.exp_m1() * 100.0;
    let (mut log, mut sum, mut squares, mut trades) = (0.0_f64, 0.0, 0.0, 0);
    let (mut peak, mut fall, mut before) = (0.0_f64, 0.0_f64, false);
    for i in first..candles.len() {
        let chosen = selections[(i - first) / config.step];
        let now = chosen.is_some_and(|candidate| held(&runs[candidate].position, i));
        let step = step(now, before, ratios[i], ratios[i].ln(), config);
        before = now;
        log += step.log;
        sum += step.simple;
        squares += step.simple * step.simple;
        trades += usize::from(step.entered);
        peak = peak.max(log);
        fall = fall.min(log - peak);
    }
    let steps = candles.len() - first;
    let mut fixed: Vec<(f64, Pair)> = runs.iter().zip(&config.pairs).map(|(r, pair)| (r.log_outside, *pair)).collect();
    fixed.sort_by(|a, b| a.0.total_cmp(&b.0));
    let middle = fixed.len() / 2;
    let median = if fixed.len() % 2 == 1 {
        percent(fixed[middle].0)
    } else {
        f64::midpoint(percent(fixed[middle - 1].0), percent(fixed[middle].0))
    };
    let (best_log, best_pair) = fixed[fixed.len() - 1];
    WalkForwardReport {
        first,
        return_pct: percent(log),
        sharpe: Score::new(sum, squares, 0, steps, config.periods_per_year).sharpe.unwrap_or(0.0),
        drawdown_max_pct: -percent(fall),
        trades,
        flat_refits: selections.iter().filter(|s| s.is_none()).count(),
        switches: selections.windows(2).filter(|pair| pair[0] != pair[1]).count(),
        buy_and_hold_pct: (candles[candles.len() - 1].open as f64 / candles[first].open as f64 - 1.0) * 100.0,
        best_fixed: (best_pair, percent(best_log)),
        median_fixed_pct: median,
        totals: runs.iter().map(|run| run.log_total.exp()).collect(),
        selections,
    }
}
