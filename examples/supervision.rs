//! What happens when agents fail.
//!
//! What to notice:
//! - An event that keeps failing becomes a *dead letter*: kept with its reason, and the agent goes on.
//! - State is rebuilt from what was committed: `sum` was changed before the failure and is right all the same.
//! - A *ledger* (`OnPoison::Stop`) stops instead, visibly, since skipping an entry would be worse.
//! - The teams do not notice each other's failures.

use std::{error::Error, time::Duration};

use atra::{TeamState, prelude::*, storage::FactKind};

const ENTRY: Topic = Topic::literal("book.entry");

/// Adds up entries; cannot bear a zero.
struct Sum {
    name: &'static str,
    on_poison: OnPoison,
    sum: i64,
}

#[atra::async_trait]
impl Agent for Sum {
    fn spec(&self) -> AgentSpec {
        let spec = AgentSpec::new(self.name).subscribes("book.entry").owns(&format!("{}.", self.name));
        spec.on_poison(self.on_poison).attempts_max(2)
    }

    async fn start(&mut self, state: &StateReader<'_>) -> Result<(), AgentError> {
        self.sum = state.get("sum")?.unwrap_or(0);
        Ok(())
    }

    async fn handle(&mut self, event: &Event, cx: &mut Context<'_>) -> Result<(), AgentError> {
        let entry = *event.get::<i64>()?;
        self.sum += entry.max(1000 * i64::from(entry == 0));
        if entry == 0 {
            return Err(AgentError::new("an entry of zero"));
        }
        cx.put(&format!("{}.sum", self.name), self.sum)?;
        Ok(())
    }

    fn save(&mut self, state: &mut StateWriter<'_>) -> Result<(), AgentError> {
        state.put("sum", &self.sum)
    }
}

fn team(name: &'static str, on_poison: OnPoison) -> Team {
    Team::of(move || Sum { name, on_poison, sum: 0 })
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let runtime = RuntimeBuilder::new(MemoryStore::new())
        .team(team("tally", OnPoison::DeadLetter))
        .team(team("ledger", OnPoison::Stop))
        .start()
        .await?;
    for entry in [5, 0, 7] {
        runtime.publish(Draft::new(ENTRY, entry)).await?;
        // Passes over teams that have ended.
        runtime.idle().await;
    }

    // The ledger stops at the zero, and says why.
    let state = runtime.until_state("ledger", TeamState::is_ended).await?;
    println!("ledger: {state}");
    assert!(matches!(state, TeamState::Poisoned { .. }));

    // The tally went on past it.
    let sum = |key| runtime.memory().get(key).and_then(|entry| entry.get::<i64>().copied().ok());
    println!("tally {:?}, ledger {:?}", sum("tally.sum"), sum("ledger.sum"));
    assert_eq!((sum("tally.sum"), sum("ledger.sum")), (Some(12), Some(5)));

    let letters = runtime.reader().facts(FactKind::DeadLetter, Some(&Name::new("tally")?)).await?;
    let letter = letters[0].value.as_deref().ok_or("a letter has a value")?;
    println!("dead letter: {letter}");
    assert!(letters.len() == 1 && letter.contains("an entry of zero"));

    runtime.stop(Duration::from_secs(10)).await?;
    Ok(())
}
