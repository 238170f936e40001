//! What the kernel sends over /dev/fuse.
#![no_main]

#[path = "../checks/fuse_session.rs"]
mod fuse_session;

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuse_session::check(data));
