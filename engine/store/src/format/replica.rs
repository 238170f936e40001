//! One entry of the replica table: the whole durable state of one replica in one page. Two slots
//! each, alternating.
//!
//! | offset | bytes | field |
//! |---:|---:|---|
//! | 0 | 64 | [page header](super::page), magic `LSre`, number = table slot, generation |
//! | 64 | 1 | state: 0 free (the rest is zero), 1 live, 2 deleted |
//! | 65 | 1 | gap: 0 none, 1 torn, 2 corrupt, 3 suspect (R24) |
//! | 66 | 1 | 1 if sealed off |
//! | 67 | 1 | 1 if there is a cut |
//! | 68 | 2 | epochs in the history |
//! | 70 | 2 | void marks |
//! | 72 | 2 | layers: the head and the frozen ones |
//! | 74 | 6 | zero |
//! | 80 | 16 | replica id |
//! | 96 | 16 | volume id |
//! | 112 | 8 | incarnation |
//! | 120 | 8 | length in blocks |
//! | 128 | 8 | epoch promised (R3) |
//! | 136 | 8 | epoch opened |
//! | 144 | 8 + 8 | floor: epoch, sequence (R11) |
//! | 160 | 8 + 8 | cut: epoch, sequence (R15) |
//! | 176 | 8 | cut: resync number |
//! | 184 | 8 | cut: first sequence shadowed |
//! | 192 | 8 × 32 | layers, head first: owner u32, parent's owner u32 (0 none), cut u64 (0 for the head), lineage u128 |
//! | 448 | 8 × 16 | void marks: above this sequence u64, before this batch u64 |
//! | 576 | 128 × 16 | history, oldest first: epoch, base sequence |
//! | 2624 | 1472 | zero |

use super::page::{PageHeader, PageKind};
use super::{FormatError, PageBytes, PoolKey, Structure};
use lockstep_types::{
    BLOCK, Cut, Epoch, EpochStart, Gap, Incarnation, LineageId, MAX_HISTORY, ReplicaId,
    ReplicaMeta, ResyncNumber, Sequence, Stamp, VolumeId,
};
use zerocopy::little_endian::{U16, U32, U64, U128};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

const KIND: PageKind = PageKind::new(Structure::Replica, b"LSre", 1);
/// Void marks a replica holds at most.
pub const MAX_VOIDS: usize = 8;
/// Layers an entry holds at most, the head among them.
pub const MAX_LAYERS: usize = 8;

/// One entry of the table in one generation.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct ReplicaEntry {
    /// Which entry; its head layer owns extents as [`ReplicaEntry::owner`].
    pub slot: u32,
    /// Rises by one with each write; lies in slot `generation & 1`. 0 as formatted.
    pub generation: u64,
    /// What it holds.
    pub state: EntryState,
}

/// What an entry of the table holds.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum EntryState {
    /// Nothing.
    Free,
    /// A replica.
    Live(Held),
    /// A replica whose extents and records are being freed; the entry is free once none refers to it.
    Deleted(Held),
}

/// A replica as the table keeps it.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Held {
    /// What the protocol decides. Its lineage is the head layer's.
    pub meta: ReplicaMeta,
    /// Layers below the head, youngest first; at most [`MAX_LAYERS`] − 1.
    pub frozen: Vec<Layer>,
    /// Journaled records that no longer count; at most [`MAX_VOIDS`].
    pub voids: Vec<VoidMark>,
}

/// A frozen layer.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Layer {
    /// What map entries call it; never 0.
    pub owner: u32,
    /// Sequences up to this one are the layer's or below (S7).
    pub cut: Sequence,
    /// Seeds the checksums of its blocks.
    pub lineage: LineageId,
}

/// Records above a sequence that lie in batches below a number never count again: they were refuted
/// (R11), or belong to data that a resync replaced.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct VoidMark {
    /// Records with a higher sequence.
    pub above: Sequence,
    /// In batches with a lower number.
    pub before_batch: u64,
}

