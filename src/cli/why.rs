//! `atra why`: the chain of causes above an event, and the tree of effects below it.
//!
//! A fill is caused by the candle at whose open it was made; why it was wanted is told by the order, a candle before. So
//! the order and what it came with stand beside it, and below an order stand its fills and what they led to.

use atra::{
    Committed, EventType, Filter, Read, Seq,
    agents::{events::Submitted, market::broker::Fill},
    bus::Interest,
};
use serde_json::{Value, json};

use super::{
    args::WhyArgs,
    db_of,
    error::CliError,
    events::{EventJson, line},
    open,
    output::{Output, Style},
};

/// Causes that are followed upwards. A chain within a root is not longer than `hops_max`, 64 by default.
const CAUSES_MAX: usize = 1_000;
/// Effects that are shown in all, whatever depth and width say.
const EFFECTS_MAX: usize = 2_000;
/// Effects that are counted beyond those shown.
const COUNTED_MAX: usize = 100_000;

/// How far before a fill its order is looked for. Between two candles of a series there are some events of each other
/// series, and a desk has tens of them.
const ORDER_WITHIN: u64 = 20_000;

/// An event with what it led to.
struct Node {
    committed: Committed,
    children: Vec<Node>,
    /// What an order became at the next candle.
    fills: Vec<Node>,
    /// Direct effects that are not among the children.
    n_more: usize,
}

/// Tells why an event is there.
pub(crate) async fn why(args: &WhyArgs, out: &mut Output) -> Result<(), CliError> {
    let db = open(&db_of(&args.db)?).await?;
    let event = args.event.find(&*db).await?;
    let (causes, pruned) = causes(&*db, &event).await?;
    let mut left = EFFECTS_MAX;
    let order = match order_of(&*db, &event).await? {
        Some(order) => Some(decided(&*db, order, args, &mut left).await?),
        None => None,
    };
    let mut tree = effects(&*db, event, args.depth, args.width, &mut left).await?;
    fills_below(&*db, &mut tree, args, &mut left).await?;
    if out.is_json() {
        let causes: Vec<EventJson<'_>> = causes.iter().map(EventJson::new).collect::<Result<_, _>>()?;
        return out.json(&json!({
            "causes": causes,
            "pruned_cause": pruned,
            "event": EventJson::new(&tree.committed)?,
            "effects": to_json(&tree)?,
            "fills": fills_json(&tree)?,
            "ordered": order.as_ref().map(to_json_whole).transpose()?,
        }));
    }
    if let Some(seq) = pruned {
        out.line(&out.paint(Style::Dim, &format!("#{seq} led to this and was pruned, with what led to it")))?;
    }
    for (depth, cause) in causes.iter().enumerate() {
        let text = format!("{}{}", "  ".repeat(depth), line(cause, out));
        out.row(&text)?;
    }
    print(&tree, causes.len(), true, out)?;
    if let Some(order) = order {
        out.line("")?;
        out.line(&out.paint(Style::Dim, "ordered a candle before, with"))?;
        print(&order, 0, false, out)?;
    }
    Ok(())
}

/// The order that a fill carries out; `None` for anything else, and for a fill that nobody ordered.
async fn order_of(db: &dyn Read, event: &Committed) -> Result<Option<Committed>, CliError> {
    let Ok(Some(fill)) = event.event.as_type::<Fill>() else { return Ok(None) };
    let Some((id, _)) = fill.id.rsplit_once('.') else { return Ok(None) };
    let after = Seq(event.seq.get().saturating_sub(ORDER_WITHIN)).max(db.floor().await?);
    let is_its = |order: &Committed| order.event.get::<Submitted>().is_ok_and(|order| order.id == id);
    Ok(between::<Submitted>(db, after, event.seq, is_its).await?.pop())
}

/// The fills that carry an order out: none, one, or two for a reversal.
async fn fills_of(db: &dyn Read, event: &Committed) -> Result<Vec<Committed>, CliError> {
    let Ok(Some(order)) = event.event.as_type::<Submitted>() else { return Ok(Vec::new()) };
    let until = Seq(event.seq.get().saturating_add(ORDER_WITHIN)).min(db.last_seq().await?);
    let is_its = |fill: &Committed| {
        fill.event.get::<Fill>().is_ok_and(|fill| fill.id.rsplit_once('.').is_some_and(|(id, _)| id == order.id))
    };
    between::<Fill>(db, event.seq, until, is_its).await
}

