//! The rigs: the storage under everything that can happen to a process and its disk. One binary, so that it links once.
//!
//! The oracle of all is the ledger that the child keeps outside of the store: acknowledged means present after
//! reopening, refused means absent, unknown is decided once and stays so, nothing is there twice.
//!
//! | module | what it holds |
//! |---|---|
//! | `support` | builds the failing disk, starts children, ends them |
//! | `judge` | reopens a database and judges it by the ledger |
//! | `errors` | the n-th read, write, sync or truncate fails, once or from then on |
//! | `files` | the files of a running database deleted, cut, overwritten, replaced, moved |
//! | `full` | no space for a while; a file that may not grow; a slow disk |
//! | `power` | what a disk holds when power goes: everything synced, anything of the rest |
//! | `kill` | SIGKILL at random moments under full load |
//! | `commands` | SIGKILL at every change that a migration or a command makes to a file; no space for one |
//! | `memory` | a million offers while the disk takes nothing, payloads at the limit and above |
//! | `corruption` | flipped bits, cut files, zeroed pages, a log that is another's or gone |
//! | `strangers` | another process that holds the lock, or reads without an end |
//!
//! Random choices come from a seed that is printed: `ATRA_RIG_SEED` repeats it, `ATRA_RIG_ROUNDS` sets how many.

#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a test that fails should fail")]

mod commands;
mod corruption;
mod errors;
mod files;
mod full;
mod judge;
mod kill;
mod memory;
mod power;
mod strangers;
mod support;
