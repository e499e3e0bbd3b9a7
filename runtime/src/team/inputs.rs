//! What comes next: foreign events, due timers, sources' products.
//!
//! What is in the journal already when a team first starts goes before anything of its own: a word that was said while
//! nobody ran is heard before anything is done. From then on
//! foreign events go first (up to a streak, so that sources do not starve), then due timers, then what the
//! sources produced, merged by (time, place in the list). On an `events` clock a merge waits until every
//! source has said what its next time is, so it does not depend on who was quicker.

use std::{
    collections::VecDeque,
    future::poll_fn,
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    task::{self, Poll, ready},
    time::Duration,
};

use atra_bus::{Committed, Env, Event, Name, Seq, Subscription, Timestamp};
use futures::Stream;
use tokio::time::{Instant, Sleep, sleep_until};

use super::{
    clock::TeamClock,
    executor::Counters,
    plan::Clock,
    source::{Item, Produced, SourceReader},
    timers::{Moment, Timers},
};

/// Foreign events in a row while an own input is ready: keeps a flood from starving the team's sources.
const FOREIGN_STREAK_MAX: u32 = 64;

/// What begins a cascade.
#[derive(Debug)]
pub(crate) enum Input {
    /// A committed event of another team or a caller.
    Foreign(Committed),
    /// A source's product.
    Product { member: usize, produced: Produced },
    /// A timer of a member.
    Timer { member: usize, event: Arc<Event> },
    /// The first start ever of a member.
    Init { member: usize, event: Arc<Event> },
    /// A row that sets how the team's wall clock treats later times; no turn.
    Clock { event: Arc<Event> },
}

impl Input {
    pub(crate) fn event(&self) -> &Arc<Event> {
        match self {
            Self::Foreign(committed) => &committed.event,
            Self::Product { produced, .. } => &produced.event,
            Self::Timer { event, .. } | Self::Init { event, .. } | Self::Clock { event } => event,
        }
    }
}

/// Where a team's inputs come from.
pub(crate) struct Inputs {
    pub(crate) env: Arc<dyn Env>,
    pub(crate) clock: Clock,
    /// The team's clock, which never goes back. `Wall`: the greatest plausible time of an input so far, so that it is
    /// recorded with the inputs and a repetition reads the same. `Events`: moved by own sources only.
    pub(crate) time: TeamClock,
    /// How far ahead of the machine's clock the time of an input may be.
    pub(crate) ahead_max: Duration,
    /// Times up to this one are plausible, as of the last reading of the machine's clock.
    pub(crate) plausible_upto: Timestamp,
    /// An input that was taken and waits behind a row of the clock.
    pub(crate) held: Option<Input>,
    /// The first member, which publishes the clock's rows.
    pub(crate) first: Name,
    pub(crate) counters: Arc<Counters>,
    pub(crate) subscription: Subscription,
    pub(crate) foreign: VecDeque<Committed>,
    pub(crate) foreign_events_max: usize,
    pub(crate) timers: Timers,
    pub(crate) sources: Vec<SourceReader>,
    /// Members that start for the first time ever, with their `sys.init`.
    pub(crate) inits: VecDeque<(usize, Arc<Event>)>,
    pub(crate) streak: u32,
    /// Foreign events up to this seq are taken before anything of the team's own: where the journal stood at the start of
    /// the process, which bounds it. Zero after a restart: an input that failed comes again where it was.
    pub(crate) heard_first: Seq,
    /// Rings when the first timer is due, on a wall clock. Kept from one wait to the next: most waits end with something
    /// else, and to set it anew for each costs more than the wait.
    pub(crate) alarm: Option<Pin<Box<Sleep>>>,
}

/// The longest wait for a schedule before the wall clock is read again. 10 s: the clock may be changed in the meantime.
const CLOCK_LOOK_EVERY: Duration = Duration::from_secs(10);

/// By how much an alarm may be off and is left alone. What rings too early is set again.
const ALARM_OFF_MAX: Duration = Duration::from_millis(1);

impl Inputs {
    /// The next input that is here, if any. Errors are a source's.
    pub(crate) fn next_ready(&mut self) -> Result<Option<Input>, String> {
        if let Some(input) = self.held.take() {
            self.time.follow(input.event().time);
            return Ok(Some(input));
        }
        let input = self.choose()?;
        Ok(if self.clock == Clock::Wall { input.map(|input| self.date(input)) } else { input })
    }

