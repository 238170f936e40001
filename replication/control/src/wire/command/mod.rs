//! A proposal. Commands of one shape share a message.

mod read;
mod write;

use super::parts::*;
use super::{DecodeError, FORMAT, check_envelope};
use crate::command::{Bound, Fate, Proposal};

numbers!(
    put_bound,
    get_bound,
    Bound,
    "bound",
    1 = Bound::Begin,
    2 = Bound::End
);

numbers!(
    put_fate,
    get_fate,
    Fate,
    "fate",
    1 = Fate::Issued,
    2 = Fate::Renewed,
    3 = Fate::Refused,
    4 = Fate::Denied
);

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Envelope {
    #[prost(uint32, tag = "1")]
    format: u32,
    #[prost(uint32, tag = "2")]
    needs: u32,
    #[prost(uint64, tag = "3")]
    at_unix_ms: u64,
    #[prost(
        oneof = "Kind",
        tags = "10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32, \
                33, 34, 35, 36, 37, 38, 39, 40, 41, 42, 43, 44, 45"
    )]
    kind: Option<Kind>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum Kind {
    #[prost(message, tag = "10")]
    InitCluster(InitCluster),
    #[prost(message, tag = "11")]
    PutNode(WireNode),
    #[prost(message, tag = "12")]
    RemoveNode(NodeFlag),
    #[prost(message, tag = "13")]
    CordonNode(NodeFlag),
    #[prost(message, tag = "14")]
    PutPool(WirePool),
    #[prost(bytes, tag = "15")]
    RemovePool(Vec<u8>),
    #[prost(message, tag = "16")]
    PutToken(PutToken),
    #[prost(message, tag = "17")]
    UseToken(NumberedNode),
    #[prost(message, tag = "18")]
    CreateVolume(CreateVolume),
    #[prost(message, tag = "19")]
    ReplicaReady(OfReplica),
    #[prost(bytes, tag = "20")]
    DeleteVolume(Vec<u8>),
    #[prost(message, tag = "21")]
    ReplicaGone(OfReplica),
    #[prost(message, tag = "22")]
    ResizeVolume(Resize),
    #[prost(message, tag = "23")]
    Attach(OfAttachment),
    #[prost(message, tag = "24")]
    Detach(OfAttachment),
    #[prost(message, tag = "25")]
    DeviceGone(OfAttachment),
    #[prost(message, tag = "26")]
    Promote(OfPrimary),
    #[prost(message, tag = "27")]
    StepDown(OfPrimary),
    #[prost(message, tag = "28")]
    ChangeInSync(ChangeInSync),
    #[prost(message, tag = "29")]
    SetRepairOnly(OfPrimary),
    #[prost(message, tag = "30")]
    AddReplica(Join),
    #[prost(message, tag = "31")]
    MoveReplica(Join),
    #[prost(message, tag = "32")]
    RemoveReplica(OfReplica),
    #[prost(message, tag = "33")]
    KeepReplica(OfReplica),
    #[prost(message, tag = "34")]
    Reincarnate(OfReplica),
    #[prost(message, tag = "35")]
    SetPolicy(SetPolicy),
    #[prost(message, tag = "36")]
    NoteSequence(Note),
    #[prost(message, tag = "37")]
    RebuildGeneration(Rebuild),
    #[prost(message, tag = "38")]
    ForcePromote(ForcePromote),
    #[prost(message, tag = "39")]
    DiscardSealed(OfReplica),
    #[prost(uint32, tag = "40")]
    SetClusterVersion(u32),
    #[prost(message, tag = "41")]
    PutVoter(NumberedNode),
    #[prost(uint64, tag = "42")]
    RemoveVoter(u64),
    #[prost(message, tag = "43")]
    SetSettings(WireSettings),
    /// Always true.
    #[prost(bool, tag = "44")]
    NoteVoters(bool),
    #[prost(message, tag = "45")]
    NoteCertificate(CertificateNote),
}

#[derive(Clone, PartialEq, prost::Message)]
struct InitCluster {
    #[prost(bytes = "vec", tag = "1")]
    id: Vec<u8>,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(bytes = "vec", tag = "3")]
    ca_certificate: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    sealed_ca_key: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct NodeFlag {
    #[prost(bytes = "vec", tag = "1")]
    node: Vec<u8>,
    #[prost(bool, tag = "2")]
    flag: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
struct PutToken {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(bytes = "vec", tag = "2")]
    secret_hash: Vec<u8>,
    #[prost(uint64, tag = "3")]
    expires_unix: u64,
    #[prost(uint32, tag = "4")]
    role: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct NumberedNode {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(bytes = "vec", tag = "2")]
    node: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct CreateVolume {
    #[prost(bytes = "vec", tag = "1")]
    volume: Vec<u8>,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(uint64, tag = "3")]
    blocks: u64,
    #[prost(bytes = "vec", tag = "4")]
    lineage: Vec<u8>,
    #[prost(message, optional, tag = "5")]
    policy: Option<WirePolicy>,
    #[prost(message, repeated, tag = "6")]
    replicas: Vec<WireNewReplica>,
}

