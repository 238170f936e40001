//! The messages of replication. A primary speaks to replicas; every request names the replica, its
//! incarnation and the primary's epoch, and every answer names the same of the replica (R3, R4).
//! Links keep order and lose nothing while they stand; a new link starts with a hello.

use bytes::Bytes;
use lockstep_types::{
    BlockRange, Checksums, ClusterId, Cut, Epoch, EpochStart, ExtentIndex, Gap, Incarnation, Nanos,
    NodeId, Record, RecordKind, ReplicaId, ResyncNumber, Sequence, Stamp, VolumeId,
};

/// Any message on a link.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Message {
    /// First on every link, both ways.
    Hello(Hello),
    /// From a node with primaries to one with their replicas, every 0.5 s.
    Beacon(Beacon),
    /// Its echo, which is the lease (R13).
    BeaconReply(BeaconReply),
    /// From a primary to a replica.
    Request(ReplicaRequest),
    /// From a replica to the primary it answers.
    Reply(ReplicaReply),
}

/// Who speaks, and which versions of this protocol.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Hello {
    /// The cluster; another is refused.
    pub cluster: ClusterId,
    /// The speaker; must be the node its certificate names.
    pub node: NodeId,
    /// Minted at each start of the daemon: tells a restart from a broken link.
    pub boot: u64,
    /// Oldest version spoken.
    pub oldest: u16,
    /// Newest version spoken.
    pub newest: u16,
}

/// What every message about a replica says first.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Header {
    /// The volume.
    pub volume: VolumeId,
    /// The replica addressed, or answering.
    pub replica: ReplicaId,
    /// Its incarnation: as the primary believes in a request, as it is in an answer (R4).
    pub incarnation: Incarnation,
    /// The primary's epoch; in an answer, the epoch of the request.
    pub epoch: Epoch,
}

/// A request to a replica.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct ReplicaRequest {
    /// Who and under which epoch.
    pub header: Header,
    /// What.
    pub body: RequestBody,
}

/// An answer of a replica.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct ReplicaReply {
    /// Who and to which epoch.
    pub header: Header,
    /// What.
    pub body: ReplyBody,
}

/// What a primary asks. `id` is chosen by the primary and comes back with the answer.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum RequestBody {
    /// Are you there, whole, and below which promise? Sent before an epoch is proposed (R9); no
    /// epoch is checked, nothing changes.
    Probe { id: u64 },
    /// Promise the header's epoch durably; answer with your tail (R9, R10).
    Seal,
    /// The payload of one record of your tail (R11).
    FetchRecord { id: u64, stamp: Stamp },
    /// Store this record. `roll` marks reconciling, where the sequence may be held already under a
    /// lower epoch, and nothing is destaged (R11). `charged` says that one extent of those reserved
    /// is given back by this record, used or not (R7).
    Append {
        record: Record,
        floor: Stamp,
        roll: bool,
        charged: bool,
    },
    /// The epoch opens above `base`; persist it (R11).
    Open { base: Sequence, blocks: u64 },
    /// Give the bytes of a range.
    Read { id: u64, range: BlockRange },
    /// Reserve room for so many new extents beyond those granted (R7).
    Reserve { id: u64, extents: u32 },
    /// The primary steps down cleanly: it completes nothing more, its lease need not be waited for.
    Release,
    /// Say how far you are, to rejoin (R15).
    JoinState { id: u64 },
    /// Your extents with anything newer than `than`, from index `from` on.
    ExtentsNewer {
        id: u64,
        than: Sequence,
        from: ExtentIndex,
    },
    /// Which extents you have at all, from index `from` on.
    ExtentsPresent { id: u64, from: ExtentIndex },
    /// Void everything above the cut and persist it (R15).
    JoinCut { id: u64, cut: Cut },
    /// Appends follow from this sequence on.
    ShadowStart { from: Sequence },
    /// Content read from a certified replica when `read_at` was the last sequence: a Write or a
    /// Discard of a range inside one extent (R16). `resync` is none for a repair of a member.
    Copy {
        id: u64,
        resync: Option<ResyncNumber>,
        read_at: Stamp,
        kind: RecordKind,
        range: BlockRange,
        checksums: Checksums,
        payload: Bytes,
    },
    /// The checksums of one extent, to compare (R16, R17).
    ExtentSums { id: u64, index: ExtentIndex },
    /// Everything was copied and compared: persist that you hold all up to `last`, with this
    /// history, and drop your cut (R15).
    Certify {
        id: u64,
        resync: ResyncNumber,
        last: Sequence,
        floor: Stamp,
        blocks: u64,
        history: Vec<EpochStart>,
    },
    /// Your device lost an acknowledged write of this extent: count it (R17). Not answered.
    LostWrite { index: ExtentIndex },
}