    /// Moves a wall clock by an input that was taken, or holds it behind a row of the clock.
    fn date(&mut self, input: Input) -> Input {
        let event = input.event();
        if !matches!(input, Input::Foreign(_) | Input::Product { .. }) {
            self.time.advance(event.time);
            return input;
        }
        if event.time > self.plausible_upto || self.time.ceiling.is_some() {
            let wall = self.env.now();
            self.plausible_upto = wall.after(self.ahead_max);
            // Relaxed: a figure for people.
            let is_ahead = event.time > self.plausible_upto;
            self.counters.inputs_ahead.fetch_add(u64::from(is_ahead), Ordering::Relaxed);
            if let Some(row) = self.time.row_before(event, &self.first, wall, self.ahead_max) {
                if is_ahead {
                    tracing::warn!(
                        agent = %self.first, topic = %event.topic, event = %event.id, source = %event.source, time = %event.time,
                        now = %wall, ahead_max = ?self.ahead_max,
                        "time of an input is too far ahead of the clock and does not move it"
                    );
                }
                self.time.take_row(&row);
                self.held = Some(input);
                return Input::Clock { event: row };
            }
        }
        self.time.follow(event.time);
        input
    }

    /// Both clocks of the machine; timers of a wall clock are set by them.
    pub(crate) fn moment(&self) -> Option<Moment> {
        (self.clock == Clock::Wall).then(|| Moment { wall: self.env.now(), at: self.env.monotonic() })
    }

    fn choose(&mut self) -> Result<Option<Input>, String> {
        if let Some((member, event)) = self.inits.pop_front() {
            return Ok(Some(Input::Init { member, event }));
        }
        if self.heard_first > Seq::ZERO {
            if let Some(committed) = self.take_foreign() {
                return Ok(Some(Input::Foreign(committed)));
            }
            if self.subscription.is_behind() && self.cursor() < self.heard_first {
                return Ok(None);
            }
            self.heard_first = Seq::ZERO;
        }
        if self.streak < FOREIGN_STREAK_MAX
            && let Some(committed) = self.take_foreign()
        {
            self.streak += 1;
            return Ok(Some(Input::Foreign(committed)));
        }
        // With the streak over, the team's own goes first, once.
        let is_own_turn = std::mem::take(&mut self.streak) >= FOREIGN_STREAK_MAX;
        if let Some(input) = self.take_own()? {
            return Ok(Some(input));
        }
        Ok(if is_own_turn { self.take_foreign().map(Input::Foreign) } else { None })
    }

    /// The seq up to which everything that the members subscribe to was taken.
    pub(crate) fn cursor(&self) -> Seq {
        let next = match &self.held {
            Some(Input::Foreign(held)) => Some(held),
            _ => self.foreign.front(),
        };
        next.map_or_else(|| self.subscription.cursor(), |next| Seq(next.seq.get() - 1))
    }

    /// Whether every source has ended.
    pub(crate) fn sources_ended(&self) -> bool {
        self.sources.iter().all(|source| source.ended)
    }

    /// Whether foreign events may be left in the journal that have not been read yet.
    pub(crate) fn is_behind(&self) -> bool {
        self.subscription.is_behind()
    }

    /// Goes on reading the journal, if it is behind, without waiting for it: a source that always has
    /// something must not keep foreign events from being heard.
    pub(crate) async fn read_on(&mut self) {
        if !self.sources.is_empty() && self.subscription.is_behind() {
            // What it says is found out when events are taken; only the read itself is moved on here.
            poll_fn(|cx| Poll::Ready(_ = self.subscription.poll_ready(cx))).await;
        }
    }

    /// Sets the alarm to the first timer or schedule of a wall clock; called before each wait.
    pub(crate) fn set_alarm(&mut self) {
        if self.clock != Clock::Wall {
            return;
        }
        let schedule = self.timers.next_due().map(|due| {
            let wait = due.since(self.env.now());
            self.env.monotonic() + wait.min(CLOCK_LOOK_EVERY)
        });
        if let Some(at) = self.timers.next_ring().into_iter().chain(schedule).min() {
            self.arm(at);
        }
    }

    fn has_alarm(&self) -> bool {
        self.clock == Clock::Wall && (self.timers.next_due().is_some() || self.timers.next_ring().is_some())
    }

