//! A back-test, of one series or of several, as one HTML page: no scripts, nothing loaded from anywhere, charts as inline SVG, readable in print.

use std::fmt::Write;

use super::calendar::minute;
use super::candle::{Candle, Scale};
use super::fill::Trade;
use super::metrics::Metrics;
use super::money::{Money, Terms};
use super::months::{NAMES, Year, years};
use super::several::Made;
use super::svg::{self, Line, Mark};
use super::walkforward::{Pair, WalkForwardReport};

/// Candles in the picture of the newest trades: as many as can be told apart.
const CANDLES_SHOWN: usize = 160;
/// Series of which there is such a picture: the first ones.
const PICTURES_MAX: usize = 8;
/// Trades in the table: the newest.
const TRADES_SHOWN: usize = 50;
const STYLE: &str = "\
body{font:15px/1.5 system-ui,sans-serif;max-width:980px;margin:2em auto;padding:0 1em;color:#222;background:#fff}\
h1{font-size:1.5em}h2{font-size:1.15em;margin:1.8em 0 .4em}table{border-collapse:collapse;font-size:.9em}\
td,th{padding:.15em .6em;text-align:right;border-bottom:1px solid #ddd}td:first-child,th:first-child{text-align:left}\
svg{width:100%;height:auto;display:block}svg text{font-size:11px;fill:#555}.grid{stroke:#e4e4e4}\
polyline,svg>line{fill:none;stroke-width:1.3}.own{stroke:#0a5}.held{stroke:#888;stroke-dasharray:5 2}.fall{stroke:#c33}\
.up line,.up rect{stroke:#383;fill:#fff}.down line,.down rect{stroke:#a33;fill:#c66}\
.entry{fill:#06c}.exit{fill:#e70}.chosen{fill:#0a5}.flat{fill:#bbb}.bad{color:#a22}.good{color:#171}\
.note{color:#555;font-size:.9em}td,th{white-space:nowrap}\
section,tr,svg{break-inside:avoid}section.long{break-inside:auto}h2,h2+p{break-after:avoid}thead{display:table-header-group}\
@media print{@page{margin:14mm}body{margin:0;padding:0;max-width:none;font-size:12px}}";

/// What a page shows.
#[derive(Debug)]
pub struct Page<'a> {
    /// What was tested on what.
    pub title: &'a str,
    /// Settings, name and value.
    pub settings: &'a [(String, String)],
    /// What was traded.
    pub series: &'a [Shown<'a>],
    /// Closed trades, with the place of their series.
    pub trades: &'a [(usize, Trade)],
    /// Open times of the candles of the equity's marks.
    pub times: &'a [i64],
    /// When the last candle closed.
    pub closed_at: i64,
    /// The equity at these times.
    pub equity: &'a [f64],
    /// Exact equity at the end.
    pub final_equity: Money,
    /// What it all amounts to.
    pub metrics: &'a Metrics,
    /// What buying an equal part of each series and holding would have returned.
    pub buy_and_hold: f64,
}

/// A series of a page.
#[derive(Debug, Clone, Copy)]
pub struct Shown<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its candles.
    pub candles: &'a [Candle],
    /// Their scale.
    pub scale: Scale,
    /// What trading cost.
    pub terms: Terms,
    /// What it made of the account's money; only where there are several.
    pub made: Option<&'a Made>,
    /// A walk-forward over its candles, if there are enough: the report, its candidates and the candles of a step.
    pub walk: Option<(&'a WalkForwardReport, &'a [Pair], usize)>,
}

