//! `atra backtest`: a strategy over the candles of a series, as text, JSON, tables and an HTML page; and, asked for with
//! `--verify`, once more through the seven agents, which must trade alike to the last digit.

use std::{path::PathBuf, sync::Arc};

use atra::{
    Filter, MemoryStore, Query, RuntimeBuilder,
    agents::{
        CandleSource, DeskConfig, DeskReport,
        candles::blocks_of,
        desk,
        events::PositionChanged,
        market::{
            backtest::{Backtest, BacktestOptions, backtest},
            calendar::minute,
            fill::Trade,
            html::{Page, html},
            risk::RiskLimits,
            strategy::StrategySpec,
            table::{Column, Table},
            walkforward::{WalkForwardConfig, WalkForwardReport, walk_forward},
        },
    },
    bus::{Interest, Seq},
    storage::{Read, Store, WriteBatch},
};
use clap::Args;
use serde_json::{Value, json};

use super::{Loaded, SeriesArgs, StrategyArgs, TradeArgs, usage, write};
use crate::cli::{
    error::CliError,
    output::{Output, Style, grouped},
};

#[derive(Debug, Args)]
pub(crate) struct BacktestArgs {
    #[command(flatten)]
    series: SeriesArgs,
    #[command(flatten)]
    strategy: StrategyArgs,
    #[command(flatten)]
    trade: TradeArgs,
    /// Runs the seven agents over the same candles too; a trade or a cent of difference is a failure.
    #[arg(long)]
    verify: bool,
    /// Writes the trades; .csv, .json or .parquet.
    #[arg(long, value_name = "FILE")]
    trades: Option<PathBuf>,
    /// Writes the equity at each close; .csv, .json or .parquet.
    #[arg(long, value_name = "FILE")]
    equity: Option<PathBuf>,
    /// Writes a page with charts that needs nothing but itself.
    #[arg(long, value_name = "FILE.html")]
    report: Option<PathBuf>,
}

/// Runs the back-test and tells what it made.
pub(crate) async fn run(args: BacktestArgs, out: &mut Output) -> Result<(), CliError> {
    let spec = args.strategy.spec()?;
    let loaded = args.series.load().await?;
    let options = args.trade.options(loaded.scale)?;
    let strategy = spec.build().map_err(|error| usage(&error))?;
    let done = backtest(&loaded.candles, strategy, &options).map_err(|error| usage(&error))?;
    if args.verify {
        verify(&loaded, spec, &args.trade, &done).await?;
    }
    let config = walk_config(&loaded, &options);
    // Too few candles are no error: there is then nothing to say out of sample.
    let walk = walk_forward(&loaded.candles, &config).ok().flatten();
    let told = Told { loaded: &loaded, spec, options: &options, done: &done, walk: walk.as_ref(), config: &config };
    if let Some(path) = &args.trades {
        super::export::write_table(&Table::of_trades(&done.trades, options.terms), path)?;
    }
    if let Some(path) = &args.equity {
        super::export::write_table(&told.equity(), path)?;
    }
    if let Some(path) = &args.report {
        write(path, told.page().as_bytes())?;
    }
    if out.is_json() {
        return out.json(&told.json(args.verify));
    }
    told.text(args.verify, out)
}

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

    fn settings(&self) -> Vec<(String, String)> {
        let BacktestOptions { cash, terms, exits } = self.options;
        let share = |ppm: u32| if ppm == 0 { "none".into() } else { format!("{} %", f64::from(ppm) / 1e4) };
        vec![
            ("strategy".into(), parameters(self.spec)),
            ("cash".into(), cash.to_string()),
            ("fee".into(), share(terms.fee_ppm())),
            ("slippage".into(), share(terms.slippage_ppm())),
            ("stop loss".into(), share(exits.stop_loss_ppm)),
            ("take profit".into(), share(exits.take_profit_ppm)),
        ]
    }

    fn page(&self) -> String {
        let title = format!("{} on {}", self.spec.name(), self.loaded.key);
        html(&Page {
            title: &title,
            settings: &self.settings(),
            candles: &self.loaded.candles,
            scale: self.loaded.scale,
            terms: self.options.terms,
            run: self.done,
            walk: self.walk.map(|walk| (walk, &self.config.pairs[..], self.config.step)),
        })
    }

    fn json(&self, is_verified: bool) -> Value {
        let walk = self.walk.map(|walk| walk_json(walk, self.loaded));
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
            "walk_forward": walk,
            "verified": is_verified,
        })
    }

    fn text(&self, is_verified: bool, out: &mut Output) -> Result<(), CliError> {
        let Loaded { key, candles, .. } = self.loaded;
        let m = &self.done.metrics;
        out.line(&out.paint(Style::Bold, &format!("{} on {key}", parameters(self.spec))))?;
        let span = candles.first().zip(candles.last());
        let span = span.map_or_else(String::new, |(a, b)| format!("{} to {}", minute(a.time), minute(b.time)));
        out.pairs(&[
            ("candles", format!("{}  {span}", grouped(candles.len() as u64))),
            ("equity", format!("{:.2}  from {}", self.done.final_equity.to_f64(), self.options.cash)),
            ("return", format!("{}  net of {:.2} fees", percent(m.return_share), m.fees)),
            ("buy and hold", format!("{}  net of its two fees", percent(self.done.buy_and_hold))),
            ("growth a year", maybe(m.cagr, percent)),
            (
                "max drawdown",
                format!("{}  longest {:.0} days", percent(m.drawdown_max), m.drawdown_longest_ms as f64 / 86_400_000.0),
            ),
            ("sharpe, sortino", format!("{}, {}", maybe(m.sharpe, number), maybe(m.sortino, number))),
            ("trades", format!("{}  win rate {}", grouped(m.trades), maybe(m.win_rate, percent))),
            (
                "profit factor",
                format!("{}  expectancy {}", maybe(m.profit_factor, number), maybe(m.expectancy, number)),
            ),
            ("exposure", format!("{}  turnover {:.1} x start", percent(m.exposure), m.turnover)),
        ])?;
        out.line("")?;
        match self.walk {
            Some(walk) => walk_text(walk, self.config, self.loaded, out)?,
            None => out.line("Too few candles for a walk-forward: nothing here is out of sample.")?,
        }
        if is_verified {
            out.line("\nThe seven agents made the same trades and the same equity to the last digit.")?;
        }
        out.line(
            "\nFills on paper, at the next open. Parameters chosen by looking at these candles have seen the answers.",
        )
    }
}

