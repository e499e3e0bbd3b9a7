//! The signal: turns candles into a target, and says so when it changes.
//!
//! Three ways to decide. With a strategy of the configuration, or one that the program brought along, that strategy
//! speaks. With the optimizer, the pair of
//! averages that was promoted does: in the market exactly while the fast one is above the slow one, which is what the
//! optimizer has measured. Parameters name their version and when they begin and end; without any in force the target
//! is 0. A strategy that fails disables its series only: it is said once, and the target is 0 from then on.

use std::sync::Arc;

use async_trait::async_trait;
use atra_bus::Event;
use atra_runtime::{Agent, AgentError, AgentSpec, Context, Query, StateReader, StateWriter};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    events::{FeaturesAt, Promoted, TargetChanged, TargetReason},
    market::{
        candle::Candle,
        indicators::{Features, Windows},
        strategy::{AnyStrategy, Decision, Maker, Own, Reason, Side, Strategy, StrategySpec},
    },
    series::PerSeries,
};

/// How targets come about.
#[derive(Debug, Clone)]
pub(crate) enum SignalPlan {
    /// By a strategy of the configuration.
    Fixed(StrategySpec),
    /// By a strategy that the program brought along.
    Own(Maker),
    /// By what the optimizer promotes: pairs of averages of these lengths.
    Promoted(Arc<[usize]>),
}

/// Parameters in force, or to come.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Parameters {
    version: u64,
    /// Fast and slow; `None` is to stay flat.
    pair: Option<(usize, usize)>,
    valid_from: i64,
    expires_at: i64,
}

/// What decides for one series.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Decider {
    Strategy(AnyStrategy),
    Own(Own),
    Pair { windows: Windows, lengths: Vec<usize>, now: Option<Parameters>, next: Option<Parameters> },
}

#[derive(Debug, Serialize, Deserialize)]
struct Signalled {
    decider: Decider,
    target: f64,
}

/// A target with what it is due to.
struct Wanted {
    target: f64,
    strategy: Option<StrategySpec>,
    version: u64,
    reason: TargetReason,
}

/// The agent.
pub(crate) struct Signal {
    plan: SignalPlan,
    series: PerSeries<Signalled>,
}

impl Signal {
    pub(crate) fn new(plan: SignalPlan) -> Self {
        Self { plan, series: PerSeries::default() }
    }

    fn decider(plan: &SignalPlan) -> Result<Decider, AgentError> {
        Ok(match plan {
            SignalPlan::Fixed(spec) => Decider::Strategy(spec.build()?),
            SignalPlan::Own(maker) => Decider::Own(Own::new(maker)),
            SignalPlan::Promoted(lengths) => {
                Decider::Pair { windows: Windows::new(lengths), lengths: lengths.to_vec(), now: None, next: None }
            }
        })
    }

    fn features(&mut self, event: &FeaturesAt, cx: &mut Context<'_>) -> Result<(), AgentError> {
        let FeaturesAt { series, scale, candle, features } = event;
        if self.series.get(series).is_none() {
            let decider = Self::decider(&self.plan)?;
            self.series.entry(series, || Signalled { decider, target: 0.0 });
        }
        let Some(signalled) = self.series.get_mut(series) else { return Ok(()) };
        let Some(wanted) = signalled.decide(&candle.0, &self.plan)? else { return Ok(()) };
        signalled.target = wanted.target;
        cx.publish(TargetChanged {
            series: series.clone(),
            time: candle.0.time,
            target: wanted.target,
            strength: strength(scale.price(candle.0.close as f64), features),
            strategy: wanted.strategy,
            version: wanted.version,
            reason: wanted.reason,
        })?;
        Ok(())
    }

    fn promoted(&mut self, promoted: &Promoted) -> Result<(), AgentError> {
        if self.series.get(&promoted.series).is_none() {
            let decider = Self::decider(&self.plan)?;
            self.series.entry(&promoted.series, || Signalled { decider, target: 0.0 });
        }
        let Some(signalled) = self.series.get_mut(&promoted.series) else { return Ok(()) };
        // Parameters of the configuration are not the optimizer's to replace.
        let Decider::Pair { next, lengths, .. } = &mut signalled.decider else { return Ok(()) };
        let pair = match promoted.strategy {
            None => None,
            Some(StrategySpec::SmaCross { fast, slow, .. }) if lengths.contains(&fast) && lengths.contains(&slow) => {
                Some((fast, slow))
            }
            Some(other) => {
                let text = format!("parameters {} of {} cannot be used here", promoted.version, other.name());
                return Err(AgentError::new(text));
            }
        };
        let Promoted { version, valid_from, expires_at, .. } = *promoted;
        *next = Some(Parameters { version, pair, valid_from, expires_at });
        Ok(())
    }
}

