//! A team: one or more agents that settle one input after another, in rounds.
//!
//! | file | what |
//! |---|---|
//! | `executor` | the one loop: take an input, run its cascade, close the step, send it |
//! | `crew` | the members and how one round reaches them: together in one task, or apart in one each |
//! | `member` | one agent's turn: contained, timed, its effects collected |
//! | `inputs` | what comes next: foreign events, due timers, sources' products |
//! | `clock` | what `now()` follows, and the rule for times far ahead |
//! | `alarm` | a timer of the executor that is cheap while it has not rung |
//! | `timers` | pending timers and schedules |
//! | `source` | a source's stream, read ahead on a task of its own |
//! | `step` | the open step, and sending it |
//! | `orders` | stop, restart, pause; separate from the queue of questions |
//! | `plan` | what the rest of the runtime says about a team before it runs |

mod alarm;
mod clock;
mod crew;
mod executor;
mod inputs;
mod member;
mod orders;
mod plan;
mod source;
mod step;
mod timers;

pub use member::TurnFault;
pub use plan::{Clock, Placement, Team};

pub(crate) use clock::{CLOCK_TOPIC, TeamClock};
pub(crate) use crew::{Crew, Decided, Mark, RoundEvent, Routes, TurnRules};
pub(crate) use executor::{
    CEILING_KEY, CLOCK_KEY, Careful, Counters, Executor, Guilty, INIT_KEY, Suspects, TeamAsk, TeamExit, TeamParts,
    Waiter, letter,
};
pub(crate) use inputs::Inputs;
pub(crate) use member::{Member, TurnFailure, TurnWatch, contained, panic_text, within};
pub(crate) use orders::Orders;
pub(crate) use source::SourceReader;
pub(crate) use step::StepSender;
pub(crate) use timers::{Moment, Rings, Timers};
