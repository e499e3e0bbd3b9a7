//! Parquet and Feather (Arrow IPC), behind the feature `columnar`; without it, an error that says so.
//!
//! Every value becomes the text that a CSV file would have, and goes through the same careful path: binary noise of floats
//! is rounded and counted, times are told by type or magnitude. What the libraries panic on is a damaged file.

#[cfg(feature = "columnar")]
pub(super) use self::enabled::{check_unpacked, feather, feather_seekable, parquet, parquet_seekable};
#[cfg(not(feature = "columnar"))]
pub(super) use self::missing::{
    missing as feather, missing as feather_seekable, missing as parquet, missing as parquet_seekable,
};

#[cfg(not(feature = "columnar"))]
mod missing {
    use super::super::{Import, ImportError, ImportOptions, Progress};

    pub(crate) fn missing<T>(_: T, _: &ImportOptions, _: &mut dyn FnMut(Progress)) -> Result<Import, ImportError> {
        Err(ImportError::Foreign { what: "Parquet or Feather, which this build leaves out: build it with `columnar`" })
    }
}

#[cfg(feature = "columnar")]
mod enabled {
    use std::cell::Cell;
    use std::fmt::{Display, Write};
    use std::io::{BufReader, Cursor, Read, Seek, SeekFrom};
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::{Arc, Mutex, Once, PoisonError};

    use ::parquet::errors;
    use ::parquet::file::metadata::{ColumnChunkMetaData, ParquetMetaData, RowGroupMetaData};
    use ::parquet::file::reader::{ChunkReader, FileReader as _, Length, SerializedFileReader};
    use ::parquet::record::Field;
    use arrow_array::Array;
    use arrow_array::cast::AsArray;
    use arrow_array::types::{
        Date32Type, Date64Type, Decimal128Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type,
        TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType, TimestampSecondType, UInt8Type,
        UInt16Type, UInt32Type, UInt64Type,
    };
    use arrow_ipc::reader::FileReader;
    use arrow_schema::{DataType, TimeUnit};

    use super::super::batches;
    use super::super::container::ANY_RATIO_BYTES;
    use super::super::layout::{self, COLUMNS_MAX};
    use super::super::rows::Rows;
    use super::super::{Import, ImportError, ImportOptions, PROGRESS_ROWS, Progress};

    /// Rows for which room is made on the word of a file: 30 years of minutes. Room that is not used takes no memory.
    const ROWS_EXPECTED_MAX: usize = 1 << 24;

    thread_local! {
        /// Whether this thread is inside of a decoder, whose panics are errors of the file and not of the program.
        static DECODES: Cell<bool> = const { Cell::new(false) };
    }

