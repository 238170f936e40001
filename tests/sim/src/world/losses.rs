//! Copies that are lost for good with the device they stood on: what the atlas may still take, and what a
//! volume may wait for once nothing else is certified (R21).

use super::World;
use super::plan::FaultKind;
use crate::net::NodeIndex;
use lockstep_control::{Applied, Proposal, Volume};
use lockstep_types::{Gap, Incarnation, Nanos, ReplicaId, SECOND, VolumeId, millis};
use std::collections::{BTreeMap, BTreeSet};

/// A node that has known for so long that its device failed proposes nothing in favour of what was on it.
const LONG: Nanos = SECOND;

/// What is gone.
#[derive(Default)]
pub struct Losses {
    /// Copies, each in the life in which it was lost.
    copies: BTreeSet<(ReplicaId, Incarnation)>,
    /// Since when each node knows that its device failed.
    known: BTreeMap<NodeIndex, Nanos>,
    /// Who was certified before the last change.
    certified: BTreeMap<VolumeId, BTreeMap<ReplicaId, Incarnation>>,
}

impl Losses {
    fn all_lost(&self, members: &BTreeMap<ReplicaId, Incarnation>) -> bool {
        !members.is_empty() && members.iter().all(|(id, life)| self.is_lost(*id, *life))
    }

    /// Whether a copy is lost in this life.
    pub fn is_lost(&self, id: ReplicaId, life: Incarnation) -> bool {
        self.copies.contains(&(id, life))
    }
}

impl World {
    /// The device of a node is gone for good, and every copy on it.
    pub(super) fn note_loss(&mut self, node: NodeIndex) {
        let whose = self.nodes[node].id;
        for volume in self.committed.state.volumes.values() {
            for (id, replica) in &volume.replicas {
                if replica.node == whose {
                    let certified = volume.membership.in_sync.get(id).copied();
                    let lives = [Some(replica.incarnation), certified];
                    let lost = lives.into_iter().flatten().map(|life| (*id, life));
                    self.losses.copies.extend(lost);
                }
            }
        }
    }

    /// A node loses power whose devices lie: a volume that no honest copy was certified of may have lost
    /// what was acknowledged, and nobody can tell (R21).
    pub(super) fn mind_lies(&mut self, node: NodeIndex) {
        if self.plan.liar != Some(node) {
            return;
        }
        let whose = self.nodes[node].id;
        let volumes = self.committed.state.volumes.values();
        let alone = volumes.filter(|volume| {
            let mut members = volume.membership.in_sync.keys();
            members.all(|id| volume.replicas[id].node == whose)
        });
        let alone: Vec<VolumeId> = alone.map(|volume| volume.id).collect();
        for volume in alone {
            self.coverage.hit("over budget: a liar stood alone");
            self.clients.believe_nothing_of(volume);
        }
    }

    /// A node says that its device failed.
    pub(super) fn note_loss_known(&mut self, node: NodeIndex) {
        let now = self.now();
        self.losses.known.entry(node).or_insert(now);
    }

    /// It has another device.
    pub(super) fn forget_loss_known(&mut self, node: NodeIndex) {
        self.losses.known.remove(&node);
    }

    /// The atlas: one copy of each volume may be lost for good in a run, and only while each volume has
    /// another certified one that stands in a healthy place.
    pub(super) fn may_lose_copies_of(&self, node: NodeIndex) -> bool {
        if self.plan.over_budget {
            return true;
        }
        // `strict` keeps a lost copy's place until an operator gives the site another: not here.
        let strict =
            self.operator.estate.strict || self.plan.volumes.iter().any(|volume| volume.strict);
        self.copies_lost == 0
            && !strict
            && self.every_volume_has_two_copies()
            && self.others_hold(node)
    }

    /// Rot sets in once every volume has a copy that it cannot reach.
    pub(super) fn may_rot(&self) -> bool {
        let stand = self.every_volume_stands();
        self.every_volume_has_two_copies() || self.plan.over_budget && stand
    }

