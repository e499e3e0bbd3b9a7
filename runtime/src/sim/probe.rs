//! An agent of a simulation: the developer's own, unchanged, watched and now and then made to fail.

use std::time::Duration;

use async_trait::async_trait;
use atra_bus::{Event, Name};
use futures::StreamExt as _;
use serde_json::Value;

use super::{
    audit::Audit,
    engine::mix,
    faults::{FaultClass, Faults},
    invariant::Invariant,
};
use crate::{Agent, AgentError, AgentSpec, Context, Offsets, Query, Source, SourceItem, StateReader, StateWriter};

/// One turn in so many reads a key of somebody else's, to compare it with the journal.
const READ_EVERY: u64 = 8;

pub(crate) struct Probe {
    pub(crate) inner: Box<dyn Agent>,
    pub(crate) seat: Seat,
    pub(crate) faults: Faults,
}

/// Who it is.
#[derive(Clone)]
pub(crate) struct Seat {
    pub(crate) name: Name,
    /// Where it stands in the account.
    pub(crate) place: usize,
    /// Of its name.
    pub(crate) key: u64,
    pub(crate) audit: Audit,
}

impl Seat {
    /// Compares a read of somebody else's key with what the journal says.
    async fn read_as_of(&self, event: &Event, cx: &Context<'_>) {
        let draw = mix(event.id.seed(), self.key);
        if !draw.is_multiple_of(READ_EVERY) {
            return;
        }
        let at = cx.input.position;
        let Some((key, expected)) = self.audit.sample(self.place, draw >> 8, at) else { return };
        if let Ok(entry) = cx.entry(&key).await {
            let found = entry.map(|entry| entry.revision);
            self.audit.check(Invariant::AsOf, found == expected, &key, || {
                format!("{} read the write of {found:?} as of {at}, the journal says {expected:?}", self.name)
            });
        }
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
        self.seat.audit.started(self.seat.place);
        self.inner.start(state).await
    }

    async fn handle(&mut self, event: &Event, cx: &mut Context<'_>) -> Result<(), AgentError> {
        self.seat.audit.turn(self.seat.place, event, cx.input.position);
        let fault = self.faults.turn(event, &self.seat.name, self.seat.key);
        if let Some((class, _)) = fault
            && class != FaultClass::AgentSlow
        {
            self.seat.audit.failed(self.seat.place, event);
        }
        let (before, after) = match fault {
            Some((_, draw)) if draw & 1 == 0 => (fault, None),
            fault => (None, fault),
        };
        if let Some((class, draw)) = before {
            fail(class, draw >> 1).await?;
        }
        self.seat.read_as_of(event, cx).await;
        let handled = self.inner.handle(event, cx).await;
        if handled.is_err() {
            self.seat.audit.failed(self.seat.place, event);
        }
        handled?;
        match after {
            // What it decided so far must leave no trace.
            Some((class, draw)) => fail(class, draw >> 1).await,
            None => Ok(()),
        }
    }

    fn source(&self, offsets: &Offsets) -> Option<Source> {
        let (faults, name) = (self.faults.clone(), self.seat.name.clone());
        let items = self.inner.source(offsets)?.map(move |item| {
            let Ok(SourceItem::Input { partition, offset, .. }) = &item else { return Some(item) };
            match faults.input(&name, || format!("{partition} {offset}")) {
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