impl Signalled {
    /// Takes the candle; answers the target if it changes.
    #[inline]
    fn decide(&mut self, candle: &Candle, plan: &SignalPlan) -> Result<Option<Wanted>, AgentError> {
        let fixed = |decision: Option<Decision>, strategy| {
            decision.map(|Decision { target, reason }| {
                let reason = TargetReason::Rule(reason);
                Wanted { target, strategy, version: 0, reason }
            })
        };
        Ok(match &mut self.decider {
            Decider::Strategy(strategy) => {
                let spec = if let SignalPlan::Fixed(spec) = plan { Some(*spec) } else { None };
                fixed(strategy.update(candle), spec)
            }
            Decider::Own(own) => {
                let SignalPlan::Own(maker) = plan else {
                    return Err(AgentError::new(
                        "this journal was begun with a strategy that the program brought along",
                    ));
                };
                fixed(own.update(candle, maker)?, Some(StrategySpec::Own))
            }
            Decider::Pair { windows, lengths, now, next } => {
                windows.push(candle.close);
                let is_new = next.is_some_and(|next| next.valid_from <= candle.time);
                // The same pair under a new version changes nothing that anybody would call a reason.
                let is_other = is_new && next.map(|next| next.pair) != now.map(|now| now.pair);
                if is_new {
                    *now = next.take();
                }
                let wanted = wanted_by(windows, lengths, *now, candle.time, is_other);
                (wanted.target != self.target).then_some(wanted)
            }
        })
    }
}

/// What a promoted pair wants at a candle.
#[inline]
fn wanted_by(windows: &Windows, lengths: &[usize], now: Option<Parameters>, time: i64, is_other: bool) -> Wanted {
    let flat = |version, reason| Wanted { target: 0.0, strategy: None, version, reason };
    let Some(parameters) = now else { return flat(0, TargetReason::NoParameters) };
    let version = parameters.version;
    if time >= parameters.expires_at {
        return flat(version, TargetReason::Expired);
    }
    let Some((fast, slow)) = parameters.pair else { return flat(version, TargetReason::NoParameters) };
    let sum = |length| windows.sum(lengths.iter().position(|known| *known == length)?);
    // Means are compared as integers: fast/n > slow/m exactly when fast·m > slow·n.
    let is_above =
        sum(fast).zip(sum(slow)).is_some_and(|(f, s)| i128::from(f) * slow as i128 > i128::from(s) * fast as i128);
    let rule = if is_above { Reason::CrossUp } else { Reason::CrossDown };
    Wanted {
        target: if is_above { 1.0 } else { 0.0 },
        strategy: Some(StrategySpec::SmaCross { fast, slow, side: Side::LongOnly }),
        version,
        reason: if is_other { TargetReason::NewParameters } else { TargetReason::Rule(rule) },
    }
}

/// Distance of the close from its mean of 20, in average true ranges.
fn strength(close: f64, features: &Features) -> Option<f64> {
    let (mean, range) = (features.sma_20?, features.atr_14?);
    let strength = (close - mean).abs() / range;
    Some(strength).filter(|strength| strength.is_finite())
}

#[async_trait]
impl Agent for Signal {
    fn spec(&self) -> AgentSpec {
        let spec = AgentSpec::new("signal").handles::<FeaturesAt>().publishes::<TargetChanged>();
        match self.plan {
            // Nobody promotes anything then.
            SignalPlan::Fixed(_) | SignalPlan::Own(_) => spec,
            SignalPlan::Promoted(_) => spec.handles::<Promoted>(),
        }
    }

    async fn start(&mut self, state: &StateReader<'_>) -> Result<(), AgentError> {
        self.series = PerSeries::load(state)?;
        Ok(())
    }

    async fn handle(&mut self, event: &Event, cx: &mut Context<'_>) -> Result<(), AgentError> {
        if let Some(features) = event.as_type::<FeaturesAt>()? {
            return self.features(features, cx);
        }
        match event.as_type::<Promoted>()? {
            Some(promoted) => self.promoted(promoted),
            None => Ok(()),
        }
    }

    fn save(&mut self, state: &mut StateWriter<'_>) -> Result<(), AgentError> {
        self.series.save(state)
    }

    fn query(&self, query: &Query) -> Result<Value, AgentError> {
        if query.name != "status" {
            return Err(AgentError::new(format!("signal does not answer {:?}; ask for status", query.name)));
        }
        let status = |(series, signalled): (_, &Signalled)| match &signalled.decider {
            Decider::Strategy(_) | Decider::Own(_) => json!({ "series": series, "target": signalled.target }),
            Decider::Pair { now, next, .. } => {
                json!({ "series": series, "target": signalled.target, "parameters": now, "next": next })
            }
        };
        let series: Vec<Value> = self.series.iter().map(status).collect();
        Ok(match &self.plan {
            SignalPlan::Fixed(spec) => json!({ "strategy": spec, "series": series }),
            SignalPlan::Own(_) => json!({ "strategy": StrategySpec::Own, "series": series }),
            SignalPlan::Promoted(_) => json!({ "strategy": "sma-cross by the optimizer", "series": series }),
        })
    }
}

#[cfg(test)]
mod tests {
    use atra_bus::EventType;

    use super::*;

    #[test]
    fn only_a_desk_with_an_optimizer_hears_of_promotions() {
        let hears = |plan| {
            let spec = Signal::new(plan).spec();
            format!("{spec:?}").contains(Promoted::TOPIC.as_str())
        };
        assert!(hears(SignalPlan::Promoted([8, 16].into())));
        assert!(!hears(SignalPlan::Fixed(StrategySpec::BuyAndHold)));
    }
}
