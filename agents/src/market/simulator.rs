//! A market out of a seed, for when there are no data.
//!
//! Returns are near-normal with a variance that clusters (GARCH(1,1)), a slow drift that changes sign now and then, and
//! heavier volume on wilder candles. Made of SplitMix64 and arithmetic that is exact everywhere (no `exp`, no `ln`), so a
//! seed gives the same candles on every machine. It is plausible, not predictive: nothing found on it says anything
//! about a real market.

use serde::{Deserialize, Serialize};

use super::candle::{Candle, Interval, Scale};

/// GARCH parameters a candle: base variance (0.3 % a candle in the long run), weight of the last square, persistence.
const OMEGA: f64 = 0.003 * 0.003 * (1.0 - ALPHA - BETA);
const ALPHA: f64 = 0.08;
const BETA: f64 = 0.90;
/// Mean candles until the drift is drawn anew: about four days of quarter hours.
const REGIME_CANDLES: u64 = 400;
/// Prices stay between these ticks: the walk is reflected there.
const TICKS_LOW: f64 = 1_000.0;
const TICKS_HIGH: f64 = 1e12;

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

/// An endless series of candles out of a seed. Resumes bit for bit from its JSON.
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
    random: SplitMix64,
    interval: Interval,
    time: i64,
    close: i64,
    variance: f64,
    drift: f64,
}

impl Simulator {
    /// Candles from the open time `start` on, beginning near 100.00 (two decimals; see [`Simulator::scale`]).
    pub fn new(seed: u64, interval: Interval, start: i64) -> Self {
        let variance = OMEGA / (1.0 - ALPHA - BETA);
        Self { random: SplitMix64::new(seed), interval, time: start, close: 10_000, variance, drift: 0.0 }
    }

    /// Scale of all its series: prices and volumes with two decimals.
    pub fn scale() -> Scale {
        // Two decimals are always allowed.
        Scale::new(2, 2).unwrap_or_default()
    }

    fn step(&mut self) -> Candle {
        if self.random.next_u64().is_multiple_of(REGIME_CANDLES) {
            self.drift = self.random.normal() * 0.000_15;
        }
        let sigma = self.variance.sqrt();
        let shock = sigma * self.random.normal();
        self.variance = OMEGA + ALPHA * shock * shock + BETA * self.variance;
        // A jump beyond ± 30 % in one candle is no market; the bound also keeps the price positive.
        let change = (self.drift + shock).clamp(-0.3, 0.3);
        let open = self.close as f64;
        let close = (open * (1.0 + change)).clamp(TICKS_LOW, TICKS_HIGH);
        let mut wick = || open * sigma * 0.6 * self.random.uniform() * self.random.uniform();
        let (above, below) = (wick(), wick());
        let (open, close) = (open as i64, close.round() as i64);
        let high = open.max(close) + above.round() as i64;
        let low = (open.min(close) - below.round() as i64).max(1);
        let activity = 0.3 + self.random.uniform() + 150.0 * shock.abs();
        let candle = Candle { time: self.time, open, high, low, close, volume: (activity * 100_000.0).round() as i64 };
        self.close = close;
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
        }
    }
}
