//! The desk: seven agents as one team, and its configuration.
//!
//! `feed → indicator → signal → risk → execution → portfolio → optimizer`, in this order, on the clock of their events:
//! a back-test, a paper run and a replay go through the same code and differ in where the candles come from.
//!
//! # Examples
//! ```
//! use atra_agents::desk::{DeskConfig, desk};
//! use atra_agents::candles::CandleSource;
//! use atra_runtime::{Query, sim::Swarm};
//! # let tokio = tokio::runtime::Builder::new_current_thread().build().unwrap();
//! # tokio.block_on(async {
//! let series = vec!["BTCUSDT.15m".parse().unwrap()];
//! let candles = CandleSource::Simulator { seed: 7, series, candles: Some(500) };
//! let config: DeskConfig = serde_json::from_str(r#"{"strategy": {"name": "sma-cross", "fast": 10, "slow": 20}}"#).unwrap();
//! let team = desk(config, candles).await.unwrap();
//! # drop(tokio::task::spawn_blocking(move || {
//! let report = Swarm::new(1).team(team).run(|runtime| async move {
//!     runtime.idle().await;
//!     runtime.query("portfolio", Query { name: "report".into(), arguments: serde_json::Value::Null }).await.unwrap()
//! }).unwrap().output;
//! assert_eq!(report["candles"], 500);
//! # }).await.unwrap());
//! # });
//! ```

use std::sync::Arc;

use atra_runtime::{Clock, Limits, Team};
use atra_storage::StoreError;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{
    candles::{CandleSource, Wanted, series_of},
    execution::Execution,
    feed::Feed,
    indicator::Indicator,
    market::{
        candle::{Interval, Scale, SeriesKey},
        fill::Exits,
        money::{Money, MoneyError, Terms},
        risk::RiskLimits,
        strategy::{Maker, Side, StrategyError, StrategySpec},
        walkforward::{ConfigError, GateLimits, Pair, WalkForwardConfig},
    },
    optimizer::{Idle, Optimizer, OptimizerPlan},
    portfolio::PortfolioAgent,
    risk::RiskAgent,
    signal::{Signal, SignalPlan},
};

/// The name of the team.
pub const TEAM: &str = "desk";
/// A whole, in parts per million.
const WHOLE_PPM: u32 = 1_000_000;

/// What a desk trades, with what, and within which limits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DeskConfig {
    /// Series (`BTCUSDT.15m`) or tickers (`BTCUSDT`, all its intervals). Default: none, which is every series that there is.
    pub series: Vec<String>,
    /// First open time wanted, in milliseconds UTC. Default: from the beginning.
    pub from: Option<i64>,
    /// Open time from which on candles are not wanted, in milliseconds UTC. Default: to the end.
    pub to: Option<i64>,
    /// Candles a second over all series. Default: none, which is as fast as it goes.
    pub speed: Option<u32>,
    /// Open time from which on `speed` holds, in milliseconds UTC: what is before it goes as fast as it can. Default:
    /// from the beginning.
    pub speed_from: Option<i64>,
    /// Cash at the start, in the quote currency. Default: 10,000.
    pub cash: Money,
    /// Fee of a fill, in parts per million of its notional. Default: 1,000, which is 0.1 %.
    pub fee_ppm: u32,
    /// Decimals of a quantity: the smallest is 10^−this units. Default: 3.
    pub lot_decimals: u8,
    /// How much worse a market order is filled than the price that the candle shows, in parts per million. Default: 0.
    pub slippage_ppm: u32,
    /// Where positions are left unasked: shares of the entry price in parts per million, 0 for none. Default: none.
    pub exits: Exits,
    /// A fixed strategy. Default: none, which is a cross of two simple averages with the optimizer's parameters.
    pub strategy: Option<StrategySpec>,
    /// Whether a fixed strategy may go short, whatever its own `side` says. Default: false, which leaves it its side.
    pub short: bool,
    /// Whether what is open after the last candle is closed at the last close, as a back-test does. Default:
    /// false. It is for a back-test that ends here: if candles are added later, a position that was closed this way and is
    /// still wanted is opened again, at the cost of the fees.
    pub close_at_end: bool,
    /// Limits of risk. With several series, a series' position is also limited to its equal part of the equity.
    pub risk: RiskLimits,
    /// The optimizer.
    pub optimizer: OptimizerConfig,
}

