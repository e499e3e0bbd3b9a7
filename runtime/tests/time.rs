//! Time that goes wrong: a machine's clock that jumps, times far ahead, the ends of the range.
#![expect(clippy::unwrap_used, reason = "a test that fails should fail")]

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use atra_bus::{Draft, Env, Event, Filter, Interest, Seq, SimEnv, Task, TaskFuture, Timestamp, Topic};
use atra_runtime::{
    Agent, AgentError, AgentSpec, Clock, ClockLimits, Context, Limits, Missed, Offsets, Runtime, RuntimeBuilder,
    RuntimeError, Source, SourceItem, StateReader, StateWriter, Team,
    sim::{FaultClass, FaultPlan, Look, SIM_START, Swarm, crowd},
};
use atra_storage::{FactKind, MemoryDisk, MemoryStore, Read, WriteBatch};
use futures::stream;
use tokio::time::{Instant, sleep};

const SECOND: Duration = Duration::from_secs(1);
const HOUR_MS: i64 = 3_600_000;
const YEAR_MS: i64 = 365 * 24 * HOUR_MS;
const STOP: Duration = Duration::from_secs(60);

// === fixtures ===

/// A machine whose clock can be set. Monotonic time is tokio's, which is paused.
struct Machine {
    sim: SimEnv,
    off_by_ms: AtomicI64,
}

impl Machine {
    fn new() -> Arc<Self> {
        Self::off_by(0)
    }

    fn off_by(ms: i64) -> Arc<Self> {
        Arc::new(Self { sim: SimEnv::new(7, SIM_START), off_by_ms: AtomicI64::new(ms) })
    }

    fn set(&self, off_by_ms: i64) {
        self.off_by_ms.store(off_by_ms, Ordering::Relaxed);
    }
}

impl Env for Machine {
    fn now(&self) -> Timestamp {
        Timestamp(self.sim.now().millis().saturating_add(self.off_by_ms.load(Ordering::Relaxed)))
    }
    fn random(&self) -> u64 {
        self.sim.random()
    }
    fn spawn(&self, name: &str, future: TaskFuture) -> Task {
        self.sim.spawn(name, future)
    }
}

