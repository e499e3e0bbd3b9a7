//! `atra check`: does a strategy look ahead, and how many candles does it need before it knows what it says?

use std::str::FromStr;

use atra::agents::market::{
    calendar::minute,
    checks::{Difference, WarmUp, decisions, lookahead, warm_up},
    strategy::{AnyStrategy, StrategySpec},
};
use clap::{Args, Subcommand};
use serde_json::json;

use super::{SeriesArgs, StrategyArgs, on_all_cores, parameters, usage};
use crate::cli::{
    error::CliError,
    output::{Output, Style, grouped},
    progress::runs_bar,
};

/// Warm-ups that are tried, as multiples of the longest period.
const MULTIPLES: [usize; 9] = [1, 2, 4, 8, 16, 32, 64, 128, 256];
/// Places at which a fresh start is compared with the whole history.
const POINTS: usize = 400;

#[derive(Debug, Subcommand)]
pub(crate) enum CheckCommand {
    /// Truncates the candles and compares what is decided before the cut with what the whole history decides there.
    Lookahead(LookaheadArgs),
    /// Starts afresh so many candles before a point and compares what is wanted there with the whole history.
    #[command(name = "warm-up")]
    WarmUp(WarmUpArgs),
}

#[derive(Debug, Args)]
pub(crate) struct LookaheadArgs {
    #[command(flatten)]
    series: SeriesArgs,
    #[command(flatten)]
    strategy: StrategyArgs,
    /// How many cuts, spread evenly; every candle with `all`.
    #[arg(long, default_value = "1000", value_name = "N|all")]
    cuts: Cuts,
}

#[derive(Debug, Clone, Copy)]
enum Cuts {
    All,
    Some(usize),
}

impl FromStr for Cuts {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse() {
            _ if text == "all" => Ok(Self::All),
            Ok(n) if n > 0 => Ok(Self::Some(n)),
            _ => Err("a number of cuts, or 'all'".into()),
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct WarmUpArgs {
    #[command(flatten)]
    series: SeriesArgs,
    #[command(flatten)]
    strategy: StrategyArgs,
}

/// Does the check that is asked for. What is found is a failure.
pub(crate) async fn check(command: CheckCommand, out: &mut Output) -> Result<(), CliError> {
    match command {
        CheckCommand::Lookahead(args) => check_lookahead(&args, out).await,
        CheckCommand::WarmUp(args) => check_warm_up(&args, out).await,
    }
}

/// Specs were built once before.
fn build(spec: StrategySpec) -> Result<AnyStrategy, CliError> {
    spec.build().map_err(|error| usage(&error))
}

async fn check_lookahead(args: &LookaheadArgs, out: &mut Output) -> Result<(), CliError> {
    let spec = args.strategy.spec()?;
    let loaded = args.series.load().await?;
    let candles = &loaded.candles;
    let cuts = match args.cuts {
        Cuts::All => candles.len(),
        Cuts::Some(n) => n.min(candles.len()),
    };
    let strategy = build(spec)?;
    let whole = decisions(strategy.clone(), candles);
    let bar = runs_bar("cutting", cuts);
    let find = |index: usize| {
        // The longest first, so that all cores are busy to the end.
        let cut = candles.len() * (cuts - index) / cuts;
        lookahead(candles, &whole, cut, |slice| decisions(strategy.clone(), slice))
    };
    let found: Vec<Difference> = on_all_cores(cuts, find, || bar.inc(1))?.into_iter().flatten().collect();
    bar.finish_and_clear();
    let first = found.iter().min_by_key(|difference| (difference.index, difference.cut));
    if out.is_json() {
        out.json(&json!({
            "series": loaded.key, "strategy": spec, "cuts": cuts, "decisions": whole.len(), "differing": found.len(),
            "first": first,
        }))?;
    }
    match first {
        None if out.is_json() => Ok(()),
        None => out.line(&format!(
            "{}: {} {} cuts of {}, {} decisions: none depends on what comes later",
            parameters(spec),
            out.paint(Style::Green, "ok"),
            grouped(cuts as u64),
            loaded.key,
            grouped(whole.len() as u64)
        )),
        Some(first) => Err(CliError::NotFound {
            what: format!(
                "{} looks ahead: at {} it decides {:?} with the whole history and {:?} with the first {} candles",
                spec.name(),
                minute(candles[first.index].time),
                first.whole,
                first.truncated,
                first.cut
            ),
            next: "look for an index or a window that reaches beyond the candle".into(),
        }),
    }
}

async fn check_warm_up(args: &WarmUpArgs, out: &mut Output) -> Result<(), CliError> {
    let spec = args.strategy.spec()?;
    let loaded = args.series.load().await?;
    let candles = &loaded.candles;
    let strategy = build(spec)?;
    let tried: Vec<usize> =
        MULTIPLES.iter().map(|n| n * spec.warm_up()).filter(|warm| *warm < candles.len() / 2).collect();
    let bar = runs_bar("starting afresh", tried.len());
    let found: Vec<WarmUp> =
        on_all_cores(tried.len(), |n| warm_up(candles, || strategy.clone(), tried[n], POINTS), || bar.inc(1))?;
    bar.finish_and_clear();
    let enough = found.iter().position(|row| row.equal < row.points).map_or(found.first(), |_| {
        // From the last that differs on.
        let last = found.iter().rposition(|row| row.equal < row.points);
        last.and_then(|last| found.get(last + 1))
    });
    if out.is_json() {
        return out.json(&json!({
            "series": loaded.key, "strategy": spec, "tried": found, "enough": enough.map(|row| row.candles),
        }));
    }
    out.line(&out.paint(Style::Bold, &format!("{} on {}", parameters(spec), loaded.key)))?;
    let share = |row: &WarmUp| format!("{:.1} %", 100.0 * row.equal as f64 / row.points.max(1) as f64);
    let rows: Vec<Vec<String>> = found.iter().map(|row| vec![row.candles.to_string(), share(row)]).collect();
    out.table(&["candles of warm-up", "wants what the whole history wants"], &rows)?;
    out.line(&match enough {
        Some(row) => format!("From {} candles on, all {} points agree.", row.candles, row.points),
        None => {
            "No warm-up that was tried is enough at every point: the strategy remembers its last signal for longer."
                .into()
        }
    })
}
