//! The storage actor: the only writer of the store.
//!
//! It takes whatever queued while the last commit ran, plans one batch, commits it, releases it, and then
//! answers; if more is queued, while the next commit runs. Acknowledged means committed: no path answers `Ok` before
//! the store did. What a failure does depends on its class; see the table at `StorageActor::commit`.

use std::{
    collections::BTreeMap,
    future::Future,
    sync::{Arc, atomic::Ordering},
    task::Poll,
    time::Duration,
};

use atra_bus::{Batch, Env, Name, contain::contain};
use futures::{StreamExt, stream};
use tokio::time::{Instant, timeout};
use tracing::{debug, error, info, warn};

use crate::{
    Level, Loaded, Rejected, Release, StorageOptions, StorageState, Store, StoreError, WriteBatch,
    answers::{Answering, Answers, Committed},
    commit_time::{CommitClock, CommitTime},
    metrics::Gauges,
    plan::{FactId, Found, Ledger, Plan, Workshop},
    power::Power,
    queue::{Command, Lanes, Outcome, Work},
    upkeep::Upkeep,
};

/// The storage actor; spawn [`run`](Self::run).
pub struct StorageActor {
    pub(crate) store: Box<dyn Store>,
    lanes: Lanes,
    pub(crate) options: StorageOptions,
    seams: Seams,
    /// The clock that retention uses.
    pub(crate) clock: CommitClock,
    pub(crate) gauges: Arc<Gauges>,
    answering: Answering,
    pub(crate) ledger: Ledger,
    shop: Workshop,
    pub(crate) power: Power,
    /// A first try of what is being tried again had an unknown outcome: what fails now is unknown, not absent.
    is_open: bool,
    /// Commits since the last checkpoint.
    pub(crate) is_dirty: bool,
    pub(crate) upkeep: Upkeep,
    /// What is committed and released and will be answered as soon as the next commit is under way, or at once when
    /// there is none: half of the actor's own time goes into answers, and the store need not wait for them.
    committed: Option<Committed>,
}

/// The receiver of commits, and the wall clock.
pub(crate) struct Seams {
    pub(crate) release: Arc<dyn Release>,
    pub(crate) env: Arc<dyn Env>,
}

/// How a batch ended.
enum Ending {
    /// It is in the store; the level is the one reached.
    Committed(Level),
    /// It is not in the store, and the commands in it are to be tried one by one.
    Isolate(StoreError),
    /// It is not in the store, as far as the answer says so; the actor goes on.
    Failed(Rejected),
    /// The actor must stop writing.
    Broken(Rejected, StoreError),
}

impl StorageActor {
    pub(crate) fn new(
        store: Box<dyn Store>,
        loaded: Loaded,
        lanes: Lanes,
        options: StorageOptions,
        seams: Seams,
        gauges: Arc<Gauges>,
    ) -> Self {
        let clock = CommitClock::start(loaded.committed_at, seams.env.now());
        let power = Power::new(loaded.is_unflushed);
        let ledger = ledger_of(loaded);
        let upkeep = Upkeep::new();
        let answering = Answering::new(Arc::clone(&gauges));
        Self {
            store,
            lanes,
            options,
            seams,
            clock,
            gauges,
            answering,
            ledger,
            shop: Workshop::default(),
            power,
            is_open: false,
            is_dirty: false,
            upkeep,
            committed: None,
        }
    }

    /// Lets what is committed be answered by the future given here, which the caller spawns where those run who wait
    /// for answers; it ends after the actor. Worth it when the actor runs on a thread of its own: waking a caller
    /// from there costs more than to write its event.
    ///
    /// # Cancel safety
    /// When the future is dropped, the actor answers itself; answers that were on their way say
    /// [`Rejected::Unknown`].
    pub fn answers_apart(&mut self) -> impl Future<Output = ()> + Send + use<> {
        self.answering.apart()
    }

    /// Works until it is stopped, every handle is dropped, or the store fails for good.
    ///
    /// # Cancel safety
    /// Dropping it is like a crash: what was acknowledged is committed, commands on their way are answered
    /// [`Rejected::Unknown`].
    pub async fn run(mut self) {
        let mut stops = Vec::new();
        let worked = contain(self.work_until_stopped(&mut stops)).await;
        let failure = match worked {
            Ok(failure) => failure,
            Err(panic) => Some(StoreError::Panicked(panic)),
        };
        let gauges = Arc::clone(&self.gauges);
        if let Some(cause) = &failure {
            // First, so that every later refusal has the cause.
            let _ = gauges.failure.set(cause.clone());
        }
        let ended = match failure {
            None => contain(self.finish(stops)).await,
            Some(cause) => contain(self.fail(cause, stops)).await,
        };
        if let Err(panic) = ended {
            let _ = gauges.failure.set(StoreError::Panicked(panic));
            gauges.end(StorageState::Failed);
        }
    }

