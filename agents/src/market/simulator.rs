//! A market out of a seed, for when there are no data.
//!
//! Returns are near-normal with a variance that clusters (GARCH(1,1)), a slow drift that changes sign now and then, and
//! heavier volume on wilder candles. Prices revert to their start: a close always stays between a quarter and four
//! times [`START_TICKS`], and is rarely near either bound. Made of SplitMix64 and arithmetic that is exact everywhere
//! (no `exp`, no `ln`), so a seed gives the same candles on every machine. It is plausible, not predictive: nothing
//! found on it says anything about a real market.

use std::num::ParseIntError;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::candle::{Candle, Interval, Scale};

/// Version of the formula. It is a part of every [`Simulator::position`]: candles of two formulas must not become one
/// series. Version 1 was an unbounded walk.
pub const FORMULA: u32 = 2;
/// Close before the first candle: 100.00.
pub const START_TICKS: i64 = 10_000;
/// How far a close can move away from the start, as a factor in both directions.
const BAND: i64 = 4;
/// Share of its distance from the start (about the logarithm) by which a price reverts in one candle. With the shocks and
/// drifts below, the logarithm has a standard deviation of about 0.23 around the start, so the band is six of them wide.
const REVERSION: f64 = 1.0 / 4_000.0;
/// GARCH parameters per candle: base variance (0.3 % a candle in the long run), weight of the last square, persistence.
const OMEGA: f64 = VARIANCE * (1.0 - ALPHA - BETA);
const VARIANCE: f64 = 0.003 * 0.003;
const ALPHA: f64 = 0.08;
const BETA: f64 = 0.90;
/// Bound of the variance: 5 % a candle. Without it a series of extreme shocks could grow without limit.
const VARIANCE_MAX: f64 = 0.05 * 0.05;
/// Mean candles until the drift is drawn again: about four days of quarter hours.
const REGIME_CANDLES: u64 = 400;

/// Sebastiano Vigna's SplitMix64: one addition and a mix a number; passes BigCrush, needs 8 bytes of state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SplitMix64 {
    state: u64,
}

impl SplitMix64 {
    /// A generator; every seed is as good as any other.
    pub fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.state ^ (self.state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Uniform in [0, 1), 53 bits.
    pub fn uniform(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Nearly normal with mean 0 and variance 1: twelve 16-bit uniforms, summed (Irwin–Hall).
    fn normal(&mut self) -> f64 {
        let mut sum = 0_u64;
        for _ in 0..3 {
            let bits = self.next_u64();
            sum += (bits & 0xffff) + (bits >> 16 & 0xffff) + (bits >> 32 & 0xffff) + (bits >> 48);
        }
        sum as f64 / 65_536.0 - 6.0
    }
}

/// The process of prices alone: everything that the next candle depends on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Walk {
    random: SplitMix64,
    close: i64,
    variance: f64,
    drift: f64,
}

/// One step of a [`Walk`].
struct Step {
    open: i64,
    close: i64,
    /// Standard deviation of the shock.
    sigma: f64,
    shock: f64,
}

impl Walk {
    fn new(seed: u64) -> Self {
        Self { random: SplitMix64::new(seed), close: START_TICKS, variance: VARIANCE, drift: 0.0 }
    }

