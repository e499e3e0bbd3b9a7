//! The one loop of a team: take an input, run its cascade, close the step, send it.
//!
//! An executor is one incarnation (epoch) of a team. It never repairs itself: whatever goes wrong ends it
//! with a [`TeamExit`], and the supervisor builds the next one from committed state.

use std::{
    collections::{BTreeMap, VecDeque},
    convert::Infallible,
    future::poll_fn,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    task::{self, Poll, ready},
    time::Duration,
};

use atra_bus::{Bus, Event, EventId, Name, Seq, later};
use atra_storage::{Ancestor, FactKind, ROW_BYTES, Receipt, Rejected};
use serde_json::{Value, json};
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};

use super::{
    alarm::Alarm,
    clock::TeamClock,
    crew::{Crew, Decided, Gate, Mark, RoundEvent, Routes, TurnRules},
    inputs::{Input, Inputs},
    member::{TurnFailure, TurnFault},
    orders::Orders,
    step::{OpenStep, StepSender},
};
use crate::{
    AgentError, Query,
    context::{TeamShared, TimerChange, TurnInput},
};

/// Questions to a team from outside. Orders are separate ([`Orders`]).
pub(crate) enum TeamAsk {
    /// Answer a question once everything before it is committed.
    Query { place: usize, query: Query, answer: oneshot::Sender<Result<(Value, Seq), AgentError>> },
    /// Tell when the team has come that far.
    Tell(Waiter),
}

/// Somebody who waits for a team to come that far.
pub(crate) struct Waiter {
    /// Everything wanted up to this seq is handled and what it led to is committed. `None`: every source
    /// has ended and nothing is open, in flight or ready.
    pub(crate) upto: Option<Seq>,
    pub(crate) answer: oneshot::Sender<()>,
}

/// How an executor ended.
#[derive(Debug)]
pub(crate) enum TeamExit {
    /// It was told to stop; everything it began is committed.
    Stopped,
    /// It was told to restart; everything it began is committed.
    Restarted,
    /// A newer incarnation has taken over, or the storage has stopped.
    Fenced(Rejected),
    /// A turn failed; what was committed stays, the open step is gone.
    Guilty(Box<Guilty>),
    /// A step of several inputs was too large, or its state was refused. The next incarnation handles each input in its
    /// own step to find the cause.
    Oversized(String),
    /// A source, a save or the journal failed: no event is to blame.
    Failed(String),
    /// The runtime has failed: commits are no longer possible.
    Lost,
}

/// The turn that ended an executor.
#[derive(Debug)]
pub(crate) struct Guilty {
    /// The input whose cascade it was in.
    pub(crate) input: EventId,
    pub(crate) failure: TurnFailure,
}

/// What the supervisor knows about inputs that failed before.
#[derive(Debug, Clone, Default)]
pub(crate) struct Suspects {
    /// The input whose cascade failed last, if known. Until it is settled, each input has its own step.
    pub(crate) input: Option<EventId>,
    /// Inputs until the suspicion is dropped: it may never come again (a timer that was cancelled).
    pub(crate) inputs_left: usize,
    /// Tries of each pair so far.
    pub(crate) attempts: BTreeMap<(Name, EventId), u32>,
    /// Pairs that were given up: skipped, and written as dead letters with that step.
    pub(crate) dead: BTreeMap<(Name, EventId), Value>,
}

impl Suspects {
    /// Whether each input has a step of its own.
    pub(crate) fn are_any(&self) -> bool {
        self.input.is_some() || self.inputs_left > 0
    }
}

/// Marks inputs before they are tried, after the process died.
#[derive(Debug, Clone, Default)]
pub(crate) struct Careful {
    /// Inputs still to be marked: as many as could have been under way when the process died.
    pub(crate) inputs_left: Arc<AtomicUsize>,
    /// Marks found in the store: inputs that were under way when the process died, and in which turns.
    pub(crate) marks: BTreeMap<EventId, Mark>,
}

