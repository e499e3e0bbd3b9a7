//! Risk: may this target be traded, and how large?
//!
//! Pure decisions over a small state. It fails closed: without equity, price or time that it can trust it denies, and
//! while halted it denies whatever opens a position. Closing is always allowed, except by a halted kill switch that a
//! person set, because a position that cannot be left is the greater risk.
//!
//! | state | opening | closing |
//! |---|---|---|
//! | active | as the limits say | yes |
//! | reducing | no | yes |
//! | halted | no | yes, unless by the kill switch |
//!
//! `active → reducing` when the daily loss is reached (back on the next UTC day); `→ halted` when the drawdown stop is
//! reached or the kill switch is set; out of halted only by a person ([`Risk::resume`]). A single series can be stopped
//! likewise by what it has lost itself.

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};

use super::candle::{Interval, SeriesKey};
use super::money::Money;
use super::stops::Stops;

const DAY_MILLIS: i64 = 86_400_000;
/// How old is too old, if nothing is said: two hours, in which a market that never closes has moved.
const STALE_AFTER_MS: i64 = 7_200_000;
/// Four candles: over a weekend and a holiday three of daily ones are missing.
const STALE_AFTER_CANDLES: i64 = 4;
/// The most order times kept for the rate: a limit above it is none.
const ORDERS_KEPT_MAX: usize = 1_024;

/// The limits, each with a default that lets a single-series desk trade all in. Shares are in parts per million.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RiskLimits {
    /// The most that one order may open. Default: no limit.
    pub notional_max: Money,
    /// The most that one series' position may be, as a share of the equity. Default: all of it.
    pub position_max_ppm: u32,
    /// The most that all positions together may be, as a share of the equity. Default: all of it.
    pub gross_max_ppm: u32,
    /// Fall of the equity from its peak that halts the desk. Default: 100 %, which is never.
    pub drawdown_max_ppm: u32,
    /// Fall of what one series has made from its peak, as a share of the account's equity, that closes the series and keeps it
    /// closed. Default: 100 %, which is never.
    pub series_drawdown_max_ppm: u32,
    /// Loss since the day began, as a share of the equity then, beyond which positions are only reduced. Default: 100 %.
    pub daily_loss_max_ppm: u32,
    /// Orders an hour over all series. Default: 120.
    pub orders_per_hour_max: u32,
    /// Milliseconds without a new position after a losing trade of the series. Default: none.
    pub cool_down_ms: i64,
    /// How far a close may be from the one before it, as a share. Default: 50 %; beyond it the price is not trusted.
    pub price_band_ppm: u32,
    /// The largest amount that one order may open, as a share of the traded value of the candle on which it was
    /// decided; a candle without volume sets no limit. Default: no limit, since files count volume in units, contracts
    /// or ticks; `atra run` sets a tenth for its simulated market.
    pub volume_max_ppm: Option<u32>,
    /// How old the equity may be when a target comes, and for how long the series may have been silent before the candle
    /// that the target was decided on, in milliseconds. Default: two hours, or four candles if that is longer, so that daily
    /// candles may have weekends. Shorter candles of a market with nights and weekends need more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stale_after_ms: Option<i64>,
}

impl Default for RiskLimits {
    fn default() -> Self {
        Self {
            notional_max: Money::MAX,
            position_max_ppm: 1_000_000,
            gross_max_ppm: 1_000_000,
            drawdown_max_ppm: 1_000_000,
            series_drawdown_max_ppm: 1_000_000,
            daily_loss_max_ppm: 1_000_000,
            orders_per_hour_max: 120,
            cool_down_ms: 0,
            price_band_ppm: 500_000,
            volume_max_ppm: None,
            stale_after_ms: None,
        }
    }
}

impl RiskLimits {
    /// Whether what each series has made has to be known.
    fn follows_series(&self) -> bool {
        self.series_drawdown_max_ppm < 1_000_000
    }

