//! Candles as exact integers, and the names of the series that they belong to.
//!
//! A price is a whole number of ticks, a volume a whole number of lots; a [`Scale`] says how many decimals a tick and a
//! lot have. So comparisons, sums and money are exact, and no decision hangs on how a float was rounded. A series has
//! one scale for its whole life: whoever imports more decimals rescales the series first ([`Scale::widest`],
//! [`Candle::rescale`]).
//!
//! Limits: prices up to [`TICKS_MAX`] ticks and volumes up to [`LOTS_MAX`] lots, both exact in an `f64`; up to
//! [`DECIMALS_MAX`] decimals.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The greatest price in ticks: 10^15, below 2^53, so that a price is exact in an `f64` and 9,000 of them sum in an `i64`.
pub const TICKS_MAX: i64 = 1_000_000_000_000_000;
/// The greatest volume in lots: 2^53, the last integer up to which an `f64` is exact.
pub const LOTS_MAX: i64 = 1 << 53;
/// The greatest number of decimals of a tick or a lot; the cheapest coins are quoted with ten.
pub const DECIMALS_MAX: u8 = 12;
/// The longest ticker, in bytes: it becomes a token of a topic and a part of keys.
pub const TICKER_BYTES_MAX: usize = 32;

const POWERS: [i64; 19] = {
    let mut powers = [1; 19];
    let mut i = 1;
    while i < 19 {
        powers[i] = powers[i - 1] * 10;
        i += 1;
    }
    powers
};

/// 10 to the power of `decimals`, for decimals up to 18.
#[inline]
pub(crate) fn power_of_ten(decimals: u8) -> i64 {
    POWERS[usize::from(decimals.min(18))]
}

/// One candle of a series: prices in ticks, volume in lots, as the series' [`Scale`] counts them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Candle {
    /// Open time, milliseconds since 1970 in UTC. The candle is known at `time` + interval.
    pub time: i64,
    /// First price, in ticks.
    pub open: i64,
    /// Highest price, in ticks; at least `open` and `close`.
    pub high: i64,
    /// Lowest price, in ticks; at most `open` and `close`.
    pub low: i64,
    /// Last price, in ticks.
    pub close: i64,
    /// Traded quantity, in lots.
    pub volume: i64,
}

/// Why four prices and a volume are not a candle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum CandleFault {
    /// A price is below zero.
    #[error("a price is negative")]
    NegativePrice,
    /// A price is zero: nothing could have been bought with it.
    #[error("a price is zero")]
    ZeroPrice,
    /// The volume is below zero.
    #[error("the volume is negative")]
    NegativeVolume,
    /// The highest price is below the lowest.
    #[error("high is below low")]
    HighBelowLow,
    /// Open or close lie above the highest price.
    #[error("high is below open or close")]
    HighTooLow,
    /// Open or close lie below the lowest price.
    #[error("low is above open or close")]
    LowTooHigh,
    /// A number is greater than what ticks or lots can hold exactly.
    #[error("a number is out of range")]
    OutOfRange,
}

impl Candle {
    /// Checks that the prices can be a candle's: positive, in range, low ≤ open, close ≤ high.
    ///
    /// # Errors
    /// The first fault found, in the order of [`CandleFault`]'s variants.
    pub fn check(&self) -> Result<(), CandleFault> {
        let least = self.open.min(self.high).min(self.low).min(self.close);
        let greatest = self.open.max(self.high).max(self.low).max(self.close);
        if least > 0
            && greatest == self.high
            && least == self.low
            && greatest <= TICKS_MAX
            && (0..=LOTS_MAX).contains(&self.volume)
        {
            return Ok(());
        }
        Err(if least < 0 {
            CandleFault::NegativePrice
        } else if least == 0 {
            CandleFault::ZeroPrice
        } else if self.volume < 0 {
            CandleFault::NegativeVolume
        } else if self.high < self.low {
            CandleFault::HighBelowLow
        } else if greatest > self.high {
            CandleFault::HighTooLow
        } else if least < self.low {
            CandleFault::LowTooHigh
        } else {
            CandleFault::OutOfRange
        })
    }

