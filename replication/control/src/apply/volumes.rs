//! Volumes: made, deleted, grown, promised otherwise.

use super::{Apply, Applying, Outcome, label};
use crate::command::{Bound, Command, NewReplica};
use crate::event::Severity;
use crate::mutate::Mutation;
use crate::record::{Membership, Policy, Replica, Volume};
use crate::state::extents;
use crate::{Rejected, policy};
use lockstep_types::{Epoch, FaultDomain, MAX_VOLUME_BLOCKS, NodeId, NodeRole, Stamp, VolumeId};
use std::collections::{BTreeMap, BTreeSet};

impl Apply<'_> {
    pub(super) fn create_volume(&mut self, command: &Command) -> Applying {
        let Command::CreateVolume {
            volume: id,
            name,
            blocks,
            lineage,
            policy,
            replicas,
        } = command
        else {
            unreachable!("dispatched by its kind");
        };
        label("volume name", name)?;
        if let Some(existing) = self.state.volume_named(name) {
            // CSI asks again after a lost answer, with an id and copies chosen anew.
            return match existing {
                Volume { deleting: true, .. } => Err(Rejected::Deleting),
                same if same.blocks == *blocks && same.policy == *policy => Ok(Outcome::Volume {
                    id: same.id,
                    created: false,
                }),
                _ => Err(Rejected::NameTaken {
                    what: "volume",
                    name: name.clone(),
                }),
            };
        }
        self.fresh(id.as_u128(), self.state.volumes.contains_key(id))?;
        check_size(*blocks)?;
        self.check_policy(policy)?;
        let mut volume = Volume {
            id: *id,
            name: name.clone(),
            blocks: *blocks,
            lineage: *lineage,
            policy: policy.clone(),
            replicas: BTreeMap::new(),
            membership: Membership::new(Epoch::new(self.state.generation, 0)),
            fenced: BTreeMap::new(),
            deleting: false,
        };
        for replica in replicas {
            self.admit_replica(&volume, replica, None)?;
            volume
                .replicas
                .insert(replica.replica, Replica::new(replica));
        }
        let all: BTreeSet<_> = volume.replicas.keys().copied().collect();
        if !policy::holds(policy, &volume, &self.state.nodes, &all) {
            return Err(Rejected::PolicyNotMet {
                copies: policy.copies.to_string(),
            });
        }
        let text = format!("volume '{name}' was made with {} copies", all.len());
        self.tell(Severity::Info, Some(*id), None, text);
        self.put_volume(volume)?;
        Ok(Outcome::Volume {
            id: *id,
            created: true,
        })
    }

    pub(super) fn delete_volume(&mut self, id: VolumeId) -> Applying {
        let mut volume = self.state.volume(id)?.clone();
        if volume.deleting {
            return Ok(Outcome::Unchanged);
        }
        if let Some(attachment) = volume.membership.attachment {
            return Err(Rejected::Attached {
                node: self.state.node_name(attachment.node),
            });
        }
        // A caretaker at work is fenced with the rest.
        volume.membership.epoch = self.epoch_after(&volume);
        volume.membership.primary = None;
        volume.membership.caretaker = false;
        for replica in volume.replicas.keys().copied().collect::<Vec<_>>() {
            self.bury(&mut volume, replica);
        }
        volume.deleting = true;
        self.tell(
            Severity::Info,
            Some(id),
            None,
            format!("volume '{}' is being deleted", volume.name),
        );
        self.put_volume(volume)?;
        self.end_deleted(id);
        Ok(Outcome::Done)
    }

    /// R8: committed here before it is sequenced; sizes only grow.
    pub(super) fn resize_volume(&mut self, id: VolumeId, blocks: u64) -> Applying {
        let mut volume = self.volume(id)?;
        if blocks == volume.blocks {
            return Ok(Outcome::Unchanged);
        }
        if blocks < volume.blocks && !self.state.broken(Mutation::SizeShrinks) {
            return Err(Rejected::Shrink {
                from: volume.blocks,
                to: blocks,
            });
        }
        check_size(blocks)?;
        let more = extents(blocks).saturating_sub(extents(volume.blocks));
        for replica in volume.replicas.values() {
            self.check_room(replica.device, more)?;
        }
        let text = format!(
            "volume '{}' grew from {} to {blocks} blocks",
            volume.name, volume.blocks
        );
        self.tell(Severity::Info, Some(id), None, text);
        volume.blocks = blocks;
        self.put_volume(volume)
    }

    pub(super) fn set_policy(&mut self, id: VolumeId, policy: &Policy) -> Applying {
        let mut volume = self.volume(id)?;
        if volume.policy == *policy {
            return Ok(Outcome::Unchanged);
        }
        self.check_policy(policy)?;
        let text = format!(
            "volume '{}': copies '{}', {:?}",
            volume.name, policy.copies, policy.rpo
        );
        self.tell(Severity::Info, Some(id), None, text);
        volume.policy = policy.clone();
        self.put_volume(volume)
    }

    pub(super) fn note_sequence(&mut self, id: VolumeId, bound: Bound, stamp: Stamp) -> Applying {
        self.state.volume(id)?;
        let noted = self.state.ledger.note(id, bound, stamp);
        Ok(if noted {
            Outcome::Done
        } else {
            Outcome::Unchanged
        })
    }

    /// Whether a replica may be added: a fresh id, a data node that takes new things, a pool of its
    /// with room, and no fault domain shared with a copy that stays. `instead_of` is the copy whose
    /// place it takes.
    pub(super) fn admit_replica(
        &self,
        volume: &Volume,
        new: &NewReplica,
        instead_of: Option<lockstep_types::ReplicaId>,
    ) -> Result<(), Rejected> {
        let known = |volume: &Volume| volume.replicas.contains_key(&new.replica);
        let living = self.state.volumes.values().any(known)
            || known(volume)
            || self.state.tombstones.contains_key(&new.replica);
        self.fresh(new.replica.as_u128(), living)?;
        let node = self.new_things_on(new.node)?;
        let level = volume.policy.fault_domain;
        for (id, other) in &volume.replicas {
            let stays = !other.leaving && !other.sealed_off && Some(*id) != instead_of;
            let host = self.state.node(other.node)?;
            let shared = stays && policy::domain(host, level) == policy::domain(node, level);
            if shared || other.device == new.device {
                let level = if shared { level_name(level) } else { "pool" };
                return Err(Rejected::SharedDomain {
                    level,
                    node: host.name.clone(),
                });
            }
        }
        match self.state.pools.get(&new.device) {
            Some(pool) if pool.node == new.node => {
                self.check_place(pool)?;
                self.check_room(new.device, extents(volume.blocks))
            }
            _ => Err(Rejected::NoPool { device: new.device }),
        }
    }

    /// A data node that is not cordoned.
    pub(super) fn new_things_on(&self, id: NodeId) -> Result<&crate::Node, Rejected> {
        let node = self.state.node(id)?;
        let name = || node.name.clone();
        if node.role == NodeRole::Witness {
            return Err(Rejected::Witness { node: name() });
        }
        if node.cordoned {
            Err(Rejected::Cordoned { node: name() })
        } else {
            Ok(node)
        }
    }

    /// The next epoch of a volume, in the cluster's generation.
    pub(super) fn epoch_after(&self, volume: &Volume) -> Epoch {
        volume.membership.epoch.in_generation(self.state.generation)
    }

    /// Whether a pool has a place for one more replica.
    fn check_place(&self, pool: &crate::Pool) -> Result<(), Rejected> {
        match self.state.places_left(pool.device) {
            Some(0) => Err(Rejected::NoPlace {
                pool: pool.name.clone(),
                node: self.state.node_name(pool.node),
                places: pool.places,
            }),
            _ => Ok(()),
        }
    }

    fn check_room(&self, device: lockstep_types::DeviceId, needed: u64) -> Result<(), Rejected> {
        let room = self.state.room(device);
        if needed <= room {
            return Ok(());
        }
        let pool = self
            .state
            .pools
            .get(&device)
            .ok_or(Rejected::NoPool { device })?;
        let node = self.state.node_name(pool.node);
        Err(Rejected::NoRoom {
            pool: pool.name.clone(),
            node,
            room,
            needed,
        })
    }

    fn check_policy(&self, policy: &Policy) -> Result<(), Rejected> {
        let sites = self.state.data_sites();
        policy
            .copies
            .check(policy.fault_domain, &sites)
            .map_err(Rejected::Placement)?;
        match &policy.preferred_site {
            Some(site) if !sites.contains(site) => {
                let known = sites.into_iter().collect();
                let site = site.clone();
                Err(Rejected::Placement(
                    lockstep_placement::Refusal::UnknownSite { site, known },
                ))
            }
            _ => Ok(()),
        }
    }
}

fn check_size(blocks: u64) -> Result<(), Rejected> {
    let why = match blocks {
        0 => "a volume has at least one block of 4096 bytes".to_owned(),
        n if n > MAX_VOLUME_BLOCKS => format!("at most {MAX_VOLUME_BLOCKS} blocks are possible"),
        _ => return Ok(()),
    };
    Err(Rejected::Bad {
        what: "size",
        text: format!("{blocks} blocks"),
        why,
    })
}

const fn level_name(level: FaultDomain) -> &'static str {
    match level {
        FaultDomain::Site => "site",
        FaultDomain::Zone => "zone",
        FaultDomain::Rack => "rack",
        FaultDomain::Node => "node",
    }
}
