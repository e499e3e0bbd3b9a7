//! Shared memory: owners, as-of reads, revisions, callers' keys.

use atra_bus::{Draft, Event};
use atra_runtime::{AgentSpec, Context, RuntimeError, Team, sim::Swarm};

use crate::support::{Script, topic};

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
