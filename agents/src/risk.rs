//! The risk agent: no target is traded that it has not approved.
//!
//! It joins target and equity by the candle that both belong to, whichever comes first, and asks the pure rules
//! ([`crate::market::risk`]). It fails closed: what it does not hear in time is not approved. When the drawdown stop
//! halts the desk, it closes what is open without being asked. Whenever the desk may no longer open, approvals that are not
//! filled yet are withdrawn by a forced target of 0. A person stops the desk with `risk.kill` and lets it go on with
//! `risk.resume`; an exit that was denied meanwhile is then carried out. An amount out of range halts the desk. Everything
//! that is halted is in `risk.state`, in the journal and in memory: since when, by whom or what, and why. An event that
//! keeps failing here stops the team.

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use atra_bus::Event;
use atra_runtime::{Agent, AgentError, AgentSpec, Context, OnPoison, Query, StateReader, StateWriter};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    events::{
        Approved, Denied, End, Equity, Halt, HaltedBy, Kill, OutOfRange, PositionChanged, Resume, Stalled,
        StateChanged, TargetChanged,
    },
    market::{
        candle::SeriesKey,
        money::Money,
        risk::{EquityView, Risk as Rules, RiskDecision, RiskLimits, RiskState},
    },
};

const STATE: &str = "risk";

/// The last equity of a series' candle.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Heard {
    time: i64,
    held: Money,
}

/// A target that waits for the equity of its candle.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Pending {
    time: i64,
    target: f64,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Books {
    rules: Rules,
    equity: Option<Money>,
    heard: BTreeMap<SeriesKey, Heard>,
    pending: BTreeMap<SeriesKey, Pending>,
    /// The last target of each series, traded or not.
    #[serde(default)]
    wanted: BTreeMap<SeriesKey, f64>,
    /// Series that the end of the candles has closed, though a position was wanted.
    #[serde(default)]
    ended: BTreeSet<SeriesKey>,
    /// Everything that is halted, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    halts: Vec<Halt>,
    approved: u64,
    denied: u64,
}

/// The agent.
pub(crate) struct RiskAgent {
    limits: RiskLimits,
    close_at_end: bool,
    books: Books,
    is_changed: bool,
    /// The traded value of the candle of the last equity. A target on that candle comes in the same cascade, so this
    /// need not be saved between steps.
    traded: Option<(SeriesKey, i64, Option<Money>)>,
}

impl RiskAgent {
    pub(crate) fn new(limits: RiskLimits, close_at_end: bool) -> Self {
        Self { limits, close_at_end, books: Books::default(), is_changed: false, traded: None }
    }

    fn equity(&mut self, event: &Equity, cx: &mut Context<'_>) -> Result<(), AgentError> {
        let Equity { series, time, close, equity, gross, held, traded } = event;
        let known_at = time.saturating_add(series.interval().millis());
        let view = EquityView { time: known_at, equity: *equity, gross: *gross };
        self.traded = Some((series.clone(), *time, *traded));
        let books = &mut self.books;
        books.equity = Some(*equity);
        let heard = Heard { time: *time, held: *held };
        match books.heard.get_mut(series) {
            Some(slot) => *slot = heard,
            None => drop(books.heard.insert(series.clone(), heard)),
        }
        let changed = books.rules.equity(view, &self.limits);
        books.rules.close(series, known_at, *close, &self.limits);
        if self.note_equity(changed, view) || changed.is_some() {
            self.say_state(cx)?;
        }
        match changed {
            Some(RiskState::Halted) => self.close_all(known_at, true, cx)?,
            Some(RiskState::Reducing) => self.close_all(known_at, false, cx)?,
            Some(RiskState::Active) | None => {}
        }
        if self.books.rules.held(series, *held, &self.limits) {
            let limit = percent(self.limits.series_drawdown_max_ppm);
            let reason = format!("its own result fell from its peak by {limit} of the equity of {}", amount(*equity));
            self.note(Some(series.clone()), known_at, HaltedBy::SeriesDrawdownMax, reason);
            self.say_state(cx)?;
            self.close_one(series, known_at, *held, cx)?;
        }
        if self.books.ended.remove(series)
            && let Some(&target) = self.books.wanted.get(series)
        {
            // The signal speaks only on a change, and it did not want the position closed. Its own word goes first.
            self.books.pending.entry(series.clone()).or_insert(Pending { time: *time, target });
        }
        self.join(series, cx)?;
        self.exit_again(series, *time, *held, cx)
    }

