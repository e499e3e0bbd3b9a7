//! The handle of the storage actor: what everybody else holds.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll},
    time::Duration,
};

use atra_bus::{Batch, Env, Name, Seq};
use futures::future::join_all;
use serde::Serialize;
use tokio::{
    sync::{OwnedSemaphorePermit, oneshot},
    time::timeout,
};

use crate::{
    Block, FactWrite, Lane, Level, Publish, Read, Rejected, Step, StorageActor, StorageMetrics, StorageOptions,
    StorageState, Store, StoreError, TeamRow,
    actor::Seams,
    metrics::Gauges,
    queue::{Command, LaneSender, LaneSenders, Outcome, Work, lanes},
};

/// The least time after which a refused caller is asked to come again: some commits.
const RETRY_AFTER_MIN: Duration = Duration::from_millis(1);

/// Told of every commit that released events.
///
/// # For implementers
/// - In this order: apply memory writes, raise what readers take for released, hand the batch to the bus.
/// - Called on the actor's task, once per batch in journal order, after the commit and before any caller of
///   the batch is answered. It must not block: the next commit waits for it.
pub trait Release: Send + Sync {
    /// Takes a committed batch; never an empty one.
    fn release(&self, batch: &Arc<Batch>);
}

/// What was committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Acknowledged {
    /// The seq of the command's first event. For a command without events it is `last + 1`: the range is
    /// empty, and `last` is where the journal stood when the command was committed.
    pub first: Seq,
    /// The seq of its last event.
    pub last: Seq,
    /// What the commit survives: at least the level that was asked for.
    pub level: Level,
    /// The idempotency key was known: nothing was written now, and the seqs are those of the first publish.
    pub repeated: bool,
}

/// The answer to a queued command, once it is committed.
///
/// # Cancel safety
/// Dropping it does not cancel the command, which is queued already.
#[derive(Debug)]
#[must_use = "a step is acknowledged only when its receipt says so"]
pub struct Receipt(oneshot::Receiver<Result<Outcome, Rejected>>);

impl Receipt {
    /// `None` of the answer: the actor was dropped with the command on its way.
    fn poll_outcome(&mut self, cx: &mut Context<'_>) -> Poll<Result<Outcome, Rejected>> {
        Pin::new(&mut self.0).poll(cx).map(|answer| {
            answer.unwrap_or_else(|_| Err(Rejected::Unknown("the storage actor was dropped before it answered".into())))
        })
    }

    async fn outcome(mut self) -> Result<Outcome, Rejected> {
        std::future::poll_fn(|cx| self.poll_outcome(cx)).await
    }
}

impl Future for Receipt {
    type Output = Result<Acknowledged, Rejected>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.poll_outcome(cx).map(|answer| answer.map(|outcome| outcome.acknowledged))
    }
}

/// The handle of the storage actor. Cheap to clone; the actor ends when it is stopped or the last handle is
/// dropped.
///
/// # Ordering
/// Commands of one lane are carried out in the order in which they entered the queue: when a `submit` has
/// returned, everything submitted afterwards comes after it. Steps, publishes and epochs share a lane.
#[derive(Clone)]
pub struct Storage(Arc<Shared>);

struct Shared {
    lanes: LaneSenders,
    /// Shared with the actor, which must not keep the lanes open: so it has this and not `Shared`.
    gauges: Arc<Gauges>,
    reader: Arc<dyn Read>,
    options: StorageOptions,
}

impl std::fmt::Debug for Storage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Storage").field("released", &self.released()).field("metrics", &self.metrics()).finish()
    }
}

