//! Requests of a ublk device.
#![no_main]

#[path = "../checks/ublk_session.rs"]
mod ublk_session;

libfuzzer_sys::fuzz_target!(|data: &[u8]| ublk_session::check(data));
