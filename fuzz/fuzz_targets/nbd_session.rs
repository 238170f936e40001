//! What an NBD client sends.
#![no_main]

#[path = "../checks/nbd_session.rs"]
mod nbd_session;

libfuzzer_sys::fuzz_target!(|data: &[u8]| nbd_session::check(data));
