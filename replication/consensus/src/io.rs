//! What goes into [`Consensus`](crate::Consensus) and what comes out: plain data.

use std::collections::BTreeSet;

use bytes::Bytes;
use lockstep_types::NodeId;
use raft_proto::eraftpb::ConfState;

use crate::log::DiskOp;

/// What consensus is told.
#[derive(Clone, PartialEq, Debug)]
pub enum Input {
    /// [`next_timer`](crate::Consensus::next_timer) has come.
    Timer,
    /// A frame arrived over the link from `from`.
    Frame {
        /// The node at the other end of the link, as its certificate names it.
        from: NodeId,
        /// The frame.
        frame: Bytes,
    },
    /// The link to a node came up, proved in both directions, or went down.
    Link {
        /// The node.
        node: NodeId,
        /// Whether it is up.
        up: bool,
    },
    /// Who is behind which raft id, whole, as the control state has it.
    Members(Vec<Member>),
    /// Put a command into the log. Ends in [`Output::Apply`] with the same ticket, or in
    /// [`Output::Refused`].
    Propose {
        /// Names this attempt; never used twice in one life of the process.
        ticket: u64,
        /// The command; not empty, at most [`MAX_COMMAND`](crate::MAX_COMMAND) bytes.
        data: Bytes,
    },
    /// Change the configuration; the leader only. Ends in [`Output::Reconfigured`] or [`Output::Refused`].
    Reconfigure {
        /// Names this attempt.
        ticket: u64,
        /// The change.
        change: Reconfiguration,
    },
    /// Ask for an index that contains every command acknowledged so far. Ends in
    /// [`Output::ReadReady`] or [`Output::Refused`].
    Read {
        /// Names this attempt.
        ticket: u64,
    },
    /// All ops of [`Output::Persist`] with this token are durable.
    Persisted {
        /// Names the ops.
        token: u64,
    },
    /// The ops with this token wait for space; the shell keeps trying. A leader hands over meanwhile.
    PersistStalled {
        /// Names the ops.
        token: u64,
    },
    /// The answer to [`Output::TakeSnapshot`].
    Snapshot {
        /// The index that was asked for.
        index: u64,
        /// The state machine's bytes at that index.
        data: Bytes,
    },
    /// Hand leadership to this node's voter, if this one leads.
    TransferLeader {
        /// The node.
        to: NodeId,
    },
}

/// What consensus wants done, in order.
#[derive(Clone, PartialEq, Debug)]
pub enum Output {
    /// Send a frame over the link to `to`. It may get lost.
    Send {
        /// The next node on its way.
        to: NodeId,
        /// The frame.
        frame: Bytes,
    },
    /// Carry out the ops in order, then answer [`Input::Persisted`]. One at a time.
    Persist {
        /// Names the ops.
        token: u64,
        /// What to do.
        ops: Vec<DiskOp>,
    },
    /// Apply a committed command. Indexes rise; commands of the log that are not for the state
    /// machine leave holes.
    ///
    /// A command that was proposed on a follower may, if the network repeats messages, stand in the
    /// log twice: commands are to be compare-and-set, or otherwise harmless the second time.
    Apply {
        /// Where it stands in the log.
        index: u64,
        /// The term it was proposed in.
        term: u64,
        /// The command.
        data: Bytes,
        /// The attempt it settles, if it was made here and in this life.
        ticket: Option<u64>,
    },
    /// Replace the state machine.
    ApplySnapshot {
        /// The last index it contains.
        index: u64,
        /// The state machine's bytes.
        data: Bytes,
    },
    /// Take a snapshot of the state machine as it is now, before any later output is carried out, and
    /// answer [`Input::Snapshot`].
    TakeSnapshot {
        /// The last applied index.
        index: u64,
    },
    /// A configuration change took effect.
    Reconfigured {
        /// Where it stands in the log.
        index: u64,
        /// Who votes and who learns from now on.
        conf: ConfState,
        /// The attempt it settles.
        ticket: Option<u64>,
    },
    /// An attempt came to nothing, or nobody knows what came of it.
    Refused {
        /// The attempt.
        ticket: u64,
        /// Why.
        reason: Refusal,
        /// The leader's node, as far as it is known.
        leader: Option<NodeId>,
    },
    /// The state machine has applied everything that was acknowledged before the read began.
    ReadReady {
        /// The attempt.
        ticket: u64,
        /// The index it had to reach.
        index: u64,
    },
    /// Leader, term or own role changed.
    Role(Role),
}

/// Who leads.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Role {
    /// The term.
    pub term: u64,
    /// The leader's raft id, 0 if there is none.
    pub leader_id: u64,
    /// The leader's node, as far as it is known.
    pub leader: Option<NodeId>,
    /// Whether this voter leads.
    pub leading: bool,
}

/// Why an attempt came to nothing.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, thiserror::Error)]
pub enum Refusal {
    /// Nothing happened.
    #[error("the control plane has no leader at the moment; try again")]
    NoLeader,
    /// Nothing happened.
    #[error("this node does not lead the control plane; ask the leader")]
    NotLeader,
    /// Nothing happened.
    #[error("the control plane is handing over leadership or has too much unfinished; try again")]
    Busy,
    /// Nothing happened.
    #[error("the command is empty or too large")]
    Malformed,
    /// Nothing happened.
    #[error("another change of the voters is under way, or this one makes no sense now")]
    ReconfigurationPending,
    /// Nothing happened.
    #[error("the disk under this node's raft log is full; free space there")]
    StorageFull,
    /// It may have happened, or may yet happen.
    #[error("the control plane did not answer in time; whether the command took effect is unknown")]
    OutcomeUnknown,
}

/// Who is behind a raft id.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Member {
    /// The raft id, never used for another log (R20).
    pub raft_id: u64,
    /// The node.
    pub node: NodeId,
    /// Whether it is a witness: it leads only until a data site's voter can.
    pub witness: bool,
}

/// A change of the configuration, by raft id. With more than one part it is joint, and left by itself.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Reconfiguration {
    /// Become voters.
    pub voters: BTreeSet<u64>,
    /// Become learners.
    pub learners: BTreeSet<u64>,
    /// Leave, never to return under that id.
    pub remove: BTreeSet<u64>,
}

/// A voter's view of the cluster, for people.
#[derive(Clone, PartialEq, Debug)]
pub struct Status {
    /// The own raft id.
    pub raft_id: u64,
    /// Who leads.
    pub role: Role,
    /// Highest index known committed.
    pub committed: u64,
    /// Highest index applied.
    pub applied: u64,
    /// Highest index in the log.
    pub last: u64,
    /// Who votes and who learns.
    pub conf: ConfState,
    /// How far each replica is; the leader knows.
    pub progress: Vec<Progress>,
    /// Frames that were dropped as malformed, foreign or impossible.
    pub refused_frames: u64,
}

/// How far one replica is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Progress {
    /// The replica.
    pub raft_id: u64,
    /// The highest index durable there.
    pub matched: u64,
    /// Whether it was heard of within an election timeout.
    pub active: bool,
}