    /// Runs until it is stopped (`None`) or must stop writing.
    async fn work_until_stopped(&mut self, stops: &mut Vec<Command>) -> Option<StoreError> {
        if let Err(cause) = self.begin_upkeep().await {
            return Some(cause);
        }
        loop {
            let mut commands = match self.next().await {
                Ok(commands) => commands,
                Err(cause) => return Some(cause),
            };
            if commands.is_empty() {
                return None;
            }
            self.gauges.take(commands.len());
            let mut is_stopping = false;
            for command in commands.extract_if(.., |command| matches!(command.work, Work::Stop)) {
                is_stopping = true;
                stops.push(command);
            }
            if self.gauges.is_aborted() {
                self.answer_all(commands, &Rejected::Stopped);
                return None;
            }
            if is_stopping {
                // What is queued is still taken; whoever comes now is refused.
                self.lanes.close();
            }
            if let Err(cause) = self.work(commands).await {
                return Some(cause);
            }
            self.checkpoint_under_load().await;
            self.upkeep_under_load().await;
        }
    }

    /// The next batch; does what else is to be done when none comes for a while. `Err`: the actor must stop writing.
    async fn next(&mut self) -> Result<Vec<Command>, StoreError> {
        if self.committed.is_some() {
            if let Some(commands) = self.lanes.try_next() {
                return Ok(commands);
            }
            self.answer_committed();
        }
        while let Some(patience) = self.patience() {
            match timeout(patience, self.lanes.next()).await {
                Ok(commands) => return Ok(commands),
                Err(_) => self.upkeep_when_idle().await?,
            }
        }
        Ok(self.lanes.next().await)
    }

    /// Carries out commands and answers them. `Err`: the actor must stop writing; all are answered.
    async fn work(&mut self, mut commands: Vec<Command>) -> Result<(), StoreError> {
        self.regain_power(&mut commands).await;
        self.refuse_full(&mut commands);
        if commands.is_empty() {
            return Ok(());
        }
        match self.attempt(&commands).await {
            (Ending::Committed(level), answers) => {
                self.answer_committed();
                let answers = match self.is_open {
                    true => {
                        answers.into_iter().map(|answer| answer.map_err(|rejected| self.opened(rejected))).collect()
                    }
                    false => answers,
                };
                self.committed = Some(Committed { commands, answers, level });
            }
            (Ending::Failed(answer), _) => self.answer_all(commands, &answer),
            (Ending::Isolate(StoreError::Unknown(cause)), _) if commands.len() == 1 => {
                self.answer_all(commands, &Rejected::Unknown(cause));
            }
            (Ending::Isolate(cause), _) if commands.len() == 1 => {
                error!(error = %cause, "command failed alone and was given up: a bug");
                self.answer_all(commands, &Rejected::Failed(cause));
            }
            (Ending::Isolate(cause), _) => {
                error!(error = %cause, commands = commands.len(), "batch failed, trying its commands one by one");
                self.is_open = matches!(cause, StoreError::Unknown(_));
                let worked = self.work_one_by_one(commands).await;
                self.is_open = false;
                return worked;
            }
            (Ending::Broken(answer, cause), _) => {
                self.answer_all(commands, &answer);
                return Err(cause);
            }
        }
        Ok(())
    }

    async fn work_one_by_one(&mut self, commands: Vec<Command>) -> Result<(), StoreError> {
        let mut broken = None;
        for command in commands {
            if let Some(cause) = &broken {
                self.answer_all(vec![command], &Rejected::Failed(StoreError::clone(cause)));
            } else if let Err(cause) = Box::pin(self.work(vec![command])).await {
                broken = Some(cause);
            }
        }
        broken.map_or(Ok(()), Err)
    }

