//! The table of kinds: one row a message, with its number in the header and its body.
//!
//! Numbers are never reused. A row that has been released never changes: a new body is a new number
//! and a new version (CONTRIBUTING.md has the steps). Layouts of the values are in `fields.rs`.
//! Bodies of requests and replies start with replica (16 bytes) and incarnation (8); volume and
//! epoch stand in the frame's header. `least` is the length of the whole body with empty lists.
//!
//! | kind | name | least | body |
//! |---|---|---|---|
//! | 0x01 | Hello | 44 | cluster, node, boot u64, oldest u16, newest u16 |
//! | 0x02 | Beacon | 12 | sent, list of beacon volumes |
//! | 0x03 | BeaconReply | 12 | sent, list of beacon answers |
//! | 0x10 | Probe | 32 | id u64 |
//! | 0x11 | Seal | 24 | |
//! | 0x12 | FetchRecord | 48 | id, stamp |
//! | 0x13 | Append | 73 | floor, roll, charged, record |
//! | 0x14 | Open | 40 | base, blocks u64 |
//! | 0x15 | Read | 44 | id, range |
//! | 0x16 | Reserve | 36 | id, extents u32 |
//! | 0x17 | Release | 24 | |
//! | 0x18 | JoinState | 32 | id |
//! | 0x19 | ExtentsNewer | 44 | id, than, from u32 |
//! | 0x1a | ExtentsPresent | 36 | id, from u32 |
//! | 0x1b | JoinCut | 64 | id, cut |
//! | 0x1c | ShadowStart | 32 | from |
//! | 0x1d | Copy | 72 | id, optional resync number, read at, kind, range, checksums; its blocks in the payload |
//! | 0x1e | ExtentSums | 36 | id, index u32 |
//! | 0x1f | Certify | 76 | id, resync number, last, floor, blocks u64, list of epoch starts |
//! | 0x20 | LostWrite | 28 | index u32 |
//! | 0x40 | Probed | 42 | id, promised, gap, joining |
//! | 0x41 | Sealed | 82 | gap, floor, last, blocks u64, clear in, joining, list of epoch starts, list of tail entries |
//! | 0x42 | FetchedRecord | 33 | id, flag, record if set |
//! | 0x43 | Ack | 40 | last |
//! | 0x44 | Opened | 32 | base |
//! | 0x45 | ReadDone | 37 | id, result of a read |
//! | 0x46 | Reserved | 36 | id, extents u32 |
//! | 0x47 | JoinStated | 110 | id, last, floor, optional cut, gap, blocks u64, list of epoch starts |
//! | 0x48 | Extents | 41 | id, optional next u32, list of extents |
//! | 0x49 | CutDone | 32 | id |
//! | 0x4a | CopyDone | 33 | id, result of nothing |
//! | 0x4b | ExtentSummed | 49 | id, newest, result of an extent's content |
//! | 0x4c | Certified | 32 | id |
//! | 0x4d | Refused | 32 | promised |
//! | 0x4e | NoSuchLife | 33 | optional incarnation |
//! | 0x4f | OutOfOrder | 32 | expected |
//! | 0x50 | Failed | 24 | |

use crate::WireError;
use crate::codec::{Field, Reader, Writer};
use crate::fields::{CopyContent, InExtent};
use crate::message::*;
use lockstep_types::{
    Cut, Epoch, EpochStart, ExtentIndex, Gap, Incarnation, Record, ReplicaId, ResyncNumber,
    Sequence, Stamp, VolumeId,
};

/// Of the only message whose frame has the same version for ever.
pub const HELLO: u8 = 0x01;
const BEACON: u8 = 0x02;
const BEACON_REPLY: u8 = 0x03;

/// A row: number, name, least bytes of body.
pub type Kind = (u8, &'static str, usize);

/// The name of a kind, if version 1 has it.
pub fn name(kind: u8) -> Option<&'static str> {
    NAMES[kind as usize]
}

/// All rows, ascending.
pub fn all() -> impl Iterator<Item = Kind> {
    PLAIN
        .iter()
        .chain(RequestBody::KINDS)
        .chain(ReplyBody::KINDS)
        .copied()
}

/// The kind of a message, as in its frame's header.
pub fn of(message: &Message) -> u8 {
    match message {
        Message::Hello(_) => HELLO,
        Message::Beacon(_) => BEACON,
        Message::BeaconReply(_) => BEACON_REPLY,
        Message::Request(request) => request.body.kind(),
        Message::Reply(reply) => reply.body.kind(),
    }
}

