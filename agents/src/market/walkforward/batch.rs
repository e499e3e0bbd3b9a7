//! The reference: the whole history at once, in `f64`, with prefix sums at block boundaries.

use super::super::candle::Candle;
use super::{ConfigError, Pair, Score, WalkForwardConfig, common_multiple, select};

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
    /// In the market during step i?
    held: Vec<bool>,
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
    Ok(Some(report(candles, config, &runs, (&ratios, &logs), first, selections)))
}

/// Sums over the steps of a candidate.
#[derive(Clone, Copy, Default)]
struct Sums {
    sum: f64,
    squares: f64,
    entries: i64,
    log: f64,
}

impl Sums {
    #[inline]
    fn take(&mut self, step: &Step) {
        self.sum += step.simple;
        self.squares += step.simple * step.simple;
        self.entries += i64::from(step.entered);
        self.log += step.log;
    }
}

fn run(pair: Pair, sums: &[i64], ratios: &[f64], logs: &[f64], config: &WalkForwardConfig, first: usize) -> Run {
    let n = ratios.len();
    let (held, fees) = (held(pair, &sums[..n]), Fees::new(config.fee()));
    let mut prefix = Vec::with_capacity(n / config.step + 1);
    let (mut known, mut log_before, mut before) = (Sums::default(), 0.0, false);
    let (mut at, mut boundary) = (0, config.warm_up());
    loop {
        // Nothing but steps up to where something is noted.
        let end = n.min(boundary).min(if at < first { first } else { n });
        let steps = ratios[at..end].iter().zip(&logs[at..end]);
        for (&now, (&ratio, &log)) in held[at..end].iter().zip(steps) {
            if now || before {
                known.take(&fees.step(now, before, ratio, log));
            }
            before = now;
        }
        at = end;
        if at == first {
            log_before = std::mem::take(&mut known.log);
        }
        if at == boundary {
            if prefix.is_empty() {
                known = Sums { log: known.log, ..Sums::default() };
            }
            prefix.push((known.sum, known.squares, known.entries));
            boundary += config.step;
        }
        if at == n {
            return Run { held, prefix, log_total: log_before + known.log, log_outside: known.log };
        }
    }
}

/// In the market during which steps? As it stood after the close before. Both means are compared as sums times what makes
/// their periods one: no division, and no more than 64 bits.
fn held(Pair { fast, slow }: Pair, sums: &[i64]) -> Vec<bool> {
    let multiple = common_multiple(fast, slow);
    let (by_fast, by_slow) = ((multiple / fast) as i64, (multiple / slow) as i64);
    let mut held = vec![false; slow];
    let begins = sums[slow - fast..].iter().zip(sums);
    let is_above = |(end, (fast, slow)): (&i64, (&i64, &i64))| (end - fast) * by_fast > (end - slow) * by_slow;
    held.extend(sums[slow..].iter().zip(begins).map(is_above));
    held
}

struct Step {
    simple: f64,
    log: f64,
    entered: bool,
}

/// What going in and out costs; logarithms are taken once.
struct Fees {
    share: f64,
    log_in: f64,
    log_out: f64,
}

impl Fees {
    fn new(share: f64) -> Self {
        Self { share, log_in: share.ln_1p(), log_out: (-share).ln_1p() }
    }

    #[inline]
    fn step(&self, now: bool, before: bool, ratio: f64, log: f64) -> Step {
        let (simple, log) = match (before, now) {
            (false, false) => (0.0, 0.0),
            (true, true) => (ratio - 1.0, log),
            (false, true) => (ratio / (1.0 + self.share) - 1.0, log - self.log_in),
            (true, false) => (-self.share, self.log_out),
        };
        Step { simple, log, entered: now && !before }
    }
}

fn report(
    candles: &[Candle],
    config: &WalkForwardConfig,
    runs: &[Run],
    (ratios, logs): (&[f64], &[f64]),
    first: usize,
    selections: Vec<Option<usize>>,
) -> WalkForwardReport {
    let percent = |log: f64| log.exp_m1() * 100.0;
    let (mut known, mut peak, mut fall, mut before) = (Sums::default(), 0.0_f64, 0.0_f64, false);
    let fees = Fees::new(config.fee());
    for i in first..candles.len() {
        let now = selections[(i - first) / config.step].is_some_and(|candidate| runs[candidate].held[i]);
        known.take(&fees.step(now, before, ratios[i], logs[i]));
        before = now;
        peak = peak.max(known.log);
        fall = fall.min(known.log - peak);
    }
    let Sums { sum, squares, entries, log } = known;
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
        trades: entries as usize,
        flat_refits: selections.iter().filter(|s| s.is_none()).count(),
        switches: selections.windows(2).filter(|pair| pair[0] != pair[1]).count(),
        buy_and_hold_pct: (candles[candles.len() - 1].open as f64 / candles[first].open as f64 - 1.0) * 100.0,
        best_fixed: (best_pair, percent(best_log)),
        median_fixed_pct: median,
        totals: runs.iter().map(|run| run.log_total.exp()).collect(),
        selections,
    }
}
