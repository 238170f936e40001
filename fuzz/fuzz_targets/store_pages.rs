//! Structures of the store.
#![no_main]

#[path = "../checks/store_pages.rs"]
mod store_pages;

libfuzzer_sys::fuzz_target!(|data: &[u8]| store_pages::check(data));
