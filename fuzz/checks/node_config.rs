//! Any text at all, as an administrator may write it: it is refused with a place and words, or is a
//! configuration whose addresses can be told. Compiled into the fuzz target of this name and into a
//! property test of `engine/node`.

use lockstep_node::config::Config;
use std::path::Path;

/// Checks `data` as `node.toml`.
pub fn check(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    match Config::parse(Path::new("node.toml"), &text) {
        Ok(config) => {
            assert!(!config.advertised_control().is_empty());
            assert!(!config.node.name.is_empty() && config.node.name.len() <= 63);
        }
        Err(refused) => {
            let words = refused.to_string();
            assert!(words.contains("node.toml"), "it says where: {words}");
        }
    }
}
