//! Shared memory: owners, as-of reads, revisions, callers' keys.

use async_trait::async_trait;
use atra_bus::{Committed, Draft, Event, Name};
use atra_runtime::{Agent, AgentError, AgentSpec, Context, Placement, PublishError, RuntimeError, Team, sim::Swarm};
use atra_storage::{FactKind, MemoryDisk};

use crate::support::{Script, journal, topic};

fn keeper() -> Script<u64> {
    let spec = AgentSpec::new("keeper").subscribes("in.*").owns("kept.");
    Script::new(spec, 0, |seen: &mut u64, event: &Event, cx: &mut Context<'_>| {
        *seen += 1;
        let n = *event.get::<u64>()?;
        cx.put("kept.last", n)?;
        Ok(())
    })
}

#[test]
fn a_write_is_visible_outside_once_it_is_released() {
    let swarm = Swarm::new(1).team(Team::of(keeper));
    swarm
        .run(|runtime| async move {
            let published = runtime.publish(Draft::new(topic("in.n"), 7_u64)).await.unwrap();
            runtime.settled(published.seq).await.unwrap();
            assert_eq!(*runtime.memory().get("kept.last").unwrap().get::<u64>().unwrap(), 7);
        })
        .unwrap();
}

#[test]
fn a_caller_cannot_write_an_agents_key() {
    let swarm = Swarm::new(1).team(Team::of(keeper));
    swarm
        .run(|runtime| async move {
            let refused = runtime.put("kept.last", 1_u64).unwrap().await;
            assert!(matches!(refused, Err(RuntimeError::Reserved { .. })), "{refused:?}");
            runtime.put("free.key", 1_u64).unwrap().await.unwrap();
            let first = runtime.memory().get("free.key").unwrap().revision;
            runtime.put("free.key", 2_u64).unwrap().if_revision(Some(first)).await.unwrap();
            assert!(runtime.put("free.key", 3_u64).unwrap().if_revision(Some(first)).await.is_err());
            assert_eq!(*runtime.memory().get("free.key").unwrap().get::<u64>().unwrap(), 2);
            runtime.remove("free.key").unwrap().await.unwrap();
            assert!(runtime.memory().get("free.key").is_none());
        })
        .unwrap();
}

/// Publishes what it reads of the keeper's key on every number.
struct Reader;

#[async_trait]
impl Agent for Reader {
    fn spec(&self) -> AgentSpec {
        AgentSpec::new("reader").subscribes("in.*").publishes_on("out.read", true)
    }
    async fn handle(&mut self, event: &Event, cx: &mut Context<'_>) -> Result<(), AgentError> {
        let n = *event.get::<u64>()?;
        let held: Option<u64> = cx.get("kept.last").await?;
        cx.publish(Draft::new(topic("out.read"), (n, held)))?;
        Ok(())
    }
}

#[test]
fn a_foreign_key_is_read_as_of_the_inputs_position_however_late_the_reader_is() {
    for pause in [false, true] {
        let swarm = Swarm::new(1).team(Team::of(keeper)).team(Team::of(|| Reader));
        let report = swarm
            .run(|runtime| async move {
                if pause {
                    runtime.pause("reader").await.unwrap();
                }
                let mut last = None;
                // More writes than versions are kept: the paused reader needs the journal.
                for n in 1..=300_u64 {
                    let published = runtime.publish(Draft::new(topic("in.n"), n)).await.unwrap();
                    last = Some(published.seq);
                }
                runtime.resume("reader").await.unwrap();
                runtime.settled(last.unwrap()).await.unwrap();
            })
            .unwrap();
        let journal = futures::executor::block_on(journal(&*report.reader));
        let mut reads = 0;
        for read in journal.iter().filter(|committed| committed.event.topic.as_str() == "out.read") {
            let position = read.cause_seq.unwrap();
            let written = |c: &&Committed| c.event.topic.as_str() == "memory.kept.last" && c.seq <= position;
            let expected = journal.iter().rfind(written).map(|c| *c.event.get::<u64>().unwrap());
            assert_eq!(read.event.get::<(u64, Option<u64>)>().unwrap().1, expected, "at {position}, paused: {pause}");
            reads += 1;
        }
        assert_eq!(reads, 300);
    }
}