    /// Plans one batch of all commands, commits and releases it. Answers nobody.
    async fn attempt(&mut self, commands: &[Command]) -> (Ending, Answers) {
        let started = Instant::now();
        let found = self.look_up(commands).await;
        let looked_up = started.elapsed();
        let mut plan = Plan::new(&self.ledger, &found, &mut self.shop, commands);
        let answers: Answers = commands.iter().map(|command| plan.add(&command.work)).collect();
        let batch = plan.finish(CommitTime { wall: self.seams.env.now(), clock: self.clock.now() });
        let is_empty =
            batch.events.is_empty() && batch.facts.is_empty() && batch.teams.is_empty() && batch.blocks.is_empty();
        if is_empty {
            return (Ending::Committed(batch.level), answers);
        }
        let ending = self.commit(&batch).await;
        if let Ending::Committed(_) = ending {
            if let Err(cause) = self.look_after().await {
                return (Ending::Broken(Rejected::Unknown(cause.to_string()), cause), answers);
            }
            self.is_dirty = true;
            self.log_grew(commands);
            self.see_written(&batch);
            self.ledger.apply(&batch);
            self.count(&batch, &answers, started, looked_up);
            self.release(batch);
        }
        (ending, answers)
    }

    /// Reads the idempotency keys and revisions that the answers depend on. The store holds all that was
    /// committed before, since nothing else writes.
    async fn look_up(&mut self, commands: &[Command]) -> Found {
        let ids: BTreeMap<FactId, ()> =
            commands.iter().flat_map(|command| FactId::needed_by(&command.work)).map(|id| (id, ())).collect();
        if ids.is_empty() {
            return Found::new();
        }
        self.answer_committed();
        let reader = self.store.reader();
        let reads = ids.into_keys().map(|id| {
            let reader = Arc::clone(&reader);
            async move {
                let row = match &id.owner {
                    Some(owner) => reader.fact(id.kind, owner, &id.key).await,
                    None => reader.fact(id.kind, &anybody(), &id.key).await,
                };
                (id, row)
            }
        });
        stream::iter(reads).buffer_unordered(self.options.lookups_max).collect().await
    }

    // === commit ===

    /// Commits one batch, with retries. By class of error:
    ///
    /// | class | what happens |
    /// |---|---|
    /// | busy | tried again with bounded exponential backoff, then failed |
    /// | full | kept and probed until there is space or a stop is asked for; reads go on |
    /// | unknown | the store is loaded again, and the last seq and team rows tell whether it is there; if not, tried again; when that keeps failing, writing stops |
    /// | invalid, conflict | the commands are tried one by one; only the guilty one fails |
    /// | any other | writing stops |
    async fn commit(&mut self, batch: &WriteBatch) -> Ending {
        let mut pause = self.options.backoff_first;
        let mut attempt = 0;
        // Waiting for space has no end, so its tries are not held against the disk.
        let mut n_full = 0;
        let mut was_unknown = false;
        // Once it was unknown, an error does not say that nothing is there: what a commit left in the log may be found
        // by the next process.
        let failed = |error: StoreError, was_unknown: bool| match was_unknown {
            true => Rejected::Unknown(format!("{error}, after a commit of unknown outcome")),
            false => Rejected::Failed(error),
        };
        loop {
            let committed = {
                let mut commit = self.store.commit(batch);
                let begun = futures::poll!(&mut commit);
                if let Some(before) = self.committed.take() {
                    self.answering.give(before);
                }
                match begun {
                    Poll::Ready(committed) => committed,
                    Poll::Pending => commit.await,
                }
            };
            let error = match committed {
                Ok(()) => {
                    self.gauges.set_state(StorageState::Running);
                    return Ending::Committed(batch.level);
                }
                Err(error) => error,
            };
            attempt += 1;
            match error {
                StoreError::Busy(_) if attempt > self.options.retries_max => {
                    return Ending::Failed(failed(error, was_unknown));
                }
                StoreError::Busy(_) => {
                    warn!(attempt, pause_ms = pause.as_millis() as u64, %error, "store was busy");
                    self.pause(pause).await;
                }
                StoreError::Full(_) => {
                    (attempt, n_full) = (0, n_full + 1);
                    self.gauges.set_state(StorageState::Degraded);
                    warn!(attempt = n_full, pause_ms = pause.as_millis() as u64, %error, "disk full: writes paused, retrying");
                    if !self.wait_for_space(pause).await && n_full > 1 {
                        return Ending::Failed(failed(error, was_unknown));
                    }
                }
                StoreError::Unknown(cause) => {
                    was_unknown = true;
                    match self.settle_unknown(batch, cause.clone()).await {
                        None if attempt > self.options.retries_max => {
                            let error = StoreError::Failing { attempts: attempt, cause };
                            return Ending::Broken(failed(error.clone(), true), error);
                        }
                        None => self.pause(pause).await,
                        Some(ending) => return ending,
                    }
                }
                StoreError::Conflict { .. } => return self.settle_conflict(error).await,
                StoreError::Invalid(_) => return Ending::Isolate(error),
                _ => return Ending::Broken(failed(error.clone(), was_unknown), error),
            }
            if self.gauges.is_aborted() {
                // There is no other attempt to wait for.
                return Ending::Failed(match was_unknown {
                    true => Rejected::Unknown("the storage was ended after a commit of unknown outcome".into()),
                    false => Rejected::Stopped,
                });
            }
            Gauges::add(&self.gauges.retries, 1);
            pause = pause.saturating_mul(2).min(self.options.backoff_max);
        }
    }

