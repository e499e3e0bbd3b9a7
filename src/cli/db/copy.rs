//! `atra db backup`, `restore` and `vacuum`: whole files.

use std::path::Path;

use atra::storage::{Progress, backup as back_up, restore as put_back, vacuum as compact};
use indicatif::ProgressBar;
use serde_json::json;

use crate::cli::{
    error::CliError,
    open, open_backup,
    output::{Output, Style, bytes, counted, shown},
    progress::bytes_bar,
    refuse_folder,
};

/// Copies a database to `to`, whether a runtime has it or not.
pub(crate) async fn backup(path: &Path, to: &Path, out: &mut Output) -> Result<(), CliError> {
    // Says it if the file is missing or nobody's.
    drop(open(path).await?);
    if to.is_dir() {
        let what = format!("{} is a folder", to.display());
        return Err(CliError::NotFound {
            what,
            next: format!("name a file in it, such as {}", to.join("atra.db").display()),
        });
    }
    let bar = bytes_bar("backup");
    let copied = back_up(path, to, |progress| show(&bar, progress)).await;
    bar.finish_and_clear();
    let copied = copied?;
    if out.is_json() {
        let (last, events) = (copied.check.last_seq, copied.check.events);
        return out
            .json(&json!({ "db": shown(path), "file": shown(to), "bytes": copied.bytes, "events": events, "last_seq": last, "sound": true }));
    }
    let events = counted(copied.check.events, "event");
    let text = format!("{}: {}, {events}, checked", to.display(), bytes(copied.bytes));
    out.line(&out.paint(Style::Green, &text))
}

/// Puts a backup in the place of a database that nobody uses.
pub(crate) async fn restore(path: &Path, from: &Path, out: &mut Output) -> Result<(), CliError> {
    refuse_folder(path)?;
    drop(open_backup(from).await?);
    let bar = bytes_bar("restore");
    let restored = put_back(path, from, |progress| show(&bar, progress)).await;
    bar.finish_and_clear();
    let restored = restored?;
    let check = &restored.copied.check;
    if out.is_json() {
        return out.json(&json!({
            "db": shown(path),
            "file": shown(from),
            "bytes": restored.copied.bytes,
            "events": check.events,
            "last_seq": check.last_seq,
            "aside": restored.aside.as_deref().map(shown),
        }));
    }
    let text = format!("{} is {} again: {}, checked", path.display(), from.display(), counted(check.events, "event"));
    out.line(&out.paint(Style::Green, &text))?;
    match &restored.aside {
        Some(aside) => out.line(&format!("what was there before is in {}", aside.display())),
        None => Ok(()),
    }
}

/// Gives free space in a database back to the disk.
pub(crate) async fn vacuum(path: &Path, out: &mut Output) -> Result<(), CliError> {
    drop(open(path).await?);
    let bar = bytes_bar("vacuum");
    let done = compact(path, |progress| show(&bar, progress)).await;
    bar.finish_and_clear();
    let done = done?;
    if out.is_json() {
        return out.json(&json!({ "db": shown(path), "bytes_before": done.bytes_before, "bytes": done.bytes_after }));
    }
    out.line(&format!("{}: {}, before {}", path.display(), bytes(done.bytes_after), bytes(done.bytes_before)))
}

fn show(bar: &ProgressBar, progress: Progress) {
    bar.set_message(progress.what);
    // What comes after the copy, its check, has no measure: a full bar would say that it is done.
    let is_measured = progress.bytes < progress.bytes_total;
    bar.set_length(progress.bytes_total);
    bar.set_position(if is_measured { progress.bytes } else { progress.bytes_total.saturating_sub(1) });
}