#[test]
fn a_teammates_key_is_read_as_written_before_the_round_and_an_own_one_as_last_written() {
    for placement in [Placement::Together, Placement::Apart] {
        let writer = || {
            let spec = AgentSpec::new("writer").subscribes("in.*").owns("w.").publishes_on("out.own", true);
            OwnReader { spec }
        };
        let mate = || Mate;
        let swarm = Swarm::new(1).team(Team::new("t").agent(writer).agent(mate).placement(placement));
        let report = swarm
            .run(|runtime| async move {
                for n in 1..=3_u64 {
                    let published = runtime.publish(Draft::new(topic("in.n"), n)).await.unwrap();
                    runtime.settled(published.seq).await.unwrap();
                }
            })
            .unwrap();
        let lines = futures::executor::block_on(crate::support::lines(&*report.reader));
        let of = |start: &str| lines.iter().filter(|l| l.starts_with(start)).cloned().collect::<Vec<_>>();
        assert_eq!(of("out.own"), ["out.own 1", "out.own 2", "out.own 3"], "{placement:?}");
        assert_eq!(of("out.mate"), ["out.mate null", "out.mate 1", "out.mate 2"], "{placement:?}");
    }
}

/// Writes its key, then reads it back in the same turn.
struct OwnReader {
    spec: AgentSpec,
}

#[async_trait]
impl Agent for OwnReader {
    fn spec(&self) -> AgentSpec {
        self.spec.clone()
    }
    async fn handle(&mut self, event: &Event, cx: &mut Context<'_>) -> Result<(), AgentError> {
        cx.put("w.n", *event.get::<u64>()?)?;
        let held: Option<u64> = cx.get("w.n").await?;
        cx.publish(Draft::new(topic("out.own"), held))?;
        Ok(())
    }
}

/// Reads the writer's key in the same round.
struct Mate;

#[async_trait]
impl Agent for Mate {
    fn spec(&self) -> AgentSpec {
        AgentSpec::new("mate").subscribes("in.*").publishes_on("out.mate", true)
    }
    async fn handle(&mut self, _event: &Event, cx: &mut Context<'_>) -> Result<(), AgentError> {
        let held: Option<u64> = cx.get("w.n").await?;
        cx.publish(Draft::new(topic("out.mate"), held))?;
        Ok(())
    }
}

/// What was removed before the start is not in memory; only the journal knows that it was there once.
#[test]
fn a_key_that_was_removed_later_is_read_as_it_was_at_the_inputs_position() {
    let disk = MemoryDisk::new();
    let before = Swarm::new(1).on(&disk).run(|runtime| async move {
        runtime.put("kept.last", 1_u64).unwrap().await.unwrap();
        runtime.publish(Draft::new(topic("in.n"), 7_u64)).await.unwrap();
        runtime.remove("kept.last").unwrap().await.unwrap();
    });
    before.unwrap();
    let swarm = Swarm::new(1).on(&disk).team(Team::of(|| Reader));
    let report = swarm.run(|runtime| async move { runtime.idle().await }).unwrap();
    let lines = futures::executor::block_on(crate::support::lines(&*report.reader));
    assert_eq!(lines.last().unwrap(), "out.read [7,1]");
}

#[test]
fn reserved_topics_and_names_are_refused_at_the_call() {
    let bold = || {
        let spec = AgentSpec::new("bold").subscribes("in.n").publishes_on(">", true).attempts_max(1);
        Script::new(spec, 0_u64, |_: &mut u64, event: &Event, cx: &mut Context<'_>| {
            let topic = topic(event.get::<String>()?);
            assert!(matches!(cx.publish(Draft::new(topic, 1)), Err(PublishError::Reserved { .. })));
            Ok(())
        })
    };
    let swarm = Swarm::new(1).team(Team::of(keeper)).team(Team::of(bold));
    let report = swarm
        .run(|runtime| async move {
            for reserved in ["memory.kept.x", "sys.fake", "to.keeper.in.n"] {
                runtime.publish(Draft::new(topic("in.n"), reserved.to_owned())).await.unwrap();
            }
            runtime.idle().await;
            let stranger = Name::new("keeper").unwrap();
            assert!(runtime.publish(Draft::new(topic("in.n"), "x")).from(stranger).await.is_err());
            assert!(runtime.publish(Draft::new(topic("to.nobody.in.n"), "x")).await.is_err());
            assert!(runtime.publish(Draft::new(topic("sys.fake"), "x")).await.is_err());
            runtime.reader().facts(FactKind::DeadLetter, None).await.unwrap()
        })
        .unwrap();
    // The keeper wants numbers; the bold one was content.
    assert!(report.output.iter().all(|letter| letter.owner.as_str() == "keeper"), "{:?}", report.output);
}

