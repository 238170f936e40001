//! What may be proposed. Each command is applied by [`crate::State::apply`] in log order, the same
//! on every voter; ids, names and times in it were chosen by the proposer.

use crate::record::{Attachment, Expected, Policy};
use lockstep_types::{
    AttachmentId, ClusterId, DeviceId, Incarnation, LineageId, NodeId, NodeRole, ReplicaId, Stamp,
    VolumeId,
};
use std::collections::{BTreeMap, BTreeSet};

/// A change of the control state.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
#[allow(missing_docs, reason = "fields are what the variant's words name")]
pub enum Command {
    /// The first entry of a cluster.
    InitCluster {
        id: ClusterId,
        name: String,
        ca_certificate: Vec<u8>,
        sealed_ca_key: Vec<u8>,
    },
    /// A node joins or changes its addresses; labels of sites, zones and racks are immutable.
    PutNode(Node),
    /// Refused while replicas or attachments are on it, or its voter is needed.
    RemoveNode { node: NodeId },
    /// Maintenance: no new copies, primaries or voters there.
    CordonNode { node: NodeId, cordoned: bool },
    /// A pool of a node.
    PutPool(Pool),
    /// Refused while replicas are on it.
    RemovePool { device: DeviceId },
    /// A one-time join token was made (`secret_hash`), or used up.
    PutToken {
        id: u64,
        secret_hash: [u8; 32],
        expires_unix: u64,
        role: NodeRole,
    },
    /// The token was used by this node.
    UseToken { id: u64, node: NodeId },
    /// A volume with its first replicas; each starts with the incarnation given here.
    CreateVolume {
        volume: VolumeId,
        name: String,
        blocks: u64,
        lineage: LineageId,
        policy: Policy,
        replicas: Vec<NewReplica>,
    },
    /// The node made the replica's space; the last one makes the volume ready with all of them in sync.
    ReplicaReady {
        volume: VolumeId,
        replica: ReplicaId,
        incarnation: Incarnation,
    },
    /// Refused while attached. Tombstones follow.
    DeleteVolume { volume: VolumeId },
    /// The node deleted the data that a tombstone named (R18).
    ReplicaGone {
        volume: VolumeId,
        replica: ReplicaId,
        incarnation: Incarnation,
    },
    /// Grow (R8).
    ResizeVolume { volume: VolumeId, blocks: u64 },
    /// Publish to a node; refused while another attachment lives.
    Attach {
        volume: VolumeId,
        attachment: Attachment,
    },
    /// End a publication: fences it (R12). `device_gone` when the node itself says so.
    Detach {
        volume: VolumeId,
        attachment: AttachmentId,
        device_gone: bool,
    },
    /// The fenced device of a former attachment no longer exists.
    DeviceGone {
        volume: VolumeId,
        attachment: AttachmentId,
    },
    /// Epoch + 1 with this node as primary (R9). `attachment` must be the record's; none for a caretaker.
    /// A caretaker of an attached volume must also state `primary_silent`: that it has itself seen the
    /// attached node silent for 3 s.
    Promote {
        volume: VolumeId,
        expected: Expected,
        node: NodeId,
        attachment: Option<AttachmentId>,
        primary_silent: bool,
    },
    /// The caretaker's work is done.
    StepDown {
        volume: VolumeId,
        expected: Expected,
        node: NodeId,
    },
    /// Change the in-sync set under the current epoch (R1, R5). A change that would empty it is refused.
    /// `node` is the proposer, checked by the shell against its certificate: the primary of the epoch.
    ChangeInSync {
        volume: VolumeId,
        expected: Expected,
        node: NodeId,
        remove: BTreeSet<ReplicaId>,
        add: BTreeMap<ReplicaId, Incarnation>,
        reason: String,
    },
    /// Under `strict`: the epoch's primary opens for repair only, or no longer (R9).
    SetRepairOnly {
        volume: VolumeId,
        expected: Expected,
        node: NodeId,
        repair_only: bool,
    },
    /// A new replica, joining.
    AddReplica {
        volume: VolumeId,
        replica: NewReplica,
    },
    /// A replica (not in sync) restarts its life with a new incarnation, its data compared whole.
    Reincarnate {
        volume: VolumeId,
        replica: ReplicaId,
        from: Incarnation,
        to: Incarnation,
    },
    /// A new replica, joining, in place of `from`, which leaves when the policy holds without it.
    MoveReplica {
        volume: VolumeId,
        from: ReplicaId,
        to: NewReplica,
    },
    /// Take a replica away: leaves the set by its primary, then a tombstone once the policy holds
    /// without it, or at once when the operator accepts fewer copies.
    RemoveReplica {
        volume: VolumeId,
        replica: ReplicaId,
        even_below_policy: bool,
    },
    /// Takes back a removal that has not been carried out.
    KeepReplica {
        volume: VolumeId,
        replica: ReplicaId,
    },
    /// Change what was asked for.
    SetPolicy { volume: VolumeId, policy: Policy },
    /// An interval in which acknowledged writes stood in one site only ends or begins at this sequence.
    NoteSequence {
        volume: VolumeId,
        bound: Bound,
        stamp: Stamp,
    },
    /// After the quorum was rebuilt by force: a new generation; no recorded in-sync set is trusted.
    RebuildGeneration {
        generation: u32,
        barred_voters: BTreeSet<u64>,
        operator: String,
    },
    /// The second forced command: the in-sync set is this replica alone from now on. `may_rejoin`
    /// are replicas that the proposer has compared and found no newer; every other one that may hold
    /// acknowledged writes is sealed off.
    ForcePromote {
        volume: VolumeId,
        expected: Expected,
        replica: ReplicaId,
        incarnation: Incarnation,
        may_rejoin: BTreeSet<ReplicaId>,
        operator: String,
    },
    /// The overwritten side is discarded by name.
    DiscardSealed {
        volume: VolumeId,
        replica: ReplicaId,
        operator: String,
    },
    /// Raises what commands may be proposed.
    SetClusterVersion { version: u32 },
    /// A voter's raft id, bound to its log's incarnation (R20).
    PutVoter { raft_id: u64, node: NodeId },
    /// The raft id is never used again (R20).
    RemoveVoter { raft_id: u64 },
    /// Cluster-wide settings.
    SetSettings(Settings),
    /// The leader has seen other voters in force than were last told of: an event says who.
    NoteVoters,
    /// Something about a certificate, told by a node, for people. Nothing is decided by it.
    NoteCertificate {
        teller: NodeId,
        fate: Fate,
        /// Whose certificate it is.
        whose: String,
        /// Until when it is good, or why it was refused.
        detail: String,
    },
}

