//! Text in the width of a terminal: wrapped at words, cut with `…`, columns that fit. Style marks take no room.

use unicode_width::UnicodeWidthChar;

use super::escape::{STYLE_END, STYLES};

/// The narrowest that a column is made. 6: a few letters and the `…`.
const COLUMN_MIN: usize = 6;
/// Spaces between two columns.
pub(super) const COLUMN_GAP: usize = 2;

fn width_of(c: char) -> usize {
    if STYLES.contains(&c) || c == STYLE_END { 0 } else { c.width().unwrap_or(0) }
}

/// Columns of a terminal that `text` takes.
pub(super) fn width(text: &str) -> usize {
    text.chars().map(width_of).sum()
}

/// `text` in at most `columns`, with `…` where it was cut.
pub(super) fn cut(text: &str, columns: usize) -> String {
    if width(text) <= columns {
        return text.to_owned();
    }
    let (mut left, mut clean) = (columns.saturating_sub(1), String::new());
    let mut is_styled = false;
    for c in text.chars() {
        let Some(rest) = left.checked_sub(width_of(c)) else { break };
        is_styled = c != STYLE_END && (is_styled || STYLES.contains(&c));
        left = rest;
        clean.push(c);
    }
    if is_styled {
        clean.push(STYLE_END);
    }
    clean + if columns > 0 { "…" } else { "" }
}

/// `text` as lines of at most `columns`, broken at spaces; lines after the first begin with `indent` spaces. A word that is
/// longer than a line stays whole: it may be a path.
pub(super) fn wrap(text: &str, columns: usize, indent: usize) -> Vec<String> {
    if width(text) <= columns {
        return vec![text.to_owned()];
    }
    let mut lines = Vec::new();
    // The spaces in front of the first word stay.
    let lead = text.len() - text.trim_start().len();
    let (mut line, rest) = (text[..lead].to_owned(), &text[lead..]);
    let mut has_word = false;
    for word in rest.split(' ') {
        if has_word && width(&line) + 1 + width(word) > columns {
            lines.push(std::mem::replace(&mut line, " ".repeat(indent)));
            has_word = false;
        }
        if has_word {
            line.push(' ');
        }
        line.push_str(word);
        has_word = has_word || !word.is_empty();
    }
    lines.push(line);
    lines
}

/// Makes columns narrower until all of them and their gaps fit into `columns`: the widest first, numbers last.
pub(super) fn fit(widths: &mut [usize], is_number: &[bool], columns: usize) {
    let gaps = COLUMN_GAP * widths.len().saturating_sub(1);
    for takes_numbers in [false, true] {
        loop {
            let excess = (widths.iter().sum::<usize>() + gaps).saturating_sub(columns);
            let may = |index: &usize| takes_numbers || !is_number.get(*index).copied().unwrap_or(false);
            let widest = (0..widths.len()).filter(may).filter(|index| widths[*index] > COLUMN_MIN);
            let Some(widest) = widest.max_by_key(|index| widths[*index]).filter(|_| excess > 0) else { break };
            widths[widest] -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_break_at_words_and_paths_stay_whole() {
        let text = "  events up to 33562 were pruned; use --after 33562";
        for columns in [10, 20, 40] {
            let lines = wrap(text, columns, 4);
            assert!(lines.iter().all(|line| width(line) <= columns || !line.trim().contains(' ')), "{lines:?}");
            let words: Vec<&str> = lines.iter().flat_map(|line| line.split_whitespace()).collect();
            assert_eq!(words, text.split_whitespace().collect::<Vec<_>>());
        }
        assert_eq!(wrap("a /very/long/path/of/a/file b", 10, 1), ["a", " /very/long/path/of/a/file", " b"]);
        assert_eq!(wrap("", 10, 0), [""]);
    }

    #[test]
    fn what_is_cut_fits_and_ends_its_style() {
        let styled = format!("{}abcdef{STYLE_END}", STYLES[0]);
        assert_eq!(cut(&styled, 6), styled);
        assert_eq!(cut(&styled, 4), format!("{}abc{STYLE_END}…", STYLES[0]));
        // Two columns a character.
        assert_eq!((cut("价格价格", 5).as_str(), width("价格")), ("价格…", 4));
        assert_eq!(cut("abc", 0), "");
    }

    #[test]
    fn columns_fit_and_numbers_are_cut_last() {
        let mut widths = [30, 12, 100];
        fit(&mut widths, &[false, true, false], 80);
        assert_eq!((widths.iter().sum::<usize>() + 4, widths[1]), (80, 12));
        let mut widths = [30, 12, 100];
        fit(&mut widths, &[false, true, false], 20);
        assert_eq!(widths, [6, 6, 6]);
    }
}
