//! Two agents and the memory they share.
//!
//! What to notice:
//! - Each key has one owner, said in the spec: only `thermometer` writes under `room.`.
//! - A write is an event on `memory.<key>`, so watching a key is an ordinary subscription.
//! - Keys that no agent owns are the callers': `limit` is set from outside and read by an agent.
//! - A turn reads other teams' keys as of its input's place in the journal, however late it runs.

use std::{error::Error, time::Duration};

use atra::{RuntimeError, prelude::*};

const READING: Topic = Topic::literal("sensor.reading");

/// Keeps the temperature of the room in memory.
struct Thermometer;

#[atra::async_trait]
impl Agent for Thermometer {
    fn spec(&self) -> AgentSpec {
        AgentSpec::new("thermometer").subscribes("sensor.reading").owns("room.")
    }

    async fn handle(&mut self, event: &Event, cx: &mut Context<'_>) -> Result<(), AgentError> {
        cx.put("room.temperature", *event.get::<f64>()?)?;
        Ok(())
    }
}

/// Watches the temperature and switches itself on below the limit.
struct Heater;

#[atra::async_trait]
impl Agent for Heater {
    fn spec(&self) -> AgentSpec {
        AgentSpec::new("heater").subscribes("memory.room.temperature").owns("heater.")
    }

    async fn handle(&mut self, event: &Event, cx: &mut Context<'_>) -> Result<(), AgentError> {
        let limit = cx.get::<f64>("limit").await?.unwrap_or(18.0);
        let on = *event.get::<f64>()? < limit;
        if cx.get::<bool>("heater.on").await? != Some(on) {
            cx.put("heater.on", on)?;
        }
        Ok(())
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let runtime = RuntimeBuilder::new(MemoryStore::new())
        .team(Team::of(|| Thermometer))
        .team(Team::of(|| Heater))
        .start()
        .await?;
    let mut seen = Vec::new();
    for (limit, temperature) in [(20.0, 19.0), (20.0, 21.0), (22.0, 21.0)] {
        runtime.put("limit", limit)?.await?;
        let published = runtime.publish(Draft::new(READING, temperature)).await?;
        // Across both teams: the thermometer's write, then what the heater made of it.
        runtime.settled(published.seq).await?;
        let on = runtime.memory().get("heater.on").ok_or("the heater has not decided")?;
        seen.push(*on.get::<bool>()?);
    }
    println!("the heater was on: {seen:?}");
    assert_eq!(seen, [true, false, true]);

    // An owned key is its owner's alone.
    let refused = runtime.put("room.temperature", 99.0)?.await;
    println!("{}", refused.as_ref().err().ok_or("it was not refused")?);
    assert!(matches!(refused, Err(RuntimeError::Reserved { .. })));

    runtime.stop(Duration::from_secs(10)).await?;
    Ok(())
}
