//! JSON of candles: rows as arrays or as objects, columns as arrays, one value or one a line, bare or in an envelope.
//!
//! Numbers are taken as they are written, quoted or not, so they are as exact as in a CSV file.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::layout::{self, COLUMNS_MAX};
use super::rows::Rows;
use super::{Import, ImportError, ImportOptions, PROGRESS_ROWS, Progress};

/// Envelopes within envelopes: `{"data": {"candles": [...]}}`.
const DEPTH_MAX: usize = 4;

/// The entries of an object, in the file's order.
struct Entries<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

/// Keys of an object that are looked at: far more than a row or an envelope has, and few to look through for each row.
const KEYS_MAX: usize = 1_024;

impl<'de: 'a, 'a> Deserialize<'de> for Entries<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Entries<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries<'de>, A::Error> {
                let mut entries = Vec::new();
                while let Some(key) = map.next_key::<Name<'de>>()? {
                    if entries.len() >= KEYS_MAX {
                        return Err(serde::de::Error::custom(format!("an object has more than {KEYS_MAX} keys")));
                    }
                    entries.push((key.0, map.next_value()?));
                }
                Ok(Entries(entries))
            }
        }
        deserializer.deserialize_map(Object)
    }
}

/// The values of an array, up to a limit.
struct Values(usize);

impl<'de> DeserializeSeed<'de> for Values {
    type Value = Vec<&'de RawValue>;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Values {
    type Value = Vec<&'de RawValue>;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array")
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Self::Value, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = sequence.next_element()? {
            if values.len() >= self.0 {
                return Err(serde::de::Error::custom(format!("an array has more than {} values", self.0)));
            }
            values.push(value);
        }
        Ok(values)
    }
}

/// The values of an array of rows, or of a column of them.
fn rows_of<'a>(raw: &'a RawValue, options: &ImportOptions) -> Result<Vec<&'a RawValue>, ImportError> {
    let mut deserializer = serde_json::Deserializer::from_str(raw.get());
    Values(options.candles_max).deserialize(&mut deserializer).map_err(damaged)
}

/// A key, borrowed where it has no escapes.
#[derive(serde::Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

fn damaged(why: impl fmt::Display) -> ImportError {
    ImportError::Damaged { what: "JSON", why: why.to_string() }
}

/// The text of a number or of a quoted one.
fn field<'a>(raw: &&'a RawValue) -> &'a [u8] {
    let text = raw.get().trim();
    text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text).as_bytes()
}

/// The values of a row; none for one that is no array, which is refused for its want of columns.
fn array<'a>(row: &&'a RawValue) -> Vec<&'a RawValue> {
    let mut deserializer = serde_json::Deserializer::from_str(row.get());
    Values(KEYS_MAX).deserialize(&mut deserializer).unwrap_or_default()
}

/// Imports JSON.
pub(super) fn import(
    bytes: &[u8],
    options: &ImportOptions,
    progress: &mut dyn FnMut(Progress),
) -> Result<Import, ImportError> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let mut values: Vec<&RawValue> = Vec::new();
    for value in serde_json::Deserializer::from_slice(bytes).into_iter() {
        if values.len() >= options.candles_max {
            return Err(ImportError::TooManyCandles { limit: options.candles_max });
        }
        values.push(value.map_err(damaged)?);
    }
    match values[..] {
        [one] => import_value(one, options, progress, 0),
        // A value a line.
        _ => import_rows(&values, options, progress),
    }
}