type Act = fn(&Event, &mut Context<'_>) -> Result<(), AgentError>;

/// An agent without state.
#[derive(Clone)]
struct Plain {
    spec: AgentSpec,
    act: Act,
}

#[async_trait]
impl Agent for Plain {
    fn spec(&self) -> AgentSpec {
        self.spec.clone()
    }
    async fn handle(&mut self, event: &Event, cx: &mut Context<'_>) -> Result<(), AgentError> {
        (self.act)(event, cx)
    }
}

fn team(spec: AgentSpec, act: Act) -> Team {
    let agent = Plain { spec, act };
    Team::of(move || agent.clone())
}

/// Sets a timer of so many milliseconds on `in.n`, and publishes its time on `out.rang` when it rings.
fn late() -> Team {
    let spec = AgentSpec::new("late").subscribes("in.n").publishes_on("out.rang", true);
    team(spec, |event, cx| {
        if event.topic.as_str() == "in.n" {
            let delay = Duration::from_millis(*event.get::<u64>()?);
            cx.after(delay, Draft::new(topic("alarm.n"), 1))?;
        } else {
            cx.publish(Draft::new(topic("out.rang"), cx.now()))?;
        }
        Ok(())
    })
}

/// Publishes the time that each tick has, on `out.tick`.
fn ticking(every: Duration, missed: Missed) -> Team {
    let spec = AgentSpec::new("clock").publishes_on("out.tick", true).schedule("tick", every, missed);
    team(spec, |event, cx| {
        cx.publish(Draft::new(topic("out.tick"), event.time))?;
        Ok(())
    })
}

fn topic(text: &str) -> Topic {
    Topic::new(text).unwrap()
}

fn wait<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

async fn start(disk: &MemoryDisk, machine: &Arc<Machine>, team: Team) -> Runtime {
    let builder = RuntimeBuilder::new(MemoryStore::on(disk)).env(machine.clone()).own_thread(false);
    builder.team(team).start().await.unwrap()
}

/// The journal's events on one topic.
async fn on(reader: &dyn Read, topic: &str) -> Vec<Arc<Event>> {
    let wanted = Interest::in_topics(vec![Filter::new(topic).unwrap()]);
    let (events, _) = reader.journal(Seq::ZERO, reader.last_seq().await.unwrap(), &wanted, usize::MAX).await.unwrap();
    events.into_iter().map(|committed| committed.event).collect()
}

/// When the next event on `out.>` comes, in virtual time from now.
async fn until_out(runtime: &Runtime) -> Duration {
    let begun = Instant::now();
    let mut out = runtime.subscribe(vec![Filter::new("out.>").unwrap()], runtime.released());
    out.next().await.unwrap().unwrap();
    begun.elapsed()
}

fn is_about(found: Duration, expected: Duration) -> bool {
    found.abs_diff(expected) <= Duration::from_millis(50)
}

// === relative timers ===

/// The jumps that a machine's clock makes in these tests: back and ahead, small and large, and to 1970.
fn jumps() -> [i64; 7] {
    [-HOUR_MS, HOUR_MS, -10 * YEAR_MS, 10 * YEAR_MS, -SIM_START.millis(), i64::MAX, -30]
}

#[tokio::test(start_paused = true)]
async fn a_timer_rings_after_its_delay_whatever_the_machines_clock_does() {
    for jump in jumps() {
        for (is_moment, is_restarted) in [(false, false), (true, false), (false, true)] {
            let machine = Machine::new();
            let runtime = start(&MemoryDisk::new(), &machine, late()).await;
            let set = runtime.publish(Draft::new(topic("in.n"), 100_000)).await.unwrap();
            runtime.settled(set.seq).await.unwrap();
            sleep(SECOND).await;
            machine.set(jump);
            if is_restarted {
                runtime.restart("late").await.unwrap();
            }
            if is_moment {
                sleep(SECOND).await;
                machine.set(0);
            }
            let rest = Duration::from_secs(if is_moment { 98 } else { 99 });
            let rang = until_out(&runtime).await;
            assert!(is_about(rang, rest), "off by {jump} ms: rang after {rang:?}, not {rest:?}");
            runtime.stop(STOP).await.unwrap();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_timer_set_while_the_machine_is_in_1970_rings_when_the_clock_has_been_set() {
    let disk = MemoryDisk::new();
    // An earlier process moved the team's clock to the present.
    let runtime = start(&disk, &Machine::new(), late()).await;
    let first = runtime.publish(Draft::new(topic("in.n"), 1)).await.unwrap();
    runtime.settled(first.seq).await.unwrap();
    sleep(SECOND).await;
    runtime.stop(STOP).await.unwrap();
    let machine = Machine::off_by(-SIM_START.millis());
    let runtime = start(&disk, &machine, late()).await;
    let set = runtime.publish(Draft::new(topic("in.n"), 1_000)).await.unwrap();
    runtime.settled(set.seq).await.unwrap();
    machine.set(0);
    assert!(is_about(until_out(&runtime).await, SECOND));
    runtime.stop(STOP).await.unwrap();
}

/// A new process has only the wall clock: what is left of the delay, and never more than the delay.
#[tokio::test(start_paused = true)]
async fn a_new_process_takes_the_rest_of_a_delay_from_the_wall_clock_and_never_more() {
    for (off_by, expected_secs) in [(0, 50), (-HOUR_MS, 100), (HOUR_MS, 0), (-SIM_START.millis(), 100), (i64::MAX, 0)] {
        let disk = MemoryDisk::new();
        let machine = Machine::new();
        let runtime = start(&disk, &machine, late()).await;
        let set = runtime.publish(Draft::new(topic("in.n"), 100_000)).await.unwrap();
        runtime.settled(set.seq).await.unwrap();
        runtime.stop(STOP).await.unwrap();
        sleep(50 * SECOND).await;
        machine.set(off_by);
        let begun = Instant::now();
        let runtime = start(&disk, &machine, late()).await;
        let mut out = runtime.subscribe(vec![Filter::new("out.>").unwrap()], Seq::ZERO);
        out.next().await.unwrap().unwrap();
        let rang = begun.elapsed();
        assert!(is_about(rang, Duration::from_secs(expected_secs)), "off by {off_by} ms: {rang:?}");
        runtime.stop(STOP).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn timers_of_an_agent_that_are_set_and_cancelled_for_ever_are_forgotten() {
    let spec = AgentSpec::new("late").subscribes("in.n").publishes_on("out.rang", true);
    let team = team(spec, |_, cx| {
        for delay in [Duration::MAX, Duration::ZERO, Duration::from_nanos(1)] {
            let timer = cx.after(delay, Draft::new(topic("alarm.n"), 1))?;
            cx.cancel(&timer);
        }
        _ = cx.after(Duration::MAX, Draft::new(topic("alarm.n"), 1))?;
        Ok(())
    });
    let runtime = start(&MemoryDisk::new(), &Machine::new(), team).await;
    for n in 0..1_000 {
        let set = runtime.publish(Draft::new(topic("in.n"), n)).await.unwrap();
        runtime.settled(set.seq).await.unwrap();
    }
    sleep(Duration::from_secs(40 * 365 * 86_400)).await;
    assert_eq!(runtime.reader().facts(FactKind::Timer, None).await.unwrap().len(), 1_000);
    assert!(on(&*runtime.reader(), "alarm.n").await.is_empty());
    runtime.stop(STOP).await.unwrap();
}

// === schedules ===

#[tokio::test(start_paused = true)]
async fn a_schedule_goes_on_whatever_the_machines_clock_does() {
    for jump in jumps() {
        for (is_moment, missed) in [(true, Missed::Last), (false, Missed::Last), (true, Missed::All)] {
            if jump == i64::MAX && !is_moment {
                // Behind the end of time no schedule has a next time.
                continue;
            }
            let machine = Machine::new();
            let runtime = start(&MemoryDisk::new(), &machine, ticking(SECOND, missed)).await;
            sleep(10 * SECOND).await;
            machine.set(jump);
            sleep(10 * SECOND).await;
            if is_moment {
                machine.set(0);
            }
            let before = on(&*runtime.reader(), "out.tick").await.len();
            sleep(300 * SECOND).await;
            let ticks = on(&*runtime.reader(), "sys.schedule.>").await;
            let n = ticks.len() - before;
            // A jump that is followed takes a tick or two, and one ahead with `All` gives what it skipped.
            let most = if missed == Missed::All { 303 + HOUR_MS as usize / 1_000 } else { 303 };
            assert!((297..=most).contains(&n), "off by {jump} ms, moment {is_moment}: {n} ticks in 300 s");
            let ids: BTreeSet<_> = ticks.iter().map(|tick| tick.id).collect();
            assert_eq!(ids.len(), ticks.len(), "off by {jump} ms: two ticks have one id");
            let (last, now) = (ticks.last().unwrap().time, machine.now());
            assert!(last.millis().abs_diff(now.millis()) <= 2_000, "off by {jump} ms: tick at {last}, clock {now}");
            runtime.stop(STOP).await.unwrap();
        }
    }
}

/// A tick a day was planned, and a tick every 100 ms is wanted; and the other way round.
#[tokio::test(start_paused = true)]
async fn a_schedule_that_is_changed_between_two_starts_is_planned_from_its_spec() {
    let day = Duration::from_secs(86_400);
    for (before, now, expected) in [(day, SECOND / 10, 99..=101), (SECOND / 10, day, 0..=0), (day, 7 * SECOND, 1..=2)] {
        let disk = MemoryDisk::new();
        let machine = Machine::new();
        let runtime = start(&disk, &machine, ticking(before, Missed::Last)).await;
        sleep(Duration::from_millis(1_234)).await;
        runtime.stop(STOP).await.unwrap();
        let runtime = start(&disk, &machine, ticking(now, Missed::Last)).await;
        let first = on(&*runtime.reader(), "out.tick").await.len();
        sleep(10 * SECOND).await;
        let ticks = on(&*runtime.reader(), "out.tick").await;
        let new = &ticks[first..];
        assert!(expected.contains(&new.len()), "{before:?} to {now:?}: {} ticks in 10 s", new.len());
        for tick in new {
            let time = *tick.get::<Timestamp>().unwrap();
            assert_eq!(time.last_multiple(now), time, "{before:?} to {now:?}");
        }
        runtime.stop(STOP).await.unwrap();
    }
}

/// A schedule of an hour waits for the clock, not for an hour: the clock is set meanwhile.
#[tokio::test(start_paused = true)]
async fn a_schedule_that_waits_long_notices_that_the_clock_was_set() {
    let machine = Machine::new();
    let runtime = start(&MemoryDisk::new(), &machine, ticking(Duration::from_secs(3_600), Missed::Last)).await;
    sleep(SECOND).await;
    machine.set(HOUR_MS - 100_000);
    assert!(until_out(&runtime).await <= Duration::from_secs(110));
    runtime.stop(STOP).await.unwrap();
}

// === times that are far ahead ===

#[tokio::test(start_paused = true)]
async fn a_caller_is_refused_a_time_that_is_more_than_the_limit_ahead() {
    let machine = Machine::new();
    let runtime = start(&MemoryDisk::new(), &machine, late()).await;
    let publish = async |time: Timestamp| runtime.publish(Draft::new(topic("in.n"), 1).at(time)).await;
    let latest = machine.now().after(Duration::from_secs(86_400));
    for time in [Timestamp::MIN, Timestamp(0), latest] {
        publish(time).await.unwrap();
    }
    for time in [latest.after(Duration::from_millis(1)), Timestamp(SIM_START.millis() * 1_000), Timestamp::MAX] {
        let error = publish(time).await.unwrap_err();
        assert!(matches!(error, RuntimeError::AheadOfClock { .. }), "{error}");
    }
    runtime.stop(STOP).await.unwrap();
}

/// Yields its items, then nothing for ever.
#[derive(Clone)]
struct Feed {
    items: Vec<(Option<Timestamp>, u64)>,
    ends: bool,
}

#[async_trait]
impl Agent for Feed {
    fn spec(&self) -> AgentSpec {
        AgentSpec::new("feed").source().publishes_on("feed.n", true).subscribes("feed.n")
    }
    async fn handle(&mut self, _: &Event, _: &mut Context<'_>) -> Result<(), AgentError> {
        Ok(())
    }
    fn source(&self, offsets: &Offsets) -> Option<Source> {
        let first = offsets.get("n").map_or(0, |n| n.parse::<usize>().unwrap() + 1);
        let items = self.items.clone().into_iter().enumerate().skip(first).map(|(n, (time, value))| {
            let mut event = Draft::new(topic("feed.n"), value);
            event.time = time;
            Ok(SourceItem::Input { event, partition: "n".into(), offset: n.to_string() })
        });
        let end: Vec<_> = self.ends.then_some(Ok(SourceItem::End)).into_iter().collect();
        Some(Box::pin(stream::iter(items.chain(end))))
    }
}

/// Says what time it is on each input of `feed.n`.
fn told(event: &Event, cx: &mut Context<'_>) -> Result<(), AgentError> {
    _ = event;
    cx.publish(Draft::new(topic("out.now"), cx.now()))?;
    Ok(())
}

fn teller() -> Plain {
    let spec = AgentSpec::new("teller").subscribes("feed.n").publishes_on("out.now", true);
    Plain { spec, act: told }
}

/// A source of the team itself, and one of another team: neither moves the clock far ahead, and the clock goes on behind.
#[test]
fn an_input_far_ahead_does_not_move_a_wall_clock() {
    let far = Timestamp(253_402_300_800_000);
    let near = SIM_START.after(Duration::from_secs(5));
    let feed = Feed {
        items: vec![(Some(near), 1), (Some(far), 2), (Some(Timestamp::MAX), 3), (Some(near.after(SECOND)), 4)],
        ends: true,
    };
    let (alone, other) = (feed.clone(), feed);
    let together = Swarm::new(1).team(Team::new("one").agent(move || alone.clone()).agent(teller));
    let apart = Swarm::new(1).team(Team::of(move || other.clone())).team(Team::of(teller));
    for swarm in [together, apart] {
        let report = swarm
            .run(|runtime| async move {
                runtime.idle().await;
                assert!(runtime.status().iter().any(|team| team.inputs_ahead == 2), "{:?}", runtime.status());
            })
            .unwrap();
        let events = wait(on(&*report.reader, "out.now"));
        let times: Vec<_> = events.iter().map(|event| *event.get::<Timestamp>().unwrap()).collect();
        assert_eq!(times, [near, near, near, near.after(SECOND)]);
        let rows = wait(on(&*report.reader, "sys.clock"));
        assert!((1..=2).contains(&rows.len()), "{} rows", rows.len());
    }
}

/// The rows of the clock tell a replay which inputs were passed over: what was decided is decided again.
#[test]
fn a_wall_clock_that_passed_inputs_over_is_replayed_equally() {
    let report = Swarm::new(1)
        .team(team(AgentSpec::new("poet").subscribes("in.n").publishes_on("feed.n", true), |event, cx| {
            let n = *event.get::<u64>()?;
            let far = cx.now().after(Duration::from_secs(n * 86_400));
            cx.publish(Draft::new(topic("feed.n"), n).at(far))?;
            Ok(())
        }))
        .team(Team::of(teller))
        .simulate(|sim| async move {
            let caller = atra_bus::Name::new("caller").unwrap();
            for n in 0..40_u64 {
                sim.publish(&caller, &n.to_string(), Draft::new(topic("in.n"), n % 5 * 10)).await.unwrap();
                sim.run_for(Duration::from_secs(3_600)).await;
            }
            sim.heal_and_settle(Duration::from_secs(3_600)).await;
            on(&*sim.reader(), "sys.clock").await.len()
        });
    assert_eq!(report.failure(), None, "{report}");
    assert!((2..60).contains(&report.output.unwrap()));
}

// === the ends of time ===

/// A source that says that nothing will come before the end of time, beside a schedule.
struct Silent(Missed);

#[async_trait]
impl Agent for Silent {
    fn spec(&self) -> AgentSpec {
        AgentSpec::new("silent").source().schedule("hourly", Duration::from_secs(3_600), self.0)
    }
    async fn handle(&mut self, _: &Event, _: &mut Context<'_>) -> Result<(), AgentError> {
        Ok(())
    }
    fn source(&self, _: &Offsets) -> Option<Source> {
        let idle = |until| Ok(SourceItem::Idle { until });
        Some(Box::pin(stream::iter([idle(SIM_START), idle(Timestamp::MAX), idle(Timestamp::MAX), Ok(SourceItem::End)])))
    }
}

#[test]
fn a_source_that_is_idle_until_the_end_of_time_makes_a_bounded_number_of_ticks() {
    for (missed, expected) in [(Missed::Last, 1), (Missed::All, 500)] {
        let disk = MemoryDisk::new();
        for _ in 0..2 {
            let team = Team::of(move || Silent(missed)).clock(Clock::Events);
            let team = team.limits(Limits { missed_max: 500, ..Limits::default() });
            let report = Swarm::new(1).on(&disk).team(team).run(|runtime| async move { runtime.idle().await }).unwrap();
            let ticks = wait(on(&*report.reader, "sys.schedule.>"));
            assert_eq!(ticks.len(), expected, "{missed:?}");
            let ids: BTreeSet<_> = ticks.iter().map(|tick| tick.id).collect();
            assert_eq!(ids.len(), expected, "{missed:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_long_pause_is_caught_up_on_with_the_newest_times_only() {
    let disk = MemoryDisk::new();
    let machine = Machine::new();
    let limits = Limits { missed_max: 100, ..Limits::default() };
    let ticks = |limits: &Limits| ticking(SECOND, Missed::All).limits(limits.clone());
    let runtime = start(&disk, &machine, ticks(&limits)).await;
    sleep(Duration::from_millis(2_500)).await;
    runtime.stop(STOP).await.unwrap();
    sleep(3_600 * SECOND).await;
    let runtime = start(&disk, &machine, ticks(&limits)).await;
    sleep(SECOND / 10).await;
    let events = on(&*runtime.reader(), "out.tick").await;
    assert_eq!(events.len(), 2 + 100);
    let times: Vec<_> = events[2..].iter().map(|tick| tick.get::<Timestamp>().unwrap().millis()).collect();
    assert!(times.windows(2).all(|two| two[1] - two[0] == 1_000), "{times:?}");
    assert!(machine.now().millis() - times[99] <= 1_200);
    runtime.stop(STOP).await.unwrap();
}

/// Events, timers and schedules at the ends of the range, on both clocks: nothing overflows, nothing is repeated.
#[test]
fn events_at_the_ends_of_time_are_handled_on_both_clocks() {
    let extremes = [
        Timestamp::MIN,
        Timestamp(i64::MIN + 1),
        Timestamp(-1),
        Timestamp(0),
        SIM_START,
        Timestamp(253_402_300_800_000),
        Timestamp(i64::MAX - 1),
        Timestamp::MAX,
    ];
    for clock in [Clock::Wall, Clock::Events] {
        for (missed, every) in [
            (Missed::Last, SECOND),
            (Missed::All, SECOND),
            (Missed::All, Duration::from_millis(1)),
            // The longest that a spec may say.
            (Missed::All, Duration::from_secs(3_155_760_000)),
        ] {
            let run = || {
                let feed = Feed { items: (0..).zip(extremes).map(|(n, time)| (Some(time), n)).collect(), ends: true };
                let spec = AgentSpec::new("late").subscribes("feed.n").schedule("tick", every, missed);
                let late = Plain {
                    spec,
                    act: |_, cx| {
                        for delay in [Duration::ZERO, SECOND, Duration::MAX] {
                            let draft = Draft::new(topic("alarm.n"), 1);
                            if cx.cause().seed() % 4 == 0 {
                                _ = cx.after(delay, draft)?;
                            }
                        }
                        Ok(())
                    },
                };
                let team = Team::new("one").agent(move || feed.clone()).agent(move || late.clone()).clock(clock);
                let team = team.limits(Limits { missed_max: 20, ..Limits::default() });
                Swarm::new(1)
                    .team(team)
                    .run(|runtime| async move {
                        runtime.idle().await;
                        assert!(runtime.status().iter().all(|team| team.restarts == 0), "{:?}", runtime.status());
                    })
                    .unwrap()
            };
            let (one, other) = (run(), run());
            assert_eq!(one.digest, other.digest, "{clock:?} {missed:?} {every:?}");
            let events = wait(on(&*one.reader, ">"));
            let ids: BTreeSet<_> = events.iter().map(|event| event.id).collect();
            assert_eq!(ids.len(), events.len(), "{clock:?} {missed:?} {every:?}");
            assert!(events.len() < 1_000, "{clock:?} {missed:?} {every:?}: {} events", events.len());
        }
    }
}

// === simulation ===

/// Sets a timer of ten seconds whenever the last one has rung. How often, and what time it is, is in memory.
struct Chain(u64);

#[async_trait]
impl Agent for Chain {
    fn spec(&self) -> AgentSpec {
        AgentSpec::new("chain").subscribes("sys.init").owns("chain.").schedule("tick", 5 * SECOND, Missed::Last)
    }
    async fn start(&mut self, state: &StateReader<'_>) -> Result<(), AgentError> {
        self.0 = state.get("rings")?.unwrap_or(0);
        Ok(())
    }
    async fn handle(&mut self, event: &Event, cx: &mut Context<'_>) -> Result<(), AgentError> {
        cx.put("chain.now", cx.now())?;
        if event.topic.as_str().starts_with("sys.schedule.") {
            return Ok(());
        }
        self.0 += 1;
        cx.put("chain.rings", self.0)?;
        _ = cx.after(10 * SECOND, Draft::new(topic("alarm.n"), 1))?;
        Ok(())
    }
    fn save(&mut self, state: &mut StateWriter<'_>) -> Result<(), AgentError> {
        state.put("rings", &self.0)
    }
}

fn look_at<T: serde::de::DeserializeOwned + Clone + Send + Sync + 'static>(look: &Look<'_>, key: &str) -> Option<T> {
    look.runtime.memory().get(key).map(|entry| entry.get::<T>().unwrap().clone())
}

/// A chain of timers beside a crowd; the machine's clock jumps and the process dies.
fn chain(seed: u64, bug: Option<fn(WriteBatch) -> WriteBatch>, clock: ClockLimits) -> Option<String> {
    use FaultClass::{ClockJump, ClockStep, Crash, Restart};
    let swarm = crowd::swarm(seed, 2, 5 * SECOND)
        .team(Team::of(|| Chain(0)))
        .clock(clock)
        .faults(FaultPlan::Each(vec![ClockJump, ClockStep, Crash, Restart]))
        .invariant("the clock stays within days of the machine's", |look| {
            let now: Timestamp = look_at(look, "chain.now").unwrap_or_default();
            let ahead = now.since(SIM_START.after(Duration::from_millis(look.at_ms)));
            if ahead < Duration::from_secs(7 * 86_400) { Ok(()) } else { Err(format!("{ahead:?} ahead")) }
        })
        .eventually("the chain goes on", |look| {
            let (rings, beats) = (look_at::<u64>(look, "chain.rings").unwrap_or(0), look.at_ms / 10_000);
            if rings >= beats / 2 { Ok(()) } else { Err(format!("{rings} rings in {beats} times ten seconds")) }
        });
    let swarm = match bug {
        Some(bug) => swarm.sabotage(move |_, batch| vec![bug(batch)]),
        None => swarm,
    };
    let report = swarm.simulate(|sim| async move {
        sim.run_for(Duration::from_secs(1_800)).await;
        sim.heal_and_settle(Duration::from_secs(3_600)).await;
    });
    report.failure().map(|text| format!("{text}\n{report}"))
}

#[test]
fn timers_go_on_and_the_clock_stays_near_the_machines_whatever_that_does() {
    for seed in 0..20 {
        assert_eq!(chain(seed, None, ClockLimits::default()), None, "seed {seed}");
    }
}

/// Found, or the checks above could not fail.
#[test]
fn planted_bugs_of_time_are_found() {
    // As older versions stored it: a new process has only the due time.
    let without_delay = |mut batch: WriteBatch| {
        for fact in batch.facts.iter_mut().filter(|fact| fact.kind == FactKind::Timer) {
            let Some(json) = fact.value.as_deref() else { continue };
            let mut value: serde_json::Value = serde_json::from_str(json).unwrap();
            let fields = value.as_object_mut().unwrap();
            fields.remove("after");
            fields.remove("set");
            fact.value = Some(value.to_string().into());
        }
        batch
    };
    let is_found = |bug: Option<fn(WriteBatch) -> WriteBatch>, clock: ClockLimits, expected: &str| {
        (0..40).any(|seed| chain(seed, bug, clock).is_some_and(|text| text.contains(expected)))
    };
    assert!(is_found(Some(without_delay), ClockLimits::default(), "the chain goes on"), "a delay that is not stored");
    let unbounded = ClockLimits { step_max: Duration::MAX, ..ClockLimits::default() };
    assert!(is_found(None, unbounded, "the clock stays"), "a clock that follows every jump");
}

#[tokio::test(start_paused = true)]
async fn a_chain_of_timers_without_delay_keeps_no_schedule_waiting() {
    let spec =
        AgentSpec::new("late").subscribes("in.n").publishes_on("out.tick", true).schedule("tick", SECOND, Missed::Last);
    let team = team(spec, |event, cx| {
        if event.topic.as_str().starts_with("sys.schedule.") {
            cx.publish(Draft::new(topic("out.tick"), event.time))?;
        } else {
            _ = cx.after(Duration::ZERO, Draft::new(topic("alarm.n"), 1))?;
        }
        Ok(())
    });
    let runtime = start(&MemoryDisk::new(), &Machine::new(), team).await;
    let mut out = runtime.subscribe(vec![Filter::new("out.>").unwrap()], Seq::ZERO);
    runtime.publish(Draft::new(topic("in.n"), 1)).await.unwrap();
    for _ in 0..3 {
        tokio::time::advance(SECOND).await;
        out.next().await.unwrap().unwrap();
    }
    runtime.stop(STOP).await.unwrap();
}