impl Storage {
    /// Loads the store and gives the handle and the actor, whose [`run`](StorageActor::run) the caller
    /// spawns: on a thread of its own in production, on the simulation's in tests. `env` says when a batch is committed.
    ///
    /// # Cancel safety
    /// Reads only.
    ///
    /// # Errors
    /// [`StoreError::Settings`], or what [`Store::load`] says.
    pub async fn open(
        mut store: Box<dyn Store>,
        options: StorageOptions,
        release: Arc<dyn Release>,
        env: Arc<dyn Env>,
    ) -> Result<(Self, StorageActor), StoreError> {
        options.check()?;
        let loaded = store.load().await?;
        let gauges = Arc::new(Gauges::default());
        gauges.released.store(loaded.last_seq.get(), Ordering::Release);
        let (senders, receivers) = lanes(&options);
        let reader = store.reader();
        let seams = Seams { release, env };
        let actor = StorageActor::new(store, loaded, receivers, options.clone(), seams, Arc::clone(&gauges));
        Ok((Self(Arc::new(Shared { lanes: senders, gauges, reader, options })), actor))
    }

    /// Queues a step and gives the receipt that resolves when it is committed.
    ///
    /// # Backpressure
    /// Waits for room, bounded by count and bytes.
    ///
    /// # Cancel safety
    /// Dropped before it returns, the step is not queued. Dropping the receipt cancels nothing.
    ///
    /// # Errors
    /// [`Rejected::TooLarge`] and [`Rejected::Invalid`] at once; [`Rejected::Stopped`]. The receipt gives
    /// [`Rejected::Stale`] and [`Rejected::OutOfOrder`], with nothing written.
    pub async fn submit(&self, step: Step) -> Result<Receipt, Rejected> {
        self.enqueue(Lane::Turns, Work::Step(step)).await
    }

    /// Publishes and waits for the commit.
    ///
    /// # Backpressure
    /// Waits for room, bounded by count and bytes.
    ///
    /// # Cancel safety
    /// Dropped while it waits, it may be committed or not. With an idempotency key it can be repeated.
    ///
    /// # Errors
    /// As [`submit`](Self::submit), and [`Rejected::Conflict`].
    pub async fn publish(&self, publish: Publish) -> Result<Acknowledged, Rejected> {
        self.enqueue(Lane::Turns, Work::Publish(publish)).await?.await
    }

    /// Publishes if there is room now; the receipt resolves when it is committed.
    ///
    /// # Errors
    /// [`Rejected::Overloaded`] when there is no room; otherwise as [`publish`](Self::publish).
    pub fn try_publish(&self, publish: Publish) -> Result<Receipt, Rejected> {
        let work = Work::Publish(publish);
        let bytes = self.measure(&work)?;
        let lane = self.0.lanes.of(Lane::Turns);
        if lane.commands.is_closed() {
            return Err(self.stopped());
        }
        let overloaded = || self.overloaded(lane.n_waiting());
        let room = Arc::clone(&lane.room).try_acquire_many_owned(bytes as u32).map_err(|_| overloaded())?;
        let slot = lane.commands.try_reserve().map_err(|_| overloaded())?;
        let (command, receipt) = Self::command(work, bytes, room);
        slot.send(command);
        Ok(receipt)
    }

    /// Raises the team's epoch and gives its row; creates it at epoch 1, step 0, cursor 0. When this
    /// returns, no step of an older epoch will be committed any more, and the row tells what was.
    ///
    /// # Ordering
    /// Steps of the team that were queued before it are committed before it.
    ///
    /// # Cancel safety
    /// Dropped while it waits, the epoch may be raised or not; raise it again.
    ///
    /// # Errors
    /// [`Rejected::Stopped`], [`Rejected::Failed`], [`Rejected::Unknown`].
    pub async fn raise_epoch(&self, team: &Name) -> Result<TeamRow, Rejected> {
        let outcome = self.enqueue(Lane::Turns, Work::RaiseEpoch(team.clone())).await?.outcome().await?;
        outcome.row.ok_or_else(|| Rejected::Unknown("the answer to a raised epoch has no row: a bug".into()))
    }

    /// Writes facts outside any step, through the control lane.
    ///
    /// # Cancel safety
    /// Dropped while it waits, they may be written or not, all or none.
    ///
    /// # Errors
    /// As [`submit`](Self::submit); memory is refused, since it is written by events.
    pub async fn put_facts(&self, facts: Vec<FactWrite>, level: Level) -> Result<Acknowledged, Rejected> {
        self.enqueue(Lane::Control, Work::Facts(facts, level)).await?.await
    }