impl VoidMark {
    /// Whether the record of a sequence in a batch is void.
    pub fn covers(&self, sequence: Sequence, batch: u64) -> bool {
        sequence > self.above && batch < self.before_batch
    }
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct RawLayer {
    owner: U32,
    parent: U32,
    cut: U64,
    lineage: U128,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Raw {
    header: PageHeader,
    state: u8,
    gap: u8,
    sealed_off: u8,
    has_cut: u8,
    history_count: U16,
    void_count: U16,
    layer_count: U16,
    reserved0: [u8; 6],
    replica: U128,
    volume: U128,
    incarnation: U64,
    blocks: U64,
    promised: U64,
    opened: U64,
    floor: [U64; 2],
    cut: [U64; 4],
    layers: [RawLayer; MAX_LAYERS],
    voids: [[U64; 2]; MAX_VOIDS],
    history: [[U64; 2]; MAX_HISTORY],
    reserved1: [u8; 1472],
}
const _: () = assert!(size_of::<Raw>() == BLOCK);
const _: () = assert!(std::mem::offset_of!(Raw, layers) == 192);
const _: () = assert!(std::mem::offset_of!(Raw, history) == 576);

impl ReplicaEntry {
    /// What map entries call the head layer of a table slot.
    pub const fn owner(slot: u32) -> u32 {
        slot + 1
    }

    /// Whose table slot an owner is.
    pub(crate) const fn slot_of(owner: u32) -> u32 {
        owner.wrapping_sub(1)
    }

    /// The slot's bytes.
    ///
    /// # Panics
    /// If a list is longer than its bound, or what was encoded does not decode again.
    pub fn encode(&self, key: &PoolKey) -> PageBytes {
        let page = self.to_page(key);
        let again = Self::decode(&page, key, self.slot);
        assert_eq!(again.as_ref(), Ok(self), "what is written can be read");
        page
    }

    /// Reads a slot of table entry `slot`.
    ///
    /// # Errors
    /// If any byte is not as this version wrote it for this entry of this pool.
    pub fn decode(page: &[u8], key: &PoolKey, slot: u32) -> Result<Self, FormatError> {
        let (header, raw) = KIND.open::<Raw>(page)?;
        KIND.check_pool(header, key.tag())?;
        KIND.check_number(header, slot.into())?;
        let state = match raw.state {
            0 => EntryState::Free,
            1 => EntryState::Live(held_of(raw)?),
            2 => EntryState::Deleted(held_of(raw)?),
            _ => return Err(KIND.field("state")),
        };
        let entry = Self {
            slot,
            generation: header.generation.get(),
            state,
        };
        KIND.check_canonical(page, &entry.to_page(key))?;
        Ok(entry)
    }

    fn to_page(&self, key: &PoolKey) -> PageBytes {
        let mut raw =
            Raw::new_zeroed_page(KIND.header(key.tag(), self.slot.into(), self.generation, 0));
        match &self.state {
            EntryState::Free => {}
            EntryState::Live(held) => {
                raw.state = 1;
                raw.fill(self.slot, held);
            }
            EntryState::Deleted(held) => {
                raw.state = 2;
                raw.fill(self.slot, held);
            }
        }
        KIND.seal(&raw)
    }
}

impl Raw {
    fn new_zeroed_page(header: PageHeader) -> Self {
        let mut raw = Self::read_from_bytes(&[0; BLOCK]).expect("a raw page is one block");
        raw.header = header;
        raw
    }

    fn fill(&mut self, slot: u32, held: &Held) {
        let Held {
            meta,
            frozen,
            voids,
        } = held;
        assert!(frozen.len() < MAX_LAYERS && voids.len() <= MAX_VOIDS);
        assert!(meta.history.len() <= MAX_HISTORY);
        self.gap = match meta.gap {
            Gap::None => 0,
            Gap::Torn => 1,
            Gap::Corrupt => 2,
            Gap::Suspect => 3,
        };
        self.sealed_off = meta.sealed_off.into();
        self.history_count = (meta.history.len() as u16).into();
        self.void_count = (voids.len() as u16).into();
        self.layer_count = (1 + frozen.len() as u16).into();
        self.replica = meta.replica.as_u128().into();
        self.volume = meta.volume.as_u128().into();
        self.incarnation = meta.incarnation.0.into();
        self.blocks = meta.blocks.into();
        self.promised = meta.promised.0.into();
        self.opened = meta.opened.0.into();
        self.floor = raw_stamp(meta.floor);
        if let Some(cut) = meta.cut {
            self.has_cut = 1;
            let [epoch, sequence] = raw_stamp(cut.stamp);
            self.cut = [
                epoch,
                sequence,
                cut.resync.0.into(),
                cut.shadow_from.0.into(),
            ];
        }
        let head = Layer {
            owner: ReplicaEntry::owner(slot),
            cut: Sequence::ZERO,
            lineage: meta.lineage,
        };
        let parents = frozen.iter().map(|layer| layer.owner).chain([0]);
        for ((raw, layer), parent) in self
            .layers
            .iter_mut()
            .zip([head].iter().chain(frozen))
            .zip(parents)
        {
            *raw = RawLayer {
                owner: layer.owner.into(),
                parent: parent.into(),
                cut: layer.cut.0.into(),
                lineage: layer.lineage.as_u128().into(),
            };
        }
        for (raw, void) in self.voids.iter_mut().zip(voids) {
            *raw = [void.above.0.into(), void.before_batch.into()];
        }
        for (raw, start) in self.history.iter_mut().zip(&meta.history) {
            *raw = [start.epoch.0.into(), start.base.0.into()];
        }
    }
}

/// The replica of an entry in use. Flags, parents and what follows each list are compared with what
/// this would encode to, not here.
fn held_of(raw: &Raw) -> Result<Held, FormatError> {
    let gap = match raw.gap {
        0 => Gap::None,
        1 => Gap::Torn,
        2 => Gap::Corrupt,
        3 => Gap::Suspect,
        _ => return Err(KIND.field("gap")),
    };
    let layers = prefix(&raw.layers, raw.layer_count, "layers")?;
    let [head, frozen @ ..] = layers else {
        return Err(KIND.field("layers"));
    };
    if frozen.iter().any(|layer| layer.owner.get() == 0) {
        return Err(KIND.field("layers"));
    }
    let history: Vec<EpochStart> = prefix(&raw.history, raw.history_count, "history")?
        .iter()
        .map(|[epoch, base]| EpochStart {
            epoch: Epoch(epoch.get()),
            base: Sequence(base.get()),
        })
        .collect();
    if history
        .windows(2)
        .any(|w| w[0].epoch >= w[1].epoch || w[0].base > w[1].base)
    {
        return Err(KIND.field("history"));
    }
    let [epoch, sequence, resync, shadow_from] = raw.cut;
    let meta = ReplicaMeta {
        replica: ReplicaId::from_u128(raw.replica.get()),
        volume: VolumeId::from_u128(raw.volume.get()),
        lineage: LineageId::from_u128(head.lineage.get()),
        incarnation: Incarnation(raw.incarnation.get()),
        blocks: raw.blocks.get(),
        promised: Epoch(raw.promised.get()),
        opened: Epoch(raw.opened.get()),
        history,
        floor: stamp_of(raw.floor),
        cut: (raw.has_cut == 1).then(|| Cut {
            stamp: stamp_of([epoch, sequence]),
            resync: ResyncNumber(resync.get()),
            shadow_from: Sequence(shadow_from.get()),
        }),
        gap,
        sealed_off: raw.sealed_off == 1,
    };
    let frozen = frozen
        .iter()
        .map(|layer| Layer {
            owner: layer.owner.get(),
            cut: Sequence(layer.cut.get()),
            lineage: LineageId::from_u128(layer.lineage.get()),
        })
        .collect();
    let voids = prefix(&raw.voids, raw.void_count, "void marks")?
        .iter()
        .map(|[above, before]| VoidMark {
            above: Sequence(above.get()),
            before_batch: before.get(),
        })
        .collect();
    Ok(Held {
        meta,
        frozen,
        voids,
    })
}

fn prefix<'a, T>(list: &'a [T], count: U16, field: &'static str) -> Result<&'a [T], FormatError> {
    list.get(..count.get().into()).ok_or(KIND.field(field))
}

fn raw_stamp(stamp: Stamp) -> [U64; 2] {
    [stamp.epoch.0.into(), stamp.sequence.0.into()]
}

fn stamp_of([epoch, sequence]: [U64; 2]) -> Stamp {
    Stamp::new(Epoch(epoch.get()), Sequence(sequence.get()))
}
