//! Strategies that a program brings along: any [`Strategy`] that serialises.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::DeserializeOwned};
use serde_json::Value;

use super::super::candle::Candle;
use super::{Decision, Strategy};

/// A strategy behind a pointer, with its state in and out. Every [`Strategy`] that serialises is one.
pub trait OwnStrategy: Send + Sync {
    /// See [`Strategy::update`].
    fn decide(&mut self, candle: &Candle) -> Option<Decision>;
    /// Its state.
    ///
    /// # Errors
    /// What its `Serialize` says.
    fn save(&self) -> Result<Value, serde_json::Error>;
    /// Takes a state that was saved.
    ///
    /// # Errors
    /// What its `Deserialize` says.
    fn restore(&mut self, state: Value) -> Result<(), serde_json::Error>;
}

impl<T: Strategy + Serialize + DeserializeOwned + Send + Sync> OwnStrategy for T {
    fn decide(&mut self, candle: &Candle) -> Option<Decision> {
        self.update(candle)
    }

    fn save(&self) -> Result<Value, serde_json::Error> {
        serde_json::to_value(self)
    }

    fn restore(&mut self, state: Value) -> Result<(), serde_json::Error> {
        *self = serde_json::from_value(state)?;
        Ok(())
    }
}

/// Makes somebody's own strategy for a series, with nothing seen yet. Cheap to clone.
#[derive(Clone)]
pub struct Maker(Arc<dyn Fn() -> Box<dyn OwnStrategy> + Send + Sync>);

impl Maker {
    /// What `make` makes, once for each series.
    pub fn new<S: OwnStrategy + 'static>(make: impl Fn() -> S + Send + Sync + 'static) -> Self {
        Self(Arc::new(move || Box::new(make())))
    }
}

impl fmt::Debug for Maker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Maker")
    }
}

/// An own strategy of a series: what was saved, until the first candle wakes it.
pub(crate) enum Own {
    Saved(Value),
    Live(Box<dyn OwnStrategy>),
}

impl Own {
    /// Nothing seen yet.
    pub(crate) fn new(maker: &Maker) -> Self {
        Self::Live((maker.0)())
    }

    /// Takes the next candle.
    pub(crate) fn update(&mut self, candle: &Candle, maker: &Maker) -> Result<Option<Decision>, serde_json::Error> {
        loop {
            match self {
                Self::Live(strategy) => return Ok(strategy.decide(candle)),
                Self::Saved(state) => {
                    let mut strategy = (maker.0)();
                    strategy.restore(state.take())?;
                    *self = Self::Live(strategy);
                }
            }
        }
    }
}

impl fmt::Debug for Own {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Own")
    }
}

impl Serialize for Own {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Saved(state) => state.serialize(serializer),
            Self::Live(strategy) => strategy.save().map_err(serde::ser::Error::custom)?.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Own {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Value::deserialize(deserializer).map(Self::Saved)
    }
}
