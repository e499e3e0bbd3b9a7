//! The optimizer: every six hours of event time, asks whether other parameters have earned their place.
//!
//! All candidates run all the time ([`crate::market::walkforward`]); a re-fit compares their recent past and goes through
//! named gates. What is promoted has a version and begins with the next candle; it expires unless it is confirmed, and
//! is rolled back when what the desk really held under it falls too far. Budgets are in candidates and candles, never in
//! seconds. A turn that fails becomes a dead letter and the incumbent stays.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use atra_bus::Event;
use atra_runtime::{Agent, AgentError, AgentSpec, Context, Missed, Query, StateReader, StateWriter};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    events::{Freeze, PositionChanged, Promoted, ProposalRejected, Proposed, RolledBack},
    market::{
        candle::{Candle, SeriesCandle, SeriesKey},
        strategy::{Side, StrategySpec},
        walkforward::{Gate, GateLimits, Governor, Score, Verdict, Version, WalkForward, WalkForwardConfig},
    },
    series::PerSeries,
};

/// Between two re-fits.
pub(crate) const REFIT_EVERY: Duration = Duration::from_secs(6 * 3_600);

/// What the optimizer runs with.
#[derive(Debug, Clone)]
pub(crate) struct OptimizerPlan {
    /// Sizes that hold for series of any interval; `step` and `periods_per_year` follow from the interval.
    pub(crate) walk: WalkForwardConfig,
    pub(crate) gates: GateLimits,
}

impl OptimizerPlan {
    /// The walk-forward of a series: a step is as many candles as come between two re-fits.
    pub(crate) fn walk_of(&self, series: &SeriesKey) -> WalkForwardConfig {
        const YEAR_MILLIS: f64 = 365.0 * 86_400_000.0;
        let interval = series.interval().millis();
        let step = usize::try_from(REFIT_EVERY.as_millis() as i64 / interval).unwrap_or(1).max(1);
        let whole = |candles: usize| candles.div_ceil(step) * step;
        WalkForwardConfig {
            step,
            train: whole(self.walk.train),
            validation: whole(self.walk.validation),
            periods_per_year: YEAR_MILLIS / interval as f64,
            ..self.walk.clone()
        }
    }
}

/// The growth of what was really held since the version in force was promoted.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Curve {
    growth: f64,
    peak: f64,
    lots: i64,
    open: i64,
    close: i64,
}

impl Curve {
    fn new() -> Self {
        Self { growth: 1.0, peak: 1.0, lots: 0, open: 0, close: 0 }
    }

    fn anew(&mut self) {
        (self.growth, self.peak) = (1.0, 1.0);
    }

    fn candle(&mut self, candle: &Candle) {
        if self.lots != 0 {
            self.grow(self.lots, self.close, candle.close);
        }
        (self.open, self.close) = (candle.open, candle.close);
        self.peak = self.peak.max(self.growth);
    }

    /// A fill at the open of the candle that was taken last.
    fn position(&mut self, lots: i64, fee: f64) {
        if self.lots != 0 {
            // The move from open to close was counted, but not held.
            self.grow(self.lots, self.close, self.open);
        }
        if lots != 0 {
            self.grow(lots, self.open, self.close);
        }
        self.growth *= 1.0 - fee;
        self.lots = lots;
        self.peak = self.peak.max(self.growth);
    }

    fn grow(&mut self, lots: i64, from: i64, to: i64) {
        let ratio = to as f64 / from as f64;
        self.growth *= if lots > 0 { ratio } else { 2.0 - ratio };
    }

    fn drawdown(&self) -> f64 {
        1.0 - self.growth / self.peak
    }
}

/// What is decided about a series: small, and written whole.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Course {
    governor: Governor,
    curve: Curve,
    last_time: i64,
    /// The gate that was told last.
    gate: Option<Gate>,
    /// The expiry that was told last.
    told_expiry: i64,
    refits: u64,
    promotions: u64,
    roll_backs: u64,
}

/// Totals of decisions of all series, for the report. They remain when the events are pruned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
struct Totals {
    proposed: u64,
    promoted: u64,
    confirmed: u64,
    rejected: u64,
    rolled_back: u64,
}

/// The key of the totals. Digests leave out keys that begin with `~`: these counts add nothing to the events.
const TOTALS: &str = "~totals";

/// The agent.
pub(crate) struct Optimizer {
    plan: Arc<OptimizerPlan>,
    walks: PerSeries<WalkForward>,
    courses: PerSeries<Course>,
    is_frozen: bool,
    /// `None` in a journal from a build that did not count them.
    totals: Option<Totals>,
    totals_saved: Option<Totals>,
}

impl Optimizer {
    pub(crate) fn new(plan: Arc<OptimizerPlan>) -> Self {
        let (walks, courses) = (PerSeries::default(), PerSeries::default());
        Self { plan, walks, courses, is_frozen: false, totals: Some(Totals::default()), totals_saved: None }
    }

