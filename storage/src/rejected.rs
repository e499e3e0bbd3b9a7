//! Why a command was not carried out.

use std::time::Duration;

use atra_bus::{EventId, Name, Seq};

use crate::StoreError;

/// Why the storage actor refused a command or could not carry it out.
///
/// Except for [`Rejected::Unknown`], and [`Rejected::Failed`] of a multi-chunk `put_blocks`, nothing of a
/// rejected command is stored.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Rejected {
    /// The step was made by an incarnation of the team that is not the newest.
    #[error("step of team {team} is of epoch {epoch}, the newest is {newest}")]
    Stale {
        /// The team.
        team: Name,
        /// The step's epoch.
        epoch: u64,
        /// The only epoch that is accepted; 0 when none was ever raised.
        newest: u64,
    },
    /// The step is not the one after the last accepted.
    #[error("step {number} of team {team} is out of order, step {expected} is next")]
    OutOfOrder {
        /// The team.
        team: Name,
        /// The step's number.
        number: u64,
        /// The number that is accepted next.
        expected: u64,
    },
    /// The memory key was not last written by the expected event.
    #[error("memory key {key:?} was last written by {}, not by {}", show(found), show(expected))]
    Conflict {
        /// The key.
        key: String,
        /// What the caller expected.
        expected: Option<EventId>,
        /// What wrote it last; `None`: the key does not exist.
        found: Option<EventId>,
    },
    /// The command is larger than is allowed.
    #[error("command of {bytes} bytes is above the limit of {limit} bytes")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The limit, `command_bytes_max`.
        limit: usize,
    },
    /// The content breaks a rule; trying again will not help.
    #[error("content is not allowed: {0}")]
    Invalid(String),
    /// No room in the queue at the moment.
    #[error(
        "storage queue is full: {queued} commands, limits are {commands_max} commands and {bytes_max} bytes; \
         try again in {retry_after:?}"
    )]
    Overloaded {
        /// Commands that wait in the lane.
        queued: usize,
        /// The limit by count.
        commands_max: usize,
        /// The limit by size.
        bytes_max: usize,
        /// When there may be room: what the last commit took, for each batch that waits. While there is no space on
        /// the disk, when it will be looked for again.
        retry_after: Duration,
    },
    /// The database is as large as it may be: `db_bytes_max`.
    #[error(
        "database is full: {used_bytes} of {limit_bytes} bytes are in use{}{}",
        holds(*log_bytes, *log_held_by),
        pins(pinned_by)
    )]
    Full {
        /// Bytes in use.
        used_bytes: u64,
        /// The limit.
        limit_bytes: u64,
        /// Bytes of them that the write-ahead log has above `wal_bytes_max`: somebody keeps it from being begun anew.
        log_bytes: u64,
        /// The process that does, if it is known.
        log_held_by: Option<u32>,
        /// The team that is farthest behind, and its cursor: nothing after that can be deleted.
        pinned_by: Option<(Name, Seq)>,
    },
    /// The seq was not released in time.
    #[error("seq {seq} is not released after {waited:?}, {released} is")]
    NotReleased {
        /// What was waited for.
        seq: Seq,
        /// How far it is.
        released: Seq,
        /// How long was waited.
        waited: Duration,
    },
    /// The storage actor has stopped, or is stopping.
    #[error("storage is stopped")]
    Stopped,
    /// The store failed; nothing was written.
    #[error("store failed: {0}")]
    Failed(#[source] StoreError),
    /// It is not known whether the command is stored, or whether it would survive what its level promises.
    #[error("outcome is unknown: {0}")]
    Unknown(String),
}

impl Rejected {
    /// Whether the same call may succeed later without anybody doing anything.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Overloaded { .. } | Self::Full { .. } | Self::NotReleased { .. } => true,
            Self::Failed(cause) => cause.is_retryable(),
            _ => false,
        }
    }
}

fn holds(log_bytes: u64, held_by: Option<u32>) -> String {
    match (log_bytes, held_by) {
        (0, _) => String::new(),
        (_, Some(process)) => {
            format!(", {log_bytes} of them in a log that process {process} reads from without an end: end it")
        }
        (_, None) => format!(", {log_bytes} of them in a log that somebody reads from without an end"),
    }
}

fn pins(pinned_by: &Option<(Name, Seq)>) -> String {
    match pinned_by {
        Some((team, cursor)) => {
            format!(", and team {team} pins the journal at seq {cursor}: let it go on, or raise storage.db_bytes_max")
        }
        None => ": prune the journal, or raise storage.db_bytes_max".into(),
    }
}

fn show(revision: &Option<EventId>) -> String {
    revision.map_or_else(|| "nobody".into(), |id| id.to_string())
}