/// Counters of a team, over all its incarnations in this process.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    /// Inputs whose cascades were handled.
    pub(crate) inputs: AtomicU64,
    /// Inputs whose time was too far ahead to move the clock.
    pub(crate) inputs_ahead: AtomicU64,
    /// Those of them that are committed.
    pub(crate) settled: AtomicU64,
    pub(crate) turns: AtomicU64,
    pub(crate) steps: AtomicU64,
    pub(crate) events: AtomicU64,
    pub(crate) dead_letters: AtomicU64,
}

/// Everything an executor is made of.
pub(crate) struct TeamParts {
    pub(crate) name: Name,
    pub(crate) shared: Arc<TeamShared>,
    pub(crate) specs: Vec<Arc<crate::AgentSpec>>,
    pub(crate) crew: Crew,
    pub(crate) inputs: Inputs,
    pub(crate) steps: Arc<StepSender>,
    pub(crate) bus: Bus,
    pub(crate) acting: bool,
    pub(crate) suspects: Suspects,
    pub(crate) careful: Careful,
    pub(crate) position: Arc<AtomicU64>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) orders: Arc<Orders>,
}

struct InFlight {
    receipt: Receipt,
    cursor: Seq,
    inputs: usize,
    passing: Vec<Arc<Event>>,
}

/// A step that was in flight, and its answer.
type Answered = (InFlight, Result<(), Rejected>);

/// What an executor with nothing to do was waiting for.
enum News {
    /// An order; the loop reads which one.
    Ordered,
    /// A question; `None`: all askers are gone.
    Asked(Option<TeamAsk>),
    Committed(Answered),
    /// Something may be there to be taken, or the journal cannot be read.
    Ready(Result<(), String>),
    CursorDue,
}

/// One incarnation of a team.
pub(crate) struct Executor {
    parts: TeamParts,
    routes: Routes,
    step: OpenStep,
    in_flight: VecDeque<InFlight>,
    /// The cursor of the last step that is committed.
    committed: Seq,
    cursor_written_at: Instant,
    /// Rings when a bare cursor move is due. Set once and left alone until it has rung, though steps may have
    /// written the cursor since: setting a timer for every wait costs more than a cursor written early.
    cursor_alarm: Option<Alarm>,
    /// The clock as it is stored.
    clock_written: TeamClock,
    waiters: Vec<Waiter>,
    round: Vec<RoundEvent>,
    /// The round before, emptied: its memory is the next one's.
    spare: Vec<RoundEvent>,
    decided: Decided,
    /// Whether inputs are still to be marked ([`Careful::inputs_left`]).
    is_careful: bool,
}

type Flow = Result<(), TeamExit>;

impl Executor {
    pub(crate) fn new(parts: TeamParts) -> Self {
        let routes = Routes::new(parts.specs.clone());
        let committed = parts.steps.cursor();
        let clock_written = parts.inputs.time;
        // Relaxed: one executor at a time counts it down.
        let is_careful = parts.careful.inputs_left.load(Ordering::Relaxed) > 0;
        Self {
            parts,
            routes,
            step: OpenStep::default(),
            in_flight: VecDeque::new(),
            committed,
            cursor_written_at: Instant::now(),
            cursor_alarm: None,
            clock_written,
            waiters: Vec::new(),
            round: Vec::new(),
            spare: Vec::new(),
            decided: Decided::default(),
            is_careful,
        }
    }

    /// Runs until an order ends it or an error occurs; then drops all users' values.
    pub(crate) async fn run(mut self, asks: &mut mpsc::Receiver<TeamAsk>) -> TeamExit {
        let exit = match self.run_until_exit(asks).await {
            Ok(never) => match never {},
            // The exit is a stop even if an error occurs on the way, since the order is given only once.
            Err(exit) if self.parts.orders.is_stop() && !matches!(exit, TeamExit::Stopped) => {
                tracing::warn!(team = %self.parts.name, ?exit, "team stopped with work undone; the next start repeats it");
                TeamExit::Stopped
            }
            Err(exit) => exit,
        };
        let Self { parts: TeamParts { crew, inputs, .. }, .. } = self;
        crew.end().await;
        for source in inputs.sources {
            source.end().await;
        }
        exit
    }

