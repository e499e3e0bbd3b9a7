//! What an equity curve and its trades amount to.
//!
//! [`EquityStats`] takes one mark a candle and keeps a few sums, so the report of a running desk and that of a back-test
//! come from the same arithmetic. Daily means: last equity of each UTC day, simple returns, risk-free rate 0, annualised
//! with 365 days if any mark lies on a weekend, else with 252. Drawdown is on candle equity. A ratio that does not exist
//! (no trades, no variance) is `None`, never NaN.

use serde::{Deserialize, Serialize};

use super::candle::Candle;
use super::fill::Trade;

const DAY_MILLIS: i64 = 86_400_000;
const YEAR_MILLIS: f64 = 365.25 * 86_400_000.0;

/// Streaming sums over an equity curve and its trades. Resumes bit for bit from its JSON.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct EquityStats {
    start: f64,
    first_time: Option<i64>,
    last_time: i64,
    equity: f64,
    bars: u64,
    exposed_bars: u64,
    weekend: bool,
    /// Last equity of the day before the current one.
    day_before: Option<f64>,
    /// Completed daily returns: count, mean and sum of squared deviations (Welford), squares of the losses.
    days: u64,
    mean: f64,
    deviations: f64,
    losses_squared: f64,
    peak: f64,
    /// When the curve was last at its peak.
    peak_time: i64,
    drawdown_max: f64,
    underwater_max: i64,
    trades: u64,
    wins: u64,
    won: f64,
    lost: f64,
    fees: f64,
    traded: f64,
    #[serde(skip)]
    hint: Hint,
}

/// What follows from the rest, and saves a division a mark: no part of the state, and equal to any other.
#[derive(Debug, Clone, Copy)]
struct Hint {
    /// Where the day of the last mark ends; unknown after a restart.
    day_end: i64,
    /// The lowest equity since the peak that the greatest drawdown has been compared with.
    trough: f64,
}

impl Default for Hint {
    fn default() -> Self {
        Self { day_end: i64::MIN, trough: f64::INFINITY }
    }
}

impl PartialEq for Hint {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

/// What an equity curve amounts to. Shares are of 1: a return of 0.5 is 50 %.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Metrics {
    /// Equity at the end.
    pub final_equity: f64,
    /// Total return.
    pub return_share: f64,
    /// Compound annual growth rate on years of 365.25 days; `None` without a span or without equity left.
    pub cagr: Option<f64>,
    /// Days a year used to annualise: 365 or 252.
    pub days_per_year: u32,
    /// Daily returns in all.
    pub days: u64,
    /// Mean daily return / standard deviation (ddof 1), annualised.
    pub sharpe: Option<f64>,
    /// Mean daily return / root mean square of the losses, annualised.
    pub sortino: Option<f64>,
    /// Standard deviation of daily returns, annualised.
    pub volatility: Option<f64>,
    /// Greatest fall from a peak, as a positive share.
    pub drawdown_max: f64,
    /// Longest time below a peak, in milliseconds.
    pub drawdown_longest_ms: i64,
    /// Growth rate / greatest drawdown.
    pub calmar: Option<f64>,
    /// Closed trades.
    pub trades: u64,
    /// Share of trades with a profit after both fees.
    pub win_rate: Option<f64>,
    /// Sum of wins / sum of losses, in money.
    pub profit_factor: Option<f64>,
    /// Mean profit of a trade, in money.
    pub expectancy: Option<f64>,
    /// Fees of closed trades.
    pub fees: f64,
    /// Traded notional / starting equity.
    pub turnover: f64,
    /// Share of candles at whose close a position was open.
    pub exposure: f64,
}

impl EquityStats {
    /// Nothing marked yet, from a starting equity.
    pub fn new(start: f64) -> Self {
        Self { start, equity: start, ..Self::default() }
    }

    /// Takes the equity at the close of the candle that opened at `time`. A second mark of the same time replaces the
    /// equity of the first (a position closed at the last close), but the peak has been seen.
    #[inline]
    pub fn mark(&mut self, time: i64, equity: f64, exposed: bool) {
        if time >= self.hint.day_end {
            self.begin_day(time, equity);
        }
        let again = self.bars > 0 && time == self.last_time;
        self.bars += u64::from(!again);
        self.exposed_bars += u64::from(exposed && !again);
        (self.last_time, self.equity) = (time, equity);
        if equity >= self.peak {
            (self.peak, self.peak_time) = (equity, time);
            self.hint.trough = f64::INFINITY;
        } else {
            self.underwater(time, equity);
        }
    }

    /// Marks a run of candles, of which nothing or all is exposed: the same as to mark each by itself.
    pub(crate) fn run(&mut self, candles: &[Candle], exposed: bool, mut equity_at: impl FnMut(&Candle) -> f64) {
        let mut rest = candles;
        while let [first, others @ ..] = rest {
            self.mark(first.time, equity_at(first), exposed);
            let taken = self.rest_of_day(others, &mut equity_at);
            self.bars += taken as u64;
            self.exposed_bars += if exposed { taken as u64 } else { 0 };
            rest = &others[taken..];
        }
    }

