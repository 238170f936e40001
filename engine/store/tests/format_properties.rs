//! What holds for every structure and any bytes: what is written is read back, no bytes panic the
//! readers, and no damage passes.

mod samples;
#[path = "../../../fuzz/checks/store_pages.rs"]
mod store_pages;

use lockstep_store::format::*;
use lockstep_store::geometry::{FormatOptions, Geometry, GeometryError};
use lockstep_types::*;
use proptest::prelude::*;
use samples::KEY;

#[test]
fn every_flipped_bit_is_refused() {
    for sample in samples::all() {
        let mut bytes = sample.bytes.clone();
        for bit in 0..bytes.len() * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(
                (sample.read)(&bytes).is_err(),
                "{}: bit {bit} of byte {}",
                sample.name,
                bit / 8
            );
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        assert_eq!((sample.read)(&bytes), Ok(sample.bytes), "{}", sample.name);
    }
}

#[test]
fn every_torn_sector_is_refused() {
    for sample in samples::all() {
        for start in (0..sample.bytes.len()).step_by(512) {
            let mut bytes = sample.bytes.clone();
            bytes[start..start + 512].fill(0);
            if bytes != sample.bytes {
                assert!(
                    (sample.read)(&bytes).is_err(),
                    "{}: sector at {start}",
                    sample.name
                );
            }
        }
    }
}

#[test]
fn every_other_length_is_refused() {
    for sample in samples::all() {
        let mut long = sample.bytes.clone();
        long.extend([0; 4096]);
        for length in (0..long.len())
            .filter(|n| *n != sample.bytes.len())
            .step_by(61)
        {
            assert!(
                (sample.read)(&long[..length]).is_err(),
                "{}: {length} bytes",
                sample.name
            );
        }
        assert!((sample.read)(&long).is_err(), "{}", sample.name);
    }
}

#[test]
fn no_structure_is_taken_for_another() {
    for sample in samples::all() {
        for other in samples::all() {
            let same = |name: &str| name.split('_').next().map(str::to_owned);
            if same(sample.name) != same(other.name) {
                assert!(
                    (other.read)(&sample.bytes).is_err(),
                    "{} as {}",
                    sample.name,
                    other.name
                );
            }
        }
    }
}

/// Damage that an honest checksum covers: a writer's mistake, or a newer version. `resealed` is what
/// a correct CRC alone would let through.
fn resealed(bytes: &[u8], at: usize, value: u8) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[at] = value;
    bytes[12..16].fill(0);
    let sum = crc32c::crc32c(&bytes);
    bytes[12..16].copy_from_slice(&sum.to_le_bytes());
    bytes
}

#[test]
fn checksummed_nonsense_is_refused_or_means_something_else() {
    for sample in samples::all()
        .iter()
        .filter(|s| !s.name.starts_with("batch"))
    {
        for at in (0..4096).filter(|at| !(12..16).contains(at)) {
            for value in [0, 1, 0x80, 0xff] {
                let bytes = resealed(&sample.bytes, at, value);
                if let Ok(again) = (sample.read)(&bytes) {
                    assert_eq!(
                        again, bytes,
                        "{}: byte {at} = {value} was not kept",
                        sample.name
                    );
                }
            }
        }
    }
}

#[test]
fn refusals_say_what_and_why() {
    let superblock = samples::superblock().encode();
    let why = |bytes: &[u8]| Superblock::decode(bytes).map_err(|e| e.why);
    assert_eq!(why(&resealed(&superblock, 4, 2)), Err(Why::Version(2)));
    assert_eq!(
        why(&resealed(&superblock, 144, 6)),
        Err(Why::Incompatible(6))
    );
    assert_eq!(why(&[0; 4096]), Err(Why::Magic(0)));
    assert_eq!(
        why(&superblock[..100]),
        Err(Why::Length {
            expected: 4096,
            found: 100
        })
    );
    let newer = Superblock::decode(&resealed(&superblock, 152, 1)).expect("may be read");
    assert!(
        newer.is_read_only(),
        "an unknown read-only-compatible feature forbids writing"
    );
    let newer = Superblock::decode(&resealed(&superblock, 160, 1)).expect("may be ignored");
    assert!(!newer.is_read_only());
    assert_eq!(
        Superblock::decode(&resealed(&superblock, 144, 6))
            .expect_err("unknown")
            .to_string(),
        "the superblock is refused: it uses features 0x6 that this Lockstep does not know and may not \
         ignore; run a newer one"
    );
}

