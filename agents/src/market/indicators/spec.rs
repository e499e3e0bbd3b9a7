//! Indicators by name: `sma:20`, `macd:12,26,9`, `bollinger:20,2`.
//!
//! One table says what there is, with which parameters and lines. Values are in prices (or units of volume), as people
//! read them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::super::candle::{Candle, Scale};
use super::{
    Adx, Aroon, Atr, Bollinger, Cci, Di, Donchian, Ema, Indicator, LENGTH_MAX, Macd, Mfi, Momentum, Obv, Roc, Rsi, Sar,
    Sma, Stochastic, TrueRange, WilliamsR, Wma,
};

/// The most lines of one indicator.
pub const LINES_MAX: usize = 3;

/// An indicator's name, parameters with their usual values, and the names of its lines.
#[derive(Debug)]
pub struct IndicatorKind {
    /// What it is asked for by.
    pub name: &'static str,
    /// Usual parameters.
    pub usual: &'static [f64],
    /// Its lines; the parameters come behind each name.
    pub lines: &'static [&'static str],
    /// What it is, in a few words.
    pub what: &'static str,
}

macro_rules! kinds {
    ($($name:literal $usual:tt $lines:tt $what:literal),* $(,)?) => {
        /// Every indicator, in the order of the help text.
        pub const INDICATORS: &[IndicatorKind] =
            &[$(IndicatorKind { name: $name, usual: &$usual, lines: &$lines, what: $what }),*];
    };
}

kinds! {
    "sma" [20.0] ["sma"] "simple moving average",
    "ema" [20.0] ["ema"] "exponential moving average",
    "wma" [10.0] ["wma"] "linearly weighted moving average",
    "rsi" [14.0] ["rsi"] "relative strength index",
    "macd" [12.0, 26.0, 9.0] ["macd", "macd_signal", "macd_hist"] "moving average convergence / divergence",
    "bollinger" [20.0, 2.0] ["bb_upper", "bb_middle", "bb_lower"] "Bollinger bands",
    "stddev" [20.0] ["stddev"] "population standard deviation of closes",
    "max" [20.0] ["max"] "highest high",
    "min" [20.0] ["min"] "lowest low",
    "donchian" [20.0] ["dc_upper", "dc_lower"] "Donchian channel",
    "tr" [] ["tr"] "true range",
    "atr" [14.0] ["atr"] "average true range",
    "natr" [14.0] ["natr"] "average true range in percent of the close",
    "adx" [14.0] ["adx"] "average directional index",
    "di" [14.0] ["plus_di", "minus_di"] "directional indicators",
    "stoch" [14.0, 3.0, 3.0] ["stoch_k", "stoch_d"] "stochastic",
    "stochf" [14.0, 3.0] ["stochf_k", "stochf_d"] "fast stochastic",
    "cci" [20.0] ["cci"] "commodity channel index",
    "willr" [14.0] ["willr"] "Williams %R",
    "mfi" [14.0] ["mfi"] "money flow index",
    "obv" [] ["obv"] "on-balance volume",
    "roc" [10.0] ["roc"] "rate of change in percent",
    "mom" [10.0] ["mom"] "momentum",
    "aroon" [14.0] ["aroon_down", "aroon_up"] "Aroon",
    "sar" [0.02, 0.2] ["sar"] "parabolic stop and reverse",
}

/// Why a text names no indicator.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SpecError {
    /// No indicator has this name.
    #[error("there is no indicator {name:?}; there are {known}")]
    Unknown {
        /// The name given.
        name: String,
        /// Every name.
        known: String,
    },
    /// Not as many parameters as the indicator has.
    #[error("{name} takes {wanted} parameters, not {found}, as in {example}")]
    Count {
        /// Which indicator.
        name: &'static str,
        /// How many it has.
        wanted: usize,
        /// How many were given.
        found: usize,
        /// How it may be written.
        example: String,
    },
    /// A parameter is no number, or out of range.
    #[error("{name}: {text:?} is not {wanted}")]
    Parameter {
        /// Which indicator.
        name: &'static str,
        /// What was given.
        text: String,
        /// What would do.
        wanted: String,
    },
}