    /// The same limits for an order that was decided on a candle with this traded value.
    #[must_use]
    pub fn with_volume(&self, traded: Option<Money>) -> Self {
        let share = traded.zip(self.volume_max_ppm).map_or(Money::MAX, |(traded, ppm)| traded.share(ppm));
        Self { notional_max: self.notional_max.min(share), ..*self }
    }

    /// From when on candles of this length are too old.
    fn stale_after(&self, interval: Interval) -> i64 {
        self.stale_after_ms.unwrap_or_else(|| STALE_AFTER_MS.max(STALE_AFTER_CANDLES * interval.millis()))
    }
}

/// What the desk may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RiskState {
    /// Everything within the limits.
    #[default]
    Active,
    /// Close only, until the next day.
    Reducing,
    /// Close only, until a person resumes.
    Halted,
}

/// Why a target is denied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum DenyCode {
    /// The target is not a number between −1 and 1.
    BadTarget,
    /// No equity is known.
    NoEquity,
    /// The equity is zero or below.
    NoMoney,
    /// The equity, or the feed, is older than allowed.
    Stale,
    /// The last price is missing or left the band.
    PriceBand,
    /// A person set the kill switch.
    KillSwitch,
    /// The desk is halted.
    Halted,
    /// The desk only reduces.
    Reducing,
    /// The series has lost too much of its own.
    SeriesDrawdown,
    /// A losing trade was closed too recently.
    CoolDown,
    /// Too many orders in the last hour.
    OrderRate,
    /// The limits leave nothing to open.
    NoRoom,
}

impl DenyCode {
    /// As it stands in the journal.
    pub fn name(self) -> &'static str {
        match self {
            Self::BadTarget => "bad_target",
            Self::NoEquity => "no_equity",
            Self::NoMoney => "no_money",
            Self::Stale => "stale",
            Self::PriceBand => "price_band",
            Self::KillSwitch => "kill_switch",
            Self::Halted => "halted",
            Self::Reducing => "reducing",
            Self::SeriesDrawdown => "series_drawdown",
            Self::CoolDown => "cool_down",
            Self::OrderRate => "order_rate",
            Self::NoRoom => "no_room",
        }
    }
}

/// The answer to a target.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "decision", rename_all = "snake_case")]
pub enum RiskDecision {
    /// May be traded, up to a notional.
    Approved {
        /// The target, as asked.
        target: f64,
        /// The most that the new position may be worth.
        notional_max: Money,
    },
    /// May not be traded.
    Denied {
        /// Why.
        code: DenyCode,
    },
}

/// What the portfolio last said.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct EquityView {
    /// When it became known.
    pub time: i64,
    /// Cash and positions.
    pub equity: Money,
    /// Sum of the absolute values of all positions.
    pub gross: Money,
}

/// What risk knows of one series.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
struct SeriesRisk {
    close: Option<i64>,
    outside_band: bool,
    stalled: bool,
    /// When the last close became known.
    closed_at: Option<i64>,
    /// Whether the series was silent for too long before its last candle.
    #[serde(default)]
    after_gap: bool,
    cool_until: Option<i64>,
}

/// An approval that is not filled yet.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Waiting {
    /// It fills at the first candle that opens at this time or later.
    pub from: i64,
    /// The target.
    pub target: f64,
    /// What it may add to the value of all positions.
    pub reserved: Money,
}

/// State of the risk agent: small, and ordered wherever order can decide.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Risk {
    state: RiskState,
    killed: bool,
    view: Option<EquityView>,
    peak: Money,
    day: i64,
    day_start: Money,
    series: BTreeMap<SeriesKey, SeriesRisk>,
    /// Times of the approvals of the last hour.
    orders: VecDeque<i64>,
    /// Approvals that are not filled yet: what they may open is not there for others.
    #[serde(default)]
    waiting: BTreeMap<SeriesKey, Waiting>,
    #[serde(default, skip_serializing_if = "Stops::is_empty")]
    stops: Stops,
}

