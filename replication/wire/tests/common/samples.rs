//! At least one message of every kind, with every optional part present and absent somewhere, and
//! no two bytes of a field alike where that shows their order.

use bytes::Bytes;
use lockstep_types::{
    BLOCK, BlockRange, ClusterId, Cut, Epoch, EpochStart, Gap, Incarnation, NodeId, Record,
    RecordKind, ReplicaId, ResyncNumber, Sequence, Stamp, VolumeId, checksum_blocks,
    checksum_of_zeroes,
};
use lockstep_wire::*;

/// Name (of the golden file) and message.
pub fn all() -> Vec<(&'static str, Message)> {
    let mut samples = plain();
    samples.extend(requests().into_iter().map(|(name, body)| {
        (
            name,
            Message::Request(ReplicaRequest {
                header: header(),
                body,
            }),
        )
    }));
    samples.extend(replies().into_iter().map(|(name, body)| {
        (
            name,
            Message::Reply(ReplicaReply {
                header: header(),
                body,
            }),
        )
    }));
    samples
}

fn plain() -> Vec<(&'static str, Message)> {
    let volume = BeaconVolume {
        header: header(),
        floor: stamp(7),
    };
    let answer = BeaconAnswer {
        header: header(),
        granted: true,
        promised: Epoch::new(1, 9),
        last: stamp(8),
    };
    vec![
        (
            "hello",
            Message::Hello(Hello {
                cluster: ClusterId::from_u128(0x0123_4567_89ab_cdef_0011_2233_4455_6677),
                node: NodeId::from_u128(0x8899_aabb_ccdd_eeff_fedc_ba98_7654_3210),
                boot: 0x1122_3344_5566_7788,
                oldest: 1,
                newest: 2,
            }),
        ),
        (
            "beacon",
            Message::Beacon(Beacon {
                sent: 0x0102_0304_0506_0708,
                volumes: vec![volume; 2],
            }),
        ),
        (
            "beacon-idle",
            Message::Beacon(Beacon {
                sent: 1,
                volumes: vec![],
            }),
        ),
        (
            "beacon-reply",
            Message::BeaconReply(BeaconReply {
                sent: 0x0102_0304_0506_0708,
                volumes: vec![
                    answer,
                    BeaconAnswer {
                        granted: false,
                        ..answer
                    },
                ],
            }),
        ),
    ]
}

fn requests() -> Vec<(&'static str, RequestBody)> {
    use RequestBody::*;
    let append = |record| Append {
        record,
        floor: stamp(5),
        roll: false,
        charged: true,
    };
    let zeroes = record(RecordKind::WriteZeroes, BlockRange::new(3, 16_000));
    let (kind, range) = (RecordKind::Write, BlockRange::new(70, 1));
    let copy = write(range);
    vec![
        ("probe", Probe { id: ID }),
        ("seal", Seal),
        (
            "fetch-record",
            FetchRecord {
                id: ID,
                stamp: stamp(6),
            },
        ),
        (
            "append-write",
            append(write(BlockRange::new(0x0102_0304, 3))),
        ),
        (
            "append-roll",
            Append {
                record: zeroes,
                floor: Stamp::ZERO,
                roll: true,
                charged: false,
            },
        ),
        (
            "append-discard",
            append(record(RecordKind::Discard, BlockRange::new(64, 64))),
        ),
        (
            "append-resize",
            append(record(RecordKind::Resize, BlockRange::new(1 << 38, 1))),
        ),
        (
            "append-nothing",
            append(record(RecordKind::Nothing, BlockRange::new(0, 1))),
        ),
        (
            "open",
            Open {
                base: Sequence(0x1234),
                blocks: 0x5678,
            },
        ),
        (
            "read",
            Read {
                id: ID,
                range: BlockRange::new(0x0001_0000, 64),
            },
        ),
        (
            "reserve",
            Reserve {
                id: ID,
                extents: 0x0403_0201,
            },
        ),
        ("release", Release),
        ("join-state", JoinState { id: ID }),
        (
            "extents-newer",
            ExtentsNewer {
                id: ID,
                than: Sequence(0x99),
                from: 0x0a0b_0c0d,
            },
        ),
        (
            "extents-present",
            ExtentsPresent {
                id: ID,
                from: 0x0a0b_0c0d,
            },
        ),
        ("join-cut", JoinCut { id: ID, cut: cut() }),
        (
            "shadow-start",
            ShadowStart {
                from: Sequence(0x77),
            },
        ),
        (
            "copy-write",
            Copy {
                id: ID,
                resync: Some(ResyncNumber(4)),
                read_at: stamp(9),
                kind,
                range,
                checksums: copy.checksums,
                payload: copy.payload,
            },
        ),
        (
            "copy-discard",
            Copy {
                id: ID,
                resync: None,
                read_at: stamp(9),
                kind: RecordKind::Discard,
                range: BlockRange::new(64, 64),
                checksums: Default::default(),
                payload: Bytes::new(),
            },
        ),
        (
            "extent-sums",
            ExtentSums {
                id: ID,
                index: 0x0a0b_0c0d,
            },
        ),
        (
            "certify",
            Certify {
                id: ID,
                resync: ResyncNumber(4),
                last: Sequence(0x88),
                floor: stamp(9),
                blocks: 0x1_0000,
                history: history(),
            },
        ),
        ("lost-write", LostWrite { index: 0x0a0b_0c0d }),
    ]
}

