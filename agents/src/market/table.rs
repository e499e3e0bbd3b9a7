//! Tables of results as CSV, JSON lines or Parquet: one column after the other, prices as exact as they are kept.

use std::fmt::Write;

use thiserror::Error;

use super::candle::{Candle, Scale, power_of_ten};
use super::fill::Trade;
use super::money::Terms;

/// A column's values.
#[derive(Debug, Clone, PartialEq)]
pub enum Column {
    /// Milliseconds UTC.
    Time(Vec<i64>),
    /// Integers of so many decimals: written exactly.
    Fixed(u8, Vec<i64>),
    /// Finite numbers; `None` is missing.
    Number(Vec<Option<f64>>),
    /// Texts.
    Text(Vec<String>),
}

impl Column {
    fn len(&self) -> usize {
        match self {
            Self::Time(values) | Self::Fixed(_, values) => values.len(),
            Self::Number(values) => values.len(),
            Self::Text(values) => values.len(),
        }
    }
}

/// Named columns of one length.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Table {
    columns: Vec<(String, Column)>,
}

/// Why a table cannot be written.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TableError {
    /// This build leaves Parquet out.
    #[error("this build leaves Parquet out: build it with the feature `columnar`, or write csv")]
    NoParquet,
    /// The Parquet library refused.
    #[error("Parquet cannot be written: {0}")]
    Parquet(String),
}

impl Table {
    /// Without columns.
    pub fn new() -> Self {
        Self::default()
    }

    /// The same table with a column more.
    ///
    /// # Panics
    /// If the column is not as long as the others: a bug of the caller.
    #[must_use]
    pub fn with(mut self, name: impl Into<String>, column: Column) -> Self {
        let name = name.into();
        assert!(self.columns.first().is_none_or(|(_, first)| first.len() == column.len()), "column {name} differs");
        self.columns.push((name, column));
        self
    }