    /// Expresses the candle in a scale with as many decimals or more; `None` if that would lose digits or leave the range.
    ///
    /// # Examples
    /// ```
    /// use atra_agents::market::candle::{Candle, Scale};
    /// let candle = Candle { time: 0, open: 12, high: 13, low: 11, close: 12, volume: 5 };
    /// let wider = candle.rescale(Scale::new(1, 0).unwrap(), Scale::new(3, 0).unwrap()).unwrap();
    /// assert_eq!(wider.open, 1200);
    /// ```
    pub fn rescale(&self, from: Scale, to: Scale) -> Option<Self> {
        let price = power_of_ten(to.price.checked_sub(from.price)?);
        let volume = power_of_ten(to.volume.checked_sub(from.volume)?);
        let scaled = Self {
            time: self.time,
            open: self.open.checked_mul(price)?,
            high: self.high.checked_mul(price)?,
            low: self.low.checked_mul(price)?,
            close: self.close.checked_mul(price)?,
            volume: self.volume.checked_mul(volume)?,
        };
        (scaled.high <= TICKS_MAX && scaled.volume <= LOTS_MAX).then_some(scaled)
    }
}

/// How many decimals a tick and a lot of a series have. Serialises as `[price, volume]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(try_from = "(u8, u8)", into = "(u8, u8)")]
pub struct Scale {
    price: u8,
    volume: u8,
}

impl Scale {
    /// A scale of the given decimals.
    ///
    /// # Errors
    /// More than [`DECIMALS_MAX`] decimals.
    pub fn new(price: u8, volume: u8) -> Result<Self, KeyError> {
        match price.max(volume) {
            most if most > DECIMALS_MAX => Err(KeyError::Decimals { decimals: most, limit: DECIMALS_MAX }),
            _ => Ok(Self { price, volume }),
        }
    }

    /// Decimals of a tick: 3 means that a tick is 0.001.
    pub fn price_decimals(self) -> u8 {
        self.price
    }

    /// Decimals of a lot of volume.
    pub fn volume_decimals(self) -> u8 {
        self.volume
    }

    /// The scale that holds both without loss.
    pub fn widest(self, other: Self) -> Self {
        Self { price: self.price.max(other.price), volume: self.volume.max(other.volume) }
    }

    /// A price in ticks (or a mean of prices) as the number that people read.
    pub fn price(self, ticks: f64) -> f64 {
        ticks / power_of_ten(self.price) as f64
    }

    /// A volume in lots as the number that people read.
    pub fn volume(self, lots: i64) -> f64 {
        lots as f64 / power_of_ten(self.volume) as f64
    }
}

impl TryFrom<(u8, u8)> for Scale {
    type Error = KeyError;
    fn try_from((price, volume): (u8, u8)) -> Result<Self, KeyError> {
        Self::new(price, volume)
    }
}

impl From<Scale> for (u8, u8) {
    fn from(scale: Scale) -> Self {
        (scale.price, scale.volume)
    }
}

/// Why a name is not an interval's, a ticker's or a series'.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum KeyError {
    /// Not a whole number followed by `s`, `m`, `h`, `d` or `w`.
    #[error("interval {text:?} is not a whole number followed by s, m, h, d or w (as in 15m)")]
    Interval {
        /// The text given.
        text: String,
    },
    /// Empty, too long, or with a character outside `A-Za-z0-9_-`.
    #[error("ticker {text:?} is not 1 to {limit} of the characters A-Z a-z 0-9 _ -")]
    Ticker {
        /// The text given.
        text: String,
        /// [`TICKER_BYTES_MAX`].
        limit: usize,
    },
    /// No dot between ticker and interval.
    #[error("series {text:?} is not TICKER.INTERVAL (as in BTCUSDT.15m)")]
    Series {
        /// The text given.
        text: String,
    },
    /// More decimals than a tick or a lot can have.
    #[error("{decimals} decimals are more than the limit of {limit}")]
    Decimals {
        /// The decimals asked for.
        decimals: u8,
        /// [`DECIMALS_MAX`].
        limit: u8,
    },
}

/// The fixed length of a series' candles, such as `15m`. Serialises as that text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Interval {
    /// Positive, whole seconds, at most 52 weeks.
    millis: i64,
}

