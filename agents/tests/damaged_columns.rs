//! Parquet and Feather files that are damaged: each is an error of the file, and says nothing of a panic.

#![cfg(feature = "columnar")]
#![allow(clippy::unwrap_used, reason = "fixtures are tests too")]

use std::{
    io::Cursor,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use arrow_array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray};
use arrow_ipc::{
    CompressionType,
    writer::{FileWriter, IpcWriteOptions},
};
use atra_agents::market::{
    import::{Import, ImportError, ImportOptions, import_candles, import_seekable},
    simulator::{Simulator, SplitMix64},
    table::Table,
};

/// Damaged copies of each file. 3,000: a few seconds; before buffers were checked, dozens of them made a library panic.
const COPIES: u64 = 3_000;

static PANICS: AtomicUsize = AtomicUsize::new(0);

fn feather(compression: Option<CompressionType>) -> Vec<u8> {
    let candles: Vec<_> = Simulator::new(7, "15m".parse().unwrap(), 1_640_995_200_000).take(40).collect();
    let prices = |of: fn(&atra_agents::market::candle::Candle) -> i64| -> ArrayRef {
        Arc::new(Float64Array::from(candles.iter().map(|candle| of(candle) as f64 / 100.0).collect::<Vec<_>>()))
    };
    let times: ArrayRef = Arc::new(Int64Array::from(candles.iter().map(|candle| candle.time).collect::<Vec<_>>()));
    let symbols: ArrayRef = Arc::new(StringArray::from(vec!["BTC"; candles.len()]));
    let columns = [
        ("time", times),
        ("open", prices(|c| c.open)),
        ("high", prices(|c| c.high)),
        ("low", prices(|c| c.low)),
        ("close", prices(|c| c.close)),
        ("volume", prices(|c| c.volume)),
        ("symbol", symbols),
    ];
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let options = IpcWriteOptions::default().try_with_compression(compression).unwrap();
    let mut writer = FileWriter::try_new_with_options(Vec::new(), &batch.schema(), options).unwrap();
    writer.write(&batch).unwrap();
    writer.write(&batch.slice(3, 20)).unwrap();
    writer.finish().unwrap();
    writer.into_inner().unwrap()
}

fn parquet() -> Vec<u8> {
    let candles: Vec<_> = Simulator::new(7, "15m".parse().unwrap(), 1_640_995_200_000).take(200).collect();
    Table::of_candles(&candles, Simulator::scale()).parquet().unwrap()
}

/// Bytes changed, cut, doubled or set to the greatest number.
fn damage(bytes: &[u8], random: &mut SplitMix64) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let below = |random: &mut SplitMix64, n: usize| (random.next_u64() % n.max(1) as u64) as usize;
    for _ in 0..=below(random, 3) {
        let at = below(random, bytes.len());
        match random.next_u64() % 6 {
            0 | 1 => bytes[at] = random.next_u64() as u8,
            2 => bytes[at] ^= 1 << (random.next_u64() % 8),
            3 => {
                let end = (at + 8).min(bytes.len());
                bytes[at..end].fill(if random.next_u64().is_multiple_of(2) { 0xff } else { 0x7f });
            }
            4 => {
                let end = (at + 1 + below(random, 32)).min(bytes.len());
                bytes.drain(at..end);
            }
            _ => {
                let end = (at + 1 + below(random, 32)).min(bytes.len());
                let again = bytes[at..end].to_vec();
                bytes.splice(at..at, again);
            }
        }
        if bytes.is_empty() {
            break;
        }
    }
    bytes
}

fn import(bytes: &[u8]) -> [Result<Import, ImportError>; 2] {
    let options = ImportOptions::default();
    let file = import_seekable(Cursor::new(bytes.to_vec()), bytes.len() as u64, &options, |_| {});
    [import_candles(bytes, &options, |_| {}), file]
}

/// One test in a process of its own: the hook for panics is the process's, and the first import wraps it.
#[test]
fn damaged_columns_are_errors_without_a_word_of_a_panic() {
    std::panic::set_hook(Box::new(|info| {
        PANICS.fetch_add(1, Ordering::Relaxed);
        eprintln!("{info}");
    }));
    let mut n_refused = 0;
    for (kind, bytes) in [
        ("parquet", parquet()),
        ("feather", feather(None)),
        ("feather with lz4", feather(Some(CompressionType::LZ4_FRAME))),
        ("feather with zstd", feather(Some(CompressionType::ZSTD))),
    ] {
        assert!(import(&bytes).iter().all(Result::is_ok), "{kind}");
        // What a decoder does that breaks: it calls this from within.
        let broken = import_candles(&bytes, &ImportOptions::default(), |_| panic!("a broken decoder")).unwrap_err();
        assert!(broken.to_string().ends_with("its decoder gave up: a broken decoder"), "{kind}: {broken}");
        let mut random = SplitMix64::new(1);
        for _ in 0..COPIES {
            n_refused += import(&damage(&bytes, &mut random)).iter().filter(|found| found.is_err()).count();
        }
    }
    assert!(n_refused > 1_000, "{n_refused}: this shows nothing");
    a_batch_that_says_it_is_huge_is_refused_before_room_is_made_for_it();
    assert_eq!(PANICS.load(Ordering::Relaxed), 0);
    // A panic of anybody else is still told.
    let other = std::thread::spawn(|| panic!("of somebody else"));
    assert!(other.join().is_err());
    assert_eq!(PANICS.load(Ordering::Relaxed), 1);
}

/// A number of eight bytes asked for more memory than there is, and the process ended.
fn a_batch_that_says_it_is_huge_is_refused_before_room_is_made_for_it() {
    for compression in [CompressionType::LZ4_FRAME, CompressionType::ZSTD] {
        let mut n_limited = 0;
        let bytes = feather(Some(compression));
        // The unpacked length of a buffer of 40 numbers stands before it.
        let length = 320_i64.to_le_bytes();
        let places: Vec<usize> = (0..bytes.len() - 8).filter(|at| bytes[*at..*at + 8] == length).collect();
        assert!(!places.is_empty());
        for (place, huge) in places.into_iter().flat_map(|place| [1_i64 << 33, 1 << 45, i64::MAX].map(|n| (place, n))) {
            let mut bytes = bytes.clone();
            bytes[place..place + 8].copy_from_slice(&huge.to_le_bytes());
            let is_limit = |error: &ImportError| {
                use ImportError::{Ratio, TooLarge, TooLargeToHold};
                matches!(error, TooLarge { .. } | TooLargeToHold { .. } | Ratio { .. })
            };
            // Some of the places are other numbers: each is an error, or nothing that is read.
            n_limited += import(&bytes).into_iter().filter_map(Result::err).filter(is_limit).count();
        }
        assert!(n_limited > 10, "{n_limited}");
    }
}
