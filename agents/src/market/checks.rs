//! Checks of a strategy: does it look ahead, and how long must it warm up?

use serde::{Deserialize, Serialize};

use super::candle::Candle;
use super::strategy::{Decision, Strategy};

/// A decision and the index of the candle at whose close it was made.
pub type Decided = (usize, Decision);

/// Everything that a strategy which has seen nothing yet decides over a slice.
pub fn decisions(mut strategy: impl Strategy, candles: &[Candle]) -> Vec<Decided> {
    let decided = candles.iter().enumerate().map(|(index, candle)| (index, strategy.update(candle)));
    decided.filter_map(|(index, decision)| Some((index, decision?))).collect()
}

/// Where a truncated history decides otherwise than the whole one.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Difference {
    /// Candles that were left of the history.
    pub cut: usize,
    /// Index of the candle at which the two differ first.
    pub index: usize,
    /// What is decided there with the whole history.
    pub whole: Option<Decision>,
    /// What is decided there with the truncated one.
    pub truncated: Option<Decision>,
}

/// Cuts the history at `cut` candles and compares what is decided before the cut with `whole`, what is decided with all
/// of it. A rule that uses anything later than its candle differs somewhere.
pub fn lookahead(
    candles: &[Candle],
    whole: &[Decided],
    cut: usize,
    decide: impl Fn(&[Candle]) -> Vec<Decided>,
) -> Option<Difference> {
    let cut = cut.min(candles.len());
    let truncated = decide(&candles[..cut]);
    let before = &whole[..whole.partition_point(|(index, _)| *index < cut)];
    let same = before.iter().zip(&truncated).take_while(|(a, b)| a == b).count();
    let (a, b) = (before.get(same), truncated.get(same));
    let index = a.into_iter().chain(b).map(|(index, _)| *index).min()?;
    let at = |decided: Option<&Decided>| decided.filter(|(at, _)| *at == index).map(|(_, decision)| *decision);
    Some(Difference { cut, index, whole: at(a), truncated: at(b) })
}

/// How often a strategy that begins so many candles before a point wants what the whole history wants there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct WarmUp {
    /// Candles of warm-up.
    pub candles: usize,
    /// Points looked at.
    pub points: usize,
    /// Points at which the targets are equal.
    pub equal: usize,
}

/// Compares fresh starts `warm` candles before each of up to `points` places, spread evenly, with the whole history.
pub fn warm_up<S: Strategy>(candles: &[Candle], make: impl Fn() -> S, warm: usize, points: usize) -> WarmUp {
    let room = candles.len().saturating_sub(warm);
    let points = points.min(room);
    let whole = decisions(make(), candles);
    let target = |decided: &[Decided], upto: usize| {
        let known = decided.partition_point(|(index, _)| *index < upto);
        known.checked_sub(1).map_or(0.0, |last| decided[last].1.target)
    };
    let is_equal = |point: &usize| {
        let at = warm + (point + 1) * room / points;
        target(&decisions(make(), &candles[at - warm..at]), warm) == target(&whole, at)
    };
    WarmUp { candles: warm, points, equal: (0..points).filter(is_equal).count() }
}

#[cfg(test)]
mod tests {
    use super::super::simulator::Simulator;
    use super::super::strategy::{Reason, StrategySpec};
    use super::*;

    fn candles() -> Vec<Candle> {
        Simulator::new(4, "15m".parse().unwrap(), 0).take(600).collect()
    }

    /// Long while the close is below the *next* one: what a slip with an index makes of a rule.
    fn peeking(candles: &[Candle]) -> Vec<Decided> {
        let mut target = 0.0;
        let mut decided = Vec::new();
        for (index, pair) in candles.windows(2).enumerate() {
            let wanted = if pair[1].close > pair[0].close { 1.0 } else { 0.0 };
            if std::mem::replace(&mut target, wanted) != wanted {
                decided.push((index, Decision { target, reason: Reason::Own }));
            }
        }
        decided
    }

    #[test]
    fn a_rule_that_peeks_is_found_and_the_strategies_do_not() {
        let candles = candles();
        let whole = peeking(&candles);
        let found = (1..=candles.len()).find_map(|cut| lookahead(&candles, &whole, cut, peeking)).unwrap();
        assert_eq!(found.index + 1, found.cut);
        for name in StrategySpec::NAMES {
            let make = || StrategySpec::usual(name).unwrap().build().unwrap();
            let whole = decisions(make(), &candles);
            assert!(!whole.is_empty());
            for cut in 0..=candles.len() {
                let found = lookahead(&candles, &whole, cut, |slice| decisions(make(), slice));
                assert_eq!(found, None, "{name}");
            }
        }
    }

    #[test]
    fn a_longer_warm_up_agrees_more() {
        let candles = candles();
        let make = || StrategySpec::usual("sma-cross").unwrap().build().unwrap();
        let at = |warm| warm_up(&candles, make, warm, 100);
        assert_eq!((at(10).points, at(1_000).points), (100, 0));
        assert!(at(400).equal == 100 && at(21).equal < 100, "{:?} {:?}", at(21), at(400));
    }
}