/// What a replica answers.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum ReplyBody {
    /// To [`RequestBody::Probe`].
    Probed {
        id: u64,
        promised: Epoch,
        gap: Gap,
        joining: bool,
    },
    /// To [`RequestBody::Seal`], once the promise is durable and every append accepted before is.
    Sealed(Sealed),
    /// To [`RequestBody::FetchRecord`]; none when it cannot be read.
    FetchedRecord { id: u64, record: Option<Record> },
    /// Everything up to `last` is durable here, without a gap (R2, R5).
    Ack { last: Stamp },
    /// The epoch's start is durable.
    Opened { base: Sequence },
    /// To [`RequestBody::Read`].
    ReadDone {
        id: u64,
        result: Result<ReadPieces, ReplicaError>,
    },
    /// To [`RequestBody::Reserve`]: what was granted, 0 to all of it.
    Reserved { id: u64, extents: u32 },
    /// To [`RequestBody::JoinState`].
    JoinStated {
        id: u64,
        history: Vec<EpochStart>,
        last: Stamp,
        floor: Stamp,
        cut: Option<Cut>,
        gap: Gap,
        blocks: u64,
    },
    /// Extents and their newest sequence; `next` is where to go on.
    Extents {
        id: u64,
        extents: Vec<(ExtentIndex, Sequence)>,
        next: Option<ExtentIndex>,
    },
    /// The cut is durable.
    CutDone { id: u64 },
    /// The copy is durable, or why not.
    CopyDone {
        id: u64,
        result: Result<(), ReplicaError>,
    },
    /// To [`RequestBody::ExtentSums`]; `newest` is the last sequence that touched the extent here, 0 if
    /// none is known.
    ExtentSummed {
        id: u64,
        newest: Sequence,
        result: Result<ExtentContent, ReplicaError>,
    },
    /// The certified state is durable.
    Certified { id: u64 },
    /// The request's epoch is below the promise (R3).
    Refused { promised: Epoch },
    /// The replica is not here, or lives another life (R4); `incarnation` says which.
    NoSuchLife { incarnation: Option<Incarnation> },
    /// An append left a gap: the next expected sequence (R5).
    OutOfOrder { expected: Sequence },
    /// The replica's device failed: it is no member any more.
    Failed,
}

/// What a sealed replica says of itself (R9–R11).
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Sealed {
    /// What it lost.
    pub gap: Gap,
    /// The highest floor it knows.
    pub floor: Stamp,
    /// The last stamp durable without a gap.
    pub last: Stamp,
    /// The epochs opened here.
    pub history: Vec<EpochStart>,
    /// Length of the volume as of its last Resize.
    pub blocks: u64,
    /// Its records above its floor, oldest first.
    pub tail: Vec<TailEntry>,
    /// How long until its last lease grant to a remote primary has certainly run out (R13).
    pub clear_in: Nanos,
    /// Whether it is in the middle of a resync.
    pub joining: bool,
}

/// A record of a tail, without payload.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct TailEntry {
    /// Its stamp.
    pub stamp: Stamp,
    /// Its kind.
    pub kind: RecordKind,
    /// Its range.
    pub range: BlockRange,
    /// Of its payload.
    pub checksums: Checksums,
}

/// Bytes of a read: pieces in order, `None` a hole.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct ReadPieces {
    /// So many blocks each.
    pub pieces: Vec<(u32, Option<Bytes>)>,
    /// One a block, holes counted as zeroes.
    pub checksums: Checksums,
}

/// One extent's presence and checksums.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct ExtentContent {
    /// Bit i: block i is present.
    pub present: u64,
    /// One a present block, in order.
    pub checksums: Vec<u32>,
}

/// Why a replica could not do something.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
pub enum ReplicaError {
    /// These blocks are corrupt on it.
    #[error("blocks {}..{} are corrupt on the replica", .0.start, .0.end())]
    Corrupt(BlockRange),
    /// The extent is newer than the copy (R16).
    #[error("the extent was written since the copy was read")]
    Stale,
    /// Another resync is under way (R16).
    #[error("the copy belongs to another resync")]
    OtherResync,
    /// No room.
    #[error("the replica's pool is full")]
    Full,
    /// Its device failed.
    #[error("the replica's device failed")]
    Device,
}

/// The beacon of a node: all volumes that it is primary of and that have a member on the other.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Beacon {
    /// When it was sent, by the sender's clock; echoed, and the start of the lease (R13).
    pub sent: Nanos,
    /// A volume each.
    pub volumes: Vec<BeaconVolume>,
}

/// One volume in a beacon.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct BeaconVolume {
    /// Who and under which epoch.
    pub header: Header,
    /// The floor, so that an idle volume can be destaged (R11).
    pub floor: Stamp,
}

/// The echo of a beacon.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct BeaconReply {
    /// The beacon's `sent`.
    pub sent: Nanos,
    /// A volume each, in the same order.
    pub volumes: Vec<BeaconAnswer>,
}

/// What a replica says to a beacon.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct BeaconAnswer {
    /// The replica; `incarnation` its own (R4).
    pub header: Header,
    /// Whether the lease is granted: epoch and incarnation are current.
    pub granted: bool,
    /// The epoch promised (R3).
    pub promised: Epoch,
    /// The last stamp durable without a gap (R4: less than was acked is detected loss).
    pub last: Stamp,
}
