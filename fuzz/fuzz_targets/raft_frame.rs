//! Frames between voters.
#![no_main]

#[path = "../checks/raft_frame.rs"]
mod raft_frame;

libfuzzer_sys::fuzz_target!(|data: &[u8]| raft_frame::check(data));
