//! The bounds of the storage actor, each with its default and the reason for it.

use std::time::Duration;

use atra_bus::{InvalidSettings, SettingCheck};

use crate::Keep;

const MILLISECOND: Duration = Duration::from_millis(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3_600);
/// The longest time that any setting allows: far below the limit of the arithmetic of instants.
pub(crate) const DAY: Duration = Duration::from_secs(86_400);
/// How long idempotency keys and recorded results are kept by default. Seven days: a caller that was down over a long
/// weekend can still repeat a call safely.
pub const REPEATS_WITHIN: Duration = Duration::from_secs(7 * 24 * 3_600);

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
    /// How much is kept. All of the journal; idempotency keys and results of calls to the outside for seven days, since
    /// calls are not repeated later.
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
            keep: Keep { keys: Some(REPEATS_WITHIN), results: Some(REPEATS_WITHIN), ..Keep::default() },
            retention_every: Duration::from_secs(60),
            slow_after: Duration::from_secs(1),
        }
    }
}

impl StorageOptions {
    /// Checks every bound.
    ///
    /// # Errors
    /// Each bound that is out of its range or does not fit another.
    pub fn check(&self) -> Result<(), InvalidSettings> {
        let mut check = SettingCheck::new("storage");
        check.range("queue_commands_max", self.queue_commands_max, 1..=1_000_000);
        // The upper end is what the semaphore of a lane can count.
        if check.range("queue_bytes_max", self.queue_bytes_max, 1_024..=u32::MAX as usize) {
            check.at_least("queue_bytes_max", self.queue_bytes_max, "command_bytes_max", self.command_bytes_max);
        }
        check.range("command_bytes_max", self.command_bytes_max, 1_024..=u32::MAX as usize);
        check.range("batch_commands_max", self.batch_commands_max, 1..=1_000_000);
        check.range("batch_bytes_max", self.batch_bytes_max, 1..=1 << 30);
        check.range("bulk_chunk_bytes", self.bulk_chunk_bytes, 1..=1 << 30);
        check.at_most("bulk_chunk_bytes", self.bulk_chunk_bytes, "command_bytes_max", self.command_bytes_max);
        check.range("bulk_skips_max", self.bulk_skips_max, 0..=1_000_000);
        check.range("lookups_max", self.lookups_max, 1..=1_024);
        check.range("retries_max", self.retries_max, 0..=1_000);
        check.duration("backoff_first", self.backoff_first, MILLISECOND..=MINUTE);
        check.duration("backoff_max", self.backoff_max, self.backoff_first..=HOUR);
        check.duration("checkpoint_after_idle", self.checkpoint_after_idle, Duration::ZERO..=DAY);
        check.range("wal_bytes_max", self.wal_bytes_max, 65_536..=1 << 40);
        if let Some(bytes) = self.db_bytes_max {
            check.range("db_bytes_max", bytes, 1..=1 << 50);
        }
        check.duration("retention_every", self.retention_every, MILLISECOND..=DAY);
        // Zero logs every read and commit.
        check.duration("slow_after", self.slow_after, Duration::ZERO..=DAY);
        check.finish()
    }
}
