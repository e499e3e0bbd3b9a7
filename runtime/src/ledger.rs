//! Calls to the outside, each with a committed intent and a committed result.
//!
//! An acting agent's call is three things in the store: an intent, the call itself, a result. Both facts go
//! as numbered steps of the agent's team, so a superseded incarnation cannot write them. A result is given
//! back without calling again; an intent without a result is [`EffectError::Unknown`].

use std::{future::Future, sync::Arc};

use atra_bus::{EventId, Name, PayloadError, cut_text, encode, round_trip};
use atra_storage::{FactKind, FactWrite, Read, Rejected, StoreError};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Value, value::RawValue};

use crate::{AgentError, KEY_BYTES_MAX, team::StepSender};

/// Why a call to the outside gave no result.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EffectError {
    /// Only acting agents may call out.
    #[error("agent {0} is not declared as acting: add acting() to its spec")]
    NotActing(Name),
    /// An earlier try was interrupted after its intent was committed: it may or may not have happened.
    #[error("outcome of effect {name:?} with key {key} is unknown: ask the outside, then resolve_effect")]
    Unknown {
        /// The effect's name.
        name: String,
        /// The idempotency key that was sent along.
        key: String,
    },
    /// The call itself said that it failed; nothing is recorded, and it may be tried again.
    #[error("effect {name:?} failed: {cause}")]
    Failed {
        /// The effect's name.
        name: String,
        /// What the call said.
        cause: AgentError,
    },
    /// In a replay: no result is recorded, and nothing is called.
    #[error("effect {name:?} with key {key} has no recorded result: a replay calls nobody")]
    NotRecorded {
        /// The effect's name.
        name: String,
        /// Its idempotency key.
        key: String,
    },
    /// The result cannot be stored and decoded unchanged. If the call was made, its intent stays: the outcome is
    /// [`EffectError::Unknown`] from now on, until [`Context::resolve_effect`](crate::Context::resolve_effect).
    #[error("result of effect {name:?} with key {key} cannot be recorded, its outcome stays unknown: {cause}")]
    NotStorable {
        /// The effect's name.
        name: String,
        /// The idempotency key that was sent along.
        key: String,
        /// What is wrong with the result.
        cause: PayloadError,
    },
    /// The result is above the limit of a fact. If the call was made, its intent stays, as with
    /// [`EffectError::NotStorable`].
    #[error(
        "result of effect {name:?} with key {key} has {bytes} bytes, above the limit of {limit} (event_bytes_max), its \
         outcome stays unknown: return a smaller one, with a reference to the rest"
    )]
    ResultTooLarge {
        /// The effect's name.
        name: String,
        /// The idempotency key that was sent along.
        key: String,
        /// Measured.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// The effect's name is too long to be stored. Nothing was called.
    #[error("name of an effect has {bytes} bytes, above the limit of {KEY_BYTES_MAX}")]
    NameTooLong {
        /// Measured.
        bytes: usize,
    },
    /// Intent or result could not be committed.
    #[error("effect {name:?} could not be recorded")]
    Store {
        /// The effect's name.
        name: String,
        /// What the storage said.
        #[source]
        source: Rejected,
    },
    /// The record of an earlier try could not be read.
    #[error("record of effect {name:?} could not be read")]
    Read {
        /// The effect's name.
        name: String,
        /// What the store said.
        #[source]
        source: StoreError,
    },
    /// The recorded or given result is not of the type asked for.
    #[error("result of effect {name:?} has another shape: {cause}")]
    Shape {
        /// The effect's name.
        name: String,
        /// What the decoder said.
        cause: String,
    },
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Record {
    Intent,
    /// Stored as text, so that the nesting of the value does not count.
    Result(Box<RawValue>),
}

/// A recorded result, as it is stored.
fn result_record(json: &str) -> Arc<str> {
    ["{\"result\":", json, "}"].concat().into()
}

/// A call to the outside, as a model of the outside sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelCall {
    /// Who calls.
    pub agent: Name,
    /// The effect's name.
    pub name: String,
    /// The idempotency key that is sent along.
    pub key: String,
}

/// What stands for the outside in a simulation: answers with what the call would have given.
pub(crate) type Model = Arc<dyn Fn(&ModelCall) -> Result<Value, AgentError> + Send + Sync>;

/// The effects of one acting agent.
pub(crate) struct EffectLedger {
    agent: Name,
    /// Asked instead of the outside.
    model: Option<Model>,
    /// `None` in a replay: recorded results are given back, nothing is called or written.
    steps: Option<Arc<StepSender>>,
    reader: Arc<dyn Read>,
    /// The most bytes of a result.
    result_bytes_max: usize,
}

