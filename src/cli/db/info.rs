//! `atra db info`: what a file tells, without a runtime and beside one.

use std::path::Path;

use atra::{
    agents::market::calendar::minute,
    storage::{FactKind, Info, count_rows, info as info_of},
};
use serde_json::{Value, json};

use crate::cli::{
    candles::{self, Stored},
    error::CliError,
    open,
    output::{Output, Style, bytes, grouped, shown},
};

/// Says what is in a file, who has it, and what keeps it from becoming smaller.
pub(crate) async fn info(path: &Path, out: &mut Output) -> Result<(), CliError> {
    let db = open(path).await?;
    let info = info_of(path).await?;
    let counts = count_rows(path).await?;
    let mut series = Vec::new();
    for stored in candles::series(&*db).await? {
        let span = candles::span(&*db, &stored).await?;
        series.push((stored, span));
    }
    if out.is_json() {
        let of = |(row, span): &(Stored, Option<(i64, i64)>)| {
            let (from, to) = span.unzip();
            json!({ "series": row.key, "candles": row.candles, "from": from, "to": to })
        };
        let series: Vec<_> = series.iter().map(of).collect();
        let mut value = json!(info);
        value["rows"] = json!(counts.rows);
        value["facts"] = json!(counts.facts);
        if let Some(fields) = value.as_object_mut() {
            fields.remove("path");
        }
        value["db"] = json!(shown(path));
        value["series"] = json!(series);
        value["readers"] = value["log"]["readers"].take();
        value["log"] = json!({ "bytes": info.log.bytes, "pages": info.log.pages, "moved": info.log.moved });
        value["running"] = json!(info.owner.is_some());
        value["process"] = info.owner.and_then(|owner| owner.process).map_or(Value::Null, |process| json!(process));
        return out.json(&value);
    }
    out.pairs(&pairs(path, &info))?;
    for reader in info.log.readers.iter().filter(|reader| reader.holds_bytes > 0) {
        let held = bytes(reader.holds_bytes);
        let text =
            format!("process {} reads from the log; {held} of it cannot be given back meanwhile", reader.process);
        out.line(&out.paint(Style::Red, &text))?;
    }
    let rows: Vec<Vec<String>> = counts.rows.iter().map(|(table, n)| vec![table.clone(), grouped(*n)]).collect();
    out.line("")?;
    out.table(&["table", "rows"], &rows)?;
    if !counts.facts.is_empty() {
        let kind = |kind: &FactKind| json!(kind).as_str().unwrap_or_default().replace('_', " ");
        let rows: Vec<Vec<String>> = counts.facts.iter().map(|(of, n)| vec![kind(of), grouped(*n)]).collect();
        out.line("")?;
        out.table(&["facts", "rows"], &rows)?;
    }
    if !series.is_empty() {
        let of = |(row, span): &(Stored, Option<(i64, i64)>)| {
            // From the first open to the last close.
            let close = |last: i64| minute(last.saturating_add(row.key.interval().millis()));
            let (from, to) = span.map(|(first, last)| (minute(first), close(last))).unwrap_or_default();
            vec![row.key.to_string(), grouped(row.candles), from, to]
        };
        let rows: Vec<Vec<String>> = series.iter().map(of).collect();
        out.line("")?;
        out.table(&["series", "candles", "from", "to"], &rows)?;
    }
    Ok(())
}

fn pairs(path: &Path, info: &Info) -> Vec<(&'static str, String)> {
    let free = info.file_bytes.saturating_sub(info.used_bytes);
    let log = &info.log;
    let runtime = match info.owner {
        Some(owner) => owner.process.map_or_else(|| "running".into(), |process| format!("running (process {process})")),
        None => "not running".into(),
    };
    let journal = match (info.floor.get(), info.last_seq.get()) {
        (0, 0) => "empty".into(),
        (0, last) => format!("seqs 1 to {}", grouped(last)),
        (floor, last) => {
            format!(
                "seqs {} to {}; what came before was pruned, but for what is needed",
                grouped(floor + 1),
                grouped(last)
            )
        }
    };
    let oldest = info.teams.iter().min_by_key(|team| team.cursor);
    let oldest = oldest.map_or_else(
        || "no teams".into(),
        |team| format!("team {} at {}: what comes after it stays", team.team, grouped(team.cursor.get())),
    );
    vec![
        ("database", path.display().to_string()),
        ("size", format!("{}, {} of it free (see 'atra db vacuum')", bytes(info.file_bytes), bytes(free))),
        (
            "log",
            format!("{}; {} of {} WAL pages checkpointed", bytes(log.bytes), grouped(log.moved), grouped(log.pages)),
        ),
        ("schema", format!("{} (this build knows {})", info.schema_version, info.schema_version_known)),
        ("sqlite", info.sqlite_version.clone()),
        ("runtime", runtime),
        ("journal", journal),
        ("oldest cursor", oldest),
    ]
}