    fn candle(&mut self, event: &SeriesCandle, cx: &mut Context<'_>) -> Result<(), AgentError> {
        let SeriesCandle { series, candle, .. } = event;
        if self.walks.get(series).is_none() {
            let walk = WalkForward::new(self.plan.walk_of(series))?;
            self.walks.entry(series, || walk);
        }
        if let Some(walk) = self.walks.get_mut(series) {
            walk.update(candle);
        }
        let is_frozen = self.is_frozen;
        let course = self.courses.entry(series, || Course::new(is_frozen));
        course.last_time = candle.time;
        course.curve.candle(candle);
        let drawdown = course.curve.drawdown();
        if drawdown < self.plan.gates.drawdown_max {
            return Ok(());
        }
        let (now, next) = (event.known_at(), event.known_at());
        let verdict = course.governor.drawdown(drawdown, now, next, &self.plan.gates);
        if let Some(Verdict::RolledBack { version }) = verdict {
            course.roll_backs += 1;
            course.curve.anew();
            self.count(|totals| &mut totals.rolled_back);
            let lost = RolledBack { series: series.clone(), time: candle.time, version: version.version, drawdown };
            cx.publish(lost)?;
            self.promote(series, version, None, false, cx)?;
        }
        Ok(())
    }

    fn refit(&mut self, cx: &mut Context<'_>) -> Result<(), AgentError> {
        let ready: Vec<SeriesKey> =
            self.walks.iter().filter(|(_, walk)| walk.is_ready()).map(|(series, _)| series.clone()).collect();
        ready.iter().try_for_each(|series| self.refit_one(series, cx))
    }

    fn refit_one(&mut self, series: &SeriesKey, cx: &mut Context<'_>) -> Result<(), AgentError> {
        let (Some(walk), Some(course)) = (self.walks.get(series), self.courses.get_mut(series)) else { return Ok(()) };
        let (train, validation) = (walk.scores(), walk.validation_scores());
        let known_at = course.last_time + series.interval().millis();
        let now = cx.now().millis();
        let gates = &self.plan.gates;
        course.refits += 1;
        let verdict = course.governor.refit(walk.config(), &train, &validation, gates, known_at, now, known_at);
        let sharpe = |candidate: usize| train.get(candidate).and_then(|score: &Score| score.sharpe);
        let time = course.last_time;
        let strategy = |candidate| spec_of(walk.config(), candidate);
        match verdict {
            Verdict::Promoted { version } => {
                course.promotions += 1;
                course.gate = None;
                course.curve.anew();
                let sharpe = version.candidate.and_then(sharpe);
                return self.promote(series, version, sharpe, false, cx);
            }
            Verdict::Proposed { candidate, earliest } => {
                course.gate = Some(Gate::Shadow);
                let (strategy, train_sharpe) = (strategy(candidate), sharpe(candidate));
                cx.publish(Proposed { series: series.clone(), time, strategy, train_sharpe, earliest })?;
                self.count(|totals| &mut totals.proposed);
            }
            Verdict::Rejected { candidate, gate } if course.gate != Some(gate) => {
                course.gate = Some(gate);
                let strategy = candidate.and_then(strategy);
                cx.publish(ProposalRejected { series: series.clone(), time, strategy, gate })?;
                self.count(|totals| &mut totals.rejected);
            }
            Verdict::Confirmed { .. } => course.gate = None,
            Verdict::Rejected { .. } | Verdict::RolledBack { .. } => {}
        }
        let Some(course) = self.courses.get_mut(series) else { return Ok(()) };
        // A confirmation only matters to others when what they know runs out.
        let current = course.governor.current().copied();
        match current.filter(|version| version.expires_at > course.told_expiry) {
            Some(version) if course.told_expiry.saturating_sub(now) < self.plan.gates.expiry_ms / 2 => {
                let sharpe = version.candidate.and_then(|candidate| train.get(candidate)?.sharpe);
                self.promote(series, version, sharpe, true, cx)
            }
            _ => Ok(()),
        }
    }

    fn promote(
        &mut self,
        series: &SeriesKey,
        version: Version,
        train_sharpe: Option<f64>,
        confirmed: bool,
        cx: &mut Context<'_>,
    ) -> Result<(), AgentError> {
        let (Some(walk), Some(course)) = (self.walks.get(series), self.courses.get_mut(series)) else { return Ok(()) };
        let Version { version, candidate, valid_from, expires_at } = version;
        course.told_expiry = expires_at;
        let strategy = candidate.and_then(|candidate| spec_of(walk.config(), candidate));
        let series = series.clone();
        let promoted = Promoted { series, version, strategy, valid_from, expires_at, train_sharpe, confirmed };
        cx.put(&format!("optimizer.parameters.{}", promoted.series), promoted.clone())?;
        cx.publish(promoted)?;
        self.count(|totals| if confirmed { &mut totals.confirmed } else { &mut totals.promoted });
        Ok(())
    }

    fn count(&mut self, of: impl FnOnce(&mut Totals) -> &mut u64) {
        if let Some(totals) = &mut self.totals {
            *of(totals) += 1;
        }
    }
}

impl Course {
    fn new(is_frozen: bool) -> Self {
        let mut governor = Governor::new();
        governor.freeze(is_frozen);
        Self {
            governor,
            curve: Curve::new(),
            last_time: 0,
            gate: None,
            told_expiry: i64::MIN,
            refits: 0,
            promotions: 0,
            roll_backs: 0,
        }
    }
}

