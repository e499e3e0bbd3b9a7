//! The integration tests of atra, one binary so that it links once.
//!
//! | module | what it holds |
//! |---|---|
//! | `support` | fixtures: small agents, teams and runtimes on the model store, everything defaulted |
//! | `order` | order, rounds, own and foreign inputs, placement, steps of any size |
//! | `memory` | shared memory: owners, as-of reads, revisions, callers' keys |
//! | `failure` | failed, panicking and hanging turns, dead letters, poison, restarts, the watchdog |
//! | `timers` | timers and schedules on both clocks, across restarts |
//! | `acting` | calls to the outside: intent, result, `Unknown` |
//! | `kill` | the real binary on real candles: killed, stopped, placed apart |
//! | `lifecycle` | topology, publish with keys, `settled`, pause, stop |
//! | `pruned` | a journal without a beginning: subscriptions, new teams, retention while running |
//! | `process_death` | an event that takes the whole process down |
//! | `simulation` | what ships, simulated with faults from a hundred seeds; kept cases; two processes; shrinking |
//! | `swarm` | simulated swarms under virtual time |
//! | `tidy` | the source tree itself: what each part must not know or do |

#![expect(clippy::unwrap_used, reason = "a test that fails should fail")]

mod support;

mod acting;
mod failure;
mod kill;
mod lifecycle;
mod memory;
mod order;
mod process_death;
mod pruned;
mod simulation;
mod swarm;
mod tidy;
mod timers;
