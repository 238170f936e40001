//! `node.toml`: the check that the fuzz target runs too, and a file of version 1 that stays readable.

#[path = "../../../fuzz/checks/node_config.rs"]
mod node_config;

use lockstep_node::config::Config;
use proptest::prelude::*;
use std::path::Path;

/// Everything that version 1 may say.
const V1: &str = include_str!("golden/node-v1.toml");

#[test]
fn a_file_of_version_1_means_what_it_meant() {
    let config = Config::parse(Path::new("node.toml"), V1).unwrap_or_else(|why| {
        panic!(
            "nodes in the field have this file, and an upgrade must start on it ({why}): keep every key, \
             or read the old one and the new"
        )
    });
    assert_eq!(config.node.name, "a1");
    assert_eq!(
        (config.node.site.as_str(), config.node.rack.as_str()),
        ("a", "r1")
    );
    assert_eq!(config.advertised_control(), "10.0.0.1:9441");
    assert_eq!(config.advertised_data(), "10.0.0.1:9442");
    assert_eq!(config.data_plane.requests, 256);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_mistyped_file_is_refused_or_another(flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4)) {
        let mut bytes = V1.as_bytes().to_vec();
        for (at, value) in flips {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        node_config::check(&bytes);
    }

    #[test]
    fn noise_is_no_configuration(noise in prop::collection::vec(any::<u8>(), 0..300)) {
        node_config::check(&noise);
    }
}
