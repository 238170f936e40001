//! Strategies for every message.

use bytes::Bytes;
use lockstep_types::*;
use lockstep_wire::*;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

pub fn message() -> BoxedStrategy<Message> {
    prop_oneof![
        1 => plain(),
        4 => (header(), request()).prop_map(|(header, body)| Message::Request(ReplicaRequest { header, body })),
        4 => (header(), reply()).prop_map(|(header, body)| Message::Reply(ReplicaReply { header, body })),
    ]
    .boxed()
}

fn plain() -> BoxedStrategy<Message> {
    let hello = (
        any::<u128>(),
        any::<u128>(),
        any::<u64>(),
        any::<u16>(),
        any::<u16>(),
    )
        .prop_map(|(cluster, node, boot, oldest, newest)| {
            let (cluster, node) = (ClusterId::from_u128(cluster), NodeId::from_u128(node));
            Message::Hello(Hello {
                cluster,
                node,
                boot,
                oldest,
                newest,
            })
        });
    let volume = (header(), stamp()).prop_map(|(header, floor)| BeaconVolume { header, floor });
    let answer = (header(), any::<bool>(), epoch(), stamp()).prop_map(
        |(header, granted, promised, last)| BeaconAnswer {
            header,
            granted,
            promised,
            last,
        },
    );
    prop_oneof![
        hello,
        (any::<u64>(), vec(volume, 0..5))
            .prop_map(|(sent, volumes)| Message::Beacon(Beacon { sent, volumes })),
        (any::<u64>(), vec(answer, 0..5))
            .prop_map(|(sent, volumes)| Message::BeaconReply(BeaconReply { sent, volumes })),
    ]
    .boxed()
}

fn request() -> BoxedStrategy<RequestBody> {
    use RequestBody::*;
    let id = any::<u64>;
    prop_oneof![
        id().prop_map(|id| Probe { id }),
        Just(Seal),
        (id(), stamp()).prop_map(|(id, stamp)| FetchRecord { id, stamp }),
        (record(), stamp(), any::<bool>(), any::<bool>()).prop_map(
            |(record, floor, roll, charged)| Append {
                record,
                floor,
                roll,
                charged
            }
        ),
        (sequence(), id()).prop_map(|(base, blocks)| Open { base, blocks }),
        (id(), in_extent()).prop_map(|(id, range)| Read { id, range }),
        (id(), any::<u32>()).prop_map(|(id, extents)| Reserve { id, extents }),
        Just(Release),
        id().prop_map(|id| JoinState { id }),
        (id(), sequence(), any::<u32>()).prop_map(|(id, than, from)| ExtentsNewer {
            id,
            than,
            from
        }),
        (id(), any::<u32>()).prop_map(|(id, from)| ExtentsPresent { id, from }),
        (id(), cut()).prop_map(|(id, cut)| JoinCut { id, cut }),
        sequence().prop_map(|from| ShadowStart { from }),
        (id(), option::of(resync()), copy()).prop_map(|(id, resync, record)| Copy {
            id,
            resync,
            read_at: record.stamp,
            kind: record.kind,
            range: record.range,
            checksums: record.checksums,
            payload: record.payload,
        }),
        (id(), any::<u32>()).prop_map(|(id, index)| ExtentSums { id, index }),
        any::<u32>().prop_map(|index| LostWrite { index }),
        (id(), resync(), sequence(), stamp(), id(), history()).prop_map(
            |(id, resync, last, floor, blocks, history)| Certify {
                id,
                resync,
                last,
                floor,
                blocks,
                history
            }
        ),
    ]
    .boxed()
}