impl Default for DeskConfig {
    fn default() -> Self {
        Self {
            series: Vec::new(),
            from: None,
            to: None,
            speed: None,
            speed_from: None,
            cash: Money::whole(10_000),
            fee_ppm: 1_000,
            lot_decimals: 3,
            slippage_ppm: 0,
            exits: Exits::default(),
            strategy: None,
            short: false,
            close_at_end: false,
            risk: RiskLimits::default(),
            optimizer: OptimizerConfig::default(),
        }
    }
}

/// What the optimizer searches, and what it may change.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OptimizerConfig {
    /// Whether it runs. Default: true. A fixed strategy turns it off; without either, sma-cross 10/20 is fixed.
    pub enabled: bool,
    /// The candidates, as `[fast, slow]` periods. Default: 33 pairs from 8/32 to 384/1536.
    pub pairs: Vec<Pair>,
    /// Candles looked back on, rounded up to whole steps of six hours. Default: 8,640, 90 days of quarter hours.
    pub train: usize,
    /// Newest candles kept out of `train`, to compare challenger and incumbent on; rounded up likewise. Default: 0, which
    /// compares them on `train`.
    pub validation: usize,
    /// The gates that a challenger must pass.
    pub gates: GateLimits,
}

impl Default for OptimizerConfig {
    fn default() -> Self {
        let WalkForwardConfig { pairs, train, validation, .. } = WalkForwardConfig::default();
        Self { enabled: true, pairs, train, validation, gates: GateLimits::default() }
    }
}

impl DeskConfig {
    /// Checks what can be checked without candles: span, cash, terms, strategy, and the optimizer's lengths for quarter
    /// hours.
    ///
    /// # Errors
    /// [`DeskError`] with the invalid value.
    pub fn check(&self) -> Result<(), DeskError> {
        self.account()?;
        const QUARTER: i64 = 900_000;
        let series = Interval::from_millis(QUARTER).and_then(|interval| SeriesKey::new("CHECK", interval).ok());
        deciders(self, series.as_slice()).map(drop)
    }

    /// The account, after checks of span and amounts.
    fn account(&self) -> Result<Account, DeskError> {
        if let (Some(from), Some(to)) = (self.from, self.to)
            && from >= to
        {
            return Err(DeskError::Span { from, to });
        }
        if self.cash <= Money::ZERO {
            return Err(DeskError::Cash(self.cash));
        }
        if self.cash > Money::START_MAX {
            return Err(DeskError::CashMax { cash: self.cash });
        }
        let Self { cash, fee_ppm, lot_decimals, close_at_end, slippage_ppm, exits, .. } = *self;
        let account = Account { cash, close_at_end, exits, lot_decimals, fee_ppm, slippage_ppm };
        account.terms(Scale::default())?;
        Ok(account)
    }
}

