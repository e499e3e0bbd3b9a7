//! What the storage actor does besides committing: it looks after the file, keeps the log short, deletes what may go.
//!
//! All of it is done between two batches, in pieces of some milliseconds, when nobody waits or, under load, after a
//! bounded number of batches. A store that needs no looking after (the model) costs nothing.

use std::time::Duration;

use atra_bus::{Seq, later};
use tokio::time::Instant;
use tracing::{info, warn};

use crate::{
    Expiry, FactKind, Rejected, StorageActor, StoreError, WriteBatch,
    metrics::Gauges,
    plan::Ledger,
    plan_prune,
    queue::{Command, Work},
    retention::EXPIRING,
};

/// Idle time between two looks. 250 ms: a file that is gone is noticed within a second.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Time between two looks under load; what is acknowledged in between may be lost with the file. 20 ms: a look is two
/// microseconds.
const LOOK_BETWEEN: Duration = Duration::from_millis(20);
/// Time between two tries to begin the log anew: each may hold up a commit.
const SHORTEN_BETWEEN: Duration = Duration::from_secs(1);
/// An idle log is begun anew from this size on. 4 MiB: smaller ones cost nothing to keep.
const IDLE_WAL_BYTES: u64 = 4 << 20;
/// Events that one transaction deletes, and facts that one looks at. 2,000: some milliseconds.
const PIECE: u64 = 2_000;
/// Events that one transaction deletes at most when a full load makes more than [`PIECE`] between two of them. 50,000: some
/// tenths of a second.
const PIECE_MAX: u64 = 50_000;
/// A journal is pruned by count when it is longer than `keep_events` by this share of it, so it stays below 1.25 times
/// that while a piece is deleted.
const SLACK_SHARE: u64 = 8;
/// Number of scans for expired facts in the time for which they are kept; there is at least one an hour.
const SWEEPS_PER_SPAN: u32 = 32;
/// See [`SWEEPS_PER_SPAN`].
const SWEEP_AT_LEAST: Duration = Duration::from_secs(3_600);

/// When what was done last, and what is to be done.
#[derive(Debug)]
pub(crate) struct Upkeep {
    /// Whether the store has something to look after.
    is_looking: bool,
    looked_at: Instant,
    measured_at: Instant,
    /// The last seq of the journal when the file was last seen in its place.
    seen: Seq,
    /// When the last batch was done.
    active_at: Instant,
    shortened_at: Instant,
    retention_at: Instant,
    /// Events up to here are to be deleted.
    prune_to: Option<Seq>,
    /// The last seq when the journal was last found too long: pruning is planned again when the journal has grown.
    counted_at: Seq,
    /// The last seq when a piece was last deleted.
    pruned_at: Seq,
    /// The time of the next scan, by kind as in [`EXPIRING`]; `None`: there are no such facts yet.
    sweep_at: [Option<Instant>; EXPIRING.len()],
    /// The scan in progress, with its counts so far.
    sweep: Option<(Expiry, Swept)>,
    /// Batches in a row that left the deleting aside.
    skips: u32,
}

/// How many facts were deleted and kept while they were looked through.
#[derive(Debug, Default)]
struct Swept {
    deleted: u64,
    kept: u64,
}

impl Upkeep {
    pub(crate) fn new() -> Self {
        let now = Instant::now();
        Self {
            is_looking: true,
            looked_at: now,
            measured_at: now,
            seen: Seq::ZERO,
            active_at: now,
            shortened_at: now,
            retention_at: now,
            prune_to: None,
            counted_at: Seq::ZERO,
            pruned_at: Seq::ZERO,
            sweep_at: [Some(now); EXPIRING.len()],
            sweep: None,
            skips: 0,
        }
    }

    /// A batch was done.
    pub(crate) fn was_active(&mut self) {
        self.active_at = Instant::now();
        self.skips += 1;
    }
}

impl StorageActor {
    /// The first look, before anything is committed.
    pub(crate) async fn begin_upkeep(&mut self) -> Result<(), StoreError> {
        let sizes = self.store.look(true).await?;
        self.upkeep.is_looking = sizes.is_some();
        self.upkeep.seen = self.ledger.last;
        self.upkeep.pruned_at = self.ledger.last;
        self.gauges.set_sizes(sizes.unwrap_or_default());
        self.gauges.set_floor(self.ledger.floor);
        Ok(())
    }