/// What the frame's header says of a message.
pub(crate) struct Routing {
    pub kind: u8,
    pub volume: VolumeId,
    pub epoch: Epoch,
}

pub(crate) fn put(message: &Message, writer: &mut Writer<'_>) -> Routing {
    let kind = of(message);
    let header = match message {
        Message::Request(ReplicaRequest { header, .. })
        | Message::Reply(ReplicaReply { header, .. }) => {
            header.replica.put(writer);
            header.incarnation.put(writer);
            (header.volume, header.epoch)
        }
        Message::Hello(_) | Message::Beacon(_) | Message::BeaconReply(_) => Default::default(),
    };
    match message {
        Message::Hello(hello) => hello.put(writer),
        Message::Beacon(beacon) => beacon.put(writer),
        Message::BeaconReply(reply) => reply.put(writer),
        Message::Request(request) => request.body.put(writer),
        Message::Reply(reply) => reply.body.put(writer),
    }
    Routing {
        kind,
        volume: header.0,
        epoch: header.1,
    }
}

pub(crate) fn take(
    kind: u8,
    volume: VolumeId,
    epoch: Epoch,
    reader: &mut Reader<'_>,
) -> Result<Message, WireError> {
    if kind < FIRST_REQUEST && !(volume.is_none() && epoch == Epoch::ZERO) {
        return Err(WireError::NotZero { place: "header" });
    }
    match kind {
        HELLO => return Hello::take(reader).map(Message::Hello),
        BEACON => return Beacon::take(reader).map(Message::Beacon),
        BEACON_REPLY => return BeaconReply::take(reader).map(Message::BeaconReply),
        _ => {}
    }
    let header = Header {
        volume,
        replica: ReplicaId::take(reader)?,
        incarnation: Incarnation::take(reader)?,
        epoch,
    };
    if kind < FIRST_REPLY {
        let body = RequestBody::take(kind, reader)?;
        return Ok(Message::Request(ReplicaRequest { header, body }));
    }
    let body = ReplyBody::take(kind, reader)?;
    Ok(Message::Reply(ReplicaReply { header, body }))
}

const PLAIN: &[Kind] = &[
    (HELLO, "Hello", Hello::LEAST),
    (BEACON, "Beacon", Beacon::LEAST),
    (BEACON_REPLY, "BeaconReply", BeaconReply::LEAST),
];
/// By number: asked once a frame.
const NAMES: [Option<&str>; 256] = {
    let mut names = [None; 256];
    let (tables, mut table) = ([PLAIN, RequestBody::KINDS, ReplyBody::KINDS], 0);
    while table < tables.len() {
        let mut row = 0;
        while row < tables[table].len() {
            names[tables[table][row].0 as usize] = Some(tables[table][row].1);
            row += 1;
        }
        table += 1;
    }
    names
};
const FIRST_REQUEST: u8 = 0x10;
const FIRST_REPLY: u8 = 0x40;
/// Replica and incarnation.
const REPLICA: usize = ReplicaId::LEAST + Incarnation::LEAST;

/// A row is `number Variant { field: type, …; Group { field, … } };` or `number Variant(name: type);`:
/// fields in the order they stand in the body, then those that are read and checked together as
/// one value.
macro_rules! table {
    ($body:ident { $(
        $kind:literal $variant:ident
            $({ $($field:ident: $type:ty),* $(; $group:ident { $($part:ident),* })? })? $(($whole:ident: $inner:ty))?;
    )* }) => {
        impl $body {
            const KINDS: &[Kind] = &[$((
                $kind,
                stringify!($variant),
                REPLICA $($(+ <$type as Field>::LEAST)* $(+ $group::LEAST)?)? $(+ <$inner as Field>::LEAST)?
            )),*];

            fn kind(&self) -> u8 {
                match self {
                    $($body::$variant { .. } => $kind,)*
                }
            }

            fn put(&self, writer: &mut Writer<'_>) {
                match self {
                    $($body::$variant $({ $($field,)* $($($part,)*)? })? $(($whole))? => {
                        $($($field.put(writer);)*)?
                        $($whole.put(writer);)?
                        $($($group { $($part: $part.clone()),* }.put(writer);)?)?
                    })*
                }
            }

            fn take(kind: u8, reader: &mut Reader<'_>) -> Result<Self, WireError> {
                Ok(match kind {
                    $($kind => {
                        $($(let $field: $type = Field::take(reader)?;)*)?
                        $(let $whole: $inner = Field::take(reader)?;)?
                        $($(let $group { $($part),* } = Field::take(reader)?;)?)?
                        $body::$variant $({ $($field,)* $($($part,)*)? })? $(($whole))?
                    })*
                    kind => return Err(WireError::UnknownKind { kind }),
                })
            }
        }
    };
}

