//! What real and damaged files do to the importer.

use super::*;

fn import(text: &str) -> Result<Import, ImportError> {
    import_candles(text.as_bytes(), &ImportOptions::default(), |_| {})
}

const HEADER: &str = "time,open,high,low,close,volume\n";

fn rows(rows: &[&str]) -> Import {
    import(&format!("{HEADER}{}", rows.join("\n"))).unwrap()
}

#[test]
fn refused_rows_have_their_line_and_reason() {
    let import = rows(&[
        "1600000000,10,12,9,11,5",
        "1600000060,nan,12,9,11,5",
        "1600000120,10,inf,9,11,5",
        "1600000180,-10,12,9,11,5",
        "1600000240,10,8,9,11,5",
        "1600000300,10,10.5,9,11,5",
        "never,10,12,9,11,5",
        "1600000420,10,12,9,11,-5",
        "1600000480,1e1,1.2E1,9,11,5",
        "1600000540,10,12,9",
    ]);
    let refused: Vec<_> = import.report.first_refused.iter().map(|r| (r.line, r.reason)).collect();
    assert_eq!(
        refused,
        [
            (3, RefusedReason::Number { column: 2 }),
            (4, RefusedReason::Number { column: 3 }),
            (5, RefusedReason::Fault(CandleFault::NegativePrice)),
            (6, RefusedReason::Fault(CandleFault::HighBelowLow)),
            (7, RefusedReason::Fault(CandleFault::HighTooLow)),
            (8, RefusedReason::Time),
            (9, RefusedReason::Fault(CandleFault::NegativeVolume)),
            (11, RefusedReason::Columns { found: 4, needed: 6 }),
        ]
    );
    assert_eq!((import.candles.len(), import.report.refused, import.report.rows), (2, 8, 10));
    assert_eq!(import.candles[1].open, 10);
}

/// Dates with the month first were read as day first where that made a date, and refused where not: half the file came in
/// under wrong days, with exit code 0.
#[test]
fn dates_are_read_in_the_order_that_the_file_tells() {
    let day = |n: i64| format!("{:02}/{:02}/2021", 1 + n / 28, 1 + n % 28);
    let daily =
        |of: &dyn Fn(i64) -> String| (0..200).map(|n| format!("{},1,2,1,2,{}\n", of(n), n + 1)).collect::<String>();
    let month_first = import(&format!("{HEADER}{}", daily(&day))).unwrap();
    let turned = |n: i64| format!("{}/{}", day(n).split('/').rev().skip(1).collect::<Vec<_>>().join("/"), "2021");
    let day_first = import(&format!("{HEADER}{}", daily(&turned))).unwrap();
    let iso = |n: i64| format!("2021-{:02}-{:02}", 1 + n / 28, 1 + n % 28);
    let plain = import(&format!("{HEADER}{}", daily(&iso))).unwrap();
    assert_eq!((month_first.candles, month_first.report.refused), (plain.candles.clone(), 0));
    assert_eq!((day_first.candles, day_first.report.refused), (plain.candles, 0));
    assert_eq!(month_first.report.units, ["text, month first"]);
    assert_eq!(day_first.report.units, ["text, day first"]);

    // Both in one file: nobody knows what the others were, unless somebody says so.
    let both = format!("{HEADER}03/04/2021,1,2,1,2,5\n13/04/2021,1,2,1,2,5\n04/13/2021,1,2,1,2,5\n");
    assert!(matches!(import(&both).unwrap_err(), ImportError::DateOrder { line: 4 }));
    let said = ImportOptions { time_unit: Some(Unit::MonthFirst), ..ImportOptions::default() };
    let said = import_candles(both.as_bytes(), &said, |_| {}).unwrap();
    assert_eq!((said.candles.len(), said.report.refused), (2, 1));
    assert_eq!(said.candles[0].time, 1_614_816_000_000);
}

