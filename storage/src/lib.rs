//! atra-storage: messages and facts persist.
//!
//! What is here: the [`Step`] that a team hands over, the [`Store`] trait with its two backends (SQLite
//! and an in-memory model that can fail on request), the one conformance suite that both pass, the
//! storage actor that is the only writer, and readers.
//!
//! What is not: nothing here knows agents, turns or markets. Only this crate knows SQL.

pub mod actor;
mod answers;
mod commit_time;
pub mod conformance;
pub mod digest;
mod facts;
pub mod handle;
mod kept;
pub mod memory;
pub mod metrics;
pub mod options;
pub mod output;
mod plan;
mod power;
mod queue;
pub mod rejected;
pub mod retention;
pub mod sqlite;
pub mod step;
pub mod store;
#[cfg(test)]
mod tests;
mod upkeep;

pub use actor::StorageActor;
pub use commit_time::{CommitTime, clock_at};
pub use digest::{Digest, digest, digest_of_publisher, digest_with_progress};
pub use handle::{Acknowledged, Receipt, Release, Storage};
pub use memory::{MemoryDisk, MemoryStore};
pub use metrics::{Distribution, StorageMetrics, StorageState};
pub use options::{REPEATS_WITHIN, StorageOptions};
pub use output::{OutputError, OutputFile};
pub use rejected::Rejected;
pub use retention::{Expired, Expiry, ForgetPlan, Keep, NoSpan, PrunePlan, Span, clock_of, plan_forget, plan_prune};
pub use sqlite::{
    CheckReport, Copied, Info, Log, LogReader, Owner, Progress, Pruned, Restored, RowCounts, SqliteOptions,
    SqliteReader, SqliteStore, Vacuumed, backup, check, check_value, count_rows, create_beside, forget_team, info, log,
    owner, prune_file, read_beside, refuse_half_restored, rename_new, resolve, restore, vacuum,
};
pub use step::{
    Ancestor, Block, FactKind, FactRow, FactWrite, Lane, Level, NewEvent, OPEN_EFFECT, Publish, ROW_BYTES, Step,
    event_bytes, new_event_bytes,
};
pub use store::{
    FactPage, Loaded, PAGE_BYTES, Read, SeriesRow, Sizes, Store, StoreError, TeamMove, TeamRow, TopicCounts, WriteBatch,
};