#[test]
fn lost_stray_and_foreign_writes_are_seen() {
    let page = samples::map().encode(&KEY);
    let why = |key: &PoolKey, number, generation| {
        MapPage::decode(&page, key, number, generation)
            .map(|_| ())
            .map_err(|e| e.why)
    };
    assert_eq!(why(&KEY, 7, 12), Ok(()));
    assert_eq!(
        why(&KEY, 7, 14),
        Err(Why::Generation {
            expected: 14,
            found: 12
        })
    );
    assert_eq!(
        why(&KEY, 8, 12),
        Err(Why::Number {
            expected: 8,
            found: 7
        })
    );
    assert_eq!(why(&PoolKey([9; 16]), 7, 12), Err(Why::Pool));
}

/// S8: a guest that has read the source, not the key, writes a block that looks like a header.
#[test]
fn an_imitated_header_is_refused() {
    let (real, hash) = samples::batch().encode(&KEY);
    let (imitation, _) = samples::batch().encode(&PoolKey([0; 16]));
    assert_eq!(
        Batch::peek(&imitation),
        Ok(samples::batch().shape()),
        "it looks like one"
    );
    assert_eq!(
        Batch::decode(&imitation, &KEY).map_err(|e| e.why),
        Err(Why::Authenticity)
    );
    assert_eq!(Batch::decode(&real, &KEY).map(|p| p.hash), Ok(hash));
}

#[test]
fn the_newest_good_slot_wins() {
    let slots = [4, 5].map(|generation| {
        Anchor {
            generation,
            ..samples::anchor()
        }
        .encode(&KEY)
    });
    let pick = |a: &[u8], b: &[u8]| {
        newest([Anchor::decode(a, &KEY), Anchor::decode(b, &KEY)], |a| {
            a.generation
        })
        .map(|a| a.generation)
    };
    assert_eq!(pick(&slots[0], &slots[1]), Ok(5));
    assert_eq!(pick(&slots[1], &slots[0]), Ok(5));
    assert_eq!(pick(&slots[0], &slots[1][..4000]), Ok(4));
    assert!(pick(&[0; 4096], &slots[1][..4000]).is_err());
}

#[test]
fn payload_is_found_and_checked() {
    let batch = samples::batch();
    let header = batch.shape().header_bytes() as u64;
    let places: Vec<_> = batch.places().map(|(_, place)| place).collect();
    let mut expected = vec![None; 8];
    expected[0] = Some(header);
    expected[5] = Some(header + 2 * 4096);
    assert_eq!(
        places, expected,
        "direct writes and markers have no payload here"
    );

    let mut payload = [vec![1; BLOCK], vec![2; BLOCK], vec![1; BLOCK]].concat();
    assert_eq!(payload.len(), batch.shape().payload_blocks as usize * BLOCK);
    assert!(batch.payload_matches(&payload));
    assert!(!batch.payload_matches(&payload[..2 * BLOCK]));
    payload[2 * BLOCK + 5] ^= 1;
    assert!(!batch.payload_matches(&payload));
    payload[2 * BLOCK + 5] ^= 1;
    payload.extend([0; BLOCK]);
    assert!(!batch.payload_matches(&payload));
}

#[test]
fn headers_are_as_long_as_they_must_be() {
    for blocks in 1..=MAX_HEADER_BLOCKS {
        let most = max_records_for(blocks);
        assert_eq!(header_blocks_for(most, most), Some(blocks));
        assert_eq!(
            header_blocks_for(most + 1, most + 1),
            (blocks < 16).then_some(blocks + 1)
        );
    }
    let mut builder = BatchBuilder::new();
    let mut count = 0;
    while builder
        .shape_with(Some(&samples::write(count, 1, count + 1)))
        .is_some()
    {
        builder.push(samples::write(count, 1, count + 1));
        count += 1;
    }
    assert_eq!(count as usize, max_records_for(MAX_HEADER_BLOCKS));
    let batch = builder.finish(9, 0, 8, 1, HeaderHash::default());
    let (bytes, _) = batch.encode(&KEY);
    assert_eq!(bytes.len(), MAX_HEADER_BLOCKS * BLOCK);
}