    /// The same where the equity is known to stay between `worst` and `best`, both of which it reaches: if no new peak can
    /// be among them, a day is one step.
    pub(crate) fn run_between(
        &mut self,
        candles: &[Candle],
        exposed: bool,
        (worst, best): (f64, f64),
        mut equity_at: impl FnMut(&Candle) -> f64,
    ) {
        let is_constant = worst == best;
        let Some(first) = candles.first() else { return };
        if self.bars == 0 || first.time <= self.last_time || (best >= self.peak && !is_constant) {
            return self.run(candles, exposed, equity_at);
        }
        let mut rest = candles;
        while let [first, ..] = rest {
            if first.time >= self.hint.day_end {
                self.begin_day(first.time, best);
            }
            let day_end = self.hint.day_end;
            // Most runs end within the day.
            let taken = match rest.last() {
                Some(last) if last.time >= day_end => rest.partition_point(|candle| candle.time < day_end),
                _ => rest.len(),
            };
            let last = &rest[taken - 1];
            (self.last_time, self.equity) = (last.time, equity_at(last));
            rest = &rest[taken..];
        }
        self.bars += candles.len() as u64;
        self.exposed_bars += if exposed { candles.len() as u64 } else { 0 };
        if best >= self.peak {
            (self.peak, self.peak_time, self.hint.trough) = (best, self.last_time, f64::INFINITY);
        } else {
            self.underwater(self.last_time, worst);
        }
    }

    /// Marks the candles of the day that has begun; answers how many. The drawdown is looked at where it is greatest, and
    /// the time below the peak where it ends, so a candle costs a comparison or two.
    #[inline]
    fn rest_of_day(&mut self, candles: &[Candle], equity_at: &mut impl FnMut(&Candle) -> f64) -> usize {
        let (day_end, mut taken) = (self.hint.day_end, 0);
        let (mut time, mut equity, mut peak, mut trough) = (self.last_time, self.equity, self.peak, self.hint.trough);
        for candle in candles.iter().take_while(|candle| candle.time < day_end) {
            let before = std::mem::replace(&mut time, candle.time);
            equity = equity_at(candle);
            if equity >= peak {
                self.underwater(before, trough);
                (self.peak, self.peak_time, self.hint.trough) = (equity, time, f64::INFINITY);
                (peak, trough) = (equity, f64::INFINITY);
            } else if equity < trough {
                trough = equity;
            }
            taken += 1;
        }
        (self.last_time, self.equity) = (time, equity);
        self.underwater(time, trough);
        taken
    }

    /// Takes the lowest equity since the peak, and how long ago the peak is.
    fn underwater(&mut self, time: i64, trough: f64) {
        self.underwater_max = self.underwater_max.max(time - self.peak_time);
        if trough < self.hint.trough && self.peak > 0.0 {
            self.hint.trough = trough;
            self.drawdown_max = self.drawdown_max.max(1.0 - trough / self.peak);
        }
    }

    /// The first mark, the first after a restart, or the first of a day.
    fn begin_day(&mut self, time: i64, equity: f64) {
        let day = time.div_euclid(DAY_MILLIS);
        match self.first_time {
            None => {
                self.first_time = Some(time);
                (self.peak, self.peak_time) = (equity, time);
            }
            Some(_) if day != self.last_time.div_euclid(DAY_MILLIS) => self.close_day(),
            Some(_) => {}
        }
        // 1970-01-01 was a Thursday: days 2 and 3 of the week that begins with it are Saturday and Sunday.
        self.weekend |= matches!(day.rem_euclid(7), 2 | 3);
        self.hint.day_end = (day + 1).saturating_mul(DAY_MILLIS);
    }

    /// Takes a closed trade. `notional` is what was traded at entry and exit together.
    pub fn trade(&mut self, trade: &Trade, notional: f64) {
        let profit = trade.profit.to_f64();
        self.trades += 1;
        self.wins += u64::from(profit > 0.0);
        self.won += profit.max(0.0);
        self.lost += (-profit).max(0.0);
        self.fees += trade.fee.to_f64();
        self.traded += notional;
    }

    /// Fall from the peak at the last mark, as a positive share.
    pub fn drawdown(&self) -> f64 {
        if self.peak > 0.0 { (1.0 - self.equity / self.peak).max(0.0) } else { 0.0 }
    }

    fn close_day(&mut self) {
        let (days, mean, deviations, losses) = self.with_day();
        (self.days, self.mean, self.deviations, self.losses_squared) = (days, mean, deviations, losses);
        self.day_before = Some(self.equity);
    }

    /// The daily sums as if the current day ended now.
    fn with_day(&self) -> (u64, f64, f64, f64) {
        let Some(before) = self.day_before.filter(|before| *before != 0.0) else {
            return (self.days, self.mean, self.deviations, self.losses_squared);
        };
        let r = self.equity / before - 1.0;
        let days = self.days + 1;
        let mean = self.mean + (r - self.mean) / days as f64;
        let deviations = self.deviations + (r - self.mean) * (r - mean);
        (days, mean, deviations, self.losses_squared + r.min(0.0) * r.min(0.0))
    }