    async fn run_until_exit(&mut self, asks: &mut mpsc::Receiver<TeamAsk>) -> Result<Infallible, TeamExit> {
        loop {
            if self.parts.orders.is_ending() {
                return Err(self.obey().await?);
            }
            if let Ok(ask) = asks.try_recv() {
                self.answer(ask).await?;
                continue;
            }
            let is_paused = self.parts.orders.is_paused();
            let ready = if is_paused { Ok(None) } else { self.parts.inputs.next_ready() };
            let ready = match ready {
                Ok(ready) => ready,
                Err(cause) => return Err(self.fail(cause).await?),
            };
            if let Some(input) = ready {
                self.take(input).await?;
                continue;
            }
            self.close().await?;
            self.wait(asks, is_paused).await?;
        }
    }

    /// Ends as ordered: a stop before a restart.
    async fn obey(&mut self) -> Result<TeamExit, TeamExit> {
        let orders = self.parts.orders.clone();
        if orders.is_lost() {
            return Ok(TeamExit::Lost);
        }
        self.settle(true).await?;
        if orders.is_stop() {
            return Ok(TeamExit::Stopped);
        }
        orders.take_restart();
        Ok(TeamExit::Restarted)
    }

    /// Nothing is ready: waits for whatever comes first.
    async fn wait(&mut self, asks: &mut mpsc::Receiver<TeamAsk>, is_paused: bool) -> Flow {
        let cursor = self.parts.inputs.cursor();
        self.tell(cursor, !is_paused);
        // Relaxed, as at an input: who has nothing to do keeps nothing for the others to remember.
        self.parts.position.store(cursor.get(), Ordering::Relaxed);
        let behind = self.in_flight.is_empty() && cursor > self.parts.steps.cursor();
        if behind && self.cursor_alarm.is_none() {
            let due = later(self.cursor_written_at, Duration::from_millis(self.parts.shared.limits.cursor_every_ms));
            self.cursor_alarm = Some(Alarm::set(due).await);
        }
        self.parts.inputs.set_alarm();
        match poll_fn(|cx| self.poll_news(asks, is_paused, behind, cx)).await {
            News::Ordered => Ok(()),
            News::Asked(Some(ask)) => self.answer(ask).await,
            // The last handle of the runtime was dropped: end as if ordered to stop.
            News::Asked(None) => {
                self.parts.orders.stop();
                Ok(())
            }
            News::Committed(done) => self.committed(done),
            News::Ready(Ok(())) => Ok(()),
            News::Ready(Err(cause)) => Err(self.fail(cause).await?),
            News::CursorDue => self.send_cursor().await,
        }
    }

    /// Orders first, then questions, then what is on its way, then new work. Polled by hand, because the futures of a `select!` are
    /// written anew at every wait: with a thousand teams that is as many lines that the processor has to fetch first.
    fn poll_news(
        &mut self,
        asks: &mut mpsc::Receiver<TeamAsk>,
        is_paused: bool,
        is_behind: bool,
        cx: &mut task::Context<'_>,
    ) -> Poll<News> {
        if self.parts.orders.poll_other(is_paused, cx).is_ready() {
            return Poll::Ready(News::Ordered);
        }
        if let Poll::Ready(ask) = asks.poll_recv(cx) {
            return Poll::Ready(News::Asked(ask));
        }
        if let Poll::Ready(done) = poll_oldest(&mut self.in_flight, cx) {
            return Poll::Ready(News::Committed(done));
        }
        if !is_paused && let Poll::Ready(outcome) = self.parts.inputs.poll_ready(cx) {
            return Poll::Ready(News::Ready(outcome));
        }
        if is_behind
            && let Some(alarm) = &mut self.cursor_alarm
            && alarm.poll(cx).is_ready()
        {
            self.cursor_alarm = None;
            return Poll::Ready(News::CursorDue);
        }
        Poll::Pending
    }

