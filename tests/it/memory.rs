//! Shared memory: owners, as-of reads, revisions, callers' keys.

use async_trait::async_trait;
use atra_bus::{Committed, Draft, Event};
use atra_runtime::{Agent, AgentError, AgentSpec, Context, Placement, RuntimeError, Team, sim::Swarm};

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