fn reply() -> BoxedStrategy<ReplyBody> {
    use ReplyBody::*;
    let id = any::<u64>;
    let extents = vec((any::<u32>(), sequence()), 0..20);
    prop_oneof![
        (id(), epoch(), gap(), any::<bool>()).prop_map(|(id, promised, gap, joining)| Probed {
            id,
            promised,
            gap,
            joining
        }),
        sealed().prop_map(Sealed),
        (id(), option::of(record())).prop_map(|(id, record)| FetchedRecord { id, record }),
        stamp().prop_map(|last| Ack { last }),
        sequence().prop_map(|base| Opened { base }),
        (id(), result(pieces())).prop_map(|(id, result)| ReadDone { id, result }),
        (id(), any::<u32>()).prop_map(|(id, extents)| Reserved { id, extents }),
        (
            id(),
            history(),
            stamp(),
            stamp(),
            option::of(cut()),
            gap(),
            id()
        )
            .prop_map(|(id, history, last, floor, cut, gap, blocks)| JoinStated {
                id,
                history,
                last,
                floor,
                cut,
                gap,
                blocks
            }),
        (id(), extents, option::of(any::<u32>())).prop_map(|(id, extents, next)| Extents {
            id,
            extents,
            next
        }),
        id().prop_map(|id| CutDone { id }),
        (id(), result(Just(()).boxed())).prop_map(|(id, result)| CopyDone { id, result }),
        (id(), sequence(), result(content())).prop_map(|(id, newest, result)| ExtentSummed {
            id,
            newest,
            result
        }),
        id().prop_map(|id| Certified { id }),
        epoch().prop_map(|promised| Refused { promised }),
        option::of(any::<u64>().prop_map(Incarnation))
            .prop_map(|incarnation| NoSuchLife { incarnation }),
        sequence().prop_map(|expected| OutOfOrder { expected }),
        Just(Failed),
    ]
    .boxed()
}

fn sealed() -> BoxedStrategy<lockstep_wire::Sealed> {
    let entry = record().prop_map(|record| TailEntry {
        stamp: record.stamp,
        kind: record.kind,
        range: record.range,
        checksums: record.checksums,
    });
    (
        gap(),
        stamp(),
        stamp(),
        history(),
        any::<u64>(),
        vec(entry, 0..6),
        any::<u64>(),
        any::<bool>(),
    )
        .prop_map(
            |(gap, floor, last, history, blocks, tail, clear_in, joining)| lockstep_wire::Sealed {
                gap,
                floor,
                last,
                history,
                blocks,
                tail,
                clear_in,
                joining,
            },
        )
        .boxed()
}

fn result<T: std::fmt::Debug + Clone + 'static>(
    ok: BoxedStrategy<T>,
) -> BoxedStrategy<Result<T, ReplicaError>> {
    prop_oneof![
        3 => ok.prop_map(Ok),
        1 => in_extent().prop_map(|range| Err(ReplicaError::Corrupt(range))),
        1 => prop::sample::select(vec![
            ReplicaError::Stale, ReplicaError::OtherResync, ReplicaError::Full, ReplicaError::Device,
        ]).prop_map(Err),
    ]
    .boxed()
}

fn epoch() -> impl Strategy<Value = Epoch> {
    any::<u64>().prop_map(Epoch)
}

fn sequence() -> impl Strategy<Value = Sequence> {
    any::<u64>().prop_map(Sequence)
}

fn resync() -> impl Strategy<Value = ResyncNumber> {
    any::<u64>().prop_map(ResyncNumber)
}

fn stamp() -> impl Strategy<Value = Stamp> {
    (epoch(), sequence()).prop_map(|(epoch, sequence)| Stamp::new(epoch, sequence))
}

fn gap() -> impl Strategy<Value = Gap> {
    prop::sample::select(vec![Gap::None, Gap::Torn, Gap::Corrupt])
}

fn cut() -> impl Strategy<Value = Cut> {
    (stamp(), resync(), sequence()).prop_map(|(stamp, resync, shadow_from)| Cut {
        stamp,
        resync,
        shadow_from,
    })
}

fn header() -> impl Strategy<Value = Header> {
    (any::<u128>(), any::<u128>(), any::<u64>(), epoch()).prop_map(
        |(volume, replica, incarnation, epoch)| Header {
            volume: VolumeId::from_u128(volume),
            replica: ReplicaId::from_u128(replica),
            incarnation: Incarnation(incarnation),
            epoch,
        },
    )
}

