//! The boundary of a node's data plane: what goes in, what comes out. The production shell (io_uring,
//! TLS links, tokio's control plane) and the simulator drive the same [`Node`](crate::Node) through it.

use lockstep_control::{Change, Command, Outcome, Rejected};
use lockstep_protocol::Comparison;
use lockstep_store::{DiskOp, DiskResult, DiskToken};
use lockstep_types::{
    AttachmentId, DeviceId, Epoch, NodeId, ReplicaId, Request, RequestError, Response, Sequence,
    Stamp, VolumeId,
};
use lockstep_wire::Message;

/// Chosen by the front-end for a request, given back with its completion.
pub type Tag = u64;
/// Chosen by the node for a proposal, or by the shell for an admin request; given back with the answer.
pub type Ticket = u64;

/// What the shell tells the node.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Input {
    /// `Node::next_timer` has come.
    Timer,
    /// A disk operation ended.
    Disk {
        device: DeviceId,
        token: DiskToken,
        result: DiskResult,
    },
    /// A link to a peer stands: both hellos were good. `boot` is the peer's.
    LinkUp { peer: NodeId, boot: u64 },
    /// The link to a peer is gone: closed, reset, or replaced.
    LinkDown { peer: NodeId },
    /// A message arrived on the link of this peer.
    Message { from: NodeId, message: Message },
    /// A committed change of the control state, in log order; at start, everything there is.
    Change(Change),
    /// What became of a proposal. `Unknown` may still commit later (R1).
    Proposed {
        ticket: Ticket,
        result: ProposalResult,
    },
    /// A request through an attached device or export. The node answers each exactly once.
    Client {
        volume: VolumeId,
        attachment: AttachmentId,
        tag: Tag,
        request: Request,
    },
    /// Attach a volume here: refused unless a member without a gap was just heard from (R9).
    Attach {
        ticket: Ticket,
        volume: VolumeId,
        attachment: AttachmentId,
    },
    /// Detach cleanly what is attached here: the device is already gone.
    Detach {
        ticket: Ticket,
        volume: VolumeId,
        attachment: AttachmentId,
    },
    /// Stop: steps down, writes marks; answered by `Output::Stopped`.
    Stop,
}

/// The end of a proposal.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum ProposalResult {
    /// Committed and applied; its changes came before this answer.
    Applied(Outcome),
    /// Committed, and refused by the rules.
    Rejected(Rejected),
    /// Not known: no leader, or it changed; the change may or may not come.
    Unknown,
}

/// What the node wants done, in order.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Output {
    /// Carry out on a device.
    Disk { device: DeviceId, op: DiskOp },
    /// Send on the link of this peer; dropped silently if it does not stand (a `LinkDown` follows or
    /// went before).
    Send { to: NodeId, message: Message },
    /// Put a command to the control plane.
    Propose { ticket: Ticket, command: Command },
    /// The only place a client's request is answered.
    Complete {
        tag: Tag,
        result: Result<Response, RequestError>,
    },
    /// The state of a volume attached here changed.
    Attachment {
        volume: VolumeId,
        attachment: AttachmentId,
        state: AttachmentState,
    },
    /// An admin request ended; the text is for people.
    Answered {
        ticket: Ticket,
        result: Result<(), String>,
    },
    /// For log, metrics, progress and traces; changes nothing.
    Event(NodeEvent),
    /// Everything is on disk; the process may end.
    Stopped,
}

/// What a front-end may do.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum AttachmentState {
    /// Requests are served.
    Open { blocks: u64 },
    /// Requests wait; none fails.
    Suspended,
    /// Every request, held or new, fails with EIO (R12).
    Fenced,
}

/// What happened, for people.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum NodeEvent {
    /// A pool is recovered and serves.
    PoolReady {
        device: DeviceId,
        torn_batches: u64,
        corrupt: bool,
    },
    /// A pool's device failed; its replicas leave.
    PoolFailed {
        device: DeviceId,
        errno: i32,
        what: String,
    },
    /// What was on a device that failed in an earlier life durably says so itself: the mark of
    /// `NodeConfig::failed_before` may go.
    FailureNoted { device: DeviceId },
    /// A primary opened an epoch.
    Opened {
        volume: VolumeId,
        epoch: Epoch,
        rolled: u64,
        took: u64,
    },
    /// A primary stopped serving: another took over, or it stepped down.
    Closed { volume: VolumeId, epoch: Epoch },
    /// A primary asks to remove a member.
    Evicting {
        volume: VolumeId,
        replica: ReplicaId,
        why: &'static str,
    },
    /// The in-sync set under the primary changed.
    InSync {
        volume: VolumeId,
        epoch: Epoch,
        members: Vec<ReplicaId>,
    },
    /// A replica began to be resynced from this cut.
    ResyncStarted {
        volume: VolumeId,
        replica: ReplicaId,
        cut: Stamp,
        extents: u64,
    },
    /// Progress of a resync.
    ResyncProgress {
        volume: VolumeId,
        replica: ReplicaId,
        done: u64,
        total: u64,
        bytes: u64,
    },
    /// All copied and compared; certification is proposed next.
    ResyncVerified {
        volume: VolumeId,
        replica: ReplicaId,
        bytes: u64,
    },
    /// Blocks were repaired from another replica.
    Repaired {
        volume: VolumeId,
        replica: ReplicaId,
        start: u64,
        count: u32,
    },
    /// A volume's primary compared its copies with each other (R17).
    Comparison { volume: VolumeId, found: Comparison },
    /// A device of this node lost a write that it had acknowledged, told by the volume's primary (R17).
    DeviceLostWrite {
        device: DeviceId,
        volume: VolumeId,
        replica: ReplicaId,
    },
    /// The volume waits, and for whom.
    Waiting { volume: VolumeId, reason: String },
    /// The floor moved (coarse; for tests).
    Floor {
        volume: VolumeId,
        sequence: Sequence,
    },
}
