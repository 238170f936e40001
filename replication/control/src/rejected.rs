//! Why a committed command changed nothing.

use crate::record::Membership;
use lockstep_placement::Refusal;
use lockstep_types::{AttachmentId, DeviceId, Incarnation, NodeId, ReplicaId, VolumeId};

/// A refusal by the rules. The same on every voter; nothing was changed.
#[derive(Clone, PartialEq, Eq, Hash, Debug, thiserror::Error)]
#[allow(missing_docs, reason = "each message says what its fields are")]
pub enum Rejected {
    #[error("there is no cluster yet: run 'lockstep cluster init' on the first node")]
    NoCluster,
    #[error("this node already belongs to the cluster '{name}'")]
    ClusterExists { name: String },
    #[error(
        "the command needs cluster version {needed}, version {active} is active: upgrade every voter first"
    )]
    Version { needed: u32, active: u32 },
    #[error("the {what} '{text}' cannot be used: {why}")]
    Bad {
        what: &'static str,
        text: String,
        why: String,
    },
    #[error("the name '{name}' is taken by another {what}; choose another")]
    NameTaken { what: &'static str, name: String },
    #[error("no volume has the id {volume}")]
    NoVolume { volume: VolumeId },
    #[error("no node has the id {node}")]
    NoNode { node: NodeId },
    #[error("no pool has the id {device}")]
    NoPool { device: DeviceId },
    #[error("the volume has no replica {replica}")]
    NoReplica { replica: ReplicaId },
    #[error("no tombstone names replica {replica} in incarnation {incarnation}; its data is kept")]
    NoTombstone {
        replica: ReplicaId,
        incarnation: Incarnation,
    },
    #[error("the id {id:032x} was used before and is not used again")]
    IdUsed { id: u128 },
    #[error("the membership record changed meanwhile: it is at epoch {}, version {}", .current.epoch, .current.version)]
    Conflict { current: Box<Membership> },
    #[error("node {node} is not the primary of this epoch")]
    NotPrimary { node: NodeId },
    #[error("the volume is not published under the attachment {named}")]
    WrongAttachment { named: AttachmentId },
    #[error("the volume is attached to node '{node}'; detach it there first")]
    Attached { node: String },
    #[error(
        "node '{node}' still has the fenced device of attachment {attachment}: it must be gone before the volume is attached there again"
    )]
    OldDevice {
        node: String,
        attachment: AttachmentId,
    },
    #[error("the volume is not ready: node '{node}' has not made its copy yet")]
    NotReady { node: String },
    #[error("the volume is being deleted")]
    Deleting,
    #[error(
        "the control plane was rebuilt by force and the recorded in-sync set is not trusted: \
         open the volume with 'lockstep recover promote-replica'"
    )]
    Distrusted,
    #[error(
        "the in-sync set would be empty: the last certified copy stays until another is certified"
    )]
    EmptySet,
    #[error(
        "rpo 'strict' keeps a certified copy in site '{site}': it goes only in exchange for a verified one there"
    )]
    StrictSite { site: String },
    #[error("replica {replica} is in the in-sync set")]
    InSync { replica: ReplicaId },
    #[error("replica {replica} has incarnation {recorded} in the record, not {given}")]
    Incarnation {
        replica: ReplicaId,
        recorded: Incarnation,
        given: Incarnation,
    },
    #[error("replica {replica} is leaving the volume")]
    Leaving { replica: ReplicaId },
    #[error("replica {replica} has no space made for it yet")]
    ReplicaNotReady { replica: ReplicaId },
    #[error("replica {replica} was overwritten by a forced promotion; discard it by name")]
    SealedOff { replica: ReplicaId },
    #[error(
        "replica {replica} was not overwritten by a forced promotion; remove it like any other"
    )]
    NotSealedOff { replica: ReplicaId },
    #[error("site '{site}' has no voter: its copies are certified again once it has one")]
    SiteWithoutVoter { site: String },
    #[error("no certified copy is on node '{node}'")]
    NoCertifiedCopy { node: String },
    #[error("the volume has {from} blocks and cannot shrink to {to}")]
    Shrink { from: u64, to: u64 },
    #[error(
        "pool '{pool}' on node '{node}' has room for {room} extents, {needed} are needed: add a pool or free space"
    )]
    NoRoom {
        pool: String,
        node: String,
        room: u64,
        needed: u64,
    },
    #[error(
        "pool '{pool}' on node '{node}' holds as many copies as it can, {places}: add a pool, or make one with a larger journal"
    )]
    NoPlace {
        pool: String,
        node: String,
        places: u32,
    },
    #[error("{0}")]
    Placement(Refusal),
    #[error("a copy is already in the same {level} as node '{node}'")]
    SharedDomain { level: &'static str, node: String },
    #[error("the copies named are not what '{copies}' asks for")]
    PolicyNotMet { copies: String },
    #[error("{what} is in use: {by}")]
    InUse { what: String, by: String },
    #[error("the {field} of node '{node}' cannot change: remove the node and join it anew")]
    Immutable { field: &'static str, node: String },
    #[error("node '{node}' is cordoned: it is given nothing new")]
    Cordoned { node: String },
    #[error("node '{node}' is a witness: it holds no data and attaches nothing")]
    Witness { node: String },
    #[error(
        "the join token is not known, expired, or was used by another node: make a new one with 'lockstep node token'"
    )]
    Token,
    #[error(
        "the raft id {raft_id} was used before and is not used again: a voter without its log joins under a new one"
    )]
    VoterBarred { raft_id: u64 },
    #[error("cluster generation {given} is not above {current}")]
    Generation { current: u32, given: u32 },
    #[error("there are already {max} {what}")]
    Limit { what: &'static str, max: usize },
}