    /// How long the next batch may be waited for before something else is to be done; `None`: for ever.
    pub(crate) fn patience(&self) -> Option<Duration> {
        let upkeep = &self.upkeep;
        if upkeep.prune_to.is_some() || upkeep.sweep.is_some() {
            return Some(Duration::ZERO);
        }
        let checkpoint = self.is_dirty.then(|| later(upkeep.active_at, self.options.checkpoint_after_idle));
        let look = upkeep.is_looking.then(|| upkeep.looked_at + LOOK_EVERY);
        let retention = self.options.keep.is_limited().then_some(upkeep.retention_at);
        let keep = self.options.keep;
        let sweeps = EXPIRING.iter().zip(upkeep.sweep_at).filter(|(kind, _)| keep.of_facts(**kind).is_some());
        let sweep = sweeps.filter_map(|(_, at)| at).min();
        let next = checkpoint.into_iter().chain(look).chain(retention).chain(sweep).min()?;
        Some(next.saturating_duration_since(Instant::now()))
    }

    /// What is due while nobody waits.
    pub(crate) async fn upkeep_when_idle(&mut self) -> Result<(), StoreError> {
        if self.is_dirty && self.upkeep.active_at.elapsed() >= self.options.checkpoint_after_idle {
            self.is_dirty = false;
            self.checkpoint().await;
            self.shorten_log(IDLE_WAL_BYTES).await;
        }
        // A reader that held it may have gone, and nobody writes because the log made the database full.
        self.shorten_log(self.options.wal_bytes_max).await;
        self.look_after().await?;
        self.plan_retention().await;
        self.prune_some().await;
        self.plan_sweep();
        self.sweep_some().await;
        Ok(())
    }

    /// What is due between two batches under load.
    pub(crate) async fn upkeep_under_load(&mut self) {
        self.upkeep.was_active();
        self.shorten_log(self.options.wal_bytes_max).await;
        let is_turn = self.upkeep.skips > self.options.bulk_skips_max;
        // A journal that is too long is pruned as fast as it grows, and writers wait for that.
        if is_turn || self.is_too_long() {
            self.plan_retention().await;
            self.prune_some().await;
        }
        if is_turn {
            self.plan_sweep();
            self.sweep_some().await;
        }
    }

    /// Looks whether the file is where it was, and how large everything is. Called after a commit, before it is
    /// answered: what is acknowledged must not lie in a file that nobody will find.
    pub(crate) async fn look_after(&mut self) -> Result<(), StoreError> {
        let now = Instant::now();
        if !self.upkeep.is_looking || now < self.upkeep.looked_at + LOOK_BETWEEN {
            return Ok(());
        }
        let deep = now >= self.upkeep.measured_at + LOOK_EVERY;
        match self.store.look(deep).await {
            Ok(sizes) => {
                let sizes = sizes.unwrap_or_default();
                self.gauges.set_sizes(sizes);
                self.power.log_is(sizes.unmoved_bytes);
                self.upkeep.seen = self.ledger.last;
                self.upkeep.looked_at = now;
                if deep {
                    self.upkeep.measured_at = now;
                }
                Ok(())
            }
            Err(error) => Err(self.with_what_came_between(error)),
        }
    }

    /// Looks how much of the log could not be moved just now. What is wrong with the file is the next look's to tell.
    pub(crate) async fn see_what_is_left(&mut self) {
        if self.upkeep.is_looking
            && let Ok(Some(sizes)) = self.store.look(false).await
        {
            self.gauges.set_sizes(sizes);
            self.power.log_is(sizes.unmoved_bytes);
        }
    }

    /// Says what was acknowledged since the file was last seen in its place.
    fn with_what_came_between(&self, error: StoreError) -> StoreError {
        let StoreError::Fatal { path, cause } = error else { return error };
        let (seen, last) = (self.upkeep.seen, self.ledger.last);
        let ago = self.upkeep.looked_at.elapsed();
        let between = if last > seen {
            format!("seqs {} to {last} were acknowledged", seen.next())
        } else {
            "nothing was acknowledged".into()
        };
        let ago = ago.as_secs_f64();
        StoreError::Fatal {
            path,
            cause: format!("{cause}; {between} since it was last seen in its place {ago:.1} s ago"),
        }
    }

