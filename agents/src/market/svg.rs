//! A few kinds of chart as inline SVG: lines over time, candles with trades, steps. No scripts, readable in print.

use std::fmt::Write;

use super::calendar::day;
use super::candle::Candle;

/// Size of a chart in its own units; it is scaled to the width of the page.
const WIDTH: f64 = 960.0;
const LEFT: f64 = 64.0;
const BOTTOM: f64 = 20.0;
/// A scale from the least to the greatest value beyond this ratio is logarithmic: a fall from 10,000 to 29 is seen then.
const LOG_RATIO: f64 = 20.0;
const TICKS: usize = 4;

/// A line of a chart; one value for each time.
pub(super) struct Line<'a> {
    pub(super) class: &'a str,
    pub(super) name: &'a str,
    pub(super) values: &'a [f64],
}

/// From values to heights.
struct Axis {
    least: f64,
    greatest: f64,
    is_log: bool,
    height: f64,
}

impl Axis {
    fn new(values: impl Iterator<Item = f64>, height: f64) -> Self {
        let (mut least, mut greatest) = (f64::INFINITY, f64::NEG_INFINITY);
        for value in values.filter(|value| value.is_finite()) {
            (least, greatest) = (least.min(value), greatest.max(value));
        }
        if least > greatest {
            (least, greatest) = (0.0, 1.0);
        }
        if least == greatest {
            (least, greatest) = (least - 1.0, greatest + 1.0);
        }
        Self { least, greatest, is_log: least > 0.0 && greatest / least > LOG_RATIO, height }
    }

    fn y(&self, value: f64) -> f64 {
        let share = if self.is_log {
            (value.max(self.least) / self.least).ln() / (self.greatest / self.least).ln()
        } else {
            (value - self.least) / (self.greatest - self.least)
        };
        // Room for half a line of text above the greatest.
        8.0 + (self.height - BOTTOM - 12.0) * (1.0 - share)
    }

    fn value(&self, share: f64) -> f64 {
        if self.is_log {
            self.least * (self.greatest / self.least).powf(share)
        } else {
            self.least + (self.greatest - self.least) * share
        }
    }

    fn grid(&self, svg: &mut String, unit: &str) {
        for tick in 0..=TICKS {
            let value = self.value(tick as f64 / TICKS as f64);
            let y = self.y(value);
            let step = if self.is_log { value } else { (self.greatest - self.least) / TICKS as f64 };
            let _ = write!(
                svg,
                "<line class='grid' x1='{LEFT}' x2='{WIDTH}' y1='{y:.1}' y2='{y:.1}'/>\
                 <text x='{:.0}' y='{:.1}' text-anchor='end'>{}{unit}</text>",
                LEFT - 6.0,
                y + 4.0,
                short(value, step)
            );
        }
    }
}

/// A number as short as it can be told from one that is `step` away.
fn short(value: f64, step: f64) -> String {
    if value.abs() >= 10_000.0 && step >= 1_000.0 {
        return format!("{:.0}k", value / 1_000.0);
    }
    // Two digits of the step; of nothing there are none.
    let digits = if step > 0.0 { 1.0 - step.log10().floor() } else { 0.0 };
    let least = if value.abs() < 100.0 && step >= 1.0 { 1.0 } else { 0.0 };
    let text = format!("{value:.*}", digits.clamp(least, 12.0) as usize);
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    // So many as there is room for.
    if text.len() > 9 && value.abs() < 0.001 { format!("{value:.2e}") } else { text.to_owned() }
}

fn begin(height: f64, label: &str) -> String {
    format!("<svg viewBox='0 0 {WIDTH} {height}' role='img' aria-label='{label}'>")
}

fn dates(svg: &mut String, times: &[i64], height: f64) {
    let Some((first, last)) = times.first().zip(times.last()) else { return };
    for (x, anchor, time) in
        [(LEFT, "start", *first), ((LEFT + WIDTH) / 2.0, "middle", times[times.len() / 2]), (WIDTH, "end", *last)]
    {
        let _ = write!(svg, "<text x='{x}' y='{:.0}' text-anchor='{anchor}'>{}</text>", height - 4.0, day(time));
    }
}

