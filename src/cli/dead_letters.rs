//! `atra dead-letters`: events that an agent gave up on, with the reason.

use std::path::Path;

use atra::storage::{FactKind, FactRow, Read};
use serde_json::{Value, json};

use super::{
    error::CliError,
    events::EventRef,
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

/// Events that stopped a team and so have no dead letter. They are listed like dead letters, with the team's name.
async fn poison(db: &dyn Read) -> Result<Vec<Value>, CliError> {
    let mut found = Vec::new();
    for team in db.teams().await? {
        let Some(fact) = db.fact(FactKind::Meta, &team.team, atra::runtime::STATE_KEY).await? else { continue };
        let noted: Value = fact.value.and_then(|json| serde_json::from_str(&json).ok()).unwrap_or_default();
        let state = &noted["state"];
        if state["state"] == "poisoned" {
            let reason = format!("stopped team {}: {}", team.team, state["reason"].as_str().unwrap_or_default());
            found.push(json!({
                "team": team.team, "agent": state["agent"], "event": state["event"], "input": state["input"],
                "reason": reason, "seq": fact.version,
            }));
        }
    }
    Ok(found)
}

/// Lists them, of one agent or of all; and the events that stopped a team.
pub(crate) async fn ls(agent: Option<&str>, db: &Path, out: &mut Output) -> Result<(), CliError> {
    let db = open(db).await?;
    let mut rows = Vec::new();
    let mut take = |value: &Value, out: &mut Output| {
        if agent.is_some_and(|agent| value["agent"] != agent) {
            return Ok(());
        }
        if out.is_json() {
            return out.json(value);
        }
        let text = |key: &str| match &value[key] {
            Value::String(text) => text.clone(),
            Value::Null => "-".into(),
            other => other.to_string(),
        };
        let reason = short(&text("reason"), SHORT_CHARS);
        rows.push(vec![text("agent"), text("event"), text("topic"), text("attempts"), reason]);
        Ok(())
    };
    each(&*db, |letter| take(&to_json(letter), out)).await?;
    poison(&*db).await?.iter().try_for_each(|value| take(value, out))?;
    match (out.is_json(), rows.is_empty()) {
        (true, _) => Ok(()),
        (false, true) => out.line("no dead letters"),
        (false, false) => out.table(&["agent", "event", "topic", "attempts", "reason"], &rows),
    }
}

/// Shows those about an event whole: the event, the reason, and what the event said.
pub(crate) async fn show(event: &EventRef, db: &Path, out: &mut Output) -> Result<(), CliError> {
    let db = open(db).await?;
    let id = match event {
        EventRef::Id(id) => id.clone(),
        EventRef::Seq(_) => event.find(&*db).await?.event.id.to_string(),
    };
    let mut n_shown = 0;
    let mut take = |value: &Value, out: &mut Output| {
        // By the event itself, or by the input that led to it, since only the input is in the journal.
        let is_about = |key: &str| value[key].as_str().is_some_and(|text| text.starts_with(&id));
        if !is_about("event") && !is_about("input") {
            return Ok(());
        }
        n_shown += 1;
        if out.is_json() { out.json(value) } else { out.pretty(value) }
    };
    each(&*db, |letter| take(&to_json(letter), out)).await?;
    poison(&*db).await?.iter().try_for_each(|value| take(value, out))?;
    if n_shown > 0 {
        return Ok(());
    }
    Err(CliError::NotFound {
        what: format!("there is no dead letter of event {event}"),
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
