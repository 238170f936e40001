//! The configuration of a node.
#![no_main]

#[path = "../checks/node_config.rs"]
mod node_config;

libfuzzer_sys::fuzz_target!(|data: &[u8]| node_config::check(data));