    /// Ready when something may be there to be taken, or nothing is left in the journal. An error is the journal's:
    /// this incarnation cannot go on. Looks in the order in which inputs are taken; what arrives stays in the queues.
    pub(crate) fn poll_ready(&mut self, cx: &mut task::Context<'_>) -> Poll<Result<(), String>> {
        if let Poll::Ready(outcome) = self.poll_foreign(cx) {
            return Poll::Ready(outcome);
        }
        if self.has_alarm()
            && let Some(alarm) = &mut self.alarm
            && alarm.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(Ok(()));
        }
        let mut ready = false;
        for source in &mut self.sources {
            // Sources that have a head already are not news: the merge is waiting for another one.
            ready |= source.wants() && source.poll_fill(cx).is_ready();
        }
        if ready { Poll::Ready(Ok(())) } else { Poll::Pending }
    }

    fn poll_foreign(&mut self, cx: &mut task::Context<'_>) -> Poll<Result<(), String>> {
        match self.subscription.poll_ready(cx) {
            Poll::Ready(true) => {}
            // It has read on and found nothing wanted: news for who waits until the team is idle.
            Poll::Pending if self.subscription.take_rejoined() => return Poll::Ready(Ok(())),
            // A closed bus has nothing more; the command to stop is on its way.
            Poll::Ready(false) | Poll::Pending => return Poll::Pending,
        }
        if self.subscription.take_ready(&mut self.foreign, self.foreign_events_max) == 0 {
            // Ready with nothing to take: the journal could not be read, and the stream says why.
            match ready!(Pin::new(&mut self.subscription).poll_next(cx)) {
                Some(Ok(committed)) => self.foreign.push_back(committed),
                Some(Err(error)) => return Poll::Ready(Err(error.to_string())),
                None => {}
            }
        }
        Poll::Ready(Ok(()))
    }

    fn arm(&mut self, at: Instant) {
        match &mut self.alarm {
            Some(alarm) => {
                let off = alarm.deadline().max(at) - alarm.deadline().min(at);
                if alarm.is_elapsed() || off > ALARM_OFF_MAX {
                    alarm.as_mut().reset(at);
                }
            }
            none => *none = Some(Box::pin(sleep_until(at))),
        }
    }

    fn take_foreign(&mut self) -> Option<Committed> {
        if self.foreign.is_empty() {
            self.subscription.take_ready(&mut self.foreign, self.foreign_events_max);
        }
        self.foreign.pop_front()
    }

    fn take_own(&mut self) -> Result<Option<Input>, String> {
        match self.clock {
            Clock::Wall => self.take_own_wall(),
            Clock::Events => self.take_own_events(),
        }
    }

    fn take_own_wall(&mut self) -> Result<Option<Input>, String> {
        if self.sources.is_empty() && self.timers.is_idle() {
            return Ok(None);
        }
        // The machine's clocks decide what is due; the recorded times of inputs move the team's clock.
        if !self.timers.is_idle() {
            let now = Moment { wall: self.env.now(), at: self.env.monotonic() };
            self.timers.schedule_from(now.wall);
            if let Some(due) = self.timers.take_due_at(now) {
                return Ok(Some(Input::Timer { member: due.member, event: due.event }));
            }
        }
        loop {
            let Some((place, _)) = self.first_head(false) else { return Ok(None) };
            if let Some(input) = self.take_from(place)? {
                return Ok(Some(input));
            }
        }
    }

    fn take_own_events(&mut self) -> Result<Option<Input>, String> {
        loop {
            let Some((place, time)) = self.first_head(true) else { return Ok(None) };
            if let Some(time) = time {
                self.timers.schedule_from(time.max(self.time.now));
                if let Some(due) = self.timers.take_due(time) {
                    self.time.advance(due.event.time);
                    return Ok(Some(Input::Timer { member: due.member, event: due.event }));
                }
                self.time.advance(time);
            }
            if let Some(input) = self.take_from(place)? {
                return Ok(Some(input));
            }
        }
    }

    /// The source whose head comes first. With `all`, only once every source that has not ended has one.
    fn first_head(&mut self, all: bool) -> Option<(usize, Option<Timestamp>)> {
        let mut first: Option<(Option<Timestamp>, usize)> = None;
        for (place, source) in self.sources.iter_mut().enumerate() {
            if source.ended {
                continue;
            }
            match source.head() {
                // An end has no time and sorts first: it costs nothing and unblocks the merge.
                Some(item) => {
                    let key = (item.time(), place);
                    first = Some(first.map_or(key, |best| best.min(key)));
                }
                None if all => return None,
                None => {}
            }
        }
        first.map(|(time, place)| (place, time))
    }

    fn take_from(&mut self, place: usize) -> Result<Option<Input>, String> {
        let source = &mut self.sources[place];
        let member = source.member;
        match source.take() {
            Some(Item::Input(produced)) => Ok(Some(Input::Product { member, produced })),
            Some(Item::End) => {
                source.ended = true;
                Ok(None)
            }
            Some(Item::Failed(cause)) => Err(cause),
            Some(Item::Idle(_)) | None => Ok(None),
        }
    }
}
