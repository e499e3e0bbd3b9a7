//! `atra optimize`: a search over parameters, judged where it was not made; or the walk-forward of the optimizer.

use atra::agents::market::{
    calendar::minute,
    money::MoneyError,
    search::{self, Axis, Candidates, Found, Goal, Tried},
    strategy::StrategySpec,
    walkforward::{Pair, WalkForwardConfig, walk_forward},
};
use clap::{Args, ValueEnum};
use serde_json::json;

use super::{
    Loaded, SeriesArgs, StrategyArgs, TradeArgs, maybe, number, on_all_cores, parameters, percent, usage,
    walk::{walk_config, walk_json, walk_text},
};
use crate::cli::{
    error::CliError,
    output::{Output, Style, grouped},
    progress::runs_bar,
};

/// Candidates that are listed, best first.
const LISTED: usize = 10;

#[derive(Debug, Args)]
pub(crate) struct OptimizeArgs {
    #[command(flatten)]
    series: SeriesArgs,
    #[command(flatten)]
    strategy: StrategyArgs,
    #[command(flatten)]
    trade: TradeArgs,
    /// Values of a parameter: fast=5,10,20 or slow=20..200:20; repeatable.
    #[arg(long, value_name = "NAME=VALUES")]
    grid: Vec<Axis>,
    /// Draws so many candidates at random out of the grid instead of taking all.
    #[arg(long, value_name = "N")]
    random: Option<usize>,
    /// What the draws follow from.
    #[arg(long, requires = "random", default_value_t = 1)]
    seed: u64,
    /// By what candidates are compared.
    #[arg(long, value_enum, default_value = "sharpe")]
    goal: GoalArg,
    /// Share of the candles, from the first on, in which the choice is made; it is judged on the rest.
    #[arg(long, allow_negative_numbers = true, default_value_t = 0.7, value_name = "SHARE")]
    train: f64,
    /// Re-fits every six hours of the candles' time instead, as the optimizer agent does: pairs of averages only.
    #[arg(long, conflicts_with_all = ["random", "goal", "train"])]
    walk_forward: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum GoalArg {
    Sharpe,
    Return,
    Calmar,
    Sortino,
    ProfitFactor,
}

impl From<GoalArg> for Goal {
    fn from(arg: GoalArg) -> Self {
        match arg {
            GoalArg::Sharpe => Self::Sharpe,
            GoalArg::Return => Self::Return,
            GoalArg::Calmar => Self::Calmar,
            GoalArg::Sortino => Self::Sortino,
            GoalArg::ProfitFactor => Self::ProfitFactor,
        }
    }
}

/// Searches, and tells what the choice is worth.
pub(crate) async fn optimize(args: OptimizeArgs, out: &mut Output) -> Result<(), CliError> {
    if !(0.05..=0.95).contains(&args.train) {
        let what = format!("--train {} leaves nothing to choose by, or nothing to judge by", args.train);
        return Err(CliError::Usage { what, next: "give a share from 0.05 to 0.95" });
    }
    let base = args.strategy.base()?;
    let loaded = args.series.load().await?;
    if args.walk_forward {
        return walk(&args, base, &loaded, out);
    }
    if args.grid.is_empty() {
        let what = "there is nothing to search".into();
        return Err(CliError::Usage { what, next: "give values with --grid fast=5..50:5 --grid slow=20..200:20" });
    }
    let options = args.trade.options(loaded.scale)?;
    let candidates = match args.random {
        Some(draws) => search::random(base, &args.grid, draws, args.seed),
        None => search::grid(base, &args.grid),
    };
    let Candidates { specs, left_out } = candidates.map_err(|error| usage(&error))?;
    if specs.is_empty() {
        return Err(CliError::Usage { what: "there is no candidate".into(), next: "draw at least one with --random" });
    }
    let split = (loaded.candles.len() as f64 * args.train) as usize;
    let bar = runs_bar("trying", specs.len());
    let work = |index: usize| search::try_one(&loaded.candles, split, specs[index], &options);
    let tried: Result<Vec<Tried>, MoneyError> = on_all_cores(specs.len(), work, || bar.inc(1))?.into_iter().collect();
    bar.finish_and_clear();
    let mut tried = tried.map_err(|error| usage(&error))?;
    let goal = Goal::from(args.goal);
    let Some(found) = search::judge(&tried, goal, &loaded.candles, split, &options) else { return Ok(()) };
    let value = |tried: &Tried| goal.of(&tried.train).unwrap_or(f64::NEG_INFINITY);
    // Stable: of equals the first of the grid stays first, as in the choice.
    tried.sort_by(|a, b| value(b).total_cmp(&value(a)));
    if out.is_json() {
        return out.json(&json!({
            "series": loaded.key, "candidates": tried.len(), "left_out": left_out, "goal": goal,
            "split": loaded.candles.get(split).map(|candle| candle.time), "found": found,
            "best": tried.iter().take(LISTED).collect::<Vec<_>>(),
        }));
    }
    tell(&loaded, &tried, left_out, split, &found, goal, out)
}

fn tell(
    loaded: &Loaded,
    tried: &[Tried],
    left_out: usize,
    split: usize,
    found: &Found,
    goal: Goal,
    out: &mut Output,
) -> Result<(), CliError> {
    let cut = loaded.candles.get(split).map_or_else(String::new, |candle| minute(candle.time));
    let heading = format!("{} candidates on {}, chosen before {cut}", grouped(tried.len() as u64), loaded.key);
    out.line(&out.paint(Style::Bold, &heading))?;
    if left_out > 0 {
        out.line(&format!("{} combinations make no strategy", grouped(left_out as u64)))?;
    }
    let row = |tried: &Tried| {
        let goal_of = |metrics| maybe(goal.of(metrics), number);
        vec![
            parameters(tried.strategy),
            goal_of(&tried.train),
            percent(tried.train.return_share),
            goal_of(&tried.test),
            percent(tried.test.return_share),
            tried.test.trades.to_string(),
        ]
    };
    let rows: Vec<Vec<String>> = tried.iter().take(LISTED).map(row).collect();
    out.table(&["best where chosen", "goal", "return", "goal after", "return after", "trades after"], &rows)?;
    out.line("")?;
    out.line(&out.paint(Style::Bold, "After the cut, where nothing was chosen"))?;
    out.pairs(&[
        ("the choice", percent(found.test_return)),
        ("buy and hold", percent(found.test_buy_and_hold)),
        ("median candidate", percent(found.test_median)),
        (
            "best in hindsight",
            format!("{}  {}", percent(found.test_best.test.return_share), parameters(found.test_best.strategy)),
        ),
        ("candidates that made money", percent(found.test_winners)),
    ])?;
    out.line("")?;
    out.line("The more candidates are tried, the better the best one looks on the same candles, by luck alone.")
}

/// Fails if a flag was given that the walk-forward does not use: every accepted flag must have an effect.
fn refuse_ignored(args: &OptimizeArgs) -> Result<(), CliError> {
    let TradeArgs { slippage_bps, stop_loss, take_profit, .. } = args.trade;
    let ignored = [
        ("--short", args.strategy.short),
        ("--set", !args.strategy.set.is_empty()),
        ("--slippage-bps", slippage_bps > 0),
        ("--stop-loss", stop_loss > 0),
        ("--take-profit", take_profit > 0),
    ];
    match ignored.iter().find(|(_, is_given)| *is_given) {
        None => Ok(()),
        Some((flag, _)) => {
            let what =
                format!("the walk-forward does not use {flag}: it has pairs of averages, long or flat, and the fee");
            Err(CliError::Usage { what, next: "leave it out, or search without --walk-forward" })
        }
    }
}

/// The walk-forward of the optimizer agent, over the whole history at once.
fn walk(args: &OptimizeArgs, base: StrategySpec, loaded: &Loaded, out: &mut Output) -> Result<(), CliError> {
    refuse_ignored(args)?;
    let options = args.trade.options(loaded.scale)?;
    let mut config = walk_config(loaded, &options);
    if !matches!(base, StrategySpec::SmaCross { .. }) {
        let what = format!("the walk-forward knows pairs of simple averages only, not {}", base.name());
        return Err(CliError::Usage { what, next: "leave --strategy away, or search without --walk-forward" });
    }
    if !args.grid.is_empty() {
        let Candidates { specs, .. } = search::grid(base, &args.grid).map_err(|error| usage(&error))?;
        let pair = |spec: &StrategySpec| match *spec {
            StrategySpec::SmaCross { fast, slow, .. } => Some(Pair { fast, slow }),
            _ => None,
        };
        config = WalkForwardConfig { pairs: specs.iter().filter_map(pair).collect(), ..config };
    }
    let walked = walk_forward(&loaded.candles, &config).map_err(|error| usage(&error))?;
    let Some(walked) = walked else {
        let needed = config.warm_up() + config.train + config.validation + 2;
        let what = format!("{} candles are too few for a walk-forward, which needs {needed}", loaded.candles.len());
        return Err(CliError::NotFound { what, next: "import more, or give shorter averages with --grid".into() });
    };
    if out.is_json() {
        let mut told = walk_json(&walked, &config, loaded);
        told["selections"] = json!(walked.selections);
        let name = |pair: &Pair| format!("{}/{}", pair.fast, pair.slow);
        let total = |(pair, total): (_, &f64)| (name(pair), json!(total));
        told["totals"] = config.pairs.iter().zip(&walked.totals).map(total).collect::<serde_json::Map<_, _>>().into();
        return out.json(&json!({ "series": loaded.key, "config": config, "walk_forward": told }));
    }
    walk_text(&walked, &config, loaded, out)
}
