//! Topics and filters: how an event says what it is about, and how a reader says what it wants.
//!
//! A topic is dot-separated tokens of `[A-Za-z0-9_-]`, as in NATS subjects. A filter may use `*` for
//! one token and `>` for one or more at the end. Both are checked when made, so everything later can
//! trust them, and both are bounded.
//!
//! Reserved roots: `sys.` (the runtime's own events), `memory.` (a write to shared memory: the rest of
//! the topic is the key) and `to.` (addressed to the one agent named by the next token).

use std::{borrow::Borrow, fmt, hash::Hash, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The longest topic or filter, in bytes: long enough for a key with several ids, short enough to index.
pub const TOPIC_BYTES_MAX: usize = 200;
/// The most tokens of a topic or filter.
pub const TOPIC_TOKENS_MAX: usize = 16;

/// The root under which shared memory is written.
pub const MEMORY_ROOT: &str = "memory.";
/// The root under which one agent is addressed.
pub const ADDRESS_ROOT: &str = "to.";
/// The root of the runtime's own events.
pub const SYSTEM_ROOT: &str = "sys.";

/// Why a topic or filter was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TopicError {
    /// Nothing between two dots, or an empty text.
    #[error("empty token in topic {0:?}")]
    EmptyToken(String),
    /// A character outside `[A-Za-z0-9_-]`.
    #[error("character {character:?} is not allowed in topic {topic:?}: use letters, digits, '_' and '-'")]
    Character {
        /// The refused text.
        topic: String,
        /// The first character that is not allowed.
        character: char,
    },
    /// More than [`TOPIC_BYTES_MAX`] bytes or [`TOPIC_TOKENS_MAX`] tokens.
    #[error(
        "topic of {bytes} bytes and {tokens} tokens is above the limit of {TOPIC_BYTES_MAX} bytes and {TOPIC_TOKENS_MAX} tokens"
    )]
    TooLong {
        /// Bytes of the refused text.
        bytes: usize,
        /// Its tokens.
        tokens: usize,
    },
    /// `>` anywhere but at the end of a filter.
    #[error("'>' must be the last token of filter {0:?}")]
    TailNotLast(String),
}

#[derive(Clone)]
enum Text {
    Static(&'static str),
    Shared(Arc<str>),
}

/// What an event is about: checked, bounded, cheap to clone. Ordered and hashed as its text.
#[derive(Clone)]
pub struct Topic(Text);

impl Topic {
    /// Checks `text` and makes a topic of it.
    ///
    /// # Errors
    /// [`TopicError`] names the first rule that `text` breaks.
    pub fn new(text: &str) -> Result<Self, TopicError> {
        check(text, false)?;
        Ok(Self(Text::Shared(text.into())))
    }

    /// A topic from a literal; in a `const` it is checked by the compiler.
    ///
    /// # Panics
    /// When `text` is not a topic. In a `const` that is a compile error.
    #[must_use]
    pub const fn literal(text: &'static str) -> Self {
        assert!(is_topic(text), "a topic has 1 to 16 tokens of letters, digits, '_' and '-', none empty, in 200 bytes");
        Self(Text::Static(text))
    }

    /// The topic of a write to the shared-memory key `key` (keys obey the rules of topics).
    ///
    /// # Errors
    /// [`TopicError`] when `key` is not a valid key.
    pub fn memory(key: &str) -> Result<Self, TopicError> {
        Self::new(&[MEMORY_ROOT, key].concat())
    }

    /// This topic addressed to one agent: `to.<agent>.<topic>`.
    ///
    /// # Errors
    /// [`TopicError::TooLong`] when the two together are above the limit.
    pub fn addressed_to(&self, agent: &crate::Name) -> Result<Self, TopicError> {
        Self::new(&[ADDRESS_ROOT, agent.as_str(), ".", self.as_str()].concat())
    }

    /// The agent that the topic addresses, if it does.
    #[must_use]
    pub fn addressee(&self) -> Option<&str> {
        let rest = self.as_str().strip_prefix(ADDRESS_ROOT)?;
        Some(&rest[..first_dot(rest).unwrap_or(rest.len())])
    }

    /// The topic without its address: what the event is about, whoever gets it.
    #[must_use]
    pub fn subject(&self) -> &str {
        let rest = self.as_str().strip_prefix(ADDRESS_ROOT);
        let subject = rest.and_then(|rest| Some(&rest[first_dot(rest)? + 1..]));
        subject.unwrap_or(self.as_str())
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match &self.0 {
            Text::Static(text) => text,
            Text::Shared(text) => text,
        }
    }