fn import_value(
    value: &RawValue,
    options: &ImportOptions,
    progress: &mut dyn FnMut(Progress),
    depth: usize,
) -> Result<Import, ImportError> {
    let text = value.get();
    if text.starts_with('[') {
        return import_rows(&rows_of(value, options)?, options, progress);
    }
    let Entries(entries) = serde_json::from_str(text).map_err(damaged)?;
    let arrays = entries.iter().filter(|(_, value)| value.get().starts_with('['));
    if arrays.count() >= 5 {
        return import_columns(&entries, options, progress);
    }
    // The greatest part of an envelope is what it is sent for.
    let inner = entries.iter().map(|(_, value)| *value).filter(|value| value.get().starts_with(['[', '{']));
    match inner.max_by_key(|value| value.get().len()).filter(|_| depth < DEPTH_MAX) {
        Some(inner) => import_value(inner, options, progress, depth + 1),
        None => Err(damaged("no array of candles in it")),
    }
}

fn import_rows(
    rows: &[&RawValue],
    options: &ImportOptions,
    progress: &mut dyn FnMut(Progress),
) -> Result<Import, ImportError> {
    let Some(first) = rows.first() else { return Err(ImportError::Empty { rows: 0 }) };
    let names: Option<Vec<String>> = if first.get().starts_with('{') {
        let Entries(entries) = serde_json::from_str(first.get()).map_err(damaged)?;
        Some(entries.into_iter().map(|(name, _)| name.into_owned()).collect())
    } else {
        None
    };
    let number = |raw: &&RawValue| std::str::from_utf8(field(raw)).ok().and_then(|text| text.parse::<f64>().ok());
    let layout = match &names {
        Some(names) => layout::of_names(names, &options.map)?,
        None => {
            let sample = rows.iter().map(|row| array(row).iter().map(number).collect());
            layout::of_rows(sample, &options.map)?
        }
    };
    let mut taken = Rows::new(options, layout, rows.len());
    for (place, row) in rows.iter().enumerate() {
        let mut fields = [&[][..]; COLUMNS_MAX];
        let count = match &names {
            None => {
                let values = array(row);
                fields.iter_mut().zip(&values).for_each(|(slot, raw)| *slot = field(raw));
                values.len()
            }
            Some(names) => {
                // By name: not every writer keeps the order, or writes every key.
                let Entries(entries) = serde_json::from_str(row.get()).unwrap_or(Entries(Vec::new()));
                for (index, (slot, name)) in fields.iter_mut().zip(names).enumerate() {
                    let same = entries.get(index).filter(|(key, _)| key == name);
                    let value = same.or_else(|| entries.iter().find(|(key, _)| key == name));
                    *slot = value.map_or(&[], |(_, raw)| field(raw));
                }
                if entries.is_empty() { 0 } else { names.len() }
            }
        };
        taken.fields(place + 1, &fields, count.min(COLUMNS_MAX))?;
        if place.is_multiple_of(PROGRESS_ROWS) {
            progress(Progress { bytes: place, bytes_total: rows.len(), rows: place });
        }
    }
    progress(Progress { bytes: rows.len(), bytes_total: rows.len(), rows: rows.len() });
    taken.finish()
}

fn import_columns(
    entries: &[(Cow<'_, str>, &RawValue)],
    options: &ImportOptions,
    progress: &mut dyn FnMut(Progress),
) -> Result<Import, ImportError> {
    let arrays = entries.iter().filter(|(_, value)| value.get().starts_with('[')).take(COLUMNS_MAX);
    let (mut names, mut columns) = (Vec::new(), Vec::new());
    for (name, value) in arrays {
        names.push(name.clone().into_owned());
        columns.push(rows_of(value, options)?);
    }
    let layout = layout::of_names(&names, &options.map)?;
    let n_rows = columns.iter().map(Vec::len).max().unwrap_or(0);
    let mut taken = Rows::new(options, layout, n_rows);
    for place in 0..n_rows {
        let mut fields = [&[][..]; COLUMNS_MAX];
        for (slot, column) in fields.iter_mut().zip(&columns) {
            *slot = column.get(place).map_or(&[], field);
        }
        taken.fields(place + 1, &fields, columns.len())?;
    }
    progress(Progress { bytes: n_rows, bytes_total: n_rows, rows: n_rows });
    taken.finish()
}
