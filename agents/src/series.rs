//! State per series: ordered, and written only where it changed.

use std::collections::BTreeMap;

use atra_runtime::{AgentError, StateReader, StateWriter};
use serde::{Serialize, de::DeserializeOwned};

use crate::market::candle::SeriesKey;

/// What comes before the series' name in the key of its state.
const PREFIX: &str = "series.";

struct Slot<T> {
    value: T,
    is_changed: bool,
}

/// A value for each series, in the order of their names.
pub(crate) struct PerSeries<T>(BTreeMap<SeriesKey, Slot<T>>);

impl<T> Default for PerSeries<T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<T> PerSeries<T> {
    pub(crate) fn get(&self, series: &SeriesKey) -> Option<&T> {
        self.0.get(series).map(|slot| &slot.value)
    }

    /// The value to be changed; counts as changed from then on.
    pub(crate) fn get_mut(&mut self, series: &SeriesKey) -> Option<&mut T> {
        let slot = self.0.get_mut(series)?;
        slot.is_changed = true;
        Some(&mut slot.value)
    }

    /// The value to be changed, made first if there is none.
    pub(crate) fn entry(&mut self, series: &SeriesKey, make: impl FnOnce() -> T) -> &mut T {
        if !self.0.contains_key(series) {
            self.0.insert(series.clone(), Slot { value: make(), is_changed: true });
        }
        match self.get_mut(series) {
            Some(value) => value,
            None => unreachable!("{series} was inserted just now"),
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&SeriesKey, &T)> {
        self.0.iter().map(|(series, slot)| (series, &slot.value))
    }

    /// Every value to be changed; all count as changed.
    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (&SeriesKey, &mut T)> {
        self.0.iter_mut().map(|(series, slot)| {
            slot.is_changed = true;
            (series, &mut slot.value)
        })
    }

    /// Takes which values changed since the last call, with the key of each.
    pub(crate) fn changed(&mut self) -> impl Iterator<Item = (String, &mut T)> {
        self.0.iter_mut().filter_map(|(series, slot)| {
            let is_changed = std::mem::take(&mut slot.is_changed);
            is_changed.then(|| (format!("{PREFIX}{series}"), &mut slot.value))
        })
    }
}

impl<T: Serialize + DeserializeOwned> PerSeries<T> {
    pub(crate) fn load(state: &StateReader<'_>) -> Result<Self, AgentError> {
        let mut loaded = BTreeMap::new();
        for (key, value) in state.list::<T>(PREFIX)? {
            loaded.insert(key[PREFIX.len()..].parse()?, Slot { value, is_changed: false });
        }
        Ok(Self(loaded))
    }

    pub(crate) fn save(&mut self, state: &mut StateWriter<'_>) -> Result<(), AgentError> {
        self.changed().try_for_each(|(key, value)| state.put(&key, &*value))
    }
}