    /// Rows.
    pub fn len(&self) -> usize {
        self.columns.first().map_or(0, |(_, column)| column.len())
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Candles as they were imported; importing them again changes nothing.
    pub fn of_candles(candles: &[Candle], scale: Scale) -> Self {
        let price = |of: fn(&Candle) -> i64| Column::Fixed(scale.price_decimals(), candles.iter().map(of).collect());
        let volume = candles.iter().map(|candle| candle.volume).collect();
        Self::new()
            .with("time", Column::Time(candles.iter().map(|candle| candle.time).collect()))
            .with("open", price(|candle| candle.open))
            .with("high", price(|candle| candle.high))
            .with("low", price(|candle| candle.low))
            .with("close", price(|candle| candle.close))
            .with("volume", Column::Fixed(scale.volume_decimals(), volume))
    }

    /// Trades in order, each at the terms of its series; with the series' names in front where there are several.
    pub fn of_trades(series: Option<Vec<String>>, trades: &[(Trade, Terms)]) -> Self {
        let number =
            |of: &dyn Fn(&(Trade, Terms)) -> f64| Column::Number(trades.iter().map(|row| Some(of(row))).collect());
        let time = |of: fn(&Trade) -> i64| Column::Time(trades.iter().map(|(trade, _)| of(trade)).collect());
        let text = |of: fn(&Trade) -> String| Column::Text(trades.iter().map(|(trade, _)| of(trade)).collect());
        series
            .map_or_else(Self::new, |names| Self::new().with("series", Column::Text(names)))
            .with("entry_time", time(|trade| trade.entry_time))
            .with("exit_time", time(|trade| trade.exit_time))
            .with("size", number(&|(trade, terms)| terms.quantity(trade.lots)))
            .with("entry_price", number(&|(trade, terms)| terms.price(trade.entry_price)))
            .with("exit_price", number(&|(trade, terms)| terms.price(trade.exit_price)))
            .with("profit", text(|trade| trade.profit.to_string()))
            .with("fee", text(|trade| trade.fee.to_string()))
            .with("return", number(&|(trade, _)| trade.return_share))
    }

    /// As CSV with a header; times in milliseconds, what is missing is empty.
    pub fn csv(&self) -> String {
        let mut text = String::new();
        let names: Vec<&str> = self.columns.iter().map(|(name, _)| name.as_str()).collect();
        text += &names.join(",");
        text.push('\n');
        for row in 0..self.len() {
            for (place, (_, column)) in self.columns.iter().enumerate() {
                if place > 0 {
                    text.push(',');
                }
                cell(&mut text, column, row, "");
            }
            text.push('\n');
        }
        text
    }

    /// As JSON, an object a line; what is missing is `null`.
    pub fn json_lines(&self) -> String {
        let mut text = String::new();
        for row in 0..self.len() {
            for (place, (name, column)) in self.columns.iter().enumerate() {
                text.push(if place == 0 { '{' } else { ',' });
                quoted(&mut text, name);
                text.push(':');
                match column {
                    Column::Text(values) => quoted(&mut text, &values[row]),
                    _ => cell(&mut text, column, row, "null"),
                }
            }
            text += "}\n";
        }
        text
    }

    /// As Parquet, packed with Snappy.
    ///
    /// # Errors
    /// [`TableError`].
    #[cfg(not(feature = "columnar"))]
    pub fn parquet(&self) -> Result<Vec<u8>, TableError> {
        Err(TableError::NoParquet)
    }

    /// As Parquet, packed with Snappy.
    ///
    /// # Errors
    /// [`TableError`].
    #[cfg(feature = "columnar")]
    pub fn parquet(&self) -> Result<Vec<u8>, TableError> {
        let packed = parquet::basic::Compression::SNAPPY;
        self.to_parquet(packed).map_err(|error| TableError::Parquet(error.to_string()))
    }

    #[cfg(feature = "columnar")]
    fn to_parquet(&self, packed: parquet::basic::Compression) -> Result<Vec<u8>, parquet::errors::ParquetError> {
        use std::sync::Arc;

        use parquet::basic::{LogicalType, Repetition, TimeUnit, Type as Physical};
        use parquet::data_type::{ByteArray, ByteArrayType, DoubleType, Int64Type};
        use parquet::file::properties::WriterProperties;
        use parquet::file::writer::SerializedFileWriter;
        use parquet::schema::types::Type;

        let mut fields = Vec::new();
        for (name, column) in &self.columns {
            let (physical, logical) = match column {
                Column::Time(_) => {
                    let millis = LogicalType::timestamp(true, TimeUnit::MILLIS);
                    (Physical::INT64, Some(millis))
                }
                Column::Fixed(..) | Column::Number(_) => (Physical::DOUBLE, None),
                Column::Text(_) => (Physical::BYTE_ARRAY, Some(LogicalType::String)),
            };
            let repetition =
                if matches!(column, Column::Number(_)) { Repetition::OPTIONAL } else { Repetition::REQUIRED };
            let field = Type::primitive_type_builder(name, physical).with_logical_type(logical);
            fields.push(Arc::new(field.with_repetition(repetition).build()?));
        }
        let schema = Arc::new(Type::group_type_builder("schema").with_fields(fields).build()?);
        let properties = WriterProperties::builder().set_compression(packed).build();
        let mut out = Vec::new();
        let mut writer = SerializedFileWriter::new(&mut out, schema, Arc::new(properties))?;
        let mut group = writer.next_row_group()?;
        for (_, column) in &self.columns {
            let Some(mut next) = group.next_column()? else { break };
            match column {
                Column::Time(values) => drop(next.typed::<Int64Type>().write_batch(values, None, None)?),
                Column::Fixed(decimals, values) => {
                    let divisor = power_of_ten(*decimals) as f64;
                    let values: Vec<f64> = values.iter().map(|value| *value as f64 / divisor).collect();
                    next.typed::<DoubleType>().write_batch(&values, None, None)?;
                }
                Column::Number(values) => {
                    let there: Vec<f64> = values.iter().flatten().copied().collect();
                    let levels: Vec<i16> = values.iter().map(|value| i16::from(value.is_some())).collect();
                    next.typed::<DoubleType>().write_batch(&there, Some(&levels), None)?;
                }
                Column::Text(values) => {
                    let values: Vec<ByteArray> = values.iter().map(|text| ByteArray::from(text.as_str())).collect();
                    next.typed::<ByteArrayType>().write_batch(&values, None, None)?;
                }
            }
            next.close()?;
        }
        group.close()?;
        writer.close()?;
        Ok(out)
    }
}

/// Writes a cell; writing to a `String` cannot fail.
fn cell(text: &mut String, column: &Column, row: usize, missing: &str) {
    match column {
        Column::Time(values) => *text += &values[row].to_string(),
        Column::Fixed(decimals, values) => fixed(text, values[row], *decimals),
        Column::Number(values) => match values[row].filter(|value| value.is_finite()) {
            Some(value) => *text += &value.to_string(),
            None => *text += missing,
        },
        Column::Text(values) => {
            let value = &values[row];
            if value.contains([',', '"', '\n', '\r']) {
                let _ = write!(text, "\"{}\"", value.replace('"', "\"\""));
            } else {
                *text += value;
            }
        }
    }
}

fn fixed(text: &mut String, value: i64, decimals: u8) {
    let (sign, divisor) = (if value < 0 { "-" } else { "" }, power_of_ten(decimals).unsigned_abs());
    let (whole, rest) = (value.unsigned_abs() / divisor, value.unsigned_abs() % divisor);
    if decimals == 0 {
        let _ = write!(text, "{sign}{whole}");
    } else {
        let _ = write!(text, "{sign}{whole}.{rest:0width$}", width = usize::from(decimals));
    }
}

fn quoted(text: &mut String, value: &str) {
    // A text always has a JSON form.
    *text += &serde_json::to_string(value).unwrap_or_default();
}

#[cfg(test)]
mod tests {
    use super::super::import::{ImportOptions, import_candles};
    use super::super::simulator::Simulator;
    use super::*;