    fn step(&mut self) -> Step {
        if self.random.next_u64().is_multiple_of(REGIME_CANDLES) {
            self.drift = self.random.normal() * 0.000_15;
        }
        let sigma = self.variance.sqrt();
        let shock = sigma * self.random.normal();
        self.variance = (OMEGA + ALPHA * shock * shock + BETA * self.variance).min(VARIANCE_MAX);
        let (open, start) = (self.close as f64, START_TICKS as f64);
        // 2 (x − 1) / (x + 1) is close to ln x within the band, and as symmetric.
        let pull = REVERSION * 2.0 * (start - open) / (start + open);
        // A jump beyond ± 30 % in one candle is no market.
        let change = (self.drift + shock + pull).clamp(-0.3, 0.3);
        let close = (open * (1.0 + change)).round() as i64;
        let open = std::mem::replace(&mut self.close, close.clamp(START_TICKS / BAND, START_TICKS * BAND));
        Step { open, close: self.close, sigma, shock }
    }
}

/// An endless series of candles from a seed. Resumes bit for bit from its [`position`](Self::position).
///
/// # Examples
/// ```
/// use atra_agents::market::simulator::Simulator;
/// let candles = |seed| Simulator::new(seed, "15m".parse().unwrap(), 0).take(100).collect::<Vec<_>>();
/// assert_eq!(candles(7), candles(7));
/// assert_ne!(candles(7), candles(8));
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Simulator {
    walk: Walk,
    interval: Interval,
    time: i64,
}

/// Why a simulated market cannot continue from a position.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PositionError {
    /// The candles before it were made by another formula.
    #[error("simulated market has formula {FORMULA}, the candles so far were made by formula {found}")]
    Formula {
        /// The formula of the candles so far.
        found: u32,
    },
    /// Not a position.
    #[error("position {text:?} of the simulated market cannot be read")]
    Text {
        /// The text, cut.
        text: String,
    },
}

impl Simulator {
    /// Candles from the open time `start` on, beginning near 100.00 (two decimals; see [`Simulator::scale`]).
    pub fn new(seed: u64, interval: Interval, start: i64) -> Self {
        Self { walk: Walk::new(seed), interval, time: start }
    }

    /// Scale of all its series: prices and volumes with two decimals.
    pub fn scale() -> Scale {
        // Two decimals are always allowed.
        Scale::new(2, 2).unwrap_or_default()
    }

    /// Everything that the next candles depend on, except their times, as a short text.
    pub fn position(&self) -> String {
        let Walk { random, close, variance, drift } = &self.walk;
        format!("{FORMULA}:{:x}:{close:x}:{:x}:{:x}", random.state, variance.to_bits(), drift.to_bits())
    }

    /// Continues from a position; the next candle opens at `time`.
    ///
    /// # Errors
    /// [`PositionError::Formula`] for the position of another formula.
    pub fn resume(position: &str, interval: Interval, time: i64) -> Result<Self, PositionError> {
        let bad = || PositionError::Text { text: position.chars().take(80).collect() };
        let mut parts = position.split(':');
        let formula: u32 = parts.next().and_then(|part| part.parse().ok()).ok_or_else(bad)?;
        if formula != FORMULA {
            return Err(PositionError::Formula { found: formula });
        }
        let numbers: Result<Vec<u64>, ParseIntError> = parts.map(|part| u64::from_str_radix(part, 16)).collect();
        let Ok(&[state, close, variance, drift]) = numbers.as_deref() else { return Err(bad()) };
        let (variance, drift) = (f64::from_bits(variance), f64::from_bits(drift));
        let in_band = |close: &i64| (START_TICKS / BAND..=START_TICKS * BAND).contains(close);
        let close = i64::try_from(close).ok().filter(in_band).ok_or_else(bad)?;
        if !(0.0..=VARIANCE_MAX).contains(&variance) || !drift.is_finite() {
            return Err(bad());
        }
        Ok(Self { walk: Walk { random: SplitMix64::new(state), close, variance, drift }, interval, time })
    }

    fn step(&mut self) -> Candle {
        let Step { open, close, sigma, shock } = self.walk.step();
        let random = &mut self.walk.random;
        let mut wick = || (open as f64 * sigma * 0.6 * random.uniform() * random.uniform()).round() as i64;
        let (above, below) = (wick(), wick());
        let activity = 0.3 + random.uniform() + 150.0 * shock.abs();
        let candle = Candle {
            time: self.time,
            open,
            high: open.max(close) + above,
            low: (open.min(close) - below).max(1),
            close,
            volume: (activity * 100_000.0).round() as i64,
        };
        self.time = self.time.saturating_add(self.interval.millis());
        candle
    }
}