#[test]
fn a_generation_lies_in_its_slot() {
    let g = samples::superblock().geometry;
    assert_ne!(g.anchor_slot(4), g.anchor_slot(5));
    assert_eq!(g.anchor_slot(4), g.anchor_slot(6));
    assert_eq!(g.delta_page(3), g.delta_page(3 + g.delta_pages()));
    let mut places = std::collections::BTreeSet::new();
    let mut all = 0;
    for generation in 0..2 {
        let pages = (0..8).map(|n| g.replica_slot(n, generation.into()));
        let pages = pages.chain((0..g.map_pages()).map(|n| g.map_slot(n, generation)));
        let pages = pages.chain((0..g.checksum_pages()).map(|n| g.checksum_slot(n, generation)));
        let pages = pages.chain((0..g.directory_pages()).map(|n| g.directory_slot(n, generation)));
        for place in pages.chain([
            g.anchor_slot(generation.into()),
            Geometry::superblock_slot(generation),
        ]) {
            places.insert(place);
            all += 1;
        }
    }
    places.extend((0..g.delta_pages()).map(|n| g.delta_page(n)));
    assert_eq!(
        places.len(),
        all + g.delta_pages() as usize,
        "no two pages share a place"
    );
    assert!(places.last() < Some(&g.ring.offset));
}

#[test]
fn devices_too_small_are_refused_with_words() {
    let refuse = |change: fn(&mut FormatOptions)| {
        let mut options = samples::options();
        change(&mut options);
        Geometry::compute(&options).expect_err("refused")
    };
    assert!(matches!(
        refuse(|o| o.device_bytes = 700 << 10),
        GeometryError::TooSmall { .. }
    ));
    assert!(matches!(
        refuse(|o| o.device_bytes = 0),
        GeometryError::TooSmall { .. }
    ));
    assert!(matches!(
        refuse(|o| o.ring_bytes = 100),
        GeometryError::Option { .. }
    ));
    assert!(matches!(
        refuse(|o| o.delta_bytes = u64::MAX),
        GeometryError::Option { .. }
    ));
    assert!(matches!(
        refuse(|o| o.max_replicas = 0),
        GeometryError::Option { .. }
    ));
    assert!(matches!(
        refuse(|o| o.window_bytes = 1),
        GeometryError::Option { .. }
    ));
    assert!(matches!(
        refuse(|o| o.max_replicas = 9),
        GeometryError::Windows { .. }
    ));
}

fn any_stamp() -> impl Strategy<Value = Stamp> {
    (any::<u64>(), any::<u64>()).prop_map(|(e, s)| Stamp::new(Epoch(e), Sequence(s)))
}

fn any_delta() -> impl Strategy<Value = Delta> {
    let s = || any::<u64>().prop_map(Sequence);
    prop_oneof![
        (any::<u32>(), 0u8..64, any::<u32>(), s()).prop_map(|(extent, block, stored, sequence)| {
            Delta::BlockWritten {
                extent,
                block,
                stored,
                sequence,
            }
        }),
        (any::<u32>(), 1u32.., any::<u32>(), s(), s()).prop_map(
            |(extent, owner, index, birth, sequence)| {
                Delta::Mapped {
                    extent,
                    owner,
                    index,
                    birth,
                    sequence,
                }
            }
        ),
        any::<u32>().prop_map(|extent| Delta::Freed { extent }),
        (any::<u32>(), any::<u64>(), s()).prop_map(|(extent, bitmap, sequence)| Delta::Valid {
            extent,
            bitmap,
            sequence
        }),
    ]
}

