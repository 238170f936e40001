//! A voter's log.
#![no_main]

#[path = "../checks/raft_log.rs"]
mod raft_log;

libfuzzer_sys::fuzz_target!(|data: &[u8]| raft_log::check(data));
