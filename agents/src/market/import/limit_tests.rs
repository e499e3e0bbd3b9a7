//! The limits of every reader: no file takes memory or time out of proportion to what a file of candles needs.

use std::io::{Cursor, Read, Write};

use super::*;

const ROW: &str = "1640995200000,26.65,26.885,26.643,26.806,223357.5\n";

fn small() -> ImportOptions {
    ImportOptions { size_max: 4 << 20, held_max: 1 << 20, candles_max: 1_000, ..ImportOptions::default() }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(bytes).unwrap();
    packed.finish().unwrap()
}

fn zip(name: &str, bytes: &[u8]) -> Vec<u8> {
    let mut archive = zip::ZipWriter::new(Cursor::new(Vec::new()));
    let deflated = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Deflated);
    archive.start_file(name, deflated).unwrap();
    archive.write_all(bytes).unwrap();
    archive.finish().unwrap().into_inner()
}

/// A reader that never ends.
struct Endless {
    head: Cursor<Vec<u8>>,
    again: Cursor<Vec<u8>>,
    n_read: u64,
}

impl Endless {
    fn new(head: &str, again: &str) -> Self {
        Self { head: Cursor::new(head.into()), again: Cursor::new(again.as_bytes().repeat(1_000)), n_read: 0 }
    }
}

impl Read for Endless {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        let mut n = self.head.read(into)?;
        if n == 0 {
            n = self.again.read(into)?;
        }
        if n == 0 {
            self.again.set_position(0);
            n = self.again.read(into)?;
        }
        self.n_read += n as u64;
        Ok(n)
    }
}

fn endless(head: &str, again: &str, options: &ImportOptions) -> (ImportError, u64) {
    let mut reader = Endless::new(head, again);
    let error = import_from(&mut reader, 0, options, |_| {}).unwrap_err();
    (error, reader.n_read)
}

/// One line of 256 MB in a gzip of 261 kB took 22 seconds: what there was of it was looked through with every part.
#[test]
fn a_line_without_an_end_is_given_up_at_its_limit() {
    let usual = ImportOptions::default();
    for (head, line) in [("", 1), ("time,open,high,low,close,volume\n", 2), (ROW, 2), (&*format!("{ROW}{ROW}1,"), 3)] {
        let (error, n_read) = endless(head, "x", &usual);
        assert!(matches!(error, ImportError::LineTooLong { line: found, .. } if found == line), "{head}: {error}");
        assert!(n_read < 8 << 20, "{n_read}");
        assert!(error.to_string().contains("has more than 1048576 bytes"), "{error}");
    }
    // At the limit, and one more.
    for (columns, is_read) in [(usual.line_max - ROW.len(), true), (usual.line_max - ROW.len() + 1, false)] {
        let line = ROW.replace('\n', &format!("{}\n", ",".repeat(columns)));
        let text = format!("time,open,high,low,close,volume\n{line}{}", ROW.replace("10995", "20995"));
        for bytes in [text.clone().into_bytes(), gzip(text.as_bytes()), zip("a.csv", text.as_bytes())] {
            let found = import_candles(&bytes, &usual, |_| {});
            assert_eq!(found.is_ok(), is_read, "{columns}");
        }
    }
}

#[test]
fn a_file_without_an_end_is_given_up_whatever_it_is() {
    let rows = |error: &ImportError| matches!(error, ImportError::TooManyCandles { limit: 1_000 });
    let size = |error: &ImportError| matches!(error, ImportError::TooLarge { limit: 4_194_304 });
    let held = |error: &ImportError| matches!(error, ImportError::TooLargeToHold { limit: 1_048_576, .. });
    type IsExpected<'a> = &'a dyn Fn(&ImportError) -> bool;
    let is_given_up: [(&str, &str, IsExpected<'_>); 8] = [
        ("", ROW, &rows),
        (ROW, "\n", &size),
        (ROW, "                                   \n", &size),
        ("[[1,2,3,4,5,6]", ",[1,2,3,4,5,6]", &held),
        ("{\"a\":\"", "x", &held),
        ("PAR1", "x", &held),
        ("ARROW1", "x", &held),
        ("PK\u{3}\u{4}", "x", &held),
    ];
    for (head, again, is_that) in is_given_up {
        let (error, n_read) = endless(head, again, &small());
        assert!(is_that(&error), "{head:?}: {error}");
        assert!(n_read < 8 << 20, "{head:?}: {n_read}");
    }
}

#[test]
fn a_packed_file_unpacks_to_a_hundred_times_its_size_at_most() {
    // Lines that are passed over, so that nothing else ends it.
    let line = format!("{}\n", " ".repeat(1_000));
    let bomb = format!("{ROW}{}", line.repeat(70_000));
    let usual = ImportOptions::default();
    for packed in [gzip(bomb.as_bytes()), zip("a.csv", bomb.as_bytes()), zip("a.csv.gz", &gzip(bomb.as_bytes()))] {
        assert!(packed.len() < 2 << 20);
        let error = import_candles(&packed, &usual, |_| {}).unwrap_err();
        assert!(matches!(error, ImportError::Ratio { limit: 100, .. }), "{error}");
        // As a file, too.
        let error = import_seekable(Cursor::new(packed.clone()), packed.len() as u64, &usual, |_| {}).unwrap_err();
        assert!(matches!(error, ImportError::Ratio { limit: 100, .. }), "{error}");
        let allowed = ImportOptions { ratio_max: u64::MAX, ..usual.clone() };
        assert_eq!(import_candles(&packed, &allowed, |_| {}).unwrap().candles.len(), 1);
    }
    // Plain, it is as large as it is.
    assert_eq!(import_candles(bomb.as_bytes(), &usual, |_| {}).unwrap().candles.len(), 1);
}

#[test]
fn archives_within_archives_end() {
    let mut packed = ROW.repeat(3).into_bytes();
    for depth in 1..=6 {
        packed = zip("a", &packed);
        let found = import_candles(&packed, &ImportOptions::default(), |_| {});
        assert_eq!(found.is_ok(), depth <= 3, "{depth}");
    }
    let mut packed = ROW.repeat(3).into_bytes();
    for depth in 1..=6 {
        packed = gzip(&packed);
        let found = import_candles(&packed, &ImportOptions::default(), |_| {});
        assert_eq!(found.is_ok(), depth <= 3, "{depth}");
    }
}

#[test]
fn json_holds_a_bounded_number_of_values() {
    let options = ImportOptions { candles_max: 10, ..ImportOptions::default() };
    let rows = |n: usize| {
        let row = |i: usize| format!("[{},1,2,0.5,1.5,7]", 1_650_000_000_000 + i * 60_000);
        (0..n).map(row).collect::<Vec<_>>()
    };
    let array = |n: usize| format!("[{}]", rows(n).join(","));
    let wide = |n: usize| format!("{{{}}}", (0..n).map(|i| format!("\"k{i}\":1")).collect::<Vec<_>>().join(","));
    assert_eq!(import_candles(array(10).as_bytes(), &options, |_| {}).unwrap().candles.len(), 10);
    for bad in [array(11), rows(11).join("\n"), format!("{{\"data\":{}}}", array(11)), wide(1_025)] {
        let error = import_candles(bad.as_bytes(), &options, |_| {}).unwrap_err();
        assert!(error.to_string().contains("more than"), "{error}");
    }
}