    /// The key that an event on this topic writes, if it is a memory write.
    #[must_use]
    pub fn memory_key(&self) -> Option<&str> {
        self.as_str().strip_prefix(MEMORY_ROOT)
    }

    /// Whether only the runtime may publish here: under `sys.`, `memory.` or `to.`.
    #[must_use]
    pub fn is_reserved(&self) -> bool {
        [SYSTEM_ROOT, MEMORY_ROOT, ADDRESS_ROOT].iter().any(|root| self.as_str().starts_with(root))
    }

    /// The first token: a bounded label for metrics.
    #[must_use]
    pub fn root(&self) -> &str {
        self.as_str().split('.').next().unwrap_or_default()
    }
}

impl PartialEq for Topic {
    fn eq(&self, other: &Self) -> bool {
        let (text, other) = (self.as_str(), other.as_str());
        // Mostly clones of one: the text itself need not be read.
        std::ptr::eq(text, other) || text == other
    }
}
impl Eq for Topic {}
impl PartialOrd for Topic {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Topic {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.as_str().cmp(other.as_str())
    }
}
impl Hash for Topic {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.as_str().hash(state);
    }
}
impl Borrow<str> for Topic {
    fn borrow(&self) -> &str {
        self.as_str()
    }
}
impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
impl fmt::Debug for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Topic({})", self.as_str())
    }
}
impl Serialize for Topic {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}
impl<'de> Deserialize<'de> for Topic {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

/// Which topics a reader wants: `market.*`, `memory.params.>`, `>` or a plain topic.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Filter {
    text: Arc<str>,
    /// Whether its first token, a wildcard, matches neither `sys` nor `to`.
    hides_system: bool,
}

impl Filter {
    /// Checks `text` and makes a filter of it.
    ///
    /// # Errors
    /// [`TopicError`] names the first rule that `text` breaks.
    pub fn new(text: &str) -> Result<Self, TopicError> {
        check(text, true)?;
        Ok(Self { text: text.into(), hides_system: false })
    }

    /// The filter that wants exactly `topic`.
    #[must_use]
    pub fn exactly(topic: &Topic) -> Self {
        Self { text: topic.as_str().into(), hides_system: false }
    }

    /// The filter that wants everything.
    #[must_use]
    pub fn all() -> Self {
        Self { text: ">".into(), hides_system: false }
    }

    /// The same, as agents subscribe: a wildcard as the first segment matches neither the runtime's own events (`sys.`)
    /// nor events addressed to an agent (`to.`). Only a filter that names the root matches those: an agent that
    /// subscribes to everything must not receive the events that its own restarts publish.
    #[must_use]
    pub fn without_system(mut self) -> Self {
        self.hides_system = self.text.starts_with(['*', '>']);
        self
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether the filter has no wildcard and so wants one topic only.
    #[must_use]
    pub fn is_literal(&self) -> bool {
        !self.text.contains(['*', '>'])
    }

    /// Whether `topic` is wanted.
    #[must_use]
    pub fn matches(&self, topic: &str) -> bool {
        if self.hides_system && (topic.starts_with(SYSTEM_ROOT) || topic.starts_with(ADDRESS_ROOT)) {
            return false;
        }
        let mut wanted = self.text.split('.');
        let mut given = topic.split('.');
        loop {
            match (wanted.next(), given.next()) {
                (Some(">"), Some(_)) | (None, None) => return true,
                (Some("*"), Some(_)) => {}
                (Some(a), Some(b)) if a == b => {}
                _ => return false,
            }
        }
    }

    /// Whether some topic is wanted by both: used by the topology check.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        let mut left = self.text.split('.');
        let mut right = other.text.split('.');
        loop {
            match (left.next(), right.next()) {
                (Some(">"), Some(_)) | (Some(_), Some(">")) | (None, None) => return true,
                (Some(a), Some(b)) if a == b || a == "*" || b == "*" => {}
                _ => return false,
            }
        }
    }
}

impl From<Topic> for Filter {
    fn from(topic: Topic) -> Self {
        Self::exactly(&topic)
    }
}
impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
impl fmt::Debug for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Filter({})", self.text)
    }
}

/// Where the first dot is. Tokens are short: looking at each byte costs less than a search that is made for long texts.
fn first_dot(text: &str) -> Option<usize> {
    text.bytes().position(|byte| byte == b'.')
}