    /// Writes blocks through the bulk lane, in chunks: each chunk is all or nothing, the whole is not.
    /// Writing blocks again is harmless.
    ///
    /// # Cancel safety
    /// Dropped while it waits, some chunks may be written and others not.
    ///
    /// # Errors
    /// That of the first chunk that failed; other chunks may be written.
    pub async fn put_blocks(&self, blocks: Vec<Block>) -> Result<Acknowledged, Rejected> {
        let mut receipts = Vec::new();
        for chunk in chunks(blocks, self.0.options.bulk_chunk_bytes) {
            receipts.push(self.enqueue(Lane::Bulk, Work::Blocks(chunk)).await?);
        }
        let mut acknowledged = None;
        for answer in join_all(receipts).await {
            acknowledged = Some(answer?);
        }
        let last = self.released();
        let nothing = Acknowledged { first: last.next(), last, level: Level::Process, repeated: false };
        Ok(acknowledged.unwrap_or(nothing))
    }

    /// The largest accepted command, in bytes.
    #[must_use]
    pub fn command_bytes_max(&self) -> usize {
        self.0.options.command_bytes_max
    }

    /// Reads of what is committed.
    #[must_use]
    pub fn reader(&self) -> Arc<dyn Read> {
        Arc::clone(&self.0.reader)
    }

    /// The greatest seq that the outside may see: everything up to it has been through [`Release`].
    #[must_use]
    pub fn released(&self) -> Seq {
        Seq(self.0.gauges.released.load(Ordering::Acquire))
    }

    /// Waits until everything up to `seq` is released, so that reads made afterwards see it: for a caller that was
    /// told a seq by somebody else. What a call of its own acknowledged is released already.
    ///
    /// # Cancel safety
    /// Only looks.
    ///
    /// # Errors
    /// [`Rejected::NotReleased`] after `deadline`; [`Rejected::Stopped`] or [`Rejected::Failed`] when it will never be.
    pub async fn read_your_writes(&self, seq: Seq, deadline: Duration) -> Result<(), Rejected> {
        let released = timeout(deadline, self.0.gauges.until_released(seq)).await;
        match released {
            Ok(true) => Ok(()),
            Ok(false) => Err(self.stopped()),
            Err(_) => Err(Rejected::NotReleased { seq, released: self.released(), waited: deadline }),
        }
    }

    /// A snapshot of the counters.
    #[must_use]
    pub fn metrics(&self) -> StorageMetrics {
        let Shared { lanes, gauges, options, .. } = &*self.0;
        gauges.snapshot(lanes.n_waiting(), lanes.bytes(options))
    }

    /// From now on nobody waits for space on the disk: what finds none is given up after one more try, and answered so.
    /// For whoever is going to stop and has to wait for commits first.
    pub fn end_waiting_for_space(&self) {
        self.0.gauges.ask_to_stop();
    }

    /// Commits everything that was queued before, moves the log into the database, closes it. Calls after
    /// that give [`Rejected::Stopped`]. Stopping twice is fine. While the disk is full, what is
    /// queued is given up after one more try, and answered so.
    ///
    /// # Cancel safety
    /// Dropped while it waits, the actor stops all the same.
    ///
    /// # Errors
    /// [`Rejected::Failed`] when closing failed, or the store had failed before.
    pub async fn stop(&self) -> Result<(), Rejected> {
        self.0.gauges.ask_to_stop();
        let answer = match self.enqueue(Lane::Control, Work::Stop).await {
            Ok(receipt) => receipt.await.map(|_| ()),
            Err(rejected) => Err(rejected),
        };
        match answer {
            // Somebody else stopped it: wait until that is done.
            Err(Rejected::Stopped) => {
                self.0.lanes.of(Lane::Control).commands.closed().await;
                self.0.gauges.finished().await;
                match (self.0.gauges.state(), self.0.gauges.failure.get()) {
                    (_, Some(cause)) => Err(Rejected::Failed(cause.clone())),
                    (StorageState::Stopped, None) => Ok(()),
                    _ => Err(Rejected::Unknown("the storage actor was dropped before its end".into())),
                }
            }
            answer => answer,
        }
    }

