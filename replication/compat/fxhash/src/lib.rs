//! Stands in for the unmaintained `fxhash`, of which raft uses one name.
//!
//! The hasher has no random state, so that the order of raft's own maps is the same in every run:
//! the simulator's replays rest on it.
#![no_std]
#![forbid(unsafe_code)]

pub use rustc_hash::FxHasher;
