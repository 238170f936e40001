//! Epochs and the in-sync set: who may write (R1, R4, R5, R9, R11).

use super::{Apply, Applying};
use crate::event::Severity;
use crate::mutate::Mutation;
use crate::record::{Expected, Volume};
use crate::{Rejected, policy};
use lockstep_types::{AttachmentId, Incarnation, NodeId, ReplicaId, VolumeId};
use std::collections::{BTreeMap, BTreeSet};

impl Apply<'_> {
    /// R9: a new epoch with a new primary. The proposer has just heard from a member without a gap;
    /// what was proposed from another record than this one is refused, and so is any attachment but
    /// the record's (R12).
    ///
    /// A caretaker of an attached volume is admitted only with the proposer's word that it has itself
    /// seen the attached node silent: the log cannot hear silence. A wrong word costs a suspension,
    /// no data: the attachment id is unchanged, so the attached node takes the volume back.
    pub(super) fn promote(
        &mut self,
        id: VolumeId,
        expected: Expected,
        node: NodeId,
        attachment: Option<AttachmentId>,
        primary_silent: bool,
    ) -> Applying {
        let mut volume = self.openable(id)?;
        self.compare(&volume, expected)?;
        let name = self.state.node(node)?.name.clone();
        match attachment {
            Some(named) => self.check_attached(&volume, node, named)?,
            None => self.check_caretaker(&volume, node, primary_silent)?,
        }
        if !self.state.broken(Mutation::EpochStands) {
            volume.membership.epoch = self.epoch_after(&volume);
        }
        volume.membership.primary = Some(node);
        volume.membership.caretaker = attachment.is_none();
        volume.membership.repair_only = false;
        let role = if attachment.is_none() {
            "caretaker"
        } else {
            "primary"
        };
        let epoch = volume.membership.epoch;
        let text = format!(
            "volume '{}': node '{name}' is {role} of epoch {epoch}",
            volume.name
        );
        self.tell(Severity::Info, Some(id), Some(node), text);
        self.put_volume(volume)
    }

    /// The caretaker's work is done: nobody holds the epoch any more.
    pub(super) fn step_down(&mut self, id: VolumeId, expected: Expected, node: NodeId) -> Applying {
        let mut volume = self.volume(id)?;
        self.compare(&volume, expected)?;
        self.check_primary(&volume, node)?;
        if !volume.membership.caretaker {
            // The primary of an attachment goes by Detach, which fences its device.
            let node = self.state.node_name(node);
            return Err(Rejected::Attached { node });
        }
        volume.membership.primary = None;
        volume.membership.caretaker = false;
        volume.membership.repair_only = false;
        self.put_volume(volume)
    }

    /// R1: the in-sync set changes by its epoch's primary only, which has added joiners to `required`
    /// before and drops the removed ones after.
    pub(super) fn change_in_sync(
        &mut self,
        id: VolumeId,
        expected: Expected,
        node: NodeId,
        remove: &BTreeSet<ReplicaId>,
        add: &BTreeMap<ReplicaId, Incarnation>,
        reason: &str,
    ) -> Applying {
        let mut volume = self.openable(id)?;
        self.compare(&volume, expected)?;
        self.check_primary(&volume, node)?;
        let before: BTreeSet<_> = volume.membership.in_sync.keys().copied().collect();
        // Removing a replica that is not in the set changes nothing but the version, and that is its
        // use: a certification proposed from an older version can never commit afterwards (R1).
        for (replica, incarnation) in add {
            self.check_joiner(&volume, *replica, *incarnation)?;
        }
        let mut after = volume.membership.in_sync.clone();
        after.retain(|replica, _| !remove.contains(replica));
        after.extend(
            add.iter()
                .map(|(replica, incarnation)| (*replica, *incarnation)),
        );
        // R11, R21: the last certified copy stays.
        if after.is_empty() && !self.state.broken(Mutation::EmptyInSync) {
            return Err(Rejected::EmptySet);
        }
        let now = after.keys().copied().collect();
        if let Some(site) = policy::emptied_site(&volume, &self.state.nodes, &before, &now)
            && !self.state.broken(Mutation::StrictShrink)
        {
            return Err(Rejected::StrictSite { site });
        }
        self.tell_of_change(&volume, remove, add, reason);
        self.note_leaving(&mut volume, &after);
        volume.membership.in_sync = after;
        self.put_volume(volume)
    }

    /// Since when copies are outside the set, for people.
    pub(super) fn note_leaving(
        &self,
        volume: &mut Volume,
        after: &BTreeMap<ReplicaId, Incarnation>,
    ) {
        for (id, replica) in &mut volume.replicas {
            if after.contains_key(id) {
                replica.left_unix_ms = None;
            } else if volume.membership.in_sync.contains_key(id) {
                replica.left_unix_ms = Some(self.at_unix_ms);
            }
        }
    }

    /// R9: the epoch serves repair only, or clients again. The primary decides by what it has sealed;
    /// the record lets others say why the volume waits.
    pub(super) fn set_repair_only(
        &mut self,
        id: VolumeId,
        expected: Expected,
        node: NodeId,
        repair_only: bool,
    ) -> Applying {
        let mut volume = self.openable(id)?;
        self.compare(&volume, expected)?;
        self.check_primary(&volume, node)?;
        volume.membership.repair_only = repair_only;
        self.put_volume(volume)
    }

    fn check_attached(
        &self,
        volume: &Volume,
        node: NodeId,
        named: AttachmentId,
    ) -> Result<(), Rejected> {
        let current = volume.membership.attachment;
        let same = current.is_some_and(|current| current.id == named && current.node == node);
        if same || self.state.broken(Mutation::AttachmentIgnored) {
            return Ok(());
        }
        Err(Rejected::WrongAttachment { named })
    }

    fn check_caretaker(&self, volume: &Volume, node: NodeId, silent: bool) -> Result<(), Rejected> {
        let held = self.new_things_on(node)?;
        if let Some(attachment) = volume.membership.attachment
            && !silent
            && !self.state.broken(Mutation::CaretakerAnyTime)
        {
            return Err(Rejected::Attached {
                node: self.state.node_name(attachment.node),
            });
        }
        let mut members = volume.membership.in_sync.keys();
        let here = members.any(|id| {
            volume
                .replicas
                .get(id)
                .is_some_and(|replica| replica.node == node)
        });
        if here || self.state.broken(Mutation::PromoteOutside) {
            return Ok(());
        }
        Err(Rejected::NoCertifiedCopy {
            node: held.name.clone(),
        })
    }

    fn check_primary(&self, volume: &Volume, node: NodeId) -> Result<(), Rejected> {
        let is = volume.membership.primary == Some(node);
        if is || self.state.broken(Mutation::ForeignPrimary) {
            Ok(())
        } else {
            Err(Rejected::NotPrimary { node })
        }
    }

    /// R4, R5 as far as the record knows them: the life that was recorded, with space, not on its way
    /// out, in a site that votes. That it is verified is its primary's word.
    fn check_joiner(
        &self,
        volume: &Volume,
        id: ReplicaId,
        given: Incarnation,
    ) -> Result<(), Rejected> {
        let replica = volume
            .replicas
            .get(&id)
            .ok_or(Rejected::NoReplica { replica: id })?;
        if volume.membership.in_sync.contains_key(&id) {
            return Err(Rejected::InSync { replica: id });
        }
        if replica.incarnation != given && !self.state.broken(Mutation::IncarnationIgnored) {
            let recorded = replica.incarnation;
            return Err(Rejected::Incarnation {
                replica: id,
                recorded,
                given,
            });
        }
        if !replica.ready && !self.state.broken(Mutation::UnreadyCertified) {
            return Err(Rejected::ReplicaNotReady { replica: id });
        }
        if replica.sealed_off {
            return Err(Rejected::SealedOff { replica: id });
        }
        // A copy that is being moved away counts until another stands in for it, so it may return;
        // one that is no longer wanted may not. (Were it not needed, it would have a tombstone.)
        if replica.leaving && replica.even_below_policy {
            return Err(Rejected::Leaving { replica: id });
        }
        let site = &self.state.node(replica.node)?.site;
        let voterless = self.state.voters.voterless_sites.contains(site);
        if voterless && !self.state.broken(Mutation::VoterlessSite) {
            return Err(Rejected::SiteWithoutVoter { site: site.clone() });
        }
        Ok(())
    }

    fn tell_of_change(
        &mut self,
        volume: &Volume,
        remove: &BTreeSet<ReplicaId>,
        add: &BTreeMap<ReplicaId, Incarnation>,
        reason: &str,
    ) {
        let names = |ids: &mut dyn Iterator<Item = &ReplicaId>| {
            ids.map(|id| self.state.replica_name(volume, *id))
                .collect::<Vec<_>>()
                .join(", ")
        };
        let members = &volume.membership.in_sync;
        let left = names(&mut remove.iter().filter(|id| members.contains_key(id)));
        if left.is_empty() && add.is_empty() {
            // Only the version moves.
            return;
        }
        let mut parts = Vec::new();
        if !left.is_empty() {
            parts.push(format!("{left} left"));
        }
        if !add.is_empty() {
            parts.push(format!("{} certified", names(&mut add.keys())));
        }
        let reason: String = reason.chars().take(200).collect();
        let text = format!("volume '{}': {} ({reason})", volume.name, parts.join(", "));
        let severity = if left.is_empty() {
            Severity::Info
        } else {
            Severity::Warning
        };
        self.tell(severity, Some(volume.id), volume.membership.primary, text);
    }
}
