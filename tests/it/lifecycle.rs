//! Topology, publishing with keys, `settled`, pause, stop and resume.

use std::time::Duration;

use atra_bus::{BusOptions, Draft, Event, Filter, Seq};
use atra_runtime::{
    AgentSpec, Clock, Context, Query, Runtime, RuntimeBuilder, RuntimeError, Team, TeamState, sim::Swarm,
};
use atra_storage::{MemoryDisk, MemoryStore, Rejected, StorageState, StoreError};

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

/// Whoever was told a seq knows of an answer whether it holds as of that or not yet.
#[tokio::test(start_paused = true)]
async fn an_answer_tells_as_of_which_seq_it_holds() {
    let builder = RuntimeBuilder::new(MemoryStore::new()).own_thread(false);
    let runtime = builder.team(Team::of(|| counter("counter", "in.n"))).start().await.unwrap();
    let ask = async || {
        let query = Query { name: "seen".into(), arguments: serde_json::Value::Null };
        let (seen, seq) = runtime.query_as_of("counter", query).await.unwrap();
        (seen.as_u64().unwrap(), seq)
    };
    let mut last = Seq::ZERO;
    for n in 1..=5_u64 {
        last = runtime.publish(Draft::new(topic("in.n"), n)).await.unwrap().seq;
        runtime.settled(last).await.unwrap();
        let (seen, seq) = ask().await;
        assert!(seen == n && seq >= last, "seen {seen} of {n} as of {seq}, published at {last}");
    }
    runtime.pause("counter").await.unwrap();
    let late = runtime.publish(Draft::new(topic("in.n"), 6_u64)).await.unwrap().seq;
    let (seen, seq) = ask().await;
    assert!(seen == 5 && (last..late).contains(&seq), "paused, and as of {seq} although {late} was not taken");
    runtime.stop(Duration::from_secs(60)).await.unwrap();
}

