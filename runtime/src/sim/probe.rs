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
    pub(crate) turn_timeout: Duration,
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

/// A turn under way. One that is dropped before it has ended has failed, by a panic or because it took too long; or its
/// process died meanwhile, which is nobody's failure.
struct Attempt<'a> {
    seat: &'a Seat,
    event: &'a Event,
    began_ms: u64,
    /// Whether what goes wrong now was planned.
    is_planned: bool,
    has_ended: bool,
}

impl Attempt<'_> {
    /// What is planned for this turn.
    async fn fail(&mut self, class: FaultClass, draw: u64) -> Result<(), AgentError> {
        self.is_planned = class != FaultClass::AgentSlow;
        match class {
            // Past the panic hook: it is planned, nobody has to read of it.
            FaultClass::AgentPanic => std::panic::resume_unwind(Box::new("planned panic")),
            FaultClass::AgentError => {
                self.end();
                Err(AgentError::new("planned error"))
            }
            FaultClass::AgentHang => std::future::pending().await,
            _ => {
                tokio::time::sleep(Duration::from_millis(draw % 5_000)).await;
                Ok(())
            }
        }
    }

    /// It ended with an error.
    fn end(&mut self) {
        self.has_ended = true;
        self.seat.audit.failed(self.seat.place, self.event, self.is_planned);
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        let Self { seat, event, began_ms, is_planned, has_ended } = *self;
        let is_late = || Duration::from_millis(seat.audit.now_ms() - began_ms) >= seat.turn_timeout;
        if !has_ended && (std::thread::panicking() || is_late()) {
            seat.audit.failed(seat.place, event, is_planned);
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
        let seat = &self.seat;
        let fault = self.faults.turn(event, &seat.name, seat.key);
        let mut attempt = Attempt { seat, event, began_ms: seat.audit.now_ms(), is_planned: false, has_ended: false };
        let (before, after) = match fault {
            Some((_, draw)) if draw & 1 == 0 => (fault, None),
            fault => (None, fault),
        };
        if let Some((class, draw)) = before {
            attempt.fail(class, draw >> 1).await?;
        }
        seat.read_as_of(event, cx).await;
        let handled = self.inner.handle(event, cx).await;
        if handled.is_err() {
            attempt.end();
        }
        handled?;
        if let Some((class, draw)) = after {
            // What it decided so far must leave no trace.
            attempt.fail(class, draw >> 1).await?;
        }
        attempt.has_ended = true;
        Ok(())
    }

    fn source(&self, offsets: &Offsets) -> Option<Source> {
        let (faults, name) = (self.faults.clone(), self.seat.name.clone());
        let items = self.inner.source(offsets)?.filter_map(move |item| {
            let given = match &item {
                Ok(SourceItem::Input { partition, offset, .. }) => {
                    let key = format!("{partition} {offset}");
                    match faults.input(&name, &key) {
                        None => faults.gives(&name, &key).then_some(Some(item)),
                        Some(true) => Some(Some(Err(AgentError::new("planned error of the source")))),
                        Some(false) => Some(None),
                    }
                }
                _ => Some(Some(item)),
            };
            std::future::ready(given)
        });
        // `None` among them: it just ends there.
        Some(Box::pin(items.take_while(|item| std::future::ready(item.is_some())).filter_map(std::future::ready)))
    }

    fn save(&mut self, state: &mut StateWriter<'_>) -> Result<(), AgentError> {
        self.inner.save(state)
    }

    fn query(&self, query: &Query) -> Result<Value, AgentError> {
        self.inner.query(query)
    }
}
