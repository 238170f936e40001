//! Making the node's core from what this machine has.

use lockstep_logic::{Node, NodeConfig};
use lockstep_protocol::Timings;
use lockstep_protocol::mutate::Broken;
use lockstep_store::OpenOptions;
use lockstep_types::{DeviceId, Nanos, NodeId};

/// The core of node `me`, with its pools, each with the bytes of its device.
pub(super) fn node(me: NodeId, now: Nanos, pools: &[(DeviceId, u64)]) -> Node {
    let devices = pools
        .iter()
        .map(|(device, bytes)| (*device, OpenOptions::new(*bytes)));
    let config = NodeConfig {
        node: me,
        started: now,
        devices: devices.collect(),
        timings: Timings::default(),
        broken: Broken::default(),
    };
    Node::new(config, now)
}
