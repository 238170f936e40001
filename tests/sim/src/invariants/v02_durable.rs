//! V2: every acknowledged write is durable on every committed in-sync member (R2).

use crate::net::NodeIndex;
use crate::world::World;
use lockstep_control::Volume;
use lockstep_logic::Inspection;
use lockstep_types::{Incarnation, ReplicaId, Sequence, VolumeId};
use std::collections::BTreeMap;

/// The highest sequence that each replica was seen to have durably, in its present life.
#[derive(Default)]
pub struct Durable(BTreeMap<ReplicaId, (Incarnation, Sequence)>);

impl Durable {
    pub fn note(&mut self, seen: &Inspection) {
        for replica in &seen.replicas {
            let known = self.0.entry(replica.replica).or_default();
            if replica.incarnation > known.0 {
                *known = (replica.incarnation, replica.durable.sequence);
            }
            known.1 = known.1.max(replica.durable.sequence);
        }
    }
}

/// Whoever is certified now has what was answered before (R5).
pub fn on_the_certified(world: &World, volume: &Volume) -> Result<(), String> {
    let Some(primary) = volume.membership.primary else {
        return Ok(());
    };
    // It serves nobody: what is complete there is so on those that it heard, and was answered to no client.
    if volume.membership.repair_only {
        return Ok(());
    }
    let node = world.index_of(primary);
    match world.nodes[node].data() {
        Some(_) => everywhere(world, node, volume.id),
        None => Ok(()),
    }
}

pub fn everywhere(world: &World, node: NodeIndex, volume: VolumeId) -> Result<(), String> {
    let local = world.clock(node).local(world.now());
    let seen = world.nodes[node]
        .data()
        .expect("it answered")
        .inspect(local);
    let Some(here) = seen.volumes.iter().find(|v| v.volume == volume) else {
        return Ok(());
    };
    let Some(record) = world.committed.state.volumes.get(&volume) else {
        return Ok(());
    };
    if record.membership.epoch != here.primary.epoch {
        return Ok(()); // V3 and V4 watch those
    }
    // As above, also before the record says so.
    if !here.primary.open {
        return Ok(());
    }
    for (member, incarnation) in &record.membership.in_sync {
        let own = seen
            .replicas
            .iter()
            .find(|replica| replica.replica == *member)
            .map(|replica| replica.durable.sequence);
        let known = world
            .checks
            .durable
            .0
            .get(member)
            .filter(|(life, _)| life == incarnation)
            .map(|(_, sequence)| *sequence);
        let durable = own.max(known).unwrap_or_default();
        if durable < here.primary.completed {
            return Err(format!(
                "{volume:?}: answered up to {}, but certified {member:?} has only {durable} durably",
                here.primary.completed
            ));
        }
    }
    Ok(())
}
