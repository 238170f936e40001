//! Making the node's core from what this machine has.

use std::collections::BTreeSet;

use lockstep_logic::{Node, NodeConfig};
use lockstep_protocol::Timings;
use lockstep_protocol::mutate::Broken;
use lockstep_store::OpenOptions;
use lockstep_types::{DeviceId, Nanos, NodeId};

/// The core of node `me`, with its pools, each with the bytes of its device, and those
/// whose device failed in an earlier life.
pub(super) fn node(
    me: NodeId,
    now: Nanos,
    pools: &[(DeviceId, u64)],
    failed_before: BTreeSet<DeviceId>,
) -> Node {
    let devices = pools
        .iter()
        .map(|(device, bytes)| (*device, OpenOptions::new(*bytes)));
    let config = NodeConfig {
        node: me,
        started: now,
        devices: devices.collect(),
        failed_before,
        timings: Timings::default(),
        broken: Broken::default(),
    };
    Node::new(config, now)
}
