//! The runtime at its edges: settings that cannot work, its own tasks when they panic, stops, addresses, restarts.
//!
//! | module | what it holds |
//! |---|---|
//! | `support` | a small agent and small runtimes, everything defaulted |
//! | `settings` | limits, specs and options that are refused at the start |

#![expect(clippy::unwrap_used, reason = "a test that fails should fail")]

mod settings;
mod support;
