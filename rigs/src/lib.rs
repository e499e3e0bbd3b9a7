//! Test rigs of the storage: a child process that writes as hard as it can and keeps a ledger of what was sent,
//! acknowledged and refused; its parent (`tests/rigs`) kills it or its disk, and judges what is left by that ledger.
//!
//! Nothing here is part of the product. What fails is in `faults.c`, which is preloaded into the child.

pub mod flood;
pub mod job;
pub mod ledger;
pub mod work;