/// What became of a certificate.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Fate {
    /// Signed for whoever has none yet.
    Issued,
    /// Signed for whoever has an older one.
    Renewed,
    /// Its holder was not let in, or not believed.
    Refused,
    /// It was asked for and not signed.
    Denied,
}

impl Command {
    /// The first cluster version whose voters all understand it.
    pub const fn since(&self) -> u32 {
        1
    }
}

/// Which end of a ledger interval a note is about.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Bound {
    /// The first stamp that may stand in one site only.
    Begin,
    /// The last such stamp.
    End,
}

/// Cluster-wide settings.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Settings {
    /// How much may be promised on a pool, in per cent of its data extents; 100 promises no more
    /// than there is. 10 to 10,000.
    pub overprovision_per_cent: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            overprovision_per_cent: 100,
        }
    }
}

/// A command as it stands in the log, with the proposer's wall clock, which is only shown to people
/// and compared with a token's expiry; nothing else depends on it.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Proposal {
    /// Milliseconds since 1970.
    pub at_unix_ms: u64,
    /// The change.
    pub command: Command,
}

impl From<Command> for Proposal {
    /// At time 0, for callers without a wall clock.
    fn from(command: Command) -> Self {
        Self {
            at_unix_ms: 0,
            command,
        }
    }
}

/// A replica to be made.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct NewReplica {
    /// Its id.
    pub replica: ReplicaId,
    /// Its node.
    pub node: NodeId,
    /// Its pool.
    pub device: DeviceId,
    /// Its first life.
    pub incarnation: Incarnation,
}

/// A node.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Node {
    /// Its id.
    pub id: NodeId,
    /// Its label.
    pub name: String,
    /// Where it stands.
    pub site: String,
    /// Zone inside the site; may be empty.
    pub zone: String,
    /// Rack inside the zone; may be empty.
    pub rack: String,
    /// What it does.
    pub role: NodeRole,
    /// `host:port` of raft and admin, over TLS.
    pub control_address: String,
    /// `host:port` of replication, one a data-plane thread.
    pub data_addresses: Vec<String>,
    /// Not to be given anything new.
    pub cordoned: bool,
}

/// A pool: one device of a node.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Pool {
    /// Its id.
    pub device: DeviceId,
    /// Its node.
    pub node: NodeId,
    /// Its label, unique on the node.
    pub name: String,
    /// Data extents in all.
    pub extents: u64,
    /// Data extents free when last told.
    pub free_extents: u64,
    /// Replicas that it can hold: its journal has a window for each. 0 if it has not told.
    pub places: u32,
}