    /// Updates the halts after a new equity; returns whether something changed besides the state.
    fn note_equity(&mut self, changed: Option<RiskState>, view: EquityView) -> bool {
        let EquityView { time, equity, .. } = view;
        let RiskLimits { drawdown_max_ppm, daily_loss_max_ppm, .. } = self.limits;
        let fell = |from: Money, what: &str, limit: u32| {
            format!("equity {} fell from {what} of {} by {} or more", amount(equity), amount(from), percent(limit))
        };
        match changed {
            Some(RiskState::Halted) => {
                let reason = fell(self.books.rules.peak(), "its peak", drawdown_max_ppm);
                self.note(None, time, HaltedBy::DrawdownMax, reason);
            }
            Some(RiskState::Reducing) => {
                let reason = fell(self.books.rules.day_start(), "the day's beginning", daily_loss_max_ppm);
                self.note(None, time, HaltedBy::DailyLossMax, reason);
            }
            Some(RiskState::Active) => self.books.halts.retain(|halt| halt.by != HaltedBy::DailyLossMax),
            None => {}
        }
        let had_none = self.books.halts.iter().any(|halt| halt.by == HaltedBy::NoMoney);
        let has_none = equity <= Money::ZERO;
        if has_none && !had_none {
            self.note(None, time, HaltedBy::NoMoney, format!("equity is {}", amount(equity)));
        } else if had_none && !has_none {
            self.books.halts.retain(|halt| halt.by != HaltedBy::NoMoney);
        }
        has_none != had_none
    }

    /// Records a halt, unless the same cause already halts it.
    fn note(&mut self, series: Option<SeriesKey>, since: i64, by: HaltedBy, reason: String) {
        let halts = &mut self.books.halts;
        if !halts.iter().any(|halt| halt.series == series && halt.by == by) {
            halts.push(Halt { series, since, by, reason });
        }
    }

    /// An amount would have exceeded its limit: halts the desk, once.
    fn out_of_range(&mut self, event: &OutOfRange, cx: &mut Context<'_>) -> Result<(), AgentError> {
        if self.is_out_of_range() {
            return Ok(());
        }
        let OutOfRange { series, time, reason } = event;
        let known_at = time.saturating_add(series.interval().millis());
        self.books.rules.halt();
        self.note(None, known_at, HaltedBy::AmountRange, format!("{series}: {reason}"));
        self.say_state(cx)?;
        self.close_all(known_at, false, cx)
    }

    fn is_out_of_range(&self) -> bool {
        self.books.halts.iter().any(|halt| halt.by == HaltedBy::AmountRange)
    }

    /// Carries out an exit that was wanted, but denied: the signal speaks only once.
    fn exit_again(
        &mut self,
        series: &SeriesKey,
        time: i64,
        held: Money,
        cx: &mut Context<'_>,
    ) -> Result<(), AgentError> {
        let Some(&wanted) = self.books.wanted.get(series) else { return Ok(()) };
        let is_held = if held.is_negative() { wanted < 0.0 } else { wanted > 0.0 };
        let rules = &self.books.rules;
        if held == Money::ZERO || is_held || rules.is_killed() || rules.waiting(series).is_some() {
            return Ok(());
        }
        // The broker still has the exit, and carries it out once its amounts are in range.
        if self.is_out_of_range() {
            return Ok(());
        }
        let known_at = time.saturating_add(series.interval().millis());
        match self.books.rules.decide(series, known_at, 0.0, held, &self.limits) {
            RiskDecision::Approved { target, notional_max } => {
                let (series, forced) = (series.clone(), wanted != 0.0);
                self.approve(Approved { series, time, target, notional_max, forced }, cx)
            }
            RiskDecision::Denied { .. } => Ok(()),
        }
    }