/// The events of a type behind `after` and up to `until` that are meant.
async fn between<T: EventType>(
    db: &dyn Read,
    mut after: Seq,
    until: Seq,
    is_meant: impl Fn(&Committed) -> bool,
) -> Result<Vec<Committed>, CliError> {
    let interest = Interest::in_topics(vec![Filter::exactly(&T::TOPIC)]);
    let mut found = Vec::new();
    while after < until {
        let (page, complete) = db.journal(after, until, &interest, EFFECTS_MAX).await?;
        found.extend(page.into_iter().filter(&is_meant));
        if complete <= after {
            break;
        }
        after = complete;
    }
    Ok(found)
}

/// Looks below every order of a tree for what it became.
async fn fills_below(db: &dyn Read, node: &mut Node, args: &WhyArgs, left: &mut usize) -> Result<(), CliError> {
    for fill in fills_of(db, &node.committed).await?.into_iter().take(*left) {
        *left -= 1;
        node.fills.push(effects(db, fill, args.depth, args.width, left).await?);
    }
    for child in &mut node.children {
        Box::pin(fills_below(db, child, args, left)).await?;
    }
    Ok(())
}

/// The candle that an order was decided on, with everything that was decided on it.
async fn decided(db: &dyn Read, order: Committed, args: &WhyArgs, left: &mut usize) -> Result<Node, CliError> {
    let (causes, _) = causes(db, &order).await?;
    let root = causes.into_iter().next().unwrap_or(order);
    effects(db, root, args.depth, args.width, left).await
}

/// From the root down to the direct cause; and the cause where the chain ends because it was pruned.
pub(super) async fn causes(db: &dyn Read, event: &Committed) -> Result<(Vec<Committed>, Option<Seq>), CliError> {
    let mut causes = Vec::new();
    let (mut above, mut pruned) = (event.cause_seq, None);
    while let Some(seq) = above
        && causes.len() < CAUSES_MAX
    {
        let Some(cause) = db.event(seq).await? else {
            pruned = Some(seq);
            break;
        };
        // A cause comes before its effect; anything else is a damaged file, and a check says so.
        above = cause.cause_seq.filter(|next| *next < seq);
        causes.push(cause);
    }
    causes.reverse();
    Ok((causes, pruned))
}

async fn effects(
    db: &dyn Read,
    committed: Committed,
    depth: usize,
    width: usize,
    left: &mut usize,
) -> Result<Node, CliError> {
    let direct = db.effects_of(committed.seq, COUNTED_MAX).await?;
    let n_shown = if depth == 0 { 0 } else { direct.len().min(width).min(*left) };
    *left -= n_shown;
    let mut node =
        Node { committed, children: Vec::with_capacity(n_shown), fills: Vec::new(), n_more: direct.len() - n_shown };
    for effect in direct.into_iter().take(n_shown) {
        node.children.push(Box::pin(effects(db, effect, depth - 1, width, left)).await?);
    }
    Ok(node)
}

fn print(node: &Node, depth: usize, is_asked: bool, out: &mut Output) -> Result<(), CliError> {
    let mark = if is_asked { out.paint(Style::Red, " ← this one") } else { String::new() };
    let text = format!("{}{}{mark}", "  ".repeat(depth), line(&node.committed, out));
    out.row(&text)?;
    for child in &node.children {
        print(child, depth + 1, false, out)?;
    }
    if !node.fills.is_empty() {
        let text = format!("{}filled at the next candle", "  ".repeat(depth + 1));
        out.line(&out.paint(Style::Dim, &text))?;
    }
    for fill in &node.fills {
        print(fill, depth + 2, false, out)?;
    }
    if node.n_more > 0 {
        out.line(&format!("{}… {} more", "  ".repeat(depth + 1), node.n_more))?;
    }
    Ok(())
}

fn to_json(node: &Node) -> Result<Value, CliError> {
    node.children.iter().map(to_json_whole).collect::<Result<Vec<Value>, _>>().map(Value::Array)
}

fn to_json_whole(node: &Node) -> Result<Value, CliError> {
    let mut value =
        json!({ "event": EventJson::new(&node.committed)?, "effects": to_json(node)?, "more": node.n_more });
    if !node.fills.is_empty() {
        value["fills"] = fills_json(node)?;
    }
    Ok(value)
}

fn fills_json(node: &Node) -> Result<Value, CliError> {
    node.fills.iter().map(to_json_whole).collect::<Result<Vec<Value>, _>>().map(Value::Array)
}
