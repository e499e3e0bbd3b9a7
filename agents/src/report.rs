//! What the desk amounts to: one struct for the query, the event at the end and the terminal.
//!
//! Every figure is net of fees unless it says otherwise, and stands beside what buying and holding would have made.

use std::fmt::Write;

use serde::{Deserialize, Serialize};

use crate::market::{calendar::minute, candle::SeriesKey, money::Money, portfolio::Report};

const DAY_MILLIS: i64 = 86_400_000;

/// The result of a desk, as of committed state. Shares are of 1: 0.5 is 50 %. Times are milliseconds UTC.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DeskReport {
    /// Open time of the first candle.
    pub from: Option<i64>,
    /// When the last candle became known.
    pub to: Option<i64>,
    /// Candles of all series.
    pub candles: u64,
    /// Cash at the start.
    pub start: Money,
    /// Cash now.
    pub cash: Money,
    /// Cash and positions at the last prices.
    pub equity: Money,
    /// Total return, net of fees.
    #[serde(rename = "return")]
    pub return_share: f64,
    /// The same with the fees that were paid added back; not compounded, so not what a run without fees would make.
    pub return_with_fees_added_back: f64,
    /// What buying at the first open and holding would have returned after both fees; the mean over all series.
    pub buy_and_hold: Option<f64>,
    /// Fees paid, those of open positions included.
    pub fees: Money,
    /// Closed trades.
    pub trades: u64,
    /// Share of closed trades with a profit after both fees.
    pub win_rate: Option<f64>,
    /// Sum of wins / sum of losses.
    pub profit_factor: Option<f64>,
    /// Mean profit of a trade, in money.
    pub expectancy: Option<f64>,
    /// Greatest fall from a peak, on candle equity.
    pub max_drawdown: f64,
    /// Longest time below a peak, in milliseconds.
    pub longest_drawdown_ms: i64,
    /// Growth a year.
    pub cagr: Option<f64>,
    /// Annualised Sharpe ratio of daily returns.
    pub sharpe: Option<f64>,
    /// Annualised Sortino ratio of daily returns.
    pub sortino: Option<f64>,
    /// Annualised standard deviation of daily returns.
    pub volatility: Option<f64>,
    /// Share of candles at whose close a position was open.
    pub exposure: f64,
    /// Traded notional / starting cash.
    pub turnover: f64,
    /// What risk did: its state, what it denied, and which stops were not set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub risk: Option<String>,
    /// Open positions.
    pub positions: Vec<PositionReport>,
    /// Each series by itself.
    pub series: Vec<SeriesReport>,
}

/// An open position.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PositionReport {
    /// Which series.
    pub series: SeriesKey,
    /// Units held; negative is short.
    pub quantity: f64,
    /// Price of the entry.
    pub entry_price: f64,
    /// Open time of the candle of the entry.
    pub entry_time: i64,
    /// Last price.
    pub price: f64,
    /// Value at the last price.
    pub value: Money,
}

/// What one series did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SeriesReport {
    /// Which series.
    pub series: SeriesKey,
    /// Its candles.
    pub candles: u64,
    /// Its closed trades.
    pub trades: u64,
    /// Those with a profit after both fees.
    pub wins: u64,
    /// Profit of closed trades after fees.
    pub profit: Money,
    /// Fees paid.
    pub fees: Money,
    /// What buying and holding it would have returned after both fees.
    pub buy_and_hold: f64,
}

impl DeskReport {
    pub(crate) fn new(
        ledger: &Report,
        fees: Money,
        positions: Vec<PositionReport>,
        series: Vec<SeriesReport>,
        from: Option<i64>,
        to: Option<i64>,
    ) -> Self {
        let metrics = &ledger.metrics;
        let (start, equity) = (ledger.start.to_f64(), ledger.equity.to_f64());
        let share = |value: f64| if start > 0.0 { value / start } else { 0.0 };
        let held = series.iter().map(|series| series.buy_and_hold).sum::<f64>() / series.len() as f64;
        Self {
            from,
            to,
            candles: series.iter().map(|series| series.candles).sum(),
            start: ledger.start,
            cash: ledger.cash,
            equity: ledger.equity,
            return_share: share(equity - start),
            return_with_fees_added_back: share(equity - start + fees.to_f64()),
            buy_and_hold: Some(held).filter(|held| held.is_finite()),
            fees,
            trades: metrics.trades,
            win_rate: metrics.win_rate,
            profit_factor: metrics.profit_factor,
            expectancy: metrics.expectancy,
            max_drawdown: metrics.drawdown_max,
            longest_drawdown_ms: metrics.drawdown_longest_ms,
            cagr: metrics.cagr,
            sharpe: metrics.sharpe,
            sortino: metrics.sortino,
            volatility: metrics.volatility,
            exposure: metrics.exposure,
            turnover: metrics.turnover,
            risk: None,
            positions,
            series,
        }
    }