    /// Ends the actor at once, like a kill, but after the commit in progress: queued commands are refused with
    /// [`Rejected::Stopped`], there is no checkpoint, and the store is closed. For callers that cannot wait for a
    /// [`stop`](Self::stop).
    pub fn abort(&self) {
        self.0.gauges.abort();
        // Wakes an actor that waits for commands. If its control lane is full, the actor is busy and checks afterwards.
        let LaneSender { commands, room } = self.0.lanes.of(Lane::Control);
        let bytes = self.measure(&Work::Stop).unwrap_or(1);
        if let Ok(room) = Arc::clone(room).try_acquire_many_owned(bytes as u32)
            && let Ok(slot) = commands.try_reserve()
        {
            let (command, receipt) = Self::command(Work::Stop, bytes, room);
            slot.send(command);
            drop(receipt);
        }
    }

    /// Waits until the actor has ended and the store is closed.
    ///
    /// # Cancel safety
    /// Only looks.
    pub async fn ended(&self) {
        self.0.gauges.finished().await;
    }

    /// Why the actor failed, if it did: an error of the store, or a panic.
    #[must_use]
    pub fn failure(&self) -> Option<StoreError> {
        self.0.gauges.failure.get().cloned()
    }

    // === parts ===

    async fn enqueue(&self, lane: Lane, work: Work) -> Result<Receipt, Rejected> {
        let bytes = self.measure(&work)?;
        let LaneSender { commands, room } = self.0.lanes.of(lane);
        let room = Arc::clone(room).acquire_many_owned(bytes as u32).await.map_err(|_| self.stopped())?;
        let slot = commands.reserve().await.map_err(|_| self.stopped())?;
        let (command, receipt) = Self::command(work, bytes, room);
        slot.send(command);
        Ok(receipt)
    }

    fn measure(&self, work: &Work) -> Result<usize, Rejected> {
        let bytes = work.measure()?;
        let limit = self.0.options.command_bytes_max;
        // A stop is never refused, however small the limits.
        if bytes > limit && !matches!(work, Work::Stop | Work::RaiseEpoch(_)) {
            return Err(Rejected::TooLarge { bytes, limit });
        }
        Ok(bytes.min(limit))
    }

    fn command(work: Work, bytes: usize, room: OwnedSemaphorePermit) -> (Command, Receipt) {
        let (answer, receipt) = oneshot::channel();
        (Command { work, bytes, room: Some(room), answer }, Receipt(receipt))
    }

    fn overloaded(&self, queued: usize) -> Rejected {
        let options = &self.0.options;
        let retry_after = match self.0.gauges.state() {
            StorageState::Degraded => options.backoff_max,
            _ => {
                // Relaxed: a guess.
                let commit = Duration::from_micros(self.0.gauges.last_commit_micros.load(Ordering::Relaxed));
                let batches = 1 + queued / options.batch_commands_max.max(1);
                // Not `clamp`: it panics where the least is above the most.
                commit.saturating_mul(batches as u32).max(RETRY_AFTER_MIN).min(options.backoff_max)
            }
        };
        let (commands_max, bytes_max) = (options.queue_commands_max, options.queue_bytes_max);
        Rejected::Overloaded { queued, commands_max, bytes_max, retry_after }
    }

    fn stopped(&self) -> Rejected {
        // The cause is set first, before the lanes close and the state follows.
        self.0.gauges.failure.get().map_or(Rejected::Stopped, |cause| Rejected::Failed(cause.clone()))
    }
}

/// Blocks in groups of at most `bytes_max` of data, in order; a larger block is a group of its own.
fn chunks(blocks: Vec<Block>, bytes_max: usize) -> Vec<Vec<Block>> {
    let mut chunks: Vec<Vec<Block>> = Vec::new();
    let mut bytes = 0;
    for block in blocks {
        bytes += block.data.len();
        match chunks.last_mut() {
            Some(chunk) if bytes <= bytes_max => chunk.push(block),
            _ => {
                bytes = block.data.len();
                chunks.push(vec![block]);
            }
        }
    }
    chunks
}