/// Why a desk cannot be set up.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum DeskError {
    /// A series or ticker is not there.
    #[error("no series {wanted:?}; there are: {}", known.join(", "))]
    UnknownSeries {
        /// What was asked for.
        wanted: String,
        /// What there is.
        known: Vec<String>,
    },
    /// There is nothing to trade.
    #[error("there are no candles: import some, or use the simulator")]
    NoSeries,
    /// The span is empty.
    #[error("from ({from}) is not before to ({to})")]
    Span {
        /// As configured.
        from: i64,
        /// As configured.
        to: i64,
    },
    /// Fee or lot size make no sense.
    #[error(transparent)]
    Money(#[from] MoneyError),
    /// The cash at the start is not above 0.
    #[error("cash is {0}, not above 0")]
    Cash(Money),
    /// The initial cash is too close to the largest amount.
    #[error("cash is {cash}, above the limit of {}", Money::START_MAX)]
    CashMax {
        /// As configured.
        cash: Money,
    },
    /// The fixed strategy cannot be built.
    #[error(transparent)]
    Strategy(#[from] StrategyError),
    /// The optimizer's grid or lengths cannot be run.
    #[error("optimizer, series {series}")]
    Optimizer {
        /// For which series.
        series: SeriesKey,
        /// What is wrong.
        #[source]
        source: ConfigError,
    },
    /// The store could not be read.
    #[error("series could not be read from the store")]
    Store(#[from] StoreError),
}

/// What broker and portfolio share: the account, and what trading costs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Account {
    pub(crate) cash: Money,
    pub(crate) close_at_end: bool,
    pub(crate) exits: Exits,
    lot_decimals: u8,
    fee_ppm: u32,
    slippage_ppm: u32,
}

impl Account {
    pub(crate) fn terms(&self, scale: Scale) -> Result<Terms, MoneyError> {
        Terms::new(scale, self.lot_decimals, self.fee_ppm)?.with_slippage(self.slippage_ppm)
    }
}

/// The most inputs of a step of many series.
const STEP_INPUTS_MAX: usize = 16_384;

/// The limits of a desk of so many series: `inputs_max` counts for each of them, up to 16,384. Whoever decides on a candle
/// writes the state of its series once a step; with a step of a few candles each, the state would be most of what is written.
/// What is journalled does not depend on it.
#[must_use]
pub fn limits_for(limits: &Limits, series: usize) -> Limits {
    let most = limits.inputs_max.max(STEP_INPUTS_MAX);
    Limits { inputs_max: limits.inputs_max.saturating_mul(series.max(1)).min(most), ..limits.clone() }
}

/// Builds the team of seven. Reads the list of series from the store; nothing runs yet.
///
/// # Errors
/// [`DeskError`]: a series that is not there, or a setting that makes no sense.
///
/// # Cancel safety
/// Reads only.
pub async fn desk(config: DeskConfig, candles: CandleSource) -> Result<Team, DeskError> {
    build(config, candles, None).await
}

/// As [`desk`], with a strategy of the program's own: any [`Strategy`](crate::market::strategy::Strategy) that serialises.
/// Whoever resumes the journal must bring the same one.
///
/// # Errors
/// As [`desk`].
///
/// # Cancel safety
/// Reads only.
pub async fn desk_with(config: DeskConfig, candles: CandleSource, own: Maker) -> Result<Team, DeskError> {
    build(config, candles, Some(own)).await
}

async fn build(config: DeskConfig, candles: CandleSource, own: Option<Maker>) -> Result<Team, DeskError> {
    let series = choose(&config.series, known(&candles).await?)?;
    let account = config.account()?;
    let DeskConfig { from, to, speed, speed_from, close_at_end, .. } = config;
    let (signal, optimizer) = match own {
        Some(own) => (SignalPlan::Own(own), None),
        None => deciders(&config, &series)?,
    };
    let share = WHOLE_PPM / u32::try_from(series.len()).unwrap_or(u32::MAX).max(1);
    let position_max_ppm =
        if series.len() > 1 { config.risk.position_max_ppm.min(share) } else { config.risk.position_max_ppm };
    let limits = RiskLimits { position_max_ppm, ..config.risk };
    let own_limits = limits_for(&Limits::default(), series.len());
    let wanted = Wanted { series, from, to, speed, speed_from };
    let team = Team::new(TEAM)
        .clock(Clock::Events)
        .limits(own_limits)
        .agent(move || Feed::new(candles.clone(), wanted.clone()))
        .agent(Indicator::default)
        .agent(move || Signal::new(signal.clone()))
        .agent(move || RiskAgent::new(limits, close_at_end))
        .agent(move || Execution::new(account))
        .agent(move || PortfolioAgent::new(account, limits));
    Ok(match optimizer {
        Some(plan) => team.agent(move || Optimizer::new(plan.clone())),
        None => team.agent(|| Idle),
    })
}

/// Who decides: a fixed strategy, or the optimizer.
fn deciders(config: &DeskConfig, series: &[SeriesKey]) -> Result<(SignalPlan, Option<Arc<OptimizerPlan>>), DeskError> {
    if config.strategy.is_some() || !config.optimizer.enabled {
        let spec = config.strategy.unwrap_or(StrategySpec::SmaCross { fast: 10, slow: 20, side: Side::LongOnly });
        let spec = if config.short { spec.with_side(Side::LongShort) } else { spec };
        spec.build()?;
        return Ok((SignalPlan::Fixed(spec), None));
    }
    let OptimizerConfig { pairs, train, validation, gates, .. } = config.optimizer.clone();
    let mut lengths: Vec<usize> = pairs.iter().flat_map(|pair| [pair.fast, pair.slow]).collect();
    lengths.sort_unstable();
    lengths.dedup();
    let walk = WalkForwardConfig { pairs, train, validation, fee_ppm: config.fee_ppm, ..WalkForwardConfig::default() };
    let plan = OptimizerPlan { walk, gates };
    for series in series {
        let check = plan.walk_of(series).check();
        check.map_err(|source| DeskError::Optimizer { series: series.clone(), source })?;
    }
    Ok((SignalPlan::Promoted(lengths.into()), Some(Arc::new(plan))))
}

/// Every series that the source has, sorted.
async fn known(candles: &CandleSource) -> Result<Vec<SeriesKey>, DeskError> {
    let mut known: Vec<SeriesKey> = match candles {
        CandleSource::Store(store) => store.series().await?.iter().filter_map(|row| series_of(&row.series)).collect(),
        CandleSource::Simulator { series, .. } => series.clone(),
    };
    known.sort_unstable();
    known.dedup();
    Ok(known)
}

/// The series that are wanted, sorted; all if none is named.
fn choose(wanted: &[String], known: Vec<SeriesKey>) -> Result<Vec<SeriesKey>, DeskError> {
    if known.is_empty() {
        return Err(DeskError::NoSeries);
    }
    if wanted.is_empty() {
        return Ok(known);
    }
    let mut chosen = Vec::new();
    for wanted in wanted {
        let before = chosen.len();
        chosen.extend(known.iter().filter(|key| key.as_str() == wanted || key.ticker() == wanted).cloned());
        if chosen.len() == before {
            let known = known.iter().map(SeriesKey::to_string).collect();
            return Err(DeskError::UnknownSeries { wanted: wanted.clone(), known });
        }
    }
    chosen.sort_unstable();
    chosen.dedup();
    Ok(chosen)
}

#[cfg(test)]
mod tests {
    use atra_bus::{EventType, Filter, Interest};
    use atra_runtime::sim::Swarm;
    use atra_storage::{MemoryDisk, Read};

    use super::*;
    use crate::{events::TargetChanged, market::broker::Fill};

    /// Signals and fills of a desk with or without its risk agent.
    fn run(with_risk: bool) -> (usize, usize) {
        let series: Vec<SeriesKey> = vec!["AAA.15m".parse().unwrap()];
        let candles = CandleSource::Simulator { seed: 11, series: series.clone(), candles: Some(1_500) };
        let wanted = Wanted { series, from: None, to: None, speed: None, speed_from: None };
        let DeskConfig { cash, fee_ppm, lot_decimals, exits, .. } = DeskConfig::default();
        let account = Account { cash, close_at_end: false, exits, lot_decimals, fee_ppm, slippage_ppm: 0 };
        let spec = StrategySpec::SmaCross { fast: 10, slow: 20, side: Side::LongOnly };
        let mut team = Team::new(TEAM)
            .clock(Clock::Events)
            .agent(move || Feed::new(candles.clone(), wanted.clone()))
            .agent(Indicator::default)
            .agent(move || Signal::new(SignalPlan::Fixed(spec)));
        if with_risk {
            team = team.agent(|| RiskAgent::new(RiskLimits::default(), false));
        }
        let team = team
            .agent(move || Execution::new(account))
            .agent(move || PortfolioAgent::new(account, RiskLimits::default()));
        let disk = MemoryDisk::new();
        let done = Swarm::new(1).on(&disk).team(team).run(|runtime| async move { runtime.idle().await });
        done.unwrap();
        let tokio = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let count = |filter: Filter| {
            let interest = Interest::in_topics(vec![filter]);
            tokio.block_on(disk.journal_tail(&interest, usize::MAX)).unwrap().len()
        };
        (count(Filter::exactly(&TargetChanged::TOPIC)), count(Filter::exactly(&Fill::TOPIC)))
    }

    #[test]
    fn a_desk_without_its_risk_agent_trades_nothing() {
        let (signals, fills) = run(true);
        assert!(signals > 20 && fills > 20, "{signals} signals, {fills} fills");
        assert_eq!(run(false), (signals, 0));
    }
}