/// ReplicaReady, ReplicaGone, KeepReplica; DiscardSealed (`operator`); RemoveReplica (`flag`);
/// Reincarnate (`to`).
#[derive(Clone, PartialEq, prost::Message)]
struct OfReplica {
    #[prost(bytes = "vec", tag = "1")]
    volume: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    replica: Vec<u8>,
    #[prost(uint64, tag = "3")]
    incarnation: u64,
    #[prost(uint64, tag = "4")]
    to: u64,
    #[prost(bool, tag = "5")]
    flag: bool,
    #[prost(string, tag = "6")]
    operator: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Resize {
    #[prost(bytes = "vec", tag = "1")]
    volume: Vec<u8>,
    #[prost(uint64, tag = "2")]
    blocks: u64,
}

/// Attach (`node`), Detach (`device_gone`), DeviceGone.
#[derive(Clone, PartialEq, prost::Message)]
struct OfAttachment {
    #[prost(bytes = "vec", tag = "1")]
    volume: Vec<u8>,
    #[prost(message, optional, tag = "2")]
    attachment: Option<WireAttachment>,
    #[prost(bytes = "vec", tag = "3")]
    id: Vec<u8>,
    #[prost(bool, tag = "4")]
    device_gone: bool,
}

/// Promote (`attachment`, `flag`: silent), StepDown, SetRepairOnly (`flag`).
#[derive(Clone, PartialEq, prost::Message)]
struct OfPrimary {
    #[prost(bytes = "vec", tag = "1")]
    volume: Vec<u8>,
    #[prost(message, optional, tag = "2")]
    expected: Option<WireExpected>,
    #[prost(bytes = "vec", tag = "3")]
    node: Vec<u8>,
    #[prost(bytes = "vec", optional, tag = "4")]
    attachment: Option<Vec<u8>>,
    #[prost(bool, tag = "5")]
    flag: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ChangeInSync {
    #[prost(message, optional, tag = "1")]
    primary: Option<OfPrimary>,
    #[prost(bytes = "vec", repeated, tag = "2")]
    remove: Vec<Vec<u8>>,
    #[prost(message, repeated, tag = "3")]
    add: Vec<WireMember>,
    #[prost(string, tag = "4")]
    reason: String,
}

/// AddReplica; MoveReplica (`from`).
#[derive(Clone, PartialEq, prost::Message)]
struct Join {
    #[prost(bytes = "vec", tag = "1")]
    volume: Vec<u8>,
    #[prost(message, optional, tag = "2")]
    replica: Option<WireNewReplica>,
    #[prost(bytes = "vec", tag = "3")]
    from: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct SetPolicy {
    #[prost(bytes = "vec", tag = "1")]
    volume: Vec<u8>,
    #[prost(message, optional, tag = "2")]
    policy: Option<WirePolicy>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Note {
    #[prost(bytes = "vec", tag = "1")]
    volume: Vec<u8>,
    #[prost(uint32, tag = "2")]
    bound: u32,
    #[prost(message, optional, tag = "3")]
    stamp: Option<WireStamp>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Rebuild {
    #[prost(uint32, tag = "1")]
    generation: u32,
    #[prost(uint64, repeated, tag = "2")]
    barred_voters: Vec<u64>,
    #[prost(string, tag = "3")]
    operator: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ForcePromote {
    #[prost(bytes = "vec", tag = "1")]
    volume: Vec<u8>,
    #[prost(message, optional, tag = "2")]
    expected: Option<WireExpected>,
    #[prost(message, optional, tag = "3")]
    chosen: Option<WireMember>,
    #[prost(bytes = "vec", repeated, tag = "4")]
    may_rejoin: Vec<Vec<u8>>,
    #[prost(string, tag = "5")]
    operator: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct CertificateNote {
    #[prost(bytes = "vec", tag = "1")]
    teller: Vec<u8>,
    #[prost(uint32, tag = "2")]
    fate: u32,
    #[prost(string, tag = "3")]
    whose: String,
    #[prost(string, tag = "4")]
    detail: String,
}

impl From<&Proposal> for Envelope {
    fn from(proposal: &Proposal) -> Self {
        let kind = write::kind(&proposal.command);
        Self {
            format: FORMAT,
            needs: proposal.command.since(),
            at_unix_ms: proposal.at_unix_ms,
            kind: Some(kind),
        }
    }
}

impl TryFrom<Envelope> for Proposal {
    type Error = DecodeError;

    fn try_from(envelope: Envelope) -> Read<Self> {
        check_envelope(envelope.format, envelope.needs)?;
        let kind = envelope.kind.ok_or(DecodeError::UnknownCommand)?;
        let command = read::command(kind)?;
        // What it says it needs is what its kind needs: a proposer cannot pass by the gate.
        if envelope.needs != command.since() {
            return Err(DecodeError::Field("needs"));
        }
        Ok(Self {
            at_unix_ms: envelope.at_unix_ms,
            command,
        })
    }
}
