//! `atra dead-letters`: events that an agent gave up on, with the reason.

use std::path::Path;

use atra::storage::{FactKind, FactRow};
use serde_json::{Value, json};

use super::{
    error::CliError,
    open,
    output::{Output, SHORT_CHARS, short},
};

/// Lists them, of one agent or of all.
pub(crate) async fn ls(agent: Option<&str>, db: &Path, out: &mut Output) -> Result<(), CliError> {
    let db = open(db).await?;
    let mut letters = db.facts(FactKind::DeadLetter, None).await?;
    letters.retain(|letter| agent.is_none_or(|agent| letter.owner.as_str() == agent));
    if out.is_json() {
        return letters.iter().try_for_each(|letter| out.json(&to_json(letter)));
    }
    if letters.is_empty() {
        return out.line("no dead letters");
    }
    let row = |letter: &FactRow| {
        let value = to_json(letter);
        let text = |key: &str| match &value[key] {
            Value::String(text) => text.clone(),
            Value::Null => "-".into(),
            other => other.to_string(),
        };
        let reason = short(&text("reason"), SHORT_CHARS);
        vec![letter.owner.to_string(), letter.key.clone(), text("topic"), text("attempts"), reason]
    };
    let rows: Vec<Vec<String>> = letters.iter().map(row).collect();
    out.table(&["agent", "event", "topic", "attempts", "reason"], &rows)
}

/// Shows one whole: the event it is about, the reason, and what the event said.
pub(crate) async fn show(event: &str, db: &Path, out: &mut Output) -> Result<(), CliError> {
    let db = open(db).await?;
    let mut letters = db.facts(FactKind::DeadLetter, None).await?;
    letters.retain(|letter| letter.key.starts_with(event));
    if letters.is_empty() {
        return Err(CliError::NotFound {
            what: format!("there is no dead letter of an event {event}"),
            next: "list them with 'atra dead-letters ls'".into(),
        });
    }
    for letter in &letters {
        let value = to_json(letter);
        if out.is_json() {
            out.json(&value)?;
        } else {
            out.line(&serde_json::to_string_pretty(&value).unwrap_or_default())?;
        }
    }
    Ok(())
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
