//! What is known besides the committed state: who answers, and what replicas say of themselves.

use lockstep_types::{Epoch, Gap, Incarnation, NodeId, ReplicaId, Stamp};
use std::collections::{BTreeMap, BTreeSet};

/// One node's view of the living cluster, for explanations. Nothing is decided by it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct View {
    /// Nodes heard from of late.
    pub answering: BTreeSet<NodeId>,
    /// Whether the control plane can commit.
    pub quorum: bool,
    /// What replicas of answering nodes said.
    pub replicas: BTreeMap<ReplicaId, Report>,
    /// What the volume's primary says, if it answers.
    pub primary: Option<PrimaryReport>,
}

/// What a primary says of its volume.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PrimaryReport {
    /// Its epoch.
    pub epoch: Epoch,
    /// Whether it serves requests.
    pub open: bool,
    /// Why it does not.
    pub waiting: Option<String>,
}

/// What a replica says of itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Report {
    /// Its life.
    pub incarnation: Incarnation,
    /// The highest epoch it has promised.
    pub promised: Epoch,
    /// The last stamp it holds durably.
    pub last: Stamp,
    /// What recovery lost.
    pub gap: Gap,
    /// The resync that runs, if one does.
    pub resync: Option<Progress>,
    /// Why its pool serves no more.
    pub failed: Option<String>,
}

/// How far a resync is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Progress {
    /// Extents done.
    pub done: u64,
    /// Extents in all.
    pub total: u64,
    /// Bytes copied.
    pub bytes: u64,
}