impl Risk {
    /// Active, and knowing nothing: it denies until it has seen equity and a price.
    pub fn new() -> Self {
        Self::default()
    }

    /// What the desk may do.
    pub fn state(&self) -> RiskState {
        self.state
    }

    /// Whether the kill switch is set.
    pub fn is_killed(&self) -> bool {
        self.killed
    }

    /// When the last equity became known.
    pub fn known_at(&self) -> Option<i64> {
        self.view.map(|view| view.time)
    }

    /// Takes the equity at `view.time`; answers the state if it changed.
    pub fn equity(&mut self, view: EquityView, limits: &RiskLimits) -> Option<RiskState> {
        let before = self.state;
        let day = view.time.div_euclid(DAY_MILLIS);
        if self.view.is_none() || day != self.day {
            // The day begins with the equity that the last one ended with.
            self.day_start = self.view.map_or(view.equity, |last| last.equity);
            self.day = day;
            if self.state == RiskState::Reducing {
                self.state = RiskState::Active;
            }
        }
        self.peak = self.peak.max(view.equity);
        if view.gross == Money::ZERO && limits.follows_series() {
            self.stops.flat(view.equity);
        }
        self.view = Some(view);
        if self.state == RiskState::Active && fell(self.day_start, view.equity, limits.daily_loss_max_ppm) {
            self.state = RiskState::Reducing;
        }
        if fell(self.peak, view.equity, limits.drawdown_max_ppm) {
            self.state = RiskState::Halted;
        }
        (self.state != before).then_some(self.state)
    }

    /// Takes a close of a series that became known at `time`, for the price band and for gaps. A close ends a stall, and
    /// what was approved before the candle's open has been filled.
    #[inline]
    pub fn close(&mut self, series: &SeriesKey, time: i64, close: i64, limits: &RiskLimits) {
        let opened_at = time.saturating_sub(series.interval().millis());
        if self.waiting.get(series).is_some_and(|waiting| waiting.from <= opened_at) {
            self.waiting.remove(series);
        }
        let entry = self.entry(series);
        entry.stalled = false;
        entry.after_gap =
            entry.closed_at.is_some_and(|last| opened_at.saturating_sub(last) > limits.stale_after(series.interval()));
        entry.closed_at = Some(time);
        entry.outside_band = entry.close.is_some_and(|last| {
            i128::from(close.abs_diff(last)) * 1_000_000 > i128::from(last) * i128::from(limits.price_band_ppm)
        });
        entry.close = Some(close);
    }

    /// Takes that the feed of a series has stalled: nothing opens until its next close.
    pub fn stalled(&mut self, series: &SeriesKey) {
        self.entry(series).stalled = true;
    }

    /// Takes a closed trade; a loss begins the cool-down of its series.
    pub fn trade(&mut self, series: &SeriesKey, time: i64, profit: Money, limits: &RiskLimits) {
        if profit.is_negative() && limits.cool_down_ms > 0 {
            self.entry(series).cool_until = Some(time.saturating_add(limits.cool_down_ms));
        }
    }

    /// Takes the cash of the account after a fill of a series.
    pub fn filled(&mut self, series: &SeriesKey, cash: Money, limits: &RiskLimits) {
        if limits.follows_series() {
            self.stops.fill(series, cash);
        }
    }

    /// Takes what a series holds at a close, after the equity of it; answers whether that stops the series. It then has to be
    /// closed.
    pub fn held(&mut self, series: &SeriesKey, held: Money, limits: &RiskLimits) -> bool {
        let Some(view) = self.view.filter(|_| limits.follows_series()) else { return false };
        self.stops.mark(series, held, view.equity, limits.series_drawdown_max_ppm)
    }

    /// Every series that is stopped by its own losses.
    pub fn stopped(&self) -> impl Iterator<Item = &SeriesKey> {
        self.stops.stopped()
    }

    /// The approval of a series that is not filled yet, if there is one.
    pub fn waiting(&self, series: &SeriesKey) -> Option<&Waiting> {
        self.waiting.get(series)
    }