    /// A source or the journal failed. What was handled before is whole inputs: it is committed first.
    async fn fail(&mut self, cause: String) -> Result<TeamExit, TeamExit> {
        self.settle(true).await?;
        Ok(TeamExit::Failed(cause))
    }

    async fn answer(&mut self, ask: TeamAsk) -> Flow {
        match ask {
            TeamAsk::Query { place, query, answer } => {
                self.settle(false).await?;
                let found = self.parts.crew.query(place, query).await;
                let found = found.map(|value| (value, self.parts.inputs.cursor()));
                // The asker may have gone; that harms nobody.
                let _ = answer.send(found);
            }
            TeamAsk::Tell(waiter) => self.waiters.push(waiter),
        }
        Ok(())
    }

    // === inputs ===

    async fn take(&mut self, input: Input) -> Flow {
        if let Input::Clock { event } = input {
            return self.take_clock(event).await;
        }
        let id = input.event().id;
        let suspect = self.parts.suspects.input == Some(id);
        let suspected = self.parts.suspects.are_any();
        let careful = self.is_careful;
        // Each of them closes its own step below, so none is open here: a step closed after this input was
        // taken would carry its cursor, and if the input failed once more it would never come again.
        let alone = suspected || careful || self.parts.acting;
        let gate = if careful { self.mark(id).await? } else { None };
        let skips = suspect.then(|| Arc::new(self.parts.suspects.dead.keys().cloned().collect()));
        let attempt = if suspect { 1 + self.tries() } else { 1 };
        let position = match &input {
            Input::Foreign(committed) => committed.seq,
            _ => self.parts.inputs.cursor(),
        };
        // Relaxed: only how long old versions are kept depends on it.
        self.parts.position.store(position.get(), Ordering::Relaxed);
        let input_clock = TurnInput { now: self.parts.inputs.time.now, position, attempt };
        let rules = TurnRules { input: input_clock, skips, gate };
        if self.step.first.is_none() {
            self.step.first = Some(input.event().clone());
        }
        let begun = self.begin(input, position);
        let cascade = self.cascade(begun, &rules).await;
        if let Some(gate) = &rules.gate {
            gate.end(cascade.is_err()).await.map_err(TeamExit::Fenced)?;
        }
        if let Some(rejected) = self.parts.steps.refused() {
            return Err(TeamExit::Fenced(rejected));
        }
        cascade.map_err(|failure| TeamExit::Guilty(Box::new(Guilty { input: id, failure })))?;
        self.step.inputs += 1;
        self.parts.counters.inputs.fetch_add(1, Ordering::Relaxed);
        if suspect {
            let letters = std::mem::take(&mut self.parts.suspects.dead);
            for ((agent, event), letter) in letters {
                self.bury(&agent, event, &letter);
            }
        }
        if suspected {
            self.parts.suspects.inputs_left = self.parts.suspects.inputs_left.saturating_sub(1);
            if suspect || self.parts.suspects.inputs_left == 0 {
                self.parts.suspects = Suspects::default();
            }
        }
        if careful {
            self.step.fact(FactKind::Attempt, &self.parts.name, id.to_string(), None);
            self.is_careful = self.parts.careful.inputs_left.fetch_sub(1, Ordering::Relaxed) > 1;
        }
        let limits = &self.parts.shared.limits;
        if alone {
            self.settle(false).await
        } else if self.step.inputs >= limits.inputs_max || self.step.bytes >= limits.step_bytes_max / 2 {
            self.close().await
        } else {
            Ok(())
        }
    }