    /// Pauses between two tries; an abort ends it.
    async fn pause(&self, pause: Duration) {
        // Either may end the wait: the caller checks which one did.
        let _ = timeout(pause, self.gauges.aborted()).await;
    }

    /// Pauses; `false` when a stop was asked for, so that the wait for space has an end.
    async fn wait_for_space(&mut self, pause: Duration) -> bool {
        timeout(pause, self.gauges.stop_asked()).await.is_err()
    }

    /// Finds out whether the batch is there. `None`: it is not, try again.
    async fn settle_unknown(&mut self, batch: &WriteBatch, cause: String) -> Option<Ending> {
        warn!(%cause, "outcome of a commit is unknown, looking");
        let broken = |error: StoreError| {
            let answer = Rejected::Unknown(format!("{cause}; then the store could not be read: {error}"));
            Some(Ending::Broken(answer, error))
        };
        let loaded = match self.load().await {
            Ok(loaded) => ledger_of(loaded),
            Err(error) => return broken(error),
        };
        let mut after = self.ledger.clone();
        after.apply(batch);
        let is_before = loaded.last == self.ledger.last && loaded.teams == self.ledger.teams;
        let is_after = loaded.last == after.last && loaded.teams == after.teams;
        self.doubt_power(&cause);
        match (is_before, is_after) {
            // Facts and blocks alone leave no mark and so look as before; writing them again is harmless.
            (true, _) if batch.level == Level::Process => None,
            // Level power: neither to be repeated as if nothing had been, nor to be claimed.
            (true, _) => Some(Ending::Isolate(StoreError::Unknown(cause))),
            (_, true) => {
                info!(seq = %after.last, "commit of unknown outcome is there");
                // What was asked at level power is answered as unknown by the level that is given here.
                Some(Ending::Committed(Level::Process))
            }
            _ => broken(StoreError::Unknown("the store is neither as before the commit nor as after it".into())),
        }
    }

    /// A team's row was not as expected: looks what is stored, so that the commands are judged by that.
    async fn settle_conflict(&mut self, conflict: StoreError) -> Ending {
        let loaded = match self.load().await {
            Ok(loaded) => ledger_of(loaded),
            Err(error) => return Ending::Broken(Rejected::Failed(error.clone()), error),
        };
        if loaded.last != self.ledger.last {
            // Released seqs would have a gap: nobody may go on from here.
            error!(expected = %self.ledger.last, found = %loaded.last, "another writer has written");
            return Ending::Broken(Rejected::Failed(conflict.clone()), conflict);
        }
        self.ledger = loaded;
        Ending::Isolate(conflict)
    }

    /// Loads with retries while the store is busy, and for as long as there is no space.
    async fn load(&mut self) -> Result<Loaded, StoreError> {
        let mut pause = self.options.backoff_first;
        let mut attempt = 0;
        loop {
            let error = match self.store.load().await {
                Err(error) if error.is_retryable() && attempt < self.options.retries_max => error,
                other => return other,
            };
            warn!(attempt, %error, "store could not be loaded");
            if let StoreError::Full(_) = error {
                self.gauges.set_state(StorageState::Degraded);
                if !self.wait_for_space(pause).await {
                    return Err(error);
                }
            } else {
                attempt += 1;
                self.pause(pause).await;
                if self.gauges.is_aborted() {
                    return Err(error);
                }
            }
            pause = pause.saturating_mul(2).min(self.options.backoff_max);
        }
    }

    // === after the commit ===