    /// The metrics as of the last mark.
    pub fn metrics(&self) -> Metrics {
        let (days, mean, deviations, losses) = self.with_day();
        let days_per_year = if self.weekend { 365 } else { 252 };
        let annual = f64::from(days_per_year).sqrt();
        let finite = |value: f64| Some(value).filter(|v| v.is_finite());
        let std = if days > 1 { (deviations / (days - 1) as f64).sqrt() } else { f64::NAN };
        let years = (self.last_time - self.first_time.unwrap_or(self.last_time)) as f64 / YEAR_MILLIS;
        let growth = self.equity / self.start;
        let cagr = if growth > 0.0 && years > 0.0 { finite(growth.powf(1.0 / years) - 1.0) } else { None };
        Metrics {
            final_equity: self.equity,
            return_share: finite(growth - 1.0).unwrap_or(0.0),
            cagr,
            days_per_year,
            days,
            sharpe: finite(mean / std * annual),
            sortino: finite(mean / (losses / days as f64).sqrt() * annual),
            volatility: finite(std * annual),
            drawdown_max: self.drawdown_max,
            drawdown_longest_ms: self.underwater_max,
            calmar: cagr.and_then(|cagr| finite(cagr / self.drawdown_max)),
            trades: self.trades,
            win_rate: finite(self.wins as f64 / self.trades as f64),
            profit_factor: finite(self.won / self.lost),
            expectancy: finite((self.won - self.lost) / self.trades as f64),
            fees: self.fees,
            turnover: finite(self.traded / self.start).unwrap_or(0.0),
            exposure: finite(self.exposed_bars as f64 / self.bars as f64).unwrap_or(0.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::simulator::Simulator;
    use super::*;

    #[test]
    fn nothing_gives_no_nan() {
        let json = serde_json::to_value(EquityStats::new(0.0).metrics()).unwrap();
        assert_eq!(json["sharpe"], serde_json::Value::Null);
        let mut stats = EquityStats::new(100.0);
        stats.mark(0, 100.0, false);
        assert_eq!((stats.metrics().sharpe, stats.metrics().drawdown_max), (None, 0.0));
    }

    #[test]
    fn a_run_of_marks_is_as_many_marks() {
        let candles: Vec<Candle> = Simulator::new(5, "15m".parse().unwrap(), 0).take(2_000).collect();
        let equity_at = |candle: &Candle| candle.close as f64;
        for step in [1, 7, 96, 500, 2_000] {
            let (mut one, mut run) = (EquityStats::new(10_000.0), EquityStats::new(10_000.0));
            for (n, part) in candles.chunks(step).enumerate() {
                part.iter().for_each(|candle| one.mark(candle.time, equity_at(candle), n % 2 == 0));
                run.run(part, n % 2 == 0, equity_at);
                assert_eq!(one, run, "{step}, part {n}");
            }
            assert!(run.metrics().drawdown_max > 0.0 && run.metrics().drawdown_longest_ms > DAY_MILLIS);
        }
    }

    #[test]
    fn a_run_between_two_bounds_is_as_many_marks() {
        let candles: Vec<Candle> = Simulator::new(5, "15m".parse().unwrap(), 0).take(2_000).collect();
        for step in [1, 7, 96, 500] {
            let (mut one, mut run) = (EquityStats::new(10_000.0), EquityStats::new(10_000.0));
            for (n, part) in candles.chunks(step).enumerate() {
                // Up, down, and at the peak again; then flat, and with the price, below the peak and beyond it.
                let constant = [100.0, 120.0, 90.0, 120.0, 80.0][n % 5];
                let share = [0.0, 0.5, 1.0][n / 5 % 3] / candles[0].close as f64;
                let equity_at = |candle: &Candle| constant + share * candle.close as f64;
                part.iter().for_each(|candle| one.mark(candle.time, equity_at(candle), n % 2 == 0));
                let lowest = part.iter().map(equity_at).fold(f64::INFINITY, f64::min);
                let highest = part.iter().map(equity_at).fold(0.0, f64::max);
                run.run_between(part, n % 2 == 0, (lowest, highest), equity_at);
                assert_eq!(one, run, "{step}, part {n}");
            }
            assert!(run.metrics().drawdown_max > 0.0);
        }
    }

    #[test]
    fn drawdown_and_weekends() {
        let mut stats = EquityStats::new(100.0);
        for (day, equity) in [(0, 100.0), (1, 120.0), (2, 90.0), (3, 130.0)] {
            stats.mark(day * DAY_MILLIS, equity, day == 1);
        }
        let metrics = stats.metrics();
        assert_eq!((metrics.drawdown_max, metrics.drawdown_longest_ms), (0.25, DAY_MILLIS));
        assert_eq!((metrics.days_per_year, metrics.days, metrics.exposure), (365, 3, 0.25));
        assert_eq!(stats.drawdown(), 0.0);
    }
}
