//! `atra db prune`: deletes the beginning of a journal that nobody uses.

use atra::{
    Seq, SqliteOptions, SqliteStore,
    storage::{Keep, PrunePlan, Store, plan_prune},
};
use serde_json::json;

use crate::cli::{
    args::PruneArgs,
    db_of,
    error::CliError,
    open,
    output::{Output, Style, grouped},
    progress::events_bar,
};

/// Events that one transaction deletes. 10,000: nobody else waits, and the bar moves.
const PIECE_EVENTS: u64 = 10_000;

/// Deletes what is older than what is to be kept, and not needed by anybody; or says what that would be.
pub(crate) async fn prune(args: &PruneArgs, out: &mut Output) -> Result<(), CliError> {
    let path = db_of(&args.db)?;
    let keep = Keep { span: args.keep.map(|span| span.0), events: args.keep_events };
    let db = open(&path).await?;
    if args.dry_run {
        let plan = plan_prune(&*db, keep).await?;
        return tell(&plan, plan.upto.max(plan.floor), true, out);
    }
    drop(db);
    let mut options = SqliteOptions::new(&path);
    (options.create, options.readers) = (false, 1);
    let mut store = SqliteStore::open(options).await?;
    let done = delete(&mut store, keep).await;
    // In any case: it moves the log into the file. The first error is the one to tell.
    let closed = store.close().await;
    let (plan, floor) = done?;
    closed?;
    tell(&plan, floor, false, out)
}

async fn delete(store: &mut SqliteStore, keep: Keep) -> Result<(PrunePlan, Seq), CliError> {
    store.load().await?;
    let plan = plan_prune(&*store.reader(), keep).await?;
    let bar = events_bar("prune");
    bar.set_length(plan.upto.get().saturating_sub(plan.floor.get()));
    let mut floor = plan.floor;
    while floor < plan.upto {
        let next = store.prune(plan.upto, PIECE_EVENTS).await?;
        if next <= floor {
            // What is left belongs to a batch that is kept.
            break;
        }
        floor = next;
        // So that the log does not grow by all that is deleted.
        store.checkpoint().await?;
        bar.set_position(floor.get() - plan.floor.get());
    }
    bar.finish_and_clear();
    Ok((plan, floor))
}

fn tell(plan: &PrunePlan, floor: Seq, dry_run: bool, out: &mut Output) -> Result<(), CliError> {
    if out.is_json() {
        return out.json(&json!({
            "dry_run": dry_run,
            "floor_before": plan.floor,
            "floor": floor,
            "wanted": plan.wanted,
            "last_seq": plan.last,
            "pinned_by": plan.pinned_by,
        }));
    }
    let text = if floor <= plan.floor {
        "nothing to prune".into()
    } else {
        let verb = if dry_run { "would prune" } else { "pruned" };
        let (from, last) = (grouped(plan.floor.get() + 1), grouped(plan.last.get()));
        format!("{verb} seqs {from} to {}, except for what is needed; the journal ends at {last}", grouped(floor.get()))
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
    if floor > plan.floor && !dry_run {
        out.line("the space is used again; 'atra db vacuum' gives it back to the disk")?;
    }
    Ok(())
}
