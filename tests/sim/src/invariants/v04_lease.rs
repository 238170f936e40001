//! V4: at most one node holds the lease of a volume (R13).

use crate::net::NodeIndex;
use crate::world::World;
use lockstep_types::{Epoch, VolumeId};
use std::collections::BTreeMap;

fn holders(world: &World) -> BTreeMap<VolumeId, Vec<(NodeIndex, Epoch)>> {
    let mut holders: BTreeMap<VolumeId, Vec<(NodeIndex, Epoch)>> = BTreeMap::new();
    for node in 0..world.nodes.len() {
        let Some(data) = world.nodes[node].data() else {
            continue;
        };
        let local = world.clock(node).local(world.now());
        for here in data.inspect(local).volumes {
            if here.primary.open && here.primary.lease_valid {
                holders
                    .entry(here.volume)
                    .or_default()
                    .push((node, here.primary.epoch));
            }
        }
    }
    holders
}

pub fn at_most_one(world: &World) -> Result<(), String> {
    for (volume, holders) in holders(world) {
        if let [(a, under_a), (b, under_b), ..] = holders[..] {
            let (a, b) = (world.name(a), world.name(b));
            return Err(format!(
                "{volume:?}: {a} under epoch {under_a} and {b} under epoch {under_b} both hold the lease"
            ));
        }
    }
    Ok(())
}

/// Nobody but the node that answers could answer now.
pub fn only_holder(world: &World, node: NodeIndex, volume: VolumeId) -> Result<(), String> {
    for other in (0..world.nodes.len()).filter(|other| *other != node) {
        let Some(data) = world.nodes[other].data() else {
            continue;
        };
        let local = world.clock(other).local(world.now());
        let seen = data.inspect(local);
        if seen
            .volumes
            .iter()
            .any(|v| v.volume == volume && v.primary.open && v.primary.lease_valid)
        {
            return Err(format!(
                "answered for {volume:?} while {} holds its lease",
                world.name(other)
            ));
        }
    }
    Ok(())
}
