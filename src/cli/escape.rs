//! Escapes text from data for terminals and text files: characters that control the terminal or mislead the reader are
//! written as escapes, such as `\u{1b}`.
//!
//! Every text for people goes through here exactly once, in [`super::output`]; JSON goes through [`json`].

use std::borrow::Cow;

/// Style marks of [`super::output::Output::paint`]: Unicode noncharacters, which valid text does not contain. Data that
/// contains one can only affect its own line.
pub(super) const STYLES: [char; 4] = ['\u{fdd0}', '\u{fdd1}', '\u{fdd2}', '\u{fdd3}'];
pub(super) const STYLE_END: char = '\u{fdd4}';

/// Whether a character can control a terminal, change the reading order of text, or is invisible.
pub(super) fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c,
            // Bidirectional marks, embeddings, overrides and isolates; line and paragraph separators.
            '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{206f}'
            // Invisible: zero-width space, word joiner and operators, byte-order mark, annotations, old vowel separator.
            | '\u{200b}' | '\u{2060}'..='\u{2065}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{180e}'
            // Tags, and private or unassigned code points that fonts and terminals use as they like.
            | '\u{e0000}'..='\u{e007f}' | '\u{fdd0}'..='\u{fdef}')
}

/// `text` with every unsafe character as an escape, line ends too.
pub(crate) fn escaped(text: &str) -> Cow<'_, str> {
    escaped_but(text, |_| false)
}

/// The same, except for characters that `is_kept`.
pub(super) fn escaped_but(text: &str, is_kept: impl Fn(char) -> bool) -> Cow<'_, str> {
    let is_plain = |byte: u8| (0x20..0x7f).contains(&byte);
    if text.bytes().all(is_plain) || !text.chars().any(|c| is_unsafe(c) && !is_kept(c)) {
        return Cow::Borrowed(text);
    }
    let mut clean = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            c if is_kept(c) || !is_unsafe(c) => clean.push(c),
            '\n' => clean.push_str("\\n"),
            '\r' => clean.push_str("\\r"),
            '\t' => clean.push_str("\\t"),
            c => clean.extend(c.escape_unicode()),
        }
    }
    Cow::Owned(clean)
}

/// A JSON text with every unsafe character as `\uNNNN`. Outside of its strings a JSON text has none but line ends.
pub(crate) fn json(text: &str) -> Cow<'_, str> {
    let is_bad = |c: char| is_unsafe(c) && c != '\n';
    if text.is_ascii() && !text.contains('\u{7f}') || !text.chars().any(is_bad) {
        return Cow::Borrowed(text);
    }
    let mut clean = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_bad(c) {
            for unit in c.encode_utf16(&mut [0; 2]) {
                clean.push_str(&format!("\\u{unit:04x}"));
            }
        } else {
            clean.push(c);
        }
    }
    Cow::Owned(clean)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One of each kind that must never be printed as it is.
    const HOSTILE: &str = "a\u{1b}[2J\u{7}\r\u{8}\u{7f}\u{85}\u{9b}31m\u{202e}\u{2066}\u{200f}\u{61c}\u{2028}\u{feff}\u{200b}\u{e0041}\u{fdd2}z";

    #[test]
    fn nothing_that_steers_a_terminal_is_left() {
        let clean = escaped(HOSTILE);
        assert!(!clean.chars().any(is_unsafe), "{clean:?}");
        assert!(clean.starts_with("a\\u{1b}[2J\\u{7}\\r") && clean.ends_with('z'), "{clean}");
        assert_eq!(escaped("a\tb\nc"), "a\\tb\\nc");
        assert_eq!(escaped("Größe 价格 👩\u{200d}🔬 ✓"), "Größe 价格 👩\u{200d}🔬 ✓");
    }

    #[test]
    fn escaped_json_is_the_same_value() {
        let value = serde_json::json!({ HOSTILE: [HOSTILE, "plain"], "n": 1.5 });
        let text = serde_json::to_string(&value).expect("JSON");
        let clean = json(&text);
        assert!(!clean.chars().any(is_unsafe), "{clean:?}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&clean).expect("JSON"), value);
    }
}
