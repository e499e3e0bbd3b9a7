//! A search over parameters: grids and random draws of a strategy's settings, and what the choice is worth outside of
//! where it was made.
//!
//! The candles are cut in two. Every candidate runs over the first part, the best one there is chosen, and what it makes
//! of the second part stands beside buying and holding, the median candidate and the best one in hindsight.

use std::str::FromStr;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use thiserror::Error;

use super::backtest::{BacktestOptions, buy_and_hold, score};
use super::candle::Candle;
use super::metrics::Metrics;
use super::money::MoneyError;
use super::simulator::SplitMix64;
use super::strategy::{StrategyError, StrategySpec};

/// The most candidates of one search.
pub const CANDIDATES_MAX: usize = 1_000_000;

/// Why a search cannot begin.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SearchError {
    /// No strategy has this name.
    #[error("there is no strategy {name:?}; there are {}", StrategySpec::NAMES.join(", "))]
    Strategy {
        /// The name given.
        name: String,
    },
    /// The strategy has no such parameter, or it has another kind of value.
    #[error("{strategy}: {text}; its parameters are {known}")]
    Parameter {
        /// Which strategy.
        strategy: String,
        /// What is wrong.
        text: String,
        /// The usual parameters.
        known: String,
    },
    /// The values of a parameter cannot be read.
    #[error("{text:?} is not NAME=VALUE, NAME=1,2,3 or NAME=FROM..TO[:STEP]")]
    Text {
        /// The text given.
        text: String,
    },
    /// Too many candidates.
    #[error("{count} candidates are more than the limit of {limit}; widen the steps or draw at random")]
    TooMany {
        /// How many.
        count: usize,
        /// [`CANDIDATES_MAX`].
        limit: usize,
    },
    /// No combination makes a strategy.
    #[error("none of the combinations makes a strategy: {0}")]
    None(StrategyError),
}

/// A strategy by name, its usual parameters replaced by those given.
///
/// # Errors
/// An unknown name or parameter, or a value of another kind. Whether the values make a strategy, `build` says.
pub fn spec(name: &str, parameters: &[(String, String)]) -> Result<StrategySpec, SearchError> {
    let usual = StrategySpec::usual(name).ok_or_else(|| SearchError::Strategy { name: name.to_owned() })?;
    let values = parameters.iter().map(|(name, text)| (name.clone(), value(text)));
    with(usual, values)
}

fn value(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.to_owned()))
}

fn with(usual: StrategySpec, values: impl Iterator<Item = (String, Value)>) -> Result<StrategySpec, SearchError> {
    // A spec is an object, as its type says.
    let mut object: Map<String, Value> =
        serde_json::to_value(usual).ok().and_then(|value| value.as_object().cloned()).unwrap_or_default();
    let known = object.iter().filter(|(name, _)| *name != "name").map(|(name, value)| format!("{name}={value}"));
    let known = known.collect::<Vec<_>>().join(" ").replace('"', "");
    let error = |text: String| SearchError::Parameter { strategy: usual.name().into(), text, known: known.clone() };
    for (name, value) in values {
        if name == "name" || object.insert(name.clone(), value).is_none() {
            return Err(error(format!("there is no parameter {name:?}")));
        }
    }
    serde_json::from_value(Value::Object(object)).map_err(|bad| error(bad.to_string()))
}

/// A parameter and the values that it may have.
#[derive(Debug, Clone, PartialEq)]
pub struct Axis {
    name: String,
    values: Vec<f64>,
}

impl FromStr for Axis {
    type Err = SearchError;
    fn from_str(text: &str) -> Result<Self, SearchError> {
        let error = || SearchError::Text { text: text.chars().take(60).collect() };
        let (name, values) = text.split_once('=').ok_or_else(error)?;
        let number = |text: &str| text.trim().parse::<f64>().ok().filter(|n| n.is_finite()).ok_or_else(error);
        let values = match values.split_once("..") {
            None => values.split(',').map(number).collect::<Result<Vec<_>, _>>()?,
            Some((from, to)) => {
                let (to, step) = to.split_once(':').unwrap_or((to, "1"));
                let (from, to, step) = (number(from)?, number(to)?, number(step)?);
                let count = ((to - from) / step + 1e-9).floor();
                if step <= 0.0 || !(0.0..CANDIDATES_MAX as f64).contains(&count) {
                    return Err(error());
                }
                (0..=count as usize).map(|n| from + step * n as f64).collect()
            }
        };
        if name.trim().is_empty() || values.is_empty() {
            return Err(error());
        }
        Ok(Self { name: name.trim().to_owned(), values })
    }
}

/// A value of an axis: whole numbers as such, or a period would not take them.
fn json(value: f64) -> Value {
    if value.fract() == 0.0 && value.abs() < 1e15 { Value::from(value as i64) } else { Value::from(value) }
}

