//! Every event of the desk: what it says, and whether it is journalled.
//!
//! A candle's event is known at its open time + interval; `time` in a payload is always the *open time* of the
//! candle that it belongs to, in milliseconds UTC. By that the agents join what belongs together: rounds are breadth
//! first, so who hears what first says nothing. Prices are in ticks of the series' scale, sizes in lots.
//!
//! | topic | journalled | published by |
//! |---|---|---|
//! | `market.candle` `market.end` | yes (inputs) | feed's source |
//! | `market.gap` `market.quality` `market.stalled` | yes | feed |
//! | `market.features` | no | indicator |
//! | `signal.target` | yes, on a change | signal |
//! | `risk.approved` `risk.denied` `risk.state` | yes | risk |
//! | `order.submitted` `order.rejected` `order.fill` | yes | execution |
//! | `market.mark` `market.closed` | no | execution |
//! | `portfolio.position` | yes, on a change | portfolio |
//! | `portfolio.equity` | no, one a candle | portfolio |
//! | `portfolio.equity.daily` | yes, one a day and one a fill | portfolio |
//! | `portfolio.report` | yes, at the end | portfolio |
//! | `optimizer.proposed` `.promoted` `.rejected` `.rolled_back` | yes | optimizer |
//! | `desk.out_of_range` | no | execution, portfolio |
//! | `risk.kill` `risk.resume` `optimizer.freeze` | yes | callers |

use std::fmt;

use atra_bus::{EventType, Topic};
use serde::{Deserialize, Serialize};

use crate::market::{
    broker::Fill,
    calendar::minute,
    candle::{Candle, Scale, SeriesCandle, SeriesKey},
    fill::Trade,
    indicators::Features,
    money::Money,
    risk::{DenyCode, RiskState},
    strategy::{Reason, StrategySpec},
    walkforward::Gate,
};
use crate::report::DeskReport;

// === feed ===

impl EventType for SeriesCandle {
    const TOPIC: Topic = Topic::literal("market.candle");
    // One for each candle: shared, not decoded.
    const EXACT: Option<fn(&Self, &Self) -> bool> = Some(PartialEq::eq);
}

/// Candles are missing between two that came.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// Which series.
    pub series: SeriesKey,
    /// Open time of the first candle that is missing.
    pub from: i64,
    /// Open time of the candle after the gap.
    pub to: i64,
    /// How many are missing.
    pub missing: u64,
}

impl EventType for Gap {
    const TOPIC: Topic = Topic::literal("market.gap");
}

/// What is odd about a candle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum QualityIssue {
    /// It is not later than the one before it: refused, nobody decides on it.
    OutOfOrder,
    /// Its prices are not those of a candle: refused, nobody decides on it.
    Insane,
    /// Its scale is not the one that the series began with: refused.
    Rescaled,
    /// Nothing was traded. Said when a run of such candles begins.
    ZeroVolume,
    /// The open is more than a tenth away from the close before it.
    Jump,
}

/// A candle is odd, or was refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quality {
    /// Which series.
    pub series: SeriesKey,
    /// Open time of the candle.
    pub time: i64,
    /// What is odd.
    pub issue: QualityIssue,
}

impl EventType for Quality {
    const TOPIC: Topic = Topic::literal("market.quality");
}

/// A series has said nothing for a while, though others have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stalled {
    /// Which series.
    pub series: SeriesKey,
    /// Open time of its last candle.
    pub last: i64,
}

impl EventType for Stalled {
    const TOPIC: Topic = Topic::literal("market.stalled");
}

/// The candles have ended: the last input of the feed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// When the last candle became known; `None` if there was none.
    pub last_known_at: Option<i64>,
}

impl EventType for End {
    const TOPIC: Topic = Topic::literal("market.end");
}

// === indicator and signal ===

/// The fixed set of indicator values after a candle.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FeaturesAt {
    /// Which series.
    pub series: SeriesKey,
    /// How its ticks are counted.
    pub scale: Scale,
    /// The candle that they include.
    pub candle: CandleJson,
    /// The values; `None` is not ready yet.
    pub features: Features,
}

