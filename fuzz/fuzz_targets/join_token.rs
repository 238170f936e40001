//! Join tokens.
#![no_main]

#[path = "../checks/join_token.rs"]
mod join_token;

libfuzzer_sys::fuzz_target!(|data: &[u8]| join_token::check(data));