    /// Every series whose approval to open is not filled yet.
    pub fn openings(&self) -> impl Iterator<Item = &SeriesKey> {
        self.waiting.iter().filter(|(_, waiting)| waiting.target != 0.0).map(|(series, _)| series)
    }

    /// Takes that a series is closed at its first open from `from` on, whatever was approved before.
    pub fn force_close(&mut self, series: &SeriesKey, from: i64) {
        self.waiting.insert(series.clone(), Waiting { from, target: 0.0, reserved: Money::ZERO });
    }

    /// Takes that the broker has dropped whatever waited.
    pub fn dropped(&mut self) {
        self.waiting.clear();
    }

    /// The greatest equity since the start or the last resume.
    pub fn peak(&self) -> Money {
        self.peak
    }

    /// The equity at the begin of the day.
    pub fn day_start(&self) -> Money {
        self.day_start
    }

    /// An amount exceeded its limit: no position opens until a person resumes.
    pub fn halt(&mut self) {
        self.state = RiskState::Halted;
    }

    /// A person stops everything.
    pub fn kill(&mut self) {
        (self.killed, self.state) = (true, RiskState::Halted);
    }

    /// A person lets the desk go on. The drawdown is counted anew from the equity now, or it would halt again at once.
    pub fn resume(&mut self) {
        (self.killed, self.state) = (false, RiskState::Active);
        self.stops.resume();
        if let Some(view) = self.view {
            (self.peak, self.day_start) = (view.equity, view.equity);
        }
    }

    /// Decides on a target of a series that became known at `time`. `held` is the value of its position now (negative is
    /// short). A target of 0 closes; so does, first, one on the other side – but it also opens, and is judged as opening.
    pub fn decide(
        &mut self,
        series: &SeriesKey,
        time: i64,
        target: f64,
        held: Money,
        limits: &RiskLimits,
    ) -> RiskDecision {
        match self.judge(series, time, target, held, limits) {
            Ok(notional_max) => {
                self.orders.push_back(time);
                let reserved = added(held, target, notional_max);
                self.waiting.insert(series.clone(), Waiting { from: time, target, reserved });
                RiskDecision::Approved { target, notional_max }
            }
            Err(code) => RiskDecision::Denied { code },
        }
    }

    fn judge(
        &mut self,
        series: &SeriesKey,
        time: i64,
        target: f64,
        held: Money,
        limits: &RiskLimits,
    ) -> Result<Money, DenyCode> {
        if !(-1.0..=1.0).contains(&target) {
            return Err(DenyCode::BadTarget);
        }
        if self.killed {
            return Err(DenyCode::KillSwitch);
        }
        while self.orders.front().is_some_and(|at| time.saturating_sub(*at) >= 3_600_000)
            || self.orders.len() > ORDERS_KEPT_MAX
        {
            self.orders.pop_front();
        }
        if target == 0.0 {
            return Ok(Money::ZERO);
        }
        match self.state {
            RiskState::Halted => return Err(DenyCode::Halted),
            RiskState::Reducing => return Err(DenyCode::Reducing),
            RiskState::Active if self.stops.is_stopped(series) => return Err(DenyCode::SeriesDrawdown),
            RiskState::Active => {}
        }
        let view = self.view.ok_or(DenyCode::NoEquity)?;
        let known = self.series.get(series).copied().unwrap_or_default();
        if view.equity <= Money::ZERO {
            return Err(DenyCode::NoMoney);
        }
        if known.stalled
            || known.after_gap
            || time.saturating_sub(view.time) > limits.stale_after(series.interval())
            || view.time > time
        {
            return Err(DenyCode::Stale);
        }
        if known.close.is_none() || known.outside_band {
            return Err(DenyCode::PriceBand);
        }
        if known.cool_until.is_some_and(|until| time < until) {
            return Err(DenyCode::CoolDown);
        }
        if self.orders.len() >= limits.orders_per_hour_max as usize {
            return Err(DenyCode::OrderRate);
        }
        // What this series holds now will be closed first, so it does not use up room.
        let held = if held.is_negative() { Money::ZERO.minus(held) } else { Ok(held) };
        let others = held.and_then(|held| view.gross.minus(held)).map_err(|_| DenyCode::NoRoom)?.max(Money::ZERO);
        // What others may still open has been promised to them.
        let promised = self.waiting.iter().filter(|(other, _)| *other != series);
        let others = promised.map(|(_, waiting)| waiting.reserved).try_fold(others, Money::plus);
        let others = others.map_err(|_| DenyCode::NoRoom)?;
        let room = view.equity.share(limits.gross_max_ppm).minus(others).map_err(|_| DenyCode::NoRoom)?;
        let most = limits.notional_max.min(view.equity.share(limits.position_max_ppm)).min(room);
        if most <= Money::ZERO { Err(DenyCode::NoRoom) } else { Ok(most) }
    }