/// Rows of several tickers were taken for rows with a time of another: the first ticker's candles counted, the others' filled
/// its gaps, with exit code 0.
#[test]
fn a_column_tells_whose_candles_they_are_and_a_file_of_several_is_refused() {
    let head = "date,symbol,open,high,low,close\n";
    let one =
        import(&format!("{head}2021-01-01,A/B,1,2,1,2\n2021-01-02,\"A/B\",1,2,1,2\n2021-01-03,,1,2,1,2\n")).unwrap();
    assert_eq!((one.report.symbol.as_deref(), one.candles.len()), (Some("A/B"), 3));
    let two = format!("{head}2021-01-01,A,1,2,1,2\n2021-01-02,A,1,2,1,2\n2021-01-03,B,9,9,9,9\n");
    let refused = import(&two).unwrap_err();
    assert!(matches!(&refused, ImportError::Symbols { line: 4, first } if first == "A"), "{refused}");
    let json = r#"[{"t":1600000000,"o":1,"h":2,"l":1,"c":2,"ticker":"A"},{"t":1600000060,"o":1,"h":2,"l":1,"c":2,"ticker":"B"}]"#;
    assert!(matches!(import(json).unwrap_err(), ImportError::Symbols { line: 2, .. }));
    // A column that is something else is no name.
    let map = vec![("time".to_owned(), "symbol".to_owned())];
    let options = ImportOptions { map, ..ImportOptions::default() };
    let times =
        import_candles(b"symbol,open,high,low,close\n1600000000,1,2,1,2\n1600000060,1,2,1,2\n", &options, |_| {});
    assert_eq!(times.unwrap().report.symbol, None);
}

#[test]
fn the_row_beyond_the_limit_stops_the_import() {
    let text = format!("{HEADER}{}", "x,1,1,1,1,1\n".repeat(3));
    let options = |refused_max| ImportOptions { refused_max, ..ImportOptions::default() };
    let good = format!("{text}1600000000,1,1,1,1,1\n");
    assert_eq!(import_candles(good.as_bytes(), &options(3), |_| {}).unwrap().report.refused, 3);
    let error = import_candles(text.as_bytes(), &options(2), |_| {}).unwrap_err();
    assert_eq!(error.to_string(), "3 rows refused, limit 2; the first at line 2: the time cannot be read");
}

#[test]
fn scale_widens_as_decimals_appear() {
    let import = rows(&["1600000000,10,12,9,11,5", "1600000060,10.25,12.5,9,11,0.125"]);
    assert_eq!(import.scale, Scale::new(2, 3).unwrap());
    assert_eq!(
        import.candles[0],
        Candle { time: 1_600_000_000_000, open: 1000, high: 1200, low: 900, close: 1100, volume: 5000 }
    );
    assert_eq!((import.candles[1].open, import.candles[1].volume), (1025, 125));
}

#[test]
fn a_huge_volume_costs_decimals_of_all_volumes() {
    let import = rows(&["1600000000,10,12,9,11,0.00000001", "1600000060,10,12,9,11,999999999999.1"]);
    assert_eq!(import.scale.volume_decimals(), 3);
    assert_eq!(import.candles[1].volume, 999_999_999_999_100);
    assert_eq!(import.candles[0].volume, 0);
    assert!(import.report.rounded == 0 || import.report.rounded == 1);
}

#[test]
fn order_duplicates_crlf_bom_and_quotes() {
    let plain = rows(&["1600000000,10,12,9,11,5", "1600000060,11,12,9,11,5", "1600000180,1010,1012,9,11,5"]);
    let odd = "\u{feff}Time;Open;High;Low;Close;Volume\r\n1600000180;\"1,010\";\"1,012.0\";9;11;5\r\n\r\n\
               1600000060;11;12;9;11;5\r\n1600000060;11;12;9;11;5\r\n1600000000;10;12;9;11;5\r\n1600000000;10;12;9;12;5";
    let odd = import(odd).unwrap();
    assert_eq!(odd.candles, plain.candles);
    let report = &odd.report;
    assert!(report.newest_first);
    assert_eq!((report.duplicates, report.conflicts, report.refused), (1, 1, 0));
    assert_eq!((report.gaps, report.missing, report.first_gaps[0].until), (1, 1, 1_600_000_180_000));
}