fn replies() -> Vec<(&'static str, ReplyBody)> {
    use ReplyBody::*;
    let entry = |record: Record| TailEntry {
        stamp: record.stamp,
        kind: record.kind,
        range: record.range,
        checksums: record.checksums,
    };
    let sealed = lockstep_wire::Sealed {
        gap: Gap::Torn,
        floor: stamp(5),
        last: stamp(9),
        history: history(),
        blocks: 0x1_0000,
        tail: vec![
            entry(write(BlockRange::new(1, 2))),
            entry(record(RecordKind::Nothing, BlockRange::new(0, 1))),
        ],
        clear_in: 0x0807_0605_0403_0201,
        joining: true,
    };
    vec![
        (
            "probed",
            Probed {
                id: ID,
                promised: Epoch::new(1, 9),
                gap: Gap::Corrupt,
                joining: true,
            },
        ),
        ("sealed", Sealed(sealed)),
        (
            "fetched-record",
            FetchedRecord {
                id: ID,
                record: Some(write(BlockRange::new(63, 1))),
            },
        ),
        (
            "fetched-no-record",
            FetchedRecord {
                id: ID,
                record: None,
            },
        ),
        (
            "ack",
            Ack {
                last: stamp(0x0102),
            },
        ),
        (
            "opened",
            Opened {
                base: Sequence(0x55),
            },
        ),
        (
            "read-done",
            ReadDone {
                id: ID,
                result: Ok(pieces()),
            },
        ),
        (
            "read-corrupt",
            ReadDone {
                id: ID,
                result: Err(ReplicaError::Corrupt(BlockRange::new(9, 2))),
            },
        ),
        (
            "reserved",
            Reserved {
                id: ID,
                extents: 0x0403_0201,
            },
        ),
        ("join-stated", join_stated(Some(cut()), Gap::None)),
        ("join-stated-whole", join_stated(None, Gap::Torn)),
        (
            "extents",
            Extents {
                id: ID,
                extents: vec![(1, Sequence(2)), (3, Sequence(4))],
                next: Some(9),
            },
        ),
        (
            "extents-last",
            Extents {
                id: ID,
                extents: vec![],
                next: None,
            },
        ),
        ("cut-done", CutDone { id: ID }),
        (
            "copy-done",
            CopyDone {
                id: ID,
                result: Ok(()),
            },
        ),
        (
            "copy-stale",
            CopyDone {
                id: ID,
                result: Err(ReplicaError::Stale),
            },
        ),
        (
            "copy-other-resync",
            CopyDone {
                id: ID,
                result: Err(ReplicaError::OtherResync),
            },
        ),
        (
            "copy-full",
            CopyDone {
                id: ID,
                result: Err(ReplicaError::Full),
            },
        ),
        (
            "copy-device",
            CopyDone {
                id: ID,
                result: Err(ReplicaError::Device),
            },
        ),
        (
            "extent-summed",
            ExtentSummed {
                id: ID,
                newest: Sequence(0x0807_0605_0403_0201),
                result: Ok(ExtentContent {
                    present: 1 | 1 << 63,
                    checksums: vec![0x0102_0304, 0x0506_0708],
                }),
            },
        ),
        ("certified", Certified { id: ID }),
        (
            "refused",
            Refused {
                promised: Epoch::new(2, 3),
            },
        ),
        (
            "no-such-life",
            NoSuchLife {
                incarnation: Some(Incarnation(6)),
            },
        ),
        ("no-such-replica", NoSuchLife { incarnation: None }),
        (
            "out-of-order",
            OutOfOrder {
                expected: Sequence(0x66),
            },
        ),
        ("failed", Failed),
    ]
}

const ID: u64 = 0x0102_0304_0506_0708;

fn header() -> Header {
    Header {
        volume: VolumeId::from_u128(0x0f0e_0d0c_0b0a_0908_0706_0504_0302_0100),
        replica: ReplicaId::from_u128(0x1f1e_1d1c_1b1a_1918_1716_1514_1312_1110),
        incarnation: Incarnation(0x2726_2524_2322_2120),
        epoch: Epoch::new(0x03, 0x42),
    }
}

fn stamp(sequence: u64) -> Stamp {
    Stamp::new(Epoch::new(0x03, 0x41), Sequence(sequence))
}

fn history() -> Vec<EpochStart> {
    vec![
        EpochStart {
            epoch: Epoch::new(0, 1),
            base: Sequence(0),
        },
        EpochStart {
            epoch: Epoch::new(3, 0x41),
            base: Sequence(4),
        },
    ]
}

fn cut() -> Cut {
    Cut {
        stamp: stamp(4),
        resync: ResyncNumber(3),
        shadow_from: Sequence(6),
    }
}

fn join_stated(cut: Option<Cut>, gap: Gap) -> ReplyBody {
    ReplyBody::JoinStated {
        id: ID,
        history: history(),
        last: stamp(9),
        floor: stamp(5),
        cut,
        gap,
        blocks: 0x1_0000,
    }
}

fn blocks(first: u8, count: usize) -> Bytes {
    (0..count * BLOCK)
        .map(|at| first.wrapping_add((at / BLOCK) as u8))
        .collect()
}

fn record(kind: RecordKind, range: BlockRange) -> Record {
    Record {
        stamp: stamp(8),
        kind,
        range,
        checksums: Default::default(),
        payload: Bytes::new(),
    }
}

fn write(range: BlockRange) -> Record {
    let payload = blocks(0xa0, range.count as usize);
    Record {
        checksums: checksum_blocks(&payload),
        payload,
        ..record(RecordKind::Write, range)
    }
}

fn pieces() -> ReadPieces {
    let (first, last) = (blocks(1, 2), blocks(9, 1));
    let mut checksums = checksum_blocks(&first);
    checksums.0.push(checksum_of_zeroes());
    checksums.0.extend(checksum_blocks(&last).0);
    ReadPieces {
        pieces: vec![(2, Some(first)), (1, None), (1, Some(last))],
        checksums,
    }
}