/// A walk-forward for a program.
pub(super) fn walk_json(walk: &WalkForwardReport, loaded: &Loaded) -> Value {
    json!({
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
            row("walk-forward", walk.return_pct, format!("chosen anew every {} candles", config.step)),
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
    ))
}

/// `sma-cross fast=10 slow=20 side=long-only`.
pub(super) fn parameters(spec: StrategySpec) -> String {
    let value = serde_json::to_value(spec).unwrap_or_default();
    let entries = value.as_object().into_iter().flatten().filter(|(name, _)| *name != "name");
    let told: String = entries.map(|(name, value)| format!(" {name}={value}")).collect();
    format!("{}{}", spec.name(), told.replace('"', ""))
}

pub(super) fn percent(share: f64) -> String {
    format!("{:.2} %", share * 100.0)
}

pub(super) fn number(value: f64) -> String {
    format!("{value:.2}")
}

pub(super) fn maybe(value: Option<f64>, text: impl Fn(f64) -> String) -> String {
    value.map_or_else(|| "-".into(), text)
}

// === the live path ===

/// Runs the seven agents over the same candles in memory and compares every trade and the equity.
async fn verify(loaded: &Loaded, spec: StrategySpec, trade: &TradeArgs, expected: &Backtest) -> Result<(), CliError> {
    let differs = |what: String| CliError::NotFound {
        what: format!("the seven agents differ from the back-test: {what}"),
        next: "this is a defect: please report it with the command and the candles".into(),
    };
    let (trades, report) = through_the_seven(loaded, spec, trade).await?;
    let same = expected.trades.iter().zip(&trades).take_while(|(a, b)| a == b).count();
    if same < expected.trades.len().max(trades.len()) {
        let (a, b) = (expected.trades.get(same), trades.get(same));
        return Err(differs(format!("trade {} is {a:?} in the one and {b:?} in the other", same + 1)));
    }
    if report.equity != expected.final_equity {
        return Err(differs(format!("final equity {} and {}", expected.final_equity, report.equity)));
    }
    let m = &expected.metrics;
    if (report.sharpe, report.max_drawdown, report.trades) != (m.sharpe, m.drawdown_max, m.trades) {
        return Err(differs("the metrics of the equity at each close".into()));
    }
    Ok(())
}

/// The desk with nothing of risk in the way, as a back-test has none.
fn desk_config(loaded: &Loaded, spec: StrategySpec, trade: &TradeArgs) -> DeskConfig {
    let risk = RiskLimits {
        position_max_ppm: u32::MAX,
        gross_max_ppm: u32::MAX,
        orders_per_hour_max: u32::MAX,
        price_band_ppm: u32::MAX,
        stale_after_ms: i64::MAX,
        ..RiskLimits::default()
    };
    DeskConfig {
        series: vec![loaded.key.to_string()],
        cash: trade.cash,
        fee_ppm: trade.fee,
        lot_decimals: trade.unit,
        slippage_ppm: trade.slippage_ppm(),
        exits: trade.exits(),
        strategy: Some(spec),
        close_at_end: true,
        risk,
        ..DeskConfig::default()
    }
}

async fn through_the_seven(
    loaded: &Loaded,
    spec: StrategySpec,
    trade: &TradeArgs,
) -> Result<(Vec<Trade>, DeskReport), CliError> {
    let bad = |source| CliError::Block { series: loaded.key.to_string(), start: 0, source };
    let blocks = blocks_of(&loaded.key, &loaded.candles, loaded.scale).map_err(bad)?;
    let mut store = MemoryStore::new();
    store.load().await?;
    store.commit(&WriteBatch { blocks, ..WriteBatch::default() }).await?;
    let reader: Arc<dyn Read> = store.reader();
    let team = desk(desk_config(loaded, spec, trade), CandleSource::Store(reader.clone())).await?;
    let runtime = RuntimeBuilder::new(store).team(team).start().await?;
    runtime.idle().await;
    let query = Query { name: "report".into(), arguments: Value::Null };
    let report = runtime.query("portfolio", query).await?;
    let report: DeskReport =
        serde_json::from_value(report).map_err(|error| CliError::Output(std::io::Error::other(error)))?;
    let filter = Filter::new("portfolio.position").map(|filter| Interest::in_topics(vec![filter]));
    let interest = filter.map_err(|error| CliError::Output(std::io::Error::other(error)))?;
    let (events, _) = reader.journal(Seq::ZERO, reader.last_seq().await?, &interest, usize::MAX).await?;
    let trades = events.iter().filter_map(|committed| committed.event.get::<PositionChanged>().ok()?.trade);
    let trades = trades.collect();
    runtime.stop(std::time::Duration::from_secs(30)).await?;
    Ok((trades, report))
}