#[test]
fn gap_policies() {
    let text = format!("{HEADER}1600000000,10,12,9,11,5\n1600000060,11,12,9,11,5\n1600000240,10,12,9,11,5\n");
    let with = |gaps, filled_max| {
        let options = ImportOptions { gaps, filled_max, ..ImportOptions::default() };
        import_candles(text.as_bytes(), &options, |_| {})
    };
    assert_eq!(with(GapPolicy::Keep, 0).unwrap().candles.len(), 3);
    let filled = with(GapPolicy::Fill, 2).unwrap();
    assert_eq!((filled.candles.len(), filled.report.filled), (5, 2));
    assert_eq!(
        filled.candles[2],
        Candle { time: 1_600_000_120_000, open: 11, high: 11, low: 11, close: 11, volume: 0 }
    );
    assert!(matches!(with(GapPolicy::Fill, 1), Err(ImportError::TooManyMissing { missing: 2, limit: 1 })));
    assert!(matches!(with(GapPolicy::Refuse, 0), Err(ImportError::Gaps { gaps: 1, missing: 2, .. })));
}

#[test]
fn an_interval_that_lies_is_an_error() {
    let text = format!("{HEADER}1600000000,1,1,1,1,1\n1600000060,1,1,1,1,1\n");
    let options = ImportOptions { interval: "15m".parse().ok(), ..ImportOptions::default() };
    assert!(matches!(
        import_candles(text.as_bytes(), &options, |_| {}),
        Err(ImportError::Interval { found: 60_000, .. })
    ));
}

#[test]
fn nonsense_is_a_clear_error() {
    assert!(matches!(import(""), Err(ImportError::NoColumns { .. })));
    assert!(matches!(import("hello\nworld\n"), Err(ImportError::NoColumns { .. })));
    assert!(matches!(import(HEADER), Err(ImportError::Empty { rows: 0 })));
    assert!(matches!(
        import("time,open,high,low\n1,2,3,4\n"),
        Err(ImportError::MissingColumn { line: 1, missing: "close" })
    ));
    assert!(matches!(
        import_candles(&[0x1f, 0x8b, 0, 0], &ImportOptions::default(), |_| {}),
        Err(ImportError::Packed { what: "gzip", .. })
    ));
}

/// A reader that gives a few bytes at a time.
struct Dripping<'a>(&'a [u8], usize);

impl Read for Dripping<'_> {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        let n = self.0.len().min(self.1).min(into.len());
        into[..n].copy_from_slice(&self.0[..n]);
        self.0 = &self.0[n..];
        Ok(n)
    }
}

#[test]
fn what_is_read_bit_by_bit_is_what_lies_in_memory() {
    // Longer than what is read of a text at once, with a line that is refused near its end.
    let rows = |i: i64| format!("{},10.{:03},12,9,11,5\n", 1_600_000_000 + i * 60, i % 1_000);
    let long: String = (0..60_000).map(rows).collect::<String>() + "1700000000,1,2\n1603600000,10,12,9,11,5";
    let long = format!("\u{feff}{HEADER}{long}");
    assert!(long.len() > 3 << 19);
    let json = b"[[1600000000,10.5,12,9,11,5],[1600000060,11,12,9,11,0.25]]".to_vec();
    let files = [
        TWO.as_bytes().to_vec(),
        long.clone().into_bytes(),
        gzipped(long.as_bytes()),
        gzipped(&gzipped(TWO.as_bytes())),
        zipped(&[("a.csv", long.as_bytes())]),
        gzipped(&json),
        json,
        Vec::new(),
        b"hello\nworld\n".to_vec(),
        gzipped(long.as_bytes())[..9_000].to_vec(),
    ];
    for (n, bytes) in files.iter().enumerate() {
        let whole = with(bytes, &ImportOptions::default());
        for step in [7, 4_099, usize::MAX] {
            let mut seen = 0;
            let mut reader = Dripping(bytes, if bytes.len() > 100_000 { step.max(4_099) } else { step });
            let read = import_from(&mut reader, bytes.len() as u64, &ImportOptions::default(), |p| seen = p.bytes);
            match (&whole, read) {
                (Ok(whole), Ok(read)) => assert_eq!(*whole, read, "file {n} by {step}"),
                (Err(whole), Err(read)) => assert_eq!(whole.to_string(), read.to_string(), "file {n} by {step}"),
                (whole, read) => panic!("file {n} by {step}: {whole:?} but {read:?}"),
            }
            assert!(seen <= bytes.len());
        }
    }
}