/// Units by descending length, so that [`Interval`] prints in the largest that divides it.
const UNITS: [(char, i64); 5] = [('w', 604_800_000), ('d', 86_400_000), ('h', 3_600_000), ('m', 60_000), ('s', 1_000)];

impl Interval {
    /// An interval of whole seconds, up to 52 weeks; `None` for anything else.
    pub const fn from_millis(millis: i64) -> Option<Self> {
        if millis <= 0 || millis % 1_000 != 0 || millis > 52 * 604_800_000 { None } else { Some(Self { millis }) }
    }

    /// Its length in milliseconds.
    pub const fn millis(self) -> i64 {
        self.millis
    }
}

impl FromStr for Interval {
    type Err = KeyError;
    fn from_str(text: &str) -> Result<Self, KeyError> {
        let error = || KeyError::Interval { text: text.chars().take(40).collect() };
        let unit = text.chars().last().ok_or_else(error)?;
        let (_, length) = UNITS.into_iter().find(|(name, _)| *name == unit).ok_or_else(error)?;
        let count: u32 = text[..text.len() - 1].parse().map_err(|_| error())?;
        Self::from_millis(i64::from(count) * length).ok_or_else(error)
    }
}

impl fmt::Display for Interval {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, length) in UNITS {
            if self.millis % length == 0 {
                return write!(f, "{}{name}", self.millis / length);
            }
        }
        Ok(())
    }
}

impl TryFrom<String> for Interval {
    type Error = KeyError;
    fn try_from(text: String) -> Result<Self, KeyError> {
        text.parse()
    }
}

impl From<Interval> for String {
    fn from(interval: Interval) -> Self {
        interval.to_string()
    }
}

/// The name of a series: `TICKER.15m`, two topic tokens. Cheap to clone; orders and serialises as that text.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SeriesKey {
    /// The whole name; first, so that the derived order is the text's.
    name: Arc<str>,
    interval: Interval,
}

impl SeriesKey {
    /// The key of a ticker's candles of one interval.
    ///
    /// # Errors
    /// A ticker that is no topic token of at most [`TICKER_BYTES_MAX`] bytes.
    pub fn new(ticker: &str, interval: Interval) -> Result<Self, KeyError> {
        let is_token = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
        if ticker.is_empty() || ticker.len() > TICKER_BYTES_MAX || !ticker.bytes().all(is_token) {
            return Err(KeyError::Ticker { text: ticker.chars().take(40).collect(), limit: TICKER_BYTES_MAX });
        }
        Ok(Self { name: format!("{ticker}.{interval}").into(), interval })
    }

    /// The ticker, such as `BTCUSDT`.
    pub fn ticker(&self) -> &str {
        self.name.split('.').next().unwrap_or_default()
    }

    /// The length of the series' candles.
    pub fn interval(&self) -> Interval {
        self.interval
    }

    /// The whole name, such as `BTCUSDT.15m`.
    pub fn as_str(&self) -> &str {
        &self.name
    }
}

impl fmt::Display for SeriesKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl FromStr for SeriesKey {
    type Err = KeyError;
    fn from_str(text: &str) -> Result<Self, KeyError> {
        let (ticker, interval) =
            text.split_once('.').ok_or_else(|| KeyError::Series { text: text.chars().take(80).collect() })?;
        Self::new(ticker, interval.parse()?)
    }
}

impl Serialize for SeriesKey {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.name)
    }
}

/// By hand, because it runs once per candle: a derived `try_from = "String"` would allocate twice more.
impl<'de> Deserialize<'de> for SeriesKey {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl serde::de::Visitor<'_> for Text {
            type Value = SeriesKey;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a series name such as BTCUSDT.15m")
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<SeriesKey, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_str(Text)
    }
}

/// A closed candle with the series it belongs to: the payload of `market.candle`.
///
/// Its JSON is about 100 bytes, because it is journalled once per candle:
/// `{"series":"DOTUSDT.15m","time":1640995200000,"ohlcv":[26650,26885,26643,26806,2233575],"scale":[3,1]}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "CandleJson", into = "CandleJson")]
pub struct SeriesCandle {
    /// Which series.
    pub series: SeriesKey,
    /// How its ticks and lots are counted.
    pub scale: Scale,
    /// The candle.
    pub candle: Candle,
}

