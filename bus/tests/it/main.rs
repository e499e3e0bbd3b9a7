//! Properties of the bus, one per test.
//!
//! | file | what it holds |
//! |---|---|
//! | `support.rs` | a journal in memory that can stall and fail, events, a seeded generator |
//! | `delivery.rs` | order without gap or repeat: live, from the journal, across lag and rejoin, on one thread and on several |
//! | `cursor.rs` | what `cursor` promises |
//! | `lifecycle.rs` | closing, unregistering, wake-ups, errors of the journal, status |
//! | `payload.rs` | an accepted payload decodes unchanged for every reader |
//! | `passing.rs` | observers: bounded, counted, ended |

// Fixtures are test code too; clippy knows only functions marked as tests.
#![allow(clippy::unwrap_used)]

mod cursor;
mod delivery;
mod lifecycle;
mod passing;
mod payload;
mod support;
