//! Answers of the kernel's NBD client.
#![no_main]

#[path = "../checks/kernel_nbd_answer.rs"]
mod kernel_nbd_answer;

libfuzzer_sys::fuzz_target!(|data: &[u8]| kernel_nbd_answer::check(data));
