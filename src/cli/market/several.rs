//! `atra backtest` over several series: one strategy, one account, each series with its equal part of it.

use atra::agents::market::{
    backtest::BacktestOptions,
    calendar::minute,
    html::{Page, Shown, html},
    several::{Made, Part, Several, several},
    strategy::StrategySpec,
    table::{Column, Table},
    walkforward::{WalkForwardConfig, WalkForwardReport, walk_forward},
};
use serde_json::json;

use super::{
    Loaded,
    backtest::{BacktestArgs, figures, months, settings, years_json},
    export, on_all_cores, parameters, percent, picture, usage,
    verify::{Expected, verify},
    walk::{walk_config, walk_json},
};
use crate::cli::{
    error::CliError,
    files::Outputs,
    output::{Output, Style, grouped},
};

/// Runs the back-test and tells what it made.
pub(super) async fn run(
    args: &BacktestArgs,
    spec: StrategySpec,
    loaded: &[Loaded],
    outputs: &Outputs,
    out: &mut Output,
) -> Result<(), CliError> {
    let options: Vec<BacktestOptions> =
        loaded.iter().map(|loaded| args.trade.options(loaded.scale)).collect::<Result<_, _>>()?;
    let part = |(loaded, options): (_, &BacktestOptions)| {
        let Loaded { key, candles, .. }: &Loaded = loaded;
        Part { series: key, candles, terms: options.terms }
    };
    let parts: Vec<Part<'_>> = loaded.iter().zip(&options).map(part).collect();
    let strategy = spec.build().map_err(|error| usage(&error))?;
    let BacktestOptions { cash, exits, .. } = options[0];
    let done = several(&parts, || strategy.clone(), cash, exits).map_err(|error| usage(&error))?;
    if args.verify {
        let expected = Expected { trades: done.trades.clone(), equity: done.final_equity, metrics: &done.metrics };
        verify(loaded, spec, &args.trade, &expected).await?;
    }
    let walks = on_all_cores(loaded.len(), |n| walk_of(&loaded[n], &options[n]), || {})?;
    let told = Told { loaded, parts: &parts, spec, options: &options[0], done: &done, walks: &walks };
    if let Some(path) = &args.trades {
        export::write_table(&told.trades(), path, outputs)?;
    }
    if let Some(path) = &args.equity {
        export::write_table(&told.equity(), path, outputs)?;
    }
    if let Some(path) = &args.report {
        outputs.write(path, told.page().as_bytes())?;
    }
    if out.is_json() { out.json(&told.json(args.verify)) } else { told.text(args.verify, out) }
}

/// The walk-forward of a series by itself; `None` if its candles are too few.
fn walk_of(loaded: &Loaded, options: &BacktestOptions) -> Option<(WalkForwardConfig, WalkForwardReport)> {
    let config = walk_config(loaded, options);
    // Too few candles are no error: there is then nothing to say out of sample.
    let walk = walk_forward(&loaded.candles, &config).ok().flatten()?;
    Some((config, walk))
}

struct Told<'a> {
    loaded: &'a [Loaded],
    parts: &'a [Part<'a>],
    spec: StrategySpec,
    options: &'a BacktestOptions,
    done: &'a Several,
    walks: &'a [Option<(WalkForwardConfig, WalkForwardReport)>],
}

