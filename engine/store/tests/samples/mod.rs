//! One structure of each kind, the same in every run: what the golden files freeze and what the
//! property tests damage.

use lockstep_store::format::*;
use lockstep_store::geometry::{FormatOptions, Geometry};
use lockstep_store::scrub::ScrubPosition;
use lockstep_types::*;

pub const KEY: PoolKey = PoolKey(*b"a key of a pool.");

/// A structure's bytes and its reader, which gives back what it read, written again.
pub struct Sample {
    pub name: &'static str,
    pub bytes: Vec<u8>,
    pub read: fn(&[u8]) -> Result<Vec<u8>, FormatError>,
}

pub fn all() -> Vec<Sample> {
    let read_batch = |b: &[u8]| Batch::decode(b, &KEY).map(|p| p.batch.encode(&KEY).0.to_vec());
    let read_entry = |b: &[u8]| ReplicaEntry::decode(b, &KEY, 3).map(|e| e.encode(&KEY).to_vec());
    vec![
        sample("superblock", superblock().encode(), |b| {
            Superblock::decode(b).map(|s| s.encode().to_vec())
        }),
        sample("anchor", anchor().encode(&KEY), |b| {
            Anchor::decode(b, &KEY).map(|a| a.encode(&KEY).to_vec())
        }),
        sample(
            "replica_free",
            entry(EntryState::Free).encode(&KEY),
            read_entry,
        ),
        sample(
            "replica_live",
            entry(EntryState::Live(held())).encode(&KEY),
            read_entry,
        ),
        sample(
            "replica_deleted",
            entry(EntryState::Deleted(held())).encode(&KEY),
            read_entry,
        ),
        sample(
            "replica_two_layers",
            entry(EntryState::Live(two_layers())).encode(&KEY),
            read_entry,
        ),
        sample(
            "replica_full",
            entry(EntryState::Live(full())).encode(&KEY),
            read_entry,
        ),
        Sample {
            name: "batch",
            bytes: batch().encode(&KEY).0.to_vec(),
            read: read_batch,
        },
        Sample {
            name: "batch_long",
            bytes: long_batch().encode(&KEY).0.to_vec(),
            read: read_batch,
        },
        sample("delta", delta().encode(&KEY), |b| {
            DeltaPage::decode(b, &KEY).map(|p| p.encode(&KEY).to_vec())
        }),
        sample("map_two_layers", map().encode(&KEY), |b| {
            MapPage::decode(b, &KEY, 7, 12).map(|p| p.encode(&KEY).to_vec())
        }),
        sample("checksum", checksum().encode(&KEY), |b| {
            ChecksumPage::decode(b, &KEY, 8, 5).map(|p| p.encode(&KEY).to_vec())
        }),
        sample("directory", directory().encode(&KEY), |b| {
            DirectoryPage::decode(b, &KEY, 1, 9).map(|p| p.encode(&KEY).to_vec())
        }),
    ]
}

fn sample(
    name: &'static str,
    page: PageBytes,
    read: fn(&[u8]) -> Result<Vec<u8>, FormatError>,
) -> Sample {
    Sample {
        name,
        bytes: page.to_vec(),
        read,
    }
}

pub fn options() -> FormatOptions {
    FormatOptions {
        device_bytes: 8 << 20,
        ring_bytes: 256 << 10,
        delta_bytes: 64 << 10,
        max_replicas: 8,
        window_bytes: 16 << 10,
    }
}

pub fn superblock() -> Superblock {
    Superblock {
        cluster: ClusterId::from_u128(0x1111_2222_3333_4444_5555_6666_7777_8888),
        node: NodeId::from_u128(2),
        device: DeviceId::from_u128(3),
        key: KEY,
        incarnation: Incarnation(4),
        features: Features::default(),
        geometry: Geometry::compute(&options()).expect("8 MiB are enough"),
    }
}

pub fn anchor() -> Anchor {
    Anchor {
        generation: 17,
        tail_offset: 20 * 4096,
        tail_number: 1234,
        tail_lap: 3,
        tail_previous: HeaderHash([0xab; 16]),
        mark: 1300,
        delta_tail: 99,
        delta_mark: 101,
        directory_generation: 6,
        clean: true,
        scrub: ScrubPosition {
            round: 2,
            extent: 0x0102_0304,
        },
    }
}

pub fn entry(state: EntryState) -> ReplicaEntry {
    ReplicaEntry {
        slot: 3,
        generation: 42,
        state,
    }
}

pub fn held() -> Held {
    let mut meta = ReplicaMeta::new(
        ReplicaId::from_u128(0xaaaa << 100),
        VolumeId::from_u128(0xbbbb << 90),
        LineageId::from_u128(0xcccc << 80),
        Incarnation(5),
        1 << 20,
    );
    meta.promised = Epoch::new(1, 9);
    meta.opened = Epoch::new(1, 8);
    meta.push_history(EpochStart {
        epoch: Epoch::new(0, 2),
        base: Sequence(0),
    });
    meta.push_history(EpochStart {
        epoch: Epoch::new(1, 8),
        base: Sequence(700),
    });
    meta.floor = Stamp::new(Epoch::new(1, 8), Sequence(777));
    meta.cut = Some(Cut {
        stamp: Stamp::new(Epoch::new(0, 2), Sequence(650)),
        resync: ResyncNumber(12),
        shadow_from: Sequence(701),
    });
    meta.gap = Gap::Torn;
    meta.sealed_off = true;
    let voids = vec![VoidMark {
        above: Sequence(650),
        before_batch: 1200,
    }];
    Held {
        meta,
        frozen: Vec::new(),
        voids,
    }
}

