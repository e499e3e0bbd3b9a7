//! `atra backtest`: a strategy over the candles of a series, as text, JSON, tables and an HTML page; and, asked for with
//! `--verify`, once more through the seven agents, which must trade alike to the last digit.

use std::path::PathBuf;

use atra::agents::market::{
    backtest::{Backtest, BacktestOptions, backtest},
    calendar::minute,
    html::{Page, Shown, html},
    metrics::Metrics,
    months::{NAMES, Year, years},
    strategy::StrategySpec,
    table::{Column, Table},
    walkforward::{WalkForwardConfig, WalkForwardReport, walk_forward},
};
use clap::Args;
use serde_json::{Value, json};

use super::{
    Loaded, SeriesArgs, StrategyArgs, TradeArgs, maybe, number, parameters, percent, picture, several, usage,
    verify::{Expected, verify},
    walk::{walk_config, walk_json, walk_text},
};
use crate::cli::{
    error::CliError,
    files::{ForceArgs, Outputs},
    output::{Output, Style, counted, grouped},
};

#[derive(Debug, Args)]
pub(crate) struct BacktestArgs {
    #[command(flatten)]
    series: SeriesArgs,
    #[command(flatten)]
    pub(super) strategy: StrategyArgs,
    #[command(flatten)]
    pub(super) trade: TradeArgs,
    /// Trades every series that there is, on one account; several may also be named with --ticker.
    #[arg(long, conflicts_with = "ticker")]
    all: bool,
    /// Runs the seven agents over the same candles too; a trade or a cent of difference is a failure.
    #[arg(long)]
    pub(super) verify: bool,
    /// Writes the trades; .csv, .json or .parquet.
    #[arg(long, value_name = "FILE")]
    pub(super) trades: Option<PathBuf>,
    /// Writes the equity at each close; .csv, .json or .parquet.
    #[arg(long, value_name = "FILE")]
    pub(super) equity: Option<PathBuf>,
    /// Writes a page with charts that needs nothing but itself.
    #[arg(long, value_name = "FILE.html")]
    pub(super) report: Option<PathBuf>,
    #[command(flatten)]
    pub(super) force: ForceArgs,
}

impl BacktestArgs {
    /// How its files are written; refused here if they cannot be.
    pub(super) fn outputs(&self) -> Result<Outputs, CliError> {
        let outputs = Outputs::new(self.force, Some(self.series.db()?));
        outputs.check(self.trades.iter().chain(&self.equity).chain(&self.report))?;
        Ok(outputs)
    }
}

/// Runs the back-test and tells what it made.
pub(crate) async fn run(args: BacktestArgs, out: &mut Output) -> Result<(), CliError> {
    let spec = args.strategy.spec()?;
    super::export::check_names(args.trades.iter().chain(&args.equity))?;
    let outputs = args.outputs()?;
    let all = args.series.load_several(args.all).await?;
    let [loaded] = &all[..] else { return several::run(&args, spec, &all, &outputs, out).await };
    let options = args.trade.options(loaded.scale)?;
    let strategy = spec.build().map_err(|error| usage(&error))?;
    let done = backtest(&loaded.candles, strategy, &options).map_err(|error| usage(&error))?;
    if args.verify {
        let trades = done.trades.iter().map(|trade| (0, *trade)).collect();
        let expected = Expected { trades, equity: done.final_equity, metrics: &done.metrics };
        verify(&all, spec, &args.trade, &expected).await?;
    }
    let config = walk_config(loaded, &options);
    // Too few candles are no error: there is then nothing to say out of sample.
    let walk = walk_forward(&loaded.candles, &config).ok().flatten();
    let told = Told { loaded, spec, options: &options, done: &done, walk: walk.as_ref(), config: &config };
    if let Some(path) = &args.trades {
        let trades: Vec<_> = done.trades.iter().map(|trade| (*trade, options.terms)).collect();
        super::export::write_table(&Table::of_trades(None, &trades), path, &outputs)?;
    }
    if let Some(path) = &args.equity {
        super::export::write_table(&told.equity(), path, &outputs)?;
    }
    if let Some(path) = &args.report {
        outputs.write(path, told.page().as_bytes())?;
    }
    if out.is_json() {
        return out.json(&told.json(args.verify));
    }
    told.text(args.verify, out)
}

struct Told<'a> {
    loaded: &'a Loaded,
    spec: StrategySpec,
    options: &'a BacktestOptions,
    done: &'a Backtest,
    walk: Option<&'a WalkForwardReport>,
    config: &'a WalkForwardConfig,
}

