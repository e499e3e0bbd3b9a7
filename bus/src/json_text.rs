//! JSON text from outside: checked to be what the encoder could have written.

use std::{collections::HashSet, fmt};

use rustc_hash::FxBuildHasher;
use serde::{
    Deserializer as _,
    de::{DeserializeSeed, MapAccess, SeqAccess, Visitor},
};

use crate::{
    cut_text,
    encode::{NESTING_MAX, RESERVED_KEYS, Refusal, Segment, ValueFault},
};

/// The longest part of a wrong number or key that a message repeats, in bytes.
const SHOWN_BYTES_MAX: usize = 64;

/// Checks that `text` is one JSON value that every reader decodes equally, nested in `depth` levels of another value.
///
/// # Errors
/// The path and the fault, as the encoder names them.
pub(crate) fn check(text: &str, depth: u32) -> Result<(), Refusal> {
    let mut found = Found { path: Vec::new(), fault: None, has_large: false };
    let mut decoder = serde_json::Deserializer::from_str(text);
    let read = decoder.deserialize_any(Level { found: &mut found, depth }).and_then(|()| decoder.end());
    let fault = match (found.fault, read) {
        (Some(fault), _) => Some(fault),
        (None, Err(error)) => {
            Some(ValueFault::Syntax(cut_text(&error.to_string(), crate::ERROR_BYTES_MAX).into_owned()))
        }
        (None, Ok(())) if found.has_large => large_integer(text),
        (None, Ok(())) => None,
    };
    match fault {
        Some(fault) => Err(found.path.into_iter().rev().fold(Refusal::new(fault), Refusal::inside)),
        None => Ok(()),
    }
}

/// The first integer that is read back as a float. Only numbers without a fraction and an exponent are integers.
fn large_integer(text: &str) -> Option<ValueFault> {
    let (mut is_string, mut is_escaped) = (false, false);
    let mut start = None;
    for (at, byte) in text.bytes().chain([b' ']).enumerate() {
        if is_string {
            is_string = is_escaped || byte != b'"';
            is_escaped = !is_escaped && byte == b'\\';
            continue;
        }
        let is_number = matches!(byte, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E') && start.is_some()
            || matches!(byte, b'0'..=b'9' | b'-');
        match (is_number, start) {
            (true, None) => start = Some(at),
            (false, Some(from)) => {
                let number = &text[from..at];
                let is_integer = !number.contains(['.', 'e', 'E']);
                if is_integer && number.parse::<i64>().is_err() && number.parse::<u64>().is_err() && number != "-0" {
                    return Some(ValueFault::IntegerRange(cut_text(number, SHOWN_BYTES_MAX).into_owned()));
                }
                start = None;
            }
            _ => {}
        }
        is_string = byte == b'"';
    }
    None
}

/// What was found so far; the path is that of the value being read, or of the fault.
struct Found {
    path: Vec<Segment>,
    fault: Option<ValueFault>,
    /// Whether a number was read that may be an integer that became a float.
    has_large: bool,
}

/// A value at a depth.
struct Level<'f> {
    found: &'f mut Found,
    depth: u32,
}

impl Level<'_> {
    fn fault<E: serde::de::Error>(&mut self, fault: ValueFault) -> E {
        let error = E::custom(&fault);
        self.found.fault = Some(fault);
        error
    }

    fn deeper<E: serde::de::Error>(&mut self) -> Result<u32, E> {
        if self.depth >= NESTING_MAX { Err(self.fault(ValueFault::TooDeep)) } else { Ok(self.depth + 1) }
    }
}

impl<'de> DeserializeSeed<'de> for Level<'_> {
    type Value = ();
    fn deserialize<D: serde::Deserializer<'de>>(self, decoder: D) -> Result<(), D::Error> {
        decoder.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Level<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }
    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }
    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }
    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }
    fn visit_f64<E>(self, number: f64) -> Result<(), E> {
        // 2^63: every integer below it is read as one.
        self.found.has_large |= number.abs() >= 9_223_372_036_854_775_808.0;
        Ok(())
    }
    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }
    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut items: A) -> Result<(), A::Error> {
        let depth = self.deeper()?;
        for index in 0.. {
            self.found.path.push(Segment::Index(index));
            if items.next_element_seed(Level { found: self.found, depth })?.is_none() {
                self.found.path.pop();
                return Ok(());
            }
            self.found.path.pop();
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut entries: A) -> Result<(), A::Error> {
        let depth = self.deeper()?;
        let mut keys: HashSet<String, FxBuildHasher> = HashSet::default();
        while let Some(key) = entries.next_key::<String>()? {
            let shown = || cut_text(&key, SHOWN_BYTES_MAX).into_owned();
            if keys.contains(&key) {
                return Err(self.fault(ValueFault::DuplicateKey(shown())));
            }
            if key.starts_with(RESERVED_KEYS) {
                return Err(self.fault(ValueFault::ReservedKey(shown())));
            }
            self.found.path.push(Segment::Key(key.clone()));
            keys.insert(key);
            entries.next_value_seed(Level { found: self.found, depth })?;
            self.found.path.pop();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> String {
        let (path, fault) = check(text, 0).expect_err("refused").into_parts();
        format!("{path} {fault}")
    }

    #[test]
    fn text_that_readers_see_differently_is_refused_with_its_place() {
        assert!(refused("").starts_with("$ is not JSON"));
        assert!(refused(r#"{"a":"#).starts_with("$.a is not JSON"));
        assert!(refused("1 2").starts_with("$ is not JSON"));
        assert!(refused("NaN").starts_with("$ is not JSON"));
        assert!(refused("1e999").starts_with("$ is not JSON"));
        assert!(refused(r#""\ud800""#).starts_with("$ is not JSON"));
        assert_eq!(refused(r#"[{"a":1,"b":{"c":1,"c":2}}]"#), r#"$[0].b has the key "c" more than once"#);
        assert_eq!(refused(r#"{"a":1,"\u0061":1}"#), r#"$ has the key "a" more than once"#);
        assert!(refused(r#"{"$serde_json::private::RawValue":"[1"}"#).contains("which the decoder reserves"));
        assert!(refused("[18446744073709551616]").starts_with("$ is 18446744073709551616, outside"));
        assert!(refused("-9223372036854775809").contains("outside the integers"));
        let deep = |n: usize| "[".repeat(n) + &"]".repeat(n);
        assert!(refused(&deep(NESTING_MAX as usize + 1)).ends_with("is nested deeper than 120 levels"));
        assert!(refused(&deep(100_000)).ends_with("is nested deeper than 120 levels"));
        let fine = [
            r#" {"a":[1,-0,0.5,1e300,1e19,18446744073709551615,-9223372036854775808],"":"99999999999999999999"} "#,
            r#"{"\"99999999999999999999":"\\","x":1e30}"#,
            "null",
            &deep(NESTING_MAX as usize),
        ];
        for text in fine {
            assert!(check(text, 0).is_ok(), "{text}");
        }
    }
}
