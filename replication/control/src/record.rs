//! What raft commits about a volume: the membership record and what surrounds it.

use crate::command::NewReplica;
use lockstep_placement::Grammar;
use lockstep_types::{
    AttachmentId, DeviceId, Epoch, FaultDomain, Incarnation, LineageId, Locality,
    MAX_VOLUME_BLOCKS, NodeId, ReplicaId, VolumeId,
};
use std::collections::BTreeMap;

/// Who may write a volume, and which replicas hold every acknowledged write. Every change is a
/// compare-and-set on (epoch, version).
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Membership {
    /// The epoch last committed.
    pub epoch: Epoch,
    /// Counts every change of this record.
    pub version: u64,
    /// The node of the primary of this epoch; none before the first.
    pub primary: Option<NodeId>,
    /// Whether that primary is a caretaker: no attachment, no client I/O.
    pub caretaker: bool,
    /// The current publication, if the volume is attached (R12).
    pub attachment: Option<Attachment>,
    /// The certified replicas. Never empty once the volume is ready (R11).
    pub in_sync: BTreeMap<ReplicaId, Incarnation>,
    /// Under `rpo: strict`: the epoch is open for repair only (R9).
    pub repair_only: bool,
    /// The control plane was rebuilt by force since this record was written: the in-sync set is
    /// what an old log says and is not trusted; only a `ForcePromote` opens the volume.
    pub distrusted: bool,
}

impl Membership {
    /// Of a volume that was never opened.
    pub const fn new(epoch: Epoch) -> Self {
        Self {
            epoch,
            version: 0,
            primary: None,
            caretaker: false,
            attachment: None,
            in_sync: BTreeMap::new(),
            repair_only: false,
            distrusted: false,
        }
    }

    /// What a compare-and-set made from this record names.
    pub const fn expected(&self) -> Expected {
        Expected {
            epoch: self.epoch,
            version: self.version,
        }
    }
}

/// A publication of a volume to a node.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Attachment {
    /// Minted when published.
    pub id: AttachmentId,
    /// The node.
    pub node: NodeId,
}

/// The version of a membership record that a change was made from.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Expected {
    /// The epoch seen.
    pub epoch: Epoch,
    /// The version seen.
    pub version: u64,
}

/// A volume as the control state knows it.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Volume {
    /// Never reused (R18).
    pub id: VolumeId,
    /// A label of 1–63 characters, unique.
    pub name: String,
    /// Length in blocks, committed before its Resize record (R8); only grows.
    pub blocks: u64,
    /// Seeds checksums.
    pub lineage: LineageId,
    /// What was asked for.
    pub policy: Policy,
    /// All replicas, certified or not.
    pub replicas: BTreeMap<ReplicaId, Replica>,
    /// Who may write.
    pub membership: Membership,
    /// Attachments that were fenced while their device may still exist: the volume may not be
    /// published to that node again before the node says the device is gone (R12).
    pub fenced: BTreeMap<AttachmentId, NodeId>,
    /// Deletion was asked for; replicas go as their tombstones are carried out (R18).
    pub deleting: bool,
}

impl Volume {
    /// Whether every first copy was made: the volume has certified copies.
    pub fn is_ready(&self) -> bool {
        !self.membership.in_sync.is_empty()
    }

    /// Asserts what every record keeps.
    pub(crate) fn assert_valid(&self) {
        let membership = &self.membership;
        assert!(self.blocks > 0 && self.blocks <= MAX_VOLUME_BLOCKS);
        assert!(
            membership
                .in_sync
                .keys()
                .all(|id| self.replicas.contains_key(id)),
            "members are recorded"
        );
        assert!(
            membership.primary.is_some() || !membership.caretaker,
            "a caretaker is a primary"
        );
        assert!(
            !self.deleting || self.replicas.is_empty(),
            "deleting leaves tombstones only"
        );
    }
}

/// One copy.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Replica {
    /// Its node.
    pub node: NodeId,
    /// Its pool.
    pub device: DeviceId,
    /// The life of its data that the cluster knows; a replica that states another is no member (R4).
    pub incarnation: Incarnation,
    /// Whether its node has said that its space exists.
    pub ready: bool,
    /// Marked for removal: goes by a tombstone once it is out of the in-sync set and the policy
    /// holds without it (or `even_below_policy`).
    pub leaving: bool,
    /// Whoever marked it accepts fewer copies than the policy asks for.
    pub even_below_policy: bool,
    /// Overwritten by a forced promotion: sealed and read-only until discarded by name.
    pub sealed_off: bool,
    /// When it left the in-sync set, by the proposer's clock; none while it is inside or before it
    /// ever was. Only shown.
    pub left_unix_ms: Option<u64>,
}

impl Replica {
    /// One whose space is yet to be made.
    pub const fn new(new: &NewReplica) -> Self {
        Self {
            node: new.node,
            device: new.device,
            incarnation: new.incarnation,
            ready: false,
            leaving: false,
            even_below_policy: false,
            sealed_off: false,
            left_unix_ms: None,
        }
    }
}

/// What a StorageClass or `volume create` asked for.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Policy {
    /// How many copies where.
    pub copies: Grammar,
    /// No two copies share one of these.
    pub fault_domain: FaultDomain,
    /// Decides only what has no live primary.
    pub preferred_site: Option<String>,
    /// What was promised when a site is gone.
    pub rpo: Rpo,
    /// How hard pods are kept beside a copy.
    pub locality: Locality,
}

/// What the application was promised (safety.md).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Rpo {
    /// Never fewer than one copy in each required site: writes wait instead.
    Strict,
    /// Continue on certified survivors after the shrink has committed.
    #[default]
    WitnessedDegrade,
}
