//! `atra memory`: what agents and callers share, newest or as it was.

use std::path::Path;

use atra::{Name, storage::FactKind};
use serde_json::{Value, json};

use super::{
    error::CliError,
    events::EventRef,
    open,
    output::{Output, SHORT_CHARS, short},
};

/// Keys that are read at once.
const PAGE_KEYS: usize = 1_000;

/// Lists the keys that begin with `prefix`, page by page.
pub(crate) async fn ls(prefix: &str, db: &Path, out: &mut Output) -> Result<(), CliError> {
    let db = open(db).await?;
    let (mut from, mut rows) = (Some(prefix.to_owned()), Vec::new());
    while let Some(key) = from {
        let page = db.memory_page(&key, PAGE_KEYS).await?;
        from = page.next.filter(|next| next.starts_with(prefix));
        for fact in page.facts.iter().take_while(|fact| fact.key.starts_with(prefix)) {
            if out.is_json() {
                let value = value_of(fact.value.as_deref());
                out.json(&json!({ "key": fact.key, "value": value, "owner": fact.owner, "seq": fact.version }))?;
            } else {
                let value = short(fact.value.as_deref().unwrap_or("null"), SHORT_CHARS);
                rows.push(vec![fact.key.clone(), format!("#{}", fact.version), fact.owner.to_string(), value]);
            }
        }
    }
    if out.is_json() { Ok(()) } else { out.table(&["key", "seq", "written by", "value"], &rows) }
}

/// Shows one key, newest or as of a seq.
pub(crate) async fn get(key: &str, at: Option<&EventRef>, db: &Path, out: &mut Output) -> Result<(), CliError> {
    let db = open(db).await?;
    let missing = |when: &str| CliError::NotFound {
        what: format!("memory has no key {key:?}{when}"),
        next: "list the keys with 'atra memory ls'".into(),
    };
    let (value, owner, seq) = match at {
        Some(at) => {
            let at = at.seq(&*db).await?;
            let found = db.memory_as_of(key, at).await?.ok_or_else(|| missing(&format!(" as of #{at}")))?;
            (value_of(found.event.payload.json().ok()), found.event.source.clone(), found.seq)
        }
        None => {
            // Memory is unique by key alone: the owner that is asked for does not matter.
            let anybody = Name::new("atra").map_err(CliError::Name)?;
            let found = db.fact(FactKind::Memory, &anybody, key).await?.ok_or_else(|| missing(""))?;
            (value_of(found.value.as_deref()), found.owner, found.version)
        }
    };
    if out.is_json() {
        return out.json(&json!({ "key": key, "value": value, "owner": owner, "seq": seq }));
    }
    out.pairs(&[("key", key.to_owned()), ("seq", format!("#{seq}")), ("written by", owner.to_string())])?;
    out.pretty(&value)
}

fn value_of(json: Option<&str>) -> Value {
    json.and_then(|json| serde_json::from_str(json).ok()).unwrap_or(Value::Null)
}