/// The candidates of a search, and how many combinations make none (a fast average that is not faster).
#[derive(Debug, Clone, PartialEq)]
pub struct Candidates {
    /// Each once, in order.
    pub specs: Vec<StrategySpec>,
    /// Combinations left out.
    pub left_out: usize,
}

/// Every combination of the axes' values.
///
/// # Errors
/// [`SearchError`].
pub fn grid(base: StrategySpec, axes: &[Axis]) -> Result<Candidates, SearchError> {
    let count = axes.iter().fold(1_usize, |count, axis| count.saturating_mul(axis.values.len()));
    if count > CANDIDATES_MAX {
        return Err(SearchError::TooMany { count, limit: CANDIDATES_MAX });
    }
    collect(
        base,
        axes,
        (0..count).map(|index| {
            let mut rest = index;
            // The last axis changes quickest.
            let mut chosen: Vec<usize> = axes
                .iter()
                .rev()
                .map(|axis| {
                    let place = rest % axis.values.len();
                    rest /= axis.values.len();
                    place
                })
                .collect();
            chosen.reverse();
            chosen
        }),
    )
}

/// So many draws out of the axes' values; the same seed draws the same.
///
/// # Errors
/// [`SearchError`].
pub fn random(base: StrategySpec, axes: &[Axis], draws: usize, seed: u64) -> Result<Candidates, SearchError> {
    if draws > CANDIDATES_MAX {
        return Err(SearchError::TooMany { count: draws, limit: CANDIDATES_MAX });
    }
    let mut random = SplitMix64::new(seed);
    let mut draw = |axis: &Axis| (random.uniform() * axis.values.len() as f64) as usize;
    let chosen: Vec<Vec<usize>> = (0..draws).map(|_| axes.iter().map(&mut draw).collect()).collect();
    let mut once = chosen;
    once.sort_unstable();
    once.dedup();
    collect(base, axes, once.into_iter())
}

fn collect(
    base: StrategySpec,
    axes: &[Axis],
    chosen: impl Iterator<Item = Vec<usize>>,
) -> Result<Candidates, SearchError> {
    let mut candidates = Candidates { specs: Vec::new(), left_out: 0 };
    let mut why = None;
    for places in chosen {
        let values = axes.iter().zip(&places).map(|(axis, place)| (axis.name.clone(), json(axis.values[*place])));
        let spec = with(base, values)?;
        match spec.build() {
            Ok(_) => candidates.specs.push(spec),
            Err(error) => {
                candidates.left_out += 1;
                why.get_or_insert(error);
            }
        }
    }
    match why {
        Some(error) if candidates.specs.is_empty() => Err(SearchError::None(error)),
        _ => Ok(candidates),
    }
}

/// By what candidates are compared; more is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Goal {
    /// Annualised Sharpe ratio of daily returns.
    #[default]
    Sharpe,
    /// Total return.
    Return,
    /// Growth a year / greatest drawdown.
    Calmar,
    /// Annualised Sortino ratio.
    Sortino,
    /// Sum of wins / sum of losses.
    ProfitFactor,
}

impl Goal {
    /// The value of a run; `None` if it has none, which is worse than any.
    pub fn of(self, metrics: &Metrics) -> Option<f64> {
        match self {
            Self::Sharpe => metrics.sharpe,
            Self::Return => Some(metrics.return_share),
            Self::Calmar => metrics.calmar,
            Self::Sortino => metrics.sortino,
            Self::ProfitFactor => metrics.profit_factor,
        }
    }
}

/// What a candidate made of both parts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Tried {
    /// The candidate.
    pub strategy: StrategySpec,
    /// Where candidates are chosen.
    pub train: Metrics,
    /// Where the choice is judged.
    pub test: Metrics,
}

/// Runs a candidate over both parts, each begun with fresh cash and a fresh strategy.
///
/// # Errors
/// [`MoneyError`].
pub fn try_one(
    candles: &[Candle],
    split: usize,
    spec: StrategySpec,
    options: &BacktestOptions,
) -> Result<Tried, MoneyError> {
    let (train, test) = candles.split_at(split.min(candles.len()));
    let run = |candles: &[Candle]| match spec.build() {
        Ok(strategy) => score(candles, strategy, options),
        // Candidates are built once before they come here.
        Err(_) => score(candles, super::strategy::BuyAndHold::default(), options),
    };
    Ok(Tried { strategy: spec, train: run(train)?, test: run(test)? })
}

/// What a search found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Found {
    /// The best in the first part.
    pub chosen: Tried,
    /// What it and others returned in the second part.
    pub test_return: f64,
    /// Buying and holding there.
    pub test_buy_and_hold: f64,
    /// The median candidate there.
    pub test_median: f64,
    /// The best there, known only in hindsight.
    pub test_best: Tried,
    /// Share of candidates that made money there.
    pub test_winners: f64,
}