/// An indicator with its parameters. Reads and prints as `macd:12,26,9`.
#[derive(Debug, Clone, Copy)]
pub struct IndicatorSpec {
    kind: &'static IndicatorKind,
    /// As many as the kind has; the rest is 0.
    numbers: [f64; 3],
}

impl FromStr for IndicatorSpec {
    type Err = SpecError;
    fn from_str(text: &str) -> Result<Self, SpecError> {
        let (name, rest) = text.split_once(':').map_or((text, None), |(name, rest)| (name, Some(rest)));
        let name = name.trim().to_ascii_lowercase();
        let Some(kind) = INDICATORS.iter().find(|kind| kind.name == name) else {
            let known = INDICATORS.iter().map(|kind| kind.name).collect::<Vec<_>>().join(" ");
            return Err(SpecError::Unknown { name, known });
        };
        let mut numbers = [0.0; 3];
        numbers[..kind.usual.len()].copy_from_slice(kind.usual);
        let usual = Self { kind, numbers };
        let given: Vec<&str> = rest.map(|rest| rest.split(',').map(str::trim).collect()).unwrap_or_default();
        if rest.is_some() && given.len() != kind.usual.len() {
            let (wanted, found) = (kind.usual.len(), given.len());
            return Err(SpecError::Count { name: kind.name, wanted, found, example: usual.to_string() });
        }
        for (place, text) in given.iter().enumerate() {
            numbers[place] = parameter(kind, place, text)?;
        }
        let spec = Self { kind, numbers };
        if kind.name == "macd" && numbers[0] >= numbers[1] {
            let wanted = format!("a fast period below the slow one, {}", numbers[1]);
            return Err(SpecError::Parameter { name: "macd", text: given[0].into(), wanted });
        }
        Ok(spec)
    }
}

fn parameter(kind: &'static IndicatorKind, place: usize, text: &str) -> Result<f64, SpecError> {
    let is_real = matches!((kind.name, place), ("sar", _) | ("bollinger", 1));
    let wanted =
        if is_real { "a number above 0, at most 100".into() } else { format!("a whole number from 1 to {LENGTH_MAX}") };
    let most = if is_real { 100.0 } else { LENGTH_MAX as f64 - 1.0 };
    let good = |n: &f64| *n > 0.0 && *n <= most && (is_real || n.fract() == 0.0);
    let number = text.parse::<f64>().ok().filter(good);
    number.ok_or_else(|| SpecError::Parameter { name: kind.name, text: text.chars().take(40).collect(), wanted })
}

impl fmt::Display for IndicatorSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind.name)?;
        for (place, number) in self.numbers().iter().enumerate() {
            write!(f, "{}{number}", if place == 0 { ':' } else { ',' })?;
        }
        Ok(())
    }
}

impl IndicatorSpec {
    fn numbers(&self) -> &[f64] {
        &self.numbers[..self.kind.usual.len()]
    }

    /// Names of its lines with the parameters behind: `macd_signal_12_26_9`.
    pub fn lines(&self) -> Vec<String> {
        let behind: String = self.numbers().iter().map(|number| format!("_{number}")).collect();
        self.kind.lines.iter().map(|line| format!("{line}{behind}")).collect()
    }

    /// The indicator with nothing seen yet.
    pub fn build(&self) -> AnyIndicator {
        use AnyIndicator as A;
        let [a, b, c] = self.numbers;
        let (n, p) = (a as usize, a as u32);
        match self.kind.name {
            "ema" => A::Ema(Ema::new(p)),
            "wma" => A::Wma(Wma::new(n)),
            "rsi" => A::Rsi(Rsi::new(p)),
            "macd" => A::Macd(Macd::new(p, b as u32, c as u32)),
            "bollinger" => A::Bollinger(Bollinger::new(n, b)),
            "stddev" => A::Stddev(Bollinger::new(n, 1.0)),
            "max" => A::Max(Donchian::new(n)),
            "min" => A::Min(Donchian::new(n)),
            "donchian" => A::Donchian(Donchian::new(n)),
            "tr" => A::Tr(TrueRange::default()),
            "atr" => A::Atr(Atr::new(p)),
            "natr" => A::Natr(Atr::new(p)),
            "adx" => A::Adx(Adx::new(p)),
            "di" => A::Di(Di::new(p)),
            "stoch" => A::Stochastic(Stochastic::new(n, b as usize, c as usize)),
            "stochf" => A::Stochastic(Stochastic::new(n, 1, b as usize)),
            "cci" => A::Cci(Cci::new(n)),
            "willr" => A::WilliamsR(WilliamsR::new(n)),
            "mfi" => A::Mfi(Mfi::new(n)),
            "obv" => A::Obv(Obv::default()),
            "roc" => A::Roc(Roc::new(n)),
            "mom" => A::Momentum(Momentum::new(n)),
            "aroon" => A::Aroon(Aroon::new(p)),
            "sar" => A::Sar(Sar::new(a, b)),
            // The first of the table.
            _ => A::Sma(Sma::new(n)),
        }
    }
}