    /// A row of the clock: journalled at its position among the inputs, without a turn.
    async fn take_clock(&mut self, row: Arc<Event>) -> Flow {
        let seen = self.parts.inputs.cursor();
        self.step.push(row, Ancestor::None, Some(seen));
        self.step.inputs += 1;
        self.parts.counters.inputs.fetch_add(1, Ordering::Relaxed);
        // The input after it may need its own step.
        let alone = self.parts.suspects.are_any() || self.is_careful || self.parts.acting;
        if alone { self.settle(false).await } else { Ok(()) }
    }

    fn tries(&self) -> u32 {
        self.parts.suspects.attempts.values().copied().max().unwrap_or(0)
    }

    /// Round 0: the input as the cascade's first event.
    fn begin(&mut self, input: Input, seen: Seq) -> RoundEvent {
        match input {
            Input::Foreign(committed) => {
                RoundEvent { event: committed.event, from: None, to: None, anchor: Ancestor::Seq(committed.seq) }
            }
            Input::Product { member, produced } => {
                self.step.bytes += produced.partition.len() + produced.offset.len() + ROW_BYTES;
                let anchor = self.step.push(produced.event.clone(), Ancestor::None, Some(seen));
                self.step.offsets.insert((member, produced.partition), produced.offset);
                RoundEvent { event: produced.event, from: None, to: None, anchor }
            }
            // Not here: see `take`.
            Input::Clock { event } => {
                let anchor = self.step.push(event.clone(), Ancestor::None, Some(seen));
                RoundEvent { event, from: None, to: None, anchor }
            }
            Input::Timer { member, event } => {
                let anchor = self.step.push(event.clone(), Ancestor::None, Some(seen));
                RoundEvent { event, from: None, to: Some(member), anchor }
            }
            Input::Init { member, event } => {
                let agent = &self.parts.specs[member].name;
                self.step.fact(FactKind::Meta, agent, INIT_KEY, Some("true".into()));
                let anchor = self.step.push(event.clone(), Ancestor::None, Some(seen));
                RoundEvent { event, from: None, to: Some(member), anchor }
            }
        }
    }

    /// Before an input that was perhaps under way when the process died: commits a mark. From the second death on
    /// answers how each of its turns is to be marked, so that a guilty one is known by name.
    async fn mark(&mut self, input: EventId) -> Result<Option<Arc<Gate>>, TeamExit> {
        let found = self.parts.careful.marks.remove(&input);
        let is_marked = found.is_some();
        let deaths_max = self.parts.shared.limits.deaths_max;
        let gate = Gate::new(&self.parts.steps, &self.parts.name, input, found, deaths_max);
        // Otherwise the mark exists already.
        if !is_marked || gate.is_last_try() {
            gate.begin().await.map_err(TeamExit::Fenced)?;
        }
        Ok(is_marked.then(|| Arc::new(gate)))
    }

    // === rounds ===

    async fn cascade(&mut self, input: RoundEvent, rules: &TurnRules) -> Result<(), TurnFailure> {
        let mut n_events = 1;
        let root = input.event.clone();
        self.round.clear();
        self.round.push(input);
        while !self.round.is_empty() {
            self.decided.events.clear();
            self.decided.timers.clear();
            self.decided.turns = 0;
            self.decided.bytes = 0;
            self.parts.crew.round(&self.round, &mut self.routes, rules, &mut self.decided).await?;
            self.step.turns += self.decided.turns;
            n_events += self.decided.events.len();
            let limits = &self.parts.shared.limits;
            let limit = |text: String| TurnFailure {
                agent: root.source.clone(),
                event: root.clone(),
                fault: TurnFault::Limit(text),
            };
            if n_events > limits.cascade_events_max {
                let most = limits.cascade_events_max;
                return Err(limit(format!("cascade of {n_events} events is above {most} (cascade_events_max)")));
            }
            self.record_round();
            self.record_timers(&root)?;
            let (bytes, most) = (self.step.bytes, self.parts.shared.limits.step_bytes_max);
            if bytes > most {
                return Err(limit(format!("step of {bytes} bytes is above {most} (step_bytes_max)")));
            }
        }
        // Let go of now: at the next input, a thousand teams later, it would have to be fetched for that.
        self.spare.clear();
        Ok(())
    }