pub fn two_layers() -> Held {
    let frozen = vec![Layer {
        owner: 1 << 20,
        cut: Sequence(600),
        lineage: LineageId::from_u128(0xdddd << 70),
    }];
    Held { frozen, ..held() }
}

pub fn full() -> Held {
    let mut held = held();
    held.meta.history = (1..=MAX_HISTORY as u64)
        .map(|n| EpochStart {
            epoch: Epoch::new(0, n),
            base: Sequence(n * 10),
        })
        .collect();
    held.meta.gap = Gap::Corrupt;
    held.frozen = (1..MAX_LAYERS as u32)
        .map(|n| Layer {
            owner: 500 + n,
            cut: Sequence(900 - u64::from(n)),
            lineage: LineageId::from_u128(n.into()),
        })
        .collect();
    held.voids = (0..MAX_VOIDS as u64)
        .map(|n| VoidMark {
            above: Sequence(n),
            before_batch: 100 + n,
        })
        .collect();
    held
}

pub fn write(start: u64, count: u32, sequence: u64) -> Descriptor {
    Descriptor {
        slot: 3,
        kind: RecordKind::Write,
        flags: RecordFlags::NONE,
        range: BlockRange::new(start, count),
        stamp: Stamp::new(Epoch::new(1, 8), Sequence(sequence)),
        floor: Stamp::new(Epoch::new(1, 8), Sequence(sequence - 1)),
        extent: 0,
        argument: 0,
        checksums: (0..count)
            .map(|n| crc32c::crc32c(&[n as u8 + 1; BLOCK]))
            .collect(),
    }
}

fn finish(builder: BatchBuilder) -> Batch {
    builder.finish(1301, 3, 1300, 1234, HeaderHash([0xcd; 16]))
}

/// One record of every kind and flag.
pub fn batch() -> Batch {
    let plain = write(100, 2, 778);
    let nothing = Descriptor {
        kind: RecordKind::Nothing,
        checksums: Checksums::none(),
        ..plain.clone()
    };
    let mut builder = BatchBuilder::new();
    builder.push(plain.clone());
    builder.push(Descriptor {
        flags: RecordFlags::DIRECT,
        extent: 21,
        ..write(64 * 5, 64, 779)
    });
    builder.push(Descriptor {
        kind: RecordKind::Discard,
        range: BlockRange::new(0, 4096),
        flags: RecordFlags::COPY_FORWARD,
        ..nothing.clone()
    });
    builder.push(Descriptor {
        kind: RecordKind::WriteZeroes,
        range: BlockRange::new(3, 9),
        ..nothing.clone()
    });
    builder.push(Descriptor {
        kind: RecordKind::Resize,
        range: BlockRange::new(MAX_VOLUME_BLOCKS, 1),
        ..nothing.clone()
    });
    builder.push(Descriptor {
        flags: RecordFlags::COPY,
        argument: 12,
        ..write(7, 1, 640)
    });
    builder.push(Descriptor {
        flags: RecordFlags::VOID,
        argument: 1200,
        ..nothing.clone()
    });
    builder.push(Descriptor {
        flags: RecordFlags::FLOOR_ONLY,
        ..nothing
    });
    finish(builder)
}

/// More records than one header block names.
pub fn long_batch() -> Batch {
    let mut builder = BatchBuilder::new();
    for n in 0..max_records_for(1) as u64 + 2 {
        builder.push(write(n, 1, 1000 + n));
    }
    finish(builder)
}

pub fn delta() -> DeltaPage {
    let deltas = vec![
        Delta::Mapped {
            extent: 20,
            owner: 4,
            index: 6,
            birth: Sequence(760),
            sequence: Sequence(770),
        },
        Delta::BlockWritten {
            extent: 20,
            block: 63,
            stored: 0xdead_beef,
            sequence: Sequence(771),
        },
        Delta::Valid {
            extent: 20,
            bitmap: 0x8000_0000_0000_0001,
            sequence: Sequence(772),
        },
        Delta::Freed { extent: 21 },
    ];
    DeltaPage { number: 99, deltas }
}

/// The head layer of slot 3 over a frozen one, both with an extent at the same place.
pub fn map() -> MapPage {
    let mut page = MapPage {
        generation: 12,
        ..MapPage::empty(7)
    };
    page.entries[0] = MapEntry {
        owner: ReplicaEntry::owner(3),
        index: 6,
        valid: 0xf0,
        newest: Sequence(771),
        birth: Sequence(760),
    };
    page.entries[125] = MapEntry {
        owner: 1 << 20,
        index: 6,
        valid: u64::MAX,
        newest: Sequence(500),
        birth: Sequence(1),
    };
    page
}

pub fn checksum() -> ChecksumPage {
    let mut page = ChecksumPage {
        generation: 5,
        ..ChecksumPage::empty(8)
    };
    for (n, sum) in page.sums.iter_mut().flatten().enumerate() {
        *sum = (n as u32).wrapping_mul(0x9e37_79b9);
    }
    page
}

pub fn directory() -> DirectoryPage {
    DirectoryPage {
        page: 1,
        generation: 9,
        generations: (0..500).collect(),
    }
}