impl Told<'_> {
    fn equity(&self) -> Table {
        let times = self.loaded.candles.iter().map(|candle| candle.time).collect();
        let mut equity: Vec<Option<f64>> = self.done.equity.iter().copied().map(Some).collect();
        // After a last position was closed, as in the metrics.
        if let Some(last) = equity.last_mut() {
            *last = Some(self.done.final_equity.to_f64());
        }
        Table::new().with("time", Column::Time(times)).with("equity", Column::Number(equity))
    }

    fn page(&self) -> String {
        let title = format!("{} on {}", self.spec.name(), self.loaded.key);
        let Loaded { key, candles, scale } = self.loaded;
        let walk = self.walk.map(|walk| (walk, &self.config.pairs[..], self.config.step));
        html(&Page {
            title: &title,
            settings: &settings(self.spec, self.options),
            series: &[Shown {
                name: key.as_str(),
                candles,
                scale: *scale,
                terms: self.options.terms,
                made: None,
                walk,
            }],
            trades: &self.done.trades.iter().map(|trade| (0, *trade)).collect::<Vec<_>>(),
            times: &candles.iter().map(|candle| candle.time).collect::<Vec<_>>(),
            closed_at: candles.last().map_or(0, |last| last.time.saturating_add(key.interval().millis())),
            equity: &self.done.equity,
            final_equity: self.done.final_equity,
            metrics: &self.done.metrics,
            buy_and_hold: self.done.buy_and_hold,
        })
    }

    fn json(&self, is_verified: bool) -> Value {
        let walk = self.walk.map(|walk| walk_json(walk, self.config, self.loaded));
        let times: Vec<i64> = self.loaded.candles.iter().map(|candle| candle.time).collect();
        json!({
            "series": self.loaded.key,
            "candles": self.loaded.candles.len(),
            "from": self.loaded.candles.first().map(|candle| candle.time),
            "to": self.loaded.candles.last().map(|candle| candle.time),
            "strategy": self.spec,
            "options": self.options,
            "final_equity": self.done.final_equity,
            "buy_and_hold": self.done.buy_and_hold,
            "metrics": self.done.metrics,
            "trades": self.done.trades.len(),
            "months": years_json(&times, &self.done.equity),
            "walk_forward": walk,
            "verified": is_verified,
        })
    }

    fn text(&self, is_verified: bool, out: &mut Output) -> Result<(), CliError> {
        let Loaded { key, candles, .. } = self.loaded;
        out.line(&out.paint(Style::Bold, &format!("{} on {key}", parameters(self.spec))))?;
        // To its close, as `atra run` says it.
        let end = |last: i64| minute(last.saturating_add(key.interval().millis()));
        let span = candles.first().zip(candles.last());
        let span = span.map_or_else(String::new, |(a, b)| format!("{} to {}", minute(a.time), end(b.time)));
        let mut pairs = vec![
            ("candles", format!("{}  {span}", grouped(candles.len() as u64))),
            ("equity", format!("{:.2}  from {}", self.done.final_equity.to_f64(), self.options.cash)),
        ];
        pairs.extend(figures(&self.done.metrics, self.done.buy_and_hold));
        pairs.extend(picture::curves(&self.done.equity));
        out.pairs(&pairs)?;
        let times: Vec<i64> = candles.iter().map(|candle| candle.time).collect();
        months(&times, &self.done.equity, out)?;
        let Self { done: Backtest { trades, .. }, options, .. } = self;
        let newest = trades.iter().rev().map(|trade| (key.to_string(), *trade, options.terms));
        picture::newest_trades(trades.len(), newest, out)?;
        out.line("")?;
        match self.walk {
            Some(walk) => walk_text(walk, self.config, self.loaded, out)?,
            None => out.line("Too few candles for a walk-forward: nothing here is out of sample.")?,
        }
        if is_verified {
            out.line("")?;
            out.line("The seven agents made the same trades and the same equity to the last digit.")?;
        }
        out.line("")?;
        out.line(
            "Fills on paper, at the next open. Parameters chosen by looking at these candles have seen the answers.",
        )
    }
}

/// What a run was set to, for its page.
pub(super) fn settings(spec: StrategySpec, options: &BacktestOptions) -> Vec<(String, String)> {
    let BacktestOptions { cash, terms, exits } = options;
    let share = |ppm: u32| if ppm == 0 { "none".into() } else { format!("{} %", f64::from(ppm) / 1e4) };
    vec![
        ("strategy".into(), parameters(spec)),
        ("cash".into(), cash.to_string()),
        ("unit".into(), terms.quantity(1).to_string()),
        ("fee".into(), share(terms.fee_ppm())),
        ("slippage".into(), share(terms.slippage_ppm())),
        ("stop loss".into(), share(exits.stop_loss_ppm)),
        ("take profit".into(), share(exits.take_profit_ppm)),
    ]
}

/// What each month made, for a program: shares, January first, `null` where there is no candle.
pub(super) fn years_json(times: &[i64], equity: &[f64]) -> Value {
    let year = |Year { year, months, whole }: &Year| json!({ "year": year, "months": months, "whole": whole });
    years(times, equity).iter().map(year).collect()
}

/// What each month made, for a terminal.
pub(super) fn months(times: &[i64], equity: &[f64], out: &mut Output) -> Result<(), CliError> {
    let cell = |share: Option<f64>| share.map_or_else(String::new, |share| format!("{:.1}", share * 100.0));
    let years = years(times, equity);
    let rows = years.iter().map(|Year { year, months, whole }| {
        [year.to_string()].into_iter().chain(months.iter().chain([whole]).map(|share| cell(*share))).collect()
    });
    let rows: Vec<Vec<String>> = rows.collect();
    let head: Vec<&str> = ["%"].into_iter().chain(NAMES).chain(["year"]).collect();
    out.line("")?;
    out.table(&head, &rows)
}

/// The figures of a run for a terminal, beside buying and holding.
pub(super) fn figures(m: &Metrics, buy_and_hold: f64) -> Vec<(&'static str, String)> {
    let days = counted((m.drawdown_longest_ms as f64 / 86_400_000.0).round() as u64, "day");
    vec![
        ("return", format!("{}  net of {:.2} fees", percent(m.return_share), m.fees)),
        ("buy and hold", format!("{}  net of its two fees", percent(buy_and_hold))),
        ("growth a year", maybe(m.cagr, percent)),
        ("max drawdown", format!("{}  longest {days}", percent(m.drawdown_max))),
        ("sharpe, sortino", format!("{}, {}", maybe(m.sharpe, number), maybe(m.sortino, number))),
        ("trades", format!("{}  win rate {}", grouped(m.trades), maybe(m.win_rate, percent))),
        ("profit factor", format!("{}  expectancy {}", maybe(m.profit_factor, number), maybe(m.expectancy, number))),
        ("exposure", format!("{}  turnover {:.1} x start", percent(m.exposure), m.turnover)),
    ]
}