impl SeriesCandle {
    /// When the candle became known: open time + interval, in milliseconds. This is its event's time.
    pub fn known_at(&self) -> i64 {
        self.candle.time.saturating_add(self.series.interval().millis())
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct CandleJson {
    series: SeriesKey,
    time: i64,
    ohlcv: [i64; 5],
    scale: Scale,
}

impl TryFrom<CandleJson> for SeriesCandle {
    type Error = CandleFault;
    fn try_from(json: CandleJson) -> Result<Self, CandleFault> {
        let [open, high, low, close, volume] = json.ohlcv;
        let candle = Candle { time: json.time, open, high, low, close, volume };
        candle.check()?;
        Ok(Self { series: json.series, scale: json.scale, candle })
    }
}

impl From<SeriesCandle> for CandleJson {
    fn from(event: SeriesCandle) -> Self {
        let Candle { time, open, high, low, close, volume } = event.candle;
        Self { series: event.series, time, ohlcv: [open, high, low, close, volume], scale: event.scale }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_prints_in_its_largest_unit() {
        for (text, printed) in [("1m", "1m"), ("15m", "15m"), ("60m", "1h"), ("4h", "4h"), ("24h", "1d"), ("7d", "1w")]
        {
            assert_eq!(text.parse::<Interval>().unwrap().to_string(), printed);
        }
        for bad in ["", "m", "0m", "-1m", "15", "1.5h", "1M", "ü", "99999999w"] {
            assert!(bad.parse::<Interval>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_series_name_round_trips_and_bad_tickers_are_refused() {
        let key: SeriesKey = "BTC_USDT-P.15m".parse().unwrap();
        assert_eq!((key.ticker(), key.interval().millis(), key.as_str()), ("BTC_USDT-P", 900_000, "BTC_USDT-P.15m"));
        for bad in [".15m", "A B.15m", "BTC/USDT.15m", "BTC", "BTC.", &format!("{}.1m", "A".repeat(33))] {
            assert!(bad.parse::<SeriesKey>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_candle_event_is_small_and_round_trips() {
        let event = SeriesCandle {
            series: "DOTUSDT.15m".parse().unwrap(),
            scale: Scale::new(3, 1).unwrap(),
            candle: Candle {
                time: 1_640_995_200_000,
                open: 26650,
                high: 26885,
                low: 26643,
                close: 26806,
                volume: 2_233_575,
            },
        };
        let json = serde_json::to_string(&event).unwrap();
        assert!(json.len() <= 110, "{} bytes: {json}", json.len());
        assert_eq!(serde_json::from_str::<SeriesCandle>(&json).unwrap(), event);
        assert_eq!(event.known_at(), 1_640_996_100_000);
        assert!(serde_json::from_str::<SeriesCandle>(&json.replace("26885", "26")).is_err());
        assert!(serde_json::from_str::<SeriesCandle>(&json.replace("[3,1]", "[30,1]")).is_err());
    }

    #[test]
    fn each_fault_is_named() {
        let good = Candle { time: 0, open: 10, high: 12, low: 9, close: 11, volume: 0 };
        assert_eq!(good.check(), Ok(()));
        assert_eq!(Candle { open: -1, ..good }.check(), Err(CandleFault::NegativePrice));
        assert_eq!(Candle { low: 0, ..good }.check(), Err(CandleFault::ZeroPrice));
        assert_eq!(Candle { volume: -1, ..good }.check(), Err(CandleFault::NegativeVolume));
        assert_eq!(Candle { high: 8, ..good }.check(), Err(CandleFault::HighBelowLow));
        assert_eq!(Candle { close: 13, ..good }.check(), Err(CandleFault::HighTooLow));
        assert_eq!(Candle { open: 8, ..good }.check(), Err(CandleFault::LowTooHigh));
        assert_eq!(Candle { high: TICKS_MAX + 1, ..good }.check(), Err(CandleFault::OutOfRange));
        assert_eq!(Candle { high: TICKS_MAX, ..good }.check(), Ok(()));
    }
}
