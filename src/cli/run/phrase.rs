//! What was decided, in a short phrase: prices and quantities in units, times as dates.

use std::collections::BTreeMap;

use atra::{
    Event,
    agents::{
        DeskReport,
        events::{End, Gap, Promoted, RolledBack, Stalled, StateChanged},
        market::{
            broker::Fill,
            candle::{Scale, SeriesCandle, SeriesKey},
            money::{Money, Terms},
            strategy::StrategySpec,
        },
    },
};
use serde_json::Value;

use crate::cli::{output::counted, time::Moment};

/// How ticks and lots are counted, learnt from the candles that pass.
pub(super) struct Scales {
    lot_decimals: u8,
    scales: BTreeMap<SeriesKey, Scale>,
}

impl Scales {
    /// For lots of so many decimals.
    pub(super) fn new(lot_decimals: u8) -> Self {
        Self { lot_decimals, scales: BTreeMap::new() }
    }

    /// Takes up the scale of a candle.
    pub(super) fn learn(&mut self, candle: &Event) {
        if let Ok(candle) = candle.payload.get::<SeriesCandle>()
            && self.scales.get(&candle.series) != Some(&candle.scale)
        {
            self.scales.insert(candle.series.clone(), candle.scale);
        }
    }

    /// Lots as a quantity.
    pub(super) fn quantity(&self, lots: i64) -> String {
        // Fees play no part in it; decimals that are none were refused at the start.
        Terms::new(Scale::default(), self.lot_decimals, 0)
            .map_or_else(|_| format!("{lots} lots"), |terms| terms.quantity(lots).to_string())
    }

    fn price(&self, series: &SeriesKey, ticks: i64) -> String {
        let terms = self.scales.get(series).and_then(|scale| Terms::new(*scale, self.lot_decimals, 0).ok());
        terms.map_or_else(|| format!("{ticks} ticks"), |terms| terms.price(ticks).to_string())
    }

    /// The phrase for an event; `None` if it is none of those that are known.
    pub(super) fn phrase(&self, event: &Event) -> Option<String> {
        let payload = &event.payload;
        let text = match event.topic.as_str() {
            "order.fill" => self.fill(payload.get().ok()?),
            "optimizer.promoted" => promoted(payload.get().ok()?),
            "optimizer.rolled_back" => {
                let RolledBack { series, version, drawdown, .. } = payload.get().ok()?;
                format!("{series} goes back to version {version} after a fall of {:.2} %", drawdown * 100.0)
            }
            "risk.state" => {
                let StateChanged { state, killed, equity, stopped, halts } = payload.get().ok()?;
                let state = serde_json::to_value(state).unwrap_or_default();
                let by = if *killed { ", by a caller" } else { "" };
                let halts: String = halts.iter().map(|halt| format!("; {halt}")).collect();
                let equity = equity.map_or_else(String::new, |equity| format!(", equity {}", amount(equity)));
                let names: Vec<&str> = stopped.iter().map(|series| series.as_str()).collect();
                let stopped = if names.is_empty() { String::new() } else { format!("; stopped: {}", names.join(", ")) };
                format!("risk is now {}{by}{equity}{stopped}{halts}", state.as_str().unwrap_or("another"))
            }
            "market.gap" => {
                let Gap { series, from, to, missing } = payload.get().ok()?;
                let missing = counted(*missing, "candle");
                format!("{series} lacks {missing} from {} to {}", Moment(*from), Moment(*to))
            }
            "market.stalled" => {
                let Stalled { series, last } = payload.get().ok()?;
                format!("{series} has had no candle since {}", Moment(*last))
            }
            "market.end" => {
                let End { last_known_at } = payload.get().ok()?;
                let last = last_known_at.map_or_else(String::new, |time| format!(", the last one at {}", Moment(time)));
                format!("the candles have ended{last}")
            }
            "portfolio.report" => {
                let report: &DeskReport = payload.get().ok()?;
                let (equity, share) = (amount(report.equity), report.return_share * 100.0);
                format!("equity {equity}, return {share:.2} %, {}", counted(report.trades, "trade"))
            }
            _ => return None,
        };
        Some(text)
    }

    fn fill(&self, fill: &Fill) -> String {
        let Fill { series, execution, .. } = fill;
        let verb = if execution.lots < 0 { "sold" } else { "bought" };
        let quantity = self.quantity(execution.lots.saturating_abs());
        let price = self.price(series, execution.price);
        format!("{verb} {quantity} {series} at {price}, fee {}", amount(execution.fee))
    }
}

fn promoted(promoted: &Promoted) -> String {
    let Promoted { series, version, strategy, valid_from, confirmed, .. } = promoted;
    let from = Moment(*valid_from);
    match strategy {
        _ if *confirmed => format!("{series} keeps version {version}, {}", strategy_text(strategy.as_ref())),
        Some(_) => {
            format!("{series} gets {} from {from} on, version {version}", strategy_text(strategy.as_ref()))
        }
        None => format!("{series} stays flat from {from} on, version {version}"),
    }
}

/// `sma-cross 8/32 side long-only`.
fn strategy_text(strategy: Option<&StrategySpec>) -> String {
    let Some(Value::Object(fields)) = strategy.and_then(|spec| serde_json::to_value(spec).ok()) else {
        return "flat".into();
    };
    let mut text = fields.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
    if let (Some(fast), Some(slow)) = (fields.get("fast"), fields.get("slow")) {
        text += &format!(" {fast}/{slow}");
    }
    for (key, value) in fields.iter().filter(|(key, _)| !["name", "fast", "slow"].contains(&key.as_str())) {
        let value = value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned);
        text += &format!(" {key} {value}");
    }
    text
}

/// An amount of money with two decimals.
pub(super) fn amount(money: Money) -> String {
    format!("{:.2}", money.to_f64())
}
