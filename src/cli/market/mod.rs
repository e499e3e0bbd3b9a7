//! Commands on a series of candles: which one is meant, how it is traded, and what several commands share.
//!
//! | module | command |
//! |---|---|
//! | `indicators` | `atra indicators` |
//! | `backtest` | `atra backtest`, and its report |
//! | `several` | the same over several series |
//! | `verify` | the same through the seven agents |
//! | `picture` | what the page draws, as text |
//! | `check` | `atra check lookahead`, `atra check warm-up` |
//! | `optimize` | `atra optimize` |
//! | `walk` | the walk-forward that both tell |
//! | `export` | `atra export` |

pub(crate) mod backtest;
pub(crate) mod check;
pub(crate) mod export;
pub(crate) mod indicators;
pub(crate) mod optimize;
mod picture;
mod several;
mod verify;
mod walk;

use std::{path::PathBuf, sync::Arc};

use atra::{
    Read,
    agents::market::{
        backtest::BacktestOptions,
        candle::{Candle, Interval, Scale, SeriesKey},
        fill::Exits,
        money::{LOT_DECIMALS_MAX, Money, Terms},
        search,
        strategy::{Side, StrategySpec},
    },
    runtime::config::plain,
};
use clap::Args;

use super::{
    args::DbArgs,
    candles::{self, Stored},
    db_of,
    error::CliError,
    interrupted, open, stop,
    time::Moment,
};

/// Which candles.
#[derive(Debug, Clone, Args)]
pub(crate) struct SeriesArgs {
    /// Whose candles; need not be said if the database has only one. 'backtest' takes several, on one account.
    #[arg(long, value_delimiter = ',')]
    ticker: Vec<String>,
    /// Their length, such as 15m; need not be said if the ticker has only one.
    #[arg(long)]
    interval: Option<Interval>,
    /// Only candles that open at this time or later.
    #[arg(long, value_name = "DATE")]
    from: Option<Moment>,
    /// Only candles that open before this time.
    #[arg(long, value_name = "DATE")]
    to: Option<Moment>,
    #[command(flatten)]
    db: DbArgs,
}

/// A series that was read.
pub(crate) struct Loaded {
    pub(crate) key: SeriesKey,
    pub(crate) candles: Vec<Candle>,
    pub(crate) scale: Scale,
}

impl SeriesArgs {
    /// The database that is read.
    pub(crate) fn db(&self) -> Result<PathBuf, CliError> {
        db_of(&self.db)
    }

    /// Reads the candles of the one series that is meant.
    pub(crate) async fn load(&self) -> Result<Loaded, CliError> {
        let (db, chosen) = self.chosen().await?;
        match &chosen[..] {
            [one] => self.read(&*db, &one.key).await,
            _ => Err(several_are_meant(&chosen)),
        }
    }

    /// Reads the candles of all series that are meant: those named, or with `all` every one.
    pub(crate) async fn load_several(&self, all: bool) -> Result<Vec<Loaded>, CliError> {
        let (db, chosen) = self.chosen().await?;
        if chosen.len() > 1 && self.ticker.is_empty() && !all {
            return Err(several_are_meant(&chosen));
        }
        let mut loaded = Vec::new();
        for Stored { key, .. } in &chosen {
            loaded.push(self.read(&*db, key).await?);
        }
        Ok(loaded)
    }

    async fn chosen(&self) -> Result<(Arc<dyn Read>, Vec<Stored>), CliError> {
        if let (Some(from), Some(to)) = (self.from, self.to)
            && from.0 >= to.0
        {
            let what = format!("the span is empty: from {from} is not before to {to}");
            return Err(CliError::Usage { what, next: "give a --to that is later than --from" });
        }
        let db = open(&db_of(&self.db)?).await?;
        let stored = candles::series(&*db).await?;
        if stored.is_empty() {
            let next = "import some with 'atra import candles'".into();
            return Err(CliError::NotFound { what: "the database has no candles".into(), next });
        }
        let chosen = candles::choose(&stored, &self.ticker, self.interval)?;
        Ok((db, chosen))
    }

    async fn read(&self, db: &dyn Read, key: &SeriesKey) -> Result<Loaded, CliError> {
        let (mut candles, scale) = candles::load(db, key).await?;
        let wanted = candles::within(key, &candles, self.from.map(|from| from.0), self.to.map(|to| to.0))?;
        candles.truncate(wanted.end);
        candles.drain(..wanted.start);
        Ok(Loaded { key: key.clone(), candles, scale })
    }