    fn entry(&mut self, series: &SeriesKey) -> &mut SeriesRisk {
        self.series.entry(series.clone()).or_default()
    }
}

/// What an approval may add to the value of a position: nothing to one that is on its side already.
fn added(held: Money, target: f64, notional_max: Money) -> Money {
    if target == 0.0 || (held > Money::ZERO && target > 0.0) || (held.is_negative() && target < 0.0) {
        return Money::ZERO;
    }
    // What is held on the other side is in the gross already.
    let held = if held.is_negative() { Money::ZERO.minus(held) } else { Ok(held) };
    held.and_then(|held| notional_max.minus(held)).unwrap_or(notional_max).max(Money::ZERO)
}

/// Whether `now` is at least a share below `from`. A limit of the whole never triggers.
fn fell(from: Money, now: Money, limit_ppm: u32) -> bool {
    limit_ppm < 1_000_000 && now < from && from.minus(now).is_ok_and(|loss| loss >= from.share(limit_ppm))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3_600_000;

    fn series() -> SeriesKey {
        "BTC.15m".parse().unwrap()
    }

    fn view(time: i64, equity: i32) -> EquityView {
        EquityView { time, equity: Money::whole(equity), gross: Money::ZERO }
    }

    fn ready(limits: &RiskLimits) -> Risk {
        let mut risk = Risk::new();
        risk.equity(view(0, 1_000), limits);
        risk.close(&series(), 0, 100, limits);
        risk
    }

    fn ask(risk: &mut Risk, time: i64, target: f64, limits: &RiskLimits) -> Result<Money, DenyCode> {
        match risk.decide(&series(), time, target, Money::ZERO, limits) {
            RiskDecision::Approved { notional_max, .. } => Ok(notional_max),
            RiskDecision::Denied { code } => Err(code),
        }
    }

    #[test]
    fn it_fails_closed() {
        let limits = RiskLimits::default();
        let mut risk = Risk::new();
        assert_eq!(ask(&mut risk, 0, 1.0, &limits), Err(DenyCode::NoEquity));
        risk.equity(view(0, 1_000), &limits);
        assert_eq!(ask(&mut risk, 0, 1.0, &limits), Err(DenyCode::PriceBand));
        risk.close(&series(), 0, 100, &limits);
        assert_eq!(ask(&mut risk, 0, 1.0, &limits), Ok(Money::whole(1_000)));
        assert_eq!(ask(&mut risk, 2 * HOUR, 1.0, &limits), Ok(Money::whole(1_000)));
        assert_eq!(ask(&mut risk, 2 * HOUR + 1, 1.0, &limits), Err(DenyCode::Stale));
        assert_eq!(ask(&mut risk, 0, f64::NAN, &limits), Err(DenyCode::BadTarget));
        assert_eq!(ask(&mut risk, 0, 1.1, &limits), Err(DenyCode::BadTarget));
        risk.stalled(&series());
        assert_eq!(ask(&mut risk, 0, 1.0, &limits), Err(DenyCode::Stale));
        risk.close(&series(), 900_000, 151, &limits);
        assert_eq!(ask(&mut risk, 0, 1.0, &limits), Err(DenyCode::PriceBand));
        assert_eq!(ask(&mut risk, 0, 0.0, &limits), Ok(Money::ZERO));
        risk.equity(view(HOUR, 0), &limits);
        assert_eq!(ask(&mut risk, HOUR, 1.0, &limits), Err(DenyCode::NoMoney));
    }

    #[test]
    fn each_limit_at_its_edge() {
        let limits = RiskLimits { position_max_ppm: 500_000, notional_max: Money::whole(400), ..Default::default() };
        assert_eq!(ask(&mut ready(&limits), 0, 1.0, &limits), Ok(Money::whole(400)));
        let limits = RiskLimits { position_max_ppm: 500_000, ..Default::default() };
        assert_eq!(ask(&mut ready(&limits), 0, 1.0, &limits), Ok(Money::whole(500)));

        let limits = RiskLimits { orders_per_hour_max: 2, ..Default::default() };
        let mut risk = ready(&limits);
        assert!(ask(&mut risk, 0, 1.0, &limits).is_ok() && ask(&mut risk, 1, 1.0, &limits).is_ok());
        assert_eq!(ask(&mut risk, 2, 1.0, &limits), Err(DenyCode::OrderRate));
        assert!(ask(&mut risk, HOUR, 1.0, &limits).is_ok());

        let limits = RiskLimits { cool_down_ms: 10, ..Default::default() };
        let mut risk = ready(&limits);
        risk.trade(&series(), 0, Money::whole(-1), &limits);
        assert_eq!(ask(&mut risk, 9, 1.0, &limits), Err(DenyCode::CoolDown));
        assert!(ask(&mut risk, 10, 1.0, &limits).is_ok());

        let limits = RiskLimits::default();
        let mut risk = ready(&limits);
        risk.equity(EquityView { gross: Money::whole(1_000), ..view(1, 1_000) }, &limits);
        assert_eq!(ask(&mut risk, 1, 1.0, &limits), Err(DenyCode::NoRoom));
        let own = risk.decide(&series(), 1, -1.0, Money::whole(1_000), &limits);
        assert_eq!(own, RiskDecision::Approved { target: -1.0, notional_max: Money::whole(1_000) });
    }

    #[test]
    fn losses_reduce_for_a_day_and_drawdown_halts() {
        let limits = RiskLimits { daily_loss_max_ppm: 100_000, drawdown_max_ppm: 200_000, ..Default::default() };
        let mut risk = ready(&limits);
        assert_eq!(risk.equity(view(1, 901), &limits), None);
        assert_eq!(risk.equity(view(2, 900), &limits), Some(RiskState::Reducing));
        assert_eq!(ask(&mut risk, 2, 1.0, &limits), Err(DenyCode::Reducing));
        assert_eq!(risk.equity(view(24 * HOUR, 900), &limits), Some(RiskState::Active));
        assert_eq!(risk.equity(view(24 * HOUR + 1, 800), &limits), Some(RiskState::Halted));
        assert_eq!(risk.equity(view(48 * HOUR, 1_000), &limits), None);
        assert_eq!(ask(&mut risk, 48 * HOUR, 1.0, &limits), Err(DenyCode::Halted));
        assert_eq!(ask(&mut risk, 48 * HOUR, 0.0, &limits), Ok(Money::ZERO));
        risk.kill();
        assert_eq!(ask(&mut risk, 48 * HOUR, 0.0, &limits), Err(DenyCode::KillSwitch));
        risk.resume();
        assert!(ask(&mut risk, 48 * HOUR, 1.0, &limits).is_ok());
        let json = serde_json::to_string(&risk).unwrap();
        assert_eq!(serde_json::from_str::<Risk>(&json).unwrap(), risk);
    }

    #[test]
    fn what_is_approved_for_one_series_is_not_there_for_another() {
        let limits = RiskLimits { gross_max_ppm: 300_000, ..RiskLimits::default() };
        let other: SeriesKey = "ETH.15m".parse().unwrap();
        let mut risk = Risk::new();
        risk.equity(view(0, 10_000), &limits);
        risk.close(&series(), 0, 100, &limits);
        risk.close(&other, 0, 100, &limits);
        assert_eq!(ask(&mut risk, 0, 1.0, &limits), Ok(Money::whole(3_000)));
        let denied = risk.decide(&other, 0, 1.0, Money::ZERO, &limits);
        assert_eq!(denied, RiskDecision::Denied { code: DenyCode::NoRoom });
        // Asked again, a series has what is its own; after its next candle nothing is kept for it.
        assert_eq!(ask(&mut risk, 0, 1.0, &limits), Ok(Money::whole(3_000)));
        risk.close(&series(), 900_000, 100, &limits);
        assert_eq!(risk.waiting(&series()), None);
        let free = risk.decide(&other, 0, 1.0, Money::ZERO, &limits);
        assert_eq!(free, RiskDecision::Approved { target: 1.0, notional_max: Money::whole(3_000) });
    }

    #[test]
    fn a_reversal_reserves_only_what_it_adds() {
        let whole = Money::whole;
        assert_eq!(added(whole(2_000), -1.0, whole(3_000)), whole(1_000));
        assert_eq!(added(whole(-2_000), 1.0, whole(1_000)), Money::ZERO);
        assert_eq!(added(whole(2_000), 1.0, whole(3_000)), Money::ZERO);
        assert_eq!(added(Money::ZERO, 0.0, whole(3_000)), Money::ZERO);
    }

    #[test]
    fn nothing_opens_on_the_first_candle_after_a_long_silence() {
        let limits = RiskLimits::default();
        for (silence, denied) in [(2 * HOUR, false), (2 * HOUR + 1, true)] {
            let mut risk = ready(&limits);
            let time = silence + 900_000;
            risk.equity(view(time, 1_000), &limits);
            risk.close(&series(), time, 100, &limits);
            assert_eq!(ask(&mut risk, time, 1.0, &limits).err(), denied.then_some(DenyCode::Stale));
            assert_eq!(ask(&mut risk, time, 0.0, &limits), Ok(Money::ZERO));
            risk.equity(view(time + 900_000, 1_000), &limits);
            risk.close(&series(), time + 900_000, 100, &limits);
            assert!(ask(&mut risk, time + 900_000, 1.0, &limits).is_ok());
        }
    }

    /// A daily market was denied a tenth of its entries: those behind a weekend.
    #[test]
    fn daily_candles_may_have_weekends_unless_a_limit_is_set() {
        const DAY: i64 = 24 * HOUR;
        let daily: SeriesKey = "GOOG.1d".parse().unwrap();
        let ask = |silence: i64, limits: &RiskLimits| {
            let mut risk = Risk::new();
            risk.close(&daily, 0, 100, limits);
            let known_at = silence + DAY;
            risk.equity(view(known_at, 1_000), limits);
            risk.close(&daily, known_at, 100, limits);
            matches!(risk.decide(&daily, known_at, 1.0, Money::ZERO, limits), RiskDecision::Approved { .. })
        };
        let usual = RiskLimits::default();
        assert!(ask(0, &usual) && ask(4 * DAY, &usual) && !ask(4 * DAY + 1, &usual));
        let set = RiskLimits { stale_after_ms: Some(HOUR), ..RiskLimits::default() };
        assert!(ask(HOUR, &set) && !ask(HOUR + 1, &set));
    }

    #[test]
    fn a_reason_is_called_as_it_is_written() {
        for code in [DenyCode::BadTarget, DenyCode::NoEquity, DenyCode::KillSwitch, DenyCode::SeriesDrawdown] {
            assert_eq!(serde_json::to_value(code).unwrap(), code.name());
        }
    }
}