/// Whether the text is a topic, in one pass over its bytes: every event's topic comes through here.
const fn is_topic(text: &str) -> bool {
    let bytes = text.as_bytes();
    let (mut at, mut begin, mut tokens) = (0, 0, 1);
    while at < bytes.len() {
        match bytes[at] {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'-' => {}
            b'.' if at > begin => (begin, tokens) = (at + 1, tokens + 1),
            _ => return false,
        }
        at += 1;
    }
    at > begin && bytes.len() <= TOPIC_BYTES_MAX && tokens <= TOPIC_TOKENS_MAX
}

/// Checks a topic, or with `wildcards` a filter, and says what is wrong with it.
fn check(text: &str, wildcards: bool) -> Result<(), TopicError> {
    if is_topic(text) {
        return Ok(());
    }
    let tokens = text.split('.').count();
    if text.len() > TOPIC_BYTES_MAX || tokens > TOPIC_TOKENS_MAX {
        return Err(TopicError::TooLong { bytes: text.len(), tokens });
    }
    for (place, token) in text.split('.').enumerate() {
        match token {
            "" => return Err(TopicError::EmptyToken(text.into())),
            "*" if wildcards => {}
            ">" if wildcards && place + 1 == tokens => {}
            ">" if wildcards => return Err(TopicError::TailNotLast(text.into())),
            _ => {
                if let Some(character) = token.chars().find(|c| !(c.is_ascii_alphanumeric() || matches!(c, '_' | '-')))
                {
                    return Err(TopicError::Character { topic: text.into(), character });
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(text: &str) -> Filter {
        Filter::new(text).expect("a filter")
    }

    #[test]
    fn a_filter_matches_as_nats_subjects_do() {
        for (wanted, topic, expected) in [
            ("market.candle", "market.candle", true),
            ("market.candle", "market.candle.x", false),
            ("market.*", "market.candle", true),
            ("market.*", "market", false),
            ("market.*", "market.a.b", false),
            ("market.>", "market.a.b", true),
            ("market.>", "market", false),
            (">", "anything.at.all", true),
            ("*.fill", "order.fill", true),
        ] {
            assert_eq!(filter(wanted).matches(topic), expected, "{wanted} on {topic}");
        }
    }

    #[test]
    fn a_wildcard_root_of_an_agent_matches_neither_system_events_nor_addresses() {
        for (text, topic, plain, of_agent) in [
            (">", "a.b", true, true),
            (">", "sys.team.started", true, false),
            ("*.team.*", "sys.team.started", true, false),
            (">", "to.b.x", true, false),
            (">", "memory.a", true, true),
            ("sys.>", "sys.team.started", true, true),
            ("sys.*.started", "sys.team.started", true, true),
            (">", "system.x", true, true),
        ] {
            assert_eq!(filter(text).matches(topic), plain, "{text} on {topic}");
            assert_eq!(filter(text).without_system().matches(topic), of_agent, "{text} of an agent on {topic}");
        }
        assert_eq!(filter("a.b").without_system(), filter("a.b"));
    }

    #[test]
    fn filters_overlap_when_one_topic_suits_both() {
        assert!(filter("a.*").overlaps(&filter("*.b")));
        assert!(filter("a.>").overlaps(&filter("a.b.c")));
        assert!(!filter("a.b").overlaps(&filter("a.b.>")));
        assert!(!filter("a.*").overlaps(&filter("b.>")));
    }

    #[test]
    fn a_bad_topic_is_refused_with_its_reason() {
        assert!(matches!(Topic::new("a..b"), Err(TopicError::EmptyToken(_))));
        assert!(matches!(Topic::new(""), Err(TopicError::EmptyToken(_))));
        assert!(matches!(Topic::new("a.ü"), Err(TopicError::Character { character: 'ü', .. })));
        assert!(matches!(Topic::new("a.*"), Err(TopicError::Character { character: '*', .. })));
        assert!(matches!(Filter::new("a.>.b"), Err(TopicError::TailNotLast(_))));
        assert!(Topic::new(&"x".repeat(TOPIC_BYTES_MAX)).is_ok());
        assert!(matches!(Topic::new(&"x".repeat(TOPIC_BYTES_MAX + 1)), Err(TopicError::TooLong { .. })));
        let most = vec!["x"; TOPIC_TOKENS_MAX].join(".");
        assert!(Topic::new(&most).is_ok());
        assert!(Topic::new(&format!("{most}.x")).is_err());
    }
}