impl EffectLedger {
    pub(crate) fn new(
        agent: Name,
        steps: Arc<StepSender>,
        reader: Arc<dyn Read>,
        model: Option<Model>,
        result_bytes_max: usize,
    ) -> Self {
        Self { agent, model, steps: Some(steps), reader, result_bytes_max }
    }

    /// A ledger that knows what is recorded and never calls.
    pub(crate) fn recorded_only(agent: Name, reader: Arc<dyn Read>) -> Self {
        Self { agent, model: None, steps: None, reader, result_bytes_max: usize::MAX }
    }

    pub(crate) async fn call<T, F, Fut>(&self, event: EventId, name: &str, call: F) -> Result<T, EffectError>
    where
        T: Serialize + DeserializeOwned + Send,
        F: FnOnce(String) -> Fut + Send,
        Fut: Future<Output = Result<T, AgentError>> + Send,
    {
        let key = key_of(event, name)?;
        match self.recorded(&key, name).await? {
            Some(Record::Result(json)) => return serde_json::from_str(json.get()).map_err(|error| shape(name, &error)),
            Some(Record::Intent) => return Err(EffectError::Unknown { name: name.into(), key }),
            None if self.steps.is_none() => return Err(EffectError::NotRecorded { name: name.into(), key }),
            None => {}
        }
        self.write(name, &key, Some(atra_storage::OPEN_EFFECT.into())).await?;
        let called = match &self.model {
            None => call(key.clone()).await,
            Some(model) => {
                let (agent, name) = (self.agent.clone(), name.to_owned());
                let answer = model(&ModelCall { agent, name, key: key.clone() });
                answer.and_then(|value| Ok(serde_json::from_value(value)?))
            }
        };
        match called {
            Ok(result) => {
                // Returned as it is recorded, so that a repeated turn gets the same value. If it cannot be recorded,
                // the intent stays, so that the call is not repeated unnoticed.
                let (json, result) = round_trip(&result).map_err(|cause| not_storable(name, &key, cause))?;
                self.record(name, &key, &json).await?;
                Ok(result)
            }
            Err(cause) => {
                self.write(name, &key, None).await?;
                Err(EffectError::Failed { name: name.into(), cause })
            }
        }
    }

    pub(crate) async fn resolve<T: Serialize>(
        &self,
        event: EventId,
        name: &str,
        result: &T,
    ) -> Result<(), EffectError> {
        let key = key_of(event, name)?;
        let json = encode(result).map_err(|cause| not_storable(name, &key, cause))?;
        self.record(name, &key, &json).await
    }

    async fn record(&self, name: &str, key: &str, json: &str) -> Result<(), EffectError> {
        let (bytes, limit) = (json.len(), self.result_bytes_max);
        if bytes > limit {
            return Err(EffectError::ResultTooLarge { name: name.into(), key: key.into(), bytes, limit });
        }
        self.write(name, key, Some(result_record(json))).await
    }

    async fn recorded(&self, key: &str, name: &str) -> Result<Option<Record>, EffectError> {
        let found = self.reader.fact(FactKind::Result, &self.agent, key).await;
        let row = found.map_err(|source| EffectError::Read { name: name.into(), source })?;
        let Some(json) = row.and_then(|row| row.value) else { return Ok(None) };
        serde_json::from_str(&json).map(Some).map_err(|error| shape(name, &error))
    }

    async fn write(&self, name: &str, key: &str, value: Option<Arc<str>>) -> Result<(), EffectError> {
        let Some(steps) = &self.steps else { return Ok(()) };
        let fact = FactWrite { kind: FactKind::Result, owner: self.agent.clone(), key: key.into(), value };
        let store = |source| EffectError::Store { name: name.into(), source };
        steps.send_facts(vec![fact]).await.map_err(store)
    }
}

/// Derived from the handled event's id, so that every try sends the same.
fn key_of(event: EventId, name: &str) -> Result<String, EffectError> {
    if name.len() > KEY_BYTES_MAX {
        return Err(EffectError::NameTooLong { bytes: name.len() });
    }
    Ok(format!("{event}.{name}"))
}

fn not_storable(name: &str, key: &str, cause: PayloadError) -> EffectError {
    EffectError::NotStorable { name: name.into(), key: key.into(), cause }
}

fn shape(name: &str, error: &serde_json::Error) -> EffectError {
    EffectError::Shape {
        name: name.into(),
        cause: cut_text(&error.to_string(), atra_bus::ERROR_BYTES_MAX).into_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Retention keeps the events of open effects, and the storage knows them by this value.
    #[test]
    fn an_intent_and_a_result_are_read_as_they_are_stored() {
        let read = |json: &str| serde_json::from_str::<Record>(json).expect("a record");
        assert!(matches!(read(atra_storage::OPEN_EFFECT), Record::Intent));
        assert!(matches!(read(&result_record("[1]")), Record::Result(json) if json.get() == "[1]"));
    }
}