    fn count(&self, batch: &WriteBatch, answers: &Answers, started: Instant, looked_up: Duration) {
        let n_steps = answers.iter().filter(|answer| answer.is_ok()).count() as u64;
        Gauges::add(&self.gauges.batches, 1);
        Gauges::add(&self.gauges.steps, n_steps);
        Gauges::add(&self.gauges.events, batch.events.len() as u64);
        let took = started.elapsed();
        let micros = took.as_micros() as u64;
        self.gauges.last_commit_micros.store(micros, Ordering::Relaxed);
        self.gauges.commits.record(micros);
        self.gauges.batch_steps.record(n_steps);
        if took > self.options.slow_after {
            let (took_ms, lookups_ms) = (took.as_millis() as u64, looked_up.as_millis() as u64);
            let events = batch.events.len();
            warn!(took_ms, lookups_ms, commit_ms = took_ms - lookups_ms, steps = n_steps, events, "commit was slow");
        }
        debug!(steps = n_steps, events = batch.events.len(), facts = batch.facts.len(), micros, "committed a batch");
    }

    fn release(&mut self, batch: WriteBatch) {
        self.shop.take_back(batch.facts, batch.teams);
        let Some(last) = batch.events.last().map(|event| event.seq) else { return };
        self.seams.release.release(&Arc::new(Batch { events: batch.events }));
        // Release: who sees the seq sees what the hand-over did.
        self.gauges.set_released(last);
    }

    /// Answers what is committed now, because it may take a while until the next commit.
    pub(crate) fn answer_committed(&mut self) {
        if let Some(committed) = self.committed.take() {
            self.answering.give(committed);
        }
    }

    pub(crate) fn answer_all(&self, commands: Vec<Command>, answer: &Rejected) {
        self.answering.refuse(commands, &self.opened(answer.clone()));
    }

    /// After a commit of unknown outcome an error does not say that nothing is there.
    fn opened(&self, rejected: Rejected) -> Rejected {
        match rejected {
            Rejected::Failed(error) if self.is_open => {
                Rejected::Unknown(format!("{error}, after a commit of unknown outcome"))
            }
            rejected => rejected,
        }
    }

    // === the end ===

    /// A clean end: everything is committed.
    async fn finish(mut self, stops: Vec<Command>) {
        self.answer_committed();
        if self.gauges.is_aborted() {
            self.refuse_queued(&Rejected::Stopped).await;
        } else {
            self.checkpoint().await;
        }
        match self.store.close().await {
            Ok(()) => {
                info!(seq = %self.ledger.last, "storage stopped");
                self.gauges.end(StorageState::Stopped);
                let last = self.ledger.last;
                // After all that was committed before: who stops may let nobody run afterwards.
                let answers = stops.iter().map(|_| Ok(Outcome::nothing(last))).collect();
                self.answering.give(Committed { commands: stops, answers, level: Level::Process });
            }
            Err(cause) => {
                error!(error = %cause, "store could not be closed");
                let _ = self.gauges.failure.set(cause.clone());
                self.gauges.end(StorageState::Failed);
                self.answer_all(stops, &Rejected::Failed(cause));
            }
        }
    }

    /// Refuses new commands, and answers those that are queued.
    async fn refuse_queued(&mut self, answer: &Rejected) {
        self.lanes.close();
        loop {
            let commands = self.lanes.next().await;
            if commands.is_empty() {
                break;
            }
            self.gauges.take(commands.len());
            self.answer_all(commands, answer);
        }
    }

    /// The store failed: all queued commands are answered with the error.
    async fn fail(mut self, cause: StoreError, stops: Vec<Command>) {
        self.answer_committed();
        error!(error = %cause, seq = %self.ledger.last, "storage failed and stopped writing");
        self.refuse_queued(&Rejected::Failed(cause.clone())).await;
        if let Err(error) = self.store.close().await {
            warn!(%error, "failed store could not be closed");
        }
        self.gauges.end(StorageState::Failed);
        self.answer_all(stops, &Rejected::Failed(cause));
    }
}

impl Drop for StorageActor {
    /// An actor that is dropped before its end must not leave anybody waiting for that end.
    fn drop(&mut self) {
        if matches!(self.gauges.state(), StorageState::Running | StorageState::Degraded) {
            self.gauges.end(StorageState::Failed);
        }
    }
}

fn ledger_of(loaded: Loaded) -> Ledger {
    let teams = loaded.teams.into_iter().map(|row| (row.team.clone(), row)).collect();
    Ledger { last: loaded.last_seq, teams, floor: loaded.floor }
}

/// The owner that is passed where a store ignores it: memory is unique by key alone.
fn anybody() -> Name {
    Name::new("anybody").expect("a literal that obeys the rules of names")
}