    /// Runs a decoder of a library and turns its panic into an error. The panic's message goes into the error, not to
    /// standard error.
    fn guarded<T>(what: &'static str, decode: impl FnOnce() -> Result<T, ImportError>) -> Result<T, ImportError> {
        static HOOK: Once = Once::new();
        // The process's panic hook is wrapped once; other threads still use the original hook.
        HOOK.call_once(|| {
            let before = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |info| {
                // A thread that is ending has no local values left, and decodes nothing.
                if !DECODES.try_with(Cell::get).unwrap_or(false) {
                    before(info);
                }
            }));
        });
        let outer = DECODES.replace(true);
        let decoded = catch_unwind(AssertUnwindSafe(decode));
        DECODES.set(outer);
        decoded.unwrap_or_else(|panic| {
            let said = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref().copied());
            let said: String = said.unwrap_or("for no reason that it gives").chars().take(SAID_CHARS).collect();
            Err(ImportError::Damaged { what, why: format!("its decoder gave up: {said}") })
        })
    }

    /// Characters of a decoder's panic in an error.
    const SAID_CHARS: usize = 200;

    fn damaged(what: &'static str) -> impl Fn(&dyn Display) -> ImportError {
        move |why| {
            let why = why.to_string();
            // A whole file that is packed in a way of which nobody here knows: whoever gets it anew has gained nothing.
            if why.contains("Disabled feature") {
                let what =
                    "packed in a way that this build cannot read: write it with snappy, gzip, lz4, zstd or unpacked";
                return ImportError::Foreign { what };
            }
            ImportError::Damaged { what, why }
        }
    }

    /// A row as texts, in one buffer that is used again.
    #[derive(Default)]
    struct Texts {
        text: String,
        ends: Vec<usize>,
    }

    impl Texts {
        fn clear(&mut self) {
            self.text.clear();
            self.ends.clear();
        }

        /// Takes the next value; nothing for one that is missing.
        fn push(&mut self, value: Option<impl Display>) {
            if let Some(value) = value {
                // Writing to a String cannot fail.
                let _ = write!(self.text, "{value}");
            }
            self.ends.push(self.text.len());
        }

        fn hand(&self, place: usize, rows: &mut Rows<'_>) -> Result<(), ImportError> {
            let mut fields = [&[][..]; COLUMNS_MAX];
            let mut start = 0;
            for (slot, &end) in fields.iter_mut().zip(&self.ends) {
                *slot = &self.text.as_bytes()[start..end];
                start = end;
            }
            rows.fields(place, &fields, self.ends.len().min(COLUMNS_MAX))
        }
    }

    // === Parquet ===

    pub(crate) fn parquet(
        bytes: Vec<u8>,
        options: &ImportOptions,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Import, ImportError> {
        parquet_of(bytes::Bytes::from(bytes), options, progress)
    }

    pub(crate) fn parquet_seekable(
        (source, len): (impl Read + Seek + Send + 'static, u64),
        options: &ImportOptions,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Import, ImportError> {
        parquet_of(Shared { source: Arc::new(Mutex::new(source)), len }, options, progress)
    }

    /// A source that the readers of several columns share, each at a place of its own.
    struct Shared<R> {
        source: Arc<Mutex<R>>,
        len: u64,
    }

    /// Reads on from a place.
    struct At<R> {
        source: Arc<Mutex<R>>,
        at: u64,
    }

    impl<R: Read + Seek> Read for At<R> {
        fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
            let mut source = self.source.lock().unwrap_or_else(PoisonError::into_inner);
            source.seek(SeekFrom::Start(self.at))?;
            let n = source.read(into)?;
            self.at += n as u64;
            Ok(n)
        }
    }

    impl<R> Length for Shared<R> {
        fn len(&self) -> u64 {
            self.len
        }
    }

    impl<R: Read + Seek + Send> ChunkReader for Shared<R> {
        type T = BufReader<At<R>>;

        fn get_read(&self, start: u64) -> errors::Result<Self::T> {
            Ok(BufReader::new(At { source: Arc::clone(&self.source), at: start }))
        }

        fn get_bytes(&self, start: u64, length: usize) -> errors::Result<bytes::Bytes> {
            let mut found = Vec::with_capacity(length.min(usize::try_from(self.len).unwrap_or(usize::MAX)));
            self.get_read(start)?.take(length as u64).read_to_end(&mut found)?;
            if found.len() != length {
                return Err(errors::ParquetError::EOF(format!("{length} bytes at {start}, found {}", found.len())));
            }
            Ok(found.into())
        }
    }

    /// One page of each column is held at a time.
    fn parquet_of(
        source: impl ChunkReader + 'static,
        options: &ImportOptions,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Import, ImportError> {
        guarded("Parquet", || {
            let damaged = damaged("Parquet");
            let reader = SerializedFileReader::new(source).map_err(|error| damaged(&error))?;
            check_chunks(reader.metadata(), options)?;
            let metadata = reader.metadata().file_metadata();
            let fields = metadata.schema_descr().root_schema().get_fields();
            let names: Vec<String> = fields.iter().map(|field| field.name().to_owned()).collect();
            let layout = layout::of_names(&names, &options.map)?;
            let total = usize::try_from(metadata.num_rows()).unwrap_or(0);
            let mut rows = Rows::new(options, layout, total.min(ROWS_EXPECTED_MAX));
            let mut texts = Texts::default();
            for (place, row) in reader.get_row_iter(None).map_err(|error| damaged(&error))?.enumerate() {
                let row = row.map_err(|error| damaged(&error))?;
                texts.clear();
                for (_, field) in row.get_column_iter().take(COLUMNS_MAX) {
                    push_field(&mut texts, field);
                }
                texts.hand(place + 1, &mut rows)?;
                if place.is_multiple_of(PROGRESS_ROWS) {
                    progress(Progress { bytes: place, bytes_total: total, rows: place });
                }
            }
            progress(Progress { bytes: total, bytes_total: total, rows: rows.report.rows });
            rows.finish()
        })
    }

    /// Checks the declared unpacked sizes of the columns. A page with a wrong size is found when it is unpacked.
    fn check_chunks(metadata: &ParquetMetaData, options: &ImportOptions) -> Result<(), ImportError> {
        let chunks = || metadata.row_groups().iter().flat_map(RowGroupMetaData::columns);
        let sum = |of: fn(&ColumnChunkMetaData) -> i64| {
            chunks().fold(0_u64, |sum, chunk| sum.saturating_add(u64::try_from(of(chunk)).unwrap_or(0)))
        };
        let unpacked = sum(ColumnChunkMetaData::uncompressed_size);
        check_unpacked(sum(ColumnChunkMetaData::compressed_size), unpacked, options)
    }

    /// Checks a declared unpacked size.
    pub(crate) fn check_unpacked(packed: u64, unpacked: u64, options: &ImportOptions) -> Result<(), ImportError> {
        let limit = options.ratio_max;
        if unpacked > options.size_max {
            return Err(ImportError::TooLarge { limit: options.size_max });
        }
        if unpacked > ANY_RATIO_BYTES && unpacked / limit.max(1) > packed {
            return Err(ImportError::Ratio { packed, unpacked, limit });
        }
        Ok(())
    }

    fn push_field(texts: &mut Texts, field: &Field) {
        match field {
            Field::Double(value) => texts.push(Some(value)),
            Field::Float(value) => texts.push(Some(value)),
            Field::Long(value) | Field::TimestampMillis(value) | Field::TimestampMicros(value) => {
                texts.push(Some(value));
            }
            Field::Int(value) => texts.push(Some(value)),
            Field::UInt(value) => texts.push(Some(value)),
            Field::ULong(value) => texts.push(Some(value)),
            // Days since 1970.
            Field::Date(days) => texts.push(Some(i64::from(*days) * 86_400)),
            Field::Str(text) => texts.push(Some(text)),
            Field::Null => texts.push(None::<u8>),
            other => texts.push(Some(other)),
        }
    }

    // === Feather ===

    pub(crate) fn feather(
        bytes: Vec<u8>,
        options: &ImportOptions,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Import, ImportError> {
        let len = bytes.len() as u64;
        feather_of(Cursor::new(bytes), len, options, progress)
    }

    pub(crate) fn feather_seekable(
        (source, len): (impl Read + Seek, u64),
        options: &ImportOptions,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Import, ImportError> {
        feather_of(BufReader::new(source), len, options, progress)
    }

    /// One batch is held at a time.
    fn feather_of(
        mut source: impl Read + Seek,
        len: u64,
        options: &ImportOptions,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Import, ImportError> {
        guarded("Feather", || {
            let damaged = damaged("Feather");
            batches::check(&mut source, len, options)?;
            source.rewind().map_err(|source| ImportError::Read { source })?;
            let reader = FileReader::try_new(source, None).map_err(|error| damaged(&error))?;
            let names: Vec<String> = reader.schema().fields().iter().map(|field| field.name().clone()).collect();
            let layout = layout::of_names(&names, &options.map)?;
            let n_batches = reader.num_batches();
            let mut rows = Rows::new(options, layout, 0);
            let mut texts = Texts::default();
            let mut place = 0;
            for (n, batch) in reader.enumerate() {
                let batch = batch.map_err(|error| damaged(&error))?;
                for row in 0..batch.num_rows() {
                    place += 1;
                    texts.clear();
                    batch.columns().iter().take(COLUMNS_MAX).for_each(|column| push_cell(&mut texts, column, row));
                    texts.hand(place, &mut rows)?;
                }
                progress(Progress { bytes: n + 1, bytes_total: n_batches, rows: place });
            }
            rows.finish()
        })
    }

    fn push_cell(texts: &mut Texts, column: &dyn Array, row: usize) {
        if column.is_null(row) {
            return texts.push(None::<u8>);
        }
        /// The cell of a column of this type.
        macro_rules! cell {
            ($kind:ty) => {
                texts.push(Some(column.as_primitive::<$kind>().value(row)))
            };
        }
        match column.data_type() {
            DataType::Float64 => cell!(Float64Type),
            DataType::Float32 => cell!(Float32Type),
            DataType::Int64 => cell!(Int64Type),
            DataType::Int32 => cell!(Int32Type),
            DataType::Int16 => cell!(Int16Type),
            DataType::Int8 => cell!(Int8Type),
            DataType::UInt64 => cell!(UInt64Type),
            DataType::UInt32 => cell!(UInt32Type),
            DataType::UInt16 => cell!(UInt16Type),
            DataType::UInt8 => cell!(UInt8Type),
            DataType::Decimal128(..) => {
                texts.push(Some(column.as_primitive::<Decimal128Type>().value_as_string(row)));
            }
            // Days since 1970, as seconds.
            DataType::Date32 => texts.push(Some(i64::from(column.as_primitive::<Date32Type>().value(row)) * 86_400)),
            DataType::Date64 => cell!(Date64Type),
            DataType::Utf8 => texts.push(Some(column.as_string::<i32>().value(row))),
            DataType::LargeUtf8 => texts.push(Some(column.as_string::<i64>().value(row))),
            DataType::Utf8View => texts.push(Some(column.as_string_view().value(row))),
            DataType::Timestamp(TimeUnit::Second, _) => cell!(TimestampSecondType),
            DataType::Timestamp(TimeUnit::Millisecond, _) => cell!(TimestampMillisecondType),
            DataType::Timestamp(TimeUnit::Microsecond, _) => cell!(TimestampMicrosecondType),
            DataType::Timestamp(TimeUnit::Nanosecond, _) => cell!(TimestampNanosecondType),
            DataType::Dictionary(key, _) => {
                let place = match **key {
                    DataType::Int8 => column.as_dictionary::<Int8Type>().key(row),
                    DataType::Int16 => column.as_dictionary::<Int16Type>().key(row),
                    DataType::Int32 => column.as_dictionary::<Int32Type>().key(row),
                    _ => None,
                };
                match place {
                    Some(place) => push_cell(texts, column.as_any_dictionary().values().as_ref(), place),
                    None => texts.push(None::<u8>),
                }
            }
            // A column of another type is not one of ours, or its rows are refused.
            _ => texts.push(None::<u8>),
        }
    }

    #[cfg(test)]
    mod tests {
        use arrow_array::{
            ArrayRef, Date32Array, Decimal128Array, DictionaryArray, Int16Array, RecordBatch, StringViewArray,
        };
        use arrow_ipc::writer::FileWriter;

        use super::*;

        fn feather_with(times: &ArrayRef, prices: &ArrayRef, volumes: &ArrayRef) -> Import {
            let names = ["time", "open", "high", "low", "close", "volume"];
            let columns = [times, prices, prices, prices, prices, volumes].map(Arc::clone);
            let batch = RecordBatch::try_from_iter(names.into_iter().zip(columns)).unwrap();
            let mut writer = FileWriter::try_new(Vec::new(), &batch.schema()).unwrap();
            writer.write(&batch).unwrap();
            feather(writer.into_inner().unwrap(), &ImportOptions::default(), &mut |_| {}).unwrap()
        }

        /// Columns as polars and pandas write them were no columns.
        #[test]
        fn days_decimals_views_and_dictionaries_are_read() {
            let days: ArrayRef = Arc::new(Date32Array::from(vec![18_262, 18_263]));
            let said = ["2020-01-01", "2020-01-02"];
            let prices: ArrayRef =
                Arc::new(Decimal128Array::from(vec![1_050, 1_125]).with_precision_and_scale(10, 2).unwrap());
            let volumes: ArrayRef = Arc::new(Int16Array::from(vec![1, 2]));
            let categories: DictionaryArray<Int8Type> = said.into_iter().collect();
            for times in [days, Arc::new(StringViewArray::from_iter_values(said)), Arc::new(categories)] {
                let Import { candles, report, .. } = feather_with(&times, &prices, &volumes);
                assert_eq!((report.span, report.refused), (Some((1_577_836_800_000, 1_577_923_200_000)), 0));
                assert_eq!((candles[0].open, candles[1].close), (1_050, 1_125));
            }
        }

        #[test]
        fn what_is_packed_otherwise_is_not_called_damaged() {
            // The library's own words, since it cannot write such a file here either.
            let said = errors::ParquetError::General("Disabled feature at compile time: brotli".into());
            assert!(matches!(damaged("Parquet")(&said), ImportError::Foreign { .. }));
            assert!(matches!(damaged("Parquet")(&"eof"), ImportError::Damaged { .. }));
        }
    }
}