/// Writes `kept.<n>` on every number and removes the key of the number before.
fn mover() -> Script<u64> {
    let spec = AgentSpec::new("mover").subscribes("in.*").owns("kept.");
    Script::new(spec, 0, |_: &mut u64, event: &Event, cx: &mut Context<'_>| {
        let n = *event.get::<u64>()?;
        cx.put(&format!("kept.{n}"), n)?;
        cx.remove(&format!("kept.{}", n.saturating_sub(1)))?;
        Ok(())
    })
}

/// Publishes the keys that it finds on every number.
struct Lister;

#[async_trait]
impl Agent for Lister {
    fn spec(&self) -> AgentSpec {
        AgentSpec::new("lister").subscribes("in.*").publishes_on("out.listed", true)
    }
    async fn handle(&mut self, event: &Event, cx: &mut Context<'_>) -> Result<(), AgentError> {
        let n = *event.get::<u64>()?;
        let keys: Vec<String> = cx.list("kept.").await?.into_iter().map(|(key, _)| key).collect();
        cx.publish(Draft::new(topic("out.listed"), (n, keys)))?;
        Ok(())
    }
}

async fn move_keys(runtime: &atra_runtime::Runtime, numbers: std::ops::RangeInclusive<u64>) {
    for n in numbers {
        runtime.publish(Draft::new(topic("in.n"), n)).await.unwrap();
        // One write after the other, so that each number finds the key of the one before.
        while runtime.memory().get(&format!("kept.{n}")).is_none() {
            tokio::task::yield_now().await;
        }
    }
}

/// The keys that were there when the inputs were published have been removed before the process began.
#[test]
fn a_list_finds_keys_that_were_removed_before_the_restart() {
    let disk = MemoryDisk::new();
    let swarm = || Swarm::new(1).on(&disk).team(Team::of(mover)).team(Team::of(|| Lister));
    let stopped = swarm().run(|runtime| async move {
        runtime.pause("lister").await.unwrap();
        move_keys(&runtime, 1..=5).await;
    });
    stopped.unwrap();
    let report = swarm().run(|runtime| async move { runtime.idle().await }).unwrap();
    let lines = futures::executor::block_on(crate::support::lines(&*report.reader));
    let listed: Vec<&String> = lines.iter().filter(|line| line.starts_with("out.listed")).collect();
    let expected: Vec<String> = (1..=5)
        .map(|n| if n == 1 { "out.listed [1,[]]".into() } else { format!(r#"out.listed [{n},["kept.{}"]]"#, n - 1) })
        .collect();
    assert_eq!(listed, expected.iter().collect::<Vec<_>>());
}

/// Keys that come and go are forgotten when every team has seen them go.
#[test]
fn removed_keys_are_forgotten_when_nobody_can_need_them_and_not_before() {
    let swarm = Swarm::new(1).team(Team::of(mover)).team(Team::of(|| Lister));
    let report = swarm
        .run(|runtime| async move {
            runtime.pause("lister").await.unwrap();
            move_keys(&runtime, 1..=100).await;
            let held = runtime.memory().keys_with("kept.").len();
            runtime.resume("lister").await.unwrap();
            runtime.idle().await;
            move_keys(&runtime, 101..=110).await;
            runtime.idle().await;
            (held, runtime.memory().keys_with("kept.").len(), runtime.memory().list("kept.").len())
        })
        .unwrap();
    let (held, left, live) = report.output;
    assert!(held >= 100, "a team that is behind may need them: {held}");
    assert!(left <= 4 && live == 1, "{left} names for {live} keys");
    let lines = futures::executor::block_on(crate::support::lines(&*report.reader));
    let wrong = lines.iter().filter_map(|line| line.strip_prefix("out.listed ")).find(|line| {
        let (n, keys): (u64, Vec<String>) = serde_json::from_str(line).unwrap();
        n > 1 && keys != [format!("kept.{}", n - 1)]
    });
    assert_eq!(wrong, None);
}
