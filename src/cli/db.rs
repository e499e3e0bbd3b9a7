//! `atra db`: questions about a whole database, and what is done to it as a whole.

mod copy;
mod info;
mod prune;

use std::path::Path;

use atra::{
    Name,
    storage::{StoreError, check as check_file, digest_of_publisher, digest_with_progress},
};
use serde_json::json;

use super::{
    error::CliError,
    open,
    output::{Output, Style, grouped, shown},
    progress::{events_bar, spinner},
};

pub(crate) use self::{
    copy::{backup, restore, vacuum},
    info::info,
    prune::{forget, prune},
};

/// Hashes what was decided, by all or by one publisher.
pub(crate) async fn digest(publisher: Option<&str>, path: &Path, out: &mut Output) -> Result<(), CliError> {
    let db = open(path).await?;
    if let Some(publisher) = publisher {
        let name = Name::new(publisher).map_err(CliError::Name)?;
        let (hash, n_events) = digest_of_publisher(&*db, &name).await?;
        if n_events == 0 {
            return Err(CliError::NotFound {
                what: format!("{publisher} has published nothing"),
                next: "see who has with 'atra db digest --json'".into(),
            });
        }
        if out.is_json() {
            return out.json(&json!({ "db": shown(path), "digest": hash, "publisher": name, "events": n_events }));
        }
        return out.line(&hash);
    }
    let bar = events_bar("digest");
    let digest = digest_with_progress(&*db, |done, all| {
        bar.set_length(all);
        bar.set_position(done);
    })
    .await;
    bar.finish_and_clear();
    let digest = digest?;
    if out.is_json() {
        let of = |(name, hash, n_events): &(Name, String, u64)| json!({ "publisher": name, "digest": hash, "events": n_events });
        let publishers: Vec<_> = digest.publishers.iter().map(of).collect();
        return out.json(&json!({ "db": shown(path), "digest": digest.whole, "publishers": publishers }));
    }
    out.line(&digest.whole)
}

/// Checks a file; what is wrong makes it a failure.
pub(crate) async fn check(path: &Path, out: &mut Output) -> Result<(), CliError> {
    // Says it if the file is missing or nobody's. How it is damaged is for the report.
    match open(path).await {
        Err(CliError::Store(StoreError::Damaged { .. })) => {}
        opened => drop(opened?),
    }
    let bar = spinner("checking every page, check value and rule");
    let report = check_file(path).await;
    bar.finish_and_clear();
    let report = report?;
    if out.is_json() {
        let mut value = json!(report);
        value["sound"] = json!(report.is_sound());
        value["db"] = json!(shown(path));
        out.json(&value)?;
    } else {
        for problem in &report.problems {
            let text = out.paint(Style::Red, problem);
            out.line(&text)?;
        }
        if report.is_sound() {
            let text =
                format!("sound: {} events, no gaps, check values, causes and memory agree", grouped(report.events));
            out.line(&out.paint(Style::Green, &text))?;
            if report.chained_from.get() > 1 {
                out.line(&format!("check values cover the journal from seq {} on", report.chained_from))?;
            }
        }
    }
    if report.is_sound() {
        return Ok(());
    }
    out.finish()?;
    Err(CliError::Damaged { path: path.to_owned(), n_problems: report.problems.len() })
}
