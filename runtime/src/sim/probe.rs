//! An agent of a simulation: the developer's own, unchanged, watched and now and then made to fail.

use std::time::Duration;

use async_trait::async_trait;
use atra_bus::{Event, Name};
use futures::StreamExt as _;
use serde_json::Value;

use super::{
    audit::{Audit, Invariant},
    engine::mix,
    faults::{FaultClass, Faults},
};
use crate::{Agent, AgentError, AgentSpec, Context, Offsets, Query, Source, SourceItem, StateReader, StateWriter};

/// One turn in so many reads a key of somebody else's, to compare it with the journal.
const READ_EVERY: u64 = 8;

pub(crate) struct Probe {
    pub(crate) inner: Box<dyn Agent>,
    pub(crate) name: Name,
    pub(crate) audit: Audit,
    pub(crate) faults: Faults,
}

/// Compares a read of somebody else's key with what the journal says.
async fn read_as_of(name: &Name, audit: &Audit, event: &Event, cx: &Context<'_>) {
    let draw = mix(event.id.seed(), super::engine::hash_text(name.as_str()));
    if !draw.is_multiple_of(READ_EVERY) {
        return;
    }
    let at = cx.input.position;
    let Some((key, expected)) = audit.sample(name, draw >> 8, at) else { return };
    if let Ok(entry) = cx.entry(&key).await {
        let found = entry.map(|entry| entry.revision);
        audit.check(Invariant::AsOf, found == expected, &key, || {
            format!("{name} read the write of {found:?} as of {at}, the journal says {expected:?}")
        });
    }
}

async fn fail(class: FaultClass, draw: u64) -> Result<(), AgentError> {
    match class {
        // Past the panic hook: it is planned, nobody has to read of it.
        FaultClass::AgentPanic => std::panic::resume_unwind(Box::new("planned panic")),
        FaultClass::AgentError => Err(AgentError::new("planned error")),
        FaultClass::AgentHang => std::future::pending().await,
        _ => {
            tokio::time::sleep(Duration::from_millis(draw % 5_000)).await;
            Ok(())
        }
    }
}

#[async_trait]
impl Agent for Probe {
    fn spec(&self) -> AgentSpec {
        self.inner.spec()
    }

    async fn start(&mut self, state: &StateReader<'_>) -> Result<(), AgentError> {
        self.audit.started(&self.name);
        self.inner.start(state).await
    }

    async fn handle(&mut self, event: &Event, cx: &mut Context<'_>) -> Result<(), AgentError> {
        self.audit.turn(&self.name, event, cx.input.position);
        let fault = self.faults.turn(&event.source, event.id, &self.name);
        if let Some((class, _)) = fault
            && class != FaultClass::AgentSlow
        {
            self.audit.failed(&self.name, event);
        }
        let (before, after) = match fault {
            Some((_, draw)) if draw & 1 == 0 => (fault, None),
            fault => (None, fault),
        };
        if let Some((class, draw)) = before {
            fail(class, draw >> 1).await?;
        }
        read_as_of(&self.name, &self.audit, event, cx).await;
        let handled = self.inner.handle(event, cx).await;
        if handled.is_err() {
            self.audit.failed(&self.name, event);
        }
        handled?;
        match after {
            // What it decided so far must leave no trace.
            Some((class, draw)) => fail(class, draw >> 1).await,
            None => Ok(()),
        }
    }

    fn source(&self, offsets: &Offsets) -> Option<Source> {
        let (faults, name) = (self.faults.clone(), self.name.clone());
        let items = self.inner.source(offsets)?.map(move |item| {
            let place = match &item {
                Ok(SourceItem::Input { partition, offset, .. }) => format!("{partition} {offset}"),
                _ => return Some(item),
            };
            match faults.input(&name, &place) {
                None => Some(item),
                Some(true) => Some(Err(AgentError::new("planned error of the source"))),
                Some(false) => None,
            }
        });
        Some(Box::pin(items.take_while(|item| std::future::ready(item.is_some())).filter_map(std::future::ready)))
    }

    fn save(&mut self, state: &mut StateWriter<'_>) -> Result<(), AgentError> {
        self.inner.save(state)
    }

    fn query(&self, query: &Query) -> Result<Value, AgentError> {
        self.inner.query(query)
    }
}