#[test]
fn a_comma_that_may_be_a_decimal_one_is_refused_until_a_row_tells() {
    let file = |rows: &str| import(&format!("time;open;high;low;close;volume\n{rows}"));
    // A thousand times too much if it were read as thousands.
    let unsure = "1600000000;26.5;26.9;26.4;26.8;1,234\n1600000060;26.8;26.9;26.4;26.8;5\n";
    let found = file(unsure).unwrap().report;
    assert_eq!((found.candles, found.first_refused[0].reason), (1, RefusedReason::Comma { column: 6 }));
    for sure in ["1,026.5;1,026.9;1,026.4;1,026.8;1,234", "1026.5;1026.9;1026.4;1026.8;1,234,567"] {
        let found = file(&format!("{unsure}1600000120;{sure}\n1600000180;1,026;1,027;1,026;1,027;1,234\n")).unwrap();
        assert_eq!((found.report.refused, found.candles[2].open), (1, 10_260), "{sure}");
    }
}

/// Files of spreadsheets in half of Europe were refused row by row.
#[test]
fn a_decimal_comma_is_told_by_a_number_that_can_be_nothing_else() {
    let file = |rows: &str| import(&format!("time;open;high;low;close;volume\n{rows}"));
    let found =
        file("1600000000000;26,5;26,9;26,4;26,8;1,234\n1600000060000;1.026,5;1.027;1.026;1.027;1.234\n").unwrap();
    let Import { candles, scale, report, .. } = found;
    assert_eq!((report.refused, scale.price_decimals(), scale.volume_decimals()), (0, 1, 3));
    assert_eq!((candles[0].open, candles[1].open, candles[1].close), (265, 10_265, 10_270));
    assert_eq!((candles[0].volume, candles[1].volume), (1_234, 1_234_000));
    // Where a point was a decimal one before, or stands beside it, nothing is guessed.
    for rows in [
        "1600000000000;26.5;26.9;26.4;26.8;5\n1600000060000;26,8;26,9;26,4;26,8;5\n",
        "1600000000000;26,5;26.9;26.4;26.8;5\n1600000060000;26.8;26.9;26.4;26.8;5\n",
    ] {
        let found = file(rows).unwrap();
        assert_eq!((found.candles.len(), found.report.refused), (1, 1), "{rows}");
    }
    let unsure = file("1600000000000;26;27;26;26;1,234\n1600000060000;26,8;26,9;26,4;26,8;5\n").unwrap();
    assert_eq!((unsure.candles.len(), unsure.report.refused), (1, 1));
}

proptest::proptest! {
    /// A quote sends a line through the careful path: both must read the same.
    #[test]
    fn the_plain_and_the_careful_path_agree(
        rows in proptest::collection::vec(("1[0-9]{12}", "[0-9]{0,7}\\.?[0-9]{0,12}", "[0-9.]{0,20}"), 1..20),
    ) {
        let text = |quote: &str| {
            let line = |(time, price, volume): &(String, String, String)| {
                format!("{quote}{time}{quote},{price},{price},{price},{price},{volume}")
            };
            let mut lines: Vec<String> = rows.iter().map(line).collect();
            lines.insert(0, HEADER.trim_end().to_owned());
            import(&lines.join("\n")).map_err(|e| e.to_string())
        };
        proptest::prop_assert_eq!(text(""), text("\""));
    }

    #[test]
    fn any_bytes_never_panic(bytes: Vec<u8>, text in "[0-9.,eE+\\-\n\r\"; ]{0,200}") {
        let _ = import_candles(&bytes, &ImportOptions::default(), |_| {});
        let _ = import_candles(format!("{HEADER}{text}").as_bytes(), &ImportOptions::default(), |_| {});
        let _ = import_candles(text.as_bytes(), &ImportOptions::default(), |_| {});
    }
}

// === containers ===

const TWO: &str = "time,open,high,low,close,volume\n1600000000,10.5,12,9,11,5\n1600000060,11,12,9,11,0.25\n";

