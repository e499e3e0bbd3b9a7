//! An agent that touches the outside world, killed at the worst moment: between its call and the record of it.
//!
//! What to notice:
//! - `effect` commits the intent, makes the call, commits the result. A repeated turn is given the recorded
//!   result and does not call again.
//! - Killed in between, the outcome is *unknown*; the runtime says so and never repeats the call by itself.
//! - The idempotency key derives from the event's id: the same at every try, and what to ask the outside by.

use std::{
    collections::BTreeSet,
    error::Error,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use atra::{StartError, prelude::*, runtime::EffectError};
use tokio::sync::Notify;

const ORDER: Topic = Topic::literal("shop.order");
const PAID: Topic = Topic::literal("shop.paid");

/// The outside: a bank that keeps the keys of its payments, and answers slowly the first time.
#[derive(Default)]
struct Bank {
    payments: Mutex<Vec<String>>,
    called: Notify,
}

impl Bank {
    fn has(&self, key: &str) -> bool {
        self.payments.lock().unwrap_or_else(PoisonError::into_inner).iter().any(|paid| paid == key)
    }

    async fn pay(&self, key: String) -> Result<String, AgentError> {
        self.payments.lock().unwrap_or_else(PoisonError::into_inner).push(key);
        self.called.notify_one();
        // The money has moved, the answer never comes: here the process will be killed.
        std::future::pending().await
    }
}

struct Payer(Arc<Bank>);

#[atra::async_trait]
impl Agent for Payer {
    fn spec(&self) -> AgentSpec {
        AgentSpec::new("payer").acting().subscribes("shop.order").publishes_on("shop.paid", true)
    }

    async fn handle(&mut self, _event: &Event, cx: &mut Context<'_>) -> Result<(), AgentError> {
        let bank = self.0.clone();
        let receipt = match cx.effect("pay", |key| async move { bank.pay(key).await }).await {
            Err(EffectError::Unknown { key, .. }) => {
                println!("an earlier payment is in doubt, asking the bank by {key}");
                let receipt = if self.0.has(&key) { "paid" } else { "not paid" }.to_owned();
                cx.resolve_effect("pay", &receipt).await?;
                receipt
            }
            other => other?,
        };
        cx.publish(Draft::new(PAID, receipt))?;
        Ok(())
    }
}

async fn start(disk: &MemoryDisk, bank: &Arc<Bank>) -> Result<Runtime, StartError> {
    let bank = bank.clone();
    let team = Team::of(move || Payer(bank.clone()));
    RuntimeBuilder::new(MemoryStore::on(disk)).team(team).start().await
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let (disk, bank) = (MemoryDisk::new(), Arc::new(Bank::default()));

    let runtime = start(&disk, &bank).await?;
    let order = runtime.publish(Draft::new(ORDER, "a book")).await?;
    bank.called.notified().await;
    // Dropping the last handle ends everything at once, as a kill would; the disk stays.
    drop(runtime);

    let runtime = start(&disk, &bank).await?;
    runtime.settled(order.seq).await?;
    let effects = runtime.reader().effects_of(order.seq, 10).await?;
    assert_eq!(effects.len(), 1);
    assert_eq!(effects[0].event.get::<String>()?, "paid");
    let payments: Vec<_> = bank.payments.lock().unwrap_or_else(PoisonError::into_inner).clone();
    println!("the bank was called {} time(s)", payments.len());
    assert_eq!(payments.len(), payments.iter().collect::<BTreeSet<_>>().len());
    assert_eq!(payments.len(), 1);
    runtime.stop(Duration::from_secs(10)).await?;
    Ok(())
}