    /// What the round published becomes the next round, and goes into the step.
    fn record_round(&mut self) {
        let Self { round, spare: next, decided, step, parts, .. } = self;
        next.clear();
        for (on, member, event) in decided.events.drain(..) {
            let above = round[on].anchor;
            let anchor = if event.durable {
                parts.shared.remember(&event);
                step.push(event.clone(), above, None)
            } else {
                if parts.bus.wants_passing(&event.topic) {
                    step.passing.push(event.clone());
                }
                above
            };
            next.push(RoundEvent { event, from: Some(member), to: None, anchor });
        }
        std::mem::swap(round, next);
    }

    fn record_timers(&mut self, root: &Arc<Event>) -> Result<(), TurnFailure> {
        if self.decided.timers.is_empty() {
            return Ok(());
        }
        let moment = self.parts.inputs.moment();
        for (member, change) in self.decided.timers.drain(..) {
            match change {
                TimerChange::Set { id, due, delay, draft } => {
                    let bytes = draft.payload.check().unwrap_or(0) + draft.topic.as_str().len();
                    self.step.bytes += bytes + id.len() + TIMER_BYTES;
                    let agent = &self.parts.specs[member].name;
                    let wall = moment.map(|moment| (delay, moment));
                    let set = self.parts.inputs.timers.set(member, &id, due, draft, wall);
                    let most = self.parts.shared.limits.timers_max;
                    let full = self.parts.inputs.timers.count_of(member) > most;
                    let fault = match set {
                        Err(error) => TurnFault::Failed(error.to_string()),
                        Ok(()) if full => TurnFault::Limit(format!("agent {agent} has {most} timers (timers_max)")),
                        Ok(()) => continue,
                    };
                    return Err(TurnFailure { agent: agent.clone(), event: root.clone(), fault });
                }
                TimerChange::Cancel { id } => self.parts.inputs.timers.cancel(member, &id),
            }
        }
        Ok(())
    }

    fn bury(&mut self, agent: &Name, event: EventId, letter: &Value) {
        tracing::warn!(team = %self.parts.name, %agent, event = %event, reason = %letter["reason"], "event became a dead letter");
        let mut text = letter.to_string();
        // Every member may have a dead letter, and the rest of the step must fit too: large payloads are left out.
        if self.step.bytes + text.len() > self.parts.shared.limits.step_bytes_max / 2 {
            text = without_payload(letter).to_string();
        }
        self.step.fact(FactKind::DeadLetter, agent, event.to_string(), Some(text.into()));
        self.step.dead_letters += 1;
    }

    // === steps ===

    /// Closes the open step, if any input is in it, and sends it; waits for room, not for the commit.
    async fn close(&mut self) -> Flow {
        // Without an input there may still be a timer to store: a schedule's first time.
        if self.step.inputs == 0 && !self.parts.inputs.timers.has_changed() {
            return Ok(());
        }
        self.parts.inputs.read_on().await;
        self.collect_facts().await?;
        let step = std::mem::take(&mut self.step);
        self.count(&step);
        if step.events.is_empty() && step.facts.is_empty() {
            // A bare cursor move: written now and then, see `wait`.
            self.parts.counters.settled.fetch_add(step.inputs as u64, Ordering::Relaxed);
            self.pass_after_last(step.passing);
            return Ok(());
        }
        self.send(self.parts.inputs.cursor(), step).await?;
        // The loop may never meet a pending future; other tasks on this thread want to run too.
        tokio::task::yield_now().await;
        Ok(())
    }

