//! The messages, in the order in which they contain each other.

use bytes::Bytes;

/// What an entry's data is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
#[allow(clippy::enum_variant_names)]
pub enum EntryType {
    /// A command for the state machine; empty data is a new leader's first entry.
    EntryNormal = 0,
    /// A [`ConfChange`].
    EntryConfChange = 1,
    /// A [`ConfChangeV2`]; empty data leaves a joint configuration.
    EntryConfChangeV2 = 2,
}

/// One entry of the log.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Entry {
    /// An [`EntryType`].
    #[prost(enumeration = "EntryType", tag = "1")]
    pub entry_type: i32,
    /// Term of the leader that appended it.
    #[prost(uint64, tag = "2")]
    pub term: u64,
    /// Position in the log, from 1.
    #[prost(uint64, tag = "3")]
    pub index: u64,
    /// The command.
    #[prost(bytes = "bytes", tag = "4")]
    pub data: Bytes,
    /// The proposer's own mark, opaque to raft.
    #[prost(bytes = "bytes", tag = "6")]
    pub context: Bytes,
    /// Unused; kept because its number is taken.
    #[prost(bool, tag = "5")]
    pub sync_log: bool,
}

/// Who votes and who learns.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ConfState {
    /// Voters of the (incoming) configuration.
    #[prost(uint64, repeated, tag = "1")]
    pub voters: Vec<u64>,
    /// Replicas that follow without a vote.
    #[prost(uint64, repeated, tag = "2")]
    pub learners: Vec<u64>,
    /// Voters of the outgoing configuration while a change is joint.
    #[prost(uint64, repeated, tag = "3")]
    pub voters_outgoing: Vec<u64>,
    /// Outgoing voters that become learners when the joint configuration is left.
    #[prost(uint64, repeated, tag = "4")]
    pub learners_next: Vec<u64>,
    /// Whether the leader leaves the joint configuration by itself.
    #[prost(bool, tag = "5")]
    pub auto_leave: bool,
}

/// What a snapshot stands for.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SnapshotMetadata {
    /// Configuration at `index`.
    #[prost(message, optional, tag = "1")]
    pub conf_state: Option<ConfState>,
    /// The last entry it contains.
    #[prost(uint64, tag = "2")]
    pub index: u64,
    /// That entry's term.
    #[prost(uint64, tag = "3")]
    pub term: u64,
}

/// The state machine at one index.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Snapshot {
    /// The state machine's bytes.
    #[prost(bytes = "bytes", tag = "1")]
    pub data: Bytes,
    /// Where in the log it belongs.
    #[prost(message, optional, tag = "2")]
    pub metadata: Option<SnapshotMetadata>,
}

/// Kinds of [`Message`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
#[allow(missing_docs, clippy::enum_variant_names)]
pub enum MessageType {
    MsgHup = 0,
    MsgBeat = 1,
    MsgPropose = 2,
    MsgAppend = 3,
    MsgAppendResponse = 4,
    MsgRequestVote = 5,
    MsgRequestVoteResponse = 6,
    MsgSnapshot = 7,
    MsgHeartbeat = 8,
    MsgHeartbeatResponse = 9,
    MsgUnreachable = 10,
    MsgSnapStatus = 11,
    MsgCheckQuorum = 12,
    MsgTransferLeader = 13,
    MsgTimeoutNow = 14,
    MsgReadIndex = 15,
    MsgReadIndexResp = 16,
    MsgRequestPreVote = 17,
    MsgRequestPreVoteResponse = 18,
}

/// What replicas say to each other.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Message {
    /// A [`MessageType`].
    #[prost(enumeration = "MessageType", tag = "1")]
    pub msg_type: i32,
    /// Receiver's raft id.
    #[prost(uint64, tag = "2")]
    pub to: u64,
    /// Sender's raft id.
    #[prost(uint64, tag = "3")]
    pub from: u64,
    /// Sender's term; 0 for what never leaves a replica.
    #[prost(uint64, tag = "4")]
    pub term: u64,
    /// Term of the entry at `index`.
    #[prost(uint64, tag = "5")]
    pub log_term: u64,
    /// The entry before `entries`, or what a response speaks of.
    #[prost(uint64, tag = "6")]
    pub index: u64,
    /// Entries to append or propose.
    #[prost(message, repeated, tag = "7")]
    pub entries: Vec<Entry>,
    /// Sender's commit index.
    #[prost(uint64, tag = "8")]
    pub commit: u64,
    /// Term of the entry at `commit`, in votes.
    #[prost(uint64, tag = "15")]
    pub commit_term: u64,
    /// A whole state, for a follower too far behind.
    #[prost(message, optional, tag = "9")]
    pub snapshot: Option<Snapshot>,
    /// A follower's wish for a snapshot at this index or later.
    #[prost(uint64, tag = "13")]
    pub request_snapshot: u64,
    /// The response says no.
    #[prost(bool, tag = "10")]
    pub reject: bool,
    /// Where the follower's log may agree.
    #[prost(uint64, tag = "11")]
    pub reject_hint: u64,
    /// Kind of a campaign, or mark of a read.
    #[prost(bytes = "bytes", tag = "12")]
    pub context: Bytes,
    /// Not used here.
    #[prost(uint64, tag = "14")]
    pub deprecated_priority: u64,
    /// Not used here.
    #[prost(int64, tag = "16")]
    pub priority: i64,
}

/// What a replica must remember before it answers.
#[derive(Clone, PartialEq, prost::Message)]
pub struct HardState {
    /// Highest term seen.
    #[prost(uint64, tag = "1")]
    pub term: u64,
    /// Whom it voted for in that term, or 0.
    #[prost(uint64, tag = "2")]
    pub vote: u64,
    /// Highest index known committed.
    #[prost(uint64, tag = "3")]
    pub commit: u64,
}

/// How a configuration change is carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum ConfChangeTransition {
    /// Joint only if there is more than one change.
    Auto = 0,
    /// Joint, left by the leader itself.
    Implicit = 1,
    /// Joint, left on a further, empty change.
    Explicit = 2,
}

/// What happens to one replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum ConfChangeType {
    /// It votes.
    AddNode = 0,
    /// It leaves.
    RemoveNode = 1,
    /// It follows without a vote.
    AddLearnerNode = 2,
}

/// The older form: one replica.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ConfChange {
    /// A [`ConfChangeType`].
    #[prost(enumeration = "ConfChangeType", tag = "2")]
    pub change_type: i32,
    /// Whom it concerns.
    #[prost(uint64, tag = "3")]
    pub node_id: u64,
    /// Opaque to raft.
    #[prost(bytes = "bytes", tag = "4")]
    pub context: Bytes,
    /// Opaque to raft.
    #[prost(uint64, tag = "1")]
    pub id: u64,
}

/// One part of a [`ConfChangeV2`].
#[derive(Clone, PartialEq, prost::Message)]
pub struct ConfChangeSingle {
    /// A [`ConfChangeType`].
    #[prost(enumeration = "ConfChangeType", tag = "1")]
    pub change_type: i32,
    /// Whom it concerns.
    #[prost(uint64, tag = "2")]
    pub node_id: u64,
}

/// A change of configuration, joint when it has several parts.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ConfChangeV2 {
    /// A [`ConfChangeTransition`].
    #[prost(enumeration = "ConfChangeTransition", tag = "1")]
    pub transition: i32,
    /// The parts.
    #[prost(message, repeated, tag = "2")]
    pub changes: Vec<ConfChangeSingle>,
    /// Opaque to raft.
    #[prost(bytes = "bytes", tag = "3")]
    pub context: Bytes,
}
