//! The smallest agent: it hears a greeting and answers.
//!
//! What to notice:
//! - An event is a serialisable type with a topic; the agent's spec says which it handles and publishes.
//! - `publish` answers once the event is committed, with its place in the journal (`seq`).
//! - `settled` waits until everything that the event caused is done, so nothing here sleeps or guesses.

use std::{error::Error, time::Duration};

use atra::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Greeting {
    name: String,
}
impl EventType for Greeting {
    const TOPIC: Topic = Topic::literal("hello.greeting");
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Answer {
    text: String,
}
impl EventType for Answer {
    const TOPIC: Topic = Topic::literal("hello.answer");
}

struct Greeter;

#[atra::async_trait]
impl Agent for Greeter {
    fn spec(&self) -> AgentSpec {
        AgentSpec::new("greeter").handles::<Greeting>().publishes::<Answer>()
    }

    async fn handle(&mut self, event: &Event, cx: &mut Context<'_>) -> Result<(), AgentError> {
        let greeting = event.get::<Greeting>()?;
        cx.publish(Answer { text: format!("hello, {}", greeting.name) })?;
        Ok(())
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    // A team of one. The factory makes a fresh instance at the start and after every failure.
    let runtime = RuntimeBuilder::new(MemoryStore::new()).team(Team::of(|| Greeter)).start().await?;

    let published = runtime.publish(Greeting { name: "Ada".into() }).await?;
    runtime.settled(published.seq).await?;

    let mut answers = runtime.subscribe(vec![Filter::exactly(&Answer::TOPIC)], published.seq);
    let answer = answers.next().await.ok_or("the bus was closed")??;
    println!("seq {}: {:?}", answer.seq, answer.event.get::<Answer>()?);
    assert_eq!(answer.event.get::<Answer>()?.text, "hello, Ada");
    // Where it came from is part of the event.
    assert_eq!(answer.event.cause, Some(published.id));

    runtime.stop(Duration::from_secs(10)).await?;
    Ok(())
}