    /// The candles of the one series that is meant, those before `--from` as well; and how many these are.
    pub(crate) async fn load_with_past(&self) -> Result<(Loaded, usize), CliError> {
        let loaded = Self { from: None, ..self.clone() }.load().await?;
        let Loaded { key, candles, .. } = &loaded;
        let wanted = candles::within(key, candles, self.from.map(|from| from.0), None)?;
        Ok((loaded, wanted.start))
    }
}

fn several_are_meant(chosen: &[Stored]) -> CliError {
    let names: Vec<String> = chosen.iter().take(8).map(|row| row.key.to_string()).collect();
    let what = format!("the selection matches {} series: {}", chosen.len(), names.join(", "));
    let next = "name one with --ticker and --interval; 'atra backtest --all' trades them on one account";
    CliError::Usage { what, next }
}

/// Which strategy.
#[derive(Debug, Clone, Args)]
pub(crate) struct StrategyArgs {
    /// sma-cross, ema-cross, rsi-reversion, bollinger, donchian, macd-adx or buy-and-hold.
    #[arg(long, default_value = "sma-cross")]
    strategy: String,
    /// A parameter that differs from the usual one, such as fast=10; repeatable.
    #[arg(long = "set", value_name = "NAME=VALUE")]
    set: Vec<String>,
    /// Allows the strategy to go short.
    #[arg(long)]
    short: bool,
}

impl StrategyArgs {
    /// The strategy; can be built.
    pub(crate) fn spec(&self) -> Result<StrategySpec, CliError> {
        let spec = self.base()?;
        spec.build().map_err(|error| usage(&error))?;
        Ok(spec)
    }

    /// The strategy as said, before a search sets more of it.
    pub(crate) fn base(&self) -> Result<StrategySpec, CliError> {
        let mut parameters = Vec::new();
        for text in &self.set {
            let Some((name, value)) = text.split_once('=') else {
                let what = format!("--set {text:?} is not NAME=VALUE");
                return Err(CliError::Usage { what, next: "write it as --set fast=10" });
            };
            parameters.push((name.trim().to_owned(), value.trim().to_owned()));
        }
        let spec = search::spec(&self.strategy, &parameters).map_err(|error| usage(&error))?;
        Ok(if self.short { spec.with_side(Side::LongShort) } else { spec })
    }
}

fn usage(error: &dyn std::error::Error) -> CliError {
    CliError::Usage { what: plain(&error.to_string()), next: "'--help' shows the flags, docs/market.md the strategies" }
}

/// How it is traded.
#[derive(Debug, Clone, Args)]
pub(crate) struct TradeArgs {
    /// Fee of a fill as a share of its notional.
    #[arg(long, allow_negative_numbers = true, default_value = "0.001", value_name = "SHARE", value_parser = ppm)]
    fee: u32,
    /// Cash at the start.
    #[arg(long, allow_negative_numbers = true, default_value = "10000", value_name = "AMOUNT")]
    cash: Money,
    /// The smallest quantity: 1, 0.1 … 1e-6.
    #[arg(long, allow_negative_numbers = true, default_value = "0.001", value_name = "UNITS", value_parser = unit)]
    unit: u8,
    /// How much worse market orders are filled than the price seen, in hundredths of a percent.
    #[arg(long, allow_negative_numbers = true, default_value_t = 0, value_name = "N", value_parser = clap::value_parser!(u32).range(0..10_000))]
    slippage_bps: u32,
    /// Leaves a position this share of its entry price against it, such as 0.02.
    #[arg(long, allow_negative_numbers = true, default_value = "0", value_name = "SHARE", value_parser = ppm)]
    stop_loss: u32,
    /// Leaves a position this share of its entry price in its favour.
    #[arg(long, allow_negative_numbers = true, default_value = "0", value_name = "SHARE", value_parser = ppm)]
    take_profit: u32,
}

/// A share below 1 in parts per million.
fn ppm(text: &str) -> Result<u32, String> {
    let share = text.parse::<f64>().ok().filter(|share| (0.0..1.0).contains(share));
    let ppm = share.map(|share| share * 1e6).filter(|ppm| (ppm - ppm.round()).abs() < 1e-6);
    ppm.map(|ppm| ppm.round() as u32).ok_or_else(|| "a share is a number from 0 to below 1 with 6 decimals".into())
}

