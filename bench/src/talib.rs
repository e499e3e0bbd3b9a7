//! Indicators beside TA-Lib, in one run: its own Rust port, which is generated from the definitions that its C comes from.
//!
//! Both write into memory that is used again, and read columns: TA-Lib of floats, ours of ticks.

use std::{hint::black_box, time::Instant};

use atra_agents::market::{
    candle::Candle,
    indicators::{Adx, Atr, Bollinger, Cci, Ema, Indicator, Macd, Mfi, Rsi, Sma, Stochastic, values_into},
};
use ta_lib::{Core, MAType, OutRange, RetCode};

use crate::{
    measure::{Contender, Scale, medians, millis},
    report::{Case, Reporter, Unit},
};

/// Calls in a turn: one alone is too short to be measured well.
const CALLS: usize = 5;

type Answer = Result<OutRange, RetCode>;

/// TA-Lib, the prices as it takes them, and room for three lines of output.
struct Talib {
    core: Core,
    high: Vec<f64>,
    low: Vec<f64>,
    close: Vec<f64>,
    volume: Vec<f64>,
    lines: [Vec<f64>; 3],
}

impl Talib {
    fn new(candles: &[Candle]) -> Self {
        let column = |of: fn(&Candle) -> i64| candles.iter().map(|candle| of(candle) as f64).collect();
        let (high, low, close, volume) =
            (column(|c| c.high), column(|c| c.low), column(|c| c.close), column(|c| c.volume));
        let line = vec![0.0; candles.len()];
        Self { core: Core::new(), high, low, close, volume, lines: [line.clone(), line.clone(), line] }
    }
}

/// Times `ours` and `theirs` by turns.
fn pair(
    scale: Scale,
    reporter: &mut Reporter,
    name: &str,
    talib: &mut Talib,
    mut ours: impl FnMut(),
    theirs: impl Fn(&mut Talib),
) {
    let mut contenders = [
        Contender::new("atra", || {
            let start = Instant::now();
            (0..CALLS).for_each(|_| ours());
            millis(start) / CALLS as f64
        }),
        Contender::new("TA-Lib", || {
            let start = Instant::now();
            (0..CALLS).for_each(|_| theirs(talib));
            millis(start) / CALLS as f64
        }),
    ];
    let values = medians(scale.turns, &mut contenders);
    let case = Case { bench: "market", name, unit: Unit::Milliseconds };
    reporter.print(&case.report(values[0], "TA-Lib 0.8.3, its Rust port", values[1]));
}

/// Ticks and lots in columns.
struct Columns([Vec<i64>; 4]);

impl Columns {
    fn new(candles: &[Candle]) -> Self {
        let of: [fn(&Candle) -> i64; 4] = [|c| c.high, |c| c.low, |c| c.close, |c| c.volume];
        Self(of.map(|of| candles.iter().map(of).collect()))
    }

    /// High, low and close.
    fn prices(&self) -> impl ExactSizeIterator<Item = Candle> {
        let [highs, lows, closes, _] = &self.0;
        let rows = highs.iter().zip(lows).zip(closes);
        rows.map(|((&high, &low), &close)| Candle { high, low, close, ..Candle::default() })
    }

    /// The same with the volume.
    fn all(&self) -> impl ExactSizeIterator<Item = Candle> {
        self.prices().zip(&self.0[3]).map(|(candle, &volume)| Candle { volume, ..candle })
    }
}

/// An indicator of ours as a turn.
fn turn<'a, I: Indicator, T: ExactSizeIterator<Item = I::Input>>(
    make: impl Fn() -> I + 'a,
    inputs: impl Fn() -> T + 'a,
) -> Box<dyn FnMut() + 'a>
where
    I::Output: 'a,
{
    let mut values = Vec::new();
    Box::new(move || {
        black_box(values_into(make(), inputs(), &mut values));
        black_box(&mut values);
    })
}

/// Every indicator that both have, over the same candles.
pub(crate) fn run(scale: Scale, reporter: &mut Reporter, candles: &[Candle]) {
    let ticks: Vec<i64> = candles.iter().map(|candle| candle.close).collect();
    let closes: Vec<f64> = ticks.iter().map(|close| *close as f64).collect();
    let columns = Columns::new(candles);
    let (ticks, floats) = (|| ticks.iter().copied(), || closes.iter().copied());
    let (prices, all) = (|| columns.prices(), || columns.all());
    let end = candles.len() - 1;
    let mut talib = Talib::new(candles);
    let mut case = |name, mut ours: Box<dyn FnMut() + '_>, theirs: fn(&mut Talib, usize) -> Answer| {
        pair(scale, reporter, name, &mut talib, &mut ours, |talib| {
            black_box(theirs(talib, end).expect("parameters in range"));
        });
    };
    case("SMA(20)", turn(|| Sma::new(20), ticks), |t, end| t.core.sma(0, end, &t.close, 20, &mut t.lines[0]));
    case("EMA(26)", turn(|| Ema::new(26), floats), |t, end| t.core.ema(0, end, &t.close, 26, &mut t.lines[0]));
    case("RSI(14)", turn(|| Rsi::new(14), ticks), |t, end| t.core.rsi(0, end, &t.close, 14, &mut t.lines[0]));
    case("ATR(14)", turn(|| Atr::new(14), prices), |t, end| {
        t.core.atr(0, end, &t.high, &t.low, &t.close, 14, &mut t.lines[0])
    });
    case("ADX(14)", turn(|| Adx::new(14), prices), |t, end| {
        t.core.adx(0, end, &t.high, &t.low, &t.close, 14, &mut t.lines[0])
    });
    case("MACD(12,26,9)", turn(|| Macd::new(12, 26, 9), floats), |t, end| {
        let [a, b, c] = &mut t.lines;
        t.core.macd(0, end, &t.close, 12, 26, 9, a, b, c)
    });
    case("Bollinger(20,2)", turn(|| Bollinger::new(20, 2.0), ticks), |t, end| {
        let [a, b, c] = &mut t.lines;
        t.core.bbands(0, end, &t.close, 20, 2.0, 2.0, MAType::SMA, a, b, c)
    });
    case("Stochastic(14,3,3)", turn(|| Stochastic::new(14, 3, 3), prices), |t, end| {
        let [a, b, _] = &mut t.lines;
        t.core.stoch(0, end, &t.high, &t.low, &t.close, 14, 3, MAType::SMA, 3, MAType::SMA, a, b)
    });
    case("CCI(20)", turn(|| Cci::new(20), prices), |t, end| {
        t.core.cci(0, end, &t.high, &t.low, &t.close, 20, &mut t.lines[0])
    });
    case("MFI(14)", turn(|| Mfi::new(14), all), |t, end| {
        t.core.mfi(0, end, &t.high, &t.low, &t.close, &t.volume, 14, &mut t.lines[0])
    });
}
