//! Order: rounds, own and foreign inputs, placement, steps of any size.

use std::time::Duration;

use async_trait::async_trait;
use atra_bus::{Draft, Event, Timestamp};
use atra_runtime::{
    Agent, AgentError, AgentSpec, Clock, Context, Limits, Offsets, Placement, Source, SourceItem, Team, sim::Swarm,
};
use atra_storage::MemoryDisk;
use futures::stream;

use crate::support::{Numbers, Script, lines, topic};

/// Passes every number on to `<name>.out`, multiplied.
fn stage(name: &'static str, wants: &'static str, factor: u64) -> Script<u64> {
    let spec = AgentSpec::new(name).subscribes(wants).publishes_on(&format!("{name}.out"), true);
    Script::new(spec, 0, move |seen: &mut u64, event: &Event, cx: &mut Context<'_>| {
        *seen += 1;
        let n: u64 = *event.get::<u64>()?;
        cx.publish(Draft::new(topic(&format!("{name}.out")), n * factor))?;
        Ok(())
    })
}

fn pipeline(n: u64, placement: Placement, inputs_max: usize) -> Team {
    Team::new("pipeline")
        .agent(move || Numbers { name: "feed", n })
        .agent(|| stage("b", "numbers.feed", 10))
        .agent(|| stage("a", "numbers.feed", 100))
        .agent(|| stage("c", "*.out", 1))
        .clock(Clock::Events)
        .placement(placement)
        .limits(Limits { inputs_max, ..Limits::default() })
}

fn run(placement: Placement, inputs_max: usize) -> Vec<String> {
    let swarm = Swarm::new(1).team(pipeline(3, placement, inputs_max));
    let report = swarm.run(|runtime| async move { runtime.idle().await }).unwrap();
    futures::executor::block_on(lines(&*report.reader))
}

#[test]
fn a_cascade_is_handled_round_by_round_in_the_order_of_members() {
    let expected = [
        // Round 0; then what b and a published on it, in their places; then c on those, in that order.
        "numbers.feed 1",
        "b.out 10",
        "a.out 100",
        "c.out 10",
        "c.out 100",
        "numbers.feed 2",
        "b.out 20",
        "a.out 200",
        "c.out 20",
        "c.out 200",
        "numbers.feed 3",
        "b.out 30",
        "a.out 300",
        "c.out 30",
        "c.out 300",
    ];
    assert_eq!(run(Placement::Together, 256), expected);
}

#[test]
fn placement_and_step_size_change_nothing_in_the_journal() {
    let together = run(Placement::Together, 256);
    for inputs_max in [1, 2, 256] {
        assert_eq!(run(Placement::Together, inputs_max), together, "together, {inputs_max} inputs a step");
        assert_eq!(run(Placement::Apart, inputs_max), together, "apart, {inputs_max} inputs a step");
    }
}

/// A source that gives one number a second of tokio's time.
struct Paced;

#[async_trait]
impl Agent for Paced {
    fn spec(&self) -> AgentSpec {
        AgentSpec::new("paced").source().publishes_on("numbers.*", true)
    }
    async fn handle(&mut self, _event: &Event, _cx: &mut Context<'_>) -> Result<(), AgentError> {
        Ok(())
    }
    fn source(&self, _offsets: &Offsets) -> Option<Source> {
        let paced = stream::unfold(0_u64, |n| async move {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let event = Draft::new(topic("numbers.paced"), n).at(Timestamp(n as i64));
            let input = SourceItem::Input { event, partition: "n".into(), offset: n.to_string() };
            (n <= 20).then(|| (Ok(if n < 20 { input } else { SourceItem::End }), n + 1))
        });
        Some(Box::pin(paced))
    }
}

/// A chunk that arrived between looking and waiting was once taken without waking anybody: the team slept
/// for good beside a full buffer.
#[test]
fn a_product_that_arrives_while_the_team_goes_to_sleep_wakes_it() {
    for clock in [Clock::Events, Clock::Wall] {
        let swarm = Swarm::new(1).team(Team::of(|| Paced).clock(clock));
        let report = swarm.run(|runtime| async move { runtime.idle().await }).unwrap();
        let lines = futures::executor::block_on(lines(&*report.reader));
        assert_eq!(lines.len(), 20, "{clock:?}");
        // One a second and the end: not when something else, such as the cursor's timer, happens to wake it.
        assert_eq!(report.virtual_time.as_secs(), 21, "{clock:?}");
    }
}

/// A team that was behind in the journal once read on only when its source had nothing.
#[test]
fn a_source_that_always_has_something_does_not_keep_a_command_from_being_heard() {
    let disk = MemoryDisk::new();
    let before = Swarm::new(1).on(&disk).run(|runtime| async move {
        runtime.publish(Draft::new(topic("numbers.command"), 7_u64)).await.unwrap();
    });
    before.unwrap();
    let team = Team::new("t")
        .agent(|| Numbers { name: "feed", n: 20_000 })
        .agent(|| stage("a", "numbers.command", 1))
        .clock(Clock::Events);
    let report = Swarm::new(1).on(&disk).team(team).run(|runtime| async move { runtime.idle().await }).unwrap();
    let lines = futures::executor::block_on(lines(&*report.reader));
    let heard = lines.iter().position(|line| line == "a.out 7").unwrap();
    assert!(heard < 2_000, "heard after {heard} of {} rows", lines.len());
}
