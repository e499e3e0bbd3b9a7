//! Text for people, cut to a length that can be stored everywhere.

use std::borrow::Cow;

/// The longest error text that is kept, in bytes. 4 KiB: longer than a person reads, and a step with a thousand of them
/// is still small.
pub const ERROR_BYTES_MAX: usize = 4_096;

/// Returns the text, or its first `bytes_max` bytes (whole characters) and a note with its length.
///
/// # Examples
/// ```
/// assert_eq!(atra_bus::cut_text("short", 10), "short");
/// assert_eq!(atra_bus::cut_text("naïve text", 3), "na… (cut from 11 bytes)");
/// ```
#[must_use]
pub fn cut_text(text: &str, bytes_max: usize) -> Cow<'_, str> {
    if text.len() <= bytes_max {
        return Cow::Borrowed(text);
    }
    Cow::Owned(format!("{}… (cut from {} bytes)", &text[..text.floor_char_boundary(bytes_max)], text.len()))
}