/// Lines over time. Each column of the picture shows the least and the greatest of its values, so no spike is lost.
pub(super) fn lines(label: &str, times: &[i64], lines: &[Line<'_>], unit: &str, height: f64) -> String {
    let axis = Axis::new(lines.iter().flat_map(|line| line.values.iter().copied()), height);
    let mut svg = begin(height, label);
    axis.grid(&mut svg, unit);
    dates(&mut svg, times, height);
    for line in lines {
        let n = line.values.len();
        let columns = n.min((WIDTH - LEFT) as usize);
        let _ = write!(svg, "<polyline class='{}' points='", line.class);
        for column in 0..columns {
            let x = LEFT + (WIDTH - LEFT) * column as f64 / columns as f64;
            let values = &line.values[column * n / columns..((column + 1) * n / columns).max(column * n / columns + 1)];
            let (mut least, mut greatest) = (values[0], values[0]);
            values.iter().for_each(|value| (least, greatest) = (least.min(*value), greatest.max(*value)));
            let _ = write!(svg, "{x:.1},{:.1} ", axis.y(least));
            if greatest > least {
                let _ = write!(svg, "{x:.1},{:.1} ", axis.y(greatest));
            }
        }
        svg += "'/>";
    }
    for (place, line) in lines.iter().enumerate() {
        let x = LEFT + 10.0 + 190.0 * place as f64;
        let _ = write!(
            svg,
            "<line class='{}' x1='{x}' x2='{}' y1='12' y2='12'/><text x='{}' y='16'>{}</text>",
            line.class,
            x + 18.0,
            x + 24.0,
            line.name
        );
    }
    if axis.is_log {
        let x = LEFT + 10.0 + 190.0 * lines.len() as f64;
        let _ = write!(svg, "<text x='{x}' y='16'>logarithmic</text>");
    }
    svg + "</svg>"
}

/// An entry or an exit on a candle.
pub(super) struct Mark {
    pub(super) time: i64,
    pub(super) price: f64,
    pub(super) is_entry: bool,
}

/// Candles with marks, for as many as can be told apart.
pub(super) fn candles(
    label: &str,
    candles: &[Candle],
    price: impl Fn(i64) -> f64,
    marks: &[Mark],
    height: f64,
) -> String {
    let axis = Axis::new(candles.iter().flat_map(|candle| [price(candle.high), price(candle.low)]), height);
    let mut svg = begin(height, label);
    axis.grid(&mut svg, "");
    let times: Vec<i64> = candles.iter().map(|candle| candle.time).collect();
    dates(&mut svg, &times, height);
    let step = (WIDTH - LEFT) / candles.len().max(1) as f64;
    let x = |place: usize| LEFT + step * (place as f64 + 0.5);
    for (place, candle) in candles.iter().enumerate() {
        let class = if candle.close >= candle.open { "up" } else { "down" };
        let (x, top, bottom) = (x(place), axis.y(price(candle.high)), axis.y(price(candle.low)));
        let (a, b) = (axis.y(price(candle.open)), axis.y(price(candle.close)));
        let _ = write!(
            svg,
            "<g class='{class}'><line x1='{x:.1}' x2='{x:.1}' y1='{top:.1}' y2='{bottom:.1}'/>\
             <rect x='{:.1}' y='{:.1}' width='{:.1}' height='{:.1}'/></g>",
            x - step * 0.35,
            a.min(b),
            step * 0.7,
            (a - b).abs().max(0.5)
        );
    }
    for mark in marks {
        let Ok(place) = candles.binary_search_by_key(&mark.time, |candle| candle.time) else { continue };
        let (x, y) = (x(place), axis.y(mark.price));
        let (class, tip) = if mark.is_entry { ("entry", 9.0) } else { ("exit", -9.0) };
        let _ = write!(
            svg,
            "<path class='{class}' d='M{x:.1} {y:.1}l-5 {tip}h10z'><title>{} {} at {}</title></path>",
            class,
            day(mark.time),
            mark.price
        );
    }
    svg + "</svg>"
}

/// What was in force over time: a bar of its row for each step; `None` is the lowest row.
pub(super) fn steps(label: &str, times: &[i64], chosen: &[Option<usize>], rows: &[String], height: f64) -> String {
    let mut svg = begin(height, label);
    dates(&mut svg, times, height);
    let row = (height - BOTTOM) / (rows.len() + 1) as f64;
    let y = |row_of: Option<usize>| row * row_of.map_or(rows.len(), |place| place) as f64;
    let names = rows.iter().map(String::as_str).chain(["flat"]);
    // As many names as fit.
    let every = ((rows.len() + 1) as f64 * 11.0 / (height - BOTTOM)).ceil().max(1.0) as usize;
    // The lowest is among them: a row without a name says nothing.
    let is_named = |place: usize| place == rows.len() || (place.is_multiple_of(every) && place + every <= rows.len());
    for (place, name) in names.enumerate().filter(|(place, _)| is_named(*place)) {
        let _ = write!(
            svg,
            "<text x='{}' y='{:.1}' text-anchor='end'>{name}</text>",
            LEFT - 6.0,
            (row * place as f64 + row * 0.5 + 4.0).max(9.0)
        );
    }
    let width = (WIDTH - LEFT) / chosen.len().max(1) as f64;
    let mut start = 0;
    for run in chosen.chunk_by(|a, b| a == b) {
        let _ = write!(
            svg,
            "<rect class='{}' x='{:.1}' y='{:.1}' width='{:.1}' height='{:.1}'/>",
            if run[0].is_some() { "chosen" } else { "flat" },
            LEFT + width * start as f64,
            y(run[0]),
            width * run.len() as f64,
            row.max(2.0)
        );
        start += run.len();
    }
    svg + "</svg>"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_row_of_staying_flat_has_its_name() {
        for n_rows in [1, 2, 5, 33, 100] {
            let rows: Vec<String> = (0..n_rows).map(|n| format!("{n}/")).collect();
            let svg = steps("x", &[0, 1], &[None, Some(0)], &rows, 280.0);
            assert!(svg.contains(">flat</text>") && svg.contains(">0/</text>"), "{n_rows}");
        }
    }

    /// Prices of 75,100 to 78,200 were all `75k … 78k`, two of them the same; those of a coin below a cent were all 0.
    #[test]
    fn the_numbers_of_an_axis_differ_and_are_short() {
        let of = |least: f64, greatest: f64| {
            let axis = Axis::new([least, greatest].into_iter(), 300.0);
            let step = (greatest - least) / TICKS as f64;
            (0..=TICKS).map(|tick| short(axis.value(tick as f64 / TICKS as f64), step)).collect::<Vec<_>>()
        };
        assert_eq!(of(75_100.0, 78_300.0), ["75100", "75900", "76700", "77500", "78300"]);
        assert_eq!(of(20_000.0, 60_000.0), ["20k", "30k", "40k", "50k", "60k"]);
        assert_eq!(of(-80.0, 0.0), ["-80", "-60", "-40", "-20", "0"]);
        assert_eq!(of(0.000_02, 0.000_06), ["0.00002", "0.00003", "0.00004", "0.00005", "0.00006"]);
        for (least, greatest) in [(1.0, 1.001), (99.0, 101.0), (9_999.0, 10_001.0), (0.0, 1e-9), (-1.0, 1e6)] {
            let mut said = of(least, greatest);
            assert!(said.iter().all(|text| text.len() <= 9), "{said:?}");
            said.dedup();
            assert_eq!(said.len(), TICKS + 1, "{said:?}");
        }
    }
}
