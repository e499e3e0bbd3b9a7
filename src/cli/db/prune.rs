//! `atra db prune` and `forget-team`: delete the beginning of a journal that nobody uses, and what keeps it.

use std::path::Path;

use atra::{
    Env as _, Name, SystemEnv,
    agents::desk::TEAM,
    storage::{
        Keep, Pruned, REPEATS_WITHIN, Span, StoreError, clock_of, forget_team, plan_forget, plan_prune, prune_file,
    },
};
use serde_json::json;

use crate::cli::{
    args::PruneArgs,
    db_of,
    error::CliError,
    open,
    output::{Output, Style, counted, grouped, shown},
    progress::events_bar,
};

/// Deletes what is older than what is to be kept, and not needed by anybody; or says what that would be.
pub(crate) async fn prune(args: &PruneArgs, out: &mut Output) -> Result<(), CliError> {
    let path = db_of(&args.db)?;
    let kept_for = |span: Option<Span>| Some(span.map_or(REPEATS_WITHIN, |span| span.0));
    let keep = Keep {
        span: args.keep.map(|span| span.0),
        events: args.keep_events,
        keys: kept_for(args.keep_keys),
        results: kept_for(args.keep_results),
    };
    let db = open(&path).await?;
    let wall = SystemEnv::new().now();
    if args.dry_run {
        let plan = plan_prune(&*db, keep, clock_of(&*db, wall).await?).await?;
        let floor = plan.upto.max(plan.floor);
        return tell(&path, &Pruned { plan, floor, keys: 0, results: 0 }, true, out);
    }
    drop(db);
    let bar = events_bar("prune");
    let done = prune_file(&path, keep, wall, |plan, floor| {
        bar.set_length(plan.upto.get() - plan.floor.get());
        bar.set_position(floor.get() - plan.floor.get());
    })
    .await;
    bar.finish_and_clear();
    tell(&path, &done?, false, out)
}

/// Drops a team that pins the journal, or says what that would free.
pub(crate) async fn forget(team: &str, dry_run: bool, path: &Path, out: &mut Output) -> Result<(), CliError> {
    let name = Name::new(team).map_err(CliError::Name)?;
    let db = open(path).await?;
    if team == TEAM {
        let next = "to start it again use 'atra run --fresh'; the candles stay";
        return Err(CliError::Usage { what: format!("team {TEAM} is the one that 'atra run' starts"), next });
    }
    let plan = if dry_run { plan_forget(&*db, &name).await } else { forget_team(path, &name).await };
    let plan = match plan {
        Err(StoreError::UnknownTeam(_)) => {
            let what = format!("there is no team {team} in {}", path.display());
            return Err(CliError::NotFound { what, next: "see which there are with 'atra status'".into() });
        }
        plan => plan?,
    };
    if out.is_json() {
        let mut value = json!(plan);
        value["dry_run"] = json!(dry_run);
        value["db"] = json!(shown(path));
        return out.json(&value);
    }
    let agents: Vec<&str> = plan.agents.iter().map(Name::as_str).collect();
    let (verb, agents) = (if dry_run { "would forget" } else { "forgot" }, agents.join(", "));
    let text = format!("{verb} team {team} ({agents}) and {} of it", counted(plan.facts, "fact"));
    out.line(&out.paint(Style::Bold, &text))?;
    out.line("its events, memory, dead letters and recorded results stay")?;
    let (pinned, freed) = (grouped(plan.pinned.get()), grouped(plan.freed.get()));
    out.line(&if plan.freed > plan.pinned {
        format!("without it the journal can be pruned up to {freed}, with it up to {pinned}")
    } else {
        format!("another team pins the journal at {freed}, so this frees nothing")
    })
}

fn tell(path: &Path, pruned: &Pruned, dry_run: bool, out: &mut Output) -> Result<(), CliError> {
    let Pruned { plan, floor, keys, results } = pruned;
    let floor = *floor;
    if out.is_json() {
        return out.json(&json!({
            "db": shown(path),
            "dry_run": dry_run,
            "floor_before": plan.floor,
            "floor": floor,
            "wanted": plan.wanted,
            "last_seq": plan.last,
            "pinned_by": plan.pinned_by,
            "keys": keys,
            "results": results,
        }));
    }
    let text = if floor <= plan.floor {
        "nothing to prune".into()
    } else {
        let verb = if dry_run { "would prune" } else { "pruned" };
        let (from, last) = (grouped(plan.floor.get() + 1), grouped(plan.last.get()));
        // What is one batch goes as a whole, which only the pruning itself looks at.
        let about = if dry_run { "about " } else { "" };
        let to = grouped(floor.get());
        format!("{verb} seqs {from} to {about}{to}, except for what is needed; the journal ends at {last}")
    };
    let text = out.paint(Style::Bold, &text);
    out.line(&text)?;
    if let Some(team) = &plan.pinned_by {
        let (cursor, wanted) = (grouped(team.cursor.get()), grouped(plan.wanted.get()));
        out.line(&format!(
            "team {} has taken events up to {cursor} only: those up to {wanted} stay until it has",
            team.team
        ))?;
    }
    if keys + results > 0 {
        let (keys, results) = (grouped(*keys), grouped(*results));
        out.line(&format!("deleted {keys} idempotency keys and {results} results of calls to the outside"))?;
    }
    if (floor > plan.floor || keys + results > 0) && !dry_run {
        out.line("the space is used again; 'atra db vacuum' gives it back to the disk")?;
    }
    Ok(())
}