impl EventType for FeaturesAt {
    const TOPIC: Topic = Topic::literal("market.features");
    const DURABLE: bool = false;
    // One for each candle: shared, not decoded.
    const EXACT: Option<fn(&Self, &Self) -> bool> = Some(PartialEq::eq);
}

/// A candle inside another payload, as `[time, open, high, low, close, volume]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "[i64; 6]", into = "[i64; 6]")]
pub struct CandleJson(pub Candle);

impl From<[i64; 6]> for CandleJson {
    fn from([time, open, high, low, close, volume]: [i64; 6]) -> Self {
        Self(Candle { time, open, high, low, close, volume })
    }
}

impl From<CandleJson> for [i64; 6] {
    fn from(CandleJson(c): CandleJson) -> Self {
        [c.time, c.open, c.high, c.low, c.close, c.volume]
    }
}

/// Why a target changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum TargetReason {
    /// A rule of the strategy.
    Rule(Reason),
    /// Other parameters came into force.
    NewParameters,
    /// The optimizer says that no parameters are good enough.
    NoParameters,
    /// The parameters were not confirmed in time.
    Expired,
}

/// What a series' position should be, decided at the close of a candle. Said when it changes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TargetChanged {
    /// Which series.
    pub series: SeriesKey,
    /// Open time of the candle at whose close it was decided.
    pub time: i64,
    /// −1 (all in, short) to 1 (all in, long); 0 is flat.
    pub target: f64,
    /// Distance of the close from its mean of 20, in average true ranges; `None` until both are ready.
    pub strength: Option<f64>,
    /// The strategy with its parameters; `None` if none is in force.
    pub strategy: Option<StrategySpec>,
    /// Version of the parameters: 0 for those of the configuration.
    pub version: u64,
    /// Why.
    pub reason: TargetReason,
}

impl EventType for TargetChanged {
    const TOPIC: Topic = Topic::literal("signal.target");
}

// === risk ===

/// A target may be traded.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Approved {
    /// Which series.
    pub series: SeriesKey,
    /// Fills only candles that open after this time: the candle that it was decided on.
    pub time: i64,
    /// The target.
    pub target: f64,
    /// The most that the new position may be worth at its entry.
    pub notional_max: Money,
    /// Whether risk itself closes the position, unasked.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub forced: bool,
}

impl EventType for Approved {
    const TOPIC: Topic = Topic::literal("risk.approved");
}

/// A target may not be traded.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Denied {
    /// Which series.
    pub series: SeriesKey,
    /// Open time of the candle that the target was decided on.
    pub time: i64,
    /// The target.
    pub target: f64,
    /// Why not.
    pub code: DenyCode,
}

impl EventType for Denied {
    const TOPIC: Topic = Topic::literal("risk.denied");
}

/// What the desk may do has changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateChanged {
    /// What it may do now.
    pub state: RiskState,
    /// Whether a person stopped it.
    pub killed: bool,
    /// Equity at the change, if known.
    pub equity: Option<Money>,
    /// Series that are stopped by their own losses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stopped: Vec<SeriesKey>,
    /// The desk or series that may not open positions now, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub halts: Vec<Halt>,
}

impl EventType for StateChanged {
    const TOPIC: Topic = Topic::literal("risk.state");
}

/// A desk or series that may not open positions, or may not trade at all.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Halt {
    /// Which series; the whole desk if `None`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub series: Option<SeriesKey>,
    /// Time of the event that led to it, in milliseconds UTC.
    pub since: i64,
    /// Who or what halted it.
    pub by: HaltedBy,
    /// Why.
    pub reason: String,
}

impl fmt::Display for Halt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = self.series.as_ref().map_or("desk", SeriesKey::as_str);
        write!(f, "{what} halted since {} UTC by {}", minute(self.since), self.by)?;
        if self.reason.is_empty() { Ok(()) } else { write!(f, ": {}", self.reason) }
    }
}

