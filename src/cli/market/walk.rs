//! A walk-forward over a series: how it is set up, and how it is told.

use atra::agents::market::{
    backtest::BacktestOptions,
    calendar::minute,
    walkforward::{WalkForwardConfig, WalkForwardReport},
};
use serde_json::{Value, json};

use super::{Loaded, picture::in_force};
use crate::cli::{
    error::CliError,
    output::{Output, Style},
};

/// The walk-forward of a series of this interval: re-fitted every six hours, or at each candle that is longer.
pub(super) fn walk_config(loaded: &Loaded, options: &BacktestOptions) -> WalkForwardConfig {
    const REFIT_MILLIS: i64 = 6 * 3_600_000;
    let interval = loaded.key.interval().millis();
    let step = usize::try_from(REFIT_MILLIS / interval).unwrap_or(1).max(1);
    let usual = WalkForwardConfig::default();
    WalkForwardConfig {
        step,
        train: usual.train.div_ceil(step) * step,
        fee_ppm: options.terms.fee_ppm(),
        periods_per_year: 365.0 * 86_400_000.0 / interval as f64,
        ..usual
    }
}

/// A walk-forward for a program. A selection is the place of its pair in the configuration, or −1 for flat; the hash is the
/// sum of each times its number, from 1.
pub(super) fn walk_json(walk: &WalkForwardReport, config: &WalkForwardConfig, loaded: &Loaded) -> Value {
    let hash: i64 = (1..).zip(&walk.selections).map(|(n, pair)| n * pair.map_or(-1, |pair| pair as i64)).sum();
    json!({
        "candidates": config.pairs.len(),
        "train": config.train,
        "step": config.step,
        "selection_hash": hash,
        "from": loaded.candles.get(walk.first).map(|candle| candle.time),
        "return_pct": walk.return_pct,
        "buy_and_hold_pct": walk.buy_and_hold_pct,
        "median_fixed_pct": walk.median_fixed_pct,
        "best_in_hindsight": { "fast": walk.best_fixed.0.fast, "slow": walk.best_fixed.0.slow, "return_pct": walk.best_fixed.1 },
        "sharpe": walk.sharpe,
        "max_drawdown_pct": walk.drawdown_max_pct,
        "trades": walk.trades,
        "refits": walk.selections.len(),
        "flat_refits": walk.flat_refits,
        "switches": walk.switches,
    })
}

/// A walk-forward for a person: out of sample beside what it must be compared with.
pub(super) fn walk_text(
    walk: &WalkForwardReport,
    config: &WalkForwardConfig,
    loaded: &Loaded,
    out: &mut Output,
) -> Result<(), CliError> {
    let from = loaded.candles.get(walk.first).map_or_else(String::new, |candle| minute(candle.time));
    let best = walk.best_fixed.0;
    let heading = format!("Out of sample from {from}: {} pairs of averages", config.pairs.len());
    out.line(&out.paint(Style::Bold, &heading))?;
    let row = |name: &str, value: f64, note: String| vec![name.to_owned(), format!("{value:.2} %"), note];
    out.table(
        &["", "return", ""],
        &[
            row("walk-forward", walk.return_pct, format!("chosen again every {} candles", config.step)),
            row("buy and hold", walk.buy_and_hold_pct, String::new()),
            row("median pair", walk.median_fixed_pct, "held throughout".into()),
            row("best pair", walk.best_fixed.1, format!("{}/{}, known only in hindsight", best.fast, best.slow)),
        ],
    )?;
    out.line(&format!(
        "sharpe {:.2}, max drawdown {:.1} %, {} entries, {} re-fits of which {} stayed flat and {} changed the pair",
        walk.sharpe,
        walk.drawdown_max_pct,
        walk.trades,
        walk.selections.len(),
        walk.flat_refits,
        walk.switches
    ))?;
    out.line(&in_force(walk, &config.pairs))
}
