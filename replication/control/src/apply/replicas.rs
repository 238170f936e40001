//! Copies: made, added, moved, removed, reborn (R18).

use super::{Apply, Applying, Outcome, operator_name};
use crate::command::NewReplica;
use crate::event::Severity;
use crate::mutate::Mutation;
use crate::record::{Replica, Volume};
use crate::state::MAX_REPLICAS;
use crate::{Rejected, policy};
use lockstep_types::{Incarnation, ReplicaId, VolumeId};

impl Apply<'_> {
    /// The last copy of a new volume makes it ready: all are empty, and so in sync.
    pub(super) fn replica_ready(
        &mut self,
        id: VolumeId,
        replica: ReplicaId,
        given: Incarnation,
    ) -> Applying {
        let mut volume = self.volume(id)?;
        let held = volume
            .replicas
            .get_mut(&replica)
            .ok_or(Rejected::NoReplica { replica })?;
        if held.incarnation != given {
            return Err(Rejected::Incarnation {
                replica,
                recorded: held.incarnation,
                given,
            });
        }
        if held.ready {
            return Ok(Outcome::Unchanged);
        }
        held.ready = true;
        self.make_ready(&mut volume);
        self.put_volume(volume)
    }

    /// R18: the data that a tombstone named no longer exists.
    pub(super) fn replica_gone(
        &mut self,
        volume: VolumeId,
        replica: ReplicaId,
        given: Incarnation,
    ) -> Applying {
        let tombstone = self.state.tombstones.get(&replica);
        let named = tombstone.is_some_and(|it| it.volume == volume && it.incarnation == given);
        if !named {
            let gone = tombstone.is_none() && self.state.retired.contains(replica.as_u128());
            let unknown = Rejected::NoTombstone {
                replica,
                incarnation: given,
            };
            return if gone {
                Ok(Outcome::Unchanged)
            } else {
                Err(unknown)
            };
        }
        self.drop_tombstone(replica);
        Ok(Outcome::Done)
    }

    pub(super) fn add_replica(&mut self, id: VolumeId, new: &NewReplica) -> Applying {
        let mut volume = self.trusted(id)?;
        self.join(&mut volume, new, None)?;
        let text = format!(
            "volume '{}': a copy on node '{}' joins",
            volume.name,
            self.state.node_name(new.node)
        );
        self.tell(Severity::Info, Some(id), Some(new.node), text);
        self.put_volume(volume)
    }

    /// In one entry, so that the new copy may stand in the old one's fault domain.
    pub(super) fn move_replica(
        &mut self,
        id: VolumeId,
        from: ReplicaId,
        to: &NewReplica,
    ) -> Applying {
        let mut volume = self.trusted(id)?;
        let old = volume
            .replicas
            .get(&from)
            .ok_or(Rejected::NoReplica { replica: from })?;
        if old.sealed_off {
            return Err(Rejected::SealedOff { replica: from });
        }
        if old.leaving {
            return Err(Rejected::Leaving { replica: from });
        }
        let (source, target) = (
            self.state.node_name(old.node),
            self.state.node_name(to.node),
        );
        self.join(&mut volume, to, Some(from))?;
        volume
            .replicas
            .get_mut(&from)
            .expect("it was just there")
            .leaving = true;
        let text = format!(
            "volume '{}': a copy moves from node '{source}' to node '{target}'",
            volume.name
        );
        self.tell(Severity::Info, Some(id), Some(to.node), text);
        self.put_volume(volume)
    }

    pub(super) fn remove_replica(
        &mut self,
        id: VolumeId,
        replica: ReplicaId,
        even_below_policy: bool,
    ) -> Applying {
        let mut volume = self.trusted(id)?;
        let node = self.state.replica_name(&volume, replica);
        let certified = &volume.membership.in_sync;
        let last = certified.len() == 1 && certified.contains_key(&replica);
        let held = volume
            .replicas
            .get_mut(&replica)
            .ok_or(Rejected::NoReplica { replica })?;
        if held.sealed_off {
            return Err(Rejected::SealedOff { replica });
        }
        if held.leaving && held.even_below_policy >= even_below_policy {
            return Ok(Outcome::Unchanged);
        }
        held.leaving = true;
        held.even_below_policy |= even_below_policy;
        let stays = volume
            .replicas
            .values()
            .any(|other| !other.leaving && !other.sealed_off);
        if (last && even_below_policy) || !stays {
            return Err(Rejected::EmptySet);
        }
        let text = format!(
            "volume '{}': the copy on node '{node}' is to leave",
            volume.name
        );
        self.tell(Severity::Info, Some(id), None, text);
        self.put_volume(volume)?;
        // A volume that waited only for this copy to be made is ready without it.
        let mut volume = self.volume(id)?;
        if !volume.is_ready() && self.make_ready(&mut volume) {
            self.put_volume(volume)?;
        }
        Ok(Outcome::Done)
    }

    pub(super) fn keep_replica(&mut self, id: VolumeId, replica: ReplicaId) -> Applying {
        let mut volume = self.trusted(id)?;
        let held = volume
            .replicas
            .get(&replica)
            .ok_or(Rejected::NoReplica { replica })?;
        if !held.leaving {
            return Ok(Outcome::Unchanged);
        }
        let level = volume.policy.fault_domain;
        let domain = policy::domain(self.state.node(held.node)?, level);
        for other in volume
            .replicas
            .values()
            .filter(|other| !other.leaving && !other.sealed_off)
        {
            let host = self.state.node(other.node)?;
            if policy::domain(host, level) == domain {
                return Err(Rejected::SharedDomain {
                    level: "fault domain",
                    node: host.name.clone(),
                });
            }
        }
        let held = volume
            .replicas
            .get_mut(&replica)
            .expect("it was just there");
        held.leaving = false;
        held.even_below_policy = false;
        self.put_volume(volume)
    }

    /// R4: a new life after detected loss. A certified replica leaves the set first; the only one of
    /// its set never comes here, its volume waits for the operator (R21).
    pub(super) fn reincarnate(
        &mut self,
        id: VolumeId,
        replica: ReplicaId,
        from: Incarnation,
        to: Incarnation,
    ) -> Applying {
        let back = to <= from && !self.state.broken(Mutation::IncarnationBack);
        let mismatch = |recorded: Incarnation| Rejected::Incarnation {
            replica,
            recorded,
            given: from,
        };
        // What is to be deleted is deleted in whichever life its node finds it.
        if let Some(tombstone) = self.state.tombstones.get(&replica).copied() {
            if tombstone.volume != id || tombstone.incarnation != from || back {
                return Err(mismatch(tombstone.incarnation));
            }
            let tombstone = crate::Tombstone {
                incarnation: to,
                ..tombstone
            };
            self.state.tombstones.insert(replica, tombstone);
            self.changes.push(super::Change::Tombstone(tombstone));
            return Ok(Outcome::Done);
        }
        let mut volume = self.volume(id)?;
        if volume.membership.in_sync.contains_key(&replica) {
            return Err(Rejected::InSync { replica });
        }
        let name = self.state.replica_name(&volume, replica);
        let held = volume
            .replicas
            .get_mut(&replica)
            .ok_or(Rejected::NoReplica { replica })?;
        if held.sealed_off {
            return Err(Rejected::SealedOff { replica });
        }
        if held.incarnation == to && held.incarnation != from {
            return Ok(Outcome::Unchanged);
        }
        if held.incarnation != from || back {
            return Err(mismatch(held.incarnation));
        }
        held.incarnation = to;
        held.ready = false;
        let text = format!(
            "volume '{}': the copy on node '{name}' lost its data and begins anew",
            volume.name
        );
        self.tell(Severity::Warning, Some(id), None, text);
        self.put_volume(volume)
    }

    pub(super) fn discard_sealed(
        &mut self,
        id: VolumeId,
        replica: ReplicaId,
        operator: &str,
    ) -> Applying {
        let mut volume = self.volume(id)?;
        let held = volume
            .replicas
            .get(&replica)
            .ok_or(Rejected::NoReplica { replica })?;
        if !held.sealed_off {
            return Err(Rejected::NotSealedOff { replica });
        }
        let node = self.state.replica_name(&volume, replica);
        self.bury(&mut volume, replica);
        let text = format!(
            "{} discarded the overwritten copy of volume '{}' on node '{node}'",
            operator_name(operator),
            volume.name
        );
        self.tell(Severity::Forced, Some(id), None, text);
        self.put_volume(volume)
    }

    /// Puts a new replica into the record.
    fn join(
        &self,
        volume: &mut Volume,
        new: &NewReplica,
        instead_of: Option<ReplicaId>,
    ) -> Result<(), Rejected> {
        if volume.replicas.len() >= MAX_REPLICAS {
            return Err(Rejected::Limit {
                what: "replicas of the volume",
                max: MAX_REPLICAS,
            });
        }
        self.admit_replica(volume, new, instead_of)?;
        volume.replicas.insert(new.replica, Replica::new(new));
        Ok(())
    }

    /// Certifies all copies of a volume that was never opened, once all are made; whether it did.
    fn make_ready(&self, volume: &mut Volume) -> bool {
        let all_made =
            !volume.replicas.is_empty() && volume.replicas.values().all(|replica| replica.ready);
        if volume.is_ready() || volume.membership.distrusted || !all_made {
            return false;
        }
        let all = volume
            .replicas
            .iter()
            .map(|(id, replica)| (*id, replica.incarnation));
        volume.membership.in_sync = all.collect();
        true
    }

    /// A volume whose recorded in-sync set may be built upon.
    fn trusted(&self, id: VolumeId) -> Result<Volume, Rejected> {
        let volume = self.volume(id)?;
        if volume.membership.distrusted {
            Err(Rejected::Distrusted)
        } else {
            Ok(volume)
        }
    }
}