    /// Begins the log anew when it has grown beyond `bytes_max`.
    async fn shorten_log(&mut self, bytes_max: u64) {
        let now = Instant::now();
        if self.gauges.sizes().wal_bytes <= bytes_max || now < self.upkeep.shortened_at + SHORTEN_BETWEEN {
            return;
        }
        self.answer_committed();
        match self.store.shorten_log().await {
            Ok(true) => {
                Gauges::add(&self.gauges.checkpoints, 1);
                // The size that was read is of the log before.
                self.upkeep.looked_at = now.checked_sub(LOOK_BETWEEN).unwrap_or(now);
            }
            Ok(false) => Gauges::add(&self.gauges.checkpoints_held, 1),
            Err(StoreError::Unknown(cause)) => self.doubt_power(&cause),
            Err(error) => warn!(%error, "log could not be begun anew"),
        }
        let took = now.elapsed();
        if took > self.options.slow_after {
            warn!(
                took_ms = took.as_millis() as u64,
                "beginning the log anew was slow: it waited for readers or the disk"
            );
        }
        self.upkeep.shortened_at = Instant::now();
    }

    // === retention ===

    /// Whether the journal is so much too long that pruning must not wait for the next regular run.
    fn is_too_long(&self) -> bool {
        let Some(n) = self.options.keep.events else { return false };
        let Ledger { last, floor, .. } = &self.ledger;
        last.get().saturating_sub(floor.get()) > n.saturating_add(n / SLACK_SHARE)
    }

    /// As far as every team has taken the journal.
    fn pinned(&self) -> Seq {
        self.ledger.teams.values().map(|team| team.cursor).min().unwrap_or(Seq(u64::MAX))
    }

    /// Determines what may be deleted by count, without reads. The seq that teams pin is read again when the journal
    /// has grown by half of the slack.
    fn plan_by_count(&mut self) {
        let Some(n) = self.options.keep.events.filter(|_| self.is_too_long()) else { return };
        let last = self.ledger.last.get();
        // An event that is young enough stays: that needs a look at the commit times.
        if self.options.keep.span.is_some()
            || last.saturating_sub(self.upkeep.counted_at.get()) < (n / SLACK_SHARE / 2).max(1)
        {
            return;
        }
        self.upkeep.counted_at = self.ledger.last;
        let upto = Seq(last.saturating_sub(n)).min(self.pinned());
        self.upkeep.prune_to = (upto > self.ledger.floor).then_some(upto);
    }

    /// Finds out now and then what may go.
    async fn plan_retention(&mut self) {
        let keep = self.options.keep;
        if !keep.is_limited() || self.upkeep.prune_to.is_some() {
            return;
        }
        self.plan_by_count();
        if self.upkeep.prune_to.is_some() || Instant::now() < self.upkeep.retention_at {
            return;
        }
        self.upkeep.retention_at = later(Instant::now(), self.options.retention_every);
        self.answer_committed();
        match plan_prune(&*self.store.reader(), keep, self.clock.now()).await {
            Ok(plan) if !plan.is_empty() => self.upkeep.prune_to = Some(plan.upto),
            Ok(_) => {}
            Err(error) => warn!(%error, "retention could not be planned"),
        }
    }

    /// Deletes a piece of what may go.
    async fn prune_some(&mut self) {
        self.upkeep.skips = 0;
        let Some(upto) = self.upkeep.prune_to.take() else { return };
        // A team that came after the plan begins at the floor and has taken nothing.
        let (upto, before) = (upto.min(self.pinned()), self.ledger.floor);
        if upto <= before {
            return;
        }
        self.answer_committed();
        let began = Instant::now();
        let grown = self.ledger.last.get().saturating_sub(self.upkeep.pruned_at.get());
        self.upkeep.pruned_at = self.ledger.last;
        match self.store.prune(upto, grown.saturating_mul(2).clamp(PIECE, PIECE_MAX)).await {
            Ok(floor) => {
                self.ledger.floor = floor;
                self.gauges.set_floor(floor);
                self.is_dirty = true;
                // No progress: what is left belongs to a batch that is kept.
                self.upkeep.prune_to = (before < floor && floor < upto).then_some(upto);
                if self.upkeep.prune_to.is_none() && before < floor {
                    info!(%floor, "journal was pruned");
                }
            }
            Err(error) => warn!(%error, "journal could not be pruned"),
        }
        let took = began.elapsed();
        if took > self.options.slow_after {
            warn!(took_ms = took.as_millis() as u64, "deleting a piece of the journal was slow");
        }
    }