/// Decimals of a power of ten from 1 to 10^−6.
fn unit(text: &str) -> Result<u8, String> {
    let unit = text.parse::<f64>().unwrap_or(f64::NAN);
    let found = (0..=LOT_DECIMALS_MAX).find(|decimals| (unit * 10_f64.powi(i32::from(*decimals)) - 1.0).abs() < 1e-9);
    found.ok_or_else(|| "a unit is 1, 0.1, 0.01 … 1e-6".into())
}

impl TradeArgs {
    /// The same as a back-test takes it.
    pub(crate) fn options(&self, scale: Scale) -> Result<BacktestOptions, CliError> {
        if self.cash <= Money::ZERO {
            let what = format!("cash is {}, not above 0", self.cash);
            return Err(CliError::Usage { what, next: "give an amount with --cash" });
        }
        let terms = Terms::new(scale, self.unit, self.fee).and_then(|terms| terms.with_slippage(self.slippage_ppm()));
        let exits = self.exits();
        Ok(BacktestOptions { cash: self.cash, terms: terms.map_err(|error| usage(&error))?, exits })
    }

    fn slippage_ppm(&self) -> u32 {
        self.slippage_bps * 100
    }

    fn exits(&self) -> Exits {
        Exits { stop_loss_ppm: self.stop_loss, take_profit_ppm: self.take_profit }
    }
}

/// `sma-cross fast=10 slow=20 side=long-only`.
fn parameters(spec: StrategySpec) -> String {
    let value = serde_json::to_value(spec).unwrap_or_default();
    let entries = value.as_object().into_iter().flatten().filter(|(name, _)| *name != "name");
    let told: String = entries.map(|(name, value)| format!(" {name}={value}")).collect();
    format!("{}{}", spec.name(), told.replace('"', ""))
}

fn percent(share: f64) -> String {
    format!("{:.2} %", share * 100.0)
}

fn number(value: f64) -> String {
    format!("{value:.2}")
}

fn maybe(value: Option<f64>, text: impl Fn(f64) -> String) -> String {
    value.map_or_else(|| "-".into(), text)
}

/// Does `work` for every index below `n` on all cores and gives the results in order. `done` is called after each. A
/// signal ends it after the calls in progress.
///
/// # Errors
/// [`CliError::Interrupted`].
pub(crate) fn on_all_cores<T: Send>(
    n: usize,
    work: impl Fn(usize) -> T + Sync,
    done: impl Fn() + Sync,
) -> Result<Vec<T>, CliError> {
    use std::sync::atomic::{AtomicUsize, Ordering};

    let cores = std::thread::available_parallelism().map_or(1, usize::from).min(n.max(1));
    // Relaxed: each index is taken once, and results are handed over by the joins.
    let next = AtomicUsize::new(0);
    let mut results: Vec<(usize, T)> = std::thread::scope(|scope| {
        let worker = || {
            let mut own = Vec::new();
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                if index >= n || stop::is_asked() {
                    return own;
                }
                own.push((index, work(index)));
                done();
            }
        };
        let workers: Vec<_> = (0..cores).map(|_| scope.spawn(worker)).collect();
        let joined = workers.into_iter().map(|worker| worker.join());
        joined.flat_map(|own| own.unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
    });
    if results.len() < n {
        return Err(interrupted());
    }
    results.sort_unstable_by_key(|(index, _)| *index);
    Ok(results.into_iter().map(|(_, result)| result).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_and_units_are_exact_or_refused() {
        assert_eq!([ppm("0.001"), ppm("0"), ppm("0.0004"), ppm("0.29")], [Ok(1_000), Ok(0), Ok(400), Ok(290_000)]);
        assert!(["1", "-0.1", "x", "0.0000001", "nan"].iter().all(|text| ppm(text).is_err()));
        assert_eq!([unit("1"), unit("0.001"), unit("1e-6")], [Ok(0), Ok(3), Ok(6)]);
        assert!(["0", "2", "0.5", "1e-7", "10", "x"].iter().all(|text| unit(text).is_err()));
    }

    #[test]
    fn results_of_all_cores_are_in_order() {
        let squares = on_all_cores(1_000, |n| n * n, || {}).expect("no signal");
        assert_eq!(squares, (0..1_000).map(|n| n * n).collect::<Vec<_>>());
        assert!(on_all_cores(0, |n| n, || {}).expect("no signal").is_empty());
    }
}
