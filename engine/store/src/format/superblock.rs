//! The superblock: written at format, never after (what changes is in the anchor). Two equal copies,
//! at bytes 0 and 4096 of the device.
//!
//! | offset | bytes | field |
//! |---:|---:|---|
//! | 0 | 64 | [page header](super::page), magic `LSsb`, number 0, generation 0 |
//! | 64 | 16 | cluster id |
//! | 80 | 16 | node id |
//! | 96 | 16 | device id |
//! | 112 | 16 | pool key |
//! | 128 | 8 | incarnation of the format (R4) |
//! | 136 | 8 | bytes of the device in use |
//! | 144 | 8 | incompatible features: unknown ones refuse the pool |
//! | 152 | 8 | read-only-compatible features: unknown ones forbid writing |
//! | 160 | 8 | compatible features: unknown ones are ignored |
//! | 168 | 4 | physical extents |
//! | 172 | 4 | most replicas |
//! | 176 | 4 | ring bytes reserved for each replica (S5) |
//! | 180 | 4 | areas listed, 8 |
//! | 184 | 16 × 16 | areas: offset, length; in the order anchors, replicas, directory, delta log, map, checksums, ring, data; the rest zero |
//! | 440 | 3656 | zero |

use super::page::{PageHeader, PageKind};
use super::{FormatError, PageBytes, PoolKey, Structure, Why};
use crate::geometry::{Area, Geometry};
use lockstep_types::{BLOCK, ClusterId, DeviceId, Incarnation, NodeId};
use zerocopy::little_endian::{U32, U64, U128};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

const KIND: PageKind = PageKind::new(Structure::Superblock, b"LSsb", 1);
const AREAS: usize = 8;

/// The three feature words.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Features {
    /// Who does not know one of these may not even read.
    pub incompatible: u64,
    /// Who does not know one of these may read, not write.
    pub read_only_compatible: u64,
    /// Who does not know one of these goes on without.
    pub compatible: u64,
}

impl Features {
    /// What this Lockstep knows. Owners, lineages and holes are part of version 1 itself.
    pub const KNOWN: Self = Self {
        incompatible: 0,
        read_only_compatible: 0,
        compatible: 0,
    };

    /// Whether this Lockstep knows all of them.
    pub const fn all_known(&self) -> bool {
        self.incompatible & !Self::KNOWN.incompatible == 0
            && self.read_only_compatible & !Self::KNOWN.read_only_compatible == 0
            && self.compatible & !Self::KNOWN.compatible == 0
    }
}

/// What the pool is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Superblock {
    /// The cluster.
    pub cluster: ClusterId,
    /// The node that formatted the device.
    pub node: NodeId,
    /// The device.
    pub device: DeviceId,
    /// Authenticates the journal.
    pub key: PoolKey,
    /// The incarnation minted at format: the first life of every replica made here (R4).
    pub incarnation: Incarnation,
    /// What the pool uses.
    pub features: Features,
    /// Where everything lies.
    pub geometry: Geometry,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawArea {
    offset: U64,
    length: U64,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Raw {
    header: PageHeader,
    cluster: U128,
    node: U128,
    device: U128,
    key: [u8; 16],
    incarnation: U64,
    device_bytes: U64,
    incompatible: U64,
    read_only_compatible: U64,
    compatible: U64,
    extents: U32,
    max_replicas: U32,
    window_bytes: U32,
    area_count: U32,
    areas: [RawArea; 16],
    reserved: [u8; 3656],
}
const _: () = assert!(size_of::<Raw>() == BLOCK);
const _: () = assert!(std::mem::offset_of!(Raw, areas) == 184);

impl Superblock {
    /// Whether this Lockstep may only read the pool: it uses features it may read past but not write.
    pub const fn is_read_only(&self) -> bool {
        self.features.read_only_compatible & !Features::KNOWN.read_only_compatible != 0
    }

    /// One copy; the two are equal.
    ///
    /// # Panics
    /// If what was encoded does not decode again: a programmer's error never reaches the disk.
    pub fn encode(&self) -> PageBytes {
        let page = self.to_page();
        assert_eq!(
            Self::decode(&page),
            Ok(*self),
            "what is written can be read"
        );
        page
    }

    /// Reads one copy.
    ///
    /// # Errors
    /// If any byte is not as some Lockstep of this version wrote it, or features are unknown.
    pub fn decode(page: &[u8]) -> Result<Self, FormatError> {
        let (header, raw) = KIND.open::<Raw>(page)?;
        let key = PoolKey(raw.key);
        // Features first: a newer layout may give the bytes behind them another meaning.
        let unknown = raw.incompatible.get() & !Features::KNOWN.incompatible;
        if unknown != 0 {
            return Err(FormatError::new(
                Structure::Superblock,
                Why::Incompatible(unknown),
            ));
        }
        KIND.check_pool(header, key.tag())?;
        let superblock = Self {
            cluster: ClusterId::from_u128(raw.cluster.get()),
            node: NodeId::from_u128(raw.node.get()),
            device: DeviceId::from_u128(raw.device.get()),
            key,
            incarnation: Incarnation(raw.incarnation.get()),
            features: Features {
                incompatible: raw.incompatible.get(),
                read_only_compatible: raw.read_only_compatible.get(),
                compatible: raw.compatible.get(),
            },
            geometry: geometry_of(raw),
        };
        superblock
            .geometry
            .validate()
            .map_err(|_| KIND.field("areas"))?;
        // A newer Lockstep may keep something of its own behind a feature that may be ignored.
        if superblock.features.all_known() {
            KIND.check_canonical(page, &superblock.to_page())?;
        }
        Ok(superblock)
    }

    fn to_page(self) -> PageBytes {
        let geometry = &self.geometry;
        let list = geometry.areas();
        KIND.seal(&Raw {
            header: KIND.header(self.key.tag(), 0, 0, 0),
            cluster: self.cluster.as_u128().into(),
            node: self.node.as_u128().into(),
            device: self.device.as_u128().into(),
            key: self.key.0,
            incarnation: self.incarnation.0.into(),
            device_bytes: geometry.device_bytes.into(),
            incompatible: self.features.incompatible.into(),
            read_only_compatible: self.features.read_only_compatible.into(),
            compatible: self.features.compatible.into(),
            extents: geometry.extents.into(),
            max_replicas: geometry.max_replicas.into(),
            window_bytes: geometry.window_bytes.into(),
            area_count: (AREAS as u32).into(),
            areas: std::array::from_fn(|i| {
                let area = list.get(i).copied().unwrap_or_default();
                RawArea {
                    offset: area.offset.into(),
                    length: area.length.into(),
                }
            }),
            reserved: [0; 3656],
        })
    }
}

fn geometry_of(raw: &Raw) -> Geometry {
    let [
        anchors,
        replicas,
        directory,
        delta,
        map,
        checksums,
        ring,
        data,
    ]: [Area; AREAS] = std::array::from_fn(|i| Area {
        offset: raw.areas[i].offset.get(),
        length: raw.areas[i].length.get(),
    });
    Geometry {
        device_bytes: raw.device_bytes.get(),
        anchors,
        replicas,
        directory,
        delta,
        map,
        checksums,
        ring,
        data,
        extents: raw.extents.get(),
        max_replicas: raw.max_replicas.get(),
        window_bytes: raw.window_bytes.get(),
    }
}