/// The page.
pub fn html(page: &Page<'_>) -> String {
    let title = escaped(page.title);
    let mut text = format!(
        "<!DOCTYPE html>\n<html lang='en'><head><meta charset='utf-8'>\
         <meta name='viewport' content='width=device-width'><title>{title}</title><style>{STYLE}</style></head><body>\
         <h1>{title}</h1>"
    );
    summary(&mut text, page);
    curves(&mut text, page);
    pictures(&mut text, page);
    walk(&mut text, page);
    months(&mut text, page);
    each(&mut text, page);
    trades(&mut text, page);
    text += "<section><h2>What this says, and what not</h2><p class='note'>Decided at a candle's close, filled at the next \
             open, all in, net of fees; stops count before limits, and a limit must be passed, not touched. Fills on paper: no \
             queue, no depth, no failed order, and no slippage but the one set above. Parameters that were chosen by looking \
             at these candles have seen the answers; only the out-of-sample lines have not. One path of prices proves \
             nothing about the next. Sharpe and Sortino are of daily returns, risk-free rate 0, annualised.</p></section>\
             </body></html>\n";
    text
}

fn escaped(text: &str) -> String {
    // Marks that change the order of what is read, and characters without a place in a page.
    let is_unsafe = |c: char| {
        c.is_control()
            || matches!(c, '\u{61c}' | '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
    };
    text.chars().fold(String::with_capacity(text.len()), |mut clean, c| {
        match c {
            '&' => clean.push_str("&amp;"),
            '<' => clean.push_str("&lt;"),
            '>' => clean.push_str("&gt;"),
            '\'' => clean.push_str("&#39;"),
            '"' => clean.push_str("&quot;"),
            c if is_unsafe(c) => clean.extend(c.escape_unicode()),
            c => clean.push(c),
        }
        clean
    })
}

fn percent(share: f64) -> String {
    let class = if share < 0.0 { "bad" } else { "good" };
    format!("<span class='{class}'>{:.2} %</span>", share * 100.0)
}

fn maybe(value: Option<f64>) -> String {
    value.map_or_else(|| "–".into(), |value| format!("{value:.2}"))
}

fn summary(text: &mut String, page: &Page<'_>) {
    let m = page.metrics;
    let n_candles: usize = page.series.iter().map(|shown| shown.candles.len()).sum();
    let span = page.times.first().map(|from| format!("{} to {}", minute(*from), minute(page.closed_at)));
    let span = span.unwrap_or_default();
    let _ = write!(text, "<section><p class='note'>{n_candles} candles, {span}</p><table>");
    let days = m.drawdown_longest_ms as f64 / 86_400_000.0;
    let rows = [
        ("Return, net of fees", percent(m.return_share)),
        ("Buy and hold, net of its two fees", percent(page.buy_and_hold)),
        ("Final equity", format!("{:.2}", page.final_equity.to_f64())),
        ("Growth a year", m.cagr.map_or_else(|| "–".into(), percent)),
        ("Greatest drawdown", percent(-m.drawdown_max)),
        ("Longest drawdown", format!("{days:.0} days")),
        ("Sharpe / Sortino", format!("{} / {}", maybe(m.sharpe), maybe(m.sortino))),
        ("Trades", m.trades.to_string()),
        ("Win rate", m.win_rate.map_or_else(|| "–".into(), |share| format!("{:.1} %", share * 100.0))),
        ("Profit factor", maybe(m.profit_factor)),
        ("Expectancy of a trade", maybe(m.expectancy)),
        ("Fees", format!("{:.2}", m.fees)),
        ("Exposure", format!("{:.1} %", m.exposure * 100.0)),
        ("Turnover", format!("{:.1} × start", m.turnover)),
    ];
    for (name, value) in rows {
        let _ = write!(text, "<tr><td>{name}</td><td>{value}</td></tr>");
    }
    for (name, value) in page.settings {
        let _ = write!(text, "<tr><td class='note'>{}</td><td>{}</td></tr>", escaped(name), escaped(value));
    }
    *text += "</table></section>";
}

/// What an equal part of each series would have been worth at the marks, bought at its first open.
fn held(page: &Page<'_>, start: f64) -> Vec<f64> {
    let mut next = vec![0; page.series.len()];
    let worth = |(shown, next): (&Shown<'_>, &mut usize), time: i64| {
        *next += shown.candles[*next..].iter().take_while(|candle| candle.time <= time).count();
        let last = next.checked_sub(1).map(|last| shown.candles[last].close);
        last.zip(shown.candles.first()).map_or(1.0, |(close, first)| close as f64 / first.open as f64)
    };
    let part = start / page.series.len().max(1) as f64;
    let sum = |time: &i64| page.series.iter().zip(&mut next).map(|series| worth(series, *time)).sum::<f64>() * part;
    page.times.iter().map(sum).collect()
}

fn curves(text: &mut String, page: &Page<'_>) {
    let times = page.times;
    let mut equity = page.equity.to_vec();
    let Some(start) = equity.first().copied() else { return };
    // The final values of the metrics, after the last position was closed.
    if let Some(last) = equity.last_mut() {
        *last = page.final_equity.to_f64();
    }
    let held = held(page, start);
    let own = Line { class: "own", name: "equity", values: &equity };
    let held = Line { class: "held", name: "buy and hold", values: &held };
    let _ = write!(
        text,
        "<section><h2>Equity</h2>{}</section>",
        svg::lines("equity beside buy and hold", times, &[own, held], "", 300.0)
    );
    let mut peak = f64::MIN;
    let falls: Vec<f64> = equity
        .iter()
        .map(|value| {
            peak = peak.max(*value);
            if peak > 0.0 { (value / peak - 1.0) * 100.0 } else { 0.0 }
        })
        .collect();
    let fall = Line { class: "fall", name: "below the peak", values: &falls };
    let _ = write!(text, "<section><h2>Drawdown</h2>{}</section>", svg::lines("drawdown", times, &[fall], " %", 160.0));
}

fn pictures(text: &mut String, page: &Page<'_>) {
    *text += "<section><h2>The newest trades on their candles</h2>";
    for (place, shown) in page.series.iter().enumerate().take(PICTURES_MAX) {
        let last = page.trades.iter().rev().find(|(of, _)| *of == place);
        let candles = around(shown.candles, last.map(|(_, trade)| trade.exit_time));
        let price = |ticks: i64| shown.scale.price(ticks as f64);
        let from = candles.first().map_or(i64::MAX, |candle| candle.time);
        let span = candles.first().zip(candles.last());
        let span = span.map_or_else(String::new, |(a, b)| format!(", {} to {}", minute(a.time), minute(b.time)));
        let recent = page.trades.iter().filter(|(of, trade)| *of == place && trade.exit_time >= from);
        let marks: Vec<Mark> = recent
            .flat_map(|(_, trade)| {
                let mark = |time, ticks, is_entry| Mark { time, price: price(ticks), is_entry };
                [mark(trade.entry_time, trade.entry_price, true), mark(trade.exit_time, trade.exit_price, false)]
            })
            .collect();
        let _ = write!(
            text,
            "{}<p class='note'>{}: {} candles{span}; entries point up (blue), exits down (orange).</p>",
            svg::candles("candles with trades", candles, price, &marks, 260.0),
            escaped(shown.name),
            candles.len()
        );
    }
    *text += "</section>";
}

/// The candles up to a little after `time`, the last ones without it: an account that is used up trades no more.
fn around(candles: &[Candle], time: Option<i64>) -> &[Candle] {
    let end = time.map_or(candles.len(), |time| candles.partition_point(|candle| candle.time <= time));
    let end = (end + CANDLES_SHOWN / 8).min(candles.len());
    &candles[end.saturating_sub(CANDLES_SHOWN)..end]
}

/// What each of several series made.
fn each(text: &mut String, page: &Page<'_>) {
    if page.series.iter().all(|shown| shown.made.is_none()) {
        return;
    }
    *text += "<section class='long'><h2>Series</h2><table><thead><tr><th></th><th>candles</th><th>trades</th><th>wins</th><th>profit</th>\
              <th>fees</th><th>buy and hold</th></tr></thead>";
    for Shown { name, candles, made, .. } in page.series {
        let made = made.copied().unwrap_or_default();
        let _ = write!(
            text,
            "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{:.2}</td><td>{:.2}</td><td>{}</td></tr>",
            escaped(name),
            candles.len(),
            made.trades,
            made.wins,
            made.profit.to_f64(),
            made.fees.to_f64(),
            percent(made.buy_and_hold)
        );
    }
    *text += "</table><p class='note'>Profit after fees, in money of the one account.</p></section>";
}

/// The time of the first candle out of sample.
fn walked_from(candles: &[Candle], report: &WalkForwardReport) -> String {
    candles.get(report.first).map_or_else(String::new, |candle| minute(candle.time))
}

fn walk(text: &mut String, page: &Page<'_>) {
    match page.series {
        [Shown { candles, walk: Some((report, pairs, step)), .. }] => walk_of_one(text, candles, report, pairs, *step),
        all if all.iter().any(|shown| shown.walk.is_some()) => walk_of_each(text, all),
        _ => {
            *text += "<section><h2>Out of sample</h2><p class='note'>Too few candles for a walk-forward.</p></section>";
        }
    }
}

/// Out of sample, each series by itself.
fn walk_of_each(text: &mut String, series: &[Shown<'_>]) {
    *text += "<section class='long'><h2>Out of sample</h2><table><thead><tr><th></th><th>from</th><th>chosen anew as it goes</th>\
              <th>buy and hold</th><th>median pair</th><th>best in hindsight</th></tr></thead>";
    let (mut sums, mut n_walked) = ([0.0; 4], 0.0);
    for Shown { name, candles, walk, .. } in series {
        let _ = write!(text, "<tr><td>{}</td>", escaped(name));
        let Some((report, ..)) = walk else {
            *text += "<td colspan='5'>too few candles</td></tr>";
            continue;
        };
        let _ = write!(text, "<td>{}</td>", walked_from(candles, report));
        let values = [report.return_pct, report.buy_and_hold_pct, report.median_fixed_pct, report.best_fixed.1];
        n_walked += 1.0;
        for (value, sum) in values.into_iter().zip(&mut sums) {
            let _ = write!(text, "<td>{}</td>", percent(value / 100.0));
            *sum += value;
        }
        *text += "</tr>";
    }
    *text += "<tr><td>equal parts</td><td></td>";
    for sum in sums {
        let _ = write!(text, "<td>{}</td>", percent(sum / n_walked / 100.0));
    }
    *text += "</tr>";
    *text += "</table><p class='note'>Pairs of averages, each series by itself.</p></section>";
}

fn walk_of_one(text: &mut String, candles: &[Candle], report: &WalkForwardReport, pairs: &[Pair], step: usize) {
    let best = report.best_fixed.0;
    let from = walked_from(candles, report);
    let _ = write!(text, "<section><h2>Out of sample</h2><table><tr><th>from {from}</th><th>return</th></tr>");
    for (name, value) in [
        (format!("{} pairs of averages, chosen anew every {step} candles", pairs.len()), report.return_pct),
        ("buy and hold".into(), report.buy_and_hold_pct),
        ("the median pair, held throughout".into(), report.median_fixed_pct),
        (format!("the best pair in hindsight, {}/{}", best.fast, best.slow), report.best_fixed.1),
    ] {
        let _ = write!(text, "<tr><td>{name}</td><td>{}</td></tr>", percent(value / 100.0));
    }
    let _ = write!(
        text,
        "</table><p class='note'>Sharpe {:.2}, greatest drawdown {:.1} %, {} entries, {} of {} re-fits stayed flat. The best \
         pair was known only afterwards.</p></section>",
        report.sharpe,
        report.drawdown_max_pct,
        report.trades,
        report.flat_refits,
        report.selections.len()
    );
    let times: Vec<i64> = candles[report.first..].iter().step_by(step).map(|candle| candle.time).collect();
    let rows: Vec<String> = pairs.iter().map(|pair| format!("{}/{}", pair.fast, pair.slow)).collect();
    let _ = write!(
        text,
        "<section><h2>Which parameters were in force</h2>{}</section>",
        svg::steps("parameters in force", &times, &report.selections, &rows, 280.0)
    );
}

fn months(text: &mut String, page: &Page<'_>) {
    let years = years(page.times, page.equity);
    if years.is_empty() {
        return;
    }
    *text += "<section><h2>Months</h2><table><tr><th>%</th>";
    NAMES.iter().for_each(|name| *text += &format!("<th>{name}</th>"));
    *text += "<th>year</th></tr>";
    for Year { year, months, whole } in years {
        let _ = write!(text, "<tr><td>{year}</td>");
        months.iter().for_each(|month| *text += &format!("<td>{}</td>", cell(*month)));
        let _ = write!(text, "<td><b>{}</b></td></tr>", cell(whole));
    }
    *text += "</table></section>";
}

fn cell(change: Option<f64>) -> String {
    let class = |change: f64| if change < 0.0 { "bad" } else { "good" };
    change.map_or_else(String::new, |change| format!("<span class='{}'>{:.1}</span>", class(change), change * 100.0))
}

fn trades(text: &mut String, page: &Page<'_>) {
    let all = page.trades;
    let shown = &all[all.len().saturating_sub(TRADES_SHOWN)..];
    let _ = write!(
        text,
        "<section class='long'><h2>Trades</h2><p class='note'>The last {} of {}.</p><table><thead><tr><th>series</th><th>entry</th><th>exit</th><th>size</th>\
         <th>at</th><th>out at</th><th>profit</th><th>fees</th><th>return</th></tr></thead>",
        shown.len(),
        all.len()
    );
    for (place, trade) in shown.iter().rev() {
        let Shown { name, terms, .. } = page.series[*place];
        let _ = write!(
            text,
            "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{:.2}</td><td>{:.2}</td><td>{}</td></tr>",
            escaped(name),
            minute(trade.entry_time),
            minute(trade.exit_time),
            terms.quantity(trade.lots),
            terms.price(trade.entry_price),
            terms.price(trade.exit_price),
            trade.profit.to_f64(),
            trade.fee.to_f64(),
            percent(trade.return_share)
        );
    }
    *text += "</table></section>";
}

#[cfg(test)]
mod tests {
    use super::super::backtest::{BacktestOptions, backtest};
    use super::super::money::Money;
    use super::super::simulator::Simulator;
    use super::super::strategy::StrategySpec;
    use super::super::walkforward::{WalkForwardConfig, walk_forward};
    use super::*;

    #[test]
    fn text_of_data_is_text_of_the_page() {
        assert_eq!(escaped("a<b>&'\"\u{202e}\u{9b}\u{1b}"), "a&lt;b&gt;&amp;&#39;&quot;\\u{202e}\\u{9b}\\u{1b}");
    }

    /// A page of `n` candles of each of so many series; the first one's run stands for all.
    fn page(n: usize, n_series: usize) -> String {
        let candles: Vec<Candle> = Simulator::new(5, "15m".parse().unwrap(), 1_640_995_200_000).take(n).collect();
        let scale = Simulator::scale();
        let terms = Terms::new(scale, 3, 1_000).unwrap();
        let strategy = StrategySpec::usual("sma-cross").unwrap().build().unwrap();
        let run = backtest(&candles, strategy, &BacktestOptions::new(Money::whole(10_000), terms)).unwrap();
        let config = WalkForwardConfig {
            pairs: vec![Pair { fast: 4, slow: 16 }, Pair { fast: 8, slow: 32 }],
            train: 960,
            ..WalkForwardConfig::default()
        };
        let walked = walk_forward(&candles, &config).unwrap();
        let walk = walked.as_ref().map(|walked| (walked, &config.pairs[..], config.step));
        let made = Made::default();
        let made = (n_series > 1).then_some(&made);
        let shown = Shown { name: "A<B.15m", candles: &candles, scale, terms, made, walk };
        html(&Page {
            title: "a & b",
            settings: &[("fee".to_owned(), "<0.1 %>".to_owned())],
            series: &vec![shown; n_series],
            trades: &run.trades.iter().map(|trade| (n_series - 1, *trade)).collect::<Vec<_>>(),
            times: &candles.iter().map(|candle| candle.time).collect::<Vec<_>>(),
            closed_at: candles.last().map_or(0, |candle| candle.time + 900_000),
            equity: &run.equity,
            final_equity: run.final_equity,
            metrics: &run.metrics,
            buy_and_hold: run.buy_and_hold,
        })
    }

    /// The page ended a candle before the terminal.
    #[test]
    fn a_page_ends_with_the_close_of_its_last_candle() {
        assert!(page(96, 1).contains("96 candles, 2022-01-01 00:00 to 2022-01-02 00:00"));
    }

    /// An account that was used up long before the end left a picture of candles without a trade.
    #[test]
    fn the_picture_is_where_the_newest_trade_is() {
        let candles: Vec<Candle> = Simulator::new(5, "15m".parse().unwrap(), 0).take(2_000).collect();
        let shown = around(&candles, Some(candles[999].time));
        assert_eq!((shown.len(), shown[0].time, shown[159].time), (160, candles[860].time, candles[1_019].time));
        for time in [None, Some(candles[1_999].time), Some(i64::MAX)] {
            assert_eq!(around(&candles, time), &candles[1_840..]);
        }
        assert_eq!(around(&candles[..5], Some(0)).len(), 5);
    }

    #[test]
    fn a_page_of_several_series_tells_of_each() {
        let page = page(3_000, 3);
        // Out of sample as well: the page had less than the terminal.
        assert!(page.contains("best in hindsight") && !page.contains("Too few") && !page.contains("NaN"));
        let walks = page.split("<h2>").find(|part| part.starts_with("Out of sample")).unwrap();
        assert_eq!(walks.matches("<td>A&lt;B.15m</td><td>2022-").count(), 3);
        // Three times the same: so are equal parts of them.
        let row = |begin: &str| walks.split(begin).nth(1).and_then(|row| row.split("</tr>").next()).unwrap().to_owned();
        let one = row("<td>A&lt;B.15m</td>");
        assert_eq!(row("<td>equal parts</td><td></td>"), one.split_once("</td>").unwrap().1);
        assert_eq!(page.matches(": 160 candles, 20").count(), 3);
        assert_eq!(page.matches("<td>A&lt;B.15m</td><td>3000</td>").count(), 3);
    }

    /// A table of fifty trades that had to stay on one page left the page before it empty, and its rows had no head.
    #[test]
    fn long_tables_are_parted_between_rows_and_repeat_their_heads_on_paper() {
        let page = page(3_000, 3);
        for heading in ["Trades", "Series", "Out of sample"] {
            let whole = format!("<section class='long'><h2>{heading}</h2>");
            let table = page.split(&whole).nth(1).unwrap_or_else(|| panic!("{heading}"));
            let (head, rows) = table.split_once("</thead>").unwrap();
            assert!(head.contains("<table><thead><tr><th>") && rows.starts_with("<tr><td>"), "{heading}");
        }
        for rule in
            ["section,tr,svg{break-inside:avoid}section.long{break-inside:auto}", "thead{display:table-header-group}"]
        {
            assert!(page.contains(rule), "{rule}");
        }
    }

    #[test]
    fn a_page_is_whole_escaped_and_loads_nothing() {
        let page = page(4_000, 1);
        assert!(page.starts_with("<!DOCTYPE html>") && page.trim_end().ends_with("</html>"));
        for part in [
            "a &amp; b",
            "&lt;0.1 %&gt;",
            "Buy and hold",
            "Drawdown",
            "Months",
            "Out of sample",
            "median pair",
            "in hindsight",
            "newest trades",
            "in force",
        ] {
            assert!(page.contains(part), "{part}");
        }
        for absent in ["NaN", "inf,", "<script", "http:", "https:", "url("] {
            assert!(!page.contains(absent), "{absent}");
        }
        assert_eq!(page.matches("<svg").count(), page.matches("</svg>").count());
        assert_eq!(page.matches("<svg").count(), 4);
        assert!(page.len() < 400_000, "{} bytes", page.len());
    }

    #[test]
    fn nothing_and_almost_nothing_make_a_page() {
        for n in [0, 1, 2, 40] {
            let page = page(n, 1);
            assert!(page.contains("Too few candles") && !page.contains("NaN"), "{n}");
        }
    }
}
