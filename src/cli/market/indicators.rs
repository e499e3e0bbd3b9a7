//! `atra indicators`: indicator values of a series as a table.

use atra::agents::market::{
    indicators::IndicatorSpec,
    table::{Column, Table},
};
use clap::{Args, ValueEnum};

use super::{Loaded, SeriesArgs};
use crate::cli::{error::CliError, output::Output};

#[derive(Debug, Args)]
pub(crate) struct IndicatorsArgs {
    #[command(flatten)]
    series: SeriesArgs,
    /// An indicator with its parameters, such as sma:20 or macd:12,26,9; repeatable.
    #[arg(long, required = true, value_name = "NAME:PARAMETERS")]
    indicator: Vec<IndicatorSpec>,
    /// How it is written [default: csv, with --json json].
    #[arg(long, value_enum)]
    format: Option<TextFormat>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum TextFormat {
    Csv,
    Json,
}

/// Prints the candles' times and closes with the indicators' lines. A value that is not ready is empty, or `null`. What lies
/// before `--from` is taken in and not printed: a value does not depend on where the table begins.
pub(crate) async fn indicators(args: IndicatorsArgs, out: &mut Output) -> Result<(), CliError> {
    if out.is_json() && args.format == Some(TextFormat::Csv) {
        let what = "--json and --format csv contradict each other".into();
        return Err(CliError::Usage { what, next: "leave one of them out" });
    }
    let (loaded, n_past) = args.series.load_with_past().await?;
    let table = table(&loaded, n_past, &args.indicator);
    let is_json = out.is_json() || args.format == Some(TextFormat::Json);
    out.text(&if is_json { table.json_lines() } else { table.csv() })
}

fn table(loaded: &Loaded, n_past: usize, indicators: &[IndicatorSpec]) -> Table {
    let Loaded { candles, scale, .. } = loaded;
    let shown = &candles[n_past..];
    let closes = shown.iter().map(|candle| candle.close).collect();
    let mut table = Table::new()
        .with("time", Column::Time(shown.iter().map(|candle| candle.time).collect()))
        .with("close", Column::Fixed(scale.price_decimals(), closes));
    for spec in indicators {
        let mut indicator = spec.build();
        let values: Vec<_> = candles.iter().map(|candle| indicator.update(candle, *scale)).collect();
        for (place, name) in spec.lines().into_iter().enumerate() {
            let line = values[n_past..].iter().map(|lines| lines.map(|lines| lines[place])).collect();
            table = table.with(name, Column::Number(line));
        }
    }
    table
}