impl Told<'_> {
    /// Each trade at its own series' prices.
    fn trades(&self) -> Table {
        let of = |(place, trade): &(usize, _)| {
            let Part { series, terms, .. } = self.parts[*place];
            (series.to_string(), (*trade, terms))
        };
        let (names, rows): (Vec<String>, Vec<_>) = self.done.trades.iter().map(of).unzip();
        Table::of_trades(Some(names), &rows)
    }

    fn equity(&self) -> Table {
        let (times, mut equity): (Vec<i64>, Vec<Option<f64>>) =
            self.done.equity.iter().map(|(time, value)| (*time, Some(*value))).unzip();
        // After the last positions were closed, as in the metrics.
        if let Some(last) = equity.last_mut() {
            *last = Some(self.done.final_equity.to_f64());
        }
        Table::new().with("time", Column::Time(times)).with("equity", Column::Number(equity))
    }

    fn page(&self) -> String {
        let title = format!("{} on {} series", self.spec.name(), self.parts.len());
        let shown = |(((loaded, part), made), walk)| {
            let (Loaded { key, candles, scale }, Part { terms, .. }): (&Loaded, &Part<'_>) = (loaded, part);
            let walk: &Option<(WalkForwardConfig, WalkForwardReport)> = walk;
            let walk = walk.as_ref().map(|(config, walk)| (walk, &config.pairs[..], config.step));
            Shown { name: key.as_str(), candles, scale: *scale, terms: *terms, made: Some(made), walk }
        };
        let rows = self.loaded.iter().zip(self.parts).zip(&self.done.made).zip(self.walks);
        let series: Vec<Shown<'_>> = rows.map(shown).collect();
        let (times, equity): (Vec<i64>, Vec<f64>) = self.done.equity.iter().copied().unzip();
        let closed =
            |Loaded { key, candles, .. }: &Loaded| Some(candles.last()?.time.saturating_add(key.interval().millis()));
        html(&Page {
            title: &title,
            settings: &settings(self.spec, self.options),
            series: &series,
            trades: &self.done.trades,
            times: &times,
            closed_at: self.loaded.iter().filter_map(closed).max().unwrap_or(0),
            equity: &equity,
            final_equity: self.done.final_equity,
            metrics: &self.done.metrics,
            buy_and_hold: self.done.buy_and_hold,
        })
    }

    fn json(&self, is_verified: bool) -> serde_json::Value {
        let rows = self.parts.iter().zip(&self.done.made).zip(self.loaded.iter().zip(self.walks));
        let series = rows.map(|((part, made), (loaded, walk))| {
            let walk = walk.as_ref().map(|(config, walk)| walk_json(walk, config, loaded));
            json!({
                "series": part.series, "candles": part.candles.len(), "trades": made.trades, "wins": made.wins,
                "profit": made.profit, "fees": made.fees, "buy_and_hold": made.buy_and_hold, "walk_forward": walk,
            })
        });
        let (times, equity): (Vec<i64>, Vec<f64>) = self.done.equity.iter().copied().unzip();
        json!({
            "series": series.collect::<Vec<_>>(),
            "candles": self.parts.iter().map(|part| part.candles.len()).sum::<usize>(),
            "from": self.parts.iter().filter_map(|part| Some(part.candles.first()?.time)).min(),
            "to": self.parts.iter().filter_map(|part| Some(part.candles.last()?.time)).max(),
            "strategy": self.spec,
            "options": self.options,
            "final_equity": self.done.final_equity,
            "buy_and_hold": self.done.buy_and_hold,
            "metrics": self.done.metrics,
            "trades": self.done.trades.len(),
            "months": years_json(&times, &equity),
            "verified": is_verified,
        })
    }

    fn text(&self, is_verified: bool, out: &mut Output) -> Result<(), CliError> {
        let heading = format!("{} on {} series, one account", parameters(self.spec), self.parts.len());
        out.line(&out.paint(Style::Bold, &heading))?;
        let n_candles: usize = self.parts.iter().map(|part| part.candles.len()).sum();
        // From the first open to the last close.
        let first = self.parts.iter().filter_map(|part| Some(part.candles.first()?.time)).min();
        let close = |part: &Part<'_>| Some(part.candles.last()?.time.saturating_add(part.series.interval().millis()));
        let span = first.zip(self.parts.iter().filter_map(close).max());
        let span = span.map_or_else(String::new, |(a, b)| format!("{} to {}", minute(a), minute(b)));
        let mut pairs = vec![
            ("candles", format!("{}  {span}", grouped(n_candles as u64))),
            ("equity", format!("{:.2}  from {}", self.done.final_equity.to_f64(), self.options.cash)),
        ];
        pairs.extend(figures(&self.done.metrics, self.done.buy_and_hold));
        let (times, equity): (Vec<i64>, Vec<f64>) = self.done.equity.iter().copied().unzip();
        pairs.extend(picture::curves(&equity));
        out.pairs(&pairs)?;
        months(&times, &equity, out)?;
        let of =
            |(place, trade): &(usize, _)| (self.parts[*place].series.to_string(), *trade, self.parts[*place].terms);
        picture::newest_trades(self.done.trades.len(), self.done.trades.iter().rev().map(of), out)?;
        out.line("")?;
        let row = |(part, made): (&Part<'_>, &Made)| {
            vec![
                part.series.to_string(),
                grouped(part.candles.len() as u64),
                grouped(made.trades),
                grouped(made.wins),
                format!("{:.2}", made.profit.to_f64()),
                format!("{:.2}", made.fees.to_f64()),
                percent(made.buy_and_hold),
            ]
        };
        let rows: Vec<Vec<String>> = self.parts.iter().zip(&self.done.made).map(row).collect();
        out.table(&["series", "candles", "trades", "wins", "profit", "fees", "buy and hold"], &rows)?;
        self.out_of_sample(out)?;
        if is_verified {
            out.line("")?;
            out.line("The seven agents made the same trades and the same equity to the last digit.")?;
        }
        out.line("")?;
        out.line("Each series may take its equal part of the equity. Fills on paper, at the next open.")
    }

    /// The walk-forward of each series by itself, and equal parts of all.
    fn out_of_sample(&self, out: &mut Output) -> Result<(), CliError> {
        let walked = self.loaded.iter().zip(self.walks).filter_map(|(loaded, walk)| Some((loaded, &walk.as_ref()?.1)));
        let walked: Vec<_> = walked.collect();
        out.line("")?;
        if walked.is_empty() {
            return out.line("Too few candles for a walk-forward: nothing here is out of sample.");
        }
        out.line(
            &out.paint(Style::Bold, "Out of sample, each series by itself: pairs of averages, chosen again as it goes"),
        )?;
        let of: [fn(&WalkForwardReport) -> f64; 4] =
            [|w| w.return_pct, |w| w.buy_and_hold_pct, |w| w.median_fixed_pct, |w| w.best_fixed.1];
        let row = |name: &str, from: String, value: &dyn Fn(fn(&WalkForwardReport) -> f64) -> f64| {
            [name.to_owned(), from]
                .into_iter()
                .chain(of.map(|of| format!("{:.2} %", value(of))))
                .collect::<Vec<String>>()
        };
        let of_series = |(loaded, walk): &(&Loaded, &WalkForwardReport)| {
            let from = loaded.candles.get(walk.first).map_or_else(String::new, |candle| minute(candle.time));
            row(loaded.key.as_str(), from, &|of| of(walk))
        };
        let mut rows: Vec<Vec<String>> = walked.iter().map(of_series).collect();
        let mean = |of: fn(&WalkForwardReport) -> f64| {
            walked.iter().map(|(_, walk)| of(walk)).sum::<f64>() / walked.len() as f64
        };
        rows.push(row("equal parts", String::new(), &mean));
        out.table(&["", "from", "walk-forward", "buy and hold", "median pair", "best in hindsight"], &rows)?;
        match self.parts.len() - walked.len() {
            0 => Ok(()),
            n => out.line(&format!("not of {n} of {} series: too few candles", self.parts.len())),
        }
    }
}