/// Any of the indicators. Serialises, and resumes bit for bit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "name", content = "state", rename_all = "lowercase")]
#[non_exhaustive]
#[allow(missing_docs, reason = "each variant is the type in it; the table above says what it is")]
pub enum AnyIndicator {
    Sma(Sma),
    Ema(Ema),
    Wma(Wma),
    Rsi(Rsi),
    Macd(Macd),
    Bollinger(Bollinger),
    Stddev(Bollinger),
    Max(Donchian),
    Min(Donchian),
    Donchian(Donchian),
    Tr(TrueRange),
    Atr(Atr),
    Natr(Atr),
    Adx(Adx),
    Di(Di),
    Stochastic(Stochastic),
    Cci(Cci),
    WilliamsR(WilliamsR),
    Mfi(Mfi),
    Obv(Obv),
    Roc(Roc),
    Momentum(Momentum),
    Aroon(Aroon),
    Sar(Sar),
}

impl AnyIndicator {
    /// Takes the next closed candle; answers its lines, in the order of [`IndicatorSpec::lines`], once it is warm.
    /// Lines that it has not are 0. Everything is finite.
    pub fn update(&mut self, candle: &Candle, scale: Scale) -> Option<[f64; LINES_MAX]> {
        let price = |ticks: f64| scale.price(ticks);
        let one = |value: f64| [value, 0.0, 0.0];
        let (ticks, close) = (candle.close, candle.close as f64);
        match self {
            Self::Sma(i) => i.update(ticks).map(price).map(one),
            Self::Ema(i) => i.update(close).map(price).map(one),
            Self::Wma(i) => i.update(ticks).map(price).map(one),
            Self::Rsi(i) => i.update(ticks).map(one),
            Self::Macd(i) => i.update(close).map(|m| [price(m.macd), price(m.signal), price(m.histogram)]),
            Self::Bollinger(i) => i.update(ticks).map(|b| [price(b.upper), price(b.middle), price(b.lower)]),
            Self::Stddev(i) => i.update(ticks).map(|b| one(price(b.deviation))),
            Self::Max(i) => i.update(*candle).map(|d| one(price(d.upper as f64))),
            Self::Min(i) => i.update(*candle).map(|d| one(price(d.lower as f64))),
            Self::Donchian(i) => i.update(*candle).map(|d| [price(d.upper as f64), price(d.lower as f64), 0.0]),
            Self::Tr(i) => i.update(*candle).map(|v| one(price(v as f64))),
            Self::Atr(i) => i.update(*candle).map(price).map(one),
            Self::Natr(i) => i.update(*candle).map(|atr| one(if ticks == 0 { 0.0 } else { 100.0 * atr / close })),
            Self::Adx(i) => i.update(*candle).map(one),
            Self::Di(i) => i.update(*candle).map(|d| [d.plus, d.minus, 0.0]),
            Self::Stochastic(i) => i.update(*candle).map(|s| [s.k, s.d, 0.0]),
            Self::Cci(i) => i.update(*candle).map(one),
            Self::WilliamsR(i) => i.update(*candle).map(one),
            Self::Mfi(i) => i.update(*candle).map(one),
            Self::Obv(i) => i.update(*candle).map(|v| one(scale.volume(v))),
            Self::Roc(i) => i.update(ticks).map(one),
            Self::Momentum(i) => i.update(ticks).map(|v| one(price(v as f64))),
            Self::Aroon(i) => i.update(*candle).map(|a| [a.down, a.up, 0.0]),
            Self::Sar(i) => i.update(*candle).map(price).map(one),
        }
    }
}
