//! Forced recovery: two separate, audited commands.

use super::{Apply, Applying, Outcome, operator_name};
use crate::Rejected;
use crate::event::Severity;
use crate::mutate::Mutation;
use crate::record::Expected;
use lockstep_types::{Incarnation, ReplicaId, VolumeId};
use std::collections::{BTreeMap, BTreeSet};

impl Apply<'_> {
    /// The control plane was rebuilt from what may be an old log. Nothing that it says about who is
    /// certified or attached is trusted: every volume waits for a forced promotion, and every
    /// attachment is fenced, since the lost part of the log may have published the volume elsewhere
    /// and its device's held requests would be replayed over that (R12).
    pub(super) fn rebuild_generation(
        &mut self,
        generation: u32,
        barred: &BTreeSet<u64>,
        operator: &str,
    ) -> Applying {
        let current = self.state.generation;
        if generation <= current || generation >= 1 << 24 {
            return Err(Rejected::Generation {
                current,
                given: generation,
            });
        }
        self.state.generation = generation;
        self.state.rebuilt_unix_ms = self.at_unix_ms;
        // First, while it is known where the barred ones stood: their sites may be left without any.
        let staying = self
            .state
            .voters
            .voting
            .difference(barred)
            .copied()
            .collect();
        self.state.set_voting(staying);
        self.state.voters.barred.extend(barred);
        for raft_id in barred {
            if self.state.voters.bound.remove(raft_id).is_some() {
                self.changes
                    .push(super::Change::VoterGone { raft_id: *raft_id });
            }
        }
        self.changes.push(self.state.cluster_change());
        let text = format!(
            "{} rebuilt the control plane by force as generation {generation}; {} old voters are barred",
            operator_name(operator),
            barred.len()
        );
        self.tell(Severity::Forced, None, None, text);
        let living = self
            .state
            .volumes
            .values()
            .filter(|volume| !volume.deleting);
        for mut volume in living.cloned().collect::<Vec<_>>() {
            if !self.state.broken(Mutation::ForcedKeepsDevice) {
                self.fence(&mut volume);
            }
            volume.membership.primary = None;
            volume.membership.caretaker = false;
            volume.membership.repair_only = false;
            volume.membership.distrusted = !self.state.broken(Mutation::RebuildTrusts);
            self.put_volume(volume)?;
        }
        Ok(Outcome::Done)
    }

    /// From now on the volume is what this replica holds. Every copy that may hold acknowledged writes
    /// beyond it is sealed off until it is discarded by name; devices are fenced, since what they have
    /// read may have just ceased to be.
    pub(super) fn force_promote(
        &mut self,
        id: VolumeId,
        expected: Expected,
        (replica, incarnation): (ReplicaId, Incarnation),
        may_rejoin: &BTreeSet<ReplicaId>,
        operator: &str,
    ) -> Applying {
        let mut volume = self.volume(id)?;
        self.compare(&volume, expected)?;
        let held = volume
            .replicas
            .get(&replica)
            .ok_or(Rejected::NoReplica { replica })?;
        // What was overwritten stays so.
        if held.sealed_off {
            return Err(Rejected::SealedOff { replica });
        }
        // A rebuilt log may not know of a later life; an earlier one is never brought back (R4).
        if incarnation < held.incarnation {
            return Err(Rejected::Incarnation {
                replica,
                recorded: held.incarnation,
                given: incarnation,
            });
        }
        if !self.state.broken(Mutation::ForcedKeepsDevice) {
            self.fence(&mut volume);
        }
        let trusted = !volume.membership.distrusted;
        let now = BTreeMap::from([(replica, incarnation)]);
        self.note_leaving(&mut volume, &now);
        let was = std::mem::replace(&mut volume.membership.in_sync, now);
        for (other, record) in &mut volume.replicas {
            let overwritten = (trusted && was.contains_key(other)) || !may_rejoin.contains(other);
            let keeps = self.state.broken(Mutation::ForcedKeepsSides);
            record.sealed_off |= *other != replica && overwritten && !keeps;
        }
        let chosen = volume
            .replicas
            .get_mut(&replica)
            .expect("it was just there");
        chosen.incarnation = incarnation;
        chosen.ready = true;
        chosen.leaving = false;
        chosen.even_below_policy = false;
        volume.membership.epoch = self.epoch_after(&volume);
        volume.membership.primary = None;
        volume.membership.caretaker = false;
        volume.membership.repair_only = false;
        volume.membership.distrusted = false;
        let sealed = volume
            .replicas
            .values()
            .filter(|record| record.sealed_off)
            .count();
        let text = format!(
            "{} promoted by force the copy of volume '{}' on node '{}'; {sealed} copies are sealed off",
            operator_name(operator),
            volume.name,
            self.state.replica_name(&volume, replica),
        );
        self.tell(Severity::Forced, Some(id), None, text);
        self.put_volume(volume)
    }
}