table! { RequestBody {
    0x10 Probe { id: u64 };
    0x11 Seal;
    0x12 FetchRecord { id: u64, stamp: Stamp };
    0x13 Append { floor: Stamp, roll: bool, charged: bool, record: Record };
    0x14 Open { base: Sequence, blocks: u64 };
    0x15 Read { id: u64; InExtent { range } };
    0x16 Reserve { id: u64, extents: u32 };
    0x17 Release;
    0x18 JoinState { id: u64 };
    0x19 ExtentsNewer { id: u64, than: Sequence, from: ExtentIndex };
    0x1a ExtentsPresent { id: u64, from: ExtentIndex };
    0x1b JoinCut { id: u64, cut: Cut };
    0x1c ShadowStart { from: Sequence };
    0x1d Copy { id: u64, resync: Option<ResyncNumber>, read_at: Stamp; CopyContent { kind, range, checksums, payload } };
    0x1e ExtentSums { id: u64, index: ExtentIndex };
    0x1f Certify { id: u64, resync: ResyncNumber, last: Sequence, floor: Stamp, blocks: u64, history: Vec<EpochStart> };
    0x20 LostWrite { index: ExtentIndex };
} }

table! { ReplyBody {
    0x40 Probed { id: u64, promised: Epoch, gap: Gap, joining: bool };
    0x41 Sealed(sealed: Sealed);
    0x42 FetchedRecord { id: u64, record: Option<Record> };
    0x43 Ack { last: Stamp };
    0x44 Opened { base: Sequence };
    0x45 ReadDone { id: u64, result: Result<ReadPieces, ReplicaError> };
    0x46 Reserved { id: u64, extents: u32 };
    0x47 JoinStated { id: u64, last: Stamp, floor: Stamp, cut: Option<Cut>, gap: Gap, blocks: u64, history: Vec<EpochStart> };
    0x48 Extents { id: u64, next: Option<ExtentIndex>, extents: Vec<(ExtentIndex, Sequence)> };
    0x49 CutDone { id: u64 };
    0x4a CopyDone { id: u64, result: Result<(), ReplicaError> };
    0x4b ExtentSummed { id: u64, newest: Sequence, result: Result<ExtentContent, ReplicaError> };
    0x4c Certified { id: u64 };
    0x4d Refused { promised: Epoch };
    0x4e NoSuchLife { incarnation: Option<Incarnation> };
    0x4f OutOfOrder { expected: Sequence };
    0x50 Failed;
} }

const _: () = {
    // Requests and replies stand apart, in order, each number once: the header's kind alone says
    // which of the two a body is.
    let (mut i, requests, replies) = (0, RequestBody::KINDS, ReplyBody::KINDS);
    while i < requests.len() {
        assert!(requests[i].0 >= FIRST_REQUEST && requests[i].0 < FIRST_REPLY);
        assert!(i == 0 || requests[i - 1].0 < requests[i].0);
        i += 1;
    }
    i = 0;
    while i < replies.len() {
        assert!(replies[i].0 >= FIRST_REPLY);
        assert!(i == 0 || replies[i - 1].0 < replies[i].0);
        i += 1;
    }
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documented_table_is_the_compiled_one() {
        let documented: Vec<String> = include_str!("kinds.rs")
            .lines()
            .filter(|line| line.starts_with("//! | 0x"))
            .map(|line| {
                line.splitn(5, '|')
                    .skip(1)
                    .take(3)
                    .map(str::trim)
                    .collect::<Vec<_>>()
                    .join(" ")
            })
            .collect();
        let compiled: Vec<String> = all()
            .map(|(kind, name, least)| format!("{kind:#04x} {name} {least}"))
            .collect();
        assert_eq!(
            documented, compiled,
            "the table in the docs of kinds.rs and its table! rows differ"
        );
    }
}