fn spec_of(config: &WalkForwardConfig, candidate: usize) -> Option<StrategySpec> {
    let pair = config.pairs.get(candidate)?;
    Some(StrategySpec::SmaCross { fast: pair.fast, slow: pair.slow, side: Side::LongOnly })
}

#[async_trait]
impl Agent for Optimizer {
    fn spec(&self) -> AgentSpec {
        AgentSpec::new("optimizer")
            .handles::<SeriesCandle>()
            .handles::<PositionChanged>()
            .commanded_by::<Freeze>()
            .publishes::<Proposed>()
            .publishes::<Promoted>()
            .publishes::<ProposalRejected>()
            .publishes::<RolledBack>()
            .owns("optimizer.")
            .schedule("refit", REFIT_EVERY, Missed::Last)
    }

    async fn start(&mut self, state: &StateReader<'_>) -> Result<(), AgentError> {
        self.is_frozen = state.get("frozen")?.unwrap_or_default();
        let courses: PerSeries<Course> = PerSeries::load(state)?;
        for (series, course) in courses.iter() {
            let key = |part: &str| format!("walk.{series}.{part}");
            // A value that cannot be read is missing, which `restore` names.
            let walk = WalkForward::restore(|part| state.get::<Value>(&key(part)).ok().flatten())?;
            match walk.filter(|walk| *walk.config() == self.plan.walk_of(series)) {
                Some(walk) => {
                    self.walks.entry(series, || walk);
                    self.courses.entry(series, || course.clone());
                }
                None => tracing::warn!(agent = "optimizer", %series, "configuration changed: began anew"),
            }
        }
        let is_counted = courses.iter().next().is_none();
        self.totals = state.get(TOTALS)?.or_else(|| is_counted.then(Totals::default));
        self.totals_saved = self.totals;
        // What was just read is not news.
        self.walks.changed().for_each(drop);
        self.courses.changed().for_each(drop);
        Ok(())
    }

    async fn handle(&mut self, event: &Event, cx: &mut Context<'_>) -> Result<(), AgentError> {
        if let Some(candle) = event.as_type::<SeriesCandle>()? {
            return self.candle(candle, cx);
        }
        if let Some(PositionChanged { series, lots, .. }) = event.as_type()? {
            let fee = f64::from(self.plan.walk.fee_ppm) / 1e6;
            if let Some(course) = self.courses.get_mut(series) {
                course.curve.position(*lots, fee);
            }
            return Ok(());
        }
        if let Some(Freeze { frozen }) = event.as_type()? {
            self.is_frozen = *frozen;
            self.courses.iter_mut().for_each(|(_, course)| course.governor.freeze(*frozen));
            return Ok(());
        }
        // All that is left is the schedule.
        self.refit(cx)
    }

    fn save(&mut self, state: &mut StateWriter<'_>) -> Result<(), AgentError> {
        self.courses.save(state)?;
        if let Some(totals) = self.totals.filter(|totals| self.totals_saved != Some(*totals)) {
            state.put(TOTALS, &totals)?;
            self.totals_saved = self.totals;
        }
        if self.is_frozen {
            state.put("frozen", &true)?;
        } else {
            state.remove("frozen");
        }
        for (key, walk) in self.walks.changed() {
            let series = key.strip_prefix("series.").unwrap_or(&key);
            let mut written = Ok(());
            walk.save(&mut |part: String, value: Value| {
                if written.is_ok() {
                    written = state.put(&format!("walk.{series}.{part}"), &value);
                }
            })?;
            written?;
        }
        Ok(())
    }

    fn query(&self, query: &Query) -> Result<Value, AgentError> {
        if query.name != "status" {
            return Err(AgentError::new(format!("optimizer does not answer {:?}; ask for status", query.name)));
        }
        let status = |(series, course): (&SeriesKey, &Course)| {
            let walk = self.walks.get(series);
            let current = course.governor.current();
            let strategy = current.and_then(|v| v.candidate).zip(walk).and_then(|(c, w)| spec_of(w.config(), c));
            json!({
                "series": series, "ready": walk.is_some_and(WalkForward::is_ready), "version": current,
                "strategy": strategy, "refits": course.refits, "promotions": course.promotions,
                "roll_backs": course.roll_backs, "last_gate": course.gate, "drawdown": course.curve.drawdown(),
            })
        };
        let series: Vec<Value> = self.courses.iter().map(status).collect();
        Ok(json!({ "enabled": true, "frozen": self.is_frozen, "totals": self.totals, "series": series }))
    }
}

/// What stands in the optimizer's place when the configuration decides.
pub(crate) struct Idle;

#[async_trait]
impl Agent for Idle {
    fn spec(&self) -> AgentSpec {
        AgentSpec::new("optimizer")
    }

    async fn handle(&mut self, _: &Event, _: &mut Context<'_>) -> Result<(), AgentError> {
        Ok(())
    }

    fn query(&self, _: &Query) -> Result<Value, AgentError> {
        Ok(json!({ "enabled": false }))
    }
}