    /// Decides on a series' target if the equity of the same candle is known.
    fn join(&mut self, series: &SeriesKey, cx: &mut Context<'_>) -> Result<(), AgentError> {
        let Some(&Pending { time, target }) = self.books.pending.get(series) else { return Ok(()) };
        let Some(&Heard { held, .. }) = self.books.heard.get(series).filter(|heard| heard.time == time) else {
            return Ok(());
        };
        self.books.pending.remove(series);
        let known_at = time.saturating_add(series.interval().millis());
        let waits = self.books.rules.waiting(series);
        if target == 0.0 && waits.is_some_and(|waiting| waiting.target == 0.0 && waiting.from >= known_at) {
            // Risk has closed it just now.
            return Ok(());
        }
        // Fails closed: a candle of which nothing is known had no volume.
        let of_candle = self.traded.as_ref().filter(|(of, at, _)| of == series && *at == time);
        let limits = self.limits.with_volume(of_candle.map_or(Some(Money::ZERO), |(.., traded)| *traded));
        match self.books.rules.decide(series, known_at, target, held, &limits) {
            RiskDecision::Approved { target, notional_max } => {
                self.approve(Approved { series: series.clone(), time, target, notional_max, forced: false }, cx)
            }
            RiskDecision::Denied { code } => {
                self.books.denied += 1;
                cx.publish(Denied { series: series.clone(), time, target, code })?;
                // A reversal that may not open must still close: the old position is no longer wanted.
                let is_reversal = (held.is_negative() && target > 0.0) || (held > Money::ZERO && target < 0.0);
                if is_reversal
                    && let RiskDecision::Approved { target, notional_max } =
                        self.books.rules.decide(series, known_at, 0.0, held, &self.limits)
                {
                    let series = series.clone();
                    return self.approve(Approved { series, time, target, notional_max, forced: true }, cx);
                }
                Ok(())
            }
        }
    }

    fn approve(&mut self, approved: Approved, cx: &mut Context<'_>) -> Result<(), AgentError> {
        self.books.approved += 1;
        cx.publish(approved)?;
        Ok(())
    }

    /// Withdraws every approval to open that is not filled yet, by a target of 0 from `known_at` on; with `held`, also
    /// closes every open position at its series' next open.
    fn close_all(&mut self, known_at: i64, held: bool, cx: &mut Context<'_>) -> Result<(), AgentError> {
        let rules = &self.books.rules;
        let mut series: BTreeSet<SeriesKey> = rules.openings().cloned().collect();
        if held {
            let open = self.books.heard.iter().filter(|(_, heard)| heard.held != Money::ZERO);
            series.extend(open.map(|(series, _)| series).filter(|series| rules.waiting(series).is_none()).cloned());
        }
        series.into_iter().try_for_each(|series| self.force_close(series, known_at, cx))
    }

    /// Closes a series that was stopped, or withdraws what was approved for it.
    fn close_one(
        &mut self,
        series: &SeriesKey,
        known_at: i64,
        held: Money,
        cx: &mut Context<'_>,
    ) -> Result<(), AgentError> {
        match self.books.rules.waiting(series) {
            // On its way out already.
            Some(waiting) if waiting.target == 0.0 => Ok(()),
            None if held == Money::ZERO => Ok(()),
            _ => self.force_close(series.clone(), known_at, cx),
        }
    }

    fn force_close(&mut self, series: SeriesKey, known_at: i64, cx: &mut Context<'_>) -> Result<(), AgentError> {
        self.books.rules.force_close(&series, known_at);
        // What opens at `known_at` or later: the decision is known only now.
        let time = known_at - 1;
        self.approve(Approved { series, time, target: 0.0, notional_max: Money::ZERO, forced: true }, cx)
    }

    /// The candles have ended and the broker closes all: what was held is judged anew if candles are added later.
    fn end(&mut self) {
        let Books { rules, heard, wanted, ended, .. } = &mut self.books;
        let held = heard.iter().filter(|(_, heard)| heard.held != Money::ZERO).map(|(series, _)| series);
        let closed: BTreeSet<&SeriesKey> = held.chain(rules.openings()).collect();
        let is_wanted = |series: &&SeriesKey| wanted.get(*series).is_some_and(|target| *target != 0.0);
        ended.extend(closed.into_iter().filter(is_wanted).cloned());
        rules.dropped();
        heard.values_mut().for_each(|heard| heard.held = Money::ZERO);
    }

