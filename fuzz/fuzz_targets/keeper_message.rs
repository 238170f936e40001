//! Messages between daemon and keeper.
#![no_main]

#[path = "../checks/keeper_message.rs"]
mod keeper_message;

libfuzzer_sys::fuzz_target!(|data: &[u8]| keeper_message::check(data));