    /// Whether every volume with a certified copy on the node has another on a node that runs, hears
    /// this one, and has a device that works.
    pub(super) fn others_hold(&self, node: NodeIndex) -> bool {
        let whose = self.nodes[node].id;
        let now = self.now();
        let healthy = |other: NodeIndex| {
            self.nodes[other].runs()
                && (self.nodes[node].process.is_none() || self.net.reach(other, node))
                && self.nodes[other]
                    .disks
                    .iter()
                    .all(|disk| !disk.disk.is_dead(now))
        };
        self.committed.state.volumes.values().all(|volume| {
            let places: Vec<NodeIndex> = volume
                .membership
                .in_sync
                .keys()
                .filter_map(|id| volume.replicas.get(id))
                .map(|replica| self.index_of(replica.node))
                .collect();
            let here = places.iter().any(|place| self.nodes[*place].id == whose);
            !here || places.iter().any(|place| *place != node && healthy(*place))
        })
    }

    /// Nothing is certified but lost copies, and such as lack records that only a lost one could fill or
    /// refute (R11), and the volume says that it waits (R21).
    pub(crate) fn waits_for_the_lost(&self, volume: VolumeId) -> bool {
        let Some(record) = self.committed.state.volumes.get(&volume) else {
            return false;
        };
        let in_sync = &record.membership.in_sync;
        // What rotted is lost, too, beside one whose own device failed for a while (world seed 3330).
        let lost = |id: &ReplicaId, life: &Incarnation| {
            self.losses.is_lost(*id, *life) || self.has_rotted(record, *id)
        };
        in_sync.iter().any(|(id, life)| lost(id, life))
            && in_sync
                .iter()
                .all(|(id, life)| lost(id, life) || self.is_gapped(*id))
            && self.checks.waiting.contains_key(&volume)
    }

    /// It knows that it lost records that it had durably: the journal of the device that rots has decayed.
    pub(crate) fn has_rotted(&self, volume: &Volume, replica: ReplicaId) -> bool {
        let rots = self.plan.every(FaultKind::Corruption);
        let rotting = rots.map(|_| self.nodes[self.plan.victim].id);
        let holder = volume.replicas.get(&replica).map(|held| held.node);
        rotting.is_some() && holder == rotting && self.is_gapped(replica)
    }

    fn is_gapped(&self, replica: ReplicaId) -> bool {
        (0..self.nodes.len()).any(|node| {
            let local = self.clock(node).local(self.now());
            let seen = self.nodes[node].data().map(|data| data.inspect(local));
            seen.is_some_and(|seen| {
                let mut replicas = seen.replicas.iter();
                replicas.any(|r| r.replica == replica && r.gap != Gap::None)
            })
        })
    }

    /// Nobody whole is shut out in favour of copies whose own node had long known them for lost when it
    /// proposed that. (What it had proposed before may commit at any time, if no majority stood meanwhile: world
    /// seed 2698935.)
    pub(crate) fn check_survivors(
        &mut self,
        proposal: &Proposal,
        applied: &Applied,
    ) -> Result<(), String> {
        let proposed = millis(proposal.at_unix_ms);
        for change in &applied.changes {
            let lockstep_control::Change::Volume(volume) = change else {
                continue;
            };
            let members = &volume.membership.in_sync;
            let before = self
                .losses
                .certified
                .insert(volume.id, members.clone())
                .unwrap_or_default();
            if !self.losses.all_lost(members) || self.losses.all_lost(&before) || before.is_empty()
            {
                continue;
            }
            let long_known = members.keys().all(|id| {
                let place = volume.replicas.get(id).map(|r| r.node);
                let primary = volume.membership.primary;
                let known = place
                    .filter(|place| Some(*place) == primary)
                    .and_then(|place| self.losses.known.get(&self.index_of(place)));
                known.is_some_and(|since| *since + LONG < proposed)
            });
            if long_known {
                return Err(format!(
                    "{:?}: a whole copy was shut out in favour of lost ones",
                    volume.id
                ));
            }
        }
        Ok(())
    }
}
