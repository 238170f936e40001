//! Making the node's core from what this machine has.

use std::collections::BTreeSet;
use std::time::Duration;

use lockstep_logic::{Node, NodeConfig};
use lockstep_protocol::Timings;
use lockstep_protocol::mutate::Broken;
use lockstep_store::OpenOptions;
use lockstep_types::{DeviceId, Nanos, NodeId, seconds};

/// The core of node `me`, with its pools, each with the bytes of its device, and those
/// whose device failed in an earlier life.
pub(super) fn node(
    me: NodeId,
    now: Nanos,
    pools: &[(DeviceId, u64)],
    failed_before: BTreeSet<DeviceId>,
    scrub_pass: Duration,
) -> Node {
    let pass = seconds(scrub_pass.as_secs());
    let devices = pools
        .iter()
        .map(|(device, bytes)| (*device, OpenOptions::new(*bytes)));
    let config = NodeConfig {
        node: me,
        started: now,
        devices: devices.collect(),
        failed_before,
        timings: Timings {
            scrub_pass: pass,
            compare_pass: pass,
            ..Timings::default()
        },
        broken: Broken::default(),
    };
    Node::new(config, now)
}