    /// Closes the open step and waits until all is committed. With `cursor`, a bare cursor move too.
    async fn settle(&mut self, cursor: bool) -> Flow {
        self.close().await?;
        if cursor && self.parts.inputs.cursor() > self.parts.steps.cursor() {
            self.send_cursor().await?;
        }
        while !self.in_flight.is_empty() {
            let done = oldest(&mut self.in_flight).await;
            self.committed(done)?;
        }
        Ok(())
    }

    /// Adds what members saved, offsets, timers and the clock to the open step.
    async fn collect_facts(&mut self) -> Flow {
        let saved = match self.parts.crew.save().await {
            Ok(saved) => saved,
            Err((agent, fault @ TurnFault::NotSaved(_))) => return Err(self.step_refused(agent, fault)),
            Err((agent, fault)) => {
                return Err(TeamExit::Failed(format!("agent {agent} could not save its state: {fault}")));
            }
        };
        let Self { step, parts, .. } = self;
        for (place, writes) in saved {
            for (key, value) in writes {
                step.fact(FactKind::State, &parts.specs[place].name, key, value);
            }
        }
        for ((place, partition), offset) in std::mem::take(&mut step.offsets) {
            let value = Value::String(offset).to_string();
            step.fact(FactKind::Offset, &parts.specs[place].name, partition.as_ref(), Some(value.into()));
        }
        for ((place, id), value) in parts.inputs.timers.take_changed() {
            step.fact(FactKind::Timer, &parts.specs[place].name, &*id, value);
        }
        let most = parts.shared.limits.step_bytes_max;
        // Computed exactly only when the limit may be exceeded.
        if step.inputs > 0 && step.bytes > most && step.row_bytes() > most {
            let bytes = step.row_bytes();
            let fault = TurnFault::Limit(format!("step of {bytes} bytes is above {most} (step_bytes_max)"));
            return Err(self.step_refused(self.parts.specs[0].name.clone(), fault));
        }
        Ok(())
    }

    /// The open step cannot be stored. With one input, that input is the cause; of several inputs, each is tried alone.
    fn step_refused(&self, agent: Name, fault: TurnFault) -> TeamExit {
        match &self.step.first {
            Some(event) if self.step.inputs == 1 => {
                let failure = TurnFailure { agent, event: event.clone(), fault };
                TeamExit::Guilty(Box::new(Guilty { input: event.id, failure }))
            }
            _ => TeamExit::Oversized(format!("agent {agent}: {fault}")),
        }
    }

    async fn send(&mut self, cursor: Seq, mut step: OpenStep) -> Flow {
        let TeamClock { now, ceiling } = self.parts.inputs.time;
        let written = std::mem::replace(&mut self.clock_written, self.parts.inputs.time);
        if now != written.now {
            step.fact(FactKind::Meta, &self.parts.name, CLOCK_KEY, Some(itoa::Buffer::new().format(now.0).into()));
        }
        if ceiling != written.ceiling {
            let ceiling = ceiling.map(|ceiling| ceiling.to_string().into());
            step.fact(FactKind::Meta, &self.parts.name, CEILING_KEY, ceiling);
        }
        let in_flight_max = if self.parts.acting { 1 } else { self.parts.shared.limits.steps_in_flight_max };
        while self.in_flight.len() >= in_flight_max {
            let done = oldest(&mut self.in_flight).await;
            self.committed(done)?;
        }
        let receipt = self.parts.steps.send(cursor, step.events, step.facts).await.map_err(TeamExit::Fenced)?;
        self.cursor_written_at = Instant::now();
        self.in_flight.push_back(InFlight { receipt, cursor, inputs: step.inputs, passing: step.passing });
        Ok(())
    }

    async fn send_cursor(&mut self) -> Flow {
        let cursor = self.parts.inputs.cursor();
        self.send(cursor, OpenStep::default()).await
    }

