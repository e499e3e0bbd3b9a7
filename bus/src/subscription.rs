//! Subscriptions: streams of committed events that never lose one.

use async_trait::async_trait;

use crate::{Committed, Filter, Name, Seq};

/// What a reader wants: events whose topic suits one of `filters` and whose source is not in `except`.
#[derive(Debug, Clone)]
pub struct Interest {
    /// Topics that are wanted; one match is enough.
    pub filters: Vec<Filter>,
    /// Publishers whose events are left out: a team is never fed its own rows.
    pub except: Vec<Name>,
}

impl Interest {
    /// Everything on the topics of `filters`.
    #[must_use]
    pub fn in_topics(filters: Vec<Filter>) -> Self {
        Self { filters, except: Vec::new() }
    }

    /// Whether an event of `source` on `topic` is wanted.
    #[must_use]
    pub fn wants(&self, topic: &str, source: &Name) -> bool {
        self.filters.iter().any(|filter| filter.matches(topic)) && !self.except.contains(source)
    }
}

/// Why the journal could not be read.
#[derive(Debug, Clone, thiserror::Error)]
#[error("journal could not be read after seq {after}: {cause}")]
pub struct JournalError {
    /// Where the read began.
    pub after: Seq,
    /// What the store said.
    pub cause: String,
    /// Whether trying again may help.
    pub retryable: bool,
}

/// A page of the journal.
#[derive(Debug, Default)]
pub struct Page {
    /// The wanted events, in journal order.
    pub events: Vec<Committed>,
    /// The seq up to which everything wanted is in `events`: the place to read on from.
    pub upto: Seq,
}

/// The journal as a subscription needs it: what was committed can be read again.
#[async_trait]
pub trait Journal: Send + Sync {
    /// Reads what `interest` wants of seqs in (`after`, `upto`], at most `limit` events.
    ///
    /// # Cancel safety
    /// Reads only.
    ///
    /// # Errors
    /// [`JournalError`]; nothing was consumed.
    async fn read(&self, after: Seq, upto: Seq, interest: &Interest, limit: usize) -> Result<Page, JournalError>;
}