fn history() -> impl Strategy<Value = Vec<EpochStart>> {
    vec(
        (epoch(), sequence()).prop_map(|(epoch, base)| EpochStart { epoch, base }),
        0..8,
    )
}

fn in_extent() -> impl Strategy<Value = BlockRange> {
    (any::<ExtentIndex>(), 0..EXTENT_BLOCKS)
        .prop_flat_map(|(index, at)| {
            (
                Just(u64::from(index) * EXTENT_BLOCKS + at),
                1..=EXTENT_BLOCKS - at,
            )
        })
        .prop_map(|(start, count)| BlockRange::new(start, count as u32))
}

fn filled(count: u32, fill: u8) -> Bytes {
    (0..count)
        .flat_map(|block| std::iter::repeat_n(fill.wrapping_add(block as u8), BLOCK))
        .collect()
}

/// Short payloads mostly, and now and then a whole extent.
fn write() -> impl Strategy<Value = Record> {
    let range = prop_oneof![
        8 => in_extent().prop_map(|range| BlockRange::new(range.start, range.count.min(3))),
        1 => in_extent(),
        1 => any::<ExtentIndex>().prop_map(BlockRange::of_extent),
    ];
    (stamp(), range, any::<u8>()).prop_map(|(stamp, range, fill)| {
        let payload = filled(range.count, fill);
        Record {
            stamp,
            kind: RecordKind::Write,
            range,
            checksums: checksum_blocks(&payload),
            payload,
        }
    })
}

fn empty(kind: RecordKind, stamp: Stamp, range: BlockRange) -> Record {
    Record {
        stamp,
        kind,
        range,
        checksums: Checksums::none(),
        payload: Bytes::new(),
    }
}

fn copy() -> impl Strategy<Value = Record> {
    prop_oneof![
        write(),
        (stamp(), in_extent()).prop_map(|(stamp, range)| empty(RecordKind::Discard, stamp, range)),
    ]
}

fn record() -> impl Strategy<Value = Record> {
    let long = (
        0..MAX_VOLUME_BLOCKS - MAX_DISCARD_BLOCKS,
        1..=MAX_DISCARD_BLOCKS as u32,
    )
        .prop_map(|(start, count)| BlockRange::new(start, count));
    let kinds = vec![
        RecordKind::Discard,
        RecordKind::WriteZeroes,
        RecordKind::Nothing,
    ];
    prop_oneof![
        4 => write(),
        2 => (stamp(), prop::sample::select(kinds), long).prop_map(|(stamp, kind, range)| empty(kind, stamp, range)),
        1 => (stamp(), 1..=MAX_VOLUME_BLOCKS)
            .prop_map(|(stamp, blocks)| empty(RecordKind::Resize, stamp, BlockRange::new(blocks, 1))),
    ]
}

fn pieces() -> BoxedStrategy<ReadPieces> {
    vec((1u32..=8, option::of(any::<u8>())), 1..=8)
        .prop_map(|pieces| {
            let mut checksums = Checksums::none();
            let pieces = pieces
                .into_iter()
                .map(|(blocks, fill)| {
                    let bytes = fill.map(|fill| filled(blocks, fill));
                    match &bytes {
                        Some(bytes) => checksums.0.extend(checksum_blocks(bytes).0),
                        None => checksums
                            .0
                            .extend(std::iter::repeat_n(checksum_of_zeroes(), blocks as usize)),
                    }
                    (blocks, bytes)
                })
                .collect();
            ReadPieces { pieces, checksums }
        })
        .boxed()
}

fn content() -> BoxedStrategy<ExtentContent> {
    any::<u64>()
        .prop_flat_map(|present| {
            (
                Just(present),
                vec(any::<u32>(), present.count_ones() as usize),
            )
        })
        .prop_map(|(present, checksums)| ExtentContent { present, checksums })
        .boxed()
}