    /// Begins a scan for expired facts when it is due.
    fn plan_sweep(&mut self) {
        if self.upkeep.sweep.is_some() {
            return;
        }
        let (keep, now) = (self.options.keep, Instant::now());
        // A result is needed while the input of its call may be repeated.
        let cursors = self.ledger.teams.values().map(|team| team.cursor);
        let settled = cursors.min().unwrap_or(self.ledger.last.next());
        for (kind, at) in EXPIRING.into_iter().zip(&mut self.upkeep.sweep_at) {
            if at.is_none_or(|at| now < at) {
                continue;
            }
            // Until it is known that there are some.
            *at = None;
            let expiry = Expiry::first(kind, keep, self.clock.now(), settled, PIECE);
            self.upkeep.sweep = expiry.map(|expiry| (expiry, Swept::default()));
            return;
        }
    }

    /// Schedules a scan, since facts of a kind exist.
    fn sweep_later(&mut self, kind: FactKind) {
        let Some(span) = self.options.keep.of_facts(kind) else { return };
        let wait = (span / SWEEPS_PER_SPAN).min(SWEEP_AT_LEAST).max(self.options.retention_every);
        for (of, at) in EXPIRING.iter().zip(&mut self.upkeep.sweep_at) {
            if *of == kind {
                at.get_or_insert(Instant::now() + wait);
            }
        }
    }

    /// Notes which facts of a batch will expire.
    pub(crate) fn see_written(&mut self, batch: &WriteBatch) {
        for (place, kind) in EXPIRING.into_iter().enumerate() {
            let is_unknown = self.upkeep.sweep_at[place].is_none();
            if is_unknown && batch.facts.iter().any(|fact| fact.kind == kind) {
                self.sweep_later(kind);
            }
        }
    }

    /// Scans the next facts and deletes the expired ones.
    async fn sweep_some(&mut self) {
        let Some((expiry, mut swept)) = self.upkeep.sweep.take() else { return };
        self.answer_committed();
        let expired = match self.store.expire(&expiry).await {
            Ok(expired) => expired,
            Err(error) => {
                warn!(kind = ?expiry.kind, %error, "facts that have expired could not be deleted");
                self.sweep_later(expiry.kind);
                return;
            }
        };
        self.is_dirty |= expired.deleted > 0;
        swept.deleted += expired.deleted;
        swept.kept += expired.kept;
        if let Some(from) = expired.next {
            self.upkeep.sweep = Some((Expiry { from: Some(from), ..expiry }, swept));
            return;
        }
        if swept.deleted > 0 {
            info!(kind = ?expiry.kind, deleted = swept.deleted, kept = swept.kept, "old facts were deleted");
        }
        if swept.kept > 0 {
            self.sweep_later(expiry.kind);
        }
    }

    // === db_bytes_max ===

    /// Refuses what callers bring while the database, with what the log has above its own bound, is as large as it may
    /// be. Steps of teams go on: they are what lets the journal be pruned. So do the runtime's own events.
    pub(crate) fn refuse_full(&self, commands: &mut Vec<Command>) {
        let Some(limit_bytes) = self.options.db_bytes_max else { return };
        let sizes = self.gauges.sizes();
        let log_bytes = sizes.wal_bytes.saturating_sub(self.options.wal_bytes_max);
        let used_bytes = sizes.used_bytes + log_bytes;
        self.gauges.set_full(used_bytes >= limit_bytes);
        if used_bytes < limit_bytes {
            return;
        }
        let refused: Vec<_> = commands.extract_if(.., |command| is_a_callers(&command.work)).collect();
        if refused.is_empty() {
            return;
        }
        let slowest = self.ledger.teams.values().min_by_key(|team| (team.cursor, &team.team));
        let pinned_by = slowest.filter(|team| team.cursor < self.ledger.last);
        let pinned_by = pinned_by.map(|team| (team.team.clone(), team.cursor));
        let log_held_by = sizes.log_held_by;
        self.answer_all(refused, &Rejected::Full { used_bytes, limit_bytes, log_bytes, log_held_by, pinned_by });
    }
}

fn is_a_callers(work: &Work) -> bool {
    match work {
        Work::Blocks(_) => true,
        Work::Publish(publish) => {
            publish.events.iter().any(|new| !new.event.topic.as_str().starts_with(atra_bus::topic::SYSTEM_ROOT))
        }
        _ => false,
    }
}
