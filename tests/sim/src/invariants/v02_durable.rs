//! V2: every acknowledged write is durable on every committed in-sync member (R2).

use crate::net::NodeIndex;
use crate::world::World;
use lockstep_control::{State, Volume};
use lockstep_logic::Inspection;
use lockstep_types::{Epoch, Incarnation, ReplicaId, Sequence, VolumeId};
use std::collections::BTreeMap;

/// What each replica said last that it has durably: in the process that runs, or before it ended.
#[derive(Default)]
pub struct Durable(BTreeMap<ReplicaId, Known>);

struct Known {
    node: NodeIndex,
    life: Incarnation,
    /// The epoch that it had opened, if it had promised no higher one.
    opened: Option<Epoch>,
    sequence: Sequence,
    /// Whether the process that said so still runs.
    runs: bool,
}

impl Durable {
    /// Takes what a node says. What was durable stays so while a process runs, and where nothing but the
    /// process or the power ended (`sound`) the next one recovers it (S1).
    ///
    /// # Errors
    /// If a certified replica has less than it had.
    pub fn note(
        &mut self,
        node: NodeIndex,
        seen: &Inspection,
        committed: &State,
        sound: bool,
    ) -> Result<(), String> {
        for replica in &seen.replicas {
            let settled = replica.promised == replica.opened;
            let mut now = Known {
                node,
                life: replica.incarnation,
                opened: settled.then_some(replica.opened),
                sequence: replica.durable.sequence,
                runs: true,
            };
            let id = replica.replica;
            let before = self.0.remove(&id).filter(|before| before.life == now.life);
            // Between two epochs it counts anew what is stored under the next one (R11).
            if let Some(before) = before.as_ref().filter(|before| before.runs && !settled) {
                now.sequence = now.sequence.max(before.sequence);
            }
            let lost = before.filter(|before| {
                let same = settled && before.opened == now.opened;
                same && now.sequence < before.sequence && (before.runs || sound)
            });
            let record = committed.volumes.get(&replica.volume);
            let certified = record.is_some_and(|record| {
                record.membership.in_sync.get(&id) == Some(&now.life)
                    && replica.cut.is_none()
                    && !replica.failed
            });
            let sequence = now.sequence;
            self.0.insert(id, now);
            if let Some(before) = lost.filter(|_| certified) {
                let when = match before.runs {
                    true => "while its process ran",
                    false => "when it started again",
                };
                return Err(format!(
                    "{id:?} had records up to {} durably, and has them up to {sequence} {when}",
                    before.sequence
                ));
            }
        }
        Ok(())
    }

    /// A process ended: recovery says what is left.
    pub fn process_gone(&mut self, node: NodeIndex) {
        for known in self.0.values_mut().filter(|known| known.node == node) {
            known.runs = false;
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
        let held = record.replicas.get(member);
        let place = held.map(|replica| world.index_of(replica.node));
        if place.is_some() && place == world.plan.liar {
            continue; // it is back as of an earlier moment, and not found out yet (R4)
        }
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
            .filter(|known| known.life == *incarnation)
            .map(|known| known.sequence);
        let durable = own.max(known).unwrap_or_default();
        // What it acknowledged it had; then that decayed, and its acknowledgements were on their way to a
        // primary that slept (world seed 2007123). It is gapped, opens nothing, and is shut out.
        if durable < here.primary.completed && !world.has_rotted(record, *member) {
            return Err(format!(
                "{volume:?}: answered up to {}, but certified {member:?} has only {durable} durably",
                here.primary.completed
            ));
        }
    }
    Ok(())
}
