//! A unit test of an agent: one line of set-up, no runtime, no database.
//!
//! What to notice:
//! - `AgentBench` runs the very turn that a team runs, with the same checks: an event that the spec does not
//!   subscribe to, or a topic that it does not declare, fails the test.
//! - What the agent decided comes back as data: events, memory writes, timers.
//! - Time stands still until the test moves it; `restart` goes through `save` and `start`.

use std::{error::Error, time::Duration};

use atra::{prelude::*, runtime::testing::AgentBench};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Order {
    pieces: u32,
}
impl EventType for Order {
    const TOPIC: Topic = Topic::literal("shop.order");
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Reminder {
    pieces: u32,
}
impl EventType for Reminder {
    const TOPIC: Topic = Topic::literal("shop.reminder");
}

/// Counts what is ordered and asks for a delivery an hour later.
#[derive(Default)]
struct Stock {
    ordered: u32,
}

#[atra::async_trait]
impl Agent for Stock {
    fn spec(&self) -> AgentSpec {
        AgentSpec::new("stock").handles::<Order>().handles::<Reminder>().publishes::<Reminder>().owns("stock.")
    }

    async fn start(&mut self, state: &StateReader<'_>) -> Result<(), AgentError> {
        self.ordered = state.get("ordered")?.unwrap_or(0);
        Ok(())
    }

    async fn handle(&mut self, event: &Event, cx: &mut Context<'_>) -> Result<(), AgentError> {
        if let Some(order) = event.as_type::<Order>()? {
            if order.pieces > cx.get("order.most").await?.unwrap_or(10) {
                return Err(AgentError::new("too many pieces"));
            }
            self.ordered += order.pieces;
            cx.after(Duration::from_secs(3600), Reminder { pieces: self.ordered })?;
        }
        if let Some(reminder) = event.as_type::<Reminder>()? {
            cx.put("stock.reminded", reminder.pieces)?;
        }
        Ok(())
    }

    fn save(&mut self, state: &mut StateWriter<'_>) -> Result<(), AgentError> {
        state.put("ordered", &self.ordered)
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut bench = AgentBench::new(Stock::default());

    let effects = bench.feed(Order { pieces: 3 }).await?;
    assert!(effects.events().is_empty());
    assert_eq!(effects.timers().len(), 1);

    // A key that another agent or a caller keeps.
    bench.put("order.most", 2_u32);
    assert_eq!(
        bench.feed(Order { pieces: 3 }).await.err().map(|fault| fault.to_string()),
        Some("too many pieces".into())
    );

    // The state survives a restart, the timer fires on the moved clock.
    bench.restart(Stock::default()).await?;
    bench.advance(Duration::from_secs(60)).await?;
    bench.feed(Order { pieces: 2 }).await?;
    let turns = bench.advance(Duration::from_secs(3600)).await?;
    assert_eq!(
        turns.iter().map(|turn| turn.written::<u32>("stock.reminded")).collect::<Vec<_>>(),
        [Some(Some(3)), Some(Some(5))]
    );
    assert_eq!(bench.get::<u32>("stock.reminded"), Some(5));
    println!("the agent did what it should, in {} turns", 3 + turns.len());
    Ok(())
}
