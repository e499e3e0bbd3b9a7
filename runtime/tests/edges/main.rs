//! The runtime at its edges: settings that cannot work, its own tasks when they panic, stops, addresses, restarts.
//!
//! | module | what it holds |
//! |---|---|
//! | `support` | a small agent and small runtimes, everything defaulted |
//! | `addresses` | filters, names and addresses that reach nobody |
//! | `settings` | limits, specs and options that are refused at the start |
//! | `stop` | orders that no queue can hide; what is left after a stop, a deadline, a drop |
//! | `storms` | restarts are bounded, and feed nobody |
//! | `tasks` | panics of supervisors, storage, sources, destructors: who sees them, what can be restarted |

#![expect(clippy::unwrap_used, reason = "a test that fails should fail")]

mod addresses;
mod settings;
mod stop;
mod storms;
mod support;
mod tasks;
