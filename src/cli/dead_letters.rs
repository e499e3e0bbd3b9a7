//! `atra dead-letters`: events that an agent gave up on, with the reason.

use std::path::Path;

use atra::storage::{FactKind, FactRow, Read};
use serde_json::{Value, json};

use super::{
    error::CliError,
    open,
    output::{Output, SHORT_CHARS, short},
};

/// Letters that are read at once.
const PAGE_LETTERS: usize = 1_000;

/// Takes every letter, page by page, sorted by agent and event.
async fn each(db: &dyn Read, mut take: impl FnMut(&FactRow) -> Result<(), CliError>) -> Result<(), CliError> {
    for agent in db.fact_owners(FactKind::DeadLetter).await? {
        let mut from = Some(String::new());
        while let Some(key) = from {
            let page = db.facts_page(FactKind::DeadLetter, &agent, &key, PAGE_LETTERS).await?;
            page.facts.iter().try_for_each(&mut take)?;
            from = page.next;
        }
    }
    Ok(())
}

/// Lists them, of one agent or of all.
pub(crate) async fn ls(agent: Option<&str>, db: &Path, out: &mut Output) -> Result<(), CliError> {
    let db = open(db).await?;
    let mut rows = Vec::new();
    each(&*db, |letter| {
        if agent.is_some_and(|agent| letter.owner.as_str() != agent) {
            return Ok(());
        }
        let value = to_json(letter);
        if out.is_json() {
            return out.json(&value);
        }
        let text = |key: &str| match &value[key] {
            Value::String(text) => text.clone(),
            Value::Null => "-".into(),
            other => other.to_string(),
        };
        let reason = short(&text("reason"), SHORT_CHARS);
        rows.push(vec![letter.owner.to_string(), letter.key.clone(), text("topic"), text("attempts"), reason]);
        Ok(())
    })
    .await?;
    match (out.is_json(), rows.is_empty()) {
        (true, _) => Ok(()),
        (false, true) => out.line("no dead letters"),
        (false, false) => out.table(&["agent", "event", "topic", "attempts", "reason"], &rows),
    }
}

/// Shows one whole: the event it is about, the reason, and what the event said.
pub(crate) async fn show(event: &str, db: &Path, out: &mut Output) -> Result<(), CliError> {
    let db = open(db).await?;
    let mut n_shown = 0;
    each(&*db, |letter| {
        if !letter.key.starts_with(event) {
            return Ok(());
        }
        n_shown += 1;
        let value = to_json(letter);
        match out.is_json() {
            true => out.json(&value),
            false => out.line(&serde_json::to_string_pretty(&value).unwrap_or_default()),
        }
    })
    .await?;
    if n_shown > 0 {
        return Ok(());
    }
    Err(CliError::NotFound {
        what: format!("there is no dead letter of an event {event}"),
        next: "list them with 'atra dead-letters ls'".into(),
    })
}

/// The letter itself, with agent, event and seq of its writing.
fn to_json(letter: &FactRow) -> Value {
    let content: Option<Value> = letter.value.as_deref().and_then(|json| serde_json::from_str(json).ok());
    let mut value = content.filter(Value::is_object).unwrap_or_else(|| json!({}));
    value["agent"] = json!(letter.owner);
    value["event"] = json!(letter.key);
    value["seq"] = json!(letter.version);
    value
}