fn zipped(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut writer = zip::ZipWriter::new(Cursor::new(Vec::new()));
    for (name, bytes) in files {
        writer.start_file(*name, zip::write::SimpleFileOptions::default()).unwrap();
        std::io::Write::write_all(&mut writer, bytes).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

fn gzipped(bytes: &[u8]) -> Vec<u8> {
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut packed, bytes).unwrap();
    packed.finish().unwrap()
}

fn with(bytes: &[u8], options: &ImportOptions) -> Result<Import, ImportError> {
    import_candles(bytes, options, |_| {})
}

#[test]
fn a_packed_file_is_the_same_file_in_every_packing() {
    let plain = import(TWO).unwrap();
    let default = ImportOptions::default();
    for packed in [
        gzipped(TWO.as_bytes()),
        zipped(&[("a.csv", TWO.as_bytes())]),
        zipped(&[("a.csv.gz", &gzipped(TWO.as_bytes()))]),
        zipped(&[("a.csv", TWO.as_bytes()), ("__MACOSX/._a.csv", b"x")]),
    ] {
        assert_eq!(with(&packed, &default).unwrap(), plain);
        assert!(with(&packed[..packed.len() / 2], &default).is_err(), "a truncated archive");
    }
    let two = zipped(&[("a.csv", TWO.as_bytes()), ("b.csv", TWO.as_bytes())]);
    assert!(matches!(with(&two, &default), Err(ImportError::Archive { count: 2 })));
    for foreign in [&b"FEA1"[..], b"\xff\xfea", b"BZh9", b"\xfd7zXZ", b"SQLite format 3"] {
        assert!(matches!(with(foreign, &default), Err(ImportError::Foreign { .. })));
    }
}

#[test]
fn json_in_every_shape_is_the_same_candles() {
    let plain = import(TWO).unwrap();
    for json in [
        "[[1600000000,10.5,12,9,11,5],[1600000060,11,12,9,11,0.25]]",
        " [[1600000000,\"10.5\",\"12\",\"9\",\"11\",\"5\"],\n[1600000060,\"11.00\",\"12\",\"9\",\"11\",\"0.25\",7,8]]",
        "[1600000000,10.5,12,9,11,5]\n[1600000060,11,12,9,11,0.25]\n",
        "[{\"t\":1600000000,\"o\":10.5,\"h\":12,\"l\":9,\"c\":11,\"v\":5},
          {\"v\":0.25,\"t\":1600000060,\"o\":11,\"h\":12,\"l\":9,\"c\":11}]",
        "{\"time\":1600000000,\"open\":10.5,\"high\":12,\"low\":9,\"close\":11,\"volume\":5}
         {\"time\":1600000060,\"open\":11,\"high\":12,\"low\":9,\"close\":11,\"volume\":0.25}",
        "{\"code\":0,\"data\":{\"candles\":[[1600000000,10.5,12,9,11,5],[1600000060,11,12,9,11,0.25]]}}",
        "{\"s\":\"ok\",\"t\":[1600000000,1600000060],\"o\":[10.5,11],\"h\":[12,12],\"l\":[9,9],\"c\":[11,11],\"v\":[5,0.25]}",
    ] {
        let found = import(json).unwrap_or_else(|error| panic!("{json}: {error}"));
        assert_eq!((found.candles, found.scale), (plain.candles.clone(), plain.scale), "{json}");
    }
    for bad in ["[", "[]", "{}", "[1,2]", "{\"a\":{\"b\":1}}", "[[1600000000,1,1,1]]", "[[1600000000,1,1,null,1,1]]"] {
        assert!(import(bad).is_err(), "{bad}");
    }
    let holes = import("[[1600000000,10,12,9,11,5],[1600000060,11,12,null,11,1],[1600000120,11,12,9,11,1]]").unwrap();
    assert_eq!(holes.report.first_refused, [RefusedRow { line: 2, reason: RefusedReason::Number { column: 4 } }]);
}

#[test]
fn what_the_file_does_not_tell_can_be_said() {
    let map = |pairs: &[(&str, &str)]| ImportOptions {
        map: pairs.iter().map(|(of, name)| ((*of).to_owned(), (*name).to_owned())).collect(),
        ..ImportOptions::default()
    };
    let plain = import(TWO).unwrap();
    let odd = TWO.replace("time,open,high,low,close,volume", "when,first,top,bottom,last,size");
    let named = [("time", "when"), ("open", "first"), ("high", "TOP"), ("low", "bottom"), ("close", "last")];
    let found = with(odd.as_bytes(), &map(&[&named[..], &[("volume", "size")]].concat())).unwrap();
    assert_eq!(found.candles, plain.candles);
    assert!(matches!(
        with(odd.as_bytes(), &map(&named[..4])),
        Err(ImportError::MissingColumn { missing: "close", .. })
    ));
    let wrong = with(TWO.as_bytes(), &map(&[("close", "adjusted")])).unwrap_err().to_string();
    assert!(wrong.contains("no column \"adjusted\" for close; the file has time, open"), "{wrong}");
    let no_header = "11,9,12,10.5,1600000000\n11,9,12,11,1600000060\n";
    let numbered = map(&[("time", "5"), ("open", "4"), ("high", "3"), ("low", "2"), ("close", "1")]);
    let found = with(no_header.as_bytes(), &numbered).unwrap();
    assert_eq!(found.candles.iter().map(|candle| candle.open).collect::<Vec<_>>(), [105, 110]);

    let micros = "time,open,high,low,close\n60000000,1,1,1,1\n120000000,1,1,1,1\n";
    let unit = ImportOptions { time_unit: Some(Unit::Micros), ..ImportOptions::default() };
    let found = with(micros.as_bytes(), &unit).unwrap();
    assert_eq!((found.candles[1].time, found.report.units[0].as_str()), (120_000, "us"));

    let scaled = "date,open,high,low,close\n2020-01-01,130583.99999999999,131073,130453,130935\n";
    let shift = ImportOptions { price_shift: 5, ..ImportOptions::default() };
    let found = with(scaled.as_bytes(), &shift).unwrap();
    assert_eq!((found.scale.price_decimals(), found.candles[0].open), (5, 130_584));
}

#[test]
fn what_real_files_break_is_refused_row_by_row() {
    let text = format!(
        "\u{feff}{HEADER}1600000000,1.05e1,12,9,11,5\r\n1600000060,\"1,011.5\",1012,9,11,5\n1600000120,nan,12,9,11,5\n\
         1600000180,10,inf,9,11,5\n1600000240,-10,12,9,11,5\n1600000300,10,8,9,9,5\n1600000000,10.5,12,9,11,5\n\
         1600000360,10,12,9,11,-5\nyesterday,10,12,9,11,5\n1600000420,10,12,9,1"
    );
    let found = import(&text).unwrap();
    let lines: Vec<usize> = found.report.first_refused.iter().map(|row| row.line).collect();
    assert_eq!((lines, found.candles.len(), found.report.duplicates), (vec![4, 5, 6, 7, 9, 10, 11], 2, 1));
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(64))]

    /// Whatever is flipped or cut in a good file of any kind: an error or sane, sorted candles, never a panic.
    #[test]
    fn damaged_files_of_every_kind_give_an_error_or_sane_candles(
        kind in 0_usize..4,
        flips in proptest::collection::vec((proptest::prelude::any::<proptest::sample::Index>(), proptest::prelude::any::<u8>()), 1..6),
        cut: proptest::sample::Index,
        is_cut: bool,
    ) {
        let json = b"[[1600000000,10.5,12,9,11,5],[1600000060,11,12,9,11,0.25]]";
        let mut bytes = match kind {
            0 => TWO.as_bytes().to_vec(),
            1 => json.to_vec(),
            2 => gzipped(TWO.as_bytes()),
            _ => zipped(&[("a.csv", TWO.as_bytes())]),
        };
        for (place, to) in flips {
            let place = place.index(bytes.len());
            bytes[place] = to;
        }
        if is_cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        if let Ok(import) = with(&bytes, &ImportOptions::default()) {
            proptest::prop_assert!(import.candles.iter().all(|candle| candle.check().is_ok()));
            proptest::prop_assert!(import.candles.windows(2).all(|pair| pair[0].time < pair[1].time));
        }
    }
}