    /// The oldest step in flight was answered.
    fn committed(&mut self, done: Answered) -> Flow {
        let (step, outcome) = done;
        outcome.map_err(TeamExit::Fenced)?;
        self.committed = step.cursor;
        self.parts.counters.steps.fetch_add(1, Ordering::Relaxed);
        self.parts.counters.settled.fetch_add(step.inputs as u64, Ordering::Relaxed);
        self.parts.bus.pass(&step.passing);
        let committed = self.committed;
        tell_those(&mut self.waiters, |waiter| waiter.upto.is_some_and(|upto| upto <= committed));
        Ok(())
    }

    /// Passing events of a step that had nothing to commit: seen after everything before them.
    fn pass_after_last(&mut self, passing: Vec<Arc<Event>>) {
        match self.in_flight.back_mut() {
            Some(last) => last.passing.extend(passing),
            None => self.parts.bus.pass(&passing),
        }
    }

    fn count(&self, step: &OpenStep) {
        // Relaxed: figures for people.
        let counters = &self.parts.counters;
        for (counter, n) in [
            (&counters.turns, step.turns),
            (&counters.events, step.events.len() as u64),
            (&counters.dead_letters, step.dead_letters),
        ] {
            if n > 0 {
                counter.fetch_add(n, Ordering::Relaxed);
            }
        }
    }

    /// Nothing is ready: answers those whose wait is over.
    fn tell(&mut self, cursor: Seq, running: bool) {
        if !self.in_flight.is_empty() || self.waiters.is_empty() {
            return;
        }
        let ended = running && self.parts.inputs.sources_ended() && !self.parts.inputs.is_behind();
        tell_those(&mut self.waiters, |waiter| waiter.upto.map_or(ended, |upto| upto <= cursor));
    }
}

/// What is stored of a timer beside its topic, its payload and its id: a row, names of fields, due time, what is left of its delay, version.
const TIMER_BYTES: usize = ROW_BYTES + 160;

/// The key of the clock's fact; its owner is the team.
pub(crate) const CLOCK_KEY: &str = "clock";
/// The key of the fact with the ceiling of a wall clock, while there is one; its owner is the team.
pub(crate) const CEILING_KEY: &str = "clock.ceiling";
/// The key of the fact that an agent has had its `sys.init`; its owner is the agent.
pub(crate) const INIT_KEY: &str = "init";

/// What is written about an event that an agent gave up on.
pub(crate) fn letter(
    agent: &Name,
    event: EventId,
    input: EventId,
    attempts: u32,
    reason: &str,
    content: Option<&Event>,
) -> Value {
    let mut letter = json!({ "agent": agent, "event": event, "input": input, "attempts": attempts, "reason": reason });
    if let Some(content) = content {
        letter["topic"] = json!(content.topic);
        letter["source"] = json!(content.source);
        letter["time"] = json!(content.time);
        letter["payload"] = content.payload.to_value().unwrap_or(Value::Null);
    }
    letter
}

/// The letter with the size of its payload instead of the payload.
fn without_payload(letter: &Value) -> Value {
    let mut short = letter.clone();
    let payload = short["payload"].take();
    short["payload_bytes"] = json!(payload.to_string().len());
    short
}

/// Waits for the oldest step, for ever if there is none. Cancel safe: the receipt stays in the queue until it is answered.
async fn oldest(in_flight: &mut VecDeque<InFlight>) -> Answered {
    poll_fn(|cx| poll_oldest(in_flight, cx)).await
}

fn poll_oldest(in_flight: &mut VecDeque<InFlight>, cx: &mut task::Context<'_>) -> Poll<Answered> {
    let Some(front) = in_flight.front_mut() else { return Poll::Pending };
    let outcome = ready!(Pin::new(&mut front.receipt).poll(cx));
    in_flight.pop_front().map_or(Poll::Pending, |step| Poll::Ready((step, outcome.map(|_| ()))))
}

fn tell_those(waiters: &mut Vec<Waiter>, over: impl Fn(&Waiter) -> bool) {
    for waiter in waiters.extract_if(.., |waiter| over(waiter)) {
        // Who does not wait any more need not be told.
        let _ = waiter.answer.send(());
    }
}
