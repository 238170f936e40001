//! The committed membership of a volume, as the protocol needs it.

use lockstep_types::{AttachmentId, Epoch, Incarnation, LineageId, NodeId, ReplicaId, VolumeId};
use std::collections::{BTreeMap, BTreeSet};

/// What is committed about a volume.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct View {
    /// The volume.
    pub volume: VolumeId,
    /// Seeds checksums.
    pub lineage: LineageId,
    /// Committed length in blocks.
    pub blocks: u64,
    /// The epoch last committed.
    pub epoch: Epoch,
    /// The record's version.
    pub version: u64,
    /// The primary's node of that epoch.
    pub primary: Option<NodeId>,
    /// Whether it is a caretaker.
    pub caretaker: bool,
    /// The current publication.
    pub attachment: Option<(AttachmentId, NodeId)>,
    /// The certified replicas.
    pub in_sync: BTreeMap<ReplicaId, Incarnation>,
    /// All replicas.
    pub replicas: BTreeMap<ReplicaId, ReplicaView>,
    /// Under `rpo: strict` the sites of which none may be left without a copy; else none.
    pub kept: BTreeSet<String>,
    /// The recorded set is not trusted: the volume opens only by a forced promotion.
    pub distrusted: bool,
}

/// One replica of a [`View`].
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct ReplicaView {
    /// Its node.
    pub node: NodeId,
    /// Its site.
    pub site: String,
    /// The life that the cluster knows.
    pub incarnation: Incarnation,
    /// Its space exists.
    pub ready: bool,
    /// It is to go.
    pub leaving: bool,
}

/// A version to compare and set on.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Expected {
    /// The epoch seen.
    pub epoch: Epoch,
    /// The version seen.
    pub version: u64,
}

impl View {
    /// What a change made from this view expects.
    pub fn expected(&self) -> Expected {
        Expected {
            epoch: self.epoch,
            version: self.version,
        }
    }

    /// The node of a replica.
    pub fn node_of(&self, replica: ReplicaId) -> Option<NodeId> {
        self.replicas.get(&replica).map(|r| r.node)
    }

    /// Whether removing these members leaves some replica, and under `strict` every site that is to be
    /// kept and has one now (safety.md, what the application was promised).
    pub fn may_remove(&self, remove: &[ReplicaId]) -> bool {
        let sites = |skip: &[ReplicaId]| -> BTreeSet<&str> {
            let members = self.in_sync.keys().filter(|id| !skip.contains(id));
            let replicas = members.filter_map(|id| self.replicas.get(id));
            replicas.map(|r| r.site.as_str()).collect()
        };
        let (had, has) = (sites(&[]), sites(remove));
        let mut emptied = had.difference(&has);
        !has.is_empty() && !emptied.any(|site| self.kept.contains(*site))
    }
}