/// Chooses by the first part and judges by the second; `None` without candidates. Of equals the first is taken.
pub fn judge(
    tried: &[Tried],
    goal: Goal,
    candles: &[Candle],
    split: usize,
    options: &BacktestOptions,
) -> Option<Found> {
    let best = |of: &dyn Fn(&Tried) -> f64| {
        tried.iter().reduce(|best, next| if of(next) > of(best) { next } else { best }).cloned()
    };
    let chosen = best(&|tried| goal.of(&tried.train).unwrap_or(f64::NEG_INFINITY))?;
    let test_best = best(&|tried| tried.test.return_share)?;
    let mut returns: Vec<f64> = tried.iter().map(|tried| tried.test.return_share).collect();
    returns.sort_by(f64::total_cmp);
    let winners = returns.iter().filter(|share| **share > 0.0).count();
    Some(Found {
        test_return: chosen.test.return_share,
        test_buy_and_hold: buy_and_hold(&candles[split.min(candles.len())..], options.terms),
        test_median: f64::midpoint(returns[(returns.len() - 1) / 2], returns[returns.len() / 2]),
        test_winners: winners as f64 / returns.len() as f64,
        chosen,
        test_best,
    })
}

#[cfg(test)]
mod tests {
    use super::super::money::{Money, Terms};
    use super::super::simulator::Simulator;
    use super::*;

    fn axes(texts: &[&str]) -> Vec<Axis> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn a_grid_is_every_combination_that_makes_a_strategy() {
        let base = StrategySpec::usual("sma-cross").unwrap();
        let found = grid(base, &axes(&["fast=5..15:5", "slow=10,20"])).unwrap();
        assert_eq!((found.specs.len(), found.left_out), (4, 2));
        assert_eq!(
            found.specs[0],
            spec("sma-cross", &[("fast".into(), "5".into()), ("slow".into(), "10".into())]).unwrap()
        );
        assert!(matches!(grid(base, &axes(&["fast=30,40", "slow=20"])), Err(SearchError::None(_))));
        assert!(matches!(grid(base, &axes(&["fast=1..2000", "slow=1..2000"])), Err(SearchError::TooMany { .. })));
        let drawn = random(base, &axes(&["fast=2..40", "slow=50..400"]), 200, 7).unwrap();
        assert_eq!(drawn, random(base, &axes(&["fast=2..40", "slow=50..400"]), 200, 7).unwrap());
        assert!(
            drawn.specs.len() > 150 && drawn != random(base, &axes(&["fast=2..40", "slow=50..400"]), 200, 8).unwrap()
        );
    }

    #[test]
    fn parameters_are_checked_by_name_and_kind() {
        let pair = |name: &str, value: &str| [(name.to_owned(), value.to_owned())];
        let text = |result: Result<StrategySpec, SearchError>| result.unwrap_err().to_string();
        assert!(text(spec("sma", &[])).contains("there are sma-cross, ema-cross"));
        let said = text(spec("bollinger", &pair("fast", "3")));
        assert!(said.contains("no parameter \"fast\"") && said.contains("deviations=2.0 period=20"), "{said}");
        assert!(text(spec("sma-cross", &pair("fast", "ten"))).contains("invalid type"));
        assert!(spec("rsi-reversion", &pair("low", "25")).unwrap().build().is_ok());
        for bad in ["fast", "fast=", "=3", "fast=a", "fast=1..9:0", "fast=1..9:-1", "fast=9..1", "fast=nan"] {
            assert!(bad.parse::<Axis>().is_err(), "{bad}");
        }
    }

    #[test]
    fn the_choice_is_made_on_the_first_part_and_judged_on_the_second() {
        let candles: Vec<Candle> = Simulator::new(9, "15m".parse().unwrap(), 0).take(6_000).collect();
        let options = BacktestOptions::new(Money::whole(10_000), Terms::new(Simulator::scale(), 3, 100).unwrap());
        let base = StrategySpec::usual("sma-cross").unwrap();
        let candidates = grid(base, &axes(&["fast=4,8,16", "slow=32,64,128"])).unwrap();
        let try_on = |candles: &[Candle]| -> Vec<Tried> {
            candidates.specs.iter().map(|spec| try_one(candles, 4_000, *spec, &options).unwrap()).collect()
        };
        let found = judge(&try_on(&candles), Goal::Sharpe, &candles, 4_000, &options).unwrap();
        assert!(found.test_best.test.return_share >= found.test_return);
        assert!(found.test_best.test.return_share >= found.test_median);
        // Another second part changes the judgement, never the choice.
        let other = candles[..4_800].to_vec();
        let again = judge(&try_on(&other), Goal::Sharpe, &other, 4_000, &options).unwrap();
        assert_eq!(again.chosen.strategy, found.chosen.strategy);
        assert_ne!(again.test_return, found.test_return);
    }
}
