//! What an NBD server sends.
#![no_main]

#[path = "../checks/nbd_client.rs"]
mod nbd_client;

libfuzzer_sys::fuzz_target!(|data: &[u8]| nbd_client::check(data));
