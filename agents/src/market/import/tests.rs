//! What real and damaged files do to the importer.

use super::*;

fn import(text: &str) -> Result<Import, ImportError> {
    import_csv(text.as_bytes(), &ImportOptions::default(), |_| {})
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

#[test]
fn the_row_beyond_the_limit_stops_the_import() {
    let text = format!("{HEADER}{}", "x,1,1,1,1,1\n".repeat(3));
    let options = |refused_max| ImportOptions { refused_max, ..ImportOptions::default() };
    let good = format!("{text}1600000000,1,1,1,1,1\n");
    assert_eq!(import_csv(good.as_bytes(), &options(3), |_| {}).unwrap().report.refused, 3);
    let error = import_csv(text.as_bytes(), &options(2), |_| {}).unwrap_err();
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
        import_csv(text.as_bytes(), &options, |_| {})
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
    assert!(matches!(import_csv(text.as_bytes(), &options, |_| {}), Err(ImportError::Interval { found: 60_000, .. })));
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
    assert!(matches!(import_csv(&[0x1f, 0x8b, 0, 0], &ImportOptions::default(), |_| {}), Err(ImportError::Gzip(_))));
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
        let _ = import_csv(&bytes, &ImportOptions::default(), |_| {});
        let _ = import_csv(format!("{HEADER}{text}").as_bytes(), &ImportOptions::default(), |_| {});
        let _ = import_csv(text.as_bytes(), &ImportOptions::default(), |_| {});
    }
}