/// Who or what halted the desk or a series.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum HaltedBy {
    /// A caller, by `risk.kill`. Only this halt forbids closing positions too.
    Caller(String),
    /// `drawdown_max_ppm`.
    DrawdownMax,
    /// `series_drawdown_max_ppm`.
    SeriesDrawdownMax,
    /// `daily_loss_max_ppm`: until the next UTC day.
    DailyLossMax,
    /// The equity is not above 0; ends when it is.
    NoMoney,
    /// An amount exceeded the limit of an account.
    AmountRange,
}

impl fmt::Display for HaltedBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Caller(name) => return write!(f, "caller {name}"),
            Self::DrawdownMax => "limit drawdown_max_ppm",
            Self::SeriesDrawdownMax => "limit series_drawdown_max_ppm",
            Self::DailyLossMax => "limit daily_loss_max_ppm",
            Self::NoMoney => "an equity that is not above 0",
            Self::AmountRange => "the range of amounts",
        })
    }
}

/// A fill or a mark was ignored, since an amount would have exceeded its limit. Risk halts the desk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutOfRange {
    /// Which series.
    pub series: SeriesKey,
    /// Open time of the candle.
    pub time: i64,
    /// Which action was not taken, and why.
    pub reason: String,
}

impl EventType for OutOfRange {
    const TOPIC: Topic = Topic::literal("desk.out_of_range");
    const DURABLE: bool = false;
}

/// A person stops all trading. Published by a caller.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kill {
    /// Why, for the journal.
    #[serde(default)]
    pub reason: String,
}

impl EventType for Kill {
    const TOPIC: Topic = Topic::literal("risk.kill");
}

/// A person lets the desk go on. Published by a caller.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resume {
    /// Why, for the journal.
    #[serde(default)]
    pub reason: String,
}

impl EventType for Resume {
    const TOPIC: Topic = Topic::literal("risk.resume");
}

// === execution ===

/// An order waits for the next open.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Submitted {
    /// Client id.
    pub id: String,
    /// Which series.
    pub series: SeriesKey,
    /// Fills only candles that open after this time.
    pub time: i64,
    /// The target.
    pub target: f64,
}

impl EventType for Submitted {
    const TOPIC: Topic = Topic::literal("order.submitted");
}

/// An approval did not become an order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderRejected {
    /// Which series.
    pub series: SeriesKey,
    /// The time of the approval.
    pub time: i64,
    /// Why, in a sentence.
    pub reason: String,
}

impl EventType for OrderRejected {
    const TOPIC: Topic = Topic::literal("order.rejected");
}

impl EventType for Fill {
    const TOPIC: Topic = Topic::literal("order.fill");
}

/// A candle has closed at the broker, after its fills.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// Which series.
    pub series: SeriesKey,
    /// How its ticks are counted.
    pub scale: Scale,
    /// The candle.
    pub candle: CandleJson,
}

impl EventType for Mark {
    const TOPIC: Topic = Topic::literal("market.mark");
    const DURABLE: bool = false;
    // One for each candle: shared, not decoded.
    const EXACT: Option<fn(&Self, &Self) -> bool> = Some(PartialEq::eq);
}

/// The broker has done what it does at the end of the candles, after its last fills.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Closed {}

impl EventType for Closed {
    const TOPIC: Topic = Topic::literal("market.closed");
    const DURABLE: bool = false;
}

// === portfolio ===

/// A position changed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PositionChanged {
    /// Which series.
    pub series: SeriesKey,
    /// Open time of the candle of the fill.
    pub time: i64,
    /// Lots now; negative is short.
    pub lots: i64,
    /// Cash now.
    pub cash: Money,
    /// The trade that was closed, if one was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trade: Option<Trade>,
}

impl EventType for PositionChanged {
    const TOPIC: Topic = Topic::literal("portfolio.position");
}