impl Rejected {
    /// Stable for programs; never changes its meaning.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::NoCluster => "no-cluster",
            Self::ClusterExists { .. } => "cluster-exists",
            Self::Version { .. } => "cluster-version",
            Self::Bad { .. } => "invalid",
            Self::NameTaken { .. } => "name-taken",
            Self::NoVolume { .. } => "no-volume",
            Self::NoNode { .. } => "no-node",
            Self::NoPool { .. } => "no-pool",
            Self::NoReplica { .. } => "no-replica",
            Self::NoTombstone { .. } => "no-tombstone",
            Self::IdUsed { .. } => "id-used",
            Self::Conflict { .. } => "conflict",
            Self::NotPrimary { .. } => "not-primary",
            Self::WrongAttachment { .. } => "wrong-attachment",
            Self::Attached { .. } => "attached",
            Self::OldDevice { .. } => "old-device",
            Self::NotReady { .. } => "not-ready",
            Self::Deleting => "deleting",
            Self::Distrusted => "distrusted",
            Self::EmptySet => "empty-set",
            Self::StrictSite { .. } => "strict-site",
            Self::InSync { .. } => "in-sync",
            Self::Incarnation { .. } => "incarnation",
            Self::Leaving { .. } => "leaving",
            Self::ReplicaNotReady { .. } => "replica-not-ready",
            Self::SealedOff { .. } => "sealed-off",
            Self::NotSealedOff { .. } => "not-sealed-off",
            Self::SiteWithoutVoter { .. } => "site-without-voter",
            Self::NoCertifiedCopy { .. } => "no-certified-copy",
            Self::Shrink { .. } => "shrink",
            Self::NoRoom { .. } => "no-room",
            Self::NoPlace { .. } => "no-place",
            Self::Placement(_) => "placement",
            Self::SharedDomain { .. } => "shared-domain",
            Self::PolicyNotMet { .. } => "policy-not-met",
            Self::InUse { .. } => "in-use",
            Self::Immutable { .. } => "immutable",
            Self::Cordoned { .. } => "cordoned",
            Self::Witness { .. } => "witness",
            Self::Token => "token",
            Self::VoterBarred { .. } => "voter-barred",
            Self::Generation { .. } => "generation",
            Self::Limit { .. } => "limit",
        }
    }
}