    /// The report as a table for a terminal, with a sentence that says what it means.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        let mut row = |name: &str, value: String, note: &str| {
            let line = format!("  {name:<18}{value:>16}   {note}");
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{}", line.trim_end());
        };
        let span = match (self.from, self.to) {
            (Some(from), Some(to)) => format!("{} to {}", minute(from), minute(to)),
            _ => "no candles yet".into(),
        };
        row("candles", self.candles.to_string(), &span);
        row("start", amount(self.start), "");
        row("equity", amount(self.equity), &format!("cash {}", amount(self.cash)));
        row("return", percent(Some(self.return_share)), "net of all fees");
        row(
            "  fees added back",
            percent(Some(self.return_with_fees_added_back)),
            &format!("fees {}", amount(self.fees)),
        );
        row("buy and hold", percent(self.buy_and_hold), "net of its two fees");
        row("max drawdown", percent(Some(self.max_drawdown)), &format!("longest {}", days(self.longest_drawdown_ms)));
        row("growth a year", percent(self.cagr), "");
        row("sharpe", number(self.sharpe), "daily returns, annualised, risk-free 0");
        row("sortino", number(self.sortino), "");
        row("trades", self.trades.to_string(), &format!("win rate {}", percent(self.win_rate).trim()));
        row("profit factor", number(self.profit_factor), &format!("expectancy {}", number(self.expectancy)));
        row("exposure", percent(Some(self.exposure)), &format!("turnover {:.1} x start", self.turnover));
        if let Some(risk) = &self.risk {
            row("risk", String::new(), risk);
        }
        for position in &self.positions {
            let note = format!("{} at {}, now {}", position.quantity, position.entry_price, position.price);
            row(&format!("open {}", position.series), amount(position.value), &note);
        }
        if self.series.len() > 1 {
            self.each_series(&mut text);
        }
        let _ = writeln!(text, "\n{}", self.verdict());
        text
    }

    fn each_series(&self, text: &mut String) {
        let _ = writeln!(
            text,
            "\n  {:<22}{:>10}{:>8}{:>14}{:>12}{:>14}",
            "series", "candles", "trades", "profit", "fees", "buy and hold"
        );
        for series in &self.series {
            let (profit, fees) = (amount(series.profit), amount(series.fees));
            let held = percent(Some(series.buy_and_hold));
            let SeriesReport { series, candles, trades, .. } = series;
            let _ = writeln!(text, "  {:<22}{candles:>10}{trades:>8}{profit:>14}{fees:>12}{held:>14}", series.as_str());
        }
    }

    /// What the figures say, in plain words.
    #[must_use]
    pub fn verdict(&self) -> String {
        let Some(held) = self.buy_and_hold else { return "Nothing was decided: there were no candles.".into() };
        let own = percent(Some(self.return_share));
        let (own, held_text) = (own.trim(), percent(Some(held)));
        let beside = format!("The desk made {own} net of fees; buying and holding made {}.", held_text.trim());
        let judged = if self.trades == 0 {
            "It has closed no trade, so this says nothing about its strategy."
        } else if self.return_share <= 0.0 && self.return_share > held {
            "It lost money, less than the market did."
        } else if self.return_share <= 0.0 {
            "It lost money."
        } else if self.return_share < held {
            "It made money, less than holding would have."
        } else {
            "It made more than holding, on this one path of prices."
        };
        format!(
            "{beside} {judged} Paper fills at the open, without slippage: real ones are worse. The past promises nothing."
        )
    }
}

// === text ===

fn amount(money: Money) -> String {
    format!("{:.2}", money.to_f64())
}

fn percent(share: Option<f64>) -> String {
    share.map_or_else(|| "-".into(), |share| format!("{:.2} %", share * 100.0))
}

fn number(value: Option<f64>) -> String {
    value.map_or_else(|| "-".into(), |value| format!("{value:.2}"))
}

fn days(millis: i64) -> String {
    format!("{:.1} days", millis as f64 / DAY_MILLIS as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::market::portfolio::Portfolio;

    #[test]
    fn a_report_of_nothing_says_so_and_has_no_nan() {
        let ledger = Portfolio::new(Money::whole(10_000)).report();
        let report = DeskReport::new(&ledger, Money::ZERO, Vec::new(), Vec::new(), None, None);
        assert!(report.text().contains("no candles"));
        assert!(!report.text().contains("NaN"));
        let json = serde_json::to_string(&report).unwrap();
        assert!(json.contains("\"return\":0.0") && json.contains("\"buy_and_hold\":null"));
        assert_eq!(serde_json::from_str::<DeskReport>(&json).unwrap(), report);
    }
}
