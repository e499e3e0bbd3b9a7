//! The seven agents over the candles of a back-test, in memory: every trade, the equity and its metrics must be the same.

use std::sync::Arc;

use atra::{
    Filter, MemoryStore, Query, RuntimeBuilder,
    agents::{
        CandleSource, DeskConfig, DeskReport,
        candles::blocks_of,
        desk,
        events::PositionChanged,
        market::{fill::Trade, metrics::Metrics, money::Money, risk::RiskLimits, strategy::StrategySpec},
    },
    bus::Interest,
    storage::{Read, Store, WriteBatch},
};
use serde_json::Value;

use super::{Loaded, TradeArgs};
use crate::cli::error::CliError;

/// What the back-test made: trades in order with the place of their series, the exact equity at the end, the metrics.
pub(super) struct Expected<'a> {
    pub(super) trades: Vec<(usize, Trade)>,
    pub(super) equity: Money,
    pub(super) metrics: &'a Metrics,
}

/// Runs the seven agents and compares.
pub(super) async fn verify(
    loaded: &[Loaded],
    spec: StrategySpec,
    trade: &TradeArgs,
    expected: &Expected<'_>,
) -> Result<(), CliError> {
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
    if report.equity != expected.equity {
        return Err(differs(format!("final equity {} and {}", expected.equity, report.equity)));
    }
    let m = expected.metrics;
    if (report.sharpe, report.max_drawdown, report.trades) != (m.sharpe, m.drawdown_max, m.trades) {
        return Err(differs("the metrics of the equity at each close".into()));
    }
    Ok(())
}

/// The desk with nothing of risk in the way, as a back-test has none.
fn desk_config(loaded: &[Loaded], spec: StrategySpec, trade: &TradeArgs) -> DeskConfig {
    let risk = RiskLimits {
        position_max_ppm: u32::MAX,
        gross_max_ppm: u32::MAX,
        orders_per_hour_max: u32::MAX,
        price_band_ppm: u32::MAX,
        stale_after_ms: Some(i64::MAX),
        ..RiskLimits::default()
    };
    DeskConfig {
        series: loaded.iter().map(|loaded| loaded.key.to_string()).collect(),
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
    loaded: &[Loaded],
    spec: StrategySpec,
    trade: &TradeArgs,
) -> Result<(Vec<(usize, Trade)>, DeskReport), CliError> {
    let mut blocks = Vec::new();
    for Loaded { key, candles, scale } in loaded {
        let bad = |source| CliError::Block { series: key.to_string(), start: 0, source };
        blocks.extend(blocks_of(key, candles, *scale).map_err(bad)?);
    }
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
    let events = reader.journal_tail(&interest, usize::MAX).await?;
    let trade = |changed: &PositionChanged| {
        let place = loaded.iter().position(|loaded| loaded.key == changed.series)?;
        Some((place, changed.trade?))
    };
    let trades = events.iter().filter_map(|committed| trade(committed.event.get::<PositionChanged>().ok()?)).collect();
    runtime.stop(std::time::Duration::from_secs(30)).await?;
    Ok((trades, report))
}
