//! What the page of a back-test draws, as lines of text: equity, drawdown, the newest trades, the parameters in force.

use atra::agents::market::{
    calendar::minute,
    fill::Trade,
    money::Terms,
    walkforward::{Pair, WalkForwardReport},
};

use super::percent;
use crate::cli::{error::CliError, output::Output};

/// Characters that a line is wide: fits a terminal of 80 beside the names.
const WIDTH: usize = 60;
/// Trades told one by one: the newest. `--trades` has all.
const TRADES_SHOWN: usize = 5;
const LEVELS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// A slice cut into at most [`WIDTH`] parts of nearly the same length, none of them empty.
fn parts<T>(values: &[T]) -> impl Iterator<Item = &[T]> {
    let n = values.len().min(WIDTH);
    (0..n).map(move |part| &values[part * values.len() / n..(part + 1) * values.len() / n])
}

/// One character a value, from the least to the greatest; logarithmic where one is twenty times the other, as on the page.
fn levels(values: &[f64]) -> String {
    let greatest = values.iter().copied().fold(f64::MIN, f64::max);
    let least = values.iter().copied().fold(f64::MAX, f64::min);
    let is_log = least > 0.0 && greatest / least > 20.0;
    let scaled = |value: f64| if is_log { value.ln() } else { value };
    let span = scaled(greatest) - scaled(least);
    let level = |value: &f64| {
        let share = if span > 0.0 { (scaled(*value) - scaled(least)) / span } else { 0.0 };
        LEVELS[((share * 7.0).round() as usize).min(7)]
    };
    values.iter().map(level).collect()
}

/// The equity at its marks, and how far it is below its peak, each as a line.
pub(super) fn curves(equity: &[f64]) -> Vec<(&'static str, String)> {
    let mut peak = f64::MIN;
    let fall = |value: &f64| {
        peak = peak.max(*value);
        if peak > 0.0 { 1.0 - value / peak } else { 0.0 }
    };
    let falls: Vec<f64> = equity.iter().map(fall).collect();
    let last: Vec<f64> = parts(equity).filter_map(|part| part.last().copied()).collect();
    let deepest: Vec<f64> = parts(&falls).map(|part| part.iter().copied().fold(0.0, f64::max)).collect();
    vec![("equity over time", levels(&last)), ("below its peak", levels(&deepest))]
}

/// The newest trades of so many, with their series' names where there are several.
pub(super) fn newest_trades(
    n_trades: usize,
    newest: impl Iterator<Item = (String, Trade, Terms)>,
    out: &mut Output,
) -> Result<(), CliError> {
    let row = |(series, trade, terms): (String, Trade, Terms)| {
        vec![
            series,
            minute(trade.entry_time),
            minute(trade.exit_time),
            terms.quantity(trade.lots).to_string(),
            terms.price(trade.entry_price).to_string(),
            terms.price(trade.exit_price).to_string(),
            format!("{:.2}", trade.profit.to_f64()),
            percent(trade.return_share),
        ]
    };
    let rows: Vec<Vec<String>> = newest.take(TRADES_SHOWN).map(row).collect();
    if rows.is_empty() {
        return Ok(());
    }
    out.line("")?;
    out.line(&format!("The newest {} of {n_trades} trades", rows.len()))?;
    out.table(&["series", "entry", "exit", "size", "at", "out at", "profit", "return"], &rows)
}

/// Which pair was in force over time: a letter for the commonest of each part, and what the letters stand for.
pub(super) fn in_force(walk: &WalkForwardReport, pairs: &[Pair]) -> String {
    // There are 33 pairs.
    let letter = |place: usize| ('a'..='z').chain('A'..='Z').nth(place).unwrap_or('?');
    let mut seen: Vec<usize> = Vec::new();
    let mut line = String::new();
    for part in parts(&walk.selections) {
        let count = |of: &Option<usize>| part.iter().filter(|pair| *pair == of).count();
        let Some(pair) = part.iter().max_by_key(|pair| count(pair)).copied().flatten() else {
            line.push('.');
            continue;
        };
        if !seen.contains(&pair) {
            seen.push(pair);
        }
        line.push(letter(seen.iter().position(|known| *known == pair).unwrap_or(0)));
    }
    let name =
        |(place, pair): (usize, &usize)| format!(", {} {}/{}", letter(place), pairs[*pair].fast, pairs[*pair].slow);
    let names: String = seen.iter().enumerate().map(name).collect();
    format!("in force      {line}\n              . flat{names}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_curve_is_a_line_of_levels_from_the_least_to_the_greatest() {
        let lines = curves(&[1.0, 2.0, 3.0, 8.0, 4.0]);
        assert_eq!(lines[0].1, "▁▂▃█▄");
        assert_eq!(lines[1].1, "▁▁▁▁█");
        // A ratio beyond twenty is logarithmic; what does not move is flat; nothing is nothing.
        assert_eq!(curves(&[10_000.0, 2_000.0, 100.0])[0].1, "█▆▁");
        assert_eq!(curves(&[5.0; 200])[0].1, "▁".repeat(WIDTH));
        assert_eq!(curves(&[])[0].1, "");
        // The deepest of a part is not lost between two marks.
        let dip: Vec<f64> = (0..600).map(|n| if n == 301 { 1.0 } else { 2.0 }).collect();
        assert_eq!(curves(&dip)[1].1.chars().position(|level| level == '█'), Some(30));
    }

    #[test]
    fn parts_are_all_of_it_and_at_most_a_line() {
        for n in [0, 1, 59, 60, 61, 119, 4_438] {
            let values: Vec<usize> = (0..n).collect();
            assert_eq!(parts(&values).flatten().copied().collect::<Vec<_>>(), values);
            assert!(parts(&values).count() == n.min(WIDTH) && parts(&values).all(|part| !part.is_empty()));
        }
    }
}