/// The equity after a candle of one series.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Equity {
    /// Whose candle.
    pub series: SeriesKey,
    /// Open time of the candle.
    pub time: i64,
    /// Its close, in ticks.
    pub close: i64,
    /// Cash and positions.
    pub equity: Money,
    /// Sum of the absolute values of all positions.
    pub gross: Money,
    /// Value of the series' position; negative is short.
    pub held: Money,
    /// Value of the candle's volume at its close; `None` if the candle has no volume.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traded: Option<Money>,
}

impl EventType for Equity {
    const TOPIC: Topic = Topic::literal("portfolio.equity");
    const DURABLE: bool = false;
    // One for each candle: shared, not decoded.
    const EXACT: Option<fn(&Self, &Self) -> bool> = Some(PartialEq::eq);
}

/// The equity at the end of a UTC day, or after a fill.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DailyEquity {
    /// Open time of the candle of the mark.
    pub time: i64,
    /// Cash and positions.
    pub equity: Money,
    /// Cash.
    pub cash: Money,
    /// Fall from the peak, as a positive share.
    pub drawdown: f64,
}

impl EventType for DailyEquity {
    const TOPIC: Topic = Topic::literal("portfolio.equity.daily");
}

impl EventType for DeskReport {
    const TOPIC: Topic = Topic::literal("portfolio.report");
}

// === optimizer ===

/// Parameters look good enough to be judged.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Proposed {
    /// Which series.
    pub series: SeriesKey,
    /// Open time of the last candle that was looked at.
    pub time: i64,
    /// The candidate.
    pub strategy: Option<StrategySpec>,
    /// Annualised Sharpe ratio over the training window.
    pub train_sharpe: Option<f64>,
    /// When it may be promoted, if it is still the choice.
    pub earliest: i64,
}

impl EventType for Proposed {
    const TOPIC: Topic = Topic::literal("optimizer.proposed");
}

/// Parameters come into force.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Promoted {
    /// Which series.
    pub series: SeriesKey,
    /// 1, 2, 3 … per series.
    pub version: u64,
    /// The parameters; `None` is to stay flat.
    pub strategy: Option<StrategySpec>,
    /// In force for decisions at the close of the candles that open at this time or later.
    pub valid_from: i64,
    /// Not in force for candles that open at this time or later, unless confirmed.
    pub expires_at: i64,
    /// Annualised Sharpe ratio over the training window; `None` for flat and for a roll-back.
    pub train_sharpe: Option<f64>,
    /// Whether the parameters are those of the version before, confirmed.
    pub confirmed: bool,
}

impl EventType for Promoted {
    const TOPIC: Topic = Topic::literal("optimizer.promoted");
}

/// A gate refused a challenger. Said when the reason differs from the series' last one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProposalRejected {
    /// Which series.
    pub series: SeriesKey,
    /// Open time of the last candle that was looked at.
    pub time: i64,
    /// The candidate; `None` is to stay flat.
    pub strategy: Option<StrategySpec>,
    /// Which gate.
    pub gate: Gate,
}

impl EventType for ProposalRejected {
    const TOPIC: Topic = Topic::literal("optimizer.rejected");
}

/// The parameters in force lost too much: the last good ones come back.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RolledBack {
    /// Which series.
    pub series: SeriesKey,
    /// Open time of the last candle that was looked at.
    pub time: i64,
    /// The version that comes instead; `optimizer.promoted` tells the rest.
    pub version: u64,
    /// Fall of its realised curve from the peak, as a positive share.
    pub drawdown: f64,
}

impl EventType for RolledBack {
    const TOPIC: Topic = Topic::literal("optimizer.rolled_back");
}

/// A person freezes the parameters as they are, or lets the optimizer go on. Published by a caller.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Freeze {
    /// Whether they are frozen from now on.
    pub frozen: bool,
}

impl EventType for Freeze {
    const TOPIC: Topic = Topic::literal("optimizer.freeze");
}