    fn say_state(&self, cx: &mut Context<'_>) -> Result<(), AgentError> {
        let rules = &self.books.rules;
        let stopped = rules.stopped().cloned().collect();
        let Books { equity, halts, .. } = &self.books;
        let (state, killed, halts) = (rules.state(), rules.is_killed(), halts.clone());
        let said = StateChanged { state, killed, equity: *equity, stopped, halts };
        cx.put("risk.state", said.clone())?;
        cx.publish(said)?;
        Ok(())
    }
}

fn amount(money: Money) -> String {
    format!("{:.2}", money.to_f64())
}

fn percent(ppm: u32) -> String {
    format!("{} %", f64::from(ppm) / 1e4)
}

#[async_trait]
impl Agent for RiskAgent {
    fn spec(&self) -> AgentSpec {
        AgentSpec::new("risk")
            .handles::<Equity>()
            .handles::<TargetChanged>()
            .handles::<PositionChanged>()
            .handles::<Stalled>()
            .handles::<End>()
            .handles::<OutOfRange>()
            .commanded_by::<Kill>()
            .commanded_by::<Resume>()
            .publishes::<Approved>()
            .publishes::<Denied>()
            .publishes::<StateChanged>()
            .owns("risk.")
            .on_poison(OnPoison::Stop)
    }

    async fn start(&mut self, state: &StateReader<'_>) -> Result<(), AgentError> {
        self.books = state.get(STATE)?.unwrap_or_default();
        Ok(())
    }

    async fn handle(&mut self, event: &Event, cx: &mut Context<'_>) -> Result<(), AgentError> {
        self.is_changed = true;
        if let Some(equity) = event.as_type::<Equity>()? {
            return self.equity(equity, cx);
        }
        if let Some(TargetChanged { series, time, target, .. }) = event.as_type()? {
            self.books.wanted.insert(series.clone(), *target);
            self.books.pending.insert(series.clone(), Pending { time: *time, target: *target });
            return self.join(series, cx);
        }
        if let Some(PositionChanged { series, time, trade, cash, .. }) = event.as_type()? {
            self.books.rules.filled(series, *cash, &self.limits);
            if let Some(trade) = trade {
                self.books.rules.trade(series, *time, trade.profit, &self.limits);
            }
        } else if let Some(Stalled { series, .. }) = event.as_type()? {
            self.books.rules.stalled(series);
        } else if event.is::<End>() && self.close_at_end {
            self.end();
        } else if let Some(out) = event.as_type::<OutOfRange>()? {
            self.out_of_range(out, cx)?;
        } else if let Some(Kill { reason }) = event.as_type()?
            && !self.books.rules.is_killed()
        {
            self.books.rules.kill();
            let by = HaltedBy::Caller(event.source.to_string());
            self.note(None, event.time.millis(), by, reason.clone());
            self.say_state(cx)?;
            if let Some(now) = self.books.rules.known_at() {
                self.close_all(now, false, cx)?;
            }
        } else if event.is::<Resume>() {
            self.books.rules.resume();
            self.books.halts.clear();
            self.say_state(cx)?;
        }
        Ok(())
    }

    fn save(&mut self, state: &mut StateWriter<'_>) -> Result<(), AgentError> {
        if std::mem::take(&mut self.is_changed) { state.put(STATE, &self.books) } else { Ok(()) }
    }

    fn query(&self, query: &Query) -> Result<Value, AgentError> {
        let Books { rules, equity, approved, denied, pending, halts, .. } = &self.books;
        match query.name.as_str() {
            "status" => Ok(json!({
                "state": rules.state(), "killed": rules.is_killed(), "halts": halts, "equity": equity, "limits": self.limits,
                "stopped": rules.stopped().collect::<Vec<_>>(), "approved": approved, "denied": denied, "waiting": pending.keys().collect::<Vec<_>>(),
            })),
            other => Err(AgentError::new(format!("risk does not answer {other:?}; ask for status"))),
        }
    }
}