fn any_descriptor() -> impl Strategy<Value = Descriptor> {
    let range = (0u64..1 << 20, 0u64..64, 1u32..65);
    (
        any::<u32>(),
        0u8..6,
        range,
        any_stamp(),
        any_stamp(),
        any::<u32>(),
        any::<u64>(),
    )
        .prop_map(
            |(slot, case, (extent, block, count), stamp, floor, number, argument)| {
                let inside = BlockRange::new(extent * 64 + block, count.min(64 - block as u32));
                let base = Descriptor {
                    slot,
                    kind: RecordKind::Write,
                    flags: RecordFlags::NONE,
                    range: inside,
                    stamp,
                    floor,
                    extent: 0,
                    argument: 0,
                    checksums: (0..inside.count)
                        .map(|n| number.wrapping_mul(n + 1))
                        .collect(),
                };
                let bare = Descriptor {
                    kind: RecordKind::Nothing,
                    checksums: Checksums::none(),
                    ..base.clone()
                };
                match case {
                    0 => base,
                    1 => Descriptor {
                        flags: RecordFlags::COPY.with(RecordFlags::COPY_FORWARD),
                        argument,
                        ..base
                    },
                    2 => Descriptor {
                        flags: RecordFlags::DIRECT,
                        extent: number,
                        range: BlockRange::of_extent(extent as u32),
                        checksums: (0..64).map(|n| number.rotate_left(n)).collect(),
                        ..base
                    },
                    3 => Descriptor {
                        kind: RecordKind::Discard,
                        ..bare
                    },
                    4 => Descriptor {
                        flags: RecordFlags::VOID,
                        argument,
                        ..bare
                    },
                    _ => Descriptor {
                        flags: RecordFlags::FLOOR_ONLY,
                        ..bare
                    },
                }
            },
        )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_batch_is_read_back(
        records in proptest::collection::vec(any_descriptor(), 0..60),
        number in 1u64..,
        lap: u64,
        back in 1u64..50,
        previous: [u8; 16],
        key: [u8; 16],
    ) {
        let mut builder = BatchBuilder::new();
        let records: Vec<_> = records
            .into_iter()
            .filter(|record| {
                let fits = builder.shape_with(Some(record)).is_some();
                if fits {
                    builder.push(record.clone());
                }
                fits
            })
            .collect();
        let shape = builder.shape_with(None).expect("it fits");
        let batch = builder.finish(number, lap, number.saturating_sub(back), number, HeaderHash(previous));
        let (bytes, hash) = batch.encode(&PoolKey(key));
        prop_assert_eq!(Batch::peek(&bytes[..4096]), Ok(shape));
        let parsed = Batch::decode(&bytes, &PoolKey(key)).expect("readable");
        prop_assert_eq!(&parsed.batch.records, &records);
        prop_assert_eq!(parsed, ParsedBatch { batch, hash, shape });
    }

    #[test]
    fn any_delta_page_is_read_back(number in 1u64.., deltas in proptest::collection::vec(any_delta(), 0..=126)) {
        let page = DeltaPage { number, deltas };
        prop_assert_eq!(DeltaPage::decode(&page.encode(&KEY), &KEY), Ok(page));
    }

    #[test]
    fn arbitrary_bytes_never_panic_nor_pass(bytes in proptest::collection::vec(any::<u8>(), 0..9000)) {
        for sample in samples::all() {
            prop_assert!((sample.read)(&bytes).is_err());
        }
        let _ = Batch::peek(&bytes);
    }

    /// Also where a keyed hash or a checksum was made right again.
    #[test]
    fn mutated_bytes_never_panic(
        which in 0usize..13,
        changes in proptest::collection::vec((0usize..4096, any::<u8>()), 1..20),
    ) {
        let sample = samples::all().swap_remove(which);
        let mut bytes = sample.bytes.clone();
        for (at, value) in changes {
            bytes[at] = value;
        }
        if bytes != sample.bytes {
            prop_assert!((sample.read)(&bytes).is_err());
        }
        let mut bytes = resealed(&bytes, 4, 1);
        let _ = (sample.read)(&bytes);
        if sample.name.starts_with("batch") {
            bytes[112..128].fill(0);
            let mac = siphasher::sip128::SipHasher24::new_with_key(&KEY.0).hash(&bytes).as_bytes();
            bytes[112..128].copy_from_slice(&mac);
            let _ = (sample.read)(&bytes);
        }
    }

    #[test]
    fn what_fits_is_laid_out_and_nothing_is_wasted(
        device in 8u64 << 20..1 << 44,
        ring in 64u64..1 << 18,
        delta in 4u64..1 << 14,
        replicas in 1u32..200,
    ) {
        let options = FormatOptions {
            device_bytes: device,
            ring_bytes: ring * 4096,
            delta_bytes: delta * 4096,
            max_replicas: replicas,
            window_bytes: 4096,
        };
        match Geometry::compute(&options) {
            Ok(geometry) => {
                prop_assert_eq!(geometry.validate(), Ok(()));
                prop_assert!(geometry.data.end() <= device);
                // One more extent needs at most itself and one pair of each kind of page.
                prop_assert!(device - geometry.data.end() < (2 * EXTENT + 8 * BLOCK) as u64);
                let superblock = Superblock { geometry, ..samples::superblock() };
                prop_assert_eq!(Superblock::decode(&superblock.encode()), Ok(superblock));
            }
            Err(GeometryError::TooSmall { needed, .. }) => prop_assert!(needed > device),
            Err(GeometryError::Windows { .. }) => prop_assert!(u64::from(replicas) > ring / 2),
            Err(other) => prop_assert!(false, "{}", other),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn damaged_structures_are_refused_or_others(
        which in any::<prop::sample::Index>(),
        flips in prop::collection::vec((0usize..4096, any::<u8>()), 0..6),
    ) {
        let all = samples::all();
        let mut bytes = all[which.index(all.len())].bytes.clone();
        for (at, value) in flips {
            let at = at % bytes.len();
            bytes[at] = value;
        }
        store_pages::check(&bytes);
    }

    #[test]
    fn noise_is_no_structure(noise in prop::collection::vec(any::<u8>(), 0..300)) {
        store_pages::check(&noise);
    }
}
