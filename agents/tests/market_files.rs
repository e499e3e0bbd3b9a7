//! Real files of every container and quirk known to us. The data lie beside the repository; without them the tests say so.
#![allow(clippy::unwrap_used, reason = "a test that panics has failed, in a helper as well")]

use atra_agents::market::import::{ColumnOrder, Import, ImportOptions, import_candles, import_seekable};
use atra_test_support::shared;

#[track_caller]
fn file(name: &str) -> Option<Import> {
    let bytes = std::fs::read(shared(&format!("data/{name}"))?).unwrap();
    Some(import_candles(&bytes, &ImportOptions::default(), |_| {}).unwrap_or_else(|e| panic!("{name}: {e}")))
}

fn summary(import: &Import) -> (usize, usize, i64, String, String) {
    let report = &import.report;
    let interval = import.interval.map(|i| i.to_string()).unwrap_or_default();
    (import.candles.len(), report.refused, import.candles[0].time, interval, report.units.join(","))
}

/// From the disk a batch at a time, or out of memory.
#[test]
fn every_file_is_the_same_from_the_disk() {
    let Some(folder) = shared("data/formats") else { return };
    let files = std::fs::read_dir(folder).unwrap();
    let mut n_files = 0;
    for path in files.map(|entry| entry.unwrap().path()).filter(|path| path.is_file()) {
        let (options, mut last) = (ImportOptions::default(), 0);
        let whole = import_candles(&std::fs::read(&path).unwrap(), &options, |_| {});
        let file = std::fs::File::open(&path).unwrap();
        let len = file.metadata().unwrap().len();
        let read = import_seekable(file, len, &options, |progress| {
            assert!(progress.bytes >= last && progress.bytes <= progress.bytes_total, "{progress:?}");
            last = progress.bytes;
        });
        match (whole, read) {
            (Ok(whole), Ok(read)) => assert_eq!(whole, read, "{}", path.display()),
            (Err(whole), Err(read)) => assert_eq!(whole.to_string(), read.to_string(), "{}", path.display()),
            (whole, read) => panic!("{}: {whole:?} but {read:?}", path.display()),
        }
        n_files += 1;
    }
    assert!(n_files >= 8, "{n_files} files");
}

#[test]
fn a_header_with_text_times() {
    let Some(import) = file("formats/binance-kline-header.csv") else { return };
    assert_eq!(summary(&import), (2999, 0, 1_601_657_100_000, "15m".into(), "text".into()));
    assert_eq!((import.scale.price_decimals(), import.candles[0].open), (2, 1_055_019));
}

#[test]
fn no_header_and_float_seconds() {
    let Some(import) = file("formats/binance-kline-noheader-mixed-units.csv") else { return };
    assert_eq!(summary(&import), (3000, 0, 1_577_836_800_000, "15m".into(), "s".into()));
}

#[test]
fn open_close_high_low_is_found_by_plausibility() {
    let Some(import) = file("formats/bitfinex-1m-open-close-high-low.csv") else { return };
    assert_eq!(import.report.order, ColumnOrder::OpenCloseHighLow);
    assert_eq!(summary(&import), (5000, 0, 1_388_534_520_000, "1m".into(), "ms".into()));
}

#[test]
fn a_comment_line_and_newest_first() {
    let Some(import) = file("formats/comment-line-newest-first-am-pm.csv") else { return };
    assert!(import.report.newest_first);
    assert_eq!(summary(&import), (1998, 0, 1_564_113_600_000, "1h".into(), "text".into()));
}

#[test]
fn binary_noise_is_rounded_and_counted() {
    let Some(import) = file("formats/scaled-prices-eurusd-d1.csv") else { return };
    assert_eq!((import.scale.price_decimals(), import.candles[0].open), (0, 130_584));
    assert!(import.report.rounded > 100);
    assert_eq!(import.report.refused, 0);
}

#[test]
fn an_unnamed_index_column() {
    let Some(import) = file("reference/GOOG-1d.csv") else { return };
    assert_eq!(summary(&import), (2148, 0, 1_092_873_600_000, "1d".into(), "text".into()));
}

#[test]
fn four_years_packed() {
    let Some(import) = file("DOTUSDT-15m-usdm-2022-01_2026-02.csv.gz") else { return };
    assert_eq!(summary(&import), (145_920, 0, 1_640_995_200_000, "15m".into(), "ms".into()));
    assert_eq!((import.report.gaps, import.report.duplicates), (0, 0));
    assert_eq!(import.scale.price_decimals(), 3);
}

#[test]
fn json_rows() {
    let Some(import) = file("formats/BTCUSDT-15m.json") else { return };
    let (candles, refused, first, interval, units) = summary(&import);
    assert_eq!((refused, first, interval.as_str(), units.as_str()), (0, 1_613_520_000_000, "15m", "ms"));
    assert!(candles > 5_000, "{candles}");
    assert_eq!((import.scale.price_decimals(), import.candles[0].open), (2, 4_913_345));
}

#[cfg(feature = "columnar")]
#[test]
fn parquet_with_times_in_a_type() {
    let Some(import) = file("formats/ADAUSDT-15m.parquet") else { return };
    let (candles, refused, _, interval, _) = summary(&import);
    assert_eq!((refused, interval.as_str()), (0, "15m"));
    assert!(candles > 50_000, "{candles}");
    assert!(import.scale.price_decimals() <= 5, "{:?}", import.scale);
}

#[cfg(feature = "columnar")]
#[test]
fn feather_packed_with_lz4() {
    let Some(import) = file("formats/btc-30m.feather") else { return };
    let (candles, refused, _, interval, _) = summary(&import);
    assert_eq!((candles, refused, interval.as_str()), (1920, 0, "30m"));
}

#[cfg(feature = "columnar")]
#[test]
fn sixty_four_tickers_in_feather() {
    let Some(folder) = shared("data/breadth64-15m") else { return };
    let entries = std::fs::read_dir(folder).unwrap();
    let (mut files, mut with_gaps) = (0, 0);
    for entry in entries {
        let import = file(&format!("breadth64-15m/{}", entry.unwrap().file_name().to_str().unwrap())).unwrap();
        assert_eq!((import.candles.len(), import.report.refused), (499, 0));
        files += 1;
        with_gaps += usize::from(import.report.gaps > 0);
    }
    assert_eq!((files, with_gaps), (64, 31));
}

/// Bytes of a real file, flipped and cut: the decoders of the libraries see nonsense behind a good beginning.
#[cfg(feature = "columnar")]
#[test]
fn damaged_columnar_files_give_an_error_or_sane_candles() {
    for name in ["breadth64-15m/BTC_USDT-15m.feather", "formats/btc-30m.feather"] {
        let Some(path) = shared(&format!("data/{name}")) else { return };
        let good = std::fs::read(path).unwrap();
        let mut state = 11_u64;
        for round in 0..120 {
            let mut random = |below: usize| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state >> 33) as usize % below
            };
            let mut bytes = good.clone();
            for _ in 0..1 + round % 4 {
                let place = random(bytes.len());
                bytes[place] = random(256) as u8;
            }
            if round % 3 == 0 {
                bytes.truncate(random(good.len()));
            }
            if let Ok(import) = import_candles(&bytes, &ImportOptions::default(), |_| {}) {
                assert!(import.candles.iter().all(|candle| candle.check().is_ok()));
                assert!(import.candles.windows(2).all(|pair| pair[0].time < pair[1].time));
            }
        }
    }
}
