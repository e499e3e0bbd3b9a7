//! Topology, publishing with keys, `settled`, pause, stop and resume.

use atra_bus::{Draft, Event};
use atra_runtime::{AgentSpec, Clock, Context, Team, sim::Swarm};
use atra_storage::MemoryDisk;

use crate::support::{Numbers, Script, lines, topic};

fn counter(name: &'static str, wants: &'static str) -> Script<u64> {
    let spec = AgentSpec::new(name).subscribes(wants).publishes_on(&format!("{name}.seen"), true);
    Script::new(spec, 0, move |seen: &mut u64, _: &Event, cx: &mut Context<'_>| {
        *seen += 1;
        let seen = *seen;
        cx.publish(Draft::new(topic(&format!("{name}.seen")), seen))?;
        Ok(())
    })
}

#[test]
fn a_second_publish_with_the_same_key_changes_nothing() {
    let swarm = Swarm::new(1).team(Team::of(|| counter("a", "in.n")));
    let report = swarm
        .run(|runtime| async move {
            let first = runtime.publish(Draft::new(topic("in.n"), 1)).key("k").await.unwrap();
            let second = runtime.publish(Draft::new(topic("in.n"), 2)).key("k").await.unwrap();
            runtime.settled(first.seq).await.unwrap();
            (first, second)
        })
        .unwrap();
    let (first, second) = report.output;
    assert_eq!((first.seq, first.repeated, second.seq, second.repeated), (first.seq, false, first.seq, true));
    let lines = futures::executor::block_on(lines(&*report.reader));
    assert_eq!(lines, ["in.n 1", "a.seen 1"]);
}

#[test]
fn settled_waits_for_what_an_event_causes_across_teams() {
    let swarm = Swarm::new(1)
        .team(Team::of(|| counter("a", "in.n")))
        .team(Team::of(|| counter("b", "a.seen")))
        .team(Team::of(|| counter("c", "b.seen")));
    let report = swarm
        .run(|runtime| async move {
            let published = runtime.publish(Draft::new(topic("in.n"), 1)).await.unwrap();
            runtime.settled(published.seq).await.unwrap();
            lines(&*runtime.reader()).await
        })
        .unwrap();
    assert_eq!(report.output, ["in.n 1", "a.seen 1", "b.seen 1", "c.seen 1"]);
}

#[test]
fn a_runtime_that_is_stopped_goes_on_where_it_was() {
    let disk = MemoryDisk::new();
    let team = |n| {
        let feed = move || Numbers { name: "feed", n };
        Team::new("t").agent(feed).agent(|| counter("a", "numbers.feed")).clock(Clock::Events)
    };
    for n in [10, 10, 25] {
        let swarm = Swarm::new(1).on(&disk).team(team(n));
        swarm.run(|runtime| async move { runtime.idle().await }).unwrap();
    }
    let whole = Swarm::new(1).team(team(25)).run(|runtime| async move { runtime.idle().await }).unwrap();
    let parts = Swarm::new(1).on(&disk).run(|_| async {}).unwrap();
    let (whole, parts) =
        futures::executor::block_on(async { (lines(&*whole.reader).await, lines(&*parts.reader).await) });
    assert_eq!(whole.len(), 50);
    assert_eq!(parts, whole);
}