    fn candles() -> Vec<Candle> {
        Simulator::new(3, "15m".parse().unwrap(), 1_640_995_200_000).take(700).collect()
    }

    #[test]
    fn exported_candles_come_back_as_they_were_from_every_format() {
        let (candles, scale) = (candles(), Scale::new(2, 2).unwrap());
        let table = Table::of_candles(&candles, scale);
        let back = |bytes: &[u8]| import_candles(bytes, &ImportOptions::default(), |_| {}).unwrap();
        let widened = |import: super::super::import::Import| -> Vec<Candle> {
            import.candles.iter().map(|candle| candle.rescale(import.scale, scale).unwrap()).collect()
        };
        assert_eq!(widened(back(table.csv().as_bytes())), candles);
        assert_eq!(widened(back(table.json_lines().as_bytes())), candles);
        #[cfg(feature = "columnar")]
        assert_eq!(widened(back(&table.parquet().unwrap())), candles);
    }

    /// One packed with gzip was said to be damaged.
    #[cfg(feature = "columnar")]
    #[test]
    fn parquet_is_read_however_it_is_packed() {
        use parquet::basic::Compression;
        let (candles, scale) = (candles(), Scale::new(2, 2).unwrap());
        for packed in [
            Compression::UNCOMPRESSED,
            Compression::SNAPPY,
            Compression::GZIP(Default::default()),
            Compression::ZSTD(Default::default()),
            Compression::LZ4_RAW,
        ] {
            let bytes = Table::of_candles(&candles, scale).to_parquet(packed).unwrap();
            let import = import_candles(&bytes, &ImportOptions::default(), |_| {}).unwrap();
            assert_eq!(import.candles.len(), candles.len(), "{packed}");
        }
    }

    #[test]
    fn cells_are_exact_and_quoted() {
        let table = Table::new()
            .with("n", Column::Fixed(3, vec![-5, 12_340]))
            .with("x", Column::Number(vec![None, Some(0.1)]))
            .with("t,", Column::Text(vec!["a\"b,c".into(), "d".into()]));
        assert_eq!(table.csv(), "n,x,t,\n-0.005,,\"a\"\"b,c\"\n12.340,0.1,d\n");
        let lines: Vec<serde_json::Value> =
            table.json_lines().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!((lines[0]["x"].is_null(), lines[1]["n"].as_f64(), table.len()), (true, Some(12.34), 2));
        #[cfg(feature = "columnar")]
        assert!(table.parquet().unwrap().starts_with(b"PAR1"));
    }
}
