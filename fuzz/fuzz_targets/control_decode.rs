//! Proposals and snapshots of the control state.
#![no_main]

#[path = "../checks/control_decode.rs"]
mod control_decode;

libfuzzer_sys::fuzz_target!(|data: &[u8]| control_decode::check(data));