impl Iterator for Simulator {
    type Item = Candle;
    fn next(&mut self) -> Option<Candle> {
        Some(self.step())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn simulator(seed: u64) -> Simulator {
        Simulator::new(seed, "15m".parse().unwrap(), 1_640_995_200_000)
    }

    #[test]
    fn the_reference_values_of_the_generator() {
        let mut random = SplitMix64::new(1_234_567);
        assert_eq!([random.next_u64(), random.next_u64()], [6_457_827_717_110_365_317, 3_203_168_211_198_807_973]);
    }

    #[test]
    fn candles_are_sane_move_and_cluster() {
        for seed in 0..20 {
            let candles: Vec<Candle> = simulator(seed).take(5_000).collect();
            assert!(candles.iter().all(|c| c.check().is_ok()));
            assert!(candles.windows(2).all(|p| p[1].open == p[0].close && p[1].time - p[0].time == 900_000));
            let moves: Vec<f64> = candles.iter().map(|c| (c.close - c.open).abs() as f64 / c.open as f64).collect();
            let mean = moves.iter().sum::<f64>() / moves.len() as f64;
            assert!((0.0005..0.01).contains(&mean), "seed {seed}: {mean}");
            // Wild candles follow wild ones.
            let covariance: f64 = moves.windows(2).map(|p| (p[0] - mean) * (p[1] - mean)).sum();
            assert!(covariance > 0.0, "seed {seed}");
        }
    }

    #[test]
    fn a_restart_changes_nothing() {
        let mut whole = simulator(3);
        let mut stopped = whole.clone();
        for _ in 0..200 {
            stopped = serde_json::from_str(&serde_json::to_string(&stopped).unwrap()).unwrap();
            assert_eq!(whole.next(), stopped.next());
            stopped = Simulator::resume(&stopped.position(), stopped.interval, stopped.time).unwrap();
            assert_eq!(whole, stopped);
        }
    }

    #[test]
    fn a_position_of_another_formula_or_of_none_is_refused() {
        let resume = |text: &str| Simulator::resume(text, "15m".parse().unwrap(), 0);
        let position = simulator(3).position();
        assert!(resume(&position).is_ok());
        let other = position.replacen(&format!("{FORMULA}:"), "1:", 1);
        assert_eq!(resume(&other), Err(PositionError::Formula { found: 1 }));
        for bad in
            ["", "2", "2:0:0:0:0", "2:1:2710:1", "2:1:2710:7ff8000000000000:0", "2:1:ffffffffffffffff:1:1", "x:1"]
        {
            assert!(matches!(resume(bad), Err(PositionError::Text { .. })), "{bad}");
        }
    }

    /// The default demo once earned 1.7e14 in seventeen minutes, because prices had no bound but that of an overflow.
    #[test]
    fn prices_stay_in_their_band_for_ever_and_rarely_reach_its_ends() {
        const STEPS: usize = 2_000_000;
        let (low, high) = (START_TICKS / BAND, START_TICKS * BAND);
        let mut at_a_bound = 0;
        for seed in 0..25_u64 {
            let mut walk = Walk::new(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15));
            let mut above = 0;
            for _ in 0..STEPS {
                let Step { close, sigma, .. } = walk.step();
                assert!((low..=high).contains(&close) && sigma <= 0.05, "seed {seed}: {close}, {sigma}");
                at_a_bound += usize::from(close == low || close == high);
                above += usize::from(close > START_TICKS);
            }
            // It does not settle on one side either.
            assert!((STEPS / 10..STEPS * 9 / 10).contains(&above), "seed {seed}: {above}");
        }
        assert_eq!(at_a_bound, 0);
    }

    #[test]
    fn a_candle_is_at_most_three_hundredths_beyond_the_band() {
        let mut simulator = simulator(1);
        for close in [START_TICKS / BAND, START_TICKS * BAND] {
            (simulator.walk.close, simulator.walk.variance) = (close, VARIANCE_MAX);
            for candle in simulator.by_ref().take(10_000) {
                assert!(candle.check().is_ok());
                let (low, high) = (START_TICKS as f64 / BAND as f64 * 0.97, START_TICKS as f64 * BAND as f64 * 1.03);
                assert!(candle.low as f64 >= low && candle.high as f64 <= high, "{candle:?}");
            }
        }
    }
}