#[test]
fn settled_waits_for_what_an_event_causes_across_teams() {
    let disk = MemoryDisk::new();
    // So slow that what is not waited for is not there.
    disk.delay_commits(Some(Duration::from_secs(1)));
    let swarm = Swarm::new(1)
        .on(&disk)
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

#[tokio::test]
async fn idle_waits_for_what_a_lagging_team_still_has_to_read() {
    let bus = BusOptions { queue_events_max: 4, page_events_max: 4, ..BusOptions::default() };
    let disk = MemoryDisk::new();
    let start = || {
        let teams = [Team::of(|| counter("a", "in.n")), Team::of(|| counter("b", "in.nothing"))];
        let builder = RuntimeBuilder::new(MemoryStore::on(&disk)).bus(bus.clone());
        teams.into_iter().fold(builder, RuntimeBuilder::team).start()
    };
    let inputs = |runtime: &Runtime| runtime.status().iter().map(|team| team.inputs).sum::<u64>();

    let runtime = start().await.unwrap();
    runtime.pause("a").await.unwrap();
    for n in 0..50 {
        runtime.publish(Draft::new(topic("in.n"), n)).await.unwrap();
    }
    runtime.resume("a").await.unwrap();
    runtime.idle().await;
    assert_eq!(inputs(&runtime), 50);
    runtime.pause("a").await.unwrap();
    for n in 0..50 {
        runtime.publish(Draft::new(topic("in.n"), n)).await.unwrap();
    }
    runtime.stop(Duration::from_secs(10)).await.unwrap();

    let runtime = start().await.unwrap();
    runtime.idle().await;
    assert_eq!(inputs(&runtime), 50);
    runtime.stop(Duration::from_secs(10)).await.unwrap();
}

/// Teams wait for their commits, and these for space that does not come: a stop must not wait for them.
#[tokio::test]
async fn a_stop_on_a_full_disk_ends_at_once_and_the_next_start_repeats_what_was_not_committed() {
    let disk = MemoryDisk::new();
    let start = || RuntimeBuilder::new(MemoryStore::on(&disk)).team(Team::of(|| counter("a", "in.n"))).start();
    let runtime = start().await.unwrap();
    runtime.pause("a").await.unwrap();
    for n in 0..20 {
        runtime.publish(Draft::new(topic("in.n"), n)).await.unwrap();
    }
    let before = disk.n_events();
    disk.fail_next(100_000, &StoreError::Full("test".into()));
    runtime.resume("a").await.unwrap();
    while runtime.storage_metrics().state != StorageState::Degraded {
        tokio::task::yield_now().await;
    }
    let stopped = runtime.stop(Duration::from_secs(600)).await;
    assert!(matches!(stopped, Err(RuntimeError::Rejected(Rejected::Failed(StoreError::Full(_))))), "found {stopped:?}");
    assert_eq!(disk.n_events(), before, "nothing is written on a full disk");
    drop(runtime);

    disk.mend();
    let runtime = start().await.unwrap();
    runtime.idle().await;
    runtime.stop(Duration::from_secs(10)).await.unwrap();
    let seen = lines(&disk).await.into_iter().filter(|line| line.starts_with("a.seen")).count();
    assert_eq!(seen, 20, "each input has its effect once");
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

#[test]
fn nothing_is_seen_before_it_is_committed() {
    let store = MemoryStore::new();
    let disk = store.disk();
    let tokio = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    tokio.block_on(async {
        let keeper = || {
            let spec = AgentSpec::new("a").subscribes("in.n").publishes_on("out.n", true).owns("kept.");
            Script::new(spec, 0_u64, |_: &mut u64, _: &Event, cx: &mut Context<'_>| {
                cx.put("kept.n", 1_u64)?;
                cx.publish(Draft::new(topic("out.n"), 1))?;
                Ok(())
            })
        };
        let runtime = RuntimeBuilder::new(store).own_thread(false).team(Team::of(keeper)).start().await.unwrap();
        let mut out = runtime.subscribe(vec![Filter::new("out.*").unwrap()], runtime.released());
        disk.delay_commits(Some(Duration::from_secs(10)));
        let published = runtime.publish(Draft::new(topic("in.n"), 1)).await.unwrap();
        // Virtual time: the turn is long over, the commit is not.
        let early = tokio::time::timeout(Duration::from_secs(5), out.next()).await;
        assert!(early.is_err() && runtime.memory().get("kept.n").is_none(), "seen before the commit");
        disk.delay_commits(None);
        let seen = out.next().await.unwrap().unwrap();
        assert!(seen.seq > published.seq);
        // Memory is applied before the bus hands the batch out.
        assert!(runtime.memory().get("kept.n").is_some());
        runtime.stop(Duration::from_secs(100)).await.unwrap();
    });
}

#[test]
fn a_team_that_is_paused_loses_nothing_and_goes_on_in_order() {
    let swarm = Swarm::new(1).team(Team::of(|| counter("a", "in.n")));
    let report = swarm
        .run(|runtime| async move {
            runtime.pause("a").await.unwrap();
            let mut last = None;
            for n in 0..5_000 {
                last = Some(runtime.publish(Draft::new(topic("in.n"), n)).await.unwrap().seq);
            }
            // A pause holds until it is taken back, over a restart too.
            runtime.restart("a").await.unwrap();
            runtime.until_state("a", |state| *state == TeamState::Running).await.unwrap();
            tokio::time::sleep(Duration::from_secs(1)).await;
            assert_eq!(runtime.status()[0].inputs, 0);
            runtime.resume("a").await.unwrap();
            runtime.settled(last.unwrap()).await.unwrap();
            runtime.status()[0].inputs
        })
        .unwrap();
    assert_eq!(report.output, 5_000);
}

#[test]
fn teams_that_do_not_fit_together_are_refused_before_anything_runs() {
    let refused = |teams: Vec<Team>| atra_runtime::topology::check(&teams).unwrap_err().to_string();
    let owner = |name: &str, prefix: &str| {
        let spec = AgentSpec::new(name).owns(prefix);
        Team::of(move || Script::new(spec.clone(), 0_u64, |_: &mut u64, _: &Event, _: &mut Context<'_>| Ok(())))
    };
    assert!(refused(vec![owner("a", "x."), owner("b", "x.y.")]).contains("each key has one owner"));
    let two = AgentSpec::new("a").owns("k.").owns("k.a");
    let two = Team::of(move || Script::new(two.clone(), 0_u64, |_: &mut u64, _: &Event, _: &mut Context<'_>| Ok(())));
    assert!(refused(vec![two, owner("b", "k.b")]).contains("each key has one owner"));
    assert!(refused(vec![owner("a", "x."), owner("a", "y.")]).contains("names are unique"));
    assert!(refused(vec![Team::new("empty")]).contains("no agents"));
    let spec = |name: &str| AgentSpec::new(name);
    let team = |name: &str, specs: Vec<AgentSpec>| {
        specs.into_iter().fold(Team::new(name), |team, spec| {
            team.agent(move || Script::new(spec.clone(), 0_u64, |_: &mut u64, _: &Event, _: &mut Context<'_>| Ok(())))
        })
    };
    assert!(refused(vec![team("t", vec![spec("a").acting(), spec("b")])]).contains("alone in its team"));
    let passing = team("p", vec![spec("a").publishes_on("x.y", false)]);
    assert!(refused(vec![passing, team("q", vec![spec("b").subscribes("x.y")])]).contains("make it durable"));
    let warnings = atra_runtime::topology::check(&[
        team("p", vec![spec("a").publishes_on("x.y", true).subscribes("y.x")]),
        team("q", vec![spec("b").publishes_on("y.x", true).subscribes("x.y").subscribes("z.z")]),
    ])
    .unwrap();
    let text: Vec<_> = warnings.iter().map(ToString::to_string).collect();
    assert!(
        text.iter().any(|w| w.contains("agent b wants z.z")) && text.iter().any(|w| w.contains("feed each other")),
        "{text:?}"
    );
}

/// Two teams once heard of each other's first start, and of their own again.
#[test]
fn each_agent_hears_of_its_own_first_start_once_ever() {
    let disk = MemoryDisk::new();
    let starter = |name: &'static str| {
        let spec = AgentSpec::new(name).subscribes("sys.init").publishes_on(&format!("{name}.born"), true);
        Team::of(move || {
            Script::new(spec.clone(), 0_u64, move |_: &mut u64, event: &Event, cx: &mut Context<'_>| {
                assert_eq!(event.topic.subject(), "sys.init");
                cx.publish(Draft::new(topic(&format!("{name}.born")), 1))?;
                Ok(())
            })
        })
    };
    for _ in 0..2 {
        let swarm = Swarm::new(1).on(&disk).team(starter("a")).team(starter("b"));
        let report = swarm.run(|runtime| async move { runtime.idle().await }).unwrap();
        let lines = futures::executor::block_on(lines(&*report.reader));
        let born: Vec<_> = lines.iter().filter(|line| line.contains("born")).collect();
        assert_eq!(born, ["a.born 1", "b.born 1"]);
    }
}
