//! The bounds of the storage actor, each with its default and the reason for it.

use std::time::Duration;

use crate::Keep;

/// How much the storage actor queues, batches and retries.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct StorageOptions {
    /// Commands that one lane holds before `submit` waits. 4,096: a thousand teams with four steps in
    /// flight each; a command is a few hundred bytes without its content.
    pub queue_commands_max: usize,
    /// Bytes of content that one lane holds, commands in the batch at work included, before `submit`
    /// waits. 64 MiB: several hundred batches of market data, and an end to what a full disk can pile up.
    pub queue_bytes_max: usize,
    /// The largest single command. 16 MiB: far above a step's own limit, and two still fit the queue.
    pub command_bytes_max: usize,
    /// Commands in one transaction. 1,024: more gains no throughput and only delays the first in it.
    pub batch_commands_max: usize,
    /// Bytes in one transaction; the command that crosses the line is still taken. 8 MiB: a commit of some
    /// tens of milliseconds, half of the WAL's size bound.
    pub batch_bytes_max: usize,
    /// Bytes of blocks in one command of the bulk lane. 1 MiB: a turn never waits for more than four.
    pub bulk_chunk_bytes: usize,
    /// Batches that may leave waiting bulk commands aside because turns fill them. 8: an import still gets
    /// a ninth of a saturated store.
    pub bulk_skips_max: u32,
    /// Reads of idempotency keys and revisions that run at once before a batch. 4: the readers there are.
    pub lookups_max: usize,
    /// Retries of a busy store, or of looking for an unknown outcome, before giving up. 20: with the
    /// backoff below about half a minute, as long as a reader's own busy timeout.
    pub retries_max: u32,
    /// The first pause between retries; it doubles each time. 5 ms: about one commit.
    pub backoff_first: Duration,
    /// The longest pause between retries and between probes of a full disk. 2 s: soon enough for a person
    /// who has just made space.
    pub backoff_max: Duration,
    /// Idle time after which the write-ahead log is moved into the database. 1 s: never between two steps
    /// of a running team.
    pub checkpoint_after_idle: Duration,
    /// Size of the write-ahead log from which on it is begun anew even under load, which waits a tenth of a second for
    /// readers. 64 MiB: four times what commits move by themselves, so it happens only when readers keep them from it.
    pub wal_bytes_max: u64,
    /// Bytes of the database from which on callers' publishes are refused. Not set: the disk decides.
    pub db_bytes_max: Option<u64>,
    /// How much of the journal is kept. Not set: all of it.
    pub keep: Keep,
    /// How often it is found out what may be deleted. A minute: deleting is not urgent.
    pub retention_every: Duration,
    /// From how long on a commit is logged, with what it waited for. 1 s.
    pub slow_after: Duration,
}

impl Default for StorageOptions {
    fn default() -> Self {
        Self {
            queue_commands_max: 4_096,
            queue_bytes_max: 64 << 20,
            command_bytes_max: 16 << 20,
            batch_commands_max: 1_024,
            batch_bytes_max: 8 << 20,
            bulk_chunk_bytes: 1 << 20,
            bulk_skips_max: 8,
            lookups_max: 4,
            retries_max: 20,
            backoff_first: Duration::from_millis(5),
            backoff_max: Duration::from_secs(2),
            checkpoint_after_idle: Duration::from_secs(1),
            wal_bytes_max: 64 << 20,
            db_bytes_max: None,
            keep: Keep::default(),
            retention_every: Duration::from_secs(60),
            slow_after: Duration::from_secs(1),
        }
    }
}

impl StorageOptions {
    /// The same with impossible values mended: bounds of zero become one, a command fits its queue, and a
    /// queue fits its semaphore.
    #[must_use]
    pub(crate) fn checked(mut self) -> Self {
        self.queue_commands_max = self.queue_commands_max.max(1);
        self.queue_bytes_max = self.queue_bytes_max.clamp(1, u32::MAX as usize);
        self.command_bytes_max = self.command_bytes_max.clamp(1, self.queue_bytes_max);
        self.batch_commands_max = self.batch_commands_max.max(1);
        self.batch_bytes_max = self.batch_bytes_max.max(1);
        self.bulk_chunk_bytes = self.bulk_chunk_bytes.max(1);
        self.lookups_max = self.lookups_max.max(1);
        self
    }
}
